//! Every row of docs/reference/expressions.md, and what must hold of any expression.

use kilter_core::{DataType, EventTime, Value};
use kilter_features::expr::{Scope, compile};

const PAGE: &str = include_str!("../../../docs/reference/expressions.md");

fn scope() -> (Scope, Vec<Value>) {
    let mut scope = Scope::new();
    let mut row = Vec::new();
    let columns = [
        ("amount", DataType::Float64, Value::Float(12.5)),
        ("n", DataType::Int64, Value::Int(7)),
        ("kind", DataType::String, Value::text("card")),
        ("ok", DataType::Bool, Value::Bool(true)),
        ("missing", DataType::Float64, Value::Null),
        ("t", DataType::Timestamp, Value::Time(EventTime::parse("2026-01-31T10:20:30Z").unwrap())),
        ("last_3", DataType::NumberList, Value::numbers([3.0, 1.5, 8.0])),
        ("top_2", DataType::TextList, Value::texts(["card", "cash"])),
        ("by_kind", DataType::NumberMap, Value::map([("cash", 3.0), ("card", 12.5)])),
    ];
    for (name, data_type, value) in columns {
        assert_eq!(scope.add(None, name, data_type), row.len());
        row.push(value);
    }
    (scope, row)
}

/// The cells of every table row under a header of three columns that starts with "expression".
fn rows(second: &str) -> Vec<[String; 3]> {
    let mut inside = false;
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        let cells: Vec<String> = line.replace("\\|", "\u{1}").split('|').map(|c| c.trim().replace('\u{1}', "|")).collect();
        match cells.as_slice() {
            [_, a, b, _, _] if a == "expression" => inside = b == second,
            [_, a, ..] if a.starts_with("---") => {}
            [_, a, b, c, _] if inside => rows.push([a.clone(), b.clone(), c.clone()]),
            _ => inside = false,
        }
    }
    rows
}

fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|c| c.strip_suffix('`')).unwrap_or(cell)
}

