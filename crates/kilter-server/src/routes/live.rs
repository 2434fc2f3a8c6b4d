//! What happens, told as it happens: server-sent events.
//!
//! One reading a second of counters that are there anyway, shared by all who listen and made only while somebody does. A listener is sent the next
//! second once it has taken the one before, so a slow one holds back nobody and misses what it has no time for.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{FromRef, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use kilter_runtime::{Recorded, Recording, Status as Counters, Window};
use kilter_store::metadata::{AlertFilter, CHAMPION, RunFilter};
use serde::Serialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::access::keys::Role;
use crate::app::{Answer, App, Host};
use crate::error::{ApiError, ErrorBody};
use crate::input::Params;
use crate::routes::changes::Apply;
use crate::routes::decide::Decided;
use crate::routes::monitors::Alert;
use crate::routes::project::event_time;
use crate::routes::runs::Run;
use crate::wire::Moment;

/// Who may listen at the same time.
const LISTENERS: usize = 64;
/// Between two readings.
const BEAT: Duration = Duration::from_secs(1);
/// A reading that is younger is told again rather than made anew: listeners do not tick together.
const FRESH: Duration = Duration::from_millis(900);
/// Without a reading for so long, rates begin anew.
const PAUSE: Duration = Duration::from_secs(3);
/// What happened that is kept for listeners that are behind.
const NEWS: usize = 256;
/// Runs that are looked at for changes.
const RUNS: u32 = 50;
/// The first thing told: when to come again after the connection is gone.
const RETRY: &[u8; 13] = b"retry: 2000\n\n";
/// A listener that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the answer says it is.
pub const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What one event holds.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "made and written, never kept")]
pub enum LiveEvent<'a> {
    Status(LiveStatus),
    Decision(Decided<'a>),
    Dropped(Dropped),
    Alert(Alert),
    Run(Run),
    Swap(Swap),
}

impl LiveEvent<'_> {
    fn name(&self) -> &'static str {
        match self {
            LiveEvent::Status(_) => "status",
            LiveEvent::Decision(_) => "decision",
            LiveEvent::Dropped(_) => "dropped",
            LiveEvent::Alert(_) => "alert",
            LiveEvent::Run(_) => "run",
            LiveEvent::Swap(_) => "swap",
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), ApiError> {
        out.extend_from_slice(format!("event: {}\ndata: ", self.name()).as_bytes());
        // JSON has no line breaks but in its own escapes.
        serde_json::to_writer(&mut *out, self).map_err(|e| ApiError::internal(&format!("an event could not be written: {e}")))?;
        out.extend_from_slice(b"\n\n");
        Ok(())
    }
}

/// How everything stands, once a second.
#[derive(Serialize, ToSchema)]
pub struct LiveStatus {
    at: Moment,
    /// The time that rates, shares and latencies are of; null where nobody has listened just before: then there are none.
    window_seconds: Option<f64>,
    ready: bool,
    events_per_second: Option<f64>,
    event_time: Option<Moment>,
    next_offset: u64,
    durable_offset: u64,
    /// Hash of the definitions in force.
    definitions: String,
    /// The newest apply of changed definitions.
    apply: Option<Apply>,
    sources: Vec<LiveSource>,
    decisions: Vec<LiveDecision>,
    /// From a decide request's arrival until its answer is ready.
    decide: LiveLatency,
    /// From an event's arrival until its effect is visible to a decision.
    freshness: LiveLatency,
    dead_letters: LiveDeadLetters,
    sinks: Vec<LiveSink>,
    models: Vec<LiveModel>,
    monitors: Vec<LiveMonitor>,
}

/// A source.
#[derive(Serialize, ToSchema)]
pub struct LiveSource {
    #[schema(example = "payments")]
    source: String,
    /// `waiting`, `active`, `idle` or `undeclared`.
    #[schema(example = "active")]
    status: &'static str,
    /// In the log.
    events: u64,
    per_second: Option<f64>,
    late: u64,
    duplicates: u64,
    /// Kept as dead letters.
    turned_away: u64,
    watermark: Option<Moment>,
    last_arrival: Option<Moment>,
    silent_seconds: Option<f64>,
    /// Records of its topic that wait; null: it reads none.
    lag: Option<u64>,
    /// Why its topic is not read at present.
    problem: Option<String>,
}

