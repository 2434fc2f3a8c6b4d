//! The values in reach at an observation: its own columns, and the features of every view whose key it holds.

use std::collections::BTreeMap;

use kilter_core::{Problem, SourceId};
use kilter_features::expr::Scope;
use kilter_pipeline::{ContextPlan, Lookup};

use super::super::definitions::Named;
use super::super::document::At;
use super::{Found, Resolver, type_name};

/// A context with what is needed to explain why something is not in it.
pub(super) struct Context {
    pub plan: ContextPlan,
    /// Views that the observation has no key for, each with the reason.
    out_of_reach: BTreeMap<String, String>,
    /// Views that are defined but not well, with the names of their columns as far as known.
    broken: BTreeMap<String, Vec<String>>,
}

impl Resolver<'_> {
    /// What is in reach of the events of source `on`; none: that source is missing or broken.
    pub(super) fn context(&mut self, path: &str, what: &str, on: &str, keys: &Named<Vec<String>>) -> Option<Context> {
        let source = self.source(&format!("{path}.on"), what, on);
        self.check_key_names(path, what, keys);
        let Found::Good(source) = source? else { return None };
        let schema = self.plan_of(source).schema.clone();
        let mut scope = Scope::new();
        for field in &schema.fields {
            scope.add(Some(on), &field.name, field.data_type);
        }
        let mut lookups = Vec::new();
        let mut out_of_reach = BTreeMap::new();
        for (position, view) in self.views.iter().enumerate() {
            let name = view.name();
            match self.key(path, what, source, name, keys) {
                Ok(Some(key)) => {
                    lookups.push(Lookup { view: position, key, first_slot: scope.len() });
                    for feature in view.features() {
                        scope.add(Some(name), &feature.name, feature.data_type);
                    }
                }
                Ok(None) => {
                    out_of_reach.insert(name.to_owned(), String::new());
                }
                Err(reason) => {
                    out_of_reach.insert(name.to_owned(), reason);
                }
            }
        }
        let columns_of = |view: &String| {
            self.definitions.features.get(view).map(|def| def.columns.names().map(str::to_owned).collect()).unwrap_or_default()
        };
        let broken = self.broken_views.iter().map(|view| (view.clone(), columns_of(view))).collect();
        let plan = ContextPlan { source, lookups, width: scope.len(), scope };
        Some(Context { plan, out_of_reach, broken })
    }

    pub(super) fn check_key_names(&self, path: &str, what: &str, keys: &Named<Vec<String>>) {
        for view in keys.names() {
            if self.definitions.features.get(view).is_none() && !self.broken_views.contains(view) {
                let names = self.definitions.features.names().chain(self.broken_views.iter().map(String::as_str));
                let mut problem = Problem::unknown("unknown_view", "feature view", view, names);
                problem.message = format!("`keys` of {what}: {}", problem.message);
                self.document.error(At::Key(&format!("{path}.keys.{view}")), problem);
            }
        }
    }

    /// The observation's columns that make the key of a view. `Err`: it has none, and why; `Ok(None)`: the definition is wrong, which is said.
    pub(super) fn key(
        &self,
        path: &str,
        what: &str,
        source: SourceId,
        view: &str,
        keys: &Named<Vec<String>>,
    ) -> Result<Option<Vec<usize>>, String> {
        let plan = self.plan_of(source);
        let Some(def) = self.definitions.features.get(view) else { return Ok(None) };
        let Some(of_view) = self.sources.iter().find(|s| s.name == def.source) else { return Ok(None) };
        let entity_type = |column: &str| of_view.schema.index(column).map(|i| of_view.schema.fields[i].data_type);
        let Some(columns) = keys.get(view) else {
            let mut key = Vec::new();
            for column in &def.entity {
                let found = plan.schema.index(column).filter(|i| Some(plan.schema.fields[*i].data_type) == entity_type(column));
                match found {
                    Some(position) => key.push(position),
                    None => {
                        let has = if plan.schema.index(column).is_some() { "another type of" } else { "no" };
                        return Err(format!(
                            "\"{}\" has {has} column `{column}`; say which of its columns holds it: keys = {{ {view} = \"...\" }}",
                            plan.name
                        ));
                    }
                }
            }
            return Ok(Some(key));
        };
        let path = format!("{path}.keys.{view}");
        let what = format!("`keys` of {what}");
        if columns.len() != def.entity.len() {
            let problem = Problem::new(
                "wrong_key",
                format!("{what}: the entity of view \"{view}\" has {} column(s), these are {}", def.entity.len(), columns.len()),
            );
            self.document.error(At::Value(&path), problem.hint(format!("one column for each of: {}", def.entity.join(", "))));
            return Ok(None);
        }
        let mut key = Vec::new();
        for (column, entity) in columns.iter().zip(&def.entity) {
            let Some(position) = self.column(&path, &what, source, column) else { return Ok(None) };
            let found = plan.schema.fields[position].data_type;
            if let Some(needed) = entity_type(entity).filter(|needed| *needed != found) {
                let problem = Problem::new(
                    "key_type",
                    format!(
                        "{what}: `{column}` is {}, but the entity `{entity}` of \"{view}\" is {}",
                        type_name(Some(found)),
                        type_name(Some(needed))
                    ),
                );
                self.document.error(At::Value(&path), problem.hint("both must have the same type: change it in one of the sources"));
                return Ok(None);
            }
            key.push(position);
        }
        Ok(Some(key))
    }
}

impl Context {
    /// Rewrites a complaint about a name that is known but not in reach; none: the complaint would be an echo.
    pub(super) fn explain(&self, text: &str, problem: Problem) -> Option<Problem> {
        if problem.code != "unknown_column" {
            return Some(problem);
        }
        let named = problem.at.clone().and_then(|at| text.get(at)).unwrap_or(text).trim();
        let echo = self.broken.iter().any(|(view, columns)| {
            named.strip_prefix(view.as_str()).is_some_and(|rest| rest.starts_with('.'))
                || columns.iter().any(|c| named.starts_with(c.as_str()))
        });
        if echo {
            return None;
        }
        for (view, reason) in &self.out_of_reach {
            if named.strip_prefix(view.as_str()).is_some_and(|rest| rest.starts_with('.')) {
                if reason.is_empty() {
                    return None;
                }
                let explained = Problem::new("out_of_reach", format!("feature view \"{view}\" is not in reach here")).hint(reason.clone());
                return Some(Problem { at: problem.at, ..explained });
            }
        }
        Some(problem)
    }

    pub(super) fn broken_views(&self) -> impl Iterator<Item = &str> {
        self.broken.keys().map(String::as_str)
    }

    pub(super) fn is_broken(&self, view: &str) -> bool {
        self.broken.contains_key(view)
    }

    /// Why a view is not in reach; none: it is, or it does not exist. An empty reason has been said already.
    pub(super) fn reason(&self, view: &str) -> Option<&str> {
        self.out_of_reach.get(view).map(String::as_str)
    }
}
