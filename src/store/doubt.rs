//! Doubtful entries: those whose outcome no answer of Dodo's can tell any more.
//!
//! Such an entry stays open, keeps its customer's one lane and its credits stay
//! owed; it is never posted again. It ends when Dodo's ledger list, or the
//! operator, says what became of it, and who said so is kept. The way is one:
//! open → doubtful → done or void.

use jiff::Timestamp;
use sqlx::Connection;

use super::account::credits;
use super::entry::{Entry, EntryRow, Settled};
use super::{Store, StoreError, changed, millis, stored, timestamp};
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};

/// An entry that only Dodo's ledger can tell about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoubtfulEntry {
    /// The entry.
    pub entry: Entry,
    /// Why it is still in doubt.
    pub why: Option<String>,
}

/// An entry as the books have it, to be held against Dodo's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// Its id, which the reason of its line carries.
    pub entry_id: EntryId,
    /// Whether it gives credits rather than take them.
    pub is_credit: bool,
    /// How many credits.
    pub amount: Credits,
    /// What became of it.
    pub state: Standing,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// The operator said how it ended, not Dodo.
    pub is_by_operator: bool,
}

/// What is booked for a customer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// The entries, oldest first.
    pub entries: Vec<Booked>,
    /// Credits settled by debits whose rows have left.
    pub gone: i64,
    /// Credits given back by entries whose rows have left.
    pub gone_back: i64,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is on its way, or doubtful.
    Open,
    /// Dodo has it.
    Done,
    /// Dodo has it not, and never will.
    Void,
}

/// Who tells what became of a doubtful entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// Dodo's ledger list.
    Ledger,
    /// The operator.
    Operator,
}

impl Decider {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Operator => "operator",
        }
    }
}

#[derive(sqlx::FromRow)]
struct DoubtfulRow {
    #[sqlx(flatten)]
    entry: EntryRow,
    last_error: Option<String>,
}

#[derive(sqlx::FromRow)]
struct BookedRow {
    entry_id: String,
    is_credit: bool,
    amount: i64,
    state: String,
    opened_at: i64,
    closed_at: Option<i64>,
    is_by_operator: bool,
}

impl BookedRow {
    fn read(self) -> Result<Booked, StoreError> {
        Ok(Booked {
            entry_id: stored(EntryId::parse(&self.entry_id))?,
            is_credit: self.is_credit,
            amount: credits(self.amount)?,
            state: match self.state.as_str() {
                "open" => Standing::Open,
                "done" => Standing::Done,
                "void" => Standing::Void,
                other => return Err(StoreError::Corrupt(format!("{other} is not a state of an entry"))),
            },
            opened_at: timestamp(self.opened_at)?,
            closed_at: self.closed_at.map(timestamp).transpose()?,
            is_by_operator: self.is_by_operator,
        })
    }
}

impl Store {
    /// The entry is not posted any more: only Dodo's ledger tells what became of it.
    /// Doing it again changes nothing.
    pub async fn doubt_entry(&self, entry: &Entry, why: &str, now: Timestamp) -> Result<(), StoreError> {
        // Whoever doubts knows of a call without an answer, and when the last one began,
        // whether that could be noted or not.
        const DOUBT: &str = "
            UPDATE entry SET doubtful_since = coalesce(doubtful_since, ?2), last_error = ?3,
                   unknown_tries = CASE unknown_tries WHEN 0 THEN 1 ELSE unknown_tries END,
                   first_unknown_at = coalesce(first_unknown_at, opened_at),
                   last_tried_at = max(coalesce(last_tried_at, ?4, ?2), coalesce(?4, last_tried_at, ?2))
            WHERE entry_id = ?1 AND state = 'open'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = sqlx::query(DOUBT)
            .bind(entry.entry_id.as_str())
            .bind(millis(now))
            .bind(why)
            .bind(entry.last_tried_at.map(millis))
            .execute(&mut *tx)
            .await?;
        changed("doubt entry", done.rows_affected(), 1)?;
        Ok(tx.commit().await?)
    }

