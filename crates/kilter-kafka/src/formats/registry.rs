//! A schema registry by its REST interface, and the schemas that were asked for.
//!
//! A schema never changes under its id, so one that is known is never asked for again. What the registry says it does not have is asked for again after a while,
//! so that a flood of records with a wrong id makes no flood of questions.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kilter_connect::base64;
use kilter_runtime::project::{RegistryDef, TopicFormat};
use serde::Deserialize;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::shape::Shape;
use super::{avro, json_schema, protobuf};
use crate::client::lock;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the registry does not have it is not asked for again so soon.
const ABSENT: Duration = Duration::from_secs(30);
/// How long a registry that was away is not believed when it says that it does not know a schema.
const COMING_BACK: Duration = Duration::from_secs(10);
/// Ids the registry does not have that are remembered.
const MAX_ABSENT: usize = 4096;
/// Bytes of one answer.
const MAX_ANSWER: u64 = 16 << 20;
/// Schemas that one schema may rest on.
const MAX_REFERENCES: usize = 256;

/// The registry and what is known of it.
pub struct Registry {
    agent: ureq::Agent,
    url: String,
    authorization: Option<String>,
    known: Mutex<HashMap<u32, Arc<Known>>>,
    absent: Mutex<HashMap<u32, (Instant, String)>>,
    /// When it was last away.
    away: Mutex<Option<Instant>>,
}

/// A schema of the registry.
pub struct Known {
    pub id: u32,
    pub format: TopicFormat,
    /// None, and the reason: Kilter cannot read it.
    pub schema: Result<Schema, String>,
}

/// A schema, ready to read by.
pub enum Schema {
    Avro(avro::Schema),
    Protobuf(protobuf::Schema),
    /// Its text: records are not read by it.
    Json(String),
}

/// Why there is no schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The registry says that it has none.
    Unknown(String),
    /// The registry says nothing, or nothing that could be meant.
    Down(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: u32,
    #[serde(default)]
    version: u32,
    schema: String,
    /// Left out: Avro.
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: i64,
    #[serde(default)]
    message: String,
}

/// The newest schema of a subject.
pub struct Newest {
    pub version: u32,
    pub known: Known,
}

