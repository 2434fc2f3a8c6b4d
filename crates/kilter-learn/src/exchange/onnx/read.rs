//! ONNX graphs of one model: a tree ensemble or a line, with what converters put before it (columns put together, missing values filled, columns
//! scaled) and after it (a link, labels, a map of probabilities). Every other operator is refused by its name.
//!
//! Trees score as ONNX Runtime scores them on one thread: leaves added in the order of the trees, in the width of their numbers, the base value at
//! the end. What it rounds after that, a link in 32 bits or an output of 32 bits, is not rounded here. Lines are computed in 64 bits: their order
//! of adding is nowhere told.

use std::collections::BTreeMap;

use prost::Message;

use super::attributes::Attributes;
use super::proto::{Dimension, Graph, Model, Named, Node, Opset, Property, element};
use super::{CUT, Found, fault, lines, trees};
use crate::LearnError;
use crate::exchange::ensemble::{Ensemble, Output};

/// Operators of one graph, and inputs of a model.
const MOST_NODES: usize = 1_000;
const MOST_COLUMNS: usize = 1_000_000;

/// One column of a table on its way to the model: an input of the graph, filled where it is missing, then moved and stretched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub input: usize,
    pub fill: Option<f64>,
    pub offset: f64,
    pub scale: f64,
}

/// A table of inputs.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub columns: Vec<Column>,
    /// Whether numbers have been rounded to 32 bits.
    pub single: bool,
}

impl Table {
    /// The inputs that its columns are, where nothing has been done to them.
    pub fn untouched(&self, place: &Attributes) -> Result<Vec<usize>, LearnError> {
        let plain = |column: &Column| (column.fill.is_none() && column.offset == 0.0 && column.scale == 1.0).then_some(column.input);
        let inputs = self.columns.iter().map(plain).collect::<Option<Vec<_>>>();
        inputs.ok_or_else(|| place.refuse("it reads columns that are filled or scaled first", "train the trees on the raw columns"))
    }
}

/// What a name in the graph stands for.
enum Value {
    Table(Table),
    /// What the model makes, or what has been made of it without a change of its numbers.
    Made,
}

pub fn read(bytes: &[u8]) -> Result<Ensemble, LearnError> {
    let model = Model::decode(bytes).map_err(|error| fault("", format!("no ONNX: {error}"), CUT))?;
    let graph = model.graph.ok_or_else(|| fault("", "it has no graph", CUT))?;
    for opset in each::<Opset>(&model.opset_import, 100, "operator sets")? {
        let (domain, version) = (opset.domain.unwrap_or_default(), opset.version.unwrap_or_default());
        if domain == "ai.onnx.ml" && !(1..=5).contains(&version) {
            return Err(fault(
                "",
                format!("operators of ai.onnx.ml {version}; 1 to 5 are read"),
                "convert with target_opset={\"\": 17, \"ai.onnx.ml\": 3}",
            ));
        }
    }
    let properties = each::<Property>(&model.metadata, 1_000, "metadata")?;
    let told =
        properties.iter().find(|property| property.key() == "inputs").and_then(|property| serde_json::from_str(property.value()).ok());
    let (names, mut values) = inputs(&graph, told)?;
    let mut found: Option<Found> = None;
    for (at, node) in each::<Node>(&graph.nodes, MOST_NODES, "operators")?.into_iter().enumerate() {
        let place = Attributes::of(&node, at)?;
        let made = match (node.operator(), &found) {
            ("TreeEnsembleClassifier" | "TreeEnsembleRegressor" | "TreeEnsemble" | "LinearClassifier" | "LinearRegressor", Some(_)) => {
                return Err(place.refuse("a second model in one graph", "models of one output can be imported, one at a time"));
            }
            ("TreeEnsembleClassifier", None) => Some(trees::classifier(&place, table(&node, &values, &place)?)?),
            ("TreeEnsembleRegressor", None) => Some(trees::regressor(&place, table(&node, &values, &place)?)?),
            ("TreeEnsemble", None) => Some(trees::ensemble(&place, table(&node, &values, &place)?)?),
            ("LinearClassifier", None) => Some(lines::classifier(&place, table(&node, &values, &place)?)?),
            ("LinearRegressor", None) => Some(lines::regressor(&place, table(&node, &values, &place)?)?),
            _ => None,
        };
        if made.is_some() {
            found = made;
            values.extend(node.outputs.iter().map(|output| (output.clone(), Value::Made)));
            continue;
        }
        let value = match (values.get(first(&node)), found.as_mut()) {
            (Some(Value::Made), Some(found)) => {
                after(&node, &place, found)?;
                Value::Made
            }
            _ => Value::Table(before(&node, &place, &values)?),
        };
        values.extend(node.outputs.iter().take(1).map(|output| (output.clone(), copy(&value))));
    }
    let found =
        found.ok_or_else(|| fault("", "no model among its operators", "tree ensembles and linear models of ai.onnx.ml can be imported"))?;
    let producer = [model.producer_name, model.producer_version].map(Option::unwrap_or_default).join(" ");
    Ok(found.finished(names, producer.trim().to_string()))
}

