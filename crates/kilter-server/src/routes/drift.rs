//! What monitors of models saw over time, and the distributions behind it.

use axum::extract::State;
use axum::http::StatusCode;
use kilter_core::Span;
use kilter_pipeline::{DriftReference, MonitorPlan, Signal};
use kilter_runtime::Service;
use kilter_store::StoreError;
use kilter_store::metadata::{MonitorReading, ReadingFilter, ReadingSubject};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::routes::monitors::state;
use crate::wire::Moment;

/// The name of the score among what a monitor looks at.
const SCORE: &str = "score";

/// What a monitor saw, bucket by bucket.
#[derive(Serialize, ToSchema)]
pub struct History<'a> {
    #[schema(example = "drift")]
    monitor: &'a str,
    model: &'a str,
    #[schema(example = "psi")]
    signal: &'static str,
    /// Today's; buckets have those of then.
    #[schema(example = "7d")]
    window: String,
    /// The length of a bucket, today's.
    #[schema(example = "1d")]
    every: String,
    /// Today's limits.
    above: Option<f64>,
    below: Option<f64>,
    /// What the values are of: inputs and the score, or the metric.
    features: Vec<&'a str>,
    /// Newest first.
    buckets: Vec<Bucket<'a>>,
    /// Give it as `before` for the next page; null at the end.
    next: Option<i64>,
}

/// One bucket of a monitor.
#[derive(Serialize, ToSchema)]
pub struct Bucket<'a> {
    /// Its end.
    at: Moment,
    /// Its values are made of this much time before its end.
    #[schema(example = "7d")]
    window: String,
    /// Its length.
    #[schema(example = "1d")]
    every: String,
    /// Decisions in the window.
    rows: u64,
    /// The version in service.
    model_version: Option<u32>,
    /// What moved the most.
    subject: &'a str,
    /// Its value.
    #[schema(value_type = Option<f64>)]
    value: f64,
    /// `ok`, or `alert` where a limit was crossed.
    #[schema(example = "ok")]
    state: &'static str,
    /// The limits then.
    above: Option<f64>,
    below: Option<f64>,
    /// In the order of `features`; null where there was none.
    values: Vec<Option<f64>>,
}

/// One input, or the score, in training and in the window of a bucket.
#[derive(Serialize, ToSchema)]
pub struct Distributions<'a> {
    #[schema(example = "drift")]
    monitor: &'a str,
    model: &'a str,
    model_version: u32,
    #[schema(example = "payments.amount")]
    feature: &'a str,
    /// The end of the bucket.
    at: Moment,
    window: String,
    rows: u64,
    value: Option<f64>,
    /// `alert` where the value is past the limit of then.
    state: &'static str,
    /// Ascending: bin i holds what is above edge i - 1, up to and including edge i; the last bin what is above all edges.
    edges: &'a [f64],
    /// In training.
    reference: Histogram<'a>,
    /// In the window.
    current: Histogram<'a>,
}

/// Values by bin.
#[derive(Serialize, ToSchema)]
pub struct Histogram<'a> {
    /// Missing ones too.
    rows: u64,
    missing: u64,
    /// One more than there are edges.
    counts: &'a [u64],
}

impl<'a> Histogram<'a> {
    /// What is at a place of a reference.
    fn of(known: &'a DriftReference, place: usize) -> Histogram<'a> {
        let counts = known.references[place].sample();
        Histogram { rows: counts.total(), missing: counts.missing(), counts: counts.bins() }
    }
}

/// What a version's inputs and scores looked like in training.
#[derive(Serialize, ToSchema)]
pub struct TrainingReference<'a> {
    model: &'a str,
    version: u32,
    /// Each input, then `score`.
    features: Vec<FeatureReference<'a>>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
pub struct FeatureReference<'a> {
    #[schema(example = "payments.amount")]
    feature: &'a str,
    /// Ascending: bin i holds what is above edge i - 1, up to and including edge i; the last bin what is above all edges.
    edges: &'a [f64],
    #[serde(flatten)]
    histogram: Histogram<'a>,
}

fn monitor<'a>(service: &'a Service, name: &str) -> Result<&'a MonitorPlan, ApiError> {
    let monitors = &service.plan.monitors;
    monitors.iter().find(|m| m.name == name).ok_or_else(|| {
        let watched = service.project.watches.iter().any(|w| w.name == name);
        let names: Vec<&str> = monitors.iter().map(|m| m.name.as_str()).collect();
        let hint = match kilter_core::nearest(name, names.iter().copied()) {
            _ if watched => "a monitor of the machinery keeps no history; `/v1/monitors` has what it last saw".to_string(),
            Some(near) => format!("did you mean `{near}`?"),
            None => "GET /v1/monitors lists them".to_string(),
        };
        ApiError::not_found("monitor", name, hint)
    })
}

