//! The data a learner sees: named columns of `f64`, NaN meaning missing, and labels beside them.
//!
//! Values are kept as `f64`, exactly as they were pushed, so that a stored row and the same row online are the same bits and get the same
//! score. That costs 8 bytes a value (240 MB for a million rows of 30 columns); a learner that needs less keeps its own compact copy.
//! Storage is by column: growing reallocates one column at a time, and learners read columns.

use std::ops::Range;

use crate::LearnError;

/// Rows of features under named columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    names: Vec<String>,
    columns: Vec<Vec<f64>>,
    rows: usize,
}

impl Matrix {
    pub fn with_columns(names: Vec<String>) -> Self {
        let columns = names.iter().map(|_| Vec::new()).collect();
        Matrix { names, columns, rows: 0 }
    }

    /// Columns under their names, one name each.
    ///
    /// # Panics
    /// When there is another number of names than of columns, or columns differ in length.
    pub fn from_columns(names: Vec<String>, columns: Vec<Vec<f64>>) -> Self {
        assert_eq!(names.len(), columns.len(), "a column has one name");
        let rows = columns.first().map_or(0, Vec::len);
        assert!(columns.iter().all(|column| column.len() == rows), "columns must have one length");
        Matrix { names, columns, rows }
    }

    /// Appends a row; NaN means missing.
    ///
    /// # Panics
    /// When the row has another number of values than there are columns.
    pub fn push_row(&mut self, row: &[f64]) {
        assert_eq!(row.len(), self.columns.len(), "a row must have one value a column");
        self.columns.iter_mut().zip(row).for_each(|(column, &value)| column.push(value));
        self.rows += 1;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn column(&self, column: usize) -> &[f64] {
        &self.columns[column]
    }

    pub fn value(&self, row: usize, column: usize) -> f64 {
        self.columns[column][row]
    }

    /// Replaces the contents of `out` by one row.
    pub fn row(&self, row: usize, out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.columns.iter().map(|column| column[row]));
    }

    /// Puts into a column what is made of each row's position.
    pub fn fill(&mut self, column: usize, value: impl Fn(usize) -> f64) {
        self.columns[column].iter_mut().enumerate().for_each(|(row, at)| *at = value(row));
    }

    /// The given rows, in the given order; a row may be taken more than once.
    pub fn select(&self, rows: &[usize]) -> Matrix {
        let columns = self.columns.iter().map(|column| rows.iter().map(|&row| column[row]).collect()).collect();
        Matrix { names: self.names.clone(), columns, rows: rows.len() }
    }

    /// A range of rows.
    pub fn slice(&self, rows: Range<usize>) -> Matrix {
        let columns = self.columns.iter().map(|column| column[rows.clone()].to_vec()).collect();
        Matrix { names: self.names.clone(), columns, rows: rows.len() }
    }
}

/// A matrix with its outcomes, in time order: learners that hold out rows for validation take the last ones.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSet {
    pub matrix: Matrix,
    /// One a row. What they may be, the learner says: 0 or 1 for a classifier.
    pub labels: Vec<f64>,
    /// How much each row counts; 1 each when `None`.
    pub weights: Option<Vec<f64>>,
}

impl TrainingSet {
    pub fn new(matrix: Matrix, labels: Vec<f64>) -> Self {
        TrainingSet { matrix, labels, weights: None }
    }

    pub fn rows(&self) -> usize {
        self.matrix.rows()
    }

    pub fn positives(&self) -> usize {
        self.labels.iter().filter(|&&label| label == 1.0).count()
    }

