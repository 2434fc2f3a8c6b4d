//! What the tests of this crate share: a small world of payments, fraud reports and logins; random histories of it; champions trained once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kilter_core::{CompactString, DataType, Event, EventTime, Offset, Operation, Schema, SourceId, Span, Value};
use kilter_features::expr::{Scope, compile};
use kilter_features::{ColumnSpec, View, ViewSpec, compile_view};
use kilter_learn::{Gbdt, Logistic};
use kilter_pipeline::*;
use kilter_stats::Rng;

pub const PAYMENTS: SourceId = SourceId(0);
pub const REPORTS: SourceId = SourceId(1);
pub const LOGINS: SourceId = SourceId(2);
/// Columns of a payment.
pub const ID: usize = 0;
pub const CARD: usize = 1;
pub const MERCHANT: usize = 2;
pub const AMOUNT: usize = 3;
/// Positions of the models and their decisions; a third decision goes by rules alone.
pub const RISK: usize = 0;
pub const SIMPLE: usize = 1;

pub const EVER: Range = Range { from: EventTime::EARLIEST, to: EventTime::LATEST };

pub fn minutes(n: i64) -> Span {
    Span(n * Span::MINUTE.0)
}

pub fn at(minute: i64) -> EventTime {
    EventTime(minute * Span::MINUTE.0)
}

/// What differs from plan to plan.
#[derive(Clone, Debug)]
pub struct World {
    pub include_self: bool,
    pub within: Span,
    pub absent: Option<f64>,
    pub fallback: bool,
    pub label: LabelBy,
    pub monitors: Vec<MonitorPlan>,
    /// Steps and lateness of each view; none: the usual ones.
    pub views: [(Option<Span>, Span); 5],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LabelBy {
    /// A report about the payment.
    Payment,
    /// Any report about the card: many payments and reports under one key.
    Card,
    /// Card and merchant of a payment, told by other payments' amounts: labels from the observations' own source.
    Itself,
}

impl Default for World {
    fn default() -> World {
        World {
            include_self: false,
            within: minutes(120),
            absent: None,
            fallback: true,
            label: LabelBy::Payment,
            monitors: Vec::new(),
            views: [(None, Span::HOUR); 5],
        }
    }
}

impl World {
    pub fn random(rng: &mut Rng) -> World {
        World {
            include_self: rng.bernoulli(0.5),
            within: minutes([30, 60, 120][rng.below(3) as usize]),
            absent: [None, Some(0.0), Some(1.0)][rng.below(3) as usize],
            fallback: rng.bernoulli(0.5),
            label: [LabelBy::Payment, LabelBy::Card, LabelBy::Itself][rng.below(3) as usize],
            monitors: (0..2).flat_map(|model| Signal::ALL.map(|(_, signal)| (model, signal))).map(|m| random_monitor(rng, m)).collect(),
            views: [(None, Span::HOUR); 5],
        }
    }

    pub fn plan(&self) -> Arc<Plan> {
        let views = views(&self.views);
        let (mut scope, mut lookups) = (Scope::new(), Vec::new());
        let schema = &schemas()[0];
        for f in &schema.fields {
            scope.add(Some("payments"), &f.name, f.data_type);
        }
        for (view, key) in [vec![CARD], vec![MERCHANT], vec![CARD], vec![CARD], vec![CARD, MERCHANT]].into_iter().enumerate() {
            lookups.push(Lookup { view, key, first_slot: scope.len() });
            for f in views[view].features() {
                scope.add(Some(views[view].name()), &f.name, f.data_type);
            }
        }
        let context = ContextPlan { source: PAYMENTS, lookups, width: scope.len(), scope };
        let model = |name: &str, include_self, inputs: &[(&str, &str)]| ModelPlan {
            name: name.into(),
            include_self,
            inputs: inputs
                .iter()
                .map(|(name, text)| InputPlan {
                    name: name.to_string(),
                    text: text.to_string(),
                    expr: compile(text, &context.scope).unwrap(),
                })
                .collect(),
            learner: Learner::Logistic(Logistic::default()),
            label: Some(self.label_plan()),
            window: None,
            reasons: None,
            calibration: None,
            search: None,
            holdout: 0.25,
            min_rows: 10,
            context: context.clone(),
        };
        let risk = [
            ("amount", "payments.amount"),
            ("n_1h", "card.n_1h"),
            ("mean_6h", "card.mean_6h"),
            ("total", "card.total"),
            ("burden", "payments.amount / (1 + coalesce(card.mean_6h, 0))"),
            ("spread_6h", "merchant.spread_6h"),
            ("failed_1h", "login.failed_1h"),
            ("rate_6h", "reported.rate_6h"),
            ("last_1h", "pair.last_1h"),
            ("known", "payments.merchant is not null"),
        ];
        let simple = [("amount", "payments.amount"), ("n_6h", "card.n_6h")];
        let models = vec![model("risk", self.include_self, &risk), model("simple", !self.include_self, &simple)];
        let decisions = vec![
            decision(
                "pay",
                Some(RISK),
                self.include_self,
                self.fallback,
                &context,
                &[("score > 0.6 and card.n_1h > 2", "block"), ("score > 0.3", "review"), ("", "accept")],
            ),
            decision("check", Some(SIMPLE), !self.include_self, false, &context, &[("score >= 0.5", "look"), ("", "pass")]),
            decision(
                "rules",
                None,
                self.include_self,
                false,
                &context,
                &[("card.n_1h >= 3", "slow"), ("payments.amount is null", "odd"), ("", "ok")],
            ),
        ];
        Arc::new(Plan {
            project: "test".into(),
            hash: "0".into(),
            sources: ["payments", "reports", "logins"]
                .into_iter()
                .zip(schemas())
                .map(|(name, schema)| SourcePlan { name: name.into(), schema, lateness: Span::HOUR, dedupe: Span::DAY, key: vec![] })
                .collect(),
            views,
            models,
            decisions,
            monitors: self.monitors.clone(),
            schedules: Vec::new(),
            services: Vec::new(),
            clock: ClockMode::Event,
        })
    }

