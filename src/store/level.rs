//! Which programs may work on which schema, and how a schema is changed beneath those that do.
//!
//! A database is at the level of its newest migration, a program at that of the newest one that
//! it knows. Servers of one database are upgraded one after the other, so programs of
//! neighbouring levels work on one schema at the same time. A migration therefore *expands*: it adds
//! tables, columns that may be left out and indexes, and whatever statements older programs know means
//! what it meant. One that *contracts* (what nobody uses any more goes) says from which level on
//! programs may work on the schema: `oldest_level` in `meta`, as `LEVEL VERSION`. Only those below
//! are refused; a program that finds the database ahead of it works on it.
//!
//! To PostgreSQL the migrations are brought by one program at a time, and never at the expense of
//! those that are at work: whoever changes a table waits for all who use it, and all who come
//! later wait behind him. So he waits for a moment only, and tries again. And he asks for the tables in
//! the order in which transactions do: those that everybody begins with ([`super::lock`]) first, so
//! that nobody who waits for him has anything that he wants.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, SqlSafeStr};
use tokio::time::{Instant, sleep};

use super::OpenError;
use super::inspect::Found;

/// Under this one program at a time changes the schema.
const TURN: i64 = 0x706f_7374_6d65_7465;
/// How long a change waits for a table, and keeps others waiting who want the same one. Less than
/// they wait before they give up, and than PostgreSQL waits before it looks whether two wait for each other.
const HOLD: Duration = Duration::from_millis(900);
/// With what transactions begin: gathered ones with their row of `meta`, then all with accounts,
/// and whoever needs none with parts.
const GUARD: &str = "LOCK TABLE meta, account, part IN ACCESS EXCLUSIVE MODE;\n";
/// Between the first two tries; twice as long each time, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
/// An audit may read a table for minutes, and others are to be kept waiting seldom.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long is tried at all.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a database says of its schema.
#[derive(Debug, Clone, Default)]
pub(super) struct Schema {
    /// The migrations that it has.
    pub(super) applied: Vec<i64>,
    /// `oldest_level`.
    pub(super) oldest: Option<String>,
}

const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";
const OLDEST: &str = "SELECT value FROM meta WHERE key = 'oldest_level'";

impl Schema {
    pub(super) async fn of_sqlite(one: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        const HAS_ANY: &str = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        let tables: i64 = sqlx::query_scalar(HAS_ANY).fetch_one(&mut *one).await?;
        if tables == 0 {
            return Ok(Self::default());
        }
        let applied: Vec<i64> = sqlx::query_scalar(APPLIED).fetch_all(&mut *one).await?;
        if applied.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { applied, oldest: sqlx::query_scalar(OLDEST).fetch_optional(one).await? })
    }

    pub(super) async fn of_postgres(one: &mut PgConnection) -> Result<Self, sqlx::Error> {
        const HAS_ANY: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        if !sqlx::query_scalar(HAS_ANY).fetch_one(&mut *one).await? {
            return Ok(Self::default());
        }
        let applied: Vec<i64> = sqlx::query_scalar(APPLIED).fetch_all(&mut *one).await?;
        if applied.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { applied, oldest: sqlx::query_scalar(OLDEST).fetch_optional(one).await? })
    }

    /// How a program with these migrations finds it, if it may work on it at all.
    pub(super) fn found_by(&self, migrator: &Migrator, database: &str) -> Result<Found, OpenError> {
        let level = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
        if let Some(oldest) = &self.oldest {
            // What cannot be read was written by somebody who knows more.
            let (number, version) = oldest.split_once(' ').unwrap_or((oldest, "another version"));
            let oldest = number.parse().unwrap_or(i64::MAX);
            if oldest > level {
                let (database, version) = (database.to_owned(), version.to_owned());
                return Err(OpenError::Newer { database, version, oldest, level });
            }
        }
        let is_behind = migrator.iter().any(|migration| !self.applied.contains(&migration.version));
        let is_ahead = self.applied.iter().any(|version| !migrator.version_exists(*version));
        Ok(match (is_behind, is_ahead) {
            (_, true) => Found::Ahead,
            (true, false) => Found::Older,
            (false, false) => Found::UpToDate,
        })
    }

    /// The first migration that it lacks.
    fn next<'m>(&self, migrator: &'m Migrator) -> Option<&'m Migration> {
        migrator.iter().find(|migration| !self.applied.contains(&migration.version))
    }
}

/// The same migrations, to be run where some may be there that it does not have.
fn tolerant(migrator: &Migrator) -> Migrator {
    of(migrator.iter().cloned().collect())
}

/// The same where others are at work.
fn guarded(migrator: &Migrator) -> Migrator {
    let guarded = |migration: &Migration| match migration.no_tx {
        true => migration.clone(),
        false => {
            let sql = AssertSqlSafe(format!("{GUARD}{}", migration.sql.as_str())).into_sql_str();
            Migration { sql, ..migration.clone() }
        }
    };
    of(migrator.iter().map(guarded).collect())
}

