//! Objectives and metrics of one's own, beside the built-in ones.

use kilter_stats::Rng;

use super::*;
use crate::matrix::tests::training_set;
use crate::{Link, Model, load};

/// A built-in objective as if it were the caller's own, with or without the limits that are known of it.
struct Copied {
    of: Objective,
    limits: Option<(f64, f64)>,
}

impl CustomObjective for Copied {
    fn derivatives(&self, rows: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
        for (row, out) in out.iter_mut().enumerate() {
            let (gradient, hessian) = self.of.derivatives(rows.margins[row], rows.labels[row]);
            *out = [rows.weight(row) * gradient, rows.weight(row) * hessian];
        }
        Ok(())
    }

    fn base(&self, labels: &[f64], weights: Option<&[f64]>) -> f64 {
        self.of.base(labels, |row| weights.map_or(1.0, |weights| weights[row]))
    }

    fn limits(&self) -> Option<(f64, f64)> {
        self.limits
    }
}

/// The mean of what it is given of each row.
struct MeanOf<F>(&'static str, bool, F);

impl<F: Fn(f64, f64) -> f64 + Sync> Metric for MeanOf<F> {
    fn measure(&self, rows: Rows<'_>) -> Result<Measured, LearnError> {
        let sum: f64 = rows.margins.iter().zip(rows.labels).map(|(&margin, &label)| (self.2)(margin, label)).sum();
        Ok(Measured { name: self.0.into(), value: sum / rows.labels.len() as f64, higher_is_better: self.1 })
    }
}

fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let (a, b) = (rng.normal(), rng.normal());
        vec![a, b, f64::from(u8::from(rng.normal() < a + a * b))]
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn quick(objective: Objective) -> Gbdt {
    Gbdt { objective, trees: 25, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() }
}

const LOG_ODDS: Objective = Objective::Custom { link: Link::Logit };

fn by(set: &TrainingSet, objective: &dyn CustomObjective, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    fit_by(set, parameters, &Course { objective: Some(objective), ..Course::default() })
}

#[test]
fn a_copy_of_log_loss_with_its_limits_grows_the_same_trees() {
    for (count, weighted) in [(800, false), (9_000, false), (2_000, true)] {
        let mut set = rows(count, 1);
        set.weights = weighted.then(|| (0..count).map(|row| 0.5 + (row % 3) as f64).collect());
        let built_in = fit(&set, &quick(Objective::Binary)).unwrap();
        let copied = by(&set, &Copied { of: Objective::Binary, limits: Some((1.0, 0.25)) }, &quick(LOG_ODDS)).unwrap();
        assert!(copied.parts() == built_in.parts(), "{count} rows");
        // Without limits the words of each tree have the scale of its largest derivative: other roundings, the same accuracy.
        let free = by(&set, &Copied { of: Objective::Binary, limits: None }, &quick(LOG_ODDS)).unwrap();
        let loss = |model: &GbdtModel| {
            let margins = model.margins(&set.matrix);
            margins.iter().zip(&set.labels).map(|(&margin, &label)| Objective::Binary.loss(margin, label)).sum::<f64>() / count as f64
        };
        assert!((loss(&free) - loss(&built_in)).abs() < 3e-3, "{} {}", loss(&free), loss(&built_in));
        let back = load(&copied.to_bytes()).unwrap();
        assert_eq!((back.link(), back.probability(&[0.3, 0.1])), (Link::Logit, built_in.probability(&[0.3, 0.1])));
    }
}

#[test]
fn the_link_is_the_declared_one() {
    let mut set = rows(2_000, 2);
    set.labels.iter_mut().for_each(|label| *label += 0.5);
    for (of, link) in [(Objective::Poisson, Link::Log), (Objective::SquaredError, Link::Identity)] {
        let own = Copied { of, limits: None };
        let model = by(&set, &own, &quick(Objective::Custom { link })).unwrap();
        let built_in = fit(&set, &quick(of)).unwrap();
        let mean =
            |model: &GbdtModel| (0..2_000).map(|row| model.predict(&[set.matrix.value(row, 0), set.matrix.value(row, 1)])).sum::<f64>();
        assert!((mean(&model) / mean(&built_in) - 1.0).abs() < 0.01);
        assert_eq!(load(&model.to_bytes()).unwrap().link(), link);
        let again = refit_by(&model, &set, 0.0, &Course { objective: Some(&own), ..Course::default() }).unwrap();
        assert!(again.parts() == model.parts());
    }
    let probability = quick(Objective::Custom { link: Link::Probability });
    let error = by(&set, &Copied { of: Objective::SquaredError, limits: None }, &probability).err();
    assert!(matches!(error, Some(LearnError::BadParameter { name: "custom.link", .. })));
}

#[test]
fn a_metric_of_ones_own_says_when_to_stop() {
    let (set, later) = (rows(1_000, 3), rows(1_000, 4));
    let parameters = Gbdt { trees: 300, learning_rate: 0.3, early_stopping: Some(8), ..quick(Objective::Binary) };
    let right = |margin: f64, label: f64| f64::from(u8::from((margin > 0.0) == (label > 0.5)));
    let highest = MeanOf("accuracy", true, right);
    let lowest = MeanOf("error", false, |margin, label| 1.0 - right(margin, label));
    let fit_to =
        |metric: &dyn Metric| fit_by(&set, &parameters, &Course { validation: Some(&later), metric: Some(metric), ..Course::default() });
    let (a, b) = (fit_to(&highest).unwrap(), fit_to(&lowest).unwrap());
    assert!(a.parts() == b.parts() && a.report().stopped_early && a.report().validation_loss.is_empty());
    let values = &a.report().metric.as_ref().unwrap().values;
    assert!(values[..a.trees()].iter().all(|value| *value <= values[a.trees() - 1]) && values.len() == a.trees() + 8);
    // The log loss would have stopped elsewhere: what is watched is what decides.
    assert_ne!(fit_by(&set, &parameters, &Course { validation: Some(&later), ..Course::default() }).unwrap().trees(), a.trees());
    let own = Copied { of: Objective::Binary, limits: None };
    let custom = Gbdt { objective: LOG_ODDS, ..parameters.clone() };
    let course = Course { objective: Some(&own), validation: Some(&later), metric: Some(&highest), ..Course::default() };
    assert!(fit_by(&set, &custom, &course).unwrap().report().stopped_early);
    let unwatched = fit_by(&set, &custom, &Course { metric: None, ..course });
    assert!(matches!(unwatched, Err(LearnError::BadParameter { name: "early_stopping", .. })));
    // Without early stopping nothing has to be watched.
    let model = fit_by(&set, &Gbdt { early_stopping: None, trees: 3, ..custom }, &Course { metric: None, ..course }).unwrap();
    assert!(model.trees() == 3 && model.report().metric.is_none() && model.report().validation_loss.is_empty());
}

#[test]
fn what_cannot_be_used_is_refused_and_failures_are_handed_on() {
    struct Says([f64; 2]);
    impl CustomObjective for Says {
        fn derivatives(&self, _: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
            out.fill([0.5, 1.0]);
            out[17] = self.0;
            Ok(())
        }
    }
    struct Fails;
    impl CustomObjective for Fails {
        fn derivatives(&self, _: Rows<'_>, _: &mut [[f64; 2]]) -> Result<(), LearnError> {
            Err(LearnError::Failed { what: "no idea".into() })
        }
    }
    let set = rows(500, 5);
    let parameters = quick(LOG_ODDS);
    for bad in [[f64::NAN, 1.0], [0.0, f64::NAN], [f64::INFINITY, 1.0], [0.0, -1e-9], [1e31, 1.0]] {
        let error = by(&set, &Says(bad), &parameters).err();
        assert!(matches!(error, Some(LearnError::BadDerivative { row: 17, .. })), "{bad:?}: {error:?}");
    }
    assert!(by(&set, &Says([-1e30, 0.0]), &parameters).is_ok());
    assert_eq!(by(&set, &Fails, &parameters).err(), Some(LearnError::Failed { what: "no idea".into() }));
    assert!(matches!(fit(&set, &parameters), Err(LearnError::BadParameter { name: "objective", .. })));
    assert!(matches!(by(&set, &Fails, &quick(Objective::Binary)), Err(LearnError::BadParameter { name: "objective", .. })));
    // Zeros everywhere: nothing is learned, nothing breaks.
    struct Nothing;
    impl CustomObjective for Nothing {
        fn derivatives(&self, _: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
            out.fill([0.0; 2]);
            Ok(())
        }
    }
    assert_eq!(by(&set, &Nothing, &parameters).unwrap().trees(), 0);
    let course = |metric| Course { validation: Some(&set), metric: Some(metric), ..Course::default() };
    let metric = MeanOf("mine", true, |_, _| f64::NAN);
    assert_eq!(fit_by(&set, &quick(Objective::Binary), &course(&metric)).err(), Some(LearnError::NoMetric { name: "mine".into() }));
}