fn copy(value: &Value) -> Value {
    match value {
        Value::Table(table) => Value::Table(table.clone()),
        Value::Made => Value::Made,
    }
}

/// Messages of a list, which may be so many.
fn each<M: Message + Default>(list: &[Vec<u8>], most: usize, what: &str) -> Result<Vec<M>, LearnError> {
    if list.len() > most {
        return Err(fault("", format!("{} {what}; up to {most} are read", list.len()), ""));
    }
    list.iter().map(|bytes| M::decode(bytes.as_slice()).map_err(|error| fault(what, format!("no ONNX: {error}"), CUT))).collect()
}

fn first(node: &Node) -> &str {
    node.inputs.first().map_or("", String::as_str)
}

fn table(node: &Node, values: &BTreeMap<String, Value>, place: &Attributes) -> Result<Table, LearnError> {
    match values.get(first(node)) {
        Some(Value::Table(table)) => Ok(table.clone()),
        _ => Err(place.fault(format!("`{}`, which it reads, is no table of inputs", first(node)))),
    }
}

/// The graph's inputs: one table, whose columns may be named in the metadata, or a column each.
fn inputs(graph: &Graph, told: Option<Vec<String>>) -> Result<(Vec<String>, BTreeMap<String, Value>), LearnError> {
    let mut names = Vec::new();
    let mut values = BTreeMap::new();
    let given = each::<Named>(&graph.inputs, MOST_COLUMNS, "inputs")?;
    let alone = given.len() == 1;
    for input in given {
        let name = input.name.clone().unwrap_or_default();
        let refuse = |what: String, hint| Err(fault(format!("input `{name}`"), what, hint));
        let Some(tensor) = input.of.and_then(|of| of.tensor) else { return refuse("no table of numbers".into(), "") };
        let single = match tensor.element() {
            element::FLOAT => true,
            element::DOUBLE => false,
            kind => {
                return refuse(format!("its element type is {kind}; floats (1) and doubles (11) are read"), "convert with FloatTensorType");
            }
        };
        let shape = tensor.shape.map(|shape| each::<Dimension>(&shape.dims, 8, "dimensions")).transpose()?.unwrap_or_default();
        let width = match shape.as_slice() {
            [_, width] => usize::try_from(width.size()).unwrap_or(0),
            _ => 0,
        };
        if !(1..=MOST_COLUMNS).contains(&width) {
            return refuse(
                "its shape does not say how many columns it has".into(),
                "convert with FloatTensorType([None, number of columns])",
            );
        }
        let first = names.len();
        let column = |input| Column { input, fill: None, offset: 0.0, scale: 1.0 };
        let columns = (first..first + width).map(column).collect();
        match (&told, width) {
            (Some(told), _) if alone && told.len() == width => names.extend(told.iter().cloned()),
            (_, 1) if !alone => names.push(name.clone()),
            (_, _) if alone => names.extend((0..width).map(|at| format!("f{at}"))),
            _ => names.extend((0..width).map(|at| format!("{name}_{at}"))),
        }
        if names.len() > MOST_COLUMNS {
            return refuse(format!("more than {MOST_COLUMNS} columns"), "");
        }
        values.insert(name, Value::Table(Table { columns, single }));
    }
    if names.is_empty() {
        return Err(fault("", "the graph has no inputs", CUT));
    }
    Ok((names, values))
}

