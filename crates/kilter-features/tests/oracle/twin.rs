//! The formulas of docs/reference/windows.md, read literally over all events kept in arrival order. Nothing is shared with the engine but
//! the parsing of expressions and the calendar, which has tests of its own.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use kilter_core::{Calendar, EntityKey, Event, EventTime, Operation, Schema, Span, Unit, Value};
use kilter_features::expr::{Expr, Scope, compile};
use kilter_features::{Equality, FeatureInfo};

use crate::common::schema;
use crate::random::{Line, TestView, Window, ZONE};

pub fn eval(text: &'static str, row: &[Value]) -> Value {
    thread_local! {
        static COMPILED: RefCell<BTreeMap<&'static str, Expr>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let expr = compiled.entry(text).or_insert_with(|| {
            let mut scope = Scope::new();
            for field in &schema().fields {
                scope.add(None, &field.name, field.data_type);
            }
            compile(text, &scope).unwrap()
        });
        expr.eval(row)
    })
}

fn holds(filter: Option<&'static str>, row: &[Value]) -> bool {
    filter.is_none_or(|f| eval(f, row) == Value::Bool(true))
}

fn column(name: &str) -> usize {
    thread_local! {
        static SCHEMA: Schema = schema();
    }
    SCHEMA.with(|s| s.index(name)).unwrap()
}

pub fn key_of(view: &TestView, row: &[Value]) -> Option<EntityKey> {
    let columns: Vec<usize> = view.entity.iter().map(|name| column(name)).collect();
    EntityKey::from_row(row, &columns)
}

/// The events of the view's source that still stand: with a key, the last of each unless it says that the row is gone.
fn standing<'a>(view: &TestView, log: &[&'a Event]) -> Vec<&'a Event> {
    let stands = |e: &&Event| e.operation == Operation::Upsert;
    let Some(column) = view.key else { return log.iter().copied().filter(stands).collect() };
    let column = self::column(column);
    let name = |e: &Event| EntityKey::from_value(&e.row[column]);
    let last = |i: usize| name(log[i]).is_some_and(|n| !log[i + 1..].iter().any(|e| name(e).as_ref() == Some(&n)));
    (0..log.len()).filter(|&i| last(i)).map(|i| log[i]).filter(stands).collect()
}

/// The events of one entity that count in the view at all, in arrival order.
pub fn events_of_entity<'a>(view: &TestView, log: &[&'a Event], key: &EntityKey, q: EventTime) -> Vec<&'a Event> {
    let own = |e: &&Event| key_of(view, &e.row).as_ref() == Some(key) && holds(view.filter, &e.row);
    let Some(ttl) = view.ttl else { return standing(view, log).into_iter().filter(own).collect() };
    // With a time to live the entity begins anew when an event finds it forgotten.
    let (mut watermark, mut last) = (i64::MIN, None::<i64>);
    let forgotten = |last: i64, at: i64, watermark: i64| last + ttl.0 < at.max(watermark.saturating_sub(view.lateness.0));
    let mut alive = Vec::new();
    for event in log {
        watermark = watermark.max(event.time.0);
        if event.operation == Operation::Delete || !own(event) || is_late(view, event.time.0, watermark) {
            continue;
        }
        if last.is_some_and(|last| forgotten(last, event.time.0, watermark)) {
            alive.clear();
            last = None;
        }
        last = Some(last.map_or(event.time.0, |last| last.max(event.time.0)));
        alive.push(*event);
    }
    if last.is_some_and(|last| forgotten(last, q.0, watermark)) {
        alive.clear();
    }
    alive
}

/// Whether an event came after all windows had passed it.
fn is_late(view: &TestView, t: i64, watermark: i64) -> bool {
    let at = watermark.saturating_sub(view.lateness.0);
    view.lines.iter().all(|line| {
        !line.windows.is_empty()
            && line.windows.iter().all(|w| {
                let h = hop(view, line, w);
                match w {
                    Window::Lifetime | Window::Last(_) | Window::Decay(_) => false,
                    Window::Sliding(n) | Window::Exact(n) | Window::Session(_, n) => t.div_euclid(h) < (at - n).div_euclid(h),
                    Window::Current(unit) => calendar(*unit).period(EventTime(t)).number < calendar(*unit).period(EventTime(at)).number,
                    Window::Previous(unit) => calendar(*unit).period(EventTime(t)).start < before(*unit, at).start,
                }
            })
    })
}

