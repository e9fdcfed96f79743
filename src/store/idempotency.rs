//! The customers' idempotency keys, and what was accepted under them.
//!
//! A key names one content. Who has it under the key stands recipient by recipient,
//! written in the transaction that accepts their message and read in every
//! transaction that decides about the key, so that of two submissions under one key
//! only one can ever be accepted for a recipient, at once or a restart later. Parts
//! and price were made before, for those who seemed to be left: an acceptance says
//! whom it left out, and is sent back if that is no longer so. What was refused
//! leaves no trace. A batch without keys costs no statement here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::accept::Acceptance;
use super::account::lock_accounts;
use super::sql::{On, Session, Whole, query, query_as};
use super::{Store, StoreError, changed, json, millis, stored};
use crate::domain::account::Account;
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::idempotency::{self, IdempotencyKey, KEY_LIFETIME, Keyed, Used};
use crate::domain::ids::{CustomerId, MessageId};

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// For this submission; some of its recipients are left, or all of them.
    Rest {
        /// Those who have it.
        served: Vec<Mailbox>,
    },
    /// For this submission, which was accepted for all of its recipients.
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
    /// What was accepted under a key for these recipients, if it still stands for anything.
    pub async fn earlier(
        &self,
        customer_id: &CustomerId,
        keyed: &Keyed,
        recipients: &[Mailbox],
        now: Timestamp,
    ) -> Result<Earlier, StoreError> {
        let key = keyed.key.as_str();
        let asked = recipients.iter().map(|to| (customer_id.as_str(), key, to.to_string())).collect();
        let known = read(&self.readers, asked).await?.pop_first();
        let live = known.map(|(_, known)| known).filter(|known| known.expires_at > millis(now));
        match live.map(|live| live.used.meaning(&keyed.fingerprint, recipients)) {
            None => Ok(Earlier::Rest { served: Vec::new() }),
            Some(idempotency::Meaning::Rest(served)) => Ok(Earlier::Rest { served }),
            Some(idempotency::Meaning::Other) => Ok(Earlier::Other),
            Some(idempotency::Meaning::All(message_id)) => {
                let account = self.account(customer_id).await?;
                Ok(Earlier::Same {
                    message_id,
                    available: account.as_ref().and_then(Account::available_credits),
                })
            }
        }
    }

    /// Deletes keys that have expired, and who was served under them: `limit` of each
    /// at most. Returns how many rows that were; 0: there are none.
    pub async fn sweep_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        const OLD: &str = "
            SELECT customer_id, key FROM idempotency_key WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
        const RECIPIENTS: &str = "
            DELETE FROM idempotency_recipient WHERE (customer_id, key, address) IN
                (SELECT r.customer_id, r.key, r.address
                 FROM idempotency_key k
                 JOIN idempotency_recipient r ON r.customer_id = k.customer_id AND r.key = k.key
                 WHERE k.expires_at <= $1 AND (k.customer_id, k.key) IN
                     (SELECT value ->> 0, value ->> 1 FROM json_each($3))
                 ORDER BY k.expires_at LIMIT $2)";
        const KEYS: &str = "
            DELETE FROM idempotency_key WHERE (customer_id, key) IN
                (SELECT customer_id, key FROM idempotency_key k WHERE expires_at <= $1 AND (customer_id, key) IN
                     (SELECT value ->> 0, value ->> 1 FROM json_each($3)) AND NOT EXISTS
                     (SELECT 1 FROM idempotency_recipient r WHERE r.customer_id = k.customer_id AND r.key = k.key)
                 ORDER BY expires_at LIMIT $2)";
        let old: Vec<(String, String)> =
            query_as(OLD).bind(millis(now)).bind(limit).fetch_all(&self.readers).await?;
        if old.is_empty() {
            return Ok(0);
        }
        let customers: BTreeSet<&str> = old.iter().map(|(customer_id, _)| customer_id.as_str()).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock_accounts(&mut tx, &json(&customers)?).await?;
        let names = json(&old)?;
        let mut swept = 0;
        for delete in [RECIPIENTS, KEYS] {
            let done = query(delete).bind(millis(now)).bind(limit).bind(&names).execute(&mut *tx).await?;
            swept += done.rows_affected();
        }
        tx.commit().await?;
        Ok(swept)
    }
}

