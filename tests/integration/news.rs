//! What Resend tells after it took a mail: kept, shown, told to the sender, and
//! remembered for the next mail; in whatever order and however often it comes.

use jiff::Timestamp;
use postmeter::sandbox::resend::{Mail, News};
use serde_json::{Value, json};

use crate::harness::client::judged;
use crate::harness::plan::Plan;
use crate::harness::wait::until_is;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

/// Sends a letter to Bob, and gives the mail as Resend has it.
fn sent(meter: &Meter, subject: &str) -> Mail {
    let reply = meter.signed_in().deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{reply}");
    at_resend(meter, subject)
}

/// Sends one mail, `many`, to all of them.
fn sent_to_all(meter: &Meter, to: &[&str]) -> Mail {
    let message = json!({ "from": "ann@example.com", "to": to, "subject": "many", "text": "Hello" });
    let answer = meter.post_send(&message);
    assert_eq!(answer.status, 200, "{answer:?}");
    let mail = at_resend(meter, "many");
    meter.drain();
    mail
}

fn at_resend(meter: &Meter, subject: &str) -> Mail {
    until("the mail at Resend", || {
        meter.mails().into_iter().find(|mail| mail.email.subject.as_deref() == Some(subject))
    })
}

/// Resend tells something of a mail.
fn tell(meter: &Meter, mail: &Mail, to: &[&str], news: &News) {
    let _in_runtime = RUNTIME.enter();
    meter.resend_stand_in().tell(mail, to, news);
}

/// The message with its story, as its customer sees it.
fn message(meter: &Meter, subject: &str) -> Value {
    let listed = meter.get("/messages").json();
    let found = listed.as_array().unwrap().iter().find(|message| message["subject"] == subject);
    let id = found.unwrap_or_else(|| panic!("no {subject}: {listed}"))["message_id"].as_str().unwrap();
    meter.get(&format!("/messages/{id}")).json()
}

/// What was told of a message: kind and recipient, in order of time.
fn events(meter: &Meter, subject: &str) -> Vec<(String, Option<String>)> {
    let message = message(meter, subject);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let events = message["events"].as_array().unwrap();
    events.iter().map(|event| (text(&event["kind"]).unwrap(), text(&event["recipient"]))).collect()
}

/// An event about a mail, as it was told at that second.
fn event(mail: &Mail, kind: &str, to: &[&str], second: u32) -> Value {
    let tag = mail.email.tags.as_deref().unwrap()[0].value.clone();
    json!({
        "type": format!("email.{kind}"), "created_at": format!("2026-11-23T10:00:{second:02}.000Z"),
        "data": { "email_id": mail.id, "to": to, "tags": { "postmeter": tag } },
    })
}

fn post(meter: &Meter, id: &str, event: &Value) -> String {
    let answer = meter.resend_webhook(id, &event.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"].as_str().unwrap().to_owned()
}

fn bounces(meter: &Meter) -> Vec<Mail> {
    let is_bounce = |mail: &Mail| mail.email.subject.as_deref().is_some_and(|s| s.starts_with("Undelivered"));
    meter.mails().into_iter().filter(is_bounce).collect()
}

const BOB: &str = "bob@example.net";

#[test]
fn every_event_is_kept_once_in_its_order_and_the_last_word_stands() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "told");
    meter.drain();
    let order = [
        ("m4", "delivered", 4),
        ("m2", "delivery_delayed", 2),
        ("m4", "delivered", 4),
        ("m5", "delivered", 4),
        ("m1", "sent", 1),
        ("m6", "opened", 6),
        ("m7", "teleported", 7),
    ];
    let results: Vec<String> = order
        .iter()
        .map(|(id, kind, second)| post(&meter, id, &event(&mail, kind, &[BOB], *second)))
        .collect();
    let wanted = ["accepted", "accepted", "duplicate", "accepted", "accepted", "accepted", "ignored"];
    assert_eq!(results, wanted);
    let bob = Some(BOB.to_owned());
    let kept = [("sent", None), ("delivery_delayed", bob.clone()), ("delivered", bob)];
    let kept: Vec<_> = kept.into_iter().map(|(kind, to)| (kind.to_owned(), to)).collect();
    assert_eq!(events(&meter, "told"), kept);
    assert_eq!(message(&meter, "told")["recipients"][0]["news"], "delivered");
    post(&meter, "m8", &event(&mail, "complained", &[BOB], 8));
    assert_eq!(message(&meter, "told")["recipients"][0]["news"], "complained");
    let metrics = meter.get_as_operator("/metrics").body;
    assert!(metrics.contains("postmeter_events_total{kind=\"delivered\"} 1"), "{metrics}");
}

