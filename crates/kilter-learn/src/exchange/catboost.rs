//! CatBoost's models as JSON, of numeric features: oblivious trees and, under another policy of growth, ordinary ones.
//!
//! A split sends `value > border` right, both of 32 bits; missing values are the least or the greatest of their feature. An oblivious tree asks one
//! question a level, whose answers are the bits of the leaf's number, the first one the lowest. Leaves are added in 64 bits. In which order CatBoost
//! adds them depends on the number of rows and the processor, so the last bits of a margin may differ.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ensemble::{Arithmetic, Ensemble, Inputs, Origin, Output, Width};
use super::tree::{Missing, Part, Rule, Split, Tree};
use crate::LearnError;

pub(crate) const KIND: &str = "catboost";

const CUT: &str = "the file was edited or damaged: save the model again with model.save_model(\"model.json\", format=\"json\")";

/// A tree of more levels has more leaves than there is room for.
const MOST_LEVELS: usize = 24;

fn fault(at: impl Into<String>, what: impl Into<String>, hint: &'static str) -> LearnError {
    LearnError::Foreign { format: "CatBoost", at: at.into(), what: what.into(), hint }
}

#[derive(Deserialize)]
struct Document {
    features_info: Features,
    model_info: Info,
    #[serde(default)]
    oblivious_trees: Vec<Oblivious>,
    #[serde(default)]
    trees: Vec<Grown>,
    scale_and_bias: (f64, Vec<f64>),
}

#[derive(Deserialize)]
struct Features {
    #[serde(default)]
    float_features: Vec<Feature>,
    #[serde(default)]
    categorical_features: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    text_features: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    embedding_features: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Feature {
    #[serde(default)]
    feature_id: String,
    feature_index: usize,
    flat_feature_index: usize,
    /// `AsTrue`: a missing value is beyond every border. `AsFalse`, `AsIs`: it is beyond none.
    nan_value_treatment: String,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    catboost_version_info: String,
    #[serde(default)]
    class_params: Option<Classes>,
    params: Parameters,
}

#[derive(Deserialize)]
struct Classes {
    #[serde(default)]
    class_names: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Parameters {
    loss_function: Loss,
}

#[derive(Deserialize)]
struct Loss {
    #[serde(rename = "type")]
    name: String,
}

#[derive(Deserialize)]
struct Question {
    split_type: String,
    #[serde(default)]
    float_feature_index: usize,
    #[serde(default)]
    border: f64,
}

#[derive(Deserialize)]
struct Oblivious {
    leaf_values: Vec<f64>,
    #[serde(default)]
    leaf_weights: Vec<f64>,
    /// Null in a tree of one leaf.
    splits: Option<Vec<Question>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Grown {
    Split { left: Box<Grown>, right: Box<Grown>, split: Question },
    Leaf { value: LeafValue, weight: f64 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LeafValue {
    One(f64),
    Many(Vec<f64>),
}

pub fn read(bytes: &[u8]) -> Result<Ensemble, LearnError> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        fault(at, format!("no model of CatBoost: {error}"), CUT)
    })?;
    let Document { features_info: features, model_info: info, oblivious_trees, trees: grown, scale_and_bias: (scale, bias) } = document;
    for (list, kind) in
        [(&features.categorical_features, "categorical"), (&features.text_features, "text"), (&features.embedding_features, "embedding")]
    {
        if !list.is_empty() {
            let hint = "their statistics are taken over hashes of texts, which rows of numbers do not have: train on numeric features";
            return Err(fault("features_info", format!("{} {kind} features", list.len()), hint));
        }
    }
    let output = output(&info.params.loss_function.name)?;
    let offset = match bias.as_slice() {
        _ if scale != 1.0 => {
            return Err(fault("scale_and_bias", format!("a scale of {scale}"), "model.set_scale_and_bias(1, …) before it is saved"));
        }
        [] => 0.0,
        [bias] if bias.is_finite() => *bias,
        _ => return Err(fault("scale_and_bias", format!("{} biases, or one that is no finite number", bias.len()), ONE)),
    };
    let columns = Columns::of(&features.float_features)?;
    let trees = match (oblivious_trees.is_empty(), grown.is_empty()) {
        (_, true) => oblivious_trees.iter().enumerate().map(|(at, tree)| oblivious(at, tree, &columns)).collect::<Result<Vec<_>, _>>()?,
        (true, false) => grown.iter().enumerate().map(|(at, tree)| ordinary(at, tree, &columns)).collect::<Result<Vec<_>, _>>()?,
        (false, false) => return Err(fault("trees", "trees of both shapes", CUT)),
    };
    let positive = info.class_params.and_then(|classes| classes.class_names.get(1).cloned()).filter(|name| *name != 1);
    let notes = positive.map(|name| format!("the probability is that of the class {name}")).into_iter().collect();
    let version = info.catboost_version_info.lines().find_map(|line| line.trim().strip_prefix("Branch: tags/")).unwrap_or_default();
    let origin = Origin { program: KIND.into(), version: version.into(), objective: info.params.loss_function.name, notes };
    let arithmetic = Arithmetic { inputs: Inputs::Single, sum: Width::Double, start: 0.0, divisor: 1.0, offset, output };
    Ok(Ensemble::new(KIND, columns.names, origin, arithmetic, trees))
}

const ONE: &str = "models with one output can be imported: Logloss, CrossEntropy, or a regression";

fn output(loss: &str) -> Result<Output, LearnError> {
    Ok(match loss {
        "Logloss" | "CrossEntropy" => Output::LogOdds(1.0),
        "RMSE" | "MAE" | "Quantile" | "Expectile" | "Huber" | "MAPE" | "Lq" | "LogCosh" | "QueryRMSE" | "QuerySoftMax" | "PairLogit"
        | "YetiRank" => Output::Value,
        "Poisson" | "Tweedie" => Output::Logarithm,
        other => return Err(fault("model_info.params.loss_function", format!("loss `{other}` is not supported"), ONE)),
    })
}

/// The model's inputs: its numeric features in order.
struct Columns {
    names: Vec<String>,
    /// Position among the inputs and the side of missing values, by `feature_index`.
    by_index: BTreeMap<usize, (u32, Missing)>,
}

impl Columns {
    fn of(features: &[Feature]) -> Result<Self, LearnError> {
        let mut columns = Columns { names: Vec::new(), by_index: BTreeMap::new() };
        for feature in features {
            let missing = match feature.nan_value_treatment.as_str() {
                "AsTrue" => Missing::Right,
                "AsFalse" | "AsIs" => Missing::Left,
                other => return Err(fault("features_info", format!("nan_value_treatment `{other}`"), CUT)),
            };
            let position = columns.names.len() as u32;
            if columns.by_index.insert(feature.feature_index, (position, missing)).is_some() {
                return Err(fault("features_info", format!("feature {} is there twice", feature.feature_index), CUT));
            }
            let named = !feature.feature_id.is_empty();
            columns.names.push(if named { feature.feature_id.clone() } else { format!("f{}", feature.flat_feature_index) });
        }
        if columns.names.is_empty() {
            return Err(fault("features_info", "no features", CUT));
        }
        Ok(columns)
    }

