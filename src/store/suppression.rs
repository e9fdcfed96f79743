//! The suppression lists: addresses that a customer's mail is not taken for.
//!
//! The acceptance asks in its own transaction, so that no address slips through
//! between a bounce and the next message. RCPT asks before that, to refuse one
//! recipient and not the whole message; those questions are gathered as those about
//! a customer's standing are, and are not asked at all for a customer whose list
//! MAIL found empty.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::customer::ChangeError;
use super::sql::{On, Session, query, query_as, query_scalar};
use super::{Store, StoreError, json, lock, millis, stored, timestamp};
use crate::domain::address::Mailbox;
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::suppression::{Cause, SuppressedAddress, Why};

/// Most characters of what was said: a reply shows them.
const MAX_DETAIL_CHARS: usize = 160;

/// An address on a list, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Suppression {
    /// The address as the list knows it.
    pub address: String,
    /// How it came there.
    pub reason: Cause,
    /// What was said then.
    pub detail: Option<String>,
    /// The message that was the cause.
    pub message_id: Option<String>,
    /// Since when.
    pub added_at: Timestamp,
}

/// Addresses that one search looks at.
pub const WALK: u32 = 20_000;

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The addresses.
    pub entries: Vec<Suppression>,
    /// Behind which to go on; nothing: there are no more.
    pub next: Option<String>,
    /// Whether it stopped since there were too many to look at all.
    pub is_stopped: bool,
}

/// How addresses come on a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    pub(super) cause: Cause,
    pub(super) detail: Option<&'a str>,
    pub(super) message_id: Option<&'a MessageId>,
    pub(super) now: Timestamp,
}

/// Customer and address.
pub(super) type Suspect = (String, String);

#[derive(Debug, sqlx::FromRow)]
struct Row {
    address: String,
    reason: String,
    detail: Option<String>,
    message_id: Option<String>,
    added_at: i64,
}

impl Row {
    fn read(self) -> Result<Suppression, StoreError> {
        let (reason, added_at) = (cause(&self.reason)?, timestamp(self.added_at)?);
        let Self { address, detail, message_id, .. } = self;
        Ok(Suppression { address, reason, detail, message_id, added_at })
    }
}

type WhyRow = (String, String, String, Option<String>, i64);

impl Store {
    /// Why an address is on a customer's list, if it is, by a look that begins after the question.
    pub async fn suppressed(
        &self,
        customer_id: &CustomerId,
        recipient: &Mailbox,
    ) -> Result<Option<Why>, StoreError> {
        self.suspects.ask(suspect(customer_id, recipient)).await
    }

