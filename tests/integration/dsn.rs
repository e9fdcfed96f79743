//! What a sender asks to be told (RFC 3461): passed on where the upstream tells it, told by
//! us where nobody else does, and never told to whoever asked not to be.

use mail_parser::MessageParser;
use postmeter::crash::{self, CrashPoint};
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use postmeter::sandbox::resend::{News, Refusal};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::client::{Port, judged, msmtp};
use crate::harness::sink::SinkMail;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::hosts::{dies, two_hosts};

const OFFERING: &str = "250-sink.example\r\n250-8BITMIME\r\n250-DSN\r\n250-AUTH PLAIN LOGIN\r\n250 SMTPUTF8";

/// Whose upstream says that it tells senders what they ask to be told.
fn offering() -> Meter {
    let mut meter = Meter::smtp().prepare();
    meter.sink().reply("EHLO", OFFERING);
    meter.serve();
    meter
}

/// MAIL and RCPTs with these parameters, and the message.
fn send(smtp: &mut Smtp, mail: &str, to: &[(&str, &str)], message: &[u8]) {
    let from = format!("MAIL FROM:<{mail}");
    let to = to.iter().map(|(to, asked)| format!("RCPT TO:<{to}> {asked}"));
    for line in std::iter::once(from).chain(to) {
        let reply = smtp.say(&line);
        assert!(reply.starts_with("250 "), "{line}: {reply}");
    }
    assert!(smtp.say("DATA").starts_with("354 "));
    let reply = smtp.message(message);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// Reports among what the SMTP upstream took, by what their subject begins with.
fn reports(meter: &Meter, title: &str) -> Vec<SinkMail> {
    let is_report = |mail: &SinkMail| {
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
        mail.from.is_empty() && parsed.subject().is_some_and(|subject| subject.starts_with(title))
    };
    meter.sink().mails().into_iter().filter(is_report).collect()
}

/// The one report of that kind, as Python reads it.
fn read(meter: &Meter, title: &str) -> Option<Value> {
    let mut found = reports(meter, title);
    assert_eq!(found.len(), 1, "{title}");
    let report = found.remove(0);
    assert_eq!(report.to, ["ann@example.com"]);
    let read = judged("read_bounce.py", &report.bytes)?;
    assert_eq!((&read["defects"], &read["report_type"]), (&json!([]), &json!("delivery-status")), "{read}");
    Some(read)
}

/// The addresses that a report is about.
fn about(report: &Value) -> Vec<&str> {
    let groups = report["groups"].as_array().unwrap();
    groups[1..].iter().map(|group| group["Final-Recipient"].as_str().unwrap()).collect()
}

#[test]
fn what_is_asked_is_passed_on_where_the_upstream_tells_it() {
    let meter = offering();
    let mut smtp = meter.signed_in();
    let to = [
        ("bob@example.net", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2B1@example.net"),
        ("cid@example.net", "NOTIFY=NEVER"),
        ("dan@example.net", ""),
        ("bob@EXAMPLE.net", "NOTIFY=DELAY ORCPT=rfc822;other@example.net"),
    ];
    send(&mut smtp, "ann@example.com> RET=HDRS ENVID=QQ+2B1", &to, &letter("asked"));
    meter.drain();
    let said = meter.sink().commands();
    assert_eq!(
        said,
        [
            "MAIL FROM:<ann@example.com> RET=HDRS ENVID=QQ+2B1",
            "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Bob+2B1@example.net",
            "RCPT TO:<cid@example.net> NOTIFY=NEVER",
            "RCPT TO:<dan@example.net>",
        ]
    );
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1, "to tell is the upstream's duty");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn where_the_upstream_does_not_we_tell_that_it_was_handed_on() {
    let meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    let to = [
        ("bob@example.net", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2B1@example.net"),
        ("cid@example.net", "NOTIFY=FAILURE"),
        ("dan@example.net", ""),
        ("eve@example.net", "NOTIFY=SUCCESS"),
    ];
    send(&mut smtp, "ann@example.com> RET=FULL ENVID=QQ+2B1", &to, &letter("asked"));
    meter.drain();
    let said = meter.sink().commands();
    assert!(said.iter().all(|line| line.ends_with('>')), "{said:?}");
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), reports(&meter, "Undelivered").len()), (1, 0));
    let Some(report) = read(&meter, "Sent: asked") else { return };
    assert_eq!(about(&report), ["rfc822; bob@example.net", "rfc822; eve@example.net"]);
    assert_eq!(report["groups"][0]["Original-Envelope-Id"], "QQ+1");
    let bob = &report["groups"][1];
    assert_eq!((&bob["Action"], &bob["Status"]), (&json!("relayed"), &json!("2.0.0")), "{report}");
    assert_eq!(bob["Original-Recipient"], "rfc822; Bob+1@example.net");
    let (by, said) = (bob["Remote-MTA"].as_str(), bob["Diagnostic-Code"].as_str());
    assert_eq!((by, said), (Some("dns; [127.0.0.1]"), Some("smtp; 250 2.0.0 queued as 42")), "{report}");
    assert!(report["groups"][2].get("Original-Recipient").is_none(), "{report}");
    assert_eq!(report["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
}

#[test]
fn a_failure_is_told_to_whoever_did_not_ask_for_silence() {
    for meter in [offering(), Meter::smtp().start()] {
        meter.sink().reply("RCPT TO:<gone", "550 5.7.1 not from you");
        let to = [
            ("gone1@example.net", "NOTIFY=NEVER"),
            ("gone2@example.net", "NOTIFY=SUCCESS,DELAY"),
            ("gone3@example.net", "NOTIFY=FAILURE ORCPT=rfc822;Gone@example.net"),
            ("gone4@example.net", ""),
        ];
        send(&mut meter.signed_in(), "ann@example.com> ENVID=QQ1", &to, &letter("lost"));
        send(&mut meter.signed_in(), "ann@example.com> ENVID=QQ2", &to[..2], &letter("silent"));
        meter.drain();
        assert_eq!(meter.number("SELECT count(*) FROM message"), 3, "nothing is told of the second");
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
        let Some(report) = read(&meter, "Undelivered: lost") else { return };
        assert_eq!(about(&report), ["rfc822; gone3@example.net", "rfc822; gone4@example.net"]);
        assert_eq!(report["groups"][0]["Original-Envelope-Id"], "QQ1");
        assert_eq!(report["groups"][1]["Original-Recipient"], "rfc822; Gone@example.net");
        assert_eq!(report["groups"][1]["Remote-MTA"], "dns; [127.0.0.1]");
    }
}

#[test]
fn nothing_is_reported_to_nobody() {
    let meter = Meter::smtp().start();
    let to = [("bob@example.net", "NOTIFY=SUCCESS,FAILURE")];
    send(&mut meter.signed_in(), "> RET=FULL", &to, &letter("null"));
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1);
}

#[test]
fn the_whole_message_comes_back_where_that_was_asked_for() {
    let meter = Meter::smtp().start();
    meter.sink().reply("RCPT TO:<bob@", "550 5.7.1 not from you");
    let to = [("bob@example.net", "")];
    let large = [letter("large"), "Hello again.\r\n".repeat(10_000).into_bytes()].concat();
    send(&mut meter.signed_in(), "ann@example.com> RET=FULL", &to, &letter("whole"));
    send(&mut meter.signed_in(), "ann@example.com> RET=FULL", &to, &large);
    send(&mut meter.signed_in(), "ann@example.com> RET=HDRS", &to, &letter("header"));
    meter.drain();
    let (headers, whole) = ("text/rfc822-headers", "message/rfc822");
    for (subject, part, body) in [
        ("whole", whole, json!("Hello Bob.\n")),
        ("large", headers, Value::Null),
        ("header", headers, Value::Null),
    ] {
        let Some(report) = read(&meter, &format!("Undelivered: {subject}")) else { return };
        assert_eq!((&report["parts"][2], &report["body"]), (&json!(part), &body), "{subject}");
        assert_eq!(report["original"]["Message-ID"], format!("<{subject}@example.com>"));
    }
}

/// Programs find in it which message it was, and people the message.
#[test]
fn a_message_of_eight_bits_comes_back_as_a_file_beside_its_header() {
    let meter = Meter::smtp().start();
    meter.sink().reply("RCPT TO:<bob@", "550 5.7.1 not from you");
    let head = "From: ann@example.com\r\nTo: bob@example.net\r\nMessage-ID: <8@example.com>\r\n\
        Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n";
    let table = [("eight", "gr\u{fc}n".to_owned()), ("long", "x".repeat(999))];
    for (subject, line) in table {
        let message = format!("{head}Subject: {subject}\r\n\r\nHello {line}.\r\n");
        let to = [("bob@example.net", "")];
        let mail = "ann@example.com> BODY=8BITMIME RET=FULL";
        send(&mut meter.signed_in(), mail, &to, message.as_bytes());
        meter.drain();
        let Some(report) = read(&meter, &format!("Undelivered: {subject}")) else { return };
        let kinds = ["multipart/mixed", "message/delivery-status", "text/rfc822-headers"];
        assert_eq!(report["parts"], json!(kinds), "three parts, as programs know them");
        assert_eq!(report["original"]["Message-ID"], "<8@example.com>");
        assert!(report["text"].as_str().unwrap().contains("<bob@example.net>"), "{report}");
        let file: String = message.bytes().map(char::from).collect();
        let found = report["files"]["original-message.eml"].as_str().unwrap().replace("\r\n", "\n");
        assert!(found.ends_with(&file.replace("\r\n", "\n")), "{found}");
    }
}

#[test]
fn a_restart_forgets_nothing_that_was_asked() {
    let mut meter = Meter::smtp().set("queue", "retry_min_s = 3600").start();
    meter.sink().reply("MAIL", "450 4.3.2 not now");
    let to = [
        ("gone@example.net", "NOTIFY=FAILURE ORCPT=rfc822;Gone@example.net"),
        ("bob@example.net", "NOTIFY=SUCCESS"),
    ];
    send(&mut meter.signed_in(), "ann@example.com> RET=FULL ENVID=QQ1", &to, &letter("kept"));
    until("it to wait", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued' AND attempt = 1") == 1).then_some(())
    });
    meter.kill();
    meter.tamper("UPDATE part SET due_at = 1");
    meter.sink().behave();
    meter.sink().reply("RCPT TO:<gone@", "550 5.1.1 no such user here");
    meter.serve();
    meter.drain();
    let (Some(lost), Some(sent)) = (read(&meter, "Undelivered: kept"), read(&meter, "Sent: kept")) else {
        return;
    };
    assert_eq!(
        (about(&lost), about(&sent)),
        (vec!["rfc822; gone@example.net"], vec!["rfc822; bob@example.net"])
    );
    assert_eq!(lost["groups"][1]["Original-Recipient"], "rfc822; Gone@example.net");
    assert_eq!(lost["parts"], json!(["text/plain", "message/delivery-status", "message/rfc822"]));
    assert_eq!(lost["body"], "Hello Bob.\n");
    assert_eq!(sent["groups"][0]["Original-Envelope-Id"], "QQ1");
    assert_eq!(sent["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
}

/// What a report of that kind says over Resend: its status file.
fn over_resend(meter: &Meter, title: &str) -> Vec<String> {
    let mails = meter.mails();
    let of_title = mails.iter().filter(|mail| mail.email.subject.as_deref() == Some(title));
    of_title.map(|mail| mail.email.text.clone().unwrap()).collect()
}

#[test]
fn resend_tells_no_sender_so_that_we_do() {
    let meter = Meter::resend().set("notices", "success_reports = true").start();
    let bob = "bob@example.net";
    send(
        &mut meter.signed_in(),
        "ann@example.com> ENVID=QQ1",
        &[(bob, "NOTIFY=SUCCESS,FAILURE")],
        &letter("asked"),
    );
    send(&mut meter.signed_in(), "ann@example.com>", &[(bob, "NOTIFY=NEVER")], &letter("silent"));
    send(&mut meter.signed_in(), "ann@example.com>", &[(bob, "")], &letter("usual"));
    meter.drain();
    let told = over_resend(&meter, "Sent: asked");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("handed on") && told[0].contains("<bob@example.net>"), "{told:?}");
    assert!(told[0].contains("\nAction: relayed\n"), "{told:?}");
    let mails = meter.mails();
    let report = mails.iter().find(|mail| mail.email.subject.as_deref() == Some("Sent: asked")).unwrap();
    assert!(report.email.attachments.as_deref().unwrap_or_default().is_empty(), "it may share a call");
    assert_eq!(meter.mails().len(), 4);
    // What comes back later is told to whoever did not ask for silence.
    for subject in ["asked", "silent", "usual"] {
        let mails = meter.mails();
        let mail = mails.iter().find(|mail| mail.email.subject.as_deref() == Some(subject)).unwrap();
        let _in_runtime = RUNTIME.enter();
        meter.resend_stand_in().tell(mail, &[bob], &News::hard_bounce());
    }
    until("all of it to be heard", || {
        (meter.number("SELECT count(*) FROM recipient WHERE bounced_at > 0") == 3).then_some(())
    });
    meter.drain();
    assert_eq!(over_resend(&meter, "Undelivered: asked").len(), 1);
    assert_eq!(over_resend(&meter, "Undelivered: usual").len(), 1);
    assert_eq!(over_resend(&meter, "Undelivered: silent"), [""; 0]);
    assert_eq!((meter.mails().len(), meter.dodo().debited(CUSTOMER_ID)), (6, 3));
}

#[test]
fn over_resend_successes_are_told_where_the_operator_wants_that_and_once_a_message() {
    for (setting, want) in [(None, 0), (Some("success_reports = true"), 1)] {
        let meter = Meter::resend();
        let meter = match setting {
            Some(setting) => meter.set("notices", setting).start(),
            None => meter.start(),
        };
        let to: Vec<String> = (0..20).map(|nth| format!("hidden{nth}@example.net")).collect();
        let to: Vec<(&str, &str)> = to.iter().map(|to| (to.as_str(), "NOTIFY=SUCCESS")).collect();
        send(&mut meter.signed_in(), "ann@example.com>", &to, &letter("many"));
        meter.drain();
        let told = over_resend(&meter, "Sent: many");
        assert_eq!((told.len(), meter.mails().len()), (want, 20 + want));
        assert!(told.iter().all(|told| to.iter().all(|(to, _)| told.contains(&format!("<{to}>")))));
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    }
}

#[test]
fn a_mail_that_only_a_webhook_proves_is_told_of_once() {
    let mut meter = Meter::resend().set("notices", "success_reports = true").start();
    let asked = [("bob@example.net", "NOTIFY=SUCCESS")];
    meter.resend_stand_in().faults().push(Fault::new(Misbehaviour::DropAfter).on("POST", "/emails"));
    let broken = Fault::new(Reply::status(500)).on("POST", "/emails");
    meter.resend_stand_in().faults().push(Fault { times: 1_000, ..broken });
    send(&mut meter.signed_in(), "ann@example.com>", &asked, &letter("proved"));
    let mail = until("the mail at Resend", || meter.mails().pop());
    until("its outcome to be unknown", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued' AND unknown = 1") == 1).then_some(())
    });
    meter.resend_stand_in().faults().clear();
    {
        let _in_runtime = RUNTIME.enter();
        meter.resend_stand_in().tell(&mail, &["bob@example.net"], &News::Delivered);
    }
    meter.drain();
    assert_eq!(over_resend(&meter, "Sent: proved").len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    meter.finish();
}

/// Reports are no submissions, and cost nothing.
const REPORTS: &str = "SELECT count(*) FROM message WHERE kind = 'bounce'";

#[test]
fn p3_a_crash_around_a_report_of_success_leaves_one_report_and_one_debit() {
    if !cfg!(debug_assertions) {
        return eprintln!("skipped: there are no crash points in a release build");
    }
    let points = [
        CrashPoint::AttemptBegun,
        CrashPoint::UpstreamAnswered,
        CrashPoint::ReportWritten,
        CrashPoint::CaptureCommitted,
        CrashPoint::BounceCommitted,
    ];
    let plans = [Meter::resend, Meter::smtp];
    for (point, plan) in points.into_iter().flat_map(|point| plans.map(|plan| (point, plan))) {
        let mut meter = plan().set("notices", "success_reports = true").prepare();
        meter.set_environment(crash::VARIABLE, &format!("{}:1", point.as_str()));
        meter.serve();
        let mut smtp = meter.signed_in();
        for line in ["MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.net> NOTIFY=SUCCESS"] {
            assert!(smtp.say(line).starts_with("250 "), "{line}");
        }
        assert!(smtp.say("DATA").starts_with("354 "));
        smtp.send(&[letter("once").as_slice(), b".\r\n"].concat());
        // It may die before it answers.
        while !smtp.reply().is_empty() {}
        meter.take_process().into_program().dies_by_sigkill();
        let is_committed = matches!(point, CrashPoint::CaptureCommitted | CrashPoint::BounceCommitted);
        let name = point.as_str();
        assert_eq!(meter.number(REPORTS), i64::from(is_committed), "{name}: with the news itself");
        meter.remove_environment(crash::VARIABLE);
        meter.serve();
        meter.drain();
        assert_eq!((meter.number(REPORTS), meter.dodo().debited(CUSTOMER_ID)), (1, 1), "{name}");
        meter.finish();
    }
}

#[test]
fn of_mails_that_left_in_one_call_each_sender_is_told_once() {
    let mut meter = Meter::resend().set("notices", "success_reports = true").start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Refusal::bad_key(401)).on("POST", "/emails").always());
    let subjects: Vec<String> = (0..5).map(|nth| format!("n{nth}")).collect();
    for subject in &subjects {
        let to = [("bob@example.net", "NOTIFY=SUCCESS")];
        send(&mut meter.signed_in(), "ann@example.com>", &to, &letter(subject));
    }
    until_is("what waits", 5, || meter.number("SELECT count(*) FROM part WHERE state = 'queued'"));
    meter.stop();
    faults.clear();
    meter.serve();
    meter.drain();
    let mails = meter.mails();
    let is_asking = |subject: &str| subjects.iter().any(|own| own == subject);
    let asking = mails.iter().filter(|mail| mail.email.subject.as_deref().is_some_and(is_asking));
    let calls: std::collections::BTreeSet<_> = asking.map(|mail| mail.idempotency_key.clone()).collect();
    assert!(calls.len() < 5, "some left together: {calls:?}");
    for subject in &subjects {
        assert_eq!(over_resend(&meter, &format!("Sent: {subject}")).len(), 1, "{subject}");
    }
    assert_eq!((meter.mails().len(), meter.dodo().debited(CUSTOMER_ID)), (10, 5));
}

