//! Would it happen again? Rebuilds state from the log and compares every decision with its record, to the last bit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kilter_core::{Event, Offset, Value};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::{Decision, Pipeline, Plan, decision_id, parse_decision_id};
use serde::Serialize;

use crate::catalog::Record;
use crate::data::Data;
use crate::erase::Taint;
use crate::project::Project;
use crate::service::{Layouts, Recorded, find_decision};

/// Mismatches kept with their details; all are counted.
const LISTED: usize = 100;

/// What a replay of many decisions showed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditReport {
    pub events: u64,
    pub checked: u64,
    pub mismatches: u64,
    /// Recorded under definitions that the replay was not made under, so not compared.
    pub other_definitions: u64,
    /// Definitions under which the log was run through.
    pub definitions: u64,
    /// Why decisions under other definitions cannot be replayed.
    pub not_replayable: Vec<String>,
    /// Differ in what rests on events that were erased, so that nothing can be said of them.
    pub inputs_erased: u64,
    /// The first of these, as the mismatches are listed.
    pub inputs_erased_details: Vec<(String, String)>,
    /// Of the decisions recorded: those whose own event was erased. They have no inputs any more.
    pub erased: u64,
    /// The first mismatches: decision id and the first thing that differs.
    pub details: Vec<(String, String)>,
}

/// One decision and its replay.
pub struct Replayed {
    pub recorded: Recorded,
    pub event: Event,
    pub again: Option<Decision>,
    /// None: the same to the last bit.
    pub difference: Option<String>,
    /// All of the difference rests on events that were erased.
    pub inputs_erased: bool,
    /// Where the state was taken up: 0 for the start of the log.
    pub from_offset: Offset,
    /// The features and fields the decision had before it, by name.
    pub context: Vec<(String, Value)>,
}

/// Every decision of the log, each under the definitions of its day: one run through the log for each of them that is kept in the data
/// folder and still holds. `progress` is told how far the run is and of how many.
pub fn audit_log(data: &Data, project: &Project, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<AuditReport> {
    let recorded = recorded_under(data)?;
    let mut report = AuditReport::default();
    let runs = recorded.len() as u64;
    for (run, (hash, decisions)) in recorded.into_iter().enumerate() {
        let plan = match hash == project.plan.hash {
            true => Arc::new(project.plan.clone()),
            false => match data.kept_plan(&hash) {
                Ok(plan) => plan,
                Err(e) => {
                    report.other_definitions += decisions.values().sum::<u64>();
                    report.not_replayable.push(format!("{e:#}"));
                    continue;
                }
            },
        };
        let one = audit_all(data, &plan, |done, total| progress(run as u64 * total + done, runs * total))?;
        report.definitions += 1;
        report.events = report.events.max(one.events);
        report.checked += one.checked;
        report.mismatches += one.mismatches;
        report.inputs_erased += one.inputs_erased;
        report.erased = report.erased.max(one.erased);
        let room = LISTED.saturating_sub(report.details.len());
        report.details.extend(one.details.into_iter().take(room));
        let room = LISTED.saturating_sub(report.inputs_erased_details.len());
        report.inputs_erased_details.extend(one.inputs_erased_details.into_iter().take(room));
    }
    Ok(report)
}

/// How many decisions are recorded under which definitions, by the decision's name.
pub fn recorded_under(data: &Data) -> anyhow::Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let mut layouts: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut reader = data.decisions.reader(data.decisions.start_offset());
    while let Some((position, bytes)) = reader.next_record()? {
        match decode(bytes)? {
            Entry::Layout(layout) => {
                layouts.insert(position, (layout.definitions, layout.decision));
            }
            Entry::Decision(layout, _) => *counts.entry(layout).or_default() += 1,
            Entry::Erased(..) => {}
        }
    }
    let mut found: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (layout, n) in counts {
        let (definitions, decision) = layouts.remove(&layout).ok_or_else(|| anyhow::anyhow!("decision log: layout {layout} is gone"))?;
        *found.entry(definitions.clone()).or_default().entry(decision.clone()).or_default() += n;
        layouts.insert(layout, (definitions, decision));
    }
    Ok(found)
}

