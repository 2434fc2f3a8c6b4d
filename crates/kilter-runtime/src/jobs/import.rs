//! Takes a model trained elsewhere into the registry, as a version of one of the project's models.
//!
//! A file decides only if what it was trained on is what the definitions name: the same inputs, under the same names, in the same order.
//! Everything after that (who is in service, reasons, replay) is as for a version trained here. What the log knows is added: what inputs and
//! scores look like over the model's window, for monitors, and how the model does on the newest rows with a known label.

use std::collections::BTreeMap;
use std::sync::Arc;

use kilter_core::{Clock, EventTime, Span};
use kilter_learn::{Model, Task, exchange};
use kilter_pipeline::{Figures, Plan, Range, judge, training};
use kilter_store::metadata::{AliasChange, CHALLENGER, MetricPoint, NewModelVersion, NewRun, RunKind, RunStatus};
use sha2::{Digest, Sha256};

use crate::data::Data;
use crate::jobs::train::{evaluation_metrics, observe};
use crate::meaning::meaning;
use crate::sequencer::{Present, Refusal};
use crate::service::{Service, ServiceError};

/// Names listed in one message.
const NAMES_LISTED: usize = 12;

/// A model file, and what is to become of it.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    pub model: usize,
    /// What the file is called where it comes from, for the record.
    pub file: String,
    pub bytes: Vec<u8>,
    /// Take the file's inputs in the order of the definitions, whatever they are called there.
    pub by_position: bool,
    /// Put the version into service.
    pub promote: bool,
    /// What asked for it: `cli`, `api`.
    pub trigger: String,
}

/// What came of an import.
#[derive(Clone, Debug)]
pub struct ImportReport {
    pub run: String,
    pub model: String,
    pub version: u32,
    pub promote: bool,
    /// Why, or why not.
    pub verdict: String,
    pub origin: Provenance,
    /// Observations of the model's window that monitors compare with.
    pub reference_rows: usize,
    /// On the newest rows whose label is known, those a training would hold out. The file may have learned from them.
    pub recent: Option<Figures>,
    /// The version in service on the same rows.
    pub champion: Option<Figures>,
}

/// Where a file comes from, as far as it tells.
#[derive(Clone, Debug)]
pub struct Provenance {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// `kilter`, or the format of another program.
    pub format: &'static str,
    /// The kind of model, which is the program's name for one of another program.
    pub kind: &'static str,
    /// Version of the program or of its format, as the file has it.
    pub version: Option<String>,
    pub objective: Option<String>,
    /// What whoever uses the model should know.
    pub notes: Vec<String>,
}

/// Why a file cannot be a version of the model.
#[derive(Debug)]
struct Unusable(String);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl Service {
    /// Registers a model file as the next version of a model; one import or training per model at a time.
    pub async fn import(self: &Arc<Self>, request: ImportRequest) -> Result<ImportReport, ServiceError> {
        let model = request.model;
        let _claim = self.claim(model)?;
        let present: Present =
            self.send(|reply| crate::sequencer::Command::Present { model, reply }).await?.await.map_err(|_| Refusal::Stopping)?;
        let (service, trigger) = (Arc::clone(self), request.trigger.clone());
        let report = tokio::task::spawn_blocking(move || import(&service.data, &service.plan, &request, service.clock(), present))
            .await
            .map_err(|e| ServiceError::Failed(format!("the import ended badly: {e}")))?
            .map_err(|e| match e.downcast_ref::<Unusable>() {
                Some(reason) => ServiceError::Model(reason.to_string()),
                None => e.into(),
            })?;
        if report.promote {
            self.promote(model, report.version, &report.verdict, &trigger).await?;
        }
        Ok(report)
    }

    /// The file of a version: Kilter's own, or as another program reads it.
    pub fn model_file(&self, model: usize, version: u32, format: Option<exchange::Format>) -> Result<Vec<u8>, ServiceError> {
        let name = &self.plan.models[model].name;
        let known = self.data.wait(self.data.metadata.get_version(name, version)).map_err(anyhow::Error::from)?;
        let known = known.ok_or_else(|| ServiceError::NotFound { what: "version", name: format!("{name}@{version}"), hint: None })?;
        let bytes = self.data.artifact(&known.spec.artifact)?;
        match format {
            None => Ok(bytes),
            Some(format) => exchange::export(&bytes, format).map_err(|e| ServiceError::Model(e.to_string())),
        }
    }
}

