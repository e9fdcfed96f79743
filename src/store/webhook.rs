//! Webhooks that were handled: each id once.

use jiff::Timestamp;

use super::commit::{Member, gather};
use super::sql::{Session, query, query_scalar};
use super::{Store, StoreError, millis};
use crate::domain::ids::CustomerId;

/// A webhook that arrived, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `dodo` or `resend`.
    pub source: &'static str,
    /// The `webhook-id` header, the same on every retry.
    pub webhook_id: String,
    /// The event's type, known or not.
    pub event_type: String,
    /// Whom it names, if it names one of ours.
    pub customer_id: Option<CustomerId>,
}

impl Store {
    /// Whether this id was handled before.
    pub async fn is_webhook_handled(
        &self,
        source: &'static str,
        webhook_id: &str,
    ) -> Result<bool, StoreError> {
        const READ: &str = "
            SELECT EXISTS (SELECT 1 FROM webhook WHERE source = $1 AND webhook_id = $2)";
        Ok(query_scalar(READ).bind(source).bind(webhook_id).fetch_one(&self.readers).await?)
    }

    /// Remembers a webhook as handled. Handling is idempotent by itself; this only
    /// spares the work when it is delivered again.
    pub async fn webhook_handled(&self, webhook: &Webhook, now: Timestamp) -> Result<(), StoreError> {
        let handled = Box::new(Handled { webhook: webhook.clone(), now });
        gather(&self.hot, |answer| Member::Handled(handled, answer)).await
    }
}

/// A webhook, and when it was handled.
#[derive(Debug)]
pub(super) struct Handled {
    webhook: Webhook,
    now: Timestamp,
}

/// Keeps the ids of webhooks, in their order: another node may have got the same.
pub(super) async fn remember<'a>(
    tx: &mut Session<'_>,
    handled: impl Iterator<Item = &'a Handled>,
) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO webhook (source, webhook_id, type, customer_id, received_at)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let mut handled: Vec<&Handled> = handled.collect();
    handled.sort_by_key(|of| (of.webhook.source, &of.webhook.webhook_id));
    for Handled { webhook, now } in handled {
        query(INSERT)
            .bind(webhook.source)
            .bind(&webhook.webhook_id)
            .bind(&webhook.event_type)
            .bind(webhook.customer_id.as_ref().map(CustomerId::as_str))
            .bind(millis(*now))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}
