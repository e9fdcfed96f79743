//! Settlement entries: captured debits on their way to Dodo, and credits given
//! back (`refund`), one at a time for each customer.
//!
//! An entry's id is its idempotency key at Dodo, fixed before the first call; its
//! amount never changes. Opening one costs the same whatever the amount, because
//! it names a range of capture numbers and takes the account's `owed`.
//!
//! Whoever opens an entry posts it, and nobody else while its lease is renewed. Who takes it
//! over knows of one more call whose outcome is unknown.

use std::time::Duration;

use jiff::Timestamp;

use super::account::{arm, credits};
use super::refund::{give_back, keep_back};
use super::sql::{Session, Sql, query, query_as, query_scalar};
use super::{Store, StoreError, changed, json, lock, millis, stored, timestamp};
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::telemetry::EntryKind;

/// How long an entry stays with whoever posts it, unless that is renewed.
pub const LEASE: Duration = Duration::from_secs(30);

/// An entry that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id, the idempotency key.
    pub entry_id: EntryId,
    /// Whose.
    pub customer_id: CustomerId,
    /// Whether it takes credits or gives them back.
    pub kind: EntryKind,
    /// How many credits.
    pub amount: Credits,
    /// What Dodo's ledger shows.
    pub reason: String,
    /// The number of the call under way, from 1.
    pub tries: u32,
    /// Calls that ended without an answer, those of an earlier process included.
    pub unknown_tries: u32,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Of a credit: when it lapses; `None`: never, as far as we are concerned.
    pub expires_at: Option<Timestamp>,
    /// When the first call began that ended without an answer; where that is not
    /// known, no later than it did.
    pub first_unknown_at: Option<Timestamp>,
    /// When the last call began that did not settle it.
    pub last_tried_at: Option<Timestamp>,
    /// Since when only Dodo's ledger can tell what became of it: it is not posted again.
    pub doubtful_since: Option<Timestamp>,
}

/// How an entry ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Dodo applied it on the first call and said what is left.
    Now {
        /// `balance_after` of the answer.
        balance_after: i64,
    },
    /// Dodo has it; what it said about the balance may be old, or it said nothing.
    Sometime,
}

/// What is owed, all customers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Debts {
    /// Credits owed beyond the balances: they wait for top-ups.
    pub uncovered: i64,
    /// When the oldest capture that is not settled was made, in Unix milliseconds.
    pub oldest_capture_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
pub(super) struct EntryRow {
    entry_id: String,
    customer_id: String,
    kind: String,
    amount: i64,
    reason: String,
    #[sqlx(try_from = "i64")]
    tries: u32,
    #[sqlx(try_from = "i64")]
    unknown_tries: u32,
    opened_at: i64,
    expires_at: Option<i64>,
    first_unknown_at: Option<i64>,
    last_tried_at: Option<i64>,
    doubtful_since: Option<i64>,
}

impl EntryRow {
    pub(super) fn read(self) -> Result<Entry, StoreError> {
        Ok(Entry {
            entry_id: stored(EntryId::parse(&self.entry_id))?,
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            kind: stored(EntryKind::parse(&self.kind).ok_or("an entry has no kind that is known"))?,
            amount: credits(self.amount)?,
            reason: self.reason,
            tries: self.tries,
            unknown_tries: self.unknown_tries,
            opened_at: timestamp(self.opened_at)?,
            expires_at: self.expires_at.map(timestamp).transpose()?,
            first_unknown_at: self.first_unknown_at.map(timestamp).transpose()?,
            last_tried_at: self.last_tried_at.map(timestamp).transpose()?,
            doubtful_since: self.doubtful_since.map(timestamp).transpose()?,
        })
    }
}

/// The captures that an entry would cover.
#[derive(Debug, sqlx::FromRow)]
struct Range {
    first: i64,
    last: i64,
    amount: i64,
    message_id: String,
}

