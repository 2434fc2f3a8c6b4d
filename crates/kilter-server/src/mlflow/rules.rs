//! The role that each route of MLflow's API wants.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::OTLP;
use crate::access::Rule;
use crate::access::keys::Role::{self, Manage, Read, Write};

/// What a request is about: where a key's role is looked up that has others for single experiments and models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nothing that is anybody's.
    Nothing,
    /// All there is: the lowest role that the key has anywhere counts.
    All,
    /// The handler leaves out what may not be read.
    Own,
    /// `experiment_id`.
    Experiment,
    /// `experiment_name`.
    ExperimentName,
    /// `experiment_ids` and `experiment_id`.
    Experiments,
    /// `name`, of an experiment that is made.
    NewExperiment,
    /// `experiment_id` and `new_name`.
    RenamedExperiment,
    /// `experiment_id`, or the default one.
    NewRun,
    /// `run_id`, and the models that are logged to beside it.
    Run,
    /// Ids of runs, in this field.
    Runs(&'static str),
    /// `experiment_id` and `source_run_id`.
    NewLogged,
    /// `{model_id}`.
    Logged,
    /// `name`, of a registered model.
    Model,
    /// `name` and `new_name`.
    RenamedModel,
    /// `name`, and what it is made from: `source`, `run_id` and `model_id`.
    NewVersion,
    /// The experiment in `trace`.
    NewTrace,
    /// `{trace_id}` or `trace_id`.
    Trace,
    /// `trace_ids` and `run_id`.
    TracesAndRun,
    /// The headers, and the traces within.
    Spans,
    /// `{dataset_id}`.
    Dataset,
    /// `{dataset_id}` and `experiment_ids`.
    DatasetAndExperiments,
    /// `{path}`, or what is named below it.
    File,
    /// `path`.
    Folder,
}

use Subject::{
    All, Dataset, DatasetAndExperiments, Experiment, ExperimentName, Experiments, File, Folder, Logged, Model, NewExperiment, NewLogged,
    NewRun, NewTrace, NewVersion, Nothing, Own, RenamedExperiment, RenamedModel, Run, Runs, Spans, Trace, TracesAndRun,
};

