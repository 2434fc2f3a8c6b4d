//! Delivers what the store has in its outbox to webhooks: in order for each, several at a time, beside everything else.
//!
//! See docs/decisions/0048-webhooks-from-an-outbox.md.

mod reach;
mod send;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::FromRef;
use kilter_tracking::{Delivery, Result, Tracking};
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};

pub use reach::{Network, WebhookOptions};
pub use send::{Answered, NoAnswer};
use send::{Outcome, Sender};

/// Attempts under way at a time: each is a thread.
const AT_ONCE: usize = 16;
/// Tests of webhooks under way at a time; others wait.
const TESTS: usize = 4;
/// How long an attempt may take, and a test, which a request waits for.
const PATIENCE: Duration = Duration::from_secs(30);
const TEST_PATIENCE: Duration = Duration::from_secs(10);
/// The outbox is looked at after so long even if nothing says that there is something new: the clock may have been set.
const ROUND: Duration = Duration::from_secs(60);
/// How long nothing is sent after the store failed: what was delivered and could not be noted is sent again.
const STORE_AWAY: Duration = Duration::from_secs(5);
/// How long the end waits for attempts that are under way.
const CLOSING: Duration = Duration::from_secs(3);

/// The store, and what delivers from it: the state of all routes. Clones share it.
#[derive(Clone)]
pub struct Hooks(Arc<Shared>);

struct Shared {
    tracking: Tracking,
    options: WebhookOptions,
    sender: Sender,
    tests: Semaphore,
    delivered: AtomicU64,
    given_up: AtomicU64,
}

impl FromRef<Hooks> for Tracking {
    fn from_ref(hooks: &Hooks) -> Tracking {
        hooks.0.tracking.clone()
    }
}

impl Hooks {
    pub fn new(tracking: Tracking, options: WebhookOptions) -> Hooks {
        let sender = Sender::new(options.clone());
        let (delivered, given_up) = Default::default();
        Hooks(Arc::new(Shared { tracking, options, sender, tests: Semaphore::new(TESTS), delivered, given_up }))
    }

    pub fn tracking(&self) -> &Tracking {
        &self.0.tracking
    }

    /// Looks at a URL before a webhook has it.
    pub async fn check_url(&self, url: &str) -> Result<()> {
        self.0.options.check(url).await
    }

    /// Makes one attempt that nothing comes after.
    pub async fn test(&self, delivery: &Delivery) -> Result<Answered, NoAnswer> {
        let _place = self.0.tests.acquire().await;
        self.0.sender.send(delivery, TEST_PATIENCE).await
    }

    /// Deliveries since the start, by what became of them.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("delivered", of(&self.0.delivered)), ("given_up", of(&self.0.given_up)), ("not_kept", self.0.tracking.deliveries_not_kept())]
    }

    /// Delivers until `end`; what is not done by then stays in the outbox.
    pub async fn deliver_until(&self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        let mut attempts = JoinSet::new();
        let mut busy: HashMap<Id, i64> = HashMap::new();
        loop {
            let next = self.start_due(&mut attempts, &mut busy).await;
            tokio::select! {
                () = &mut end => break,
                () = self.0.tracking.deliveries_came() => {}
                () = tokio::time::sleep(next) => {}
                Some(ended) = attempts.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(e) => e.id(),
                    };
                    busy.remove(&id);
                }
            }
        }
        let rest = async { while attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSING, rest).await.is_err() {
            tracing::info!("deliveries to webhooks were under way at the end; they are made again at the next start");
        }
    }

    /// Starts attempts at what is due, and says when the next will be.
    async fn start_due(&self, attempts: &mut JoinSet<()>, busy: &mut HashMap<Id, i64>) -> Duration {
        let waiting = match self.0.tracking.waiting_deliveries().await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "deliveries to webhooks wait for the store");
                return STORE_AWAY;
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        for one in waiting.iter().filter(|one| !busy.values().any(|webhook| *webhook == one.webhook)).collect::<Vec<_>>() {
            if one.due > now {
                // The earliest comes first.
                return Duration::from_millis(one.due.abs_diff(now)).min(ROUND);
            }
            if busy.len() >= AT_ONCE {
                break;
            }
            let (hooks, number) = (self.clone(), one.delivery);
            let attempt = attempts.spawn(async move {
                if let Err(error) = hooks.attempt(number).await {
                    tracing::warn!(%error, "a delivery to a webhook could not be read or noted; it is made again");
                    tokio::time::sleep(STORE_AWAY).await;
                }
            });
            busy.insert(attempt.id(), one.webhook);
        }
        ROUND
    }

    async fn attempt(&self, number: i64) -> Result<()> {
        let Shared { tracking, sender, .. } = &*self.0;
        let Some(delivery) = tracking.take_delivery(number).await? else { return Ok(()) };
        let answer = sender.send(&delivery, PATIENCE).await;
        let Delivery { webhook, event, id, attempts, .. } = &delivery;
        let said = match &answer {
            Ok(answer) => format!("answered {}", answer.status),
            Err(none) => none.to_string(),
        };
        let attempt = attempts + 1;
        match send::outcome(&answer, *attempts) {
            Outcome::Delivered => {
                tracking.end_delivery(number).await?;
                self.0.delivered.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(webhook, %event, delivery = id, attempt, "webhook delivered");
            }
            Outcome::Later(wait) => {
                tracking.put_off_delivery(number, wait.as_millis() as i64).await?;
                tracing::info!(webhook, %event, delivery = id, attempt, said, again_in = ?wait, "webhook not delivered; it is tried again");
            }
            Outcome::GivenUp => {
                tracking.end_delivery(number).await?;
                self.0.given_up.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(webhook, %event, delivery = id, attempt, said, "webhook given up");
            }
        }
        Ok(())
    }
}