    /// A customer's list by address, at most `limit` of those behind `after`.
    pub async fn suppressions(
        &self,
        customer_id: &CustomerId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Suppression>, StoreError> {
        const READ: &str = "
            SELECT address, reason, detail, message_id, added_at FROM suppression
            WHERE customer_id = $1 AND address > $2 ORDER BY address LIMIT $3";
        let rows: Vec<Row> = query_as(READ)
            .bind(customer_id.as_str())
            .bind(after.unwrap_or_default())
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Those of a customer's list with this in their address, at most `limit` of those behind `after`.
    pub async fn search_suppressions(
        &self,
        customer_id: &CustomerId,
        part: &str,
        (after, limit): (Option<&str>, u32),
    ) -> Result<Listed, StoreError> {
        const READ: &str = "
            SELECT address, reason, detail, message_id, added_at FROM
                (SELECT address, reason, detail, message_id, added_at FROM suppression
                 WHERE customer_id = $1 AND address > $2 ORDER BY address LIMIT $3) AS s
            WHERE address LIKE $4 ESCAPE '!' ORDER BY address LIMIT $5";
        const LAST: &str = "
            SELECT address FROM suppression WHERE customer_id = $1 AND address > $2
            ORDER BY address LIMIT 1 OFFSET $3";
        let (customer_id, after) = (customer_id.as_str(), after.unwrap_or_default());
        let read = query_as::<Row>(READ).bind(customer_id).bind(after).bind(WALK);
        let rows = read.bind(pattern(part)).bind(limit).fetch_all(&self.readers).await?;
        let entries = rows.into_iter().map(Row::read).collect::<Result<Vec<_>, _>>()?;
        if u32::try_from(entries.len()).is_ok_and(|found| found == limit) {
            let next = entries.last().map(|entry| entry.address.clone());
            return Ok(Listed { entries, next, is_stopped: false });
        }
        let last = query_scalar::<String>(LAST).bind(customer_id).bind(after).bind(WALK.saturating_sub(1));
        let next = last.fetch_optional(&self.readers).await?;
        Ok(Listed { entries, is_stopped: next.is_some(), next })
    }

    /// One address of a customer's list.
    pub async fn suppression(
        &self,
        customer_id: &CustomerId,
        address: &SuppressedAddress,
    ) -> Result<Option<Suppression>, StoreError> {
        const READ: &str = "
            SELECT address, reason, detail, message_id, added_at FROM suppression
            WHERE customer_id = $1 AND address = $2";
        let row: Option<Row> = query_as(READ)
            .bind(customer_id.as_str())
            .bind(address.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(Row::read).transpose()
    }

    /// Those of these addresses that are on a customer's list because of that message.
    pub(super) async fn suppressed_by(
        &self,
        customer_id: &CustomerId,
        message_id: &MessageId,
        addresses: &BTreeSet<SuppressedAddress>,
    ) -> Result<Vec<Suppression>, StoreError> {
        const READ: &str = "
            SELECT address, reason, detail, message_id, added_at FROM suppression
            WHERE customer_id = $1 AND address IN (SELECT atom FROM json_each($2)) AND message_id = $3
            ORDER BY added_at, address";
        let rows: Vec<Row> = query_as(READ)
            .bind(customer_id.as_str())
            .bind(json(addresses)?)
            .bind(message_id.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Puts an address on a customer's list by hand; `false`: it is there already, and
    /// stays as it is.
    pub async fn suppress(
        &self,
        customer_id: &CustomerId,
        recipient: &Mailbox,
        detail: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, ChangeError> {
        if self.customer(customer_id).await?.is_none() {
            return Err(ChangeError::NoCustomer(customer_id.clone()));
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let new = New { cause: Cause::Manual, detail, message_id: None, now };
        let count = insert(&mut tx, customer_id, std::slice::from_ref(recipient), &new).await?;
        tx.commit().await?;
        Ok(count == 1)
    }

    /// Takes an address off a customer's list. Returns what stood there.
    pub async fn unsuppress(
        &self,
        customer_id: &CustomerId,
        recipient: &Mailbox,
    ) -> Result<Suppression, ChangeError> {
        const DELETE: &str = "
            DELETE FROM suppression WHERE customer_id = $1 AND address = $2
            RETURNING address, reason, detail, message_id, added_at";
        let address = SuppressedAddress::of(recipient);
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let row: Option<Row> = query_as(DELETE)
            .bind(customer_id.as_str())
            .bind(address.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Err(ChangeError::NotSuppressed(address)) };
        tx.commit().await?;
        Ok(row.read()?)
    }
}

/// For LIKE: whatever has this in it. The list is in small letters.
fn pattern(part: &str) -> String {
    let mut pattern = String::from("%");
    for letter in part.to_lowercase().chars() {
        pattern.extend(matches!(letter, '!' | '%' | '_').then_some('!'));
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

/// The key of a question: as the table has it.
pub(super) fn suspect(customer_id: &CustomerId, recipient: &Mailbox) -> Suspect {
    (customer_id.as_str().to_owned(), SuppressedAddress::of(recipient).as_str().to_owned())
}

/// Puts addresses on a customer's list, with the reason that they came there for
/// first. Returns how many are new.
pub(super) async fn insert(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    recipients: &[Mailbox],
    new: &New<'_>,
) -> Result<usize, StoreError> {
    const INSERT: &str = "
        INSERT INTO suppression (customer_id, address, reason, detail, message_id, added_at)
        SELECT $1, atom, $3, $4, $5, $6 FROM json_each($2) WHERE true ON CONFLICT DO NOTHING";
    if recipients.is_empty() {
        return Ok(0);
    }
    let addresses: BTreeSet<_> = recipients.iter().map(SuppressedAddress::of).collect();
    let detail: Option<String> = new.detail.map(|text| text.chars().take(MAX_DETAIL_CHARS).collect());
    let done = query(INSERT)
        .bind(customer_id.as_str())
        .bind(json(&addresses)?)
        .bind(new.cause.as_str())
        .bind(detail)
        .bind(new.message_id.map(MessageId::as_str))
        .bind(millis(new.now))
        .execute(tx)
        .await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

/// Which of these are on a list, and why.
pub(super) async fn find(
    connection: impl Into<On<'_>>,
    suspects: &BTreeSet<Suspect>,
) -> Result<BTreeMap<Suspect, Why>, StoreError> {
    const READ: &str = "
        SELECT s.customer_id, s.address, s.reason, s.detail, s.added_at
        FROM json_each($1) AS q CROSS JOIN suppression s
        WHERE s.customer_id = q.value ->> 0 AND s.address = q.value ->> 1";
    let rows: Vec<WhyRow> = query_as(READ).bind(json(suspects)?).fetch_all(connection).await?;
    rows.into_iter()
        .map(|(customer_id, address, reason, detail, added_at)| {
            let why = Why { cause: cause(&reason)?, detail, added_at: timestamp(added_at)? };
            Ok(((customer_id, address), why))
        })
        .collect()
}

fn cause(name: &str) -> Result<Cause, StoreError> {
    stored(Cause::parse(name).ok_or(format!("{name} is no reason to suppress an address")))
}