/// What an operator makes of tables before the model.
fn before(node: &Node, place: &Attributes, values: &BTreeMap<String, Value>) -> Result<Table, LearnError> {
    match node.operator() {
        "Identity" => table(node, values, place),
        "Cast" => {
            let given = table(node, values, place)?;
            match place.int("to", 0)? as i32 {
                element::FLOAT => Ok(Table { single: true, ..given }),
                element::DOUBLE if !given.single => Ok(given),
                kind => Err(place.refuse(
                    format!("it makes numbers of the type {kind}"),
                    "a table of floats (1), or of doubles (11) that have not been floats, is read",
                )),
            }
        }
        "FeatureVectorizer" | "Concat" => {
            if node.operator() == "Concat" && ![1, -1].contains(&place.int("axis", 1)?) {
                return Err(place.refuse("it puts rows together", "columns put together can be read"));
            }
            let mut all = Table { columns: Vec::new(), single: node.operator() == "FeatureVectorizer" };
            for input in &node.inputs {
                let Some(Value::Table(table)) = values.get(input) else {
                    return Err(place.fault(format!("`{input}`, which it reads, is no table of inputs")));
                };
                all.single |= table.single;
                all.columns.extend(&table.columns);
                // Each may be named many times.
                if all.columns.len() > MOST_COLUMNS {
                    return Err(place.fault(format!("more than {MOST_COLUMNS} columns")));
                }
            }
            Ok(all)
        }
        "Imputer" => {
            let mut given = table(node, values, place)?;
            if !place.float("replaced_value_float", f32::NAN)?.is_nan() {
                return Err(place.refuse("it replaces a number", "missing values, which are NaN, can be filled"));
            }
            let fills = place.floats("imputed_value_floats")?;
            for (at, column) in given.columns.iter_mut().enumerate() {
                let fill = *fills.get(if fills.len() == 1 { 0 } else { at }).ok_or_else(|| place.fault("too few values to fill with"))?;
                if column.fill.is_none() {
                    column.fill = Some((f64::from(fill) / column.scale) + column.offset);
                }
            }
            Ok(given)
        }
        "Scaler" => {
            let mut given = table(node, values, place)?;
            let (offsets, scales) = (place.floats("offset")?, place.floats("scale")?);
            for (at, column) in given.columns.iter_mut().enumerate() {
                let of = |list: &[f32]| list.get(if list.len() == 1 { 0 } else { at }).copied().map(f64::from);
                let (Some(offset), Some(scale)) = (of(&offsets), of(&scales)) else {
                    return Err(place.fault("it has fewer offsets or scales than columns"));
                };
                // (x - a) * b, then (… - c) * d: x is moved by a + c / b, and stretched by b * d.
                column.offset += offset / column.scale;
                column.scale *= scale;
                if !column.offset.is_finite() || !column.scale.is_finite() || column.scale == 0.0 {
                    return Err(place.fault("an offset or scale of no use"));
                }
            }
            Ok(given)
        }
        _ => Err(place.refuse("it is not supported before a model", READ)),
    }
}

const READ: &str = "these are read: TreeEnsembleClassifier, TreeEnsembleRegressor, TreeEnsemble, LinearClassifier, LinearRegressor; before them \
                    Cast, Concat, FeatureVectorizer, Imputer, Scaler; after them Cast, Exp, Identity, Normalizer, Sigmoid, ZipMap";

/// What an operator does to a model's output.
fn after(node: &Node, place: &Attributes, found: &mut Found) -> Result<(), LearnError> {
    let output = match node.operator() {
        "Identity" | "Cast" | "ZipMap" => return Ok(()),
        // Both probabilities by their sum, which is 1.
        "Normalizer" if place.text("norm", "MAX")? == "L1" && !matches!(found.output, Output::Value | Output::Logarithm) => return Ok(()),
        "Sigmoid" => Output::LogOdds(1.0),
        "Exp" => Output::Logarithm,
        _ => return Err(place.refuse("it is not supported after a model", READ)),
    };
    if found.output != Output::Value {
        return Err(place.refuse("a link after a link", ""));
    }
    found.output = output;
    Ok(())
}
