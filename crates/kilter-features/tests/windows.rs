//! Every example of docs/reference/windows.md, and short stories about views.

use crate::common::{event, spec, view};
use kilter_core::{EntityKey, EventTime, Span, Value};
use kilter_features::{Engine, Location, LookupSpec, compile_view};

const PAGE: &str = include_str!("../../../docs/reference/windows.md");

/// Plays `items` ("t=9 amount=5; read t=20") and reads the features after each, at the given time or the watermark.
fn play(lines: &[(&str, &str)], lateness: Span, items: &str) -> (Vec<String>, u64) {
    let mut spec = spec(lines);
    spec.lateness = lateness;
    let mut engine = Engine::new(vec![view(&spec)]);
    let names: Vec<String> = engine.views()[0].features().iter().map(|f| f.name.clone()).collect();
    let mut shown: Vec<String> = names.iter().map(|n| format!("{n} =")).collect();
    for item in items.split(';') {
        let mut row = vec![Value::Null; spec.schema.len()];
        row[0] = Value::Int(1);
        let mut time = EventTime(0);
        for field in item.split_whitespace().filter(|f| *f != "read") {
            let (name, text) = field.split_once('=').unwrap();
            match name {
                "t" => time = EventTime((text.parse::<f64>().unwrap() * 1e6).round() as i64),
                "kind" => row[3] = Value::text(text),
                _ => row[spec.schema.index(name).unwrap()] = Value::Float(text.parse().unwrap()),
            }
        }
        let mut at = time;
        if !item.trim_start().starts_with("read") {
            engine.update(&event(time, row));
            at = engine.watermark(spec.source).unwrap();
        }
        let mut out = Vec::new();
        engine.read(0, &EntityKey::Int(1), at, &mut out);
        for (line, value) in shown.iter_mut().zip(out) {
            line.push_str(&format!(" {value}"));
        }
    }
    (shown, engine.stats()[0].late)
}

#[test]
fn every_example_of_the_page_comes_out() {
    let mut examples = 0;
    for block in PAGE.split("```example\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let mut lateness = Span::DAY;
        let mut lines = Vec::new();
        let mut items = "";
        let mut wanted = Vec::new();
        let mut late = None;
        for line in block.lines() {
            if let Some(span) = line.strip_prefix("lateness ") {
                lateness = Span::parse(span).unwrap();
            } else if let Some(rest) = line.strip_prefix("events ") {
                items = rest;
            } else if let Some(count) = line.strip_prefix("late ") {
                late = Some(count.parse::<u64>().unwrap());
            } else if items.is_empty() {
                lines.push(line.split_once(" = ").unwrap());
            } else {
                wanted.push(line.to_string());
            }
        }
        let (shown, counted) = play(&lines, lateness, items);
        assert_eq!(shown, wanted, "{block}");
        assert!(late.is_none_or(|l| l == counted), "{counted} late in {block}");
        examples += 1;
    }
    assert!(examples >= 10, "{examples} examples");
}

#[test]
fn every_default_hop_of_the_page_is_taken() {
    let mut rows = 0;
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(|c| c.trim().trim_matches('`')).collect();
        if let [_, window, hop, error, _] = cells.as_slice()
            && let (Some(_), Some(hop), Some((1, tiles))) = (
                Span::parse(window),
                Span::parse(hop),
                error.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse::<i64>().ok()?))),
            )
        {
            let view = view(&spec(&[("n", &format!("count(*) over {window}"))]));
            assert_eq!(view.features()[0].hop, Some(hop), "{window}");
            assert_eq!(view.features()[0].relative_tail_error, 1.0 / tiles as f64, "{window}");
            rows += 1;
        }
    }
    assert_eq!(rows, 7);
}

