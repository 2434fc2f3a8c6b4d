//! What became of every row: nothing is dropped silently, whatever ends the process and whatever changes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, EntityKey, EventTime, Value};
use kilter_features::ViewCounts;
use kilter_runtime::sources::Liveness;
use kilter_runtime::{Service, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
lateness = "10m"
max_future = "1h"
[source.payments.columns]
payment_id = "string"
card = "int64"
shop = "string"
at = "timestamp"
amount = "float64"
[source.visits]
time = "at"
max_future = "none"
idle_after = "30m"
[source.visits.columns]
card = "int64"
at = "timestamp"
[features.card]
source = "payments"
entity = "card"
where = "amount >= 0"
[features.card.columns]
n = "count(*) over 30m"
[features.shop]
source = "payments"
entity = "shop"
[features.shop.columns]
n = "count(*) over 1h"
[features.visit]
source = "visits"
entity = "card"
[features.visit.columns]
n = "count(*) over session 10m"
"#;

const MORE: &str = "[features.more]\nsource = \"payments\"\nentity = \"card\"\n[features.more.columns]\nn = \"sum(amount) over 2h\"\n";
const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_000 * SECOND;

/// A machine's clock that the test moves.
#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Clock for Hand {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Relaxed))
    }
}

async fn start(dir: &Path, clock: &Hand) -> Arc<Service> {
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    let options = StartOptions { clock: Arc::new(clock.clone()), schedules: false, ..StartOptions::default() };
    Service::start(project, options).await.unwrap()
}

