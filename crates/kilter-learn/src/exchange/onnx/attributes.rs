//! What an operator says of itself, by name, with its place for messages.

use std::collections::BTreeMap;

use prost::Message;

use super::proto::{Attribute, Node, Tensor, element};
use super::{CUT, fault};
use crate::LearnError;

/// Attributes of one operator.
const MOST: usize = 100;

pub(super) struct Attributes {
    place: String,
    by_name: BTreeMap<String, Attribute>,
}

/// Numbers as a file has them.
pub(super) enum Numbers {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Numbers {
    pub fn len(&self) -> usize {
        match self {
            Numbers::Single(list) => list.len(),
            Numbers::Double(list) => list.len(),
        }
    }

    pub fn get(&self, at: usize) -> f64 {
        match self {
            Numbers::Single(list) => f64::from(list[at]),
            Numbers::Double(list) => list[at],
        }
    }

    pub fn is_single(&self) -> bool {
        matches!(self, Numbers::Single(_))
    }
}

impl Attributes {
    pub fn of(node: &Node, at: usize) -> Result<Self, LearnError> {
        let place = format!("operator {at}, {}", node.operator());
        if !["", "ai.onnx", "ai.onnx.ml"].contains(&node.domain()) {
            return Err(fault(place, format!("it belongs to `{}`, none of ONNX's own sets of operators", node.domain()), ""));
        }
        if node.attributes.len() > MOST {
            return Err(fault(place, format!("{} attributes", node.attributes.len()), CUT));
        }
        let mut by_name = BTreeMap::new();
        for bytes in &node.attributes {
            let attribute = Attribute::decode(bytes.as_slice()).map_err(|error| fault(place.clone(), format!("no ONNX: {error}"), CUT))?;
            by_name.insert(attribute.name().to_string(), attribute);
        }
        Ok(Attributes { place, by_name })
    }

    pub fn operator(&self) -> &str {
        self.place.rsplit(' ').next().unwrap_or_default()
    }

    pub fn fault(&self, what: impl Into<String>) -> LearnError {
        fault(self.place.clone(), what, CUT)
    }

    pub fn refuse(&self, what: impl Into<String>, hint: &'static str) -> LearnError {
        fault(self.place.clone(), what, hint)
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn int(&self, name: &str, otherwise: i64) -> Result<i64, LearnError> {
        let Some(found) = self.by_name.get(name) else { return Ok(otherwise) };
        // Zero may be left out.
        Ok(found.int.unwrap_or(0))
    }

    pub fn float(&self, name: &str, otherwise: f32) -> Result<f32, LearnError> {
        Ok(self.by_name.get(name).map_or(otherwise, |found| found.float.unwrap_or(0.0)))
    }

    pub fn text(&self, name: &str, otherwise: &str) -> Result<String, LearnError> {
        let Some(found) = self.by_name.get(name) else { return Ok(otherwise.to_string()) };
        self.utf8(name, found.text.as_deref().unwrap_or_default())
    }

    fn utf8(&self, name: &str, bytes: &[u8]) -> Result<String, LearnError> {
        std::str::from_utf8(bytes).map(str::to_string).map_err(|_| self.fault(format!("`{name}` is no UTF-8")))
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>, LearnError> {
        self.by_name.get(name).map_or(Ok(Vec::new()), |found| found.texts.iter().map(|text| self.utf8(name, text)).collect())
    }

    /// The list; empty where the file has none.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>, LearnError> {
        Ok(self.by_name.get(name).map(|found| found.ints.clone()).unwrap_or_default())
    }

    pub fn ints_of(&self, name: &str, count: usize) -> Result<Vec<i64>, LearnError> {
        let list = self.ints(name)?;
        if list.len() == count { Ok(list) } else { Err(self.fault(format!("`{name}` has {} items for {count}", list.len()))) }
    }

    pub fn floats(&self, name: &str) -> Result<Vec<f32>, LearnError> {
        Ok(self.by_name.get(name).map(|found| found.floats.clone()).unwrap_or_default())
    }

    /// A list of 32 bits, or the tensor of this name with `_as_tensor` behind it.
    pub fn numbers(&self, name: &str) -> Result<Numbers, LearnError> {
        match self.by_name.get(&format!("{name}_as_tensor")).and_then(|found| found.tensor.as_ref()) {
            Some(tensor) => self.of_tensor(name, tensor),
            None => Ok(Numbers::Single(self.floats(name)?)),
        }
    }

    pub fn tensor(&self, name: &str) -> Result<Numbers, LearnError> {
        let tensor = self.by_name.get(name).and_then(|found| found.tensor.as_ref());
        self.of_tensor(name, tensor.ok_or_else(|| self.fault(format!("`{name}` is missing")))?)
    }

    fn of_tensor(&self, name: &str, tensor: &Tensor) -> Result<Numbers, LearnError> {
        if tensor.location() != 0 {
            return Err(self.refuse(format!("`{name}` lies in a file beside"), "save the model as one file"));
        }
        let raw = tensor.raw.as_deref();
        Ok(match (tensor.element(), raw) {
            (element::FLOAT, Some(raw)) => Numbers::Single(raw.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
            (element::FLOAT, None) => Numbers::Single(tensor.floats.clone()),
            (element::DOUBLE, Some(raw)) => Numbers::Double(raw.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()),
            (element::DOUBLE, None) => Numbers::Double(tensor.doubles.clone()),
            (element::UINT8, Some(raw)) => Numbers::Single(raw.iter().map(|&byte| f32::from(byte)).collect()),
            (element::UINT8, None) => Numbers::Single(tensor.ints.iter().map(|&int| int as f32).collect()),
            (kind, _) => return Err(self.refuse(format!("`{name}` holds numbers of the type {kind}"), "floats and doubles are read")),
        })
    }
}
