//! Scores rows with a model from elsewhere, for `crosscheck/models`: not a program for users.
//!
//!   exchange score MODEL ROWS OUT     margin and probability of each row; rows are 64-bit floats, little-endian, as many as the model has inputs
//!   exchange explain MODEL ROWS OUT   for each row the base and the contributions
//!
//! The model is imported, saved as Kilter's own file, and loaded again before it scores.

#![allow(clippy::disallowed_methods, reason = "a program of the rim that lives beside its library")]

use kilter_learn::{Model, exchange, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, model, rows, out] = arguments.as_slice() else { return Err("usage: exchange score|explain MODEL ROWS OUT".into()) };
    let model = load(&exchange::import(&std::fs::read(model)?)?.to_bytes())?;
    let bytes = std::fs::read(rows)?;
    let values: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
    let mut answers = Vec::new();
    let mut contributions = Vec::new();
    for row in values.chunks_exact(model.inputs().len()) {
        match task.as_str() {
            "score" => answers.extend([model.margin(row), model.probability(row)]),
            _ => {
                answers.push(model.explain(row, &mut contributions));
                answers.extend_from_slice(&contributions);
            }
        }
    }
    std::fs::write(out, answers.iter().flat_map(|answer| answer.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
