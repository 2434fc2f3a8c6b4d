//! From TOML to definitions: every section, key by key. Names are not looked up yet.
//!
//! After a complaint about a value the reading goes on with what was likely meant, or with the default, for one mistake not to hide another.
//! Only what cannot be guessed at makes a section unusable.

use std::collections::BTreeSet;

use kilter_core::{DataType, Problem, Span, nearest};
use toml::de::{DeTable, DeValue};

use super::definitions::*;
use super::document::{At, Document, join};
use super::reader::Reader;
use super::{kafka, lake, watch, workers};

/// What could be read, and the names of what could not: complaints about those would be echoes.
pub(super) struct Reading {
    pub definitions: Definitions,
    pub broken_sources: BTreeSet<String>,
    pub broken_views: BTreeSet<String>,
    pub broken_models: BTreeSet<String>,
}

pub(super) fn read<'d>(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Reading {
    let mut root = Reader::new(document, "", "the project", table);
    let project = root.table("project", "[project]").and_then(read_project);
    if !root.has("project") {
        let problem = Problem::new("missing", "the file has no section [project]");
        document.error(At::File, problem.hint("begin it with [project] and `name = \"my-project\"`"));
    }
    let server = root.table("server", "[server]").and_then(read_server).unwrap_or_default();
    let log = root.table("log", "[log]").and_then(read_log).unwrap_or_default();
    let snapshot = root.table("snapshot", "[snapshot]").and_then(read_snapshot).unwrap_or_default();
    let state = root.table("state", "[state]").and_then(read_state).unwrap_or_default();
    let lake = root.table("lake", "[lake]").and_then(lake::read_lake);
    let kafka = root.table("kafka", "[kafka]").and_then(kafka::read_kafka);
    let workers = root.table("workers", "[workers]").and_then(workers::read);
    let (source, broken_sources) = section(&mut root, "source", "source", read_source);
    let (features, broken_views) = section(&mut root, "features", "feature view", read_features);
    let (service, _) = section(&mut root, "service", "service", read_service);
    let (model, broken_models) = section(&mut root, "model", "model", read_model);
    let (decision, _) = section(&mut root, "decision", "decision", read_decision);
    let (sink, _) = section(&mut root, "sink", "sink", kafka::read_sink);
    let (schedule, _) = section(&mut root, "schedule", "schedule", read_schedule);
    let (monitors, _) = section(&mut root, "monitor", "monitor", |t| watch::read(t, read_monitor));
    let (monitor, watch) = watch::apart(monitors);
    root.finish();
    // Without a project there is an error, so the stand-in is never seen.
    let project = project.unwrap_or(ProjectDef { name: String::new(), clock: defaults::clock() });
    let definitions = Definitions {
        project,
        server,
        log,
        snapshot,
        state,
        lake,
        kafka,
        workers,
        source,
        features,
        service,
        model,
        decision,
        sink,
        schedule,
        monitor,
        watch,
    };
    Reading { definitions, broken_sources, broken_views, broken_models }
}

/// The named tables of a section, and the names of those that cannot be used.
fn section<'d, T>(
    root: &mut Reader<'d>,
    key: &'static str,
    what: &str,
    read: impl Fn(Reader<'d>) -> Option<T>,
) -> (Named<T>, BTreeSet<String>) {
    let mut sound = Vec::new();
    let mut broken = BTreeSet::new();
    for (name, value) in root.named(key) {
        let path = join(key, name);
        if !is_name(name) {
            root.document.error(At::Key(&path), bad_name(what, name));
            broken.insert(name.to_owned());
        }
        let DeValue::Table(table) = value else {
            let problem = Problem::new("wrong_type", format!("`{path}` must be a table"));
            root.document.error(At::Value(&path), problem.hint(format!("a {what} has a name: write [{key}.NAME]")));
            broken.insert(name.to_owned());
            continue;
        };
        match read(Reader::new(root.document, &path, format!("{what} \"{name}\""), table)) {
            Some(item) => sound.push((name.to_owned(), item)),
            None => {
                broken.insert(name.to_owned());
            }
        }
    }
    (Named(sound), broken)
}

