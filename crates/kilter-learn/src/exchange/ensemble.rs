//! Imported trees as a [`Model`], added up the way their program does.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::portable::PlainTree;
use super::tree::{OwnTest, Taken, Tree};
use crate::format::{Header, Sealed, seal};
use crate::gbdt::{self, Explainer};
use crate::linear::Coefficients;
use crate::{LearnError, Link, Matrix, Model, explain, learners};

/// Values up to this far from 0 are 0 for LightGBM.
const LIGHTGBM_ZERO: f64 = 1e-35f32 as f64;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The kind of model: the program.
    pub program: String,
    /// The version the file names.
    pub version: String,
    /// The objective, in the program's words.
    pub objective: String,
    /// What whoever uses the model should know.
    pub notes: Vec<String>,
}

/// How rows become a sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arithmetic {
    pub inputs: Inputs,
    /// Width of the running sum.
    pub sum: Width,
    /// What the sum starts from.
    pub start: f64,
    /// What the sum is divided by in the end.
    pub divisor: f64,
    /// What is added after that. Left out of a file when it is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: f64,
    pub output: Output,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// What an input is rounded to before a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inputs {
    /// 64 bits, and what is nearer to 0 than 1e-35 is 0.
    DoubleTinyIsZero,
    /// 64 bits.
    Double,
    /// 32 bits.
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Width {
    Double,
    Single,
}

/// What the sum is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Log-odds once multiplied by this.
    LogOdds(f64),
    /// The prediction itself.
    Value,
    /// The prediction's logarithm.
    Logarithm,
    /// The probability itself.
    Probability,
}

impl Inputs {
    #[inline(always)]
    pub(super) fn take(self, value: f64) -> f64 {
        match self {
            Inputs::DoubleTinyIsZero if value.abs() <= LIGHTGBM_ZERO => 0.0,
            Inputs::DoubleTinyIsZero | Inputs::Double => value,
            Inputs::Single => f64::from(value as f32),
        }
    }
}

/// An imported model: an ensemble of trees, or a line.
///
/// Its `margin` is the original's raw score (times the sigmoid's slope, where one was set), and its link that of the objective.
#[derive(Debug)]
pub struct Ensemble {
    kind: &'static str,
    inputs: Vec<String>,
    origin: Origin,
    arithmetic: Arithmetic,
    trees: Vec<Tree>,
    /// In the place of trees.
    line: Option<Coefficients>,
    /// Tables for explanations; made at the first one.
    explainer: OnceLock<Explainer<OwnTest>>,
}

impl Ensemble {
    pub(super) fn new(kind: &'static str, inputs: Vec<String>, origin: Origin, arithmetic: Arithmetic, trees: Vec<Tree>) -> Self {
        Ensemble { kind, inputs, origin, arithmetic, trees, line: None, explainer: OnceLock::new() }
    }

    pub(super) fn of_line(kind: &'static str, inputs: Vec<String>, origin: Origin, output: Output, line: Coefficients) -> Self {
        let arithmetic = Arithmetic { inputs: Inputs::Double, sum: Width::Double, start: 0.0, divisor: 1.0, offset: 0.0, output };
        Ensemble { line: Some(line), ..Ensemble::new(kind, inputs, origin, arithmetic, Vec::new()) }
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn arithmetic(&self) -> &Arithmetic {
        &self.arithmetic
    }

    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    pub(super) fn plain_trees(&self) -> Vec<PlainTree> {
        self.trees.iter().map(Tree::plain).collect()
    }

    pub(super) fn line(&self) -> Option<&Coefficients> {
        self.line.as_ref()
    }

    /// The same model under other input names, for one whose file has none or those of another system.
    pub fn with_inputs(self, inputs: Vec<String>) -> Result<Self, LearnError> {
        let expected = self.inputs.len();
        if inputs.len() != expected {
            return Err(LearnError::LengthMismatch { what: "input names", expected, found: inputs.len() });
        }
        Ok(Ensemble { inputs, ..self })
    }

    /// The sum as the program that made the model has it.
    pub fn raw(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        if let Some(line) = &self.line {
            return line.margin(row);
        }
        let Arithmetic { inputs, sum, start, divisor, offset, .. } = self.arithmetic;
        let leaves = self.trees.iter().map(|tree| tree.leaf(inputs, row));
        let total = match sum {
            Width::Double => leaves.fold(start, |sum, leaf| sum + leaf),
            Width::Single => f64::from(leaves.fold(start as f32, |sum, leaf| sum + leaf as f32)),
        };
        // One step of 64 bits and a rounding are one step of 32.
        let rounded = |total: f64| if sum == Width::Single { f64::from(total as f32) } else { total };
        let total = if divisor == 1.0 { total } else { rounded(total / divisor) };
        if offset == 0.0 { total } else { rounded(total + offset) }
    }

    fn slope(&self) -> f64 {
        if let Output::LogOdds(slope) = self.arithmetic.output { slope } else { 1.0 }
    }
}

impl Model for Ensemble {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        match self.arithmetic.output {
            Output::LogOdds(_) => Link::Logit,
            Output::Value => Link::Identity,
            Output::Logarithm => Link::Log,
            Output::Probability => Link::Probability,
        }
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.raw(row) * self.slope()
    }

    /// Rounding may carry a sum of shares over 1.
    fn probability_of(&self, margin: f64) -> f64 {
        assert!(self.link().is_classifier(), "only a classifier has a probability");
        self.link().inverse(margin).clamp(0.0, 1.0)
    }

    fn categorical_inputs(&self) -> Vec<usize> {
        let columns: BTreeSet<usize> = self.trees.iter().flat_map(Tree::categorical_columns).collect();
        columns.into_iter().collect()
    }

