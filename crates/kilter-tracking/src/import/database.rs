//! MLflow's database, read as it is: never written to, because its server may be at work. A file of SQLite is never held for longer than a page takes; of
//! PostgreSQL one state is read.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::rows::{Kind, Owned, Point, Read, Rows, Tally};
use super::{ARCHIVE, LATER, Names, json, span};
use crate::db::{Dialect, Foreign, Select, Value as Cell, config};
use crate::error::{Error, Result};
use crate::evaluation::{EvaluationDataset, EvaluationRecord, Scorer};
use crate::model::{
    Dataset, Experiment, LoggedModel, Metric, ModelStatus, ModelVersion, Pair, RegisteredModel, RunInfo, RunModel, Stage, Status,
};
use crate::otel::{Any, AnyValue, KeyValue, KeyValueList};
use crate::trace::{self, Assessment, AssessmentKind, TraceInfo, TraceState, key};

const OTHER_WORKSPACE: &str = "it is in another workspace than `default`";
/// Rows that are counted at once.
const COUNTED: i64 = 50_000;
/// Rows of a page whose files are copied before it is stored.
const WITH_FILES: i64 = 100;
/// What every store of MLflow 2 has.
const NEEDED: [(&str, &[&str]); 5] = [
    ("experiments", &["experiment_id", "name", "artifact_location", "lifecycle_stage"]),
    ("runs", &["run_uuid", "experiment_id", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri"]),
    ("metrics", &["run_uuid", "key", "value", "timestamp", "step", "is_nan"]),
    ("params", &["run_uuid", "key", "value"]),
    ("tags", &["run_uuid", "key", "value"]),
];
/// Tables of things that are not kept here, and what they are.
const NOT_KEPT: [(&str, &str); 8] = [
    ("webhooks", "webhooks"),
    ("secrets", "secrets of the gateway"),
    ("endpoints", "endpoints of the gateway"),
    ("jobs", "jobs"),
    ("issues", "issues"),
    ("label_schemas", "label schemas"),
    ("review_queues", "review queues"),
    ("mcp_servers", "MCP servers"),
];
/// The schemas that MLflow up to 3.17 had, by the last change that was made to each.
const SCHEMAS: &str = "0584bdc529eb 0a8213491aaa 0c779009ac13 17e22815139b 181f10493468 1971f2d9a75b 1a0cddfcaa16 1b5f0d9ad7c1 1bd49d398cd23 \
    27a6a02d2cf1 2b4d017a5e9b 2c33131f4dae 2d6e25af4d3e 3500859a5d39 39d1c3be5f05 3da73c924c2f 400f98739977 4465047574b1 451aebb31d03 534353b11cbc \
    5b0e9adcef9c 5d2d30f0abce 6953534de441 6f8d9c3b2a1e 71994744cf8e 728d730b5ebd 75868b020152 76601a5f987d 770bee3ae1dd 7ac759974ad8 7d34483879f0 \
    7f2a7d5fae7d 84291f40a231 867495a8f9d4 89d3d66ed43f 89d4b8295536 90e64c465722 97727af70f4d a1b2c3d4e5f6 a5b4c3d2e1f0 a8b9c0d1e2f3 a8c4a736bde6 \
    acf3f17fdcc7 ae8bbe7743c9 b7c8d9e0f1a2 b7e2c1a4d9f3 b7e4c1a90f23 bd07f7e963c5 bda7b8c39065 bf29a5ff90ea c1d2e3f4a5b6 c3d6457b6d8a c3d9e7f1a2b4 \
    c48cb773bb87 c8d9e0f1a2b3 c9d4e5f6a7b8 cbc13b556ace cc1f77228345 cfd24bdc0731 d0e1f2a3b4c5 d3e4f5a6b7c8 da6fb0208061 dc11669786a5 de4033877273 \
    df50e92ffc5e e1f2a3b4c5d6 f5a4f2784254";

/// One kind of row, and how it is read. A column `?x` may be missing in older schemas.
struct Part {
    kind: Kind,
    table: &'static str,
    filter: &'static str,
    join: &'static str,
    columns: &'static [&'static str],
    /// Rows of a page: those that may be large come by few.
    page: i64,
    rows: fn(&[Cells]) -> Rows,
}

impl Part {
    fn filter(&self) -> &'static str {
        if self.filter.is_empty() { "TRUE" } else { self.filter }
    }
}