/// Runs the log through a fresh pipeline and compares all decisions made under the plan's definitions.
pub fn audit_all(data: &Data, plan: &Arc<Plan>, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<AuditReport> {
    let mut report = AuditReport { definitions: 1, ..AuditReport::default() };
    let mut recorded = RecordedDecisions::new(data, plan);
    let mut taint = Taint::new(data, plan)?;
    let mut pipeline = data.empty_state(plan);
    // Decisions of which a record under these definitions has been met: from there on every one must be recorded.
    let mut began: BTreeSet<String> = BTreeSet::new();
    let end = data.events.next_offset();
    let swaps = data.swaps(data.history.start()?, end)?;
    let mut in_force = swaps.first().map(|swap| swap.from.clone());
    let mut rest = swaps.iter().peekable();
    // Behind the last stretch under these definitions there is nothing to compare.
    let until = match swaps.last() {
        Some(last) if last.to != plan.hash => swaps.iter().filter(|s| s.from == plan.hash).map(|s| s.offset).max().unwrap_or(0),
        _ => end,
    };
    data.walk(plan, data.first_offset, until, |offset, record| {
        while let Some(swap) = rest.next_if(|s| s.offset <= offset) {
            in_force = Some(swap.to.clone());
        }
        match record {
            Record::Event(event) => {
                report.events += 1;
                if let Some(taint) = &mut taint {
                    taint.event(&event);
                }
                let outcome = pipeline.process(&event);
                let (mut expected, elsewhere) = recorded.at(offset)?;
                report.other_definitions += elsewhere.len() as u64;
                if in_force.as_ref().is_some_and(|hash| *hash != plan.hash) {
                    return Ok(());
                }
                began.extend(expected.keys().cloned());
                for decision in outcome.decisions {
                    let name = &plan.decisions[decision.decision].name;
                    // Made under other definitions, or (in a log that does not say which were in force) before this decision was defined.
                    let known = in_force.is_some() || began.contains(name) || expected.contains_key(name);
                    if elsewhere.contains(name) || !known {
                        continue;
                    }
                    report.checked += 1;
                    match expected.remove(name) {
                        Some(old) => {
                            if let Some(difference) = old.decision.difference(&decision, &old.layout) {
                                let erased = taint.as_ref().is_some_and(|t| t.explains(&old, Some(&decision)));
                                report.difference(name, offset, difference, erased);
                            }
                        }
                        None => report.difference(name, offset, "the replay decides where the record has nothing".into(), false),
                    }
                }
                for (name, old) in expected {
                    report.checked += 1;
                    let erased = taint.as_ref().is_some_and(|t| t.explains(&old, None));
                    report.difference(&name, offset, "the record has a decision that the replay does not make".into(), erased);
                }
            }
            Record::Control(control) => data.control(&mut pipeline, offset, &control)?,
            Record::Foreign => pipeline.skip(offset),
            Record::Erased(stub) => {
                if let Some(taint) = &mut taint {
                    taint.stub(&stub);
                }
                pipeline.skip(offset);
            }
        }
        if offset % 8192 == 0 {
            progress(offset, end);
        }
        Ok(())
    })?;
    report.erased = recorded.erased;
    progress(end, end);
    Ok(report)
}

/// Replays one decision from the newest snapshot before it, or from the start of the log when `full`.
/// `plan` must be the definitions it was made under.
pub fn replay_one(data: &Data, plan: &Arc<Plan>, id: &str, full: bool) -> anyhow::Result<Replayed> {
    let recorded = recorded(data, id)?;
    let (name, offset) = (recorded.layout.decision.clone(), recorded.decision.offset);
    let mut pipeline = if full { data.empty_state(plan) } else { data.newest_state(plan, offset)? };
    let from_offset = pipeline.next_offset();
    let mut result = None;
    data.walk(plan, from_offset, offset + 1, |at, record| {
        match record {
            Record::Event(event) if at == offset => {
                let index = plan.decision(&name);
                let context = index.map(|i| context_of(plan, i, &event, &mut pipeline)).unwrap_or_default();
                let outcome = pipeline.process(&event);
                let again = outcome.decisions.into_iter().find(|d| Some(d.decision) == index);
                result = Some((event, again, context));
            }
            Record::Event(event) => {
                pipeline.process(&event);
            }
            Record::Control(control) => data.control(&mut pipeline, at, &control)?,
            Record::Foreign | Record::Erased(_) => pipeline.skip(at),
        }
        Ok(())
    })?;
    let (event, again, context) = result.ok_or_else(|| anyhow::anyhow!("the event log has no event at offset {offset}"))?;
    let difference = match &again {
        Some(again) => recorded.decision.difference(again, &recorded.layout),
        None => Some("the replay makes no decision here".into()),
    };
    let inputs_erased = difference.is_some() && erased_before(data, plan, offset, &recorded, again.as_ref())?;
    Ok(Replayed { recorded, event, again, difference, inputs_erased, from_offset, context })
}

/// Whether a difference rests on events erased before `offset`.
fn erased_before(data: &Data, plan: &Arc<Plan>, offset: Offset, recorded: &Recorded, again: Option<&Decision>) -> anyhow::Result<bool> {
    let Some(mut taint) = Taint::new(data, plan)? else { return Ok(false) };
    data.walk(plan, data.first_offset, offset, |_, record| {
        match record {
            Record::Event(event) => taint.event(&event),
            Record::Erased(stub) => taint.stub(&stub),
            Record::Control(_) | Record::Foreign => {}
        }
        Ok(())
    })?;
    Ok(taint.explains(recorded, again))
}

/// A decision of the log by its id.
pub fn recorded(data: &Data, id: &str) -> anyhow::Result<Recorded> {
    let (name, offset) = parse_decision_id(id).ok_or_else(|| {
        anyhow::anyhow!("`{id}` is no decision id\n  hint: ids look like `loan-12345`: a decision's name and the offset of its event")
    })?;
    if let Some(stub) = data.erased_event(offset)? {
        anyhow::bail!("the event of decision `{id}` was erased ({:016x}), and with it the decision's inputs and reasons", stub.erasure);
    }
    find_decision(data, name, offset)?
        .ok_or_else(|| anyhow::anyhow!("the decision log has no decision `{id}`\n  hint: `kilter decisions` lists the newest ones"))
}

fn context_of(plan: &Plan, decision: usize, event: &Event, pipeline: &mut Pipeline) -> Vec<(String, Value)> {
    let context = &plan.decisions[decision].context;
    let mut named: Vec<(String, Value)> = plan.sources[context.source.0 as usize]
        .schema
        .names()
        .zip(&event.row)
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    for lookup in &context.lookups {
        let view = &plan.views[lookup.view];
        let Some(key) = kilter_core::EntityKey::from_row(&event.row, &lookup.key) else { continue };
        let values = pipeline.features(lookup.view, &key, event.time);
        named.extend(view.features().iter().map(|f| format!("{}.{}", view.name(), f.name)).zip(values));
    }
    named
}

impl AuditReport {
    fn difference(&mut self, decision: &str, offset: Offset, difference: String, inputs_erased: bool) {
        let (count, details) = match inputs_erased {
            true => (&mut self.inputs_erased, &mut self.inputs_erased_details),
            false => (&mut self.mismatches, &mut self.details),
        };
        *count += 1;
        if details.len() < LISTED {
            details.push((decision_id(decision, offset), difference));
        }
    }
}

/// The decision log, read in step with the event log.
struct RecordedDecisions<'a> {
    data: &'a Data,
    plan: &'a Plan,
    reader: kilter_store::log::LogReader,
    layouts: Layouts,
    ahead: Option<Recorded>,
    /// Decisions passed that were erased.
    erased: u64,
}