fn import(data: &Data, plan: &Arc<Plan>, request: &ImportRequest, clock: &dyn Clock, present: Present) -> anyhow::Result<ImportReport> {
    let name = &plan.models[request.model].name;
    let (model, origin) = taken_in(plan, request)?;
    let run = data.wait(data.metadata.start_run(&NewRun {
        kind: RunKind::Import,
        name: format!("import {name}"),
        model: Some(name.clone()),
        started_at: clock.now().0,
        definition_hash: Some(plan.hash.clone()),
        data_fingerprint: None,
        seed: None,
    }))?;
    data.wait(data.metadata.log_params(&run, &origin.params()))?;
    data.wait(data.metadata.set_tags(&run, &BTreeMap::from([("trigger".to_string(), request.trigger.clone())])))?;
    let result = register(data, plan, request, &run, clock, model, origin, present);
    let (status, error) = match &result {
        Ok(_) => (RunStatus::Finished, None),
        Err(e) => (RunStatus::Failed, Some(format!("{e:#}"))),
    };
    data.wait(data.metadata.finish_run(&run, status, clock.now().0, error.as_deref()))?;
    result
}

#[expect(clippy::too_many_arguments, reason = "one step of `import`, cut off so that its failure ends the run")]
fn register(
    data: &Data,
    plan: &Arc<Plan>,
    request: &ImportRequest,
    run: &str,
    clock: &dyn Clock,
    model: Arc<dyn Model>,
    origin: Provenance,
    present: Present,
) -> anyhow::Result<ImportReport> {
    let own = &plan.models[request.model];
    let Seen { reference, rows, recent, champion } = look_back(data, plan, request.model, &model, &present)?;

    let bytes = model.to_bytes();
    let artifact = data.artifacts.put(&bytes)?;
    let reference = data.artifacts.put(&serde_json::to_vec(&reference)?)?;
    data.artifacts.put_named(run, &format!("original{}", origin.ending()), &request.bytes)?;
    data.artifacts.put_named(run, "model.kltm", &bytes)?;
    data.artifacts.put_named(run, "model.json", &serde_json::to_vec_pretty(&model.describe())?)?;
    let importance: BTreeMap<&String, f64> = model.inputs().iter().zip(model.importance()).collect();
    data.artifacts.put_named(run, "importance.json", &serde_json::to_vec_pretty(&importance)?)?;
    if let Some(recent) = &recent {
        data.artifacts.put_named(run, "evaluation.json", &serde_json::to_vec_pretty(recent)?)?;
    }
    // Not under the names of held-out figures: nobody here knows what the file has learned from.
    let judged = evaluation_metrics(own.figure_names(), recent.as_ref(), champion.as_ref());
    let mut metrics: BTreeMap<String, f64> = judged.into_iter().map(|(name, value)| (format!("recent.{name}"), value)).collect();
    metrics.insert("reference_rows".to_string(), rows as f64);
    let at = clock.now().0;
    let points: Vec<MetricPoint> =
        metrics.iter().map(|(key, value)| MetricPoint { key: key.clone(), value: *value, step: 0, at }).collect();
    data.wait(data.metadata.log_metrics(run, &points))?;

    let verdict =
        format!("{} from {}", if request.promote { "promoted as asked: imported" } else { "waits for a person: imported" }, origin.file);
    let version = data.wait(data.metadata.register_version(&NewModelVersion {
        model: own.name.clone(),
        run_id: Some(run.to_string()),
        created_at: at,
        artifact: artifact.as_str().to_string(),
        kind: model.kind().to_string(),
        inputs: serde_json::json!({
            "names": own.input_names(),
            "reference": reference.as_str(),
            "meaning": meaning(plan, request.model),
        }),
        trained_from: None,
        trained_to: None,
        metrics,
        definition_hash: Some(plan.hash.clone()),
        notes: verdict.clone(),
    }))?;
    let change = AliasChange {
        model: own.name.clone(),
        alias: CHALLENGER.into(),
        at: clock.now().0,
        at_offset: Some(present.next),
        reason: verdict.clone(),
        actor: request.trigger.clone(),
    };
    data.wait(data.metadata.set_alias(&change, version.version))?;
    Ok(ImportReport {
        run: run.to_string(),
        model: own.name.clone(),
        version: version.version,
        promote: request.promote,
        verdict,
        origin,
        reference_rows: rows,
        recent,
        champion,
    })
}

