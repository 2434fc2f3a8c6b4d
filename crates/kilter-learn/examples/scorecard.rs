//! Times a scorecard on a CSV file (label in the last column, empty cells missing), for `bench/scorecard`; prints JSON.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Instant;

use kilter_learn::{Matrix, Model, Scorecard, TrainingSet, metrics, scorecard};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, rounds] = arguments.as_slice() else { return Err("scorecard FILE ROUNDS".into()) };
    let set = read(&std::fs::read_to_string(path)?)?;
    let parameters = Scorecard { min_iv: 0.0, ..Scorecard::default() };
    let mut seconds = Vec::new();
    for _ in 0..rounds.parse::<usize>()? {
        let started = Instant::now();
        let model = scorecard::fit(&set, &parameters)?;
        seconds.push(started.elapsed().as_secs_f64());
        drop(model);
    }
    let model = scorecard::fit(&set, &parameters)?;
    let mut rows = vec![Vec::new(); set.rows()];
    rows.iter_mut().enumerate().for_each(|(at, row)| set.matrix.row(at, row));
    let margins: Vec<f64> = rows.iter().map(|row| model.margin(row)).collect();
    let started = Instant::now();
    let sum: f64 = (0..20).map(|_| rows.iter().filter_map(|row| model.points(row)).sum::<f64>()).sum();
    let nanoseconds = started.elapsed().as_secs_f64() * 1e9 / (20 * rows.len()) as f64;
    let describe = model.describe();
    let result = serde_json::json!({
        "seconds": seconds,
        "iv": set.matrix.names().iter().zip(model.information_values()).collect::<std::collections::BTreeMap<_, _>>(),
        "auc": metrics::auc(&margins, &set.labels),
        "points_ns_a_row": nanoseconds,
        "mean_points": sum / (20 * rows.len()) as f64,
        "rounding": describe["report"]["rounding"],
        "left_out": describe["report"]["left_out"],
    });
    println!("{result}");
    Ok(())
}

fn read(text: &str) -> Result<TrainingSet, Box<dyn std::error::Error>> {
    let mut lines = text.lines();
    let mut names: Vec<String> = lines.next().unwrap_or_default().split(',').map(str::to_string).collect();
    names.pop();
    let mut set = TrainingSet::new(Matrix::with_columns(names), Vec::new());
    for line in lines {
        let cell = |cell: &str| if cell.is_empty() { Ok(f64::NAN) } else { cell.parse::<f64>() };
        let mut values = line.split(',').map(cell).collect::<Result<Vec<_>, _>>()?;
        set.labels.extend(values.pop());
        set.matrix.push_row(&values);
    }
    Ok(set)
}
