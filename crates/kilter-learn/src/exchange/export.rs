//! Kilter's boosted trees as LightGBM's text format, version 4: what it scores of a row is Kilter's margin, to the bit.
//!
//! Both add in 64 bits in tree order, and `value <= threshold` goes left in both. The margin that Kilter starts from becomes a first tree of one
//! leaf. One thing differs: to LightGBM a value nearer to 0 than 1e-35 is 0.

use std::fmt::Write;

use super::export_categories::{Listed, listed};
use crate::gbdt::{Child, GbdtModel, Node, Tree};
use crate::{LearnError, Link, Model};

/// Bits of `decision_type`: categories; missing values are NaN, and where they go.
const CATEGORICAL: u8 = 1;
const MISSING_IS_NAN: u8 = 2 << 2;
const MISSING_LEFT: u8 = 2;

/// The text, which ends as `booster.save_model` ends it.
pub(super) fn lightgbm(model: &GbdtModel) -> Result<String, LearnError> {
    let (inputs, (base, trees)) = (model.inputs(), model.parts());
    if let Some(name) = inputs.iter().find(|name| name.is_empty() || name.contains(|c: char| c.is_whitespace() || ",:\"[]{}".contains(c))) {
        return Err(LearnError::Foreign {
            format: "LightGBM",
            at: String::new(),
            what: format!("it has no way to write the input name {name:?}"),
            hint: "names without blanks, commas, colons, quotes and brackets can be exported",
        });
    }
    // Without a rule of its own for the loss, what counts is how a sum becomes a prediction.
    let objective = match model.link() {
        Link::Logit => "binary sigmoid:1",
        // Boosted trees have no margins of the last kind.
        Link::Identity | Link::Probability => "regression",
        Link::Log => "poisson",
    };
    let mut blocks = vec![one_leaf(0, base)];
    for (at, tree) in (1..).zip(trees) {
        blocks.push(block(at, model, tree)?);
    }
    let mut text = format!(
        "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx={}\nobjective={objective}\n\
         feature_names={}\nfeature_infos={}\ntree_sizes={}\n\n",
        inputs.len() - 1,
        inputs.join(" "),
        joined(inputs.iter().map(|_| "[-inf:inf]")),
        joined(blocks.iter().map(String::len)),
    );
    blocks.iter().for_each(|block| text.push_str(block));
    text.push_str("end of trees\n\nfeature_importances:\n\nparameters:\nend of parameters\n\npandas_categorical:null\n");
    Ok(text)
}

fn one_leaf(at: usize, value: f64) -> String {
    format!("Tree={at}\nnum_leaves=1\nnum_cat=0\nleaf_value={value:?}\nis_linear=0\nshrinkage=1\n\n\n")
}

fn block(at: usize, model: &GbdtModel, tree: &Tree) -> Result<String, LearnError> {
    if tree.nodes.is_empty() {
        return Ok(one_leaf(at, tree.leaves[0]));
    }
    let lists = tree.nodes.iter().map(|node| listed(model, tree, node)).collect::<Result<Vec<_>, _>>()?;
    let sets: Vec<Vec<u32>> = lists.iter().flatten().map(Listed::words).collect();
    let decision = |(node, list): (&Node, &Option<Listed>)| match list {
        Some(_) => CATEGORICAL,
        None if node.missing_left => MISSING_IS_NAN | MISSING_LEFT,
        None => MISSING_IS_NAN,
    };
    // The threshold of a node that asks for categories is the number of its set.
    let mut sets_before = 0;
    let thresholds = tree.nodes.iter().zip(&lists).map(|(node, list)| {
        sets_before += usize::from(list.is_some());
        if list.is_some() { (sets_before - 1).to_string() } else { Number(node.threshold).to_string() }
    });
    let exchanged = |list: &Option<Listed>| list.as_ref().is_some_and(|list| list.exchanged);
    let child = |child: Child| match child {
        Child::Node(node) => node as i64,
        Child::Leaf(leaf) => !(leaf as i64),
    };
    let (nodes, leaves) = (&tree.nodes, &tree.leaves);
    let sides = |node: &Node, list| if exchanged(list) { (node.right(), node.left()) } else { (node.left(), node.right()) };
    let sides: Vec<_> = nodes.iter().zip(&lists).map(|(node, list)| sides(node, list)).collect();
    let none = |count: usize| joined(std::iter::repeat_n(0, count));
    let mut text = format!("Tree={at}\nnum_leaves={}\nnum_cat={}\n", leaves.len(), sets.len());
    let mut lines = vec![
        ("split_feature", joined(nodes.iter().map(|node| node.column))),
        ("split_gain", joined(nodes.iter().map(|node| Number(node.gain)))),
        ("threshold", joined(thresholds)),
        ("decision_type", joined(nodes.iter().zip(&lists).map(decision))),
        ("left_child", joined(sides.iter().map(|sides| child(sides.0)))),
        ("right_child", joined(sides.iter().map(|sides| child(sides.1)))),
        ("leaf_value", joined(leaves.iter().map(|&leaf| Number(leaf)))),
        ("leaf_weight", none(leaves.len())),
        ("leaf_count", joined(&tree.leaf_rows)),
        ("internal_value", none(nodes.len())),
        ("internal_weight", none(nodes.len())),
        ("internal_count", joined(nodes.iter().map(|node| node.rows))),
        ("is_linear", "0".to_string()),
        ("shrinkage", "1".to_string()),
    ];
    if !sets.is_empty() {
        let ends = sets.iter().scan(0, |end, words| {
            *end += words.len();
            Some(*end)
        });
        lines.insert(7, ("cat_boundaries", joined(std::iter::once(0).chain(ends))));
        lines.insert(8, ("cat_threshold", joined(sets.iter().flatten())));
    }
    for (key, line) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={line}");
    }
    text.push_str("\n\n");
    Ok(text)
}

/// A number that reads back as itself.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn joined(words: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let mut text = String::new();
    for word in words {
        let _ = write!(text, "{}{word}", if text.is_empty() { "" } else { " " });
    }
    text
}
