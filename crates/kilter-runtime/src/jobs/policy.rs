//! Another policy for a decision: tried on the past of the log, and put into the definitions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use kilter_core::{EventTime, Offset, Span};
use kilter_pipeline::policy_test::{Comparison, PolicyTest, TooManyCases};
use kilter_pipeline::{DecisionPlan, Range};
use kilter_store::files::write_whole;
use kilter_store::metadata::{MetricPoint, NewRun, RunKind, RunStatus};
use kilter_store::threads;

use crate::catalog::Record;
use crate::jobs::apply::Applying;
use crate::project::{self, FILE_NAME, Project, RuleDef, as_toml, with_policy};
use crate::sequencer::Refusal;
use crate::service::{Service, ServiceError};

/// The file of a run that holds its comparison.
pub const COMPARISON: &str = "comparison.json";

/// Which policy to hold against the one in force, and over which cases.
#[derive(Clone, Debug)]
pub struct PolicyRequest {
    /// Position in the plan's decisions.
    pub decision: usize,
    pub policy: Vec<RuleDef>,
    /// Cases from here on; none: from the first.
    pub from: Option<EventTime>,
    /// Cases before this; none: to the last.
    pub to: Option<EventTime>,
    /// What asked for it.
    pub trigger: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct PolicyReport {
    pub run: String,
    /// Records before this were read.
    pub until: Offset,
    pub comparison: Comparison,
    /// What the file would say in the place of the policy.
    pub toml: String,
}

impl Service {
    /// Holds a policy against the one in force, case by case, with the features and the model version of each case's moment. Changes nothing
    /// but that a run tells of it. One such test of a decision at a time.
    ///
    /// # Errors
    /// A policy that does not hold, another test of the same decision, more cases than are compared.
    pub async fn test_policy(self: &Arc<Self>, request: PolicyRequest) -> Result<PolicyReport, ServiceError> {
        let name = self.plan.decisions[request.decision].name.clone();
        let candidate = with_policy(&self.project, &name, &request.policy, FILE_NAME).map_err(ServiceError::Definitions)?;
        let claim = self.claim_job(format!("policy of {name}"), &format!("a policy of decision `{name}` is being tested already"))?;
        let service = Arc::clone(self);
        let work = move || {
            let (_claim, _computes) = (claim, threads::computes_meanwhile());
            service.hold_against(&request, &candidate)
        };
        let report = tokio::task::spawn_blocking(work).await.map_err(|e| ServiceError::Failed(format!("the test ended badly: {e}")))?;
        report.map_err(|e| match (e.downcast_ref::<TooManyCases>(), e.downcast_ref::<Refusal>()) {
            (Some(many), _) => ServiceError::Conflict(format!("{many}: name a shorter stretch by `from` and `to`")),
            (None, Some(refusal)) => refusal.clone().into(),
            (None, None) => e.into(),
        })
    }

    /// Writes a policy into the definitions file, and begins to take the file up. Of the file only the list of rules changes.
    ///
    /// # Errors
    /// A policy that does not hold or is the one in force; a file that has other changes, or cannot be written.
    pub async fn publish_policy(self: &Arc<Self>, decision: usize, policy: Vec<RuleDef>) -> Result<Applying, ServiceError> {
        let name = self.plan.decisions[decision].name.clone();
        let _claim = self.claim_job("publish".into(), "another policy is being published")?;
        let file = self.project.dir.join(FILE_NAME);
        let before = project::load(&self.project.dir).map_err(ServiceError::Definitions)?;
        if before.hash() != self.project.hash() {
            return Err(ServiceError::Conflict(format!(
                "{FILE_NAME} has changes that are not in force: apply them, or take them back, first"
            )));
        }
        let after = with_policy(&before, &name, &policy, FILE_NAME).map_err(ServiceError::Definitions)?;
        if after.hash() == before.hash() {
            return Err(ServiceError::Conflict(format!("decision `{name}` has this policy already")));
        }
        replace(&file, &after.toml_text)?;
        let begun = self.apply().await;
        if begun.is_err() {
            replace(&file, &before.toml_text)?;
        }
        begun
    }

