//! Files that converters have written, with what ONNX Runtime made of some rows (`tests/exchange/make_onnx.py`), and Kilter's own.

use prost::Message;

use super::proto::{Attribute, Graph, Model as Proto, Node};
use crate::exchange::{Format, export, import};
use crate::format::tests::check_damage_is_noticed;
use crate::{Forest, Gbdt, Learner, Link, Matrix, Model, Objective, TrainingSet, forest, gbdt, linear, load};

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../../tests/exchange/onnx-", $name, ".onnx")).as_slice(),
            include_str!(concat!("../../../tests/exchange/onnx-", $name, ".rows.json")),
        )
    };
}

const GOLDEN: &[(&str, &[u8], &str)] = &[
    golden!("forest"),
    golden!("boosting"),
    golden!("histogram"),
    golden!("mean"),
    golden!("doubles"),
    golden!("lightgbm"),
    golden!("xgboost"),
    golden!("logistic"),
    golden!("least-squares"),
];

fn golden(name: &str) -> &'static [u8] {
    GOLDEN.iter().find(|(known, ..)| *known == name).map(|(_, bytes, _)| *bytes).unwrap()
}

#[derive(serde::Deserialize)]
struct Rows {
    rows: Vec<Vec<Option<f64>>>,
    margins: Vec<f64>,
    predictions: Vec<f64>,
}

