//! Who is signed in on the page: a row a session, so that signing out ends it wherever its
//! cookie is. The row holds the hash of what the cookie holds.

use jiff::Timestamp;

use super::sql::{Session, query, query_as};
use super::{Store, StoreError, lock, millis, stored};
use crate::domain::ids::{CustomerId, Username};

/// Sessions that one customer may have; who begins another one ends the oldest.
const MOST: u32 = 50;
/// Sessions and links that leave in one step.
const STEP: u32 = 500;

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSession {
    /// Whose account it is.
    pub customer_id: CustomerId,
    /// The credential that was used; `None`: a mailed link was.
    pub username: Option<Username>,
}

/// A session that begins.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// SHA-256 of its id, in hexadecimal.
    pub session_hash: String,
    /// When it begins.
    pub begun_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

impl Store {
    /// Signs somebody in.
    pub async fn begin_session(&self, new: &NewSession, who: &PageSession) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &who.customer_id).await?;
        insert_session(&mut tx, new, who).await?;
        Ok(tx.commit().await?)
    }

    /// Who is signed in by that session, if it has not ended.
    pub async fn session(
        &self,
        session_hash: &str,
        now: Timestamp,
    ) -> Result<Option<PageSession>, StoreError> {
        const READ: &str = "
            SELECT customer_id, username FROM session WHERE session_hash = $1 AND expires_at > $2";
        let row: Option<(String, Option<String>)> =
            query_as(READ).bind(session_hash).bind(millis(now)).fetch_optional(&self.readers).await?;
        let Some((customer_id, username)) = row else { return Ok(None) };
        Ok(Some(PageSession {
            customer_id: stored(CustomerId::parse(&customer_id))?,
            username: username.map(|username| stored(Username::parse(&username))).transpose()?,
        }))
    }

    /// Signs one session out; doing it again changes nothing.
    pub async fn end_session(&self, session_hash: &str) -> Result<(), StoreError> {
        const END: &str = "DELETE FROM session WHERE session_hash = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(END).bind(session_hash).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Signs a customer out everywhere, and takes back the links that were mailed. Returns how many
    /// sessions there were.
    pub async fn end_sessions(&self, customer_id: &CustomerId) -> Result<u64, StoreError> {
        const END: &str = "DELETE FROM session WHERE customer_id = $1";
        const LINKS: &str = "DELETE FROM sign_in_link WHERE customer_id = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let done = query(END).bind(customer_id.as_str()).execute(&mut *tx).await?;
        query(LINKS).bind(customer_id.as_str()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Some sessions and links that are over leave. Returns how many; 0: there are none.
    pub async fn sweep_sessions(&self, now: Timestamp) -> Result<u64, StoreError> {
        const ANY: &str = "
            SELECT session_hash, '' FROM session WHERE expires_at <= $1
            UNION ALL SELECT link_hash, '' FROM sign_in_link WHERE expires_at <= $1 LIMIT 1";
        const SESSIONS: &str = "
            DELETE FROM session WHERE session_hash IN
                (SELECT session_hash FROM session WHERE expires_at <= $1 ORDER BY session_hash LIMIT $2)";
        const LINKS: &str = "
            DELETE FROM sign_in_link WHERE link_hash IN
                (SELECT link_hash FROM sign_in_link WHERE expires_at <= $1 ORDER BY link_hash LIMIT $2)";
        let any: Option<(String, String)> =
            query_as(ANY).bind(millis(now)).fetch_optional(&self.readers).await?;
        if any.is_none() {
            return Ok(0);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let mut count = 0;
        for delete in [SESSIONS, LINKS] {
            count += query(delete).bind(millis(now)).bind(STEP).execute(&mut *tx).await?.rows_affected();
        }
        tx.commit().await?;
        Ok(count)
    }
}

/// Writes a session down; its customer is locked.
pub(super) async fn insert_session(
    tx: &mut Session<'_>,
    new: &NewSession,
    who: &PageSession,
) -> Result<(), StoreError> {
    const FEWER: &str = "
        DELETE FROM session WHERE customer_id = $1 AND session_hash NOT IN
            (SELECT session_hash FROM session WHERE customer_id = $1
             ORDER BY begun_at DESC, session_hash LIMIT $2)";
    const BEGIN: &str = "
        INSERT INTO session (session_hash, customer_id, username, begun_at, expires_at)
        VALUES ($1, $2, $3, $4, $5)";
    let customer_id = who.customer_id.as_str();
    query(FEWER).bind(customer_id).bind(MOST - 1).execute(&mut *tx).await?;
    query(BEGIN)
        .bind(&new.session_hash)
        .bind(customer_id)
        .bind(who.username.as_ref().map(Username::as_str))
        .bind(millis(new.begun_at))
        .bind(millis(new.expires_at))
        .execute(tx)
        .await?;
    Ok(())
}
