//! Random definitions and histories.

use kilter_core::{Event, EventTime, Operation, SourceId, Span, Unit, Value};
use kilter_features::ViewSpec;
use kilter_stats::Rng;
use proptest::prelude::*;

use crate::common::{self, schema};

pub const SECOND: i64 = 1_000_000;
/// A zone with two changes of clocks a year, in its own spring and autumn.
pub const ZONE: &str = "Europe/Prague";

#[derive(Clone, Debug, PartialEq)]
pub enum Window {
    Lifetime,
    Sliding(i64),
    Exact(i64),
    Session(i64, i64),
    Last(usize),
    Decay(i64),
    Current(Unit),
    Previous(Unit),
}

impl Window {
    fn text(&self) -> String {
        match self {
            Window::Lifetime => "lifetime".into(),
            Window::Sliding(n) => Span(*n).to_string(),
            Window::Exact(n) => format!("{} exact", Span(*n)),
            Window::Session(gap, max) => format!("session {} max {}", Span(*gap), Span(*max)),
            Window::Last(n) => format!("last {n}"),
            Window::Decay(half) => format!("decay {}", Span(*half)),
            Window::Current(unit) => unit.to_string(),
            Window::Previous(unit) => format!("previous {unit}"),
        }
    }

    /// Whether a line may give it a hop, and the longest one.
    fn longest_hop(&self) -> Option<i64> {
        match self {
            Window::Sliding(n) => Some(*n),
            Window::Session(gap, _) => Some(*gap),
            Window::Current(unit) | Window::Previous(unit) => Some(unit.usual().0),
            _ => None,
        }
    }
}

/// A line in parts, from which both the text for the engine and the twin's computation are made.
#[derive(Clone, Debug)]
pub struct Line {
    pub aggregate: &'static str,
    pub arg: Option<&'static str>,
    pub other: Option<&'static str>,
    pub constants: Vec<f64>,
    pub by: Option<&'static str>,
    pub filter: Option<&'static str>,
    /// Empty: lifetime.
    pub windows: Vec<Window>,
    pub hop: Option<Span>,
}

impl Line {
    pub fn text(&self) -> String {
        let star = if self.aggregate == "count" { "*" } else { "" };
        let mut args = vec![self.arg.unwrap_or(star).to_string()];
        args.extend(self.other.map(str::to_string));
        args.extend(self.constants.iter().map(f64::to_string));
        let mut text = format!("{}({})", self.aggregate, args.join(", "));
        if let Some(by) = self.by {
            text.push_str(&format!(" by {by}"));
        }
        if let Some(filter) = self.filter {
            text.push_str(&format!(" where {filter}"));
        }
        if !self.windows.is_empty() {
            let windows: Vec<String> = self.windows.iter().map(Window::text).collect();
            text.push_str(&format!(" over {}", windows.join(", ")));
            if let Some(hop) = self.hop {
                text.push_str(&format!(" hop {hop}"));
            }
        }
        text
    }

