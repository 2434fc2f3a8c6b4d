use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::learners::Learner;
use crate::logistic::{self, Logistic};
use crate::matrix::tests::training_set;
use crate::{Gbdt, load};
use kilter_stats::Rng;

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| name.to_string()).collect()
}

fn learn(set: &TrainingSet) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(logistic::fit(set, &Logistic::default())?))
}

/// What a step makes of rows, written as the values of each new column.
fn check(step: Step, rows: &[Vec<f64>], expected: &[(&str, &[f64])]) {
    let set = training_set(rows);
    let (layer, matrix) = step.fit(&set).unwrap();
    assert_eq!(matrix.names(), expected.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    for (at, (name, values)) in expected.iter().enumerate() {
        let near = |(a, b): (&f64, &f64)| (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-12;
        assert!(matrix.column(at).iter().zip(*values).all(near), "{name}: {:?}", matrix.column(at));
    }
    // One row at a time it is the same, but for the step that treats training rows in a way of their own.
    let (mut row, mut made) = (Vec::new(), Vec::new());
    for r in (0..rows.len()).filter(|_| !matches!(step, Step::Target { .. })) {
        set.matrix.row(r, &mut row);
        layer.row(&row, &mut made);
        assert!(made.iter().enumerate().all(|(at, value)| value.to_bits() == matrix.value(r, at).to_bits()));
    }
}

const NAN: f64 = f64::NAN;

#[test]
fn each_step_makes_what_it_says() {
    let rows = [vec![1.0, 10.0, 0.0], vec![2.0, NAN, 1.0], vec![3.0, 10.0, 0.0], vec![6.0, 40.0, 1.0], vec![NAN, f64::INFINITY, 1.0]];
    let x1 = [10.0, NAN, 10.0, 40.0, f64::INFINITY];
    check(Step::Select { columns: names(&["x1"]) }, &rows, &[("x1", &x1[..4])]);
    check(
        Step::Impute { columns: names(&["x0"]), fill: Fill::Mean, indicator: true },
        &rows,
        &[("x0", &[1.0, 2.0, 3.0, 6.0, 3.0]), ("x1", &x1[..4]), ("x0:missing", &[0.0, 0.0, 0.0, 0.0, 1.0])],
    );
    check(
        Step::Impute { columns: vec![], fill: Fill::Median, indicator: false },
        &rows,
        &[("x0", &[1.0, 2.0, 3.0, 6.0, 2.0]), ("x1", &[10.0, 10.0, 10.0, 40.0, 10.0])],
    );
    check(
        Step::Impute { columns: names(&["x1"]), fill: Fill::Constant(-1.0), indicator: false },
        &rows,
        &[("x0", &[1.0, 2.0, 3.0, 6.0, NAN]), ("x1", &[10.0, -1.0, 10.0, 40.0, -1.0])],
    );
    let s = libm::sqrt(3.5);
    check(
        Step::Scale { columns: names(&["x0"]), by: Scaling::Standard },
        &rows,
        &[("x0", &[-2.0 / s, -1.0 / s, 0.0, 3.0 / s, NAN]), ("x1", &x1[..4])],
    );
    check(Step::Scale { columns: names(&["x0"]), by: Scaling::Robust }, &rows, &[("x0", &[-0.5, 0.0, 0.5, 2.0, NAN]), ("x1", &x1[..4])]);
    check(
        Step::OneHot { columns: names(&["x1"]), most: 1 },
        &rows,
        &[("x0", &[1.0, 2.0, 3.0, 6.0, NAN]), ("x1=10", &[1.0, 0.0, 1.0, 0.0, 0.0])],
    );
    check(Step::Quantiles { columns: names(&["x0"]), bins: 2 }, &rows, &[("x0", &[0.0, 0.0, 1.0, 1.0, NAN]), ("x1", &x1[..4])]);
}

#[test]
fn codes_become_places_shares_and_buckets() {
    let rows = [vec![7.0, 1.0, 0.0], vec![-2.0, 2.0, 1.0], vec![7.0, 3.0, 0.0], vec![NAN, 6.0, 1.0], vec![0.0, NAN, 1.0]];
    let x1 = ("x1", &[1.0, 2.0, 3.0, 6.0, NAN][..]);
    let x0 = names(&["x0"]);
    check(Step::Ordinal { columns: x0.clone() }, &rows, &[("x0", &[2.0, 0.0, 2.0, -1.0, 1.0]), x1]);
    check(Step::Frequency { columns: x0.clone() }, &rows, &[("x0", &[0.4, 0.2, 0.4, 0.2, 0.2]), x1]);
    check(
        Step::Missing { columns: x0.clone() },
        &rows,
        &[("x0", &[7.0, -2.0, 7.0, NAN, 0.0]), x1, ("x0:missing", &[0.0, 0.0, 0.0, 1.0, 0.0])],
    );
    let x1_of = |values: &'static [f64]| [("x0", &[7.0, -2.0, 7.0, NAN, 0.0][..]), ("x1", values)];
    check(Step::Widths { columns: names(&["x1"]), bins: 5 }, &rows, &x1_of(&[0.0, 0.0, 1.0, 4.0, NAN]));
    // Codes that training had not.
    for (step, unseen) in [(Step::Ordinal { columns: x0.clone() }, -1.0), (Step::Frequency { columns: x0.clone() }, 0.0)] {
        let (layer, _) = step.fit(&training_set(&rows)).unwrap();
        assert_eq!(layer.columns[0].map.at(5.0), unseen);
    }
    let (layer, made) = Step::Hash { columns: x0, buckets: 4, seed: 3 }.fit(&training_set(&rows)).unwrap();
    assert_eq!(made.names(), ["x0#0", "x0#1", "x0#2", "x0#3", "x1"]);
    for (code, row) in [(7.0, 0), (-2.0, 1), (7.0, 2), (0.0, 4)] {
        let (bucket, sign) = Hashing { seed: 3, buckets: 4 }.place(&f64::to_le_bytes(code));
        (0..4).for_each(|at| assert_eq!(made.value(row, at), if at == bucket as usize { sign } else { 0.0 }));
    }
    // Both zeros are one code; a missing one falls nowhere.
    (0..4).for_each(|at| assert_eq!((layer.columns[at].map.at(-0.0), layer.columns[at].map.at(NAN)), (layer.columns[at].map.at(0.0), 0.0)));
}

#[test]
fn the_power_transform_is_that_of_scikit_learn() {
    // PowerTransformer(standardize=False) of scikit-learn 1.9.1: exponents -0.32385969 and 1.91939344.
    let skewed = [[0.1, -30.0], [0.5, -8.0], [1.0, -2.0], [2.0, -1.0], [4.0, 0.0], [9.0, 0.5], [20.0, 1.5]];
    let rows: Vec<Vec<f64>> = skewed.iter().map(|row| vec![row[0], row[1], 0.0]).collect();
    let (layer, made) = Step::Power { columns: vec![] }.fit(&training_set(&rows)).unwrap();
    let expected = [
        [0.09385422, 0.37997151, 0.62085648, 0.92442697, 1.25428233, 1.62293977, 1.93581767],
        [-3.95631649, -2.40381493, -1.14872454, -0.71287674, 0.0, 0.61355406, 2.50340352],
    ];
    for (column, values) in expected.iter().enumerate() {
        assert!(made.column(column).iter().zip(values).all(|(a, b)| (a - b).abs() < 2e-6), "{:?}", made.column(column));
    }
    let at = |value: f64| layer.columns[1].map.at(value);
    assert!(at(NAN).is_nan() && at(f64::INFINITY) == f64::INFINITY && at(1e300).is_finite() && at(-f64::MAX).is_finite());
    // A constant is left as it is.
    let (layer, _) = Step::Power { columns: vec![] }.fit(&training_set(&[vec![3.0, 0.0], vec![3.0, 1.0]])).unwrap();
    assert!((layer.columns[0].map.at(8.5) - 8.5).abs() < 1e-12);
}

#[test]
fn a_row_does_not_see_its_own_label() {
    // Two folds by row number; of the other fold's rows with the same code the mean, pulled by one row of the fold's mean.
    let rows = [vec![5.0, 1.0], vec![5.0, 0.0], vec![5.0, 1.0], vec![7.0, 1.0], vec![NAN, 0.0], vec![NAN, 1.0]];
    let odd = 2.0 / 3.0;
    let even = 2.0 / 3.0;
    let expected = [(0.0 + odd) / 2.0, (2.0 + even) / 3.0, (0.0 + odd) / 2.0, even, (1.0 + odd) / 2.0, (0.0 + even) / 2.0];
    check(Step::Target { columns: names(&["x0"]), smoothing: 1.0, folds: 2 }, &rows, &[("x0", &expected)]);
    // A score uses all rows: the mean of the code, of missing values, of all where the code is new.
    let (layer, _) = Step::Target { columns: names(&["x0"]), smoothing: 0.0, folds: 2 }.fit(&training_set(&rows)).unwrap();
    let at = |value: f64| layer.columns[0].map.at(value);
    assert_eq!([at(5.0), at(7.0), at(NAN), at(6.0)], [2.0 / 3.0, 1.0, 0.5, 4.0 / 6.0]);
    // Codes that say nothing: with its own label in it, each row's value would give the label away.
    let mut rng = Rng::seeded(1);
    let noise: Vec<Vec<f64>> = (0..2_000).map(|_| vec![rng.below(1_000) as f64, rng.below(2) as f64]).collect();
    let noise = training_set(&noise);
    let auc = |matrix: &Matrix| crate::metrics::auc(matrix.column(0), &noise.labels);
    let (layer, seen) = Step::Target { columns: names(&["x0"]), smoothing: 1.0, folds: 5 }.fit(&noise).unwrap();
    assert!((0.45..0.55).contains(&auc(&seen)), "{}", auc(&seen));
    assert!(auc(&layer.matrix(&noise.matrix)) > 0.8);
}

/// A code whose effect has no order, a number with holes, and one that says nothing.
fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|_| {
            let (code, x) = (rng.below(12), rng.normal());
            let margin = [1.5, -1.0, 0.3, -2.0][code as usize % 4] + x;
            let label = f64::from(u8::from(rng.bernoulli(crate::math::sigmoid(margin))));
            vec![code as f64, if rng.bernoulli(0.2) { NAN } else { 100.0 + x }, rng.normal(), label]
        })
        .collect();
    training_set(&rows)
}