impl Store {
    /// Customers with captures that are in no entry, and no entry open: those who
    /// have waited longest first, so that nobody starves, and without those whom
    /// it would not help, so that they starve nobody: those to be left alone, and
    /// those whose balance does not cover the first of their captures.
    pub async fn owing(&self, except: &[CustomerId], limit: u32) -> Result<Vec<CustomerId>, StoreError> {
        const OWING: &str = "
            SELECT a.customer_id FROM account a
                 JOIN capture c ON c.customer_id = a.customer_id AND c.number = a.last_entered + 1
            WHERE a.owed > 0 AND (a.balance IS NULL OR a.balance >= c.amount)
              AND a.customer_id NOT IN (SELECT atom FROM json_each($2))
              AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.customer_id = a.customer_id AND e.state = 'open')
            ORDER BY c.captured_at LIMIT $1";
        let rows: Vec<String> =
            query_scalar(OWING).bind(limit).bind(json(&except)?).fetch_all(&self.readers).await?;
        rows.iter().map(|id| stored(CustomerId::parse(id))).collect()
    }

    /// Customers whose balance does not cover what they owe; those first whose
    /// balance was read the longest ago.
    pub async fn uncovered(&self, limit: u32) -> Result<Vec<CustomerId>, StoreError> {
        const UNCOVERED: &str = "
            SELECT customer_id FROM account WHERE owed > 0 AND balance < owed ORDER BY balance_read_at LIMIT $1";
        let rows: Vec<String> = query_scalar(UNCOVERED).bind(limit).fetch_all(&self.readers).await?;
        rows.iter().map(|id| stored(CustomerId::parse(id))).collect()
    }

    /// What is owed, as the operator watches it.
    pub async fn debts(&self) -> Result<Debts, StoreError> {
        // What is owed begins with the open entry's captures, or with the first that is in none.
        const DEBTS: &str = "
            SELECT coalesce(CAST(sum(max(a.owed - max(coalesce(a.balance, a.owed), 0), 0)) AS BIGINT),
                   0) AS uncovered,
                   min(c.captured_at) AS oldest_capture_at
            FROM account a
                 LEFT JOIN entry e ON e.customer_id = a.customer_id AND e.state = 'open' AND e.kind = 'debit'
                 LEFT JOIN capture c ON c.customer_id = a.customer_id
                       AND c.number = coalesce(e.first_capture, a.last_entered + 1)
            WHERE a.owed > 0";
        Ok(query_as(DEBTS).fetch_one(&self.readers).await?)
    }

    /// Entries that are open.
    pub async fn open_entries(&self) -> Result<Vec<Entry>, StoreError> {
        const OPEN: &str = "
            SELECT entry_id, customer_id, kind, amount, reason, tries, unknown_tries, opened_at, expires_at,
                   first_unknown_at, last_tried_at, doubtful_since
            FROM entry WHERE state = 'open' ORDER BY entry_id";
        let rows: Vec<EntryRow> = query_as(OPEN).fetch_all(&self.readers).await?;
        rows.into_iter().map(EntryRow::read).collect()
    }

    /// Takes the open entries that nobody posts: this process's own but for those that it has
    /// in hand, and those whose lease is over. A call may have been under way for each. It
    /// began after the last one that was noted, perhaps at once, and so long ago may Dodo
    /// have got to know the key; it may have lasted until now.
    pub async fn take_over_entries(
        &self,
        in_hand: &[EntryId],
        now: Timestamp,
    ) -> Result<Vec<Entry>, StoreError> {
        const TAKE: &str = "
            UPDATE entry SET node = $2, lease_until = $3, unknown_tries = unknown_tries + 1, last_tried_at = $1,
                   first_unknown_at = coalesce(first_unknown_at, last_tried_at, opened_at)
            WHERE state = 'open' AND doubtful_since IS NULL
              AND (node IS NULL OR node = $2 OR lease_until <= $1)
              AND entry_id NOT IN (SELECT atom FROM json_each($4))
            RETURNING entry_id, customer_id, kind, amount, reason, tries, unknown_tries, opened_at, expires_at,
                      first_unknown_at, last_tried_at, doubtful_since";
        // So late only where the database's clock was set back since: whoever is there renews it.
        const SHORTEN: &str = "
            UPDATE entry SET lease_until = $1
            WHERE state = 'open' AND doubtful_since IS NULL AND lease_until > $2";
        const LOCK: &str = "
            SELECT entry_id FROM entry WHERE state = 'open' AND doubtful_since IS NULL
            ORDER BY entry_id FOR NO KEY UPDATE";
        let in_hand: Vec<&str> = in_hand.iter().map(EntryId::as_str).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::rows(&mut tx, query(LOCK)).await?;
        let (until, late) = (leased_until(now), leased_until(leased_until(now)));
        query(SHORTEN).bind(millis(until)).bind(millis(late)).execute(&mut *tx).await?;
        let rows: Vec<EntryRow> = query_as(TAKE)
            .bind(millis(now))
            .bind(&*self.node)
            .bind(millis(until))
            .bind(json(&in_hand)?)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        rows.into_iter().map(EntryRow::read).collect()
    }

    /// Keeps entries that this process posts; returns those that it still has.
    pub async fn renew_entries(
        &self,
        in_hand: &[EntryId],
        now: Timestamp,
    ) -> Result<Vec<EntryId>, StoreError> {
        const RENEW: &str = "
            UPDATE entry SET lease_until = $2
            WHERE entry_id IN (SELECT atom FROM json_each($1)) AND state = 'open' AND node = $3
            RETURNING entry_id";
        let in_hand: Vec<&str> = in_hand.iter().map(EntryId::as_str).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let query = query_scalar(RENEW).bind(json(&in_hand)?).bind(millis(leased_until(now)));
        let kept: Vec<String> = query.bind(&*self.node).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        kept.iter().map(|id| stored(EntryId::parse(id))).collect()
    }

    /// Opens an entry for what the customer owes, or for as many whole captures
    /// as fit into `at_most`. `None`: one is open already, or nothing (that fits) is owed.
    pub async fn open_entry(
        &self,
        customer_id: &CustomerId,
        entry_id: &EntryId,
        at_most: Option<Credits>,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        // The version moves, so that a balance read which began before says nothing.
        const MARK: &str = "
            UPDATE account SET last_entered = $2, version = version + 1
            WHERE customer_id = $1 AND last_entered = $3 - 1 AND last_capture >= $2 AND owed >= $4";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        if is_lane_taken(&mut tx, customer_id).await? {
            return Ok(None);
        }
        let range = match at_most {
            None => whole_debt(&mut tx, customer_id).await?,
            Some(limit) => part_of_debt(&mut tx, customer_id, limit).await?,
        };
        let Some(range) = range else { return Ok(None) };
        let reason = reason(&range, entry_id);
        let done = query(MARK)
            .bind(customer_id.as_str())
            .bind(range.last)
            .bind(range.first)
            .bind(range.amount)
            .execute(&mut *tx)
            .await?;
        changed("open entry", done.rows_affected(), 1)?;
        let captures = (range.first, range.last);
        let (kind, amount) = (EntryKind::Debit, range.amount);
        let node = &*self.node;
        let draft = Draft { entry_id, customer_id, node, kind, captures, amount, reason, expires_at: None };
        let entry = write(&mut tx, draft, now).await?;
        tx.commit().await?;
        Ok(Some(entry))
    }

    /// Dodo has the entry: the debt is paid, or the credit is there. Doing it again
    /// changes nothing. Returns whether the low-balance mark was crossed.
    pub async fn settle_entry(
        &self,
        entry: &Entry,
        settled: Settled,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &entry.customer_id).await?;
        if !close(&mut tx, entry, "done", now).await? {
            return Ok(false);
        }
        let low = self.has_it(&mut tx, entry, settled, now).await?;
        tx.commit().await?;
        Ok(low)
    }

    /// What follows in the transaction that closes an entry as done. Paying by itself
    /// never changes what is available.
    pub(super) async fn has_it(
        &self,
        tx: &mut Session<'_>,
        entry: &Entry,
        settled: Settled,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        const PAY: &str = "
            UPDATE account SET balance = balance - $2, owed = owed - $2, version = version + 1
            WHERE customer_id = $1 AND owed >= $2";
        const READ: &str = "UPDATE account SET balance = $2, balance_read_at = $3 WHERE customer_id = $1";
        let id = entry.customer_id.as_str();
        let amount = entry.amount.to_i64();
        match entry.kind {
            EntryKind::Debit => {
                let done = query(PAY).bind(id).bind(amount).execute(&mut *tx).await?;
                changed("pay debt", done.rows_affected(), 1)?;
            }
            EntryKind::Credit => give_back(tx, entry, now).await?,
        }
        if let Settled::Now { balance_after } = settled {
            query(READ).bind(id).bind(balance_after).bind(millis(now)).execute(&mut *tx).await?;
        }
        let (_, low) = arm(tx, &entry.customer_id, self.low_mark).await?;
        Ok(low)
    }

    /// Dodo refused the entry and surely applied nothing: its captures are owed, or
    /// its refunds due, in no entry again. Doing it again changes nothing. `false`: another
    /// process has the entry by now, and what it calls for may be applied.
    pub async fn void_entry(&self, entry: &Entry, error: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &entry.customer_id).await?;
        if self.is_anothers(&mut tx, entry).await? {
            return Ok(false);
        }
        if close(&mut tx, entry, "void", now).await? {
            has_none_of_it(&mut tx, entry, error, now).await?;
            tx.commit().await?;
        }
        Ok(true)
    }

    /// Whether another process posts an entry by now. It stands still until the transaction ends.
    pub(super) async fn is_anothers(&self, tx: &mut Session<'_>, entry: &Entry) -> Result<bool, StoreError> {
        const READ: Sql = Sql {
            sqlite: "SELECT node FROM entry WHERE entry_id = $1 AND state = 'open'",
            postgres: "SELECT node FROM entry WHERE entry_id = $1 AND state = 'open' FOR NO KEY UPDATE",
        };
        let query = query_scalar(READ).bind(entry.entry_id.as_str());
        let node: Option<Option<String>> = query.fetch_optional(tx).await?;
        Ok(node.is_some_and(|node| node.as_deref() != Some(&*self.node)))
    }

    /// A call that began at `began` ended without settling the entry. After an
    /// unknown outcome no answer about the balance is taken at its word. `false`: another
    /// process has the entry by now, and counts the call as unknown.
    pub async fn note_entry_try(
        &self,
        entry: &Entry,
        is_unknown: bool,
        error: &str,
        began: Timestamp,
    ) -> Result<bool, StoreError> {
        const NOTE: &str = "
            UPDATE entry SET tries = tries + 1, unknown_tries = unknown_tries + $2, last_error = $3,
                   last_tried_at = $4,
                   first_unknown_at = CASE WHEN $2 = 1 THEN coalesce(first_unknown_at, $4) ELSE first_unknown_at END
            WHERE entry_id = $1 AND state = 'open'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        if self.is_anothers(&mut tx, entry).await? {
            return Ok(false);
        }
        let done = query(NOTE)
            .bind(entry.entry_id.as_str())
            .bind(i64::from(is_unknown))
            .bind(error)
            .bind(millis(began))
            .execute(&mut *tx)
            .await?;
        changed("note try", done.rows_affected(), 1)?;
        tx.commit().await?;
        Ok(true)
    }
}

