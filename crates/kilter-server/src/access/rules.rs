//! The role that each route wants. A route that is not here is open to no key.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::Method;

use super::keys::Role;
use crate::mlflow;

/// What a route wants of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: who asks whether the server is alive has no key.
    Open,
    /// The role that the key has for everything.
    Whole(Role),
    /// The role that the key has for the model in the path.
    Model(Role),
    /// The role that the key has for what the request names, which is checked once that is read; somewhere it must have it.
    Named(Role),
    /// A key that may ask in SQL, by its grants or, without any, by `read` everywhere: SQL reaches all experiments and models.
    Sql,
    /// A key that may do anything at all.
    Own,
    /// Any key: what is asked of a shard is checked where the shard answers.
    Within,
}

use Role::{Manage, Read, Write};
use Rule::{Model, Named, Open, Own, Sql, Whole, Within};

const PROJECT: [(&str, &str, Rule); 53] = [
    // Files without data: what they show they ask of the routes below, with a key.
    ("GET", "/", Open),
    ("GET", "/ui", Open),
    ("GET", "/ui/", Open),
    ("GET", "/ui/{*path}", Open),
    ("GET", "/docs", Whole(Read)),
    ("GET", "/docs/", Whole(Read)),
    ("GET", "/docs/{*rest}", Whole(Read)),
    ("GET", "/openapi.json", Whole(Read)),
    ("GET", "/metrics", Whole(Read)),
    ("GET", "/healthz", Open),
    ("GET", "/readyz", Open),
    ("POST", "/v1/events/{source}", Whole(Write)),
    ("GET", "/v1/features/{view}/{key}", Whole(Read)),
    ("POST", "/v1/features/{view}", Whole(Read)),
    ("POST", "/v1/services/{service}", Whole(Read)),
    ("POST", "/v1/decide/{decision}", Whole(Write)),
    ("GET", "/v1/decisions", Whole(Read)),
    ("GET", "/v1/decisions/{id}", Whole(Read)),
    // It rebuilds and compares, and changes nothing.
    ("POST", "/v1/decisions/{id}/replay", Whole(Read)),
    // Reads the log from its start, and leaves a run behind.
    ("POST", "/v1/policies/{decision}/backtest", Whole(Write)),
    ("PUT", "/v1/policies/{decision}", Whole(Manage)),
    ("GET", "/v1/models", Named(Read)),
    ("GET", "/v1/models/{model}", Model(Read)),
    ("POST", "/v1/models/{model}/train", Model(Manage)),
    ("POST", "/v1/models/{model}/promote", Model(Manage)),
    ("POST", "/v1/models/{model}/rollback", Model(Manage)),
    ("POST", "/v1/models/{model}/versions", Model(Manage)),
    ("GET", "/v1/models/{model}/versions/{version}/file", Model(Read)),
    ("GET", "/v1/models/{model}/versions/{version}/reference", Model(Read)),
    ("GET", "/v1/models/{model}/versions/{version}/evaluation", Model(Read)),
    // Reads decisions and columns of events, whatever the model.
    ("GET", "/v1/models/{model}/performance", Whole(Read)),
    ("GET", "/v1/runs", Whole(Read)),
    ("GET", "/v1/runs/{id}", Whole(Read)),
    ("GET", "/v1/runs/{id}/artifacts/{*name}", Whole(Read)),
    ("GET", "/v1/live", Whole(Read)),
    ("GET", "/v1/monitors", Whole(Read)),
    ("GET", "/v1/monitors/{monitor}/history", Whole(Read)),
    ("GET", "/v1/monitors/{monitor}/distributions", Whole(Read)),
    ("GET", "/v1/alerts", Whole(Read)),
    ("GET", "/v1/dead-letters", Whole(Read)),
    ("GET", "/v1/sql/tables", Sql),
    ("POST", "/v1/sql", Sql),
    ("GET", "/v1/lake", Whole(Read)),
    ("POST", "/v1/lake/compact", Whole(Manage)),
    ("GET", "/v1/project", Whole(Read)),
    // The text may hold what sources and sinks are opened with.
    ("GET", "/v1/project/definitions", Whole(Manage)),
    ("POST", "/v1/backtests", Whole(Manage)),
    ("GET", "/v1/project/plan", Whole(Read)),
    ("POST", "/v1/project/apply", Whole(Manage)),
    ("GET", "/v1/status", Whole(Read)),
    ("GET", "/v1/access", Own),
    ("GET", "/health", Open),
    ("GET", "/version", Open),
];

/// What a worker answers beside the routes of its shards.
const WORKER: [(&str, &str, Rule); 7] = [
    ("GET", "/v1/shards", Whole(Read)),
    ("GET", "/v1/shards/{shard}/{*rest}", Within),
    ("POST", "/v1/shards/{shard}/{*rest}", Within),
    ("PUT", "/v1/shards/{shard}/{*rest}", Within),
    ("PATCH", "/v1/shards/{shard}/{*rest}", Within),
    ("DELETE", "/v1/shards/{shard}/{*rest}", Within),
    ("POST", "/v1/models/{model}/{*rest}", Within),
];

static RULES: LazyLock<HashMap<(&str, &str), Rule>> =
    LazyLock::new(|| PROJECT.into_iter().chain(WORKER).map(|(method, route, rule)| ((method, route), rule)).collect());

impl Rule {
    /// Of a route as the router names it.
    pub fn of(method: &Method, route: &str) -> Option<Rule> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let own = RULES.get(&(method, route)).copied();
        own.or_else(|| mlflow::rule(method, route))
    }

    pub fn role(self) -> Role {
        match self {
            Open | Within => Role::None,
            Sql | Own => Role::Read,
            Whole(role) | Model(role) | Named(role) => role,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes;

    #[test]
    fn every_route_of_a_project_has_a_rule_and_every_rule_a_route() {
        let (_, described) = routes::all().split_for_parts();
        let described = serde_json::to_value(&described.paths).unwrap();
        let served: Vec<(String, &String)> = described
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(route, item)| {
                let methods = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
                methods.map(move |method| (method, route))
            })
            .collect();
        assert!(served.len() > 30, "{served:?}");
        for (method, route) in &served {
            assert!(Rule::of(&method.parse().unwrap(), route).is_some(), "{method} {route} is open to nobody: it needs a rule");
        }
        let elsewhere = ["/docs", "/docs/", "/docs/{*rest}", "/ui", "/ui/", "/ui/{*path}", "/health", "/version"];
        for (method, route, _) in PROJECT.iter().filter(|(_, route, _)| !elsewhere.contains(route)) {
            assert!(served.iter().any(|(m, r)| m == method && r == route), "{method} {route} is a rule for nothing");
        }
    }

    #[test]
    fn what_has_no_rule_is_open_to_nobody() {
        for (method, route) in
            [(Method::DELETE, "/v1/status"), (Method::GET, "/v1/nothing"), (Method::OPTIONS, "/"), (Method::POST, "/api/x")]
        {
            assert_eq!(Rule::of(&method, route), None, "{method} {route}");
        }
        assert_eq!(Rule::of(&Method::HEAD, "/v1/status"), Some(Whole(Read)));
    }
}
