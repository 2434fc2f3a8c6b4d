//! What is defined, and how it is doing.

use std::collections::BTreeMap;

use axum::extract::State;
use kilter_core::{EntityKey, EventTime, Span};
use kilter_pipeline::{ClockMode, When};
use kilter_runtime::project::{PersonalData, described, personal_column};
use kilter_runtime::{Percentiles, Status as Counters, next_tick, project};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::input::Params;
use crate::routes::changes::Apply;
use crate::routes::lake::{BundleState, LakeState};
use crate::routes::sources::{SinkState, SourceState, ViewEvents};
use crate::wire::Moment;

/// The project's definitions as they run.
#[derive(Serialize, ToSchema)]
pub struct Project {
    #[schema(example = "credit-risk")]
    name: String,
    /// Hash of the definitions that influence results.
    definitions: String,
    /// `wall` or `event`: what drives schedules.
    clock: &'static str,
    sources: Vec<Source>,
    views: Vec<View>,
    services: Vec<ServiceOfProject>,
    models: Vec<ModelOfProject>,
    decisions: Vec<DecisionOfProject>,
    schedules: Vec<Schedule>,
    monitors: Vec<String>,
    /// Everything defined, each with a hash of what gives it meaning.
    objects: Vec<ObjectHash>,
}

/// A named list of features over one or several views.
#[derive(Serialize, ToSchema)]
pub struct ServiceOfProject {
    #[schema(example = "scoring")]
    name: String,
    /// What a question names, by type.
    #[schema(example = json!({ "customer_id": "int64" }))]
    keys: BTreeMap<String, String>,
    views: Vec<String>,
    owner: Option<String>,
    description: Option<String>,
    /// In the order of the definition, each with its type.
    features: Vec<ServiceFeature>,
}

/// One value of a service's answer.
#[derive(Serialize, ToSchema)]
pub struct ServiceFeature {
    name: String,
    #[serde(rename = "type")]
    data_type: &'static str,
    /// How it is computed; left out: it is the feature of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The columns that make it personal data; left out: it is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    personal_data: Vec<String>,
}

impl ServiceOfProject {
    fn new(project: &project::Project, personal: &PersonalData, service: &kilter_pipeline::ServicePlan) -> Self {
        let definition = project.definitions.service.get(&service.name);
        let feature = |f: &kilter_pipeline::ServiceFeature| ServiceFeature {
            name: f.name.clone(),
            data_type: f.data_type.name(),
            value: (f.text != f.name).then(|| f.text.clone()),
            personal_data: personal.of_service(service, f.expr.slots()).into_iter().collect(),
        };
        ServiceOfProject {
            name: service.name.clone(),
            owner: definition.and_then(|d| d.owner.clone()),
            description: definition.and_then(|d| d.description.clone()),
            keys: service.keys.iter().map(|k| (k.name.clone(), k.data_type.to_string())).collect(),
            views: service.lookups.iter().map(|l| project.plan.views[l.view].name().to_owned()).collect(),
            features: service.features.iter().map(feature).collect(),
        }
    }
}

/// One defined thing.
#[derive(Serialize, ToSchema)]
pub struct ObjectHash {
    /// `source`, `view`, `feature`, `service`, `model`, `decision`, `schedule` or `monitor`.
    #[schema(value_type = String, example = "view")]
    kind: project::Kind,
    name: String,
    /// The same as long as what it does is the same: comments, descriptions and the order of sections do not count.
    #[schema(example = "9a3c1f0be2d47788")]
    hash: String,
    /// Of a view.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    features: Vec<ObjectHash>,
}

impl From<project::Object> for ObjectHash {
    fn from(o: project::Object) -> Self {
        ObjectHash { kind: o.kind, name: o.name, hash: o.hash, features: o.features.into_iter().map(ObjectHash::from).collect() }
    }
}

/// A stream of events.
#[derive(Serialize, ToSchema)]
pub struct Source {
    name: String,
    owner: Option<String>,
    description: Option<String>,
    /// Where the event time comes from.
    time: String,
    /// Column of the event id.
    id: Option<String>,
    /// Columns of the primary key, where the events tell the changes of a table's rows; else none.
    key: Vec<String>,
    #[schema(example = "1d")]
    lateness: String,
    dedupe: String,
    columns: Vec<Column>,
}

