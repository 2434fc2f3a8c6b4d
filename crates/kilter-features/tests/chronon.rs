//! The sawtooth windows of Chronon, whose tail moves in hops and whose head is exact: its published tests and examples with their data and values,
//! and its definition over random events. Kilter's windows with the same hops must give the same.
//!
//! Data and values come from Chronon (<https://github.com/airbnb/chronon>, Copyright The Chronon Authors, Apache License 2.0); each test names
//! the file. Chronon's definition, on the page "Window Tiling Algorithm" of its docs: the window of a query is `[round(query - window, hop), query)`, rounded down; hops in
//! aggregator/src/main/scala/ai/chronon/aggregator/windowing/Resolution.scala: a day for windows from 12 days on, an hour from 12 hours on, else
//! five minutes.

use crate::common::{event, spec, view};
use kilter_core::{EntityKey, EventTime, Value};
use kilter_features::Engine;
use kilter_stats::Rng;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// An event as these tests have them: milliseconds, a whole number, a text.
type Row<'a> = (i64, i64, &'a str);

/// The features after all these events, read at a time in milliseconds.
fn read(lines: &[&str], rows: &[Row<'_>], query: i64) -> Vec<String> {
    let names: Vec<String> = (0..lines.len()).map(|i| format!("f{i}")).collect();
    let lines: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(lines.iter().copied()).collect();
    let mut engine = Engine::new(vec![view(&spec(&lines))]);
    for (time, number, text) in rows {
        let row = vec![Value::Int(1), Value::Null, Value::Int(*number), Value::text(text), Value::Null, Value::Null];
        engine.update(&event(EventTime(time * 1_000), row));
    }
    let mut out = Vec::new();
    engine.read(0, &EntityKey::Int(1), EventTime(query * 1_000), &mut out);
    out.iter().map(Value::to_string).collect()
}

fn check(lines: &[&str], ratings: &[(i64, i64)], query: i64, expected: &[&str]) {
    let rows: Vec<Row<'_>> = ratings.iter().map(|(time, rating)| (*time, *rating, "listing_1")).collect();
    assert_eq!(read(lines, &rows, query), expected);
}

/// Monday, February 5, 2024 9:19:31 PM.
const EVENING: i64 = 1_707_167_971_000;

// aggregator/src/test/scala/ai/chronon/aggregator/test/SawtoothMutationAggregatorTest.scala. There the events come as tiles of several sizes that
// overlap, of which the largest counts; here each event is given once, without the tiles that are to be ignored. An average is held there as
// sum and count.
mod sawtooth_mutation_aggregator {
    use super::*;

    #[test]
    fn test_update_ir_tiled() {
        let events = [(1_707_091_210_000, 4), (1_707_091_220_000, 5), (1_707_091_510_000, 6), (1_707_094_800_000, 10)];
        let lines = ["sum(n) over 6h hop 5m", "sum(n) over 1d hop 1h", "count(n) over 1d hop 1h", "mean(n) over 1d hop 1h"];
        check(&lines, &events, EVENING, &["null", "25", "4", "6.25"]);
    }

    #[test]
    fn test_update_ir_tiled_mid_hour_window_start() {
        let events = [(1_707_145_210_000, 4), (1_707_145_220_000, 5), (1_707_146_100_000, 6), (1_707_146_400_000, 10)];
        check(&["sum(n) over 6h hop 5m", "count(n) over 6h hop 5m"], &events, EVENING, &["16", "2"]);
    }

    #[test]
    fn test_update_ir_tiled_multiple_short_windows() {
        let events = [
            (1_707_124_500_000, 1),
            (1_707_124_500_000, 2),
            (1_707_124_800_000, 3),
            (1_707_145_210_000, 4),
            (1_707_145_220_000, 5),
            (1_707_146_100_000, 6),
            (1_707_146_400_000, 10),
        ];
        let lines = ["sum(n) over 6h hop 5m", "count(n) over 6h hop 5m", "sum(n) over 12h hop 1h", "count(n) over 12h hop 1h"];
        check(&lines, &events, EVENING, &["16", "2", "31", "7"]);
    }

    #[test]
    fn test_update_ir_tiled_arbitrary_tile_size() {
        // The event of the second tile bears the time of the third there; here that of its own.
        let events = [(1_707_091_210_000, 4), (1_707_091_220_000, 5), (1_707_091_680_000, 6), (1_707_092_160_000, 10)];
        check(&["sum(n) over 3h hop 8m", "count(n) over 3h hop 8m"], &events, 1_707_103_140_000, &["10", "1"]);
    }

    #[test]
    fn test_update_ir_tiled_day_tiles() {
        let events =
            [(1_707_004_800_000, 1), (1_707_091_210_000, 4), (1_707_091_220_000, 5), (1_707_091_510_000, 6), (1_707_094_800_000, 10)];
        check(&["sum(n) over 12d hop 1d", "count(n) over 12d hop 1d"], &events, EVENING, &["26", "5"]);
    }
}

/// aggregator/src/test/scala/ai/chronon/aggregator/test/union_sort/RowSawtoothAggregatorTest.scala, which holds its aggregator against
/// `naiveSawtooth`: events from `hop(query) - window` up to and with the query. The expected values are those of this definition, by hand;
/// Chronon lists the newest of LAST_K first, Kilter last.
#[test]
fn test_window_aligned_row_sawtooth() {
    let rows: [(i64, i64, i64, &str); 6] =
        [(1, 4, 5, "A"), (60, 3, 4, "B"), (70, 5, 7, "D"), (120, 7, 1, "A"), (125, 3, 1, "B"), (150, 2, 1, "B")];
    let lines = ["mean(n) over 1h hop 5m", "last_k(kind, 2) over 1h hop 5m", "distinct(kind) over 1h hop 5m"];
    let expected = [
        (["4", "[\"A\"]", "1"], "5"),
        (["3.5", "[\"A\", \"B\"]", "2"], "9"),
        (["4", "[\"B\", \"D\"]", "2"], "11"),
        (["5", "[\"D\", \"A\"]", "3"], "12"),
        (["5", "[\"A\", \"B\"]", "3"], "9"),
        (["4", "[\"B\", \"B\"]", "2"], "3"),
    ];
    for (i, (views, rating)) in expected.iter().enumerate() {
        let seen: Vec<Row<'_>> = rows[..=i].iter().map(|(t, views, _, title)| (t * MINUTE, *views, *title)).collect();
        assert_eq!(read(&lines, &seen, rows[i].0 * MINUTE), views, "views and titles at minute {}", rows[i].0);
        let seen: Vec<Row<'_>> = rows[..=i].iter().map(|(t, _, rating, title)| (t * MINUTE, *rating, *title)).collect();
        assert_eq!(read(&["sum(n) over 1h hop 5m"], &seen, rows[i].0 * MINUTE), [*rating], "ratings at minute {}", rows[i].0);
    }
}

/// The page "The Tiled Architecture" of its docs, "Fetching and serving tiled features": COUNT and LAST over three hours of one-hour tiles
/// `[2, "B"]`, `[9, "A"]`, `[3, "C"]` give `[14, "C"]`.
#[test]
fn fetching_and_serving_tiled_features() {
    let tile = |hour: i64, n: i64, last: &'static str| {
        (0..n).map(move |i| (hour * HOUR + i * MINUTE, 0, if i == n - 1 { last } else { "earlier" }))
    };
    let rows: Vec<Row<'_>> = tile(0, 2, "B").chain(tile(1, 9, "A")).chain(tile(2, 3, "C")).collect();
    assert_eq!(read(&["count(*) over 3h hop 1h", "last(kind) over 3h hop 1h"], &rows, 3 * HOUR - 1), ["14", "C"]);
}

