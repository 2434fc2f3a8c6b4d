//! The engine as the HTTP server knows it: answers as bytes in the format asked for.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once, PoisonError};

use kilter_server::access::Sight;
use kilter_server::sql::{Answer, Column, Described, Form, Later, Question, ROW_BYTES, Refusal, Sql, Table};
use kilter_sql::{Engine, Format, Rights, Session, SqlError, Writer, arrays};
use kilter_store::threads;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// An engine for the HTTP server, which may serve others beside it. `at_first`: it is told of the first question.
pub fn shared(engine: Arc<Engine>, at_first: fn(&Arc<Engine>)) -> Arc<dyn Sql> {
    Arc::new(Shared { engine, at_first, asked: Once::new() })
}

/// What a key may see, as the engine knows it.
pub fn rights(sight: Sight) -> Rights {
    match sight {
        Sight::Everything => Rights::Everything,
        Sight::Granted(grants) => Rights::Granted(grants),
    }
}

struct Shared {
    engine: Arc<Engine>,
    at_first: fn(&Arc<Engine>),
    asked: Once,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("database", &self.engine.database()).finish_non_exhaustive()
    }
}

impl Sql for Shared {
    fn tables(&self, sight: Sight) -> Later<'_, Vec<Table>> {
        Box::pin(async move {
            let tables = self.engine.tables(&rights(sight)).await.map_err(refusal)?;
            let told = |table: kilter_sql::Described| Table {
                schema: table.schema.into(),
                name: table.name,
                comment: table.comment,
                columns: table.columns.into_iter().map(|(name, data_type, comment)| Described { name, data_type, comment }).collect(),
            };
            Ok(tables.into_iter().map(told).collect())
        })
    }

    fn ask(&self, question: Question) -> Later<'_, Box<dyn Answer>> {
        self.asked.call_once(|| (self.at_first)(&self.engine));
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let here = Handle::current();
            // A plan may take longer to make than threads that serve requests have.
            // Nobody waits for it any more once the sender is dropped, and then it holds its thread no longer.
            let (_waits, gone) = oneshot::channel::<()>();
            let begun = spawn_blocking(move || {
                here.block_on(async {
                    tokio::select! {
                        begun = begin(&engine, question) => Some(begun),
                        _ = gone => None,
                    }
                })
            });
            let begun = begun.await.map(|begun| begun.unwrap_or_else(|| Err(SqlError::new("57014", "nobody waits for the answer"))));
            Ok(Box::new(joined(begun)?.map_err(refusal)?) as Box<dyn Answer>)
        })
    }
}

async fn begin(engine: &Engine, question: Question) -> Result<Told, SqlError> {
    let user = question.user.unwrap_or_else(|| "kilter".into());
    let session = Session::new(user, engine.database(), rights(question.sight));
    let mut prepared = engine.ask(&question.text, &session).await?;
    let batches = match engine.run(&prepared, &session, Vec::new(), question.time).await {
        // Other definitions came in between.
        Err(e) if e.code == "0A000" => {
            prepared = engine.ask(&question.text, &session).await?;
            engine.run(&prepared, &session, Vec::new(), question.time).await?
        }
        begun => begun?,
    };
    let names = prepared.names();
    let columns = names.iter().zip(prepared.types()).map(|(name, told)| Column { name: name.clone(), data_type: told.name().to_owned() });
    let columns = columns.collect();
    let out = Out::default();
    let writer = match question.form {
        Form::Arrays => None,
        Form::Csv => Some(Format::Csv),
        Form::Ndjson => Some(Format::Json),
        Form::Arrow => Some(Format::Arrow),
    };
    let writer = writer.map(|format| Writer::new(out.clone(), format, &batches.schema, &names)).transpose()?;
    Ok(Told { columns, batches, left: question.limit.unwrap_or(usize::MAX), encoder: Some(Encoder { writer, out }) })
}

/// Rows on their way out.
struct Told {
    columns: Vec<Column>,
    batches: kilter_sql::Answer,
    /// Rows that may still be told.
    left: usize,
    /// None: the end is written.
    encoder: Option<Encoder>,
}

impl Answer for Told {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn next(&mut self) -> Later<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            loop {
                let Some(mut encoder) = self.encoder.take() else { return Ok(None) };
                let batch = if self.left == 0 { None } else { self.batches.next().await.map_err(refusal)? };
                let Some(batch) = batch else { return encoder.finish().map_err(refusal) };
                let rows = batch.num_rows().min(self.left);
                self.left -= rows;
                let batch = batch.slice(0, rows);
                let encode = move || {
                    let _computes = threads::computes_meanwhile();
                    encoder.write(&batch).map(|bytes| (encoder, bytes))
                };
                let encoded = spawn_blocking(encode).await;
                let (encoder, bytes) = joined(encoded)?.map_err(refusal)?;
                self.encoder = Some(encoder);
                if bytes.is_some() {
                    return Ok(bytes);
                }
            }
        })
    }
}

/// Makes bytes of rows.
struct Encoder {
    /// None: as arrays in JSON, which need neither a beginning nor an end.
    writer: Option<Writer<Out>>,
    out: Out,
}

impl Encoder {
    fn write(&mut self, batch: &kilter_sql::Batch) -> Result<Option<Vec<u8>>, SqlError> {
        match &mut self.writer {
            None => Ok(Some(arrays(batch, ROW_BYTES)?.into_bytes())),
            Some(writer) => {
                writer.write(batch)?;
                Ok(self.out.take())
            }
        }
    }

    fn finish(&mut self) -> Result<Option<Vec<u8>>, SqlError> {
        if let Some(writer) = &mut self.writer {
            writer.finish()?;
        }
        Ok(self.out.take())
    }
}

/// What was written and not yet sent.
#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Out {
    fn take(&self) -> Option<Vec<u8>> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (!bytes.is_empty()).then_some(bytes)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refusal(e: SqlError) -> Refusal {
    Refusal { sqlstate: e.code, message: e.message, hint: e.hint, position: e.position }
}

fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, Refusal> {
    done.map_err(|e| Refusal { sqlstate: "XX000", message: format!("the statement ended badly: {e}"), hint: None, position: None })
}
