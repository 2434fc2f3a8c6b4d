//! What trees learn under each objective, beside what a plain look at the labels says.

use kilter_stats::Rng;

use super::objective::quantile;
use super::*;
use crate::matrix::tests::training_set;
use crate::{Link, Model, load};

const REGRESSIONS: [Objective; 7] = [
    Objective::SquaredError,
    Objective::AbsoluteError,
    Objective::Huber { delta: 1.0 },
    Objective::Quantile { level: 0.9 },
    Objective::Poisson,
    Objective::Gamma,
    Objective::Tweedie { power: 1.5 },
];

fn quick(objective: Objective) -> Gbdt {
    Gbdt { objective, trees: 60, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() }
}

/// Amounts whose mean is 1, 4 or 16 by the first column's third, exponentially distributed; the second column says nothing.
fn amounts(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let x = 3.0 * rng.uniform();
        vec![x, rng.uniform(), 1e-9 + rng.exponential(1.0) * 4f64.powf(x.floor())]
    };
    training_set(&(0..rows).map(row).collect::<Vec<_>>())
}

/// What each objective is about, of the labels of one third: mean, median or quantile.
fn truth(objective: Objective, set: &TrainingSet, third: usize) -> f64 {
    let labels: Vec<f64> = (0..set.rows()).filter(|&i| set.matrix.value(i, 0) as usize == third).map(|i| set.labels[i]).collect();
    let of_level = |level| quantile(labels.iter().map(|&label| (label, 1.0)).collect(), level);
    match objective {
        Objective::AbsoluteError => of_level(0.5),
        Objective::Quantile { level } => of_level(level),
        _ => labels.iter().sum::<f64>() / labels.len() as f64,
    }
}

#[test]
fn predicts_what_the_objective_is_about() {
    let set = amounts(6000, 1);
    for objective in REGRESSIONS {
        let model = fit(&set, &Gbdt { min_leaf_rows: 200, ..quick(objective) }).unwrap();
        if matches!(objective, Objective::Huber { .. }) {
            continue; // Between mean and median; its minimum is tested below.
        }
        for third in 0..3 {
            // Single predictions scatter around the truth; those of all its rows together do not.
            let rows = (0..set.rows()).filter(|&row| set.matrix.value(row, 0) as usize == third);
            let predictions: Vec<f64> = rows.map(|row| model.predict(&[set.matrix.value(row, 0), set.matrix.value(row, 1)])).collect();
            let (found, expected) = (predictions.iter().sum::<f64>() / predictions.len() as f64, truth(objective, &set, third));
            assert!((found / expected - 1.0).abs() < 0.1, "{objective:?}, third {third}: {found} for {expected}");
        }
        let mut contributions = Vec::new();
        let base = model.explain(&[1.5, 0.5], &mut contributions);
        assert!((base + contributions.iter().sum::<f64>() - model.margin(&[1.5, 0.5])).abs() < 1e-9);
        let back = load(&model.to_bytes()).unwrap();
        assert_eq!((back.link(), back.predict(&[1.5, 0.5]).to_bits()), (objective.link(), model.predict(&[1.5, 0.5]).to_bits()));
    }
}

#[test]
fn one_whole_step_is_the_leafs_own_optimum() {
    // Two leaves, learning rate 1, no penalty: each leaf must hold the optimum of its rows' loss, found here on a grid.
    let set = training_set(
        &(0..80).map(|i| vec![f64::from(i / 40), 0.5 + f64::from(i * 37 % 41) * f64::from(1 + 9 * (i / 40))]).collect::<Vec<_>>(),
    );
    for mut objective in REGRESSIONS {
        let huber = matches!(objective, Objective::Huber { .. });
        if let Objective::Huber { delta } = &mut objective {
            *delta = 50.0;
        }
        let trees = if huber { 400 } else { 1 };
        let parameters =
            Gbdt { trees, leaves: 2, learning_rate: 1.0, lambda_l2: 0.0, min_child_hessian: 0.0, min_gain: 0.0, ..quick(objective) };
        // Squared error of a residual is met in one Newton step, a Huber loss in several.
        let model = fit(&set, &parameters).unwrap();
        for side in 0..2 {
            let labels = &set.labels[side * 40..][..40];
            let loss = |margin: f64| labels.iter().map(|&label| objective.loss(margin, label)).sum::<f64>();
            let margin = model.margin(&[side as f64]);
            let best = (-4_000..=450_000).map(|i| loss(f64::from(i) * 1e-3)).fold(f64::INFINITY, f64::min);
            assert!(loss(margin) <= best * (1.0 + 1e-6) + 1e-9, "{objective:?}, side {side}: {} at {margin}, best {best}", loss(margin));
        }
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let mut set = amounts(40_000, 2);
    let mut rng = Rng::seeded(3);
    set.weights = Some((0..set.rows()).map(|_| rng.exponential(1.0)).collect());
    for objective in REGRESSIONS {
        let parameters = Gbdt { trees: 4, early_stopping: Some(3), bagging_fraction: 0.8, ..quick(objective) };
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &parameters).unwrap().to_bytes())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(8), "{objective:?}");
    }
}

