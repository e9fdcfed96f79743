//! The gathering writer's way to PostgreSQL: a connection that is its own, and what it
//! takes to learn what became of a commit whose answer was lost.
//!
//! Every transaction of the lane begins by writing its number into a row of `meta` that is
//! this lane's alone, in the journey that begins it. So one row says whether a transaction
//! was committed, with everything in it: whoever asks locks that row first, and so waits until
//! the transaction in question has ended, however long the server holds on to it. Asking is a
//! write: its own commit is answered only when what it saw is as safe as any commit, on a
//! standby that may take over too.
//!
//! The connection is not a pool's: those are tried before and after each use, which would
//! be two more journeys a commit. It is cut as soon as anything about it is in doubt, and made
//! anew by asking again who takes writes.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::StoreError;
use super::hosts::Way;
#[cfg(test)]
use super::sql::On;
use super::sql::{Remote, Session, Tx, in_time, query, query_scalar};
use super::unanswered::Refused;
use crate::random;

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a failed transaction may take to be rolled back before its connection is cut.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(2);

/// How long PostgreSQL is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a connection.
    pub(super) connect: Duration,
    /// For a lock that another transaction has.
    pub(super) lock: Duration,
    /// For a whole transaction; its connection is cut then.
    pub(super) transaction: Duration,
    /// For a gathered one: clients wait for it.
    pub(super) gathered: Duration,
    /// For what became of a commit that was not answered: clients wait for it.
    pub(super) answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            lock: Duration::from_secs(5),
            transaction: Duration::from_secs(20),
            gathered: Duration::from_secs(10),
            answer: Duration::from_secs(10),
        }
    }
}

/// A connection for gathered commits.
#[derive(Debug)]
pub(super) struct Lane {
    way: Way,
    patience: Patience,
    connection: Option<PgConnection>,
    /// The key of the lane's row.
    row: String,
    /// The number of the last transaction that was begun.
    number: u64,
    /// The last one failed: another try to connect is made, not several.
    has_failed: bool,
}

impl Lane {
    pub(super) fn new(way: Way, patience: Patience) -> Self {
        let row = format!("commit/{:016x}", u64::from_le_bytes(random::octets()));
        Self { way, patience, connection: None, row, number: 0, has_failed: false }
    }

