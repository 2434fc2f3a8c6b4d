//! Fits once on arrays of numpy and prints what it cost and how good it is, as JSON: Kilter's side of `bench/learner`.
//!
//! ```text
//! fit FOLDER '{"trees": 100}' REPEATS       parameters of a learner, of "gbdt" where they name no "kind"; FOLDER has x_train.npy, y_train.npy, x_test.npy, y_test.npy of 32-bit floats
//! ```
//! The clock starts with the matrix in memory. Peak memory is what the fit adds to it.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::fs;
use std::time::Instant;

use kilter_learn::{Learner, TrainingSet, metrics};
use npy::{labels, matrix};

mod npy;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, parameters, repeats] = arguments.as_slice() else { return Err("fit FOLDER PARAMETERS REPEATS".into()) };
    let mut parameters: serde_json::Map<String, serde_json::Value> = serde_json::from_str(parameters)?;
    parameters.entry("kind").or_insert("gbdt".into());
    let learner: Learner = serde_json::from_value(parameters.into())?;
    let train = TrainingSet::new(matrix(&format!("{folder}/x_train.npy"))?, labels(&format!("{folder}/y_train.npy"))?);
    // Threads are started before the clock, as a service has them.
    rayon::broadcast(|_| ());
    let before = memory("VmRSS:");
    fs::write("/proc/self/clear_refs", "5")?;
    let mut walls = Vec::new();
    let mut model = None;
    let cpu = cpu_seconds();
    for _ in 0..repeats.parse()? {
        let started = Instant::now();
        model = Some(learner.fit(&train)?);
        walls.push(started.elapsed().as_secs_f64());
    }
    let cpu = (cpu_seconds() - cpu) / walls.len() as f64;
    let added = memory("VmHWM:").saturating_sub(before);
    walls.sort_by(f64::total_cmp);
    let model = model.ok_or("no repeat")?;
    let (x, y) = (matrix(&format!("{folder}/x_test.npy"))?, labels(&format!("{folder}/y_test.npy"))?);
    let mut row = Vec::new();
    let probabilities: Vec<f64> = (0..x.rows())
        .map(|i| {
            x.row(i, &mut row);
            model.probability(&row)
        })
        .collect();
    let result = serde_json::json!({
        "wall": walls[walls.len() / 2], "cpu": cpu, "added_mib": added / 1024,
        "auc": metrics::auc(&probabilities, &y), "log_loss": metrics::log_loss(&probabilities, &y),
        "model_bytes": model.to_bytes().len(),
    });
    println!("{result}");
    Ok(())
}

/// A line of this process's status, in KiB.
fn memory(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default();
    value.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
