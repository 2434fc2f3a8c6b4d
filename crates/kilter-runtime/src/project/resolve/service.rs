//! Services: which features, of which views, under which keys.

use std::collections::BTreeSet;

use kilter_core::{DataType, Field, Problem};
use kilter_features::expr::{self, Scope, qualifiers};
use kilter_pipeline::{Lookup, ServiceFeature, ServicePlan};

use super::super::definitions::ServiceDef;
use super::super::document::At;
use super::model::{named, reference};
use super::{Resolver, type_name};

pub(super) fn resolve(resolver: &mut Resolver<'_>, name: &str, def: &ServiceDef) -> Option<ServicePlan> {
    let path = format!("service.{name}");
    let what = format!("service \"{name}\"");
    for (kind, is_one) in [
        ("a feature view", resolver.definitions.features.get(name).is_some() || resolver.broken_views.contains(name)),
        ("a source", resolver.definitions.source.get(name).is_some() || resolver.reading.broken_sources.contains(name)),
    ] {
        if is_one {
            let problem = Problem::new("duplicate", format!("{what} has the name of {kind}, so `{name}.*` could be either"));
            resolver.document.error(At::Key(&path), problem.hint("name the service by what it is for, such as `scoring`"));
            return None;
        }
    }
    resolver.check_key_names(&path, &what, &def.keys);
    let mut list = List {
        resolver,
        path: &path,
        what: &what,
        def,
        scope: Scope::new(),
        keys: Vec::new(),
        lookups: Vec::new(),
        features: Vec::new(),
        sound: true,
    };
    for (i, text) in def.features.iter().enumerate() {
        list.one(&format!("{path}.features.{i}"), text);
    }
    for view in def.keys.names() {
        let is_read = |l: &Lookup| list.resolver.views[l.view].name() == view;
        if list.sound && list.resolver.definitions.features.get(view).is_some() && !list.lookups.iter().any(is_read) {
            let problem = Problem::new("unused_key", format!("`keys` of {what} names view \"{view}\", of which it has no feature"));
            list.resolver
                .document
                .error(At::Key(&format!("{path}.keys.{view}")), problem.hint("leave it out, or list features of the view"));
            list.sound = false;
        }
    }
    let List { scope, keys, lookups, features, sound, .. } = list;
    let lines = def.features.iter().map(|line| line.trim().to_owned()).collect();
    sound.then(|| ServicePlan { name: name.to_owned(), keys, lookups, features, lines, width: scope.len() })
}

/// The features of one service while they are read.
struct List<'a, 'd> {
    resolver: &'a Resolver<'d>,
    path: &'a str,
    what: &'a str,
    def: &'a ServiceDef,
    scope: Scope,
    keys: Vec<Field>,
    lookups: Vec<Lookup>,
    features: Vec<ServiceFeature>,
    sound: bool,
}

impl List<'_, '_> {
    fn wrong(&mut self, path: &str, offset: usize, text: &str, mut problem: Problem) {
        self.sound = false;
        problem.message = format!("{}: {}", self.what, problem.message);
        if problem.hint.is_none() {
            problem = problem.hint("operators and functions are listed in docs/reference/expressions.md");
        }
        self.resolver.document.error_in_text(path, offset, text.len(), problem);
    }

    fn one(&mut self, path: &str, text: &str) {
        let trimmed = text.trim();
        let offset = text.len() - text.trim_start().len();
        if let Some(view) = trimmed.strip_suffix(".*") {
            if let Some(at) = self.reach(path, offset, view) {
                let view = &self.resolver.views[self.lookups[at].view];
                let names: Vec<String> = view.features().iter().map(|f| f.name.clone()).collect();
                names.iter().for_each(|name| self.reference(path, offset, view.name(), name));
            }
        } else if let Some((name, expression)) = named(trimmed) {
            let start = offset + (expression.as_ptr() as usize - trimmed.as_ptr() as usize);
            let views: BTreeSet<String> = qualifiers(expression).into_iter().collect();
            if views.iter().all(|view| self.reach(path, start, view).is_some()) {
                self.add(path, start, name, expression, expression);
            }
        } else if let Some((Some(view), name)) = reference(trimmed) {
            if self.reach(path, offset, view).is_some() {
                self.reference(path, offset, view, name);
            }
        } else if let Some((None, name)) = reference(trimmed) {
            let problem = Problem::new("unqualified", format!("`{name}` does not say of which view"));
            self.wrong(path, offset, trimmed, problem.hint(format!("write \"VIEW.{name}\"")));
        } else {
            let problem = Problem::new("unnamed_feature", "a feature that is computed needs a name");
            self.wrong(path, offset, trimmed, problem.hint(format!("name it: \"ratio = {trimmed}\"")));
        }
    }

