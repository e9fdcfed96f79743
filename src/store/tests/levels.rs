//! Programs of two neighbouring versions on one database: each works on what the other made of
//! it, and nobody stands still while it is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use secrecy::ExposeSecret;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};

use super::*;
use crate::store::audit::Finding;
use crate::store::entry::Settled;
use crate::store::inspect::Found;
use crate::store::level::{raise_postgres, raise_sqlite};
use crate::store::moving::TABLES;
use crate::store::opening::{MIGRATOR, POSTGRES_MIGRATOR};
use crate::store::stand_in::is_postgres;

mod rules;

/// Tables that do not move.
const OTHERS: [&str; 4] = ["meta", "node", "duty", "bucket"];
/// What takes the newest migration back, in both databases. Whoever adds a migration writes it
/// down here: the program before it did not have what is gone then.
const UNDO: (i64, &str) = (
    31,
    "DROP TABLE session; DROP TABLE sign_in_link; DROP TABLE alert; DROP TABLE told;
     ALTER TABLE checkout DROP COLUMN browser_hash; ALTER TABLE checkout DROP COLUMN product_id;
     ALTER TABLE checkout DROP COLUMN asked_at",
);
/// The tables that it makes.
const MADE: [&str; 4] = ["session", "sign_in_link", "alert", "told"];
/// When everything of these tests is old.
const OLD: i64 = 1_000_000;

/// The migrations of the database of these tests.
fn ours() -> &'static Migrator {
    if is_postgres() { &POSTGRES_MIGRATOR } else { &MIGRATOR }
}

/// The migrations of a later version.
fn with(more: &[(i64, &str)]) -> Migrator {
    let later = |(version, text): &(i64, &str)| {
        let sql = AssertSqlSafe((*text).to_owned()).into_sql_str();
        let is_alone = text.starts_with("CREATE INDEX CONCURRENTLY");
        Migration::new(*version, "from the future".into(), MigrationType::Simple, sql, is_alone)
    };
    Migrator::with_migrations(ours().iter().cloned().chain(more.iter().map(later)).collect())
}

/// All that a migration may do to those that are at work: to every table.
fn expansion() -> String {
    let whole = if is_postgres() { "BIGINT" } else { "INTEGER" };
    let tables = TABLES.iter().map(|table| table.name).chain(OTHERS);
    let columns = tables.map(|table| {
        format!(
            "ALTER TABLE {table} ADD COLUMN later TEXT;
             ALTER TABLE {table} ADD COLUMN later_number {whole} NOT NULL DEFAULT 7;"
        )
    });
    columns.collect::<String>()
        + "CREATE TABLE later (message_id TEXT NOT NULL PRIMARY KEY, number BIGINT);
           CREATE INDEX later_number ON part (later_number);"
}

/// What another program does to the schema of that directory's database.
async fn raised(directory: &Path, migrator: &Migrator) -> Result<Found, OpenError> {
    match settings(directory, Maker::Serve).database_url {
        Some(url) => {
            let one = PgConnection::connect(url.expose_secret()).await.unwrap();
            raise_postgres(migrator, one, "there").await
        }
        None => raise_sqlite(migrator, &mut file(directory).await, "there").await,
    }
}

async fn file(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE));
    SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(10))).await.unwrap()
}

/// From its customer to the day that its rows leave: what most statements are for.
async fn a_life(store: &Store, name: &str) {
    let ann = customer(store, name, Some(9)).await;
    let sent = accepted(store, message(&ann, &["a@y.example"])).await;
    assert_eq!(store.report(report(&sent, 1, answered(&["a@y.example"], &[]))).await.unwrap(), applied(1));
    let waits = Acceptance { lease_until: None, ..message(&ann, &["b@y.example", "c@y.example"]) };
    let waits = accepted(store, waits).await;
    let part = store.lease(&first_part(&waits), at(1), at(31)).await.unwrap().unwrap();
    assert_eq!(part.bytes, waits.bytes);
    assert_eq!(store.report(report(&waits, 1, retry(false))).await.unwrap(), applied(0));
    let due = store.due(at(99), &[Road::Smtp], 9).await.unwrap();
    let due = due.iter().filter(|due| due.message_id == waits.message_id).count();
    assert_eq!(due, 1);
    store.lease(&first_part(&waits), at(99), at(130)).await.unwrap().unwrap();
    let refused = report(&waits, 2, answered(&[], &["b@y.example", "c@y.example"]));
    assert_eq!(store.report(refused).await.unwrap(), applied(0));
    let spooled = spool::spooled(store, &["some ", "more"]).await;
    let large = Acceptance { spooled: Some(spooled), ..message(&ann, &["a@y.example"]) };
    let large = accepted(store, large).await;
    assert_eq!(store.report(report(&large, 1, answered(&["a@y.example"], &[]))).await.unwrap(), applied(1));
    let entry = store.open_entry(&ann, &entry_id(), None, at(2)).await.unwrap().unwrap();
    store.settle_entry(&entry, Settled::Sometime, at(3)).await.unwrap();
    read_balance(store, &ann, 7).await;
    proof::of_one(store, &ann, &format!("{name}.example")).await;
    store.appear(at(4)).await.unwrap();
    assert!(store.message(&sent.message_id).await.unwrap().is_some());
    assert_audit(store).await;
    retention::sweep(store, OLD).await;
    assert!(store.message(&sent.message_id).await.unwrap().is_none(), "it has left");
    assert_eq!(sums(store, &ann).await, (Some(7), 0, 0));
}

