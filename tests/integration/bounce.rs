//! What fails for good comes back to the sender, free of charge.

use mail_parser::MessageParser;
use postmeter::sandbox::faults::{Fault, Reply};
use reqwest::Method;

use crate::harness::sink::SinkMail;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// The one bounce among what the upstream took.
fn bounce(meter: &Meter) -> SinkMail {
    until("the bounce", || meter.sink().mails().into_iter().find(|mail| mail.from.is_empty()))
}

fn refusing() -> Meter {
    let meter = Meter::smtp().start();
    meter.sink().reply("RCPT TO:<gone@", "550 5.1.1 no such user here");
    meter
}

#[test]
fn a_mail_that_nobody_takes_bounces_and_costs_nothing() {
    let meter = refusing();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["gone@example.net"]);
    let reply = smtp.message(&letter("lost"));
    assert!(reply.contains(", 9 email credits available"), "{reply}");
    let bounce = bounce(&meter);
    assert_eq!(bounce.to, ["ann@example.com"]);
    let text = String::from_utf8(bounce.bytes.clone()).unwrap();
    assert!(text.contains("multipart/report; report-type=delivery-status"), "{text}");
    assert!(
        text.contains("Final-Recipient: rfc822; gone@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n")
    );
    assert!(text.contains("no such user here"), "{text}");
    let parsed = MessageParser::default().parse(&bounce.bytes).unwrap();
    assert_eq!(parsed.subject(), Some("Undelivered: lost"));
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("postmaster@example.com"));
    assert!(parsed.in_reply_to().as_text().is_some_and(|id| id.contains("lost@example.com")), "{text}");
    assert!(!text.contains("Hello Bob."), "the body stays private: {text}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
    assert_eq!(meter.credits()["available"], 10);
}

#[test]
fn one_of_three_recipients_fails_and_the_others_get_their_mail() {
    let meter = refusing();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "gone@example.net", "cid@example.net"]);
    let reply = smtp.message(&letter("three"));
    let id = reply.split([' ', ',']).nth(4).unwrap().to_owned();
    let bounce = bounce(&meter);
    meter.drain();
    let text = String::from_utf8(bounce.bytes).unwrap();
    assert_eq!(text.matches("Final-Recipient:").count(), 1, "{text}");
    let sent: Vec<_> = meter.sink().mails().into_iter().filter(|mail| !mail.from.is_empty()).collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to, ["bob@example.net", "cid@example.net"]);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);

    let log = meter.get(&format!("/messages/{id}")).json();
    let states: Vec<_> = log["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {}", one["address"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    for wanted in ["bob@example.net sent", "gone@example.net failed", "cid@example.net sent"] {
        assert!(states.contains(&wanted.to_owned()), "{log}");
    }
    assert_eq!((&log["debit"], &log["price"]), (&1.into(), &1.into()), "{log}");
}

#[test]
fn a_message_that_is_refused_whole_bounces_for_everyone() {
    let meter = Meter::smtp().start();
    meter.sink().reply_times(1, "DOT", "554 5.7.1 we do not like this");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "cid@example.net"]);
    assert!(smtp.message(&letter("disliked")).starts_with("250 "));
    let text = String::from_utf8(bounce(&meter).bytes).unwrap();
    assert_eq!(text.matches("Status: 5.7.1").count(), 2, "{text}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn mail_from_nobody_and_bounces_never_bounce() {
    let meter = Meter::smtp().start();
    meter.sink().reply("RCPT", "550 5.1.1 nobody is here");
    let mut smtp = meter.signed_in();
    smtp.begin("", &["gone@example.net"]);
    assert!(smtp.message(&letter("null")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1, "no bounce for a null sender");
    smtp.begin("ann@example.com", &["gone@example.net"]);
    assert!(smtp.message(&letter("twice")).starts_with("250 "));
    until("the bounce to fail too", || {
        (meter.number("SELECT count(*) FROM message WHERE kind = 'bounce' AND final_at > 0") == 1)
            .then_some(())
    });
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 3, "no bounce for a bounce");
    assert_eq!(meter.sink().mails(), []);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn what_resend_refuses_bounces_through_resend() {
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    let meter = Meter::resend().start();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    assert!(meter.signed_in().deliver(&letter("refused")).starts_with("250 "));
    let mail = until("the bounce", || meter.mails().first().cloned());
    meter.drain();
    let email = mail.email;
    assert_eq!(email.subject.as_deref(), Some("Undelivered: refused"));
    assert!(email.from.as_deref().unwrap().contains("postmaster@example.com"));
    assert_eq!(email.recipients().collect::<Vec<_>>(), ["ann@example.com"]);
    assert!(email.text.as_deref().unwrap().contains("<bob@example.net>"), "{:?}", email.text);
    let names: Vec<_> = email.attachments.iter().flatten().filter_map(|file| file.filename.clone()).collect();
    assert_eq!(names, ["delivery-status.txt", "original-headers.txt"]);
    assert!(!email.is_stuck());
    assert_eq!((meter.resend_stand_in().count(), meter.dodo().debited(CUSTOMER_ID)), (1, 0));
}

#[test]
fn p6_what_no_road_can_carry_is_refused_with_a_reason() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net"]);
    let signed = "From: ann@example.com\r\nTo: bob@example.net\r\nSubject: signed\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/signed; boundary=b; protocol=\"application/pgp-signature\"; micalg=pgp-sha256\r\n\r\n\
        --b\r\n\r\nhi\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n";
    let reply = smtp.message(signed.as_bytes());
    assert!(reply.starts_with("554 5.6."), "{reply}");
    let answer = ask(meter.request(Method::GET, "/readyz"));
    assert_eq!(answer.status, 200, "one message that cannot be carried is nobody else's trouble: {answer:?}");
    assert_eq!(meter.number("SELECT count(*) FROM message"), 0);
}
