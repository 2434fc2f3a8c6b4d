//! What a step has become once it is fitted: columns, each a function of one column before, or a sum over several.

use super::components::Mix;
use super::{Fill, Scaling, power};
use crate::format::{Reader, Writer};
use crate::text::Hashing;
use crate::{LearnError, Matrix, TrainingSet};

/// All columns after one step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    /// Position of the column it is made of, in the step before; of a mix the first of them.
    pub from: usize,
    pub name: String,
    pub map: Map,
}

/// What is made of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Map {
    Keep,
    /// The number where there is none.
    Fill(f64),
    /// 1 where a value is missing or infinite, else 0.
    Missing,
    /// Less the first, divided by the second.
    Scale(f64, f64),
    /// 1 for this code, else 0.
    Is(f64),
    /// The value of a code; that of missing values; that of all others.
    Table {
        codes: Vec<f64>,
        values: Vec<f64>,
        missing: f64,
        other: f64,
    },
    /// How many bounds are below.
    Bins(Vec<f64>),
    /// Yeo and Johnson's transform by this exponent.
    Power(f64),
    /// 1 or -1 for codes whose hash falls into the bucket, else 0.
    Bucket {
        hashing: Hashing,
        bucket: u32,
    },
    /// Made of several columns.
    Mix(Mix),
}

impl Map {
    pub fn at(&self, value: f64) -> f64 {
        match self {
            Map::Keep => value,
            Map::Fill(fill) => {
                if value.is_finite() {
                    value
                } else {
                    *fill
                }
            }
            Map::Missing => f64::from(u8::from(!value.is_finite())),
            Map::Scale(middle, spread) => (value - middle) / spread,
            Map::Is(code) => f64::from(u8::from(value == *code)),
            Map::Table { missing, .. } if value.is_nan() => *missing,
            // Both zeros are one code.
            Map::Table { codes, values, other, .. } => match codes.binary_search_by(|code| code.total_cmp(&(value + 0.0))) {
                Ok(at) => values[at],
                Err(_) => *other,
            },
            Map::Bins(_) if value.is_nan() => value,
            Map::Bins(bounds) => bounds.partition_point(|&bound| bound < value) as f64,
            Map::Power(lambda) => power::transformed(value, *lambda),
            Map::Bucket { .. } if value.is_nan() => 0.0,
            Map::Bucket { hashing, bucket } => {
                // Both zeros are one code.
                let (found, sign) = hashing.place(&(value + 0.0).to_bits().to_le_bytes());
                if found == *bucket { sign } else { 0.0 }
            }
            Map::Mix(_) => value,
        }
    }

    pub fn fill(set: &TrainingSet, column: usize, fill: Fill) -> Map {
        let values = weighted(set, column);
        Map::Fill(match fill {
            Fill::Constant(value) => value,
            Fill::Mean => mean(&values),
            Fill::Median => quantile(&values, 0.5),
        })
    }

    pub fn scale(set: &TrainingSet, column: usize, by: Scaling) -> Map {
        let values = weighted(set, column);
        let (middle, spread) = match by {
            Scaling::Standard => {
                let middle = mean(&values);
                let squares: Vec<(f64, f64)> =
                    values.iter().map(|&(value, weight)| ((value - middle) * (value - middle), weight)).collect();
                (middle, libm::sqrt(mean(&squares)))
            }
            Scaling::Robust => (quantile(&values, 0.5), quantile(&values, 0.75) - quantile(&values, 0.25)),
        };
        // Rounding leaves a constant far from 0 a little spread that is none.
        let spread = if spread.is_finite() && spread > 1e-12 * middle.abs() { spread } else { 1.0 };
        Map::Scale(middle, spread)
    }

    pub fn quantiles(set: &TrainingSet, column: usize, bins: usize) -> Map {
        let values = weighted(set, column);
        let mut bounds: Vec<f64> = (1..bins).map(|bin| quantile(&values, bin as f64 / bins as f64)).collect();
        bounds.dedup_by(|a, b| a == b);
        // Nothing lies above the greatest.
        let greatest = values.last().map_or(0.0, |&(value, _)| value);
        bounds.retain(|&bound| bound < greatest);
        Map::Bins(bounds)
    }

    /// Bins of one width between the least and the greatest value.
    pub fn widths(set: &TrainingSet, column: usize, bins: usize) -> Map {
        let values = weighted(set, column);
        let (least, greatest) = (values.first().map_or(0.0, |first| first.0), values.last().map_or(0.0, |last| last.0));
        let mut bounds: Vec<f64> = (1..bins).map(|bin| least + (greatest - least) * (bin as f64 / bins as f64)).collect();
        bounds.dedup_by(|a, b| a == b);
        bounds.retain(|&bound| bound.is_finite() && bound < greatest);
        Map::Bins(bounds)
    }

    pub fn power(set: &TrainingSet, column: usize) -> Map {
        Map::Power(power::exponent(&weighted(set, column)))
    }

