//! Plays the lender's life against the HTTP API, in order: bookings in batches, each application as a request for a decision.

use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span};

use crate::api::Client;
use crate::generate::lender::{Lender, LenderEvent, LenderOptions, What};

/// Repayments are reported in batches of this many, or after this much of the lender's time.
const REPAYMENT_BATCH: usize = 64;
const REPAYMENT_DELAY: Span = Span(Span::HOUR.0);
/// Bookings are pushed at the latest when so many wait.
const BOOKING_BATCH: usize = 1000;

/// How far the stream has come.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub events: u64,
    pub applications: u64,
    pub rejected: u64,
    pub event_time: EventTime,
    pub elapsed: Duration,
    /// From sending an application until its decision was here, one per application, in microseconds.
    pub decision_micros: Vec<u32>,
}

/// Runs to the end of the lender's days.
pub fn play(client: &Client, options: LenderOptions, mut progress: impl FnMut(&Played)) -> anyhow::Result<Played> {
    let started = Instant::now();
    let mut played = Played { event_time: options.start, ..Played::default() };
    let mut bookings = Batch::new("transactions");
    let mut repayments = Batch::new("repayments");
    let mut request = String::new();
    let mut shown = Instant::now();
    for event in Lender::new(options) {
        played.event_time = event.time;
        match &event.what {
            What::Transaction { .. } => {
                bookings.push(&event);
                if bookings.rows == BOOKING_BATCH {
                    bookings.send(client, &mut played)?;
                }
            }
            What::Repayment { .. } => {
                repayments.push(&event);
            }
            What::Application { .. } => {
                // Everything that happened before the application is in before it is decided on.
                bookings.send(client, &mut played)?;
                request.clear();
                event.write_json(&mut request);
                let asked = Instant::now();
                let (status, body) = client.post_raw("/v1/decide/loan", "application/json", request.as_bytes())?;
                played.decision_micros.push(asked.elapsed().as_micros() as u32);
                anyhow::ensure!(status == 200, "a decision was refused with {status}: {}", String::from_utf8_lossy(&body));
                played.applications += 1;
                played.events += 1;
            }
        }
        if repayments.rows >= REPAYMENT_BATCH || repayments.since.is_some_and(|since| event.time - since >= REPAYMENT_DELAY) {
            repayments.send(client, &mut played)?;
        }
        if shown.elapsed() > Duration::from_millis(100) {
            shown = Instant::now();
            played.elapsed = started.elapsed();
            progress(&played);
        }
    }
    bookings.send(client, &mut played)?;
    repayments.send(client, &mut played)?;
    played.elapsed = started.elapsed();
    progress(&played);
    Ok(played)
}

/// Events of one source on their way, one JSON object a line.
struct Batch {
    path: String,
    text: String,
    rows: usize,
    since: Option<EventTime>,
}

impl Batch {
    fn new(source: &str) -> Batch {
        Batch { path: format!("/v1/events/{source}"), text: String::new(), rows: 0, since: None }
    }

    fn push(&mut self, event: &LenderEvent) {
        self.since.get_or_insert(event.time);
        event.write_json(&mut self.text);
        self.text.push('\n');
        self.rows += 1;
    }

    fn send(&mut self, client: &Client, played: &mut Played) -> anyhow::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let (status, body) = client.post_raw(&self.path, "application/x-ndjson", self.text.as_bytes())?;
        anyhow::ensure!(status == 200, "events were refused with {status}: {}", String::from_utf8_lossy(&body));
        let answer: serde_json::Value = serde_json::from_slice(&body)?;
        played.rejected += answer["rejected"].as_u64().unwrap_or(0);
        played.events += answer["accepted"].as_u64().unwrap_or(0);
        self.text.clear();
        self.rows = 0;
        self.since = None;
        Ok(())
    }
}
