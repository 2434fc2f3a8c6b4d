//! A running project: the face that the HTTP server, the command line and the demo talk to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kilter_connect::{
    Body, Decoded, FieldProblem, Limits, OperationOf, Rejection, RowFormat, TimeOf, UnknownFields, decode_body, decode_object,
};
use kilter_core::{Clock, CompactString, EntityKey, EventTime, Offset, Operation, SourceId, Value};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::training::TrainingError;
use kilter_pipeline::{Decision, Layout, Plan, When, parse_decision_id};
use kilter_store::dead_letter::DeadLetter;
use kilter_store::metadata::{AliasChange, CHAMPION};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::catalog::Control;
use crate::data::Data;
use crate::jobs::apply::{self, Applying};
use crate::jobs::shards;
use crate::jobs::train::{Promotion, TrainReport, TrainRequest, train};
use crate::project::{Project, Report};
use crate::schedule;
use crate::sequencer::{
    Around, CHUNK_ROWS, Call, Command, Decided, FeatureRead, FeatureRows, Ingested, Positions, Present, RECOVERY, Refusal, Sequencer,
    SnapshotRhythm, TrainListener, Wanted,
};
use crate::status::{Status, lock};
use crate::watch::{Shadows, run_watches};

/// Commands that may wait for the sequencer; when the queue is full, senders wait (files) or are told to slow down (HTTP).
const QUEUE: usize = 1024;
/// Rejected rows listed in one answer; all of them are dead letters.
const REJECTIONS_LISTED: usize = 100;
/// How long HTTP waits for a place in a full queue before it answers "slow down".
const PATIENCE: Duration = Duration::from_secs(2);

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> EventTime {
        EventTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64))
    }
}

/// A project in operation, under one set of definitions. Positions (of sources, decisions and so on) are those of its own plan; what it is
/// asked after other definitions came into force is told anew to the sequencer, by names.
pub struct Service {
    pub project: Arc<Project>,
    pub plan: Arc<Plan>,
    pub data: Arc<Data>,
    pub status: Arc<Status>,
    pub started: Instant,
    formats: Vec<Arc<RowFormat>>,
    /// Per decision: columns a request must hold.
    required: Vec<Vec<usize>>,
    shared: Arc<Shared>,
    /// The service under the definitions that came after these; whoever holds an old one keeps the newest alive.
    next: OnceLock<Arc<Service>>,
}

/// What outlives a change of definitions.
struct Shared {
    clock: Arc<dyn Clock>,
    commands: mpsc::Sender<Call>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Jobs of which one at a time may run: models with a training or an import under way, decisions with a test of a policy, the backtest of definitions.
    at_work: Mutex<BTreeSet<String>>,
    /// Reads of the past under way: each may need the memory of a whole state.
    past_reads: Semaphore,
    /// Parts of views' entities that are asked for.
    parts: Semaphore,
    /// The self-checks' second opinions, by monitor.
    shadows: Shadows,
    /// The service under the definitions in force.
    current: Mutex<Weak<Service>>,
}

/// A way to the service in force that does not keep it alive.
#[derive(Clone)]
pub(crate) struct Reach(Weak<Shared>);

impl Reach {
    /// None: the service has ended.
    pub(crate) fn current(&self) -> Option<Arc<Service>> {
        lock(&self.0.upgrade()?.current).upgrade()
    }
}

/// How a service is started.
#[derive(Clone)]
pub struct StartOptions {
    pub clock: Arc<dyn Clock>,
    /// Told of every training that ran by itself.
    pub on_trained: TrainListener,
    /// Whether wall-clock schedules run; not in a process that only answers a question.
    pub schedules: bool,
}

impl Default for StartOptions {
    fn default() -> Self {
        StartOptions { clock: Arc::new(SystemClock), on_trained: Arc::new(|_| {}), schedules: true }
    }
}

/// The fate of a body of events.
#[derive(Clone, Debug, Default)]
pub struct IngestReport {
    pub accepted: u64,
    pub duplicates: u64,
    pub late: u64,
    /// The log is durable up to here, exclusive; none when nothing was accepted.
    pub next_offset: Option<Offset>,
    /// Messages that tell of no row, passed over: heartbeats, tombstones and the like.
    pub ignored: u64,
    pub rejected: u64,
    /// The first of the rejected rows, without their payload.
    pub rejections: Vec<Rejection>,
}

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceError {
    /// The body as a whole cannot be read.
    Body(Rejection),
    /// Fields of a decision request are wrong.
    Fields(Vec<FieldProblem>),
    Refused(Refusal),
    /// The queue to the sequencer is full.
    SlowDown,
    NotFound {
        what: &'static str,
        name: String,
        hint: Option<String>,
    },
    /// The definitions file does not hold.
    Definitions(Report),
    /// A model file cannot be used.
    Model(String),
    /// The same job is running already, or another reason not to do it now.
    Conflict(String),
    Failed(String),
}

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServiceError::Body(r) => write!(f, "{}", r.message),
            ServiceError::Fields(problems) => {
                let all: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
                write!(f, "{}", all.join("; "))
            }
            ServiceError::Refused(r) => write!(f, "{r}"),
            ServiceError::SlowDown => write!(f, "more events are waiting than can be processed; send again in a moment"),
            ServiceError::NotFound { what, name, .. } => write!(f, "there is no {what} `{name}`"),
            ServiceError::Definitions(report) => write!(f, "the definitions do not hold\n\n{report}"),
            ServiceError::Model(detail) | ServiceError::Conflict(detail) | ServiceError::Failed(detail) => f.write_str(detail),
        }
    }
}

