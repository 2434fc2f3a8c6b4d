//! The present rows of a source whose rows change, as far as a view reads them: what an update or a deletion has to take back.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use kilter_core::{EntityKey, EventTime, Offset, Value};

/// Rows looked at before the first sweep.
const FIRST_SWEEP: usize = 1024;

#[derive(Default)]
pub(super) struct Table {
    rows: HashMap<EntityKey, Row, FixedState>,
    /// Sweep when there are this many.
    sweep_at: usize,
}

struct Row {
    offset: Offset,
    time: EventTime,
    /// The columns a view reads, in the plan's order.
    values: Box<[Value]>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let values: usize = self.rows.values().map(|r| r.values.len()).sum();
        self.rows.capacity() * size_of::<(EntityKey, Row)>() + values * size_of::<Value>()
    }

    pub(super) fn put(&mut self, name: EntityKey, offset: Offset, time: EventTime, values: Box<[Value]>) {
        self.rows.insert(name, Row { offset, time, values });
    }

    /// Takes the rows of another; the name of one that both have is given back.
    pub(super) fn absorb(&mut self, other: Table) -> Result<(), EntityKey> {
        for (name, row) in other.rows {
            if self.rows.contains_key(&name) {
                return Err(name);
            }
            self.rows.insert(name, row);
        }
        Ok(())
    }

    pub(super) fn take(&mut self, name: &EntityKey) -> Option<(Offset, EventTime, Box<[Value]>)> {
        self.rows.remove(name).map(|row| (row.offset, row.time, row.values))
    }

    /// From time to time drops rows that no window holds any more: taking them back would change nothing.
    pub(super) fn sweep(&mut self, mut admitted: impl FnMut(EventTime) -> bool) {
        if self.rows.len() < self.sweep_at.max(FIRST_SWEEP) {
            return;
        }
        self.rows.retain(|_, row| admitted(row.time));
        self.sweep_at = self.rows.len() * 2;
    }

    /// The rows that some window still holds, by name.
    pub(super) fn sorted(&self, mut admitted: impl FnMut(EventTime) -> bool) -> Vec<(&EntityKey, Offset, EventTime, &[Value])> {
        let rows = self.rows.iter().filter(|(_, row)| admitted(row.time));
        let mut rows: Vec<_> = rows.map(|(name, row)| (name, row.offset, row.time, &*row.values)).collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(b.0));
        rows
    }
}
