//! Doubtful entries: those whose outcome no answer of Dodo's can tell any more.
//!
//! Such an entry stays open, keeps its customer's one lane and its credits stay
//! owed; it is never posted again. It ends when Dodo's ledger list, or the
//! operator, says what became of it. The two may do so at the same time: the end
//! and who said it are one write, and whoever comes second changes nothing and is
//! told who was first. The way is one: open → doubtful → done or void.

use std::fmt;

use jiff::Timestamp;

use super::account::credits;
use super::entry::{Entry, EntryRow, Settled, has_none_of_it};
use super::sql::{Session, query, query_as};
use super::wake::Wake;
use super::{Store, StoreError, changed, lock, millis, stored, timestamp};
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

    fn parse(text: &str) -> Option<Self> {
        [Self::Ledger, Self::Operator].into_iter().find(|decider| decider.as_str() == text)
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ledger => "Dodo's ledger",
            Self::Operator => "the operator",
        })
    }
}

impl Standing {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Void => "void",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let known = [Self::Open, Self::Done, Self::Void].into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| StoreError::Corrupt(format!("{text} is not a state of an entry")))
    }
}

/// Why a decision about a doubtful entry changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// Somebody was faster.
    #[error("the entry {entry_id} has just been decided by {by}: it is {}", .state.as_str())]
    Already {
        /// The entry.
        entry_id: EntryId,
        /// Who that was.
        by: Decider,
        /// What became of it.
        state: Standing,
    },
    /// Nobody doubts it.
    #[error("the entry {0} is not in doubt")]
    NotInDoubt(EntryId),
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
            state: Standing::parse(&self.state)?,
            opened_at: timestamp(self.opened_at)?,
            closed_at: self.closed_at.map(timestamp).transpose()?,
            is_by_operator: self.is_by_operator,
        })
    }
}

impl Store {
    /// The entry is not posted any more: only Dodo's ledger tells what became of it.
    /// Doing it again changes nothing. `false`: another process posts it by now.
    pub async fn doubt_entry(&self, entry: &Entry, why: &str, now: Timestamp) -> Result<bool, StoreError> {
        // Whoever doubts knows of a call without an answer, and when the last one began,
        // whether that could be noted or not.
        const DOUBT: &str = "
            UPDATE entry SET doubtful_since = coalesce(doubtful_since, $2), last_error = $3,
                   unknown_tries = CASE unknown_tries WHEN 0 THEN 1 ELSE unknown_tries END,
                   first_unknown_at = coalesce(first_unknown_at, opened_at),
                   last_tried_at = max(coalesce(last_tried_at, $4, $2), coalesce($4, last_tried_at, $2))
            WHERE entry_id = $1 AND state = 'open'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        if self.is_anothers(&mut tx, entry).await? {
            return Ok(false);
        }
        let done = query(DOUBT)
            .bind(entry.entry_id.as_str())
            .bind(millis(now))
            .bind(why)
            .bind(entry.last_tried_at.map(millis))
            .execute(&mut *tx)
            .await?;
        changed("doubt entry", done.rows_affected(), 1)?;
        tx.commit().await?;
        Ok(true)
    }

