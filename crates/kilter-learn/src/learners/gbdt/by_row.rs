//! The bins once more, by row, as the summing of histograms reads them.
//!
//! Columns lie in the order of their number of bins, most first, so that those beside each other in a histogram use as much of it. 32 of them make a
//! strip: a row's part of it is at most half a line of the cache, and the sums of its columns stay in the nearest caches.

use rayon::prelude::*;

use super::histogram::LANES;

/// Eight neighbouring columns of a row.
pub(super) type Bins = [u8; LANES];

/// Most tiles of eight columns in a strip.
pub(super) const STRIP_TILES: usize = 4;

pub(super) struct ByRow {
    pub strips: Vec<Strip>,
}

pub(super) struct Strip {
    /// Numbers of its columns, in the order of their bytes.
    pub columns: Vec<usize>,
    /// Eights of bytes a row.
    pub tiles: usize,
    /// Where the first row lies, on a line of the cache.
    start: usize,
    bytes: Vec<u8>,
}

impl ByRow {
    pub fn new(by_column: &[Vec<u8>], last_bin: impl Fn(usize) -> u8) -> Self {
        let mut order: Vec<usize> = (0..by_column.len()).collect();
        order.sort_by_key(|&column| std::cmp::Reverse(last_bin(column)));
        ByRow { strips: order.chunks(STRIP_TILES * LANES).map(|columns| Strip::new(by_column, columns)).collect() }
    }
}

impl Strip {
    fn new(by_column: &[Vec<u8>], columns: &[usize]) -> Self {
        const LINE: usize = 64;
        const ROWS: usize = 1024;
        let tiles = columns.len().div_ceil(LANES);
        let stride = tiles * LANES;
        let size = by_column[columns[0]].len() * stride;
        let mut bytes = vec![0; size + LINE];
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
        Strip { columns: columns.to_vec(), tiles, start, bytes }
    }

    /// All rows, `tiles` items each.
    pub fn rows(&self) -> &[Bins] {
        self.bytes[self.start..].as_chunks().0
    }
}