    /// Codes by their place in ascending order, or by their share of the weight.
    pub fn codes(set: &TrainingSet, column: usize, by_share: bool) -> Map {
        let values = weighted(set, column);
        let total: f64 = (0..set.rows()).map(|row| set.weight(row)).sum();
        let (mut codes, mut told, mut present) = (Vec::new(), Vec::new(), 0.0);
        for (place, run) in values.chunk_by(|a, b| a.0 == b.0).enumerate() {
            let weight: f64 = run.iter().map(|&(_, weight)| weight).sum();
            present += weight;
            codes.push(run[0].0 + 0.0);
            told.push(if by_share { weight / total } else { place as f64 });
        }
        let (missing, other) = if by_share { ((total - present).max(0.0) / total, 0.0) } else { (-1.0, -1.0) };
        Map::Table { codes, values: told, missing, other }
    }

    /// Means of the labels of the rows that `counts` wants.
    pub fn target(set: &TrainingSet, column: usize, smoothing: f64, counts: impl Fn(usize) -> bool) -> Map {
        let mut rows: Vec<(f64, usize)> =
            (0..set.rows()).filter(|&row| counts(row)).map(|row| (set.matrix.value(row, column) + 0.0, row)).collect();
        // In each code's run the rows come in their order, and missing values last.
        rows.sort_by(|a, b| {
            a.0.is_nan().cmp(&b.0.is_nan()).then(if a.0.is_nan() { std::cmp::Ordering::Equal } else { a.0.total_cmp(&b.0) })
        });
        let sums = |rows: &[(f64, usize)]| {
            rows.iter().fold((0.0, 0.0), |(sum, total), &(_, row)| (sum + set.weight(row) * set.labels[row], total + set.weight(row)))
        };
        let (sum, total) = sums(&rows);
        let all = if total > 0.0 { sum / total } else { 0.0 };
        let smoothed = |(sum, total): (f64, f64)| if total + smoothing > 0.0 { (sum + smoothing * all) / (total + smoothing) } else { all };
        let present = rows.partition_point(|(code, _)| !code.is_nan());
        let (mut codes, mut values) = (Vec::new(), Vec::new());
        for run in rows[..present].chunk_by(|a, b| a.0 == b.0) {
            codes.push(run[0].0);
            values.push(smoothed(sums(run)));
        }
        Map::Table { codes, values, missing: smoothed(sums(&rows[present..])), other: all }
    }

    fn write(&self, to: &mut Writer) {
        let mut tagged = |tag: u8, numbers: &[f64]| {
            to.u8(tag);
            to.u32(numbers.len() as u32);
            to.f64s(numbers);
        };
        match self {
            Map::Keep => tagged(0, &[]),
            Map::Fill(value) => tagged(1, &[*value]),
            Map::Missing => tagged(2, &[]),
            Map::Scale(middle, spread) => tagged(3, &[*middle, *spread]),
            Map::Is(code) => tagged(4, &[*code]),
            Map::Table { codes, values, missing, other } => {
                tagged(5, &[codes.as_slice(), values, &[*missing, *other]].concat());
            }
            Map::Bins(bounds) => tagged(6, bounds),
            Map::Power(lambda) => tagged(7, &[*lambda]),
            Map::Bucket { hashing, bucket } => {
                tagged(8, &[]);
                to.u64(hashing.seed);
                to.u32(hashing.buckets);
                to.u32(*bucket);
            }
            Map::Mix(mix) => {
                tagged(9, &[]);
                mix.write(to);
            }
        }
    }

    fn read(from: &mut Reader<'_>, width: usize) -> Result<Map, LearnError> {
        let (tag, count) = (from.u8()?, from.u32()? as usize);
        let numbers = from.f64s(count)?;
        let finite = numbers.iter().all(|number| number.is_finite());
        let ascending = |numbers: &[f64]| numbers.windows(2).all(|pair| pair[0].total_cmp(&pair[1]).is_lt());
        let map = match (tag, numbers.as_slice()) {
            (0, []) => Map::Keep,
            (1, &[value]) if finite => Map::Fill(value),
            (2, []) => Map::Missing,
            (3, &[middle, spread]) if finite && spread > 0.0 => Map::Scale(middle, spread),
            (4, &[code]) if !code.is_nan() => Map::Is(code),
            (5, [pairs @ .., missing, other]) if pairs.len() % 2 == 0 => {
                let (codes, values) = pairs.split_at(pairs.len() / 2);
                if !(ascending(codes) && values.iter().chain([missing, other]).all(|value| value.is_finite())) {
                    return Err(LearnError::corrupt("a table of codes that do not ascend, or have no finite values"));
                }
                Map::Table { codes: codes.to_vec(), values: values.to_vec(), missing: *missing, other: *other }
            }
            (6, bounds) if finite && ascending(bounds) => Map::Bins(bounds.to_vec()),
            (7, &[lambda]) if finite => Map::Power(lambda),
            (8, []) => {
                let (seed, buckets, bucket) = (from.u64()?, from.u32()?, from.u32()?);
                if bucket >= buckets {
                    return Err(LearnError::corrupt("a bucket that no hash falls into"));
                }
                Map::Bucket { hashing: Hashing { seed, buckets }, bucket }
            }
            (9, []) => Map::Mix(Mix::read(from, width)?),
            _ => return Err(LearnError::corrupt("a step of preparation that is none")),
        };
        Ok(map)
    }
}

