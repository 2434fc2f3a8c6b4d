//! Experiments.

use axum::extract::State;
use kilter_tracking::{Experiment, NewExperiment, Pair, Query, Stage, Tracking};
use serde::Serialize;

use super::answer::{Answer, ExperimentJson, done, json};
use super::input::Input;
use super::scope::Readable;

const MOST: i64 = 50_000;

#[derive(Serialize)]
struct Created {
    experiment_id: String,
}

#[derive(Serialize)]
struct One<'a> {
    experiment: ExperimentJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    experiments: Vec<ExperimentJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let new = NewExperiment {
        name: f.need_text("name")?.into(),
        artifact_location: f.text("artifact_location")?.map(str::to_string),
        tags: f.pairs("tags")?,
    };
    let id = tracking.create_experiment(new).await?;
    Ok(json(&Created { experiment_id: id.to_string() }))
}

pub async fn get(State(tracking): State<Tracking>, input: Input) -> Answer {
    one(&tracking.experiment(input.fields().need_experiment("experiment_id")?).await?)
}

pub async fn get_by_name(State(tracking): State<Tracking>, input: Input) -> Answer {
    one(&tracking.experiment_by_name(input.fields().need_text("experiment_name")?).await?)
}

fn one(experiment: &Experiment) -> Answer {
    Ok(json(&One { experiment: experiment.into() }))
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: f.texts("order_by")?.into_iter().map(str::to_string).collect(),
        view: f.view("view_type")?,
        max_results: f.max_results(1000, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
        visible: readable.of_experiments(),
    };
    let page = tracking.search_experiments(&query).await?;
    Ok(json(&Many { experiments: page.items.iter().map(ExperimentJson::from).collect(), next_page_token: page.next }))
}

pub async fn update(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let id = f.need_experiment("experiment_id")?;
    if let Some(name) = f.text("new_name")?.filter(|n| !n.is_empty()) {
        tracking.rename_experiment(id, name.into()).await?;
    }
    done()
}

pub async fn delete(State(tracking): State<Tracking>, input: Input) -> Answer {
    tracking.set_experiment_stage(input.fields().need_experiment("experiment_id")?, Stage::Deleted).await?;
    done()
}

pub async fn restore(State(tracking): State<Tracking>, input: Input) -> Answer {
    tracking.set_experiment_stage(input.fields().need_experiment("experiment_id")?, Stage::Active).await?;
    done()
}

pub async fn set_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let tag = Pair { key: f.need_text("key")?.into(), value: f.any_text("value")?.into() };
    tracking.set_experiment_tag(f.need_experiment("experiment_id")?, tag).await?;
    done()
}

pub async fn delete_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.delete_experiment_tag(f.need_experiment("experiment_id")?, f.need_text("key")?.into()).await?;
    done()
}