/// Names of sources, views, models and the like: they stand in expressions, URLs and SQL.
fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Names of columns: as other people's systems write them.
fn is_column_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn bad_name(what: &str, name: &str) -> Problem {
    let mut mended: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).take(64).collect();
    if !mended.starts_with(|c: char| c.is_ascii_lowercase()) {
        mended.insert_str(0, "a_");
    }
    Problem::new("bad_name", format!("`{name}` cannot name a {what}"))
        .hint(format!("lower-case letters, digits and `_`, a letter first: `{mended}`"))
}

fn check_column_name(reader: &mut Reader<'_>, key: &str, name: &str) -> bool {
    if is_column_name(name) {
        return true;
    }
    let problem = Problem::new("bad_name", format!("`{name}` cannot name a column"));
    let path = reader.at(&format!("{key}.{name}"));
    reader.document.error(At::Key(&path), problem.hint("letters, digits and `_`, no digit first"));
    false
}

fn read_project(mut t: Reader<'_>) -> Option<ProjectDef> {
    t.require("name", "write `name = \"my-project\"`");
    let name = t.text("name");
    if let Some(name) = &name {
        let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        if !fits {
            let problem = Problem::new("bad_name", format!("`{name}` cannot name a project"));
            t.wrong("name", problem.hint("lower-case letters, digits, `-` and `_`, a letter first: \"credit-risk\""));
        }
    }
    let clock = t.word("clock").unwrap_or_else(defaults::clock);
    t.finish();
    Some(ProjectDef { name: name?, clock })
}

fn read_server(mut t: Reader<'_>) -> Option<ServerDef> {
    let listen = t.text("listen").unwrap_or_else(defaults::listen);
    if listen.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        let problem = Problem::new("bad_address", format!("\"{listen}\" is not an address with a port"));
        t.wrong("listen", problem.hint("such as \"127.0.0.1:8080\", or \"0.0.0.0:8080\" to be reached from other machines"));
    }
    let max_body = t.size("max_body").unwrap_or_else(defaults::max_body);
    let data = t.text("data").unwrap_or_else(defaults::data);
    let past_records = t.integer("past_records", 1, i64::MAX).map_or_else(defaults::past_records, |n| n as u64);
    t.finish();
    Some(ServerDef { listen, max_body, data, past_records })
}

fn read_log(mut t: Reader<'_>) -> Option<LogDef> {
    let segment = t.size("segment").unwrap_or_else(defaults::segment);
    if segment.0 < 1 << 20 {
        let problem = Problem::new("out_of_range", format!("a log segment of {segment} is too small"));
        t.wrong("segment", problem.hint("at least \"1MiB\"; the usual size is \"256MiB\""));
    }
    let retention = t.span("retention");
    t.finish();
    Some(LogDef { segment, retention })
}

fn read_snapshot(mut t: Reader<'_>) -> Option<SnapshotDef> {
    let every = t.span("every").unwrap_or_else(defaults::snapshot_every);
    let min_events = t.integer("min_events", 1, i64::MAX).map_or_else(defaults::snapshot_min_events, |n| n as u64);
    let keep = t.integer("keep", 1, 1000).map_or_else(defaults::snapshot_keep, |n| n as u32);
    t.finish();
    Some(SnapshotDef { every, min_events, keep })
}

fn read_state(mut t: Reader<'_>) -> Option<StateDef> {
    let memory = t.size("memory");
    t.finish();
    Some(StateDef { memory })
}

