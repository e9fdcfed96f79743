//! All SQL, and every step in which mail and money move together.
//!
//! One concrete [`Store`]: a pool of readers, and one writer. What comes often
//! (acceptances, and the outcomes of attempts) goes through the gathering writer
//! in `commit`: whatever has gathered while the last commit ran goes into the
//! next one, with statements per commit rather than per message; so do the chunks
//! of large messages, a few at a time ([`spool`]). What comes
//! rarely (customers, entries, balance reads) takes the same connection for a
//! transaction of its own. Every write transaction begins IMMEDIATE, so that a
//! command in another process and the server wait for each other instead of failing.
//!
//! SQLite runs in WAL mode with `synchronous=FULL`: a commit that returned is on
//! disk. What this room must not know: sockets, Dodo, Resend, MIME.

pub mod accept;
pub mod account;
mod attempt;
pub mod audit;
pub mod batch;
pub mod bounced;
pub mod checkout;
mod commit;
pub mod customer;
pub mod doubt;
pub mod dsn;
mod due;
pub mod entry;
pub mod event;
pub mod gate;
mod header;
pub mod idempotency;
pub mod inspect;
mod ledger;
mod leftovers;
pub mod log;
mod nobody;
pub mod operator;
pub mod proof;
mod questions;
pub mod queue;
pub mod refund;
pub mod relayed;
pub mod report;
mod reputation;
pub mod retention;
pub mod spool;
pub mod standing;
pub mod suppression;
pub mod timeline;
pub mod webhook;
mod writer;

use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::error::ErrorKind;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, mpsc};

use crate::crash::{CrashAt, CrashPoint};
use crate::domain::ids::Username;
use crate::domain::suppression::Why;
use crate::telemetry::Metrics;
use commit::Lanes;
use due::Turns;
use leftovers::{Exits, Leftover};
use questions::Questions;
use spool::Reserve;
use standing::Standing;
use suppression::Suspect;
use writer::Writer;

static MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/sqlite");

/// Name of the database file in `data_dir`.
pub const DATABASE_FILE: &str = "postmeter.sqlite";

/// Readers at the same time; each costs a thread.
const READERS: u32 = 4;
/// How long a write waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Writes that may wait for the writer before senders are held back.
const WRITES_WAITING: usize = 4096;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file cannot be used.
    #[error(
        "the database {path} cannot be opened: {reason}; check that the directory exists and may be written"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A newer Postmeter made it.
    #[error(
        "the database {path} was made by a newer version of Postmeter (it has migration {migration}); run that version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The migration that this version does not have.
        migration: i64,
    },
    /// A migration failed; nothing of it was kept.
    #[error("the database {path} could not be brought up to date: {reason}")]
    Migration {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The sandbox made it, or `serve` did; they do not share a database.
    #[error(
        "the database {path} was made by `postmeter {made_by}`, and this is `postmeter {asked}`; use another data_dir"
    )]
    MadeBy {
        /// The file.
        path: PathBuf,
        /// Who made it.
        made_by: String,
        /// Who wants it.
        asked: &'static str,
    },
}

/// Why a read or write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database could not do it now: disk full, locked for too long, gone.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// What stands in the database cannot be: a bug, or a hand in the file.
    #[error("the database disagrees with itself: {0}")]
    Corrupt(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // A constraint that is violated is a bug: the same write never succeeds.
        match error.as_database_error().map(sqlx::error::DatabaseError::kind) {
            Some(kind) if !matches!(kind, ErrorKind::Other) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Who opens a database: the sandbox's fixed credential must never be found on a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// `postmeter serve`.
    Serve,
    /// `postmeter sandbox`.
    Sandbox,
    /// The other commands: they take whichever is there and claim nothing.
    Command,
}

impl Maker {
    /// The name under which it claims the database for good.
    const fn claims_as(self) -> Option<&'static str> {
        match self {
            Self::Serve => Some("serve"),
            Self::Sandbox => Some("sandbox"),
            Self::Command => None,
        }
    }
}

/// How the database is opened.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Where the file lies.
    pub data_dir: PathBuf,
    /// Who opens it.
    pub maker: Maker,
    /// `billing.low_balance_credits`.
    pub low_balance_credits: u64,
    /// `queue.min_free_bytes`
    pub min_free_bytes: u64,
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    writer: Arc<Mutex<Writer>>,
    hot: mpsc::Sender<commit::Member>,
    exits: Exits,
    leftovers: mpsc::UnboundedSender<Leftover>,
    standings: Questions<Username, Standing>,
    suspects: Questions<Suspect, Why>,
    turns: Arc<Turns>,
    low_mark: i64,
    crash_at: CrashAt,
}

impl Store {
    /// Opens the database in `data_dir`, makes it if there is none, and brings it
    /// up to date. The writer ends when the last clone of the store is dropped.
    pub async fn open(settings: &StoreSettings, metrics: Metrics) -> Result<Self, OpenError> {
        Self::open_with(settings, metrics, CrashAt::default()).await
    }

    /// The same, for a process that a test may have killed at a crash point.
    pub async fn open_with(
        settings: &StoreSettings,
        metrics: Metrics,
        crash_at: CrashAt,
    ) -> Result<Self, OpenError> {
        let reserve = Reserve::of_disk(&settings.data_dir, settings.min_free_bytes);
        Self::open_on(settings, reserve, metrics, crash_at).await
    }

