//! The one task that writes. What has come in while it wrote becomes the next transaction, and every answer waits for its commit.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, QueryBuilder, Sqlite};
use tokio::sync::{mpsc, oneshot};

use super::Tracking;
use super::webhooks::{Announced, Outbox};
use crate::error::{Error, ErrorCode, Result};

/// Writes in one transaction at most.
const BATCH: usize = 256;
/// What the caches hold at most; past it they begin anew.
const CACHED: usize = 50_000;
/// Rows of one INSERT: a few sizes, so that the database has few statements to prepare and each batch needs few of them, because every statement goes to
/// another thread and back.
const ROWS: [usize; 4] = [1000, 100, 10, 1];

pub(super) type Working<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Works with the writer, or says why it is not to.
type Work = Box<dyn for<'a> FnOnce(Result<&'a mut Writer>) -> Working<'a, Done> + Send>;

/// What the task is asked to do.
pub(super) enum Job {
    Write(Work),
    End,
}

/// What came of a write, before it is committed.
pub(super) struct Done {
    /// The database failed, or the work panicked: nothing of the transaction can be relied on.
    spoilt: bool,
    /// Tells whoever waits; none: committed.
    tell: Box<dyn FnOnce(Option<Error>) + Send>,
}

/// The connection that writes, and what it need not ask the database again. A write looks at everything that may forbid it before it changes anything:
/// so one that is refused leaves nothing in the transaction that it shares with others.
pub(super) struct Writer {
    pub connection: SqliteConnection,
    pub announced: Announced,
    runs: HashMap<String, RunKey>,
    keys: HashMap<String, i64>,
}

/// What every write to a run must know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunKey {
    pub id: i64,
    pub experiment: i64,
    pub is_active: bool,
}

impl Tracking {
    /// Has something written, and answers once it is durable.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Writer) -> Working<'a, Result<T>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Job::Write(Box::new(move |writer| {
            Box::pin(async move {
                let result = match writer {
                    Ok(writer) => caught(work(writer)).await,
                    Err(why) => Err(why),
                };
                let spoilt = matches!(&result, Err(e) if matches!(e.code, ErrorCode::InternalError | ErrorCode::TemporarilyUnavailable));
                let tell = move |failed: Option<Error>| {
                    // Nobody to tell: the client is gone.
                    let _ = answer.send(match (failed, result) {
                        (Some(error), Ok(_)) => Err(error),
                        (_, result) => result,
                    });
                };
                Done { spoilt, tell: Box::new(tell) }
            })
        }));
        self.0.jobs.try_send(job).map_err(|_| unavailable("more writes wait than are taken; send again in a moment"))?;
        answered.await.map_err(|_| unavailable("the store is shutting down"))?
    }
}

