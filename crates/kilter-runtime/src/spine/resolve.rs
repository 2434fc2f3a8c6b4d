//! From names to positions: the spine's columns, the views its rows have keys of, the columns that are asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kilter_connect::{FileFormat, RowFormat, TimeOf, UnknownFields, columns_of};
use kilter_core::{DataType, Field, Problem, Schema, SourceId, Span, list};
use kilter_features::View;
use kilter_features::expr::{self, Expr, Scope};
use kilter_pipeline::training_set::{From, OutColumn, SetPlan};
use kilter_pipeline::{ContextPlan, Lookup, ModelPlan, Plan};

use super::{Asked, Features, Mode, Pick, Spine};
use crate::project::{named, reference};

/// Everything the job needs to know.
pub struct Resolved<S> {
    pub set: SetPlan,
    pub spine: S,
    /// By source; used in event time only.
    pub lags: Vec<Span>,
    /// Name and text of each column after the spine's.
    pub features: Vec<(String, String)>,
    /// How many columns the spine has.
    pub spine_columns: usize,
}

pub enum SpinePlan {
    File(FilePlan),
    Log(LogPlan),
}

pub struct FilePlan {
    pub path: PathBuf,
    pub file_format: FileFormat,
    pub format: RowFormat,
}

pub struct LogPlan {
    pub source: SourceId,
    /// The decision whose records stand beside the events.
    pub decision: Option<String>,
    /// In a row: inputs as they were recorded, after the decision's own columns.
    pub recorded: Vec<String>,
    pub pick: Pick,
    /// Over the columns of a row.
    pub condition: Option<Expr>,
    /// Column that sampling goes by.
    pub sample_by: Option<usize>,
}

/// A complaint as the command line shows it.
pub fn complaint(problem: &Problem) -> anyhow::Error {
    match &problem.hint {
        Some(hint) => anyhow::anyhow!("{}\n  hint: {hint}", problem.message),
        None => anyhow::anyhow!("{}", problem.message),
    }
}

fn unknown<'a>(what: &str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> anyhow::Error {
    complaint(&Problem::unknown("unknown", what, name, valid))
}

/// The spine as the features see it.
struct Reach<'a> {
    plan: &'a Plan,
    /// What complaints call it.
    what: String,
    /// The spine's columns, then features, then the row's further columns.
    context: ContextPlan,
    own: Schema,
    further: Vec<(&'static str, String, DataType)>,
    /// Views that no column is the key of, with the columns missed.
    out_of_reach: BTreeMap<String, Vec<String>>,
}

/// Resolves a request over the log. `recorded`: the inputs that the decision log has of the spine's decision.
pub fn resolve(plan: &Plan, from: &Spine, request: Asked<'_>, recorded: &[String]) -> anyhow::Result<Resolved<SpinePlan>> {
    let (reach, spine) = match from {
        Spine::File { path, time } => file_spine(plan, request, path, time.as_deref())?,
        Spine::Events { source, pick } => {
            let source = plan.source(source).ok_or_else(|| unknown("source", source, plan.sources.iter().map(|s| s.name.as_str())))?;
            log_spine(plan, request, from, source, None, pick, &[])?
        }
        Spine::Decisions { decision, pick } => {
            let index =
                plan.decision(decision).ok_or_else(|| unknown("decision", decision, plan.decisions.iter().map(|d| d.name.as_str())))?;
            let recorded = if matches!(request.mode, Mode::AsLogged) { recorded } else { &[] };
            log_spine(plan, request, from, plan.decisions[index].source, Some(index), pick, recorded)?
        }
    };
    let model = the_model(plan, request.features, Some(from))?;
    let include_self = match (from, model) {
        (Spine::Decisions { decision, .. }, _) => plan.decision(decision).is_some_and(|d| plan.decisions[d].include_self),
        (_, Some(model)) => model.include_self,
        (_, None) => false,
    };
    let logged = match (request.mode, &spine) {
        (Mode::AsLogged, SpinePlan::Log(log)) => Some(as_logged(request, &reach, log)?),
        _ => None,
    };
    resolved(plan, request, &reach, spine, (model, include_self), logged)
}

