//! Threads of the engine's own, and work on them that ends when nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kilter_store::threads::{self, Computing};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::error::{CANCELED, INTERNAL, Result, SqlError};

/// Plans are trees as deep as statements are long.
const STACK: usize = 32 << 20;
/// Scans at a time, of all statements, and questions about the catalogue.
const SCANS: usize = 256;

/// Threads, so that neither a heavy question nor a long answer takes any from the stream. Cores too, where there are several (`kilter_store::threads`).
pub struct Threads {
    questions: Handle,
    /// They read what clients say, and write rows for them.
    clients: Handle,
    /// None once these are dropped.
    runtimes: Option<[Runtime; 2]>,
}

/// Work that ends when nobody waits for it.
pub struct Task<T>(JoinHandle<T>, #[expect(dead_code, reason = "its end counts")] Computing);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells work that cannot be taken from its thread that nobody waits for it.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

pub fn late() -> SqlError {
    SqlError::new(CANCELED, "canceling statement due to statement timeout")
        .hint("ask for a shorter range of time, or give statements more time")
}

pub fn ended_badly(e: impl std::fmt::Display) -> SqlError {
    SqlError::new(INTERNAL, format!("the statement ended badly: {e}"))
}

impl Threads {
    /// `computing`: how many compute at a time.
    ///
    /// # Errors
    /// When no threads can be made.
    pub fn new(computing: usize) -> std::io::Result<Threads> {
        let runtime = |name: &str, workers: usize| {
            let begins = || {
                threads::gives_way();
                threads::computes();
            };
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.thread_name(name).worker_threads(workers).thread_stack_size(STACK).max_blocking_threads(SCANS).on_thread_start(begins);
            runtime.enable_all().build()
        };
        // One more, for while a function does not yield.
        let runtimes = [runtime("sql", computing + 1)?, runtime("sql-clients", (threads::parallelism() / 4).max(1))?];
        let [questions, clients] = [&runtimes[0], &runtimes[1]].map(|runtime| runtime.handle().clone());
        Ok(Threads { questions, clients, runtimes: Some(runtimes) })
    }

    /// Where clients are served.
    pub fn for_clients(&self) -> &Handle {
        &self.clients
    }

    /// Does what may take long without a pause.
    pub fn run<T: Send + 'static>(
        &self,
        until: Instant,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let mut task = self.spawn(task);
        Box::pin(async move {
            match timeout_at(until, &mut task.0).await {
                Ok(Ok(done)) => done,
                Ok(Err(e)) => Err(ended_badly(e)),
                Err(_) => Err(late()),
            }
        })
    }

    /// Does what cannot be taken from its thread, and is told when nobody waits for it.
    pub async fn block<T: Send + 'static>(&self, until: Instant, ask: impl FnOnce(&Stop) -> Result<T> + Send + 'static) -> Result<T> {
        let stop = Stop::default();
        let _told = StopOnDrop(stop.clone());
        let asked = self.questions.spawn_blocking(move || {
            let _computing = threads::computing();
            ask(&stop)
        });
        timeout_at(until, asked).await.map_err(|_| late())?.map_err(ended_badly)?
    }

    /// Has a stream go on, a step ahead of whoever reads it, until nobody does.
    pub fn stream<T: Send + 'static>(&self, stream: impl Stream<Item = T> + Send + 'static) -> BoxStream<'static, T> {
        let (tx, rx) = mpsc::channel(1);
        let task = self.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = tx.closed() => return,
                };
                let Some(item) = next else { return };
                if tx.send(item).await.is_err() {
                    return;
                }
            }
        });
        // The task ends with what is read of it.
        stream::unfold((rx, task), |(mut rx, task)| async move { rx.recv().await.map(|item| (item, (rx, task))) }).boxed()
    }

    /// Begins something that ends with what is given.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let computing = threads::computing();
        Task(self.questions.spawn(task), computing)
    }

    /// Begins something that ends by itself, or with these threads.
    pub fn leave(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.questions.spawn(task);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime may not wait for its threads where others run.
        self.runtimes.take().into_iter().flatten().for_each(Runtime::shutdown_background);
    }
}
