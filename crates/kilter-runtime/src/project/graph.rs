//! The resolved definitions as text: what `kilter check` shows.

use std::collections::BTreeSet;
use std::fmt::Write;

use kilter_connect::OperationOf;
use kilter_core::SourceId;
use kilter_features::View;
use kilter_learn::forest::{Target, Thresholds};
use kilter_learn::scorecard::Shape;
use kilter_learn::{Learner, Objective};
use kilter_pipeline::{DecisionPlan, ModelPlan, MonitorPlan, Plan, SchedulePlan, ServicePlan, When};

use super::Project;
use super::definitions::SourceFormat;
use super::lineage::{PersonalData, personal_column};
use super::watch::{WatchKind, WatchPlan};

/// Sources with columns, views with features, models, decisions, schedules and monitors, one block each.
pub fn graph(project: &Project) -> String {
    let plan = &project.plan;
    let mut out = format!("project {}   definitions {}\n", plan.project, &plan.hash[..12.min(plan.hash.len())]);
    for (i, source) in plan.sources.iter().enumerate() {
        let settings = project.source_settings.get(i);
        let topic = project.definitions.source.get(&source.name).and_then(|def| Some((def.topic.as_ref()?, def.format)));
        let origin = settings.map_or_else(String::new, |s| match (&s.path, topic) {
            (Some(path), _) => format!("file {}, ", path.display()),
            (None, Some((topic, format))) => {
                format!("topic {topic} of {}, ", format.and_then(SourceFormat::topic).unwrap_or_default().word())
            }
            (None, None) => "http, ".to_owned(),
        });
        let time = settings.map_or("", |s| s.time_text.as_str());
        let changes = match source.key.as_slice() {
            [] => String::new(),
            key => {
                let names: Vec<&str> = key.iter().map(|c| source.schema.fields[*c].name.as_str()).collect();
                let told = match settings.map(|s| &s.operation) {
                    Some(OperationOf::Column(c)) => format!(" by {}", source.schema.fields[*c].name),
                    Some(OperationOf::Field(field)) => format!(" by {field}"),
                    Some(OperationOf::Debezium) => " in debezium's envelope".to_owned(),
                    Some(OperationOf::Nothing) | None => String::new(),
                };
                format!("changes per {}{told}, ", names.join(", "))
            }
        };
        let _ = writeln!(
            out,
            "\nsource {}   {origin}{changes}time {time}, lateness {}, dedupe {}",
            source.name, source.lateness, source.dedupe
        );
        let personal = |f: &kilter_core::Field| personal_column(project, &source.name, &f.name).map_or("", |_| "personal data");
        let rows = source.schema.fields.iter().map(|f| vec![f.name.clone(), f.data_type.to_string(), personal(f).to_owned()]).collect();
        table(&mut out, rows);
    }
    let personal = PersonalData::of(project);
    for (position, view) in plan.views.iter().enumerate() {
        let marks = (0..view.features().len()).map(|f| mark(personal.feature(position, f))).collect();
        view_block(&mut out, plan, view, marks);
    }
    for service in &plan.services {
        let marks = service.features.iter().map(|f| mark(&personal.of_service(service, f.expr.slots()))).collect();
        service_block(&mut out, plan, service, marks);
    }
    for model in &plan.models {
        let marks = model.inputs.iter().map(|input| mark(&personal.of_slots(project, &model.context, input.expr.slots()))).collect();
        model_block(&mut out, plan, model, marks);
    }
    for decision in &plan.decisions {
        decision_block(&mut out, plan, decision);
    }
    for schedule in &plan.schedules {
        out.push_str(&schedule_line(plan, schedule));
    }
    for monitor in &plan.monitors {
        out.push_str(&monitor_line(plan, monitor));
    }
    for watch in &project.watches {
        out.push_str(&watch_line(plan, watch));
    }
    out
}

fn source_name(plan: &Plan, source: SourceId) -> &str {
    plan.sources.get(usize::from(source.0)).map_or("?", |s| s.name.as_str())
}

fn model_name(plan: &Plan, model: usize) -> &str {
    plan.models.get(model).map_or("?", |m| m.name.as_str())
}

/// The room that an entity takes.
fn state_line(view: &View) -> String {
    let bound = view.state_bound();
    let mut parts = Vec::new();
    if bound.tiles > 0 {
        parts.push(bytes(bound.tiles));
    }
    if bound.per_event > 0 {
        parts.push(format!("{} for each event in exact windows", bytes(bound.per_event)));
    }
    let beside = match bound.growing.is_empty() {
        true => String::new(),
        false => format!(", beside the states of {}", bound.growing.join(", ")),
    };
    format!("state of an entity {} when it is full{beside}", parts.join(", and "))
}

fn bytes(n: u64) -> String {
    match n {
        0..10_240 => format!("{n} bytes"),
        10_240..10_485_760 => format!("{} KiB", n / 1024),
        _ => format!("{} MiB", n >> 20),
    }
}

