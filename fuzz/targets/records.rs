//! A record of the event log: refused, or an event that is written as the same bytes again.
#![no_main]

use kilter_core::record::{encode, header};
use kilter_core::{SourceId, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&width, bytes)) = data.split_first() else { return };
    let width = usize::from(width) % 12;
    let Ok(Some(header)) = header(bytes) else { return };
    let columns: Vec<Option<usize>> = (0..width).map(Some).collect();
    if let Ok(event) = header.event(SourceId(0), 7, &columns, width) {
        let mut again = Vec::new();
        encode(&event, header.schema, &mut again);
        assert_eq!(bytes, again, "{event:?}");
        assert!(event.row.iter().all(|v| v.same_bits(v)));
    }
    // Columns in another order, and some that are gone, under a schema with fewer columns.
    let moved: Vec<Option<usize>> = (0..width).map(|c| (c % 3 != 0).then_some(width - c)).collect();
    if let Ok(event) = header.event(SourceId(0), 7, &moved, 4) {
        assert_eq!(event.row.len(), 4);
        assert!(event.row[0] == Value::Null || width > 0);
    }
});