impl std::error::Error for ServiceError {}

impl From<Refusal> for ServiceError {
    fn from(r: Refusal) -> Self {
        ServiceError::Refused(r)
    }
}

impl From<anyhow::Error> for ServiceError {
    fn from(e: anyhow::Error) -> Self {
        ServiceError::Failed(format!("{e:#}"))
    }
}

/// Rows in the sequencer's queue.
pub struct Enqueued {
    report: IngestReport,
    waiting: Vec<oneshot::Receiver<Result<Ingested, Refusal>>>,
}

impl Enqueued {
    /// What became of them.
    pub async fn answer(self) -> Result<IngestReport, ServiceError> {
        let mut report = self.report;
        // All parts are waited for, so whoever is told of a failure finds nothing still on its way in.
        let mut failed = None;
        for answer in self.waiting {
            let done = match answer.await.unwrap_or(Err(Refusal::Stopping)) {
                Ok(done) => done,
                Err(refusal) => {
                    failed.get_or_insert(refusal);
                    continue;
                }
            };
            report.accepted += done.accepted;
            report.duplicates += done.duplicates;
            report.late += done.late;
            report.next_offset = Some(report.next_offset.unwrap_or(0).max(done.next));
        }
        failed.map_or(Ok(report), |refusal| Err(refusal.into()))
    }
}

/// A job that is alone of its name as long as this lives: a model that is being given a version.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.shared.at_work).remove(&self.name);
    }
}

/// A decision as the decision log has it.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub decision: Decision,
    pub layout: Arc<Layout>,
}

impl Service {
    /// Opens the data folder, brings state to the end of the log and starts the sequencer and, on the wall clock, the scheduler.
    pub async fn start(project: Project, options: StartOptions) -> anyhow::Result<Arc<Service>> {
        let project = Arc::new(project);
        let plan = Arc::new(project.plan.clone());
        let data = Arc::new(Data::open(&project).await?);
        for repair in &data.repairs {
            tracing::warn!("{repair}");
        }
        let killed = data.metadata.mark_orphans(options.clock.now().0).await?;
        if !killed.is_empty() {
            tracing::warn!(runs = killed.len(), "runs cut short by the last stop are marked as killed");
        }
        let status = Arc::new(Status::default());
        let (commands, receiver) = mpsc::channel(QUEUE);
        let rhythm = SnapshotRhythm {
            every: Duration::from_micros(project.settings.snapshot.every.0 as u64),
            min_events: project.settings.snapshot.min_events,
        };
        let (wanted, wants) = mpsc::unbounded_channel();
        let background: Arc<dyn Fn(Wanted) + Send + Sync> = Arc::new(move |wish| {
            // The receiver lives as long as the service.
            let _ = wanted.send(wish);
        });
        let sequencer = {
            let (data, plan, project) = (Arc::clone(&data), Arc::clone(&plan), Arc::clone(&project));
            let (status, clock, on_trained) = (Arc::clone(&status), Arc::clone(&options.clock), Arc::clone(&options.on_trained));
            let around = Around { status, clock, rhythm, background, on_trained };
            tokio::task::spawn_blocking(move || {
                data.keep_definitions(&project)?;
                Sequencer::start(data, plan, around)
            })
            .await??
        };
        let thread = std::thread::Builder::new().name("sequencer".into()).spawn(move || sequencer.run(receiver))?;
        let shared = Arc::new(Shared {
            clock: options.clock,
            commands,
            thread: Mutex::new(Some(thread)),
            at_work: Mutex::default(),
            past_reads: Semaphore::new(1),
            parts: Semaphore::new(1),
            shadows: Shadows::default(),
            current: Mutex::default(),
        });
        let service = Service::under(project, plan, data, status, Instant::now(), shared);
        let reach = service.reach();
        tokio::spawn(serve_wishes(reach.clone(), wants, Arc::clone(&options.on_trained)));
        if options.schedules {
            tokio::spawn(run_watches(reach.clone()));
            tokio::spawn(tick(reach, options.on_trained));
        }
        Ok(service)
    }

    /// The face of one set of definitions, which is the current one from now on.
    fn under(
        project: Arc<Project>,
        plan: Arc<Plan>,
        data: Arc<Data>,
        status: Arc<Status>,
        started: Instant,
        shared: Arc<Shared>,
    ) -> Arc<Service> {
        let service = Arc::new(Service {
            formats: project.row_formats().into_iter().map(Arc::new).collect(),
            required: (0..plan.decisions.len()).map(|d| required_columns(&plan, d)).collect(),
            project,
            plan,
            data,
            status,
            started,
            shared,
            next: OnceLock::new(),
        });
        *lock(&service.shared.current) = Arc::downgrade(&service);
        service
    }

    /// The service under the definitions in force.
    pub fn current(self: &Arc<Self>) -> Arc<Service> {
        let mut newest = self;
        while let Some(next) = newest.next.get() {
            newest = next;
        }
        Arc::clone(newest)
    }

    pub(crate) fn reach(&self) -> Reach {
        Reach(Arc::downgrade(&self.shared))
    }

