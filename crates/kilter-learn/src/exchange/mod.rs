//! Models from elsewhere and for elsewhere.
//!
//! [`import`] reads what other programs saved; the result is a [`Model`](crate::Model) like any other: it scores, explains itself and is saved
//! in Kilter's own file. It scores what the original scores, bit for bit where the original has an order of adding: inputs are rounded,
//! compared and summed at the width and in the order of the program that made the model.
//!
//! One file for each format: `lightgbm`, `xgboost` (and `ubjson`, its binary form), `catboost`, `onnx`. They make `tree`s, which an `ensemble` holds together.
//!
//! [`export`](export()) is the way back, for Kilter's own models: `export` to LightGBM, `export_xgboost`, `onnx` and `pmml`; and [`portable`](portable())
//! for both, as numbers that need no program.

pub(crate) mod catboost;
mod ensemble;
mod export;
mod export_categories;
mod export_xgboost;
pub(crate) mod lightgbm;
pub(crate) mod onnx;
mod pmml;
mod portable;
mod tree;
mod ubjson;
pub(crate) mod xgboost;

pub use ensemble::{Arithmetic, Ensemble, Inputs, Origin, Output, Width};

pub(crate) use ensemble::{read, read_line};
pub use portable::portable;

use crate::learners::{linear, scorecard};
use crate::{ClassLink, ClassModel, LearnError, Model, calibration, forest, format, gbdt, load, load_classes, logistic};

/// A format of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What LightGBM's `save_model` writes.
    LightGbm,
    /// What XGBoost's `save_model` writes as JSON.
    XgBoostJson,
    /// What XGBoost's `save_model` writes as UBJSON.
    XgBoostUbj,
    /// What CatBoost's `save_model` writes with `format="json"`.
    CatBoostJson,
    /// ONNX with the operators of `ai.onnx.ml`.
    Onnx,
    /// The XML of the Data Mining Group.
    Pmml,
}

impl Format {
    pub const ALL: &[Format] =
        &[Format::LightGbm, Format::XgBoostJson, Format::XgBoostUbj, Format::CatBoostJson, Format::Onnx, Format::Pmml];
    /// Those that models go out as.
    pub const WRITTEN: &[Format] = &[Format::LightGbm, Format::XgBoostJson, Format::Onnx, Format::Pmml];

    /// The word for it at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::LightGbm => "lightgbm",
            Format::XgBoostJson => "xgboost-json",
            Format::XgBoostUbj => "xgboost-ubj",
            Format::CatBoostJson => "catboost-json",
            Format::Onnx => "onnx",
            Format::Pmml => "pmml",
        }
    }

    /// What people call it.
    fn title(self) -> &'static str {
        match self {
            Format::LightGbm => "LightGBM",
            Format::XgBoostJson | Format::XgBoostUbj => "XGBoost",
            Format::CatBoostJson => "CatBoost",
            Format::Onnx => "ONNX",
            Format::Pmml => "PMML",
        }
    }

    /// How the names of its files end.
    pub fn ending(self) -> &'static str {
        match self {
            Format::LightGbm => "txt",
            Format::XgBoostJson | Format::CatBoostJson => "json",
            Format::XgBoostUbj => "ubj",
            Format::Onnx => "onnx",
            Format::Pmml => "pmml",
        }
    }

    /// The format that a model goes out as into a file of this name; `None`: Kilter's own.
    pub fn by_file_name(name: &str) -> Option<Format> {
        let (_, ending) = name.rsplit_once('.')?;
        Format::WRITTEN.iter().copied().find(|format| format.ending().eq_ignore_ascii_case(ending))
    }

    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// The format that bytes are in, by how they begin.
    pub fn of(bytes: &[u8]) -> Option<Format> {
        let text = bytes.trim_ascii_start();
        if text.starts_with(b"tree\n") || text.starts_with(b"tree\r\n") {
            return Some(Format::LightGbm);
        }
        // The first field of an ONNX file, its version, which is a small number.
        if let [0x08, 1..=0x20, ..] = bytes {
            return Some(Format::Onnx);
        }
        let inside = text.strip_prefix(b"{")?;
        let inside = inside.trim_ascii_start();
        // CatBoost writes its keys in order of the alphabet, and has each of them.
        if [&b"\"ctr_data\""[..], b"\"features_info\"", b"\"model_info\"", b"\"oblivious_trees\""].iter().any(|key| inside.starts_with(key))
        {
            return Some(Format::CatBoostJson);
        }
        match inside.first() {
            Some(b'"' | b'}') => Some(Format::XgBoostJson),
            Some(_) => Some(Format::XgBoostUbj),
            None => None,
        }
    }
}

/// Reads a model file of any kind: Kilter's own, or one of another program.
pub fn open(bytes: &[u8]) -> Result<Box<dyn Model>, LearnError> {
    match load(bytes) {
        Err(LearnError::NotAModel) => Ok(Box::new(import(bytes)?)),
        own => own,
    }
}

