//! All SQL, and every step in which mail and money move together.
//!
//! One concrete [`Store`]: a pool of readers, and one writer. What comes often
//! (acceptances, and the outcomes of attempts) goes through the gathering writer
//! in `commit`: whatever has gathered while the last commit ran goes into the
//! next one, with statements per commit rather than per message; so do the chunks
//! of large messages, a few at a time ([`spool`]). What comes
//! rarely (customers, entries, balance reads) has a transaction of its own
//! (`writers`): on SQLite's one connection, or on one of a few others to PostgreSQL.
//!
//! SQLite runs in WAL mode with `synchronous=FULL`: a commit that returned is on
//! disk. There every write transaction begins IMMEDIATE, so that a
//! command in another process and the server wait for each other instead of failing. What this room must not know: sockets, Dodo, Resend, MIME.

pub mod accept;
pub mod account;
pub mod alert;
mod attempt;
pub mod audit;
pub mod batch;
pub mod bounced;
pub mod bucket;
mod caps;
pub mod checkout;
mod commit;
pub mod customer;
pub mod doubt;
pub mod dsn;
mod due;
pub mod entry;
pub mod event;
pub mod gate;
mod gathered;
mod header;
mod hosts;
pub mod idempotency;
pub mod inspect;
mod lane;
mod ledger;
mod leftovers;
mod level;
mod lock;
pub mod log;
pub mod moving;
mod nobody;
pub mod node;
mod opening;
pub mod operator;
pub mod operator_view;
pub mod proof;
mod questions;
pub mod queue;
pub mod refund;
pub mod relayed;
pub mod report;
mod reputation;
pub mod retention;
pub mod search;
pub mod server;
pub mod session;
pub mod sign_in_link;
pub mod spool;
mod sql;
pub mod standing;
pub mod suppression;
pub mod timeline;
mod told;
mod unanswered;
pub mod usage;
mod uses;
pub mod wake;
pub mod webhook;
mod writer;
mod writers;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::ser::{CharEscape, CompactFormatter};
use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::postgres::{PgDatabaseError, PgPool};
use tokio::sync::mpsc;

use crate::crash::{CrashAt, CrashPoint};
use crate::domain::ids::Username;
use crate::domain::suppression::Why;
use crate::telemetry::Metrics;
use due::Turns;
use gathered::{Lanes, Member};
pub use hosts::{InvalidDatabaseUrl, check_url};
use lane::Patience;
use leftovers::{Exits, Leftover};
use opening::Opened;
pub use opening::make_private_dir;
use questions::Questions;
use server::Demands;
use spool::Reserve;
use sql::Readers;
use standing::Standing;
use suppression::Suspect;
use wake::Bells;
use writers::Writers;

/// Name of the database file in `data_dir`.
pub const DATABASE_FILE: &str = "postmeter.sqlite";

/// Writes that may wait for the writer before senders are held back.
const WRITES_WAITING: usize = 4096;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file cannot be used.
    #[error(
        "the database {database} cannot be opened: {reason}; check that the directory exists and may be written"
    )]
    Unusable {
        /// The file, or where the server is.
        database: String,
        /// What the system said.
        reason: String,
    },
    /// The URL of the database says nothing that can be used.
    #[error("database_url {0}")]
    Address(#[from] InvalidDatabaseUrl),
    /// PostgreSQL does not answer, or does not let us in.
    #[error(
        "the database {database} cannot be used: {reason}; check database_url, and that the server runs and lets this machine in"
    )]
    Unreachable {
        /// Where the server is.
        database: String,
        /// What the system or the server said.
        reason: String,
    },
    /// PostgreSQL is there, and may forget what was acknowledged, or cannot do what we ask.
    #[error("the database {database} is not one to acknowledge mail on: {reason}")]
    Unfit {
        /// Where the server is.
        database: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer Postmeter made it, or brought it so far that older ones may not work on it.
    #[error(
        "the database {database} was changed by a newer version of Postmeter, and this one may not work on it any more: \
         it is for {version} and newer (from level {oldest} on, and this program is at {level}); run one of those, or \
         restore a backup from before the upgrade"
    )]
    Newer {
        /// The file, or where the server is.
        database: String,
        /// The oldest version that may work on it.
        version: String,
        /// The newest migration of that version.
        oldest: i64,
        /// The newest migration of this one.
        level: i64,
    },
    /// A newer Postmeter has brought it further; whoever moves it has to know all of it.
    #[error(
        "the database {database} was brought further by a newer version of Postmeter than this one knows; move it with \
         that version"
    )]
    Ahead {
        /// The file, or where the server is.
        database: String,
    },
    /// A migration failed; nothing of it was kept.
    #[error("the database {database} could not be brought up to date: {reason}")]
    Migration {
        /// The file, or where the server is.
        database: String,
        /// What the database said.
        reason: String,
    },
    /// The sandbox made it, or `serve` did; they do not share a database.
    #[error(
        "the database {database} was made by `postmeter {made_by}`, and this is `postmeter {asked}`; use another data_dir or database_url"
    )]
    MadeBy {
        /// The file, or where the server is.
        database: String,
        /// Who made it.
        made_by: String,
        /// Who wants it.
        asked: &'static str,
    },
    /// Its rows are elsewhere now.
    #[error("what was in the database {database} was moved to {to}; set database_url to that")]
    Moved {
        /// The file.
        database: String,
        /// Where they are.
        to: String,
    },
    /// Not all rows of a move have come.
    #[error("`postmeter migrate` has not finished with the database {database}; run it again")]
    NotWhole {
        /// Where the server is.
        database: String,
    },
}