fn steps() -> Vec<Step> {
    vec![
        Step::Impute { columns: names(&["x1"]), fill: Fill::Median, indicator: true },
        Step::OneHot { columns: names(&["x0"]), most: 20 },
        Step::Scale { columns: vec![], by: Scaling::Standard },
    ]
}

#[test]
fn a_model_with_its_steps_is_one_model() {
    let (set, unseen) = (rows(4_000, 2), rows(2_000, 3));
    let model = fit(&set, &steps(), learn).unwrap();
    let plain = learn(&set).unwrap();
    let auc = |model: &dyn Model| crate::metrics::auc(&model.margins(&unseen.matrix), &unseen.labels);
    assert!(auc(&model) > auc(&*plain) + 0.05, "{} {}", auc(&model), auc(&*plain));
    let back = load(&model.to_bytes()).unwrap();
    assert_eq!((back.kind(), back.to_bytes(), back.describe()), (KIND, model.to_bytes(), model.describe()));
    assert!(back.inputs() == set.matrix.names() && model.model().inputs().len() == 15);
    let (mut row, mut contributions, mut of_model) = (Vec::new(), Vec::new(), Vec::new());
    let explained = model.explanations(&unseen.matrix);
    let margins = model.margins(&unseen.matrix);
    for r in 0..300 {
        unseen.matrix.row(r, &mut row);
        assert_eq!((margins[r].to_bits(), back.margin(&row).to_bits()), (model.margin(&row).to_bits(), margins[r].to_bits()));
        let base = model.explain(&row, &mut contributions);
        assert!((base + contributions.iter().sum::<f64>() - margins[r]).abs() < 1e-9 && contributions.len() == 3);
        contributions.push(base);
        assert!(contributions.iter().zip(&explained[4 * r..]).all(|(a, b)| a.to_bits() == b.to_bits()));
        // The first twelve prepared columns are the first input's.
        let mut prepared = Vec::new();
        model.prepare(&unseen.matrix.slice(r..r + 1)).row(0, &mut prepared);
        model.model().explain(&prepared, &mut of_model);
        assert!((of_model[..12].iter().sum::<f64>() - contributions[0]).abs() < 1e-12);
    }
    let importance = model.importance();
    assert!(importance.len() == 3 && importance[0] > importance[2]);
}

