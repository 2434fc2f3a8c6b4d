//! `TreeEnsembleClassifier`, `TreeEnsembleRegressor` and `TreeEnsemble`.

use std::collections::BTreeMap;

use super::attributes::{Attributes, Numbers};
use super::read::Table;
use super::{Body, Found, labels};
use crate::LearnError;
use crate::exchange::ensemble::{Arithmetic, Inputs, Output, Width};
use crate::exchange::tree::{Missing, Part, Rule, Split, Tree};

const ONE_OUTPUT: &str = "models with one output can be imported: two classes, or a regression";

pub(super) fn regressor(place: &Attributes, table: Table) -> Result<Found, LearnError> {
    if place.int("n_targets", 1)? != 1 {
        return Err(place.refuse("a model of several outputs", ONE_OUTPUT));
    }
    transform(place, &["NONE"])?;
    let average = match place.text("aggregate_function", "SUM")?.as_str() {
        "SUM" => false,
        "AVERAGE" => true,
        other => return Err(place.refuse(format!("aggregate_function `{other}`"), "SUM and AVERAGE are read")),
    };
    let ballots = Ballots::of(place, "target")?;
    let offset = base(place, 1)?;
    Nodes::of(place)?.found(place, table, &ballots, 0, Sum { average, offset, output: Output::Value }, None)
}

pub(super) fn classifier(place: &Attributes, table: Table) -> Result<Found, LearnError> {
    let (classes, note) = labels(place, "classlabels_int64s", "classlabels_strings")?;
    if classes != 2 {
        return Err(place.refuse(format!("a model of {classes} classes"), ONE_OUTPUT));
    }
    let logistic = transform(place, &["NONE", "LOGISTIC"])? == "LOGISTIC";
    let ballots = Ballots::of(place, "class")?;
    let both = ballots.ids.iter().any(|&id| id != ballots.ids[0]);
    if !both && logistic && (0..ballots.weights.len()).all(|at| ballots.weights.get(at) >= 0.0) {
        // ONNX Runtime takes weights that are all positive for a probability and leaves the link out; others do not.
        return Err(place.refuse("leaves that are all positive, with a logistic link: programs score it differently", ""));
    }
    let output = if logistic { Output::LogOdds(1.0) } else { Output::Probability };
    if !both && !logistic && (0..ballots.weights.len()).any(|at| ballots.weights.get(at) < 0.0) {
        return Err(place.refuse("scores of one class that are no probabilities", "convert a classifier with its probabilities"));
    }
    // Votes for one class only are for the second one, whatever number they bear.
    let class = if both { 1 } else { ballots.ids.first().copied().unwrap_or(0) };
    let offset = if both { base(place, 2)? } else { base(place, 1)? };
    Nodes::of(place)?.found(place, table, &ballots, class, Sum { average: false, offset, output }, note)
}

pub(super) fn ensemble(place: &Attributes, table: Table) -> Result<Found, LearnError> {
    if place.int("n_targets", 1)? != 1 {
        return Err(place.refuse("a model of several outputs", ONE_OUTPUT));
    }
    if place.int("post_transform", 0)? != 0 {
        return Err(place.refuse(format!("post_transform {}", place.int("post_transform", 0)?), "none (0) is read"));
    }
    let average = match place.int("aggregate_function", 1)? {
        0 => true,
        1 => false,
        other => return Err(place.refuse(format!("aggregate_function {other}"), "AVERAGE (0) and SUM (1) are read")),
    };
    let (splits, modes, weights) = (place.tensor("nodes_splits")?, place.tensor("nodes_modes")?, place.tensor("leaf_weights")?);
    let (count, leaves) = (splits.len(), weights.len());
    if place.ints_of("leaf_targetids", leaves)?.iter().any(|&target| target != 0) {
        return Err(place.fault("a leaf of an output that is not there"));
    }
    let ints = |name: &str| place.ints_of(name, count);
    let (feature, on_true, true_leaf) = (ints("nodes_featureids")?, ints("nodes_truenodeids")?, ints("nodes_trueleafs")?);
    let (on_false, false_leaf) = (ints("nodes_falsenodeids")?, ints("nodes_falseleafs")?);
    let missing = if place.has("nodes_missing_value_tracks_true") { ints("nodes_missing_value_tracks_true")? } else { vec![0; count] };
    if modes.len() != count {
        return Err(place.fault(format!("{} modes for {count} nodes", modes.len())));
    }
    let child = |at: i64, leaf: i64| if leaf != 0 { at.checked_add(count as i64) } else { Some(at) };
    let mut nodes = Vec::new();
    for at in 0..count {
        let mode = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER"];
        let mode = mode.get(modes.get(at) as usize).ok_or_else(|| place.fault(format!("node {at} has the mode {}", modes.get(at))))?;
        let [on_true, on_false] = [child(on_true[at], true_leaf[at]), child(on_false[at], false_leaf[at])];
        let place_of = |child: Option<i64>| child.and_then(|child| usize::try_from(child).ok()).unwrap_or(usize::MAX);
        let (yes, no) = (place_of(on_true), place_of(on_false));
        let weight = |leaf: usize| leaf.checked_sub(count).filter(|&leaf| leaf < leaves).map(|leaf| weights.get(leaf));
        if yes == no
            && let Some(value) = weight(yes)
        {
            // Both sides are one leaf: the tree is that leaf.
            nodes.push(Part::Leaf { value, cover: 1.0 });
            continue;
        }
        nodes.push(split(place, at, mode, feature[at], splits.get(at), missing[at] != 0, [yes, no], 1.0, &table)?);
    }
    nodes.extend((0..leaves).map(|leaf| Part::Leaf { value: weights.get(leaf), cover: 1.0 }));
    let roots = place.ints("tree_roots")?;
    let mut trees = Vec::new();
    let mut parts = 0;
    for root in roots {
        let root = usize::try_from(root).map_err(|_| place.fault(format!("a root at {root}")))?;
        let tree = Tree::within(&nodes, root).map_err(|what| place.fault(what))?;
        // Trees share no node, or a short file would make a large model.
        parts += tree.leaf_count();
        if parts > 2 * nodes.len() {
            return Err(place.fault("trees that share nodes"));
        }
        trees.push(tree);
    }
    let single = splits.is_single() && weights.is_single();
    Ok(finished(place, table.single, single, trees, Sum { average, offset: 0.0, output: Output::Value }, None))
}

