//! The work of an erasure, from its journal. Every step may be repeated; the journal goes when the proof is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use kilter_core::record::header;
use kilter_core::{Clock, EventTime, Offset, Stub};
use kilter_pipeline::decision::{Entry, ErasedDecision, decode};
use kilter_store::dead_letter::{DeadLetter, DeadLetters};
use kilter_store::log::Log;
use kilter_store::metadata::Metadata;

use super::marks::salted;
use super::proof::Piece;
use super::search::{Logs, search};
use super::{JOURNAL, Journal, PROOFS};
use crate::catalog::{Catalog, Control, Erased, KeyColumns};
use crate::data::Data;
use crate::dedupe;
use crate::history::History;
use crate::jobs::backtest::BACKTEST_FILE;
use crate::jobs::curves::CURVES_FILE;
use crate::jobs::policy::COMPARISON;
use crate::lake::finish_batch;
use crate::service::SystemClock;

/// Finishes the erasure under way in the folder, if there is one; then says so. Snapshots, state and metadata must not be open.
///
/// `step` is told what comes next; its error ends the work there, as a crash would.
pub(crate) async fn finish(
    dir: &Path,
    history: &History,
    decisions: &Log,
    dead_letters: &DeadLetters,
    mut step: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Option<String>> {
    let Some(journal) = Journal::open(dir)? else { return Ok(None) };
    let number = journal.proof.erasure.clone();
    let unfinished = || format!("the erasure {number} is under way and could not be finished; nothing else is done before it is");
    carry_out(dir, history, decisions, dead_letters, journal, &mut step).await.with_context(unfinished)?;
    Ok(Some(format!("erasure {number} finished")))
}

async fn carry_out(
    dir: &Path,
    history: &History,
    decisions: &Log,
    dead_letters: &DeadLetters,
    journal: Journal,
    step: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = journal.place(dir);
    let Journal { mut proof, path: elsewhere, keep_ids_since } = journal;
    let (number, salt) = (proof.number()?, proof.salt()?);

    let events = history.log();
    if let Some(lake) = history.lake()? {
        step("lake")?;
        // A batch under way would bring back what is erased here.
        finish_batch(history, dir)?;
        lake.erase(number, &offsets(&proof.events), |bytes| event_stub(bytes, number, &keep_ids_since))?;
    }
    step("events")?;
    events.rewrite(&offsets(&proof.events), |_, bytes| event_stub(bytes, number, &keep_ids_since))?;
    step("decisions")?;
    decisions.rewrite(&offsets(&proof.decisions), |_, bytes| decision_stub(bytes, number))?;
    step("dead letters")?;
    dead_letters.log().rewrite(&offsets(&proof.dead_letters), |_, bytes| letter_stub(bytes, &proof.erasure))?;

    // What was computed of the old log.
    step("snapshots")?;
    proof.counts.snapshots += remove_files(&dir.join("snapshots"))?;
    step("state")?;
    let state = dir.join("state");
    proof.counts.state_files += files_in(&state)?;
    kilter_store::state::remove(&state)?;
    // Columns of decisions, which questions in SQL left.
    step("columns")?;
    proof.counts.state_files += remove_files(&dir.join("columns"))?;
    // And what a statement that was broken off had put aside.
    if dir.join("sql-spill").exists() {
        fs::remove_dir_all(dir.join("sql-spill"))?;
    }

    step("control record")?;
    if !has_record(events, proof.log_end, number)? {
        let mut columns: Vec<KeyColumns> =
            proof.marks.iter().map(|m| KeyColumns { source: m.source.clone(), columns: m.columns.clone() }).collect();
        columns.sort();
        columns.dedup();
        let at = EventTime::parse(&proof.at).context("the journal's time is damaged")?;
        let control = Control::Erased(Erased { erasure: number, at, entity: proof.entity.clone(), columns, events: proof.counts.events });
        let mut bytes = Vec::new();
        control.encode(&mut bytes);
        events.append(&[bytes])?;
    }
    events.sync()?;

    step("metadata")?;
    let metadata = Metadata::open(dir.join("kilter.db")).await?;
    // Counts of what monitors saw, in which the entity's decisions are; what follows from the log is there again after the next start.
    proof.counts.readings += metadata.forget_readings_but(&[]).await?;
    if let Some(first) = proof.events.iter().map(|piece| piece.offset).min() {
        proof.counts.evaluations += remove_seen(dir, &metadata, first).await?;
    }
    metadata.vacuum().await?;
    metadata.close().await;

    step("check")?;
    let catalog = Catalog::open(dir, events.next_offset() == 0)?;
    let logs = Logs { events: history, decisions, dead_letters, catalog: &catalog };
    for piece in &mut proof.events {
        piece.after = history.record(piece.offset)?.map(|bytes| salted(&salt, &bytes));
    }
    for (log, pieces) in [(decisions, &mut proof.decisions), (dead_letters.log(), &mut proof.dead_letters)] {
        for piece in pieces {
            // A dead letter may have made room for newer ones meanwhile.
            piece.after = log.read(piece.offset).ok().flatten().map(|bytes| salted(&salt, &bytes));
        }
    }
    let check = search(&logs, &proof)?;
    let clean = check.is_clean();
    proof.check = Some(check);
    proof.finished = Some(SystemClock.now().to_string());

    step("proof")?;
    if elsewhere.is_none() {
        fs::create_dir_all(dir.join(PROOFS))?;
    }
    write_whole(&path, &serde_json::to_vec_pretty(&proof)?).with_context(|| format!("writing the proof {}", path.display()))?;
    step("end")?;
    fs::remove_file(dir.join(JOURNAL))?;
    File::open(dir)?.sync_all()?;
    anyhow::ensure!(clean, "records of the entity are left; the proof {} says where", path.display());
    Ok(())
}

/// Files of runs that tell of single rows, or of so few that they might.
const OF_ROWS: [&str; 3] = [CURVES_FILE, COMPARISON, BACKTEST_FILE];

/// Removes what runs that may have seen events from an offset on tell of rows, held-out ones among them; answers how many files.
async fn remove_seen(dir: &Path, metadata: &Metadata, first: Offset) -> anyhow::Result<u64> {
    let artifacts = Data::artifacts_in(dir)?;
    let mut removed = 0;
    for file in OF_ROWS {
        for id in artifacts.runs_with(file)? {
            let run = metadata.get_run(&id).await?;
            // Of several shards it is not said here up to where it saw this one.
            let until =
                run.filter(|run| !run.params.contains_key("until_offsets")).and_then(|run| run.params.get("until_offset")?.parse().ok());
            if until.is_none_or(|until: Offset| until > first) {
                artifacts.remove_named(&id, file)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn offsets(pieces: &[Piece]) -> Vec<u64> {
    pieces.iter().map(|p| p.offset).collect()
}

/// What is left of an event; none: it is a stub already.
fn event_stub(bytes: &[u8], erasure: u64, keep_ids_since: &BTreeMap<u32, i64>) -> Option<Vec<u8>> {
    let header = header(bytes).ok().flatten()?;
    let keep = keep_ids_since.get(&header.schema).is_some_and(|since| header.arrived.0 >= *since);
    let id = header.id.filter(|_| keep).map(dedupe::hash);
    let mut out = Vec::new();
    Stub { erasure, schema: header.schema, time: header.time, arrived: header.arrived, origin: header.origin, id }.encode(&mut out);
    Some(out)
}

fn decision_stub(bytes: &[u8], erasure: u64) -> Option<Vec<u8>> {
    let Ok(Entry::Decision(layout, made)) = decode(bytes) else { return None };
    let mut out = Vec::new();
    ErasedDecision { decision: made.decision, offset: made.offset, time: made.time, erasure }.encode(layout, &mut out);
    Some(out)
}

/// The letter without what it told: code, source, time and place stay.
fn letter_stub(bytes: &[u8], erasure: &str) -> Option<Vec<u8>> {
    let letter: DeadLetter = serde_json::from_slice(bytes).ok()?;
    letter.payload.as_ref()?;
    let left = DeadLetter {
        detail: format!("erased ({erasure})"),
        hint: None,
        payload: None,
        payload_base64: false,
        payload_cut: false,
        ..letter
    };
    serde_json::to_vec(&left).ok()
}

/// Whether the control record of this erasure is in the log.
fn has_record(events: &Log, from: u64, number: u64) -> anyhow::Result<bool> {
    let mut reader = events.reader(from);
    while let Some((_, bytes)) = reader.next_record()? {
        if let Some(Control::Erased(erased)) = Control::decode(bytes)?
            && erased.erasure == number
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_files(folder: &Path) -> anyhow::Result<u64> {
    let mut removed = 0;
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            fs::remove_file(entry?.path())?;
            removed += 1;
        }
        File::open(folder)?.sync_all()?;
    }
    Ok(removed)
}

/// Files in a folder and below it.
fn files_in(folder: &Path) -> anyhow::Result<u64> {
    let mut files = 0;
    super::search::each_file(folder, &mut |_| {
        files += 1;
        Ok(())
    })?;
    Ok(files)
}

/// A file that is there wholly or not at all, also after a power loss.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()?;
    Ok(())
}