/// Resolves a request over a table of the caller's, which complaints call `what`. Its spine is the position of the column with the time: the one
/// named, else the only timestamp, else one of the usual names.
///
/// # Errors
/// A name that there is not, a key of another type than its view's, or a mode that needs the log.
pub fn resolve_table(plan: &Plan, what: &str, columns: Schema, time: Option<&str>, request: Asked<'_>) -> anyhow::Result<Resolved<usize>> {
    anyhow::ensure!(matches!(request.mode, Mode::EventTime(_)), "the rows of {what} can be read in event time only");
    let time = time_column(&columns, time, what)?;
    let found = columns.fields[time].data_type;
    anyhow::ensure!(
        found == DataType::Timestamp,
        "the time of {what} is its column `{}`, which is {found} and no timestamp",
        columns.fields[time].name
    );
    let model = the_model(plan, request.features, None)?;
    let keys = keys_of(plan, request, &columns, model);
    let reach = table_reach(plan, what, columns, model, keys)?;
    resolved(plan, request, &reach, time, (model, model.is_some_and(|m| m.include_self)), None)
}

/// A column of the training set, with its text.
type Named = (OutColumn, String);

fn resolved<S>(
    plan: &Plan,
    request: Asked<'_>,
    reach: &Reach<'_>,
    spine: S,
    (model, include_self): (Option<&ModelPlan>, bool),
    logged: Option<Vec<Named>>,
) -> anyhow::Result<Resolved<S>> {
    let mut columns = reach.spine_columns();
    let spine_columns = columns.len();
    let mut features = Vec::new();
    let found = match logged {
        Some(logged) => logged,
        None => computed(request, reach, model, &columns)?,
    };
    for (column, text) in found {
        features.push((column.name.clone(), text));
        columns.push(column);
    }
    for (at, column) in columns.iter().enumerate() {
        anyhow::ensure!(
            columns[..at].iter().all(|c| c.name != column.name),
            "two columns of the training set would be called `{}`\n  hint: name one of them anew: --features \"other = ...\"",
            column.name
        );
    }
    let include_self = request.include_self.unwrap_or(include_self);
    let set = SetPlan::new(plan, &reach.context, reach.own.len(), columns, include_self);
    Ok(Resolved { set, spine, lags: lags(plan, request.mode)?, features, spine_columns })
}

fn computed(request: Asked<'_>, reach: &Reach<'_>, model: Option<&ModelPlan>, spine: &[OutColumn]) -> anyhow::Result<Vec<Named>> {
    let inputs = match (request.features, model) {
        (Features::List(texts), _) => reach.listed(texts)?,
        (_, Some(model)) => reach.inputs_of(model)?,
        (_, None) => reach.listed(&reach.all()?)?,
    };
    let named = inputs.into_iter().map(|(name, text, expr)| {
        // The model says its inputs' names; a user can choose others.
        let taken = model.is_some() && spine.iter().any(|c| c.name == name);
        Ok((out_column(if taken { format!("input.{name}") } else { name }, expr)?, text))
    });
    named.collect()
}

/// The model whose inputs are asked for.
fn the_model<'a>(plan: &'a Plan, features: &Features, spine: Option<&Spine>) -> anyhow::Result<Option<&'a ModelPlan>> {
    Ok(match (features, spine) {
        (Features::Model(name), _) => {
            let index = plan.model(name).ok_or_else(|| unknown("model", name, plan.models.iter().map(|m| m.name.as_str())))?;
            Some(&plan.models[index])
        }
        (Features::Default, Some(Spine::Decisions { decision, .. })) => {
            plan.decision(decision).and_then(|d| plan.decisions[d].model).map(|m| &plan.models[m])
        }
        _ => None,
    })
}

fn lags(plan: &Plan, mode: &Mode) -> anyhow::Result<Vec<Span>> {
    let Mode::EventTime(lags) = mode else { return Ok(vec![Span::ZERO; plan.sources.len()]) };
    let mut all = vec![lags.all; plan.sources.len()];
    for (name, lag) in &lags.by_source {
        let source = plan.source(name).ok_or_else(|| unknown("source", name, plan.sources.iter().map(|s| s.name.as_str())))?;
        all[usize::from(source.0)] = *lag;
    }
    Ok(all)
}

