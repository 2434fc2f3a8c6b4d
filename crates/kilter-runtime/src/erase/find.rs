//! Which records belong to an entity. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use kilter_core::record::{Header, header};
use kilter_core::{DataType, EventTime, Offset, nearest};
use kilter_pipeline::Plan;
use kilter_pipeline::decision::{Entry, decode};
use kilter_store::dead_letter::DeadLetter;

use super::marks::{Lookout, Mark, salted};
use super::proof::{Piece, Proof, TouchedModel};
use super::{Journal, Key, Request};
use crate::catalog::Catalog;
use crate::data::Data;
use crate::project::Project;
use crate::status::lock;

/// Everything the erasure would do. For a thread that is not one of the async runtime's.
pub fn find(data: &Data, project: &Project, request: &Request, now: EventTime) -> anyhow::Result<Journal> {
    let mut salt = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").context("no randomness for the salt")?, &mut salt)?;
    let number = u64::from_le_bytes(*blake3::hash(&salt).as_bytes().first_chunk().unwrap_or(&[0; 8]));
    let mut proof = Proof::new(number, &salt);
    proof.reason = request.reason.clone();
    proof.sources = request.sources.clone();
    proof.log_end = data.events.next_offset();
    proof.letters_end = data.dead_letters.log().next_offset();
    let catalog = lock(&data.catalog);
    proof.marks = marks_of(&catalog, project, request, &salt)?;
    let names: Vec<String> = request.keys.iter().map(|k| format!("{}={}", k.column, k.value)).collect();
    proof.entity = salted(&salt, names.join("\n").as_bytes());

    let mut erased = Found { data, catalog: &catalog, salt, at: BTreeMap::new() };
    erased.walk(&proof.marks)?;
    let linked = erased.linked(links(project, request), &mut proof.counts.shared_keys)?;
    let named = erased.at.len();
    erased.walk(&linked)?;
    proof.counts.linked_events = (erased.at.len() - named) as u64;
    proof.marks.extend(linked);
    for one in erased.at.values() {
        *proof.counts.by_source.entry(one.source.clone()).or_default() += 1;
    }
    proof.decisions = decisions_on(data, &salt, |offset| erased.at.contains_key(&offset))?;
    proof.dead_letters = letters_of(data, &Lookout::new(&catalog, salt, &proof.marks), &salt, |offset| erased.at.contains_key(&offset))?;
    proof.models = touched_models(data, project, &erased)?;
    proof.not_reached = not_reached(data, project, request, &proof);
    proof.events = erased.at.into_iter().map(|(offset, one)| Piece { offset, before: one.before, after: None }).collect();
    proof.counts.events = proof.events.len() as u64;
    proof.counts.decisions = proof.decisions.len() as u64;
    proof.counts.dead_letters = proof.dead_letters.len() as u64;
    let keep_ids_since = if request.forget_ids { BTreeMap::new() } else { ids_to_keep(&catalog, project, now) };
    Ok(Journal { proof, path: None, keep_ids_since })
}

/// The marks that the request itself names, and what is wrong with it.
fn marks_of(catalog: &Catalog, project: &Project, request: &Request, salt: &[u8; 32]) -> anyhow::Result<Vec<Mark>> {
    anyhow::ensure!(!request.keys.is_empty(), "no entity\n  hint: --entity COLUMN=VALUE, such as --entity customer=42");
    let declared = project.plan.sources.iter().map(|s| (s.name.as_str(), &s.schema));
    let schemas: Vec<_> = catalog.schemas().chain(declared).collect();
    let sources: BTreeSet<&str> = schemas.iter().map(|(source, _)| *source).collect();
    for source in &request.sources {
        anyhow::ensure!(sources.contains(source.as_str()), "there is no source `{source}`{}", hint(source, &sources));
    }
    let wanted = |source: &str| request.sources.is_empty() || request.sources.iter().any(|s| s == source);
    let columns: BTreeSet<&str> = schemas.iter().filter(|(s, _)| wanted(s)).flat_map(|(_, schema)| schema.names()).collect();
    let mut marks = Vec::new();
    for Key { column, value } in &request.keys {
        // A value that one source's column cannot hold may be one of another source's.
        let (mut fits, mut problem) = (false, None);
        let where_from = || request.sources.first().map_or("no source has".into(), |s| format!("source `{s}` does not have"));
        anyhow::ensure!(columns.contains(column.as_str()), "{} a column `{column}`{}", where_from(), hint(column, &columns));
        for source in sources.iter().filter(|s| wanted(s)) {
            let types = schemas.iter().filter(|(s, _)| s == source).filter_map(|(_, schema)| {
                let at = schema.index(column)?;
                Some(schema.fields[at].data_type)
            });
            // As it stands, for undeclared fields and texts; and as each type writes it.
            let mut values = BTreeSet::from([salted(salt, value.as_bytes())]);
            for data_type in types {
                match written(value, data_type) {
                    Ok(text) => {
                        fits = true;
                        values.insert(salted(salt, text.as_bytes()));
                    }
                    Err(why) => problem = Some(format!("column `{column}` of source `{source}` holds {data_type}: {why}")),
                }
            }
            marks.push(Mark { source: source.to_string(), columns: vec![column.clone()], without: Vec::new(), linked: false, values });
        }
        if let Some(problem) = problem.filter(|_| !fits) {
            anyhow::bail!("{problem}");
        }
    }
    Ok(marks)
}

