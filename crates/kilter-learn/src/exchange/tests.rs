//! Files of several versions of each program, with what that program made of some rows (`tests/exchange/make.py`).

use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::{Link, Model, load};

macro_rules! golden {
    ($name:literal, $ending:literal) => {
        (
            concat!($name, $ending),
            include_bytes!(concat!("../../tests/exchange/", $name, $ending)).as_slice(),
            include_str!(concat!("../../tests/exchange/", $name, ".rows.json")),
        )
    };
}

const GOLDEN: &[(&str, &[u8], &str)] = &[
    golden!("lightgbm-3.3.5", ".txt"),
    golden!("lightgbm-4.1.0", ".txt"),
    golden!("lightgbm-4.7.0", ".txt"),
    golden!("xgboost-1.7.6", ".json"),
    golden!("xgboost-1.7.6", ".ubj"),
    golden!("xgboost-2.1.4", ".json"),
    golden!("xgboost-2.1.4", ".ubj"),
    golden!("xgboost-3.2.0", ".json"),
    golden!("xgboost-3.2.0", ".ubj"),
];

/// Models of three classes; the margins of a row follow each other.
const CLASSES: &[(&str, &[u8], &str)] = &[
    golden!("lightgbm-4.7.0-multiclass", ".txt"),
    golden!("lightgbm-4.7.0-multiclassova", ".txt"),
    golden!("xgboost-3.2.0-multiclass", ".json"),
    golden!("xgboost-3.2.0-multiclass", ".ubj"),
];

