//! A grown forest as a [`Model`].

use serde::{Deserialize, Serialize};

use super::super::ensemble::Ensemble;
use super::super::gbdt::Tree;
use super::{Forest, KIND, Target};
use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model};

/// The mean of many trees.
#[derive(Debug)]
pub struct ForestModel {
    inputs: Vec<String>,
    parameters: Forest,
    report: Report,
    pub(super) trees: Ensemble,
}

/// How training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rows: usize,
    /// Rows of label 1; of a classifier only.
    pub positives: Option<usize>,
    pub out_of_bag: Option<OutOfBag>,
}

/// Each row judged by the trees that did not draw it: nearly as good as rows held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutOfBag {
    /// Rows that some tree did not draw.
    pub rows: usize,
    /// Of a classifier it is the Brier score.
    pub mean_squared_error: f64,
    pub auc: Option<f64>,
}

impl ForestModel {
    pub(super) fn new(inputs: Vec<String>, parameters: Forest, report: Report, trees: Vec<Tree>) -> Self {
        let trees = Ensemble::new(trees, inputs.len());
        ForestModel { inputs, parameters, report, trees }
    }

    pub(crate) fn trees(&self) -> &[Tree] {
        &self.trees.trees
    }

    pub fn parameters(&self) -> &Forest {
        &self.parameters
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    fn mean(&self, mut sums: Vec<f64>) -> Vec<f64> {
        sums.iter_mut().for_each(|sum| *sum /= self.trees.count());
        sums
    }
}

impl Model for ForestModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        match self.parameters.target {
            Target::Binary => Link::Probability,
            Target::Mean => Link::Identity,
        }
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.trees.sum(row) / self.trees.count()
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        self.mean(self.trees.sums(matrix))
    }

    /// Exact path-dependent TreeSHAP of the mean. The base is the mean output over the rows that the trees drew. A forest of very many
    /// splits keeps no tables for it, and takes its time for each row.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        let base = self.trees.explain(row, contributions);
        contributions.iter_mut().for_each(|contribution| *contribution /= self.trees.count());
        base / self.trees.count()
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        let base = self.trees.explain_against(row, reference, contributions);
        contributions.iter_mut().for_each(|contribution| *contribution /= self.trees.count());
        Some(base / self.trees.count())
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        self.mean(self.trees.explanations(matrix))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.trees.write(&mut body);
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// Mean over the trees of what the splits on each input take off the squared error.
    fn importance(&self) -> Vec<f64> {
        self.mean(self.trees.gains())
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "trees": self.trees.trees.len(),
            "leaves": self.trees.leaves(),
            "gain": self.importance(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_forest(sealed)?))
}

pub(crate) fn read_forest(sealed: &Sealed<'_>) -> Result<ForestModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Forest, Report>()?;
    let mut body = sealed.body();
    let trees = Ensemble::read(&mut body, inputs.len())?;
    body.end()?;
    let is_share = |value: &f64| (0.0..=1.0).contains(value);
    if parameters.target == Target::Binary && !trees.trees.iter().flat_map(|tree| &tree.leaves).all(is_share) {
        return Err(LearnError::corrupt("a leaf whose probability is not between 0 and 1"));
    }
    Ok(ForestModel { inputs, parameters, report, trees })
}
