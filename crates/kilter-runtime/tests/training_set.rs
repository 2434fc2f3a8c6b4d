//! Training sets of a project that runs: the same bytes whatever happens on the way, and clear words where it cannot be done.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, EventTime, Span};
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::jobs::training_set::{Features, Lags, Limits, Mode, Pick, Report, Request, Sample, Spine, write};
use kilter_runtime::{Service, StartOptions, TableFormat, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
[source.payments.columns]
payment_id = "string"
card = "int64"
shop = "string"
at = "timestamp"
amount = "float64"
[source.outcomes]
time = "at"
max_future = "none"
[source.outcomes.columns]
payment_id = "string"
card = "int64"
at = "timestamp"
fraud = "bool"
[source.shops]
time = "at"
key = "shop"
operation = "op"
max_future = "none"
[source.shops.columns]
shop = "string"
region = "string"
at = "timestamp"
op = "string"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1h, 1d"
sum = "sum(amount) over 1d"
spread = "stddev(amount) over 1d"
last = "last(shop)"
dear = "max(amount / shop.mean_1d) over 1d"
abroad = "count(*) where region.is = 'abroad' over 1d"
[features.shop]
source = "payments"
entity = "shop"
[features.shop.columns]
mean = "mean(amount) over 1d"
[features.region]
source = "shops"
entity = "shop"
[features.region.columns]
is = "last(region)"
[features.history]
source = "outcomes"
entity = "card"
[features.history.columns]
frauds = "count(*) where fraud over 1d"
[model.fraud]
on = "payments"
params = { trees = 10, leaves = 5, min_leaf_rows = 5 }
inputs = ["card.*", "shop.mean_1d", "history.*", "payments.amount", "share = payments.amount / card.sum_1d"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
"#;

const START: i64 = 1_700_000_000_000_000;
const PAYMENTS: u64 = 3000;

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Relaxed))
    }
}

fn minute(n: i64) -> EventTime {
    EventTime(START) + Span(n * Span::MINUTE.0)
}

/// A shop whose events arrive some minutes after they happen, some of them out of order, some without a card.
struct Shop {
    dir: tempfile::TempDir,
    service: Arc<Service>,
}

