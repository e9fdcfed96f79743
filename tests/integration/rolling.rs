//! Servers of one database while a newer version brings its schema further: nobody stands
//! still, and whoever starts afterwards goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::postgres::Cluster;
use crate::harness::smtp::Smtp;
use crate::harness::wait::within;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::nodes::{LEFT, PATIENCE, beside, on_postgres};
use crate::two::Over;

/// What a later version does to each table, in the order in which transactions take their locks.
const TABLES: [&str; 14] = [
    "meta",
    "account",
    "part",
    "message",
    "recipient",
    "body",
    "spool",
    "capture",
    "entry",
    "attempt",
    "node",
    "duty",
    "bucket",
    "webhook",
];

/// A later version's migration in one transaction, which waits for nobody long.
fn migration() -> String {
    let columns = TABLES.map(|table| {
        format!(
            "ALTER TABLE {table} ADD COLUMN later TEXT;
             ALTER TABLE {table} ADD COLUMN later_number BIGINT NOT NULL DEFAULT 7;"
        )
    });
    format!(
        "SET lock_timeout = '900ms'; LOCK TABLE meta, account, part; {}
         CREATE TABLE later (x BIGINT);
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '', 0)",
        columns.concat()
    )
}

/// Sends until it is over, each message until it is taken.
fn send(meter: &Meter, to: SocketAddr, name: &str, taken: &Mutex<BTreeSet<String>>, is_over: &AtomicBool) {
    let mut smtp = Smtp::starttls_at(to, &meter.certificate());
    let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
    assert!(reply.starts_with("235 "), "{reply}");
    for nth in 0.. {
        let subject = format!("{name}n{nth}");
        while !is_over.load(Ordering::SeqCst) {
            let reply = smtp.deliver(&letter(&subject));
            if reply.starts_with("250 ") {
                taken.lock().unwrap().insert(subject.clone());
                break;
            }
            assert!(reply.starts_with("452 4.3.1 "), "a retry would not be served: {reply}");
        }
        if is_over.load(Ordering::SeqCst) {
            return;
        }
    }
}

fn migrates(cluster: &Cluster) {
    until("the migration", || {
        let mut psql: Command = cluster.psql("nodes", &migration());
        let said = psql.arg("--single-transaction").output().unwrap();
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success() || why.contains("lock timeout"), "{why}");
        said.status.success().then_some(())
    });
}

#[test]
fn p1_p3_p4_servers_go_on_while_a_newer_version_brings_the_schema_further() {
    let plan = Meter::resend().set("queue", "lease_s = 3");
    let Some((mut meter, cluster)) = on_postgres(plan, false) else { return };
    let other = beside(&meter, &[]);
    let (taken, is_over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    let count = || taken.lock().unwrap().len();
    std::thread::scope(|scope| {
        // However this ends, the clients are told.
        let over = Over(&is_over);
        let servers = [("one", meter.process().smtp), ("other", other.smtp)];
        for (server, nth) in servers.into_iter().flat_map(|server| [(server, 0), (server, 1), (server, 2)]) {
            let (meter, taken, is_over) = (&meter, &taken, &is_over);
            scope.spawn(move || send(meter, server.1, &format!("{}{nth}", server.0), taken, is_over));
        }
        until("mail to come in", || (count() >= 60).then_some(()));
        migrates(&cluster);
        let before = count();
        until("mail to go on coming in", || (count() > before + 60).then_some(()));
        drop(over);
    });
    // This one finds a database that is ahead of it.
    meter.stop();
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("afterwards")).starts_with("250 "));
    taken.lock().unwrap().insert("afterwards".to_owned());
    other.stop();
    let left = || cluster.read("nodes", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    let mut arrived = BTreeMap::<String, u32>::new();
    for mail in meter.mails() {
        *arrived.entry(mail.email.subject.unwrap_or_default()).or_default() += 1;
    }
    assert!(arrived.values().all(|times| *times == 1), "P4: {arrived:?}");
    let lost: Vec<_> =
        taken.into_inner().unwrap().into_iter().filter(|subject| !arrived.contains_key(subject)).collect();
    assert!(lost.is_empty(), "P1: {lost:?}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), arrived.len() as u64, "P3");
    let log = meter.log();
    assert!(!log.contains("cached plan"), "{log}");
    meter.end();
}
