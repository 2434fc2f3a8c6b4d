//! Histograms of lists of rows: summed, put together, taken from each other.

use rayon::prelude::*;

use super::by_row::{Bins, ByRow, STRIP_TILES};
use super::histogram::{Entry, Fields, Histogram, LANES, Lanes, Shape, Sums, Tile, TileShape, of_wide};
use super::simd::{Level, for_every_level};

/// Builds histograms of the columns of a shape, with room to do so on several threads.
pub(super) struct Builder<'a> {
    pub by_row: &'a ByRow<'a>,
    pub shape: Shape,
    pub fields: Fields,
    /// Tiles of all columns: some of them never have more, however they lie in their strips.
    most_tiles: usize,
    /// Whether some histogram may become wide.
    wide: bool,
    level: Level,
    scratch: Vec<Histogram>,
    partial: Vec<Histogram>,
}

/// Sums a thread should have to make before a second one pays.
const WORK_A_THREAD: usize = 200_000;

impl<'a> Builder<'a> {
    pub fn new(by_row: &'a ByRow<'a>, shape: Shape, fields: Fields, rows: usize) -> Self {
        let wide = rows > fields.most_rows();
        let most_tiles = shape.tiles.len();
        Builder { by_row, shape, fields, most_tiles, wide, level: Level::here(), scratch: Vec::new(), partial: Vec::new() }
    }

    /// Threads that so many rows are worth.
    pub fn threads(&self, rows: usize) -> usize {
        let shares = rows * self.shape.columns.len() / WORK_A_THREAD;
        // Asking for their number would start the threads.
        if shares < 2 { 1 } else { shares.min(rayon::current_num_threads()) }
    }

    /// Whether looking through two histograms is worth two threads.
    pub fn scans_pay_threads(&self) -> bool {
        const BINS: usize = 30_000;
        let bins: usize = self.shape.tiles.iter().map(|tile| LANES * usize::from(tile.last_bin)).sum();
        bins >= BINS && rayon::current_num_threads() > 1
    }

    pub fn empty(&self) -> Histogram {
        Histogram::room(self.most_tiles * if self.wide { 2 } else { 1 })
    }

    /// Replaces `out` by the histogram of the entries.
    pub fn build(&mut self, entries: &[Entry], out: &mut Histogram) {
        let threads = self.threads(entries.len());
        let strips = self.by_row.strips.len();
        out.wide = entries.len() > self.fields.most_rows();
        let by_rows = if threads > strips { threads } else { 1 };
        while self.partial.len() < by_rows - 1 {
            self.partial.push(self.empty());
        }
        while self.scratch.len() < threads.max(by_rows) && out.wide {
            self.scratch.push(Histogram::room(STRIP_TILES));
        }
        let mut scratch: Vec<&mut [Tile]> = self.scratch.iter_mut().map(Histogram::tiles_mut).collect();
        scratch.resize_with(threads, Default::default);
        let sum = Sum { by_row: self.by_row, shape: &self.shape, fields: &self.fields, level: self.level, wide: out.wide };
        if threads == 1 {
            return sum.strips(entries, out.tiles_mut(), scratch[0]);
        }
        if by_rows == 1 {
            return sum.strips_on_threads(entries, out.tiles_mut(), &mut scratch);
        }
        let share = entries.len().div_ceil(threads);
        let (first, others) = entries.split_at(share);
        let (first_scratch, other_scratch) = scratch.split_at_mut(1);
        let partial = &mut self.partial[..others.len().div_ceil(share)];
        rayon::join(
            || sum.strips(first, out.tiles_mut(), first_scratch[0]),
            || {
                let jobs = partial.par_iter_mut().zip(other_scratch).zip(others.par_chunks(share));
                jobs.for_each(|((partial, scratch), entries)| sum.strips(entries, partial.tiles_mut(), scratch));
            },
        );
        for partial in partial {
            partial.wide = out.wide;
            for (at, last_bin) in parts(&self.shape, out.wide) {
                add_words(self.level, &mut out.tiles_mut()[at][..=last_bin], &partial.tiles()[at][..=last_bin]);
            }
        }
    }

