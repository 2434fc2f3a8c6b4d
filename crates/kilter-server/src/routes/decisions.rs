//! Decisions that were made: listed, explained, made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use kilter_core::Value;
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::decision_search::{DecisionSearch, FoundDecisions};
use kilter_runtime::{Recorded, audit};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::routes::decide::Decided;
use crate::wire::{Moment, Named};

const NEXT_BEFORE: HeaderName = HeaderName::from_static("next-before");
const FORMATS: [&str; 2] = ["json", "csv"];

/// Decisions, newest first.
#[derive(Serialize, ToSchema)]
pub struct Decisions<'a> {
    decisions: Vec<ListedDecision<'a>>,
    /// Give it as `before` for the next page; null at the end. A page may be short of its limit and yet not the last.
    next: Option<u64>,
    /// Records of the decision log that were read for this page.
    looked_at: u64,
    /// When the oldest decision among them was made on; null: there was none.
    back_to: Option<Moment>,
}

/// One of a list.
#[derive(Serialize, ToSchema)]
pub struct ListedDecision<'a> {
    #[serde(flatten)]
    decided: Decided<'a>,
    /// With `inputs=true`: every input of the model by name; null where missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<f64>>>)]
    inputs: Option<Named<Inputs<'a>>>,
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

impl<'a> ListedDecision<'a> {
    fn new(recorded: &'a Recorded, with_inputs: bool) -> ListedDecision<'a> {
        let Recorded { decision, layout } = recorded;
        let inputs = with_inputs.then(|| Named(layout.inputs.iter().zip(decision.inputs.iter())));
        ListedDecision { decided: Decided::new(decision, layout, true), inputs }
    }
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
/// Newest first. Each call looks at no more than 100 000 records, or 20 000 decisions with `key`: with rare ones, go on with `next` until it is null. As CSV
/// the header `Next-Before` holds `next`.
#[utoipa::path(
    get, path = "/v1/decisions", tag = "decisions",
    params(
        ("decision" = Option<String>, Query, description = "only those of this decision"),
        ("outcome" = Option<String>, Query, description = "only those with this outcome"),
        ("from" = Option<String>, Query, description = "only those on events of this time and later"),
        ("to" = Option<String>, Query, description = "only those on events before this time"),
        ("min_score" = Option<f64>, Query, description = "only those with this score or a higher one"),
        ("max_score" = Option<f64>, Query, description = "only those with this score or a lower one"),
        ("model_version" = Option<u32>, Query, description = "only those that this version scored"),
        ("reason" = Option<String>, Query, description = "only those with this input, or group of inputs, among their reasons"),
        ("key" = Option<String>, Query, description = "only those on events with this key of a view that the decision reads; several key columns are separated by `|`"),
        ("view" = Option<String>, Query, description = "with `key`: of this view"),
        ("inputs" = Option<bool>, Query, description = "each with what the model saw"),
        ("format" = Option<String>, Query, description = "`json`, or `csv` of at most 10 000 rows"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 50 when left out"),
        ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "a page of decisions", content(
            (Decisions = "application/json"),
            (String = "text/csv"),
        )),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such decision or view", body = ErrorBody),
        (status = 409, description = "no decision reads a view of such a key", body = ErrorBody),
        (status = 422, description = "the key fits no view that a decision reads", body = ErrorBody),
    )
)]
pub async fn list_decisions(State(app): State<App>, mut params: Params) -> Answer {
    let plan = &app.service.plan;
    let decision = params.text("decision");
    if let Some(name) = &decision {
        app.service.decision(name)?;
    }
    let of_interest = plan.decisions.iter().filter(|d| decision.as_ref().is_none_or(|n| *n == d.name));
    let outcomes: Vec<&str> = of_interest.flat_map(|d| d.outcomes.iter().map(String::as_str)).collect();
    let outcome = params.one_of("outcome", &outcomes).map(|i| outcomes[i].to_string());
    let as_csv = params.one_of("format", &FORMATS) == Some(1);
    let with_inputs = params.flag("inputs");
    if as_csv && with_inputs {
        params.refuse("inputs", "go with JSON; CSV has no columns for them");
    }
    let (key, view) = (params.text("key"), params.text("view"));
    if view.is_some() && key.is_none() {
        params.missing("key", "the entity of the view");
    }
    let mut search = DecisionSearch {
        decision,
        outcome,
        from: params.time("from"),
        to: params.time("to"),
        min_score: params.real("min_score"),
        max_score: params.real("max_score"),
        version: params.number("model_version", 1..=u64::from(u32::MAX)).map(|version| version as u32),
        reason: params.text("reason"),
        limit: params.limit(50, if as_csv { 10_000 } else { 1000 }),
        before: params.number("before", 0..=u64::MAX),
        entity: None,
    };
    params.done()?;
    if let Some(key) = key {
        let view = view.map(|view| app.service.view(&view)).transpose()?;
        search.entity = Some(app.service.entity_of_decisions(view, &key)?);
    }
    // Closed never: whoever asks waits its turn, within the time of a request.
    let place = app.searches.acquire().await.ok();
    let found = app.blocking(move |service| Ok(service.search_decisions(&search)?)).await?;
    drop(place);
    if as_csv {
        return Ok(csv(&found));
    }
    ok(&Decisions {
        decisions: found.decisions.iter().map(|recorded| ListedDecision::new(recorded, with_inputs)).collect(),
        next: found.next,
        looked_at: found.looked_at,
        back_to: found.back_to.map(Moment),
    })
}

fn csv(found: &FoundDecisions) -> Response {
    let mut text = String::from("decision_id,time,decision,outcome,score,model,model_version,rule,reasons\n");
    for Recorded { decision, layout } in &found.decisions {
        let reasons: Vec<&str> = decision.reasons.iter().map(|reason| layout.reason(reason, &decision.inputs).0).collect();
        let fields = [
            kilter_pipeline::decision_id(&layout.decision, decision.offset),
            decision.time.to_string(),
            layout.decision.clone(),
            layout.outcomes.get(decision.outcome).cloned().unwrap_or_default(),
            decision.score.map(|score| score.to_string()).unwrap_or_default(),
            layout.model.clone().unwrap_or_default(),
            decision.version.map(|version| version.to_string()).unwrap_or_default(),
            decision.rule.and_then(|rule| layout.rules.get(rule)).cloned().unwrap_or_default(),
            reasons.join(";"),
        ];
        text.push_str(&fields.map(quoted).join(","));
        text.push('\n');
    }
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Some(next) = found.next {
        response.headers_mut().insert(NEXT_BEFORE, HeaderValue::from(next));
    }
    response
}

/// A field of CSV (RFC 4180).
fn quoted(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
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
