//! Trains a model on the past of the log, tracks it as a run, keeps it as a version, and says whether it should take over.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use kilter_core::{Clock, EventTime, Offset, Span, Value};
use kilter_learn::selection::Searched;
use kilter_learn::{Learner, Model};
use kilter_pipeline::training::{self, HeldOut, Trained};
use kilter_pipeline::{Feed, Figures, Freshness, ModelPlan, Plan, Range, SchedulePlan, promotion_slots};
use kilter_store::metadata::{AliasChange, MetricPoint, NewModelVersion, NewRun, RunKind, RunStatus};
use kilter_store::threads;
use rayon::ThreadPoolBuilder;

use crate::catalog::Record;
use crate::data::Data;
use crate::jobs::curves::{CURVES_FILE, Curves};
use crate::jobs::shards;
use crate::meaning::meaning;
use crate::sequencer::Refusal;

/// What to train, on which part of the log, and what for.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    pub model: usize,
    /// Observations from here on; none: the model's window back from `to`.
    pub from: Option<EventTime>,
    /// Observations before this; none: as late as labels can have matured.
    pub to: Option<EventTime>,
    /// Records of the log that may be seen, exclusive: nothing after this offset exists for the job.
    pub until: Offset,
    /// The same for each shard of a project that workers share, whose rows come from the lake; none: from the log.
    pub shards: Option<Vec<Offset>>,
    /// The stream's time at `until`: labels are matured or not as of this moment.
    pub as_of: EventTime,
    /// What asked for it: `cli`, `api`, `schedule:NAME`, `monitor:NAME`.
    pub trigger: String,
    pub promotion: Promotion,
}

/// Whether the new version takes over.
#[derive(Clone, Debug)]
pub enum Promotion {
    /// A person decides.
    Never,
    /// By the rule of the schedule at this position; the first version of a model takes over without a rival.
    Rule(usize),
    Always,
}

/// What came of a training.
#[derive(Clone, Debug)]
pub struct TrainReport {
    pub run: String,
    pub model: String,
    pub version: u32,
    /// Whether it is to go into service.
    pub promote: bool,
    /// Why, or why not.
    pub verdict: String,
    pub trained: Range,
    pub train_rows: usize,
    /// What a search tried, and chose.
    pub searched: Option<Searched>,
    pub holdout: Option<Figures>,
    pub champion: Option<Figures>,
    pub unmatured: usize,
}

