//! The steps of a training set in their order: events of the log, and the spine's rows among them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use kilter_connect::{Limits as FileLimits, Rejection};
use kilter_core::record::{self, Cursor, encode_value};
use kilter_core::{Event, EventTime, Offset, SourceId, Value};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::training_set::{ByTime, SetPlan, SpineRow, Step, in_log_order};
use kilter_pipeline::{Plan, decision_id};
use kilter_store::log::LogReader;
use serde::{Deserialize, Serialize};

use super::runs::{Merged, Run, RunWriter};
use crate::catalog::{Decoder, Record};
use crate::data::Data;
use crate::history::Records;
use crate::service::{Layouts, Recorded};
use crate::spine::{FilePlan, Limits, LogPlan, Mode, SpinePlan};

/// One training set at work.
pub struct Job<'a> {
    pub data: &'a Data,
    pub plan: &'a Plan,
    pub set: Arc<SetPlan>,
    pub spine: &'a SpinePlan,
    pub mode: &'a Mode,
    /// By source.
    pub lags: &'a [kilter_core::Span],
    /// The log's end when the job began: later records do not exist for it.
    pub until: Offset,
    /// The folder of unfinished work.
    pub partial: PathBuf,
    pub limits: Limits,
}

/// How far the steps have been made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The next record of the log; in event time the number of sorted events passed.
    pub next: u64,
    /// Rows passed, in the order in which they are read.
    pub rows: u64,
    /// The latest moment at which an event became known; none: no event so far.
    pub clock: Option<EventTime>,
    /// Rows read by time before the first event was known, and after the last one.
    pub before_log: u64,
    pub beyond_log: u64,
}

/// Events and rows sorted by time, in files of the folder of unfinished work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sorted {
    pub events: Vec<Run>,
    pub event_count: u64,
    /// Empty where the rows of a file are in order as they are.
    pub rows: Vec<Run>,
}

/// What a look at a file of spine rows showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    pub rows: u64,
    /// Whether each row's time is at or after the one before.
    pub in_order: bool,
    /// Of the file's bytes.
    pub hash: String,
}

const EVENTS: &str = "events.sorted";
const ROWS: &str = "spine.sorted";

/// Told of every step. `at` follows once what belongs together has been given.
pub trait Sink {
    fn step(&mut self, step: Step) -> anyhow::Result<()>;
    fn at(&mut self, position: Position) -> anyhow::Result<()>;
}

