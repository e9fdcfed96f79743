//! `unit = "recipient"`: each distinct recipient that is accepted costs a credit.

use postmeter::sandbox::faults::{Fault, Reply};
use serde_json::json;

use crate::harness::wait::until_is;
use crate::harness::web::credit_added;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, file_to_a_list, letter, until};

const OUT_OF_CREDIT: &str = "452 4.7.1 No email credits remaining, top up at https://meter.example\r\n";
const TAKEN: &str = "250 2.1.5 Recipient OK\r\n";
const SUMS: &str = "SELECT captured * 100 + released * 10 + (price - captured - released) FROM message
    WHERE kind = 'submission'";

/// What is captured, released and still held for the one message, a digit each.
fn sums(meter: &Meter) -> i64 {
    meter.number(SUMS)
}

fn five() -> [String; 5] {
    ["a", "b", "c", "d", "e"].map(|name| format!("RCPT TO:<{name}@example.net>"))
}

#[test]
fn p2_a_balance_of_three_takes_three_of_five_recipients() {
    let meter = Meter::smtp().credits(3).set("billing", "unit = \"recipient\"").start();
    let mut smtp = meter.signed_in();
    let [a, b, c, d, e] = five();
    let dialog = [
        ("MAIL FROM:<ann@example.com>", "250 2.1.0 Sender OK\r\n"),
        (&a, TAKEN),
        (&b, TAKEN),
        (&a, TAKEN),
        (&c, TAKEN),
        (&d, OUT_OF_CREDIT),
        ("RCPT TO:<B@example.net>", OUT_OF_CREDIT),
        ("RCPT TO:<b@EXAMPLE.net>", TAKEN),
        (&e, OUT_OF_CREDIT),
        ("DATA", "354 End data with <CR><LF>.<CR><LF>\r\n"),
    ];
    for (line, reply) in dialog {
        assert_eq!(smtp.say(line), reply, "{line}");
    }
    let reply = smtp.message(&letter("three"));
    assert!(reply.starts_with("250 ") && reply.ends_with(", 0 email credits available\r\n"), "{reply}");
    assert_eq!(smtp.say("MAIL FROM:<ann@example.com>"), OUT_OF_CREDIT);
    meter.drain();
    assert_eq!(meter.sink().mails()[0].to, ["a@example.net", "b@example.net", "c@example.net"]);
    assert_eq!(sums(&meter), 300);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn p3_of_five_recipients_the_three_that_the_upstream_takes_are_paid_for() {
    let meter = Meter::smtp().set("billing", "unit = \"recipient\"").start();
    meter.sink().reply("RCPT TO:<b@", "550 5.1.1 no such user");
    meter.sink().reply("RCPT TO:<d@", "553 5.1.3 not here");
    let mut smtp = meter.signed_in();
    let to = ["a@example.net", "b@example.net", "c@example.net", "d@example.net", "e@example.net"];
    smtp.begin("ann@example.com", &to);
    let reply = smtp.message(&letter("five"));
    assert!(reply.ends_with(", 5 email credits available\r\n"), "{reply}");
    meter.drain();
    assert_eq!(sums(&meter), 320);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
    assert_eq!(meter.credits()["available"], 7);
    let listed = meter.get("/messages").json();
    let mut messages = listed.as_array().unwrap().iter();
    let five = messages.find(|message| message["subject"] == "five").unwrap()["message_id"].as_str().unwrap();
    let story = meter.get(&format!("/messages/{five}")).json();
    let moments = story["timeline"].as_array().unwrap().iter();
    let credits = moments.filter_map(|moment| Some((moment["what"].as_str()?, moment["credits"].as_i64()?)));
    let mut credits: Vec<_> = credits.collect();
    credits.sort();
    assert_eq!(
        credits,
        [("accepted", 5), ("captured", 3), ("released", 2)],
        "its hold and what became of it"
    );
    let mails = meter.sink().mails();
    let message = mails.iter().find(|mail| !mail.from.is_empty()).unwrap();
    assert_eq!(message.to, ["a@example.net", "c@example.net", "e@example.net"]);
    let bounce = mails.iter().find(|mail| mail.from.is_empty()).unwrap();
    assert_eq!(String::from_utf8_lossy(&bounce.bytes).matches("Final-Recipient:").count(), 2);
}

#[test]
fn p3_whoever_is_put_off_stays_held_until_the_last_word() {
    let meter = Meter::smtp().credits(3).set("billing", "unit = \"recipient\"").start();
    meter.sink().reply("RCPT TO:<b@", "450 4.2.1 mailbox busy");
    meter.sink().reply_times(1, "RCPT TO:<c@", "452 4.2.2 mailbox full");
    meter.sink().reply("RCPT TO:<c@", "550 5.1.1 no such user");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["a@example.net", "b@example.net", "c@example.net"]);
    assert!(smtp.message(&letter("three")).starts_with("250 "));
    until_is("one to be captured, one released and one held", 111, || sums(&meter));
    until_is("the first to be settled", 1, || meter.dodo().debited(CUSTOMER_ID));
    let credits = meter.credits();
    assert_eq!(
        (&credits["available"], &credits["held"]),
        (&json!(1), &json!(1)),
        "P2: what is held is spent"
    );
    meter.sink().behave();
    meter.drain();
    assert_eq!(sums(&meter), 210);
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID)), (2, Some(1)));
}