    pub fn label_plan(&self) -> LabelPlan {
        let (source, text, observation_key, label_key) = match self.label {
            LabelBy::Payment => (REPORTS, "fraud", vec![ID], vec![0]),
            LabelBy::Card => (REPORTS, "fraud", vec![CARD], vec![1]),
            LabelBy::Itself => (PAYMENTS, "amount > 30", vec![CARD, MERCHANT], vec![CARD, MERCHANT]),
        };
        let mut scope = Scope::new();
        for f in &schemas()[source.0 as usize].fields {
            scope.add(None, &f.name, f.data_type);
        }
        LabelPlan {
            source,
            value: compile(text, &scope).unwrap(),
            is_number: false,
            value_text: text.into(),
            observation_key,
            label_key,
            within: self.within,
            absent: self.absent,
        }
    }
}

pub fn monitor(model: usize, signal: Signal) -> MonitorPlan {
    MonitorPlan {
        name: "watch".into(),
        model,
        signal,
        above: None,
        below: None,
        window: minutes(180),
        every: minutes(60),
        min_rows: 1,
        retrain: false,
        rest: minutes(180),
    }
}

fn random_monitor(rng: &mut Rng, (model, signal): (usize, Signal)) -> MonitorPlan {
    MonitorPlan {
        name: format!("{model}_{}", signal.name()),
        above: rng.bernoulli(0.6).then(|| rng.uniform()),
        below: rng.bernoulli(0.4).then_some(-1.0 + rng.uniform()),
        // Not always a multiple of the rhythm.
        window: minutes([60, 120, 150, 360][rng.below(4) as usize]),
        every: minutes([30, 60][rng.below(2) as usize]),
        min_rows: rng.below(8),
        retrain: rng.bernoulli(0.7),
        rest: minutes([0, 60, 200][rng.below(3) as usize]),
        ..monitor(model, signal)
    }
}

fn decision(
    name: &str,
    model: Option<usize>,
    include_self: bool,
    fallback: bool,
    context: &ContextPlan,
    rules: &[(&str, &str)],
) -> DecisionPlan {
    let mut scope = context.scope.clone();
    scope.add(None, "score", DataType::Float64);
    let policy = rules
        .iter()
        .enumerate()
        .map(|(outcome, (when, _))| Rule {
            when: (!when.is_empty()).then(|| compile(when, &scope).unwrap()),
            text: (!when.is_empty()).then(|| when.to_string()),
            outcome,
        })
        .collect();
    let mut outcomes: Vec<String> = rules.iter().map(|(_, outcome)| outcome.to_string()).collect();
    outcomes.extend(fallback.then(|| "wait".to_string()));
    DecisionPlan {
        name: name.into(),
        source: PAYMENTS,
        model,
        context: ContextPlan { scope, ..context.clone() },
        policy,
        fallback: fallback.then_some(rules.len()),
        outcomes,
        reasons: 3,
        include_self,
    }
}

pub fn schemas() -> [Schema; 3] {
    use DataType::*;
    [
        Schema::new([("id", Int64), ("card", Int64), ("merchant", String), ("amount", Float64)]),
        Schema::new([("id", Int64), ("card", Int64), ("fraud", Bool)]),
        Schema::new([("card", Int64), ("ok", Bool)]),
    ]
}

fn views(shapes: &[(Option<Span>, Span); 5]) -> Vec<View> {
    let view = |place: usize, name: &str, source: SourceId, entity: &[&str], columns: &[(&str, &str)]| {
        compile_view(&ViewSpec {
            columns: columns
                .iter()
                .map(|(name, text)| ColumnSpec { name: name.to_string(), text: text.to_string(), default: None })
                .collect(),
            hop: shapes[place].0,
            ..ViewSpec::new(name, source, schemas()[source.0 as usize].clone(), entity, shapes[place].1)
        })
        .unwrap()
    };
    vec![
        view(0, "card", PAYMENTS, &["card"], &[("n", "count(*) over 1h, 6h"), ("mean", "mean(amount) over 6h"), ("total", "sum(amount)")]),
        view(1, "merchant", PAYMENTS, &["merchant"], &[("spread", "stddev(amount) over 6h")]),
        view(2, "login", LOGINS, &["card"], &[("failed", "count(*) where not ok over 1h")]),
        view(3, "reported", REPORTS, &["card"], &[("rate", "mean(case when fraud then 1 else 0 end) over 6h")]),
        view(4, "pair", PAYMENTS, &["card", "merchant"], &[("last", "last(amount) over 1h")]),
    ]
}

pub fn event(source: SourceId, time: EventTime, row: Vec<Value>) -> Event {
    Event { source, offset: 0, time, arrived: time, id: None, operation: Operation::Upsert, row, extra: None, origin: None }
}

pub fn payment(time: EventTime, id: i64, card: i64, amount: f64) -> Event {
    event(PAYMENTS, time, vec![Value::Int(id), Value::Int(card), Value::text("m"), Value::Float(amount)])
}

pub fn report(time: EventTime, id: i64, card: i64, fraud: bool) -> Event {
    event(REPORTS, time, vec![Value::Int(id), Value::Int(card), Value::Bool(fraud)])
}

/// The same row, going away.
pub fn deleted(event: Event) -> Event {
    Event { operation: Operation::Delete, ..event }
}

/// Events get the offsets of their places.
pub fn numbered(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    events.into_iter().enumerate().map(|(i, event)| Event { offset: i as Offset, ..event }).collect()
}

/// How a random history looks.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub events: usize,
    /// The longest pause between two events, in minutes.
    pub pause: u64,
    /// How far behind an event may come, in minutes.
    pub late: u64,
    /// Times are multiples of this, so that horizons and boundaries are met exactly.
    pub grain: Span,
}