impl Job<'_> {
    /// Whether rows are read by their times rather than at their places in the log.
    fn by_time(&self) -> bool {
        matches!(self.spine, SpinePlan::File(_)) || matches!(self.mode, Mode::EventTime(_))
    }

    /// Sources whose events a step is made of, by position.
    fn wanted(&self) -> Vec<bool> {
        let mut wanted = vec![false; self.plan.sources.len()];
        let views = self.set.sources();
        let spine = match self.spine {
            SpinePlan::Log(log) => Some(log.source),
            SpinePlan::File(_) => None,
        };
        views.chain(spine).for_each(|source| wanted[usize::from(source.0)] = true);
        wanted
    }

    fn log(&self, from: Position) -> anyhow::Result<LogEvents<'_>> {
        Ok(LogEvents {
            reader: self.data.records(from.next.max(self.data.history.start()?)),
            decoder: self.data.decoder(self.plan),
            wanted: self.wanted(),
            until: self.until,
            clock: from.clock.unwrap_or(EventTime(i64::MIN)),
            bytes: Vec::new(),
        })
    }

    /// Sorts what must be sorted before the steps can be made; none: nothing must.
    pub fn sort(&self, facts: Option<&FileFacts>, progress: &mut dyn FnMut(u64, u64)) -> anyhow::Result<Option<Sorted>> {
        let mut sorted = Sorted::default();
        if let (SpinePlan::File(file), Some(facts)) = (self.spine, facts)
            && !facts.in_order
        {
            let mut writer = self.sorter(ROWS)?;
            let mut bytes = Vec::new();
            for (done, row) in file_rows(file)?.enumerate() {
                let row = row?;
                encode_row(&row, &mut bytes);
                writer.push((row.time.0, row.number), &bytes)?;
                if done % 8192 == 0 {
                    progress(done as u64, facts.rows);
                }
            }
            sorted.rows = writer.sync()?;
        }
        if matches!(self.mode, Mode::EventTime(_)) {
            self.sort_log(&mut sorted, progress)?;
        } else if sorted.rows.is_empty() {
            return Ok(None);
        }
        Ok(Some(sorted))
    }

    /// Events of the log by the moment each became known, and the rows among them by time.
    fn sort_log(&self, sorted: &mut Sorted, progress: &mut dyn FnMut(u64, u64)) -> anyhow::Result<()> {
        let mut events = self.sorter(EVENTS)?;
        let mut rows = match self.spine {
            SpinePlan::Log(log) => Some((self.sorter(ROWS)?, log, self.decisions(log), 0)),
            SpinePlan::File(_) => None,
        };
        let mut log = self.log(Position::default())?;
        let mut bytes = Vec::new();
        while let Some((offset, source, time)) = log.advance()? {
            let known = time + self.lags[usize::from(source.0)];
            events.push((known.0, offset), &log.bytes)?;
            sorted.event_count += 1;
            if let Some((writer, plan, decisions, number)) = &mut rows
                && plan.source == source
                && let Some(event) = log.event(offset)?
                && let Some(row) = observed(plan, &event, decisions.as_mut(), *number)?
            {
                encode_row(&row, &mut bytes);
                writer.push((row.time.0, row.number), &bytes)?;
                *number += 1;
            }
            if offset % 8192 == 0 {
                progress(offset, self.until);
            }
        }
        sorted.events = events.sync()?;
        if let Some((mut writer, ..)) = rows {
            sorted.rows = writer.sync()?;
        }
        Ok(())
    }

    fn sorter(&self, name: &str) -> anyhow::Result<RunWriter> {
        Ok(RunWriter::open(&self.partial.join(name), Vec::new(), self.limits.buffer)?)
    }

    /// Removes what was sorted.
    pub fn remove_sorted(&self) {
        for name in [EVENTS, ROWS] {
            // What stays behind costs room and no more.
            let _ = std::fs::remove_file(self.partial.join(name));
        }
    }

    /// Makes all steps after `from`.
    pub fn steps(&self, from: Position, sorted: Option<&Sorted>, sink: &mut dyn Sink) -> anyhow::Result<()> {
        if !self.by_time() {
            return self.steps_in_log_order(from, sink);
        }
        let rows: Box<dyn Iterator<Item = anyhow::Result<SpineRow>>> = match (self.spine, sorted.filter(|s| !s.rows.is_empty())) {
            (_, Some(sorted)) => Box::new(SortedRows(Merged::open(&self.partial.join(ROWS), sorted.rows.clone())?)),
            (SpinePlan::File(file), None) => Box::new(file_rows(file)?),
            (SpinePlan::Log(_), None) => Box::new(std::iter::empty()),
        };
        let rows = rows.skip(from.rows as usize);
        match (self.mode, sorted) {
            (Mode::EventTime(_), Some(sorted)) => {
                let merged = Merged::open(&self.partial.join(EVENTS), sorted.events.clone())?;
                let events = SortedEvents { merged, decoder: self.data.decoder(self.plan) }.skip(from.next as usize);
                self.steps_by_time(from, events, rows, sink)
            }
            _ => self.steps_by_time(from, self.log(from)?, rows, sink),
        }
    }

    fn steps_in_log_order(&self, mut at: Position, sink: &mut dyn Sink) -> anyhow::Result<()> {
        let SpinePlan::Log(plan) = self.spine else { return Ok(()) };
        let as_logged = matches!(self.mode, Mode::AsLogged);
        let mut decisions = self.decisions(plan);
        let mut log = self.log(at)?;
        while let Some((offset, source, _)) = log.advance()? {
            let Some(event) = log.event(offset)? else { continue };
            let row = if source == plan.source { observed(plan, &event, decisions.as_mut(), at.rows)? } else { None };
            at.rows += u64::from(row.is_some());
            at.next = offset + 1;
            at.clock = Some(log.clock);
            if as_logged {
                row.map(Step::Row).map_or(Ok(()), |step| sink.step(step))?;
            } else {
                in_log_order(event, row, self.set.include_self).try_for_each(|step| sink.step(step))?;
            }
            sink.at(at)?;
        }
        Ok(())
    }

    fn steps_by_time(
        &self,
        mut at: Position,
        events: impl Iterator<Item = anyhow::Result<(EventTime, Event)>>,
        rows: impl Iterator<Item = anyhow::Result<SpineRow>>,
        sink: &mut dyn Sink,
    ) -> anyhow::Result<()> {
        let sorted = matches!(self.mode, Mode::EventTime(_));
        let mut steps = ByTime::new(events, rows, self.set.include_self);
        while let Some(step) = steps.next() {
            let (step, moment) = step?;
            match &step {
                Step::Event(event) => {
                    at.next = if sorted { at.next + 1 } else { event.offset + 1 };
                    at.clock = Some(moment);
                }
                Step::Row(_) => {
                    at.rows += 1;
                    at.before_log += u64::from(at.clock.is_none());
                    at.beyond_log += u64::from(steps.events_are_over() && at.clock < Some(moment));
                }
            }
            sink.step(step)?;
            sink.at(at)?;
        }
        Ok(())
    }

    fn decisions(&self, plan: &LogPlan) -> Option<Decided<'_>> {
        let name = plan.decision.clone()?;
        let reader = self.data.decisions.reader(self.data.decisions.start_offset());
        Some(Decided { data: self.data, name, reader, layouts: Layouts::default(), ahead: None })
    }
}

