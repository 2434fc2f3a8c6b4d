//! Kilter's boosted trees as LightGBM's text format, version 4: what it scores of a row is Kilter's margin, to the bit.
//!
//! Both add in 64 bits in tree order, and `value <= threshold` goes left in both. The margin that Kilter starts from becomes a first tree of one
//! leaf. One thing differs: to LightGBM a value nearer to 0 than 1e-35 is 0.

use std::fmt::Write;

use crate::gbdt::{Child, GbdtModel, Tree};
use crate::{LearnError, Link, Model};

/// Bits of `decision_type`: missing values are NaN, and where they go.
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
    let blocks: Vec<String> = std::iter::once(one_leaf(0, base)).chain((1..).zip(trees).map(|(at, tree)| block(at, tree))).collect();
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

fn block(at: usize, tree: &Tree) -> String {
    if tree.nodes.is_empty() {
        return one_leaf(at, tree.leaves[0]);
    }
    let decision = |missing_left: bool| if missing_left { MISSING_IS_NAN | MISSING_LEFT } else { MISSING_IS_NAN };
    let child = |child: Child| match child {
        Child::Node(node) => node as i64,
        Child::Leaf(leaf) => !(leaf as i64),
    };
    let (nodes, leaves) = (&tree.nodes, &tree.leaves);
    let none = |count: usize| joined(std::iter::repeat_n(0, count));
    let mut text = format!("Tree={at}\nnum_leaves={}\nnum_cat=0\n", leaves.len());
    let lines = [
        ("split_feature", joined(nodes.iter().map(|node| node.column))),
        ("split_gain", joined(nodes.iter().map(|node| Number(node.gain)))),
        ("threshold", joined(nodes.iter().map(|node| Number(node.threshold)))),
        ("decision_type", joined(nodes.iter().map(|node| decision(node.missing_left)))),
        ("left_child", joined(nodes.iter().map(|node| child(node.left())))),
        ("right_child", joined(nodes.iter().map(|node| child(node.right())))),
        ("leaf_value", joined(leaves.iter().map(|&leaf| Number(leaf)))),
        ("leaf_weight", none(leaves.len())),
        ("leaf_count", joined(&tree.leaf_rows)),
        ("internal_value", none(nodes.len())),
        ("internal_weight", none(nodes.len())),
        ("internal_count", joined(nodes.iter().map(|node| node.rows))),
        ("is_linear", "0".to_string()),
        ("shrinkage", "1".to_string()),
    ];
    for (key, line) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={line}");
    }
    text.push_str("\n\n");
    text
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
