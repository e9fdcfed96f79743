//! The queue as the operator sees it, and what the operator decides about it.
//!
//! Commands decide beside a running server and the HTTP side decides inside it;
//! both come here. A decision is one transaction that reads the message, asks
//! [`crate::domain::decision`] and writes: an attempt that was begun before it is
//! seen, and one that begins after it finds the part as the decision left it.
//! Every decision is kept with its message.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::ledger::{Ledger, PartKey, RecipientWrite};
use super::log::{MessageLog, MessageRow};
use super::sql::{Session, Whole, query, query_as, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, batch, changed, json, lock, millis, stored, timestamp};
use crate::crash::CrashPoint;
use crate::domain::batch::Ended;
use crate::domain::decision::{Choice, NotNow, Standing, decide};
use crate::domain::ids::{BatchId, CustomerId, MessageId};
use crate::domain::message::{PartStep, Road};

/// What the log says of a recipient who was given up by the operator.
pub const CANCELLED: &str = "cancelled by the operator";
/// "Other undefined status" (RFC 3463 §3.1): nobody refused it.
const CANCELLED_STATUS: &str = "5.0.0";
/// Messages decided in one transaction.
const PAGE: u32 = 200;
/// Between two of them: a server in another process gets its turn.
const PAUSE: Duration = Duration::from_millis(25);

/// Which parts of the queue are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// Their outcome cannot be known; the operator decides.
    Held,
    /// An attempt is under way.
    Sending,
    /// They wait for their next attempt.
    Queued,
}

impl Waiting {
    /// In the order in which the operator wants to see them.
    pub const ALL: [Self; 3] = [Self::Held, Self::Sending, Self::Queued];

    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Sending => "sending",
            Self::Queued => "queued",
        }
    }
}

/// Which messages of the queue are asked for.
#[derive(Debug, Clone, Default)]
pub struct QueueFilter {
    /// Only those with a part like that.
    pub state: Option<Waiting>,
    /// Only those of this customer.
    pub customer_id: Option<CustomerId>,
    /// At most so many.
    pub limit: u32,
}

/// A message as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QueueMessage {
    /// The whole log of it.
    #[serde(flatten)]
    pub log: MessageLog,
    /// Attempts of all parts.
    pub attempts: u32,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// Credits debited.
    pub debit: i64,
    /// What the operator decided, oldest first.
    pub decisions: Vec<Decision>,
}

/// How a decision came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// By `postmeter queue`.
    Command,
    /// By the operator's HTTP routes.
    Http,
}

impl Via {
    /// The name in the database and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Http => "http",
        }
    }
}

/// A decision that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Decision {
    /// What was decided.
    pub choice: Choice,
    /// When.
    pub decided_at: Timestamp,
    /// How it came in.
    pub via: Via,
    /// Parts that were held or, of a message given up, may have been taken: for them the risk was told and taken.
    pub held_parts: u32,
}

/// What the operator wants, with everything that it takes.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// What.
    pub choice: Choice,
    /// Whether the risk of deciding a part that may have been taken was told and taken.
    pub is_confirmed: bool,
    /// How it came in.
    pub via: Via,
    /// Now.
    pub now: Timestamp,
    /// How long a held part that is sent again is tried.
    pub lifetime: Duration,
}

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// There is no such message.
    #[error("there is no message {0}")]
    NoMessage(MessageId),
    /// Not as things stand.
    #[error("the message cannot be decided now")]
    NotNow(Choice, NotNow),
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type DecisionRow = (String, String, i64, String, Whole);

impl Store {
    /// Messages with a part that is not final, oldest first.
    pub async fn queue(&self, filter: &QueueFilter) -> Result<Vec<QueueMessage>, StoreError> {
        // Each arm has its own small index; the rows of what was sent are not touched.
        const READ: &str = "
            SELECT m.message_id, m.customer_id, m.kind, m.header_from, m.subject, m.size, m.price, m.captured,
                   m.released, m.accepted_at, m.expires_at, m.notes
            FROM (SELECT message_id FROM part WHERE state = 'held' AND ($1 IS NULL OR $1 = 'held')
                  UNION SELECT message_id FROM part WHERE state = 'sending' AND ($1 IS NULL OR $1 = 'sending')
                  UNION SELECT message_id FROM part WHERE state = 'queued' AND ($1 IS NULL OR $1 = 'queued')) AS p
                 JOIN message m ON m.message_id = p.message_id
            WHERE $2 IS NULL OR m.customer_id = $2
            ORDER BY m.message_id LIMIT $3";
        let rows: Vec<MessageRow> = query_as(READ)
            .bind(filter.state.map(Waiting::as_str))
            .bind(filter.customer_id.as_ref().map(CustomerId::as_str))
            .bind(filter.limit)
            .fetch_all(&self.readers)
            .await?;
        let logs = self.with_details(rows).await?;
        self.with_decisions(logs).await
    }