#[tokio::test]
async fn a_database_that_is_ahead_is_worked_on_from_the_customer_to_the_sweep() {
    let (store, directory) = store().await;
    drop(store);
    assert_eq!(raised(&directory.0, &with(&[(9000, &expansion())])).await.unwrap(), Found::Older);
    let store = reopened(&directory).await;
    for name in ["ann", "bob"] {
        a_life(&store, name).await;
    }
    drop(store);
    assert_eq!(raised(&directory.0, ours()).await.unwrap(), Found::Ahead);
    let (store, _directory) = audit::lived_in_by(async |directory| {
        drop(reopened(directory).await);
        raised(&directory.0, &with(&[(9000, &expansion())])).await.unwrap();
        reopened(directory).await
    })
    .await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_newer_version_may_expand_the_schema_beneath_one_that_is_at_work() {
    let (store, directory) = store().await;
    // Whatever each connection remembers of its statements is of the older schema.
    for nth in 0..3 {
        a_life(&store, &format!("before{nth}")).await;
    }
    raised(&directory.0, &with(&[(9000, &expansion())])).await.unwrap();
    for nth in 0..3 {
        a_life(&store, &format!("after{nth}")).await;
    }
}

#[tokio::test]
async fn a_database_of_the_level_before_is_brought_up_to_date_with_all_that_stands_in_it() {
    let newest = ours().iter().map(|migration| migration.version).max();
    assert_eq!(newest, Some(UNDO.0), "the newest migration is to be taken back by UNDO");
    let (store, directory) = audit::lived_in().await;
    execute(&store, UNDO.1).await.unwrap();
    let unknown = format!("DELETE FROM _sqlx_migrations WHERE version = {}", UNDO.0);
    execute(&store, unknown.leak()).await.unwrap();
    let before = rows(&store).await;
    assert!(before.values().filter(|rows| **rows > 0).count() > 20, "{before:?}");
    drop(store);
    let store = reopened(&directory).await;
    // What was arriving goes at the start; how fast is not told here.
    let of_mail = |mut rows: BTreeMap<&'static str, i64>| {
        rows.retain(|table, _| !matches!(*table, "spool" | "chunk"));
        rows
    };
    assert_eq!(of_mail(rows(&store).await), of_mail(before));
    assert_audit(&store).await;
    // The program before goes on beside it.
    let older = "INSERT INTO spool (spool_id, begun_at) VALUES ('spool-older', 1900000000000)";
    execute(&store, older).await.unwrap();
    a_life(&store, "later").await;
}

async fn rows(store: &Store) -> BTreeMap<&'static str, i64> {
    let mut rows = BTreeMap::new();
    for table in TABLES.iter().filter(|table| !MADE.contains(&table.name)) {
        let read = format!("SELECT count(*) FROM {}", table.name);
        rows.insert(table.name, count(store, read.leak()).await);
    }
    rows
}

/// Says in the database from which level on programs may work on it.
async fn contracted(store: &Store, oldest: &str) {
    const SAY: &str = "
        INSERT INTO meta (key, value) VALUES ('oldest_level', $1)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    query(SAY).bind(oldest).execute(store.writer.gathering().await.raw().await).await.unwrap();
}

#[tokio::test]
async fn a_database_that_was_contracted_is_refused_below_its_level_with_what_to_do() {
    let (store, directory) = store().await;
    let level = ours().iter().map(|migration| migration.version).max().unwrap();
    contracted(&store, &format!("{level} 0.1.0")).await;
    assert_audit(&store).await;
    let open = async |maker| Store::open(&settings(&directory.0, maker), Metrics::new()).await;
    assert!(open(Maker::Serve).await.is_ok(), "this is the oldest that may");
    contracted(&store, &format!("{} 7.0.0", level + 1)).await;
    for maker in [Maker::Serve, Maker::Command, Maker::Move] {
        let refused = open(maker).await.unwrap_err();
        assert!(matches!(refused, OpenError::Newer { .. }), "{refused:?}");
        let (refused, level) = (refused.to_string(), format!("and this program is at {level}"));
        for said in ["newer version of Postmeter", "it is for 7.0.0 and newer", &level, "restore a backup"] {
            assert!(refused.contains(said), "{refused}");
        }
    }
    contracted(&store, "who knows").await;
    assert!(matches!(open(Maker::Serve).await, Err(OpenError::Newer { .. })), "somebody does");
    contracted(&store, "").await;
    let of_meta = |found: &Finding| found.table == "meta";
    assert!(store.audit().await.unwrap().iter().any(of_meta));
}

