//! What a client is told over SMTP, word for word.

use crate::harness::smtp::Smtp;
use crate::harness::{CUSTOMER_ID, Meter, letter};

#[test]
fn p9_a_wrong_username_or_secret_is_told_in_one_text() {
    let meter = Meter::resend().start();
    let mut smtp = Smtp::starttls(&meter);
    let secret = meter.credential.secret.clone();
    for (username, secret) in [(meter.credential.username.as_str(), "wrong"), ("nobody", secret.as_str())] {
        let reply = smtp.auth_plain(username, secret);
        assert_eq!(reply, "535 5.7.8 Authentication failed, check username and secret\r\n");
    }
    assert_eq!(smtp.say("MAIL FROM:<ann@example.com>"), "530 5.7.0 Authentication required\r\n");
}

#[test]
fn nothing_secret_is_asked_for_in_the_clear() {
    let meter = Meter::resend().start();
    let mut smtp = Smtp::plain(meter.process().smtp);
    assert!(!smtp.say("EHLO client.example").contains("AUTH"));
    let reply = smtp.say("AUTH PLAIN AGEAYg==");
    assert_eq!(reply, "538 5.7.11 Encryption required for authentication, send STARTTLS first\r\n");
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("530 5.7.0 "));
}

#[test]
fn every_way_to_sign_in_works() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let meter = Meter::resend().start();
    let (username, secret) = (&meter.credential.username, &meter.credential.secret);
    let mut smtp = Smtp::implicit(&meter);
    assert_eq!(smtp.say("AUTH PLAIN"), "334 \r\n");
    let plain = STANDARD.encode(format!("\0{username}\0{secret}"));
    assert!(smtp.say(&plain).starts_with("235 2.7.0 "));
    let mut smtp = Smtp::starttls(&meter);
    assert_eq!(smtp.say("AUTH LOGIN"), "334 VXNlcm5hbWU6\r\n");
    assert_eq!(smtp.say(&STANDARD.encode(username)), "334 UGFzc3dvcmQ6\r\n");
    assert!(smtp.say(&STANDARD.encode(secret)).starts_with("235 2.7.0 "));
    assert!(smtp.deliver(&letter("login")).starts_with("250 "));
}

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
fn a_revoked_credential_sends_no_more() {
    let meter = Meter::resend().start();
    let other = meter.new_credential();
    let mut smtp = Smtp::starttls(&meter);
    assert!(smtp.auth_plain(&other.username, &other.secret).starts_with("235 "));
    meter.says(&["credential", "revoke", &other.username]);
    let reply = smtp.say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("535 5.7.8 ") || reply.starts_with("530 5.7.0 "), "{reply}");
    let reply = Smtp::starttls(&meter).auth_plain(&other.username, &other.secret);
    assert_eq!(reply, "535 5.7.8 Authentication failed, check username and secret\r\n");
    assert!(meter.signed_in().deliver(&letter("first")).starts_with("250 "), "the first one still works");
}

#[test]
fn a_refused_message_leaves_the_session_clean_and_costs_nothing() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    let table: [(&[u8], &str); 6] = [
        (b"Subject: nobody\r\n\r\nx\r\n", "554 5.6.0 the message has no From header"),
        (
            b"From: ann@example.com\r\nFrom: ann@example.com\r\n\r\nx\r\n",
            "554 5.6.0 the message has more than one From header",
        ),
        (b"From: ann@example.com\r\n\r\na\rb\r\n", "554 5.6.0 Message holds a CR without LF"),
        (b"From: ann@example.com\r\n\r\na\0b\r\n", "554 5.6.0 Message holds a NUL"),
        (b"From: ann@example.com\r\n\r\na\nMAIL FROM:<x@example.com>\r\n", "554 5.6.0 Message holds an LF"),
        (
            b"From: ann@example.com\r\n\r\na\n.\nMAIL FROM:<x@example.com>\r\n",
            "554 5.6.0 Message holds an LF",
        ),
    ];
    for (message, wanted) in table {
        smtp.begin("ann@example.com", &["bob@example.net"]);
        // As the bytes are: nothing that looks like an end may be one.
        smtp.send(message);
        smtp.send(b".\r\n");
        let reply = smtp.reply();
        assert!(reply.starts_with(wanted), "{reply}");
        assert_eq!(smtp.say("NOOP"), "250 2.0.0 OK\r\n");
    }
    assert_eq!(meter.credits()["held"], 0);
    let reply = smtp.deliver(&letter("sound"));
    assert!(reply.ends_with(", 9 email credits available\r\n"), "{reply}");
}

