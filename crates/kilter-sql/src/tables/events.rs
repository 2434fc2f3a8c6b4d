//! The event log: one table for each source, with the columns of its definition.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use anyhow::Context;
use kilter_core::{DataType, Event, Operation, SourceId, Value};
use kilter_runtime::history::Records;
use kilter_runtime::{Decoder, Record, Service};

use super::{Cell, Column, Kind, Listed, Log, Placed, Reach, Table};
use crate::scan::{Bounds, Wanted};
use crate::stretches::{Span, Stretches};

const NARROWS: &[&str] = &["_time", "_offset"];
/// Stretches of the lake that are read at a time.
const RUN: usize = 16;

pub fn tables(service: &Arc<Service>, stretches: &Arc<Stretches>) -> Vec<Placed> {
    let one = |(i, source): (usize, &kilter_pipeline::SourcePlan)| {
        let table = table(service, stretches, SourceId(i as u16));
        Placed { schema: "events", name: source.name.clone(), table }
    };
    service.plan.sources.iter().enumerate().map(one).collect()
}

fn table(service: &Arc<Service>, stretches: &Arc<Stretches>, source: SourceId) -> Arc<dyn Table> {
    let (service, stretches) = (Arc::clone(service), Arc::clone(stretches));
    let plan = &service.plan.sources[source.0 as usize];
    let mut columns = vec![
        Column::new("_offset", Kind::Int, "Its place in the event log", |e: &Event| Cell::Int(e.offset as i64)),
        Column::new("_time", Kind::Time, "When it happened", |e: &Event| Cell::Time(e.time.0)),
        Column::new("_arrived", Kind::Time, "When it came in", |e: &Event| Cell::Time(e.arrived.0)),
        Column::new("_id", Kind::Text, "The id that its sender gave it", |e: &Event| Cell::of(e.id.as_deref(), Cell::text)),
        Column::new("_operation", Kind::Text, "`upsert`, or `delete` where the row of its key goes", |e: &Event| {
            Cell::text(if e.operation == Operation::Delete { "delete" } else { "upsert" })
        }),
        Column::new("_extra", Kind::Text, "Fields that no column is declared for, as JSON", |e: &Event| {
            Cell::of(e.extra.as_deref(), Cell::text)
        }),
    ];
    // A column that the definitions declare comes before one of ours with its name.
    columns.retain(|column| plan.schema.index(&column.name).is_none());
    for (i, field) in plan.schema.fields.iter().enumerate() {
        columns.push(Column::new(&field.name, kind(field.data_type), "", move |e: &Event| cell(&e.row[i])));
    }
    let comment = format!("Events of source {}, newest first", plan.name);
    let log = {
        let (service, stretches) = (Arc::clone(&service), Arc::clone(&stretches));
        // Old events are read by the columns of today.
        let name = format!("events.{} under {}", plan.name, service.plan.hash);
        let reach = move || {
            let history = &service.data.history;
            Ok(Reach { records: history.start()?..history.log().next_offset(), firm: history.log().start_offset() })
        };
        Log { name, time: "_time", stretches, reach: Arc::new(reach), offsets }
    };
    // A column that the definitions declare tells nothing of the log.
    let is_ours = |name: &str| plan.schema.index(name).is_none();
    let log = is_ours("_time").then_some(log);
    let narrows: Vec<&str> = NARROWS.iter().copied().filter(|name| is_ours(name)).collect();
    let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Event) -> ControlFlow<()>| each(&service, &stretches, source, wanted, row);
    Arc::new(Listed::of(comment, columns, narrows, log, Box::new(rows)))
}

fn offsets(bounds: &Bounds) -> RangeInclusive<i64> {
    bounds.range("_offset")
}

pub(super) fn kind(data_type: DataType) -> Kind {
    match data_type {
        DataType::Bool => Kind::Bool,
        DataType::Int64 => Kind::Int,
        DataType::Float64 => Kind::Float,
        DataType::Timestamp => Kind::Time,
        DataType::String | DataType::NumberList | DataType::TextList | DataType::NumberMap => Kind::Text,
    }
}

pub(super) fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(x) => Cell::Bool(*x),
        Value::Int(x) => Cell::Int(*x),
        Value::Float(x) => Cell::Float(*x),
        Value::Text(x) => Cell::text(x),
        Value::Time(x) => Cell::Time(x.0),
        Value::List(_) | Value::Map(_) => Cell::owned(value.to_string()),
    }
}

/// Goes through the events of a source, newest first. What only the lake has is read in the same stretches.
fn each(
    service: &Service,
    stretches: &Stretches,
    source: SourceId,
    wanted: &Wanted,
    row: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let history = &service.data.history;
    let records = wanted.records.start.max(history.start()?)..wanted.records.end.min(history.log().next_offset());
    let offsets = offsets(&wanted.bounds);
    let times = wanted.bounds.range("_time");
    let decoder = service.data.decoder(&service.plan);
    let mut found = Vec::new();
    let mut asked = stretches.of(records, &times, &offsets);
    // A record's number is its event's offset.
    asked.retain(|stretch| stretch.start as i64 <= *offsets.end() && *offsets.start() < stretch.end as i64);
    let log_start = history.log().start_offset();
    let mut asked = asked.into_iter().peekable();
    while let Some(newest) = asked.next() {
        if !(wanted.is_wanted)() {
            return Ok(());
        }
        let mut run = vec![newest];
        // To find a place in the lake takes longer than to read on from there.
        while let Some(low) = run.last().map(|stretch| stretch.start).filter(|low| *low < log_start && run.len() < RUN)
            && let Some(older) = asked.next_if(|older| older.end == low)
        {
            run.push(older);
        }
        run.reverse();
        let mut reader = history.records(run[0].start);
        for stretch in run {
            if stretches.known(stretch.clone()).is_some_and(|span| !(wanted.may_count)(span.times)) {
                continue;
            }
            if reader.next_offset() < stretch.start {
                reader = history.records(stretch.start);
            }
            let span = read(&decoder, &mut reader, stretch.end, |event| {
                if event.source == source && times.contains(&event.time.0) && offsets.contains(&(event.offset as i64)) {
                    found.push(event);
                }
            })?;
            stretches.remember(stretch, span);
        }
        while let Some(event) = found.pop() {
            if row(event).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads the records before `high`; answers how they lie.
pub(super) fn read(decoder: &Decoder, records: &mut Records<'_>, high: u64, mut event: impl FnMut(Event)) -> anyhow::Result<Span> {
    let mut span = Span::EMPTY;
    while records.next_offset() < high
        && let Some((offset, bytes)) = records.next_record()?
    {
        let record = decoder.decode(offset, bytes).with_context(|| format!("event log, offset {offset}"))?;
        // Of a source that is not declared now, but may be again before this is asked for: its times count as well.
        if let Some(header) = kilter_core::record::header(bytes)? {
            span.add(header.time.0, offset);
        }
        if let Record::Event(found) = record {
            event(found);
        }
    }
    Ok(span)
}
