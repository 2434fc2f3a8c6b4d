//! The lake holds the log, record by record: whatever the batches, after compaction, and with a crash between any two requests to its storage.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::bail;
use bytes::Bytes;
use kilter_core::record::encode;
use kilter_core::{DataType, Event, EventTime, Operation, Origin, Schema, SourceId, Span, Stub, Value};
use kilter_lake::{Format, Lake, Limits, Storage};
use proptest::prelude::*;

const DAY: i64 = Span::DAY.0;

/// Two forms of one source, whose columns are called like those of the lake, and another source.
fn schemas(number: u32) -> Option<(String, Schema)> {
    let payments =
        [("account", DataType::Int64), ("amount", DataType::Float64), ("date", DataType::Timestamp), ("_offset", DataType::String)];
    let later = [("account", DataType::Int64), ("date", DataType::Timestamp), ("date_", DataType::Bool)];
    match number {
        0 => Some(("payments".into(), Schema::new(payments))),
        1 => Some(("payments".into(), Schema::new(later))),
        2 => Some(("loans".into(), Schema::new([("note", DataType::String)]))),
        _ => None,
    }
}

/// One record of a log; `n` makes its values, of which some are odd.
fn record(kind: u8, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let time = EventTime(20_000 * DAY + (n % 3) as i64 * DAY + n as i64 % 7);
    if kind == 3 {
        out.push(1);
        out.extend_from_slice(format!("{{\"trained\":{{\"now\":{n}}}}}").as_bytes());
        return out;
    }
    if kind == 4 {
        Stub { erasure: n, schema: 0, time, arrived: time, origin: None, id: Some(u128::from(n) << 64) }.encode(&mut out);
        return out;
    }
    let optional = |value: Value| if n.is_multiple_of(3) { Value::Null } else { value };
    let floats = [0.0, -0.0, f64::INFINITY, f64::MIN_POSITIVE / 2.0, 0.1 + n as f64];
    let row = match kind {
        0 => vec![
            Value::Int(n as i64 - 3),
            optional(Value::Float(floats[n as usize % 5])),
            optional(Value::Time(EventTime(i64::MIN))),
            Value::text(if n.is_multiple_of(2) { "" } else { "ä\u{0}b" }),
        ],
        1 => vec![Value::Int(i64::MAX), Value::Time(time), optional(Value::Bool(n.is_multiple_of(2)))],
        _ => vec![optional(Value::text(&"long ".repeat(n as usize % 40)))],
    };
    let event = Event {
        source: SourceId(0),
        offset: 0,
        time,
        arrived: EventTime(time.0 + 5),
        id: n.is_multiple_of(4).then(|| format!("id-{n}").into()),
        operation: if n.is_multiple_of(11) { Operation::Delete } else { Operation::Upsert },
        row,
        extra: n.is_multiple_of(5).then(|| "{\"more\":[1,2]}".into()),
        origin: n.is_multiple_of(2).then_some(Origin { partition: u32::MAX, position: n }),
    };
    encode(&event, u32::from(kind), &mut out);
    out
}

/// Files in memory. After a given number of requests the process is dead: the request that kills it has happened or not.
#[derive(Default)]
struct Shelf {
    files: Mutex<BTreeMap<String, Bytes>>,
    requests: AtomicU64,
    /// Which requests change something.
    changes: Mutex<Vec<u64>>,
    dies_at: u64,
    dies_after: bool,
    /// Only the one request fails, and the process goes on.
    recovers: bool,
}

impl Shelf {
    fn dying(files: &BTreeMap<String, Bytes>, at: u64, after: bool) -> Arc<Shelf> {
        Arc::new(Shelf { files: Mutex::new(files.clone()), dies_at: at, dies_after: after, ..Shelf::default() })
    }

    fn files(&self) -> BTreeMap<String, Bytes> {
        self.files.lock().unwrap().clone()
    }

    fn change<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> anyhow::Result<T> {
        self.changes.lock().unwrap().push(self.requests.load(Ordering::Relaxed) + 1);
        self.request(act)
    }

