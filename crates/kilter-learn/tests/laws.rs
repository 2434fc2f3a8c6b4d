//! What holds for every learner of the register, whatever it learns.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kilter_learn::calibration::Method;
use kilter_learn::forest::{Target, Thresholds};
use kilter_learn::gbdt::{Course, Growth, MonotoneMethod, Sampling};
use kilter_learn::online::logistic::OnlineLogistic;
use kilter_learn::online::tree::HoeffdingTree;
use kilter_learn::pipeline::{Fill, Scaling, Step};
use kilter_learn::scorecard::Shape;
use kilter_learn::{
    Calibration, Explainable, Forest, Gbdt, Isolation, KMeans, LearnError, Learner, Linear, Logistic, Matrix, Model, Objective, Scorecard,
    TrainingSet, calibrate, explainable, gbdt, isolation, kmeans, linear, load, online, pipeline,
};
use kilter_stats::Rng;

type Fitted = Result<Box<dyn Model>, LearnError>;
type Fit = Box<dyn Fn(&TrainingSet) -> Fitted + Send + Sync>;

/// A learner, and what it is held to.
struct Entry {
    name: String,
    fit: Fit,
    /// Takes 0 and 1 only, and needs both.
    classes: bool,
    /// Looks at labels and weights at all.
    taught: bool,
    /// How far predictions may be apart, on average over rows and as a share of their spread, when rows are turned round or are repeated instead of weighted.
    order: f64,
    repetition: f64,
}

/// Trees round gradients to words at random, by the row's number: another order is another throw of the dice.
const DICE: f64 = 0.08;
/// Cut points and the fewest rows of a leaf go by rows, not by their weight.
const CUTS: f64 = 0.15;
const EXACT: f64 = 1e-6;
/// A step curve may put its steps elsewhere when margins differ in their last digits.
const STEPS: f64 = 1e-4;