fn read_source(mut t: Reader<'_>) -> Option<SourceDef> {
    let connector = t.word("connector");
    let path = t.text("path");
    let format = match connector {
        Some(Connector::Kafka) => t.word("format").map(SourceFormat::Topic),
        _ => t.word("format").map(SourceFormat::File),
    };
    if connector == Some(Connector::File) {
        t.require("path", "the file to read, relative to the project's folder: `path = \"data/events.parquet\"`");
        let by_extension = path.as_deref().and_then(FileFormat::of_path);
        if let (Some(path), None, false) = (&path, by_extension, t.has("format")) {
            let problem = Problem::new("missing", format!("the name \"{path}\" does not tell the form of the file"));
            t.wrong("path", problem.hint("add `format = \"parquet\"`, \"csv\", \"ndjson\" or \"json\""));
        }
    } else if connector.is_some() || !t.has("connector") {
        let format_too = (connector != Some(Connector::Kafka)).then_some("format");
        for key in ["path"].into_iter().chain(format_too) {
            if t.has(key) {
                let problem = Problem::new("misplaced", format!("`{key}` is for the connector \"file\""));
                t.document.error(At::Key(&t.at(key)), problem.hint("add `connector = \"file\"`, or leave it out"));
            }
        }
    }
    let knows_connector = connector.is_some() || !t.has("connector");
    let topic_format = format.and_then(SourceFormat::topic).unwrap_or_default();
    let kafka::Topic { topic, start, partition_by, schema, message } = kafka::read_topic(&mut t, connector, knows_connector, topic_format);
    t.require("time", "the column that holds the event's time: `time = \"booked_at\"`; or \"arrival\"");
    let time = t.text("time");
    let id = t.text("id");
    let file_format = format.and_then(SourceFormat::file).or_else(|| path.as_deref().and_then(FileFormat::of_path));
    let changes = read_changes(&mut t, connector, file_format);
    t.require("columns", "name and type of each: `columns = { account_id = \"int64\", booked_at = \"timestamp\" }`");
    let columns = read_columns(&mut t);
    let lateness = t.span("lateness").unwrap_or_else(defaults::lateness);
    let dedupe = t.span("dedupe").unwrap_or_else(defaults::dedupe);
    let max_future = t.span_or_none("max_future").unwrap_or_else(defaults::max_future);
    let idle_after = t.span_or_none("idle_after").unwrap_or_else(defaults::idle_after);
    let unknown = t.word("unknown").unwrap_or_else(defaults::unknown);
    let (owner, description) = (t.text("owner"), t.text("description"));
    t.finish();
    let connector = connector.unwrap_or_else(defaults::connector);
    let format = match connector {
        Connector::Http => None,
        Connector::File => file_format.map(SourceFormat::File),
        Connector::Kafka => format,
    };
    Some(SourceDef {
        connector,
        path,
        format,
        topic,
        schema,
        message,
        start,
        partition_by,
        time: time?,
        id,
        key: changes.key,
        operation: changes.operation,
        envelope: changes.envelope,
        columns: columns?,
        lateness,
        dedupe,
        max_future,
        idle_after,
        unknown,
        owner,
        description,
    })
}

/// What makes of a source the changes of a table.
#[derive(Default)]
struct Changes {
    key: Vec<String>,
    operation: Option<String>,
    envelope: Option<Envelope>,
}

fn read_changes(t: &mut Reader<'_>, connector: Option<Connector>, format: Option<FileFormat>) -> Changes {
    let has_key = t.has("key");
    let key = t.one_or_more("key").unwrap_or_default();
    let operation = t.text("operation");
    let envelope = t.word("envelope");
    for name in ["operation", "envelope"] {
        if t.has(name) && !has_key {
            let problem = Problem::new("missing", format!("`{name}` is about the rows of a table, and no `key` says what names a row"));
            t.document.error(At::Key(&t.at(name)), problem.hint("add the primary key: `key = \"account_id\"`, or a list of columns"));
            return Changes { key, ..Changes::default() };
        }
    }
    if t.has("operation") && t.has("envelope") {
        let problem = Problem::new("misplaced", "the envelope says itself what happened to a row");
        t.document.error(At::Key(&t.at("operation")), problem.hint("leave `operation` out, or `envelope` where the rows come flat"));
        return Changes { key, operation: None, envelope };
    }
    if envelope.is_some() && connector == Some(Connector::File) && matches!(format, Some(FileFormat::Csv | FileFormat::Parquet)) {
        let problem = Problem::new("misplaced", "an envelope is JSON, and the file is not");
        let hint = "write the messages as NDJSON; of a table of flat rows name the `operation` instead";
        t.document.error(At::Value(&t.at("envelope")), problem.hint(hint));
    }
    Changes { key, operation, envelope }
}

