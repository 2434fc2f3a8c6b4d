//! Writes what every fuzzer starts from, `FOLDER/TARGET/NUMBER`: the examples of the reference pages, the projects of this repository, and files,
//! log records and snapshots as the program itself writes them. It is built like the fuzzers, which is why libFuzzer has the first word.
#![no_main]

use std::fs;
use std::io;
use std::path::Path;

use kilter_connect::{TableFormat, TableWriter, row_to_json};
use kilter_core::record::encode;
use kilter_core::{Operation, Schema};
use kilter_fuzz::{engine, events, rows, schema};
use kilter_learn::calibration::Method;
use kilter_learn::pipeline::{Fill, Step};
use kilter_learn::{
    Calibration, ClassLink, Explainable, Forest, Gbdt, Isolation, Learner, Linear, Logistic, Matrix, Model, Scorecard, TrainingSet,
    calibrate, gbdt, isolation, linear, pipeline,
};

/// Small models of other programs, as their tests have them.
const LIGHTGBM: [&[u8]; 4] = [
    include_bytes!("../../crates/kilter-learn/tests/exchange/lightgbm-3.3.5.txt"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/lightgbm-4.7.0.txt"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/lightgbm-4.7.0-multiclass.txt"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/lightgbm-4.7.0-multiclassova.txt"),
];
const XGBOOST: [&[u8]; 5] = [
    include_bytes!("../../crates/kilter-learn/tests/exchange/xgboost-1.7.6.json"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/xgboost-3.2.0.json"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/xgboost-3.2.0.ubj"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/xgboost-3.2.0-multiclass.json"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/xgboost-3.2.0-multiclass.ubj"),
];
const CATBOOST: [&[u8]; 3] = [
    include_bytes!("../../crates/kilter-learn/tests/exchange/catboost-oblivious.json"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/catboost-lossguide.json"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/catboost-counts.json"),
];
const ONNX: [&[u8]; 9] = [
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-forest.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-boosting.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-histogram.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-lightgbm.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-xgboost.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-doubles.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-mean.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-logistic.onnx"),
    include_bytes!("../../crates/kilter-learn/tests/exchange/onnx-least-squares.onnx"),
];
const EXPRESSIONS: &str = include_str!("../../docs/reference/expressions.md");
const WINDOWS: &str = include_str!("../../docs/reference/windows.md");
const DEFINITIONS: &str = include_str!("../../docs/reference/definitions.md");
const PROJECTS: [&str; 5] = [
    include_str!("../../examples/card-fraud/kilter.toml"),
    include_str!("../../examples/credit-default/kilter.toml"),
    include_str!("../../examples/credit-risk/kilter.toml"),
    include_str!("../../crates/kilter-runtime/templates/blank.toml"),
    include_str!("../../crates/kilter-runtime/templates/card-fraud.toml"),
];

libfuzzer_sys::fuzz_target!(
    init: {
        write_and_leave();
    },
    |_data: &[u8]| {}
);

fn write_and_leave() {
    let folder = std::env::args().nth(1).unwrap_or_default();
    if let Err(e) = write_all(Path::new(&folder)) {
        eprintln!("usage: seeds FOLDER ({folder:?}: {e})");
        std::process::exit(2);
    }
    std::process::exit(0);
}

fn write_all(folder: &Path) -> io::Result<()> {
    write(folder, "expressions", expressions())?;
    write(folder, "feature_lines", feature_lines())?;
    write(folder, "bodies", bodies())?;
    write(folder, "tables", tables())?;
    write(folder, "records", records())?;
    write(folder, "snapshots", snapshots())?;
    let files = |models: &[&[u8]]| models.iter().map(|model| model.to_vec()).collect();
    write(folder, "lightgbm", files(&LIGHTGBM))?;
    write(folder, "xgboost", files(&XGBOOST))?;
    write(folder, "catboost", files(&CATBOOST))?;
    write(folder, "onnx", files(&ONNX))?;
    write(folder, "models", models())?;
    write(folder, "definitions", definitions())
}

fn write(folder: &Path, target: &str, seeds: Vec<Vec<u8>>) -> io::Result<()> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    println!("{target}: {} seeds", seeds.len());
    assert!(!seeds.is_empty(), "{target} has nothing to start from");
    seeds.iter().enumerate().try_for_each(|(i, seed)| fs::write(folder.join(format!("seed-{i:03}")), seed))
}

