//! What is left in the log of an event that was erased: its place, its source and its times, and nothing of what it said.
//!
//! Layout, little endian: kind u8 (3), erasure u64, schema u32, time i64, arrived i64; then, where there is one, the event's origin (partition u32,
//! position u64), so that it is not read again; then, where there is one, the hash (16 bytes) of the client's id, so that the same event sent again
//! is known. The record's length says which.

use crate::record::{Cursor, RecordError};
use crate::{EventTime, Origin};

const ERASED: u8 = 3;

/// The record of an erased event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The number of the erasure that left it.
    pub erasure: u64,
    /// The schema that the event was written with, which names its source.
    pub schema: u32,
    pub time: EventTime,
    pub arrived: EventTime,
    pub origin: Option<Origin>,
    /// Hash of the client's id, while it has to be remembered.
    pub id: Option<u128>,
}

impl Stub {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(ERASED);
        out.extend_from_slice(&self.erasure.to_le_bytes());
        out.extend_from_slice(&self.schema.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.arrived.0.to_le_bytes());
        if let Some(origin) = self.origin {
            out.extend_from_slice(&origin.partition.to_le_bytes());
            out.extend_from_slice(&origin.position.to_le_bytes());
        }
        if let Some(id) = self.id {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }

    /// The record, if it is one of these.
    pub fn decode(bytes: &[u8]) -> Result<Option<Stub>, RecordError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.u8()? != ERASED {
            return Ok(None);
        }
        let mut stub = Stub {
            erasure: cursor.u64()?,
            schema: cursor.u32()?,
            time: EventTime(cursor.i64()?),
            arrived: EventTime(cursor.i64()?),
            origin: None,
            id: None,
        };
        let (has_origin, has_id) = match cursor.rest.len() {
            0 => (false, false),
            12 => (true, false),
            16 => (false, true),
            28 => (true, true),
            n => return Err(RecordError { detail: format!("{n} bytes after an erased event") }),
        };
        if has_origin {
            stub.origin = Some(Origin { partition: cursor.u32()?, position: cursor.u64()? });
        }
        if has_id {
            stub.id = Some(u128::from(cursor.u64()?) | (u128::from(cursor.u64()?) << 64));
        }
        Ok(Some(stub))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::header;

    #[test]
    fn a_stub_reads_back_is_no_event_and_a_cut_one_is_refused() {
        let origins = [None, Some(Origin { partition: 3, position: 1 << 40 })];
        for (origin, id) in origins.into_iter().flat_map(|origin| [(origin, None), (origin, Some(7u128 << 90 | 5))]) {
            let stub = Stub { erasure: 9, schema: 2, time: EventTime(-5), arrived: EventTime(8), origin, id };
            let mut bytes = Vec::new();
            stub.encode(&mut bytes);
            assert_eq!(Stub::decode(&bytes), Ok(Some(stub)));
            assert_eq!(header(&bytes), Ok(None), "whatever asks for events passes it over");
            for cut in (0..bytes.len()).filter(|cut| ![29, 41, 45].contains(cut)) {
                assert!(Stub::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert_eq!(Stub::decode(&[1, 2, 3]), Ok(None));
    }
}