    /// Other definitions have come into force after these.
    pub(crate) fn succeed(self: &Arc<Self>, project: Project, plan: Arc<Plan>) {
        let (data, status, shared) = (Arc::clone(&self.data), Arc::clone(&self.status), Arc::clone(&self.shared));
        let next = Service::under(Arc::new(project), plan, data, status, self.started, shared);
        // One apply at a time: nobody else has set it.
        let _ = self.current().next.set(next);
    }

    /// Begins to take up the definitions file as it is now, while the definitions in force go on serving; `Status::applying` says how far
    /// it has come.
    pub async fn apply(self: &Arc<Self>) -> Result<Applying, ServiceError> {
        let service = Arc::clone(self);
        let begun = tokio::task::spawn_blocking(move || apply::begin(&service)).await;
        begun.map_err(|e| ServiceError::Failed(format!("the apply ended badly: {e}")))?
    }

    /// Whether other definitions have followed these, or nothing is taken any more.
    pub(crate) fn is_over(&self) -> bool {
        self.next.get().is_some() || self.has_ended()
    }

    /// Whether nothing is taken any more, under these definitions or others.
    pub fn has_ended(&self) -> bool {
        self.shared.commands.is_closed()
    }

    pub(crate) fn shadows(&self) -> &Shadows {
        &self.shared.shadows
    }

    pub(crate) fn past_reads(&self) -> &Semaphore {
        &self.shared.past_reads
    }

    pub(crate) fn parts(&self) -> &Semaphore {
        &self.shared.parts
    }

    pub fn clock(&self) -> &dyn Clock {
        self.shared.clock.as_ref()
    }

    pub fn source(&self, name: &str) -> Result<SourceId, ServiceError> {
        self.plan.source(name).ok_or_else(|| not_found("source", name, self.plan.sources.iter().map(|s| s.name.as_str())))
    }

    pub fn decision(&self, name: &str) -> Result<usize, ServiceError> {
        self.plan.decision(name).ok_or_else(|| not_found("decision", name, self.plan.decisions.iter().map(|d| d.name.as_str())))
    }

    pub fn model(&self, name: &str) -> Result<usize, ServiceError> {
        self.plan.model(name).ok_or_else(|| not_found("model", name, self.plan.models.iter().map(|m| m.name.as_str())))
    }

    pub fn view(&self, name: &str) -> Result<usize, ServiceError> {
        self.plan.view(name).ok_or_else(|| not_found("feature view", name, self.plan.views.iter().map(|v| v.name())))
    }

    pub fn format(&self, source: SourceId) -> &Arc<RowFormat> {
        &self.formats[source.0 as usize]
    }

    /// Columns that a request to a decision must hold, beyond those its source asks for.
    pub fn required(&self, decision: usize) -> &[usize] {
        &self.required[decision]
    }

    /// Takes in a body of events; returns once every accepted row is durable and its effect visible.
    pub async fn ingest(
        &self,
        source: SourceId,
        body: &[u8],
        content_type: Option<&str>,
        received: Instant,
    ) -> Result<IngestReport, ServiceError> {
        let format = self.format(source);
        let arrived = self.shared.clock.now();
        let Body { rows, ignored } = match decode_body(body, content_type, format, arrived, &Limits::default()) {
            Ok(body) => body,
            Err(rejection) => {
                self.bury(&format.source, arrived, std::slice::from_ref(&rejection));
                return Err(ServiceError::Body(rejection));
            }
        };
        let report = self.ingest_rows(source, rows, arrived, received, true).await?;
        Ok(IngestReport { ignored, ..report })
    }

    /// The same for rows decoded elsewhere. Without `durable` the answer comes once the rows are with the operating system.
    pub async fn ingest_rows(
        &self,
        source: SourceId,
        rows: Vec<Result<Decoded, Rejection>>,
        arrived: EventTime,
        received: Instant,
        durable: bool,
    ) -> Result<IngestReport, ServiceError> {
        let report = self.enqueue(source, rows, arrived, received, false).await?.answer().await?;
        if durable && let Some(next) = report.next_offset {
            self.data.settled(next).await?;
        }
        Ok(report)
    }

    /// Hands rows to the sequencer and returns as soon as they have their place in its queue. Who is `patient` waits for it however
    /// long the queue is full; others are told to slow down.
    pub async fn enqueue(
        &self,
        source: SourceId,
        rows: Vec<Result<Decoded, Rejection>>,
        arrived: EventTime,
        received: Instant,
        patient: bool,
    ) -> Result<Enqueued, ServiceError> {
        let mut report = IngestReport::default();
        let mut good = Vec::with_capacity(rows.len());
        let mut bad = Vec::new();
        for row in rows {
            match row {
                Ok(decoded) => good.push(decoded),
                Err(rejection) => bad.push(rejection),
            }
        }
        if !bad.is_empty() {
            report.rejected = bad.len() as u64;
            report.rejections = bad.iter().take(REJECTIONS_LISTED).map(|r| Rejection { payload: "".into(), ..r.clone() }).collect();
        }
        let mut waiting = Vec::new();
        let refused = Arc::new(OnceLock::new());
        while !good.is_empty() {
            let rest = good.split_off(good.len().min(CHUNK_ROWS));
            let rows = std::mem::replace(&mut good, rest);
            let (reply, answer) = oneshot::channel();
            let command = Command::Ingest { source, rows, arrived, received, refused: Arc::clone(&refused), reply };
            match waiting.is_empty() {
                true if !patient => self.send_in_time(self.call(command)).await?,
                // A body whose first part has been taken is taken whole, however long that takes.
                _ => self.shared.commands.send(self.call(command)).await.map_err(|_| Refusal::Stopping)?,
            }
            waiting.push(answer);
        }
        // Only now: a body that was told to come again has left no letters behind.
        if !bad.is_empty() {
            self.bury(&self.plan.sources[source.0 as usize].name, arrived, &bad);
        }
        Ok(Enqueued { report, waiting })
    }

