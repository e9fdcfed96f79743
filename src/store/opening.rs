//! Opening a database: the file in `data_dir`, or the PostgreSQL at `database_url`.
//!
//! Either is brought up to date by its own folder of migrations, and claimed for whoever
//! made it. From then on all that differs between the two is in `sql`, `writer` and `lane`.

use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::time::Instant;

use super::hosts::{Hosts, Primary, Way};
use super::inspect::Found;
use super::lane::{Lane, Patience};
use super::node::Start;
use super::server::{Demands, Server};
use super::sql::{On, Readers, in_time, query, query_scalar};
use super::unanswered::Memo;
use super::writer::{self, Writer};
use super::writers::{Rare, Trouble, Writers};
use super::{DATABASE_FILE, Maker, OpenError, StoreError, level, moving, node};

/// SQLite's.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/sqlite");
/// PostgreSQL's.
pub(super) static POSTGRES_MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// Readers at the same time; with SQLite each costs a thread.
const READERS: u32 = 4;
/// How long a write waits for another process that is writing.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Transactions with PostgreSQL at the same time, besides the gathered ones.
const RARE: u32 = 4;
/// How long a connection that is given back may take to answer before it is closed.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A database that is up to date and claimed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) readers: Readers,
    pub(super) writer: Writers,
    /// For the one connection on which others are heard; `None`: there are none.
    pub(super) listening: Option<PgPool>,
    /// Whose it is.
    pub(super) node: Arc<str>,
    /// Which start of it that is.
    pub(super) start: Start,
    /// Where it stands who was refused and may have been accepted.
    pub(super) memo: Option<Memo>,
}

/// Opens the file in `data_dir`, and makes it if there is none.
pub(super) async fn sqlite(data_dir: &Path, maker: Maker) -> Result<Opened, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    let name = path.display().to_string();
    make_private_dir(data_dir).map_err(unusable(&name))?;
    make_private_file(&path).map_err(unusable(&name))?;
    file(&path, maker).await
}

/// Opens a file that is there.
pub(super) async fn file(path: &Path, maker: Maker) -> Result<Opened, OpenError> {
    let name = path.display().to_string();
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-32768")
        .pragma("temp_store", "memory")
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(unusable(&name))?;
    if maker.claims_as().is_some() {
        writer::begin_anew(&mut connection).await;
    }
    known_whole(level::raise_sqlite(&MIGRATOR, &mut connection, &name).await?, &name, maker)?;
    claim(On::Sqlite(&mut connection), &name, maker).await?;
    let writer = Writers::one(Writer::sqlite(connection, options.clone()));
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options.read_only(true))
        .await
        .map_err(unusable(&name))?;
    let (node, start) = (node::LOCAL.into(), Start::default());
    Ok(Opened { readers: Readers::Sqlite(readers), writer, listening: None, node, start, memo: None })
}

/// Opens the database at a `postgres://` URL, which must be there, and makes its tables if
/// it has none. A transaction of a pool that is dropped gives its locks back at once, since
/// its connection is tried when it comes back; one that does not answer then is closed.
pub(super) async fn postgres(
    url: &SecretString,
    data_dir: &Path,
    maker: Maker,
    (patience, demands): (Patience, Demands),
) -> Result<Opened, OpenError> {
    let hosts = Hosts::parse(url.expose_secret())?;
    let name = hosts.to_string();
    let hosts = hosts.tuned(|options| tuned(options, patience));
    let Primary { options, connection, server } = hosts.connect().await.map_err(unreachable(&name))?;
    if let Some(reason) = demands.refusal(&server) {
        return Err(OpenError::Unfit { database: name, reason });
    }
    known_whole(level::raise_postgres(&POSTGRES_MIGRATOR, connection, &name).await?, &name, maker)?;
    let trouble = Arc::<Trouble>::default();
    let pool = |connections| pool(connections, patience, demands, &trouble);
    let rare = pool(RARE).connect_with(options.clone()).await.map_err(unreachable(&name))?;
    claim(On::PostgresPool(&rare), &name, maker).await?;
    let own = data_dir.display().to_string();
    let node: Arc<str> = node::id(data_dir, maker).map_err(unusable(&own))?.into();
    let memo = Memo::in_dir(data_dir);
    let rare = Rare { pool: rare, limit: patience.transaction, trouble: Arc::clone(&trouble) };
    if maker.claims_as().is_some() {
        // Before anything is leased, or lapses.
        if let Some(refused) = memo.read().map_err(unusable(&own))? {
            memo.withdraw(&refused, &rare).await.map_err(unsettled(&name))?;
        }
        memo.forget().await;
        forget_lanes(&rare.pool).await.map_err(unreachable(&name))?;
    }
    let listening = pool(1).connect_lazy_with(options.clone());
    let readers = pool(READERS).connect_with(read_only(options)).await.map_err(unreachable(&name))?;
    let way = Way {
        hosts,
        demands,
        trouble,
        writing: rare.pool.clone(),
        reading: readers.clone(),
        listening: listening.clone(),
    };
    let gathering = Writer::Postgres(Box::new(Lane::new(way, patience)));
    let writer = Writers::several(gathering, rare);
    let (readers, listening, start) = (Readers::Postgres(readers), Some(listening), Start::of(data_dir));
    // A command beside a server lets that one's file be.
    let memo = maker.claims_as().map(|_| memo);
    Ok(Opened { readers, writer, listening, node, start, memo })
}

