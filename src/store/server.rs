//! What a PostgreSQL server says of itself, and whether mail may be acknowledged on it.

use jiff::Timestamp;
use sqlx::{Connection, PgConnection};

use super::hosts::{Hosts, Primary};
use super::inspect::{self, Found};
use super::lane::Patience;
use super::level::Schema;
use super::opening::{POSTGRES_MIGRATOR, tuned};
use super::{Maker, OpenError, timestamp};

/// The oldest that knows all that our statements say; `server_version_num`.
const OLDEST: i32 = 140_000;
/// With this variable a debug build serves on a cluster of tests, which does not wait for its disk.
const TESTS: &str = "POSTMETER_TEST_DATABASE";

/// A server, as one connection saw it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Server {
    version_num: i32,
    /// Its version in its own words.
    pub version: String,
    encoding: String,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standby_names: String,
    lock_timeout: String,
    /// Whether it is neither recovering nor read-only.
    pub(super) takes_writes: bool,
    /// Whether the way there was under TLS.
    pub is_tls: bool,
    /// Milliseconds of its clock.
    now: i64,
}

/// A server and the database on it.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its hosts and its name, without user and password.
    pub database: String,
    /// The server.
    pub server: Server,
    /// Whether it has our tables.
    pub found: Found,
}

impl Server {
    pub(super) async fn look(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        const LOOK: &str = "
            SELECT current_setting('server_version_num')::int AS version_num,
                   current_setting('server_version') AS version,
                   current_setting('server_encoding') AS encoding,
                   current_setting('fsync') AS fsync,
                   current_setting('full_page_writes') AS full_page_writes,
                   current_setting('synchronous_commit') AS synchronous_commit,
                   current_setting('synchronous_standby_names') AS synchronous_standby_names,
                   current_setting('lock_timeout') AS lock_timeout,
                   NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS takes_writes,
                   EXISTS (SELECT 1 FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl) AS is_tls,
                   CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now";
        sqlx::query_as(LOOK).fetch_one(connection).await
    }

    /// Its clock, when it was asked.
    pub fn now(&self) -> Option<Timestamp> {
        timestamp(self.now).ok()
    }

    /// Why `serve` does not run on it, one line each.
    pub fn refusals(&self) -> Vec<String> {
        if is_of_tests() { Vec::new() } else { self.faults() }
    }

    fn faults(&self) -> Vec<String> {
        let Self { version, encoding, synchronous_commit, synchronous_standby_names, .. } = self;
        let mut refusals = Vec::new();
        if self.version_num < OLDEST {
            refusals.push(format!("it is PostgreSQL {version}, and 14 is the oldest that will do"));
        }
        if encoding != "UTF8" {
            refusals.push(format!("its encoding is {encoding}; make a database with ENCODING 'UTF8'"));
        }
        for (name, value) in [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)] {
            if value != "on" {
                refusals.push(format!("{name} is {value}: after a crash acknowledged mail would be lost"));
            }
        }
        let waits_for_none = synchronous_commit == "off"
            || (synchronous_commit == "local" && !synchronous_standby_names.is_empty());
        if waits_for_none {
            refusals.push(format!(
                "synchronous_commit is {synchronous_commit}: mail would be acknowledged before it is safe; set it \
                 to on, at least for this role (ALTER ROLE … SET synchronous_commit = on)"
            ));
        }
        if self.lock_timeout == "0" {
            refusals.push(
                "settings of our sessions do not arrive: a pooler such as pgbouncer stands in between; connect \
                 to PostgreSQL itself (or by haproxy in TCP mode)"
                    .to_owned(),
            );
        }
        refusals
    }
}

/// What a server must be that is connected to, at the start and ever after: the one that
/// takes over from another may be set up worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demands {
    /// Commands take whichever takes writes.
    Writes,
    /// Mail may be acknowledged on it, too.
    Safety,
}

impl Demands {
    pub(super) fn of(maker: Maker) -> Self {
        if maker == Maker::Serve && !is_of_tests() { Self::Safety } else { Self::Writes }
    }

    /// Why a server that takes writes does not do; `None`: it does.
    pub(super) fn refusal(self, server: &Server) -> Option<String> {
        let faults = if self == Self::Safety { server.faults() } else { Vec::new() };
        (!faults.is_empty()).then(|| faults.join("; "))
    }
}