#[test]
fn of_two_hosts_one_tells_senders_itself_and_for_the_other_we_do() {
    let (mut meter, second) = two_hosts();
    meter.sink().reply("EHLO", OFFERING);
    let to = [("bob@example.net", "NOTIFY=SUCCESS ORCPT=utf-8;gr\u{fc}n@example.net")];
    send(&mut meter.signed_in(), "ann@example.com>", &to, &letter("passed"));
    meter.drain();
    let asked = "RCPT TO:<bob@example.net> NOTIFY=SUCCESS ORCPT=utf-8;gr\\x{FC}n@example.net";
    assert!(meter.sink().commands().iter().any(|line| line == asked), "{:?}", meter.sink().commands());
    assert_eq!((meter.number(REPORTS), second.mails().len()), (0, 0), "the first will tell");
    dies(meter.sink());
    send(&mut meter.signed_in(), "ann@example.com>", &to, &letter("kept"));
    meter.drain();
    assert_eq!(meter.number(REPORTS), 1);
    let mails = second.mails();
    let report = mails.iter().find(|mail| mail.from.is_empty()).unwrap();
    let report = String::from_utf8(report.bytes.clone()).unwrap();
    assert!(report.contains("Subject: Sent: kept\r\n"), "{report}");
    assert!(report.contains("Original-Recipient: utf-8; gr\\x{FC}n@example.net\r\n"), "{report}");
    assert_eq!((mails.len(), meter.dodo().debited(CUSTOMER_ID)), (2, 2));
    meter.finish();
}

