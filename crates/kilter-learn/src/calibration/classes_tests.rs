use super::*;
use crate::format::tests::check_damage_is_noticed_by;
use crate::learners::gbdt::{self, Gbdt};
use crate::matrix::tests::training_set;
use crate::{ClassLink, load_classes};
use kilter_stats::Rng;

/// Three classes of unlike size that one column tells a little about, and one a little more.
fn mixed(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let (x, y) = (rng.normal(), rng.normal());
            let noisy = [1.0 + x, y, -0.5 - x].map(|margin| margin - rng.exponential(1.0).ln());
            let label = (1..3).fold(0, |best, class| if noisy[class] > noisy[best] { class } else { best });
            vec![x, y, label as f64]
        })
        .collect();
    training_set(&rows)
}

/// Grown until it believes its own training rows.
fn sure(link: ClassLink, seed: u64) -> ClassModel {
    let parameters = Gbdt { trees: 120, leaves: 15, learning_rate: 0.3, min_leaf_rows: 3, early_stopping: None, ..Gbdt::default() };
    gbdt::fit_classes(&mixed(1_500, seed), &["a", "b", "c"].map(str::to_string), link, &parameters).unwrap()
}

fn quality_on(model: &ClassModel, set: &TrainingSet) -> ClassQuality {
    quality(&model.all_probabilities(&set.matrix), 3, &set.labels, &vec![1.0; set.rows()])
}

#[test]
fn a_model_that_is_too_sure_is_calmed_on_rows_it_has_not_seen() {
    let (rows, test) = (mixed(3_000, 2), mixed(8_000, 3));
    for link in [ClassLink::Softmax, ClassLink::OneVsAll] {
        let before = quality_on(&sure(link, 1), &test);
        for (name, method) in ClassMethod::ALL {
            let calm = calibrate_classes(sure(link, 1), &rows, method).unwrap();
            let after = quality_on(&calm, &test);
            assert!(after.log_loss < 0.9 * before.log_loss && after.brier < before.brier, "{name} {link:?}: {before:?}, {after:?}");
            assert_eq!((calm.calibration(), method.name()), (Some(method), name));
            let told = calm.describe();
            assert_eq!(told["calibration"]["on_rows_it_was_fitted_to"]["rows"], 3_000);
            // What one number for all classes cannot do: what is promised comes true class by class.
            if method == ClassMethod::Temperature {
                continue;
            }
            let probabilities = calm.all_probabilities(&test.matrix);
            for class in 0..3 {
                let promised: f64 = probabilities.iter().skip(class).step_by(3).sum();
                let came = test.labels.iter().filter(|&&label| label == class as f64).count() as f64;
                assert!((promised / came - 1.0).abs() < 0.08, "{name} {link:?}, class {class}: {promised} of {came}");
            }
        }
    }
}

