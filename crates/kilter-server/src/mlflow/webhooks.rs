//! Webhooks: who is told what happens in the registry.

use axum::extract::{Path, State};
use kilter_tracking::{Error, NewWebhook, Result, Secret, Tracking, Webhook, WebhookChange, WebhookEvent};
use serde::Serialize;

use super::answer::{Answer, done, json};
use super::hooks::Hooks;
use super::input::{Fields, Input};

/// The numbers of MLflow's protobuf for what a client may name by number.
const ENTITIES: [&str; 11] = [
    "ENTITY_UNSPECIFIED",
    "REGISTERED_MODEL",
    "MODEL_VERSION",
    "MODEL_VERSION_TAG",
    "MODEL_VERSION_ALIAS",
    "PROMPT",
    "PROMPT_VERSION",
    "PROMPT_TAG",
    "PROMPT_VERSION_TAG",
    "PROMPT_ALIAS",
    "BUDGET_POLICY",
];
const ACTIONS: [&str; 6] = ["ACTION_UNSPECIFIED", "CREATED", "UPDATED", "DELETED", "SET", "EXCEEDED"];
const STATES: [&str; 3] = ["STATUS_UNSPECIFIED", "ACTIVE", "DISABLED"];

#[derive(Serialize)]
struct One<'a> {
    webhook: WebhookJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    webhooks: Vec<WebhookJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct WebhookJson<'a> {
    webhook_id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    url: &'a str,
    events: Vec<EventJson>,
    status: &'static str,
    creation_timestamp: i64,
    last_updated_timestamp: i64,
}

#[derive(Serialize)]
struct EventJson {
    entity: String,
    action: String,
}

#[derive(Serialize)]
struct Tested<'a> {
    result: TestJson<'a>,
}

#[derive(Serialize)]
struct TestJson<'a> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
}

impl<'a> From<&'a Webhook> for WebhookJson<'a> {
    fn from(w: &'a Webhook) -> Self {
        let event = |e: &WebhookEvent| EventJson { entity: e.entity().to_ascii_uppercase(), action: e.action().to_ascii_uppercase() };
        WebhookJson {
            webhook_id: &w.id,
            name: &w.name,
            description: &w.description,
            url: &w.url,
            events: w.events.iter().map(event).collect(),
            status: STATES[if w.is_active { 1 } else { 2 }],
            creation_timestamp: w.created,
            last_updated_timestamp: w.updated,
        }
    }
}

pub async fn create(State(hooks): State<Hooks>, input: Input) -> Answer {
    let f = input.fields();
    let new = NewWebhook {
        name: f.need_text("name")?.into(),
        url: f.need_text("url")?.into(),
        events: events(&f)?.ok_or_else(|| f.missing("events"))?,
        description: f.text("description")?.unwrap_or_default().into(),
        secret: Secret::new(f.text("secret")?.unwrap_or_default()),
        is_active: is_active(&f)?.unwrap_or(true),
    };
    hooks.check_url(&new.url).await?;
    one(&hooks.tracking().create_webhook(new).await?)
}

pub async fn list(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let page = tracking.webhooks(f.integer("max_results")?, f.text("page_token")?).await?;
    Ok(json(&Many { webhooks: page.items.iter().map(WebhookJson::from).collect(), next_page_token: page.next }))
}

pub async fn get(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    one(&tracking.webhook(&id).await?)
}

pub async fn update(State(hooks): State<Hooks>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let said = |name: &str| f.text(name).map(|text| text.filter(|t| !t.is_empty()).map(str::to_string));
    let change = WebhookChange {
        name: said("name")?,
        url: said("url")?,
        events: events(&f)?.filter(|events| !events.is_empty()),
        description: f.text("description")?.map(str::to_string),
        secret: f.text("secret")?.map(Secret::new),
        is_active: is_active(&f)?,
    };
    let known = hooks.tracking().webhook(&id).await?;
    if let Some(url) = &change.url {
        hooks.check_url(url).await?;
    }
    one(&hooks.tracking().update_webhook(&known.id, change).await?)
}

pub async fn delete(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    tracking.delete_webhook(id).await?;
    done()
}

pub async fn test(State(hooks): State<Hooks>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let named = if f.has("event")? { Some(event(&f.need_object("event")?)?) } else { None };
    let delivery = hooks.tracking().test_delivery(&id, named).await?;
    let answer = hooks.test(&delivery).await;
    let result = match &answer {
        Ok(answer) => TestJson {
            success: (200..300).contains(&answer.status),
            response_status: Some(answer.status),
            response_body: Some(&answer.body),
            error_message: None,
        },
        Err(none) => TestJson {
            success: false,
            response_status: None,
            response_body: None,
            error_message: Some(format!("Failed to test webhook: {none}")),
        },
    };
    Ok(json(&Tested { result }))
}

fn one(webhook: &Webhook) -> Answer {
    Ok(json(&One { webhook: webhook.into() }))
}

fn events(f: &Fields) -> Result<Option<Vec<WebhookEvent>>> {
    if !f.has("events")? {
        return Ok(None);
    }
    f.objects("events")?.iter().map(event).collect::<Result<_>>().map(Some)
}

fn event(f: &Fields) -> Result<WebhookEvent> {
    let entity = word(f, "entity", &ENTITIES)?.ok_or_else(|| f.missing("entity"))?;
    let action = word(f, "action", &ACTIONS)?.ok_or_else(|| f.missing("action"))?;
    WebhookEvent::of(&entity.to_ascii_lowercase(), &action.to_ascii_lowercase())
}

fn is_active(f: &Fields) -> Result<Option<bool>> {
    Ok(word(f, "status", &STATES)?.map(|word| word == STATES[1]))
}

/// A word of an enumeration of protobuf, by itself or by its number, which is its place among `words`.
fn word(f: &Fields, name: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
    let Some(value) = f.any(name)? else { return Ok(None) };
    let at = match value.as_str() {
        Some(text) => words.iter().position(|word| *word == text),
        None => value.as_u64().and_then(|number| usize::try_from(number).ok()),
    };
    // The first says that nothing is said.
    let known = at.filter(|at| *at > 0).and_then(|at| words.get(at).copied());
    let refuse = || {
        let shown: String = value.to_string().chars().take(200).collect();
        Error::invalid(format!("Invalid value {shown} for parameter '{name}' supplied: it must be one of {}.", words[1..].join(", ")))
    };
    known.ok_or_else(refuse).map(Some)
}
