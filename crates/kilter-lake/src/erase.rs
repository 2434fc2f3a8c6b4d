//! Taking single events out of the lake's files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use kilter_core::Schema;

use crate::Lake;
use crate::manifest::{Part, Plan};
use crate::table::{Builder, Rows, Table};

impl Lake {
    /// Replaces the events at `offsets` by what `stub` makes of them; those it makes nothing of stay. Their files are written anew without them, and what is left of them
    /// lies with the records that are no events. Gives how many were replaced.
    ///
    /// The same call may be repeated after a crash, with the same number of the erasure.
    ///
    /// # Errors
    /// Storage that does not answer, damage, other work under way.
    pub fn erase(&self, erasure: u64, offsets: &[u64], mut stub: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> anyhow::Result<u64> {
        let mut changing = self.begin()?;
        let plan = Plan::Erase { erasure };
        let wanted: BTreeSet<u64> = offsets.iter().copied().collect();
        match self.planned()? {
            Some(planned) => ensure!(planned == plan, "{planned:?} is under way in the lake"),
            None if self.holds_events(&wanted)? => {}
            None => return Ok(0),
        }
        let mut left: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        self.carry_out(&mut changing, &plan, |state| {
            let mut entry = self.entry(state, plan.clone());
            for file in state.files.iter().filter(|f| f.part != Part::Records && wanted.range(f.first..f.next).next().is_some()) {
                let mut rows = Rows::open(&self.storage, file, 0)?;
                let (mut kept, mut found) = (Builder::new(rows.table().clone())?, 0);
                while let Some((offset, record)) = rows.next_record()? {
                    match wanted.contains(&offset).then(|| stub(&record)).flatten() {
                        Some(stub) => {
                            left.insert(offset, stub);
                            found += 1;
                        }
                        None => kept.push(offset, &record)?,
                    }
                }
                if found == 0 {
                    continue;
                }
                entry.remove.push(file.path.clone());
                if found < file.rows {
                    self.put(state, &mut entry, kept, file.first, file.next)?;
                }
            }
            if let (Some((first, _)), Some((last, _))) = (left.first_key_value(), left.last_key_value()) {
                let mut builder = Builder::new(Table { part: Part::Records, columns: Schema::default() })?;
                for (offset, stub) in &left {
                    builder.push(*offset, stub)?;
                }
                self.put(state, &mut entry, builder, *first, last + 1)?;
            }
            Ok(entry)
        })?;
        Ok(left.len() as u64)
    }

    /// Whether one of these offsets is an event in the lake.
    fn holds_events(&self, wanted: &BTreeSet<u64>) -> anyhow::Result<bool> {
        for file in self.state().files.iter().filter(|f| f.part != Part::Records) {
            let Some(from) = wanted.range(file.first..file.next).next() else { continue };
            let mut rows = Rows::open(&self.storage, file, *from)?;
            while let Some((offset, _)) = rows.next_record()? {
                if wanted.contains(&offset) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
