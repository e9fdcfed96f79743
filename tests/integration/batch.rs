//! Many mails in one call to Resend: every mail leaves once and is billed once, whatever
//! becomes of the calls, and nobody waits for company.

use std::collections::BTreeMap;

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use postmeter::sandbox::resend::Refusal;

use crate::harness::plan::Plan;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

const WAITING: &str = "SELECT count(*) FROM part WHERE state = 'queued'";
const UNDER_WAY: &str = "SELECT count(*) FROM part WHERE state = 'sending'";

fn plan() -> Plan {
    Meter::resend().credits(1_000).set("upstream", "timeout_s = 2").set("queue", "retry_max_s = 1")
}

/// A letter that Resend refuses for its recipient.
const REFUSED: &[&str] = &["bob@nowhere"];
const FRIEND: &[&str] = &["bob@example.net"];

/// These wait in the database, and Resend allows ten calls a second when it runs again.
fn deep(plan: Plan, letters: &[(&[&str], Vec<u8>)]) -> Meter {
    deep_of(plan, letters.len(), |meter| {
        let mut smtp = meter.signed_in();
        letters.iter().for_each(|(to, letter)| taken(&mut smtp, to, letter));
    })
}

#[track_caller]
fn taken(smtp: &mut Smtp, to: &[&str], letter: &[u8]) {
    let reply = smtp.attempt(to, letter);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The same with so many letters of whomever.
fn deep_of(plan: Plan, count: usize, submit: impl FnOnce(&Meter)) -> Meter {
    let mut meter = plan.start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Refusal::bad_key(401)).on("POST", "/emails").always());
    submit(&meter);
    until_is("what waits", count as i64, || meter.number(WAITING));
    meter.stop();
    faults.clear();
    meter.resend_stand_in().behave(|manners| manners.per_second = 10);
    meter
}

fn letters(count: usize) -> Vec<(&'static [&'static str], Vec<u8>)> {
    (0..count).map(|nth| (FRIEND, letter(&format!("n{nth}")))).collect()
}

/// How many mails each call took, largest first: those of one call have one key.
fn calls(meter: &Meter) -> Vec<usize> {
    let mut sizes = BTreeMap::<String, usize>::new();
    for mail in meter.mails() {
        *sizes.entry(mail.idempotency_key.unwrap()).or_default() += 1;
    }
    let mut sizes: Vec<usize> = sizes.into_values().collect();
    sizes.sort_by(|a, b| b.cmp(a));
    sizes
}

/// How often each of these arrived.
fn arrivals(meter: &Meter) -> BTreeMap<String, usize> {
    let mut arrived = BTreeMap::<String, usize>::new();
    for mail in meter.mails() {
        *arrived.entry(mail.email.subject.unwrap()).or_default() += 1;
    }
    arrived
}

#[track_caller]
fn left_once_each(meter: &mut Meter, count: usize) {
    meter.finish();
    let arrived = arrivals(meter);
    assert_eq!((arrived.len(), arrived.values().max()), (count, Some(&1)), "P4");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), count as u64, "P3");
}

#[test]
fn p3_p4_a_deep_queue_leaves_in_calls_of_a_hundred() {
    let mut meter = deep(plan(), &letters(330));
    let before = meter.resend_stand_in().calls();
    meter.serve();
    left_once_each(&mut meter, 330);
    // One to see whether the gate is open.
    assert_eq!(calls(&meter), [100, 100, 100, 29, 1]);
    assert_eq!(meter.resend_stand_in().calls() - before, 5);
}

#[test]
fn at_low_rates_each_mail_leaves_alone_and_at_once() {
    let mut meter = plan().start();
    let mut smtp = meter.signed_in();
    for nth in 0..10 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        until_is("mails", nth + 1, || meter.resend_stand_in().count());
    }
    left_once_each(&mut meter, 10);
    assert_eq!((calls(&meter), meter.resend_stand_in().calls()), (vec![1; 10], 10));
}

