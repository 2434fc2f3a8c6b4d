//! A project's data folder, opened: logs, snapshots, metadata, artifacts, and the walk over the event log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::Context;
use kilter_core::{EventTime, Offset, Stub};
use kilter_pipeline::{Champion, DriftReference, Pipeline, Plan};
use kilter_store::artifacts::{ArtifactHash, Artifacts};
use kilter_store::dead_letter::{DeadLetterOptions, DeadLetters};
use kilter_store::log::{Log, LogOptions};
use kilter_store::metadata::{Metadata, NewModelVersion};
use kilter_store::snapshot::{Snapshot, SnapshotInfo, SnapshotOptions, SnapshotSearch, Snapshots};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::catalog::{Catalog, Control, Decoder, Record};
use crate::door::Door;
use crate::erase;
use crate::history::{History, Records};
use crate::journal::Agreed;
use crate::meaning::meaning;
use crate::project::Project;
use crate::sequencer::Refusal;
use crate::status::lock;
use crate::tiers::Tiers;

/// Bytes of one artifact at most.
const ARTIFACT_LIMIT: u64 = 1 << 30;

/// Where a model version's bytes lie, and what its inputs meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChampionRecord {
    pub version: u32,
    /// Content hashes of the model and of its drift reference.
    pub artifact: String,
    pub reference: String,
    /// [`meaning`] under the definitions it was trained by.
    pub meaning: String,
}

/// Everything a project keeps on disk. One process at a time: the logs are locked.
pub struct Data {
    pub dir: PathBuf,
    /// Offset of the first record that the event log ever had.
    pub first_offset: Offset,
    /// How far the event log has gone out to its journal, where it has one.
    journal: OnceLock<watch::Receiver<Agreed>>,
    pub events: Arc<Log>,
    /// The same records, with those that only the lake has.
    pub history: History,
    pub decisions: Arc<Log>,
    pub dead_letters: Arc<DeadLetters>,
    /// What was turned away, by source and reason.
    pub door: Door,
    pub snapshots: Arc<Snapshots>,
    /// State beyond memory, where the project limits the memory of its state.
    pub(crate) state: Option<Tiers>,
    pub metadata: Metadata,
    pub artifacts: Artifacts,
    pub(crate) catalog: Mutex<Catalog>,
    runtime: Handle,
    /// What opening had to mend, for the log of the program.
    pub repairs: Vec<String>,
}

impl Data {
    /// Opens (and makes, when absent) the data folder of a project.
    pub async fn open(project: &Project) -> anyhow::Result<Data> {
        let dir = project.data_dir();
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let mut repairs = Vec::new();
        let mut open = |name: &str| -> anyhow::Result<Log> {
            let first_offset = if name == "events" { project.first_offset() } else { 0 };
            let options = LogOptions { segment_bytes: project.settings.log.segment_bytes, first_offset, ..LogOptions::default() };
            let (log, recovery) = Log::open(dir.join(name), options)?;
            if let Some(reason) = recovery.truncated_reason {
                repairs.push(format!("{name}: {} bytes of an interrupted write cut off ({reason})", recovery.truncated_bytes));
            }
            Ok(log)
        };
        let events = Arc::new(open("events")?);
        let decisions = Arc::new(open("decisions")?);
        let (dead_letters, recovery) = DeadLetters::open(dir.join("dead-letters"), DeadLetterOptions::default())?;
        if let Some(reason) = recovery.truncated_reason {
            repairs.push(format!("dead-letters: {} bytes of an interrupted write cut off ({reason})", recovery.truncated_bytes));
        }
        let history = History::new(Arc::clone(&events), project);
        // Nothing may be computed of what an interrupted erasure is still to take away.
        repairs.extend(erase::finish(&dir, &history, &decisions, &dead_letters, |_| Ok(())).await?);
        let door = Door::open(&dir.join("counts.ndjson"), &dead_letters)?;
        let snapshots = Arc::new(Snapshots::open(
            dir.join("snapshots"),
            SnapshotOptions { keep: project.settings.snapshot.keep, ..SnapshotOptions::default() },
        )?);
        let state = match project.settings.state_memory {
            Some(memory) => Some(Tiers::open(&dir.join("state"), memory, &mut repairs)?),
            None => {
                // What a store held would be out of date if the limit came back.
                kilter_store::state::remove(&dir.join("state"))?;
                None
            }
        };
        let metadata = Metadata::open(&dir.join("kilter.db")).await?;
        let artifacts = Data::artifacts_in(&dir)?;
        let catalog = Mutex::new(Catalog::open(&dir, events.next_offset() == events.start_offset())?);
        Ok(Data {
            dir,
            first_offset: project.first_offset(),
            journal: OnceLock::new(),
            events,
            history,
            decisions,
            dead_letters: Arc::new(dead_letters),
            door,
            snapshots,
            state,
            metadata,
            artifacts,
            catalog,
            runtime: Handle::current(),
            repairs,
        })
    }

