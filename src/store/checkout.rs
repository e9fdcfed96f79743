//! Checkouts that a browser began, and the customers that payments make.
//!
//! An email typed at checkout proves nothing about who typed it. Only the browser
//! that began the checkout of a customer who was *new* may claim a credential,
//! and only once; a payment that landed on a known customer shows nothing. Which browser that
//! is, is known by a secret in a cookie beside the token in its address.
//!
//! While a checkout is pending Dodo may be asked what became of it, by a browser that waits or
//! for one that went away: when that was last is written down before, so that of several servers
//! one asks.

use jiff::{SignedDuration, Timestamp};

use super::accept::{Acceptance, insert_own};
use super::customer::{ChangeError, Credential, insert_credential, insert_customer};
use super::sql::{query, query_as, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, lock, millis, stored, told};
use crate::domain::credential::SecretHash;
use crate::domain::ids::CustomerId;
use crate::domain::sender::SenderPattern;

/// Where a checkout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checkout {
    /// Nothing was paid yet, as far as we know.
    Pending {
        /// Dodo's session, once it is made.
        session_id: Option<String>,
    },
    /// Paid, and it made a new customer: this browser may claim the first credential.
    Paid(CustomerId),
    /// Paid for a customer that was known before: nothing to show.
    Known(CustomerId),
    /// The credential was shown already.
    Claimed(CustomerId),
}

/// A checkout that a browser begins.
#[derive(Debug, Clone, Copy)]
pub struct NewCheckout<'a> {
    /// SHA-256 of the token in its return address, in hexadecimal.
    pub token_hash: &'a str,
    /// The same of the secret in the browser's cookie.
    pub browser_hash: &'a str,
    /// What is bought.
    pub product_id: &'a str,
}

/// A checkout that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Where it stands.
    pub state: Checkout,
    /// SHA-256 of the secret in the browser's cookie; `None`: an older version began it.
    pub browser_hash: Option<String>,
    /// What is bought; `None`: an older version began it.
    pub product_id: Option<String>,
}

/// A payment that succeeded.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Dodo's id of it.
    pub payment_id: Option<String>,
    /// Who paid.
    pub customer_id: CustomerId,
    /// Their email at Dodo.
    pub email: Option<String>,
    /// Their name at Dodo.
    pub name: Option<String>,
    /// SHA-256 of the checkout's token in hexadecimal, from the payment's metadata.
    pub token_hash: Option<String>,
    /// The sender that a new customer gets at once.
    pub starter: Option<SenderPattern>,
    /// The letter to a customer whom it makes.
    pub welcome: Option<Acceptance>,
    /// The letter to a customer who was known before.
    pub received: Option<Acceptance>,
}

