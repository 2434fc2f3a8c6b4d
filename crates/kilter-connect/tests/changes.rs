//! Changes of a table's rows: what is an upsert, what a delete, what is passed over and what is told to the rest.

use kilter_connect::{FileFormat, IdOf, Limits, OperationOf, RowFormat, UnknownFields, decode_body, decode_message, open, row_to_json};
use kilter_core::{DataType, EventTime, Operation, Schema, Span};
use proptest::prelude::*;

fn arrived() -> EventTime {
    EventTime::parse("2026-01-01T12:00:00Z").unwrap()
}

/// Accounts by their number; `at` is when a row was last written.
fn accounts(operation: OperationOf) -> RowFormat {
    let schema = Schema::new([
        ("id", DataType::Int64),
        ("at", DataType::Timestamp),
        ("owner", DataType::String),
        ("balance", DataType::Float64),
        ("op", DataType::String),
    ]);
    let schema = match operation {
        OperationOf::Column(_) => schema,
        _ => Schema { fields: schema.fields[..4].to_vec() },
    };
    RowFormat { key: vec![0], operation, required: vec![0, 2], ..RowFormat::new("accounts", schema).time_column("at") }
}

fn field() -> RowFormat {
    accounts(OperationOf::Field("op".into()))
}

fn debezium() -> RowFormat {
    accounts(OperationOf::Debezium)
}

