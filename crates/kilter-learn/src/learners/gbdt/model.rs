//! A trained forest as a [`Model`].

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::categories::{Columns, Encoders};
use super::certificate::{Certificate, certify};
use super::course::Watched;
use super::refit::Refit;
use super::scoring::{Level, Plan};
use super::shap::Explainer;
use super::tree::{Forest, Tree};
use super::{Gbdt, KIND};
use crate::format::{Header, Sealed, Writer, seal, seal_newest};
use crate::{LearnError, Link, Matrix, Model, explain};

/// Gradient-boosted trees: the margin is a base plus one leaf value a tree.
#[derive(Debug)]
pub struct GbdtModel {
    inputs: Vec<String>,
    parameters: Gbdt,
    report: Report,
    base: f64,
    /// What trees see of inputs that are categories.
    encoders: Encoders,
    trees: Vec<Tree>,
    forest: Forest,
    /// The faster way to the same bits; `None` for forests it has no room for.
    plan: Option<Plan>,
    /// Tables for explanations, some hundred bytes a leaf; made at the first one.
    explainer: OnceLock<Explainer>,
}

thread_local! {
    // A row as trees see it, so that scoring allocates nothing after the first row of a thread.
    static ENCODED: RefCell<Vec<f64>> = RefCell::default();
}

/// Rows that are encoded at once.
const BLOCK: usize = 4096;

/// How training went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rows: usize,
    /// Rows of label 1; of a classifier only.
    pub positives: Option<usize>,
    pub validation_rows: usize,
    pub validation_positives: Option<usize>,
    /// Those of this training.
    pub trees_grown: usize,
    /// Trees in the model.
    pub best_iteration: usize,
    /// Of which so many were there before, of an earlier model.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier_trees: usize,
    pub stopped_early: bool,
    /// Mean loss on the validation rows after each tree, that of the objective: log loss in nats for a classifier. Empty without validation.
    #[serde(alias = "validation_log_loss")]
    pub validation_loss: Vec<f64>,
    /// What was watched in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Watched>,
    /// How the leaves' values were learned anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit: Option<Refit>,
    /// That the trees keep the directions of `monotone`: found by a walk over them after training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl GbdtModel {
    pub(super) fn new(inputs: Vec<String>, parameters: Gbdt, report: Report, base: f64, encoders: Encoders, trees: Vec<Tree>) -> Self {
        let forest = Forest::new(&trees);
        let plan = if trees.iter().any(Tree::has_sets) { None } else { Plan::new(&trees, Level::best()) };
        GbdtModel { inputs, parameters, report, base, encoders, trees, forest, plan, explainer: OnceLock::new() }
    }

    /// The same model, scoring with no more of the processor than this: to measure what older ones do. The bits are the same.
    pub fn limited_to(mut self, level: Level) -> Self {
        self.plan = self.plan.and_then(|_| Plan::new(&self.trees, level.min(Level::best())));
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

    /// Walks over all trees once more: proof that they keep the declared directions, or an error. `None` where none is declared.
    pub fn certify(&self) -> Result<Option<Certificate>, LearnError> {
        certify(&self.trees, &self.parameters.monotone, &self.inputs)
    }

    /// What the trees' bins and statistics of categories stand for.
    pub(crate) fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// Hands over the row as trees see it.
    #[inline]
    fn encoded<T>(&self, row: &[f64], then: impl FnOnce(&[f64]) -> T) -> T {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        if self.encoders.is_empty() {
            return then(row);
        }
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            encoded.extend_from_slice(row);
            self.encoders.encode(encoded);
            then(encoded)
        })
    }

    /// Hands over the rows as trees see them, some at a time and in order.
    fn encoded_rows(&self, matrix: &Matrix, wanted: Range<usize>, mut then: impl FnMut(&Matrix, Range<usize>)) {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        if self.encoders.is_empty() {
            return then(matrix, wanted);
        }
        for start in wanted.clone().step_by(BLOCK) {
            let rows = start..wanted.end.min(start + BLOCK);
            let block = self.encoders.scored(matrix, rows).to_matrix();
            then(&block, 0..Columns::rows(&block));
        }
    }

    /// The margins of some rows: the bits of `margin`.
    pub(super) fn margins_of(&self, matrix: &Matrix, rows: Range<usize>) -> Vec<f64> {
        let mut margins = Vec::with_capacity(rows.len());
        self.encoded_rows(matrix, rows, |matrix, rows| match &self.plan {
            Some(plan) => plan.margins(self.base, matrix, rows, &mut margins),
            None => {
                let mut row = Vec::new();
                margins.extend(rows.map(|r| {
                    matrix.row(r, &mut row);
                    self.forest.sum(self.base, &row)
                }));
            }
        });
        margins
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
        self.encoded(row, |row| {
            let planned = self.plan.as_ref().and_then(|plan| plan.margin(self.base, row));
            planned.unwrap_or_else(|| self.forest.sum(self.base, row))
        })
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        self.margins_of(matrix, 0..matrix.rows())
    }

    /// Exact path-dependent TreeSHAP. The base is the mean margin over the rows that the trees were grown on.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        let explainer = self.explainer.get_or_init(|| Explainer::new(&self.trees));
        self.base + self.encoded(row, |row| explainer.explain(row, contributions))
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        let explainer = self.explainer.get_or_init(|| Explainer::new(&self.trees));
        let base = self.base + explainer.base();
        let mut all = Vec::with_capacity(matrix.rows() * (matrix.columns() + 1));
        self.encoded_rows(matrix, 0..matrix.rows(), |matrix, _| {
            explainer.explain_rows(matrix, |contributions| {
                all.extend(contributions);
                all.push(base);
            });
        });
        all
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        assert_eq!(reference.columns(), self.inputs.len(), "a matrix must have one column an input");
        let known = (!self.encoders.is_empty()).then(|| self.encoders.scored(reference, 0..reference.rows()).to_matrix());
        let reference = known.as_ref().unwrap_or(reference);
        Some(self.base + self.encoded(row, |row| explain::of_trees(&self.trees, row, reference, contributions)))
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::with_own_parts(self, row, self.encoded(row, |row| super::pairs(&self.trees, row))))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64(self.base);
        body.u32(self.trees.len() as u32);
        self.trees.iter().for_each(|tree| tree.write(&mut body));
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        if self.parameters.is_plain() {
            return seal(&header, body);
        }
        self.encoders.write(&mut body);
        self.trees.iter().for_each(|tree| tree.write_sets(&mut body));
        seal_newest(&header, body)
    }

    fn categorical_inputs(&self) -> Vec<usize> {
        self.encoders.iter().map(|encoder| encoder.input).collect()
    }

    fn unseen_categories(&self, row: &[f64]) -> usize {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        self.encoders.iter().filter(|encoder| !encoder.knows(row[encoder.input])).count()
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
    let mut trees = (0..count).map(|_| Tree::read(&mut body, inputs.len())).collect::<Result<Vec<_>, _>>()?;
    let mut encoders = Encoders::default();
    if !parameters.is_plain() {
        encoders = Encoders::read(&mut body, inputs.len())?;
        let bins = encoders.sets(inputs.len());
        trees.iter_mut().try_for_each(|tree| tree.read_sets(&mut body, &bins))?;
    }
    body.end()?;
    Ok(GbdtModel::new(inputs, parameters, report, base, encoders, trees))
}
