//! What is exported scores what the model scores: read again here, and by LightGBM itself in `crosscheck/models`.

use super::{Format, export, import, open};
use crate::{Gbdt, Learner, Link, Matrix, Model, Objective, TrainingSet, gbdt};

/// Rows in which values are missing, repeated and far out, and labels above 0 that follow from them.
fn rows(count: usize) -> (Matrix, Vec<f64>) {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut columns = vec![Vec::new(); 3];
    let mut labels = Vec::new();
    for _ in 0..count {
        let (a, b, c) = (next() - 0.5, (next() * 5.0).floor(), next() * 1e9);
        labels.push(if a + b / 5.0 > 0.3 { 1.0 } else { f64::from(c > 8e8) });
        columns[0].push(if next() < 0.1 { f64::NAN } else { a });
        columns[1].push(b);
        columns[2].push(if next() < 0.1 { f64::NAN } else { c });
    }
    (Matrix::from_columns(["a", "b_7d", "view.c"].map(str::to_string).to_vec(), columns), labels)
}

#[test]
fn exported_trees_score_to_the_bit_what_they_scored() {
    let (matrix, labels) = rows(2_000);
    for objective in [Objective::Binary, Objective::SquaredError, Objective::Poisson] {
        let parameters = Gbdt { objective, trees: 25, leaves: 13, early_stopping: None, ..Gbdt::default() };
        let labels = labels.iter().map(|y| y + f64::from(u8::from(objective != Objective::Binary))).collect();
        let model = gbdt::fit(&TrainingSet::new(matrix.clone(), labels), &parameters).unwrap();
        let text = export(&model.to_bytes(), Format::LightGbm).unwrap();
        let again = import(&text).unwrap();
        assert_eq!((again.inputs(), again.link(), again.trees()), (model.inputs(), model.link(), 26));
        let (mut row, odd) = (Vec::new(), [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 4.0, 1e300]);
        for at in 0..matrix.rows() {
            matrix.row(at, &mut row);
            row[at % 3] = if at % 5 == 0 { odd[at % 7] } else { row[at % 3] };
            assert_eq!(again.margin(&row).to_bits(), model.margin(&row).to_bits(), "{objective:?}: {row:?}");
            assert!((again.predict(&row) - model.predict(&row)).abs() <= 1e-15 * model.predict(&row).abs());
        }
        assert_eq!(open(&text).unwrap().kind(), "lightgbm");
        assert_eq!(open(&model.to_bytes()).unwrap().link(), objective.link());
    }
    assert_eq!(Objective::Binary.link(), Link::Logit);
}

#[test]
fn a_tree_of_one_leaf_is_exported() {
    let (matrix, labels) = rows(100);
    let parameters = Gbdt { trees: 3, min_leaf_rows: 90, early_stopping: None, ..Gbdt::default() };
    let model = gbdt::fit(&TrainingSet::new(matrix, labels), &parameters).unwrap();
    let again = import(&export(&model.to_bytes(), Format::LightGbm).unwrap()).unwrap();
    assert_eq!(again.margin(&[0.0; 3]).to_bits(), model.margin(&[0.0; 3]).to_bits());
}

#[test]
fn what_cannot_be_exported_is_told() {
    let (matrix, labels) = rows(300);
    let check = |file: &[u8], format, parts: &[&str]| {
        let told = export(file, format).err().map(|error| error.to_string()).unwrap_or_default();
        parts.iter().for_each(|part| assert!(told.contains(part), "`{part}` is not in: {told}"));
    };
    let linear = Learner::Logistic(Default::default()).fit(&TrainingSet::new(matrix.clone(), labels.clone())).unwrap().to_bytes();
    check(&linear, Format::LightGbm, &["\"logistic\"", "gbdt"]);
    check(&linear, Format::XgBoostJson, &["xgboost-json", "lightgbm"]);
    check(b"tree\n", Format::LightGbm, &["not a Kilter model"]);
    let columns = (0..3).map(|at| matrix.column(at).to_vec()).collect();
    let spaced = Matrix::from_columns(["a", "b c", "d"].map(str::to_string).to_vec(), columns);
    let model = gbdt::fit(&TrainingSet::new(spaced, labels), &Gbdt { trees: 2, early_stopping: None, ..Gbdt::default() }).unwrap();
    check(&model.to_bytes(), Format::LightGbm, &["\"b c\"", "blanks"]);
}