impl FileFormat {
    /// Told by the extension.
    pub fn of_path(path: &str) -> Option<FileFormat> {
        match path.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(FileFormat::Parquet),
            "csv" => Some(FileFormat::Csv),
            "ndjson" | "jsonl" => Some(FileFormat::Ndjson),
            "json" => Some(FileFormat::Json),
            _ => None,
        }
    }
}

fn read_columns(t: &mut Reader<'_>) -> Option<Named<ColumnDef>> {
    let named = t.named("columns");
    if t.has("columns") && named.is_empty() {
        t.wrong("columns", Problem::new("empty", "a source without columns holds nothing").hint("name at least the time and a key"));
        return None;
    }
    let mut columns = Vec::new();
    for (name, value) in named {
        let path = t.at(&format!("columns.{name}"));
        let column = match value {
            DeValue::String(type_name) => data_type(t, &path, type_name).map(|data_type| ColumnDef {
                data_type,
                required: false,
                personal_data: false,
                description: None,
            }),
            DeValue::Table(table) => {
                let mut inner = Reader::new(t.document, &path, format!("column \"{name}\""), table);
                inner.require("type", "write `type = \"float64\"`");
                let type_name = inner.text("type");
                let data_type = type_name.and_then(|n| data_type(t, &join(&path, "type"), &n));
                let required = inner.boolean("required").unwrap_or(false);
                let personal_data = inner.boolean("personal_data").unwrap_or(false);
                let description = inner.text("description");
                inner.finish();
                data_type.map(|data_type| ColumnDef { data_type, required, personal_data, description })
            }
            _ => {
                let problem = Problem::new("wrong_type", format!("the type of column `{name}` must be a word in quotes"));
                t.document.error(At::Value(&path), problem.hint(format!("one of: {}", type_names())));
                None
            }
        };
        let named_well = check_column_name(t, "columns", name);
        columns.push(column.filter(|_| named_well).map(|c| (name.to_owned(), c)));
    }
    columns.into_iter().collect::<Option<Vec<_>>>().map(Named)
}

fn type_names() -> String {
    kilter_core::list(DataType::COLUMNS.into_iter().map(DataType::name))
}

/// The type of that name; of a name that other systems use, the type that is meant, so that the reading can go on.
fn data_type(t: &Reader<'_>, path: &str, name: &str) -> Option<DataType> {
    let found = DataType::parse(name).filter(|t| !t.is_nested());
    if found.is_some() {
        return found;
    }
    if ["list", "map", "array"].iter().any(|nested| name.trim().to_ascii_lowercase().starts_with(nested)) {
        let problem = Problem::new("unknown_type", format!("a column cannot be a {name}: lists and maps are for features"));
        let hint = format!("one column per value, or leave the field undeclared; the types are {}", type_names());
        t.document.error(At::Value(path), problem.hint(hint));
        return None;
    }
    let meant = match name.to_ascii_lowercase().as_str() {
        "int" | "integer" | "long" | "bigint" | "int32" | "i64" => Some(DataType::Int64),
        "float" | "double" | "number" | "decimal" | "numeric" | "real" | "float32" | "f64" => Some(DataType::Float64),
        "str" | "text" | "varchar" | "utf8" => Some(DataType::String),
        "datetime" | "time" | "date" | "timestamptz" => Some(DataType::Timestamp),
        "boolean" => Some(DataType::Bool),
        _ => None,
    };
    let names = || DataType::COLUMNS.into_iter().map(DataType::name);
    let mut problem = Problem::unknown("unknown_type", "type", name, names());
    if let Some(meant) = meant {
        problem = problem.hint(format!("did you mean `{meant}`? The types are {}", type_names()));
    }
    t.document.error(At::Value(path), problem);
    meant.or_else(|| nearest(name, names()).and_then(DataType::parse))
}