fn register() -> Vec<Entry> {
    let mut all = Vec::new();
    let mut add = |name: &str, classes, order, repetition, fit: Fit| {
        all.push(Entry { name: name.into(), fit, classes, taught: true, order, repetition })
    };
    let of = |learner: Learner| -> Fit { Box::new(move |set: &TrainingSet| learner.fit(set)) };
    let trees = Gbdt { trees: 25, leaves: 8, learning_rate: 0.1, early_stopping: None, min_leaf_rows: 30, ..Gbdt::default() };

    add("gbdt", true, DICE, CUTS, of(Learner::Gbdt(trees.clone())));
    let stopped = Gbdt { early_stopping: Some(5), validation_fraction: 0.2, ..trees.clone() };
    add("gbdt, stopped early", true, f64::INFINITY, f64::INFINITY, of(Learner::Gbdt(stopped)));
    let sampled = Gbdt { bagging_fraction: 0.7, column_fraction: 0.6, ..trees.clone() };
    add("gbdt, sampled", true, f64::INFINITY, f64::INFINITY, of(Learner::Gbdt(sampled)));
    for sampling in [Sampling::Mvs, Sampling::Goss] {
        let weighed = Gbdt { bagging_fraction: 0.5, sampling, ..trees.clone() };
        add(&format!("gbdt, {sampling:?}"), true, f64::INFINITY, f64::INFINITY, of(Learner::Gbdt(weighed)));
    }
    let oblivious = Gbdt { growth: Growth::Oblivious, leaves: 16, ..trees.clone() };
    add("gbdt, oblivious", true, DICE, CUTS, of(Learner::Gbdt(oblivious)));
    for objective in [
        Objective::SquaredError,
        Objective::AbsoluteError,
        Objective::Huber { delta: 1.0 },
        Objective::Quantile { level: 0.8 },
        Objective::Poisson,
        Objective::Gamma,
        Objective::Tweedie { power: 1.5 },
    ] {
        let name = format!("gbdt, {objective:?}");
        add(&name, false, DICE, CUTS, of(Learner::Gbdt(Gbdt { objective, ..trees.clone() })));
    }
    let additive = Explainable { bags: 3, rounds: 60, pairs: 3, learning_rate: 0.1, ..Explainable::default() };
    add("explainable", true, f64::INFINITY, f64::INFINITY, of(Learner::Explainable(additive.clone())));
    let target = explainable::Target::Mean;
    add("explainable, of means", false, f64::INFINITY, f64::INFINITY, of(Learner::Explainable(Explainable { target, ..additive })));
    let forest = Forest { trees: 30, ..Forest::default() };
    add("forest", true, f64::INFINITY, f64::INFINITY, of(Learner::Forest(forest.clone())));
    add("forest of means", false, f64::INFINITY, f64::INFINITY, of(Learner::Forest(Forest { target: Target::Mean, ..forest.clone() })));
    // Without chance but for the order of columns, of which each split sees all.
    let whole = Forest { bootstrap: false, columns_per_split: Some(COLUMNS), min_leaf_rows: 1, max_depth: Some(3), ..forest };
    add("forest of all rows", true, EXACT, CUTS, of(Learner::Forest(whole.clone())));
    let extra = Forest { thresholds: Thresholds::Random, ..whole };
    add("extra trees", true, f64::INFINITY, f64::INFINITY, of(Learner::Forest(extra.clone())));
    add("extra trees of means", false, f64::INFINITY, f64::INFINITY, of(Learner::Forest(Forest { target: Target::Mean, ..extra })));
    for (name, max_cat_groups) in [("gbdt, sets of categories", 254), ("gbdt, mean labels of categories", 0)] {
        let parameters = Gbdt { max_cat_groups, ..trees.clone() };
        // The order in which mean labels are taken goes by rows too.
        let (order, repetition) = if max_cat_groups == 0 { (2.0 * DICE, f64::INFINITY) } else { (DICE, CUTS) };
        add(name, true, order, repetition, Box::new(move |set| categorical(set, &parameters)));
    }
    let ranking = Gbdt { objective: Objective::LambdaRank { truncation: 10, normalise: true, sigmoid: 1.0 }, ..trees };
    add("gbdt, ranking", false, f64::INFINITY, f64::INFINITY, Box::new(move |set| ranked(set, &ranking)));
    add("logistic", true, EXACT, EXACT, of(Learner::Logistic(Logistic::default())));
    add("logistic, l1", true, EXACT, EXACT, of(Learner::Logistic(Logistic { l1: 5.0, ..Logistic::default() })));
    add("scorecard", true, EXACT, EXACT, of(Learner::Scorecard(Scorecard::default())));
    let fit: Fit = Box::new(|set| {
        let fill = Step::Impute { columns: Vec::new(), fill: Fill::Median, indicator: true };
        let steps = [fill, Step::Scale { columns: Vec::new(), by: Scaling::Robust }, Step::Quantiles { columns: Vec::new(), bins: 20 }];
        Ok(Box::new(pipeline::fit(set, &steps, |set| Learner::Logistic(Logistic::default()).fit(set))?))
    });
    add("pipeline", true, EXACT, EXACT, fit);
    for l1 in [0.0, 50.0] {
        let parameters = Linear { l1, ..Linear::default() };
        let fit: Fit = Box::new(move |set| Ok(Box::new(linear::fit(set, &parameters)?)));
        add(if l1 == 0.0 { "linear" } else { "linear, l1" }, false, EXACT, EXACT, fit);
    }
    let calibration = Calibration { method: Method::Platt, target_rate: None };
    let fit: Fit = Box::new(move |set| {
        let model = Learner::Forest(Forest { trees: 10, ..Forest::default() }).fit(set)?;
        Ok(Box::new(calibrate(model, set, &calibration)?))
    });
    add("forest, platt", true, f64::INFINITY, f64::INFINITY, fit);
    for (name, method) in Method::ALL {
        // On the rows of the fit, which is no way to judge one but enough to hold it to its laws.
        let calibration = Calibration { method, target_rate: (method == Method::PriorShift).then_some(0.1) };
        let fit: Fit = Box::new(move |set| {
            let model = Learner::Logistic(Logistic::default()).fit(set)?;
            Ok(Box::new(calibrate(model, set, &calibration)?))
        });
        let near = if method == Method::Isotonic { STEPS } else { EXACT };
        add(&format!("logistic, {name}"), true, near, near, fit);
    }
    // They learn in the order of rows, one by one.
    let fit: Fit = Box::new(|set| {
        Ok(Box::new(online::logistic::fit(set, &OnlineLogistic { half_life: Some(2_000.0), ..OnlineLogistic::default() })?))
    });
    add("online logistic", true, f64::INFINITY, f64::INFINITY, fit);
    for (name, delta) in [("hoeffding tree", 1e-5), ("hoeffding tree, hasty", 0.2)] {
        let parameters = HoeffdingTree { delta, tau: if delta > 0.1 { 0.5 } else { 0.05 }, ..HoeffdingTree::default() };
        let fit: Fit = Box::new(move |set| Ok(Box::new(online::tree::fit(set, &parameters)?)));
        add(name, true, f64::INFINITY, f64::INFINITY, fit);
    }
    let fit: Fit = Box::new(|set| {
        let steps =
            [Step::Power { columns: Vec::new() }, Step::Pca { columns: Vec::new(), components: set.matrix.columns(), standardise: true }];
        Ok(Box::new(pipeline::fit(set, &steps, |set| Learner::Logistic(Logistic::default()).fit(set))?))
    });
    add("pipeline of components", true, STEPS, STEPS, fit);
    let fit: Fit = Box::new(|set| Ok(Box::new(kmeans::fit(&set.matrix, None, &KMeans { clusters: 4, ..KMeans::default() })?)));
    all.push(Entry { name: "kmeans".into(), fit, classes: false, taught: false, order: f64::INFINITY, repetition: f64::INFINITY });
    let fit: Fit = Box::new(|set| Ok(Box::new(isolation::fit(&set.matrix, &Isolation::default())?)));
    let name = "isolation".into();
    all.push(Entry { name, fit, classes: false, taught: false, order: f64::INFINITY, repetition: f64::INFINITY });
    all
}

