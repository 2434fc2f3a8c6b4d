//! How well a model's decisions turned out: the decision log and the event log read in step. Changes nothing.

use std::sync::Arc;

use anyhow::Context;
use kilter_core::{DataType, EventTime, Offset, Operation, record};
use kilter_pipeline::Range;
use kilter_pipeline::performance::{NoReport, Performance, Question, Report, SegmentOf, Shown};
use kilter_store::threads;

use crate::catalog::Record;
use crate::data::Data;
use crate::in_step::{InStep, Kept};
use crate::sequencer::Refusal;
use crate::service::{Service, ServiceError, not_found};
use crate::status::Status;

/// Which decisions are looked at, and how it is told.
#[derive(Clone, Debug)]
pub struct PerformanceRequest {
    /// Position in the plan's decisions; it has a model.
    pub decision: usize,
    /// Decisions from here on; none: from the first.
    pub from: Option<EventTime>,
    /// Decisions before this; none: to the last.
    pub to: Option<EventTime>,
    /// Only those that this version scored.
    pub version: Option<u32>,
    pub segment: Option<SegmentOf>,
    pub shown: Shown,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct PerformanceReport {
    /// Records before this were read.
    pub until: Offset,
    pub report: Report,
}

impl Service {
    /// What a name tells the cases of a decision apart by: a column of its source, by itself or behind the source's name, or an input of its model.
    ///
    /// # Errors
    /// There is none of that name, or it says when and not which.
    pub fn segment_of(&self, decision: usize, name: &str) -> Result<SegmentOf, ServiceError> {
        let decision = &self.plan.decisions[decision];
        let source = &self.plan.sources[usize::from(decision.source.0)];
        let bare = name.strip_prefix(source.name.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        if let Some(column) = source.schema.index(bare) {
            return match source.schema.fields[column].data_type {
                DataType::Timestamp => Err(ServiceError::Conflict(format!("column `{bare}` is a time, which is no group"))),
                _ => Ok(SegmentOf::Column(column)),
            };
        }
        let inputs = decision.model.map_or(&[][..], |model| &self.plan.models[model].inputs);
        match inputs.iter().find(|input| input.name == name) {
            // Recorded is the number of the category.
            Some(input) if input.expr.data_type() == Some(DataType::String) => Err(ServiceError::Conflict(format!(
                "the texts of input `{name}` are not recorded with decisions: name a column of source `{}`",
                source.name
            ))),
            Some(_) => Ok(SegmentOf::Input(name.to_string())),
            None => Err(not_found("segment", name, source.schema.names().chain(inputs.iter().map(|input| input.name.as_str())))),
        }
    }

    /// Reads what was decided and how it turned out, as long as somebody `wants` it. Takes as long as it takes to read the logs, and is for a thread of its own.
    ///
    /// # Errors
    /// What is asked for is not there, or is more than is told; nobody wants it any more, or the service ends.
    pub fn performance(&self, request: &PerformanceRequest, wants: &dyn Fn() -> bool) -> Result<PerformanceReport, ServiceError> {
        let _computes = threads::computes_meanwhile();
        let found = self.read_performance(request, &|| wants() && !self.has_ended());
        found.map_err(|error| match error.downcast::<NoReport>() {
            Ok(reason) => told(reason),
            Err(error) => error.into(),
        })
    }

    fn read_performance(&self, request: &PerformanceRequest, wants: &dyn Fn() -> bool) -> anyhow::Result<PerformanceReport> {
        let (data, plan) = (&self.data, &self.plan);
        let range = Range { from: request.from.unwrap_or(EventTime::EARLIEST), to: request.to.unwrap_or(EventTime::LATEST) };
        let question = Question { decision: request.decision, range, version: request.version, segment: request.segment.clone() };
        let model = plan.decisions[request.decision].model;
        let label = model.and_then(|model| plan.models[model].label.as_ref()).map(|label| label.source);
        let mut performance = Performance::new(Arc::clone(plan), question).context("the decision has no model")?;

        // Events may be in the log whose decisions are not.
        let until = Status::get(&self.status.next_offset);
        let begin = request.from.map_or(Ok(0), |from| all_before(data, from))?.max(data.first_offset);
        let decoder = data.decoder(plan);
        let mut recorded = InStep::new(data, begin)?;
        let mut events = data.records(begin);
        let mut made = Vec::new();
        while let Some((offset, bytes)) = events.next_record()? {
            if offset >= until {
                break;
            }
            if offset % 4096 == 0 && !wants() {
                return Err(NoReport::Unwanted.into());
            }
            while let Some(kept) = recorded.next_until(offset)? {
                match kept {
                    Kept::Decision(decided) if decided.decision.offset == offset => made.push(decided),
                    Kept::Decision(decided) => performance.without_event(&decided.decision, &decided.layout),
                    Kept::Erased(layout, erased) => performance.erased(&erased, &layout),
                }
            }
            let header = record::header(bytes)?;
            let of = header.as_ref().and_then(|header| decoder.source(header.schema));
            if let Some(header) = &header {
                performance.reach(header.time);
            }
            // Most events of most logs are neither decided on nor labels: their rows are not read.
            let is_read = of.is_some() && (!made.is_empty() || of == label) && header.is_some_and(|h| h.operation == Operation::Upsert);
            let event = match is_read.then(|| decoder.decode(offset, bytes)).transpose()? {
                Some(Record::Event(event)) => Some(event),
                _ => None,
            };
            for decided in made.drain(..) {
                match &event {
                    Some(event) => performance.decision(event, &decided.decision, &decided.layout)?,
                    None => performance.without_event(&decided.decision, &decided.layout),
                }
            }
            if let Some(event) = &event {
                performance.label(event)?;
            }
        }
        let report = performance.finish(&request.shown, wants)?;
        Ok(PerformanceReport { until, report })
    }
}

fn told(reason: NoReport) -> ServiceError {
    let message = reason.to_string();
    match reason {
        NoReport::TooManyDecisions | NoReport::TooManyLabelEvents => {
            ServiceError::Conflict(format!("{message}: name a shorter stretch by `from` and `to`"))
        }
        NoReport::TooManyCohorts => {
            ServiceError::Conflict(format!("{message}: name a longer one by `by`, or a shorter stretch by `from` and `to`"))
        }
        NoReport::TooManyValues => ServiceError::Conflict(format!("{message}: it names cases rather than groups of them")),
        NoReport::UnknownOutcome(name, valid) => not_found("outcome", &name, valid.iter().map(String::as_str)),
        NoReport::UnknownReference(name, valid) => not_found("group", &name, valid.iter().map(String::as_str)),
        // Whoever has gone away reads no answer.
        NoReport::Unwanted => Refusal::Stopping.into(),
    }
}

/// An offset before which all events are earlier than a time: that of the newest snapshot that says so.
fn all_before(data: &Data, time: EventTime) -> anyhow::Result<Offset> {
    let snapshots = data.snapshots.list()?;
    Ok(snapshots.iter().filter(|snapshot| snapshot.event_time < time.0).map(|snapshot| snapshot.offset).max().unwrap_or(0))
}
