//! The log of a Delta Lake table beside each source's files: what the manifest says, told to those who read Delta.
//!
//! One entry of the manifest is one commit in the table of each source whose files it touches. A commit is a function of the manifest, put where none is; so a start after a
//! crash writes it again as it was. See the Delta transaction protocol, <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>: reader version 1, writer version 2.

use std::collections::{BTreeMap, BTreeSet};

use kilter_core::{DataType, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manifest::{Entry, File, Part, Plan, State};

/// The Delta table of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaTable {
    /// Commits so far.
    commits: u64,
    /// Columns of its files; those of earlier files that later ones lack stay.
    columns: Schema,
    /// The entry with which the columns changed last.
    changed: u64,
}

/// The sources whose files an entry touches.
fn touched<'a>(entry: &'a Entry) -> BTreeSet<&'a str> {
    let source_of = |path: &'a str| path.strip_prefix("events/source=")?.split('/').next();
    entry.add.iter().map(|f| f.path.as_str()).chain(entry.remove.iter().map(String::as_str)).filter_map(source_of).collect()
}

/// Takes note of an entry.
pub(crate) fn apply(tables: &mut BTreeMap<String, DeltaTable>, entry: &Entry) {
    let Some(columns) = &entry.delta else { return };
    for source in touched(entry) {
        let table = tables.entry(source.to_owned()).or_default();
        table.commits += 1;
        let new: Vec<_> =
            columns.get(source).into_iter().flat_map(|c| &c.fields).filter(|f| table.columns.index(&f.name).is_none()).cloned().collect();
        if !new.is_empty() {
            table.columns.fields.extend(new);
            table.changed = entry.number;
        }
    }
}

/// The commits that belong to the newest entry, each with its path.
pub(crate) fn commits(state: &State, entry: &Entry) -> Vec<(String, Vec<u8>)> {
    if entry.delta.is_none() {
        return Vec::new();
    }
    let tables = touched(entry).into_iter().filter_map(|source| Some((source, state.tables.get(source)?)));
    tables
        .map(|(source, table)| {
            (format!("events/source={source}/_delta_log/{:020}.json", table.commits - 1), commit(state, entry, source, table))
        })
        .collect()
}

fn commit(state: &State, entry: &Entry, source: &str, table: &DeltaTable) -> Vec<u8> {
    let own = |file: &&File| matches!(&file.part, Part::Events { source: of, .. } if of == source);
    let changes = !matches!(entry.plan, Plan::Compact { .. });
    let prefix = format!("events/source={source}/");
    let mut actions = vec![json!({ "commitInfo": { "operation": "WRITE", "engineInfo": concat!("kilter/", env!("CARGO_PKG_VERSION")) } })];
    let first = table.commits == 1;
    if first {
        actions.push(json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }));
    }
    if first || table.changed == entry.number {
        actions.push(metadata(source, &table.columns));
    }
    actions.push(json!({ "txn": { "appId": "kilter", "version": entry.number } }));
    let removed = entry.remove.iter().filter_map(|path| path.strip_prefix(&prefix));
    actions.extend(removed.map(|path| json!({ "remove": { "path": path, "deletionTimestamp": 0, "dataChange": changes } })));
    // The first commit tells of files from before the table, too.
    let added: Vec<&File> = if first { &state.files } else { &entry.add }.iter().filter(own).collect();
    actions.extend(added.into_iter().map(|file| {
        json!({ "add": {
            "path": file.path.strip_prefix(&prefix),
            "partitionValues": { "date": file.part.date() },
            "size": file.bytes,
            "modificationTime": 0,
            "dataChange": changes || first,
            "stats": json!({ "numRecords": file.rows }).to_string(),
        } })
    }));
    actions.iter().fold(String::new(), |text, action| text + &action.to_string() + "\n").into_bytes()
}

fn metadata(source: &str, columns: &Schema) -> Value {
    let field = |name: &str, kind: &str| json!({ "name": name, "type": kind, "nullable": true, "metadata": {} });
    let own = columns.fields.iter().map(|f| field(&f.name, kind(f.data_type)));
    let fields: Vec<Value> = own.chain([field("date", "date")]).collect();
    let hash = blake3::hash(source.as_bytes()).to_hex();
    let id = format!("{}-{}-{}-{}-{}", &hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32]);
    json!({ "metaData": {
        "id": id,
        "format": { "provider": "parquet", "options": {} },
        "schemaString": json!({ "type": "struct", "fields": fields }).to_string(),
        "partitionColumns": ["date"],
        "configuration": {},
    } })
}

/// Delta's word for a column's type.
fn kind(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "boolean",
        DataType::Int64 => "long",
        DataType::Float64 => "double",
        DataType::Timestamp => "timestamp",
        DataType::String | DataType::NumberList | DataType::TextList | DataType::NumberMap => "string",
    }
}
