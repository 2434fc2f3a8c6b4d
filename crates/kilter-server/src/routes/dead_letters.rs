//! Rows and events that could not be used.

use axum::extract::State;
use kilter_store::dead_letter::DeadLetterQuery;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::ErrorBody;
use crate::input::Params;
use crate::wire::Moment;

/// Dead letters, newest first.
#[derive(Serialize, ToSchema)]
pub struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
    /// Give it as `before` for the next page; null at the end. A page may be short of its limit and yet not the last.
    next: Option<u64>,
}

/// One unusable row or event and why.
#[derive(Serialize, ToSchema)]
pub struct DeadLetter {
    /// Its place in the stream of dead letters.
    offset: u64,
    /// When it arrived.
    at: Moment,
    source: Option<String>,
    #[schema(example = "wrong_type")]
    code: String,
    /// What is wrong.
    detail: String,
    hint: Option<String>,
    /// Its offset in the event log, when it got that far.
    log_offset: Option<u64>,
    /// Its place in the topic it was read from, as `PARTITION@OFFSET`.
    #[schema(example = "3@1207")]
    origin: Option<String>,
    /// Its text, at most 64 KiB.
    payload: Option<String>,
    /// Whether `payload` is base64 of bytes that are no text.
    payload_base64: bool,
    /// Whether `payload` is only the beginning.
    payload_cut: bool,
}

/// List dead letters
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "events",
    params(
        ("source" = Option<String>, Query, description = "only those of this source"),
        ("code" = Option<String>, Query, description = "only those with this code, such as `late`"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 50 when left out"),
        ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "a page of dead letters, newest first", body = DeadLetters),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such source", body = ErrorBody),
    )
)]
pub async fn list_dead_letters(State(app): State<App>, mut params: Params) -> Answer {
    let (source, code) = (params.text("source"), params.text("code"));
    let limit = params.limit(50, 1000);
    let before = params.number("before", 0..=u64::MAX);
    params.done()?;
    if let Some(source) = &source {
        app.service.source(source)?;
    }
    let query = DeadLetterQuery { before, limit, source, code };
    let page = app.blocking(move |service| Ok(service.data.dead_letters.list(&query)?)).await?;
    let letters = page.letters.into_iter().map(|(offset, letter)| DeadLetter {
        offset,
        at: Moment::micros(letter.at_micros),
        source: letter.source,
        code: letter.code,
        detail: letter.detail,
        hint: letter.hint,
        log_offset: letter.log_offset,
        origin: letter.origin,
        payload: letter.payload,
        payload_base64: letter.payload_base64,
        payload_cut: letter.payload_cut,
    });
    ok(&DeadLetters { dead_letters: letters.collect(), next: page.next_before })
}
