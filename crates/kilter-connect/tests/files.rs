//! Files: the same rows whatever the format, errors that name the way out, and no bytes that make the readers fall over.

use std::path::Path;
use std::sync::Arc;

use kilter_connect::{Decoded, FileFormat, IdOf, Limits, OperationOf, RowFormat, Total, UnknownFields, decode_body, open, row_to_json};
use kilter_core::{DataType, EventTime, Operation, Schema, Span, Value};
use parquet::data_type::{BoolType, ByteArrayType, DoubleType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

fn schema() -> Schema {
    Schema::new([
        ("flag", DataType::Bool),
        ("count", DataType::Int64),
        ("amount", DataType::Float64),
        ("kind", DataType::String),
        ("at", DataType::Timestamp),
    ])
}

fn format() -> RowFormat {
    RowFormat { id: IdOf::Column(1), ..RowFormat::new("things", schema()).time_column("at") }
}

const ARRIVED: EventTime = EventTime(0);

fn read(path: &Path, format: RowFormat) -> Vec<Result<Decoded, kilter_connect::Rejection>> {
    open(path, None, format, ARRIVED, Limits::default()).unwrap().collect()
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    let nullable = |s: BoxedStrategy<Value>| prop_oneof![1 => Just(Value::Null), 4 => s];
    let finite = proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO;
    (
        nullable(any::<bool>().prop_map(Value::Bool).boxed()),
        nullable(any::<i64>().prop_map(Value::Int).boxed()),
        nullable(finite.prop_map(Value::Float).boxed()),
        // An empty text is null in CSV, so it has no place in a comparison of formats.
        nullable(prop_oneof!["[ -~]{1,12}", "\\PC{1,6}", Just("a\n\"b\",\r\nc".to_owned())].prop_map(|s| Value::text(&s)).boxed()),
        (EventTime::EARLIEST.0..EventTime::LATEST.0).prop_map(|t| Value::Time(EventTime(t))),
    )
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

fn csv_text(rows: &[Vec<Value>]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(schema().names()).unwrap();
    for row in rows {
        writer.write_record(row.iter().map(|v| if v.is_null() { String::new() } else { v.to_string() })).unwrap();
    }
    writer.into_inner().unwrap()
}

/// A Parquet file of the rows, in row groups of three, the time in the given unit.
fn parquet_bytes(rows: &[Vec<Value>], unit: &str) -> Vec<u8> {
    let message = format!(
        "message m {{ optional boolean flag; optional int64 count; optional double amount; optional binary kind (UTF8);
         required int64 at (TIMESTAMP({unit},true)); }}"
    );
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(&message).unwrap()), Arc::default()).unwrap();
    for group in rows.chunks(3) {
        let mut out = writer.next_row_group().unwrap();
        let levels = |c: usize| group.iter().map(|r| i16::from(!r[c].is_null())).collect::<Vec<_>>();
        macro_rules! column {
            ($type:ty, $at:expr, $pattern:pat => $value:expr) => {{
                let values: Vec<_> = group.iter().filter_map(|r| if let $pattern = &r[$at] { Some($value) } else { None }).collect();
                let mut column = out.next_column().unwrap().unwrap();
                column.typed::<$type>().write_batch(&values, ($at < 4).then(|| levels($at)).as_deref(), None).unwrap();
                column.close().unwrap();
            }};
        }
        column!(BoolType, 0, Value::Bool(b) => *b);
        column!(Int64Type, 1, Value::Int(n) => *n);
        column!(DoubleType, 2, Value::Float(x) => *x);
        column!(ByteArrayType, 3, Value::Text(s) => s.as_bytes().to_vec().into());
        column!(Int64Type, 4, Value::Time(t) => if unit == "NANOS" { t.0 * 1_000 } else { t.0 });
        out.close().unwrap();
    }
    writer.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_format_gives_the_same_rows(rows in proptest::collection::vec(row(), 0..10)) {
        let folder = tempfile::tempdir().unwrap();
        let object = |row: &Vec<Value>| row_to_json(&schema(), row).to_string();
        let objects: Vec<String> = rows.iter().map(object).collect();
        let lines = objects.join("\n");
        let array = format!("[{}]", objects.join(", "));
        let csv = csv_text(&rows);
        let expected: Vec<_> = rows.iter().map(|row| {
            let Value::Time(time) = row[4] else { unreachable!() };
            let id = match &row[1] { Value::Int(n) => Some(n.to_string().into()), _ => None };
            Ok(Decoded { row: row.clone(), time, id, operation: Operation::Upsert, extra: None, origin: None })
        }).collect();
        let parquet = parquet_bytes(&rows, "MICROS");
        for (name, bytes) in [("t.json", array.as_bytes()), ("t.jsonl", lines.as_bytes()), ("t.csv", &csv), ("t.parquet", &parquet)] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            prop_assert_eq!(&read(&path, format()), &expected, "{}", name);
        }
        if !rows.is_empty() {
            for (body, content_type) in [(array.as_bytes(), "application/json"), (lines.as_bytes(), "application/x-ndjson"), (&csv, "text/csv")] {
                let decoded = decode_body(body, Some(content_type), &format(), ARRIVED, &Limits::default());
                prop_assert_eq!(decoded.as_ref().map(|body| &body.rows), Ok(&expected), "{}", content_type);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_text_codecs_panic(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), "[\\[\\]{}\",:a0-9.e\\\\ \n-]{0,120}".prop_map(String::into_bytes)],
    ) {
        for content_type in ["application/json", "application/x-ndjson", "text/csv"] {
            for (unknown, operation) in [
                (UnknownFields::Keep, OperationOf::Nothing),
                (UnknownFields::Keep, OperationOf::Debezium),
                (UnknownFields::Ignore, OperationOf::Field("a".into())),
                (UnknownFields::Reject, OperationOf::Column(3)),
            ] {
                let format = RowFormat { unknown, operation, max_future: Some(Span::DAY), ..format() };
                let decoded = decode_body(&bytes, Some(content_type), &format, ARRIVED, &Limits::default());
                for rejection in decoded.into_iter().flat_map(|body| body.rows).filter_map(Result::err) {
                    prop_assert!(!rejection.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_ends_in_words(
        rows in proptest::collection::vec(row(), 1..8),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = rows.iter().map(|row| row_to_json(&schema(), row).to_string() + "\n").collect::<String>().into_bytes();
        let mut csv = csv_text(&rows);
        let mut parquet = parquet_bytes(&rows, "MICROS");
        for bytes in [&mut lines, &mut csv, &mut parquet] {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Some(cut) = &cut {
                bytes.truncate(cut.index(bytes.len()));
            }
        }
        for (name, bytes) in [("t.json", &lines), ("t.ndjson", &lines), ("t.csv", &csv), ("t.parquet", &parquet)] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            if let Ok(reader) = open(&path, None, format(), ARRIVED, Limits::default()) {
                prop_assert!(reader.count() <= bytes.len());
            }
        }
    }
}

#[test]
fn parquet_reads_the_types_of_other_tools() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let row = vec![Value::Bool(true), Value::Int(1), Value::Float(2.5), Value::text("a"), Value::Time(EventTime(1_767_268_800_000_001))];
    std::fs::write(&path, parquet_bytes(std::slice::from_ref(&row), "NANOS")).unwrap();
    assert_eq!(read(&path, format())[0].as_ref().unwrap().row, row);

    // Fewer columns declared: the others are kept as JSON; more declared: null, with a note.
    let schema = Schema::new([("amount", DataType::Float64), ("absent", DataType::Int64), ("count", DataType::Float64)]);
    let mut reader = open(&path, None, RowFormat::new("things", schema.clone()), ARRIVED, Limits::default()).unwrap();
    assert_eq!(reader.total(), Total::Rows(1));
    assert_eq!(reader.notes(), [format!("{}: columns of `things` that the file lacks are null in every row: absent", path.display())]);
    let decoded = reader.next().unwrap().unwrap();
    assert_eq!(decoded.row, [Value::Float(2.5), Value::Null, Value::Float(1.0)]);
    assert_eq!(decoded.extra.as_deref(), Some(r#"{"flag":true,"kind":"a","at":"2026-01-01T12:00:00.000001Z"}"#));
    assert_eq!(reader.position(), 1);

    let message = "message m { required int32 day (DATE); required int32 price (DECIMAL(9,2)); required int64 ms (TIMESTAMP_MILLIS);
                   required int64 u (INTEGER(64,false)); required fixed_len_byte_array(3) big (DECIMAL(6,1)); required int32 flag; }";
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(message).unwrap()), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut int = |values: [i32; 2]| {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<parquet::data_type::Int32Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    };
    int([20_454, -1]);
    int([1_250, -5]);
    let mut long = |values: [i64; 2]| {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    };
    long([1_500, -1]);
    long([7, -1]);
    let mut column = group.next_column().unwrap().unwrap();
    let values = [vec![0, 0, 15].into(), vec![0xff, 0xff, 0xf1].into()];
    column.typed::<parquet::data_type::FixedLenByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<parquet::data_type::Int32Type>().write_batch(&[1, 2], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
    let schema = Schema::new([
        ("day", DataType::Timestamp),
        ("price", DataType::Float64),
        ("ms", DataType::Timestamp),
        ("u", DataType::Int64),
        ("big", DataType::Float64),
        ("flag", DataType::Bool),
    ]);
    let rows = read(&path, RowFormat::new("things", schema));
    let time = |text: &str| Value::Time(EventTime::parse(text).unwrap());
    assert_eq!(
        rows[0].as_ref().unwrap().row,
        [time("2026-01-01"), Value::Float(12.5), time("1970-01-01T00:00:01.5Z"), Value::Int(7), Value::Float(1.5), Value::Bool(true)]
    );
    let rejection = rows[1].as_ref().unwrap_err();
    assert_eq!((rejection.code, rejection.row), ("out_of_range", 1));
    assert_eq!(
        &*rejection.payload,
        r#"{"big":-1.5,"day":"1969-12-31T00:00:00Z","flag":null,"ms":"1969-12-31T23:59:59.999Z","price":-0.05,"u":null}"#
    );
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let complaint = |name: &str, format: RowFormat| {
        let error = open(&folder.path().join(name), None, format, ARRIVED, Limits::default()).err().unwrap();
        format!("{} {error}", error.code).replace(&format!("{}/", folder.path().display()), "")
    };
    write("payments.csv", b"flag,count,amuont,kind,at\n");
    assert_eq!(complaint("paymets.csv", format()), "file_not_found no file paymets.csv (did you mean payments.csv?)");
    write("payments.csv.gz", b"");
    assert_eq!(
        complaint("payments.csv.gz", format()),
        "unknown_format payments.csv.gz: the extension `gz` names no known format (unpack it first)"
    );
    let strict = RowFormat { unknown: UnknownFields::Reject, ..format() };
    assert_eq!(
        complaint("payments.csv", strict),
        "bad_header payments.csv: source `things` has no column `amuont` (did you mean `amount`?)"
    );
    let needing = RowFormat { required: vec![2], ..format() };
    assert_eq!(
        complaint("payments.csv", needing),
        "missing_column payments.csv: no column `amount`, which source `things` needs (the file has `amuont`: rename it, or the column in the definitions)"
    );
    write("semi.csv", b"flag;count;at\n");
    assert_eq!(
        complaint("semi.csv", format()),
        "bad_header semi.csv: the header has one column only, and ';' in it (columns are separated by commas)"
    );
    write("twice.csv", b"at,at\n");
    assert_eq!(complaint("twice.csv", format()), "bad_header twice.csv: column `at` appears twice (give every column its own name)");
    write("not.parquet", b"PAR1 and then nothing");
    assert!(complaint("not.parquet", format()).starts_with("not_parquet not.parquet: not a readable Parquet file"));
    write("p.parquet", &parquet_bytes(&[], "MICROS"));
    let wrong = RowFormat::new("things", Schema::new([("kind", DataType::Float64)]));
    assert_eq!(
        complaint("p.parquet", wrong),
        "column_type p.parquet: column `kind` is string in the file and float64 in the definitions (declare it string)"
    );
}

#[test]
fn lines_that_are_too_long_are_passed_over_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.data");
    let text = format!("{{\"at\":0}}\n{{\"kind\":\"{}\"}}\n\n{{\"at\":1,\n{{\"at\":2}}", "x".repeat(100_000));
    std::fs::write(&path, &text).unwrap();
    let limits = Limits { max_line: 100, ..Limits::default() };
    let mut reader = open(&path, Some(FileFormat::Ndjson), format(), ARRIVED, limits).unwrap();
    let shown: Vec<String> =
        reader.by_ref().map(|r| r.map_or_else(|r| format!("{} line {}", r.code, r.row), |d| d.time.to_string())).collect();
    assert_eq!(shown, ["1970-01-01T00:00:00Z", "row_too_long line 2", "malformed_json line 4", "1970-01-01T00:00:02Z"]);
    assert_eq!((reader.total(), reader.position()), (Total::Bytes(text.len() as u64), text.len() as u64));
}

#[test]
fn a_parquet_file_may_tell_operations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let row = |n: i64, kind: Value| vec![Value::Null, Value::Int(n), Value::Null, kind, Value::Time(EventTime(n))];
    let rows = [row(1, Value::Null), row(2, Value::text("D")), row(3, Value::text("u")), row(4, Value::text("gone"))];
    std::fs::write(&path, parquet_bytes(&rows, "MICROS")).unwrap();
    // Once as a column of the source, once as a field that is none.
    let field = Schema { fields: schema().fields.into_iter().filter(|f| f.name != "kind").collect() };
    for (schema, operation) in [(schema(), OperationOf::Column(3)), (field.clone(), OperationOf::Field("kind".into()))] {
        let format = RowFormat { key: vec![1], operation, ..RowFormat::new("things", schema).time_column("at") };
        let read: Vec<_> = read(&path, format).into_iter().map(|row| row.map(|d| d.operation).map_err(|r| r.code)).collect();
        assert_eq!(read, [Ok(Operation::Upsert), Ok(Operation::Delete), Ok(Operation::Upsert), Err("unknown_operation")]);
    }
    let format = RowFormat { operation: OperationOf::Field("op".into()), ..RowFormat::new("things", field).time_column("at") };
    let error = open(&path, None, format, ARRIVED, Limits::default()).map(|_| ()).unwrap_err();
    assert!(error.code == "missing_column" && error.message.contains("no column `op`"), "{error}");
}