#[test]
fn limits_are_told_before_the_message_is_sent() {
    let meter =
        Meter::resend().set("smtp", "max_message_bytes = 65536").set("smtp", "max_recipients = 2").start();
    let mut smtp = meter.signed_in();
    let reply = smtp.say("MAIL FROM:<ann@example.com> SIZE=65537");
    assert!(reply.starts_with("552 5.3.4 "), "{reply}");
    assert!(smtp.say("MAIL FROM:<ann@example.com> SIZE=100").starts_with("250 "));
    assert!(smtp.say("RCPT TO:<a@example.net>").starts_with("250 "));
    assert!(smtp.say("RCPT TO:<b@example.net>").starts_with("250 "));
    assert!(smtp.say("RCPT TO:<c@example.net>").starts_with("452 4.5.3 "));
    assert!(smtp.say("DATA").starts_with("354 "));
    let huge = [letter("huge"), b"0123456789abcdef\r\n".repeat(5_000)].concat();
    let reply = smtp.message(&huge);
    assert!(reply.starts_with("552 5.3.4 "), "{reply}");
    assert!(smtp.deliver(&letter("small")).starts_with("250 "));
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    let mut all =
        b"MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.net>\r\nRCPT TO:<\r\nDATA\r\n".to_vec();
    smtp.send(&all);
    let replies: Vec<_> = (0..4).map(|_| smtp.reply()[..3].to_owned()).collect();
    assert_eq!(replies, ["250", "250", "501", "354"]);
    all = letter("piped");
    all.extend_from_slice(b".\r\nNOOP\r\nQUIT\r\n");
    smtp.send(&all);
    let replies: Vec<_> = (0..3).map(|_| smtp.reply()[..3].to_owned()).collect();
    assert_eq!(replies, ["250", "250", "221"]);
    assert_eq!(smtp.reply(), "", "closed");
}

#[test]
fn whoever_speaks_http_to_the_smtp_port_is_told_so_once() {
    let meter = Meter::resend().start();
    let mut smtp = Smtp::plain(meter.process().smtp);
    smtp.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(smtp.reply(), "521 5.5.1 This is an SMTP server\r\n");
    assert_eq!(smtp.reply(), "");
}

#[test]
fn who_says_nothing_is_sent_away() {
    let meter = Meter::resend().set("smtp", "idle_timeout_s = 1").start();
    let mut idle = meter.signed_in();
    assert_eq!(idle.reply(), "421 4.4.2 Timeout, closing the connection\r\n");
    assert_eq!(idle.reply(), "");
}

#[test]
fn who_says_nonsense_is_sent_away() {
    let meter = Meter::resend().set("smtp", "max_errors = 3").start();
    let mut nonsense = Smtp::plain(meter.process().smtp);
    let replies: Vec<_> = (0..4).map(|_| nonsense.say("NONSENSE")).collect();
    assert_eq!(replies[0], "500 5.5.2 Command not recognized\r\n");
    assert_eq!(replies[3], "421 4.7.0 Too many errors, closing the connection\r\n");
    assert_eq!(nonsense.reply(), "");
}

#[test]
fn one_address_may_not_take_all_connections() {
    let meter = Meter::resend().set("smtp", "max_connections_per_ip = 2").start();
    let _others = [Smtp::implicit(&meter), Smtp::implicit(&meter)];
    let (mut third, banner) = Smtp::open(meter.process().smtp);
    assert_eq!(banner, "421 4.7.0 Too many connections, try again later\r\n");
    assert_eq!(third.reply(), "");
}
