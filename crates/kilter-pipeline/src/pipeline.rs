//! One event in, its effects out: features, decisions, monitors, in one visible order.
//!
//! Nothing here waits, locks, reads a clock or touches a disk; the same events in the same order give the same bits.

use std::sync::Arc;

use kilter_core::{EntityKey, Event, EventTime, Offset, Operation, SourceId, Value};
use kilter_features::{Changes, Engine, Look, Update, View};
use kilter_learn::{Model, Reasons};
use serde::{Deserialize, Serialize};

use crate::{Decision, DecisionPlan, DriftReference, Layout, MonitorState, Plan, Reading, Reason, SourceTally};

/// A model version in service.
#[derive(Clone)]
pub struct Champion {
    pub version: u32,
    pub model: Arc<dyn Model>,
    pub reference: Arc<DriftReference>,
}

/// What one event led to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub decisions: Vec<Decision>,
    pub readings: Vec<Reading>,
    /// The event was too late for every view that listens: it changed no feature.
    pub late: bool,
}

/// The whole state between two events.
pub struct Pipeline {
    pub(crate) plan: Arc<Plan>,
    pub(crate) engine: Engine,
    /// One per model.
    pub(crate) champions: Vec<Option<Champion>>,
    /// One per monitor.
    pub(crate) monitors: Vec<MonitorState>,
    /// The next offset to process.
    pub(crate) next: Offset,
    /// The latest event time seen on any source.
    pub(crate) now: Option<EventTime>,
    /// One per source.
    pub(crate) tally: Vec<SourceTally>,
    slots: Vec<Value>,
    row: Vec<f64>,
    reasons: Reasons,
}

/// The part of a snapshot beside the engine's bytes.
#[derive(Serialize, Deserialize)]
struct Side {
    next: Offset,
    now: Option<EventTime>,
    monitors: Vec<MonitorState>,
    /// Model name and version, for each champion in service.
    champions: Vec<(String, u32)>,
    /// By source.
    tally: Vec<SourceTally>,
    /// Events applied, by view.
    applied: Vec<u64>,
    engine_bytes: usize,
}

/// A snapshot that cannot be taken up; the log holds all that is needed to do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreError(pub String);

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot cannot be restored: {}", self.0)
    }
}

impl std::error::Error for RestoreError {}

impl Pipeline {
    pub fn new(plan: Arc<Plan>) -> Pipeline {
        let engine = Engine::new(plan.views.clone());
        Pipeline::with_engine(plan, engine)
    }

    pub(crate) fn with_engine(plan: Arc<Plan>, engine: Engine) -> Pipeline {
        Pipeline {
            champions: vec![None; plan.models.len()],
            monitors: plan.monitors.iter().map(|_| MonitorState::new()).collect(),
            tally: vec![SourceTally::default(); plan.sources.len()],
            engine,
            plan,
            next: 0,
            now: None,
            slots: Vec::new(),
            row: Vec::new(),
            reasons: Reasons::default(),
        }
    }

    /// The offset that the first event will have, of a pipeline that has seen none; 0 unless told.
    pub fn begin_at(&mut self, offset: Offset) {
        self.next = offset;
    }

