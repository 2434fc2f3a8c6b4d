//! What a JSON Schema says of the fields of a record. It is not what records are read by: they name their fields themselves.

use serde_json::Value as Json;

use super::shape::{Kind, Shape};

/// The fields that a schema tells of.
///
/// # Errors
/// What is wrong with it, in words.
pub fn shape(text: &str, is_enveloped: bool) -> Result<Shape, String> {
    let root: Json = serde_json::from_str(text).map_err(|e| format!("the schema is not JSON: {e}"))?;
    let after = || resolved(&root, root.get("properties")?.get("after")?).and_then(|after| an_object(&root, after));
    let row = if is_enveloped { after() } else { an_object(&root, &root) };
    let mut shape = Shape::default();
    if let Some(row) = row {
        fields(&root, row, "", 0, &mut shape);
    }
    Ok(shape)
}

fn fields(root: &Json, object: &Json, path: &str, depth: usize, shape: &mut Shape) {
    for (name, of) in object.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(of) = resolved(root, of) else {
            shape.add(&path, Kind::Any, "a type of another schema".to_owned());
            continue;
        };
        let (kind, told) = described(root, of);
        shape.add(&path, kind, told);
        if let Some(inner) = an_object(root, of)
            && depth < Shape::MAX_DEPTH
            && !shape.is_full()
        {
            fields(root, inner, &path, depth + 1, shape);
        }
    }
}

/// The schema that `of` refers to, if it lies in the same text.
fn resolved<'a>(root: &'a Json, of: &'a Json) -> Option<&'a Json> {
    match of.get("$ref").and_then(Json::as_str) {
        None => Some(of),
        Some(reference) => root.pointer(reference.strip_prefix('#')?),
    }
}

/// The alternatives of a type, itself where there is no choice.
fn alternatives<'a>(root: &'a Json, of: &'a Json) -> Vec<&'a Json> {
    let choice = ["oneOf", "anyOf"].iter().find_map(|key| of.get(key)?.as_array());
    choice.map_or_else(|| vec![of], |all| all.iter().filter_map(|one| resolved(root, one)).collect())
}

fn an_object<'a>(root: &'a Json, of: &'a Json) -> Option<&'a Json> {
    alternatives(root, of).into_iter().find(|one| one.get("properties").is_some())
}

fn described(root: &Json, of: &Json) -> (Kind, String) {
    let mut kinds = Vec::new();
    let mut names = Vec::new();
    for one in alternatives(root, of) {
        let types: Vec<&str> = match one.get("type") {
            Some(Json::String(name)) => vec![name],
            Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).collect(),
            _ if one.get("enum").is_some() => vec!["enum"],
            _ => vec!["any"],
        };
        for name in types {
            kinds.push(match name {
                "null" => Kind::Null,
                "boolean" => Kind::Bool,
                "integer" => Kind::Int,
                "number" => Kind::Float,
                "string" => Kind::Text,
                "object" | "array" => Kind::Nested,
                _ => Kind::Any,
            });
            names.push(name);
        }
    }
    // Null is told last, as it is of other schemas.
    names.sort_by_key(|name| *name == "null");
    let kind = kinds.into_iter().filter(|kind| *kind != Kind::Null).reduce(|a, b| if a == b { a } else { Kind::Any });
    (kind.unwrap_or(Kind::Null), names.join(" or "))
}
