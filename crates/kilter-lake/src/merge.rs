//! Several files as one, in the order of the offsets.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::table::{Rows, Table};

/// Files being read, each at its next record.
#[derive(Default)]
pub(crate) struct Merge {
    open: BinaryHeap<Reverse<Head>>,
}

struct Head {
    offset: u64,
    record: Vec<u8>,
    rows: Rows,
}

impl Merge {
    /// Adds a file, from its next record on.
    pub fn add(&mut self, mut rows: Rows) -> anyhow::Result<()> {
        if let Some((offset, record)) = rows.next_record()? {
            self.open.push(Reverse(Head { offset, record, rows }));
        }
        Ok(())
    }

    /// What the rows of the file with the next record are.
    pub fn table(&self) -> Option<&Table> {
        self.open.peek().map(|Reverse(head)| head.rows.table())
    }

    pub fn next_offset(&self) -> Option<u64> {
        self.open.peek().map(|Reverse(head)| head.offset)
    }

    /// The next record. After an error what is open is of no more use.
    pub fn pop(&mut self) -> anyhow::Result<Option<(u64, Vec<u8>)>> {
        let Some(Reverse(Head { offset, record, rows })) = self.open.pop() else { return Ok(None) };
        self.add(rows)?;
        Ok(Some((offset, record)))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.offset == other.offset
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.offset.cmp(&other.offset)
    }
}