/// Boosted trees to which the fourth column, where there is one, is one of categories; what is none is missing in training.
fn categorical(set: &TrainingSet, parameters: &Gbdt) -> Fitted {
    let names = set.matrix.names().to_vec();
    let is_categorical = |name: &&String| *name == "x3";
    let parameters = Gbdt { categorical: names.iter().filter(is_categorical).cloned().collect(), ..parameters.clone() };
    let clean = |column: usize| {
        let whole = |&value: &f64| if names[column] != "x3" || value.abs() < 1e9 { value } else { f64::NAN };
        set.matrix.column(column).iter().map(whole).collect()
    };
    let columns = (0..names.len()).map(clean).collect();
    let set = TrainingSet { matrix: Matrix::from_columns(names.clone(), columns), ..set.clone() };
    Ok(Box::new(gbdt::fit(&set, &parameters)?))
}

/// Boosted trees that rank queries of ten rows, by labels cut to whole numbers.
fn ranked(set: &TrainingSet, parameters: &Gbdt) -> Fitted {
    let labels = set.labels.iter().map(|label| if label.is_finite() { label.trunc().clamp(-1.0, 4.0) } else { *label }).collect();
    let set = TrainingSet { labels, ..set.clone() };
    let mut queries = vec![10; set.rows() / 10];
    queries.extend(Some(set.rows() % 10).filter(|&rest| rest > 0));
    Ok(Box::new(gbdt::fit_by(&set, parameters, &Course { queries: &queries, ..Course::default() })?))
}

const COLUMNS: usize = 6;

/// Rows whose last two columns say nothing; the second has holes, the fourth few values. Labels are above 0, or 0 and 1.
fn rows(count: usize, seed: u64, classes: bool) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let mut matrix = Matrix::with_columns((0..COLUMNS).map(|c| format!("x{c}")).collect());
    let labels = (0..count)
        .map(|_| {
            let mut row: Vec<f64> = (0..COLUMNS).map(|_| rng.normal()).collect();
            row[3] = row[3].round();
            let margin = row[0] - 0.8 * row[1] + 0.5 * row[0] * row[2] + 0.3 * row[3];
            if rng.bernoulli(0.1) {
                row[1] = f64::NAN;
            }
            matrix.push_row(&row);
            match classes {
                true => f64::from(u8::from(rng.bernoulli(1.0 / (1.0 + (-margin).exp())))),
                false => (0.4 * margin + 0.3 * rng.normal()).exp(),
            }
        })
        .collect();
    TrainingSet::new(matrix, labels)
}