#[tokio::test]
async fn a_database_that_is_ahead_is_not_moved_by_whom_it_is_ahead_of() {
    let (store, directory) = store().await;
    drop(store);
    raised(&directory.0, &with(&[(9000, "CREATE TABLE later (x BIGINT)")])).await.unwrap();
    let refused = Store::open(&settings(&directory.0, Maker::Move), Metrics::new()).await.unwrap_err();
    assert!(refused.to_string().ends_with("move it with that version"), "{refused}");
}

#[tokio::test]
async fn of_several_that_bring_the_next_level_one_does_and_the_others_wait() {
    const FIND: &str = "SELECT count(*) FROM pg_index WHERE indexrelid = 'later'::regclass AND indisvalid";
    let (store, directory) = store().await;
    if !is_postgres() {
        return;
    }
    // One was killed while it made an index, which is there and of no use.
    execute(&store, "CREATE INDEX later ON part (message_id)").await.unwrap();
    execute(&store, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'later'::regclass")
        .await
        .unwrap();
    let migrator = with(&[
        (9000, "ALTER TABLE part ADD COLUMN later TEXT"),
        (9001, "CREATE INDEX CONCURRENTLY IF NOT EXISTS later ON part (later)"),
    ]);
    let raise = || raised(&directory.0, &migrator);
    let (one, two, three, four) = tokio::join!(raise(), raise(), raise(), raise());
    for found in [one, two, three, four] {
        found.unwrap();
    }
    assert_eq!(count(&store, FIND).await, 1);
    assert_eq!(count(&store, "SELECT count(*) FROM _sqlx_migrations WHERE version >= 9000").await, 2);
    drop(store);
    assert_audit(&reopened(&directory).await).await;
}

/// Sends and delivers until it is over; how many. Whoever finds somebody in the way tries again.
async fn load(store: Store, ann: CustomerId, mut is_over: tokio::sync::watch::Receiver<bool>) -> u64 {
    let mut sent = 0;
    while !*is_over.borrow_and_update() {
        let mail = message(&ann, &["a@y.example"]);
        match store.accept(mail.clone()).await {
            Ok(Accepted::Yes { .. }) => {}
            Err(StoreError::Contended(_)) => continue,
            other => panic!("{other:?}"),
        }
        loop {
            match store.report(report(&mail, 1, answered(&["a@y.example"], &[]))).await {
                Ok(recorded) => break assert_eq!(recorded, applied(1)),
                Err(StoreError::Contended(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn p1_p3_mail_goes_on_while_the_schema_is_changed_and_while_that_waits_for_others() {
    const WANTED: &str = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted";
    let (here, directory) = store().await;
    if !is_postgres() {
        return;
    }
    let there = StoreSettings { data_dir: directory.0.join("there"), ..settings(&directory.0, Maker::Serve) };
    let there = Store::open(&there, Metrics::new()).await.unwrap();
    let ann = customer(&here, "ann", Some(1_000_000)).await;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let loads = [&here, &there].repeat(4).into_iter();
    let loads: Vec<_> =
        loads.map(|store| tokio::spawn(load(store.clone(), ann.clone(), is_over.clone()))).collect();
    let sent = async || sums(&here, &ann).await.2;
    let more = async |count: u64| {
        let before = sent().await;
        let going = async { while sent().await < before + count {} };
        tokio::time::timeout(Duration::from_secs(60), going).await.expect("mail to go on");
    };
    more(50).await;
    // Somebody reads a table and takes their time.
    let mut reading = here.readers.begin().await.unwrap();
    let _: i64 = query_scalar("SELECT count(*) FROM part").fetch_one(&mut reading).await.unwrap();
    let migrator = with(&[(9000, &expansion())]);
    let waiting = async {
        for _ in 0..3 {
            let wanted = async { while count(&there, WANTED).await == 0 {} };
            tokio::time::timeout(Duration::from_secs(60), wanted).await.expect("the table to be wanted");
            more(50).await;
        }
        drop(reading);
    };
    let (raised, ()) = tokio::join!(raised(&directory.0, &migrator), waiting);
    raised.unwrap();
    more(50).await;
    over.send_replace(true);
    let mut sent = 0;
    for load in loads {
        sent += load.await.unwrap();
    }
    assert_eq!(sums(&here, &ann).await, (Some(1_000_000), 0, sent));
    assert_audit(&there).await;
}
