//! What comes in: fields of the query or of a JSON body, in snake_case or camelCase, refused in MLflow's words.

use std::fmt;
use std::marker::PhantomData;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kilter_tracking::{Error, Pair, Result, View};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Refusal;
use crate::error::ApiError;
use crate::input::read;

/// Largest body.
const BODY: usize = 4 * 1024 * 1024;
/// Largest body of what logs datasets, of which a profile alone may have 16 MiB, and of what names the parts of an upload with their signed addresses.
const LARGE_BODY: usize = 32 * 1024 * 1024;
/// Bodies above this size that are in memory at a time; the others wait.
const LARGE: usize = 256 * 1024;
static LARGE_ONES: Semaphore = Semaphore::const_new(8);
/// Values in one body. Each takes up to a hundred times of memory what it takes on the wire.
const VALUES: usize = 100_000;

/// The fields of one request; those of the body before those of the query.
#[derive(Default)]
pub struct Input {
    map: Map<String, Value>,
}

/// A request whose body is nothing but what `T` says, which is the quick way, or any other one.
pub enum Plain<T> {
    Typed(T),
    Fields(Input),
}

/// What is read of an object, and of nothing else: serde's own structs are read of lists as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(of: D) -> std::result::Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        of.deserialize_map(Map(PhantomData)).map(Object)
    }
}

/// What a request brings, unread.
struct Brought {
    query: Vec<(String, String)>,
    body: Bytes,
    _place: Option<SemaphorePermit<'static>>,
}

impl<S: Send + Sync> FromRequest<S> for Input {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        Ok(Input::of(&brought(&parts, body).await?))
    }
}

impl Input {
    /// The fields of a request that is to be served yet.
    pub async fn peek(request: Request) -> Result<(Input, Request), Response> {
        let (parts, body) = request.into_parts();
        let brought = brought(&parts, body).await?;
        let input = Input::of(&brought);
        Ok((input, Request::from_parts(parts, Body::from(brought.body))))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Plain<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let brought = brought(&parts, body).await?;
        // What is not quite as it should be is read once more, by those who can say what is wrong with it.
        let typed = if brought.query.is_empty() { serde_json::from_slice(&brought.body).ok() } else { None };
        Ok(typed.map_or_else(|| Plain::Fields(Input::of(&brought)), |Object(typed)| Plain::Typed(typed)))
    }
}

async fn brought(parts: &Parts, body: Body) -> Result<Brought, Response> {
    let refuse = |message: &str| Refusal(Error::invalid(message)).into_response();
    let Query(query) =
        Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|_| refuse("Bad Request. The query is not readable."))?;
    let is_large = parts.uri.path().ends_with("/log-inputs") || parts.uri.path().contains("/mlflow-artifacts/mpu/complete/");
    let limit = if is_large { LARGE_BODY } else { BODY };
    let read = in_turn(&parts.headers, body, limit, "log in several requests").await;
    let (body, _place) = read.map_err(IntoResponse::into_response)?;
    if !body.is_empty() {
        let content_type = parts.headers.get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        if content_type.is_some_and(|t| !t.trim_start().starts_with("application/json")) {
            return Err(refuse("Bad Request. Content-Type must be one of ['application/json']."));
        }
        if values(&body) > VALUES {
            return Err(refuse(&format!("The request holds more than {VALUES} values. Send it in parts.")));
        }
    }
    Ok(Brought { query, body, _place })
}

/// Reads a body, a large one once it has a place among those that are in memory: as long as the place is held.
pub async fn in_turn(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    hint: &str,
) -> Result<(Bytes, Option<SemaphorePermit<'static>>), ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let is_large = body.size_hint().exact() != Some(0) && announced.is_none_or(|length: usize| length > LARGE);
    let place = if is_large { LARGE_ONES.acquire().await.ok() } else { None };
    Ok((read(headers, body, limit, hint).await?, place))
}

/// An object, or the text of one: old clients encode twice.
fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(map) => Some(map),
        Value::String(text) if values(text.as_bytes()) <= VALUES => serde_json::from_str(&text).ok(),
        _ => None,
    }
}