fn predictions(model: &dyn Model, set: &TrainingSet) -> Vec<f64> {
    let mut row = Vec::new();
    (0..set.rows())
        .map(|r| {
            set.matrix.row(r, &mut row);
            if model.link().is_classifier() { model.probability(&row) } else { model.predict(&row) }
        })
        .collect()
}

/// Mean distance, as a share of the spread of the first.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let mean = a.iter().sum::<f64>() / n;
    let spread = (a.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / n / spread
}

/// Runs a check for every entry and says at the end which of them failed.
fn each(check: impl Fn(&Entry)) {
    let failed: Vec<String> = register()
        .iter()
        .filter(|entry| catch_unwind(AssertUnwindSafe(|| check(entry))).is_err())
        .map(|entry| entry.name.clone())
        .collect();
    assert!(failed.is_empty(), "does not hold for: {}", failed.join("; "));
}

#[test]
fn the_register_is_whole() {
    let kinds: std::collections::BTreeSet<String> = register()
        .iter()
        .map(|entry| (entry.fit)(&rows(600, 1, entry.classes)).unwrap_or_else(|e| panic!("{}: {e}", entry.name)).kind().to_string())
        .collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [
            "calibrated",
            "explainable",
            "forest",
            "gbdt",
            "hoeffding_tree",
            "isolation",
            "kmeans",
            "linear",
            "logistic",
            "online_logistic",
            "pipeline",
            "scorecard"
        ]
    );
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    each(|entry| {
        let set = rows(6_000, 2, entry.classes);
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (entry.fit)(&set).unwrap().to_bytes())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(8), "{}", entry.name);
    });
}

#[test]
fn what_is_loaded_is_what_was_saved() {
    each(|entry| {
        let model = (entry.fit)(&rows(1_000, 3, entry.classes)).unwrap();
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!((back.kind(), back.inputs(), back.link()), (model.kind(), model.inputs(), model.link()), "{}", entry.name);
        assert_eq!((back.to_bytes(), back.describe(), back.importance()), (model.to_bytes(), model.describe(), model.importance()));
        let mut unseen = rows(300, 4, entry.classes);
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -0.0] {
            unseen.matrix.push_row(&[odd; COLUMNS]);
        }
        let bits = |model: &dyn Model| model.margins(&unseen.matrix).into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&*back), bits(&*model));
        // One by one, they are the same bits as all at once.
        let mut row = Vec::new();
        for (r, margin) in bits(&*model).into_iter().enumerate() {
            unseen.matrix.row(r, &mut row);
            assert_eq!(model.margin(&row).to_bits(), margin, "{}, row {r}", entry.name);
        }
    });
}

#[test]
fn reasons_add_up_and_nothing_is_infinite() {
    each(|entry| {
        let plain = rows(1_000, 5, entry.classes);
        let mut matrix = Matrix::with_columns(plain.matrix.names().to_vec());
        let mut row = Vec::new();
        for r in 0..plain.rows() {
            plain.matrix.row(r, &mut row);
            if let Some(odd) = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX].get(r % 20) {
                row[r % 20] = *odd;
            }
            matrix.push_row(&row);
        }
        let set = TrainingSet { matrix, ..plain };
        let model = (entry.fit)(&set).unwrap();
        let mut contributions = Vec::new();
        let mut check = |row: &[f64]| {
            let base = model.explain(row, &mut contributions);
            let margin = model.margin(row);
            assert!(margin.is_finite(), "{}: {row:?} has the margin {margin}", entry.name);
            assert!((base + contributions.iter().sum::<f64>() - margin).abs() < 1e-9 * (1.0 + margin.abs()), "{}: {row:?}", entry.name);
        };
        for r in 0..200 {
            set.matrix.row(r, &mut row);
            check(&row);
        }
        check(&[f64::NAN; COLUMNS]);
        check(&[f64::INFINITY; COLUMNS]);
        check(&[f64::NEG_INFINITY; COLUMNS]);
    });
}