/// The transformation of the sum, one of those that are read.
fn transform(place: &Attributes, read: &[&str]) -> Result<String, LearnError> {
    let text = place.text("post_transform", "NONE")?;
    if read.contains(&text.as_str()) {
        Ok(text)
    } else {
        Err(place.refuse(format!("post_transform `{text}`"), "NONE and LOGISTIC are read"))
    }
}

/// What is added in the end, the last of so many base values; 0 where there are none.
fn base(place: &Attributes, count: usize) -> Result<f64, LearnError> {
    let values = place.numbers("base_values")?;
    match values.len() {
        0 => Ok(0.0),
        found if found == count && values.get(count - 1).is_finite() => Ok(values.get(count - 1)),
        found => Err(place.refuse(format!("{found} base values for {count}, or one that is no finite number"), "")),
    }
}

/// How leaves become an output.
struct Sum {
    average: bool,
    offset: f64,
    output: Output,
}

/// What leaves give to outputs.
struct Ballots {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    ids: Vec<i64>,
    weights: Numbers,
}

impl Ballots {
    fn of(place: &Attributes, what: &str) -> Result<Self, LearnError> {
        let weights = place.numbers(&format!("{what}_weights"))?;
        let ints = |name: &str| place.ints_of(&format!("{what}_{name}"), weights.len());
        Ok(Ballots { trees: ints("treeids")?, nodes: ints("nodeids")?, ids: ints("ids")?, weights })
    }
}

/// Nodes of all trees as the older operators have them.
struct Nodes {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    feature: Vec<i64>,
    mode: Vec<String>,
    on_true: Vec<i64>,
    on_false: Vec<i64>,
    value: Numbers,
    missing: Vec<i64>,
    hits: Option<Numbers>,
}

impl Nodes {
    fn of(place: &Attributes) -> Result<Self, LearnError> {
        let mode = place.texts("nodes_modes")?;
        let count = mode.len();
        let ints = |name: &str| place.ints_of(name, count);
        let missing = place.has("nodes_missing_value_tracks_true");
        let hits = Some(place.numbers("nodes_hitrates")?).filter(|hits| hits.len() == count);
        let value = place.numbers("nodes_values")?;
        if value.len() != count {
            return Err(place.fault(format!("{} values for {count} nodes", value.len())));
        }
        Ok(Nodes {
            trees: ints("nodes_treeids")?,
            nodes: ints("nodes_nodeids")?,
            feature: ints("nodes_featureids")?,
            on_true: ints("nodes_truenodeids")?,
            on_false: ints("nodes_falsenodeids")?,
            missing: if missing { ints("nodes_missing_value_tracks_true")? } else { vec![0; count] },
            mode,
            value,
            hits,
        })
    }

