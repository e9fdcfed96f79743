//! The parts that events are about, and whose credit a late failure gives back.
//!
//! A failure is written down on its recipients ([`super::event`]) whether refunds are
//! on or not. Where they are, the same transaction decides: a message is refunded when nobody got
//! it, a recipient (unit = recipient) when that one did not; as long as somebody
//! whom it depends on is not final, it waits. What a refund does to the money is
//! `refund`'s.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::ledger::part_state;
use super::refund::{self, Allowance, Claim, Decision};
use super::sql::{Session, Whole, query_as};
use super::{Store, StoreError, json, lock, stored, timestamp};
use crate::domain::address::Mailbox;
use crate::domain::ids::{BatchId, CustomerId, MessageId};
use crate::domain::message::{PartState, RecipientState, Road};
use crate::telemetry::RefundResult;

/// Waiting refunds that are looked at in one go.
const MAX_WAITING: u32 = 100;

/// A part that an event names.
#[derive(Debug, Clone)]
pub struct KnownPart {
    /// Whose.
    pub customer_id: CustomerId,
    /// Its road.
    pub road: Road,
    /// Where it stands.
    pub state: PartState,
    /// The last attempt.
    pub attempt: u32,
    /// Whether the outcome of that, or of an earlier one, is unknown.
    pub is_unknown: bool,
    /// The number of the key of its next call: one more than that of the last one whose end is known.
    pub key_no: i64,
    /// The upstream's id, once it has answered.
    pub upstream_id: Option<String>,
    /// When the first call under its key was made.
    pub first_try_at: Option<Timestamp>,
    /// The call that it is fixed to.
    pub call: Option<KnownCall>,
    /// Its recipients, in their order.
    pub recipients: Vec<KnownRecipient>,
}

/// A recipient of such a part.
#[derive(Debug, Clone)]
pub struct KnownRecipient {
    /// The address.
    pub mailbox: Mailbox,
    /// Where it stands.
    pub state: RecipientState,
    /// Whether it may have got a copy by an attempt without an answer, besides what the state says.
    pub maybe_taken: bool,
}

/// The call of a part.
#[derive(Debug, Clone)]
pub struct KnownCall {
    /// Its id.
    pub id: BatchId,
    /// How many parts it was composed of.
    pub size: u32,
}

#[derive(sqlx::FromRow)]
struct PartRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    customer_id: String,
    road: String,
    state: String,
    #[sqlx(try_from = "i64")]
    attempt: u32,
    time: i64,
    unknown: bool,
    key_no: i64,
    upstream_id: Option<String>,
    first_try_at: Option<i64>,
    batch_id: Option<String>,
    batch_size: Option<Whole>,
}

impl PartRow {
    fn with(self, recipients: Vec<KnownRecipient>) -> Result<KnownPart, StoreError> {
        let batch_id = stored(self.batch_id.as_deref().map(BatchId::parse).transpose())?;
        Ok(KnownPart {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            road: Road::parse(&self.road).ok_or_else(|| unknown_name(&self.road))?,
            state: part_state(&self.state, self.attempt, self.time)?,
            attempt: self.attempt,
            is_unknown: self.unknown,
            key_no: self.key_no,
            upstream_id: self.upstream_id,
            first_try_at: self.first_try_at.map(timestamp).transpose()?,
            call: batch_id.zip(self.batch_size).map(|(id, Whole(size))| KnownCall { id, size }),
            recipients,
        })
    }
}

fn unknown_name(name: &str) -> StoreError {
    StoreError::Corrupt(format!("{name} is no name of ours"))
}

/// A recipient, and the refund that is for it: the message's, or its own.
#[derive(Debug, sqlx::FromRow)]
struct RecipientRow {
    address: String,
    state: String,
    has_bounced: bool,
    refund: Option<String>,
}

impl Store {
    /// The part of that number.
    pub async fn known_part(
        &self,
        message_id: &MessageId,
        part_no: u32,
    ) -> Result<Option<KnownPart>, StoreError> {
        let mut parts = self.known_parts(&[(message_id.as_str(), part_no)]).await?;
        Ok(parts.pop().map(|(_, _, part)| part))
    }

    /// The members of a call, by message and number of the part.
    pub async fn known_batch(
        &self,
        batch_id: &BatchId,
    ) -> Result<Vec<(MessageId, u32, KnownPart)>, StoreError> {
        const MEMBERS: &str = "SELECT message_id, part_no FROM part WHERE batch_id = $1";
        let rows: Vec<(String, Whole)> =
            query_as(MEMBERS).bind(batch_id.as_str()).fetch_all(&self.readers).await?;
        let names: Vec<_> =
            rows.iter().map(|(message_id, part_no)| (message_id.as_str(), part_no.0)).collect();
        self.known_parts(&names).await
    }

