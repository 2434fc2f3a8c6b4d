//! Records divided among parts, on disk: each part has a buffer; when they are full together, every one is written as a *segment*. A part's
//! segments one after another are its records in the order in which they came.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A segment is read in pieces of this size.
const PIECE: usize = 256 * 1024;

/// Where the records of each part lie in the file: start and length of its segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments(Vec<Vec<(u64, u64)>>);

/// Writes records; holds at most about `limit` bytes of them.
pub struct SpillWriter {
    file: BufWriter<File>,
    end: u64,
    held: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
    segments: Segments,
}

impl SpillWriter {
    /// Begins the file anew.
    pub fn create(path: &Path, parts: usize, limit: usize) -> io::Result<SpillWriter> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(SpillWriter {
            file: BufWriter::with_capacity(1 << 18, file),
            end: 0,
            held: vec![Vec::new(); parts],
            bytes: 0,
            limit,
            segments: Segments(vec![Vec::new(); parts]),
        })
    }

    /// Adds a record: what `write` puts behind the bytes that are there.
    pub fn push(&mut self, part: usize, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let held = &mut self.held[part];
        let start = held.len();
        held.extend_from_slice(&[0; 4]);
        write(held);
        let length = u32::try_from(held.len() - start - 4).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a record of 4 GiB"))?;
        held[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes += held.len() - start;
        if self.bytes >= self.limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        for (held, segments) in self.held.iter_mut().zip(&mut self.segments.0).filter(|(held, _)| !held.is_empty()) {
            self.file.write_all(held)?;
            segments.push((self.end, held.len() as u64));
            self.end += held.len() as u64;
            held.clear();
        }
        self.bytes = 0;
        Ok(())
    }

    /// Writes everything out for good.
    pub fn finish(mut self) -> io::Result<Segments> {
        self.flush()?;
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok(self.segments)
    }
}

/// Reads the records of one part in their order.
pub struct SpillReader {
    file: File,
    /// Segments that are left, the next one at the end.
    left: Vec<(u64, u64)>,
    buffer: Vec<u8>,
    at: usize,
}

impl SpillReader {
    pub fn open(path: &Path, segments: &Segments, part: usize) -> io::Result<SpillReader> {
        let left = segments.0.get(part).map_or(Vec::new(), |of| of.iter().rev().copied().collect());
        Ok(SpillReader { file: File::open(path)?, left, buffer: Vec::new(), at: 0 })
    }

    /// The next record, or none at the end.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() == self.at && self.left.is_empty() {
            return Ok(None);
        }
        self.fill(4)?;
        let length = self.buffer[self.at..self.at + 4].try_into().map_or(0, u32::from_le_bytes) as usize;
        self.fill(4 + length)?;
        let start = self.at + 4;
        self.at = start + length;
        Ok(Some(&self.buffer[start..self.at]))
    }

    /// Brings at least so many bytes into the buffer from where it stands. A record never goes over the end of its segment, but what is read
    /// ahead may: the segments of a part are as one file.
    fn fill(&mut self, need: usize) -> io::Result<()> {
        let held = self.buffer.len() - self.at;
        if held >= need {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let want = need.max(PIECE);
        while self.buffer.len() < want
            && let Some((start, length)) = self.left.pop()
        {
            let take = (want - self.buffer.len()).min(usize::try_from(length).unwrap_or(usize::MAX));
            let from = self.buffer.len();
            self.buffer.resize(from + take, 0);
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(&mut self.buffer[from..])?;
            if (take as u64) < length {
                self.left.push((start + take as u64, length - take as u64));
            }
        }
        match self.buffer.len() >= need {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a record reaches past the end of its part")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_part_gets_back_its_records_in_order_and_no_more_than_the_limit_is_held(
            records in proptest::collection::vec((0usize..7, prop_oneof![0usize..300, 0usize..300_000]), 0..60), limit in 1usize..400_000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("spill");
            std::fs::write(&path, "what an earlier run left").unwrap();
            let mut writer = SpillWriter::create(&path, 7, limit).unwrap();
            for (i, (part, size)) in records.iter().enumerate() {
                writer.push(*part, |out| out.extend(std::iter::repeat_n(i as u8, *size))).unwrap();
                prop_assert!(writer.held.iter().map(Vec::len).sum::<usize>() < limit);
            }
            let segments = writer.finish().unwrap();
            for part in 0..7 {
                let mut reader = SpillReader::open(&path, &segments, part).unwrap();
                for (i, (_, size)) in records.iter().enumerate().filter(|(_, (of, _))| *of == part) {
                    let expected = vec![i as u8; *size];
                    prop_assert_eq!(reader.next().unwrap(), Some(expected.as_slice()));
                }
                prop_assert_eq!(reader.next().unwrap(), None);
            }
        }
    }

    #[test]
    fn a_file_that_lost_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spill");
        let mut writer = SpillWriter::create(&path, 1, 10).unwrap();
        writer.push(0, |out| out.extend_from_slice(b"one")).unwrap();
        let segments = writer.finish().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        assert!(SpillReader::open(&path, &segments, 0).unwrap().next().is_err());
    }
}