/// So many connections, which are looked at when they are made and when they come back.
fn pool(connections: u32, patience: Patience, demands: Demands, trouble: &Arc<Trouble>) -> PgPoolOptions {
    let (made, back) = (Arc::clone(trouble), Arc::clone(trouble));
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(patience.connect)
        .after_connect(move |connection, _| {
            let trouble = Arc::clone(&made);
            Box::pin(async move {
                judge(connection, demands, &trouble).await;
                Ok(())
            })
        })
        .after_release(move |connection, _| {
            let trouble = Arc::clone(&back);
            Box::pin(async move { Ok(takes_writes(connection, &trouble).await? && !trouble.is_unfit()) })
        })
}

/// Finds out whether anything may be written where a new connection leads. What refuses it is not
/// told to the pool, which would try again, and tell of each try.
async fn judge(connection: &mut PgConnection, demands: Demands, trouble: &Trouble) {
    if demands == Demands::Writes {
        return;
    }
    // Who does not answer this does not answer what follows either.
    let Ok(server) = in_time(Instant::now() + LOOK_LIMIT, Server::look(connection)).await else { return };
    let refusal = demands.refusal(&server);
    trouble.judge(refusal.as_deref());
    if refusal.is_some() {
        trouble.suspect();
    }
}

/// A connection of ours: its settings are those that statements count on. They name the rows that
/// they want, and an index finds each. PostgreSQL keeps the plan that it made of a statement first, and
/// for an empty table, or one of which it knows nothing yet, it plans to read all of it: what does that
/// is left out here, or a new installation would take a sixth of the mail until it has been analyzed. Who
/// does want all rows says so ([`whole_tables`](super::sql::Session::whole_tables)).
pub(super) fn tuned(options: PgConnectOptions, patience: Patience) -> PgConnectOptions {
    let lock_timeout = format!("{}ms", patience.lock.as_millis());
    options
        .application_name("postmeter")
        .options([("enable_seqscan", "off"), ("enable_bitmapscan", "off")])
        .options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")])
        .options([("jit", "off"), ("lock_timeout", lock_timeout.as_str())])
        .options([("idle_in_transaction_session_timeout", "15s"), ("tcp_user_timeout", "5s")])
        .options([
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ])
        .disable_statement_logging()
}

/// The same for connections that only read.
pub(super) fn read_only(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("default_transaction_read_only", "on")])
}

/// Whether a connection that is given back leads to a server that takes writes. What was
/// begun on it and dropped is rolled back by this.
async fn takes_writes(connection: &mut PgConnection, trouble: &Trouble) -> Result<bool, sqlx::Error> {
    const LOOK: &str = "SELECT NOT pg_is_in_recovery()";
    let look = sqlx::query_scalar(LOOK).fetch_one(connection);
    let takes_writes = in_time(Instant::now() + LOOK_LIMIT, look).await;
    if !matches!(takes_writes, Ok(true)) {
        trouble.suspect();
    }
    takes_writes
}

/// Removes the rows of gathering writers that have written nothing for so long that nobody
/// can still want to know what became of their last commit.
async fn forget_lanes(pool: &PgPool) -> Result<(), sqlx::Error> {
    const FORGET: &str = "
        DELETE FROM meta WHERE key LIKE 'commit/%'
            AND split_part(value, ' ', 2) < to_char(now() - interval '7 days', 'YYYY-MM-DD')";
    query(FORGET).execute(On::PostgresPool(pool)).await.map(drop)
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

fn unusable<E: std::fmt::Display>(name: &str) -> impl Fn(E) -> OpenError {
    move |error| OpenError::Unusable { database: name.to_owned(), reason: error.to_string() }
}

fn unreachable(name: &str) -> impl Fn(sqlx::Error) -> OpenError {
    move |error| OpenError::Unreachable { database: name.to_owned(), reason: error.to_string() }
}

fn unsettled(name: &str) -> impl Fn(StoreError) -> OpenError {
    move |error| {
        let reason = format!("what became of the last commit before this start cannot be found out: {error}");
        OpenError::Unreachable { database: name.to_owned(), reason }
    }
}

/// Whoever moves a database leaves behind what he does not know.
fn known_whole(found: Found, name: &str, maker: Maker) -> Result<(), OpenError> {
    match (found, maker) {
        (Found::Ahead, Maker::Move) => Err(OpenError::Ahead { database: name.to_owned() }),
        _ => Ok(()),
    }
}

async fn claim(mut on: On<'_>, name: &str, maker: Maker) -> Result<(), OpenError> {
    // The first to come writes its name; whoever comes later reads it.
    const CLAIM: &str = "INSERT INTO meta (key, value) VALUES ('made_by', $1) ON CONFLICT DO NOTHING";
    const READ: &str = "SELECT value FROM meta WHERE key = 'made_by'";
    if maker != Maker::Move {
        moving::refuse(&mut on, name).await?;
    }
    let Some(asked) = maker.claims_as() else { return Ok(()) };
    query(CLAIM).bind(asked).execute(&mut on).await.map_err(unusable(name))?;
    let made_by: String = query_scalar(READ).fetch_one(&mut on).await.map_err(unusable(name))?;
    if made_by == asked {
        return Ok(());
    }
    Err(OpenError::MadeBy { database: name.to_owned(), made_by, asked })
}
