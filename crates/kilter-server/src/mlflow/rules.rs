//! The role that each route of MLflow's API wants.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::OTLP;
use crate::access::Rule;
use crate::access::keys::Role::{self, Manage, Read, Write};

/// Below `/api` and `/ajax-api`. What edits a run or a trace is writing; what takes away, restores, or moves a model's stage or alias is managing.
const RULES: [(&str, &str, Role); 105] = [
    ("POST", "/2.0/mlflow/experiments/create", Write),
    ("GET", "/2.0/mlflow/experiments/get", Read),
    ("GET", "/2.0/mlflow/experiments/get-by-name", Read),
    ("GET", "/2.0/mlflow/experiments/search", Read),
    ("POST", "/2.0/mlflow/experiments/search", Read),
    ("POST", "/2.0/mlflow/experiments/update", Write),
    ("POST", "/2.0/mlflow/experiments/delete", Manage),
    ("POST", "/2.0/mlflow/experiments/restore", Manage),
    ("POST", "/2.0/mlflow/experiments/set-experiment-tag", Write),
    ("POST", "/2.0/mlflow/experiments/delete-experiment-tag", Write),
    ("POST", "/2.0/mlflow/runs/create", Write),
    ("GET", "/2.0/mlflow/runs/get", Read),
    ("POST", "/2.0/mlflow/runs/update", Write),
    ("POST", "/2.0/mlflow/runs/delete", Manage),
    ("POST", "/2.0/mlflow/runs/restore", Manage),
    ("POST", "/2.0/mlflow/runs/search", Read),
    ("POST", "/2.0/mlflow/runs/log-metric", Write),
    ("POST", "/2.0/mlflow/runs/log-parameter", Write),
    ("POST", "/2.0/mlflow/runs/set-tag", Write),
    ("POST", "/2.0/mlflow/runs/delete-tag", Write),
    ("POST", "/2.0/mlflow/runs/log-batch", Write),
    ("POST", "/2.0/mlflow/runs/log-inputs", Write),
    ("POST", "/2.0/mlflow/runs/outputs", Write),
    ("POST", "/2.0/mlflow/runs/log-model", Write),
    ("GET", "/2.0/mlflow/metrics/get-history", Read),
    ("GET", "/2.0/mlflow/metrics/get-history-bulk", Read),
    ("GET", "/2.0/mlflow/metrics/get-history-bulk-interval", Read),
    ("GET", "/2.0/mlflow/artifacts/list", Read),
    ("GET", "/2.0/mlflow-artifacts/artifacts", Read),
    ("GET", "/2.0/mlflow-artifacts/artifacts/{*path}", Read),
    ("PUT", "/2.0/mlflow-artifacts/artifacts/{*path}", Write),
    ("DELETE", "/2.0/mlflow-artifacts/artifacts/{*path}", Manage),
    ("POST", "/2.0/mlflow/logged-models", Write),
    ("POST", "/2.0/mlflow/logged-models/search", Read),
    ("GET", "/2.0/mlflow/logged-models/{model_id}", Read),
    ("PATCH", "/2.0/mlflow/logged-models/{model_id}", Write),
    ("DELETE", "/2.0/mlflow/logged-models/{model_id}", Manage),
    ("POST", "/2.0/mlflow/logged-models/{model_id}/params", Write),
    ("PATCH", "/2.0/mlflow/logged-models/{model_id}/tags", Write),
    ("DELETE", "/2.0/mlflow/logged-models/{model_id}/tags/{tag_key}", Write),
    ("GET", "/2.0/mlflow/logged-models/{model_id}/artifacts/directories", Read),
    ("POST", "/2.0/mlflow/registered-models/create", Write),
    ("POST", "/2.0/mlflow/registered-models/rename", Manage),
    ("PATCH", "/2.0/mlflow/registered-models/update", Write),
    ("DELETE", "/2.0/mlflow/registered-models/delete", Manage),
    ("GET", "/2.0/mlflow/registered-models/get", Read),
    ("GET", "/2.0/mlflow/registered-models/search", Read),
    ("GET", "/2.0/mlflow/registered-models/get-latest-versions", Read),
    ("POST", "/2.0/mlflow/registered-models/get-latest-versions", Read),
    ("POST", "/2.0/mlflow/registered-models/set-tag", Write),
    ("DELETE", "/2.0/mlflow/registered-models/delete-tag", Write),
    ("GET", "/2.0/mlflow/registered-models/alias", Read),
    ("POST", "/2.0/mlflow/registered-models/alias", Manage),
    ("DELETE", "/2.0/mlflow/registered-models/alias", Manage),
    ("POST", "/2.0/mlflow/model-versions/create", Write),
    ("PATCH", "/2.0/mlflow/model-versions/update", Write),
    ("POST", "/2.0/mlflow/model-versions/transition-stage", Manage),
    ("DELETE", "/2.0/mlflow/model-versions/delete", Manage),
    ("GET", "/2.0/mlflow/model-versions/get", Read),
    ("GET", "/2.0/mlflow/model-versions/search", Read),
    ("GET", "/2.0/mlflow/model-versions/get-download-uri", Read),
    ("POST", "/2.0/mlflow/model-versions/set-tag", Write),
    ("DELETE", "/2.0/mlflow/model-versions/delete-tag", Write),
    ("POST", "/3.0/mlflow/traces", Write),
    ("GET", "/3.0/mlflow/traces/get", Read),
    ("GET", "/3.0/mlflow/traces/batchGet", Read),
    ("POST", "/3.0/mlflow/traces/batchGetInfos", Read),
    ("POST", "/3.0/mlflow/traces/search", Read),
    ("POST", "/3.0/mlflow/traces/delete-traces", Manage),
    ("GET", "/3.0/mlflow/traces/{trace_id}", Read),
    ("PATCH", "/3.0/mlflow/traces/{trace_id}/tags", Write),
    ("DELETE", "/3.0/mlflow/traces/{trace_id}/tags", Write),
    ("POST", "/3.0/mlflow/traces/{trace_id}/assessments", Write),
    ("GET", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Read),
    ("PATCH", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Write),
    ("DELETE", "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}", Write),
    ("GET", "/2.0/mlflow/traces", Read),
    ("POST", "/2.0/mlflow/traces", Write),
    ("PATCH", "/2.0/mlflow/traces/{trace_id}", Write),
    ("GET", "/2.0/mlflow/traces/{trace_id}/info", Read),
    ("POST", "/2.0/mlflow/traces/delete-traces", Manage),
    ("POST", "/2.0/mlflow/traces/link-to-run", Write),
    ("POST", "/2.0/mlflow/traces/link-prompts", Write),
    ("PATCH", "/2.0/mlflow/traces/{trace_id}/tags", Write),
    ("DELETE", "/2.0/mlflow/traces/{trace_id}/tags", Write),
    ("POST", "/3.0/mlflow/datasets/create", Write),
    ("GET", "/3.0/mlflow/datasets/search", Read),
    ("POST", "/3.0/mlflow/datasets/search", Read),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}", Read),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}", Manage),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}/records", Read),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/records", Write),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}/records", Write),
    ("PATCH", "/3.0/mlflow/datasets/{dataset_id}/tags", Write),
    ("DELETE", "/3.0/mlflow/datasets/{dataset_id}/tags/{key}", Write),
    ("GET", "/3.0/mlflow/datasets/{dataset_id}/experiment-ids", Read),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/add-experiments", Write),
    ("POST", "/3.0/mlflow/datasets/{dataset_id}/remove-experiments", Write),
    ("POST", "/3.0/mlflow/scorers/register", Write),
    ("GET", "/3.0/mlflow/scorers/list", Read),
    ("GET", "/3.0/mlflow/scorers/versions", Read),
    ("GET", "/3.0/mlflow/scorers/get", Read),
    ("DELETE", "/3.0/mlflow/scorers/delete", Manage),
    ("GET", "/3.0/mlflow/scorers/online-configs", Read),
    ("GET", "/3.0/mlflow/server-info", Read),
];