/// A value as a column of this type would write it.
fn written(value: &str, data_type: DataType) -> Result<String, String> {
    match data_type {
        DataType::Int64 => value.parse::<i64>().map(|i| i.to_string()).map_err(|_| format!("`{value}` is none")),
        DataType::Bool => value.parse::<bool>().map(|b| b.to_string()).map_err(|_| format!("`{value}` is none")),
        DataType::String => Ok(value.to_string()),
        _ => Err("such values name no entity".into()),
    }
}

fn hint(name: &str, known: &BTreeSet<&str>) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("\n  hint: did you mean `{near}`?"),
        None => format!("\n  hint: there are: {}", kilter_core::list(known.iter().copied())),
    }
}

/// Records that belong to the entity's records without naming it: where the key of the one stands, and where that of the other.
struct Link {
    /// The entity's own records, with the values collected.
    origin: Mark,
    /// The columns of the entity in the origin's source, when origin and target are the same source: a record without them is a target.
    entity: Vec<String>,
    target: Mark,
}

/// Labels of the entity's observations, and changes of its rows that only name the row.
fn links(project: &Project, request: &Request) -> Vec<Link> {
    let plan = &project.plan;
    let entity: Vec<String> = request.keys.iter().map(|k| k.column.clone()).collect();
    let mark = |source: usize, columns: &[usize], without: &[String]| {
        let source = &plan.sources[source];
        let names = columns.iter().map(|c| source.schema.fields[*c].name.clone());
        Mark { source: source.name.clone(), columns: names.collect(), without: without.to_vec(), linked: true, values: BTreeSet::new() }
    };
    let labels = plan.models.iter().filter_map(|model| {
        let label = model.label.as_ref()?;
        let (from, to) = (usize::from(model.context.source.0), usize::from(label.source.0));
        let link = Link { origin: mark(from, &label.observation_key, &[]), entity: Vec::new(), target: mark(to, &label.label_key, &[]) };
        // Labels in the observations' own source that name the entity are found by that.
        (from != to).then_some(link)
    });
    let rows = plan.sources.iter().enumerate().filter(|(_, s)| !s.key.is_empty()).map(|(at, s)| Link {
        origin: mark(at, &s.key, &[]),
        entity: entity.clone(),
        target: mark(at, &s.key, &entity),
    });
    let mut all: Vec<Link> = Vec::new();
    for link in labels.chain(rows) {
        if !all.iter().any(|l| l.origin == link.origin && l.target == link.target) {
            all.push(link);
        }
    }
    all
}

/// Events found so far, by offset.
struct Found<'a> {
    data: &'a Data,
    catalog: &'a Catalog,
    salt: [u8; 32],
    at: BTreeMap<Offset, One>,
}

struct One {
    source: String,
    time: EventTime,
    before: String,
}

