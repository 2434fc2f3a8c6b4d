//! A model file of Kilter's own but for its checksum, which is put right here: refused, or a model that is saved as the same bytes again, and scores
//! and explains itself without a panic, the same before and after.
#![no_main]

use kilter_fuzz::with_model_checksum;
use kilter_learn::exchange::{Opened, open_any};
use kilter_learn::{Matrix, Model, load, load_classes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match open_any(&with_model_checksum(data)) {
    Ok(Opened::One(model)) => {
        let bytes = model.to_bytes();
        let saved = load(&bytes).expect("what was saved is read again");
        assert_eq!(bytes, saved.to_bytes());
        one_model(model.as_ref(), saved.as_ref());
    }
    Ok(Opened::Classes(model)) => {
        let bytes = model.to_bytes();
        let saved = load_classes(&bytes).expect("what was saved is read again");
        assert_eq!(bytes, saved.to_bytes());
        (0..model.classes().len()).for_each(|class| one_model(model.member(class), saved.member(class)));
        let mut probabilities = Vec::new();
        model.probabilities(&vec![0.5; model.inputs().len()], &mut probabilities);
        let _ = (model.describe(), model.importance());
    }
    Err(refused) => assert!(!refused.to_string().is_empty()),
});

fn one_model(model: &dyn Model, saved: &dyn Model) {
    let mut matrix = Matrix::with_columns(model.inputs().to_vec());
    for value in [f64::NAN, 0.0, -0.5, 3.0, 1e300, f64::INFINITY, f64::NEG_INFINITY] {
        matrix.push_row(&vec![value; model.inputs().len()]);
    }
    let (margins, mut row) = (model.margins(&matrix), Vec::new());
    for (at, margin) in margins.iter().enumerate() {
        matrix.row(at, &mut row);
        assert_eq!(margin.to_bits(), model.margin(&row).to_bits());
        assert_eq!(margin.to_bits(), saved.margin(&row).to_bits());
        let _ = (model.explain(&row, &mut Vec::new()), model.points(&row));
    }
    let _ = (model.describe(), model.importance());
}