    fn request<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> anyhow::Result<T> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let last = self.dies_at;
        if last > 0 && (number > last && !self.recovers || number == last && !self.dies_after) {
            bail!("killed");
        }
        let done = act(&mut self.files.lock().unwrap());
        if number == last { bail!("killed") } else { Ok(done) }
    }
}

impl Storage for Shelf {
    fn put(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.change(|files| files.insert(path.into(), Bytes::copy_from_slice(bytes))).map(|_| ())
    }

    fn create(&self, path: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        self.change(|files| {
            let free = !files.contains_key(path);
            if free {
                files.insert(path.into(), Bytes::copy_from_slice(bytes));
            }
            free
        })
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        self.request(|files| files.get(path).cloned())
    }

    fn read_range(&self, path: &str, range: Range<u64>) -> anyhow::Result<Option<Bytes>> {
        self.request(|files| files.get(path).map(|bytes| bytes.slice(range.start as usize..range.end as usize)))
    }

    fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.change(|files| files.remove(path)).map(|_| ())
    }

    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let inside = |path: &String| path.strip_prefix(folder)?.strip_prefix('/').filter(|name| !name.contains('/')).map(str::to_owned);
        self.request(|files| files.keys().filter_map(inside).collect())
    }
}

/// Takes in the log up to `until`, in batches of `records`.
fn fill(lake: &Lake, log: &[Vec<u8>], until: u64, records: u64) -> anyhow::Result<()> {
    loop {
        let mut source = |offset: u64| Ok(log.get(offset as usize).cloned());
        let limits = Limits { records, bytes: 10_000 };
        if lake.append(0, until, limits, &mut source, &schemas)?.is_none() {
            return Ok(());
        }
    }
}

/// What the lake gives back from an offset on.
fn all(lake: &Arc<Lake>, from: u64) -> anyhow::Result<Vec<(u64, Vec<u8>)>> {
    let mut reader = lake.reader(from);
    let mut found = Vec::new();
    while let Some((offset, record)) = reader.next_record()? {
        found.push((offset, record.to_vec()));
    }
    Ok(found)
}

fn numbered(log: &[Vec<u8>], from: u64) -> Vec<(u64, Vec<u8>)> {
    log.iter().enumerate().skip(from as usize).map(|(offset, record)| (offset as u64, record.clone())).collect()
}

/// No file that the manifest does not name, and none that it names is missing.
fn no_orphans(shelf: &Shelf, lake: &Lake) {
    let named: BTreeSet<String> = lake.state().files.iter().map(|f| f.path.clone()).collect();
    let there: BTreeSet<String> = shelf.files().into_keys().filter(|path| path.ends_with(".parquet")).collect();
    assert_eq!(there, named);
    assert!(shelf.files().keys().all(|path| !path.contains("/plan/")), "no plan is left");
}

/// The offsets that someone sees who reads every Parquet file there is.
fn globbed(shelf: &Shelf) -> Vec<u64> {
    let mut offsets = Vec::new();
    for (path, bytes) in shelf.files().into_iter().filter(|(path, _)| path.starts_with("events/") && path.ends_with(".parquet")) {
        let rows = parquet::file::reader::SerializedFileReader::new(bytes).unwrap();
        for row in parquet::file::reader::FileReader::get_row_iter(&rows, None).unwrap() {
            let row = row.unwrap();
            let place = row.get_column_iter().position(|(name, _)| name == "_offset");
            offsets.push(parquet::record::RowAccessor::get_long(&row, place.unwrap_or_else(|| panic!("{path}"))).unwrap() as u64);
        }
    }
    offsets.sort_unstable();
    offsets
}