/// A column of a source.
#[derive(Serialize, ToSchema)]
pub struct Column {
    name: String,
    /// `bool`, `int64`, `float64`, `string` or `timestamp`.
    #[serde(rename = "type")]
    #[schema(example = "float64")]
    data_type: &'static str,
    required: bool,
    personal_data: bool,
    description: Option<String>,
}

/// A feature view.
#[derive(Serialize, ToSchema)]
pub struct View {
    name: String,
    owner: Option<String>,
    description: Option<String>,
    source: String,
    entity: Vec<String>,
    features: Vec<Feature>,
}

/// A feature of a view.
#[derive(Serialize, ToSchema)]
pub struct Feature {
    #[schema(example = "turnover_7d")]
    name: String,
    #[serde(rename = "type")]
    data_type: &'static str,
    /// Null: over the entity's lifetime.
    window: Option<String>,
    /// As defined.
    text: String,
    description: Option<String>,
    /// The columns that make it personal data, which enter it or what it rests on; left out: it is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["customers.birth_date"]))]
    personal_data: Vec<String>,
}

/// A model's definition; `GET /v1/models/{model}` tells where it stands.
#[derive(Serialize, ToSchema)]
pub struct ModelOfProject {
    name: String,
    owner: Option<String>,
    description: Option<String>,
    on: String,
    inputs: Vec<Input>,
}

/// An input of a model.
#[derive(Serialize, ToSchema)]
pub struct Input {
    name: String,
    /// As defined.
    text: String,
    /// The columns that make it personal data; left out: it is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    personal_data: Vec<String>,
}

/// A decision's definition.
#[derive(Serialize, ToSchema)]
pub struct DecisionOfProject {
    name: String,
    owner: Option<String>,
    description: Option<String>,
    source: String,
    model: Option<String>,
    outcomes: Vec<String>,
    policy: Vec<PolicyRule>,
    /// The outcome while no model is in service.
    fallback: Option<String>,
}

/// A rule of a policy; the first whose condition holds decides.
#[derive(Serialize, ToSchema)]
pub struct PolicyRule {
    /// Null: always.
    when: Option<String>,
    outcome: String,
}

/// When a model is trained by itself.
#[derive(Serialize, ToSchema)]
pub struct Schedule {
    name: String,
    model: String,
    /// `7d`, or a cron expression.
    every: String,
    promote_if: Option<String>,
    /// By the clock of the project.
    next: Option<Moment>,
}

/// How the project is doing.
#[derive(Serialize, ToSchema)]
pub struct Status {
    project: String,
    /// Kilter's.
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    /// Since the start of the process, as all counts here but those of `sources` and `state`.
    events: u64,
    duplicates: u64,
    late: u64,
    dead_letters: BTreeMap<String, u64>,
    /// By decision and outcome.
    decisions: BTreeMap<String, BTreeMap<String, u64>>,
    /// What became of all that each source sent, since the data folder began.
    sources: Vec<SourceState>,
    /// Where decisions and dead letters go.
    sinks: Vec<SinkState>,
    /// The lake; null: the project has none, or nothing is known of it yet.
    lake: Option<LakeState>,
    /// Of a worker's shard; null: the project keeps no bundles, or nothing is known of them yet.
    bundle: Option<BundleState>,
    /// The offset the next event gets.
    next_offset: u64,
    /// Records before this offset survive a power cut.
    durable_offset: u64,
    /// The latest event time seen; null before the first event.
    event_time: Option<Moment>,
    snapshots: u64,
    /// Each view: the size of its state as of the last snapshot, and what became of all events of its source.
    state: Vec<ViewState>,
    /// From an event's arrival until its effect is visible to a decision.
    freshness: LatencyFigures,
    /// From a decide request's arrival until its answer is ready.
    decide: LatencyFigures,
    /// The hash of the definitions in force.
    definitions: String,
    /// The newest apply of changed definitions since the start of the process; null: none.
    apply: Option<Apply>,
}

