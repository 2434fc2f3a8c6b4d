//! Looking for recorded decisions: newest first, by what they hold and by whom they were made on.
//!
//! The decision log has no index: a search reads it backwards, so many records at most, and says from where to go on. Whom a decision was made on
//! stands in its event alone, which is read last, when all else fits.

use kilter_core::{EntityKey, EventTime, SourceId};
use kilter_pipeline::Decision;
use kilter_pipeline::decision::decode;

use crate::catalog::{Decoder, Record};
use crate::service::{Layouts, Recorded, Service, ServiceError};

/// Records of the decision log that one search looks at.
const LOOKED_AT: u64 = 100_000;
/// Events that one search reads.
const EVENTS: u64 = 20_000;
/// Records that are read at once: the log is read forwards.
const STRETCH: u64 = 1000;
/// The same of the first, which is often enough.
const FIRST: u64 = 100;

/// Which decisions are looked for; what is left out lets all through.
#[derive(Clone, Debug, Default)]
pub struct DecisionSearch {
    /// Only those before this position of the decision log.
    pub before: Option<u64>,
    pub limit: usize,
    pub decision: Option<String>,
    pub outcome: Option<String>,
    /// Event times: from here on ...
    pub from: Option<EventTime>,
    /// ... and before this.
    pub to: Option<EventTime>,
    pub min_score: Option<f64>,
    pub max_score: Option<f64>,
    pub version: Option<u32>,
    /// The name of a recorded reason.
    pub reason: Option<String>,
    pub entity: Option<EntityOfDecision>,
}

/// An entity, as decisions know it.
#[derive(Clone, Debug)]
pub struct EntityOfDecision {
    keys: Vec<KeyOfDecision>,
}

/// A key in the events that a decision is made on.
#[derive(Clone, Debug)]
struct KeyOfDecision {
    decision: String,
    /// Once it may have been made on another's.
    source: SourceId,
    columns: Vec<usize>,
    key: EntityKey,
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct FoundDecisions {
    pub decisions: Vec<Recorded>,
    /// Where to go on; none: this was all.
    pub next: Option<u64>,
    /// Records of the decision log.
    pub looked_at: u64,
    /// Event time of the oldest decision looked at.
    pub back_to: Option<EventTime>,
}

/// What a decision is to whoever looks.
enum Looked {
    Found,
    Passed,
    /// Nor is any other looked at.
    Enough,
}

impl DecisionSearch {
    fn fits(&self, recorded: &Recorded) -> bool {
        let Recorded { decision: Decision { time, score, version, outcome, reasons, inputs, .. }, layout } = recorded;
        self.decision.as_ref().is_none_or(|name| *name == layout.decision)
            && self.outcome.as_ref().is_none_or(|name| layout.outcomes.get(*outcome) == Some(name))
            && self.from.is_none_or(|from| from <= *time)
            && self.to.is_none_or(|to| *time < to)
            && self.min_score.is_none_or(|least| score.is_some_and(|score| score >= least))
            && self.max_score.is_none_or(|most| score.is_some_and(|score| score <= most))
            && self.version.is_none_or(|wanted| *version == Some(wanted))
            && self.reason.as_ref().is_none_or(|name| reasons.iter().any(|reason| layout.reason(reason, inputs).0 == name))
    }
}

impl Service {
    /// The entity of a key that decisions look up in their views, or in one of them.
    ///
    /// # Errors
    /// No decision looks up such a key.
    pub fn entity_of_decisions(&self, view: Option<usize>, key: &str) -> Result<EntityOfDecision, ServiceError> {
        let mut keys = Vec::new();
        let mut refused = None;
        for decision in &self.plan.decisions {
            for lookup in decision.context.lookups.iter().filter(|lookup| view.is_none_or(|view| lookup.view == view)) {
                match self.parse_key(lookup.view, key) {
                    Ok(key) => {
                        let (decision, source) = (decision.name.clone(), decision.source);
                        keys.push(KeyOfDecision { decision, source, columns: lookup.key.clone(), key });
                    }
                    Err(error) => refused = Some(error),
                }
            }
        }
        match (keys.is_empty(), refused) {
            (true, Some(error)) => Err(error),
            (true, None) => Err(ServiceError::Conflict("no decision looks up features by such a key".into())),
            (false, _) => Ok(EntityOfDecision { keys }),
        }
    }