const fn part(kind: Kind, table: &'static str, columns: &'static [&'static str], rows: fn(&[Cells]) -> Rows) -> Part {
    Part { kind, table, filter: "", join: "", columns, page: 5000, rows }
}

fn pairs(kind: Kind, rows: &[Cells]) -> Rows {
    Rows::Pairs(kind, rows.iter().map(|c| Owned { owner: c.text(1), pair: c.pair(2) }).collect())
}

fn inputs(c: &Cells) -> Read {
    // One whose dataset is gone has no experiment.
    Read { run: c.text(1), experiment: c.maybe_int(2).unwrap_or(-1), name: c.text(3), digest: c.text(4) }
}

/// In an order in which everything comes after what it belongs to.
static PARTS: [Part; 30] = [
    Part {
        page: WITH_FILES,
        ..part(
            Kind::Runs,
            "runs",
            &[
                "t.run_uuid",
                "t.experiment_id",
                "?name",
                "?user_id",
                "t.status",
                "t.lifecycle_stage",
                "t.start_time",
                "t.end_time",
                "t.artifact_uri",
                "(SELECT g.value FROM tags g WHERE g.run_uuid = t.run_uuid AND g.key = 'mlflow.runName')",
            ],
            |rows| {
                let run = |c: &Cells| RunInfo {
                    id: c.text(1),
                    experiment: c.int(2),
                    name: c.maybe(3).filter(|name| !name.is_empty()).unwrap_or_else(|| c.text(10)),
                    user: c.text(4),
                    status: Status::read(&c.text(5)).unwrap_or(Status::Running),
                    stage: stage(c, 6),
                    start_time: c.int(7),
                    end_time: c.maybe_int(8),
                    artifact_uri: c.text(9),
                };
                Rows::Runs(rows.iter().map(run).collect())
            },
        )
    },
    part(Kind::Params, "params", &["t.run_uuid", "t.key", "t.value"], |rows| pairs(Kind::Params, rows)),
    part(Kind::Tags, "tags", &["t.run_uuid", "t.key", "t.value"], |rows| pairs(Kind::Tags, rows)),
    part(Kind::ExperimentTags, "experiment_tags", &["t.experiment_id", "t.key", "t.value"], |rows| pairs(Kind::ExperimentTags, rows)),
    Part {
        page: 10_000,
        ..part(Kind::Points, "metrics", &["t.run_uuid", "t.key", "t.timestamp", "t.step", "t.value", "t.is_nan"], |rows| {
            let point = |c: &Cells| Point {
                run: c.text(1),
                key: c.text(2),
                timestamp: c.int(3),
                step: c.int(4),
                value: c.number(5, c.int(6) != 0),
            };
            Rows::Points(rows.iter().map(point).collect())
        })
    },
    Part {
        page: 16,
        ..part(
            Kind::Datasets,
            "datasets",
            &[
                "t.experiment_id",
                "t.name",
                "t.digest",
                "t.dataset_source_type",
                "t.dataset_source",
                "t.dataset_schema",
                "t.dataset_profile",
            ],
            |rows| {
                let dataset = |c: &Cells| Dataset {
                    name: c.text(2),
                    digest: c.text(3),
                    source_type: c.text(4),
                    source: c.text(5),
                    schema: c.maybe(6),
                    profile: c.maybe(7),
                };
                Rows::Datasets(rows.iter().map(|c| (c.int(1), dataset(c))).collect())
            },
        )
    },
    Part {
        filter: "t.source_type = 'DATASET' AND t.destination_type = 'RUN'",
        join: "LEFT JOIN datasets d ON d.dataset_uuid = t.source_id",
        ..part(Kind::Inputs, "inputs", &["t.destination_id", "d.experiment_id", "d.name", "d.digest"], |rows| {
            Rows::Inputs(rows.iter().map(inputs).collect())
        })
    },
    Part {
        join: "LEFT JOIN inputs i ON i.input_uuid = t.input_uuid LEFT JOIN datasets d ON d.dataset_uuid = i.source_id",
        ..part(Kind::InputTags, "input_tags", &["i.destination_id", "d.experiment_id", "d.name", "d.digest", "t.name", "t.value"], |rows| {
            Rows::InputTags(rows.iter().map(|c| (inputs(c), c.pair(5))).collect())
        })
    },
    Part {
        filter: "t.source_type IN ('RUN_INPUT', 'RUN_OUTPUT')",
        ..part(Kind::RunModels, "inputs", &["t.source_id", "t.destination_id", "t.source_type", "?step"], |rows| {
            let model = |c: &Cells| RunModel { model_id: c.text(2), step: c.int(4), is_output: c.text(3) == "RUN_OUTPUT" };
            Rows::RunModels(rows.iter().map(|c| (c.text(1), model(c))).collect())
        })
    },
    Part {
        page: WITH_FILES,
        ..part(
            Kind::LoggedModels,
            "logged_models",
            &[
                "t.model_id",
                "t.experiment_id",
                "t.name",
                "t.artifact_location",
                "t.creation_timestamp_ms",
                "t.last_updated_timestamp_ms",
                "t.status",
                "t.lifecycle_stage",
                "t.model_type",
                "t.source_run_id",
            ],
            |rows| {
                let model = |c: &Cells| {
                    let model = LoggedModel {
                        id: c.text(1),
                        experiment: c.int(2),
                        name: c.text(3),
                        artifact_uri: c.text(4),
                        created: c.int(5),
                        updated: c.int(6),
                        status: logged_status(c.int(7)),
                        model_type: c.text(9),
                        source_run: c.text(10),
                        params: Vec::new(),
                        tags: Vec::new(),
                        metrics: Vec::new(),
                    };
                    (model, stage(c, 8))
                };
                Rows::LoggedModels(rows.iter().map(model).collect())
            },
        )
    },
    part(Kind::LoggedParams, "logged_model_params", &["t.model_id", "t.param_key", "t.param_value"], |rows| {
        pairs(Kind::LoggedParams, rows)
    }),
    part(Kind::LoggedTags, "logged_model_tags", &["t.model_id", "t.tag_key", "t.tag_value"], |rows| pairs(Kind::LoggedTags, rows)),
    part(
        Kind::LoggedPoints,
        "logged_model_metrics",
        &[
            "t.model_id",
            "t.metric_name",
            "t.metric_timestamp_ms",
            "t.metric_step",
            "t.metric_value",
            "t.run_id",
            "t.dataset_name",
            "t.dataset_digest",
        ],
        |rows| {
            let point = |c: &Cells| Metric {
                key: c.text(2),
                value: c.number(5, false),
                timestamp: c.int(3),
                step: c.int(4),
                model_id: Some(c.text(1)),
                dataset: (c.text(7), c.text(8)),
            };
            Rows::LoggedPoints(rows.iter().map(|c| (c.text(6), point(c))).collect())
        },
    ),
    part(Kind::Models, "registered_models", &["t.name", "t.description", "t.creation_time", "t.last_updated_time"], |rows| {
        let model = |c: &Cells| RegisteredModel {
            name: c.text(1),
            description: c.text(2),
            created: c.int(3),
            updated: c.maybe_int(4).unwrap_or_else(|| c.int(3)),
            tags: Vec::new(),
            aliases: Vec::new(),
            latest: Vec::new(),
        };
        Rows::Models(rows.iter().map(model).collect())
    }),
    part(Kind::ModelTags, "registered_model_tags", &["t.name", "t.key", "t.value"], |rows| pairs(Kind::ModelTags, rows)),
    part(
        Kind::Versions,
        "model_versions",
        &[
            "t.name",
            "t.version",
            "t.source",
            "?storage_location",
            "t.run_id",
            "?run_link",
            "t.description",
            "t.current_stage",
            "t.creation_time",
            "t.last_updated_time",
        ],
        |rows| {
            let version = |c: &Cells| ModelVersion {
                name: c.text(1),
                version: c.int(2),
                source: c.text(3),
                location: c.maybe(4).filter(|place| !place.is_empty()).unwrap_or_else(|| c.text(3)),
                run_id: c.text(5),
                run_link: c.text(6),
                description: c.text(7),
                stage: c.maybe(8).unwrap_or_else(|| "None".into()),
                created: c.int(9),
                updated: c.maybe_int(10).unwrap_or_else(|| c.int(9)),
                tags: Vec::new(),
                aliases: Vec::new(),
            };
            Rows::Versions(rows.iter().map(version).collect())
        },
    ),
    Part {
        // The text of a prompt is one, of up to 100 KB.
        page: 200,
        ..part(Kind::VersionTags, "model_version_tags", &["t.name", "t.version", "t.key", "t.value"], |rows| {
            Rows::VersionTags(rows.iter().map(|c| (c.text(1), c.int(2), c.pair(3))).collect())
        })
    },
    part(Kind::Aliases, "registered_model_aliases", &["t.name", "t.alias", "t.version"], |rows| {
        Rows::Aliases(rows.iter().map(|c| (c.text(1), c.text(2), c.int(3))).collect())
    }),
    Part {
        page: WITH_FILES,
        ..part(
            Kind::Traces,
            "trace_info",
            &[
                "t.request_id",
                "t.experiment_id",
                "t.timestamp_ms",
                "t.execution_time_ms",
                "t.status",
                "?client_request_id",
                "?request_preview",
                "?response_preview",
                "(SELECT g.value FROM trace_tags g WHERE g.request_id = t.request_id AND g.key = 'mlflow.traceName')",
                "(SELECT g.value FROM trace_tags g WHERE g.request_id = t.request_id AND g.key = 'mlflow.artifactLocation')",
                "?spans",
                "?trace_name",
                "?session_id",
                "?input_tokens",
                "?output_tokens",
                "?total_tokens",
                "?cache_read_input_tokens",
                "?cache_creation_input_tokens",
                "?cache_creation_input_tokens_above_1hr",
                "?input_cost",
                "?output_cost",
                "?total_cost",
                "(SELECT g.value FROM trace_tags g JOIN trace_tags l ON l.request_id = g.request_id WHERE g.request_id = t.request_id
                    AND g.key = 'mlflow.trace.archiveLocation' AND l.key = 'mlflow.trace.spansLocation' AND l.value = 'ARCHIVE_REPO')",
            ],
            |rows| {
                let trace = |c: &Cells| TraceInfo {
                    id: c.text(1),
                    experiment: c.int(2),
                    state: TraceState::read(&c.text(5)),
                    start_time: c.int(3),
                    duration: c.maybe_int(4),
                    client_request_id: c.maybe(6),
                    request_preview: c.maybe(7),
                    response_preview: c.maybe(8),
                    tags: [(key::NAME, if c.maybe(12).is_some() { 12 } else { 9 }), (key::ARTIFACTS, 10), (key::SPANS, 11), (ARCHIVE, 23)]
                        .into_iter()
                        .filter_map(|(key, at)| Some(Pair { key: key.into(), value: c.maybe(at)? }))
                        .collect(),
                    metadata: summary(c),
                    ..TraceInfo::default()
                };
                Rows::Traces(rows.iter().map(trace).collect())
            },
        )
    },
    part(Kind::TraceTags, "trace_tags", &["t.request_id", "t.key", "t.value"], |rows| pairs(Kind::TraceTags, rows)),
    part(Kind::TraceMetadata, "trace_request_metadata", &["t.request_id", "t.key", "t.value"], |rows| pairs(Kind::TraceMetadata, rows)),
    Part {
        page: 64,
        ..part(Kind::Spans, "spans", &["t.trace_id", "t.content"], |rows| {
            let ready = |c: &Cells| trace::ready_alone(&c.text(1), span::read(&c.text(2))?).ok();
            let is_archived = |c: &Cells| c.text(2).is_empty();
            let span = |c: &Cells| Some((c.text(1), if is_archived(c) { None } else { Some(ready(c)?) }));
            Rows::Spans(rows.iter().filter_map(span).collect())
        })
    },
    Part {
        page: 500,
        ..part(
            Kind::Assessments,
            "assessments",
            &[
                "t.assessment_id",
                "t.trace_id",
                "t.name",
                "t.assessment_type",
                "t.value",
                "t.error",
                "t.created_timestamp",
                "t.last_updated_timestamp",
                "t.source_type",
                "t.source_id",
                "t.span_id",
                "t.rationale",
                "t.overrides",
                "t.valid",
                "t.assessment_metadata",
            ],
            |rows| Rows::Assessments(rows.iter().filter_map(assessment).collect()),
        )
    },
    Part {
        filter: "t.source_type = 'trace' AND t.destination_type = 'run'",
        ..part(Kind::TraceRuns, "entity_associations", &["t.source_id", "t.destination_id"], |rows| {
            Rows::TraceRuns(rows.iter().map(|c| (c.text(1), c.text(2))).collect())
        })
    },
    Part {
        filter: "t.source_type = 'trace' AND t.destination_type = 'prompt_version'",
        ..part(Kind::TracePrompts, "entity_associations", &["t.source_id", "t.destination_id"], |rows| {
            Rows::TracePrompts(rows.iter().map(|c| (c.text(1), c.text(2))).collect())
        })
    },
    part(
        Kind::EvaluationDatasets,
        "evaluation_datasets",
        &["t.dataset_id", "t.name", "t.digest", "t.schema", "t.created_time", "t.last_update_time", "t.created_by", "t.last_updated_by"],
        |rows| {
            let dataset = |c: &Cells| EvaluationDataset {
                id: c.text(1),
                name: c.text(2),
                digest: c.text(3),
                schema: c.maybe(4),
                created: c.int(5),
                updated: c.int(6),
                created_by: c.maybe(7),
                updated_by: c.maybe(8),
                ..EvaluationDataset::default()
            };
            Rows::EvaluationDatasets(rows.iter().map(dataset).collect())
        },
    ),
    part(Kind::EvaluationTags, "evaluation_dataset_tags", &["t.dataset_id", "t.key", "t.value"], |rows| pairs(Kind::EvaluationTags, rows)),
    Part {
        filter: "t.source_type = 'evaluation_dataset' AND t.destination_type = 'experiment'",
        ..part(Kind::EvaluationExperiments, "entity_associations", &["t.source_id", "t.destination_id"], |rows| {
            Rows::EvaluationExperiments(rows.iter().map(|c| (c.text(1), c.int(2))).collect())
        })
    },
    Part {
        page: 200,
        ..part(
            Kind::EvaluationRecords,
            "evaluation_dataset_records",
            &[
                "t.dataset_record_id",
                "t.dataset_id",
                "t.inputs",
                "?outputs",
                "t.expectations",
                "t.tags",
                "t.source",
                "t.created_time",
                "t.last_update_time",
                "t.created_by",
                "t.last_updated_by",
            ],
            |rows| Rows::EvaluationRecords(rows.iter().filter_map(|c| Some((c.text(2), record(c)?))).collect()),
        )
    },
    Part {
        page: 200,
        join: "LEFT JOIN scorers s ON s.scorer_id = t.scorer_id",
        ..part(
            Kind::Scorers,
            "scorer_versions",
            &["t.scorer_id", "s.experiment_id", "s.scorer_name", "t.scorer_version", "t.serialized_scorer", "t.creation_time"],
            |rows| {
                let scorer = |c: &Cells| Scorer {
                    id: c.text(1),
                    experiment: c.maybe_int(2).unwrap_or(-1),
                    name: c.text(3),
                    version: c.int(4),
                    serialized: c.text(5),
                    created: c.int(6),
                };
                Rows::Scorers(rows.iter().map(scorer).collect())
            },
        )
    },
];

