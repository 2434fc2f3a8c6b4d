//! Monitors against their definitions, computed anew from everything that happened at each close.

use std::sync::Arc;

use crate::common::*;
use kilter_core::{EntityKey, Event, EventTime, Offset, Span, Value};
use kilter_learn::metrics;
use kilter_pipeline::{Champion, Decision, LabelPlan, MonitorPlan, Pipeline, Plan, Reading, Signal, SubjectReading};
use kilter_stats::{Counts, Reference, Rng, psi};
use proptest::prelude::*;

/// The whole past, kept.
struct Naive<'a> {
    plan: &'a Plan,
    monitor: &'a MonitorPlan,
    /// Each with the monitor's bucket when it was made and the offset its champion came with.
    decisions: Vec<(Decision, i64, Offset, Option<EntityKey>)>,
    events: Vec<&'a Event>,
    /// Offset of the event that closed a bucket, and the moment it closed at.
    closes: Vec<(Offset, EventTime)>,
    champion: Option<(Champion, Offset)>,
    current: Option<i64>,
    asked: Option<EventTime>,
}

impl<'a> Naive<'a> {
    fn close(&mut self, index: usize, event: &Event) -> Option<Reading> {
        let bucket = event.time.bucket(self.monitor.every);
        let before = self.current.replace(self.current.map_or(bucket, |c| c.max(bucket)))?;
        if bucket <= before {
            return None;
        }
        let at = EventTime(bucket * self.monitor.every.0);
        self.closes.push((event.offset, at));
        let (subject, value, rows, subjects) = match self.monitor.signal {
            Signal::Psi => self.drift(at)?,
            _ => self.quality(at)?,
        };
        let above = self.monitor.above.filter(|limit| value > *limit);
        let crossed = above.or(self.monitor.below.filter(|limit| value < *limit));
        let rested = self.asked.is_none_or(|asked| at.0 - asked.0 >= self.monitor.rest.0);
        let retrain = self.monitor.retrain && crossed.is_some() && rested;
        if retrain {
            self.asked = Some(at);
        }
        let version = self.champion.as_ref().map(|(champion, _)| champion.version);
        Some(Reading { monitor: index, at, subject, value, rows, crossed, retrain, version, subjects })
    }

    /// Decisions by today's champion, in the buckets the window touches, once it has been in service for all of them.
    fn drift(&self, at: EventTime) -> Option<(String, f64, u64, Vec<SubjectReading>)> {
        let (champion, since) = self.champion.as_ref()?;
        let own: Vec<_> = self.decisions.iter().filter(|(_, _, swap, _)| swap == since).collect();
        let first = EventTime(at.0 - self.monitor.window.0).bucket(self.monitor.every);
        let window: Vec<_> = own.iter().filter(|(_, bucket, ..)| *bucket >= first).collect();
        if own.first()?.1 > first || (window.len() as u64) < self.monitor.min_rows.max(1) {
            return None;
        }
        let reference = &champion.reference;
        let mut counts: Vec<Counts> = reference.references.iter().map(Reference::counts).collect();
        for (decision, ..) in &window {
            decision.inputs.iter().zip(&mut counts).for_each(|(x, c)| c.add(*x));
            counts.last_mut().unwrap().add(decision.score.unwrap());
        }
        let names = reference.inputs.iter().cloned().chain(["score".to_string()]);
        let values = reference.references.iter().zip(&counts).map(|(r, c)| psi(r, c));
        let (mut worst, mut subject) = (f64::MIN, String::new());
        let mut subjects = Vec::new();
        for ((name, value), counts) in names.zip(values).zip(&counts) {
            subjects.push(SubjectReading { subject: name.clone(), value, counts: Some(counts.clone()) });
            if value > worst {
                (worst, subject) = (value, name);
            }
        }
        Some((subject, worst, window.len() as u64, subjects))
    }

