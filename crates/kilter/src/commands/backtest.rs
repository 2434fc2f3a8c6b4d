//! `kilter backtest`: train on a stretch of the past, test on the next, step on; every row as it would have been that day.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use kilter_core::{Clock, EventTime, Span};
use kilter_learn::{Forest, Gbdt, Learner, Linear, Logistic, Objective, Scorecard, Task, explainable, forest};
use kilter_pipeline::backtest::{Fold, Rolling, rolling};
use kilter_pipeline::{Feed, Freshness, Observations, Plan, Range, figure_names};
use kilter_runtime::{Data, Record, SystemClock};
use kilter_store::metadata::{MetricPoint, NewRun, RunKind, RunStatus};
use serde_json::json;

use crate::api::{is_locked, load};
use crate::commands::{grouped, parse_span, parse_time, table};

#[derive(clap::Args)]
pub struct Args {
    /// The model to test.
    model: String,
    /// Length of each training stretch.
    #[arg(long, value_parser = parse_span, default_value = "7d")]
    train: Span,
    /// From the end of training to the start of the test; the label's horizon otherwise.
    #[arg(long, value_parser = parse_span)]
    delay: Option<Span>,
    /// Length of each test stretch.
    #[arg(long, value_parser = parse_span, default_value = "7d")]
    test: Span,
    /// From one training start to the next; the test's length otherwise.
    #[arg(long, value_parser = parse_span)]
    step: Option<Span>,
    /// Start of the first training stretch; the first observation's day otherwise.
    #[arg(long, value_parser = parse_time)]
    from: Option<EventTime>,
    /// End of the last test at the latest.
    #[arg(long, value_parser = parse_time)]
    to: Option<EventTime>,
    /// Another learner than the definitions name, with its default settings: gbdt, forest, explainable; logistic or scorecard, where the
    /// model predicts a number linear.
    #[arg(long)]
    learner: Option<String>,
    /// Column of the observation that groups rows, such as a card number; for --top and --exclude-known.
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Also report the precision among the K groups with the highest scores of each day.
    #[arg(long, value_name = "K", requires = "by")]
    top: Option<usize>,
    /// Leave out of the test the groups with a positive label known by then.
    #[arg(long, requires = "by")]
    exclude_known: bool,
    /// Features as of the last multiple of this span, as a batch job would have them; live otherwise.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    stale: Option<Span>,
    /// The folds as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let project = load(dir)?;
    let data = Data::open(&project).await.map_err(|e| match is_locked(&e) {
        true => anyhow::anyhow!("a running kilter has the project open\n  hint: stop it, or backtest on a copy of the data folder"),
        false => e,
    })?;
    tokio::task::spawn_blocking(move || backtest(&data, &Arc::new(project.plan), &args)).await?
}