/// The history of a monitor
///
/// Values of the newest 2000 closed buckets, of everything that it looks at: a heat map of features over time. Buckets in which it watched another signal than
/// today's are left out. What the machinery's monitors see is in `/v1/monitors` only.
#[utoipa::path(
    get, path = "/v1/monitors/{monitor}/history", tag = "monitors",
    params(
        ("monitor" = String, Path, description = "a monitor of a model"),
        ("from" = Option<String>, Query, description = "only buckets that ended at this time or later"),
        ("to" = Option<String>, Query, description = "only buckets that ended before this time"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 200 when left out"),
        ("before" = Option<i64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "a page of buckets, newest first", body = History),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such monitor of a model", body = ErrorBody),
    )
)]
pub async fn get_history(State(app): State<App>, Segments(name): Segments<String>, mut params: Params) -> Answer {
    let (from, to) = (params.time("from"), params.time("to"));
    let limit = params.limit(200, 1000);
    let before = [params.integer("before"), to.map(|to| to.0)].into_iter().flatten().min();
    params.done()?;
    let from = from.map(|from| from.0);
    // A page is hundreds of buckets with each input: not for the threads that serve requests.
    app.blocking(move |service| history(service, &name, from, before, limit)).await
}

fn history(service: &Service, name: &str, from: Option<i64>, before: Option<i64>, limit: usize) -> Answer {
    let plan = monitor(service, name)?;
    let signal = Some(plan.signal.name().to_string());
    let filter = ReadingFilter { monitor: name.to_string(), signal, from, before, limit: limit as u32 + 1, counts: false };
    let mut found = service.data.wait(service.data.metadata.readings(&filter))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|reading| reading.at) } else { None };
    let mut features: Vec<&str> = Vec::new();
    for subject in found.iter().flat_map(|reading| &reading.subjects) {
        if !features.contains(&subject.subject.as_str()) {
            features.push(&subject.subject);
        }
    }
    // Where inputs have changed, the score stays the last.
    features.sort_by_key(|name| *name == SCORE);
    ok(&History {
        monitor: &plan.name,
        model: &service.plan.models[plan.model].name,
        signal: plan.signal.name(),
        window: plan.window.to_string(),
        every: plan.every.to_string(),
        above: plan.above,
        below: plan.below,
        buckets: found.iter().map(|reading| Bucket::new(reading, &features)).collect(),
        features,
        next,
    })
}

impl<'a> Bucket<'a> {
    fn new(reading: &'a MonitorReading, features: &[&str]) -> Bucket<'a> {
        let value = |name: &&str| reading.subjects.iter().find(|s| s.subject == **name)?.value;
        Bucket {
            at: Moment::micros(reading.at),
            window: Span(reading.window).to_string(),
            every: Span(reading.every).to_string(),
            rows: reading.rows,
            model_version: reading.version,
            subject: &reading.subject,
            value: reading.value,
            state: state(Some(reading.crossed)),
            above: reading.above,
            below: reading.below,
            values: features.iter().map(value).collect(),
        }
    }
}

/// Distributions behind a monitor
///
/// One input, or `score`, in training and in the window of a bucket, in the same bins.
#[utoipa::path(
    get, path = "/v1/monitors/{monitor}/distributions", tag = "monitors",
    params(
        ("monitor" = String, Path, description = "a monitor with the signal `psi`"),
        ("feature" = String, Query, description = "an input of the model, or `score`"),
        ("at" = Option<String>, Query, description = "the end of a bucket, as its history has it; left out: the newest"),
    ),
    responses(
        (status = 200, description = "both distributions", body = Distributions),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such monitor of a model, no such feature (`unknown_feature`), or no such bucket (`unknown_bucket`)", body = ErrorBody),
        (status = 409, description = "the monitor compares no distributions, or its version's are gone (`no_distribution`)", body = ErrorBody),
    )
)]
pub async fn get_distributions(State(app): State<App>, Segments(name): Segments<String>, mut params: Params) -> Answer {
    let (feature, at) = (params.text("feature"), params.time("at"));
    if feature.is_none() {
        params.missing("feature", "an input of the model, or `score`");
    }
    params.done()?;
    let feature = feature.unwrap_or_default();
    let plan = monitor(&app.service, &name)?;
    let none = |message: String| ApiError::new(StatusCode::CONFLICT, "no_distribution", message);
    if plan.signal != Signal::Psi {
        let message = format!("monitor `{name}` watches `{}`: it compares no distributions", plan.signal.name());
        return Err(none(message).hint("`/v1/monitors/{monitor}/history` has its values".to_string()));
    }
    let filter = ReadingFilter {
        monitor: name.clone(),
        signal: Some(plan.signal.name().to_string()),
        from: at.map(|at| at.0),
        before: at.map(|at| at.0 + 1),
        limit: 1,
        counts: true,
    };
    let found = app.service.data.metadata.readings(&filter).await?.into_iter().next();
    let reading = found.ok_or_else(|| {
        let asked = at.map_or("newest".to_string(), |at| at.to_string());
        ApiError::not_found("bucket", &asked, format!("`/v1/monitors/{name}/history` lists those that monitor `{name}` has closed"))
    })?;
    let subject = named(&reading.subjects, &feature)?;
    let Some(version) = reading.version else { return Err(none("no version was in service then".into())) };
    let known = reference(&app, &reading.model, version).await?;
    let place = known.as_ref().zip(subject.counts.as_ref()).and_then(|(known, counts)| {
        let place = features_of(known).position(|name| name == feature)?;
        let bins = known.references.get(place)?.sample().bins().len();
        (bins == counts.bins.len()).then_some((known, place, counts))
    });
    let Some((known, place, counts)) = place else {
        let message =
            format!("what `{feature}` looked like in the training of version {version} of model `{}` is not known any more", reading.model);
        return Err(none(message));
    };
    let is_past = |value: f64| reading.above.is_some_and(|limit| value > limit) || reading.below.is_some_and(|limit| value < limit);
    ok(&Distributions {
        monitor: &plan.name,
        model: &reading.model,
        model_version: version,
        feature: &feature,
        at: Moment::micros(reading.at),
        window: Span(reading.window).to_string(),
        rows: reading.rows,
        value: subject.value,
        state: state(Some(subject.value.is_some_and(is_past))),
        edges: known.references[place].edges(),
        reference: Histogram::of(known, place),
        current: Histogram { rows: counts.bins.iter().sum::<u64>() + counts.missing, missing: counts.missing, counts: &counts.bins },
    })
}

