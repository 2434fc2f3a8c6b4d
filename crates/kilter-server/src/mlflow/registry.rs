//! Registered models, their versions and aliases.

use axum::extract::State;
use kilter_store::metadata::CHAMPION;
use kilter_tracking::{Error, ErrorCode, ModelVersion, NewModelVersion, Pair, Query, RegisteredModel, Result, Tracking};
use serde::Serialize;

use super::answer::{Answer, PairJson, done, json, pairs};
use super::input::{Fields, Input};
use super::own::models::ALIASES;
use super::scope::Readable;

const MOST_MODELS: i64 = 1000;
const MOST_VERSIONS: i64 = 200_000;

#[derive(Serialize)]
struct OneModel<'a> {
    registered_model: ModelJson<'a>,
}

#[derive(Serialize)]
struct ManyModels<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    registered_models: Vec<ModelJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct OneVersion<'a> {
    model_version: VersionJson<'a>,
}

#[derive(Serialize)]
struct ManyVersions<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    model_versions: Vec<VersionJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct Uri<'a> {
    artifact_uri: &'a str,
}

#[derive(Serialize)]
struct ModelJson<'a> {
    name: &'a str,
    creation_timestamp: i64,
    last_updated_timestamp: i64,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    latest_versions: Vec<VersionJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<AliasJson<'a>>,
}

#[derive(Serialize)]
struct AliasJson<'a> {
    alias: &'a str,
    version: String,
}

#[derive(Serialize)]
struct VersionJson<'a> {
    name: &'a str,
    version: String,
    creation_timestamp: i64,
    last_updated_timestamp: i64,
    current_stage: &'a str,
    description: &'a str,
    source: &'a str,
    run_id: &'a str,
    status: &'static str,
    run_link: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<&'a str>,
}

impl<'a> From<&'a RegisteredModel> for ModelJson<'a> {
    fn from(m: &'a RegisteredModel) -> Self {
        ModelJson {
            name: &m.name,
            creation_timestamp: m.created,
            last_updated_timestamp: m.updated,
            description: &m.description,
            latest_versions: m.latest.iter().map(listed).collect(),
            tags: pairs(&m.tags),
            aliases: m.aliases.iter().map(|(alias, version)| AliasJson { alias, version: version.to_string() }).collect(),
        }
    }
}

impl<'a> From<&'a ModelVersion> for VersionJson<'a> {
    fn from(v: &'a ModelVersion) -> Self {
        VersionJson {
            name: &v.name,
            version: v.version.to_string(),
            creation_timestamp: v.created,
            last_updated_timestamp: v.updated,
            current_stage: &v.stage,
            description: &v.description,
            source: &v.source,
            run_id: &v.run_id,
            status: "READY",
            run_link: &v.run_link,
            tags: pairs(&v.tags),
            aliases: v.aliases.iter().map(String::as_str).collect(),
        }
    }
}

/// A version in a list, where MLflow's server leaves out its aliases: the model has them.
fn listed(version: &ModelVersion) -> VersionJson<'_> {
    VersionJson { aliases: Vec::new(), ..version.into() }
}

fn model(model: &RegisteredModel) -> Answer {
    Ok(json(&OneModel { registered_model: model.into() }))
}

fn version(version: &ModelVersion) -> Answer {
    Ok(json(&OneVersion { model_version: version.into() }))
}

fn query(f: &Fields, default: usize, most: i64) -> Result<Query> {
    Ok(Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: f.texts("order_by")?.into_iter().map(str::to_string).collect(),
        max_results: f.max_results(default, most)?,
        page_token: f.text("page_token")?.map(str::to_string),
        ..Query::default()
    })
}

fn tag(f: &Fields) -> Result<Pair> {
    Ok(Pair { key: f.need_text("key")?.into(), value: f.any_text("value")?.into() })
}

/// Refuses for a model of the project what only the project does; `hint` says how.
async fn free(tracking: &Tracking, name: &str, what: &str, hint: String) -> Result<()> {
    if !tracking.is_kept(name).await? {
        return Ok(());
    }
    let message = format!("Registered model '{name}' is a model of the project, and {what}.\n  hint: {hint}");
    Err(Error::new(ErrorCode::PermissionDenied, message))
}

/// The same for an alias: those that say what is in service are the project's, all others anybody's.
async fn free_alias(tracking: &Tracking, name: &str, alias: &str, version: Option<i64>) -> Result<()> {
    if !ALIASES.contains(&alias) {
        return Ok(());
    }
    let hint = match version {
        Some(version) if alias == CHAMPION => format!("kilter promote {name}@{version}"),
        Some(_) => format!("the version that came last has it; kilter models {name} lists them"),
        None => format!("kilter rollback {name} goes back to the version before; kilter promote {name}@VERSION to any"),
    };
    let what = format!("its alias '{alias}' says what is in service: it follows from promotions, which are in the project's log");
    free(tracking, name, &what, hint).await
}

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let description = f.text("description")?.unwrap_or_default();
    model(&tracking.create_registered_model(f.need_text("name")?, description, f.pairs("tags")?).await?)
}