    /// One message, in the queue or not.
    pub async fn queue_message(&self, message_id: &MessageId) -> Result<Option<QueueMessage>, StoreError> {
        let log = self.message(message_id).await?;
        Ok(self.with_decisions(log.into_iter().collect()).await?.pop())
    }

    /// Carries a decision about one message out, or says why not.
    pub async fn decide(&self, message_id: &MessageId, order: &Order) -> Result<QueueMessage, DecisionError> {
        if let Some(why) = self.decide_all(std::slice::from_ref(message_id), order).await?.pop() {
            return Err(why);
        }
        let decided = self.queue_message(message_id).await?;
        decided.ok_or_else(|| DecisionError::NoMessage(message_id.clone()))
    }

    /// Has every message sent now that waits for its next attempt, and with
    /// `with_held` (for which the order must be confirmed) those that are held too.
    /// Returns how many.
    pub async fn retry_all(&self, with_held: bool, order: &Order) -> Result<u64, StoreError> {
        const READ: &str = "
            SELECT message_id FROM (SELECT message_id FROM part
                                    WHERE state = 'queued' AND due_at > $1 AND batch_max = 1
                                    UNION SELECT message_id FROM part
                                    WHERE state = 'queued' AND due_at > $1 AND batch_max > 1
                                    UNION SELECT message_id FROM part WHERE state = 'held' AND $2 = 1) AS p
            WHERE message_id > $3 ORDER BY message_id LIMIT $4";
        let mut retried = 0;
        let mut last = String::new();
        loop {
            let ids: Vec<String> = query_scalar(READ)
                .bind(millis(order.now))
                .bind(i64::from(with_held))
                .bind(&last)
                .bind(PAGE)
                .fetch_all(&self.readers)
                .await?;
            let Some(end) = ids.last().cloned() else { return Ok(retried) };
            last = end;
            let ids: Vec<MessageId> =
                ids.iter().map(|id| stored(MessageId::parse(id))).collect::<Result<_, _>>()?;
            let refused = self.decide_all(&ids, order).await?;
            retried += u64::try_from(ids.len().saturating_sub(refused.len())).unwrap_or(u64::MAX);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Carries a decision about some messages out, in one transaction; who is
    /// refused does not fail the others.
    async fn decide_all(&self, ids: &[MessageId], order: &Order) -> Result<Vec<DecisionError>, StoreError> {
        let names: Vec<&str> = ids.iter().map(MessageId::as_str).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::messages_and_calls(&mut tx, &names.iter().copied().collect()).await?;
        let mut ledger = Ledger::read(&mut tx, &names).await?;
        let (mut decided, mut refused) = (Vec::new(), Vec::new());
        for id in ids {
            if !ledger.messages.contains_key(id.as_str()) {
                refused.push(DecisionError::NoMessage(id.clone()));
                continue;
            }
            match ledger.decide(id.as_str(), order) {
                Ok(held_parts) => decided.push((id, held_parts)),
                Err(why) => refused.push(DecisionError::NotNow(order.choice, why)),
            }
        }
        if decided.is_empty() {
            return Ok(refused);
        }
        let calls = ledger.calls_of(&decided.iter().map(|(id, _)| id.as_str()).collect());
        let left = ledger.write(&mut tx, millis(order.now)).await?;
        batch::hasten(&mut tx, &calls.iter().map(BatchId::as_str).collect(), order.now).await?;
        remember(&mut tx, &decided, order).await?;
        tx.commit().await?;
        drop(writer);
        self.pass(CrashPoint::OperatorDecided);
        self.remove_left(left);
        self.tell(Wake::Parts).await;
        for (message_id, held_parts) in decided {
            let (choice, via) = (order.choice.as_str(), order.via.as_str());
            tracing::warn!(%message_id, choice, via, held_parts, "the operator decided");
        }
        Ok(refused)
    }

    async fn with_decisions(&self, logs: Vec<MessageLog>) -> Result<Vec<QueueMessage>, StoreError> {
        const READ: &str = "
            SELECT message_id, choice, decided_at, via, held_parts FROM decision
            WHERE message_id IN (SELECT atom FROM json_each($1)) ORDER BY message_id, number";
        let ids: Vec<&str> = logs.iter().map(|log| log.message_id.as_str()).collect();
        let rows: Vec<DecisionRow> = query_as(READ).bind(json(&ids)?).fetch_all(&self.readers).await?;
        logs.into_iter()
            .map(|log| {
                let own = rows.iter().filter(|row| row.0 == log.message_id.as_str());
                let decisions = own.map(decision).collect::<Result<_, _>>()?;
                let last_error = log.last_error().map(str::to_owned);
                let (attempts, debit) = (log.attempts(), log.captured);
                Ok(QueueMessage { attempts, last_error, debit, decisions, log })
            })
            .collect()
    }
}

fn decision((_, choice, decided_at, via, held_parts): &DecisionRow) -> Result<Decision, StoreError> {
    let unknown = |name: &str| StoreError::Corrupt(format!("{name} is nothing that an operator decides"));
    let vias = [Via::Command, Via::Http];
    Ok(Decision {
        choice: Choice::parse(choice).ok_or_else(|| unknown(choice))?,
        decided_at: timestamp(*decided_at)?,
        via: vias.into_iter().find(|known| known.as_str() == via).ok_or_else(|| unknown(via))?,
        held_parts: held_parts.0,
    })
}

/// Keeps decisions, and gives the messages of held parts that are sent again the
/// time for it: most of them have outlived their lifetime.
async fn remember(
    tx: &mut Session<'_>,
    decided: &[(&MessageId, u32)],
    order: &Order,
) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO decision (message_id, number, decided_at, choice, via, held_parts)
        SELECT value ->> 0,
               (SELECT coalesce(max(d.number), 0) + 1 FROM decision d WHERE d.message_id = value ->> 0),
               $2, $3, $4, CAST(value ->> 1 AS BIGINT)
        FROM json_each($1)";
    const EXTEND: &str = "
        UPDATE message SET expires_at = max(expires_at, $2)
        WHERE message_id IN (SELECT atom FROM json_each($1))";
    let rows: Vec<_> = decided.iter().map(|(id, held_parts)| (id.as_str(), held_parts)).collect();
    let done = query(INSERT)
        .bind(json(&rows)?)
        .bind(millis(order.now))
        .bind(order.choice.as_str())
        .bind(order.via.as_str())
        .execute(&mut *tx)
        .await?;
    changed("decision", done.rows_affected(), rows.len())?;
    if order.choice == Choice::Retry {
        let held: Vec<_> = decided.iter().filter(|(_, held)| *held > 0).map(|(id, _)| id.as_str()).collect();
        let until = order.now.checked_add(order.lifetime).unwrap_or(Timestamp::MAX);
        let done = query(EXTEND).bind(json(&held)?).bind(millis(until)).execute(tx).await?;
        changed("lifetime", done.rows_affected(), held.len())?;
    }
    Ok(())
}

impl Ledger {
    /// Applies a decision to what was read; for how many of its parts the risk was taken.
    fn decide(&mut self, message_id: &str, order: &Order) -> Result<u32, NotNow> {
        let keys: Vec<PartKey> = self.parts.keys().filter(|key| key.0 == message_id).cloned().collect();
        let standings: Vec<Standing> = keys.iter().filter_map(|key| self.standing(key)).collect();
        let steps = decide(order.choice, &standings, order.is_confirmed, order.now)?;
        let mut held_parts = 0;
        for ((key, standing), step) in keys.iter().zip(&standings).zip(steps) {
            let Some(step) = step else { continue };
            held_parts += u32::from(standing.has_risk(order.choice));
            self.take(key, step);
            if order.choice == Choice::Cancel {
                self.give_up(key, CANCELLED);
            }
        }
        Ok(held_parts)
    }