    /// The lookup of a view, taken up when it is named first; none: it cannot be, which is said.
    fn reach(&mut self, path: &str, offset: usize, view: &str) -> Option<usize> {
        if let Some(at) = self.lookups.iter().position(|l| self.resolver.views[l.view].name() == view) {
            return Some(at);
        }
        let Some(position) = self.resolver.views.iter().position(|v| v.name() == view) else {
            if self.resolver.broken_views.contains(view) {
                self.sound = false;
                return None;
            }
            let problem = Problem::unknown("unknown_view", "feature view", view, self.resolver.views.iter().map(|v| v.name()));
            self.wrong(path, offset, view, problem);
            return None;
        };
        let found = &self.resolver.views[position];
        let schema = &self.resolver.plan_of(found.source()).schema;
        let types: Vec<DataType> = found.entity().iter().filter_map(|c| Some(schema.fields[schema.index(c)?].data_type)).collect();
        let names = self.def.keys.get(view).map_or(found.entity(), Vec::as_slice);
        if names.len() != types.len() {
            let problem = Problem::new(
                "wrong_key",
                format!("{}: the entity of view \"{view}\" has {} column(s), these are {}", self.what, types.len(), names.len()),
            );
            let hint = format!("one name for each of: {}", found.entity().join(", "));
            self.resolver.document.error(At::Value(&format!("{}.keys.{view}", self.path)), problem.hint(hint));
            self.sound = false;
            return None;
        }
        let mut key = Vec::new();
        for (name, data_type) in names.iter().zip(types) {
            match self.keys.iter().position(|k| k.name == *name) {
                Some(at) if self.keys[at].data_type == data_type => key.push(at),
                Some(at) => {
                    let other = self.keys[at].data_type;
                    let problem = Problem::new(
                        "key_type",
                        format!(
                            "the key `{name}` of view \"{view}\" is {}, that of another view {}",
                            type_name(Some(data_type)),
                            type_name(Some(other))
                        ),
                    );
                    self.wrong(path, offset, view, problem.hint(format!("give it another name: keys = {{ {view} = \"...\" }}")));
                    return None;
                }
                None => {
                    key.push(self.keys.len());
                    self.keys.push(Field { name: name.clone(), data_type });
                }
            }
        }
        self.lookups.push(Lookup { view: position, key, first_slot: self.scope.len() });
        for feature in found.features() {
            self.scope.add(Some(view), &feature.name, feature.data_type);
        }
        Some(self.lookups.len() - 1)
    }

    fn reference(&mut self, path: &str, offset: usize, view: &str, name: &str) {
        let full = format!("{view}.{name}");
        // A name that is a word of SQL needs quotes in an expression, and none here.
        let quoted = format!("\"{view}\".\"{name}\"");
        match self.scope.resolve(Some(view), name) {
            Ok(_) => self.add(path, offset, &full, &full, &quoted),
            Err(problem) => self.wrong(path, offset, &full, Problem { at: None, ..problem }),
        }
    }

    fn add(&mut self, path: &str, offset: usize, name: &str, text: &str, expression: &str) {
        if self.features.iter().any(|f| f.name == name) {
            let problem = Problem::new("duplicate", format!("feature \"{name}\" is there already"));
            let hint = if name == text { "it is named twice, or a `.*` holds it already" } else { "give it another name" };
            return self.wrong(path, offset, text, problem.hint(hint));
        }
        let expr = match expr::compile(expression, &self.scope) {
            Ok(expr) => expr,
            Err(problem) => return self.wrong(path, offset, text, problem),
        };
        match expr.data_type() {
            Some(data_type) => self.features.push(ServiceFeature { name: name.to_owned(), text: text.to_owned(), expr, data_type }),
            None => self.wrong(
                path,
                offset,
                text,
                Problem::new("always_null", format!("feature \"{name}\" would always be null")).hint("leave it out"),
            ),
        }
    }
}
