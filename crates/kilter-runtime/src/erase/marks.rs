//! What tells the records of an entity: values of columns, as salted hashes. Finding and checking use the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use kilter_core::record::{ColumnMap, Header};
use kilter_core::{SourceId, Value};
use kilter_store::dead_letter::DeadLetter;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::catalog::Catalog;

/// Records of a source in which these columns together have one of these values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub source: String,
    pub columns: Vec<String>,
    /// Only records in which these columns say nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Not the entity's key, but that of a record of the entity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linked: bool,
    /// Salted hashes.
    pub values: BTreeSet<String>,
}

/// The salted hash of a text or of a record.
pub(super) fn salted(salt: &[u8; 32], bytes: &[u8]) -> String {
    blake3::keyed_hash(salt, bytes).to_hex()[..32].to_string()
}

/// Several values as one text; none when one of them is missing.
fn joined(values: impl Iterator<Item = Option<String>>) -> Option<String> {
    values.collect::<Option<Vec<_>>>().map(|v| v.join("|"))
}

fn json_text(value: &Json) -> Option<String> {
    match value {
        Json::String(s) => Some(s.clone()),
        Json::Number(n) => Some(n.to_string()),
        Json::Bool(b) => Some(b.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Marks, ready to be looked for in the records of a log.
pub(super) struct Lookout<'a> {
    salt: [u8; 32],
    marks: &'a [Mark],
    /// By schema number: the source's marks, and the columns they need.
    schemas: Vec<Looked>,
}

struct Looked {
    marks: Vec<usize>,
    map: ColumnMap,
    /// By name: where the column lands.
    slots: BTreeMap<String, usize>,
    /// Columns that this schema does not declare: a record may hold them among its undeclared fields.
    undeclared: Vec<String>,
}

impl<'a> Lookout<'a> {
    pub fn new(catalog: &Catalog, salt: [u8; 32], marks: &'a [Mark]) -> Lookout<'a> {
        let schemas = catalog.schemas().map(|(source, schema)| {
            let of_source: Vec<usize> = (0..marks.len()).filter(|m| marks[*m].source == source).collect();
            let needed: Vec<&String> = of_source.iter().flat_map(|m| marks[*m].columns.iter().chain(&marks[*m].without)).collect();
            let mut slots = BTreeMap::new();
            let map = schema
                .names()
                .map(|name| {
                    needed.iter().any(|n| *n == name).then(|| {
                        let next = slots.len();
                        *slots.entry(name.to_string()).or_insert(next)
                    })
                })
                .collect();
            let undeclared = needed.into_iter().filter(|n| !slots.contains_key(*n)).cloned().collect();
            Looked { marks: of_source, map, slots, undeclared }
        });
        Lookout { salt, marks, schemas: schemas.collect() }
    }

    /// What an event has in the columns that its source's marks ask for; none: no mark asks for any.
    pub fn fields(&self, header: &Header<'_>) -> anyhow::Result<Option<Fields<'_>>> {
        let looked = self.schemas.get(header.schema as usize).with_context(|| format!("schema {} is not in the catalog", header.schema))?;
        if looked.marks.is_empty() {
            return Ok(None);
        }
        let row = match looked.slots.is_empty() {
            true => Vec::new(),
            false => header.event(SourceId(0), 0, &looked.map, looked.slots.len())?.row,
        };
        let extra = header
            .extra
            .filter(|extra| looked.undeclared.iter().any(|name| extra.contains(name.as_str())))
            .and_then(|extra| serde_json::from_str(extra).ok());
        Ok(Some(Fields { looked, row, extra }))
    }

    /// The first mark that an event bears.
    pub fn event(&self, header: &Header<'_>) -> anyhow::Result<Option<usize>> {
        let Some(fields) = self.fields(header)? else { return Ok(None) };
        let bears = |m: &usize| {
            let mark = &self.marks[*m];
            mark.without.iter().all(|c| fields.text(c).is_none())
                && fields.joined(&mark.columns).is_some_and(|t| mark.values.contains(&salted(&self.salt, t.as_bytes())))
        };
        Ok(fields.marks().find(bears))
    }

    /// Whether a dead letter speaks of the entity: by a field of its payload, or, when the payload cannot be read, by a word in it. Bytes that are no text may
    /// hold a key in any form: those of a source in which the entity is looked for are taken to speak of it.
    pub fn letter(&self, letter: &DeadLetter) -> bool {
        let source = letter.source.as_deref();
        let marks = || self.marks.iter().filter(move |m| source.is_none_or(|s| s == m.source));
        let Some(payload) = &letter.payload else { return false };
        if letter.payload_base64 {
            return marks().next().is_some();
        }
        match serde_json::from_str::<Json>(payload) {
            Ok(json @ (Json::Object(_) | Json::Array(_))) => marks().any(|mark| self.in_json(mark, &json)),
            _ => {
                let named = |mark: &Mark| !payload.trim_start().starts_with(['{', '[']) || payload.contains(mark.columns[0].as_str());
                let words: BTreeSet<String> = words(payload).map(|w| salted(&self.salt, w.as_bytes())).collect();
                marks().any(|mark| mark.columns.len() == 1 && named(mark) && !mark.values.is_disjoint(&words))
            }
        }
    }

    /// Whether an object at any depth has the mark's columns with one of its values.
    fn in_json(&self, mark: &Mark, json: &Json) -> bool {
        match json {
            Json::Object(fields) => {
                let value = |c: &String| fields.get(c).and_then(json_text);
                let here = mark.without.iter().all(|c| value(c).is_none())
                    && joined(mark.columns.iter().map(value)).is_some_and(|t| mark.values.contains(&salted(&self.salt, t.as_bytes())));
                here || fields.values().any(|v| self.in_json(mark, v))
            }
            Json::Array(items) => items.iter().any(|v| self.in_json(mark, v)),
            _ => false,
        }
    }
}

/// Columns of one event.
pub(super) struct Fields<'a> {
    looked: &'a Looked,
    row: Vec<Value>,
    extra: Option<Json>,
}

impl Fields<'_> {
    /// The marks of the event's source.
    pub fn marks(&self) -> impl Iterator<Item = usize> {
        self.looked.marks.iter().copied()
    }

    /// None: null, or not there.
    pub fn text(&self, column: &String) -> Option<String> {
        match self.looked.slots.get(column) {
            Some(slot) => Some(&self.row[*slot]).filter(|v| !v.is_null()).map(|v| v.to_string()),
            None => json_text(self.extra.as_ref()?.get(column)?),
        }
    }

    pub fn joined(&self, columns: &[String]) -> Option<String> {
        joined(columns.iter().map(|c| self.text(c)))
    }
}

/// The words of a text that could be a value: cut at punctuation, and again at everything that is no letter or digit.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let coarse = text.split(|c: char| c.is_whitespace() || ",;\"'{}[]()<>:=|".contains(c));
    let fine = text.split(|c: char| !c.is_alphanumeric());
    let cells = text.split([',', ';', '\t', '\n', '\r']).map(|w| w.trim().trim_matches('"'));
    coarse.chain(fine).chain(cells).filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(source: &str, columns: &[&str], value: &str) -> Mark {
        Mark {
            source: source.into(),
            columns: columns.iter().map(|c| c.to_string()).collect(),
            without: Vec::new(),
            linked: false,
            values: BTreeSet::from([salted(&[7; 32], value.as_bytes())]),
        }
    }

    #[test]
    fn a_letter_speaks_of_an_entity_by_a_field_or_by_a_word_of_what_cannot_be_read() {
        let marks = [mark("payments", &["customer"], "c-42"), mark("payments", &["a", "b"], "1|x")];
        let lookout = Lookout::new(&Catalog::default(), [7; 32], &marks);
        let speaks = |source: &str, payload: &str| {
            let payload = Some(payload.to_string());
            lookout.letter(&DeadLetter { source: Some(source.into()), payload, ..DeadLetter::default() })
        };
        assert!(speaks("payments", r#"{"customer":"c-42","amount":"much"}"#));
        assert!(speaks("payments", r#"{"payload":{"after":[{"customer":"c-42"}]}}"#));
        let of_bytes = |source: &str| {
            let payload = Some("AAAAAAE=".to_owned());
            lookout.letter(&DeadLetter { source: Some(source.into()), payload, payload_base64: true, ..DeadLetter::default() })
        };
        assert!(of_bytes("payments") && !of_bytes("elsewhere"), "what a source's bytes hold is not known");
        assert!(speaks("payments", r#"{"a":1,"b":"x"}"#));
        assert!(!speaks("payments", r#"{"a":1,"b":"y"}"#));
        assert!(!speaks("payments", r#"{"customer":"c-421","note":"not c-42"}"#), "a field that can be read is not guessed at");
        assert!(!speaks("visits", r#"{"customer":"c-42"}"#), "another source");
        assert!(speaks("payments", r#"{"customer": "c-42", "amount": "#), "cut");
        assert!(!speaks("payments", r#"{"account": "c-42", "amount": "#), "cut, and about something else");
        assert!(speaks("payments", "2026-01-01,c-42,7"));
        assert!(speaks("payments", "2026-01-01;\"c-42\";7"));
        assert!(!speaks("payments", "2026-01-01,c-4242,7"));
        assert!(!lookout.letter(&DeadLetter::default()));
    }
}
