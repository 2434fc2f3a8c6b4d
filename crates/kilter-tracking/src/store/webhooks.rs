//! Webhooks, and what is still to be delivered to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::scorers::uuid;
use super::search::{in_list, listed};
use super::writer::Writer;
use super::{Tracking, now};
use crate::db::{Db, FromRow, Row, Sql, bind};
use crate::error::{Error, Result};
use crate::model::Page;
use crate::page::Pages;
use crate::webhook::{Change, Delivery, NewWebhook, PROMPT, Secret, Waiting, Webhook, WebhookChange, WebhookEvent};

const WEBHOOKS: i64 = 1000;
const PAGE: usize = 100;
/// Deliveries that wait for one webhook, at most, and bytes of them.
const WAITING: i64 = 1000;
const WAITING_BYTES: i64 = 64 << 20;
/// How long a server that attempts a delivery keeps the others from it, in milliseconds: longer than an attempt takes.
const CLAIMED: i64 = 60_000;
const DELIVERY: &str = "SELECT d.delivery_id, w.webhook_id, w.url, w.secret, d.event, d.created, d.payload, d.attempts
                        FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook WHERE d.id = ?1";
const COLUMNS: &str = "SELECT id, webhook_id, name, description, url, is_active, created, updated FROM webhooks";

/// What is said about deliveries across tasks.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    came: Notify,
    not_kept: AtomicU64,
}

/// What the open transaction says about deliveries.
#[derive(Debug)]
pub(super) struct Announced {
    outbox: Arc<Outbox>,
    any: bool,
    not_kept: u64,
}

impl Announced {
    pub fn to(outbox: Arc<Outbox>) -> Announced {
        Announced { outbox, any: false, not_kept: 0 }
    }

    /// The transaction has ended.
    pub fn settle(&mut self, is_committed: bool) {
        let (any, not_kept) = (std::mem::take(&mut self.any), std::mem::take(&mut self.not_kept));
        if is_committed && any {
            self.outbox.came.notify_one();
        }
        if is_committed && not_kept > 0 {
            self.outbox.not_kept.fetch_add(not_kept, Ordering::Relaxed);
        }
    }
}

impl Tracking {
    /// Makes a webhook, which is told of what happens from now on.
    ///
    /// # Errors
    /// When something is not as it must be.
    pub async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook> {
        let change = WebhookChange::from(new);
        change.check()?;
        self.write_webhook(uuid(), true, change).await
    }

