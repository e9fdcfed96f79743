//! What sign-in and MAIL ask about a credential, gathered (`questions`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::sql::{Readers, query_as};
use super::{Store, StoreError, caps, json, stored, timestamp};
use crate::domain::account::Account;
use crate::domain::caps::Tally;
use crate::domain::credential::SecretHash;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::SenderPattern;

/// What sign-in and MAIL ask about a credential.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whose it is.
    pub customer_id: CustomerId,
    /// The credential.
    pub username: Username,
    /// What its secret must hash to.
    pub secret_hash: SecretHash,
    /// Whether it was revoked.
    pub is_revoked: bool,
    /// Set while the customer is suspended.
    pub suspended_reason: Option<String>,
    /// The account.
    pub account: Account,
    /// Whom the customer may send as.
    pub senders: Vec<SenderPattern>,
    /// Whether there is anything on the customer's suppression list.
    pub suppresses: bool,
    /// The credential's caps, and what it has sent if it has any.
    pub tally: Tally,
    /// When it was used last, as far as that was noted.
    pub last_used_at: Option<Timestamp>,
}

impl Store {
    /// What stands behind a username, if it exists, by a look that begins after the question.
    pub async fn standing(&self, username: &Username) -> Result<Option<Standing>, StoreError> {
        self.standings.ask(username.clone()).await
    }
}

/// What stands behind these usernames.
pub(super) async fn look(
    readers: &Readers,
    usernames: &BTreeSet<Username>,
) -> Result<BTreeMap<Username, Standing>, StoreError> {
    const READ: &str = "
        SELECT k.customer_id, k.username, k.secret_hash, k.revoked_at, c.suspended_reason,
               a.balance, a.balance_read_at, a.held, a.owed, a.version,
               (SELECT string_agg(s.pattern, '\n') FROM sender s WHERE s.customer_id = k.customer_id)
                   AS senders,
               EXISTS (SELECT 1 FROM suppression x WHERE x.customer_id = k.customer_id) AS suppresses,
               k.per_day, k.per_minute, k.counted_minute, k.in_minute, k.in_day, k.last_used_at
        FROM credential k JOIN customer c ON c.customer_id = k.customer_id
             JOIN account a ON a.customer_id = k.customer_id
        WHERE k.username IN (SELECT atom FROM json_each($1))";
    let names: Vec<&str> = usernames.iter().map(Username::as_str).collect();
    let rows: Vec<StandingRow> = query_as(READ).bind(json(&names)?).fetch_all(readers).await?;
    rows.into_iter().map(|row| row.read().map(|standing| (standing.username.clone(), standing))).collect()
}

#[derive(sqlx::FromRow)]
struct StandingRow {
    customer_id: String,
    username: String,
    secret_hash: Vec<u8>,
    revoked_at: Option<i64>,
    suspended_reason: Option<String>,
    balance: Option<i64>,
    balance_read_at: Option<i64>,
    held: i64,
    owed: i64,
    version: i64,
    senders: Option<String>,
    suppresses: bool,
    per_day: Option<i64>,
    per_minute: Option<i64>,
    counted_minute: Option<i64>,
    in_minute: Option<i64>,
    in_day: Option<i64>,
    last_used_at: Option<i64>,
}

impl StandingRow {
    fn read(self) -> Result<Standing, StoreError> {
        let no_hash =
            || StoreError::Corrupt(format!("the secret hash of {} is not 32 octets", self.username));
        let senders = self.senders.as_deref().unwrap_or_default();
        let sums = (self.held, self.owed);
        let counts = (self.counted_minute, self.in_minute, self.in_day);
        Ok(Standing {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            username: stored(Username::parse(&self.username))?,
            secret_hash: SecretHash::from_slice(&self.secret_hash).ok_or_else(no_hash)?,
            is_revoked: self.revoked_at.is_some(),
            suspended_reason: self.suspended_reason,
            account: Account::from_columns(self.balance, self.balance_read_at, sums, self.version)?,
            senders: senders.lines().map(|p| stored(SenderPattern::parse(p))).collect::<Result<_, _>>()?,
            suppresses: self.suppresses,
            tally: caps::tally((self.per_day, self.per_minute), counts)?,
            last_used_at: self.last_used_at.map(timestamp).transpose()?,
        })
    }
}