/// Small models of every kind, without their checksums.
fn models() -> Vec<Vec<u8>> {
    let mut matrix = Matrix::with_columns(vec!["a".into(), "b".into()]);
    // Numbers in no order, from a generator that everybody knows.
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let labels = (0..120)
        .map(|row| {
            let (a, b) = (draw(), draw());
            matrix.push_row(&[if row % 9 == 0 { f64::NAN } else { a }, (8.0 * b).floor()]);
            f64::from(u8::from(a + 0.1 * b + 0.4 * draw() > 0.7))
        })
        .collect();
    let set = TrainingSet::new(matrix, labels);
    let fitted = |learner: Learner| learner.fit(&set).expect("these rows can be learned from");
    let logistic = || fitted(Learner::Logistic(Logistic::default()));
    let trees = Gbdt { trees: 2, leaves: 4, early_stopping: None, ..Gbdt::default() };
    let additive = Explainable { bins: 4, pair_bins: 2, bags: 2, rounds: 5, pairs: 1, ..Explainable::default() };
    let steps = [
        Step::Impute { columns: vec!["a".into()], fill: Fill::Median, indicator: true },
        Step::Target { columns: vec!["b".into()], smoothing: 5.0, folds: 3 },
        Step::Quantiles { columns: vec!["a".into()], bins: 4 },
    ];
    let platt = Calibration { method: Method::Platt, target_rate: Some(0.1) };
    let models: [Box<dyn Model>; 9] = [
        fitted(Learner::Gbdt(trees.clone())),
        fitted(Learner::Forest(Forest { trees: 2, min_leaf_rows: 15, ..Forest::default() })),
        fitted(Learner::Explainable(additive)),
        logistic(),
        fitted(Learner::Scorecard(Scorecard { max_bins: 3, min_iv: 0.0, ..Scorecard::default() })),
        Box::new(linear::fit(&set, &Linear::default()).expect("numbers too")),
        Box::new(isolation::fit(&set.matrix, &Isolation { trees: 2, sample: 16, seed: 1 }).expect("without labels")),
        Box::new(pipeline::fit(&set, &steps, |set| Learner::Logistic(Logistic::default()).fit(set)).expect("with steps before")),
        Box::new(calibrate(logistic(), &set, &platt).expect("enough rows")),
    ];
    let thirds = set.matrix.column(1).iter().map(|b| (b / 3.0).floor()).collect();
    let names = ["low", "middle", "high"].map(String::from);
    let classes =
        gbdt::fit_classes(&TrainingSet::new(set.matrix.clone(), thirds), &names, ClassLink::Softmax, &trees).expect("three classes");
    let files = models.iter().map(|model| model.to_bytes()).chain([classes.to_bytes()]);
    files.map(|bytes| bytes[..bytes.len() - 8].to_vec()).collect()
}

/// What stands in backticks in the first column of a page's tables.
fn first_cells(page: &str) -> impl Iterator<Item = String> {
    page.lines().filter_map(|line| {
        let line = line.replace("\\|", "\u{1}");
        let cell = line.strip_prefix('|')?.split('|').next()?.trim();
        Some(cell.strip_prefix('`')?.strip_suffix('`')?.replace('\u{1}', "|"))
    })
}

fn expressions() -> Vec<Vec<u8>> {
    first_cells(EXPRESSIONS).map(String::into_bytes).collect()
}

fn feature_lines() -> Vec<Vec<u8>> {
    let is_line = |text: &&str| text.contains('(') && !text.contains('|');
    let examples = WINDOWS.lines().filter_map(|line| line.split_once(" = ")).map(|(_, text)| text).filter(is_line).map(str::to_string);
    let aggregates = first_cells(WINDOWS).flat_map(|cell| {
        let args = cell.replace("(x", "(amount").replace(", k)", ", 3)").replace(", p)", ", 0.9)").replace("condition", "ok");
        ["1h", "2h exact", "last 4", "month"].map(|window| format!("{args} where n > 0 over {window}"))
    });
    let whole = [
        "count(*) over 1m\nsum(n) by kind over 1d\nderived get(f1_1d, 'card') / f0_1m\nwhere amount > 0\nhop 1m",
        "sum(amount) over 1h\nmin(n) over day\nkey n",
        "mean(amount) over decay 7d, session 30m max 4h, previous week, tumbling 6h, 1m hop 7s",
    ];
    examples.chain(aggregates).chain(whole.map(str::to_string)).map(String::into_bytes).collect()
}

