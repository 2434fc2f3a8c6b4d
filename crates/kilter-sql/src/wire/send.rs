//! What goes out to a client: rows, one by one or as COPY has them.

use bytes::{BufMut, Bytes, BytesMut};
use futures::channel::oneshot;
use futures::sink::{Sink, SinkExt};
use pgwire::api::Type;
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::data::RowDescription;
use pgwire::messages::response::CommandComplete;

use super::rows::{Rows, fields, is_name};
use crate::command::{CopyFormat, CopyKind};
use crate::error::{self, SqlError};

pub fn complete(tag: impl Into<String>) -> PgWireBackendMessage {
    PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.into()))
}

pub fn described(columns: &[(String, Type)], binary: &[bool]) -> PgWireBackendMessage {
    let fields = fields(columns, binary);
    PgWireBackendMessage::RowDescription(RowDescription::new(fields.iter().map(Into::into).collect()))
}

/// Sends up to `most` rows; how many, and whether there may be more.
pub async fn send<C>(
    client: &mut C,
    rows: &mut Rows,
    binary: &[bool],
    most: usize,
    cancel: &mut oneshot::Receiver<()>,
) -> PgWireResult<(usize, bool)>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut sent = 0;
    while sent < most {
        let Some(row) = rows.row(binary, cancel).await? else { return Ok((sent, false)) };
        client.feed(PgWireBackendMessage::DataRow(row)).await?;
        sent += 1;
    }
    Ok((sent, true))
}

/// Passes over up to `most` rows; how many.
pub async fn pass(rows: &mut Rows, most: usize, cancel: &mut oneshot::Receiver<()>) -> PgWireResult<usize> {
    let mut passed = 0;
    while passed < most && rows.row(&[], cancel).await?.is_some() {
        passed += 1;
    }
    Ok(passed)
}

/// Sends all rows as COPY does; how many.
pub async fn copy<C>(client: &mut C, rows: &mut Rows, format: CopyFormat, cancel: &mut oneshot::Receiver<()>) -> PgWireResult<usize>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let width = rows.columns.len();
    let is_binary = format.kind == CopyKind::Binary;
    if is_binary && let Some((name, _)) = rows.columns.iter().find(|(_, told)| is_name(told)) {
        return Err(SqlError::new(error::UNSUPPORTED, format!("column \"{name}\" has no binary form here")).into());
    }
    let code = i16::from(is_binary);
    let response = CopyOutResponse::new(code as i8, width as i16, vec![code; width]);
    client.feed(PgWireBackendMessage::CopyOutResponse(response)).await?;
    let mut out = BytesMut::new();
    let mut sent = 0;
    if is_binary {
        out.put_slice(b"PGCOPY\n\xff\r\n\0");
        out.put_slice(&[0; 8]);
    }
    if format.header {
        let names = rows.columns.iter().map(|(name, _)| Some(name.clone())).collect();
        out.put_slice(line(&format, names).as_bytes());
    }
    loop {
        if is_binary {
            let start = out.len();
            out.put_i16(width as i16);
            if !rows.write(&vec![true; width], cancel, &mut out).await? {
                out.truncate(start);
                out.put_i16(-1);
                break;
            }
        } else {
            let Some(texts) = rows.texts(cancel).await? else { break };
            out.put_slice(line(&format, texts).as_bytes());
        }
        sent += 1;
        // Clients count on a message for each row.
        if !out.is_empty() {
            client.feed(PgWireBackendMessage::CopyData(CopyData::new(out.split().freeze()))).await?;
        }
    }
    if !out.is_empty() {
        client.feed(PgWireBackendMessage::CopyData(CopyData::new(Bytes::from(out)))).await?;
    }
    client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
    Ok(sent)
}

/// A row as COPY writes it.
fn line(format: &CopyFormat, texts: Vec<Option<String>>) -> String {
    let delimiter = format.delimiter.to_string();
    let text = |text: Option<String>| match (format.kind, text) {
        (_, None) => format.null.clone(),
        (CopyKind::Csv, Some(text)) => {
            // What null stands for is a text only in quotes.
            let is_plain = text != format.null && !text.contains(['"', '\n', '\r', format.delimiter]);
            if is_plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
        }
        (_, Some(text)) => {
            let escaped = text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
            if format.delimiter == '\t' { escaped } else { escaped.replace(format.delimiter, &format!("\\{delimiter}")) }
        }
    };
    texts.into_iter().map(text).collect::<Vec<_>>().join(&delimiter) + "\n"
}
