//! Acceptance: hold, message, parts, recipients and bytes in one transaction.
//!
//! The whole of P1 and P2 is here: a member of the batch gets its hold only while
//! `balance − held − owed` covers it, and nobody is told "accepted" before the
//! commit returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::caps::Special;
use super::commit::Settings;
use super::idempotency::{Keys, Meaning};
use super::spool::Spooled;
use super::sql::{Session, query, query_as};
use super::suppression::{find, suspect};
use super::{StoreError, changed, json, lock, millis};
use crate::domain::account::Account;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::caps::Reached;
use crate::domain::credits::{Credits, Unit};
use crate::domain::digest::sha256_hex;
use crate::domain::dsn::{Dsn, EnvelopeId, Ret};
use crate::domain::idempotency::Keyed;
use crate::domain::ids::{CustomerId, MessageId, Username};
use crate::domain::message::Road;
use crate::domain::suppression::Why;

/// What a message is, to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A customer's message.
    Submission,
    /// Our report to a sender of what became of a message; free.
    Bounce,
    /// Our news to a customer; free.
    Notice,
}

impl Kind {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submission => "submission",
            Self::Bounce => "bounce",
            Self::Notice => "notice",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Submission, Self::Bounce, Self::Notice].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One part, as it is fixed at acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPart {
    /// Its road.
    pub road: Road,
    /// Its recipients; never empty.
    pub recipients: Vec<Mailbox>,
    /// SHA-256 of the request that the upstream will get, in hexadecimal, where the road composes one.
    pub request_hash: Option<String>,
    /// How many parts its first call may carry ([`crate::domain::batch`]); 1: it is alone.
    pub batch_max: u32,
}

/// A message that asks to be accepted.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// Its id.
    pub message_id: MessageId,
    /// Who pays for it, or whom it is about.
    pub customer_id: CustomerId,
    /// The credential that brought it; none for our own mail.
    pub username: Option<Username>,
    /// What it is.
    pub kind: Kind,
    /// The envelope sender.
    pub reverse_path: ReversePath,
    /// The From header's address.
    pub header_from: String,
    /// The subject, for the log.
    pub subject: Option<String>,
    /// The message as it will leave; where it is spooled: its header.
    pub bytes: Bytes,
    /// What follows behind `bytes`, of a large message.
    pub spooled: Option<Spooled>,
    /// What the price was computed by.
    pub unit: Unit,
    /// The price; 0 for our own mail.
    pub price: Credits,
    /// Now.
    pub accepted_at: Timestamp,
    /// How long it is tried.
    pub lifetime: Duration,
    /// The parts.
    pub parts: Vec<NewPart>,
    /// Set when the accepting process sends at once: the parts are leased in the insert until then.
    pub lease_until: Option<Timestamp>,
    /// Set where the customer may retry it.
    pub keyed: Option<Keyed>,
    /// What its road changes or loses of it, a line each.
    pub notes: Vec<String>,
    /// What its sender asks to be told.
    pub dsn: Arc<Dsn>,
}

impl Acceptance {
    /// Octets of the whole message.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.spooled.as_ref().map_or(0, |spooled| spooled.octets)
    }
}

/// The answer to an acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Committed and fsynced.
    Yes {
        /// What the customer has left.
        available: Option<Credits>,
        /// Whether available fell below the low-balance mark, and a notice is due.
        low: bool,
    },
    /// The same submission was accepted under its key for all of its recipients
    /// before; this one leaves no trace.
    Before {
        /// As this message.
        message_id: MessageId,
        /// What the customer has left.
        available: Option<Credits>,
    },
    /// Its key stands for another submission.
    KeyReused,
    /// Some whom it is for have it under its key meanwhile, or whom it left out have
    /// not: it leaves no trace, and whoever asked looks again who is left.
    Overtaken,
    /// The balance does not cover it.
    OutOfCredit,
    /// No balance was ever read.
    BalanceUnknown,
    /// Suspended, with the operator's reason.
    Suspended(String),
    /// A recipient is on the customer's suppression list.
    Suppressed {
        /// Who.
        recipient: Mailbox,
        /// Since when, and what for.
        why: Why,
    },
    /// The credential was revoked meanwhile.
    Revoked,
    /// The credential has sent as much as it may for now.
    Capped(Reached),
}

/// Customers with addresses that are on their lists.
type Suppressed = BTreeMap<(String, String), Why>;

