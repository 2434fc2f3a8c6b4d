//! What is written is read back, value by value, whatever the format.

use std::io::{self, Cursor, Write};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_ipc::reader::FileReader;
use kilter_connect::{FileFormat, Limits, RowFormat, TableFormat, TableWriter, columns_of, open};
use kilter_core::{DataType, EventTime, Schema, Value};
use proptest::prelude::*;

fn value(data_type: DataType) -> BoxedStrategy<Value> {
    let plain = match data_type {
        DataType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        DataType::Int64 => any::<i64>().prop_map(Value::Int).boxed(),
        DataType::Float64 => any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float).boxed(),
        // An empty text cannot be told from null in CSV.
        DataType::String => "[ -~äß\n\"]{1,20}".prop_map(|s| Value::text(&s)).boxed(),
        DataType::NumberList | DataType::TextList | DataType::NumberMap => unreachable!("no column has it"),
        DataType::Timestamp => (EventTime::EARLIEST.0..EventTime::LATEST.0).prop_map(|t| Value::Time(EventTime(t))).boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 5 => plain].boxed()
}

fn table() -> impl Strategy<Value = (Schema, Vec<Vec<Value>>)> {
    proptest::collection::vec(proptest::sample::select(DataType::COLUMNS.to_vec()), 2..7).prop_flat_map(|types| {
        let schema = Schema::new(types.iter().enumerate().map(|(i, t)| (format!("c.{i}"), *t)));
        let row = types.into_iter().map(value).collect::<Vec<_>>();
        (Just(schema), proptest::collection::vec(row, 0..40))
    })
}

fn written(schema: &Schema, rows: &[Vec<Value>], format: TableFormat) -> Vec<u8> {
    let metadata = [("kilter.mode".to_string(), "replay".to_string())];
    let mut writer = TableWriter::create(Vec::new(), format, schema, &metadata).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read_back((schema, rows) in table()) {
        for format in TableFormat::ALL {
            let bytes = written(&schema, &rows, format);
            prop_assert_eq!(&bytes, &written(&schema, &rows, format), "the same rows, other bytes");
            if format == TableFormat::Arrow {
                let read = of_arrow(&schema, bytes);
                prop_assert_eq!(read.len(), rows.len());
                for (a, b) in read.iter().flatten().zip(rows.iter().flatten()) {
                    prop_assert!(a.same_bits(b), "arrow: {a:?} against {b:?}");
                }
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(format!("table.{}", format.name()));
            std::fs::write(&path, &bytes).unwrap();
            let reader = open(&path, None, RowFormat::new("table", schema.clone()), EventTime(0), Limits::default()).unwrap();
            let read: Vec<Vec<Value>> = reader.map(|row| row.unwrap().row).collect();
            prop_assert_eq!(read.len(), rows.len());
            for (a, b) in read.iter().flatten().zip(rows.iter().flatten()) {
                prop_assert!(a.same_bits(b), "{}: {a:?} against {b:?}", format.name());
            }
            if format == TableFormat::Parquet {
                prop_assert_eq!(columns_of(&path, FileFormat::Parquet).unwrap(), schema.clone());
            }
        }
    }
}

/// The rows of a file in Arrow's format, as another reader of it would take them.
fn of_arrow(schema: &Schema, bytes: Vec<u8>) -> Vec<Vec<Value>> {
    let file = FileReader::try_new(Cursor::new(bytes), None).unwrap();
    assert_eq!(file.schema().metadata()["kilter.mode"], "replay");
    let names: Vec<String> = file.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, schema.fields.iter().map(|f| f.name.clone()).collect::<Vec<_>>());
    let mut rows = Vec::new();
    for batch in file {
        let batch = batch.unwrap();
        let columns = schema.fields.iter().zip(batch.columns());
        let columns: Vec<_> = columns.map(|(field, column)| (field.data_type, column)).collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|(data_type, column)| cell(*data_type, column, row)).collect()));
    }
    rows
}

fn cell(data_type: DataType, column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match data_type {
        DataType::Bool => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::String => Value::text(column.as_string::<i32>().value(row)),
        DataType::Timestamp => Value::Time(EventTime(column.as_primitive::<TimestampMicrosecondType>().value(row))),
        DataType::NumberList => Value::numbers(column.as_list::<i32>().value(row).as_primitive::<Float64Type>().values().to_vec()),
        DataType::TextList => Value::texts(column.as_list::<i32>().value(row).as_string::<i32>().iter().flatten()),
        DataType::NumberMap => {
            let entries = column.as_map().value(row);
            let keys = entries.column(0).as_string::<i32>().iter().flatten().map(str::to_string).collect::<Vec<_>>();
            let values = entries.column(1).as_primitive::<Float64Type>().values().to_vec();
            Value::map(keys.iter().map(String::as_str).zip(values))
        }
    }
}

