//! A version of a model with all that programs elsewhere need to score it.

use kilter_core::DataType;
use kilter_learn::exchange;
use kilter_store::metadata::ModelVersion;

use crate::service::{Service, ServiceError};

/// A version's files and inputs.
pub struct Packed {
    /// Kilter's own file.
    pub file: Vec<u8>,
    /// The model as numbers in JSON; none: its kind has no such form.
    pub plain: Option<Vec<u8>>,
    /// In the order of a row.
    pub inputs: Vec<PackedInput>,
}

pub struct PackedInput {
    pub name: String,
    pub kind: InputKind,
    /// A value from the middle of those that the model has learned from; none: it is not known.
    pub example: Option<f64>,
}

/// What an input is where a row is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A number that may be missing.
    Number,
    /// A whole number that was never missing.
    Whole,
    /// True or false, never missing.
    Truth,
    /// A text that is a category.
    Text,
}

impl Service {
    /// The file of a version and what it takes. Reads from the disk.
    pub fn packed(&self, version: &ModelVersion) -> Result<Packed, ServiceError> {
        let spec = &version.spec;
        let file = self.data.artifact(&spec.artifact)?;
        let refuse = |e: kilter_learn::LearnError| ServiceError::Model(e.to_string());
        let model = kilter_learn::load(&file).map_err(refuse)?;
        let plain = exchange::portable(&file).map_err(refuse)?;
        let seen = spec.inputs["reference"].as_str().and_then(|hash| self.data.artifact(hash).ok());
        let seen: serde_json::Value = seen.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let planned = self.plan.models.iter().find(|planned| planned.name == spec.model);
        let categories = model.categorical_inputs();
        let input = |(at, name): (usize, &String)| {
            let counts = &seen["references"][at]["counts"];
            let edges = counts["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
            let kind = if categories.contains(&at) {
                InputKind::Text
            } else if counts["missing"].as_u64() != Some(0) {
                InputKind::Number
            } else {
                // By name: what an older version read may be gone.
                let input = planned.and_then(|planned| planned.inputs.iter().find(|input| input.name == *name));
                match input.and_then(|input| input.expr.data_type()) {
                    Some(DataType::Int64) => InputKind::Whole,
                    Some(DataType::Bool) => InputKind::Truth,
                    _ => InputKind::Number,
                }
            };
            PackedInput { name: name.clone(), kind, example: edges.get(edges.len() / 2).and_then(serde_json::Value::as_f64) }
        };
        let inputs = model.inputs().iter().enumerate().map(input).collect();
        Ok(Packed { file, plain, inputs })
    }
}
