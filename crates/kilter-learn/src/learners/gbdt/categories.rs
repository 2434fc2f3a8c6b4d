//! Columns of categories: what trees see of a value that is a name and no quantity.
//!
//! A category is a whole number. Up to [`MOST_BINS`] of them have a bin each, and trees ask whether a row's bin is one of a set (see
//! `category_split`). Where there are more, or as many as the parameters say, trees see a number instead: the mean label of the category's rows,
//! drawn towards that of all rows. A training row must not see its own label in it, so its number is made of the rows before it in a random
//! order (the ordered target statistics of CatBoost, Prokhorenkova et al. 2018); what is scored later sees the mean over all rows.
//!
//! What training did not see is defined. An unseen category counts as one of those too rare for a bin, and where there was none, as a missing
//! value; as a statistic it is the mean of all rows. A missing value where training had none counts as an unseen category.

use std::collections::BTreeMap;
use std::ops::Range;

use kilter_stats::Rng;

use super::Gbdt;
use crate::format::{Reader, Writer};
use crate::{LearnError, Matrix, TrainingSet};

/// Most categories with a bin of their own: one more is left for rare ones, and bin 0 is for missing values.
pub(super) const MOST_BINS: usize = 254;

/// Rows that a category needs for a bin of its own.
const FEWEST_ROWS: usize = 3;

/// Beyond this, neighbouring whole numbers are one float.
const LARGEST: f64 = 9_007_199_254_740_992.0;

/// The category that stands for a text: a whole number from 0 to 2^53 - 1, the same everywhere and for ever, since logs and models hold it. Of ten thousand
/// different texts two share a number once in two hundred million times.
pub fn category_of(text: &str) -> f64 {
    // FNV-1a, and a finish that lets every bit of the text move those that are kept (the last step of MurmurHash3).
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ hash >> 33) >> 11) as f64
}

/// Bins that go left, a bit each; bin 0 is a missing value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BinSet(pub [u64; 4]);

impl BinSet {
    #[inline(always)]
    pub fn has(&self, bin: u8) -> bool {
        self.0[usize::from(bin >> 6)] >> (bin & 63) & 1 == 1
    }

    pub fn insert(&mut self, bin: u8) {
        self.0[usize::from(bin >> 6)] |= 1 << (bin & 63);
    }

    /// Whether the bin that an encoded value stands for is one of the set; NaN is bin 0.
    #[inline(always)]
    pub fn holds(&self, encoded: f64) -> bool {
        self.has(encoded as u8)
    }
}

/// What trees see instead of the categories of one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoder {
    pub input: usize,
    /// Bins in use, of a column that trees ask for sets; none of one that they see as a statistic.
    pub bins: Option<u8>,
    /// Whole numbers, ascending, each with what is seen of it: its bin or its statistic.
    seen: Vec<(f64, f64)>,
    /// What is seen of any other category, and of a missing value; NaN is missing.
    unseen: f64,
    missing: f64,
}

impl Encoder {
    #[inline]
    pub fn encode(&self, value: f64) -> f64 {
        if value.is_nan() {
            return self.missing;
        }
        self.position(value).map_or(self.unseen, |at| self.seen[at].1)
    }

    fn position(&self, value: f64) -> Option<usize> {
        // Both zeros are one number to `<`, as they are one category.
        let at = self.seen.partition_point(|&(category, _)| category < value);
        self.seen.get(at).filter(|&&(category, _)| category == value).map(|_| at)
    }

    pub fn knows(&self, value: f64) -> bool {
        value.is_nan() || self.position(value).is_some()
    }

    /// Each category of training, ascending, with what is seen of it.
    pub fn categories(&self) -> &[(f64, f64)] {
        &self.seen
    }

    /// What is seen of a category that training did not have.
    pub fn unseen(&self) -> f64 {
        self.unseen
    }

