use super::*;
use crate::format::tests::check_damage_is_noticed_by;
use crate::matrix::tests::training_set;
use crate::{LearnError, load, load_classes};

/// Three classes that lie in rings and sectors of the plane, some values missing, and a category that tells too.
fn flowers(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let (x, y, kind) = (rng.normal(), rng.normal(), rng.below(12) as f64);
            let margins = [2.0 - x * x - y * y, 2.0 * x * y, y + if kind as u32 % 5 == 1 { 2.0 } else { 0.0 }];
            let noisy = margins.map(|margin| 1.5 * margin - rng.exponential(1.0).ln());
            let label = (1..3).fold(0, |best, class| if noisy[class] > noisy[best] { class } else { best });
            vec![x, if rng.bernoulli(0.1) { f64::NAN } else { y }, kind, label as f64]
        })
        .collect();
    training_set(&rows)
}

fn names() -> Vec<String> {
    ["rose", "iris", "pansy"].map(str::to_string).to_vec()
}

fn quick() -> Gbdt {
    Gbdt { trees: 25, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() }
}

const LINKS: [ClassLink; 2] = [ClassLink::Softmax, ClassLink::OneVsAll];

fn log_loss(model: &ClassModel, set: &TrainingSet) -> f64 {
    let probabilities = model.all_probabilities(&set.matrix);
    let own = set.labels.iter().zip(probabilities.chunks(3)).map(|(&label, row)| -row[label as usize].ln());
    own.sum::<f64>() / set.rows() as f64
}

fn accuracy(model: &ClassModel, set: &TrainingSet) -> f64 {
    let mut row = Vec::new();
    let right = (0..set.rows()).filter(|&r| {
        set.matrix.row(r, &mut row);
        model.predict(&row) as f64 == set.labels[r]
    });
    right.count() as f64 / set.rows() as f64
}

#[test]
fn several_classes_are_told_apart_and_probabilities_come_true() {
    let (train, test) = (flowers(8_000, 1), flowers(8_000, 2));
    for link in LINKS {
        let model = fit_classes(&train, &names(), link, &Gbdt { categorical: vec!["x2".into()], ..quick() }).unwrap();
        // The noise allows for about 0.73.
        assert!(
            accuracy(&model, &test) > 0.69 && log_loss(&model, &test) < 0.70,
            "{} {}",
            accuracy(&model, &test),
            log_loss(&model, &test)
        );
        let probabilities = model.all_probabilities(&test.matrix);
        for class in 0..3 {
            let promised: f64 = probabilities.iter().skip(class).step_by(3).sum();
            let came = test.labels.iter().filter(|&&label| label == class as f64).count() as f64;
            assert!((promised / came - 1.0).abs() < 0.05, "{link:?}: {promised} of {came}");
        }
        assert!(model.importance().iter().all(|&gain| gain > 0.0));
    }
}

/// With two classes the softmax of both scores is the sigmoid of their difference, and half the step of each makes the whole.
#[test]
fn two_classes_are_a_yes_or_no() {
    let set = flowers(4_000, 3);
    let two = TrainingSet { labels: set.labels.iter().map(|&label| f64::from(u8::from(label == 1.0))).collect(), ..set };
    let classes = fit_classes(&two, &names()[..2], ClassLink::Softmax, &quick()).unwrap();
    let yes_or_no = super::super::fit(&two, &quick()).unwrap();
    let (several, one) = (classes.all_probabilities(&two.matrix), yes_or_no.probabilities(&two.matrix));
    let apart = several.chunks(2).zip(&one).map(|(row, p)| (row[1] - p).abs()).sum::<f64>() / one.len() as f64;
    assert!(apart < 0.02, "{apart}");
    let against = fit_classes(&two, &names()[..2], ClassLink::OneVsAll, &quick()).unwrap();
    assert_eq!(against.member(1).to_bytes(), yes_or_no.to_bytes());
}

#[test]
fn one_row_many_rows_and_a_loaded_model_say_the_same() {
    let set = flowers(3_000, 4);
    for link in LINKS {
        let parameters = Gbdt { bagging_fraction: 0.7, column_fraction: 0.7, early_stopping: Some(4), ..quick() };
        let model = fit_classes(&set, &names(), link, &parameters).unwrap();
        let back = load_classes(&model.to_bytes()).unwrap();
        assert_eq!(
            (back.to_bytes(), back.describe(), back.classes(), back.link()),
            (model.to_bytes(), model.describe(), model.classes(), link)
        );
        let (margins, probabilities) = (model.all_margins(&set.matrix), model.all_probabilities(&set.matrix));
        let (mut row, mut own, mut contributions) = (Vec::new(), Vec::new(), Vec::new());
        for r in 0..400 {
            set.matrix.row(r, &mut row);
            if r % 9 == 0 {
                row[r % 3] = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN][r % 27 / 9];
            }
            back.margins(&row, &mut own);
            for (class, margin) in own.iter().enumerate() {
                let base = model.explain(&row, class, &mut contributions);
                assert!((base + contributions.iter().sum::<f64>() - margin).abs() < 1e-9);
            }
            assert!(r % 9 == 0 || own[..] == margins[3 * r..][..3]);
            back.probabilities(&row, &mut own);
            assert!(r % 9 == 0 || own[..] == probabilities[3 * r..][..3]);
            assert!((own.iter().sum::<f64>() - 1.0).abs() < 1e-12 && own.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let mut set = flowers(40_000, 5);
    set.weights = Some((0..set.rows()).map(|row| 0.5 + (row % 7) as f64).collect());
    for link in LINKS {
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit_classes(&set, &names(), link, &Gbdt { trees: 3, ..quick() }).unwrap().to_bytes())
        };
        assert!(bytes(1) == bytes(2) && bytes(1) == bytes(5));
    }
}

