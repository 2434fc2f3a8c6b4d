//! From one plan to another over the same log: what keeps its state, what is filled from the log, and how both become one pipeline.
//!
//! The result is the state that a fresh pipeline of the new plan would reach over the whole log, bit for bit. So a part may keep its
//! state only when everything that state follows from is the same under both plans; names and types count, positions do not.

use std::sync::Arc;

use kilter_core::{EventTime, SourceId};
use kilter_features::{Engine, View};

use crate::{ContextPlan, MonitorPlan, Pipeline, Plan};

/// The way from one plan to another.
pub struct Change {
    old: Arc<Plan>,
    new: Arc<Plan>,
    /// By position in the new plan: the one of the old plan whose state goes on. None: filled from the log.
    views: Vec<Option<usize>>,
    models: Vec<Option<usize>>,
    monitors: Vec<Option<usize>>,
    sources: Vec<Option<usize>>,
    /// The new plan with no more views and decisions than are needed for what is filled.
    reduced: Arc<Plan>,
    /// Where a view of the new plan lies in the reduced one.
    reduced_views: Vec<Option<usize>>,
    needs_log: bool,
}

/// The parts do not fit together; they are as they were.
pub struct Misfit {
    pub old: Box<Pipeline>,
    pub filled: Box<Pipeline>,
}

impl Change {
    /// `same_inputs` says of a model of the old and one of the new plan whether a version trained under one serves under the other.
    pub fn new(old: Arc<Plan>, new: Arc<Plan>, same_inputs: impl Fn(usize, usize) -> bool) -> Change {
        // What a view read of others is in its state: they must be the same, too.
        let same = |v: &usize| old.view(new.views[*v].name()).is_some_and(|o| same_view(&old, &old.views[o], &new, &new.views[*v]));
        let carried = |v: usize| old.view(new.views[v].name()).filter(|_| new.with_needs([v]).iter().all(same));
        let views: Vec<_> = (0..new.views.len()).map(carried).collect();
        let models: Vec<_> = new.models.iter().enumerate().map(|(i, m)| old.model(&m.name).filter(|o| same_inputs(*o, i))).collect();
        let sources: Vec<_> = new.sources.iter().map(|s| old.source(&s.name).map(|s| usize::from(s.0))).collect();
        let monitors: Vec<_> = new
            .monitors
            .iter()
            .map(|m| old.monitors.iter().position(|o| o.name == m.name).filter(|o| same_monitor(&old, *o, &new, m, &views, &models)))
            .collect();

        let watched = |model: usize| new.monitors.iter().zip(&monitors).any(|(m, from)| m.model == model && from.is_none());
        let decisions: Vec<usize> = (0..new.decisions.len()).filter(|d| new.decisions[*d].model.is_some_and(watched)).collect();
        let needed = |view: usize| {
            views[view].is_none() || decisions.iter().any(|d| new.decisions[*d].context.lookups.iter().any(|l| l.view == view))
        };
        let mut kept = new.with_needs((0..new.views.len()).filter(|v| needed(*v)));
        kept.sort_unstable();
        let reduced_views: Vec<_> = (0..new.views.len()).map(|v| kept.iter().position(|k| *k == v)).collect();
        let reduced = Plan {
            views: kept.iter().map(|v| new.views[*v].clone()).collect(),
            decisions: decisions
                .iter()
                .map(|d| {
                    let mut decision = new.decisions[*d].clone();
                    renumber(&mut decision.context, &reduced_views);
                    decision
                })
                .collect(),
            ..Plan::clone(&new)
        };
        let all = |of: &[Option<usize>]| of.iter().all(Option::is_some);
        // A source that comes or goes moves the latest event time.
        let same_sources = all(&sources) && old.sources.len() == new.sources.len();
        let needs_log = !(all(&views) && all(&models) && all(&monitors) && same_sources);
        Change { old, new, views, models, monitors, sources, reduced: Arc::new(reduced), reduced_views, needs_log }
    }

    pub fn old(&self) -> &Arc<Plan> {
        &self.old
    }

    pub fn new_plan(&self) -> &Arc<Plan> {
        &self.new
    }

    /// Whether anything must be read from the log's start; else the old state holds all that is needed.
    pub fn needs_log(&self) -> bool {
        self.needs_log
    }

    /// Views of the new plan whose state goes on.
    pub fn carries_view(&self, view: usize) -> bool {
        self.views[view].is_some()
    }

    pub fn carries_model(&self, model: usize) -> bool {
        self.models[model].is_some()
    }

    pub fn carries_monitor(&self, monitor: usize) -> bool {
        self.monitors[monitor].is_some()
    }

    /// The views that the log is read for, by position in the new plan: those without state, and those that a monitor to be filled looks at.
    pub fn filled_views(&self) -> impl Iterator<Item = usize> {
        (0..self.new.views.len()).filter(|v| self.reduced_views[*v].is_some())
    }

    /// Whether the pipeline that is filled needs the model's versions as they came into service.
    pub fn fills_model(&self, model: usize) -> bool {
        self.models[model].is_none() || self.reduced.decisions.iter().any(|d| d.model == Some(model))
    }

    /// An empty pipeline for the log's events, reduced to what is missing. Model positions are those of the new plan.
    pub fn filler(&self) -> Pipeline {
        Pipeline::new(Arc::clone(&self.reduced))
    }

