//! Webhooks, and what is still to be delivered to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{QueryBuilder, Row, Sqlite};
use tokio::sync::Notify;

use super::scorers::uuid;
use super::search::{in_list, listed};
use super::writer::Writer;
use super::{Tracking, now};
use crate::error::{Error, Result};
use crate::model::Page;
use crate::page::Pages;
use crate::webhook::{Change, Delivery, NewWebhook, PROMPT, Secret, Waiting, Webhook, WebhookChange, WebhookEvent};

const WEBHOOKS: i64 = 1000;
const PAGE: usize = 100;
/// Deliveries that wait for one webhook, at most, and bytes of them.
const WAITING: i64 = 1000;
const WAITING_BYTES: i64 = 64 << 20;
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
        let mut sql = QueryBuilder::new(COLUMNS);
        sql.push(" WHERE webhook_id = ").push_bind(id);
        self.found_webhooks(sql).await?.pop().ok_or_else(|| no_webhook(id))
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
        let mut sql = QueryBuilder::new(COLUMNS);
        sql.push(" ORDER BY id DESC LIMIT ").push_bind(limit as i64 + 1).push(" OFFSET ").push_bind(from);
        Ok(pages.cut(self.found_webhooks(sql).await?, from, limit))
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
            Box::pin(async move {
                let webhook = w.webhook(&id).await?;
                for sql in [
                    "DELETE FROM webhook_deliveries WHERE webhook = $1",
                    "DELETE FROM webhook_events WHERE webhook = $1",
                    "DELETE FROM webhooks WHERE id = $1",
                ] {
                    sqlx::query(sql).bind(webhook).execute(&mut w.connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// What tests a webhook: an example of `event`, or of its first. It is kept nowhere.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn test_delivery(&self, id: &str, event: Option<WebhookEvent>) -> Result<Delivery> {
        let webhook = self.webhook(id).await?;
        let secret: Option<String> =
            sqlx::query_scalar("SELECT secret FROM webhooks WHERE webhook_id = $1").bind(id).fetch_optional(self.readers()).await?;
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
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(self.readers()).await?;
        Ok(rows.into_iter().map(|(webhook, delivery, due)| Waiting { webhook, delivery, due }).collect())
    }

    /// A delivery that waits; none: it does no longer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delivery(&self, number: i64) -> Result<Option<Delivery>> {
        let sql = "SELECT d.delivery_id, w.webhook_id, w.url, w.secret, d.event, d.created, d.payload, d.attempts
                   FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook WHERE d.id = $1";
        let Some(row) = sqlx::query(sql).bind(number).fetch_optional(self.readers()).await? else { return Ok(None) };
        Ok(Some(Delivery {
            id: row.try_get(0)?,
            webhook: row.try_get(1)?,
            url: row.try_get(2)?,
            secret: Secret::new(row.try_get::<String, _>(3)?),
            event: WebhookEvent::parse(&row.try_get::<String, _>(4)?)?,
            created: row.try_get(5)?,
            payload: row.try_get(6)?,
            attempts: row.try_get::<i64, _>(7)? as u32,
        }))
    }

    /// Takes a delivery out: it arrived, or is given up.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn end_delivery(&self, number: i64) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                sqlx::query("DELETE FROM webhook_deliveries WHERE id = $1").bind(number).execute(&mut w.connection).await?;
                Ok(())
            })
        })
        .await
    }

    /// Counts an attempt that failed; the next is due in `wait` milliseconds.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_off_delivery(&self, number: i64, wait: i64) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                let sql = "UPDATE webhook_deliveries SET attempts = attempts + 1, due = $2 WHERE id = $1";
                sqlx::query(sql).bind(number).bind(now().saturating_add(wait)).execute(&mut w.connection).await?;
                Ok(())
            })
        })
        .await
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
            Box::pin(async move {
                let at = now();
                let webhook = if is_new { w.new_webhook(&of, at).await? } else { w.webhook(&of).await? };
                w.change_webhook(webhook, &change, at).await
            })
        })
        .await?;
        self.webhook(&id).await
    }

    /// Webhooks in the order of `sql`, which begins with [`COLUMNS`].
    async fn found_webhooks(&self, sql: QueryBuilder<Sqlite>) -> Result<Vec<Webhook>> {
        let rows = self.rows(sql).await?;
        let mut found = Vec::with_capacity(rows.len());
        let mut at: HashMap<i64, usize> = HashMap::with_capacity(rows.len());
        for row in &rows {
            at.insert(row.try_get(0)?, found.len());
            found.push(Webhook {
                id: row.try_get(1)?,
                name: row.try_get(2)?,
                description: row.try_get(3)?,
                url: row.try_get(4)?,
                events: Vec::new(),
                is_active: row.try_get::<i64, _>(5)? != 0,
                created: row.try_get(6)?,
                updated: row.try_get(7)?,
            });
        }
        let ids = Vec::from_iter(at.keys().copied());
        let events =
            format!("SELECT webhook, event FROM webhook_events WHERE webhook IN {} ORDER BY webhook, place", in_list(&listed(&ids)));
        for row in self.rows(QueryBuilder::new(events)).await? {
            if let Some(at) = at.get(&row.try_get(0)?) {
                found[*at].events.push(WebhookEvent::parse(&row.try_get::<String, _>(1)?)?);
            }
        }
        Ok(found)
    }
}

