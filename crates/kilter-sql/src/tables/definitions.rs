//! What the definitions declare, what monitors read, and how sources, sinks and the lake stand.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use kilter_core::EventTime;
use kilter_pipeline::Plan;
use kilter_runtime::{PartitionStatus, Service, SinkStatus};
use kilter_store::metadata::{AliasRecord, CHALLENGER, CHAMPION, MonitorReading, READINGS_KEPT, ReadingFilter, ReadingSubject};

use super::metadata::{Row, float, int, table, text, time};
use super::{Cell, Column, Kind, Listed, Table};
use crate::scan::Wanted;

pub fn tables(service: &Arc<Service>) -> Vec<(&'static str, Arc<dyn Table>)> {
    vec![
        ("monitor_readings", readings(service)),
        ("monitor_subjects", subjects(service)),
        ("policies", policies(service)),
        ("feature_definitions", features(service)),
        ("aliases", aliases(service)),
        ("alias_changes", changes(service)),
        ("definitions", definitions(service)),
        ("source_status", source_status(service)),
        ("source_partitions", partitions(service)),
        ("sinks", sinks(service)),
        ("lake_files", lake_files(service)),
    ]
}

/// Columns by which less is read of what monitors saw.
const NARROWS: &[&str] = &["monitor", "time", "signal"];

/// Goes through what the monitors saw, monitor by monitor, newest first.
fn each_reading(service: &Service, wanted: &Wanted, row: Row<'_, MonitorReading>) -> anyhow::Result<()> {
    let (names, times) = (wanted.bounds.texts("monitor"), wanted.bounds.range("time"));
    for monitor in service.plan.monitors.iter().filter(|m| names.is_none_or(|names| names.contains(&m.name))) {
        let filter = ReadingFilter {
            monitor: monitor.name.clone(),
            from: Some(*times.start()),
            before: times.end().checked_add(1),
            limit: READINGS_KEPT,
            ..ReadingFilter::default()
        };
        let known = service.data.wait(service.data.metadata.readings(&filter))?;
        if known.into_iter().try_for_each(&mut *row).is_break() {
            break;
        }
    }
    Ok(())
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn readings(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("monitor", "As in `monitors`", |r: &MonitorReading| Some(&r.monitor)),
        time("time", "The end of the stretch that it closes", |r| Some(r.at)),
        text("model", "The model it watches", |r| Some(&r.model)),
        int("model_version", "The version in service then", |r| r.version.map(i64::from)),
        text("signal", "What it measures", |r| Some(&r.signal)),
        text("subject", "What moved the most, or the metric", |r| Some(&r.subject)),
        float("value", "Its value", |r| Some(r.value).filter(|x| !x.is_nan())),
        int("rows", "Decisions that it is made of", |r| Some(r.rows as i64)),
        float("above", "The limit then", |r| r.above),
        float("below", "The limit then", |r| r.below),
        Column::new("crossed", Kind::Bool, "Whether a limit was crossed", |r: &MonitorReading| Cell::Bool(r.crossed)),
        float("window_seconds", "Over how much of the past", |r| Some(seconds(r.window))),
        float("every_seconds", "How often it looks", |r| Some(seconds(r.every))),
    ];
    let service = Arc::clone(service);
    let rows = move |wanted: &Wanted, row: Row<'_, MonitorReading>| each_reading(&service, wanted, row);
    Listed::new(
        "What each monitor of a model saw, newest first; the newest 2000 of each are kept",
        columns,
        NARROWS.to_vec(),
        Box::new(rows),
    )
}

fn subjects(service: &Arc<Service>) -> Arc<dyn Table> {
    type Subject = (Arc<MonitorReading>, ReadingSubject);
    let columns = vec![
        text("monitor", "As in `monitor_readings`", |s: &Subject| Some(&s.0.monitor)),
        time("time", "As in `monitor_readings`", |s| Some(s.0.at)),
        text("signal", "What it measures", |s| Some(&s.0.signal)),
        text("subject", "An input, `score`, or the metric", |s| Some(&s.1.subject)),
        float("value", "What was measured; null: it is not defined", |s| s.1.value.filter(|x| !x.is_nan())),
    ];
    let service = Arc::clone(service);
    let rows = move |wanted: &Wanted, row: Row<'_, Subject>| {
        each_reading(&service, wanted, &mut |mut reading| {
            let subjects = std::mem::take(&mut reading.subjects);
            let reading = Arc::new(reading);
            subjects.into_iter().try_for_each(|subject| row((Arc::clone(&reading), subject)))
        })
    };
    Listed::new("What a monitor saw of each input and of the score, one row for each", columns, NARROWS.to_vec(), Box::new(rows))
}

