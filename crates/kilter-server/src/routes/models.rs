//! Models: what there is, training, and who is in service.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use kilter_core::Span;
use kilter_pipeline::Figures;
use kilter_runtime::jobs::train::{Promotion, TrainReport};
use kilter_store::metadata::{AliasRecord, CHALLENGER, CHAMPION, ModelVersion};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::access::keys::Role;
use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::wire::Moment;

/// Who asked, in the history of a model.
pub const ACTOR: &str = "api";

/// All models of the project.
#[derive(Serialize, ToSchema)]
pub struct Models {
    models: Vec<Model>,
}

/// A model and where it stands.
#[derive(Serialize, ToSchema)]
pub struct Model {
    #[schema(example = "default_risk")]
    model: String,
    /// The source whose events it observes.
    on: String,
    inputs: Vec<String>,
    /// The version that decides; null before the first promotion.
    in_service: Option<u32>,
    /// The newest version; null before the first training.
    latest: Option<u32>,
    /// The version behind each alias, such as `champion` and `challenger`.
    aliases: BTreeMap<String, u32>,
    /// How long after an observation its label is known.
    #[schema(example = "21d")]
    label_within: Option<String>,
    /// Length of the training window; null: all of the log.
    window: Option<String>,
    holdout: f64,
    min_rows: usize,
}

/// A model with its versions and its history.
#[derive(Serialize, ToSchema)]
pub struct FullModel {
    #[serde(flatten)]
    model: Model,
    /// Newest first.
    versions: Vec<Version>,
    /// Every move of champion and challenger, newest first.
    history: Vec<AliasMove>,
}

/// One trained version of a model.
#[derive(Serialize, ToSchema)]
pub struct Version {
    version: u32,
    /// Those that point at it, such as `champion`.
    aliases: Vec<String>,
    created_at: Moment,
    /// The run that made it.
    run: Option<String>,
    /// Such as `gbdt`.
    kind: String,
    /// Content hash of the model file.
    artifact: String,
    trained_from: Option<Moment>,
    trained_to: Option<Moment>,
    /// On the held-out newest rows; null where the rows do not define a figure.
    #[schema(value_type = BTreeMap<String, Option<f64>>)]
    metrics: BTreeMap<String, f64>,
    /// Hash of the definitions it was trained under.
    definitions: Option<String>,
    notes: String,
}

/// One move of an alias.
#[derive(Serialize, ToSchema)]
pub struct AliasMove {
    #[schema(example = "champion")]
    alias: String,
    /// Null when the alias was removed.
    version: Option<u32>,
    at: Moment,
    /// The offset of the log from which it holds.
    at_offset: Option<u64>,
    reason: String,
    actor: String,
    is_rollback: bool,
}

/// What came of a training.
#[derive(Serialize, ToSchema)]
pub struct Trained {
    run: String,
    model: String,
    version: u32,
    /// Whether it went into service.
    promote: bool,
    /// Why, or why not.
    verdict: String,
    trained_from: Moment,
    trained_to: Moment,
    train_rows: usize,
    /// Observations in the window whose label is not known yet.
    unmatured: usize,
    /// What the search for settings chose; null for a model without one.
    searched: Option<Searched>,
    /// The new version on the held-out rows; null without such rows.
    holdout: Option<Evaluation>,
    /// The version in service on the same rows.
    champion: Option<Evaluation>,
}

/// What came of a search for settings of the learner.
#[derive(Serialize, ToSchema)]
pub struct Searched {
    /// Models fitted on the way.
    fits: usize,
    /// Mean loss over the folds of the settings as they are declared; a figure that is better when it is larger counts with a minus.
    loss_as_declared: f64,
    loss_of_chosen: f64,
    /// The settings chosen; empty where nothing was better than those declared.
    #[schema(value_type = Object)]
    settings: serde_json::Value,
}

/// How a model did on some rows; null where the rows, or what it predicts, do not define a figure.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Evaluation {
    Classes(ClassEvaluation),
    Numbers(RegressionEvaluation),
}

