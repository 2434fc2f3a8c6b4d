//! Everything a project defines, one thing at a time, each with a hash of exactly what gives it meaning.
//!
//! What an object rests on counts by name and type, and by the hash of what it names: a view by the columns it reads, a model by its
//! features. Comments, descriptions, the order of sections and what only the door looks at do not enter.

use std::collections::BTreeMap;

use kilter_features::View;
use kilter_pipeline::{ContextPlan, Plan, ServicePlan, label_of};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Project;
use super::definitions::{FeatureDef, Named};
use super::hash::{columns, door, plain, written};
use crate::meaning::{line_of, meaning};

/// What kind of thing is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Source,
    View,
    Feature,
    Service,
    Model,
    Decision,
    Schedule,
    Monitor,
}

/// One defined thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Object {
    pub kind: Kind,
    pub name: String,
    /// The first 16 hex digits of a BLAKE3 hash.
    pub hash: String,
    /// Features of a view, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Object>,
    /// Its own lines.
    #[serde(skip)]
    pub own: Value,
    /// What they name elsewhere, and what that means.
    #[serde(skip)]
    pub rests_on: BTreeMap<String, String>,
}

/// Digits of an object's hash.
const DIGITS: usize = 16;

impl Object {
    fn new(kind: Kind, name: &str, own: Value, rests_on: BTreeMap<String, String>, features: Vec<Object>) -> Object {
        let parts: Vec<Value> = features.iter().map(|f| json!([f.name, f.hash])).collect();
        let hash = digits(&written(&json!({ "own": own, "rests_on": rests_on, "features": parts })));
        Object { kind, name: name.to_owned(), hash, features, own, rests_on }
    }
}

fn digits(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..DIGITS].to_owned()
}

/// All objects of a project, by kind and in the order of the file.
pub fn objects(project: &Project) -> Vec<Object> {
    let (plan, definitions) = (&project.plan, &project.definitions);
    let views: Vec<Object> = plan.views.iter().map(|v| view(project, v)).collect();
    let mut all: Vec<Object> = definitions
        .source
        .iter()
        .map(|(name, def)| {
            let own = with(plain(def), "columns", columns(&def.columns));
            Object::new(Kind::Source, name, own, BTreeMap::new(), Vec::new())
        })
        .collect();
    let services = definitions.service.iter().filter_map(|(name, def)| {
        let service = &plan.services[plan.service(name)?];
        Some(Object::new(Kind::Service, name, plain(def), of_service(plan, service, &views), Vec::new()))
    });
    let models = definitions.model.iter().enumerate().map(|(i, (name, def))| {
        let model = &plan.models[i];
        let slots = model.inputs.iter().flat_map(|input| input.expr.slots().iter().copied());
        let mut rests_on = named(plan, &model.context, &views, slots);
        rests_on.insert("label".to_owned(), label_of(plan, i));
        Object::new(Kind::Model, name, plain(def), rests_on, Vec::new())
    });
    let decisions = definitions.decision.iter().enumerate().map(|(i, (name, def))| {
        let decision = &plan.decisions[i];
        let slots = decision.policy.iter().filter_map(|rule| rule.when.as_ref()).flat_map(|when| when.slots().iter().copied());
        let mut rests_on = named(plan, &decision.context, &views, slots);
        rests_on.extend(decision.model.map(|m| inputs_of(plan, m)));
        Object::new(Kind::Decision, name, plain(def), rests_on, Vec::new())
    });
    let schedules =
        definitions.schedule.iter().map(|(name, def)| Object::new(Kind::Schedule, name, plain(def), BTreeMap::new(), Vec::new()));
    let monitors = definitions.monitor.iter().enumerate().map(|(i, (name, def))| {
        let model = plan.monitors[i].model;
        let rests_on = BTreeMap::from([inputs_of(plan, model), ("label".to_owned(), label_of(plan, model))]);
        Object::new(Kind::Monitor, name, plain(def), rests_on, Vec::new())
    });
    let services: Vec<Object> = services.collect();
    let (models, decisions, schedules, monitors): (Vec<_>, Vec<_>, Vec<_>, Vec<_>) =
        (models.collect(), decisions.collect(), schedules.collect(), monitors.collect());
    all.extend(views);
    all.extend(services);
    all.extend(models);
    all.extend(decisions);
    all.extend(schedules);
    all.extend(monitors);
    all.extend(definitions.watch.iter().map(|(name, def)| Object::new(Kind::Monitor, name, plain(def), BTreeMap::new(), Vec::new())));
    all
}

/// What the features of a service mean: their lines over their views, for the keys that its readers name.
fn of_service(plan: &Plan, service: &ServicePlan, views: &[Object]) -> BTreeMap<String, String> {
    let slots = service.features.iter().flat_map(|f| f.expr.slots().iter().copied());
    let of = |slot: usize| {
        let lookup = &service.lookups[service.lookup_of(slot)?];
        let view = views.iter().find(|v| v.name == plan.views[lookup.view].name())?;
        let feature = view.features.get(slot - lookup.first_slot)?;
        let keys: Vec<&str> = lookup.key.iter().map(|k| service.keys[*k].name.as_str()).collect();
        Some((format!("{}.{}", view.name, feature.name), digits(&written(&json!([feature.hash, view.own, keys])))))
    };
    slots.filter_map(of).collect()
}