fn out_column(name: String, expr: Expr) -> anyhow::Result<OutColumn> {
    let data_type = expr.data_type().ok_or_else(|| anyhow::anyhow!("column `{name}` would always be null: `{expr}`"))?;
    Ok(OutColumn { name, data_type, from: expr.as_slot().map_or(From::Expr(expr), From::Slot) })
}

/// The inputs as they were recorded; their types are the record's.
fn as_logged(request: Asked<'_>, reach: &Reach<'_>, log: &LogPlan) -> anyhow::Result<Vec<Named>> {
    let decision = log.decision.as_deref().unwrap_or_default();
    anyhow::ensure!(
        !log.recorded.is_empty(),
        "the decision log has no inputs of decision `{decision}`\n  hint: inputs are recorded for decisions with a model; --mode replay computes \
         features anew"
    );
    let wanted: Vec<&String> = match request.features {
        Features::List(names) => {
            let known = |name: &&String| log.recorded.contains(name);
            if let Some(name) = names.iter().find(|n| !known(n)) {
                let hint = "only what was recorded can be given as logged; --mode replay computes the rest";
                let problem = Problem::unknown("unknown", "recorded input", name, log.recorded.iter().map(String::as_str));
                let hint = problem.hint.as_ref().map_or(hint.to_string(), |near| format!("{near} {hint}"));
                return Err(complaint(&problem.hint(hint)));
            }
            names.iter().collect()
        }
        _ => log.recorded.iter().collect(),
    };
    let first = reach.context.width + reach.further.len() - log.recorded.len();
    let mut columns = reach.spine_columns();
    let spine_columns = columns.len();
    for name in wanted {
        let slot = first + log.recorded.iter().position(|r| r == name).unwrap_or_default();
        let shown = if columns.iter().any(|c| c.name == *name) { format!("input.{name}") } else { name.clone() };
        columns.push(OutColumn { name: shown, data_type: DataType::Float64, from: From::Slot(slot) });
    }
    Ok(columns.split_off(spine_columns).into_iter().map(|column| (column, "as recorded".to_string())).collect())
}

fn log_spine<'a>(
    plan: &'a Plan,
    request: Asked<'_>,
    from: &Spine,
    source: SourceId,
    decision: Option<usize>,
    pick: &Pick,
    recorded: &[String],
) -> anyhow::Result<(Reach<'a>, SpinePlan)> {
    let of = &plan.sources[usize::from(source.0)];
    let mut further = vec![("event", "offset".to_string(), DataType::Int64), ("event", "time".to_string(), DataType::Timestamp)];
    if decision.is_some() {
        let of_decision =
            [("id", DataType::String), ("outcome", DataType::String), ("score", DataType::Float64), ("model_version", DataType::Int64)];
        further.extend(of_decision.map(|(name, data_type)| ("decision", name.to_string(), data_type)));
    }
    // A condition sees the row as it lies in memory: the event's columns, then the further ones.
    let mut scope = Scope::new();
    of.schema.fields.iter().for_each(|f| {
        scope.add(Some(&of.name), &f.name, f.data_type);
    });
    further.iter().for_each(|(qualifier, name, data_type)| {
        scope.add(Some(qualifier), name, *data_type);
    });
    let condition = pick.condition.as_deref().map(|text| condition(text, &scope)).transpose()?;
    let sample_by = match pick.sample.as_ref().and_then(|s| s.by.as_ref()) {
        Some(column) => Some(of.schema.index(column).ok_or_else(|| unknown("column", column, of.schema.names()))?),
        None => None,
    };
    further.extend(recorded.iter().map(|name| ("recorded", name.clone(), DataType::Float64)));
    let mut reach = Reach::new(plan, format!("source `{}`", of.name), of.name.clone(), of.schema.clone(), further);
    let model = the_model(plan, request.features, Some(from))?;
    if let Some(model) = model {
        anyhow::ensure!(
            model.context.source == source,
            "model `{}` is trained on the events of `{}`, and the spine is those of `{}`\n  hint: --events {}, or a spine file with its columns",
            model.name,
            plan.sources[usize::from(model.context.source.0)].name,
            of.name,
            plan.sources[usize::from(model.context.source.0)].name
        );
    }
    match (model, decision) {
        // What the definitions say of keys holds here too.
        (Some(model), _) if request.keys.is_empty() => reach.take_over(&model.context),
        (None, Some(decision)) if request.keys.is_empty() => reach.take_over(&plan.decisions[decision].context),
        _ => {
            let mut keys = request.keys.to_vec();
            take_keys_of_services(plan, request, &of.schema, &mut keys);
            reach.look_up(&keys)?;
        }
    }
    let decision = decision.map(|d| plan.decisions[d].name.clone());
    let log = LogPlan { source, decision, recorded: recorded.to_vec(), pick: pick.clone(), condition, sample_by };
    Ok((reach, SpinePlan::Log(log)))
}

