//! The message log: what a customer and the operator may know about a message.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::ledger::part_state;
use super::sql::query_as;
use super::{Store, StoreError, json, stored, timestamp};
use crate::domain::event::EventKind;
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::{MessageState, PartState};

/// One message as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MessageLog {
    /// Its id.
    pub message_id: MessageId,
    /// Whose.
    pub customer_id: CustomerId,
    /// `submission`, `bounce` or `notice`.
    pub kind: String,
    /// Where it stands.
    pub state: MessageState,
    /// The From header's address.
    pub from: String,
    /// The subject.
    pub subject: Option<String>,
    /// Octets.
    pub size: i64,
    /// Credits it costs.
    pub price: i64,
    /// Credits debited.
    pub captured: i64,
    /// Credits given back.
    pub released: i64,
    /// When it was accepted (RFC 3339).
    pub accepted_at: Timestamp,
    /// When it is given up unless it was sent.
    pub expires_at: Timestamp,
    /// What its road changes or loses of it, a line each.
    pub notes: Vec<String>,
    /// Its recipients.
    pub recipients: Vec<RecipientLog>,
    /// Its parts.
    pub parts: Vec<PartLog>,
    /// What was given back, or not, because it bounced.
    pub refunds: Vec<RefundLog>,
}

/// One refund as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RefundLog {
    /// The recipient it is for; unset: the whole message.
    pub recipient: Option<String>,
    /// How many credits.
    pub credits: i64,
    /// `waiting`, `due`, `released`, `credited`, `capped`, `expired` or `refused`.
    pub state: String,
    /// Why nothing is given back.
    pub reason: Option<String>,
    /// The credit entry at Dodo.
    pub entry_id: Option<String>,
}

/// One recipient as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RecipientLog {
    /// The address.
    pub address: String,
    /// The part that it is sent with: one of [`PartLog::part_no`].
    pub part_no: u32,
    /// `queued`, `sent` or `failed`.
    pub state: String,
    /// The enhanced status code of a refusal.
    pub status: Option<String>,
    /// What the upstream said.
    pub reply: Option<String>,
    /// Whether it may have the mail by an attempt whose outcome was never told; false once it is sent.
    pub maybe_taken: bool,
    /// When the upstream told that the recipient's server had refused it for good after all.
    pub bounced_at: Option<Timestamp>,
    /// What that server said.
    pub bounce: Option<String>,
    /// What the upstream told in the end: a name of [`EventKind`].
    pub news: Option<&'static str>,
}

/// One part as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PartLog {
    /// Its number in the message, from 0.
    pub part_no: u32,
    /// `resend` or `smtp`.
    pub road: String,
    /// `queued`, `sending`, `sent`, `failed` or `held`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is due.
    pub due_at: Option<Timestamp>,
    /// The upstream's id.
    pub upstream_id: Option<String>,
    /// The call to Resend that it is fixed to, or that made it final: its idempotency key,
    /// and perhaps that of parts of other messages too.
    pub batch_id: Option<String>,
    /// The last error.
    pub last_error: Option<String>,
    /// Whether the last attempt ended without an answer, or an earlier one did and no later answer can
    /// tell what became of it: the upstream may have it.
    pub unknown: bool,
}

impl MessageLog {
    /// Attempts of all parts.
    pub fn attempts(&self) -> u32 {
        self.parts.iter().map(|part| part.attempts).fold(0, u32::saturating_add)
    }

    /// The last thing that went wrong.
    pub fn last_error(&self) -> Option<&str> {
        self.parts.iter().rev().find_map(|part| part.last_error.as_deref())
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct MessageRow {
    message_id: String,
    customer_id: String,
    kind: String,
    header_from: String,
    subject: Option<String>,
    size: i64,
    price: i64,
    captured: i64,
    released: i64,
    accepted_at: i64,
    expires_at: i64,
    notes: Option<String>,
}

#[derive(sqlx::FromRow)]
struct PartRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    road: String,
    state: String,
    #[sqlx(try_from = "i64")]
    attempt: u32,
    time: i64,
    due_at: Option<i64>,
    upstream_id: Option<String>,
    batch_id: Option<String>,
    last_error: Option<String>,
    is_unknown: bool,
}

#[derive(sqlx::FromRow)]
struct RecipientRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    address: String,
    state: String,
    status: Option<String>,
    reply: Option<String>,
    may_have_it: bool,
    bounced_at: Option<i64>,
    bounce: Option<String>,
}

