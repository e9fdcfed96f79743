//! What the log says, and what it must not say.

use serde_json::Value;

use crate::harness::{Meter, letter};

#[test]
fn p10_a_json_log_has_one_event_a_line_and_no_secret_and_no_body() {
    let mut meter = Meter::resend().argument("--log-format").argument("json").start();
    let mut smtp = crate::harness::smtp::Smtp::starttls(&meter);
    smtp.auth_plain(&meter.credential.username, "wrong-secret-1234");
    drop(smtp);
    let reply = meter.signed_in().deliver(&letter("logged"));
    let id = reply.split([' ', ',']).nth(4).unwrap().to_owned();
    meter.post_send(&serde_json::json!({
        "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "private words"
    }));
    meter.finish();
    let log = meter.log();
    let events: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let about = |message: &str| {
        events.iter().find(|event| event["message"] == message && event["message_id"] == id.as_str())
    };
    let accepted = about("message accepted").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(
        (&accepted["customer_id"], &accepted["recipients"]),
        (&"cus_ann".into(), &1.into()),
        "{accepted}"
    );
    let attempt = about("attempt").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&attempt["outcome"], &attempt["attempt"]), (&"sent".into(), &1.into()), "{attempt}");
    let settled: Vec<_> = events.iter().filter(|event| event["message"] == "entry settled").collect();
    assert!(!settled.is_empty() && settled.iter().all(|event| event["entry_id"].is_string()), "{log}");
    for private in ["Hello Bob", "private words", "wrong-secret-1234"] {
        assert!(!log.contains(private), "{private}: {log}");
    }
}

#[test]
fn p9_what_a_customer_was_refused_stands_in_the_log_once_for_each_session() {
    let mut meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    assert!(smtp.say("MAIL FROM:<eve@elsewhere.example>").starts_with("550 5.7.1 "));
    smtp.begin("ann@example.com", &["bob@example.net"]);
    smtp.send(b"From: ann@example.com\r\n\r\nHello\nBob\r\n.\r\n");
    assert!(smtp.reply().starts_with("554 5.6.0 "));
    assert!(smtp.say("QUIT").starts_with("221 "));
    assert!(meter.signed_in().deliver(&letter("sound")).starts_with("250 "));
    meter.finish();
    let log = meter.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("a session with refusals ended")).collect();
    let [told] = told[..] else { panic!("{log}") };
    for part in ["INFO", "customer_id=cus_ann", "refused=2", "last=554 5.6.0 Message holds an LF"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_text_log_has_no_body_either() {
    let mut meter = Meter::smtp().start();
    meter.signed_in().deliver(&letter("logged"));
    meter.finish();
    let log = meter.log();
    assert!(log.contains("message accepted") && log.contains("entry settled"), "{log}");
    assert!(!log.contains("Hello Bob"), "{log}");
}
