//! One statement, two databases: what runs it on whichever is there.
//!
//! Statements are written once, in words that both know: parameters are `$N`, whole
//! numbers come out of JSON through `CAST (… AS BIGINT)`, lists are
//! `SELECT atom FROM json_each($N)`. Where the two really differ, a statement is an
//! [`Sql`] with a text for each. What is read is an `i64`, text, octets, or a
//! boolean expression; [`Whole`] is a number that is never negative. What PostgreSQL makes of lists
//! does not depend on what it knows of the tables ([`listed`]).
//!
//! PostgreSQL is asked over a network, where an answer may never come: each journey ends
//! at the limit of its transaction ([`Remote`]), or of its own, as if the connection were lost.

use std::borrow::Cow;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgPool, PgRow, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Arguments, AssertSqlSafe, Decode, FromRow, PgConnection, Postgres, Sqlite, SqliteConnection};
use sqlx::{Transaction, Type};
use tokio::time::{Instant, timeout_at};

/// How long a statement of no transaction may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// How long a snapshot may take: an audit reads all there is.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(3600);

/// What stands for a NUL, which is no character of PostgreSQL's text: one of them would
/// undo whatever is written beside it. Our own words have none, but a Subject may.
pub(super) const UNKNOWN: char = '\u{fffd}';

/// A row that either database can give.
pub(super) trait Record:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}
impl<T> Record for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// What statements of a transaction run in.
#[derive(Debug)]
pub(super) enum Session<'c> {
    Sqlite(Transaction<'c, Sqlite>),
    Postgres(Remote<'c>),
}

/// A transaction of PostgreSQL, and when whoever waits for it gives up. What was not
/// answered by then is known to nobody: its connection is not used again.
#[derive(Debug)]
pub(super) struct Remote<'c> {
    through: Through<'c>,
    until: Instant,
}

/// What a transaction of PostgreSQL runs on.
#[derive(Debug)]
enum Through<'c> {
    /// A connection that its owner has begun it on, and ends it on if it is dropped.
    Kept(&'c mut PgConnection),
    /// A connection that goes back to its pool.
    Pooled(Transaction<'c, Postgres>),
}

impl<'c> Remote<'c> {
    /// A transaction that was begun on a connection. Its owner rolls it back if this is dropped.
    pub(super) const fn kept(connection: &'c mut PgConnection, until: Instant) -> Self {
        Self { through: Through::Kept(connection), until }
    }

    pub(super) const fn pooled(tx: Transaction<'c, Postgres>, until: Instant) -> Self {
        Self { through: Through::Pooled(tx), until }
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match &mut self.through {
            Through::Kept(connection) => connection,
            Through::Pooled(tx) => tx,
        }
    }

    async fn commit(self) -> Result<(), sqlx::Error> {
        match self.through {
            Through::Kept(connection) => {
                in_time(self.until, sqlx::raw_sql("COMMIT").execute(connection)).await.map(drop)
            }
            Through::Pooled(tx) => in_time(self.until, tx.commit()).await,
        }
    }
}

/// What is answered until then.
pub(super) async fn in_time<T>(
    until: Instant,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the database does not answer");
    timeout_at(until, answer).await.map_err(|_| sqlx::Error::Io(late()))?
}

impl Session<'_> {
    /// From here on statements of this transaction may read whole tables, and join them.
    pub(super) async fn whole_tables(&mut self) -> Result<(), sqlx::Error> {
        const WHOLE: &str = "
            SET LOCAL enable_seqscan = on;
            SET LOCAL enable_bitmapscan = on;
            SET LOCAL enable_hashjoin = on;
            SET LOCAL enable_mergejoin = on";
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => query(WHOLE).execute(self).await.map(drop),
        }
    }
}

/// A transaction; rolled back when it is dropped.
#[derive(Debug)]
pub(super) struct Tx<'c>(pub(super) Session<'c>);

impl<'c> Deref for Tx<'c> {
    type Target = Session<'c>;
    fn deref(&self) -> &Session<'c> {
        &self.0
    }
}

impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Tx<'_> {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Session::Sqlite(tx) => tx.commit().await,
            Session::Postgres(remote) => remote.commit().await,
        }
    }
}

/// Connections that only read.
#[derive(Debug, Clone)]
pub(super) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Readers {
    /// A snapshot: all that is read in it is of one moment.
    pub(super) async fn begin(&self) -> Result<Tx<'static>, sqlx::Error> {
        Ok(Tx(match self {
            Self::Sqlite(pool) => Session::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => {
                let begun = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
                let tx = in_time(Instant::now() + STATEMENT_LIMIT, begun).await?;
                Session::Postgres(Remote::pooled(tx, Instant::now() + SNAPSHOT_LIMIT))
            }
        }))
    }
}

/// Where one statement runs.
pub(super) enum On<'e> {
    Sqlite(&'e mut SqliteConnection),
    Postgres(&'e mut PgConnection, Instant),
    SqlitePool(&'e SqlitePool),
    PostgresPool(&'e PgPool),
}

impl<'e> From<&'e mut Session<'_>> for On<'e> {
    fn from(session: &'e mut Session<'_>) -> Self {
        match session {
            Session::Sqlite(tx) => Self::Sqlite(tx),
            Session::Postgres(remote) => {
                let until = remote.until;
                Self::Postgres(remote.connection(), until)
            }
        }
    }
}

impl<'e> From<&'e mut Tx<'_>> for On<'e> {
    fn from(tx: &'e mut Tx<'_>) -> Self {
        Self::from(&mut tx.0)
    }
}

impl<'e> From<&'e mut On<'_>> for On<'e> {
    fn from(on: &'e mut On<'_>) -> Self {
        match on {
            On::Sqlite(one) => Self::Sqlite(one),
            On::Postgres(one, until) => Self::Postgres(one, *until),
            On::SqlitePool(pool) => Self::SqlitePool(pool),
            On::PostgresPool(pool) => Self::PostgresPool(pool),
        }
    }
}

impl<'e> From<&'e Readers> for On<'e> {
    fn from(readers: &'e Readers) -> Self {
        match readers {
            Readers::Sqlite(pool) => Self::SqlitePool(pool),
            Readers::Postgres(pool) => Self::PostgresPool(pool),
        }
    }
}

/// A statement's text for each database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl Sql {
    /// One text for both.
    pub(super) const fn same(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self::same(text)
    }
}

/// A parameter.
#[derive(Debug)]
pub(super) enum Arg<'q> {
    Whole(Option<i64>),
    Text(Option<Cow<'q, str>>),
    Octets(Cow<'q, [u8]>),
}

macro_rules! args {
    ($($from:ty => |$value:ident| $arg:expr;)*) => {$(
        impl<'q> From<$from> for Arg<'q> {
            fn from($value: $from) -> Self { $arg }
        }
    )*};
}

args! {
    i64 => |value| Self::Whole(Some(value));
    u32 => |value| Self::Whole(Some(i64::from(value)));
    Option<i64> => |value| Self::Whole(value);
    &'q str => |value| Self::Text(Some(text(Cow::Borrowed(value))));
    &'q String => |value| Self::Text(Some(text(Cow::Borrowed(value))));
    String => |value| Self::Text(Some(text(Cow::Owned(value))));
    Option<&'q str> => |value| Self::Text(value.map(Cow::Borrowed).map(text));
    Option<String> => |value| Self::Text(value.map(Cow::Owned).map(text));
    &'q Option<String> => |value| Self::Text(value.as_deref().map(Cow::Borrowed).map(text));
    Vec<u8> => |value| Self::Octets(Cow::Owned(value));
    &'q [u8] => |value| Self::Octets(Cow::Borrowed(value));
}

fn text(value: Cow<'_, str>) -> Cow<'_, str> {
    if value.contains('\0') { Cow::Owned(value.replace('\0', &UNKNOWN.to_string())) } else { value }
}

/// A statement that returns nothing.
pub(super) struct Query<'q> {
    sql: Sql,
    args: Vec<Arg<'q>>,
}

/// A statement that returns rows.
pub(super) struct QueryAs<'q, T> {
    query: Query<'q>,
    row: std::marker::PhantomData<fn() -> T>,
}

/// A statement that returns one column.
pub(super) struct QueryScalar<'q, T>(QueryAs<'q, (T,)>)
where
    (T,): Record;

