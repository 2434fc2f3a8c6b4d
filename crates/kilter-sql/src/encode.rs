//! Values between Arrow and PostgreSQL: types, rows in text and in binary, and parameters.

use std::fmt::Write;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use pgwire::api::Type;

use crate::error::{BAD_VALUE, Result, SqlError, UNSUPPORTED};

/// Microseconds and days from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The type that clients are told.
pub fn pg_type(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Type::INT8,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Type::BYTEA,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Time32(_) | DataType::Time64(_) => Type::TIME,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => Type::INTERVAL,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Dictionary(_, value) => pg_type(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
            match pg_type(item.data_type()) {
                Type::BOOL => Type::BOOL_ARRAY,
                Type::INT2 => Type::INT2_ARRAY,
                Type::INT4 => Type::INT4_ARRAY,
                Type::INT8 => Type::INT8_ARRAY,
                Type::FLOAT4 => Type::FLOAT4_ARRAY,
                Type::FLOAT8 => Type::FLOAT8_ARRAY,
                Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
                Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
                Type::DATE => Type::DATE_ARRAY,
                _ => Type::TEXT_ARRAY,
            }
        }
        _ => Type::TEXT,
    }
}

/// The columns of a batch, ready to be written value by value.
pub struct Columns(Vec<Source>);

enum Source {
    Null,
    Bool(BooleanArray),
    Int2(Int16Array),
    Int4(Int32Array),
    Int8(Int64Array),
    Float4(Float32Array),
    Float8(Float64Array),
    Text(StringArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray, bool),
    Interval(IntervalMonthDayNanoArray),
    /// Digits as text.
    Numeric(StringArray),
    List(ListArray, Type, Box<Source>),
    /// Numbers that are told as oids.
    Oid(Int64Array),
    /// Arrays that are texts already, with the type of their items and where they are counted from.
    Listed(StringArray, Type, i32),
}

impl Columns {
    pub fn of(batch: &RecordBatch) -> Result<Columns> {
        batch.columns().iter().map(Source::of).collect::<Result<_>>().map(Columns)
    }

    /// As clients were told that the columns are: those of the catalogue are of types that Arrow does not have.
    pub fn told(batch: &RecordBatch, types: &[Type]) -> Result<Columns> {
        batch.columns().iter().zip(types).map(|(array, told)| Source::of(array)?.told(told)).collect::<Result<_>>().map(Columns)
    }

    /// Writes a value with its length.
    pub fn write(&self, column: usize, row: usize, binary: bool, out: &mut BytesMut) -> Result<()> {
        self.0[column].write(row, binary, out)
    }

    /// A value as text; none: null.
    pub fn text(&self, column: usize, row: usize) -> Option<String> {
        let source = &self.0[column];
        (!source.is_null(row)).then(|| source.text(row))
    }

    /// Writes a value as JSON, so that readers whose numbers are floats lose nothing.
    pub fn json(&self, column: usize, row: usize, out: &mut String) {
        let source = &self.0[column];
        if source.is_null(row) {
            return out.push_str("null");
        }
        let text = source.text(row);
        let is_bare = match source {
            Source::Bool(a) => return out.push_str(if a.value(row) { "true" } else { "false" }),
            Source::Int2(_) | Source::Int4(_) | Source::Oid(_) => true,
            Source::Int8(a) => a.value(row).unsigned_abs() <= 1 << 53,
            Source::Float4(a) => a.value(row).is_finite(),
            Source::Float8(a) => a.value(row).is_finite(),
            Source::Numeric(_) => text.bytes().filter(u8::is_ascii_digit).count() <= 15,
            _ => false,
        };
        if is_bare {
            return out.push_str(&text);
        }
        let text = match source {
            Source::Timestamp(..) => text.replacen(' ', "T", 1).replace("+00", "Z"),
            _ => text,
        };
        // A text is written whatever it holds.
        out.push_str(&serde_json::to_string(&text).unwrap_or_default());
    }
}

