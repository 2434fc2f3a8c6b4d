//! The OpenAPI document: the routes as they are, and beside them the project's own sources, views and decisions with their fields.

use bytes::Bytes;
use kilter_connect::OperationOf;
use kilter_core::DataType;
use kilter_core::record::MAX_ID_BYTES;
use kilter_runtime::Service;
use serde_json::{Map, Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi};

const ABOUT: &str = "Events in, decisions out. Every refusal has one shape, `ErrorBody`; times are RFC 3339 in UTC. \
    The paths under *this project* are the general ones with the names and fields of the project that is served.";

/// Finished once, at the start.
pub fn document(mut routes: OpenApi, service: &Service) -> Bytes {
    routes.info = InfoBuilder::new()
        .title(format!("Kilter: {}", service.plan.project))
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    // Made of our own types: all of it is JSON.
    let mut document = serde_json::to_value(&routes).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({
        "key": { "type": "http", "scheme": "bearer", "description": "a key, by `kilter key create`" },
        "password": { "type": "http", "scheme": "basic", "description": "the same key as the password of any user" },
    });
    // A server without keys is open.
    document["security"] = json!([{ "key": [] }, { "password": [] }, {}]);
    if let Some(paths) = document["paths"].as_object_mut() {
        plain_names(paths);
        every_error(paths);
        for (path, item) in concrete(service) {
            paths.insert(path, item);
        }
    }
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

/// `{*name}` is the router's way of saying that a segment may hold slashes; OpenAPI has none.
fn plain_names(paths: &mut Map<String, Value>) {
    let starred: Vec<String> = paths.keys().filter(|p| p.contains("{*")).cloned().collect();
    for path in starred {
        if let Some(item) = paths.remove(&path) {
            paths.insert(path.replace("{*", "{"), item);
        }
    }
}

/// Any route may be refused for reasons that are not its own: too much at once, a failure inside.
fn every_error(paths: &mut Map<String, Value>) {
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for operation in item.values_mut().filter(|o| o.is_object()) {
            operation["responses"]["default"] = error("any other refusal");
        }
    }
}

fn error(description: &str) -> Value {
    json!({ "description": description, "content": { "application/json": {
        "schema": { "$ref": "#/components/schemas/ErrorBody" },
        "example": { "error": { "code": "invalid_request", "message": "amount: expected a number, got \"lots\"", "fields": [
            { "field": "amount", "code": "wrong_type", "message": "amount: expected a number, got \"lots\"", "expected": "float64", "got": "\"lots\"" }
        ] } }
    } } })
}

