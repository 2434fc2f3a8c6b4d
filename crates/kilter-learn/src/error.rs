//! What can go wrong while learning or loading, each with the step that helps.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum LearnError {
    NoRows,
    NoColumns,
    TooFewRows {
        rows: usize,
        needed: usize,
    },
    TooManyRows {
        rows: usize,
        limit: usize,
    },
    LengthMismatch {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    BadLabel {
        row: usize,
        value: f64,
        must: &'static str,
    },
    BadWeight {
        row: usize,
        value: f64,
    },
    /// Categories are whole numbers.
    BadCategory {
        column: String,
        row: usize,
        value: f64,
    },
    OneClass {
        label: u8,
        rows: usize,
    },
    /// Trees that break a direction they were to keep.
    NotMonotone {
        column: String,
        tree: usize,
    },
    /// A class of several that no row has.
    EmptyClass {
        class: String,
        rows: usize,
    },
    AllZero {
        rows: usize,
    },
    EmptyValidation {
        rows: usize,
        fraction: f64,
    },
    DifferentColumns {
        training: Vec<String>,
        validation: Vec<String>,
    },
    /// A model's inputs and the columns it is to go on with.
    DifferentInputs {
        model: Vec<String>,
        found: Vec<String>,
    },
    /// What an objective of one's own says of a row cannot be used.
    BadDerivative {
        row: usize,
        gradient: f64,
        hessian: f64,
    },
    /// A metric that is no number.
    NoMetric {
        name: String,
    },
    /// An objective or a metric of one's own failed, in its own words.
    Failed {
        what: String,
    },
    BadParameter {
        name: &'static str,
        found: String,
        must: &'static str,
    },
    TooFewToCalibrate {
        method: &'static str,
        rows: usize,
        positives: usize,
        needed: usize,
        needed_of_each: usize,
    },
    AlreadyCalibrated,
    /// Only probabilities can be calibrated.
    NoClassifier,
    UnknownColumn {
        parameter: &'static str,
        name: String,
    },
    NothingPredicts {
        columns: usize,
        most: f64,
        threshold: f64,
    },
    /// A model of several outputs where one is asked for.
    SeveralClasses {
        classes: usize,
    },
    /// Rows that come from elsewhere do not come as they should.
    Source {
        what: String,
    },
    /// A model that cannot tell contributions against a reference population.
    NoReference {
        kind: &'static str,
    },
    NotAModel,
    /// A model that was made at once, where one is asked for that goes on learning.
    NotOnline {
        kind: String,
    },
    /// Rows of other columns than those learned from so far.
    OtherInputs {
        learned: Vec<String>,
        given: Vec<String>,
    },
    FutureVersion {
        found: u32,
        supported: u32,
    },
    UnknownKind {
        kind: String,
    },
    Corrupt {
        what: String,
    },
    /// A model of another program that cannot be taken over, or one of Kilter's that another format has no words for.
    Foreign {
        format: &'static str,
        at: String,
        what: String,
        hint: &'static str,
    },
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use LearnError::*;
        match self {
            NoRows => {
                write!(
                    f,
                    "the training set has no rows\n  hint: widen its time range, or check that observations and labels share their key"
                )
            }
            NoReference { kind } => write!(f, "a model of kind {kind:?} cannot tell contributions against reference rows"),
            Source { what } => write!(f, "the rows could not be read: {what}\n  hint: every reading must give the same rows"),
            NoColumns => write!(f, "the training set has no feature columns\n  hint: list at least one feature in the model's inputs"),
            TooFewRows { rows, needed } => {
                write!(f, "{rows} rows are given, the learner needs {needed} at least\n  hint: widen the time range")
            }
            TooManyRows { rows, limit } => {
                write!(
                    f,
                    "the training set has {rows} rows, the learner takes up to {limit}\n  hint: shorten the time range or sample the rows"
                )
            }
            LengthMismatch { what, expected, found } => write!(f, "{what}: {found} values for {expected} expected"),
            BadLabel { row, value, must } => write!(
                f,
                "label of row {row} is {value}, but labels must be {must}\n  hint: leave out rows whose outcome is not known yet; write a yes-or-no label as a condition"
            ),
            BadWeight { row, value } => {
                write!(f, "weight of row {row} is {value}, but weights must be finite and not below 0, and not all 0")
            }
            BadCategory { column, row, value } => write!(
                f,
                "column {column:?} is categorical, and in row {row} it is {value}; a category is a whole number from -2^53 to 2^53, or missing (NaN)\n  hint: number the categories, or take the column out of `categorical`"
            ),
            OneClass { label, rows } => write!(
                f,
                "all {rows} training rows have label {label}; nothing can be told apart\n  hint: widen the time range, or check the label's definition (rows held out for validation do not count)"
            ),
            NotMonotone { column, tree } => write!(
                f,
                "tree {tree} breaks the direction declared for {column:?}\n  hint: the file was not made by training under these parameters; train the model again"
            ),
            EmptyClass { class, rows } => write!(
                f,
                "none of {rows} training rows with weight is of the class {class:?}\n  hint: leave the class out, or widen the time range (rows held out for validation do not count)"
            ),
            AllZero { rows } => write!(
                f,
                "all {rows} training rows have label 0, whose logarithm is without end; there is no rate to learn\n  hint: widen the time range, or check the label's definition"
            ),
            EmptyValidation { rows, fraction } => write!(
                f,
                "validation_fraction {fraction} of {rows} rows leaves no row to validate or none to train on\n  hint: set early_stopping to none or give more rows"
            ),
            DifferentColumns { training, validation } => {
                write!(f, "training columns {training:?} differ from validation columns {validation:?}; names and order must be equal")
            }
            DifferentInputs { model, found } => write!(
                f,
                "the model reads {model:?}, the training set has {found:?}; names and order must be equal\n  hint: give the columns under the model's names, in its order"
            ),
            BadDerivative { row, gradient, hessian } => write!(
                f,
                "the objective gives row {row} the derivatives {gradient} and {hessian}; both must be finite and at most 1e30 in size, the second not below 0"
            ),
            NoMetric { name } => write!(
                f,
                "the metric {name} is no number (NaN) on the validation rows\n  hint: watch rows that define it: of rankings some query with a label above 0"
            ),
            Failed { what } => write!(f, "{what}"),
            BadParameter { name, found, must } => write!(f, "parameter {name} is {found}, but must be {must}"),
            TooFewToCalibrate { method, rows, positives, needed, needed_of_each } => write!(
                f,
                "calibration by {method} has {rows} rows to learn from, {positives} of them positive; it needs {needed}, and {needed_of_each} of each class\n  hint: give it a larger share of the rows, widen the time range, or calibrate by a method for fewer rows (platt)"
            ),
            NoClassifier => write!(
                f,
                "the model predicts no probability, so there is none to calibrate\n  hint: leave `calibration` out, or learn with a binary objective"
            ),
            AlreadyCalibrated => write!(f, "the model is calibrated already\n  hint: calibrate the model beneath it"),
            UnknownColumn { parameter, name } => {
                write!(f, "parameter {parameter} names the input {name:?}, which the training set does not have")
            }
            NothingPredicts { columns, most, threshold } => write!(
                f,
                "none of {columns} inputs is left to make a scorecard of; the most information value is {most:.4}, and min_iv is {threshold}\n  hint: lower min_iv, widen the time range, or give inputs that tell more"
            ),
            SeveralClasses { classes } => write!(
                f,
                "the model tells {classes} classes apart; here one output is needed: a probability or a number\n  hint: learn one class against all others, as a yes or no"
            ),
            NotAModel => write!(f, "these bytes are not a Kilter model (they do not start with KLTM)"),
            NotOnline { kind } => write!(
                f,
                "a model of kind {kind:?} does not learn on from new rows\n  hint: online_logistic and hoeffding_tree do; train any other again, on all rows"
            ),
            OtherInputs { learned, given } => {
                write!(f, "the rows have the columns {given:?}, but {learned:?} were learned from so far; names and order must be equal")
            }
            FutureVersion { found, supported } => {
                write!(
                    f,
                    "the model has format version {found}, this build reads up to {supported}\n  hint: upgrade kilter, or train the model again"
                )
            }
            UnknownKind { kind } => write!(f, "the model is of kind {kind:?}, which this build does not have"),
            Foreign { format, at, what, hint } => {
                write!(f, "{format} model{}{at}: {what}", if at.is_empty() { "" } else { ", " })?;
                if hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {hint}") }
            }
            Corrupt { what } => {
                write!(f, "the model's bytes are damaged: {what}\n  hint: fetch the artifact again; its checksum no longer holds")
            }
        }
    }
}

impl std::error::Error for LearnError {}

impl LearnError {
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        LearnError::Corrupt { what: what.into() }
    }
}
