//! Hoeffding trees: decision trees that grow row by row (VFDT: Domingos & Hulten 2000), and that grow anew where the stream has changed (HAT with
//! ADWIN: Bifet & Gavaldà 2009).
//!
//! A leaf keeps, for each class and column, weight, mean, variance, least and greatest value, and no row. After every `grace_period` it looks for the
//! threshold that would tell most about the class, and splits by it once Hoeffding's bound says that no other column would do better:
//! `sqrt(log2(classes)^2 * ln(1 / delta) / (2 n))` on the difference of information gains, or less than `tau` on the bound itself. What so many
//! rows would tell by chance is no reason to split.
//!
//! Every node watches its errors through a window of adaptive length ([`Adwin`]). Where they have risen, an alternate grows beside a split, from the rows
//! that come from now on, answers as soon as it errs less, and takes its place once that is sure. Leaves answer by the class they have most of or by naive
//! Bayes, by whichever has been right more often, and naive Bayes no surer than its record allows.
//!
//! A missing value goes to the side that had more rows when the split was made; naive Bayes leaves it out. Infinite values, and those beyond 1e100,
//! count as missing.
//!
//! `node` learns and answers, `leaf` keeps what a leaf has seen, `file` is the state as bytes.

mod file;
mod leaf;
mod node;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::adwin::Adwin;
use super::{Online, Spread, check_start, is_there};
use crate::math::sigmoid;
use crate::{LearnError, Link, Model, TrainingSet};

pub(crate) use file::read;
pub(super) use file::read_online;
use node::{Asked, Lesson, Node, output};

pub const KIND: &str = "hoeffding_tree";

/// Levels of a tree at most, whatever is asked for.
const DEEPEST: usize = 60;
/// Classes at most.
const MOST_CLASSES: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoeffdingTree {
    /// Weight of rows between two looks for a split of a leaf.
    pub grace_period: f64,
    /// How likely the split is another one than all rows that are still to come would choose.
    pub delta: f64,
    /// Below this bound columns count as equally good.
    pub tau: f64,
    pub max_depth: usize,
    /// Leaves of the tree and its alternates together.
    pub max_leaves: usize,
    pub leaf_prediction: LeafPrediction,
    /// How likely steady errors are taken for risen ones. `None`: the tree never adapts, and is a plain Hoeffding tree.
    pub drift_delta: Option<f64>,
    /// Errors that both windows must have before an alternate is judged.
    pub drift_window: u64,
    /// How likely an alternate takes over or goes without being better or worse.
    pub switch_significance: f64,
}

/// How a leaf answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeafPrediction {
    Majority,
    NaiveBayes,
    /// By whichever of the two has been right more often at this leaf.
    #[default]
    Adaptive,
}

impl Default for HoeffdingTree {
    fn default() -> Self {
        HoeffdingTree {
            grace_period: 200.0,
            delta: 1e-5,
            tau: 0.05,
            max_depth: 20,
            max_leaves: 1_000,
            leaf_prediction: LeafPrediction::Adaptive,
            drift_delta: Some(0.002),
            drift_window: 300,
            switch_significance: 0.05,
        }
    }
}

impl HoeffdingTree {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: &dyn ToString, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found: found.to_string(), must }) }
        };
        let share = |value: f64| value > 0.0 && value < 1.0;
        require((1.0..=1e12).contains(&self.grace_period), "grace_period", &self.grace_period, "1 to 1e12")?;
        require(share(self.delta), "delta", &self.delta, "above 0 and below 1")?;
        require((0.0..=1.0).contains(&self.tau), "tau", &self.tau, "0 to 1")?;
        require((1..=DEEPEST).contains(&self.max_depth), "max_depth", &self.max_depth, "1 to 60")?;
        require((1..=100_000).contains(&self.max_leaves), "max_leaves", &self.max_leaves, "1 to 100000")?;
        let drift_delta = self.drift_delta.unwrap_or(0.5);
        require(share(drift_delta), "drift_delta", &drift_delta, "above 0 and below 1, or none")?;
        require((1..=1 << 40).contains(&self.drift_window), "drift_window", &self.drift_window, "1 to 1099511627776")?;
        require(share(self.switch_significance), "switch_significance", &self.switch_significance, "above 0 and below 1")
    }

    fn window(&self) -> Adwin {
        Adwin::new(self.drift_delta.unwrap_or(0.5))
    }
}

