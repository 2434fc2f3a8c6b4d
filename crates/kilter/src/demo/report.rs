//! What the demo was worth: live figures, the nightly-batch comparison, drift, and the replay of every decision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kilter_core::{EventTime, Offset, Span};
use kilter_learn::metrics::auc;
use kilter_pipeline::{Feed, Freshness, Observations, Range};
use kilter_runtime::audit::{AuditReport, audit_all};
use kilter_runtime::{Percentiles, Record, Service};
use serde_json::json;

use super::Trainings;
use super::screen::{date, micros};
use super::stream::Played;
use crate::commands::{grouped, table};

/// The closing figures.
pub struct Report {
    events: u64,
    applications: u64,
    seconds: f64,
    total_seconds: f64,
    freshness: Percentiles,
    decide: Percentiles,
    client: Percentiles,
    decisions: BTreeMap<String, u64>,
    models: Vec<ModelRow>,
    /// On decisions whose outcome is known: live features, and the same models fed features as of last midnight.
    compared: u64,
    auc_live: f64,
    auc_nightly: f64,
    lost_live: f64,
    lost_nightly: f64,
    approved_share: f64,
    alarms_before_shift: u64,
    alarms: u64,
    shift_at: EventTime,
    first_alarm_at: Option<EventTime>,
    first_alarm: String,
    pub replay: AuditReport,
}

struct ModelRow {
    version: u32,
    alias: String,
    trained_from: EventTime,
    trained_to: EventTime,
    rows: usize,
    holdout_auc: f64,
    decided: u64,
    /// On the decisions this version made, as far as their outcome is known.
    live_auc: f64,
}

/// One decision with its outcome.
struct Judged {
    version: u32,
    live: f64,
    nightly: f64,
    label: f64,
    lost: f64,
    approved: bool,
}

pub fn make(service: &Service, trainings: &Trainings, played: &Played, shift_at: EventTime, started: Instant) -> anyhow::Result<Report> {
    let judged = judge(service)?;
    let scores = |pick: fn(&Judged) -> f64| judged.iter().map(pick).collect::<Vec<f64>>();
    let labels = scores(|j| j.label);
    let outcomes = service.status.decisions();
    // The policy's own share, among the decisions compared.
    let approved_share = judged.iter().filter(|j| j.approved).count() as f64 / judged.len().max(1) as f64;
    let replay = audit_all(&service.data, &service.plan, |_, _| {})?;
    let readings = service.status.readings();
    let mut crossings: Vec<_> = readings.iter().flat_map(|(m, r)| r.values.iter().map(move |r| (m, r))).collect();
    crossings.retain(|(_, r)| r.crossed.is_some());
    crossings.sort_by_key(|(_, r)| r.at);
    // An alarm that was on before the shift says nothing of it: the first that goes on after it counts.
    let first = readings
        .iter()
        .flat_map(|(m, r)| r.values.iter().zip(r.values.iter().skip(1)).map(move |(before, r)| (m, before, r)))
        .filter(|(_, before, r)| r.at >= shift_at && r.crossed.is_some() && before.crossed.is_none())
        .map(|(m, _, r)| (m, r))
        .min_by_key(|(_, r)| r.at);
    Ok(Report {
        events: played.events,
        applications: played.applications,
        seconds: played.elapsed.as_secs_f64(),
        freshness: service.status.freshness.percentiles(),
        decide: service.status.decide.percentiles(),
        client: percentiles(&played.decision_micros),
        decisions: outcomes.into_iter().map(|((_, outcome), n)| (outcome, n)).collect(),
        models: models(service, trainings, &judged)?,
        compared: judged.len() as u64,
        auc_live: auc(&scores(|j| j.live), &labels),
        auc_nightly: auc(&scores(|j| j.nightly), &labels),
        lost_live: lost(&judged, approved_share, |j| j.live),
        lost_nightly: lost(&judged, approved_share, |j| j.nightly),
        approved_share,
        alarms_before_shift: crossings.iter().filter(|(_, r)| r.at < shift_at).count() as u64,
        alarms: crossings.len() as u64,
        shift_at,
        first_alarm_at: first.map(|(_, r)| r.at),
        first_alarm: first.map(|(m, r)| format!("{m}: {} at {:.3}", r.subject, r.value)).unwrap_or_default(),
        replay,
        total_seconds: started.elapsed().as_secs_f64(),
    })
}