#[test]
fn news_that_comes_before_our_own_answer_is_not_lost() {
    use postmeter::sandbox::faults::{Fault, Misbehaviour};
    let meter = Meter::resend().start();
    meter.resend_stand_in().behave(|behaviour| behaviour.duplicate_events = true);
    meter.resend_stand_in().faults().push(Fault::new(Misbehaviour::HangAfter).on("POST", "/emails"));
    let mail = sent(&meter, "early");
    assert_eq!(message(&meter, "early")["parts"][0]["state"], "sending");
    for news in [News::Delivered, News::Sent, News::DeliveryDelayed] {
        tell(&meter, &mail, &[BOB], &news);
    }
    until("all of it to be kept", || (events(&meter, "early").len() == 3).then_some(()));
    assert_eq!(message(&meter, "early")["recipients"][0]["news"], "delivered");
    let mut meter = meter;
    meter.kill();
    meter.serve();
    until_is("the state", json!("sent"), || message(&meter, "early")["state"].clone());
    assert_eq!(events(&meter, "early").len(), 3);
}

/// As somebody who tries the sandbox asks for it.
#[test]
fn any_event_can_be_asked_for_over_http() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "asked");
    meter.drain();
    let url = meter.environment().remove("RESEND_BASE_URL").unwrap();
    let asks = |id: &str, news: Value| {
        let body = json!({ "email_id": id, "to": [BOB], "news": news });
        ask(crate::harness::web::request(reqwest::Method::POST, &format!("{url}/_events")).json(&body)).status
    };
    let all = [
        json!("sent"),
        json!("delivered"),
        json!("delivery_delayed"),
        json!("complained"),
        json!("suppressed"),
        json!({ "bounced": { "kind": "Transient", "said": "smtp; 452 4.2.2 full" } }),
        json!({ "failed": { "reason": "reached_daily_quota" } }),
        json!({ "other": "email.teleported" }),
    ];
    for news in all {
        assert_eq!(asks(&mail.id, news), 202);
    }
    assert_eq!(asks("nobody", json!("sent")), 404);
    until("all of it to be kept", || (events(&meter, "asked").len() == 7).then_some(()));
    let story = message(&meter, "asked");
    let soft = story["events"].as_array().unwrap().iter().find(|event| event["kind"] == "soft_bounced");
    assert_eq!(soft.unwrap()["words"], "Transient General: smtp; 452 4.2.2 full");
    until("the bounce", || bounces(&meter).pop());
    meter.drain();
    assert_eq!(bounces(&meter).len(), 1, "suppressed and given up: the one recipient failed once");
}