fn read_features(mut t: Reader<'_>) -> Option<FeaturesDef> {
    t.require("source", "the source whose events are aggregated: `source = \"transactions\"`");
    let source = t.text("source");
    t.require("entity", "the key column of what the features describe: `entity = \"account_id\"`");
    let entity = t.one_or_more("entity");
    let filter = t.text("where");
    let hop = t.span("hop");
    let ttl = t.span("ttl");
    let time_zone = t.text("time_zone");
    let keys = t.names_by_name("keys").unwrap_or_default();
    let (owner, description) = (t.text("owner"), t.text("description"));
    t.require("columns", "the features, such as `txn_count = \"count(*) over 1d, 7d\"`");
    let named = t.named("columns");
    if t.has("columns") && named.is_empty() {
        t.wrong(
            "columns",
            Problem::new("empty", "a view without columns has no features").hint("such as `txn_count = \"count(*) over 1d, 7d\"`"),
        );
    }
    let columns = read_feature_lines(&mut t, "columns", named, "count(*) over 7d");
    let named = t.named("derived");
    let derived = read_feature_lines(&mut t, "derived", named, "txn_count_1h / txn_count_7d");
    t.finish();
    let (columns, derived) = (columns?, derived?);
    Some(FeaturesDef { source: source?, entity: entity?, filter, hop, ttl, time_zone, columns, derived, keys, owner, description })
}

/// Features under `key`, each a text or a table.
fn read_feature_lines<'t>(
    t: &mut Reader<'t>,
    key: &str,
    named: Vec<(&'t str, &'t DeValue<'t>)>,
    example: &str,
) -> Option<Named<FeatureDef>> {
    let mut columns = Vec::new();
    for (name, value) in named {
        let path = t.at(&format!("{key}.{name}"));
        let column = match value {
            DeValue::String(text) if !text.trim().is_empty() => {
                Some(FeatureDef { value: text.to_string(), default: None, personal_data: None, description: None })
            }
            DeValue::Table(table) => {
                let mut inner = Reader::new(t.document, &path, format!("feature \"{name}\""), table);
                inner.require("value", &format!("write `value = \"{example}\"`"));
                let value = inner.text("value");
                let default = inner.scalar("default");
                let personal_data = inner.boolean("personal_data");
                let description = inner.text("description");
                inner.finish();
                value.map(|value| FeatureDef { value, default, personal_data, description })
            }
            _ => {
                let problem = Problem::new("wrong_type", format!("feature `{name}` must be a text in quotes"));
                t.document.error(At::Value(&path), problem.hint(format!("such as `{name} = \"{example}\"`")));
                None
            }
        };
        let named_well = check_column_name(t, key, name);
        columns.push(column.filter(|_| named_well).map(|c| (name.to_owned(), c)));
    }
    Some(Named(columns.into_iter().collect::<Option<Vec<_>>>()?))
}