    /// A webhook.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn webhook(&self, id: &str) -> Result<Webhook> {
        let of = id.to_string();
        let found = self.read(move |db| found_webhooks(db, Sql::new(COLUMNS).push(" WHERE webhook_id = ").bind(of))).await?;
        found.into_iter().next().ok_or_else(|| no_webhook(id))
    }

    /// Webhooks, the newest first.
    ///
    /// # Errors
    /// When the page is none.
    pub async fn webhooks(&self, max_results: Option<i64>, page_token: Option<&str>) -> Result<Page<Webhook>> {
        let limit = match max_results {
            None | Some(0) => PAGE,
            Some(n @ 1..=WEBHOOKS) => n as usize,
            Some(_) => return Err(Error::invalid("max_results must be between 1 and 1000.")),
        };
        let pages = Pages::of(&["webhooks"]);
        let from = pages.position(page_token)?;
        let page = move |db: &mut Db| {
            let mut sql = Sql::new(COLUMNS);
            found_webhooks(db, sql.push(" ORDER BY id DESC LIMIT ").bind(limit as i64 + 1).push(" OFFSET ").bind(from))
        };
        Ok(pages.cut(self.read(page).await?, from, limit))
    }

    /// Changes a webhook. What waits for it goes out as it is from now on; of one that is no longer active nothing does.
    ///
    /// # Errors
    /// When it is missing, or something is not as it must be.
    pub async fn update_webhook(&self, id: &str, change: WebhookChange) -> Result<Webhook> {
        let known = self.webhook(id).await?;
        change.check()?;
        self.write_webhook(known.id, false, change).await
    }

    /// Deletes a webhook for good, with its secret and what waits for it.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_webhook(&self, id: String) -> Result<()> {
        self.write(move |w| {
            let webhook = w.webhook(&id)?;
            for sql in [
                "DELETE FROM webhook_deliveries WHERE webhook = ?1",
                "DELETE FROM webhook_events WHERE webhook = ?1",
                "DELETE FROM webhooks WHERE id = ?1",
            ] {
                w.db.execute(sql, bind![webhook])?;
            }
            Ok(())
        })
        .await
    }

    /// What tests a webhook: an example of `event`, or of its first. It is kept nowhere.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn test_delivery(&self, id: &str, event: Option<WebhookEvent>) -> Result<Delivery> {
        let webhook = self.webhook(id).await?;
        let of = id.to_string();
        let secret: Option<String> =
            self.read(move |db| db.optional("SELECT secret FROM webhooks WHERE webhook_id = ?1", bind![&of])).await?;
        let event = event.or(webhook.events.first().copied()).ok_or_else(|| no_webhook(id))?;
        Ok(Delivery {
            id: uuid(),
            webhook: webhook.id,
            url: webhook.url,
            secret: Secret::new(secret.ok_or_else(|| no_webhook(id))?),
            event,
            created: now(),
            payload: event.example(),
            attempts: 0,
        })
    }

    /// The first delivery of each webhook that waits for any: those that are due, or will be, the earliest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn waiting_deliveries(&self) -> Result<Vec<Waiting>> {
        let sql = "SELECT d.webhook, d.id, d.due FROM webhooks w
                   JOIN webhook_deliveries d ON d.id = (SELECT MIN(f.id) FROM webhook_deliveries f WHERE f.webhook = w.id) ORDER BY d.due, d.id";
        let rows: Vec<(i64, i64, i64)> = self.read(|db| db.rows(sql, bind![])).await?;
        Ok(rows.into_iter().map(|(webhook, delivery, due)| Waiting { webhook, delivery, due }).collect())
    }

    /// A delivery that waits; none: it does no longer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delivery(&self, number: i64) -> Result<Option<Delivery>> {
        self.read(move |db| db.optional(DELIVERY, bind![number])).await
    }

    /// A delivery that is due, to be attempted; none: it is not, or another server attempts it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take_delivery(&self, number: i64) -> Result<Option<Delivery>> {
        if !self.is_shared() {
            return self.delivery(number).await;
        }
        self.write(move |w| {
            // Whoever makes it due later attempts it; one that ends meanwhile leaves it to the others then.
            let claim = "UPDATE webhook_deliveries SET due = ?2 WHERE id = ?1 AND due <= ?3";
            let at = now();
            if w.db.execute(claim, bind![number, at + CLAIMED, at])? == 0 {
                return Ok(None);
            }
            w.db.optional(DELIVERY, bind![number])
        })
        .await
    }

    /// Takes a delivery out: it arrived, or is given up.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn end_delivery(&self, number: i64) -> Result<()> {
        self.write(move |w| w.db.execute("DELETE FROM webhook_deliveries WHERE id = ?1", bind![number]).map(drop)).await
    }

    /// Counts an attempt that failed; the next is due in `wait` milliseconds.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_off_delivery(&self, number: i64, wait: i64) -> Result<()> {
        let sql = "UPDATE webhook_deliveries SET attempts = attempts + 1, due = ?2 WHERE id = ?1";
        self.write(move |w| w.db.execute(sql, bind![number, now().saturating_add(wait)]).map(drop)).await
    }

    /// Waits until there are new deliveries. Those that came while nobody waited count.
    pub async fn deliveries_came(&self) {
        self.outbox().came.notified().await;
    }

    /// Deliveries that found no room since the store was opened.
    pub fn deliveries_not_kept(&self) -> u64 {
        self.outbox().not_kept.load(Ordering::Relaxed)
    }

    async fn write_webhook(&self, id: String, is_new: bool, change: WebhookChange) -> Result<Webhook> {
        let of = id.clone();
        self.write(move |w| {
            let at = now();
            let webhook = if is_new { w.new_webhook(&of, at)? } else { w.webhook(&of)? };
            w.change_webhook(webhook, &change, at)
        })
        .await?;
        self.webhook(&id).await
    }
}

impl FromRow for Delivery {
    fn from_row(row: &Row<'_>) -> Result<Delivery> {
        Ok(Delivery {
            id: row.get(0)?,
            webhook: row.get(1)?,
            url: row.get(2)?,
            secret: Secret::new(row.get::<String>(3)?),
            event: WebhookEvent::parse(&row.get::<String>(4)?)?,
            created: row.get(5)?,
            payload: row.get(6)?,
            attempts: row.get::<i64>(7)? as u32,
        })
    }
}

/// Webhooks in the order of `sql`, which begins with [`COLUMNS`].
fn found_webhooks(db: &mut Db, sql: &Sql) -> Result<Vec<Webhook>> {
    let mut found = Vec::new();
    let mut at: HashMap<i64, usize> = HashMap::new();
    sql.each(db, |row| {
        at.insert(row.get(0)?, found.len());
        found.push(Webhook {
            id: row.get(1)?,
            name: row.get(2)?,
            description: row.get(3)?,
            url: row.get(4)?,
            events: Vec::new(),
            is_active: row.get(5)?,
            created: row.get(6)?,
            updated: row.get(7)?,
        });
        Ok(())
    })?;
    let ids = Vec::from_iter(at.keys().copied());
    let events = format!("SELECT webhook, event FROM webhook_events WHERE webhook IN {} ORDER BY webhook, place", in_list(&listed(&ids)));
    Sql::new(events).each(db, |row| {
        if let Some(at) = at.get(&row.get::<i64>(0)?) {
            found[*at].events.push(WebhookEvent::parse(&row.get::<String>(1)?)?);
        }
        Ok(())
    })?;
    Ok(found)
}

