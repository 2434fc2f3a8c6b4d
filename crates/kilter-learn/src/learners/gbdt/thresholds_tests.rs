//! The search against threshold by threshold, as one would write it down.

use super::super::MonotoneMethod;
use super::super::binned::Column;
use super::super::by_row::ByRow;
use super::super::histogram::Scale;
use super::*;
use kilter_stats::Rng;

struct Case {
    last_bins: Vec<u8>,
    histogram: Histogram,
    shape: Shape,
    fields: Fields,
    total: Sums,
}

impl Case {
    /// Random sums of so many rows in columns of random numbers of bins; few different words make many equal scores.
    fn new(rng: &mut Rng, fields: Fields, width: usize, rows: usize, few_words: bool) -> Self {
        let last_bins: Vec<u8> = (0..width).map(|_| if rng.bernoulli(0.4) { 255 } else { 1 + rng.below(255) as u8 }).collect();
        let by_column: Vec<Column<'_>> = last_bins.iter().map(|_| Column::Owned(vec![1])).collect();
        let by_row = ByRow::new(&by_column, |column| last_bins[column]);
        let shape = Shape::new(&by_row, (0..width).collect(), width, |column| last_bins[column]);
        let mut histogram = Histogram::room(2 * shape.tiles.len());
        histogram.wide = rows > fields.most_rows();
        let mut total = Sums::default();
        let missing: Vec<bool> = (0..width).map(|_| rng.bernoulli(0.5)).collect();
        for _ in 0..rows {
            let (g, h) = if few_words { (4_096, 1_024) } else { (rng.below(8_000) as i64, 1 + rng.below(15_000)) };
            let g = if rng.bernoulli(0.4) { g } else { -g };
            let own = Sums { gradient: g, hessian: if fields.constant_hessian() { 1 } else { h }, count: 1 };
            total = total.with(&own);
            for column in 0..width {
                let first = u64::from(!missing[column]);
                let bin = first + rng.below(u64::from(last_bins[column]) + 1 - first);
                put(&mut histogram, &fields, &shape, column, bin as usize, &own);
            }
        }
        Case { last_bins, histogram, shape, fields, total }
    }

    fn naive(&self, rules: &Rules<'_>, beat: f64, left_out: &[bool]) -> Option<Best> {
        let Scale { gradient_unit, hessian_unit, .. } = rules.scale;
        let mut found: Option<Best> = None;
        for &column in self.shape.columns.iter().filter(|&&column| !left_out[column]) {
            let sums = self.histogram.column(&self.fields, &self.shape, column, self.last_bins[column]);
            let sides: &[bool] = if sums[0].count == 0 { &[false] } else { &[false, true] };
            for &missing_left in sides {
                let mut left = if missing_left { sums[0] } else { Sums::default() };
                for bin in 1..=self.last_bins[column] {
                    left = left.with(&sums[usize::from(bin)]);
                    let right = self.total.without(&left);
                    let (h, rest) = (left.hessian as f64 * hessian_unit, right.hessian as f64 * hessian_unit);
                    if left.count < rules.min_rows || right.count < rules.min_rows || h < rules.min_hessian || rest < rules.min_hessian {
                        continue;
                    }
                    let (g, k) = (left.gradient as f64 * gradient_unit, right.gradient as f64 * gradient_unit);
                    let (a, b) = (h + rules.lambda, self.total.hessian as f64 * hessian_unit + rules.lambda - h);
                    let score = (g * g * b + k * k * a) / (a * b);
                    if a * b > 0.0 && score > found.map_or(beat, |found| found.score) {
                        let missing_left = if sums[0].count == 0 { 2 * left.count >= self.total.count } else { missing_left };
                        found = Some(Best { score, column, bin, missing_left, left });
                    }
                }
            }
        }
        found
    }
}

fn put(histogram: &mut Histogram, fields: &Fields, shape: &Shape, column: usize, bin: usize, own: &Sums) {
    let tiles = shape.tiles.len();
    let (tile, lane) = (0..tiles).find_map(|at| Some((at, shape.tiles[at].columns.iter().position(|&c| c == column)?))).unwrap();
    if histogram.wide {
        let cell = &mut histogram.tiles_mut()[tile][bin][lane];
        *cell = cell.wrapping_add(own.gradient as u64);
        histogram.tiles_mut()[tiles + tile][bin][lane] += Sums::wide(own.hessian, own.count);
    } else {
        let cell = &mut histogram.tiles_mut()[tile][bin][lane];
        *cell = cell.wrapping_add(fields.pack(own.gradient, own.hessian, own.count));
    }
}

#[test]
fn eight_at_once_find_what_one_by_one_finds_to_the_bit() {
    let mut rng = Rng::seeded(1);
    let mut found = 0;
    for turn in 0..400 {
        let fields = [Fields::COARSE, Fields::FINE, Fields::CONSTANT][turn % 3];
        let (width, rows) = (1 + rng.below(20) as usize, 1 + rng.below(if turn % 5 == 0 { 5_000 } else { 300 }) as usize);
        let case = Case::new(&mut rng, fields, width, rows, turn % 4 == 0);
        let rules = Rules {
            lambda: [0.0, 1.0, 1e-3][turn % 7 % 3],
            min_rows: 1 + rng.below(20),
            min_hessian: [0.0, 1e-3, 2.0][turn % 5 % 3],
            min_gain: 0.0,
            scale: Scale::fitting(fields, 1.0, 0.25),
            cuts: &[],
            monotone: &[],
            monotone_method: MonotoneMethod::Basic,
            categories: None,
            interactions: None,
        };
        let left_out: Vec<bool> = (0..width).map(|_| rng.bernoulli(0.1)).collect();
        for level in Level::all() {
            let best = |beat| best_at(level, &rules, &case.histogram, &case.shape, &case.total, beat, &left_out);
            let expected = case.naive(&rules, 0.01, &left_out);
            assert_eq!(best(0.01), expected, "turn {turn}, {level:?}");
            let bar = expected.map_or(0.0, |best| best.score);
            assert_eq!(best(bar), None, "turn {turn}, {level:?}");
            found += usize::from(expected.is_some());
        }
    }
    assert!(found > 500, "{found}");
}