/// A key by its name.
type Name = (CustomerId, IdempotencyKey);

/// A key as it stands in the database, with those who were asked for.
#[derive(Debug)]
struct Known {
    used: Used,
    expires_at: i64,
}

#[derive(sqlx::FromRow)]
struct KnownRow {
    customer_id: String,
    key: String,
    fingerprint: String,
    #[sqlx(try_from = "i64")]
    messages: u32,
    expires_at: i64,
    address: Option<String>,
    message_id: Option<String>,
    number: Option<Whole>,
}

/// Reads the keys of these (customer, key, recipient), and which of the recipients
/// have it: what that costs does not grow with those who were served before.
async fn read(
    database: impl Into<On<'_>>,
    asked: Vec<(&str, &str, String)>,
) -> Result<BTreeMap<Name, Known>, StoreError> {
    const READ: &str = "
        SELECT k.customer_id, k.key, k.fingerprint, k.messages, k.expires_at, r.address, r.message_id, r.number
        FROM json_each($1) AS a
        JOIN idempotency_key k ON k.customer_id = a.value ->> 0 AND k.key = a.value ->> 1
        LEFT JOIN idempotency_recipient r
             ON r.customer_id = k.customer_id AND r.key = k.key AND r.address = a.value ->> 2";
    let rows: Vec<KnownRow> = query_as(READ).bind(json(&asked)?).fetch_all(database).await?;
    let mut keys: BTreeMap<Name, Known> = BTreeMap::new();
    for row in rows {
        let name = (stored(CustomerId::parse(&row.customer_id))?, stored(IdempotencyKey::parse(&row.key))?);
        let known = keys.entry(name).or_insert_with(|| Known {
            used: Used::new(&row.fingerprint, row.messages),
            expires_at: row.expires_at,
        });
        if let (Some(address), Some(message_id), Some(Whole(number))) =
            (row.address, row.message_id, row.number)
        {
            let message_id = stored(MessageId::parse(&message_id))?;
            known.used.serve(stored(Mailbox::parse(&address))?, number, message_id);
        }
    }
    Ok(keys)
}

/// The keys of one batch, as they stand inside the transaction.
#[derive(Debug, Default)]
pub(super) struct Keys<'a>(BTreeMap<Name, Key<'a>>);

#[derive(Debug)]
struct Key<'a> {
    known: Known,
    /// Whether it has a row; and whether that row has expired, and goes before it is taken anew.
    is_stored: bool,
    is_over: bool,
    /// What is accepted under it in this batch, and which ones of its messages they are.
    taken: Vec<(u32, &'a Acceptance)>,
}

/// What a key of the batch stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// For nobody whom the member is for.
    Free,
    /// For this very submission, accepted as this message.
    Same(MessageId),
    /// For another one.
    Other,
    /// For this submission, but others are left of its recipients than the member is for.
    Overtaken,
}

impl<'a> Keys<'a> {
    /// Reads what the batch's keys stand for.
    pub(super) async fn read(tx: &mut Session<'_>, batch: &[&Acceptance]) -> Result<Self, StoreError> {
        let mut asked = Vec::new();
        for member in batch {
            let Some(keyed) = &member.keyed else { continue };
            let name = (member.customer_id.as_str(), keyed.key.as_str());
            asked.extend(recipients(member).chain(&keyed.served).map(|to| (name.0, name.1, to.to_string())));
        }
        if asked.is_empty() {
            return Ok(Self::default());
        }
        let known = read(tx, asked).await?;
        let key = |known| Key { known, is_stored: true, is_over: false, taken: Vec::new() };
        Ok(Self(known.into_iter().map(|(name, known)| (name, key(known))).collect()))
    }

    /// What the key of this member stands for. Without a key nothing does.
    pub(super) fn meaning(&self, member: &Acceptance) -> Meaning {
        let Some(keyed) = &member.keyed else { return Meaning::Free };
        let name = (member.customer_id.clone(), keyed.key.clone());
        let known = self.0.get(&name).map(|key| &key.known);
        let live = known.filter(|known| known.expires_at > millis(member.accepted_at));
        let to = recipients(member).chain(&keyed.served);
        let served = match live.map(|live| live.used.meaning(&keyed.fingerprint, to)) {
            Some(idempotency::Meaning::Other) => return Meaning::Other,
            Some(idempotency::Meaning::All(message_id)) => return Meaning::Same(message_id),
            Some(idempotency::Meaning::Rest(served)) => served,
            None => Vec::new(),
        };
        if served == keyed.served { Meaning::Free } else { Meaning::Overtaken }
    }

