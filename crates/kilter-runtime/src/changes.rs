//! What a change of definitions does, before it is done: what is added, changed and dropped, what must be filled from the log and how
//! much that is, which models lose their inputs, which decisions can still be replayed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EntityKey, Offset};
use kilter_features::Engine;
use kilter_pipeline::Plan;
use serde::Serialize;

use crate::audit::recorded_under;
use crate::backfill::{Backfill, same_inputs};
use crate::catalog::Record;
use crate::data::Data;
use crate::jobs::apply::needs_restart;
use crate::meaning::meaning;
use crate::project::{Difference, Kind, Object, Project, beside, differences, objects};

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Added,
    Changed,
    Dropped,
    Unchanged,
}

/// One object, then and now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectChange {
    pub kind: Kind,
    pub name: String,
    pub change: Fate,
    pub old_hash: Option<String>,
    pub new_hash: Option<String>,
    pub differences: Vec<Difference>,
    /// Features of a view; those that are as they were are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<ObjectChange>,
    /// Of a view or a monitor: whether its state is filled from the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<bool>,
    /// Of a view that is filled: how large its state will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSize>,
    /// Of a model: what becomes of the version in service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub champion: Option<ChampionFate>,
}

/// An estimate, from the events of one entity in `one_in`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StateSize {
    pub entities: u64,
    pub bytes_per_entity: u64,
    pub bytes: u64,
    pub one_in: u64,
}

/// What becomes of the version of a model that is in service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChampionFate {
    /// None: none is in service.
    pub version: Option<u32>,
    pub stays: bool,
    /// By decision: the outcome while there is none, or null where nothing is decided then.
    pub fallback: BTreeMap<String, Option<String>>,
}

/// What must be read from the log, and about how long that takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogReading {
    pub from_offset: Offset,
    pub events: u64,
    pub bytes: u64,
    /// Views it is read for: those without state, and those that a monitor to be filled looks at.
    pub views: Vec<String>,
    /// An estimate, from the rate at which the log's first `sampled` records were read.
    pub seconds: f64,
    pub sampled: u64,
}

/// Recorded decisions of one name under one set of definitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordedDecisions {
    pub definitions: String,
    pub decision: String,
    pub count: u64,
    pub replayable: bool,
    pub reason: Option<String>,
}

/// The whole plan of a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangePlan {
    /// Hashes of the definitions as a whole.
    pub from: String,
    pub to: String,
    /// Whether results change; else only what people, the server or the door look at differs, if anything.
    pub changes: bool,
    pub objects: Vec<ObjectChange>,
    /// Differences without effect on results.
    pub beside: Vec<Difference>,
    /// Why this cannot be applied to a running server.
    pub restart: Vec<String>,
    /// None: the log need not be read.
    pub backfill: Option<LogReading>,
    pub decisions: Vec<RecordedDecisions>,
}

/// Records of the log replayed to measure the rate, and the time after which that ends early.
const SAMPLE: u64 = 65_536;
const SAMPLE_TIME: Duration = Duration::from_secs(2);
/// Events of the sampled entities, about.
const SAMPLED_EVENTS: u64 = 500_000;

impl ChangePlan {
    /// The definitions alone, without a log.
    pub fn of(old: &Project, new: &Project) -> ChangePlan {
        let (was, is) = (objects(old), objects(new));
        ChangePlan {
            from: old.plan.hash.clone(),
            to: new.plan.hash.clone(),
            changes: old.plan.hash != new.plan.hash,
            objects: compare(&was, &is),
            beside: beside(old, new),
            restart: needs_restart(old, new),
            backfill: None,
            decisions: Vec::new(),
        }
    }