/// The events of the log that matter, in its order, and when each had arrived: arrival never goes back.
struct LogEvents<'a> {
    reader: Records<'a>,
    decoder: Decoder,
    wanted: Vec<bool>,
    until: Offset,
    clock: EventTime,
    /// The record of the last event.
    bytes: Vec<u8>,
}

impl LogEvents<'_> {
    /// Moves to the next event: its offset, source and time.
    fn advance(&mut self) -> anyhow::Result<Option<(Offset, SourceId, EventTime)>> {
        while let Some((offset, bytes)) = self.reader.next_record()? {
            if offset >= self.until {
                break;
            }
            let Some(header) = record::header(bytes).with_context(|| format!("event log, offset {offset}"))? else { continue };
            let Some(source) = self.decoder.source(header.schema).filter(|s| self.wanted[usize::from(s.0)]) else { continue };
            let time = header.time;
            self.clock = self.clock.max(header.arrived);
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            return Ok(Some((offset, source, time)));
        }
        Ok(None)
    }

    fn event(&self, offset: Offset) -> anyhow::Result<Option<Event>> {
        event(&self.decoder, offset, &self.bytes)
    }
}

impl Iterator for LogEvents<'_> {
    type Item = anyhow::Result<(EventTime, Event)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.advance() {
                Ok(None) => return None,
                Err(e) => return Some(Err(e)),
                Ok(Some((offset, ..))) => match self.event(offset) {
                    Ok(None) => {}
                    Ok(Some(event)) => return Some(Ok((self.clock, event))),
                    Err(e) => return Some(Err(e)),
                },
            }
        }
    }
}

fn event(decoder: &Decoder, offset: Offset, bytes: &[u8]) -> anyhow::Result<Option<Event>> {
    match decoder.decode(offset, bytes).with_context(|| format!("event log, offset {offset}"))? {
        Record::Event(event) => Ok(Some(event)),
        Record::Control(_) | Record::Foreign | Record::Erased(_) => Ok(None),
    }
}

struct SortedEvents {
    merged: Merged,
    decoder: Decoder,
}

impl Iterator for SortedEvents {
    type Item = anyhow::Result<(EventTime, Event)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (known, offset) = match self.merged.advance() {
            Ok(key) => key?,
            Err(e) => return Some(Err(e.into())),
        };
        Some(event(&self.decoder, offset, self.merged.payload()).and_then(|event| {
            let event = event.with_context(|| format!("the event at offset {offset} is no longer one"))?;
            Ok((EventTime(known), event))
        }))
    }
}

struct SortedRows(Merged);

impl Iterator for SortedRows {
    type Item = anyhow::Result<SpineRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let (_, number) = match self.0.advance() {
            Ok(key) => key?,
            Err(e) => return Some(Err(e.into())),
        };
        Some(decode_row(number, &mut Cursor::new(self.0.payload())))
    }
}

/// The row of an event that the spine takes.
fn observed(plan: &LogPlan, event: &Event, decisions: Option<&mut Decided<'_>>, number: u64) -> anyhow::Result<Option<SpineRow>> {
    let pick = &plan.pick;
    let recorded = match decisions {
        None => None,
        Some(decisions) => match decisions.at(event.offset)? {
            None => return Ok(None),
            recorded => recorded,
        },
    };
    if pick.from.is_some_and(|from| event.time < from) || pick.to.is_some_and(|to| event.time >= to) {
        return Ok(None);
    }
    if let Some(sample) = &pick.sample {
        let mut bytes = sample.seed.to_le_bytes().to_vec();
        match plan.sample_by {
            Some(column) => encode_value(&event.row[column], &mut bytes),
            None => bytes.extend_from_slice(&event.offset.to_le_bytes()),
        }
        if !falls_in(&bytes, sample.share) {
            return Ok(None);
        }
    }
    let mut row = Vec::with_capacity(event.row.len() + 8);
    row.extend_from_slice(&event.row);
    row.extend([Value::Int(event.offset as i64), Value::Time(event.time)]);
    if let Some(Recorded { decision, layout }) = &recorded {
        row.push(Value::text(&decision_id(&layout.decision, decision.offset)));
        row.push(layout.outcomes.get(decision.outcome).map_or(Value::Null, |outcome| Value::text(outcome)));
        row.push(decision.score.map_or(Value::Null, Value::float));
        row.push(decision.version.map_or(Value::Null, |version| Value::Int(i64::from(version))));
        let input = |name: &String| layout.inputs.iter().position(|i| i == name).and_then(|i| decision.inputs.get(i));
        row.extend(plan.recorded.iter().map(|name| input(name).map_or(Value::Null, |x| Value::float(*x))));
    }
    if plan.condition.as_ref().is_some_and(|condition| !condition.holds(&row)) {
        return Ok(None);
    }
    Ok(Some(SpineRow { number, time: event.time, row }))
}

