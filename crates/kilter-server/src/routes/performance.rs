//! How well a model's decisions turned out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use kilter_pipeline::performance::{By, Report, Shown};
use kilter_runtime::jobs::performance::PerformanceRequest;
use kilter_runtime::{Service, ServiceError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::wire::Moment;

/// Outcomes named in one request at most.
const OUTCOMES: usize = 50;

#[derive(Serialize)]
struct Told<'a> {
    until_offset: u64,
    #[serde(flatten)]
    report: &'a Report,
}

/// How a model's decisions turned out, with the labels that are known by now, and what is to be expected of the others.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer, which is written as the pipeline has it")]
pub struct ModelPerformance {
    model: String,
    decision: String,
    /// `classes`, `numbers` or `anomalies`.
    #[schema(example = "classes")]
    task: String,
    has_label: bool,
    /// How long after a decision its label is final.
    #[schema(example = "30d")]
    horizon: Option<String>,
    /// The label of a case whose horizon ended without a label event; null: such cases stay without one.
    absent: Option<f64>,
    /// The method by which the model's probabilities are calibrated; null: they are the learner's own, and estimates rest on them as they are.
    #[schema(example = "isotonic")]
    calibration: Option<String>,
    /// The newest event that was read: what is known is known as of then.
    as_of: Option<Moment>,
    /// Records of the log before this were read.
    until_offset: u64,
    #[schema(example = "week")]
    by: String,
    favourable: Vec<String>,
    /// Null where labels are numbers.
    good_label: Option<u8>,
    /// The order of outcomes everywhere.
    outcomes: Vec<String>,
    /// Of all in the stretch, also those of versions not asked for.
    versions: Vec<DecisionsOfVersion>,
    left_out: LeftOut,
    total: PerformanceSlice,
    /// Of the total: at most ten bins of as many cases each by score.
    calibration_curve: Vec<CalibrationPoint>,
    /// In order, those without a decision left out; at most 400.
    cohorts: Vec<Cohort>,
    /// Null where none was asked for.
    segment: Option<PerformanceSegment>,
}

/// A figure within its bounds, of 95 %; bounds that the cases do not say are null.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct Figure {
    value: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct DecisionsOfVersion {
    /// Null: decided without a model.
    version: Option<u32>,
    decisions: u64,
    first: Moment,
    last: Moment,
}

/// Recorded decisions of the stretch that are in no figure.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct LeftOut {
    erased: u64,
    /// Made under this name with another model.
    other_model: u64,
    /// On events of a source that is no longer declared, or is no longer the decision's.
    without_event: u64,
}

/// Some of the decisions.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct PerformanceSlice {
    decisions: u64,
    /// With a score.
    scored: u64,
    /// Their horizon has ended: what is known of their labels is final.
    matured: u64,
    /// Of these, with a known label.
    labelled: u64,
    mean_score: Option<f64>,
    outcomes: Vec<OutcomeOfSlice>,
    /// Null: there is no case with a score and a label.
    realised: Option<Realised>,
    /// From the scores alone, of all that are scored; null where they are no probabilities.
    estimated: Option<Estimated>,
}

/// The decisions of one outcome.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct OutcomeOfSlice {
    outcome: String,
    decisions: u64,
    /// By Wilson.
    share: Option<Figure>,
    mean_score: Option<f64>,
    labelled: u64,
    /// Of positives among the labelled ones, by Wilson; the mean label where labels are numbers.
    rate: Option<Figure>,
}

/// What is known of the cases that have a score and a label. What the task or the cases do not define is null.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct Realised {
    rows: u64,
    /// Null where labels are numbers.
    positives: Option<u64>,
    /// Of positives, by Wilson; the mean label where labels are numbers.
    rate: Option<Figure>,
    mean_score: f64,
    /// By DeLong.
    auc: Option<Figure>,
    /// In nats; a mean, with 1.96 standard errors to either side.
    log_loss: Option<Figure>,
    brier: Option<Figure>,
    calibration_error: Option<CalibrationError>,
    /// With the roots of the bounds of its square.
    rmse: Option<Figure>,
    mae: Option<Figure>,
    /// Mean score less mean label.
    bias: Option<Figure>,
    /// Of a quantile.
    pinball: Option<Figure>,
    coverage: Option<Figure>,
    /// Of an objective that has one.
    deviance: Option<Figure>,
    /// The estimate of exactly these cases: how far it can be trusted.
    expected: Option<Estimated>,
}

