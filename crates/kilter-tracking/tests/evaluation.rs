//! Evaluation datasets and scorers through the store's public face.

use crate::common;
use kilter_tracking::{ErrorCode, EvaluationRecord, NewExperiment, Pair, Query, Tracking};
use serde_json::{Value, json};

async fn open() -> (tempfile::TempDir, Tracking) {
    let dir = tempfile::tempdir().unwrap();
    let tracking = common::open(dir.path()).await.unwrap();
    (dir, tracking)
}

fn record(inputs: Value, expectations: Value) -> EvaluationRecord {
    let map = |value: Value| if let Value::Object(map) = value { Some(map) } else { None };
    EvaluationRecord { inputs: map(inputs).unwrap(), expectations: map(expectations), ..EvaluationRecord::default() }
}

#[tokio::test]
async fn little_changes_of_large_records_are_all_made() {
    let (_dir, tracking) = open().await;
    let made = tracking.create_evaluation_dataset("large".into(), Vec::new(), vec![0]).await.unwrap();
    let large = |n| EvaluationRecord { outputs: Some(json!("o".repeat(3 << 20))), ..record(json!({"q": n}), json!({"a": n})) };
    for n in 0..5 {
        assert_eq!(tracking.upsert_records(made.id.clone(), vec![large(n)]).await.unwrap(), (1, 0));
    }
    // More than one write reads and writes again.
    let changes = (0..6).map(|n| record(json!({"q": n}), json!({"b": n}))).collect();
    assert_eq!(tracking.upsert_records(made.id.clone(), changes).await.unwrap(), (1, 5));
    let page = tracking.records(&made.id, 10, None, &tracking.place().await.unwrap()).await.unwrap();
    let said: Vec<Value> = page.items.iter().map(|r| Value::Object(r.expectations.clone().unwrap())).collect();
    assert_eq!(said[..5], [0, 1, 2, 3, 4].map(|n| json!({"a": n, "b": n})));
    assert_eq!((&said[5], page.items[0].outputs.as_ref().unwrap().as_str().unwrap().len()), (&json!({"b": 5}), 3 << 20));
}