    /// A source is read from this stream from now on. Gives what of it is in the log already, as the next position of each partition; whatever
    /// comes from before is passed over.
    pub async fn attach(&self, source: SourceId, stream: &str) -> Result<Positions, ServiceError> {
        let answer = self.send(|reply| Command::Attach { source, stream: stream.to_owned(), reply }).await?;
        Ok(answer.await.unwrap_or(Err(Refusal::Stopping))?)
    }

    /// Records of a source's stream up to these positions have been seen, and those that left no event need not be seen again.
    pub async fn passed(&self, source: SourceId, next: Positions) -> Result<(), ServiceError> {
        let answer = self.send(|reply| Command::Passed { source, next, reply }).await?;
        Ok(answer.await.unwrap_or(Err(Refusal::Stopping))?)
    }

    /// Takes in one request as an event of the decision's source and answers with the decision on it.
    pub async fn decide(
        &self,
        decision: usize,
        body: &[u8],
        idempotency_key: Option<&str>,
        received: Instant,
        preview: bool,
    ) -> Result<Decided, ServiceError> {
        let arrived = self.shared.clock.now();
        let row = self.decode_request(decision, body, idempotency_key, arrived)?;
        let answer = match preview {
            true => self.send(|reply| Command::Preview { decision, row, reply }).await?,
            false => self.send(|reply| Command::Decide { decision, row, arrived, received, reply }).await?,
        };
        let decided = answer.await.map_err(|_| Refusal::Stopping)?;
        // With a journal another worker may have to go on from it, and must make of the event what is answered here.
        if let (Ok(decided), true) = (&decided, self.data.has_journal())
            && decided.recorded
        {
            self.data.settled(decided.decision.offset + 1).await?;
        }
        self.status.decide.record(received.elapsed());
        Ok(decided?)
    }

    fn decode_request(
        &self,
        decision: usize,
        body: &[u8],
        idempotency_key: Option<&str>,
        arrived: EventTime,
    ) -> Result<Decoded, ServiceError> {
        let source = self.plan.decisions[decision].source;
        let format = self.format(source);
        let unknown = match format.unknown {
            // A misspelt field of a request must not become a missing feature in silence.
            UnknownFields::Keep | UnknownFields::Reject => UnknownFields::Reject,
            UnknownFields::Ignore => UnknownFields::Ignore,
        };
        let object =
            decode_object(body, &format.schema, &self.required[decision], unknown, &Limits::default()).map_err(ServiceError::Fields)?;
        format.request(object.row, idempotency_key, arrived).map_err(ServiceError::Fields)
    }

    /// Features of one entity, as of now or of a moment that the state still holds.
    pub async fn features(&self, view: usize, key: EntityKey, at: Option<EventTime>) -> Result<FeatureRead, ServiceError> {
        let FeatureRows { at, as_of_offset, view, rows, .. } = self.feature_rows(view, vec![key], at).await?;
        let look = rows.into_iter().next().unwrap_or_default();
        Ok(FeatureRead { at, as_of_offset, view, values: look.values.clone(), look })
    }

    /// The same for several entities, all as of one moment and one place of the log.
    pub async fn feature_rows(&self, view: usize, keys: Vec<EntityKey>, at: Option<EventTime>) -> Result<FeatureRows, ServiceError> {
        self.rows_of(view, keys, at, false).await
    }

    pub(crate) async fn rows_of(
        &self,
        view: usize,
        keys: Vec<EntityKey>,
        at: Option<EventTime>,
        in_passing: bool,
    ) -> Result<FeatureRows, ServiceError> {
        let answer = self.send(|reply| Command::Features { view, keys, at, in_passing, reply }).await?;
        Ok(answer.await.map_err(|_| Refusal::Stopping)??)
    }

    /// Reads a key of a view from text: its columns' types say how; several columns are separated by `|`.
    pub fn parse_key(&self, view: usize, text: &str) -> Result<EntityKey, ServiceError> {
        let parts: Vec<&str> = if self.plan.views[view].entity().len() == 1 { vec![text] } else { text.split('|').collect() };
        self.parse_key_parts(view, &parts)
    }

