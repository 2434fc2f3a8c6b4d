//! ONNX: Kilter's models of trees and lines for other programs (`write`), and theirs for Kilter (`read`, with `trees` and `lines` for the operators).

mod attributes;
mod lines;
mod proto;
mod read;
mod trees;
mod write;

pub(super) use read::read;
pub(super) use write::{boosted, forest, line};

use super::ensemble::{Arithmetic, Ensemble, Origin, Output};
use super::tree::Tree;
use crate::LearnError;
use crate::linear::Coefficients;
use attributes::Attributes;

pub(crate) const KIND: &str = "onnx";
pub(crate) const LINE_KIND: &str = "onnx_line";

const CUT: &str = "the file is damaged: convert the model again";

fn fault(at: impl Into<String>, what: impl Into<String>, hint: &'static str) -> LearnError {
    LearnError::Foreign { format: "ONNX", at: at.into(), what: what.into(), hint }
}

/// The model of a graph.
struct Found {
    body: Body,
    output: Output,
    objective: String,
    notes: Vec<String>,
}

enum Body {
    Trees(Arithmetic, Vec<Tree>),
    Line(Coefficients),
}

impl Found {
    fn finished(self, inputs: Vec<String>, version: String) -> Ensemble {
        let Found { body, output, objective, notes } = self;
        let origin = |program: &str| Origin { program: program.into(), version, objective, notes };
        match body {
            Body::Trees(arithmetic, trees) => Ensemble::new(KIND, inputs, origin(KIND), Arithmetic { output, ..arithmetic }, trees),
            Body::Line(mut line) => {
                // Inputs that the line does not read are inputs all the same.
                for list in [&mut line.means, &mut line.scales, &mut line.standardised] {
                    list.resize(inputs.len(), 0.0);
                }
                Ensemble::of_line(LINE_KIND, inputs, origin(KIND), output, line)
            }
        }
    }
}

/// How many classes there are, and a word on which is the positive one, the second, where it is not called 1.
fn labels(place: &Attributes, ints: &str, texts: &str) -> Result<(usize, Option<String>), LearnError> {
    let (ints, texts) = (place.ints(ints)?, place.texts(texts)?);
    let names = if texts.is_empty() { ints.iter().map(i64::to_string).collect() } else { texts };
    let note = names.get(1).filter(|name| *name != "1").map(|name| format!("the probability is that of the class `{name}`"));
    Ok((names.len(), note))
}

#[cfg(test)]
mod tests;