    pub fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[row])
    }

    pub fn slice(&self, rows: Range<usize>) -> TrainingSet {
        TrainingSet {
            matrix: self.matrix.slice(rows.clone()),
            labels: self.labels[rows.clone()].to_vec(),
            weights: self.weights.as_ref().map(|weights| weights[rows].to_vec()),
        }
    }

    /// Weights and lengths are what learners rely on.
    pub fn check(&self) -> Result<(), LearnError> {
        if self.matrix.columns() == 0 {
            return Err(LearnError::NoColumns);
        }
        self.check_rows()
    }

    /// The same but for the columns.
    pub(crate) fn check_rows(&self) -> Result<(), LearnError> {
        let rows = self.rows();
        if rows == 0 {
            return Err(LearnError::NoRows);
        }
        if self.labels.len() != rows {
            return Err(LearnError::LengthMismatch { what: "labels", expected: rows, found: self.labels.len() });
        }
        if let Some(weights) = &self.weights {
            if weights.len() != rows {
                return Err(LearnError::LengthMismatch { what: "weights", expected: rows, found: weights.len() });
            }
            if let Some((row, &value)) = weights.iter().enumerate().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
                return Err(LearnError::BadWeight { row, value });
            }
        }
        Ok(())
    }

    /// Every label is what the learner takes; `must` says it in words.
    pub fn check_labels(&self, takes: impl Fn(f64) -> bool, must: &'static str) -> Result<(), LearnError> {
        match self.labels.iter().position(|&label| !takes(label)) {
            Some(row) => Err(LearnError::BadLabel { row, value: self.labels[row], must }),
            None => Ok(()),
        }
    }

    /// Every label is 0 or 1. Says nothing about classes: a validation set may have one only.
    pub fn check_binary(&self) -> Result<(), LearnError> {
        self.check_labels(|label| label == 0.0 || label == 1.0, "0 or 1")
    }

    /// Some row counts.
    pub fn check_some_weight(&self) -> Result<(), LearnError> {
        match (0..self.rows()).any(|row| self.weight(row) > 0.0) {
            true => Ok(()),
            false => Err(LearnError::BadWeight { row: 0, value: 0.0 }),
        }
    }

    /// Both classes are there among the given rows with weight above zero: something can be told apart.
    pub fn check_classes(&self, rows: Range<usize>) -> Result<(), LearnError> {
        // A label between 0 and 1 is some of both.
        let has = |class: f64| rows.clone().any(|row| self.labels[row] != 1.0 - class && self.weight(row) > 0.0);
        match (has(0.0), has(1.0)) {
            (true, true) => Ok(()),
            (false, false) => Err(LearnError::BadWeight { row: rows.start, value: 0.0 }),
            (zeros, _) => Err(LearnError::OneClass { label: u8::from(!zeros), rows: rows.len() }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A training set from rows of features whose last value is the label; columns are named x0, x1, ...
    pub(crate) fn training_set(rows: &[Vec<f64>]) -> TrainingSet {
        let width = rows[0].len() - 1;
        let mut matrix = Matrix::with_columns((0..width).map(|i| format!("x{i}")).collect());
        rows.iter().for_each(|row| matrix.push_row(&row[..width]));
        TrainingSet::new(matrix, rows.iter().map(|row| row[width]).collect())
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        let set = training_set(&[vec![0.1, f64::NAN, 0.0], vec![1e300, -0.0, 1.0], vec![3.0, 4.0, 1.0]]);
        let mut row = vec![9.0; 7];
        set.matrix.row(0, &mut row);
        assert!(row.len() == 2 && row[0].to_bits() == 0.1f64.to_bits() && row[1].is_nan());
        assert_eq!(set.matrix.select(&[2, 1, 2]).column(0), &[3.0, 1e300, 3.0]);
        assert_eq!(set.matrix.slice(1..3).column(0), &[1e300, 3.0]);
        assert_eq!((set.positives(), set.slice(2..3).labels), (2, vec![1.0]));
    }

    #[test]
    fn bad_sets_say_what_is_wrong() {
        let good = training_set(&[vec![1.0, 0.0], vec![2.0, 1.0]]);
        assert_eq!((good.check(), good.check_binary()), (Ok(()), Ok(())));
        let with_label = |label: f64| TrainingSet { labels: vec![0.0, label], ..good.clone() };
        assert!(matches!(with_label(f64::NAN).check_binary(), Err(LearnError::BadLabel { row: 1, .. })));
        assert_eq!(with_label(2.0).check_binary(), Err(LearnError::BadLabel { row: 1, value: 2.0, must: "0 or 1" }));
        assert_eq!(with_label(0.0).check_classes(0..2), Err(LearnError::OneClass { label: 0, rows: 2 }));
        let short = TrainingSet { labels: vec![1.0], ..good.clone() };
        assert_eq!(short.check(), Err(LearnError::LengthMismatch { what: "labels", expected: 2, found: 1 }));
        let weighted = |weights: Vec<f64>| TrainingSet { weights: Some(weights), ..good.clone() };
        assert_eq!(weighted(vec![1.0, -1.0]).check(), Err(LearnError::BadWeight { row: 1, value: -1.0 }));
        assert_eq!(weighted(vec![1.0]).check(), Err(LearnError::LengthMismatch { what: "weights", expected: 2, found: 1 }));
        assert_eq!(weighted(vec![1.0, 0.0]).check_classes(0..2), Err(LearnError::OneClass { label: 0, rows: 2 }));
        assert_eq!(TrainingSet::new(Matrix::with_columns(vec![]), vec![]).check(), Err(LearnError::NoColumns));
        assert_eq!(good.slice(0..0).check(), Err(LearnError::NoRows));
    }
}
