//! What an operator has to know of payments: that money went back, or that somebody disputes one.
//!
//! Each refund and each dispute is one alert, however often it is told. Where the operator
//! wants it so, the customer is suspended in the same transaction, once: whom the operator
//! resumes is not suspended again for the same.

use jiff::Timestamp;

use super::sql::{query, query_as};
use super::{Store, StoreError, lock, millis, stored, timestamp};
use crate::domain::alert::AlertKind;
use crate::domain::ids::CustomerId;

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Alert {
    /// What happened.
    pub kind: AlertKind,
    /// The refund or the dispute at Dodo; where it has no id, the webhook that told of it.
    pub subject_id: String,
    /// Whose payment it was.
    #[serde(serialize_with = "as_text")]
    pub customer_id: CustomerId,
    /// The payment.
    pub payment_id: Option<String>,
    /// What was told of it, on one line.
    pub words: String,
    /// Whether the customer was suspended for it.
    pub suspended: bool,
    /// When it was heard of.
    pub raised_at: Timestamp,
}

fn as_text<S: serde::Serializer>(id: &CustomerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_str())
}

#[derive(sqlx::FromRow)]
struct AlertRow {
    kind: String,
    subject_id: String,
    customer_id: String,
    payment_id: Option<String>,
    words: String,
    suspended: bool,
    raised_at: i64,
}

impl Store {
    /// Raises an alert, once. Where `suspends`, the customer is suspended for it, unless they are
    /// already. Returns it as it is kept; `None`: it was raised before.
    pub async fn raise_alert(&self, alert: &Alert, suspends: bool) -> Result<Option<Alert>, StoreError> {
        const SUSPEND: &str = "
            UPDATE customer SET suspended_reason = $2 WHERE customer_id = $1 AND suspended_reason IS NULL";
        const RAISE: &str = "
            INSERT INTO alert (kind, subject_id, customer_id, payment_id, words, suspended, raised_at)
            VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (kind, subject_id) DO NOTHING";
        const NOTE: &str = "UPDATE alert SET suspended = 1 WHERE kind = $1 AND subject_id = $2";
        let Alert { kind, subject_id, customer_id, payment_id, words, raised_at, .. } = alert;
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let done = query(RAISE)
            .bind(kind.as_str())
            .bind(subject_id)
            .bind(customer_id.as_str())
            .bind(payment_id)
            .bind(words)
            .bind(millis(*raised_at))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let mut suspended = false;
        if suspends {
            let done =
                query(SUSPEND).bind(customer_id.as_str()).bind(kind.reason()).execute(&mut *tx).await?;
            suspended = done.rows_affected() == 1;
        }
        if suspended {
            query(NOTE).bind(kind.as_str()).bind(subject_id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Some(Alert { suspended, ..alert.clone() }))
    }

    /// The newest alerts, of one customer or of all, at most so many.
    pub async fn alerts(&self, of: Option<&CustomerId>, most: u32) -> Result<Vec<Alert>, StoreError> {
        const READ: &str = "
            SELECT kind, subject_id, customer_id, payment_id, words, suspended = 1 AS suspended, raised_at
            FROM alert WHERE $1 IS NULL OR customer_id = $1
            ORDER BY raised_at DESC, kind, subject_id LIMIT $2";
        let rows: Vec<AlertRow> =
            query_as(READ).bind(of.map(CustomerId::as_str)).bind(most).fetch_all(&self.readers).await?;
        rows.into_iter().map(AlertRow::read).collect()
    }
}

impl AlertRow {
    fn read(self) -> Result<Alert, StoreError> {
        let unknown = || StoreError::Corrupt(format!("{} is no kind of alert", self.kind));
        Ok(Alert {
            kind: AlertKind::parse(&self.kind).ok_or_else(unknown)?,
            subject_id: self.subject_id,
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            payment_id: self.payment_id,
            words: self.words,
            suspended: self.suspended,
            raised_at: timestamp(self.raised_at)?,
        })
    }
}