/// Of a model that predicts a probability; an anomaly score has the figures of its order alone.
#[derive(Serialize, ToSchema)]
pub struct ClassEvaluation {
    rows: usize,
    positives: usize,
    #[schema(value_type = Option<f64>)]
    auc: f64,
    /// DeLong's 95 % interval of `auc`.
    #[schema(value_type = Option<f64>)]
    auc_low: f64,
    #[schema(value_type = Option<f64>)]
    auc_high: f64,
    #[schema(value_type = Option<f64>)]
    average_precision: f64,
    /// In nats.
    #[schema(value_type = Option<f64>)]
    log_loss: f64,
    #[schema(value_type = Option<f64>)]
    brier: f64,
    /// Expected calibration error over ten bins of equal size.
    #[schema(value_type = Option<f64>)]
    ece: f64,
    ks: KolmogorovSmirnov,
    #[schema(value_type = Option<f64>)]
    gini: f64,
}

/// Of a model that predicts a number.
#[derive(Serialize, ToSchema)]
pub struct RegressionEvaluation {
    rows: usize,
    #[schema(value_type = Option<f64>)]
    rmse: f64,
    #[schema(value_type = Option<f64>)]
    mae: f64,
    #[schema(value_type = Option<f64>)]
    median_absolute_error: f64,
    #[schema(value_type = Option<f64>)]
    r2: f64,
    /// Mean prediction less mean label.
    #[schema(value_type = Option<f64>)]
    bias: f64,
    /// Mean pinball loss at the level of a quantile.
    #[schema(value_type = Option<f64>)]
    pinball: f64,
    /// Share of labels that are not above their prediction; of a quantile.
    #[schema(value_type = Option<f64>)]
    coverage: f64,
    /// Mean deviance, where the objective has one.
    #[schema(value_type = Option<f64>)]
    deviance: f64,
    #[schema(value_type = Option<f64>)]
    mean_label: f64,
    #[schema(value_type = Option<f64>)]
    mean_prediction: f64,
}

/// The most that the true positive rate exceeds the false positive rate.
#[derive(Serialize, ToSchema)]
pub struct KolmogorovSmirnov {
    #[schema(value_type = Option<f64>)]
    value: f64,
    /// The score at which it does.
    #[schema(value_type = Option<f64>)]
    threshold: f64,
}

/// What to train on and whether it takes over.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct TrainBody {
    /// Observations from here on; left out: the model's window.
    from: Option<Moment>,
    /// Observations before this; left out: as late as labels are known.
    to: Option<Moment>,
    /// `never` (default), `always`, or `rule`: the first version, then by `promote_if` of the model's schedule.
    #[schema(example = "rule")]
    promote: Option<String>,
}

/// The version to put into service.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct PromoteBody {
    version: u32,
    /// For the history.
    reason: Option<String>,
}

/// The version now in service.
#[derive(Serialize, ToSchema)]
pub struct InService {
    model: String,
    version: u32,
    /// Events from this offset on are decided by it.
    offset: u64,
}

async fn model(app: &App, index: usize) -> Result<(Model, Vec<ModelVersion>), ApiError> {
    let plan = &app.service.plan.models[index];
    let metadata = &app.service.data.metadata;
    let versions = metadata.versions(&plan.name).await?;
    let aliases = metadata.aliases(&plan.name).await?;
    let model = Model {
        model: plan.name.clone(),
        on: app.service.plan.sources[plan.context.source.0 as usize].name.clone(),
        inputs: plan.input_names(),
        in_service: aliases.get(CHAMPION).copied(),
        latest: versions.iter().map(|v| v.version).max(),
        aliases,
        label_within: plan.label.as_ref().map(|l| l.within.to_string()),
        window: plan.window.as_ref().map(Span::to_string),
        holdout: plan.holdout,
        min_rows: plan.min_rows,
    };
    Ok((model, versions))
}

