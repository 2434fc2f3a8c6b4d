//! Going on from an earlier model, beside one fit of all trees.

use kilter_stats::Rng;

use super::*;
use crate::matrix::tests::training_set;
use crate::{ClassLink, ClassModel, Matrix, Model, load_classes};

/// Rows of three numbers with holes and a category; a label of 0 and 1, or an amount above 0.
fn rows(count: usize, seed: u64, amounts: bool) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let (a, b, c, kind) = (rng.normal(), rng.normal(), rng.normal(), rng.below(7) as f64);
        let margin = a - 0.5 * b + a * c + 0.3 * (kind - 3.0);
        let label = if amounts { (0.3 * margin + 0.2 * rng.normal()).exp() } else { f64::from(u8::from(rng.normal() < margin)) };
        vec![a, if rng.bernoulli(0.1) { f64::NAN } else { b }, c, kind, label]
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn trees(model: &GbdtModel) -> (f64, Vec<Tree>) {
    let (base, trees) = model.parts();
    (base, trees.to_vec())
}

fn go_on(earlier: &GbdtModel, set: &TrainingSet, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    fit_by(set, parameters, &Course { earlier: Some(earlier), ..Course::default() })
}

#[test]
fn k_trees_and_then_m_are_the_trees_of_one_fit() {
    let base = Gbdt { trees: 14, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() };
    let categorical = vec!["x3".to_string()];
    let ways = [
        base.clone(),
        Gbdt { objective: Objective::SquaredError, ..base.clone() },
        Gbdt { objective: Objective::Quantile { level: 0.7 }, ..base.clone() },
        Gbdt { objective: Objective::Poisson, bagging_fraction: 0.6, column_fraction: 0.7, ..base.clone() },
        Gbdt { categorical, min_group_rows: 20, ..base.clone() },
        Gbdt { monotone: vec![1, 0, 0, 0], scale_positive: 2.0, ..base },
    ];
    for (way, whole) in ways.iter().enumerate() {
        for (count, weighted) in [(700, true), (6_000, false)] {
            let mut set = rows(count, 1, whole.objective != Objective::Binary);
            set.weights = weighted.then(|| (0..count).map(|row| 0.5 + (row % 3) as f64).collect());
            let expected = fit(&set, whole).unwrap();
            assert_eq!(expected.trees(), 14);
            let first = fit(&set, &Gbdt { trees: 5, ..whole.clone() }).unwrap();
            let second = go_on(&first, &set, &Gbdt { trees: 9, ..whole.clone() }).unwrap();
            assert!(trees(&second) == trees(&expected), "way {way}, {count} rows");
            assert_eq!((second.report().earlier_trees, second.report().trees_grown, second.report().best_iteration), (5, 9, 14));
            // A file in between changes nothing.
            let from_file = go_on(&open(&first.to_bytes()).unwrap(), &set, &Gbdt { trees: 9, ..whole.clone() }).unwrap();
            assert!(from_file.to_bytes() == second.to_bytes(), "way {way}, {count} rows");
            assert_eq!(open(&second.to_bytes()).unwrap().report(), second.report());
        }
    }
}

#[test]
fn other_rows_with_other_bins_are_gone_on_with() {
    let old = rows(3_000, 2, true);
    let parameters = Gbdt { objective: Objective::SquaredError, trees: 40, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() };
    let earlier = fit(&old, &parameters).unwrap();
    // Columns on another range, and labels that mean twice as much.
    let mut new = rows(3_000, 3, true);
    let moved = (0..4).map(|c| new.matrix.column(c).iter().map(|x| 0.5 * x + 0.3).collect()).collect();
    new = TrainingSet::new(Matrix::from_columns(new.matrix.names().to_vec(), moved), new.labels.iter().map(|y| 2.0 * y).collect());
    let model = go_on(&earlier, &new, &parameters).unwrap();
    assert!(trees(&model).1[..40] == trees(&earlier).1 && model.trees() == 80 && trees(&model).0 == trees(&earlier).0);
    let error = |model: &GbdtModel| {
        let margins = model.margins(&new.matrix);
        margins.iter().zip(&new.labels).map(|(m, y)| (m - y) * (m - y)).sum::<f64>() / 3_000.0
    };
    let alone = fit(&new, &parameters).unwrap();
    assert!(
        error(&model) < 0.2 * error(&earlier) && error(&model) < 1.4 * error(&alone),
        "{} {} {}",
        error(&model),
        error(&earlier),
        error(&alone)
    );
    // What the added trees learn from is what is left of the earlier model: its margins and theirs add up.
    let added: Vec<f64> = model.margins(&new.matrix).iter().zip(earlier.margins(&new.matrix)).map(|(all, old)| all - old).collect();
    let left = TrainingSet { labels: new.labels.iter().zip(earlier.margins(&new.matrix)).map(|(y, old)| y - old).collect(), ..new.clone() };
    let of_rest = fit(&left, &parameters).unwrap().margins(&new.matrix);
    let apart = added.iter().zip(&of_rest).map(|(a, b)| (a - b).abs()).sum::<f64>() / 3_000.0;
    assert!(apart < 0.15, "{apart}");
}

