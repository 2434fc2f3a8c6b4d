//! A producer that says which of its records have arrived, while more of them are on their way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message as _, ToBytes};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::client::{self, Backoff, PATIENCE, lock};

/// How much longer than it was given the library may take before it is not waited for any more.
const GRACE: Duration = Duration::from_secs(2);

/// Calls that have not returned yet and that nobody waits for.
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// The library's producer; a thread of its own takes the acknowledgements in.
pub struct Producer {
    library: Arc<ThreadedProducer<Deliveries>>,
    runtime: Handle,
}

/// Records that were sent as one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Batch {
    under_way: usize,
    /// The largest offset that one of them came to lie at, and one.
    next: u64,
}

/// What has become of what was sent.
#[derive(Default)]
pub struct Deliveries {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    batches: BTreeMap<usize, Batch>,
    problem: Option<KafkaError>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: usize) {
        let mut state = lock(&self.state);
        // Of a batch that was given up nobody wants to know.
        let Some(of) = state.batches.get_mut(&batch) else { return };
        of.under_way -= 1;
        let tell = of.under_way == 0 || result.is_err();
        match result {
            Ok(message) => of.next = of.next.max(message.offset() as u64 + 1),
            Err((e, _)) => state.problem = Some(e.clone()),
        }
        drop(state);
        if tell {
            self.changed.notify_one();
        }
    }
}

impl Producer {
    pub fn new(config: &ClientConfig, runtime: &Handle) -> anyhow::Result<Producer> {
        let library = config.create_with_context(Deliveries::default()).map_err(client::refused)?;
        Ok(Producer { library: Arc::new(library), runtime: runtime.clone() })
    }

    /// For transactions. What was sent must have arrived before one is committed: the library looks only every tenth of a second by itself.
    pub fn library(&self) -> &ThreadedProducer<Deliveries> {
        &self.library
    }

    /// Sends a record as part of a batch. While the library's queue is full it is waited for.
    ///
    /// # Errors
    /// The library does not take it; the batch can only be given up.
    pub fn send<K: ToBytes + ?Sized, P: ToBytes + ?Sized>(
        &self,
        batch: usize,
        mut record: BaseRecord<'_, K, P, usize>,
    ) -> Result<(), KafkaError> {
        record.delivery_opaque = batch;
        let state = &self.library.context().state;
        lock(state).batches.entry(batch).or_default().under_way += 1;
        while let Err((e, back)) = self.library.send(record) {
            if e.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
        Ok(())
    }

    /// Whether every record of a batch has arrived, which is then forgotten; none: some are still under way. The number is the largest offset among them, and one.
    ///
    /// # Errors
    /// A record, of this batch or another, that was not delivered.
    pub fn arrived(&self, batch: usize) -> Result<Option<u64>, KafkaError> {
        let mut state = lock(&self.library.context().state);
        if let Some(problem) = state.problem.take() {
            return Err(problem);
        }
        match state.batches.get(&batch).copied() {
            Some(of) if of.under_way > 0 => Ok(None),
            of => {
                state.batches.remove(&batch);
                Ok(Some(of.unwrap_or_default().next))
            }
        }
    }

    /// Returns when a batch has arrived as a whole, or a record has failed, since this was last asked.
    pub async fn changed(&self) {
        self.library.context().changed.notified().await;
    }

    /// Waits until a batch has arrived, and nothing else is under way.
    ///
    /// # Errors
    /// As [`Producer::arrived`]; the time is over.
    pub fn wait(&self, batch: usize, patience: Duration) -> Result<u64, KafkaError> {
        let until = Instant::now() + patience;
        loop {
            if let Some(next) = self.arrived(batch)? {
                // The library counts a record until the acknowledgement was taken in to its end, and would look again only a tenth of a second later.
                // The thread that does so may be waiting for this one's core: it is looked at ever more seldom.
                let mut pause = Duration::from_micros(20);
                while self.library.in_flight_count() > 0 && Instant::now() < until {
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(5));
                }
                return Ok(next);
            }
            if Instant::now() > until {
                return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
            }
            // A timeout is no more than a look at the clock.
            let _ = self.runtime.block_on(async { tokio::time::timeout(Backoff::STEP, self.changed()).await });
        }
    }

    /// Makes positions of a group a part of the open transaction.
    ///
    /// When the broker that coordinates the group leaves the cluster, the library's call may never return, whatever time it was given (librdkafka, issues 5511 and 5456).
    /// So it is made on a thread of its own, which is left behind then, and the producer with it, until the library wakes up; a new producer fences it off.
    ///
    /// # Errors
    /// The library's; no answer. Either way this producer has come to its end.
    pub fn send_offsets(&self, positions: TopicPartitionList, group: Arc<ConsumerGroupMetadata>) -> anyhow::Result<()> {
        let library = Arc::clone(&self.library);
        let outcome = within(PATIENCE + GRACE, move || library.send_offsets_to_transaction(&positions, &group, PATIENCE))?;
        outcome.context("the transaction does not take the positions")
    }

    /// Gives up every batch that has not arrived.
    pub fn give_up(&self) {
        *lock(&self.library.context().state) = State::default();
    }
}

/// The result of a call that may not return in time.
fn within<T: Send + 'static>(time: Duration, call: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    // Whoever has stopped waiting does not take it any more.
    let (tell, told) = mpsc::sync_channel(0);
    let calling = move || {
        if tell.send(call()).is_err() {
            LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("positions".into()).spawn(calling)?;
    match told.recv_timeout(time) {
        Ok(outcome) => Ok(outcome),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let left = 1 + LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
            bail!("the client library does not answer within {} s; {left} calls of it are left behind", time.as_secs())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the call of the client library panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_left_behind() {
        assert_eq!(within(Duration::from_secs(10), || 3).unwrap(), 3);
        let (let_go, held) = mpsc::channel::<()>();
        let left = within(Duration::from_millis(50), move || held.recv());
        assert!(left.unwrap_err().to_string().contains("1 calls of it are left behind"));
        assert!(within(Duration::from_secs(10), || -> u8 { panic!("as it should") }).unwrap_err().to_string().contains("panicked"));
        drop(let_go);
        let until = Instant::now() + Duration::from_secs(60);
        while LEFT_BEHIND.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < until, "what has returned is not left behind");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