#[test]
fn p3_one_bad_mail_among_a_hundred_comes_back_and_holds_nobody() {
    let mut queue = letters(100);
    queue.insert(37, (REFUSED, letter("bad")));
    let mut meter = deep(plan(), &queue);
    let before = meter.resend_stand_in().calls();
    meter.serve();
    meter.drain();
    let made = meter.resend_stand_in().calls() - before;
    meter.finish();
    let arrived = arrivals(&meter);
    assert_eq!(arrived.get("Undelivered: bad"), Some(&1));
    assert_eq!((arrived.len(), arrived.values().max()), (101, Some(&1)));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 100);
    // 2 × log₂ 100, the first to see, the bounce.
    assert!(made <= 18, "{made} calls");
    let failed: Vec<String> = meter.read("SELECT address FROM recipient WHERE state = 'failed'");
    assert_eq!(failed, REFUSED);
}

#[test]
fn p3_one_customers_bad_mail_takes_few_calls_of_others_apart() {
    const EACH: usize = 300;
    // One call at a time: what was learnt of a call is known before the next one leaves.
    let plan = plan().set("senders", "policy = \"any\"").set("upstream", "max_concurrency = 2");
    let mut meter = deep_of(plan, 2 * EACH, |meter| {
        let other = meter.new_customer("cus_other", 1_000);
        let mut others = Smtp::starttls(meter);
        assert!(others.auth_plain(&other.username, &other.secret).starts_with("235 "));
        let mut smtp = meter.signed_in();
        for nth in 0..EACH {
            let to = if nth % 20 == 7 { REFUSED } else { FRIEND };
            taken(&mut smtp, to, &letter(&format!("n{nth}")));
            taken(&mut others, FRIEND, &letter(&format!("other{nth}")));
        }
    });
    meter.serve();
    meter.finish();
    let arrived = arrivals(&meter);
    assert_eq!(
        (arrived.len(), arrived.values().max()),
        (2 * EACH, Some(&1)),
        "with a bounce for each that is bad"
    );
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().debited("cus_other")), (285, 300));
    // The first call, and those that left before its halves were: every call has bad mail.
    const DIVIDED: &str = "SELECT count(*) FROM part JOIN message USING (message_id)
        WHERE message.customer_id = 'cus_other' AND batch_max < 100";
    let divided = meter.number(DIVIDED);
    assert!((1..=EACH as i64 / 2).contains(&divided), "{divided}");
}

#[test]
fn p3_a_domain_that_is_not_verified_costs_the_others_nothing() {
    let other = letter("other");
    let other = String::from_utf8(other).unwrap().replace("ann@example.com", "ann@other.example");
    let mut queue = letters(60);
    queue.insert(20, (FRIEND, other.into_bytes()));
    let mut meter = deep(plan().set("senders", "policy = \"any\""), &queue);
    meter.resend_stand_in().behave(|manners| manners.verified_domains = Some(vec!["example.com".to_owned()]));
    meter.serve();
    meter.finish();
    let arrived = arrivals(&meter);
    assert_eq!((arrived.get("other"), arrived.get("Undelivered: other")), (None, Some(&1)));
    assert_eq!((arrived.len(), arrived.values().max()), (61, Some(&1)));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 60);
    let status: Vec<String> = meter.read("SELECT status FROM recipient WHERE state = 'failed'");
    assert_eq!(status, ["5.7.1"]);
}

