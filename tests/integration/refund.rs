//! What bounces after it was sent: shown always, and given back where the operator
//! wants that, once, whatever fails in between.

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use postmeter::sandbox::resend::{Mail, News};
use serde_json::{Value, json};

use crate::harness::plan::Plan;
use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

const ENTRIES: &str = "/ledger-entries";

fn refunding() -> Plan {
    Meter::resend().set("billing", "refund_bounced = true")
}

/// Sends a letter to Bob, and gives the mail as Resend has it.
fn sent(meter: &Meter, subject: &str) -> Mail {
    let reply = meter.signed_in().deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{reply}");
    until("the mail at Resend", || {
        meter.mails().into_iter().find(|mail| mail.email.subject.as_deref() == Some(subject))
    })
}

/// Resend tells something of a mail.
fn tell(meter: &Meter, mail: &Mail, to: &[&str], news: &News) {
    let _in_runtime = RUNTIME.enter();
    meter.resend_stand_in().tell(mail, to, news);
}

fn bounce(meter: &Meter, mail: &Mail) {
    tell(meter, mail, &["bob@example.net"], &News::hard_bounce());
}

/// The message as its customer sees it.
fn message(meter: &Meter, subject: &str) -> Value {
    let listed = meter.get("/messages").json();
    let found = listed.as_array().unwrap().iter().find(|message| message["subject"] == subject);
    let id = found.unwrap()["message_id"].as_str().unwrap();
    meter.get(&format!("/messages/{id}")).json()
}

/// How its refunds stand.
fn refunds(meter: &Meter, subject: &str) -> Vec<String> {
    let message = message(meter, subject);
    let refunds = message["refunds"].as_array().unwrap();
    refunds.iter().map(|refund| refund["state"].as_str().unwrap().to_owned()).collect()
}

fn has_bounced(meter: &Meter, subject: &str) -> bool {
    message(meter, subject)["recipients"][0]["bounced_at"].is_string()
}

fn available(meter: &Meter) -> i64 {
    meter.credits()["available"].as_i64().unwrap()
}

/// Credits that were given back at Dodo, line by line.
pub(crate) fn given(meter: &Meter) -> Vec<u64> {
    let lines = meter.dodo().ledger(CUSTOMER_ID).into_iter();
    let refunds =
        lines.filter(|line| line.description.as_deref().is_some_and(|text| text.contains("refund")));
    refunds.map(|line| line.amount).collect()
}

fn is_settled_credit(line: &str) -> bool {
    line.contains("entry settled") && line.contains("kind=\"credit\"") && line.contains("amount=1")
}

#[test]
fn p3_by_default_a_bounce_is_shown_and_changes_no_bill() {
    let meter = Meter::resend().start();
    let mail = sent(&meter, "gone");
    meter.drain();
    bounce(&meter, &mail);
    until("the bounce to be shown", || has_bounced(&meter, "gone").then_some(()));
    let shown = message(&meter, "gone");
    assert_eq!((&shown["state"], &shown["debit"]), (&json!("sent"), &json!(1)), "{shown}");
    assert!(shown["recipients"][0]["bounce"].as_str().unwrap().contains("user unknown"), "{shown}");
    assert_eq!((refunds(&meter, "gone"), given(&meter)), (vec![], vec![]));
    assert_eq!(available(&meter), 9);
}

#[test]
fn p3_a_bounce_after_the_debit_gives_the_credit_back_once_and_says_so() {
    let meter = refunding().start();
    meter.resend_stand_in().behave(|behaviour| behaviour.duplicate_events = true);
    let mail = sent(&meter, "gone");
    meter.drain();
    assert_eq!(available(&meter), 9);
    for news in [News::Delivered, News::Bounced { kind: "Transient".to_owned(), said: "full".to_owned() }] {
        tell(&meter, &mail, &["bob@example.net"], &news);
    }
    for _ in 0..3 {
        bounce(&meter, &mail);
    }
    until_is("the refund", vec!["credited".to_owned()], || refunds(&meter, "gone"));
    until_is("available", 10, || available(&meter));
    assert_eq!((given(&meter), meter.dodo().debited(CUSTOMER_ID)), (vec![1], 1));
    let shown = message(&meter, "gone");
    assert_eq!((&shown["debit"], &shown["refunded"]), (&json!(1), &json!(1)), "{shown}");
    let settled = meter.log().lines().filter(|line| is_settled_credit(line)).count();
    assert_eq!(settled, 1, "the log says once that Dodo has the credit: {}", meter.log());
    let due = meter.log().lines().filter(|line| line.contains("outcome=\"due\"")).count();
    assert_eq!(due, 1, "and once that it was due: {}", meter.log());
    let metrics = meter.get_as_operator("/metrics").body;
    assert!(metrics.contains("postmeter_refunds_total{result=\"credited\"} 1"), "{metrics}");
    until("the duplicates to be told apart", || {
        let metrics = meter.get_as_operator("/metrics").body;
        metrics.contains("postmeter_webhooks_total{source=\"resend\",result=\"duplicate\"} 5").then_some(())
    });
}

