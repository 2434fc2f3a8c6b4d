//! The bytes of a segment: header, record frames, seal. Pure functions over slices; all integers little-endian.
//!
//! ```text
//! segment = header  frame*  [seal]
//! header  = "KILTLOG\0"  version u32  reserved u32  first offset u64  crc32 of the 24 bytes before, u32   (28 bytes)
//! frame   = length u32  low half of the offset u32  crc32 of payload and offset u32  payload
//! seal    = 0xFFFF_FFFF u32  low half of the next offset u32  crc32 of the body u32  body
//! body    = (offset u64  position u64)*  count u32  data end u64  next offset u64  "KLOGSEAL"
//! ```
//! The offset stands in the frame as well as in its checksum: after damage it is what tells "nothing valid follows, so
//! the write was interrupted" from "valid records follow, so something was overwritten", without guessing.

pub(crate) const HEADER_BYTES: usize = 28;
pub(crate) const FRAME_BYTES: usize = 12;
pub(crate) const TRAILER_BYTES: usize = 28;
/// No record is larger, whatever the options say; a larger length is damage.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 30;
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"KILTLOG\0";
const SEAL_MAGIC: &[u8; 8] = b"KLOGSEAL";
const SEAL_MARK: u32 = u32::MAX;

/// A known record boundary, kept about every 64 KiB so that a seek reads little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: u64,
    pub(crate) position: u64,
}

/// The fixed-size end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) entries: u32,
    pub(crate) data_end: u64,
    pub(crate) next_offset: u64,
}

impl Trailer {
    /// Bytes from the end of the data to the end of the file.
    pub(crate) fn seal_bytes(&self) -> u64 {
        FRAME_BYTES as u64 + u64::from(self.entries) * 16 + TRAILER_BYTES as u64
    }
}

/// What stands at the front of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Record(&'a [u8]),
    /// The mark of a seal; whether the seal is whole is for [`parse_seal`] to say.
    Seal,
    /// More bytes are needed, in all this many.
    Need(usize),
    /// Not what was written; the reason.
    Bad(&'static str),
}

pub(crate) fn header(first_offset: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&first_offset.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Why a header is not usable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Version(u32),
}

pub(crate) fn check_header(bytes: &[u8], first_offset: u64) -> Result<(), HeaderFault> {
    if bytes.len() < HEADER_BYTES {
        return Err(HeaderFault::Damaged("file header is incomplete"));
    }
    if bytes[..8] != *MAGIC {
        return Err(HeaderFault::Damaged("file does not start as a log segment does"));
    }
    if crc32fast::hash(&bytes[..24]) != u32_at(bytes, 24) {
        return Err(HeaderFault::Damaged("checksum of the file header differs"));
    }
    if u32_at(bytes, 8) != FORMAT_VERSION {
        return Err(HeaderFault::Version(u32_at(bytes, 8)));
    }
    if u64_at(bytes, 16) != first_offset {
        return Err(HeaderFault::Damaged("file name and header disagree on the first offset"));
    }
    Ok(())
}

