//! All records of a stretch of the lake in the order of their offsets, merged from the files that hold them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;
use kilter_core::Schema;

use crate::Lake;
use crate::manifest::{File, Part, State};
use crate::merge::Merge;
use crate::table::{Gone, Rows};

/// Walks through the lake's records, and passes over those that have expired.
pub struct Reader {
    lake: Arc<Lake>,
    state: Arc<State>,
    next: u64,
    /// Files not yet opened, those that begin last first.
    waiting: Vec<File>,
    open: Merge,
    record: Vec<u8>,
    schemas: BTreeMap<u32, (String, Schema)>,
}

impl Reader {
    pub(crate) fn new(lake: &Arc<Lake>, from: u64) -> Reader {
        let mut reader = Reader {
            lake: Arc::clone(lake),
            state: lake.state(),
            next: from,
            waiting: Vec::new(),
            open: Merge::default(),
            record: Vec::new(),
            schemas: BTreeMap::new(),
        };
        reader.begin();
        reader
    }

    /// Looks at the files of the present state, from `next` on.
    fn begin(&mut self) {
        self.state = self.lake.state();
        self.open = Merge::default();
        self.waiting = self.state.files.iter().filter(|f| f.next > self.next).cloned().collect();
        self.waiting.sort_by_key(|f| Reverse(f.first));
    }

    /// Offset of the record that the next call answers, if it has not expired.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// Source and columns by schema number, of every record that has been given.
    pub fn schemas(&self) -> &BTreeMap<u32, (String, Schema)> {
        &self.schemas
    }

    /// The next record; none at the end of what was in the lake when the reader was made.
    ///
    /// # Errors
    /// The lake has lost the record, or a file is damaged; storage that does not answer.
    pub fn next_record(&mut self) -> anyhow::Result<Option<(u64, &[u8])>> {
        loop {
            match self.advance() {
                Ok(found) => return Ok(found.map(|offset| (offset, self.record.as_slice()))),
                // The file has become part of another one meanwhile.
                Err(e) if e.is::<Gone>() && self.lake.has_moved_on(self.state.number)? => self.begin(),
                Err(e) => return Err(e),
            }
        }
    }

    /// Brings the next record into the buffer; its offset.
    fn advance(&mut self) -> anyhow::Result<Option<u64>> {
        loop {
            if self.next >= self.state.next {
                return Ok(None);
            }
            while let Some(file) = self.waiting.pop_if(|f| f.first <= self.next) {
                let rows = Rows::open(&self.lake.storage, &file, self.next)?;
                if let Part::Events { source, schema, .. } = &rows.table().part
                    && !self.schemas.contains_key(schema)
                {
                    self.schemas.insert(*schema, (source.clone(), rows.table().columns.clone()));
                }
                self.open.add(rows)?;
            }
            match self.open.next_offset() {
                Some(offset) if offset < self.next => bail!("record {offset} is twice in the lake"),
                Some(offset) if offset == self.next => {}
                _ => {
                    self.pass()?;
                    continue;
                }
            }
            let Some((offset, record)) = self.open.pop()? else { continue };
            self.record = record;
            self.next += 1;
            return Ok(Some(offset));
        }
    }

    /// Goes on behind a record that is not there.
    fn pass(&mut self) -> anyhow::Result<()> {
        if !self.state.may_lack(self.next) {
            bail!(
                "record {} is missing in the lake\n  hint: a file was taken away or exchanged by something else than kilter; restore it from a copy",
                self.next
            );
        }
        self.next += 1;
        Ok(())
    }
}