    /// The same state, which makes these decisions from now on and watches nothing.
    pub(crate) fn deciding(self, decisions: Vec<DecisionPlan>) -> Pipeline {
        let plan = Arc::new(Plan { decisions, monitors: Vec::new(), ..(*self.plan).clone() });
        Pipeline { plan, monitors: Vec::new(), ..self }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The offset the next event must have.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The latest event time seen.
    pub fn now(&self) -> Option<EventTime> {
        self.now
    }

    /// What each source has sent so far.
    pub fn tally(&self) -> &[SourceTally] {
        &self.tally
    }

    pub fn champion(&self, model: usize) -> Option<&Champion> {
        self.champions.get(model)?.as_ref()
    }

    pub fn monitors(&self) -> &[MonitorState] {
        &self.monitors
    }

    /// Puts a model version into service, between two events. Returns false for a version already in service.
    pub fn set_champion(&mut self, model: usize, champion: Champion) -> bool {
        let Some(place) = self.champions.get_mut(model) else { return false };
        if place.as_ref().is_some_and(|c| c.version == champion.version) {
            return false;
        }
        *place = Some(champion);
        for (plan, state) in self.plan.monitors.iter().zip(&mut self.monitors) {
            if plan.model == model {
                state.model_changed();
            }
        }
        true
    }

    /// Marks a log record that is no event (a change of champion) as passed.
    pub fn skip(&mut self, offset: Offset) {
        self.next = offset + 1;
    }

    /// Takes in one event: decides on what was known before it, updates features, decides on what is known with it, feeds the monitors.
    pub fn process(&mut self, event: &Event) -> Outcome {
        self.next = event.offset + 1;
        self.now = Some(self.now.map_or(event.time, |now| now.max(event.time)));
        if let Some(tally) = self.tally.get_mut(usize::from(event.source.0)) {
            tally.count(event);
        }
        let plan = Arc::clone(&self.plan);
        let mut outcome = Outcome::default();

        self.close_monitors(&plan, event.time, &mut outcome);
        // A row that goes away asks for no decision and tells no outcome; time passes all the same.
        if event.operation == Operation::Delete {
            outcome.late = is_late(&self.engine.update(event));
            return outcome;
        }
        for (index, decision) in plan.decisions.iter().enumerate() {
            if decision.source == event.source && !decision.include_self {
                outcome.decisions.extend(self.decide(&plan, index, event));
            }
        }
        outcome.late = is_late(&self.engine.update(event));
        for (index, decision) in plan.decisions.iter().enumerate() {
            if decision.source == event.source && decision.include_self {
                outcome.decisions.extend(self.decide(&plan, index, event));
            }
        }
        self.observe(&plan, event, &outcome.decisions);
        outcome
    }

    /// The decision on `event` with today's state, without taking the event in: for questions of the kind "what if".
    pub fn preview(&mut self, decision: usize, event: &Event) -> Option<Decision> {
        let plan = Arc::clone(&self.plan);
        plan.decisions.get(decision)?;
        self.decide(&plan, decision, event)
    }

    fn decide(&mut self, plan: &Plan, index: usize, event: &Event) -> Option<Decision> {
        let decision = &plan.decisions[index];
        decision.context.fill(event, &mut self.engine, &mut self.slots);
        let mut made = Decision {
            decision: index,
            offset: event.offset,
            time: event.time,
            version: None,
            score: None,
            margin: 0.0,
            outcome: 0,
            rule: None,
            inputs: Vec::new(),
            reasons: Vec::new(),
        };
        if let Some(model) = decision.model {
            let model_plan = &plan.models[model];
            model_plan.inputs(&self.slots, &mut self.row);
            made.inputs = self.row.clone();
            let Some(champion) = &self.champions[model] else {
                made.outcome = decision.fallback?;
                return Some(made);
            };
            made.version = Some(champion.version);
            self.reasons.of_groups(model_plan.reasons.as_ref().map(|r| &r.of_input));
            let score = champion.model.score(&self.row, decision.reasons, &mut self.reasons);
            (made.margin, made.score) = (score.margin, Some(score.prediction));
            made.reasons = self.reasons.iter().map(|(input, contribution)| Reason { input, contribution }).collect();
            self.slots.push(Value::float(score.prediction));
        } else {
            self.slots.push(Value::Null);
        }
        let (rule, outcome) = judge(decision, &self.slots)?;
        made.rule = Some(rule);
        made.outcome = outcome;
        Some(made)
    }

    fn close_monitors(&mut self, plan: &Plan, now: EventTime, outcome: &mut Outcome) {
        for (index, (monitor, state)) in plan.monitors.iter().zip(&mut self.monitors).enumerate() {
            let champion = self.champions[monitor.model].as_ref();
            let reference = champion.map(|c| c.reference.as_ref());
            let reading = state.advance(monitor, index, &plan.models[monitor.model], reference, now);
            outcome.readings.extend(reading.map(|reading| Reading { version: champion.map(|c| c.version), ..reading }));
        }
    }

    fn observe(&mut self, plan: &Plan, event: &Event, decisions: &[Decision]) {
        for (monitor, state) in plan.monitors.iter().zip(&mut self.monitors) {
            let model = &plan.models[monitor.model];
            let reference = self.champions[monitor.model].as_ref().map(|c| c.reference.as_ref());
            for decision in decisions {
                if plan.decisions[decision.decision].model == Some(monitor.model) {
                    let key = model.label.as_ref().and_then(|l| EntityKey::from_row(&event.row, &l.observation_key));
                    state.observe(monitor, reference, key, decision);
                }
            }
            if let Some(label) = &model.label
                && label.source == event.source
                && let Some(key) = EntityKey::from_row(&event.row, &label.label_key)
                && let Some(truth) = label.truth(event)
            {
                state.label(label, &key, event.time, truth);
            }
        }
    }

    /// The features of one entity at a time, as (name, value) in the view's order.
    pub fn features(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Vec<Value> {
        let mut values = Vec::new();
        self.engine.read(view, key, at, &mut values);
        values
    }

    /// The same with what is known about the answer; none: there is no such view.
    pub fn look(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Option<Look> {
        self.engine.look(view, key, at)
    }

    /// Gives up everything but the features.
    pub fn into_engine(self) -> Engine {
        self.engine
    }

    /// The watermark of a source.
    pub fn watermark(&self, source: SourceId) -> Option<EventTime> {
        self.engine.watermark(source)
    }

    /// All state as bytes, together with the log position it belongs to.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut engine = Vec::new();
        self.engine.snapshot(&mut engine);
        self.beside(&engine)
    }

    /// What has changed since the last changes, of an engine with stores. The head is that of the whole pipeline, for [`Pipeline::resume`].
    pub fn changes(&mut self) -> Changes {
        let changes = self.engine.changes();
        Changes { head: self.beside(&changes.head), ..changes }
    }

    /// The engine's bytes with the state beside the engine.
    fn beside(&self, engine: &[u8]) -> Vec<u8> {
        let champions = self
            .plan
            .models
            .iter()
            .zip(&self.champions)
            .filter_map(|(plan, champion)| Some((plan.name.clone(), champion.as_ref()?.version)))
            .collect();
        let side = Side {
            next: self.next,
            now: self.now,
            monitors: self.monitors.clone(),
            champions,
            tally: self.tally.clone(),
            applied: self.engine.counts().map(|c| c.applied).collect(),
            engine_bytes: engine.len(),
        };
        // Plain data: serialising it cannot fail; an empty side is refused on restore.
        let mut bytes = serde_json::to_vec(&side).unwrap_or_default();
        let length = bytes.len() as u64;
        bytes.extend_from_slice(engine);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Takes up a snapshot made under the same definitions. `champion` gives a model version by model position and number.
    pub fn restore(
        plan: Arc<Plan>,
        bytes: &[u8],
        champion: impl FnMut(usize, u32) -> Result<Champion, String>,
    ) -> Result<Pipeline, RestoreError> {
        Pipeline::read(plan, bytes, Engine::restore, champion)
    }

    /// Takes up the head of changes under the same definitions; the views' stores are to be attached to the engine then.
    pub fn resume(
        plan: Arc<Plan>,
        head: &[u8],
        champion: impl FnMut(usize, u32) -> Result<Champion, String>,
    ) -> Result<Pipeline, RestoreError> {
        Pipeline::read(plan, head, Engine::resume, champion)
    }

    fn read(
        plan: Arc<Plan>,
        bytes: &[u8],
        engine_of: impl FnOnce(Vec<View>, &[u8]) -> Result<Engine, kilter_features::RestoreError>,
        mut champion: impl FnMut(usize, u32) -> Result<Champion, String>,
    ) -> Result<Pipeline, RestoreError> {
        let cut = || RestoreError("it is cut short".into());
        let (rest, length) = bytes.split_last_chunk::<8>().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
        let (side, engine) = rest.split_at_checked(length).ok_or_else(cut)?;
        let side: Side = serde_json::from_slice(side).map_err(|e| RestoreError(e.to_string()))?;
        let counts = (side.monitors.len(), side.tally.len(), side.applied.len());
        if side.engine_bytes != engine.len() || counts != (plan.monitors.len(), plan.sources.len(), plan.views.len()) {
            return Err(RestoreError("it was made under other definitions".into()));
        }
        let engine = engine_of(plan.views.clone(), engine).map_err(|e| RestoreError(e.to_string()))?;
        let mut pipeline = Pipeline::with_engine(Arc::clone(&plan), engine);
        for (name, version) in side.champions {
            if let Some(model) = plan.model(&name) {
                pipeline.champions[model] = Some(champion(model, version).map_err(RestoreError)?);
            }
        }
        pipeline.monitors = side.monitors;
        pipeline.tally = side.tally;
        pipeline.engine.resume_counts(&side.applied);
        pipeline.next = side.next;
        pipeline.now = side.now;
        Ok(pipeline)
    }
}

impl Plan {
    /// The names behind a decision's positions.
    pub fn layout(&self, decision: usize) -> Layout {
        let plan = &self.decisions[decision];
        Layout {
            decision: plan.name.clone(),
            model: plan.model.map(|m| self.models[m].name.clone()),
            inputs: plan.model.map(|m| self.models[m].input_names()).unwrap_or_default(),
            reasons: plan.model.and_then(|m| self.models[m].reasons.as_ref()).map(|r| r.names.clone()).unwrap_or_default(),
            outcomes: plan.outcomes.clone(),
            rules: plan.policy.iter().map(|r| r.text.clone().unwrap_or_else(|| "otherwise".into())).collect(),
            definitions: self.hash.clone(),
        }
    }
}

/// Some view listens to the source, and none could use the event for its time.
fn is_late(update: &Update) -> bool {
    update.late > 0 && update.applied == 0
}

/// The first rule that holds, and its outcome.
fn judge(decision: &DecisionPlan, slots: &[Value]) -> Option<(usize, usize)> {
    decision
        .policy
        .iter()
        .enumerate()
        .find(|(_, rule)| rule.when.as_ref().is_none_or(|when| when.eval(slots) == Value::Bool(true)))
        .map(|(i, rule)| (i, rule.outcome))
}