    /// Whether the two are what this change was made for, and have come to the same place of the log, unless the log is not needed.
    pub fn fits(&self, old: &Pipeline, filled: &Pipeline) -> bool {
        let together = !self.needs_log || old.next == filled.next;
        together && Arc::ptr_eq(&old.plan, &self.old) && Arc::ptr_eq(&filled.plan, &self.reduced)
    }

    /// Puts the old state and what was filled together, when they fit.
    pub fn finish(&self, mut old: Pipeline, mut filled: Pipeline) -> Result<Pipeline, Misfit> {
        if !self.fits(&old, &filled) {
            return Err(Misfit { old: Box::new(old), filled: Box::new(filled) });
        }
        const FILLED: usize = 0;
        const OLD: usize = 1;
        let origins: Vec<(usize, usize)> = self
            .views
            .iter()
            .zip(&self.reduced_views)
            .map(|(old, filled)| match (filled, old) {
                (_, Some(old)) => (OLD, *old),
                (filled, None) => (FILLED, filled.unwrap_or(usize::MAX)),
            })
            .collect();
        let watermarks = (0..self.new.sources.len()).map(|s| self.watermark(s, &old.engine, &filled.engine)).collect();
        let empty = || Engine::new(Vec::new());
        let mut parts = [std::mem::replace(&mut filled.engine, empty()), std::mem::replace(&mut old.engine, empty())];
        let Some(engine) = Engine::assemble(self.new.views.clone(), watermarks, &mut parts, &origins) else {
            [filled.engine, old.engine] = parts;
            return Err(Misfit { old: Box::new(old), filled: Box::new(filled) });
        };
        let mut pipeline = Pipeline::with_engine(Arc::clone(&self.new), engine);
        for (model, place) in pipeline.champions.iter_mut().enumerate() {
            *place = match self.models[model] {
                Some(from) => old.champions[from].take(),
                None => filled.champions[model].take(),
            };
        }
        for (monitor, state) in pipeline.monitors.iter_mut().enumerate() {
            *state = match self.monitors[monitor] {
                Some(from) => std::mem::take(&mut old.monitors[from]),
                None => std::mem::take(&mut filled.monitors[monitor]),
            };
            if let Some(last) = &mut state.last {
                last.monitor = monitor;
            }
        }
        for (source, tally) in pipeline.tally.iter_mut().enumerate() {
            *tally = match self.sources[source] {
                Some(from) => old.tally[from],
                None => filled.tally[source],
            };
        }
        pipeline.next = old.next;
        pipeline.now = if self.needs_log { filled.now } else { old.now };
        Ok(pipeline)
    }

    fn watermark(&self, source: usize, old: &Engine, filled: &Engine) -> Option<EventTime> {
        match self.sources[source] {
            Some(from) => old.watermark(SourceId(from as u16)),
            None => filled.watermark(SourceId(source as u16)),
        }
    }
}

fn renumber(context: &mut ContextPlan, places: &[Option<usize>]) {
    for lookup in &mut context.lookups {
        // Every view that a kept decision looks up is kept.
        lookup.view = places[lookup.view].unwrap_or(usize::MAX);
    }
}

fn same_view(old: &Plan, was: &View, new: &Plan, is: &View) -> bool {
    let name = |plan: &Plan, view: &View| plan.sources[usize::from(view.source().0)].name.clone();
    name(old, was) == name(new, is) && was.shares_state_with(is)
}

/// A monitor's window follows from its own line, from the scores of its model's decisions, and from the labels. What it makes of them
/// depends on what the model predicts.
fn same_monitor(old: &Plan, was: usize, new: &Plan, is: &MonitorPlan, views: &[Option<usize>], models: &[Option<usize>]) -> bool {
    let was = &old.monitors[was];
    let own = |m: &MonitorPlan| (m.signal, m.above, m.below, m.window, m.every, m.min_rows, m.retrain, m.rest);
    let decisions = |plan: &Plan, model: usize| plan.decisions.iter().filter(|d| d.model == Some(model)).count();
    own(was) == own(is)
        && old.models[was.model].task() == new.models[is.model].task()
        && models[is.model] == Some(was.model)
        && label_of(old, was.model) == label_of(new, is.model)
        && decisions(old, was.model) == decisions(new, is.model)
        && new.decisions.iter().filter(|d| d.model == Some(is.model)).all(|d| d.context.lookups.iter().all(|l| views[l.view].is_some()))
}

/// A model's label in names and types.
pub fn label_of(plan: &Plan, model: usize) -> String {
    let model = &plan.models[model];
    let Some(label) = &model.label else { return String::new() };
    let columns = |source: SourceId, columns: &[usize]| -> Vec<String> {
        let source = &plan.sources[usize::from(source.0)];
        columns.iter().map(|c| &source.schema.fields[*c]).map(|f| format!("{}: {}", f.name, f.data_type)).collect()
    };
    format!(
        "{} {}{} {:?} {:?} = {:?} within {} absent {:?}",
        plan.sources[usize::from(label.source.0)].name,
        label.value_text,
        // As it was named before there were numbers.
        if label.is_number { " as a number" } else { "" },
        columns(label.source, label.value.slots()),
        columns(model.context.source, &label.observation_key),
        columns(label.source, &label.label_key),
        label.within,
        label.absent
    )
}
