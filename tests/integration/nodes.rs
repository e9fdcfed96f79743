//! Several servers on one PostgreSQL, of which one is killed: nothing is lost, nothing leaves
//! Resend twice, and Dodo is asked for each credit once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::client::missing;
use crate::harness::meter::CUSTOMER_EMAIL;
use crate::harness::postgres::Cluster;
use crate::harness::process::{ON_TESTS, Process, postmeter};
use crate::harness::smtp::Smtp;
use crate::harness::wait::within;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::two::Over;

/// What is neither final nor settled.
pub(crate) const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
    + (SELECT count(*) FROM account WHERE held <> 0 OR owed <> 0)
    + (SELECT count(*) FROM entry WHERE state = 'open')";
/// The leases of what the dead had in hand, those of entries above all, and what follows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The system of a test on a database of its own, which runs, and the database.
pub(crate) fn on_postgres() -> Option<(Meter, Cluster)> {
    let Some(cluster) = Cluster::start() else {
        missing("PostgreSQL");
        return None;
    };
    cluster.create("nodes");
    let mut meter = Meter::resend().credits(10_000).set("queue", "lease_s = 3").prepare();
    let url = format!("postgres://postmeter@localhost/nodes?host={}", cluster.home.display());
    meter.set_environment("DATABASE_URL", &url);
    // The cluster does not wait for its disk.
    meter.set_environment(ON_TESTS, "postgres");
    meter.says(&["customer", "add", CUSTOMER_ID, "--email", CUSTOMER_EMAIL, "--name", "Ann"]);
    meter.says(&["sender", "allow", CUSTOMER_ID, "example.com"]);
    meter.credential = meter.new_credential();
    meter.serve();
    Some((meter, cluster))
}

/// Another server with the same configuration, but for its directory.
pub(crate) fn beside(meter: &Meter) -> Process {
    let directory = meter.directory();
    let text = std::fs::read_to_string(directory.join("postmeter.toml")).unwrap();
    let own =
        text.replace(&format!("{:?}", directory.join("data")), &format!("{:?}", directory.join("other")));
    assert_ne!(own, text);
    std::fs::write(directory.join("other.toml"), own).unwrap();
    let mut command = postmeter();
    command.args(["serve", "--config"]).arg(directory.join("other.toml"));
    command.envs(meter.environment()).current_dir(directory.path());
    Process::start(command, &directory.join("other.log"))
}

/// Sends until it is over or the server is gone, and notes what was acknowledged.
fn send(
    meter: &Meter,
    to: SocketAddr,
    name: &str,
    acknowledged: &Mutex<BTreeSet<String>>,
    is_over: &AtomicBool,
) {
    let mut smtp = Smtp::starttls_at(to, &meter.certificate());
    let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
    assert!(reply.starts_with("235 "), "{reply}");
    for nth in 0.. {
        let subject = format!("{name}n{nth}");
        let commands = ["MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.net>", "DATA"];
        if is_over.load(Ordering::SeqCst) || commands.iter().any(|command| smtp.say(command).is_empty()) {
            return;
        }
        smtp.send(&[letter(&subject), b".\r\n".to_vec()].concat());
        match smtp.reply() {
            reply if reply.starts_with("250 ") => drop(acknowledged.lock().unwrap().insert(subject)),
            reply => return assert_eq!(reply, ""),
        }
    }
}

#[test]
fn p1_p3_p4_a_server_that_is_killed_under_load_leaves_everything_to_the_other() {
    let Some((mut meter, cluster)) = on_postgres() else { return };
    let other = beside(&meter);
    let (acknowledged, is_over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // However this ends, the clients are told.
        let over = Over(&is_over);
        let servers = [("one", meter.process().smtp), ("other", other.smtp)];
        for (server, nth) in servers.into_iter().flat_map(|server| [(server, 0), (server, 1), (server, 2)]) {
            let (meter, acknowledged, is_over) = (&meter, &acknowledged, &is_over);
            scope.spawn(move || send(meter, server.1, &format!("{}{nth}", server.0), acknowledged, is_over));
        }
        let by_other =
            || acknowledged.lock().unwrap().iter().filter(|subject| subject.starts_with("other")).count();
        until("mail to come in", || (by_other() >= 60).then_some(()));
        other.into_program().kill();
        let before = acknowledged.lock().unwrap().len();
        until("mail to go on coming in", || (acknowledged.lock().unwrap().len() > before + 20).then_some(()));
        drop(over);
    });
    let left = || cluster.read("nodes", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    let mut arrived = BTreeMap::<String, u32>::new();
    for mail in meter.mails() {
        *arrived.entry(mail.email.subject.unwrap_or_default()).or_default() += 1;
    }
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "P4: {twice:?}");
    let lost: Vec<_> = acknowledged
        .into_inner()
        .unwrap()
        .into_iter()
        .filter(|subject| !arrived.contains_key(subject))
        .collect();
    assert!(lost.is_empty(), "P1: {lost:?}");
    // What was accepted while its sender was not told counts too.
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), arrived.len() as u64, "P3");
    meter.end();
}