#[test]
fn a_late_bounce_is_told_to_the_sender_once_and_refuses_the_next_mail() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "gone");
    meter.drain();
    for _ in 0..3 {
        tell(&meter, &mail, &[BOB], &News::hard_bounce());
    }
    let bounce = until("the bounce", || bounces(&meter).pop());
    meter.drain();
    let text = bounce.email.text.clone().unwrap();
    assert_eq!(bounce.email.recipients().collect::<Vec<_>>(), ["ann@example.com"]);
    assert_eq!(bounce.email.subject.as_deref(), Some("Undelivered: gone"));
    for words in
        ["came back later", "<bob@example.net>", "550 5.1.1 user unknown", "does not exist", "Subject: gone"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    until("all to be heard", || {
        let metrics = meter.get_as_operator("/metrics").body;
        metrics.contains("postmeter_webhooks_total{source=\"resend\",result=\"accepted\"} 3").then_some(())
    });
    assert_eq!(bounces(&meter).len(), 1, "once a recipient, however often it is told");
    assert_eq!((meter.credits()["available"].clone(), meter.dodo().debited(CUSTOMER_ID)), (json!(9), 1));

    let mut smtp = meter.signed_in();
    smtp.say("MAIL FROM:<ann@example.com>");
    let reply = smtp.say("RCPT TO:<Bob@example.net>");
    assert!(reply.starts_with("550 5.1.1 Bob@example.net is on the suppression list"), "{reply}");
    assert!(reply.contains("550 5.1.1 user unknown") && reply.contains("DELETE /suppressions/"), "{reply}");
    assert!(smtp.say("RCPT TO:<cid@example.net>").starts_with("250 "));
    let body = json!({ "from": "ann@example.com", "to": BOB, "subject": "again", "text": "Hello" });
    let refused = meter.post_send(&body);
    refused.is_error(422, "suppressed");
    assert!(refused.json()["error"].as_str().unwrap().contains("user unknown"), "{refused:?}");

    let list = meter.get("/suppressions").json();
    assert_eq!((&list[0]["address"], &list[0]["reason"]), (&json!(BOB), &json!("bounce")), "{list}");
    assert_eq!(list[0]["message_id"], message(&meter, "gone")["message_id"]);
    let remove = || ask(meter.as_customer(reqwest::Method::DELETE, "/suppressions/BOB@example.net"));
    assert_eq!(remove().status, 200);
    remove().is_error(404, "not_found");
    assert_eq!(meter.post_send(&body).status, 200);
}

#[test]
fn what_a_mailbox_will_not_have_comes_back_and_is_held_against_nobody() {
    let meter = harsh().set("billing", "refund_bounced = true").start();
    let soft = |sub_type: &str| json!({ "type": "Transient", "subType": sub_type, "message": "not today" });
    let subjects = ["MailboxFull", "MessageTooLarge", "ContentRejected", "AttachmentRejected", "General"];
    for (nth, subject) in subjects.into_iter().enumerate() {
        let mail = sent(&meter, subject);
        meter.drain();
        let mut bounced = event(&mail, "bounced", &[BOB], 1);
        bounced["data"]["bounce"] = soft(subject);
        post(&meter, &format!("m{nth}"), &bounced);
    }
    until("the bounces", || (bounces(&meter).len() == 4).then_some(()));
    meter.drain();
    let kinds = subjects.map(|subject| events(&meter, subject).remove(0).0);
    assert_eq!(kinds, ["bounced", "bounced", "bounced", "bounced", "soft_bounced"]);
    let full = bounces(&meter)
        .into_iter()
        .find(|mail| mail.email.subject.as_deref() == Some("Undelivered: MailboxFull"));
    let text = full.unwrap().email.text.unwrap();
    assert!(text.contains("mailbox is full") && text.contains("Transient MailboxFull: not today"), "{text}");
    assert_eq!(message(&meter, "General")["recipients"][0]["bounced_at"], Value::Null);
    let refunds = subjects.map(|subject| message(&meter, subject)["refunds"].as_array().unwrap().len());
    assert_eq!(refunds, [1, 1, 1, 1, 0], "decided as for any late failure");
    assert_eq!(meter.get("/suppressions").json(), json!([]), "another mail may fare better");
    assert_eq!(meter.number("SELECT coalesce(sum(bounced), 0) FROM reputation"), 0);
    assert!(meter.signed_in().say("MAIL FROM:<ann@example.com>").starts_with("250 "), "nobody is paused");
}