    fn write(&self, to: &mut Writer) {
        to.u32(self.input as u32);
        to.u8(self.bins.unwrap_or(0));
        to.f64(self.unseen);
        to.f64(self.missing);
        to.u32(self.seen.len() as u32);
        self.seen.iter().for_each(|&(category, seen)| {
            to.f64(category);
            to.f64(seen);
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, LearnError> {
        let input = from.u32()? as usize;
        let bins = Some(from.u8()?).filter(|&bins| bins > 0);
        let (unseen, missing) = (from.f64()?, from.f64()?);
        let count = from.u32()? as usize;
        from.room_for(count, 16)?;
        let seen = (0..count).map(|_| Ok((from.f64()?, from.f64()?))).collect::<Result<Vec<_>, LearnError>>()?;
        Ok(Encoder { input, bins, seen, unseen, missing })
    }

    /// Whether trees can rely on what it says.
    fn is_sound(&self) -> bool {
        let usable = |seen: f64| match self.bins {
            Some(bins) => (1..=bins).any(|bin| f64::from(bin) == seen),
            None => seen.is_finite(),
        };
        let ascending = self.seen.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let known = self.seen.iter().all(|&(category, seen)| is_category(category) && usable(seen));
        let unseen = usable(self.unseen) || self.bins.is_some() && self.unseen.is_nan();
        let missing = self.missing.is_nan() || self.missing == self.unseen;
        ascending && known && unseen && missing
    }
}

fn is_category(value: f64) -> bool {
    value.abs() <= LARGEST && value == libm::trunc(value)
}

/// The encoders of a model, by input. Empty when all inputs are numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Encoders(Vec<Encoder>);

impl Encoders {
    /// Learns them from the given rows.
    pub fn learn(set: &TrainingSet, rows: Range<usize>, parameters: &Gbdt) -> Result<Self, LearnError> {
        let mut inputs = Vec::new();
        for name in &parameters.categorical {
            let input = set.matrix.names().iter().position(|known| known == name);
            inputs.push(input.ok_or_else(|| LearnError::UnknownColumn { parameter: "categorical", name: name.clone() })?);
        }
        inputs.sort_unstable();
        inputs.dedup();
        let learn = |input| Encoder::learn(set, rows.clone(), input, parameters);
        inputs.into_iter().map(learn).collect::<Result<_, _>>().map(Encoders)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Encoder> {
        self.0.iter()
    }

    /// The encoder of an input, if it is one of categories.
    pub fn of(&self, input: usize) -> Option<&Encoder> {
        self.0.iter().find(|encoder| encoder.input == input)
    }

    /// Which inputs trees see as bins of categories.
    pub fn sets(&self, inputs: usize) -> Vec<bool> {
        (0..inputs).map(|input| self.of(input).is_some_and(|encoder| encoder.bins.is_some())).collect()
    }

    /// The same where what were all inputs are some of more: those of these numbers.
    pub(super) fn among(mut self, inputs: &[usize]) -> Self {
        self.0.iter_mut().for_each(|encoder| encoder.input = inputs[encoder.input]);
        self
    }

    /// Replaces what a row has of categories by what trees see of it.
    #[inline]
    pub fn encode(&self, row: &mut [f64]) {
        self.0.iter().for_each(|encoder| row[encoder.input] = encoder.encode(row[encoder.input]));
    }

    /// The given rows as trees see them when they score.
    pub(super) fn scored<'a>(&self, matrix: &'a Matrix, rows: Range<usize>) -> Encoded<'a> {
        let encode = |encoder: &Encoder| matrix.column(encoder.input)[rows.clone()].iter().map(|&value| encoder.encode(value)).collect();
        Encoded { matrix, rows: rows.clone(), replaced: self.0.iter().map(|encoder| (encoder.input, encode(encoder))).collect() }
    }

    /// The given rows as trees see them when they are grown: no statistic holds a row's own label.
    pub(super) fn training<'a>(
        &self,
        set: &'a TrainingSet,
        rows: Range<usize>,
        parameters: &Gbdt,
        number: &impl Fn(usize) -> usize,
    ) -> Encoded<'a> {
        let mut encoded = self.scored(&set.matrix, rows.clone());
        for (encoder, (_, column)) in self.0.iter().zip(&mut encoded.replaced) {
            if encoder.bins.is_none() {
                encoder.order(set, rows.clone(), parameters, number(encoder.input), column);
            }
        }
        encoded
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.0.len() as u32);
        self.0.iter().for_each(|encoder| encoder.write(to));
    }

    pub fn read(from: &mut Reader<'_>, inputs: usize) -> Result<Self, LearnError> {
        let count = from.u32()? as usize;
        from.room_for(count, 25)?;
        let all = (0..count).map(|_| Encoder::read(from)).collect::<Result<Vec<_>, _>>()?;
        let ascending = all.windows(2).all(|pair| pair[0].input < pair[1].input);
        if !ascending || all.iter().any(|encoder| encoder.input >= inputs || !encoder.is_sound()) {
            return Err(LearnError::corrupt("an input's categories are in disorder"));
        }
        Ok(Encoders(all))
    }
}