/// A value that does not fit is an error, and no null.
fn cast(array: &dyn Array, to: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

fn failed(e: impl std::fmt::Display) -> SqlError {
    SqlError::new(BAD_VALUE, e.to_string())
}

impl Source {
    fn of(array: &ArrayRef) -> Result<Source> {
        let cast = |to: DataType| cast(array, &to).map_err(failed);
        Ok(match array.data_type() {
            DataType::Null => Source::Null,
            DataType::Boolean => Source::Bool(array.as_boolean().clone()),
            DataType::Int16 => Source::Int2(array.as_primitive::<Int16Type>().clone()),
            DataType::Int8 | DataType::UInt8 => Source::Int2(cast(DataType::Int16)?.as_primitive::<Int16Type>().clone()),
            DataType::Int32 => Source::Int4(array.as_primitive::<Int32Type>().clone()),
            DataType::UInt16 => Source::Int4(cast(DataType::Int32)?.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => Source::Int8(array.as_primitive::<Int64Type>().clone()),
            DataType::UInt32 | DataType::UInt64 => Source::Int8(cast(DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            DataType::Float32 => Source::Float4(array.as_primitive::<Float32Type>().clone()),
            DataType::Float16 => Source::Float4(cast(DataType::Float32)?.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Source::Float8(array.as_primitive::<Float64Type>().clone()),
            DataType::Utf8 => Source::Text(array.as_string::<i32>().clone()),
            DataType::LargeUtf8 | DataType::Utf8View => Source::Text(cast(DataType::Utf8)?.as_string::<i32>().clone()),
            DataType::Binary => Source::Bytes(array.as_binary::<i32>().clone()),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Source::Bytes(cast(DataType::Binary)?.as_binary::<i32>().clone())
            }
            DataType::Date32 => Source::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Date64 => Source::Date(cast(DataType::Date32)?.as_primitive::<Date32Type>().clone()),
            DataType::Time32(_) | DataType::Time64(_) => {
                Source::Time(cast(DataType::Time64(TimeUnit::Microsecond))?.as_primitive::<Time64MicrosecondType>().clone())
            }
            DataType::Timestamp(_, zone) => {
                let micros = cast(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
                Source::Timestamp(micros.as_primitive::<TimestampMicrosecondType>().clone(), zone.is_some())
            }
            DataType::Interval(_) => {
                Source::Interval(cast(DataType::Interval(IntervalUnit::MonthDayNano))?.as_primitive::<IntervalMonthDayNanoType>().clone())
            }
            DataType::Duration(_) => {
                let micros =
                    cast(DataType::Duration(TimeUnit::Microsecond)).and_then(|d| self::cast(&d, &DataType::Int64).map_err(failed))?;
                let spans = micros
                    .as_primitive::<Int64Type>()
                    .iter()
                    .map(|micros| micros.map(|micros| IntervalMonthDayNanoType::make_value(0, 0, micros.saturating_mul(1000))));
                Source::Interval(spans.collect())
            }
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Source::Numeric(cast(DataType::Utf8)?.as_string::<i32>().clone())
            }
            DataType::Dictionary(_, value) => Source::of(&cast(value.as_ref().clone())?)?,
            DataType::List(_) => {
                let list = array.as_list::<i32>().clone();
                let items = Source::of(list.values())?;
                let item = element(&pg_type(array.data_type()));
                Source::List(list, item, Box::new(items))
            }
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
                Source::of(&cast(DataType::List(Arc::clone(item)))?)?
            }
            // Nested values are told in words.
            _ => {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(array, &options).map_err(failed)?;
                let texts = (0..array.len()).map(|i| (!array.is_null(i)).then(|| formatter.value(i).to_string()));
                Source::Text(texts.collect())
            }
        })
    }

    fn told(self, told: &Type) -> Result<Source> {
        let cast = |array: &Int64Array, to: DataType| cast(array, &to).map_err(failed);
        Ok(match (self, told) {
            (Source::Int8(array), &Type::INT2) => Source::Int2(cast(&array, DataType::Int16)?.as_primitive::<Int16Type>().clone()),
            (Source::Int8(array), &Type::INT4) => Source::Int4(cast(&array, DataType::Int32)?.as_primitive::<Int32Type>().clone()),
            (Source::Int8(array), &Type::OID) => Source::Oid(array),
            (Source::Float8(array), &Type::FLOAT4) => {
                let array = self::cast(&array, &DataType::Float32).map_err(failed)?;
                Source::Float4(array.as_primitive::<Float32Type>().clone())
            }
            (Source::Text(array), &Type::INT2_VECTOR) => Source::Listed(array, Type::INT2, 0),
            (Source::Text(array), &Type::OID_VECTOR) => Source::Listed(array, Type::OID, 0),
            (Source::Text(array), told) if told.name().starts_with('_') => Source::Listed(array, element(told), 1),
            (Source::Text(array), &Type::NUMERIC) => Source::Numeric(array),
            (source @ (Source::Text(_) | Source::Null), _) => source,
            // A parameter that the question does not tell of is text, until it comes.
            (source, told) if *told == Type::TEXT => {
                let texts = (0..source.len()).map(|row| (!source.is_null(row)).then(|| source.text(row)));
                Source::Text(texts.collect())
            }
            (source, _) => source,
        })
    }

    fn len(&self) -> usize {
        match self {
            Source::Null => 0,
            Source::Bool(a) => a.len(),
            Source::Int2(a) => a.len(),
            Source::Int4(a) => a.len(),
            Source::Int8(a) | Source::Oid(a) => a.len(),
            Source::Float4(a) => a.len(),
            Source::Float8(a) => a.len(),
            Source::Text(a) | Source::Numeric(a) | Source::Listed(a, ..) => a.len(),
            Source::Bytes(a) => a.len(),
            Source::Date(a) => a.len(),
            Source::Time(a) => a.len(),
            Source::Timestamp(a, _) => a.len(),
            Source::Interval(a) => a.len(),
            Source::List(a, ..) => a.len(),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Source::Null => true,
            Source::Bool(a) => a.is_null(row),
            Source::Int2(a) => a.is_null(row),
            Source::Int4(a) => a.is_null(row),
            Source::Int8(a) => a.is_null(row),
            Source::Float4(a) => a.is_null(row),
            Source::Float8(a) => a.is_null(row),
            Source::Text(a) | Source::Numeric(a) | Source::Listed(a, ..) => a.is_null(row),
            Source::Oid(a) => a.is_null(row),
            Source::Bytes(a) => a.is_null(row),
            Source::Date(a) => a.is_null(row),
            Source::Time(a) => a.is_null(row),
            Source::Timestamp(a, _) => a.is_null(row),
            Source::Interval(a) => a.is_null(row),
            Source::List(a, ..) => a.is_null(row),
        }
    }

    fn write(&self, row: usize, binary: bool, out: &mut BytesMut) -> Result<()> {
        if self.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        let start = out.len();
        out.put_i32(0);
        match binary {
            true => self.binary(row, out)?,
            false => match self {
                Source::Text(a) => out.put_slice(a.value(row).as_bytes()),
                _ => out.put_slice(self.text(row).as_bytes()),
            },
        }
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    fn binary(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        match self {
            Source::Null => {}
            Source::Bool(a) => out.put_u8(u8::from(a.value(row))),
            Source::Int2(a) => out.put_i16(a.value(row)),
            Source::Int4(a) => out.put_i32(a.value(row)),
            Source::Int8(a) => out.put_i64(a.value(row)),
            Source::Float4(a) => out.put_f32(a.value(row)),
            Source::Float8(a) => out.put_f64(a.value(row)),
            Source::Text(a) => out.put_slice(a.value(row).as_bytes()),
            Source::Bytes(a) => out.put_slice(a.value(row)),
            Source::Date(a) => out.put_i32(a.value(row).saturating_sub(EPOCH_DAYS)),
            Source::Time(a) => out.put_i64(a.value(row)),
            Source::Timestamp(a, _) => out.put_i64(match a.value(row) {
                infinite @ (i64::MAX | i64::MIN) => infinite,
                micros => micros.saturating_sub(EPOCH_MICROS),
            }),
            Source::Interval(a) => {
                let span = a.value(row);
                out.put_i64(span.nanoseconds / 1000);
                out.put_i32(span.days);
                out.put_i32(span.months);
            }
            Source::Numeric(a) => numeric(a.value(row), out)?,
            Source::Oid(a) => out.put_u32(a.value(row) as u32),
            Source::Listed(a, item, first) => listed(a.value(row), item, *first, out)?,
            Source::List(a, item, items) => {
                let offsets = a.value_offsets();
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                if from == to {
                    out.put_slice(&[0; 8]);
                    out.put_u32(item.oid());
                    return Ok(());
                }
                out.put_i32(1);
                out.put_i32(i32::from((from..to).any(|i| items.is_null(i))));
                out.put_u32(item.oid());
                out.put_i32((to - from) as i32);
                out.put_i32(1);
                for i in from..to {
                    items.write(i, true, out)?;
                }
            }
        }
        Ok(())
    }

    fn text(&self, row: usize) -> String {
        match self {
            Source::Null => String::new(),
            Source::Bool(a) => if a.value(row) { "t" } else { "f" }.into(),
            Source::Int2(a) => a.value(row).to_string(),
            Source::Int4(a) => a.value(row).to_string(),
            Source::Int8(a) => a.value(row).to_string(),
            Source::Float4(a) => float(f64::from(a.value(row)), &format!("{:e}", a.value(row)), &a.value(row).to_string(), 6),
            Source::Float8(a) => float(a.value(row), &format!("{:e}", a.value(row)), &a.value(row).to_string(), 15),
            Source::Text(a) | Source::Numeric(a) | Source::Listed(a, ..) => a.value(row).into(),
            Source::Oid(a) => a.value(row).to_string(),
            Source::Bytes(a) => a.value(row).iter().fold(String::from("\\x"), |mut text, byte| {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
            Source::Date(a) => {
                let (day, era) = date(i64::from(a.value(row)));
                day + era
            }
            Source::Time(a) => time(a.value(row)),
            Source::Timestamp(a, zone) => match a.value(row) {
                i64::MAX => "infinity".into(),
                i64::MIN => "-infinity".into(),
                micros => {
                    let (day, era) = date(micros.div_euclid(DAY));
                    format!("{day} {}{}{era}", time(micros.rem_euclid(DAY)), if *zone { "+00" } else { "" })
                }
            },
            Source::Interval(a) => {
                let span = a.value(row);
                interval(span.months, span.days, span.nanoseconds / 1000)
            }
            Source::List(a, _, items) => {
                let offsets = a.value_offsets();
                let texts: Vec<String> = (offsets[row] as usize..offsets[row + 1] as usize)
                    .map(|i| if items.is_null(i) { "NULL".into() } else { array_item(&items.text(i)) })
                    .collect();
                format!("{{{}}}", texts.join(","))
            }
        }
    }
}

/// An array in text, in binary.
fn listed(text: &str, item: &Type, first: i32, out: &mut BytesMut) -> Result<()> {
    let items = match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(inner) => split(inner),
        None => text.split_whitespace().map(|word| Some(word.to_owned())).collect(),
    };
    out.put_i32(i32::from(!items.is_empty()));
    out.put_i32(i32::from(items.iter().any(Option::is_none)));
    out.put_u32(item.oid());
    if items.is_empty() {
        return Ok(());
    }
    out.put_i32(items.len() as i32);
    out.put_i32(first);
    for word in items {
        let Some(word) = word else {
            out.put_i32(-1);
            continue;
        };
        let whole = || word.parse::<i64>().map_err(failed);
        let bytes = match *item {
            Type::INT2 => i16::try_from(whole()?).map_err(failed)?.to_be_bytes().to_vec(),
            Type::INT4 => i32::try_from(whole()?).map_err(failed)?.to_be_bytes().to_vec(),
            Type::OID => u32::try_from(whole()?).map_err(failed)?.to_be_bytes().to_vec(),
            Type::INT8 => whole()?.to_be_bytes().to_vec(),
            _ => word.into_bytes(),
        };
        out.put_i32(bytes.len() as i32);
        out.put_slice(&bytes);
    }
    Ok(())
}

const DAY: i64 = 86_400_000_000;

/// The type of an array's items.
fn item(array: &Type) -> Option<Type> {
    Some(match *array {
        Type::BOOL_ARRAY => Type::BOOL,
        Type::INT2_ARRAY => Type::INT2,
        Type::INT4_ARRAY => Type::INT4,
        Type::INT8_ARRAY => Type::INT8,
        Type::OID_ARRAY => Type::OID,
        Type::FLOAT4_ARRAY => Type::FLOAT4,
        Type::FLOAT8_ARRAY => Type::FLOAT8,
        Type::TIMESTAMPTZ_ARRAY => Type::TIMESTAMPTZ,
        Type::TIMESTAMP_ARRAY => Type::TIMESTAMP,
        Type::DATE_ARRAY => Type::DATE,
        Type::NUMERIC_ARRAY => Type::NUMERIC,
        Type::UUID_ARRAY => Type::UUID,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY | Type::NAME_ARRAY | Type::CHAR_ARRAY => Type::TEXT,
        _ => return None,
    })
}

/// The type of the items of what is known to be an array.
pub fn element(array: &Type) -> Type {
    match *array {
        Type::NAME_ARRAY => Type::NAME,
        Type::CHAR_ARRAY => Type::CHAR,
        Type::VARCHAR_ARRAY => Type::VARCHAR,
        _ => item(array).unwrap_or(Type::TEXT),
    }
}

/// An item of an array in text, in quotes where it needs them.
pub fn array_item(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case("null")
        && !text.chars().any(|x| matches!(x, '{' | '}' | ',' | '"' | '\\') || x.is_whitespace());
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// A number as PostgreSQL writes it: the shortest digits that are the same number, and from `large` digits on with an exponent.
fn float(x: f64, scientific: &str, plain: &str, large: i32) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    match scientific.split_once('e') {
        Some((digits, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..large).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{digits}e{sign}{:02}", exponent.abs())
            }
            _ => plain.into(),
        },
        None => plain.into(),
    }
}

/// A day, counted from 1970, and what stands at the end of a moment before our era.
fn date(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    match year {
        1.. => (format!("{year:04}-{month:02}-{day:02}"), ""),
        _ => (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC"),
    }
}

/// Year, month and day of the proleptic Gregorian calendar: Howard Hinnant's algorithm.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text
}

fn interval(months: i32, days: i32, micros: i64) -> String {
    let mut parts = Vec::new();
    let mut after_minus = false;
    for (n, word) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if n != 0 {
            let sign = if after_minus && n > 0 { "+" } else { "" };
            parts.push(format!("{sign}{n} {word}{}", if n == 1 { "" } else { "s" }));
            after_minus = n < 0;
        }
    }
    if micros != 0 || parts.is_empty() {
        let sign = match () {
            () if micros < 0 => "-",
            () if after_minus => "+",
            () => "",
        };
        parts.push(format!("{sign}{}", time(micros.saturating_abs())));
    }
    parts.join(" ")
}

/// Digits in PostgreSQL's binary form: groups of four.
fn numeric(text: &str, out: &mut BytesMut) -> Result<()> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(SqlError::new(UNSUPPORTED, format!("numeric {text} has no binary form here")));
    }
    let pad = (4 - whole.len() % 4) % 4;
    let mut all = "0".repeat(pad) + whole;
    let mut weight = (all.len() / 4) as i16 - 1;
    all.push_str(fraction);
    all.push_str(&"0".repeat((4 - all.len() % 4) % 4));
    let mut groups: Vec<i16> =
        all.as_bytes().chunks(4).map(|group| group.iter().fold(0, |n, digit| n * 10 + i16::from(digit - b'0'))).collect();
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    out.put_i16(groups.len() as i16);
    out.put_i16(if groups.is_empty() { 0 } else { weight });
    out.put_u16(if negative && !groups.is_empty() { 0x4000 } else { 0 });
    out.put_i16(fraction.len() as i16);
    for group in groups {
        out.put_i16(group);
    }
    Ok(())
}

/// A parameter as a client sent it.
pub fn parameter(bytes: Option<&[u8]>, data_type: &Type, binary: bool) -> Result<ScalarValue> {
    let bad = || SqlError::new(BAD_VALUE, format!("invalid input for a parameter of type {}", data_type.name()));
    let Some(bytes) = bytes else { return Ok(null(data_type)) };
    if !binary {
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        return from_text(text, data_type);
    }
    Ok(match *data_type {
        Type::BOOL => ScalarValue::Boolean(Some(bytes.first().is_some_and(|byte| *byte != 0))),
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::OID => ScalarValue::Int64(Some(i64::from(u32::from_be_bytes(bytes.try_into().map_err(|_| bad())?)))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::DATE => {
            let days = i32::from_be_bytes(bytes.try_into().map_err(|_| bad())?);
            ScalarValue::Date32(Some(days.saturating_add(EPOCH_DAYS)))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let micros = match i64::from_be_bytes(bytes.try_into().map_err(|_| bad())?) {
                infinite @ (i64::MAX | i64::MIN) => infinite,
                micros => micros.saturating_add(EPOCH_MICROS),
            };
            ScalarValue::TimestampMicrosecond(Some(micros), (*data_type == Type::TIMESTAMPTZ).then(|| "UTC".into()))
        }
        Type::TIME => ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(bytes.try_into().map_err(|_| bad())?))),
        Type::INTERVAL => {
            let (micros, rest) = bytes.split_first_chunk().ok_or_else(bad)?;
            let (days, rest) = rest.split_first_chunk().ok_or_else(bad)?;
            let months = i32::from_be_bytes(rest.try_into().map_err(|_| bad())?);
            let nanos = i64::from_be_bytes(*micros).checked_mul(1000).ok_or_else(bad)?;
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNanoType::make_value(months, i32::from_be_bytes(*days), nanos)))
        }
        Type::NUMERIC => from_text(&numeric_text(bytes).ok_or_else(bad)?, data_type)?,
        Type::UUID => {
            if bytes.len() != 16 {
                return Err(bad());
            }
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
            ScalarValue::Utf8(Some(text))
        }
        Type::JSONB => ScalarValue::Utf8(Some(std::str::from_utf8(bytes.get(1..).unwrap_or_default()).map_err(|_| bad())?.to_owned())),
        _ if item(data_type).is_some() => array_parameter(bytes, data_type).ok_or_else(bad)??,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::JSON | Type::XML | Type::UNKNOWN => {
            ScalarValue::Utf8(Some(std::str::from_utf8(bytes).map_err(|_| bad())?.to_owned()))
        }
        // Names of the catalogue's objects are oids.
        _ if data_type.name().starts_with("reg") => {
            ScalarValue::Int64(Some(i64::from(u32::from_be_bytes(bytes.try_into().map_err(|_| bad())?))))
        }
        _ => {
            let message = format!("a parameter of type {} is not read in binary", data_type.name());
            return Err(SqlError::new(UNSUPPORTED, message).hint("send it as text"));
        }
    })
}