/// Each row as `time operation row`, or as `code: message (hint)`; then how many messages were passed over. `!` first: the whole body is refused.
fn show(body: &str, content_type: &str, format: &RowFormat) -> String {
    let body = match decode_body(body.as_bytes(), Some(content_type), format, arrived(), &Limits::default()) {
        Ok(body) => body,
        Err(whole) => return format!("!{}: {whole}", whole.code),
    };
    let rows = body.rows.into_iter().map(|row| match row {
        Ok(d) => {
            let id = d.id.map(|id| format!(" id={id}")).unwrap_or_default();
            let extra = d.extra.map(|e| format!(" extra={e}")).unwrap_or_default();
            format!("{} {:?} {}{id}{extra}", d.time, d.operation, row_to_json(&format.schema, &d.row))
        }
        Err(r) => format!("{}: {r}", r.code),
    });
    let ignored = (body.ignored > 0).then(|| format!("ignored {}", body.ignored));
    rows.chain(ignored).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(format: &RowFormat, body: &str, expected: &str) {
    assert_eq!(show(body, "application/json", format), expected, "{body}");
}

const AT: &str = "2026-01-01T11:00:00Z";

#[test]
fn a_field_or_a_column_tells_what_happened_to_the_row() {
    let row = r#"{"at":"2026-01-01T11:00:00Z","balance":null,"id":1,"owner":"ann"}"#;
    for (said, operation) in [
        (r#","op":"u""#, "Upsert"),
        (r#","op":"DELETE""#, "Delete"),
        (r#","op":null"#, "Upsert"),
        ("", "Upsert"),
        (r#","op":"insert""#, "Upsert"),
    ] {
        let sent = format!(r#"{{"id":1,"at":"{AT}","owner":"ann"{said}}}"#);
        check(&field(), &sent, &format!("{AT} {operation} {row}"));
        let column = show(&sent, "application/json", &accounts(OperationOf::Column(4)));
        assert!(column.starts_with(&format!("{AT} {operation} {{")), "{column}");
        // Where no one looks for it, it is a field like any other.
        let plain = show(&sent, "application/json", &accounts(OperationOf::Nothing));
        assert!(plain.starts_with(&format!("{AT} Upsert")) && plain.contains("extra=") != said.is_empty(), "{plain}");
    }
}

#[test]
fn of_a_delete_only_key_and_time_are_asked_for() {
    check(
        &field(),
        &format!(r#"{{"id":1,"at":"{AT}","op":"d"}}"#),
        &format!(r#"{AT} Delete {{"at":"{AT}","balance":null,"id":1,"owner":null}}"#),
    );
    check(
        &field(),
        &format!(r#"[{{"id":1,"at":"{AT}","op":"c"}},{{"at":"{AT}","op":"d"}},{{"at":"{AT}","owner":"x"}},{{"id":1,"op":"d"}}]"#),
        "missing_key: owner: missing or null (source `accounts` needs it in every row)\n\
         missing_key: id: missing or null (source `accounts` needs it in every row)\n\
         missing_key: id: missing or null (source `accounts` needs it in every row)\n\
         missing_time: at: missing or null (every event of `accounts` needs its time, RFC 3339 such as 2026-01-31T10:00:00Z)",
    );
}

#[test]
fn an_unknown_operation_is_refused_and_never_guessed_at() {
    let words = "one of: c, r, u, i, insert, create, read, update, upsert, d, delete; null is an upsert";
    for (said, expected) in [
        (r#""remove""#, format!("unknown_operation: op: `remove` is no operation ({words})")),
        (r#""""#, format!("unknown_operation: op: `` is no operation ({words})")),
        ("1", "wrong_type: op: expected string, got number 1 (put it in quotes)".to_owned()),
        (r#""t""#, "truncate: op: the table was emptied, which takes away rows no one names (send a delete for each row, or begin with an empty data folder)".to_owned()),
        (r#""d","op":"c""#, "duplicate_field: op: given twice in one object (send it once: which of the two is meant cannot be known)".to_owned()),
    ] {
        let sent = format!(r#"{{"id":1,"at":"{AT}","owner":"ann","op":{said}}}"#);
        check(&field(), &sent, &expected);
        check(&accounts(OperationOf::Column(4)), &sent, &expected);
    }
}

#[test]
fn tables_have_operations_too() {
    let rows = format!(
        "{AT} Upsert {{\"at\":\"{AT}\",\"balance\":2.5,\"id\":1,\"owner\":\"ann\"}}\n{AT} Delete {{\"at\":\"{AT}\",\"balance\":null,\"id\":1,\"owner\":null}}"
    );
    let csv = format!("op,id,at,owner,balance\n,1,{AT},ann,2.5\nD,1,{AT},,\n");
    assert_eq!(show(&csv, "text/csv", &field()), rows);
    // A table that lacks the operation would be read as upserts alone.
    let without = format!("id,at,owner\n1,{AT},ann\n");
    let expected = "!missing_column: body: no column `op`, which source `accounts` needs (columns of the file: id, at, owner)";
    assert_eq!(show(&without, "text/csv", &field()), expected);
    assert_eq!(show(&without, "text/csv", &accounts(OperationOf::Column(4))), expected);
    let without_key = format!("op,at,owner\nd,{AT},ann\n");
    assert!(show(&without_key, "text/csv", &field()).starts_with("!missing_column: body: no column `id`"));
}

/// A message as the connector of PostgreSQL sends it.
fn message(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"2.7.0.Final","connector":"postgresql","ts_ms":1767265200000,"lsn":24023128,
        "table":"accounts","snapshot":"false"}},"op":"{op}","ts_ms":1767265201500,"transaction":null}}"#
    )
}

const ANN: &str = r#"{"id":1,"at":1767264000000,"owner":"ann","balance":2.5}"#;
const ANN_READ: &str = r#"{"at":"2026-01-01T10:40:00Z","balance":2.5,"id":1,"owner":"ann"}"#;

#[test]
fn the_envelope_is_taken_off_with_and_without_its_schema() {
    for op in ["c", "r", "u"] {
        let expected = format!("2026-01-01T10:40:00Z Upsert {ANN_READ}");
        let bare = message(op, "null", ANN);
        check(&debezium(), &bare, &expected);
        check(&debezium(), &format!(r#"{{"schema":{{"type":"struct","fields":[{{"op":"d"}}]}},"payload":{bare}}}"#), &expected);
        check(&debezium(), &format!("[{bare},{bare}]"), &format!("{expected}\n{expected}"));
    }
    let extra = message("u", "null", r#"{"id":1,"at":1767264000000,"owner":"ann","tags":["a"]}"#);
    assert!(show(&extra, "application/json", &debezium()).ends_with(r#" extra={"tags":["a"]}"#));
    let strict = RowFormat { unknown: UnknownFields::Reject, ..debezium() };
    assert!(show(&extra, "application/json", &strict).starts_with("unknown_field: tags: no such field"));
}

#[test]
fn a_delete_is_known_by_its_key_and_dated_by_its_envelope() {
    let key_only = r#"{"id":1,"at":null,"owner":null,"balance":null}"#;
    let read = r#"{"at":null,"balance":null,"id":1,"owner":null}"#;
    check(&debezium(), &message("d", key_only, "null"), &format!("2026-01-01T11:00:00Z Delete {read}"));
    check(&debezium(), &message("d", r#"{"id":1}"#, "null"), &format!("2026-01-01T11:00:00Z Delete {read}"));
    check(&debezium(), r#"{"before":{"id":1},"op":"d","ts_ms":1767265201500}"#, &format!("2026-01-01T11:00:01.5Z Delete {read}"));
    // A row that comes whole has its own time.
    check(&debezium(), &message("d", ANN, "null"), &format!("2026-01-01T10:40:00Z Delete {ANN_READ}"));
    // An upsert is not dated so: its own time is missing.
    let undated = message("u", "null", r#"{"id":1,"owner":"ann"}"#);
    assert!(show(&undated, "application/json", &debezium()).starts_with("missing_time: at: missing or null"));
    let timeless = show(r#"{"before":{"id":1},"op":"d"}"#, "application/json", &debezium());
    assert!(timeless.starts_with("missing_time: at: missing or null"), "{timeless}");
}

#[test]
fn columns_may_take_their_values_from_the_envelope() {
    let schema = Schema::new([
        ("id", DataType::Int64),
        ("__source_ts_ms", DataType::Timestamp),
        ("__ts_ms", DataType::Timestamp),
        ("__source_lsn", DataType::Int64),
        ("__source_table", DataType::String),
        ("__op", DataType::String),
        ("__source_gtid", DataType::String),
    ]);
    let format = RowFormat {
        key: vec![0],
        operation: OperationOf::Debezium,
        id: IdOf::Column(3),
        ..RowFormat::new("accounts", schema).time_column("__source_ts_ms")
    };
    for (op, before, after, operation) in [("r", "null", r#"{"id":1}"#, "Upsert"), ("d", r#"{"id":1}"#, "null", "Delete")] {
        check(
            &format,
            &message(op, before, after),
            &format!(
                "2026-01-01T11:00:00Z {operation} {{\"__op\":\"{op}\",\"__source_gtid\":null,\"__source_lsn\":24023128,\
                 \"__source_table\":\"accounts\",\"__source_ts_ms\":\"2026-01-01T11:00:00Z\",\"__ts_ms\":\"2026-01-01T11:00:01.5Z\",\"id\":1}} id=24023128"
            ),
        );
    }
    // What the row itself says under such a name is not what the envelope says.
    let row = message("u", "null", r#"{"id":1,"__source_gtid":"x","__ts_ms":"never"}"#);
    assert!(show(&row, "application/json", &format).contains(r#""__source_gtid":null"#));
    let wrong = message("u", "null", r#"{"id":1}"#).replace("24023128", "\"high\"");
    assert_eq!(show(&wrong, "application/json", &format), "wrong_type: __source_lsn: expected int64, got string \"high\"");
}

#[test]
fn messages_that_tell_of_no_row_are_counted_and_passed_over() {
    // As Kafka has it: a record without a value.
    assert_eq!(decode_message(b"", &debezium(), arrived(), &Limits::default()), Ok(None));
    let flat = decode_message(b"", &accounts(OperationOf::Nothing), arrived(), &Limits::default());
    assert_eq!(flat.map_err(|refused| refused.code), Err("no_value"));
    for quiet in [
        "null",
        r#"{"schema":{"type":"struct"},"payload":null}"#,
        r#"{"ts_ms":1767265201500}"#,
        r#"{"schema":{},"payload":{"ts_ms":1767265201500}}"#,
        r#"{"status":"BEGIN","id":"571:53195829","event_count":null,"data_collections":null,"ts_ms":1767265201500}"#,
        r#"{"source":{"ts_ms":1},"ts_ms":1,"databaseName":"bank","schemaName":null,"ddl":"ALTER TABLE accounts ADD x int","tableChanges":[]}"#,
        r#"{"op":"m","ts_ms":1767265201500,"source":{},"message":{"transactional":true,"prefix":"x","content":"aGk="}}"#,
    ] {
        check(&debezium(), quiet, "ignored 1");
        let change = message("c", "null", ANN);
        let expected = format!("2026-01-01T10:40:00Z Upsert {ANN_READ}\nignored 1");
        check(&debezium(), &format!("[{quiet},{change}]"), &expected);
        let lines = format!("{}\n{quiet}\n", change.replace('\n', " "));
        check(&debezium(), &lines, &expected);
        assert_eq!(show(&lines, "application/x-ndjson", &debezium()), expected);
    }
    // Elsewhere they are what they look like.
    assert!(show("[null]", "application/json", &field()).starts_with("not_an_object"));
}

#[test]
fn what_is_no_change_is_refused_with_its_reason() {
    let no_change = "a change is {\"before\": .., \"after\": .., \"op\": .., \"source\": ..}; for flat rows leave `envelope` out and name their `operation`";
    let object = "a change is an object with `op`, `before` and `after`";
    for (sent, expected) in [
        (ANN.to_owned(), format!("bad_envelope: op: missing, so this is no change in Debezium's envelope ({no_change})")),
        ("{}".to_owned(), format!("bad_envelope: op: missing, so this is no change in Debezium's envelope ({no_change})")),
        (message("c", "null", ANN).replace("\"c\"", "7"), "bad_envelope: op: an operation is a text (c, r, u or d)".into()),
        ("[7]".to_owned(), format!("bad_envelope: expected an object, got a number ({object})")),
        (r#"{"payload":"{}"}"#.to_owned(), format!("bad_envelope: payload: expected an object, got a string ({object})")),
        (
            message("t", "null", "null"),
            "truncate: op: the table was emptied, which takes away rows no one names (send a delete for each row, or begin with an empty data folder)".into(),
        ),
        (
            message("c", "null", "null"),
            "missing_row: after: missing or null, and the operation is `c` (of a delete the operation is `d`)".into(),
        ),
        (
            message("d", "null", "null"),
            "missing_key: before: missing or null, so the row that was deleted is not known (the table needs a primary key, or REPLICA IDENTITY FULL (PostgreSQL))".into(),
        ),
        (
            message("d", r#"{"owner":"ann"}"#, "null"),
            "missing_key: id: missing or null (source `accounts` needs it in every row)".into(),
        ),
        (
            message("c", "null", r#""{\"_id\":1}""#),
            "bad_envelope: after: expected an object, got a string (MongoDB's documents come so: flatten them first with ExtractNewDocumentState, and leave `envelope` out)".into(),
        ),
        (message("c", "null", "[1]"), "bad_envelope: after: expected an object, got an array (it holds the columns of the row)".into()),
        (
            message("u", "null", ANN).replace("{\"before\"", "{\"op\":\"d\",\"before\""),
            "duplicate_field: op: given twice in one object (send it once: which of the two is meant cannot be known)".into(),
        ),
        (
            message("u", "null", r#"{"id":1,"at":1767264000000,"owner":"__debezium_unavailable_value"}"#),
            "unavailable_value: owner: the change does not carry this large value, which it left as it was \
             (give the table REPLICA IDENTITY FULL, or leave the column out of the definitions)"
                .into(),
        ),
        (
            message("u", "null", r#"{"id":1,"at":1767264000000,"owner":"ann","balance":"AfQ="}"#),
            "wrong_type: balance: expected float64, got string \"AfQ=\"".into(),
        ),
        (
            message("u", "null", r#"{"id":1,"at":1767264000000,"owner":"\ud800"}"#),
            "malformed_json: after: malformed JSON at line 1, column 43 (byte 42): unexpected end of hex escape".into(),
        ),
    ] {
        let shown = show(&sent, "application/json", &debezium());
        assert_eq!(shown, expected, "{sent}");
    }
    let cut = show(&message("c", "null", ANN)[..60], "application/json", &debezium());
    assert!(cut.starts_with("!malformed_json: malformed JSON at line 1, column 60"), "{cut}");
    let csv = show("op,id\nc,1\n", "text/csv", &debezium());
    assert!(
        csv.starts_with("!wrong_format: source `accounts` takes changes in Debezium's envelope, which is JSON (send application/json"),
        "{csv}"
    );
}

#[test]
fn a_table_with_a_column_event_id_keeps_its_changes_apart() {
    let schema = Schema::new([("event_id", DataType::String)]);
    for operation in [OperationOf::Debezium, OperationOf::Nothing] {
        let expected = if operation == OperationOf::Debezium { "" } else { " id=a" };
        let format = RowFormat { key: vec![0], operation, ..RowFormat::new("events", schema.clone()) };
        let sent = if expected.is_empty() { message("u", "null", r#"{"event_id":"a"}"#) } else { r#"{"event_id":"a"}"#.to_owned() };
        check(&format, &sent, &format!("2026-01-01T12:00:00Z Upsert {{\"event_id\":\"a\"}}{expected}"));
    }
}

#[test]
fn files_of_changes_are_read_and_their_quiet_messages_counted() {
    let dir = tempfile::tempdir().unwrap();
    let change = message("c", "null", ANN).replace('\n', " ");
    let delete = message("d", r#"{"id":1}"#, "null").replace('\n', " ");
    for (name, text) in [
        ("a.ndjson", format!("{change}\n{{\"ts_ms\":1}}\n{delete}\nnull\n")),
        ("a.json", format!("[{change},{{\"ts_ms\":1}},{delete},null]")),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut reader = open(&path, None, debezium(), arrived(), Limits::default()).unwrap();
        let operations: Vec<Operation> = reader.by_ref().map(|row| row.unwrap().operation).collect();
        assert_eq!(operations, [Operation::Upsert, Operation::Delete], "{name}");
        assert_eq!(reader.ignored(), 2, "{name}");
    }
    std::fs::write(dir.path().join("a.json"), "null").unwrap();
    let mut reader = open(&dir.path().join("a.json"), None, debezium(), arrived(), Limits::default()).unwrap();
    assert_eq!((reader.next(), reader.ignored()), (None, 1));
    for format in [FileFormat::Csv, FileFormat::Parquet] {
        let error = open(&dir.path().join("a.json"), Some(format), debezium(), arrived(), Limits::default()).map(|_| ()).unwrap_err();
        assert_eq!((error.code, error.hint.as_deref()), ("wrong_format", Some("write the messages as NDJSON, one on each line")));
    }
}

proptest! {
    /// Whatever is done to a message, the answer is a row, a reason or nothing; and a delete is never made out of anything else.
    #[test]
    fn damaged_messages_never_panic_and_make_no_deletes(cut in 0usize..400, junk in "[\\[\\]{}\":,a-z0-9 ]{0,6}", length in 0usize..20) {
        let whole = message("u", "null", ANN);
        let (start, end) = (cut.min(whole.len()), (cut + length).min(whole.len()));
        let text = format!("{}{junk}{}", &whole[..start], &whole[end..]);
        if let Ok(body) = decode_body(text.as_bytes(), None, &debezium(), arrived(), &Limits::default()) {
            for row in body.rows.into_iter().flatten() {
                let is_delete = row.operation == Operation::Delete;
                prop_assert!(!is_delete || text.contains("\"d\"") || text.contains("delete"), "{}", text);
            }
        }
    }

    /// The limits hold for messages that tell of nothing, too.
    #[test]
    fn quiet_messages_count_towards_the_most_rows(rows in 0usize..8) {
        let limits = Limits { max_rows: 4, ..Limits::default() };
        let text = format!("[{}]", vec!["null"; rows].join(","));
        let body = decode_body(text.as_bytes(), None, &debezium(), arrived(), &limits);
        prop_assert_eq!(body.map(|b| b.ignored).map_err(|r| r.code), if rows > 4 { Err("too_many_rows") } else { Ok(rows as u64) });
    }
}

#[test]
fn an_event_in_the_future_is_refused_in_an_envelope_as_elsewhere() {
    let format = RowFormat { max_future: Some(Span::HOUR), ..debezium() };
    let late = message("d", r#"{"id":1}"#, "null").replace("1767265200000", "1798801200000");
    assert!(show(&late, "application/json", &format).starts_with("future_time: at: "), "{late}");
}