/// Adds one framed record to `out`.
pub(crate) fn push_record(out: &mut Vec<u8>, offset: u64, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&(offset as u32).to_le_bytes());
    out.extend_from_slice(&record_crc(payload, offset).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Adds the seal that ends a finished segment to `out`.
pub(crate) fn push_seal(out: &mut Vec<u8>, index: &[IndexEntry], data_end: u64, next_offset: u64) {
    let start = out.len();
    out.extend_from_slice(&SEAL_MARK.to_le_bytes());
    out.extend_from_slice(&(next_offset as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in index {
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.position.to_le_bytes());
    }
    out.extend_from_slice(&(index.len() as u32).to_le_bytes());
    out.extend_from_slice(&data_end.to_le_bytes());
    out.extend_from_slice(&next_offset.to_le_bytes());
    out.extend_from_slice(SEAL_MAGIC);
    let crc = crc32fast::hash(&out[start + FRAME_BYTES..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// Reads what stands at the front of `bytes`, where the record `offset` is expected.
#[inline]
pub(crate) fn parse(bytes: &[u8], offset: u64) -> Item<'_> {
    match parse_unchecked(bytes, offset) {
        Item::Record(payload) if record_crc(payload, offset) != u32_at(bytes, 8) => Item::Bad("checksum of the record differs"),
        item => item,
    }
}

/// [`parse`] without the checksum, for records that are only passed over.
#[inline]
pub(crate) fn parse_unchecked(bytes: &[u8], offset: u64) -> Item<'_> {
    if bytes.len() < FRAME_BYTES {
        return Item::Need(FRAME_BYTES);
    }
    let length = u32_at(bytes, 0);
    if length == SEAL_MARK {
        return Item::Seal;
    }
    if u32_at(bytes, 4) != offset as u32 {
        return Item::Bad("record does not carry the offset expected here");
    }
    if u64::from(length) > MAX_RECORD_BYTES {
        return Item::Bad("record length is larger than any record may be");
    }
    let whole = FRAME_BYTES + length as usize;
    if bytes.len() < whole {
        return Item::Need(whole);
    }
    Item::Record(&bytes[FRAME_BYTES..whole])
}

/// The last [`TRAILER_BYTES`] of a file, when they are those of a seal that fits the file's length.
pub(crate) fn parse_trailer(bytes: &[u8], file_len: u64) -> Option<Trailer> {
    let at = bytes.len().checked_sub(TRAILER_BYTES)?;
    let bytes = &bytes[at..];
    let trailer = Trailer { entries: u32_at(bytes, 0), data_end: u64_at(bytes, 4), next_offset: u64_at(bytes, 12) };
    let fits = trailer.data_end.checked_add(trailer.seal_bytes()) == Some(file_len);
    (bytes[20..] == *SEAL_MAGIC && fits && trailer.data_end >= HEADER_BYTES as u64).then_some(trailer)
}

/// The index held by a whole seal (everything from the end of the data to the end of the file), if it is intact.
pub(crate) fn parse_seal(seal: &[u8], file_len: u64) -> Option<(Trailer, Vec<IndexEntry>)> {
    let trailer = parse_trailer(seal, file_len)?;
    let intact = seal.len() as u64 == trailer.seal_bytes()
        && u32_at(seal, 0) == SEAL_MARK
        && crc32fast::hash(&seal[FRAME_BYTES..]) == u32_at(seal, 8);
    let entries = &seal[FRAME_BYTES..seal.len().checked_sub(TRAILER_BYTES)?];
    let entry = |e: &[u8]| IndexEntry { offset: u64_at(e, 0), position: u64_at(e, 8) };
    intact.then(|| (trailer, entries.chunks_exact(16).map(entry).collect()))
}

/// Looks for an intact record or seal anywhere in `tail`, whose front should have been the record `expected`.
///
/// A hit means the bad bytes lie in the middle of the log. Answers the position in `tail`.
pub(crate) fn find_later_item(tail: &[u8], expected: u64, file_len: u64) -> Option<usize> {
    let last_start = tail.len().checked_sub(FRAME_BYTES)?;
    for at in 1..=last_start {
        let here = &tail[at..];
        let length = u32_at(here, 0);
        if length == SEAL_MARK {
            if parse_seal(here, file_len).is_some() {
                return Some(at);
            }
            continue;
        }
        let whole = FRAME_BYTES as u64 + u64::from(length);
        if u64::from(length) > MAX_RECORD_BYTES || whole > here.len() as u64 {
            continue;
        }
        // Records between `expected` and this one lost at least a frame each.
        let ahead = u32_at(here, 4).wrapping_sub(expected as u32);
        if ahead == 0 || u64::from(ahead) > (at / FRAME_BYTES) as u64 + 1 {
            continue;
        }
        let offset = expected + u64::from(ahead);
        // Cheap test before the checksum: what follows must be the next record, the seal, zeros or the torn end.
        let next = &here[whole as usize..];
        let follows = next.len() < FRAME_BYTES || u32_at(next, 4) == (offset + 1) as u32 || next[..FRAME_BYTES].iter().all(|b| *b == 0);
        if follows && matches!(parse(here, offset), Item::Record(_)) {
            return Some(at);
        }
    }
    None
}

#[inline]
fn record_crc(payload: &[u8], offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(payload);
    hasher.update(&offset.to_le_bytes());
    // Never zero, so that no stretch of zeros reads as an empty record.
    hasher.finalize().max(1)
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(first: u64, payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for (offset, payload) in (first..).zip(payloads) {
            push_record(&mut out, offset, payload);
        }
        out
    }

    #[test]
    fn a_record_reads_back_and_every_flipped_bit_is_noticed() {
        let good = records(7, &[b"hello"]);
        assert_eq!(parse(&good, 7), Item::Record(b"hello"));
        assert_eq!(parse(&good[..11], 7), Item::Need(12));
        assert_eq!(parse(&good[..14], 7), Item::Need(17));
        assert!(matches!(parse(&good, 8), Item::Bad(_)));
        // The upper half of the offset is in the checksum only.
        assert!(matches!(parse(&good, 7 + (1 << 32)), Item::Bad(_)));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&bad, 7), Item::Record(_)), "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_never_a_record() {
        assert!(matches!(parse(&[0; 64], 0), Item::Bad(_)));
    }

    #[test]
    fn a_seal_reads_back_and_every_flipped_bit_is_noticed() {
        let index = [IndexEntry { offset: 3, position: 70_000 }, IndexEntry { offset: 9, position: 140_000 }];
        let mut seal = Vec::new();
        push_seal(&mut seal, &index, 150_000, 11);
        let file_len = 150_000 + seal.len() as u64;
        let trailer = Trailer { entries: 2, data_end: 150_000, next_offset: 11 };
        assert_eq!(parse_seal(&seal, file_len), Some((trailer, index.to_vec())));
        assert_eq!(parse_seal(&seal, file_len + 1), None);
        for byte in (0..4).chain(8..seal.len()) {
            let mut bad = seal.clone();
            bad[byte] ^= 0x10;
            assert_eq!(parse_seal(&bad, file_len), None, "byte {byte}");
        }
    }

    #[test]
    fn later_records_are_found_behind_damage_of_any_size() {
        let good = records(100, &[b"first", b"second", b"third", b"fourth"]);
        let starts = [0, 17, 35, 52];
        for damaged in 1..52 {
            let mut bad = good.clone();
            bad[..damaged].fill(0xA5);
            let next = starts.iter().find(|s| **s >= damaged).copied().unwrap_or(0);
            assert_eq!(find_later_item(&bad, 100, 0), Some(next), "damaged {damaged}");
        }
        assert_eq!(find_later_item(&good[52..66], 103, 0), None);
        assert_eq!(find_later_item(&[0x5A; 200], 100, 0), None);
    }

    #[test]
    fn headers_are_checked() {
        let good = header(42);
        assert_eq!(check_header(&good, 42), Ok(()));
        assert!(check_header(&good, 43).is_err());
        assert!(check_header(&good[..20], 42).is_err());
        let mut newer = good;
        newer[8] = 9;
        let crc = crc32fast::hash(&newer[..24]);
        newer[24..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_header(&newer, 42), Err(HeaderFault::Version(9)));
    }
}