pub(super) fn query<'q>(sql: impl Into<Sql>) -> Query<'q> {
    Query { sql: sql.into(), args: Vec::new() }
}

pub(super) fn query_as<'q, T: Record>(sql: impl Into<Sql>) -> QueryAs<'q, T> {
    QueryAs { query: query(sql), row: std::marker::PhantomData }
}

pub(super) fn query_scalar<'q, T>(sql: impl Into<Sql>) -> QueryScalar<'q, T>
where
    (T,): Record,
{
    QueryScalar(query_as(sql))
}

/// How many rows were changed.
pub(super) struct Done(u64);

impl Done {
    pub(super) const fn rows_affected(&self) -> u64 {
        self.0
    }
}

impl<'q> Query<'q> {
    pub(super) fn bind(mut self, value: impl Into<Arg<'q>>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Runs it. Several statements in one text are one journey to SQLite, and one after
    /// the other to PostgreSQL; what they changed is counted together.
    pub(super) async fn execute<'e>(self, on: impl Into<On<'e>>) -> Result<Done, sqlx::Error> {
        let Self { sql, args } = self;
        Ok(Done(match on.into() {
            On::Sqlite(one) => {
                sqlx::query_with(sql.sqlite, sqlite(args)?).execute(one).await?.rows_affected()
            }
            On::SqlitePool(pool) => {
                sqlx::query_with(sql.sqlite, sqlite(args)?).execute(pool).await?.rows_affected()
            }
            On::Postgres(one, until) => in_time(until, run(one, sql.postgres, &args)).await?,
            On::PostgresPool(pool) => {
                let mut one = pool.acquire().await?;
                in_time(Instant::now() + STATEMENT_LIMIT, run(&mut one, sql.postgres, &args)).await?
            }
        }))
    }
}

macro_rules! fetch {
    ($name:ident -> $rows:ty) => {
        pub(super) async fn $name<'e>(self, on: impl Into<On<'e>>) -> Result<$rows, sqlx::Error> {
            let Query { sql, args } = self.query;
            match on.into() {
                On::Sqlite(one) => sqlx::query_as_with(sql.sqlite, sqlite(args)?).$name(one).await,
                On::SqlitePool(pool) => sqlx::query_as_with(sql.sqlite, sqlite(args)?).$name(pool).await,
                On::Postgres(one, until) => {
                    let (text, args) = (AssertSqlSafe(listed(sql.postgres)), postgres(args.iter())?);
                    in_time(until, sqlx::query_as_with(text, args).$name(one)).await
                }
                On::PostgresPool(pool) => {
                    let (text, args) = (AssertSqlSafe(listed(sql.postgres)), postgres(args.iter())?);
                    let until = Instant::now() + STATEMENT_LIMIT;
                    in_time(until, sqlx::query_as_with(text, args).$name(pool)).await
                }
            }
        }
    };
}

impl<'q, T: Record> QueryAs<'q, T> {
    pub(super) fn bind(mut self, value: impl Into<Arg<'q>>) -> Self {
        self.query = self.query.bind(value);
        self
    }

    fetch!(fetch_all -> Vec<T>);
    fetch!(fetch_optional -> Option<T>);
    fetch!(fetch_one -> T);
}

