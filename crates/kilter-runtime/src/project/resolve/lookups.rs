//! Views whose expressions read other views: which those are, in what order all are compiled, and the keys by which they are found.

use std::collections::{BTreeMap, BTreeSet};

use kilter_core::{Problem, SourceId};
use kilter_features::expr::qualifiers;
use kilter_features::{LookupSpec, View};

use super::super::definitions::FeaturesDef;
use super::super::document::At;
use super::{Resolver, by_name};

/// A complaint about a derived feature that names another view.
pub(super) fn explain_derived(text: &str, problem: Problem, views: impl Fn(&str) -> bool) -> Problem {
    let named = qualifiers(problem.at.clone().and_then(|at| text.get(at)).unwrap_or(text)).into_iter().find(|name| views(name));
    match named.filter(|_| problem.code == "unknown_column") {
        None => problem,
        Some(view) => Problem {
            at: problem.at,
            ..Problem::new("out_of_reach", "a derived feature is made of its own view's features")
                .hint(format!("read `{view}` in a line of `columns` or in `where`, or where a model or decision is defined"))
        },
    }
}

/// The other views that one view's lines name, found or not.
#[derive(Default)]
pub(super) struct Lookups {
    pub specs: Vec<LookupSpec>,
    /// Those that cannot be found from the events, with the reason; empty where it has been said.
    out_of_reach: BTreeMap<String, String>,
}

impl Resolver<'_> {
    /// Compiles all views, each after those that it reads.
    pub(super) fn all_views(&mut self) {
        let definitions = self.definitions;
        let mut left: BTreeMap<&str, &FeaturesDef> = by_name(&definitions.features).into_iter().collect();
        let names: BTreeSet<String> = definitions.features.names().map(str::to_owned).collect();
        let mut compiled: BTreeMap<String, View> = BTreeMap::new();
        loop {
            let ready =
                left.iter().find(|(name, def)| reads(name, def, &names).all(|other| !left.contains_key(other))).map(|(n, d)| (*n, *d));
            let Some((name, def)) = ready else { break };
            left.remove(name);
            match self.view(name, def, &compiled) {
                Some(view) => drop(compiled.insert(name.to_owned(), view)),
                None => drop(self.broken_views.insert(name.to_owned())),
            }
        }
        for (name, def) in &left {
            let others: Vec<&str> = reads(name, def, &names).filter(|other| left.contains_key(other)).collect();
            let problem =
                Problem::new("circle", format!("feature view \"{name}\" reads {}, which in the end reads it", kilter_core::list(others)));
            let hint = "a view may read others that do not rest on it; compute what both need in a third";
            self.document.error(At::Key(&format!("features.{name}")), problem.hint(hint));
            self.broken_views.insert((*name).to_owned());
        }
        // In the order of their names: that of compiling is of no consequence to anyone.
        self.views = compiled.into_values().collect();
    }

    /// The views that the lines of one name, with the columns that hold their keys.
    pub(super) fn lookups(&self, name: &str, def: &FeaturesDef, source: SourceId, compiled: &BTreeMap<String, View>) -> Lookups {
        let (path, what) = (format!("features.{name}"), format!("feature view \"{name}\""));
        self.check_key_names(&path, &what, &def.keys);
        let names: BTreeSet<String> = self.definitions.features.names().map(str::to_owned).collect();
        let mut lookups = Lookups::default();
        for other in reads(name, def, &names) {
            let Some(view) = compiled.get(other) else {
                lookups.out_of_reach.insert(other.to_owned(), String::new());
                continue;
            };
            match self.key(&path, &what, source, other, &def.keys) {
                Ok(Some(key)) => lookups.specs.push(LookupSpec { view: view.clone(), key }),
                Ok(None) => drop(lookups.out_of_reach.insert(other.to_owned(), String::new())),
                Err(reason) => drop(lookups.out_of_reach.insert(other.to_owned(), reason)),
            }
        }
        lookups
    }
}

impl Lookups {
    /// Rewrites a complaint about a view that is known but not in reach; none: the complaint would be an echo.
    pub(super) fn explain(&self, text: &str, problem: Problem) -> Option<Problem> {
        if problem.code != "unknown_column" {
            return Some(problem);
        }
        let named = problem.at.clone().and_then(|at| text.get(at)).unwrap_or(text).trim();
        let missing =
            self.out_of_reach.iter().find(|(view, _)| named.strip_prefix(view.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match missing {
            None => Some(problem),
            Some((_, reason)) if reason.is_empty() => None,
            Some((view, reason)) => {
                let explained = Problem::new("out_of_reach", format!("feature view \"{view}\" is not in reach here")).hint(reason.clone());
                Some(Problem { at: problem.at, ..explained })
            }
        }
    }
}

/// The other views among `names` that a view's lines name: `view.feature`.
fn reads<'n>(own: &'n str, def: &'n FeaturesDef, names: &'n BTreeSet<String>) -> impl Iterator<Item = &'n str> {
    let lines = def.columns.iter().map(|(_, column)| column.value.as_str());
    let named: BTreeSet<String> = def.filter.as_deref().into_iter().chain(lines).flat_map(qualifiers).collect();
    names.iter().map(String::as_str).filter(move |name| *name != own && named.contains(*name))
}
