//! The settings of a learner: their names, kinds and defaults are those of the learner's own struct.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kilter_core::Problem;
use kilter_learn::{Explainable, Forest, Gbdt, Isolation, LearnError, Learner, Linear, Logistic, Matrix, Scorecard, Task, TrainingSet};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::definitions::{LearnerKind, ModelDef, Word};

/// Settings that a model gives by keys of its own.
const ELSEWHERE: [&str; 3] = ["seed", "monotone", "categorical"];

fn defaults(kind: LearnerKind) -> Map<String, Value> {
    let value = match kind {
        LearnerKind::Gbdt => serde_json::to_value(Gbdt::default()).map(with_newer_settings).map(|s| with_target("objective", s)),
        LearnerKind::Forest => serde_json::to_value(Forest::default()).map(|s| with_target("target", s)),
        LearnerKind::Explainable => serde_json::to_value(Explainable::default()).map(|s| with_target("target", s)),
        LearnerKind::Logistic => serde_json::to_value(Logistic::default()),
        LearnerKind::Scorecard => serde_json::to_value(Scorecard::default()),
        LearnerKind::Linear => serde_json::to_value(Linear::default()),
        LearnerKind::Isolation => serde_json::to_value(Isolation::default()),
    };
    match value {
        Ok(Value::Object(map)) => map.into_iter().filter(|(name, _)| !ELSEWHERE.contains(&name.as_str())).collect(),
        _ => Map::new(),
    }
}

/// So is what is predicted, where it is a probability.
fn with_target(name: &str, mut settings: Value) -> Value {
    if let Value::Object(map) = &mut settings {
        map.insert(name.into(), "binary".into());
    }
    settings
}

/// Those that are left out of a file where they are as they were, so that definitions of before keep their hash.
fn with_newer_settings(mut settings: Value) -> Value {
    let Gbdt { cat_smooth, cat_l2, max_cat_threshold, max_cat_to_onehot, min_group_rows, max_cat_groups, .. } = Gbdt::default();
    let Gbdt { growth, sampling, monotone_method, .. } = Gbdt::default();
    if let Value::Object(map) = &mut settings {
        let words = [
            ("growth", serde_json::json!(growth)),
            ("sampling", serde_json::json!(sampling)),
            ("monotone_method", serde_json::json!(monotone_method)),
        ];
        words.into_iter().for_each(|(name, default)| drop(map.insert(name.into(), default)));
        for (name, default) in [("cat_smooth", cat_smooth), ("cat_l2", cat_l2)] {
            map.insert(name.into(), default.into());
        }
        let whole = [
            ("max_cat_threshold", max_cat_threshold),
            ("max_cat_to_onehot", max_cat_to_onehot),
            ("min_group_rows", min_group_rows),
            ("max_cat_groups", max_cat_groups),
        ];
        whole.into_iter().for_each(|(name, default)| drop(map.insert(name.into(), default.into())));
    }
    settings
}

/// What the model of these definitions predicts; none: its settings are wrong.
pub(super) fn task(def: &ModelDef) -> Option<Task> {
    learner(def.learner, &def.params, def.seed, Vec::new()).ok().map(|learner| learner.task())
}

/// Names of the settings, with their defaults.
pub(super) fn settings(kind: LearnerKind) -> Vec<(String, Value)> {
    defaults(kind).into_iter().collect()
}