/// Why a read or write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database could not do it now: disk full, locked for too long, gone.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// PostgreSQL is away: it does not answer, is being restarted, or has no room. That is told
    /// once, when it begins and when it is over.
    #[error("the database is not available: {0}")]
    Away(String),
    /// Another transaction was in the way. The same again may succeed.
    #[error("another transaction was in the way: {0}")]
    Contended(String),
    /// What stands in the database cannot be: a bug, or a hand in the file.
    #[error("the database disagrees with itself: {0}")]
    Corrupt(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let said = error.as_database_error();
        // A constraint that is violated is a bug: the same write never succeeds.
        if said.is_some_and(|said| !matches!(said.kind(), ErrorKind::Other)) {
            return Self::Corrupt(error.to_string());
        }
        match said.and_then(|said| said.try_downcast_ref::<PgDatabaseError>()).map(PgDatabaseError::code) {
            // Serialization, deadlock, a lock that was not to be had in time.
            Some("40001" | "40P01" | "55P03") => Self::Contended(error.to_string()),
            // Values and statements that can never be right.
            Some(code) if code.starts_with("22") || code.starts_with("42") => {
                Self::Corrupt(error.to_string())
            }
            // Its connections, its resources, its end, and a server that takes no writes.
            Some(code)
                if ["08", "53", "57P"].iter().any(|class| code.starts_with(class)) || code == "25006" =>
            {
                Self::Away(error.to_string())
            }
            Some(_) => Self::Unavailable(error.to_string()),
            // SQLite is asked without a network, and hardly ever keeps a reader waiting.
            None if matches!(
                error,
                sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut
            ) =>
            {
                Self::Away(error.to_string())
            }
            None => Self::Unavailable(error.to_string()),
        }
    }
}

impl StoreError {
    /// Logs what could not be done. An outage is not told by everybody who meets it.
    pub fn tell(&self, what: &'static str) {
        match self {
            Self::Away(error) => tracing::debug!(error, "{what}"),
            error => tracing::error!(%error, "{what}"),
        }
    }

    /// What the database said.
    fn reason(&self) -> &str {
        match self {
            Self::Unavailable(reason)
            | Self::Away(reason)
            | Self::Contended(reason)
            | Self::Corrupt(reason) => reason,
        }
    }

    /// Whether PostgreSQL could not do it now. Whoever tries again until it can need not say so.
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether a connection on which PostgreSQL said this is of no use any more: it is
    /// being ended (57P…, 08…), or leads to a server that takes no writes (25006).
    fn is_lost(said: &dyn DatabaseError) -> bool {
        said.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08") || code == "25006")
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
    /// `postmeter migrate`: it takes what nobody else may, a database that is not whole.
    Move,
}

impl Maker {
    /// The name under which it claims the database for good.
    const fn claims_as(self) -> Option<&'static str> {
        match self {
            Self::Serve => Some("serve"),
            Self::Sandbox => Some("sandbox"),
            Self::Command | Self::Move => None,
        }
    }
}

/// How the database is opened.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Where the file lies, if there is no `database_url`.
    pub data_dir: PathBuf,
    /// Where PostgreSQL is, with its password: `postgres://…`.
    pub database_url: Option<SecretString>,
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
    readers: Readers,
    writer: Writers,
    hot: mpsc::Sender<Member>,
    exits: Exits,
    leftovers: mpsc::UnboundedSender<Leftover>,
    standings: Questions<Username, Standing>,
    suspects: Questions<Suspect, Why>,
    /// To whom it is told that a credential was used.
    uses: mpsc::Sender<uses::Use>,
    turns: Arc<Turns>,
    bells: Arc<Bells>,
    /// For the one connection on which others are heard.
    listening: Option<PgPool>,
    /// Who has what it leases.
    node: Arc<str>,
    /// Which start of that process this is.
    start: Arc<node::Start>,
    low_mark: i64,
    metrics: Metrics,
    crash_at: CrashAt,
}

