//! The disk is full, or does not keep what was written: whoever is told 250 is
//! safe, whoever is told 452 is not mailed, and all is well once the disk is.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use postmeter::sandbox::faults::{Fault, Misbehaviour};
use reqwest::Method;
use serde_json::json;

use crate::harness::database::is_about_the_file;
use crate::harness::disk::{Injected, SYNC, SmallDisk, WRITE};
use crate::harness::smtp::Smtp;
use crate::harness::web::{Answer, ask};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::large::much;

const NO_ROOM: &str = "452 4.3.1 ";

/// A system whose database lies on a small file system of its own.
fn on_a_small_disk() -> Option<(Meter, SmallDisk)> {
    if is_about_the_file("a disk without room") {
        return None;
    }
    let mut meter = Meter::resend().credits(1_000).prepare();
    let (data, made) = (meter.directory().join("data"), meter.directory().join("made"));
    std::fs::rename(&data, &made).unwrap();
    let Some(disk) = SmallDisk::mount(&data, 4) else {
        std::fs::remove_dir(&data).unwrap();
        std::fs::rename(&made, &data).unwrap();
        return None;
    };
    for file in std::fs::read_dir(&made).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), data.join(file.file_name())).unwrap();
    }
    meter.serve();
    Some((meter, disk))
}

fn readyz(meter: &Meter) -> Answer {
    ask(meter.request(Method::GET, "/readyz"))
}

/// The store is what is wrong, and everybody is told.
fn refuses_everywhere(meter: &Meter, smtp: &mut Smtp, subject: &str) {
    let reply = smtp.deliver(&letter(subject));
    assert!(reply.starts_with(NO_ROOM), "{reply}");
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": subject, "text": "t" });
    meter.post_send(&mail).is_error(503, "unavailable");
    let answer = readyz(meter);
    assert_eq!((answer.status, &answer.json()["problems"][0]["what"]), (503, &"store".into()), "{answer:?}");
}

/// Everything is as it should be, without a restart.
fn takes_mail_again(meter: &Meter, smtp: &mut Smtp, subject: &str) {
    let reply = smtp.deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{reply}");
    assert_eq!(readyz(meter).status, 200);
}

/// Exactly these arrived, each once, and each cost a credit.
#[track_caller]
fn arrived(meter: &mut Meter, wanted: &BTreeSet<String>) {
    meter.finish();
    let arrived: Vec<String> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    assert_eq!(arrived.len(), wanted.len(), "P4: each once: {arrived:?}");
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), *wanted, "P1, and what was refused is not sent");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), wanted.len() as u64, "P3");
}

fn set(subjects: &[&str]) -> BTreeSet<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

/// A mail is on its way, and what became of it cannot be written down.
fn leaves_while_nothing_can_be_written(meter: &Meter, smtp: &mut Smtp, fill: impl FnOnce()) {
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Misbehaviour::Late { delay_ms: 1_500 }).on("POST", "/emails"));
    assert!(smtp.deliver(&letter("under-way")).starts_with("250 "));
    until("it to be on its way", || (faults.struck() == 1).then_some(()));
    assert_eq!(meter.resend_stand_in().count(), 0);
    fill();
    until("its answer", || (meter.resend_stand_in().count() == 1).then_some(()));
    until("the log to say it", || meter.log().contains("an attempt could not be written down").then_some(()));
}

#[test]
fn p1_p3_p4_a_full_disk_refuses_mail_and_forgets_nothing_that_was_sent() {
    let Some((mut meter, disk)) = on_a_small_disk() else { return };
    let mut smtp = meter.signed_in();
    leaves_while_nothing_can_be_written(&meter, &mut smtp, || disk.fill());
    for nth in 0..3 {
        refuses_everywhere(&meter, &mut smtp, &format!("refused{nth}"));
    }
    assert_eq!(meter.get("/messages").json()[0]["state"], "queued", "what is known can still be read");
    disk.free();
    takes_mail_again(&meter, &mut smtp, "after");
    arrived(&mut meter, &set(&["under-way", "after"]));
}