static BY_ROUTE: LazyLock<HashMap<(&str, &str), Role>> =
    LazyLock::new(|| RULES.into_iter().map(|(method, route, role)| ((method, route), role)).collect());

/// The rule of a route as the router names it.
pub fn rule(method: &str, route: &str) -> Option<Rule> {
    if (method, route) == ("POST", OTLP) {
        return Some(Rule::Whole(Write));
    }
    let below = route.strip_prefix("/ajax-api").or_else(|| route.strip_prefix("/api"))?;
    BY_ROUTE.get(&(method, below)).copied().map(Rule::Whole)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use kilter_tracking::Tracking;

    use super::*;

    #[tokio::test]
    async fn every_route_has_a_rule_and_every_rule_a_route() {
        let dir = tempfile::tempdir().unwrap();
        let api = TowerToHyperService::new(super::super::router::<()>(Tracking::open(dir.path()).await.unwrap()));
        let routes: Vec<&str> = super::super::routes().into_iter().map(|(path, _)| path).collect();
        for path in &routes {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let asked = format!("/api{path}").replace(['{', '}', '*'], "");
                let request = Request::builder().method(method).uri(asked).body(Body::empty()).unwrap();
                let answer = api.call(request).await.unwrap();
                let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                let is_answered = !String::from_utf8_lossy(&text).contains("does not answer");
                for prefix in ["/api", "/ajax-api"] {
                    let rule = rule(method, &format!("{prefix}{path}"));
                    assert_eq!(rule.is_some(), is_answered, "{method} {path}: a route has a rule, and a rule a route");
                }
            }
        }
        for (method, path, _) in RULES {
            assert!(routes.contains(&path), "{method} {path} is a rule for nothing");
        }
    }
}