/// The account row of one customer of the batch, as it stands inside the transaction.
#[derive(Debug, sqlx::FromRow)]
struct Standing {
    customer_id: String,
    suspended_reason: Option<String>,
    balance: Option<i64>,
    held: i64,
    owed: i64,
    low_armed: i64,
    /// Whether there is anything on the suppression list.
    suppresses: bool,
    /// Those of the batch's usernames that are revoked or have caps, a line each ([`Special::read`]).
    special: Option<String>,
}

/// Decides a batch whose accounts are locked ([`super::lock`]), and writes what was accepted.
pub(super) async fn accept_batch(
    tx: &mut Session<'_>,
    batch: &[&Acceptance],
    settings: &Settings,
) -> Result<Vec<Accepted>, StoreError> {
    let (mut standings, mut special) = read_standings(tx, batch).await?;
    let suppressed = read_suppressed(tx, batch, &standings).await?;
    let mut keys = Keys::read(tx, batch).await?;
    let mut holds: BTreeMap<&CustomerId, i64> = BTreeMap::new();
    let mut answers = Vec::with_capacity(batch.len());
    let mut taken = Vec::with_capacity(batch.len());
    for acceptance in batch {
        let answer = match standings.get_mut(acceptance.customer_id.as_str()) {
            Some(standing) => standing.decide(acceptance, (&keys, &suppressed, &special), settings.low_mark),
            None => Accepted::BalanceUnknown,
        };
        if matches!(answer, Accepted::Yes { .. }) {
            *holds.entry(&acceptance.customer_id).or_default() += acceptance.price.to_i64();
            taken.push(*acceptance);
            keys.take(acceptance);
            special.take(acceptance.username.as_ref(), acceptance.accepted_at);
        }
        answers.push(answer);
    }
    write(tx, &holds, &taken, Some(&settings.node)).await?;
    keys.write(tx).await?;
    special.write(tx).await?;
    Ok(answers)
}

