//! From definitions to a plan: names become positions, texts become compiled expressions.
//!
//! Nothing stops at the first mistake. A thing that could not be resolved is remembered as broken, and complaints that would only
//! echo the first one are left unsaid.

mod context;
mod decision;
mod lookups;
mod model;
mod reasons;
mod scorecard;
mod service;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use kilter_core::{DataType, Problem, SourceId};
use kilter_features::expr::{self, Expr, Scope};
use kilter_features::{ColumnSpec, Location, View, ViewSpec, compile_view};
use kilter_pipeline::{MonitorPlan, Plan, SchedulePlan, Signal, SourcePlan, When, figure_names, promotion_scope};

use super::definitions::*;
use super::document::{At, Document};
use super::params;
use super::read::Reading;
use context::Context;

pub(crate) use model::{named, reference};
pub use source::{SourceSettings, SourceTime};

/// What the definitions come to.
pub(super) struct Resolved {
    pub plan: Plan,
    pub source_settings: Vec<SourceSettings>,
}

/// Looks at one part of the definitions after another.
struct Resolver<'d> {
    document: &'d Document<'d>,
    definitions: &'d Definitions,
    reading: &'d Reading,
    /// Position = [`SourceId`]; so in order of the names, for the order of sections in the file to be of no consequence.
    sources: Vec<SourcePlan>,
    views: Vec<View>,
    broken_views: BTreeSet<String>,
    used_sources: BTreeSet<String>,
}

/// What a name in the definitions leads to.
enum Found<T> {
    Good(T),
    /// It is defined, but not well; that has been said.
    Broken,
}

/// Resolves everything; the result means something only when the document holds no errors afterwards.
pub(super) fn resolve(document: &Document<'_>, reading: &Reading, hash: String) -> Resolved {
    let definitions = &reading.definitions;
    let mut resolver = Resolver {
        document,
        definitions,
        reading,
        sources: Vec::new(),
        views: Vec::new(),
        broken_views: reading.broken_views.clone(),
        used_sources: BTreeSet::new(),
    };
    let mut source_settings = Vec::new();
    for (name, def) in by_name(&definitions.source) {
        let settings = source::settings(&resolver, name, def);
        resolver.sources.push(source::plan(name, def));
        source_settings.push(settings);
    }
    resolver.all_views();
    let services = by_name(&definitions.service).into_iter().filter_map(|(name, def)| service::resolve(&mut resolver, name, def)).collect();
    let mut models = Vec::new();
    let mut contexts: Vec<(&str, Option<Context>)> = Vec::new();
    for (name, def) in by_name(&definitions.model) {
        let context = resolver.context(&format!("model.{name}"), &format!("model \"{name}\""), &def.on, &def.keys);
        models.extend(model::resolve(&mut resolver, name, def, context.as_ref()));
        contexts.push((name, context));
    }
    let mut decisions = Vec::new();
    for (name, def) in by_name(&definitions.decision) {
        decisions.extend(decision::resolve(&mut resolver, name, def, &contexts));
    }
    let schedules = by_name(&definitions.schedule).into_iter().filter_map(|(name, def)| resolver.schedule(name, def)).collect();
    let monitors = by_name(&definitions.monitor).into_iter().filter_map(|(name, def)| resolver.monitor(name, def)).collect();
    // A source that seems unused may only be misspelt where it is used.
    if !document.has_errors() {
        resolver.unused_sources();
    }
    let plan = Plan {
        project: definitions.project.name.clone(),
        hash,
        sources: resolver.sources,
        views: resolver.views,
        models,
        decisions,
        monitors,
        schedules,
        services,
        clock: definitions.project.clock.into(),
    };
    Resolved { plan, source_settings }
}

fn by_name<T>(named: &Named<T>) -> Vec<(&str, &T)> {
    let mut items: Vec<(&str, &T)> = named.iter().collect();
    items.sort_by_key(|(name, _)| *name);
    items
}