#[test]
fn interactions_are_symmetric_and_add_up_to_the_reasons() {
    each(|entry| {
        let set = rows(1_000, 6, entry.classes);
        let model = (entry.fit)(&set).unwrap();
        let (mut row, mut contributions) = (Vec::new(), Vec::new());
        for r in 0..20 {
            set.matrix.row(r, &mut row);
            let Some(pairs) = model.interactions(&row) else { return };
            model.explain(&row, &mut contributions);
            for (input, (parts, contribution)) in pairs.chunks(COLUMNS).zip(&contributions).enumerate() {
                let near = 1e-9 * (1.0 + contribution.abs());
                assert!((parts.iter().sum::<f64>() - contribution).abs() < near, "{}: input {input}", entry.name);
                assert!((0..COLUMNS).all(|other| (parts[other] - pairs[other * COLUMNS + input]).abs() < near), "{}: {input}", entry.name);
            }
        }
    });
}

#[test]
fn rows_may_come_in_any_order() {
    each(|entry| {
        let (set, unseen) = (rows(4_000, 6, entry.classes), rows(1_000, 7, entry.classes));
        let turned: Vec<usize> = (0..set.rows()).rev().collect();
        let turned = TrainingSet::new(set.matrix.select(&turned), turned.iter().map(|&r| set.labels[r]).collect());
        let of = |set| predictions(&*(entry.fit)(set).unwrap(), &unseen);
        let apart = distance(&of(&set), &of(&turned));
        assert!(apart <= entry.order, "{}: {apart}", entry.name);
    });
}

#[test]
fn a_weight_of_two_is_a_row_given_twice() {
    each(|entry| {
        let (set, unseen) = (rows(3_000, 8, entry.classes), rows(1_000, 9, entry.classes));
        let twice: Vec<usize> = (0..set.rows()).flat_map(|r| std::iter::repeat_n(r, if r % 3 == 0 { 2 } else { 1 })).collect();
        let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&r| set.labels[r]).collect());
        let weights = (0..set.rows()).map(|r| if r % 3 == 0 { 2.0 } else { 1.0 }).collect();
        let weighted = TrainingSet { weights: Some(weights), ..set };
        let of = |set| predictions(&*(entry.fit)(set).unwrap(), &unseen);
        let apart = distance(&of(&repeated), &of(&weighted));
        assert!(apart <= entry.repetition, "{}: {apart}", entry.name);
    });
}

#[test]
fn columns_that_tell_nothing_count_for_nothing() {
    each(|entry| {
        let informed = rows(1_000, 10, entry.classes);
        let mut matrix = Matrix::with_columns(vec!["x".into(), "constant".into(), "missing".into()]);
        informed.matrix.column(0).iter().for_each(|x| matrix.push_row(&[*x, 5.0, f64::NAN]));
        let set = TrainingSet::new(matrix, informed.labels);
        let model = (entry.fit)(&set).unwrap();
        let importance = model.importance();
        assert!(importance[0] > 0.0 && importance[1..] == [0.0, 0.0], "{}: {importance:?}", entry.name);
        assert_eq!(model.margin(&[0.5, 5.0, f64::NAN]), model.margin(&[0.5, -1e9, 3.0]), "{}", entry.name);
        // With nothing else, the model is the mean, or whatever its loss takes for the middle.
        let nothing = TrainingSet { matrix: set.matrix.clone(), ..set };
        let mut blank = Matrix::with_columns(vec!["constant".into()]);
        (0..nothing.rows()).for_each(|_| blank.push_row(&[5.0]));
        match (entry.fit)(&TrainingSet { matrix: blank, ..nothing }) {
            Ok(model) => {
                let margin = model.margin(&[5.0]);
                assert!(margin.is_finite() && margin == model.margin(&[f64::NAN]) && margin == model.margin(&[-3.0]), "{}", entry.name);
            }
            Err(e) => assert!(entry.name == "scorecard" && !e.to_string().is_empty(), "{}: {e}", entry.name),
        }
    });
}

