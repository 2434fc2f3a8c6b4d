//! Metrics of traces, their spans and what is said of them.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Tracking;
use super::search::{in_list, listed};
use crate::db::{Db, Row, Sql};
use crate::error::{Error, Result};
use crate::limits;
use crate::measure::{Aggregation, DataPoint, Filter, Known, Measured, MetricsOf, TraceMetrics, Wanted};
use crate::model::Pair;

/// Values that are in memory at most, each once in its group, and bytes of the texts that groups are made by.
const VALUES: usize = 2_000_000;
const BYTES: usize = 64 << 20;
const NANOS: i64 = 1_000_000;

/// When a group begins, and what it was made by.
type Group = (i64, Vec<String>);
/// Values, each with how often it is there.
type Values = Vec<(f64, u64)>;

/// The first groups in their order, as many as are answered: of those that come after them nothing is kept.
struct Groups {
    first: BTreeMap<Group, Values>,
    most: usize,
    values: usize,
    bytes: usize,
}

impl Tracking {
    /// Measures traces. Groups without a value are left out, but for the count of nothing where no groups are made.
    ///
    /// # Errors
    /// When the metric cannot be measured so, or there is too much to measure at once.
    pub async fn trace_metrics(&self, asked: TraceMetrics) -> Result<Vec<DataPoint>> {
        let known = asked.known()?;
        let wanted = asked.wanted()?;
        limits::experiments(&asked.experiments)?;
        let _place = self.place().await?;
        self.read(move |db| {
            let groups = groups(db, &asked, known, &wanted)?;
            if asked.step.is_none()
                && asked.dimensions.is_empty()
                && groups.first.is_empty()
                && asked.aggregations.contains(&Aggregation::Count)
            {
                let values = vec![(Aggregation::Count.name(), 0.)];
                return Ok(vec![DataPoint { time: None, dimensions: Vec::new(), values }]);
            }
            let point = |((time, dimensions), mut values): (Group, Values)| {
                values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
                let aggregated = asked.aggregations.iter().filter_map(|one| Some((one.name(), one.of(&values)?)));
                DataPoint {
                    time: asked.step.map(|_| time),
                    dimensions: asked.dimensions.iter().cloned().zip(dimensions).map(|(key, value)| Pair { key, value }).collect(),
                    values: aggregated.collect(),
                }
            };
            Ok(groups.first.into_iter().map(point).collect())
        })
        .await
    }
}

fn groups(db: &mut Db, asked: &TraceMetrics, known: &Known, wanted: &[Filter]) -> Result<Groups> {
    let mut groups = Groups { first: BTreeMap::new(), most: asked.max_results, values: 0, bytes: 0 };
    select(asked, known, wanted).each(db, |row| {
        let Some((value, times)) = measured(row, known.measured)? else { return Ok(()) };
        let dimensions = (0..asked.dimensions.len()).map(|at| row.get(3 + at)).collect::<Result<Vec<String>>>()?;
        groups.add((row.get(1)?, dimensions), value, times);
        if groups.values > VALUES || groups.bytes > BYTES {
            return Err(Error::invalid("there is too much to measure at once\n  hint: ask for a shorter time, or by a narrower filter"));
        }
        Ok(())
    })?;
    Ok(groups)
}

impl Groups {
    fn add(&mut self, of: Group, value: f64, times: u64) {
        let size = bytes(&of);
        let group = self.first.entry(of).or_default();
        self.bytes += if group.is_empty() { size } else { 0 };
        match group.last_mut() {
            // Where nothing is told apart, one number stands for all.
            Some(last) if last.0 == value => last.1 += times,
            _ => {
                self.values += 1;
                group.push((value, times));
            }
        }
        // More of the same group may come: it goes again then, as there are no fewer before it.
        if self.first.len() > self.most
            && let Some((last, values)) = self.first.pop_last()
        {
            self.values -= values.len();
            self.bytes -= bytes(&last);
        }
    }
}

fn bytes((_, dimensions): &Group) -> usize {
    dimensions.iter().map(|text| text.len() + size_of::<String>()).sum()
}

