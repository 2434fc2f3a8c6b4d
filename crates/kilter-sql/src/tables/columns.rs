//! Columns of decisions on disk: a full piece of the decision log, as a Parquet file beside it.
//!
//! A file is a function of its piece. It is made when the piece is first asked for or by the keeper ([`Columns::keep`]), and made again when it is gone, damaged, or
//! of other records than the log has now. Rows lie newest first. What is not in it, such as all reasons, is read from the log.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringBuilder};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use kilter_pipeline::decision_id;
use kilter_runtime::Data;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::{Log, Table};
use crate::scan::{Bounds, Emit, Wanted};
use crate::stretches::{PIECE, Piece, Span};

/// The columns that a file has.
const STORED: &[&str] =
    &["decision", "time", "event_offset", "outcome", "rule", "score", "margin", "model", "model_version", "top_reason", "definitions"];
/// Made of two others.
const ID: &str = "decision_id";
/// Rows of one batch.
const BATCH: usize = 8192;
/// For how long nobody tries again to make a file, after one could not be made: the disk may be full.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a file says of itself; another layout has another name.
const FINGERPRINT: &str = "kilter.decisions.1";
const SPAN: &str = "kilter.span";

/// The decisions, by columns where they lie on disk and from the log where they do not.
pub struct Columns {
    listed: Arc<dyn Table>,
    data: Arc<Data>,
    dir: PathBuf,
    /// Position in a file of each column of the table, where it has one.
    stored: Vec<Option<usize>>,
    id: usize,
    files: Arc<Files>,
}

/// What is known of the files, which depend on no definitions.
#[derive(Default)]
pub struct Files {
    /// What they say of themselves, once they were found to be of their pieces.
    known: Mutex<HashMap<u64, ArrowReaderMetadata>>,
    /// Held by who makes one; when one could not be made.
    making: Mutex<Option<Instant>>,
}

impl Columns {
    pub fn of(listed: Arc<dyn Table>, data: &Arc<Data>, files: &Arc<Files>) -> Arc<dyn Table> {
        let schema = listed.schema();
        let stored = schema.fields().iter().map(|field| STORED.iter().position(|name| name == field.name())).collect();
        let id = schema.index_of(ID).unwrap_or(usize::MAX);
        let dir = data.dir.join("columns");
        Arc::new(Columns { data: Arc::clone(data), dir, stored, id, files: Arc::clone(files), listed })
    }

    fn whole_log(&self) -> &Log {
        // The table below is one of a log.
        self.listed.log().expect("decisions come from a log")
    }

    /// The file of a piece, which is made where there is none; none: it cannot be made.
    fn file(&self, records: &Range<u64>) -> anyhow::Result<Option<(File, ArrowReaderMetadata)>> {
        let number = records.start / PIECE;
        let path = self.path(records);
        let known = || self.files.known.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(known) = known()
            && let Ok(file) = File::open(&path)
        {
            return Ok(Some((file, known)));
        }
        let mut failed = self.files.making.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = self.fingerprint(records)?;
        let found = match self.open(&path, &fingerprint, records) {
            Some(found) => found,
            None if failed.is_some_and(|at| at.elapsed() < PATIENCE) => return Ok(None),
            None => {
                if let Err(e) = self.make(&path, &fingerprint, records) {
                    *failed = Some(Instant::now());
                    tracing::warn!(path = %path.display(), error = %format!("{e:#}"), "columns cannot be written; decisions are read from the log");
                    return Ok(None);
                }
                self.open(&path, &fingerprint, records).with_context(|| format!("{} cannot be read", path.display()))?
            }
        };
        self.files.known.lock().unwrap_or_else(PoisonError::into_inner).insert(number, found.1.clone());
        Ok(Some(found))
    }

    /// The same log up to here has the same last record.
    fn fingerprint(&self, records: &Range<u64>) -> anyhow::Result<String> {
        let last = self.data.decisions.read(records.end - 1)?.context("the decision log ends before its last record")?;
        Ok(format!("{}-{}-{:08x}", records.start, records.end, crc32fast::hash(&last)))
    }