    /// Decisions whose horizon ended in the window, each with the last label that came after it and before the first close past its horizon.
    fn quality(&self, at: EventTime) -> Option<(String, f64, u64, Vec<SubjectReading>)> {
        let label = self.plan.models[self.monitor.model].label.as_ref()?;
        let mut judged: Vec<(EventTime, f64, f64)> = Vec::new();
        for (decision, _, _, key) in &self.decisions {
            let end = decision.time + label.within;
            if key.is_none() || end >= at || end < at - self.monitor.window {
                continue;
            }
            let read = self.closes.iter().find(|(offset, close)| *offset > decision.offset && *close > end).unwrap().0;
            let truth = self.label(label, decision, key.as_ref().unwrap(), read).or(label.absent);
            judged.extend(truth.map(|truth| (end, decision.score.unwrap(), truth)));
        }
        judged.sort_by_key(|(end, ..)| *end);
        let (scores, labels): (Vec<f64>, Vec<f64>) = judged.iter().map(|(_, s, l)| (*s, *l)).unzip();
        let value = match self.monitor.signal {
            Signal::Auc => metrics::auc(&scores, &labels),
            Signal::LogLoss => metrics::log_loss(&scores, &labels),
            Signal::Brier => metrics::brier(&scores, &labels),
            Signal::Rmse => metrics::brier(&scores, &labels).sqrt(),
            Signal::Mae => scores.iter().zip(&labels).map(|(s, l)| (s - l).abs()).sum::<f64>() / labels.len() as f64,
            Signal::Bias => scores.iter().sum::<f64>() / labels.len() as f64 - labels.iter().sum::<f64>() / labels.len() as f64,
            // Of quantiles and deviances.
            _ => f64::NAN,
        };
        let enough = judged.len() as u64 >= self.monitor.min_rows.max(1);
        let subject = self.monitor.signal.name().to_string();
        let subjects = vec![SubjectReading { subject: subject.clone(), value, counts: None }];
        (enough && value.is_finite()).then_some((subject, value, judged.len() as u64, subjects))
    }

    fn label(&self, label: &LabelPlan, decision: &Decision, key: &EntityKey, read: Offset) -> Option<f64> {
        let told = self
            .events
            .iter()
            .filter(|e| (decision.offset..read).contains(&e.offset) && e.source == label.source)
            .filter(|e| decision.time <= e.time && e.time <= decision.time + label.within)
            .filter(|e| EntityKey::from_row(&e.row, &label.label_key).as_ref() == Some(key));
        told.filter_map(|e| match label.value.eval(&e.row) {
            Value::Bool(b) => Some(f64::from(u8::from(b))),
            _ => None,
        })
        .next_back()
    }
}

fn naive_readings(plan: &Plan, index: usize, log: &[Record], decisions: &[Decision]) -> Vec<(Offset, Reading)> {
    let monitor = &plan.monitors[index];
    let label = plan.models[monitor.model].label.as_ref().unwrap();
    let mut naive =
        Naive { plan, monitor, decisions: Vec::new(), events: Vec::new(), closes: Vec::new(), champion: None, current: None, asked: None };
    let mut readings = Vec::new();
    for (offset, record) in log.iter().enumerate() {
        let offset = offset as Offset;
        match record {
            Record::Swap { model, version } => {
                if *model == monitor.model && naive.champion.as_ref().map(|(c, _)| c.version) != Some(*version) {
                    naive.champion = Some((champion(*model, *version), offset));
                }
            }
            Record::Event(event) => {
                readings.extend(naive.close(index, event).map(|r| (offset, r)));
                naive.events.push(event);
                for decision in decisions.iter().filter(|d| d.offset == offset && plan.decisions[d.decision].model == Some(monitor.model)) {
                    if decision.score.is_some() {
                        let key = EntityKey::from_row(&event.row, &label.observation_key);
                        let swap = naive.champion.as_ref().unwrap().1;
                        naive.decisions.push((decision.clone(), naive.current.unwrap(), swap, key));
                    }
                }
            }
        }
    }
    readings
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn readings_are_those_of_the_definitions(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let log = log(&mut rng, shape);
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        let effects = run(&mut pipeline, &log, log.len());
        for index in 0..plan.monitors.len() {
            let own: Vec<_> = effects.readings.iter().filter(|(_, r)| r.monitor == index).cloned().collect();
            prop_assert_eq!(&own, &naive_readings(&plan, index, &log, &effects.decisions), "{:?}", plan.monitors[index]);
            // What is remembered of the last one goes without its parts.
            let remembered = own.last().map(|(_, r)| Reading { version: None, subjects: Vec::new(), ..r.clone() });
            prop_assert_eq!(pipeline.monitors()[index].last.as_ref(), remembered.as_ref());
        }
    }
}