fn backtest(data: &Data, plan: &Arc<Plan>, args: &Args) -> anyhow::Result<()> {
    let model = plan.model(&args.model).ok_or_else(|| unknown("model", &args.model, plan.models.iter().map(|m| m.name.as_str())))?;
    let model_plan = &plan.models[model];
    let within = model_plan
        .label
        .as_ref()
        .map(|l| l.within)
        .ok_or_else(|| anyhow::anyhow!("model `{}` has no label, so there is nothing to test against", args.model))?;
    let schema = &plan.sources[model_plan.context.source.0 as usize].schema;
    let group = match &args.by {
        Some(column) => Some(schema.index(column).ok_or_else(|| unknown("column", column, schema.names()))?),
        None => None,
    };
    let learner = match args.learner.as_deref() {
        None => model_plan.learner.clone(),
        Some(word) => other_learner(word, model_plan.task())?,
    };
    let names = figure_names(learner.task(), true);
    if learner.task().has_numbers() && (args.top.is_some() || args.exclude_known) {
        anyhow::bail!("--top and --exclude-known are of positives, and model `{}` predicts a number", args.model);
    }
    let freshness = args.stale.map_or(Freshness::Live, Freshness::Batch);
    let whole = Range { from: EventTime::EARLIEST, to: args.to.unwrap_or(EventTime::LATEST) };
    let started = Instant::now();
    let observations = observe(data, plan, model, whole, freshness, group, args.json)?;
    let read = started.elapsed().as_secs_f64();
    let (Some(first), Some(last)) = (observations.times.iter().min().copied(), observations.times.iter().max().copied()) else {
        anyhow::bail!(
            "the log holds no event of source `{}`\n  hint: kilter ingest",
            plan.sources[model_plan.context.source.0 as usize].name
        );
    };
    let day = |t: EventTime| EventTime(t.bucket(Span::DAY) * Span::DAY.0);
    let spec = Rolling {
        train: args.train,
        delay: args.delay.unwrap_or(within),
        test: args.test,
        step: args.step.unwrap_or(args.test),
        range: Range { from: args.from.unwrap_or(day(first)), to: args.to.unwrap_or(day(last) + Span::DAY) },
        exclude_known: args.exclude_known,
        top: args.top,
    };
    let fitted = Instant::now();
    let folds = rolling(&observations, &learner, &spec);
    let fit = fitted.elapsed().as_secs_f64();
    anyhow::ensure!(
        !folds.is_empty(),
        "from {} to {} there is no room for {} of training, {} of delay and {} of test",
        spec.range.from,
        spec.range.to,
        spec.train,
        spec.delay,
        spec.test
    );
    let done: Vec<&Fold> = folds.iter().filter_map(|f| f.as_ref().ok()).collect();
    let run = track(data, plan, args, &learner, &spec, &done)?;
    if args.json {
        let rows: Vec<_> = folds
            .iter()
            .map(|fold| match fold {
                Ok(f) => json!({
                    "train_from": f.train.from.to_string(), "train_to": f.train.to.to_string(),
                    "test_from": f.test.from.to_string(), "test_to": f.test.to.to_string(),
                    "train_rows": f.train_rows, "train_positives": f.train_positives, "excluded": f.excluded,
                    "evaluation": f.evaluation, "top_precision": f.top_precision,
                }),
                Err((range, e)) => json!({ "train_from": range.from.to_string(), "error": e.to_string() }),
            })
            .collect();
        let out = json!({ "run": run, "observations": observations.len(), "read_seconds": read, "fit_seconds": fit, "folds": rows });
        println!("{}", serde_json::to_string_pretty(&out)?);
        return Ok(());
    }
    println!("{} observations read in {read:.1} s; {} folds in {fit:.1} s (run {run})", grouped(observations.len() as u64), folds.len());
    let top = args.top.map(|k| format!("precision@{k}"));
    // Four digits of what lies between 0 and 1, one more of a loss.
    let shown: Vec<&str> = names.iter().copied().filter(|name| *name != "rows").take(3).collect();
    let told = |name: &str, value: f64| if name == "log_loss" { format!("{value:.5}") } else { format!("{value:.4}") };
    let titles: Vec<String> = shown.iter().map(|name| name.replace('_', " ")).collect();
    let mut header = vec!["train", "test", "rows", "positives", "test rows"];
    header.extend(titles.iter().map(String::as_str));
    header.extend(top.as_deref());
    let mut out = table(&header);
    let date = |t: EventTime| t.to_string().chars().take(10).collect::<String>();
    for fold in &folds {
        match fold {
            Ok(f) => {
                let mut row = vec![
                    date(f.train.from),
                    date(f.test.from),
                    grouped(f.train_rows as u64),
                    if learner.task().has_numbers() { String::new() } else { grouped(f.train_positives as u64) },
                    grouped(f.evaluation.rows() as u64),
                ];
                row.extend(shown.iter().map(|name| told(name, f.evaluation.get(name))));
                row.extend(f.top_precision.map(|p| format!("{p:.4}")));
                out.add_row(row);
            }
            Err((range, e)) => {
                out.add_row(vec![date(range.from), e.to_string()]);
            }
        }
    }
    if done.len() > 1 {
        let mean = |pick: &dyn Fn(&Fold) -> f64| done.iter().map(|f| pick(f)).sum::<f64>() / done.len() as f64;
        let mut row = vec!["mean".into(), String::new(), String::new(), String::new(), String::new()];
        row.extend(shown.iter().map(|name| told(name, mean(&|f| f.evaluation.get(name)))));
        if args.top.is_some() {
            row.push(format!("{:.4}", mean(&|f| f.top_precision.unwrap_or(f64::NAN))));
        }
        out.add_row(row);
    }
    println!("{out}");
    Ok(())
}

