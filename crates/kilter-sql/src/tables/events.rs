//! The event log: one table for each source, with the columns of its definition.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context;
use kilter_core::{DataType, Event, Operation, SourceId, Value};
use kilter_runtime::history::Records;
use kilter_runtime::{Decoder, Record, Service};

use super::{Cell, Column, Kind, Listed, Placed, Table};
use crate::scan::{STRETCH, Stretches, Wanted};

const NARROWS: &[&str] = &["_time", "_offset"];

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
    let rows = move |wanted: &Wanted, row: &mut dyn FnMut(Event) -> ControlFlow<()>| each(&service, &stretches, source, wanted, row);
    Listed::new(comment, columns, NARROWS, Box::new(rows))
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

/// Goes through the events of a source: those in the log newest first, then what only the lake has, in the order of the lake.
fn each(
    service: &Service,
    stretches: &Stretches,
    source: SourceId,
    wanted: &Wanted,
    row: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let history = &service.data.history;
    let (start, end) = (history.log().start_offset(), history.log().next_offset());
    let first = history.start()?;
    let offsets = wanted.bounds.range("_offset");
    let times = wanted.bounds.range("_time");
    let decoder = service.data.decoder(&service.plan);
    let mut found = Vec::new();
    for (low, high) in stretches.of(start, end, &times) {
        if !(wanted.is_wanted)() {
            return Ok(());
        }
        if (*offsets.end() as i128) < i128::from(low) || (*offsets.start() as i128) >= i128::from(high) {
            continue;
        }
        let span = stretch(&decoder, &mut history.records(low), high, |event| {
            if event.source == source && times.contains(&event.time.0) && offsets.contains(&(event.offset as i64)) {
                found.push(event);
            }
        })?;
        stretches.remember(low, high, span);
        while let Some(event) = found.pop() {
            if row(event).is_break() {
                return Ok(());
            }
        }
    }
    let mut past = history.records(first);
    while past.next_offset() < start && (wanted.is_wanted)() {
        let high = (past.next_offset() + STRETCH).min(start);
        stretch(&decoder, &mut past, high, |event| {
            if event.source == source {
                found.push(event);
            }
        })?;
        for event in found.drain(..) {
            if row(event).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads the records before `high`; answers between which times they lie.
pub(super) fn stretch(
    decoder: &Decoder,
    records: &mut Records<'_>,
    high: u64,
    mut event: impl FnMut(Event),
) -> anyhow::Result<Option<(i64, i64)>> {
    let mut span: Option<(i64, i64)> = None;
    while records.next_offset() < high
        && let Some((offset, bytes)) = records.next_record()?
    {
        let record = decoder.decode(offset, bytes).with_context(|| format!("event log, offset {offset}"))?;
        // Of a source that is not declared now, but may be again before this is asked for: its times count as well.
        let header = kilter_core::record::header(bytes)?;
        if let Some(header) = header {
            let time = header.time.0;
            span = Some(span.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        }
        if let Record::Event(found) = record {
            event(found);
        }
    }
    Ok(span)
}