fn read_model(mut t: Reader<'_>) -> Option<ModelDef> {
    t.require("on", "the source whose events are the observations: `on = \"applications\"`");
    let on = t.text("on");
    let learner = t.word("learner");
    let params = t.settings("params").unwrap_or_default();
    t.require("inputs", "what the model sees: `inputs = [\"account.*\", \"applications.amount\"]`");
    let inputs = t.texts("inputs");
    if inputs.as_ref().is_some_and(Vec::is_empty) {
        t.wrong("inputs", Problem::new("empty", "a model without inputs cannot learn").hint("such as `inputs = [\"account.*\"]`"));
    }
    let keys = t.names_by_name("keys").unwrap_or_default();
    let include_self = t.boolean("include_self").unwrap_or(false);
    if learner != Some(LearnerKind::Isolation) {
        t.require("label", "where the truth comes from: `label = { source = \"repayments\", value = \"defaulted\", on = \"application_id\", within = \"30d\" }`");
    }
    let label = t.table("label", "the label").map(read_label);
    let window = t.span("window");
    let calibration = super::calibration::read(&mut t);
    let search = super::search::read(&mut t);
    let reason_groups = t.names_by_name("reason_groups").unwrap_or_default();
    let holdout = t.number("holdout", 0.0, 0.9).unwrap_or_else(defaults::holdout);
    let min_rows = t.integer("min_rows", 2, i64::MAX).map_or_else(defaults::min_rows, |n| n as u64);
    let seed = t.integer("seed", 0, i64::MAX).map_or_else(defaults::seed, |n| n as u64);
    let monotone = t.words_by_name("monotone").unwrap_or_default();
    let categorical = t.texts("categorical").unwrap_or_default();
    let (owner, description) = (t.text("owner"), t.text("description"));
    t.finish();
    let learner = learner.unwrap_or_else(defaults::learner);
    Some(ModelDef {
        on: on?,
        learner,
        params,
        inputs: inputs?,
        keys,
        include_self,
        label: match label {
            None if learner == LearnerKind::Isolation => None,
            given => Some(given??),
        },
        window,
        calibration,
        search,
        reason_groups,
        holdout,
        min_rows,
        seed,
        monotone,
        categorical,
        owner,
        description,
    })
}

fn read_label(mut t: Reader<'_>) -> Option<LabelDef> {
    t.require("source", "the source whose events tell the outcome: `source = \"repayments\"`");
    let source = t.text("source");
    t.require("value", "a column of it, or an expression: `value = \"defaulted\"`");
    let value = t.text("value");
    t.require("on", "the column that observation and label share: `on = \"application_id\"`");
    let on = t.pairs("on");
    t.require("within", "how long after the observation its label is known: `within = \"30d\"`");
    // The stand-in is never seen: what is missing has been reported.
    let within = t.span("within").unwrap_or(Span::DAY);
    let absent = match t.has("absent").then(|| t.scalar("absent")).flatten() {
        None => None,
        Some(Scalar::Bool(b)) => Some(f64::from(u8::from(b))),
        Some(Scalar::Int(n)) => Some(n as f64),
        Some(Scalar::Float(x)) => Some(x),
        Some(Scalar::Text(_)) => {
            let problem = Problem::new("wrong_type", "the label of a row without a label event must be a number, or true or false");
            t.wrong("absent", problem.hint("write `absent = 0`"));
            None
        }
    };
    t.finish();
    Some(LabelDef { source: source?, value: value?, on: on?, within, absent })
}

fn read_decision(mut t: Reader<'_>) -> Option<DecisionDef> {
    let on = t.text("on");
    let model = t.text("model");
    if !t.has("on") && !t.has("model") {
        t.require("model", "the model that scores: `model = \"default_risk\"`; or `on = \"applications\"` for rules alone");
    }
    t.require("policy", "such as `policy = [{ when = \"score >= 0.2\", outcome = \"decline\" }, { outcome = \"approve\" }]`");
    let rules = t.tables("policy", "a policy rule");
    if rules.as_ref().is_some_and(Vec::is_empty) {
        t.wrong(
            "policy",
            Problem::new("empty", "a policy without rules decides nothing").hint("such as `policy = [{ outcome = \"approve\" }]`"),
        );
    }
    let policy: Option<Vec<Option<RuleDef>>> = rules.map(|rules| rules.into_iter().map(read_rule).collect());
    let reasons = t.integer("reasons", 0, 32).map_or_else(defaults::reasons, |n| n as usize);
    let fallback = t.text("fallback");
    if let Some(word) = &fallback {
        check_outcome(&mut t, "fallback", word);
    }
    let keys = t.names_by_name("keys").unwrap_or_default();
    let include_self = t.boolean("include_self").unwrap_or(false);
    let (owner, description) = (t.text("owner"), t.text("description"));
    t.finish();
    let policy = policy?.into_iter().collect::<Option<Vec<_>>>()?;
    Some(DecisionDef { on, model, policy, reasons, fallback, keys, include_self, owner, description })
}