/// Every decision of a model whose outcome is known, with the score the same version gives on nightly features.
fn judge(service: &Service) -> anyhow::Result<Vec<Judged>> {
    let plan = &service.plan;
    let model = plan.model("default_risk").context("the demo's definitions have no model `default_risk`")?;
    let end = service.data.events.next_offset();
    let all = Range { from: EventTime::EARLIEST, to: EventTime::LATEST };
    let mut nightly = Feed::new(Arc::clone(plan), model, all, Freshness::Batch(Span::DAY), None);
    let repayments = plan.source("repayments").context("the demo's definitions have no source `repayments`")?;
    let applications = plan.source("applications").context("the demo's definitions have no source `applications`")?;
    let mut losses: BTreeMap<String, f64> = BTreeMap::new();
    let mut names: BTreeMap<Offset, String> = BTreeMap::new();
    let schema = |s: kilter_core::SourceId| &plan.sources[s.0 as usize].schema;
    let column = |s, name| schema(s).index(name).context("a column of the demo's definitions is gone");
    let (lost, paid_for, applied) =
        (column(repayments, "lost")?, column(repayments, "application_id")?, column(applications, "application_id")?);
    service.data.walk(plan, 0, end, |_, record| {
        if let Record::Event(event) = record {
            nightly.feed(&event);
            if event.source == repayments {
                losses.insert(event.row[paid_for].to_string(), event.row[lost].as_f64().unwrap_or(0.0));
            } else if event.source == applications {
                names.insert(event.offset, event.row[applied].to_string());
            }
        }
        Ok(())
    })?;
    let nightly: Observations = nightly.finish();
    let at: BTreeMap<Offset, usize> = nightly.offsets.iter().enumerate().map(|(row, offset)| (*offset, row)).collect();
    let as_of = service.data.latest_event_time()?.unwrap_or(EventTime::EARLIEST);

    let mut versions = BTreeMap::new();
    let mut judged = Vec::new();
    let mut row = Vec::new();
    let mut before = None;
    loop {
        let (page, next) = service.decisions(before, 10_000, |_| true)?;
        for recorded in page {
            let d = &recorded.decision;
            let (Some(version), Some(live), Some(&index)) = (d.version, d.score, at.get(&d.offset)) else { continue };
            let Some(label) = nightly.label(index, as_of) else { continue };
            let champion = match versions.entry(version) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    let record = service.data.version("default_risk", version)?;
                    e.insert(service.data.champion(plan, model, &record)?.context("a version of the demo has other inputs")?)
                }
            };
            nightly.matrix.row(index, &mut row);
            let lost = names.get(&d.offset).and_then(|n| losses.get(n)).copied().unwrap_or(0.0);
            let approved = recorded.layout.outcomes.get(d.outcome).is_some_and(|o| o == "approve");
            judged.push(Judged { version, live, nightly: champion.model.predict(&row), label, lost, approved });
        }
        match next {
            Some(position) => before = Some(position),
            None => return Ok(judged),
        }
    }
}

/// Money lost when the given share with the lowest scores is approved: both sides approve equally many.
fn lost(judged: &[Judged], share: f64, score: impl Fn(&Judged) -> f64) -> f64 {
    let mut order: Vec<&Judged> = judged.iter().collect();
    order.sort_by(|a, b| score(a).total_cmp(&score(b)));
    order.iter().take((judged.len() as f64 * share) as usize).map(|j| j.lost).sum()
}

fn models(service: &Service, trainings: &Trainings, judged: &[Judged]) -> anyhow::Result<Vec<ModelRow>> {
    let trainings = trainings.lock().map(|t| t.clone()).unwrap_or_default();
    let champion = trainings.iter().filter_map(|t| t.as_ref().ok()).rfind(|r| r.promote).map(|r| r.version);
    let newest = trainings.iter().filter_map(|t| t.as_ref().ok()).next_back().map(|r| r.version);
    let mut decided: BTreeMap<u32, u64> = BTreeMap::new();
    let mut before = None;
    loop {
        let (page, next) = service.decisions(before, 100_000, |_| true)?;
        for recorded in page {
            if let Some(version) = recorded.decision.version {
                *decided.entry(version).or_default() += 1;
            }
        }
        match next {
            Some(position) => before = Some(position),
            None => break,
        }
    }
    Ok(trainings
        .iter()
        .filter_map(|t| t.as_ref().ok())
        .map(|report| {
            let own: Vec<&Judged> = judged.iter().filter(|j| j.version == report.version).collect();
            let (scores, labels): (Vec<f64>, Vec<f64>) = own.iter().map(|j| (j.live, j.label)).unzip();
            ModelRow {
                version: report.version,
                alias: match report.version {
                    v if Some(v) == champion => "champion".into(),
                    v if Some(v) == newest => "challenger".into(),
                    _ if report.promote => "was champion".into(),
                    _ => String::new(),
                },
                trained_from: report.trained.from,
                trained_to: report.trained.to,
                rows: report.train_rows,
                holdout_auc: report.holdout.as_ref().map_or(f64::NAN, |e| e.get("auc")),
                decided: decided.get(&report.version).copied().unwrap_or(0),
                live_auc: auc(&scores, &labels),
            }
        })
        .collect())
}