/// How many values a JSON text may hold, at most, without reading it.
pub fn values(bytes: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b'{' | b'[' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

impl Input {
    fn of(brought: &Brought) -> Input {
        let mut map = Map::new();
        for (name, value) in &brought.query {
            let value = Value::String(value.clone());
            match map.get_mut(name) {
                Some(Value::Array(list)) => list.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
                None => drop(map.insert(name.clone(), value)),
            }
        }
        // What is no JSON counts as empty, and then lacks what is required.
        map.extend(object(&brought.body).unwrap_or_default());
        Input { map }
    }

    pub fn fields(&self) -> Fields<'_> {
        Fields { map: &self.map, at: None }
    }
}

/// The members of an object, read one by one.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The list it stands in, and where.
    at: Option<(&'a str, usize)>,
}

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Result<Option<&'a Value>> {
        let plain = self.map.get(name);
        let camel = if name.contains('_') { self.map.get(&camel_case(name)) } else { None };
        match (plain, camel) {
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("Field '{}' is given twice, in snake_case and in camelCase.", self.path(name))))
            }
            (found, None) | (None, found) => Ok(found.filter(|v| !v.is_null())),
        }
    }

    fn path(&self, name: &str) -> String {
        self.at.map_or_else(|| name.to_string(), |(list, at)| format!("{list}[{at}].{name}"))
    }

    fn wrong(&self, name: &str, value: &Value) -> Error {
        wrong_type(&self.path(name), value)
    }

    pub fn missing(&self, name: &str) -> Error {
        Error::invalid(format!(
            "Missing value for required parameter '{}'. See the API docs for more information about request parameters.",
            self.path(name)
        ))
    }

    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(self.find(name)?.is_some())
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.find(name)?.map(|value| value.as_str().ok_or_else(|| self.wrong(name, value))).transpose()
    }

    /// A text that must be there and may be empty.
    pub fn any_text(&self, name: &str) -> Result<&'a str> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// A text that must be there and say something.
    pub fn need_text(&self, name: &str) -> Result<&'a str> {
        self.text(name)?.filter(|t| !t.is_empty()).ok_or_else(|| self.missing(name))
    }

    /// A whole number; one as a text is as good, and so is 3.0.
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let read = |value: &Value| match value {
            Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|x| x.fract() == 0. && x.abs() < 9e15).map(|x| x as i64)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        self.find(name)?.map(|value| read(value).ok_or_else(|| self.wrong(name, value))).transpose()
    }

    pub fn need_integer(&self, name: &str) -> Result<i64> {
        self.integer(name)?.ok_or_else(|| self.missing(name))
    }

    /// True or false, as JSON or as a query has it.
    pub fn need_bool(&self, name: &str) -> Result<bool> {
        let value = self.find(name)?.ok_or_else(|| self.missing(name))?;
        let read = value.as_bool().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        read.ok_or_else(|| self.wrong(name, value))
    }

    /// The number of a version, which is written as a text.
    pub fn need_version(&self) -> Result<i64> {
        let value = self.find("version")?.ok_or_else(|| self.missing("version"))?;
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        shown.parse().map_err(|_| Error::invalid(format!("Parameter 'version' must be an integer, got '{shown}'.")))
    }

    /// A number, or one of the words for what JSON has no number for.
    pub fn need_double(&self, name: &str) -> Result<f64> {
        let read = |value: &Value| match value {
            Value::Number(n) => n.as_f64(),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => text.parse().ok().filter(|x: &f64| x.is_finite()),
            },
            _ => None,
        };
        let value = self.find(name)?.ok_or_else(|| self.missing(name))?;
        read(value).ok_or_else(|| self.wrong(name, value))
    }

    /// The objects of a list; none where there is no list.
    pub fn objects(&self, name: &'a str) -> Result<Vec<Fields<'a>>> {
        let Some(value) = self.find(name)? else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong(name, value))?;
        let member = |(at, member): (usize, &'a Value)| match member {
            Value::Object(map) => Ok(Fields { map, at: Some((name, at)) }),
            other => Err(wrong_type(&format!("{}[{at}]", self.path(name)), other)),
        };
        list.iter().enumerate().map(member).collect()
    }

    /// An object within.
    pub fn need_object(&self, name: &'a str) -> Result<Fields<'a>> {
        match self.find(name)? {
            Some(Value::Object(map)) => Ok(Fields { map, at: self.at }),
            Some(other) => Err(self.wrong(name, other)),
            None => Err(self.missing(name)),
        }
    }

    /// The texts of a list; one alone is a list of one, as a query has it.
    pub fn texts(&self, name: &str) -> Result<Vec<&'a str>> {
        match self.find(name)? {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(value) => {
                let list = value.as_array().ok_or_else(|| self.wrong(name, value))?;
                list.iter().map(|member| member.as_str().ok_or_else(|| self.wrong(name, member))).collect()
            }
        }
    }

    /// Any JSON but null.
    pub fn any(&self, name: &str) -> Result<Option<&'a Value>> {
        self.find(name)
    }

    /// The members of an object as pairs: numbers, true and false become texts.
    pub fn map(&self, name: &'a str) -> Result<Vec<Pair>> {
        let Some(value) = self.find(name)? else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(|| self.wrong(name, value))?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        Ok(map.iter().map(|(key, value)| Pair { key: key.clone(), value: text(value) }).collect())
    }

    pub fn pairs(&self, name: &'a str) -> Result<Vec<Pair>> {
        let read = |f: &Fields| Ok(Pair { key: f.need_text("key")?.into(), value: f.text("value")?.unwrap_or_default().into() });
        self.objects(name)?.iter().map(read).collect()
    }

    /// Experiments have numbers that are written as texts; a number is taken as well.
    pub fn experiment(&self, name: &str) -> Result<Option<i64>> {
        let value = self.find(name)?;
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => return Err(self.wrong(name, other)),
            None => return Ok(None),
        };
        if text.is_empty() { Ok(None) } else { experiment_id(&text).map(Some) }
    }

    pub fn need_experiment(&self, name: &str) -> Result<i64> {
        self.experiment(name)?.ok_or_else(|| self.missing(name))
    }

    /// The run's id, under its new or its old name.
    pub fn need_run(&self) -> Result<&'a str> {
        let given = self.text("run_id")?.filter(|t| !t.is_empty()).or(self.text("run_uuid")?.filter(|t| !t.is_empty()));
        given.ok_or_else(|| self.missing("run_id"))
    }

    /// What is active, unless the request says otherwise; a word that says nothing is passed over.
    pub fn view(&self, name: &str) -> Result<View> {
        Ok(match self.text(name)? {
            Some("DELETED_ONLY") => View::Deleted,
            Some("ALL") => View::All,
            _ => View::Active,
        })
    }

    /// How many are asked for: at least one, `most` at most.
    pub fn max_results(&self, default: usize, most: i64) -> Result<usize> {
        match self.integer("max_results")? {
            None => Ok(default),
            Some(n) if n < 1 => {
                Err(Error::invalid(format!("Invalid value {n} for parameter 'max_results' supplied. It must be a positive integer")))
            }
            Some(n) if n > most => Err(Error::invalid(format!(
                "Invalid value {n} for parameter 'max_results' supplied:  Hint: Value was of type 'int'. It must be at most {most}."
            ))),
            Some(n) => Ok(n as usize),
        }
    }
}