/// Python's email package takes it apart, as the sender's own program would.
#[test]
fn a_late_bounce_returns_the_header_and_belongs_to_its_thread_as_any_other() {
    let plan =
        Meter::resend().set("upstream", "fallback = \"smtp\"").set("upstream", "allow_plaintext = true");
    let mut meter = plan.start();
    let mail = sent(&meter, "gone");
    meter.drain();
    meter.kill();
    meter.serve();
    assert_eq!(meter.number("SELECT count(*) FROM body"), 0);
    tell(&meter, &mail, &[BOB], &News::hard_bounce());
    let report = until("the bounce", || meter.sink().mails().pop());
    let Some(read) = judged("read_bounce.py", &report.bytes) else { return };
    assert_eq!((&read["defects"], &read["report_type"]), (&json!([]), &json!("delivery-status")), "{read}");
    assert_eq!(read["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
    let original = &read["original"];
    assert_eq!(original["Message-ID"], "<gone@example.com>", "{original}");
    assert_eq!(original["From"], "Ann <ann@example.com>", "{original}");
    assert!(original["Received"].is_string(), "as it was accepted: {original}");
    assert_eq!(read["thread"], json!(["<gone@example.com>", "<gone@example.com>"]));
    assert_eq!(read["groups"][1]["Action"], "failed", "{read}");
    assert!(!String::from_utf8_lossy(&report.bytes).contains("Hello Bob"), "it is not kept");
}

#[test]
fn of_a_bounce_that_is_nobodys_the_sender_hears_once_and_nobody_is_blamed() {
    let meter = Meter::resend().start();
    let to = [BOB, "cid@example.net", "dan@example.net"];
    assert!(meter.signed_in().attempt(&to, &letter("three")).starts_with("250 "));
    let mail = at_resend(&meter, "three");
    meter.drain();
    post(&meter, "m1", &event(&mail, "delivered", &["dan@example.net"], 1));
    for _ in 0..2 {
        tell(&meter, &mail, &to, &News::hard_bounce());
    }
    let notice = until("the notice", || bounces(&meter).pop());
    meter.drain();
    until("all to be heard", || {
        let metrics = meter.get_as_operator("/metrics").body;
        metrics.contains("postmeter_webhooks_total{source=\"resend\",result=\"accepted\"} 3").then_some(())
    });
    meter.drain();
    assert_eq!(bounces(&meter).len(), 1, "once a part, however often it is told");
    assert_eq!(notice.email.subject.as_deref(), Some("Undelivered to somebody: three"));
    assert_eq!(notice.email.recipients().collect::<Vec<_>>(), ["ann@example.com"]);
    let text = notice.email.text.clone().unwrap();
    let listed = "<bob@example.net>\n<cid@example.net>\n<dan@example.net>\n";
    assert!(text.contains(listed) && text.contains("550 5.1.1 user unknown"), "{text}");
    let files = notice.email.attachments.clone().unwrap();
    assert_eq!(files.len(), 1, "the header, and nothing for programs: {files:?}");
    let story = message(&meter, "three");
    assert!(story["recipients"].as_array().unwrap().iter().all(|one| one["bounced_at"].is_null()), "{story}");
    assert_eq!(meter.get("/suppressions").json(), json!([]));

    let mut smtp = meter.signed_in();
    smtp.say("MAIL FROM:<ann@example.com>");
    for to in to {
        let reply = smtp.say(&format!("RCPT TO:<{to}> NOTIFY=NEVER"));
        assert!(reply.starts_with("250 "), "{reply}");
    }
    smtp.say("DATA");
    assert!(smtp.message(&letter("silent")).starts_with("250 "));
    let mail = at_resend(&meter, "silent");
    meter.drain();
    tell(&meter, &mail, &to, &News::hard_bounce());
    until("it to be heard", || (!events(&meter, "silent").is_empty()).then_some(()));
    meter.drain();
    assert_eq!(bounces(&meter).len(), 1, "who asked for silence hears nothing");
}

#[test]
fn a_bounce_between_mail_and_the_end_of_data_is_still_seen() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "gone");
    meter.drain();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["cid@example.net", BOB]);
    tell(&meter, &mail, &[BOB], &News::Complained);
    until("it to be on the list", || (!meter.get("/suppressions").json()[0].is_null()).then_some(()));
    let reply = smtp.message(&letter("raced"));
    assert!(reply.starts_with("550 5.1.1 bob@example.net is on the suppression list"), "{reply}");
    assert!(reply.contains("its owner called a mail spam"), "{reply}");
    assert!(smtp.attempt(&["cid@example.net"], &letter("another")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.mails().len(), 2, "nothing of the raced mail left");
}

