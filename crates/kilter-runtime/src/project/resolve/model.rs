//! Models: inputs, learner, label.

use std::collections::BTreeMap;

use kilter_core::{DataType, Problem, SourceId};
use kilter_features::expr::{self, Expr, Scope};
use kilter_learn::{Gbdt, Learner, Task};
use kilter_pipeline::{InputPlan, LabelPlan, ModelPlan};

use super::super::definitions::*;
use super::super::document::At;
use super::super::{params, search};
use super::context::Context;
use super::{Found, Resolver, is_key, type_name};
use super::{reasons, scorecard};

pub(super) fn resolve(resolver: &mut Resolver<'_>, name: &str, def: &ModelDef, context: Option<&Context>) -> Option<ModelPlan> {
    let path = format!("model.{name}");
    let what = format!("model \"{name}\"");
    let inputs = context.map(|context| {
        Inputs { resolver, path: &path, what: &what, context, categorical: &def.categorical, within: None, found: Vec::new(), sound: true }
            .read(def)
    });
    // Without all inputs nothing can be said about a name that is not among them.
    let names = inputs.as_ref().and_then(|i| i.as_ref()).map(|inputs| inputs.iter().map(|i| i.name.clone()).collect::<Vec<_>>());
    let learner = learner(resolver, &path, def, names.as_deref());
    let categorical_sound =
        inputs.as_ref().and_then(|i| i.as_ref()).is_none_or(|inputs| categories_have_types(resolver, &path, def, inputs));
    let task = params::task(def);
    let calibrated = calibration(resolver, &path, def, task);
    let label = def.label.as_ref().map(|own| label(resolver, &path, &what, own, task, context));
    Some(ModelPlan {
        name: name.to_owned(),
        context: context?.plan.clone(),
        include_self: def.include_self,
        inputs: inputs??,
        search: match (&def.search, &learner) {
            (Some(_), Some(learner)) => Some(search::plan(resolver.document, &path, def, learner)?),
            _ => None,
        },
        learner: learner.filter(|_| categorical_sound && calibrated)?,
        label: match label {
            Some(label) => Some(label?),
            None => None,
        },
        window: def.window,
        reasons: match (def.reason_groups.is_empty(), &names) {
            (false, Some(names)) => Some(reasons::resolve(resolver, &path, &def.reason_groups, names)?),
            _ => None,
        },
        calibration: def.calibration.as_ref().map(|c| c.plan()),
        holdout: def.holdout,
        min_rows: def.min_rows as usize,
    })
}

/// The inputs of one model while they are read.
struct Inputs<'a, 'd> {
    resolver: &'a Resolver<'d>,
    path: &'a str,
    what: &'a str,
    context: &'a Context,
    /// Names of inputs that may be texts.
    categorical: &'a [String],
    /// The service whose list is being taken over, and where it is named.
    within: Option<(String, usize, String)>,
    found: Vec<InputPlan>,
    sound: bool,
}

impl Inputs<'_, '_> {
    fn read(mut self, def: &ModelDef) -> Option<Vec<InputPlan>> {
        for (i, text) in def.inputs.iter().enumerate() {
            self.one(&format!("{}.inputs.{i}", self.path), text);
        }
        self.sound.then_some(self.found)
    }

    fn wrong(&mut self, path: &str, offset: usize, text: &str, mut problem: Problem) {
        self.sound = false;
        problem.message = format!("{}: {}", self.what, problem.message);
        if problem.hint.is_none() {
            problem = problem.hint("operators and functions are listed in docs/reference/expressions.md");
        }
        // A list from elsewhere is complained about where it is named.
        if let Some((path, offset, text)) = &self.within {
            problem.message = format!("`{text}`: {}", problem.message);
            return self.resolver.document.error_in_text(path, *offset, text.len(), Problem { at: None, ..problem });
        }
        self.resolver.document.error_in_text(path, offset, text.len(), problem);
    }