    /// Turns a parent's histogram into that of one child by taking away the other child's. The child that stays has so many rows.
    pub fn subtract(&self, parent: &mut Histogram, child: &Histogram, rows: usize) {
        let tiles = self.shape.tiles.len();
        if parent.wide && !child.wide {
            let (gradients, rest) = parent.tiles_mut().split_at_mut(tiles);
            for (at, tile) in self.shape.tiles.iter().enumerate() {
                let last = usize::from(tile.last_bin);
                take_packed(self.level, &self.fields, &mut gradients[at][..=last], &mut rest[at][..=last], &child.tiles()[at][..=last]);
            }
        } else {
            for (at, last_bin) in parts(&self.shape, parent.wide) {
                take_words(self.level, &mut parent.tiles_mut()[at][..=last_bin], &child.tiles()[at][..=last_bin]);
            }
        }
        if parent.wide && rows <= self.fields.most_rows() {
            let (gradients, rest) = parent.tiles_mut().split_at_mut(tiles);
            for (at, tile) in self.shape.tiles.iter().enumerate() {
                let last = usize::from(tile.last_bin);
                pack(self.level, &self.fields, &mut gradients[at][..=last], &rest[at][..=last]);
            }
            parent.wide = false;
        }
    }

    /// The same without a histogram of the child: row by row. Only of a packed parent.
    pub fn subtract_rows(&self, parent: &mut Histogram, child: &[Entry]) {
        debug_assert!(!parent.wide);
        for (strip, out) in by_strip(&self.shape, parent.tiles_mut()) {
            add_rows::<true>(self.by_row, &self.fields, strip, child, out);
        }
    }
}

/// Tiles of a histogram and their highest bins.
fn parts(shape: &Shape, wide: bool) -> impl Iterator<Item = (usize, usize)> {
    let tiles = shape.tiles.len();
    (0..if wide { 2 * tiles } else { tiles }).map(move |at| (at, usize::from(shape.tiles[at % tiles].last_bin)))
}

/// Tiles of one strip side by side, with as many of `out`.
fn by_strip<'s, 'o>(shape: &'s Shape, mut out: &'o mut [Tile]) -> impl Iterator<Item = (&'s [TileShape], &'o mut [Tile])> {
    shape.tiles.chunk_by(|a, b| a.strip == b.strip).map(move |strip| {
        let (own, rest) = std::mem::take(&mut out).split_at_mut(strip.len());
        out = rest;
        (strip, own)
    })
}

struct Sum<'a> {
    by_row: &'a ByRow<'a>,
    shape: &'a Shape,
    fields: &'a Fields,
    level: Level,
    wide: bool,
}

impl Sum<'_> {
    fn strips(&self, entries: &[Entry], out: &mut [Tile], scratch: &mut [Tile]) {
        if !self.wide {
            return by_strip(self.shape, out).for_each(|(strip, out)| self.packed(strip, entries, out));
        }
        let (gradients, rest) = out.split_at_mut(self.shape.tiles.len());
        for ((strip, gradients), (_, rest)) in by_strip(self.shape, gradients).zip(by_strip(self.shape, rest)) {
            self.in_blocks(strip, entries, gradients, rest, scratch);
        }
    }

    /// A strip is one thread's; strips lie apart, so there is nothing to put together.
    fn strips_on_threads(&self, entries: &[Entry], out: &mut [Tile], scratch: &mut [&mut [Tile]]) {
        let (gradients, rest) = out.split_at_mut(self.shape.tiles.len());
        let empty = || std::iter::repeat_with(Default::default);
        let rest: Vec<&mut [Tile]> = if self.wide {
            by_strip(self.shape, rest).map(|(_, rest)| rest).collect()
        } else {
            empty().take(self.shape.tiles.len()).collect()
        };
        let mut jobs: Vec<_> = by_strip(self.shape, gradients).zip(rest).collect();
        let share = jobs.len().div_ceil(scratch.len());
        jobs.par_chunks_mut(share).zip(scratch).for_each(|(jobs, scratch)| {
            for ((strip, gradients), rest) in jobs {
                if self.wide {
                    self.in_blocks(strip, entries, gradients, rest, scratch);
                } else {
                    self.packed(strip, entries, gradients);
                }
            }
        });
    }

    fn packed(&self, strip: &[TileShape], entries: &[Entry], out: &mut [Tile]) {
        clear(strip, out);
        add_rows::<false>(self.by_row, self.fields, strip, entries, out);
    }

    fn in_blocks(&self, strip: &[TileShape], entries: &[Entry], gradients: &mut [Tile], rest: &mut [Tile], scratch: &mut [Tile]) {
        clear(strip, gradients);
        clear(strip, rest);
        clear(strip, scratch);
        for block in entries.chunks(self.fields.most_rows()) {
            add_rows::<false>(self.by_row, self.fields, strip, block, &mut scratch[..strip.len()]);
            for (at, tile) in strip.iter().enumerate() {
                let last = usize::from(tile.last_bin);
                spill(self.level, self.fields, &mut scratch[at][..=last], &mut gradients[at][..=last], &mut rest[at][..=last]);
            }
        }
    }
}

