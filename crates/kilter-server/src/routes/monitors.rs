//! Monitors and what they raised.

use std::collections::BTreeMap;

use axum::extract::State;
use kilter_pipeline::Reading;
use kilter_runtime::project::WatchKind;
use kilter_runtime::watch::{CheckReport, ViewCheck};
use kilter_store::metadata::AlertFilter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::ErrorBody;
use crate::input::Params;
use crate::routes::metrics::{Float, family};
use crate::wire::Moment;

/// Readings of a monitor in one answer.
const READINGS: usize = 100;

/// All monitors of the project.
#[derive(Serialize, ToSchema)]
pub struct Monitors {
    monitors: Vec<Monitor>,
    /// Those of the machinery: silent sources, and features that are not what the log says.
    watches: Vec<Watch>,
}

/// A monitor of the machinery; it goes by the machine's clock.
#[derive(Serialize, ToSchema)]
pub struct Watch {
    #[schema(example = "same")]
    name: String,
    /// `silence` or `self-check`.
    #[schema(example = "self-check")]
    kind: &'static str,
    /// Of `silence`: the source watched.
    source: Option<String>,
    /// `waiting` before the first look, `ok`, or `alert` while the value is above the threshold.
    state: &'static str,
    at: Option<Moment>,
    /// Seconds of silence, or the largest part of the entities compared that differ.
    value: Option<f64>,
    threshold: f64,
    /// Of `self-check`: the last round; null before.
    check: Option<Check>,
}

/// Features of sampled entities beside what the log says they are, to the bit.
#[derive(Serialize, ToSchema)]
pub struct Check {
    /// Compared after the records before this offset.
    offset: u64,
    /// The last round.
    views: Vec<CheckOfView>,
    /// All rounds since the start of the process.
    totals: Vec<CheckOfView>,
    /// The first differences of the last round.
    examples: Vec<CheckExample>,
}

/// What was compared of a view.
#[derive(Serialize, ToSchema)]
pub struct CheckOfView {
    view: String,
    /// The same as long as the view means the same.
    version: String,
    /// Entities compared.
    entities: u64,
    /// Known by the log, not by the live engine.
    missing: u64,
    /// The other way round.
    extra: u64,
    /// By feature: entities whose values differ.
    mismatches: BTreeMap<String, u64>,
}

/// One difference.
#[derive(Serialize, ToSchema)]
pub struct CheckExample {
    view: String,
    key: String,
    difference: String,
}

impl From<ViewCheck> for CheckOfView {
    fn from(v: ViewCheck) -> Self {
        let ViewCheck { view, version, entities, missing, extra, mismatches } = v;
        CheckOfView { view, version, entities, missing, extra, mismatches }
    }
}

impl From<CheckReport> for Check {
    fn from(r: CheckReport) -> Self {
        let examples = r.examples.into_iter().map(|(view, key, difference)| CheckExample { view, key, difference });
        Check {
            offset: r.offset,
            views: r.views.into_iter().map(CheckOfView::from).collect(),
            totals: r.totals.into_values().map(CheckOfView::from).collect(),
            examples: examples.collect(),
        }
    }
}

/// A monitor and what it last saw.
#[derive(Serialize, ToSchema)]
pub struct Monitor {
    #[schema(example = "drift")]
    name: String,
    model: String,
    /// `psi`, `auc`, `log_loss` or `brier`.
    #[schema(example = "psi")]
    signal: &'static str,
    above: Option<f64>,
    below: Option<f64>,
    #[schema(example = "7d")]
    window: String,
    #[schema(example = "1d")]
    every: String,
    min_rows: u64,
    /// Whether a crossing asks for a training.
    retrain: bool,
    /// `waiting` before the first reading, `ok`, or `alert` while the last reading is past the threshold.
    state: &'static str,
    /// The last 100 since the start of the process, newest first.
    readings: Vec<MonitorReading>,
}

/// One value of a monitor.
#[derive(Serialize, ToSchema)]
pub struct MonitorReading {
    at: Moment,
    /// The input (or `score`) that moved the most, or the metric's name.
    subject: String,
    #[schema(value_type = Option<f64>)]
    value: f64,
    rows: u64,
    /// The threshold that was crossed, when one was.
    crossed: Option<f64>,
}

/// Alerts, newest first.
#[derive(Serialize, ToSchema)]
pub struct Alerts {
    alerts: Vec<Alert>,
    /// Give it as `before` for the next page; null at the end.
    next: Option<i64>,
}

/// An alert.
#[derive(Serialize, ToSchema)]
pub struct Alert {
    id: i64,
    at: Moment,
    monitor: String,
    model: Option<String>,
    signal: String,
    subject: String,
    #[schema(value_type = Option<f64>)]
    value: f64,
    #[schema(value_type = Option<f64>)]
    threshold: f64,
    /// `alert` or `retrain`.
    action: String,
    detail: String,
}

impl From<&Reading> for MonitorReading {
    fn from(r: &Reading) -> Self {
        MonitorReading { at: Moment(r.at), subject: r.subject.clone(), value: r.value, rows: r.rows, crossed: r.crossed }
    }
}

