//! A file in Parquet, CSV, NDJSON or JSON. The first byte chooses; the rest is the file.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use kilter_connect::{FileFormat, Limits, columns_of, open};
use kilter_fuzz::{ARRIVED, allow_at_once, formats};
use libfuzzer_sys::fuzz_target;

/// One file for the whole process, in memory where the system has a folder for that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = PathBuf::from("/dev/shm");
    let folder = if shared.is_dir() { shared } else { std::env::temp_dir() };
    folder.join(format!("kilter-fuzz-{}", std::process::id()))
});

fuzz_target!(
    init: {
        // The library asks for what a page's head says the page unpacks to, which the format bounds by 2 GiB. Nothing is written there.
        allow_at_once(2 << 30);
        // The reader of Parquet catches the panics of the library below it: only what comes through to here is a finding.
        std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    },
    |data: &[u8]| {
        let Some((choice, bytes)) = data.split_first() else { return };
        std::fs::write(&*FILE, bytes).expect("the folder for files is writable");
        let file_format = [FileFormat::Parquet, FileFormat::Csv, FileFormat::Ndjson, FileFormat::Json][usize::from(*choice) % 4];
        let format = formats().swap_remove(usize::from(*choice >> 2) % 3);
        let _ = columns_of(&FILE, file_format);
        if let Ok(reader) = open(&FILE, Some(file_format), format.clone(), ARRIVED, Limits::default()) {
            // A file of runs may hold millions of rows in a few bytes.
            for row in reader.take(5_000).flatten() {
                let fits = row.row.iter().zip(&format.schema.fields).all(|(value, field)| value.is_null() || value.fits(field.data_type));
                assert!(fits, "{:?}", row.row);
            }
        }
    }
);