/// A pipeline with one monitor and a champion of the model `risk`, and what it was told and said.
struct Story {
    pipeline: Pipeline,
    next: Offset,
}

impl Story {
    fn new(world: World, monitor: MonitorPlan) -> Story {
        let mut pipeline = Pipeline::new(World { monitors: vec![monitor], ..world }.plan());
        pipeline.set_champion(RISK, champion(RISK, 1));
        Story { pipeline, next: 0 }
    }

    fn tell(&mut self, event: Event) -> Option<Reading> {
        let event = Event { offset: self.next, ..event };
        self.next += 1;
        self.pipeline.process(&event).readings.pop()
    }

    /// Readings (minute, rows) over payments every ten minutes of a stretch.
    fn payments(&mut self, from: i64, to: i64) -> Vec<(i64, u64)> {
        let times = (from..to).step_by(10);
        times.filter_map(|m| self.tell(payment(at(m), m, 1, 20.0))).map(|r| (r.at.0 / Span::MINUTE.0, r.rows)).collect()
    }
}

#[test]
fn psi_waits_for_a_full_window_of_the_model_in_service() {
    let mut story = Story::new(World::default(), monitor(RISK, Signal::Psi));
    assert_eq!(story.payments(0, 310), [(180, 18), (240, 18), (300, 18)]);
    story.pipeline.set_champion(RISK, champion(RISK, 2));
    // The hour of the change is the first of the new window, begun late as it is.
    assert_eq!(story.payments(310, 550), [(480, 17), (540, 18)]);
}

#[test]
fn a_late_event_does_not_make_a_new_models_window_full() {
    let mut story = Story::new(World::default(), monitor(RISK, Signal::Psi));
    story.payments(0, 300);
    story.pipeline.set_champion(RISK, champion(RISK, 2));
    assert_eq!(story.tell(payment(at(30), 9, 1, 20.0)), None);
    assert_eq!(story.payments(300, 420), []);
}

#[test]
fn few_rows_say_nothing() {
    let mut story = Story::new(World::default(), MonitorPlan { min_rows: 19, ..monitor(RISK, Signal::Psi) });
    assert_eq!(story.payments(0, 600), []);
}

#[test]
fn a_crossing_asks_once_and_again_after_each_rest() {
    let plan = MonitorPlan { above: Some(0.0), retrain: true, rest: minutes(120), ..monitor(RISK, Signal::Psi) };
    let mut story = Story::new(World::default(), plan);
    let mut asked = Vec::new();
    for m in (0..700).step_by(10) {
        if let Some(reading) = story.tell(payment(at(m), m, 1, 20.0)) {
            assert_eq!(reading.crossed, Some(0.0));
            asked.extend(reading.retrain.then_some(m));
            // The request outlives the model it was about, a restart, and an hour without an alarm.
            let bytes = story.pipeline.snapshot();
            story.pipeline =
                Pipeline::restore(Arc::clone(story.pipeline.plan()), &bytes, |model, version| Ok(champion(model, version))).unwrap();
        }
    }
    assert_eq!(asked, [180, 300, 420, 540, 660]);
}

#[test]
fn thresholds_are_strict_and_only_alarms_ask() {
    let reading = |above, below| {
        let plan = MonitorPlan { above, below, retrain: true, ..monitor(RISK, Signal::Brier) };
        let mut story = Story::new(World { absent: Some(0.0), ..World::default() }, plan);
        story.tell(payment(at(1), 1, 1, 20.0));
        story.tell(payment(at(181), 2, 1, 20.0)).unwrap()
    };
    let value = reading(None, None).value;
    for (above, below, crossed) in
        [(Some(value), Some(value), None), (Some(value - 1e-9), None, Some(value - 1e-9)), (None, Some(value + 1e-9), Some(value + 1e-9))]
    {
        let reading = reading(above, below);
        assert_eq!((reading.crossed, reading.retrain), (crossed, crossed.is_some()));
    }
}