/// Whether something belongs to the sample: by a hash, so that the answer is the same on every machine and in every version.
fn falls_in(bytes: &[u8], share: f64) -> bool {
    let hash = blake3::hash(bytes);
    let number = hash.as_bytes()[..8].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    (number >> 11) as f64 / ((1u64 << 53) as f64) < share
}

/// The records of one decision, read in step with the event log.
struct Decided<'a> {
    data: &'a Data,
    name: String,
    reader: LogReader,
    layouts: Layouts,
    ahead: Option<Recorded>,
}

impl Decided<'_> {
    fn at(&mut self, offset: Offset) -> anyhow::Result<Option<Recorded>> {
        while self.ahead.as_ref().is_none_or(|ahead| ahead.decision.offset < offset) {
            let Some((_, bytes)) = self.reader.next_record()? else { return Ok(None) };
            let entry: Entry = decode(bytes)?;
            if let Some(recorded) = self.layouts.recorded(self.data, entry)?
                && recorded.layout.decision == self.name
            {
                self.ahead = Some(recorded);
            }
        }
        Ok(self.ahead.take_if(|ahead| ahead.decision.offset == offset))
    }
}

/// The names of all inputs recorded with a decision, the newest layout's first.
pub fn recorded_inputs(data: &Data, decision: &str) -> anyhow::Result<Vec<String>> {
    let mut layouts = Vec::new();
    let mut reader = data.decisions.reader(data.decisions.start_offset());
    while let Some((_, bytes)) = reader.next_record()? {
        if let Entry::Layout(layout) = decode(bytes)?
            && layout.decision == decision
        {
            layouts.push(layout);
        }
    }
    let mut names: Vec<String> = Vec::new();
    for name in layouts.into_iter().rev().flat_map(|layout| layout.inputs) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn file_rows(plan: &FilePlan) -> anyhow::Result<impl Iterator<Item = anyhow::Result<SpineRow>> + use<>> {
    let open = kilter_connect::open(&plan.path, Some(plan.file_format), plan.format.clone(), EventTime(0), FileLimits::default());
    let shown = plan.path.display().to_string();
    let reader = open.map_err(|e| crate::spine::connect(&e))?;
    Ok(reader.enumerate().map(move |(number, row)| match row {
        Ok(row) => Ok(SpineRow { number: number as u64, time: row.time, row: row.row }),
        Err(rejection) => Err(row_error(&shown, &rejection)),
    }))
}

fn row_error(shown: &str, rejection: &Rejection) -> anyhow::Error {
    let message = format!("{shown}, row {}: {}", rejection.row, rejection.message);
    match &rejection.hint {
        Some(hint) => anyhow::anyhow!("{message}\n  hint: {hint}"),
        None => anyhow::anyhow!("{message}"),
    }
}

/// Reads a spine file once: what is wrong with it is told before any work is done.
pub fn look_at(plan: &FilePlan) -> anyhow::Result<FileFacts> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(&plan.path)?, &mut hasher)?;
    let mut facts = FileFacts { rows: 0, in_order: true, hash: hasher.finalize().to_hex()[..32].to_string() };
    let mut last = EventTime(i64::MIN);
    for row in file_rows(plan)? {
        let row = row?;
        facts.in_order &= last <= row.time;
        last = row.time;
        facts.rows += 1;
    }
    Ok(facts)
}

/// A row without its number: time, number of values, values.
pub fn encode_row(row: &SpineRow, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&row.time.0.to_le_bytes());
    out.extend_from_slice(&(row.row.len() as u32).to_le_bytes());
    row.row.iter().for_each(|value| encode_value(value, out));
}

pub fn decode_row(number: u64, cursor: &mut Cursor<'_>) -> anyhow::Result<SpineRow> {
    let time = EventTime(cursor.i64()?);
    let row = (0..cursor.u32()?).map(|_| cursor.value()).collect::<Result<_, _>>()?;
    Ok(SpineRow { number, time, row })
}
