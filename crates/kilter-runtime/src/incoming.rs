//! The schemas that a source's records come with: when one changes, somebody should look, and nothing has to stop.

use std::collections::{BTreeMap, BTreeSet};

use kilter_store::metadata::NewAlert;
use serde::{Deserialize, Serialize};

use crate::service::{Service, ServiceError};

/// The monitor whose alerts these are; no definition can name one so.
pub const MONITOR: &str = "incoming schema";

/// What is kept of a source's schemas.
#[derive(Default, Serialize, Deserialize)]
struct Seen {
    /// All that were met.
    ids: BTreeSet<u32>,
    /// The one that was met last for the first time, and its fields' types by path.
    newest: u32,
    fields: BTreeMap<String, String>,
}

impl Service {
    /// Takes note that records of a source come with the schema `id`, whose fields have these types. The first time that it is met and another is known,
    /// an alert tells what is different; never again, whatever is stopped and started.
    ///
    /// # Errors
    /// The metadata could not be read or written: then it was not noted.
    pub async fn met_schema(&self, source: &str, id: u32, fields: &BTreeMap<String, String>) -> Result<(), ServiceError> {
        let metadata = &self.data.metadata;
        let key = format!("{MONITOR} {source}");
        let kept = metadata.meta(&key).await.map_err(anyhow::Error::from)?;
        let mut seen: Seen = kept.as_deref().map(serde_json::from_str).transpose().map_err(anyhow::Error::from)?.unwrap_or_default();
        if seen.ids.contains(&id) {
            return Ok(());
        }
        let columns: Vec<&str> =
            self.plan.sources.iter().filter(|s| s.name == source).flat_map(|s| s.schema.fields.iter()).map(|f| f.name.as_str()).collect();
        let difference = Difference::between(&seen.fields, fields);
        let alert = (!seen.ids.is_empty() && difference.count() > 0).then(|| NewAlert {
            at: self.clock().now().0,
            monitor: MONITOR.to_owned(),
            model: None,
            signal: "schema".to_owned(),
            subject: source.to_owned(),
            value: difference.count() as f64,
            threshold: 0.0,
            action: "alert".to_owned(),
            detail: format!("schema {id} after schema {}: {}", seen.newest, difference.told(&columns)),
        });
        seen.ids.insert(id);
        (seen.newest, seen.fields) = (id, fields.clone());
        let value = serde_json::to_string(&seen).map_err(anyhow::Error::from)?;
        match alert {
            Some(alert) => {
                tracing::warn!(source, schema = id, detail = alert.detail, "the schema of a source's records has changed");
                metadata.insert_alert_with_meta(&alert, &key, &value).await.map_err(anyhow::Error::from)?;
            }
            None => metadata.set_meta(&key, &value).await.map_err(anyhow::Error::from)?,
        }
        Ok(())
    }
}

/// What became of fields from one schema to the next.
#[derive(Debug, Default, PartialEq)]
struct Difference<'a> {
    added: Vec<(&'a str, &'a str)>,
    removed: Vec<(&'a str, &'a str)>,
    /// With the type before and the type now.
    retyped: Vec<(&'a str, &'a str, &'a str)>,
}

/// Fields of a kind of change that are named.
const SHOWN: usize = 20;

impl<'a> Difference<'a> {
    fn between(before: &'a BTreeMap<String, String>, now: &'a BTreeMap<String, String>) -> Difference<'a> {
        let only = |of: &'a BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            of.iter().filter(|(path, _)| !other.contains_key(*path)).map(|(path, told)| (path.as_str(), told.as_str())).collect()
        };
        let retyped = before.iter().filter_map(|(path, was)| Some((path.as_str(), was.as_str(), now.get(path)?.as_str())));
        Difference { added: only(now, before), removed: only(before, now), retyped: retyped.filter(|(_, was, is)| was != is).collect() }
    }

    fn count(&self) -> usize {
        self.added.len() + self.removed.len() + self.retyped.len()
    }

    /// For people; `columns`: those that are declared.
    fn told(&self, columns: &[&str]) -> String {
        let listed = |what: &str, all: Vec<String>| {
            let more = all.len().saturating_sub(SHOWN);
            let shown = all[..all.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (!all.is_empty()).then(|| format!("{what}: {shown}{more}"))
        };
        let with_type = |all: &[(&str, &str)]| all.iter().map(|(path, told)| format!("{path} ({told})")).collect();
        let retyped = self.retyped.iter().map(|(path, was, is)| format!("{path} ({was}, now {is})")).collect();
        let changed = self.added.iter().chain(&self.removed).map(|(path, _)| *path).chain(self.retyped.iter().map(|(path, ..)| *path));
        let touched: BTreeSet<&str> = changed.filter(|path| columns.contains(path)).collect();
        let touched = match touched.is_empty() {
            true => "no declared column is touched".to_owned(),
            false => format!("declared columns touched: {}", touched.into_iter().collect::<Vec<_>>().join(", ")),
        };
        let parts = [listed("added", with_type(&self.added)), listed("removed", with_type(&self.removed)), listed("retyped", retyped)];
        parts.into_iter().flatten().chain([touched]).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields.iter().map(|(path, told)| ((*path).to_owned(), (*told).to_owned())).collect()
    }

    #[test]
    fn a_difference_names_what_came_went_and_changed() {
        let before = shape(&[("amount", "int"), ("card", "long"), ("note", "string")]);
        let now = shape(&[("amount", "string"), ("card", "long"), ("fee", "double")]);
        let difference = Difference::between(&before, &now);
        assert_eq!(difference.count(), 3);
        let told = "added: fee (double); removed: note (string); retyped: amount (int, now string); declared columns touched: amount, note";
        assert_eq!(difference.told(&["card", "amount", "note"]), told);
        assert!(difference.told(&["card"]).ends_with("; no declared column is touched"));
        assert_eq!(Difference::between(&now, &now).count(), 0);
    }

    #[test]
    fn a_long_difference_is_cut() {
        let now = (0..50).map(|i| (format!("f{i:02}"), "int".to_owned())).collect();
        let told = Difference::between(&BTreeMap::new(), &now).told(&[]);
        assert!(told.contains("f19 (int) and 30 more;"), "{told}");
    }
}