#[test]
fn what_was_asked_is_shown_with_the_message() {
    let meter = Meter::smtp().start();
    let to = [("cid@example.net", ""), ("bob@example.net", "NOTIFY=SUCCESS ORCPT=rfc822;Bob@example.net")];
    send(&mut meter.signed_in(), "ann@example.com> RET=HDRS ENVID=QQ1", &to, &letter("asking"));
    send(&mut meter.signed_in(), "ann@example.com>", &to[..1], &letter("silent"));
    meter.drain();
    let story = |which: &'static str| {
        let id = meter.read::<String>(which).pop().unwrap();
        ask(meter.as_customer(Method::GET, &format!("/messages/{id}"))).json()
    };
    let bob = json!({ "address": "bob@example.net", "notify": "SUCCESS", "orcpt": "rfc822;Bob@example.net" });
    let asked = json!({ "ret": "HDRS", "envid": "QQ1", "recipients": [bob] });
    assert_eq!(story("SELECT message_id FROM message WHERE subject = 'asking'")["asked"], asked);
    assert!(story("SELECT message_id FROM message WHERE subject = 'silent'").get("asked").is_none());
}

/// A client that asks for what it wants to be told in its own words.
#[test]
fn msmtp_is_told_what_it_asks_for() {
    let meter = Meter::smtp().start();
    let asks = ["--dsn-notify=success,failure", "--dsn-return=headers"];
    let Some(said) = msmtp(&meter, Port::Tls, &asks, &letter("msmtp")) else { return };
    assert!(said.contains("NOTIFY=SUCCESS,FAILURE"), "{said}");
    meter.drain();
    let Some(report) = read(&meter, "Sent: msmtp") else { return };
    assert_eq!(about(&report), ["rfc822; bob@example.net"]);
}