#[test]
fn row_groups_are_bounded_by_rows_and_by_bytes() {
    let groups = |schema: &Schema, row: Vec<Value>, rows: usize| {
        let mut out = TableWriter::create(Vec::new(), TableFormat::Parquet, schema, &[]).unwrap();
        (0..rows).for_each(|_| out.push(&row).unwrap());
        let file = bytes_as_file(&out.finish().unwrap());
        use parquet::file::reader::FileReader;
        parquet::file::reader::SerializedFileReader::new(file).unwrap().num_row_groups()
    };
    let narrow = Schema::new([("x", DataType::Int64)]);
    assert_eq!(groups(&narrow, vec![Value::Int(1)], 128 * 1024), 1);
    assert_eq!(groups(&narrow, vec![Value::Int(1)], 128 * 1024 + 1), 2);
    // Texts of a mebibyte: a group of 64 MiB holds not quite 64 of them.
    let wide = Schema::new([("s", DataType::String)]);
    assert_eq!(groups(&wide, vec![Value::text(&"x".repeat(1 << 20))], 65), 2);
}

#[test]
fn arrow_batches_are_bounded_by_rows_and_by_bytes() {
    let batches = |schema: &Schema, row: Vec<Value>, rows: usize| {
        let mut out = TableWriter::create(Vec::new(), TableFormat::Arrow, schema, &[]).unwrap();
        (0..rows).for_each(|_| out.push(&row).unwrap());
        FileReader::try_new(Cursor::new(out.finish().unwrap()), None).unwrap().num_batches()
    };
    let narrow = Schema::new([("x", DataType::Int64)]);
    assert_eq!(batches(&narrow, vec![Value::Int(1)], 64 * 1024), 1);
    assert_eq!(batches(&narrow, vec![Value::Int(1)], 64 * 1024 + 1), 2);
    let wide = Schema::new([("s", DataType::String)]);
    assert_eq!(batches(&wide, vec![Value::text(&"x".repeat(1 << 20))], 65), 2);
}

fn bytes_as_file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A disk with room for so many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = bytes.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_as_such_and_a_row_of_another_shape_is_refused() {
    let schema = Schema::new([("x", DataType::Float64), ("s", DataType::String)]);
    for format in TableFormat::ALL {
        for room in [0, 10, 300] {
            let fill = || -> io::Result<()> {
                let mut out = TableWriter::create(Disk(room), format, &schema, &[])?;
                for i in 0..20_000 {
                    out.push(&[Value::Float(f64::from(i).sqrt()), Value::text(&i.to_string())])?;
                }
                out.finish().map(|_| ())
            };
            assert_eq!(fill().unwrap_err().kind(), io::ErrorKind::StorageFull, "{} with {room} bytes", format.name());
        }
        let mut out = TableWriter::create(Vec::new(), format, &schema, &[]).unwrap();
        assert!(out.push(&[Value::Null]).is_err());
        assert!(out.push(&[Value::text("x"), Value::Null]).unwrap_err().to_string().contains("column `x` is float64"));
    }
}

#[test]
fn lists_and_maps_are_nested_in_arrow_and_json_elsewhere() {
    let schema = Schema::new([("n", DataType::NumberList), ("t", DataType::TextList), ("m", DataType::NumberMap)]);
    let rows = vec![
        vec![Value::numbers([1.0, 2.5]), Value::texts(["a\"b"]), Value::map([("card", 3.0)])],
        vec![Value::numbers([]), Value::Null, Value::map::<&str>([])],
    ];
    let lines = String::from_utf8(written(&schema, &rows, TableFormat::Ndjson)).unwrap();
    assert_eq!(lines, "{\"n\":[1.0,2.5],\"t\":[\"a\\\"b\"],\"m\":{\"card\":3.0}}\n{\"n\":[],\"t\":null,\"m\":{}}\n");
    let text = String::from_utf8(written(&schema, &rows, TableFormat::Csv)).unwrap();
    assert_eq!(text, "n,t,m\n\"[1.0,2.5]\",\"[\"\"a\\\"\"b\"\"]\",\"{\"\"card\"\":3.0}\"\n[],,{}\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, written(&schema, &rows, TableFormat::Parquet)).unwrap();
    let format = RowFormat::new("s", Schema::new([("n", DataType::String), ("t", DataType::String), ("m", DataType::String)]));
    let read: Vec<Vec<Value>> = open(file.path(), Some(FileFormat::Parquet), format, EventTime(0), Limits::default())
        .unwrap()
        .map(|row| row.unwrap().row)
        .collect();
    assert_eq!(read[0], [Value::text("[1.0,2.5]"), Value::text("[\"a\\\"b\"]"), Value::text("{\"card\":3.0}")]);
    assert_eq!(read[1], [Value::text("[]"), Value::Null, Value::text("{}")]);
    assert_eq!(of_arrow(&schema, written(&schema, &rows, TableFormat::Arrow)), rows);
}
