use serde_json::{Value, json};

use super::*;
use crate::domain::dsn::{Dsn, Notify, RecipientDsn};
use crate::domain::event::{Blame, EventKind};
use crate::domain::reputation::Thresholds;
use crate::store::event::{Letters, Rules, Told};
use crate::store::relayed::Relayed;

const A: &str = "a@y.example";
const B: &str = "B@y.example";
const SENDER: &str = "app@x.example";

/// A report to the sender, as small as can be.
fn letter(customer_id: &CustomerId, second: i64) -> Acceptance {
    let own = message(customer_id, &[SENDER]);
    let (price, accepted_at) = (Credits::ZERO, at(second));
    Acceptance { kind: Kind::Bounce, price, accepted_at, lease_until: None, ..own }
}

/// Those moments of a story, as a customer reads them.
async fn told(store: &Store, of: &MessageId, what: &[&str]) -> Vec<Value> {
    let story = store.story(of).await.unwrap().unwrap();
    let moments = story.timeline.into_iter().filter(|moment| what.contains(&moment.what));
    moments.map(|moment| serde_json::to_value(moment).unwrap()).collect()
}

async fn hear(store: &Store, told: &Told, bounce: &Acceptance) {
    let thresholds = Thresholds { min_recipients: u64::MAX, ..Thresholds::default() };
    let letters =
        Letters { bounce: &|_, _| Some(bounce.clone()), somebody_failed: &|_, _| None, pause: &|_, _| None };
    let rules = Rules { allowance: None, thresholds: &thresholds, letters };
    store.hear(told, &rules, told.told_at).await.unwrap();
    assert_audit(store).await;
}

fn event(of: &Acceptance, (part_no, kind): (u32, EventKind), to: &str, second: i64) -> Told {
    Told {
        message_id: of.message_id.clone(),
        part_no,
        customer_id: of.customer_id.clone(),
        kind,
        told_at: at(second),
        recipients: vec![mailbox(to)],
        words: Some("550 5.1.1 unknown".to_owned()),
        blame: Blame::Address,
    }
}

#[tokio::test]
async fn a_story_tells_which_reports_went_out_about_it_and_whom_it_suppressed() {
    const WHAT: [&str; 2] = ["report", "suppressed"];
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mail = accepted(&store, message(&ann, &[A, B])).await;
    let other = accepted(&store, message(&ann, &[A, B, "c@y.example"])).await;
    store.suppress(&ann, &mailbox("c@y.example"), None, at(0)).await.unwrap();
    let [first, second] = [letter(&ann, 2), letter(&ann, 8)];
    let nobody = (mailbox(A), Answer::new("5.1.1", "550 5.1.1 no such user"));
    let gone = Answered {
        sent: vec![mailbox(B)],
        failed: vec![nobody],
        no_mailbox: vec![mailbox(A)],
        ..Answered::default()
    };
    let gone = report(&mail, 1, News::Answered(gone));
    store.report(Report { bounce: Some(Box::new(first.clone())), ..gone }).await.unwrap();
    hear(&store, &event(&mail, (0, EventKind::Bounced), B, 9), &second).await;

    let report = |nth: &Acceptance, state: &str| {
        let (at, id) = (nth.accepted_at.to_string(), nth.message_id.as_str());
        json!({ "at": at, "what": "report", "outcome": state, "recipient": SENDER, "message_id": id })
    };
    let suppressed = |second, address: &str, text: &str| {
        let at = at(second).to_string();
        json!({ "at": at, "what": "suppressed", "outcome": "bounce", "recipient": address, "text": text })
    };
    assert_eq!(
        told(&store, &mail.message_id, &WHAT).await,
        [
            suppressed(1, A, "550 5.1.1 no such user"),
            report(&first, "queued"),
            report(&second, "queued"),
            suppressed(9, "b@y.example", "550 5.1.1 unknown"),
        ]
    );
    for nothing in [&other.message_id, &first.message_id] {
        assert_eq!(told(&store, nothing, &WHAT).await, Vec::<Value>::new());
    }

    store.lease(&first_part(&first), at(10), at(40)).await.unwrap().unwrap();
    store.report(super::report(&first, 1, answered(&[SENDER], &[]))).await.unwrap();
    store.unsuppress(&ann, &mailbox(B)).await.unwrap();
    assert_eq!(
        told(&store, &mail.message_id, &WHAT).await,
        [suppressed(1, A, "550 5.1.1 no such user"), report(&first, "sent"), report(&second, "queued")]
    );
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_report_of_success_is_in_the_story_and_a_notice_in_none() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mail = accepted(&store, Acceptance { dsn: Arc::new(asked()), ..message(&ann, &[A]) }).await;
    let handed_on = letter(&ann, 3);
    let written = handed_on.clone();
    let news = Answered { sent: vec![mailbox(A)], relayed: vec![mailbox(A)], ..Answered::default() };
    let relayed = Some(Relayed::new(move |_| Some(written.clone())));
    store.report(Report { relayed, ..report(&mail, 1, News::Answered(news)) }).await.unwrap();
    let notice = accepted(&store, Acceptance { kind: Kind::Notice, ..letter(&ann, 4) }).await;
    let of_mail = told(&store, &mail.message_id, &["report"]).await;
    assert_eq!(of_mail.len(), 1);
    assert_eq!(of_mail[0]["message_id"], handed_on.message_id.as_str());
    assert_eq!(told(&store, &notice.message_id, &["report"]).await, Vec::<Value>::new());
    assert_eq!(count(&store, "SELECT count(*) FROM message WHERE about IS NULL").await, 2);
}