/// How much one feature view holds.
#[derive(Serialize, ToSchema)]
pub struct ViewState {
    view: String,
    /// In memory and on disk; where the memory of the state is limited, an estimate.
    entities: usize,
    /// Those in memory.
    in_memory: usize,
    /// Tiles of those in memory.
    tiles: usize,
    /// Of those in memory, an estimate.
    bytes: usize,
    /// The entities in memory whose state takes most bytes, as of the last snapshot, largest first.
    heaviest: Vec<HeavyEntity>,
    /// The entities that most of the latest events were of, as of the last snapshot, busiest first. Counted over one event in eight; what lies
    /// half a million events back weighs half.
    busiest: Vec<BusyEntity>,
    #[serde(flatten)]
    events: ViewEvents,
}

/// An entity with much state.
#[derive(Serialize, ToSchema)]
pub struct HeavyEntity {
    /// Its key: a value, or an array of them.
    #[schema(value_type = Object)]
    entity: EntityKey,
    /// An estimate.
    bytes: usize,
}

/// An entity with many events.
#[derive(Serialize, ToSchema)]
pub struct BusyEntity {
    /// Its key: a value, or an array of them.
    #[schema(value_type = Object)]
    entity: EntityKey,
    /// Of the view's events, between 0 and 1, at most.
    share: f64,
    /// The same, at least.
    at_least: f64,
}

/// Percentiles in microseconds.
#[derive(Serialize, ToSchema)]
pub struct LatencyFigures {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

impl From<Percentiles> for LatencyFigures {
    fn from(p: Percentiles) -> Self {
        LatencyFigures { count: p.count, p50_us: p.p50_us, p99_us: p.p99_us, p999_us: p.p999_us, max_us: p.max_us }
    }
}

/// The project
///
/// Sources with their columns, feature views, models, decisions and schedules, as they run.
#[utoipa::path(
    get, path = "/v1/project", tag = "project",
    responses((status = 200, description = "the definitions", body = Project))
)]
pub async fn get_project(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let service = &app.service;
    let (plan, definitions) = (&service.plan, &service.project.definitions);
    let source_name = |id: kilter_core::SourceId| plan.sources[id.0 as usize].name.clone();
    let personal = PersonalData::of(&service.project);
    let model_name = |index: usize| plan.models[index].name.clone();
    let sources = plan.sources.iter().zip(&service.project.source_settings).map(|(source, settings)| {
        let definition = definitions.source.get(&source.name);
        Source {
            name: source.name.clone(),
            owner: definition.and_then(|d| d.owner.clone()),
            description: definition.and_then(|d| d.description.clone()),
            time: settings.time_text.clone(),
            id: settings.id.map(|i| source.schema.fields[i].name.clone()),
            key: source.key.iter().map(|i| source.schema.fields[*i].name.clone()).collect(),
            lateness: source.lateness.to_string(),
            dedupe: source.dedupe.to_string(),
            columns: source
                .schema
                .fields
                .iter()
                .enumerate()
                .map(|(i, field)| Column {
                    name: field.name.clone(),
                    data_type: field.data_type.name(),
                    required: settings.required.contains(&i),
                    personal_data: personal_column(&service.project, &source.name, &field.name).is_some(),
                    description: definition.and_then(|d| d.columns.get(&field.name)).and_then(|c| c.description.clone()),
                })
                .collect(),
        }
    });
    let views = plan.views.iter().enumerate().map(|(position, view)| View {
        name: view.name().to_string(),
        owner: definitions.features.get(view.name()).and_then(|d| d.owner.clone()),
        description: definitions.features.get(view.name()).and_then(|d| d.description.clone()),
        source: source_name(view.source()),
        entity: view.entity().to_vec(),
        features: view
            .features()
            .iter()
            .enumerate()
            .map(|(at, f)| Feature {
                name: f.name.clone(),
                data_type: f.data_type.name(),
                window: f.window.as_ref().map(Span::to_string),
                text: f.text.clone(),
                description: described(&service.project, view, f).and_then(|line| line.description.clone()),
                personal_data: personal.feature(position, at).iter().cloned().collect(),
            })
            .collect(),
    });
    let models = plan.models.iter().map(|m| ModelOfProject {
        name: m.name.clone(),
        owner: definitions.model.get(&m.name).and_then(|d| d.owner.clone()),
        description: definitions.model.get(&m.name).and_then(|d| d.description.clone()),
        on: source_name(m.context.source),
        inputs: m
            .inputs
            .iter()
            .map(|i| Input {
                name: i.name.clone(),
                text: i.text.clone(),
                personal_data: personal.of_slots(&service.project, &m.context, i.expr.slots()).into_iter().collect(),
            })
            .collect(),
    });
    let decisions = plan.decisions.iter().map(|d| DecisionOfProject {
        name: d.name.clone(),
        owner: definitions.decision.get(&d.name).and_then(|d| d.owner.clone()),
        description: definitions.decision.get(&d.name).and_then(|d| d.description.clone()),
        source: source_name(d.source),
        model: d.model.map(model_name),
        outcomes: d.outcomes.clone(),
        policy: d.policy.iter().map(|r| PolicyRule { when: r.text.clone(), outcome: d.outcomes[r.outcome].clone() }).collect(),
        fallback: d.fallback.map(|f| d.outcomes[f].clone()),
    });
    let now = match plan.clock {
        ClockMode::Wall => Some(service.clock().now()),
        ClockMode::Event => event_time(&app),
    };
    let schedules = plan.schedules.iter().map(|s| Schedule {
        name: s.name.clone(),
        model: model_name(s.model),
        every: match &s.when {
            When::Every(span) => span.to_string(),
            When::Cron(text) => text.clone(),
        },
        promote_if: s.promote_text.clone(),
        next: now.and_then(|now| next_tick(&s.when, now)).map(Moment),
    });
    ok(&Project {
        name: plan.project.clone(),
        definitions: plan.hash.clone(),
        clock: match plan.clock {
            ClockMode::Wall => "wall",
            ClockMode::Event => "event",
        },
        sources: sources.collect(),
        views: views.collect(),
        services: plan.services.iter().map(|s| ServiceOfProject::new(&service.project, &personal, s)).collect(),
        models: models.collect(),
        decisions: decisions.collect(),
        schedules: schedules.collect(),
        monitors: plan.monitors.iter().map(|m| &m.name).chain(service.project.watches.iter().map(|w| &w.name)).cloned().collect(),
        objects: project::objects(&service.project).into_iter().map(ObjectHash::from).collect(),
    })
}