/// A row as the columns of its part say, the first of which is 1. What a column was declared as binds nobody in SQLite.
struct Cells<'a>(&'a [Cell<'static>]);

impl Cells<'_> {
    fn at(&self, at: usize) -> &Cell<'static> {
        &self.0[at - 1]
    }

    fn maybe(&self, at: usize) -> Option<String> {
        match self.at(at) {
            Cell::Text(text) => Some(text.to_string()),
            Cell::Int(value) => Some(value.to_string()),
            Cell::Real(value) => Some(value.to_string()),
            Cell::Null | Cell::Bytes(_) => None,
        }
    }

    fn text(&self, at: usize) -> String {
        self.maybe(at).unwrap_or_default()
    }

    fn maybe_int(&self, at: usize) -> Option<i64> {
        match self.at(at) {
            Cell::Int(value) => Some(*value),
            Cell::Real(value) => Some(*value as i64),
            Cell::Text(text) => text.parse().ok(),
            Cell::Null | Cell::Bytes(_) => None,
        }
    }

    fn int(&self, at: usize) -> i64 {
        self.maybe_int(at).unwrap_or_default()
    }

    /// A value that is missing is none.
    fn number(&self, at: usize, is_nan: bool) -> f64 {
        match self.at(at) {
            _ if is_nan => f64::NAN,
            Cell::Real(value) => *value,
            Cell::Int(value) => *value as f64,
            Cell::Text(text) => text.parse().unwrap_or(f64::NAN),
            Cell::Null | Cell::Bytes(_) => f64::NAN,
        }
    }

    fn pair(&self, at: usize) -> Pair {
        Pair { key: self.text(at), value: self.text(at + 1) }
    }

    fn json(&self, at: usize) -> Option<Value> {
        let text = self.maybe(at)?;
        Some(json::read(&text).unwrap_or(Value::String(text))).filter(|value| !value.is_null())
    }

    /// None for what is no object, and an empty one where nothing is stored.
    fn object(&self, at: usize) -> Option<Option<Map<String, Value>>> {
        match self.json(at) {
            None => Some(None),
            Some(Value::Object(map)) => Some(Some(map)),
            Some(_) => None,
        }
    }
}

