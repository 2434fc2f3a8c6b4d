//! Boosted trees from more rows than fit into memory.
//!
//! The rows come in batches, twice. The first time their labels, weights and categories are kept, and the sample that the cuts are placed by. The
//! second time each value becomes the number of its bin. From then on a fit reads nothing but bins: two bytes a value (by column and by row), in room
//! that the caller lends, which may be a file mapped into memory. Beside it a fit holds some 50 bytes a row and the sample, 200 000 rows at most.
//!
//! The model is the one of all rows at once, to the byte.

use super::binned::{self, Binned, Column, Cuts};
use super::boost::{self, Ready, Scored};
use super::by_row::ByRow;
use super::categories::{Columns, Encoded, Encoders};
use super::course::{Course, Goal, Part};
use super::{Gbdt, GbdtModel, rows_before_validation};
use crate::{LearnError, Matrix, TrainingSet};

/// Rows that come in batches, in time order, as often as they are asked for.
pub trait Batches {
    fn names(&self) -> &[String];

    /// Rows of all batches together.
    fn rows(&self) -> usize;

    /// Hands one batch after the other to `take`, the same each time it is called.
    fn each(&mut self, take: &mut Take<'_>) -> Result<(), LearnError>;
}

/// What takes a batch; an error ends the reading.
pub type Take<'a> = dyn FnMut(&TrainingSet) -> Result<(), LearnError> + Send + 'a;

/// Bytes of room that a fit of so many rows and columns works in.
pub fn room(rows: usize, columns: usize) -> usize {
    rows * columns + ByRow::room(rows, columns)
}

/// Trains on rows that come in batches; with `early_stopping`, the last of them are held out. `lent` has at least [`room`] bytes.
pub fn fit_batches(batches: &mut dyn Batches, parameters: &Gbdt, lent: &mut [u8]) -> Result<GbdtModel, LearnError> {
    let (names, rows) = (batches.names().to_vec(), batches.rows());
    parameters.check_one_output()?;
    parameters.check(names.len())?;
    if names.is_empty() {
        return Err(LearnError::NoColumns);
    }
    if rows == 0 {
        return Err(LearnError::NoRows);
    }
    let needed = room(rows, names.len());
    if lent.len() < needed {
        return Err(LearnError::LengthMismatch { what: "bytes of room", expected: needed, found: lent.len() });
    }
    let training = if parameters.early_stopping.is_some() { rows_before_validation(rows, parameters)? } else { rows };
    // Before so many rows are read.
    boost::check_count(training)?;
    let (kept, sample) = Kept::read(batches, &names, training, parameters)?;
    kept.set.check_rows()?;
    parameters.objective.check_labels(&kept.set)?;
    Course::default().check(&kept.set, parameters)?;
    boost::check(&kept.set, 0..training, parameters)?;

    let Cut { encoders, encoded, cuts, is_categories } = kept.cut(sample, training, parameters)?;
    let (by_column, by_row) = lent.split_at_mut(rows * names.len());
    let mut columns: Vec<&mut [u8]> = by_column.chunks_exact_mut(rows).collect();
    bin(batches, &names, rows, &cuts, &mut columns)?;
    for (place, &column) in kept.categories.iter().enumerate() {
        let (own, held_out) = columns[column].split_at_mut(training);
        binned::bin_column(encoded[0].column(place), &cuts[column], own);
        binned::bin_column(encoded[1].column(place), &cuts[column], held_out);
    }
    let columns: Vec<&[u8]> = columns.into_iter().map(|column| &*column).collect();
    let part = |part: std::ops::Range<usize>| Binned {
        rows: part.len(),
        by_column: columns.iter().map(|column| Column::Borrowed(&column[part.clone()])).collect(),
    };
    let own = part(0..training);
    let by_row = ByRow::within(by_row, &own.by_column, |column| cuts[column].last_bin());
    let goal = Goal::default();
    let rows_of = |rows| Part { set: &kept.set, rows, queries: &[] };
    let ready = Ready {
        names: &names,
        encoders,
        cuts: &cuts,
        is_categories: &is_categories,
        by_row: &by_row,
        training: Scored::new(&rows_of(0..training), own, parameters, &goal),
        validation: (training < rows).then(|| Scored::new(&rows_of(training..rows), part(training..rows), parameters, &goal)),
    };
    boost::on_threads(rows * names.len(), || boost::grow_trees(ready, parameters, &goal))
}

/// How columns are cut, and what trees see of those of categories: of the rows trained on, then of those held out.
struct Cut<'a> {
    encoders: Encoders,
    encoded: [Encoded<'a>; 2],
    cuts: Vec<Cuts>,
    is_categories: Vec<bool>,
}

/// What a fit keeps of the rows themselves.
struct Kept {
    /// Labels and weights, and the columns of categories.
    set: TrainingSet,
    /// Numbers of these columns, upwards.
    categories: Vec<usize>,
}

/// Of each column but those of categories the values in the rows that the cuts are placed by, as `binned::to_ordered` has them.
type Sample = Vec<Vec<u64>>;

impl Kept {
    fn read(batches: &mut dyn Batches, names: &[String], training: usize, parameters: &Gbdt) -> Result<(Self, Sample), LearnError> {
        let is_category = |name: &String| parameters.categorical.contains(name);
        let categories: Vec<usize> = (0..names.len()).filter(|&column| is_category(&names[column])).collect();
        let narrow = categories.iter().map(|&column| names[column].clone()).collect();
        let mut set = TrainingSet::new(Matrix::with_columns(narrow), Vec::with_capacity(batches.rows()));
        let mut sample = vec![Vec::new(); names.len()];
        let picked = binned::sample_rows(training, parameters.seed);
        let (rows, mut at, mut next) = (batches.rows(), 0, 0);
        let mut row = vec![0.0; categories.len()];
        batches.each(&mut |batch| {
            check_batch(batch, names)?;
            if at == 0 {
                set.weights = batch.weights.as_ref().map(|_| Vec::with_capacity(rows));
            }
            if set.weights.is_some() != batch.weights.is_some() {
                return Err(LearnError::Source { what: "some batches have weights and others have none".into() });
            }
            set.labels.extend_from_slice(&batch.labels);
            set.weights.iter_mut().zip(&batch.weights).for_each(|(weights, own)| weights.extend_from_slice(own));
            for own in 0..batch.rows() {
                row.iter_mut().zip(&categories).for_each(|(to, &column)| *to = batch.matrix.value(own, column));
                set.matrix.push_row(&row);
            }
            let until = at + batch.rows();
            let here = match &picked {
                Some(rows) => {
                    let start = next;
                    next += rows[start..].partition_point(|&row| row < until);
                    rows[start..next].iter().map(|&row| row - at).collect()
                }
                None => (0..batch.rows().min(training.saturating_sub(at))).collect::<Vec<_>>(),
            };
            for (column, sample) in sample.iter_mut().enumerate().filter(|(column, _)| !categories.contains(column)) {
                let values = batch.matrix.column(column);
                sample.extend(here.iter().map(|&row| values[row]).filter(|value| !value.is_nan()).map(binned::to_ordered));
            }
            at = until;
            Ok(())
        })?;
        check_count(rows, at)?;
        Ok((Kept { set, categories }, sample))
    }