/// Message, address, kind.
type NewsRow = (String, String, String);
/// Of each message and address what stands in the end.
type LastWords = BTreeMap<(String, String), EventKind>;
type RefundRow = (String, String, i64, String, Option<String>, Option<String>);

impl Store {
    /// A customer's messages (or everyone's), newest first, at most `limit`, older than `before`.
    pub async fn messages(
        &self,
        customer_id: Option<&CustomerId>,
        before: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<MessageLog>, StoreError> {
        // Two texts: of one condition for both SQLite would make a walk through everybody's messages.
        const OF_ONE: &str = "
            SELECT message_id, customer_id, kind, header_from, subject, size, price, captured, released,
                   accepted_at, expires_at, notes
            FROM message WHERE message_id < $1 AND customer_id = $3 ORDER BY message_id DESC LIMIT $2";
        const OF_ALL: &str = "
            SELECT message_id, customer_id, kind, header_from, subject, size, price, captured, released,
                   accepted_at, expires_at, notes
            FROM message WHERE message_id < $1 ORDER BY message_id DESC LIMIT $2";
        // No id has an octet as high as that.
        let before = before.map_or("~", MessageId::as_str);
        let read = query_as(if customer_id.is_some() { OF_ONE } else { OF_ALL }).bind(before).bind(limit);
        let read = if let Some(whose) = customer_id { read.bind(whose.as_str()) } else { read };
        let rows: Vec<MessageRow> = read.fetch_all(&self.readers).await?;
        self.with_details(rows).await
    }

    /// One message.
    pub async fn message(&self, message_id: &MessageId) -> Result<Option<MessageLog>, StoreError> {
        const READ: &str = "
            SELECT message_id, customer_id, kind, header_from, subject, size, price, captured, released,
                   accepted_at, expires_at, notes
            FROM message WHERE message_id = $1";
        let rows: Vec<MessageRow> = query_as(READ).bind(message_id.as_str()).fetch_all(&self.readers).await?;
        Ok(self.with_details(rows).await?.pop())
    }

    /// The messages of these rows with their parts and recipients.
    pub(super) async fn with_details(&self, rows: Vec<MessageRow>) -> Result<Vec<MessageLog>, StoreError> {
        const PARTS: &str = "
            SELECT message_id, part_no, road, state, attempt, coalesce(due_at, lease_until, 0) AS time, due_at,
                   upstream_id, batch_id, last_error, unknown = 1 OR EXISTS (SELECT 1 FROM recipient r
                       WHERE r.message_id = part.message_id AND r.part_no = part.part_no
                         AND r.state = 'queued' AND r.maybe_taken = 1) AS is_unknown
            FROM part WHERE message_id IN (SELECT atom FROM json_each($1)) ORDER BY message_id, part_no";
        const RECIPIENTS: &str = "
            SELECT message_id, part_no, address, state, status, reply,
                   maybe_taken = 1 AND state <> 'sent' AS may_have_it, bounced_at, bounce
            FROM recipient WHERE message_id IN (SELECT atom FROM json_each($1)) ORDER BY message_id, address";
        const REFUNDS: &str = "
            SELECT message_id, address, amount, state, reason, entry_id
            FROM refund WHERE message_id IN (SELECT atom FROM json_each($1)) ORDER BY message_id, address";
        const NEWS: &str = "
            SELECT DISTINCT message_id, address, kind FROM event
            WHERE message_id IN (SELECT atom FROM json_each($1)) AND address <> ''";
        let ids: Vec<&str> = rows.iter().map(|row| row.message_id.as_str()).collect();
        let ids = json(&ids)?;
        let parts: Vec<PartRow> = query_as(PARTS).bind(&ids).fetch_all(&self.readers).await?;
        let recipients: Vec<RecipientRow> = query_as(RECIPIENTS).bind(&ids).fetch_all(&self.readers).await?;
        let refunds: Vec<RefundRow> = query_as(REFUNDS).bind(&ids).fetch_all(&self.readers).await?;
        let news: Vec<NewsRow> = query_as(NEWS).bind(&ids).fetch_all(&self.readers).await?;
        let news = last_words(news)?;
        let details = Details { parts, recipients, refunds, news };
        rows.into_iter().map(|row| row.with(&details)).collect()
    }
}

/// What stands below some messages.
struct Details {
    parts: Vec<PartRow>,
    recipients: Vec<RecipientRow>,
    refunds: Vec<RefundRow>,
    news: LastWords,
}

impl MessageRow {
    fn with(self, details: &Details) -> Result<MessageLog, StoreError> {
        let own_recipients =
            details.recipients.iter().filter(|recipient| recipient.message_id == self.message_id);
        let own_refunds = details.refunds.iter().filter(|refund| refund.0 == self.message_id);
        let own_parts: Vec<&PartRow> =
            details.parts.iter().filter(|part| part.message_id == self.message_id).collect();
        let states: Vec<PartState> = own_parts
            .iter()
            .map(|part| part_state(&part.state, part.attempt, part.time))
            .collect::<Result<_, _>>()?;
        Ok(MessageLog {
            message_id: stored(MessageId::parse(&self.message_id))?,
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            kind: self.kind,
            state: MessageState::of(&states),
            from: self.header_from,
            subject: self.subject,
            size: self.size,
            price: self.price,
            captured: self.captured,
            released: self.released,
            accepted_at: timestamp(self.accepted_at)?,
            expires_at: timestamp(self.expires_at)?,
            notes: stored(self.notes.as_deref().map(serde_json::from_str).transpose())?.unwrap_or_default(),
            recipients: own_recipients
                .map(|row| recipient_log(row, &details.news))
                .collect::<Result<_, _>>()?,
            parts: own_parts.into_iter().map(part_log).collect::<Result<_, _>>()?,
            refunds: own_refunds.map(refund_log).collect(),
        })
    }
}

fn last_words(rows: Vec<NewsRow>) -> Result<LastWords, StoreError> {
    let mut last = LastWords::new();
    for (message_id, address, kind) in rows {
        let unknown = || StoreError::Corrupt(format!("{kind} is no event"));
        let kind = EventKind::parse(&kind).ok_or_else(unknown)?;
        let stands = last.entry((message_id, address)).or_insert(kind);
        *stands = kind.max(*stands);
    }
    Ok(last)
}

fn recipient_log(row: &RecipientRow, news: &LastWords) -> Result<RecipientLog, StoreError> {
    Ok(RecipientLog {
        address: row.address.clone(),
        part_no: row.part_no,
        state: row.state.clone(),
        status: row.status.clone(),
        reply: row.reply.clone(),
        maybe_taken: row.may_have_it,
        bounced_at: row.bounced_at.map(timestamp).transpose()?,
        bounce: row.bounce.clone(),
        news: news.get(&(row.message_id.clone(), row.address.clone())).map(|kind| kind.as_str()),
    })
}

fn refund_log((_, address, credits, state, reason, entry_id): &RefundRow) -> RefundLog {
    RefundLog {
        recipient: Some(address.clone()).filter(|address| !address.is_empty()),
        credits: *credits,
        state: state.clone(),
        reason: reason.clone(),
        entry_id: entry_id.clone(),
    }
}

fn part_log(row: &PartRow) -> Result<PartLog, StoreError> {
    Ok(PartLog {
        part_no: row.part_no,
        road: row.road.clone(),
        state: row.state.clone(),
        attempts: row.attempt,
        due_at: row.due_at.map(timestamp).transpose()?,
        upstream_id: row.upstream_id.clone(),
        batch_id: row.batch_id.clone(),
        last_error: row.last_error.clone(),
        unknown: row.is_unknown,
    })
}