    /// Adds what the log of a project says to it. With `estimate`, the log is read for the size of states and the time it will take.
    pub fn with_log(
        mut self,
        data: &Data,
        old: &Project,
        new: &Project,
        estimate: bool,
        mut progress: impl FnMut(u64, u64),
    ) -> anyhow::Result<ChangePlan> {
        let (was, is) = (Arc::new(old.plan.clone()), Arc::new(new.plan.clone()));
        let backfill = Backfill::new(Arc::clone(&was), Arc::clone(&is));
        let change = backfill.change();
        let filled: Vec<usize> = (0..is.views.len()).filter(|v| !change.carries_view(*v)).collect();
        let mut sizes = if estimate { state_sizes(data, &is, &filled, &mut progress)? } else { BTreeMap::new() };
        for object in self.objects.iter_mut().filter(|o| o.change != Fate::Dropped) {
            match object.kind {
                Kind::View => {
                    let view = is.view(&object.name);
                    object.backfill = view.map(|v| !change.carries_view(v));
                    object.state = view.and_then(|v| sizes.remove(&v));
                }
                Kind::Monitor => {
                    let monitor = is.monitors.iter().position(|m| m.name == object.name);
                    object.backfill = monitor.map(|m| !change.carries_monitor(m));
                }
                Kind::Model => object.champion = is.model(&object.name).map(|m| champion_fate(data, &was, &is, m)).transpose()?,
                _ => {}
            }
        }
        if change.needs_log() {
            let views = change.filled_views().map(|v| is.views[v].name().to_string()).collect();
            let events = data.events.next_offset() - data.history.start()?;
            let (sampled, seconds) = if estimate { rate(data, backfill)? } else { (0, 0.0) };
            self.backfill = Some(LogReading {
                from_offset: data.history.start()?,
                events,
                bytes: bytes_of(data),
                views,
                seconds: if sampled == 0 { 0.0 } else { seconds / sampled as f64 * events as f64 },
                sampled,
            });
        }
        for (definitions, by_name) in recorded_under(data)? {
            let kept = match definitions == new.plan.hash || definitions == old.plan.hash {
                true => Ok(()),
                false => data.kept_plan(&definitions).map(drop),
            };
            let reason = kept.err().map(|e| e.to_string());
            self.decisions.extend(by_name.into_iter().map(|(decision, count)| RecordedDecisions {
                definitions: definitions.clone(),
                decision,
                count,
                replayable: reason.is_none(),
                reason: reason.clone(),
            }));
        }
        Ok(self)
    }

    /// Whether nothing at all differs.
    pub fn is_empty(&self) -> bool {
        !self.changes && self.beside.is_empty()
    }
}

fn compare(old: &[Object], new: &[Object]) -> Vec<ObjectChange> {
    let find = |of: &[Object], like: &Object| of.iter().find(|o| o.kind == like.kind && o.name == like.name).cloned();
    let mut all: Vec<ObjectChange> = new
        .iter()
        .map(|now| match find(old, now) {
            None => ObjectChange::new(now, Fate::Added, None, Some(&now.hash)),
            Some(was) if was.hash == now.hash => ObjectChange::new(now, Fate::Unchanged, Some(&was.hash), Some(&now.hash)),
            Some(was) => {
                let mut features = compare(&was.features, &now.features);
                features.retain(|f| f.change != Fate::Unchanged);
                let mut found = differences(&was, now);
                if found.is_empty() && features.is_empty() {
                    found.push(Difference { what: "features".into(), old: Some("in another order".into()), new: None });
                }
                let changed = ObjectChange::new(now, Fate::Changed, Some(&was.hash), Some(&now.hash));
                ObjectChange { differences: found, features, ..changed }
            }
        })
        .collect();
    let gone = old.iter().filter(|was| find(new, was).is_none());
    all.extend(gone.map(|was| ObjectChange::new(was, Fate::Dropped, Some(&was.hash), None)));
    all.sort_by_key(|o| o.kind);
    all
}

impl ObjectChange {
    fn new(object: &Object, change: Fate, old: Option<&String>, new: Option<&String>) -> ObjectChange {
        ObjectChange {
            kind: object.kind,
            name: object.name.clone(),
            change,
            old_hash: old.cloned(),
            new_hash: new.cloned(),
            differences: Vec::new(),
            features: Vec::new(),
            backfill: None,
            state: None,
            champion: None,
        }
    }
}