/// Runs the job, to its end or until nobody `wants` it any more: that is looked at up to the fit, and before the curves. The calling thread waits for others, which
/// compute.
pub fn train(
    data: &Data,
    plan: &Arc<Plan>,
    request: &TrainRequest,
    clock: &dyn Clock,
    champion: Option<(u32, Arc<dyn Model>)>,
    wants: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<TrainReport> {
    let model = &plan.models[request.model];
    let id = data.wait(data.metadata.start_run(&NewRun {
        kind: RunKind::Train,
        name: format!("train {}", model.name),
        model: Some(model.name.clone()),
        started_at: clock.now().0,
        definition_hash: Some(plan.hash.clone()),
        data_fingerprint: None,
        seed: seed(plan, request.model),
    }))?;
    data.wait(data.metadata.log_params(&id, &params(plan, request, range(plan, request))))?;
    data.wait(data.metadata.set_tags(&id, &BTreeMap::from([("trigger".to_string(), request.trigger.clone())])))?;

    let _computing = threads::computing();
    let start = |_| threads::computes();
    // Asked of the machine, not of this thread, which may keep to a part of it.
    let pool = ThreadPoolBuilder::new().num_threads(threads::parallelism()).thread_name(|_| "train".into()).start_handler(start).build();
    let result = pool
        .context("no threads to train on")
        .and_then(|pool| pool.install(|| fit_and_register(data, plan, request, &id, clock, champion, wants)));
    let (status, error) = match &result {
        Ok(_) => (RunStatus::Finished, None),
        Err(e) => (RunStatus::Failed, Some(format!("{e:#}"))),
    };
    data.wait(data.metadata.finish_run(&id, status, clock.now().0, error.as_deref()))?;
    result
}

fn fit_and_register(
    data: &Data,
    plan: &Arc<Plan>,
    request: &TrainRequest,
    run: &str,
    clock: &dyn Clock,
    champion: Option<(u32, Arc<dyn Model>)>,
    wants: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<TrainReport> {
    let model = &plan.models[request.model];
    let range = range(plan, request);
    let observations = match &request.shards {
        Some(until) => shards::observe_while(&data.history, plan, request.model, range, until, wants)?,
        None => observe(data, plan, request.model, range, request.until)?,
    };
    ensure!(wants(), Refusal::Stopping);
    let trained = training::train(model, &observations, range, request.as_of, champion.as_ref().map(|(_, m)| m))?;

    let bytes = trained.model.to_bytes();
    let artifact = data.artifacts.put(&bytes)?;
    let reference = data.artifacts.put(&serde_json::to_vec(&trained.reference)?)?;
    let metrics = metrics(model, &trained);
    let at = clock.now().0;
    let points: Vec<MetricPoint> =
        metrics.iter().map(|(key, value)| MetricPoint { key: key.clone(), value: *value, step: 0, at }).collect();
    data.wait(data.metadata.log_metrics(run, &points))?;
    data.wait(data.metadata.set_data_fingerprint(run, &trained.fingerprint))?;
    data.artifacts.put_named(run, "model.kltm", &bytes)?;
    data.artifacts.put_named(run, "model.json", &serde_json::to_vec_pretty(&trained.model.describe())?)?;
    if let Some((searched, learner)) = &trained.searched {
        log_search(data, run, searched, learner, at)?;
    }
    if let Some(holdout) = &trained.holdout {
        data.artifacts.put_named(run, "evaluation.json", &serde_json::to_vec_pretty(holdout)?)?;
    }
    let importance: BTreeMap<&String, f64> = trained.model.inputs().iter().zip(trained.model.importance()).collect();
    data.artifacts.put_named(run, "importance.json", &serde_json::to_vec_pretty(&importance)?)?;

    let (promote, verdict) = verdict(plan, request, &trained, champion.is_some());
    let version = data.wait(data.metadata.register_version(&NewModelVersion {
        model: model.name.clone(),
        run_id: Some(run.to_string()),
        created_at: clock.now().0,
        artifact: artifact.as_str().to_string(),
        kind: trained.model.kind().to_string(),
        inputs: serde_json::json!({
            "names": model.input_names(),
            "reference": reference.as_str(),
            "meaning": meaning(plan, request.model),
        }),
        trained_from: Some(trained.trained.from.0),
        trained_to: Some(trained.trained.to.0),
        metrics,
        definition_hash: Some(plan.hash.clone()),
        notes: verdict.clone(),
    }))?;
    let version = version.version;
    let change = AliasChange {
        model: model.name.clone(),
        alias: "challenger".into(),
        at: clock.now().0,
        at_offset: Some(request.until),
        reason: verdict.clone(),
        actor: request.trigger.clone(),
    };
    data.wait(data.metadata.set_alias(&change, version))?;
    if let Some(held) = trained.held_out.as_ref().filter(|_| wants()) {
        // They are for people to look at: a version is not lost for want of them.
        if let Err(error) = keep_curves(data, run, model, &trained, held) {
            tracing::error!(error = %format!("{error:#}"), model = model.name, version, "the version has no curves");
        }
    }
    Ok(TrainReport {
        run: run.to_string(),
        model: model.name.clone(),
        version,
        promote,
        verdict,
        trained: trained.trained,
        train_rows: trained.train_rows,
        searched: trained.searched.map(|(searched, _)| searched),
        holdout: trained.holdout,
        champion: trained.champion,
        unmatured: trained.unmatured,
    })
}

fn keep_curves(data: &Data, run: &str, model: &ModelPlan, trained: &Trained, held: &HeldOut) -> anyhow::Result<()> {
    let curves = Curves::of(model.task(), trained.model.as_ref(), held);
    data.artifacts.put_named(run, CURVES_FILE, &serde_json::to_vec(&curves)?)?;
    Ok(())
}

/// Every trial of a search, and the settings that were chosen.
fn log_search(data: &Data, run: &str, searched: &Searched, learner: &Learner, at: i64) -> anyhow::Result<()> {
    let trials = searched.trials.iter().enumerate();
    let points = trials.flat_map(|(step, trial)| {
        let of_fold = trial.losses.iter().enumerate();
        of_fold.map(move |(fold, loss)| MetricPoint { key: format!("search.fold_{fold}.loss"), value: *loss, step: step as i64, at })
    });
    let whole = |key: &str, value: f64| MetricPoint { key: key.to_string(), value, step: 0, at };
    let points: Vec<MetricPoint> = points
        .chain([
            whole("search.fits", searched.fits as f64),
            whole("search.loss_as_declared", searched.trials[0].mean_loss()),
            whole("search.loss_of_chosen", searched.best().mean_loss()),
        ])
        .collect();
    data.wait(data.metadata.log_metrics(run, &points))?;
    let chosen = searched.best().settings.iter().map(|(name, value)| (format!("chosen.{name}"), value.to_string()));
    data.wait(data.metadata.log_params(run, &chosen.collect()))?;
    let told = serde_json::json!({ "searched": searched, "learner": learner });
    data.artifacts.put_named(run, "search.json", &serde_json::to_vec_pretty(&told)?)?;
    Ok(())
}

/// Observations of a model in `range`, with the labels known at `until`, by replay from the newest snapshot that is old enough.
pub fn observe(data: &Data, plan: &Arc<Plan>, model: usize, range: Range, until: Offset) -> anyhow::Result<kilter_pipeline::Observations> {
    let pipeline = data.state_before(plan, range.from - Span(1))?;
    let from = pipeline.next_offset();
    let mut feed = if from == 0 {
        Feed::new(Arc::clone(plan), model, range, Freshness::Live, None)
    } else {
        Feed::resume(pipeline, model, range, None)
    };
    data.walk(plan, from, until, |_, record| {
        if let Record::Event(event) = record {
            feed.feed(&event);
        }
        Ok(())
    })
    .context("reading the training rows from the event log")?;
    Ok(feed.finish())
}

/// The window of observations: as asked, or the model's window up to the last moment whose labels have matured.
fn range(plan: &Plan, request: &TrainRequest) -> Range {
    let model = &plan.models[request.model];
    let within = model.label.as_ref().map_or(Span::ZERO, |l| l.within);
    let to = request.to.unwrap_or(request.as_of - within + Span(1));
    let from = request.from.unwrap_or(match model.window {
        Some(window) => to - window,
        None => EventTime::EARLIEST,
    });
    Range { from, to }
}

fn seed(plan: &Plan, model: usize) -> Option<i64> {
    match &plan.models[model].learner {
        Learner::Gbdt(parameters) => Some(parameters.seed as i64),
        Learner::Forest(parameters) => Some(parameters.seed as i64),
        Learner::Explainable(parameters) => Some(parameters.seed as i64),
        Learner::Isolation(parameters) => Some(parameters.seed as i64),
        Learner::Logistic(_) | Learner::Scorecard(_) | Learner::Linear(_) => None,
    }
}

fn params(plan: &Plan, request: &TrainRequest, range: Range) -> BTreeMap<String, String> {
    let model = &plan.models[request.model];
    let mut params = BTreeMap::from([
        ("from".to_string(), range.from.to_string()),
        ("to".to_string(), range.to.to_string()),
        ("as_of".to_string(), request.as_of.to_string()),
        ("until_offset".to_string(), request.until.to_string()),
        ("holdout".to_string(), model.holdout.to_string()),
        ("inputs".to_string(), model.inputs.len().to_string()),
    ]);
    if let Some(until) = &request.shards {
        let all: Vec<String> = until.iter().map(Offset::to_string).collect();
        params.insert("until_offsets".to_string(), all.join(" "));
    }
    if let Some(calibration) = &model.calibration {
        params.insert("calibration".to_string(), calibration.calibration.method.name().to_string());
        params.insert("calibration.share".to_string(), calibration.share.to_string());
        if let Some(rate) = calibration.calibration.target_rate {
            params.insert("calibration.target_rate".to_string(), rate.to_string());
        }
    }
    if let Some(search) = &model.search {
        let budget = search.search.budget;
        params.insert("search.fits".to_string(), budget.fits.to_string());
        params.insert("search.folds".to_string(), budget.folds.to_string());
        params.insert("search.metric".to_string(), search.metric.clone());
    }
    if let Ok(serde_json::Value::Object(learner)) = serde_json::to_value(&model.learner) {
        params.extend(learner.into_iter().map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            (format!("learner.{name}"), text)
        }));
    }
    params
}

