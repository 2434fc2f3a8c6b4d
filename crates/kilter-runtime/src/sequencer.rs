//! The one thread that gives every event its place and its effect.
//!
//! Commands come in through a bounded queue; whatever waits there is taken as one batch: ids checked, records written to the
//! event log with one write, events processed in order, decisions written with one write, answers sent. Nothing waits for more
//! work to come. State, log position and decisions therefore move together, and a snapshot between two batches holds all of them.

mod consumed;
mod kept;
mod room;
mod swap;
mod tier;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kilter_connect::Decoded;
use kilter_core::record::encode;
use kilter_core::{Clock, EntityKey, Event, EventTime, Offset, SourceId, Span, Stub, Value};
use kilter_features::{Look, View};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::shadow::{self, Sample};
use kilter_pipeline::{ClockMode, Decision, Layout, Pipeline, Plan, Reading};
use kilter_store::dead_letter::{DeadLetter, DeadLetterQuery};
use kilter_store::log::{Log, LogError};
use kilter_store::metadata::{AlertFilter, AliasChange, NewAlert};
use kilter_store::threads;
use tokio::sync::{mpsc, oneshot};

use crate::catalog::{Control, Record};
use crate::data::{ChampionRecord, Data};
use crate::dedupe::Dedupe;
use crate::entities::EntityRow;
use crate::ids;
use crate::jobs::train::{Promotion, TrainReport, TrainRequest, train};
use crate::schedule;
use crate::status::{Status, lock};
use consumed::Consumed;
pub use consumed::Positions;
use kept::KeptReadings;
use room::Room;
pub use swap::{Candidate, Swapped};
use tier::Tier;

/// Rows of one ingest command at most; larger bodies are cut up so that a decision never waits behind one.
pub const CHUNK_ROWS: usize = 512;
/// Entities that a self-check looks for by itself, beside those it was asked for.
const FOUND: usize = 64;
/// Commands taken as one batch at most.
const BATCH_COMMANDS: usize = 256;
/// Rows written and processed as one batch at most.
const BATCH_ROWS: usize = 4096;

/// Who moved an alias of the registry to where the log has it.
pub(crate) const RECOVERY: &str = "recovery";

/// A command with the definitions that its positions and rows belong to.
pub struct Call {
    pub under: Arc<Plan>,
    pub command: Command,
}

/// A training asked for outside the sequencer's thread: model, what triggered it, the schedule with the promotion rule. By name, for
/// the definitions may change before it begins.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub model: String,
    pub trigger: String,
    pub schedule: Option<String>,
}

/// What the sequencer can be asked.
pub enum Command {
    Ingest {
        source: SourceId,
        rows: Vec<Decoded>,
        arrived: EventTime,
        received: Instant,
        /// Shared by the parts of one body: once the log has refused a row, none behind it is taken.
        refused: Arc<OnceLock<Refusal>>,
        reply: oneshot::Sender<Result<Ingested, Refusal>>,
    },
    Decide {
        decision: usize,
        row: Decoded,
        arrived: EventTime,
        received: Instant,
        reply: oneshot::Sender<Result<Decided, Refusal>>,
    },
    /// The decision as it would be now; nothing is written.
    Preview {
        decision: usize,
        row: Decoded,
        reply: oneshot::Sender<Result<Decided, Refusal>>,
    },
    Features {
        view: usize,
        keys: Vec<EntityKey>,
        at: Option<EventTime>,
        /// Of one who goes through all entities: those that are read are not in use for that.
        in_passing: bool,
        reply: oneshot::Sender<Result<FeatureRows, Refusal>>,
    },
    /// Entities of several views at one moment and one place of the log.
    Together {
        reads: Vec<(usize, EntityKey)>,
        at: Option<EventTime>,
        reply: oneshot::Sender<Result<Together, Refusal>>,
    },
    /// The entities of a view in memory before a place, from the last on.
    Entities {
        view: usize,
        before: usize,
        most: usize,
        reply: oneshot::Sender<Result<Entities, Refusal>>,
    },
    /// What the engine knows of these entities, and of sampled ones that it comes upon by itself.
    Check {
        view: usize,
        keys: Vec<EntityKey>,
        sample: Sample,
        /// Where it begins to look for entities of its own.
        from: usize,
        reply: oneshot::Sender<Result<Checked, Refusal>>,
    },
    SetChampion {
        model: usize,
        version: u32,
        reason: String,
        actor: String,
        reply: oneshot::Sender<Result<Offset, Refusal>>,
    },
    /// What a training needs to know of the present.
    Present {
        model: usize,
        reply: oneshot::Sender<Present>,
    },
    Snapshot {
        reply: oneshot::Sender<Result<Offset, Refusal>>,
    },
    /// A source is read from this stream from now on: what of it has been taken already.
    Attach {
        source: SourceId,
        stream: String,
        reply: oneshot::Sender<Result<Positions, Refusal>>,
    },
    /// Records up to these positions were seen that left no event.
    Passed {
        source: SourceId,
        next: Positions,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Other definitions come into force, if at most `tail` records are missing from them.
    Swap {
        candidate: Box<Candidate>,
        tail: u64,
        reply: oneshot::Sender<Swapped>,
    },
    /// Ends the thread after a snapshot.
    Stop {
        reply: oneshot::Sender<Result<Offset, Refusal>>,
    },
}

/// The fate of an ingest command's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingested {
    pub accepted: u64,
    pub duplicates: u64,
    /// Too late for every feature that listens; kept in the log and listed among the dead letters.
    pub late: u64,
    /// The offset after the last row; wait until the log is durable up to it before saying "accepted".
    pub next: Offset,
}

/// A decision with its names.
#[derive(Clone, Debug)]
pub struct Decided {
    pub decision: Decision,
    pub layout: Arc<Layout>,
    /// False for a preview.
    pub recorded: bool,
}

/// Features of one entity.
#[derive(Clone, Debug)]
pub struct FeatureRead {
    pub at: EventTime,
    pub as_of_offset: Offset,
    /// The view as it was when read: names of the values.
    pub view: View,
    pub values: Vec<Value>,
    /// The values with what is known about them.
    pub look: Look,
}

