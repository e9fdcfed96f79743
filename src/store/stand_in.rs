//! The database of tests: a file in their directory, or, with
//! `POSTMETER_TEST_DATABASE=postgres`, a database for the directory in a cluster that all
//! tests of this process share.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use secrecy::SecretString;

use postgres::Cluster;

#[path = "../../tests/integration/harness/postgres.rs"]
pub(super) mod postgres;

/// The cluster, and which databases it has.
static CLUSTER: LazyLock<Option<(Cluster, Mutex<BTreeSet<String>>)>> = LazyLock::new(|| {
    let asked = std::env::var("POSTMETER_TEST_DATABASE").ok()?;
    assert_eq!(asked, "postgres", "POSTMETER_TEST_DATABASE");
    Some((Cluster::start().expect("this machine has no PostgreSQL"), Mutex::default()))
});

/// Where the database of that directory is; it is made when it is first asked for. `None`:
/// tests run on SQLite.
pub(crate) fn url_of(directory: &Path) -> Option<SecretString> {
    let (cluster, databases) = CLUSTER.as_ref()?;
    let name = name_of(directory);
    if databases.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        cluster.create(&name);
    }
    Some(SecretString::from(format!("postgres://postmeter@localhost/{name}?host={}", cluster.home.display())))
}

/// Whether tests run on PostgreSQL.
pub(super) fn is_postgres() -> bool {
    CLUSTER.is_some()
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

fn name_of(directory: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    format!("test_{:x}", hasher.finish())
}