/// What is told of a feature that is personal data.
fn mark(columns: &BTreeSet<String>) -> String {
    match columns.is_empty() {
        true => String::new(),
        false => format!("personal data by {}", columns.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

fn view_block(out: &mut String, plan: &Plan, view: &View, marks: Vec<String>) {
    let error = view.features().iter().map(|f| f.relative_tail_error).fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "\nfeatures {}   of {} per {}, {} features, windows at most {:.1}% longer than asked",
        view.name(),
        source_name(plan, view.source()),
        view.entity().join(", "),
        view.features().len(),
        error * 100.0
    );
    let _ = writeln!(out, "  {}", state_line(view));
    let needs: Vec<&str> = view.needs().collect();
    if !needs.is_empty() {
        let _ = writeln!(out, "  reads features {} as they are when an event comes", needs.join(", "));
    }
    let rows = view.features().iter().zip(marks).map(|(f, mark)| {
        let window = match (f.over.as_str(), f.hop) {
            ("", _) => "derived".to_owned(),
            (over, Some(hop)) if hop > kilter_core::Span(1) => format!("{over} in steps of {hop}"),
            (over, _) => over.to_owned(),
        };
        // The windows stand in their own column.
        let text = crate::meaning::line_of(f);
        vec![f.name.clone(), f.data_type.to_string(), window, text.to_owned(), mark]
    });
    table(out, rows.collect());
}

fn service_block(out: &mut String, plan: &Plan, service: &ServicePlan, marks: Vec<String>) {
    let keys: Vec<&str> = service.keys.iter().map(|k| k.name.as_str()).collect();
    let views: Vec<&str> = service.lookups.iter().map(|l| plan.views[l.view].name()).collect();
    let _ =
        writeln!(out, "\nservice {}   {} features of {} by {}", service.name, service.features.len(), views.join(", "), keys.join(", "));
    let rows = service.features.iter().zip(marks).map(|(f, mark)| {
        let text = if f.text == f.name { "" } else { &f.text };
        vec![f.name.clone(), f.data_type.to_string(), text.to_owned(), mark]
    });
    table(out, rows.collect());
}

fn model_block(out: &mut String, plan: &Plan, model: &ModelPlan, marks: Vec<String>) {
    let learner = match &model.learner {
        Learner::Gbdt(g) => {
            let objective = if g.objective == Objective::Binary { String::new() } else { format!(" of {}", objective_words(g.objective)) };
            format!("gbdt{objective}, up to {} trees of {} leaves", g.trees, g.leaves)
        }
        Learner::Forest(f) => {
            let kind = if f.thresholds == Thresholds::Best { "random forest" } else { "extra trees" };
            let target = if f.target == Target::Mean { " of means" } else { "" };
            format!("forest{target}, {} trees ({kind}) of at least {} rows a leaf", f.trees, f.min_leaf_rows)
        }
        Learner::Explainable(e) => {
            let target = if e.target == Target::Mean { " of means" } else { "" };
            format!("explainable{target}, up to {} pairs, mean of {} bags", e.pairs, e.bags)
        }
        Learner::Logistic(l) if l.l1 > 0.0 => format!("logistic, l1 {}, l2 {}", l.l1, l.l2),
        Learner::Logistic(l) => format!("logistic, l2 {}", l.l2),
        Learner::Scorecard(s) => format!("scorecard, up to {} bins, {} points double the odds", s.max_bins, s.pdo),
        Learner::Linear(l) if l.l1 > 0.0 => format!("linear, l1 {}, l2 {}", l.l1, l.l2),
        Learner::Linear(l) => format!("linear, l2 {}", l.l2),
        Learner::Isolation(i) => format!("isolation forest, {} trees of {} rows", i.trees, i.sample),
    };
    let calibrated = model.calibration.map_or(String::new(), |c| {
        format!(", calibrated by {} on the newest {:.0}% of the training rows", c.calibration.method.name(), c.share * 100.0)
    });
    let searched = model.search.as_ref().map_or(String::new(), |s| {
        let names: Vec<&str> = s.search.space.keys().map(String::as_str).collect();
        format!(", its {} looked for in up to {} fits by {}", names.join(", "), s.search.budget.fits, s.metric)
    });
    let window = model.window.map_or("all of the log".to_owned(), |w| format!("the newest {w}"));
    let _ = writeln!(
        out,
        "\nmodel {}   on {}, {learner}{searched}, trained on {window}, {:.0}% held out{calibrated}",
        model.name,
        source_name(plan, model.context.source),
        model.holdout * 100.0
    );
    if let Some(label) = &model.label {
        let keys: Vec<&str> = label
            .observation_key
            .iter()
            .filter_map(|c| plan.sources.get(usize::from(model.context.source.0))?.schema.fields.get(*c))
            .map(|f| f.name.as_str())
            .collect();
        let absent = label.absent.map_or("left out".to_owned(), |a| a.to_string());
        let _ = writeln!(
            out,
            "  label {} of {} by {} within {}; without one: {absent}",
            label.value_text,
            source_name(plan, label.source),
            keys.join(", "),
            label.within
        );
    }
    let declared = |monotone: &[i8], i: usize| match monotone.get(i) {
        Some(1) => "increasing",
        Some(-1) => "decreasing",
        _ => "",
    };
    let direction = |i: usize| match &model.learner {
        Learner::Gbdt(g) if g.categorical.contains(&model.inputs[i].name) => "categories",
        Learner::Gbdt(g) => declared(&g.monotone, i),
        Learner::Explainable(e) => declared(&e.monotone, i),
        Learner::Forest(_) | Learner::Logistic(_) | Learner::Linear(_) | Learner::Isolation(_) => "",
        Learner::Scorecard(s) => match s.shapes.get(&model.inputs[i].name) {
            Some(Shape::Increasing) => "increasing",
            Some(Shape::Decreasing) => "decreasing",
            Some(Shape::Peak) => "peak",
            Some(Shape::Valley) => "valley",
            _ => "",
        },
    };
    let rows = model.inputs.iter().zip(marks).enumerate().map(|(i, (input, mark))| {
        let text = if input.text == input.name { "" } else { &input.text };
        let data_type = input.expr.data_type().map_or(String::new(), |t| t.to_string());
        let group = model.reasons.as_ref().map(|r| &r.names[r.of_input[i]]).filter(|group| **group != input.name);
        let group = group.map_or(String::new(), |group| format!("reason {group}"));
        vec![input.name.clone(), data_type, direction(i).to_owned(), text.to_owned(), group, mark]
    });
    table(out, rows.collect());
}

/// As `squared_error`, or `quantile (level 0.9)`.
fn objective_words(objective: Objective) -> String {
    match serde_json::to_value(objective) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(map)) => {
            let number = |of: &serde_json::Value| {
                of.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
            };
            map.iter().map(|(word, of)| format!("{word} ({})", number(of))).collect()
        }
        _ => String::new(),
    }
}

