//! What other programs wrote is read as they meant it, and damage is told of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kilter_connect::{Decoded, Limits, OperationOf, RowFormat, UnknownFields, decode_message};
use kilter_core::{DataType, EventTime, Field, Operation, Schema as Columns, Value};
use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Value as Proto};
use serde_json::Value as Json;

use super::shape::Kind;
use super::text::{Place, Text};
use super::{Decoder, How, avro, json_schema, message_path, protobuf};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    schema: String,
    #[serde(default)]
    references: Vec<(String, String)>,
    file: Option<String>,
    message: Option<String>,
    record: String,
    json: Json,
}

static CASES: LazyLock<Vec<Case>> =
    LazyLock::new(|| serde_json::from_str(&std::fs::read_to_string(folder().join("cases.json")).unwrap()).unwrap());

impl Case {
    fn how(&self) -> How {
        match (&self.file, &self.message) {
            (Some(file), Some(message)) => How::Protobuf(protobuf::Schema::open(&folder().join(file)).unwrap().message(message).unwrap()),
            _ => {
                let references: Vec<String> = self.references.iter().map(|(_, text)| text.clone()).collect();
                How::Avro(avro::Schema::parse(&self.schema, &references).unwrap())
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        (0..self.record.len()).step_by(2).map(|at| u8::from_str_radix(&self.record[at..at + 2], 16).unwrap()).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn text(how: &How, bytes: &[u8], place: Place<'_>) -> Result<Vec<u8>, String> {
    match how {
        How::Avro(schema) => schema.decode(bytes, place),
        How::Protobuf(message) => message.decode(bytes, place),
        How::Plain | How::Framed(..) => unreachable!("of no case"),
    }
}

/// Numbers by their value: `1.0` and `1` are one, and what does not fit 64 bits is a float.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b))),
        _ => a == b,
    }
}

#[test]
fn records_of_other_programs_are_read_as_they_meant_them() {
    assert!(CASES.len() > 200);
    for case in CASES.iter() {
        let text = text(&case.how(), &case.bytes(), Place::Value(None)).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let read: Json = serde_json::from_slice(&text).unwrap();
        assert!(same(&read, &case.json), "{}:\n{read}\n{}\nby {}", case.name, case.json, case.schema);
    }
}

#[test]
fn a_record_is_all_of_its_bytes() {
    for case in CASES.iter().filter(|case| case.file.is_none()) {
        let (how, mut bytes) = (case.how(), case.bytes());
        bytes.push(0);
        let problem = text(&how, &bytes, Place::Value(None)).unwrap_err();
        assert!(problem.contains("left over"), "{}: {problem}", case.name);
    }
}

fn columns(of: &[(&str, DataType)]) -> Columns {
    Columns { fields: of.iter().map(|(name, data_type)| Field { name: (*name).to_owned(), data_type: *data_type }).collect() }
}

#[test]
fn a_change_in_debeziums_envelope_is_a_row_with_its_times_and_decimals() {
    let types = [
        ("id", DataType::Int64),
        ("owner", DataType::String),
        ("opened", DataType::Timestamp),
        ("changed", DataType::Timestamp),
        ("balance", DataType::String),
        ("__ts_ms", DataType::Timestamp),
    ];
    let mut format = RowFormat::new("accounts", columns(&types)).time_column("changed");
    format.operation = OperationOf::Debezium;
    format.key = vec![0];
    for (name, operation) in [("debezium create", Operation::Upsert), ("debezium delete", Operation::Delete)] {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let decoder = Decoder(case.how());
        let decoded = decoder.decode(Some(&case.bytes()), None, &format, EventTime(0)).unwrap().unwrap();
        assert_eq!(decoded.operation, operation);
        let at = EventTime::parse("2026-03-01T12:00:00.25Z").unwrap();
        let row = [
            Value::Int(7),
            Value::text("ada"),
            Value::Time(EventTime::parse("2026-01-31T00:00:00Z").unwrap()),
            Value::Time(at),
            Value::text("12.50"),
            Value::Time(at),
        ];
        assert_eq!((decoded.row.as_slice(), decoded.time), (row.as_slice(), at), "{name}");
        assert_eq!(decoder.decode(None, None, &format, EventTime(0)), Ok(None), "a tombstone tells of no row");
        let How::Avro(schema) = case.how() else { panic!() };
        let shape = schema.shape(true);
        assert_eq!(shape.told()["balance"], "decimal(12, 2) or null");
        assert_eq!(shape.type_of("opened"), Some((Kind::Date, "date")));
    }
}

#[test]
fn the_envelope_may_be_a_message_too() {
    let text = r#"syntax = "proto3"; message Envelope {
        message Value { int64 id = 1; optional string owner = 2; }
        Value before = 1; Value after = 2; string op = 3; optional int64 ts_ms = 4; }"#;
    let message = protobuf::Schema::parse(text, &BTreeMap::new()).unwrap().message("Envelope").unwrap();
    assert_eq!(message.shape(true).told()["id"], "int64");
    let mut format = RowFormat::new("accounts", columns(&[("id", DataType::Int64), ("owner", DataType::String)]));
    (format.operation, format.key) = (OperationOf::Debezium, vec![0]);
    let row = [8, 7, 0x12, 3, b'a', b'd', b'a'];
    for (field, op, operation) in [(0x12, b'u', Operation::Upsert), (0x0a, b'd', Operation::Delete)] {
        let bytes = [&[field, row.len() as u8][..], &row, &[0x1a, 1, op, 0x20, 5]].concat();
        let decoded = Decoder(How::Protobuf(message.clone())).decode(Some(&bytes), None, &format, EventTime(0)).unwrap().unwrap();
        assert_eq!((decoded.row, decoded.operation), (vec![Value::Int(7), Value::text("ada")], operation));
    }
}

#[test]
fn columns_take_what_loses_nothing_and_refuse_the_rest() {
    let schema = r#"{"type": "record", "name": "P", "fields": [
        {"name": "n", "type": "int"}, {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "more", "type": "string"}]}"#;
    let bytes = [&[14][..], &[0x80, 0x8c, 0xd2, 0xf0, 0xdc, 0x66], &[2, b'x']].concat();
    let read = |types: &[(&str, DataType)], unknown| {
        let mut format = RowFormat::new("p", columns(types));
        format.unknown = unknown;
        Decoder(How::Avro(avro::Schema::parse(schema, &[]).unwrap())).decode(Some(&bytes), None, &format, EventTime(0))
    };
    let keep = UnknownFields::Keep;
    let row = |types: &[(&str, DataType)]| read(types, keep).unwrap().unwrap();
    let decoded = row(&[("n", DataType::Float64), ("when", DataType::Timestamp), ("gone", DataType::String)]);
    assert_eq!(decoded.row[0], Value::Float(7.0));
    assert!(matches!(decoded.row[1], Value::Time(_)), "{decoded:?}");
    assert_eq!(decoded.row[2], Value::Null, "what the writer does not have is null");
    assert_eq!(decoded.extra.as_deref(), Some(r#"{"more":"x"}"#));
    let millis = row(&[("when", DataType::Int64)]).row[0].clone();
    let Value::Time(time) = decoded.row[1] else { unreachable!() };
    assert_eq!(millis, Value::Int(time.0 / 1000));
    assert_eq!(read(&[("n", DataType::Int64)], UnknownFields::Ignore).unwrap().unwrap().extra, None);
    let refused = read(&[("n", DataType::Int64), ("when", DataType::Timestamp)], UnknownFields::Reject).unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref(), refused.payload_base64), ("unknown_field", Some("more"), false));
    let refused = read(&[("n", DataType::String)], keep).unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), ("wrong_type", Some("n")));
    assert!(serde_json::from_str::<Json>(&refused.payload).is_ok(), "what could be read is kept as text: {}", refused.payload);
}

