//! Kilter's boosted trees, forests and regression lines as ONNX.
//!
//! Everything is in 64 bits: trees are a `TreeEnsemble` of `ai.onnx.ml` 5 with 64-bit thresholds and leaves, whose older forms
//! (`TreeEnsembleClassifier`, `TreeEnsembleRegressor`) put out 32 bits only; lines are operators of ONNX itself, for `LinearClassifier` and
//! `LinearRegressor` have coefficients of 32 bits and no rule for a missing value. Every row reaches the same leaves as here, and the margin is
//! the same to the bit where a runtime adds trees in order, as ONNX Runtime does on one thread; on several it adds parts of the trees, which may
//! change the last bit.
//!
//! The graph takes `X`, rows of doubles with NaN for missing, and gives `margin` and `prediction`, a column each. The metadata hold the inputs'
//! names under the key `inputs`.

use prost::Message;

use super::proto::{Attribute, Dimension, Graph, Model, Named, Node, Opset, Property, Shape, Tensor, TensorType, Type, element, kind};
use crate::forest::ForestModel;
use crate::gbdt::{Child, GbdtModel, Tree};
use crate::linear::Coefficients;
use crate::{Link, Model as _};

/// ONNX's own operators, and those for machine learning.
const OPSET: i64 = 17;
const ML: &str = "ai.onnx.ml";
const ML_OPSET: i64 = 5;
/// What becomes of the leaves.
const AVERAGE: i64 = 0;
const SUM: i64 = 1;
/// The first that knows both.
const IR: i64 = 10;

/// Boosted trees: a sum that starts from their base, which is a first tree of one leaf.
pub(in crate::exchange) fn boosted(model: &GbdtModel) -> Vec<u8> {
    let (base, trees) = model.parts();
    let mut columns = Trees::default();
    columns.leaf_alone(base);
    trees.iter().for_each(|tree| columns.tree(tree));
    graph("boosted trees", model.inputs(), model.link(), vec![columns.operator(SUM)], Vec::new())
}

/// A forest: the mean of its trees.
pub(in crate::exchange) fn forest(model: &ForestModel) -> Vec<u8> {
    let mut columns = Trees::default();
    model.trees().iter().for_each(|tree| columns.tree(tree));
    graph("forest", model.inputs(), model.link(), vec![columns.operator(AVERAGE)], Vec::new())
}

pub(in crate::exchange) fn line(inputs: &[String], link: Link, line: &Coefficients) -> Vec<u8> {
    let count = inputs.len() as i64;
    // A column without variation has no coefficient; what it is divided by says nothing.
    let scales: Vec<f64> = line.scales.iter().map(|&scale| if scale > 0.0 { scale } else { 1.0 }).collect();
    let varies = |(&beta, &scale): (&f64, &f64)| if scale > 0.0 { beta } else { 0.0 };
    let coefficients: Vec<f64> = line.standardised.iter().zip(&line.scales).map(varies).collect();
    let constants = vec![
        doubles(Some("means"), &[1, count], &line.means),
        doubles(Some("scales"), &[1, count], &scales),
        doubles(Some("coefficients"), &[count, 1], &coefficients),
        doubles(Some("intercept"), &[1, 1], &[line.intercept]),
    ];
    let nodes = vec![
        node("IsNaN", &["X"], "missing"),
        node("IsInf", &["X"], "infinite"),
        node("Or", &["missing", "infinite"], "unknown"),
        node("Where", &["unknown", "means", "X"], "known"),
        node("Sub", &["known", "means"], "distance"),
        node("Div", &["distance", "scales"], "standardised"),
        node("MatMul", &["standardised", "coefficients"], "moved"),
        node("Add", &["moved", "intercept"], "margin"),
    ];
    graph("regression line", inputs, link, nodes, constants)
}

/// The model around nodes that make `margin` of `X`.
fn graph(name: &str, inputs: &[String], link: Link, mut nodes: Vec<Node>, constants: Vec<Tensor>) -> Vec<u8> {
    let inverse = match link {
        Link::Logit => "Sigmoid",
        Link::Identity | Link::Probability => "Identity",
        Link::Log => "Exp",
    };
    nodes.push(node(inverse, &["margin"], "prediction"));
    let opset = |domain: &str, version| Opset { domain: Some(domain.into()), version: Some(version) };
    // Writing JSON to memory does not fail.
    let names = serde_json::to_string(inputs).unwrap_or_default();
    let graph = Graph {
        nodes: bytes(&nodes),
        name: Some(name.into()),
        constants: bytes(&constants),
        inputs: bytes(&[named("X", inputs.len() as i64)]),
        outputs: bytes(&[named("margin", 1), named("prediction", 1)]),
    };
    let model = Model {
        ir_version: Some(IR),
        producer_name: Some("Kilter".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph),
        opset_import: bytes(&[opset("", OPSET), opset(ML, ML_OPSET)]),
        metadata: bytes(&[Property { key: Some("inputs".into()), value: Some(names) }]),
    };
    model.encode_to_vec()
}