#[test]
fn converted_models_score_what_onnx_runtime_scores() {
    for &(name, bytes, rows) in GOLDEN {
        let model = import(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let saved = load(&model.to_bytes()).unwrap();
        assert_eq!((saved.to_bytes(), saved.describe()), (model.to_bytes(), model.describe()), "{name}");
        let Rows { rows, margins, predictions } = serde_json::from_str(rows).unwrap();
        assert_eq!(rows.len(), 24);
        for ((row, margin), prediction) in rows.iter().zip(margins).zip(predictions) {
            let row: Vec<f64> = row.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
            let line = name == "logistic" || name == "least-squares";
            if line {
                // Its order of adding is not told, and its numbers are of 32 bits.
                assert!((model.margin(&row) - margin).abs() <= 1e-5 * margin.abs().max(1.0), "{name}: {row:?}");
            } else if name == "doubles" {
                // A sum of 64 bits, which is put out in 32.
                assert_eq!((model.margin(&row) as f32).to_bits(), (margin as f32).to_bits(), "{name}: {row:?}");
            } else {
                assert_eq!(model.margin(&row).to_bits(), margin.to_bits(), "{name}: {} {margin} {row:?}", model.margin(&row));
            }
            assert!((model.predict(&row) - prediction).abs() <= if line { 1e-5 } else { 2e-7 } * prediction.abs().max(1.0), "{name}");
            assert_eq!(saved.margin(&row).to_bits(), model.margin(&row).to_bits(), "{name}");
            let mut contributions = Vec::new();
            let sum = model.explain(&row, &mut contributions) + contributions.iter().sum::<f64>();
            assert!((sum - model.margin(&row)).abs() < 1e-6, "{name}: {sum}");
        }
    }
}

#[test]
fn what_a_file_tells_of_itself_is_kept() {
    let told = |name: &str| {
        let model = import(golden(name)).unwrap();
        let origin = model.origin();
        (model.kind(), model.link(), model.inputs().join(" "), origin.version.clone(), origin.objective.clone(), origin.notes.len())
    };
    let expected = |kind, link, inputs: &str, version: &str, objective: &str, notes| {
        (kind, link, inputs.to_string(), version.to_string(), objective.to_string(), notes)
    };
    let skl = "skl2onnx 1.20.0";
    assert_eq!(told("forest"), expected("onnx", Link::Probability, "f0 f1 f2 f3", skl, "TreeEnsembleClassifier NONE", 0));
    assert_eq!(told("histogram"), expected("onnx", Link::Logit, "f0 f1 f2 f3", skl, "TreeEnsembleClassifier LOGISTIC", 0));
    assert_eq!(told("mean"), expected("onnx", Link::Identity, "f0 f1 f2 f3", skl, "TreeEnsembleRegressor NONE", 0));
    assert_eq!(told("logistic"), expected("onnx_line", Link::Logit, "a b c d", skl, "LinearClassifier LOGISTIC", 0));
    assert_eq!(told("least-squares"), expected("onnx_line", Link::Identity, "f0 f1 f2 f3", skl, "LinearRegressor NONE", 1));
}

/// Rows with missing values, and labels above 0.
fn rows() -> TrainingSet {
    let mut state = 5u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let columns: Vec<Vec<f64>> = (0..3).map(|_| (0..800).map(|_| if next() < 0.1 { f64::NAN } else { next() - 0.5 }).collect()).collect();
    let labels = (0..800).map(|at| f64::from(u8::from(columns[0][at] > columns[1][at]))).collect();
    TrainingSet::new(Matrix::from_columns(["a", "b c", "ü"].map(str::to_string).to_vec(), columns), labels)
}

#[test]
fn own_trees_come_back_to_the_bit() {
    let set = rows();
    for objective in [Objective::Binary, Objective::SquaredError, Objective::Poisson] {
        let model = gbdt::fit(&set, &Gbdt { objective, trees: 20, early_stopping: None, ..Gbdt::default() }).unwrap();
        let again = import(&export(&model.to_bytes(), Format::Onnx).unwrap()).unwrap();
        assert_eq!((again.inputs(), again.link(), again.trees()), (model.inputs(), model.link(), 21));
        let mut row = Vec::new();
        for at in 0..set.rows() {
            set.matrix.row(at, &mut row);
            row[at % 3] = if at % 4 == 0 { [f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0][at / 4 % 4] } else { row[at % 3] };
            assert_eq!(again.margin(&row).to_bits(), model.margin(&row).to_bits(), "{row:?}");
            assert_eq!(again.predict(&row).to_bits(), model.predict(&row).to_bits());
        }
    }
}

#[test]
fn own_forests_come_back_to_the_bit() {
    let set = rows();
    for target in [forest::Target::Binary, forest::Target::Mean] {
        let model = forest::fit(&set, &Forest { target, trees: 13, ..Forest::default() }).unwrap();
        let again = import(&export(&model.to_bytes(), Format::Onnx).unwrap()).unwrap();
        // That a mean is one of shares, a graph does not say.
        assert_eq!((again.inputs(), again.link(), again.trees()), (model.inputs(), Link::Identity, 13));
        let mut row = Vec::new();
        for at in 0..set.rows() {
            set.matrix.row(at, &mut row);
            assert_eq!(again.margin(&row).to_bits(), model.margin(&row).to_bits(), "{row:?}");
            assert_eq!(again.predict(&row).to_bits(), model.predict(&row).to_bits());
        }
    }
}

#[test]
fn own_lines_are_written_and_told_to_be_no_operator_of_models_when_they_come_back() {
    let set = rows();
    let logistic = Learner::Logistic(Default::default()).fit(&set).unwrap();
    let least_squares: Box<dyn Model> = Box::new(linear::fit(&set, &Default::default()).unwrap());
    for model in [logistic, least_squares] {
        let bytes = export(&model.to_bytes(), Format::Onnx).unwrap();
        assert_eq!(Format::of(&bytes), Some(Format::Onnx));
        let error = import(&bytes).err().unwrap().to_string();
        assert!(error.contains("operator 0, IsNaN") && error.contains("LinearClassifier"), "{error}");
    }
}

/// The message for a golden file of which something has been changed: the first node's attributes, by name.
fn refused(name: &str, change: impl Fn(&mut Node, &mut Vec<Attribute>, &mut Graph)) -> String {
    let mut model = Proto::decode(golden(name)).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let mut node = Node::decode(graph.nodes[0].as_slice()).unwrap();
    let mut attributes: Vec<Attribute> = node.attributes.iter().map(|bytes| Attribute::decode(bytes.as_slice()).unwrap()).collect();
    change(&mut node, &mut attributes, graph);
    node.attributes = attributes.iter().map(Message::encode_to_vec).collect();
    graph.nodes[0] = node.encode_to_vec();
    import(&model.encode_to_vec()).err().map(|error| error.to_string()).unwrap_or_default()
}

fn set<'a>(attributes: &'a mut [Attribute], name: &str) -> &'a mut Attribute {
    attributes.iter_mut().find(|attribute| attribute.name() == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn what_cannot_be_imported_is_named_with_its_operator() {
    let check = |message: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(message.contains(part), "`{part}` is not in: {message}"));
    };
    check(refused("forest", |node, _, _| node.operator = Some("SVMClassifier".into())), &["operator 0, SVMClassifier", "TreeEnsemble"]);
    check(refused("forest", |node, _, _| node.domain = Some("com.example".into())), &["com.example", "none of ONNX's own"]);
    check(refused("forest", |_, a, _| set(a, "nodes_modes").texts[0] = b"BRANCH_EQ".to_vec()), &["node 0", "`BRANCH_EQ`", "equality"]);
    check(refused("forest", |_, a, _| set(a, "post_transform").text = Some(b"SOFTMAX".to_vec())), &["post_transform `SOFTMAX`"]);
    check(refused("forest", |_, a, _| set(a, "post_transform").text = Some(b"LOGISTIC".to_vec())), &["all positive"]);
    check(refused("forest", |_, a, _| set(a, "classlabels_int64s").ints.push(2)), &["a model of 3 classes", "one output"]);
    check(refused("mean", |_, a, _| set(a, "n_targets").int = Some(2)), &["several outputs"]);
    check(refused("mean", |_, a, _| set(a, "nodes_featureids").ints[0] = 4), &["node 0 reads column 4 of 4"]);
    check(refused("mean", |_, a, _| set(a, "nodes_truenodeids").ints[0] = 0), &["that its root does not lead to"]);
    check(refused("mean", |_, a, _| set(a, "nodes_falsenodeids").ints[0] = 99), &["tree 0 has no root, or more than one"]);
    check(refused("mean", |_, a, _| set(a, "target_weights").floats[0] = f32::NAN), &["the value of leaf"]);
    check(refused("mean", |_, a, _| set(a, "nodes_values").floats.truncate(3)), &["3 values for"]);
    check(refused("least-squares", |_, a, _| set(a, "coefficients").floats.truncate(2)), &["2 coefficients for 4 columns"]);
    check(refused("logistic", |_, _, graph| graph.inputs.truncate(3)), &["FeatureVectorizer", "`d`, which it reads, is no table"]);
    check(refused("mean", |_, _, graph| graph.inputs.clear()), &["no inputs"]);
    check(
        refused("forest", |node, a, graph| {
            graph.nodes.push({
                let attributes = a.iter().map(Message::encode_to_vec).collect();
                Node { attributes, outputs: vec!["again".into()], ..node.clone() }.encode_to_vec()
            })
        }),
        &["operator 3, TreeEnsembleClassifier", "second model"],
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_and_a_changed_byte_never_panics() {
    for &(name, bytes, _) in GOLDEN {
        for length in (0..bytes.len()).step_by(11) {
            // What follows the graph says nothing about scores: a cut there leaves a model.
            if let Ok(model) = import(&bytes[..length]) {
                assert!(model.inputs().len() == 4 && length > bytes.len() - 60, "{name} cut to {length} of {} bytes", bytes.len());
            }
        }
        let row = [0.3, f64::NAN, -1.0, 0.0];
        for position in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << (position % 8);
            if let Ok(model) = import(&damaged)
                && model.inputs().len() == row.len()
            {
                let _ = (model.margin(&row), model.explain(&row, &mut Vec::new()));
                assert_eq!(load(&model.to_bytes()).unwrap().to_bytes(), model.to_bytes(), "{name}, byte {position}");
            }
        }
    }
    for name in ["histogram", "logistic"] {
        check_damage_is_noticed(&import(golden(name)).unwrap());
    }
}

#[test]
fn trees_that_share_nodes_do_not_multiply() {
    let set = rows();
    let model = gbdt::fit(&set, &Gbdt { trees: 2, early_stopping: None, ..Gbdt::default() }).unwrap();
    let mut proto = Proto::decode(export(&model.to_bytes(), Format::Onnx).unwrap().as_slice()).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    let mut node = Node::decode(graph.nodes[0].as_slice()).unwrap();
    for bytes in &mut node.attributes {
        let mut attribute = Attribute::decode(bytes.as_slice()).unwrap();
        if attribute.name() == "tree_roots" {
            attribute.ints = vec![attribute.ints[1]; 50];
            *bytes = attribute.encode_to_vec();
        }
    }
    graph.nodes[0] = node.encode_to_vec();
    let error = import(&proto.encode_to_vec()).err().unwrap().to_string();
    assert!(error.contains("share nodes"), "{error}");
}