fn metrics(model: &ModelPlan, trained: &Trained) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::from([
        ("train_rows".to_string(), trained.train_rows as f64),
        ("holdout_rows".to_string(), trained.holdout_rows as f64),
        ("unmatured_rows".to_string(), trained.unmatured as f64),
    ]);
    if model.label.as_ref().is_some_and(|label| !label.is_number) {
        metrics.insert("train_positives".to_string(), trained.train_positives as f64);
    }
    metrics.extend(evaluation_metrics(model.figure_names(), trained.holdout.as_ref(), trained.champion.as_ref()));
    if let Some(Figures::Classes(before)) = &trained.uncalibrated {
        metrics.extend([
            ("calibration_rows".to_string(), trained.calibration_rows as f64),
            ("uncalibrated.brier".to_string(), before.brier),
            ("uncalibrated.ece".to_string(), before.ece),
            ("uncalibrated.log_loss".to_string(), before.log_loss),
        ]);
    }
    metrics
}

/// The figures of a version and of the champion on the same rows, by name.
pub(crate) fn evaluation_metrics(names: &[&str], own: Option<&Figures>, champion: Option<&Figures>) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for (prefix, figures) in [("", own), ("champion.", champion)] {
        if let Some(figures) = figures {
            metrics.extend(names.iter().map(|name| (format!("{prefix}{name}"), figures.get(name))));
        }
    }
    match own {
        Some(Figures::Classes(own)) => {
            let interval = [("auc_low", own.auc_interval.low), ("auc_high", own.auc_interval.high)];
            let probability = [("ece", own.ece), ("calibration_slope", own.recalibration.slope)];
            metrics.extend(interval.into_iter().filter(|_| names.contains(&"auc")).map(|(name, value)| (name.to_string(), value)));
            metrics.extend(probability.into_iter().filter(|_| names.contains(&"brier")).map(|(name, value)| (name.to_string(), value)));
        }
        Some(Figures::Numbers(own)) => {
            metrics.extend([("mean_label".to_string(), own.mean_label), ("mean_prediction".to_string(), own.mean_prediction)]);
        }
        None => {}
    }
    metrics
}