/// Below `/api` and `/ajax-api`. What edits a run or a trace is writing; what takes away, restores, or moves a model's stage or alias is managing.
pub const RULES: [(&str, &str, Role, Subject); 116] = [
    ("POST", "/2.0/mlflow/experiments/create", Write, NewExperiment),
    ("GET", "/2.0/mlflow/experiments/get", Read, Experiment),
    ("GET", "/2.0/mlflow/experiments/get-by-name", Read, ExperimentName),
    ("GET", "/2.0/mlflow/experiments/search", Read, Own),
    ("POST", "/2.0/mlflow/experiments/search", Read, Own),
    ("POST", "/2.0/mlflow/experiments/update", Write, RenamedExperiment),
    ("POST", "/2.0/mlflow/experiments/delete", Manage, Experiment),
    ("POST", "/2.0/mlflow/experiments/restore", Manage, Experiment),
    ("POST", "/2.0/mlflow/experiments/set-experiment-tag", Write, Experiment),
    ("POST", "/2.0/mlflow/experiments/delete-experiment-tag", Write, Experiment),
    ("POST", "/2.0/mlflow/runs/create", Write, NewRun),
    ("GET", "/2.0/mlflow/runs/get", Read, Run),
    ("POST", "/2.0/mlflow/runs/update", Write, Run),
    ("POST", "/2.0/mlflow/runs/delete", Manage, Run),
    ("POST", "/2.0/mlflow/runs/restore", Manage, Run),
    ("POST", "/2.0/mlflow/runs/search", Read, Own),
    ("POST", "/2.0/mlflow/runs/log-metric", Write, Run),
    ("POST", "/2.0/mlflow/runs/log-parameter", Write, Run),
    ("POST", "/2.0/mlflow/runs/set-tag", Write, Run),
    ("POST", "/2.0/mlflow/runs/delete-tag", Write, Run),
    ("POST", "/2.0/mlflow/runs/log-batch", Write, Run),
    ("POST", "/2.0/mlflow/runs/log-inputs", Write, Run),
    ("POST", "/2.0/mlflow/runs/outputs", Write, Run),
    ("POST", "/2.0/mlflow/runs/log-model", Write, Run),
    ("GET", "/2.0/mlflow/metrics/get-history", Read, Run),
    ("GET", "/2.0/mlflow/metrics/get-history-bulk", Read, Runs("run_id")),
    ("GET", "/2.0/mlflow/metrics/get-history-bulk-interval", Read, Runs("run_ids")),
    ("GET", "/2.0/mlflow/artifacts/list", Read, Run),
    ("GET", "/2.0/mlflow-artifacts/artifacts", Read, Folder),
    ("GET", "/2.0/mlflow-artifacts/artifacts/{*path}", Read, File),
    ("PUT", "/2.0/mlflow-artifacts/artifacts/{*path}", Write, File),
    ("DELETE", "/2.0/mlflow-artifacts/artifacts/{*path}", Manage, File),
    ("POST", "/2.0/mlflow-artifacts/mpu/create/{*path}", Write, File),
    ("POST", "/2.0/mlflow-artifacts/mpu/complete/{*path}", Write, File),
    ("POST", "/2.0/mlflow-artifacts/mpu/abort/{*path}", Write, File),
    ("GET", "/2.0/mlflow-artifacts/presigned/{*path}", Read, File),
    ("POST", "/2.0/mlflow/logged-models", Write, NewLogged),
    ("POST", "/2.0/mlflow/logged-models/search", Read, Own),
    ("GET", "/2.0/mlflow/logged-models/{model_id}", Read, Logged),
    ("PATCH", "/2.0/mlflow/logged-models/{model_id}", Write, Logged),
    ("DELETE", "/2.0/mlflow/logged-models/{model_id}", Manage, Logged),
    ("POST", "/2.0/mlflow/logged-models/{model_id}/params", Write, Logged),
    ("PATCH", "/2.0/mlflow/logged-models/{model_id}/tags", Write, Logged),
    ("DELETE", "/2.0/mlflow/logged-models/{model_id}/tags/{tag_key}", Write, Logged),
    ("GET", "/2.0/mlflow/logged-models/{model_id}/artifacts/directories", Read, Logged),
    ("POST", "/2.0/mlflow/registered-models/create", Write, Model),
    ("POST", "/2.0/mlflow/registered-models/rename", Manage, RenamedModel),
    ("PATCH", "/2.0/mlflow/registered-models/update", Write, Model),
    ("DELETE", "/2.0/mlflow/registered-models/delete", Manage, Model),
    ("GET", "/2.0/mlflow/registered-models/get", Read, Model),
    ("GET", "/2.0/mlflow/registered-models/search", Read, Own),
    ("GET", "/2.0/mlflow/registered-models/get-latest-versions", Read, Model),
    ("POST", "/2.0/mlflow/registered-models/get-latest-versions", Read, Model),
    ("POST", "/2.0/mlflow/registered-models/set-tag", Write, Model),
    ("DELETE", "/2.0/mlflow/registered-models/delete-tag", Write, Model),
    ("GET", "/2.0/mlflow/registered-models/alias", Read, Model),
    ("POST", "/2.0/mlflow/registered-models/alias", Manage, Model),
    ("DELETE", "/2.0/mlflow/registered-models/alias", Manage, Model),
    ("POST", "/2.0/mlflow/model-versions/create", Write, NewVersion),
    ("PATCH", "/2.0/mlflow/model-versions/update", Write, Model),
    ("POST", "/2.0/mlflow/model-versions/transition-stage", Manage, Model),
    ("DELETE", "/2.0/mlflow/model-versions/delete", Manage, Model),
    ("GET", "/2.0/mlflow/model-versions/get", Read, Model),
    ("GET", "/2.0/mlflow/model-versions/search", Read, Own),
    ("GET", "/2.0/mlflow/model-versions/get-download-uri", Read, Model),
    ("POST", "/2.0/mlflow/model-versions/set-tag", Write, Model),
    ("DELETE", "/2.0/mlflow/model-versions/delete-tag", Write, Model),
    ("POST", "/2.0/mlflow/webhooks", Manage, All),
    ("GET", "/2.0/mlflow/webhooks", Manage, All),
    ("GET", "/2.0/mlflow/webhooks/{webhook_id}", Manage, All),
    ("PATCH", "/2.0/mlflow/webhooks/{webhook_id}", Manage, All),
    ("DELETE", "/2.0/mlflow/webhooks/{webhook_id}", Manage, All),
    ("POST", "/2.0/mlflow/webhooks/{webhook_id}/test", Manage, All),
    ("POST", "/3.0/mlflow/traces", Write, NewTrace),
    ("GET", "/3.0/mlflow/traces/get", Read, Trace),
    ("GET", "/3.0/mlflow/traces/batchGet", Read, Own),
    ("POST", "/3.0/mlflow/traces/batchGetInfos", Read, Own),
    ("POST", "/3.0/mlflow/traces/search", Read, Own),
    ("POST", "/3.0/mlflow/traces/metrics", Read, Own),
    ("POST", "/3.0/mlflow/traces/delete-traces", Manage, Experiment),
    ("GET", "/3.0/mlflow/traces/{trace_id}", Read, Trace),
    ("PATCH", "/3.0/mlflow/traces/{trace_id}/tags", Write, Trace),
    ("DELETE", "/3.0/mlflow/traces/{trace_id}/tags", Write, Trace),
    ("POST", "/3.0/mlflow/traces/{trace_id}/assessments", Write, Trace),
    ("GET", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Read, Trace),
    ("PATCH", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Write, Trace),
    ("DELETE", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Write, Trace),
    ("GET", "/2.0/mlflow/traces", Read, Own),
    ("POST", "/2.0/mlflow/traces", Write, Experiment),
    ("PATCH", "/2.0/mlflow/traces/{trace_id}", Write, Trace),
    ("GET", "/2.0/mlflow/traces/{trace_id}/info", Read, Trace),
    ("POST", "/2.0/mlflow/traces/delete-traces", Manage, Experiment),
    ("POST", "/2.0/mlflow/traces/link-to-run", Write, TracesAndRun),
    ("POST", "/2.0/mlflow/traces/link-prompts", Write, Trace),
    ("PATCH", "/2.0/mlflow/traces/{trace_id}/tags", Write, Trace),
    ("DELETE", "/2.0/mlflow/traces/{trace_id}/tags", Write, Trace),
    ("POST", "/3.0/mlflow/datasets/create", Write, Experiments),
    ("GET", "/3.0/mlflow/datasets/search", Read, Own),
    ("POST", "/3.0/mlflow/datasets/search", Read, Own),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}", Read, Dataset),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}", Manage, Dataset),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}/records", Read, Dataset),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/records", Write, Dataset),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}/records", Write, Dataset),
    ("PATCH", "/3.0/mlflow/datasets/{dataset_id}/tags", Write, Dataset),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}/tags/{key}", Write, Dataset),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}/experiment-ids", Read, Dataset),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/add-experiments", Write, DatasetAndExperiments),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/remove-experiments", Write, DatasetAndExperiments),
    ("POST", "/3.0/mlflow/scorers/register", Write, Experiment),
    ("GET", "/3.0/mlflow/scorers/list", Read, Experiments),
    ("GET", "/3.0/mlflow/scorers/versions", Read, Experiment),
    ("GET", "/3.0/mlflow/scorers/get", Read, Experiment),
    ("DELETE", "/3.0/mlflow/scorers/delete", Manage, Experiment),
    ("GET", "/3.0/mlflow/scorers/online-configs", Read, Nothing),
    ("GET", "/3.0/mlflow/server-info", Read, Nothing),
];

