//! What lies beside the logs: runs, the registry of models, alerts, what was turned away, and the definitions in force.

use std::ops::ControlFlow;
use std::sync::Arc;

use kilter_pipeline::{Plan, When};
use kilter_runtime::{Data, Service, next_tick};
use kilter_store::dead_letter::{DeadLetter, DeadLetterQuery};
use kilter_store::metadata::{Alert, AlertFilter, ModelVersion, Run, RunFilter};

use super::{Cell, Column, Kind, Listed, Table};
use crate::scan::Wanted;

/// Rows asked of the metadata store at once.
const PAGE: u32 = 1000;

pub(super) type Row<'a, R> = &'a mut dyn FnMut(R) -> ControlFlow<()>;

pub fn tables(service: &Arc<Service>) -> Vec<(&'static str, Arc<dyn Table>)> {
    vec![
        ("runs", runs(service)),
        ("run_params", pairs(service, "What runs were told", "value", |run| run.params.clone().into_iter().collect())),
        ("run_tags", pairs(service, "Marks on runs", "value", |run| run.tags.clone().into_iter().collect())),
        ("run_metrics", metrics(service)),
        ("models", models(service)),
        ("model_versions", versions(service)),
        ("alerts", alerts(service)),
        ("monitors", monitors(service)),
        ("schedules", schedules(service)),
        ("sources", sources(service)),
        ("dead_letters", letters(service)),
    ]
}

pub(super) fn text<R: 'static>(name: &str, comment: &str, get: for<'a> fn(&'a R) -> Option<&'a str>) -> Column<R> {
    Column::new(name, Kind::Text, comment, move |row: &R| Cell::of(get(row), Cell::text))
}

pub(super) fn time<R: 'static>(name: &str, comment: &str, get: fn(&R) -> Option<i64>) -> Column<R> {
    Column::new(name, Kind::Time, comment, move |row: &R| Cell::of(get(row), Cell::Time))
}

pub(super) fn int<R: 'static>(name: &str, comment: &str, get: fn(&R) -> Option<i64>) -> Column<R> {
    Column::new(name, Kind::Int, comment, move |row: &R| Cell::of(get(row), Cell::Int))
}

pub(super) fn float<R: 'static>(name: &str, comment: &str, get: fn(&R) -> Option<f64>) -> Column<R> {
    Column::new(name, Kind::Float, comment, move |row: &R| Cell::of(get(row), Cell::Float))
}

/// A table whose rows are handed over at once.
pub(super) fn table<R: Send + 'static>(
    service: &Arc<Service>,
    comment: &str,
    columns: Vec<Column<R>>,
    list: impl Fn(&Service, &Wanted, Row<'_, R>) -> anyhow::Result<()> + Send + Sync + 'static,
) -> Arc<dyn Table> {
    let service = Arc::clone(service);
    Listed::new(comment, columns, Vec::new(), Box::new(move |wanted, row| list(&service, wanted, row)))
}

fn each_run(data: &Data, wanted: &Wanted, row: Row<'_, Run>) -> anyhow::Result<()> {
    let mut filter = RunFilter { limit: PAGE, ..RunFilter::default() };
    let mut last = None;
    loop {
        let page = data.wait(data.metadata.list_runs(&filter))?;
        let more = page.len() == PAGE as usize;
        let place = |run: &Run| Some((run.started_at, run.id.clone()));
        let end = page.last().and_then(place);
        // A run that began meanwhile moves those before it into the next page.
        let taken = page.into_iter().filter(|run| last.is_none() || place(run) < last).try_for_each(&mut *row);
        if taken.is_break() || !more || !(wanted.is_wanted)() {
            return Ok(());
        }
        last = end;
        filter.offset += PAGE;
    }
}

