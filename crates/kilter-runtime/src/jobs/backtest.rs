//! What other definitions would have decided: runs the past through them, beside the stream, and compares with what was decided. Changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::ensure;
use kilter_core::{EventTime, Offset, Span};
use kilter_pipeline::{Decision, Plan, decision_id};
use kilter_store::metadata::{MetricPoint, NewRun, RunKind, RunStatus};
use kilter_store::threads;
use serde::Serialize;

use crate::catalog::Record;
use crate::data::Data;
use crate::in_step::InStep;
use crate::project::Project;
use crate::sequencer::Refusal;
use crate::service::{Recorded, Service, ServiceError};

/// The file of a run.
pub const BACKTEST_FILE: &str = "backtest.json";
/// Records of the log that one backtest reads at most.
const RECORDS: u64 = 20_000_000;
/// Decisions that are told one by one, the newest ones.
const LISTED: usize = 500;
/// Stretches of time that outcomes are told by, at most.
const PERIODS: i64 = 100;
const HOUR: Span = Span(3_600_000_000);

/// The past to be run through, by event time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stretch {
    pub from: Option<EventTime>,
    pub to: Option<EventTime>,
}

impl Stretch {
    fn holds(self, time: EventTime) -> bool {
        self.from.is_none_or(|from| from <= time) && self.to.is_none_or(|to| time < to)
    }
}

/// What came of it.
#[derive(Serialize)]
pub struct BacktestReport {
    /// Hash of the other definitions.
    definitions: String,
    /// Where the log was taken up, and up to where it was read.
    from_offset: Offset,
    until_offset: Offset,
    /// Decisions in the stretch that were recorded and made again.
    compared: u64,
    /// Of these: with another outcome.
    changed: u64,
    /// Recorded, and not made by the other definitions.
    only_recorded: u64,
    /// The other way round.
    only_again: u64,
    /// Recorded with a score, and made again without: no version for the inputs of the other definitions.
    without_model: u64,
    decisions: Vec<OfDecision>,
    /// The newest decisions with another outcome, newest first.
    examples: Vec<Example>,
}

#[derive(Serialize)]
struct OfDecision {
    decision: String,
    compared: u64,
    changed: u64,
    /// From one outcome to another, or to itself.
    moves: Vec<Move>,
    /// Of equal length, oldest first.
    periods: Vec<Period>,
}

#[derive(Serialize)]
struct Move {
    recorded: String,
    again: String,
    count: u64,
}

