//! The story of one message, in the order of time: what was accepted, tried, told,
//! reported, suppressed, charged, given back and decided. It is put together from the rows that each step
//! leaves anyway; only attempts that did not go the ordinary way have rows for it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::dsn::Asked;
use super::event::EventLog;
use super::log::{MessageLog, PartLog};
use super::sql::{query_as, query_scalar};
use super::suppression::Suppression;
use super::{Store, StoreError, stored, timestamp};
use crate::domain::address::Mailbox;
use crate::domain::ids::MessageId;
use crate::domain::suppression::SuppressedAddress;

/// Entries that are looked at to find the one of a capture: those that were void cover it too.
const MAX_ENTRIES: u32 = 50;

/// A message with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The message as lists show it.
    pub log: MessageLog,
    /// What the upstream told, in order.
    pub events: Vec<EventLog>,
    /// Everything, in order.
    pub timeline: Vec<Moment>,
    /// What its sender asked to be told; unset: nothing.
    pub asked: Option<Asked>,
}

/// Something that happened. What is unset does not belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// `accepted`, `note`, `attempt`, `event`, `suppressed`, `report`, `captured`, `released`, `entry`,
    /// `refund` or `decision`.
    pub what: &'static str,
    /// How it came out: of an attempt, an event, an entry, a refund or a decision. Of a report
    /// how it stands with its recipient, and of an address that was suppressed what for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The part of an attempt or an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_no: Option<u32>,
    /// The recipient; unset: all of them, or nobody said which. Of a report its own, and of an
    /// address that was suppressed as the list has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The message that a report is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The road of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub road: Option<String>,
    /// The number of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The upstream's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_id: Option<String>,
    /// Credits that were held, captured, released or refunded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credits: Option<i64>,
    /// The ledger entry at Dodo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<String>,
    /// What was said, or why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Moment {
    fn new(at: Timestamp, what: &'static str) -> Self {
        let (outcome, recipient, road, upstream_id, entry_id, text) = Default::default();
        let (part_no, message_id, attempt, credits) = (None, None, None, None);
        Self {
            at,
            what,
            outcome,
            part_no,
            recipient,
            message_id,
            road,
            attempt,
            upstream_id,
            credits,
            entry_id,
            text,
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
struct AttemptRow {
    #[sqlx(try_from = "i64")]
    part_no: u32,
    #[sqlx(try_from = "i64")]
    attempt: u32,
    at: i64,
    outcome: String,
    upstream_id: Option<String>,
    words: Option<String>,
}

#[derive(Debug, sqlx::FromRow)]
struct EntryRow {
    entry_id: String,
    state: String,
    opened_at: i64,
    closed_at: Option<i64>,
    doubtful_since: Option<i64>,
}

#[derive(Debug, sqlx::FromRow)]
struct RefundRow {
    address: String,
    amount: i64,
    state: String,
    entry_id: Option<String>,
    reason: Option<String>,
    decided_at: i64,
    closed_at: Option<i64>,
}

impl Store {
    /// All that is known of one message.
    pub async fn story(&self, message_id: &MessageId) -> Result<Option<Story>, StoreError> {
        let Some(log) = self.message(message_id).await? else { return Ok(None) };
        let events = self.events(message_id).await?;
        let mut timeline = accepted(&log);
        timeline.extend(self.attempts(&log).await?);
        timeline.extend(events.iter().map(|event| Moment {
            outcome: Some(event.kind.to_owned()),
            part_no: Some(event.part_no),
            recipient: event.recipient.clone(),
            text: event.words.clone(),
            ..Moment::new(event.at, "event")
        }));
        timeline.extend(self.suppressed_for(&log).await?);
        timeline.extend(self.reported(&log).await?);
        timeline.extend(self.charged(&log).await?);
        timeline.extend(self.refunded(&log).await?);
        timeline.extend(self.decided(&log).await?);
        // Stable: what happened in the same instant stays in the order of its making.
        timeline.sort_by_key(|moment| moment.at);
        let asked = self.asked(message_id).await?;
        Ok(Some(Story { log, events, timeline, asked }))
    }

    /// Attempts with rows of their own; a part that was sent without one tells it itself.
    async fn attempts(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        const READ: &str = "
            SELECT part_no, attempt, at, outcome, upstream_id, words FROM attempt
            WHERE message_id = $1 ORDER BY part_no, number";
        let rows: Vec<AttemptRow> =
            query_as(READ).bind(log.message_id.as_str()).fetch_all(&self.readers).await?;
        let ended = self.ended(log).await?.0;
        let mut moments = Vec::new();
        for (part_no, part) in (0..).zip(&log.parts) {
            let own = rows.iter().filter(|row| row.part_no == part_no);
            for row in own.clone() {
                moments.push(Moment {
                    outcome: Some(row.outcome.clone()),
                    part_no: Some(part_no),
                    road: Some(part.road.clone()),
                    attempt: Some(row.attempt),
                    upstream_id: row.upstream_id.clone(),
                    text: row.words.clone(),
                    ..Moment::new(timestamp(row.at)?, "attempt")
                });
            }
            let is_told = own.clone().any(|row| row.outcome == "sent");
            moments.extend(ended.filter(|_| part.state == "sent" && !is_told).map(|at| ordinary(part, at)));
        }
        Ok(moments)
    }

    /// Its recipients who are on the customer's list because of it.
    async fn suppressed_for(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        let recipients = log.recipients.iter();
        let addresses: BTreeSet<SuppressedAddress> = recipients
            .map(|to| Ok(SuppressedAddress::of(&stored(Mailbox::parse(&to.address))?)))
            .collect::<Result<_, StoreError>>()?;
        let listed = self.suppressed_by(&log.customer_id, &log.message_id, &addresses).await?;
        let moment = |entry: Suppression| Moment {
            outcome: Some(entry.reason.as_str().to_owned()),
            recipient: Some(entry.address),
            text: entry.detail,
            ..Moment::new(entry.added_at, "suppressed")
        };
        Ok(listed.into_iter().map(moment).collect())
    }

    /// Our own mail about it, as long as that is kept.
    async fn reported(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        const READ: &str = "
            SELECT m.message_id, m.accepted_at, r.address, r.state
            FROM message m JOIN recipient r ON r.message_id = m.message_id
            WHERE m.about = $1 ORDER BY m.message_id";
        let rows: Vec<(String, i64, String, String)> =
            query_as(READ).bind(log.message_id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(message_id, accepted_at, recipient, state)| {
                Ok(Moment {
                    outcome: Some(state),
                    recipient: Some(recipient),
                    message_id: Some(stored(MessageId::parse(&message_id))?),
                    ..Moment::new(timestamp(accepted_at)?, "report")
                })
            })
            .collect()
    }

    /// When its last recipient was final, and the number of its capture.
    async fn ended(&self, log: &MessageLog) -> Result<(Option<Timestamp>, Option<i64>), StoreError> {
        const READ: &str = "SELECT final_at, capture_no FROM message WHERE message_id = $1";
        let row: Option<(Option<i64>, Option<i64>)> =
            query_as(READ).bind(log.message_id.as_str()).fetch_optional(&self.readers).await?;
        let (final_at, capture_no) = row.unwrap_or_default();
        Ok((final_at.map(timestamp).transpose()?, capture_no))
    }

    /// What was captured and released, and the entry at Dodo.
    async fn charged(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        const CAPTURED: &str = "SELECT captured_at FROM capture WHERE customer_id = $1 AND number = $2";
        const ENTRIES: &str = "
            SELECT entry_id, state, opened_at, closed_at, doubtful_since FROM
                (SELECT entry_id, kind, state, last_capture, opened_at, closed_at, doubtful_since
                 FROM entry WHERE customer_id = $1 AND first_capture <= $2
                 ORDER BY first_capture DESC LIMIT $3) AS e
            WHERE kind = 'debit' AND last_capture >= $2 ORDER BY opened_at";
        let (ended, capture_no) = self.ended(log).await?;
        let mut moments = Vec::new();
        if let Some(at) = ended.filter(|_| log.released > 0) {
            moments.push(Moment { credits: Some(log.released), ..Moment::new(at, "released") });
        }
        let Some(number) = capture_no else { return Ok(moments) };
        let customer_id = log.customer_id.as_str();
        let captured_at: Option<i64> =
            query_scalar(CAPTURED).bind(customer_id).bind(number).fetch_optional(&self.readers).await?;
        let captured_at = captured_at.map(timestamp).transpose()?;
        if let Some(at) = captured_at.or(ended) {
            moments.push(Moment { credits: Some(log.captured), ..Moment::new(at, "captured") });
        }
        let entries: Vec<EntryRow> = query_as(ENTRIES)
            .bind(customer_id)
            .bind(number)
            .bind(MAX_ENTRIES)
            .fetch_all(&self.readers)
            .await?;
        for entry in entries {
            moments.extend(entry.moments()?);
        }
        Ok(moments)
    }

    async fn refunded(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        const READ: &str = "
            SELECT f.address, f.amount, f.state, f.entry_id, f.reason, f.decided_at, e.closed_at
            FROM refund f LEFT JOIN entry e ON e.entry_id = f.entry_id
            WHERE f.message_id = $1 ORDER BY f.address";
        let rows: Vec<RefundRow> =
            query_as(READ).bind(log.message_id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|row| {
                let at = row.closed_at.filter(|_| row.state == "credited").unwrap_or(row.decided_at);
                Ok(Moment {
                    outcome: Some(row.state),
                    recipient: Some(row.address).filter(|address| !address.is_empty()),
                    credits: Some(row.amount),
                    entry_id: row.entry_id,
                    text: row.reason,
                    ..Moment::new(timestamp(at)?, "refund")
                })
            })
            .collect()
    }

    async fn decided(&self, log: &MessageLog) -> Result<Vec<Moment>, StoreError> {
        const READ: &str = "
            SELECT choice, decided_at, via FROM decision WHERE message_id = $1 ORDER BY number";
        let rows: Vec<(String, i64, String)> =
            query_as(READ).bind(log.message_id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(choice, decided_at, via)| {
                let text = Some(format!("by the operator, via {via}"));
                Ok(Moment { outcome: Some(choice), text, ..Moment::new(timestamp(decided_at)?, "decision") })
            })
            .collect()
    }
}

impl EntryRow {
    fn moments(self) -> Result<Vec<Moment>, StoreError> {
        let ended = if self.state == "void" { "void" } else { "settled" };
        let steps =
            [("opened", Some(self.opened_at)), ("doubtful", self.doubtful_since), (ended, self.closed_at)];
        let told = steps.into_iter().filter_map(|(outcome, at)| at.map(|at| (outcome, at)));
        told.map(|(outcome, at)| {
            let entry_id = Some(self.entry_id.clone());
            Ok(Moment { outcome: Some(outcome.to_owned()), entry_id, ..Moment::new(timestamp(at)?, "entry") })
        })
        .collect()
    }
}

/// The acceptance with its hold, and what the road changes.
fn accepted(log: &MessageLog) -> Vec<Moment> {
    let at = log.accepted_at;
    let note = |note: &String| Moment { text: Some(note.clone()), ..Moment::new(at, "note") };
    let accepted = Moment { credits: Some(log.price), ..Moment::new(at, "accepted") };
    std::iter::once(accepted).chain(log.notes.iter().map(note)).collect()
}

/// The attempt that sent the part and left no row.
fn ordinary(part: &PartLog, at: Timestamp) -> Moment {
    Moment {
        outcome: Some("sent".to_owned()),
        part_no: Some(part.part_no),
        road: Some(part.road.clone()),
        attempt: Some(part.attempts),
        upstream_id: part.upstream_id.clone(),
        ..Moment::new(at, "attempt")
    }
}