fn policies(service: &Arc<Service>) -> Arc<dyn Table> {
    type Rule = (Arc<Plan>, usize, usize);
    let columns = vec![
        text("decision", "The decision", |(plan, d, _): &Rule| Some(&plan.decisions[*d].name)),
        int("line", "Counted from 1: the first that holds decides", |(_, _, r)| Some(*r as i64 + 1)),
        text("rule", "When it holds, as `decisions` names it; null: always", |(plan, d, r)| plan.decisions[*d].policy[*r].text.as_deref()),
        text("outcome", "What it decides", |(plan, d, r)| {
            let decision = &plan.decisions[*d];
            Some(&decision.outcomes[decision.policy[*r].outcome])
        }),
        text("source", "The source whose events are decided on", |(plan, d, _)| {
            Some(&plan.sources[usize::from(plan.decisions[*d].source.0)].name)
        }),
        text("model", "The model that scores", |(plan, d, _)| plan.decisions[*d].model.map(|model| plan.models[model].name.as_str())),
    ];
    table(service, "The lines of each decision's policy, as the definitions in force have them", columns, |service, _, row| {
        let plan = &service.plan;
        let lines = plan.decisions.iter().enumerate().flat_map(|(d, decision)| (0..decision.policy.len()).map(move |r| (d, r)));
        let _ = { lines }.try_for_each(|(d, r)| row((Arc::clone(plan), d, r)));
        Ok(())
    })
}

fn features(service: &Arc<Service>) -> Arc<dyn Table> {
    type Feature = (Arc<Plan>, usize, usize);
    let columns = vec![
        text("view", "The feature view: the table of that name in the schema `features`", |(plan, v, _): &Feature| {
            Some(plan.views[*v].name())
        }),
        text("feature", "Its name, and that of its column", |(plan, v, f)| Some(&plan.views[*v].features()[*f].name)),
        text("definition", "As the definitions have it", |(plan, v, f)| Some(&plan.views[*v].features()[*f].text)),
        text("window", "Over which window", |(plan, v, f)| {
            Some(plan.views[*v].features()[*f].over.as_str()).filter(|over| !over.is_empty())
        }),
        Column::new("entity", Kind::Text, "Whom it is of: columns of the source", |(plan, v, _): &Feature| {
            Cell::owned(plan.views[*v].entity().join(", "))
        }),
        text("source", "The source that it is made of", |(plan, v, _)| Some(&plan.sources[usize::from(plan.views[*v].source().0)].name)),
    ];
    table(service, "Features, as the definitions in force declare them", columns, |service, _, row| {
        let plan = &service.plan;
        let features = plan.views.iter().enumerate().flat_map(|(v, view)| (0..view.features().len()).map(move |f| (v, f)));
        let _ = { features }.try_for_each(|(v, f)| row((Arc::clone(plan), v, f)));
        Ok(())
    })
}

fn aliases(service: &Arc<Service>) -> Arc<dyn Table> {
    type Alias = (String, String, u32);
    let columns = vec![
        text("model", "The model", |a: &Alias| Some(&a.0)),
        text("alias", "champion: in service; challenger: trained last and not in service", |a| Some(&a.1)),
        int("version", "The version that has it", |a| Some(i64::from(a.2))),
    ];
    table(service, "Which version of a model has which alias", columns, |service, _, row| {
        let models = service.data.wait(service.data.metadata.models())?;
        let each = |model: kilter_store::metadata::ModelSummary| {
            let name = model.model;
            model.aliases.into_iter().map(move |(alias, version)| (name.clone(), alias, version))
        };
        let _ = { models.into_iter().flat_map(each) }.try_for_each(row);
        Ok(())
    })
}

