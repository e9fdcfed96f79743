//! Checkouts that a browser began, and the customers that payments make.
//!
//! An email typed at checkout proves nothing about who typed it. Only the browser
//! that began the checkout of a customer who was *new* may claim a credential,
//! and only once; a payment that landed on a known customer shows nothing.

use jiff::Timestamp;

use super::customer::{ChangeError, Credential, insert_credential, insert_customer};
use super::sql::{query, query_as};
use super::{Store, StoreError, millis, stored};
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

/// A payment that succeeded.
#[derive(Debug, Clone)]
pub struct Payment {
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
}

impl Store {
    /// Remembers a checkout that a browser began.
    pub async fn begin_checkout(&self, token_hash: &str, now: Timestamp) -> Result<(), StoreError> {
        const INSERT: &str =
            "INSERT INTO checkout (token_hash, state, created_at) VALUES ($1, 'pending', $2)";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(INSERT).bind(token_hash).bind(millis(now)).execute(&mut *tx).await?;
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

    /// Where a checkout stands; `None`: nobody began it here.
    pub async fn checkout(&self, token_hash: &str) -> Result<Option<Checkout>, StoreError> {
        const READ: &str = "SELECT state, customer_id, session_id FROM checkout WHERE token_hash = $1";
        let row: Option<(String, Option<String>, Option<String>)> =
            query_as(READ).bind(token_hash).fetch_optional(&self.readers).await?;
        let Some((state, customer_id, session_id)) = row else { return Ok(None) };
        let Some(customer_id) = customer_id else { return Ok(Some(Checkout::Pending { session_id })) };
        let customer_id = stored(CustomerId::parse(&customer_id))?;
        Ok(Some(match state.as_str() {
            "paid" => Checkout::Paid(customer_id),
            "claimed" => Checkout::Claimed(customer_id),
            _ => Checkout::Known(customer_id),
        }))
    }

    /// Records a payment: makes the customer if there is none, and binds the
    /// checkout to it. Safe to repeat. Returns whether the customer is new.
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
        tx.commit().await?;
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
