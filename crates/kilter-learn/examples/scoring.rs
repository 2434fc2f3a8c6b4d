//! Times scoring and explaining by one forest and prints the figures as JSON: Kilter's side of `bench/scoring`.
//!
//! ```text
//! scoring FOLDER TREES LEAVES [portable|avx2]       FOLDER has x_train.npy, y_train.npy, x_test.npy of 32-bit floats; the model is made at the first time
//! ```
//! With a level the trees alone are scored, with no more of the processor than that.
//!
//! All on one thread. One row: wall nanoseconds of each call, 2 000 rows in turn. Many rows and explanations: CPU seconds.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

mod npy;

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use kilter_learn::calibration::{Calibration, Method};
use kilter_learn::gbdt::Level;
use kilter_learn::{Gbdt, Model, Reasons, TrainingSet, calibrate, gbdt, load};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, trees, leaves, level @ ..] = arguments.as_slice() else {
        return Err("scoring FOLDER TREES LEAVES [portable|avx2]".into());
    };
    let matrix = npy::matrix(&format!("{folder}/x_test.npy"))?;
    let mut model = model(folder, trees.parse()?, leaves.parse()?)?;
    if let [level] = level {
        let level = match level.as_str() {
            "portable" => Level::Portable,
            "avx2" => Level::Avx2,
            other => return Err(format!("the level `{other}` is neither portable nor avx2").into()),
        };
        let trees = model.uncalibrated().ok_or("the model kept beside the data is not calibrated: remove it")?.to_bytes();
        model = Box::new(gbdt::open(&trees)?.limited_to(level));
    }
    let rows: Vec<Vec<f64>> = (0..2000.min(matrix.rows()))
        .map(|r| {
            let mut row = Vec::new();
            matrix.row(r, &mut row);
            row
        })
        .collect();
    let mut reasons = Reasons::default();
    let (one_p50, one_p99) = one_by_one(&rows, 30, |row| {
        black_box(model.margin(row));
    });
    let (decide_p50, decide_p99) = one_by_one(&rows, 3, |row| {
        black_box(model.score(row, 4, &mut reasons));
    });
    let few = matrix.slice(0..rows.len());
    let result = serde_json::json!({
        "one_p50_us": one_p50, "one_p99_us": one_p99, "decide_p50_us": decide_p50, "decide_p99_us": decide_p99,
        "batch_rows_s": rate(matrix.rows(), || { black_box(model.margins(&matrix)); }),
        "shap_rows_s": rate(few.rows(), || { black_box(model.explanations(&few)); }),
    });
    println!("{result}");
    Ok(())
}

/// The model of before, or a new one beside the data.
fn model(folder: &str, trees: usize, leaves: usize) -> Result<Box<dyn Model>, Box<dyn Error>> {
    let path = format!("{folder}/kilter-{trees}x{leaves}.kltm");
    if let Ok(bytes) = fs::read(&path) {
        return Ok(load(&bytes)?);
    }
    let parameters = Gbdt { trees, leaves, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() };
    let mut labels = npy::labels(&format!("{folder}/y_train.npy"))?;
    let all = npy::matrix(&format!("{folder}/x_train.npy"))?;
    let count = all.rows().min(200_000);
    labels.truncate(count);
    let train = TrainingSet::new(all.slice(0..count), labels);
    let trees = Box::new(gbdt::fit(&train, &parameters)?);
    let model = calibrate(trees, &train.slice(0..20_000.min(count)), &Calibration { method: Method::Platt, target_rate: None })?;
    fs::write(&path, model.to_bytes())?;
    Ok(Box::new(model))
}

/// Median and 99th percentile of one call, in microseconds, less what looking at the clock takes.
fn one_by_one(rows: &[Vec<f64>], repeats: usize, mut call: impl FnMut(&[f64])) -> (f64, f64) {
    let timed = |call: &mut dyn FnMut(&[f64])| {
        let mut nanoseconds = Vec::with_capacity(rows.len() * repeats);
        for row in (0..repeats).flat_map(|_| rows) {
            let started = Instant::now();
            call(row);
            nanoseconds.push(started.elapsed().as_nanos() as f64);
        }
        nanoseconds.sort_by(f64::total_cmp);
        let at = |share: f64| nanoseconds[(share * nanoseconds.len() as f64) as usize];
        (at(0.5), at(0.99))
    };
    let (clock, _) = timed(&mut |row| {
        black_box(row);
    });
    let (p50, p99) = timed(&mut call);
    ((p50 - clock) / 1e3, (p99 - clock) / 1e3)
}

/// Rows a CPU second, of at least half a second of work.
fn rate(rows: usize, mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut done) = (cpu_seconds(), 0);
    while cpu_seconds() - start < 0.5 {
        call();
        done += rows;
    }
    done as f64 / (cpu_seconds() - start)
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
