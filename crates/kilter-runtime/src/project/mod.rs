//! A project: a folder with `kilter.toml`, read, checked and resolved into a [`Plan`].
//!
//! ```text
//! text -> document (TOML with the place of every key and value)
//!      -> definitions (typed, defaults filled in, names still names)
//!      -> plan (names turned into positions, texts compiled)
//! ```
//! Every step collects its complaints instead of stopping, so one reading shows everything that is wrong.

mod calibration;
mod definitions;
mod document;
mod graph;
mod hash;
mod kafka;
mod lake;
mod lineage;
mod objects;
mod params;
mod partition;
mod policy;
mod read;
mod reader;
mod report;
mod resolve;
mod search;
mod templates;
mod watch;
mod workers;

use std::path::{Path, PathBuf};

use kilter_connect::RowFormat;
use kilter_core::{Offset, Problem, SourceId, Span};
use kilter_pipeline::Plan;

pub use definitions::*;
pub use graph::graph;
pub use kafka::{Delivery, Feed, KafkaDef, RegistryDef, SinkDef, Start, filled};
pub use lake::{LakeDef, LakeFormat};
pub use lineage::{PersonalData, described, personal_column};
pub use objects::{Difference, Kind, Object, beside, differences, objects};
pub use partition::key_text;
pub use policy::{as_toml, with_policy};
pub use report::{Diagnostic, Report, Severity};
pub use resolve::{SourceSettings, SourceTime};
pub(crate) use resolve::{named, reference};
pub use templates::{NewProjectError, TEMPLATES, Template, new_project};
pub use watch::{WatchKind, WatchPlan};
pub use workers::{Partitioner, Shard, WorkersDef};

use document::{At, Document};

/// The name of the definitions file in a project's folder.
pub const FILE_NAME: &str = "kilter.toml";

/// A project whose definitions hold.
#[derive(Clone, Debug)]
pub struct Project {
    pub dir: PathBuf,
    /// The part of it that this process's log holds; none: all of it.
    pub shard: Option<Shard>,
    /// What the file says, with defaults filled in.
    pub definitions: Definitions,
    /// What the pipeline runs.
    pub plan: Plan,
    /// What the process around the pipeline needs.
    pub settings: Settings,
    /// Position = [`SourceId`].
    pub source_settings: Vec<SourceSettings>,
    /// Monitors of the machinery.
    pub watches: Vec<WatchPlan>,
    pub toml_text: String,
    /// Worth a look, but nothing that keeps the project from running.
    pub warnings: Vec<Diagnostic>,
}

/// Server, log and snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub server: ServerSettings,
    pub log: LogSettings,
    pub snapshot: SnapshotSettings,
    /// Bytes of memory that the state of the features may take, about; none: as many as it needs.
    pub state_memory: Option<u64>,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub listen: String,
    pub max_body_bytes: usize,
    /// Most records that a read of the past as it was seen runs through.
    pub past_records: u64,
}

/// The event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub segment_bytes: u64,
    /// Log files may go when their records arrived longer ago than this and are in the lake.
    pub retention: Option<Span>,
}

/// When snapshots are taken and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    pub every: Span,
    pub min_events: u64,
    pub keep: usize,
}

impl Project {
    /// Hash of the definitions that influence results.
    pub fn hash(&self) -> &str {
        &self.plan.hash
    }

    /// The folder of log, snapshots and registry.
    pub fn data_dir(&self) -> PathBuf {
        match &self.shard {
            Some(shard) => shard.data.clone(),
            None => self.dir.join(&self.definitions.server.data),
        }
    }

    /// Offset of the first record that its log ever had.
    pub fn first_offset(&self) -> Offset {
        self.shard.as_ref().map_or(0, Shard::first_offset)
    }

    /// How the rows of a source are read at the door; none: there is no such source.
    pub fn row_format(&self, source: SourceId) -> Option<RowFormat> {
        let position = usize::from(source.0);
        Some(self.source_settings.get(position)?.row_format(&self.plan.sources.get(position)?.schema))
    }

    /// The row formats of all sources; position = [`SourceId`].
    pub fn row_formats(&self) -> Vec<RowFormat> {
        self.source_settings.iter().zip(&self.plan.sources).map(|(settings, plan)| settings.row_format(&plan.schema)).collect()
    }

    /// Where the file of a source lies; none: the source does not read one.
    pub fn source_file(&self, source: SourceId) -> Option<PathBuf> {
        self.source_settings.get(usize::from(source.0))?.path.as_ref().map(|path| self.dir.join(path))
    }

