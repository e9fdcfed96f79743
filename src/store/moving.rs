//! Moving an installation: every row of a SQLite file goes to PostgreSQL as it stands.
//!
//! Tables go in an order in which no row comes before one that it refers to, a page at a
//! time in the order of a key. How far a table has come is committed with the page, so a
//! move that was interrupted goes on where it stood. What the two databases say of it, in
//! `meta`: the file has `moving_to` from the beginning and `moved_to` in the end, the other
//! one `moving_from` until all is there. Nobody serves a database that is not whole, and
//! nobody serves a file whose rows have left: the mail in it would leave twice. Whoever
//! else opens the file in between takes `moving_to` away, and what was moved so far is worthless.

use std::fmt::Write;
use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, Sqlite};

use super::audit::Finding;
use super::level::Schema;
use super::opening::{self, BUSY_TIMEOUT};
use super::spool::Reserve;
use super::sql::{On, Session, Tx, UNKNOWN, query, query_scalar};
use super::{Maker, OpenError, Store, StoreError, changed, json, stored};
use crate::crash::CrashAt;
use crate::domain::digest::hex;
use crate::telemetry::Metrics;

/// A table, and the columns that name and order its rows.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) key: &'static [&'static str],
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key }
}

/// What moves. `meta` is of the database; nodes, duties and buckets are of those who serve it.
pub(super) const TABLES: &[Table] = &[
    table("customer", &["customer_id"]),
    table("account", &["customer_id"]),
    table("credential", &["username"]),
    table("sender", &["customer_id", "pattern"]),
    table("proof", &["customer_id", "domain"]),
    table("checkout", &["token_hash"]),
    table("session", &["session_hash"]),
    table("sign_in_link", &["link_hash"]),
    table("alert", &["kind", "subject_id"]),
    table("told", &["kind", "occasion"]),
    table("suppression", &["customer_id", "address"]),
    table("reputation", &["customer_id", "day"]),
    table("message", &["message_id"]),
    table("batch", &["batch_id"]),
    table("part", &["message_id", "part_no"]),
    table("recipient", &["message_id", "address"]),
    table("body", &["message_id", "chunk_no"]),
    table("spool", &["spool_id"]),
    table("chunk", &["spool_id", "chunk_no"]),
    table("header", &["message_id"]),
    table("capture", &["customer_id", "number"]),
    table("entry", &["entry_id"]),
    table("refund", &["message_id", "address"]),
    table("gate", &["road"]),
    table("webhook", &["source", "webhook_id"]),
    table("decision", &["message_id", "number"]),
    table("idempotency_key", &["customer_id", "key"]),
    table("idempotency_recipient", &["customer_id", "key", "address"]),
    table("event", &["message_id", "part_no", "address", "kind", "told_at", "words"]),
    table("attempt", &["message_id", "part_no", "number"]),
];

/// Rows in one page.
const PAGE: u32 = 1000;
/// The same of a table whose rows hold octets of mail: up to 256 KiB each.
const HEAVY_PAGE: u32 = 32;

/// Why an installation was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Only a file moves, and only to PostgreSQL.
    #[error("an installation moves from a SQLite file to PostgreSQL, and not otherwise")]
    NotThatWay,
    /// The target is in use.
    #[error("the target has rows of its own (in {0}); an installation moves into an empty database")]
    NotEmpty(&'static str),
    /// It is there already.
    #[error("the file was moved already, to {0}")]
    Moved(String),
    /// The target holds a part of something else.
    #[error(
        "the target holds a part of another move, or the file was opened by somebody since; make the target \
         database anew (DROP DATABASE, CREATE DATABASE) and move again"
    )]
    OtherMove,
    /// Somebody would send what is moved before all of it is there.
    #[error("a server is running on the target, or was within the last minute; stop it, and move then")]
    Served,
    /// The rows do not add up.
    #[error("{} does not add up, so nothing was handed over: {}", .side, told(.findings))]
    Audit {
        /// Which database.
        side: &'static str,
        /// What was found.
        findings: Vec<Finding>,
    },
    /// A row is missing, or is there twice.
    #[error("{table} has {from} rows in the file and {to} in the target")]
    Count {
        /// The table.
        table: &'static str,
        /// Rows in the file.
        from: i64,
        /// Rows in the target.
        to: i64,
    },
    /// A database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for MoveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

fn told(findings: &[Finding]) -> String {
    let told = findings.iter().map(|Finding { table, row, problem, .. }| format!("{table} {row}: {problem}"));
    told.collect::<Vec<_>>().join("; ")
}

