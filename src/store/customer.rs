//! Customers, their credentials and their senders.

use jiff::Timestamp;

use super::proof::{deny, pardon};
use super::sql::{Session, query, query_as, query_scalar};
use super::{Store, StoreError, caps, lock, millis, reputation, stored, timestamp};
use crate::domain::account::Account;
use crate::domain::caps::Caps;
use crate::domain::credential::SecretHash;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::SenderPattern;
use crate::domain::suppression::SuppressedAddress;

/// A customer and the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Dodo's id.
    pub customer_id: CustomerId,
    /// Where notices go.
    pub email: Option<String>,
    /// What to call them.
    pub name: Option<String>,
    /// Set while the operator has suspended them.
    pub suspended_reason: Option<String>,
    /// Since when they are known here.
    pub created_at: Timestamp,
    /// The account.
    pub account: Account,
}

/// A credential without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The username.
    pub username: Username,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// What it is for, in the customer's words.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// How many messages it may send.
    pub caps: Caps,
    /// When it was used last, as far as that was noted; whoever makes one leaves it unset.
    pub last_used_at: Option<Timestamp>,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such customer.
    #[error("there is no customer {0}; `postmeter customer list` shows those there are")]
    NoCustomer(CustomerId),
    /// The customer is there already.
    #[error("the customer {0} is there already")]
    CustomerExists(CustomerId),
    /// The username is taken.
    #[error("the username {0} is taken")]
    UsernameTaken(Username),
    /// There is no such credential, or it is revoked already.
    #[error(
        "there is no credential {0} that could be revoked; `postmeter credential list` shows those there are"
    )]
    NoCredential(Username),
    /// There is no such sender.
    #[error("{0} is not a sender of this customer; `postmeter sender list ID` shows those there are")]
    NoSender(SenderPattern),
    /// The address is not on the suppression list.
    #[error("{0} is not on the suppression list of this customer")]
    NotSuppressed(SuppressedAddress),
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct CustomerRow {
    customer_id: String,
    email: Option<String>,
    name: Option<String>,
    suspended_reason: Option<String>,
    created_at: i64,
    balance: Option<i64>,
    balance_read_at: Option<i64>,
    held: i64,
    owed: i64,
    version: i64,
}