    async fn open_on(
        settings: &StoreSettings,
        reserve: Reserve,
        metrics: Metrics,
        crash_at: CrashAt,
    ) -> Result<Self, OpenError> {
        let StoreSettings { data_dir, maker, low_balance_credits, min_free_bytes: _ } = settings;
        let path = data_dir.join(DATABASE_FILE);
        let unusable = |reason: String| OpenError::Unusable { path: path.clone(), reason };
        make_private_dir(data_dir).map_err(|e| unusable(e.to_string()))?;
        make_private_file(&path).map_err(|e| unusable(e.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("wal_autocheckpoint", "4000")
            .pragma("journal_size_limit", "67108864")
            .pragma("cache_size", "-32768")
            .pragma("temp_store", "memory");
        let options = sqlx::ConnectOptions::disable_statement_logging(options);
        let mut connection =
            SqliteConnection::connect_with(&options).await.map_err(|e| unusable(e.to_string()))?;
        if maker.claims_as().is_some() {
            writer::begin_anew(&mut connection).await;
        }
        migrate(&mut connection, &path).await?;
        claim(&mut connection, &path, *maker).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true))
            .await
            .map_err(|e| unusable(e.to_string()))?;
        let writer = Arc::new(Mutex::new(Writer::new(connection, options)));
        let (hot, members) = mpsc::channel(WRITES_WAITING);
        let (chunks, pieces) = mpsc::channel(WRITES_WAITING);
        let (removals, removed) = mpsc::channel(WRITES_WAITING);
        let lanes = Lanes { hot: members, chunks: pieces, removals: removed };
        let exits = Exits { chunks, removals };
        let (leftovers, line) = mpsc::unbounded_channel();
        tokio::spawn(leftovers::run(exits.clone(), line, leftovers.downgrade()));
        let low_mark = i64::try_from(*low_balance_credits).unwrap_or(i64::MAX);
        let settings = commit::Settings {
            low_mark,
            metrics,
            reserve,
            leftovers: leftovers.downgrade(),
            crash_at: crash_at.clone(),
        };
        tokio::spawn(commit::run(Arc::clone(&writer), lanes, settings));
        let pool = readers.clone();
        let standings = Questions::answered_by(move |usernames| {
            let pool = pool.clone();
            async move { standing::look(&pool, &usernames).await }
        });
        let pool = readers.clone();
        let suspects = Questions::answered_by(move |suspects| {
            let pool = pool.clone();
            async move { suppression::find(&pool, &suspects).await }
        });
        let turns = Arc::default();
        Ok(Self { readers, writer, hot, exits, leftovers, standings, suspects, turns, low_mark, crash_at })
    }

    /// Passes a crash point: nothing, unless a test asked for this passage.
    pub fn pass(&self, point: CrashPoint) {
        self.crash_at.pass(point);
    }

    /// Whether a write would be possible: `readyz` and `check` ask.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.writer.lock().await.prove().await
    }
}

/// Makes a directory that only its owner can enter: customers' mail lies in it.
pub fn make_private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the database's file, if there is none, for its owner alone; SQLite gives
/// what it puts beside it the same rights.
fn make_private_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    MIGRATOR.run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(migration) | MigrateError::VersionTooNew(migration, _) => {
            OpenError::Newer { path: path.to_owned(), migration }
        }
        other => OpenError::Migration { path: path.to_owned(), reason: other.to_string() },
    })
}

async fn claim(connection: &mut SqliteConnection, path: &Path, maker: Maker) -> Result<(), OpenError> {
    // The first to come writes its name; whoever comes later reads it.
    const CLAIM: &str = "INSERT INTO meta (key, value) VALUES ('made_by', ?1) ON CONFLICT DO NOTHING";
    const READ: &str = "SELECT value FROM meta WHERE key = 'made_by'";
    let failed = |e: sqlx::Error| OpenError::Unusable { path: path.to_owned(), reason: e.to_string() };
    let Some(asked) = maker.claims_as() else { return Ok(()) };
    sqlx::query(CLAIM).bind(asked).execute(&mut *connection).await.map_err(failed)?;
    let made_by: String = sqlx::query_scalar(READ).fetch_one(&mut *connection).await.map_err(failed)?;
    if made_by == asked {
        return Ok(());
    }
    Err(OpenError::MadeBy { path: path.to_owned(), made_by, asked })
}

/// A time as the database keeps it.
fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time read back.
fn timestamp(millis: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(millis).map_err(|_| StoreError::Corrupt(format!("{millis} is not a time")))
}

/// Parses what we wrote ourselves.
fn stored<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, StoreError> {
    parsed.map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Rows as one JSON parameter: a statement with `json_each` then writes any
/// number of them, and its text never changes.
fn json<T: serde::Serialize>(rows: &T) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A compare-and-set that must have changed exactly `want` rows.
fn changed(what: &str, got: u64, want: usize) -> Result<(), StoreError> {
    if u64::try_from(want).is_ok_and(|want| want == got) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!("{what}: {got} rows changed where {want} had to")))
}

#[cfg(test)]
mod tests;