/// The learner with these settings; or what is wrong, each with the name of its setting.
pub(super) fn learner(
    kind: LearnerKind,
    params: &BTreeMap<String, Value>,
    seed: u64,
    monotone: Vec<i8>,
) -> Result<Learner, Vec<(String, Problem)>> {
    let defaults = defaults(kind);
    let mut values = Map::new();
    let mut problems = Vec::new();
    for (name, value) in params {
        let Some(default) = defaults.get(name) else {
            let problem = if ELSEWHERE.contains(&name.as_str()) {
                Problem::new("misplaced", format!("`{name}` is not a setting of the learner"))
                    .hint(format!("`{name}` is a key of the model itself, beside `params`"))
            } else {
                Problem::unknown("unknown_param", "setting", name, defaults.keys().map(String::as_str))
            };
            problems.push((name.clone(), problem));
            continue;
        };
        // TOML has no null; `early_stopping = false` says the same.
        let off = value == &Value::Bool(false) && may_be_off(kind, name);
        let value = if off { Value::Null } else { unfolded(value) };
        let value = &value;
        match build(kind, &Map::from_iter([(name.clone(), value.clone())])) {
            Ok(learner) => match out_of_range(&learner) {
                Some((_, must)) => {
                    let problem = Problem::new("out_of_range", format!("`{name}` is {value}"))
                        .hint(format!("it must be {must}; its default is {default}"));
                    problems.push((name.clone(), problem));
                }
                None => {
                    values.insert(name.clone(), value.clone());
                }
            },
            Err(e) if default.is_string() || default.is_object() => {
                let problem = Problem::new("wrong_type", format!("`{name}` is {value}: {e}"));
                problems.push((name.clone(), problem.hint(format!("its default is {default}"))));
            }
            Err(_) => {
                let needed = match default {
                    Value::Bool(_) => "true or false",
                    Value::Number(n) if n.is_f64() => "a number",
                    _ => "a whole number of 0 or more",
                };
                let problem =
                    Problem::new("wrong_type", format!("`{name}` must be {needed}, not {value}")).hint(format!("its default is {default}"));
                problems.push((name.clone(), problem));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let built = build(kind, &values);
    // Each by itself may be what another does not go with.
    if let Some((name, must)) = built.as_ref().ok().and_then(out_of_range) {
        let problem = Problem::new("out_of_range", format!("with these settings `{name}` must be {must}"));
        let at = if values.contains_key(name) { name.to_owned() } else { values.keys().next().cloned().unwrap_or_default() };
        return Err(vec![(at, problem.hint("change one of the two"))]);
    }
    match built {
        Ok(Learner::Gbdt(gbdt)) => Ok(Learner::Gbdt(Gbdt { seed, monotone, ..gbdt })),
        Ok(Learner::Forest(forest)) => Ok(Learner::Forest(Forest { seed, ..forest })),
        Ok(Learner::Explainable(additive)) => Ok(Learner::Explainable(Explainable { seed, monotone, ..additive })),
        Ok(Learner::Isolation(isolation)) => Ok(Learner::Isolation(Isolation { seed, ..isolation })),
        Ok(learner) => Ok(learner),
        Err(e) => Err(vec![(String::new(), Problem::new("bad_param", format!("the settings do not fit the learner: {e}")))]),
    }
}

/// A table in a table is read as dotted names, which inputs have; the number of an objective's loss is no input.
fn unfolded(value: &Value) -> Value {
    let dotted = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next());
    match dotted.and_then(|(name, value)| Some((name.split_once('.')?, value))) {
        Some(((loss, number), value)) if [HUBER, QUANTILE, TWEEDIE].contains(&(loss, number)) => {
            serde_json::json!({ loss: { number: value } })
        }
        _ => value.clone(),
    }
}

const HUBER: (&str, &str) = ("huber", "delta");
const QUANTILE: (&str, &str) = ("quantile", "level");
const TWEEDIE: (&str, &str) = ("tweedie", "power");

fn build(kind: LearnerKind, values: &Map<String, Value>) -> Result<Learner, serde_json::Error> {
    let values = Value::Object(values.clone());
    Ok(match kind {
        LearnerKind::Gbdt => Learner::Gbdt(serde_json::from_value(values)?),
        LearnerKind::Forest => Learner::Forest(serde_json::from_value(values)?),
        LearnerKind::Explainable => Learner::Explainable(serde_json::from_value(values)?),
        LearnerKind::Logistic => Learner::Logistic(serde_json::from_value(values)?),
        LearnerKind::Scorecard => Learner::Scorecard(serde_json::from_value(values)?),
        LearnerKind::Linear => Learner::Linear(serde_json::from_value(values)?),
        LearnerKind::Isolation => Learner::Isolation(serde_json::from_value(values)?),
    })
}

/// Whether a setting can be switched off.
pub(super) fn may_be_off(kind: LearnerKind, name: &str) -> bool {
    build(kind, &Map::from_iter([(name.to_owned(), Value::Null)])).is_ok()
}

/// The setting that a learner refuses, and what it must be. A learner looks at its settings before its rows, so no rows are enough to ask.
fn out_of_range(learner: &Learner) -> Option<(&'static str, &'static str)> {
    let nothing = TrainingSet::new(Matrix::with_columns(vec!["x".to_owned()]), Vec::new());
    match learner.fit(&nothing) {
        Err(LearnError::BadParameter { name, must, .. }) => Some((name, must)),
        _ => None,
    }
}

/// The settings of all learners, for the editor.
pub(super) struct ParamsSchema;

impl JsonSchema for ParamsSchema {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Params".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut properties = Map::new();
        for (kind, learner) in LearnerKind::WORDS.iter().map(|(word, kind)| (*kind, *word)) {
            for (name, default) in settings(kind) {
                let switch_off = may_be_off(kind, &name);
                let number = match &default {
                    Value::String(_) => "string",
                    Value::Object(_) => "object",
                    Value::Bool(_) => "boolean",
                    default if default.is_f64() => "number",
                    _ => "integer",
                };
                // The loss of an objective may have a number of its own: `{ quantile = { level = 0.9 } }`.
                let kind = if name == "objective" {
                    serde_json::json!([number, "object"])
                } else if switch_off {
                    serde_json::json!([number, "boolean"])
                } else {
                    serde_json::json!(number)
                };
                let own = format!("Of the learner {learner}; default {default}.");
                // Learners share names of settings, not defaults.
                let description = match properties.get(&name) {
                    Some(of_others) => format!("{} {own}", of_others["description"].as_str().unwrap_or_default()),
                    None => own,
                };
                properties.insert(name, serde_json::json!({ "type": kind, "description": description }));
            }
        }
        json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}