    fn found(
        &self,
        place: &Attributes,
        table: Table,
        ballots: &Ballots,
        class: i64,
        sum: Sum,
        note: Option<String>,
    ) -> Result<Found, LearnError> {
        let mut given = BTreeMap::new();
        for at in (0..ballots.ids.len()).filter(|&at| ballots.ids[at] == class) {
            let (tree, node) = (ballots.trees[at], ballots.nodes[at]);
            if given.insert((tree, node), ballots.weights.get(at)).is_some() {
                return Err(place.refuse(format!("leaf {node} of tree {tree} gives twice to one output"), ""));
            }
        }
        // Trees in the order in which they are met, each with its nodes.
        let mut order: Vec<i64> = Vec::new();
        let mut by_tree: BTreeMap<i64, BTreeMap<i64, usize>> = BTreeMap::new();
        for (at, (&tree, &node)) in self.trees.iter().zip(&self.nodes).enumerate() {
            let nodes = by_tree.entry(tree).or_insert_with(|| {
                order.push(tree);
                BTreeMap::new()
            });
            if nodes.insert(node, at).is_some() {
                return Err(place.fault(format!("node {node} of tree {tree} is there twice")));
            }
        }
        let mut trees = Vec::new();
        for tree in order {
            let nodes = &by_tree[&tree];
            // Positions among this tree's parts.
            let positions: BTreeMap<i64, usize> = nodes.keys().enumerate().map(|(position, &node)| (node, position)).collect();
            let child = |node: i64| positions.get(&node).copied().unwrap_or(usize::MAX);
            let mut parts = Vec::new();
            let mut below = vec![false; nodes.len()];
            for (&node, &at) in nodes {
                let cover = self.hits.as_ref().map_or(1.0, |hits| hits.get(at));
                if self.mode[at] == "LEAF" {
                    parts.push(Part::Leaf { value: given.get(&(tree, node)).copied().unwrap_or(0.0), cover });
                    continue;
                }
                let children = [child(self.on_true[at]), child(self.on_false[at])];
                children.iter().for_each(|&child| below.get_mut(child).into_iter().for_each(|below| *below = true));
                let (value, missing) = (self.value.get(at), self.missing[at] != 0);
                parts.push(split(place, at, &self.mode[at], self.feature[at], value, missing, children, cover, &table)?);
            }
            let mut roots = (0..parts.len()).filter(|&at| !below[at]);
            let (Some(root), None) = (roots.next(), roots.next()) else {
                return Err(place.fault(format!("tree {tree} has no root, or more than one")));
            };
            let built = Tree::build(&parts, root, Vec::new()).map_err(|what| place.fault(format!("tree {tree}: {what}")))?;
            if 2 * built.leaf_count() - 1 != parts.len() {
                return Err(place.fault(format!("tree {tree} has nodes that its root does not lead to")));
            }
            trees.push(built);
        }
        let single = self.value.is_single() && ballots.weights.is_single();
        Ok(finished(place, table.single, single, trees, sum, note))
    }
}

/// A split that is true on its first child; what is left here is where values are smaller.
#[expect(clippy::too_many_arguments, reason = "the lists of the operator, one item of each")]
fn split(
    place: &Attributes,
    at: usize,
    mode: &str,
    feature: i64,
    value: f64,
    missing_true: bool,
    [on_true, on_false]: [usize; 2],
    cover: f64,
    table: &Table,
) -> Result<Part, LearnError> {
    let inputs = table.untouched(place)?;
    let column = usize::try_from(feature).ok().and_then(|feature| inputs.get(feature)).copied();
    let column = column.ok_or_else(|| place.fault(format!("node {at} reads column {feature} of {}", inputs.len())))?;
    let (rule, swapped) = match mode {
        "BRANCH_LEQ" => (Rule::AtMost(value), false),
        "BRANCH_LT" => (Rule::Below(value), false),
        "BRANCH_GT" => (Rule::AtMost(value), true),
        "BRANCH_GTE" => (Rule::Below(value), true),
        other => {
            return Err(place.refuse(format!("node {at} has the test `{other}`"), "comparisons by size are read, no tests for equality"));
        }
    };
    let (left, right) = if swapped { (on_false, on_true) } else { (on_true, on_false) };
    let missing = if missing_true != swapped { Missing::Left } else { Missing::Right };
    Ok(Part::Split { split: Split { column: column as u32, rule, missing }, left, right, cover, gain: 0.0 })
}

fn finished(place: &Attributes, single_inputs: bool, single: bool, trees: Vec<Tree>, sum: Sum, note: Option<String>) -> Found {
    let arithmetic = Arithmetic {
        inputs: if single_inputs { Inputs::Single } else { Inputs::Double },
        // Rows of 64 bits make a sum of 64 bits, whatever the trees have.
        sum: if single && single_inputs { Width::Single } else { Width::Double },
        start: 0.0,
        divisor: if sum.average { trees.len().max(1) as f64 } else { 1.0 },
        offset: sum.offset,
        output: sum.output,
    };
    let objective = format!("{} {}", place.operator(), place.text("post_transform", "NONE").unwrap_or_default());
    Found { body: Body::Trees(arithmetic, trees), output: sum.output, objective, notes: note.into_iter().collect() }
}
