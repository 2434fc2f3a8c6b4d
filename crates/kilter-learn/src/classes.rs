//! A classifier of more than two classes: a model of one output for each class, over the same inputs, under one roof.

use serde::{Deserialize, Serialize};

use crate::calibration::{ClassMap, ClassMethod};
use crate::format::{self, Header, Sealed, Writer, seal_newest};
use crate::math::sigmoid;
use crate::{LearnError, Matrix, Model, load};

pub(crate) const KIND: &str = "classes";

/// How the classes' margins become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassLink {
    /// exp(margin), as a share of the sum over the classes.
    Softmax,
    /// Each margin is the log-odds of its class against all others; their probabilities are made to sum to 1.
    OneVsAll,
}

/// A trained classifier of several classes. Immutable, as every [`Model`]; what it says of a row is the same to the bit for one row and for many,
/// before and after saving.
pub struct ClassModel {
    names: Vec<String>,
    link: ClassLink,
    members: Vec<Box<dyn Model>>,
    calibration: Option<ClassMap>,
}

#[derive(Serialize, Deserialize)]
struct Parameters {
    names: Vec<String>,
    link: ClassLink,
    /// Left out where there is none: such files are as they were before there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<ClassMethod>,
}

impl ClassModel {
    /// One model a class, in the order of the names; all read the same inputs.
    ///
    /// # Panics
    /// When there is not one name for each of two or more models, or their inputs differ.
    pub fn new(names: Vec<String>, link: ClassLink, members: Vec<Box<dyn Model>>) -> Self {
        assert!(names.len() == members.len() && members.len() >= 2, "each class has one name and one model");
        assert!(members.iter().all(|member| member.inputs() == members[0].inputs()), "the classes' models must read the same inputs");
        ClassModel { names, link, members, calibration: None }
    }

    pub(crate) fn with_calibration(self, calibration: ClassMap) -> Self {
        ClassModel { calibration: Some(calibration), ..self }
    }

    /// How probabilities were made to come true; none: they are the model's own.
    pub fn calibration(&self) -> Option<ClassMethod> {
        self.calibration.as_ref().map(ClassMap::method)
    }

    /// Names of the features, in the order of a row.
    pub fn inputs(&self) -> &[String] {
        self.members[0].inputs()
    }

    /// Names of the classes, in the order of all that is said of them.
    pub fn classes(&self) -> &[String] {
        &self.names
    }

    pub fn link(&self) -> ClassLink {
        self.link
    }

    /// The model of one class: its margin and its reasons.
    pub fn member(&self, class: usize) -> &dyn Model {
        &*self.members[class]
    }

    /// The same model under other names of its classes.
    pub fn with_classes(self, names: Vec<String>) -> Result<Self, LearnError> {
        let expected = self.names.len();
        if names.len() != expected {
            return Err(LearnError::LengthMismatch { what: "names of classes", expected, found: names.len() });
        }
        Ok(ClassModel { names, ..self })
    }