/// A learner by its word, with its default settings, for what the model's labels are.
fn other_learner(word: &str, task: Task) -> anyhow::Result<Learner> {
    let (objective, target) = match task.has_numbers() {
        true => (Objective::SquaredError, forest::Target::Mean),
        false => (Objective::Binary, forest::Target::Binary),
    };
    let words: &[&str] = if task.has_numbers() {
        &["gbdt", "forest", "explainable", "linear"]
    } else {
        &["gbdt", "forest", "explainable", "logistic", "scorecard"]
    };
    Ok(match word {
        _ if !words.contains(&word) => return Err(unknown("learner", word, words.iter().copied())),
        "gbdt" => Learner::Gbdt(Gbdt { objective, ..Gbdt::default() }),
        "forest" => Learner::Forest(Forest { target, ..Forest::default() }),
        "explainable" => Learner::Explainable(explainable::Explainable { target, ..explainable::Explainable::default() }),
        "linear" => Learner::Linear(Linear::default()),
        "logistic" => Learner::Logistic(Logistic::default()),
        _ => Learner::Scorecard(Scorecard::default()),
    })
}

fn observe(
    data: &Data,
    plan: &Arc<Plan>,
    model: usize,
    range: Range,
    freshness: Freshness,
    group: Option<usize>,
    quiet: bool,
) -> anyhow::Result<Observations> {
    let end = data.events.next_offset();
    let bar = if std::io::stderr().is_terminal() && !quiet { ProgressBar::new(end) } else { ProgressBar::hidden() };
    let mut feed = Feed::new(Arc::clone(plan), model, range, freshness, group);
    data.walk(plan, 0, end, |offset, record| {
        if let Record::Event(event) = record {
            feed.feed(&event);
        }
        if offset % 16_384 == 0 {
            bar.set_position(offset);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(feed.finish())
}

fn track(data: &Data, plan: &Plan, args: &Args, learner: &Learner, spec: &Rolling, folds: &[&Fold]) -> anyhow::Result<String> {
    let now = SystemClock.now().0;
    let id = data.wait(data.metadata.start_run(&NewRun {
        kind: RunKind::Backtest,
        name: format!("backtest {}", args.model),
        model: Some(args.model.clone()),
        started_at: now,
        definition_hash: Some(plan.hash.clone()),
        data_fingerprint: None,
        seed: None,
    }))?;
    let params = BTreeMap::from([
        ("train".to_string(), spec.train.to_string()),
        ("delay".to_string(), spec.delay.to_string()),
        ("test".to_string(), spec.test.to_string()),
        ("step".to_string(), spec.step.to_string()),
        ("learner".to_string(), serde_json::to_string(learner)?),
        ("stale".to_string(), args.stale.map_or("live".into(), |s| s.to_string())),
        ("exclude_known".to_string(), spec.exclude_known.to_string()),
    ]);
    data.wait(data.metadata.log_params(&id, &params))?;
    let mut points = Vec::new();
    for (step, fold) in folds.iter().enumerate() {
        for name in figure_names(learner.task(), true).iter().filter(|name| **name != "rows").take(3) {
            points.push(MetricPoint { key: (*name).into(), value: fold.evaluation.get(name), step: step as i64, at: now });
        }
    }
    data.wait(data.metadata.log_metrics(&id, &points))?;
    data.wait(data.metadata.finish_run(&id, RunStatus::Finished, SystemClock.now().0, None))?;
    Ok(id)
}

fn unknown<'a>(what: &str, name: &str, valid: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let problem = kilter_core::Problem::unknown("unknown", what, name, valid);
    match problem.hint {
        Some(hint) => anyhow::anyhow!("{}\n  hint: {hint}", problem.message),
        None => anyhow::anyhow!("{}", problem.message),
    }
}