    /// The entries that are in doubt, oldest first.
    pub async fn doubtful_entries(&self) -> Result<Vec<DoubtfulEntry>, StoreError> {
        const DOUBTFUL: &str = "
            SELECT entry_id, customer_id, kind, amount, reason, tries, unknown_tries, opened_at, first_unknown_at,
                   last_tried_at, expires_at, doubtful_since, last_error
            FROM entry WHERE state = 'open' AND doubtful_since IS NOT NULL ORDER BY doubtful_since, entry_id";
        let rows: Vec<DoubtfulRow> = query_as(DOUBTFUL).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|row| {
                let DoubtfulRow { entry, last_error } = row;
                Ok(DoubtfulEntry { entry: entry.read()?, why: last_error })
            })
            .collect()
    }

    /// Why a lookup did not tell what became of a doubtful entry. `false`: somebody
    /// has decided it meanwhile.
    pub async fn note_lookup(&self, entry_id: &EntryId, why: &str) -> Result<bool, StoreError> {
        const NOTE: &str = "UPDATE entry SET last_error = $2 WHERE entry_id = $1 AND state = 'open'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query(NOTE).bind(entry_id.as_str()).bind(why).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Entries of a customer that Dodo has, from the one before `entry` backwards,
    /// at most `limit`.
    pub async fn done_before(&self, entry: &Entry, limit: u32) -> Result<Vec<Booked>, StoreError> {
        const BEFORE: &str = "
            SELECT entry_id, kind = 'credit' AS is_credit, amount, state, opened_at, closed_at,
                   coalesce(decided_by, '') = 'operator' AS is_by_operator
            FROM entry WHERE customer_id = $1 AND state = 'done' AND opened_at <= $2
            ORDER BY opened_at DESC, entry_id DESC LIMIT $3";
        let rows: Vec<BookedRow> = query_as(BEFORE)
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
            FROM entry WHERE customer_id = $1 ORDER BY opened_at, entry_id";
        // Whatever was captured and is not owed any more was settled, its rows still there or not.
        const GONE: &str = "SELECT closed_settled, closed_credited FROM account WHERE customer_id = $1";
        let mut tx = self.readers.begin().await?;
        let rows: Vec<BookedRow> = query_as(ALL).bind(customer_id.as_str()).fetch_all(&mut *tx).await?;
        let gone: Option<(i64, i64)> =
            query_as(GONE).bind(customer_id.as_str()).fetch_optional(&mut *tx).await?;
        let entries = rows.into_iter().map(BookedRow::read).collect::<Result<Vec<_>, _>>()?;
        let (gone, gone_back) = gone.unwrap_or_default();
        Ok(Books { entries, gone, gone_back })
    }

    /// Dodo has a doubtful entry: the debt is paid, or the credit is there. Returns
    /// whether the low-balance mark was crossed.
    pub async fn settle_doubtful(
        &self,
        entry: &Entry,
        by: Decider,
        now: Timestamp,
    ) -> Result<Result<bool, NotDecided>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &entry.customer_id).await?;
        if let Some(why_not) = decide(&mut tx, entry, (Standing::Done, by), now).await? {
            return Ok(Err(why_not));
        }
        let low = self.has_it(&mut tx, entry, Settled::Sometime, now).await?;
        tx.commit().await?;
        drop(writer);
        self.tell(Wake::Entries).await;
        Ok(Ok(low))
    }

    /// Dodo surely has no such entry: what a debit covered is owed in no entry again,
    /// and what a credit was to give back is due again.
    pub async fn void_doubtful(
        &self,
        entry: &Entry,
        by: Decider,
        why: &str,
        now: Timestamp,
    ) -> Result<Result<(), NotDecided>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &entry.customer_id).await?;
        if let Some(why_not) = decide(&mut tx, entry, (Standing::Void, by), now).await? {
            return Ok(Err(why_not));
        }
        has_none_of_it(&mut tx, entry, why, now).await?;
        tx.commit().await?;
        drop(writer);
        self.tell(Wake::Entries).await;
        Ok(Ok(()))
    }
}

/// Compare-and-set: a doubtful entry ends once, and who said so stands in the same
/// write. `None`: it ended here and now.
async fn decide(
    tx: &mut Session<'_>,
    entry: &Entry,
    (state, by): (Standing, Decider),
    now: Timestamp,
) -> Result<Option<NotDecided>, StoreError> {
    const DECIDE: &str = "
        UPDATE entry SET state = $2, closed_at = $3, decided_by = $4
        WHERE entry_id = $1 AND state = 'open' AND doubtful_since IS NOT NULL";
    const READ: &str = "SELECT state, decided_by FROM entry WHERE entry_id = $1 AND state <> 'open'";
    let id = entry.entry_id.as_str();
    let query = query(DECIDE).bind(id).bind(state.as_str()).bind(millis(now)).bind(by.as_str());
    if query.execute(&mut *tx).await?.rows_affected() == 1 {
        return Ok(None);
    }
    let ended: Option<(String, Option<String>)> = query_as(READ).bind(id).fetch_optional(&mut *tx).await?;
    let entry_id = entry.entry_id.clone();
    let Some((state, Some(by))) = ended else { return Ok(Some(NotDecided::NotInDoubt(entry_id))) };
    let state = Standing::parse(&state)?;
    let by = Decider::parse(&by)
        .ok_or_else(|| StoreError::Corrupt(format!("{by} is nobody who decides about an entry")))?;
    Ok(Some(NotDecided::Already { entry_id, by, state }))
}
