//! Scores rows with a model from elsewhere, and writes one for elsewhere, for `crosscheck/models`: not a program for users.
//!
//! ```text
//! exchange score MODEL ROWS OUT            margin and prediction of each row
//! exchange points MODEL ROWS OUT           points of each row
//! exchange explain MODEL ROWS OUT          for each row the base and the contributions
//! exchange learn LEARNER WIDTH ROWS OUT    learns from rows whose last value is the label; OUT.kltm is the model, and its exports lie beside it
//! ```
//! LEARNER is JSON: `{"kind": "gbdt", "trees": 60}`; `{"linear": {…}}` is a linear regression.
//!
//! Rows are 64-bit floats, little-endian, as many to a row as the model has inputs, or WIDTH. A model is read, saved as Kilter's own file, and
//! loaded again before it scores.

#![allow(clippy::disallowed_methods, reason = "a program of the rim that lives beside its library")]

use std::error::Error;
use std::io::Write;

use kilter_learn::exchange::Format;
use kilter_learn::{Learner, Linear, Matrix, Model, TrainingSet, exchange, linear, load};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["score", model, rows, out] => {
            answer(model, rows, out, |model, row, answers| answers.extend([model.margin(row), model.predict(row)]))
        }
        ["points", model, rows, out] => answer(model, rows, out, |model, row, answers| answers.extend(model.points(row))),
        ["explain", model, rows, out] => answer(model, rows, out, |model, row, answers| {
            let mut contributions = Vec::new();
            answers.push(model.explain(row, &mut contributions));
            answers.extend(contributions);
        }),
        ["learn", learner, width, rows, out] => learn(learner, width.parse()?, rows, out),
        _ => Err("usage: exchange score|points|explain MODEL ROWS OUT, or exchange learn LEARNER WIDTH ROWS OUT".into()),
    }
}

fn answer(model: &str, rows: &str, out: &str, each: impl Fn(&dyn Model, &[f64], &mut Vec<f64>)) -> Result<(), Box<dyn Error>> {
    let model = load(&exchange::open(&std::fs::read(model)?)?.to_bytes())?;
    let mut answers = Vec::new();
    for row in numbers(rows)?.chunks_exact(model.inputs().len()) {
        each(model.as_ref(), row, &mut answers);
    }
    std::fs::write(out, answers.iter().flat_map(|answer| answer.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Lesson {
    Linear { linear: Linear },
    Registered(Box<Learner>),
}

fn learn(learner: &str, width: usize, rows: &str, out: &str) -> Result<(), Box<dyn Error>> {
    let values = numbers(rows)?;
    let column = |at: usize| values.chunks_exact(width).map(|row| row[at]).collect::<Vec<f64>>();
    let names = (0..width - 1).map(|at| format!("x{at}")).collect();
    let set = TrainingSet::new(Matrix::from_columns(names, (0..width - 1).map(column).collect()), column(width - 1));
    let model = match serde_json::from_str(learner)? {
        Lesson::Linear { linear: parameters } => linear::fit(&set, &parameters)?.to_bytes(),
        Lesson::Registered(learner) => learner.fit(&set)?.to_bytes(),
    };
    let mut written = Vec::new();
    for &format in Format::WRITTEN {
        // What a format has no way to write is told; here the others count.
        if let Ok(bytes) = exchange::export(&model, format) {
            std::fs::write(format!("{out}.{}", format.ending()), bytes)?;
            written.push(format.name());
        }
    }
    std::fs::write(format!("{out}.kltm"), model)?;
    writeln!(std::io::stdout(), "{}", written.join(" "))?;
    Ok(())
}

fn numbers(path: &str) -> Result<Vec<f64>, Box<dyn Error>> {
    Ok(std::fs::read(path)?.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}
