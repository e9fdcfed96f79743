//! What a client is told over SMTP when something beside the session has changed; what
//! is said within one stands in `tests/dialogs`.

use crate::harness::smtp::Smtp;
use crate::harness::{CUSTOMER_ID, Meter, letter};

#[test]
fn p9_only_listed_senders_may_send() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    assert_eq!(
        smtp.say("MAIL FROM:<ann@example.org>"),
        "550 5.7.1 ann@example.org is not a sender of this account\r\n"
    );
    smtp.begin("ann@example.com", &["bob@example.net"]);
    let forged = b"From: Boss <boss@example.org>\r\nSubject: forged\r\n\r\nPay!\r\n";
    assert_eq!(smtp.message(forged), "550 5.7.1 boss@example.org is not a sender of this account\r\n");
    assert!(smtp.deliver(&letter("after")).starts_with("250 "), "the session is clean");

    meter.says(&["sender", "allow", CUSTOMER_ID, "*.example.org"]);
    assert!(smtp.say("MAIL FROM:<ann@example.org>").starts_with("550 "));
    assert!(smtp.say("MAIL FROM:<ann@news.example.org>").starts_with("250 "));
    smtp.say("RSET");
    meter.says(&["sender", "deny", CUSTOMER_ID, "example.com"]);
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("550 5.7.1 "));
}

#[test]
fn a_suspended_customer_reads_the_reason() {
    let meter = Meter::resend().start();
    meter.says(&["customer", "suspend", CUSTOMER_ID, "--reason", "unpaid invoice 7"]);
    let mut smtp = meter.signed_in();
    let reply = smtp.say("MAIL FROM:<ann@example.com>");
    assert_eq!(reply, "550 5.7.1 Account suspended: unpaid invoice 7\r\n");
    let refused = meter.post_send(&serde_json::json!({
        "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "t"
    }));
    refused.is_error(403, "suspended");
    meter.says(&["customer", "resume", CUSTOMER_ID]);
    assert!(smtp.deliver(&letter("resumed")).starts_with("250 "));
}

#[test]
fn one_address_may_not_take_all_connections() {
    let meter = Meter::resend().set("smtp", "max_connections_per_ip = 2").start();
    let _others = [Smtp::implicit(&meter), Smtp::implicit(&meter)];
    let (mut third, banner) = Smtp::open(meter.process().smtp);
    assert_eq!(banner, "421 4.7.0 Too many connections, try again later\r\n");
    assert_eq!(third.reply(), "");
}