    /// Parts of these names, in their order.
    async fn known_parts(
        &self,
        names: &[(&str, u32)],
    ) -> Result<Vec<(MessageId, u32, KnownPart)>, StoreError> {
        const PARTS: &str = "
            SELECT p.message_id, p.part_no, m.customer_id, p.road, p.state, p.attempt,
                   coalesce(p.due_at, p.lease_until, 0) AS time,
                   p.unknown = 1 OR EXISTS (SELECT 1 FROM recipient r WHERE r.message_id = p.message_id
                       AND r.part_no = p.part_no AND r.state = 'queued' AND r.maybe_taken = 1) AS unknown,
                   p.key_no, p.upstream_id, p.first_try_at, p.batch_id, b.size AS batch_size
            FROM part p JOIN message m ON m.message_id = p.message_id
                 LEFT JOIN batch b ON b.batch_id = p.batch_id
            WHERE (p.message_id, p.part_no) IN
                (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($1))
            ORDER BY p.message_id, p.part_no";
        const RECIPIENTS: &str = "
            SELECT message_id, part_no, address, state, maybe_taken = 1 AS maybe_taken FROM recipient
            WHERE (message_id, part_no) IN
                (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($1))
            ORDER BY ordinal";
        let names = json(&names)?;
        let rows: Vec<PartRow> = query_as(PARTS).bind(&names).fetch_all(&self.readers).await?;
        let of_all: Vec<(String, Whole, String, String, bool)> =
            query_as(RECIPIENTS).bind(&names).fetch_all(&self.readers).await?;
        let mut recipients: BTreeMap<(String, u32), Vec<_>> = BTreeMap::new();
        for (message_id, Whole(part_no), address, state, maybe_taken) in of_all {
            let state = RecipientState::parse(&state).ok_or_else(|| unknown_name(&state))?;
            let of_part = recipients.entry((message_id, part_no)).or_default();
            of_part.push(KnownRecipient { mailbox: stored(Mailbox::parse(&address))?, state, maybe_taken });
        }
        rows.into_iter()
            .map(|row| {
                let message_id = stored(MessageId::parse(&row.message_id))?;
                let part_no = row.part_no;
                let recipients = recipients.remove(&(row.message_id.clone(), part_no)).unwrap_or_default();
                Ok((message_id, part_no, row.with(recipients)?))
            })
            .collect()
    }

    /// Messages with a refund that waited for a recipient who is final now, those that
    /// have waited longest first. Each can be decided, so none keeps others from it.
    pub async fn refunds_to_decide(&self) -> Result<Vec<(MessageId, CustomerId)>, StoreError> {
        const READ: &str = "
            SELECT f.message_id, f.customer_id
            FROM refund f JOIN message m ON m.message_id = f.message_id
            WHERE f.state = 'waiting' AND (m.final_at IS NOT NULL OR EXISTS (SELECT 1 FROM recipient r
                WHERE r.message_id = f.message_id AND r.address = f.address AND r.state <> 'queued'))
            GROUP BY f.message_id, f.customer_id ORDER BY min(f.decided_at), f.message_id LIMIT $1";
        let rows: Vec<(String, String)> = query_as(READ).bind(MAX_WAITING).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|(id, customer_id)| {
                Ok((stored(MessageId::parse(id))?, stored(CustomerId::parse(customer_id))?))
            })
            .collect()
    }

    /// Decides the refunds of a message that waited.
    pub async fn decide_refunds(
        &self,
        message_id: &MessageId,
        allowance: &Allowance,
        now: Timestamp,
    ) -> Result<Vec<Decision>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::messages(&mut tx, &BTreeSet::from([message_id.as_str()])).await?;
        let decisions = evaluate(&mut tx, message_id, allowance, now).await?;
        tx.commit().await?;
        Ok(decisions)
    }
}

/// What a recipient's fate means for a refund that was not decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruling {
    /// It is given, as far as the rules of money allow.
    Give,
    /// Somebody is not final.
    Wait,
    /// Nothing is to be given.
    No,
}

