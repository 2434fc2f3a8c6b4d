//! The decision log: each decision, its reasons, and what the model saw.

use std::collections::HashMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use anyhow::{Context, bail};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::{Decision, Layout, decision_id};
use kilter_runtime::{Data, Service};

use super::columns::Columns;
use super::{Cell, Column, Kind, Listed, Log, Reach, Remembered, Table};
use crate::scan::{Bounds, Wanted};
use crate::stretches::{Span, Stretches};

/// A decision with the names behind its positions.
struct Decided {
    decision: Decision,
    layout: Arc<Layout>,
}

/// One input or reason of a decision.
struct Part {
    of: Arc<Decided>,
    rank: i64,
    name: String,
    value: Option<f64>,
    contribution: f64,
}

/// Columns by which a scan passes over decisions.
const NARROWS: &[&str] = &["time", "event_offset", "decision", "decision_id"];

pub fn tables(service: &Arc<Service>, remembered: &Remembered) -> Vec<(&'static str, Arc<dyn Table>)> {
    let source = || (Arc::clone(&service.data), Arc::clone(&remembered.decisions));
    let log = |name: &str| {
        let (data, stretches) = source();
        let reach = move || {
            let first = data.decisions.start_offset();
            Ok(Reach { records: first..data.decisions.next_offset(), firm: first })
        };
        Log { name: name.to_owned(), time: "time", stretches, reach: Arc::new(reach), offsets }
    };
    let decisions = {
        let (data, stretches) = source();
        let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Decided) -> ControlFlow<()>| each(&data, &stretches, wanted, row);
        let listed = Listed::of_log(
            "Every decision that was made, newest first",
            decision_columns(),
            NARROWS.to_vec(),
            log("decisions"),
            Box::new(rows),
        );
        Columns::of(listed, &service.data, &remembered.columns)
    };
    let reasons = {
        let (data, stretches) = source();
        let mut columns = part_columns();
        columns.push(Column::new("rank", Kind::Int, "1 for what moved the score most", |p: &Part| Cell::Int(p.rank)));
        columns.push(Column::new("feature", Kind::Text, "What the reason is: an input of the model, or a group of inputs", |p: &Part| {
            Cell::text(&p.name)
        }));
        columns.push(Column::new(
            "value",
            Kind::Float,
            "What the model saw there; null where it was missing, and for a group",
            |p: &Part| number(p.value),
        ));
        columns.push(Column::new("contribution", Kind::Float, "What it adds to the margin", |p: &Part| Cell::Float(p.contribution)));
        let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Part) -> ControlFlow<()>| parts(&data, &stretches, wanted, row, reasons_of);
        let comment = "The reasons of each decision, one row for each";
        Listed::of_log(comment, columns, NARROWS.to_vec(), log("decision_reasons"), Box::new(rows))
    };
    let features = {
        let (data, stretches) = source();
        let mut columns = part_columns();
        columns.push(Column::new("feature", Kind::Text, "An input of the model", |p: &Part| Cell::text(&p.name)));
        columns.push(Column::new("value", Kind::Float, "What the model saw; null where it was missing", |p: &Part| number(p.value)));
        let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Part) -> ControlFlow<()>| parts(&data, &stretches, wanted, row, inputs_of);
        let comment = "What the model saw at each decision, one row for each input";
        Listed::of_log(comment, columns, NARROWS.to_vec(), log("decision_features"), Box::new(rows))
    };
    vec![("decisions", decisions), ("decision_reasons", reasons), ("decision_features", features)]
}

fn decision_columns() -> Vec<Column<Decided>> {
    let text = |name: &str, comment: &str, get: for<'a> fn(&'a Decided) -> Option<&'a str>| {
        Column::new(name, Kind::Text, comment, move |d: &Decided| Cell::of(get(d), Cell::text))
    };
    vec![
        Column::new("decision_id", Kind::Text, "The id that the API answers", |d: &Decided| Cell::owned(d.id())),
        text("decision", "Which of the project's decisions", |d| Some(&d.layout.decision)),
        Column::new("time", Kind::Time, "When its event happened", |d: &Decided| Cell::Time(d.decision.time.0)),
        Column::new("event_offset", Kind::Int, "The event that was decided on: `_offset` in its source's table", |d: &Decided| {
            Cell::Int(d.decision.offset as i64)
        }),
        text("outcome", "What was decided", |d| d.layout.outcomes.get(d.decision.outcome).map(String::as_str)),
        text("rule", "The line of the policy that decided; null: the fallback", |d| {
            d.layout.rules.get(d.decision.rule?).map(String::as_str)
        }),
        Column::new("score", Kind::Float, "Probability, predicted number or anomaly score; null without a model", |d: &Decided| {
            number(d.decision.score)
        }),
        Column::new("margin", Kind::Float, "The score on the scale of the model's link", |d: &Decided| {
            number(d.decision.score.map(|_| d.decision.margin))
        }),
        text("model", "The model that scored", |d| d.layout.model.as_deref().filter(|_| d.decision.version.is_some())),
        Column::new("model_version", Kind::Int, "Its version", |d: &Decided| Cell::of(d.decision.version, |v| Cell::Int(i64::from(v)))),
        Column::new("top_reason", Kind::Text, "What moved the score most", |d: &Decided| {
            Cell::of(d.decision.reasons.first(), |reason| Cell::text(d.layout.reason(reason, &d.decision.inputs).0))
        }),
        Column::new("reasons", Kind::Text, "All reasons as JSON; `decision_reasons` has a row for each", |d: &Decided| {
            Cell::owned(d.reasons_json())
        }),
        text("definitions", "Hash of the definitions it was made under", |d| Some(&d.layout.definitions)),
    ]
}

