//! Taking in the next records of the log.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kilter_core::Schema;

use crate::Lake;
use crate::manifest::{Part, Plan};
use crate::table::{Builder, Table};

/// The name of the source and the columns behind a schema number.
pub type Schemas<'a> = &'a dyn Fn(u32) -> Option<(String, Schema)>;

/// Gives the record at an offset of the log; asked for one after the other.
pub type Source<'a> = &'a mut dyn FnMut(u64) -> anyhow::Result<Option<Vec<u8>>>;

/// How much goes into one batch at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub records: u64,
    /// Of the records as they lie in the log; one record more than fits ends the batch.
    pub bytes: u64,
}

/// A batch that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Everything before this offset is in the lake.
    pub next: u64,
    pub records: u64,
    pub files: usize,
}

/// The files of a batch, being made.
#[derive(Default)]
struct Batch {
    builders: BTreeMap<Part, Builder>,
    /// The schema of each source: a batch has one, so that its files have names of their own.
    schemas: BTreeMap<String, u32>,
    records: u64,
    bytes: u64,
    last: Option<String>,
}

impl Batch {
    /// Whether a record of this part belongs to the batch.
    fn takes(&self, part: &Part, limits: Limits) -> bool {
        let schema_fits = match part {
            Part::Events { source, schema, .. } => self.schemas.get(source).is_none_or(|known| known == schema),
            Part::Records => true,
        };
        schema_fits && (self.records == 0 || (self.records < limits.records && self.bytes < limits.bytes))
    }

    fn push(&mut self, table: Table, offset: u64, record: &[u8]) -> anyhow::Result<()> {
        if let Part::Events { source, schema, .. } = &table.part {
            self.schemas.insert(source.clone(), *schema);
        }
        let builder = match self.builders.entry(table.part.clone()) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(Builder::new(table)?),
        };
        builder.push(offset, record)?;
        self.records += 1;
        self.bytes += record.len() as u64;
        self.last = Some(fingerprint(record));
        Ok(())
    }
}

/// By this a record of the log is known again.
pub(crate) fn fingerprint(record: &[u8]) -> String {
    blake3::hash(record).to_hex()[..32].to_string()
}

impl Lake {
    /// Takes in the next batch of a log: the records of `source`, which begin at the end of the lake (at `log_start` for an empty one) and end before `until`. One that was
    /// interrupted is finished first, as it was planned. None: there is nothing to take in.
    ///
    /// # Errors
    /// Storage that does not answer; another writer; a log that does not go on where the lake ends. The batch can be asked for again.
    pub fn append(
        &self,
        log_start: u64,
        until: u64,
        limits: Limits,
        source: Source<'_>,
        schemas: Schemas<'_>,
    ) -> anyhow::Result<Option<Appended>> {
        let mut changing = self.begin()?;
        let state = self.state();
        let first = if state.number == 0 { log_start } else { state.next };
        let (until, limits) = match self.planned()? {
            Some(Plan::Append { first: planned, next }) => {
                ensure!(
                    planned == first && next <= until,
                    "the lake is about to take in {planned}..{next}, and the log has {first}..{until}"
                );
                (next, Limits { records: u64::MAX, bytes: u64::MAX })
            }
            Some(other) => anyhow::bail!("{other:?} is under way in the lake"),
            None => (until, limits),
        };
        let mut batch = Batch::default();
        while first + batch.records < until {
            let offset = first + batch.records;
            let record = source(offset)?.with_context(|| format!("the log has no record {offset}"))?;
            let table = Table::of(&record, schemas).with_context(|| format!("event log, offset {offset}"))?;
            if !batch.takes(&table.part, limits) {
                break;
            }
            batch.push(table, offset, &record)?;
        }
        if batch.records == 0 {
            return Ok(None);
        }
        let next = first + batch.records;
        let appended = Appended { next, records: batch.records, files: batch.builders.len() };
        let plan = Plan::Append { first, next };
        self.carry_out(&mut changing, &plan, |state| {
            let mut entry = self.entry(state, plan.clone());
            entry.last = batch.last;
            for builder in batch.builders.into_values() {
                self.put(state, &mut entry, builder, first, next)?;
            }
            Ok(entry)
        })?;
        Ok(Some(appended))
    }

    /// Whether a batch was interrupted.
    pub fn is_taking_in(&self) -> anyhow::Result<bool> {
        Ok(matches!(self.planned()?, Some(Plan::Append { .. })))
    }

    /// Whether a record is the newest one that the lake has taken in. Erased records are not known again.
    pub fn ends_with(&self, record: &[u8]) -> bool {
        self.state().last.as_ref().is_none_or(|last| *last == fingerprint(record))
    }
}
