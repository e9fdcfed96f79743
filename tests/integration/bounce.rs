//! What fails for good comes back to the sender, free of charge.

use mail_parser::MessageParser;
use postmeter::sandbox::faults::{Fault, Reply};
use postmeter::sandbox::resend::Email;
use reqwest::Method;
use serde_json::json;

use crate::harness::client::judged;
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
fn an_address_that_nobody_has_is_not_written_to_again_until_the_customer_wants_it() {
    let meter = refusing();
    meter.sink().reply("RCPT TO:<strict@", "550 5.7.1 not from you");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["gone@example.net", "strict@example.net", "bob@example.net"]);
    assert!(smtp.message(&letter("first")).starts_with("250 "));
    meter.drain();
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    let reply = smtp.say("RCPT TO:<Gone@example.net>");
    assert!(reply.starts_with("550 5.1.1 Gone@example.net is on the suppression list"), "{reply}");
    assert!(reply.contains("no such user here"), "{reply}");
    assert!(smtp.say("RCPT TO:<strict@example.net>").starts_with("250 "), "that is about the sender");
    let list = meter.get("/suppressions").json();
    assert_eq!((&list[0]["address"], &list[0]["reason"]), (&"gone@example.net".into(), &"bounce".into()));
    assert!(list[1].is_null());
    ask(meter.as_customer(reqwest::Method::DELETE, "/suppressions/gone@example.net"));
    assert!(smtp.say("RCPT TO:<gone@example.net>").starts_with("250 "));
    meter.drain();
}

#[test]
fn the_story_of_a_mail_names_its_bounce_and_the_address_that_it_suppressed() {
    let meter = refusing();
    let reply = meter.signed_in().attempt(&["gone@example.net", "bob@example.net"], &letter("story"));
    assert!(reply.starts_with("250 "), "{reply}");
    meter.drain();
    let id = |kind: &str| {
        let listed = meter.get("/messages").json();
        let mut messages = listed.as_array().unwrap().iter();
        let found = messages.find(|message| message["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {listed}"))["message_id"].clone()
    };
    let story = meter.get(&format!("/messages/{}", id("submission").as_str().unwrap())).json();
    let moment = |what: &str| {
        let mut moments = story["timeline"].as_array().unwrap().iter();
        moments.find(|moment| moment["what"] == what).unwrap_or_else(|| panic!("no {what}: {story}"))
    };
    let report = moment("report");
    assert_eq!((&report["message_id"], &report["outcome"]), (&id("bounce"), &json!("sent")), "{story}");
    assert_eq!(report["recipient"], "ann@example.com", "{story}");
    let suppressed = moment("suppressed");
    assert_eq!(
        (&suppressed["recipient"], &suppressed["outcome"]),
        (&json!("gone@example.net"), &json!("bounce")),
        "{story}"
    );
    assert!(suppressed["text"].as_str().unwrap().contains("no such user here"), "{story}");
    assert_eq!(moment("attempt")["part_no"], 0, "{story}");
}

