//! A model as plain numbers in JSON, which a page of NumPy scores: trees and lines, with or without a calibration.
//!
//! One form for all trees, Kilter's own and those of other programs: what an input is rounded to, a start, leaves that are added one after the other, what
//! the sum is divided by, and so on. Who reads it is `crates/kilter-server/src/mlflow/kilter_scores_1.py`; another form gets another number there and here.

use serde::Serialize;
use serde_json::Value;

use super::ensemble::{self, Arithmetic, Inputs, Output, Width};
use super::{catboost, lightgbm, onnx, xgboost};
use crate::format::{self, Sealed};
use crate::gbdt::{self, Child};
use crate::linear::{self, Coefficients};
use crate::{LearnError, Link, Model, calibration, forest, logistic};

const FORM: u32 = 1;

/// A tree by columns: children below 0 are leaves, of which -1 is the first.
#[derive(Serialize)]
pub(super) struct PlainTree {
    pub column: Vec<u32>,
    pub threshold: Vec<Plain>,
    /// Where a value goes that is the threshold: left, or right.
    pub at_most: Vec<bool>,
    /// Where missing values go: 0 left, 1 right, 2 as 0, 3 left and 0 too, 4 right and 0 too.
    pub missing: Vec<u8>,
    pub left: Vec<i32>,
    pub right: Vec<i32>,
    pub leaf: Vec<f64>,
}

/// A number that may be without end, which JSON has no word for.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Plain {
    Number(f64),
    Word(&'static str),
}

impl From<f64> for Plain {
    fn from(number: f64) -> Plain {
        match number {
            f64::INFINITY => Plain::Word("inf"),
            f64::NEG_INFINITY => Plain::Word("-inf"),
            number => Plain::Number(number),
        }
    }
}

#[derive(Serialize)]
struct Portable {
    form: u32,
    inputs: Vec<String>,
    link: Link,
    #[serde(skip_serializing_if = "Option::is_none")]
    sum: Option<Arithmetic>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trees: Vec<PlainTree>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Coefficients>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Value>,
}

/// One of Kilter's own model files as plain numbers: boosted trees, forests, regressions and imported models, and these with a calibration. `None`: a model of
/// another kind, or one that takes categories.
///
/// # Errors
/// When the file is no model.
pub fn portable(file: &[u8]) -> Result<Option<Vec<u8>>, LearnError> {
    let sealed = format::open(file)?;
    let made = if sealed.kind == calibration::KIND {
        let (map, inner) = calibration::parts(&sealed)?;
        plain(&format::open(&inner)?)?.map(|plain| Portable { calibration: Some(map), ..plain })
    } else {
        plain(&sealed)?
    };
    made.map(|made| serde_json::to_vec(&made)).transpose().map_err(|e| LearnError::corrupt(e.to_string()))
}

fn plain(sealed: &Sealed<'_>) -> Result<Option<Portable>, LearnError> {
    let of = |model: &dyn Model| Portable {
        form: FORM,
        inputs: model.inputs().to_vec(),
        link: model.link(),
        sum: None,
        trees: Vec::new(),
        line: None,
        calibration: None,
    };
    let adding = |start: f64, divisor: f64| {
        // What the sum is says the link.
        Arithmetic { inputs: Inputs::Double, sum: Width::Double, start, divisor, offset: 0.0, output: Output::Value }
    };
    Ok(Some(match sealed.kind.as_str() {
        gbdt::KIND => {
            let model = gbdt::read_trees(sealed)?;
            if !model.categorical_inputs().is_empty() {
                return Ok(None);
            }
            let (base, trees) = model.parts();
            Portable { sum: Some(adding(base, 1.0)), trees: trees.iter().map(own_tree).collect(), ..of(&model) }
        }
        forest::KIND => {
            let model = forest::read_forest(sealed)?;
            let trees = model.trees();
            Portable { sum: Some(adding(0.0, trees.len() as f64)), trees: trees.iter().map(own_tree).collect(), ..of(&model) }
        }
        logistic::KIND => {
            let model = linear::read_line::<logistic::Logistic>(sealed)?;
            Portable { line: Some(model.line.clone()), ..of(&model) }
        }
        linear::KIND => {
            let model = linear::read_line::<linear::Linear>(sealed)?;
            Portable { line: Some(model.line.clone()), ..of(&model) }
        }
        lightgbm::KIND | xgboost::KIND | catboost::KIND | onnx::KIND => {
            let model = ensemble::read_trees(sealed)?;
            if !model.categorical_inputs().is_empty() {
                return Ok(None);
            }
            Portable { sum: Some(model.arithmetic().clone()), trees: model.plain_trees(), ..of(&model) }
        }
        onnx::LINE_KIND => {
            let model = ensemble::read_one_line(sealed)?;
            Portable { sum: Some(model.arithmetic().clone()), line: model.line().cloned(), ..of(&model) }
        }
        _ => return Ok(None),
    }))
}

