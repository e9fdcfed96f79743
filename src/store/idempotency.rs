//! The customers' idempotency keys, and what was accepted under them.
//!
//! A key is written in the transaction that accepts its message and read in every
//! transaction that decides about the key, so that of two submissions under one
//! key only one can ever be accepted, at once or a restart later. What was refused
//! leaves no trace. A batch without keys costs no statement here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::accept::Acceptance;
use super::{Store, StoreError, changed, json, millis, stored};
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::idempotency::{IdempotencyKey, KEY_LIFETIME, Keyed};
use crate::domain::ids::{CustomerId, MessageId};

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// For this very submission, which was accepted.
    Same {
        /// As this message.
        message_id: MessageId,
        /// What the customer has left now.
        available: Option<Credits>,
    },
    /// For another one.
    Other,
}

impl Store {
    /// What was accepted under a key, if it still stands for anything.
    pub async fn earlier(
        &self,
        customer_id: &CustomerId,
        keyed: &Keyed,
        now: Timestamp,
    ) -> Result<Option<Earlier>, StoreError> {
        const READ: &str = "
            SELECT k.message_id, k.fingerprint, a.balance, a.balance_read_at, a.held, a.owed, a.version
            FROM idempotency_key k JOIN account a ON a.customer_id = k.customer_id
            WHERE k.customer_id = ?1 AND k.key = ?2 AND k.expires_at > ?3";
        let row: Option<EarlierRow> = sqlx::query_as(READ)
            .bind(customer_id.as_str())
            .bind(keyed.key.as_str())
            .bind(millis(now))
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if row.fingerprint != keyed.fingerprint.as_str() {
            return Ok(Some(Earlier::Other));
        }
        let sums = (row.held, row.owed);
        let account = Account::from_columns(row.balance, row.balance_read_at, sums, row.version)?;
        let message_id = stored(MessageId::parse(&row.message_id))?;
        Ok(Some(Earlier::Same { message_id, available: account.available_credits() }))
    }

    /// Deletes keys that have expired, `limit` at most; how many they were.
    pub async fn sweep_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        const SWEEP: &str = "
            DELETE FROM idempotency_key WHERE (customer_id, key) IN
                (SELECT customer_id, key FROM idempotency_key WHERE expires_at <= ?1
                 ORDER BY expires_at LIMIT ?2)";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let swept = sqlx::query(SWEEP).bind(millis(now)).bind(limit).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(swept.rows_affected())
    }
}

#[derive(sqlx::FromRow)]
struct EarlierRow {
    message_id: String,
    fingerprint: String,
    balance: Option<i64>,
    balance_read_at: Option<i64>,
    held: i64,
    owed: i64,
    version: i64,
}

/// The keys of one batch, as they stand inside the transaction.
#[derive(Debug, Default)]
pub(super) struct Keys<'a> {
    used: BTreeMap<(CustomerId, IdempotencyKey), Used>,
    taken: Vec<(&'a Acceptance, &'a Keyed)>,
}

#[derive(Debug)]
struct Used {
    fingerprint: String,
    message_id: MessageId,
    expires_at: i64,
}

/// What a key of the batch stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing yet, or nothing any more.
    Free,
    /// This very submission, accepted as this message.
    Same(MessageId),
    /// Another one.
    Other,
}

#[derive(sqlx::FromRow)]
struct UsedRow {
    customer_id: String,
    key: String,
    fingerprint: String,
    message_id: String,
    expires_at: i64,
}

impl<'a> Keys<'a> {
    /// Reads what the batch's keys stand for.
    pub(super) async fn read(tx: &mut SqliteConnection, batch: &[&Acceptance]) -> Result<Self, StoreError> {
        const READ: &str = "
            SELECT k.customer_id, k.key, k.fingerprint, k.message_id, k.expires_at
            FROM json_each(?1) AS a JOIN idempotency_key k
                 ON k.customer_id = a.value ->> 0 AND k.key = a.value ->> 1";
        let asked: Vec<(&str, &str)> = batch
            .iter()
            .filter_map(|a| Some((a.customer_id.as_str(), a.keyed.as_ref()?.key.as_str())))
            .collect();
        if asked.is_empty() {
            return Ok(Self::default());
        }
        let rows: Vec<UsedRow> = sqlx::query_as(READ).bind(json(&asked)?).fetch_all(tx).await?;
        let used = rows.into_iter().map(UsedRow::read).collect::<Result<_, _>>()?;
        Ok(Self { used, taken: Vec::new() })
    }

    /// What the key of this member stands for. Without a key nothing does.
    pub(super) fn meaning(&self, member: &Acceptance) -> Meaning {
        let Some(keyed) = &member.keyed else { return Meaning::Free };
        match self.used.get(&(member.customer_id.clone(), keyed.key.clone())) {
            Some(used) if used.expires_at <= millis(member.accepted_at) => Meaning::Free,
            Some(used) if used.fingerprint == keyed.fingerprint.as_str() => {
                Meaning::Same(used.message_id.clone())
            }
            Some(_) => Meaning::Other,
            None => Meaning::Free,
        }
    }

    /// A member is accepted: from here on its key stands for it.
    pub(super) fn take(&mut self, member: &'a Acceptance) {
        let Some(keyed) = &member.keyed else { return };
        let used = Used {
            fingerprint: keyed.fingerprint.as_str().to_owned(),
            message_id: member.message_id.clone(),
            expires_at: expires_at(member),
        };
        self.used.insert((member.customer_id.clone(), keyed.key.clone()), used);
        self.taken.push((member, keyed));
    }

    /// Writes what was taken, after its messages. A row is replaced only where it
    /// has expired, so that no bug above can make a key stand for two messages.
    pub(super) async fn write(self, tx: &mut SqliteConnection) -> Result<(), StoreError> {
        const WRITE: &str = "
            INSERT INTO idempotency_key (customer_id, key, fingerprint, message_id, expires_at)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true
            ON CONFLICT (customer_id, key) DO UPDATE
            SET fingerprint = excluded.fingerprint, message_id = excluded.message_id,
                expires_at = excluded.expires_at
            WHERE idempotency_key.expires_at <= excluded.expires_at - ?2";
        if self.taken.is_empty() {
            return Ok(());
        }
        let row = |(member, keyed): &(&'a Acceptance, &'a Keyed)| {
            let (customer_id, message_id) = (member.customer_id.as_str(), member.message_id.as_str());
            (customer_id, keyed.key.as_str(), keyed.fingerprint.as_str(), message_id, expires_at(member))
        };
        let rows: Vec<_> = self.taken.iter().map(row).collect();
        let done = sqlx::query(WRITE).bind(json(&rows)?).bind(lifetime()).execute(tx).await?;
        changed("idempotency keys", done.rows_affected(), rows.len())
    }
}

impl UsedRow {
    fn read(self) -> Result<((CustomerId, IdempotencyKey), Used), StoreError> {
        let key = (stored(CustomerId::parse(&self.customer_id))?, stored(IdempotencyKey::parse(&self.key))?);
        let message_id = stored(MessageId::parse(&self.message_id))?;
        Ok((key, Used { fingerprint: self.fingerprint, message_id, expires_at: self.expires_at }))
    }
}

/// When a key that is taken now is free again.
fn expires_at(member: &Acceptance) -> i64 {
    millis(member.accepted_at).saturating_add(lifetime())
}

fn lifetime() -> i64 {
    i64::try_from(KEY_LIFETIME.as_millis()).unwrap_or(i64::MAX)
}