fn events(log: &[Vec<u8>], next: u64) -> Vec<u64> {
    (0..next).filter(|offset| kilter_core::record::header(&log[*offset as usize]).unwrap().is_some()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_log_in_any_batches_comes_back_to_the_byte(
        kinds in proptest::collection::vec(0u8..5, 1..160),
        batches in proptest::collection::vec(1u64..60, 1..6),
        from in 0u64..160,
    ) {
        let log: Vec<Vec<u8>> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, n as u64)).collect();
        let shelf = Arc::new(Shelf::default());
        let lake = Lake::open(shelf.clone(), 0, Format::Delta).unwrap();
        for (n, batch) in batches.iter().enumerate() {
            let until = log.len() as u64 * (n as u64 + 1) / batches.len() as u64;
            fill(&lake, &log, until, *batch).unwrap();
            prop_assert_eq!(globbed(&shelf), events(&log, until));
        }
        prop_assert_eq!(all(&lake, from).unwrap(), numbered(&log, from));
        lake.compact("2024-10-07", 1 << 20).unwrap();
        prop_assert_eq!(globbed(&shelf), events(&log, log.len() as u64));
        let again = Lake::open(shelf.clone(), 0, Format::Delta).unwrap();
        prop_assert_eq!(all(&again, from).unwrap(), numbered(&log, from));
        no_orphans(&shelf, &again);
    }
}

/// A lake's whole life, each step of which may be repeated.
fn live(shelf: &Arc<Shelf>, log: &[Vec<u8>], reached: &mut &'static str) -> anyhow::Result<Arc<Lake>> {
    let lake = Lake::open(shelf.clone(), 0, Format::Delta)?;
    steps(&lake, log, reached)?;
    Ok(lake)
}

fn steps(lake: &Lake, log: &[Vec<u8>], reached: &mut &'static str) -> anyhow::Result<()> {
    if *reached == "erasing" {
        // As the journal in the data folder asks for it.
        lake.erase(77, &ERASED, stub_of)?;
    }
    *reached = "filling";
    let half = if lake.state().next < 24 { 24 } else { log.len() as u64 };
    if lake.is_taking_in()? || half == 24 {
        fill(lake, log, half, 9)?;
    }
    *reached = "compacting";
    lake.compact("2024-10-06", 1 << 20)?;
    *reached = "erasing";
    lake.erase(77, &ERASED, stub_of)?;
    *reached = "filling more";
    fill(lake, log, log.len() as u64, 9)?;
    *reached = "compacting more";
    lake.compact("2024-10-06", 1 << 20)?;
    *reached = "expiring";
    lake.expire("2024-10-05")?;
    *reached = "the end";
    Ok(())
}

const ERASED: [u64; 4] = [2, 3, 13, 21];

fn stub_of(record: &[u8]) -> Option<Vec<u8>> {
    let header = kilter_core::record::header(record).unwrap()?;
    let mut out = Vec::new();
    Stub { erasure: 77, schema: header.schema, time: header.time, arrived: header.arrived, origin: header.origin, id: None }
        .encode(&mut out);
    Some(out)
}

#[test]
fn a_crash_between_any_two_requests_leaves_nothing_twice_nothing_lost_and_nothing_over() {
    let kinds = [0, 0, 2, 0, 3, 2, 0, 4];
    let log: Vec<Vec<u8>> = (0..36).map(|n| record(if n > 27 && n % 8 == 0 { 1 } else { kinds[n as usize % 8] }, n)).collect();
    let quiet = Arc::new(Shelf::default());
    let lake = live(&quiet, &log, &mut "").unwrap();
    let (files, state) = (quiet.files(), lake.state());
    let changes = quiet.changes.lock().unwrap().clone();
    let requests = quiet.requests.load(Ordering::Relaxed);
    assert!(changes.len() > 60, "{} of {requests} requests change something", changes.len());
    let held = all(&lake, 0).unwrap();
    assert!(held.len() < log.len() && held.len() > 20, "some days have expired, {} records are left", held.len());
    for (offset, record) in &held {
        let original = &log[*offset as usize];
        let erased = ERASED.contains(offset);
        assert_eq!(*record, if erased { stub_of(original).unwrap_or(original.clone()) } else { original.clone() }, "offset {offset}");
    }
    no_orphans(&quiet, &lake);

    // A request that changes nothing may as well not have happened.
    let moments: Vec<(u64, bool)> = (1..=requests).map(|at| (at, false)).chain(changes.into_iter().map(|at| (at, true))).collect();
    std::thread::scope(|threads| {
        for share in moments.chunks(moments.len().div_ceil(4)) {
            let (log, held, files, state) = (&log, &held, &files, &state);
            threads.spawn(move || share.iter().for_each(|(at, after)| crash(*at, *after, log, held, files, state.number)));
        }
    });
}