/// Python's email package takes it apart, as the sender's own program would.
#[test]
fn another_parser_finds_in_a_bounce_what_happened_to_whom_and_what_to_do() {
    let meter = refusing();
    meter.sink().reply("RCPT TO:<full@", "550 5.2.2 mailbox over quota");
    meter
        .sink()
        .reply("RCPT TO:<strict@", "550-5.7.26 This mail is unauthenticated,\r\n550 5.7.26 see our page");
    let letter = "From: =?utf-8?q?Ann_Gr=C3=BCn?= <ann@example.com>\r\nTo: bob@example.net\r\n\
        Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=\r\nMessage-ID: <first@example.com>\r\n\
        Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n\r\nHello Bob.\r\n";
    let to = ["gone@b\u{fc}cher.example", "full@example.net", "strict@example.net", "bob@example.net"];
    let mut smtp = meter.signed_in();
    assert!(smtp.say("MAIL FROM:<ann@example.com> SMTPUTF8").starts_with("250 "));
    for to in to {
        let reply = smtp.say(&format!("RCPT TO:<{to}>"));
        assert!(reply.starts_with("250 "), "{reply}");
    }
    assert!(smtp.say("DATA").starts_with("354 "));
    assert!(smtp.message(letter.as_bytes()).starts_with("250 "));
    let Some(read) = judged("read_bounce.py", &bounce(&meter).bytes) else { return };
    assert_eq!(read["defects"], json!([]), "{read}");
    assert_eq!(
        (&read["type"], &read["report_type"]),
        (&json!("multipart/report"), &json!("delivery-status"))
    );
    assert_eq!(read["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
    assert_eq!(
        (&read["to"], &read["from"]),
        (&json!(["ann@example.com"]), &json!(["postmaster@example.com"]))
    );
    assert_eq!(read["subject"], "Undelivered: Gr\u{fc}\u{df}e aus K\u{f6}ln");
    assert_eq!((&read["auto_submitted"], &read["has_date"]), (&json!("auto-replied"), &json!(true)));
    let original = &read["original"];
    assert_eq!(original["Message-ID"], "<first@example.com>", "{original}");
    assert_eq!(original["From"], "Ann Gr\u{fc}n <ann@example.com>");
    assert_eq!(original["Subject"], "Gr\u{fc}\u{df}e aus K\u{f6}ln");

    let groups = read["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 4, "one about the message, one about each: {read}");
    assert!(groups[0]["Reporting-MTA"].as_str().unwrap().starts_with("dns; "), "{read}");
    assert!(
        groups[0]["Arrival-Date"].is_string() && groups[0]["X-Postmeter-Message-Id"].is_string(),
        "{read}"
    );
    let of = |address: &str| {
        let final_recipient = format!("rfc822; {address}");
        groups.iter().find(|group| group["Final-Recipient"] == final_recipient.as_str()).unwrap()
    };
    let table = [
        ("gone@xn--bcher-kva.example", "5.1.1", "smtp; 550 5.1.1 no such user here", "does not exist"),
        ("full@example.net", "5.2.2", "smtp; 550 5.2.2 mailbox over quota", "mailbox is full"),
        ("strict@example.net", "5.7.26", "smtp; 550 ", "SPF, DKIM and DMARC"),
    ];
    let text = read["text"].as_str().unwrap();
    for (address, status, said, words) in table {
        let group = of(address);
        assert_eq!((&group["Action"], &group["Status"]), (&json!("failed"), &json!(status)), "{group}");
        assert!(group["Diagnostic-Code"].as_str().unwrap().starts_with(said), "{group}");
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("<bob@example.net>") && text.contains("<full@example.net>"), "{text}");
    assert_eq!(text.matches("What to do: ").count(), 3, "{text}");
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
    meter.sink().reply("RCPT", "550 5.7.1 not from you");
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

/// A bounce that went through Resend, put together to the report that it would be over SMTP.
fn as_report(email: &Email) -> Vec<u8> {
    let files: Vec<Vec<u8>> = email.attachments.iter().flatten().map(|file| file.octets().unwrap()).collect();
    let parts = [
        ("text/plain; charset=utf-8", email.text.clone().unwrap().into_bytes()),
        ("message/delivery-status", files[0].clone()),
        ("text/rfc822-headers; charset=utf-8", files[1].clone()),
    ];
    let (from, to) = (email.from.as_deref().unwrap(), email.recipients().collect::<Vec<_>>().join(", "));
    let head = format!(
        "From: {from}\r\nTo: {to}\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n"
    );
    let mut report = head.into_bytes();
    for (media, octets) in parts {
        report.extend_from_slice(format!("\r\n--b\r\nContent-Type: {media}\r\n\r\n").as_bytes());
        report.extend_from_slice(&octets);
    }
    report.extend_from_slice(b"\r\n--b--\r\n");
    report
}

#[test]
fn what_resend_refuses_bounces_through_resend() {
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    let meter = Meter::resend().start();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    let to = ["bob@example.net", "cid@xn--bcher-kva.example"];
    assert!(meter.signed_in().attempt(&to, &letter("refused")).starts_with("250 "));
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
    // What programs read is as sound as in a bounce over SMTP.
    let Some(read) = judged("read_bounce.py", &as_report(&email)) else { return };
    assert_eq!(read["defects"], json!([]), "{read}");
    let groups = read["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3, "one about the message, one about each: {read}");
    assert!(groups[0]["Reporting-MTA"].as_str().unwrap().starts_with("dns; "), "{read}");
    for (group, address) in groups[1..].iter().zip(["bob@example.net", "cid@xn--bcher-kva.example"]) {
        assert_eq!(group["Final-Recipient"], format!("rfc822; {address}"), "{read}");
        assert_eq!(group["Action"], "failed", "{read}");
        assert!(group["Status"].as_str().unwrap().starts_with("5."), "{read}");
        assert!(group["Diagnostic-Code"].as_str().unwrap().contains("Invalid `to` field."), "{read}");
    }
    assert_eq!(read["original"]["Message-ID"], "<refused@example.com>", "{read}");
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