fn hop(view: &TestView, line: &Line, window: &Window) -> i64 {
    let default = |n: i64| {
        let steps = [86_400i64, 21_600, 3_600, 300, 60, 10, 1].map(|s| s * 1_000_000);
        steps.into_iter().find(|s| *s <= n / 60).unwrap_or(1_000_000)
    };
    let asked = |longest: i64| line.hop.map(|h| h.0).or(view.hop.map(|h| h.0.min(longest)));
    match window {
        Window::Sliding(n) => asked(*n).unwrap_or_else(|| default(*n)),
        Window::Session(gap, max) => asked(*gap).unwrap_or_else(|| default(*max).min(*gap)),
        Window::Current(unit) | Window::Previous(unit) => {
            asked(unit.usual().0).unwrap_or_else(|| default(unit.usual().0).min(unit.usual().0))
        }
        Window::Exact(_) | Window::Last(_) | Window::Decay(_) | Window::Lifetime => 1,
    }
}

pub fn calendar(unit: Unit) -> Calendar {
    thread_local! {
        static KNOWN: RefCell<Vec<Calendar>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        known.iter().find(|c| c.unit() == unit).cloned().unwrap_or_else(|| {
            known.push(Calendar::new(unit, ZONE).unwrap());
            known[known.len() - 1].clone()
        })
    })
}

fn before(unit: Unit, t: i64) -> kilter_core::Period {
    let calendar = calendar(unit);
    calendar.period(calendar.period(EventTime(t)).start - Span(1))
}

/// The place of an event's tile.
type Order = Box<dyn Fn(&Event) -> (i64, i64)>;

/// The events in a window, in the order in which the engine takes them, and how long the window is.
fn members<'a>(
    view: &TestView,
    line: &Line,
    window: &Window,
    events: &[&'a Event],
    watermark: i64,
    q: i64,
) -> (Vec<&'a Event>, Option<i64>) {
    let h = hop(view, line, window);
    let at = watermark.saturating_sub(view.lateness.0);
    let passing = || events.iter().copied().filter(|e| holds(line.filter, &e.row));
    let mut order: Order = Box::new(move |e| (e.time.0.div_euclid(h), 0));
    let mut span = None;
    let mut chosen: Vec<&Event> = match window {
        Window::Lifetime | Window::Decay(_) => return (passing().collect(), None),
        Window::Sliding(n) | Window::Exact(n) => {
            span = Some(*n);
            let oldest = (q - n).div_euclid(h).max((at - n).div_euclid(h));
            passing().filter(|e| (oldest..=q.div_euclid(h)).contains(&e.time.0.div_euclid(h))).collect()
        }
        Window::Session(gap, max) => {
            let oldest = (q - max).div_euclid(h).max((at - max).div_euclid(h));
            // Activity is any event of the view, whether the line counts it or not.
            let mut times: Vec<i64> =
                events.iter().map(|e| e.time.0).filter(|t| (oldest..=q.div_euclid(h)).contains(&t.div_euclid(h))).collect();
            times.sort_unstable();
            let (mut start, mut next) = (i64::MAX, q);
            for t in times.into_iter().rev() {
                if next - t > *gap {
                    break;
                }
                (start, next) = (t, t);
            }
            passing().filter(|e| e.time.0 >= start && e.time.0.div_euclid(h) <= q.div_euclid(h)).collect()
        }
        Window::Last(n) => {
            let mut newest: Vec<&Event> = passing().collect();
            newest.sort_by_key(|e| e.time);
            let from = newest.len().saturating_sub(*n);
            return (newest[from..].iter().copied().filter(|e| e.time.0 <= q).collect(), None);
        }
        Window::Current(unit) => {
            let (unit, calendar) = (*unit, calendar(*unit));
            let now = calendar.period(EventTime(q));
            span = Some((q - now.start.0).max(1_000_000));
            let tile = |t: i64, start: EventTime| (t - start.0) / h;
            order = Box::new(move |e| {
                let p = calendar_of(unit, e.time);
                (p.number, (e.time.0 - p.start.0) / h)
            });
            let open = now.number >= calendar.period(EventTime(at)).number;
            passing().filter(|e| open && now.holds(e.time) && tile(e.time.0, now.start) <= tile(q, now.start)).collect()
        }
        Window::Previous(unit) => {
            let unit = *unit;
            let (last, kept) = (before(unit, q), before(unit, at));
            span = Some((last.end.0 - last.start.0).max(1_000_000));
            order = Box::new(move |e| {
                let p = calendar_of(unit, e.time);
                (p.number, (e.time.0 - p.start.0) / h)
            });
            passing().filter(|e| last.number >= kept.number && last.holds(e.time)).collect()
        }
    };
    chosen.sort_by_key(|e| order(e));
    (chosen, span)
}

