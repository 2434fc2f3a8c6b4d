//! The columns of a file that no definition describes: their names, and the type that every value of a column has.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use kilter_core::{DataType, Field, Schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::codecs::json::strip_bom;
use crate::codecs::parquet::plain_columns;
use crate::error::ConnectError;
use crate::files::{FileFormat, cannot_open};

/// The columns of a CSV, NDJSON or Parquet file. Of a text file every row is looked at: a column is int64, float64 or bool when all of its
/// values are, else string. A cell such as `007` is text, an empty one says nothing.
///
/// # Errors
/// As those of [`crate::open`], and `malformed_json` with the line.
pub fn columns_of(path: &Path, format: FileFormat) -> Result<Schema, ConnectError> {
    let what = path.display().to_string();
    let file = File::open(path).map_err(|e| cannot_open(path, &e))?;
    let columns = match format {
        FileFormat::Parquet => return plain_columns(file, &what),
        FileFormat::Csv => of_csv(file, &what)?,
        FileFormat::Ndjson => of_ndjson(file, &what)?,
        FileFormat::Json => {
            let error = ConnectError::new("unknown_format", format!("{what}: a JSON array is not read row by row"));
            return Err(error.hint("write one object per line: NDJSON"));
        }
    };
    Ok(Schema { fields: columns.into_iter().map(|(name, kind)| Field { name, data_type: kind.data_type() }).collect() })
}

/// What all values of a column so far are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nothing,
    Bool,
    Int,
    Float,
    Text,
}

impl Kind {
    fn and(self, other: Kind) -> Kind {
        match (self, other) {
            (same, Kind::Nothing) | (Kind::Nothing, same) => same,
            (a, b) if a == b => a,
            (Kind::Int, Kind::Float) | (Kind::Float, Kind::Int) => Kind::Float,
            _ => Kind::Text,
        }
    }

    fn of_cell(text: &str) -> Kind {
        let digits = text.trim_start_matches('-');
        let padded = text != text.trim() || (digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0."));
        match text {
            "" | "nan" | "NaN" | "NAN" => Kind::Nothing,
            "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Kind::Bool,
            _ if padded || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => Kind::Text,
            _ if text.parse::<i64>().is_ok() => Kind::Int,
            _ if text.parse::<f64>().is_ok_and(f64::is_finite) => Kind::Float,
            _ => Kind::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Kind::Bool => DataType::Bool,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Nothing | Kind::Text => DataType::String,
        }
    }
}

fn of_csv(file: File, what: &str) -> Result<Vec<(String, Kind)>, ConnectError> {
    let broken = |e: csv::Error| ConnectError::new("unreadable_file", format!("{what}: {e}"));
    let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).buffer_capacity(1 << 16).from_reader(file);
    let mut record = csv::ByteRecord::new();
    let mut columns: Vec<(String, Kind)> = Vec::new();
    // An empty file and a header that cannot be one are refused by whoever reads the rows.
    if reader.read_byte_record(&mut record).map_err(broken)? {
        for (i, cell) in record.iter().enumerate() {
            let cell = if i == 0 { strip_bom(cell) } else { cell };
            columns.push((String::from_utf8_lossy(cell).trim().to_owned(), Kind::Nothing));
        }
    }
    while reader.read_byte_record(&mut record).map_err(broken)? {
        for ((_, kind), cell) in columns.iter_mut().zip(&record) {
            if *kind != Kind::Text {
                *kind = kind.and(std::str::from_utf8(cell).map_or(Kind::Text, Kind::of_cell));
            }
        }
    }
    Ok(columns)
}

fn of_ndjson(file: File, what: &str) -> Result<Vec<(String, Kind)>, ConnectError> {
    let mut columns: Vec<(String, Kind)> = Vec::new();
    let mut input = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line).map_err(|e| ConnectError::new("unreadable_file", format!("{what}: {e}")))?;
        if read == 0 {
            return Ok(columns);
        }
        number += 1;
        let text = if number == 1 { strip_bom(&line) } else { &line }.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let fields: Fields = serde_json::from_slice(text)
            .map_err(|e| ConnectError::new("malformed_json", format!("{what}, line {number}: {e}")).hint("one JSON object per line"))?;
        for (place, (name, kind)) in fields.0.into_iter().enumerate() {
            // Most lines have their fields in the order of the first.
            let known = columns.get(place).is_some_and(|(n, _)| *n == name);
            match if known { Some(place) } else { columns.iter().position(|(n, _)| *n == name) } {
                Some(at) => columns[at].1 = columns[at].1.and(kind),
                None => columns.push((name, kind)),
            }
        }
    }
}

/// The fields of one object in their order.
struct Fields(Vec<(String, Kind)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let kind = match value {
                        serde_json::Value::Null => Kind::Nothing,
                        serde_json::Value::Bool(_) => Kind::Bool,
                        serde_json::Value::Number(n) if n.is_i64() => Kind::Int,
                        serde_json::Value::Number(_) => Kind::Float,
                        // A nested value is refused when the row is read, with its line.
                        _ => Kind::Text,
                    };
                    fields.push((name, kind));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let format = FileFormat::parse(name.split_once('.').unwrap().1).unwrap();
        let shown = match columns_of(&path, format) {
            Ok(schema) => schema.fields.iter().map(|f| format!("{}={}", f.name, f.data_type)).collect::<Vec<_>>().join(" "),
            Err(e) => e.code.to_owned(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn a_column_has_the_type_that_all_its_values_have() {
        check("a.csv", "a,b,c,d,e\n1,1,true,x,\n2,2.5,False,3,\n", "a=int64 b=float64 c=bool d=string e=string");
        check("a.csv", "zip,n,m,t\n007,-1,0.5,2026-01-31\n123,,nan,2026-02-01\n", "zip=string n=int64 m=float64 t=string");
        check("a.csv", "a\n9223372036854775808\n", "a=float64");
        check("a.ndjson", "{\"b\":1,\"a\":\"x\"}\n\n{\"a\":null,\"b\":2.5,\"c\":true}\n", "b=float64 a=string c=bool");
        check("a.ndjson", "{\"b\":1}\n{\"b\":true}\n", "b=string");
        check("a.ndjson", "{\"b\":1}\n[1]\n", "malformed_json");
        check("a.json", "[]", "unknown_format");
    }
}
