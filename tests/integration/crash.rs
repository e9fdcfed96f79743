//! kill -9 at bad moments: nothing acknowledged is lost, nothing leaves or costs twice.

mod points;
mod random;
mod scenario;
mod tally;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::{CUSTOMER_ID, Meter, file_to_a_list, letter, until};

fn subjects(meter: &Meter) -> Vec<String> {
    meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect()
}

/// Of these every second one has a call for itself, and the others may leave together.
fn of_either_kind(nth: u64, subject: &str) -> Vec<u8> {
    if nth.is_multiple_of(2) { file_to_a_list(subject) } else { letter(subject) }
}

#[test]
fn p1_what_was_accepted_while_the_upstream_failed_survives_a_kill() {
    let mut meter = Meter::resend().credits(100).start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Misbehaviour::HangBefore).on("POST", "/emails").times(5));
    faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/emails").times(5));
    faults.push(Fault::new(Reply::status(500)).on("POST", "/emails").always());
    let mut smtp = meter.signed_in();
    let sent: BTreeSet<String> = (0..30).map(|nth| format!("n{nth}")).collect();
    for (nth, subject) in (0..).zip(&sent) {
        assert!(smtp.deliver(&of_either_kind(nth, subject)).starts_with("250 2.0.0 Queued as "));
    }
    until("every kind of fault to strike", || (faults.struck() >= 12).then_some(()));
    meter.kill();
    faults.clear();
    meter.serve();
    meter.drain();
    let arrived = subjects(&meter);
    assert_eq!(arrived.len(), 30, "P4: each once");
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), sent);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 30);
}

#[test]
fn p1_every_acknowledged_message_survives_a_kill_while_clients_send() {
    let mut meter = Meter::resend().credits(10_000).start();
    let acknowledged = Mutex::new(BTreeSet::new());
    let is_killed = AtomicBool::new(false);
    let process = meter.take_process();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (acknowledged, is_killed) = (&acknowledged, &is_killed);
            let (certificate, credential, address) =
                (meter.certificate(), meter.credential.clone(), process.smtp);
            scope.spawn(move || {
                let mut smtp = crate::harness::smtp::Smtp::starttls_at(address, &certificate);
                smtp.auth_plain(&credential.username, &credential.secret);
                for nth in 0.. {
                    let subject = format!("t{thread}n{nth}");
                    if !smtp.try_deliver(&letter(&subject)) {
                        assert!(is_killed.load(Ordering::SeqCst), "the connection broke by itself");
                        return;
                    }
                    acknowledged.lock().unwrap().insert(subject);
                }
            });
        }
        until("some mail to be on its way", || (acknowledged.lock().unwrap().len() >= 60).then_some(()));
        is_killed.store(true, Ordering::SeqCst);
        process.kill();
    });
    meter.serve();
    meter.drain();
    let arrived = subjects(&meter);
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|subject| !arrived.contains(subject)).collect();
    assert_eq!(lost, Vec::<&String>::new(), "P1");
    assert!(arrived.len() <= acknowledged.len() + 4, "one in hand for each connection at most");
}

#[test]
fn p3_a_kill_between_debit_and_answer_costs_nothing_more() {
    for fault in [Misbehaviour::HangAfter, Misbehaviour::HangBefore] {
        let mut meter = Meter::resend().start();
        let faults = meter.dodo().faults().clone();
        faults.push(Fault::new(fault).on("POST", "/ledger-entries"));
        let mut smtp = meter.signed_in();
        for nth in 0..3 {
            assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        }
        until("the entry to hang", || (faults.struck() == 1).then_some(()));
        until("all mails to leave", || (meter.resend_stand_in().count() == 3).then_some(()));
        meter.kill();
        meter.serve();
        meter.drain();
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
    }
}

#[test]
fn p3_a_mail_that_an_smtp_upstream_took_before_a_kill_costs_one_credit() {
    let mut meter = Meter::smtp().start();
    meter.sink().hang("DOT");
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("once")).starts_with("250 "));
    until("the upstream to hold its answer back", || (meter.sink().unanswered() == 1).then_some(()));
    meter.kill();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p1_p3_p4_many_kills_and_faults_of_every_kind_lose_and_double_nothing() {
    let mut meter = Meter::resend().credits(10_000).start();
    let (mail, money) = (meter.resend_stand_in().faults().clone(), meter.dodo().faults().clone());
    let mut acknowledged = BTreeSet::new();
    for round in 0..5 {
        for misbehaviour in [
            Misbehaviour::DropAfter,
            Misbehaviour::HangAfter,
            Misbehaviour::AnswerAfter(Reply::status(500)),
            Misbehaviour::DropBefore,
            Misbehaviour::Late { delay_ms: 300 },
        ] {
            mail.push(Fault::new(misbehaviour.clone()).on("POST", "/emails").after(round));
            money.push(Fault::new(misbehaviour).on("POST", "/ledger-entries"));
        }
        let calls = meter.resend_stand_in().calls();
        let mut smtp = meter.signed_in();
        for nth in 0..10 + round {
            let subject = format!("r{round}n{nth}");
            assert!(smtp.try_deliver(&of_either_kind(nth, &subject)));
            acknowledged.insert(subject);
        }
        until("some calls", || (meter.resend_stand_in().calls() > calls + round).then_some(()));
        meter.kill();
        mail.clear();
        meter.serve();
    }
    money.clear();
    meter.drain();
    let arrived = subjects(&meter);
    assert_eq!(arrived.len(), acknowledged.len(), "P4");
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), acknowledged, "P1");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), acknowledged.len() as u64, "P3");
}
