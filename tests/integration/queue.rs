//! The operator decides about what waits, beside the running server, and neither
//! mail nor money is lost or doubled by it.

use std::collections::BTreeSet;

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use serde_json::{Value, json};

use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

pub(crate) const OTHER_BYTES: &str =
    r#"{"statusCode":409,"name":"invalid_idempotent_request","message":"Other bytes under this key."}"#;

impl Meter {
    /// Sends a letter and gives its id.
    pub(crate) fn accepted(&self, subject: &str) -> String {
        let reply = self.signed_in().deliver(&letter(subject));
        let id = reply.strip_prefix("250 2.0.0 Queued as ").and_then(|rest| rest.split(',').next());
        id.unwrap_or_else(|| panic!("{reply}")).to_owned()
    }

    fn queued(&self, id: &str) -> Value {
        self.get_as_operator(&format!("/queue/{id}")).json()
    }

    /// Waits until the first part of a message is in this state, with or without a known outcome.
    #[track_caller]
    pub(crate) fn until_part_is(&self, id: &str, state: &str, unknown: bool) {
        until_is("the part's state", (state.to_owned(), unknown), || {
            let part = self.queued(id)["parts"][0].clone();
            (part["state"].as_str().unwrap().to_owned(), part["unknown"].as_bool().unwrap())
        });
    }

    #[track_caller]
    pub(crate) fn command_fails(&self, arguments: &[&str], told: &str) {
        let said = self.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{arguments:?}: {said:?}");
        assert!(said.err.contains(told), "{arguments:?}: {said:?}");
    }
}

/// An upstream that puts everything off for a long time.
fn deferring(meter: &Meter) {
    meter.sink().reply("MAIL", "451 4.7.1 come again");
}