fn check(items: &str, wanted: &str) {
    let (name, values) = wanted.split_once(": ").unwrap();
    let lines = [
        ("sum", "sum(amount) over 1m"),
        ("big", "count(*) where amount > 3 over 1m"),
        ("median", "quantile(amount, 0.5) over 1m"),
        ("kind", "last(kind) over 1m, lifetime"),
        ("low", "min(amount) over 10s hop 5s"),
    ];
    let (shown, _) = play(&lines, Span::DAY, items);
    assert!(shown.contains(&format!("{name} = {values}")), "wanted {wanted}, got {shown:#?}");
}

#[test]
fn late_event_counts_until_it_leaves_the_window() {
    check("t=9 amount=5; t=70 amount=1; t=15 amount=2; read t=76", "sum_1m: 5 1 3 1");
}

#[test]
fn a_filter_drops_false_and_null_alike() {
    check("t=1 amount=5; t=2 amount=3; t=3; t=4 amount=4", "big_1m: 1 1 1 2");
}

#[test]
fn a_late_event_is_not_the_last_one() {
    check("t=30 kind=card; t=20 kind=cash; t=30 kind=check; t=31", "kind_1m: card card check check");
}

#[test]
fn lifetime_remembers_what_the_window_forgot() {
    check("t=0 kind=card; t=90", "kind_1m: card null");
    check("t=0 kind=card; t=90", "kind: card card");
}

#[test]
fn the_oldest_tile_counts_whole() {
    check("t=0 amount=1; t=4 amount=2; t=14.9 amount=3; t=15 amount=4", "low_10s: 1 1 1 3");
}

#[test]
fn an_unknown_entity_has_empty_windows() {
    let mut spec = spec(&[("n", "count(*) over 1h"), ("top", "max(n)"), ("set", "approx_distinct(kind)")]);
    spec.columns[1].default = Some(Value::Int(-1));
    let mut engine = Engine::new(vec![view(&spec)]);
    let mut out = vec![Value::Bool(true)];
    engine.read(0, &EntityKey::Int(404), EventTime(0), &mut out);
    assert_eq!(out, [Value::Bool(true), Value::Int(0), Value::Int(-1), Value::Int(0)]);
}

#[test]
fn an_update_says_what_became_of_the_event() {
    let mut strict = spec(&[("n", "count(*) over 1m")]);
    strict.filter = Some("amount > 0".into());
    strict.lateness = Span::ZERO;
    let mut engine = Engine::new(vec![view(&strict), view(&spec(&[("n", "count(*)")]))]);
    let row = |k, amount| vec![k, Value::Float(amount), Value::Null, Value::Null, Value::Null, Value::Null];
    let mut update = |t: i64, k, amount| {
        let u = engine.update(&event(EventTime(t * 1_000_000), row(k, amount)));
        (u.views, u.applied, u.late, u.no_key, u.filtered)
    };
    assert_eq!(update(1_000, Value::Int(1), 1.0), (2, 2, 0, 0, 0));
    assert_eq!(update(1_000, Value::Int(1), -1.0), (2, 1, 0, 0, 1));
    assert_eq!(update(1_000, Value::Null, 1.0), (2, 0, 0, 2, 0));
    assert_eq!(update(1, Value::Int(1), 1.0), (2, 1, 1, 0, 0));
    let mut elsewhere = event(EventTime(5), row(Value::Int(1), 1.0));
    elsewhere.source = kilter_core::SourceId(9);
    assert_eq!(engine.update(&elsewhere).views, 0);
    assert_eq!(engine.watermark(elsewhere.source), Some(EventTime(5)));
}

#[test]
fn idle_entities_are_forgotten() {
    let mut spec = spec(&[("n", "count(*) over 1m"), ("set", "approx_distinct(kind) over 5m")]);
    spec.lateness = Span::ZERO;
    let mut engine = Engine::new(vec![view(&spec)]);
    for i in 0..5_000i64 {
        let row = vec![Value::Int(i), Value::Null, Value::Null, Value::text("x"), Value::Null, Value::Null];
        engine.update(&event(EventTime(i * 1_000_000), row));
    }
    let stats = &engine.stats()[0];
    assert!(stats.entities < 1_000, "{stats:?}");
}