fn own_tree(tree: &gbdt::Tree) -> PlainTree {
    let packed = |child| match child {
        Child::Node(node) => node as i32,
        Child::Leaf(leaf) => !(leaf as i32),
    };
    let nodes = &tree.nodes;
    PlainTree {
        column: nodes.iter().map(|node| node.column).collect(),
        threshold: nodes.iter().map(|node| node.threshold.into()).collect(),
        at_most: vec![true; nodes.len()],
        missing: nodes.iter().map(|node| u8::from(!node.missing_left)).collect(),
        left: nodes.iter().map(|node| packed(node.left())).collect(),
        right: nodes.iter().map(|node| packed(node.right())).collect(),
        leaf: tree.leaves.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Forest, Gbdt, Isolation, Learner, Logistic, Matrix, TrainingSet};

    fn rows() -> TrainingSet {
        let value = |row: usize, of: usize| ((row * 7919 + of * 104_729) % 1000) as f64 / 100.0;
        let columns = (0..2).map(|of| (0..400).map(|row| if row % 11 == of { f64::NAN } else { value(row, of) }).collect()).collect();
        let labels = (0..400).map(|row| f64::from(u8::from(value(row, 0) > 4.0 || row % 13 == 0))).collect();
        TrainingSet::new(Matrix::from_columns(vec!["a".into(), "b".into()], columns), labels)
    }

    /// The walk that the Python page does, in the fewest words.
    fn margin(said: &Value, row: &[f64]) -> f64 {
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap());
        let sum = &said["sum"];
        let trees = said["trees"].as_array().unwrap();
        let total = trees.iter().fold(number(&sum["start"]), |total, tree| {
            let mut at = if tree["column"].as_array().unwrap().is_empty() { -1 } else { 0 };
            while at >= 0 {
                let of = |name: &str| &tree[name][at as usize];
                let value = row[of("column").as_u64().unwrap() as usize];
                assert!(of("at_most").as_bool().unwrap());
                let left = if value.is_nan() { of("missing").as_u64().unwrap() == 0 } else { value <= number(of("threshold")) };
                at = of(if left { "left" } else { "right" }).as_i64().unwrap();
            }
            total + number(&tree["leaf"][(-1 - at) as usize])
        });
        total / number(&sum["divisor"])
    }

    #[test]
    fn plain_trees_score_to_the_bit_what_the_model_scores() {
        let set = rows();
        let gbdt = Learner::Gbdt(Gbdt { trees: 12, leaves: 7, early_stopping: None, ..Gbdt::default() });
        let forest = Learner::Forest(Forest { trees: 9, ..Forest::default() });
        for learner in [gbdt, forest] {
            let model = learner.fit(&set).unwrap();
            let said: Value = serde_json::from_slice(&portable(&model.to_bytes()).unwrap().unwrap()).unwrap();
            assert_eq!((&said["form"], &said["inputs"]), (&serde_json::json!(1), &serde_json::json!(["a", "b"])));
            let mut row = Vec::new();
            for at in 0..set.rows() {
                set.matrix.row(at, &mut row);
                assert_eq!(margin(&said, &row).to_bits(), model.margin(&row).to_bits(), "{row:?}");
            }
        }
    }

    #[test]
    fn a_line_and_a_calibration_have_their_numbers_and_other_kinds_none() {
        let set = rows();
        let model = Learner::Logistic(Logistic::default()).fit(&set).unwrap();
        let calibrated =
            crate::calibrate(model, &set, &crate::Calibration { method: crate::calibration::Method::Platt, target_rate: None }).unwrap();
        let said: Value = serde_json::from_slice(&portable(&calibrated.to_bytes()).unwrap().unwrap()).unwrap();
        assert_eq!(said["line"]["means"].as_array().unwrap().len(), 2);
        assert_eq!(said["link"], "logit");
        assert!(said["calibration"]["bend"].is_object() && said["trees"].is_null());
        let isolation = Learner::Isolation(Isolation::default()).fit(&set).unwrap();
        assert!(portable(&isolation.to_bytes()).unwrap().is_none());
        assert!(portable(b"no model").is_err());
    }
}