#[test]
fn what_resend_skips_or_gives_up_after_all_is_told_too() {
    let meter = Meter::resend().start();
    let (skipped, given_up) = (sent(&meter, "skipped"), sent(&meter, "given up"));
    meter.drain();
    tell(&meter, &skipped, &[BOB], &News::Suppressed);
    tell(&meter, &given_up, &[BOB], &News::Failed { reason: "reached_daily_quota".to_owned() });
    until("both bounces", || (bounces(&meter).len() == 2).then_some(()));
    meter.drain();
    let list = meter.get("/suppressions").json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["reason"]), (1, &json!("upstream")), "{list}");
    let text: Vec<String> = bounces(&meter).into_iter().filter_map(|mail| mail.email.text).collect();
    assert!(text.iter().any(|text| text.contains("previous_bounce")), "{text:?}");
    assert!(text.iter().any(|text| text.contains("reached_daily_quota")), "{text:?}");
    let ready = ask(meter.request(reqwest::Method::GET, "/readyz"));
    assert_eq!(ready.status, 200, "the event closes no gate: {ready:?}");
}

#[test]
fn a_bounce_of_our_own_mail_and_of_mail_from_nobody_ends_there() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "gone");
    tell(&meter, &mail, &[BOB], &News::hard_bounce());
    let bounce = until("the bounce", || bounces(&meter).pop());
    meter.drain();
    tell(&meter, &bounce, &["ann@example.com"], &News::hard_bounce());
    until("it to be heard", || {
        let bounced = "SELECT count(*) FROM event WHERE kind = 'bounced'";
        (meter.number(bounced) == 2).then_some(())
    });
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 2);
    let list = meter.get("/suppressions").json();
    assert_eq!(list.as_array().unwrap().len(), 2, "the sender gets no more reports: {list}");
}

fn harsh() -> Plan {
    Meter::resend().set("reputation", "min_recipients = 3\nmin_bounced = 2\nmin_complained = 2")
}

#[test]
fn a_customer_whose_mail_comes_back_is_paused_told_once_and_resumed_by_the_operator() {
    let meter = harsh().start();
    let to = ["b@example.net", "c@example.net", "d@example.net", "e@example.net"];
    let mail = sent_to_all(&meter, &to);
    for address in &to[..3] {
        tell(&meter, &mail, &[address], &News::hard_bounce());
    }
    let notice = until("the notice", || {
        let is_notice = |mail: &Mail| mail.email.subject.as_deref() == Some("Your account is paused");
        meter.mails().into_iter().find(is_notice)
    });
    assert_eq!(notice.email.recipients().collect::<Vec<_>>(), ["ann@example.com"]);
    until("all to be heard", || (events(&meter, "many").len() == 3).then_some(()));
    let reply = meter.signed_in().say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("550 5.7.1 Account suspended: paused because mail to 2 of 4"), "{reply}");
    let metrics = meter.get_as_operator("/metrics").body;
    assert!(metrics.contains("postmeter_customers_paused_total 1"), "{metrics}");
    assert_eq!(meter.log().matches("a customer is paused").count(), 1, "{}", meter.log());
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message WHERE kind = 'notice'"), 1);

    meter.says(&["customer", "resume", CUSTOMER_ID]);
    let reply = meter.signed_in().attempt(&["z@example.net"], &letter("resumed"));
    assert!(reply.starts_with("250 "), "{reply}");
    tell(&meter, &mail, &to[3..], &News::hard_bounce());
    until("it to be heard", || (events(&meter, "many").len() == 4).then_some(()));
    let reply = meter.signed_in().say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("250 "), "what was sent before does not count again: {reply}");
}