impl Standing {
    /// Grants the hold if the account covers it, and remembers it for the next
    /// member. What was accepted before stays so, whatever has become of the account.
    fn decide(
        &mut self,
        acceptance: &Acceptance,
        (keys, suppressed, special): (&Keys<'_>, &Suppressed, &Special),
        low_mark: i64,
    ) -> Accepted {
        if acceptance.username.as_ref().is_some_and(|own| special.is_revoked(own)) {
            return Accepted::Revoked;
        }
        match keys.meaning(acceptance) {
            Meaning::Free => {}
            Meaning::Same(message_id) => {
                let available = self.available().and_then(|left| Credits::from_i64(left.max(0)));
                return Accepted::Before { message_id, available };
            }
            Meaning::Other => return Accepted::KeyReused,
            Meaning::Overtaken => return Accepted::Overtaken,
        }
        if acceptance.kind != Kind::Submission {
            return Accepted::Yes { available: None, low: false };
        }
        if let Some(reason) = &self.suspended_reason {
            return Accepted::Suspended(reason.clone());
        }
        if let Some((recipient, why)) = first_suppressed(acceptance, suppressed) {
            return Accepted::Suppressed { recipient, why };
        }
        if let Err(reached) = special.check(acceptance.username.as_ref(), acceptance.accepted_at) {
            return Accepted::Capped(reached);
        }
        let Some(available) = self.available() else {
            return Accepted::BalanceUnknown;
        };
        let price = acceptance.price.to_i64();
        if available < price {
            return Accepted::OutOfCredit;
        }
        self.held += price;
        let left = available - price;
        let low = self.low_armed == 1 && left < low_mark;
        Accepted::Yes { available: Credits::from_i64(left.max(0)), low }
    }

    fn available(&self) -> Option<i64> {
        self.balance.map(|balance| balance - self.held - self.owed)
    }
}

async fn read_standings(
    tx: &mut Session<'_>,
    batch: &[&Acceptance],
) -> Result<(BTreeMap<String, Standing>, Special), StoreError> {
    const READ: &str = "
        SELECT a.customer_id, c.suspended_reason, a.balance, a.held, a.owed, a.low_armed,
               EXISTS (SELECT 1 FROM suppression s WHERE s.customer_id = a.customer_id) AS suppresses,
               (SELECT string_agg(k.username || ' ' || coalesce(CAST(k.revoked_at AS TEXT), '-')
                           || ' ' || coalesce(CAST(k.per_day AS TEXT), '-')
                           || ' ' || coalesce(CAST(k.per_minute AS TEXT), '-')
                           || ' ' || coalesce(CAST(k.counted_minute AS TEXT), '-')
                           || ' ' || coalesce(CAST(k.in_minute AS TEXT), '-')
                           || ' ' || coalesce(CAST(k.in_day AS TEXT), '-'), '\n')
                FROM credential k
                WHERE k.customer_id = a.customer_id
                  AND (k.revoked_at IS NOT NULL OR k.per_day IS NOT NULL OR k.per_minute IS NOT NULL)
                  AND k.username IN (SELECT atom FROM json_each($2))) AS special
        FROM account a JOIN customer c ON c.customer_id = a.customer_id
        WHERE a.customer_id IN (SELECT atom FROM json_each($1))";
    let ids: BTreeSet<&str> = batch.iter().map(|a| a.customer_id.as_str()).collect();
    let names: BTreeSet<&str> =
        batch.iter().filter_map(|a| a.username.as_ref().map(Username::as_str)).collect();
    let rows: Vec<Standing> = query_as(READ).bind(json(&ids)?).bind(json(&names)?).fetch_all(tx).await?;
    let mut special = Special::default();
    for line in rows.iter().flat_map(|row| row.special.as_deref().unwrap_or_default().lines()) {
        special.read(line)?;
    }
    Ok((rows.into_iter().map(|row| (row.customer_id.clone(), row)).collect(), special))
}

/// Recipients of the batch who are on their customer's list. Nobody is looked for
/// where the lists are empty.
async fn read_suppressed(
    tx: &mut Session<'_>,
    batch: &[&Acceptance],
    standings: &BTreeMap<String, Standing>,
) -> Result<Suppressed, StoreError> {
    let is_asked = |a: &&&Acceptance| {
        a.kind == Kind::Submission && standings.get(a.customer_id.as_str()).is_some_and(|s| s.suppresses)
    };
    let suspects: BTreeSet<_> = batch
        .iter()
        .filter(is_asked)
        .flat_map(|a| recipients(a).map(|recipient| suspect(&a.customer_id, recipient)))
        .collect();
    if suspects.is_empty() { Ok(Suppressed::new()) } else { find(tx, &suspects).await }
}

fn first_suppressed(acceptance: &Acceptance, suppressed: &Suppressed) -> Option<(Mailbox, Why)> {
    if suppressed.is_empty() {
        return None;
    }
    recipients(acceptance).find_map(|recipient| {
        let why = suppressed.get(&suspect(&acceptance.customer_id, recipient))?;
        Some((recipient.clone(), why.clone()))
    })
}

fn recipients(acceptance: &Acceptance) -> impl Iterator<Item = &Mailbox> {
    acceptance.parts.iter().flat_map(|part| &part.recipients)
}

/// Writes holds and messages: one statement a table, and one journey to the
/// database for all of them, since with small messages the journeys are what costs.
///
/// One account update per customer per commit, in customer order. Its WHERE
/// clause repeats the decision, so that no bug above can overdraw (P2). All bodies
/// travel as one blob and are cut apart by the database; what was written
/// ahead is named, and must be there whole and belong to nobody (P1). What is leased is in the
/// hands of `node`. Parameters are `$N`, which
/// keep their numbers across statements; `?N` would not.
async fn write(
    tx: &mut Session<'_>,
    holds: &BTreeMap<&CustomerId, i64>,
    taken: &[&Acceptance],
    node: Option<&str>,
) -> Result<(), StoreError> {
    const WRITE: &str = "
        UPDATE account SET held = held + h.amount
        FROM (SELECT value ->> 0 AS customer_id, CAST(value ->> 1 AS BIGINT) AS amount FROM json_each($1)) AS h
        WHERE account.customer_id = h.customer_id
          AND account.balance - account.held - account.owed >= h.amount;

        INSERT INTO message (message_id, customer_id, username, kind, reverse_path, header_from, subject,
                             size, body_sha256, unit, price, accepted_at, expires_at, notes, ret, envid)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
               CAST(value ->> 7 AS BIGINT), value ->> 8, value ->> 9, CAST(value ->> 10 AS BIGINT),
               CAST(value ->> 11 AS BIGINT), CAST(value ->> 12 AS BIGINT), value ->> 13,
               value ->> 14, value ->> 15
        FROM json_each($2);

        INSERT INTO part (message_id, part_no, road, state, attempt, due_at, lease_until, first_try_at,
                          request_hash, batch_max, customer_id, node)
        SELECT value ->> 0, CAST(value ->> 1 AS BIGINT), value ->> 2, value ->> 3,
               CAST(value ->> 4 AS BIGINT), CAST(value ->> 5 AS BIGINT), CAST(value ->> 6 AS BIGINT),
               CAST(value ->> 7 AS BIGINT), value ->> 8, CAST(value ->> 9 AS BIGINT), value ->> 10,
               CASE value ->> 3 WHEN 'sending' THEN $7 END
        FROM json_each($3);

        INSERT INTO recipient (message_id, address, part_no, ordinal, state, notify, orcpt)
        SELECT value ->> 0, value ->> 1, CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT), 'queued',
               value ->> 4, value ->> 5
        FROM json_each($4);

