//! What is exported scores what the model scores: read again here, and by the other programs themselves in `crosscheck/models`.

use super::{Format, export, import, open};
use crate::gbdt::Child;
use crate::scorecard::ReasonsFrom;
use crate::{Gbdt, Learner, Link, Matrix, Model, Objective, Scorecard, TrainingSet, gbdt, scorecard};

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

/// XGBoost's sum of a row of 32-bit numbers: the leaves that Kilter's trees give it, in 32 bits.
fn single_sum(model: &gbdt::GbdtModel, row: &[f64]) -> f32 {
    let (base, trees) = model.parts();
    trees.iter().fold(base as f32, |sum, tree| {
        let mut at = tree.root();
        while let Child::Node(node) = at {
            let node = &tree.nodes[node];
            at = if node.goes_left(row[node.column as usize]) { node.left() } else { node.right() };
        }
        let Child::Leaf(leaf) = at else { unreachable!("a walk ends at a leaf") };
        sum + tree.leaves[leaf] as f32
    })
}

#[test]
fn xgboost_sends_rows_of_32_bits_to_the_same_leaves() {
    let (matrix, labels) = rows(2_000);
    for objective in [Objective::Binary, Objective::SquaredError, Objective::Poisson] {
        let parameters = Gbdt { objective, trees: 25, leaves: 13, early_stopping: None, ..Gbdt::default() };
        let model = gbdt::fit(&TrainingSet::new(matrix.clone(), labels.clone()), &parameters).unwrap();
        let again = import(&export(&model.to_bytes(), Format::XgBoostJson).unwrap()).unwrap();
        assert_eq!((again.inputs(), again.link(), again.trees()), (model.inputs(), model.link(), 26));
        // Thresholds, rounded, and the numbers of 32 bits beside them. XGBoost takes no infinite ones.
        let (_, trees) = model.parts();
        let thresholds = trees.iter().flat_map(|tree| &tree.nodes).map(|node| node.threshold as f32);
        let thresholds: Vec<f32> = thresholds.filter(|threshold| threshold.is_finite()).collect();
        let mut row = Vec::new();
        for at in 0..matrix.rows() {
            matrix.row(at, &mut row);
            row.iter_mut().for_each(|value| *value = f64::from(*value as f32));
            let near = thresholds[at % thresholds.len()];
            row[at % 3] = f64::from([near, near.next_up(), near.next_down(), f32::NAN, -0.0][at % 5]);
            assert_eq!(again.margin(&row).to_bits(), f64::from(single_sum(&model, &row)).to_bits(), "{objective:?}: {row:?}");
            assert!((again.predict(&row) - model.predict(&row)).abs() <= 1e-5 * model.predict(&row).abs().max(1.0));
        }
    }
}

#[test]
fn importance_and_contributions_go_with_the_trees() {
    let (matrix, labels) = rows(2_000);
    let model = gbdt::fit(&TrainingSet::new(matrix.clone(), labels), &Gbdt { trees: 9, early_stopping: None, ..Gbdt::default() }).unwrap();
    let again = import(&export(&model.to_bytes(), Format::XgBoostJson).unwrap()).unwrap();
    for (gain, own) in again.importance().iter().zip(model.importance()) {
        assert!((gain - own).abs() <= 1e-6 * own, "{gain} and {own}");
    }
    let (mut row, mut theirs, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..200 {
        matrix.row(at, &mut row);
        row.iter_mut().for_each(|value| *value = f64::from(*value as f32));
        again.explain(&row, &mut theirs);
        model.explain(&row, &mut own);
        assert!(theirs.iter().zip(&own).all(|(a, b)| (a - b).abs() < 1e-5), "{theirs:?} and {own:?}");
    }
}

/// What a `Scorecard` of PMML gives a row: of each characteristic the first attribute whose predicate holds; and its characteristics from the
/// one furthest below its baseline on.
fn by_pmml(text: &str, inputs: &[String], row: &[f64]) -> (f64, Vec<(String, f64)>) {
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("no {name} in {line}"));
        rest.split_once('"').unwrap().0.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
    };
    let (mut total, mut below) = (0.0, Vec::new());
    let mut open: Option<(String, f64, f64)> = None;
    for line in text.lines() {
        if line.contains("<Characteristic ") {
            let name = value(line, "reasonCode");
            let found = row[inputs.iter().position(|input| *input == name).unwrap()];
            open = Some((name, value(line, "baselineScore").parse().unwrap(), found));
        } else if let Some((name, baseline, found)) = open.as_ref().filter(|_| line.contains("<Attribute ")) {
            let number = || value(line, "value").parse::<f64>().unwrap();
            let holds = match value(line, "operator").as_str() {
                "equal" => *found == number(),
                "lessOrEqual" => *found <= number(),
                "isNotMissing" => !found.is_nan(),
                "isMissing" => found.is_nan(),
                other => panic!("{other}"),
            };
            if holds {
                let points: f64 = value(line, "partialScore").parse().unwrap();
                total += points;
                below.push((name.clone(), baseline - points));
                open = None;
            }
        }
    }
    below.sort_by(|a, b| b.1.total_cmp(&a.1));
    (total, below)
}

