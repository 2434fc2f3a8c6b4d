//! A version of the project's model as a folder that MLflow loads: `MLmodel` and what it speaks of.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use kilter_runtime::{InputKind, Packed, PackedInput};
use kilter_store::metadata::ModelVersion;
use serde_json::{Value, json};

use super::LEVEL;

/// The code that scores, and its name as a module: another form of numbers gets another name, so that one Python process can load both.
const SCORES: &str = include_str!("kilter_scores_1.py");
const MODULE: &str = "kilter_scores_1";
/// Pythons that the clients of MLflow 3 run on.
const PYTHON: &str = "3.10";

/// The files by their paths below the model's folder, `MLmodel` last: without it there is no model yet.
pub fn files(version: &ModelVersion, packed: Packed, created: &str) -> Vec<(String, Vec<u8>)> {
    let requirements = if packed.plain.is_some() { "mlflow\nnumpy\n" } else { "mlflow\nnumpy\nkilter\n" };
    let listed: String = requirements.lines().map(|line| format!("  - {line}\n")).collect();
    let conda = format!("name: mlflow-env\nchannels:\n- conda-forge\ndependencies:\n- python>={PYTHON}\n- pip\n- pip:\n{listed}");
    let python = format!("python: '{PYTHON}'\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n");
    let example = example(&packed);
    let mlmodel = mlmodel(version, &packed, created, example.is_some());
    let mut files: Vec<(String, Vec<u8>)> = vec![
        (format!("code/{MODULE}.py"), SCORES.into()),
        ("requirements.txt".into(), requirements.into()),
        ("conda.yaml".into(), conda.into()),
        ("python_env.yaml".into(), python.into()),
        ("model.kltm".into(), packed.file),
    ];
    files.extend(packed.plain.map(|plain| ("scores.json.gz".into(), gzipped(&plain))));
    if let Some(example) = example {
        files.push(("input_example.json".into(), example.to_string().into_bytes()));
        files.push(("serving_input_example.json".into(), json!({ "dataframe_split": example }).to_string().into_bytes()));
    }
    files.push(("MLmodel".into(), mlmodel.into()));
    files
}

/// Numbers as text are some times the size of what they say.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let _ = to.write_all(bytes);
    to.finish().unwrap_or_default()
}

/// JSON is YAML, so that whatever a name holds stays one value.
fn mlmodel(version: &ModelVersion, packed: &Packed, created: &str, has_example: bool) -> String {
    let column = |input: &PackedInput| json!({ "type": word(input.kind), "name": input.name, "required": true });
    let inputs = Value::Array(packed.inputs.iter().map(column).collect()).to_string();
    let outputs = json!([{ "type": "tensor", "tensor-spec": { "dtype": "float64", "shape": [-1] } }]).to_string();
    let quoted = |text: &str| Value::from(text).to_string();
    let spec = &version.spec;
    let mut text = format!(
        "artifact_path: model\nflavors:\n  python_function:\n    code: code\n    env:\n      conda: conda.yaml\n      virtualenv: \
         python_env.yaml\n    loader_module: {MODULE}\nmetadata:\n  kilter.model: {}\n  kilter.version: {}\n  kilter.kind: {}\nmlflow_version: \
         {LEVEL}\nmodel_uuid: {}\n",
        quoted(&spec.model),
        version.version,
        quoted(&spec.kind),
        quoted(&spec.artifact.chars().take(32).collect::<String>()),
    );
    if let Some(run) = &spec.run_id {
        text += &format!("run_id: {}\n", quoted(run));
    }
    if has_example {
        text += "saved_input_example_info:\n  artifact_path: input_example.json\n  pandas_orient: split\n  serving_input_path: \
                 serving_input_example.json\n  type: dataframe\n";
    }
    text += &format!(
        "signature:\n  inputs: {}\n  outputs: {}\n  params: null\nutc_time_created: {}\n",
        quoted(&inputs),
        quoted(&outputs),
        quoted(created)
    );
    text
}

fn word(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Number => "double",
        InputKind::Whole => "long",
        InputKind::Truth => "boolean",
        InputKind::Text => "string",
    }
}

/// One row, as pandas splits a frame; none where a category would have to be made up.
fn example(packed: &Packed) -> Option<Value> {
    let value = |input: &PackedInput| {
        let number = input.example.unwrap_or_default();
        match input.kind {
            InputKind::Number => Some(json!(number)),
            InputKind::Whole => Some(json!(number.round() as i64)),
            InputKind::Truth => Some(json!(number >= 0.5)),
            InputKind::Text => None,
        }
    };
    let row = packed.inputs.iter().map(value).collect::<Option<Vec<_>>>()?;
    let columns: Vec<&str> = packed.inputs.iter().map(|input| input.name.as_str()).collect();
    Some(json!({ "columns": columns, "data": [row] }))
}
