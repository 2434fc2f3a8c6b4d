//! Counts of what never became an event, by source and reason, exact across every end of the process.
//!
//! A file of lines, each holding all counts: the last whole line counts. A line is written before anyone is told of what it counts; it is
//! with the operating system then, so that a kill loses none. A power cut may take the newest lines.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::files::{make_dir, write_whole};

/// A file grown longer than this begins anew with its last line.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// All counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Dead letters before this one are counted.
    pub letters: u64,
    /// By source, then by reason.
    pub reasons: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Tally {
    /// Counts `n` more.
    pub fn add(&mut self, source: &str, reason: &str, n: u64) {
        // Looked up before anything is copied: nearly always both are there.
        match self.reasons.get_mut(source).and_then(|reasons| reasons.get_mut(reason)) {
            Some(count) => *count += n,
            None => *self.reasons.entry(source.to_owned()).or_default().entry(reason.to_owned()).or_default() += n,
        }
    }
}

/// The file that keeps them.
#[derive(Debug)]
pub struct Counts {
    path: PathBuf,
    file: File,
    /// Where the last whole line ends.
    end: u64,
}

impl Counts {
    /// Opens the file, making it when there is none, and reads its last whole line.
    ///
    /// Errors: those of the file system.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Counts, Tally), StoreError> {
        let path = path.into();
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        let mut file = opened(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| StoreError::io("read", &path, e))?;
        // What follows the last whole line is a write that was cut short: nobody was told of it.
        let mut end = 0;
        let mut tally = Tally::default();
        let mut start = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            start += line.len();
            if line.ends_with(b"\n")
                && let Ok(read) = serde_json::from_slice(line)
            {
                (tally, end) = (read, start as u64);
            }
        }
        Ok((Counts { path, file, end }, tally))
    }

    /// Writes all counts.
    ///
    /// Errors: those of the file system; the counts of the line before stand then.
    pub fn write(&mut self, tally: &Tally) -> Result<(), StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |e| StoreError::io("write", &path, e)
        };
        let mut line = serde_json::to_vec(tally).map_err(|e| failed(&self.path)(e.into()))?;
        line.push(b'\n');
        if self.end + line.len() as u64 > MAX_FILE_BYTES {
            write_whole(&self.path, &[&line])?;
            self.file = opened(&self.path)?;
            self.end = line.len() as u64;
            return Ok(());
        }
        let mut write = || {
            // Half a line of a write that failed is in the way.
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            self.file.write_all(&line)
        };
        write().map_err(failed(&self.path))?;
        self.end += line.len() as u64;
        Ok(())
    }
}

fn opened(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|e| StoreError::io("open", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(n: u64) -> Tally {
        let mut tally = Tally { letters: n, ..Tally::default() };
        tally.add("payments", "duplicate", n);
        tally.add("payments", "wrong_type", 1);
        tally
    }

    #[test]
    fn the_last_whole_line_counts_wherever_the_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.ndjson");
        let (mut counts, read) = Counts::open(&path).unwrap();
        assert_eq!(read, Tally::default());
        let mut ends = vec![0];
        for n in 1..=3 {
            counts.write(&tally(n)).unwrap();
            ends.push(counts.end);
        }
        drop(counts);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut counts, read) = Counts::open(&path).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count() as u64 - 1;
            assert_eq!(read, if whole == 0 { Tally::default() } else { tally(whole) }, "cut at {cut}");
            counts.write(&tally(9)).unwrap();
            assert_eq!(Counts::open(&path).unwrap().1, tally(9), "cut at {cut}");
        }
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.ndjson");
        let (mut counts, _) = Counts::open(&path).unwrap();
        for n in 0..40_000 {
            counts.write(&tally(n)).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= MAX_FILE_BYTES);
        assert_eq!(Counts::open(&path).unwrap().1, tally(39_999));
    }
}
