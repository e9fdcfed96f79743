//! Occasions that customers are told of by mail, each once: the mark and the mail are written in
//! one transaction, so that whoever writes the mark mails.

use jiff::Timestamp;

use super::accept::{Acceptance, insert_own};
use super::sql::{Session, query, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, lock, millis};
use crate::domain::ids::CustomerId;

/// A payment that was received.
const PAYMENT: &str = "payment";
/// Mail was refused for lack of credit; as long as there has been no more.
const OUT_OF_CREDIT: &str = "out-of-credit";
/// Marks that leave in one step.
const STEP: u32 = 500;

impl Store {
    /// Marks that a customer has run out of credit, and takes the notice in, if there is one.
    /// `false`: they were told already, and nothing has changed since.
    pub async fn out_of_credit_notice(
        &self,
        customer_id: &CustomerId,
        notice: Option<&Acceptance>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        if !mark(&mut tx, (OUT_OF_CREDIT, customer_id.as_str()), customer_id, now).await? {
            return Ok(false);
        }
        if let Some(notice) = notice {
            insert_own(&mut tx, notice, None).await?;
        }
        tx.commit().await?;
        self.ring(&Wake::Parts);
        Ok(true)
    }

    /// Whether a customer was told that there is no credit, and there has been no more since.
    pub async fn is_told_out_of_credit(&self, customer_id: &CustomerId) -> Result<bool, StoreError> {
        const READ: &str = "SELECT EXISTS (SELECT 1 FROM told WHERE kind = $1 AND occasion = $2)";
        Ok(query_scalar(READ).bind(OUT_OF_CREDIT).bind(customer_id.as_str()).fetch_one(&self.readers).await?)
    }

    /// Some payments from before `cutoff` are forgotten. Returns how many; 0: there are none.
    pub async fn forget_told(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        const ANY: &str = "SELECT EXISTS (SELECT 1 FROM told WHERE told_at <= $1 AND kind = $2)";
        const FORGET: &str = "
            DELETE FROM told WHERE kind = $2 AND occasion IN
                (SELECT occasion FROM told WHERE told_at <= $1 AND kind = $2 ORDER BY occasion LIMIT $3)";
        let any: bool = query_scalar(ANY).bind(millis(cutoff)).bind(PAYMENT).fetch_one(&self.readers).await?;
        if !any {
            return Ok(0);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query(FORGET).bind(millis(cutoff)).bind(PAYMENT).bind(STEP).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

/// Marks that a payment was heard of. `false`: it was before.
pub(super) async fn payment(
    tx: &mut Session<'_>,
    payment_id: &str,
    customer_id: &CustomerId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    mark(tx, (PAYMENT, payment_id), customer_id, now).await
}

/// There is more credit than before: when it is gone again, that is told again.
pub(super) async fn has_credit_again(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
) -> Result<(), StoreError> {
    const FORGET: &str = "DELETE FROM told WHERE kind = $1 AND occasion = $2";
    query(FORGET).bind(OUT_OF_CREDIT).bind(customer_id.as_str()).execute(tx).await?;
    Ok(())
}

async fn mark(
    tx: &mut Session<'_>,
    (kind, occasion): (&str, &str),
    customer_id: &CustomerId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const MARK: &str = "
        INSERT INTO told (kind, occasion, customer_id, told_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (kind, occasion) DO NOTHING";
    let done = query(MARK)
        .bind(kind)
        .bind(occasion)
        .bind(customer_id.as_str())
        .bind(millis(now))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
