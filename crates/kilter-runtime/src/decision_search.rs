//! Looking for recorded decisions: newest first, by what they hold and by whom they were made on.
//!
//! The decision log has no index: a search reads it backwards, so many records at most, and says from where to go on. Whom a decision was made on
//! stands in its event alone, which is read last, when all else fits.

use kilter_core::{EntityKey, EventTime};
use kilter_pipeline::Decision;

use crate::catalog::{Decoder, Record};
use crate::service::{Layouts, Recorded, Service, ServiceError};

/// Records of the decision log that one search looks at.
const LOOKED_AT: u64 = 100_000;
/// Events that one search reads.
const EVENTS: u64 = 20_000;

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

/// An entity, as decisions know it: by decision, columns of its event and the key in them.
#[derive(Clone, Debug)]
pub struct EntityOfDecision {
    keys: Vec<(String, Vec<usize>, EntityKey)>,
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
                    Ok(parsed) => keys.push((decision.name.clone(), lookup.key.clone(), parsed)),
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
        let log = &self.data.decisions;
        let (start, mut position) = (log.start_offset(), search.before.unwrap_or(u64::MAX).min(log.next_offset()));
        let decoder = search.entity.as_ref().map(|entity| (entity, self.data.decoder(&self.plan)));
        let mut layouts = Layouts::default();
        let mut found = FoundDecisions::default();
        let mut events = 0;
        while position > start && found.decisions.len() < search.limit && found.looked_at < LOOKED_AT && events < EVENTS {
            position -= 1;
            found.looked_at += 1;
            let Some(recorded) = layouts.read(&self.data, position)? else { continue };
            found.back_to = Some(recorded.decision.time);
            if !search.fits(&recorded) {
                continue;
            }
            if let Some((entity, decoder)) = &decoder {
                events += 1;
                if !self.is_of(entity, decoder, &recorded)? {
                    continue;
                }
            }
            found.decisions.push(recorded);
        }
        found.next = (position > start).then_some(position);
        Ok(found)
    }

    /// Whether a decision was made on an entity; what the log no longer has is of nobody.
    fn is_of(&self, entity: &EntityOfDecision, decoder: &Decoder, recorded: &Recorded) -> anyhow::Result<bool> {
        let mut keys = entity.keys.iter().filter(|(decision, ..)| *decision == recorded.layout.decision).peekable();
        let (offset, events) = (recorded.decision.offset, &self.data.events);
        if keys.peek().is_none() || offset < events.start_offset() {
            return Ok(false);
        }
        let Some(bytes) = events.read(offset)? else { return Ok(false) };
        let Record::Event(event) = decoder.decode(offset, &bytes)? else { return Ok(false) };
        Ok(keys.any(|(_, columns, key)| EntityKey::from_row(&event.row, columns).as_ref() == Some(key)))
    }
}