impl Writer {
    /// Puts what is told of a change into the outbox: a delivery for each active webhook that wants it.
    pub async fn announce(&mut self, model: i64, change: Change<'_>) -> Result<()> {
        let sql = "SELECT id FROM webhooks WHERE is_active = 1 LIMIT 1";
        let any: Option<i64> = sqlx::query_scalar(sql).fetch_optional(&mut self.connection).await?;
        if any.is_none() {
            return Ok(());
        }
        let is_prompt = match change.makes_prompt() {
            Some(is_prompt) => is_prompt,
            None => {
                let sql = "SELECT model FROM registered_model_tags WHERE model = $1 AND key = $2 AND LOWER(value) = 'true'";
                let tagged: Option<i64> = sqlx::query_scalar(sql).bind(model).bind(PROMPT).fetch_optional(&mut self.connection).await?;
                tagged.is_some()
            }
        };
        let Some((event, payload)) = change.told(is_prompt) else { return Ok(()) };
        let (event, payload, created) = (event.to_string(), payload.to_string(), now());
        let sql = "SELECT w.id, w.webhook_id, COUNT(d.id), CAST(COALESCE(SUM(d.size), 0) AS BIGINT) FROM webhooks w
                   JOIN webhook_events e ON e.webhook = w.id LEFT JOIN webhook_deliveries d ON d.webhook = w.id
                   WHERE w.is_active = 1 AND e.event = $1 GROUP BY w.id, w.webhook_id ORDER BY w.id";
        let told: Vec<(i64, String, i64, i64)> = sqlx::query_as(sql).bind(&event).fetch_all(&mut self.connection).await?;
        for (webhook, id, waiting, bytes) in told {
            if waiting >= WAITING || bytes + payload.len() as i64 > WAITING_BYTES {
                tracing::warn!(webhook = id, event, waiting, "a webhook is behind by as much as is kept: an event is not delivered");
                self.announced.not_kept += 1;
                continue;
            }
            let sql = "INSERT INTO webhook_deliveries (webhook, delivery_id, event, created, attempts, due, size, payload)
                       VALUES ($1, $2, $3, $4, 0, $4, $5, $6)";
            let query = sqlx::query(sql).bind(webhook).bind(uuid()).bind(&event).bind(created);
            query.bind(payload.len() as i64).bind(&payload).execute(&mut self.connection).await?;
            self.announced.any = true;
        }
        Ok(())
    }

    async fn webhook(&mut self, id: &str) -> Result<i64> {
        let sql = "SELECT id FROM webhooks WHERE webhook_id = $1";
        let known: Option<i64> = sqlx::query_scalar(sql).bind(id).fetch_optional(&mut self.connection).await?;
        known.ok_or_else(|| no_webhook(id))
    }

    async fn new_webhook(&mut self, id: &str, at: i64) -> Result<i64> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM webhooks").fetch_one(&mut self.connection).await?;
        if count >= WEBHOOKS {
            return Err(Error::invalid(format!("There can be {WEBHOOKS} webhooks. Delete one that nobody needs.")));
        }
        let sql = "INSERT INTO webhooks (webhook_id, name, description, url, secret, is_active, created, updated)
                   VALUES ($1, '', '', '', '', 1, $2, $2) RETURNING id";
        Ok(sqlx::query_scalar(sql).bind(id).bind(at).fetch_one(&mut self.connection).await?)
    }

    async fn change_webhook(&mut self, webhook: i64, change: &WebhookChange, at: i64) -> Result<()> {
        let WebhookChange { name, description, url, events, secret, is_active } = change;
        let sql = "UPDATE webhooks SET name = COALESCE($2, name), description = COALESCE($3, description), url = COALESCE($4, url),
                   secret = COALESCE($5, secret), is_active = COALESCE($6, is_active), updated = $7
                   WHERE id = $1";
        let query = sqlx::query(sql).bind(webhook).bind(name).bind(description).bind(url);
        let query = query.bind(secret.as_ref().map(Secret::reveal)).bind(is_active.map(i64::from)).bind(at);
        query.execute(&mut self.connection).await?;
        if let Some(events) = events {
            sqlx::query("DELETE FROM webhook_events WHERE webhook = $1").bind(webhook).execute(&mut self.connection).await?;
            for (place, event) in events.iter().enumerate() {
                let sql = "INSERT INTO webhook_events (webhook, event, place) VALUES ($1, $2, $3) ON CONFLICT (webhook, event) DO NOTHING";
                let query = sqlx::query(sql).bind(webhook).bind(event.to_string()).bind(place as i64);
                query.execute(&mut self.connection).await?;
            }
        }
        if *is_active == Some(false) {
            sqlx::query("DELETE FROM webhook_deliveries WHERE webhook = $1").bind(webhook).execute(&mut self.connection).await?;
        }
        Ok(())
    }
}

fn no_webhook(id: &str) -> Error {
    let shown: String = id.chars().take(200).collect();
    Error::missing(format!("Webhook with ID {shown} not found."))
}
