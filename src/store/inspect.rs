//! A look at a database that leaves it as it is: nothing is made, claimed or
//! brought up to date. `check` may run as another user, or with a newer program
//! than the one that serves, and must not get in its way.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::level::Schema;
use super::opening::{BUSY_TIMEOUT, MIGRATOR};
use super::{DATABASE_FILE, Maker, OpenError};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is no database yet.
    Nothing,
    /// An older version made it; it is brought up to date when it is opened.
    Older,
    /// It is as this version makes it.
    UpToDate,
    /// A newer version has brought it further, and this one may work on it.
    Ahead,
}

/// Whether `serve` could use the database in `data_dir`: it can be written, no
/// newer version keeps this one off, and no sandbox made it.
pub async fn inspect(data_dir: &Path) -> Result<Found, OpenError> {
    let path = data_dir.join(DATABASE_FILE);
    let database = path.display().to_string();
    let unusable = |reason: String| OpenError::Unusable { database: database.clone(), reason };
    if !path.try_exists().map_err(|error| unusable(error.to_string()))? {
        return Ok(Found::Nothing);
    }
    let options = SqliteConnectOptions::new().filename(&path).busy_timeout(BUSY_TIMEOUT);
    let look = async {
        let mut connection = SqliteConnection::connect_with(&options).await?;
        // Taken and given back: proof that a write would be possible.
        connection.begin_with("BEGIN IMMEDIATE").await?.rollback().await?;
        let schema = Schema::of_sqlite(&mut connection).await?;
        let made_by = if schema.applied.is_empty() { None } else { made_by(&mut connection).await? };
        connection.close().await?;
        Ok::<_, sqlx::Error>((schema, made_by))
    };
    let (schema, made_by) = look.await.map_err(|error| unusable(error.to_string()))?;
    judged(&MIGRATOR, &database, &schema, made_by)
}

/// What `serve` would meet in a database with this schema.
pub(super) fn judged(
    migrator: &Migrator,
    database: &str,
    schema: &Schema,
    made_by: Option<String>,
) -> Result<Found, OpenError> {
    let found = schema.found_by(migrator, database)?;
    if let (Some(made_by), Some(asked)) = (made_by, Maker::Serve.claims_as())
        && made_by != asked
    {
        return Err(OpenError::MadeBy { database: database.to_owned(), made_by, asked });
    }
    Ok(found)
}

async fn made_by(connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    const READ: &str = "SELECT value FROM meta WHERE key = 'made_by'";
    sqlx::query_scalar(READ).fetch_optional(connection).await
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::store::{Store, StoreSettings};
    use crate::telemetry::Metrics;

    async fn open(data_dir: &Path, maker: Maker) -> Store {
        let settings = StoreSettings {
            data_dir: data_dir.to_owned(),
            database_url: None,
            maker,
            low_balance_credits: 0,
            min_free_bytes: 0,
        };
        Store::open(&settings, Metrics::new()).await.unwrap()
    }

    fn empty_directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("postmeter-inspect-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn a_look_makes_nothing_and_tells_what_serve_would_meet() {
        let directory = empty_directory("newer");
        assert_eq!(inspect(&directory).await.unwrap(), Found::Nothing);
        assert!(!directory.join(DATABASE_FILE).exists());

        drop(open(&directory, Maker::Command).await);
        assert_eq!(inspect(&directory).await.unwrap(), Found::UpToDate);

        let options = SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let mut tamper = async |sql: &'static str| sqlx::query(sql).execute(&mut connection).await.unwrap();
        tamper(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', true, x'', 0)",
        )
        .await;
        assert_eq!(inspect(&directory).await.unwrap(), Found::Ahead);
        tamper("INSERT INTO meta (key, value) VALUES ('oldest_level', '9999 7.0.0')").await;
        let newer = inspect(&directory).await.unwrap_err();
        assert!(matches!(newer, OpenError::Newer { oldest: 9999, .. }), "{newer}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn a_sandbox_database_is_not_for_serve_and_commands_claim_nothing() {
        let directory = empty_directory("sandbox");
        drop(open(&directory, Maker::Command).await);
        drop(open(&directory, Maker::Sandbox).await);
        drop(open(&directory, Maker::Command).await);
        let refused = inspect(&directory).await.unwrap_err();
        assert!(matches!(refused, OpenError::MadeBy { .. }), "{refused}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