#[test]
fn a_scorecard_in_pmml_gives_the_same_points_and_reasons() {
    let (matrix, labels) = rows(2_000);
    let names = ["income <7d>", "rooms & \"more\"", "view.c"].map(str::to_string);
    let columns = (0..3).map(|at| matrix.column(at).to_vec()).collect();
    let matrix = Matrix::from_columns(names.to_vec(), columns);
    for reasons in [ReasonsFrom::Maximum, ReasonsFrom::Mean] {
        let special = [(names[1].clone(), vec![0.0, 4.0])].into();
        let parameters = Scorecard { reasons, special, ..Scorecard::default() };
        let model = scorecard::fit(&TrainingSet::new(matrix.clone(), labels.clone()), &parameters).unwrap();
        let text = String::from_utf8(export(&model.to_bytes(), Format::Pmml).unwrap()).unwrap();
        assert!(text.contains(if reasons == ReasonsFrom::Mean { "baselineMethod=\"mean\"" } else { "baselineMethod=\"max\"" }));
        let (mut row, mut contributions) = (Vec::new(), Vec::new());
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 4.0, 1e300];
        for at in 0..matrix.rows() {
            matrix.row(at, &mut row);
            row[at % 3] = if at % 4 == 0 { odd[at % 6] } else { row[at % 3] };
            let (points, below) = by_pmml(&text, model.inputs(), &row);
            assert_eq!(Some(points), model.points(&row), "{row:?}");
            model.explain(&row, &mut contributions);
            let factor = 20.0 / std::f64::consts::LN_2;
            for (name, below) in below {
                let input = model.inputs().iter().position(|input| *input == name).unwrap();
                // Points are whole numbers.
                assert!((below - factor * contributions[input]).abs() <= 1.0, "{name}: {below} and {contributions:?}");
            }
        }
    }
}

#[test]
fn a_file_name_tells_the_format() {
    let check = |name: &str, format| assert_eq!(Format::by_file_name(name), format, "{name}");
    check("risk.txt", Some(Format::LightGbm));
    check("risk.v2.JSON", Some(Format::XgBoostJson));
    check("dir.onnx/risk.kltm", None);
    check("risk.onnx", Some(Format::Onnx));
    check("risk.pmml", Some(Format::Pmml));
    check("risk", None);
    for format in Format::ALL {
        assert_eq!(Format::parse(format.name()), Some(*format));
    }
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
    check(&linear, Format::XgBoostJson, &["XGBoost has no way", "\"logistic\""]);
    check(&linear, Format::XgBoostUbj, &["xgboost-ubj is read and not written", "lightgbm, xgboost-json, onnx and pmml"]);
    check(&linear, Format::Pmml, &["PMML has no way", "scorecards to pmml"]);
    check(b"tree\n", Format::LightGbm, &["not a Kilter model"]);
    let columns = (0..3).map(|at| matrix.column(at).to_vec()).collect();
    let spaced = Matrix::from_columns(["a", "b c", "d"].map(str::to_string).to_vec(), columns);
    let model = gbdt::fit(&TrainingSet::new(spaced, labels.clone()), &Gbdt { trees: 2, early_stopping: None, ..Gbdt::default() }).unwrap();
    check(&model.to_bytes(), Format::LightGbm, &["\"b c\"", "blanks"]);
    check(&model.to_bytes(), Format::Pmml, &["\"gbdt\""]);
    let named =
        Matrix::from_columns(["a", "b<c", "d\u{1}"].map(str::to_string).to_vec(), (0..3).map(|at| matrix.column(at).to_vec()).collect());
    let set = TrainingSet::new(named, labels.clone());
    let model = gbdt::fit(&set, &Gbdt { trees: 2, early_stopping: None, ..Gbdt::default() }).unwrap();
    check(&model.to_bytes(), Format::XgBoostJson, &["\"b<c\"", "brackets"]);
    let card = scorecard::fit(&set, &Scorecard { min_iv: 0.0, ..Scorecard::default() }).unwrap();
    check(&card.to_bytes(), Format::Pmml, &["'\\u{1}'", "name the input otherwise"]);
    let calibrated = crate::calibrate(Box::new(model), &set, &serde_json::from_str(r#"{"method": "platt"}"#).unwrap()).unwrap();
    check(&calibrated.to_bytes(), Format::Onnx, &["ONNX has no way to write a calibration"]);
}