impl Shape {
    pub fn random(rng: &mut Rng) -> Shape {
        Shape {
            events: 20 + rng.below(180) as usize,
            pause: [4, 15, 60][rng.below(3) as usize],
            late: [0, 30, 200][rng.below(3) as usize],
            grain: [Span(1), minutes(10), minutes(30)][rng.below(3) as usize],
        }
    }
}

/// A random history: late events, events of one instant, missing keys and values, several payments and reports under one id.
pub fn history(rng: &mut Rng, shape: Shape) -> Vec<Event> {
    let mut now = -300 * Span::MINUTE.0;
    let mut amounts: BTreeMap<i64, f64> = BTreeMap::new();
    let maybe = |rng: &mut Rng, value: Value| if rng.bernoulli(0.08) { Value::Null } else { value };
    let events = (0..shape.events).map(|_| {
        if rng.bernoulli(0.85) {
            now += rng.below(shape.pause * Span::MINUTE.0 as u64) as i64;
        }
        let back = if rng.bernoulli(0.2) { rng.below(shape.late * Span::MINUTE.0 as u64 + 1) as i64 } else { 0 };
        let time = EventTime(EventTime(now - back).bucket(shape.grain) * shape.grain.0);
        let card = Value::Int(rng.below(4) as i64);
        let newest = amounts.len() as i64;
        match rng.below(10) {
            0..5 => {
                let id = if rng.bernoulli(0.2) { (newest - rng.below(5) as i64).max(0) } else { newest };
                let amount = (rng.pareto(10.0, 1.5) * 100.0).round() / 100.0;
                amounts.insert(id, amount);
                let merchant = Value::Text(CompactString::from(["a", "b", "c|tb"][rng.below(3) as usize]));
                let row = [Value::Int(id), card, merchant, Value::Float(amount)].map(|value| maybe(rng, value));
                event(PAYMENTS, time, row.to_vec())
            }
            5..8 => {
                // Sometimes of a payment that is yet to come.
                let id = newest + 1 - rng.below(8) as i64;
                let fraud = rng.bernoulli(if amounts.get(&id).is_some_and(|a| *a > 20.0) { 0.7 } else { 0.2 });
                event(REPORTS, time, [Value::Int(id), card, Value::Bool(fraud)].map(|value| maybe(rng, value)).to_vec())
            }
            _ => event(LOGINS, time, vec![maybe(rng, card), Value::Bool(rng.bernoulli(0.6))]),
        }
    });
    numbered(events.collect::<Vec<_>>())
}