#[test]
fn p1_a_disk_that_fills_while_a_large_mail_arrives_refuses_it_and_keeps_nothing_of_it() {
    const ROWS: &str = "SELECT (SELECT count(*) FROM spool) + (SELECT count(*) FROM chunk)";
    let Some((mut meter, disk)) = on_a_small_disk() else { return };
    let mut smtp = meter.signed_in();
    // There is room for the beginning.
    disk.grow();
    let message = much(3 << 20);
    smtp.begin("ann@example.com", &["bob@example.net"]);
    smtp.send(&message[..1 << 20]);
    until("some of it to be on disk", || (meter.number("SELECT count(*) FROM chunk") > 1).then_some(()));
    disk.fill();
    let reply = smtp.message(&message[1 << 20..]);
    assert!(reply.starts_with(NO_ROOM), "{reply}");
    disk.free();
    takes_mail_again(&meter, &mut smtp, "after");
    meter.stop();
    meter.serve();
    until("nothing of it to be left", || (meter.number(ROWS) == 0).then_some(()));
    arrived(&mut meter, &set(&["after"]));
}

#[test]
fn p4_a_kill_on_a_full_disk_does_not_send_again_what_was_sent() {
    let Some((mut meter, disk)) = on_a_small_disk() else { return };
    let mut smtp = meter.signed_in();
    leaves_while_nothing_can_be_written(&meter, &mut smtp, || disk.fill());
    refuses_everywhere(&meter, &mut smtp, "refused");
    meter.kill();
    disk.free();
    meter.serve();
    arrived(&mut meter, &set(&["under-way"]));
}

#[test]
fn p3_a_debit_whose_answer_finds_a_full_disk_is_not_posted_twice() {
    for is_killed in [false, true] {
        let Some((mut meter, disk)) = on_a_small_disk() else { return };
        let faults = meter.dodo().faults().clone();
        faults.push(Fault::new(Misbehaviour::Late { delay_ms: 1_500 }).on("POST", "/ledger-entries"));
        let mut smtp = meter.signed_in();
        assert!(smtp.deliver(&letter("owed")).starts_with("250 "));
        until("the debit to be on its way", || (faults.struck() == 1).then_some(()));
        disk.fill();
        until("Dodo to have it", || (meter.dodo().debited(CUSTOMER_ID) == 1).then_some(()));
        refuses_everywhere(&meter, &mut smtp, "refused");
        if is_killed {
            meter.kill();
        }
        disk.free();
        arrived(&mut meter, &set(&["owed"]));
    }
}

#[test]
fn p1_a_mail_that_does_not_fit_is_refused_and_a_smaller_one_is_not() {
    let Some((mut meter, disk)) = on_a_small_disk() else { return };
    let mut smtp = meter.signed_in();
    takes_mail_again(&meter, &mut smtp, "before");
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let large = [letter("large"), line.repeat(80_000).into_bytes()].concat();
    for nth in 0..2 {
        let reply = smtp.deliver(&large);
        assert!(reply.starts_with(NO_ROOM), "{reply}");
        takes_mail_again(&meter, &mut smtp, &format!("small{nth}"));
    }
    disk.grow();
    let reply = smtp.deliver(&large);
    assert!(reply.starts_with("250 "), "{reply}");
    arrived(&mut meter, &set(&["before", "small0", "small1", "large"]));
}

#[test]
fn a_server_that_starts_on_a_full_disk_refuses_mail_until_there_is_room() {
    let Some((mut meter, disk)) = on_a_small_disk() else { return };
    takes_mail_again(&meter, &mut meter.signed_in(), "before");
    meter.drain();
    meter.kill();
    disk.fill();
    meter.serve();
    let mut smtp = meter.signed_in();
    // The start gives back the room that the database's log took.
    let mut wanted = set(&["before", "after"]);
    for nth in 0.. {
        let reply = smtp.deliver(&letter(&format!("n{nth}")));
        if reply.starts_with(NO_ROOM) {
            break;
        }
        assert!(reply.starts_with("250 ") && nth < 100, "{reply}");
        wanted.insert(format!("n{nth}"));
    }
    refuses_everywhere(&meter, &mut smtp, "refused");
    disk.free();
    takes_mail_again(&meter, &mut smtp, "after");
    arrived(&mut meter, &wanted);
}

