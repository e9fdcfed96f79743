//! Several servers on one PostgreSQL, of which one is killed: nothing is lost, nothing leaves
//! Resend twice, and Dodo is asked for each credit once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postmeter::sandbox::faults::{Fault, Misbehaviour};
use reqwest::Method;

use crate::harness::client::missing;
use crate::harness::plan::Plan;
use crate::harness::postgres::Cluster;
use crate::harness::process::{Process, postmeter};
use crate::harness::smtp::Smtp;
use crate::harness::wait::within;
use crate::harness::web::{ask, request};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, file_to_a_list, letter, until};
use crate::page::Browser;
use crate::two::Over;

/// What is neither final nor settled.
pub(crate) const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
    + (SELECT count(*) FROM account WHERE held <> 0 OR owed <> 0)
    + (SELECT count(*) FROM entry WHERE state = 'open')";
/// The leases of what the dead had in hand, those of entries above all, and what follows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Servers with this variable do not look for what others would tell them of.
const NO_POLLING: &str = "POSTMETER_TEST_NO_POLLING";

/// The system of a test on a database of its own, which runs, and the database. If it `is_told`,
/// it finds nothing by itself.
pub(crate) fn on_postgres(plan: Plan, is_told: bool) -> Option<(Meter, Cluster)> {
    running(plan.credits(10_000), is_told)
}

/// The same with the plan's own credits.
pub(crate) fn running(plan: Plan, is_told: bool) -> Option<(Meter, Cluster)> {
    let Some(cluster) = Cluster::start() else {
        missing("PostgreSQL");
        return None;
    };
    cluster.create("nodes");
    let mut meter = plan.prepare_at(&cluster.url("nodes"));
    if is_told {
        meter.set_environment(NO_POLLING, "1");
    }
    meter.serve();
    Some((meter, cluster))
}

/// Another server with the same configuration, but for its directory and what is replaced.
pub(crate) fn beside(meter: &Meter, replaced: &[(String, String)]) -> Process {
    beside_with(meter, replaced, &[])
}

/// The same with more variables.
pub(crate) fn beside_with(
    meter: &Meter,
    replaced: &[(String, String)],
    variables: &[(&str, String)],
) -> Process {
    let directory = meter.directory();
    let mut own = std::fs::read_to_string(directory.join("postmeter.toml")).unwrap();
    let data = ["data", "other"].map(|name| format!("{:?}", directory.join(name))).into();
    for (from, to) in replaced.iter().chain([&data]) {
        assert!(own.contains(from), "{from}: {own}");
        own = own.replace(from, to);
    }
    std::fs::write(directory.join("other.toml"), own).unwrap();
    let mut command = postmeter();
    command.args(["serve", "--config"]).arg(directory.join("other.toml"));
    command.envs(meter.environment()).envs(variables.iter().cloned()).current_dir(directory.path());
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
    let plan = Meter::resend().set("queue", "lease_s = 3");
    let Some((mut meter, cluster)) = on_postgres(plan, false) else { return };
    let other = beside(&meter, &[]);
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

pub(crate) fn signed_in_at(meter: &Meter, to: SocketAddr) -> Smtp {
    let mut smtp = Smtp::starttls_at(to, &meter.certificate());
    let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
    assert!(reply.starts_with("235 "), "{reply}");
    smtp
}

/// Parts of customers in this state.
pub(crate) fn parts(cluster: &Cluster, state: &str) -> usize {
    let count = format!("SELECT count(*) FROM part WHERE state = '{state}'");
    cluster.read("nodes", &count).concat().parse().unwrap()
}

/// How often each subject left Resend.
fn arrived(meter: &Meter) -> BTreeMap<String, u32> {
    let mut arrived = BTreeMap::new();
    for mail in meter.mails() {
        *arrived.entry(mail.email.subject.unwrap_or_default()).or_default() += 1;
    }
    arrived
}

#[test]
fn p1_p3_p4_what_a_killed_server_was_sending_the_other_sends_when_its_leases_have_run_out() {
    const LEASE_MS: i64 = 3000;
    // A lease, and a busy machine; less than anything else that would have somebody look.
    const TAKEOVER: Duration = Duration::from_secs(15);
    const LEASED: &str = "
        SELECT coalesce(max(lease_until - CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)), 0)
        FROM part";
    let plan = Meter::resend().set("queue", "lease_s = 3");
    let Some((mut meter, cluster)) = on_postgres(plan, false) else { return };
    let other = beside(&meter, &[]);
    // Nothing is answered: some of the first calls have taken effect all the same.
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Misbehaviour::HangAfter).times(2));
    faults.push(Fault::new(Misbehaviour::HangBefore).always());
    let subjects: BTreeMap<String, u32> = (0..6).map(|nth| (format!("n{nth}"), 1)).collect();
    let mut smtp = signed_in_at(&meter, other.smtp);
    for subject in subjects.keys() {
        // For its file each leaves in a call of its own.
        assert!(smtp.attempt(&["bob@example.net"], &file_to_a_list(subject)).starts_with("250 "));
    }
    until("all to be on their way", || (parts(&cluster, "sending") == subjects.len()).then_some(()));
    until("calls to hang", || (faults.struck() >= 3).then_some(()));
    assert_eq!(parts(&cluster, "sending"), subjects.len(), "all are in the hands of the one that is killed");
    other.kill();
    let killed = Instant::now();
    let leased: i64 = cluster.read("nodes", LEASED).concat().parse().unwrap();
    assert!(leased <= LEASE_MS, "for {leased} ms more nobody else may have them");
    assert!(arrived(&meter).len() < subjects.len(), "some have not left yet");
    faults.clear();
    let taken_over = within(TAKEOVER, || (arrived(&meter).len() == subjects.len()).then(|| killed.elapsed()));
    assert!(taken_over.is_some(), "after {TAKEOVER:?}: {:?}", arrived(&meter));
    eprintln!("taken over {:?} after the kill", taken_over.unwrap_or_default());
    let left = || cluster.read("nodes", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    assert_eq!(arrived(&meter), subjects, "P1, P4");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), subjects.len() as u64, "P3");
    meter.end();
}

