//! What comes through the door and what is told to those turned away.

use kilter_connect::{FieldProblem, IdOf, Limits, RowFormat, TimeOf, UnknownFields, decode_body, decode_object, row_to_json};
use kilter_core::{DataType, EventTime, Schema, Span, Value};

fn payments() -> RowFormat {
    let schema = Schema::new([
        ("account_id", DataType::Int64),
        ("at", DataType::Timestamp),
        ("amount", DataType::Float64),
        ("kind", DataType::String),
        ("flagged", DataType::Bool),
    ]);
    RowFormat { required: vec![0], max_future: Some(Span::HOUR), ..RowFormat::new("payments", schema).time_column("at") }
}

fn arrived() -> EventTime {
    EventTime::parse("2026-01-01T12:00:00Z").unwrap()
}

/// Each row as JSON or as `code@row field: message | hint`; `!` first when the whole body is refused.
fn show(body: &[u8], content_type: Option<&str>, format: &RowFormat) -> String {
    let rejection = |r: kilter_connect::Rejection| format!("{}@{} {}", r.code, r.row, r);
    match decode_body(body, content_type, format, arrived(), &Limits::default()) {
        Err(whole) => format!("!{}", rejection(whole)),
        Ok(body) => {
            let rows = body.rows.into_iter().map(|row| match row {
                Ok(d) => {
                    let id = d.id.map(|id| format!(" id={id}")).unwrap_or_default();
                    let extra = d.extra.map(|e| format!(" extra={e}")).unwrap_or_default();
                    format!("{}{id}{extra}", row_to_json(&format.schema, &d.row))
                }
                Err(r) => rejection(r),
            });
            rows.collect::<Vec<_>>().join("\n")
        }
    }
}

#[track_caller]
fn check(body: &str, expected: &str) {
    assert_eq!(show(body.as_bytes(), Some("application/json"), &payments()), expected, "{body}");
}

#[test]
fn an_object_an_array_and_lines_are_all_welcome() {
    let row = r#"{"account_id":1,"amount":3.0,"at":"2026-01-01T11:00:00Z","flagged":null,"kind":"fee"}"#;
    let sent = r#"{"account_id":1,"at":"2026-01-01T11:00:00Z","amount":3,"kind":"fee"}"#;
    check(sent, row);
    check(&format!(" [{sent} , {sent}] "), &format!("{row}\n{row}"));
    check(&format!("{sent}\n\n{sent}\r\n"), &format!("{row}\n{row}"));
    check(&format!("\u{feff}{sent}"), row);
    check("[]", "");
    assert_eq!(show(sent.as_bytes(), Some("application/x-www-form-urlencoded"), &payments()), row, "what curl -d sends by itself");
    let csv = "account_id,at,amount,kind\n1,2026-01-01T11:00:00Z,3,fee\n";
    assert_eq!(show(csv.as_bytes(), Some("text/csv; charset=utf-8"), &payments()), row);
}

#[test]
fn one_bad_row_does_not_spoil_the_others() {
    let good = r#"{"account_id":1,"at":1767265200}"#;
    let read = r#"{"account_id":1,"amount":null,"at":"2026-01-01T11:00:00Z","flagged":null,"kind":null}"#;
    check(
        &format!("[{good},\n {{\"account_id\": tru}}, 7, {good}]"),
        &format!(
            "{read}\nmalformed_json@1 malformed JSON at line 2, column 20 (byte 54): expected ident\n\
             not_an_object@2 expected a JSON object, got a number (an event is an object such as {{\"amount\": 12.5}})\n{read}"
        ),
    );
    check(
        &format!("{good}\n{{\"account_id\":\n{good}\n"),
        &format!("{read}\nmalformed_json@2 malformed JSON at line 2, column 14 (byte 46): EOF while parsing a value\n{read}"),
    );
}

