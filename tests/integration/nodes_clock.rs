//! Of two servers on one PostgreSQL, one is on a machine whose clock is wrong by an hour: it
//! goes by the database's time, and nobody notices.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::client::has;
use crate::harness::postgres::Cluster;
use crate::harness::wait::within;
use crate::harness::web::{ask, signed_by_resend};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::nodes::{LEFT, PATIENCE, beside_with, on_postgres, parts, signed_in_at};

const BUSY: &str = r#"{"statusCode":500,"name":"internal_server_error","message":"later"}"#;
/// What bears a time that is five minutes off or more.
const ELSEWHEN: &str = "SELECT count(*) FROM message
    WHERE abs(accepted_at - extract(epoch FROM now()) * 1000) > 300000
       OR abs(final_at - extract(epoch FROM now()) * 1000) > 300000";

/// What has a program see another time of day, and no other time pass. `None`: this machine
/// has no faketime.
fn wrong_clock(by: &str) -> Option<[(&'static str, String); 3]> {
    let shown =
        || Command::new("faketime").args(["-m", "-f", by, "printenv", "LD_PRELOAD"]).output().unwrap();
    has("faketime", &["--version"]).then(|| {
        let library = String::from_utf8(shown().stdout).unwrap().trim().to_owned();
        assert!(!library.is_empty(), "faketime names no library");
        let real = "1".to_owned();
        [("LD_PRELOAD", library), ("FAKETIME", by.to_owned()), ("FAKETIME_DONT_FAKE_MONOTONIC", real)]
    })
}

fn deliver(meter: &Meter, to: SocketAddr, subject: &str) {
    let reply = signed_in_at(meter, to).deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{reply}");
}

/// Mail that a server does not get rid of: Resend does not answer.
fn hangs(meter: &Meter, to: SocketAddr, subject: &str) {
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Misbehaviour::HangBefore).on("POST", "/emails").times(1));
    deliver(meter, to, subject);
    until("it to be on its way", || faults.pending().is_empty().then_some(()));
}

fn sent(cluster: &Cluster, count: usize) {
    let is_sent = within(PATIENCE, || (parts(cluster, "sent") == count).then_some(()));
    assert!(is_sent.is_some(), "{} of {count} are sent", parts(cluster, "sent"));
}

/// The hour that stands in what a server writes down now, if its clock is wrong by so many.
fn hour(wrong_by: i64) -> String {
    let shown = Timestamp::now().checked_add(SignedDuration::from_hours(wrong_by)).unwrap();
    shown.to_string().get(..13).unwrap().to_owned()
}

fn harms_nobody(wrong_by: i64) {
    let Some(variables) = wrong_clock(&format!("{wrong_by:+}h")) else { return };
    let plan = Meter::resend().set("queue", "lease_s = 3");
    let Some((mut meter, cluster)) = on_postgres(plan, false) else { return };
    let before = hour(wrong_by);
    let wrong = beside_with(&meter, &[], &variables);
    let busy = |times| Fault::new(Reply::status(500).body(BUSY)).on("POST", "/emails").times(times);
    let unknown = r#"{"type":"email.teleported","created_at":"2026-11-23T10:00:00.000Z","data":{}}"#;
    let told = ask(signed_by_resend(&format!("http://{}", wrong.http), "m1", unknown));
    assert_eq!(told.status, 200, "what is signed now is no replay: {told:?}");

    meter.resend_stand_in().faults().push(busy(2));
    deliver(&meter, meter.process().smtp, "one");
    deliver(&meter, wrong.smtp, "two");
    sent(&cluster, 2);
    let logged = wrong.log();
    assert!(logged.contains(&before) || logged.contains(&hour(wrong_by)), "its clock is right: {logged}");
    hangs(&meter, meter.process().smtp, "three");
    meter.resend_stand_in().faults().push(busy(2));
    deliver(&meter, wrong.smtp, "four");
    sent(&cluster, 3);
    assert_eq!(parts(&cluster, "sending"), 1, "the third is in its server's hands");
    assert_eq!(cluster.read("nodes", "SELECT max(attempt) FROM part WHERE state = 'sending'"), ["1"]);
    meter.kill();
    sent(&cluster, 4);
    meter.serve();
    hangs(&meter, wrong.smtp, "five");
    wrong.kill();
    sent(&cluster, 5);

    let left = || cluster.read("nodes", LEFT).concat();
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    let arrived: Vec<String> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    let wanted = ["one", "two", "three", "four", "five"].map(str::to_owned);
    assert_eq!(arrived.len(), wanted.len(), "P4: {arrived:?}");
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(wanted), "P1");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5, "P3");
    assert_eq!(cluster.read("nodes", ELSEWHEN), ["0"], "all bear the database's time");
    meter.end();
}

#[test]
fn p1_p3_p4_a_server_whose_clock_is_an_hour_ahead_harms_nobody() {
    harms_nobody(1);
}

#[test]
fn p1_p3_p4_a_server_whose_clock_is_an_hour_behind_harms_nobody() {
    harms_nobody(-1);
}
