//! A trained forest as a [`Model`].

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::scoring::{Level, Plan};
use super::shap::Explainer;
use super::tree::{Forest, Tree};
use super::{Gbdt, KIND};
use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model, explain};

/// Gradient-boosted trees: the margin is a base plus one leaf value a tree.
#[derive(Debug)]
pub struct GbdtModel {
    inputs: Vec<String>,
    parameters: Gbdt,
    report: Report,
    base: f64,
    trees: Vec<Tree>,
    forest: Forest,
    /// The faster way to the same bits; `None` for forests it has no room for.
    plan: Option<Plan>,
    /// Tables for explanations, some hundred bytes a leaf; made at the first one.
    explainer: OnceLock<Explainer>,
}

/// How training went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rows: usize,
    /// Rows of label 1; of a classifier only.
    pub positives: Option<usize>,
    pub validation_rows: usize,
    pub validation_positives: Option<usize>,
    pub trees_grown: usize,
    /// Trees in the model.
    pub best_iteration: usize,
    pub stopped_early: bool,
    /// Mean loss on the validation rows after each tree, that of the objective: log loss in nats for a classifier. Empty without validation.
    #[serde(alias = "validation_log_loss")]
    pub validation_loss: Vec<f64>,
}

impl GbdtModel {
    pub(super) fn new(inputs: Vec<String>, parameters: Gbdt, report: Report, base: f64, trees: Vec<Tree>) -> Self {
        let forest = Forest::new(&trees);
        let plan = Plan::new(&trees, Level::best());
        GbdtModel { inputs, parameters, report, base, trees, forest, plan, explainer: OnceLock::new() }
    }

    /// The same model, scoring with no more of the processor than this: to measure what older ones do. The bits are the same.
    pub fn limited_to(mut self, level: Level) -> Self {
        self.plan = Plan::new(&self.trees, level.min(Level::best()));
        self
    }

    pub fn parameters(&self) -> &Gbdt {
        &self.parameters
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Number of trees that score.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// What a margin starts from, and what is added to it in this order.
    pub(crate) fn parts(&self) -> (f64, &[Tree]) {
        (self.base, &self.trees)
    }

    #[cfg(test)]
    pub(super) fn tree(&self, index: usize) -> &Tree {
        &self.trees[index]
    }
}

impl Model for GbdtModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        self.parameters.objective.link()
    }

    fn margin(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let planned = self.plan.as_ref().and_then(|plan| plan.margin(self.base, row));
        planned.unwrap_or_else(|| self.forest.sum(self.base, row))
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        let mut margins = Vec::with_capacity(matrix.rows());
        match &self.plan {
            Some(plan) => plan.margins(self.base, matrix, 0..matrix.rows(), &mut margins),
            None => {
                let mut row = Vec::new();
                margins.extend((0..matrix.rows()).map(|r| {
                    matrix.row(r, &mut row);
                    self.forest.sum(self.base, &row)
                }));
            }
        }
        margins
    }

    /// Exact path-dependent TreeSHAP. The base is the mean margin over the rows that the trees were grown on.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let explainer = self.explainer.get_or_init(|| Explainer::new(&self.trees));
        self.base + explainer.explain(row, contributions)
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        let explainer = self.explainer.get_or_init(|| Explainer::new(&self.trees));
        let base = self.base + explainer.base();
        let mut all = Vec::with_capacity(matrix.rows() * (matrix.columns() + 1));
        explainer.explain_rows(matrix, |contributions| {
            all.extend(contributions);
            all.push(base);
        });
        all
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::with_own_parts(self, row, super::pairs(&self.trees, row)))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64(self.base);
        body.u32(self.trees.len() as u32);
        self.trees.iter().for_each(|tree| tree.write(&mut body));
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// Total gain of the splits on each input.
    fn importance(&self) -> Vec<f64> {
        let mut gains = vec![0.0; self.inputs.len()];
        for node in self.trees.iter().flat_map(|tree| &tree.nodes) {
            gains[node.column as usize] += node.gain;
        }
        gains
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "base_margin": self.base,
            "trees": self.trees.len(),
            "leaves": self.trees.iter().map(|tree| tree.leaves.len()).sum::<usize>(),
            "deepest": self.trees.iter().map(Tree::depth).max(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_trees(sealed)?))
}

pub(crate) fn read_trees(sealed: &Sealed<'_>) -> Result<GbdtModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Gbdt, Report>()?;
    if inputs.is_empty() {
        return Err(LearnError::corrupt("it has no inputs"));
    }
    if parameters.objective.check().is_err() {
        return Err(LearnError::corrupt("its objective has an impossible parameter"));
    }
    let mut body = sealed.body();
    let base = body.f64()?;
    if !base.is_finite() {
        return Err(LearnError::corrupt("its base is not a finite number"));
    }
    let count = body.u32()? as usize;
    body.room_for(count, 4)?;
    let trees = (0..count).map(|_| Tree::read(&mut body, inputs.len())).collect::<Result<Vec<_>, _>>()?;
    body.end()?;
    Ok(GbdtModel::new(inputs, parameters, report, base, trees))
}