#[test]
fn wrong_types_say_what_was_expected_and_how_to_mend_it() {
    let with = |field: &str| format!(r#"{{"account_id":1,"at":"2026-01-01T11:00:00Z",{field}}}"#);
    for (field, expected) in [
        (r#""amount":"12""#, r#"wrong_type@0 amount: expected float64, got string "12" (send numbers unquoted)"#),
        (
            r#""amount":{"value":1}"#,
            "wrong_type@0 amount: expected float64, got an object (a column holds one plain value; send nested data in a field that is not declared)",
        ),
        (r#""kind":12"#, "wrong_type@0 kind: expected string, got number 12 (put it in quotes)"),
        (r#""flagged":1,"kind":false"#, "wrong_type@0 flagged: expected bool, got number 1 (also wrong: kind) (send true or false)"),
        (
            r#""amount":1,"amount":2"#,
            "duplicate_field@0 amount: given twice in one object (send it once: which of the two is meant cannot be known)",
        ),
        (r#""x":1,"x":2"#, "duplicate_field@0 x: given twice in one object (send it once: which of the two is meant cannot be known)"),
        (r#""event_id":1.5"#, "bad_id@0 event_id: an event id is a string or a whole number, got number 1.5"),
        (r#""event_id":"""#, "bad_id@0 event_id: an event id may not be empty (send null or leave it out when there is none)"),
    ] {
        check(&with(field), expected);
    }
    check(
        r#"{"account_id":123456789012345678901,"at":1767265200}"#,
        "out_of_range@0 account_id: expected int64, got number 1.2345678901234568e20 (whole numbers go up to 9223372036854775807, with a decimal point up to 2^53; declare the column string for longer identifiers)",
    );
    check(r#"{"account_id":null,"at":1767265200}"#, "missing_key@0 account_id: missing or null (source `payments` needs it in every row)");
    let long = format!(r#""event_id":"{}""#, "x".repeat(1025));
    check(&with(&long), "bad_id@0 event_id: an event id has at most 1024 bytes, got 1025 (send a hash of it instead)");
}

#[test]
fn times_that_cannot_be_meant_are_turned_away_with_their_likely_cause() {
    let at = |time: &str| format!(r#"{{"account_id":1,"at":{time}}}"#);
    let missing = "missing_time@0 at: missing or null (every event of `payments` needs its time, RFC 3339 such as 2026-01-31T10:00:00Z)";
    check(r#"{"account_id":1}"#, missing);
    check(
        &at(r#""tomorrow""#),
        r#"wrong_type@0 at: expected timestamp, got string "tomorrow" (send RFC 3339 such as 2026-01-31T10:00:00Z, or a number of seconds or milliseconds since 1970)"#,
    );
    check(
        &at(r#""2026-01-01T14:30:00Z""#),
        "future_time@0 at: 2026-01-01T14:30:00Z is 2h after its arrival; at most 1h is allowed (latest 2026-01-01T13:00:00Z) \
         (the sender's clock or time zone may be off: add the offset to the time, such as +02:00, or raise `max_future`)",
    );
    check(
        &at(r#""0001-01-01""#),
        "absurd_time@0 at: 0001-01-01T00:00:00Z is before the earliest time allowed, 1900-01-01T00:00:00Z (is it an empty date's default? send null or leave the row out)",
    );
    let computed = RowFormat {
        time: TimeOf::Function(std::sync::Arc::new(|row| match row[0] {
            Value::Int(n) => Value::Time(EventTime(n.saturating_mul(1_000_000))),
            _ => Value::Null,
        })),
        time_name: "seconds(account_id)".into(),
        max_future: None,
        ..payments()
    };
    assert_eq!(
        show(br#"{"account_id":1767265200000}"#, None, &computed),
        "absurd_time@0 seconds(account_id): 1767265200000000000us is after the latest time allowed, 2262-01-01T00:00:00Z \
         (it looks like milliseconds read as seconds: send RFC 3339 text or whole seconds)"
    );
    let on_arrival = RowFormat { time: TimeOf::Arrival, ..payments() };
    let rows = decode_body(br#"{"account_id":1}"#, None, &on_arrival, arrived(), &Limits::default()).unwrap().rows;
    assert_eq!(rows[0].as_ref().map(|d| d.time), Ok(arrived()));
}

#[test]
fn fields_nobody_declared_are_kept_ignored_or_refused() {
    let body = br#"{"account_id":1,"at":1767265200,"colour":"r\u00f6t","tags":[1, {"a":2}],"amuont":5,"event_id":"e-1"}"#;
    let read = r#"{"account_id":1,"amount":null,"at":"2026-01-01T11:00:00Z","flagged":null,"kind":null}"#;
    let with = |unknown| RowFormat { unknown, ..payments() };
    assert_eq!(
        show(body, None, &with(UnknownFields::Keep)),
        format!(r#"{read} id=e-1 extra={{"colour":"r\u00f6t","tags":[1, {{"a":2}}],"amuont":5}}"#)
    );
    assert_eq!(show(body, None, &with(UnknownFields::Ignore)), format!("{read} id=e-1"));
    assert_eq!(
        show(body, None, &with(UnknownFields::Reject)),
        "unknown_field@0 colour: no such field (also 2 more wrong: tags, amuont) (fields known here: account_id, at, amount, kind, flagged)"
    );
    let by_column = RowFormat { id: IdOf::Column(0), ..with(UnknownFields::Ignore) };
    assert_eq!(show(body, None, &by_column), format!("{read} id=1"));
}

#[test]
fn a_body_that_is_no_body_is_refused_as_a_whole() {
    check("", "!empty_body@0 the body is empty (send a JSON object, an array of objects or one object per line)");
    check(
        "[{\"account_id\":1}",
        "!malformed_json@1 malformed JSON at line 1, column 18 (byte 17): the array is not closed (send an array of objects, or one object per line)",
    );
    check(
        "[{}] x",
        "!malformed_json@1 malformed JSON at line 1, column 6 (byte 5): text after the end of the array (send an array of objects, or one object per line)",
    );
    check(
        "{\"account_id\":1",
        "!malformed_json@0 malformed JSON at line 1, column 15 (byte 14): EOF while parsing an object (send a JSON object, an array of objects, or one object per line)",
    );
    check(
        "<xml/>",
        "!not_an_object@0 expected a JSON object, got text that is not JSON (send a JSON object, an array of objects, or one object per line)",
    );
    let few = Limits { max_rows: 1, max_depth: 3, max_fields: 2, ..Limits::default() };
    let code = |body: &str| match decode_body(body.as_bytes(), None, &payments(), arrived(), &few) {
        Err(whole) => whole.code,
        Ok(body) => body.rows.into_iter().next().map_or("none", |r| r.map_or_else(|r| r.code, |_| "ok")),
    };
    assert_eq!(code("[{}, {}]"), "too_many_rows");
    assert_eq!(code(r#"{"account_id":1,"at":1767265200}"#), "ok");
    assert_eq!(code(r#"{"account_id":1,"at":1767265200,"x":2}"#), "too_many_fields");
    assert_eq!(code(r#"{"x":[[[1]]]}"#), "too_deep");
    let deep = format!(r#"{{"account_id":{}}}"#, "[".repeat(100_000));
    assert_eq!(code(&deep), "malformed_json");
}

#[test]
fn a_csv_row_keeps_its_line_and_its_text() {
    let csv = "account_id,at,amount,note\n1,1767265200,\"1,5\",x\n1,1767265200\n2,1767265200,2.5,007\n";
    assert_eq!(
        show(csv.as_bytes(), Some("text/csv"), &payments()),
        "wrong_type@2 amount: expected float64, got string \"1,5\" (write numbers with a decimal point and no thousands separator)\n\
         wrong_column_count@3 line 3: 2 cells where the header has 4 (put a cell that holds a comma or a line break in double quotes)\n\
         {\"account_id\":2,\"amount\":2.5,\"at\":\"2026-01-01T11:00:00Z\",\"flagged\":null,\"kind\":null} extra={\"note\":\"007\"}"
    );
    let rows = decode_body(csv.as_bytes(), Some("text/csv"), &payments(), arrived(), &Limits::default()).unwrap().rows;
    assert_eq!(rows[0].as_ref().map_err(|r| &*r.payload), Err("1,1767265200,\"1,5\",x"));
}

#[test]
fn a_decision_request_hears_of_all_its_problems_at_once() {
    let schema = payments().schema;
    let body = br#"{"amount":"12","kind":3,"amuont":1,"at":null}"#;
    let problems = decode_object(body, &schema, &[0, 1], UnknownFields::Reject, &Limits::default()).unwrap_err();
    let shown: Vec<String> = problems.iter().map(|p: &FieldProblem| format!("{} {}", p.code, p.field)).collect();
    assert_eq!(shown, ["wrong_type amount", "wrong_type kind", "unknown_field amuont", "missing_field account_id", "missing_field at"]);
    assert_eq!(problems[2].hint.as_deref(), Some("did you mean `amount`?"));
    let object = decode_object(br#"{"account_id":5,"at":0,"x":[]}"#, &schema, &[0, 1], UnknownFields::Keep, &Limits::default()).unwrap();
    assert_eq!((&object.row[0], object.extra.as_deref()), (&Value::Int(5), Some(r#"{"x":[]}"#)));
    let broken = decode_object(b"{", &schema, &[], UnknownFields::Keep, &Limits::default()).unwrap_err();
    assert_eq!(broken[0].code, "malformed_json");
}

#[test]
fn what_is_kept_beside_a_row_can_be_read_again() {
    let code = |more: &str| {
        let body = format!(r#"{{"account_id":1,"at":1767265200,"more":{more}}}"#);
        let rows = decode_body(body.as_bytes(), None, &payments(), arrived(), &Limits::default()).unwrap().rows;
        rows.into_iter().next().unwrap().map_or_else(|r| r.code.to_string(), |d| d.extra.unwrap_or_default().into_string())
    };
    for kept in [r#""\u00e9""#, r#""\ud83d\ude00""#, "1e300", "[1,{}]", r#"" 1e999 ""#] {
        assert_eq!(code(kept), format!(r#"{{"more":{kept}}}"#));
    }
    for refused in [r#""\ud83d""#, r#"{"c":"\ud83d\tde00"}"#, "1e400", "[-1E999]", &"9".repeat(400)] {
        assert_eq!(code(refused), "unreadable_value", "{refused}");
    }
}
