//! The body of a request in JSON, NDJSON, CSV or Debezium's envelope. The first byte chooses; the rest is the body.
#![no_main]

use kilter_connect::{Decoded, Limits, RowFormat, decode_body, decode_object, row_to_json};
use kilter_core::Operation;
use kilter_fuzz::{ARRIVED, formats};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let format = &formats()[usize::from(*choice) % 4];
    let content = ["application/json", "application/x-ndjson", "text/csv"][usize::from(*choice >> 2) % 3];
    let limits = Limits { max_rows: 500, ..Limits::default() };
    let Ok(decoded) = decode_body(body, Some(content), format, ARRIVED, &limits) else { return };
    assert!(decoded.rows.len() <= limits.max_rows);
    for row in decoded.rows.iter().flatten() {
        check(row, format);
    }
    // One object: what is taken for JSON is JSON to others too.
    if *choice == 0 && decoded.rows.len() == 1 && decoded.rows[0].is_ok() && body.first() == Some(&b'{') {
        let other: Result<serde_json::Value, _> = serde_json::from_slice(body);
        assert!(other.is_ok(), "taken, though it is no JSON: {other:?}");
        let object = decode_object(body, &format.schema, &[], format.unknown, &limits);
        assert!(object.is_ok_and(|o| o.row.iter().zip(&decoded.rows[0].as_ref().unwrap().row).all(|(a, b)| a.same_bits(b))));
    }
});

fn check(decoded: &Decoded, format: &RowFormat) {
    assert_eq!(decoded.row.len(), format.schema.len());
    for (value, field) in decoded.row.iter().zip(&format.schema.fields) {
        assert!(value.is_null() || value.fits(field.data_type), "{} is {value:?}", field.name);
    }
    if let Some(extra) = &decoded.extra {
        let extra: serde_json::Value = serde_json::from_str(extra).expect("what is kept beside the row is JSON");
        assert!(extra.is_object());
    }
    if decoded.operation == Operation::Upsert {
        assert!(format.key.iter().all(|&c| !decoded.row[c].is_null()), "a row without its key");
    }
    // What was taken can be sent again and is the same.
    let again = row_to_json(&format.schema, &decoded.row).to_string();
    let again = decode_object(again.as_bytes(), &format.schema, &[], format.unknown, &Limits::default());
    assert!(again.is_ok_and(|o| o.row.iter().zip(&decoded.row).all(|(a, b)| a.same_bits(b))), "{:?}", decoded.row);
}