fn champion_fate(data: &Data, old: &Plan, new: &Plan, model: usize) -> anyhow::Result<ChampionFate> {
    let plan = &new.models[model];
    let alias = data.wait(data.metadata.alias(&plan.name, "champion"))?;
    // The registry names the version; it serves now only if it was trained on what the old definitions name.
    let serving = match alias {
        Some(alias) => Some((alias.version, data.version(&plan.name, alias.version)?.meaning)),
        None => None,
    };
    let in_service = |(_, trained_on): &(u32, String)| old.model(&plan.name).is_some_and(|was| meaning(old, was) == *trained_on);
    let serving = serving.filter(in_service);
    let stays = serving.is_some() && old.model(&plan.name).is_some_and(|was| same_inputs(old, was, new, model));
    let fallback = new
        .decisions
        .iter()
        .filter(|d| d.model == Some(model))
        .map(|d| (d.name.clone(), d.fallback.and_then(|f| d.outcomes.get(f).cloned())))
        .collect();
    Ok(ChampionFate { version: serving.map(|(version, _)| version), stays, fallback })
}

fn bytes_of(data: &Data) -> u64 {
    let files = std::fs::read_dir(data.events.dir()).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

/// Reads the first records as the filling will; gives how many and how long it took.
fn rate(data: &Data, mut backfill: Backfill) -> anyhow::Result<(u64, f64)> {
    let start = data.history.start()?;
    let end = data.events.next_offset().min(start + SAMPLE);
    let started = Instant::now();
    backfill.advance(data, end, |_| started.elapsed() < SAMPLE_TIME)?;
    let read = backfill.next_offset().unwrap_or(start) - start;
    Ok((read, started.elapsed().as_secs_f64()))
}

/// Runs the events of one entity in k through each view and multiplies: which entities is a matter of their keys, so a second look says
/// the same.
fn state_sizes(
    data: &Data,
    plan: &Arc<Plan>,
    views: &[usize],
    mut progress: impl FnMut(u64, u64),
) -> anyhow::Result<BTreeMap<usize, StateSize>> {
    let (start, end) = (data.history.start()?, data.events.next_offset());
    if views.is_empty() {
        return Ok(BTreeMap::new());
    }
    let one_in = ((end - start) / SAMPLED_EVENTS).max(1);
    let mut engines: Vec<(usize, Vec<usize>, Engine)> = views
        .iter()
        .map(|&v| {
            let view = &plan.views[v];
            let schema = &plan.sources[usize::from(view.source().0)].schema;
            let key = view.entity().iter().filter_map(|name| schema.index(name)).collect();
            let views = plan.with_needs([v]).into_iter().map(|v| plan.views[v].clone()).collect();
            (v, key, Engine::new(views))
        })
        .collect();
    data.walk(plan, start, end, |offset, record| {
        if let Record::Event(event) = record {
            for (view, key, engine) in &mut engines {
                // A view that reads others needs all of their events; of its own a sample is enough.
                let own = plan.views[*view].source() == event.source;
                let sampled = EntityKey::from_row(&event.row, key).is_some_and(|key| is_sampled(&key, one_in));
                if if own { sampled } else { engine.views()[1..].iter().any(|v| v.source() == event.source) } {
                    engine.update(&event);
                }
            }
        }
        if offset % 8192 == 0 {
            progress(offset - start, end - start);
        }
        Ok(())
    })?;
    Ok(engines
        .into_iter()
        .map(|(view, _, engine)| {
            let stats = engine.stats().into_iter().next().unwrap_or_default();
            let size = StateSize {
                entities: stats.entities as u64 * one_in,
                bytes_per_entity: stats.state_bytes.checked_div(stats.entities).unwrap_or(0) as u64,
                bytes: stats.state_bytes as u64 * one_in,
                one_in,
            };
            (view, size)
        })
        .collect())
}

fn is_sampled(key: &EntityKey, one_in: u64) -> bool {
    // This hasher starts from fixed keys: the same entities every time.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish().is_multiple_of(one_in)
}