/// When a lease ends that begins now.
fn leased_until(now: Timestamp) -> Timestamp {
    now.checked_add(LEASE).unwrap_or(now)
}

/// An entry that is to be written down, before its first call.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) entry_id: &'a EntryId,
    pub(super) customer_id: &'a CustomerId,
    /// Who posts it.
    pub(super) node: &'a str,
    pub(super) kind: EntryKind,
    /// The first and the last of the captures that it covers; of a credit: none, (0, 0).
    pub(super) captures: (i64, i64),
    pub(super) amount: i64,
    pub(super) reason: String,
    /// Of a credit: when it lapses.
    pub(super) expires_at: Option<Timestamp>,
}

/// Writes an entry that is open, with the account's version as it is by now: its
/// opening has moved it.
pub(super) async fn write(
    tx: &mut Session<'_>,
    draft: Draft<'_>,
    now: Timestamp,
) -> Result<Entry, StoreError> {
    const INSERT: &str = "
        INSERT INTO entry (entry_id, customer_id, kind, first_capture, last_capture, amount, reason, state,
                           tries, opened_at, expires_at, version, node, lease_until)
        SELECT $1, customer_id, $3, $4, $5, $6, $7, 'open', 1, $8, $9, version, $10, $11
        FROM account WHERE customer_id = $2";
    let Draft { entry_id, customer_id, node, kind, captures, amount, reason, expires_at } = draft;
    let done = query(INSERT)
        .bind(entry_id.as_str())
        .bind(customer_id.as_str())
        .bind(kind.as_str())
        .bind(captures.0)
        .bind(captures.1)
        .bind(amount)
        .bind(&reason)
        .bind(millis(now))
        .bind(expires_at.map(millis))
        .bind(node)
        .bind(millis(leased_until(now)))
        .execute(tx)
        .await?;
    changed("write entry", done.rows_affected(), 1)?;
    Ok(Entry {
        entry_id: entry_id.clone(),
        customer_id: customer_id.clone(),
        kind,
        amount: credits(amount)?,
        reason,
        tries: 1,
        unknown_tries: 0,
        opened_at: now,
        expires_at,
        first_unknown_at: None,
        last_tried_at: None,
        doubtful_since: None,
    })
}