        INSERT INTO body (message_id, chunk_no, bytes)
        SELECT value ->> 0, 0, substr($6, CAST(value ->> 1 AS BIGINT) + 1, CAST(value ->> 2 AS BIGINT))
        FROM json_each($5)";
    if taken.is_empty() {
        return Ok(());
    }
    let holds: Vec<(&str, i64)> =
        holds.iter().filter(|(_, amount)| **amount > 0).map(|(id, amount)| (id.as_str(), *amount)).collect();
    let messages: Vec<MessageRow> = taken.iter().map(|a| MessageRow::of(a)).collect();
    let (parts, recipients) = part_rows(taken);
    let (bodies, octets) = bodies(taken);
    let done = query(WRITE)
        .bind(json(&holds)?)
        .bind(json(&messages)?)
        .bind(json(&parts)?)
        .bind(json(&recipients)?)
        .bind(json(&bodies)?)
        .bind(octets)
        .bind(node)
        .execute(&mut *tx)
        .await?;
    let want = holds.len() + messages.len() + parts.len() + recipients.len() + bodies.len();
    changed("acceptance", done.rows_affected(), want)?;
    let spools = spools(taken);
    // Mostly there is none, and nothing is asked.
    if spools.is_empty() { Ok(()) } else { name_spools(tx, &spools).await }
}

/// Gives messages what was written ahead for them: whole, and nobody's yet.
async fn name_spools(tx: &mut Session<'_>, spools: &[SpoolRow<'_>]) -> Result<(), StoreError> {
    const NAME: &str = "
        UPDATE spool SET message_id = s.message_id, octets = s.octets, sha256 = s.sha256
        FROM (SELECT value ->> 0 AS spool_id, value ->> 1 AS message_id, CAST(value ->> 2 AS BIGINT) AS octets,
                     value ->> 3 AS sha256 FROM json_each($1)) AS s
        WHERE spool.spool_id = s.spool_id AND spool.message_id IS NULL AND spool.left_at IS NULL
          AND (SELECT CAST(sum(length(c.bytes)) AS BIGINT) FROM chunk c
               WHERE c.spool_id = s.spool_id) = s.octets";
    // Chunks are counted once nobody can take any away.
    const LOCK: &str = "
        SELECT spool_id FROM spool WHERE spool_id IN (SELECT value ->> 0 FROM json_each($1))
        ORDER BY spool_id FOR UPDATE";
    let rows = json(&spools)?;
    lock::rows(tx, query(LOCK).bind(&rows)).await?;
    let named = query(NAME).bind(rows).execute(tx).await?;
    changed("acceptance", named.rows_affected(), spools.len())
}

/// The columns of `message` as one JSON row.
#[derive(serde::Serialize)]
struct MessageRow<'a>(
    &'a str,
    &'a str,
    Option<&'a str>,
    &'static str,
    String,
    &'a str,
    Option<&'a str>,
    usize,
    String,
    &'static str,
    i64,
    i64,
    i64,
    Option<String>,
    Option<&'static str>,
    Option<&'a str>,
);

impl<'a> MessageRow<'a> {
    fn of(a: &'a Acceptance) -> Self {
        let unit = match a.unit {
            Unit::Message => "message",
            Unit::Recipient => "recipient",
        };
        let lifetime = i64::try_from(a.lifetime.as_millis()).unwrap_or(i64::MAX);
        Self(
            a.message_id.as_str(),
            a.customer_id.as_str(),
            a.username.as_ref().map(Username::as_str),
            a.kind.as_str(),
            a.reverse_path.to_string(),
            &a.header_from,
            a.subject.as_deref(),
            a.size(),
            sha256_hex(&a.bytes),
            unit,
            a.price.to_i64(),
            millis(a.accepted_at),
            millis(a.accepted_at).saturating_add(lifetime),
            (!a.notes.is_empty()).then(|| serde_json::json!(a.notes).to_string()),
            a.dsn.ret().map(Ret::as_str),
            a.dsn.envelope_id().map(EnvelopeId::as_str),
        )
    }
}