impl Found<'_> {
    /// Tells of every event of the log, and whether it is found already.
    fn each(&self, mut visit: impl FnMut(Offset, bool, &Header<'_>, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut reader = self.data.history.all()?;
        while let Some((offset, bytes)) = reader.next_record()? {
            let within = || format!("event log, offset {offset}");
            if let Some(header) = header(bytes).with_context(within)? {
                visit(offset, self.at.contains_key(&offset), &header, bytes).with_context(within)?;
            }
        }
        Ok(())
    }

    /// Adds the events with one of these marks.
    fn walk(&mut self, marks: &[Mark]) -> anyhow::Result<()> {
        let mut found = BTreeMap::new();
        if marks.is_empty() {
            return Ok(());
        }
        let lookout = Lookout::new(self.catalog, self.salt, marks);
        self.each(|offset, known, header, bytes| {
            if !known && let Some(mark) = lookout.event(header)? {
                let source = marks[mark].source.clone();
                found.insert(offset, One { source, time: header.time, before: salted(&self.salt, bytes) });
            }
            Ok(())
        })?;
        self.at.extend(found);
        Ok(())
    }

    /// The marks of linked records. A key that a record of someone else has too stays: what it tells belongs to both.
    fn linked(&self, mut links: Vec<Link>, shared: &mut u64) -> anyhow::Result<Vec<Mark>> {
        // To have the columns of the entity read as well.
        let asked: Vec<Mark> = links.iter().map(|l| Mark { without: l.entity.clone(), ..l.origin.clone() }).collect();
        let lookout = Lookout::new(self.catalog, self.salt, &asked);
        let each_key = |of_found: bool, visit: &mut dyn FnMut(usize, String)| {
            self.each(|_, known, header, _| {
                if known == of_found
                    && let Some(fields) = lookout.fields(header)?
                {
                    for link in fields.marks() {
                        let is_target = !asked[link].without.is_empty() && asked[link].without.iter().all(|c| fields.text(c).is_none());
                        if let Some(key) = fields.joined(&asked[link].columns).filter(|_| !is_target) {
                            visit(link, salted(&self.salt, key.as_bytes()));
                        }
                    }
                }
                Ok(())
            })
        };
        if links.is_empty() {
            return Ok(Vec::new());
        }
        each_key(true, &mut |link, key| {
            links[link].target.values.insert(key);
        })?;
        each_key(false, &mut |link, key| *shared += u64::from(links[link].target.values.remove(&key)))?;
        Ok(links.into_iter().map(|l| l.target).filter(|t| !t.values.is_empty()).collect())
    }
}

/// Decisions on erased events.
fn decisions_on(data: &Data, salt: &[u8; 32], erased: impl Fn(Offset) -> bool) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut reader = data.decisions.reader(data.decisions.start_offset());
    while let Some((offset, bytes)) = reader.next_record()? {
        if let Entry::Decision(_, decision) = decode(bytes)?
            && erased(decision.offset)
        {
            pieces.push(Piece { offset, before: salted(salt, bytes), after: None });
        }
    }
    Ok(pieces)
}

/// Dead letters of erased events, and those that speak of the entity.
fn letters_of(data: &Data, lookout: &Lookout<'_>, salt: &[u8; 32], erased: impl Fn(Offset) -> bool) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let log = data.dead_letters.log();
    let mut reader = log.reader(log.start_offset());
    while let Some((offset, bytes)) = reader.next_record()? {
        let letter: DeadLetter = serde_json::from_slice(bytes).with_context(|| format!("dead letter {offset}"))?;
        if letter.payload.is_some() && (letter.log_offset.is_some_and(&erased) || lookout.letter(&letter)) {
            pieces.push(Piece { offset, before: salted(salt, bytes), after: None });
        }
    }
    Ok(pieces)
}

/// Whether the observations of a model, its label or anything that is read for it comes from a source.
fn learns_from(plan: &Plan, model: usize, source: &str) -> bool {
    let model = &plan.models[model];
    let views = plan.with_needs(model.context.lookups.iter().map(|l| l.view)).into_iter().map(|view| plan.views[view].source());
    let label = model.label.as_ref().map(|l| l.source);
    views.chain(label).chain([model.context.source]).any(|s| plan.sources[usize::from(s.0)].name == source)
}