fn changes(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("model", "The model", |a: &AliasRecord| Some(&a.change.model)),
        text("alias", "The alias", |a| Some(&a.change.alias)),
        time("time", "When it moved", |a| Some(a.change.at)),
        int("event_offset", "From which event on it holds, where that is known", |a| a.change.at_offset.map(|offset| offset as i64)),
        int("version", "Where it moved to; null: it went away", |a| a.version.map(i64::from)),
        Column::new("rollback", Kind::Bool, "Whether it went back", |a: &AliasRecord| Cell::Bool(a.is_rollback)),
        text("reason", "Why", |a| Some(&a.change.reason)),
        text("actor", "Who or what moved it", |a| Some(&a.change.actor)),
    ];
    table(service, "How champions and challengers of models changed, newest first", columns, |service, _, row| {
        let metadata = &service.data.metadata;
        for model in service.data.wait(metadata.models())? {
            for alias in [CHAMPION, CHALLENGER] {
                let history = service.data.wait(metadata.alias_history(&model.model, alias))?;
                if history.into_iter().rev().try_for_each(&mut *row).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

/// Definitions that the data folder has run under.
struct Definitions {
    hash: String,
    is_current: bool,
    kept_at: Option<i64>,
    text: String,
}

fn definitions(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("definitions", "Their hash, as `decisions`, `runs` and `model_versions` name them", |d: &Definitions| Some(&d.hash)),
        Column::new("current", Kind::Bool, "Whether they are in force", |d: &Definitions| Cell::Bool(d.is_current)),
        time("kept_at", "When they first came into force", |d| d.kept_at),
        text("text", "The file `kilter.toml`", |d| Some(&d.text)),
    ];
    table(service, "Definitions that were in force", columns, |service, _, row| {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(service.data.dir.join("definitions"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(hash) = name.strip_suffix(".toml") else { continue };
            let Some(text) = service.data.definitions(hash) else { continue };
            let modified = entry.metadata().and_then(|data| data.modified()).ok();
            let kept_at = modified.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_micros() as i64));
            kept.push(Definitions { hash: hash.to_owned(), is_current: hash == service.plan.hash, kept_at, text });
        }
        kept.sort_by_key(|d| std::cmp::Reverse(d.kept_at));
        let _ = kept.into_iter().try_for_each(row);
        Ok(())
    })
}

/// What a source has sent.
struct Source {
    name: String,
    events: u64,
    arrived: Option<EventTime>,
    watermark: Option<EventTime>,
    waiting: Option<u64>,
    problem: Option<String>,
}

fn source_status(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("source", "The source", |s: &Source| Some(&s.name)),
        int("events", "How many events it has sent", |s| Some(s.events as i64)),
        time("last_time", "The newest time among its events", |s| s.watermark.map(|t| t.0)),
        time("last_arrived", "When the newest one came in", |s| s.arrived.map(|t| t.0)),
        int("waiting", "Records of its topic that have not been read; null: it reads no topic", |s| s.waiting.map(|n| n as i64)),
        text("problem", "Why its topic is not read at present", |s| s.problem.as_deref()),
    ];
    table(service, "How far each source has come", columns, |service, _, row| {
        let (counts, partitions) = (service.status.counts(), service.status.partitions());
        let mut problems = service.status.source_problems();
        for (i, plan) in service.plan.sources.iter().enumerate() {
            // Counts may be those of other definitions for a moment.
            let place = counts.plan.as_ref().and_then(|counted| counted.source(&plan.name)).map_or(i, |source| usize::from(source.0));
            let tally = counts.sources.get(place).copied().unwrap_or_default();
            let mut lags = partitions.iter().filter(|((source, _), _)| *source == plan.name).map(|(_, state)| state.lag()).peekable();
            let source = Source {
                name: plan.name.clone(),
                events: tally.events,
                arrived: tally.arrived,
                watermark: counts.watermarks.get(place).copied().flatten(),
                waiting: lags.peek().is_some().then(|| lags.sum()),
                problem: problems.remove(&plan.name),
            };
            if row(source).is_break() {
                break;
            }
        }
        Ok(())
    })
}

fn partitions(service: &Arc<Service>) -> Arc<dyn Table> {
    type Partition = ((String, u32), PartitionStatus);
    let columns = vec![
        text("source", "The source", |p: &Partition| Some(&p.0.0)),
        int("partition", "The partition of its topic", |p| Some(i64::from(p.0.1))),
        int("next_record", "The record that is read next", |p| Some(p.1.next as i64)),
        int("end_record", "Where the partition ended when that was last heard", |p| Some(p.1.end as i64)),
        int("waiting", "Records that wait", |p| Some(p.1.lag() as i64)),
    ];
    table(service, "How far each partition of a topic has been read", columns, |service, _, row| {
        let _ = service.status.partitions().into_iter().try_for_each(row);
        Ok(())
    })
}

fn sinks(service: &Arc<Service>) -> Arc<dyn Table> {
    type Sink = (String, SinkStatus);
    let columns = vec![
        text("sink", "Its name", |s: &Sink| Some(&s.0)),
        int("next_record", "What lies before this record of its log has been delivered", |s| Some(s.1.next as i64)),
        int("end_record", "Where that log ended then", |s| Some(s.1.end as i64)),
        int("delivered", "Delivered since the start", |s| Some(s.1.delivered as i64)),
        text("problem", "Why it delivers nothing at present", |s| s.1.problem.as_deref()),
    ];
    table(service, "How far each sink has come", columns, |service, _, row| {
        let _ = service.status.sinks().into_iter().try_for_each(row);
        Ok(())
    })
}

/// A file of the lake.
struct LakeFile {
    path: String,
    source: Option<String>,
    date: Option<String>,
    first: u64,
    next: u64,
    rows: u64,
    bytes: u64,
}

fn lake_files(service: &Arc<Service>) -> Arc<dyn Table> {
    let columns = vec![
        text("path", "Where it lies in the lake", |f: &LakeFile| Some(&f.path)),
        text("source", "The source of its events; null: it holds what is no event", |f| f.source.as_deref()),
        text("date", "The day of its events, in UTC", |f| f.date.as_deref()),
        int("first_offset", "Its events have offsets from this one on", |f| Some(f.first as i64)),
        int("next_offset", "And before this one", |f| Some(f.next as i64)),
        int("rows", "How many", |f| Some(f.rows as i64)),
        int("bytes", "How large it is", |f| Some(f.bytes as i64)),
    ];
    table(service, "Files of the lake that hold the event log", columns, |service, _, row| {
        let Some(lake) = service.data.history.lake()? else { return Ok(()) };
        for file in &lake.state().files {
            let file = LakeFile {
                path: file.path.clone(),
                source: file.part.source().map(str::to_owned),
                date: file.part.date().map(str::to_owned),
                first: file.first,
                next: file.next,
                rows: file.rows,
                bytes: file.bytes,
            };
            if row(file).is_break() {
                break;
            }
        }
        Ok(())
    })
}
