//! What another policy would have decided: both policies, side by side, on the past of the log.
//!
//! Each case is judged with the features and by the model version of its moment. The events are those that happened: what a policy that was
//! not in force would have changed in the world (a loan that is not granted is not repaid) is not in them.

use kilter_core::{Event, EventTime, Offset, Operation, Span};
use serde::{Serialize, Serializer};

use crate::labels::{LabelJoin, known};
use crate::{DecisionPlan, LabelPlan, Outcome, Pipeline, Range, decision_id};

/// Cases compared at most; each takes some 60 bytes, and the key that its label comes under.
const CASES: usize = 5_000_000;
/// Parts of time told at most.
const PERIODS: usize = 100;
/// Changed cases listed at most, of each change.
const LISTED: usize = 25;

/// Both policies on one state.
pub struct PolicyTest {
    pipeline: Pipeline,
    /// Before and after.
    decisions: [DecisionPlan; 2],
    range: Range,
    label: Option<LabelPlan>,
    join: Option<LabelJoin>,
    cases: Vec<Case>,
    times: Vec<EventTime>,
    labels: Vec<f64>,
    seen: Option<EventTime>,
}

struct Case {
    offset: Offset,
    score: Option<f64>,
    sides: [Side; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Side {
    outcome: usize,
    rule: Option<usize>,
}

/// More cases than are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyCases;

impl std::fmt::Display for TooManyCases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there are more than {CASES} cases to compare")
    }
}

impl std::error::Error for TooManyCases {}

/// What came of a case, as far as it is known: of the labels of `labelled` cases the mean, which is the share of positives where labels are 0
/// and 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Truth {
    pub labelled: u64,
    pub mean_label: Option<f64>,
}

