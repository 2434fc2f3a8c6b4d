//! What names and values may be. The words are MLflow's: its clients and their tests read them.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::model::{Batch, Pair};

const NAME: usize = 250;
/// Characters of a dataset's name and digest.
pub(crate) const DATASET: usize = 500;
pub(crate) const DATASET_DIGEST: usize = 36;
/// Bytes of what one row of an index holds.
const INDEXED: usize = 2_600;
/// A moment in milliseconds that no calendar goes beyond; differences of two are whole numbers still.
const MOMENT: i64 = 8_640_000_000_000_000;
/// Characters of an id that a client gives.
pub(crate) const ID: usize = 250;
const EXPERIMENT_NAME: usize = 500;
const EXPERIMENT_TAG_VALUE: usize = 20_000;
const PARAM_VALUE: usize = 6_000;
const TAG_VALUE: usize = 8_000;
const BATCH: usize = 1_000;
const BATCH_PAIRS: usize = 100;
const EXPERIMENTS: usize = 20_000;
const MANY: usize = 1_000;
const TEXT: usize = 8_000;
const DESCRIPTION: usize = 100_000;
const PREVIEW: usize = 10_000;
/// Tags of one trace or evaluation dataset, or what is kept beside the tags of a trace: how many, and bytes of them together.
const PAIRS: usize = 1_000;
const PAIR_BYTES: usize = 1 << 20;

pub(crate) fn experiment_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("Invalid experiment name: ''"));
    }
    length("name", EXPERIMENT_NAME, name)
}

pub(crate) fn experiment_tag(tag: &Pair) -> Result<()> {
    key("Tag", "key", &tag.key)?;
    length("value", EXPERIMENT_TAG_VALUE, &tag.value)
}

/// Where an experiment's artifacts are: a scheme, or a folder of this machine.
pub(crate) fn artifact_location(location: &str) -> Result<String> {
    text("artifact_location", location)?;
    if location.contains('?') {
        return Err(Error::invalid("Invalid query string"));
    }
    if location.contains('#') {
        return Err(Error::invalid("Invalid fragment"));
    }
    if location.split(['/', '\\']).any(|part| part == "..") {
        return Err(Error::invalid(format!("Invalid artifact location: '{location}'")));
    }
    let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains('/'));
    if has_scheme {
        return Ok(location.trim_end_matches('/').to_string());
    }
    let absolute = std::path::absolute(location).map_err(|e| Error::internal(&e))?;
    Ok(absolute.to_string_lossy().trim_end_matches('/').to_string())
}

/// Names of metrics, params and tags; `path` says where the name stood in the request.
pub(crate) fn key(kind: &str, path: &str, name: &str) -> Result<()> {
    key_at(kind, || path.into(), name)
}

/// The same for one of many: where it stood is made only to be told.
fn key_at(kind: &str, path: impl Fn() -> String, name: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("Invalid value \"{name}\" for parameter '{}' supplied: {why}", path())));
    if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | ' ' | ':')) {
        return refuse(
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).".into(),
        );
    }
    // Most names are one part that is no way to anywhere.
    if !name.is_empty() && !name.starts_with('.') && !name.contains('/') {
        return length_at(|| format!("{kind} name"), NAME, name);
    }
    let resolved = normal_path(name);
    if resolved != name || resolved == "." || resolved.starts_with("..") || resolved.starts_with('/') {
        return refuse(format!(
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such. \
             This name would resolve to '{resolved}'"
        ));
    }
    length_at(|| format!("{kind} name"), NAME, name)
}

/// A tag of a trace, or what is kept beside its tags; a long value is cut.
pub(crate) fn trace_pair(pair: &mut Pair) -> Result<()> {
    key("Tag", "key", &pair.key)?;
    cut(&mut pair.value, TAG_VALUE);
    Ok(())
}

/// Whether `new` may be set beside what is `there` already: names, and bytes of their values.
pub(crate) fn room<'a>(what: &str, there: &'a [(String, i64)], new: impl IntoIterator<Item = &'a Pair>) -> Result<()> {
    let mut sizes: HashMap<&str, usize> = there.iter().map(|(key, size)| (key.as_str(), *size as usize)).collect();
    for pair in new {
        sizes.insert(&pair.key, pair.value.len());
    }
    if sizes.len() > PAIRS {
        return Err(Error::invalid(format!("There can be at most {PAIRS} {what}. This would make {}.", sizes.len())));
    }
    let bytes: usize = sizes.iter().map(|(key, size)| key.len() + size).sum();
    if bytes > PAIR_BYTES {
        return Err(Error::invalid(format!("The {what} can have at most {PAIR_BYTES} bytes together. This would make {bytes}.")));
    }
    Ok(())
}

/// What went in or came out of a trace, as it is shown; a long text is cut.
pub(crate) fn preview(text: &mut String) {
    cut(text, PREVIEW);
}

/// A moment of a trace, in milliseconds.
pub(crate) fn moment(what: &str, ms: i64) -> Result<()> {
    if (-MOMENT..=MOMENT).contains(&ms) {
        return Ok(());
    }
    Err(Error::invalid(format!("'{what}' is no time in milliseconds: {ms}")))
}

/// Experiments that one search may name.
pub(crate) fn experiments(ids: &[i64]) -> Result<()> {
    if ids.len() <= EXPERIMENTS {
        return Ok(());
    }
    Err(Error::invalid(format!("A search can name at most {EXPERIMENTS} experiments. Got {}.", ids.len())))
}