fn null(data_type: &Type) -> ScalarValue {
    ScalarValue::try_from(&arrow_type(data_type)).unwrap_or(ScalarValue::Null)
}

/// What a parameter of a type is here.
pub fn arrow_type(data_type: &Type) -> DataType {
    match *data_type {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 | Type::NUMERIC => DataType::Float64,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => match item(data_type) {
            Some(item) => DataType::List(Arc::new(Field::new_list_field(arrow_type(&item), true))),
            None => DataType::Utf8,
        },
    }
}

fn from_text(text: &str, data_type: &Type) -> Result<ScalarValue> {
    let bad = || SqlError::new(BAD_VALUE, format!("invalid input syntax for type {}: \"{text}\"", data_type.name()));
    Ok(match *data_type {
        Type::BOOL => match text.trim().to_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => ScalarValue::Boolean(Some(true)),
            "f" | "false" | "off" | "no" | "n" | "0" => ScalarValue::Boolean(Some(false)),
            _ => return Err(bad()),
        },
        Type::NUMERIC => match text.trim().parse::<i64>() {
            Ok(whole) => ScalarValue::Int64(Some(whole)),
            Err(_) => ScalarValue::Float64(Some(text.trim().parse().map_err(|_| bad())?)),
        },
        Type::TIMESTAMP | Type::TIMESTAMPTZ if infinite(text).is_some() => {
            ScalarValue::TimestampMicrosecond(infinite(text), (*data_type == Type::TIMESTAMPTZ).then(|| "UTC".into()))
        }
        Type::TIMESTAMP
        | Type::TIMESTAMPTZ
        | Type::TIME
        | Type::INTERVAL
        | Type::DATE
        | Type::INT2
        | Type::INT4
        | Type::INT8
        | Type::OID
        | Type::FLOAT4
        | Type::FLOAT8 => {
            let texts = ScalarValue::Utf8(Some(text.trim().to_owned()));
            texts.cast_to(&arrow_type(data_type)).map_err(|_| bad())?
        }
        _ => match item(data_type) {
            Some(item) => {
                let inner = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(bad)?;
                if inner.trim_start().starts_with('{') {
                    return Err(several_dimensions());
                }
                let items = split(inner).into_iter().map(|word| word.map_or_else(|| Ok(null(&item)), |word| from_text(&word, &item)));
                list(items.collect::<Result<_>>()?, &item)?
            }
            None => ScalarValue::Utf8(Some(text.to_owned())),
        },
    })
}