fn runs(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("run_id", "Sorts by start time", |r: &Run| Some(&r.id)),
        text("kind", "train, backtest, evaluate or import", |r| Some(r.kind.as_str())),
        text("name", "For people", |r| Some(&r.name)),
        text("model", "The model it is about", |r| r.model.as_deref()),
        text("status", "running, finished, failed or killed", |r| Some(r.status.as_str())),
        time("started_at", "When it began", |r| Some(r.started_at)),
        time("ended_at", "When it ended", |r| r.ended_at),
        text("definitions", "Hash of the definitions it used", |r| r.definition_hash.as_deref()),
        text("data_fingerprint", "Of the data it read", |r| r.data_fingerprint.as_deref()),
        int("seed", "Of its randomness", |r| r.seed),
        text("error", "Why it failed", |r| r.error.as_deref()),
    ];
    table(service, "Trainings, backtests, evaluations and imports of the project, newest first", columns, |service, wanted, row| {
        each_run(&service.data, wanted, row)
    })
}

fn pairs(service: &Arc<Service>, comment: &str, value: &str, of: fn(&Run) -> Vec<(String, String)>) -> Arc<dyn Table> {
    type Pair = (String, String, String);
    let columns = vec![
        text("run_id", "As in `runs`", |p: &Pair| Some(&p.0)),
        text("key", "The name", |p| Some(&p.1)),
        text(value, "The value", |p| Some(&p.2)),
    ];
    table(service, comment, columns, move |service, wanted, row| {
        each_run(&service.data, wanted, &mut |run| of(&run).into_iter().try_for_each(|(key, value)| row((run.id.clone(), key, value))))
    })
}

fn metrics(service: &Arc<Service>) -> Arc<dyn Table> {
    type Metric = (String, String, f64);
    let columns = vec![
        text("run_id", "As in `runs`", |m: &Metric| Some(&m.0)),
        text("key", "The metric's name", |m| Some(&m.1)),
        float("value", "Its latest value", |m| Some(m.2)),
    ];
    table(service, "The latest value of each metric of each run", columns, |service, wanted, row| {
        each_run(&service.data, wanted, &mut |run| {
            run.metrics.iter().try_for_each(|(key, value)| row((run.id.clone(), key.clone(), *value)))
        })
    })
}

/// A model of the definitions or of the registry, its newest version, and those with an alias.
struct Model {
    name: String,
    latest: Option<i64>,
    champion: Option<i64>,
    challenger: Option<i64>,
    declared: bool,
}

fn models(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("model", "Its name", |m: &Model| Some(&m.name)),
        int("latest_version", "The newest version", |m| m.latest),
        int("champion", "The version in service", |m| m.champion),
        int("challenger", "The version that was trained last and is not in service", |m| m.challenger),
        Column::new("declared", Kind::Bool, "Whether the definitions in force declare it", |m: &Model| Cell::Bool(m.declared)),
    ];
    table(service, "Models, with the versions in service", columns, |service, _, row| {
        let known = service.data.wait(service.data.metadata.models())?;
        let mut models: Vec<Model> = known
            .into_iter()
            .map(|summary| Model {
                declared: service.plan.model(&summary.model).is_some(),
                latest: Some(i64::from(summary.latest)),
                champion: summary.aliases.get("champion").map(|v| i64::from(*v)),
                challenger: summary.aliases.get("challenger").map(|v| i64::from(*v)),
                name: summary.model,
            })
            .collect();
        for plan in &service.plan.models {
            if models.iter().all(|model| model.name != plan.name) {
                models.push(Model { name: plan.name.clone(), latest: None, champion: None, challenger: None, declared: true });
            }
        }
        let _ = models.into_iter().try_for_each(row);
        Ok(())
    })
}

