//! `postmeter migrate` as an operator uses it: it is killed on the way and called again, and then
//! whatever waited in the file is sent from PostgreSQL, once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use postmeter::sandbox;
use postmeter::sandbox::faults::{Fault, Reply};

use crate::harness::client::missing;
use crate::harness::database::is_about_the_file;
use crate::harness::postgres::Cluster;
use crate::harness::process::{Launched, ON_TESTS, Said};
use crate::harness::wait::within;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::nodes::{LEFT, PATIENCE};

/// So that it takes a while: a page is a thousand rows.
const WEBHOOKS: i64 = 100_000;
const MANY: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    INSERT INTO webhook SELECT 'dodo', 'many_' || i, 'credit.added', NULL, 1800000000000 FROM n";
/// A debug build that is busy reads and audits that many.
const MOVE: Duration = Duration::from_secs(120);

/// An empty database, if there can be one.
fn target() -> Option<Cluster> {
    if is_about_the_file("moving") {
        return None;
    }
    let cluster = Cluster::start();
    if cluster.is_none() {
        missing("PostgreSQL");
    }
    cluster.inspect(|cluster| cluster.create("mail"))
}

fn takes(meter: &Meter, subjects: &[&str]) {
    let mut smtp = meter.signed_in();
    for subject in subjects {
        assert!(smtp.deliver(&letter(subject)).starts_with("250 "));
    }
}

/// A stopped installation: two mails were sent and paid for, two wait for their next attempt and two
/// behind a gate that is closed.
fn installation() -> Meter {
    let mut meter = Meter::resend().credits(1000).set("queue", "lease_s = 3").start();
    takes(&meter, &["sent0", "sent1"]);
    meter.drain();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(503)).always());
    takes(&meter, &["tried0", "tried1"]);
    const TRIED: &str = "SELECT count(*) FROM part WHERE state = 'queued' AND attempt > 0";
    until("a failed try of each", || (meter.number(TRIED) == 2).then_some(()));
    meter.stop();
    meter.resend_stand_in().faults().clear();
    meter.set_environment("RESEND_API_KEY", "re_wrong");
    meter.serve();
    takes(&meter, &["gated0", "gated1"]);
    let closed = || meter.log().contains("Resend refused the API key");
    until("the gate to be closed", || closed().then_some(()));
    const WAITING: &str = "SELECT count(*) FROM part WHERE state = 'queued'";
    until("all to wait", || (meter.number(WAITING) == 4).then_some(()));
    meter.stop();
    assert_eq!(meter.mails().len(), 2);
    meter.set_environment("RESEND_API_KEY", sandbox::RESEND_API_KEY);
    meter
}

#[track_caller]
fn refused(said: &Said, why: &str) {
    assert!(said.code == Some(1) && said.err.contains(why), "{why}: {said:?}");
    assert_eq!(said.err.trim_end().lines().count(), 1, "{said:?}");
}

/// A command on the target.
fn there(meter: &Meter, url: &str, arguments: &[&str]) -> Said {
    let mut command = meter.command(arguments);
    command.env("DATABASE_URL", url).env(ON_TESTS, "postgres").output().unwrap().into()
}

/// What waited is sent from the target, and nothing that was sent before.
fn is_sent_from(mut meter: Meter, cluster: &Cluster) {
    meter.set_environment("DATABASE_URL", &cluster.url("mail"));
    meter.set_environment(ON_TESTS, "postgres");
    meter.serve();
    takes(&meter, &["new"]);
    let left = || cluster.read("mail", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    let mut arrived = BTreeMap::new();
    for mail in meter.mails() {
        *arrived.entry(mail.email.subject.unwrap_or_default()).or_insert(0) += 1;
    }
    let all = ["sent0", "sent1", "tried0", "tried1", "gated0", "gated1", "new"];
    assert_eq!(arrived, all.map(|subject| (subject.to_owned(), 1)).into(), "P1, P4");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), all.len() as u64, "P3");
    meter.end();
}

/// Begins to move, and is killed when some of the many rows are there.
fn is_killed_on_the_way(meter: &Meter, cluster: &Cluster, arguments: &[&str]) {
    const BEGUN: &str = "SELECT to_regclass('webhook') IS NOT NULL";
    const COUNT: &str = "SELECT count(*) FROM webhook";
    let count = || cluster.read("mail", COUNT).concat().parse::<i64>().unwrap();
    let migrate = Launched::start(meter.command(arguments), &meter.directory().join("migrate.log"));
    let some = within(MOVE, || (cluster.read("mail", BEGUN) == ["t"] && count() > 0).then_some(()));
    assert!(some.is_some(), "{}", migrate.log());
    migrate.kill();
    assert!(count() < WEBHOOKS, "it was too quick");
    assert_eq!(cluster.read("mail", "SELECT count(*) FROM meta WHERE key = 'moving_from'"), ["1"]);
}

#[test]
fn p1_p3_p4_a_move_that_is_killed_is_finished_by_the_next_and_what_waited_is_sent_once() {
    let Some(cluster) = target() else { return };
    let meter = installation();
    meter.tamper(MANY);
    let url = cluster.url("mail");
    let migrate = ["migrate", "--to", &url];
    is_killed_on_the_way(&meter, &cluster, &migrate);
    refused(&there(&meter, &url, &["serve"]), "`postmeter migrate` has not finished with the database");
    let said = meter.says(&migrate);
    assert!(said.contains("ok: both databases add up, and everything is in "), "{said}");
    let rows = meter.number("SELECT count(*) FROM webhook");
    assert!(rows >= WEBHOOKS, "{rows}");
    assert_eq!(cluster.read("mail", "SELECT count(*) FROM webhook"), [rows.to_string()]);
    let audit = there(&meter, &url, &["audit"]);
    assert!(audit.code == Some(0) && audit.out.starts_with("ok: "), "{audit:?}");
    for command in [["serve"], ["audit"]] {
        refused(&meter.run(&command), "; set database_url to that");
    }
    refused(&meter.run(&migrate), "the file was moved already, to ");
    is_sent_from(meter, &cluster);
}

#[test]
fn p1_p3_p4_a_file_of_any_name_is_moved_and_one_that_is_not_ours_is_left_as_it_is() {
    let Some(cluster) = target() else { return };
    let meter = installation();
    let url = cluster.url("mail");
    let data = meter.directory().join("data");
    let old = |name: &str| meter.directory().join(name);
    std::fs::create_dir(old("old")).unwrap();
    let path = |path: &Path| path.display().to_string();
    let from = path(&old("old/mail.db"));
    let migrate = ["migrate", "--from", &from, "--to", &url];
    refused(&meter.run(&migrate), "there is no database at ");
    for strange in ["", "not a database, but long enough to be taken for one by whoever does not look at it"]
    {
        std::fs::write(&from, strange).unwrap();
        let said = meter.run(&migrate);
        assert!(said.code == Some(1) && said.err.contains("mail.db"), "{said:?}");
        assert_eq!(std::fs::read_to_string(&from).unwrap(), strange);
    }
    std::fs::remove_file(&from).unwrap();
    for ending in ["", "-wal"] {
        let file = data.join(format!("postmeter.sqlite{ending}"));
        if file.exists() {
            std::fs::rename(file, format!("{from}{ending}")).unwrap();
        }
    }
    let said = meter.says(&migrate);
    assert!(said.contains("ok: both databases add up, and everything is in "), "{said}");
    let audit = there(&meter, &url, &["audit"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    is_sent_from(meter, &cluster);
}