/// Model versions whose training may have seen an erased event.
fn touched_models(data: &Data, project: &Project, erased: &Found<'_>) -> anyhow::Result<Vec<TouchedModel>> {
    let Some(first) = erased.at.values().map(|one| one.time).min() else { return Ok(Vec::new()) };
    let first_offset = erased.at.keys().next().copied().unwrap_or_default();
    let mut touched = Vec::new();
    let known = data.wait(data.metadata.models())?;
    for model in known {
        let versions = data.wait(data.metadata.versions(&model.model))?;
        // Of a model that is still defined it is known which sources it learns from.
        let defined = project.plan.model(&model.model);
        let reads = |source: &str| defined.is_none_or(|model| learns_from(&project.plan, model, source));
        if !erased.at.values().any(|one| reads(&one.source)) {
            continue;
        }
        for version in versions {
            let run = match &version.spec.run_id {
                Some(run) => data.wait(data.metadata.get_run(run))?,
                None => None,
            };
            let until = run.and_then(|run| run.params.get("until_offset")?.parse::<Offset>().ok());
            let before_first = until.is_some_and(|until| until <= first_offset) || version.spec.trained_to.is_some_and(|to| to <= first.0);
            if !before_first {
                let aliases = model.aliases.iter().filter(|(_, v)| **v == version.version).map(|(alias, _)| alias.clone()).collect();
                let shown = |micros: Option<i64>| micros.map(|t| EventTime(t).to_string());
                touched.push(TouchedModel {
                    model: model.model.clone(),
                    version: version.version,
                    trained_from: shown(version.spec.trained_from),
                    trained_to: shown(version.spec.trained_to),
                    aliases,
                });
            }
        }
    }
    Ok(touched)
}

/// What an erasure cannot reach, as far as this project knows of it.
fn not_reached(data: &Data, project: &Project, request: &Request, proof: &Proof) -> Vec<String> {
    let mut list = vec![
        "backups and copies of the data folder".to_string(),
        "tables that `kilter training-set` wrote elsewhere: no record is kept of them".to_string(),
    ];
    for source in crate::files::file_sources(project) {
        let path = project.source_file(source).unwrap_or_default();
        list.push(format!("the file {} of source `{}`", path.display(), project.plan.sources[usize::from(source.0)].name));
    }
    for folder in ["events", "decisions", "dead-letters"] {
        let entries = std::fs::read_dir(data.dir.join(folder)).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "damaged")) {
            list.push(format!("{}: set aside by `kilter repair`, cannot be read as records", path.display()));
        }
    }
    list.extend(other_names(project, request));
    if !proof.models.is_empty() {
        list.push("models that may have learned from the entity, listed under `models`: train them again".to_string());
    }
    list
}

/// Columns that hold the entity under another name, by the `keys` of the definitions.
fn other_names(project: &Project, request: &Request) -> BTreeSet<String> {
    let definitions = &project.definitions;
    let views = definitions.features.iter().map(|(_, def)| (&def.source, &def.keys));
    let models = definitions.model.iter().map(|(_, def)| (&def.on, &def.keys));
    // A decision with a model observes by the model's.
    let decisions = definitions.decision.iter().filter_map(|(_, def)| Some((def.on.as_ref()?, &def.keys)));
    let asked = |column: &String| request.keys.iter().any(|key| key.column == *column);
    let mut names = BTreeSet::new();
    for (source, keys) in views.chain(models).chain(decisions) {
        for (view, columns) in keys.iter() {
            let entity = definitions.features.get(view).map(|def| def.entity.as_slice()).unwrap_or_default();
            for (column, entity) in columns.iter().zip(entity).filter(|(column, entity)| asked(entity) && !asked(column)) {
                names.insert(format!(
                    "column `{column}` of source `{source}`, which holds `{entity}` by `keys`: add --entity {column}=VALUE"
                ));
            }
        }
    }
    names
}

/// From when on an event's id has to be remembered: as long as its source asks for, and of files always, whose rows are known by it.
fn ids_to_keep(catalog: &Catalog, project: &Project, now: EventTime) -> BTreeMap<u32, i64> {
    let files = crate::files::file_sources(project);
    let since = |source: &str| {
        let id = project.plan.source(source)?;
        let horizon = project.plan.sources[usize::from(id.0)].dedupe;
        Some(if files.contains(&id) { i64::MIN } else { (now - horizon).0 })
    };
    catalog.schemas().enumerate().filter_map(|(number, (source, _))| Some((number as u32, since(source)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_learns_from_what_its_views_read_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let project = super::super::tests::reading_project(dir.path());
        let learns = |source| learns_from(&project.plan, project.plan.model("regulars").unwrap(), source);
        assert_eq!(["payments", "visits", "outcomes", "notes"].map(learns), [true, true, true, false]);
        let key = |column: &str| Key { column: column.into(), value: "42".into() };
        let names = |keys| other_names(&project, &Request { keys, ..Request::default() });
        let found = names(vec![key("customer")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.iter().all(|name| name.contains("column `buyer` of source `visits`") && name.contains("--entity buyer=VALUE")));
        assert!(names(vec![key("customer"), key("buyer")]).is_empty() && names(vec![key("shop")]).is_empty());
    }
}