#[tokio::test]
async fn a_dataset_has_each_input_once_and_merges_what_comes_again() {
    let (dir, tracking) = open().await;
    let tags = vec![Pair { key: "v".into(), value: "1".into() }];
    let made = tracking.create_evaluation_dataset("d".into(), tags, vec![0]).await.unwrap();
    assert_eq!((made.experiments.as_slice(), made.records, made.schema.as_deref()), (&[0][..], 0, None));
    let records = vec![
        record(json!({"q": 1, "r": "x"}), json!({"a": 2})),
        record(json!({"r": "x", "q": 1}), json!({"b": [1]})),
        record(json!({"q": 2}), json!(null)),
    ];
    assert_eq!(tracking.upsert_records(made.id.clone(), records).await.unwrap(), (2, 1));
    let with_outputs = EvaluationRecord { outputs: Some(json!({"o": 0.5})), ..record(json!({"q": 2}), json!({"a": 3})) };
    assert_eq!(tracking.upsert_records(made.id.clone(), vec![with_outputs]).await.unwrap(), (0, 1));
    tracking.close().await;
    let tracking = common::open(dir.path()).await.unwrap();
    let dataset = tracking.evaluation_dataset(&made.id).await.unwrap();
    let schema = r#"{"inputs": {"q": "integer", "r": "string"}, "outputs": {"o": "float"}, "expectations": {"a": "integer", "b": "array"}, "version": "1.0"}"#;
    assert_eq!((dataset.records, dataset.schema.as_deref()), (2, Some(schema)));
    assert_ne!(dataset.digest, made.digest);
    let first = tracking.records(&made.id, 1, None, &tracking.place().await.unwrap()).await.unwrap();
    let rest = tracking.records(&made.id, 1, first.next.as_deref(), &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!(Value::Object(first.items[0].expectations.clone().unwrap()), json!({"a": 2, "b": [1]}));
    assert_eq!((rest.items[0].outputs.clone(), rest.items.len()), (Some(json!({"o": 0.5})), 1));
    let gone = vec![first.items[0].id.clone(), "dr-none".into()];
    assert_eq!(tracking.delete_records(made.id.clone(), gone).await.unwrap(), 1);
    assert_eq!(tracking.evaluation_dataset(&made.id).await.unwrap().records, 1);
    tracking.delete_evaluation_dataset(made.id.clone()).await.unwrap();
    for missing in [
        tracking.records(&made.id, 1, None, &tracking.place().await.unwrap()).await.err(),
        tracking.evaluation_dataset(&made.id).await.err(),
    ] {
        assert_eq!(missing.unwrap().code, ErrorCode::ResourceDoesNotExist);
    }
}

#[tokio::test]
async fn datasets_are_found_by_name_tag_and_experiment() {
    let (_dir, tracking) = open().await;
    let other = tracking.create_experiment(NewExperiment { name: "other".into(), ..NewExperiment::default() }).await.unwrap();
    let mut ids = Vec::new();
    for (name, experiment) in [("first", 0), ("second", other), ("third", 0)] {
        let tags = vec![Pair { key: "n".into(), value: name.into() }];
        ids.push(tracking.create_evaluation_dataset(name.into(), tags, vec![experiment]).await.unwrap().id);
    }
    let found = async |experiments: &[i64], filter: &str| -> Vec<String> {
        let query = Query { filter: filter.into(), max_results: 10, order_by: vec!["name ASC".into()], ..Query::default() };
        tracking.search_evaluation_datasets(experiments, &query).await.unwrap().items.into_iter().map(|d| d.name).collect()
    };
    assert_eq!(found(&[], "").await, ["first", "second", "third"]);
    assert_eq!(found(&[0], "name LIKE '%ir%'").await, ["first", "third"]);
    assert_eq!(found(&[], "tags.n = 'second' AND created_time > 0").await, ["second"]);
    tracking.move_evaluation_dataset(&ids[1], vec![0], true).await.unwrap();
    let moved = tracking.move_evaluation_dataset(&ids[0], vec![0], false).await.unwrap();
    assert!(moved.experiments.is_empty());
    assert_eq!(found(&[0], "").await, ["second", "third"]);
    tracking.delete_evaluation_dataset_tag(ids[2].clone(), "n".into()).await.unwrap();
    assert_eq!(found(&[], "tags.n IS NULL").await, ["third"]);
    let missing = tracking.create_evaluation_dataset("x".into(), vec![], vec![99]).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn scorers_have_versions_that_count_up() {
    let (_dir, tracking) = open().await;
    for (name, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
        tracking.register_scorer(0, name.into(), text.into()).await.unwrap();
    }
    let newest: Vec<_> = tracking.scorers(&[0]).await.unwrap().into_iter().map(|s| (s.name, s.version, s.serialized)).collect();
    assert_eq!(newest, [("a".into(), 2, "3".into()), ("b".into(), 1, "2".into())]);
    assert_eq!(tracking.scorer(0, "a", None).await.unwrap().serialized, "3");
    assert_eq!(tracking.scorer(0, "a", Some(1)).await.unwrap().serialized, "1");
    assert_eq!(tracking.scorer_versions(0, "a").await.unwrap().len(), 2);
    tracking.delete_scorer(0, "a".into(), Some(1)).await.unwrap();
    assert_eq!(tracking.scorer(0, "a", Some(1)).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    tracking.delete_scorer(0, "a".into(), None).await.unwrap();
    assert_eq!(tracking.delete_scorer(0, "a".into(), None).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(tracking.scorers(&[0]).await.unwrap().len(), 1);
    assert_eq!(tracking.register_scorer(99, "a".into(), "1".into()).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn many_records_are_stored_in_portions_and_pages_of_large_ones_end_early() {
    let (_dir, tracking) = open().await;
    let dataset = tracking.create_evaluation_dataset("d".into(), vec![], vec![]).await.unwrap().id;
    let records = |from: usize, to: usize| (from..to).map(|n| record(json!({"q": n}), json!({"a": n}))).collect::<Vec<_>>();
    assert_eq!(tracking.upsert_records(dataset.clone(), records(0, 2500)).await.unwrap(), (2500, 0));
    assert_eq!(tracking.upsert_records(dataset.clone(), records(2400, 2600)).await.unwrap(), (100, 100));
    assert_eq!(tracking.evaluation_dataset(&dataset).await.unwrap().records, 2600);
    let page = tracking.records(&dataset, 2600, None, &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!((page.items.len(), page.next), (2600, None));
    let gone = page.items.into_iter().take(2000).map(|r| r.id).collect();
    assert_eq!(tracking.delete_records(dataset.clone(), gone).await.unwrap(), 2000);
    let large = |n: usize| record(json!({ "large": n }), json!({"a": "x".repeat(3 << 20)}));
    for n in 0..12 {
        tracking.upsert_records(dataset.clone(), vec![large(n)]).await.unwrap();
    }
    let (mut sizes, mut page_token) = (Vec::new(), None);
    loop {
        let page = tracking.records(&dataset, 10_000, page_token.as_deref(), &tracking.place().await.unwrap()).await.unwrap();
        sizes.push(page.items.len());
        page_token = page.next;
        if page_token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [610, 2]);
    // One that grows too large stays as it is, and what came before it is stored.
    let more = EvaluationRecord { expectations: None, outputs: Some(json!("x".repeat(2 << 20))), ..large(0) };
    let refused = tracking.upsert_records(dataset.clone(), vec![record(json!({"new": 1}), json!({})), more]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.evaluation_dataset(&dataset).await.unwrap().records, 613);
    tracking.delete_evaluation_dataset(dataset.clone()).await.unwrap();
    assert_eq!(tracking.evaluation_dataset(&dataset).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn datasets_and_scorers_have_no_more_than_can_be_answered() {
    let (_dir, tracking) = open().await;
    let tags = |n: usize, value: &str| (0..n).map(|at| Pair { key: format!("k{at}"), value: value.into() }).collect::<Vec<_>>();
    for bad in [tags(1001, ""), tags(200, &"x".repeat(8000))] {
        assert_eq!(tracking.create_evaluation_dataset("d".into(), bad, vec![]).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    }
    let id = tracking.create_evaluation_dataset("d".into(), tags(1000, ""), vec![]).await.unwrap().id;
    let more = vec![Pair { key: "more".into(), value: "v".into() }];
    assert_eq!(tracking.set_evaluation_dataset_tags(id.clone(), more).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.move_evaluation_dataset(&id, vec![0; 1001], true).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    let large = "1".repeat(1 << 20);
    for _ in 0..32 {
        tracking.register_scorer(0, "a".into(), large.clone()).await.unwrap();
    }
    assert_eq!(tracking.register_scorer(0, "a".into(), large.clone()).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.scorer_versions(0, "a").await.unwrap().len(), 32);
    tracking.register_scorer(0, "b".into(), large).await.unwrap();
    assert_eq!(tracking.scorers(&[0]).await.unwrap().len(), 2);
}