impl Writer {
    pub fn new(connection: SqliteConnection, outbox: Arc<Outbox>) -> Writer {
        Writer { connection, announced: Announced::to(outbox), runs: HashMap::new(), keys: HashMap::new() }
    }

    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut ended = false;
        while !ended && jobs.recv_many(&mut batch, BATCH).await > 0 {
            let (mut done, mut spoilt) = (Vec::with_capacity(batch.len()), None);
            if let Err(error) = sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await {
                tracing::error!(%error, "the tracking store cannot begin to write");
                spoilt = Some(unavailable("the store cannot write at the moment; send again in a moment"));
            }
            for job in batch.drain(..) {
                match job {
                    // Dropped: whoever waits is told that the store ends.
                    Job::Write(_) if ended => {}
                    Job::Write(work) => {
                        let one = work(spoilt.clone().map_or(Ok(&mut self), Err)).await;
                        if one.spoilt && spoilt.is_none() {
                            spoilt = Some(unavailable("a write that shared a commit with this one failed; send again in a moment"));
                        }
                        done.push(one);
                    }
                    Job::End => ended = true,
                }
            }
            let failed = match spoilt {
                None => sqlx::query("COMMIT").execute(&mut self.connection).await.err().map(Error::from),
                spoilt => spoilt,
            };
            self.announced.settle(failed.is_none());
            if failed.is_some() {
                self.forget();
                // Without an open transaction there is none to roll back, which is as good.
                let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
            }
            for one in done {
                (one.tell)(failed.clone());
            }
        }
        let _ = self.connection.close().await;
    }

    /// The caches may hold what a rollback took back, or what a deletion changed.
    pub fn forget(&mut self) {
        self.runs.clear();
        self.keys.clear();
    }

    /// A run that may be there.
    ///
    /// # Errors
    /// When it is not.
    pub async fn any_run(&mut self, run_id: &str) -> Result<RunKey> {
        if let Some(known) = self.runs.get(run_id) {
            return Ok(*known);
        }
        let sql = "SELECT id, experiment, stage FROM runs WHERE run_id = $1";
        let row: Option<(i64, i64, String)> = sqlx::query_as(sql).bind(run_id).fetch_optional(&mut self.connection).await?;
        let (id, experiment, stage) = row.ok_or_else(|| no_run(run_id))?;
        let key = RunKey { id, experiment, is_active: stage == "active" };
        if self.runs.len() >= CACHED {
            self.runs.clear();
        }
        self.runs.insert(run_id.to_string(), key);
        Ok(key)
    }

    /// A run that may be written to.
    pub async fn active_run(&mut self, run_id: &str) -> Result<RunKey> {
        let key = self.any_run(run_id).await?;
        if key.is_active {
            return Ok(key);
        }
        Err(Error::invalid(format!("The run {run_id} must be in the 'active' state. Current state is deleted.")))
    }

    pub fn forget_run(&mut self, run_id: &str) {
        self.runs.remove(run_id);
    }

    /// The number of a name, if it has one.
    pub async fn known_key(&mut self, name: &str) -> Result<Option<i64>> {
        if let Some(id) = self.keys.get(name) {
            return Ok(Some(*id));
        }
        let id: Option<i64> =
            sqlx::query_scalar("SELECT id FROM keys WHERE name = $1").bind(name).fetch_optional(&mut self.connection).await?;
        if let Some(id) = id {
            self.remember_key(name, id);
        }
        Ok(id)
    }

    /// The number of a name; one that has none is given one.
    pub async fn key(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.known_key(name).await? {
            return Ok(id);
        }
        let id: i64 =
            sqlx::query_scalar("INSERT INTO keys (name) VALUES ($1) RETURNING id").bind(name).fetch_one(&mut self.connection).await?;
        self.remember_key(name, id);
        Ok(id)
    }

    /// Inserts rows, whose values `bind` pushes.
    pub async fn insert<T>(
        &mut self,
        into: &str,
        rows: &[T],
        conflict: &str,
        bind: impl Fn(&mut Separated<'_, Sqlite, &'static str>, &T),
    ) -> Result<()> {
        let mut rest = rows;
        while let Some(size) = ROWS.into_iter().find(|size| *size <= rest.len()) {
            let (rows, later) = rest.split_at(size);
            rest = later;
            let mut sql = QueryBuilder::<Sqlite>::new(into);
            sql.push(" ").push_values(rows, |mut row, of| bind(&mut row, of));
            sql.push(" ").push(conflict).build().execute(&mut self.connection).await?;
        }
        Ok(())
    }

    fn remember_key(&mut self, name: &str, id: i64) {
        if self.keys.len() >= CACHED {
            self.keys.clear();
        }
        self.keys.insert(name.to_string(), id);
    }
}

fn unavailable(what: &str) -> Error {
    Error::new(ErrorCode::TemporarilyUnavailable, what)
}

/// What comes of `work`; a panic ends it and not the task that it runs in.
async fn caught<T>(mut work: Working<'_, Result<T>>) -> Result<T> {
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(Error::internal(&"a write panicked"))))
    })
    .await
}

pub(super) fn no_run(run_id: &str) -> Error {
    Error::missing(format!("Run with id={run_id} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NewExperiment;

    #[tokio::test]
    async fn a_write_that_panics_fails_its_neighbours_and_nothing_after_them() {
        let dir = tempfile::tempdir().unwrap();
        let tracking = Tracking::open(dir.path()).await.unwrap();
        let make = |name: &str| tracking.create_experiment(NewExperiment { name: name.into(), ..NewExperiment::default() });
        let broken = tracking.write::<(), _>(|writer| {
            Box::pin(async move {
                sqlx::query("DELETE FROM experiments").execute(&mut writer.connection).await?;
                panic!("as the test wants it")
            })
        });
        // All three are asked for before the writer runs: they share a transaction.
        let (before, broken, after) = tokio::join!(make("a"), broken, make("b"));
        assert_eq!(before.unwrap_err().code, ErrorCode::TemporarilyUnavailable);
        assert_eq!(broken.unwrap_err().code, ErrorCode::InternalError);
        let after = after.unwrap_err();
        assert_eq!(after.code, ErrorCode::TemporarilyUnavailable);
        assert!(after.message.contains("send again"), "{after}");
        assert_eq!((make("a").await.unwrap(), make("b").await.unwrap()), (1, 2));
        assert_eq!(tracking.experiment(0).await.unwrap().name, "Default");
    }
}