    fn one(&mut self, path: &str, text: &str) {
        let trimmed = text.trim();
        let offset = text.len() - text.trim_start().len();
        if let Some(view) = trimmed.strip_suffix(".*") {
            self.all_of(path, offset, view);
        } else if let Some((name, expression)) = named(trimmed) {
            let start = offset + (expression.as_ptr() as usize - trimmed.as_ptr() as usize);
            self.expression(path, start, name, expression);
        } else if let Some((qualifier, name)) = reference(trimmed) {
            self.reference(path, offset, trimmed, qualifier, name);
        } else {
            let problem = Problem::new("unnamed_input", "an input that is computed needs a name");
            self.wrong(path, offset, trimmed, problem.hint(format!("name it: \"burden = {trimmed}\"")));
        }
    }

    fn all_of(&mut self, path: &str, offset: usize, view: &str) {
        let views = &self.resolver.views;
        let found = self.context.plan.lookups.iter().find(|l| views[l.view].name() == view);
        if let Some(lookup) = found {
            let features = views[lookup.view].features();
            let usable = features.iter().enumerate().filter(|(_, f)| self.takes(&format!("{view}.{}", f.name), Some(f.data_type)));
            let names: Vec<(usize, String)> = usable.map(|(i, f)| (lookup.first_slot + i, f.name.clone())).collect();
            if names.is_empty() {
                let problem = Problem::new("empty", format!("no feature of view \"{view}\" is a number or bool"));
                self.wrong(
                    path,
                    offset,
                    &format!("{view}.*"),
                    problem.hint("name expressions over its features: \"is_rent = account.last_kind = 'rent'\""),
                );
            }
            for (_, name) in names {
                self.add_reference(path, offset, view, &name);
            }
            return;
        }
        if self.context.is_broken(view) {
            self.sound = false;
            return;
        }
        if self.within.is_none()
            && let Some(service) = self.resolver.definitions.service.get(view)
        {
            self.within = Some((path.to_owned(), offset, format!("{view}.*")));
            service.features.iter().for_each(|line| self.one(path, line));
            self.within = None;
            return;
        }
        if self.resolver.definitions.source.get(view).is_some() {
            let problem = Problem::new("all_of_source", format!("`{view}.*` would make identifiers and times inputs"));
            let hint = format!("`.*` is for feature views; name the columns of a source one by one: \"{view}.amount\"");
            self.wrong(path, offset, &format!("{view}.*"), problem.hint(hint));
            return;
        }
        let problem = match self.context.reason(view) {
            Some("") => {
                self.sound = false;
                return;
            }
            Some(reason) => Problem::new("out_of_reach", format!("feature view \"{view}\" is not in reach here")).hint(reason),
            None => {
                let in_reach = self.context.plan.lookups.iter().map(|l| views[l.view].name()).chain(self.context.broken_views());
                Problem::unknown("unknown_view", "feature view", view, in_reach)
            }
        };
        self.wrong(path, offset, view, problem);
    }

    fn reference(&mut self, path: &str, offset: usize, text: &str, qualifier: Option<&str>, name: &str) {
        match self.context.plan.scope.resolve(qualifier, name) {
            Ok((slot, data_type)) if self.takes_slot(slot, data_type) => {
                let (qualifier, name) = self.slot_name(slot);
                self.add_reference(path, offset, &qualifier, &name);
            }
            Ok((_, data_type)) => {
                let problem = Problem::new(
                    "wrong_type",
                    format!("input `{text}` is {}, and a model sees numbers and bools", type_name(Some(data_type))),
                );
                self.wrong(path, offset, text, problem.hint(remedy(Some(data_type), text)));
            }
            Err(problem) => match self.context.explain(text, problem) {
                Some(problem) => self.wrong(path, offset, text, problem),
                None => self.sound = false,
            },
        }
    }

    /// Whether a model sees such an input: a number, a bool, or a text that is a category.
    fn takes(&self, name: &str, data_type: Option<DataType>) -> bool {
        let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
        let category = || self.categorical.iter().any(|listed| listed == name || listed == last);
        usable(data_type) || data_type == Some(DataType::String) && category()
    }