/// The Brier readings (minute, rows, whether the label was 1) of one payment at minute 0 with the events given, then a login every hour.
fn check(world: World, told: &[Event], expected: &[(i64, u64, bool)]) {
    let mut story = Story::new(world, monitor(RISK, Signal::Brier));
    let mut seen = Vec::new();
    let end = (1..8).map(|hour| event(LOGINS, at(60 * hour), vec![Value::Int(1), Value::Bool(true)]));
    let mut all: Vec<Event> = [payment(at(0), 1, 1, 20.0)].into_iter().chain(told.iter().cloned()).chain(end).collect();
    all.sort_by_key(|e| e.time);
    for event in all {
        let reading = story.tell(event);
        seen.extend(reading.map(|r| (r.at.0 / Span::MINUTE.0, r.rows, r.value > 0.25)));
    }
    assert_eq!(seen, expected);
}

#[test]
fn a_label_counts_once_its_horizon_has_ended_and_leaves_with_the_window() {
    // Horizon two hours, window three: in the readings from the first close after minute 120 to the one at minute 300.
    let both = |fraud| [(180, 1, fraud), (240, 1, fraud), (300, 1, fraud)];
    let truth = champion_says_low();
    check(World::default(), &[report(at(30), 1, 1, true)], &both(truth));
    check(World::default(), &[report(at(30), 1, 1, false)], &both(!truth));
    check(World::default(), &[], &[]);
    check(World { absent: Some(1.0), ..World::default() }, &[], &both(truth));
    check(World { absent: Some(1.0), ..World::default() }, &[report(at(30), 1, 1, false)], &both(!truth));
}

#[test]
fn a_deleted_row_is_no_label_and_no_decision_and_time_passes_with_it() {
    let both = |fraud| [(180, 1, fraud), (240, 1, fraud), (300, 1, fraud)];
    let truth = champion_says_low();
    check(World::default(), &[deleted(report(at(30), 1, 1, true))], &[]);
    check(World::default(), &[report(at(30), 1, 1, true), deleted(report(at(40), 1, 1, false))], &both(truth));
    check(World { absent: Some(1.0), ..World::default() }, &[deleted(payment(at(10), 2, 1, 20.0))], &both(truth));

    let mut story = Story::new(World { absent: Some(1.0), ..World::default() }, monitor(RISK, Signal::Brier));
    story.tell(payment(at(1), 1, 1, 20.0));
    let reading = story.tell(deleted(payment(at(181), 2, 1, 20.0)));
    assert_eq!(reading.map(|r| r.rows), Some(1), "the delete's time closes the bucket");
    assert_eq!(story.pipeline.now(), Some(at(181)));
}

/// Whether the score of the payment in `check` is below a half, so that a fraud is the larger miss.
fn champion_says_low() -> bool {
    let mut story = Story::new(World::default(), monitor(RISK, Signal::Brier));
    let event = Event { offset: 0, ..payment(at(0), 1, 1, 20.0) };
    story.pipeline.process(&event).decisions[0].score.unwrap() < 0.5
}

#[test]
fn a_label_in_the_last_instant_of_its_horizon_counts_on_the_hour_too() {
    // Data by the day or the hour: the label's own event closes the bucket in which its horizon ends.
    let truth = champion_says_low();
    check(
        World { absent: Some(0.0), ..World::default() },
        &[report(at(120), 1, 1, true)],
        &[(180, 1, truth), (240, 1, truth), (300, 1, truth)],
    );
}

#[test]
fn a_late_decision_neither_waits_for_the_rest_nor_outlives_its_window() {
    let world = World { absent: Some(0.0), ..World::default() };
    let mut story = Story::new(world, MonitorPlan { window: minutes(60), ..monitor(RISK, Signal::Brier) });
    story.tell(payment(at(100), 1, 1, 20.0));
    story.tell(payment(at(10), 2, 1, 20.0));
    // The late one's horizon ends at minute 130, the other's at minute 220.
    let rows = |r: Option<Reading>| r.map(|r| r.rows);
    assert_eq!(rows(story.tell(report(at(180), 9, 9, true))), Some(1));
    assert_eq!(rows(story.tell(report(at(240), 9, 9, true))), Some(1));
    assert_eq!(rows(story.tell(report(at(300), 9, 9, true))), None);
}