impl Store {
    /// Opens the database in `data_dir`, makes it if there is none, or the one at
    /// `database_url`, and brings it up to date. The writer ends when the last clone of the store is dropped.
    pub async fn open(settings: &StoreSettings, metrics: Metrics) -> Result<Self, OpenError> {
        Self::open_with(settings, metrics, CrashAt::default()).await
    }

    /// The same, for a process that a test may have killed at a crash point.
    pub async fn open_with(
        settings: &StoreSettings,
        metrics: Metrics,
        crash_at: CrashAt,
    ) -> Result<Self, OpenError> {
        // Another machine's disk is not ours to measure.
        let min_free_bytes = if settings.database_url.is_some() { 0 } else { settings.min_free_bytes };
        let reserve = Reserve::of_disk(&settings.data_dir, min_free_bytes);
        Self::open_on(settings, (reserve, Patience::default()), metrics, crash_at).await
    }

    async fn open_on(
        settings: &StoreSettings,
        (reserve, patience): (Reserve, Patience),
        metrics: Metrics,
        crash_at: CrashAt,
    ) -> Result<Self, OpenError> {
        let StoreSettings { data_dir, database_url, maker, low_balance_credits, min_free_bytes: _ } =
            settings;
        let opened = match database_url {
            Some(url) => opening::postgres(url, data_dir, *maker, (patience, Demands::of(*maker))).await?,
            None => opening::sqlite(data_dir, *maker).await?,
        };
        Ok(Self::over(opened, *low_balance_credits, reserve, metrics, crash_at))
    }

    /// What works on a database that was opened.
    fn over(
        opened: Opened,
        low_balance_credits: u64,
        reserve: Reserve,
        metrics: Metrics,
        crash_at: CrashAt,
    ) -> Self {
        let Opened { readers, writer, listening, node, start, memo } = opened;
        let (hot, members) = mpsc::channel(WRITES_WAITING);
        let (chunks, pieces) = mpsc::channel(WRITES_WAITING);
        let (removals, removed) = mpsc::channel(WRITES_WAITING);
        let lanes = Lanes { hot: members, chunks: pieces, removals: removed };
        let exits = Exits { chunks, removals };
        let (leftovers, line) = mpsc::unbounded_channel();
        tokio::spawn(leftovers::run(exits.clone(), line, leftovers.downgrade()));
        let low_mark = i64::try_from(low_balance_credits).unwrap_or(i64::MAX);
        let bells = Arc::<Bells>::default();
        let settings = commit::Settings {
            node: Arc::clone(&node),
            memo,
            low_mark,
            metrics: metrics.clone(),
            reserve,
            leftovers: leftovers.downgrade(),
            bells: Arc::clone(&bells),
            crash_at: crash_at.clone(),
        };
        tokio::spawn(commit::run(writer.clone(), lanes, settings));
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
        let (uses, used) = mpsc::channel(uses::WAITING);
        tokio::spawn(uses::run(writer.clone(), used));
        let turns = Arc::default();
        Self {
            readers,
            writer,
            hot,
            exits,
            leftovers,
            standings,
            suspects,
            uses,
            turns,
            bells,
            listening,
            node,
            start: Arc::new(start),
            low_mark,
            metrics,
            crash_at,
        }
    }

    /// Passes a crash point: nothing, unless a test asked for this passage.
    pub fn pass(&self, point: CrashPoint) {
        self.crash_at.pass(point);
    }

    /// Whether a write would be possible: `readyz` and `check` ask.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let proven = self.writer.prove().await;
        // With PostgreSQL the gathering writer looks by itself until it is back.
        if !self.is_shared() {
            self.metrics.set_database_up(proven.is_ok());
        }
        proven
    }
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
/// number of them, and its text never changes. What is no text to PostgreSQL is
/// replaced ([`sql::UNKNOWN`]).
fn json<T: serde::Serialize>(rows: &T) -> Result<String, StoreError> {
    let mut text = Vec::with_capacity(128);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, WithoutNul);
    rows.serialize(&mut serializer).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    stored(String::from_utf8(text))
}

struct WithoutNul;

impl serde_json::ser::Formatter for WithoutNul {
    fn write_char_escape<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> std::io::Result<()> {
        match escape {
            CharEscape::AsciiControl(0) => write!(writer, "{}", sql::UNKNOWN),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

/// A compare-and-set that must have changed exactly `want` rows.
fn changed(what: &str, got: u64, want: usize) -> Result<(), StoreError> {
    if u64::try_from(want).is_ok_and(|want| want == got) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!("{what}: {got} rows changed where {want} had to")))
}

#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;