/// How many rows of a table were moved, in this run and before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: i64,
}

/// What holds back whoever opens one of the two databases of a move.
pub(super) async fn refuse(on: &mut On<'_>, name: &str) -> Result<(), OpenError> {
    const LOOK: &str = "
        SELECT key || ' ' || value FROM meta WHERE key IN ('moved_to', 'moving_from', 'moving_to') ORDER BY key";
    const OVER: &str = "DELETE FROM meta WHERE key = 'moving_to'";
    let unusable =
        |error: sqlx::Error| OpenError::Unusable { database: name.to_owned(), reason: error.to_string() };
    let marks: Vec<String> = query_scalar(LOOK).fetch_all(&mut *on).await.map_err(unusable)?;
    for mark in marks {
        let database = name.to_owned();
        match mark.split_once(' ') {
            Some(("moved_to", to)) => return Err(OpenError::Moved { database, to: to.to_owned() }),
            Some(("moving_from", _)) => return Err(OpenError::NotWhole { database }),
            _ => {
                query(OVER).execute(&mut *on).await.map_err(unusable)?;
            }
        }
    }
    Ok(())
}

impl Store {
    /// Opens a file, whatever its name is, to be moved. What is not ours is left as it is.
    pub async fn open_to_move(file: &Path) -> Result<Self, OpenError> {
        let database = file.display().to_string();
        let unusable = |reason: String| OpenError::Unusable { database: database.clone(), reason };
        let look = async {
            let options = SqliteConnectOptions::new().filename(file).busy_timeout(BUSY_TIMEOUT);
            let mut one = SqliteConnection::connect_with(&options).await?;
            let schema = Schema::of_sqlite(&mut one).await?;
            one.close().await?;
            Ok::<_, sqlx::Error>(schema)
        };
        if look.await.map_err(|error| unusable(error.to_string()))?.applied.is_empty() {
            return Err(unusable("it is not one of Postmeter's".to_owned()));
        }
        let opened = opening::file(file, Maker::Move).await?;
        let reserve = Reserve::of_disk(Path::new("."), 0);
        Ok(Self::over(opened, 0, reserve, Metrics::new(), CrashAt::default()))
    }

    /// Moves every row of this file to `target`, and hands over: from then on nobody can
    /// serve this file. `move_id` is new for each call; `target_name` is what people who
    /// try are told. Nobody may be serving it. Both were opened by [`super::Maker::Move`].
    pub async fn move_to(
        &self,
        target: &Self,
        move_id: &str,
        target_name: &str,
    ) -> Result<Vec<Moved>, MoveError> {
        let move_id = self.begin_move(move_id).await?;
        let mut writer = self.writer.lock().await;
        // Whoever else would write waits in vain: nothing changes until all is there.
        let mut source = writer.begin().await?;
        if mark(&mut source, "moving_to").await?.as_ref() != Some(&move_id) {
            return Err(MoveError::OtherMove);
        }
        if let Some(to) = mark(&mut source, "moved_to").await?
            && !target.has_some_of(&move_id).await?
        {
            return Err(MoveError::Moved(to));
        }
        target.welcome(&move_id, mark(&mut source, "made_by").await?).await?;
        let mut moved = Vec::new();
        for table in TABLES {
            let rows = target.take_over(table, sqlite(&mut source)?).await?;
            tracing::info!(table = table.name, rows, "moved");
            moved.push(Moved { table: table.name, rows });
        }
        target.survey().await?;
        for (side, findings) in [("the file", self.audit().await?), ("the target", target.audit().await?)] {
            if !findings.is_empty() {
                return Err(MoveError::Audit { side, findings });
            }
        }
        // In this order: if only one of them comes about, nobody can serve either, and the
        // next run does the other.
        write_mark(&mut source, "moved_to", target_name).await?;
        source.commit().await?;
        target.whole().await?;
        Ok(moved)
    }