    /// A file, if it is what it is to be.
    fn open(&self, path: &PathBuf, fingerprint: &str, records: &Range<u64>) -> Option<(File, ArrowReaderMetadata)> {
        let file = File::open(path).ok()?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).ok()?;
        let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
        let value = |key: &str| pairs.iter().find(|pair| pair.key == key)?.value.as_deref();
        if value(FINGERPRINT)? != fingerprint {
            return None;
        }
        let span: Vec<i64> = value(SPAN)?.split(' ').map(|x| x.parse().ok()).collect::<Option<_>>()?;
        let [first, last, low, high] = span[..] else { return None };
        self.whole_log().stretches.remember(records.clone(), Span { times: (first, last), offsets: (low, high) });
        Some((file, metadata))
    }

    fn make(&self, path: &PathBuf, fingerprint: &str, records: &Range<u64>) -> anyhow::Result<()> {
        let schema = self.listed.schema();
        let columns = STORED.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let mut properties = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0).set_dictionary_enabled(false);
        for name in ["decision", "outcome", "rule", "model", "top_reason", "definitions", "model_version"] {
            properties = properties.set_column_dictionary_enabled((*name).into(), true);
        }
        fs::create_dir_all(&self.dir)?;
        let unfinished = path.with_extension("unfinished");
        let mut writer = ArrowWriter::try_new(File::create(&unfinished)?, Arc::new(schema.project(&columns)?), Some(properties.build()))?;
        let wanted = Wanted {
            columns,
            limit: None,
            bounds: Bounds::default(),
            records: records.clone(),
            may_count: Arc::new(|_| true),
            is_wanted: Arc::new(|| true),
        };
        let mut failed = None;
        self.listed.scan(&wanted, &mut |batch| match writer.write(&batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        let span = self.whole_log().stretches.known(records.clone()).context("not all of the piece was read")?;
        let numbers = [span.times.0, span.times.1, span.offsets.0, span.offsets.1].map(|x| x.to_string());
        writer.append_key_value_metadata(KeyValue::new(FINGERPRINT.to_owned(), fingerprint.to_owned()));
        writer.append_key_value_metadata(KeyValue::new(SPAN.to_owned(), numbers.join(" ")));
        writer.into_inner()?.sync_all()?;
        fs::rename(&unfinished, path)?;
        Ok(())
    }

    /// Hands on the rows of a piece from its file; none: it has none.
    fn by_columns(&self, piece: &Piece, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<Option<ControlFlow<()>>> {
        let records = &piece.records;
        if !records.start.is_multiple_of(PIECE) || records.end != records.start + PIECE {
            return Ok(None);
        }
        let Some((file, metadata)) = self.file(records)? else { return Ok(None) };
        // The file has told more than was known.
        match self.whole_log().pieces(&wanted.bounds, records)?.pop() {
            Some(known) => self.read(&known, file, metadata, wanted, emit).map(Some),
            None => Ok(Some(ControlFlow::Continue(()))),
        }
    }

    fn by_log(&self, piece: Piece, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<ControlFlow<()>> {
        let wanted = Wanted { records: piece.records, limit: None, ..wanted.clone() };
        let mut flow = ControlFlow::Continue(());
        self.listed.scan(&wanted, &mut |batch| {
            flow = emit(batch);
            flow
        })?;
        Ok(flow)
    }

    fn path(&self, records: &Range<u64>) -> PathBuf {
        self.dir.join(format!("decisions-{:08}.parquet", records.start / PIECE))
    }

    /// A file that proved to be damaged.
    fn forget(&self, records: &Range<u64>) {
        self.files.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&(records.start / PIECE));
        // If it stays, it is found to be damaged again.
        let _ = fs::remove_file(self.path(records));
    }

    /// Reads a piece from its file, and hands on the rows within the range of time.
    fn read(
        &self,
        piece: &Piece,
        file: File,
        metadata: ArrowReaderMetadata,
        wanted: &Wanted,
        emit: Emit<'_>,
    ) -> anyhow::Result<ControlFlow<()>> {
        let position = |name: &str| STORED.iter().position(|stored| *stored == name).unwrap_or_default();
        let times = wanted.bounds.range(self.whole_log().time);
        let mut of_file: Vec<usize> = wanted.columns.iter().filter_map(|column| self.stored[*column]).collect();
        if wanted.columns.contains(&self.id) {
            of_file.extend([position("decision"), position("event_offset")]);
        }
        // Something must tell how many rows there are, and which of them count.
        if !piece.is_inside || of_file.is_empty() {
            of_file.push(position("time"));
        }
        of_file.sort_unstable();
        of_file.dedup();
        let place = |name: &str| of_file.binary_search(&position(name)).unwrap_or_default();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), of_file.iter().copied());
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).with_projection(mask).with_batch_size(BATCH).build()?;
        let schema: SchemaRef = Arc::new(self.schema().project(&wanted.columns)?);
        for batch in reader {
            let mut batch = batch?;
            if !piece.is_inside {
                let at = batch.column(place("time")).as_primitive::<TimestampMicrosecondType>();
                let counts: BooleanArray = at.values().iter().map(|at| Some(times.contains(at))).collect();
                batch = filter_record_batch(&batch, &counts)?;
            }
            let column = |column: &usize| -> ArrayRef {
                match self.stored[*column] {
                    Some(stored) => Arc::clone(batch.column(of_file.binary_search(&stored).unwrap_or_default())),
                    None => ids(batch.column(place("decision")), batch.column(place("event_offset"))),
                }
            };
            let columns: Vec<ArrayRef> = wanted.columns.iter().map(column).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            if emit(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The ids of decisions.
fn ids(decision: &ArrayRef, offset: &ArrayRef) -> ArrayRef {
    let (decision, offset) = (decision.as_string::<i32>(), offset.as_primitive::<Int64Type>());
    let mut ids = StringBuilder::new();
    for row in 0..decision.len() {
        ids.append_value(decision_id(decision.value(row), offset.value(row) as u64));
    }
    Arc::new(ids.finish())
}

impl Table for Columns {
    fn schema(&self) -> &SchemaRef {
        self.listed.schema()
    }

    fn narrows(&self, column: &str) -> bool {
        self.listed.narrows(column)
    }

    fn log(&self) -> Option<&Log> {
        self.listed.log()
    }

    fn scan(&self, wanted: &Wanted, emit: Emit<'_>) -> anyhow::Result<()> {
        if !wanted.columns.iter().all(|column| self.stored[*column].is_some() || *column == self.id) {
            return self.listed.scan(wanted, emit);
        }
        let mut left = wanted.limit.unwrap_or(usize::MAX);
        let handed_on = Cell::new(false);
        let mut cut = |batch: RecordBatch| {
            handed_on.set(true);
            let batch = if batch.num_rows() > left { batch.slice(0, left) } else { batch };
            left -= batch.num_rows();
            emit(batch)?;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        for piece in self.whole_log().pieces(&wanted.bounds, &wanted.records)? {
            if !(wanted.is_wanted)() {
                return Ok(());
            }
            if piece.times.is_some_and(|times| !(wanted.may_count)(times)) {
                continue;
            }
            handed_on.set(false);
            let flow = match self.by_columns(&piece, wanted, &mut cut) {
                Ok(Some(flow)) => flow,
                Ok(None) => self.by_log(piece, wanted, &mut cut)?,
                Err(e) if handed_on.get() => return Err(e),
                Err(e) => {
                    tracing::warn!(error = %format!("{e:#}"), "columns cannot be read; they are written anew when they are asked for again");
                    self.forget(&piece.records);
                    self.by_log(piece, wanted, &mut cut)?
                }
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes the newest file that is missing.
    fn keep(&self) -> anyhow::Result<bool> {
        let log = &self.data.decisions;
        let mut high = log.next_offset() / PIECE * PIECE;
        while high >= log.start_offset() + PIECE {
            let records = high - PIECE..high;
            let is_known = self.files.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(records.start / PIECE));
            if !is_known {
                return Ok(self.file(&records)?.is_some());
            }
            high -= PIECE;
        }
        Ok(false)
    }
}