/// Everything that can be said of a batch without looking at what is stored; long values are cut, as MLflow's server cuts them.
pub(crate) fn batch(mut batch: Batch) -> Result<Batch> {
    let Batch { metrics, params, tags } = &mut batch;
    at_most(BATCH, metrics.len(), "metrics")?;
    at_most(BATCH_PAIRS, params.len(), "params")?;
    at_most(BATCH_PAIRS, tags.len(), "tags")?;
    at_most(BATCH, metrics.len() + params.len() + tags.len(), "metrics, params, and tags")?;
    let alone = metrics.len() + params.len() + tags.len() == 1;
    let path = |list: &str, at: usize, name: &str| if alone { name.to_string() } else { format!("{list}[{at}].{name}") };
    for (at, metric) in metrics.iter().enumerate() {
        key_at("Metric", || path("metrics", at, "name"), &metric.key)?;
        length_at(|| path("metrics", at, "model_id"), ID, metric.model_id.as_deref().unwrap_or_default())?;
        length_at(|| path("metrics", at, "dataset_name"), DATASET, &metric.dataset.0)?;
        length_at(|| path("metrics", at, "dataset_digest"), DATASET_DIGEST, &metric.dataset.1)?;
        // An index of PostgreSQL takes no more of a row.
        let bytes = metric.key.len() + metric.dataset.0.len() + metric.dataset.1.len();
        if bytes > INDEXED {
            return Err(Error::invalid(format!(
                "The names of a metric and its dataset have {bytes} bytes together. There can be {INDEXED}."
            )));
        }
    }
    for (at, param) in params.iter_mut().enumerate() {
        key_at("Param", || path("params", at, "key"), &param.key)?;
        cut(&mut param.value, PARAM_VALUE);
    }
    for (at, tag) in tags.iter_mut().enumerate() {
        key_at("Tag", || path("tags", at, "key"), &tag.key)?;
        cut(&mut tag.value, TAG_VALUE);
    }
    let mut twice: Vec<&str> = Vec::new();
    for (at, param) in params.iter().enumerate() {
        if params[..at].iter().any(|p| p.key == param.key) && !twice.contains(&param.key.as_str()) {
            twice.push(&param.key);
        }
    }
    if !twice.is_empty() {
        return Err(Error::invalid(format!(
            "Duplicate parameter keys have been submitted: ['{}']. Please ensure the request contains only one param value per param key.",
            twice.join("', '")
        )));
    }
    Ok(batch)
}

fn at_most(limit: usize, got: usize, what: &str) -> Result<()> {
    if got <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "A batch logging request can contain at most {limit} {what}. Got {got} {what}. Please split up {what} across multiple requests \
         and try again."
    )))
}

/// A text as the value of a tag.
pub(crate) fn tag_value(text: &str) -> String {
    text.chars().take(TAG_VALUE).collect()
}

/// How many of something one request may bring.
pub(crate) fn many<T>(what: &str, list: &[T]) -> Result<()> {
    if list.len() <= MANY {
        return Ok(());
    }
    Err(Error::invalid(format!("A request can contain at most {MANY} {what}. Got {}. Please split them up across requests.", list.len())))
}

/// A text that nothing else limits.
pub(crate) fn text(what: &str, text: &str) -> Result<()> {
    length(what, TEXT, text)
}

pub(crate) fn description(text: &str) -> Result<()> {
    length("description", DESCRIPTION, text)
}

pub(crate) fn length(what: &str, limit: usize, text: &str) -> Result<()> {
    length_at(|| what.into(), limit, text)
}

fn length_at(what: impl Fn() -> String, limit: usize, text: &str) -> Result<()> {
    if text.len() <= limit || text.chars().count() <= limit {
        return Ok(());
    }
    let what = what();
    Err(Error::invalid(format!("'{what}' exceeds the maximum length of {limit} characters")))
}

fn cut(text: &mut String, limit: usize) {
    if let Some((at, _)) = text.char_indices().nth(limit) {
        text.truncate(at);
    }
}

/// POSIX `normpath`: what a name comes to as a path.
fn normal_path(name: &str) -> String {
    let rooted = name.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/').filter(|p| !p.is_empty() && *p != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_paths_too() {
        for good in ["acc", "val/loss", "a b", "a.b-c:d", "ä", "..."] {
            assert_eq!(key("Metric", "name", good).is_ok(), good != "...", "{good}");
        }
        for bad in ["", ".", "..", "../a", "/a", "a/", "a//b", "a/../b", "a#b", "a\nb", "a\\b"] {
            assert!(key("Metric", "name", bad).is_err(), "{bad}");
        }
        assert!(key("Metric", "name", &"ä".repeat(250)).is_ok() && key("Metric", "name", &"a".repeat(251)).is_err());
    }

    #[test]
    fn long_values_are_cut_by_characters() {
        let of = |value: String| Batch { params: vec![Pair { key: "p".into(), value }], ..Batch::default() };
        assert_eq!(batch(of("ä".repeat(6001))).unwrap().params[0].value, "ä".repeat(6000));
        assert_eq!(batch(of("x".into())).unwrap().params[0].value, "x");
    }

    #[test]
    fn locations_have_a_scheme_or_become_absolute() {
        assert_eq!(artifact_location("s3://b/p/").unwrap(), "s3://b/p");
        assert!(artifact_location("some/folder").unwrap().starts_with('/'));
        for bad in ["s3://b/p?x=1", "s3://b/p#x", "s3://b/../p"] {
            assert!(artifact_location(bad).is_err(), "{bad}");
        }
    }
}
