//! What became of attempts: recipients, parts and money in one transaction.
//!
//! A batch of reports is read once, decided in Rust with the rules of
//! [`crate::domain::message`], and written with one statement per table. The
//! capture of a message happens in the same commit as the news that it was sent,
//! so that no crash can lie between them (P3).

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::accept::{Acceptance, insert_own};
use super::account::credits;
use super::commit::Member;
use super::{Store, StoreError, changed, json, millis, timestamp};
use crate::domain::address::Mailbox;
use crate::domain::answer::Answer;
use crate::domain::credits::Credits;
use crate::domain::ids::MessageId;
use crate::domain::message::{PartState, PartStep};

/// What a worker has to say about one attempt.
#[derive(Debug, Clone)]
pub struct Report {
    /// The message.
    pub message_id: MessageId,
    /// Its part.
    pub part_no: u32,
    /// The attempt that speaks.
    pub attempt: u32,
    /// Now.
    pub at: Timestamp,
    /// What happened.
    pub news: News,
    /// The bounce for the recipients that newly failed, if one is due.
    pub bounce: Option<Box<Acceptance>>,
}

/// What happened to a part.
#[derive(Debug, Clone)]
pub enum News {
    /// The upstream answered for every recipient that was asked for, or we gave them up.
    Answered(Answered),
    /// Nobody was served; the part is tried again.
    Retry {
        /// When.
        due: Timestamp,
        /// Why.
        error: String,
        /// Whether the outcome is unknown: the next try must be the same call.
        unknown: bool,
        /// Whether the attempt counts.
        counts: bool,
    },
    /// The outcome cannot be known any more; the operator decides.
    Hold {
        /// Why.
        reason: String,
    },
}

/// Answers, recipient by recipient; who is in neither list is tried again.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// The upstream's id of what it accepted.
    pub upstream_id: Option<String>,
    /// Accepted recipients.
    pub sent: Vec<Mailbox>,
    /// Recipients that failed for good.
    pub failed: Vec<(Mailbox, Answer)>,
    /// When the others are tried again, and why they were not taken.
    pub again: Option<(Timestamp, Answer)>,
}

/// Whether a report was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the database.
    Applied {
        /// Credits that were captured: unless it is none, a settlement is due.
        captured: Credits,
    },
    /// The attempt is not the current one any more, or the part is final: nothing changed.
    Late,
}

impl Store {
    /// Records a report; returns after its commit.
    pub async fn report(&self, report: Report) -> Result<Recorded, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = |e: String| StoreError::Unavailable(format!("the writer has stopped: {e}"));
        self.hot.send(Member::Report(Box::new(report), answer)).await.map_err(|e| gone(e.to_string()))?;
        answered.await.map_err(|e| gone(e.to_string()))?
    }
}

/// A part of the batch as it stands inside the transaction.
#[derive(Debug)]
struct PartNow {
    state: PartState,
    attempt: u32,
    waiting: u32,
    any_sent: bool,
    key_no: i64,
    unknown: bool,
    first_try_at: Option<i64>,
    upstream_id: Option<String>,
    last_error: Option<String>,
}

/// A message of the batch as it stands inside the transaction.
#[derive(Debug)]
struct MessageNow {
    customer_id: String,
    per_recipient: bool,
    price: i64,
    captured: i64,
    released: i64,
    queued: i64,
    any_sent: bool,
    touched: bool,
}

