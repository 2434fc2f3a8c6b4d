//! Looks for an erased entity again: record by record with the marks of the proof, and byte by byte for its key.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use kilter_core::record::header;
use kilter_core::{Clock, Stub};
use kilter_pipeline::decision::{Entry, decode};
use kilter_store::dead_letter::{DeadLetter, DeadLetters};
use kilter_store::log::Log;

use super::Key;
use super::marks::{Lookout, salted};
use super::proof::{Check, Proof};
use crate::catalog::{Catalog, Control};
use crate::data::Data;
use crate::history::History;
use crate::service::SystemClock;
use crate::status::lock;

/// A shorter key is not searched for as text: it would be found everywhere.
pub const FEWEST_BYTES: usize = 5;
const CHUNK: usize = 1 << 20;

/// What is searched.
pub(super) struct Logs<'a> {
    pub events: &'a History,
    pub decisions: &'a Log,
    pub dead_letters: &'a DeadLetters,
    pub catalog: &'a Catalog,
}

/// Searches a project again with the marks of a proof; with the entity's `keys` also every byte of its data folder.
pub fn verify(data: &Data, proof: &Proof, keys: &[Key]) -> anyhow::Result<Check> {
    if !keys.is_empty() {
        let names: Vec<String> = keys.iter().map(|k| format!("{}={}", k.column, k.value)).collect();
        anyhow::ensure!(
            salted(&proof.salt()?, names.join("\n").as_bytes()) == proof.entity,
            "the proof is about another entity than {}\n  hint: give exactly the --entity of the erasure, or none",
            names.join(", ")
        );
    }
    let catalog = lock(&data.catalog);
    let logs = Logs { events: &data.history, decisions: &data.decisions, dead_letters: &data.dead_letters, catalog: &catalog };
    let mut check = search(&logs, proof)?;
    if let Some(files) = bytes_of(&data.dir, proof, keys)? {
        (check.bytes_searched, check.files) = (true, files);
    }
    Ok(check)
}

/// The files that hold one of the keys as text; none: nothing can be said by that, for the keys are short or other sources keep theirs.
pub(super) fn bytes_of(dir: &Path, proof: &Proof, keys: &[Key]) -> anyhow::Result<Option<Vec<String>>> {
    let texts: Vec<&str> = keys.iter().map(|k| k.value.as_str()).filter(|v| v.len() >= FEWEST_BYTES).collect();
    let tells = !texts.is_empty() && proof.sources.is_empty();
    tells.then(|| files_with(dir, &texts)).transpose()
}

/// Searches the logs.
pub(super) fn search(logs: &Logs<'_>, proof: &Proof) -> anyhow::Result<Check> {
    let (number, salt) = (proof.number()?, proof.salt()?);
    let lookout = Lookout::new(logs.catalog, salt, &proof.marks);
    let erased: HashSet<u64> = proof.events.iter().map(|p| p.offset).collect();
    let mut check = Check { at: SystemClock.now().to_string(), ..Check::default() };
    let mut recorded = false;

    let mut reader = logs.events.all()?;
    while let Some((offset, bytes)) = reader.next_record()? {
        let within = || format!("event log, offset {offset}");
        check.events_searched += 1;
        if let Some(Control::Erased(control)) = Control::decode(bytes).with_context(within)? {
            recorded |= control.erasure == number;
        }
        if let Some(header) = header(bytes).with_context(within)?
            && lookout.event(&header).with_context(within)?.is_some()
        {
            match offset < proof.log_end {
                true => check.found_events += 1,
                false => check.newer_events += 1,
            }
        }
        if erased.contains(&offset) && Stub::decode(bytes).with_context(within)?.is_none() {
            check.not_stubs += 1;
        }
    }
    anyhow::ensure!(
        recorded,
        "the event log has no record of the erasure {}\n  hint: the proof belongs to another project, or the log was restored from a backup made \
         before the erasure: erase again",
        proof.erasure
    );

    let mut reader = logs.decisions.reader(logs.decisions.start_offset());
    while let Some((offset, bytes)) = reader.next_record()? {
        check.decisions_searched += 1;
        match decode(bytes).with_context(|| format!("decision log, offset {offset}"))? {
            Entry::Decision(_, decision) if erased.contains(&decision.offset) => check.found_decisions += 1,
            _ => {}
        }
    }

    let letters = logs.dead_letters.log();
    let mut reader = letters.reader(letters.start_offset());
    while let Some((offset, bytes)) = reader.next_record()? {
        check.dead_letters_searched += 1;
        let letter: DeadLetter = serde_json::from_slice(bytes).with_context(|| format!("dead letter {offset}"))?;
        let of_erased = letter.payload.is_some() && letter.log_offset.is_some_and(|o| erased.contains(&o));
        if of_erased || lookout.letter(&letter) {
            match offset < proof.letters_end {
                true => check.found_dead_letters += 1,
                false => check.newer_dead_letters += 1,
            }
        }
    }
    Ok(check)
}

/// Files of a folder and below it that hold one of these texts anywhere, by their names within the folder.
pub fn files_with(folder: &Path, texts: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    each_file(folder, &mut |path| {
        if holds(path, texts).with_context(|| format!("searching {}", path.display()))? {
            found.push(path.strip_prefix(folder).unwrap_or(path).display().to_string());
        }
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

fn holds(path: &Path, texts: &[&str]) -> std::io::Result<bool> {
    let overlap = texts.iter().map(|t| t.len()).max().unwrap_or(1) - 1;
    let mut file = File::open(path)?;
    let mut buffer = Vec::with_capacity(CHUNK + overlap);
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        if texts.iter().any(|text| memmem(&buffer, text.as_bytes())) {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        buffer.drain(..buffer.len().saturating_sub(overlap));
    }
}

fn memmem(bytes: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| b == first) {
        if bytes[from + at + 1..].starts_with(rest) {
            return true;
        }
        from += at + 1;
    }
    false
}

/// Every file in a folder and below it; none when it is not there.
pub(super) fn each_file(folder: &Path, visit: &mut dyn FnMut(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => each_file(&entry.path(), visit)?,
            false => visit(&entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_lies_even_across_two_reads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        for (at, name) in [(0, "a"), (CHUNK - 3, "b"), (CHUNK - 1, "below/c"), (2 * CHUNK, "d")] {
            let mut bytes = vec![b'm'; at];
            bytes.extend_from_slice(b"marker");
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        std::fs::write(dir.path().join("e"), "mmarke r").unwrap();
        assert_eq!(files_with(dir.path(), &["marker"]).unwrap(), ["a", "b", "below/c", "d"]);
        assert_eq!(files_with(dir.path(), &["no such", "marke r"]).unwrap(), ["e"]);
    }
}
