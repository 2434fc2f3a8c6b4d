//! A project's data folder, opened: logs, snapshots, metadata, artifacts, and the walk over the event log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use kilter_core::{EventTime, Offset};
use kilter_pipeline::{Champion, DriftReference, Pipeline, Plan};
use kilter_store::artifacts::{ArtifactHash, Artifacts};
use kilter_store::dead_letter::{DeadLetterOptions, DeadLetters};
use kilter_store::log::{Log, LogOptions};
use kilter_store::metadata::Metadata;
use kilter_store::snapshot::{Snapshot, SnapshotOptions, SnapshotSearch, Snapshots};
use tokio::runtime::Handle;

use crate::catalog::{Catalog, Control, Decoder, Record};
use crate::project::Project;
use crate::status::lock;

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

/// A hash of everything that says what a model's inputs are: their expressions, and the views and columns behind them.
pub fn meaning(plan: &Plan, model: usize) -> String {
    let model = &plan.models[model];
    let source = &plan.sources[model.context.source.0 as usize];
    let mut text = format!("{} {:?} self {}", source.name, source.schema, model.include_self);
    for input in &model.inputs {
        text.push_str(&format!("\ninput {} = {}", input.name, input.text));
    }
    for lookup in &model.context.lookups {
        let view = &plan.views[lookup.view];
        // Only features that an input reads say something of the model.
        let used = |slot: usize| model.inputs.iter().any(|i| i.expr.slots().contains(&slot));
        let features = view.features().iter().enumerate().filter(|(i, _)| used(lookup.first_slot + i));
        for (_, f) in features {
            let of = &plan.sources[view.source().0 as usize];
            text.push_str(&format!(
                "\nview {} of {} by {:?} at {:?} where {:?}: {} {} {:?} {:?} {:?}",
                view.name(),
                of.name,
                view.entity(),
                lookup.key,
                view.filter(),
                f.name,
                f.text,
                f.window,
                f.hop,
                f.default
            ));
        }
    }
    blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
}