/// Features of several entities at one moment and one place of the log, in the order asked.
#[derive(Clone, Debug)]
pub struct FeatureRows {
    pub at: EventTime,
    pub as_of_offset: Offset,
    /// The newest event time of the view's source.
    pub watermark: Option<EventTime>,
    /// The view as it was then: its features name the values.
    pub view: View,
    pub rows: Vec<Look>,
}

/// What is known of entities of several views, in the order asked.
#[derive(Clone, Debug)]
pub struct Together {
    pub at: EventTime,
    pub as_of_offset: Offset,
    pub looks: Vec<Look>,
}

/// Some of the entities of a view.
#[derive(Clone, Debug)]
pub struct Entities {
    pub rows: Vec<EntityRow>,
    /// Where to go on; 0: these were the last.
    pub before: usize,
    /// The position of the view, and the definitions that it and `before` belong to.
    pub view: usize,
    pub plan: Arc<Plan>,
}

/// What the live engine answers to a self-check.
#[derive(Clone, Debug)]
pub struct Checked {
    pub at: EventTime,
    /// The answers stand after the records before this offset.
    pub offset: Offset,
    /// The entities asked for, then those found.
    pub rows: Vec<(EntityKey, Look)>,
    /// Where to look on for others; 0: from the start.
    pub next: usize,
}

/// The newest end of the stream.
#[derive(Clone)]
pub struct Present {
    pub next: Offset,
    pub now: Option<EventTime>,
    pub champion: Option<(u32, Arc<dyn kilter_learn::Model>)>,
}

/// Why the sequencer could not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event log cannot take the record now.
    Log {
        full: bool,
        detail: String,
    },
    /// The same event id was seen before, at this offset.
    Duplicate {
        first: Offset,
    },
    /// The decision's model has no champion and the definitions name no fallback.
    NoModel {
        model: String,
    },
    /// No rule of the policy holds.
    Undecided,
    /// The definitions changed while the request was on its way, and it has no meaning under the new ones.
    Changed(String),
    Other(String),
    Stopping,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Log { detail, .. } => write!(f, "the event log does not take records: {detail}"),
            Refusal::Duplicate { first } => write!(f, "an event with this id was accepted before, at offset {first}"),
            Refusal::NoModel { model } => write!(f, "model `{model}` has no champion yet and the decision names no `fallback`"),
            Refusal::Undecided => write!(f, "no rule of the policy holds"),
            Refusal::Changed(detail) | Refusal::Other(detail) => f.write_str(detail),
            Refusal::Stopping => write!(f, "kilter is shutting down"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<&LogError> for Refusal {
    fn from(e: &LogError) -> Refusal {
        Refusal::Log { full: e.is_disk_full(), detail: e.to_string() }
    }
}

/// When snapshots are taken.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotRhythm {
    pub every: Duration,
    pub min_events: u64,
}

/// A training that finished inside the sequencer, for whoever watches.
pub type TrainListener = Arc<dyn Fn(&Result<TrainReport, String>) + Send + Sync>;

/// What the sequencer tells, asks and keeps to, whatever the definitions.
#[derive(Clone)]
pub struct Around {
    pub status: Arc<Status>,
    pub clock: Arc<dyn Clock>,
    pub rhythm: SnapshotRhythm,
    /// Asks for a training outside the sequencer's thread (wall clock).
    pub background: Arc<dyn Fn(Wanted) + Send + Sync>,
    pub on_trained: TrainListener,
}

/// Everything the thread owns.
pub struct Sequencer {
    pub data: Arc<Data>,
    pub plan: Arc<Plan>,
    pub pipeline: Pipeline,
    pub dedupe: Dedupe,
    consumed: Consumed,
    pub status: Arc<Status>,
    pub clock: Arc<dyn Clock>,
    pub rhythm: SnapshotRhythm,
    /// Asks for a training outside this thread (wall clock).
    pub background: Arc<dyn Fn(Wanted) + Send + Sync>,
    pub on_trained: TrainListener,
    schema_numbers: Vec<u32>,
    /// Offset in the decision log of each decision's layout record.
    layout_offsets: Vec<Option<u64>>,
    layouts: Vec<Arc<Layout>>,
    /// Events with a place but not yet written, each with the ticket it belongs to.
    staged: Vec<(Event, usize)>,
    staged_now: Option<EventTime>,
    tickets: Vec<Ticket>,
    /// Repetitions of this batch, by source.
    repeated: BTreeMap<u16, u64>,
    /// The last event offset with a recorded decision, and the decisions recorded at it.
    decided: Option<(Offset, Vec<String>)>,
    /// Where the definitions in force came into force: no decision before is made up for.
    since: Offset,
    /// What monitors say of events before is not kept: other definitions have said it.
    readings_since: Offset,
    /// Decisions that the decision log could not take yet; while there are any, no event is taken and no snapshot written.
    pending: Vec<Decision>,
    /// The newest event that was buried as late.
    buried: Option<Offset>,
    /// By what asked for it: the stream's time at which a training inside the stream last ended.
    trained: BTreeMap<String, EventTime>,
    /// The next event time at which a schedule or monitor is due (event clock); none: to be found out.
    boundary: Option<EventTime>,
    /// Trainings asked for by monitors while the stream is held (event clock).
    requested: Vec<Wish>,
    /// Readings on their way to be kept.
    kept: KeptReadings,
    last_snapshot: (Instant, Offset),
    snapshot_running: Arc<AtomicBool>,
    /// The writing of state beyond memory.
    tier: Tier,
    room: Room,
    /// The state cannot be read any more: nothing it says counts.
    broken: Option<String>,
    recovering: bool,
    buffer: Vec<u8>,
}

/// A training that a monitor asked for, with the event at which it did.
struct Wish {
    model: usize,
    trigger: String,
    at: Offset,
}

/// One command whose answer is due when its events have been processed.
struct Ticket {
    received: Instant,
    accepted: u64,
    duplicates: u64,
    late: u64,
    error: Option<Refusal>,
    reply: TicketReply,
}

enum TicketReply {
    Ingest {
        refused: Arc<OnceLock<Refusal>>,
        reply: oneshot::Sender<Result<Ingested, Refusal>>,
    },
    Decide {
        decision: usize,
        made: Option<Decision>,
        reply: oneshot::Sender<Result<Decided, Refusal>>,
    },
    /// Recovery asks nobody.
    Nobody,
}