    fn takes_slot(&self, slot: usize, data_type: DataType) -> bool {
        let (qualifier, name) = self.slot_name(slot);
        self.takes(&format!("{qualifier}.{name}"), Some(data_type))
    }

    /// The full name of a slot of the context.
    fn slot_name(&self, slot: usize) -> (String, String) {
        let plan = &self.context.plan;
        for lookup in plan.lookups.iter().rev() {
            if slot >= lookup.first_slot {
                let view = &self.resolver.views[lookup.view];
                return (view.name().to_owned(), view.features()[slot - lookup.first_slot].name.clone());
            }
        }
        let source = self.resolver.plan_of(plan.source);
        (source.name.clone(), source.schema.fields[slot].name.clone())
    }

    fn add_reference(&mut self, path: &str, offset: usize, qualifier: &str, name: &str) {
        let full = format!("{qualifier}.{name}");
        let scope = &self.context.plan.scope;
        // A name that is a word of SQL needs quotes in an expression, and none here.
        let expr = expr::compile(&full, scope).or_else(|_| expr::compile(&format!("\"{qualifier}\".\"{name}\""), scope));
        match expr {
            Ok(expr) => self.add(path, offset, &full, &full, expr),
            Err(problem) => self.wrong(path, offset, &full, Problem { at: None, ..problem }),
        }
    }

    fn expression(&mut self, path: &str, offset: usize, name: &str, text: &str) {
        match expr::compile(text, &self.context.plan.scope) {
            Ok(expr) if self.takes(name, expr.data_type()) => self.add(path, offset, name, text, expr),
            Ok(expr) => {
                let found = expr.data_type();
                let problem =
                    Problem::new("wrong_type", format!("input \"{name}\" is {}, and a model sees numbers and bools", type_name(found)));
                let hint = match expr.as_constant() {
                    Some(_) => format!("the first `=` gives a name; a comparison needs one of its own: \"is_it = {name} = {text}\""),
                    _ => remedy(found, text),
                };
                self.wrong(path, offset, text, problem.hint(hint));
            }
            Err(problem) => match self.context.explain(text, problem) {
                Some(mut problem) => {
                    problem.message = format!("input \"{name}\": {}", problem.message);
                    self.wrong(path, offset, text, problem);
                }
                None => self.sound = false,
            },
        }
    }

    fn add(&mut self, path: &str, offset: usize, name: &str, text: &str, expr: Expr) {
        if self.found.iter().any(|i| i.name == name) {
            let problem = Problem::new("duplicate", format!("input \"{name}\" is there already"));
            let hint = if name == text { "it is named twice, or a `.*` holds it already" } else { "give it another name" };
            self.wrong(path, offset, text, problem.hint(hint));
            return;
        }
        self.found.push(InputPlan { name: name.to_owned(), text: text.to_owned(), expr });
    }
}

fn usable(data_type: Option<DataType>) -> bool {
    matches!(data_type, Some(DataType::Bool | DataType::Int64 | DataType::Float64))
}

fn remedy(data_type: Option<DataType>, text: &str) -> String {
    match data_type {
        Some(DataType::String) => {
            let name = text.rsplit_once('.').map_or(text, |(_, last)| last);
            format!("compare it: \"is_it = {text} = 'x'\"; or with `learner = \"gbdt\"` let it be a category: categorical = [\"{name}\"]")
        }
        Some(DataType::Timestamp) => format!("take a part of it: \"hour_of_day = hour({text})\""),
        Some(DataType::NumberList) => format!("take a value out of it: \"first = element({text}, 1)\", \"average = list_mean({text})\""),
        Some(DataType::TextList) => {
            format!("take a value out of it: \"is_it = element({text}, 1) = 'x'\", \"has_it = contains({text}, 'x')\"")
        }
        Some(DataType::NumberMap) => format!("take a value out of it: \"x = get({text}, 'x')\""),
        _ => "an input needs values to learn from".to_owned(),
    }
}

