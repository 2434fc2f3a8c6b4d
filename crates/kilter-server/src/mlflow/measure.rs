//! Metrics of traces.

use std::collections::BTreeMap;

use axum::extract::State;
use kilter_tracking::{Aggregation, DataPoint, Error, MetricsOf, Result, TraceMetrics, Tracking};
use serde::Serialize;

use super::answer::{Answer, Double, json, large};
use super::input::{Fields, Input, experiment_id};
use super::moment::Time;
use super::scope::Readable;
use super::traces::ids;

const POINTS: usize = 1000;
const MOST: i64 = 10_000;

#[derive(Serialize)]
struct Points<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data_points: Vec<PointJson<'a>>,
}

#[derive(Serialize)]
struct PointJson<'a> {
    metric_name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dimensions: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    values: BTreeMap<&'a str, Double>,
}

pub async fn traces(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    if !f.has("experiment_ids")? {
        return Err(f.missing("experiment_ids").into());
    }
    let experiments: Vec<i64> = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<_>>()?;
    let view = f.need_text("view_type")?;
    let of = MetricsOf::read(view).ok_or_else(|| Error::invalid(format!("'{view}' is not a valid MetricViewType")))?;
    let metric = f.need_text("metric_name")?.to_string();
    let aggregations: Vec<Aggregation> = f.objects("aggregations")?.iter().map(aggregation).collect::<Result<_>>()?;
    if aggregations.is_empty() {
        return Err(f.missing("aggregations").into());
    }
    let asked = TraceMetrics {
        experiments: readable.experiments(experiments).await?.unwrap_or_default(),
        of,
        metric: metric.clone(),
        aggregations,
        dimensions: ids(&f, "dimensions")?,
        filters: ids(&f, "filters")?,
        step: f.integer("time_interval_seconds")?.filter(|seconds| *seconds != 0),
        from: f.integer("start_time_ms")?,
        to: f.integer("end_time_ms")?,
        max_results: f.max_results(POINTS, MOST)?,
    };
    let points = tracking.trace_metrics(asked).await?;
    large(move || json(&Points { data_points: points.iter().map(|point| shown(&metric, point)).collect() })).await
}

fn aggregation(f: &Fields) -> Result<Aggregation> {
    let percentile = if f.has("percentile_value")? { Some(f.need_double("percentile_value")?) } else { None };
    Aggregation::read(f.need_text("aggregation_type")?, percentile)
}

fn shown<'a>(metric_name: &'a str, point: &'a DataPoint) -> PointJson<'a> {
    let mut dimensions: BTreeMap<&str, String> = point.dimensions.iter().map(|of| (of.key.as_str(), of.value.clone())).collect();
    if let Some(time) = point.time {
        dimensions.insert("time_bucket", Time(time).to_string().replace('Z', "+00:00"));
    }
    PointJson { metric_name, dimensions, values: point.values.iter().map(|(name, value)| (name.as_str(), Double(*value))).collect() }
}
