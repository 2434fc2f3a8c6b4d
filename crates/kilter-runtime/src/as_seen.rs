//! Features as the server saw them: the state at an earlier place of the log, made again.
//!
//! The cost is bounded: from the nearest snapshot before the place (or the start of the log) at most `past_records` of `[server]` are run
//! through the engine; taking up the snapshot costs its size in memory for as long. One such read at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kilter_core::{EntityKey, EventTime, Offset};
use kilter_pipeline::{ClockMode, Pipeline, Plan};
use kilter_store::threads;

use crate::catalog::Record;
use crate::data::Data;
use crate::entities::{EachEntity, EntityRow};
use crate::eras::short;
use crate::sequencer::{FeatureRows, Refusal, Together, first_arrived};
use crate::service::{Service, ServiceError};
use crate::status::Status;

/// Records between two looks whether the read is still wanted.
const LOOK_UP: u64 = 4096;

/// Entities that are read before any is handed on, so that whoever takes them holds nothing up.
const AT_ONCE: usize = 20_000;
/// How long handing on more of them may take: meanwhile nobody else reads the past.
const LONGEST: Duration = Duration::from_secs(60);

/// A place of the log's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What was known before this offset.
    Before(Offset),
    /// What had arrived up to this moment, by the server's clock.
    Arrived(EventTime),
}

impl Service {
    /// What a read without a time would have answered then, under the definitions in force today, which must have meant the same by the
    /// view then.
    pub async fn features_as_seen(self: &Arc<Self>, view: usize, keys: Vec<EntityKey>, seen: Seen) -> Result<FeatureRows, ServiceError> {
        let reads = keys.into_iter().map(|key| (view, key)).collect();
        let (Together { at, as_of_offset, looks }, watermarks) = self.seen(reads, vec![view], seen).await?;
        let view = self.plan.views[view].clone();
        Ok(FeatureRows { at, as_of_offset, watermark: watermarks.into_iter().next().flatten(), view, rows: looks })
    }