/// The expected calibration error over at most ten bins, and what a perfectly calibrated score stays below in 95 of 100 samples of this size.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct CalibrationError {
    value: f64,
    by_chance: f64,
}

/// What is to be expected if the scores are calibrated (CBPE). The bounds are those of the figure once labels are known.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct Estimated {
    rows: u64,
    /// The mean score.
    rate: Option<Figure>,
    auc: Option<Figure>,
    log_loss: Option<Figure>,
    brier: Option<Figure>,
}

/// Cases of similar scores.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct CalibrationPoint {
    low: f64,
    high: f64,
    count: u64,
    mean_score: f64,
    /// The share of positives, by Wilson; the mean label where labels are numbers.
    observed: Option<Figure>,
}

/// The decisions on events of a period, in UTC.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct Cohort {
    from: Moment,
    to: Moment,
    /// When its last horizon has ended.
    complete_at: Option<Moment>,
    #[serde(flatten)]
    slice: PerformanceSlice,
}

/// The decisions by group.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct PerformanceSegment {
    #[schema(example = "applications.region")]
    name: String,
    /// `column` or `input`.
    kind: String,
    /// `value`: a group for each of the 20 most frequent values. `range`: five of about as many cases each.
    cut: String,
    /// The group that others are held against.
    reference: Option<String>,
    /// The one with the largest share of favourable outcomes, of those that are not few.
    highest: Option<String>,
    /// The largest share of favourable outcomes less the smallest, of groups that are not few; null: there are fewer than two.
    demographic_parity_difference: Option<f64>,
    /// The same of the true positive rate.
    equal_opportunity_difference: Option<f64>,
    groups: Vec<PerformanceGroup>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct PerformanceGroup {
    #[schema(example = "north")]
    group: String,
    /// `value`, `range`, `other` or `missing`.
    kind: String,
    /// The lowest and the highest value of a range.
    low: Option<f64>,
    high: Option<f64>,
    /// Of `other`: how many values were put together.
    values: Option<u64>,
    /// Fewer than 30 decisions, or less than two percent of all.
    few: bool,
    /// Fewer than 30 labelled cases that deserved a favourable outcome.
    few_labelled: bool,
    favourable: Favourable,
    /// Its share of favourable outcomes by the reference's, with the interval of the logarithm (Katz).
    impact_ratio: Option<Figure>,
    /// The four-fifths rule.
    below_four_fifths: Option<bool>,
    /// The share of favourable outcomes among labelled cases with the good label, by Wilson.
    true_positive_rate: Option<Figure>,
    /// The same among those with the other label.
    false_positive_rate: Option<Figure>,
    /// The true positive rate less the reference's, with Newcombe's interval.
    equal_opportunity: Option<Figure>,
    #[serde(flatten)]
    slice: PerformanceSlice,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer")]
pub struct Favourable {
    decisions: u64,
    /// By Wilson.
    share: Option<Figure>,
}

/// How a model's decisions turned out
///
/// By period and, if asked for, by group: what is known by labels, what is to be expected of scores whose labels are not known yet, and who gets a favourable outcome how often. Of decisions
/// and labels as recorded: nothing is scored anew. Reads the logs, from a snapshot before `from` on or from their start, which takes its time; one at a time, others wait. It ends when
/// whoever asked goes away.
#[utoipa::path(
    get, path = "/v1/models/{model}/performance", tag = "models",
    params(
        ("model" = String, Path, description = "a model of the project"),
        ("decision" = Option<String>, Query, description = "which of its decisions; needed where there are several"),
        ("from" = Option<String>, Query, description = "only decisions on events of this time and later"),
        ("to" = Option<String>, Query, description = "only those on events before this time"),
        ("by" = Option<String>, Query, description = "`hour`, `day`, `week` or `month`, in UTC; left out: the shortest that gives no more than 60 cohorts"),
        ("version" = Option<u32>, Query, description = "only those that this version scored"),
        ("segment" = Option<String>, Query, description = "a column of the decision's source, or an input of the model, to form groups by"),
        ("favourable" = Option<String>, Query, description = "outcomes that are good for whom the decision is about, separated by commas; left out: that of the policy's last line"),
        ("good_label" = Option<u8>, Query, description = "`0` or `1`: the label of a case that deserved it; left out: 1 where favourable outcomes have the higher scores, else 0"),
        ("reference" = Option<String>, Query, description = "the group that others are held against; left out: the largest"),
    ),
    responses(
        (status = 200, description = "how they turned out", body = ModelPerformance),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such model, decision, segment, outcome or group", body = ErrorBody),
        (status = 409, description = "no decision is made with the model, or there is more than is told: decisions, cohorts, values of a segment", body = ErrorBody),
    )
)]
pub async fn get_performance(State(app): State<App>, Segments(name): Segments<String>, mut params: Params) -> Answer {
    let model = app.service.model(&name)?;
    let (decision, segment) = (params.text("decision"), params.text("segment"));
    let names: Vec<&str> = By::ALL.iter().map(|(name, _)| *name).collect();
    let (from, to) = (params.time("from"), params.time("to"));
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        params.refuse("to", "must be after `from`");
    }
    let favourable: Vec<String> =
        params.text("favourable").map(|text| text.split(',').map(|name| name.trim().to_string()).collect()).unwrap_or_default();
    if favourable.len() > OUTCOMES {
        params.refuse("favourable", &format!("at most {OUTCOMES} outcomes"));
    }
    let shown = Shown {
        by: params.one_of("by", &names).map(|at| By::ALL[at].1),
        favourable,
        good_label: params.number("good_label", 0..=1).map(|label| label == 1),
        reference: params.text("reference"),
    };
    if shown.reference.is_some() && segment.is_none() {
        params.missing("segment", "what forms the groups of which this is one");
    }
    let version = params.number("version", 1..=u64::from(u32::MAX)).map(|version| version as u32);
    let decision = match decision {
        Some(name) => Some(app.service.decision(&name)?),
        None => None,
    };
    let plan = &app.service.plan;
    let own: Vec<usize> = (0..plan.decisions.len()).filter(|at| plan.decisions[*at].model == Some(model)).collect();
    let told = || own.iter().map(|at| plan.decisions[*at].name.as_str()).collect::<Vec<_>>().join(", ");
    match (decision, own.len()) {
        (Some(decision), _) if !own.contains(&decision) => {
            params.refuse("decision", &format!("is not made with model `{name}`; those that are: {}", told()));
        }
        (None, 2..) => params.missing("decision", &format!("one of: {}", told())),
        _ => {}
    }
    params.done()?;
    let Some(decision) = decision.or(own.first().copied()) else {
        return Err(ServiceError::Conflict(format!("no decision is made with model `{name}`")).into());
    };
    let segment = segment.map(|segment| app.service.segment_of(decision, &segment)).transpose()?;
    let request = PerformanceRequest { decision, from, to, version, segment, shown };

    // Closed never: whoever asks waits its turn.
    let place = Arc::clone(&app.reports).acquire_owned().await.ok();
    let wanted = Wanted::default();
    let is_wanted = Arc::clone(&wanted.0);
    let work = move |service: &Arc<Service>| {
        // It goes on for a moment after whoever asked has gone.
        let _place = place;
        service.performance(&request, &|| is_wanted.load(Ordering::Relaxed)).map_err(ApiError::from)
    };
    let found = app.blocking(work).await?;
    ok(&Told { until_offset: found.until, report: &found.report })
}

/// True as long as this lives.
struct Wanted(Arc<AtomicBool>);

impl Default for Wanted {
    fn default() -> Self {
        Wanted(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
