//! Fitted steps and the model behind them, as one [`Model`].

use std::cell::RefCell;

use super::columns::Layer;
use super::{KIND, Step};
use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model, load};

/// A model of what its steps make of a row.
pub struct PipelineModel {
    inputs: Vec<String>,
    steps: Vec<Step>,
    layers: Vec<Layer>,
    model: Box<dyn Model>,
    /// For each of the model's inputs the input it is made of.
    sources: Vec<usize>,
}

thread_local! {
    // Rows under way, so that scoring allocates nothing after the first one.
    static ROWS: RefCell<[Vec<f64>; 2]> = RefCell::default();
    static OF_MODEL: RefCell<Vec<f64>> = RefCell::default();
}

impl PipelineModel {
    pub(super) fn new(inputs: Vec<String>, steps: Vec<Step>, layers: Vec<Layer>, model: Box<dyn Model>) -> Self {
        let mut sources: Vec<usize> = (0..inputs.len()).collect();
        for layer in &layers {
            sources = layer.columns.iter().map(|column| sources[column.from]).collect();
        }
        PipelineModel { inputs, steps, layers, model, sources }
    }

    /// The model of the prepared columns.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What the steps make of the rows: what the model sees.
    pub fn prepare(&self, matrix: &Matrix) -> Matrix {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        self.layers.iter().fold(matrix.clone(), |matrix, layer| layer.matrix(&matrix))
    }

    fn prepared<T>(&self, row: &[f64], then: impl FnOnce(&[f64]) -> T) -> T {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        ROWS.with_borrow_mut(|[now, next]| {
            now.clear();
            now.extend_from_slice(row);
            for layer in &self.layers {
                layer.row(now, next);
                std::mem::swap(now, next);
            }
            then(now)
        })
    }

    /// Sums what belongs to the same input.
    fn by_input(&self, of_model: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        self.sources.iter().zip(of_model).for_each(|(&source, value)| out[source] += value);
    }
}

impl Model for PipelineModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        self.model.link()
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.prepared(row, |row| self.model.margin(row))
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        self.model.margins(&self.prepare(matrix))
    }

    fn prediction_of(&self, margin: f64) -> f64 {
        self.model.prediction_of(margin)
    }

    fn probability_of(&self, margin: f64) -> f64 {
        self.model.probability_of(margin)
    }

    fn points(&self, row: &[f64]) -> Option<f64> {
        self.prepared(row, |row| self.model.points(row))
    }

    /// Those of the model, summed by the input behind each of its columns.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        contributions.resize(self.inputs.len(), 0.0);
        self.prepared(row, |row| {
            OF_MODEL.with_borrow_mut(|of_model| {
                let base = self.model.explain(row, of_model);
                self.by_input(of_model, contributions);
                base
            })
        })
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        contributions.resize(self.inputs.len(), 0.0);
        let reference = self.prepare(reference);
        self.prepared(row, |row| {
            OF_MODEL.with_borrow_mut(|of_model| {
                let base = self.model.explain_against(row, &reference, of_model)?;
                self.by_input(of_model, contributions);
                Some(base)
            })
        })
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        let (own, width) = (self.model.explanations(&self.prepare(matrix)), self.inputs.len() + 1);
        let mut all = vec![0.0; matrix.rows() * width];
        for (of_model, out) in own.chunks_exact(self.sources.len() + 1).zip(all.chunks_exact_mut(width)) {
            self.by_input(&of_model[..self.sources.len()], &mut out[..width - 1]);
            out[width - 1] = of_model[self.sources.len()];
        }
        all
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(self.layers.len() as u32);
        self.layers.iter().for_each(|layer| layer.write(&mut body));
        body.block(&self.model.to_bytes());
        seal(&Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.steps.clone(), report: () }, body)
    }

    fn importance(&self) -> Vec<f64> {
        let mut importance = vec![0.0; self.inputs.len()];
        self.by_input(&self.model.importance(), &mut importance);
        importance
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({ "kind": KIND, "inputs": self.inputs, "steps": self.steps, "model": self.model.describe() })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, .. } = sealed.header::<Vec<Step>, ()>()?;
    let mut body = sealed.body();
    let count = body.u32()? as usize;
    body.room_for(count, 21)?;
    let (mut layers, mut names) = (Vec::new(), inputs.clone());
    for _ in 0..count {
        let layer = Layer::read(&mut body, names.len())?;
        names = layer.columns.iter().map(|column| column.name.clone()).collect();
        layers.push(layer);
    }
    let inner = body.block()?;
    body.end()?;
    // Looked at before it is read: a file of models within models must not grow the stack.
    let kind = crate::format::open(inner)?.kind;
    if kind == KIND || kind == crate::calibration::KIND {
        return Err(LearnError::corrupt("a pipeline within a pipeline, or of a calibrated model"));
    }
    let model = load(inner)?;
    if model.inputs() != names {
        return Err(LearnError::corrupt("the steps and the model name other columns"));
    }
    Ok(Box::new(PipelineModel::new(inputs, parameters, layers, model)))
}