/// A decision and its outcomes, counted since the start of the process.
#[derive(Serialize, ToSchema)]
pub struct LiveDecision {
    #[schema(example = "pay")]
    decision: String,
    model: Option<String>,
    total: u64,
    per_second: Option<f64>,
    outcomes: Vec<LiveOutcome>,
}

/// One outcome.
#[derive(Serialize, ToSchema)]
pub struct LiveOutcome {
    #[schema(example = "block")]
    outcome: String,
    total: u64,
    per_second: Option<f64>,
    /// Of this decision's in the window; null: there were none.
    share: Option<f64>,
}

/// Percentiles of the window, in microseconds; null where nothing was measured in it.
#[derive(Serialize, ToSchema)]
pub struct LiveLatency {
    count: u64,
    p50_us: Option<u64>,
    p95_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
}

impl From<Option<Window>> for LiveLatency {
    fn from(window: Option<Window>) -> Self {
        LiveLatency {
            count: window.map_or(0, |w| w.count),
            p50_us: window.map(|w| w.p50_us),
            p95_us: window.map(|w| w.p95_us),
            p99_us: window.map(|w| w.p99_us),
            max_us: window.map(|w| w.max_us),
        }
    }
}

/// Rows and events that could not be used, since the start of the process.
#[derive(Serialize, ToSchema)]
pub struct LiveDeadLetters {
    total: u64,
    per_second: Option<f64>,
    by_code: BTreeMap<String, u64>,
}

/// A sink.
#[derive(Serialize, ToSchema)]
pub struct LiveSink {
    sink: String,
    /// Everything before this offset of the log it follows has been delivered.
    next: u64,
    end: u64,
    lag: u64,
    /// Why it delivers nothing at present.
    problem: Option<String>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub struct LiveModel {
    model: String,
    /// The version that decides.
    in_service: Option<u32>,
}

/// A monitor of a model and its newest value.
#[derive(Serialize, ToSchema)]
pub struct LiveMonitor {
    monitor: String,
    model: String,
    /// `waiting` before the first value, `ok`, or `alert` while the newest is past the threshold.
    state: &'static str,
    at: Option<Moment>,
    subject: Option<String>,
    value: Option<f64>,
}

/// What this listener was not told.
#[derive(Serialize, ToSchema)]
pub struct Dropped {
    /// Records of the decision log that were passed over: more came than it asked for.
    decisions: u64,
    /// Alerts, runs and swaps that it was too slow for.
    events: u64,
}

/// Something else decides from now on.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Swap {
    Model {
        model: String,
        version: u32,
        before: Option<u32>,
    },
    /// Hashes of the definitions.
    Definitions {
        definitions: String,
        before: String,
    },
}

/// What all listeners share.
pub struct Live {
    places: Arc<Semaphore>,
    pulse: Mutex<Pulse>,
}

impl Default for Live {
    fn default() -> Self {
        Live { places: Arc::new(Semaphore::new(LISTENERS)), pulse: Mutex::default() }
    }
}

#[derive(Default)]
struct Pulse {
    /// None: nobody has listened yet.
    newest: Option<Reading>,
    /// Made so far.
    readings: u64,
    /// Written events, numbered from 1 on.
    news: VecDeque<Bytes>,
    /// The number of the newest of them.
    numbered: u64,
}

/// Everything at one moment.
struct Reading {
    at: Instant,
    /// Ascending.
    number: u64,
    /// The `status` event.
    text: Bytes,
    counted: Counted,
    known: Known,
}

/// What rates are made of.
struct Counted {
    events: u64,
    sources: BTreeMap<String, u64>,
    decisions: BTreeMap<(String, String), u64>,
    dead_letters: u64,
    decide: Recording,
    freshness: Recording,
}

/// What news are told by.
struct Known {
    alert: i64,
    /// Status of the newest runs, by id.
    runs: BTreeMap<String, &'static str>,
    champions: BTreeMap<String, u32>,
    definitions: String,
}

/// What one listener is sent in one second.
#[derive(Default)]
struct Beat {
    reading: u64,
    newest_news: u64,
    text: Vec<u8>,
    missed: u64,
}

