//! An upstream that is not able now is asked again, and nobody pays twice.

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::sink::CLOSE;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

#[test]
fn p4_what_resend_could_not_do_is_done_later_and_once() {
    const RATE: &str = r#"{"statusCode":429,"name":"rate_limit_exceeded","message":"Too many requests."}"#;
    let table: [Misbehaviour; 6] = [
        Reply::status(429).header("retry-after", "1").body(RATE).into(),
        Reply::status(500).into(),
        Misbehaviour::AnswerAfter(Reply::status(502)),
        Misbehaviour::DropBefore,
        Misbehaviour::DropAfter,
        Misbehaviour::Garble,
    ];
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    for (nth, fault) in table.into_iter().enumerate() {
        meter.resend_stand_in().faults().push(Fault::new(fault).on("POST", "/emails").times(1));
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        until("the fault to strike", || meter.resend_stand_in().faults().pending().is_empty().then_some(()));
    }
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 6);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 6);
    let listed = meter.get("/messages").json();
    let attempts = listed.as_array().unwrap().iter().map(|one| one["attempts"].as_u64().unwrap());
    assert_eq!(attempts.sum::<u64>(), 11, "a rate limit is no attempt: {listed}");
}

#[test]
fn p3_a_greylisting_upstream_gets_the_mail_later() {
    let meter = Meter::smtp().start();
    meter.sink().reply_times(1, "MAIL", "451 4.7.1 greylisted, come again");
    meter.sink().reply_times(1, "DOT", "451 4.3.0 not now");
    assert!(meter.signed_in().deliver(&letter("grey")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p4_only_the_recipient_that_was_put_off_is_asked_for_again() {
    let meter = Meter::smtp().start();
    meter.sink().reply_times(1, "RCPT TO:<cid@", "450 4.2.1 mailbox busy");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "cid@example.net"]);
    assert!(smtp.message(&letter("both")).starts_with("250 "));
    meter.drain();
    let mails = meter.sink().mails();
    let recipients: Vec<_> = mails.iter().map(|mail| mail.to.join(",")).collect();
    assert_eq!(recipients, ["bob@example.net", "cid@example.net"]);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p4_a_second_recipient_field_is_no_second_mail() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "bob@example.net", "BOB@example.net"]);
    assert!(smtp.message(&letter("thrice")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 1);
}

#[test]
fn p3_a_connection_that_is_lost_after_the_final_dot_costs_one_credit() {
    let meter = Meter::smtp().start();
    meter.sink().reply_times(1, "DOT", CLOSE);
    meter.sink().reply_times(1, "RCPT", CLOSE);
    assert!(meter.signed_in().deliver(&letter("lost")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p4_an_answer_that_never_comes_is_asked_for_again() {
    let meter = Meter::resend().set("upstream", "timeout_s = 1").start();
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Misbehaviour::HangAfter).on("POST", "/emails"));
    faults.push(Fault::new(Misbehaviour::HangBefore).on("POST", "/emails").after(1));
    let mut smtp = meter.signed_in();
    for nth in 0..3 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    meter.drain();
    assert_eq!((faults.struck(), meter.resend_stand_in().count()), (2, 3));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn p4_a_slow_upstream_is_waited_for_beyond_the_lease() {
    let meter = Meter::resend().set("queue", "lease_s = 2").start();
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Misbehaviour::Late { delay_ms: 3_500 }).on("POST", "/emails"));
    assert!(meter.signed_in().deliver(&letter("slow")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.resend_stand_in().calls(), 1, "nobody else took the part meanwhile");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p3_an_smtp_upstream_that_falls_silent_costs_one_credit() {
    let meter = Meter::smtp().set("upstream", "timeout_s = 1").start();
    meter.sink().reply_times(1, "MAIL", "");
    meter.sink().reply_times(1, "RCPT", "");
    assert!(meter.signed_in().deliver(&letter("silent")).starts_with("250 "));
    meter.drain();
    assert_eq!((meter.sink().unanswered(), meter.sink().mails().len()), (2, 1));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}