    /// The same from one text for each column.
    pub fn parse_key_parts(&self, view: usize, parts: &[&str]) -> Result<EntityKey, ServiceError> {
        let view = &self.plan.views[view];
        let schema = &self.plan.sources[view.source().0 as usize].schema;
        let text = parts.join("|");
        let bad = |expected: &str| {
            ServiceError::Fields(vec![FieldProblem {
                field: view.entity().join("|"),
                code: "wrong_type",
                message: format!("`{text}` is no key of view `{}`", view.name()),
                expected: Some(expected.to_string()),
                got: Some(text.clone()),
                hint: None,
            }])
        };
        if parts.len() != view.entity().len() {
            return Err(bad(&view.entity().join("|")));
        }
        let keys = view
            .entity()
            .iter()
            .zip(parts)
            .map(|(column, part)| {
                let data_type = schema.index(column).map(|i| schema.fields[i].data_type);
                match data_type {
                    Some(kilter_core::DataType::Int64) => part.parse().map(Value::Int).map_err(|_| bad("int64")),
                    Some(kilter_core::DataType::Bool) => part.parse().map(Value::Bool).map_err(|_| bad("bool")),
                    _ => Ok(Value::text(part)),
                }
            })
            .collect::<Result<Vec<Value>, ServiceError>>()?;
        let columns: Vec<usize> = (0..keys.len()).collect();
        EntityKey::from_row(&keys, &columns).ok_or_else(|| bad("a value"))
    }

    /// Trains a model on the log as it is now, beside the stream; one training per model at a time.
    pub async fn train(
        self: &Arc<Self>,
        model: usize,
        from: Option<EventTime>,
        to: Option<EventTime>,
        trigger: String,
        promotion: Promotion,
    ) -> Result<TrainReport, ServiceError> {
        let _claim = self.claim(model)?;
        self.train_unguarded(model, from, to, trigger, promotion).await
    }

    /// Whether this service says which versions its project's models have: of the shards that several workers share, the first does, and the others follow it.
    pub fn leads(&self) -> bool {
        self.project.shard.as_ref().is_none_or(|shard| shard.number == 0)
    }

    fn must_lead(&self) -> Result<(), ServiceError> {
        let other = "what is done to models is done at shard 0, which all shards follow (ask without `/v1/shards/...`)";
        if self.leads() { Ok(()) } else { Err(ServiceError::Conflict(other.into())) }
    }

    /// Makes a model this caller's alone to give versions to, as long as the claim lives.
    pub(crate) fn claim(&self, model: usize) -> Result<Claim, ServiceError> {
        self.must_lead()?;
        let name = &self.plan.models[model].name;
        self.claim_job(name.clone(), &format!("model `{name}` is being trained or imported already"))
    }

    /// Lets one job of a name run at a time.
    pub(crate) fn claim_job(&self, name: String, taken: &str) -> Result<Claim, ServiceError> {
        if !lock(&self.shared.at_work).insert(name.clone()) {
            return Err(ServiceError::Conflict(taken.into()));
        }
        Ok(Claim { shared: Arc::clone(&self.shared), name })
    }

