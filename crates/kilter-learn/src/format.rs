//! The model file: one self-contained, versioned, checksummed run of bytes.
//!
//! ```text
//! "KLTM" | version u32 | header length u64 | header JSON | body length u64 | body | FNV-1a checksum u64 of all before
//! ```
//! Numbers are little-endian. The header says in words what the model is (kind, input names, parameters, training report); the body holds
//! the learned numbers in binary, so floats survive bit for bit. A byte changed anywhere changes the checksum: every FNV-1a step is a
//! bijection of its state.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::LearnError;

const MAGIC: &[u8; 4] = b"KLTM";
/// What this build reads. 2: models with other objectives than log loss. 3: boosted trees that ask for categories. Files of earlier versions are
/// read as before.
const VERSION: u32 = 3;
/// What models are written as that ask for nothing newer, so that earlier builds read them.
const PLAIN: u32 = 2;

#[derive(Serialize, Deserialize)]
pub(crate) struct Header<P, R> {
    pub kind: String,
    pub inputs: Vec<String>,
    pub parameters: P,
    pub report: R,
}

/// Bytes whose frame and checksum hold; header and body are still to be understood by the learner of that kind.
pub(crate) struct Sealed<'a> {
    pub kind: String,
    header: &'a [u8],
    body: &'a [u8],
}

pub(crate) fn seal<P: Serialize, R: Serialize>(header: &Header<P, R>, body: Writer) -> Vec<u8> {
    seal_as(PLAIN, header, body)
}

/// Seals what earlier builds could not read.
pub(crate) fn seal_newest<P: Serialize, R: Serialize>(header: &Header<P, R>, body: Writer) -> Vec<u8> {
    seal_as(VERSION, header, body)
}

fn seal_as<P: Serialize, R: Serialize>(version: u32, header: &Header<P, R>, body: Writer) -> Vec<u8> {
    // Serialising to memory fails only for maps with keys that are no strings, which headers do not have.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let mut file = Writer::default();
    file.bytes.extend_from_slice(MAGIC);
    file.u32(version);
    file.u64(header.len() as u64);
    file.bytes.extend_from_slice(&header);
    file.u64(body.bytes.len() as u64);
    file.bytes.extend_from_slice(&body.bytes);
    file.u64(fnv1a(&file.bytes));
    file.bytes
}

pub(crate) fn open(bytes: &[u8]) -> Result<Sealed<'_>, LearnError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(LearnError::NotAModel)?;
    let version = Reader { bytes: rest }.u32()?;
    if version > VERSION {
        return Err(LearnError::FutureVersion { found: version, supported: VERSION });
    }
    let (content, checksum) = bytes.split_last_chunk::<8>().ok_or_else(|| LearnError::corrupt("it ends too early"))?;
    if fnv1a(content) != u64::from_le_bytes(*checksum) {
        return Err(LearnError::corrupt("the checksum does not hold"));
    }
    let mut reader = Reader { bytes: &content[MAGIC.len()..] };
    reader.u32()?;
    let header = reader.block()?;
    let body = reader.block()?;
    reader.end()?;
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Kind { kind } = parse(header)?;
    Ok(Sealed { kind, header, body })
}

impl Sealed<'_> {
    pub fn header<P: DeserializeOwned, R: DeserializeOwned>(&self) -> Result<Header<P, R>, LearnError> {
        parse(self.header)
    }

    pub fn body(&self) -> Reader<'_> {
        Reader { bytes: self.body }
    }
}

fn parse<T: DeserializeOwned>(header: &[u8]) -> Result<T, LearnError> {
    serde_json::from_slice(header).map_err(|error| LearnError::corrupt(format!("header: {error}")))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }
    /// Bytes with their length before them.
    pub fn block(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }
    pub fn f64s(&mut self, values: &[f64]) {
        values.iter().for_each(|&value| self.f64(value));
    }
}

/// Reads little-endian numbers; every read past the end is an error.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn u8(&mut self) -> Result<u8, LearnError> {
        self.take::<1>().map(|[byte]| byte)
    }
    pub fn u32(&mut self) -> Result<u32, LearnError> {
        self.take().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, LearnError> {
        self.take().map(u64::from_le_bytes)
    }
    pub fn f64(&mut self) -> Result<f64, LearnError> {
        self.u64().map(f64::from_bits)
    }
    pub fn f64s(&mut self, count: usize) -> Result<Vec<f64>, LearnError> {
        self.room_for(count, 8)?;
        (0..count).map(|_| self.f64()).collect()
    }

    /// A count read from the file is trusted only if that many items of at least that size can still follow.
    pub fn room_for(&self, count: usize, size: usize) -> Result<(), LearnError> {
        let fits = count.checked_mul(size).is_some_and(|needed| needed <= self.bytes.len());
        if fits { Ok(()) } else { Err(LearnError::corrupt("it ends too early")) }
    }

    pub fn end(&self) -> Result<(), LearnError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(LearnError::corrupt("bytes left over at the end")) }
    }

    pub fn block(&mut self) -> Result<&'a [u8], LearnError> {
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        self.room_for(length, 1)?;
        let (block, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(block)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], LearnError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or_else(|| LearnError::corrupt("it ends too early"))?;
        self.bytes = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Model, load};

    /// Every flipped or missing byte must give an error: called by each learner's tests on a small model.
    pub(crate) fn check_damage_is_noticed(model: &dyn Model) {
        check_damage_is_noticed_by(&model.to_bytes(), |bytes| {
            load(bytes).map(|odd| {
                let row = vec![0.5; odd.inputs().len()];
                let _ = (odd.margin(&row), odd.explain(&row, &mut Vec::new()), odd.to_bytes(), odd.describe(), odd.importance());
            })
        });
    }

    /// The same for what reads and uses a file in another way.
    pub(crate) fn check_damage_is_noticed_by(bytes: &[u8], load_and_use: impl Fn(&[u8]) -> Result<(), LearnError>) {
        for length in 0..bytes.len() {
            assert!(load_and_use(&bytes[..length]).is_err(), "truncated to {length} bytes");
        }
        for position in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[position] ^= flip;
                assert!(load_and_use(&damaged).is_err(), "byte {position} flipped by {flip}");
                // With a checksum that holds again the content may be read, but must still not panic or hang.
                let content = damaged.len() - 8;
                let checksum = fnv1a(&damaged[..content]).to_le_bytes();
                damaged[content..].copy_from_slice(&checksum);
                let _ = load_and_use(&damaged);
            }
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(load_and_use(&longer).is_err());
    }

    /// What a body says to the one that reads it, to its last byte.
    pub(crate) fn read_back<T>(body: Writer, read: impl FnOnce(&mut Reader<'_>) -> Result<T, LearnError>) -> Result<T, LearnError> {
        let mut from = Reader { bytes: &body.bytes };
        let found = read(&mut from)?;
        from.end().map(|()| found)
    }

    #[test]
    fn strangers_are_named() {
        let message = |bytes: &[u8]| load(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message(b"PK\x03\x04").contains("not a Kilter model"));
        assert!(message(b"KLTM\x09\0\0\0rest").contains("format version 9"));
        let header = Header { kind: "oracle".into(), inputs: vec![], parameters: (), report: () };
        assert!(message(&seal(&header, Writer::default())).contains("\"oracle\""));
    }
}
