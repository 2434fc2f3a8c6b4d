//! Events that could not be used: kept with their problem, never lost, never in the way.

use crate::error::StoreError;
use crate::log::{AppendedRange, Log, LogOptions, Recovery};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Bytes of the offending payload that are kept.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

const MAX_TEXT_BYTES: usize = 4 << 10;
const MAX_CODES: usize = 1_000;
const LIST_BLOCK: u64 = 1_000;

/// One unusable event and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Arrival, in microseconds UTC.
    pub at_micros: i64,
    /// The source it came from, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Kind of problem, as in `malformed_json`, `wrong_type`, `missing_key`, `absurd_time`, `late`,
    /// `duplicate_conflict`, `unknown_source`.
    pub code: String,
    /// The problem in words.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Offset in the event log, for an event that was already appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_offset: Option<u64>,
    /// Where it stood in the topic it was read from: `PARTITION@OFFSET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The offending payload as text, at most [`MAX_PAYLOAD_BYTES`]; bytes that are no UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// `payload` is base64 of bytes that are no text.
    #[serde(default, skip_serializing_if = "is_false")]
    pub payload_base64: bool,
    /// Whether `payload` is only the beginning.
    #[serde(default, skip_serializing_if = "is_false")]
    pub payload_cut: bool,
}

impl DeadLetter {
    /// Adds the offending bytes, within the limit.
    #[must_use]
    pub fn with_payload(mut self, bytes: &[u8]) -> Self {
        // A little more than is kept, so that a character across the limit is not replaced.
        let head = &bytes[..bytes.len().min(MAX_PAYLOAD_BYTES + 4)];
        self.payload = Some(String::from_utf8_lossy(head).into_owned());
        self.payload_cut = bytes.len() > head.len();
        self.bounded()
    }

    fn bounded(mut self) -> Self {
        if let Some(payload) = &mut self.payload {
            self.payload_cut |= cut(payload, MAX_PAYLOAD_BYTES);
        }
        for text in [&mut self.code, &mut self.detail] {
            cut(text, MAX_TEXT_BYTES);
        }
        for text in [&mut self.source, &mut self.hint].into_iter().flatten() {
            cut(text, MAX_TEXT_BYTES);
        }
        self
    }
}

/// The dead-letter stream: a log of its own beside the event log.
#[derive(Debug)]
pub struct DeadLetters {
    log: Log,
    keep_records: u64,
    counts: Mutex<BTreeMap<String, u64>>,
}

/// Limits of the dead-letter stream.
#[derive(Debug, Clone)]
pub struct DeadLetterOptions {
    /// At least so many of the newest letters are kept; older files are removed.
    pub keep_records: u64,
    /// How the log beneath is kept.
    pub log: LogOptions,
}

impl Default for DeadLetterOptions {
    fn default() -> Self {
        let log = LogOptions { segment_bytes: 32 << 20, ..LogOptions::default() };
        Self { keep_records: 1_000_000, log }
    }
}

/// Which letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterQuery {
    /// Only letters before this one; [`DeadLetterPage::next_before`] of the page before.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// Only of this source.
    pub source: Option<String>,
    /// Only with this code.
    pub code: Option<String>,
}

/// Letters, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterPage {
    /// Each with its offset in the dead-letter stream.
    pub letters: Vec<(u64, DeadLetter)>,
    /// Where to go on; `None` at the end. A page may be short of its limit and yet not the last: one call looks at no
    /// more than 100 000 letters.
    pub next_before: Option<u64>,
}

/// Letters that one call to list looks at.
const MAX_SCANNED: u64 = 100_000;

impl DeadLetters {
    /// Opens the stream in `dir`, creating it when there is none.
    ///
    /// Errors: those of [`Log::open`].
    pub fn open(dir: impl Into<PathBuf>, options: DeadLetterOptions) -> Result<(Self, Recovery), StoreError> {
        let (log, recovery) = Log::open(dir, options.log)?;
        Ok((Self { log, keep_records: options.keep_records, counts: Mutex::default() }, recovery))
    }

    /// Keeps the letters. They become durable shortly after; see [`DeadLetters::log`] to wait for it.
    ///
    /// Errors: those of [`Log::append`].
    pub fn append(&self, letters: &[DeadLetter]) -> Result<AppendedRange, StoreError> {
        let encode = |letter: &DeadLetter| serde_json::to_vec(&letter.clone().bounded());
        let records: Result<Vec<_>, _> = letters.iter().map(encode).collect();
        let records = records.map_err(|e| StoreError::io("encode a letter for", self.log.dir(), e.into()))?;
        let range = self.log.append(&records)?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for letter in letters {
            // Codes come from our own code, a handful; the limit only guards against a caller's mistake.
            if counts.len() < MAX_CODES || counts.contains_key(&letter.code) {
                *counts.entry(letter.code.clone()).or_default() += 1;
            }
        }
        drop(counts);
        if range.next - self.log.start_offset() > self.keep_records.saturating_mul(2) {
            self.log.remove_before(range.next - self.keep_records)?;
        }
        Ok(range)
    }