impl CustomerRow {
    pub(super) fn read(self) -> Result<Customer, StoreError> {
        let sums = (self.held, self.owed);
        Ok(Customer {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            email: self.email,
            name: self.name,
            suspended_reason: self.suspended_reason,
            created_at: timestamp(self.created_at)?,
            account: Account::from_columns(self.balance, self.balance_read_at, sums, self.version)?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct CredentialRow {
    username: String,
    customer_id: String,
    label: Option<String>,
    created_at: i64,
    revoked_at: Option<i64>,
    per_day: Option<i64>,
    per_minute: Option<i64>,
    last_used_at: Option<i64>,
}

impl CredentialRow {
    fn read(self) -> Result<Credential, StoreError> {
        Ok(Credential {
            username: stored(Username::parse(&self.username))?,
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            label: self.label,
            created_at: timestamp(self.created_at)?,
            revoked_at: self.revoked_at.map(timestamp).transpose()?,
            caps: caps::caps(self.per_day, self.per_minute)?,
            last_used_at: self.last_used_at.map(timestamp).transpose()?,
        })
    }
}

impl Store {
    /// Makes a customer with an account whose balance is still unknown.
    pub async fn add_customer(
        &self,
        customer_id: &CustomerId,
        email: Option<&str>,
        name: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        if !insert_customer(&mut tx, customer_id, email, name, now).await? {
            return Err(ChangeError::CustomerExists(customer_id.clone()));
        }
        Ok(tx.commit().await?)
    }

    /// One customer.
    pub async fn customer(&self, customer_id: &CustomerId) -> Result<Option<Customer>, StoreError> {
        const READ: &str = "
            SELECT c.customer_id, c.email, c.name, c.suspended_reason, c.created_at,
                   a.balance, a.balance_read_at, a.held, a.owed, a.version
            FROM customer c JOIN account a ON a.customer_id = c.customer_id WHERE c.customer_id = $1";
        let row: Option<CustomerRow> =
            query_as(READ).bind(customer_id.as_str()).fetch_optional(&self.readers).await?;
        row.map(CustomerRow::read).transpose()
    }

    /// All customers, by id.
    pub async fn customers(&self) -> Result<Vec<Customer>, StoreError> {
        const READ: &str = "
            SELECT c.customer_id, c.email, c.name, c.suspended_reason, c.created_at,
                   a.balance, a.balance_read_at, a.held, a.owed, a.version
            FROM customer c JOIN account a ON a.customer_id = c.customer_id ORDER BY c.customer_id";
        let rows: Vec<CustomerRow> = query_as(READ).fetch_all(&self.readers).await?;
        rows.into_iter().map(CustomerRow::read).collect()
    }

    /// Suspends a customer with a reason that they are told.
    pub async fn suspend(&self, customer_id: &CustomerId, reason: &str) -> Result<(), ChangeError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        set_suspended(&mut tx, customer_id, Some(reason)).await?;
        Ok(tx.commit().await?)
    }

    /// Takes the mail of a customer again, whoever suspended them. What came back of
    /// their mail until now does not count any more.
    pub async fn resume(&self, customer_id: &CustomerId, now: Timestamp) -> Result<(), ChangeError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        set_suspended(&mut tx, customer_id, None).await?;
        reputation::begin_anew(&mut tx, customer_id, now).await?;
        Ok(tx.commit().await?)
    }

    /// Keeps a credential's hash. The secret itself is the caller's to show, once.
    pub async fn add_credential(
        &self,
        credential: &Credential,
        secret_hash: &SecretHash,
    ) -> Result<(), ChangeError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let is_new = insert_credential(&mut tx, credential, secret_hash).await?;
        tx.commit().await?;
        drop(writer);
        if is_new {
            return Ok(());
        }
        Err(match self.customer(&credential.customer_id).await? {
            Some(_) => ChangeError::UsernameTaken(credential.username.clone()),
            None => ChangeError::NoCustomer(credential.customer_id.clone()),
        })
    }

    /// The credentials of one customer, or of all.
    pub async fn credentials(&self, customer_id: Option<&CustomerId>) -> Result<Vec<Credential>, StoreError> {
        const READ: &str = "
            SELECT username, customer_id, label, created_at, revoked_at, per_day, per_minute, last_used_at
            FROM credential
            WHERE customer_id = $1 OR $1 IS NULL ORDER BY customer_id, created_at, username";
        let rows: Vec<CredentialRow> =
            query_as(READ).bind(customer_id.map(CustomerId::as_str)).fetch_all(&self.readers).await?;
        rows.into_iter().map(CredentialRow::read).collect()
    }

    /// Revokes a credential, of that customer only if one is given.
    pub async fn revoke_credential(
        &self,
        username: &Username,
        of: Option<&CustomerId>,
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        const REVOKE: &str = "
            UPDATE credential SET revoked_at = $3
            WHERE username = $1 AND (customer_id = $2 OR $2 IS NULL) AND revoked_at IS NULL";
        // Whose it is never changes.
        const WHOSE: &str = "
            SELECT customer_id FROM account WHERE customer_id IN
                (SELECT customer_id FROM credential WHERE username = $1) FOR NO KEY UPDATE";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::rows(&mut tx, query(WHOSE).bind(username.as_str())).await?;
        let done = query(REVOKE)
            .bind(username.as_str())
            .bind(of.map(CustomerId::as_str))
            .bind(millis(now))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(ChangeError::NoCredential(username.clone()));
        }
        Ok(tx.commit().await?)
    }

    /// The username whose secret has this hash: `Authorization: Bearer SECRET`.
    pub async fn username_of(&self, secret_hash: &SecretHash) -> Result<Option<Username>, StoreError> {
        const READ: &str = "SELECT username FROM credential WHERE secret_hash = $1";
        let found: Option<String> =
            query_scalar(READ).bind(secret_hash.as_bytes().as_slice()).fetch_optional(&self.readers).await?;
        found.map(|username| stored(Username::parse(&username))).transpose()
    }