impl Version {
    fn new(v: ModelVersion, aliases: &BTreeMap<String, u32>) -> Version {
        Version {
            version: v.version,
            aliases: aliases.iter().filter(|(_, version)| **version == v.version).map(|(alias, _)| alias.clone()).collect(),
            created_at: Moment::micros(v.spec.created_at),
            run: v.spec.run_id,
            kind: v.spec.kind,
            artifact: v.spec.artifact,
            trained_from: v.spec.trained_from.map(Moment::micros),
            trained_to: v.spec.trained_to.map(Moment::micros),
            metrics: v.spec.metrics,
            definitions: v.spec.definition_hash,
            notes: v.spec.notes,
        }
    }
}

impl From<AliasRecord> for AliasMove {
    fn from(r: AliasRecord) -> Self {
        AliasMove {
            alias: r.change.alias,
            version: r.version,
            at: Moment::micros(r.change.at),
            at_offset: r.change.at_offset,
            reason: r.change.reason,
            actor: r.change.actor,
            is_rollback: r.is_rollback,
        }
    }
}

impl From<Figures> for Evaluation {
    fn from(figures: Figures) -> Self {
        match figures {
            Figures::Classes(e) => Evaluation::Classes(e.into()),
            Figures::Numbers(e) => Evaluation::Numbers(e.into()),
        }
    }
}

impl From<kilter_runtime::RegressionEvaluation> for RegressionEvaluation {
    fn from(e: kilter_runtime::RegressionEvaluation) -> Self {
        RegressionEvaluation {
            rows: e.rows,
            rmse: e.rmse,
            mae: e.mae,
            median_absolute_error: e.median_absolute_error,
            r2: e.r2,
            bias: e.bias,
            pinball: e.pinball,
            coverage: e.coverage,
            deviance: e.deviance,
            mean_label: e.mean_label,
            mean_prediction: e.mean_prediction,
        }
    }
}

impl From<kilter_runtime::Evaluation> for ClassEvaluation {
    fn from(e: kilter_runtime::Evaluation) -> Self {
        ClassEvaluation {
            rows: e.rows,
            positives: e.positives,
            auc: e.auc,
            auc_low: e.auc_interval.low,
            auc_high: e.auc_interval.high,
            average_precision: e.average_precision,
            log_loss: e.log_loss,
            brier: e.brier,
            ece: e.ece,
            ks: KolmogorovSmirnov { value: e.ks.value, threshold: e.ks.threshold },
            gini: e.gini,
        }
    }
}

impl From<TrainReport> for Trained {
    fn from(r: TrainReport) -> Self {
        Trained {
            run: r.run,
            model: r.model,
            version: r.version,
            promote: r.promote,
            verdict: r.verdict,
            trained_from: Moment(r.trained.from),
            trained_to: Moment(r.trained.to),
            train_rows: r.train_rows,
            unmatured: r.unmatured,
            searched: r.searched.map(|s| Searched {
                fits: s.fits,
                loss_as_declared: s.trials[0].mean_loss(),
                loss_of_chosen: s.best().mean_loss(),
                settings: serde_json::Value::Object(s.best().settings.clone()),
            }),
            holdout: r.holdout.map(Evaluation::from),
            champion: r.champion.map(Evaluation::from),
        }
    }
}

/// List models
#[utoipa::path(
    get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "the models of the project that the key may read", body = Models))
)]
pub async fn list_models(State(app): State<App>, caller: Caller, params: Params) -> Answer {
    params.done()?;
    let mut models = Vec::new();
    for (index, known) in app.service.plan.models.iter().enumerate() {
        if caller.role_for_model(&known.name) >= Role::Read {
            models.push(model(&app, index).await?.0);
        }
    }
    ok(&Models { models })
}

/// One model
///
/// With its versions, their metrics, and every change of the version in service.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models",
    params(("model" = String, Path, description = "a model of the project")),
    responses(
        (status = 200, description = "the model", body = FullModel),
        (status = 404, description = "no such model", body = ErrorBody),
    )
)]
pub async fn get_model(State(app): State<App>, Segments(name): Segments<String>, params: Params) -> Answer {
    params.done()?;
    let (model, versions) = model(&app, app.service.model(&name)?).await?;
    let mut history = Vec::new();
    for alias in [CHAMPION, CHALLENGER] {
        history.extend(app.service.data.metadata.alias_history(&name, alias).await?);
    }
    history.sort_by_key(|r| std::cmp::Reverse(r.change.at));
    ok(&FullModel {
        versions: versions.into_iter().map(|v| Version::new(v, &model.aliases)).collect(),
        model,
        history: history.into_iter().map(AliasMove::from).collect(),
    })
}

