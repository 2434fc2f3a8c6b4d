//! From a record's key to its partition, as producers choose it.

use std::borrow::Cow;

use kilter_core::Value;

use super::workers::{Partitioner, WorkersDef};

impl WorkersDef {
    /// The shard of a key; none of a value that keys nothing.
    pub fn shard_of(&self, key: &Value) -> Option<u32> {
        let text = key_text(key)?;
        let hash = match self.partitioner {
            // The sign bit is cut off, as the Java client does.
            Partitioner::Murmur2 => murmur2(text.as_bytes()) & 0x7fff_ffff,
            Partitioner::Crc32 => crc32fast::hash(text.as_bytes()),
        };
        Some(hash % self.shards)
    }
}

/// A value as the key of a record; none of a null.
pub fn key_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::Text(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}

/// MurmurHash2, 32 bits, by Austin Appleby (public domain), with the seed of Kafka's clients.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let (words, rest) = bytes.as_chunks::<4>();
    let mut h = SEED ^ bytes.len() as u32;
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        h = (h ^ tail).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_java_client() {
        // From the tests of Kafka's own `Utils.murmur2`.
        let known = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn a_null_keys_nothing_and_numbers_are_keyed_by_their_digits() {
        let workers =
            |partitioner| WorkersDef { key: "k".into(), shards: 12, partitioner, replication: None, snapshots: None, standby: false };
        for partitioner in [Partitioner::Murmur2, Partitioner::Crc32] {
            assert_eq!(workers(partitioner).shard_of(&Value::Null), None);
            assert_eq!(workers(partitioner).shard_of(&Value::Int(-42)), workers(partitioner).shard_of(&Value::text("-42")));
        }
        // CRC-32 of "123456789" is 0xcbf43926 (ITU-T V.42).
        assert_eq!(workers(Partitioner::Crc32).shard_of(&Value::Int(123_456_789)), Some(0xcbf4_3926 % 12));
    }
}
