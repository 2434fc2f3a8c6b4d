//! Kilter's boosted trees as XGBoost's JSON, which versions 1.7 to 3.x load.
//!
//! XGBoost keeps thresholds and leaves in 32 bits and sends `value < threshold` left. Each threshold becomes the least number of 32 bits above
//! Kilter's, so that a row of 32-bit numbers reaches the same leaf of every tree as here; missing values too. What differs is the sum: leaves are
//! rounded to 32 bits and added in 32 bits, which leaves some six digits of the margin. A number between a threshold and the nearest one of 32
//! bits is rounded by XGBoost before it is compared, and may go the other way. Infinite numbers are nothing that XGBoost takes.
//!
//! The margin that Kilter starts from is a first tree of one leaf, and `base_score` the prediction whose margin is 0.

use serde::Serialize;

use crate::gbdt::{Child, GbdtModel, Tree};
use crate::{LearnError, Link, Model};

/// The parent of a root.
const NONE: i32 = i32::MAX;

#[derive(Serialize)]
struct Document<'a> {
    learner: Learner<'a>,
    version: [u32; 3],
}

#[derive(Serialize)]
struct Learner<'a> {
    attributes: serde_json::Value,
    feature_names: &'a [String],
    feature_types: Vec<&'static str>,
    gradient_booster: Booster,
    learner_model_param: serde_json::Value,
    objective: serde_json::Value,
}

#[derive(Serialize)]
struct Booster {
    model: Body,
    name: &'static str,
}

#[derive(Serialize)]
struct Body {
    gbtree_model_param: serde_json::Value,
    iteration_indptr: Vec<usize>,
    tree_info: Vec<u32>,
    trees: Vec<Columns>,
}

/// A tree by columns, a place in each for every node and leaf. Children of a node lie side by side.
#[derive(Default, Serialize)]
struct Columns {
    base_weights: Vec<f32>,
    categories: [u32; 0],
    categories_nodes: [u32; 0],
    categories_segments: [u32; 0],
    categories_sizes: [u32; 0],
    default_left: Vec<u8>,
    id: usize,
    left_children: Vec<i32>,
    loss_changes: Vec<f32>,
    parents: Vec<i32>,
    right_children: Vec<i32>,
    split_conditions: Vec<f32>,
    split_indices: Vec<u32>,
    split_type: Vec<u8>,
    sum_hessian: Vec<f32>,
    tree_param: serde_json::Value,
}

pub(super) fn xgboost(model: &GbdtModel) -> Result<Vec<u8>, LearnError> {
    let (inputs, (base, trees)) = (model.inputs(), model.parts());
    let refuse = |what: String, hint| Err(LearnError::Foreign { format: "XGBoost", at: String::new(), what, hint });
    if let Some(name) = inputs.iter().find(|name| name.is_empty() || name.contains(['[', ']', '<'])) {
        return refuse(format!("it has no way to write the input name {name:?}"), "names without brackets and `<` can be exported");
    }
    // The objective tells how a sum becomes a prediction, and at which prediction the sum is 0.
    let (objective, parameters, start) = match model.link() {
        Link::Logit => ("binary:logistic", ("reg_loss_param", ["scale_pos_weight", "1"]), "5E-1"),
        // Boosted trees have no margins of the last kind.
        Link::Identity | Link::Probability => ("reg:squarederror", ("reg_loss_param", ["scale_pos_weight", "1"]), "0E0"),
        Link::Log => ("count:poisson", ("poisson_regression_param", ["max_delta_step", "0.7"]), "1E0"),
    };
    let first = Tree { leaves: vec![base], leaf_rows: vec![1], ..Tree::default() };
    let all = std::iter::once(&first).chain(trees).enumerate().map(|(at, tree)| columns(at, tree, inputs.len()));
    let trees = match all.collect::<Result<Vec<_>, f64>>() {
        Ok(trees) => trees,
        Err(number) => return refuse(format!("the leaf {number} is beyond the numbers of 32 bits"), "scale the label and train again"),
    };
    let count = trees.len();
    let document = Document {
        learner: Learner {
            attributes: serde_json::json!({}),
            feature_names: inputs,
            feature_types: vec!["float"; inputs.len()],
            gradient_booster: Booster {
                model: Body {
                    gbtree_model_param: serde_json::json!({ "num_parallel_tree": "1", "num_trees": count.to_string() }),
                    iteration_indptr: (0..=count).collect(),
                    tree_info: vec![0; count],
                    trees,
                },
                name: "gbtree",
            },
            learner_model_param: serde_json::json!({
                "base_score": start,
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": inputs.len().to_string(),
                "num_target": "1",
            }),
            objective: serde_json::json!({ "name": objective, parameters.0: { parameters.1[0]: parameters.1[1] } }),
        },
        version: [2, 1, 0],
    };
    serde_json::to_vec(&document).map_err(|error| LearnError::corrupt(error.to_string()))
}

/// The least number of 32 bits above a threshold: values of 32 bits below it are those up to the threshold. Above the largest number, as where
/// missing values alone go right, it is that number, for JSON has no word for infinity.
fn above(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    let least = if f64::from(nearest) > threshold { nearest } else { nearest.next_up() };
    least.clamp(f32::MIN, f32::MAX)
}

/// A tree as columns; else the leaf that 32 bits have no room for.
fn columns(id: usize, tree: &Tree, inputs: usize) -> Result<Columns, f64> {
    let mut columns = Columns::default();
    // Places are given in the order in which children are met, two at a time.
    let mut open = std::collections::VecDeque::from([(tree.root(), NONE)]);
    let mut next = 1;
    while let Some((at, parent)) = open.pop_front() {
        match at {
            Child::Leaf(leaf) => {
                let value = tree.leaves[leaf];
                if !(value as f32).is_finite() {
                    return Err(value);
                }
                columns.push(parent, [-1, -1], value as f32, tree.rows(at));
            }
            Child::Node(node) => {
                let own = columns.left_children.len() as i32;
                let node = &tree.nodes[node];
                columns.push(parent, [next, next + 1], above(node.threshold), tree.rows(at));
                columns.default_left[own as usize] = u8::from(node.missing_left);
                columns.split_indices[own as usize] = node.column;
                columns.loss_changes[own as usize] = node.gain as f32;
                open.extend([(node.left(), own), (node.right(), own)]);
                next += 2;
            }
        }
    }
    Ok(columns.finished(id, inputs))
}

impl Columns {
    fn push(&mut self, parent: i32, children: [i32; 2], condition: f32, rows: f64) {
        self.parents.push(parent);
        self.left_children.push(children[0]);
        self.right_children.push(children[1]);
        self.split_conditions.push(condition);
        self.sum_hessian.push(rows as f32);
        self.default_left.push(0);
        self.split_indices.push(0);
        self.split_type.push(0);
        self.loss_changes.push(0.0);
        self.base_weights.push(0.0);
    }

    fn finished(mut self, id: usize, inputs: usize) -> Self {
        self.id = id;
        self.tree_param = serde_json::json!({
            "num_deleted": "0",
            "num_feature": inputs.to_string(),
            "num_nodes": self.left_children.len().to_string(),
            "size_leaf_vector": "1",
        });
        self
    }
}