#[test]
fn p3_a_bounce_before_the_debit_is_never_debited() {
    let meter = refunding().start();
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropBefore).on("POST", ENTRIES).always());
    sent(&meter, "first");
    until("its entry to be tried", || (meter.dodo().faults().struck() > 0).then_some(()));
    let mail = sent(&meter, "gone");
    until_is("what is owed", 2, || meter.credits()["owed"].as_i64().unwrap());
    bounce(&meter, &mail);
    until_is("the refund", vec!["released".to_owned()], || refunds(&meter, "gone"));
    assert_eq!((available(&meter), &message(&meter, "gone")["debit"]), (9, &json!(0)));
    meter.dodo().faults().clear();
    meter.drain();
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), given(&meter)), (1, vec![]));
}

#[test]
fn p3_a_bounce_while_the_debit_is_on_its_way_waits_for_it() {
    let meter = refunding().start();
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropBefore).on("POST", ENTRIES).always());
    let mail = sent(&meter, "gone");
    until("its entry to be tried", || (meter.dodo().faults().struck() > 0).then_some(()));
    bounce(&meter, &mail);
    until_is("the refund", vec!["due".to_owned()], || refunds(&meter, "gone"));
    meter.dodo().faults().clear();
    until_is("the refund", vec!["credited".to_owned()], || refunds(&meter, "gone"));
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), given(&meter)), (1, vec![1]));
}

#[test]
fn p3_a_kill_or_a_lost_answer_gives_back_no_second_time() {
    for fault in [Misbehaviour::HangAfter, Misbehaviour::HangBefore, Misbehaviour::DropAfter] {
        let mut meter = refunding().start();
        let mail = sent(&meter, "gone");
        meter.drain();
        let faults = meter.dodo().faults().clone();
        faults.push(Fault::new(fault).on("POST", ENTRIES));
        bounce(&meter, &mail);
        until("the credit to be on its way", || (faults.struck() == 1).then_some(()));
        meter.kill();
        meter.serve();
        until_is("the refund", vec!["credited".to_owned()], || refunds(&meter, "gone"));
        until_is("available", 10, || available(&meter));
        assert_eq!((given(&meter), meter.dodo().balance(CUSTOMER_ID)), (vec![1], Some(10)));
        // The same event once more, under another id.
        bounce(&meter, &mail);
        meter.says(&["suppression", "remove", "bob@example.net", "--customer", CUSTOMER_ID]);
        sent(&meter, "another");
        meter.drain();
        assert_eq!(given(&meter), [1]);
    }
}

#[test]
fn p3_per_recipient_each_that_bounces_gives_one_back() {
    let meter = refunding().set("billing", "unit = \"recipient\"").start();
    let to = ["b@example.net", "c@example.net", "d@example.net"];
    let answer = meter.post_send(&json!({
        "from": "ann@example.com", "to": to, "subject": "three", "text": "Hello",
    }));
    assert_eq!(answer.status, 200, "{answer:?}");
    let mail = until("the mail at Resend", || meter.mails().pop());
    meter.drain();
    assert_eq!(available(&meter), 7);
    tell(&meter, &mail, &to[1..2], &News::hard_bounce());
    until_is("the refund", vec!["credited".to_owned()], || refunds(&meter, "three"));
    assert_eq!(message(&meter, "three")["refunds"][0]["recipient"], "c@example.net");
    until_is("available", 8, || available(&meter));
    // A second one would be more than 5 % of the day.
    tell(&meter, &mail, &to[2..], &News::hard_bounce());
    until_is("both", ["credited", "capped"].map(str::to_owned).to_vec(), || refunds(&meter, "three"));
    assert_eq!(given(&meter), [1]);
}

#[test]
fn a_bounce_that_does_not_say_whose_it_is_gives_nothing_back_and_is_shown() {
    let meter = refunding().set("billing", "unit = \"recipient\"").start();
    let to = ["b@example.net", "c@example.net"];
    let answer = meter.post_send(&json!({
        "from": "ann@example.com", "to": to, "subject": "two", "text": "Hello",
    }));
    assert_eq!(answer.status, 200, "{answer:?}");
    let mail = until("the mail at Resend", || meter.mails().pop());
    meter.drain();
    for named in [to.as_slice(), &[], &["elsewhere@example.org"]] {
        tell(&meter, &mail, named, &News::hard_bounce());
    }
    until("all to be heard", || {
        let said = "a bounce does not say whose it is";
        (meter.log().matches(said).count() == 3).then_some(())
    });
    let shown = message(&meter, "two");
    assert!(shown["parts"][0]["last_error"].as_str().unwrap().contains("user unknown"), "{shown}");
    assert!(shown["recipients"].as_array().unwrap().iter().all(|to| to["bounced_at"].is_null()), "{shown}");
    assert_eq!((refunds(&meter, "two"), given(&meter), available(&meter)), (vec![], vec![], 8));
    // One that says it is believed afterwards too.
    tell(&meter, &mail, &to[1..], &News::hard_bounce());
    until_is("the refund", vec!["credited".to_owned()], || refunds(&meter, "two"));
    assert_eq!(message(&meter, "two")["refunds"][0]["recipient"], "c@example.net");
}

