//! Balances: what Dodo said, applied only where nothing of ours came between.

use jiff::Timestamp;

use super::accept::{Acceptance, insert_own};
use super::sql::{Session, query, query_as};
use super::wake::Wake;
use super::{Store, StoreError, changed, lock, millis, stored, told};
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;
use crate::telemetry::EntryKind;

/// Permission to read a balance at Dodo, taken before the read begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceRead {
    /// Whose balance.
    pub customer_id: CustomerId,
    version: i64,
    raise_only: bool,
}

/// What became of a balance that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceApplied {
    /// The account now.
    pub account: Account,
    /// Whether the balance was taken over.
    pub outcome: ReadOutcome,
    /// Whether it is another than before.
    pub is_news: bool,
    /// Whether available fell below the low-balance mark, and a notice is due.
    pub low: bool,
}

/// Whether a balance that was read was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// It is the balance now.
    Applied,
    /// An entry was opened, settled or given up meanwhile, or another read came
    /// first: it says nothing any more.
    Overtaken,
    /// It is lower than what is known, and an entry whose outcome is unknown may be why.
    NotRaised,
}

/// Sums over all accounts, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Totals {
    /// Credits on hold.
    pub held: i64,
    /// Credits captured and not settled.
    pub owed: i64,
    /// Parts waiting or under way.
    pub parts_queued: i64,
    /// Parts that wait for the operator.
    pub parts_held: i64,
    /// Entries that are open.
    pub entries_open: i64,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    balance: Option<i64>,
    balance_read_at: Option<i64>,
    held: i64,
    owed: i64,
    version: i64,
    low_armed: i64,
    /// Calls for the open entry, the one under way included; NULL: none is open.
    open_tries: Option<i64>,
    /// Those of them that ended without an answer.
    open_unknown: Option<i64>,
    /// Whether it takes credits or gives them back.
    open_kind: Option<String>,
    /// What the open entry takes from the balance, if Dodo has applied it.
    open_debit: Option<i64>,
}

impl AccountRow {
    fn account(&self) -> Result<Account, StoreError> {
        Account::from_columns(self.balance, self.balance_read_at, (self.held, self.owed), self.version)
    }
}

const READ: &str = "
    SELECT a.balance, a.balance_read_at, a.held, a.owed, a.version, a.low_armed,
           e.tries AS open_tries, e.unknown_tries AS open_unknown, e.kind AS open_kind,
           CASE e.kind WHEN 'debit' THEN e.amount ELSE 0 END AS open_debit
    FROM account a LEFT JOIN entry e ON e.customer_id = a.customer_id AND e.state = 'open'
    WHERE a.customer_id = $1";

impl Store {
    /// The account of a customer.
    pub async fn account(&self, customer_id: &CustomerId) -> Result<Option<Account>, StoreError> {
        let row: Option<AccountRow> =
            query_as(READ).bind(customer_id.as_str()).fetch_optional(&self.readers).await?;
        row.map(|row| row.account()).transpose()
    }

    /// Before a balance is read at Dodo. `None`: there is no such account, or an
    /// entry is being posted for the first time, and what Dodo would say could lie
    /// on either side of it. While a debit waits for another try a read may only
    /// raise what is available. A credit that waits is counted nowhere yet.
    pub async fn begin_balance_read(
        &self,
        customer_id: &CustomerId,
    ) -> Result<Option<BalanceRead>, StoreError> {
        let row: Option<AccountRow> =
            query_as(READ).bind(customer_id.as_str()).fetch_optional(&self.readers).await?;
        let is_first_call = |row: &AccountRow| (row.open_tries, row.open_unknown) == (Some(1), Some(0));
        Ok(row.filter(|row| !is_first_call(row)).map(|row| BalanceRead {
            customer_id: customer_id.clone(),
            version: row.version,
            raise_only: row.open_kind.as_deref() == Some(EntryKind::Debit.as_str()),
        }))
    }

