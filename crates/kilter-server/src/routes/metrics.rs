//! Figures for Prometheus, in OpenMetrics text.

use std::sync::atomic::AtomicU64;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use kilter_runtime::{Latency, Status};
use kilter_store::metadata::CHAMPION;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::app::{Answer, App};
use crate::error::ApiError;
use crate::observe::Labels;

pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in microseconds: an effect is visible and a decision made within these, or something is wrong.
const BUCKETS: [u64; 20] = [
    50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

pub(super) type Float = Gauge<f64, AtomicU64>;

/// Metrics
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
pub async fn get_metrics(State(app): State<App>) -> Answer {
    let registry = gather(&app).await?;
    let mut text = String::with_capacity(8192);
    encode(&mut text, &registry).map_err(|e| ApiError::internal(&format!("metrics: {e}")))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// The service keeps its own counters; a registry of one reading is made of them.
async fn gather(app: &App) -> Result<Registry, ApiError> {
    let service = &app.service;
    let status = &service.status;
    let mut registry = Registry::default();
    let r = &mut registry;

    counter(r, "kilter_events", "Events accepted", Status::get(&status.events));
    counter(r, "kilter_duplicates", "Events left out because their id was seen before", Status::get(&status.duplicates));
    counter(r, "kilter_late", "Events too late for every window", Status::get(&status.late));
    counter(r, "kilter_snapshots", "Snapshots written", Status::get(&status.snapshots));
    let letters = family::<Counter>(r, "kilter_dead_letters", "Rows and events that could not be used, by code");
    for (code, n) in status.dead_letters() {
        letters.get_or_create(&vec![("code", code)]).inc_by(n);
    }
    let decisions = family::<Counter>(r, "kilter_decisions", "Decisions, by outcome");
    for ((decision, outcome), n) in status.decisions() {
        decisions.get_or_create(&vec![("decision", decision), ("outcome", outcome)]).inc_by(n);
    }

    if let Some(hooks) = &app.hooks {
        let deliveries =
            family::<Counter>(r, "kilter_webhook_deliveries", "Deliveries to webhooks of the tracking server, by what became of them");
        for (outcome, n) in hooks.counts() {
            deliveries.get_or_create(&vec![("outcome", outcome.to_string())]).inc_by(n);
        }
    }
    super::sources::register(app, r);
    latency(r, "kilter_freshness", "From an event's arrival until its effect is visible to a decision", &status.freshness);
    latency(r, "kilter_decide", "From a decide request's arrival until its answer is ready", &status.decide);

    let (events, log) = (&service.data.events, &service.data.decisions);
    gauge(r, "kilter_log_start_offset", "Oldest record of the event log", events.start_offset());
    gauge(r, "kilter_log_next_offset", "Offset of the next record of the event log", events.next_offset());
    gauge(r, "kilter_log_durable_offset", "Records of the event log before this survive a power cut", events.durable_offset());
    gauge(r, "kilter_decision_log_next_offset", "Offset of the next record of the decision log", log.next_offset());
    gauge(r, "kilter_log_broken", "1 when a log has refused a write within the last five seconds", u64::from(status.is_log_broken()));
    gauge(r, "kilter_draining", "1 while shutting down", u64::from(app.is_draining()));
    let uptime = Float::default();
    uptime.set(service.started.elapsed().as_secs_f64());
    r.register_with_unit("kilter_uptime", "Since the start of the process", Unit::Seconds, uptime);
    let event_time = status.event_time.load(std::sync::atomic::Ordering::Relaxed);
    if event_time != i64::MIN {
        let latest = Float::default();
        latest.set(event_time as f64 / 1e6);
        r.register_with_unit("kilter_event_time", "Latest event time seen, since 1970", Unit::Seconds, latest);
    }

    // Without the entity's key, which may name a person and would make a series of each: `/v1/status` tells it.
    let bytes =
        family::<Gauge>(r, "kilter_view_largest_entity_bytes", "State of the view's largest entity in memory, at the last snapshot");
    let share =
        family::<Float>(r, "kilter_view_busiest_entity_share", "Of the view's latest events, how many were of one entity, at least");
    for view in status.views() {
        let labels = vec![("view", view.view)];
        let most = view.heaviest.first().map_or(0, |h| h.bytes);
        bytes.get_or_create(&labels).set(i64::try_from(most).unwrap_or(i64::MAX));
        share.get_or_create(&labels).set(view.busiest.iter().map(|b| b.at_least).fold(0.0, f64::max));
    }

    let champions = family::<Gauge>(r, "kilter_model_version", "Version in service");
    for model in &service.plan.models {
        if let Some(version) = service.data.metadata.alias(&model.name, CHAMPION).await? {
            champions.get_or_create(&vec![("model", model.name.clone())]).set(i64::from(version.version));
        }
    }
    let values = family::<Float>(r, "kilter_monitor_value", "Last value of a monitor");
    let crossed = family::<Gauge>(r, "kilter_monitor_alert", "1 while the last value of a monitor is past its threshold");
    let readings = status.readings();
    for monitor in &service.plan.monitors {
        let Some(reading) = readings.get(&monitor.name).and_then(|r| r.values.back()) else { continue };
        let model = service.plan.models[monitor.model].name.clone();
        let labels = vec![("monitor", monitor.name.clone()), ("model", model), ("signal", monitor.signal.name().to_string())];
        values.get_or_create(&labels).set(reading.value);
        crossed.get_or_create(&labels).set(i64::from(reading.crossed.is_some()));
    }
    super::lake::register(app, r);
    super::monitors::register(app, r);
    app.metrics.register(r);
    app.access.register(r);
    Ok(registry)
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

pub(super) fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

pub(super) fn family<M>(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, M>
where
    M: Default
        + Clone
        + prometheus_client::encoding::EncodeMetric
        + prometheus_client::metrics::TypedMetric
        + Send
        + Sync
        + std::fmt::Debug
        + 'static,
{
    let family = Family::<Labels, M>::default();
    registry.register(name, help, family.clone());
    family
}

/// Quantiles since the start, as gauges, which are exact to three digits; and a histogram, which Prometheus makes rates of and adds up over servers.
fn latency(registry: &mut Registry, name: &str, help: &str, latency: &Latency) {
    let figures = latency.percentiles();
    let quantiles = Family::<Labels, Float>::default();
    for (quantile, micros) in [("0.5", figures.p50_us), ("0.99", figures.p99_us), ("0.999", figures.p999_us), ("1", figures.max_us)] {
        quantiles.get_or_create(&vec![("quantile", quantile.to_string())]).set(micros as f64 / 1e6);
    }
    registry.register_with_unit(format!("{name}_quantile"), help, Unit::Seconds, quantiles);
    let (buckets, sum) = latency.counts(&BUCKETS);
    let buckets = BUCKETS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]).zip(buckets).collect();
    registry.register_with_unit(name, help, Unit::Seconds, Durations { buckets, sum: sum as f64 / 1e6 });
}

/// A histogram that was counted elsewhere.
#[derive(Debug)]
struct Durations {
    /// Upper bounds, and how many are in each bucket.
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> std::fmt::Result {
        let count = self.buckets.iter().map(|(_, n)| n).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
