//! How far the partitioned streams that sources are read from, such as Kafka topics, have been taken in.
//!
//! The log itself says it: an event that came from such a stream carries its origin, and is in the log if and only if it was taken. The positions kept here
//! follow from that. A control record `consumed` names the stream and states the positions anew: when a source is first read from it, after each snapshot (so that
//! a recovery need not look before it), and where records were passed over that left no event.

use std::collections::BTreeMap;

use kilter_core::{Origin, SourceId, Stub};
use kilter_pipeline::Plan;
use kilter_store::log::LogError;

use super::{Refusal, Sequencer};
use crate::catalog::Control;
use crate::data::Data;

/// Next position to take, by partition.
pub type Positions = BTreeMap<u32, u64>;

/// One source's stream.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stream {
    source: String,
    /// Such as `kafka:transactions`; empty while no record has stated the positions, so that some may be missing.
    name: String,
    next: Positions,
}

/// The streams of all sources that were ever read from one.
#[derive(Default)]
pub(super) struct Consumed {
    streams: Vec<Stream>,
    /// Place in `streams` of each source of the plan in force.
    of_source: Vec<Option<usize>>,
}

impl Consumed {
    /// Goes by the sources of another plan. Of a source that is not among them events may pass unseen, so that it will have to be searched for.
    pub fn under(&mut self, plan: &Plan) {
        for stream in &mut self.streams {
            if plan.source(&stream.source).is_none() {
                stream.name.clear();
            }
        }
        let place = |name: &str| self.streams.iter().position(|s| s.source == name);
        self.of_source = plan.sources.iter().map(|source| place(&source.name)).collect();
    }

    fn stream(&mut self, source: SourceId, plan: &Plan) -> &mut Stream {
        let index = usize::from(source.0);
        let place = self.of_source[index].unwrap_or_else(|| {
            self.streams.push(Stream { source: plan.sources[index].name.clone(), ..Stream::default() });
            self.streams.len() - 1
        });
        self.of_source[index] = Some(place);
        &mut self.streams[place]
    }

    /// Whether the record was taken before.
    pub fn has(&self, source: SourceId, origin: Origin) -> bool {
        let stream = self.of_source[usize::from(source.0)].map(|place| &self.streams[place]);
        stream.and_then(|s| s.next.get(&origin.partition)).is_some_and(|next| origin.position < *next)
    }

    /// Takes note of a record that has been taken.
    pub fn take(&mut self, source: SourceId, origin: Origin, plan: &Plan) {
        self.stream(source, plan).next.insert(origin.partition, origin.position + 1);
    }

    /// The record was not written after all; later ones of its partition neither.
    pub fn withdraw(&mut self, source: SourceId, origin: Origin, plan: &Plan) {
        let next = &mut self.stream(source, plan).next;
        if let Some(next) = next.get_mut(&origin.partition) {
            *next = origin.position.min(*next);
        }
    }

    /// What a control record says.
    pub fn state(&mut self, source: &str, stream: &str, next: &Positions) {
        let said = Stream { source: source.into(), name: stream.into(), next: next.clone() };
        match self.streams.iter_mut().find(|s| s.source == source) {
            Some(known) => *known = said,
            None => self.streams.push(said),
        }
    }
}

/// What the log, read from its start, says of one source; none where it was never read from a stream.
fn searched(data: &Data, plan: &Plan, source: SourceId) -> anyhow::Result<Option<Stream>> {
    let name = &plan.sources[usize::from(source.0)].name;
    let decoder = data.decoder(plan);
    let mut found: Option<Stream> = None;
    let mut reader = data.history.all()?;
    while let Some((_, bytes)) = reader.next_record()? {
        let (schema, origin) = if let Some(header) = kilter_core::record::header(bytes)? {
            (header.schema, header.origin)
        } else if let Some(stub) = Stub::decode(bytes)? {
            (stub.schema, stub.origin)
        } else {
            if let Some(Control::Consumed { source, stream, next }) = Control::decode(bytes)?
                && source == *name
            {
                found = Some(Stream { source, name: stream, next });
            }
            continue;
        };
        if let (Some(origin), true) = (origin, decoder.source(schema) == Some(source)) {
            found.get_or_insert_default().next.insert(origin.partition, origin.position + 1);
        }
    }
    Ok(found)
}

impl Sequencer {
    /// A source is read from a stream from now on: gives what of it has been taken. Another stream than before begins anew.
    pub(super) fn attach(&mut self, source: SourceId, stream: &str) -> Result<Positions, Refusal> {
        if self.consumed.stream(source, &self.plan).name.is_empty() {
            let found = searched(&self.data, &self.plan, source).map_err(|e| Refusal::Other(format!("{e:#}")))?;
            if let Some(found) = found {
                self.consumed.state(&self.plan.sources[usize::from(source.0)].name, &found.name, &found.next);
                self.consumed.under(&self.plan);
            }
        }
        let known = self.consumed.stream(source, &self.plan).clone();
        if known.name == stream {
            return Ok(known.next);
        }
        self.restate(&Stream { name: stream.into(), next: Positions::new(), ..known }).map_err(|e| Refusal::from(&e))?;
        Ok(Positions::new())
    }

    /// Records up to these positions have been seen, though not all of them left an event.
    pub(super) fn passed(&mut self, source: SourceId, next: &Positions) -> Result<(), Refusal> {
        let mut stream = self.consumed.stream(source, &self.plan).clone();
        for (partition, next) in next {
            let known = stream.next.entry(*partition).or_default();
            *known = (*known).max(*next);
        }
        self.restate(&stream).map_err(|e| Refusal::from(&e))
    }

    /// States the positions of every stream anew, for a recovery that begins here. Where that fails, one will search the log for them.
    pub(super) fn restate_all(&mut self) {
        // A recovery still reads what it goes on from.
        if self.recovering {
            return;
        }
        for stream in self.consumed.streams.clone().into_iter().filter(|s| !s.name.is_empty()) {
            if let Err(e) = self.restate(&stream) {
                tracing::warn!(source = stream.source, error = %e, "how far the source has been read could not be noted");
            }
        }
    }

    /// Writes the positions down and goes by them. Nothing may be staged.
    fn restate(&mut self, stream: &Stream) -> Result<(), LogError> {
        debug_assert!(self.staged.is_empty(), "staged events have their places already");
        let mut bytes = Vec::new();
        let Stream { source, name, next } = stream.clone();
        let control = Control::Consumed { source, stream: name, next };
        control.encode(&mut bytes);
        let place = self.data.events.append(&[bytes])?.first;
        self.pipeline.skip(place);
        if let Control::Consumed { source, stream, next } = &control {
            self.consumed.state(source, stream, next);
            self.consumed.under(&self.plan);
        }
        Ok(())
    }
}