fn concrete(service: &Service) -> Vec<(String, Value)> {
    let plan = &service.plan;
    let mut paths = Vec::new();
    for (index, source) in plan.sources.iter().enumerate() {
        let settings = &service.project.source_settings[index];
        let row = change(row(service, index, &settings.required), &settings.operation);
        let example = row["example"].clone();
        let body = json!({ "required": true, "content": {
            "application/json": {
                "schema": { "oneOf": [row, { "type": "array", "items": row }] },
                "example": [example]
            },
            "application/x-ndjson": { "schema": { "type": "string" }, "example": format!("{example}\n") },
        } });
        let responses = json!({
            "200": answer("at least one row was accepted or known already", "EventsReport"),
            "422": answer("every row was rejected", "EventsReport"),
            "default": error("a refusal"),
        });
        let summary = format!("Send events of `{}`", source.name);
        let operation = operation(&format!("post_events_{}", source.name), summary, Vec::new(), Some(body), responses);
        paths.push((format!("/v1/events/{}", source.name), json!({ "post": operation })));
    }
    for view in &plan.views {
        let features: Map<String, Value> = view
            .features()
            .iter()
            .map(|f| {
                let mut schema = of_type(f.data_type, true);
                schema["description"] = json!(f.text);
                (f.name.clone(), schema)
            })
            .collect();
        let names: Vec<&String> = features.keys().collect();
        let query = json!({ "allOf": [
            { "$ref": "#/components/schemas/FeatureQuery" },
            { "type": "object", "properties": { "features": { "type": "array", "items": { "type": "string", "enum": names } } } }
        ] });
        let row = json!({ "type": "object", "properties": { "features": { "type": "object", "properties": features } } });
        let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Features" }, row] });
        let table = json!({ "allOf": [
            { "$ref": "#/components/schemas/FeatureTable" },
            { "type": "object", "properties": { "rows": { "type": "array", "items": row } } }
        ] });
        let parameters = vec![
            json!({ "name": "key", "in": "path", "required": true, "schema": { "type": "string" }, "description": view.entity().join("|") }),
            json!({ "name": "at", "in": "query", "schema": { "type": "string", "format": "date-time" }, "description": "left out: now" }),
        ];
        let responses = json!({
            "200": { "description": "the features", "content": { "application/json": { "schema": schema } } },
            "default": error("a refusal"),
        });
        let operation = self::operation(
            &format!("get_features_{}", view.name()),
            format!("Features of `{}`", view.name()),
            parameters,
            None,
            responses,
        );
        paths.push((format!("/v1/features/{}/{{key}}", view.name()), json!({ "get": operation })));
        let body = json!({ "required": true, "content": { "application/json": { "schema": query } } });
        let responses = json!({
            "200": { "description": "a row for each key", "content": { "application/json": { "schema": table } } },
            "default": error("a refusal"),
        });
        let summary = format!("Features of many of `{}`", view.name());
        let operation = self::operation(&format!("read_features_{}", view.name()), summary, Vec::new(), Some(body), responses);
        paths.push((format!("/v1/features/{}", view.name()), json!({ "post": operation })));
    }
    for service in &plan.services {
        let property = |name: &String, data_type, text: &String| {
            let mut schema = of_type(data_type, true);
            schema["description"] = json!(text);
            (name.clone(), schema)
        };
        let features: Map<String, Value> = service.features.iter().map(|f| property(&f.name, f.data_type, &f.text)).collect();
        let keys: Map<String, Value> = service.keys.iter().map(|k| (k.name.clone(), of_type(k.data_type, true))).collect();
        let names: Vec<&String> = features.keys().collect();
        let asked: Vec<&String> = keys.keys().collect();
        let query = json!({ "allOf": [
            { "$ref": "#/components/schemas/ServiceQuery" },
            { "type": "object", "properties": {
                "keys": { "type": "array", "items": { "type": "object", "properties": keys, "required": asked } },
                "features": { "type": "array", "items": { "type": "string", "enum": names } },
            } }
        ] });
        let row = json!({ "type": "object", "properties": { "features": { "type": "object", "properties": features } } });
        let table = json!({ "allOf": [
            { "$ref": "#/components/schemas/ServiceTable" },
            { "type": "object", "properties": { "rows": { "type": "array", "items": row } } }
        ] });
        let body = json!({ "required": true, "content": { "application/json": { "schema": query } } });
        let responses = json!({
            "200": { "description": "a row for each question", "content": { "application/json": { "schema": table } } },
            "default": error("a refusal"),
        });
        let summary = format!("Features of service `{}`", service.name);
        let operation = self::operation(&format!("read_service_{}", service.name), summary, Vec::new(), Some(body), responses);
        paths.push((format!("/v1/services/{}", service.name), json!({ "post": operation })));
    }
    for (index, decision) in plan.decisions.iter().enumerate() {
        let source = decision.source.0 as usize;
        let mut required = service.project.source_settings[source].required.clone();
        required.extend_from_slice(service.required(index));
        let row = row(service, source, &required);
        let example = row["example"].clone();
        let body = json!({ "required": true, "content": { "application/json": { "schema": row, "example": example } } });
        let parameters = vec![
            json!({ "name": "preview", "in": "query", "schema": { "type": "boolean" }, "description": "decide, but write nothing" }),
            json!({ "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": MAX_ID_BYTES } }),
        ];
        let schema = json!({ "allOf": [
            { "$ref": "#/components/schemas/Decided" },
            { "type": "object", "properties": { "outcome": { "type": "string", "enum": decision.outcomes } } }
        ] });
        let responses = json!({
            "200": { "description": "the decision", "content": { "application/json": { "schema": schema } } },
            "422": error("fields are wrong: all of them are named"),
            "default": error("a refusal"),
        });
        let operation =
            operation(&format!("post_decide_{}", decision.name), format!("Decide `{}`", decision.name), parameters, Some(body), responses);
        paths.push((format!("/v1/decide/{}", decision.name), json!({ "post": operation })));
    }
    paths
}

fn operation(id: &str, summary: String, parameters: Vec<Value>, body: Option<Value>, responses: Value) -> Value {
    let mut operation = json!({ "tags": ["this project"], "operationId": id, "summary": summary, "responses": responses });
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = body {
        operation["requestBody"] = body;
    }
    operation
}

