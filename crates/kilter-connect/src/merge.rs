//! Several time-ordered readers as one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use kilter_core::EventTime;

use crate::error::Rejection;
use crate::format::Decoded;

/// Interleaves readers by event time, ties in the order of the readers. Each reader's own order is kept even where its times go back: only the
/// heads are compared. A rejected row has no time and is given out as soon as it is at the head.
pub struct Merge<I> {
    readers: Vec<I>,
    heads: Vec<Option<Decoded>>,
    order: BinaryHeap<Reverse<(EventTime, usize)>>,
    /// Readers whose head is not known yet.
    unread: Vec<usize>,
}

impl<I: Iterator<Item = Result<Decoded, Rejection>>> Merge<I> {
    pub fn new(readers: impl IntoIterator<Item = I>) -> Merge<I> {
        let readers: Vec<I> = readers.into_iter().collect();
        let heads = readers.iter().map(|_| None).collect();
        // Popped from the back, so that the first reader is read first.
        let unread = (0..readers.len()).rev().collect();
        Merge { readers, heads, order: BinaryHeap::new(), unread }
    }

    /// The readers in the order given, for their progress.
    pub fn readers(&self) -> &[I] {
        &self.readers
    }
}

impl<I: Iterator<Item = Result<Decoded, Rejection>>> Iterator for Merge<I> {
    /// The reader's position in the order given, and its row.
    type Item = (usize, Result<Decoded, Rejection>);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(&reader) = self.unread.last() {
            match self.readers[reader].next() {
                Some(Ok(decoded)) => {
                    self.order.push(Reverse((decoded.time, reader)));
                    self.heads[reader] = Some(decoded);
                    self.unread.pop();
                }
                Some(Err(rejection)) => return Some((reader, Err(rejection))),
                None => {
                    self.unread.pop();
                }
            }
        }
        let Reverse((_, reader)) = self.order.pop()?;
        self.unread.push(reader);
        self.heads[reader].take().map(|decoded| (reader, Ok(decoded)))
    }
}

#[cfg(test)]
mod tests {
    use kilter_core::Operation;

    use super::*;

    fn check(readers: &[&[i64]], expected: &str) {
        let readers = readers.iter().map(|times| {
            let rows: Vec<_> = times
                .iter()
                .map(|&t| {
                    let decoded =
                        Decoded { row: vec![], time: EventTime(t), id: None, operation: Operation::Upsert, extra: None, origin: None };
                    if t == 0 { Err(Rejection::new("wrong_type", "bad", b"", 0)) } else { Ok(decoded) }
                })
                .collect();
            rows.into_iter()
        });
        let shown: Vec<String> =
            Merge::new(readers).map(|(reader, row)| row.map_or(format!("{reader}:bad"), |d| format!("{reader}:{}", d.time.0))).collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn heads_are_compared_ties_keep_the_readers_order_and_rejections_pass_at_once() {
        check(&[&[1, 4, 4, 9], &[2, 4], &[]], "0:1 1:2 0:4 0:4 1:4 0:9");
        check(&[&[5, 1, 6], &[2, 7]], "1:2 0:5 0:1 0:6 1:7");
        check(&[&[3, 0, 8], &[0, 1, 5]], "1:bad 1:1 0:3 0:bad 1:5 0:8");
        check(&[], "");
    }
}
