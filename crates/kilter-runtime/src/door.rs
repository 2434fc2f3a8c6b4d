//! What was turned away, and why: dead letters and repetitions, counted by source and reason, exactly and across restarts.
//!
//! Dead letters are counted from their own stream, so that a count and its letter cannot part; repetitions leave nothing behind but their
//! count, which is written before their sender is answered.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use kilter_store::StoreError;
use kilter_store::counts::{Counts, Tally};
use kilter_store::dead_letter::{DeadLetter, DeadLetters};

use crate::status::lock;

/// The reason of a repetition.
pub const DUPLICATE: &str = "duplicate";
/// The reason of an event too late for every view over its source; it is an event of the log all the same.
pub const LATE: &str = "late";
/// The counts are written after this many letters at the latest, for a start to count no more than these anew.
const LETTERS: u64 = 10_000;

/// Counts of what was turned away.
pub struct Door {
    kept: Mutex<Kept>,
}

struct Kept {
    counts: Counts,
    tally: Tally,
    /// Where the letters counted in the file end.
    written: u64,
}

impl Door {
    pub(crate) fn open(path: &Path, letters: &DeadLetters) -> anyhow::Result<Door> {
        let (counts, mut tally) = Counts::open(path)?;
        let log = letters.log();
        let from = tally.letters.clamp(log.start_offset(), log.next_offset());
        let mut reader = log.reader(from);
        while let Some((_, bytes)) = reader.next_record()? {
            // One that cannot be read is told of by whoever lists it.
            let letter = serde_json::from_slice::<DeadLetter>(bytes).unwrap_or_default();
            tally.add(letter.source.as_deref().unwrap_or_default(), &letter.code, 1);
        }
        tally.letters = log.next_offset();
        Ok(Door { kept: Mutex::new(Kept { counts, written: from, tally }) })
    }

    /// Keeps letters and counts them.
    pub(crate) fn bury(&self, stream: &DeadLetters, letters: &[DeadLetter]) -> Result<(), StoreError> {
        let kept = &mut *lock(&self.kept);
        kept.tally.letters = stream.append(letters)?.next;
        for letter in letters {
            kept.tally.add(letter.source.as_deref().unwrap_or_default(), &letter.code, 1);
        }
        if kept.tally.letters - kept.written >= LETTERS {
            kept.write();
        }
        Ok(())
    }

    /// Counts events whose ids were seen before.
    pub(crate) fn repeated<'a>(&self, sources: impl Iterator<Item = (&'a str, u64)>) {
        let kept = &mut *lock(&self.kept);
        for (source, n) in sources {
            kept.tally.add(source, DUPLICATE, n);
        }
        kept.write();
    }

    /// By source, then by reason, since the data folder began.
    pub fn reasons(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        lock(&self.kept).tally.reasons.clone()
    }
}

impl Kept {
    fn write(&mut self) {
        match self.counts.write(&self.tally) {
            Ok(()) => self.written = self.tally.letters,
            // The next write has them all.
            Err(e) => tracing::error!(error = %e, "counts of what was turned away could not be written"),
        }
    }
}