/// Everything a project keeps on disk. One process at a time: the logs are locked.
pub struct Data {
    pub dir: PathBuf,
    pub events: Arc<Log>,
    pub decisions: Arc<Log>,
    pub dead_letters: Arc<DeadLetters>,
    pub snapshots: Arc<Snapshots>,
    pub metadata: Metadata,
    pub artifacts: Artifacts,
    catalog: Mutex<Catalog>,
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
            let options = LogOptions { segment_bytes: project.settings.log.segment_bytes, ..LogOptions::default() };
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
        let snapshots = Arc::new(Snapshots::open(
            dir.join("snapshots"),
            SnapshotOptions { keep: project.settings.snapshot.keep, ..SnapshotOptions::default() },
        )?);
        let metadata = Metadata::open(&dir.join("kilter.db")).await?;
        let artifacts = Artifacts::open(dir.join("artifacts"), ARTIFACT_LIMIT)?;
        let catalog = Mutex::new(Catalog::open(&dir, events.next_offset() == 0)?);
        keep_definitions(&dir, project)?;
        Ok(Data {
            dir,
            events,
            decisions,
            dead_letters: Arc::new(dead_letters),
            snapshots,
            metadata,
            artifacts,
            catalog,
            runtime: Handle::current(),
            repairs,
        })
    }

    /// The schema numbers of a plan's sources; new ones are durable when this returns.
    pub fn register(&self, plan: &Plan) -> anyhow::Result<Vec<u32>> {
        lock(&self.catalog).register(plan)
    }

    pub fn decoder(&self, plan: &Plan) -> Decoder {
        lock(&self.catalog).decoder(plan)
    }

    /// Waits for an answer of the metadata store from a thread that is not one of the runtime's.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Walks the event log in order from `from` up to `until` (exclusive).
    pub fn walk(
        &self,
        plan: &Plan,
        from: Offset,
        until: Offset,
        mut visit: impl FnMut(Offset, Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let decoder = self.decoder(plan);
        let mut reader = self.events.reader(from);
        while let Some((offset, bytes)) = reader.next_record()? {
            if offset >= until {
                break;
            }
            let record = decoder.decode(offset, bytes).with_context(|| format!("event log, offset {offset}"))?;
            visit(offset, record)?;
        }
        Ok(())
    }

    /// The latest event time in the log, by a walk over the record headers.
    pub fn latest_event_time(&self) -> anyhow::Result<Option<EventTime>> {
        let mut latest = None;
        let mut reader = self.events.reader(self.events.start_offset());
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

    /// A model version as the pipeline runs it; none when it was trained on other inputs than the definitions name today, or on inputs
    /// that meant something else.
    pub fn champion(&self, plan: &Plan, model: usize, record: &ChampionRecord) -> anyhow::Result<Option<Champion>> {
        let model_plan = &plan.models[model];
        let loaded = kilter_learn::load(&self.artifact(&record.artifact)?)
            .with_context(|| format!("model `{}` version {}", model_plan.name, record.version))?;
        if loaded.inputs() != model_plan.input_names() || record.meaning != meaning(plan, model) {
            return Ok(None);
        }
        let reference: DriftReference = serde_json::from_slice(&self.artifact(&record.reference)?)?;
        Ok(Some(Champion { version: record.version, model: loaded.into(), reference: Arc::new(reference) }))
    }

    fn artifact(&self, hash: &str) -> anyhow::Result<Vec<u8>> {
        let parsed = ArtifactHash::try_from(hash.to_string()).map_err(|e| anyhow::anyhow!("artifact `{hash}`: {e}"))?;
        Ok(self.artifacts.get(&parsed)?)
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
                None => tracing::warn!(model, version, "trained on other inputs than today's: left out of service, train again"),
            }
        }
        pipeline.skip(offset);
        Ok(())
    }

    /// The state at the end of the newest usable snapshot at or before `offset`, or the empty state at offset 0.
    pub fn newest_state(&self, plan: &Arc<Plan>, offset: Offset) -> anyhow::Result<Pipeline> {
        self.restore(plan, self.snapshots.newest(offset, &plan.hash)?)
    }

    /// The same for the newest snapshot whose event time is not after `time`.
    pub fn state_before(&self, plan: &Arc<Plan>, time: EventTime) -> anyhow::Result<Pipeline> {
        self.restore(plan, self.snapshots.newest_before_time(time.0, &plan.hash)?)
    }

    fn restore(&self, plan: &Arc<Plan>, found: SnapshotSearch) -> anyhow::Result<Pipeline> {
        for (path, reason) in &found.skipped {
            tracing::warn!(snapshot = %path.display(), reason, "damaged snapshot passed over");
        }
        let Some(snapshot): Option<Snapshot> = found.snapshot else { return Ok(Pipeline::new(Arc::clone(plan))) };
        let restored = Pipeline::restore(Arc::clone(plan), &snapshot.bytes, |model, version| {
            let record = self.version(&plan.models[model].name, version).map_err(|e| format!("{e:#}"))?;
            let champion = self.champion(plan, model, &record).map_err(|e| format!("{e:#}"))?;
            champion.ok_or_else(|| format!("version {version} was trained on other inputs"))
        });
        match restored {
            Ok(pipeline) => Ok(pipeline),
            Err(e) => {
                tracing::warn!(offset = snapshot.offset, error = %e, "snapshot passed over; the log is read from its start");
                Ok(Pipeline::new(Arc::clone(plan)))
            }
        }
    }

    /// The text of the definitions with this hash, if this data folder has run under them.
    pub fn definitions(&self, hash: &str) -> Option<String> {
        let safe = hash.chars().all(|c| c.is_ascii_hexdigit());
        safe.then(|| std::fs::read_to_string(self.dir.join("definitions").join(format!("{hash}.toml"))).ok()).flatten()
    }
}

/// Keeps the definitions beside the data they shaped, so that an old decision can be replayed under the rules of its day.
fn keep_definitions(dir: &Path, project: &Project) -> anyhow::Result<()> {
    let folder = dir.join("definitions");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.toml", project.plan.hash));
    if !path.exists() {
        let new = path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(project.toml_text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(new, path)?;
    }
    Ok(())
}
