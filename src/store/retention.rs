//! Old rows leave, in small steps beside the mail, and their sums stay.
//!
//! Captures leave in the order of their numbers once a settled entry covers them;
//! what they came to stays with their message and with their entry (`closed`).
//! Messages leave, with all that belongs to them, once they are final and none of
//! their captures is left; their sums stay with the account, and those of their
//! refunds with the credit entries too. Entries leave last, once all of their
//! captures or refunds have, or they were void; their sums stay with the account.
//! So what is not settled stays, and the audit can prove at any time that what was
//! captured and what was settled are the same, and what was refunded and credited.
//!
//! The cap on refunds looks back a day, whatever leaves within it: a message with a
//! refund stays until a day after that was decided, and what a customer captured is
//! counted by its entry where its captures are gone, which stays longer.
//!
//! Each step is one short transaction: the gathering writer waits for it no longer
//! than for a commit of its own.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::account::lock_accounts;
use super::refund::day_before;
use super::reputation::{MOST_DAYS, day_of};
use super::sql::{Session, Sql, query, query_as, query_scalar};
use super::{Store, StoreError, batch, changed, json, lock, millis, stored};
use crate::domain::ids::MessageId;

/// Captures that leave in one step.
const CAPTURES: i64 = 250;
/// Entries that leave in one step.
const ENTRIES: u32 = 500;
/// Messages that are looked at in one step, and may leave.
const MESSAGES: u32 = 125;
/// Webhooks and checkouts that leave in one step.
const MARKS: u32 = 500;

/// Which messages leave: final before $1, none of their captures is left, nobody can
/// retry their submission any more, no refund is on its way, and none was decided
/// after $2. Rows of other tables that need a message longer say so here.
macro_rules! leaves {
    () => {
        "(final_at <= $1 AND captured = closed AND NOT EXISTS
            (SELECT 1 FROM idempotency_recipient k WHERE k.message_id = message.message_id)
          AND NOT EXISTS (SELECT 1 FROM refund f
            WHERE f.message_id = message.message_id
              AND (f.state IN ('waiting', 'due') OR f.decided_at > $2)))"
    };
}

/// Deletes some rows that nobody needs. On PostgreSQL what another node is deleting is its own.
macro_rules! some {
    ($delete:literal) => {
        Sql { sqlite: concat!($delete, ")"), postgres: concat!($delete, " FOR UPDATE SKIP LOCKED)") }
    };
}

/// What a step over the messages did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagesClosed {
    /// How many left.
    pub count: u64,
    /// Where the next step begins; `None`: this was the last.
    pub next: Option<MessageId>,
}

#[derive(Debug, sqlx::FromRow)]
struct EntryRow {
    first_capture: i64,
    last_capture: i64,
    /// Settled for long enough.
    is_old: bool,
}

impl Store {
    /// Some captures whose entry was settled before `cutoff` leave, and what they
    /// came to stays with message and entry. Returns how many; 0: there are none.
    pub async fn close_captures(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        const WHOSE: &str = "
            SELECT e.customer_id FROM entry e JOIN account a ON a.customer_id = e.customer_id
            WHERE e.kind = 'debit' AND e.state = 'done' AND e.closed < e.amount AND e.closed_at <= $1
              AND e.first_capture <= a.closed_capture + 1
            ORDER BY e.closed_at LIMIT 1";
        let whose: Option<String> =
            query_scalar(WHOSE).bind(millis(cutoff)).fetch_optional(&self.readers).await?;
        let Some(customer_id) = whose else { return Ok(0) };
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock_accounts(&mut tx, &json(&[&customer_id])?).await?;
        let count = close_some(&mut tx, &customer_id, cutoff).await?;
        tx.commit().await?;
        Ok(count)
    }