/// How two policies differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub decision: String,
    /// Cases that both policies decided.
    pub cases: u64,
    /// Of these, with another outcome.
    pub changed: u64,
    /// The first and the last case.
    #[serde(serialize_with = "texts")]
    pub first: Option<EventTime>,
    #[serde(serialize_with = "texts")]
    pub last: Option<EventTime>,
    /// Every outcome of either policy.
    pub outcomes: Vec<OutcomeCount>,
    /// From each outcome to each, unchanged ones too.
    pub moves: Vec<Move>,
    /// How many cases each line decided.
    pub before: Vec<RuleCount>,
    pub after: Vec<RuleCount>,
    /// Parts of time of one length, in order, those without a case left out.
    pub periods: Vec<Period>,
    /// The newest cases of each change, newest first.
    pub examples: Vec<Example>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutcomeCount {
    pub outcome: String,
    pub before: u64,
    pub after: u64,
    pub before_truth: Truth,
    pub after_truth: Truth,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    pub before: String,
    pub after: String,
    pub cases: u64,
    #[serde(flatten)]
    pub truth: Truth,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleCount {
    /// None: whatever is left, or the fallback.
    pub when: Option<String>,
    pub outcome: String,
    pub cases: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Period {
    #[serde(serialize_with = "text")]
    pub from: EventTime,
    #[serde(serialize_with = "text")]
    pub to: EventTime,
    pub cases: u64,
    pub changed: u64,
    /// In the order of [`Comparison::outcomes`].
    pub before: Vec<u64>,
    pub after: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    pub decision_id: String,
    #[serde(serialize_with = "text")]
    pub time: EventTime,
    pub score: Option<f64>,
    pub before: String,
    pub after: String,
    pub before_rule: Option<String>,
    pub after_rule: Option<String>,
    pub label: Option<f64>,
}

impl PolicyTest {
    /// On the state of `pipeline`, whose next event is the first to be fed. `after` is the decision at the same position of another plan
    /// that differs in the policy alone.
    pub fn new(pipeline: Pipeline, decision: usize, after: DecisionPlan, range: Range) -> PolicyTest {
        let before = pipeline.plan().decisions[decision].clone();
        let label = before.model.and_then(|model| pipeline.plan().models[model].label.clone());
        // Neither needs reasons.
        let decisions = [before, after].map(|decision| DecisionPlan { reasons: 0, ..decision });
        PolicyTest {
            pipeline: pipeline.deciding(decisions.to_vec()),
            decisions,
            range,
            join: label.clone().map(|label| LabelJoin::new(label, range)),
            label,
            cases: Vec::new(),
            times: Vec::new(),
            labels: Vec::new(),
            seen: None,
        }
    }

    /// For records of the log that are no events.
    pub fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// Takes in the next event of the log.
    ///
    /// # Errors
    /// When there are more cases than are compared.
    pub fn feed(&mut self, event: &Event) -> Result<(), TooManyCases> {
        self.seen = self.seen.max(Some(event.time));
        let outcome = self.pipeline.process(event);
        if event.operation != Operation::Upsert {
            return Ok(());
        }
        if self.range.holds(event.time)
            && let Some(case) = self.case(event, &outcome)
        {
            if self.cases.len() == CASES {
                return Err(TooManyCases);
            }
            self.cases.push(case);
            self.times.push(event.time);
            self.labels.push(f64::NAN);
            if let Some(join) = &mut self.join {
                join.observe(event, &self.times, &mut self.labels);
            }
        }
        if let Some(join) = &mut self.join {
            join.label(event, &self.times, &mut self.labels);
        }
        Ok(())
    }

    fn case(&self, event: &Event, outcome: &Outcome) -> Option<Case> {
        let of = |position: usize| outcome.decisions.iter().find(|d| d.decision == position);
        let (before, after) = (of(0)?, of(1)?);
        let sides = [before, after].map(|d| Side { outcome: d.outcome, rule: d.rule });
        Some(Case { offset: event.offset, score: before.score, sides })
    }

    /// What the cases say.
    pub fn finish(self) -> Comparison {
        let words = self.outcomes();
        let place = |side: usize, case: &Case| {
            let word = &self.decisions[side].outcomes[case.sides[side].outcome];
            words.iter().position(|w| w == word).unwrap_or(0)
        };
        let n = words.len();
        let mut moves = vec![Sum::default(); n * n];
        let mut rules = self.decisions.each_ref().map(|d| vec![0; d.policy.len() + 1]);
        let span = self.period();
        let mut periods: Vec<Period> = Vec::new();
        let mut listed = vec![0; n * n];
        let mut examples = Vec::new();
        let mut by_time: Vec<usize> = (0..self.cases.len()).collect();
        by_time.sort_by_key(|&row| self.times[row]);
        for &row in by_time.iter().rev() {
            let case = &self.cases[row];
            let (from, to) = (place(0, case), place(1, case));
            let label = self.label_of(row);
            moves[from * n + to].add(label);
            for (side, counts) in rules.iter_mut().enumerate() {
                let last = counts.len() - 1;
                counts[case.sides[side].rule.unwrap_or(last)] += 1;
            }
            let start = EventTime(self.times[row].bucket(span) * span.0);
            if periods.last().is_none_or(|p| p.from != start) {
                let (before, after) = (vec![0; n], vec![0; n]);
                periods.push(Period { from: start, to: start + span, cases: 0, changed: 0, before, after });
            }
            if let Some(period) = periods.last_mut() {
                period.cases += 1;
                period.changed += u64::from(from != to);
                period.before[from] += 1;
                period.after[to] += 1;
            }
            if from != to && listed[from * n + to] < LISTED {
                listed[from * n + to] += 1;
                examples.push(self.example(row, &words[from], &words[to], label));
            }
        }
        periods.reverse();
        let total = |keep: &dyn Fn(usize, usize) -> bool| {
            let mut sum = Sum::default();
            (0..n * n).filter(|at| keep(at / n, at % n)).for_each(|at| sum.join(&moves[at]));
            sum
        };
        let changed = total(&|from, to| from != to).cases;
        let count = |at: usize, word: &String| {
            let (before, after) = (total(&|from, _| from == at), total(&|_, to| to == at));
            OutcomeCount {
                outcome: word.clone(),
                before: before.cases,
                after: after.cases,
                before_truth: before.truth(),
                after_truth: after.truth(),
            }
        };
        Comparison {
            decision: self.decisions[0].name.clone(),
            cases: self.cases.len() as u64,
            changed,
            first: by_time.first().map(|&row| self.times[row]),
            last: by_time.last().map(|&row| self.times[row]),
            outcomes: words.iter().enumerate().map(|(at, word)| count(at, word)).collect(),
            moves: (0..n * n)
                .filter(|at| moves[*at].cases > 0)
                .map(|at| Move {
                    before: words[at / n].clone(),
                    after: words[at % n].clone(),
                    cases: moves[at].cases,
                    truth: moves[at].truth(),
                })
                .collect(),
            before: self.rules(0, &rules[0]),
            after: self.rules(1, &rules[1]),
            periods,
            examples,
        }
    }

    fn outcomes(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for word in self.decisions.iter().flat_map(|d| &d.outcomes) {
            if !words.contains(word) {
                words.push(word.clone());
            }
        }
        words
    }

    /// The shortest usual stretch of which there are not too many.
    fn period(&self) -> Span {
        let (first, last) = (self.times.iter().min(), self.times.iter().max());
        let length = first.zip(last).map_or(0, |(first, last)| last.0 - first.0);
        let usual = [Span::HOUR, Span(6 * Span::HOUR.0), Span::DAY, Span(7 * Span::DAY.0), Span(28 * Span::DAY.0)];
        let fits = |span: &Span| length / span.0 < PERIODS as i64 - 1;
        usual.into_iter().find(fits).unwrap_or(Span((length / (PERIODS as i64 - 1) / Span::DAY.0 + 1) * Span::DAY.0))
    }

    fn label_of(&self, row: usize) -> Option<f64> {
        let label = self.label.as_ref()?;
        known(self.labels[row], self.times[row] + label.within, label.absent, self.seen?)
    }

    fn rules(&self, side: usize, counts: &[u64]) -> Vec<RuleCount> {
        let plan = &self.decisions[side];
        let named = plan.policy.iter().zip(counts).map(|(rule, cases)| RuleCount {
            when: rule.text.clone(),
            outcome: plan.outcomes[rule.outcome].clone(),
            cases: *cases,
        });
        let fallback = plan.fallback.map(|outcome| RuleCount {
            when: None,
            outcome: plan.outcomes[outcome].clone(),
            cases: counts[plan.policy.len()],
        });
        named.chain(fallback).collect()
    }

    fn example(&self, row: usize, before: &str, after: &str, label: Option<f64>) -> Example {
        let case = &self.cases[row];
        let rule = |side: usize| self.decisions[side].policy.get(case.sides[side].rule?)?.text.clone();
        Example {
            decision_id: decision_id(&self.decisions[0].name, case.offset),
            time: self.times[row],
            score: case.score,
            before: before.to_string(),
            after: after.to_string(),
            before_rule: rule(0),
            after_rule: rule(1),
            label,
        }
    }
}

#[derive(Clone, Default)]
struct Sum {
    cases: u64,
    labelled: u64,
    labels: f64,
}

impl Sum {
    fn add(&mut self, label: Option<f64>) {
        self.cases += 1;
        if let Some(label) = label {
            self.labelled += 1;
            self.labels += label;
        }
    }

    fn join(&mut self, other: &Sum) {
        self.cases += other.cases;
        self.labelled += other.labelled;
        self.labels += other.labels;
    }

    fn truth(&self) -> Truth {
        Truth { labelled: self.labelled, mean_label: (self.labelled > 0).then(|| self.labels / self.labelled as f64) }
    }
}

fn text<S: Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn texts<S: Serializer>(time: &Option<EventTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_some(&time.to_string()),
        None => serializer.serialize_none(),
    }
}
