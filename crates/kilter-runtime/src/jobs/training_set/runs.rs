//! Records sorted on disk: a bounded buffer of them is sorted and written as a *run*, the runs of a file are merged while they are read.
//!
//! Records that come in order make runs that follow one another, of which one at a time is read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What records are sorted by: a time or 0, then a number that is another for each record.
pub type Key = (i64, u64);

/// Bytes before a record's payload: its length and its key.
const HEAD: usize = 4 + 8 + 8;
/// A run is read in pieces of this size.
const PIECE: usize = 64 * 1024;

/// A sorted stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    start: u64,
    bytes: u64,
    first: Key,
    last: Key,
}

/// Writes records in any order; holds at most about `limit` bytes of them.
pub struct RunWriter {
    file: BufWriter<File>,
    runs: Vec<Run>,
    limit: usize,
    held: Vec<u8>,
    /// Key, start and end of each record held.
    index: Vec<(Key, usize, usize)>,
}

impl RunWriter {
    /// Goes on behind these runs of the file, or begins it with none; what lies after them is cut off.
    pub fn open(path: &Path, runs: Vec<Run>, limit: usize) -> io::Result<RunWriter> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        let end = runs.last().map_or(0, |run| run.start + run.bytes);
        if file.metadata()?.len() < end {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} is shorter than it was", path.display())));
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(RunWriter { file: BufWriter::with_capacity(1 << 18, file), runs, limit, held: Vec::new(), index: Vec::new() })
    }

    pub fn push(&mut self, key: Key, payload: &[u8]) -> io::Result<()> {
        let start = self.held.len();
        self.held.extend_from_slice(payload);
        self.index.push((key, start, self.held.len()));
        if self.held.len() + self.index.len() * size_of::<(Key, usize, usize)>() >= self.limit {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is held as a run.
    pub fn flush(&mut self) -> io::Result<()> {
        self.index.sort_unstable_by_key(|(key, ..)| *key);
        let (Some((first, ..)), Some((last, ..))) = (self.index.first().copied(), self.index.last().copied()) else { return Ok(()) };
        let start = self.runs.last().map_or(0, |run| run.start + run.bytes);
        let mut bytes = 0;
        for (key, from, to) in self.index.drain(..) {
            let payload = &self.held[from..to];
            let length = u32::try_from(payload.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a row of 4 GiB"))?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(&key.0.to_le_bytes())?;
            self.file.write_all(&key.1.to_le_bytes())?;
            self.file.write_all(payload)?;
            bytes += (HEAD + payload.len()) as u64;
        }
        self.held.clear();
        self.runs.push(Run { start, bytes, first, last });
        Ok(())
    }

    /// Writes everything out for good; the runs so far.
    pub fn sync(&mut self) -> io::Result<Vec<Run>> {
        self.flush()?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok(self.runs.clone())
    }
}

/// Reads the records of a file's runs in the order of their keys.
pub struct Merged {
    file: File,
    /// Runs that have not begun, the one with the smallest first key at the end.
    waiting: Vec<Run>,
    open: Vec<Cursor>,
    /// The heads of the open runs.
    heads: BinaryHeap<Reverse<(Key, usize)>>,
    /// The run whose head is the record answered.
    current: Option<usize>,
}

struct Cursor {
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
    key: Key,
    payload: usize,
}

impl Merged {
    pub fn open(path: &Path, mut runs: Vec<Run>) -> io::Result<Merged> {
        runs.sort_by_key(|run| Reverse(run.first));
        Ok(Merged { file: File::open(path)?, waiting: runs, open: Vec::new(), heads: BinaryHeap::new(), current: None })
    }

    /// Moves to the next record: its key, or none at the end.
    pub fn advance(&mut self) -> io::Result<Option<Key>> {
        if let Some(run) = self.current.take() {
            let cursor = &mut self.open[run];
            match cursor.advance(&mut self.file)? {
                true => self.heads.push(Reverse((cursor.key, run))),
                // Its buffer goes; its place stays, so that the others keep theirs.
                false => cursor.buffer = Vec::new(),
            }
        }
        while let Some(next) = self.waiting.last()
            && self.heads.peek().is_none_or(|Reverse((key, _))| next.first <= *key)
        {
            let mut cursor =
                Cursor { position: next.start, end: next.start + next.bytes, buffer: Vec::new(), at: 0, key: next.first, payload: 0 };
            if cursor.advance(&mut self.file)? {
                self.heads.push(Reverse((cursor.key, self.open.len())));
                self.open.push(cursor);
            }
            self.waiting.pop();
        }
        let Some(Reverse((key, run))) = self.heads.pop() else { return Ok(None) };
        self.current = Some(run);
        Ok(Some(key))
    }

    /// The payload of the record that the last [`Merged::advance`] answered.
    pub fn payload(&self) -> &[u8] {
        let Some(cursor) = self.current.map(|run| &self.open[run]) else { return &[] };
        &cursor.buffer[cursor.at - cursor.payload..cursor.at]
    }

    /// Runs that are being read, each with a buffer.
    #[cfg(test)]
    fn buffers(&self) -> usize {
        self.open.iter().filter(|c| !c.buffer.is_empty()).count()
    }
}

impl Cursor {
    fn advance(&mut self, file: &mut File) -> io::Result<bool> {
        if self.at == self.buffer.len() && self.position == self.end {
            return Ok(false);
        }
        self.fill(file, HEAD)?;
        let head = &self.buffer[self.at..self.at + HEAD];
        let number = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let length = head[..4].try_into().map_or(0, u32::from_le_bytes) as usize;
        self.key = (number(4) as i64, number(12));
        self.fill(file, HEAD + length)?;
        self.at += HEAD + length;
        self.payload = length;
        Ok(true)
    }

    /// Brings at least so many bytes into the buffer from where it stands.
    fn fill(&mut self, file: &mut File, need: usize) -> io::Result<()> {
        let held = self.buffer.len() - self.at;
        if held >= need {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let left = self.end - self.position;
        let want = (need.max(PIECE) - held).min(usize::try_from(left).unwrap_or(usize::MAX));
        if held + want < need {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a record reaches past the end of its run"));
        }
        self.buffer.resize(held + want, 0);
        file.seek(SeekFrom::Start(self.position))?;
        file.read_exact(&mut self.buffer[held..])?;
        self.position += want as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &Path, runs: Vec<Run>) -> (Vec<(Key, Vec<u8>)>, usize) {
        let mut merged = Merged::open(path, runs).unwrap();
        let (mut all, mut most) = (Vec::new(), 0);
        while let Some(key) = merged.advance().unwrap() {
            all.push((key, merged.payload().to_vec()));
            most = most.max(merged.buffers());
        }
        (all, most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn merged_runs_are_all_records_in_order_and_no_more_than_the_limit_is_held(
            times in proptest::collection::vec((-50i64..50, 0usize..3000), 0..400), limit in 1usize..100_000, cut in 0usize..400,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("runs");
            let records: Vec<(Key, Vec<u8>)> = times.iter().enumerate().map(|(i, (t, n))| ((*t, i as u64), vec![i as u8; *n])).collect();
            let mut writer = RunWriter::open(&path, Vec::new(), limit).unwrap();
            for (i, (key, payload)) in records.iter().enumerate() {
                if i == cut {
                    // Interrupted after a record that was not kept: taken up from the runs that were.
                    let runs = writer.sync().unwrap();
                    writer.push((7, 9999), b"lost").unwrap();
                    writer.flush().unwrap();
                    drop(writer);
                    writer = RunWriter::open(&path, runs, limit).unwrap();
                }
                writer.push(*key, payload).unwrap();
                prop_assert!(writer.held.len() <= limit + payload.len());
            }
            let runs = writer.sync().unwrap();
            let mut expected = records;
            expected.sort();
            prop_assert_eq!(read(&path, runs).0, expected);
        }
    }

    #[test]
    fn runs_that_follow_one_another_are_read_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs");
        let mut writer = RunWriter::open(&path, Vec::new(), 10_000).unwrap();
        (0..20_000u64).for_each(|i| writer.push((0, i), &[1; 100]).unwrap());
        let runs = writer.sync().unwrap();
        assert!(runs.len() > 100);
        let (all, most) = read(&path, runs);
        assert_eq!((all.len(), most), (20_000, 1));
    }

    #[test]
    fn a_file_that_lost_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs");
        let mut writer = RunWriter::open(&path, Vec::new(), 10).unwrap();
        writer.push((0, 1), b"one").unwrap();
        let runs = writer.sync().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        assert!(Merged::open(&path, runs.clone()).unwrap().advance().is_err());
        assert!(RunWriter::open(&path, runs, 10).is_err());
    }
}