/// The file as a model that can decide in the place of one trained here.
fn taken_in(plan: &Plan, request: &ImportRequest) -> Result<(Arc<dyn Model>, Provenance), Unusable> {
    let own = &plan.models[request.model];
    let names = own.input_names();
    let refuse = |e: kilter_learn::LearnError| Unusable(e.to_string());
    let format = exchange::Format::of(&request.bytes);
    let model: Box<dyn Model> = match (request.by_position, format) {
        (false, _) => exchange::open(&request.bytes).map_err(refuse)?,
        (true, None) => {
            let text = "only files of other programs are taken by position: Kilter's own have names\n  hint: leave `by position` out; the names \
                        are told when they do not fit";
            return Err(Unusable(text.into()));
        }
        (true, Some(_)) => {
            let model = exchange::import(&request.bytes).map_err(refuse)?;
            let found = model.inputs().len();
            if found != names.len() {
                let text = format!("the file has {found} inputs, model `{}` has {}: {}", own.name, names.len(), listed(&names));
                return Err(Unusable(text));
            }
            Box::new(model.with_inputs(names.clone()).map_err(refuse)?)
        }
    };
    if let Some(problem) = misfit(model.inputs(), &names) {
        return Err(Unusable(format!("the file's inputs are not those of model `{}`: {problem}", own.name)));
    }
    let described = model.describe();
    // A calibration holds the model that came from elsewhere.
    let told = if described["origin"].is_object() { &described["origin"] } else { &described["model"]["origin"] };
    let text = |key: &str| told[key].as_str().map(str::to_string);
    if !own.task().suits(model.as_ref()) {
        let objective = text("objective").or_else(|| described["parameters"]["objective"].as_str().map(str::to_string));
        let objective = objective.map(|name| format!(" (objective `{name}`)")).unwrap_or_default();
        return Err(Unusable(match own.task() {
            Task::Classes => format!(
                "the file predicts no probability{objective}, and the score of model `{}` is one\n  hint: train with a binary objective: \
                 \"binary\" of LightGBM, \"binary:logistic\" of XGBoost",
                own.name
            ),
            Task::Numbers(_) => format!(
                "the file predicts no number of the label's own kind{objective}, as model `{}` does\n  hint: train with an objective of \
                 regression, or take a learner into kilter.toml that predicts a probability",
                own.name
            ),
            Task::Anomalies => format!("model `{}` gives anomaly scores, and the file does not{objective}\n  hint: kilter train", own.name),
        }));
    }
    let categorical: Vec<String> = model.categorical_inputs().into_iter().map(|at| names[at].clone()).collect();
    if !categorical.is_empty() {
        return Err(Unusable(format!(
            "the file splits on categories of {}: their codes are those of the data frame it was trained on, and a model of a project \
             reads numbers\n  hint: train on numbers, or on a yes-or-no column for each category",
            listed(&categorical)
        )));
    }
    let notes = told["notes"].as_array().into_iter().flatten().filter_map(|note| note.as_str().map(str::to_string));
    let origin = Provenance {
        file: request.file.clone(),
        bytes: request.bytes.len() as u64,
        sha256: Sha256::digest(&request.bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        format: format.map_or("kilter", exchange::Format::name),
        kind: model.kind(),
        version: text("version").filter(|version| !version.is_empty()),
        objective: text("objective"),
        notes: notes.collect(),
    };
    Ok((Arc::from(model), origin))
}

/// In what the inputs of a file differ from those of a model; none: they do not.
fn misfit(found: &[String], wanted: &[String]) -> Option<String> {
    if found == wanted {
        return None;
    }
    let without = |these: &[String], those: &[String]| these.iter().filter(|name| !those.contains(name)).cloned().collect::<Vec<_>>();
    let (missing, extra) = (without(wanted, found), without(found, wanted));
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("it lacks {}", listed(&missing)));
    }
    if !extra.is_empty() {
        problems.push(format!("the model does not have {}", listed(&extra)));
    }
    if !problems.is_empty() {
        let hint = match found.len() == wanted.len() && missing.len() == wanted.len() {
            true => {
                "train with the model's names, as `kilter training-set` writes them; a file without names of its own, whose inputs are \
                     surely these in this order, can be taken by position (`--by-position`)"
            }
            false => "train on the inputs that the model has in kilter.toml; `kilter models NAME --json` lists them in order",
        };
        return Some(format!("{}\n  hint: {hint}", problems.join("; ")));
    }
    if found.len() != wanted.len() {
        return Some("a name stands twice in it".to_string());
    }
    let first = found.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or_default();
    Some(format!(
        "they are in another order: number {} is `{}` there and `{}` here\n  hint: train with the columns in the model's order: {}",
        first + 1,
        found[first],
        wanted[first],
        listed(wanted)
    ))
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_LISTED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMES_LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl Provenance {
    fn params(&self) -> BTreeMap<String, String> {
        let mut params = BTreeMap::from([
            ("file".to_string(), self.file.clone()),
            ("bytes".to_string(), self.bytes.to_string()),
            ("sha256".to_string(), self.sha256.clone()),
            ("format".to_string(), self.format.to_string()),
            ("kind".to_string(), self.kind.to_string()),
        ]);
        let told = [("version", &self.version), ("objective", &self.objective)];
        params.extend(told.into_iter().filter_map(|(key, value)| Some((key.to_string(), value.clone()?))));
        if !self.notes.is_empty() {
            params.insert("notes".to_string(), self.notes.join("; "));
        }
        params
    }

    /// How the name of such a file ends.
    fn ending(&self) -> &'static str {
        match self.format {
            "lightgbm" => ".txt",
            "xgboost-json" | "catboost-json" => ".json",
            "onnx" => ".onnx",
            "xgboost-ubj" => ".ubj",
            _ => ".kltm",
        }
    }
}

