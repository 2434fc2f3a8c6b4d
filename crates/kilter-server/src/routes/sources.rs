//! What became of all events: by source, by view, by reason.

use std::collections::BTreeMap;

use kilter_runtime::StreamCounts;
use kilter_runtime::sources::SourceHealth;
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
    for s in app.service.sources() {
        let label = vec![("source", s.source.clone())];
        events.get_or_create(&label).inc_by(s.events);
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
