//! What webhooks are told: by which writes of the registry, with which words, and that it is neither lost nor told for nothing.

use crate::common;
use kilter_tracking::{ErrorCode, NewModelVersion, NewWebhook, Pair, Secret, Tracking, WebhookChange, WebhookEvent};
use serde_json::{Value, json};

const ALL: [(&str, &str); 14] = [
    ("registered_model", "created"),
    ("model_version", "created"),
    ("model_version_tag", "set"),
    ("model_version_tag", "deleted"),
    ("model_version_alias", "created"),
    ("model_version_alias", "deleted"),
    ("prompt", "created"),
    ("prompt_version", "created"),
    ("prompt_tag", "set"),
    ("prompt_tag", "deleted"),
    ("prompt_version_tag", "set"),
    ("prompt_version_tag", "deleted"),
    ("prompt_alias", "created"),
    ("prompt_alias", "deleted"),
];

fn events(words: &[(&str, &str)]) -> Vec<WebhookEvent> {
    words.iter().map(|(entity, action)| WebhookEvent::of(entity, action).unwrap()).collect()
}

fn hook(events: Vec<WebhookEvent>) -> NewWebhook {
    NewWebhook {
        name: "hook".into(),
        description: String::new(),
        url: "https://example.com/hook".into(),
        events,
        secret: Secret::new("hidden"),
        is_active: true,
    }
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.into(), value: value.into() }
}

async fn open() -> (tempfile::TempDir, Tracking) {
    let dir = tempfile::tempdir().unwrap();
    let tracking = common::open(dir.path()).await.unwrap();
    (dir, tracking)
}

/// Takes out what waits, as a receiver that takes everything would.
async fn told(tracking: &Tracking) -> Vec<(String, Value)> {
    let mut told = Vec::new();
    while let Some(first) = tracking.waiting_deliveries().await.unwrap().first() {
        let delivery = tracking.delivery(first.delivery).await.unwrap().unwrap();
        assert_eq!((delivery.secret.reveal(), delivery.url.as_str(), delivery.attempts), ("hidden", "https://example.com/hook", 0));
        told.push((delivery.event.to_string(), serde_json::from_str(&delivery.payload).unwrap()));
        tracking.end_delivery(first.delivery).await.unwrap();
    }
    told
}

fn version(name: &str, tags: Vec<Pair>) -> NewModelVersion {
    NewModelVersion { name: name.into(), source: "s3://bucket/model".into(), tags, ..NewModelVersion::default() }
}

#[tokio::test]
async fn a_model_tells_what_happens_to_it_and_no_more() {
    let (_dir, tracking) = open().await;
    tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    tracking.create_registered_model("m", "", vec![pair("a", "1"), pair("a", "2")]).await.unwrap();
    tracking.create_model_version(NewModelVersion { description: "first".into(), ..version("m", vec![pair("b", "3")]) }).await.unwrap();
    tracking.set_model_tag("m".into(), Some(1), pair("k", "v")).await.unwrap();
    tracking.delete_model_tag("m".into(), Some(1), "k".into()).await.unwrap();
    tracking.delete_model_tag("m".into(), Some(1), "never".into()).await.unwrap();
    tracking.set_alias("m".into(), "champion".into(), 1).await.unwrap();
    tracking.delete_alias("m".into(), "champion".into()).await.unwrap();
    let want = [
        ("registered_model.created", json!({"name": "m", "tags": {"a": "2"}, "description": ""})),
        (
            "model_version.created",
            json!({"name": "m", "version": "1", "source": "s3://bucket/model", "run_id": null, "tags": {"b": "3"}, "description": "first"}),
        ),
        ("model_version_tag.set", json!({"name": "m", "version": "1", "key": "k", "value": "v"})),
        ("model_version_tag.deleted", json!({"name": "m", "version": "1", "key": "k"})),
        ("model_version_tag.deleted", json!({"name": "m", "version": "1", "key": "never"})),
        ("model_version_alias.created", json!({"name": "m", "alias": "champion", "version": "1"})),
        ("model_version_alias.deleted", json!({"name": "m", "alias": "champion"})),
    ];
    assert_eq!(told(&tracking).await, want.map(|(event, payload)| (event.to_string(), payload)));
    // Of these MLflow's server tells nobody either.
    tracking.set_model_tag("m".into(), None, pair("k", "v")).await.unwrap();
    tracking.delete_model_tag("m".into(), None, "k".into()).await.unwrap();
    tracking.set_version_stage("m", 1, "Staging", false).await.unwrap();
    tracking.describe_version("m", 1, "second".into()).await.unwrap();
    tracking.update_registered_model("m", Some("n".into()), None).await.unwrap();
    tracking.delete_model_version("n".into(), 1).await.unwrap();
    tracking.delete_registered_model("n".into()).await.unwrap();
    // What is refused did not happen.
    assert!(tracking.set_alias("m".into(), "champion".into(), 7).await.is_err());
    assert!(tracking.create_registered_model("a/b", "", Vec::new()).await.is_err());
    assert_eq!(told(&tracking).await, []);
}

