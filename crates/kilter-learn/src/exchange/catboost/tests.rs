//! Files that CatBoost has written, with what it made of some rows (`tests/exchange/make_catboost.py`).

use crate::exchange::{Format, import};
use crate::format::tests::check_damage_is_noticed;
use crate::{Link, Model, load};

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../tests/exchange/catboost-", $name, ".json")),
            include_str!(concat!("../../../tests/exchange/catboost-", $name, ".rows.json")),
        )
    };
}

const GOLDEN: &[(&str, &str, &str)] = &[golden!("oblivious"), golden!("lossguide"), golden!("counts")];

#[derive(serde::Deserialize)]
struct Rows {
    rows: Vec<Vec<Option<f64>>>,
    margins: Vec<f64>,
}

#[test]
fn margins_are_those_of_catboost() {
    for &(name, text, rows) in GOLDEN {
        let model = import(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Format::of(text.as_bytes()), Some(Format::CatBoostJson));
        assert_eq!(model.link(), if name == "counts" { Link::Log } else { Link::Logit });
        assert_eq!((model.inputs().join(" "), model.origin().version.as_str()), ("a b c d".into(), "v1.2.10"));
        let saved = load(&model.to_bytes()).unwrap();
        let Rows { rows, margins } = serde_json::from_str(rows).unwrap();
        assert_eq!(rows.len(), 24);
        for (row, margin) in rows.iter().zip(margins) {
            let row: Vec<f64> = row.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
            // The order in which leaves are added is CatBoost's own.
            assert!(
                (model.margin(&row) - margin).abs() <= 4e-16 * margin.abs().max(1.0),
                "{name}: {} {margin} {row:?}",
                model.margin(&row)
            );
            assert_eq!(saved.margin(&row).to_bits(), model.margin(&row).to_bits());
            let mut contributions = Vec::new();
            let sum = model.explain(&row, &mut contributions) + contributions.iter().sum::<f64>();
            assert!((sum - margin).abs() < 1e-9, "{name}: {sum}");
        }
    }
}

#[test]
fn what_cannot_be_imported_is_told() {
    let check = |at: usize, from: &str, to: &str, parts: &[&str]| {
        let text = GOLDEN[at].1;
        assert!(text.contains(from), "{from} is not there");
        let message = import(text.replacen(from, to, 1).as_bytes()).err().map(|error| error.to_string()).unwrap_or_default();
        parts.iter().for_each(|part| assert!(message.contains(part), "`{part}` is not in: {message}"));
    };
    check(0, "\"float_features\":", "\"categorical_features\":[{}],\"float_features\":", &["1 categorical features", "numeric features"]);
    check(0, "FloatFeature", "OnlineCtr", &["oblivious_trees[0]", "`OnlineCtr`", "hashes of texts"]);
    check(1, "FloatFeature", "OneHotFeature", &["trees[0]", "`OneHotFeature`"]);
    check(0, "\"Logloss\"", "\"MultiClass\"", &["loss_function", "`MultiClass`", "one output"]);
    check(0, "\"scale_and_bias\":[1,", "\"scale_and_bias\":[2,", &["a scale of 2", "set_scale_and_bias"]);
    check(0, "\"leaf_values\":[", "\"leaf_values\":[0.5,", &["oblivious_trees[0]", "leaves for 2 splits"]);
    check(0, "\"AsFalse\"", "\"AsMaybe\"", &["nan_value_treatment `AsMaybe`"]);
    check(0, "\"float_feature_index\":", "\"float_feature_index\":7", &["is not there"]);
    check(0, "\"model_info\"", "\"model_inf\"", &["CatBoost model, line 1, column", "missing field `model_info`"]);
}

#[test]
fn a_file_cut_anywhere_is_refused_and_a_changed_byte_never_panics() {
    for &(name, text, _) in GOLDEN {
        let bytes = text.trim_ascii_end().as_bytes();
        for length in (0..bytes.len()).step_by(17) {
            assert!(import(&bytes[..length]).is_err(), "{name} cut to {length} bytes");
        }
        for position in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << (position % 8);
            if let Ok(model) = import(&damaged)
                && model.inputs().len() == 4
            {
                let row = [0.3, f64::NAN, -1.0, 0.0];
                let _ = (model.margin(&row), model.explain(&row, &mut Vec::new()));
                assert_eq!(load(&model.to_bytes()).unwrap().to_bytes(), model.to_bytes(), "{name}, byte {position}");
            }
        }
    }
    check_damage_is_noticed(&import(GOLDEN[0].1.as_bytes()).unwrap());
    let nested = format!("{{\"features_info\":{}", "[".repeat(100_000));
    assert!(import(nested.as_bytes()).is_err());
}