/// Live
///
/// Server-sent events, one second's at a time: `status`, then what happened: `alert`, `run` (begun or ended), `swap` (another model version or other
/// definitions decide), and of the new decisions at most as many as asked for, spread over all of them. `dropped` says what was passed over. Events have no ids:
/// `Last-Event-ID` changes nothing, and what was missed is in `/v1/alerts` and `/v1/runs`. It ends when the server is told to stop.
#[utoipa::path(
    get, path = "/v1/live", tag = "project",
    params(("decisions" = Option<u64>, Query, description = "new decisions told in a second at most: 0 to 200; 20 when left out")),
    responses(
        (status = 200, description = "events without end; the schema is of their data", body = LiveEvent, content_type = "text/event-stream"),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 429, description = "64 listen already", body = ErrorBody),
    )
)]
pub async fn get_live(State(host): State<Host>, caller: Caller, mut params: Params) -> Answer {
    let decisions = params.number("decisions", 0..=200).unwrap_or(20);
    params.done()?;
    let busy = || {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", format!("{LISTENERS} listen already"))
            .hint("`/v1/status` has the same figures to ask for".to_string())
            .retry_after(5)
    };
    let place = Arc::clone(&host.live.places).try_acquire_owned().map_err(|_| busy())?;
    let (out, events) = mpsc::channel(1);
    tokio::spawn(tell(host, caller, decisions, out, place));
    let mut response = Response::new(Body::new(Events(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers are to pass on each event.
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

struct Events(mpsc::Receiver<Bytes>);

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Tells one listener, until it goes away, takes nothing any more, may not listen any more, or the service ends.
async fn tell(host: Host, caller: Caller, decisions: u64, out: mpsc::Sender<Bytes>, _place: OwnedSemaphorePermit) {
    let mut listener = Listener::new(&host, decisions);
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = host.drain.begun() => return,
            () = out.closed() => return,
        }
        // Only then is the next second made.
        let room = tokio::select! {
            () = ended(&host) => return,
            room = tokio::time::timeout(PATIENCE, out.reserve()) => room,
            () = host.drain.begun() => return,
        };
        let Ok(Ok(room)) = room else { return };
        if !host.access.still_admits(&caller, Role::Read) {
            return;
        }
        match listener.beat().await {
            Ok(Some(text)) => room.send(text),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(?error, "a listener could not be told what happens");
                return;
            }
        }
    }
}

struct Listener {
    host: Host,
    /// In a second.
    decisions: u64,
    /// The next record of the decision log that it has not been told of.
    position: u64,
    reading: u64,
    /// None: before the first second.
    news: Option<u64>,
}

impl Listener {
    fn new(host: &Host, decisions: u64) -> Listener {
        let position = App::from_ref(host).service.data.decisions.next_offset();
        Listener { host: host.clone(), decisions, position, reading: 0, news: None }
    }

    /// What is new to it; none: the service has ended.
    async fn beat(&mut self) -> Result<Option<Bytes>, ApiError> {
        let app = App::from_ref(&self.host);
        if app.service.has_ended() {
            return Ok(None);
        }
        let mut beat = app.live.beat(&app, self.reading, self.news).await?;
        if self.news.is_none() {
            beat.text.splice(0..0, *RETRY);
        }
        (self.reading, self.news) = (beat.reading, Some(beat.newest_news));
        let (shown, passed_over) = self.new_decisions(&app).await?;
        for recorded in &shown {
            LiveEvent::Decision(Decided::new(&recorded.decision, &recorded.layout, true)).write(&mut beat.text)?;
        }
        if passed_over + beat.missed > 0 {
            LiveEvent::Dropped(Dropped { decisions: passed_over, events: beat.missed }).write(&mut beat.text)?;
        }
        if beat.text.is_empty() {
            // A sign of life, for those between it and here.
            beat.text.extend_from_slice(b":\n\n");
        }
        Ok(Some(beat.text.into()))
    }

    /// Decisions since the second before, spread over all of them, the newest one among them; and how many records were passed over.
    async fn new_decisions(&mut self, app: &App) -> Result<(Vec<Recorded>, u64), ApiError> {
        let end = app.service.data.decisions.next_offset();
        let (from, new) = (self.position, end.saturating_sub(self.position));
        self.position = end;
        let shown = new.min(self.decisions);
        if shown == 0 {
            return Ok((Vec::new(), if self.decisions == 0 { 0 } else { new }));
        }
        let positions = (1..=shown).map(move |n| from + n * new / shown - 1);
        let found = app.blocking(move |service| Ok(service.decisions_at(positions)?)).await?;
        Ok((found, new - shown))
    }
}

impl Live {
    /// What is new since a reading and the news of a number.
    async fn beat(&self, app: &App, reading: u64, news: Option<u64>) -> Result<Beat, ApiError> {
        let mut pulse = self.pulse.lock().await;
        if pulse.newest.as_ref().is_none_or(|newest| newest.at.elapsed() >= FRESH) {
            pulse.read(app).await?;
        }
        let mut beat = Beat { newest_news: pulse.numbered, ..Beat::default() };
        if let Some(newest) = &pulse.newest {
            beat.reading = newest.number;
            if newest.number > reading {
                beat.text.extend_from_slice(&newest.text);
            }
        }
        let new = pulse.numbered - news.unwrap_or(pulse.numbered);
        let kept = new.min(pulse.news.len() as u64);
        beat.missed = new - kept;
        pulse.news.iter().skip(pulse.news.len() - kept as usize).for_each(|text| beat.text.extend_from_slice(text));
        Ok(beat)
    }
}

impl Pulse {
    async fn read(&mut self, app: &App) -> Result<(), ApiError> {
        let status = &app.service.status;
        let at = Instant::now();
        let sources = app.service.sources();
        let letters = status.dead_letters();
        let counted = Counted {
            events: Counters::get(&status.events),
            sources: sources.iter().map(|s| (s.source.clone(), s.events)).collect(),
            decisions: status.decisions(),
            dead_letters: letters.values().sum(),
            decide: status.decide.recording(),
            freshness: status.freshness.recording(),
        };
        // What has happened is told however long ago it was looked at; only rates begin anew.
        let last = self.newest.take();
        let known = match self.take_news(app, last.as_ref().map(|last| &last.known)).await {
            Ok(known) => known,
            Err(error) => {
                self.newest = last;
                return Err(error);
            }
        };
        let before = last.filter(|last| at.duration_since(last.at) < PAUSE);

        let plan = &app.service.plan;
        let seconds = before.as_ref().map(|before| at.duration_since(before.at).as_secs_f64());
        let then = before.as_ref().map(|before| &before.counted);
        let grown = |now: u64, of: &dyn Fn(&Counted) -> u64| then.map(|then| now.saturating_sub(of(then)));
        let rate = |grown: Option<u64>| Some(grown? as f64 / seconds?);
        let decisions = plan.decisions.iter().map(|decision| {
            let key = |outcome: &String| (decision.name.clone(), outcome.clone());
            let count = |counted: &Counted, outcome: &String| counted.decisions.get(&key(outcome)).copied().unwrap_or(0);
            let all = |counted: &Counted| decision.outcomes.iter().map(|outcome| count(counted, outcome)).sum::<u64>();
            let new = grown(all(&counted), &all);
            let outcomes = decision.outcomes.iter().map(|outcome| {
                let total = count(&counted, outcome);
                let own = grown(total, &|then| count(then, outcome));
                let share = new.filter(|new| *new > 0).zip(own).map(|(new, own)| own as f64 / new as f64);
                LiveOutcome { outcome: outcome.clone(), total, per_second: rate(own), share }
            });
            LiveDecision {
                decision: decision.name.clone(),
                model: decision.model.map(|model| plan.models[model].name.clone()),
                total: all(&counted),
                per_second: rate(new),
                outcomes: outcomes.collect(),
            }
        });
        let readings = status.newest_readings();
        let monitors = plan.monitors.iter().map(|monitor| {
            let newest = readings.get(&monitor.name);
            LiveMonitor {
                monitor: monitor.name.clone(),
                model: plan.models[monitor.model].name.clone(),
                state: super::monitors::state(newest.map(|reading| reading.crossed.is_some())),
                at: newest.map(|reading| Moment(reading.at)),
                subject: newest.map(|reading| reading.subject.clone()),
                value: newest.map(|reading| reading.value),
            }
        });
        let told = LiveStatus {
            at: Moment(app.service.clock().now()),
            window_seconds: seconds,
            ready: !app.is_draining() && !status.is_log_broken(),
            events_per_second: rate(grown(counted.events, &|then| then.events)),
            event_time: event_time(app).map(Moment),
            next_offset: app.service.data.events.next_offset(),
            durable_offset: app.service.data.events.durable_offset(),
            definitions: plan.hash.clone(),
            apply: status.applying().map(Apply::from),
            decisions: decisions.collect(),
            decide: then.and_then(|then| counted.decide.clone().since(&then.decide)).into(),
            freshness: then.and_then(|then| counted.freshness.clone().since(&then.freshness)).into(),
            dead_letters: LiveDeadLetters {
                total: counted.dead_letters,
                per_second: rate(grown(counted.dead_letters, &|then| then.dead_letters)),
                by_code: letters,
            },
            sinks: status
                .sinks()
                .into_iter()
                .map(|(sink, s)| LiveSink { sink, next: s.next, end: s.end, lag: s.end.saturating_sub(s.next), problem: s.problem })
                .collect(),
            models: plan
                .models
                .iter()
                .map(|model| LiveModel { model: model.name.clone(), in_service: known.champions.get(&model.name).copied() })
                .collect(),
            monitors: monitors.collect(),
            sources: sources
                .into_iter()
                .map(|s| LiveSource {
                    status: s.liveness.name(),
                    events: s.events,
                    per_second: rate(grown(s.events, &|then| then.sources.get(&s.source).copied().unwrap_or(0))),
                    late: s.late,
                    duplicates: s.duplicates,
                    turned_away: s.turned_away.values().sum(),
                    watermark: s.watermark.map(Moment),
                    last_arrival: s.last_arrival.map(Moment),
                    silent_seconds: s.silent.map(|span| span.0 as f64 / 1e6),
                    lag: (!s.partitions.is_empty()).then(|| s.partitions.values().map(kilter_runtime::PartitionStatus::lag).sum()),
                    problem: s.problem,
                    source: s.source,
                })
                .collect(),
        };
        let mut text = Vec::with_capacity(2048);
        LiveEvent::Status(told).write(&mut text)?;
        self.readings += 1;
        self.newest = Some(Reading { at, number: self.readings, text: text.into(), counted, known });
        Ok(())
    }

    /// Notes what has happened since a reading; without one, how things stand.
    async fn take_news(&mut self, app: &App, before: Option<&Known>) -> Result<Known, ApiError> {
        let metadata = &app.service.data.metadata;
        let alerts = metadata.list_alerts(&AlertFilter { limit: NEWS as u32, ..AlertFilter::default() }).await?;
        let runs = metadata.list_runs(&RunFilter { limit: RUNS, ..RunFilter::default() }).await?;
        let mut champions = BTreeMap::new();
        for model in &app.service.plan.models {
            if let Some(version) = metadata.aliases(&model.name).await?.get(CHAMPION) {
                champions.insert(model.name.clone(), *version);
            }
        }
        let known = Known {
            alert: alerts.first().map_or(0, |alert| alert.id),
            runs: runs.iter().map(|run| (run.id.clone(), run.status.as_str())).collect(),
            champions,
            definitions: app.service.plan.hash.clone(),
        };
        let Some(before) = before else { return Ok(known) };
        let new = alerts.iter().filter(|alert| alert.id > before.alert).count() as u64;
        // Ids are given in order: those between that were not listed are told as passed over.
        self.numbered += u64::try_from(known.alert - before.alert).unwrap_or(0).saturating_sub(new);
        for alert in alerts.into_iter().rev().filter(|alert| alert.id > before.alert) {
            self.note(LiveEvent::Alert(alert.into()))?;
        }
        for run in runs.into_iter().rev().filter(|run| before.runs.get(&run.id) != Some(&run.status.as_str())) {
            self.note(LiveEvent::Run(run.into()))?;
        }
        if before.definitions != known.definitions {
            let swap = Swap::Definitions { definitions: known.definitions.clone(), before: before.definitions.clone() };
            self.note(LiveEvent::Swap(swap))?;
        }
        for (model, version) in &known.champions {
            let was = before.champions.get(model).copied();
            if was != Some(*version) {
                self.note(LiveEvent::Swap(Swap::Model { model: model.clone(), version: *version, before: was }))?;
            }
        }
        Ok(known)
    }

    fn note(&mut self, event: LiveEvent<'_>) -> Result<(), ApiError> {
        let mut text = Vec::with_capacity(256);
        event.write(&mut text)?;
        if self.news.len() == NEWS {
            self.news.pop_front();
        }
        self.news.push_back(text.into());
        self.numbered += 1;
        Ok(())
    }
}

/// A body that ends when the server is told to stop.
pub struct UntilDrained {
    body: Body,
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl UntilDrained {
    pub fn new(body: Body, drain: crate::app::Drain) -> UntilDrained {
        UntilDrained { body, drained: Box::pin(async move { drain.begun().await }) }
    }
}

impl HttpBody for UntilDrained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let own = self.get_mut();
        if own.drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut own.body).poll_frame(cx)
    }
}

/// Waits until the service has ended.
async fn ended(host: &Host) {
    while !App::from_ref(host).service.has_ended() {
        tokio::time::sleep(BEAT).await;
    }
}