pub async fn rename(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, new) = (f.need_text("name")?, f.need_text("new_name")?);
    free(&tracking, name, "has the name that it has there", "rename it in kilter.toml, then kilter apply".into()).await?;
    model(&tracking.update_registered_model(name, Some(new.into()), None).await?)
}

pub async fn update(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    model(&tracking.update_registered_model(f.need_text("name")?, None, f.text("description")?.map(str::to_string)).await?)
}

pub async fn delete(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let name = f.need_text("name")?;
    free(&tracking, name, "stays: its versions have decided", format!("kilter models {name} lists them")).await?;
    tracking.delete_registered_model(name.into()).await?;
    done()
}

pub async fn get(State(tracking): State<Tracking>, input: Input) -> Answer {
    model(&tracking.registered_model(input.fields().need_text("name")?).await?)
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let query = Query { visible: readable.of_models(), ..query(&input.fields(), 100, MOST_MODELS)? };
    let page = tracking.search_registered_models(&query).await?;
    let registered_models = page.items.iter().map(ModelJson::from).collect();
    Ok(json(&ManyModels { registered_models, next_page_token: page.next }))
}

pub async fn latest(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let versions = tracking.latest_versions(f.need_text("name")?, &f.texts("stages")?).await?;
    let model_versions = versions.iter().map(listed).collect();
    Ok(json(&ManyVersions { model_versions, next_page_token: None }))
}

pub async fn set_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.set_model_tag(f.need_text("name")?.into(), None, tag(&f)?).await?;
    done()
}

pub async fn delete_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.delete_model_tag(f.need_text("name")?.into(), None, f.need_text("key")?.into()).await?;
    done()
}

pub async fn set_alias(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, alias, version) = (f.need_text("name")?, f.need_text("alias")?, f.need_version()?);
    free_alias(&tracking, name, alias, Some(version)).await?;
    tracking.set_alias(name.into(), alias.into(), version).await?;
    done()
}

pub async fn delete_alias(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, alias) = (f.need_text("name")?, f.need_text("alias")?);
    free_alias(&tracking, name, alias, None).await?;
    tracking.delete_alias(name.into(), alias.into()).await?;
    done()
}

pub async fn by_alias(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    version(&tracking.version_by_alias(f.need_text("name")?, f.need_text("alias")?).await?)
}

pub async fn create_version(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let text = |name: &str| f.text(name).map(|t| t.unwrap_or_default().to_string());
    let new = NewModelVersion {
        name: f.need_text("name")?.into(),
        source: f.need_text("source")?.into(),
        run_id: text("run_id")?,
        run_link: text("run_link")?,
        model_id: text("model_id")?,
        description: text("description")?,
        tags: f.pairs("tags")?,
    };
    let hint = format!("kilter models import {} FILE", new.name);
    free(&tracking, &new.name, "its versions are those that it trains and imports", hint).await?;
    version(&tracking.create_model_version(new).await?)
}

pub async fn update_version(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, number) = (f.need_text("name")?, f.need_version()?);
    version(&tracking.describe_version(name, number, f.text("description")?.unwrap_or_default().into()).await?)
}

pub async fn set_stage(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, number) = (f.need_text("name")?, f.need_version()?);
    let (stage, archive) = (f.need_text("stage")?, f.need_bool("archive_existing_versions")?);
    free(&tracking, name, "its versions have no stages", format!("kilter promote {name}@{number} puts it into service")).await?;
    version(&tracking.set_version_stage(name, number, stage, archive).await?)
}

pub async fn delete_version(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (name, number) = (f.need_text("name")?, f.need_version()?);
    free(&tracking, name, "its versions stay: decisions are replayed with them", format!("kilter models {name} lists them")).await?;
    tracking.delete_model_version(name.into(), number).await?;
    done()
}

pub async fn get_version(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    version(&tracking.model_version(f.need_text("name")?, f.need_version()?).await?)
}

pub async fn download_uri(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let found = tracking.model_version(f.need_text("name")?, f.need_version()?).await?;
    Ok(json(&Uri { artifact_uri: &found.location }))
}

pub async fn search_versions(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let query = Query { visible: readable.of_models(), ..query(&input.fields(), 10_000, MOST_VERSIONS)? };
    let page = tracking.search_model_versions(&query).await?;
    let model_versions = page.items.iter().map(listed).collect();
    Ok(json(&ManyVersions { model_versions, next_page_token: page.next }))
}

pub async fn set_version_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.set_model_tag(f.need_text("name")?.into(), Some(f.need_version()?), tag(&f)?).await?;
    done()
}

pub async fn delete_version_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.delete_model_tag(f.need_text("name")?.into(), Some(f.need_version()?), f.need_text("key")?.into()).await?;
    done()
}