    fn hold_against(&self, request: &PolicyRequest, candidate: &Project) -> anyhow::Result<PolicyReport> {
        let (data, plan) = (&self.data, &self.plan);
        let name = &plan.decisions[request.decision].name;
        let run = data.wait(data.metadata.start_run(&NewRun {
            kind: RunKind::Backtest,
            name: format!("policy of {name}"),
            model: plan.decisions[request.decision].model.map(|model| plan.models[model].name.clone()),
            started_at: self.clock().now().0,
            definition_hash: Some(plan.hash.clone()),
            data_fingerprint: None,
            seed: None,
        }))?;
        let toml = as_toml(&request.policy);
        let until = data.events.next_offset();
        let told = |time: Option<EventTime>, word: &str| time.map_or_else(|| word.to_string(), |t| t.to_string());
        let params = BTreeMap::from([
            ("decision".to_string(), name.clone()),
            ("policy".to_string(), toml.clone()),
            ("from".to_string(), told(request.from, "first")),
            ("to".to_string(), told(request.to, "last")),
            ("until_offset".to_string(), until.to_string()),
        ]);
        data.wait(data.metadata.log_params(&run, &params))?;
        data.wait(data.metadata.set_tags(&run, &BTreeMap::from([("trigger".to_string(), request.trigger.clone())])))?;

        let result = self.compared(request, candidate.plan.decisions[request.decision].clone(), until).and_then(|comparison| {
            data.artifacts.put_named(&run, COMPARISON, &serde_json::to_vec_pretty(&comparison)?)?;
            let at = self.clock().now().0;
            let points: Vec<MetricPoint> = [("cases", comparison.cases), ("changed", comparison.changed)]
                .map(|(key, value)| MetricPoint { key: key.into(), value: value as f64, step: 0, at })
                .into();
            data.wait(data.metadata.log_metrics(&run, &points))?;
            Ok(comparison)
        });
        let (status, error) = match &result {
            Ok(_) => (RunStatus::Finished, None),
            Err(e) => (RunStatus::Failed, Some(format!("{e:#}"))),
        };
        data.wait(data.metadata.finish_run(&run, status, self.clock().now().0, error.as_deref()))?;
        Ok(PolicyReport { run, until, comparison: result?, toml })
    }

    fn compared(&self, request: &PolicyRequest, after: DecisionPlan, until: Offset) -> anyhow::Result<Comparison> {
        let range = Range { from: request.from.unwrap_or(EventTime::EARLIEST), to: request.to.unwrap_or(EventTime::LATEST) };
        let pipeline = match request.from {
            Some(from) => self.data.state_before(&self.plan, from - Span(1))?,
            None => self.data.empty_state(&self.plan),
        };
        let begin = pipeline.next_offset();
        let mut test = PolicyTest::new(pipeline, request.decision, after, range);
        let mut stopped = false;
        self.data.walk_while(&self.plan, begin, until, |offset, record| {
            match record {
                Record::Event(event) => test.feed(&event)?,
                Record::Control(control) => self.data.control(test.pipeline_mut(), offset, &control)?,
                Record::Foreign | Record::Erased(_) => test.pipeline_mut().skip(offset),
            }
            stopped = offset % 4096 == 0 && self.has_ended();
            Ok(!stopped)
        })?;
        anyhow::ensure!(!stopped, Refusal::Stopping);
        Ok(test.finish())
    }
}

/// Puts a text in the place of a file, which keeps its mode; what the path links to is replaced, not the link.
fn replace(file: &Path, text: &str) -> Result<(), ServiceError> {
    let refused = |e: String| ServiceError::Conflict(format!("{} cannot be written: {e}", file.display()));
    let file = fs::canonicalize(file).map_err(|e| refused(e.to_string()))?;
    let mode = fs::metadata(&file).map_err(|e| refused(e.to_string()))?.permissions();
    write_whole(&file, &[text.as_bytes()]).map_err(|e| refused(e.to_string()))?;
    fs::set_permissions(&file, mode).map_err(|e| refused(e.to_string()))
}