#[test]
fn a_request_that_fails_is_made_again_by_the_same_process() {
    let log: Vec<Vec<u8>> = (0..36).map(|n| record([0, 2, 3][n as usize % 3], n)).collect();
    let quiet = Arc::new(Shelf::default());
    let held = all(&live(&quiet, &log, &mut "").unwrap(), 0).unwrap();
    let changes = quiet.changes.lock().unwrap().clone();
    for (at, dies_after) in changes.into_iter().step_by(2).flat_map(|at| [(at, false), (at, true)]) {
        let shelf = Arc::new(Shelf { dies_at: at, dies_after, recovers: true, ..Shelf::default() });
        let lake = Lake::open(shelf.clone(), 0, Format::Delta).unwrap();
        let mut reached = "opening";
        steps(&lake, &log, &mut reached).unwrap_err();
        steps(&lake, &log, &mut reached).unwrap_or_else(|e| panic!("request {at}, {dies_after}: {e:#}"));
        no_orphans(&shelf, &lake);
        assert_eq!(all(&lake, 0).unwrap(), held, "request {at}");
    }
}

/// A life with a crash at one request, and what is left of it after the next start.
fn crash(at: u64, after: bool, log: &[Vec<u8>], held: &[(u64, Vec<u8>)], files: &BTreeMap<String, Bytes>, number: u64) {
    let dying = Shelf::dying(&BTreeMap::new(), at, after);
    let mut reached = "opening";
    assert!(live(&dying, log, &mut reached).is_err(), "request {at}");
    // What anyone sees who reads all files there are: each event at most once while the lake fills.
    let left = Shelf::dying(&dying.files(), 0, false);
    let mut seen = globbed(&left);
    if matches!(reached, "opening" | "filling" | "filling more") {
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count, "request {at}: an event is there twice");
    }
    // What the manifest says is the log up to some batch.
    let said = Lake::open(left.clone(), 0, Format::Delta).unwrap_or_else(|e| panic!("request {at}: {e:#}"));
    let next = said.state().next;
    for (offset, record) in all(&said, 0).unwrap() {
        assert!(offset < next);
        let original = &log[offset as usize];
        assert!(record == *original || Some(record) == stub_of(original), "request {at}, offset {offset}");
    }
    drop(said);
    // The next start goes on, and nothing shows that there was a crash.
    let again = live(&left, log, &mut reached).unwrap_or_else(|e| panic!("request {at}, {after}, {reached}: {e:#}"));
    no_orphans(&left, &again);
    assert_eq!(all(&again, 0).unwrap(), held, "request {at}");
    // A step that had been made and is made again may have found more to compact.
    if again.state().number == number {
        assert_eq!(left.files(), *files, "request {at}: other bytes");
    }
}

#[test]
fn a_second_writer_and_another_log_are_refused() {
    let log: Vec<Vec<u8>> = (0..40).map(|n| record(0, n)).collect();
    let other: Vec<Vec<u8>> = (0..40).map(|n| record(2, n)).collect();
    let shelf = Arc::new(Shelf::default());
    let (one, two) = (Lake::open(shelf.clone(), 0, Format::Delta).unwrap(), Lake::open(shelf.clone(), 0, Format::Delta).unwrap());
    fill(&one, &log, 20, 20).unwrap();
    let error = format!("{:#}", fill(&two, &other, 20, 20).unwrap_err());
    assert!(error.contains("someone else writes to this lake"), "{error}");
    assert!(one.ends_with(&log[19]) && !one.ends_with(&other[19]));
    assert_eq!(all(&one, 0).unwrap(), numbered(&log[..20], 0), "the first one's files are as they were");
}