fn percentiles(micros: &[u32]) -> Percentiles {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let at = |q: f64| sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1))).map_or(0, |v| u64::from(*v));
    Percentiles { count: sorted.len() as u64, p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: at(1.0) }
}

impl Report {
    pub fn print(&self) {
        let mut out = table(&[]);
        let mut line = |name: &str, value: String| {
            out.add_row([name.to_string(), value]);
        };
        line(
            "events",
            format!("{} in {:.1} s, {} a second", grouped(self.events), self.seconds, grouped((self.events as f64 / self.seconds) as u64)),
        );
        let decided: u64 = self.decisions.values().sum();
        let parts: Vec<String> = self.decisions.iter().map(|(o, n)| format!("{o} {}", grouped(*n))).collect();
        line("decisions", format!("{}: {}", grouped(decided), parts.join(", ")));
        line("freshness (arrival until visible)", format!("p50 {}, p99 {}", micros(self.freshness.p50_us), micros(self.freshness.p99_us)));
        line("decision latency in the server", format!("p50 {}, p99 {}", micros(self.decide.p50_us), micros(self.decide.p99_us)));
        line("decision latency at the client", format!("p50 {}, p99 {}", micros(self.client.p50_us), micros(self.client.p99_us)));
        line(
            "AUC on known outcomes",
            format!(
                "{:.4} live, {:.4} with last night's features ({} decisions, the same models)",
                self.auc_live,
                self.auc_nightly,
                grouped(self.compared)
            ),
        );
        line(
            "losses if the best scores are approved",
            format!(
                "{} by live scores, {} by last night's: {} avoided at the policy's {:.0} % approved",
                grouped(self.lost_live as u64),
                grouped(self.lost_nightly as u64),
                signed(self.lost_nightly - self.lost_live),
                100.0 * self.approved_share
            ),
        );
        line("recession", date(self.shift_at));
        line(
            "first alarm after it",
            match self.first_alarm_at {
                Some(at) => format!("{}, {:.1} days later ({})", date(at), (at - self.shift_at).seconds() / 86_400.0, self.first_alarm),
                None => "none".into(),
            },
        );
        line("alarms", format!("{} in all, {} before the recession", self.alarms, self.alarms_before_shift));
        line("replay", format!("{} decisions rebuilt from the log, {} differ", grouped(self.replay.checked), self.replay.mismatches));
        line("wall time", format!("{:.1} s", self.total_seconds));
        println!("\n{out}\n");

        let mut out = table(&["version", "", "trained from", "to", "rows", "AUC held out", "decisions", "AUC of its decisions"]);
        for m in &self.models {
            out.add_row([
                m.version.to_string(),
                m.alias.clone(),
                date(m.trained_from),
                date(m.trained_to),
                grouped(m.rows as u64),
                number(m.holdout_auc),
                grouped(m.decided),
                number(m.live_auc),
            ]);
        }
        println!("{out}");
    }

    pub fn json(&self) -> serde_json::Value {
        let outcome = |name: &str| self.decisions.get(name).copied().unwrap_or(0);
        let ms = |p: &Percentiles| json!({ "p50": p.p50_us as f64 / 1e3, "p99": p.p99_us as f64 / 1e3 });
        let us = |p: &Percentiles| json!({ "p50": p.p50_us, "p99": p.p99_us });
        json!({
            "events": self.events,
            "applications": self.applications,
            "seconds": self.seconds,
            "wall_seconds": self.total_seconds,
            "events_per_second": self.events as f64 / self.seconds,
            "freshness_ms": ms(&self.freshness),
            "decision_latency_us": us(&self.decide),
            "client_latency_us": us(&self.client),
            "decisions": { "approve": outcome("approve"), "review": outcome("review"), "decline": outcome("decline") },
            "models": self.models.iter().map(|m| json!({
                "version": m.version, "alias": m.alias, "trained_from": m.trained_from.to_string(), "trained_to": m.trained_to.to_string(),
                "rows": m.rows, "auc": finite(m.holdout_auc), "decisions": m.decided, "live_auc": finite(m.live_auc),
            })).collect::<Vec<_>>(),
            "auc": { "kilter": finite(self.auc_live), "nightly_batch": finite(self.auc_nightly), "decisions": self.compared },
            "losses": { "kilter": self.lost_live, "nightly_batch": self.lost_nightly, "approved_share": self.approved_share },
            "drift": {
                "shift_at": self.shift_at.to_string(), "first_alarm_at": self.first_alarm_at.map(|t| t.to_string()),
                "alarms": self.alarms, "alarms_before_shift": self.alarms_before_shift,
            },
            "replay": { "checked": self.replay.checked, "mismatches": self.replay.mismatches },
        })
    }
}

fn number(x: f64) -> String {
    if x.is_finite() { format!("{x:.4}") } else { "-".into() }
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn signed(x: f64) -> String {
    let size = grouped(x.abs() as u64);
    if x < 0.0 { format!("-{size}") } else { size }
}