impl Sequencer {
    /// Brings state to the end of the log: the newest snapshot, then the log's tail through the same pipeline. Decisions and
    /// alerts of the tail that were recorded before stay as they are, missing ones from `since` on are made up for; readings from
    /// `readings_since` on are kept anew.
    pub fn recover(data: Arc<Data>, plan: Arc<Plan>, around: Around, since: Offset, readings_since: Offset) -> anyhow::Result<Sequencer> {
        let Around { status, clock, rhythm, background, on_trained } = around;
        let schema_numbers = data.register(&plan)?;
        let end = data.events.next_offset();
        let pipeline = data.live_state(&plan, end)?;
        let from = pipeline.next_offset();
        // The lake need not answer where the log has all that is needed.
        if from < data.events.start_offset() {
            let start = data.history.start()?;
            anyhow::ensure!(
                from >= start,
                "the history begins at offset {start}, and there is no usable state of what came before\n  hint: a lake that was moved is put back; \
                 an interrupted `kilter boot` is run again; else boot a new data folder"
            );
        }
        let decided = trim_orphans(&data.decisions, end)?;
        let late = DeadLetterQuery { limit: 1, code: Some("late".into()), ..DeadLetterQuery::default() };
        let buried = data.dead_letters.list(&late)?.letters.first().and_then(|(_, letter)| letter.log_offset);
        let layouts = (0..plan.decisions.len()).map(|d| Arc::new(plan.layout(d))).collect();
        let mut sequencer = Sequencer {
            dedupe: Dedupe::new(plan.sources.iter().map(|s| s.dedupe).collect()),
            consumed: Consumed::default(),
            layout_offsets: vec![None; plan.decisions.len()],
            layouts,
            data: Arc::clone(&data),
            plan: Arc::clone(&plan),
            pipeline,
            status,
            clock,
            rhythm,
            background,
            on_trained,
            schema_numbers,
            staged: Vec::new(),
            staged_now: None,
            tickets: Vec::new(),
            repeated: BTreeMap::new(),
            decided,
            since,
            readings_since,
            pending: Vec::new(),
            buried,
            trained: BTreeMap::new(),
            boundary: None,
            requested: Vec::new(),
            kept: KeptReadings::new(&data),
            last_snapshot: (Instant::now(), from),
            snapshot_running: Arc::default(),
            tier: Tier::default(),
            room: Room::default(),
            broken: None,
            recovering: true,
            buffer: Vec::new(),
        };
        sequencer.tickets.push(Ticket::nobody());
        sequencer.consumed.under(&plan);
        let decoder = data.decoder(&plan);
        data.walk(&plan, from, end, |offset, record| {
            if let Record::Event(event) = record {
                if let Some(origin) = event.origin {
                    sequencer.consumed.take(event.source, origin, &plan);
                }
                sequencer.staged.push((event, 0));
                if sequencer.staged.len() >= BATCH_ROWS {
                    sequencer.process_staged();
                    sequencer.whole()?;
                }
                return Ok(());
            }
            sequencer.process_staged();
            sequencer.whole()?;
            match record {
                Record::Control(control) => {
                    if let Control::Trained { trigger, now } = &control {
                        sequencer.trained.insert(trigger.clone(), *now);
                    }
                    if let Control::Consumed { source, stream, next } = &control {
                        sequencer.consumed.state(source, stream, next);
                        sequencer.consumed.under(&plan);
                    }
                    data.keep_version(&control, sequencer.clock.now())?;
                    data.control(&mut sequencer.pipeline, offset, &control)?;
                }
                Record::Erased(Stub { schema, origin: Some(origin), .. }) => {
                    if let Some(source) = decoder.source(schema) {
                        sequencer.consumed.take(source, origin, &plan);
                    }
                    sequencer.pipeline.skip(offset);
                }
                _ => sequencer.pipeline.skip(offset),
            }
            Ok(())
        })?;
        sequencer.process_staged();
        sequencer.whole()?;
        sequencer.tickets.clear();
        sequencer.recovering = false;
        sequencer.remember_ids(end)?;
        sequencer.reconcile_aliases()?;
        sequencer.staged_now = sequencer.pipeline.now();
        // Before the next event is taken, a training that an event asked for has ended. Only the last event's can have been cut short.
        for wish in std::mem::take(&mut sequencer.requested) {
            if wish.at + 1 == end {
                sequencer.train_here(wish.model, wish.trigger, None);
            }
        }
        sequencer.kept.only_of(&plan);
        *lock(&sequencer.status.views) = sequencer.pipeline.engine().stats();
        sequencer.publish();
        Ok(sequencer)
    }

