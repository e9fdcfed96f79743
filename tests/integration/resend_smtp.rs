//! News of mail that left by Resend's own SMTP service: it carries no tag, and is known by a
//! field that the copy on this road has and no other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use postmeter::sandbox::resend::{Email, Mail, News};
use serde_json::{Value, json};

use crate::harness::sink::{SinkMail, TAKE_AND_CLOSE};
use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, until};

const FIELD: &str = "X-Postmeter-Part";
const BOB: &str = "bob@example.net";
const CID: &str = "cid@example.net";

fn started(fallback: &str) -> Meter {
    let line = format!("fallback = \"{fallback}\"");
    let plan = Meter::resend().set("upstream", &line).set("upstream", "allow_plaintext = true");
    let mut meter = plan.prepare();
    if fallback == "resend-smtp" {
        let url = meter.sink().url().to_owned();
        meter.remove_environment("UPSTREAM_SMTP_URL");
        meter.set_environment("RESEND_SMTP_URL", &url);
    }
    meter.serve();
    meter
}

/// A message that the API cannot carry, with a field that is ours to write.
fn signed(subject: &str) -> Vec<u8> {
    format!(
        "x-postmeter-part : victim-0\r\nFrom: ann@example.com\r\nTo: {BOB}\r\nSubject: {subject}\r\n\
         X-Other: kept\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\
         {FIELD}: victim-0\r\n\r\n\
         --b\r\n\r\ntext\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n"
    )
    .into_bytes()
}