#[test]
fn steps_learn_from_the_training_rows_alone_and_from_their_weights() {
    let set = rows(1_000, 4);
    // Rows of no weight leave no trace, whatever they hold.
    let mut strange = set.clone();
    let mut matrix = Matrix::with_columns(set.matrix.names().to_vec());
    let mut row = Vec::new();
    for r in 0..1_000 {
        set.matrix.row(r, &mut row);
        if r % 2 == 1 {
            row = vec![77.0, 1e9, -1e9];
        }
        matrix.push_row(&row);
    }
    strange.matrix = matrix;
    strange.weights = Some((0..1_000).map(|r| if r % 2 == 1 { 0.0 } else { 1.0 }).collect());
    let even: Vec<usize> = (0..1_000).step_by(2).collect();
    let alone = TrainingSet::new(set.matrix.select(&even), even.iter().map(|&r| set.labels[r]).collect());
    let of = |set: &TrainingSet| fit(set, &steps(), learn).unwrap().margin(&[3.0, 101.0, 0.2]);
    assert!((of(&strange) - of(&alone)).abs() < 1e-9);
}

#[test]
fn any_learner_will_do_and_threads_change_no_byte() {
    let set = rows(3_000, 5);
    let steps =
        [Step::Target { columns: names(&["x0"]), smoothing: 10.0, folds: 5 }, Step::Quantiles { columns: names(&["x1"]), bins: 10 }];
    let gbdt = Learner::Gbdt(Gbdt { trees: 20, early_stopping: None, ..Gbdt::default() });
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&set, &steps, |set| gbdt.fit(set)).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    for odd in [NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -0.0] {
        assert!(load(&bytes(1)).unwrap().margin(&[odd; 3]).is_finite());
    }
}