/// How it is doing
///
/// Counts since the start of the process, offsets, latencies. `/metrics` has the same for machines.
#[utoipa::path(
    get, path = "/v1/status", tag = "project",
    responses((status = 200, description = "the state of affairs", body = Status))
)]
pub async fn get_status(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let service = &app.service;
    let status = &service.status;
    let counts = status.counts();
    let mut decisions: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((decision, outcome), n) in status.decisions() {
        decisions.entry(decision).or_default().insert(outcome, n);
    }
    ok(&Status {
        project: service.plan.project.clone(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: service.started.elapsed().as_secs(),
        ready: !app.is_draining() && !status.is_log_broken(),
        events: Counters::get(&status.events),
        duplicates: Counters::get(&status.duplicates),
        late: Counters::get(&status.late),
        dead_letters: status.dead_letters(),
        decisions,
        sources: service.sources().into_iter().map(SourceState::from).collect(),
        sinks: SinkState::all(&app),
        lake: LakeState::of(&app),
        bundle: BundleState::of(&app),
        next_offset: service.data.events.next_offset(),
        durable_offset: service.data.events.durable_offset(),
        event_time: event_time(&app).map(Moment),
        snapshots: Counters::get(&status.snapshots),
        state: status
            .views()
            .into_iter()
            .map(|v| ViewState {
                events: ViewEvents::of(&counts, &v.view),
                view: v.view,
                entities: v.entities,
                in_memory: v.in_memory,
                tiles: v.tiles,
                bytes: v.state_bytes,
                heaviest: v.heaviest.into_iter().map(|h| HeavyEntity { entity: h.key, bytes: h.bytes }).collect(),
                busiest: v.busiest.into_iter().map(|b| BusyEntity { entity: b.key, share: b.share, at_least: b.at_least }).collect(),
            })
            .collect(),
        freshness: status.freshness.percentiles().into(),
        decide: status.decide.percentiles().into(),
        definitions: service.plan.hash.clone(),
        apply: status.applying().map(Apply::from),
    })
}

pub(super) fn event_time(app: &App) -> Option<EventTime> {
    let micros = app.service.status.event_time.load(std::sync::atomic::Ordering::Relaxed);
    (micros != i64::MIN).then_some(EventTime(micros))
}