    /// The entries that are in doubt, oldest first.
    pub async fn doubtful_entries(&self) -> Result<Vec<DoubtfulEntry>, StoreError> {
        const DOUBTFUL: &str = "
            SELECT entry_id, customer_id, kind, amount, reason, tries, unknown_tries, opened_at, first_unknown_at,
                   last_tried_at, expires_at, doubtful_since, last_error
            FROM entry WHERE state = 'open' AND doubtful_since IS NOT NULL ORDER BY doubtful_since, entry_id";
        let rows: Vec<DoubtfulRow> = sqlx::query_as(DOUBTFUL).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|row| {
                let DoubtfulRow { entry, last_error } = row;
                Ok(DoubtfulEntry { entry: entry.read()?, why: last_error })
            })
            .collect()
    }

    /// Why a lookup did not tell what became of a doubtful entry.
    pub async fn note_lookup(&self, entry_id: &EntryId, why: &str) -> Result<(), StoreError> {
        const NOTE: &str = "UPDATE entry SET last_error = ?2 WHERE entry_id = ?1 AND state = 'open'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        sqlx::query(NOTE).bind(entry_id.as_str()).bind(why).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Entries of a customer that Dodo has, from the one before `entry` backwards,
    /// at most `limit`.
    pub async fn done_before(&self, entry: &Entry, limit: u32) -> Result<Vec<Booked>, StoreError> {
        const BEFORE: &str = "
            SELECT entry_id, kind = 'credit' AS is_credit, amount, state, opened_at, closed_at,
                   coalesce(decided_by, '') = 'operator' AS is_by_operator
            FROM entry WHERE customer_id = ?1 AND state = 'done' AND opened_at <= ?2
            ORDER BY opened_at DESC, entry_id DESC LIMIT ?3";
        let rows: Vec<BookedRow> = sqlx::query_as(BEFORE)
            .bind(entry.customer_id.as_str())
            .bind(millis(entry.opened_at))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(BookedRow::read).collect()
    }

    /// All that is booked for a customer, on one snapshot.
    pub async fn books(&self, customer_id: &CustomerId) -> Result<Books, StoreError> {
        const ALL: &str = "
            SELECT entry_id, kind = 'credit' AS is_credit, amount, state, opened_at, closed_at,
                   coalesce(decided_by, '') = 'operator' AS is_by_operator
            FROM entry WHERE customer_id = ?1 ORDER BY opened_at, entry_id";
        // Whatever was captured and is not owed any more was settled, its rows still there or not.
        const GONE: &str = "SELECT closed_settled, closed_credited FROM account WHERE customer_id = ?1";
        let mut reader = self.readers.acquire().await?;
        let mut tx = reader.begin().await?;
        let rows: Vec<BookedRow> = sqlx::query_as(ALL).bind(customer_id.as_str()).fetch_all(&mut *tx).await?;
        let gone: Option<(i64, i64)> =
            sqlx::query_as(GONE).bind(customer_id.as_str()).fetch_optional(&mut *tx).await?;
        let entries = rows.into_iter().map(BookedRow::read).collect::<Result<Vec<_>, _>>()?;
        let (gone, gone_back) = gone.unwrap_or_default();
        Ok(Books { entries, gone, gone_back })
    }

    /// A doubtful entry stands in Dodo's ledger: the debt is paid. `None`: it is
    /// not in doubt any more. Otherwise whether the low-balance mark was crossed.
    pub async fn settle_doubtful(
        &self,
        entry: &Entry,
        by: Decider,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        if !self.mark_decided(entry, by).await? {
            return Ok(None);
        }
        self.settle_entry(entry, Settled::Sometime, now).await.map(Some)
    }

    /// A doubtful entry surely does not stand in Dodo's ledger: what it covered is
    /// owed in no entry again. `false`: it is not in doubt any more.
    pub async fn void_doubtful(
        &self,
        entry: &Entry,
        by: Decider,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if !self.mark_decided(entry, by).await? {
            return Ok(false);
        }
        self.void_entry(entry, why, now).await?;
        Ok(true)
    }

    /// Who decides, written before it happens: a mark on an entry that is still
    /// open says nothing, and whoever decides later writes another.
    async fn mark_decided(&self, entry: &Entry, by: Decider) -> Result<bool, StoreError> {
        const MARK: &str = "
            UPDATE entry SET decided_by = ?2
            WHERE entry_id = ?1 AND state = 'open' AND doubtful_since IS NOT NULL";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done =
            sqlx::query(MARK).bind(entry.entry_id.as_str()).bind(by.as_str()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}