#[test]
fn what_the_operator_has_sent_again_by_a_command_the_servers_are_told() {
    let plan = Meter::smtp().set("queue", "retry_min_s = 3600");
    let Some((mut meter, cluster)) = on_postgres(plan, true) else { return };
    let other = beside(&meter, &[]);
    meter.sink().reply("MAIL", "451 4.7.1 come again");
    for to in [meter.process().smtp, other.smtp] {
        assert!(signed_in_at(&meter, to).deliver(&letter("later")).starts_with("250 "));
    }
    until("a first try of each", || (parts(&cluster, "queued") == 2).then_some(()));
    meter.sink().behave();
    assert!(meter.says(&["queue", "retry", "--all"]).starts_with("2 messages are due now"));
    until("both to be sent", || (parts(&cluster, "sent") == 2).then_some(()));
    other.stop();
    meter.end();
}

#[test]
fn p1_what_a_stopping_server_has_not_begun_the_other_is_told_of() {
    const MAILS: usize = 6;
    const PLACES: usize = 2;
    let plan = Meter::smtp().set("upstream", "max_concurrency = 2");
    let Some((mut meter, cluster)) = on_postgres(plan, true) else { return };
    let other = beside(&meter, &[]);
    meter.sink().hang("DOT");
    let mut smtp = meter.signed_in();
    for nth in 0..MAILS {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    until("some to be on their way", || (meter.sink().unanswered() == PLACES).then_some(()));
    assert_eq!(parts(&cluster, "sending"), MAILS, "all are in one server's hands");
    meter.sink().behave();
    let stopping = meter.take_process();
    stopping.terminate();
    until("the others to leave", || (parts(&cluster, "sent") == MAILS - PLACES).then_some(()));
    assert_eq!(parts(&cluster, "sending"), PLACES, "the first are under way still");
    stopping.ends_well();
    meter.adopt(other);
    meter.end();
}

#[test]
fn a_gate_that_one_server_finds_open_is_open_at_the_other() {
    let Some((mut meter, _cluster)) = on_postgres(Meter::smtp(), true) else { return };
    let other = beside(&meter, &[]);
    let is_ready = |process: &Process| {
        let url = format!("http://{}/readyz", process.http);
        RUNTIME.block_on(async { reqwest::get(url).await.unwrap().status().is_success() })
    };
    meter.sink().reply("AUTH", "535 5.7.8 who are you?");
    assert!(meter.signed_in().deliver(&letter("waits")).starts_with("250 "));
    for process in [meter.process(), &other] {
        until("the gate to be closed", || (!is_ready(process)).then_some(()));
    }
    meter.sink().behave();
    // One that starts tries it at once, the other in five minutes.
    meter.stop();
    meter.serve();
    for process in [meter.process(), &other] {
        until("the gate to be open", || is_ready(process).then_some(()));
    }
    other.stop();
    meter.end();
}

#[test]
fn whom_one_server_signs_in_on_the_page_the_other_knows() {
    let Some((mut meter, _cluster)) = on_postgres(Meter::smtp(), false) else { return };
    let other = beside(&meter, &[]);
    let cookie = Browser::signed_in(&meter).cookie;
    for (process, cookie, want) in
        [(&other, &*cookie, 200), (meter.process(), &cookie, 200), (&other, "", 303)]
    {
        let page = request(Method::GET, &format!("http://{}/account", process.http)).header("cookie", cookie);
        assert_eq!(ask(page).status, want);
    }
    other.stop();
    meter.end();
}
