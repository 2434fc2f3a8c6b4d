//! Rows of an answer on their way to a client.

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use futures::channel::oneshot;
use futures::future::{Either, select};
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::messages::data::DataRow;

use crate::answer::Answer;
use crate::encode::Columns;
use crate::error::{CANCELED, Result, SqlError};
use crate::prepared::Prepared;

/// An answer that is read row by row.
pub struct Rows {
    pub columns: Arc<Vec<(String, Type)>>,
    types: Vec<Type>,
    answer: Answer,
    held: Option<(Columns, usize)>,
    next: usize,
}

impl Rows {
    pub fn new(prepared: &Prepared, answer: Answer) -> Rows {
        let types = prepared.types();
        let columns = prepared.names().into_iter().zip(types.iter().cloned()).collect();
        Rows { columns: Arc::new(columns), types, answer, held: None, next: 0 }
    }

    /// Rows of texts that are known already.
    pub fn fixed(names: &[&str], rows: &[Vec<String>]) -> Result<Rows> {
        let schema = Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>());
        let arrays =
            (0..names.len()).map(|i| Arc::new(rows.iter().map(|row| Some(row[i].as_str())).collect::<StringArray>()) as _).collect();
        let batch = RecordBatch::try_new(Arc::new(schema), arrays).map_err(|e| SqlError::new(crate::error::INTERNAL, e.to_string()))?;
        let columns = names.iter().map(|name| ((*name).to_owned(), Type::TEXT)).collect();
        Ok(Rows { columns: Arc::new(columns), types: vec![Type::TEXT; names.len()], answer: Answer::fixed(batch), held: None, next: 0 })
    }

    /// Writes the next row; false: there is none.
    async fn advance(&mut self, cancel: &mut oneshot::Receiver<()>) -> Result<bool> {
        loop {
            if let Some((_, count)) = &self.held
                && self.next < *count
            {
                return Ok(true);
            }
            let next = std::pin::pin!(self.answer.next());
            let batch = match select(next, &mut *cancel).await {
                Either::Left((batch, _)) => batch?,
                Either::Right(_) => return Err(SqlError::new(CANCELED, "canceling statement due to user request")),
            };
            let Some(batch) = batch else {
                self.held = None;
                return Ok(false);
            };
            self.held = Some((Columns::told(&batch, &self.types)?, batch.num_rows()));
            self.next = 0;
        }
    }

    /// The next row as a message; none: that was all.
    pub async fn row(&mut self, binary: &[bool], cancel: &mut oneshot::Receiver<()>) -> Result<Option<DataRow>> {
        let mut out = BytesMut::new();
        match self.write(binary, cancel, &mut out).await? {
            true => Ok(Some(DataRow::new(out, self.types.len() as i16))),
            false => Ok(None),
        }
    }

    /// Writes the values of the next row, each with its length; false: there is none.
    pub async fn write(&mut self, binary: &[bool], cancel: &mut oneshot::Receiver<()>, out: &mut BytesMut) -> Result<bool> {
        if !self.advance(cancel).await? {
            return Ok(false);
        }
        let row = self.next;
        self.next += 1;
        if let Some((columns, _)) = &self.held {
            for (column, binary) in binary.iter().enumerate() {
                columns.write(column, row, *binary, out)?;
            }
        }
        Ok(true)
    }

    /// The values of the next row as texts.
    pub async fn texts(&mut self, cancel: &mut oneshot::Receiver<()>) -> Result<Option<Vec<Option<String>>>> {
        if !self.advance(cancel).await? {
            return Ok(None);
        }
        let row = self.next;
        self.next += 1;
        Ok(self.held.as_ref().map(|(columns, _)| (0..self.types.len()).map(|column| columns.text(column, row)).collect()))
    }
}

/// The columns as a client is told of them.
pub fn fields(columns: &[(String, Type)], binary: &[bool]) -> Vec<FieldInfo> {
    let field = |((name, told), binary): (&(String, Type), &bool)| {
        let format = if *binary { FieldFormat::Binary } else { FieldFormat::Text };
        FieldInfo::new(name.clone(), None, None, told.clone(), format).with_type_size(size(told))
    };
    columns.iter().zip(binary).map(field).collect()
}

/// Which columns are to be in binary.
///
/// # Errors
/// A client that asks for another number of columns.
pub fn binary(format: &Format, columns: &[(String, Type)]) -> Result<Vec<bool>> {
    let count = columns.len();
    let all: Vec<bool> = match format {
        Format::UnifiedText => vec![false; count],
        Format::UnifiedBinary => vec![true; count],
        Format::Individual(formats) if formats.len() == count => formats.iter().map(|format| *format == 1).collect(),
        Format::Individual(formats) => {
            let message = format!("bind message has {} result formats but query has {count} columns", formats.len());
            return Err(SqlError::new("08P01", message));
        }
    };
    // Names of the catalogue's objects have no binary form of their own here.
    Ok(all.into_iter().zip(columns).map(|(binary, (_, told))| binary && !is_name(told)).collect())
}

/// Whether values of a type are told by name.
pub fn is_name(told: &Type) -> bool {
    told.name().starts_with("reg")
}

fn size(told: &Type) -> i16 {
    match *told {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::OID | Type::FLOAT4 | Type::DATE | Type::REGCLASS | Type::REGTYPE | Type::REGPROC => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::INTERVAL | Type::UUID => 16,
        Type::NAME => 64,
        _ => -1,
    }
}