impl Store {
    /// Remembers a checkout that a browser began.
    pub async fn begin_checkout(&self, new: &NewCheckout<'_>, now: Timestamp) -> Result<(), StoreError> {
        const INSERT: &str = "
            INSERT INTO checkout (token_hash, state, created_at, browser_hash, product_id)
            VALUES ($1, 'pending', $2, $3, $4)";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(INSERT)
            .bind(new.token_hash)
            .bind(millis(now))
            .bind(new.browser_hash)
            .bind(new.product_id)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Adds Dodo's session to it.
    pub async fn set_checkout_session(&self, token_hash: &str, session_id: &str) -> Result<(), StoreError> {
        const SET: &str = "UPDATE checkout SET session_id = $2 WHERE token_hash = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(SET).bind(token_hash).bind(session_id).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// A checkout; `None`: nobody began it here.
    pub async fn checkout(&self, token_hash: &str) -> Result<Option<Begun>, StoreError> {
        const READ: &str = "
            SELECT state, customer_id, session_id, browser_hash, product_id FROM checkout
            WHERE token_hash = $1";
        let row: Option<CheckoutRow> = query_as(READ).bind(token_hash).fetch_optional(&self.readers).await?;
        row.map(CheckoutRow::read).transpose()
    }

    /// Pending checkouts that began within `within` and of which Dodo was not asked for `unasked`, nor
    /// since they were half as old, those never asked of first, at most so many.
    pub async fn checkouts_to_ask(
        &self,
        (within, unasked): (SignedDuration, SignedDuration),
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<String>, StoreError> {
        const READ: &str = "
            SELECT token_hash FROM checkout
            WHERE created_at > $1 AND created_at <= $2 AND state = 'pending' AND session_id IS NOT NULL
              AND (asked_at IS NULL OR asked_at > $3
                   OR (asked_at <= $2 AND asked_at - created_at <= $3 - asked_at))
            ORDER BY coalesce(asked_at, 0), created_at, token_hash LIMIT $4";
        Ok(query_scalar(READ)
            .bind(before(now, within))
            .bind(before(now, unasked))
            .bind(millis(now))
            .bind(most)
            .fetch_all(&self.readers)
            .await?)
    }

    /// Leave to ask Dodo of a pending checkout, and by which session, for whoever is the first to
    /// want it since `unasked`. `None`: somebody else asked, or there is nothing to ask.
    pub async fn ask_of_checkout(
        &self,
        token_hash: &str,
        unasked: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        // Compare-and-set: of several servers, and of several tabs, one asks.
        const ASK: &str = "
            UPDATE checkout SET asked_at = $2
            WHERE token_hash = $1 AND state = 'pending' AND session_id IS NOT NULL
              AND (asked_at IS NULL OR asked_at <= $3 OR asked_at > $2)
            RETURNING session_id";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let session_id: Option<String> = query_scalar(ASK)
            .bind(token_hash)
            .bind(millis(now))
            .bind(before(now, unasked))
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(session_id)
    }

    /// Records a payment: makes the customer if there is none, binds the checkout to it, and takes
    /// the letter about it in. Safe to repeat: there is one letter. Returns whether the customer is new.
    pub async fn record_payment(&self, payment: &Payment, now: Timestamp) -> Result<bool, StoreError> {
        // Only a pending checkout is bound; 'paid' is for a customer that this payment made.
        const BIND: &str = "
            UPDATE checkout SET state = CASE WHEN $3 = 1 THEN 'paid' ELSE 'known' END, customer_id = $2
            WHERE token_hash = $1 AND state = 'pending'";
        const STARTER: &str = "
            INSERT INTO sender (customer_id, pattern, created_at, origin) VALUES ($1, $2, $3, 'starter')
            ON CONFLICT DO NOTHING";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &payment.customer_id).await?;
        let (email, name) = (payment.email.as_deref(), payment.name.as_deref());
        let is_new = insert_customer(&mut tx, &payment.customer_id, email, name, now).await?;
        if let (true, Some(starter)) = (is_new, &payment.starter) {
            query(STARTER)
                .bind(payment.customer_id.as_str())
                .bind(starter.to_string())
                .bind(millis(now))
                .execute(&mut *tx)
                .await?;
        }
        if let Some(token_hash) = &payment.token_hash {
            query(BIND)
                .bind(token_hash)
                .bind(payment.customer_id.as_str())
                .bind(i64::from(is_new))
                .execute(&mut *tx)
                .await?;
        }
        let is_first = match &payment.payment_id {
            Some(payment_id) => told::payment(&mut tx, payment_id, &payment.customer_id, now).await?,
            None => false,
        };
        let letter = if is_new { payment.welcome.as_ref() } else { payment.received.as_ref() };
        let letter = letter.filter(|_| is_new || is_first);
        if let Some(letter) = letter {
            insert_own(&mut tx, letter, None).await?;
        }
        tx.commit().await?;
        if letter.is_some() {
            self.ring(&Wake::Parts);
        }
        Ok(is_new)
    }

    /// Gives the first credential of a new customer to the browser that holds the
    /// token. `false`: there is nothing (more) to claim.
    pub async fn claim_checkout(
        &self,
        token_hash: &str,
        credential: &Credential,
        secret_hash: &SecretHash,
    ) -> Result<bool, ChangeError> {
        // Compare-and-set: shown once.
        const CLAIM: &str = "
            UPDATE checkout SET state = 'claimed'
            WHERE token_hash = $1 AND state = 'paid' AND customer_id = $2";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done =
            query(CLAIM).bind(token_hash).bind(credential.customer_id.as_str()).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        if !insert_credential(&mut tx, credential, secret_hash).await? {
            return Err(ChangeError::UsernameTaken(credential.username.clone()));
        }
        tx.commit().await?;
        Ok(true)
    }
}

#[derive(sqlx::FromRow)]
struct CheckoutRow {
    state: String,
    customer_id: Option<String>,
    session_id: Option<String>,
    browser_hash: Option<String>,
    product_id: Option<String>,
}

impl CheckoutRow {
    fn read(self) -> Result<Begun, StoreError> {
        let customer_id = self.customer_id.map(|id| stored(CustomerId::parse(&id))).transpose()?;
        let state = match (customer_id, self.state.as_str()) {
            (None, _) => Checkout::Pending { session_id: self.session_id },
            (Some(customer_id), "paid") => Checkout::Paid(customer_id),
            (Some(customer_id), "claimed") => Checkout::Claimed(customer_id),
            (Some(customer_id), _) => Checkout::Known(customer_id),
        };
        Ok(Begun { state, browser_hash: self.browser_hash, product_id: self.product_id })
    }
}

/// So long before.
fn before(now: Timestamp, long: SignedDuration) -> i64 {
    millis(now.checked_sub(long).unwrap_or(Timestamp::UNIX_EPOCH))
}