impl Encoder {
    fn learn(set: &TrainingSet, rows: Range<usize>, input: usize, parameters: &Gbdt) -> Result<Self, LearnError> {
        let mut counts = BTreeMap::<i64, usize>::new();
        let mut missing = false;
        for (row, &value) in rows.clone().zip(&set.matrix.column(input)[rows.clone()]) {
            if value.is_nan() {
                missing = true;
                continue;
            }
            if !is_category(value) {
                return Err(LearnError::BadCategory { column: set.matrix.names()[input].clone(), row, value });
            }
            *counts.entry(value as i64).or_default() += 1;
        }
        if parameters.has_statistics(counts.len()) {
            let encoder = Encoder::of_statistics(set, rows, input, parameters, counts.into_keys());
            return Ok(Encoder { missing: if missing { f64::NAN } else { encoder.unseen }, ..encoder });
        }
        let mut by_count: Vec<(i64, usize)> = counts.into_iter().collect();
        by_count.sort_unstable_by_key(|&(category, count)| (std::cmp::Reverse(count), category));
        let own = by_count.partition_point(|&(_, count)| count >= FEWEST_ROWS).min(MOST_BINS);
        let rare = own < by_count.len();
        let bin = |at: usize| at.min(own) as f64 + 1.0;
        let mut seen: Vec<(f64, f64)> = by_count.iter().enumerate().map(|(at, &(category, _))| (category as f64, bin(at))).collect();
        seen.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let unseen = if rare { bin(own) } else { f64::NAN };
        let missing = if missing { f64::NAN } else { unseen };
        Ok(Encoder { input, bins: Some((own + usize::from(rare)).max(1) as u8), seen, unseen, missing })
    }

    fn of_statistics(
        set: &TrainingSet,
        rows: Range<usize>,
        input: usize,
        parameters: &Gbdt,
        categories: impl Iterator<Item = i64>,
    ) -> Self {
        let seen = categories.map(|category| (category as f64, 0.0)).collect();
        let mut encoder = Encoder { input, bins: None, seen, unseen: mean(set, rows.clone()), missing: f64::NAN };
        let mut sums = vec![[0.0; 2]; encoder.seen.len()];
        for row in rows {
            if let Some(at) = encoder.position(set.matrix.value(row, input)) {
                let weight = set.weight(row);
                sums[at] = [sums[at][0] + weight * set.labels[row], sums[at][1] + weight];
            }
        }
        for ((_, seen), sums) in encoder.seen.iter_mut().zip(sums) {
            *seen = drawn(sums, encoder.unseen, parameters.cat_smooth);
        }
        encoder
    }

    /// Fills a column with statistics of the rows before each row, in an order that the seed and the input's number say.
    fn order(&self, set: &TrainingSet, rows: Range<usize>, parameters: &Gbdt, number: usize, column: &mut [f64]) {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        Rng::seeded(parameters.seed).fork(number as u64 ^ 0xca7e_9021).shuffle(&mut order);
        let mut sums = vec![[0.0; 2]; self.seen.len()];
        for at in order {
            let row = rows.start + at;
            if let Some(category) = self.position(set.matrix.value(row, self.input)) {
                let (weight, sums) = (set.weight(row), &mut sums[category]);
                column[at] = drawn(*sums, self.unseen, parameters.cat_smooth);
                *sums = [sums[0] + weight * set.labels[row], sums[1] + weight];
            }
        }
    }
}

/// Mean label, drawn towards that of all rows as if so many more rows had it.
fn drawn([sum, weight]: [f64; 2], mean: f64, rows: f64) -> f64 {
    if weight + rows > 0.0 { (sum + rows * mean) / (weight + rows) } else { mean }
}

fn mean(set: &TrainingSet, rows: Range<usize>) -> f64 {
    let (sum, weight) = rows.fold((0.0, 0.0), |(sum, total), row| {
        let weight = set.weight(row);
        (sum + weight * set.labels[row], total + weight)
    });
    if weight > 0.0 { sum / weight } else { 0.0 }
}

/// Columns of numbers, of one length.
pub(in crate::learners) trait Columns: Sync {
    fn columns(&self) -> usize;
    fn rows(&self) -> usize;
    fn column(&self, column: usize) -> &[f64];
}

/// Some rows of a matrix, with other values in some of its columns.
pub(super) struct Encoded<'a> {
    matrix: &'a Matrix,
    rows: Range<usize>,
    replaced: Vec<(usize, Vec<f64>)>,
}

impl Columns for Matrix {
    fn columns(&self) -> usize {
        Matrix::columns(self)
    }

    fn rows(&self) -> usize {
        Matrix::rows(self)
    }

    fn column(&self, column: usize) -> &[f64] {
        Matrix::column(self, column)
    }
}

impl Columns for Encoded<'_> {
    fn columns(&self) -> usize {
        self.matrix.columns()
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn column(&self, column: usize) -> &[f64] {
        let replaced = self.replaced.iter().find(|(replaced, _)| *replaced == column);
        replaced.map_or_else(|| &self.matrix.column(column)[self.rows.clone()], |(_, values)| values)
    }
}

impl Encoded<'_> {
    /// As a matrix of its own.
    pub fn to_matrix(&self) -> Matrix {
        let columns = (0..self.columns()).map(|column| self.column(column).to_vec()).collect();
        Matrix::from_columns(self.matrix.names().to_vec(), columns)
    }
}

#[cfg(test)]
#[path = "categories_tests.rs"]
mod tests;