fn is_of_tests() -> bool {
    cfg!(debug_assertions) && std::env::var_os(TESTS).is_some()
}

/// Looks at the database at a `database_url` and leaves it as it is; the same questions as
/// of [`inspect::inspect`].
pub async fn inspect(url: &str) -> Result<Inspected, OpenError> {
    let (database, server, seen) = look(url).await?;
    let found = match seen {
        Some((schema, made_by)) => inspect::judged(&POSTGRES_MIGRATOR, &database, &schema, made_by)?,
        None => Found::Nothing,
    };
    Ok(Inspected { database, server, found })
}

/// Whether the database there has tables of ours, whoever made them.
pub async fn is_there(url: &str) -> Result<bool, OpenError> {
    Ok(look(url).await?.2.is_some())
}

/// How far the schema is, and who made the database.
type Seen = (Schema, Option<String>);

async fn look(url: &str) -> Result<(String, Server, Option<Seen>), OpenError> {
    let hosts = Hosts::parse(url)?;
    let database = hosts.to_string();
    let look = async {
        let hosts = hosts.tuned(|options| tuned(options, Patience::default()));
        let Primary { mut connection, server, .. } = hosts.connect().await?;
        let seen = tables(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>((server, seen))
    };
    match look.await {
        Ok((server, seen)) => Ok((database, server, seen)),
        Err(error) => Err(OpenError::Unreachable { database, reason: error.to_string() }),
    }
}

/// What it says of its schema and who made it; `None`: it has no tables of ours, and they
/// could be made.
async fn tables(connection: &mut PgConnection) -> Result<Option<Seen>, sqlx::Error> {
    const HAS_ANY: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    const MAY_MAKE: &str =
        "SELECT coalesce(has_schema_privilege(CAST(current_schema() AS TEXT), 'CREATE'), false)";
    const MADE_BY: &str = "SELECT value FROM meta WHERE key = 'made_by'";
    if !sqlx::query_scalar(HAS_ANY).fetch_one(&mut *connection).await? {
        let may_make: bool = sqlx::query_scalar(MAY_MAKE).fetch_one(connection).await?;
        let reason = "our role may not make tables in it (GRANT CREATE ON SCHEMA public TO …, or make it the \
                      database's owner)";
        return if may_make { Ok(None) } else { Err(sqlx::Error::Configuration(reason.into())) };
    }
    let schema = Schema::of_postgres(connection).await?;
    let made_by = match schema.applied.is_empty() {
        true => None,
        false => sqlx::query_scalar(MADE_BY).fetch_optional(connection).await?,
    };
    Ok(Some((schema, made_by)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_server_that_may_forget_what_it_acknowledged_is_refused() {
        let good = Server {
            version_num: 150_018,
            version: "15.18".to_owned(),
            encoding: "UTF8".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            synchronous_standby_names: String::new(),
            lock_timeout: "5s".to_owned(),
            takes_writes: true,
            is_tls: false,
            now: 0,
        };
        assert_eq!(good.faults(), [""; 0]);
        let local = Server { synchronous_commit: "local".to_owned(), ..good.clone() };
        assert_eq!(local.faults(), [""; 0]);
        let unsafe_one = Server { fsync: "off".to_owned(), ..good.clone() };
        assert!(Demands::Safety.refusal(&unsafe_one).is_some_and(|why| why.contains("fsync is off")));
        assert_eq!(Demands::Safety.refusal(&good), None);
        assert_eq!(Demands::Writes.refusal(&unsafe_one), None);
        let table = [
            (Server { version_num: 130_000, ..good.clone() }, "14 is the oldest"),
            (Server { encoding: "SQL_ASCII".to_owned(), ..good.clone() }, "encoding is SQL_ASCII"),
            (Server { fsync: "off".to_owned(), ..good.clone() }, "fsync is off"),
            (Server { full_page_writes: "off".to_owned(), ..good.clone() }, "full_page_writes is off"),
            (Server { synchronous_commit: "off".to_owned(), ..good.clone() }, "synchronous_commit is off"),
            (Server { synchronous_standby_names: "b".to_owned(), ..local }, "synchronous_commit is local"),
            (Server { lock_timeout: "0".to_owned(), ..good }, "a pooler"),
        ];
        for (server, want) in table {
            let faults = server.faults();
            assert!(faults.len() == 1 && faults[0].contains(want), "{want}: {faults:?}");
        }
    }
}