#[test]
fn early_stopping_keeps_the_best_round_of_all_classes() {
    let set = flowers(3_000, 6);
    let parameters = Gbdt { trees: 300, learning_rate: 0.3, early_stopping: Some(10), validation_fraction: 0.3, ..quick() };
    let model = fit_classes(&set, &names(), ClassLink::Softmax, &parameters).unwrap();
    let description = model.describe();
    let report = &description["members"][0]["report"];
    let losses: Vec<f64> = report["validation_loss"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(report["stopped_early"] == true && losses.len() < 300 && losses[losses.len() - 11] == best);
    assert!((log_loss(&model, &set.slice(2_100..3_000)) - best).abs() < 1e-9);
    let own = fit_classes_with_validation(&set.slice(0..2_100), &set.slice(2_100..3_000), &names(), ClassLink::Softmax, &parameters);
    assert_eq!(own.unwrap().to_bytes(), model.to_bytes());
}

#[test]
fn a_weight_of_two_is_a_row_given_twice() {
    let set = flowers(3_000, 7);
    let twice: Vec<usize> = (0..set.rows()).flat_map(|row| std::iter::repeat_n(row, 1 + row % 2)).collect();
    let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&row| set.labels[row]).collect());
    let weighted = TrainingSet { weights: Some((0..set.rows()).map(|row| 1.0 + (row % 2) as f64).collect()), ..set.clone() };
    let of = |given: &TrainingSet| fit_classes(given, &names(), ClassLink::Softmax, &quick()).unwrap().all_probabilities(&set.matrix);
    let apart = of(&repeated).iter().zip(of(&weighted)).map(|(a, b)| (a - b).abs()).sum::<f64>() / (3 * set.rows()) as f64;
    assert!(apart < 0.03, "{apart}");
}

#[test]
fn what_takes_one_output_refuses_several_in_words() {
    let set = flowers(300, 8);
    let model = fit_classes(&set, &names(), ClassLink::Softmax, &Gbdt { trees: 2, leaves: 3, ..quick() }).unwrap();
    let error = load(&model.to_bytes()).err().unwrap();
    assert!(error == LearnError::SeveralClasses { classes: 3 } && error.to_string().contains("hint"), "{error}");
    let softmax = Gbdt { objective: Objective::Softmax, ..quick() };
    assert!(matches!(super::super::fit(&set, &softmax), Err(LearnError::BadParameter { name: "objective", .. })));
    assert!(matches!(load_classes(&super::super::fit(&two(&set), &quick()).unwrap().to_bytes()), Err(LearnError::UnknownKind { .. })));
    check_damage_is_noticed_by(&model.to_bytes(), |bytes| {
        load_classes(bytes).map(|odd| {
            let row = vec![0.5; odd.inputs().len()];
            let mut out = Vec::new();
            odd.probabilities(&row, &mut out);
            let _ = (odd.explain(&row, 0, &mut out), odd.to_bytes(), odd.describe(), odd.importance());
        })
    });
}

fn two(set: &TrainingSet) -> TrainingSet {
    TrainingSet { labels: set.labels.iter().map(|&label| label.min(1.0)).collect(), ..set.clone() }
}

#[test]
fn nonsense_is_refused_with_its_name() {
    let set = flowers(300, 9);
    let error = |set: &TrainingSet, parameters: Gbdt, classes: usize| {
        let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
        fit_classes(set, &names, ClassLink::Softmax, &parameters).err().unwrap()
    };
    let name = |parameters| match error(&set, parameters, 3) {
        LearnError::BadParameter { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(name(Gbdt { monotone: vec![1, 0, 0], ..quick() }), "monotone");
    assert_eq!(name(Gbdt { scale_positive: 2.0, ..quick() }), "scale_positive");
    assert_eq!(name(Gbdt { objective: Objective::Poisson, ..quick() }), "objective");
    assert_eq!(name(Gbdt { trees: 0, ..quick() }), "trees");
    assert!(matches!(error(&set, quick(), 2), LearnError::BadLabel { value: 2.0, .. }));
    assert!(matches!(error(&set, quick(), 1), LearnError::BadParameter { name: "classes", .. }));
    assert_eq!(error(&set, quick(), 4), LearnError::EmptyClass { class: "3".into(), rows: 300 });
    let half = TrainingSet { labels: set.labels.iter().map(|label| label * 0.5).collect(), ..set.clone() };
    assert!(matches!(error(&half, quick(), 3), LearnError::BadLabel { value: 0.5, .. }));
    assert_eq!(error(&set.slice(0..0), quick(), 3), LearnError::NoRows);
}