    /// The id of the move that is under way, or of this one, which begins.
    async fn begin_move(&self, move_id: &str) -> Result<String, MoveError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        sqlite(&mut tx)?;
        if let Some(begun) = mark(&mut tx, "moving_to").await? {
            return Ok(begun);
        }
        write_mark(&mut tx, "moving_to", move_id).await?;
        tx.commit().await?;
        Ok(move_id.to_owned())
    }

    /// Whether this is the target of that move, and not whole yet.
    async fn has_some_of(&self, move_id: &str) -> Result<bool, MoveError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        Ok(mark(&mut tx, "moving_from").await?.is_some_and(|begun| begun == move_id))
    }

    /// Makes ready for rows: an empty database, or one that has some of this very move.
    async fn welcome(&self, move_id: &str, made_by: Option<String>) -> Result<(), MoveError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        postgres(&mut tx)?;
        match mark(&mut tx, "moving_from").await? {
            Some(begun) if begun == move_id => return Ok(()),
            Some(_) => return Err(MoveError::OtherMove),
            None => {}
        }
        if is_served(&mut tx).await? {
            return Err(MoveError::Served);
        }
        for table in TABLES {
            let any = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            let has_any: bool =
                sqlx::query_scalar(AssertSqlSafe(any)).fetch_one(&mut *postgres(&mut tx)?).await?;
            if has_any {
                return Err(MoveError::NotEmpty(table.name));
            }
        }
        write_mark(&mut tx, "moving_from", move_id).await?;
        if let Some(made_by) = made_by {
            write_mark(&mut tx, "made_by", &made_by).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Takes over the rows of a table that are not here yet; how many it has then.
    async fn take_over(&self, table: &Table, source: &mut SqliteConnection) -> Result<i64, MoveError> {
        let columns = columns(table, source).await?;
        let progress = format!("moved {}", table.name);
        let mut writer = self.writer.lock().await;
        loop {
            let mut tx = writer.begin().await?;
            let last: Option<String> = mark(&mut tx, &progress).await?;
            let page = page(table, &columns, last.as_deref(), source).await?;
            let Some(row) = page.last() else {
                let (from, to) =
                    (rows(table, On::Sqlite(source)).await?, rows(table, On::from(&mut tx)).await?);
                let count = MoveError::Count { table: table.name, from, to };
                return if from == to { Ok(to) } else { Err(count) };
            };
            copy(table, &columns, &page, postgres(&mut tx)?).await?;
            write_mark(&mut tx, &progress, &key_of(table, &columns, row)?).await?;
            tx.commit().await?;
        }
    }

    /// Has PostgreSQL look at what has come, so that it plans for no empty tables.
    async fn survey(&self) -> Result<(), StoreError> {
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        if let Session::Postgres(remote) = &mut *tx {
            let survey = AssertSqlSafe(format!("ANALYZE {}", names.join(", ")));
            sqlx::query(survey).execute(remote.connection()).await?;
        }
        Ok(tx.commit().await?)
    }

    /// From now on it can be served.
    async fn whole(&self) -> Result<(), StoreError> {
        const WHOLE: &str = "DELETE FROM meta WHERE key = 'moving_from' OR key LIKE 'moved %'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(WHOLE).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

async fn mark(tx: &mut Session<'_>, key: &str) -> Result<Option<String>, sqlx::Error> {
    query_scalar("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(tx).await
}

async fn is_served(tx: &mut Session<'_>) -> Result<bool, sqlx::Error> {
    const LOOK: &str = "
        SELECT EXISTS (SELECT 1 FROM node
                       WHERE seen_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) - 60000)";
    query_scalar(LOOK).fetch_one(tx).await
}

async fn write_mark(tx: &mut Session<'_>, key: &str, value: &str) -> Result<(), sqlx::Error> {
    const WRITE: &str = "
        INSERT INTO meta (key, value) VALUES ($1, $2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    query(WRITE).bind(key).bind(value).execute(tx).await.map(drop)
}

fn sqlite<'t>(tx: &'t mut Tx<'_>) -> Result<&'t mut SqliteConnection, MoveError> {
    match &mut **tx {
        Session::Sqlite(tx) => Ok(tx),
        Session::Postgres(_) => Err(MoveError::NotThatWay),
    }
}

fn postgres<'t>(tx: &'t mut Tx<'_>) -> Result<&'t mut PgConnection, MoveError> {
    match &mut **tx {
        Session::Postgres(remote) => Ok(remote.connection()),
        Session::Sqlite(_) => Err(MoveError::NotThatWay),
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Text,
    Octets,
}

struct Column {
    name: String,
    kind: Kind,
}

async fn columns(table: &Table, source: &mut SqliteConnection) -> Result<Vec<Column>, MoveError> {
    const COLUMNS: &str = "SELECT name, type FROM pragma_table_info($1) ORDER BY cid";
    let columns: Vec<(String, String)> =
        sqlx::query_as(COLUMNS).bind(table.name).fetch_all(&mut *source).await?;
    let column = |(name, kind): (String, String)| {
        let kind = match kind.as_str() {
            "INTEGER" => Kind::Whole,
            "TEXT" => Kind::Text,
            "BLOB" => Kind::Octets,
            other => return Err(StoreError::Corrupt(format!("{name} is a {other}"))),
        };
        Ok(Column { name, kind })
    };
    Ok(columns.into_iter().map(column).collect::<Result<_, _>>()?)
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

async fn rows(table: &Table, on: On<'_>) -> Result<i64, MoveError> {
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {}", table.name));
    Ok(match on {
        On::Sqlite(one) => sqlx::query_scalar(count).fetch_one(one).await?,
        On::Postgres(one, _) => sqlx::query_scalar(count).fetch_one(one).await?,
        On::SqlitePool(_) | On::PostgresPool(_) => return Err(MoveError::NotThatWay),
    })
}

/// The rows behind that key, or the first ones.
async fn page(
    table: &Table,
    columns: &[Column],
    last: Option<&str>,
    source: &mut SqliteConnection,
) -> Result<Vec<SqliteRow>, MoveError> {
    let (names, name, key) = (names(columns), table.name, table.key.join(", "));
    let limit = if columns.iter().any(|column| column.kind == Kind::Octets) { HEAVY_PAGE } else { PAGE };
    let Some(last) = last else {
        let text = format!("SELECT {names} FROM {name} ORDER BY {key} LIMIT {limit}");
        return Ok(sqlx::query(AssertSqlSafe(text)).fetch_all(source).await?);
    };
    let last: Vec<serde_json::Value> = stored(serde_json::from_str(last))?;
    let marks = vec!["?"; table.key.len()].join(", ");
    let text = format!("SELECT {names} FROM {name} WHERE ({key}) > ({marks}) ORDER BY {key} LIMIT {limit}");
    let mut query: Query<'_, Sqlite, SqliteArguments> = sqlx::query(AssertSqlSafe(text));
    for value in last {
        query = match value {
            serde_json::Value::String(text) => query.bind(text),
            other => query.bind(other.as_i64()),
        };
    }
    Ok(query.fetch_all(source).await?)
}

/// The key of a row, as JSON.
fn key_of(table: &Table, columns: &[Column], row: &SqliteRow) -> Result<String, MoveError> {
    let value = |name: &&str| {
        let is_whole = columns.iter().any(|column| column.name == **name && column.kind == Kind::Whole);
        Ok(match is_whole {
            true => serde_json::Value::from(row.try_get::<i64, _>(*name)?),
            false => serde_json::Value::from(row.try_get::<String, _>(*name)?),
        })
    };
    let key: Vec<_> = table.key.iter().map(value).collect::<Result<_, sqlx::Error>>()?;
    Ok(json(&key)?)
}

/// Writes rows by COPY, in its text format.
async fn copy(
    table: &Table,
    columns: &[Column],
    rows: &[SqliteRow],
    target: &mut PgConnection,
) -> Result<(), MoveError> {
    let mut lines = String::new();
    for row in rows {
        for (place, column) in columns.iter().enumerate() {
            lines.push_str(if place == 0 { "" } else { "\t" });
            let name = column.name.as_str();
            match column.kind {
                Kind::Whole => whole(&mut lines, row.try_get(name)?),
                Kind::Text => text(&mut lines, row.try_get(name)?),
                Kind::Octets => octets(&mut lines, row.try_get(name)?),
            }
        }
        lines.push('\n');
    }
    let mut copy =
        target.copy_in_raw(&format!("COPY {} ({}) FROM STDIN", table.name, names(columns))).await?;
    copy.send(lines.into_bytes()).await?;
    let taken = copy.finish().await?;
    Ok(changed(table.name, taken, rows.len())?)
}

const NULL: &str = "\\N";

fn whole(line: &mut String, value: Option<i64>) {
    match value {
        // Writing to a String cannot fail.
        Some(value) => drop(write!(line, "{value}")),
        None => line.push_str(NULL),
    }
}

fn text(line: &mut String, value: Option<&str>) {
    let Some(value) = value else { return line.push_str(NULL) };
    for character in value.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\0' => line.push(UNKNOWN),
            other => line.push(other),
        }
    }
}

fn octets(line: &mut String, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            line.push_str("\\\\x");
            line.push_str(&hex(value));
        }
        None => line.push_str(NULL),
    }
}
