//! Who is told what happens in the registry: webhooks, their events, and what is said of each. Sending it is not done here.

use std::fmt;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::limits;
use crate::model::{ModelVersion, Pair};

/// The tag that makes a registered model a prompt.
pub(crate) const PROMPT: &str = "mlflow.prompt.is_prompt";
const PROMPT_TEXT: &str = "mlflow.prompt.text";
const PROMPT_TYPE: &str = "_mlflow_prompt_type";
const NAME: usize = 63;
const URL: usize = 2000;
const TEXT: usize = 1000;

/// What can happen. A store of Kilter never tells of [`WebhookEvent::BudgetPolicyExceeded`]: it has no gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are their names")]
pub enum WebhookEvent {
    RegisteredModelCreated,
    ModelVersionCreated,
    ModelVersionTagSet,
    ModelVersionTagDeleted,
    ModelVersionAliasCreated,
    ModelVersionAliasDeleted,
    PromptCreated,
    PromptVersionCreated,
    PromptTagSet,
    PromptTagDeleted,
    PromptVersionTagSet,
    PromptVersionTagDeleted,
    PromptAliasCreated,
    PromptAliasDeleted,
    BudgetPolicyExceeded,
}

use WebhookEvent as E;

/// Each event by what it happens to, and what happens, in the order of MLflow's words for them.
const EVENTS: [(E, &str, &str); 15] = [
    (E::RegisteredModelCreated, "registered_model", "created"),
    (E::ModelVersionCreated, "model_version", "created"),
    (E::ModelVersionTagDeleted, "model_version_tag", "deleted"),
    (E::ModelVersionTagSet, "model_version_tag", "set"),
    (E::ModelVersionAliasCreated, "model_version_alias", "created"),
    (E::ModelVersionAliasDeleted, "model_version_alias", "deleted"),
    (E::PromptCreated, "prompt", "created"),
    (E::PromptVersionCreated, "prompt_version", "created"),
    (E::PromptTagDeleted, "prompt_tag", "deleted"),
    (E::PromptTagSet, "prompt_tag", "set"),
    (E::PromptVersionTagDeleted, "prompt_version_tag", "deleted"),
    (E::PromptVersionTagSet, "prompt_version_tag", "set"),
    (E::PromptAliasCreated, "prompt_alias", "created"),
    (E::PromptAliasDeleted, "prompt_alias", "deleted"),
    (E::BudgetPolicyExceeded, "budget_policy", "exceeded"),
];

impl WebhookEvent {
    /// The event of two words such as `model_version_tag` and `set`.
    ///
    /// # Errors
    /// When that never happens.
    pub fn of(entity: &str, action: &str) -> Result<WebhookEvent> {
        let of_entity = || EVENTS.iter().filter(|(_, e, _)| *e == entity);
        if let Some((event, ..)) = of_entity().find(|(_, _, a)| *a == action) {
            return Ok(*event);
        }
        let words: Vec<String> = of_entity().map(|(_, _, action)| format!("'{action}'")).collect();
        if words.is_empty() {
            return Err(Error::invalid(format!("'{entity}' is not a valid WebhookEntity")));
        }
        Err(Error::invalid(format!("Invalid action '{action}' for entity '{entity}'. Valid actions are: [{}]", words.join(", "))))
    }

    /// What it happens to.
    pub fn entity(self) -> &'static str {
        self.words().0
    }

    /// What happens to it.
    pub fn action(self) -> &'static str {
        self.words().1
    }

    /// A payload as an event of this kind has one, in JSON: what the test of a webhook sends.
    pub fn example(self) -> String {
        let model = |what: &str| json!({"name": what});
        let (m, p) = (model("example_model"), model("example_prompt"));
        let with = |mut of: Value, more: Value| {
            if let (Value::Object(of), Value::Object(more)) = (&mut of, more) {
                of.extend(more);
            }
            of
        };
        let tags = json!({"example_key": "example_value"});
        let one = json!({"version": "1"});
        let key = json!({"key": "example_key"});
        let pair = json!({"key": "example_key", "value": "example_value"});
        let alias = json!({"alias": "example_alias"});
        let example = match self {
            E::RegisteredModelCreated => with(m, json!({"tags": tags, "description": "An example registered model"})),
            E::ModelVersionCreated => with(
                m,
                json!({"version": "1", "source": "models:/123", "run_id": "abcd1234abcd5678", "tags": tags, "description": "An example model version"}),
            ),
            E::ModelVersionTagSet => with(with(m, one), pair),
            E::ModelVersionTagDeleted => with(with(m, one), key),
            E::ModelVersionAliasCreated => with(with(m, one), alias),
            E::ModelVersionAliasDeleted => with(m, alias),
            E::PromptCreated => with(p, json!({"tags": tags, "description": "An example prompt"})),
            E::PromptVersionCreated => {
                with(p, json!({"version": "1", "template": "Hello {{name}}!", "tags": tags, "description": "An example prompt version"}))
            }
            E::PromptTagSet => with(p, pair),
            E::PromptTagDeleted => with(p, key),
            E::PromptVersionTagSet => with(with(p, one), pair),
            E::PromptVersionTagDeleted => with(with(p, one), key),
            E::PromptAliasCreated => with(with(p, one), alias),
            E::PromptAliasDeleted => with(p, alias),
            E::BudgetPolicyExceeded => json!({
                "budget_policy_id": "bp-abc123", "budget_unit": "USD", "budget_amount": 100.0, "current_spend": 105.5,
                "duration_unit": "MONTHS", "duration_value": 1, "target_scope": "ENDPOINT", "workspace": "default",
                "target_value": "ep-abc123", "window_start": 1_704_067_200_000_i64,
            }),
        };
        example.to_string()
    }

    fn words(self) -> (&'static str, &'static str) {
        EVENTS.iter().find(|(event, ..)| *event == self).map_or(("", ""), |(_, entity, action)| (entity, action))
    }

    /// As it is stored.
    pub(crate) fn parse(text: &str) -> Result<WebhookEvent> {
        let (entity, action) = text.split_once('.').unwrap_or((text, ""));
        WebhookEvent::of(entity, action)
    }
}