fn inputs_of(plan: &Plan, model: usize) -> (String, String) {
    (format!("inputs of model {}", plan.models[model].name), meaning(plan, model)[..DIGITS].to_owned())
}

fn view(project: &Project, view: &View) -> Object {
    let source = &project.plan.sources[usize::from(view.source().0)];
    let own: Map<String, Value> = [
        ("source", json!(source.name)),
        ("entity", json!(view.entity())),
        ("where", json!(view.filter())),
        ("lateness", json!(source.lateness.to_string())),
        ("ttl", json!(view.ttl().map(|ttl| ttl.to_string()))),
        ("time_zone", json!(view.time_zone())),
        ("changes", if view.changes() { json!(true) } else { Value::Null }),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_null())
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let features = view
        .features()
        .iter()
        .map(|f| {
            let mut line = json!({ "value": line_of(f), "type": f.data_type.name() });
            let text = |span: &kilter_core::Span| json!(span.to_string());
            let rest = [
                ("window", Some(json!(f.over)).filter(|_| !matches!(f.over.as_str(), "" | "lifetime"))),
                ("rests_on", Some(json!(f.rests_on)).filter(|_| !f.rests_on.is_empty())),
                ("hop", f.hop.as_ref().map(text)),
                ("default", f.default.as_ref().map(|d| json!(d))),
            ];
            for (key, value) in rest.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                line[key] = value;
            }
            Object::new(Kind::Feature, &f.name, line, BTreeMap::new(), Vec::new())
        })
        .collect();
    let reads = view.reads();
    let rests_on =
        reads.iter().map(|c| &source.schema.fields[*c]).map(|f| (format!("{}.{}", source.name, f.name), f.data_type.to_string()));
    let needs = view.needs().filter_map(|name| project.plan.view(name)).map(|v| &project.plan.views[v]);
    let rests_on = rests_on.chain(needs.map(|v| (format!("features {}", v.name()), digits(&v.state_name()))));
    Object::new(Kind::View, view.name(), Value::Object(own), rests_on.collect(), features)
}

/// What slots of a context stand for: columns by their type, features by their hash.
fn named(plan: &Plan, context: &ContextPlan, views: &[Object], slots: impl Iterator<Item = usize>) -> BTreeMap<String, String> {
    let source = &plan.sources[usize::from(context.source.0)];
    let name_of = |slot: usize| -> Option<(String, String)> {
        if let Some(column) = source.schema.fields.get(slot) {
            return Some((format!("{}.{}", source.name, column.name), column.data_type.to_string()));
        }
        let lookup = context.lookups.iter().rev().find(|l| l.first_slot <= slot)?;
        let view = &views[lookup.view];
        let feature = view.features.get(slot - lookup.first_slot)?;
        let keys: Vec<&str> = lookup.key.iter().filter_map(|c| source.schema.fields.get(*c)).map(|f| f.name.as_str()).collect();
        // A feature means its line over its view's events, for the entity that the row names.
        let of = digits(&written(&json!([feature.hash, view.own, keys])));
        Some((format!("{}.{}", view.name, feature.name), of))
    };
    slots.filter_map(name_of).collect()
}

fn with(mut value: Value, key: &str, part: Option<Value>) -> Value {
    if let (Value::Object(map), Some(part)) = (&mut value, part) {
        map.insert(key.to_owned(), part);
    }
    value
}

/// One thing that is other than it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where in the definition: `columns.amount.type`.
    pub what: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What differs between an object's own lines and what it rests on, then and now.
pub fn differences(old: &Object, new: &Object) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(&old.own), Some(&new.own), &mut found);
    let names: std::collections::BTreeSet<&String> = old.rests_on.keys().chain(new.rests_on.keys()).collect();
    for name in names {
        let (was, is) = (old.rests_on.get(name).cloned(), new.rests_on.get(name).cloned());
        if was != is {
            found.push(Difference { what: name.clone(), old: was, new: is });
        }
    }
    found
}

