//! Models from elsewhere and for elsewhere.
//!
//! [`import`] reads what other programs saved; the result is a [`Model`](crate::Model) like any other: it scores, explains itself and is saved
//! in Kilter's own file. It scores what the original scores, bit for bit where the original has an order of adding: inputs are rounded,
//! compared and summed at the width and in the order of the program that made the model.
//!
//! One file for each format: `lightgbm`, `xgboost` (and `ubjson`, its binary form). They make `tree`s, which an `ensemble` holds together.
//! `export` is the way back, for Kilter's own boosted trees.

mod ensemble;
mod export;
mod export_categories;
pub(crate) mod lightgbm;
mod tree;
mod ubjson;
pub(crate) mod xgboost;

pub use ensemble::{Arithmetic, Ensemble, Inputs, Origin, Output, Width};

pub(crate) use ensemble::read;

use crate::{ClassLink, ClassModel, LearnError, Model, format, gbdt, load, load_classes};

/// A format of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What LightGBM's `save_model` writes.
    LightGbm,
    /// What XGBoost's `save_model` writes as JSON.
    XgBoostJson,
    /// What XGBoost's `save_model` writes as UBJSON.
    XgBoostUbj,
}

impl Format {
    pub const ALL: &[Format] = &[Format::LightGbm, Format::XgBoostJson, Format::XgBoostUbj];

    /// The word for it at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::LightGbm => "lightgbm",
            Format::XgBoostJson => "xgboost-json",
            Format::XgBoostUbj => "xgboost-ubj",
        }
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
        let inside = text.strip_prefix(b"{")?;
        match inside.trim_ascii_start().first() {
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

/// One of Kilter's own model files as another program reads it. Boosted trees can be written for LightGBM.
pub fn export(file: &[u8], format: Format) -> Result<Vec<u8>, LearnError> {
    let refuse = |what: String, hint| Err(LearnError::Foreign { format: "exported", at: String::new(), what, hint });
    if format != Format::LightGbm {
        return refuse(format!("the format {} is read and not written", format.name()), "LightGBM's text (lightgbm) is written");
    }
    let sealed = format::open(file)?;
    if sealed.kind != gbdt::KIND {
        let hint = "boosted trees (gbdt) can be exported; Kilter's own file holds every model, and the run of an import its original";
        return refuse(format!("LightGBM has no way to write a model of the kind {:?}", sealed.kind), hint);
    }
    Ok(export::lightgbm(&gbdt::read_trees(&sealed)?)?.into_bytes())
}

/// What was read of another program's file.
pub(crate) struct Imported {
    /// One, or one for each class.
    members: Vec<Ensemble>,
    /// How the classes' margins become probabilities; of a model of classes.
    link: Option<ClassLink>,
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
        None => Err(LearnError::Foreign {
            format: "unknown",
            at: String::new(),
            what: "it is no Kilter model, and begins like none of the formats that can be imported".into(),
            hint: "LightGBM: booster.save_model(\"model.txt\"); XGBoost: booster.save_model(\"model.json\" or \"model.ubj\")",
        }),
    }
}

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod tests;
