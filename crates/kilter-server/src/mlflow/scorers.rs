//! What judges the answers of models of language.

use axum::extract::State;
use kilter_tracking::{Error, Result, Scorer, Tracking};
use serde::Serialize;

use super::answer::{Answer, done, json, large};
use super::input::{Input, experiment_id};

#[derive(Serialize)]
struct Registered<'a> {
    version: i64,
    scorer_id: &'a str,
    experiment_id: String,
    name: &'a str,
    serialized_scorer: &'a str,
    creation_time: i64,
}

#[derive(Serialize)]
struct One<'a> {
    scorer: ScorerJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scorers: Vec<ScorerJson<'a>>,
}

/// Nothing is scored while it is served: there are no configurations for that.
#[derive(Serialize)]
struct NoConfigs {
    configs: [(); 0],
}

/// The one answer of MLflow's with an experiment's id as a number.
#[derive(Serialize)]
struct ScorerJson<'a> {
    experiment_id: i64,
    scorer_name: &'a str,
    scorer_version: i64,
    serialized_scorer: &'a str,
    creation_time: i64,
    scorer_id: &'a str,
}

impl<'a> From<&'a Scorer> for ScorerJson<'a> {
    fn from(s: &'a Scorer) -> Self {
        ScorerJson {
            experiment_id: s.experiment,
            scorer_name: &s.name,
            scorer_version: s.version,
            serialized_scorer: &s.serialized,
            creation_time: s.created,
            scorer_id: &s.id,
        }
    }
}

async fn many(scorers: Vec<Scorer>) -> Answer {
    large(move || json(&Many { scorers: scorers.iter().map(ScorerJson::from).collect() })).await
}

pub async fn register(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let serialized = f.need_text("serialized_scorer")?;
    if let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(serialized) {
        return Err(Error::invalid(format!("Invalid value for parameter 'serialized_scorer' supplied: it must be JSON: {e}")).into());
    }
    let s = tracking.register_scorer(f.need_experiment("experiment_id")?, f.need_text("name")?.into(), serialized.into()).await?;
    Ok(json(&Registered {
        version: s.version,
        scorer_id: &s.id,
        experiment_id: s.experiment.to_string(),
        name: &s.name,
        serialized_scorer: &s.serialized,
        creation_time: s.created,
    }))
}

pub async fn list(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let mut experiments = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<Vec<_>>>()?;
    experiments.extend(f.experiment("experiment_id")?);
    if experiments.is_empty() {
        return Err(f.missing("experiment_id").into());
    }
    if experiments.len() > 100 {
        return Err(Error::invalid(format!("A request can name at most 100 experiments. Got {}.", experiments.len())).into());
    }
    many(tracking.scorers(&experiments).await?).await
}

pub async fn versions(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    many(tracking.scorer_versions(f.need_experiment("experiment_id")?, f.need_text("name")?).await?).await
}

pub async fn get(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let scorer = tracking.scorer(f.need_experiment("experiment_id")?, f.need_text("name")?, f.integer("version")?).await?;
    Ok(json(&One { scorer: (&scorer).into() }))
}

pub async fn delete(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.delete_scorer(f.need_experiment("experiment_id")?, f.need_text("name")?.into(), f.integer("version")?).await?;
    done()
}

pub async fn online_configs(_: State<Tracking>) -> Answer {
    Ok(json(&NoConfigs { configs: [] }))
}