#[tokio::test]
async fn a_prompt_tells_by_its_own_events() {
    let (_dir, tracking) = open().await;
    tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    let prompt = || pair("mlflow.prompt.is_prompt", "true");
    tracking.create_registered_model("p", "greets", vec![prompt(), pair("_mlflow_prompt_type", "text"), pair("team", "x")]).await.unwrap();
    let text = pair("mlflow.prompt.text", "Hello {{name}}!");
    let source = |tags| NewModelVersion { source: "prompt-template".into(), ..version("p", tags) };
    tracking.create_model_version(source(vec![prompt(), text, pair("_mlflow_prompt_type", "text"), pair("who", "me")])).await.unwrap();
    tracking.set_model_tag("p".into(), None, pair("k", "v")).await.unwrap();
    tracking.delete_model_tag("p".into(), None, "k".into()).await.unwrap();
    tracking.set_model_tag("p".into(), Some(1), pair("k", "v")).await.unwrap();
    tracking.delete_model_tag("p".into(), Some(1), "k".into()).await.unwrap();
    tracking.set_alias("p".into(), "live".into(), 1).await.unwrap();
    tracking.delete_alias("p".into(), "live".into()).await.unwrap();
    let want = [
        ("prompt.created", json!({"name": "p", "tags": {"team": "x"}, "description": "greets"})),
        (
            "prompt_version.created",
            json!({"name": "p", "version": "1", "template": "Hello {{name}}!", "tags": {"who": "me"}, "description": null}),
        ),
        ("prompt_tag.set", json!({"name": "p", "key": "k", "value": "v"})),
        ("prompt_tag.deleted", json!({"name": "p", "key": "k"})),
        ("prompt_version_tag.set", json!({"name": "p", "version": "1", "key": "k", "value": "v"})),
        ("prompt_version_tag.deleted", json!({"name": "p", "version": "1", "key": "k"})),
        ("prompt_alias.created", json!({"name": "p", "alias": "live", "version": "1"})),
        ("prompt_alias.deleted", json!({"name": "p", "alias": "live"})),
    ];
    assert_eq!(told(&tracking).await, want.map(|(event, payload)| (event.to_string(), payload)));
    // What makes it a prompt is what it is after the write.
    tracking.delete_model_tag("p".into(), None, "mlflow.prompt.is_prompt".into()).await.unwrap();
    assert_eq!(told(&tracking).await, []);
    tracking.set_model_tag("p".into(), None, pair("mlflow.prompt.is_prompt", "True")).await.unwrap();
    assert_eq!(told(&tracking).await[0].0, "prompt_tag.set");
}

#[tokio::test]
async fn only_those_are_told_that_want_it_and_are_active() {
    let (dir, tracking) = open().await;
    let created = || events(&[("registered_model", "created")]);
    let make = |name: &'static str| {
        let tracking = tracking.clone();
        async move { tracking.create_registered_model(name, "", Vec::new()).await.unwrap() }
    };
    make("before").await;
    let other = tracking.create_webhook(hook(events(&[("prompt", "created")]))).await.unwrap();
    let off = tracking.create_webhook(NewWebhook { is_active: false, ..hook(created()) }).await.unwrap();
    let on = tracking.create_webhook(hook(created())).await.unwrap();
    make("a").await;
    let waiting = tracking.waiting_deliveries().await.unwrap();
    let delivery = tracking.delivery(waiting[0].delivery).await.unwrap().unwrap();
    assert_eq!((waiting.len(), &delivery.webhook), (1, &on.id));
    // What is known goes over a crash: here a copy of the files as they are.
    if std::env::var_os(common::SERVER).is_none() {
        let copy = tempfile::tempdir().unwrap();
        for file in ["tracking.db", "tracking.db-wal"] {
            std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
        }
        let again = Tracking::open(copy.path()).await.unwrap();
        assert_eq!(again.delivery(waiting[0].delivery).await.unwrap().unwrap().id, delivery.id);
    }
    // Disabled, nothing goes out; enabled again, what comes from then on.
    let set = |is_active| WebhookChange { is_active: Some(is_active), ..WebhookChange::default() };
    assert!(!tracking.update_webhook(&on.id, set(false)).await.unwrap().is_active);
    assert_eq!(tracking.waiting_deliveries().await.unwrap(), []);
    assert!(tracking.delivery(waiting[0].delivery).await.unwrap().is_none());
    make("b").await;
    tracking.update_webhook(&on.id, set(true)).await.unwrap();
    make("c").await;
    assert_eq!(told(&tracking).await, [("registered_model.created".to_string(), json!({"name": "c", "tags": {}, "description": ""}))]);
    // Deleted with what waits for it.
    make("d").await;
    tracking.delete_webhook(on.id.clone()).await.unwrap();
    assert_eq!(tracking.waiting_deliveries().await.unwrap(), []);
    for error in [tracking.webhook(&on.id).await.unwrap_err(), tracking.delete_webhook(on.id.clone()).await.unwrap_err()] {
        assert_eq!((error.code, error.message), (ErrorCode::ResourceDoesNotExist, format!("Webhook with ID {} not found.", on.id)));
    }
    let names: Vec<String> = tracking.webhooks(None, None).await.unwrap().items.into_iter().map(|w| w.id).collect();
    assert_eq!(names, [off.id, other.id]);
}