fn clear(strip: &[TileShape], out: &mut [Tile]) {
    for (tile, out) in strip.iter().zip(out) {
        out[..=usize::from(tile.last_bin)].fill([0; LANES]);
    }
}

/// Adds the rows' words to the cells of their bins, or takes them away.
fn add_rows<const TAKE: bool>(by_row: &ByRow<'_>, fields: &Fields, tiles: &[TileShape], entries: &[Entry], out: &mut [Tile]) {
    let strip = &by_row.strips[tiles[0].strip];
    let columns: usize = tiles.iter().map(|tile| tile.columns.len()).sum();
    let rows = Rows::<TAKE> { bins: strip.rows(), stride: strip.tiles, fields, entries };
    if columns < strip.columns.len() {
        return rows.add_chosen(tiles, out);
    }
    macro_rules! widths {
        ($($full:literal)*) => {
            match (columns - 1) / LANES {
                $($full => match (columns - 1) % LANES {
                    0 => rows.add::<$full, 1>(out),
                    1 => rows.add::<$full, 2>(out),
                    2 => rows.add::<$full, 3>(out),
                    3 => rows.add::<$full, 4>(out),
                    4 => rows.add::<$full, 5>(out),
                    5 => rows.add::<$full, 6>(out),
                    6 => rows.add::<$full, 7>(out),
                    _ => rows.add::<$full, 8>(out),
                },)*
                _ => unreachable!("a strip has {STRIP_TILES} tiles at most"),
            }
        };
    }
    widths!(0 1 2 3);
}

struct Rows<'a, const TAKE: bool> {
    bins: &'a [Bins],
    stride: usize,
    fields: &'a Fields,
    entries: &'a [Entry],
}

impl<const TAKE: bool> Rows<'_, TAKE> {
    /// All columns of a strip: so many full tiles and some lanes of the last. Known when compiled, a row's sums are one stretch of straight code.
    #[inline(never)]
    fn add<const FULL: usize, const TAIL: usize>(&self, out: &mut [Tile]) {
        let (full, tail) = out.split_at_mut(FULL);
        let (Ok(full), Some(tail)) = (<&mut [Tile; FULL]>::try_from(full), tail.first_mut()) else { return };
        self.each(|word, bins| {
            for (tile, bins) in full.iter_mut().zip(&bins[..FULL]) {
                for lane in 0..LANES {
                    let cell = &mut tile[usize::from(bins[lane])][lane];
                    *cell = cell.wrapping_add(word);
                }
            }
            for lane in 0..TAIL {
                let cell = &mut tail[usize::from(bins[FULL][lane])][lane];
                *cell = cell.wrapping_add(word);
            }
        });
    }

    /// Some columns of a strip.
    fn add_chosen(&self, tiles: &[TileShape], out: &mut [Tile]) {
        self.each(|word, bins| {
            let bins = bins.as_flattened();
            for (tile, out) in tiles.iter().zip(out.iter_mut()) {
                for (lane, &byte) in tile.bytes.iter().enumerate() {
                    let cell = &mut out[usize::from(bins[byte])][lane & 7];
                    *cell = cell.wrapping_add(word);
                }
            }
        });
    }

    #[inline(always)]
    fn each(&self, mut add: impl FnMut(u64, &[Bins])) {
        for (i, &entry) in self.entries.iter().enumerate() {
            // Rows of a deep node lie far apart in memory; asking for them early hides the wait.
            if let Some(ahead) = self.entries.get(i + 24) {
                prefetch(self.bins, ahead.row() * self.stride);
                if self.stride == 3 {
                    prefetch(self.bins, ahead.row() * self.stride + 2);
                }
            }
            let word = self.fields.word(entry);
            add(if TAKE { word.wrapping_neg() } else { word }, &self.bins[entry.row() * self.stride..][..self.stride]);
        }
    }
}

