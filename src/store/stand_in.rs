//! The database of tests: a file in their directory, or, with
//! `POSTMETER_TEST_DATABASE=postgres`, a database for the directory in a cluster that all
//! tests of this process share. Its tables are made once, and copied.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};

use super::opening::POSTGRES_MIGRATOR;
use postgres::Cluster;

#[path = "../../tests/integration/harness/postgres.rs"]
#[allow(dead_code, reason = "some of it is for the integration tests alone")]
pub(super) mod postgres;

/// A database that is up to date, empty, and nobody's.
const TEMPLATE: &str = "template_of_tests";

/// The cluster, and which databases it has.
static CLUSTER: LazyLock<Option<(Cluster, Mutex<BTreeSet<String>>)>> = LazyLock::new(|| {
    let asked = std::env::var("POSTMETER_TEST_DATABASE").ok()?;
    assert_eq!(asked, "postgres", "POSTMETER_TEST_DATABASE");
    let cluster = Cluster::start().expect("this machine has no PostgreSQL");
    cluster.create(TEMPLATE);
    let url = url(&cluster, TEMPLATE);
    // On a thread of its own, since whoever asks first is in a runtime already.
    let migrated = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut one = PgConnection::connect(url.expose_secret()).await.unwrap();
            POSTGRES_MIGRATOR.run(&mut one).await.unwrap();
            // Who is still there has nobody copy it.
            one.close().await.unwrap();
        });
    });
    migrated.join().unwrap();
    Some((cluster, Mutex::default()))
});

/// Whether tests run on PostgreSQL.
pub(crate) fn is_postgres() -> bool {
    CLUSTER.is_some()
}

/// Where the database of that directory is; it is made when it is first asked for. `None`:
/// tests run on SQLite.
pub(crate) fn url_of(directory: &Path) -> Option<SecretString> {
    let (cluster, databases) = CLUSTER.as_ref()?;
    let name = name_of(directory);
    if databases.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        make_copy(cluster, TEMPLATE, &name);
    }
    Some(url(cluster, &name))
}

/// Makes the database of a directory as a copy of that of another; whoever has that one open
/// is sent away. On SQLite nothing is done: there a directory is copied by its files.
pub(crate) fn copy(from: &Path, to: &Path) {
    let Some((cluster, databases)) = CLUSTER.as_ref() else { return };
    let name = name_of(to);
    databases.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
    send_away(cluster, &name_of(from));
    make_copy(cluster, &name_of(from), &name);
}

/// How often the server had to end one of two transactions on the database of a directory,
/// since each waited for the other. Whoever has it open is sent away: they tell when they go.
pub(crate) fn deadlocks(directory: &Path) -> u32 {
    let Some((cluster, _)) = CLUSTER.as_ref() else { return 0 };
    let name = name_of(directory);
    send_away(cluster, &name);
    let read = format!("SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'");
    cluster.read("postgres", &read).concat().parse().unwrap()
}

/// Drops the database of a directory, if it has one.
pub(crate) fn forget(directory: &Path) {
    let Some((cluster, databases)) = CLUSTER.as_ref() else { return };
    let name = name_of(directory);
    if databases.lock().unwrap_or_else(PoisonError::into_inner).remove(&name) {
        // Who still has connections there waits for nothing any more.
        cluster.read("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}

fn make_copy(cluster: &Cluster, from: &str, to: &str) {
    cluster.read("postgres", &format!("CREATE DATABASE {to} TEMPLATE {from}"));
}

/// Ends all connections to a database, and waits until they have gone.
fn send_away(cluster: &Cluster, name: &str) {
    let away = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = ";
    cluster.read("postgres", &format!("{away} '{name}'"));
}

fn url(cluster: &Cluster, name: &str) -> SecretString {
    SecretString::from(format!("postgres://postmeter@localhost/{name}?host={}", cluster.home.display()))
}

fn name_of(directory: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    format!("test_{:x}", hasher.finish())
}