#[test]
fn a_retry_is_heard_by_the_running_server() {
    let meter = Meter::smtp().set("queue", "retry_min_s = 3600").start();
    deferring(&meter);
    let ids = ["one", "two", "three"].map(|subject| meter.accepted(subject));
    for id in &ids {
        meter.until_part_is(id, "queued", false);
    }
    let listed: Value = serde_json::from_str(&meter.says(&["queue", "list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
    meter.sink().behave();
    assert!(meter.says(&["queue", "retry", &ids[0]]).contains("is due now"));
    until("the first to be sent", || (meter.queued(&ids[0])["state"] == "sent").then_some(()));
    let answer = meter.post_as_operator(&format!("/queue/{}/retry", ids[1]), &json!({}));
    assert_eq!(answer.status, 200, "{answer:?}");
    until("the second to be sent", || (meter.queued(&ids[1])["state"] == "sent").then_some(()));
    assert_eq!(meter.sink().mails().len(), 2);
    assert!(meter.says(&["queue", "retry", "--all"]).starts_with("1 messages are due now"));
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 3);
    assert_eq!(meter.says(&["queue", "list"]), "the queue is empty\n");
}

#[test]
fn p3_a_cancelled_message_never_leaves_and_its_credit_comes_back() {
    let meter = Meter::smtp().set("queue", "retry_min_s = 3600").start();
    deferring(&meter);
    let ids = ["one", "two"].map(|subject| meter.accepted(subject));
    for id in &ids {
        meter.until_part_is(id, "queued", false);
    }
    assert_eq!((&meter.credits()["available"], &meter.credits()["held"]), (&8.into(), &2.into()));
    assert!(meter.says(&["queue", "cancel", &ids[0]]).ends_with(": 1 credits given back\n"));
    let answer = meter.post_as_operator(&format!("/queue/{}/cancel", ids[1]), &json!({}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((&meter.credits()["available"], &meter.credits()["held"]), (&10.into(), &0.into()));
    let log = meter.get(&format!("/messages/{}", ids[0])).json();
    assert_eq!((&log["state"], &log["debit"]), (&"failed".into(), &0.into()), "{log}");
    assert_eq!(log["recipients"][0]["reply"], "cancelled by the operator", "{log}");
    meter.post_as_operator(&format!("/queue/{}/cancel", ids[1]), &json!({})).is_error(409, "already_final");
    meter.sink().behave();
    meter.drain();
    assert_eq!((meter.sink().mails().len(), meter.dodo().debited(CUSTOMER_ID)), (0, 0), "nor a bounce");
    assert_eq!(meter.number("SELECT count(*) FROM body"), 0);
    assert!(meter.log().contains("the operator decided"), "{}", meter.log());
}

#[test]
fn p3_what_the_upstream_may_have_is_not_cancelled() {
    let meter = Meter::resend().set("queue", "retry_min_s = 3600").set("upstream", "timeout_s = 2").start();
    let faults = meter.resend_stand_in().faults();
    faults.push(Fault::new(Misbehaviour::HangAfter).on("POST", "/emails"));
    let id = meter.accepted("hangs");
    until("the call to hang", || (meter.resend_stand_in().count() == 1).then_some(()));
    meter.post_as_operator(&format!("/queue/{id}/cancel"), &json!({})).is_error(409, "attempt_running");
    meter.until_part_is(&id, "queued", true);
    let confirmed = json!({ "confirm": true });
    meter.post_as_operator(&format!("/queue/{id}/cancel"), &confirmed).is_error(409, "outcome_unknown");
    meter.command_fails(&["queue", "cancel", &id, "--yes"], "the upstream may have it");
    meter.says(&["queue", "retry", &id]);
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 1, "P4: the same call again");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    meter.command_fails(&["queue", "cancel", &id], "it is final");
}

#[test]
fn p4_a_held_message_is_decided_only_by_who_was_told_the_risk() {
    let meter = Meter::resend().start();
    let faults = meter.resend_stand_in().faults();
    let held = |subject: &str| {
        // The answer is lost, and then the key is taken by something else.
        faults.push(Fault::new(Misbehaviour::DropBefore).on("POST", "/emails"));
        faults.push(Fault::new(Reply::status(409).body(OTHER_BYTES)).on("POST", "/emails"));
        let id = meter.accepted(subject);
        meter.until_part_is(&id, "held", true);
        id
    };
    let (again, given_up) = (held("again"), held("given up"));
    let listed: Value =
        serde_json::from_str(&meter.says(&["queue", "list", "--state", "held", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    meter.command_fails(&["queue", "retry", &again], "they may get it twice");
    meter.command_fails(&["queue", "cancel", &given_up], "it is not billed, even if they have it");
    meter.says(&["queue", "retry", "--all"]);
    let unconfirmed = meter.post_as_operator(&format!("/queue/{again}/retry"), &json!({}));
    unconfirmed.is_error(409, "confirmation_needed");
    assert_eq!((meter.resend_stand_in().count(), &meter.credits()["held"]), (0, &2.into()));

    meter.says(&["queue", "retry", &again, "--yes"]);
    let confirmed = json!({ "confirm": true });
    let answer = meter.post_as_operator(&format!("/queue/{given_up}/cancel"), &confirmed);
    assert_eq!(answer.status, 200, "{answer:?}");
    meter.drain();
    let subjects: Vec<_> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    assert_eq!(subjects, ["again"]);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    for (id, choice, via) in [(&again, "retry", "command"), (&given_up, "cancel", "http")] {
        let decision = meter.queued(id)["decisions"][0].clone();
        assert_eq!((&decision["choice"], &decision["via"]), (&choice.into(), &via.into()));
        assert_eq!(decision["held_parts"], 1, "{decision}");
    }
}

#[test]
fn p3_a_cancel_that_races_with_the_attempt_is_whole_or_nothing() {
    const MESSAGES: usize = 150;
    let meter = Meter::smtp().set("queue", "retry_min_s = 3600").credits(1_000).start();
    deferring(&meter);
    let mut smtp = meter.signed_in();
    for nth in 0..MESSAGES {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    until_is("all to wait", 0, || {
        meter.number("SELECT count(*) FROM part WHERE state <> 'queued' OR unknown = 1")
    });
    let ids: Vec<String> = meter.read("SELECT message_id FROM message ORDER BY message_id");
    meter.sink().behave();
    let mut cancelled = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| meter.says(&["queue", "retry", "--all"]));
        until("the first to leave", || (!meter.sink().mails().is_empty()).then_some(()));
        // The server goes on from the oldest, this from the youngest.
        for id in ids.iter().rev() {
            let answer = meter.post_as_operator(&format!("/queue/{id}/cancel"), &json!({}));
            match answer.status {
                200 => assert!(cancelled.insert(id.clone())),
                _ => assert!(matches!(
                    answer.json()["code"].as_str(),
                    Some("attempt_running" | "already_final")
                )),
            }
        }
    });
    meter.drain();
    let sent = meter.sink().mails().len();
    assert_eq!(sent + cancelled.len(), MESSAGES, "each either left or was given up");
    let failed: Vec<String> =
        meter.read("SELECT message_id FROM message WHERE released = 1 ORDER BY message_id");
    assert_eq!(failed, cancelled.into_iter().collect::<Vec<_>>());
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), u64::try_from(sent).unwrap());
}

/// A message that Resend does not take now, and that waits for an hour.
fn put_off() -> (Meter, String) {
    const BUSY: &str = r#"{"statusCode":409,"name":"resource_locked","message":"Come again."}"#;
    let meter = Meter::resend().set("queue", "retry_min_s = 3600").start();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(409).body(BUSY)).on("POST", "/emails"));
    let id = meter.accepted("left");
    meter.until_part_is(&id, "queued", false);
    (meter, id)
}

/// What Resend tells of a message's only part.
fn news(event: &str, id: &str) -> String {
    let tags = json!({ "postmeter": format!("{id}-0") });
    let data = json!({ "email_id": "re_1", "to": ["bob@example.net"], "tags": tags });
    json!({ "type": format!("email.{event}"), "data": data }).to_string()
}

#[test]
fn p3_mail_that_left_after_it_was_given_up_is_told() {
    let (meter, id) = put_off();
    meter.says(&["queue", "cancel", &id]);
    for event in ["sent", "delivered"] {
        assert_eq!(meter.resend_webhook(&format!("msg_{event}"), &news(event, &id)).status, 200);
        let page = meter.get("/metrics").body;
        assert!(
            page.contains("\npostmeter_late_sent_total 1\n"),
            "once, whatever else is told of it: {page}"
        );
    }
    assert!(meter.log().contains("the upstream took mail that had been given up"), "{}", meter.log());
    let part = meter.queued(&id)["parts"][0].clone();
    assert_eq!((&part["state"], &part["upstream_id"]), (&"failed".into(), &"re_1".into()), "{part}");
    assert_eq!(part["last_error"].as_str().unwrap().matches("the upstream took it all the same").count(), 1);
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn p4_a_webhook_proves_what_was_sent_while_it_waits() {
    let (meter, id) = put_off();
    assert_eq!(meter.resend_webhook("msg_1", &news("delivered", &id)).status, 200);
    meter.drain();
    assert_eq!((meter.resend_stand_in().count(), meter.dodo().debited(CUSTOMER_ID)), (0, 1));
}
