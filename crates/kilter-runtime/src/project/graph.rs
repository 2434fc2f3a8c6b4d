//! The resolved definitions as text: what `kilter check` shows.

use std::fmt::Write;

use kilter_connect::OperationOf;
use kilter_core::SourceId;
use kilter_features::View;
use kilter_learn::Learner;
use kilter_learn::scorecard::Shape;
use kilter_pipeline::{DecisionPlan, ModelPlan, MonitorPlan, Plan, SchedulePlan, When};

use super::Project;

/// Sources with columns, views with features, models, decisions, schedules and monitors, one block each.
pub fn graph(project: &Project) -> String {
    let plan = &project.plan;
    let mut out = format!("project {}   definitions {}\n", plan.project, &plan.hash[..12.min(plan.hash.len())]);
    for (i, source) in plan.sources.iter().enumerate() {
        let settings = project.source_settings.get(i);
        let origin = settings.map_or_else(String::new, |s| match &s.path {
            Some(path) => format!("file {}, ", path.display()),
            None => "http, ".to_owned(),
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
        let rows = source.schema.fields.iter().map(|f| vec![f.name.clone(), f.data_type.to_string()]).collect();
        table(&mut out, rows);
    }
    for view in &plan.views {
        view_block(&mut out, plan, view);
    }
    for model in &plan.models {
        model_block(&mut out, plan, model);
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
    out
}

fn source_name(plan: &Plan, source: SourceId) -> &str {
    plan.sources.get(usize::from(source.0)).map_or("?", |s| s.name.as_str())
}

fn model_name(plan: &Plan, model: usize) -> &str {
    plan.models.get(model).map_or("?", |m| m.name.as_str())
}

fn view_block(out: &mut String, plan: &Plan, view: &View) {
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
    let needs: Vec<&str> = view.needs().collect();
    if !needs.is_empty() {
        let _ = writeln!(out, "  reads features {} as they are when an event comes", needs.join(", "));
    }
    let rows = view.features().iter().map(|f| {
        let window = match (f.over.as_str(), f.hop) {
            ("", _) => "derived".to_owned(),
            (over, Some(hop)) if hop > kilter_core::Span(1) => format!("{over} in steps of {hop}"),
            (over, _) => over.to_owned(),
        };
        // The windows stand in their own column.
        let text = crate::data::line_of(f);
        vec![f.name.clone(), f.data_type.to_string(), window, text.to_owned()]
    });
    table(out, rows.collect());
}

fn model_block(out: &mut String, plan: &Plan, model: &ModelPlan) {
    let learner = match &model.learner {
        Learner::Gbdt(g) => format!("gbdt, up to {} trees of {} leaves", g.trees, g.leaves),
        Learner::Logistic(l) => format!("logistic, l2 {}", l.l2),
        Learner::Scorecard(s) => format!("scorecard, up to {} bins, {} points double the odds", s.max_bins, s.pdo),
    };
    let calibrated = model.calibration.map_or(String::new(), |c| {
        format!(", calibrated by {} on the newest {:.0}% of the training rows", c.calibration.method.name(), c.share * 100.0)
    });
    let window = model.window.map_or("all of the log".to_owned(), |w| format!("the newest {w}"));
    let _ = writeln!(
        out,
        "\nmodel {}   on {}, {learner}, trained on {window}, {:.0}% held out{calibrated}",
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
    let direction = |i: usize| match &model.learner {
        Learner::Gbdt(g) => match g.monotone.get(i) {
            Some(1) => "increasing",
            Some(-1) => "decreasing",
            _ => "",
        },
        Learner::Logistic(_) => "",
        Learner::Scorecard(s) => match s.shapes.get(&model.inputs[i].name) {
            Some(Shape::Increasing) => "increasing",
            Some(Shape::Decreasing) => "decreasing",
            Some(Shape::Peak) => "peak",
            Some(Shape::Valley) => "valley",
            _ => "",
        },
    };
    let rows = model.inputs.iter().enumerate().map(|(i, input)| {
        let text = if input.text == input.name { "" } else { &input.text };
        let data_type = input.expr.data_type().map_or(String::new(), |t| t.to_string());
        vec![input.name.clone(), data_type, direction(i).to_owned(), text.to_owned()]
    });
    table(out, rows.collect());
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

/// Columns lined up, two blanks between them.
fn table(out: &mut String, rows: Vec<Vec<String>>) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "  {cell:width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