/// Rows of: how many are alike, when their step in time begins, their value, and what groups are made by.
fn select(asked: &TraceMetrics, known: &Known, wanted: &[Filter]) -> Sql {
    let value = match known.measured {
        Measured::Rows => "1",
        Measured::Number(of) | Measured::Distinct(of) | Measured::Member(of, _) | Measured::Judgement(of) => of,
    };
    let (time, unit) = if asked.of == MetricsOf::Spans { ("s.start_time", NANOS) } else { ("t.start_time", 1) };
    let step = asked.step.map_or_else(
        || "0".to_string(),
        |seconds| {
            let step = seconds * 1000 * unit;
            format!("({time} - (({time} % {step}) + {step}) % {step}) / {unit}")
        },
    );
    let mut sql = Sql::new(format!("SELECT COUNT(*), {step}, {value}"));
    for dimension in &asked.dimensions {
        sql.push(", ").push(column(dimension));
    }
    sql.push(" FROM traces t");
    sql.push(match asked.of {
        MetricsOf::Traces => "",
        MetricsOf::Spans => " JOIN spans s ON s.trace = t.id",
        MetricsOf::Assessments => " JOIN assessments a ON a.trace = t.id AND a.is_valid = 1",
    });
    sql.push(" WHERE t.experiment IN ").push(in_list(&listed(&asked.experiments)));
    let (at, unit) = if known.by_span { ("s.start_time", NANOS) } else { ("t.start_time", 1) };
    if let Some(from) = asked.from {
        sql.push(format!(" AND {at} >= ")).bind(from.saturating_mul(unit));
    }
    if let Some(to) = asked.to {
        // With all of its last millisecond.
        sql.push(format!(" AND {at} <= ")).bind(to.saturating_mul(unit).saturating_add(unit - 1));
    }
    if value != "1" {
        sql.push(format!(" AND {value} IS NOT NULL"));
    }
    for dimension in &asked.dimensions {
        sql.push(format!(" AND {} IS NOT NULL", column(dimension)));
    }
    for filter in wanted {
        of_filter(&mut sql, filter);
    }
    sql.push(" GROUP BY 2, 3");
    for at in 0..asked.dimensions.len() {
        sql.push(format!(", {}", 4 + at));
    }
    sql
}

fn of_filter(sql: &mut Sql, filter: &Filter) {
    let mut pairs = |table: &str, key: &str| {
        sql.push(format!(" AND (EXISTS (SELECT 1 FROM {table} p WHERE p.trace = t.id AND p.key = ")).bind(key.to_string());
        sql.push(" AND p.value = ").bind(filter.value.clone()).push(")");
    };
    match &filter.of {
        Wanted::Column(column) => {
            sql.push(format!(" AND {column} = ")).bind(filter.value.clone());
            return;
        }
        Wanted::Tag(key) => pairs("trace_tags", key),
        Wanted::Metadata(key) => pairs("trace_metadata", key),
    }
    if filter.is_of_run() {
        sql.push(" OR EXISTS (SELECT 1 FROM trace_runs l WHERE l.trace = t.id AND l.run_id = ").bind(filter.value.clone()).push(")");
    }
    sql.push(")");
}

fn column(dimension: &str) -> &'static str {
    match dimension {
        "trace_name" => "t.name",
        "trace_status" => "t.status",
        "span_name" => "s.name",
        "span_type" => "s.type",
        "span_status" => "s.status",
        "span_model_name" => "s.model",
        "span_model_provider" => "s.provider",
        "assessment_name" => "a.name",
        _ => "a.value",
    }
}

/// The value of a row that is one, and how often it is there.
fn measured(row: &Row<'_>, how: Measured) -> Result<Option<(f64, u64)>> {
    let times = row.get::<i64>(0)?.unsigned_abs();
    let json = || Ok::<_, Error>(serde_json::from_str::<Json>(&row.get::<String>(2)?).unwrap_or_default());
    let value = match how {
        Measured::Rows => Some(1.),
        Measured::Distinct(_) => return Ok(Some((1., 1))),
        Measured::Number(_) => Some(row.get::<i64>(2)? as f64),
        Measured::Member(_, name) => json()?.get(name).and_then(Json::as_f64),
        Measured::Judgement(_) => match json()? {
            Json::Bool(is) => Some(f64::from(u8::from(is))),
            Json::String(text) => match text.trim().to_lowercase().as_str() {
                "yes" => Some(1.),
                "no" => Some(0.),
                _ => None,
            },
            other => other.as_f64(),
        },
    };
    Ok(value.filter(|value| value.is_finite()).map(|value| (value, times)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_groups_are_kept_than_are_answered() {
        let mut groups = Groups { first: BTreeMap::new(), most: 2, values: 0, bytes: 0 };
        let of = |name: &str| (0, vec![name.to_string()]);
        for (name, value) in [("d", 1.), ("a", 1.), ("c", 2.), ("d", 3.), ("b", 3.), ("a", 3.), ("c", 4.), ("a", 3.)] {
            groups.add(of(name), value, 1);
            assert_eq!(groups.values, groups.first.values().map(Vec::len).sum::<usize>());
            assert_eq!(groups.bytes, groups.first.keys().map(bytes).sum::<usize>());
        }
        let kept: Vec<_> = groups.first.into_iter().collect();
        assert_eq!(kept, [(of("a"), vec![(1., 1), (3., 2)]), (of("b"), vec![(3., 1)])]);
    }
}