fn bytes<M: Message>(messages: &[M]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::encode_to_vec).collect()
}

/// Rows of so many doubles.
fn named(name: &str, columns: i64) -> Named {
    let rows = Dimension { name: Some("rows".into()), size: None };
    let shape = Shape { dims: bytes(&[rows, Dimension { size: Some(columns), name: None }]) };
    let tensor = TensorType { element: Some(element::DOUBLE), shape: Some(shape) };
    Named { name: Some(name.into()), of: Some(Type { tensor: Some(tensor) }) }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
    let inputs = inputs.iter().map(|input| input.to_string()).collect();
    Node { inputs, outputs: vec![output.into()], operator: Some(operator.into()), ..Node::default() }
}

fn doubles(name: Option<&str>, dims: &[i64], values: &[f64]) -> Tensor {
    let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.map(str::to_string), dims: dims.to_vec(), element: Some(element::DOUBLE), raw: Some(raw), ..Tensor::default() }
}

/// The nodes and leaves of all trees, a list for each of their properties.
#[derive(Default)]
struct Trees {
    roots: Vec<i64>,
    feature: Vec<i64>,
    threshold: Vec<f64>,
    missing_true: Vec<i64>,
    /// The side where values up to the threshold go: its number among nodes or leaves, and whether it is a leaf.
    on_true: Vec<i64>,
    on_true_leaf: Vec<i64>,
    on_false: Vec<i64>,
    on_false_leaf: Vec<i64>,
    weights: Vec<f64>,
}

impl Trees {
    fn node(&mut self, feature: i64, threshold: f64, missing_true: bool, on_true: (i64, i64), on_false: (i64, i64)) {
        self.feature.push(feature);
        self.threshold.push(threshold);
        self.missing_true.push(i64::from(missing_true));
        self.on_true.push(on_true.0);
        self.on_true_leaf.push(on_true.1);
        self.on_false.push(on_false.0);
        self.on_false_leaf.push(on_false.1);
    }

    fn tree(&mut self, tree: &Tree) {
        if tree.nodes.is_empty() {
            return self.leaf_alone(tree.leaves[0]);
        }
        let (first_node, first_leaf) = (self.feature.len() as i64, self.weights.len() as i64);
        self.roots.push(first_node);
        for node in &tree.nodes {
            let place = |child| match child {
                Child::Node(node) => (first_node + node as i64, 0),
                Child::Leaf(leaf) => (first_leaf + leaf as i64, 1),
            };
            self.node(i64::from(node.column), node.threshold, node.missing_left, place(node.left()), place(node.right()));
        }
        self.weights.extend(&tree.leaves);
    }

    /// A tree of one leaf: a node both of whose sides are that leaf.
    fn leaf_alone(&mut self, value: f64) {
        let leaf = (self.weights.len() as i64, 1);
        self.roots.push(self.feature.len() as i64);
        self.node(0, 0.0, true, leaf, leaf);
        self.weights.push(value);
    }

    fn operator(self, aggregate: i64) -> Node {
        let nodes = self.feature.len() as i64;
        let leaves = self.weights.len() as i64;
        let int =
            |name: &str, value| Attribute { name: Some(name.into()), kind: Some(kind::INT), int: Some(value), ..Attribute::default() };
        let ints = |name: &str, values| Attribute { name: Some(name.into()), kind: Some(kind::INTS), ints: values, ..Attribute::default() };
        let tensor = |name: &str, tensor| Attribute {
            name: Some(name.into()),
            kind: Some(kind::TENSOR),
            tensor: Some(tensor),
            ..Attribute::default()
        };
        // Mode 0: true where value <= threshold.
        let modes = Tensor { dims: vec![nodes], element: Some(element::UINT8), raw: Some(vec![0; nodes as usize]), ..Tensor::default() };
        let attributes = [
            int("n_targets", 1),
            int("aggregate_function", aggregate),
            int("post_transform", 0),
            ints("tree_roots", self.roots),
            ints("nodes_featureids", self.feature),
            tensor("nodes_splits", doubles(None, &[nodes], &self.threshold)),
            tensor("nodes_modes", modes),
            ints("nodes_missing_value_tracks_true", self.missing_true),
            ints("nodes_truenodeids", self.on_true),
            ints("nodes_trueleafs", self.on_true_leaf),
            ints("nodes_falsenodeids", self.on_false),
            ints("nodes_falseleafs", self.on_false_leaf),
            ints("leaf_targetids", vec![0; leaves as usize]),
            tensor("leaf_weights", doubles(None, &[leaves], &self.weights)),
        ];
        let ensemble = node("TreeEnsemble", &["X"], "margin");
        Node { domain: Some(ML.into()), attributes: bytes(&attributes), ..ensemble }
    }
}
