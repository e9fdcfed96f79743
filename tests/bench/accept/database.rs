//! Where Postmeter keeps mail and money in a run: a file, or a PostgreSQL of the bench's own with
//! the settings that it has by default, so with `fsync`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use postmeter::store::DATABASE_FILE;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, SqliteConnection};

use crate::args::Kind;
use crate::fill::{Dialect, Fill};
use crate::harness::{Cluster, succeed};

/// The database in the cluster.
const NAME: &str = "mail";
/// Over what the harness has tests' clusters do without.
const DURABLE: &str = "-c fsync=on -c full_page_writes=on";

/// A file, or a cluster that goes when this does.
pub(crate) enum Database {
    File(PathBuf),
    Postgres(Cluster),
}

impl Database {
    /// What a kind of Postmeter needs; the file is in that directory.
    pub(crate) fn start(kind: Kind, data_dir: PathBuf) -> Result<Self> {
        if !kind.is_on_postgres() {
            return Ok(Self::File(data_dir.join(DATABASE_FILE)));
        }
        let cluster = Cluster::start_with(DURABLE).context("this machine has no PostgreSQL")?;
        cluster.create(NAME);
        let settings = "SELECT name || '=' || current_setting(name) FROM pg_settings WHERE name IN ('server_version',
            'fsync', 'full_page_writes', 'synchronous_commit', 'shared_buffers', 'max_wal_size', 'autovacuum')";
        eprintln!("{}: PostgreSQL with {}", kind.name(), cluster.read(NAME, settings).join(", "));
        Ok(Self::Postgres(cluster))
    }

    pub(crate) fn url(&self) -> Option<String> {
        let Self::Postgres(cluster) = self else { return None };
        Some(format!("postgres://postmeter@localhost/{NAME}?host={}", cluster.home.display()))
    }

    /// Runs statements, if it is a PostgreSQL.
    pub(crate) fn run(&self, statements: &str) {
        if let Self::Postgres(cluster) = self {
            succeed(&mut cluster.psql(NAME, statements));
        }
    }

    /// Octets of the write-ahead log so far.
    pub(crate) fn wal(&self) -> Option<f64> {
        let Self::Postgres(cluster) = self else { return None };
        let position = cluster.read(NAME, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')");
        position.first()?.parse().ok()
    }

    /// Writes rows in bulk; no server runs.
    pub(crate) async fn fill(&self, fill: Fill) -> Result<()> {
        match self {
            Self::File(_) => {
                let mut file = self.open().await?;
                file.execute(AssertSqlSafe(fill.statements(Dialect::Sqlite))).await?;
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
            }
            Self::Postgres(_) => {
                self.run(&fill.statements(Dialect::Postgres));
                // What autovacuum does with a queue that fills in the course of a day.
                self.run("VACUUM (ANALYZE)");
                self.run("CHECKPOINT");
            }
        }
        Ok(())
    }

    /// How many of the messages that it was filled with have not left yet.
    pub(crate) async fn left(&self, fill: Fill) -> Result<u64> {
        let question = fill.left();
        match self {
            Self::File(_) => {
                let mut file = self.open().await?;
                let left: i64 = sqlx::query_scalar(AssertSqlSafe(question)).fetch_one(&mut file).await?;
                Ok(left.try_into()?)
            }
            Self::Postgres(cluster) => Ok(cluster.read(NAME, &question)[0].parse()?),
        }
    }

    async fn open(&self) -> Result<SqliteConnection> {
        let Self::File(path) = self else { anyhow::bail!("it is no file") };
        let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
        Ok(options.connect().await?)
    }

    /// What its tables have come to: rows, updates, those that changed no index (HOT), dead rows,
    /// octets.
    pub(crate) fn tables(&self) -> Result<String> {
        const TABLES: &str = "
            SELECT format('%-22s %9s live %8s dead %9s inserted %9s updated %5s HOT %9s deleted %6s MiB table %6s MiB \
                   indexes, vacuumed %s times', relname, n_live_tup, n_dead_tup, n_tup_ins, n_tup_upd,
                   coalesce(n_tup_hot_upd * 100 / nullif(n_tup_upd, 0) || ' %', '-'), n_tup_del,
                   round(pg_table_size(relid) / 1048576.0, 1), round(pg_indexes_size(relid) / 1048576.0, 1),
                   autovacuum_count)
            FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd > 0 ORDER BY pg_total_relation_size(relid) DESC";
        match self {
            Self::File(path) => Ok(format!("{} MiB", path.metadata()?.len() >> 20)),
            Self::Postgres(cluster) => Ok(cluster.read(NAME, TABLES).join("\n")),
        }
    }
}