#[test]
fn any_number_but_zero_is_a_positive_as_in_training() {
    let mut plan = World { monitors: vec![monitor(RISK, Signal::Brier)], ..World::default() }.plan();
    let scope = {
        let mut scope = kilter_features::expr::Scope::new();
        scope.add(None, "id", kilter_core::DataType::Int64);
        scope
    };
    let label = Arc::get_mut(&mut plan).unwrap().models[RISK].label.as_mut().unwrap();
    label.value = kilter_features::expr::compile("id", &scope).unwrap();
    let mut pipeline = Pipeline::new(plan);
    pipeline.set_champion(RISK, champion(RISK, 1));
    let events = numbered([payment(at(0), 7, 1, 20.0), report(at(1), 7, 1, false), report(at(200), 9, 1, false)]);
    let outcomes: Vec<_> = events.iter().map(|e| pipeline.process(e)).collect();
    let score = outcomes[0].decisions[0].score.unwrap();
    assert_eq!(outcomes[2].readings[0].value, (score - 1.0) * (score - 1.0));
}

#[test]
fn composite_keys_with_the_same_letters_are_different_keys() {
    // Two text columns: ("a|tb", "c") and ("a", "b|tc").
    let mut plan = World { monitors: vec![monitor(RISK, Signal::Brier)], ..World::default() }.plan();
    let label = Arc::get_mut(&mut plan).unwrap().models[RISK].label.as_mut().unwrap();
    (label.observation_key, label.label_key) = (vec![CARD, MERCHANT], vec![0, 1]);
    let mut pipeline = Pipeline::new(plan);
    pipeline.set_champion(RISK, champion(RISK, 1));
    let pay = |a: &str, b: &str| event(PAYMENTS, at(0), vec![Value::Int(1), Value::text(a), Value::text(b), Value::Float(1.0)]);
    let tell = |a: &str, b: &str| event(REPORTS, at(1), vec![Value::text(a), Value::text(b), Value::Bool(true)]);
    let later = event(LOGINS, at(200), vec![Value::Int(1), Value::Bool(true)]);
    let events = numbered([pay("a|tb", "c"), tell("a", "b|tc"), later]);
    let readings: Vec<Reading> = events.iter().flat_map(|e| pipeline.process(e).readings).collect();
    assert_eq!(readings, []);
}

#[test]
fn many_decisions_of_one_key_are_no_burden() {
    // Thirty-six thousand decisions on one card wait together; each is found and forgotten without a look at the others.
    let plan = World { label: LabelBy::Card, within: minutes(60), monitors: vec![monitor(RISK, Signal::Auc)], ..World::default() }.plan();
    let (model, label) = (&plan.models[RISK], plan.models[RISK].label.clone().unwrap());
    let mut state = kilter_pipeline::MonitorState::new();
    let decision = Decision {
        decision: 0,
        offset: 0,
        time: at(0),
        version: Some(1),
        score: Some(0.5),
        margin: 0.0,
        outcome: 0,
        rule: None,
        inputs: Vec::new(),
        reasons: Vec::new(),
    };
    for i in 0..100_000 {
        let time = at(0) + Span(i * 100_000);
        state.observe(
            &plan.monitors[0],
            None,
            Some(EntityKey::Int(1)),
            &Decision { time, score: Some(i as f64 * 1e-6), ..decision.clone() },
        );
        if i % 1000 == 999 {
            state.label(&label, &EntityKey::Int(1), time, f64::from(u8::from(i % 2000 == 999)));
        }
        state.advance(&plan.monitors[0], 0, model, None, time);
    }
    let last = state.last.unwrap();
    assert_eq!((last.at, last.rows), (at(120), 36_000), "those of the first hour, at ten a second");
}