    async fn train_unguarded(
        self: &Arc<Self>,
        model: usize,
        from: Option<EventTime>,
        to: Option<EventTime>,
        trigger: String,
        promotion: Promotion,
    ) -> Result<TrainReport, ServiceError> {
        let present: Present = self.send(|reply| Command::Present { model, reply }).await?.await.map_err(|_| Refusal::Stopping)?;
        let as_of = present.now.ok_or_else(|| ServiceError::Conflict("the event log is empty: there is nothing to learn from".into()))?;
        let mut request = TrainRequest { model, from, to, until: present.next, shards: None, as_of, trigger: trigger.clone(), promotion };
        let service = Arc::clone(self);
        let work = move || {
            if let (Some(_), Some(workers)) = (&service.project.shard, &service.project.definitions.workers) {
                request.shards = Some(shards::reached(&service.data.history, workers.shards)?);
            }
            let wants = || !service.has_ended();
            train(&service.data, &service.plan, &request, service.clock(), present.champion, &wants)
        };
        let report = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| ServiceError::Failed(format!("the training ended badly: {e}")))?
            .map_err(|e| match (e.downcast_ref::<TrainingError>(), e.downcast_ref::<Refusal>()) {
            // Too little to learn from is the state of the data, not a failure of ours.
            (Some(reason), _) => ServiceError::Conflict(reason.to_string()),
            (None, Some(refusal)) => refusal.clone().into(),
            (None, None) => e.into(),
        })?;
        if report.promote {
            self.set_champion(model, report.version, &report.verdict, &trigger).await?;
        }
        Ok(report)
    }

    async fn set_champion(&self, model: usize, version: u32, reason: &str, actor: &str) -> Result<Offset, ServiceError> {
        let (reason, actor) = (reason.to_string(), actor.to_string());
        let answer = self.send_whenever(|reply| Command::SetChampion { model, version, reason, actor, reply }).await?;
        let offset = answer.await.map_err(|_| Refusal::Stopping)??;
        self.data.settled(offset + 1).await?;
        Ok(offset)
    }

    /// Puts a version into service, between two events. Returns the offset of the swap.
    pub async fn promote(&self, model: usize, version: u32, reason: &str, actor: &str) -> Result<Offset, ServiceError> {
        self.must_lead()?;
        let name = &self.plan.models[model].name;
        if self.data.metadata.get_version(name, version).await.map_err(anyhow::Error::from)?.is_none() {
            return Err(ServiceError::NotFound { what: "version", name: format!("{name}@{version}"), hint: None });
        }
        self.set_champion(model, version, reason, actor).await
    }

    /// Goes back to the champion before this one. Returns its version.
    pub async fn rollback(&self, model: usize, actor: &str) -> Result<(u32, Offset), ServiceError> {
        self.must_lead()?;
        let change = AliasChange {
            model: self.plan.models[model].name.clone(),
            alias: "champion".into(),
            at: self.shared.clock.now().0,
            at_offset: None,
            reason: "rollback".into(),
            actor: actor.into(),
        };
        let registry = &self.data.metadata;
        let step = registry.last_step(&change.model, CHAMPION).await.map_err(anyhow::Error::from)?;
        if self.project.shard.is_some() && step.is_some_and(|step| step.change.actor == RECOVERY) {
            let model = &change.model;
            return Err(ServiceError::Conflict(format!(
                "what model `{model}` had in service before is not known in this folder: shard 0 was elsewhere when its version came, or the folder was made anew \
                 (promote a version by its number: POST /v1/models/{model}/promote)"
            )));
        }
        let before = registry.alias(&change.model, "champion").await.map_err(anyhow::Error::from)?;
        let version = registry.rollback(&change).await.map_err(|e| ServiceError::Conflict(e.to_string()))?;
        match self.set_champion(model, version, "rollback", actor).await {
            Ok(offset) => Ok((version, offset)),
            Err(e) => {
                // The old version cannot serve: the registry goes on naming the one that does.
                if let Some(before) = before {
                    let back = AliasChange { reason: "rollback refused".into(), ..change };
                    registry.set_alias(&back, before.version).await.map_err(anyhow::Error::from)?;
                }
                Err(e)
            }
        }
    }

    /// Puts the version into service that shard 0 has in service, whose files are here already; false where it is in service, or where there is no such model. A version
    /// that can never serve under these definitions is [`ServiceError::Model`]. For a thread that is not one of the async runtime's.
    pub fn follow(&self, control: &Control) -> Result<bool, ServiceError> {
        let Control::Champion { model, version, artifact, .. } = control else { return Ok(false) };
        let Some(index) = self.plan.model(model) else { return Ok(false) };
        let data = &self.data;
        let alias = data.wait(data.metadata.alias(model, CHAMPION)).map_err(anyhow::Error::from)?;
        // The registry may name a version whose swap came to nothing.
        let present = data.wait(async {
            let answer = self.send_whenever(|reply| Command::Present { model: index, reply }).await?;
            Ok::<Present, ServiceError>(answer.await.map_err(|_| Refusal::Stopping)?)
        })?;
        if alias.is_some_and(|alias| alias.version == *version && alias.spec.artifact == *artifact)
            && present.champion.is_some_and(|(champion, _)| champion == *version)
        {
            return Ok(false);
        }
        data.keep_version(control, self.clock().now())?;
        if data.champion(&self.plan, index, &data.version(model, *version)?)?.is_none() {
            let problem = "was trained on other inputs than the definitions name here, or to predict something else";
            return Err(ServiceError::Model(format!(
                "version {version} of model `{model}` {problem} (start all workers with the same definitions)"
            )));
        }
        data.wait(self.set_champion(index, *version, "in service at shard 0", "shard 0"))?;
        Ok(true)
    }

    /// One recorded decision by its id.
    pub fn recorded(&self, id: &str) -> Result<Recorded, ServiceError> {
        let missing = || ServiceError::NotFound {
            what: "decision",
            name: id.to_string(),
            hint: Some("ids look like `loan-12345`: a decision's name and the offset of its event".into()),
        };
        let (name, offset) = parse_decision_id(id).ok_or_else(missing)?;
        let found = find_decision(&self.data, name, offset).map_err(ServiceError::from)?;
        if found.is_none() && self.data.erased_event(offset)?.is_some() {
            let hint = Some("its event was erased, and with it the decision's inputs and reasons".into());
            return Err(ServiceError::NotFound { what: "decision", name: id.to_string(), hint });
        }
        let start = self.data.events.start_offset();
        if found.is_none() && self.project.shard.is_some() && offset < start {
            let hint = format!("this worker's folder may be younger: the sinks have what was decided on events before offset {start}");
            return Err(ServiceError::NotFound { what: "decision", name: id.to_string(), hint: Some(hint) });
        }
        found.ok_or_else(missing)
    }

    /// The position in the decision log before which all decisions are on events before `offset`.
    pub fn decisions_from(&self, offset: Offset) -> anyhow::Result<u64> {
        decisions_from(&self.data, &mut Layouts::default(), offset)
    }

    /// The decisions at these positions of the decision log; what else lies there is passed over.
    pub fn decisions_at(&self, positions: impl IntoIterator<Item = u64>) -> Result<Vec<Recorded>, ServiceError> {
        let mut layouts = Layouts::default();
        let read = positions.into_iter().filter_map(|position| layouts.read(&self.data, position).transpose());
        Ok(read.collect::<anyhow::Result<_>>()?)
    }

    /// Takes a snapshot now. Returns the offset it stands at.
    pub async fn snapshot(&self) -> Result<Offset, ServiceError> {
        let answer = self.send(|reply| Command::Snapshot { reply }).await?;
        Ok(answer.await.map_err(|_| Refusal::Stopping)??)
    }

    /// Stops taking commands, finishes those that wait, writes a snapshot and ends the sequencer.
    pub async fn shutdown(&self) -> Result<(), ServiceError> {
        let answer = self.send_whenever(|reply| Command::Stop { reply }).await?;
        answer.await.map_err(|_| Refusal::Stopping)??;
        let thread = lock(&self.shared.thread).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        Ok(())
    }

    /// Writes dead letters for rejected rows.
    fn bury(&self, source: &str, arrived: EventTime, rejections: &[Rejection]) {
        let letters: Vec<DeadLetter> = rejections
            .iter()
            .map(|r| {
                self.status.count_dead(r.code);
                DeadLetter {
                    at_micros: arrived.0,
                    source: Some(source.to_string()),
                    code: r.code.to_string(),
                    detail: r.message.clone(),
                    hint: r.hint.clone(),
                    log_offset: None,
                    origin: r.origin.as_ref().map(|o| o.to_string()),
                    payload: Some(r.payload.to_string()),
                    payload_base64: r.payload_base64,
                    payload_cut: false,
                }
            })
            .collect();
        if let Err(e) = self.data.door.bury(&self.data.dead_letters, &letters) {
            tracing::error!(error = %e, letters = letters.len(), "dead letters could not be written");
        }
    }

    pub(crate) async fn send<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<oneshot::Receiver<T>, ServiceError> {
        self.send_call(|reply| self.call(command(reply))).await
    }

    /// The same under the definitions of its own.
    pub(crate) async fn send_call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<oneshot::Receiver<T>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send_in_time(call(reply)).await?;
        Ok(answer)
    }

    /// For what must not be turned away: waits for a place however long the queue is full.
    async fn send_whenever<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<oneshot::Receiver<T>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(self.call(command(reply))).await.map_err(|_| Refusal::Stopping)?;
        Ok(answer)
    }

    fn call(&self, command: Command) -> Call {
        Call { under: Arc::clone(&self.plan), command }
    }

    /// For a thread that is not one of the runtime's.
    pub(crate) fn send_blocking(&self, call: Call) -> Result<(), Refusal> {
        self.shared.commands.blocking_send(call).map_err(|_| Refusal::Stopping)
    }

    async fn send_in_time(&self, call: Call) -> Result<(), ServiceError> {
        match self.shared.commands.send_timeout(call, PATIENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(ServiceError::SlowDown),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Refusal::Stopping.into()),
        }
    }
}

