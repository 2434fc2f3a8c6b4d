//! What became of what was decided on: the labels that trainings learn from.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use kilter_core::record::header;
use kilter_core::{EventTime, Span};
use kilter_pipeline::{Label, Labelled, Plan, Range, decision_id, parse_decision_id};
use kilter_runtime::Service;

use super::events::read;
use super::{Cell, Column, Kind, Listed, Table};
use crate::error::{SqlError, TOO_MUCH};
use crate::scan::Wanted;
use crate::stretches::Stretches;

/// Columns by which less of the log is read.
const NARROWS: &[&str] = &["time", "event_offset", "decision", "decision_id"];

/// Events that a statement holds against each other at most, of all its decisions together.
const EVENTS: usize = 1_000_000;

struct Row {
    plan: Arc<Plan>,
    decision: usize,
    label: Label,
    is_mature: bool,
}

impl Row {
    fn decision(&self) -> &str {
        &self.plan.decisions[self.decision].name
    }
}

pub fn table(service: &Arc<Service>, stretches: &Arc<Stretches>) -> (&'static str, Arc<dyn Table>) {
    let columns = vec![
        Column::new("decision_id", Kind::Text, "As in `decisions`", |r: &Row| Cell::owned(decision_id(r.decision(), r.label.offset))),
        Column::new("decision", Kind::Text, "Which of the project's decisions", |r: &Row| Cell::text(r.decision())),
        Column::new("model", Kind::Text, "The model that learns from it", |r: &Row| {
            let model = r.plan.decisions[r.decision].model;
            Cell::of(model.map(|model| &r.plan.models[model].name), |name| Cell::text(name))
        }),
        Column::new("event_offset", Kind::Int, "The event that was decided on", |r: &Row| Cell::Int(r.label.offset as i64)),
        Column::new("time", Kind::Time, "When its event happened", |r: &Row| Cell::Time(r.label.time.0)),
        Column::new("known_at", Kind::Time, "When its horizon ends: from then on the label stands", |r: &Row| {
            Cell::Time(r.label.matures.0)
        }),
        Column::new("mature", Kind::Bool, "Whether the horizon has ended, by the newest event", |r: &Row| Cell::Bool(r.is_mature)),
        Column::new(
            "value",
            Kind::Float,
            "The label that a training takes; null while the horizon runs, and where none came",
            |r: &Row| Cell::of(r.label.value, Cell::Float),
        ),
        Column::new("told", Kind::Float, "What the newest label event said so far; null: none came", |r: &Row| {
            Cell::of(r.label.told, Cell::Float)
        }),
    ];
    let (service, stretches) = (Arc::clone(service), Arc::clone(stretches));
    // What a join takes is in no pool of memory: one at a time.
    let one = Mutex::new(());
    let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Row) -> ControlFlow<()>| {
        let (as_of, joined) = {
            let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
            let as_of = EventTime(service.status.event_time.load(Ordering::Relaxed));
            (as_of, joined(&service, &stretches, wanted)?)
        };
        for (decision, labelled) in joined {
            for label in labelled.labels(as_of).rev() {
                // In its last instant a label may still come.
                let is_mature = label.value.is_some() || label.matures < as_of;
                if row(Row { plan: Arc::clone(&service.plan), decision, label, is_mature }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    let comment = "What became of each event that a decision with a model was asked about, by the definitions in force, newest first";
    ("labels", Listed::new(comment, columns, NARROWS.to_vec(), Box::new(rows)))
}

/// The labels of each decision asked for, by its position; nothing once nobody waits for it.
fn joined(service: &Service, stretches: &Stretches, wanted: &Wanted) -> anyhow::Result<Vec<(usize, Labelled)>> {
    let plan = &service.plan;
    let Some(range) = range(service, wanted)? else { return Ok(Vec::new()) };
    let names = wanted.bounds.texts("decision");
    let mut asked: Vec<(usize, Labelled)> = Vec::new();
    for (i, decision) in plan.decisions.iter().enumerate().filter(|(_, d)| names.is_none_or(|names| names.contains(&d.name))) {
        if let Some(label) = decision.model.and_then(|model| plan.models[model].label.clone()) {
            asked.push((i, Labelled::new(decision.source, label, range)));
        }
    }
    let Some(until) = asked.iter().map(|(_, labelled)| labelled.span().to).max() else { return Ok(Vec::new()) };
    let history = &service.data.history;
    let times = range.from.0..=until.0;
    let decoder = service.data.decoder(plan);
    let mut parts = stretches.of(history.start()?..history.log().next_offset(), &times, &(i64::MIN..=i64::MAX));
    // Labels are joined in the order of the log.
    parts.reverse();
    let mut reader = history.records(parts.first().map_or(0, |part| part.start));
    for part in parts {
        if !(wanted.is_wanted)() {
            return Ok(Vec::new());
        }
        if reader.next_offset() < part.start {
            reader = history.records(part.start);
        }
        let span = read(&decoder, &mut reader, part.end, |event| {
            // Beyond that it is refused.
            if held(&asked) <= EVENTS {
                asked.iter_mut().for_each(|(_, labelled)| labelled.feed(&event));
            }
        })?;
        stretches.remember(part, span);
        if held(&asked) > EVENTS {
            let message = format!("there are more than {EVENTS} events to find labels for, or among");
            return Err(SqlError::new(TOO_MUCH, message).hint("name a decision, or a shorter stretch of time").into());
        }
    }
    asked.iter_mut().for_each(|(_, labelled)| labelled.close());
    Ok(asked)
}

fn held(asked: &[(usize, Labelled)]) -> usize {
    asked.iter().map(|(_, labelled)| labelled.held()).sum()
}

/// When what is asked for happened; none: there is no such thing.
fn range(service: &Service, wanted: &Wanted) -> anyhow::Result<Option<Range>> {
    let times = wanted.bounds.range("time");
    let (mut low, mut high) = ((*times.start()).max(EventTime::EARLIEST.0), (*times.end()).min(EventTime::LATEST.0));
    let named = wanted.bounds.texts("decision_id").map(|ids| ids.iter().filter_map(|id| Some(parse_decision_id(id)?.1)).collect());
    let offsets: Option<BTreeSet<u64>> =
        named.or_else(|| Some(wanted.bounds.numbers("event_offset")?.into_iter().filter_map(|x| u64::try_from(x).ok()).collect()));
    if let Some(offsets) = offsets {
        let mut found: Option<(i64, i64)> = None;
        for offset in offsets {
            let Some(bytes) = service.data.history.record(offset)? else { continue };
            let Some(header) = header(&bytes)? else { continue };
            let time = header.time.0;
            found = Some(found.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        }
        let Some((first, last)) = found else { return Ok(None) };
        (low, high) = (low.max(first), high.min(last));
    }
    Ok((low <= high).then(|| Range { from: EventTime(low), to: EventTime(high) + Span(1) }))
}