    /// Letters that match, newest first.
    ///
    /// Errors: those of [`Log::reader`]; [`StoreError::Damaged`] for a letter that is no JSON of ours.
    pub fn list(&self, query: &DeadLetterQuery) -> Result<DeadLetterPage, StoreError> {
        let start = self.log.start_offset();
        let mut high = query.before.unwrap_or(u64::MAX).min(self.log.next_offset());
        let stop = high.saturating_sub(MAX_SCANNED).max(start);
        let mut letters = Vec::new();
        while high > stop && letters.len() < query.limit {
            let low = high.saturating_sub(LIST_BLOCK).max(stop);
            let mut block = self.block(low, high)?;
            while let Some((offset, letter)) = block.pop() {
                let source_fits = query.source.is_none() || query.source == letter.source;
                let code_fits = query.code.as_ref().is_none_or(|code| *code == letter.code);
                if source_fits && code_fits {
                    letters.push((offset, letter));
                }
                high = offset;
                if letters.len() >= query.limit {
                    break;
                }
            }
        }
        Ok(DeadLetterPage { letters, next_before: (high > start).then_some(high) })
    }

    fn block(&self, low: u64, high: u64) -> Result<Vec<(u64, DeadLetter)>, StoreError> {
        let mut reader = self.log.reader(low);
        let mut block = Vec::new();
        while reader.next_offset() < high
            && let Some((offset, payload)) = reader.next_record()?
        {
            let damaged =
                |e| StoreError::Damaged { path: self.log.dir().to_owned(), detail: format!("dead letter {offset} cannot be decoded: {e}") };
            block.push((offset, serde_json::from_slice(payload).map_err(damaged)?));
        }
        Ok(block)
    }

    /// Letters per code since the stream was opened.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The log beneath.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// Shortens to at most `max` bytes at a character boundary; whether it did.
fn cut(text: &mut String, max: usize) -> bool {
    let too_long = text.len() > max;
    if too_long {
        text.truncate(text.floor_char_boundary(max));
    }
    too_long
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(code: &str, source: &str, at_micros: i64) -> DeadLetter {
        let source = Some(source.to_owned());
        DeadLetter { at_micros, source, code: code.to_owned(), detail: "d".to_owned(), ..DeadLetter::default() }
    }

    #[test]
    fn letters_are_listed_newest_first_by_page_and_filter() {
        let dir = tempfile::tempdir().unwrap();
        let letters: Vec<_> =
            (0..2_500).map(|i| letter(if i % 500 == 7 { "late" } else { "wrong_type" }, if i < 2_000 { "a" } else { "b" }, i)).collect();
        {
            let (stream, _) = DeadLetters::open(dir.path(), DeadLetterOptions::default()).unwrap();
            stream.append(&letters).unwrap();
            assert_eq!(stream.counts(), BTreeMap::from([("late".to_owned(), 5), ("wrong_type".to_owned(), 2_495)]));
        }
        let (stream, _) = DeadLetters::open(dir.path(), DeadLetterOptions::default()).unwrap();
        assert!(stream.counts().is_empty());
        let ats = |page: &DeadLetterPage| page.letters.iter().map(|(_, l)| l.at_micros).collect::<Vec<_>>();
        let all = DeadLetterQuery { limit: 3, ..Default::default() };
        let page = stream.list(&all).unwrap();
        assert_eq!((ats(&page), page.next_before), (vec![2_499, 2_498, 2_497], Some(2_497)));
        let page = stream.list(&DeadLetterQuery { before: page.next_before, ..all }).unwrap();
        assert_eq!(ats(&page), [2_496, 2_495, 2_494]);
        let late = DeadLetterQuery { limit: 10, code: Some("late".to_owned()), ..Default::default() };
        let page = stream.list(&late).unwrap();
        assert_eq!((ats(&page), page.next_before), (vec![2_007, 1_507, 1_007, 507, 7], None));
        let page = stream.list(&DeadLetterQuery { source: Some("a".to_owned()), limit: 2, ..late }).unwrap();
        assert_eq!(ats(&page), [1_507, 1_007]);
    }

    #[test]
    fn a_huge_payload_is_cut_and_flagged() {
        let dir = tempfile::tempdir().unwrap();
        let (stream, _) = DeadLetters::open(dir.path(), DeadLetterOptions::default()).unwrap();
        let wide = "é".repeat(MAX_PAYLOAD_BYTES);
        let mut odd = b"x\xff".to_vec();
        odd.extend_from_slice(wide.as_bytes());
        stream
            .append(&[
                letter("malformed_json", "s", 1).with_payload(b"{\"short\": \xff}"),
                letter("malformed_json", "s", 2).with_payload(&odd),
                DeadLetter { payload: Some(wide), detail: "z".repeat(1 << 20), ..letter("malformed_json", "s", 3) },
            ])
            .unwrap();
        let page = stream.list(&DeadLetterQuery { limit: 9, ..Default::default() }).unwrap();
        let [third, second, first] = [0, 1, 2].map(|i| page.letters[i].1.clone());
        assert_eq!((first.payload.as_deref(), first.payload_cut), (Some("{\"short\": \u{fffd}}"), false));
        for letter in [second, third] {
            let payload = letter.payload.unwrap();
            assert!(letter.payload_cut && payload.len() <= MAX_PAYLOAD_BYTES && payload.len() > MAX_PAYLOAD_BYTES - 4);
            assert!(letter.detail.len() <= MAX_TEXT_BYTES);
        }
    }

    #[test]
    fn old_letters_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogOptions { segment_bytes: 4_000, ..LogOptions::default() };
        let (stream, _) = DeadLetters::open(dir.path(), DeadLetterOptions { keep_records: 100, log }).unwrap();
        for i in 0..1_000 {
            stream.append(&[letter("late", "s", i)]).unwrap();
        }
        let page = stream.list(&DeadLetterQuery { limit: 5_000, ..Default::default() }).unwrap();
        assert!((100..=260).contains(&page.letters.len()), "{}", page.letters.len());
        assert_eq!((page.letters[0].0, page.next_before), (999, None));
    }
}
