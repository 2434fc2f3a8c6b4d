//! Histograms against sums taken row by row.

use super::super::binned::Column;
use super::*;
use kilter_stats::Rng;

/// Columns of very different numbers of bins, so that their order in memory is not their own.
struct Case {
    by_column: Vec<Column<'static>>,
    last_bins: Vec<u8>,
    entries: Vec<Entry>,
}

impl Case {
    fn new(rng: &mut Rng, width: usize, rows: usize, fields: &Fields) -> Self {
        let last_bins: Vec<u8> = (0..width).map(|_| [1, 3, 200, 255][rng.below(4) as usize]).collect();
        let by_column =
            last_bins.iter().map(|&last| Column::Owned((0..rows).map(|_| rng.below(u64::from(last) + 1) as u8).collect())).collect();
        let one = Scaled(fields).most();
        let entries = (0..rows as u32)
            .map(|row| Entry::new(row, (rng.below(2 * one.0) as i64 - one.0 as i64) as i16, rng.below(one.1 + 1) as u16))
            .collect();
        Case { by_column, last_bins, entries }
    }

    fn naive(&self, fields: &Fields, entries: &[Entry], column: usize) -> Vec<Sums> {
        let mut sums = vec![Sums::default(); usize::from(self.last_bins[column]) + 1];
        for &entry in entries {
            let bin = usize::from(self.by_column[column][entry.row()]);
            sums[bin] = sums[bin].with(&fields.unpack(fields.word(entry)));
        }
        sums
    }

    fn check(&self, builder: &Builder<'_>, histogram: &Histogram, entries: &[Entry]) {
        assert_eq!(histogram.wide, entries.len() > builder.fields.most_rows());
        for &column in &builder.shape.columns {
            let found = histogram.column(&builder.fields, &builder.shape, column, self.last_bins[column]);
            assert!(found == self.naive(&builder.fields, entries, column), "column {column} of {} rows", entries.len());
        }
    }
}

struct Scaled<'a>(&'a Fields);

impl Scaled<'_> {
    /// Largest words of a row.
    fn most(&self) -> (u64, u64) {
        match *self.0 {
            fields if fields == Fields::COARSE => (1 << 13, (1 << 14) - 1),
            fields if fields == Fields::FINE => (1 << 15, (1 << 15) - 1),
            _ => (1 << 15, 0),
        }
    }
}

/// Wide or packed, of all columns or some, on any number of threads: the sums of the rows, and the parent's less one child's are the other's.
#[test]
fn a_histogram_is_the_sum_of_its_rows() {
    let mut rng = Rng::seeded(1);
    for fields in [Fields::COARSE, Fields::FINE, Fields::CONSTANT] {
        for (width, rows) in [(1, 700), (3, 2_040), (10, 30_000), (28, 50_000), (70, 9_000), (33, 4_000)] {
            let case = Case::new(&mut rng, width, rows, &fields);
            let by_row = ByRow::new(&case.by_column, |column| case.last_bins[column]);
            let some: Vec<usize> = (0..width).filter(|_| rng.bernoulli(0.4)).collect();
            for columns in [(0..width).collect(), if some.is_empty() { vec![0] } else { some }] {
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let shape = Shape::new(&by_row, columns.clone(), width, |column| case.last_bins[column]);
                    let mut builder = Builder::new(&by_row, shape, fields, rows);
                    let mut parent = builder.empty();
                    pool.install(|| builder.build(&case.entries, &mut parent));
                    case.check(&builder, &parent, &case.entries);
                    let share = [3, 10, 200][rng.below(3) as usize];
                    let (small, large): (Vec<Entry>, Vec<Entry>) = case.entries.iter().partition(|entry| entry.row() % share == 0);
                    let mut child = builder.empty();
                    // What was left there from before must not matter.
                    child.tiles_mut().iter_mut().for_each(|tile| tile.fill([77; LANES]));
                    builder.build(&small, &mut child);
                    case.check(&builder, &child, &small);
                    if !parent.wide {
                        let mut other = builder.empty();
                        builder.build(&case.entries, &mut other);
                        builder.subtract_rows(&mut other, &small);
                        case.check(&builder, &other, &large);
                    }
                    builder.subtract(&mut parent, &child, large.len());
                    case.check(&builder, &parent, &large);
                }
            }
        }
    }
}

#[test]
fn every_level_adds_the_same() {
    let mut rng = Rng::seeded(2);
    let fields = Fields::COARSE;
    let word = |rng: &mut Rng| fields.pack(rng.below(1 << 24) as i64 - (1 << 23), rng.below(1 << 25), rng.below(4_000));
    let packed: Vec<Lanes> = (0..37).map(|_| std::array::from_fn(|_| word(&mut rng))).collect();
    let wide: Vec<Lanes> = (0..37).map(|_| std::array::from_fn(|_| Sums::wide(1 << 33, 5_000 + rng.below(1_000)))).collect();
    let run = |level: Level| {
        let (mut gradients, mut rest, mut cells) = (packed.clone(), wide.clone(), packed.clone());
        add_words(level, &mut gradients, &wide);
        take_words(level, &mut cells, &wide);
        spill(level, &fields, &mut packed.clone(), &mut gradients, &mut rest);
        take_packed(level, &fields, &mut gradients, &mut rest, &packed);
        let back = (gradients.clone(), rest.clone());
        pack(level, &fields, &mut gradients, &rest);
        (gradients, cells, back)
    };
    let expected = run(Level::all()[0]);
    for level in Level::all() {
        assert!(run(level) == expected, "{level:?}");
    }
}