#[test]
fn the_heaviest_and_the_busiest_entities_are_told() {
    let mut engine = Engine::new(vec![view(&spec(&[("n", "count(*) over 1h exact")]))]);
    let row = |k: i64| vec![Value::Int(k), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null];
    // Every third event is of one entity; another one has few, but each at an instant of its own.
    for i in 0..30_000i64 {
        let key = if i % 3 == 0 { -1 } else { i };
        engine.update(&event(EventTime(i / 3_000 * 1_000_000), row(key)));
        if i % 30 == 0 {
            engine.update(&event(EventTime(i), row(-2)));
        }
    }
    let stats = &engine.stats()[0];
    assert_eq!((stats.heaviest.len(), &stats.heaviest[0].key), (5, &EntityKey::Int(-2)), "{:?}", stats.heaviest);
    assert!(stats.heaviest[0].bytes > 1_000 * 8 && stats.heaviest.is_sorted_by(|a, b| a.bytes >= b.bytes), "{:?}", stats.heaviest);
    let busiest = &stats.busiest[0];
    assert_eq!(busiest.key, EntityKey::Int(-1));
    assert!(busiest.at_least > 0.28 && busiest.share < 0.38, "{busiest:?}");
}

#[test]
fn all_problems_of_a_view_are_told_at_once() {
    let mut spec = spec(&[
        ("a", "sum(kind) over 7d"),
        ("b", "cuont(*) over 7d"),
        ("c", "sum(amount) where amuont > 3 over 7, 30d"),
        ("d", "abs(amount) over 7d"),
        ("e", "sum(amount) / count(*)"),
        ("f", "quantile(amount, 5)"),
        ("g", "count(*) over 365d hop 1m"),
        ("h", "count(distinct kind)"),
        ("i", "sum(ok)"),
        ("j", "count(*) over 7d, 7d"),
        ("k", "count(*) over 7d where ok"),
    ]);
    spec.entity = vec!["acount".into(), "amount".into()];
    spec.filter = Some("amount".into());
    spec.columns[3].default = Some(Value::Int(0));
    let problems = compile_view(&spec).unwrap_err();
    let shown: Vec<String> = problems
        .iter()
        .map(|(at, p)| {
            let part = match at {
                Location::Column(name) => {
                    let text = &spec.columns.iter().find(|c| c.name == *name).unwrap().text;
                    p.at.clone().map(|at| text[at].to_string()).unwrap_or_default()
                }
                _ => String::new(),
            };
            format!("{at:?} [{part}] {}", p.message)
        })
        .collect();
    let wanted = [
        "Entity(\"acount\") [] unknown column `acount`",
        "Entity(\"amount\") [] `amount` is float64; an entity is named by an int64, string or bool",
        "Filter [] `amount` is float64; a condition is needed here",
        "Column(\"a\") [kind] `kind` is string; sum needs a number",
        "Column(\"b\") [cuont] unknown aggregate `cuont`",
        "Column(\"c\") [amuont] unknown column `amuont`",
        "Column(\"c\") [7] `7` is not a length of time",
        "Column(\"d\") [abs] `abs` is a function of one row, not an aggregate",
        "Column(\"e\") [/ count(*)] `/ count(*)` after the aggregate",
        "Column(\"f\") [5] `5` is not a number between 0 and 1",
        "Column(\"g\") [365d] a window of 365d with a hop of 1m has 525600 tiles",
        "Column(\"h\") [distinct kind] DISTINCT inside an aggregate",
        "Column(\"i\") [ok] `ok` is bool; sum needs a number",
        "Column(\"j\") [] two features of this view are named `j_7d`",
        "Column(\"k\") [where] `where` comes twice or too late",
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn features_are_named_by_column_and_window() {
    let view = view(&spec(&[("txn_count", "count(*) over 1d, 24h, lifetime"), ("turnover", "sum(abs(amount)) over 7d hop 1d")]));
    let shown: Vec<String> =
        view.features().iter().map(|f| format!("{} {} {:?}", f.name, f.data_type, f.hop.map(|h| h.to_string()))).collect();
    assert_eq!(
        shown,
        ["txn_count_1d int64 Some(\"5m\")", "txn_count_24h int64 Some(\"5m\")", "txn_count int64 None", "turnover_7d float64 Some(\"1d\")"]
    );
}

#[test]
fn an_event_is_looked_up_in_another_view_as_that_was_before_it() {
    let mut kinds = spec(&[("n", "count(*)")]);
    (kinds.name, kinds.entity) = ("kind".into(), vec!["kind".into()]);
    let kinds = view(&kinds);
    let mut account = spec(&[("seen", "sum(kind.n)"), ("new", "count(*) where kind.n = 0 over 1m")]);
    account.lookups = vec![LookupSpec { view: kinds.clone(), key: vec![3] }];
    let account = view(&account);
    assert_eq!(account.needs().collect::<Vec<_>>(), ["kind"]);
    // Whatever the order of the views: none has taken the event in when it is looked up.
    for views in [vec![kinds.clone(), account.clone()], vec![account.clone(), kinds.clone()]] {
        let mut engine = Engine::new(views);
        let place = engine.view("account").unwrap();
        for (second, kind) in [(1, Value::text("a")), (2, Value::text("b")), (3, Value::text("a")), (4, Value::text("a")), (5, Value::Null)]
        {
            let row = vec![Value::Int(1), Value::Null, Value::Null, kind, Value::Null, Value::Null];
            engine.update(&event(EventTime(second * 1_000_000), row));
        }
        let mut out = Vec::new();
        engine.read(place, &EntityKey::Int(1), EventTime(5_000_000), &mut out);
        // Found before: none, none, one, two; the last names no kind.
        assert_eq!(out, [Value::Int(3), Value::Int(2)]);
        // A restart goes on with the same lookups.
        let mut bytes = Vec::new();
        engine.snapshot(&mut bytes);
        let mut again = Engine::restore(engine.views().to_vec(), &bytes).unwrap();
        for engine in [&mut engine, &mut again] {
            let row = vec![Value::Int(1), Value::Null, Value::Null, Value::text("a"), Value::Null, Value::Null];
            engine.update(&event(EventTime(6_000_000), row));
            out.clear();
            engine.read(place, &EntityKey::Int(1), EventTime(6_000_000), &mut out);
            assert_eq!(out, [Value::Int(6), Value::Int(2)]);
        }
    }
    let mut changing = spec(&[("seen", "sum(kind.n)")]);
    (changing.key, changing.lookups) = (vec!["n".into()], vec![LookupSpec { view: kinds, key: vec![3] }]);
    let problems = compile_view(&changing).unwrap_err();
    assert!(problems.iter().any(|(at, p)| *at == Location::Lookups && p.hint.is_some()), "{problems:?}");
}

#[test]
fn a_head_that_has_lost_its_watermark_has_no_entities() {
    struct Shelf(Vec<u8>);
    impl kilter_features::ColdStore for Shelf {
        fn get(&self, _: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
            found(&self.0);
            Ok(())
        }
        fn scan(&self, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
            Ok(())
        }
    }
    let views = || vec![view(&spec(&[("n", "count(*) over 1h, 1d, 7d, 30d")]))];
    let mut fed = Engine::new(views());
    fed.attach(0, Box::new(Shelf(Vec::new())));
    let row = vec![Value::Int(1), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null];
    fed.update(&event(EventTime(0), row));
    let form = fed.changes().views.remove(0).put.remove(0).1;
    let mut blank = Engine::new(views());
    blank.attach(0, Box::new(Shelf(Vec::new())));
    let mut engine = Engine::resume(views(), &blank.changes().head).unwrap();
    engine.attach(0, Box::new(Shelf(form)));
    let mut out = Vec::new();
    engine.read(0, &EntityKey::Int(1), EventTime(0), &mut out);
    assert_eq!(out, vec![Value::Int(0); 4]);
}
