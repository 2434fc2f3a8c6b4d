//! Files as streams of typed rows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use kilter_core::EventTime;

use crate::body::Elements;
use crate::codecs::csv::CsvRows;
use crate::codecs::json::{JsonRows, Place, strip_bom};
use crate::codecs::parquet::ParquetRows;
use crate::error::{ConnectError, Rejection};
use crate::format::{Decoded, Limits, OperationOf, RowFormat, UnknownFields};

/// The formats a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// One object or an array of objects; the whole file is held in memory.
    Json,
    /// One object per line.
    Ndjson,
    Csv,
    Parquet,
}

/// How long a file is, in the unit of [`FileReader::position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    Rows(u64),
    Bytes(u64),
}

/// A file being read: an iterator of rows. After a rejection with the code `unreadable_file` it ends.
pub struct FileReader {
    format: RowFormat,
    arrived: EventTime,
    rows: Rows,
    total: Total,
    notes: Vec<String>,
}

enum Rows {
    Lines(Lines),
    Array(Array),
    Csv(Box<CsvRows<File>>),
    Parquet(Box<ParquetRows>),
}

struct Lines {
    input: BufReader<File>,
    limits: Limits,
    line: usize,
    bytes: u64,
    ready: VecDeque<Result<Decoded, Rejection>>,
    ignored: u64,
    over: bool,
}

struct Array {
    text: Vec<u8>,
    limits: Limits,
    at: usize,
    row: usize,
    ready: VecDeque<Result<Decoded, Rejection>>,
    ignored: u64,
    over: bool,
}

/// JSON rows are decoded this many at a time, so that their scratch space is shared.
const BATCH: usize = 256;

impl FileFormat {
    pub const ALL: [FileFormat; 4] = [FileFormat::Json, FileFormat::Ndjson, FileFormat::Csv, FileFormat::Parquet];

    pub fn name(self) -> &'static str {
        match self {
            FileFormat::Json => "json",
            FileFormat::Ndjson => "ndjson",
            FileFormat::Csv => "csv",
            FileFormat::Parquet => "parquet",
        }
    }

    /// The format of that name, or of a file with that extension (`jsonl` and `pq` too).
    pub fn parse(name: &str) -> Option<FileFormat> {
        match name.to_ascii_lowercase().as_str() {
            "json" => Some(FileFormat::Json),
            "ndjson" | "jsonl" => Some(FileFormat::Ndjson),
            "csv" => Some(FileFormat::Csv),
            "parquet" | "pq" => Some(FileFormat::Parquet),
            _ => None,
        }
    }
}