fn calendar_of(unit: Unit, t: EventTime) -> kilter_core::Period {
    calendar(unit).period(t)
}

/// What a feature should be, given the events of its entity, and the size of error that its class allows.
pub fn naive(view: &TestView, line: &Line, window: &Window, events: &[&Event], watermark: i64, q: EventTime) -> (Value, f64) {
    let (chosen, span) = members(view, line, window, events, watermark, q.0);
    match line.by {
        None => aggregate(line, window, &chosen, span, q),
        Some(by) => {
            let mut categories: BTreeMap<String, Vec<&Event>> = BTreeMap::new();
            for event in chosen {
                let category = eval(by, &event.row);
                let counts = line.arg.is_none_or(|arg| present(&eval(arg, &event.row)));
                if !category.is_null() && counts {
                    categories.entry(category.to_string()).or_default().push(event);
                }
            }
            let mut scale = 0.0;
            let mut map = Vec::new();
            for (name, events) in categories {
                let (value, size) = aggregate(line, window, &events, span, q);
                scale += size;
                if let Some(x) = value.as_f64().filter(|x| x.is_finite()) {
                    map.push((name, x));
                }
            }
            (Value::map(map), scale)
        }
    }
}

fn present(value: &Value) -> bool {
    !value.is_null() && value.as_f64().is_none_or(f64::is_finite)
}

fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        _ => panic!("{a} beside {b}"),
    }
}

fn finite(x: f64) -> Value {
    if x.is_finite() { Value::Float(x) } else { Value::Null }
}

fn listed(values: &[Value]) -> Value {
    match values.first() {
        Some(Value::Text(_) | Value::Time(_)) => Value::texts(values.iter().map(Value::to_string)),
        _ => Value::numbers(values.iter().map(|v| v.as_f64().unwrap())),
    }
}

