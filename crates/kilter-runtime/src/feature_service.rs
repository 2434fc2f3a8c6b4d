//! Feature services: the features of several views for the keys of one question, all as of one moment and one place of the log.

use std::sync::Arc;

use kilter_core::{EntityKey, EventTime, Offset, Value, list};
use kilter_features::{Engine, Look};
use kilter_pipeline::ServicePlan;

use crate::as_seen::Seen;
use crate::sequencer::{Command, Refusal, Together};
use crate::service::{Service, ServiceError};

/// The answers of a service.
#[derive(Clone, Debug)]
pub struct ServiceRows {
    pub at: EventTime,
    pub as_of_offset: Offset,
    pub rows: Vec<ServiceRow>,
}

/// One question's answer.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// One per feature of the service.
    pub values: Vec<Value>,
    /// One per feature: whether the value is that of a reader who forgets nothing.
    pub complete: Vec<bool>,
    /// One per feature: the newest event in its window. None: the window is empty, or the feature is computed from others.
    pub newest: Vec<Option<EventTime>>,
    /// One per view that the service reads: when the newest event happened that the view took in of the entity.
    pub last_events: Vec<Option<EventTime>>,
}

impl Service {
    /// The position of a service by its name.
    pub fn feature_service(&self, name: &str) -> Result<usize, ServiceError> {
        let services = &self.plan.services;
        self.plan.service(name).ok_or_else(|| ServiceError::NotFound {
            what: "feature service",
            name: name.to_owned(),
            hint: Some(match services.is_empty() {
                true => "the project defines none: [service.NAME]".to_owned(),
                false => format!("there are: {}", list(services.iter().map(|s| s.name.as_str()))),
            }),
        })
    }

    /// Answers questions, each with one value for each of the service's keys. A null key is of no entity: its features are those of an empty
    /// history.
    pub async fn service_rows(
        self: &Arc<Self>,
        service: usize,
        keys: &[Vec<Value>],
        at: Option<EventTime>,
        seen: Option<Seen>,
    ) -> Result<ServiceRows, ServiceError> {
        let plan = &self.plan.services[service];
        let mut reads = Vec::new();
        // By question and lookup: where its look lies; none: no entity.
        let mut places: Vec<Option<usize>> = Vec::new();
        for key in keys {
            for lookup in &plan.lookups {
                places.push(EntityKey::from_row(key, &lookup.key).map(|entity| {
                    reads.push((lookup.view, entity));
                    reads.len() - 1
                }));
            }
        }
        let Together { at, as_of_offset, looks } = match seen {
            Some(seen) => self.seen(reads, plan.lookups.iter().map(|l| l.view).collect(), seen).await?.0,
            None => {
                let answer = self.send(|reply| Command::Together { reads, at, reply }).await?;
                answer.await.map_err(|_| Refusal::Stopping)??
            }
        };
        let nobody: Vec<Look> = match places.contains(&None) {
            true => plan.lookups.iter().map(|l| self.nobody(l.view)).collect(),
            false => Vec::new(),
        };
        let rows = places.chunks(plan.lookups.len()).map(|places| {
            let looks: Vec<&Look> = places.iter().enumerate().map(|(l, place)| place.map_or_else(|| &nobody[l], |p| &looks[p])).collect();
            row(plan, &looks)
        });
        Ok(ServiceRows { at, as_of_offset, rows: rows.collect() })
    }

    /// What a view says of an entity without events.
    fn nobody(&self, view: usize) -> Look {
        let mut engine = Engine::new(vec![self.plan.views[view].clone()]);
        engine.look(0, &EntityKey::Bool(false), EventTime(0)).unwrap_or_default()
    }
}

fn row(plan: &ServicePlan, looks: &[&Look]) -> ServiceRow {
    let mut slots = Vec::with_capacity(plan.width);
    looks.iter().for_each(|look| slots.extend(look.values.iter().cloned()));
    let of = |slot: usize| plan.lookup_of(slot).map(|l| (looks[l], slot - plan.lookups[l].first_slot));
    let whole = |slot: usize| of(slot).is_none_or(|(look, f)| look.complete.get(f) != Some(&false));
    let newest = |slot: usize| of(slot).and_then(|(look, f)| look.newest.get(f).copied().flatten());
    ServiceRow {
        values: plan.features.iter().map(|f| f.expr.eval(&slots)).collect(),
        complete: plan.features.iter().map(|f| f.expr.slots().iter().all(|slot| whole(*slot))).collect(),
        newest: plan.features.iter().map(|f| f.expr.as_slot().and_then(newest)).collect(),
        last_events: looks.iter().map(|look| look.last_event).collect(),
    }
}