#[test]
fn a_customer_whose_mail_is_called_spam_is_paused_however_little_was_sent() {
    let thresholds = "min_recipients = 100\nmin_complained = 2";
    let meter = Meter::resend().set("reputation", thresholds).start();
    let to = ["b@example.net", "c@example.net", "d@example.net", "e@example.net"];
    let mail = sent_to_all(&meter, &to);
    for (id, second) in [("m1", 1), ("m2", 2)] {
        post(&meter, id, &event(&mail, "complained", &to[..1], second));
    }
    let reply = meter.signed_in().say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("250 "), "one recipient has complained, however often it is told: {reply}");
    post(&meter, "m3", &event(&mail, "complained", &to[1..2], 3));
    let reply = meter.signed_in().say("MAIL FROM:<ann@example.com>");
    let why = "550 5.7.1 Account suspended: paused because 2 of 4 recipients (50.00 %) called its mail spam";
    assert!(reply.starts_with(why), "{reply}");
    post(&meter, "m4", &event(&mail, "complained", &to[2..3], 4));
    meter.drain();
    let notices = meter.mails().into_iter().map(|mail| mail.email);
    let notices: Vec<_> =
        notices.filter(|email| email.subject.as_deref() == Some("Your account is paused")).collect();
    assert_eq!(notices.len(), 1, "the customer is told once");
    assert_eq!(notices[0].recipients().collect::<Vec<_>>(), ["ann@example.com"]);
    assert!(notices[0].text.as_deref().unwrap().contains("2 of 4 recipients"), "{notices:?}");
}

#[test]
fn who_is_paused_is_not_told_by_mail_where_that_is_switched_off() {
    let meter = harsh().set("notices", "bounced = false").start();
    let to = ["b@example.net", "c@example.net", "d@example.net", "e@example.net"];
    let mail = sent_to_all(&meter, &to);
    for address in &to[..3] {
        tell(&meter, &mail, &[address], &News::hard_bounce());
    }
    until("the pause", || meter.log().contains("a customer is paused").then_some(()));
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message WHERE kind = 'notice'"), 0);
}

#[test]
fn a_customer_puts_an_address_on_their_own_list_over_http() {
    let meter = Meter::resend().start();
    meter.says(&["customer", "add", "cus_other"]);
    let made = meter.says(&["credential", "create", "--customer", "cus_other", "--json"]);
    let other: Value = serde_json::from_str(&made).unwrap();
    let add = |body: &Value| ask(meter.as_customer(reqwest::Method::POST, "/suppressions").json(body));
    let of_zoe = |reason: &str| json!({ "address": "Zoe@example.org", "reason": reason });
    for reason in ["x".repeat(161), "two\nlines".to_owned(), "\u{1b}[31mred".to_owned()] {
        add(&of_zoe(&reason)).is_error(422, "invalid");
    }
    for body in [json!({ "address": "zoe" }), json!({}), json!({ "address": "z@example.org", "extra": 1 })] {
        add(&body).is_error(422, "invalid");
    }
    let mut of_ann = of_zoe("not theirs");
    of_ann["customer_id"] = CUSTOMER_ID.into();
    let request = meter.request(reqwest::Method::POST, "/suppressions");
    let as_other = request.bearer_auth(other["secret"].as_str().unwrap()).json(&of_ann);
    ask(as_other).is_error(403, "forbidden");
    assert_eq!(meter.get("/suppressions").json(), json!([]), "what is refused leaves no trace");

    let added = add(&of_zoe("asked us to"));
    assert_eq!(added.status, 201, "{added:?}");
    let shown = ["address", "reason", "detail"].map(|field| added.json()[field].clone());
    assert_eq!(shown, [json!("zoe@example.org"), json!("manual"), json!("asked us to")]);
    let again = add(&of_zoe("another reason"));
    assert_eq!((again.status, again.json()), (200, added.json()), "what is there stays");
    assert_eq!(meter.get("/suppressions").json(), json!([added.json()]));
    let mut smtp = meter.signed_in();
    smtp.say("MAIL FROM:<ann@example.com>");
    let reply = smtp.say("RCPT TO:<zoe@example.org>");
    assert!(reply.starts_with("550 5.1.1 zoe@example.org is on the suppression list"), "{reply}");
    assert!(reply.contains("asked us to"), "{reply}");
}