/// What differs between two files without an effect on results: server, log and snapshot settings, and what the door or people look at.
pub fn beside(old: &Project, new: &Project) -> Vec<Difference> {
    let both = |of: &Project| {
        let definitions = &of.definitions;
        let sources: Map<String, Value> = definitions
            .source
            .iter()
            .map(|(name, def)| {
                let columns = def.columns.iter().map(|(name, column)| (name.to_owned(), door(column))).collect::<Map<_, _>>();
                (name.to_owned(), with(door(def), "columns", Some(Value::Object(columns))))
            })
            .collect();
        let views: Map<String, Value> = definitions
            .features
            .iter()
            .map(|(name, def)| {
                let lines = |of: &Named<FeatureDef>| of.iter().map(|(name, line)| (name.to_owned(), door(line))).collect::<Map<_, _>>();
                let own = with(door(def), "columns", Some(Value::Object(lines(&def.columns))));
                (name.to_owned(), with(own, "derived", Some(Value::Object(lines(&def.derived)))))
            })
            .collect();
        json!({
            "project": { "name": definitions.project.name },
            "server": serde_json::to_value(&definitions.server).unwrap_or_default(),
            "log": serde_json::to_value(&definitions.log).unwrap_or_default(),
            "snapshot": serde_json::to_value(&definitions.snapshot).unwrap_or_default(),
            "state": serde_json::to_value(&definitions.state).unwrap_or_default(),
            "source": sources,
            "features": views,
            "service": definitions.service.iter().map(|(name, def)| (name.to_owned(), door(def))).collect::<Map<_, _>>(),
            "model": definitions.model.iter().map(|(name, def)| (name.to_owned(), door(def))).collect::<Map<_, _>>(),
            "decision": definitions.decision.iter().map(|(name, def)| (name.to_owned(), door(def))).collect::<Map<_, _>>(),
        })
    };
    let mut found = Vec::new();
    compare("", Some(&both(old)), Some(&both(new)), &mut found);
    // What comes or goes is told of elsewhere.
    let has = |of: &Project, path: &[&str]| {
        let definitions = &of.definitions;
        match path {
            ["source", name] => definitions.source.get(name).is_some(),
            ["source", name, "columns", column] => definitions.source.get(name).is_some_and(|s| s.columns.get(column).is_some()),
            ["features", name] => definitions.features.get(name).is_some(),
            ["features", name, "columns", line] => definitions.features.get(name).is_some_and(|v| v.columns.get(line).is_some()),
            ["features", name, "derived", line] => definitions.features.get(name).is_some_and(|v| v.derived.get(line).is_some()),
            ["service", name] => definitions.service.get(name).is_some(),
            ["model", name] => definitions.model.get(name).is_some(),
            ["decision", name] => definitions.decision.get(name).is_some(),
            _ => true,
        }
    };
    let known = |what: &str| {
        let path: Vec<&str> = what.split('.').collect();
        has(old, &path) == has(new, &path)
    };
    found.retain(|d| known(&d.what));
    found
}

/// Walks two JSON values side by side; a list of `[name, value]` is compared by name.
fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old.and_then(members), new.and_then(members)) {
        (Some(was), Some(is)) => {
            let before = found.len();
            for (key, value) in &was {
                compare(&below(key), Some(value), is.iter().find(|(k, _)| k == key).map(|(_, v)| *v), found);
            }
            for (key, value) in is.iter().filter(|(key, _)| !was.iter().any(|(k, _)| k == key)) {
                compare(&below(key), None, Some(value), found);
            }
            if found.len() == before {
                found.push(Difference { what: path.to_owned(), old: Some("in another order".to_owned()), new: None });
            }
        }
        _ => match (old.and_then(Value::as_array), new.and_then(Value::as_array)) {
            (Some(was), Some(is)) => lists(path, was, is, found),
            _ => found.push(Difference { what: path.to_owned(), old: old.map(shown), new: new.map(shown) }),
        },
    }
}

/// Lists of one length place by place; else what has gone and what has come.
fn lists(path: &str, was: &[Value], is: &[Value], found: &mut Vec<Difference>) {
    let mut push = |old: Option<&Value>, new: Option<&Value>| {
        found.push(Difference { what: path.to_owned(), old: old.map(shown), new: new.map(shown) });
    };
    if was.len() == is.len() {
        was.iter().zip(is).filter(|(was, is)| was != is).for_each(|(was, is)| push(Some(was), Some(is)));
        return;
    }
    was.iter().filter(|v| !is.contains(v)).for_each(|gone| push(Some(gone), None));
    is.iter().filter(|v| !was.contains(v)).for_each(|come| push(None, Some(come)));
    if was.iter().all(|v| is.contains(v)) && is.iter().all(|v| was.contains(v)) {
        let all = |of: &[Value]| Value::Array(of.to_vec());
        push(Some(&all(was)), Some(&all(is)));
    }
}

fn members(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(map) => Some(map.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Value::Array(items) => items
            .iter()
            .map(|item| match item.as_array().map(Vec::as_slice) {
                Some([Value::String(name), value]) => Some((name.as_str(), value)),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// A value as in the file: texts bare, a rule as `when ... -> outcome`.
fn shown(value: &Value) -> String {
    let rule = |v: &Value| {
        v["outcome"].as_str().map(|outcome| match v["when"].as_str() {
            Some(when) => format!("{when} -> {outcome}"),
            None => format!("otherwise -> {outcome}"),
        })
    };
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join("; "),
        Value::Object(_) if rule(value).is_some() => rule(value).unwrap_or_default(),
        Value::Object(map) => match map.get("type").filter(|_| map.len() == 1) {
            Some(only) => shown(only),
            None => map.iter().map(|(k, v)| format!("{k} {}", shown(v))).collect::<Vec<_>>().join(", "),
        },
        other => other.to_string(),
    }
}