/// The byte that chooses: format in its lowest two bits, the kind of content above them.
fn chosen(format: u8, content: u8, bytes: &[u8]) -> Vec<u8> {
    let mut seed = vec![format | content << 2];
    seed.extend_from_slice(bytes);
    seed
}

fn bodies() -> Vec<Vec<u8>> {
    const JSON: u8 = 0;
    const NDJSON: u8 = 1;
    const CSV: u8 = 2;
    let objects: Vec<String> = rows().iter().map(|row| row_to_json(&schema(), row).to_string()).collect();
    let mut seeds = Vec::new();
    for format in 0..3 {
        seeds.extend(objects.iter().map(|object| chosen(format, JSON, object.as_bytes())));
        seeds.push(chosen(format, JSON, format!("[{}]", objects.join(",")).as_bytes()));
        seeds.push(chosen(format, NDJSON, objects.join("\n").as_bytes()));
        seeds.push(chosen(format, CSV, &table(TableFormat::Csv)));
    }
    seeds.push(chosen(
        0,
        JSON,
        br#"{"k":1,"at":"2026-01-01T11:00:00Z","event_id":"e-1","more":{"a":[1,2,{"b":null}],"c":"\u00e9\ud83d\ude00"}}"#,
    ));
    seeds.push(chosen(2, JSON, br#"{"k":1,"at":1767265200000,"op":"d"}"#));
    let envelope = |op: &str, before: &str, after: &str| {
        format!(
            r#"{{"before":{before},"after":{after},"op":"{op}","ts_ms":1767265200000,"source":{{"ts_ms":1767265199999,"lsn":24023128,"table":"t"}}}}"#
        )
    };
    let row = &objects[0];
    for message in [
        envelope("c", "null", row),
        envelope("u", row, row),
        envelope("d", row, "null"),
        envelope("m", "null", "null"),
        format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{}}}"#, envelope("r", "null", row)),
    ] {
        seeds.push(chosen(3, JSON, message.as_bytes()));
        seeds.push(chosen(3, NDJSON, format!("{message}\nnull\n{message}").as_bytes()));
    }
    seeds
}

fn table(format: TableFormat) -> Vec<u8> {
    table_of(format, &schema(), 1)
}

fn table_of(format: TableFormat, schema: &Schema, times: usize) -> Vec<u8> {
    let mut writer = TableWriter::create(Vec::new(), format, schema, &[]).expect("memory does not fail");
    for row in (0..times).flat_map(|_| rows()) {
        writer.push(&row).expect("memory does not fail");
    }
    writer.finish().expect("memory does not fail")
}

fn tables() -> Vec<Vec<u8>> {
    let files = [(0, TableFormat::Parquet), (1, TableFormat::Csv), (2, TableFormat::Ndjson)];
    let mut seeds: Vec<Vec<u8>> =
        files.iter().flat_map(|(n, format)| [1, 40].map(|times| chosen(*n, 0, &table_of(*format, &schema(), times)))).collect();
    let array = rows().iter().map(|row| row_to_json(&schema(), row).to_string()).collect::<Vec<_>>().join(",");
    seeds.push(chosen(3, 0, format!("[{array}]").as_bytes()));
    seeds
}

fn records() -> Vec<Vec<u8>> {
    let with = |mut event: kilter_core::Event, id: Option<&str>, extra: Option<&str>| {
        event.id = id.map(Into::into);
        event.extra = extra.map(Into::into);
        event
    };
    let plain = events().into_iter();
    let more = events().into_iter().map(|e| with(e, Some("an id"), Some(r#"{"more":1}"#)));
    plain
        .chain(more)
        .enumerate()
        .map(|(i, mut event)| {
            if i % 4 == 3 {
                event.operation = Operation::Delete;
            }
            let mut seed = vec![event.row.len() as u8];
            encode(&event, i as u32, &mut seed);
            seed
        })
        .collect()
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for changing in [false, true] {
        for taken in 0..=events().len() {
            let engine = engine(changing, taken);
            let mut bytes = Vec::new();
            engine.snapshot(&mut bytes);
            seeds.push([&[u8::from(changing)], kilter_fuzz::unsealed(&bytes)].concat());
        }
        for (head, entity) in kilter_fuzz::stored(changing) {
            seeds.push(kilter_fuzz::stored_seed(changing, &head, &entity));
        }
    }
    seeds
}

fn definitions() -> Vec<Vec<u8>> {
    let blocks = DEFINITIONS.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    PROJECTS.iter().copied().chain(blocks).map(|text| text.as_bytes().to_vec()).collect()
}