/// Message, address, part number, ordinal, NOTIFY, ORCPT.
type RecipientRow<'a> = (&'a str, String, usize, usize, Option<String>, Option<String>);
/// The columns of `part` as one JSON row.
#[derive(serde::Serialize)]
struct PartRow<'a>(
    &'a str,
    usize,
    &'static str,
    &'static str,
    u8,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<&'a str>,
    u32,
    &'a str,
);

fn part_rows<'a>(taken: &[&'a Acceptance]) -> (Vec<PartRow<'a>>, Vec<RecipientRow<'a>>) {
    let mut parts = Vec::with_capacity(taken.len());
    let mut recipients = Vec::with_capacity(taken.len());
    for a in taken {
        let id = a.message_id.as_str();
        let lease = a.lease_until.map(millis);
        let state = if lease.is_some() { "sending" } else { "queued" };
        let due = lease.is_none().then_some(millis(a.accepted_at));
        let first_try = lease.map(|_| millis(a.accepted_at));
        let (attempt, whose) = (u8::from(lease.is_some()), a.customer_id.as_str());
        for (part_no, part) in a.parts.iter().enumerate() {
            let (road, hash, most) = (part.road.as_str(), part.request_hash.as_deref(), part.batch_max);
            parts.push(PartRow(id, part_no, road, state, attempt, due, lease, first_try, hash, most, whose));
            let named = part.recipients.iter().enumerate();
            recipients.extend(named.map(|(ordinal, r)| {
                let asked = a.dsn.of(r);
                let notify = asked.notify.map(|notify| notify.to_string());
                let orcpt = asked.original.as_ref().map(ToString::to_string);
                (id, r.to_string(), part_no, ordinal, notify, orcpt)
            }));
        }
    }
    (parts, recipients)
}

/// Where each body lies in the blob, and the blob.
fn bodies<'a>(taken: &[&'a Acceptance]) -> (Vec<(&'a str, usize, usize)>, Vec<u8>) {
    let mut octets = Vec::with_capacity(taken.iter().map(|a| a.bytes.len()).sum());
    let mut rows = Vec::with_capacity(taken.len());
    for a in taken {
        rows.push((a.message_id.as_str(), octets.len(), a.bytes.len()));
        octets.extend_from_slice(&a.bytes);
    }
    (rows, octets)
}

/// Spool, message, octets, hash.
type SpoolRow<'a> = (&'a str, &'a str, usize, &'a str);

/// Which spools now belong to which messages.
fn spools<'a>(taken: &[&'a Acceptance]) -> Vec<SpoolRow<'a>> {
    let named = |a: &'a Acceptance| {
        let spooled = a.spooled.as_ref()?;
        Some((spooled.spool_id.as_str(), a.message_id.as_str(), spooled.octets, spooled.sha256.as_str()))
    };
    taken.iter().filter_map(|a| named(a)).collect()
}

/// Writes one message of our own (a bounce, a notice) inside another step's transaction, with
/// the message that it reports on; `false`: it is a report to an address on the customer's
/// suppression list, and is dropped.
pub(super) async fn insert_own(
    tx: &mut Session<'_>,
    own: &Acceptance,
    about: Option<&MessageId>,
) -> Result<bool, StoreError> {
    const ABOUT: &str = "UPDATE message SET about = $2 WHERE message_id = $1";
    if own.kind == Kind::Bounce {
        let suspects = recipients(own).map(|to| suspect(&own.customer_id, to)).collect();
        if let Some(((customer_id, sender), why)) = find(&mut *tx, &suspects).await?.pop_first() {
            let reason = why.cause.as_str();
            tracing::warn!(
                customer_id,
                sender,
                reason,
                "a report is dropped: its sender's address is suppressed"
            );
            return Ok(false);
        }
    }
    write(tx, &BTreeMap::new(), &[own], None).await?;
    if let Some(about) = about {
        let (id, about) = (own.message_id.as_str(), about.as_str());
        let done = query(ABOUT).bind(id).bind(about).execute(tx).await?;
        changed("what a report is about", done.rows_affected(), 1)?;
    }
    Ok(true)
}

impl Account {
    /// An account from its columns.
    pub(super) fn from_columns(
        balance: Option<i64>,
        read_at: Option<i64>,
        held_and_owed: (i64, i64),
        version: i64,
    ) -> Result<Self, StoreError> {
        let negative = || StoreError::Corrupt("a sum of an account is negative".to_owned());
        Ok(Self {
            balance,
            balance_read_at: read_at.map(super::timestamp).transpose()?,
            held: Credits::from_i64(held_and_owed.0).ok_or_else(negative)?,
            owed: Credits::from_i64(held_and_owed.1).ok_or_else(negative)?,
            version,
        })
    }
}
