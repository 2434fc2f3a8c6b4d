//! The finished file: the spine and what the workers know of its rows, put together in its order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use kilter_connect::{TableFormat, TableWriter};
use kilter_core::record::Cursor;
use kilter_core::{EntityKey, Field, Schema, Value};
use kilter_pipeline::training_set::SetPlan;

use super::runs::Merged;
use super::steps::{Position, decode_row};
use super::work::{Manifest, row_files, sync_folder};

/// What the rows have in common with the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    /// Rows after the last event that was known: their features are as of the log's end.
    pub beyond_log: u64,
    /// Rows before the first event was known: their features are those of an empty history.
    pub before_log: u64,
    /// By view: rows that name no entity of it.
    pub without_key: BTreeMap<String, u64>,
}

/// Writes the table and puts it in its place in one step.
pub fn assemble(
    set: &SetPlan,
    manifest: &Manifest,
    partial: &Path,
    out: &Path,
    format: TableFormat,
    metadata: &[(String, String)],
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Counts> {
    let mut files = Vec::new();
    for (path, runs) in row_files(partial, manifest) {
        let mut merged = Merged::open(&path, runs)?;
        let head = merged.advance()?;
        files.push((merged, head));
    }
    let fields = set.columns.iter().map(|c| Field { name: c.name.clone(), data_type: c.data_type });
    let columns = Schema { fields: fields.collect() };
    let unfinished = partial.join("table");
    let mut table = TableWriter::create(File::create(&unfinished)?, format, &columns, metadata)?;
    let Position { before_log, beyond_log, .. } = manifest.position;
    let mut counts = Counts { before_log, beyond_log, ..Counts::default() };
    let (mut slots, mut row) = (Vec::new(), Vec::new());
    // The spine has every row; the workers those they know something of.
    while let Some(key) = files.first().and_then(|(_, head)| *head) {
        for (file, (merged, head)) in files.iter_mut().enumerate() {
            // More than once where a part had to be divided, the same each time.
            while *head == Some(key) {
                let mut cursor = Cursor::new(merged.payload());
                if file == 0 {
                    let spine = decode_row(key.1, &mut cursor)?;
                    counts.look_at(set, &spine.row);
                    set.start(spine.row, &mut slots);
                } else {
                    join(set, &mut cursor, &mut slots)?;
                }
                *head = merged.advance()?;
            }
        }
        set.finish(&slots, &mut row);
        table.push(&row)?;
        if counts.rows.is_multiple_of(4096) {
            progress(counts.rows, manifest.position.rows);
        }
    }
    table.finish()?.sync_all()?;
    fs::rename(&unfinished, out)?;
    if let Some(folder) = out.parent().filter(|f| !f.as_os_str().is_empty()) {
        sync_folder(folder)?;
    }
    Ok(counts)
}

/// The values of each view in a worker's record.
fn join(set: &SetPlan, cursor: &mut Cursor<'_>, slots: &mut [Value]) -> anyhow::Result<()> {
    while !cursor.rest.is_empty() {
        let view = usize::from(cursor.u16()?);
        let length = set.piece_len(view).ok_or_else(|| anyhow::anyhow!("a row names view {view}, which is not read here"))?;
        let values = (0..length).map(|_| cursor.value()).collect::<Result<Vec<_>, _>>()?;
        set.join(view, values, slots);
    }
    Ok(())
}

impl Counts {
    fn look_at(&mut self, set: &SetPlan, row: &[Value]) {
        self.rows += 1;
        for (view, key) in set.views() {
            if EntityKey::from_row(row, key).is_none() {
                *self.without_key.entry(view.name().to_string()).or_default() += 1;
            }
        }
    }
}