    fn standing(&self, key: &PartKey) -> Option<Standing> {
        let part = self.parts.get(key)?;
        let (state, attempt) = (part.state.clone(), part.attempt);
        let (unknown, any_sent) = (part.unknown && part.road == Road::Resend, part.any_sent);
        Some(Standing { state, attempt, unknown, maybe_taken: self.is_maybe_taken(key), any_sent })
    }

    /// Moves a part. A held part that is sent again is another call, under another key:
    /// the upstream may have forgotten the old one, and the answer to the new one says
    /// nothing about it.
    fn take(&mut self, key: &PartKey, step: PartStep) {
        let Some(part) = self.parts.get_mut(key) else { return };
        if let Some(state) = part.state.after(step) {
            part.state = state;
        }
        if !matches!(step, PartStep::Resume { .. }) {
            return;
        }
        let was_unknown = part.unknown;
        part.settle_outcome(false);
        part.end_call(Ended::Resumed);
        if was_unknown {
            let waiting = self.waiting(key);
            self.doubt(key, waiting.into_iter().map(|(_, address)| address));
        }
    }

    /// The recipients of a part that are not final.
    fn waiting(&self, (message_id, part_no): &PartKey) -> Vec<(String, String)> {
        let own = self.recipients.iter().filter(|((id, _), no)| id == message_id && *no == part_no);
        own.map(|(recipient, _)| recipient.clone()).collect()
    }

    /// Gives the recipients of a part up that are not final, and what is held for them back.
    pub(super) fn give_up(&mut self, key: &PartKey, why: &str) {
        let waiting = self.waiting(key);
        for recipient in &waiting {
            self.forget(recipient);
            let (id, address) = recipient.clone();
            let said = (Some(CANCELLED_STATUS.to_owned()), Some(why.to_owned()));
            let write: RecipientWrite = (id, address, "failed", said.0, said.1);
            self.recipient_writes.push(write);
        }
        self.charge(&key.0, 0, i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        if let Some(part) = self.parts.get_mut(key) {
            let before = part.last_error.take().map(|error| format!(", after: {error}"));
            part.last_error = Some(format!("{why}{}", before.unwrap_or_default()));
        }
    }
}