    /// The question whether a value is beyond a border: what is not goes left.
    fn split(&self, at: &str, question: &Question) -> Result<Split, LearnError> {
        if question.split_type != "FloatFeature" {
            let hint = "categories are looked up in statistics over hashes of texts: train on numeric features";
            return Err(fault(at, format!("a split of the type `{}`", question.split_type), hint));
        }
        let known = self.by_index.get(&question.float_feature_index);
        let &(column, missing) = known.ok_or_else(|| fault(at, format!("feature {} is not there", question.float_feature_index), CUT))?;
        Ok(Split { column, rule: Rule::AtMost(f64::from(question.border as f32)), missing })
    }
}

/// An oblivious tree as nodes, from its highest bit down: those of a level lie side by side, and its leaves in the order of their numbers.
fn oblivious(at: usize, tree: &Oblivious, columns: &Columns) -> Result<Tree, LearnError> {
    let place = format!("oblivious_trees[{at}]");
    let questions = tree.splits.as_deref().unwrap_or_default();
    let levels = questions.len();
    if levels > MOST_LEVELS || tree.leaf_values.len() != 1 << levels {
        return Err(fault(place, format!("{} leaves for {levels} splits", tree.leaf_values.len()), ONE));
    }
    let leaves = tree.leaf_values.len();
    let weights = if tree.leaf_weights.len() == leaves { tree.leaf_weights.clone() } else { vec![1.0; leaves] };
    let splits = questions.iter().map(|question| columns.split(&place, question)).collect::<Result<Vec<_>, _>>()?;
    let mut parts = Vec::with_capacity(2 * leaves);
    for level in 0..levels {
        let below = leaves >> level;
        for node in 0..1usize << level {
            let cover = weights[node * below..(node + 1) * below].iter().sum();
            let left = (2 << level) - 1 + 2 * node;
            parts.push(Part::Split { split: splits[levels - 1 - level], left, right: left + 1, cover, gain: 0.0 });
        }
    }
    parts.extend(tree.leaf_values.iter().zip(weights).map(|(&value, cover)| Part::Leaf { value, cover }));
    Tree::build(&parts, 0, Vec::new()).map_err(|what| fault(place, what, CUT))
}

fn ordinary(at: usize, tree: &Grown, columns: &Columns) -> Result<Tree, LearnError> {
    let place = format!("trees[{at}]");
    let mut parts = Vec::new();
    place_all(&place, tree, columns, &mut parts)?;
    Tree::build(&parts, 0, Vec::new()).map_err(|what| fault(place, what, CUT))
}

/// Puts a tree's parts into the list, parents first, and gives the position and weight of its root. No deeper than JSON is read.
fn place_all(place: &str, tree: &Grown, columns: &Columns, parts: &mut Vec<Part>) -> Result<(usize, f64), LearnError> {
    let own = parts.len();
    match tree {
        Grown::Leaf { value: LeafValue::Many(values), .. } => Err(fault(place, format!("leaves of {} values", values.len()), ONE)),
        Grown::Leaf { value: LeafValue::One(value), weight } => {
            parts.push(Part::Leaf { value: *value, cover: *weight });
            Ok((own, *weight))
        }
        Grown::Split { left, right, split } => {
            let split = columns.split(place, split)?;
            parts.push(Part::Leaf { value: 0.0, cover: 0.0 });
            let (left, a) = place_all(place, left, columns, parts)?;
            let (right, b) = place_all(place, right, columns, parts)?;
            parts[own] = Part::Split { split, left, right, cover: a + b, gain: 0.0 };
            Ok((own, a + b))
        }
    }
}

#[cfg(test)]
mod tests;