fn of(migrations: Vec<Migration>) -> Migrator {
    let mut tolerant = Migrator::with_migrations(migrations);
    tolerant.set_ignore_missing(true).set_locking(false);
    tolerant
}

/// Brings a file up to date, if it is behind and we may work on it; how it was found.
pub(super) async fn raise_sqlite(
    migrator: &Migrator,
    one: &mut SqliteConnection,
    name: &str,
) -> Result<Found, OpenError> {
    let schema = Schema::of_sqlite(one).await.map_err(|error| failed(name, error.into()))?;
    let found = schema.found_by(migrator, name)?;
    tolerant(migrator).run(one).await.map_err(|error| failed(name, error))?;
    Ok(found)
}

/// The same with PostgreSQL, while other programs may be at work on it, or about to do the same.
/// The connection is of no use for anything else afterwards.
pub(super) async fn raise_postgres(
    migrator: &Migrator,
    mut one: PgConnection,
    name: &str,
) -> Result<Found, OpenError> {
    let failed = |error| failed(name, error);
    let schema = Schema::of_postgres(&mut one).await.map_err(|error| failed(error.into()))?;
    let found = schema.found_by(migrator, name)?;
    if schema.next(migrator).is_some() {
        take_turns(&mut one, name).await?;
        // Whoever had the turn before may have done it all.
        loop {
            let schema = Schema::of_postgres(&mut one).await.map_err(|error| failed(error.into()))?;
            schema.found_by(migrator, name)?;
            let Some(next) = schema.next(migrator) else { break };
            // Nobody is at work where there is nothing yet.
            let each = if schema.applied.is_empty() { tolerant(migrator) } else { guarded(migrator) };
            apply(&each, next, &mut one).await.map_err(failed)?;
        }
    }
    // What is there is what we know under these numbers.
    tolerant(migrator).run(&mut one).await.map_err(failed)?;
    // The turn ends with it.
    let _ = one.close().await;
    Ok(found)
}

/// Waits for the turn. It is asked for now and then: whoever waits inside PostgreSQL is in the
/// way of an index that is made without locks.
async fn take_turns(one: &mut PgConnection, name: &str) -> Result<(), OpenError> {
    const TAKE: &str = "SELECT pg_try_advisory_lock($1)";
    let until = Instant::now() + PATIENCE;
    loop {
        let is_ours = sqlx::query_scalar(TAKE).bind(TURN).fetch_one(&mut *one).await;
        if is_ours.map_err(|error| failed(name, error.into()))? {
            return Ok(());
        }
        if Instant::now() > until {
            let reason = "another program has been bringing it up to date for too long".to_owned();
            return Err(OpenError::Migration { database: name.to_owned(), reason });
        }
        sleep(PAUSE).await;
    }
}

/// Applies one migration, however often it takes to find nobody in the way.
async fn apply(migrator: &Migrator, next: &Migration, one: &mut PgConnection) -> Result<(), MigrateError> {
    let (until, mut pause) = (Instant::now() + PATIENCE, PAUSE);
    // What is in no transaction waits for others, and keeps nobody waiting.
    let hold = if next.no_tx { Duration::ZERO } else { HOLD };
    let hold = format!("SET lock_timeout = {}", hold.as_millis());
    loop {
        sqlx::raw_sql(AssertSqlSafe(hold.clone())).execute(&mut *one).await?;
        if next.no_tx {
            drop_unfinished(next, one).await?;
        }
        match migrator.run_to(next.version, &mut *one).await {
            Err(error) if is_in_the_way(&error) && Instant::now() + pause < until => {
                if pause == PAUSE {
                    tracing::info!(
                        migration = next.version,
                        "the database is brought up to date as soon as nobody is in the way"
                    );
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}

/// An index that was being made when the earlier try failed is there, and of no use.
async fn drop_unfinished(next: &Migration, one: &mut PgConnection) -> Result<(), sqlx::Error> {
    const FIND: &str = "
        SELECT CAST(c.relname AS TEXT) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE NOT i.indisvalid AND c.relnamespace = CAST(CAST(current_schema() AS TEXT) AS regnamespace)";
    let unfinished: Vec<String> = sqlx::query_scalar(FIND).fetch_all(&mut *one).await?;
    let is_named = |name: &String| next.sql.as_str().split_whitespace().any(|word| word == name);
    for name in unfinished.iter().filter(|name| is_named(name)) {
        let drop = AssertSqlSafe(format!("DROP INDEX CONCURRENTLY {name}"));
        sqlx::raw_sql(drop).execute(&mut *one).await?;
    }
    Ok(())
}

/// Whether others only had the locks for too long.
fn is_in_the_way(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| matches!(&*code, "55P03" | "40P01"))
}

fn failed(name: &str, error: MigrateError) -> OpenError {
    OpenError::Migration { database: name.to_owned(), reason: error.to_string() }
}