impl<'q, T> QueryScalar<'q, T>
where
    (T,): Record,
{
    pub(super) fn bind(self, value: impl Into<Arg<'q>>) -> Self {
        Self(self.0.bind(value))
    }

    pub(super) async fn fetch_all<'e>(self, on: impl Into<On<'e>>) -> Result<Vec<T>, sqlx::Error> {
        Ok(self.0.fetch_all(on).await?.into_iter().map(|(only,)| only).collect())
    }

    pub(super) async fn fetch_optional<'e>(self, on: impl Into<On<'e>>) -> Result<Option<T>, sqlx::Error> {
        Ok(self.0.fetch_optional(on).await?.map(|(only,)| only))
    }

    pub(super) async fn fetch_one<'e>(self, on: impl Into<On<'e>>) -> Result<T, sqlx::Error> {
        Ok(self.0.fetch_one(on).await?.0)
    }
}

fn sqlite(args: Vec<Arg<'_>>) -> Result<SqliteArguments, sqlx::Error> {
    let mut bound = SqliteArguments::default();
    for arg in args {
        let added = match arg {
            Arg::Whole(value) => bound.add(value),
            Arg::Text(value) => bound.add(value.map(Cow::into_owned)),
            Arg::Octets(value) => bound.add(value.into_owned()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

fn postgres<'a>(args: impl Iterator<Item = &'a Arg<'a>>) -> Result<PgArguments, sqlx::Error> {
    let mut bound = PgArguments::default();
    for arg in args {
        let added = match arg {
            Arg::Whole(value) => bound.add(*value),
            Arg::Text(value) => bound.add(value.as_deref()),
            Arg::Octets(value) => bound.add(value.as_ref()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

/// Runs the statements of a text one after the other; how many rows they changed together.
async fn run(one: &mut PgConnection, text: &str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error> {
    let text = listed(text);
    if !text.contains(';') {
        let args = postgres(args.iter())?;
        return Ok(sqlx::query_with(AssertSqlSafe(text), args).execute(one).await?.rows_affected());
    }
    let mut changed = 0;
    for (text, used) in pieces(&text) {
        let args = postgres(used.iter().filter_map(|number| args.get(number - 1)))?;
        changed += sqlx::query_with(AssertSqlSafe(text), args).execute(&mut *one).await?.rows_affected();
    }
    Ok(changed)
}

/// A text as PostgreSQL gets it. Of `x IN (SELECT atom …)` it would make a join, and where nobody has
/// gathered statistics yet, as after a restore, go through all of an index for a few rows; of `x = ANY
/// (ARRAY(SELECT atom …))` it looks up each.
pub(super) fn listed(text: &str) -> String {
    const LIST: &str = " IN (SELECT atom FROM json_each(";
    let mut parts = text.split(LIST);
    let mut listed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("))") {
            Some((list, rest)) if !listed.ends_with(" NOT") => {
                listed.push_str(" = ANY (ARRAY(SELECT atom FROM json_each(");
                listed.push_str(list);
                listed.push_str(")))");
                listed.push_str(rest);
            }
            _ => {
                listed.push_str(LIST);
                listed.push_str(part);
            }
        }
    }
    listed
}

/// The statements of a text, each with its parameters numbered from 1, and which of the
/// text's parameters those are. No statement of ours has a `;` or a `$` in its words.
fn pieces(text: &str) -> impl Iterator<Item = (String, Vec<usize>)> {
    text.split(';').map(|piece| {
        let (mut renumbered, mut used): (String, Vec<usize>) = Default::default();
        let mut parts = piece.split('$');
        renumbered.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let (number, rest) = part.split_at(digits);
            let number = number.parse().unwrap_or(0);
            let at = used.iter().position(|known| *known == number).unwrap_or_else(|| {
                used.push(number);
                used.len() - 1
            });
            renumbered.push_str(&format!("${}{rest}", at + 1));
        }
        (renumbered, used)
    })
}

/// A whole number that is never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whole(pub(super) u32);

impl Type<Sqlite> for Whole {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(other: &SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(other)
    }
}

impl Type<Postgres> for Whole {
    fn type_info() -> PgTypeInfo {
        <i64 as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Sqlite> for Whole {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(u32::try_from(<i64 as Decode<Sqlite>>::decode(value)?)?))
    }
}

impl<'r> Decode<'r, Postgres> for Whole {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(u32::try_from(<i64 as Decode<Postgres>>::decode(value)?)?))
    }
}
