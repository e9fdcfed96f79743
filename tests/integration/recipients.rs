//! Who gets a message, and who sees whom.

use std::collections::BTreeSet;

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::{CUSTOMER_ID, Meter, file_to_a_list, letter, until};

/// To, Cc and Bcc of each mail that left, in any order of mails.
fn shown(meter: &Meter) -> BTreeSet<[String; 3]> {
    let mails = meter.mails().into_iter().map(|mail| mail.email);
    mails
        .map(|email| {
            [email.to, email.cc, email.bcc]
                .map(|list| list.map(|list| list.as_slice().join(",")).unwrap_or_default())
        })
        .collect()
}

#[test]
fn p5_only_the_envelope_decides_and_nobody_sees_a_hidden_recipient() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "hidden@example.net", "cid@example.net"]);
    let message = "From: ann@example.com\r\nTo: Bob <BOB@example.net>, absent@example.net\r\n\
        Cc: cid@example.net\r\nBcc: never@example.net\r\nSubject: s\r\n\r\nx\r\n";
    assert!(smtp.message(message.as_bytes()).starts_with("250 "));
    meter.drain();
    let mails = shown(&meter);
    assert_eq!(mails.len(), 1);
    let [to, cc, bcc] = mails.first().unwrap();
    assert!(to.contains("bob@example.net") && !to.contains("absent"), "{to}");
    assert_eq!((cc.as_str(), bcc.as_str()), ("cid@example.net", "hidden@example.net"));
}

#[test]
fn p4_hidden_recipients_named_in_any_order_are_sent_again_by_the_same_call() {
    let meter = Meter::resend().start();
    let lost = Fault::new(Misbehaviour::DropAfter).on("POST", "/emails").times(2);
    meter.resend_stand_in().faults().push(lost);
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["vis@example.net", "zed@example.net", "amy@example.net"]);
    let message = "From: ann@example.com\r\nTo: vis@example.net\r\nSubject: s\r\n\r\nx\r\n";
    assert!(smtp.message(message.as_bytes()).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.mails().len(), 1, "P4: once, whatever became of the answers");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p5_recipients_that_stand_in_no_header_get_a_mail_each_for_one_credit() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["a@example.net", "b@example.net", "c@example.net"]);
    let message = "From: ann@example.com\r\nTo: list@example.org\r\nSubject: s\r\n\r\nx\r\n";
    assert!(smtp.message(message.as_bytes()).starts_with("250 "));
    meter.drain();
    let alone = |to: &str| [to.to_owned(), String::new(), String::new()];
    let wanted = BTreeSet::from(["a@example.net", "b@example.net", "c@example.net"].map(alone));
    assert_eq!(shown(&meter), wanted);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p4_more_recipients_than_resend_takes_at_once_are_cut_into_parts() {
    let meter = Meter::resend().set("smtp", "max_recipients = 120").start();
    let mut smtp = meter.signed_in();
    let recipients: Vec<String> = (0..120).map(|nth| format!("r{nth}@example.net")).collect();
    smtp.begin("ann@example.com", &recipients.iter().map(String::as_str).collect::<Vec<_>>());
    let message =
        format!("From: ann@example.com\r\nTo: {}\r\nSubject: s\r\n\r\nx\r\n", recipients.join(",\r\n "));
    assert!(smtp.message(message.as_bytes()).starts_with("250 "));
    meter.drain();
    let mails = meter.mails();
    let mut got: Vec<String> =
        mails.iter().flat_map(|mail| mail.email.recipients().map(str::to_owned)).collect();
    assert!(mails.iter().all(|mail| mail.email.recipients().count() <= 50));
    assert_eq!(got.len(), 120);
    got.sort();
    let mut wanted = recipients;
    wanted.sort();
    assert_eq!(got, wanted);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn one_part_that_is_refused_bounces_for_its_recipient_alone() {
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    let meter = Meter::resend().start();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["a@example.net", "b@example.net", "c@example.net"]);
    assert!(smtp.message(&file_to_a_list("s")).starts_with("250 "));
    until("two mails and a bounce", || (meter.resend_stand_in().count() == 3).then_some(()));
    meter.drain();
    let mails = meter.mails();
    let bounce = mails.iter().find(|mail| mail.email.subject.as_deref() == Some("Undelivered: s")).unwrap();
    let text = bounce.email.text.as_deref().unwrap();
    assert_eq!(text.matches("@example.net>").count(), 1, "{text}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p6_a_message_that_the_upstream_cannot_carry_comes_back() {
    let meter = Meter::smtp().start();
    meter.sink().reply("EHLO", "250-sink.example\r\n250-AUTH PLAIN\r\n250 HELP");
    let mut smtp = meter.signed_in();
    let eight_bit = [letter("eight"), "Grüße\r\n".as_bytes().to_vec()].concat();
    assert!(smtp.deliver(&eight_bit).starts_with("250 "));
    let bounce = until("the bounce", || meter.sink().mails().first().cloned());
    let text = String::from_utf8(bounce.bytes).unwrap();
    assert!(bounce.from.is_empty() && text.contains("Status: 5.6.3"), "{text}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn p1_a_large_message_arrives_whole_even_after_a_kill() {
    let mut meter = Meter::smtp().start();
    meter.sink().hang("MAIL");
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let large = [letter("large"), line.repeat(40_000).into_bytes()].concat();
    assert!(meter.signed_in().deliver(&large).starts_with("250 "));
    until("the first try", || (meter.sink().unanswered() > 0).then_some(()));
    meter.kill();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    let got = meter.sink().mails().remove(0).bytes;
    assert!(got.ends_with(&large), "{} octets of {}", got.len(), large.len());
}
