//! What gathered commits are made on, and what it takes to trust SQLite's connection again
//! after the disk failed; what it takes with PostgreSQL says `lane`.
//!
//! With SQLite a commit appends to the write-ahead log and syncs it. When the sync fails, the
//! appended pages are known to nobody in this process, but they lie in the file,
//! and the next process to open it would read them back as a commit: a message
//! whose sender was told 452 would be mailed after a crash. So a commit that
//! failed is *sealed*: the next commit, of a row of no meaning, is written over
//! its beginning, and the log's running checksum makes the rest worthless.
//! Nothing is written, and nobody is answered about the failed commit, before that.
//!
//! For the same reason a server begins with a checkpoint ([`begin_anew`]): after
//! a failed sync the system may believe to be on disk what is not, and what was
//! read back from such a log is safe only where it is written once more.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Sqlite, Transaction};

use super::StoreError;
use super::lane::Lane;
use super::sql::{On, Session, Tx, query_scalar};
use super::unanswered::Refused;
use crate::domain::ids::MessageId;

/// What gathered commits are made on.
#[derive(Debug)]
pub(super) enum Writer {
    /// SQLite's one connection.
    Sqlite(Box<Only>),
    /// PostgreSQL answers for its own log: it stops when a sync fails.
    Postgres(Box<Lane>),
}

impl Writer {
    /// Writes over a connection to SQLite that was just opened with these options.
    pub(super) fn sqlite(connection: SqliteConnection, options: SqliteConnectOptions) -> Self {
        Self::Sqlite(Box::new(Only { connection, options, is_in_doubt: false, has_failed: false }))
    }

    /// A transaction that may write. Whoever does not commit it says [`Writer::abandon`].
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, sqlx::Error> {
        match self {
            Self::Sqlite(only) => Ok(Tx(Session::Sqlite(only.begin().await?))),
            Self::Postgres(lane) => lane.begin().await,
        }
    }

    /// Ends a transaction that failed with this, and was dropped.
    pub(super) async fn abandon(&mut self, error: &StoreError) {
        if let Self::Postgres(lane) = self {
            lane.abandon(error).await;
        }
    }

    /// What is in the file; nothing that can be asked elsewhere is asked here.
    pub(super) fn connection(&mut self) -> Option<On<'_>> {
        match self {
            Self::Sqlite(only) => Some(On::Sqlite(&mut only.connection)),
            Self::Postgres(_) => None,
        }
    }

    /// The row that says what was committed last, where that may have to be found out later.
    pub(super) fn row(&self) -> Option<&str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(lane) => Some(lane.row()),
        }
    }

    /// Outside of any transaction.
    #[cfg(test)]
    pub(super) async fn raw(&mut self) -> On<'_> {
        match self {
            Self::Sqlite(only) => On::Sqlite(&mut only.connection),
            Self::Postgres(lane) => lane.raw().await,
        }
    }

    /// Notes whether the last gathered commit could be written; [`Writer::prove`] asks.
    pub(super) fn note(&mut self, is_written: bool) {
        match self {
            Self::Sqlite(only) => only.has_failed = !is_written,
            Self::Postgres(lane) => lane.note(is_written),
        }
    }

    /// Whether a commit that failed has happened all the same, with the messages that it
    /// accepted.
    pub(super) async fn find_out(&mut self, accepted: &[MessageId]) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(only) => only.find_out(accepted).await,
            Self::Postgres(lane) => lane.find_out().await,
        }
    }

    /// Whether a commit has happened of which that could not be found out in time, by one more
    /// look; what was refused of it is withdrawn then. With SQLite it never has: it is sealed
    /// before anything else is written.
    pub(super) async fn settle(&mut self, refused: &Refused) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(false),
            Self::Postgres(lane) => lane.was_committed(refused).await,
        }
    }

    /// Whether a write is possible now.
    pub(super) async fn prove(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(only) => only.prove().await,
            Self::Postgres(lane) => lane.prove().await,
        }
    }
}

/// SQLite's one connection that writes.
#[derive(Debug)]
pub(super) struct Only {
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    /// A commit failed and was not sealed yet.
    is_in_doubt: bool,
    /// The last gathered commit failed, whyever.
    has_failed: bool,
}

impl Only {
    /// A transaction that may write.
    async fn begin(&mut self) -> Result<Transaction<'_, Sqlite>, sqlx::Error> {
        if self.is_in_doubt || !self.is_between_transactions().await {
            self.restore().await?;
        }
        self.connection.begin_with("BEGIN IMMEDIATE").await
    }

    /// After a failed commit: opens the database anew, since nothing that this
    /// connection believes can be trusted, and seals what was written last.
    async fn restore(&mut self) -> Result<(), sqlx::Error> {
        self.is_in_doubt = true;
        self.connection = SqliteConnection::connect_with(&self.options).await?;
        self.seal().await?;
        self.is_in_doubt = false;
        Ok(())
    }

    /// Whether a commit that failed has happened: nothing is believed before what it may
    /// have left in the log is sealed.
    async fn find_out(&mut self, accepted: &[MessageId]) -> Result<bool, StoreError> {
        const READ: &str = "SELECT EXISTS (SELECT 1 FROM message WHERE message_id = $1)";
        self.restore().await?;
        let Some(first) = accepted.first() else { return Ok(false) };
        let read = query_scalar(READ).bind(first.as_str());
        Ok(read.fetch_one(On::Sqlite(&mut self.connection)).await?)
    }

    /// Whether a write is possible now. After a commit that failed, by making one
    /// that has room for an ordinary mail.
    async fn prove(&mut self) -> Result<(), StoreError> {
        // 256 KiB, which the seal then gives back.
        const FILL: &str = "
            INSERT INTO meta (key, value) VALUES ('seal', hex(zeroblob(131072)))
            ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        if !self.has_failed {
            self.begin().await?.rollback().await?;
            return Ok(());
        }
        let mut tx = self.begin().await?;
        sqlx::query(FILL).execute(&mut *tx).await?;
        tx.commit().await?;
        self.seal().await?;
        self.has_failed = false;
        Ok(())
    }

    /// Whether the last transaction has really ended. A disk that fails in the
    /// middle of one makes SQLite roll back by itself, and the connection would
    /// believe for ever that it is still inside.
    async fn is_between_transactions(&mut self) -> bool {
        if !self.connection.is_in_transaction() {
            return true;
        }
        // The rollback of a transaction that was dropped waits in line; this waits behind it.
        self.connection.ping().await.is_ok() && !self.connection.is_in_transaction()
    }

    async fn seal(&mut self) -> Result<(), sqlx::Error> {
        // Always a change, or nothing would be written.
        const SEAL: &str = "
            INSERT INTO meta (key, value) VALUES ('seal', '1')
            ON CONFLICT (key) DO UPDATE SET value = CASE value WHEN '1' THEN '2' ELSE '1' END";
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(SEAL).execute(&mut *tx).await?;
        tx.commit().await
    }
}

/// Moves everything out of the write-ahead log into the database proper and
/// begins a new log. Not being able to is no reason to stay away: mail waits in
/// the database, and its disk may only be full.
pub(super) async fn begin_anew(connection: &mut SqliteConnection) {
    const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
    match sqlx::query_as::<_, (i64, i64, i64)>(CHECKPOINT).fetch_one(connection).await {
        Ok((0, _, _)) => {}
        Ok(_) => tracing::warn!("the database's log goes on, since another program is reading it"),
        Err(error) => tracing::warn!(%error, "the database's log goes on"),
    }
}