impl<'d> Resolver<'d> {
    /// The source that the value at `path` names; none: there is no such source, which is said.
    fn source(&mut self, path: &str, what: &str, name: &str) -> Option<Found<SourceId>> {
        self.used_sources.insert(name.to_owned());
        if self.reading.broken_sources.contains(name) {
            return Some(Found::Broken);
        }
        if let Some(position) = self.sources.iter().position(|s| s.name == name) {
            return Some(Found::Good(SourceId(position as u16)));
        }
        let names = self.definitions.source.names().chain(self.reading.broken_sources.iter().map(String::as_str));
        let mut problem = Problem::unknown("unknown_source", "source", name, names);
        problem.message = format!("{what}: {}", problem.message);
        self.document.error(At::Value(path), problem);
        None
    }

    /// The position of the model that the value at `path` names.
    fn model(&self, path: &str, what: &str, name: &str) -> Option<Found<usize>> {
        if self.reading.broken_models.contains(name) {
            return Some(Found::Broken);
        }
        let models = by_name(&self.definitions.model);
        if let Some(position) = models.iter().position(|(n, _)| *n == name) {
            return Some(Found::Good(position));
        }
        let names = self.definitions.model.names().chain(self.reading.broken_models.iter().map(String::as_str));
        let mut problem = Problem::unknown("unknown_model", "model", name, names);
        problem.message = format!("{what}: {}", problem.message);
        self.document.error(At::Value(path), problem);
        None
    }

    fn plan_of(&self, source: SourceId) -> &SourcePlan {
        &self.sources[usize::from(source.0)]
    }

    /// A column of a source, by the value at `path`.
    fn column(&self, path: &str, what: &str, source: SourceId, name: &str) -> Option<usize> {
        let plan = self.plan_of(source);
        let found = plan.schema.index(name);
        if found.is_none() {
            let mut problem = Problem::unknown("unknown_column", "column", name, plan.schema.names());
            problem.message = format!("{what} uses column `{name}` which source \"{}\" does not have", plan.name);
            self.document.error(At::Value(path), problem);
        }
        found
    }

    /// `compiled` are the views that it may read.
    fn view(&mut self, name: &str, def: &FeaturesDef, compiled: &BTreeMap<String, View>) -> Option<View> {
        let path = format!("features.{name}");
        let what = format!("feature view \"{name}\"");
        if self.definitions.source.get(name).is_some() || self.reading.broken_sources.contains(name) {
            let problem = Problem::new("duplicate", format!("{what} has the name of a source, so `{name}.x` could be either"));
            self.document.error(At::Key(&path), problem.hint("name the view by its entity, such as `account`"));
        }
        let Found::Good(source) = self.source(&format!("{path}.source"), &what, &def.source)? else { return None };
        let lookups = self.lookups(name, def, source, compiled);
        let plan = self.plan_of(source);
        let spec = ViewSpec {
            lookups: lookups.specs.clone(),
            entity: def.entity.clone(),
            filter: def.filter.clone(),
            columns: def.columns.iter().map(|(name, column)| column_spec(name, column)).collect(),
            hop: def.hop,
            derived: def.derived.iter().map(|(name, column)| column_spec(name, column)).collect(),
            ttl: def.ttl,
            time_zone: def.time_zone.clone(),
            key: plan.key.iter().map(|c| plan.schema.fields[*c].name.clone()).collect(),
            ..ViewSpec::new(name, source, plan.schema.clone(), &[], plan.lateness)
        };
        match compile_view(&spec) {
            Ok(view) => Some(view),
            Err(problems) => {
                for (location, problem) in problems {
                    let text = match &location {
                        Location::Filter => def.filter.as_deref(),
                        Location::Column(column) => def.columns.get(column).map(|c| c.value.as_str()),
                        Location::Derived(column) => def.derived.get(column).map(|c| c.value.as_str()),
                        _ => None,
                    };
                    let text = text.unwrap_or_default();
                    let problem = match &location {
                        Location::Derived(_) => {
                            let is_view = |name: &str| self.definitions.features.get(name).is_some();
                            Some(lookups::explain_derived(text, problem, is_view))
                        }
                        _ => lookups.explain(text, problem),
                    };
                    let Some(problem) = problem else { continue };
                    self.view_problem(&path, &what, def, location, problem);
                }
                None
            }
        }
    }

