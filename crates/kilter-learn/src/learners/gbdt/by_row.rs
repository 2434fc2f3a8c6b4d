//! The bins once more, by row, as the summing of histograms reads them.
//!
//! Columns lie in the order of their number of bins, most first, so that those beside each other in a histogram use as much of it. 32 of them make a
//! strip: a row's part of it is at most half a line of the cache, and the sums of its columns stay in the nearest caches.

use std::borrow::Cow;

use rayon::prelude::*;

use super::binned::Column;
use super::histogram::LANES;

/// Eight neighbouring columns of a row.
pub(super) type Bins = [u8; LANES];

/// Most tiles of eight columns in a strip.
pub(super) const STRIP_TILES: usize = 4;

/// Bytes of a line of the cache.
const LINE: usize = 64;

pub(super) struct ByRow<'a> {
    pub strips: Vec<Strip<'a>>,
}

pub(super) struct Strip<'a> {
    /// Numbers of its columns, in the order of their bytes.
    pub columns: Vec<usize>,
    /// Eights of bytes a row.
    pub tiles: usize,
    /// Where the first row lies, on a line of the cache.
    start: usize,
    bytes: Cow<'a, [u8]>,
}

impl<'a> ByRow<'a> {
    pub fn new(by_column: &[Column<'_>], last_bin: impl Fn(usize) -> u8) -> Self {
        Self::laid(by_column, last_bin, |size, fill| {
            let mut bytes = vec![0; size];
            (fill(&mut bytes), Cow::Owned(bytes))
        })
    }

    /// The same in room that is lent, of `ByRow::room` bytes.
    pub fn within(mut room: &'a mut [u8], by_column: &[Column<'_>], last_bin: impl Fn(usize) -> u8) -> Self {
        Self::laid(by_column, last_bin, |size, fill| {
            let (bytes, rest) = std::mem::take(&mut room).split_at_mut(size);
            room = rest;
            (fill(bytes), Cow::Borrowed(bytes))
        })
    }

    /// Bytes that so many rows take.
    pub fn room(rows: usize, columns: usize) -> usize {
        let whole = STRIP_TILES * LANES;
        (0..columns).step_by(whole).map(|first| strip_room(rows, (columns - first).min(whole))).sum()
    }

    /// `lay` finds room for a strip and has it filled, which tells where its first row lies.
    fn laid(
        by_column: &[Column<'_>],
        last_bin: impl Fn(usize) -> u8,
        mut lay: impl FnMut(usize, &dyn Fn(&mut [u8]) -> usize) -> (usize, Cow<'a, [u8]>),
    ) -> Self {
        let mut order: Vec<usize> = (0..by_column.len()).collect();
        order.sort_by_key(|&column| std::cmp::Reverse(last_bin(column)));
        let mut strip = |columns: &[usize]| {
            let size = strip_room(by_column[columns[0]].len(), columns.len());
            let (start, bytes) = lay(size, &|bytes| fill(by_column, columns, bytes));
            Strip { columns: columns.to_vec(), tiles: columns.len().div_ceil(LANES), start, bytes }
        };
        ByRow { strips: order.chunks(STRIP_TILES * LANES).map(&mut strip).collect() }
    }
}

fn strip_room(rows: usize, columns: usize) -> usize {
    rows * columns.next_multiple_of(LANES) + LINE
}

/// Lays columns by row from the first line of the cache on, and tells where that is.
fn fill(by_column: &[Column<'_>], columns: &[usize], bytes: &mut [u8]) -> usize {
    const ROWS: usize = 1024;
    let stride = columns.len().next_multiple_of(LANES);
    let size = by_column[columns[0]].len() * stride;
    let start = bytes.as_ptr().align_offset(LINE).min(LINE);
    let fill = |(block, out): (usize, &mut [u8])| {
        for (lane, &column) in columns.iter().enumerate() {
            let bins = &by_column[column][block * ROWS..];
            out[lane..].iter_mut().step_by(stride).zip(bins).for_each(|(out, &bin)| *out = bin);
        }
    };
    let rows = &mut bytes[start..start + size];
    if size < 1 << 20 {
        rows.chunks_mut(ROWS * stride).enumerate().for_each(fill);
    } else {
        rows.par_chunks_mut(ROWS * stride).enumerate().for_each(fill);
    }
    start
}

impl Strip<'_> {
    /// All rows, `tiles` items each.
    pub fn rows(&self) -> &[Bins] {
        self.bytes[self.start..].as_chunks().0
    }
}
