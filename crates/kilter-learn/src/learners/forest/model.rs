//! A grown forest as a [`Model`].

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::super::gbdt::Explainer;
use super::super::gbdt::scoring::{Level, Plan};
use super::super::gbdt::tree::{Forest as Walk, Tree};
use super::{Forest, KIND, Target};
use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model};

/// Trees walked side by side; of many rows at once, whose nodes stay in the nearer caches.
const GROUP: usize = 8;
/// Rows walked through one group before the next.
const BLOCK: usize = 256;
/// Tables for explanations are kept up to this many splits times columns. Beyond it each tree's are made anew for each call.
const MOST_KEPT: usize = 2_000_000;

/// The mean of many trees.
#[derive(Debug)]
pub struct ForestModel {
    inputs: Vec<String>,
    parameters: Forest,
    report: Report,
    trees: Vec<Tree>,
    walks: Vec<Walk>,
    /// The faster way to the same bits; `None` for forests it has no room for.
    plan: Option<Plan>,
    /// Made at the first explanation; `None` for forests whose tables would be too large to keep.
    explainer: OnceLock<Option<Explainer>>,
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
        let walks = trees.chunks(GROUP).map(Walk::new).collect();
        let plan = Plan::new(&trees, Level::best());
        ForestModel { inputs, parameters, report, trees, walks, plan, explainer: OnceLock::new() }
    }

    pub(crate) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    pub fn parameters(&self) -> &Forest {
        &self.parameters
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    #[cfg(test)]
    pub(super) fn plan_is_none(&self) -> bool {
        self.plan.is_none()
    }

    fn count(&self) -> f64 {
        self.trees.len() as f64
    }

    pub(super) fn explainer(&self) -> Option<&Explainer> {
        let make = || {
            let splits: usize = self.trees.iter().map(|tree| tree.nodes.len()).sum();
            (splits * self.inputs.len() <= MOST_KEPT).then(|| Explainer::new(&self.trees))
        };
        self.explainer.get_or_init(make).as_ref()
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
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let planned = self.plan.as_ref().and_then(|plan| plan.margin(0.0, row));
        planned.unwrap_or_else(|| self.walks.iter().fold(0.0, |sum, walk| walk.sum(sum, row))) / self.count()
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        let mut sums = Vec::with_capacity(matrix.rows());
        match &self.plan {
            Some(plan) => plan.margins(0.0, matrix, 0..matrix.rows(), &mut sums),
            None => {
                let width = matrix.columns();
                let mut rows = Vec::with_capacity(BLOCK * width);
                for start in (0..matrix.rows()).step_by(BLOCK) {
                    let end = matrix.rows().min(start + BLOCK);
                    rows.clear();
                    rows.extend((start..end).flat_map(|row| (0..width).map(move |column| matrix.value(row, column))));
                    sums.resize(end, 0.0);
                    for walk in &self.walks {
                        for (sum, row) in sums[start..].iter_mut().zip(rows.chunks_exact(width)) {
                            *sum = walk.sum(*sum, row);
                        }
                    }
                }
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= self.count());
        sums
    }

    /// Exact path-dependent TreeSHAP of the mean. The base is the mean output over the rows that the trees drew. A forest of very many
    /// splits keeps no tables for it, and takes its time for each row.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let base = match self.explainer() {
            Some(explainer) => explainer.explain(row, contributions),
            None => {
                let (mut base, mut sums) = (0.0, vec![0.0; row.len()]);
                for tree in &self.trees {
                    base += Explainer::new(std::slice::from_ref(tree)).explain(row, contributions);
                    sums.iter_mut().zip(&*contributions).for_each(|(sum, contribution)| *sum += contribution);
                }
                *contributions = sums;
                base
            }
        };
        contributions.iter_mut().for_each(|contribution| *contribution /= self.count());
        base / self.count()
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        let width = matrix.columns() + 1;
        let mut all = vec![0.0; matrix.rows() * width];
        let mut add = |explainer: &Explainer| {
            let mut rows = all.chunks_exact_mut(width);
            explainer.explain_rows(matrix, |contributions| {
                let values = contributions.chain(std::iter::once(explainer.base()));
                rows.next().into_iter().flatten().zip(values).for_each(|(to, value)| *to += value);
            });
        };
        match self.explainer() {
            Some(explainer) => add(explainer),
            None => self.trees.iter().for_each(|tree| add(&Explainer::new(std::slice::from_ref(tree)))),
        }
        all.iter_mut().for_each(|value| *value /= self.count());
        all
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(self.trees.len() as u32);
        self.trees.iter().for_each(|tree| tree.write(&mut body));
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// Mean over the trees of what the splits on each input take off the squared error.
    fn importance(&self) -> Vec<f64> {
        let mut gains = vec![0.0; self.inputs.len()];
        for node in self.trees.iter().flat_map(|tree| &tree.nodes) {
            gains[node.column as usize] += node.gain / self.count();
        }
        gains
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "trees": self.trees.len(),
            "leaves": self.trees.iter().map(|tree| tree.leaves.len()).sum::<usize>(),
            "gain": self.importance(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_forest(sealed)?))
}

pub(crate) fn read_forest(sealed: &Sealed<'_>) -> Result<ForestModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Forest, Report>()?;
    if inputs.is_empty() {
        return Err(LearnError::corrupt("it has no inputs"));
    }
    let mut body = sealed.body();
    let count = body.u32()? as usize;
    body.room_for(count, 4)?;
    let trees = (0..count).map(|_| Tree::read(&mut body, inputs.len())).collect::<Result<Vec<_>, _>>()?;
    body.end()?;
    if trees.is_empty() {
        return Err(LearnError::corrupt("a forest without trees"));
    }
    let is_share = |value: &f64| (0.0..=1.0).contains(value);
    if parameters.target == Target::Binary && !trees.iter().flat_map(|tree| &tree.leaves).all(is_share) {
        return Err(LearnError::corrupt("a leaf whose probability is not between 0 and 1"));
    }
    Ok(ForestModel::new(inputs, parameters, report, trees))
}