/// Ends the process's hold on the data without a snapshot or a word, as a crash would.
async fn crash(service: Arc<Service>) {
    let weak = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    for _ in 0..1000 {
        if weak.strong_count() == 0 && ["events", "decisions", "dead-letters"].into_iter().all(free) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

/// What a naive look at the rows says must have become of them.
#[derive(Default)]
struct Naive {
    ids: HashSet<u64>,
    events: Vec<Row>,
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy)]
struct Row {
    time: i64,
    card: Option<i64>,
    shop: bool,
    amount: f64,
}

impl Naive {
    /// The counts of a view over all events so far: whether a row passes, whether it has a key, length and hop of the window in seconds.
    fn view(
        &self,
        passes: impl Fn(&Row) -> bool,
        keyed: impl Fn(&Row) -> bool,
        length: i64,
        hop: i64,
    ) -> (ViewCounts, Vec<bool>, Vec<bool>) {
        let mut counts = ViewCounts::default();
        let mut watermark = i64::MIN;
        let (mut applied, mut late) = (Vec::new(), Vec::new());
        for row in &self.events {
            watermark = watermark.max(row.time);
            let bound = (watermark - (length + 600) * SECOND).div_euclid(hop * SECOND);
            let is_late = row.time.div_euclid(hop * SECOND) < bound;
            let outcome = match (passes(row), keyed(row), is_late) {
                (false, ..) => &mut counts.filtered,
                (_, false, _) => &mut counts.no_key,
                (.., true) => &mut counts.late,
                _ => &mut counts.applied,
            };
            *outcome += 1;
            applied.push(passes(row) && keyed(row) && !is_late);
            late.push(passes(row) && keyed(row) && is_late);
        }
        (counts, applied, late)
    }

    fn check(&self, service: &Service, when: &str) {
        let (card, card_in, card_late) = self.view(|r| r.amount >= 0.0, |r| r.card.is_some(), 1800, 10);
        let (shop, shop_in, shop_late) = self.view(|_| true, |r| r.shop, 3600, 60);
        let (more, ..) = self.view(|_| true, |r| r.card.is_some(), 7200, 60);
        let counts = service.status.counts();
        let plan = counts.plan.clone().unwrap();
        let has_more = plan.view("more").is_some();
        let of = |view: &str| counts.views[plan.view(view).unwrap()];
        assert_eq!((of("card"), of("shop")), (card, shop), "{when}");
        if has_more {
            assert_eq!(of("more"), more, "{when}");
        }
        let payments = service.sources().into_iter().find(|s| s.source == "payments").unwrap();
        assert_eq!(payments.events, self.events.len() as u64, "{when}");
        assert!(plan.views.iter().zip(&counts.views).all(|(v, c)| v.name() == "visit" || c.events() == payments.events), "{when}");
        let mut reasons = payments.turned_away.clone();
        reasons.insert("duplicate".into(), payments.duplicates);
        let want: BTreeMap<String, u64> = self.reasons.iter().map(|(r, n)| (r.to_string(), *n)).collect();
        reasons.retain(|_, n| *n > 0);
        assert_eq!(reasons, want, "{when}");
        assert_eq!(payments.received, payments.events + want.values().sum::<u64>(), "{when}");
        if !has_more {
            let late = (0..self.events.len()).filter(|&i| (card_late[i] || shop_late[i]) && !card_in[i] && !shop_in[i]).count();
            assert_eq!(payments.late, late as u64, "{when}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn received_is_applied_and_each_reason_over_random_streams_and_restarts() {
    let mut seen = BTreeMap::new();
    for seed in 1..=6 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
        let clock = Hand(Arc::new(AtomicI64::new(START)));
        let mut service = start(dir.path(), &clock).await;
        let mut rng = kilter_stats::Rng::seeded(seed);
        let mut naive = Naive::default();
        for batch in 0..24 {
            clock.0.fetch_add(300 * SECOND, Ordering::Relaxed);
            let now = clock.now().0;
            let mut body = String::new();
            for _ in 0..rng.below(40) {
                let mut id = batch * 1000 + rng.below(1000);
                let mut row = Row {
                    time: now - rng.below(600 * SECOND as u64) as i64,
                    card: (rng.below(8) > 0).then(|| rng.below(5) as i64),
                    shop: rng.below(9) > 0,
                    amount: rng.below(100) as f64 - 15.0,
                };
                let kind = rng.below(12);
                if kind == 0
                    && let Some(known) = naive.ids.iter().min()
                {
                    id = *known;
                }
                if kind < 3 {
                    row.time -= rng.below(9_000 * SECOND as u64) as i64;
                }
                let mut reason = (!naive.ids.insert(id)).then_some("duplicate");
                let mut text = format!(
                    r#"{{"payment_id":"{id}","card":{},"shop":{},"at":"{}","amount":{}}}"#,
                    row.card.map_or("null".into(), |c| c.to_string()),
                    if row.shop { "\"s\"" } else { "null" },
                    EventTime(row.time),
                    row.amount
                );
                if reason.is_none() {
                    let turned = match kind {
                        9 => Some((
                            "future_time",
                            text.replace(&EventTime(row.time).to_string(), &EventTime(now + 3601 * SECOND).to_string()),
                        )),
                        10 => Some(("malformed_json", text.replace("\"amount\"", "amount"))),
                        11 => Some(("wrong_type", text.replace("\"amount\":", "\"amount\":\"much\",\"x\":"))),
                        _ => None,
                    };
                    if let Some((code, changed)) = turned {
                        naive.ids.remove(&id);
                        (reason, text) = (Some(code), changed);
                    }
                }
                match reason {
                    Some(reason) => *naive.reasons.entry(reason).or_default() += 1,
                    None => naive.events.push(row),
                }
                body.push_str(&text);
                body.push('\n');
            }
            if !body.is_empty() {
                let source = service.source("payments").unwrap();
                let _ = service.ingest(source, body.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
            }
            naive.check(&service, &format!("seed {seed}, batch {batch}"));
            let end = rng.below(6);
            *seen.entry(end).or_insert(0) += 1;
            match end {
                0 | 1 => {
                    if end == 1 {
                        service.snapshot().await.unwrap();
                    }
                    crash(service).await;
                    service = start(dir.path(), &clock).await;
                }
                2 => {
                    service.shutdown().await.unwrap();
                    crash(service).await;
                    service = start(dir.path(), &clock).await;
                }
                3 if batch > 12 && service.plan.view("more").is_none() => {
                    std::fs::write(dir.path().join("kilter.toml"), format!("{DEFINITIONS}{MORE}")).unwrap();
                    service.apply().await.unwrap();
                    for _ in 0..1000 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        if service.current().plan.view("more").is_some() {
                            break;
                        }
                    }
                    service = service.current();
                    assert!(service.plan.view("more").is_some(), "{:?}", service.status.applying());
                }
                _ => {}
            }
            naive.check(&service, &format!("seed {seed}, batch {batch}, end {end}"));
        }
        assert!(naive.reasons.len() == 4, "{:?}", naive.reasons);
    }
    assert!(seen.len() == 6, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_told_and_holds_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
    let clock = Hand(Arc::new(AtomicI64::new(START)));
    let mut service = start(dir.path(), &clock).await;
    let liveness = |service: &Service| service.sources().iter().map(|s| s.liveness).collect::<Vec<_>>();
    assert_eq!(liveness(&service), [Liveness::Waiting, Liveness::Waiting]);
    let visit = format!(r#"{{"card":1,"at":"{}"}}"#, EventTime(START));
    let ingest = async |service: &Service, source: &str, body: String| {
        let source = service.source(source).unwrap();
        service.ingest(source, body.as_bytes(), None, Instant::now()).await.unwrap();
    };
    ingest(&service, "visits", visit).await;
    let read = async |service: &Service| service.features(service.view("visit").unwrap(), EntityKey::Int(1), None).await.unwrap().values;
    assert_eq!(read(&service).await, [Value::Int(1)]);
    assert_eq!(liveness(&service), [Liveness::Waiting, Liveness::Active]);
    // Half an hour later only payments have come: the session of the silent source has ended all the same.
    clock.0.fetch_add(1801 * SECOND, Ordering::Relaxed);
    let payment = |id: u64| format!(r#"{{"payment_id":"{id}","card":1,"shop":"s","at":"{}","amount":1}}"#, clock.now());
    ingest(&service, "payments", payment(1)).await;
    assert_eq!(liveness(&service), [Liveness::Active, Liveness::Idle]);
    assert_eq!(read(&service).await, [Value::Int(0)]);
    assert_eq!(service.sources()[1].silent.map(|s| s.0), Some(1801 * SECOND));
    crash(service).await;
    service = start(dir.path(), &clock).await;
    assert_eq!(liveness(&service), [Liveness::Active, Liveness::Idle], "a start is no event");
    // What is turned away does not count as a sign of life of the stream, a good event does.
    let source = service.source("visits").unwrap();
    let _ = service.ingest(source, b"{\"card\":1}", None, Instant::now()).await.unwrap();
    assert_eq!(liveness(&service)[1], Liveness::Idle);
    ingest(&service, "visits", format!(r#"{{"card":1,"at":"{}"}}"#, clock.now())).await;
    assert_eq!(liveness(&service)[1], Liveness::Active);
}