#[test]
fn damage_is_noticed() {
    let set = rows(200, 6);
    let target = Step::Target { columns: names(&["x2"]), smoothing: 10.0, folds: 2 };
    let few =
        training_set(&(0..200).map(|r| vec![(r % 3) as f64, set.matrix.value(r, 1), (r % 2) as f64, set.labels[r]]).collect::<Vec<_>>());
    check_damage_is_noticed(&fit(&few, &[steps(), vec![target]].concat()[..2], learn).unwrap());
    let target = Step::Target { columns: names(&["x2"]), smoothing: 10.0, folds: 2 };
    check_damage_is_noticed(&fit(&few, &[target, Step::Quantiles { columns: names(&["x1"]), bins: 3 }], learn).unwrap());
    let mixed = [
        Step::Power { columns: names(&["x1"]) },
        Step::Hash { columns: names(&["x0"]), buckets: 2, seed: 1 },
        Step::Pca { columns: vec![], components: 2, standardise: true },
    ];
    check_damage_is_noticed(&fit(&few, &mixed, learn).unwrap());
}

#[test]
fn nonsense_is_refused() {
    let set = rows(100, 7);
    let refused = |step: Step| fit(&set, &[step], learn).err().unwrap();
    assert!(matches!(refused(Step::Select { columns: names(&["x9"]) }), LearnError::UnknownColumn { name, .. } if name == "x9"));
    for (step, expected) in [
        (Step::Select { columns: vec![] }, "select.columns"),
        (Step::Impute { columns: vec![], fill: Fill::Constant(NAN), indicator: false }, "impute.fill"),
        (Step::OneHot { columns: names(&["x0"]), most: 0 }, "one_hot.most"),
        (Step::Target { columns: names(&["x0"]), smoothing: -1.0, folds: 5 }, "target.smoothing"),
        (Step::Target { columns: names(&["x0"]), smoothing: 1.0, folds: 1 }, "target.folds"),
        (Step::Quantiles { columns: vec![], bins: 1 }, "quantiles.bins"),
        (Step::Widths { columns: vec![], bins: 1001 }, "widths.bins"),
        (Step::Hash { columns: vec![], buckets: 0, seed: 0 }, "hash.buckets"),
    ] {
        assert!(matches!(refused(step), LearnError::BadParameter { name, .. } if name == expected), "{expected}");
    }
    let nested = fit(&set, &[], |set| Ok(Box::new(fit(set, &[], learn)?)));
    assert!(matches!(nested.err(), Some(LearnError::BadParameter { name: "learner", .. })));
    // All columns gone: the only one is turned into no codes at all.
    let holes = training_set(&[vec![NAN, 0.0], vec![NAN, 1.0]]);
    assert_eq!(fit(&holes, &[Step::OneHot { columns: names(&["x0"]), most: 3 }], learn).err(), Some(LearnError::NoColumns));
}
