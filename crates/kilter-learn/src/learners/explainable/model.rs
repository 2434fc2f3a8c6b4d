//! An additive model as a [`Model`].

use serde::{Deserialize, Serialize};

use super::super::gbdt::binned::{Binned, Cuts};
use super::{Explainable, KIND, Tables, Target};
use crate::format::{Header, Reader, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model, explain};

/// A table over the bins of one column. Bin 0 holds missing values; bin b what is above bound b - 2, up to and including bound b - 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    /// Ascending bounds between neighbouring bins.
    pub edges: Vec<f64>,
    pub values: Vec<f64>,
    /// Of the training rows in each bin.
    pub weights: Vec<f64>,
}

/// A table over the bins of two columns, row by row of the first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub columns: [usize; 2],
    pub edges: [Vec<f64>; 2],
    pub values: Vec<f64>,
    /// Of the training rows in each cell; not kept in a file.
    pub weights: Vec<f64>,
}

/// A fitted additive model.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainableModel {
    inputs: Vec<String>,
    parameters: Explainable,
    report: Report,
    pub(super) tables: Tables,
}

/// How training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rows: usize,
    pub positives: Option<usize>,
    /// Of each bag: after how many rounds the rows held out were predicted best.
    pub rounds: Vec<usize>,
    pub rounds_of_pairs: Vec<usize>,
    /// Mean over the bags of the loss on the rows held out.
    pub validation_loss: f64,
    pub validation_loss_without_pairs: f64,
    /// How much each column's table moves the margin of the training rows, on average.
    pub weights: Vec<f64>,
    pub pair_weights: Vec<f64>,
}

/// One term's part of a margin.
#[derive(Clone, Debug, PartialEq)]
pub struct TermValue {
    /// One input, or two.
    pub inputs: Vec<usize>,
    pub value: f64,
}

#[inline]
fn bin_of(edges: &[f64], value: f64) -> usize {
    if value.is_nan() { 0 } else { 1 + edges.partition_point(|&edge| edge < value) }
}

impl Column {
    pub fn new(bins: &[u8], cuts: &Cuts, weights: &[f64]) -> Column {
        let edges: Vec<f64> = (1..cuts.last_bin()).map(|bin| cuts.upper(bin)).collect();
        let mut of_bins = vec![0.0; edges.len() + 2];
        bins.iter().zip(weights).for_each(|(&bin, weight)| of_bins[usize::from(bin)] += weight);
        Column { values: vec![0.0; edges.len() + 2], edges, weights: of_bins }
    }

    /// Whether training rows are in more than one bin.
    pub fn varies(&self) -> bool {
        self.weights.iter().filter(|&&weight| weight > 0.0).count() > 1
    }

    pub fn spread(&self) -> f64 {
        spread(&self.values, &self.weights)
    }

    fn value(&self, of: f64) -> f64 {
        self.values[bin_of(&self.edges, of)]
    }
}

fn spread(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value.abs() * weight).sum::<f64>() / weights.iter().sum::<f64>()
}

impl Pair {
    pub fn empty(columns: [usize; 2], edges: [Vec<f64>; 2]) -> Pair {
        let cells = (edges[0].len() + 2) * (edges[1].len() + 2);
        Pair { columns, edges, values: vec![0.0; cells], weights: vec![0.0; cells] }
    }

    pub fn width(&self) -> usize {
        self.edges[1].len() + 2
    }

    pub fn spread(&self) -> f64 {
        spread(&self.values, &self.weights)
    }

    /// The coarse bin of each bin of both columns, whose bounds hold those of the pair.
    pub fn maps(&self, columns: &[Column]) -> [Vec<u16>; 2] {
        std::array::from_fn(|axis| {
            let fine = &columns[self.columns[axis]].edges;
            let coarse = |bin: usize| match bin {
                0 => 0,
                bin => bin_of(&self.edges[axis], fine.get(bin - 1).copied().unwrap_or(f64::INFINITY)) as u16,
            };
            (0..fine.len() + 2).map(coarse).collect()
        })
    }

    /// The cell of each row.
    pub fn places(&self, columns: &[Column], binned: &Binned<'_>) -> Vec<u16> {
        let [first, second] = self.maps(columns);
        let width = self.width() as u16;
        let bins = binned.by_column[self.columns[0]].iter().zip(binned.by_column[self.columns[1]].iter());
        bins.map(|(&a, &b)| first[usize::from(a)] * width + second[usize::from(b)]).collect()
    }

    fn value(&self, of: [f64; 2]) -> f64 {
        let [row, column] = std::array::from_fn(|axis| bin_of(&self.edges[axis], of[axis]));
        self.values[row * self.width() + column]
    }
}

impl ExplainableModel {
    pub(super) fn new(inputs: Vec<String>, parameters: Explainable, report: Report, tables: Tables) -> Self {
        ExplainableModel { inputs, parameters, report, tables }
    }