#[test]
fn what_cannot_be_learned_from_is_refused_in_words() {
    each(|entry| {
        let good = rows(500, 11, entry.classes);
        let refused = |set: &TrainingSet| (entry.fit)(set).err().unwrap_or_else(|| panic!("{}: taken", entry.name));
        assert_eq!(refused(&good.slice(0..0)), LearnError::NoRows);
        assert_eq!(refused(&TrainingSet::new(Matrix::with_columns(Vec::new()), Vec::new())), LearnError::NoColumns);
        if !entry.taught {
            return;
        }
        let short = TrainingSet { labels: good.labels[1..].to_vec(), ..good.clone() };
        assert!(matches!(refused(&short), LearnError::LengthMismatch { what: "labels", .. }));
        for bad in [f64::NAN, f64::INFINITY] {
            let mut set = good.clone();
            set.labels[3] = bad;
            assert!(matches!(refused(&set), LearnError::BadLabel { row: 3, .. }), "{}", entry.name);
            let mut weights = vec![1.0; 500];
            weights[4] = bad;
            let set = TrainingSet { weights: Some(weights), ..good.clone() };
            assert!(matches!(refused(&set), LearnError::BadWeight { row: 4, .. }), "{}", entry.name);
        }
        let weightless = TrainingSet { weights: Some(vec![0.0; 500]), ..good.clone() };
        assert!(matches!(refused(&weightless), LearnError::BadWeight { .. }), "{}", entry.name);
        if entry.classes {
            for class in [0.0, 1.0] {
                let one = TrainingSet { labels: vec![class; 500], ..good.clone() };
                assert!(matches!(refused(&one), LearnError::OneClass { .. }), "{}", entry.name);
            }
        } else if entry.name != "gbdt, ranking" {
            let one = (entry.fit)(&TrainingSet { labels: vec![2.5; 500], ..good.clone() }).unwrap();
            let found = one.predict(&[0.0; COLUMNS]);
            assert!((found - 2.5).abs() < 1e-6, "{}: {found} of labels that are all 2.5", entry.name);
        }
    });
}

#[test]
fn a_row_of_another_length_is_a_mistake_of_the_caller() {
    each(|entry| {
        let model = (entry.fit)(&rows(500, 12, entry.classes)).unwrap();
        for length in [0, COLUMNS - 1, COLUMNS + 1] {
            assert!(catch_unwind(AssertUnwindSafe(|| model.margin(&vec![0.0; length]))).is_err(), "{}: {length}", entry.name);
        }
    });
}

#[test]
fn a_declared_direction_holds_wherever_one_looks() {
    let set = rows(4_000, 13, true);
    // Against the grain of the data in the second and of no use in the fifth.
    let trees = Gbdt { trees: 60, leaves: 16, early_stopping: None, monotone: vec![1, 1, 0, 1, -1, 0], ..Gbdt::default() };
    let methods = [MonotoneMethod::Basic, MonotoneMethod::Intermediate, MonotoneMethod::Advanced];
    let each = methods.into_iter().flat_map(|method| [Growth::LeafWise, Growth::Oblivious].map(|growth| (method, growth)));
    let fit = |(monotone_method, growth)| -> Box<dyn Model> {
        Box::new(gbdt::fit(&set, &Gbdt { monotone_method, growth, ..trees.clone() }).unwrap())
    };
    let shapes = [("x0", Shape::Increasing), ("x1", Shape::Increasing), ("x3", Shape::Increasing), ("x4", Shape::Decreasing)];
    let card = Scorecard { shapes: shapes.map(|(name, shape)| (name.to_string(), shape)).into(), min_iv: 0.0, ..Scorecard::default() };
    let card = Learner::Scorecard(card).fit(&set).unwrap();
    let additive = Explainable { monotone: vec![1, 1, 0, 1, -1, 0], ..Explainable::default() };
    let additive = Learner::Explainable(additive).fit(&set).unwrap();
    let mut rng = Rng::seeded(14);
    for model in each.map(fit).chain([card, additive]) {
        for _ in 0..20_000 {
            let mut row: Vec<f64> = (0..COLUMNS).map(|_| 2.0 * rng.normal()).collect();
            for (column, direction) in [(0, 1.0), (1, 1.0), (3, 1.0), (4, -1.0)] {
                let before = model.margin(&row);
                let kept = row[column];
                row[column] += rng.normal().abs();
                let after = model.margin(&row);
                assert!((after - before) * direction >= 0.0, "{}, column {column}: {before} then {after} at {row:?}", model.kind());
                row[column] = kept;
            }
        }
    }
}