impl Shop {
    async fn open() -> Shop {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
        let project = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let clock = Arc::new(Hands(AtomicI64::new(START)));
        let options = StartOptions { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..StartOptions::default() };
        let service = Service::start(project, options).await.unwrap();
        let send = async |source: &str, rows: Vec<String>| {
            let source = service.source(source).unwrap();
            let body = rows.join("\n");
            let report = service.ingest(source, body.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
            assert_eq!(report.rejected, 0, "{:?}", report.rejections);
        };
        for chunk in 0..PAYMENTS / 100 {
            let range = chunk * 100..(chunk + 1) * 100;
            clock.0.store(minute(range.end as i64 + 3).0, Ordering::Relaxed);
            let payments = range.clone().map(|n| {
                let card = if n % 37 == 5 { "null".to_string() } else { (n * 7 % 23).to_string() };
                let at = minute((n - n * 31 % 11 % (n + 1)) as i64);
                let amount = 10.0 + (n * 97 % 1009) as f64 / 7.0;
                format!(r#"{{"payment_id":"p{n}","card":{card},"shop":"s{}","at":"{at}","amount":{amount}}}"#, n % 4)
            });
            send("payments", payments.collect()).await;
            let outcomes = range.map(|n| {
                format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","fraud":{}}}"#, n * 7 % 23, minute(n as i64 + 2), n % 5 == 0)
            });
            send("outcomes", outcomes.collect()).await;
            // Shops move, and close for a while.
            let op = if chunk % 5 == 4 { "delete" } else { "update" };
            let region = if chunk % 3 == 0 { "abroad" } else { "home" };
            let at = minute(chunk as i64 * 100 + 99);
            send("shops", vec![format!(r#"{{"shop":"s{}","region":"{region}","at":"{at}","op":"{op}"}}"#, chunk % 4)]).await;
            if chunk == 12 {
                service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
            }
        }
        Shop { dir, service }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> Spine {
        std::fs::write(self.path(name), text).unwrap();
        Spine::File { path: self.path(name), time: None }
    }

    fn request(&self, out: &str, spine: Spine, mode: Mode) -> Request {
        let out = self.path(out);
        let format = TableFormat::parse(out.extension().unwrap().to_str().unwrap()).unwrap();
        Request {
            out,
            format,
            spine,
            mode,
            features: Features::Default,
            keys: Vec::new(),
            include_self: None,
            threads: 1,
            overwrite: false,
            restart: false,
            // Many runs and parts, some of them divided further.
            limits: Limits { state: 20_000, buffer: 30_000, part_every: Duration::ZERO, part_records: 700 },
        }
    }

    fn run(&self, request: &Request) -> anyhow::Result<Report> {
        write(&self.service.data, &self.service.project, request, &mut |_| {})
    }

    fn bytes(&self, request: &Request) -> Vec<u8> {
        let request = Request { overwrite: true, ..request.clone() };
        self.run(&request).unwrap();
        assert!(!kilter_runtime::jobs::training_set::partial_of(&request.out).exists(), "unfinished work is left");
        std::fs::read(&request.out).unwrap()
    }

    fn refused(&self, request: &Request, parts: &[&str]) {
        let error = format!("{:#}", self.run(request).unwrap_err());
        parts.iter().for_each(|part| assert!(error.contains(part), "no `{part}` in: {error}"));
    }
}

fn events() -> Spine {
    Spine::Events { source: "payments".into(), pick: Pick::default() }
}

fn decisions() -> Spine {
    Spine::Decisions { decision: "pay".into(), pick: Pick::default() }
}

fn event_time() -> Mode {
    Mode::EventTime(Lags { all: Span(4 * Span::MINUTE.0), by_source: vec![("outcomes".into(), Span::HOUR)] })
}

/// A spine of rows every few minutes, in order or not, some of them without a card.
fn labels(in_order: bool) -> String {
    let mut rows: Vec<String> = (0..1500)
        .map(|n: i64| {
            let card = if n % 41 == 3 { String::new() } else { (n % 25).to_string() };
            format!("{card},{},s{},{}", minute(n * 2 - 20), n % 4, n % 3 == 0)
        })
        .collect();
    if !in_order {
        rows.sort_by_key(|row| blake3::hash(row.as_bytes()).to_hex().to_string());
    }
    format!("card,time,shop,label\n{}\n", rows.join("\n"))
}

/// A CSV as rows of cells by the header.
fn cells(bytes: &[u8]) -> Vec<Vec<String>> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn column<'a>(table: &'a [Vec<String>], name: &str) -> Vec<&'a str> {
    let at = table[0].iter().position(|c| c == name).unwrap_or_else(|| panic!("no column {name} in {:?}", table[0]));
    table[1..].iter().map(|row| row[at].as_str()).collect()
}

/// Every way of asking.
fn all(shop: &Shop) -> Vec<Request> {
    let (sorted, shuffled) = (shop.file("sorted.csv", &labels(true)), shop.file("shuffled.csv", &labels(false)));
    vec![
        shop.request("a.parquet", events(), Mode::Replay),
        shop.request("b.csv", events(), event_time()),
        shop.request("c.csv", decisions(), Mode::AsLogged),
        Request { features: Features::Model("fraud".into()), ..shop.request("d.ndjson", events(), Mode::Replay) },
        shop.request("e.csv", sorted.clone(), Mode::Replay),
        shop.request("f.parquet", shuffled.clone(), Mode::Replay),
        shop.request("g.csv", sorted, event_time()),
        shop.request("h.parquet", shuffled, event_time()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_threads_and_any_interruption_give_the_same_bytes() {
    let shop = Shop::open().await;
    let mut resumed = 0;
    for request in all(&shop) {
        let name = request.out.display().to_string();
        let plain = shop.bytes(&Request { limits: Limits::default(), ..request.clone() });
        assert!(plain.len() > 10_000, "{name}");
        for threads in [1, 2, 5] {
            let request = Request { threads, overwrite: true, ..request.clone() };
            assert!(shop.bytes(&request) == plain, "{name} on {threads} threads");
            let mut stops = 0;
            // Each run is cut off later than the one before; what it leaves is taken up.
            for after in [1, 2, 4, 6, 12] {
                let mut told = 0;
                let mut cut_off = |_: &_| {
                    told += 1;
                    if told == after {
                        resume_unwind(Box::new("cut off"));
                    }
                };
                let run = catch_unwind(AssertUnwindSafe(|| write(&shop.service.data, &shop.service.project, &request, &mut cut_off)));
                match run {
                    Err(_) => stops += 1,
                    Ok(done) => {
                        let done = done.unwrap();
                        resumed += usize::from(done.resumed > 0);
                        break;
                    }
                }
            }
            // What is recorded has no parts, and is told of once: when it is on disk.
            assert!(stops > usize::from(!matches!(request.mode, Mode::AsLogged)), "{name} was not cut off");
            assert!(shop.bytes(&request) == plain, "{name} on {threads} threads, cut off {stops} times");
        }
    }
    assert!(resumed > 5, "work is begun anew instead of gone on with: {resumed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_entities_than_fit_in_memory_give_the_same_bytes() {
    let shop = Shop::open().await;
    for request in all(&shop) {
        let request = Request { overwrite: true, ..request };
        let name = request.out.display().to_string();
        let with = |limits: Limits, threads| {
            let report = shop.run(&Request { limits, threads, ..request.clone() }).unwrap();
            (report, std::fs::read(&request.out).unwrap())
        };
        let (report, plain) = with(Limits::default(), 1);
        assert_eq!((report.divided, report.resumed), (0, 0), "{name}");
        // Room for one card or two, and for none: a part goes down to single entities, which are held whatever they take.
        for (state, threads) in [(20_000, 1), (40_000, 3), (1, 2)] {
            let (report, bytes) = with(Limits { state, part_records: 100_000, ..Limits::default() }, threads);
            assert!(bytes == plain, "{name} with {state} bytes of state");
            assert!(report.divided > 2 || matches!(request.mode, Mode::AsLogged), "{name}: {} divided", report.divided);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_is_what_was_recorded_with_the_decisions() {
    let shop = Shop::open().await;
    let seen = cells(&shop.bytes(&shop.request("seen.csv", decisions(), Mode::AsLogged)));
    let again = cells(&shop.bytes(&shop.request("again.csv", decisions(), Mode::Replay)));
    assert_eq!((seen.len(), &seen[0]), (PAYMENTS as usize + 1, &again[0]));
    let numbers = |cell: &str| (!cell.is_empty()).then(|| cell.parse::<f64>().unwrap().to_bits());
    for name in [
        "card.count_1h",
        "card.sum_1d",
        "card.spread_1d",
        "card.dear_1d",
        "card.abroad_1d",
        "shop.mean_1d",
        "history.frauds_1d",
        "payments.amount",
        "share",
    ] {
        let pairs = column(&seen, name).into_iter().zip(column(&again, name));
        let values: Vec<_> = pairs.map(|(a, b)| (numbers(a), numbers(b))).collect();
        assert!(values.iter().all(|(a, b)| a == b), "{name}");
        assert!(values.iter().any(|(a, _)| a.is_some_and(|bits| bits != 0)), "{name} is empty");
    }
    for name in ["decision.id", "decision.outcome", "decision.score", "decision.model_version", "payment_id"] {
        assert_eq!(column(&seen, name), column(&again, name));
    }
    assert!(column(&seen, "decision.score").iter().any(|s| !s.is_empty()), "a model was in service");
    assert_eq!(column(&seen, "decision.id")[0], "pay-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_keep_the_order_of_their_file_and_are_read_by_their_times() {
    let shop = Shop::open().await;
    for mode in [Mode::Replay, event_time()] {
        let sorted = cells(&shop.bytes(&shop.request("sorted-out.csv", shop.file("sorted.csv", &labels(true)), mode.clone())));
        let shuffled = cells(&shop.bytes(&shop.request("shuffled-out.csv", shop.file("shuffled.csv", &labels(false)), mode)));
        let order: Vec<String> = labels(false).lines().skip(1).map(|row| row.split(',').nth(1).unwrap().to_owned()).collect();
        assert_eq!(column(&shuffled, "time"), order);
        let mut by_time = shuffled.clone();
        by_time[1..].sort_by_key(|row| EventTime::parse(&row[1]).unwrap());
        assert!(by_time == sorted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_and_outside_the_log_are_kept_and_counted() {
    let shop = Shop::open().await;
    let text = format!("card,time,label\n1,{},a\n,{},b\n1,{},c\n", minute(-500), minute(200), minute(90_000));
    let spine = shop.file("few.csv", &text);
    let request = shop.request("few-out.csv", spine, event_time());
    let report = shop.run(&request).unwrap();
    assert_eq!((report.counts.rows, report.counts.before_log, report.counts.beyond_log), (3, 1, 1));
    assert_eq!(report.counts.without_key.get("card"), Some(&1));
    let table = cells(&std::fs::read(&request.out).unwrap());
    assert_eq!(column(&table, "label"), ["a", "b", "c"]);
    assert_eq!(column(&table, "card.count_1d"), ["0", "", "0"], "an empty history, no entity, a window that has passed");
    // A spine file whose rows end before the log does has none beyond it.
    let spine = shop.file("last.csv", &format!("card,time\n1,{}\n", minute(2000)));
    assert_eq!(shop.run(&shop.request("last-out.csv", spine, Mode::Replay)).unwrap().counts.beyond_log, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_picked_by_condition_time_and_hash() {
    let shop = Shop::open().await;
    let pick = |pick: Pick| {
        let spine = Spine::Events { source: "payments".into(), pick };
        let table = cells(&shop.bytes(&shop.request("picked.csv", spine, Mode::Replay)));
        column(&table, "payment_id").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = pick(Pick::default());
    assert_eq!(all.len(), PAYMENTS as usize);
    let some = pick(Pick { condition: Some("card = 3 and payments.amount > 20".into()), ..Pick::default() });
    assert!(some.len() > 20 && some.iter().all(|id| id[1..].parse::<u64>().unwrap() * 7 % 23 == 3), "{}", some.len());
    let range = pick(Pick { from: Some(minute(1000)), to: Some(minute(1100)), ..Pick::default() });
    assert_eq!(range.len(), 100, "{range:?}");
    let sample =
        |share, seed, by: Option<&str>| pick(Pick { sample: Some(Sample { share, seed, by: by.map(str::to_owned) }), ..Pick::default() });
    let tenth = sample(0.1, 7, None);
    assert!((200..400).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(tenth, sample(0.1, 7, None));
    assert_ne!(tenth, sample(0.1, 8, None));
    let cards = |ids: &[String]| {
        ids.iter().map(|id| id[1..].parse::<u64>().unwrap()).filter(|n| n % 37 != 5).map(|n| n * 7 % 23).collect::<Vec<_>>()
    };
    let by_card = cards(&sample(0.4, 7, Some("card")));
    for card in 0..23 {
        let of_card = by_card.iter().filter(|c| **c == card).count();
        assert!(of_card == 0 || of_card == cards(&all).iter().filter(|c| **c == card).count(), "card {card} is torn apart");
    }
    assert!(!by_card.is_empty() && by_card.len() < 2500);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_a_hint() {
    let shop = Shop::open().await;
    let list = |items: &[&str]| Features::List(items.iter().map(|i| i.to_string()).collect());
    let with = |features: Features| Request { features, ..shop.request("x.csv", events(), Mode::Replay) };
    shop.refused(&with(list(&["card.cuont_1h"])), &["unknown column `card.cuont_1h`", "did you mean `card.count_1h`?"]);
    shop.refused(&with(list(&["crad.*"])), &["unknown feature view `crad`", "did you mean `card`?"]);
    shop.refused(&with(list(&["amount / card.sum_1d"])), &["needs a name", "ratio = amount / card.sum_1d"]);
    shop.refused(&with(list(&["amount"])), &["is a column of the spine"]);
    shop.refused(&with(list(&["amount = payments.amount * 2"])), &["two columns", "`amount`"]);
    shop.refused(&with(list(&["x = payments.amuont * 2"])), &["did you mean `payments.amount`?"]);
    shop.refused(&with(Features::Model("frued".into())), &["unknown model `frued`", "did you mean `fraud`?"]);
    let pick = |condition: &str| {
        let pick = Pick { condition: Some(condition.into()), ..Pick::default() };
        shop.request("x.csv", Spine::Events { source: "payments".into(), pick }, Mode::Replay)
    };
    shop.refused(&pick("amuont > 3"), &["--where: unknown column `amuont`", "did you mean `payments.amount`?"]);
    shop.refused(&pick("amount"), &["no condition", "compare it"]);
    shop.refused(&shop.request("x.csv", Spine::Events { source: "payment".into(), pick: Pick::default() }, Mode::Replay), &["`payments`?"]);
    shop.refused(&shop.request("x.csv", events(), Mode::AsLogged), &["--decision NAME"]);
    shop.refused(&shop.request("nowhere/x.csv", events(), Mode::Replay), &["there is no folder"]);
    let lags = Mode::EventTime(Lags { all: Span::ZERO, by_source: vec![("outcome".into(), Span::HOUR)] });
    shop.refused(&shop.request("x.csv", events(), lags), &["unknown source `outcome`", "`outcomes`?"]);

    let file = |text: &str| shop.request("x.csv", shop.file("bad.csv", text), Mode::Replay);
    shop.refused(&file("card,label\n1,2\n"), &["which column", "--time COLUMN", "card, label"]);
    shop.refused(
        &file("user,time\n1,2026-01-31\n"),
        &["no column that is the key of a feature view", "view `card` asks for card", "--keys"],
    );
    shop.refused(&file("card,time\n1,2026-01-31\n1,soon\n"), &["row 3", "time: expected timestamp", "RFC 3339"]);
    shop.refused(&file("card,time\n1,\n"), &["row 2", "time: missing"]);
    shop.refused(&file("card,time\nx,2026-01-31\n"), &["row 2", "card: expected int64"]);
    let keys =
        |view: &str, column: &str| Request { keys: vec![(view.into(), vec![column.into()])], ..file("user,shop,time\n1,s1,2026-01-31\n") };
    shop.refused(&keys("crad", "user"), &["--keys", "unknown feature view `crad`"]);
    shop.refused(&keys("card", "uesr"), &["--keys", "did you mean `user`?"]);
    shop.refused(
        &Request { features: list(&["card.count_1h"]), ..file("shop,time\ns1,2026-01-31\n") },
        &["not in reach", "--keys card=COLUMN"],
    );
    let named = Spine::File { path: shop.path("bad.csv"), time: Some("tiem".into()) };
    shop.refused(&shop.request("x.csv", named, Mode::Replay), &["did you mean `time`?"]);
    let missing = Spine::File { path: shop.path("bda.csv"), time: None };
    shop.refused(&shop.request("x.csv", missing, Mode::Replay), &["no file", "did you mean", "bad.csv"]);
    assert!(!shop.path("x.csv").exists() && !shop.path("x.csv.partial").exists(), "a refusal leaves nothing behind");

    std::fs::write(shop.path("there.csv"), "mine").unwrap();
    shop.refused(&shop.request("there.csv", events(), Mode::Replay), &["is there already", "--overwrite"]);
    assert_eq!(std::fs::read_to_string(shop.path("there.csv")).unwrap(), "mine");
    std::fs::create_dir(shop.path("other.csv.partial")).unwrap();
    std::fs::write(shop.path("other.csv.partial/mine"), "mine").unwrap();
    let other = shop.request("other.csv", events(), Mode::Replay);
    shop.refused(&other, &["no unfinished training set"]);
    shop.refused(&Request { restart: true, ..other }, &["no unfinished training set"]);
    assert_eq!(std::fs::read_to_string(shop.path("other.csv.partial/mine")).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_cut_short_as_it_began_or_ended_is_begun_anew() {
    let shop = Shop::open().await;
    let request = |out: &str| shop.request(out, events(), Mode::Replay);
    let calm = request("calm.csv");
    shop.run(&calm).unwrap();
    // Before the first manifest stood, and after the last one had gone.
    for left in [&["manifest.new"][..], &["manifest.new", "spine", "read.0"][..], &[]] {
        let shaken = request("shaken.csv");
        let partial = kilter_runtime::jobs::training_set::partial_of(&shaken.out);
        std::fs::create_dir(&partial).unwrap();
        left.iter().for_each(|name| std::fs::write(partial.join(name), "half").unwrap());
        let report = shop.run(&shaken).unwrap();
        assert_eq!(report.resumed, 0);
        assert!(!partial.exists(), "{left:?}");
        assert_eq!(std::fs::read(&shaken.out).unwrap(), std::fs::read(&calm.out).unwrap());
        std::fs::remove_file(&shaken.out).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_work_of_another_kind_is_not_gone_on_with() {
    let shop = Shop::open().await;
    let request = shop.request("cut.csv", events(), Mode::Replay);
    let mut cut_off = |_: &_| resume_unwind(Box::new("cut off"));
    let run = catch_unwind(AssertUnwindSafe(|| write(&shop.service.data, &shop.service.project, &request, &mut cut_off)));
    assert!(run.is_err());
    shop.refused(&Request { mode: event_time(), ..request.clone() }, &["unfinished", "mode was replay, now event-time", "--restart"]);
    shop.refused(&Request { include_self: Some(true), ..request.clone() }, &["include_self was false, now true"]);
    let report = shop.run(&Request { threads: 2, restart: true, ..request }).unwrap();
    assert_eq!((report.counts.rows, report.resumed), (PAYMENTS, 0));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_the_same_command_goes_on() {
    let shop = Shop::open().await;
    let request = shop.request("full.parquet", events(), Mode::Replay);
    let plain = shop.bytes(&shop.request("plain.parquet", events(), Mode::Replay));
    let mut cut_off = |_: &_| resume_unwind(Box::new("cut off"));
    let _ = catch_unwind(AssertUnwindSafe(|| write(&shop.service.data, &shop.service.project, &request, &mut cut_off)));
    let table = shop.path("full.parquet.partial/table");
    std::os::unix::fs::symlink("/dev/full", &table).unwrap();
    shop.refused(&request, &["the disk of", "is full", "free some space and run the same command again"]);
    assert!(!Path::new(&request.out).exists(), "a file cut short looks like a whole one");
    std::fs::remove_file(&table).unwrap();
    assert!(shop.bytes(&request) == plain);
}