    fn cut(&self, sample: Sample, training: usize, parameters: &Gbdt) -> Result<Cut<'_>, LearnError> {
        let encoders = Encoders::learn(&self.set, 0..training, parameters)?;
        let number = |place: usize| self.categories[place];
        let (encoded, own_cuts, own_sets) = boost::prepare(&encoders, &self.set, 0..training, parameters, number)?;
        let held_out = encoders.scored(&self.set.matrix, training..self.set.rows());
        let bins = boost::worthwhile_bins(training, parameters.bins);
        let mut is_categories = vec![false; sample.len()];
        let mut cuts: Vec<Cuts> = sample.into_iter().map(|values| Cuts::between(values, bins)).collect();
        for (place, &column) in self.categories.iter().enumerate() {
            cuts[column] = own_cuts[place].clone();
            is_categories[column] = own_sets[place];
        }
        Ok(Cut { encoders: encoders.among(&self.categories), encoded: [encoded, held_out], cuts, is_categories })
    }
}

/// The second reading: every number becomes its bin.
fn bin(batches: &mut dyn Batches, names: &[String], rows: usize, cuts: &[Cuts], columns: &mut [&mut [u8]]) -> Result<(), LearnError> {
    let mut at = 0;
    batches.each(&mut |batch| {
        check_batch(batch, names)?;
        check_count(rows, rows.max(at + batch.rows()))?;
        let of_column = |column: usize, out: &mut [u8]| binned::bin_column(batch.matrix.column(column), &cuts[column], out);
        let parts = columns.iter_mut().map(|column| &mut column[at..at + batch.rows()]).enumerate();
        binned::each_part(batch.rows(), parts.collect(), of_column);
        at += batch.rows();
        Ok(())
    })?;
    check_count(rows, at)
}

fn check_batch(batch: &TrainingSet, names: &[String]) -> Result<(), LearnError> {
    if batch.matrix.names() != names {
        return Err(LearnError::DifferentColumns { training: names.to_vec(), validation: batch.matrix.names().to_vec() });
    }
    let lengths = [("labels", batch.labels.len()), ("weights", batch.weights.as_ref().map_or(batch.rows(), Vec::len))];
    match lengths.into_iter().find(|&(_, found)| found != batch.rows()) {
        Some((what, found)) => Err(LearnError::LengthMismatch { what, expected: batch.rows(), found }),
        None => Ok(()),
    }
}

fn check_count(rows: usize, found: usize) -> Result<(), LearnError> {
    if rows == found {
        return Ok(());
    }
    Err(LearnError::Source { what: format!("{rows} rows were announced, {found} came") })
}

#[cfg(test)]
#[path = "batches_tests.rs"]
mod tests;