fn decision_block(out: &mut String, plan: &Plan, decision: &DecisionPlan) {
    let model = decision.model.map_or("rules alone".to_owned(), |m| format!("model {}", model_name(plan, m)));
    let fallback = match (decision.model, decision.fallback.and_then(|f| decision.outcomes.get(f))) {
        (None, _) => String::new(),
        (_, Some(outcome)) => format!(", {outcome} while there is no champion"),
        (_, None) => ", nothing decided while there is no champion".to_owned(),
    };
    let _ = writeln!(
        out,
        "\ndecision {}   on {}, {model}, up to {} reasons{fallback}",
        decision.name,
        source_name(plan, decision.source),
        decision.reasons
    );
    let rows = decision.policy.iter().map(|rule| {
        let when = rule.text.as_ref().map_or("otherwise".to_owned(), |text| format!("when {text}"));
        vec![decision.outcomes.get(rule.outcome).cloned().unwrap_or_default(), when]
    });
    table(out, rows.collect());
}

fn schedule_line(plan: &Plan, schedule: &SchedulePlan) -> String {
    let when = match &schedule.when {
        When::Every(span) => format!("every {span}"),
        When::Cron(text) => format!("at {text} (UTC)"),
    };
    let promote = schedule.promote_text.as_ref().map_or("a person promotes".to_owned(), |text| format!("promote if {text}"));
    format!("\nschedule {}   {when}: train {}; {promote}\n", schedule.name, model_name(plan, schedule.model))
}

fn monitor_line(plan: &Plan, monitor: &MonitorPlan) -> String {
    let bound = |word: &str, bound: Option<f64>| bound.map(|b| format!("{word} {b}"));
    let bounds: Vec<String> = [bound("above", monitor.above), bound("below", monitor.below)].into_iter().flatten().collect();
    let then = if monitor.retrain { "alert and retrain" } else { "alert" };
    format!(
        "\nmonitor {}   {} of {} over {}, every {}, {}: {then}\n",
        monitor.name,
        monitor.signal.name(),
        model_name(plan, monitor.model),
        monitor.window,
        monitor.every,
        bounds.join(" or ")
    )
}

fn watch_line(plan: &Plan, watch: &WatchPlan) -> String {
    match watch.kind {
        WatchKind::Silence { source, after } => {
            format!("\nmonitor {}   nothing from {} for {after}: alert\n", watch.name, source_name(plan, source))
        }
        WatchKind::SelfCheck { sample, every, above } => {
            format!(
                "\nmonitor {}   features of {sample} of the entities against the log, every {every}, above {above}: alert\n",
                watch.name
            )
        }
    }
}

/// Columns lined up, two blanks between them.
fn table(out: &mut String, rows: Vec<Vec<String>>) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(line, "  {cell:width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
