//! All entities of a view as they are now, a part at a time, so that the stream never waits long for whoever reads them.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use kilter_core::{EntityKey, EventTime, Offset};
use kilter_features::{Look, View, stored_key};
use tokio::sync::SemaphorePermit;

use crate::sequencer::{Call, Command, FeatureRows, Refusal};
use crate::service::{Service, ServiceError};

/// Entities in memory read between two events.
const PART: usize = 256;
/// Entities read between two events where each may have to be read from disk.
const COLD_PART: usize = 32;

/// One entity, as it was at a moment and a place of the log.
#[derive(Clone, Debug)]
pub struct EntityRow {
    pub key: EntityKey,
    pub at: EventTime,
    /// It is what the records before this offset made of it.
    pub as_of_offset: Offset,
    pub look: Look,
}

/// Takes an entity; `Break`: no more is wanted.
pub type EachEntity<'a> = &'a mut dyn FnMut(EntityRow) -> ControlFlow<()>;

impl Service {
    /// Hands over every entity that a view knows something of, in no order. Each part of them is read at a place of the log of its own. Of an entity that was
    /// there all the while nothing is left out, and none comes twice.
    ///
    /// For a thread that may wait. What it needs of memory are the keys of the entities that are in memory.
    ///
    /// # Errors
    /// When the state cannot be read, or other definitions come into force meanwhile.
    pub fn each_entity(&self, view: usize, each: EachEntity<'_>) -> Result<(), ServiceError> {
        let mut told = HashSet::new();
        // Definitions that mean the same may have come into force since; the places are those of one set of them.
        let (mut plan, mut place, mut before) = (Arc::clone(&self.plan), view, usize::MAX);
        while before > 0 {
            let part = self.data.wait(async {
                let _one = self.one_part().await?;
                let under = Arc::clone(&plan);
                let command = |reply| Call { under, command: Command::Entities { view: place, before, most: PART, reply } };
                let answer = self.send_call(command).await?;
                answer.await.unwrap_or(Err(Refusal::Stopping)).map_err(ServiceError::from)
            })?;
            (plan, place, before) = (part.plan, part.view, part.before);
            for row in part.rows {
                if row.look.last_event.is_some() && told.insert(row.key.clone()) && each(row).is_break() {
                    return Ok(());
                }
            }
        }
        // What memory has no room for. Whatever has left it since was written before.
        let Some(tiers) = &self.data.state else { return Ok(()) };
        let (mut keys, mut failed, mut is_over) = (Vec::new(), None, false);
        tiers
            .keys(&plan.views[place].state_name(), &mut |bytes| {
                keys.extend(stored_key(bytes).filter(|key| !told.contains(key)));
                if keys.len() == COLD_PART {
                    is_over = self.each_of(view, std::mem::take(&mut keys), each).unwrap_or_else(|e| {
                        failed = Some(e);
                        true
                    });
                }
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(anyhow::Error::from)?;
        if let Some(e) = failed {
            return Err(e);
        }
        if !is_over {
            self.each_of(view, keys, each)?;
        }
        Ok(())
    }

    /// The same of these entities alone.
    ///
    /// # Errors
    /// As [`Service::each_entity`].
    pub fn each_entity_of(&self, view: usize, keys: &[EntityKey], each: EachEntity<'_>) -> Result<(), ServiceError> {
        for part in keys.chunks(COLD_PART) {
            if self.each_of(view, part.to_vec(), each)? {
                break;
            }
        }
        Ok(())
    }

    /// Of all who go through entities, one at a time has the stream wait.
    async fn one_part(&self) -> Result<SemaphorePermit<'_>, ServiceError> {
        self.parts().acquire().await.map_err(|_| Refusal::Stopping.into())
    }

    /// Whether that was enough.
    fn each_of(&self, view: usize, keys: Vec<EntityKey>, each: EachEntity<'_>) -> Result<bool, ServiceError> {
        if keys.is_empty() {
            return Ok(false);
        }
        let FeatureRows { at, as_of_offset, view: now, rows, .. } = self.data.wait(async {
            let _one = self.one_part().await?;
            self.rows_of(view, keys.clone(), None, true).await
        })?;
        let was = &self.plan.views[view];
        let same = |a: &View, b: &View| {
            a.features().iter().map(|f| (&f.name, f.data_type)).eq(b.features().iter().map(|f| (&f.name, f.data_type)))
        };
        if !same(was, &now) {
            return Err(
                Refusal::Changed(format!("the definitions changed, and view `{}` has other features: ask again", was.name())).into()
            );
        }
        let rows = keys.into_iter().zip(rows).filter(|(_, look)| look.last_event.is_some());
        Ok(rows.map(|(key, look)| EntityRow { key, at, as_of_offset, look }).try_for_each(each).is_break())
    }
}