/// A field that is JSON within a text.
pub fn within(name: &str, text: &str) -> Result<Value> {
    let wrong = |why: String| Error::invalid(format!("Invalid value for parameter '{name}' supplied: {why}"));
    if values(text.as_bytes()) > VALUES {
        return Err(wrong(format!("it holds more than {VALUES} values. Send it in parts.")));
    }
    serde_json::from_str(text).map_err(|e| wrong(format!("it must be JSON: {e}")))
}

pub fn experiment_id(text: &str) -> Result<i64> {
    let invalid = || Error::invalid(format!("Invalid experiment ID '{text}'. Experiment ID must be a valid integer."));
    text.parse().map_err(|_| invalid())
}

fn wrong_type(path: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    };
    let shown: String = value.to_string().chars().take(200).collect();
    Error::invalid(format!(
        "Invalid value {shown} for parameter '{path}' supplied:  Hint: Value was of type '{kind}'. See the API docs for more information \
         about request parameters."
    ))
}

/// `run_id` as `runId`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let mut chars = part.chars();
        camel.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        camel.push_str(chars.as_str());
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn input(value: Value) -> Input {
        let Value::Object(map) = value else { panic!("no object") };
        Input { map }
    }

    #[test]
    fn values_are_counted_before_they_take_room() {
        for (text, count) in [("", 1), ("3", 1), (r#"{"a": [1, 2, {"b": 3}]}"#, 6), (r#""[,{\"[,\\""#, 1), (r#"["\\", 1]"#, 3)] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
        let many = format!(r#"{{"x": [{}0]}}"#, "0,".repeat(VALUES));
        assert!(values(many.as_bytes()) > VALUES);
        assert_eq!(object(json!(many).to_string().as_bytes()), None);
    }

    #[test]
    fn fields_are_read_in_either_case_and_never_in_both() {
        let camel = input(json!({"runId": "a", "startTime": "17", "maxResults": 3.0}));
        assert_eq!(camel.fields().need_run().unwrap(), "a");
        assert_eq!(camel.fields().integer("start_time").unwrap(), Some(17));
        assert_eq!(camel.fields().max_results(9, 10).unwrap(), 3);
        assert!(input(json!({"runId": "a", "run_id": "a"})).fields().need_run().is_err());
        assert_eq!(input(json!({"run_uuid": "b", "run_id": null})).fields().need_run().unwrap(), "b");
    }

    #[test]
    fn wrong_and_missing_fields_are_named_with_their_place() {
        let given = input(json!({"name": 123, "tags": "5", "metrics": [{"key": "m"}, {"value": true}, 7], "step": "foo"}));
        let f = given.fields();
        let words = |e: Error| e.message;
        assert!(
            words(f.text("name").unwrap_err())
                .starts_with("Invalid value 123 for parameter 'name' supplied:  Hint: Value was of type 'int'.")
        );
        assert!(
            words(f.pairs("tags").unwrap_err())
                .starts_with("Invalid value \"5\" for parameter 'tags' supplied:  Hint: Value was of type 'str'.")
        );
        assert!(words(f.integer("step").unwrap_err()).starts_with("Invalid value \"foo\" for parameter 'step'"));
        assert!(words(f.need_text("key").unwrap_err()).starts_with("Missing value for required parameter 'key'."));
        let objects = input(json!({"metrics": [{"key": "m"}, {"value": true}]}));
        let objects = objects.fields().objects("metrics").unwrap();
        assert!(
            words(objects[0].need_double("value").unwrap_err()).starts_with("Missing value for required parameter 'metrics[0].value'.")
        );
        assert!(
            words(objects[1].need_double("value").unwrap_err()).contains("'metrics[1].value' supplied:  Hint: Value was of type 'bool'")
        );
        assert!(f.objects("metrics").is_err());
    }

    #[test]
    fn doubles_have_words_for_what_json_lacks() {
        let of = |value: Value| input(json!({ "value": value })).fields().need_double("value");
        assert!(of(json!("NaN")).unwrap().is_nan());
        assert_eq!(of(json!("-Infinity")).unwrap(), f64::NEG_INFINITY);
        assert_eq!(of(json!("1e3")).unwrap(), 1000.);
        for bad in [json!("inf"), json!("nan"), json!("x"), json!([]), json!(true)] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn typed_bodies_are_objects_all_the_way() {
        #[derive(Deserialize)]
        struct Pair {
            key: String,
        }
        let read = |text: &str| serde_json::from_str::<Object<Pair>>(text).ok().map(|of| of.0.key);
        assert_eq!(read(r#"{"key": "k"}"#).as_deref(), Some("k"));
        assert_eq!((read(r#"["k"]"#), read(r#""k""#), read("null")), (None, None, None));
    }

    #[test]
    fn a_body_encoded_twice_is_read() {
        assert_eq!(object(br#""{\"a\": 1}""#).unwrap()["a"], 1);
        assert!(object(b"not json").is_none() && object(b"[1]").is_none());
    }
}