#[test]
fn a_day_gives_back_one_in_twenty_and_the_rest_is_recorded() {
    let meter = refunding().start();
    let mails: Vec<Mail> = ["a", "b", "c"].iter().map(|subject| sent(&meter, subject)).collect();
    meter.drain();
    for mail in &mails {
        bounce(&meter, mail);
    }
    until("every bounce to be decided", || {
        let states: Vec<String> =
            ["a", "b", "c"].iter().flat_map(|subject| refunds(&meter, subject)).collect();
        let count = |state: &str| states.iter().filter(|found| *found == state).count();
        (count("credited") == 1 && count("capped") == 2).then_some(())
    });
    assert_eq!(given(&meter), [1]);
    assert_eq!(meter.log().matches("outcome=\"capped\"").count(), 2, "{}", meter.log());
}

#[test]
fn p4_a_webhook_proves_that_a_part_was_sent_whose_answers_were_lost() {
    let meter = Meter::resend().start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/emails"));
    faults.push(Fault::new(Reply::status(500)).on("POST", "/emails").always());
    let mail = sent(&meter, "lost");
    until("a second try", || (faults.struck() > 1).then_some(()));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
    until("the proof to be taken", || {
        tell(&meter, &mail, &["bob@example.net"], &News::Delivered);
        (message(&meter, "lost")["state"] == "sent").then_some(())
    });
    assert_eq!(message(&meter, "lost")["parts"][0]["upstream_id"], mail.id);
    meter.drain();
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.mails().len()), (1, 1));
}

#[test]
fn p3_a_webhook_resolves_a_part_that_is_held_and_a_bounce_of_it_is_given_back() {
    let meter = refunding().start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/emails"));
    let conflict = r#"{"statusCode":409,"name":"invalid_idempotent_request","message":"other body"}"#;
    faults.push(Fault::new(Reply::status(409).body(conflict)).on("POST", "/emails").always());
    let mail = sent(&meter, "held");
    until("the part to be held", || (message(&meter, "held")["state"] == "held").then_some(()));
    faults.clear();
    bounce(&meter, &mail);
    until("the refund", || {
        matches!(refunds(&meter, "held").as_slice(), [state] if state != "waiting").then_some(())
    });
    let shown = message(&meter, "held");
    assert_eq!(shown["state"], "sent", "{shown}");
    until_is("available", 10, || available(&meter));
}

#[test]
fn what_bounces_by_itself_does_so_here_too() {
    let meter = refunding().start();
    meter.resend_stand_in().behave(|behaviour| behaviour.events = true);
    let to = "bounced+label@resend.dev";
    let answer = meter.post_send(&json!({
        "from": "ann@example.com", "to": to, "subject": "by itself", "text": "Hello",
    }));
    assert_eq!(answer.status, 200, "{answer:?}");
    until("the bounce to be shown", || has_bounced(&meter, "by itself").then_some(()));
    until("the refund", || {
        let refunds = refunds(&meter, "by itself");
        refunds.first().is_some_and(|state| matches!(state.as_str(), "released" | "credited")).then_some(())
    });
    until_is("available", 10, || available(&meter));
}

#[test]
fn p10_only_what_resend_signed_is_believed() {
    let meter = refunding().start();
    let mail = sent(&meter, "fine");
    meter.drain();
    let tag = mail.email.tags.as_deref().unwrap()[0].value.clone();
    let body = json!({ "type": "email.bounced", "data": {
        "email_id": mail.id, "to": ["bob@example.net"], "tags": { "postmeter": tag },
        "bounce": { "type": "Permanent" },
    }});
    let unsigned = meter.request(reqwest::Method::POST, "/webhooks/resend").body(body.to_string());
    crate::harness::web::ask(unsigned).is_error(401, "bad_signature");
    let mut of_another_copy = body.clone();
    of_another_copy["data"]["email_id"] = json!("another");
    let answer = meter.resend_webhook("msg_1", &of_another_copy.to_string());
    assert_eq!((answer.status, &answer.json()["result"]), (200, &json!("ignored")));
    assert!(!has_bounced(&meter, "fine"));
    let answer = meter.resend_webhook("msg_2", &body.to_string());
    assert_eq!((answer.status, &answer.json()["result"]), (200, &json!("accepted")));
    assert!(has_bounced(&meter, "fine"));
}