    /// Fills one margin a class.
    pub fn margins(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.members.iter().map(|member| member.margin(row)));
    }

    /// Fills one probability a class; they sum to 1.
    pub fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        self.margins(row, out);
        self.to_probabilities(out);
    }

    /// The likeliest class, the first of equals.
    pub fn predict(&self, row: &[f64]) -> usize {
        let mut of_classes = Vec::new();
        // Of a calibration the margins know nothing.
        match self.calibration {
            Some(_) => self.probabilities(row, &mut of_classes),
            None => self.margins(row, &mut of_classes),
        }
        likeliest(&of_classes)
    }

    /// For each row of a matrix one margin a class: the bits of [`margins`](Self::margins), faster for many.
    pub fn all_margins(&self, matrix: &Matrix) -> Vec<f64> {
        let classes = self.members.len();
        let mut all = vec![0.0; matrix.rows() * classes];
        for (class, member) in self.members.iter().enumerate() {
            let margins = member.margins(matrix);
            all.iter_mut().skip(class).step_by(classes).zip(margins).for_each(|(out, margin)| *out = margin);
        }
        all
    }

    /// For each row of a matrix one probability a class.
    pub fn all_probabilities(&self, matrix: &Matrix) -> Vec<f64> {
        let mut all = self.all_margins(matrix);
        all.chunks_exact_mut(self.members.len()).for_each(|row| self.to_probabilities(row));
        all
    }

    /// Why a row has its margin of one class: base + sum of contributions = margin; see [`Model::explain`].
    pub fn explain(&self, row: &[f64], class: usize, contributions: &mut Vec<f64>) -> f64 {
        self.members[class].explain(row, contributions)
    }

    /// How much each input helped in training, over all classes.
    pub fn importance(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.inputs().len()];
        for member in &self.members {
            sums.iter_mut().zip(member.importance()).for_each(|(sum, importance)| *sum += importance);
        }
        sums
    }

    /// The whole model as one checksummed file; see [`load_classes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.members.iter().for_each(|member| body.block(&member.to_bytes()));
        if let Some(calibration) = &self.calibration {
            calibration.write(&mut body);
        }
        let parameters = Parameters { names: self.names.clone(), link: self.link, calibration: self.calibration() };
        seal_newest(&Header { kind: KIND.into(), inputs: self.inputs().to_vec(), parameters, report: () }, body)
    }

    /// Parameters and training report of each class, for people and records.
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs(),
            "classes": self.names,
            "link": self.link,
            "calibration": self.calibration.as_ref().map(ClassMap::describe),
            "members": self.members.iter().map(|member| member.describe()).collect::<Vec<_>>(),
        })
    }

    fn to_probabilities(&self, margins: &mut [f64]) {
        match self.link {
            ClassLink::Softmax => {
                let most = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                margins.iter_mut().for_each(|margin| *margin = libm::exp(*margin - most));
            }
            ClassLink::OneVsAll => margins.iter_mut().for_each(|margin| *margin = sigmoid(*margin)),
        }
        let total: f64 = margins.iter().sum();
        let even = 1.0 / margins.len() as f64;
        // Where every class is all but impossible, none is likelier than another.
        margins.iter_mut().for_each(|share| *share = if total > 0.0 { *share / total } else { even });
        if let Some(calibration) = &self.calibration {
            calibration.apply(margins);
        }
    }
}

fn likeliest(margins: &[f64]) -> usize {
    (1..margins.len()).fold(0, |best, class| if margins[class] > margins[best] { class } else { best })
}

/// Reads what [`ClassModel::to_bytes`] wrote. Damaged, truncated or newer bytes give an error.
pub fn load_classes(bytes: &[u8]) -> Result<ClassModel, LearnError> {
    let sealed = format::open(bytes)?;
    if sealed.kind != KIND {
        return Err(LearnError::UnknownKind { kind: sealed.kind });
    }
    let Header { inputs, parameters: Parameters { names, link, calibration }, .. } = sealed.header::<Parameters, ()>()?;
    let mut body = sealed.body();
    body.room_for(names.len(), 8)?;
    let members = names.iter().map(|_| load(body.block()?)).collect::<Result<Vec<_>, _>>()?;
    let calibration = calibration.map(|method| ClassMap::read(method, names.len(), &mut body)).transpose()?;
    body.end()?;
    if members.len() < 2 || members.iter().any(|member| member.inputs() != inputs) {
        return Err(LearnError::corrupt("its classes are fewer than two, or read different inputs"));
    }
    Ok(ClassModel { names, link, members, calibration })
}

/// What [`load`] says of such a file: what takes one output must not take the first of several for it.
pub(crate) fn refuse(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let classes = sealed.header::<Parameters, ()>()?.parameters.names.len();
    Err(LearnError::SeveralClasses { classes })
}