/// A Hoeffding tree as far as it has grown. As a [`Model`] it has two classes.
#[derive(Clone, Debug, PartialEq)]
pub struct HoeffdingTreeModel {
    inputs: Vec<String>,
    parameters: HoeffdingTree,
    report: Report,
    root: Node,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Report {
    classes: usize,
    rows: u64,
    /// Leaves of the tree and its alternates.
    leaves: usize,
    /// Alternates that were begun, that took over, that were given up.
    begun: u64,
    switched: u64,
    dropped: u64,
}

thread_local! {
    // What a leaf says of the classes, so that scoring allocates nothing after the first row.
    static SCRATCH: RefCell<[Vec<f64>; 2]> = RefCell::default();
}

/// Nothing learned yet: a leaf that finds all classes alike.
pub fn start(inputs: &[String], classes: usize, parameters: &HoeffdingTree) -> Result<HoeffdingTreeModel, LearnError> {
    parameters.check()?;
    check_start(inputs)?;
    if !(2..=MOST_CLASSES).contains(&classes) {
        return Err(LearnError::BadParameter { name: "classes", found: classes.to_string(), must: "2 to 1000" });
    }
    let root = Node::empty(inputs.len(), classes, parameters);
    let report = Report { classes, leaves: 1, ..Report::default() };
    Ok(HoeffdingTreeModel { inputs: inputs.to_vec(), parameters: parameters.clone(), report, root })
}

/// One pass over the rows, in their order; labels are 0 and 1.
pub fn fit(training_set: &TrainingSet, parameters: &HoeffdingTree) -> Result<HoeffdingTreeModel, LearnError> {
    super::fit(start(training_set.matrix.names(), 2, parameters)?, training_set)
}

impl HoeffdingTreeModel {
    /// Alternates that have taken the place of a part of the tree.
    pub fn switches(&self) -> u64 {
        self.report.switched
    }

    /// Leaves of the tree and its alternates.
    pub fn leaves(&self) -> usize {
        self.report.leaves
    }

    fn with_logs<T>(&self, row: &[f64], then: impl FnOnce(&[f64]) -> T) -> T {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        SCRATCH.with_borrow_mut(|[logs, column]| {
            self.root.logs(row, &self.parameters, logs, column);
            then(logs)
        })
    }

    fn must_have_two_classes(&self) {
        assert_eq!(self.report.classes, 2, "as a model of one output a tree has two classes");
    }
}

impl Online for HoeffdingTreeModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn classes(&self) -> usize {
        self.report.classes
    }

    fn rows(&self) -> u64 {
        self.report.rows
    }

    fn take(&mut self, row: &[f64], class: usize, weight: f64) {
        self.report.rows += 1;
        let (parameters, report) = (&self.parameters, &mut self.report);
        SCRATCH.with_borrow_mut(|[logs, column]| {
            self.root.learn(&mut Lesson { parameters, row, class, weight, report, logs, column }, 1, true);
        });
    }

    fn class_probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        self.with_logs(row, |logs| match logs {
            [zero, one] => {
                let positive = sigmoid(one - zero);
                out.extend([1.0 - positive, positive]);
            }
            logs => {
                let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                out.extend(logs.iter().map(|log| libm::exp(log - most)));
                let total: f64 = out.iter().sum();
                out.iter_mut().for_each(|share| *share /= total);
            }
        });
    }

    fn class_margins(&self, row: &[f64], out: &mut Vec<f64>) {
        let outputs = if self.report.classes == 2 { 1 } else { self.report.classes };
        out.clear();
        self.with_logs(row, |logs| out.extend((0..outputs).map(|of| output(logs, of))));
    }

    /// The base is what the root says, and how alternates on the way differ from the nodes that they answer for; each split adds how it moves the shares
    /// of the classes, and naive Bayes what it takes from each value.
    fn explain(&self, row: &[f64], of: usize, contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        contributions.clear();
        contributions.resize(row.len(), 0.0);
        let mut node = self.root.answering();
        let mut base = node.share(of);
        while let Some((column, child)) = node.next(row) {
            contributions[column] += child.share(of) - node.share(of);
            node = child.answering();
            base += node.share(of) - child.share(of);
        }
        SCRATCH.with_borrow_mut(|[logs, column]| {
            node.add_evidence(&mut Asked { parameters: &self.parameters, row, logs, column }, of, contributions);
        });
        base
    }

    fn as_model(&self) -> Option<&dyn Model> {
        (self.report.classes == 2).then_some(self)
    }

    fn importance(&self) -> Vec<f64> {
        let mut importance = vec![0.0; self.inputs.len()];
        self.root.add_information(&mut importance);
        importance
    }

    fn to_bytes(&self) -> Vec<u8> {
        file::write(self)
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "depth": self.root.depth(),
            "importance": Online::importance(self),
        })
    }
}

impl Model for HoeffdingTreeModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        Link::Logit
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.must_have_two_classes();
        self.with_logs(row, |logs| output(logs, 0))
    }

    /// The base is what the root says; each split on the way adds how it moves the odds, and naive Bayes what it takes from each value.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.must_have_two_classes();
        Online::explain(self, row, 0, contributions)
    }

    fn to_bytes(&self) -> Vec<u8> {
        Online::to_bytes(self)
    }

    /// Information about the class, in bits times the weight of rows: that of the splits made, and at leaves that of the best split each input would
    /// make.
    fn importance(&self) -> Vec<f64> {
        Online::importance(self)
    }

    fn describe(&self) -> serde_json::Value {
        Online::describe(self)
    }
}

#[cfg(test)]
mod tests;
