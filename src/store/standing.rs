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
    /// The credential; `None`: it was asked for the customer alone.
    pub username: Option<Username>,
    /// What its secret must hash to; nobody's, where there is no credential.
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

    /// The same of a customer who is signed in without a credential.
    pub async fn standing_of(&self, customer_id: &CustomerId) -> Result<Option<Standing>, StoreError> {
        const READ: &str = "
            SELECT c.customer_id, CAST(NULL AS TEXT) AS username, $2 AS secret_hash,
                   CAST(NULL AS BIGINT) AS revoked_at, c.suspended_reason,
                   a.balance, a.balance_read_at, a.held, a.owed, a.version,
                   (SELECT string_agg(s.pattern, '\n') FROM sender s WHERE s.customer_id = c.customer_id)
                       AS senders,
                   EXISTS (SELECT 1 FROM suppression x WHERE x.customer_id = c.customer_id) AS suppresses,
                   CAST(NULL AS BIGINT) AS per_day, CAST(NULL AS BIGINT) AS per_minute,
                   CAST(NULL AS BIGINT) AS counted_minute, CAST(NULL AS BIGINT) AS in_minute,
                   CAST(NULL AS BIGINT) AS in_day, CAST(NULL AS BIGINT) AS last_used_at
            FROM customer c JOIN account a ON a.customer_id = c.customer_id WHERE c.customer_id = $1";
        let nobodys = SecretHash::NOBODYS;
        let row: Option<StandingRow> = query_as(READ)
            .bind(customer_id.as_str())
            .bind(nobodys.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?;
        row.map(StandingRow::read).transpose()
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
    let named = |standing: Standing| Some((standing.username.clone()?, standing));
    rows.into_iter().filter_map(|row| row.read().map(named).transpose()).collect()
}

#[derive(sqlx::FromRow)]
struct StandingRow {
    customer_id: String,
    username: Option<String>,
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
            || StoreError::Corrupt(format!("the secret hash of {:?} is not 32 octets", self.username));
        let senders = self.senders.as_deref().unwrap_or_default();
        let sums = (self.held, self.owed);
        let counts = (self.counted_minute, self.in_minute, self.in_day);
        Ok(Standing {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            username: self.username.as_deref().map(|name| stored(Username::parse(name))).transpose()?,
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
