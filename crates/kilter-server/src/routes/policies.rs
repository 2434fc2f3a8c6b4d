//! Another policy for a decision: what it would have decided, and putting it into the definitions.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use kilter_pipeline::policy_test as test;
use kilter_runtime::jobs::policy::{PolicyReport, PolicyRequest};
use kilter_runtime::project::{Report, RuleDef};
use kilter_runtime::{Service, ServiceError};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::changes::Apply;
use super::models::ACTOR;
use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody, FieldError};
use crate::input::{Params, Segments};
use crate::wire::{self, Moment};

/// Rules of a policy at most.
const RULES: usize = 200;

/// A line of a policy.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct RuleBody {
    /// An SQL condition over `score`, the columns of the event and the features; left out: always.
    #[schema(example = "score >= 0.2")]
    when: Option<String>,
    #[schema(example = "decline")]
    outcome: String,
}

/// The policy to try, and over which cases.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct BacktestBody {
    policy: Vec<RuleBody>,
    /// Cases from here on; left out: from the first.
    from: Option<Moment>,
    /// Cases before this; left out: to the last.
    to: Option<Moment>,
}

/// The policy to put into force.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct PolicyBody {
    policy: Vec<RuleBody>,
}

/// The policy in force and another one, case by case.
#[derive(Serialize, ToSchema)]
pub struct Backtest {
    /// The run that keeps it, as `comparison.json`.
    run: String,
    /// Records of the log before this were read.
    until_offset: u64,
    /// The list as it would stand in the definitions file.
    toml: String,
    #[serde(flatten)]
    comparison: Comparison,
}

/// How two policies differ.
#[derive(Serialize, ToSchema)]
pub struct Comparison {
    decision: String,
    /// Cases that both policies decided.
    cases: u64,
    /// Of these, with another outcome.
    changed: u64,
    /// Times of the first and the last case.
    first: Option<Moment>,
    last: Option<Moment>,
    /// Every outcome of either policy.
    outcomes: Vec<OutcomeCount>,
    /// From each outcome to each, unchanged ones too.
    moves: Vec<Move>,
    /// How many cases each line of the policy in force decided.
    before: Vec<RuleCount>,
    /// And of the other.
    after: Vec<RuleCount>,
    /// Parts of time of one length, in order, those without a case left out; at most 100.
    periods: Vec<Period>,
    /// The newest cases of each change, newest first; at most 25 of each.
    examples: Vec<Example>,
}

/// How often an outcome was given, and what came of those cases.
#[derive(Serialize, ToSchema)]
pub struct OutcomeCount {
    outcome: String,
    before: u64,
    after: u64,
    before_truth: Truth,
    after_truth: Truth,
}

/// What is known of cases by the label of the decision's model.
#[derive(Serialize, ToSchema)]
pub struct Truth {
    /// Cases whose label is known by now.
    labelled: u64,
    /// Of these; the share of positives where labels are 0 and 1.
    mean_label: Option<f64>,
}

#[derive(Serialize, ToSchema)]
pub struct Move {
    before: String,
    after: String,
    cases: u64,
    #[serde(flatten)]
    truth: Truth,
}

#[derive(Serialize, ToSchema)]
pub struct RuleCount {
    /// Null: whatever is left, or the fallback.
    when: Option<String>,
    outcome: String,
    cases: u64,
}

#[derive(Serialize, ToSchema)]
pub struct Period {
    from: Moment,
    to: Moment,
    cases: u64,
    changed: u64,
    /// By outcome, in the order of `outcomes`.
    before: Vec<u64>,
    after: Vec<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct Example {
    #[schema(example = "loan-12345")]
    decision_id: String,
    time: Moment,
    score: Option<f64>,
    before: String,
    after: String,
    before_rule: Option<String>,
    after_rule: Option<String>,
    /// Null while it is not known.
    label: Option<f64>,
}

impl From<PolicyReport> for Backtest {
    fn from(report: PolicyReport) -> Self {
        Backtest { run: report.run, until_offset: report.until, toml: report.toml, comparison: report.comparison.into() }
    }
}

impl From<test::Comparison> for Comparison {
    fn from(c: test::Comparison) -> Self {
        let rules = |counts: Vec<test::RuleCount>| {
            counts.into_iter().map(|r| RuleCount { when: r.when, outcome: r.outcome, cases: r.cases }).collect()
        };
        Comparison {
            decision: c.decision,
            cases: c.cases,
            changed: c.changed,
            first: c.first.map(Moment),
            last: c.last.map(Moment),
            outcomes: c.outcomes.into_iter().map(OutcomeCount::from).collect(),
            moves: c.moves.into_iter().map(Move::from).collect(),
            before: rules(c.before),
            after: rules(c.after),
            periods: c.periods.into_iter().map(Period::from).collect(),
            examples: c.examples.into_iter().map(Example::from).collect(),
        }
    }
}

impl From<test::OutcomeCount> for OutcomeCount {
    fn from(o: test::OutcomeCount) -> Self {
        OutcomeCount {
            outcome: o.outcome,
            before: o.before,
            after: o.after,
            before_truth: o.before_truth.into(),
            after_truth: o.after_truth.into(),
        }
    }
}

impl From<test::Truth> for Truth {
    fn from(t: test::Truth) -> Self {
        Truth { labelled: t.labelled, mean_label: t.mean_label }
    }
}

impl From<test::Move> for Move {
    fn from(m: test::Move) -> Self {
        Move { before: m.before, after: m.after, cases: m.cases, truth: m.truth.into() }
    }
}

impl From<test::Period> for Period {
    fn from(p: test::Period) -> Self {
        Period { from: Moment(p.from), to: Moment(p.to), cases: p.cases, changed: p.changed, before: p.before, after: p.after }
    }
}

impl From<test::Example> for Example {
    fn from(e: test::Example) -> Self {
        Example {
            decision_id: e.decision_id,
            time: Moment(e.time),
            score: e.score,
            before: e.before,
            after: e.after,
            before_rule: e.before_rule,
            after_rule: e.after_rule,
            label: e.label,
        }
    }
}

/// Try another policy on the past
///
/// Holds a policy against the one in force, case by case, with the features and the model version of each case's moment, and with the labels
/// known by now. The events are those that happened: what another policy would have changed in the world is not in them. Changes nothing but
/// that a run keeps the comparison; the answer comes when it is done.
#[utoipa::path(
    post, path = "/v1/policies/{decision}/backtest", tag = "decisions",
    params(("decision" = String, Path, description = "a decision of the project")),
    request_body(content = BacktestBody, content_type = "application/json"),
    responses(
        (status = 200, description = "how they differ", body = Backtest),
        (status = 400, description = "the body is wrong", body = ErrorBody),
        (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "another test of this decision is under way, or there are more cases than are compared", body = ErrorBody),
        (status = 422, description = "the policy does not hold (`bad_policy`): all that is wrong is named", body = ErrorBody),
    )
)]
pub async fn backtest_policy(State(app): State<App>, Segments(name): Segments<String>, params: Params, request: Request) -> Answer {
    params.done()?;
    let decision = app.service.decision(&name)?;
    let (parts, body) = request.into_parts();
    let mut members = Params::of_body(&parts.headers, body).await?;
    let policy = policy(&mut members);
    let (from, to) = (members.time("from"), members.time("to"));
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        members.refuse("to", "must be after `from`");
    }
    members.done()?;
    let request = PolicyRequest { decision, policy, from, to, trigger: ACTOR.into() };
    let report = to_the_end(&app, move |service| async move { service.test_policy(request).await }).await?;
    ok(&Backtest::from(report))
}