#[test]
fn the_operator_lists_adds_and_removes_beside_a_running_server() {
    let meter = Meter::resend().start();
    let suppression = |args: &[&str]| {
        let all: Vec<&str> =
            ["suppression"].iter().chain(args).chain(&["--customer", CUSTOMER_ID]).copied().collect();
        meter.run(&all)
    };
    let said = suppression(&["add", "Zoe@example.org", "--reason", "asked us to"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let listed = suppression(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(
        (&listed[0]["address"], &listed[0]["detail"]),
        (&json!("zoe@example.org"), &json!("asked us to"))
    );
    let refused = meter.post_send(&json!({
        "from": "ann@example.com", "to": "zoe@example.org", "subject": "no", "text": "Hello",
    }));
    refused.is_error(422, "suppressed");
    let as_operator = format!("/suppressions?customer_id={CUSTOMER_ID}");
    assert_eq!(meter.get_as_operator(&as_operator).json(), listed);
    meter.get_as_operator("/suppressions").is_error(422, "invalid");
    meter.get("/suppressions?customer_id=cus_eve").is_error(403, "forbidden");
    assert_eq!(suppression(&["remove", "zoe@example.org"]).code, Some(0));
    let again = suppression(&["remove", "zoe@example.org"]);
    assert!(again.code == Some(1) && again.err.contains("is not on the suppression list"), "{again:?}");
}

#[test]
fn a_message_tells_its_whole_story() {
    use postmeter::sandbox::faults::{Fault, Reply};
    let meter = Meter::resend().set("queue", "retry_min_s = 1").start();
    let busy = r#"{"statusCode":500,"name":"internal_server_error","message":"later"}"#;
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(500).body(busy)).on("POST", "/emails"));
    let mail = sent(&meter, "story");
    meter.drain();
    tell(&meter, &mail, &[BOB], &News::Delivered);
    until("the event", || (!events(&meter, "story").is_empty()).then_some(()));
    let story = message(&meter, "story");
    let timeline = story["timeline"].as_array().unwrap();
    let told: Vec<String> = timeline
        .iter()
        .map(|moment| {
            let outcome = moment["outcome"].as_str().unwrap_or_default();
            format!("{} {outcome}", moment["what"].as_str().unwrap()).trim_end().to_owned()
        })
        .collect();
    let wanted = [
        "accepted",
        "attempt unknown",
        "attempt sent",
        "captured",
        "entry opened",
        "entry settled",
        "event delivered",
    ];
    for step in wanted {
        assert!(told.contains(&step.to_owned()), "{step}: {story}");
    }
    assert_eq!(told[0], "accepted");
    let credits = |what: &str| {
        let mut moments = timeline.iter();
        moments.find(|moment| moment["what"] == what).map(|moment| moment["credits"].clone())
    };
    assert_eq!(
        ["accepted", "captured", "released"].map(credits),
        [Some(json!(1)), Some(json!(1)), None],
        "{story}"
    );
    let of_part = timeline.iter().filter(|moment| moment["part_no"] == 0);
    assert_eq!(of_part.count(), 3, "the attempts and the event: {story}");
    assert_eq!(story["events"][0]["part_no"], 0, "{story}");
    let sent = timeline.iter().find(|moment| moment["outcome"] == "sent").unwrap();
    assert_eq!((&sent["upstream_id"], &sent["attempt"]), (&json!(mail.id), &json!(2)), "{story}");
    let at = |moment: &Value| moment["at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let times: Vec<Timestamp> = timeline.iter().map(at).collect();
    assert!(times.is_sorted(), "{times:?}");
}