    /// Reads a source from another file, whose extension tells its format.
    pub fn set_source_file(&mut self, source: SourceId, path: PathBuf) {
        if let Some(settings) = self.source_settings.get_mut(usize::from(source.0)) {
            settings.format = path.to_str().and_then(FileFormat::of_path).or(settings.format);
            settings.path = Some(path);
        }
    }
}

/// Reads the project in a folder.
pub fn load(dir: &Path) -> Result<Project, Report> {
    let path = dir.join(FILE_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => check_text(&text, FILE_NAME, dir),
        Err(e) => {
            let file = path.display().to_string();
            let (message, hint) = match e.kind() {
                std::io::ErrorKind::NotFound => (
                    format!("there is no {FILE_NAME} in {}", shown(dir)),
                    "go to the folder of the project, or make a new one with `kilter new NAME`".to_owned(),
                ),
                std::io::ErrorKind::InvalidData => (format!("{FILE_NAME} is not UTF-8 text"), "save it as UTF-8".to_owned()),
                _ => (format!("{FILE_NAME} cannot be read: {e}"), "check that the file is there and that you may read it".to_owned()),
            };
            Err(Report {
                problems: vec![Diagnostic {
                    severity: Severity::Error,
                    code: "unreadable",
                    message,
                    hint: Some(hint),
                    file,
                    line: 0,
                    column: 0,
                    length: 0,
                    excerpt: String::new(),
                }],
            })
        }
    }
}

fn shown(dir: &Path) -> String {
    if dir.as_os_str().is_empty() || dir == Path::new(".") { "this folder".to_owned() } else { dir.display().to_string() }
}

/// Reads definitions from a text: of the project in `dir`, under the name `file_name` in complaints.
pub fn check_text(text: &str, file_name: &str, dir: &Path) -> Result<Project, Report> {
    let (document, table) = Document::parse(text, file_name)?;
    let reading = read::read(&document, table.get_ref());
    let hash = hash::of(&reading.definitions);
    let resolved = resolve::resolve(&document, &reading, hash);
    let idle_after: Vec<_> = resolved.source_settings.iter().map(|s| s.idle_after).collect();
    // Where sources are broken already, to miss one here would be an echo.
    let watches = match document.has_errors() {
        true => Vec::new(),
        false => watch::resolve(&document, &reading.definitions.watch, &resolved.plan, &idle_after),
    };
    kafka::check(&document, &reading.definitions);
    workers::check(&document, &reading.definitions, &resolved.plan);
    lake::check(&document, &reading.definitions);
    warn_of_missing_files(&document, &reading.definitions, dir);
    warn_of_little_memory(&document, &reading.definitions);
    if document.has_errors() {
        return Err(document.report());
    }
    let definitions = reading.definitions;
    Ok(Project {
        dir: dir.to_owned(),
        shard: None,
        settings: settings(&definitions),
        definitions,
        plan: resolved.plan,
        source_settings: resolved.source_settings,
        watches,
        toml_text: text.to_owned(),
        warnings: document.report().problems,
    })
}

fn settings(definitions: &Definitions) -> Settings {
    Settings {
        server: ServerSettings {
            listen: definitions.server.listen.clone(),
            max_body_bytes: usize::try_from(definitions.server.max_body.0).unwrap_or(usize::MAX),
            past_records: definitions.server.past_records,
        },
        log: LogSettings { segment_bytes: definitions.log.segment.0, retention: definitions.log.retention },
        snapshot: SnapshotSettings {
            every: definitions.snapshot.every,
            min_events: definitions.snapshot.min_events,
            keep: definitions.snapshot.keep as usize,
        },
        state_memory: definitions.state.memory.map(|size| size.0),
    }
}

/// A file may come later, so its absence is no mistake of the definitions.
fn warn_of_missing_files(document: &Document<'_>, definitions: &Definitions, dir: &Path) {
    for (name, source) in definitions.source.iter() {
        if let Some(path) = source.path.as_ref().filter(|path| source.connector == Connector::File && !dir.join(path).exists()) {
            let problem = Problem::new("missing_file", format!("source \"{name}\" reads \"{path}\", which is not there"));
            let hint = "paths are relative to the project's folder";
            document.warning(At::Value(&format!("source.{name}.path")), problem.hint(hint));
        }
    }
}

/// Below this the store's own tables take more than the entities.
const LEAST_MEMORY: Size = Size(32 << 20);

fn warn_of_little_memory(document: &Document<'_>, definitions: &Definitions) {
    if definitions.state.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        let problem = Problem::new("little_memory", "so little memory for the state makes every event wait for the disk");
        let hint = "give it 32MiB or more, or leave it out to keep all state in memory";
        document.warning(At::Value("state.memory"), problem.hint(hint));
    }
}

/// The JSON schema of `kilter.toml`, for editors.
pub fn json_schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Definitions>().to_value()
}