/// One of Kilter's own model files as another program reads it: boosted trees for LightGBM, XGBoost and ONNX, forests and regression lines for
/// ONNX, scorecards as PMML. What each keeps to the bit and what it rounds stands in `docs/guide/models-from-elsewhere.md`.
pub fn export(file: &[u8], format: Format) -> Result<Vec<u8>, LearnError> {
    let sealed = format::open(file)?;
    let refuse = |what: String, hint| Err(LearnError::Foreign { format: "exported", at: String::new(), what, hint });
    match (format, sealed.kind.as_str()) {
        (Format::LightGbm, gbdt::KIND) => Ok(export::lightgbm(&gbdt::read_trees(&sealed)?)?.into_bytes()),
        (Format::XgBoostJson | Format::Onnx, gbdt::KIND) => {
            let model = gbdt::read_trees(&sealed)?;
            if let Some(&input) = model.categorical_inputs().first() {
                let what = format!("{} is not told of categories, which {:?} holds", format.title(), model.inputs()[input]);
                return refuse(what, "Kilter's own file holds them, and LightGBM's text where it can");
            }
            if format == Format::Onnx { Ok(onnx::boosted(&model)) } else { export_xgboost::xgboost(&model) }
        }
        (Format::Onnx, forest::KIND) => Ok(onnx::forest(&forest::read_forest(&sealed)?)),
        (Format::Onnx, logistic::KIND) => {
            let model = linear::read_line::<logistic::Logistic>(&sealed)?;
            Ok(onnx::line(model.inputs(), model.link(), &model.line))
        }
        (Format::Onnx, linear::KIND) => {
            let model = linear::read_line::<linear::Linear>(&sealed)?;
            Ok(onnx::line(model.inputs(), model.link(), &model.line))
        }
        (Format::Pmml, scorecard::KIND) => pmml::scorecard(&scorecard::read_card(&sealed)?),
        (format, _) if !Format::WRITTEN.contains(&format) => {
            refuse(format!("the format {} is read and not written", format.name()), "lightgbm, xgboost-json, onnx and pmml are written")
        }
        (format, calibration::KIND) => {
            let what = format!("{} has no way to write a calibration", format.title());
            refuse(what, "leave `calibration` out of the definitions, or calibrate where the scores are used; Kilter's own file holds both")
        }
        (format, kind) => refuse(
            format!("{} has no way to write a model of the kind {kind:?}", format.title()),
            "boosted trees (gbdt) go to lightgbm, xgboost-json and onnx, forests and regressions (logistic, linear) to onnx, scorecards to pmml; Kilter's own \
             file holds every model, and the run of an import its original",
        ),
    }
}

/// What was read of another program's file.
pub(crate) struct Imported {
    /// One, or one for each class.
    members: Vec<Ensemble>,
    /// How the classes' margins become probabilities; of a model of classes.
    link: Option<ClassLink>,
}

impl Imported {
    fn one(model: Ensemble) -> Self {
        Imported { members: vec![model], link: None }
    }
}

/// A model file of any kind: of one output, or of one for each class.
pub enum Opened {
    One(Box<dyn Model>),
    Classes(ClassModel),
}

/// Reads a model file of any kind, those of several classes as well.
pub fn open_any(bytes: &[u8]) -> Result<Opened, LearnError> {
    match load(bytes) {
        Err(LearnError::NotAModel) => {}
        Err(LearnError::SeveralClasses { .. }) => return load_classes(bytes).map(Opened::Classes),
        own => return own.map(Opened::One),
    }
    let Imported { mut members, link } = read_foreign(bytes)?;
    match link {
        Some(link) => {
            let names = (0..members.len()).map(|class| class.to_string()).collect();
            let members = members.into_iter().map(|member| Box::new(member) as Box<dyn Model>).collect();
            Ok(Opened::Classes(ClassModel::new(names, link, members)))
        }
        None => Ok(Opened::One(Box::new(members.remove(0)))),
    }
}

/// Reads a model of another program, whose format is told by its first bytes. Bytes that are no such model, or one that Kilter cannot score
/// exactly, give an error that says where and why.
pub fn import(bytes: &[u8]) -> Result<Ensemble, LearnError> {
    let Imported { mut members, link } = read_foreign(bytes)?;
    match link {
        Some(_) => Err(LearnError::SeveralClasses { classes: members.len() }),
        None => Ok(members.remove(0)),
    }
}

fn read_foreign(bytes: &[u8]) -> Result<Imported, LearnError> {
    match Format::of(bytes) {
        Some(Format::LightGbm) => lightgbm::read(bytes),
        Some(Format::XgBoostJson) => xgboost::read_json(bytes),
        Some(Format::XgBoostUbj) => xgboost::read_ubj(bytes),
        Some(Format::CatBoostJson) => catboost::read(bytes).map(Imported::one),
        Some(Format::Onnx) => onnx::read(bytes).map(Imported::one),
        Some(Format::Pmml) | None => Err(LearnError::Foreign {
            format: "unknown",
            at: String::new(),
            what: "it is no Kilter model, and begins like none of the formats that can be imported".into(),
            hint: "LightGBM: booster.save_model(\"model.txt\"); XGBoost: booster.save_model(\"model.json\" or \"model.ubj\"); \
                   CatBoost: model.save_model(\"model.json\", format=\"json\"); ONNX: what skl2onnx and \
                   onnxmltools write",
        }),
    }
}

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod tests;