#[test]
fn a_qualifier_is_a_name_before_a_dot_and_no_text() {
    use kilter_features::expr::qualifiers;
    assert_eq!(qualifiers("merchant.n_7d"), ["merchant"]);
    assert_eq!(qualifiers("sum(amount / merchant.mean) where card . n > 1.5 over 7d, 30d hop 1s"), ["merchant", "card"]);
    assert_eq!(qualifiers("\"merchant\".\"n\" > 1 and a.b.c = 2"), ["merchant", "a"]);
    for text in ["merchant", "kind = 'card.n'", "amount > .5", "'never closed. ", ""] {
        assert_eq!(qualifiers(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn every_example_of_the_page_has_its_value() {
    let (scope, row) = scope();
    let rows = rows("value");
    assert!(rows.len() > 90, "{} examples found", rows.len());
    let mut wrong = Vec::new();
    for [text, value, data_type] in &rows {
        let text = code(text);
        let got = match compile(text, &scope) {
            Ok(e) => format!("{} | {}", e.eval(&row), e.data_type().map_or("null", DataType::name)),
            Err(p) => p.to_string(),
        };
        let want = format!("{} | {data_type}", code(value));
        if got != want {
            wrong.push(format!("{text}\n   page: {want}\n    got: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_refusal_of_the_page_says_what_it_says() {
    let (scope, _) = scope();
    let rows = rows("message");
    assert!(rows.len() > 15);
    let mut wrong = Vec::new();
    for [text, message, hint] in &rows {
        match compile(code(text), &scope) {
            Ok(e) => wrong.push(format!("{text} compiles to {e:?}")),
            Err(p) if p.message != *message || p.hint.as_deref().unwrap_or("") != *hint => {
                wrong.push(format!("{text}\n   page: {message} ({hint})\n    got: {p}"));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn pointed_at(text: &str) -> String {
    let problem = compile(text, &scope().0).unwrap_err();
    match problem.at {
        Some(at) => text[at].to_string(),
        None => format!("nowhere: {}", problem.message),
    }
}

#[test]
fn problems_point_at_their_bytes() {
    assert_eq!(pointed_at("1 + amuont * 2"), "amuont");
    assert_eq!(pointed_at("kind = 'naïve' and n = 'x'"), "n = 'x'");
    assert_eq!(pointed_at("abs(n) +\n flor(amount)"), "flor");
    assert_eq!(pointed_at("amount 3"), "3");
    assert_eq!(pointed_at("n > 1 )"), ")");
    assert_eq!(pointed_at("abs(kind)"), "kind");
}

#[test]
fn a_name_is_found_alone_only_where_it_is_the_only_one() {
    let mut scope = Scope::new();
    scope.add(Some("account"), "turnover_90d", DataType::Float64);
    scope.add(Some("card"), "turnover_90d", DataType::Float64);
    scope.add(Some("card"), "age", DataType::Int64);
    scope.add(None, "score", DataType::Float64);
    let row = [Value::Float(1.0), Value::Float(2.0), Value::Int(3), Value::Float(0.5)];
    let eval = |text: &str| compile(text, &scope).map(|e| e.eval(&row).to_string()).unwrap_or_else(|p| p.to_string());
    assert_eq!(eval("card.turnover_90d * age"), "6");
    assert_eq!(eval("score >= 0.20"), "true");
    assert_eq!(eval("turnover_90d"), "`turnover_90d` could be any of 2 columns (say which: account.turnover_90d, card.turnover_90d)");
    assert_eq!(eval("account.turnover_9d"), "unknown column `account.turnover_9d` (did you mean `account.turnover_90d`?)");
    assert_eq!(eval("crd.age"), "unknown column `crd.age` (did you mean `card.age`?)");
    assert_eq!(eval("turnover_9d"), "unknown column `turnover_9d` (did you mean `account.turnover_90d` or `card.turnover_90d`?)");
    let slots = compile("age + account.turnover_90d + age", &scope).unwrap();
    assert_eq!(slots.slots(), [0, 2]);
}

#[test]
fn words_of_sql_can_be_columns() {
    let mut scope = Scope::new();
    let names = ["user", "date", "time", "timestamp", "value", "type", "year", "interval", "left", "key", "state", "order"];
    for name in names {
        scope.add(None, name, DataType::Int64);
    }
    let mut refused = Vec::new();
    for (slot, name) in names.iter().enumerate() {
        match compile(&format!("{name} > 0"), &scope) {
            Ok(e) if e.slots() == [slot] => {}
            _ => refused.push(*name),
        }
        assert_eq!(compile(&format!("\"{name}\" > 0"), &scope).unwrap().slots(), [slot]);
    }
    assert_eq!(refused, ["interval"], "these need quotes");
}

#[test]
fn hostile_texts_are_problems_and_never_panics() {
    let (scope, row) = scope();
    let deep = ["(".repeat(5_000), "not ".repeat(2_000) + "ok", "n + ".repeat(1_900) + "n", "-".repeat(4_000) + "n", "x".repeat(100_000)];
    for text in
        deep.iter().map(String::as_str).chain(["", " ", "--", "'", "\"", "n;", "*", "()", "$1", "?", "::", "case", "é", "a.b.c.d", "1.2.3"])
    {
        assert!(compile(text, &scope).is_err(), "{:.60}", text);
    }
    let e = compile("coalesce(amount, 1) + n", &scope).unwrap();
    assert_eq!(e.eval(&[]), Value::Null);
    assert_eq!(e.eval(&row[..1]), Value::Null);
    assert_eq!(e.eval(&[Value::text("not a number"), Value::Int(1)]), Value::Null);
}

#[test]
fn an_empty_list_has_a_length_and_no_figures() {
    let (scope, mut row) = scope();
    for (name, empty) in [("last_3", Value::numbers([])), ("top_2", Value::texts::<&str>([])), ("by_kind", Value::map::<&str>([]))] {
        row[scope.resolve(None, name).unwrap().0] = empty;
    }
    let eval = |text: &str| compile(text, &scope).unwrap().eval(&row).to_string();
    for function in ["list_sum", "list_mean", "list_min", "list_max"] {
        assert_eq!(eval(&format!("{function}(last_3)")), "null");
    }
    assert_eq!(eval("length(last_3) + length(top_2) + length(by_kind)"), "0");
    assert_eq!(eval("contains(last_3, 1) or contains(top_2, '')"), "false");
    assert_eq!(eval("coalesce(element(top_2, 1), 'none')"), "none");
    assert_eq!(eval("get(by_kind, '')"), "null");
}

#[test]
fn figures_of_a_list_beyond_a_float_are_null() {
    let (scope, mut row) = scope();
    row[scope.resolve(None, "last_3").unwrap().0] = Value::numbers([1e308, 1e308, -0.0]);
    let eval = |text: &str| compile(text, &scope).unwrap().eval(&row).to_string();
    assert_eq!(eval("list_sum(last_3)"), "null");
    assert_eq!(eval("list_mean(last_3)"), "null");
    assert_eq!(eval("contains(last_3, 0)"), "true", "-0.0 equals 0");
}

mod random {
    use super::*;
    use proptest::prelude::*;

    fn token() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "amount",
            "n",
            "kind",
            "ok",
            "missing",
            "t",
            "last_3",
            "top_2",
            "by_kind",
            "element(",
            "get(",
            "length(",
            "contains(",
            "list_mean(",
            "1",
            "2.5",
            "'x'",
            "null",
            "true",
            "+",
            "-",
            "*",
            "/",
            "%",
            "=",
            "<",
            "and",
            "or",
            "not",
            "is",
            "(",
            ")",
            ",",
            "case",
            "when",
            "then",
            "end",
            "in",
            "between",
            "like",
            "abs",
            "if",
            "coalesce",
            "interval '1d'",
            "::",
            "int64",
            "timestamp '2026-01-01'",
            "||",
            "date_trunc",
            "over",
            "cast",
            "as",
            "extract",
            "from",
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn any_text_is_a_value_of_its_type_or_a_problem(tokens in prop::collection::vec(token(), 1..14)) {
            let (scope, row) = scope();
            let text = tokens.join(" ");
            match compile(&text, &scope) {
                Ok(e) => {
                    let value = e.eval(&row);
                    prop_assert!(value.is_null() || e.data_type().is_some_and(|t| value.fits(t)), "{text} gave {value:?}, typed {:?}", e.data_type());
                    if let Value::Float(x) = value { prop_assert!(x.is_finite()); }
                    for slot in 0..row.len() {
                        let mut holed = row.clone();
                        holed[slot] = Value::Null;
                        if !e.slots().contains(&slot) { prop_assert_eq!(&e.eval(&holed), &e.eval(&row)); }
                    }
                }
                Err(p) => if let Some(at) = p.at { prop_assert!(text.get(at).is_some()); },
            }
        }

        #[test]
        fn any_bytes_are_taken(text in "\\PC{0,40}") {
            let _ = compile(&text, &scope().0);
        }
    }
}

#[test]
fn a_text_that_can_be_read_in_many_ways_is_refused_in_little_time() {
    // The parser's frames are large where it is not optimised.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(refused_in_little_time).unwrap();
    thread.join().unwrap();
}

fn refused_in_little_time() {
    let (scope, _) = scope();
    let units = [
        "a.",
        "n.abs(",
        "z[n.",
        "ceil(",
        "ceil((",
        "cast(",
        "case(",
        "convert(",
        "current_date(n, ",
        "extract(n, ",
        "position(",
        "n in (",
        "interval ",
    ];
    // Without the limit this takes years.
    for unit in units {
        for end in ["", "n", "r r"] {
            assert!(compile(&(unit.repeat(45) + end), &scope).is_err(), "{unit}");
        }
    }
    assert!(
        compile("aa.z[z6.t.z[z6aa.z[z6z[z6.t.z[z6aa.a.z[z6z[z6.t.z[z6aa.z[zlist_minz[zlist_min(6.[z6.t.z[z6aa.z[z6z[z6.t.z[z6aa", &scope)
            .is_err()
    );
    let long = vec!["n"; 1_900].join("+");
    assert_eq!(compile(&long, &scope).err().map(|p| p.code), Some("expression_too_deep"));
    assert!(compile(&format!("n in ({})", vec!["7"; 4_000].join(",")), &scope).is_ok());
    assert!(compile(&("abs(".repeat(40) + "n" + &")".repeat(40)), &scope).is_ok());
}
