//! A project with payments, decisions on them, and some that were turned away.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span};
use kilter_runtime::{Service, StartOptions, project};
use kilter_sql::{Engine, Limits};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
[source.payments.columns]
payment_id = "string"
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1d"
[decision.pay]
on = "payments"
policy = [{ when = "amount > 900", outcome = "review" }, { outcome = "accept" }]
"#;

pub const PAYMENTS: i64 = 6000;
/// When the first of them happened.
pub const BEGIN: EventTime = EventTime(1_700_000_000_000_000);

pub struct Shop {
    pub engine: Arc<Engine>,
    pub service: Arc<Service>,
    pub _dir: tempfile::TempDir,
}

pub async fn open() -> Shop {
    let shop = empty().await;
    shop.pay(0..PAYMENTS).await;
    let source = shop.service.source("payments").unwrap();
    let report = shop.service.ingest(source, br#"{"card": "none"}"#, Some("application/json"), Instant::now()).await.unwrap();
    assert_eq!(report.rejected, 1);
    shop
}

/// A busy machine may be slow.
pub fn limits() -> Limits {
    Limits { time: Duration::from_secs(600), ..Limits::default() }
}

/// Before its first payment.
pub async fn empty() -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    let engine = Arc::new(Engine::new(Arc::clone(&service), limits()).unwrap());
    Shop { engine, service, _dir: dir }
}

impl Shop {
    /// One that has seen nothing yet.
    pub fn another_engine(&self) -> Arc<Engine> {
        Arc::new(Engine::new(Arc::clone(&self.service), limits()).unwrap())
    }

    pub async fn pay(&self, payments: Range<i64>) {
        let rows: Vec<String> = payments.map(payment).collect();
        let source = self.service.source("payments").unwrap();
        for rows in rows.chunks(1000) {
            let body = rows.join("\n");
            self.service.ingest(source, body.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
        }
    }
}

async fn start(dir: &Path) -> Arc<Service> {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    Service::start(project, StartOptions::default()).await.unwrap()
}

/// One a minute; each thousandth is large.
fn payment(n: i64) -> String {
    let at = BEGIN + Span(n * 60_000_000);
    let amount = if n % 1000 == 0 { 1000 } else { n % 100 };
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{at}","amount":{amount}}}"#, n % 5)
}