/// What the log says about a model that it has not made.
struct Seen {
    reference: kilter_pipeline::DriftReference,
    rows: usize,
    recent: Option<Figures>,
    champion: Option<Figures>,
}

fn look_back(data: &Data, plan: &Arc<Plan>, index: usize, model: &Arc<dyn Model>, present: &Present) -> anyhow::Result<Seen> {
    let own = &plan.models[index];
    let now = present.now.unwrap_or(EventTime::EARLIEST);
    let range = Range { from: own.window.map_or(EventTime::EARLIEST, |window| now - window), to: now + Span(1) };
    let observations = observe(data, plan, index, range, present.next)?;
    let matured = if own.label.is_some() { observations.matured(range, now) } else { observations.within_range(range) };
    let held = ((matured.len() as f64) * own.holdout) as usize;
    let newest = observations.training_set(&matured[matured.len() - held..], now);
    let judged = |model: &Arc<dyn Model>| (held > 0).then(|| judge(own.task(), model.as_ref(), &newest));
    Ok(Seen {
        reference: training::drift_reference(model.as_ref(), &observations.matrix),
        rows: observations.len(),
        recent: judged(model),
        champion: present.champion.as_ref().and_then(|(_, champion)| judged(champion)),
    })
}

#[cfg(test)]
mod tests {
    use super::misfit;

    fn check(found: &str, wanted: &str, parts: &[&str]) {
        let names = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        let problem = misfit(&names(found), &names(wanted)).unwrap_or_default();
        assert_eq!(problem.is_empty(), parts.is_empty(), "{problem}");
        for part in parts {
            assert!(problem.contains(part), "`{part}` is not in: {problem}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_name() {
        check("a b c", "a b c", &[]);
        check("a b", "a b c", &["it lacks `c`", "kilter.toml"]);
        check("a b c", "a c", &["does not have `b`"]);
        check("a x", "a b c", &["it lacks `b`, `c`; the model does not have `x`"]);
        check("c b a", "a b c", &["another order", "number 1 is `c` there and `a` here", "`a`, `b`, `c`"]);
        check("Column_0 Column_1", "a b", &["it lacks `a`, `b`", "--by-position"]);
        check("a b a", "a b", &["a name stands twice"]);
        let many: Vec<String> = (0..20).map(|at| format!("x{at}")).collect();
        check("x0", &many.join(" "), &["`x12` and 7 more"]);
    }
}