fn aggregate(line: &Line, window: &Window, chosen: &[&Event], span: Option<i64>, q: EventTime) -> (Value, f64) {
    let values: Vec<(EventTime, Value, Value)> = chosen
        .iter()
        .map(|e| {
            (e.time, line.arg.map_or(Value::Bool(true), |a| eval(a, &e.row)), line.other.map_or(Value::Bool(true), |a| eval(a, &e.row)))
        })
        .filter(|(_, v, o)| present(v) && present(o))
        .collect();
    let numbers: Vec<f64> = values.iter().filter_map(|(_, v, _)| v.as_f64()).collect();
    let size: f64 = numbers.iter().map(|x| x.abs()).sum();
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let power = |p: i32| numbers.iter().map(|x| (x - mean).powi(p)).sum::<f64>();
    let spread = || (power(2) / (n - 1.0)).sqrt();
    let whole = values.iter().all(|(_, v, _)| matches!(v, Value::Int(_)));
    let total: i128 = values.iter().map(|(_, v, _)| if let Value::Int(i) = v { i128::from(*i) } else { 0 }).sum();
    let equal = numbers.windows(2).all(|w| w[0] == w[1]);
    let mut by_time: Vec<(EventTime, Value)> = values.iter().map(|(t, v, _)| (*t, v.clone())).collect();
    by_time.sort_by_key(|(t, _)| *t);
    let seconds = |micros: i64| micros as f64 / 1e6;
    let first_time = values.iter().map(|v| v.0.0).min();
    let last_time = values.iter().map(|v| v.0.0).max();
    let k = line.constants.first().copied().unwrap_or(0.0);
    let mut scale = size;
    if let Window::Decay(half) = window {
        let now = last_time.unwrap_or(0).max(q.0);
        let weights: Vec<f64> = values.iter().map(|v| (-((now - v.0.0) as f64) / *half as f64).exp2()).collect();
        let all: f64 = weights.iter().sum();
        let weighted: f64 = weights.iter().zip(&numbers).map(|(w, x)| w * x).sum();
        let value = match (line.aggregate, values.is_empty()) {
            ("count", _) => Value::Float(all),
            (_, true) => Value::Null,
            ("sum", _) => finite(weighted),
            // Where all weights have faded to nothing the ratio is that of the moment of the newest event.
            _ => {
                let newest = last_time.unwrap();
                let weights: Vec<f64> = values.iter().map(|v| (-((newest - v.0.0) as f64) / *half as f64).exp2()).collect();
                finite(weights.iter().zip(&numbers).map(|(w, x)| w * x).sum::<f64>() / weights.iter().sum::<f64>())
            }
        };
        return (value, scale + 1.0);
    }
    let value = match line.aggregate {
        "count" => Value::Int(values.len() as i64),
        "rate" => {
            let length = span.or(first_time.map(|t| (q.0 - t).max(1_000_000)));
            Value::Float(length.map_or(0.0, |l| values.len() as f64 / seconds(l)))
        }
        "streak" => Value::Int(values.iter().rev().take_while(|v| v.1 == Value::Bool(true)).count() as i64),
        "first_k" => listed(&by_time.iter().take(k as usize).map(|v| v.1.clone()).collect::<Vec<_>>()),
        "last_k" => listed(&by_time[by_time.len().saturating_sub(k as usize)..].iter().map(|v| v.1.clone()).collect::<Vec<_>>()),
        "top_k" | "bottom_k" => {
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            if line.aggregate == "top_k" {
                sorted.reverse();
            }
            Value::numbers(sorted.into_iter().take(k as usize))
        }
        "frequent_k" | "mode" => {
            let mut counts: Vec<(Value, usize)> = Vec::new();
            for (_, value, _) in &values {
                match counts.iter_mut().find(|(v, _)| v == value) {
                    Some((_, n)) => *n += 1,
                    None => counts.push((value.clone(), 1)),
                }
            }
            counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| order(&a.0, &b.0)));
            match line.aggregate {
                "mode" => counts.first().map_or(Value::Null, |c| c.0.clone()),
                _ => Value::texts(counts.into_iter().take(k as usize).map(|c| c.0.to_string())),
            }
        }
        "histogram" => {
            let edges = &line.constants;
            let mut bins = vec![0.0; edges.len() + 1];
            numbers.iter().for_each(|x| bins[edges.iter().filter(|e| *e <= x).count()] += 1.0);
            Value::numbers(bins)
        }
        "approx_distinct" | "distinct" => {
            let mut seen: Vec<String> = values.iter().map(|(_, v, _)| format!("{v:?}").replace("-0.0", "0.0")).collect();
            seen.sort();
            seen.dedup();
            Value::Int(seen.len() as i64)
        }
        _ if values.is_empty() => Value::Null,
        "sum" if whole => i64::try_from(total).map_or(Value::Null, Value::Int),
        "mean" | "avg" if whole => Value::Float(total as f64 / n),
        "sum" => Value::Float(numbers.iter().sum()),
        "mean" | "avg" => Value::Float(mean),
        "min" => values.iter().map(|v| v.1.clone()).reduce(|a, b| if order(&b, &a).is_lt() { b } else { a }).unwrap(),
        "max" => values.iter().map(|v| v.1.clone()).reduce(|a, b| if order(&b, &a).is_gt() { b } else { a }).unwrap(),
        "variance" | "var" | "stddev" | "zscore" if n < 2.0 => Value::Null,
        "variance" | "var" => {
            scale = size * size;
            finite(power(2) / (n - 1.0))
        }
        "stddev" => finite(spread()),
        "zscore" => {
            scale = 1e3 * n;
            if equal { Value::Null } else { finite((by_time.last().unwrap().1.as_f64().unwrap() - mean) / spread()) }
        }
        "skew" | "skewness" => {
            scale = 1e3 * n;
            let g1 = (power(3) / n) / (power(2) / n).powf(1.5);
            if n < 3.0 || equal { Value::Null } else { finite((n * (n - 1.0)).sqrt() / (n - 2.0) * g1) }
        }
        "kurtosis" => {
            scale = 1e3 * n;
            let g2 = (power(4) / n) / (power(2) / n).powi(2) - 3.0;
            if n < 4.0 || equal { Value::Null } else { finite((n - 1.0) / ((n - 2.0) * (n - 3.0)) * ((n + 1.0) * g2 + 6.0)) }
        }
        "trend" => {
            let origin = first_time.unwrap();
            let days: Vec<f64> = values.iter().map(|v| (v.0.0 - origin) as f64 / 86_400e6).collect();
            let middle = days.iter().sum::<f64>() / n;
            let both: f64 = days.iter().zip(&numbers).map(|(t, x)| (t - middle) * (x - mean)).sum();
            let squares: f64 = days.iter().map(|t| (t - middle).powi(2)).sum();
            scale = size / squares.sqrt();
            if first_time == last_time { Value::Null } else { finite(both / squares) }
        }
        "first" => by_time[0].1.clone(),
        "last" => by_time[by_time.len() - 1].1.clone(),
        "first_time" => Value::Time(EventTime(first_time.unwrap())),
        "last_time" => Value::Time(EventTime(last_time.unwrap())),
        "time_since_first" => Value::Float(seconds((q.0 - first_time.unwrap()).max(0))),
        "time_since_last" => Value::Float(seconds((q.0 - last_time.unwrap()).max(0))),
        "gap_mean" if values.len() < 2 => Value::Null,
        "gap_mean" => Value::Float(seconds(last_time.unwrap() - first_time.unwrap()) / (values.len() - 1) as f64),
        "gap_stddev" => {
            let gaps: Vec<f64> = values.windows(2).map(|w| seconds((w[1].0.0 - w[0].0.0).abs())).collect();
            scale = gaps.iter().sum();
            let m = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let v = gaps.iter().map(|g| (g - m).powi(2)).sum::<f64>() / (gaps.len() as f64 - 1.0);
            if gaps.len() < 2 { Value::Null } else { finite(v.sqrt()) }
        }
        "ratio" => Value::Float(values.iter().filter(|v| v.1 == Value::Bool(true)).count() as f64 / values.len() as f64),
        "argmin" | "argmax" => {
            let better = if line.aggregate == "argmin" { Ordering::Less } else { Ordering::Greater };
            let mut best = &values[0];
            for v in &values[1..] {
                let by = order(&v.2, &best.2);
                if by == better || (by == Ordering::Equal && v.0 < best.0) {
                    best = v;
                }
            }
            best.1.clone()
        }
        "quantile" | "median" => {
            let p = if line.aggregate == "median" { 0.5 } else { k };
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            Value::Float(sorted[(p * (n - 1.0)).floor() as usize])
        }
        other => panic!("{other} has no naive twin"),
    };
    (value, scale)
}

/// Whether the engine's value is the twin's, as closely as the aggregate promises.
pub fn agrees(feature: &FeatureInfo, got: &Value, want: &Value, scale: f64) -> bool {
    let close = |a: f64, b: f64| match feature.class {
        _ if feature.value_error > 0.0 => (a - b).abs() <= b.abs() * feature.value_error * 1.000_001 + 1e-12,
        Equality::Bitwise | Equality::Distribution => a.to_bits() == b.to_bits(),
        Equality::Tolerance(relative) => (a - b).abs() <= relative * scale.max(b.abs()) + 1e-12,
    };
    match (got, want) {
        (Value::Float(a), Value::Float(b)) => close(*a, *b),
        (Value::Map(a), Value::Map(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && close(a.1, b.1)),
        _ => got.same_bits(want) || got == want,
    }
}