    pub fn of_each_window(&self) -> Vec<Window> {
        if self.windows.is_empty() { vec![Window::Lifetime] } else { self.windows.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct TestView {
    pub lines: Vec<Line>,
    pub entity: Vec<String>,
    pub filter: Option<&'static str>,
    pub hop: Option<Span>,
    pub lateness: Span,
    pub source: SourceId,
    pub ttl: Option<Span>,
    /// The column that names a row of a changing source.
    pub key: Option<&'static str>,
}

impl TestView {
    pub fn spec(&self, number: usize) -> ViewSpec {
        let entity: Vec<&str> = self.entity.iter().map(String::as_str).collect();
        ViewSpec {
            filter: self.filter.map(str::to_string),
            columns: self.lines.iter().enumerate().map(|(i, line)| common::column(&format!("f{i}"), &line.text())).collect(),
            hop: self.hop,
            ttl: self.ttl,
            time_zone: Some(ZONE.into()),
            key: self.key.map(str::to_string).into_iter().collect(),
            ..ViewSpec::new(&format!("view_{number}"), self.source, schema(), &entity, self.lateness)
        }
    }
}

type Call = (&'static str, Option<&'static str>, Option<&'static str>, Vec<f64>);

fn call() -> impl Strategy<Value = Call> {
    let number = prop::sample::select(vec!["amount", "n", "abs(amount)", "if(ok, n, null)", "amount * n", "coalesce(n, 0)"]);
    let any = prop::sample::select(vec!["amount", "n", "kind", "ok", "due", "lower(kind)"]);
    let ordered = prop::sample::select(vec!["amount", "n", "due", "-n"]);
    let counted = prop::sample::select(vec!["n", "kind", "ok", "lower(kind)"]);
    let condition = prop::sample::select(vec!["ok", "amount > 0", "n is null"]);
    let k = prop::sample::select(vec![1.0, 2.0, 5.0]);
    let fraction = prop::sample::select(vec![0.0, 0.25, 0.5, 0.99, 1.0]);
    prop_oneof![
        2 => Just(("count", None, None, vec![])),
        1 => any.clone().prop_map(|x| ("count", Some(x), None, vec![])),
        8 => (
            prop::sample::select(vec![
                "sum", "mean", "avg", "variance", "var", "stddev", "skew", "skewness", "kurtosis", "median", "zscore", "trend",
            ]),
            number.clone(),
        ).prop_map(|(a, x)| (a, Some(x), None, vec![])),
        2 => (prop::sample::select(vec!["min", "max"]), ordered.clone()).prop_map(|(a, x)| (a, Some(x), None, vec![])),
        3 => (prop::sample::select(vec!["first", "last", "approx_distinct", "distinct"]), any.clone()).prop_map(|(a, x)| (a, Some(x), None, vec![])),
        3 => prop::sample::select(vec![
            "time_since_last", "time_since_first", "first_time", "last_time", "rate", "gap_mean", "gap_stddev",
        ]).prop_map(|a| (a, None, None, vec![])),
        2 => (prop::sample::select(vec!["streak", "ratio"]), condition).prop_map(|(a, x)| (a, Some(x), None, vec![])),
        2 => (prop::sample::select(vec!["first_k", "last_k"]), any.clone(), k.clone()).prop_map(|(a, x, k)| (a, Some(x), None, vec![k])),
        1 => (prop::sample::select(vec!["top_k", "bottom_k"]), number.clone(), k.clone()).prop_map(|(a, x, k)| (a, Some(x), None, vec![k])),
        1 => (counted.clone(), k).prop_map(|(x, k)| ("frequent_k", Some(x), None, vec![k])),
        1 => counted.prop_map(|x| ("mode", Some(x), None, vec![])),
        1 => (prop::sample::select(vec!["argmin", "argmax"]), any, ordered).prop_map(|(a, x, by)| (a, Some(x), Some(by), vec![])),
        1 => (number.clone(), fraction).prop_map(|(x, p)| ("quantile", Some(x), None, vec![p])),
        1 => number.prop_map(|x| ("histogram", Some(x), None, vec![-10.0, 0.0, 0.5, 50.0])),
    ]
}

/// Whether the aggregate may be asked for by category.
fn divides(aggregate: &str) -> bool {
    !matches!(
        aggregate,
        "first"
            | "last"
            | "approx_distinct"
            | "distinct"
            | "first_time"
            | "last_time"
            | "first_k"
            | "last_k"
            | "top_k"
            | "bottom_k"
            | "frequent_k"
            | "mode"
            | "argmin"
            | "argmax"
            | "quantile"
            | "median"
            | "histogram"
    )
}

fn window() -> impl Strategy<Value = Window> {
    let unit = prop::sample::select(vec![
        Unit::Day,
        Unit::Week,
        Unit::Month,
        Unit::Year,
        Unit::Even(Span(7 * SECOND)),
        Unit::Even(Span(600 * SECOND)),
    ]);
    prop_oneof![
        6 => prop::sample::select(vec![1i64, 5, 60, 61, 90, 600, 3_600, 7_200]).prop_map(|s| Window::Sliding(s * SECOND)),
        3 => prop::sample::select(vec![1i64, 5, 61, 600, 7_200]).prop_map(|s| Window::Exact(s * SECOND)),
        2 => prop::sample::select(vec![(1i64, 60i64), (3, 3), (20, 600), (1_800, 7_200)]).prop_map(|(g, m)| Window::Session(g * SECOND, m * SECOND)),
        2 => prop::sample::select(vec![1usize, 2, 5, 20]).prop_map(Window::Last),
        1 => prop::sample::select(vec![1i64, 60, 86_400]).prop_map(|s| Window::Decay(s * SECOND)),
        2 => unit.clone().prop_map(Window::Current),
        2 => unit.prop_map(Window::Previous),
        1 => Just(Window::Lifetime),
    ]
}

fn line(changing: bool) -> impl Strategy<Value = Line> {
    let filter = prop::option::of(prop::sample::select(vec!["amount > 0", "ok", "kind = 'a'", "n is not null and not ok"]));
    let by = prop::option::weighted(0.15, prop::sample::select(vec!["kind", "ok", "n % 3"]));
    let hop = prop::option::weighted(0.3, prop::sample::select(vec![1i64, 7, 60]));
    (call(), by, filter, prop::collection::vec(window(), 0..4), hop).prop_map(
        move |((aggregate, arg, other, constants), by, filter, windows, hop)| {
            let by = by.filter(|_| divides(aggregate) && arg != Some("due"));
            let mut kept: Vec<Window> = Vec::new();
            for w in windows {
                let fits = match w {
                    Window::Decay(_) => matches!(aggregate, "count" | "sum" | "mean" | "avg") && by.is_none(),
                    Window::Session(..) | Window::Last(_) => !changing,
                    _ => true,
                };
                if fits && !kept.contains(&w) {
                    kept.push(w);
                }
            }
            let longest = kept.iter().map(Window::longest_hop).collect::<Option<Vec<i64>>>().and_then(|l| l.into_iter().min());
            // A month has too many tiles of a second.
            let shortest = kept.iter().any(|w| matches!(w, Window::Current(_) | Window::Previous(_)));
            let hop = hop.map(|h| Span(h * SECOND)).filter(|h| longest.is_some_and(|l| h.0 <= l) && !shortest);
            Line { aggregate, arg, other, constants, by, filter, windows: kept, hop }
        },
    )
}

pub fn test_view() -> impl Strategy<Value = TestView> {
    let entity = prop::sample::select(vec![vec!["k"], vec!["kind"], vec!["k", "kind"], vec!["ok"]]);
    let hop = prop::option::weighted(0.15, Just(300i64));
    let lateness = prop::sample::select(vec![0i64, 3, 100, 86_400]);
    let key = prop::option::weighted(0.25, prop::sample::select(vec!["n", "kind", "k"]));
    key.prop_flat_map(move |key| {
        (
            prop::collection::vec(line(key.is_some()), 1..6),
            entity.clone(),
            prop::option::weighted(0.2, Just("amount is null or amount < 90")),
            hop.clone(),
            lateness.clone(),
            0u16..2,
            prop::option::weighted(0.2, prop::sample::select(vec![1i64, 60, 4_000])),
        )
            .prop_map(move |(lines, entity, filter, hop, lateness, source, ttl)| TestView {
                hop: hop.map(|h| Span(h * SECOND)).filter(|_| !lines.iter().any(|l| l.windows.iter().any(tiny_tiles))),
                lines,
                entity: entity.into_iter().map(str::to_string).collect(),
                filter,
                lateness: Span(lateness * SECOND),
                source: SourceId(source),
                // What a row was before is gone with a forgotten entity, so the two do not go together in this twin.
                ttl: ttl.map(|s| Span(s * SECOND)).filter(|_| key.is_none()),
                key,
            })
    })
}

/// Windows with too many tiles of five minutes.
fn tiny_tiles(window: &Window) -> bool {
    matches!(window, Window::Current(Unit::Year) | Window::Previous(Unit::Year))
}

pub fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize].clone()
}

fn row(rng: &mut Rng) -> Vec<Value> {
    let mut column = |missing: f64, value: fn(&mut Rng) -> Value| if rng.bernoulli(missing) { Value::Null } else { value(rng) };
    vec![
        column(0.05, |r| Value::Int(r.below(3) as i64)),
        column(0.15, |r| {
            let uniform = r.uniform() * 200.0 - 100.0;
            Value::Float(pick(r, &[uniform, uniform, uniform, uniform.round(), 0.0, -0.0, f64::INFINITY, 1e15]))
        }),
        column(0.15, |r| {
            let small = r.below(100) as i64 - 50;
            Value::Int(pick(r, &[small, small, small, small, small, small, i64::MAX, i64::MIN]))
        }),
        column(0.15, |r| Value::text(pick(r, &["a", "B", "a longer text that does not fit in twenty-four bytes", ""]))),
        column(0.15, |r| Value::Bool(r.bernoulli(0.5))),
        column(0.15, |r| Value::Time(EventTime(r.below(10) as i64 - 5))),
    ]
}

/// The first `n` events of the history of a seed. The clock goes forward by seconds, minutes or now and then a day; events come late by
/// seconds, minutes or a day, some at the same instant, some twice.
pub fn events_of(seed: u64, n: usize) -> Vec<Event> {
    let mut rng = Rng::seeded(seed);
    // Among them two hours before the clocks go forward and back.
    let starts = [0, -50, 1_767_268_800, 1_774_738_800, 1_792_879_200].map(|s: i64| s * SECOND);
    let mut now = pick(&mut rng, &starts);
    let mut events: Vec<Event> = Vec::new();
    while events.len() < n {
        if rng.bernoulli(0.05)
            && let Some(last) = events.last()
        {
            events.push(Event { offset: events.len() as u64, ..last.clone() });
            continue;
        }
        let mut up_to = |seconds: i64| rng.below((seconds * SECOND) as u64) as i64;
        let (forward, back) = match up_to(15) / SECOND {
            0..6 => (up_to(3), 0),
            6..8 => (0, 0),
            8 | 9 => (0, up_to(20)),
            10 => (0, up_to(4_000)),
            11 => (up_to(200), 0),
            12 => (up_to(2_300), 0),
            13 => (up_to(90_000), 0),
            _ => (0, 90_000 * SECOND),
        };
        now += forward;
        let source = SourceId(rng.below(2) as u16);
        let operation = if rng.bernoulli(0.06) { Operation::Delete } else { Operation::Upsert };
        events.push(Event { source, operation, offset: events.len() as u64, ..common::event(EventTime(now - back), row(&mut rng)) });
    }
    events
}

pub fn history(most: usize) -> impl Strategy<Value = Vec<Event>> {
    (any::<u64>(), 1..most).prop_map(|(seed, n)| events_of(seed, n))
}

/// Where to read after an event: at its own time, at the watermark, in the past, in the future.
pub fn moments() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(
        prop_oneof![Just(0), -70 * SECOND..70 * SECOND, -8_000 * SECOND..8_000 * SECOND, -90_000 * SECOND..90_000 * SECOND],
        1..3,
    )
}
