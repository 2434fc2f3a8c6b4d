//! What comes in: path segments, query parameters, bodies; each refusal names what is wrong in the house's one shape.

use std::convert::Infallible;
use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use kilter_core::{EventTime, list, nearest};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ApiError, FieldError};

/// Largest body of a management call.
pub const SMALL_BODY: usize = 64 * 1024;
/// Largest body of a decision request.
pub const DECIDE_BODY: usize = 1024 * 1024;
/// Largest model file that is taken in.
pub const MODEL_BODY: usize = 128 * 1024 * 1024;
/// How long the rest of a body that is too large is read and thrown away, so that its sender gets to read the answer.
const DISCARD_FOR: Duration = Duration::from_secs(5);

/// The moment the request's head was read, before its body.
pub struct Received(pub Instant);

impl<S: Send + Sync> FromRequestParts<S> for Received {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Received(Instant::now()))
    }
}

/// The variable segments of the path.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Segments(value)).map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, "bad_path", e.body_text()))
    }
}

/// Query parameters, or the members of a small JSON object: read one by one, all problems told at once by [`Params::done`].
pub struct Params {
    given: Vec<(String, Value)>,
    asked: Vec<&'static str>,
    problems: Vec<FieldError>,
    is_query: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_none_or(str::is_empty) {
            return Ok(Params::new(Vec::new(), true));
        }
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = query.map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", e.body_text()))?;
        Ok(Params::new(pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect(), true))
    }
}

impl Params {
    fn new(given: Vec<(String, Value)>, is_query: bool) -> Params {
        Params { given, asked: Vec::new(), problems: Vec::new(), is_query }
    }

    /// The body of a management call; an empty one is an empty object.
    pub async fn of_body(headers: &HeaderMap, body: Body) -> Result<Params, ApiError> {
        Params::of_body_within(headers, body, SMALL_BODY, "a few members suffice; see /docs").await
    }