#[tokio::test]
async fn what_is_put_off_keeps_its_place_and_its_id() {
    let (_dir, tracking) = open().await;
    let quick = tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    for name in ["a", "b"] {
        tracking.create_registered_model(name, "", Vec::new()).await.unwrap();
    }
    let heads = tracking.waiting_deliveries().await.unwrap();
    assert_eq!(heads.len(), 2);
    let before = tracking.delivery(heads[0].delivery).await.unwrap().unwrap();
    assert_eq!(before.webhook, quick.id);
    tracking.put_off_delivery(heads[0].delivery, 3_600_000).await.unwrap();
    // Its webhook waits for it, the other does not; who is due first is first.
    let later = tracking.waiting_deliveries().await.unwrap();
    assert_eq!(later.iter().map(|w| w.delivery).collect::<Vec<_>>(), [heads[1].delivery, heads[0].delivery]);
    assert!(later[1].due >= heads[0].due + 3_600_000);
    let after = tracking.delivery(heads[0].delivery).await.unwrap().unwrap();
    assert_eq!((after.attempts, &after.id, after.created), (1, &before.id, before.created));
    // A changed webhook gets what waits as it is from then on.
    let change = WebhookChange { url: Some("https://example.com/new".into()), secret: Some(Secret::new("")), ..WebhookChange::default() };
    tracking.update_webhook(&quick.id, change).await.unwrap();
    let moved = tracking.delivery(heads[0].delivery).await.unwrap().unwrap();
    assert_eq!((moved.url.as_str(), moved.secret.reveal()), ("https://example.com/new", ""));
}

#[tokio::test]
async fn a_webhook_that_is_far_behind_loses_what_comes_and_not_what_waits() {
    let (_dir, tracking) = open().await;
    tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    tracking.create_registered_model("m", "", Vec::new()).await.unwrap();
    tracking.create_model_version(version("m", Vec::new())).await.unwrap();
    let set = |n: usize| tracking.set_model_tag("m".into(), Some(1), pair("k", &n.to_string()));
    for n in 0..998 {
        set(n).await.unwrap();
    }
    assert_eq!(tracking.deliveries_not_kept(), 0);
    for n in 0..3 {
        set(n).await.unwrap();
    }
    assert_eq!(tracking.deliveries_not_kept(), 3);
    let first = tracking.waiting_deliveries().await.unwrap()[0].delivery;
    tracking.end_delivery(first).await.unwrap();
    set(7).await.unwrap();
    assert_eq!((tracking.deliveries_not_kept(), told(&tracking).await.len()), (3, 1000));
}

#[tokio::test]
async fn webhooks_are_listed_in_pages_and_refused_in_words() {
    let (_dir, tracking) = open().await;
    let twice = events(&[("prompt", "created"), ("model_version", "created"), ("prompt", "created")]);
    let one = tracking.create_webhook(hook(twice)).await.unwrap();
    assert_eq!(one.events, events(&[("prompt", "created"), ("model_version", "created")]));
    assert_eq!(one.created, one.updated);
    for _ in 0..4 {
        tracking.create_webhook(hook(events(&ALL))).await.unwrap();
    }
    let (mut seen, mut token) = (Vec::new(), None);
    loop {
        let page = tracking.webhooks(Some(2), token.as_deref()).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|w| w.id));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), seen.last()), (5, Some(&one.id)));
    for (most, token, words) in [
        (Some(1001), None, "max_results must be between 1 and 1000."),
        (Some(-1), None, "max_results must be between 1 and 1000."),
        (None, Some("!!"), "Invalid page token"),
    ] {
        assert_eq!(tracking.webhooks(most, token).await.unwrap_err().message, words);
    }
    let refused = |new| {
        let tracking = tracking.clone();
        async move { tracking.create_webhook(new).await.unwrap_err().message }
    };
    let good = hook(events(&ALL));
    let words = refused(NewWebhook { name: "-a".into(), ..good.clone() }).await;
    assert!(words.starts_with("Webhook name '-a' is invalid. It must start and end with a letter or digit"), "{words}");
    let words = refused(NewWebhook { events: Vec::new(), ..good.clone() }).await;
    assert_eq!(words, "Webhook events must be a non-empty list of WebhookEvent objects: [].");
    let words = refused(NewWebhook { description: "x".repeat(1001), ..good.clone() }).await;
    assert_eq!(words, "'description' exceeds the maximum length of 1000 characters");
    let words = refused(NewWebhook { secret: Secret::new("x".repeat(1001)), ..good.clone() }).await;
    assert_eq!(words, "'secret' exceeds the maximum length of 1000 characters");
    let words = refused(NewWebhook { url: format!("https://{}", "x".repeat(2000)), ..good }).await;
    assert_eq!(words, "'url' exceeds the maximum length of 2000 characters");
    assert_eq!(tracking.webhooks(None, None).await.unwrap().items.len(), 5);
}