type PartKey = (String, u32);
/// Message, address, state, status, reply.
type RecipientWrite = (String, String, &'static str, Option<String>, Option<String>);

/// Everything that a batch reads before it decides.
#[derive(Debug, Default)]
struct Ledger {
    parts: BTreeMap<PartKey, PartNow>,
    recipients: BTreeMap<(String, String), u32>,
    messages: BTreeMap<String, MessageNow>,
    recipient_writes: Vec<RecipientWrite>,
    captures: Vec<(String, String, i64)>,
    releases: BTreeMap<String, i64>,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    newly_failed: u32,
    captured: i64,
}

/// Applies a batch of reports.
pub(super) async fn report_batch(
    tx: &mut SqliteConnection,
    batch: &[&Report],
) -> Result<Vec<Recorded>, StoreError> {
    let mut ledger = Ledger::read(tx, batch).await?;
    let mut answers = Vec::with_capacity(batch.len());
    let mut at = i64::MIN;
    for report in batch {
        at = at.max(millis(report.at));
        let Some(change) = ledger.apply(report) else {
            answers.push(Recorded::Late);
            continue;
        };
        // News that came late brings no failures, and must not bounce them either.
        if let (true, Some(bounce)) = (change.newly_failed > 0, &report.bounce) {
            insert_own(tx, bounce).await?;
        }
        answers.push(Recorded::Applied { captured: credits(change.captured)? });
    }
    ledger.write(tx, at).await?;
    Ok(answers)
}

impl Ledger {
    async fn read(tx: &mut SqliteConnection, batch: &[&Report]) -> Result<Self, StoreError> {
        const PARTS: &str = "
            SELECT message_id, part_no, state, attempt, coalesce(due_at, lease_until, 0), key_no, unknown,
                   first_try_at, upstream_id, last_error
            FROM part WHERE message_id IN (SELECT value FROM json_each(?1))";
        const RECIPIENTS: &str = "
            SELECT message_id, address, part_no, state
            FROM recipient WHERE message_id IN (SELECT value FROM json_each(?1))";
        const MESSAGES: &str = "
            SELECT message_id, customer_id, unit, price, captured, released
            FROM message WHERE message_id IN (SELECT value FROM json_each(?1))";
        let mut ids: Vec<&str> = batch.iter().map(|r| r.message_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let ids = json(&ids)?;
        let mut ledger = Self::default();
        let messages: Vec<(String, String, String, i64, i64, i64)> =
            sqlx::query_as(MESSAGES).bind(&ids).fetch_all(&mut *tx).await?;
        for (id, customer_id, unit, price, captured, released) in messages {
            let per_recipient = unit == "recipient";
            let (queued, any_sent, touched) = (0, false, false);
            let now = MessageNow {
                customer_id,
                per_recipient,
                price,
                captured,
                released,
                queued,
                any_sent,
                touched,
            };
            ledger.messages.insert(id, now);
        }
        let parts: Vec<PartRow> = sqlx::query_as(PARTS).bind(&ids).fetch_all(&mut *tx).await?;
        for row in parts {
            let (key, part) = row.read()?;
            ledger.parts.insert(key, part);
        }
        let recipients: Vec<(String, String, u32, String)> =
            sqlx::query_as(RECIPIENTS).bind(&ids).fetch_all(tx).await?;
        for (id, address, part_no, state) in recipients {
            if let Some(message) = ledger.messages.get_mut(&id) {
                message.queued += i64::from(state == "queued");
                message.any_sent |= state == "sent";
            }
            if let Some(part) = ledger.parts.get_mut(&(id.clone(), part_no)) {
                part.waiting += u32::from(state == "queued");
                part.any_sent |= state == "sent";
            }
            if state == "queued" {
                ledger.recipients.insert((id, address), part_no);
            }
        }
        Ok(ledger)
    }

    /// Applies one report to what was read; `None`: it came too late.
    fn apply(&mut self, report: &Report) -> Option<Change> {
        let key = (report.message_id.as_str().to_owned(), report.part_no);
        match &report.news {
            News::Retry { due, error, unknown, counts } => {
                let part = self.parts.get_mut(&key)?;
                let step = PartStep::Retry { attempt: report.attempt, due: *due };
                let Some(PartState::Queued { due, attempt }) = part.state.after(step) else { return None };
                let attempt = if *counts { attempt } else { attempt.saturating_sub(1) };
                part.state = PartState::Queued { due, attempt };
                part.settle_outcome(*unknown);
                part.last_error = Some(error.clone());
                Some(Change::default())
            }
            News::Hold { reason } => {
                let part = self.parts.get_mut(&key)?;
                part.state = part.state.after(PartStep::Hold { attempt: report.attempt })?;
                part.last_error = Some(reason.clone());
                Some(Change::default())
            }
            News::Answered(answered) => self.answered(&key, report, answered),
        }
    }

    fn answered(&mut self, key: &PartKey, report: &Report, answered: &Answered) -> Option<Change> {
        let part = self.parts.get_mut(key)?;
        let is_current =
            matches!(part.state, PartState::Sending { attempt, .. } if attempt == report.attempt);
        // What was sent was sent, whichever attempt says so; a refusal needs to be the current word.
        if part.state.is_final() || (answered.sent.is_empty() && !is_current) {
            return None;
        }
        let mut newly_sent = 0;
        let mut newly_failed = 0;
        for mailbox in &answered.sent {
            newly_sent += u32::from(self.finish(key, mailbox, "sent", None));
        }
        for (mailbox, answer) in answered.failed.iter().filter(|_| is_current) {
            newly_failed += u32::from(self.finish(key, mailbox, "failed", Some(answer)));
        }
        let captured = self.charge(&key.0, i64::from(newly_sent), i64::from(newly_failed));
        let part = self.parts.get_mut(key)?;
        part.waiting = part.waiting.saturating_sub(newly_sent + newly_failed);
        part.any_sent |= newly_sent > 0;
        part.advance(report, answered);
        Some(Change { newly_failed, captured })
    }

    /// Makes a queued recipient of the part final.
    fn finish(
        &mut self,
        key: &PartKey,
        mailbox: &Mailbox,
        state: &'static str,
        answer: Option<&Answer>,
    ) -> bool {
        let recipient = (key.0.clone(), mailbox.to_string());
        if self.recipients.get(&recipient) != Some(&key.1) {
            return false;
        }
        self.recipients.remove(&recipient);
        let (id, address) = recipient;
        let status = answer.map(|a| a.status.clone());
        let text = answer.map(|a| a.text.clone());
        self.recipient_writes.push((id, address, state, status, text));
        true
    }

    /// Turns holds into captures or releases. Unit = message: one capture at the
    /// first recipient that was sent, a release only when nobody got it. Unit =
    /// recipient: each by itself. Returns what was captured.
    fn charge(&mut self, message_id: &str, newly_sent: i64, newly_failed: i64) -> i64 {
        let Some(message) = self.messages.get_mut(message_id) else { return 0 };
        message.queued -= newly_sent + newly_failed;
        message.any_sent |= newly_sent > 0;
        message.touched = true;
        let still_held = message.price - message.captured - message.released;
        let (capture, release) = if message.per_recipient {
            (newly_sent.min(still_held), newly_failed.min(still_held - newly_sent.min(still_held)))
        } else if newly_sent > 0 {
            (still_held, 0)
        } else if message.queued == 0 && !message.any_sent {
            (0, still_held)
        } else {
            (0, 0)
        };
        message.captured += capture;
        message.released += release;
        if capture > 0 {
            self.captures.push((message.customer_id.clone(), message_id.to_owned(), capture));
        }
        if release > 0 {
            *self.releases.entry(message.customer_id.clone()).or_default() += release;
        }
        capture
    }

    async fn write(self, tx: &mut SqliteConnection, at: i64) -> Result<(), StoreError> {
        self.write_parts(tx).await?;
        self.write_recipients(tx).await?;
        self.write_messages(tx, at).await?;
        write_money(tx, &self.captures, &self.releases, at).await
    }

    async fn write_parts(&self, tx: &mut SqliteConnection) -> Result<(), StoreError> {
        const UPDATE: &str = "
            UPDATE part SET state = p.state, attempt = p.attempt, due_at = p.due_at, lease_until = p.lease_until,
                   key_no = p.key_no, unknown = p.unknown, first_try_at = p.first_try_at,
                   upstream_id = p.upstream_id, last_error = p.last_error
            FROM (SELECT value ->> 0 AS message_id, value ->> 1 AS part_no, value ->> 2 AS state,
                         value ->> 3 AS attempt, value ->> 4 AS due_at, value ->> 5 AS lease_until,
                         value ->> 6 AS key_no, value ->> 7 AS unknown, value ->> 8 AS first_try_at,
                         value ->> 9 AS upstream_id, value ->> 10 AS last_error FROM json_each(?1)) AS p
            WHERE part.message_id = p.message_id AND part.part_no = p.part_no";
        let rows: Vec<_> = self.parts.iter().map(|(key, part)| part.row(key)).collect();
        let done = sqlx::query(UPDATE).bind(json(&rows)?).execute(tx).await?;
        changed("update part", done.rows_affected(), rows.len())
    }

    async fn write_recipients(&self, tx: &mut SqliteConnection) -> Result<(), StoreError> {
        const UPDATE: &str = "
            UPDATE recipient SET state = r.state, status = r.status, reply = r.reply
            FROM (SELECT value ->> 0 AS message_id, value ->> 1 AS address, value ->> 2 AS state,
                         value ->> 3 AS status, value ->> 4 AS reply FROM json_each(?1)) AS r
            WHERE recipient.message_id = r.message_id AND recipient.address = r.address
              AND recipient.state = 'queued'";
        if self.recipient_writes.is_empty() {
            return Ok(());
        }
        let done = sqlx::query(UPDATE).bind(json(&self.recipient_writes)?).execute(tx).await?;
        changed("update recipient", done.rows_affected(), self.recipient_writes.len())
    }

    /// Captured and released totals; the bytes go when the last recipient is final.
    async fn write_messages(&self, tx: &mut SqliteConnection, at: i64) -> Result<(), StoreError> {
        const UPDATE: &str = "
            UPDATE message SET captured = m.captured, released = m.released, final_at = m.final_at
            FROM (SELECT value ->> 0 AS message_id, value ->> 1 AS captured, value ->> 2 AS released,
                         value ->> 3 AS final_at FROM json_each(?1)) AS m
            WHERE message.message_id = m.message_id AND message.final_at IS NULL";
        const DROP: &str = "DELETE FROM body WHERE message_id IN (SELECT value FROM json_each(?1))";
        let touched: Vec<_> = self.messages.iter().filter(|(_, m)| m.touched).collect();
        let rows: Vec<_> = touched
            .iter()
            .map(|(id, m)| (id, m.captured, m.released, (m.queued == 0).then_some(at)))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let done = sqlx::query(UPDATE).bind(json(&rows)?).execute(&mut *tx).await?;
        changed("update message", done.rows_affected(), rows.len())?;
        let finished: Vec<_> = touched.iter().filter(|(_, m)| m.queued == 0).map(|(id, _)| id).collect();
        if !finished.is_empty() {
            sqlx::query(DROP).bind(json(&finished)?).execute(tx).await?;
        }
        Ok(())
    }
}

/// Moves holds to debts and back, and numbers the captures of each customer without a gap.
async fn write_money(
    tx: &mut SqliteConnection,
    captures: &[(String, String, i64)],
    releases: &BTreeMap<String, i64>,
    at: i64,
) -> Result<(), StoreError> {
    const MOVE: &str = "
        UPDATE account SET held = held - m.captured - m.released, owed = owed + m.captured,
               last_capture = last_capture + m.count
        FROM (SELECT value ->> 0 AS customer_id, value ->> 1 AS captured, value ->> 2 AS released,
                     value ->> 3 AS count FROM json_each(?1)) AS m
        WHERE account.customer_id = m.customer_id
        RETURNING account.customer_id, last_capture";
    const CAPTURES: &str = "
        INSERT INTO capture (customer_id, number, message_id, amount, captured_at)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?2 FROM json_each(?1)";
    // customer → (captured, released, number of captures)
    let mut moves: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for (customer_id, _, amount) in captures {
        let entry = moves.entry(customer_id).or_default();
        entry.0 += amount;
        entry.2 += 1;
    }
    for (customer_id, amount) in releases {
        moves.entry(customer_id).or_default().1 += amount;
    }
    if moves.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = moves.iter().map(|(id, (c, r, n))| (id, c, r, n)).collect();
    let last: Vec<(String, i64)> = sqlx::query_as(MOVE).bind(json(&rows)?).fetch_all(&mut *tx).await?;
    changed("move money", u64::try_from(last.len()).unwrap_or(0), rows.len())?;
    let mut next: BTreeMap<String, i64> = last
        .into_iter()
        .map(|(id, last)| {
            let count = moves.get(id.as_str()).map_or(0, |m| m.2);
            (id, last - count)
        })
        .collect();
    let mut numbered = Vec::with_capacity(captures.len());
    for (customer_id, message_id, amount) in captures {
        if let Some(number) = next.get_mut(customer_id) {
            *number += 1;
            numbered.push((customer_id, *number, message_id, amount));
        }
    }
    if numbered.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(CAPTURES).bind(json(&numbered)?).bind(at).execute(tx).await?;
    changed("insert capture", done.rows_affected(), captures.len())
}

/// A part's columns as they are read.
#[derive(Debug, sqlx::FromRow)]
struct PartRow(String, u32, String, u32, i64, i64, i64, Option<i64>, Option<String>, Option<String>);

impl PartRow {
    fn read(self) -> Result<(PartKey, PartNow), StoreError> {
        let Self(id, part_no, state, attempt, time, key_no, unknown, first_try_at, upstream_id, last_error) =
            self;
        let state = part_state(&state, attempt, time)?;
        let part = PartNow {
            state,
            attempt,
            waiting: 0,
            any_sent: false,
            key_no,
            unknown: unknown == 1,
            first_try_at,
            upstream_id,
            last_error,
        };
        Ok(((id, part_no), part))
    }
}

/// A part's state from its columns; `time` is when it is due or its lease lapses.
pub(super) fn part_state(name: &str, attempt: u32, time: i64) -> Result<PartState, StoreError> {
    Ok(match name {
        "queued" => PartState::Queued { due: timestamp(time)?, attempt },
        "sending" => PartState::Sending { lease: timestamp(time)?, attempt },
        "sent" => PartState::Sent,
        "failed" => PartState::Failed,
        "held" => PartState::Held,
        other => return Err(StoreError::Corrupt(format!("{other} is not a state of a part"))),
    })
}

/// A part's columns as they are written.
#[derive(serde::Serialize)]
struct PartColumns<'a>(
    &'a str,
    u32,
    &'static str,
    u32,
    Option<i64>,
    Option<i64>,
    i64,
    u8,
    Option<i64>,
    Option<&'a str>,
    Option<&'a str>,
);

impl PartNow {
    /// After a definite answer the next try is a new call under a new key; after
    /// an unknown one it is the same call under the same key.
    fn settle_outcome(&mut self, unknown: bool) {
        self.unknown = unknown;
        if !unknown {
            self.key_no += 1;
            self.first_try_at = None;
        }
    }

    /// Moves the part on: final when its last recipient is, else back into the queue.
    fn advance(&mut self, report: &Report, answered: &Answered) {
        if let Some(id) = &answered.upstream_id {
            self.upstream_id = Some(id.clone());
        }
        if let Some((_, answer)) = &answered.again {
            self.last_error = Some(format!("{} {}", answer.status, answer.text));
        } else if let Some((_, answer)) = answered.failed.last() {
            self.last_error = Some(format!("{} {}", answer.status, answer.text));
        }
        let due = answered.again.as_ref().map_or(report.at, |(due, _)| *due);
        let step = match (self.waiting, self.any_sent) {
            (0, true) => PartStep::Sent,
            (0, false) => PartStep::Failed { attempt: report.attempt },
            _ => PartStep::Retry { attempt: report.attempt, due },
        };
        if let Some(state) = self.state.after(step) {
            self.state = state;
            self.settle_outcome(false);
        }
    }

    fn row<'a>(&'a self, (message_id, part_no): &'a PartKey) -> PartColumns<'a> {
        let (name, attempt, due, lease) = match self.state {
            PartState::Queued { due, attempt } => ("queued", attempt, Some(millis(due)), None),
            PartState::Sending { lease, attempt } => ("sending", attempt, None, Some(millis(lease))),
            PartState::Sent => ("sent", self.attempt, None, None),
            PartState::Failed => ("failed", self.attempt, None, None),
            PartState::Held => ("held", self.attempt, None, None),
        };
        PartColumns(
            message_id,
            *part_no,
            name,
            attempt,
            due,
            lease,
            self.key_no,
            u8::from(self.unknown),
            self.first_try_at,
            self.upstream_id.as_deref(),
            self.last_error.as_deref(),
        )
    }
}