fn read_rule(mut t: Reader<'_>) -> Option<RuleDef> {
    let when = t.text("when");
    t.require("outcome", "what is decided: `outcome = \"approve\"`");
    let outcome = t.text("outcome");
    if let Some(word) = &outcome {
        check_outcome(&mut t, "outcome", word);
    }
    t.finish();
    Some(RuleDef { when, outcome: outcome.unwrap_or_default() })
}

fn check_outcome(t: &mut Reader<'_>, key: &str, word: &str) {
    if word.len() > 64 || !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        let problem = Problem::new("bad_name", format!("\"{word}\" cannot be an outcome"));
        t.wrong(key, problem.hint("one word of letters, digits, `_` and `-`: \"manual_review\""));
    }
}

fn read_service(mut t: Reader<'_>) -> Option<ServiceDef> {
    t.require("features", "what it answers with: `features = [\"account.*\", \"merchant.mean_30d\"]`");
    let features = t.texts("features");
    if features.as_ref().is_some_and(Vec::is_empty) {
        t.wrong(
            "features",
            Problem::new("empty", "a service without features has nothing to say").hint("such as `features = [\"account.*\"]`"),
        );
    }
    let keys = t.names_by_name("keys").unwrap_or_default();
    let (owner, description) = (t.text("owner"), t.text("description"));
    t.finish();
    Some(ServiceDef { features: features?, keys, owner, description })
}

fn read_schedule(mut t: Reader<'_>) -> Option<ScheduleDef> {
    let every = t.span("every");
    let cron = t.text("cron");
    match (t.has("every"), t.has("cron")) {
        (false, false) => t.require("every", "write `every = \"7d\"`, or `cron = \"0 3 * * 1\"`"),
        (true, true) => {
            t.wrong("cron", Problem::new("conflict", "a schedule has `every` or `cron`, not both").hint("leave out one of the two"));
        }
        _ => {}
    }
    t.require("train", "the model to train: `train = \"default_risk\"`");
    let train = t.text("train");
    let promote_if = t.text("promote_if");
    t.finish();
    Some(ScheduleDef { every, cron, train: train?, promote_if })
}

fn read_monitor(mut t: Reader<'_>) -> Option<MonitorDef> {
    t.require("model", "the model to watch: `model = \"default_risk\"`");
    let model = t.text("model");
    t.require("signal", "what is measured: `signal = \"psi\"`");
    let signal = t.word("signal");
    let above = t.number("above", f64::NEG_INFINITY, f64::INFINITY);
    let below = t.number("below", f64::NEG_INFINITY, f64::INFINITY);
    if !t.has("above") && !t.has("below") {
        t.require("above", "the threshold: `above = 0.2`, or `below = 0.7`");
    }
    let window = t.span("window").unwrap_or_else(defaults::monitor_window);
    let every = t.span("every").unwrap_or_else(defaults::monitor_every);
    let min_rows = t.integer("min_rows", 1, i64::MAX).map_or_else(defaults::monitor_min_rows, |n| n as u64);
    let rest = t.span("rest").unwrap_or_else(defaults::monitor_rest);
    let then = t.words("then").unwrap_or_else(defaults::then);
    t.finish();
    Some(MonitorDef { model: model?, signal: signal?, above, below, window, every, min_rows, rest, then })
}