impl Writer {
    /// Puts what is told of a change into the outbox: a delivery for each active webhook that wants it.
    pub fn announce(&mut self, model: i64, change: Change<'_>) -> Result<()> {
        let sql = "SELECT id FROM webhooks WHERE is_active = 1 LIMIT 1";
        let any: Option<i64> = self.db.optional(sql, bind![])?;
        if any.is_none() {
            return Ok(());
        }
        let is_prompt = match change.makes_prompt() {
            Some(is_prompt) => is_prompt,
            None => {
                let sql = "SELECT model FROM registered_model_tags WHERE model = ?1 AND key = ?2 AND LOWER(value) = 'true'";
                let tagged: Option<i64> = self.db.optional(sql, bind![model, PROMPT])?;
                tagged.is_some()
            }
        };
        let Some((event, payload)) = change.told(is_prompt) else { return Ok(()) };
        let (event, payload, created) = (event.to_string(), payload.to_string(), now());
        let sql = "SELECT w.id, w.webhook_id, COUNT(d.id), CAST(COALESCE(SUM(d.size), 0) AS BIGINT) FROM webhooks w
                   JOIN webhook_events e ON e.webhook = w.id LEFT JOIN webhook_deliveries d ON d.webhook = w.id
                   WHERE w.is_active = 1 AND e.event = ?1 GROUP BY w.id, w.webhook_id ORDER BY w.id";
        let told: Vec<(i64, String, i64, i64)> = self.db.rows(sql, bind![&event])?;
        for (webhook, id, waiting, bytes) in told {
            if waiting >= WAITING || bytes + payload.len() as i64 > WAITING_BYTES {
                tracing::warn!(webhook = id, event, waiting, "a webhook is behind by as much as is kept: an event is not delivered");
                self.announced.not_kept += 1;
                continue;
            }
            let sql = "INSERT INTO webhook_deliveries (webhook, delivery_id, event, created, attempts, due, size, payload)
                       VALUES (?1, ?2, ?3, ?4, 0, ?4, ?5, ?6)";
            self.db.execute(sql, bind![webhook, uuid(), &event, created, payload.len() as i64, &payload])?;
            self.announced.any = true;
        }
        Ok(())
    }

    fn webhook(&mut self, id: &str) -> Result<i64> {
        let sql = "SELECT id FROM webhooks WHERE webhook_id = ?1";
        let known: Option<i64> = self.db.optional(sql, bind![id])?;
        known.ok_or_else(|| no_webhook(id))
    }

    fn new_webhook(&mut self, id: &str, at: i64) -> Result<i64> {
        let count: i64 = self.db.one("SELECT COUNT(*) FROM webhooks", bind![])?;
        if count >= WEBHOOKS {
            return Err(Error::invalid(format!("There can be {WEBHOOKS} webhooks. Delete one that nobody needs.")));
        }
        let sql = "INSERT INTO webhooks (webhook_id, name, description, url, secret, is_active, created, updated)
                   VALUES (?1, '', '', '', '', 1, ?2, ?2) RETURNING id";
        self.db.one(sql, bind![id, at])
    }

    fn change_webhook(&mut self, webhook: i64, change: &WebhookChange, at: i64) -> Result<()> {
        let WebhookChange { name, description, url, events, secret, is_active } = change;
        let sql = "UPDATE webhooks SET name = COALESCE(?2, name), description = COALESCE(?3, description), url = COALESCE(?4, url),
                   secret = COALESCE(?5, secret), is_active = COALESCE(?6, is_active), updated = ?7
                   WHERE id = ?1";
        let secret = secret.as_ref().map(Secret::reveal);
        self.db.execute(sql, bind![webhook, name, description, url, secret, is_active.map(i64::from), at])?;
        if let Some(events) = events {
            self.db.execute("DELETE FROM webhook_events WHERE webhook = ?1", bind![webhook])?;
            for (place, event) in events.iter().enumerate() {
                let sql = "INSERT INTO webhook_events (webhook, event, place) VALUES (?1, ?2, ?3) ON CONFLICT (webhook, event) DO NOTHING";
                self.db.execute(sql, bind![webhook, event.to_string(), place as i64])?;
            }
        }
        if *is_active == Some(false) {
            self.db.execute("DELETE FROM webhook_deliveries WHERE webhook = ?1", bind![webhook])?;
        }
        Ok(())
    }
}

fn no_webhook(id: &str) -> Error {
    let shown: String = id.chars().take(200).collect();
    Error::missing(format!("Webhook with ID {shown} not found."))
}