impl From<kilter_store::metadata::Alert> for Alert {
    fn from(a: kilter_store::metadata::Alert) -> Self {
        let kilter_store::metadata::Alert { id, alert } = a;
        Alert {
            id,
            at: Moment::micros(alert.at),
            monitor: alert.monitor,
            model: alert.model,
            signal: alert.signal,
            subject: alert.subject,
            value: alert.value,
            threshold: alert.threshold,
            action: alert.action,
            detail: alert.detail,
        }
    }
}

/// Of a monitor whose newest reading is past a limit or not; none: there is no reading.
pub(super) fn state(crossed: Option<bool>) -> &'static str {
    match crossed {
        None => "waiting",
        Some(true) => "alert",
        Some(false) => "ok",
    }
}

/// List monitors
#[utoipa::path(
    get, path = "/v1/monitors", tag = "monitors",
    responses((status = 200, description = "all monitors with their last readings", body = Monitors))
)]
pub async fn list_monitors(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let readings = app.service.status.readings();
    let plan = &app.service.plan;
    let monitors = plan.monitors.iter().map(|m| {
        let values = readings.get(&m.name).map(|r| &r.values);
        let last = values.and_then(|v| v.back());
        Monitor {
            name: m.name.clone(),
            model: plan.models[m.model].name.clone(),
            signal: m.signal.name(),
            above: m.above,
            below: m.below,
            window: m.window.to_string(),
            every: m.every.to_string(),
            min_rows: m.min_rows,
            retrain: m.retrain,
            state: state(last.map(|reading| reading.crossed.is_some())),
            readings: values.into_iter().flat_map(|v| v.iter().rev().take(READINGS)).map(MonitorReading::from).collect(),
        }
    });
    let states = app.service.status.watches();
    let watches = app.service.project.watches.iter().map(|w| {
        let state = states.get(&w.name).filter(|s| s.at.is_some());
        let (source, threshold) = match w.kind {
            WatchKind::Silence { source, after } => (Some(plan.sources[usize::from(source.0)].name.clone()), after.0 as f64 / 1e6),
            WatchKind::SelfCheck { above, .. } => (None, above),
        };
        Watch {
            name: w.name.clone(),
            kind: w.kind.name(),
            source,
            state: match state {
                None => "waiting",
                Some(state) if state.alert => "alert",
                Some(_) => "ok",
            },
            at: state.and_then(|s| s.at).map(Moment),
            value: state.map(|s| s.value),
            threshold,
            check: state.and_then(|s| s.check.clone()).map(Check::from),
        }
    });
    ok(&Monitors { monitors: monitors.collect(), watches: watches.collect() })
}

/// List alerts
#[utoipa::path(
    get, path = "/v1/alerts", tag = "monitors",
    params(
        ("model" = Option<String>, Query, description = "only those of this model"),
        ("monitor" = Option<String>, Query, description = "only those of this monitor"),
        ("since" = Option<String>, Query, description = "only at or after this time"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 50 when left out"),
        ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "a page of alerts, newest first", body = Alerts),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
    )
)]
pub async fn list_alerts(State(app): State<App>, mut params: Params) -> Answer {
    let (model, monitor) = (params.text("model"), params.text("monitor"));
    let since = params.time("since").map(|t| t.0);
    let limit = params.limit(50, 1000);
    let before = params.number("before", 0..=i64::MAX as u64).map(|n| n as i64);
    params.done()?;
    let filter = AlertFilter { model, monitor, since, before, limit: limit as u32 + 1 };
    let mut found = app.service.data.metadata.list_alerts(&filter).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|a| a.id) } else { None };
    ok(&Alerts { alerts: found.into_iter().map(Alert::from).collect(), next })
}

/// What the monitors of the machinery last saw, for Prometheus.
pub fn register(app: &App, r: &mut Registry) {
    let value = family::<Float>(r, "kilter_watch_value", "Seconds of silence, or the largest part of the entities compared that differ");
    let alert = family::<Gauge>(r, "kilter_watch_alert", "1 while the value is above the threshold");
    let entities = family::<Counter>(r, "kilter_self_check_entities", "Entities whose features were compared with the log");
    let differences = family::<Counter>(r, "kilter_self_check_differences", "Entities that differ: missing, extra, or in a feature");
    for (name, state) in app.service.status.watches() {
        let own = vec![("monitor", name.clone())];
        value.get_or_create(&own).set(state.value);
        alert.get_or_create(&own).set(i64::from(state.alert));
        for total in state.check.into_iter().flat_map(|c| c.totals.into_values()) {
            let labels = vec![("monitor", name.clone()), ("view", total.view.clone()), ("version", total.version.clone())];
            entities.get_or_create(&labels).inc_by(total.entities);
            let kinds = [("missing".to_string(), total.missing), ("extra".to_string(), total.extra)];
            for (what, n) in kinds.into_iter().chain(total.mismatches) {
                let labels = labels.iter().cloned().chain([("what", what)]).collect();
                differences.get_or_create(&labels).inc_by(n);
            }
        }
    }
}