#[derive(Serialize)]
struct Period {
    from: String,
    to: String,
    /// By outcome.
    recorded: BTreeMap<String, u64>,
    again: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Example {
    decision_id: String,
    time: String,
    recorded: Made,
    again: Made,
}

#[derive(Serialize)]
struct Made {
    outcome: String,
    score: Option<f64>,
    model_version: Option<u32>,
    rule: Option<String>,
}

/// Counts of one decision, by the hour.
#[derive(Default)]
struct Counts {
    moves: BTreeMap<(String, String), u64>,
    hours: BTreeMap<i64, [BTreeMap<String, u64>; 2]>,
}

impl Service {
    /// Begins to run the past through other definitions; the run of that id tells what came of it. One at a time.
    pub async fn backtest(self: &Arc<Self>, other: Project, stretch: Stretch, trigger: &str) -> Result<String, ServiceError> {
        let claim = self.claim_job("backtest".into(), "a backtest is under way already; `/v1/runs?kind=backtest` has it")?;
        let metadata = &self.data.metadata;
        let run = NewRun {
            kind: RunKind::Backtest,
            name: "backtest of definitions".into(),
            model: None,
            started_at: self.clock().now().0,
            definition_hash: Some(other.plan.hash.clone()),
            data_fingerprint: None,
            seed: None,
        };
        let id = metadata.start_run(&run).await.map_err(anyhow::Error::from)?;
        let edge = |edge: Option<EventTime>, none: &str| edge.map_or(none.to_string(), |edge| edge.to_string());
        let params = BTreeMap::from([
            ("from".to_string(), edge(stretch.from, "start")),
            ("to".to_string(), edge(stretch.to, "end")),
            ("definitions_before".to_string(), self.plan.hash.clone()),
        ]);
        metadata.log_params(&id, &params).await.map_err(anyhow::Error::from)?;
        metadata.set_tags(&id, &BTreeMap::from([("trigger".to_string(), trigger.to_string())])).await.map_err(anyhow::Error::from)?;
        let (service, own) = (Arc::clone(self), id.clone());
        let work = move || {
            let _computes = threads::computes_meanwhile();
            let wants = || !service.has_ended();
            let result =
                run_through(&service.data, &Arc::new(other.plan), stretch, &wants).and_then(|report| keep(&service, &own, &report));
            // Whoever is told that this one has ended may begin another.
            drop(claim);
            let (status, error) = match &result {
                Ok(()) => (RunStatus::Finished, None),
                Err(e) => (RunStatus::Failed, Some(format!("{e:#}"))),
            };
            let ended = service.data.wait(service.data.metadata.finish_run(&own, status, service.clock().now().0, error.as_deref()));
            if let Err(e) = ended {
                tracing::error!(run = own, error = %e, "the end of a backtest could not be noted");
            }
        };
        tokio::task::spawn_blocking(work);
        Ok(id)
    }
}

fn keep(service: &Service, run: &str, report: &BacktestReport) -> anyhow::Result<()> {
    let data = &service.data;
    data.artifacts.put_named(run, BACKTEST_FILE, &serde_json::to_vec(report)?)?;
    let at = service.clock().now().0;
    let share = if report.compared == 0 { f64::NAN } else { report.changed as f64 / report.compared as f64 };
    let metrics = [("compared", report.compared as f64), ("changed", report.changed as f64), ("changed_share", share)];
    let points: Vec<MetricPoint> = metrics.map(|(key, value)| MetricPoint { key: key.to_string(), value, step: 0, at }).into();
    Ok(data.wait(data.metadata.log_metrics(run, &points))?)
}

/// Runs the stretch through a plan, from the nearest state on, until nobody `wants` it any more.
pub fn run_through(data: &Data, plan: &Arc<Plan>, stretch: Stretch, wants: &dyn Fn() -> bool) -> anyhow::Result<BacktestReport> {
    let end = data.events.next_offset();
    let mut pipeline = match stretch.from {
        Some(from) => data.state_before(plan, from - Span(1))?,
        None => data.empty_state(plan),
    };
    let start = pipeline.next_offset();
    ensure!(
        end - start <= RECORDS,
        "{} records of the log would have to be read, and {RECORDS} are read at most\n  hint: begin later, behind a snapshot",
        end - start
    );
    let mut recorded = InStep::new(data, start)?;
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let mut report = BacktestReport {
        definitions: plan.hash.clone(),
        from_offset: start,
        until_offset: end,
        compared: 0,
        changed: 0,
        only_recorded: 0,
        only_again: 0,
        without_model: 0,
        decisions: Vec::new(),
        examples: Vec::new(),
    };
    let mut examples = VecDeque::new();
    let mut is_wanted = true;
    data.walk_while(plan, start, end, |offset, record| {
        match record {
            Record::Event(event) => {
                let made = pipeline.process(&event).decisions;
                let mut before = recorded.at(offset)?;
                if !stretch.holds(event.time) {
                    return Ok(true);
                }
                for again in made {
                    let name = &plan.decisions[again.decision].name;
                    let Some(place) = before.iter().position(|old| old.layout.decision == *name) else {
                        report.only_again += 1;
                        continue;
                    };
                    let old = before.swap_remove(place);
                    report.compared += 1;
                    report.without_model += u64::from(old.decision.score.is_some() && again.score.is_none());
                    let pair = [of_recorded(&old), of_plan(plan, &again)];
                    let own = counts.entry(name.clone()).or_default();
                    let hour = own.hours.entry(event.time.bucket(HOUR)).or_default();
                    for (side, made) in hour.iter_mut().zip(&pair) {
                        *side.entry(made.outcome.clone()).or_default() += 1;
                    }
                    let [recorded, again] = pair;
                    *own.moves.entry((recorded.outcome.clone(), again.outcome.clone())).or_default() += 1;
                    if recorded.outcome != again.outcome {
                        report.changed += 1;
                        if examples.len() == LISTED {
                            examples.pop_back();
                        }
                        let decision_id = decision_id(name, offset);
                        examples.push_front(Example { decision_id, time: event.time.to_string(), recorded, again });
                    }
                }
                report.only_recorded += before.len() as u64;
            }
            Record::Control(control) => data.control(&mut pipeline, offset, &control)?,
            Record::Foreign | Record::Erased(_) => pipeline.skip(offset),
        }
        is_wanted = offset % 4096 != 0 || wants();
        Ok(is_wanted)
    })?;
    ensure!(is_wanted, Refusal::Stopping);
    report.examples = examples.into();
    report.decisions = counts.into_iter().map(|(decision, counts)| counts.told(decision)).collect();
    Ok(report)
}

fn of_recorded(recorded: &Recorded) -> Made {
    let Recorded { decision, layout } = recorded;
    Made {
        outcome: layout.outcomes.get(decision.outcome).cloned().unwrap_or_default(),
        score: decision.score,
        model_version: decision.version,
        rule: decision.rule.and_then(|rule| layout.rules.get(rule)).cloned(),
    }
}

fn of_plan(plan: &Plan, decision: &Decision) -> Made {
    let own = &plan.decisions[decision.decision];
    Made {
        outcome: own.outcomes[decision.outcome].clone(),
        score: decision.score,
        model_version: decision.version,
        rule: decision.rule.map(|rule| own.policy[rule].text.clone().unwrap_or_else(|| "otherwise".into())),
    }
}

impl Counts {
    fn told(self, decision: String) -> OfDecision {
        let count = |wanted: &dyn Fn(&str, &str) -> bool| {
            self.moves.iter().filter(|((recorded, again), _)| wanted(recorded, again)).map(|(_, count)| count).sum()
        };
        let (compared, changed) = (count(&|_, _| true), count(&|recorded, again| recorded != again));
        let first = self.hours.keys().next().copied().unwrap_or(0);
        let hours = self.hours.keys().next_back().map_or(1, |last| last - first + 1);
        let length = (hours + PERIODS - 1) / PERIODS;
        let mut periods: BTreeMap<i64, [BTreeMap<String, u64>; 2]> = BTreeMap::new();
        for (hour, sides) in self.hours {
            let all = periods.entry((hour - first) / length).or_default();
            for (sum, side) in all.iter_mut().zip(sides) {
                side.into_iter().for_each(|(outcome, count)| *sum.entry(outcome).or_default() += count);
            }
        }
        let at = |period: i64| EventTime((first + period * length) * HOUR.0).to_string();
        let periods = periods.into_iter().map(|(n, [recorded, again])| Period { from: at(n), to: at(n + 1), recorded, again });
        let moves = self.moves.into_iter().map(|((recorded, again), count)| Move { recorded, again, count });
        OfDecision { decision, compared, changed, moves: moves.collect(), periods: periods.collect() }
    }
}