/// Whether an entry of the customer's is open.
pub(super) async fn is_lane_taken(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
) -> Result<bool, StoreError> {
    const READ: &str = "SELECT count(*) FROM entry WHERE customer_id = $1 AND state = 'open'";
    let open: i64 = query_scalar(READ).bind(customer_id.as_str()).fetch_one(tx).await?;
    Ok(open > 0)
}

/// Everything that is owed and in no entry, at a cost that does not grow with it.
async fn whole_debt(tx: &mut Session<'_>, customer_id: &CustomerId) -> Result<Option<Range>, StoreError> {
    const READ: &str = "
        SELECT a.last_entered + 1 AS first, a.last_capture AS last, a.owed AS amount, c.message_id
        FROM account a JOIN capture c ON c.customer_id = a.customer_id AND c.number = a.last_entered + 1
        WHERE a.customer_id = $1 AND a.owed > 0";
    Ok(query_as(READ).bind(customer_id.as_str()).fetch_optional(tx).await?)
}

/// The oldest captures whose sum is at most `limit`.
async fn part_of_debt(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    limit: Credits,
) -> Result<Option<Range>, StoreError> {
    const READ: &str = "
        SELECT min(number) AS first, max(number) AS last, max(total) AS amount, min(message_id) AS message_id
        FROM (SELECT c.number, c.message_id, CAST(sum(c.amount) OVER (ORDER BY c.number) AS BIGINT) AS total
              FROM capture c JOIN account a ON a.customer_id = c.customer_id
              WHERE c.customer_id = $1 AND c.number > a.last_entered) AS c
        WHERE total <= $2 HAVING count(*) > 0";
    Ok(query_as(READ).bind(customer_id.as_str()).bind(limit.to_i64()).fetch_optional(tx).await?)
}