    /// Lets a customer send as `pattern`; doing it twice changes nothing. What the operator
    /// allows is the operator's from then on, whatever a proof had given.
    pub async fn allow_sender(
        &self,
        customer_id: &CustomerId,
        pattern: &SenderPattern,
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        const ALLOW: &str = "
            INSERT INTO sender (customer_id, pattern, created_at)
            SELECT $1, $2, $3 WHERE EXISTS (SELECT 1 FROM customer WHERE customer_id = $1)
            ON CONFLICT (customer_id, pattern) DO UPDATE SET origin = 'operator'";
        if self.customer(customer_id).await?.is_none() {
            return Err(ChangeError::NoCustomer(customer_id.clone()));
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        query(ALLOW)
            .bind(customer_id.as_str())
            .bind(pattern.to_string())
            .bind(millis(now))
            .execute(&mut *tx)
            .await?;
        pardon(&mut tx, customer_id, pattern).await?;
        Ok(tx.commit().await?)
    }

    /// Takes a sender off a customer's list; a domain that the customer proved, or
    /// claims, for good.
    pub async fn deny_sender(
        &self,
        customer_id: &CustomerId,
        pattern: &SenderPattern,
    ) -> Result<(), ChangeError> {
        const DENY: &str = "DELETE FROM sender WHERE customer_id = $1 AND pattern = $2";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let done = query(DENY).bind(customer_id.as_str()).bind(pattern.to_string()).execute(&mut *tx).await?;
        let was_claimed = deny(&mut tx, customer_id, pattern).await?;
        if done.rows_affected() == 0 && !was_claimed {
            return Err(ChangeError::NoSender(pattern.clone()));
        }
        Ok(tx.commit().await?)
    }

    /// A customer's senders.
    pub async fn senders(&self, customer_id: &CustomerId) -> Result<Vec<SenderPattern>, StoreError> {
        const READ: &str = "SELECT pattern FROM sender WHERE customer_id = $1 ORDER BY pattern";
        let rows: Vec<String> =
            query_scalar(READ).bind(customer_id.as_str()).fetch_all(&self.readers).await?;
        rows.iter().map(|pattern| stored(SenderPattern::parse(pattern))).collect()
    }
}

async fn set_suspended(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    reason: Option<&str>,
) -> Result<(), ChangeError> {
    const SET: &str = "UPDATE customer SET suspended_reason = $2 WHERE customer_id = $1";
    let done = query(SET).bind(customer_id.as_str()).bind(reason).execute(tx).await?;
    if done.rows_affected() == 0 {
        return Err(ChangeError::NoCustomer(customer_id.clone()));
    }
    Ok(())
}

/// Makes a customer and an empty account; `false`: the customer is there already.
pub(super) async fn insert_customer(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    email: Option<&str>,
    name: Option<&str>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const CUSTOMER: &str = "
        INSERT INTO customer (customer_id, email, name, created_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
    const ACCOUNT: &str = "INSERT INTO account (customer_id) VALUES ($1)";
    let done = query(CUSTOMER)
        .bind(customer_id.as_str())
        .bind(email)
        .bind(name)
        .bind(millis(now))
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    query(ACCOUNT).bind(customer_id.as_str()).execute(tx).await?;
    Ok(true)
}

/// Keeps a credential; `false`: the username is taken, or there is no such customer.
pub(super) async fn insert_credential(
    tx: &mut Session<'_>,
    credential: &Credential,
    secret_hash: &SecretHash,
) -> Result<bool, StoreError> {
    const INSERT: &str = "
        INSERT INTO credential (username, customer_id, secret_hash, label, created_at, per_day, per_minute)
        SELECT $1, $2, $3, $4, $5, $6, $7 WHERE EXISTS (SELECT 1 FROM customer WHERE customer_id = $2)
        ON CONFLICT (username) DO NOTHING";
    let done = query(INSERT)
        .bind(credential.username.as_str())
        .bind(credential.customer_id.as_str())
        .bind(secret_hash.as_bytes().as_slice())
        .bind(&credential.label)
        .bind(millis(credential.created_at))
        .bind(credential.caps.per_day.map(i64::from))
        .bind(credential.caps.per_minute.map(i64::from))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