    /// Serves commands until told to stop or until all senders are gone.
    pub fn run(mut self, mut commands: mpsc::Receiver<Call>) {
        threads::decides();
        let mut batch = Vec::with_capacity(BATCH_COMMANDS);
        while let Some(first) = commands.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH_COMMANDS
                && let Ok(next) = commands.try_recv()
            {
                batch.push(next);
            }
            for Call { under, command } in batch.drain(..) {
                if let Command::Stop { reply } = command {
                    self.settle();
                    let _ = reply.send(self.snapshot());
                    commands.close();
                    continue;
                }
                let command = if Arc::ptr_eq(&under, &self.plan) { Some(command) } else { self.told_anew(&under, command) };
                if let Some(command) = command {
                    self.take(command);
                }
                if self.staged.len() >= BATCH_ROWS {
                    self.settle();
                }
            }
            self.settle();
            if self.broken.is_some() {
                return;
            }
            self.snapshot_if_due();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Ingest { source, rows, arrived, received, refused, reply } => {
                let error = refused.get().cloned();
                let ticket = self.ticket(received, TicketReply::Ingest { refused, reply });
                self.tickets[ticket].error = error;
                for row in rows {
                    self.stage(source, row, arrived, ticket);
                }
            }
            Command::Decide { decision, row, arrived, received, reply } => {
                let source = self.plan.decisions[decision].source;
                let reply = TicketReply::Decide { decision, made: None, reply };
                let ticket = self.ticket(received, reply);
                self.stage(source, row, arrived, ticket);
            }
            Command::Preview { decision, row, reply } => {
                self.settle();
                let event = Event {
                    source: self.plan.decisions[decision].source,
                    offset: self.pipeline.next_offset(),
                    time: row.time,
                    arrived: row.time,
                    id: row.id,
                    operation: row.operation,
                    row: row.row,
                    extra: None,
                    origin: None,
                };
                let made = self.pipeline.preview(decision, &event);
                let answer = self.whole_answer().and_then(|()| self.answer(decision, made, false));
                let _ = reply.send(answer);
            }
            Command::Together { reads, at, reply } => {
                self.settle();
                let at = at.unwrap_or_else(|| self.reading_time());
                let looks = reads.iter().map(|(view, key)| self.pipeline.look(*view, key, at).unwrap_or_default()).collect();
                let answer = Together { at, as_of_offset: self.pipeline.next_offset(), looks };
                let _ = reply.send(self.whole_answer().map(|()| answer));
                self.balance();
            }
            Command::Features { view, keys, at, in_passing, reply } => {
                self.settle();
                let at = at.unwrap_or_else(|| self.reading_time());
                let engine = self.pipeline.engine_mut();
                let look = |key| match in_passing {
                    true => engine.look_in_passing(view, key, at),
                    false => engine.look(view, key, at),
                };
                let rows = keys.iter().filter_map(look).collect();
                let view = self.plan.views[view].clone();
                let watermark = self.pipeline.watermark(view.source());
                let answer = FeatureRows { at, as_of_offset: self.pipeline.next_offset(), watermark, view, rows };
                let _ = reply.send(self.whole_answer().map(|()| answer));
                self.balance();
            }
            Command::Entities { view, before, most, reply } => {
                self.settle();
                let (at, as_of_offset) = (self.reading_time(), self.pipeline.next_offset());
                let found: Vec<(usize, EntityKey)> = self
                    .pipeline
                    .engine()
                    .keys_in_memory_before(view, before)
                    .take(most)
                    .map(|(place, key)| (place, key.clone()))
                    .collect();
                let before = found.last().map_or(0, |(place, _)| *place);
                let row = |(_, key): (usize, EntityKey)| {
                    let look = self.pipeline.engine_mut().look_in_passing(view, &key, at).unwrap_or_default();
                    EntityRow { key, at, as_of_offset, look }
                };
                let rows = found.into_iter().map(row).collect();
                let answer = Entities { rows, before, view, plan: Arc::clone(&self.plan) };
                let _ = reply.send(self.whole_answer().map(|()| answer));
            }
            Command::Check { view, mut keys, sample, from, reply } => {
                self.settle();
                let at = self.pipeline.now().unwrap_or(self.clock.now());
                let (found, next) = shadow::sampled(self.pipeline.engine(), view, sample, from, shadow::SCANNED, FOUND);
                keys.extend(found);
                let look = |key: EntityKey| {
                    let look = self.pipeline.look(view, &key, at).unwrap_or_default();
                    (key, look)
                };
                let rows = keys.into_iter().map(look).collect();
                let answer = Checked { at, offset: self.pipeline.next_offset(), rows, next };
                let _ = reply.send(self.whole_answer().map(|()| answer));
            }
            Command::SetChampion { model, version, reason, actor, reply } => {
                self.settle();
                let _ = reply.send(self.set_champion(model, version, &reason, &actor));
            }
            Command::Present { model, reply } => {
                self.settle();
                let _ = reply.send(self.present(model));
            }
            Command::Snapshot { reply } => {
                self.settle();
                let _ = reply.send(self.snapshot());
            }
            Command::Attach { source, stream, reply } => {
                self.settle();
                let _ = reply.send(self.attach(source, &stream));
            }
            Command::Passed { source, next, reply } => {
                self.settle();
                let _ = reply.send(self.passed(source, &next));
            }
            Command::Swap { candidate, tail, reply } => {
                self.settle();
                let _ = reply.send(self.swap(candidate, tail));
            }
            Command::Stop { reply } => {
                let _ = reply.send(Err(Refusal::Stopping));
            }
        }
    }

    fn ticket(&mut self, received: Instant, reply: TicketReply) -> usize {
        self.tickets.push(Ticket { received, accepted: 0, duplicates: 0, late: 0, error: None, reply });
        self.tickets.len() - 1
    }

    fn next_staged(&self) -> Offset {
        self.pipeline.next_offset() + self.staged.len() as Offset
    }

    /// Gives a row its place in the log, or counts it as seen before. With the event clock, due jobs run right before the first
    /// event past their tick.
    fn stage(&mut self, source: SourceId, row: Decoded, arrived: EventTime, ticket: usize) {
        // What was refused in part is refused to its end.
        if self.tickets[ticket].error.is_some() {
            return;
        }
        if row.origin.is_some_and(|origin| self.consumed.has(source, origin)) {
            self.tickets[ticket].duplicates += 1;
            *self.repeated.entry(source.0).or_default() += 1;
            return;
        }
        // A row that was seen before moves no time and sets off nothing.
        let seen = row.id.as_deref().is_some_and(|id| self.dedupe.first(source.0, id, arrived).is_some());
        let crossing = !seen && self.plan.clock == ClockMode::Event && self.crosses(row.time);
        let mut trained = Vec::new();
        if crossing && self.flush() {
            trained = self.run_due(row.time);
        }
        // The flush may just have failed.
        if self.tickets[ticket].error.is_some() {
            return;
        }
        let offset = self.next_staged();
        if let Some(id) = &row.id
            && let Some(first) = self.dedupe.check(source.0, id, arrived, offset)
        {
            let on_the_way = self.pending.iter().any(|d| d.offset == first);
            let ticket = &mut self.tickets[ticket];
            ticket.duplicates += 1;
            *self.repeated.entry(source.0).or_default() += 1;
            if let TicketReply::Decide { .. } = ticket.reply {
                ticket.error = Some(match on_the_way {
                    true => Refusal::Log { full: true, detail: "the decision is made, its record waits for the decision log".into() },
                    false => Refusal::Duplicate { first },
                });
            }
            return;
        }
        self.staged_now = Some(self.staged_now.map_or(row.time, |now| now.max(row.time)));
        if crossing {
            self.boundary = None;
        }
        let Decoded { row, time, id, operation, extra, origin } = row;
        if let Some(origin) = origin {
            self.consumed.take(source, origin, &self.plan);
        }
        let event = Event { source, offset, time, arrived, id, operation, row, extra, origin };
        self.staged.push((event, ticket));
        if crossing {
            self.flush();
            for wish in std::mem::take(&mut self.requested) {
                // What a schedule has just trained on the same rows need not be trained again.
                if !trained.contains(&wish.model) {
                    self.train_here(wish.model, wish.trigger, None);
                    trained.push(wish.model);
                }
            }
        }
    }

    /// Whether the stream's time passes a tick of a schedule or the end of a monitor's bucket on its way to `time`.
    fn crosses(&mut self, time: EventTime) -> bool {
        let Some(now) = self.staged_now else { return false };
        let plan = &self.plan;
        let boundary = *self.boundary.get_or_insert_with(|| {
            let schedules = plan.schedules.iter().filter_map(|s| schedule::next(&s.when, now));
            let monitors = plan.monitors.iter().map(|m| EventTime((now.bucket(m.every) + 1).saturating_mul(m.every.0)));
            schedules.chain(monitors).min().unwrap_or(EventTime(i64::MAX))
        });
        time >= boundary
    }

    /// Runs the trainings whose ticks lie between the stream's time and `time`; gives the models trained.
    fn run_due(&mut self, time: EventTime) -> Vec<usize> {
        let Some(now) = self.staged_now else { return Vec::new() };
        let plan = Arc::clone(&self.plan);
        if plan.schedules.iter().any(|s| schedule::is_due(&s.when, now, time)) {
            // A later training over a rolling window starts from here instead of from the start of the log.
            self.snapshot_beside();
        }
        let mut trained = Vec::new();
        for (index, schedule) in plan.schedules.iter().enumerate() {
            let trigger = format!("schedule:{}", schedule.name);
            // The process may have ended between a training and the event that set it off, which then comes again.
            if schedule::is_due(&schedule.when, now, time) && self.trained.get(&trigger) != Some(&now) {
                self.train_here(schedule.model, trigger, Some(index));
                trained.push(schedule.model);
            }
        }
        trained
    }

    /// Trains in this thread: the stream stands still until the new version is in service or not.
    fn train_here(&mut self, model: usize, trigger: String, schedule: Option<usize>) {
        let present = self.present(model);
        let Some(as_of) = present.now else { return };
        let rule = schedule.or_else(|| self.plan.schedules.iter().position(|s| s.model == model));
        let request = TrainRequest {
            model,
            from: None,
            to: None,
            until: present.next,
            shards: None,
            as_of,
            trigger: trigger.clone(),
            promotion: rule.map_or(Promotion::Never, Promotion::Rule),
        };
        let result = train(&self.data, &self.plan, &request, self.clock.as_ref(), present.champion, &|| true);
        if let Ok(report) = &result
            && report.promote
            && let Err(e) = self.set_champion(model, report.version, &report.verdict, &trigger)
        {
            tracing::error!(model = report.model, version = report.version, error = %e, "promotion failed");
        }
        (self.on_trained)(&result.map_err(|e| format!("{e:#}")));
        let mut bytes = Vec::new();
        Control::Trained { trigger: trigger.clone(), now: as_of }.encode(&mut bytes);
        match self.data.events.append(&[bytes]) {
            Ok(range) => self.pipeline.skip(range.first),
            Err(e) => tracing::error!(error = %e, "the end of a training could not be written; a restart may repeat it"),
        }
        self.trained.insert(trigger, as_of);
    }

    fn present(&self, model: usize) -> Present {
        Present {
            next: self.pipeline.next_offset(),
            now: self.pipeline.now(),
            champion: self.pipeline.champion(model).map(|c| (c.version, Arc::clone(&c.model))),
        }
    }

    /// Writes and processes what is staged, then answers every ticket.
    fn settle(&mut self) {
        self.flush();
        // Reading may have failed where nothing was staged.
        if let (Some(reason), None) = (self.pipeline.engine().failure(), &self.broken) {
            self.break_off(reason.to_string());
        }
        // Whoever is told of a repetition finds it counted.
        if !self.repeated.is_empty() {
            let repeated = std::mem::take(&mut self.repeated);
            self.data.door.repeated(repeated.iter().map(|(source, n)| (self.plan.sources[usize::from(*source)].name.as_str(), *n)));
        }
        // Whoever is answered finds the own rows in the status, and the counts of what was sent.
        self.publish();
        let next = self.pipeline.next_offset();
        for ticket in std::mem::take(&mut self.tickets) {
            match ticket.reply {
                TicketReply::Ingest { reply, .. } => {
                    let done = Ingested { accepted: ticket.accepted, duplicates: ticket.duplicates, late: ticket.late, next };
                    let _ = reply.send(ticket.error.map_or(Ok(done), Err));
                }
                TicketReply::Decide { decision, made, reply } => {
                    let answer = match ticket.error {
                        Some(e) => Err(e),
                        None => self.answer(decision, made, true),
                    };
                    let _ = reply.send(answer);
                }
                TicketReply::Nobody => {}
            }
        }
    }

    /// Writes the staged events with one write and processes them. When a log refuses, nothing has happened to any state; then the
    /// answer is false.
    fn flush(&mut self) -> bool {
        let refused = self.record_decisions();
        if self.staged.is_empty() {
            return true;
        }
        // While decisions wait for their log, no event is taken that would add to them.
        if let Some(refusal) = refused {
            self.refuse_staged(refusal);
            return false;
        }
        let mut ends = Vec::with_capacity(self.staged.len());
        self.buffer.clear();
        for (event, _) in &self.staged {
            encode(event, self.schema_numbers[event.source.0 as usize], &mut self.buffer);
            ends.push(self.buffer.len());
        }
        let records = cut(&self.buffer, &ends);
        match self.data.events.append(&records) {
            Ok(range) => {
                debug_assert_eq!(range.first, self.staged[0].0.offset, "the sequencer is the log's only writer");
                self.process_staged();
                if self.pending.is_empty() {
                    self.status.log_works();
                }
                true
            }
            Err(e) => {
                tracing::error!(error = %e, events = self.staged.len(), "the event log refused a batch");
                self.refuse_staged(Refusal::from(&e));
                false
            }
        }
    }

    /// Gives the staged events their places back, as if they had never come.
    fn refuse_staged(&mut self, refusal: Refusal) {
        self.status.log_refused();
        self.dedupe.withdraw(self.staged[0].0.offset);
        for (event, ticket) in self.staged.drain(..) {
            if let Some(origin) = event.origin {
                self.consumed.withdraw(event.source, origin, &self.plan);
            }
            let ticket = &mut self.tickets[ticket];
            ticket.error = Some(refusal.clone());
            if let TicketReply::Ingest { refused, .. } = &ticket.reply {
                let _ = refused.set(refusal.clone());
            }
        }
        self.staged_now = self.pipeline.now();
        self.boundary = None;
    }

    /// Runs the staged events, whose records are in the log, through the pipeline and records what comes of them.
    fn process_staged(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        let mut letters = Vec::new();
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (event, ticket) in &staged {
            let outcome = self.pipeline.process(event);
            if let Some(reason) = self.pipeline.engine().failure() {
                return self.break_off(reason.to_string());
            }
            self.tickets[*ticket].accepted += 1;
            if outcome.late {
                self.tickets[*ticket].late += 1;
                // A recovery meets late events again whose letters were written at their time.
                if self.buried.is_none_or(|buried| event.offset > buried) {
                    letters.push(self.late_letter(event));
                }
            }
            for decision in outcome.decisions {
                if self.is_recorded(&decision) {
                    continue;
                }
                *counts.entry((decision.decision, decision.outcome)).or_default() += 1;
                if let TicketReply::Decide { decision: asked, made, .. } = &mut self.tickets[*ticket].reply
                    && *asked == decision.decision
                {
                    *made = Some(decision.clone());
                }
                self.pending.push(decision);
            }
            for reading in outcome.readings {
                self.take_reading(reading, event.offset);
            }
        }
        if let Some(refusal) = self.record_decisions() {
            // Whoever waits for a decision must not act on one without a record.
            for ticket in self.tickets.iter_mut().filter(|t| matches!(t.reply, TicketReply::Decide { .. })) {
                ticket.error = Some(refusal.clone());
            }
        }
        if !letters.is_empty()
            && let Err(e) = self.data.door.bury(&self.data.dead_letters, &letters)
        {
            tracing::error!(error = %e, letters = letters.len(), "dead letters could not be written");
        }
        self.count(&staged, letters.len() as u64, counts);
        self.balance();
    }

    /// Writes the pending decisions with one write. When the decision log refuses, they stay pending: their events are in the event
    /// log, so they are not lost, only late.
    fn record_decisions(&mut self) -> Option<Refusal> {
        if self.pending.is_empty() {
            return None;
        }
        let written = self.layouts_of_pending().and_then(|()| {
            self.buffer.clear();
            let mut ends = Vec::with_capacity(self.pending.len());
            for decision in &self.pending {
                decision.encode(self.layout_offsets[decision.decision].unwrap_or_default(), &mut self.buffer);
                ends.push(self.buffer.len());
            }
            self.data.decisions.append(&cut(&self.buffer, &ends))
        });
        match written {
            Ok(_) => {
                self.pending.clear();
                None
            }
            Err(e) => {
                tracing::error!(error = %e, decisions = self.pending.len(), "the decision log refused a batch");
                self.status.log_refused();
                Some(Refusal::from(&e))
            }
        }
    }

    /// Writes the layouts that the pending decisions are the first to need.
    fn layouts_of_pending(&mut self) -> Result<(), LogError> {
        for i in 0..self.pending.len() {
            let decision = self.pending[i].decision;
            if self.layout_offsets[decision].is_none() {
                let mut bytes = Vec::new();
                self.layouts[decision].encode(&mut bytes);
                self.layout_offsets[decision] = Some(self.data.decisions.append(&[bytes])?.first);
            }
        }
        Ok(())
    }

    fn count(&mut self, staged: &[(Event, usize)], late: u64, counts: BTreeMap<(usize, usize), u64>) {
        let done = Instant::now();
        if self.recovering {
            return;
        }
        Status::add(&self.status.events, staged.len() as u64);
        Status::add(&self.status.late, late);
        let mut per_ticket: BTreeMap<usize, u64> = BTreeMap::new();
        for (_, ticket) in staged {
            *per_ticket.entry(*ticket).or_default() += 1;
        }
        let live = per_ticket.iter().filter(|(t, _)| !matches!(self.tickets[**t].reply, TicketReply::Nobody));
        self.status.freshness.record_all(live.map(|(t, n)| (done.duration_since(self.tickets[*t].received), *n)));
        if !counts.is_empty() {
            let mut decisions = lock(&self.status.decisions);
            for ((decision, outcome), n) in counts {
                let plan = &self.plan.decisions[decision];
                *decisions.entry((plan.name.clone(), plan.outcomes[outcome].clone())).or_default() += n;
            }
        }
    }

    fn late_letter(&self, event: &Event) -> DeadLetter {
        let source = &self.plan.sources[event.source.0 as usize];
        let watermark = self.pipeline.watermark(event.source).unwrap_or(event.time);
        DeadLetter {
            at_micros: event.arrived.0,
            source: Some(source.name.clone()),
            code: "late".into(),
            detail: format!(
                "the event's time {} lies {} behind the newest event of its source; no window keeps it",
                event.time,
                Span(watermark.0 - event.time.0)
            ),
            hint: Some(format!("`lateness` of the source is {}; the event is kept in the log", source.lateness)),
            log_offset: Some(event.offset),
            origin: event.origin.map(|o| o.to_string()),
            payload: Some(kilter_connect::row_to_json(&source.schema, &event.row).to_string()),
            payload_base64: false,
            payload_cut: false,
        }
    }

    /// Whether an earlier run of this process recorded the decision, or other definitions were in force at its event.
    fn is_recorded(&self, decision: &Decision) -> bool {
        if decision.offset < self.since {
            return true;
        }
        match &self.decided {
            Some((offset, names)) if decision.offset == *offset => names.contains(&self.plan.decisions[decision.decision].name),
            Some((offset, _)) => decision.offset < *offset,
            None => false,
        }
    }

    fn answer(&self, decision: usize, made: Option<Decision>, recorded: bool) -> Result<Decided, Refusal> {
        let plan = &self.plan.decisions[decision];
        match made {
            Some(decision_made) => Ok(Decided { decision: decision_made, layout: Arc::clone(&self.layouts[decision]), recorded }),
            None => Err(match plan.model.filter(|m| self.pipeline.champion(*m).is_none()) {
                Some(model) => Refusal::NoModel { model: self.plan.models[model].name.clone() },
                None => Refusal::Undecided,
            }),
        }
    }

    fn take_reading(&mut self, mut reading: Reading, at: Offset) {
        let plan = Arc::clone(&self.plan);
        let monitor = &plan.monitors[reading.monitor];
        // What the tail of the log says again replaces itself.
        if at >= self.readings_since {
            self.kept.keep(&plan, &reading);
        }
        reading.subjects.clear();
        lock(&self.status.readings).entry(monitor.name.clone()).or_default().push(&reading);
        let Some(threshold) = reading.crossed else { return };
        let model = &plan.models[monitor.model].name;
        tracing::warn!(monitor = monitor.name, model, subject = reading.subject, value = reading.value, threshold, "monitor alert");
        let alert = NewAlert {
            at: reading.at.0,
            monitor: monitor.name.clone(),
            model: Some(model.clone()),
            signal: monitor.signal.name().to_string(),
            subject: reading.subject.clone(),
            value: reading.value,
            threshold,
            action: if reading.retrain { "retrain" } else { "alert" }.to_string(),
            detail: format!("over {} decisions of {}", reading.rows, monitor.window),
        };
        if let Err(e) = self.keep_alert(&alert, at) {
            tracing::error!(error = %e, monitor = monitor.name, "alert could not be kept");
        }
        if reading.retrain {
            let trigger = format!("monitor:{}", monitor.name);
            match plan.clock {
                ClockMode::Event => self.requested.push(Wish { model: monitor.model, trigger, at }),
                // What the tail of the log once asked for is not asked for again by a restart.
                ClockMode::Wall if self.recovering => {}
                ClockMode::Wall => {
                    let rule = plan.schedules.iter().position(|s| s.model == monitor.model);
                    let schedule = rule.map(|rule| plan.schedules[rule].name.clone());
                    (self.background)(Wanted { model: model.clone(), trigger, schedule });
                }
            }
        }
    }

    fn keep_alert(&self, alert: &NewAlert, at: Offset) -> anyhow::Result<()> {
        if self.recovering {
            // What was decided on before is the past, whatever today's thresholds would have said of it.
            if at < self.since || self.decided.as_ref().is_some_and(|(offset, _)| at < *offset) {
                return Ok(());
            }
            // The tail of the log is run through again: its alerts may be there already.
            let same = AlertFilter {
                monitor: Some(alert.monitor.clone()),
                since: Some(alert.at),
                before: Some(alert.at + 1),
                limit: 1,
                ..AlertFilter::default()
            };
            if !self.data.wait(self.data.metadata.list_alerts(&same))?.is_empty() {
                return Ok(());
            }
        }
        self.data.wait(self.data.metadata.insert_alert(alert))?;
        Ok(())
    }

    /// Puts a version into service: first into the log, so that every replay swaps at the same place.
    fn set_champion(&mut self, model: usize, version: u32, reason: &str, actor: &str) -> Result<Offset, Refusal> {
        let name = self.plan.models[model].name.clone();
        let failed = |e: anyhow::Error| Refusal::Other(format!("{e:#}"));
        let record = self.data.version(&name, version).map_err(failed)?;
        let champion = self.data.champion(&self.plan, model, &record).map_err(failed)?.ok_or_else(|| {
            Refusal::Other(format!(
                "version {version} of model `{name}` was trained on other inputs than the definitions name today, or to predict something else (train it again)"
            ))
        })?;
        let mut bytes = Vec::new();
        let ChampionRecord { artifact, reference, meaning, .. } = record;
        Control::Champion { model: name.clone(), version, artifact, reference, meaning }.encode(&mut bytes);
        let offset = self.data.events.append(&[bytes]).map_err(|e| Refusal::from(&e))?.first;
        self.pipeline.set_champion(model, champion);
        self.pipeline.skip(offset);
        let change = AliasChange {
            model: name.clone(),
            alias: "champion".into(),
            at: self.clock.now().0,
            at_offset: Some(offset),
            reason: reason.into(),
            actor: actor.into(),
        };
        // The swap has happened: the registry only follows, by recovery if not now. A rollback has moved the alias already, in its own way.
        let registry = &self.data.metadata;
        let follow = || -> anyhow::Result<()> {
            if self.data.wait(registry.alias(&name, "champion"))?.map(|c| c.version) != Some(version) {
                self.data.wait(registry.set_alias(&change, version))?;
            }
            Ok(())
        };
        if let Err(e) = follow() {
            tracing::error!(model = name, version, error = %e, "the registry could not follow the swap");
        }
        tracing::info!(model = name, version, offset, actor, "champion changed");
        Ok(offset)
    }

    fn snapshot_if_due(&mut self) {
        let (at, offset) = self.last_snapshot;
        if at.elapsed() >= self.rhythm.every && self.pipeline.next_offset() >= offset + self.rhythm.min_events {
            self.snapshot_beside();
        }
    }

    /// Takes a snapshot and leaves its writing to another thread, unless one is being written already.
    fn snapshot_beside(&mut self) {
        if self.data.state.is_some() {
            return self.write_state();
        }
        // A snapshot takes all decisions before it for recorded.
        if !self.pending.is_empty() || self.snapshot_running.swap(true, Ordering::AcqRel) {
            return;
        }
        // The bytes are taken here, between two batches; the slow part, waiting for the disk, happens elsewhere.
        let write = self.prepare_snapshot();
        let running = Arc::clone(&self.snapshot_running);
        let spawned = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            if let Err(e) = write() {
                tracing::error!(error = %e, "snapshot failed; recovery will read more of the log");
            }
            running.store(false, Ordering::Release);
        });
        if let Err(e) = spawned {
            tracing::error!(error = %e, "no thread for the snapshot");
            self.snapshot_running.store(false, Ordering::Release);
        }
    }

    fn snapshot(&mut self) -> Result<Offset, Refusal> {
        let offset = self.pipeline.next_offset();
        if let Some(refusal) = self.record_decisions() {
            return Err(refusal);
        }
        let written = if self.data.state.is_some() { self.write_state_now() } else { self.prepare_snapshot()() };
        written.map_err(|e| Refusal::Other(format!("{e:#}")))?;
        Ok(offset)
    }

    fn prepare_snapshot(&mut self) -> impl FnOnce() -> anyhow::Result<()> + Send + 'static {
        self.room.look();
        let bytes = self.pipeline.snapshot();
        *lock(&self.status.views) = self.pipeline.engine().stats();
        let offset = self.pipeline.next_offset();
        let now = self.pipeline.now();
        self.last_snapshot = (Instant::now(), offset);
        let (data, status, hash) = (Arc::clone(&self.data), Arc::clone(&self.status), self.plan.hash.clone());
        let kept = self.kept.clone();
        self.restate_all();
        move || {
            // A snapshot must never be ahead of what the log is sure to have, nor the decisions it takes for recorded.
            data.events.sync()?;
            data.decisions.sync()?;
            kept.settle()?;
            data.snapshots.write(offset, now.map_or(i64::MIN, |t| t.0), &hash, &bytes)?;
            Status::add(&status.snapshots, 1);
            Ok(())
        }
    }

    /// "Now" is the stream's own latest time when it runs ahead of the machine's clock, as it does in tests and replays of the future;
    /// otherwise the machine's.
    fn reading_time(&self) -> EventTime {
        match self.plan.clock {
            ClockMode::Wall => self.pipeline.now().map_or(self.clock.now(), |t| t.max(self.clock.now())),
            ClockMode::Event => self.pipeline.now().unwrap_or(self.clock.now()),
        }
    }

    fn publish(&self) {
        self.status.next_offset.store(self.pipeline.next_offset(), Ordering::Relaxed);
        self.status.since.store(self.since, Ordering::Relaxed);
        self.status.event_time.store(self.pipeline.now().map_or(i64::MIN, |t| t.0), Ordering::Relaxed);
        self.status.duplicates.store(self.dedupe.duplicates, Ordering::Relaxed);
        lock(&self.status.counts).take(&self.pipeline);
    }

    /// Fills the memory of event ids from the part of the log that lies within the longest horizon.
    fn remember_ids(&mut self, end: Offset) -> anyhow::Result<()> {
        let since = self.clock.now() - self.dedupe.longest();
        let dedupe = &mut self.dedupe;
        ids::each(&self.data, &self.plan, since, end, |id| {
            dedupe.check_hash(id.source.0, id.hash, id.arrived, id.offset);
        })?;
        dedupe.duplicates = 0;
        Ok(())
    }

    /// The registry's aliases follow the log, should a crash have come between the two.
    fn reconcile_aliases(&self) -> anyhow::Result<()> {
        for (index, model) in self.plan.models.iter().enumerate() {
            let Some(champion) = self.pipeline.champion(index) else { continue };
            let alias = self.data.wait(self.data.metadata.alias(&model.name, "champion"))?;
            if alias.map(|a| a.version) != Some(champion.version) {
                let change = AliasChange {
                    model: model.name.clone(),
                    alias: "champion".into(),
                    at: self.clock.now().0,
                    at_offset: None,
                    reason: "as the log has it".into(),
                    actor: RECOVERY.into(),
                };
                self.data.wait(self.data.metadata.set_alias(&change, champion.version))?;
            }
        }
        Ok(())
    }
}