#[test]
fn p2_a_race_between_sessions_is_decided_for_the_whole_message() {
    let meter = Meter::resend().credits(4).set("billing", "unit = \"recipient\"").start();
    let (mut one, mut other) = (meter.signed_in(), meter.signed_in());
    let to = ["a@example.net", "b@example.net", "c@example.net"];
    one.begin("ann@example.com", &to);
    other.begin("ann@example.com", &to);
    let reply = one.message(&letter("one"));
    assert!(reply.ends_with(", 1 email credits available\r\n"), "{reply}");
    assert_eq!(other.message(&letter("other")), OUT_OF_CREDIT);
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn a_top_up_between_mail_and_rcpt_counts() {
    let meter = Meter::resend().credits(1).set("billing", "unit = \"recipient\"").start();
    let mut smtp = meter.signed_in();
    let [a, b, c, d, _] = five();
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    assert_eq!(smtp.say(&a), TAKEN);
    RUNTIME.block_on(async { meter.dodo().grant(CUSTOMER_ID, 2, None).unwrap() });
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    assert_eq!((smtp.say(&b), smtp.say(&c)), (TAKEN.to_owned(), TAKEN.to_owned()));
    assert_eq!(smtp.say(&d), OUT_OF_CREDIT);
    assert!(smtp.say("DATA").starts_with("354 "));
    let reply = smtp.message(&letter("three"));
    assert!(reply.ends_with(", 0 email credits available\r\n"), "{reply}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn p2_a_request_to_more_recipients_than_there_are_credits_is_refused_as_a_whole() {
    let meter = Meter::resend().credits(3).set("billing", "unit = \"recipient\"").start();
    let request = |to: &[&str], bcc: &[&str]| json!({ "from": "ann@example.com", "to": to, "bcc": bcc, "subject": "s", "text": "t" });
    let four = request(&["a@example.net", "b@example.net"], &["c@example.net", "d@example.net"]);
    meter.post_send(&four).is_error(402, "out_of_credit");
    assert_eq!(meter.credits()["held"], 0);
    let three = request(&["a@example.net", "b@example.net"], &["c@example.net", "a@example.net"]);
    assert_eq!(meter.post_send(&three).status, 200);
    meter.drain();
    assert_eq!((meter.resend_stand_in().count(), meter.dodo().debited(CUSTOMER_ID)), (1, 3));
}

#[test]
fn p3_over_resend_a_part_is_paid_for_or_given_back_as_a_whole() {
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    let meter = Meter::resend().set("billing", "unit = \"recipient\"").start();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["a@example.net", "b@example.net", "c@example.net"]);
    assert!(smtp.message(&file_to_a_list("s")).starts_with("250 "));
    until("two mails and a bounce", || (meter.resend_stand_in().count() == 3).then_some(()));
    meter.drain();
    assert_eq!(sums(&meter), 210);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2);
    // Of two whom one mail serves, both are paid for.
    smtp.begin("ann@example.com", &["a@example.net", "b@example.net"]);
    let message = "From: ann@example.com\r\nTo: a@example.net, b@example.net\r\nSubject: s\r\n\r\nx\r\n";
    assert!(smtp.message(message.as_bytes()).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 4);
}
