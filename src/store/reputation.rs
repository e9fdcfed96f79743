//! What came back of each customer's mail, day by day, and the pause when it is too
//! much. The sums are kept with the steps that they count, so that nothing is ever
//! counted by looking at messages.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::accept::{Acceptance, insert_own};
use super::sql::{Session, query, query_as, query_scalar};
use super::{StoreError, json, millis};
use crate::domain::ids::CustomerId;
use crate::domain::reputation::{Sums, Thresholds};

const DAY_MS: i64 = 86_400_000;
/// The longest window: older days are of no use.
pub(super) const MOST_DAYS: i64 = 31;

/// Composes the notice to a customer's address that says why they are paused.
pub(super) type PauseLetter<'a> = &'a (dyn Fn(&str, &str) -> Option<Acceptance> + Sync);

/// What is added to a day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) bounced: i64,
    pub(super) complained: i64,
}

/// The UTC day, from the epoch on.
pub(super) fn day_of(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS)
}

/// Adds recipients that were sent to: customer, day, how many.
pub(super) async fn count_sent(
    tx: &mut Session<'_>,
    sent: &BTreeMap<(String, i64), i64>,
) -> Result<(), StoreError> {
    const COUNT: &str = "
        INSERT INTO reputation (customer_id, day, sent)
        SELECT value ->> 0, CAST(value ->> 1 AS BIGINT), CAST(value ->> 2 AS BIGINT) FROM json_each($1)
        WHERE true
        ON CONFLICT (customer_id, day) DO UPDATE SET sent = reputation.sent + excluded.sent";
    if sent.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = sent.iter().map(|((customer_id, day), count)| (customer_id, day, count)).collect();
    query(COUNT).bind(json(&rows)?).execute(tx).await?;
    Ok(())
}

/// Adds what came back of a message that was accepted then; `false`: that was before
/// the customer began anew.
pub(super) async fn count(
    tx: &mut Session<'_>,
    (customer_id, accepted_at): (&CustomerId, Timestamp),
    counted: Counted,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const COUNT: &str = "
        INSERT INTO reputation (customer_id, day, bounced, complained)
        SELECT customer_id, $2, $3, $4 FROM customer WHERE customer_id = $1 AND counted_since <= $5
        ON CONFLICT (customer_id, day)
        DO UPDATE SET bounced = reputation.bounced + excluded.bounced,
                      complained = reputation.complained + excluded.complained";
    let done = query(COUNT)
        .bind(customer_id.as_str())
        .bind(day_of(millis(now)))
        .bind(counted.bounced)
        .bind(counted.complained)
        .bind(millis(accepted_at))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Pauses the customer if the sums of the window say so, and nobody has suspended them yet,
/// and writes to them. Returns why.
pub(super) async fn judge(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    (thresholds, letter): (&Thresholds, PauseLetter<'_>),
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let Some((reason, email)) = pause(tx, customer_id, thresholds, now).await? else { return Ok(None) };
    if let Some(notice) = email.and_then(|email| letter(&email, &reason)) {
        insert_own(tx, &notice, None).await?;
    }
    Ok(Some(reason))
}

/// The same without a letter. Returns why, and where they can be told.
async fn pause(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    thresholds: &Thresholds,
    now: Timestamp,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    const READ: &str = "
        SELECT coalesce(CAST(sum(sent) AS BIGINT), 0), coalesce(CAST(sum(bounced) AS BIGINT), 0),
               coalesce(CAST(sum(complained) AS BIGINT), 0)
        FROM reputation WHERE customer_id = $1 AND day > $2";
    const PAUSE: &str = "
        UPDATE customer SET suspended_reason = $2 WHERE customer_id = $1 AND suspended_reason IS NULL
        RETURNING email";
    let before = day_of(millis(now)) - i64::from(thresholds.window_days);
    let (sent, bounced, complained): (i64, i64, i64) =
        query_as(READ).bind(customer_id.as_str()).bind(before).fetch_one(&mut *tx).await?;
    let whole = |sum: i64| u64::try_from(sum).unwrap_or(0);
    let sums = Sums { sent: whole(sent), bounced: whole(bounced), complained: whole(complained) };
    let Some(reason) = thresholds.verdict(sums) else { return Ok(None) };
    let email: Option<Option<String>> =
        query_scalar(PAUSE).bind(customer_id.as_str()).bind(&reason).fetch_optional(tx).await?;
    Ok(email.map(|email| (reason, email)))
}

/// Forgets what came back of a customer's mail; what was accepted before does not count again.
pub(super) async fn begin_anew(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SINCE: &str = "UPDATE customer SET counted_since = $2 WHERE customer_id = $1";
    const FORGET: &str = "DELETE FROM reputation WHERE customer_id = $1";
    query(SINCE).bind(customer_id.as_str()).bind(millis(now)).execute(&mut *tx).await?;
    query(FORGET).bind(customer_id.as_str()).execute(tx).await?;
    Ok(())
}