    pub fn parameters(&self) -> &Explainable {
        &self.parameters
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The margin of a row that is average in all terms.
    pub fn intercept(&self) -> f64 {
        self.tables.intercept
    }

    /// Both inputs of each pair, the one that promised most first.
    pub fn pairs(&self) -> Vec<[usize; 2]> {
        self.tables.pairs.iter().map(|pair| pair.columns).collect()
    }

    /// An input's table: the bounds between its bins, and the value of missing ones and then of each bin.
    pub fn table(&self, input: usize) -> (&[f64], &[f64]) {
        (&self.tables.columns[input].edges, &self.tables.columns[input].values)
    }

    /// What each term adds to the intercept: all inputs in order, then the pairs. Their sum with it is the margin.
    pub fn terms(&self, row: &[f64]) -> Vec<TermValue> {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let columns = self.tables.columns.iter().enumerate();
        let singles = columns.map(|(input, column)| TermValue { inputs: vec![input], value: column.value(row[input]) });
        let pairs = self.tables.pairs.iter();
        let pairs = pairs.map(|pair| TermValue { inputs: pair.columns.to_vec(), value: pair.value(pair.columns.map(|c| row[c])) });
        singles.chain(pairs).collect()
    }
}

impl Model for ExplainableModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        match self.parameters.target {
            Target::Binary => Link::Logit,
            Target::Mean => Link::Identity,
        }
    }

    fn margin(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        let singles = self.tables.columns.iter().zip(row);
        let margin = singles.fold(self.tables.intercept, |margin, (column, &value)| margin + column.value(value));
        self.tables.pairs.iter().fold(margin, |margin, pair| margin + pair.value(pair.columns.map(|column| row[column])))
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs.len(), "a matrix must have one column an input");
        let mut margins = vec![self.tables.intercept; matrix.rows()];
        for (at, column) in self.tables.columns.iter().enumerate() {
            margins.iter_mut().zip(matrix.column(at)).for_each(|(margin, &value)| *margin += column.value(value));
        }
        for pair in &self.tables.pairs {
            let [a, b] = pair.columns.map(|column| matrix.column(column));
            margins.iter_mut().zip(a.iter().zip(b)).for_each(|(margin, (&a, &b))| *margin += pair.value([a, b]));
        }
        margins
    }

    /// Exact: an input's is its table's value and half of those of its pairs. The base is the mean over the training rows.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs.len(), "a row must have one value an input");
        contributions.clear();
        contributions.extend(self.tables.columns.iter().zip(row).map(|(column, &value)| column.value(value)));
        for pair in &self.tables.pairs {
            let half = 0.5 * pair.value(pair.columns.map(|column| row[column]));
            pair.columns.iter().for_each(|&column| contributions[column] += half);
        }
        self.tables.intercept
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        Some(explain::of_pairs(self, row, reference, contributions))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.f64(self.tables.intercept);
        for column in &self.tables.columns {
            write_edges(&mut body, &column.edges);
            body.f64s(&column.values);
            body.f64s(&column.weights);
        }
        body.u32(self.tables.pairs.len() as u32);
        for pair in &self.tables.pairs {
            pair.columns.iter().for_each(|&column| body.u32(column as u32));
            pair.edges.iter().for_each(|edges| write_edges(&mut body, edges));
            body.f64s(&pair.values);
        }
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// How much an input moves the margin of the training rows on average, with half of what its pairs do.
    fn importance(&self) -> Vec<f64> {
        let mut importance = self.report.weights.clone();
        for (pair, weight) in self.tables.pairs.iter().zip(&self.report.pair_weights) {
            pair.columns.iter().for_each(|&column| importance[column] += 0.5 * weight);
        }
        importance
    }

    fn describe(&self) -> serde_json::Value {
        let columns = self.inputs.iter().zip(&self.tables.columns).zip(&self.report.weights);
        let terms: Vec<_> = columns
            .map(|((name, column), weight)| {
                serde_json::json!({
                    "input": name,
                    "weight": weight,
                    "bounds": column.edges,
                    "missing": column.values[0],
                    "values": column.values[1..],
                })
            })
            .collect();
        let pairs = self.tables.pairs.iter().zip(&self.report.pair_weights);
        let pairs: Vec<_> =
            pairs.map(|(pair, weight)| serde_json::json!({ "inputs": pair.columns.map(|c| &self.inputs[c]), "weight": weight })).collect();
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept": self.tables.intercept,
            "terms": terms,
            "pairs": pairs,
        })
    }
}

fn write_edges(body: &mut Writer, edges: &[f64]) {
    body.u32(edges.len() as u32);
    body.f64s(edges);
}

fn read_edges(body: &mut Reader<'_>) -> Result<Vec<f64>, LearnError> {
    let count = body.u32()? as usize;
    let edges = body.f64s(count)?;
    let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]) && !edges.iter().any(|edge| edge.is_nan());
    if ascending { Ok(edges) } else { Err(LearnError::corrupt("bounds of bins that do not ascend")) }
}

fn read_finite(body: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, LearnError> {
    let values = body.f64s(count)?;
    if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(LearnError::corrupt("a value that is not finite")) }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Explainable, Report>()?;
    if inputs.is_empty() {
        return Err(LearnError::corrupt("it has no inputs"));
    }
    let mut body = sealed.body();
    let intercept = read_finite(&mut body, 1)?[0];
    let mut columns = Vec::new();
    for _ in &inputs {
        let edges = read_edges(&mut body)?;
        let cells = edges.len() + 2;
        columns.push(Column { values: read_finite(&mut body, cells)?, weights: read_finite(&mut body, cells)?, edges });
    }
    let count = body.u32()? as usize;
    body.room_for(count, 16)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let of = [body.u32()? as usize, body.u32()? as usize];
        let edges = [read_edges(&mut body)?, read_edges(&mut body)?];
        if of[0] == of[1] || of.iter().any(|&column| column >= inputs.len()) {
            return Err(LearnError::corrupt("a pair of unknown inputs"));
        }
        let cells = (edges[0].len() + 2).saturating_mul(edges[1].len() + 2);
        let values = read_finite(&mut body, cells)?;
        pairs.push(Pair { columns: of, edges, values, weights: Vec::new() });
    }
    body.end()?;
    if report.weights.len() != inputs.len() || report.pair_weights.len() != pairs.len() {
        return Err(LearnError::corrupt("its report is of another model"));
    }
    Ok(Box::new(ExplainableModel { inputs, parameters, report, tables: Tables { intercept, columns, pairs } }))
}