fn hand_in(meter: &Meter, to: &[&str], message: &[u8]) {
    let reply = meter.signed_in().attempt(to, message);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The fields of a mail's header whose name begins so, as name and value.
fn fields(mail: &SinkMail, prefix: &str) -> Vec<(String, String)> {
    let text = String::from_utf8(mail.bytes.clone()).unwrap();
    let (header, _) = text.split_once("\r\n\r\n").unwrap();
    let fields = header.lines().filter_map(|line| line.split_once(": "));
    let own = fields.filter(|(name, _)| name.to_lowercase().starts_with(&prefix.to_lowercase()));
    own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The mails of that subject at the SMTP service, as soon as there are so many.
fn arrived(meter: &Meter, subject: &str, count: usize) -> Vec<SinkMail> {
    let line = format!("Subject: {subject}\r\n");
    let is_one = |mail: &SinkMail| String::from_utf8_lossy(&mail.bytes).contains(&line);
    until("the mails", || {
        let mails: Vec<SinkMail> = meter.sink().mails().into_iter().filter(is_one).collect();
        (mails.len() == count).then_some(mails)
    })
}

/// What Resend tells of a mail that it got by SMTP: its fields, and no tags.
fn tell(meter: &Meter, mail: &SinkMail, to: &[&str], news: &News) {
    let headers: BTreeMap<String, String> = fields(mail, "X-").into_iter().collect();
    tell_of(meter, headers, to, news);
}

fn tell_of(meter: &Meter, headers: BTreeMap<String, String>, to: &[&str], news: &News) {
    let email = Email { headers: Some(headers), ..Email::default() };
    let mail = Mail { id: "by-smtp".to_owned(), at: Timestamp::UNIX_EPOCH, idempotency_key: None, email };
    let _in_runtime = RUNTIME.enter();
    meter.resend_stand_in().tell(&mail, to, news);
}

fn message(meter: &Meter, subject: &str) -> Value {
    let listed = meter.get("/messages").json();
    let found = listed.as_array().unwrap().iter().find(|message| message["subject"] == subject);
    let id = found.unwrap_or_else(|| panic!("no {subject}: {listed}"))["message_id"].as_str().unwrap();
    meter.get(&format!("/messages/{id}")).json()
}

/// What was told of a message: kind and recipient.
fn events(meter: &Meter, subject: &str) -> Value {
    let events = message(meter, subject)["events"].clone();
    events.as_array().unwrap().iter().map(|event| json!([event["kind"], event["recipient"]])).collect()
}

fn bounced(meter: &Meter) -> Vec<String> {
    let mails = meter.mails().into_iter().map(|mail| mail.email);
    let bounces = mails.filter(|mail| mail.subject.as_deref().is_some_and(|s| s.starts_with("Undelivered")));
    bounces.filter_map(|mail| mail.text).collect()
}

fn failed() -> News {
    News::Failed { reason: "reached_daily_quota".to_owned() }
}

fn until_ignored(meter: &Meter, count: usize) {
    let line = format!("postmeter_webhooks_total{{source=\"resend\",result=\"ignored\"}} {count}\n");
    until("it to be ignored", || meter.get_as_operator("/metrics").body.contains(&line).then_some(()));
}

#[test]
fn a_bounce_of_mail_that_left_by_resends_smtp_is_kept_told_and_suppressed() {
    let meter = started("resend-smtp");
    hand_in(&meter, &[BOB], &signed("gone"));
    let mail = arrived(&meter, "gone", 1).remove(0);
    meter.drain();
    let id = message(&meter, "gone")["message_id"].as_str().unwrap().to_owned();
    assert_eq!(
        fields(&mail, "X-Postmeter-"),
        [(FIELD.to_owned(), format!("{id}-0-0"))],
        "ours, and only ours"
    );
    tell(&meter, &mail, &[BOB], &News::Sent);
    tell(&meter, &mail, &[BOB], &News::hard_bounce());
    let bounce = until("the bounce", || bounced(&meter).pop());
    assert!(bounce.contains("<bob@example.net>") && bounce.contains("550 5.1.1 user unknown"), "{bounce}");
    meter.drain();
    let kept = json!([["sent", null], ["bounced", BOB]]);
    until_is("the events", kept, || events(&meter, "gone"));
    let reply = meter.signed_in().attempt(&[BOB], &signed("again"));
    assert!(reply.starts_with("550 5.1.1 bob@example.net is on the suppression list"), "{reply}");
    assert_eq!((bounced(&meter).len(), meter.dodo().debited(CUSTOMER_ID)), (1, 1));
}

#[test]
fn no_other_road_shows_the_field() {
    let meter = started("smtp");
    hand_in(&meter, &[BOB], &signed("whole"));
    let plain =
        format!("{FIELD}: victim-0\r\nFrom: ann@example.com\r\nTo: {BOB}\r\nSubject: plain\r\n\r\nhi\r\n");
    hand_in(&meter, &[BOB], plain.as_bytes());
    let asked = |headers: Value| {
        let mail = json!({ "from": "ann@example.com", "to": BOB, "subject": "asked", "text": "hi", "headers": headers });
        meter.post_send(&mail)
    };
    asked(json!({ "x-postmeter-part": "victim-0" })).is_error(422, "invalid");
    assert_eq!(asked(json!({ "X-Other": "kept" })).status, 200);
    let whole = arrived(&meter, "whole", 1).remove(0);
    assert_eq!(fields(&whole, "X-"), [("X-Other".to_owned(), "kept".to_owned())]);
    meter.drain();
    let mails = meter.mails();
    assert_eq!(mails.len(), 2);
    for mail in mails {
        let names: Vec<String> = mail.email.headers.unwrap_or_default().into_keys().collect();
        assert!(!names.iter().any(|name| name.to_lowercase().contains("postmeter")), "{names:?}");
    }
}

#[test]
fn the_field_speaks_only_for_a_part_of_its_road_and_for_its_recipients() {
    let meter = started("resend-smtp");
    hand_in(&meter, &[BOB], &signed("by smtp"));
    let mail = arrived(&meter, "by smtp", 1).remove(0);
    let plain = format!("From: ann@example.com\r\nTo: {BOB}\r\nSubject: by the API\r\n\r\nhi\r\n");
    hand_in(&meter, &[BOB], plain.as_bytes());
    meter.drain();
    let part = |subject: &str| format!("{}-0-0", message(&meter, subject)["message_id"].as_str().unwrap());
    let by_field = |part: String| BTreeMap::from([(FIELD.to_owned(), part)]);
    tell(&meter, &mail, &["eve@example.net"], &News::hard_bounce());
    until_ignored(&meter, 1);
    tell_of(&meter, by_field(part("by the API")), &[BOB], &News::hard_bounce());
    until_ignored(&meter, 2);
    let data = json!({ "email_id": "x", "to": [BOB], "tags": { "postmeter": part("by smtp") } });
    let tagged = json!({ "type": "email.delivered", "data": data });
    assert_eq!(meter.resend_webhook("tagged", &tagged.to_string()).json()["result"], "ignored");
    assert_eq!((events(&meter, "by smtp"), events(&meter, "by the API")), (json!([]), json!([])));

    // An SMTP server that is not Resend's has nothing to tell by its webhooks.
    let other = started("smtp");
    hand_in(&other, &[BOB], &signed("elsewhere"));
    other.drain();
    let id = message(&other, "elsewhere")["message_id"].as_str().unwrap().to_owned();
    tell_of(&other, by_field(format!("{id}-0-0")), &[BOB], &News::hard_bounce());
    until_ignored(&other, 1);
    assert_eq!(events(&other, "elsewhere"), json!([]));
}

/// Hands in a mail that is taken and whose answer is lost; what comes after it is put off.
fn lost(meter: &Meter, to: &[&str], subject: &str) -> SinkMail {
    meter.sink().reply_times(1, "DOT", TAKE_AND_CLOSE);
    hand_in(meter, to, &signed(subject));
    until("the answer to be lost", || (meter.sink().pending() == 0).then_some(()));
    meter.sink().reply("MAIL", "450 4.2.0 come again");
    until("it to be put off", || {
        let error = message(meter, subject)["parts"][0]["last_error"].clone();
        error.as_str().is_some_and(|error| error.contains("come again")).then_some(())
    });
    arrived(meter, subject, 1).remove(0)
}

#[test]
fn p4_news_of_a_mail_whose_answer_was_lost_ends_its_doubt_if_it_was_for_one() {
    let meter = started("resend-smtp");
    let mail = lost(&meter, &[BOB], "lost");
    tell(&meter, &mail, &[BOB], &News::Delivered);
    until_is("the state", json!("sent"), || message(&meter, "lost")["state"].clone());
    until_is("the event", json!([["delivered", BOB]]), || events(&meter, "lost"));
    meter.sink().behave();
    meter.drain();
    assert_eq!((arrived(&meter, "lost", 1).len(), meter.dodo().debited(CUSTOMER_ID)), (1, 1));

    let mail = lost(&meter, &[BOB, CID], "lost of two");
    tell(&meter, &mail, &[BOB], &News::Delivered);
    until_is("the event", json!([["delivered", BOB]]), || events(&meter, "lost of two"));
    assert_eq!(message(&meter, "lost of two")["recipients"][0]["state"], "queued", "which mail is not told");
    meter.sink().behave();
    meter.drain();
    assert_eq!(arrived(&meter, "lost of two", 2).len(), 2);
}

#[test]
fn a_mail_that_was_never_taken_is_not_proven() {
    let meter = started("resend-smtp");
    meter.sink().reply("RCPT", "450 4.2.0 come again");
    hand_in(&meter, &[BOB], &signed("waits"));
    let part = format!("{}-0-0", message(&meter, "waits")["message_id"].as_str().unwrap());
    let kept = [json!(["delivered", BOB]), json!(["bounced", BOB]), json!(["failed", BOB])];
    for (nth, news) in [News::Delivered, News::hard_bounce(), failed()].iter().enumerate() {
        tell_of(&meter, BTreeMap::from([(FIELD.to_owned(), part.clone())]), &[BOB], news);
        until_is("the events", json!(kept[..=nth]), || events(&meter, "waits"));
    }
    assert_ne!(message(&meter, "waits")["state"], "sent");
    meter.sink().behave();
    arrived(&meter, "waits", 1);
    meter.drain();
    assert_eq!((bounced(&meter).len(), meter.dodo().debited(CUSTOMER_ID)), (0, 1));
    hand_in(&meter, &[BOB], &signed("he is not suppressed"));
}

#[test]
fn a_mail_that_was_refused_did_not_leave_because_an_event_says_so() {
    let meter = started("resend-smtp");
    meter.sink().reply("RCPT", "550 5.7.1 not for you");
    hand_in(&meter, &[BOB], &signed("refused"));
    until_is("the state", json!("failed"), || message(&meter, "refused")["state"].clone());
    let part = format!("{}-0-0", message(&meter, "refused")["message_id"].as_str().unwrap());
    for news in [News::Delivered, News::hard_bounce()] {
        tell_of(&meter, BTreeMap::from([(FIELD.to_owned(), part.clone())]), &[BOB], &news);
    }
    until_is("the events", 2, || events(&meter, "refused").as_array().unwrap().len());
    let error = message(&meter, "refused")["parts"][0]["last_error"].clone();
    assert_eq!(error, "5.7.1 550 5.7.1 not for you");
    meter.drain();
    assert_eq!(bounced(&meter).len(), 1, "that of the refusal");
}

#[test]
fn one_of_several_mails_that_is_given_up_is_told_of_those_who_were_in_it() {
    let meter = started("resend-smtp");
    meter.sink().reply(&format!("RCPT TO:<{CID}>"), "450 4.2.0 come again");
    hand_in(&meter, &[BOB, CID], &signed("in two"));
    let first = arrived(&meter, "in two", 1).remove(0);
    assert_eq!(first.to, [BOB]);
    until_is("Bob", json!("sent"), || message(&meter, "in two")["recipients"][0]["state"].clone());
    tell(&meter, &first, &[BOB, CID], &News::Delivered);
    until_is("it to be his who has it", json!([["delivered", BOB]]), || events(&meter, "in two"));
    tell(&meter, &first, &[BOB, CID], &failed());
    let bounce = until("the bounce", || bounced(&meter).pop());
    assert!(bounce.contains(BOB) && !bounce.contains(CID), "{bounce}");
    meter.sink().behave();
    let second = arrived(&meter, "in two", 2).pop().unwrap();
    assert_eq!(second.to, [CID]);
    until_is("Cid", json!("sent"), || message(&meter, "in two")["recipients"][1]["state"].clone());
    tell(&meter, &second, &[CID], &failed());
    until("the other bounce", || bounced(&meter).iter().any(|text| text.contains(CID)).then_some(()));
    meter.drain();
    assert_eq!(bounced(&meter).len(), 2);
}

#[test]
fn a_failure_told_before_the_retry_is_theirs_alone_who_surely_have_that_mail() {
    let meter = started("resend-smtp");
    let mail = lost(&meter, &[BOB, CID], "lost of two");
    tell(&meter, &mail, &[BOB], &News::hard_bounce());
    until_is("the bounce", json!([["bounced", BOB]]), || events(&meter, "lost of two"));
    tell(&meter, &mail, &[BOB], &failed());
    let kept = json!([["bounced", BOB], ["failed", BOB]]);
    until_is("the events", kept, || events(&meter, "lost of two"));
    meter.sink().behave();
    meter.drain();
    let copies = arrived(&meter, "lost of two", 2);
    assert_eq!((bounced(&meter).len(), meter.dodo().debited(CUSTOMER_ID)), (0, 1));

    tell(&meter, &copies[0], &[BOB, CID], &failed());
    let kept = json!([["bounced", BOB], ["failed", BOB], ["failed", null]]);
    until_is("the event of the first copy", kept, || events(&meter, "lost of two"));
    assert_eq!(fields(&copies[0], "Resend-"), fields(&copies[1], "Resend-"), "to Resend they are one mail");
    let somebody = until("the bounce", || bounced(&meter).pop());
    assert!(somebody.contains(CID) && somebody.contains(BOB), "{somebody}");
    tell(&meter, &copies[1], &[CID], &failed());
    let of_cid = |text: &String| text.contains(CID) && !text.contains(BOB);
    until("the bounce for one", || bounced(&meter).into_iter().find(of_cid));
    hand_in(&meter, &[BOB], &signed("he is not suppressed"));
}

#[test]
fn a_failure_that_ends_the_doubt_is_obeyed_and_so_is_what_comes_of_that_mail_later() {
    let meter = started("resend-smtp");
    let mail = lost(&meter, &[BOB], "bounces");
    tell(&meter, &mail, &[BOB], &News::hard_bounce());
    let bounce = until("the bounce", || bounced(&meter).pop());
    assert!(bounce.contains(BOB), "{bounce}");
    assert_eq!(message(&meter, "bounces")["state"], "sent");

    meter.sink().behave();
    let mail = lost(&meter, &[CID], "arrives first");
    tell(&meter, &mail, &[CID], &News::Delivered);
    until_is("the state", json!("sent"), || message(&meter, "arrives first")["state"].clone());
    tell(&meter, &mail, &[CID], &failed());
    until("the bounce", || bounced(&meter).iter().any(|text| text.contains(CID)).then_some(()));
}

#[test]
fn a_failure_told_while_the_mails_answer_is_under_way_is_to_be_told_again() {
    let mut meter = started("resend-smtp");
    meter.sink().hang("DOT");
    hand_in(&meter, &[BOB], &signed("slow"));
    until("the upstream to hold its answer back", || (meter.sink().unanswered() == 1).then_some(()));
    let id = message(&meter, "slow")["message_id"].as_str().unwrap().to_owned();
    let headers = json!([{ "name": FIELD, "value": format!("{id}-0-0") }]);
    let data = json!({ "to": [BOB], "headers": headers, "bounce": { "type": "Permanent" } });
    let told = |meter: &Meter, kind: &str| {
        meter.resend_webhook(kind, &json!({ "type": kind, "data": data }).to_string()).status
    };
    for (kind, status) in [("email.bounced", 409), ("email.complained", 409), ("email.delivered", 200)] {
        assert_eq!(told(&meter, kind), status, "{kind}");
    }
    assert_eq!(events(&meter, "slow"), json!([["delivered", BOB]]));
    meter.kill();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    assert_eq!(told(&meter, "email.bounced"), 200);
    until("the bounce", || bounced(&meter).pop());
}

#[test]
fn who_of_several_failed_is_not_told_by_a_mail_that_names_all_of_them_or_nobody() {
    let meter = started("resend-smtp");
    for (subject, named) in [("all", &[BOB, CID][..]), ("none", &[])] {
        hand_in(&meter, &[BOB, CID], &signed(subject));
        let mail = arrived(&meter, subject, 1).remove(0);
        meter.drain();
        tell(&meter, &mail, named, &failed());
        until_is("the event", json!([["failed", null]]), || events(&meter, subject));
        meter.drain();
    }
    let bounces = bounced(&meter);
    let is_of_somebody = |text: &String| text.contains("does not say which") && text.contains(BOB);
    assert_eq!((bounces.len(), bounces.iter().filter(|text| is_of_somebody(text)).count()), (2, 2));
}