/// Train a model
///
/// On the log as it is now, beside the stream; the answer comes when it is done. It is done even when the client goes away.
#[utoipa::path(
    post, path = "/v1/models/{model}/train", tag = "models",
    params(("model" = String, Path, description = "a model of the project")),
    request_body(content = Option<TrainBody>, content_type = "application/json"),
    responses(
        (status = 200, description = "a new version", body = Trained),
        (status = 400, description = "the body is wrong", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 409, description = "a training is under way, or there is too little to learn from: the message says what is missing", body = ErrorBody),
    )
)]
pub async fn train_model(State(app): State<App>, Segments(name): Segments<String>, params: Params, request: Request) -> Answer {
    params.done()?;
    let model = app.service.model(&name)?;
    let (parts, body) = request.into_parts();
    let mut members = Params::of_body(&parts.headers, body).await?;
    let (from, to) = (members.time("from"), members.time("to"));
    let promote = members.one_of("promote", &["never", "always", "rule"]);
    members.done()?;
    let promotion = match promote {
        Some(1) => Promotion::Always,
        Some(2) => match app.service.plan.schedules.iter().position(|s| s.model == model) {
            Some(rule) => Promotion::Rule(rule),
            // Without a rule only the first version has nobody to be compared with.
            None if app.service.data.metadata.alias(&name, CHAMPION).await?.is_none() => Promotion::Always,
            None => Promotion::Never,
        },
        _ => Promotion::Never,
    };
    let report = app.to_the_end(move |service| async move { service.train(model, from, to, ACTOR.into(), promotion).await }).await?;
    ok(&Trained::from(report))
}

/// Put a version into service
///
/// Between two events; every decision says which version made it.
#[utoipa::path(
    post, path = "/v1/models/{model}/promote", tag = "models",
    params(("model" = String, Path, description = "a model of the project")),
    request_body(content = PromoteBody, content_type = "application/json"),
    responses(
        (status = 200, description = "the version is in service", body = InService),
        (status = 400, description = "the body is wrong", body = ErrorBody),
        (status = 404, description = "no such model or version", body = ErrorBody),
        (status = 409, description = "the version cannot serve under today's definitions", body = ErrorBody),
    )
)]
pub async fn promote_model(State(app): State<App>, Segments(name): Segments<String>, params: Params, request: Request) -> Answer {
    params.done()?;
    let model = app.service.model(&name)?;
    let (parts, body) = request.into_parts();
    let mut members = Params::of_body(&parts.headers, body).await?;
    let version = members.number("version", 1..=u64::from(u32::MAX));
    let reason = members.text("reason").unwrap_or_else(|| "by hand".into());
    if version.is_none() {
        members.missing("version", "a whole number of at least 1");
    }
    members.done()?;
    let version = version.unwrap_or_default() as u32;
    let work = move |service: std::sync::Arc<kilter_runtime::Service>| async move { service.promote(model, version, &reason, ACTOR).await };
    let offset = app.to_the_end(work).await?;
    ok(&InService { model: name, version, offset })
}

/// Go back to the version in service before this one
#[utoipa::path(
    post, path = "/v1/models/{model}/rollback", tag = "models",
    params(("model" = String, Path, description = "a model of the project")),
    responses(
        (status = 200, description = "the earlier version is in service", body = InService),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 409, description = "there is no earlier version", body = ErrorBody),
    )
)]
pub async fn roll_back_model(State(app): State<App>, Segments(name): Segments<String>, params: Params) -> Answer {
    params.done()?;
    let model = app.service.model(&name)?;
    let (version, offset) = app.to_the_end(move |service| async move { service.rollback(model, ACTOR).await }).await?;
    ok(&InService { model: name, version, offset })
}