/// Layout records by position, read once each.
#[derive(Default)]
pub(crate) struct Layouts {
    known: std::collections::HashMap<u64, Arc<Layout>>,
}

impl Layouts {
    /// The record at a position of the decision log, when it is a decision.
    pub(crate) fn read(&mut self, data: &Data, position: u64) -> anyhow::Result<Option<Recorded>> {
        let Some(bytes) = data.decisions.read(position)? else { return Ok(None) };
        self.recorded(data, decode(&bytes)?)
    }

    pub(crate) fn recorded(&mut self, data: &Data, entry: Entry) -> anyhow::Result<Option<Recorded>> {
        let Entry::Decision(at, decision) = entry else { return Ok(None) };
        Ok(Some(Recorded { decision, layout: self.layout(data, at)? }))
    }

    pub(crate) fn layout(&mut self, data: &Data, at: u64) -> anyhow::Result<Arc<Layout>> {
        if let Some(layout) = self.known.get(&at) {
            return Ok(Arc::clone(layout));
        }
        let bytes = data.decisions.read(at)?.ok_or_else(|| anyhow::anyhow!("decision log: layout {at} is gone"))?;
        let Entry::Layout(layout) = decode(&bytes)? else { anyhow::bail!("decision log: record {at} is no layout") };
        let layout = Arc::new(layout);
        self.known.insert(at, Arc::clone(&layout));
        Ok(layout)
    }
}

/// The first decision at or after a position of the decision log: layout records in between speak for nothing.
fn next_decision(data: &Data, layouts: &mut Layouts, from: u64) -> anyhow::Result<Option<(u64, Recorded)>> {
    for position in from..data.decisions.next_offset() {
        if let Some(recorded) = layouts.read(data, position)? {
            return Ok(Some((position, recorded)));
        }
    }
    Ok(None)
}