fn condition(text: &str, scope: &Scope) -> anyhow::Result<Expr> {
    let wrong = |problem: Problem| complaint(&Problem { message: format!("--where: {}", problem.message), ..problem });
    let expr = expr::compile(text, scope).map_err(wrong)?;
    anyhow::ensure!(expr.data_type() == Some(DataType::Bool), "--where: `{text}` is no condition\n  hint: compare it, as in `{text} > 0`");
    Ok(expr)
}

fn file_spine<'a>(
    plan: &'a Plan,
    request: Asked<'_>,
    path: &std::path::Path,
    time: Option<&str>,
) -> anyhow::Result<(Reach<'a>, SpinePlan)> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let file_format = FileFormat::parse(extension).unwrap_or(FileFormat::Csv);
    let mut schema = columns_of(path, file_format).map_err(|e| connect(&e))?;
    let shown = path.display();
    anyhow::ensure!(!schema.is_empty(), "{shown} has no columns\n  hint: a spine has a time and the keys of what it asks about");
    let time = time_column(&schema, time, &shown.to_string())?;
    if file_format != FileFormat::Parquet {
        schema.fields[time].data_type = DataType::Timestamp;
    }
    let model = the_model(plan, request.features, None)?;
    let keys = keys_of(plan, request, &schema, model);
    // Text files say nothing of types: a key has that of its view.
    if file_format != FileFormat::Parquet {
        for view in &plan.views {
            let columns = keys.iter().find(|(name, _)| name == view.name()).map_or(view.entity(), |(_, columns)| columns);
            for (column, field) in columns.iter().zip(entity_fields(plan, view)) {
                if let Some(at) = schema.index(column).filter(|at| *at != time) {
                    schema.fields[at].data_type = field.data_type;
                }
            }
        }
    }
    let reach = table_reach(plan, &shown.to_string(), schema.clone(), model, keys)?;
    let format = RowFormat {
        time: TimeOf::Column(time),
        time_name: schema.fields[time].name.clone(),
        id: kilter_connect::IdOf::Nothing,
        unknown: UnknownFields::Ignore,
        ..RowFormat::new("the spine", schema)
    };
    Ok((reach, SpinePlan::File(FilePlan { path: path.to_owned(), file_format, format })))
}

/// Which columns of a table hold the key of a view: as was asked, else as the model's source has them, else as a service calls them.
fn keys_of(plan: &Plan, request: Asked<'_>, schema: &Schema, model: Option<&ModelPlan>) -> Vec<(String, Vec<String>)> {
    let mut keys = request.keys.to_vec();
    if let Some(model) = model {
        let of = &plan.sources[usize::from(model.context.source.0)].schema;
        for lookup in &model.context.lookups {
            let view = plan.views[lookup.view].name();
            if !keys.iter().any(|(name, _)| name == view) {
                let columns: Vec<String> = lookup.key.iter().map(|&c| of.fields[c].name.clone()).collect();
                if columns.iter().all(|c| schema.index(c).is_some()) {
                    keys.push((view.to_string(), columns));
                }
            }
        }
    }
    take_keys_of_services(plan, request, schema, &mut keys);
    keys
}