/// aggregator/src/test/scala/ai/chronon/aggregator/test/SawtoothAggregatorTest.scala: 10 000 events over 180 days, windows of an hour, six hours, a
/// day and 30 days, queries in the last day and the last thirty, held against `NaiveAggregator`: the events with
/// `round(query - window, hop) <= time < query`. (Its random numbers are others in every run; so these are of our own.)
#[test]
fn real_time_and_tail_accuracy() {
    let windows = [("1h", HOUR, 5 * MINUTE), ("6h", 6 * HOUR, 5 * MINUTE), ("1d", DAY, HOUR), ("30d", 30 * DAY, DAY)];
    let hops = [(5 * MINUTE, "5m"), (HOUR, "1h"), (DAY, "1d")];
    let hop_word = |hop: i64| hops.iter().find(|(h, _)| *h == hop).unwrap().1;
    let aggregates = ["count(*)", "sum(n)", "mean(n)", "min(n)", "max(n)", "last(n)", "distinct(kind)"];
    let lines: Vec<(String, String)> = windows
        .iter()
        .flat_map(|(word, _, hop)| aggregates.map(|a| (a, word, hop_word(*hop))))
        .enumerate()
        .map(|(i, (aggregate, word, hop))| (format!("f{i}"), format!("{aggregate} over {word} hop {hop}")))
        .collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut engine = Engine::new(vec![view(&spec(&lines))]);

    let mut rng = Rng::seeded(180);
    let mut up_to = |n: i64| rng.below(n as u64) as i64;
    let (begin, end) = (1_700_000_000_000, 1_700_000_000_000 + 180 * DAY);
    // Half of them in the last days, so that short windows are not empty.
    let time = |i: i64, up_to: &mut dyn FnMut(i64) -> i64| if i % 2 == 0 { begin + up_to(180 * DAY) } else { end - up_to(3 * DAY) };
    let mut events: Vec<(i64, i64, i64)> = (0..10_000).map(|i| (time(i, &mut up_to), up_to(1_000), up_to(60))).collect();
    events.sort_by_key(|e| e.0);
    let mut queries: Vec<i64> = (0..500).map(|i| end - up_to(if i % 2 == 0 { DAY } else { 30 * DAY })).collect();
    queries.extend([events[9_000].0, events[9_500].0, end - end % DAY, end - end % HOUR, end - end % HOUR + 1]);
    queries.sort_unstable();

    let (mut taken, mut empty, mut full) = (0, 0, 0);
    for query in queries {
        while taken < events.len() && events[taken].0 < query {
            let (time, number, kind) = events[taken];
            let row = vec![Value::Int(1), Value::Null, Value::Int(number), Value::text(&kind.to_string()), Value::Null, Value::Null];
            engine.update(&event(EventTime(time * 1_000), row));
            taken += 1;
        }
        let mut got = Vec::new();
        engine.read(0, &EntityKey::Int(1), EventTime(query * 1_000), &mut got);
        let mut got = got.into_iter();
        for (word, window, hop) in windows {
            let start = (query - window).div_euclid(hop) * hop;
            let chosen: Vec<_> = events.iter().filter(|e| start <= e.0 && e.0 < query).collect();
            let numbers: Vec<i64> = chosen.iter().map(|e| e.1).collect();
            let sum: i64 = numbers.iter().sum();
            let mut kinds: Vec<i64> = chosen.iter().map(|e| e.2).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let some = |value: Option<&i64>| value.map_or(Value::Null, |n| Value::Int(*n));
            let expected = [
                Value::Int(numbers.len() as i64),
                if numbers.is_empty() { Value::Null } else { Value::Int(sum) },
                if numbers.is_empty() { Value::Null } else { Value::Float(sum as f64 / numbers.len() as f64) },
                some(numbers.iter().min()),
                some(numbers.iter().max()),
                some(numbers.last()),
                Value::Int(kinds.len() as i64),
            ];
            for (aggregate, expected) in aggregates.iter().zip(&expected) {
                let got = got.next().unwrap();
                assert!(got.same_bits(expected), "{aggregate} over {word} at {query}: {got}, Chronon's definition says {expected}");
            }
            empty += usize::from(numbers.is_empty());
            full += usize::from(numbers.len() > 10);
        }
    }
    assert!(empty > 20 && full > 200, "the data says little: {empty} windows are empty, {full} hold more than ten events");
}