type ByRoute = HashMap<(&'static str, &'static str), (Role, Subject)>;

static BY_ROUTE: LazyLock<ByRoute> =
    LazyLock::new(|| RULES.into_iter().map(|(method, route, role, subject)| ((method, route), (role, subject))).collect());

/// The rule of a route as the router names it.
pub fn rule(method: &str, route: &str) -> Option<Rule> {
    named(method, route).map(|(role, _)| Rule::Named(role))
}

/// What a route wants, and of what.
pub fn named(method: &str, route: &str) -> Option<(Role, Subject)> {
    // Answered by what answers GET.
    let method = if method == "HEAD" { "GET" } else { method };
    if (method, route) == ("POST", OTLP) {
        return Some((Write, Spans));
    }
    let below = route.strip_prefix("/ajax-api").or_else(|| route.strip_prefix("/api"))?;
    BY_ROUTE.get(&(method, below)).copied()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use kilter_tracking::Tracking;

    use super::*;
    use crate::access::Caller;
    use crate::mlflow::{Hooks, WebhookOptions};

    #[tokio::test]
    async fn every_route_has_a_rule_and_every_rule_a_route() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = Hooks::new(Tracking::open(dir.path()).await.unwrap(), WebhookOptions::default());
        let api = TowerToHyperService::new(super::super::router::<()>(hooks));
        let routes: Vec<&str> = super::super::routes().into_iter().map(|(path, _)| path).collect();
        for path in &routes {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let asked = format!("/api{path}").replace(['{', '}', '*'], "");
                let request = Request::builder().method(method).uri(asked).extension(Caller::unrestricted()).body(Body::empty()).unwrap();
                let answer = api.call(request).await.unwrap();
                let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                let is_answered = !String::from_utf8_lossy(&text).contains("does not answer");
                for prefix in ["/api", "/ajax-api"] {
                    let rule = rule(method, &format!("{prefix}{path}"));
                    assert_eq!(rule.is_some(), is_answered, "{method} {path}: a route has a rule, and a rule a route");
                }
            }
        }
        for (method, path, ..) in RULES {
            assert!(routes.contains(&path), "{method} {path} is a rule for nothing");
        }
    }
}