fn named<'a>(subjects: &'a [ReadingSubject], feature: &str) -> Result<&'a ReadingSubject, ApiError> {
    subjects.iter().find(|subject| subject.subject == feature).ok_or_else(|| {
        let names: Vec<&str> = subjects.iter().map(|subject| subject.subject.as_str()).collect();
        let near = kilter_core::nearest(feature, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        ApiError::not_found("feature", feature, near.unwrap_or_else(|| format!("there are: {}", kilter_core::list(names))))
    })
}

/// What the distributions of a reference are of.
fn features_of(known: &DriftReference) -> impl Iterator<Item = &str> {
    known.inputs.iter().map(String::as_str).chain([SCORE])
}

/// What a version's training looked like; none where that is not known.
async fn reference(app: &App, model: &str, version: u32) -> Result<Option<DriftReference>, ApiError> {
    let Some(found) = app.service.data.metadata.get_version(model, version).await? else { return Ok(None) };
    let Some(hash) = found.spec.inputs["reference"].as_str().filter(|hash| !hash.is_empty()).map(str::to_string) else { return Ok(None) };
    app.blocking(move |service| {
        let bytes = match service.data.artifact(&hash) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.downcast_ref(), Some(StoreError::NotFound { .. })) => return Ok(None),
            Err(e) => return Err(ApiError::internal(&format!("reference {hash}: {e:#}"))),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| ApiError::internal(&format!("reference {hash}: {e}")))
    })
    .await
}

/// Distributions in training
///
/// What each input of a version, and its score, looked like on the rows it learned from.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{version}/reference", tag = "models",
    params(
        ("model" = String, Path, description = "a model of the project"),
        ("version" = u32, Path, description = "one of its versions"),
    ),
    responses(
        (status = 200, description = "the distributions", body = TrainingReference),
        (status = 404, description = "no such model or version, or nothing is known of its training (`no_reference`)", body = ErrorBody),
    )
)]
pub async fn get_reference(State(app): State<App>, Segments((model, version)): Segments<(String, u32)>, params: Params) -> Answer {
    params.done()?;
    app.service.model(&model)?;
    if app.service.data.metadata.get_version(&model, version).await?.is_none() {
        return Err(ApiError::not_found("version", &format!("{model}@{version}"), format!("GET /v1/models/{model} lists them")));
    }
    let Some(known) = reference(&app, &model, version).await? else {
        let message = format!("nothing is known of the rows that version {version} of model `{model}` learned from");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no_reference", message));
    };
    let features = features_of(&known).zip(&known.references).enumerate().map(|(place, (feature, reference))| FeatureReference {
        feature,
        edges: reference.edges(),
        histogram: Histogram::of(&known, place),
    });
    ok(&TrainingReference { model: &model, version, features: features.collect() })
}