    /// Looks at some messages from `after` on; those that were final before
    /// `cutoff`, are settled, and of which the cap of today counts no refund, leave
    /// with all that belongs to them.
    pub async fn close_messages(
        &self,
        cutoff: Timestamp,
        now: Timestamp,
        after: Option<&MessageId>,
    ) -> Result<MessagesClosed, StoreError> {
        // Ids sort by time of acceptance, which is before that of the end.
        const PAGE: &str = concat!(
            "SELECT message_id, ",
            leaves!(),
            " IS TRUE FROM message WHERE message_id > $3 AND message_id < $4 ORDER BY message_id LIMIT $5"
        );
        let later = cutoff.checked_add(jiff::SignedDuration::from_millis(1)).unwrap_or(cutoff);
        let before = (cutoff, day_before(now));
        let page: Vec<(String, bool)> = query_as(PAGE)
            .bind(millis(before.0))
            .bind(millis(before.1))
            .bind(after.map_or("", MessageId::as_str))
            .bind(MessageId::generate(later, [0; 16]).as_str())
            .bind(MESSAGES)
            .fetch_all(&self.readers)
            .await?;
        let is_full = u32::try_from(page.len()).is_ok_and(|len| len == MESSAGES);
        let next = page.last().filter(|_| is_full).map(|(id, _)| stored(MessageId::parse(id))).transpose()?;
        let leaving: Vec<String> = page.into_iter().filter(|(_, leaves)| *leaves).map(|(id, _)| id).collect();
        if leaving.is_empty() {
            return Ok(MessagesClosed { count: 0, next });
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::messages(&mut tx, &leaving.iter().map(String::as_str).collect()).await?;
        let count = remove_messages(&mut tx, &leaving, before).await?;
        tx.commit().await?;
        Ok(MessagesClosed { count, next })
    }

    /// Some entries that ended before `cutoff` leave, if all of their captures or
    /// refunds have. What the operator decided stays: nobody else knows of it, and
    /// Dodo's ledger may show otherwise for ever. Returns how many; 0: there are none.
    pub async fn close_entries(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        // Void debits cover what others settled, and void credits nothing.
        const OLD: &str = "
            SELECT e.entry_id, e.customer_id FROM entry e JOIN account a ON a.customer_id = e.customer_id
            WHERE e.state <> 'open' AND e.closed_at <= $1 AND e.decided_by IS DISTINCT FROM 'operator'
              AND CASE e.kind WHEN 'debit' THEN e.last_capture <= a.closed_capture
                              ELSE e.state = 'void' OR e.closed = e.amount END
            ORDER BY e.closed_at LIMIT $2";
        let leaving: Vec<(String, String)> =
            query_as(OLD).bind(millis(cutoff)).bind(ENTRIES).fetch_all(&self.readers).await?;
        if leaving.is_empty() {
            return Ok(0);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let customers: BTreeSet<&str> = leaving.iter().map(|(_, of)| of.as_str()).collect();
        lock_accounts(&mut tx, &json(&customers)?).await?;
        let names: Vec<&str> = leaving.iter().map(|(id, _)| id.as_str()).collect();
        let count = remove_entries(&mut tx, &names).await?;
        tx.commit().await?;
        Ok(count)
    }

    /// Some webhooks and checkouts from before `cutoff` leave, and days that no window of a
    /// customer's reputation reaches any more. Returns how many; 0: there are none.
    pub async fn close_marks(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        const ANY: &str = "
            SELECT EXISTS (SELECT 1 FROM webhook WHERE received_at <= $1)
                OR EXISTS (SELECT 1 FROM checkout WHERE created_at <= $1)
                OR EXISTS (SELECT 1 FROM reputation WHERE day < $2)";
        const WEBHOOKS: Sql = some!(
            "DELETE FROM webhook WHERE (source, webhook_id) IN
                (SELECT source, webhook_id FROM webhook WHERE received_at <= $1 LIMIT $2"
        );
        const CHECKOUTS: Sql = some!(
            "DELETE FROM checkout WHERE token_hash IN
                (SELECT token_hash FROM checkout WHERE created_at <= $1 LIMIT $2"
        );
        const DAYS: Sql = some!(
            "DELETE FROM reputation WHERE (customer_id, day) IN
                (SELECT customer_id, day FROM reputation WHERE day < $1 LIMIT $2"
        );
        let first_day = day_of(millis(cutoff)) - MOST_DAYS;
        let any: bool =
            query_scalar(ANY).bind(millis(cutoff)).bind(first_day).fetch_one(&self.readers).await?;
        if !any {
            return Ok(0);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let mut count = 0;
        for (delete, before) in [(WEBHOOKS, millis(cutoff)), (CHECKOUTS, millis(cutoff)), (DAYS, first_day)] {
            let done = query(delete).bind(before).bind(MARKS).execute(&mut *tx).await?;
            count += done.rows_affected();
        }
        tx.commit().await?;
        Ok(count)
    }
}

async fn close_some(tx: &mut Session<'_>, customer_id: &str, cutoff: Timestamp) -> Result<u64, StoreError> {
    const FROM: &str = "SELECT closed_capture FROM account WHERE customer_id = $1";
    // Each covers a capture at least, so there are no more of them than captures of a step.
    const ENTRY_ROWS: &str = "
        SELECT first_capture, last_capture, (state = 'done' AND closed_at <= $4) AS is_old
        FROM entry WHERE customer_id = $1 AND kind = 'debit' AND state <> 'void'
          AND first_capture <= $3 AND last_capture > $2
        ORDER BY first_capture";
    let from: i64 = query_scalar(FROM).bind(customer_id).fetch_one(&mut *tx).await?;
    let rows: Vec<EntryRow> = query_as(ENTRY_ROWS)
        .bind(customer_id)
        .bind(from)
        .bind(from.saturating_add(CAPTURES))
        .bind(millis(cutoff))
        .fetch_all(&mut *tx)
        .await?;
    remove_captures(tx, customer_id, (from, reach(&rows, from))).await
}

/// The last capture that leaves after `from`: as far as old settled entries cover
/// captures without a gap, and no further than one step goes. `rows` are in the
/// order of their captures.
fn reach(rows: &[EntryRow], from: i64) -> i64 {
    let most = from.saturating_add(CAPTURES);
    rows.iter().take_while(|row| row.is_old).fold(from, |to, row| {
        if row.first_capture <= to + 1 { to.max(row.last_capture.min(most)) } else { to }
    })
}

async fn remove_captures(
    tx: &mut Session<'_>,
    customer_id: &str,
    (from, to): (i64, i64),
) -> Result<u64, StoreError> {
    const MESSAGES_OF: &str = "
        SELECT count(DISTINCT message_id) FROM capture
        WHERE customer_id = $1 AND number > $2 AND number <= $3";
    const KEEP: &str = "
        UPDATE message SET closed = closed + c.amount
        FROM (SELECT message_id, CAST(sum(amount) AS BIGINT) AS amount FROM capture
              WHERE customer_id = $1 AND number > $2 AND number <= $3 GROUP BY message_id) AS c
        WHERE message.message_id = c.message_id";
    const KEEP_OF_ENTRIES: &str = "
        UPDATE entry SET closed = closed + (SELECT coalesce(CAST(sum(c.amount) AS BIGINT), 0) FROM capture c
            WHERE c.customer_id = $1 AND c.number > $2 AND c.number <= $3
              AND c.number BETWEEN entry.first_capture AND entry.last_capture)
        WHERE customer_id = $1 AND kind = 'debit' AND state = 'done' AND first_capture <= $3
          AND last_capture > $2";
    const DELETE: &str = "DELETE FROM capture WHERE customer_id = $1 AND number > $2 AND number <= $3";
    // Compare-and-set: nothing leaves twice, and nothing that was not entered.
    const MOVE: &str = "
        UPDATE account SET closed_capture = $3
        WHERE customer_id = $1 AND closed_capture = $2 AND last_entered >= $3";
    let range = |sql: &'static str| query(sql).bind(customer_id).bind(from).bind(to);
    let count = usize::try_from(to - from).unwrap_or(0);
    let messages: i64 =
        query_scalar(MESSAGES_OF).bind(customer_id).bind(from).bind(to).fetch_one(&mut *tx).await?;
    let done = range(KEEP).execute(&mut *tx).await?;
    changed("captured credits of messages", done.rows_affected(), usize::try_from(messages).unwrap_or(0))?;
    range(KEEP_OF_ENTRIES).execute(&mut *tx).await?;
    changed("captures", range(DELETE).execute(&mut *tx).await?.rows_affected(), count)?;
    let done = range(MOVE).execute(tx).await?;
    changed("last capture that left", done.rows_affected(), 1)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn remove_entries(tx: &mut Session<'_>, leaving: &[&str]) -> Result<u64, StoreError> {
    const CUSTOMERS: &str = "
        SELECT count(DISTINCT customer_id) FROM entry WHERE entry_id IN (SELECT atom FROM json_each($1))";
    const KEEP: &str = "
        UPDATE account SET closed_settled = closed_settled + e.debited,
               closed_credited = closed_credited + e.credited
        FROM (SELECT customer_id,
                     coalesce(sum(amount) FILTER (WHERE state = 'done' AND kind = 'debit'), 0) AS debited,
                     coalesce(sum(amount) FILTER (WHERE state = 'done' AND kind = 'credit'), 0) AS credited
              FROM entry WHERE entry_id IN (SELECT atom FROM json_each($1)) GROUP BY customer_id) AS e
        WHERE account.customer_id = e.customer_id";
    const DELETE: &str = "
        DELETE FROM entry WHERE entry_id IN (SELECT atom FROM json_each($1))
            AND (state = 'void' OR (state = 'done' AND closed = amount))";
    // What has ended does not begin again; but another node may have been faster.
    const STILL: &str = "SELECT entry_id FROM entry WHERE entry_id IN (SELECT atom FROM json_each($1))";
    let leaving: Vec<String> = query_scalar(STILL).bind(json(&leaving)?).fetch_all(&mut *tx).await?;
    let names = json(&leaving)?;
    let customers: i64 = query_scalar(CUSTOMERS).bind(&names).fetch_one(&mut *tx).await?;
    let done = query(KEEP).bind(&names).execute(&mut *tx).await?;
    changed("settled sums", done.rows_affected(), usize::try_from(customers).unwrap_or(0))?;
    let done = query(DELETE).bind(&names).execute(tx).await?;
    changed("entries", done.rows_affected(), leaving.len())?;
    Ok(done.rows_affected())
}

async fn remove_messages(
    tx: &mut Session<'_>,
    leaving: &[String],
    before: (Timestamp, Timestamp),
) -> Result<u64, StoreError> {
    const STILL: &str = concat!(
        "SELECT message_id FROM message WHERE message_id IN (SELECT atom FROM json_each($3)) AND ",
        leaves!()
    );
    const CUSTOMERS: &str = "
        SELECT count(DISTINCT customer_id) FROM message WHERE message_id IN (SELECT atom FROM json_each($1))";
    const KEEP: &str = "
        UPDATE account SET closed_price = closed_price + m.price, closed_captured = closed_captured + m.captured,
               closed_released = closed_released + m.released
        FROM (SELECT customer_id, CAST(sum(price) AS BIGINT) AS price,
                     CAST(sum(captured) AS BIGINT) AS captured, CAST(sum(released) AS BIGINT) AS released
              FROM message WHERE message_id IN (SELECT atom FROM json_each($1)) GROUP BY customer_id) AS m
        WHERE account.customer_id = m.customer_id";
    // What the refunds came to stays with their accounts and their entries.
    const KEEP_REFUNDED: &str = "
        UPDATE account SET closed_refunded = closed_refunded + r.amount
        FROM (SELECT customer_id, CAST(sum(amount) AS BIGINT) AS amount FROM refund
              WHERE message_id IN (SELECT atom FROM json_each($1)) AND state = 'credited'
              GROUP BY customer_id) AS r
        WHERE account.customer_id = r.customer_id";
    const KEEP_OF_ENTRIES: &str = "
        UPDATE entry SET closed = closed + r.amount
        FROM (SELECT entry_id, CAST(sum(amount) AS BIGINT) AS amount FROM refund
              WHERE message_id IN (SELECT atom FROM json_each($1)) AND state = 'credited' GROUP BY entry_id) AS r
        WHERE entry.entry_id = r.entry_id AND entry.kind = 'credit'";
    // What belongs to a message, and then the message.
    const BELONGINGS: [&str; 6] = [
        "DELETE FROM header WHERE message_id IN (SELECT atom FROM json_each($1))",
        "DELETE FROM event WHERE message_id IN (SELECT atom FROM json_each($1))",
        "DELETE FROM attempt WHERE message_id IN (SELECT atom FROM json_each($1))",
        "DELETE FROM refund WHERE message_id IN (SELECT atom FROM json_each($1))",
        "DELETE FROM decision WHERE message_id IN (SELECT atom FROM json_each($1))",
        "DELETE FROM recipient WHERE message_id IN (SELECT atom FROM json_each($1))",
    ];
    // The last member of a call takes it along.
    const PARTS: &str =
        "DELETE FROM part WHERE message_id IN (SELECT atom FROM json_each($1)) RETURNING batch_id";
    const DELETE: &str = "DELETE FROM message WHERE message_id IN (SELECT atom FROM json_each($1))";
    let ids: Vec<String> = query_scalar(STILL)
        .bind(millis(before.0))
        .bind(millis(before.1))
        .bind(json(&leaving)?)
        .fetch_all(&mut *tx)
        .await?;
    let names = json(&ids)?;
    let customers: i64 = query_scalar(CUSTOMERS).bind(&names).fetch_one(&mut *tx).await?;
    let done = query(KEEP).bind(&names).execute(&mut *tx).await?;
    changed("closed sums", done.rows_affected(), usize::try_from(customers).unwrap_or(0))?;
    query(KEEP_REFUNDED).bind(&names).execute(&mut *tx).await?;
    query(KEEP_OF_ENTRIES).bind(&names).execute(&mut *tx).await?;
    for delete in BELONGINGS {
        query(delete).bind(&names).execute(&mut *tx).await?;
    }
    let calls: Vec<Option<String>> = query_scalar(PARTS).bind(&names).fetch_all(&mut *tx).await?;
    let calls: BTreeSet<&str> = calls.iter().flatten().map(String::as_str).collect();
    batch::forget(tx, &calls).await?;
    let done = query(DELETE).bind(&names).execute(tx).await?;
    changed("messages", done.rows_affected(), ids.len())?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row((first_capture, last_capture): (i64, i64), is_old: bool) -> EntryRow {
        EntryRow { first_capture, last_capture, is_old }
    }

    #[test]
    fn a_step_goes_as_far_as_old_settled_entries_do() {
        let from = 1_000;
        let end = from + CAPTURES;
        let table = [
            (0, vec![], 0),
            (0, vec![row((1, 3), true), row((4, 4), true)], 4),
            (0, vec![row((1, 3), true), row((4, 4), false), row((5, 5), true)], 3),
            (0, vec![row((1, 3), true), row((5, 5), true)], 3),
            (0, vec![row((1, 3), false), row((4, 4), true)], 0),
            (from, vec![row((from + 1, end + 7), true)], end),
            (end, vec![row((from + 1, end + 7), true)], end + 7),
            (from, vec![row((from + 1, end), true), row((end + 1, end + 1), true)], end),
        ];
        for (from, rows, want) in table {
            assert_eq!(reach(&rows, from), want, "{from} {rows:?}");
        }
    }
}