#[test]
fn models_of_classes_score_to_the_bit_before_and_after_saving() {
    for &(name, bytes, rows) in CLASSES {
        let Ok(Opened::Classes(model)) = open_any(bytes) else { panic!("{name}") };
        let Ok(Opened::Classes(saved)) = open_any(&model.to_bytes()) else { panic!("{name}") };
        assert_eq!((saved.to_bytes(), saved.describe()), (model.to_bytes(), model.describe()));
        let (rows, margins) = Rows::of(rows);
        let (mut own, mut contributions) = (Vec::new(), Vec::new());
        for (row, margins) in rows.iter().zip(margins.chunks(3)) {
            for model in [&model, &saved] {
                model.margins(row, &mut own);
                assert_eq!(own, margins, "{name}: {row:?}");
            }
            let base = model.explain(row, 1, &mut contributions);
            assert!((base + contributions.iter().sum::<f64>() - margins[1]).abs() < 1e-6);
            model.probabilities(row, &mut own);
            assert!((own.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        let told = import(bytes).unwrap_err();
        assert!(told == LearnError::SeveralClasses { classes: 3 } && open(bytes).err() == Some(told), "{name}");
        // Cut or changed anywhere it is refused, or another model that can be used.
        for position in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << (position % 8);
            if let Ok(Opened::Classes(odd)) = open_any(&damaged) {
                let row = vec![0.5; odd.inputs().len()];
                odd.probabilities(&row, &mut own);
                assert!(own.len() >= 2);
            }
        }
    }
}

#[test]
fn what_is_said_of_classes_must_fit_together() {
    let check = |at: usize, from: &str, to: &str, parts: &[&str]| {
        let text = std::str::from_utf8(CLASSES[at].1).unwrap();
        assert!(text.contains(from), "{from} is not there");
        let told = open_any(text.replacen(from, to, 1).as_bytes()).err().map(|error| error.to_string()).unwrap_or_default();
        parts.iter().for_each(|part| assert!(told.contains(part), "`{part}` is not in: {told}"));
    };
    check(0, "num_class=3", "num_class=2", &["line", "2 classes, 3 trees a round"]);
    check(0, "objective=multiclass", "objective=regression", &["several outputs", "hint"]);
    check(2, "\"num_class\":\"3\"", "\"num_class\":\"2\"", &["base_score", "3 numbers for 2 classes"]);
    check(2, "\"tree_info\":[0,1,2", "\"tree_info\":[0,1,7", &["tree_info", "a tree of class 7, of 3"]);
    check(2, "multi:softprob", "reg:squarederror", &["learner.objective.name", "3 classes"]);
    check(2, "\"num_class\":\"3\"", "\"num_class\":\"99999999999\"", &["classes"]);
}

#[derive(serde::Deserialize)]
struct Rows {
    rows: Vec<Vec<Option<f64>>>,
    margins: Vec<f64>,
}

impl Rows {
    fn of(text: &str) -> (Vec<Vec<f64>>, Vec<f64>) {
        let Rows { rows, margins } = serde_json::from_str(text).unwrap();
        (rows.iter().map(|row| row.iter().map(|value| value.unwrap_or(f64::NAN)).collect()).collect(), margins)
    }
}

#[test]
fn files_of_every_version_score_to_the_bit_before_and_after_saving() {
    for &(name, bytes, rows) in GOLDEN {
        let model = import(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let saved = load(&model.to_bytes()).unwrap();
        assert_eq!(saved.to_bytes(), model.to_bytes(), "{name}");
        assert_eq!((saved.kind(), saved.describe()), (model.kind(), model.describe()), "{name}");
        let (rows, margins) = Rows::of(rows);
        assert_eq!(rows.len(), 24);
        for (row, margin) in rows.iter().zip(&margins) {
            assert_eq!(model.margin(row).to_bits(), margin.to_bits(), "{name}: {row:?}");
            assert_eq!(saved.margin(row).to_bits(), margin.to_bits(), "{name}: {row:?}");
        }
    }
}

#[test]
fn contributions_add_up_and_name_the_inputs_that_are_split_on() {
    for &(name, bytes, rows) in GOLDEN {
        let model = import(bytes).unwrap();
        let (rows, _) = Rows::of(rows);
        for row in &rows {
            let mut contributions = Vec::new();
            let base = model.explain(row, &mut contributions);
            let sum = base + contributions.iter().sum::<f64>();
            assert!((sum - model.margin(row)).abs() < 1e-9, "{name}: {sum}");
            assert!(contributions[0] != 0.0 && contributions[3] != 0.0, "{name}: {contributions:?}");
        }
        assert!(model.importance()[3] > 0.0 && model.link() == Link::Logit);
        assert_eq!(model.categorical_inputs(), [3], "{name}");
    }
    let inputs = |at: usize| import(GOLDEN[at].1).unwrap().inputs().join(" ");
    assert_eq!(inputs(0), "Column_0 Column_1 Column_2 Column_3");
    assert_eq!(inputs(8), "a b c d");
}

#[test]
fn damage_to_kilters_own_file_is_noticed() {
    check_damage_is_noticed(&import(GOLDEN[2].1).unwrap());
}

#[test]
fn a_file_cut_anywhere_is_refused_and_a_changed_byte_never_panics() {
    for &(name, bytes, rows) in GOLDEN {
        // What follows the last tree says nothing about scores.
        let text = String::from_utf8_lossy(bytes);
        let needed = text.find("end of trees").unwrap_or(bytes.len() - 1);
        for length in (0..needed).step_by(7).chain([needed]) {
            assert!(import(&bytes[..length]).is_err(), "{name} cut to {length} bytes");
        }
        let row = &Rows::of(rows).0[0];
        for position in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << (position % 8);
            if let Ok(model) = import(&damaged)
                && model.inputs().len() == row.len()
            {
                let _ = (model.margin(row), model.explain(row, &mut Vec::new()));
                assert_eq!(load(&model.to_bytes()).unwrap().to_bytes(), model.to_bytes(), "{name}, byte {position}");
            }
        }
    }
}

/// The message for a golden file with one text replaced.
fn refused(at: usize, from: &str, to: &str) -> String {
    let text = std::str::from_utf8(GOLDEN[at].1).unwrap();
    assert!(text.contains(from), "{from} is not there");
    import(text.replacen(from, to, 1).as_bytes()).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn what_cannot_be_imported_is_named_with_its_place_and_a_hint() {
    let check = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    check(refused(2, "num_class=1", "num_class=3"), &["LightGBM model, line 3", "several outputs", "hint"]);
    check(refused(2, "is_linear=0", "is_linear=1"), &["linear leaves", "linear_tree=false"]);
    check(refused(2, "binary sigmoid:1", "regression sqrt"), &["line 7", "sqrt"]);
    check(refused(2, "version=v4", "version=v9"), &["line 2", "`v9`"]);
    check(refused(2, "leaf_value=", "leaf_value=0x1 "), &["`0x1`", "number 0 of `leaf_value`"]);
    check(refused(2, "leaf_value=", "leaf_value=1.5 "), &["7 numbers for 6 expected"]);
    check(refused(2, "Tree=1", "Tree=4"), &["tree 1 is expected"]);
    check(refused(7, "binary:logistic", "multi:softprob"), &["learner.objective.name", "`multi:softprob`"]);
    check(refused(7, "\"gbtree\"", "\"dart\""), &["learner.gradient_booster.name", "booster `dart`"]);
    check(refused(7, "\"trees\":[{", "\"trees\":[{{"), &["XGBoost model, line 1, column"]);
    check(refused(7, "\"left_children\"", "\"left_out\""), &["trees[0]", "`left_children` is missing"]);
    let strange = import(b"PK\x03\x04").err().map(|error| error.to_string()).unwrap_or_default();
    check(strange, &["none of the formats", "save_model"]);
}

#[test]
fn values_at_a_threshold_go_where_their_program_sends_them() {
    use tree::{Missing, Part, Rule, Split, Tree};
    let stump = |rule, missing, categories| {
        let split = Part::Split { split: Split { column: 0, rule, missing }, left: 1, right: 2, cover: 2.0, gain: 1.0 };
        Tree::build(&[split, Part::Leaf { value: 1.0, cover: 1.0 }, Part::Leaf { value: 2.0, cover: 1.0 }], 0, categories).unwrap()
    };
    let check = |tree: &Tree, inputs: Inputs, cases: &[(f64, f64)]| {
        for &(value, leaf) in cases {
            assert_eq!(tree.leaf(inputs, &[value]), leaf, "{value}");
        }
    };
    let nan = f64::NAN;
    let (double, single) = (Inputs::DoubleTinyIsZero, Inputs::Single);
    check(
        &stump(Rule::AtMost(0.5), Missing::IsZero, vec![]),
        double,
        &[(0.5, 1.0), (0.5f64.next_up(), 2.0), (nan, 1.0), (f64::INFINITY, 2.0)],
    );
    check(&stump(Rule::AtMost(-1.0), Missing::ZeroTooLeft, vec![]), double, &[(0.0, 1.0), (-1e-36, 1.0), (nan, 1.0), (1e-34, 2.0)]);
    check(&stump(Rule::AtMost(1.0), Missing::ZeroTooRight, vec![]), double, &[(0.0, 2.0), (nan, 2.0), (0.5, 1.0)]);
    // 0.5 and its neighbours of 64 bits are one number of 32.
    check(&stump(Rule::Below(0.5), Missing::Right, vec![]), single, &[(0.5, 2.0), (0.5f64.next_down(), 2.0), (0.4999999, 1.0), (nan, 2.0)]);
    let cases = [(3.0, 1.0), (3.9, 1.0), (0.0, 1.0), (4.0, 2.0), (-1.0, 2.0), (3e9, 2.0), (f64::INFINITY, 2.0), (nan, 2.0)];
    let set = || vec![0, 3];
    check(&stump(Rule::OneOf { first: 0, count: 2 }, Missing::Right, set()), double, &cases);
    check(&stump(Rule::OneOfFromZero { first: 0, count: 2 }, Missing::Right, set()), single, &cases);
    check(&stump(Rule::OneOf { first: 0, count: 2 }, Missing::Right, set()), double, &[(-0.5, 1.0)]);
    check(&stump(Rule::OneOfFromZero { first: 0, count: 2 }, Missing::Right, set()), single, &[(-0.5, 2.0), (-0.0, 1.0)]);
}

#[test]
fn a_short_binary_file_asks_for_no_memory_out_of_proportion() {
    for bytes in
        [b"{U\x01a[$Z#L\x7f\0\0\0\0\0\0\0".as_slice(), b"{U\x01a[#L\x7f\0\0\0\0\0\0\0Z", b"{U\x01aSL\x7f\0\0\0\0\0\0\0", &[b'{'; 2]]
    {
        assert!(xgboost::read_ubj(bytes).is_err());
    }
    let deep = [b"{U\x01a".as_slice(), &[b'['; 100_000]].concat();
    assert!(xgboost::read_ubj(&deep).err().is_some_and(|error| error.to_string().contains("64 levels")));
}
