//! Times training, scoring and explaining on made-up data, or judges a fit on CSV files.
//!
//! ```text
//! cargo run --release -p kilter-learn --example measure                           120k rows x 30 columns
//! cargo run --release -p kilter-learn --example measure -- train.csv test.csv     label in the last column, empty cells missing
//! ```
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Instant;

use kilter_learn::{Gbdt, Logistic, Matrix, Model, TrainingSet, gbdt, logistic, metrics};
use kilter_stats::Rng;

fn main() {
    let files: Vec<String> = std::env::args().skip(1).collect();
    match files.as_slice() {
        [train, test] => judge(&read(train), &read(test)),
        _ => time(),
    }
}

fn time() {
    let (train, test) = (synthetic(120_000, 1), synthetic(20_000, 2));
    let parameters = Gbdt { trees: 100, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() };
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        let cpu = cpu_seconds();
        let model = gbdt::fit(&train, &parameters);
        println!("fit 120k x 30, 100 x 31: {:.3} s wall, {:.2} CPU s", started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        best = best.min(started.elapsed().as_secs_f64());
        drop(model);
    }
    let Ok(model) = gbdt::fit(&train, &parameters) else { return };
    let rows: Vec<Vec<f64>> = rows(&test);
    println!(
        "AUC {:.5}, {} bytes, {}",
        metrics::auc(&scores(&model, &rows), &test.labels),
        model.to_bytes().len(),
        model.describe()["deepest"]
    );
    let mut contributions = Vec::new();
    let mut sum = 0.0;
    let mut microseconds = |name: &str, repeats: usize, each: &mut dyn FnMut(&[f64]) -> f64| {
        let cpu = cpu_seconds();
        (0..repeats).for_each(|_| rows.iter().for_each(|row| sum += each(row)));
        println!("{name}: {:.2} CPU us a row", (cpu_seconds() - cpu) * 1e6 / (repeats * rows.len()) as f64);
    };
    microseconds("margin", 100, &mut |row| model.margin(row));
    microseconds("explain", 5, &mut |row| model.explain(row, &mut contributions));
    let cpu = cpu_seconds();
    (0..100).for_each(|_| sum += model.margins(&test.matrix)[0]);
    println!("margins of all: {:.3} CPU us a row", (cpu_seconds() - cpu) * 1e6 / (100 * rows.len()) as f64);
    let cpu = cpu_seconds();
    (0..5).for_each(|_| sum += model.explanations(&test.matrix)[0]);
    println!("explanations of all: {:.2} CPU us a row", (cpu_seconds() - cpu) * 1e6 / (5 * rows.len()) as f64);
    println!("[{sum:.3}]");
}

fn judge(train: &TrainingSet, test: &TrainingSet) {
    let rows = rows(test);
    let report = |name: &str, model: &dyn Model, seconds: f64| {
        let probabilities: Vec<f64> = rows.iter().map(|row| model.probability(row)).collect();
        let e = metrics::evaluate(&probabilities, &test.labels);
        println!(
            "{name:24} AUC {:.5} AP {:.5} log loss {:.5} Brier {:.5} KS {:.4} ({seconds:.2} s)",
            e.auc, e.average_precision, e.log_loss, e.brier, e.ks.value
        );
    };
    let fixed = Gbdt { trees: 100, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() };
    for (name, parameters) in [("gbdt 100 x 31", fixed), ("gbdt defaults", Gbdt::default())] {
        let started = Instant::now();
        if let Ok(model) = gbdt::fit(train, &parameters) {
            report(name, &model, started.elapsed().as_secs_f64());
        }
    }
    let started = Instant::now();
    if let Ok(model) = logistic::fit(train, &Logistic::default()) {
        report("logistic", &model, started.elapsed().as_secs_f64());
    }
}

/// User and system time of this process from Linux's accounting, in seconds; 0 elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn synthetic(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let mut set = TrainingSet::new(Matrix::with_columns((0..30).map(|i| format!("x{i}")).collect()), Vec::new());
    let mut row = vec![0.0; 30];
    for _ in 0..rows {
        row.iter_mut().enumerate().for_each(|(i, x)| *x = if i % 5 == 4 { rng.exponential(1.0) } else { rng.normal() });
        let mut margin = row[0] * row[1] + row[2] * row[3] - row[4] + (row[5] * 2.0).sin() - 1.5;
        margin += (6..30).map(|i| row[i] * 0.1 * ((i % 3) as f64 - 1.0)).sum::<f64>();
        if rng.bernoulli(0.1) {
            row[7] = f64::NAN;
        }
        set.matrix.push_row(&row);
        set.labels.push(f64::from(u8::from(rng.bernoulli(kilter_learn::math::sigmoid(margin)))));
    }
    set
}

fn rows(set: &TrainingSet) -> Vec<Vec<f64>> {
    let take = |row: usize| {
        let mut out = Vec::new();
        set.matrix.row(row, &mut out);
        out
    };
    (0..set.rows()).map(take).collect()
}

fn scores(model: &dyn Model, rows: &[Vec<f64>]) -> Vec<f64> {
    rows.iter().map(|row| model.margin(row)).collect()
}

fn read(path: &str) -> TrainingSet {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    let mut names: Vec<String> = lines.next().unwrap_or_default().split(',').map(str::to_string).collect();
    names.pop();
    let mut set = TrainingSet::new(Matrix::with_columns(names), Vec::new());
    for line in lines {
        let mut values: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
        set.labels.extend(values.pop());
        set.matrix.push_row(&values);
    }
    set
}