    fn view_problem(&self, path: &str, what: &str, def: &FeaturesDef, location: Location, problem: Problem) {
        match location {
            Location::Entity(column) => {
                let mut problem = problem;
                if problem.hint.is_none() {
                    let keys = self
                        .definitions
                        .source
                        .get(&def.source)
                        .map(|s| s.columns.iter().filter(|(_, c)| is_key(c.data_type)).map(|(n, _)| n));
                    problem = problem.hint(format!("columns that name something: {}", kilter_core::list(keys.into_iter().flatten())));
                }
                let item = def.entity.iter().position(|e| *e == column).unwrap_or(0);
                let place = self.document.first_of(&[format!("{path}.entity.{item}"), format!("{path}.entity")]);
                self.document.error(At::Value(&place), prefixed(&format!("entity of {what}"), problem));
            }
            Location::Filter => self.text_problem(&format!("{path}.where"), &format!("{what}, `where`"), def.filter.as_deref(), problem),
            Location::Column(column) => {
                let place = self.document.first_of(&[format!("{path}.columns.{column}.value"), format!("{path}.columns.{column}")]);
                let text = def.columns.get(&column).map(|c| c.value.as_str());
                self.text_problem(&place, &format!("{what}, column \"{column}\""), text, problem);
            }
            Location::Derived(column) => {
                let place = self.document.first_of(&[format!("{path}.derived.{column}.value"), format!("{path}.derived.{column}")]);
                let text = def.derived.get(&column).map(|c| c.value.as_str());
                self.text_problem(&place, &format!("{what}, derived feature \"{column}\""), text, problem);
            }
            Location::Hop => self.document.error(At::Value(&format!("{path}.hop")), prefixed(what, problem)),
            Location::Ttl => self.document.error(At::Value(&format!("{path}.ttl")), prefixed(what, problem)),
            Location::TimeZone => self.document.error(At::Value(&format!("{path}.time_zone")), prefixed(what, problem)),
            Location::Lookups => self.document.error(At::Key(path), prefixed(what, problem)),
        }
    }

    /// A complaint about the expression that is the whole value at `path`.
    fn text_problem(&self, path: &str, what: &str, text: Option<&str>, mut problem: Problem) {
        if problem.hint.is_none() {
            let hint = if path.starts_with("features.") && !path.ends_with(".where") {
                "a feature reads: sum(amount) where kind = 'card' over 7d, 30d"
            } else {
                "operators and functions are listed in docs/reference/expressions.md"
            };
            problem = problem.hint(hint);
        }
        self.document.error_in_text(path, 0, text.map_or(0, str::len), prefixed(what, problem));
    }

    /// Compiles the text that is the value at `path` and asks for a condition.
    fn condition(&self, path: &str, what: &str, text: &str, scope: &Scope) -> Result<Expr, Problem> {
        let expr = expr::compile(text, scope)?;
        match expr.data_type() {
            Some(DataType::Bool) => Ok(expr),
            found => {
                let problem = Problem::new("not_a_condition", format!("this is not a condition but {}", type_name(found)));
                self.text_problem(path, what, Some(text), problem.hint(format!("compare it, as in `{} >= 0.5`", text.trim())));
                Ok(expr)
            }
        }
    }