/// The rows of a table as the features see them.
fn table_reach<'a>(
    plan: &'a Plan,
    what: &str,
    schema: Schema,
    model: Option<&ModelPlan>,
    keys: Vec<(String, Vec<String>)>,
) -> anyhow::Result<Reach<'a>> {
    // A model's inputs name the columns of its source.
    let qualifier = model.map_or("spine".to_string(), |m| plan.sources[usize::from(m.context.source.0)].name.clone());
    let mut reach = Reach::new(plan, what.to_string(), qualifier, schema, Vec::new());
    reach.look_up(&keys)?;
    anyhow::ensure!(
        !reach.context.lookups.is_empty(),
        "{what} has no column that is the key of a feature view\n  hint: {}; say which column holds it: --keys VIEW=COLUMN",
        list(
            plan.views
                .iter()
                .map(|v| format!("view `{}` asks for {}", v.name(), v.entity().join(", ")))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
        )
    );
    Ok(reach)
}

/// What the services on the list call the keys of views, where the spine has columns of these names and nothing else was said.
fn take_keys_of_services(plan: &Plan, request: Asked<'_>, schema: &Schema, keys: &mut Vec<(String, Vec<String>)>) {
    let Features::List(texts) = request.features else { return };
    for service in texts.iter().filter_map(|text| plan.service(text.trim().strip_suffix(".*")?)).map(|s| &plan.services[s]) {
        for lookup in &service.lookups {
            let view = plan.views[lookup.view].name();
            let columns: Vec<String> = lookup.key.iter().map(|k| service.keys[*k].name.clone()).collect();
            if !keys.iter().any(|(name, _)| name == view) && columns.iter().all(|c| schema.index(c).is_some()) {
                keys.push((view.to_string(), columns));
            }
        }
    }
}

/// The complaint of a reader, its hint on a line of its own.
pub fn connect(error: &kilter_connect::ConnectError) -> anyhow::Error {
    complaint(&Problem { hint: error.hint.clone(), ..Problem::new(error.code, error.message.clone()) })
}

fn entity_fields<'a>(plan: &'a Plan, view: &'a View) -> impl Iterator<Item = &'a Field> {
    let schema = &plan.sources[usize::from(view.source().0)].schema;
    view.entity().iter().filter_map(|column| schema.fields.get(schema.index(column)?))
}

/// The column that holds a row's moment: the one named, the only one of type timestamp, or the only one with a usual name.
fn time_column(schema: &Schema, named: Option<&str>, shown: &str) -> anyhow::Result<usize> {
    if let Some(name) = named {
        return schema.index(name).ok_or_else(|| unknown(&format!("column of {shown}"), name, schema.names()));
    }
    let typed: Vec<usize> = (0..schema.len()).filter(|&i| schema.fields[i].data_type == DataType::Timestamp).collect();
    let usual: Vec<usize> = ["time", "event_time", "event_timestamp", "timestamp"].iter().filter_map(|name| schema.index(name)).collect();
    match (typed.as_slice(), usual.as_slice()) {
        ([one], _) | ([], [one]) => Ok(*one),
        _ => anyhow::bail!(
            "which column of {shown} holds the time of a row?\n  hint: name it: --time COLUMN; there are: {}",
            list(schema.names())
        ),
    }
}