    /// The same for all entities that the view knew something of, or for those of `keys`. For a thread that may wait.
    ///
    /// # Errors
    /// As of a read of single entities; nobody wants it any more.
    pub fn each_as_seen(
        &self,
        view: usize,
        keys: Option<Vec<EntityKey>>,
        seen: Seen,
        is_wanted: &dyn Fn() -> bool,
        each: EachEntity<'_>,
    ) -> Result<(), ServiceError> {
        let Ok(one) = self.past_reads().try_acquire() else { return Err(another()) };
        let Past { mut pipeline, at, place } = past(self, &[view], seen, is_wanted)?;
        let keys = keys.unwrap_or_else(|| pipeline.engine().keys_in_memory(view, 0).cloned().collect());
        let wanted = |n: &(usize, EntityKey)| !(n.0 as u64).is_multiple_of(LOOK_UP) || is_wanted();
        let mut looks = keys.into_iter().enumerate().take_while(wanted).filter_map(|(_, key)| {
            let look = pipeline.look(view, &key, at).unwrap_or_default();
            Some(EntityRow { key, at, as_of_offset: place, look }).filter(|row| row.look.last_event.is_some())
        });
        // Other reads do not wait for whoever takes these.
        let first: Vec<EntityRow> = looks.by_ref().take(AT_ONCE).collect();
        let next = looks.next();
        if next.is_none() {
            drop(looks);
            drop(pipeline);
            drop(one);
            let _ = first.into_iter().try_for_each(each);
            return Ok(());
        }
        let until = Instant::now() + LONGEST;
        for row in first.into_iter().chain(next).chain(looks) {
            if Instant::now() > until {
                return Err(ServiceError::Conflict(format!(
                    "the entities of the past were not read within {} seconds, and other reads of the past wait: name some of them",
                    LONGEST.as_secs()
                )));
            }
            if each(row).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The same for entities of several views; `views` are all of them. Beside it, the watermark of each one's source then.
    pub(crate) async fn seen(
        self: &Arc<Self>,
        reads: Vec<(usize, EntityKey)>,
        views: Vec<usize>,
        seen: Seen,
    ) -> Result<(Together, Vec<Option<EventTime>>), ServiceError> {
        let Ok(_one) = self.past_reads().try_acquire() else { return Err(another()) };
        let service = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || read(&service, &reads, &views, seen)).await;
        read.map_err(|e| ServiceError::Failed(format!("the read ended badly: {e}")))?
    }
}

fn another() -> ServiceError {
    ServiceError::Conflict("another read of the past is being made: ask again in a moment".into())
}

fn read(
    service: &Service,
    reads: &[(usize, EntityKey)],
    views: &[usize],
    seen: Seen,
) -> Result<(Together, Vec<Option<EventTime>>), ServiceError> {
    let _computes = threads::computes_meanwhile();
    let mut past = past(service, views, seen, &|| true)?;
    let watermarks = views.iter().map(|view| past.pipeline.watermark(service.plan.views[*view].source())).collect();
    let looks = reads.iter().map(|(view, key)| past.pipeline.look(*view, key, past.at).unwrap_or_default()).collect();
    if let Some(reason) = past.pipeline.engine().failure() {
        return Err(Refusal::Other(format!("the state cannot be read: {reason}")).into());
    }
    Ok((Together { at: past.at, as_of_offset: past.place, looks }, watermarks))
}

/// The state at an earlier place of the log, and the moment that a read without a time was about there.
struct Past {
    pipeline: Pipeline,
    at: EventTime,
    place: Offset,
}

/// `is_wanted`: whether somebody still waits for it.
fn past(service: &Service, views: &[usize], seen: Seen, is_wanted: &dyn Fn() -> bool) -> Result<Past, ServiceError> {
    let (data, plan) = (&service.data, &service.plan);
    let end = Status::get(&service.status.next_offset);
    let place = match seen {
        Seen::Before(offset) => offset,
        Seen::Arrived(time) => first_arrived(data, time + kilter_core::Span(1), end)?,
    };
    let start = data.history.start()?;
    if place > end || place < start {
        return Err(ServiceError::Conflict(format!("the log goes from offset {start} to {end}: there is no offset {place}")));
    }
    let most = service.project.settings.server.past_records;
    for view in views {
        meant_the_same(data, plan, *view, place, Status::get(&service.status.since), most)?;
    }
    let mut pipeline = state_at(data, plan, place, most)?;
    // The newest arrival before the place: the clock showed at least this.
    let mut clock = pipeline.tally().iter().filter_map(|t| t.arrived).max();
    let mut now = pipeline.now();
    let mut is_given_up = false;
    data.walk_while(plan, pipeline.next_offset(), place, |offset, record| {
        if let Record::Event(event) = record {
            now = now.max(Some(event.time));
            clock = clock.max(Some(event.arrived));
            pipeline.engine_mut().update(&event);
        }
        is_given_up = offset % LOOK_UP == 0 && !is_wanted();
        Ok(!is_given_up)
    })?;
    if is_given_up {
        return Err(ServiceError::Conflict("nobody waits for this read of the past any more".into()));
    }
    if let Seen::Arrived(time) = seen {
        clock = clock.max(Some(time));
    }
    let at = match plan.clock {
        ClockMode::Wall => now.max(clock),
        ClockMode::Event => now.or(clock),
    };
    let at = at.unwrap_or_else(|| service.clock().now());
    Ok(Past { pipeline, at, place })
}

/// Refuses a view that the definitions in force at `place` did not know, or meant otherwise. `since`: those of today are in force from here
/// on.
fn meant_the_same(data: &Data, plan: &Plan, view: usize, place: Offset, since: Offset, most: u64) -> Result<(), ServiceError> {
    if place > since || since == 0 {
        return Ok(());
    }
    let name = plan.views[view].name();
    if since - place > most {
        return Err(ServiceError::Conflict(format!(
            "offset {place} lies {} records before the newest change of definitions; at most {most} are looked through \
             (`past_records` of [server]). A training set reads any past",
            since - place
        )));
    }
    let Some(swap) = data.swaps(place, since + 1)?.into_iter().next() else { return Ok(()) };
    let old = data.kept_plan(&swap.from).context("what the view meant then cannot be told")?;
    let source = |plan: &Plan, view: usize| plan.sources[usize::from(plan.views[view].source().0)].name.clone();
    let lines = |plan: &Plan, view: usize| format!("{:?}", plan.views[view].features());
    // What it looks up must have been the same as well.
    let same = old.clock == plan.clock
        && plan.with_needs([view]).into_iter().all(|v| {
            old.view(plan.views[v].name()).is_some_and(|was| {
                let state = old.views[was].shares_state_with(&plan.views[v]) && lines(&old, was) == lines(plan, v);
                state && source(&old, was) == source(plan, v)
            })
        });
    match same {
        true => Ok(()),
        false => Err(ServiceError::Conflict(format!(
            "at offset {place} the definitions {} were in force, and view `{name}` was not what it is today. A training set reads the past \
             under today's definitions",
            short(&swap.from)
        ))),
    }
}

/// The state to go on from, not too far before `place`.
fn state_at(data: &Data, plan: &Arc<Plan>, place: Offset, most: u64) -> Result<Pipeline, ServiceError> {
    let too_far = |from: Offset| {
        ServiceError::Conflict(format!(
            "offset {place} lies {} records behind the nearest snapshot that is kept (at {from}); at most {most} are read. \
             Raise `past_records` of [server] or `keep` of [snapshot], ask for a later moment, or make a training set, which reads any past",
            place - from
        ))
    };
    let snapshots = data.snapshots.list().map_err(anyhow::Error::from)?;
    let nearest = snapshots.iter().filter(|s| s.offset <= place && s.definition_hash == plan.hash).map(|s| s.offset).max();
    let from = nearest.unwrap_or(data.history.start()?);
    if place - from > most {
        return Err(too_far(from));
    }
    let found = data.snapshots.newest(place, &plan.hash).map_err(anyhow::Error::from)?;
    let pipeline = data.restored(plan, found).unwrap_or_else(|| data.empty_state(plan));
    // A damaged snapshot was passed over.
    match place - pipeline.next_offset() > most {
        true => Err(too_far(pipeline.next_offset())),
        false => Ok(pipeline),
    }
}