/// Decides what a message's late failures give back; doing it again changes nothing.
pub(super) async fn evaluate(
    tx: &mut Session<'_>,
    message_id: &MessageId,
    allowance: &Allowance,
    now: Timestamp,
) -> Result<Vec<Decision>, StoreError> {
    const MESSAGE: &str =
        "SELECT customer_id, unit FROM message WHERE message_id = $1 AND kind = 'submission'";
    const RECIPIENTS: &str = "
        SELECT r.address, r.state, r.bounced_at IS NOT NULL AS has_bounced, f.state AS refund
        FROM recipient r LEFT JOIN refund f
            ON f.message_id = r.message_id AND f.address = CASE $2 WHEN 'message' THEN '' ELSE r.address END
        WHERE r.message_id = $1 ORDER BY r.ordinal";
    let id = message_id.as_str();
    let message: Option<(String, String)> = query_as(MESSAGE).bind(id).fetch_optional(&mut *tx).await?;
    let Some((customer_id, unit)) = message else { return Ok(Vec::new()) };
    let customer_id = stored(CustomerId::parse(&customer_id))?;
    let rows: Vec<RecipientRow> = query_as(RECIPIENTS).bind(id).bind(&unit).fetch_all(&mut *tx).await?;
    let mut decisions = Vec::new();
    for (address, ruling) in rulings(unit == "recipient", &rows) {
        let claim = Claim { message_id: message_id.clone(), customer_id: customer_id.clone(), address };
        match ruling {
            Ruling::No => claim.withdraw(tx).await?,
            Ruling::Wait => {
                if claim.wait(tx, now).await? {
                    decisions.push(Decision { claim, result: RefundResult::Waiting });
                }
            }
            Ruling::Give => {
                let result = refund::decide(tx, &claim, allowance, now).await?;
                decisions.push(Decision { claim, result });
            }
        }
    }
    Ok(decisions)
}

/// Pure: for whom something is to be done. Who was refused at once never counted.
fn rulings(per_recipient: bool, rows: &[RecipientRow]) -> Vec<(Option<String>, Ruling)> {
    let is_undecided = |row: &RecipientRow| {
        matches!(row.refund.as_deref(), None | Some("waiting")) && (row.has_bounced || row.refund.is_some())
    };
    if per_recipient {
        let ruling = |row: &RecipientRow| match row.state.as_str() {
            "sent" => Ruling::Give,
            "queued" => Ruling::Wait,
            _ => Ruling::No,
        };
        let undecided = rows.iter().filter(|row| is_undecided(row));
        return undecided.map(|row| (Some(row.address.clone()), ruling(row))).collect();
    }
    if !rows.iter().any(is_undecided) {
        return Vec::new();
    }
    let mut served = rows.iter().filter(|row| row.state != "failed").peekable();
    let ruling = if served.peek().is_none() {
        Ruling::No
    } else if rows.iter().any(|row| row.state == "queued") {
        Ruling::Wait
    } else if served.all(|row| row.has_bounced) {
        Ruling::Give
    } else {
        Ruling::No
    };
    vec![(None, ruling)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_refunded_when_nobody_got_it_and_a_recipient_when_that_one_did_not() {
        // Of each recipient: state, bounced. Wanted: unit = message, and each recipient.
        type Case = (&'static [(&'static str, bool)], Option<Ruling>, &'static [(usize, Ruling)]);
        let table: [Case; 8] = [
            (&[("sent", true)], Some(Ruling::Give), &[(0, Ruling::Give)]),
            (&[("sent", false)], None, &[]),
            (&[("sent", true), ("sent", false)], Some(Ruling::No), &[(0, Ruling::Give)]),
            (&[("sent", true), ("sent", true)], Some(Ruling::Give), &[(0, Ruling::Give), (1, Ruling::Give)]),
            (&[("sent", true), ("failed", false)], Some(Ruling::Give), &[(0, Ruling::Give)]),
            (&[("sent", true), ("queued", false)], Some(Ruling::Wait), &[(0, Ruling::Give)]),
            (&[("queued", true)], Some(Ruling::Wait), &[(0, Ruling::Wait)]),
            (&[("failed", true)], Some(Ruling::No), &[(0, Ruling::No)]),
        ];
        for (recipients, message, each) in table {
            let rows: Vec<RecipientRow> = recipients
                .iter()
                .enumerate()
                .map(|(nth, (state, has_bounced))| RecipientRow {
                    address: nth.to_string(),
                    state: (*state).to_owned(),
                    has_bounced: *has_bounced,
                    refund: None,
                })
                .collect();
            let wanted: Vec<_> = message.map(|ruling| (None, ruling)).into_iter().collect();
            assert_eq!(rulings(false, &rows), wanted, "{recipients:?}");
            let wanted: Vec<_> = each.iter().map(|(nth, ruling)| (Some(nth.to_string()), *ruling)).collect();
            assert_eq!(rulings(true, &rows), wanted, "{recipients:?}");
        }
    }

    #[test]
    fn what_was_decided_is_not_decided_again() {
        for refund in ["due", "released", "credited", "capped", "expired", "refused"] {
            let row = RecipientRow {
                address: "a".to_owned(),
                state: "sent".to_owned(),
                has_bounced: true,
                refund: Some(refund.to_owned()),
            };
            assert_eq!(rulings(true, std::slice::from_ref(&row)), []);
            assert_eq!(rulings(false, &[row]), []);
        }
    }
}