/// Version 1 to 3 of both models.
pub fn champion(model: usize, version: u32) -> Champion {
    static TRAINED: OnceLock<Vec<Champion>> = OnceLock::new();
    let all = TRAINED.get_or_init(|| {
        let plan = World::default().plan();
        let shape = Shape { events: 2500, pause: 6, late: 20, grain: Span(1) };
        let events = history(&mut Rng::seeded(1), shape);
        let middle = events[events.len() / 2].time;
        let gbdt = Learner::Gbdt(Gbdt { trees: 8, leaves: 4, min_leaf_rows: 5, early_stopping: None, ..Gbdt::default() });
        let logistic = Learner::Logistic(Logistic::default());
        let mut champions = Vec::new();
        for model in [RISK, SIMPLE] {
            let rows = rows(&plan, model, &events);
            for (version, (learner, from)) in [(&gbdt, EVER.from), (&logistic, EVER.from), (&gbdt, middle)].into_iter().enumerate() {
                let own = ModelPlan { learner: learner.clone(), holdout: 0.0, ..plan.models[model].clone() };
                let trained = training::train(&own, &rows, Range { from, ..EVER }, EventTime(i64::MAX), None).unwrap();
                champions.push(Champion {
                    version: version as u32 + 1,
                    model: Arc::from(trained.model),
                    reference: Arc::new(trained.reference),
                });
            }
        }
        champions
    });
    all[model * 3 + version as usize - 1].clone()
}

/// All observations of a model over a history.
pub fn rows(plan: &Arc<Plan>, model: usize, events: &[Event]) -> Observations {
    rows_in(plan, model, events, EVER, Freshness::Live)
}

pub fn rows_in(plan: &Arc<Plan>, model: usize, events: &[Event], range: Range, freshness: Freshness) -> Observations {
    let mut feed = Feed::new(Arc::clone(plan), model, range, freshness, Some(CARD));
    events.iter().for_each(|event| feed.feed(event));
    feed.finish()
}

/// A record of the log: an event, or a change of champion.
#[derive(Clone, Debug)]
pub enum Record {
    Event(Event),
    Swap { model: usize, version: u32 },
}

/// A history with champions changed here and there; offsets count both.
pub fn log(rng: &mut Rng, shape: Shape) -> Vec<Record> {
    let swaps = [0.0, 0.02, 0.1][rng.below(3) as usize];
    let mut records = Vec::new();
    for event in history(rng, shape) {
        if rng.bernoulli(swaps) || (swaps > 0.0 && records.len() == shape.events / 8) {
            records.push(Record::Swap { model: rng.below(2) as usize, version: 1 + rng.below(3) as u32 });
        }
        records.push(Record::Event(Event { offset: records.len() as Offset, ..event }));
    }
    records
}

pub fn events(log: &[Record]) -> Vec<Event> {
    log.iter().filter_map(|r| if let Record::Event(event) = r { Some(event.clone()) } else { None }).collect()
}

/// All that a stretch of the log led to.
#[derive(Debug, Default)]
pub struct Effects {
    pub decisions: Vec<Decision>,
    pub readings: Vec<(Offset, Reading)>,
    pub late: Vec<Offset>,
}

/// Runs the records from `pipeline.next_offset()` on, up to `until`.
pub fn run(pipeline: &mut Pipeline, log: &[Record], until: usize) -> Effects {
    let mut effects = Effects::default();
    for offset in pipeline.next_offset()..until as Offset {
        match &log[offset as usize] {
            Record::Event(event) => {
                let outcome = pipeline.process(event);
                effects.decisions.extend(outcome.decisions);
                effects.readings.extend(outcome.readings.into_iter().map(|r| (offset, r)));
                effects.late.extend(outcome.late.then_some(offset));
            }
            Record::Swap { model, version } => {
                pipeline.set_champion(*model, champion(*model, *version));
                pipeline.skip(offset);
            }
        }
    }
    effects
}

impl Effects {
    pub fn then(mut self, later: Effects) -> Effects {
        self.decisions.extend(later.decisions);
        self.readings.extend(later.readings);
        self.late.extend(later.late);
        self
    }

    pub fn assert_same(&self, other: &Effects, plan: &Plan) {
        assert_eq!(self.decisions.len(), other.decisions.len());
        for (a, b) in self.decisions.iter().zip(&other.decisions) {
            assert_eq!((a.offset, a.decision), (b.offset, b.decision));
            assert_eq!(a.difference(b, &plan.layout(a.decision)), None);
        }
        assert_eq!(self.readings, other.readings);
        assert_eq!(self.late, other.late);
    }
}

pub fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

pub fn row_of(observations: &Observations, row: usize) -> Vec<f64> {
    let mut out = Vec::new();
    observations.matrix.row(row, &mut out);
    out
}