/// The temperature is where a fine search along the line finds the least loss; it turns no order round.
#[test]
fn the_temperature_has_the_least_log_loss_and_keeps_the_order() {
    let rows = mixed(2_000, 4);
    let model = sure(ClassLink::Softmax, 1);
    let raw = model.all_probabilities(&rows.matrix);
    let weights: Vec<f64> = (0..rows.rows()).map(|row| (row % 3) as f64).collect();
    let loss = |factor: f64| {
        let mut bent = raw.clone();
        bent.chunks_exact_mut(3).for_each(|row| Bend::Sharpness(factor).apply(row));
        quality(&bent, 3, &rows.labels, &weights).log_loss
    };
    let found = sharpness(&raw, 3, &rows.labels, &weights);
    let searched = (1..400).map(|step| 0.005 * step as f64).min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap();
    assert!((found - searched).abs() <= 0.005, "{found} {searched}");
    let weighted = TrainingSet { weights: Some(weights), ..rows.clone() };
    let calm = calibrate_classes(model, &weighted, ClassMethod::Temperature).unwrap();
    let told = calm.describe()["calibration"]["curve"]["temperature"].as_f64().unwrap();
    assert!((told * found - 1.0).abs() < 1e-12 && told > 1.5, "{told}");
    for (raw, calm) in raw.chunks(3).zip(calm.all_probabilities(&rows.matrix).chunks(3)) {
        assert!((calm.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((0..3).all(|a| (0..3).all(|b| raw[a] <= raw[b] || calm[a] >= calm[b])), "{raw:?} {calm:?}");
    }
}

/// Each class is bent as a yes or no of its own is, and then all are made to sum to 1.
#[test]
fn one_against_the_rest_is_the_calibration_of_two_classes() {
    let rows = mixed(2_000, 5);
    let model = sure(ClassLink::OneVsAll, 1);
    let raw = model.all_probabilities(&rows.matrix);
    for method in [Method::Platt, Method::Isotonic, Method::Beta] {
        let maps: Vec<Map> = (0..3)
            .map(|class| {
                let margins: Vec<f64> = raw.iter().skip(class).step_by(3).map(|p| logit(*p)).collect();
                let labels: Vec<f64> = rows.labels.iter().map(|&label| if label == class as f64 { 1.0 } else { 0.0 }).collect();
                Map::fit(method, 0.0, &margins, &labels, &vec![1.0; rows.rows()])
            })
            .collect();
        let own = ClassMethod::ALL.into_iter().find(|(name, _)| *name == method.name()).unwrap().1;
        let calm = calibrate_classes(sure(ClassLink::OneVsAll, 1), &rows, own).unwrap();
        let mut row = Vec::new();
        let mut found = Vec::new();
        for (r, raw) in raw.chunks(3).enumerate() {
            rows.matrix.row(r, &mut row);
            calm.probabilities(&row, &mut found);
            let bent: Vec<f64> = raw.iter().zip(&maps).map(|(p, map)| map.probability(logit(*p))).collect();
            let total: f64 = bent.iter().sum();
            assert!(found.iter().zip(&bent).all(|(found, bent)| (found - bent / total).abs() < 1e-12), "{found:?} {bent:?}");
            let likeliest = (1..3).fold(0, |best, class| if found[class] > found[best] { class } else { best });
            assert_eq!(calm.predict(&row), likeliest);
        }
    }
}

#[test]
fn a_calibrated_file_is_read_back_to_the_bit_and_damage_is_noticed() {
    let rows = mixed(400, 6);
    let plain = sure(ClassLink::Softmax, 1).to_bytes();
    assert!(!String::from_utf8_lossy(&plain).contains("\"calibration\""), "a file without one is as it was");
    for (name, method) in ClassMethod::ALL {
        let calm = calibrate_classes(sure(ClassLink::Softmax, 1), &rows, method).unwrap();
        let read = load_classes(&calm.to_bytes()).unwrap();
        assert_eq!((read.to_bytes(), read.describe()), (calm.to_bytes(), calm.describe()), "{name}");
        let bits = |model: &ClassModel| model.all_probabilities(&rows.matrix).into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&calm));
        assert!(matches!(calibrate_classes(read, &rows, method), Err(LearnError::AlreadyCalibrated)));
    }
    let small = Gbdt { trees: 1, leaves: 2, early_stopping: None, ..Gbdt::default() };
    for method in [ClassMethod::Temperature, ClassMethod::Isotonic] {
        let model = gbdt::fit_classes(&rows, &["a", "b", "c"].map(str::to_string), ClassLink::Softmax, &small).unwrap();
        let bytes = calibrate_classes(model, &rows, method).unwrap().to_bytes();
        check_damage_is_noticed_by(&bytes, |bytes| {
            load_classes(bytes).map(|odd| drop((odd.all_probabilities(&rows.matrix.slice(0..1)), odd.describe(), odd.to_bytes())))
        });
    }
}

#[test]
fn rows_that_say_too_little_are_refused() {
    let few = |rows: usize, method| calibrate_classes(sure(ClassLink::Softmax, 1), &mixed(rows, 7), method).err();
    assert!(matches!(few(40, ClassMethod::Temperature), Some(LearnError::TooFewToCalibrate { rows: 40, needed: 50, .. })));
    assert!(matches!(few(150, ClassMethod::Isotonic), Some(LearnError::TooFewToCalibrate { needed: 200, .. })));
    assert!(few(60, ClassMethod::Temperature).is_none());
    let rows = mixed(300, 8);
    let without = TrainingSet { labels: rows.labels.iter().map(|&label| if label == 2.0 { 0.0 } else { label }).collect(), ..rows.clone() };
    let refused = calibrate_classes(sure(ClassLink::Softmax, 1), &without, ClassMethod::Platt).err();
    assert!(matches!(refused, Some(LearnError::TooFewToCalibrate { positives: 0, needed_of_each: 10, .. })), "{refused:?}");
    let odd = TrainingSet { labels: vec![3.0; 300], ..rows };
    assert!(matches!(calibrate_classes(sure(ClassLink::Softmax, 1), &odd, ClassMethod::Platt), Err(LearnError::BadLabel { .. })));
}