fn part_columns() -> Vec<Column<Part>> {
    vec![
        Column::new("decision_id", Kind::Text, "As in `decisions`", |p: &Part| Cell::owned(p.of.id())),
        Column::new("decision", Kind::Text, "Which of the project's decisions", |p: &Part| Cell::text(&p.of.layout.decision)),
        Column::new("time", Kind::Time, "When its event happened", |p: &Part| Cell::Time(p.of.decision.time.0)),
        Column::new("event_offset", Kind::Int, "The event that was decided on", |p: &Part| Cell::Int(p.of.decision.offset as i64)),
    ]
}

impl Decided {
    fn id(&self) -> String {
        decision_id(&self.layout.decision, self.decision.offset)
    }

    fn reasons_json(&self) -> String {
        let reasons = self.decision.reasons.iter().map(|reason| {
            let (feature, value) = self.layout.reason(reason, &self.decision.inputs);
            serde_json::json!({ "feature": feature, "value": value, "contribution": reason.contribution })
        });
        serde_json::Value::from_iter(reasons).to_string()
    }
}

/// A missing input is NaN in the log.
fn number(x: Option<f64>) -> Cell<'static> {
    Cell::of(x.filter(|x| !x.is_nan()), Cell::Float)
}

fn reasons_of(decided: &Arc<Decided>) -> Vec<Part> {
    let part = |(i, reason): (usize, &kilter_pipeline::decision::Reason)| {
        let (name, value) = decided.layout.reason(reason, &decided.decision.inputs);
        Part { of: Arc::clone(decided), rank: i as i64 + 1, name: name.to_owned(), value, contribution: reason.contribution }
    };
    decided.decision.reasons.iter().enumerate().map(part).collect()
}

fn inputs_of(decided: &Arc<Decided>) -> Vec<Part> {
    let part = |(i, (name, value)): (usize, (&String, &f64))| Part {
        of: Arc::clone(decided),
        rank: i as i64 + 1,
        name: name.clone(),
        value: Some(*value),
        contribution: 0.0,
    };
    decided.layout.inputs.iter().zip(&decided.decision.inputs).enumerate().map(part).collect()
}

fn parts(
    data: &Data,
    stretches: &Stretches,
    wanted: &Wanted,
    row: &mut dyn FnMut(Part) -> ControlFlow<()>,
    split: fn(&Arc<Decided>) -> Vec<Part>,
) -> anyhow::Result<()> {
    each(data, stretches, wanted, &mut |decided| split(&Arc::new(decided)).into_iter().try_for_each(&mut *row))
}

/// The events that decisions are asked for of: by their offsets, or by ids that end with them.
fn offsets(bounds: &Bounds) -> RangeInclusive<i64> {
    let asked = bounds.range("event_offset");
    let Some(ids) = bounds.texts("decision_id") else { return asked };
    // An id without an offset is of no decision.
    let of_ids: Vec<i64> = ids.iter().filter_map(|id| id.rsplit_once('-')?.1.parse().ok()).collect();
    let (first, last) = (of_ids.iter().min().copied().unwrap_or(i64::MAX), of_ids.iter().max().copied().unwrap_or(i64::MIN));
    first.max(*asked.start())..=last.min(*asked.end())
}

/// Goes through the decisions, newest first, stretch by stretch.
fn each(data: &Data, stretches: &Stretches, wanted: &Wanted, row: &mut dyn FnMut(Decided) -> ControlFlow<()>) -> anyhow::Result<()> {
    let log = &data.decisions;
    let times = wanted.bounds.range("time");
    let offsets = offsets(&wanted.bounds);
    let names = wanted.bounds.texts("decision");
    let ids = wanted.bounds.texts("decision_id");
    let records = wanted.records.start.max(log.start_offset())..wanted.records.end.min(log.next_offset());
    let mut layouts: HashMap<u64, Arc<Layout>> = HashMap::new();
    for stretch in stretches.of(records, &times, &offsets) {
        if !(wanted.is_wanted)() {
            return Ok(());
        }
        if stretches.known(stretch.clone()).is_some_and(|span| !(wanted.may_count)(span.times)) {
            continue;
        }
        let mut reader = log.reader(stretch.start);
        let mut found = Vec::new();
        let mut span = Span::EMPTY;
        while reader.next_offset() < stretch.end
            && let Some((position, bytes)) = reader.next_record()?
        {
            let entry = decode(bytes).with_context(|| format!("decision log, record {position}"))?;
            let (at, decision) = match entry {
                Entry::Layout(_) => continue,
                Entry::Erased(_, erased) => {
                    span.add(erased.time.0, erased.offset);
                    continue;
                }
                Entry::Decision(at, decision) => (at, decision),
            };
            span.add(decision.time.0, decision.offset);
            if !times.contains(&decision.time.0) || !offsets.contains(&(decision.offset as i64)) {
                continue;
            }
            let layout = match layouts.get(&at) {
                Some(layout) => Arc::clone(layout),
                None => Arc::clone(layouts.entry(at).or_insert(layout(data, at)?)),
            };
            let fits = names.is_none_or(|names| names.contains(&layout.decision))
                && ids.is_none_or(|ids| ids.contains(&decision_id(&layout.decision, decision.offset)));
            if fits {
                found.push(Decided { decision, layout });
            }
        }
        stretches.remember(stretch, span);
        while let Some(decided) = found.pop() {
            if row(decided).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn layout(data: &Data, at: u64) -> anyhow::Result<Arc<Layout>> {
    let bytes = data.decisions.read(at)?.with_context(|| format!("decision log: layout {at} is gone"))?;
    match decode(&bytes)? {
        Entry::Layout(layout) => Ok(Arc::new(layout)),
        _ => bail!("decision log: record {at} is no layout"),
    }
}