    /// A member is accepted: from here on its key stands for it.
    pub(super) fn take(&mut self, member: &'a Acceptance) {
        let Some(keyed) = &member.keyed else { return };
        let fresh = || Known { used: Used::new(keyed.fingerprint.as_str(), 0), expires_at: 0 };
        let name = (member.customer_id.clone(), keyed.key.clone());
        let new = || Key { known: fresh(), is_stored: false, is_over: false, taken: Vec::new() };
        let key = self.0.entry(name).or_insert_with(new);
        if key.known.expires_at <= millis(member.accepted_at) {
            *key =
                Key { known: fresh(), is_stored: key.is_stored, is_over: key.is_stored, taken: Vec::new() };
        }
        let expires_at = millis(member.accepted_at).saturating_add(lifetime());
        key.known.expires_at = key.known.expires_at.max(expires_at);
        let number = key.known.used.add(&member.message_id, recipients(member));
        key.taken.push((number, member));
    }

    /// Writes what was taken, after its messages. A row is added to only where it
    /// says the same, and a recipient's is never replaced, so that no bug above can
    /// serve anybody twice under a key or make it stand for two contents.
    pub(super) async fn write(self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        const WRITE: &str = "
            INSERT INTO idempotency_key (customer_id, key, fingerprint, messages, expires_at)
            SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BIGINT),
                   CAST(value ->> 4 AS BIGINT) FROM json_each($1) WHERE true
            ON CONFLICT (customer_id, key) DO UPDATE
            SET messages = excluded.messages, expires_at = excluded.expires_at
            WHERE idempotency_key.fingerprint = excluded.fingerprint
              AND idempotency_key.messages < excluded.messages;

            INSERT INTO idempotency_recipient (customer_id, key, address, message_id, number)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, CAST(value ->> 4 AS BIGINT)
            FROM json_each($2)";
        self.remove_expired(tx).await?;
        let (mut keys, mut served) = (Vec::new(), Vec::new());
        for ((customer_id, name), key) in self.0.iter().filter(|(_, key)| !key.taken.is_empty()) {
            let (customer_id, name, used) = (customer_id.as_str(), name.as_str(), &key.known.used);
            keys.push((customer_id, name, used.fingerprint(), used.messages(), key.known.expires_at));
            for (number, member) in &key.taken {
                let id = member.message_id.as_str();
                served.extend(recipients(member).map(|to| (customer_id, name, to.to_string(), id, *number)));
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let done = query(WRITE).bind(json(&keys)?).bind(json(&served)?).execute(tx).await?;
        changed("idempotency keys", done.rows_affected(), keys.len() + served.len())
    }

    /// Keys that are taken anew: who was served when they stood for something else
    /// goes with them.
    async fn remove_expired(&self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        const DELETE: &str = "
            DELETE FROM idempotency_key
            WHERE (customer_id, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1)) AND expires_at <= $2";
        let over = self.0.iter().filter(|(_, key)| key.is_over);
        let names: Vec<_> =
            over.map(|((customer_id, key), _)| (customer_id.as_str(), key.as_str())).collect();
        if names.is_empty() {
            return Ok(());
        }
        let taken = self.0.values().flat_map(|key| &key.taken);
        let latest = taken.map(|(_, member)| millis(member.accepted_at)).max();
        let done = query(DELETE).bind(json(&names)?).bind(latest).execute(tx).await?;
        changed("expired idempotency keys", done.rows_affected(), names.len())
    }
}

/// Whom an acceptance is for.
fn recipients(member: &Acceptance) -> impl Iterator<Item = &Mailbox> {
    member.parts.iter().flat_map(|part| &part.recipients)
}

fn lifetime() -> i64 {
    i64::try_from(KEY_LIFETIME.as_millis()).unwrap_or(i64::MAX)
}