fn stage(c: &Cells, at: usize) -> Stage {
    c.maybe(at).map_or(Stage::Active, |stage| Stage::read(&stage))
}

pub(super) fn logged_status(number: i64) -> ModelStatus {
    match number {
        2 => ModelStatus::Ready,
        3 => ModelStatus::Failed,
        _ => ModelStatus::Pending,
    }
}

/// Metadata of a trace that newer schemas have columns for.
fn summary(c: &Cells) -> Vec<Pair> {
    let tokens = ["input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];
    let tokens = tokens.into_iter().chain(["cache_creation_input_tokens_above_1hr"]).enumerate();
    let tokens: Vec<KeyValue> = tokens.filter_map(|(at, name)| Some(KeyValue::new(name, Any::Int(c.maybe_int(14 + at)?)))).collect();
    let costs = ["input_cost", "output_cost", "total_cost"].into_iter().enumerate();
    let costs: Vec<KeyValue> =
        costs.filter_map(|(at, name)| c.maybe(20 + at).map(|_| KeyValue::new(name, Any::Double(c.number(20 + at, false))))).collect();
    let json = |values| AnyValue { value: Some(Any::Members(KeyValueList { values })) }.to_json();
    let session = c.maybe(13);
    let usage = (!tokens.is_empty()).then(|| json(tokens));
    let cost = (!costs.is_empty()).then(|| json(costs));
    let known = [(key::SESSION, session), (key::TRACE_USAGE, usage), (key::TRACE_COST, cost)];
    known.into_iter().filter_map(|(key, value)| Some(Pair { key: key.into(), value: value? })).collect()
}

/// None where what is stored is not what was written.
fn assessment(c: &Cells) -> Option<Assessment> {
    let kind = AssessmentKind::read(&c.text(4));
    let value = c.json(5).unwrap_or_default();
    let metadata = c.object(15)?.unwrap_or_default();
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    Some(Assessment {
        id: c.text(1),
        trace: c.text(2),
        name: c.text(3),
        value: if kind == AssessmentKind::Issue { value.get("issue_name").cloned().unwrap_or_default() } else { value },
        kind,
        error: c.json(6),
        created: c.int(7),
        updated: c.int(8),
        source_type: c.text(9),
        source_id: c.text(10),
        span_id: c.maybe(11),
        rationale: c.maybe(12),
        overrides: c.maybe(13),
        is_valid: c.maybe_int(14) != Some(0),
        metadata: metadata.iter().map(|(key, value)| (key.clone(), word(value))).collect(),
    })
}

/// None where what is stored is not what was written.
fn record(c: &Cells) -> Option<EvaluationRecord> {
    Some(EvaluationRecord {
        id: c.text(1),
        inputs: c.object(3)??,
        // Outputs may be anything, and a column of JSON is an object.
        outputs: c.json(4).map(|outputs| outputs.get("mlflow_wrapped").cloned().unwrap_or(outputs)),
        expectations: c.object(5)?,
        tags: c.object(6)?,
        source: c.json(7),
        created: c.int(8),
        updated: c.int(9),
        created_by: c.maybe(10),
        updated_by: c.maybe(11),
    })
}

/// A database of MLflow, open to be read. Everything here blocks.
pub(super) struct Database {
    db: Foreign,
    tables: HashMap<String, HashSet<String>>,
    /// SQLite's number of the state that this connection saw first.
    version: i64,
    /// The schema is one that this release has not seen.
    pub is_unknown: Option<String>,
}

impl Database {
    /// # Errors
    /// When the file is none, or holds something else.
    pub fn open(path: &Path) -> Result<Database> {
        let name = path.display().to_string();
        let db = Foreign::open(path).map_err(|e| Error::invalid(format!("cannot open {name}: {e}{}", unfinished(path))))?;
        let sql = "SELECT m.name, p.name FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table'";
        Database::of(db, &name, sql, || unfinished(path), "bring a copy of it up to date with `mlflow db upgrade sqlite:///COPY`")
    }

    /// # Errors
    /// When it cannot be reached, or holds something else.
    pub fn connect(url: &str) -> Result<Database> {
        let mut config = config(url)?;
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        let name = format!("the database `{}`", config.get_dbname().unwrap_or_default());
        let mut db = Foreign::connect(&config)?;
        // Other tables of the same names may come before its own, those of Kilter for one.
        let sql =
            "SELECT set_config('search_path', quote_ident(n.nspname), TRUE) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relname = 'alembic_version' AND pg_table_is_visible(c.oid)";
        db.rows(sql, &[]).map_err(failed)?;
        let sql = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                   WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace
                       AND a.attnum > 0 AND NOT a.attisdropped";
        Database::of(db, &name, sql, String::new, "bring it up to date with `mlflow db upgrade`")
    }

    /// `columns` says which table has which, `why` more about what cannot be read, and `upgrade` what to do about a schema that is too old.
    fn of(mut db: Foreign, name: &str, columns: &str, why: impl Fn() -> String, upgrade: &str) -> Result<Database> {
        let not_one = |why: String| Error::invalid(format!("{name} is not a tracking store of MLflow: {why}"));
        let columns = db.rows(columns, &[]).map_err(|e| not_one(format!("it cannot be read ({e}){}", why())))?;
        let version = data_version(&mut db)?;
        let mut tables: HashMap<String, HashSet<String>> = HashMap::new();
        for row in &columns {
            tables.entry(Cells(row).text(1)).or_default().insert(Cells(row).text(2));
        }
        if !tables.contains_key("alembic_version") {
            return Err(not_one("it has no table `alembic_version`".into()));
        }
        let schema = db.rows("SELECT version_num FROM alembic_version", &[]).map_err(failed)?;
        let schema = schema.first().map(|row| Cells(row).text(1)).unwrap_or_default();
        let missing = NEEDED.iter().flat_map(|(table, columns)| columns.iter().map(move |column| (*table, *column)));
        let mut missing = missing.filter(|(table, column)| !tables.get(*table).is_some_and(|known| known.contains(*column)));
        if let Some((table, column)) = missing.next() {
            return Err(not_one(format!("it has no column `{column}` in a table `{table}` (schema {schema})\n  hint: {upgrade}")));
        }
        let is_known = SCHEMAS.split_whitespace().any(|known| known == schema);
        Ok(Database { db, tables, version, is_unknown: (!is_known).then_some(schema) })
    }

    /// Whether another connection wrote to it since it was opened, so that what was read is no state that ever was.
    pub fn has_changed(&mut self) -> Result<bool> {
        Ok(data_version(&mut self.db)? != self.version)
    }

    /// All experiments but those of other workspaces, which are counted.
    pub fn experiments(&mut self) -> Result<(Vec<Experiment>, Vec<Rows>)> {
        let columns = ["t.experiment_id", "t.name", "t.artifact_location", "t.lifecycle_stage", "?creation_time", "?last_update_time"];
        let columns: Vec<String> = columns.into_iter().map(|column| self.column("experiments", column)).collect();
        let workspace = self.workspace("experiments");
        let sql = format!("SELECT {} FROM experiments t WHERE {workspace} ORDER BY t.experiment_id", columns.join(", "));
        let rows = self.rows(&sql, &[])?;
        let experiment = |row: &Vec<Cell<'static>>| {
            let c = Cells(row);
            Experiment {
                id: c.int(1),
                name: c.text(2),
                artifact_location: c.text(3),
                stage: stage(&c, 4),
                created: c.int(5),
                updated: c.maybe_int(6).unwrap_or_else(|| c.int(5)),
                tags: Vec::new(),
            }
        };
        let all = self.count("experiments", "TRUE")?;
        let others = Rows::Left(Kind::Experiments, OTHER_WORKSPACE.into(), all.saturating_sub(rows.len() as u64));
        Ok((rows.iter().map(experiment).collect(), vec![others]))
    }

    /// Names of registered models, and when each was made.
    pub fn models(&mut self) -> Result<Names> {
        if !self.tables.contains_key("registered_models") {
            return Ok(Names::new());
        }
        let sql = format!("SELECT t.name, t.creation_time FROM registered_models t WHERE {}", self.workspace("registered_models"));
        Ok(self.rows(&sql, &[])?.iter().map(|row| (Cells(row).text(1), Cells(row).int(2))).collect())
    }

    /// Ids of the runs of an experiment.
    pub fn runs_of(&mut self, experiment: i64) -> Result<Vec<String>> {
        let rows = self.rows("SELECT run_uuid FROM runs WHERE experiment_id = ?1", &[experiment.into()])?;
        Ok(rows.iter().map(|row| Cells(row).text(1)).collect())
    }

    /// Sends everything. Ends early when nobody takes it any more.
    pub fn send(&mut self, to: &mpsc::Sender<Result<Rows>>) -> Result<()> {
        for part in PARTS.iter().filter(|part| self.tables.contains_key(part.table)).collect::<Vec<_>>() {
            let columns: Vec<String> = part.columns.iter().map(|column| self.column(part.table, column)).collect();
            let filter = format!("{} AND {}", part.filter(), self.workspace(part.table));
            let select = Select { columns: &columns.join(", "), table: part.table, join: part.join, filter: &filter };
            let mut is_wanted = true;
            let see = |rows: Vec<Vec<Cell<'static>>>| {
                let cells: Vec<Cells<'_>> = rows.iter().map(|row| Cells(row)).collect();
                let read = (part.rows)(&cells);
                let damaged = rows.len() - read.len();
                let damaged = (damaged > 0).then_some(Rows::Damaged(part.kind, damaged as u64));
                is_wanted = std::iter::once(read).chain(damaged).all(|rows| to.blocking_send(Ok(rows)).is_ok());
                is_wanted
            };
            self.db.pages(&select, part.page, see).map_err(failed)?;
            if !is_wanted {
                return Ok(());
            }
        }
        if self.tables.contains_key("logged_model_metrics") { self.send_later(to) } else { Ok(()) }
    }

    /// Counts for each logged model the points that are not kept.
    fn send_later(&mut self, to: &mpsc::Sender<Result<Rows>>) -> Result<()> {
        let mut last = String::new();
        loop {
            let sql = "SELECT model_id, CAST(SUM(points) AS BIGINT) - COUNT(*) FROM
                           (SELECT model_id, COUNT(*) AS points FROM logged_model_metrics
                            WHERE model_id IN (SELECT DISTINCT model_id FROM logged_model_metrics WHERE model_id > ?1 ORDER BY model_id LIMIT 1000)
                            GROUP BY model_id, metric_name, COALESCE(dataset_name, ''), COALESCE(dataset_digest, '')) AS kept
                       GROUP BY model_id ORDER BY model_id";
            let rows = self.rows(sql, &[last.as_str().into()])?;
            let Some(end) = rows.last() else { return Ok(()) };
            last = Cells(end).text(1);
            for c in rows.iter().map(|row| Cells(row)) {
                let merged = Rows::Merged(Kind::LoggedPoints, c.text(1), LATER, c.int(2).unsigned_abs());
                if to.blocking_send(Ok(merged)).is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// How much there is of everything, those of other workspaces and things that are not kept noted as left out.
    pub fn counts(&mut self, tally: &mut Tally) -> Result<Vec<(Kind, u64)>> {
        let mut counts = vec![(Kind::Experiments, self.count("experiments", "TRUE")?)];
        for part in PARTS.iter().filter(|part| self.tables.contains_key(part.table)).collect::<Vec<_>>() {
            let all = self.count(part.table, part.filter())?;
            let workspace = self.workspace(part.table);
            let here = if workspace == "TRUE" { all } else { self.count(part.table, &format!("{} AND {workspace}", part.filter()))? };
            // The second count is a later one.
            let others = all.saturating_sub(here);
            tally.read(part.kind, others);
            tally.left(part.kind, OTHER_WORKSPACE, others);
            counts.push((part.kind, all));
        }
        for (table, what) in NOT_KEPT {
            if self.tables.contains_key(table) {
                let rows = self.count(table, "TRUE")?;
                if rows > 0 {
                    tally.notes.insert(format!("{what} stay behind: Kilter keeps none"), rows);
                }
            }
        }
        Ok(counts)
    }

    fn rows(&mut self, sql: &str, values: &[Cell<'_>]) -> Result<Vec<Vec<Cell<'static>>>> {
        self.db.rows(sql, values).map_err(failed)
    }

    fn column(&self, table: &str, column: &str) -> String {
        match column.strip_prefix('?') {
            None => column.to_string(),
            // Whether the spans of a trace are in the database, not in a file.
            Some("spans") if self.tables.contains_key("spans") => {
                "(SELECT 'TRACKING_STORE' FROM spans s WHERE s.trace_id = t.request_id LIMIT 1)".into()
            }
            Some(name) if self.tables.get(table).is_some_and(|known| known.contains(name)) => format!("t.{name}"),
            Some(_) => "NULL".into(),
        }
    }

    fn workspace(&self, table: &str) -> &'static str {
        let has = self.tables.get(table).is_some_and(|known| known.contains("workspace"));
        if has { "t.workspace = 'default'" } else { "TRUE" }
    }

    /// A file is counted in steps, so that it is not held for longer than one of them takes.
    fn count(&mut self, table: &str, filter: &str) -> Result<u64> {
        let in_steps = format!(
            "SELECT COUNT(*), MAX(at) FROM (SELECT t.rowid AS at FROM {table} t WHERE t.rowid > ?1 AND {filter} ORDER BY t.rowid LIMIT {COUNTED})"
        );
        let (sql, mut last) = match self.db.dialect() {
            Dialect::Sqlite => (in_steps, vec![Cell::Int(i64::MIN)]),
            Dialect::Postgres => (format!("SELECT COUNT(*), NULL::bigint FROM {table} t WHERE {filter}"), Vec::new()),
        };
        let mut all = 0;
        loop {
            let rows = self.rows(&sql, &last)?;
            let Some(c) = rows.first().map(|row| Cells(row)) else { return Ok(all) };
            all += c.int(1).unsigned_abs();
            let Some(end) = c.maybe_int(2) else { return Ok(all) };
            last = vec![Cell::Int(end)];
        }
    }
}

/// A state of SQLite has a number; of PostgreSQL only one is seen.
fn data_version(db: &mut Foreign) -> Result<i64> {
    if db.dialect() == Dialect::Postgres {
        return Ok(0);
    }
    let rows = db.rows("PRAGMA data_version", &[]).map_err(failed)?;
    Ok(rows.first().map(|row| Cells(row).int(1)).unwrap_or_default())
}

/// A hint where something lies beside a database that SQLite has to work in before anybody can read it, for which it writes to the folder.
fn unfinished(path: &Path) -> String {
    for ending in ["-wal", "-journal"] {
        let beside = format!("{}{ending}", path.display());
        if Path::new(&beside).exists() {
            return format!(
                "\n  hint: {beside} has to be worked in first: copy both to a folder that can be written to, and import from there"
            );
        }
    }
    String::new()
}

fn failed(what: String) -> Error {
    Error::invalid(format!("cannot read MLflow's database: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_worked_in_first_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mlflow.db");
        assert_eq!(unfinished(&path), "");
        std::fs::write(dir.path().join("mlflow.db-journal"), "").unwrap();
        assert!(unfinished(&path).contains("mlflow.db-journal has to be worked in first"));
    }
}