/// The position in the decision log before which all decisions are on events before `offset`, by halving: decisions lie in the order of their events.
pub(crate) fn decisions_from(data: &Data, layouts: &mut Layouts, offset: Offset) -> anyhow::Result<u64> {
    let (mut low, mut high) = (data.decisions.start_offset(), data.decisions.next_offset());
    while low < high {
        let middle = low + (high - low) / 2;
        match next_decision(data, layouts, middle)? {
            Some((_, recorded)) if recorded.decision.offset < offset => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Finds a decision by its name and its event.
pub(crate) fn find_decision(data: &Data, name: &str, offset: Offset) -> anyhow::Result<Option<Recorded>> {
    let mut layouts = Layouts::default();
    let mut position = decisions_from(data, &mut layouts, offset)?;
    while let Some((at, recorded)) = next_decision(data, &mut layouts, position)? {
        if recorded.decision.offset > offset {
            break;
        }
        if recorded.decision.offset == offset && recorded.layout.decision == name {
            return Ok(Some(recorded));
        }
        position = at + 1;
    }
    Ok(None)
}

/// Columns of the source that a decision reads: its own rules, its model's inputs, the keys of its views.
fn required_columns(plan: &Plan, decision: usize) -> Vec<usize> {
    let decision = &plan.decisions[decision];
    let width = plan.sources[decision.source.0 as usize].schema.len();
    let mut columns: BTreeSet<usize> = decision.context.lookups.iter().flat_map(|l| l.key.iter().copied()).collect();
    columns.extend(decision.policy.iter().filter_map(|r| r.when.as_ref()).flat_map(|e| e.slots().iter().copied()));
    if let Some(model) = decision.model {
        columns.extend(plan.models[model].inputs.iter().flat_map(|i| i.expr.slots().iter().copied()));
    }
    columns.into_iter().filter(|c| *c < width).collect()
}

pub(crate) fn not_found<'a>(what: &'static str, name: &str, valid: impl Iterator<Item = &'a str>) -> ServiceError {
    let valid: Vec<&str> = valid.collect();
    let hint = match kilter_core::nearest(name, valid.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if valid.is_empty() => None,
        None => Some(format!("there are: {}", kilter_core::list(valid))),
    };
    ServiceError::NotFound { what, name: name.to_string(), hint }
}

/// Trainings that monitors ask for on the wall clock.
async fn serve_wishes(reach: Reach, mut wishes: mpsc::UnboundedReceiver<Wanted>, on_trained: TrainListener) {
    while let Some(Wanted { model, trigger, schedule }) = wishes.recv().await {
        let Some(service) = reach.current() else { return };
        // The definitions may have changed since the monitor asked.
        let Some(model) = service.plan.model(&model) else { continue };
        let rule = schedule.and_then(|name| service.plan.schedules.iter().position(|s| s.name == name));
        run_training(&service, model, trigger, rule, &on_trained).await;
    }
}

/// Schedules on the wall clock. A tick missed while the process was down is made up for once.
async fn tick(reach: Reach, on_trained: TrainListener) {
    loop {
        {
            let Some(service) = reach.current() else { return };
            if service.plan.clock == kilter_pipeline::ClockMode::Wall && service.leads() {
                let now = service.clock().now();
                for (index, plan) in service.plan.schedules.iter().enumerate() {
                    let last = service.data.metadata.schedule_state(&plan.name).await.ok().flatten();
                    let due = last.is_some_and(|last| schedule::is_due(&plan.when, EventTime(last), now));
                    let trigger = || format!("schedule:{}", plan.name);
                    if due && !run_training(&service, plan.model, trigger(), Some(index), &on_trained).await {
                        return;
                    }
                    // Kept after the training: one that the end of the process, or of the shard, cuts short is made up for.
                    if (due || last.is_none())
                        && let Err(e) = service.data.metadata.set_schedule_state(&plan.name, now.0).await
                    {
                        tracing::error!(schedule = plan.name, error = %e, "schedule state could not be kept");
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Trains, and tells of it; false: the service ended meanwhile.
async fn run_training(service: &Arc<Service>, model: usize, trigger: String, rule: Option<usize>, on_trained: &TrainListener) -> bool {
    let promotion = rule.map_or(Promotion::Never, Promotion::Rule);
    let result = service.train(model, None, None, trigger, promotion).await;
    match &result {
        Ok(report) => tracing::info!(model = report.model, version = report.version, promoted = report.promote, "{}", report.verdict),
        Err(e) => tracing::warn!(error = %e, "training by itself came to nothing"),
    }
    let ended = matches!(result, Err(ServiceError::Refused(Refusal::Stopping)));
    on_trained(&result.map_err(|e| e.to_string()));
    !ended
}

/// When a schedule will be due next, for people.
pub fn next_tick(when: &When, now: EventTime) -> Option<EventTime> {
    match when {
        When::Every(span) => Some(EventTime((now.bucket(*span) + 1) * span.0)),
        When::Cron(text) => schedule::next_cron(text, now),
    }
}

/// Makes an event out of a request's fields: time and id, by the format's rules.
trait Request {
    fn request(&self, row: Vec<Value>, idempotency_key: Option<&str>, arrived: EventTime) -> Result<Decoded, Vec<FieldProblem>>;
}

impl Request for RowFormat {
    fn request(&self, mut row: Vec<Value>, idempotency_key: Option<&str>, arrived: EventTime) -> Result<Decoded, Vec<FieldProblem>> {
        // A request without a time is about now.
        if let TimeOf::Column(column) = self.time
            && row[column].is_null()
        {
            row[column] = Value::Time(arrived);
        }
        let mut decoded = self.complete(row, arrived)?;
        if decoded.operation == Operation::Delete {
            let field = match &self.operation {
                OperationOf::Column(column) => self.schema.fields[*column].name.clone(),
                OperationOf::Nothing | OperationOf::Field(_) | OperationOf::Debezium => String::new(),
            };
            let message = format!("{field}: a row that is deleted asks for no decision");
            let hint = Some(format!("send the delete to /v1/events/{}", self.source));
            return Err(vec![FieldProblem { field, code: "delete", message, expected: None, got: None, hint }]);
        }
        if let Some(key) = idempotency_key {
            if key.is_empty() || key.len() > kilter_core::record::MAX_ID_BYTES {
                return Err(vec![FieldProblem {
                    field: "Idempotency-Key".into(),
                    code: "bad_id",
                    message: format!("the Idempotency-Key header has {} bytes", key.len()),
                    expected: Some(format!("1 to {} bytes", kilter_core::record::MAX_ID_BYTES)),
                    got: None,
                    hint: None,
                }]);
            }
            decoded.id = Some(CompactString::new(key));
        }
        Ok(decoded)
    }
}