/// What a person reads in Dodo's ledger: the message where it is one, their number otherwise.
fn reason(range: &Range, entry_id: &EntryId) -> String {
    if range.first == range.last {
        return format!("email send {} {entry_id}", range.message_id);
    }
    format!("email send {} messages {entry_id}", range.last - range.first + 1)
}

/// What follows in the transaction that closes an entry as void.
pub(super) async fn has_none_of_it(
    tx: &mut Session<'_>,
    entry: &Entry,
    error: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const BACK: &str = "
        UPDATE account SET version = version + 1,
               last_entered = (SELECT first_capture - 1 FROM entry WHERE entry_id = $2)
        WHERE customer_id = $1";
    const ERROR: &str = "UPDATE entry SET last_error = $2 WHERE entry_id = $1";
    query(ERROR).bind(entry.entry_id.as_str()).bind(error).execute(&mut *tx).await?;
    match entry.kind {
        EntryKind::Debit => {
            let query = query(BACK).bind(entry.customer_id.as_str()).bind(entry.entry_id.as_str());
            changed("void entry", query.execute(&mut *tx).await?.rows_affected(), 1)
        }
        EntryKind::Credit => keep_back(tx, entry, error, now).await,
    }
}

/// Compare-and-set: an entry ends once. `false`: it has ended so already, which
/// is how a commit in doubt looks to whoever does it again.
async fn close(tx: &mut Session<'_>, entry: &Entry, state: &str, now: Timestamp) -> Result<bool, StoreError> {
    const CLOSE: &str = "UPDATE entry SET state = $2, closed_at = $3 WHERE entry_id = $1 AND state = 'open'";
    const READ: &str = "SELECT state FROM entry WHERE entry_id = $1";
    let id = entry.entry_id.as_str();
    let done = query(CLOSE).bind(id).bind(state).bind(millis(now)).execute(&mut *tx).await?;
    if done.rows_affected() == 1 {
        return Ok(true);
    }
    let known: Option<String> = query_scalar(READ).bind(id).fetch_optional(tx).await?;
    match known {
        Some(known) if known == state => Ok(false),
        _ => Err(StoreError::Corrupt(format!("the entry {id} cannot become {state}: it is {known:?}"))),
    }
}