    fn schedule(&self, name: &str, def: &ScheduleDef) -> Option<SchedulePlan> {
        let path = format!("schedule.{name}");
        let what = format!("schedule \"{name}\"");
        let model = self.model(&format!("{path}.train"), &what, &def.train);
        let when = match (&def.every, &def.cron) {
            (Some(every), _) => Some(When::Every(*every)),
            (None, Some(cron)) => {
                if let Err(e) = cron.parse::<croner::Cron>() {
                    let problem = Problem::new("bad_cron", format!("{what}: \"{cron}\" is not a cron expression: {e}"));
                    let hint = "minute hour day month weekday, in UTC: \"0 3 * * 1\" is Mondays at 3:00";
                    self.document.error(At::Value(&format!("{path}.cron")), problem.hint(hint));
                }
                Some(When::Cron(cron.clone()))
            }
            (None, None) => None,
        };
        let Found::Good(model) = model? else { return None };
        // Of a model whose settings are wrong nobody knows what it will be judged by.
        let names = self.figures_of(&def.train);
        let rule = def.promote_if.as_deref().zip(names).map(|(text, names)| {
            let path = format!("{path}.promote_if");
            let what = format!("{what}, `promote_if`");
            self.condition(&path, &what, text, &promotion_scope(names))
                .map_err(|problem| self.text_problem(&path, &what, Some(text), problem))
        });
        Some(SchedulePlan {
            name: name.to_owned(),
            when: when?,
            model,
            promote_if: rule.transpose().ok()?,
            promote_text: def.promote_if.clone(),
        })
    }

    fn monitor(&self, name: &str, def: &MonitorDef) -> Option<MonitorPlan> {
        let path = format!("monitor.{name}");
        let model = self.model(&format!("{path}.model"), &format!("monitor \"{name}\""), &def.model);
        if let (Some(above), Some(below)) = (def.above, def.below)
            && below >= above
        {
            let problem =
                Problem::new("conflict", format!("monitor \"{name}\" would always alert: every value is above {above} or below {below}"));
            self.document.error(At::Value(&format!("{path}.below")), problem.hint("`below` must be smaller than `above`"));
        }
        let Found::Good(model) = model? else { return None };
        let names = self.figures_of(&def.model).unwrap_or_default();
        if def.signal != Signal::Psi && !names.is_empty() && !names.contains(&def.signal.name()) {
            let text = format!("monitor \"{name}\": `{}` is no figure of model \"{}\"", def.signal.name(), def.model);
            let fitting = Signal::ALL.iter().map(|(word, _)| *word).filter(|word| *word == "psi" || names.contains(word));
            let problem = Problem::new("misplaced", text).hint(format!("it has {}", kilter_core::list(fitting)));
            self.document.error(At::Value(&format!("{path}.signal")), problem);
        }
        Some(MonitorPlan {
            name: name.to_owned(),
            model,
            signal: def.signal,
            above: def.above,
            below: def.below,
            window: def.window,
            every: def.every,
            min_rows: def.min_rows,
            rest: def.rest,
            retrain: def.then.contains(&Action::Retrain),
        })
    }

    /// What a model is judged by; none: its settings are wrong.
    fn figures_of(&self, model: &str) -> Option<&'static [&'static str]> {
        let def = self.definitions.model.get(model)?;
        Some(figure_names(params::task(def)?, def.label.is_some()))
    }

    /// A source that nothing reads is stored but of no use yet; most often its name was meant to be another's.
    fn unused_sources(&self) {
        for source in &self.sources {
            if !self.used_sources.contains(&source.name) {
                let problem = Problem::new("unused_source", format!("nothing uses source \"{}\"", source.name));
                self.document
                    .warning(At::Key(&format!("source.{}", source.name)), problem.hint("its events are kept in the log all the same"));
            }
        }
    }
}

fn column_spec(name: &str, column: &FeatureDef) -> ColumnSpec {
    ColumnSpec { name: name.to_owned(), text: column.value.clone(), default: column.default.as_ref().map(Scalar::value) }
}

fn prefixed(what: &str, mut problem: Problem) -> Problem {
    problem.message = format!("{what}: {}", problem.message);
    problem
}

fn type_name(data_type: Option<DataType>) -> String {
    match data_type {
        Some(DataType::Int64) => "an int64".to_owned(),
        Some(t) => format!("a {t}"),
        None => "always null".to_owned(),
    }
}

/// Whether values of this type name things: floats and times do not.
fn is_key(data_type: DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::String | DataType::Bool)
}