fn answer(description: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// The object that an event of a source is.
fn row(service: &Service, source: usize, required: &[usize]) -> Value {
    let plan = &service.plan.sources[source];
    let definition = service.project.definitions.source.get(&plan.name);
    let mut properties = Map::new();
    let mut example = Map::new();
    let mut needed = Vec::new();
    for (i, field) in plan.schema.fields.iter().enumerate() {
        let is_required = required.contains(&i);
        let mut schema = of_type(field.data_type, !is_required);
        if let Some(text) = definition.and_then(|d| d.columns.get(&field.name)).and_then(|c| c.description.as_ref()) {
            schema["description"] = json!(text);
        }
        properties.insert(field.name.clone(), schema);
        example.insert(field.name.clone(), sample(field.data_type));
        if is_required {
            needed.push(field.name.clone());
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties, "example": example });
    if !needed.is_empty() {
        schema["required"] = json!(needed);
    }
    if let Some(text) = definition.and_then(|d| d.description.as_ref()) {
        schema["description"] = json!(text);
    }
    schema
}

/// What is sent of a row: itself, with the word for what happened to it, or the envelope around it.
fn change(mut row: Value, operation: &OperationOf) -> Value {
    match operation {
        OperationOf::Nothing | OperationOf::Column(_) => row,
        OperationOf::Field(name) => {
            let description = "what happened to the row: c, r, u, i, insert, create, read, update, upsert; d, delete; null is an upsert";
            row["properties"][name] = json!({ "type": ["string", "null"], "description": description });
            row["example"][name] = json!("u");
            row
        }
        OperationOf::Debezium => {
            let mut example = row["example"].take();
            // What the envelope gives to the row is not sent in it.
            let fields = [&mut row["properties"], &mut example].map(|v| v.as_object_mut());
            fields.into_iter().flatten().for_each(|v| v.retain(|name, _| !operation.gives(name)));
            if let Some(required) = row["required"].as_array_mut() {
                required.retain(|name| !name.as_str().is_some_and(|name| operation.gives(name)));
            }
            let example = json!({ "before": null, "after": example, "op": "c", "ts_ms": 1_769_853_600_000_i64, "source": { "ts_ms": 1_769_853_600_000_i64 } });
            row.as_object_mut().map(|row| row.remove("example"));
            json!({
                "type": "object",
                "description": "a change in Debezium's envelope, alone or as `payload`; messages that tell of no row are passed over",
                "properties": {
                    "before": { "type": ["object", "null"], "description": "the row that a delete takes away; its key is enough" },
                    "after": { "oneOf": [row, { "type": "null" }] },
                    "op": { "type": "string", "enum": ["c", "r", "u", "d"] },
                    "ts_ms": of_type(DataType::Int64, true),
                    "source": { "type": ["object", "null"] }
                },
                "required": ["op"],
                "example": example
            })
        }
    }
}

fn of_type(data_type: DataType, nullable: bool) -> Value {
    let mut schema = match data_type {
        DataType::Bool => json!({ "type": "boolean" }),
        DataType::Int64 => json!({ "type": "integer", "format": "int64" }),
        DataType::Float64 => json!({ "type": "number", "format": "double" }),
        DataType::String => json!({ "type": "string" }),
        DataType::Timestamp => json!({ "type": "string", "format": "date-time" }),
        DataType::NumberList => json!({ "type": "array", "items": of_type(DataType::Float64, false) }),
        DataType::TextList => json!({ "type": "array", "items": of_type(DataType::String, false) }),
        DataType::NumberMap => json!({ "type": "object", "additionalProperties": of_type(DataType::Float64, false) }),
    };
    if nullable {
        schema["type"] = json!([schema["type"].take(), "null"]);
    }
    schema
}

fn sample(data_type: DataType) -> Value {
    match data_type {
        DataType::Bool => json!(true),
        DataType::Int64 => json!(4711),
        DataType::Float64 => json!(99.5),
        DataType::String => json!("text"),
        DataType::Timestamp => json!("2026-01-31T10:00:00Z"),
        DataType::NumberList => json!([99.5, 12.0]),
        DataType::TextList => json!(["text"]),
        DataType::NumberMap => json!({ "text": 99.5 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_the_schema_of_its_json() {
        assert_eq!(of_type(DataType::Int64, true), json!({ "type": ["integer", "null"], "format": "int64" }));
        assert_eq!(of_type(DataType::TextList, true), json!({ "type": ["array", "null"], "items": { "type": "string" } }));
        let map = json!({ "type": "object", "additionalProperties": { "type": "number", "format": "double" } });
        assert_eq!(of_type(DataType::NumberMap, false), map);
        let samples = [
            ("boolean", DataType::Bool),
            ("integer", DataType::Int64),
            ("number", DataType::Float64),
            ("string", DataType::String),
            ("string", DataType::Timestamp),
            ("array", DataType::NumberList),
            ("array", DataType::TextList),
            ("object", DataType::NumberMap),
        ];
        for (name, data_type) in samples {
            assert_eq!(of_type(data_type, false)["type"], name);
            let sample = match sample(data_type) {
                Value::Bool(_) => "boolean",
                Value::Number(n) if n.is_i64() => "integer",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
                Value::Null => "null",
            };
            assert_eq!(sample, name, "{data_type}");
        }
    }
}