fn versions(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("model", "The model", |v: &ModelVersion| Some(&v.spec.model)),
        int("version", "Counted from 1", |v| Some(i64::from(v.version))),
        text("run_id", "The run that made it", |v| v.spec.run_id.as_deref()),
        time("created_at", "When it was made", |v| Some(v.spec.created_at)),
        text("kind", "What kind of model it is", |v| Some(&v.spec.kind)),
        time("trained_from", "Where its training window begins", |v| v.spec.trained_from),
        time("trained_to", "Where it ends", |v| v.spec.trained_to),
        Column::new("metrics", Kind::Text, "Its figures on held-out rows, as JSON", |v: &ModelVersion| {
            Cell::owned(serde_json::json!(v.spec.metrics).to_string())
        }),
        text("definitions", "Hash of the definitions it was trained under", |v| v.spec.definition_hash.as_deref()),
        text("artifact", "Hash of its file", |v| Some(&v.spec.artifact)),
        text("notes", "What is said of it", |v| Some(&v.spec.notes)),
    ];
    table(service, "Every version of every model", columns, |service, _, row| {
        let metadata = &service.data.metadata;
        for model in service.data.wait(metadata.models())? {
            for version in service.data.wait(metadata.versions(&model.model))? {
                if row(version).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

fn alerts(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        int("alert_id", "Counted from 1", |a: &Alert| Some(a.id)),
        time("time", "When it was raised, on the clock of the project", |a| Some(a.alert.at)),
        text("monitor", "What raised it", |a| Some(&a.alert.monitor)),
        text("model", "The model it is about", |a| a.alert.model.as_deref()),
        text("signal", "What was measured", |a| Some(&a.alert.signal)),
        text("subject", "The input, metric or source that it is about", |a| Some(&a.alert.subject)),
        float("value", "What was measured", |a| Some(a.alert.value).filter(|x| !x.is_nan())),
        float("threshold", "What it should not have passed", |a| Some(a.alert.threshold).filter(|x| !x.is_nan())),
        text("action", "What was done", |a| Some(&a.alert.action)),
        text("detail", "In words", |a| Some(&a.alert.detail)),
    ];
    table(service, "What monitors raised, newest first", columns, |service, wanted, row| {
        let mut filter = AlertFilter { limit: PAGE, ..AlertFilter::default() };
        loop {
            let page = service.data.wait(service.data.metadata.list_alerts(&filter))?;
            let Some(last) = page.last().map(|alert| alert.id) else { return Ok(()) };
            if page.into_iter().try_for_each(&mut *row).is_break() || !(wanted.is_wanted)() {
                return Ok(());
            }
            filter.before = Some(last);
        }
    })
}

/// A part of the plan by its position, and the plan.
type Planned = (Arc<Plan>, usize);

fn monitors(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("monitor", "Its name", |(plan, i): &Planned| Some(&plan.monitors[*i].name)),
        text("model", "The model it watches", |(plan, i)| Some(&plan.models[plan.monitors[*i].model].name)),
        text("signal", "What it measures", |(plan, i)| Some(plan.monitors[*i].signal.name())),
        float("above", "It alerts above this", |(plan, i)| plan.monitors[*i].above),
        float("below", "It alerts below this", |(plan, i)| plan.monitors[*i].below),
        float("window_seconds", "Over how much of the newest past it measures", |(plan, i)| Some(plan.monitors[*i].window.seconds())),
        float("every_seconds", "How often it looks", |(plan, i)| Some(plan.monitors[*i].every.seconds())),
        int("min_rows", "Fewer rows than this give no value", |(plan, i)| Some(plan.monitors[*i].min_rows as i64)),
        Column::new("retrain", Kind::Bool, "Whether an alert asks for a training", |(plan, i): &Planned| {
            Cell::Bool(plan.monitors[*i].retrain)
        }),
    ];
    planned(service, "Monitors of models, as the definitions in force declare them", columns, |plan| plan.monitors.len())
}

fn sources(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("source", "Its name; its events are the table of that name in the schema `events`", |(plan, i): &Planned| {
            Some(&plan.sources[*i].name)
        }),
        int("columns", "How many are declared", |(plan, i)| Some(plan.sources[*i].schema.len() as i64)),
        Column::new("key", Kind::Text, "Columns of the key, where events change rows", |(plan, i): &Planned| {
            let source = &plan.sources[*i];
            let names: Vec<&str> = source.key.iter().map(|c| source.schema.fields[*c].name.as_str()).collect();
            if names.is_empty() { Cell::Null } else { Cell::owned(names.join(", ")) }
        }),
        float("lateness_seconds", "How late an event may be and still count everywhere", |(plan, i)| {
            Some(plan.sources[*i].lateness.seconds())
        }),
    ];
    planned(service, "Sources of events, as the definitions in force declare them", columns, |plan| plan.sources.len())
}

fn planned(service: &Arc<Service>, comment: &str, columns: Vec<Column<Planned>>, count: fn(&Plan) -> usize) -> Arc<dyn Table> {
    table(service, comment, columns, move |service, _, row| {
        let _ = (0..count(&service.plan)).try_for_each(|i| row((Arc::clone(&service.plan), i)));
        Ok(())
    })
}

struct Schedule {
    name: String,
    model: String,
    every: Option<f64>,
    cron: Option<String>,
    promote_if: Option<String>,
    last: Option<i64>,
    next: Option<i64>,
}

fn schedules(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("schedule", "Its name", |s: &Schedule| Some(&s.name)),
        text("model", "The model that it trains", |s| Some(&s.model)),
        float("every_seconds", "How often, where it goes by a span", |s| s.every),
        text("cron", "When, where it goes by a calendar; UTC", |s| s.cron.as_deref()),
        text("promote_if", "What puts the new version into service", |s| s.promote_if.as_deref()),
        time("last_tick", "When it was due last", |s| s.last),
        time("next_tick", "When it will be due", |s| s.next),
    ];
    table(service, "When models are trained by themselves", columns, |service, _, row| {
        let now = service.clock().now();
        for plan in &service.plan.schedules {
            let (every, cron) = match &plan.when {
                When::Every(span) => (Some(span.seconds()), None),
                When::Cron(text) => (None, Some(text.clone())),
            };
            let schedule = Schedule {
                name: plan.name.clone(),
                model: service.plan.models[plan.model].name.clone(),
                every,
                cron,
                promote_if: plan.promote_text.clone(),
                last: service.data.wait(service.data.metadata.schedule_state(&plan.name))?,
                next: next_tick(&plan.when, now).map(|time| time.0),
            };
            if row(schedule).is_break() {
                return Ok(());
            }
        }
        Ok(())
    })
}

