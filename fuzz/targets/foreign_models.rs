//! A model file of another program: refused, or a model that scores, explains itself to its margin, and is saved as the same bytes again.
#![no_main]

use kilter_learn::{Model, exchange, load};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(model) = exchange::import(data) else { return };
    let saved = load(&model.to_bytes()).expect("what was saved is read again");
    assert_eq!(model.to_bytes(), saved.to_bytes());
    for value in [f64::NAN, 0.0, -0.5, 3.0, 1e300, f64::INFINITY] {
        let row = vec![value; model.inputs().len()];
        assert_eq!(model.margin(&row).to_bits(), saved.margin(&row).to_bits());
        let mut contributions = Vec::new();
        let sum = model.explain(&row, &mut contributions) + contributions.iter().sum::<f64>();
        // Leaves of 1e300 leave no nine digits below them.
        let largest = contributions.iter().fold(1.0f64, |largest, c| largest.max(c.abs()));
        assert!(!(sum - model.margin(&row)).is_finite() || (sum - model.margin(&row)).abs() <= 1e-6 * largest.max(model.margin(&row).abs()));
    }
});
