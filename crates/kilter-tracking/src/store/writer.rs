//! The one thread that writes. What has come in while it wrote becomes the next transaction, and every answer waits for its commit.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::Tracking;
use super::webhooks::{Announced, Outbox};
use crate::db::{Db, Dialect, Source, bind};
use crate::error::{Error, ErrorCode, Result};

/// Writes in one transaction at most.
const BATCH: usize = 256;
/// What the caches hold at most; past it they begin anew.
const CACHED: usize = 50_000;
/// Works with the writer, or says why it is not to.
type Work = Box<dyn FnOnce(Result<&mut Writer>) -> Done + Send>;

/// What the thread is asked to do.
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
    pub db: Db,
    pub announced: Announced,
    source: Source,
    /// Tells it from other processes that write to the same database.
    id: i64,
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
        F: FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Job::Write(Box::new(move |writer| {
            let result = writer.and_then(|writer| {
                catch_unwind(AssertUnwindSafe(|| work(writer))).unwrap_or_else(|_| Err(Error::internal(&"a write panicked")))
            });
            let spoilt = matches!(&result, Err(e) if matches!(e.code, ErrorCode::InternalError | ErrorCode::TemporarilyUnavailable));
            let tell = move |failed: Option<Error>| {
                // Nobody to tell: the client is gone.
                let _ = answer.send(match (failed, result) {
                    (Some(error), Ok(_)) => Err(error),
                    (_, result) => result,
                });
            };
            Done { spoilt, tell: Box::new(tell) }
        }));
        self.0.jobs.try_send(job).map_err(|_| unavailable("more writes wait than are taken; send again in a moment"))?;
        answered.await.map_err(|_| unavailable("the store is shutting down"))?
    }
}

impl Writer {
    pub fn new(db: Db, source: Source, outbox: Arc<Outbox>) -> Writer {
        let id = RandomState::new().hash_one(std::process::id()).cast_signed();
        Writer { db, announced: Announced::to(outbox), source, id, runs: HashMap::new(), keys: HashMap::new() }
    }

    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut ended = false;
        while !ended && jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            let (mut done, mut spoilt) = (Vec::with_capacity(batch.len()), None);
            if let Err(error) = self.begin() {
                tracing::error!(%error, "the tracking store cannot begin to write");
                spoilt = Some(unavailable("the store cannot write at the moment; send again in a moment"));
            }
            for job in batch.drain(..) {
                match job {
                    // Dropped: whoever waits is told that the store ends.
                    Job::Write(_) if ended => {}
                    Job::Write(work) => {
                        let one = work(spoilt.clone().map_or(Ok(&mut self), Err));
                        if one.spoilt && spoilt.is_none() {
                            spoilt = Some(unavailable("a write that shared a commit with this one failed; send again in a moment"));
                        }
                        done.push(one);
                    }
                    Job::End => ended = true,
                }
            }
            let failed = match spoilt {
                None => self.db.execute("COMMIT", bind![]).err(),
                spoilt => spoilt,
            };
            self.announced.settle(failed.is_none());
            if failed.is_some() {
                self.forget();
                // Without an open transaction there is none to roll back, which is as good.
                let _ = self.db.script("ROLLBACK");
            }
            for one in done {
                (one.tell)(failed.clone());
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        if self.db.dialect() == Dialect::Sqlite {
            return self.db.execute("BEGIN IMMEDIATE", bind![]).map(drop);
        }
        match self.begin_alone() {
            // A connection says that it is none only when it is used; nothing was done over it.
            Err(_) if !self.db.is_alive() => {
                self.db = self.source.connect()?;
                self.forget();
                self.begin_alone()
            }
            begun => begun,
        }
    }

    /// Begins a transaction on a database that others write to as well.
    fn begin_alone(&mut self) -> Result<()> {
        // Whatever the database's default is: what is read must be what the last writer left.
        self.db.script("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        // One process writes at a time, and knows whether another has written since it did itself.
        let sql = "SELECT id, (SELECT version FROM schema_version) FROM last_writer FOR UPDATE";
        let (last, schema): (i64, i64) = self.db.one(sql, bind![])?;
        if schema != super::migrate::MIGRATIONS.len() as i64 {
            tracing::error!(
                schema,
                "a newer release of kilter has changed the tables of the tracking store; this one does not write to them"
            );
            return Err(unavailable("the store was changed by a newer release"));
        }
        if last != self.id {
            self.forget();
            self.db.execute("UPDATE last_writer SET id = ?1", bind![self.id])?;
        }
        Ok(())
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
    pub fn any_run(&mut self, run_id: &str) -> Result<RunKey> {
        if let Some(known) = self.runs.get(run_id) {
            return Ok(*known);
        }
        let sql = "SELECT id, experiment, stage FROM runs WHERE run_id = ?1";
        let row: Option<(i64, i64, String)> = self.db.optional(sql, bind![run_id])?;
        let (id, experiment, stage) = row.ok_or_else(|| no_run(run_id))?;
        let key = RunKey { id, experiment, is_active: stage == "active" };
        if self.runs.len() >= CACHED {
            self.runs.clear();
        }
        self.runs.insert(run_id.to_string(), key);
        Ok(key)
    }

    /// A run that may be written to.
    pub fn active_run(&mut self, run_id: &str) -> Result<RunKey> {
        let key = self.any_run(run_id)?;
        if key.is_active {
            return Ok(key);
        }
        Err(Error::invalid(format!("The run {run_id} must be in the 'active' state. Current state is deleted.")))
    }

    pub fn forget_run(&mut self, run_id: &str) {
        self.runs.remove(run_id);
    }

    /// The number of a name, if it has one.
    pub fn known_key(&mut self, name: &str) -> Result<Option<i64>> {
        if let Some(id) = self.keys.get(name) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = self.db.optional("SELECT id FROM keys WHERE name = ?1", bind![name])?;
        if let Some(id) = id {
            self.remember_key(name, id);
        }
        Ok(id)
    }

    /// The number of a name; one that has none is given one.
    pub fn key(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.known_key(name)? {
            return Ok(id);
        }
        let id: i64 = self.db.one("INSERT INTO keys (name) VALUES (?1) RETURNING id", bind![name])?;
        self.remember_key(name, id);
        Ok(id)
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
        // The first keeps the thread at work until all of the others have been asked for, so that they share a transaction.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = tracking.write(move |_| {
            let _ = wait.recv();
            Ok(())
        });
        let broken = tracking.write::<(), _>(|writer| {
            writer.db.execute("DELETE FROM experiments", bind![])?;
            panic!("as the test wants it")
        });
        let go = async move { drop(go) };
        let (_, before, broken, after, ()) = tokio::join!(first, make("a"), broken, make("b"), go);
        assert_eq!(before.unwrap_err().code, ErrorCode::TemporarilyUnavailable);
        assert_eq!(broken.unwrap_err().code, ErrorCode::InternalError);
        let after = after.unwrap_err();
        assert_eq!(after.code, ErrorCode::TemporarilyUnavailable);
        assert!(after.message.contains("send again"), "{after}");
        assert_eq!((make("a").await.unwrap(), make("b").await.unwrap()), (1, 2));
        assert_eq!(tracking.experiment(0).await.unwrap().name, "Default");
    }
}