fn letters(service: &Arc<Service>) -> Arc<dyn Table> {
    type Letter = (u64, DeadLetter);
    let columns = vec![
        int("letter", "Its place among the dead letters", |l: &Letter| Some(l.0 as i64)),
        time("time", "When it was turned away", |l| Some(l.1.at_micros)),
        text("source", "The source that it was for", |l| l.1.source.as_deref()),
        text("code", "Why, in a word", |l| Some(&l.1.code)),
        text("detail", "Why", |l| Some(&l.1.detail)),
        text("hint", "What to do about it", |l| l.1.hint.as_deref()),
        int("event_offset", "Its place in the event log, if it lies there", |l| l.1.log_offset.map(|offset| offset as i64)),
        text("origin", "Where it came from", |l| l.1.origin.as_deref()),
        text("payload", "What came in", |l| l.1.payload.as_deref()),
    ];
    table(service, "Rows that were turned away or came too late, newest first", columns, |service, wanted, row| {
        let mut query = DeadLetterQuery { limit: PAGE as usize, ..DeadLetterQuery::default() };
        loop {
            let page = service.data.dead_letters.list(&query)?;
            if page.letters.into_iter().try_for_each(&mut *row).is_break() || !(wanted.is_wanted)() {
                return Ok(());
            }
            match page.next_before {
                Some(before) => query.before = Some(before),
                None => return Ok(()),
            }
        }
    })
}