    /// The same for a body of another size at most.
    pub async fn of_body_within(headers: &HeaderMap, body: Body, limit: usize, hint: &str) -> Result<Params, ApiError> {
        let bytes = read(headers, body, limit, hint).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Params::new(Vec::new(), false));
        }
        let bad = |code: &'static str, message: String| {
            ApiError::new(StatusCode::BAD_REQUEST, code, message).hint("send one JSON object".to_string())
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(members)) => Ok(Params::new(members.into_iter().collect(), false)),
            Ok(_) => Err(bad("not_an_object", "expected a JSON object".into())),
            Err(e) => Err(bad("malformed_json", format!("malformed JSON: {e}"))),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        let at = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(at);
        (!value.is_null()).then_some(value)
    }

    fn wrong(&mut self, name: &str, expected: String, got: &Value) {
        let got = match got {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let got: String = got.chars().take(200).collect();
        self.problems.push(FieldError {
            field: name.into(),
            code: "wrong_value".into(),
            message: format!("{name}: expected {expected}, got `{got}`"),
            expected: Some(expected),
            got: Some(got),
            hint: None,
        });
    }

    /// A text, not empty.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if !text.is_empty() => Some(text),
            other => {
                self.wrong(name, "a text".into(), &other);
                None
            }
        }
    }

    /// An array of one to so many items.
    pub fn list(&mut self, name: &'static str, most: usize) -> Option<Vec<Value>> {
        let value = self.take(name)?;
        match value {
            Value::Array(items) if !items.is_empty() && items.len() <= most => Some(items),
            Value::Array(items) => {
                self.wrong(name, format!("1 to {most} items"), &Value::String(format!("{} items", items.len())));
                None
            }
            other => {
                self.wrong(name, "an array".into(), &other);
                None
            }
        }
    }

    /// Several of a few words; their positions.
    pub fn all_of(&mut self, name: &'static str, words: &[&str]) -> Option<Vec<usize>> {
        let items = self.list(name, words.len().max(1))?;
        let mut positions = Vec::new();
        for item in items {
            match item.as_str().and_then(|text| words.iter().position(|w| *w == text)) {
                Some(position) => positions.push(position),
                None => self.not_among(name, words, &item),
            }
        }
        Some(positions)
    }

    fn not_among(&mut self, name: &'static str, words: &[&str], value: &Value) {
        self.wrong(name, format!("one of {}", list(words.iter().copied())), value);
        if let Some(near) = value.as_str().and_then(|text| nearest(text, words.iter().copied()))
            && let Some(problem) = self.problems.last_mut()
        {
            problem.hint = Some(format!("did you mean `{near}`?"));
        }
    }

    /// A whole number within bounds.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(name)?;
        let number = match &value {
            Value::Number(n) => n.as_u64(),
            Value::String(text) if self.is_query => text.parse().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|n| range.contains(n)) {
            return Some(number);
        }
        let expected = match (*range.start(), *range.end()) {
            (0, u64::MAX) => "a whole number".into(),
            (from, u64::MAX) => format!("a whole number of at least {from}"),
            (from, to) => format!("a whole number from {from} to {to}"),
        };
        self.wrong(name, expected, &value);
        None
    }

    /// A whole number, also one below 0.
    pub fn integer(&mut self, name: &'static str) -> Option<i64> {
        let value = self.take(name)?;
        let number = match &value {
            Value::Number(n) => n.as_i64(),
            Value::String(text) if self.is_query => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong(name, "a whole number".into(), &value);
        }
        number
    }

    /// A number.
    pub fn real(&mut self, name: &'static str) -> Option<f64> {
        let value = self.take(name)?;
        let number = match &value {
            Value::Number(n) => n.as_f64(),
            Value::String(text) if self.is_query => text.parse().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|n: &f64| n.is_finite()) {
            return Some(number);
        }
        self.wrong(name, "a number".into(), &value);
        None
    }

    /// Rows of one answer at most.
    pub fn limit(&mut self, default: u64, most: u64) -> usize {
        self.number("limit", 1..=most).unwrap_or(default) as usize
    }

    /// One of a few words; its position.
    pub fn one_of(&mut self, name: &'static str, words: &[&str]) -> Option<usize> {
        let value = self.take(name)?;
        let found = value.as_str().and_then(|text| words.iter().position(|w| *w == text));
        if found.is_none() {
            self.not_among(name, words, &value);
        }
        found
    }

    pub fn flag(&mut self, name: &'static str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(Value::String(text)) if self.is_query && matches!(text.as_str(), "true" | "1" | "") => true,
            Some(Value::String(text)) if self.is_query && matches!(text.as_str(), "false" | "0") => false,
            Some(other) => {
                self.wrong(name, "true or false".into(), &other);
                false
            }
        }
    }

    /// A time as text or as a number since 1970, between the years 1900 and 2262.
    pub fn time(&mut self, name: &'static str) -> Option<EventTime> {
        let value = self.take(name)?;
        let time = match &value {
            Value::Number(n) => n.as_i64().map(EventTime::from_number),
            Value::String(text) => {
                EventTime::parse(text).or_else(|| text.parse().ok().filter(|_| self.is_query).map(EventTime::from_number))
            }
            _ => None,
        };
        if let Some(time) = time.filter(|t| (EventTime::EARLIEST..=EventTime::LATEST).contains(t)) {
            return Some(time);
        }
        self.wrong(name, "a time such as 2026-01-31T10:00:00Z, from 1900 to 2262".into(), &value);
        // A plus sign in a query means a space.
        if self.is_query
            && value.as_str().is_some_and(|t| t.contains(' '))
            && let Some(problem) = self.problems.last_mut()
        {
            problem.hint = Some("in a query `+` stands for a space: write `%2B`".into());
        }
        None
    }

    /// Notes that a member must be there.
    pub fn missing(&mut self, name: &str, expected: &str) {
        if self.problems.iter().any(|p| p.field == name) {
            return;
        }
        self.problems.push(FieldError {
            field: name.into(),
            code: "missing_field".into(),
            message: format!("{name}: missing"),
            expected: Some(expected.into()),
            got: None,
            hint: None,
        });
    }

    /// Says of a member that is there what is wrong with it beside the others.
    pub fn refuse(&mut self, name: &str, message: &str) {
        self.problems.push(FieldError {
            field: name.into(),
            code: "wrong_value".into(),
            message: format!("{name}: {message}"),
            expected: None,
            got: None,
            hint: None,
        });
    }

    /// All that was wrong: bad values and names nobody asked for.
    pub fn done(mut self) -> Result<(), ApiError> {
        for (name, _) in &self.given {
            let (kind, hint) = (
                if self.is_query { "parameter" } else { "field" },
                match nearest(name, self.asked.iter().copied()) {
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None if self.asked.is_empty() => None,
                    None => Some(format!("there are: {}", list(self.asked.iter().copied()))),
                },
            );
            self.problems.push(FieldError {
                field: name.clone(),
                code: "unknown_field".into(),
                message: format!("{name}: no such {kind}, or given twice"),
                expected: None,
                got: None,
                hint,
            });
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let code = if self.is_query { "bad_parameter" } else { "invalid_request" };
        Err(ApiError::wrong_fields(StatusCode::BAD_REQUEST, code, self.problems))
    }
}

/// Reads a body of at most `limit` bytes. A larger one is refused, with `hint`, by its announced length before any of it is read, or as
/// soon as it has grown too long.
pub async fn read(headers: &HeaderMap, mut body: Body, limit: usize, hint: &str) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        discard(headers, body);
        return Err(too_large(limit, hint));
    }
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(announced.map_or(first.len() * 2, |n| n as usize).min(limit));
    let mut chunk = Some(first);
    while let Some(bytes) = chunk {
        if whole.len() + bytes.len() > limit {
            discard(headers, body);
            return Err(too_large(limit, hint));
        }
        whole.extend_from_slice(&bytes);
        chunk = next(&mut body).await?;
    }
    Ok(whole.freeze())
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(e)) => {
                let message = format!("the body ended before it was complete: {e}");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", message));
            }
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// Reads on in the background: closing at once would make the sender see a broken connection instead of the answer.
fn discard(headers: &HeaderMap, mut body: Body) {
    // Whoever asks before sending has sent nothing yet.
    if headers.contains_key(EXPECT) {
        return;
    }
    tokio::spawn(async move {
        let _ = tokio::time::timeout(DISCARD_FOR, async { while let Ok(Some(_)) = next(&mut body).await {} }).await;
    });
}

fn too_large(limit: usize, hint: &str) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body is larger than {limit} bytes")).hint(hint.to_string())
}