/// `name = expression`, where the text has that form.
pub(crate) fn named(text: &str) -> Option<(&str, &str)> {
    let (name, expression) = text.split_once('=')?;
    let name = name.trim_end();
    (is_identifier(name) && !expression.starts_with('=')).then(|| (name, expression.trim_start()))
}

/// `name` or `qualifier.name`.
pub(crate) fn reference(text: &str) -> Option<(Option<&str>, &str)> {
    match text.split_once('.') {
        Some((qualifier, name)) => (is_identifier(qualifier) && is_identifier(name)).then_some((Some(qualifier), name)),
        None => is_identifier(text).then_some((None, text)),
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn learner(resolver: &Resolver<'_>, path: &str, def: &ModelDef, inputs: Option<&[String]>) -> Option<Learner> {
    let mut sound = inputs.is_some();
    let keeps_directions = matches!(def.learner, LearnerKind::Gbdt | LearnerKind::Explainable | LearnerKind::Scorecard);
    if !keeps_directions && !def.monotone.is_empty() {
        let name = LearnerKind::WORDS.iter().find(|(_, kind)| *kind == def.learner).map_or("", |(word, _)| word);
        let problem = Problem::new("misplaced", format!("the learner \"{name}\" keeps no directions"));
        resolver.document.error(At::Key(&format!("{path}.monotone")), problem.hint("use `learner = \"gbdt\"`, or leave `monotone` out"));
        sound = false;
    }
    let mut directions: BTreeMap<usize, i8> = BTreeMap::new();
    if let Some(inputs) = inputs {
        for (name, direction) in def.monotone.iter() {
            match input_position(name, inputs) {
                Some(position) => {
                    directions.insert(position, if *direction == Direction::Increasing { 1 } else { -1 });
                }
                None => {
                    let problem = Problem::unknown("unknown_input", "input", name, inputs.iter().map(String::as_str));
                    resolver.document.error(At::Key(&format!("{path}.monotone.{name}")), problem);
                    sound = false;
                }
            }
        }
    }
    let categorical = categorical(resolver, path, def, inputs, &directions);
    sound &= categorical.is_some();
    let monotone = match inputs {
        Some(inputs) if !directions.is_empty() => (0..inputs.len()).map(|i| directions.get(&i).copied().unwrap_or(0)).collect(),
        _ => Vec::new(),
    };
    match params::learner(def.learner, &def.params, def.seed, monotone) {
        Ok(Learner::Scorecard(scorecard)) => {
            let scorecard = scorecard::resolve(resolver, path, scorecard, inputs?, &directions)?;
            sound.then_some(Learner::Scorecard(scorecard))
        }
        Ok(Learner::Gbdt(gbdt)) if sound => Some(Learner::Gbdt(Gbdt { categorical: categorical?, ..gbdt })),
        Ok(learner) => sound.then_some(learner),
        Err(problems) => {
            for (name, problem) in problems {
                let place = format!("{path}.params.{name}");
                let at = if matches!(problem.code, "wrong_type" | "out_of_range") { At::Value(&place) } else { At::Key(&place) };
                resolver.document.error(at, problem);
            }
            None
        }
    }
}

/// The full names of inputs that are categories; none when one of them cannot be.
fn categorical(
    resolver: &Resolver<'_>,
    path: &str,
    def: &ModelDef,
    inputs: Option<&[String]>,
    directions: &BTreeMap<usize, i8>,
) -> Option<Vec<String>> {
    if def.learner != LearnerKind::Gbdt && !def.categorical.is_empty() {
        let word = LearnerKind::WORDS.iter().find(|(_, kind)| *kind == def.learner).map_or("", |(word, _)| word);
        let problem = Problem::new("misplaced", format!("the learner \"{word}\" knows no categories"));
        resolver
            .document
            .error(At::Key(&format!("{path}.categorical")), problem.hint("use `learner = \"gbdt\"`, or leave `categorical` out"));
        return None;
    }
    let mut names = Vec::new();
    let mut sound = true;
    for (at, name) in def.categorical.iter().enumerate() {
        let place = format!("{path}.categorical.{at}");
        match input_position(name, inputs?) {
            Some(position) if directions.contains_key(&position) => {
                let problem = Problem::new("misplaced", format!("input `{name}` is a category, and has no direction"));
                resolver.document.error(At::Value(&place), problem.hint("leave it out of `monotone` or of `categorical`"));
                sound = false;
            }
            Some(position) => names.push(inputs?[position].clone()),
            None => {
                let problem = Problem::unknown("unknown_input", "input", name, inputs?.iter().map(String::as_str));
                resolver.document.error(At::Value(&place), problem);
                sound = false;
            }
        }
    }
    sound.then_some(names)
}

/// Whether what is listed as a category can be one: a fraction is a quantity.
fn categories_have_types(resolver: &mut Resolver<'_>, path: &str, def: &ModelDef, inputs: &[InputPlan]) -> bool {
    let names: Vec<String> = inputs.iter().map(|input| input.name.clone()).collect();
    let mut sound = true;
    for (at, name) in def.categorical.iter().enumerate() {
        let position = input_position(name, &names);
        // Of one with a direction that has been said already.
        if position.is_some() && def.monotone.names().any(|other| input_position(other, &names) == position) {
            continue;
        }
        let input = position.map(|position| &inputs[position]);
        if input.is_some_and(|input| input.expr.data_type() == Some(DataType::Float64)) {
            let problem = Problem::new("wrong_type", format!("input `{name}` is a float64, and a category is a text, an int64 or a bool"));
            let hint = format!("take it out of `categorical`, or make it whole: \"{name} = cast(... as bigint)\"");
            resolver.document.error(At::Value(&format!("{path}.categorical.{at}")), problem.hint(hint));
            sound = false;
        }
    }
    sound
}

/// An input by its name, or by the part after the point when only one ends so.
pub(super) fn input_position(name: &str, inputs: &[String]) -> Option<usize> {
    inputs.iter().position(|i| i == name).or_else(|| {
        let mut ending = inputs.iter().enumerate().filter(|(_, i)| i.rsplit_once('.').is_some_and(|(_, last)| last == name));
        let first = ending.next()?.0;
        ending.next().is_none().then_some(first)
    })
}

/// Whether what is calibrated has a probability.
fn calibration(resolver: &Resolver<'_>, path: &str, def: &ModelDef, task: Option<Task>) -> bool {
    let Some(task) = task.filter(|task| def.calibration.is_some() && *task != Task::Classes) else { return true };
    let problem = Problem::new("misplaced", format!("the learner predicts {}, and a calibration is of probabilities", task.words()));
    resolver.document.error(At::Key(&format!("{path}.calibration")), problem.hint("leave `calibration` out"));
    false
}

fn label(
    resolver: &mut Resolver<'_>,
    path: &str,
    what: &str,
    label: &LabelDef,
    task: Option<Task>,
    context: Option<&Context>,
) -> Option<LabelPlan> {
    let is_number = task.is_some_and(Task::has_numbers);
    let path = format!("{path}.label");
    let what = format!("the label of {what}");
    let Found::Good(source) = resolver.source(&format!("{path}.source"), &what, &label.source)? else { return None };
    let value = label_value(resolver, &path, &what, label, is_number, source);
    let is_class = |label: f64| label == 0.0 || label == 1.0;
    if label.absent.is_some_and(|absent| !is_class(absent)) && task.is_some_and(|task| !task.has_numbers()) {
        let problem = Problem::new("out_of_range", "the label of a row without a label event must be 0 or 1");
        resolver
            .document
            .error(At::Value(&format!("{path}.absent")), problem.hint("write `absent = 0`; a learner of numbers takes others"));
    }
    let observed = context?.plan.source;
    let keys: Vec<Option<(usize, usize)>> =
        label.on.iter().enumerate().map(|(i, pair)| key_pair(resolver, &path, &what, i, pair, observed, source)).collect();
    let keys = keys.into_iter().collect::<Option<Vec<_>>>()?;
    let (observation_key, label_key) = keys.into_iter().unzip();
    Some(LabelPlan {
        source,
        value: value?,
        is_number,
        value_text: label.value.clone(),
        observation_key,
        label_key,
        within: label.within,
        absent: label.absent,
    })
}

fn label_value(resolver: &Resolver<'_>, path: &str, what: &str, label: &LabelDef, is_number: bool, source: SourceId) -> Option<Expr> {
    let path = format!("{path}.value");
    let mut scope = Scope::new();
    for field in &resolver.plan_of(source).schema.fields {
        scope.add(Some(&label.source), &field.name, field.data_type);
    }
    match expr::compile(&label.value, &scope) {
        Ok(expr) if usable(expr.data_type()) => Some(expr),
        Ok(expr) => {
            let must = if is_number { "a number" } else { "a bool or 0/1" };
            let problem = Problem::new("wrong_type", format!("the value must be {must}, this is {}", type_name(expr.data_type())));
            let hint = match is_number {
                true => "name a column or an expression that is a number: value = \"amount\"".to_owned(),
                false => format!("compare it: value = \"{} = 'default'\"", label.value.trim()),
            };
            resolver.text_problem(&path, what, Some(&label.value), problem.hint(hint));
            None
        }
        Err(problem) => {
            resolver.text_problem(&path, what, Some(&label.value), problem);
            None
        }
    }
}

fn key_pair(
    resolver: &Resolver<'_>,
    path: &str,
    what: &str,
    item: usize,
    (ours, theirs): &(String, String),
    observed: SourceId,
    source: SourceId,
) -> Option<(usize, usize)> {
    let document = resolver.document;
    let place = document.first_of(&[format!("{path}.on.{ours}"), format!("{path}.on.{item}"), format!("{path}.on")]);
    let here = resolver.column(&place, what, observed, ours);
    let there = resolver.column(&place, what, source, theirs);
    let (here, there) = (here?, there?);
    let type_of = |source: SourceId, column: usize| resolver.plan_of(source).schema.fields[column].data_type;
    let (left, right) = (type_of(observed, here), type_of(source, there));
    let names = (&resolver.plan_of(observed).name, &resolver.plan_of(source).name);
    if left != right {
        let problem = Problem::new(
            "key_type",
            format!(
                "{what}: `{ours}` of \"{}\" is {}, but `{theirs}` of \"{}\" is {}",
                names.0,
                type_name(Some(left)),
                names.1,
                type_name(Some(right))
            ),
        );
        document.error(At::Value(&place), problem.hint("both must have the same type: change it in one of the sources"));
        return None;
    }
    if !is_key(left) {
        let problem = Problem::new("key_type", format!("{what}: `{ours}` is {}, which cannot be a key", type_name(Some(left))));
        document.error(At::Value(&place), problem.hint("keys are int64, string or bool"));
        return None;
    }
    Some((here, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_input_comes_with_a_way_to_make_one_of_it() {
        let mut scope = Scope::new();
        for (i, data_type) in DataType::ALL.into_iter().enumerate() {
            scope.add(None, &format!("x{i}"), data_type);
        }
        for (i, data_type) in DataType::ALL.into_iter().enumerate() {
            let name = format!("x{i}");
            let numeric = matches!(data_type, DataType::Bool | DataType::Int64 | DataType::Float64);
            assert_eq!(usable(Some(data_type)), numeric, "{data_type}");
            if numeric {
                continue;
            }
            // Every example of the hint can be taken over as it stands; what else can be done is no input.
            let hint = remedy(Some(data_type), &name);
            let of_inputs = hint.split("; or ").next().unwrap_or(&hint);
            let examples: Vec<&str> = of_inputs.split('"').skip(1).step_by(2).collect();
            assert!(!examples.is_empty(), "{hint}");
            for example in examples {
                let (_, expression) = named(example).unwrap_or_else(|| panic!("{example} has no name"));
                let expr = expr::compile(expression, &scope).unwrap_or_else(|e| panic!("{example}: {e}"));
                assert!(usable(expr.data_type()), "{example}");
            }
        }
    }
}
