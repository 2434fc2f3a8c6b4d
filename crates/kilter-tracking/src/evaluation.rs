//! What models of language are judged by: datasets of records, and scorers.

use serde_json::{Map, Value};

use crate::model::Pair;

/// Records with one input each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EvaluationDataset {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Changes with every change of its records.
    pub digest: String,
    /// What fields its records have, as JSON; none: it never had a record.
    pub schema: Option<String>,
    /// How many there are.
    pub records: i64,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// Who.
    pub created_by: Option<String>,
    /// Who was the last.
    pub updated_by: Option<String>,
    /// By name.
    pub tags: Vec<Pair>,
    /// The experiments it belongs to.
    pub experiments: Vec<i64>,
}

/// One input and what is known of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EvaluationRecord {
    /// Its id; of one to be stored it does not matter.
    pub id: String,
    /// What goes in. A dataset has each input once.
    pub inputs: Map<String, Value>,
    /// What came out.
    pub outputs: Option<Value>,
    /// What should come out.
    pub expectations: Option<Map<String, Value>>,
    /// By name.
    pub tags: Option<Map<String, Value>>,
    /// Where it is from: `source_type` and `source_data`.
    pub source: Option<Value>,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// Who.
    pub created_by: Option<String>,
    /// Who was the last.
    pub updated_by: Option<String>,
}

/// A version of something that judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scorer {
    /// Its id, that of all its versions.
    pub id: String,
    /// The experiment it belongs to.
    pub experiment: i64,
    /// Its name.
    pub name: String,
    /// Counts up.
    pub version: i64,
    /// What it is, as the client wrote it.
    pub serialized: String,
    /// Milliseconds UTC.
    pub created: i64,
}