/// Put another policy into force
///
/// Writes it into the definitions file of the project's folder, where only the list of rules changes, and takes the file up as
/// `POST /v1/project/apply` does. Refused where the file has changes that are not in force. Commit the file: the definitions are what is
/// under version control.
#[utoipa::path(
    put, path = "/v1/policies/{decision}", tag = "decisions",
    params(("decision" = String, Path, description = "a decision of the project")),
    request_body(content = PolicyBody, content_type = "application/json"),
    responses(
        (status = 202, description = "it is being taken up: `apply` of `/v1/status` says how far", body = Apply),
        (status = 400, description = "the body is wrong", body = ErrorBody),
        (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "it is in force already, the file has other changes or cannot be written, or another apply is under way", body = ErrorBody),
        (status = 422, description = "the policy does not hold (`bad_policy`): all that is wrong is named", body = ErrorBody),
    )
)]
pub async fn publish_policy(State(app): State<App>, Segments(name): Segments<String>, params: Params, request: Request) -> Answer {
    params.done()?;
    let decision = app.service.decision(&name)?;
    let (parts, body) = request.into_parts();
    let mut members = Params::of_body(&parts.headers, body).await?;
    let policy = policy(&mut members);
    members.done()?;
    let begun = to_the_end(&app, move |service| async move { service.publish_policy(decision, policy).await }).await?;
    Ok(wire::json(StatusCode::ACCEPTED, &Apply::from(begun)))
}

async fn to_the_end<T: Send + 'static, F>(app: &App, work: impl FnOnce(std::sync::Arc<Service>) -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
{
    // A policy that does not hold is no failure of the work, and is told in the shape of wrong fields.
    let kept = |work: F| async move {
        match work.await {
            Err(ServiceError::Definitions(report)) => Ok(Err(report)),
            other => other.map(Ok),
        }
    };
    app.to_the_end(|service| kept(work(service))).await?.map_err(bad_policy)
}

fn bad_policy(report: Report) -> ApiError {
    let fields = report.problems.into_iter().map(|problem| FieldError {
        field: "policy".into(),
        code: problem.code.into(),
        message: problem.message,
        expected: None,
        got: Some(problem.excerpt.trim().to_string()).filter(|excerpt| !excerpt.is_empty()),
        hint: problem.hint,
    });
    ApiError::wrong_fields(StatusCode::UNPROCESSABLE_ENTITY, "bad_policy", fields.collect())
}

/// The member `policy`: objects with `when` and `outcome`.
fn policy(members: &mut Params) -> Vec<RuleDef> {
    let Some(items) = members.list("policy", RULES) else {
        members.missing("policy", "an array such as [{\"when\": \"score >= 0.2\", \"outcome\": \"decline\"}, {\"outcome\": \"approve\"}]");
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        match rule(item) {
            Ok(rule) => rules.push(rule),
            Err(message) => members.refuse(&format!("policy[{at}]"), &message),
        }
    }
    rules
}

fn rule(item: Value) -> Result<RuleDef, String> {
    let Value::Object(mut item) = item else { return Err("expected an object with `when` and `outcome`".into()) };
    let mut text = |name: &str| match item.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is no text, or an empty one")),
    };
    let (when, outcome) = (text("when")?, text("outcome")?);
    let outcome = outcome.ok_or("`outcome` is missing")?;
    match item.keys().next() {
        Some(other) => Err(format!("there is no `{other}` in a rule: it has `when` and `outcome`")),
        None => Ok(RuleDef { when, outcome }),
    }
}