/// Opens a file; without `file_format` its extension tells it. `arrived`: when its rows count as arrived.
///
/// # Errors
/// `file_not_found` (with the nearest name in the folder), `unknown_format`, `unreadable_file`, `wrong_format` (an envelope is JSON), and for tables `bad_header`, `missing_column`,
/// `column_type`, `not_parquet`.
pub fn open(
    path: &Path,
    file_format: Option<FileFormat>,
    format: RowFormat,
    arrived: EventTime,
    limits: Limits,
) -> Result<FileReader, ConnectError> {
    let what = path.display().to_string();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let file = File::open(path).map_err(|e| cannot_open(path, &e))?;
    let metadata = file.metadata().map_err(|e| cannot_open(path, &e))?;
    if metadata.is_dir() {
        return Err(ConnectError::new("unreadable_file", format!("{what} is a folder")).hint("name one file"));
    }
    let Some(file_format) = file_format.or_else(|| FileFormat::parse(extension)) else {
        let names = kilter_core::list(FileFormat::ALL.map(FileFormat::name));
        let packed = matches!(extension, "gz" | "zst" | "zip" | "bz2" | "xz");
        let hint = if packed { "unpack it first".to_owned() } else { format!("name the format: {names}") };
        return Err(ConnectError::new("unknown_format", format!("{what}: the extension `{extension}` names no known format")).hint(hint));
    };
    if format.operation == OperationOf::Debezium && matches!(file_format, FileFormat::Csv | FileFormat::Parquet) {
        let message = format!("{what}: Debezium's envelope, in which source `{}` takes its changes, is JSON", format.source);
        return Err(ConnectError::new("wrong_format", message).hint("write the messages as NDJSON, one on each line"));
    }
    let bytes = Total::Bytes(metadata.len());
    let mut notes = Vec::new();
    let (rows, total) = match file_format {
        FileFormat::Ndjson => {
            let input = BufReader::with_capacity(1 << 16, file);
            (Rows::Lines(Lines { input, limits, line: 0, bytes: 0, ready: VecDeque::new(), ignored: 0, over: false }), bytes)
        }
        FileFormat::Json => {
            let mut text = Vec::new();
            let mut file = file;
            file.read_to_end(&mut text).map_err(|e| cannot_open(path, &e))?;
            (Rows::Array(Array { text, limits, at: 0, row: 0, ready: VecDeque::new(), ignored: 0, over: false }), bytes)
        }
        FileFormat::Csv => {
            let rows = CsvRows::new(file, &format, &what)?;
            note_absent(&mut notes, &what, &rows.absent, &format);
            (Rows::Csv(Box::new(rows)), bytes)
        }
        FileFormat::Parquet => {
            let rows = ParquetRows::new(file, &format, &what)?;
            note_absent(&mut notes, &what, &rows.absent, &format);
            if format.unknown == UnknownFields::Keep && !rows.skipped.is_empty() {
                let names = kilter_core::list(rows.skipped.iter().map(String::as_str));
                notes.push(format!("{what}: columns that are lists or have no plain value are left out: {names}"));
            }
            let total = Total::Rows(rows.total());
            (Rows::Parquet(Box::new(rows)), total)
        }
    };
    Ok(FileReader { format, arrived, rows, total, notes })
}

impl FileReader {
    /// The length of the file.
    pub fn total(&self) -> Total {
        self.total
    }

    /// How far the reading is, in the unit of [`FileReader::total`].
    pub fn position(&self) -> u64 {
        match &self.rows {
            Rows::Lines(lines) => lines.bytes,
            Rows::Array(array) => array.at as u64,
            Rows::Csv(rows) => rows.position(),
            Rows::Parquet(rows) => rows.position(),
        }
    }

    /// Messages so far that tell of no row: see [`crate::Body::ignored`].
    pub fn ignored(&self) -> u64 {
        match &self.rows {
            Rows::Lines(lines) => lines.ignored,
            Rows::Array(array) => array.ignored,
            Rows::Csv(_) | Rows::Parquet(_) => 0,
        }
    }

    /// What a person should know of the file: declared columns it lacks, columns that cannot be kept.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Iterator for FileReader {
    type Item = Result<Decoded, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Rows::Lines(lines) => lines.next_row(&self.format, self.arrived),
            Rows::Array(array) => array.next_row(&self.format, self.arrived),
            Rows::Csv(rows) => rows.next_row(&self.format, self.arrived),
            Rows::Parquet(rows) => rows.next_row(&self.format, self.arrived),
        }
    }
}

impl Lines {
    fn next_row(&mut self, format: &RowFormat, arrived: EventTime) -> Option<Result<Decoded, Rejection>> {
        if self.ready.is_empty() && !self.over {
            self.fill(format, arrived);
        }
        self.ready.pop_front()
    }