/// The moments before and after all others.
fn infinite(text: &str) -> Option<i64> {
    match text.trim().to_lowercase().as_str() {
        "infinity" => Some(i64::MAX),
        "-infinity" => Some(i64::MIN),
        _ => None,
    }
}

fn several_dimensions() -> SqlError {
    SqlError::new(UNSUPPORTED, "arrays have one dimension here")
}

/// Items that are all of one type, as an array wants them.
fn list(items: Vec<ScalarValue>, item: &Type) -> Result<ScalarValue> {
    let data_type = arrow_type(item);
    let items: Vec<ScalarValue> = items.iter().map(|value| value.cast_to(&data_type)).collect::<std::result::Result<_, _>>()?;
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&items, &data_type)))
}

/// The items of an array in text.
fn split(text: &str) -> Vec<Option<String>> {
    let mut items = Vec::new();
    let (mut item, mut quoted, mut was_quoted) = (String::new(), false, false);
    let mut rest = text.chars();
    let mut end = |item: &mut String, was_quoted: &mut bool| {
        let word = std::mem::take(item);
        let is_null = !std::mem::take(was_quoted) && word.eq_ignore_ascii_case("null");
        items.push((!is_null).then_some(word));
    };
    if text.is_empty() {
        return Vec::new();
    }
    while let Some(x) = rest.next() {
        match x {
            '\\' => item.extend(rest.next()),
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => end(&mut item, &mut was_quoted),
            x => item.push(x),
        }
    }
    end(&mut item, &mut was_quoted);
    items
}

