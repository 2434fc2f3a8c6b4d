//! Monitors and what they raised.

use axum::extract::State;
use kilter_pipeline::Reading;
use kilter_store::metadata::AlertFilter;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::ErrorBody;
use crate::input::Params;
use crate::wire::Moment;

/// Readings of a monitor in one answer.
const READINGS: usize = 100;

/// All monitors of the project.
#[derive(Serialize, ToSchema)]
pub struct Monitors {
    monitors: Vec<Monitor>,
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
            state: match last {
                None => "waiting",
                Some(reading) if reading.crossed.is_some() => "alert",
                Some(_) => "ok",
            },
            readings: values.into_iter().flat_map(|v| v.iter().rev().take(READINGS)).map(MonitorReading::from).collect(),
        }
    });
    ok(&Monitors { monitors: monitors.collect() })
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