#[test]
fn p4_a_call_without_an_answer_is_made_again_as_it_was() {
    let broken = || Misbehaviour::from(Refusal::application_error("Internal server error"));
    let table: [&[Misbehaviour]; 6] = [
        &[Misbehaviour::DropAfter],
        &[Misbehaviour::Garble, broken(), Misbehaviour::HangBefore],
        &[Misbehaviour::AnswerAfter(Reply::status(200).body(r#"{"data":[]}"#))],
        &[Misbehaviour::DropAfter, Refusal::concurrent().into(), Refusal::rate_limited(1).into()],
        &[Misbehaviour::DropAfter, Refusal::unverified_domain("example.com").into()],
        &[Misbehaviour::HangAfter],
    ];
    std::thread::scope(|scope| {
        for faults in table {
            scope.spawn(move || {
                let mut meter = deep(plan(), &letters(30));
                for fault in faults {
                    meter
                        .resend_stand_in()
                        .faults()
                        .push(Fault::new(fault.clone()).on("POST", "/emails/batch"));
                }
                meter.serve();
                left_once_each(&mut meter, 30);
                assert_eq!(calls(&meter), [29, 1], "{faults:?}");
                assert_eq!(meter.resend_stand_in().faults().pending(), []);
            });
        }
    });
}

#[test]
fn p4_a_call_that_was_under_way_at_a_crash_is_made_again_as_it_was() {
    for hangs in [Misbehaviour::HangBefore, Misbehaviour::HangAfter] {
        let mut meter = deep(plan(), &letters(30));
        meter.resend_stand_in().faults().push(Fault::new(hangs).on("POST", "/emails/batch"));
        meter.serve();
        until("the call", || meter.resend_stand_in().faults().pending().is_empty().then_some(()));
        meter.kill();
        meter.serve();
        left_once_each(&mut meter, 30);
        assert_eq!(calls(&meter), [29, 1]);
    }
}

#[test]
fn p4_what_is_put_off_leaves_later_and_is_no_attempt() {
    let mut meter = deep(plan(), &letters(30));
    let refusals = [Refusal::rate_limited(1), Refusal::rate_limited(1)];
    for refusal in refusals {
        meter.resend_stand_in().faults().push(Fault::new(refusal).on("POST", "/emails/batch"));
    }
    meter.serve();
    left_once_each(&mut meter, 30);
    assert_eq!(calls(&meter), [29, 1]);
    assert_eq!(meter.number("SELECT max(attempt) FROM part"), 1);
}

#[test]
fn mail_with_attachments_goes_alone() {
    let with_file = b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: file\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nSee there.\r\n\
        --b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\na,b\r\n--b--\r\n";
    let mut queue = letters(20);
    queue.insert(3, (FRIEND, with_file.to_vec()));
    let mut meter = deep(plan(), &queue);
    meter.serve();
    left_once_each(&mut meter, 21);
    let alone: Vec<_> = meter.mails().into_iter().filter(|mail| mail.email.attachments.is_some()).collect();
    assert_eq!(alone.len(), 1);
    let key = alone[0].idempotency_key.clone().unwrap();
    assert_eq!(meter.mails().iter().filter(|mail| mail.idempotency_key.as_ref() == Some(&key)).count(), 1);
    assert_eq!(meter.number("SELECT count(*) FROM part WHERE batch_id IS NULL"), 1);
}

#[test]
fn a_quota_is_used_to_its_last_mail_and_then_closes_the_gate() {
    let mut meter = deep(plan(), &letters(230));
    meter.resend_stand_in().behave(|manners| manners.monthly_quota = Some(150));
    meter.serve();
    until("the gate", || {
        (meter.number("SELECT count(*) FROM gate WHERE reason LIKE '%monthly%'") == 1).then_some(())
    });
    until_is("what is under way", 0, || meter.number(UNDER_WAY));
    assert_eq!((meter.resend_stand_in().count(), meter.number(WAITING)), (150, 80));
    meter.stop();
    meter.resend_stand_in().behave(|manners| manners.monthly_quota = None);
    meter.serve();
    left_once_each(&mut meter, 230);
    assert_eq!(meter.number("SELECT max(attempt) FROM part"), 1, "to be put off by a gate is no attempt");
}

/// Mail that waits in memory for a turn, which comes only after a while.
fn waiting_in_memory(count: usize) -> Meter {
    let meter = plan().start();
    let mut smtp = meter.signed_in();
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Refusal::rate_limited(9)).on("POST", "/emails"));
    assert!(smtp.deliver(&letter("first")).starts_with("250 "));
    until_is("what was put off", 1, || meter.number(WAITING));
    for nth in 1..count {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    meter
}

#[test]
fn p1_a_stop_gives_back_what_waits_in_memory() {
    let mut meter = waiting_in_memory(40);
    meter.stop();
    assert_eq!(meter.number(WAITING) + meter.resend_stand_in().count() as i64, 40);
    assert_eq!(meter.number("SELECT count(*) FROM part WHERE unknown = 1 OR batch_max < 100"), 0);
    meter.serve();
    left_once_each(&mut meter, 40);
}

#[test]
fn p4_what_waited_in_memory_at_a_crash_was_not_tried_and_leaves_together() {
    let mut meter = waiting_in_memory(40);
    meter.kill();
    meter.serve();
    left_once_each(&mut meter, 40);
    assert_eq!(meter.number("SELECT count(*) FROM part WHERE batch_max < 100"), 0);
    assert!(calls(&meter).len() <= 3, "{:?}", calls(&meter));
}