    /// A transaction that may write. Whoever does not commit it says [`Lane::abandon`].
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, sqlx::Error> {
        self.number += 1;
        let until = Instant::now() + self.patience.gathered;
        // A connection that is there already goes by what the server says now, too.
        if self.way.trouble.is_unfit() {
            self.connection = None;
        }
        let had_one = self.connection.is_some();
        match self.try_begin(until).await {
            // The server was restarted since it was used last.
            Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) if had_one => self.try_begin(until).await?,
            Err(sqlx::Error::Database(error)) if had_one && StoreError::is_lost(&*error) => {
                self.try_begin(until).await?;
            }
            begun => begun?,
        }
        let connection = self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        Ok(Tx(Session::Postgres(Remote::kept(connection, until))))
    }

    async fn try_begin(&mut self, until: Instant) -> Result<(), sqlx::Error> {
        let (row, number) = (&self.row, self.number);
        // The day lets a later start remove the rows of lanes that are no more.
        let begin = format!(
            "BEGIN; INSERT INTO meta (key, value) \
             VALUES ('{row}', '{number} ' || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(sqlx::Error::WorkerCrashed) };
        let begun = in_time(until, sqlx::raw_sql(AssertSqlSafe(begin)).execute(connection)).await;
        if begun.is_err() {
            self.connection = None;
        }
        begun.map(drop)
    }

    /// A new connection. A server that is just being restarted is waited for, once.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        // Each host may have to be waited for before the one that answers is asked.
        let until = Instant::now() + self.patience.connect * self.way.hosts.count();
        let mut reason = None;
        loop {
            match in_time(until, self.way.connect()).await {
                Err(error) if !self.has_failed && Instant::now() + PAUSE < until => {
                    reason = Some(error);
                    sleep(PAUSE).await;
                }
                // That there was no time for another try says less than why there had to be one.
                connected => return connected.map_err(|error| reason.unwrap_or(error)),
            }
        }
    }

    /// Outside of any transaction.
    #[cfg(test)]
    pub(super) async fn raw(&mut self) -> On<'_> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await.unwrap());
        }
        On::Postgres(self.connection.as_mut().unwrap(), Instant::now() + Duration::from_secs(60))
    }

    /// Notes whether the last transaction was committed.
    pub(super) fn note(&mut self, is_written: bool) {
        self.has_failed = !is_written;
    }

    /// Ends a transaction that failed with this: its locks are free when this returns, or as
    /// soon as the server notices.
    pub(super) async fn abandon(&mut self, error: &StoreError) {
        let Some(mut connection) = self.connection.take() else { return };
        if !matches!(error, StoreError::Corrupt(_) | StoreError::Contended(_)) {
            return;
        }
        let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut connection);
        if matches!(timeout(ROLLBACK_LIMIT, rollback).await, Ok(Ok(_))) {
            self.connection = Some(connection);
        }
    }

    /// Whether the last transaction, whose commit was not answered, was committed: asked until
    /// there is an answer, or clients wait no longer.
    pub(super) async fn find_out(&mut self) -> Result<bool, StoreError> {
        let until = Instant::now() + self.patience.answer;
        loop {
            match timeout_at(until, self.was_committed(&Refused::default())).await {
                Ok(Ok(was_committed)) => return Ok(was_committed),
                Ok(Err(_)) if Instant::now() + PAUSE < until => sleep(PAUSE).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    self.connection = None;
                    return Err(StoreError::Away("the database does not answer".to_owned()));
                }
            }
        }
    }

    /// The same, asked once. It has surely ended when this says so. If it was committed, those of
    /// its messages that were refused meanwhile are withdrawn in the transaction that knows it.
    pub(super) async fn was_committed(&mut self, refused: &Refused) -> Result<bool, StoreError> {
        self.connection = None;
        let was_committed = self.look(refused).await;
        if was_committed.is_err() {
            self.connection = None;
        }
        was_committed
    }

    /// The key of its row.
    pub(super) fn row(&self) -> &str {
        &self.row
    }

    async fn look(&mut self, refused: &Refused) -> Result<bool, StoreError> {
        let until = Instant::now() + self.patience.gathered;
        let connection = self.connection.insert(in_time(until, self.way.connect()).await?);
        in_time(until, sqlx::raw_sql("BEGIN").execute(&mut *connection)).await?;
        let mut tx = Tx(Session::Postgres(Remote::kept(connection, until)));
        let last = last_of(&mut tx, &self.row).await?;
        let was_committed = last.split(' ').next() == Some(self.number.to_string().as_str());
        if was_committed {
            refused.withdraw(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(was_committed)
    }

    /// Whether there is room for an ordinary mail, and a commit is answered.
    pub(super) async fn prove(&mut self) -> Result<(), StoreError> {
        let proven = self.fill().await;
        if proven.is_err() {
            self.connection = None;
        }
        self.note(proven.is_ok());
        Ok(proven?)
    }

    async fn fill(&mut self) -> Result<(), sqlx::Error> {
        // 256 KiB that cannot be made smaller.
        const FILL: &str = "
            INSERT INTO meta (key, value)
            SELECT $1, string_agg(md5(CAST(n AS TEXT)), '') FROM generate_series(1, 8192) AS n";
        const EMPTY: &str = "DELETE FROM meta WHERE key = $1";
        let room = format!("{}/room", self.row);
        let mut tx = self.begin().await?;
        query(FILL).bind(&room).execute(&mut tx).await?;
        query(EMPTY).bind(&room).execute(&mut tx).await?;
        tx.commit().await
    }
}

/// What stands in the row of a lane, once the transaction that wrote it last has ended: this
/// waits for it, and is a write itself.
pub(super) async fn last_of(tx: &mut Session<'_>, row: &str) -> Result<String, sqlx::Error> {
    const LAST: &str = "
        INSERT INTO meta (key, value) VALUES ($1, '') ON CONFLICT (key) DO UPDATE SET value = meta.value
        RETURNING value";
    query_scalar(LAST).bind(row).fetch_one(tx).await
}