fn array_parameter(bytes: &[u8], data_type: &Type) -> Option<Result<ScalarValue>> {
    let item = element(data_type);
    let int = |at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut items = Vec::new();
    if int(0)? > 1 {
        return Some(Err(several_dimensions()));
    }
    if int(0)? > 0 {
        let (count, mut at) = (usize::try_from(int(12)?).ok()?, 20);
        for _ in 0..count.min(bytes.len()) {
            let length = int(at)?;
            at += 4;
            let value = match usize::try_from(length) {
                Ok(length) => {
                    let value = bytes.get(at..at.checked_add(length)?)?;
                    at += length;
                    Some(value)
                }
                Err(_) => None,
            };
            match parameter(value, &item, true) {
                Ok(value) => items.push(value),
                Err(e) => return Some(Err(e)),
            }
        }
    }
    Some(list(items, &item))
}

fn numeric_text(bytes: &[u8]) -> Option<String> {
    let short = |at: usize| Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (count, weight, sign, scale) = (short(0)?, short(2)?, short(4)?, short(6)?);
    if sign != 0 && sign != 0x4000 {
        return Some("NaN".into());
    }
    let group = |place: i32| -> Option<i16> {
        match place {
            place if (0..i32::from(count)).contains(&place) => short(8 + 2 * place as usize),
            _ => Some(0),
        }
    };
    let mut whole = String::new();
    for place in 0..=i32::from(weight) {
        let _ = write!(whole, "{:04}", group(place)?);
    }
    let mut fraction = String::new();
    let mut place = i32::from(weight) + 1;
    while fraction.len() < usize::try_from(scale).ok()? {
        let _ = write!(fraction, "{:04}", group(place)?);
        place += 1;
    }
    fraction.truncate(scale as usize);
    let whole = whole.trim_start_matches('0');
    let sign = if sign == 0 { "" } else { "-" };
    let dot = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{}{dot}{fraction}", if whole.is_empty() { "0" } else { whole }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other way round.
    fn days(year: i64, month: i64, day: i64) -> i64 {
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    #[test]
    fn times_are_written_as_postgresql_writes_them() {
        assert_eq!(date(0), ("1970-01-01".into(), ""));
        assert_eq!(date(days(2024, 2, 29)), ("2024-02-29".into(), ""));
        assert_eq!(date(days(0, 1, 1)), ("0001-01-01".into(), " BC"));
        for day in (-800_000..800_000).step_by(997) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
        assert_eq!(time(3_723_000_500), "01:02:03.0005");
        assert_eq!(interval(14, 1, 1_500_000), "1 year 2 mons 1 day 00:00:01.5");
        assert_eq!(interval(0, 0, 0), "00:00:00");
        assert_eq!(interval(-1, 1, 1), "-1 mons +1 day 00:00:00.000001");
        assert_eq!(interval(1, -1, 3_600_000_000), "1 mon -1 days +01:00:00");
        assert_eq!(interval(0, 0, -1_000_000), "-00:00:01");
        let moments = TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN, days(-43, 3, 15) * DAY]);
        let told = Source::Timestamp(moments, true);
        assert_eq!([told.text(0), told.text(1), told.text(2)], ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC"]);
    }

    #[test]
    fn numbers_are_written_as_postgresql_writes_them() {
        let text = |x: f64| float(x, &format!("{x:e}"), &x.to_string(), 15);
        let cases =
            [(1.0, "1"), (0.1, "0.1"), (1e15, "1e+15"), (123_456_789_012_345.0, "123456789012345"), (1e-5, "1e-05"), (0.0001, "0.0001")];
        for (x, expected) in cases {
            assert_eq!(text(x), expected);
        }
        assert_eq!(float(1e6, &format!("{:e}", 1e6_f32), &1e6_f32.to_string(), 6), "1e+06");
        assert_eq!((text(f64::NAN), text(f64::NEG_INFINITY)), ("NaN".into(), "-Infinity".into()));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_no_null() {
        let array: ArrayRef = Arc::new(datafusion::arrow::array::UInt64Array::from(vec![u64::MAX]));
        assert!(Source::of(&array).is_err());
    }

    #[test]
    fn numerics_come_back_from_binary() {
        for text in ["0", "1", "-1", "12345.678", "-0.0001", "10000", "99999999999999999999.5", "0.00010000"] {
            let mut bytes = BytesMut::new();
            numeric(text, &mut bytes).unwrap();
            assert_eq!(numeric_text(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn parameters_are_read_in_both_forms() {
        let read = |text: &str, data_type: Type| parameter(Some(text.as_bytes()), &data_type, false).unwrap();
        assert_eq!(read("7", Type::INT4), ScalarValue::Int32(Some(7)));
        assert_eq!(
            read("2000-01-01 00:00:01+00", Type::TIMESTAMPTZ),
            ScalarValue::TimestampMicrosecond(Some(EPOCH_MICROS + 1_000_000), Some("UTC".into()))
        );
        assert_eq!(parameter(Some(&7i64.to_be_bytes()), &Type::INT8, true).unwrap(), ScalarValue::Int64(Some(7)));
        assert_eq!(parameter(None, &Type::INT8, true).unwrap(), ScalarValue::Int64(None));
        assert_eq!(parameter(Some(b"x"), &Type::INT8, true).unwrap_err().code, BAD_VALUE);
        let span = [&1_000_000_i64.to_be_bytes()[..], &2_i32.to_be_bytes(), &3_i32.to_be_bytes()].concat();
        let day = IntervalMonthDayNanoType::make_value(3, 2, 1_000_000_000);
        assert_eq!(parameter(Some(&span), &Type::INTERVAL, true).unwrap(), ScalarValue::IntervalMonthDayNano(Some(day)));
        assert_eq!(parameter(Some(&5_i64.to_be_bytes()), &Type::TIME, true).unwrap(), ScalarValue::Time64Microsecond(Some(5)));
        assert_eq!(parameter(Some(&[0; 12]), &Type::TIMETZ, true).unwrap_err().code, UNSUPPORTED);
        assert_eq!(read("1 day", Type::INTERVAL), ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNanoType::make_value(0, 1, 0))));
        assert!(matches!(read("infinity", Type::TIMESTAMPTZ), ScalarValue::TimestampMicrosecond(Some(i64::MAX), _)));
        assert!(
            matches!(read("{1,2.5,NULL}", Type::NUMERIC_ARRAY), ScalarValue::List(list) if list.value(0).data_type() == &DataType::Float64)
        );
        assert_eq!(parameter(Some(b"{{1,2},{3,4}}"), &Type::INT4_ARRAY, false).unwrap_err().code, UNSUPPORTED);
        assert_eq!(split(r#"a,"b, c",NULL,"null""#), [Some("a".into()), Some("b, c".into()), None, Some("null".into())]);
    }
}