    /// Exact path-dependent TreeSHAP. Where the sum is one of 32 bits, the base takes up what its rounding made of the row's margin, so that
    /// base and contributions add up to it.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        if let Some(line) = &self.line {
            return line.explain(row, contributions);
        }
        let taken = || self.trees.iter().map(|tree| Taken(tree, self.arithmetic.inputs)).collect::<Vec<_>>();
        let explainer = self.explainer.get_or_init(|| Explainer::new(&taken()));
        let margin = self.margin(row);
        let mean = explainer.explain(row, contributions);
        let scale = self.slope() / self.arithmetic.divisor;
        contributions.iter_mut().for_each(|contribution| *contribution *= scale);
        match self.arithmetic.sum {
            Width::Double => (self.arithmetic.start + mean) * scale + self.arithmetic.offset * self.slope(),
            Width::Single => margin - contributions.iter().sum::<f64>(),
        }
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        if self.line.is_some() {
            return Some(explain::of_pairs(self, row, reference, contributions));
        }
        let taken: Vec<_> = self.trees.iter().map(|tree| Taken(tree, self.arithmetic.inputs)).collect();
        let mean = explain::of_trees(&taken, row, reference, contributions);
        let scale = self.slope() / self.arithmetic.divisor;
        contributions.iter_mut().for_each(|contribution| *contribution *= scale);
        Some(match self.arithmetic.sum {
            Width::Double => (self.arithmetic.start + mean) * scale + self.arithmetic.offset * self.slope(),
            Width::Single => self.margin(row) - contributions.iter().sum::<f64>(),
        })
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        if self.line.is_some() {
            return Some(explain::no_interactions(self, row));
        }
        let taken: Vec<_> = self.trees.iter().map(|tree| Taken(tree, self.arithmetic.inputs)).collect();
        let scale = self.slope() / self.arithmetic.divisor;
        let pairs = gbdt::pairs(&taken, row).into_iter().map(|pair| pair * scale).collect();
        Some(explain::with_own_parts(self, row, pairs))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = self.line.as_ref().map(Coefficients::body).unwrap_or_default();
        if self.line.is_none() {
            body.u32(self.trees.len() as u32);
            self.trees.iter().for_each(|tree| tree.write(&mut body));
        }
        let header = Header {
            kind: self.kind.into(),
            inputs: self.inputs.clone(),
            parameters: self.arithmetic.clone(),
            report: self.origin.clone(),
        };
        seal(&header, body)
    }

    /// Total gain of the splits on each input, where the file has it.
    fn importance(&self) -> Vec<f64> {
        if let Some(line) = &self.line {
            return line.importance();
        }
        let mut gains = vec![0.0; self.inputs.len()];
        for (column, gain) in self.trees.iter().flat_map(Tree::gains) {
            gains[column] += gain;
        }
        gains
    }

    fn describe(&self) -> serde_json::Value {
        if let Some(line) = &self.line {
            return serde_json::json!({
                "kind": self.kind,
                "inputs": self.inputs,
                "origin": self.origin,
                "output": self.arithmetic.output,
                "intercept": line.margin(&vec![0.0; self.inputs.len()]),
                "coefficients": line.raw(),
            });
        }
        serde_json::json!({
            "kind": self.kind,
            "inputs": self.inputs,
            "origin": self.origin,
            "arithmetic": self.arithmetic,
            "trees": self.trees.len(),
            "leaves": self.trees.iter().map(Tree::leaf_count).sum::<usize>(),
            "deepest": self.trees.iter().map(Tree::depth).max(),
        })
    }
}

/// Reads Kilter's own file of imported trees.
pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_trees(sealed)?))
}

/// Reads Kilter's own file of an imported line.
pub(crate) fn read_line(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_one_line(sealed)?))
}

pub(super) fn read_trees(sealed: &Sealed<'_>) -> Result<Ensemble, LearnError> {
    let Header { inputs, parameters: arithmetic, report: origin, .. } = sealed.header::<Arithmetic, Origin>()?;
    let kind = check(sealed, &inputs, &arithmetic)?;
    let mut body = sealed.body();
    let count = body.u32()? as usize;
    body.room_for(count, 24)?;
    let trees = (0..count).map(|_| Tree::read(&mut body, inputs.len())).collect::<Result<Vec<_>, _>>()?;
    body.end()?;
    Ok(Ensemble::new(kind, inputs, origin, arithmetic, trees))
}

pub(super) fn read_one_line(sealed: &Sealed<'_>) -> Result<Ensemble, LearnError> {
    let Header { inputs, parameters: arithmetic, report: origin, .. } = sealed.header::<Arithmetic, Origin>()?;
    let kind = check(sealed, &inputs, &arithmetic)?;
    let line = Coefficients::read(sealed, inputs.len())?;
    Ok(Ensemble { arithmetic, ..Ensemble::of_line(kind, inputs, origin, Output::Value, line) })
}

/// The kind of a file whose numbers are of use.
fn check(sealed: &Sealed<'_>, inputs: &[String], arithmetic: &Arithmetic) -> Result<&'static str, LearnError> {
    let known = learners::KINDS.iter().find(|(kind, _)| *kind == sealed.kind);
    let (kind, _) = known.ok_or_else(|| LearnError::UnknownKind { kind: sealed.kind.clone() })?;
    let usable =
        [arithmetic.start, arithmetic.offset, arithmetic.divisor].iter().all(|number| number.is_finite()) && arithmetic.divisor > 0.0;
    let slope_usable = !matches!(arithmetic.output, Output::LogOdds(slope) if !slope.is_finite());
    if inputs.is_empty() || !usable || !slope_usable {
        return Err(LearnError::corrupt("it has no inputs, or numbers of no use"));
    }
    Ok(kind)
}
