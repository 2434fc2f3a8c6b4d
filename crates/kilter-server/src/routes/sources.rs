//! What became of all events: by source, by view, by reason.

use std::collections::BTreeMap;

use kilter_runtime::sources::SourceHealth;
use kilter_runtime::{SinkStatus, StreamCounts};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::metrics::{Float, family};
use crate::app::App;
use crate::wire::Moment;

/// One source: `received` is `events`, `duplicates` and all of `turned_away` together.
#[derive(Serialize, ToSchema)]
pub struct SourceState {
    #[schema(example = "payments")]
    source: String,
    /// `waiting` before the first event, `active`, `idle` when nothing has come for longer than `idle_after`, `undeclared` when only the
    /// counts know it.
    #[schema(example = "active")]
    status: &'static str,
    received: u64,
    /// In the log.
    events: u64,
    /// Of the events: too late for every view.
    late: u64,
    /// Left out because their id was seen before.
    duplicates: u64,
    /// Kept as dead letters, by code: `future_time`, `wrong_type`, `malformed_json` and so on.
    turned_away: BTreeMap<String, u64>,
    /// The newest event time; null before the first event.
    watermark: Option<Moment>,
    /// When the newest event arrived.
    last_arrival: Option<Moment>,
    /// Since then.
    silent_seconds: Option<f64>,
    /// Of the topic that it reads: how far each partition is. Empty for sources that read none.
    partitions: Vec<PartitionState>,
    /// Why its topic is not read at present, such as a schema registry that does not answer.
    problem: Option<String>,
}

/// One partition of a source's topic.
#[derive(Serialize, ToSchema)]
pub struct PartitionState {
    partition: u32,
    /// The offset of the next record to be taken.
    next: u64,
    /// Where the partition ended when that was last heard.
    end: u64,
    /// Records that wait.
    lag: u64,
}

/// A sink and how far it has come.
#[derive(Serialize, ToSchema)]
pub struct SinkState {
    #[schema(example = "decisions")]
    sink: String,
    /// Everything before this offset of the log it follows has been delivered.
    next: u64,
    /// Where that log ended then.
    end: u64,
    /// Records delivered since the start.
    delivered: u64,
    /// Why it delivers nothing at present.
    problem: Option<String>,
}

impl SinkState {
    pub fn all(app: &App) -> Vec<SinkState> {
        let sinks = app.service.status.sinks();
        sinks
            .into_iter()
            .map(|(sink, SinkStatus { next, end, delivered, problem })| SinkState { sink, next, end, delivered, problem })
            .collect()
    }
}

impl From<SourceHealth> for SourceState {
    fn from(s: SourceHealth) -> Self {
        SourceState {
            source: s.source,
            status: s.liveness.name(),
            received: s.received,
            events: s.events,
            late: s.late,
            duplicates: s.duplicates,
            turned_away: s.turned_away,
            watermark: s.watermark.map(Moment),
            last_arrival: s.last_arrival.map(Moment),
            silent_seconds: s.silent.map(|span| span.0 as f64 / 1e6),
            problem: s.problem,
            partitions: s
                .partitions
                .into_iter()
                .map(|(partition, s)| PartitionState { partition, next: s.next, end: s.end, lag: s.lag() })
                .collect(),
        }
    }
}

/// What became of all events of a view's source: `events` is `applied`, `late`, `no_key` and `filtered` together.
#[derive(Serialize, ToSchema)]
pub struct ViewEvents {
    events: u64,
    applied: u64,
    /// Too late for every window of the view.
    late: u64,
    /// Without a key.
    no_key: u64,
    /// Not let through by the view's `where`.
    filtered: u64,
    /// How many replaced or took back an earlier row.
    retracted: u64,
}

impl ViewEvents {
    pub fn of(counts: &StreamCounts, view: &str) -> ViewEvents {
        let place = counts.plan.as_ref().and_then(|plan| plan.view(view));
        let c = place.and_then(|v| counts.views.get(v)).copied().unwrap_or_default();
        ViewEvents { events: c.events(), applied: c.applied, late: c.late, no_key: c.no_key, filtered: c.filtered, retracted: c.retracted }
    }
}

/// The same for Prometheus.
pub fn register(app: &App, r: &mut Registry) {
    let events = family::<Counter>(r, "kilter_source_events", "Events of a source in the log");
    let losses = family::<Counter>(
        r,
        "kilter_source_left_out",
        "Rows of a source that did not become events, or events too late for every view, by reason",
    );
    let idle = family::<Gauge>(r, "kilter_source_idle", "1 while nothing has come for longer than the source's idle_after");
    let silent = family::<Float>(r, "kilter_source_silence_seconds", "Since the newest event of a source arrived");
    let watermark = family::<Float>(r, "kilter_source_watermark_seconds", "Newest event time of a source, since 1970");
    let lag = family::<Gauge>(r, "kilter_source_lag_records", "Records of a source's topic that wait, by partition");
    let stuck = family::<Gauge>(r, "kilter_source_stuck", "1 while a source's topic is not read because something is wrong");
    for s in app.service.sources() {
        for (partition, state) in &s.partitions {
            let labels = vec![("source", s.source.clone()), ("partition", partition.to_string())];
            lag.get_or_create(&labels).set(i64::try_from(state.lag()).unwrap_or(i64::MAX));
        }
        let label = vec![("source", s.source.clone())];
        events.get_or_create(&label).inc_by(s.events);
        stuck.get_or_create(&label).set(i64::from(s.problem.is_some()));
        idle.get_or_create(&label).set(i64::from(s.liveness == kilter_runtime::sources::Liveness::Idle));
        if let Some(span) = s.silent {
            silent.get_or_create(&label).set(span.0 as f64 / 1e6);
        }
        if let Some(time) = s.watermark {
            watermark.get_or_create(&label).set(time.0 as f64 / 1e6);
        }
        let own = [("duplicate".to_string(), s.duplicates), ("late".to_string(), s.late)];
        for (reason, n) in own.into_iter().chain(s.turned_away) {
            losses.get_or_create(&vec![("source", s.source.clone()), ("reason", reason)]).inc_by(n);
        }
    }
    let delivered = family::<Counter>(r, "kilter_sink_delivered", "Records that a sink has delivered since the start");
    let waiting = family::<Gauge>(r, "kilter_sink_lag_records", "Records of the log that a sink follows which it has not delivered yet");
    let stuck = family::<Gauge>(r, "kilter_sink_stuck", "1 while a sink delivers nothing because something is wrong");
    for (sink, s) in app.service.status.sinks() {
        let labels = vec![("sink", sink)];
        delivered.get_or_create(&labels).inc_by(s.delivered);
        waiting.get_or_create(&labels).set(i64::try_from(s.end.saturating_sub(s.next)).unwrap_or(i64::MAX));
        stuck.get_or_create(&labels).set(i64::from(s.problem.is_some()));
    }
    let views = family::<Counter>(r, "kilter_view_events", "Events of a view's source, by what became of them");
    let retracted = family::<Counter>(r, "kilter_view_retractions", "Events that replaced or took back an earlier row");
    let counts = app.service.status.counts();
    for (view, c) in counts.plan.iter().flat_map(|plan| &plan.views).zip(&counts.views) {
        let outcomes = [("applied", c.applied), ("late", c.late), ("no_key", c.no_key), ("filtered", c.filtered)];
        for (outcome, n) in outcomes {
            views.get_or_create(&vec![("view", view.name().to_string()), ("outcome", outcome.to_string())]).inc_by(n);
        }
        retracted.get_or_create(&vec![("view", view.name().to_string())]).inc_by(c.retracted);
    }
}