impl fmt::Display for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (entity, action) = self.words();
        write!(f, "{entity}.{action}")
    }
}

/// What deliveries are signed with; empty: they are not. It is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text for a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the signature and the file.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(not shown)" })
    }
}

/// A webhook as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Its name; others may have the same.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where deliveries go.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// Whether it is told.
    pub is_active: bool,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
}

/// A webhook to be made.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Letters, digits, dots, underscores and hyphens.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// Where deliveries go. Whether they may go there is for the sender to say.
    pub url: String,
    /// At least one; the same twice is once.
    pub events: Vec<WebhookEvent>,
    /// What deliveries are signed with.
    pub secret: Secret,
    /// Whether it is told from now on.
    pub is_active: bool,
}

/// What is to be another of a webhook.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "as in NewWebhook")]
pub struct WebhookChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub url: Option<String>,
    pub events: Option<Vec<WebhookEvent>>,
    pub secret: Option<Secret>,
    pub is_active: Option<bool>,
}

impl WebhookChange {
    pub(crate) fn check(&self) -> Result<()> {
        self.name.as_deref().map(name).transpose()?;
        self.url.as_deref().map(|url| limits::length("url", URL, url)).transpose()?;
        if self.events.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("Webhook events must be a non-empty list of WebhookEvent objects: []."));
        }
        self.description.as_deref().map(|text| limits::length("description", TEXT, text)).transpose()?;
        self.secret.as_ref().map(|secret| limits::length("secret", TEXT, secret.reveal())).transpose()?;
        Ok(())
    }
}

impl From<NewWebhook> for WebhookChange {
    fn from(new: NewWebhook) -> WebhookChange {
        WebhookChange {
            name: Some(new.name),
            description: Some(new.description),
            url: Some(new.url),
            events: Some(new.events),
            secret: Some(new.secret),
            is_active: Some(new.is_active),
        }
    }
}

/// The first delivery that a webhook waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The number of the webhook.
    pub webhook: i64,
    /// The number of the delivery.
    pub delivery: i64,
    /// Not to be tried before: milliseconds UTC.
    pub due: i64,
}

/// What is to be sent, and where to.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same in every attempt.
    pub id: String,
    /// The webhook's id.
    pub webhook: String,
    /// Where it goes.
    pub url: String,
    /// What it is signed with.
    pub secret: Secret,
    /// What happened.
    pub event: WebhookEvent,
    /// When: milliseconds UTC.
    pub created: i64,
    /// What else is to be said, in JSON.
    pub payload: String,
    /// Attempts that failed before.
    pub attempts: u32,
}