impl Registry {
    /// `dir`: the project's folder.
    ///
    /// # Errors
    /// An environment variable that is not set, or a file of certificates that cannot be read.
    pub fn new(def: &RegistryDef, dir: &Path) -> anyhow::Result<Registry> {
        let RegistryDef { url, username, password, ca } = def.filled(|name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
        let mut config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        if let Some(ca) = ca {
            let roots = certificates(&dir.join(&ca)).with_context(|| format!("`kafka.schema_registry.ca`, {ca}"))?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let credentials = username.zip(password).map(|(username, password)| format!("{username}:{password}"));
        Ok(Registry {
            agent: config.build().new_agent(),
            url: url.trim_end_matches('/').to_owned(),
            authorization: credentials.map(|text| format!("Basic {}", base64(text.as_bytes()))),
            known: Mutex::default(),
            absent: Mutex::default(),
            away: Mutex::default(),
        })
    }

    /// The schema of that id, from memory where it was asked for before.
    pub fn schema(&self, id: u32) -> Result<Arc<Known>, Missing> {
        if let Some(known) = lock(&self.known).get(&id) {
            return Ok(Arc::clone(known));
        }
        if let Some((asked, reason)) = lock(&self.absent).get(&id)
            && asked.elapsed() < ABSENT
        {
            return Err(Missing::Unknown(reason.clone()));
        }
        match self.ask(&format!("/schemas/ids/{id}")).and_then(|answer| self.read(id, answer)) {
            Ok(known) => {
                let known = Arc::new(known);
                lock(&self.known).insert(id, Arc::clone(&known));
                Ok(known)
            }
            // One that has just come back may not have found all its schemas again.
            Err(Missing::Unknown(reason)) if lock(&self.away).is_some_and(|at| at.elapsed() < COMING_BACK) => Err(Missing::Down(reason)),
            Err(Missing::Unknown(reason)) => {
                let mut absent = lock(&self.absent);
                if absent.len() >= MAX_ABSENT {
                    absent.clear();
                }
                absent.insert(id, (Instant::now(), reason.clone()));
                Err(Missing::Unknown(reason))
            }
            Err(down) => {
                *lock(&self.away) = Some(Instant::now());
                Err(down)
            }
        }
    }

    /// The newest schema under which values of a topic are registered.
    pub fn newest(&self, topic: &str) -> Result<Newest, Missing> {
        let answer = self.ask(&format!("/subjects/{}-value/versions/latest", encoded(topic)))?;
        Ok(Newest { version: answer.version, known: self.read(answer.id, answer)? })
    }

    fn read(&self, id: u32, answer: Answer) -> Result<Known, Missing> {
        let references = answer.references.unwrap_or_default();
        let (format, schema) = match answer.schema_type.as_deref().unwrap_or("AVRO") {
            "AVRO" => {
                let texts: Vec<String> = self.references(references)?.into_iter().map(|(_, text)| text).collect();
                (TopicFormat::Avro, avro::Schema::parse(&answer.schema, &texts).map(Schema::Avro))
            }
            "PROTOBUF" => {
                let files: BTreeMap<String, String> = self.references(references)?.into_iter().collect();
                (TopicFormat::Protobuf, protobuf::Schema::parse(&answer.schema, &files).map(Schema::Protobuf))
            }
            "JSON" => (TopicFormat::JsonSchema, Ok(Schema::Json(answer.schema))),
            other => (TopicFormat::Json, Err(format!("schemas of the type {other} are not known"))),
        };
        Ok(Known { id, format, schema })
    }

    /// All that a schema rests on, by the names it uses, each after what it rests on itself.
    fn references(&self, direct: Vec<Reference>) -> Result<Vec<(String, String)>, Missing> {
        let mut found = Vec::new();
        let mut seen = Vec::new();
        self.collect(direct, &mut seen, &mut found)?;
        Ok(found)
    }

    fn collect(&self, references: Vec<Reference>, seen: &mut Vec<(String, i64)>, found: &mut Vec<(String, String)>) -> Result<(), Missing> {
        for Reference { name, subject, version } in references {
            let place = (subject, version);
            if seen.contains(&place) {
                continue;
            }
            if seen.len() == MAX_REFERENCES {
                return Err(Missing::Down(format!("{}: a schema that rests on more than {MAX_REFERENCES} others", self.url)));
            }
            let answer = self.ask(&format!("/subjects/{}/versions/{version}", encoded(&place.0))).map_err(|missing| match missing {
                // A schema whose parts are not there is the registry's trouble, not the record's.
                Missing::Unknown(reason) => Missing::Down(reason),
                down => down,
            })?;
            seen.push(place);
            self.collect(answer.references.unwrap_or_default(), seen, found)?;
            found.push((name, answer.schema));
        }
        Ok(())
    }

    fn ask(&self, path: &str) -> Result<Answer, Missing> {
        let down = |reason: String| Missing::Down(format!("the schema registry at {}: {reason}", self.url));
        let mut request =
            self.agent.get(format!("{}{path}", self.url)).header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().map_err(|e| down(e.to_string()))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().map_err(|e| down(e.to_string()))?;
        if status.is_success() {
            return serde_json::from_str(&body).map_err(|e| down(format!("its answer to {path} is no schema: {e}")));
        }
        match serde_json::from_str::<Refusal>(&body) {
            // Only the registry's own word counts: a 404 of something else may be a wrong address.
            Ok(Refusal { error_code: 40401..=40403, message }) => Err(Missing::Unknown(format!("{message} ({path})"))),
            Ok(Refusal { message, .. }) if !message.is_empty() => Err(down(format!("{status} to {path}: {message}"))),
            _ => Err(down(format!("{status} to {path}"))),
        }
    }
}

impl Known {
    /// What the fields are of records of this schema, one for each message that they may be; `""`: it has one kind of records only.
    pub fn shapes(&self, is_enveloped: bool) -> Result<Vec<(String, Shape)>, String> {
        match self.schema.as_ref().map_err(Clone::clone)? {
            Schema::Avro(schema) => Ok(vec![(String::new(), schema.shape(is_enveloped))]),
            Schema::Json(text) => Ok(vec![(String::new(), json_schema::shape(text, is_enveloped)?)]),
            Schema::Protobuf(schema) => Ok(schema.messages().map(|m| (m.name().to_owned(), m.shape(is_enveloped))).collect()),
        }
    }
}

fn certificates(path: &Path) -> anyhow::Result<RootCerts> {
    let pem = std::fs::read(path).context("it cannot be read")?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.context("it is no PEM file")? {
            found.push(certificate);
        }
    }
    anyhow::ensure!(!found.is_empty(), "it holds no certificate");
    Ok(RootCerts::new_with_certs(&found))
}

/// A name as one part of a path.
fn encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