#[test]
fn watched_rows_start_from_the_earlier_model_too() {
    let (set, later) = (rows(2_000, 4, false), rows(1_000, 5, false));
    let parameters = Gbdt { trees: 8, learning_rate: 0.2, early_stopping: Some(400), ..Gbdt::default() };
    let course = Course { validation: Some(&later), ..Course::default() };
    let first = fit_by(&set, &parameters, &course).unwrap();
    assert_eq!(first.trees(), 8);
    let second = fit_by(&set, &parameters, &Course { earlier: Some(&first), ..course }).unwrap();
    let whole = fit_by(&set, &Gbdt { trees: 16, ..parameters.clone() }, &course).unwrap();
    let both = [&first.report().validation_loss[..], &second.report().validation_loss].concat();
    assert_eq!(both, whole.report().validation_loss);
    // Stops by its own rounds, however many trees were there before.
    let hasty = Gbdt { trees: 300, early_stopping: Some(2), ..parameters };
    let stopped = fit_by(&set, &hasty, &Course { earlier: Some(&whole), ..course }).unwrap();
    let report = stopped.report();
    assert!(report.stopped_early && report.trees_grown + whole.trees() == stopped.trees() + 2 && stopped.trees() > whole.trees());
}

#[test]
fn classes_are_gone_on_with() {
    let mut set = rows(2_500, 6, false);
    set.labels = (0..2_500).map(|row| f64::from(u8::from(set.matrix.value(row, 0) > 0.5)) + set.labels[row]).collect();
    let names: Vec<String> = ["low", "middle", "high"].map(String::from).to_vec();
    for (link, categorical) in [(ClassLink::Softmax, vec!["x3".to_string()]), (ClassLink::Softmax, vec![]), (ClassLink::OneVsAll, vec![])] {
        let whole = Gbdt { trees: 9, learning_rate: 0.1, early_stopping: None, min_group_rows: 20, categorical, ..Gbdt::default() };
        let by = |earlier: Option<&ClassModel>, trees| {
            fit_classes_by(&set, None, &names, link, &Gbdt { trees, ..whole.clone() }, earlier).unwrap()
        };
        let (expected, first) = (by(None, 9), by(None, 4));
        let second = by(Some(&load_classes(&first.to_bytes()).unwrap()), 5);
        for class in 0..3 {
            let of = |model: &ClassModel| trees(&open(&model.member(class).to_bytes()).unwrap());
            assert!(of(&second) == of(&expected), "{link:?}, class {class}");
        }
        let other = fit_classes_by(&set, None, &["a".into(), "b".into(), "c".into()], link, &whole, Some(&first));
        assert!(matches!(other, Err(LearnError::BadParameter { name: "classes", .. })));
    }
}

#[test]
fn what_does_not_fit_the_earlier_model_is_refused() {
    let set = rows(600, 7, false);
    let parameters = Gbdt { trees: 3, early_stopping: None, ..Gbdt::default() };
    let earlier = fit(&set, &parameters).unwrap();
    let name = |set: &TrainingSet, parameters: &Gbdt| match go_on(&earlier, set, parameters) {
        Err(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{:?}", other.map(|model| model.trees())),
    };
    let turned = |order: [usize; 4]| {
        let names = order.map(|c| set.matrix.names()[c].clone()).to_vec();
        let columns = order.map(|c| set.matrix.column(c).to_vec()).to_vec();
        TrainingSet { matrix: Matrix::from_columns(names, columns), ..set.clone() }
    };
    assert!(go_on(&earlier, &turned([0, 1, 2, 3]), &parameters).is_ok());
    assert!(matches!(go_on(&earlier, &turned([1, 0, 2, 3]), &parameters), Err(LearnError::DifferentInputs { .. })));
    assert_eq!(name(&set, &Gbdt { objective: Objective::SquaredError, ..parameters.clone() }), "objective");
    assert_eq!(name(&set, &Gbdt { categorical: vec!["x3".into()], ..parameters.clone() }), "categorical");
    assert_eq!(name(&set, &Gbdt { monotone: vec![-1, 0, 0, 0], ..parameters.clone() }), "monotone");
    // A direction that the earlier trees keep as it is may be declared.
    let directed = Gbdt { monotone: vec![1, 0, 0, 0], ..parameters };
    let earlier = fit(&set, &directed).unwrap();
    assert!(go_on(&earlier, &set, &directed).unwrap().report().certificate.as_ref().is_some_and(|certificate| certificate.trees == 6));
}