    /// Applies a balance that was read under `read`, unless an entry was opened,
    /// settled or given up meanwhile, or another read was applied.
    pub async fn apply_balance(
        &self,
        read: &BalanceRead,
        balance: i64,
        now: Timestamp,
    ) -> Result<BalanceApplied, StoreError> {
        // The version decides: a read that an entry or another read overtook says nothing.
        const APPLY: &str = "
            UPDATE account SET balance = $2, balance_read_at = $3, version = version + 1
            WHERE customer_id = $1 AND version = $4";
        const CONFIRM: &str = "UPDATE account SET balance_read_at = $2 WHERE customer_id = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &read.customer_id).await?;
        let id = read.customer_id.as_str();
        let row: AccountRow = query_as(READ).bind(id).fetch_one(&mut *tx).await?;
        let lowers = row.balance.is_some_and(|old| balance < old);
        let outcome = if row.version != read.version {
            ReadOutcome::Overtaken
        } else if read.raise_only && lowers {
            // What the entry in doubt explains is what was known, and known as of now.
            let explained = balance.saturating_add(row.open_debit.unwrap_or(0));
            if row.balance.is_some_and(|old| explained >= old) {
                let done = query(CONFIRM).bind(id).bind(millis(now)).execute(&mut *tx).await?;
                changed("confirm balance", done.rows_affected(), 1)?;
            }
            ReadOutcome::NotRaised
        } else {
            let done = query(APPLY)
                .bind(id)
                .bind(balance)
                .bind(millis(now))
                .bind(read.version)
                .execute(&mut *tx)
                .await?;
            changed("apply balance", done.rows_affected(), 1)?;
            if row.balance.is_none_or(|old| balance > old) {
                told::has_credit_again(&mut tx, &read.customer_id).await?;
            }
            ReadOutcome::Applied
        };
        let (account, low) = arm(&mut tx, &read.customer_id, self.low_mark).await?;
        tx.commit().await?;
        let is_news = account.balance != row.balance;
        Ok(BalanceApplied { account, outcome, is_news, low })
    }

    /// Disarms the low-balance mark of a customer and takes the notice in, both or
    /// neither. `false`: it was disarmed already, and no notice is due.
    pub async fn low_balance_notice(&self, notice: &Acceptance) -> Result<bool, StoreError> {
        // One notice a crossing: whoever disarms the mark mails.
        const DISARM: &str = "
            UPDATE account SET low_armed = 0
            WHERE customer_id = $1 AND low_armed = 1 AND balance - held - owed < $2";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done =
            query(DISARM).bind(notice.customer_id.as_str()).bind(self.low_mark).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        insert_own(&mut tx, notice, None).await?;
        tx.commit().await?;
        self.ring(&Wake::Parts);
        Ok(true)
    }

    /// Disarms the low-balance mark of a customer who cannot be told, so that
    /// nobody tries again until the next crossing.
    pub async fn disarm_low_balance(&self, customer_id: &CustomerId) -> Result<(), StoreError> {
        const DISARM: &str = "UPDATE account SET low_armed = 0 WHERE customer_id = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(DISARM).bind(customer_id.as_str()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Sums for the metrics.
    pub async fn totals(&self) -> Result<Totals, StoreError> {
        const SUMS: &str = "
            SELECT (SELECT coalesce(CAST(sum(held) AS BIGINT), 0) FROM account) AS held,
                   (SELECT coalesce(CAST(sum(owed) AS BIGINT), 0) FROM account) AS owed,
                   (SELECT count(*) FROM part WHERE state = 'queued' AND batch_max = 1)
                   + (SELECT count(*) FROM part WHERE state = 'queued' AND batch_max > 1)
                   + (SELECT count(*) FROM part WHERE state = 'sending') AS parts_queued,
                   (SELECT count(*) FROM part WHERE state = 'held') AS parts_held,
                   (SELECT count(*) FROM entry WHERE state = 'open') AS entries_open";
        Ok(query_as(SUMS).fetch_one(&self.readers).await?)
    }
}

/// Arms the low-balance mark again when available is back above it, and says
/// whether an armed mark has been crossed.
pub(super) async fn arm(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    low_mark: i64,
) -> Result<(Account, bool), StoreError> {
    const ARM: &str = "
        UPDATE account SET low_armed = 1
        WHERE customer_id = $1 AND low_armed = 0 AND balance - held - owed >= $2";
    query(ARM).bind(customer_id.as_str()).bind(low_mark).execute(&mut *tx).await?;
    let row: AccountRow = query_as(READ).bind(customer_id.as_str()).fetch_one(tx).await?;
    let account = row.account()?;
    let is_below = account.available().is_some_and(|available| available < low_mark);
    Ok((account, is_below && row.low_armed == 1))
}

/// A credit count read back from a column.
pub(super) fn credits(count: i64) -> Result<Credits, StoreError> {
    stored(Credits::from_i64(count).ok_or_else(|| format!("{count} is not a number of credits")))
}

/// Locks the accounts of these customers, a JSON list, in their order: the first step of
/// whoever decides about a customer, and a statement of its own, since what is read in the
/// statement that waits for a lock is older than the lock. SQLite has one writer, and
/// nothing to lock.
pub(super) async fn lock_accounts(tx: &mut Session<'_>, customers: &str) -> Result<(), StoreError> {
    const LOCK: &str = "
        SELECT customer_id FROM account WHERE customer_id IN (SELECT atom FROM json_each($1))
        ORDER BY customer_id FOR NO KEY UPDATE";
    if matches!(tx, Session::Postgres(_)) {
        query(LOCK).bind(customers).execute(tx).await?;
    }
    Ok(())
}
