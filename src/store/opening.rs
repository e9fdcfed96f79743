//! Opening a database: the file in `data_dir`, or the PostgreSQL at `database_url`.
//!
//! Either is brought up to date by its own folder of migrations, and claimed for whoever
//! made it. From then on all that differs between the two is in `sql` and in `writer`.

use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::hosts::{self, Follower, Hosts};
use super::server::Server;
use super::sql::{Readers, query, query_scalar};
use super::writer::{self, Writer};
use super::{DATABASE_FILE, Maker, OpenError};

/// SQLite's.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/sqlite");
/// PostgreSQL's.
pub(super) static POSTGRES_MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// Readers at the same time; with SQLite each costs a thread.
const READERS: u32 = 4;
/// How long a write waits for another process that is writing.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for a connection to PostgreSQL.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A database that is up to date and claimed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) readers: Readers,
    pub(super) writer: Writer,
    pub(super) follower: Option<Follower>,
}

/// Opens the file in `data_dir`, and makes it if there is none.
pub(super) async fn sqlite(data_dir: &Path, maker: Maker) -> Result<Opened, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    let name = path.display().to_string();
    make_private_dir(data_dir).map_err(unusable(&name))?;
    make_private_file(&path).map_err(unusable(&name))?;
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
        .pragma("temp_store", "memory")
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(unusable(&name))?;
    if maker.claims_as().is_some() {
        writer::begin_anew(&mut connection).await;
    }
    MIGRATOR.run(&mut connection).await.map_err(outdated(&name))?;
    let mut writer = Writer::sqlite(connection, options.clone());
    claim(&mut writer, &name, maker).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options.read_only(true))
        .await
        .map_err(unusable(&name))?;
    Ok(Opened { readers: Readers::Sqlite(readers), writer, follower: None })
}

/// Opens the database at a `postgres://` URL, which must be there, and makes its tables if
/// it has none. The writer's connection is a pool's, of one: a transaction that is dropped
/// gives its locks back at once there, and only with the next statement elsewhere.
pub(super) async fn postgres(url: &SecretString, maker: Maker) -> Result<Opened, OpenError> {
    let hosts = Hosts::parse(url.expose_secret())?;
    let name = hosts.to_string();
    let options = hosts::ours(hosts.primary().await.map_err(unreachable(&name))?);
    let pool =
        |connections: u32| PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    let one = pool(1).connect_with(options.clone()).await.map_err(unreachable(&name))?;
    if maker == Maker::Serve {
        let mut connection = one.acquire().await.map_err(unreachable(&name))?;
        Server::look(&mut connection).await.map_err(unreachable(&name))?.fit(&name)?;
    }
    POSTGRES_MIGRATOR.run(&one).await.map_err(outdated(&name))?;
    let mut writer = Writer::Postgres(one.clone());
    claim(&mut writer, &name, maker).await?;
    let readers = pool(READERS).connect_with(hosts::reading(options)).await.map_err(unreachable(&name))?;
    let follower = hosts.follow(vec![(one, |options| options), (readers.clone(), hosts::reading)]);
    Ok(Opened { readers: Readers::Postgres(readers), writer, follower })
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

fn outdated(name: &str) -> impl Fn(MigrateError) -> OpenError {
    move |error| match error {
        MigrateError::VersionMissing(migration) | MigrateError::VersionTooNew(migration, _) => {
            OpenError::Newer { database: name.to_owned(), migration }
        }
        other => OpenError::Migration { database: name.to_owned(), reason: other.to_string() },
    }
}

async fn claim(writer: &mut Writer, name: &str, maker: Maker) -> Result<(), OpenError> {
    // The first to come writes its name; whoever comes later reads it.
    const CLAIM: &str = "INSERT INTO meta (key, value) VALUES ('made_by', $1) ON CONFLICT DO NOTHING";
    const READ: &str = "SELECT value FROM meta WHERE key = 'made_by'";
    let Some(asked) = maker.claims_as() else { return Ok(()) };
    query(CLAIM).bind(asked).execute(writer.connection()).await.map_err(unusable(name))?;
    let made_by: String = query_scalar(READ).fetch_one(writer.connection()).await.map_err(unusable(name))?;
    if made_by == asked {
        return Ok(());
    }
    Err(OpenError::MadeBy { database: name.to_owned(), made_by, asked })
}