/// What `kilter check` says of types is what becomes of their values.
#[test]
fn a_type_that_is_said_to_be_read_is_read_and_no_other() {
    let text = [&[20][..], b"2026-01-31"].concat();
    for (schema, bytes) in [
        (r#""null""#, &[][..]),
        (r#""boolean""#, &[1]),
        (r#""long""#, &[14]),
        (r#""double""#, &2.0f64.to_le_bytes()),
        (r#""string""#, &text),
        (r#"["null", "string"]"#, &[&[2], &text[..]].concat()),
        (r#"{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}"#, &[2, 70]),
        (r#"{"type": "int", "logicalType": "date"}"#, &[14]),
        (r#"{"type": "int", "logicalType": "time-millis"}"#, &[14]),
        (r#"{"type": "long", "logicalType": "timestamp-micros"}"#, &[14]),
        (r#"{"type": "array", "items": "long"}"#, &[0]),
        (r#"{"type": "map", "values": "long"}"#, &[0]),
    ] {
        let record = format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "a", "type": {schema}}}]}}"#);
        let schema = avro::Schema::parse(&record, &[]).unwrap();
        let shape = schema.shape(false);
        let (kind, _) = shape.type_of("a").unwrap();
        let decoder = Decoder(How::Avro(schema));
        for (_, data_type) in TYPES {
            let format = RowFormat::new("r", columns(&[("a", data_type)]));
            let read = decoder.decode(Some(bytes), None, &format, EventTime(0));
            assert_eq!(read.is_ok(), kind.reads_as(data_type), "{record} as {data_type}: {read:?}");
        }
    }
}

#[test]
fn schemas_that_are_wrong_are_told_of() {
    let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(100), "}".repeat(100));
    for (schema, problem) in [
        ("{", "the schema is not JSON"),
        (r#""nothing""#, "no type is named `nothing`"),
        (r#"{"type":"record","name":"R","fields":[{"name":"a","type":"b"}]}"#, "field `a`: no type is named `b`"),
        (
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}"#,
            "two fields of a record are named `a`",
        ),
        (r#"["null",["int"]]"#, "a union stands in a union"),
        (r#"{"type":"enum","name":"E"}"#, "a type \"enum\" says no `symbols`"),
        (r#"[{"type":"fixed","name":"F","size":1},{"type":"fixed","name":"F","size":2}]"#, "two types are named `F`"),
        (&deep, "nested deeper"),
    ] {
        let found = avro::Schema::parse(schema, &[]).unwrap_err();
        assert!(found.contains(problem), "{schema}: {found}");
    }
    let of = |text: &str| protobuf::Schema::parse(text, &BTreeMap::new()).map(|_| ()).unwrap_err();
    assert!(of("syntax = \"proto3\"; message A { B b = 1; }").contains("does not compile"));
    assert!(of("syntax = \"proto3\"; import \"other.proto\";").contains("does not compile"));
    let built_in =
        "syntax = \"proto3\"; import \"confluent/meta.proto\"; import \"confluent/type/decimal.proto\"; import \"google/type/date.proto\";
                    message A { confluent.type.Decimal d = 1 [(confluent.field_meta) = { doc: \"x\" }]; google.type.Date on = 2; }";
    let message = protobuf::Schema::parse(built_in, &BTreeMap::new()).unwrap().message("A").unwrap();
    // d = { value: 0x04e2, scale: 2 }, on = { year: 2026, month: 1, day: 31 }
    let bytes = [0x0a, 6, 0x0a, 2, 0x04, 0xe2, 0x18, 2, 0x12, 7, 0x08, 0xea, 0x0f, 0x10, 1, 0x18, 31];
    let text = message.decode(&bytes, Place::Value(None)).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), r#"{"d":12.50,"on":"2026-01-31"}"#);
}

#[test]
fn bytes_that_would_ask_for_the_world_are_refused() {
    let nulls = avro::Schema::parse(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    // A block of 2^40 nulls.
    let bytes = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0];
    assert!(nulls.decode(&bytes, Place::Value(None)).unwrap_err().contains(&format!("more than {} values", Text::MAX_VALUES)));
    let long = format!(r#"{{"type":"array","items":{{"type":"enum","name":"E","symbols":["{}"]}}}}"#, "x".repeat(1 << 12));
    let names = [&[0x80, 0x80, 0x80, 0x01][..], &vec![0; 1 << 20]].concat();
    assert!(avro::Schema::parse(&long, &[]).unwrap().decode(&names, Place::Value(None)).unwrap_err().contains("more than 64 MiB of text"));
    let list = avro::Schema::parse(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#, &[]).unwrap();
    assert!(list.decode(&[2; 1000], Place::Value(None)).unwrap_err().contains("nested deeper"));
    let itself = avro::Schema::parse(r#"{"type":"record","name":"L","fields":[{"name":"l","type":"L"}]}"#, &[]).unwrap();
    assert!(itself.decode(&[], Place::Value(None)).unwrap_err().contains("nested deeper"));
    let text = avro::Schema::parse(r#""string""#, &[]).unwrap();
    for (bytes, problem) in [
        (&[0xfe, 0xff, 0xff, 0xff, 0x0f][..], "ends within a value"),
        (&[1], "-1 is no length"),
        (&[2, 0xff], "not UTF-8"),
        (&[0xff; 11], "more than ten bytes"),
    ] {
        let found = text.decode(bytes, Place::Value(None)).unwrap_err();
        assert!(found.contains(problem), "{bytes:?}: {found}");
    }
}

#[test]
fn message_indexes_are_those_of_the_registrys_serializers() {
    assert_eq!(message_path(&[0, 9]), Some((vec![0], 1)));
    assert_eq!(message_path(&[2, 2, 9]), Some((vec![1], 2)));
    assert_eq!(message_path(&[4, 2, 0]), Some((vec![1, 0], 3)));
    for broken in [&[][..], &[2], &[0x80], &[1], &[0xfe, 0xff, 0xff, 0xff, 0x0f]] {
        assert_eq!(message_path(broken), None, "{broken:?}");
    }
}

#[test]
fn the_fields_of_a_json_schema_are_found() {
    let text = r##"{"type": "object", "properties": {
        "card": {"type": "integer"}, "note": {"oneOf": [{"type": "null"}, {"type": "string"}]}, "to": {"$ref": "#/definitions/Address"},
        "way": {"enum": ["a", 1]}, "far": {"$ref": "other.json"}, "tags": {"type": ["array", "null"]}},
        "definitions": {"Address": {"type": "object", "properties": {"city": {"type": "string"}, "of": {"$ref": "#/definitions/Address"}}}}}"##;
    let shape = json_schema::shape(text, false).unwrap();
    let told = shape.told();
    assert_eq!((told["card"].as_str(), told["note"].as_str(), told["to"].as_str()), ("integer", "string or null", "object"));
    assert_eq!((told["to.city"].as_str(), told["way"].as_str(), told["far"].as_str()), ("string", "enum", "a type of another schema"));
    assert_eq!(told["tags"], "array or null");
    assert!(shape.type_of("card").unwrap().0.reads_as(DataType::Float64) && !shape.type_of("note").unwrap().0.reads_as(DataType::Bool));
    let enveloped = format!(r#"{{"properties": {{"op": {{"type": "string"}}, "after": {{"oneOf": [{{"type": "null"}}, {text}]}}}}}}"#);
    assert!(json_schema::shape(&enveloped, true).unwrap().type_of("card").is_some());
}

const TYPES: [(&str, DataType); 5] =
    [("n", DataType::Int64), ("x", DataType::Float64), ("s", DataType::String), ("b", DataType::Bool), ("t", DataType::Timestamp)];
const AVRO: &str = r#"{"type": "record", "name": "Row", "fields": [
    {"name": "n", "type": ["null", "long"]}, {"name": "x", "type": ["null", "double"]}, {"name": "s", "type": ["null", "string"]},
    {"name": "b", "type": ["null", "boolean"]}, {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}]}"#;
const PROTO: &str = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto";
    message Row { optional int64 n = 1; optional double x = 2; optional string s = 3; optional bool b = 4; google.protobuf.Timestamp t = 5; }"#;

fn rows() -> impl Strategy<Value = Vec<Value>> {
    use proptest::option::of;
    let micros = -60_000_000_000_000_000i64..250_000_000_000_000_000;
    (of(any::<i64>()), of(any::<f64>().prop_filter("a number", |x| x.is_finite())), of(".{0,20}"), of(any::<bool>()), of(micros)).prop_map(
        |(n, x, s, b, t)| {
            let or_null = |value: Option<Value>| value.unwrap_or(Value::Null);
            vec![
                or_null(n.map(Value::Int)),
                or_null(x.map(Value::Float)),
                or_null(s.map(|s| Value::text(&s))),
                or_null(b.map(Value::Bool)),
                or_null(t.map(|t| Value::Time(EventTime(t)))),
            ]
        },
    )
}

fn zigzag(n: i64, out: &mut Vec<u8>) {
    let mut n = ((n << 1) ^ (n >> 63)) as u64;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn as_avro(row: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in row {
        zigzag(i64::from(!value.is_null()), &mut out);
        match value {
            Value::Null => {}
            Value::Int(n) => zigzag(*n, &mut out),
            Value::Float(x) => out.extend_from_slice(&x.to_le_bytes()),
            Value::Text(s) => {
                zigzag(s.len() as i64, &mut out);
                out.extend_from_slice(s.as_bytes());
            }
            Value::Bool(b) => out.push(u8::from(*b)),
            Value::Time(t) => zigzag(t.0, &mut out),
            other => panic!("{other}"),
        }
    }
    out
}

fn as_protobuf(row: &[Value]) -> Vec<u8> {
    let schema = protobuf::Schema::parse(PROTO, &BTreeMap::new()).unwrap();
    let mut message = DynamicMessage::new(schema.message("Row").unwrap().descriptor().clone());
    for ((name, _), value) in TYPES.iter().zip(row) {
        let value = match value {
            Value::Null => continue,
            Value::Int(n) => Proto::I64(*n),
            Value::Float(x) => Proto::F64(*x),
            Value::Text(s) => Proto::String(s.to_string()),
            Value::Bool(b) => Proto::Bool(*b),
            Value::Time(t) => {
                let field = message.get_field_by_name(name).unwrap();
                let mut time = field.as_message().unwrap().clone();
                time.set_field_by_name("seconds", Proto::I64(t.0.div_euclid(1_000_000)));
                time.set_field_by_name("nanos", Proto::I32(t.0.rem_euclid(1_000_000) as i32 * 1_000));
                Proto::Message(time)
            }
            other => panic!("{other}"),
        };
        message.set_field_by_name(name, value);
    }
    message.encode_to_vec()
}

fn as_json(row: &[Value]) -> Vec<u8> {
    kilter_connect::row_to_json(&columns(&TYPES), row).to_string().into_bytes()
}

fn read(how: How, bytes: &[u8]) -> Decoded {
    let format = RowFormat::new("rows", columns(&TYPES));
    Decoder(how).decode(Some(bytes), None, &format, EventTime(0)).unwrap().unwrap()
}

proptest! {
    #[test]
    fn a_row_comes_out_the_same_whatever_it_was_written_in(row in rows()) {
        let format = RowFormat::new("rows", columns(&TYPES));
        let of_json = decode_message(&as_json(&row), &format, EventTime(0), &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(&of_json.row, &row);
        let of_avro = read(How::Avro(avro::Schema::parse(AVRO, &[]).unwrap()), &as_avro(&row));
        prop_assert_eq!(&of_avro, &of_json);
        let message = protobuf::Schema::parse(PROTO, &BTreeMap::new()).unwrap().message("Row").unwrap();
        prop_assert_eq!(&read(How::Protobuf(message), &as_protobuf(&row)), &of_json);
    }

    #[test]
    fn damage_is_told_of_and_never_worse(which in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let case = which.get(&CASES);
        let mut bytes = case.bytes();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        if let Ok(text) = text(&case.how(), &bytes, Place::Value(None)) {
            prop_assert!(serde_json::from_slice::<Json>(&text).is_ok(), "what is written is JSON: {:?}", String::from_utf8_lossy(&text));
        }
    }
}