fn asked() -> Dsn {
    let mut dsn = Dsn::default();
    dsn.ask(&mailbox(A), RecipientDsn { notify: Notify::parse("SUCCESS").ok(), original: None });
    dsn
}

#[tokio::test]
async fn attempts_and_events_of_a_story_name_their_part() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let parts = vec![by_resend(A), by_resend(B)];
    let mail = accepted(&store, Acceptance { parts, ..message(&ann, &[]) }).await;
    store.report(report(&mail, 1, answered(&[A], &[]))).await.unwrap();
    store.report(Report { part_no: 1, ..report(&mail, 1, retry(false)) }).await.unwrap();
    hear(&store, &event(&mail, (1, EventKind::DeliveryDelayed), B, 9), &letter(&ann, 9)).await;
    let told = told(&store, &mail.message_id, &["accepted", "attempt", "event"]).await;
    let told: Vec<_> =
        told.iter().map(|moment| (moment["what"].as_str().unwrap(), moment["part_no"].as_u64())).collect();
    assert_eq!(told, [("accepted", None), ("attempt", Some(0)), ("attempt", Some(1)), ("event", Some(1))]);
    let story = store.story(&mail.message_id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_value(&story.events).unwrap()[0]["part_no"], 1);
}

#[tokio::test]
async fn a_story_tells_the_hold_and_what_of_it_was_captured_and_released() {
    const C: &str = "c@y.example";
    type Case<'c> = (&'c [&'c str], &'c [&'c str], &'c [(&'c str, i64)]);
    let cases: [Case<'_>; 3] = [
        (&[A, B, C], &[], &[("accepted", 3), ("captured", 3)]),
        (&[A], &[B, C], &[("accepted", 3), ("captured", 1), ("released", 2)]),
        (&[], &[A, B, C], &[("accepted", 3), ("released", 3)]),
    ];
    for (sent, failed, wanted) in cases {
        let (store, _directory) = store().await;
        let ann = customer(&store, "ann", Some(9)).await;
        let mail = accepted(&store, per_recipient(&ann, &[A, B, C])).await;
        let credits = |moments: Vec<Value>| -> Vec<(String, i64)> {
            let of =
                |moment: &Value| Some((moment["what"].as_str()?.to_owned(), moment["credits"].as_i64()?));
            let mut credits: Vec<_> = moments.iter().filter_map(of).collect();
            credits.sort();
            credits
        };
        const WHAT: [&str; 3] = ["accepted", "captured", "released"];
        let held = credits(told(&store, &mail.message_id, &WHAT).await);
        assert_eq!(held, [("accepted".to_owned(), 3)], "nothing is decided yet");
        store.report(report(&mail, 1, answered(sent, failed))).await.unwrap();
        let ended = credits(told(&store, &mail.message_id, &WHAT).await);
        let wanted: Vec<_> = wanted.iter().map(|(what, credits)| ((*what).to_owned(), *credits)).collect();
        assert_eq!(ended, wanted, "{sent:?} {failed:?}");
        assert_audit(&store).await;
    }
}
