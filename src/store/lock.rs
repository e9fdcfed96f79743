//! Who waits for whom: the one order in which every transaction takes its locks.
//!
//! On PostgreSQL transactions of several connections and nodes work at the same time, and
//! each statement sees what was committed before it began. What a transaction reads and
//! then decides on must stand still, and nobody may wait for somebody who waits for them:
//!
//! 1. First the rows of `account`, in the customers' order, all in one statement. Whoever
//!    has one decides alone about that customer: money, messages, entries, refunds, keys,
//!    news, the suppression list and the sums of what came back.
//! 2. Then the rows of `part`, in the order of messages and parts. Recipients are their
//!    part's. Who takes a part to send it, or finds its lease run out, needs no account,
//!    and waits for nobody: what another has is passed over.
//! 3. Then everything else: gates, calls, spools, marks. Several of a kind in the order of
//!    their keys.
//!
//! A lock is a statement of its own, since what is read in the statement that waits for it
//! is older than the lock. SQLite has one writer, and nothing to lock. What is locked is looked up
//! by its id, whatever PostgreSQL knows of the table ([`super::sql`]'s `listed`).

use std::collections::BTreeSet;

use super::accept::Acceptance;
use super::account::lock_accounts;
use super::event::Told;
use super::report::Report;
use super::sql::{Query, Session, query};
use super::{StoreError, json};
use crate::domain::ids::{BatchId, CustomerId};

/// Locks a customer's account.
pub(super) async fn customer(tx: &mut Session<'_>, customer_id: &CustomerId) -> Result<(), StoreError> {
    lock_accounts(tx, &json(&[customer_id])?).await
}

/// Locks what the members of one commit decide about: the customers of all of them, and the
/// parts of the messages that were reported on.
pub(super) async fn gathered(
    tx: &mut Session<'_>,
    (accepts, news): (&[&Acceptance], &[&Told]),
    reports: &[&Report],
) -> Result<(), StoreError> {
    let customers: BTreeSet<&CustomerId> =
        accepts.iter().map(|of| &of.customer_id).chain(news.iter().map(|of| &of.customer_id)).collect();
    let messages: BTreeSet<&str> = reports.iter().map(|report| report.message_id.as_str()).collect();
    if customers.is_empty() && messages.is_empty() {
        return Ok(());
    }
    accounts(tx, &customers, &messages).await?;
    if messages.is_empty() { Ok(()) } else { rows(tx, query(PARTS_OF_MESSAGES).bind(json(&messages)?)).await }
}

/// Locks the customers of these messages, and then the messages' parts.
pub(super) async fn messages(tx: &mut Session<'_>, message_ids: &BTreeSet<&str>) -> Result<(), StoreError> {
    accounts(tx, &BTreeSet::new(), message_ids).await?;
    rows(tx, query(PARTS_OF_MESSAGES).bind(json(message_ids)?)).await
}

/// The same with the parts that are fixed to one call with any of theirs.
pub(super) async fn messages_and_calls(
    tx: &mut Session<'_>,
    message_ids: &BTreeSet<&str>,
) -> Result<(), StoreError> {
    const PARTS: &str = "
        SELECT message_id FROM part WHERE (message_id, part_no) IN
            (SELECT message_id, part_no FROM part WHERE message_id IN (SELECT atom FROM json_each($1))
             UNION
             SELECT others.message_id, others.part_no
             FROM part AS own JOIN part AS others ON others.batch_id = own.batch_id
             WHERE own.message_id IN (SELECT atom FROM json_each($1)))
        ORDER BY message_id, part_no FOR NO KEY UPDATE";
    accounts(tx, &BTreeSet::new(), message_ids).await?;
    rows(tx, query(PARTS).bind(json(message_ids)?)).await
}

/// Locks parts: JSON rows that begin with message and part.
pub(super) async fn parts(tx: &mut Session<'_>, names: &str) -> Result<(), StoreError> {
    const LOCK: &str = "
        SELECT message_id FROM part WHERE message_id = ANY (ARRAY(SELECT value ->> 0 FROM json_each($1)))
          AND (message_id, part_no) IN (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($1))
        ORDER BY message_id, part_no FOR NO KEY UPDATE";
    rows(tx, query(LOCK).bind(names)).await
}

/// Locks the members of a call.
pub(super) async fn members(tx: &mut Session<'_>, id: &BatchId) -> Result<(), StoreError> {
    const LOCK: &str = "
        SELECT message_id FROM part WHERE batch_id = $1 ORDER BY message_id, part_no FOR NO KEY UPDATE";
    rows(tx, query(LOCK).bind(id.as_str())).await
}

/// Runs a statement that locks rows, where there is anything to lock.
pub(super) async fn rows(tx: &mut Session<'_>, statement: Query<'_>) -> Result<(), StoreError> {
    if matches!(tx, Session::Postgres(_)) {
        statement.execute(tx).await?;
    }
    Ok(())
}

pub(super) const PARTS_OF_MESSAGES: &str = "
    SELECT message_id FROM part WHERE message_id IN (SELECT atom FROM json_each($1))
    ORDER BY message_id, part_no FOR NO KEY UPDATE";

/// Locks the accounts of these customers, and of whoever these messages are. Whose a message
/// is never changes, so that may be read in the statement that waits.
async fn accounts(
    tx: &mut Session<'_>,
    customers: &BTreeSet<&CustomerId>,
    message_ids: &BTreeSet<&str>,
) -> Result<(), StoreError> {
    const LOCK: &str = "
        SELECT customer_id FROM account WHERE customer_id IN
            (SELECT atom FROM json_each($1)
             UNION SELECT customer_id FROM message WHERE message_id IN (SELECT atom FROM json_each($2)))
        ORDER BY customer_id FOR NO KEY UPDATE";
    rows(tx, query(LOCK).bind(json(customers)?).bind(json(message_ids)?)).await
}
