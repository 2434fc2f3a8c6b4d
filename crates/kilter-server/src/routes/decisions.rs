//! Decisions that were made: listed, explained, made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use kilter_core::Value;
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::{Recorded, audit};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::routes::decide::Decided;
use crate::wire::Named;

/// Decisions, newest first.
#[derive(Serialize, ToSchema)]
pub struct Decisions<'a> {
    decisions: Vec<Decided<'a>>,
    /// Give it as `before` for the next page; null at the end. A page may be short of its limit and yet not the last.
    next: Option<u64>,
}

/// A decision with everything the model saw.
#[derive(Serialize, ToSchema)]
pub struct FullDecision<'a> {
    #[serde(flatten)]
    decided: Decided<'a>,
    /// What the score is made of: log-odds, of most models with a probability; null without a model.
    margin: Option<f64>,
    /// Every input of the model by name; null where missing.
    #[schema(value_type = BTreeMap<String, Option<f64>>)]
    inputs: Named<Inputs<'a>>,
    /// Hash of the definitions the decision was made under.
    definitions: &'a str,
}

type Inputs<'a> = std::iter::Zip<std::slice::Iter<'a, String>, std::slice::Iter<'a, f64>>;

/// A decision and its replay.
#[derive(Serialize, ToSchema)]
pub struct Replay<'a> {
    #[schema(example = "loan-12345")]
    id: &'a str,
    /// Whether the replay gave the same to the last bit.
    same: bool,
    /// The first thing that differs.
    difference: Option<&'a str>,
    /// All of the difference rests on events that were erased: nothing can be said of the decision.
    inputs_erased: bool,
    /// Where the state was taken up: the offset of a snapshot, or 0 for the start of the log.
    from_offset: u64,
    recorded: FullDecision<'a>,
    /// Null when the replay made no decision.
    again: Option<FullDecision<'a>>,
    /// The event's fields and all features at hand just before the decision, by name.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    context: BTreeMap<&'a str, &'a Value>,
}

impl<'a> FullDecision<'a> {
    fn new(decision: &'a Decision, layout: &'a Layout) -> FullDecision<'a> {
        FullDecision {
            decided: Decided::new(decision, layout, true),
            margin: decision.score.map(|_| decision.margin),
            inputs: Named(layout.inputs.iter().zip(decision.inputs.iter())),
            definitions: &layout.definitions,
        }
    }
}

/// A decision as `GET /v1/decisions/{id}` gives it.
pub fn decision_json(decision: &Decision, layout: &Layout) -> Vec<u8> {
    // Texts and numbers: serialising them cannot fail.
    serde_json::to_vec(&FullDecision::new(decision, layout)).unwrap_or_default()
}

/// List decisions
///
/// Newest first. Each call looks at no more than 100 000 records: with a rare outcome, go on with `next` until it is null.
#[utoipa::path(
    get, path = "/v1/decisions", tag = "decisions",
    params(
        ("decision" = Option<String>, Query, description = "only those of this decision"),
        ("outcome" = Option<String>, Query, description = "only those with this outcome"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 50 when left out"),
        ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "a page of decisions", body = Decisions),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such decision", body = ErrorBody),
    )
)]
pub async fn list_decisions(State(app): State<App>, mut params: Params) -> Answer {
    let plan = &app.service.plan;
    let name = params.text("decision");
    if let Some(name) = &name {
        app.service.decision(name)?;
    }
    let of_interest = plan.decisions.iter().filter(|d| name.as_ref().is_none_or(|n| *n == d.name));
    let outcomes: Vec<&str> = of_interest.flat_map(|d| d.outcomes.iter().map(String::as_str)).collect();
    let outcome = params.one_of("outcome", &outcomes).map(|i| outcomes[i].to_string());
    let limit = params.limit(50, 1000);
    let before = params.number("before", 0..=u64::MAX);
    params.done()?;
    let keep = move |r: &Recorded| {
        name.as_ref().is_none_or(|n| *n == r.layout.decision)
            && outcome.as_ref().is_none_or(|o| r.layout.outcomes.get(r.decision.outcome) == Some(o))
    };
    let (found, next) = app.blocking(move |service| Ok(service.decisions(before, limit, keep)?)).await?;
    let decisions = found.iter().map(|r| Decided::new(&r.decision, &r.layout, true)).collect();
    ok(&Decisions { decisions, next })
}

/// One decision
///
/// With every input the model saw, its reasons and the rule that decided.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", tag = "decisions",
    params(("id" = String, Path, description = "such as `loan-12345`")),
    responses(
        (status = 200, description = "the decision", body = FullDecision),
        (status = 404, description = "no such decision", body = ErrorBody),
    )
)]
pub async fn get_decision(State(app): State<App>, Segments(id): Segments<String>, params: Params) -> Answer {
    params.done()?;
    let found = app.blocking(move |service| Ok(service.recorded(&id)?)).await?;
    ok(&FullDecision::new(&found.decision, &found.layout))
}

/// Make a decision again
///
/// Rebuilds the state from the newest snapshot before the decision's event, under the definitions of its day, runs the same events through the same code and
/// compares to the last bit. Writes nothing.
#[utoipa::path(
    post, path = "/v1/decisions/{id}/replay", tag = "decisions",
    params(("id" = String, Path, description = "such as `loan-12345`")),
    responses(
        (status = 200, description = "both decisions and whether they are the same", body = Replay),
        (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "made under definitions that are not kept or no longer hold", body = ErrorBody),
        (status = 429, description = "other replays are under way", body = ErrorBody),
    )
)]
pub async fn replay_decision(State(app): State<App>, Segments(id): Segments<String>, params: Params) -> Answer {
    params.done()?;
    let busy = || ApiError::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", "other replays are under way").retry_after(5);
    let _place = app.replays.try_acquire().map_err(|_| busy())?;
    let asked = id.clone();
    let replayed = app
        .blocking(move |service| {
            let recorded = service.recorded(&id)?;
            // A decision is judged by the rules of its day.
            let plan = match recorded.layout.definitions == service.plan.hash {
                true => Arc::clone(&service.plan),
                false => service.data.kept_plan(&recorded.layout.definitions).map_err(|e| {
                    ApiError::new(StatusCode::CONFLICT, "other_definitions", format!("decision `{id}` cannot be replayed: {e:#}"))
                })?,
            };
            audit::replay_one(&service.data, &plan, &id, false).map_err(|e| ApiError::internal(&format!("replay of {id}: {e:#}")))
        })
        .await?;
    let layout = &replayed.recorded.layout;
    ok(&Replay {
        id: &asked,
        same: replayed.difference.is_none(),
        difference: replayed.difference.as_deref(),
        inputs_erased: replayed.inputs_erased,
        from_offset: replayed.from_offset,
        recorded: FullDecision::new(&replayed.recorded.decision, layout),
        again: replayed.again.as_ref().map(|again| FullDecision::new(again, layout)),
        context: replayed.context.iter().map(|(name, value)| (name.as_str(), value)).collect(),
    })
}