impl<'a> RecordedDecisions<'a> {
    fn new(data: &'a Data, plan: &'a Plan) -> RecordedDecisions<'a> {
        let reader = data.decisions.reader(data.decisions.start_offset());
        RecordedDecisions { data, plan, reader, layouts: Layouts::default(), ahead: None, erased: 0 }
    }

    /// The decisions recorded on the event at `offset`, by name, and the names of those made under other definitions.
    fn at(&mut self, offset: Offset) -> anyhow::Result<(BTreeMap<String, Recorded>, BTreeSet<String>)> {
        let mut found = BTreeMap::new();
        let mut elsewhere = BTreeSet::new();
        loop {
            if self.ahead.is_none() {
                self.ahead = self.read()?;
            }
            let Some(next) = self.ahead.take_if(|r| r.decision.offset <= offset) else { return Ok((found, elsewhere)) };
            if next.layout.definitions != self.plan.hash {
                elsewhere.insert(next.layout.decision.clone());
            } else {
                found.insert(next.layout.decision.clone(), next);
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<Option<Recorded>> {
        loop {
            let Some((_, bytes)) = self.reader.next_record()? else { return Ok(None) };
            let entry: Entry = decode(bytes)?;
            self.erased += u64::from(matches!(entry, Entry::Erased(..)));
            if let Some(recorded) = self.layouts.recorded(self.data, entry)? {
                return Ok(Some(recorded));
            }
        }
    }
}