#[inline(always)]
fn prefetch(bins: &[Bins], position: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(bins) = bins.get(position) {
        // SAFETY: a hint to the cache about a valid reference; it changes no memory and cannot fault.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(bins).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bins, position);
}

for_every_level! {
    fn add_words(level, to: &mut [Lanes], from: &[Lanes]) = |to: &mut [Lanes], from: &[Lanes]| {
        to.as_flattened_mut().iter_mut().zip(from.as_flattened()).for_each(|(to, from)| *to = to.wrapping_add(*from));
    };
}

for_every_level! {
    fn take_words(level, from: &mut [Lanes], what: &[Lanes]) = |from: &mut [Lanes], what: &[Lanes]| {
        from.as_flattened_mut().iter_mut().zip(what.as_flattened()).for_each(|(from, what)| *from = from.wrapping_sub(*what));
    };
}

for_every_level! {
    /// Adds packed sums to wide ones and clears them.
    fn spill(level, fields: &Fields, packed: &mut [Lanes], gradients: &mut [Lanes], rest: &mut [Lanes]) = spill_anywhere;
}

#[inline(always)]
fn spill_anywhere(fields: &Fields, packed: &mut [Lanes], gradients: &mut [Lanes], rest: &mut [Lanes]) {
    let wide = gradients.as_flattened_mut().iter_mut().zip(rest.as_flattened_mut());
    for (packed, (gradient, rest)) in packed.as_flattened_mut().iter_mut().zip(wide) {
        let sums = fields.unpack(std::mem::take(packed));
        *gradient = gradient.wrapping_add(sums.gradient as u64);
        *rest += Sums::wide(sums.hessian, sums.count);
    }
}

for_every_level! {
    fn take_packed(level, fields: &Fields, gradients: &mut [Lanes], rest: &mut [Lanes], packed: &[Lanes]) = take_packed_anywhere;
}

#[inline(always)]
fn take_packed_anywhere(fields: &Fields, gradients: &mut [Lanes], rest: &mut [Lanes], packed: &[Lanes]) {
    let wide = gradients.as_flattened_mut().iter_mut().zip(rest.as_flattened_mut());
    for (packed, (gradient, rest)) in packed.as_flattened().iter().zip(wide) {
        let sums = fields.unpack(*packed);
        *gradient = gradient.wrapping_sub(sums.gradient as u64);
        *rest = rest.wrapping_sub(Sums::wide(sums.hessian, sums.count));
    }
}

for_every_level! {
    /// Makes wide sums packed ones, in the place of the gradients.
    fn pack(level, fields: &Fields, gradients: &mut [Lanes], rest: &[Lanes]) = pack_anywhere;
}

#[inline(always)]
fn pack_anywhere(fields: &Fields, gradients: &mut [Lanes], rest: &[Lanes]) {
    for (gradient, rest) in gradients.as_flattened_mut().iter_mut().zip(rest.as_flattened()) {
        let (hessian, count) = of_wide(*rest);
        *gradient = fields.pack(*gradient as i64, hessian, count);
    }
}

#[cfg(test)]
#[path = "summing_tests.rs"]
mod tests;