impl Layer {
    pub fn new(columns: Vec<Column>) -> Layer {
        Layer { columns }
    }

    /// The layer, and what it makes of the rows.
    pub fn applied(self, matrix: &Matrix) -> Result<(Layer, Matrix), LearnError> {
        if self.columns.is_empty() {
            return Err(LearnError::NoColumns);
        }
        let made = self.matrix(matrix);
        Ok((self, made))
    }

    pub fn matrix(&self, matrix: &Matrix) -> Matrix {
        let made = |column: &Column| match &column.map {
            Map::Mix(mix) => (0..matrix.rows()).map(|row| mix.at(|from| matrix.value(row, from))).collect(),
            map => matrix.column(column.from).iter().map(|&value| map.at(value)).collect(),
        };
        Matrix::from_columns(self.columns.iter().map(|column| column.name.clone()).collect(), self.columns.iter().map(made).collect())
    }

    pub fn row(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.columns.iter().map(|column| match &column.map {
            Map::Mix(mix) => mix.at(|from| row[from]),
            map => map.at(row[column.from]),
        }));
    }

    /// Whether each column is made of one.
    pub fn is_plain(&self) -> bool {
        !self.columns.iter().any(|column| matches!(column.map, Map::Mix(_)))
    }

    /// What is said of the columns made, as said of those that they are made of: those of a row, or any.
    pub fn shared_out(&self, of_made: &[f64], row: Option<&[f64]>, width: usize, out: &mut Vec<f64>) {
        out.clear();
        out.resize(width, 0.0);
        for (column, &whole) in self.columns.iter().zip(of_made) {
            match &column.map {
                Map::Mix(mix) => mix.share_out(whole, row, out),
                _ => out[column.from] += whole,
            }
        }
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.columns.len() as u32);
        for column in &self.columns {
            to.u32(column.from as u32);
            to.block(column.name.as_bytes());
            column.map.write(to);
        }
    }

    /// Columns made of `width` columns before.
    pub fn read(from: &mut Reader<'_>, width: usize) -> Result<Layer, LearnError> {
        let count = from.u32()? as usize;
        from.room_for(count, 17)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let source = from.u32()? as usize;
            let name = std::str::from_utf8(from.block()?).map_err(|_| LearnError::corrupt("a name that is no text"))?.to_string();
            if source >= width {
                return Err(LearnError::corrupt("a column made of none"));
            }
            columns.push(Column { from: source, name, map: Map::read(from, width)? });
        }
        if columns.is_empty() { Err(LearnError::corrupt("a step without columns")) } else { Ok(Layer { columns }) }
    }
}

/// Of each training row the value its code has among the rows of the other folds.
pub(super) fn out_of_fold(set: &TrainingSet, column: usize, smoothing: f64, folds: usize) -> Vec<f64> {
    let maps: Vec<Map> = (0..folds).map(|fold| Map::target(set, column, smoothing, |row| row % folds != fold)).collect();
    set.matrix.column(column).iter().enumerate().map(|(row, &value)| maps[row % folds].at(value)).collect()
}

/// The codes of most weight, of equal ones the lesser; in ascending order.
pub(super) fn most_frequent(set: &TrainingSet, column: usize, most: usize) -> Vec<f64> {
    let values = weighted(set, column);
    let runs = values.chunk_by(|a, b| a.0 == b.0);
    let mut codes: Vec<(f64, f64)> = runs.map(|run| (run[0].0 + 0.0, run.iter().map(|&(_, weight)| weight).sum())).collect();
    codes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.total_cmp(&b.0)));
    codes.truncate(most);
    let mut codes: Vec<f64> = codes.into_iter().map(|(code, _)| code).collect();
    codes.sort_by(f64::total_cmp);
    codes
}

/// The finite values of the rows that count, ascending, with their weights.
fn weighted(set: &TrainingSet, column: usize) -> Vec<(f64, f64)> {
    let values = set.matrix.column(column).iter().enumerate().map(|(row, &value)| (value, set.weight(row)));
    let mut values: Vec<(f64, f64)> = values.filter(|&(value, weight)| value.is_finite() && weight > 0.0).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    values
}

fn mean(values: &[(f64, f64)]) -> f64 {
    let total: f64 = values.iter().map(|&(_, weight)| weight).sum();
    if total > 0.0 { values.iter().map(|&(value, weight)| value * (weight / total)).sum() } else { 0.0 }
}

/// The least value up to which this share of the weight lies; 0 without values.
fn quantile(values: &[(f64, f64)], level: f64) -> f64 {
    let total: f64 = values.iter().map(|&(_, weight)| weight).sum();
    let mut reached = 0.0;
    for &(value, weight) in values {
        reached += weight;
        if reached >= level * total {
            return value;
        }
    }
    values.last().map_or(0.0, |&(value, _)| value)
}
