//! Links by which customers sign in: mailed, used once, and soon over. The row holds the hash
//! of what the link holds.
//!
//! Whoever has an address is asked for without regard to case, and written to as their payment
//! spelt it: what was typed on a page is no address that mail goes to.

use jiff::{SignedDuration, Timestamp};

use super::accept::{Acceptance, insert_own};
use super::account::lock_accounts;
use super::session::{NewSession, PageSession, insert_session};
use super::sql::{query, query_as, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, json, lock, millis, stored};
use crate::domain::ids::CustomerId;

/// Customers with one address who are written to.
const CUSTOMERS: u32 = 5;
/// Links of one customer that may be under way.
const LINKS: i64 = 3;

/// How long a link may be used.
pub const LINK_LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// Somebody who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// The customer.
    pub customer_id: CustomerId,
    /// Their address, as it is known.
    pub email: String,
    /// Their name.
    pub name: Option<String>,
}

/// A link that is mailed.
#[derive(Debug, Clone)]
pub struct NewLink {
    /// SHA-256 of its secret, in hexadecimal.
    pub link_hash: String,
    /// Whom it signs in.
    pub customer_id: CustomerId,
}

impl Store {
    /// Who has this address, those first who have been here longest.
    pub async fn customers_at(&self, email: &str) -> Result<Vec<Addressee>, StoreError> {
        const READ: &str = "
            SELECT customer_id, email, name FROM customer WHERE lower(email) = lower($1)
            ORDER BY created_at, customer_id LIMIT $2";
        let rows: Vec<(String, String, Option<String>)> =
            query_as(READ).bind(email).bind(CUSTOMERS).fetch_all(&self.readers).await?;
        let read = |(customer_id, email, name): (String, _, _)| {
            Ok(Addressee { customer_id: stored(CustomerId::parse(&customer_id))?, email, name })
        };
        rows.into_iter().map(read).collect()
    }

    /// Keeps links and takes the mail in that they are in, both or neither. `false`: one of its
    /// customers has as many under way as there may be.
    pub async fn mail_links(
        &self,
        links: &[NewLink],
        mail: &Acceptance,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const KEEP: &str = "
            INSERT INTO sign_in_link (link_hash, customer_id, created_at, expires_at)
            SELECT $1, $2, $3, $4 WHERE
                (SELECT count(*) FROM sign_in_link WHERE customer_id = $2 AND expires_at > $3) < $5";
        let expires_at = now.checked_add(LINK_LIFETIME).unwrap_or(now);
        let customers: Vec<&CustomerId> = links.iter().map(|link| &link.customer_id).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock_accounts(&mut tx, &json(&customers)?).await?;
        for link in links {
            let done = query(KEEP)
                .bind(&link.link_hash)
                .bind(link.customer_id.as_str())
                .bind(millis(now))
                .bind(millis(expires_at))
                .bind(LINKS)
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
        }
        insert_own(&mut tx, mail, None).await?;
        tx.commit().await?;
        self.ring(&Wake::Parts);
        Ok(true)
    }

    /// Whom a link would sign in, as long as it may be used. Looking does not use it up.
    pub async fn sign_in_link(
        &self,
        link_hash: &str,
        now: Timestamp,
    ) -> Result<Option<CustomerId>, StoreError> {
        const READ: &str = "SELECT customer_id FROM sign_in_link WHERE link_hash = $1 AND expires_at > $2";
        let found: Option<String> =
            query_scalar(READ).bind(link_hash).bind(millis(now)).fetch_optional(&self.readers).await?;
        found.map(|customer_id| stored(CustomerId::parse(&customer_id))).transpose()
    }

    /// Uses a link up, and the customer's others with it, and begins the session: all or nothing.
    /// `None`: it was used before, or is over.
    pub async fn use_sign_in_link(
        &self,
        link_hash: &str,
        new: &NewSession,
    ) -> Result<Option<CustomerId>, StoreError> {
        // Whoever deletes it has used it: nobody else finds it then.
        const USE: &str = "DELETE FROM sign_in_link WHERE link_hash = $1 AND expires_at > $2";
        const OTHERS: &str = "DELETE FROM sign_in_link WHERE customer_id = $1";
        let Some(customer_id) = self.sign_in_link(link_hash, new.begun_at).await? else { return Ok(None) };
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &customer_id).await?;
        let done = query(USE).bind(link_hash).bind(millis(new.begun_at)).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        query(OTHERS).bind(customer_id.as_str()).execute(&mut *tx).await?;
        let who = PageSession { customer_id, username: None };
        insert_session(&mut tx, new, &who).await?;
        tx.commit().await?;
        Ok(Some(who.customer_id))
    }
}