#[test]
fn p1_p3_p4_a_disk_that_fails_refuses_mail_and_forgets_nothing_that_was_sent() {
    if is_about_the_file("a disk that fails") {
        return;
    }
    for (calls, error) in [(SYNC, "EIO"), (WRITE, "EIO"), (WRITE, "ENOSPC")] {
        let mut meter = Meter::resend().credits(1_000).start();
        let mut smtp = meter.signed_in();
        let mut injected = None;
        let pid = meter.process().id();
        leaves_while_nothing_can_be_written(&meter, &mut smtp, || {
            injected = Injected::begin(pid, calls, error, "1+");
        });
        let Some(injected) = injected else { return };
        for nth in 0..3 {
            refuses_everywhere(&meter, &mut smtp, &format!("refused{nth}"));
        }
        injected.end();
        takes_mail_again(&meter, &mut smtp, "after");
        arrived(&mut meter, &set(&["under-way", "after"]));
    }
}

#[test]
fn p1_what_was_refused_for_a_failed_fsync_is_not_sent_after_a_kill() {
    if is_about_the_file("a disk that fails") {
        return;
    }
    // The first fsync fails and those after it do not; or all do.
    for when in ["1", "1+"] {
        let mut meter = Meter::resend().credits(1_000).start();
        let mut smtp = meter.signed_in();
        assert!(smtp.deliver(&letter("before")).starts_with("250 "));
        meter.drain();
        let Some(injected) = Injected::begin(meter.process().id(), SYNC, "EIO", when) else { return };
        let reply = smtp.deliver(&letter("refused"));
        assert!(reply.starts_with(NO_ROOM), "{reply}");
        meter.kill();
        injected.end();
        meter.serve();
        assert_eq!(meter.number("SELECT count(*) FROM message"), 1, "fsync fails at {when}");
        arrived(&mut meter, &set(&["before"]));
    }
}

#[test]
fn p1_a_disk_that_fails_now_and_then_under_load_loses_and_doubles_nothing() {
    if is_about_the_file("a disk that fails") {
        return;
    }
    let mut meter = Meter::resend().credits(10_000).start();
    let (acknowledged, refused) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    let is_killed = AtomicBool::new(false);
    let process = meter.take_process();
    let address = process.smtp;
    // A connection's first syncs are of the seal and of the directory.
    let Some(injected) = Injected::begin(process.id(), SYNC, "EIO", "5+7") else {
        process.stop();
        return;
    };
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (meter, acknowledged, refused, is_killed) = (&meter, &acknowledged, &refused, &is_killed);
            scope.spawn(move || {
                let mut smtp = Smtp::starttls_at(address, &meter.certificate());
                smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
                for nth in 0.. {
                    let subject = format!("t{thread}n{nth}");
                    match smtp.attempt(&["bob@example.net"], &letter(&subject)).as_str() {
                        reply if reply.starts_with("250 ") => acknowledged.lock().unwrap().insert(subject),
                        reply if reply.starts_with(NO_ROOM) => refused.lock().unwrap().insert(subject),
                        reply => {
                            assert!(is_killed.load(Ordering::SeqCst), "{reply}");
                            return;
                        }
                    };
                }
            });
        }
        until("many answers of both kinds", || {
            let enough = acknowledged.lock().unwrap().len() >= 60 && refused.lock().unwrap().len() >= 20;
            enough.then_some(())
        });
        is_killed.store(true, Ordering::SeqCst);
        process.kill();
    });
    injected.end();
    meter.finish();
    let (acknowledged, refused) = (acknowledged.into_inner().unwrap(), refused.into_inner().unwrap());
    let arrived: Vec<String> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    let distinct: BTreeSet<String> = arrived.iter().cloned().collect();
    assert_eq!(distinct.len(), arrived.len(), "P4");
    assert_eq!(acknowledged.difference(&distinct).collect::<Vec<_>>(), Vec::<&String>::new(), "P1");
    assert_eq!(refused.intersection(&distinct).collect::<Vec<_>>(), Vec::<&String>::new(), "452 is no mail");
    assert!(distinct.len() <= acknowledged.len() + 6, "one in hand for each connection at most");
}
