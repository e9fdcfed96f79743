//! Which database a system of tests keeps its rows in: the file in its directory, or, with
//! `POSTMETER_TEST_DATABASE=postgres`, a database of its own in a cluster that all tests
//! of this process share.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postmeter::store::{DATABASE_FILE, Maker, Store, StoreSettings};
use postmeter::telemetry::Metrics;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Postgres, Sqlite, SqliteConnection};

use super::RUNTIME;
use super::postgres::Cluster;
use super::process::ON_TESTS;

/// The database that all others are copied from.
const TEMPLATE: &str = "migrated";

/// The cluster, if tests run on one.
static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| {
    let asked = std::env::var(ON_TESTS).ok()?;
    assert_eq!(asked, "postgres", "{ON_TESTS}");
    let cluster = Cluster::start().expect("this machine has no PostgreSQL");
    cluster.create(TEMPLATE);
    let settings = StoreSettings {
        data_dir: std::env::temp_dir(),
        database_url: Some(cluster.url(TEMPLATE).into()),
        maker: Maker::Command,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    drop(RUNTIME.block_on(Store::open(&settings, Metrics::new())).unwrap());
    // Nobody may be there when it is copied.
    let leave =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'");
    cluster.read("postgres", &format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false"));
    cluster.read("postgres", &leave);
    Some(cluster)
});

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A type that either database can give.
pub(crate) trait Column:
    for<'r> sqlx::Decode<'r, Sqlite>
    + sqlx::Type<Sqlite>
    + for<'r> sqlx::Decode<'r, Postgres>
    + sqlx::Type<Postgres>
    + Send
    + Unpin
{
}
impl<T> Column for T where
    T: for<'r> sqlx::Decode<'r, Sqlite>
        + sqlx::Type<Sqlite>
        + for<'r> sqlx::Decode<'r, Postgres>
        + sqlx::Type<Postgres>
        + Send
        + Unpin
{
}

/// Whether this is the run on PostgreSQL, in which a test of the file has nothing to say.
pub(crate) fn is_about_the_file(test: &str) -> bool {
    if CLUSTER.is_some() {
        eprintln!("skipped: {test} is about SQLite's file");
    }
    CLUSTER.is_some()
}

/// A database of PostgreSQL, gone with its owner.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
}

impl Database {
    /// One with all tables and nothing in them. `None`: tests run on SQLite.
    pub(crate) fn new() -> Option<Self> {
        let cluster = CLUSTER.as_ref()?;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        cluster.read("postgres", &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"));
        Some(Self { name })
    }

    /// Keeps the rows as they are.
    pub(crate) fn keep(&self) {
        self.copied(&self.name, &self.kept());
    }

    /// Has the rows that were kept, and no other.
    pub(crate) fn restore(&self) {
        self.say(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        self.copied(&self.kept(), &self.name);
    }

    fn kept(&self) -> String {
        format!("{}_kept", self.name)
    }

    fn copied(&self, from: &str, to: &str) {
        self.say(&format!("CREATE DATABASE {to} TEMPLATE {from}"));
    }

    fn say(&self, statement: &str) {
        CLUSTER.as_ref().unwrap().read("postgres", statement);
    }

    /// `database_url`.
    pub(crate) fn url(&self) -> String {
        CLUSTER.as_ref().unwrap().url(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(cluster) = CLUSTER.as_ref() {
            for name in [&self.name, &self.kept()] {
                // Of a test that failed somebody may still be there.
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                let _ = cluster.psql("postgres", &drop).output();
            }
        }
    }
}

/// The rows of a system: by its database, or by the file in its data directory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// PostgreSQL's.
    Postgres(&'a Database),
    /// The directory of SQLite's file.
    File(&'a Path),
}

impl Rows<'_> {
    /// The first column of what a query returns.
    pub(crate) fn column<T: Column>(self, sql: &str) -> Vec<T>
    where
        (T,): for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow>,
    {
        let sql = AssertSqlSafe(sql.to_owned());
        RUNTIME.block_on(async {
            match self {
                Self::Postgres(database) => {
                    let mut one = PgConnection::connect(&database.url()).await.unwrap();
                    let column = sqlx::query_scalar(sql).fetch_all(&mut one).await.unwrap();
                    one.close().await.unwrap();
                    column
                }
                Self::File(data) => {
                    let mut one = file(data).await;
                    let column = sqlx::query_scalar(sql).fetch_all(&mut one).await.unwrap();
                    // Without this it ends in a thread, some time later.
                    one.close().await.unwrap();
                    column
                }
            }
        })
    }

    /// One whole number; PostgreSQL's sums are of another kind than what is summed.
    pub(crate) fn number(self, sql: &str) -> i64 {
        match self {
            Self::Postgres(_) => {
                self.column(&format!("SELECT CAST(number AS BIGINT) FROM ({sql}) AS o (number)")).remove(0)
            }
            Self::File(_) => self.column(sql).remove(0),
        }
    }

    /// Changes something that no constraint would allow; how many rows.
    pub(crate) fn tamper(self, sql: &str) -> u64 {
        const UNCHECKED: &str = "
            DO $$ DECLARE c RECORD; BEGIN
                FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
                         WHERE contype = 'c' AND conrelid <> 0
                LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); END LOOP;
            END $$;
            SET session_replication_role = replica";
        let sql = AssertSqlSafe(sql.to_owned());
        RUNTIME.block_on(async {
            match self {
                Self::Postgres(database) => {
                    let mut one = PgConnection::connect(&database.url()).await.unwrap();
                    one.execute(UNCHECKED).await.unwrap();
                    let done = one.execute(sql).await.unwrap();
                    one.close().await.unwrap();
                    done.rows_affected()
                }
                Self::File(data) => {
                    let mut one = file(data).await;
                    let done = one.execute(sql).await.unwrap();
                    one.close().await.unwrap();
                    done.rows_affected()
                }
            }
        })
    }
}

async fn file(data: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(data.join(DATABASE_FILE))
        .foreign_keys(false)
        .pragma("ignore_check_constraints", "on");
    SqliteConnection::connect_with(&options).await.unwrap()
}