fn verdict(plan: &Plan, request: &TrainRequest, trained: &Trained, has_champion: bool) -> (bool, String) {
    let rule = match &request.promotion {
        Promotion::Never => return (false, "waits for a person".into()),
        Promotion::Always => return (true, "promoted as asked".into()),
        Promotion::Rule(schedule) => &plan.schedules[*schedule],
    };
    if !has_champion {
        return (true, "first version of its model".into());
    }
    let SchedulePlan { promote_if: Some(expr), promote_text: Some(text), .. } = rule else {
        return (false, "no promotion rule: waits for a person".into());
    };
    let Some(holdout) = &trained.holdout else {
        return (false, "no held-out rows to compare on".into());
    };
    let names = plan.models[request.model].figure_names();
    let slots = promotion_slots(names, holdout, trained.champion.as_ref());
    let figures = match names[0] {
        "rows" => format!("{} held-out rows", trained.holdout_rows),
        lead => {
            let champion = trained.champion.as_ref().map_or(f64::NAN, |e| e.get(lead));
            format!("{lead} {:.4}, champion's {champion:.4} on the same {} rows", holdout.get(lead), trained.holdout_rows)
        }
    };
    match expr.eval(&slots) {
        Value::Bool(true) => (true, format!("{text}: {figures}")),
        Value::Null => (false, format!("cannot judge `{text}`: {figures}")),
        _ => (false, format!("not {text}: {figures}")),
    }
}
