//! Rows of a statement, as they come.

use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::error::{CANCELED, Result, SqlError};
use crate::work::{Task, Threads, ended_badly, late};

/// Rows that nobody reads for so long are given up, with the memory and threads that they hold.
const UNREAD: Duration = Duration::from_secs(300);

/// Rows, as they come; dropped, the statement ends.
pub struct Answer {
    pub schema: SchemaRef,
    batches: mpsc::Receiver<RecordBatch>,
    /// How the statement ended; none: that is known already.
    outcome: Option<oneshot::Receiver<Result<()>>>,
    /// Why there are no more rows, for whoever asks again.
    failed: Option<SqlError>,
    /// Time that the engine may still take.
    left: Duration,
    task: Option<Task<()>>,
}

impl Answer {
    /// Rows that are made on these threads. `left`: the time that they may take; `place`: what the statement takes up meanwhile.
    pub(crate) fn of(stream: SendableRecordBatchStream, threads: &Threads, left: Duration, place: OwnedSemaphorePermit) -> Answer {
        let schema = stream.schema();
        let (tx, batches) = mpsc::channel(2);
        let (ended, outcome) = oneshot::channel();
        let task = threads.spawn(async move {
            let _place = place;
            // Nobody may wait for it any more.
            let _ = ended.send(forward(stream, tx, left).await);
        });
        Answer { schema, batches, outcome: Some(outcome), failed: None, left, task: Some(task) }
    }

    /// One batch that is known already.
    pub(crate) fn fixed(batch: RecordBatch) -> Answer {
        let (tx, batches) = mpsc::channel(1);
        let schema = batch.schema();
        // The channel is new and has room.
        let _ = tx.try_send(batch);
        Answer { schema, batches, outcome: None, failed: None, left: Duration::MAX, task: None }
    }

    /// The next rows; none: that was all.
    ///
    /// # Errors
    /// As the statement has it; its time is up. What its reader takes does not count, but for rows that are left lying.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let next = self.awaited().await;
        self.failed = next.as_ref().err().cloned();
        next
    }

    async fn awaited(&mut self) -> Result<Option<RecordBatch>> {
        let begun = Instant::now();
        let next = timeout(self.left, self.batches.recv()).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        match next {
            Ok(Some(batch)) => Ok(Some(batch)),
            Ok(None) => match self.outcome.take() {
                // A statement whose end is not told has not ended well, however many rows there were.
                Some(outcome) => outcome.await.unwrap_or_else(|_| Err(ended_badly("it was given up"))).map(|()| None),
                None => Ok(None),
            },
            Err(_) => {
                self.batches.close();
                (self.outcome, self.task) = (None, None);
                Err(late())
            }
        }
    }
}

/// Hands on rows as long as somebody reads them.
async fn forward(mut stream: SendableRecordBatchStream, rows: mpsc::Sender<RecordBatch>, mut left: Duration) -> Result<()> {
    loop {
        let begun = Instant::now();
        let next = tokio::select! {
            () = rows.closed() => return Ok(()),
            next = timeout(left, stream.next()) => next.map_err(|_| late())?,
        };
        left = left.saturating_sub(begun.elapsed());
        let Some(batch) = next.transpose()? else { return Ok(()) };
        if left.is_zero() {
            return Err(late());
        }
        match timeout(UNREAD, rows.send(batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                let message = format!("nobody read the rows of the statement for {} seconds", UNREAD.as_secs());
                return Err(SqlError::new(CANCELED, message).hint("fetch sooner, or ask again"));
            }
        }
    }
}