    /// The stored files of a data folder.
    pub fn artifacts_in(dir: &Path) -> anyhow::Result<Artifacts> {
        Ok(Artifacts::open(dir.join("artifacts"), ARTIFACT_LIMIT)?)
    }

    /// The schema numbers of a plan's sources; new ones are durable when this returns.
    pub fn register(&self, plan: &Plan) -> anyhow::Result<Vec<u32>> {
        lock(&self.catalog).register(plan)
    }

    /// The catalog as it lies on disk, once it has more than `known` entries; and how many it has.
    pub fn catalog_beyond(&self, known: usize) -> Option<(usize, Vec<u8>)> {
        lock(&self.catalog).beyond(known)
    }

    pub fn decoder(&self, plan: &Plan) -> Decoder {
        lock(&self.catalog).decoder(plan)
    }

    /// Waits for an answer of the metadata store from a thread that is not one of the runtime's.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs something beside whoever asks.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// The records of the event log from an offset on, those among them that only the lake still has.
    pub fn records(&self, from: Offset) -> Records<'_> {
        self.history.records(from)
    }

    /// Walks the event log in order from `from` up to `until` (exclusive).
    pub fn walk(
        &self,
        plan: &Plan,
        from: Offset,
        until: Offset,
        mut visit: impl FnMut(Offset, Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.walk_while(plan, from, until, |offset, record| visit(offset, record).map(|()| true))
    }

    /// The same, until `visit` says `false`.
    pub fn walk_while(
        &self,
        plan: &Plan,
        from: Offset,
        until: Offset,
        mut visit: impl FnMut(Offset, Record) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let decoder = self.decoder(plan);
        let mut reader = self.records(from.max(self.first_offset));
        while let Some((offset, bytes)) = reader.next_record()? {
            if offset >= until {
                break;
            }
            let record = decoder.decode(offset, bytes).with_context(|| format!("event log, offset {offset}"))?;
            if !visit(offset, record)? {
                break;
            }
        }
        Ok(())
    }

    /// From now on the event log counts as safe as far as `shipped` says, instead of as far as this machine's disk has it.
    pub fn follow_journal(&self, shipped: watch::Receiver<Agreed>) {
        // Set once, by whoever opened the folder.
        let _ = self.journal.set(shipped);
    }

    pub fn has_journal(&self) -> bool {
        self.journal.get().is_some()
    }

    /// Nothing can take back the event log's records before this offset.
    pub fn settled_offset(&self) -> Offset {
        self.journal.get().map_or_else(|| self.events.durable_offset(), |journal| journal.borrow().events)
    }

    /// Returns once nothing can take back the event log's records before `next`: they are in its journal or, without one, durable.
    ///
    /// # Errors
    /// The log cannot be made durable, or its journal has been taken over by another worker.
    pub async fn settled(&self, next: Offset) -> Result<(), Refusal> {
        let Some(journal) = self.journal.get() else {
            return self.events.durable(next).await.map_err(|e| Refusal::from(&e));
        };
        let shipped = journal.clone().wait_for(|shipped| shipped.events >= next).await.map(|_| ());
        shipped.map_err(|_| Refusal::Stopping)
    }

    /// The same of the dead letters before `next`.
    ///
    /// # Errors
    /// As [`Data::settled`].
    pub async fn dead_letters_settled(&self, next: u64) -> Result<(), Refusal> {
        let Some(journal) = self.journal.get() else {
            return self.dead_letters.log().durable(next).await.map_err(|e| Refusal::from(&e));
        };
        let shipped = journal.clone().wait_for(|shipped| shipped.dead_letters >= next).await.map(|_| ());
        shipped.map_err(|_| Refusal::Stopping)
    }

    /// What is left of the event at an offset, if it was erased.
    pub fn erased_event(&self, offset: Offset) -> anyhow::Result<Option<Stub>> {
        Ok(self.history.record(offset)?.map(|bytes| Stub::decode(&bytes)).transpose()?.flatten())
    }

    /// The latest event time in the log, by a walk over the record headers.
    pub fn latest_event_time(&self) -> anyhow::Result<Option<EventTime>> {
        let mut latest = None;
        let mut reader = self.history.all()?;
        while let Some((_, bytes)) = reader.next_record()? {
            if let Some(header) = kilter_core::record::header(bytes)? {
                latest = latest.max(Some(header.time));
            }
        }
        Ok(latest)
    }

    /// Where the bytes of a model version lie, from the registry.
    pub fn version(&self, model: &str, version: u32) -> anyhow::Result<ChampionRecord> {
        let record = self
            .wait(self.metadata.get_version(model, version))?
            .with_context(|| format!("model `{model}` has no version {version} in the registry"))?;
        let text = |key: &str| record.spec.inputs[key].as_str().unwrap_or_default().to_string();
        Ok(ChampionRecord { version, artifact: record.spec.artifact, reference: text("reference"), meaning: text("meaning") })
    }

    /// A model version as the pipeline runs it; none when it was trained on other inputs than the definitions name today, on inputs
    /// that meant something else, or to predict something else.
    pub fn champion(&self, plan: &Plan, model: usize, record: &ChampionRecord) -> anyhow::Result<Option<Champion>> {
        let model_plan = &plan.models[model];
        let loaded = kilter_learn::load(&self.artifact(&record.artifact)?)
            .with_context(|| format!("model `{}` version {}", model_plan.name, record.version))?;
        let serves = model_plan.task().suits(loaded.as_ref());
        if !serves || loaded.inputs() != model_plan.input_names() || record.meaning != meaning(plan, model) {
            return Ok(None);
        }
        let reference: DriftReference = serde_json::from_slice(&self.artifact(&record.reference)?)?;
        Ok(Some(Champion { version: record.version, model: loaded.into(), reference: Arc::new(reference) }))
    }

    /// A stored file by the hash of its content.
    pub fn artifact(&self, hash: &str) -> anyhow::Result<Vec<u8>> {
        let parsed = ArtifactHash::try_from(hash.to_string()).map_err(|e| anyhow::anyhow!("artifact `{hash}`: {e}"))?;
        Ok(self.artifacts.get(&parsed)?)
    }

    /// Registers the version that a record of the log speaks of, where the registry does not know it: the record came from another worker.
    pub(crate) fn keep_version(&self, control: &Control, now: EventTime) -> anyhow::Result<()> {
        let Control::Champion { model, version, artifact, reference, meaning } = control else { return Ok(()) };
        if self.wait(self.metadata.get_version(model, *version))?.is_some_and(|known| known.spec.artifact == *artifact) {
            return Ok(());
        }
        let spec = NewModelVersion {
            model: model.clone(),
            created_at: now.0,
            artifact: artifact.clone(),
            kind: kilter_learn::load(&self.artifact(artifact)?)?.kind().to_owned(),
            inputs: serde_json::json!({ "reference": reference, "meaning": meaning }),
            notes: "as the log has it".into(),
            ..NewModelVersion::default()
        };
        Ok(self.wait(self.metadata.restore_version(*version, &spec))?)
    }

    /// Applies one record of the event log other than an event.
    ///
    /// A version whose inputs are not today's is left out of service with a warning; one that cannot be read is an error: deciding on
    /// without it would write down decisions that no replay could repeat.
    pub fn control(&self, pipeline: &mut Pipeline, offset: Offset, control: &Control) -> anyhow::Result<()> {
        if let Control::Champion { model, version, artifact, reference, meaning } = control
            && let Some(index) = pipeline.plan().model(model)
        {
            let record =
                ChampionRecord { version: *version, artifact: artifact.clone(), reference: reference.clone(), meaning: meaning.clone() };
            match self.champion(&Arc::clone(pipeline.plan()), index, &record)? {
                Some(champion) => {
                    pipeline.set_champion(index, champion);
                }
                None => {
                    let why = "trained on other inputs than today's, or to predict something else";
                    tracing::warn!(model, version, "{why}: left out of service, train again");
                }
            }
        }
        pipeline.skip(offset);
        Ok(())
    }

    /// The state at the end of the newest usable snapshot at or before `offset`, or the empty state at offset 0. Without a snapshot of
    /// these definitions, one of others serves as far as they agree.
    pub fn newest_state(&self, plan: &Arc<Plan>, offset: Offset) -> anyhow::Result<Pipeline> {
        self.restore(plan, self.snapshots.newest(offset, &plan.hash)?, |s| s.offset <= offset)
    }

    /// The same for the newest snapshot whose event time is not after `time`.
    pub fn state_before(&self, plan: &Arc<Plan>, time: EventTime) -> anyhow::Result<Pipeline> {
        self.restore(plan, self.snapshots.newest_before_time(time.0, &plan.hash)?, |s| s.event_time <= time.0)
    }

    fn restore(&self, plan: &Arc<Plan>, found: SnapshotSearch, fits: impl Fn(&SnapshotInfo) -> bool) -> anyhow::Result<Pipeline> {
        let state = match self.restored(plan, found) {
            Some(state) => Some(state),
            None => self.state_of_others(plan, fits)?,
        };
        Ok(state.unwrap_or_else(|| self.empty_state(plan)))
    }

    /// The state before the first record.
    pub(crate) fn empty_state(&self, plan: &Arc<Plan>) -> Pipeline {
        let mut pipeline = Pipeline::new(Arc::clone(plan));
        pipeline.begin_at(self.first_offset);
        pipeline
    }

    /// The state that the live stream goes on from: with a limit of memory that of the store, else as [`Data::newest_state`].
    pub(crate) fn live_state(&self, plan: &Arc<Plan>, offset: Offset) -> anyhow::Result<Pipeline> {
        let Some(tiers) = &self.state else { return self.newest_state(plan, offset) };
        let found = tiers.head()?.filter(|head| head.definition_hash == plan.hash && head.offset <= offset);
        let resumed = found.and_then(|head| {
            let resumed = Pipeline::resume(Arc::clone(plan), &head.bytes, |model, version| self.champion_of(plan, model, version));
            resumed.inspect_err(|e| tracing::warn!(offset = head.offset, error = %e, "the stored state is passed over")).ok()
        });
        let mut pipeline = match resumed {
            Some(pipeline) => pipeline,
            None => {
                tiers.clear()?;
                self.newest_state(plan, offset)?
            }
        };
        tiers.attach(&mut pipeline)?;
        Ok(pipeline)
    }

    /// Where a start begins to read the log.
    pub(crate) fn recovers_from(&self) -> anyhow::Result<Offset> {
        if let Some(tiers) = &self.state {
            return Ok(tiers.head()?.map_or(0, |head| head.offset));
        }
        Ok(self.snapshots.list()?.iter().map(|s| s.offset).max().unwrap_or(0))
    }

    fn champion_of(&self, plan: &Plan, model: usize, version: u32) -> Result<Champion, String> {
        let record = self.version(&plan.models[model].name, version).map_err(|e| format!("{e:#}"))?;
        let champion = self.champion(plan, model, &record).map_err(|e| format!("{e:#}"))?;
        champion.ok_or_else(|| format!("version {version} was trained on other inputs, or to predict something else"))
    }

    /// A snapshot taken up; none: there is none, or it cannot be used.
    pub(crate) fn restored(&self, plan: &Arc<Plan>, found: SnapshotSearch) -> Option<Pipeline> {
        for (path, reason) in &found.skipped {
            tracing::warn!(snapshot = %path.display(), reason, "damaged snapshot passed over");
        }
        let snapshot: Snapshot = found.snapshot?;
        let restored = Pipeline::restore(Arc::clone(plan), &snapshot.bytes, |model, version| self.champion_of(plan, model, version));
        restored.inspect_err(|e| tracing::warn!(offset = snapshot.offset, error = %e, "snapshot passed over")).ok()
    }

    /// Keeps the definitions beside the data they are going to shape, so that an old decision can be replayed under the rules of its day.
    pub fn keep_definitions(&self, project: &Project) -> anyhow::Result<()> {
        let folder = self.dir.join("definitions");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.toml", project.plan.hash));
        if !path.exists() {
            let new = path.with_extension("new");
            let mut file = std::fs::File::create(&new)?;
            file.write_all(project.toml_text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(new, path)?;
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// The text of the definitions with this hash, if this data folder has run under them.
    pub fn definitions(&self, hash: &str) -> Option<String> {
        let safe = hash.chars().all(|c| c.is_ascii_hexdigit());
        safe.then(|| std::fs::read_to_string(self.dir.join("definitions").join(format!("{hash}.toml"))).ok()).flatten()
    }
}