    /// Recorded decisions, newest first. The log is read backwards, 100 000 records at most, or 20 000 events where an entity is looked for.
    pub fn search_decisions(&self, search: &DecisionSearch) -> Result<FoundDecisions, ServiceError> {
        let decoder = search.entity.as_ref().map(|entity| (entity, self.data.decoder(&self.plan)));
        let mut events = 0;
        self.look_back(search.before, search.limit, |recorded| {
            if !search.fits(recorded) {
                return Ok(Looked::Passed);
            }
            let Some((entity, decoder)) = &decoder else { return Ok(Looked::Found) };
            events += 1;
            Ok(match self.is_of(entity, decoder, recorded)? {
                true => Looked::Found,
                false if events == EVENTS => Looked::Enough,
                false => Looked::Passed,
            })
        })
    }

    /// Recorded decisions, newest first: at most `limit`, before a position in the decision log, that `keep` lets through.
    /// The second value is the position to go on from.
    pub fn decisions(
        &self,
        before: Option<u64>,
        limit: usize,
        keep: impl Fn(&Recorded) -> bool,
    ) -> Result<(Vec<Recorded>, Option<u64>), ServiceError> {
        let looked = |recorded: &Recorded| Ok(if keep(recorded) { Looked::Found } else { Looked::Passed });
        let found = self.look_back(before, limit, looked)?;
        Ok((found.decisions, found.next))
    }

    /// Reads the decision log backwards, 100 000 records at most.
    fn look_back(
        &self,
        before: Option<u64>,
        limit: usize,
        mut look: impl FnMut(&Recorded) -> anyhow::Result<Looked>,
    ) -> Result<FoundDecisions, ServiceError> {
        let log = &self.data.decisions;
        let (start, mut position) = (log.start_offset(), before.unwrap_or(u64::MAX).min(log.next_offset()));
        let mut layouts = Layouts::default();
        let mut found = FoundDecisions::default();
        let mut stretch = FIRST;
        'stretches: while position > start && found.decisions.len() < limit && found.looked_at < LOOKED_AT {
            let from = position.saturating_sub(stretch).max(start);
            stretch = STRETCH;
            let mut records = Vec::new();
            let mut reader = log.reader(from);
            while let Some((at, bytes)) = reader.next_record().map_err(anyhow::Error::from)? {
                if at >= position {
                    break;
                }
                records.push((at, bytes.to_vec()));
            }
            for (at, bytes) in records.into_iter().rev() {
                position = at;
                found.looked_at += 1;
                if let Some(recorded) = layouts.recorded(&self.data, decode(&bytes).map_err(anyhow::Error::from)?)? {
                    found.back_to = Some(recorded.decision.time);
                    match look(&recorded)? {
                        Looked::Found => found.decisions.push(recorded),
                        Looked::Passed => {}
                        Looked::Enough => break 'stretches,
                    }
                }
                if found.decisions.len() == limit || found.looked_at == LOOKED_AT {
                    break 'stretches;
                }
            }
            position = from;
        }
        found.next = (position > start).then_some(position);
        Ok(found)
    }

    /// Whether a decision was made on an entity; what the log no longer has is of nobody.
    fn is_of(&self, entity: &EntityOfDecision, decoder: &Decoder, recorded: &Recorded) -> anyhow::Result<bool> {
        let mut keys = entity.keys.iter().filter(|own| own.decision == recorded.layout.decision).peekable();
        let (offset, events) = (recorded.decision.offset, &self.data.events);
        if keys.peek().is_none() || offset < events.start_offset() {
            return Ok(false);
        }
        let Some(bytes) = events.read(offset)? else { return Ok(false) };
        let Record::Event(event) = decoder.decode(offset, &bytes)? else { return Ok(false) };
        Ok(keys.any(|own| event.source == own.source && EntityKey::from_row(&event.row, &own.columns).as_ref() == Some(&own.key)))
    }
}