#[test]
fn a_soft_label_is_some_of_both() {
    // Rows of label 0.25 against the same rows twice: once as a one of weight 0.25, once as a zero of weight 0.75.
    let mut rng = Rng::seeded(4);
    let xs: Vec<f64> = (0..4000).map(|_| rng.uniform()).collect();
    let label = |x: f64| if x < 0.4 { 0.25 } else { 0.8 };
    let soft = training_set(&xs.iter().map(|&x| vec![x, label(x)]).collect::<Vec<_>>());
    let mut hard = training_set(&xs.iter().flat_map(|&x| [vec![x, 1.0], vec![x, 0.0]]).collect::<Vec<_>>());
    hard.weights = Some(xs.iter().flat_map(|&x| [label(x), 1.0 - label(x)]).collect());
    let (soft, hard) = (fit(&soft, &quick(Objective::Binary)).unwrap(), fit(&hard, &quick(Objective::Binary)).unwrap());
    for x in [0.1, 0.3, 0.5, 0.9] {
        assert!((soft.probability(&[x]) - label(x)).abs() < 0.01 && (soft.margin(&[x]) - hard.margin(&[x])).abs() < 0.02, "at {x}");
    }
}

#[test]
fn constraints_hold_under_every_objective() {
    let set = amounts(3000, 5);
    for objective in REGRESSIONS {
        let model = fit(&set, &Gbdt { monotone: vec![-1, 1], min_leaf_rows: 1, ..quick(objective) }).unwrap();
        for other in [0.2, 0.7] {
            let walk: Vec<f64> = (0..300).map(|i| model.margin(&[f64::from(i) * 0.01, other])).collect();
            assert!(walk.windows(2).all(|pair| pair[0] >= pair[1] - 1e-12), "{objective:?}");
        }
    }
}

#[test]
fn what_an_objective_cannot_use_is_refused() {
    let set = amounts(200, 6);
    let with = |objective, label: f64| {
        let mut set = set.clone();
        set.labels[7] = label;
        fit(&set, &quick(objective)).err()
    };
    let refused = |objective, label| matches!(with(objective, label), Some(LearnError::BadLabel { row: 7, .. }));
    assert!(refused(Objective::Poisson, -1.0) && refused(Objective::Tweedie { power: 1.5 }, -0.1) && refused(Objective::Gamma, 0.0));
    assert!(REGRESSIONS.iter().all(|&objective| refused(objective, f64::NAN) && refused(objective, f64::INFINITY)));
    assert!(with(Objective::Poisson, 0.0).is_none() && with(Objective::SquaredError, -3.0).is_none());
    assert!(matches!(fit(&set, &quick(Objective::Binary)).err(), Some(LearnError::BadLabel { .. })));
    let name = |parameters: Gbdt| match fit(&set, &parameters) {
        Err(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{:?}", other.map(|model| model.trees())),
    };
    assert_eq!(name(quick(Objective::Huber { delta: 0.0 })), "huber.delta");
    assert_eq!(name(quick(Objective::Quantile { level: 1.0 })), "quantile.level");
    assert_eq!(name(quick(Objective::Tweedie { power: f64::NAN })), "tweedie.power");
    assert_eq!(name(Gbdt { scale_positive: 2.0, ..quick(Objective::Poisson) }), "scale_positive");
    let zeros = TrainingSet { labels: vec![0.0; 200], ..set.clone() };
    assert_eq!(fit(&zeros, &quick(Objective::Poisson)).err(), Some(LearnError::AllZero { rows: 200 }));
    let weightless = TrainingSet { weights: Some(vec![0.0; 200]), ..set.clone() };
    assert!(matches!(fit(&weightless, &quick(Objective::SquaredError)).err(), Some(LearnError::BadWeight { .. })));
    // Labels without difference are learned by the base alone.
    let level = TrainingSet { labels: vec![5.0; 200], ..set.clone() };
    assert!(REGRESSIONS.iter().all(|&objective| (fit(&level, &quick(objective)).unwrap().predict(&[1.0, 0.5]) - 5.0).abs() < 1e-6));
}

#[test]
#[should_panic(expected = "only a classifier has a probability")]
fn an_amount_is_no_probability() {
    let model = fit(&amounts(200, 7), &quick(Objective::Gamma)).unwrap();
    assert_eq!(model.link(), Link::Log);
    model.probability(&[1.0, 1.0]);
}

#[test]
fn an_objective_is_named_in_a_definition() {
    let named = |json: &str| serde_json::from_str::<Gbdt>(json).unwrap().objective;
    assert_eq!(named(r#"{"objective": "poisson"}"#), Objective::Poisson);
    assert_eq!(named(r#"{"objective": {"quantile": {"level": 0.9}}}"#), Objective::Quantile { level: 0.9 });
    assert!(serde_json::from_str::<Gbdt>(r#"{"objective": "poison"}"#).is_err());
    // The default leaves no word in the definition, so that its hash stays what it was.
    assert!(!serde_json::to_string(&Gbdt::default()).unwrap().contains("objective"));
}