impl<'a> Reach<'a> {
    fn new(plan: &'a Plan, what: String, qualifier: String, own: Schema, further: Vec<(&'static str, String, DataType)>) -> Reach<'a> {
        let mut scope = Scope::new();
        for field in &own.fields {
            scope.add(Some(&qualifier), &field.name, field.data_type);
        }
        let context = ContextPlan { source: SourceId(u16::MAX), lookups: Vec::new(), width: scope.len(), scope };
        Reach { plan, what, context, own, further, out_of_reach: BTreeMap::new() }
    }

    fn take_over(&mut self, context: &ContextPlan) {
        self.context = context.clone();
        // A decision's scope has its score at the end, where another column lies here.
        let mut scope = Scope::new();
        for field in &self.own.fields {
            scope.add(Some(&self.plan.sources[usize::from(context.source.0)].name), &field.name, field.data_type);
        }
        for lookup in &context.lookups {
            let view = &self.plan.views[lookup.view];
            for feature in view.features() {
                scope.add(Some(view.name()), &feature.name, feature.data_type);
            }
        }
        self.context.scope = scope;
        for view in &self.plan.views {
            if !context.lookups.iter().any(|l| self.plan.views[l.view].name() == view.name()) {
                self.out_of_reach.insert(view.name().to_string(), view.entity().to_vec());
            }
        }
        self.add_further();
    }

    /// Finds the key of each view among the spine's columns.
    fn look_up(&mut self, keys: &[(String, Vec<String>)]) -> anyhow::Result<()> {
        for (name, _) in keys {
            if self.plan.view(name).is_none() {
                return Err(unknown("feature view", name, self.plan.views.iter().map(|v| v.name())).context("--keys"));
            }
        }
        for (position, view) in self.plan.views.iter().enumerate() {
            let given = keys.iter().find(|(name, _)| name == view.name()).map(|(_, columns)| columns);
            let columns = given.map_or(view.entity(), Vec::as_slice);
            anyhow::ensure!(
                columns.len() == view.entity().len(),
                "--keys: the key of view `{}` has {} column(s), these are {}\n  hint: one column for each of: {}",
                view.name(),
                view.entity().len(),
                columns.len(),
                view.entity().join(", ")
            );
            let mut key = Vec::new();
            let mut missing = Vec::new();
            for (column, entity) in columns.iter().zip(entity_fields(self.plan, view)) {
                let Some(at) = self.own.index(column) else {
                    missing.push(column.clone());
                    continue;
                };
                let found = self.own.fields[at].data_type;
                anyhow::ensure!(
                    found == entity.data_type,
                    "column `{column}` of {} is {found}, and `{}`, the key of view `{}`, is {}\n  hint: give it the type {} in the file, or name \
                     another column: --keys {}=COLUMN",
                    self.what,
                    entity.name,
                    view.name(),
                    entity.data_type,
                    entity.data_type,
                    view.name()
                );
                key.push(at);
            }
            if let (Some(column), true) = (missing.first(), given.is_some()) {
                return Err(unknown(&format!("column of {}", self.what), column, self.own.names()).context("--keys"));
            }
            if !missing.is_empty() {
                self.out_of_reach.insert(view.name().to_string(), missing);
                continue;
            }
            self.context.lookups.push(Lookup { view: position, key, first_slot: self.context.scope.len() });
            for feature in view.features() {
                self.context.scope.add(Some(view.name()), &feature.name, feature.data_type);
            }
        }
        self.add_further();
        Ok(())
    }

    fn add_further(&mut self) {
        self.context.width = self.context.scope.len();
        for (qualifier, name, data_type) in &self.further {
            self.context.scope.add(Some(qualifier), name, *data_type);
        }
    }

    /// The spine's columns as columns of the training set; recorded inputs are listed apart.
    fn spine_columns(&self) -> Vec<OutColumn> {
        let further = self.further.iter().enumerate().filter(|(_, (qualifier, ..))| *qualifier != "recorded");
        let further = further.map(|(i, (qualifier, name, data_type))| OutColumn {
            name: format!("{qualifier}.{name}"),
            data_type: *data_type,
            from: From::Slot(self.context.width + i),
        });
        let own = self.own.fields.iter().enumerate();
        let own = own.map(|(i, f)| OutColumn { name: f.name.clone(), data_type: f.data_type, from: From::Slot(i) });
        further.chain(own).collect()
    }

    /// All views in reach.
    fn all(&self) -> anyhow::Result<Vec<String>> {
        let views: Vec<String> = self.context.lookups.iter().map(|l| format!("{}.*", self.plan.views[l.view].name())).collect();
        anyhow::ensure!(
            !views.is_empty(),
            "no feature view is in reach of {}\n  hint: say which of its columns holds the key of a view: --keys VIEW=COLUMN",
            self.what
        );
        Ok(views)
    }

    fn inputs_of(&self, model: &ModelPlan) -> anyhow::Result<Vec<(String, String, Expr)>> {
        let inputs = model.inputs.iter().map(|input| {
            let expr = self.compile(&input.text).map_err(|e| e.context(format!("input `{}` of model `{}`", input.name, model.name)))?;
            Ok((input.name.clone(), input.text.clone(), expr))
        });
        inputs.collect()
    }

    /// Name, text and expression of everything on a list.
    fn listed(&self, texts: &[String]) -> anyhow::Result<Vec<(String, String, Expr)>> {
        let mut found = Vec::new();
        for text in texts {
            let text = text.trim();
            if let Some(service) = text.strip_suffix(".*").and_then(|name| self.plan.service(name)) {
                let service = &self.plan.services[service];
                found.extend(self.listed(&service.lines).map_err(|e| e.context(format!("service `{}`", service.name)))?);
            } else if let Some(view) = text.strip_suffix(".*") {
                let Some(lookup) = self.context.lookups.iter().find(|l| self.plan.views[l.view].name() == view) else {
                    return Err(self.no_view(view));
                };
                for feature in self.plan.views[lookup.view].features() {
                    let full = format!("{view}.{}", feature.name);
                    found.push((full.clone(), full.clone(), self.slot(view, &feature.name)?));
                }
            } else if let Some((name, expression)) = named(text) {
                found.push((name.to_string(), expression.to_string(), self.compile(expression)?));
            } else if let Some((qualifier, name)) = reference(text) {
                if let Some(view) = qualifier.filter(|q| self.out_of_reach.contains_key(*q)) {
                    return Err(self.no_view(view));
                }
                let (slot, _) = self.context.scope.resolve(qualifier, name).map_err(|p| complaint(&p))?;
                let lookup = self.context.lookups.iter().rev().find(|l| slot >= l.first_slot && slot < self.context.width);
                let Some(lookup) = lookup else {
                    anyhow::bail!(
                        "`{text}` is a column of the spine, which the training set has anyhow\n  hint: leave it out of --features"
                    );
                };
                let view = &self.plan.views[lookup.view];
                let feature = &view.features()[slot - lookup.first_slot].name;
                let full = format!("{}.{feature}", view.name());
                found.push((full.clone(), full.clone(), self.slot(view.name(), feature)?));
            } else {
                anyhow::bail!("a feature that is computed needs a name\n  hint: --features \"ratio = {text}\"");
            }
        }
        Ok(found)
    }

    fn no_view(&self, view: &str) -> anyhow::Error {
        match self.out_of_reach.get(view) {
            Some(missing) => anyhow::anyhow!(
                "feature view `{view}` is not in reach: {} has no column `{}`\n  hint: say which of its columns holds it: --keys {view}=COLUMN",
                self.what,
                missing.join("`, `")
            ),
            None => unknown("feature view", view, self.plan.views.iter().map(|v| v.name())),
        }
    }

    fn slot(&self, view: &str, feature: &str) -> anyhow::Result<Expr> {
        let full = format!("\"{view}\".\"{feature}\"");
        self.compile(&full)
    }

    fn compile(&self, text: &str) -> anyhow::Result<Expr> {
        // A name that is a word of SQL needs quotes in an expression, and none in a list of inputs.
        let quoted = reference(text).map(|(q, n)| q.map_or(format!("\"{n}\""), |q| format!("\"{q}\".\"{n}\"")));
        let compiled = expr::compile(text, &self.context.scope);
        let compiled = compiled.or_else(|problem| quoted.and_then(|q| expr::compile(&q, &self.context.scope).ok()).ok_or(problem));
        compiled.map_err(|problem| {
            let named = problem.at.clone().and_then(|at| text.get(at)).unwrap_or(text).trim();
            let view = named.split_once('.').map(|(view, _)| view).filter(|view| self.out_of_reach.contains_key(*view));
            view.map_or_else(|| complaint(&problem), |view| self.no_view(view))
        })
    }
}