/// What a write of the registry changed, as far as anybody is told of it.
pub(crate) enum Change<'a> {
    Model { name: &'a str, tags: &'a [Pair], description: &'a str },
    Version(&'a ModelVersion),
    TagSet { name: &'a str, version: Option<i64>, tag: &'a Pair },
    TagDeleted { name: &'a str, version: Option<i64>, key: &'a str },
    AliasSet { name: &'a str, alias: &'a str, version: i64 },
    AliasDeleted { name: &'a str, alias: &'a str },
}

impl Change<'_> {
    /// Whether it makes a prompt, or a version of one; none: that is for the model to say.
    pub fn makes_prompt(&self) -> Option<bool> {
        match self {
            Change::Model { tags, .. } => Some(is_prompt(tags)),
            Change::Version(made) => Some(is_prompt(&made.tags)),
            _ => None,
        }
    }

    /// What is told of it. Of the tags of a registered model that is no prompt nobody is told.
    pub fn told(&self, is_prompt: bool) -> Option<(WebhookEvent, Value)> {
        let event = |of_prompt: E, of_model: E| if is_prompt { of_prompt } else { of_model };
        Some(match *self {
            Change::Model { name, tags, description } => (
                event(E::PromptCreated, E::RegisteredModelCreated),
                json!({"name": name, "tags": shown(tags, is_prompt, &[]), "description": description}),
            ),
            Change::Version(made) => {
                let description = Some(&made.description).filter(|text| !text.is_empty());
                let version = made.version.to_string();
                let tags = shown(&made.tags, is_prompt, &[PROMPT_TEXT]);
                let payload = if is_prompt {
                    let template = made.tags.iter().find(|tag| tag.key == PROMPT_TEXT).map(|tag| &tag.value);
                    json!({"name": made.name, "version": version, "template": template, "tags": tags, "description": description})
                } else {
                    let run = Some(&made.run_id).filter(|id| !id.is_empty());
                    json!({
                        "name": made.name, "version": version, "source": made.source, "run_id": run, "tags": tags,
                        "description": description,
                    })
                };
                (event(E::PromptVersionCreated, E::ModelVersionCreated), payload)
            }
            Change::TagSet { name, version: Some(version), tag } => (
                event(E::PromptVersionTagSet, E::ModelVersionTagSet),
                json!({"name": name, "version": version.to_string(), "key": tag.key, "value": tag.value}),
            ),
            Change::TagDeleted { name, version: Some(version), key } => (
                event(E::PromptVersionTagDeleted, E::ModelVersionTagDeleted),
                json!({"name": name, "version": version.to_string(), "key": key}),
            ),
            Change::TagSet { version: None, .. } | Change::TagDeleted { version: None, .. } if !is_prompt => return None,
            Change::TagSet { name, version: None, tag } => (E::PromptTagSet, json!({"name": name, "key": tag.key, "value": tag.value})),
            Change::TagDeleted { name, version: None, key } => (E::PromptTagDeleted, json!({"name": name, "key": key})),
            Change::AliasSet { name, alias, version } => (
                event(E::PromptAliasCreated, E::ModelVersionAliasCreated),
                json!({"name": name, "alias": alias, "version": version.to_string()}),
            ),
            Change::AliasDeleted { name, alias } => {
                (event(E::PromptAliasDeleted, E::ModelVersionAliasDeleted), json!({"name": name, "alias": alias}))
            }
        })
    }
}

fn is_prompt(tags: &[Pair]) -> bool {
    tags.iter().any(|tag| tag.key == PROMPT && tag.value.eq_ignore_ascii_case("true"))
}

/// Tags as an object; of a prompt without those that make it one.
fn shown(tags: &[Pair], is_prompt: bool, also: &[&str]) -> Value {
    let is_own = |key: &str| is_prompt && (key == PROMPT || key == PROMPT_TYPE || also.contains(&key));
    tags.iter().filter(|tag| !is_own(&tag.key)).map(|tag| (tag.key.clone(), Value::from(tag.value.as_str()))).collect()
}

fn name(name: &str) -> Result<()> {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() <= NAME && is_end(name.chars().next()) && is_end(name.chars().last()) && name.chars().all(is_inner) {
        return Ok(());
    }
    let shown: String = name.chars().take(200).collect();
    Err(Error::invalid(format!(
        "Webhook name '{shown}' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain \
         only letters, digits, dots (.), underscores (_), and hyphens (-)."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_two_words_that_go_together() {
        for (event, entity, action) in EVENTS {
            assert_eq!(WebhookEvent::of(entity, action).unwrap(), event);
            assert_eq!(WebhookEvent::parse(&event.to_string()).unwrap(), event);
            assert!(serde_json::from_str::<Value>(&event.example()).unwrap().is_object(), "{event}");
        }
        let refused = |entity, action| WebhookEvent::of(entity, action).unwrap_err().message;
        assert_eq!(refused("model_version", "set"), "Invalid action 'set' for entity 'model_version'. Valid actions are: ['created']");
        assert_eq!(
            refused("prompt_tag", "created"),
            "Invalid action 'created' for entity 'prompt_tag'. Valid actions are: ['deleted', 'set']"
        );
        assert!(refused("entity_unspecified", "set").contains("WebhookEntity"));
    }

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "A1", "a.b_c-d", &"x".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(name(bad).unwrap_err().message.starts_with("Webhook name '"), "{bad}");
        }
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let new = NewWebhook {
            name: "n".into(),
            description: String::new(),
            url: "https://example.com".into(),
            events: vec![E::PromptCreated],
            secret: Secret::new("hidden"),
            is_active: true,
        };
        assert!(!format!("{new:?} {:?}", WebhookChange::from(new.clone())).contains("hidden"));
    }
}