impl Ticket {
    fn nobody() -> Ticket {
        Ticket { received: Instant::now(), accepted: 0, duplicates: 0, late: 0, error: None, reply: TicketReply::Nobody }
    }
}

/// Records lie end to end in a buffer.
fn cut<'a>(buffer: &'a [u8], ends: &[usize]) -> Vec<&'a [u8]> {
    let mut start = 0;
    ends.iter()
        .map(|&end| {
            let record = &buffer[start..end];
            start = end;
            record
        })
        .collect()
}

/// The first offset whose record arrived at or after `since`: arrival times rise with offsets, so halving finds it.
pub(crate) fn first_arrived(data: &Data, since: EventTime, end: Offset) -> anyhow::Result<Offset> {
    let log_start = data.events.start_offset();
    let found = first_arrived_from(data, log_start, since, end)?;
    if found > log_start || log_start == 0 {
        return Ok(found);
    }
    first_arrived_from(data, data.history.start()?, since, log_start)
}

/// The same among the records from `low` on.
pub(crate) fn first_arrived_from(data: &Data, low: Offset, since: EventTime, end: Offset) -> anyhow::Result<Offset> {
    let (mut low, mut high) = (low, end);
    while low < high {
        let middle = low + (high - low) / 2;
        // Records that are no events carry no arrival: the next event speaks for them.
        let mut reader = data.records(middle);
        let mut arrived = None;
        while let Some((_, bytes)) = reader.next_record()? {
            if let Some(header) = kilter_core::record::header(bytes)? {
                arrived = Some(header.arrived);
                break;
            }
        }
        if arrived.is_some_and(|t| t < since) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Cuts decisions off the decision log whose events did not survive a power failure, and says which event was decided on last.
pub(crate) fn trim_orphans(decisions: &Log, end: Offset) -> anyhow::Result<Option<(Offset, Vec<String>)>> {
    let mut last: Option<(Offset, Vec<String>)> = None;
    let mut position = decisions.next_offset();
    let mut keep = position;
    while position > decisions.start_offset() {
        position -= 1;
        let Some(bytes) = decisions.read(position)? else { break };
        let (layout, made_at) = match decode(&bytes)? {
            Entry::Decision(layout, decision) => (layout, decision.offset),
            Entry::Erased(layout, decision) => (layout, decision.offset),
            Entry::Layout(_) => continue,
        };
        if made_at >= end {
            keep = position;
            continue;
        }
        if last.as_ref().is_some_and(|(offset, _)| *offset != made_at) {
            break;
        }
        let name = match decisions.read(layout)?.map(|b| decode(&b)).transpose()? {
            Some(Entry::Layout(layout)) => layout.decision,
            _ => anyhow::bail!("decision log: record {position} names layout {layout}, which is none"),
        };
        last.get_or_insert((made_at, Vec::new())).1.push(name);
    }
    if keep < decisions.next_offset() {
        tracing::warn!(from = keep, "decisions on events that did not survive are cut off");
        decisions.truncate_from(keep)?;
    }
    Ok(last)
}