    fn fill(&mut self, format: &RowFormat, arrived: EventTime) {
        let mut rows = JsonRows::new(format, arrived, &self.limits);
        let mut line = Vec::new();
        while self.ready.len() < BATCH {
            line.clear();
            // One byte more than a line may have tells a line that is too long from one that just fits.
            match (&mut self.input).take(self.limits.max_line as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) => {
                    self.over = true;
                    return;
                }
                Ok(n) => self.bytes += n as u64,
                Err(e) => {
                    self.over = true;
                    let message = format!("reading stopped after line {}: {e}", self.line);
                    self.ready.push_back(Err(Rejection::new("unreadable_file", message, b"", self.line)));
                    return;
                }
            }
            self.line += 1;
            if line.len() > self.limits.max_line && line.last() != Some(&b'\n') {
                let message = format!("line {}: longer than {} bytes", self.line, self.limits.max_line);
                let rejection =
                    Rejection::new("row_too_long", message, &line, self.line).hint("one object per line; is the file one JSON array?");
                self.ready.push_back(Err(rejection));
                match skip_line(&mut self.input) {
                    Ok(skipped) => self.bytes += skipped,
                    Err(_) => self.over = true,
                }
                continue;
            }
            let text = if self.line == 1 { strip_bom(&line) } else { &line };
            let text = text.trim_ascii_end();
            if !text.trim_ascii().is_empty() {
                match rows.decode(text, Place::Line(self.line), self.line).transpose() {
                    Some(row) => self.ready.push_back(row),
                    None => self.ignored += 1,
                }
            }
        }
    }
}

/// Passes over the rest of a line without holding it; the number of bytes passed.
fn skip_line(input: &mut BufReader<File>) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let (n, found) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(n);
        skipped += n as u64;
        if found {
            return Ok(skipped);
        }
    }
}

impl Array {
    fn next_row(&mut self, format: &RowFormat, arrived: EventTime) -> Option<Result<Decoded, Rejection>> {
        if self.ready.is_empty() && !self.over {
            self.fill(format, arrived);
        }
        self.ready.pop_front()
    }

    fn fill(&mut self, format: &RowFormat, arrived: EventTime) {
        let text = strip_bom(&self.text);
        let mut rows = JsonRows::new(format, arrived, &self.limits);
        if !text.trim_ascii_start().starts_with(b"[") {
            self.over = true;
            self.at = self.text.len();
            if !text.trim_ascii().is_empty() {
                match rows.decode(text, Place::Body(text, 0), 0).transpose() {
                    Some(row) => self.ready.push_back(row),
                    None => self.ignored += 1,
                }
            }
            return;
        }
        let mut elements = Elements::resume(text, self.at, self.row);
        while self.ready.len() < BATCH {
            match elements.next() {
                None => {
                    self.over = true;
                    break;
                }
                Some(Err(rejection)) => {
                    self.ready.push_back(Err(rejection));
                    self.over = true;
                    break;
                }
                Some(Ok((start, end))) => {
                    match rows.decode(&text[start..end], Place::Body(text, start), self.row).transpose() {
                        Some(row) => self.ready.push_back(row),
                        None => self.ignored += 1,
                    }
                    self.row += 1;
                }
            }
        }
        self.at = elements.at;
    }
}

fn note_absent(notes: &mut Vec<String>, what: &str, absent: &[usize], format: &RowFormat) {
    if !absent.is_empty() {
        let names = kilter_core::list(absent.iter().filter_map(|&c| format.schema.fields.get(c)).map(|f| f.name.as_str()));
        notes.push(format!("{what}: columns of `{}` that the file lacks are null in every row: {names}", format.source));
    }
}

pub(crate) fn cannot_open(path: &Path, error: &std::io::Error) -> ConnectError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return ConnectError::new("unreadable_file", format!("{}: {error}", path.display()));
    }
    let not_found = ConnectError::new("file_not_found", format!("no file {}", path.display()));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return not_found.hint(format!("there is no folder {}", folder.display()));
    };
    let mut names: Vec<String> = entries.flatten().take(10_000).filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let wanted = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    match kilter_core::nearest(wanted, names.iter().map(String::as_str)) {
        Some(near) => not_found.hint(format!("did you mean {}?", folder.join(near).display())),
        None if names.is_empty() => not_found.hint(format!("{} is empty", folder.display())),
        None => not_found.hint(format!("in {}: {}", folder.display(), kilter_core::list(names.iter().map(String::as_str)))),
    }
}
