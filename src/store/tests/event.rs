use super::*;
use crate::domain::answer::PerhapsFailed;
use crate::domain::event::{Blame, EventKind};
use crate::domain::reputation::Thresholds;
use crate::domain::suppression::Cause;
use crate::store::event::{Heard, Letters, Original, Rules};

pub(super) use crate::store::event::Told;

const TO: &str = "b@y.example";
const LOW: Thresholds = Thresholds {
    window_days: 7,
    min_recipients: 4,
    min_bounced: 2,
    max_bounced_per_10000: 300,
    min_complained: 1,
    max_complained_per_10000: 6,
};
const NEVER: Thresholds = Thresholds { min_recipients: u64::MAX, ..LOW };

/// A message over the first road, sent to all of its recipients.
async fn sent(store: &Store, customer_id: &CustomerId, to: &[&str]) -> Acceptance {
    super::refunds::sent(store, message(customer_id, to)).await
}

/// That the first part of a message was delivered.
pub(super) fn delivered(of: &Acceptance) -> Told {
    told(of, EventKind::Delivered, &[TO], 1)
}

fn told(of: &Acceptance, kind: EventKind, to: &[&str], seconds: i64) -> Told {
    Told {
        message_id: of.message_id.clone(),
        part_no: 0,
        customer_id: of.customer_id.clone(),
        kind,
        told_at: at(seconds),
        recipients: to.iter().map(|to| mailbox(to)).collect(),
        words: Some("said".to_owned()),
        blame: Blame::Address,
    }
}

/// Hears with letters that are as small as can be.
async fn hear(store: &Store, told: &Told, thresholds: &Thresholds) -> Heard {
    let letter = |kind| Acceptance {
        kind,
        reverse_path: ReversePath::Null,
        price: Credits::ZERO,
        lease_until: None,
        ..message(&told.customer_id, &["app@x.example"])
    };
    let bounce = |of: &Original, failed: &[Mailbox]| {
        assert!(!failed.is_empty() && of.subject.as_deref() == Some("Hello"));
        Some(letter(Kind::Bounce))
    };
    let pause = |email: &str, reason: &str| {
        assert!(email == "owner@x.example" && reason.starts_with("paused because"));
        Some(letter(Kind::Notice))
    };
    let somebody_failed = |of: &Original, perhaps: &[PerhapsFailed]| {
        assert!(perhaps.iter().any(|one| !one.has_failed) && of.subject.as_deref() == Some("Hello"));
        let named = perhaps.iter().map(|one| format!("{} {}", one.recipient, one.has_failed));
        let subject = Some(named.collect::<Vec<_>>().join(", "));
        Some(Acceptance { subject, ..letter(Kind::Bounce) })
    };
    let letters = Letters { bounce: &bounce, somebody_failed: &somebody_failed, pause: &pause };
    let rules = Rules { allowance: None, thresholds, letters };
    let heard = store.hear(told, &rules, at(9)).await.unwrap();
    assert_audit(store).await;
    heard
}

async fn news(store: &Store, of: &Acceptance) -> Vec<Option<&'static str>> {
    let log = store.message(&of.message_id).await.unwrap().unwrap();
    log.recipients.iter().map(|recipient| recipient.news).collect()
}

#[tokio::test]
async fn an_event_is_one_row_however_often_it_is_told_and_the_highest_rank_stands() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let mail = sent(&store, &ann, &[TO, "c@y.example"]).await;
    let order = [
        (EventKind::Delivered, 3, true, "delivered"),
        (EventKind::DeliveryDelayed, 2, true, "delivered"),
        (EventKind::Delivered, 3, false, "delivered"),
        (EventKind::Delivered, 4, true, "delivered"),
        (EventKind::Complained, 1, true, "complained"),
        (EventKind::Complained, 1, false, "complained"),
    ];
    for (kind, seconds, is_new, stands) in order {
        let heard = hear(&store, &told(&mail, kind, &[TO], seconds), &NEVER).await;
        assert_eq!(heard.is_new, is_new, "{kind:?} {seconds}");
        assert_eq!(news(&store, &mail).await, [Some(stands), None]);
    }
    hear(&store, &told(&mail, EventKind::Sent, &[], 0), &NEVER).await;
    let story = store.story(&mail.message_id).await.unwrap().unwrap();
    let events: Vec<_> = story.events.iter().map(|event| (event.kind, event.recipient.as_deref())).collect();
    assert_eq!(
        events,
        [
            ("sent", None),
            ("complained", Some(TO)),
            ("delivery_delayed", Some(TO)),
            ("delivered", Some(TO)),
            ("delivered", Some(TO)),
        ]
    );
    let gone = Told { message_id: MessageId::parse("gone").unwrap(), ..told(&mail, EventKind::Sent, &[], 0) };
    assert_eq!(hear(&store, &gone, &NEVER).await, Heard::default());
}

#[tokio::test]
async fn no_message_has_more_events_than_are_kept_and_what_follows_happens_all_the_same() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let mail = sent(&store, &ann, &[TO]).await;
    for nth in 0..600 {
        let told = told(&mail, EventKind::DeliveryDelayed, &[TO], nth);
        let letters = Letters { bounce: &|_, _| None, somebody_failed: &|_, _| None, pause: &|_, _| None };
        let rules = Rules { allowance: None, thresholds: &NEVER, letters };
        assert!(store.hear(&told, &rules, at(9)).await.unwrap().is_new);
    }
    let heard = hear(&store, &told(&mail, EventKind::Bounced, &[TO], 1_000), &NEVER).await;
    assert!(heard.is_dropped && !heard.is_new);
    assert_eq!((heard.newly_failed.len(), heard.suppressed), (1, 1));
    assert_eq!(count(&store, "SELECT count(*) FROM event").await, 600);
}

#[tokio::test]
async fn a_late_failure_is_told_once_and_only_of_a_customers_mail_with_a_sender() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let mail = sent(&store, &ann, &[TO, "c@y.example"]).await;
    let first = hear(&store, &told(&mail, EventKind::Bounced, &[TO], 1), &NEVER).await;
    assert_eq!((first.newly_failed, first.bounce.is_some()), (vec![mailbox(TO)], true));
    let again = hear(&store, &told(&mail, EventKind::Bounced, &[TO], 2), &NEVER).await;
    assert_eq!((again.newly_failed, again.bounce), (vec![], None));
    let failed = hear(&store, &told(&mail, EventKind::Failed, &[TO, "c@y.example"], 3), &NEVER).await;
    assert_eq!((failed.newly_failed, failed.suppressed), (vec![mailbox("c@y.example")], 0));
    let unattributed = hear(&store, &told(&mail, EventKind::Bounced, &[], 4), &NEVER).await;
    assert_eq!((unattributed.is_new, unattributed.bounce), (true, None), "all were told of by name");

    let silent = Acceptance { reverse_path: ReversePath::Null, ..message(&ann, &[TO]) };
    // Its recipient is suppressed by now.
    store.unsuppress(&ann, &mailbox(TO)).await.unwrap();
    let silent = super::refunds::sent(&store, silent).await;
    let heard = hear(&store, &told(&silent, EventKind::Bounced, &[TO], 1), &NEVER).await;
    assert_eq!((heard.newly_failed.len(), heard.bounce), (1, None));
    let own = Acceptance { kind: Kind::Bounce, price: Credits::ZERO, ..message(&ann, &["app@x.example"]) };
    let own = super::refunds::sent(&store, own).await;
    let heard = hear(&store, &told(&own, EventKind::Bounced, &["app@x.example"], 1), &NEVER).await;
    assert_eq!((heard.newly_failed.len(), heard.bounce, heard.suppressed), (1, None, 1));
}

#[tokio::test]
async fn that_somebody_failed_is_told_once_a_part_and_changes_nothing_else() {
    const TOLD: &str = "SELECT coalesce(string_agg(subject, '; '), '') FROM message WHERE kind = 'bounce'";
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let to = [TO, "c@y.example", "d@y.example"];
    let no_one = told(&sent(&store, &ann, &to).await, EventKind::Bounced, &[], 1);
    let letters = async || -> String { query_scalar(TOLD).fetch_one(&store.readers).await.unwrap() };
    let first = hear(&store, &no_one, &NEVER).await;
    assert_eq!((first.is_new, first.bounce.is_some()), (true, true));
    assert_eq!((first.newly_failed, first.refunds, first.suppressed), (vec![], vec![], 0));
    let said = "b@y.example false, c@y.example false, d@y.example false";
    assert_eq!(letters().await, said);
    for again in [no_one.clone(), Told { told_at: at(2), ..no_one.clone() }] {
        assert_eq!(hear(&store, &again, &NEVER).await.bounce, None);
    }
    assert_eq!(letters().await, said, "at most once a part");
    assert_eq!(count(&store, "SELECT count(*) FROM recipient WHERE bounced_at IS NOT NULL").await, 0);
    assert_eq!(
        count(&store, "SELECT CAST(sum(bounced) AS BIGINT) FROM reputation").await,
        2,
        "as it ever was: once an event"
    );
    let log = store.message(&no_one.message_id).await.unwrap().unwrap();
    assert!(log.parts[0].last_error.as_deref().unwrap().contains("which one is not told: said"), "{log:?}");
    // Later its owner is known after all, and told of by name.
    let named = Told { recipients: vec![mailbox(TO)], told_at: at(3), ..no_one };
    assert!(hear(&store, &named, &NEVER).await.bounce.is_some());

    store.unsuppress(&ann, &mailbox(TO)).await.unwrap();
    let partly = sent(&store, &ann, &to).await;
    hear(&store, &told(&partly, EventKind::Bounced, &[TO], 1), &NEVER).await;
    assert!(hear(&store, &told(&partly, EventKind::Bounced, &[], 2), &NEVER).await.bounce.is_some());
    let known = "b@y.example true, c@y.example false, d@y.example false";
    assert!(letters().await.contains(known), "{}", letters().await);
}

#[tokio::test]
async fn that_somebody_failed_is_told_of_those_alone_whom_the_mail_went_to() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let to = [TO, "c@y.example"];
    let by_smtp = accepted(&store, message(&ann, &to)).await;
    store.report(report(&by_smtp, 1, answered(&[TO], &[]))).await.unwrap();
    // A call to Resend's API is for all or for nobody, and news may be sooner than its answer.
    let recipients = to.map(mailbox).to_vec();
    let part = NewPart { road: Road::Resend, recipients, request_hash: None, batch_max: 1 };
    let by_the_api = accepted(&store, Acceptance { parts: vec![part], ..message(&ann, &[]) }).await;
    let table = [(by_smtp, "b@y.example false"), (by_the_api, "b@y.example false, c@y.example false")];
    for (mail, want) in table {
        let heard = hear(&store, &told(&mail, EventKind::Bounced, &[], 1), &NEVER).await;
        let letter = store.message(&heard.bounce.unwrap()).await.unwrap().unwrap();
        assert_eq!(letter.subject.as_deref(), Some(want));
    }
}

#[tokio::test]
async fn that_somebody_failed_is_told_where_no_more_events_are_kept_and_to_no_null_sender() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let to = [TO, "c@y.example"];
    let full = sent(&store, &ann, &to).await;
    for nth in 0..600 {
        let delayed = told(&full, EventKind::DeliveryDelayed, &[TO], nth);
        let letters = Letters { bounce: &|_, _| None, somebody_failed: &|_, _| None, pause: &|_, _| None };
        store.hear(&delayed, &Rules { allowance: None, thresholds: &NEVER, letters }, at(9)).await.unwrap();
    }
    let told_of_full = told(&full, EventKind::Bounced, &[], 1_000);
    let heard = hear(&store, &told_of_full, &NEVER).await;
    assert!(heard.is_dropped && heard.bounce.is_some());
    assert_eq!(hear(&store, &told_of_full, &NEVER).await.bounce, None);

    let silent = Acceptance { reverse_path: ReversePath::Null, ..message(&ann, &to) };
    let silent = super::refunds::sent(&store, silent).await;
    let heard = hear(&store, &told(&silent, EventKind::Bounced, &[], 1), &NEVER).await;
    assert_eq!((heard.is_new, heard.bounce), (true, None));
}

#[tokio::test]
async fn what_comes_back_of_reports_is_the_customers_and_ends_those_to_that_sender() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let mail = sent(&store, &ann, &[TO, "c@y.example", "d@y.example", "e@y.example"]).await;
    for (sender, kind, is_paused) in [
        ("app1@x.example", EventKind::Bounced, false),
        ("app@x.example", EventKind::Bounced, true),
        ("app2@x.example", EventKind::Complained, false),
    ] {
        let own = Acceptance { kind: Kind::Bounce, price: Credits::ZERO, ..message(&ann, &[sender]) };
        let own = super::refunds::sent(&store, own).await;
        let heard = hear(&store, &told(&own, kind, &[sender], 1), &LOW).await;
        assert_eq!((heard.suppressed, heard.paused.is_some()), (1, is_paused), "{sender}");
    }
    let complained = "SELECT CAST(sum(complained) AS BIGINT) FROM reputation";
    assert_eq!(count(&store, complained).await, 1);
    // The bounce would go to one of them.
    let heard = hear(&store, &told(&mail, EventKind::Bounced, &[TO], 1), &NEVER).await;
    assert_eq!((heard.newly_failed.len(), heard.bounce), (1, None));
    let notice = Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &["own@x.example"]) };
    let notice = super::refunds::sent(&store, notice).await;
    let heard = hear(&store, &told(&notice, EventKind::Bounced, &["own@x.example"], 1), &LOW).await;
    assert_eq!(heard.suppressed, 0, "a notice is ours");
}

#[tokio::test]
async fn nothing_is_accepted_for_an_address_on_the_list_until_it_is_taken_off() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(9)).await, customer(&store, "bob", Some(9)).await);
    let mail = sent(&store, &ann, &[TO]).await;
    hear(&store, &told(&mail, EventKind::Bounced, &[TO], 1), &NEVER).await;
    let ask = |to: &str| message(&ann, &["a@y.example", to]);
    for to in [TO, "B@Y.example"] {
        let answer = store.accept(ask(to)).await.unwrap();
        let Accepted::Suppressed { recipient, why } = answer else { panic!("{answer:?}") };
        assert_eq!((recipient.to_string(), why.cause), (mailbox(to).to_string(), Cause::Bounce));
        assert_eq!(why.to_string(), "since 2027-01-15: mail to it bounced (said)");
    }
    assert_eq!(sums(&store, &ann).await.1, 0, "nothing is held for what was refused");
    accepted(&store, message(&bob, &[TO])).await;
    let own = Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &[TO]) };
    accepted(&store, own).await;
    assert!(store.suppressed(&ann, &mailbox(TO)).await.unwrap().is_some());
    assert!(store.suppressed(&bob, &mailbox(TO)).await.unwrap().is_none());

    assert_eq!(store.unsuppress(&ann, &mailbox(TO)).await.unwrap().reason, Cause::Bounce);
    assert!(store.unsuppress(&ann, &mailbox(TO)).await.is_err());
    accepted(&store, ask(TO)).await;
    // The same bounce once more, under another time: it is not put back.
    hear(&store, &told(&mail, EventKind::Bounced, &[TO], 2), &NEVER).await;
    accepted(&store, ask(TO)).await;
}

#[tokio::test]
async fn each_cause_puts_an_address_on_the_list_and_the_first_stays() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let to = ["b@y.example", "c@y.example", "d@y.example", "e@y.example"];
    let mail = sent(&store, &ann, &to).await;
    hear(&store, &told(&mail, EventKind::Bounced, &to[..1], 1), &NEVER).await;
    hear(&store, &told(&mail, EventKind::Complained, &to[..2], 1), &NEVER).await;
    hear(&store, &told(&mail, EventKind::Suppressed, &to[2..3], 1), &NEVER).await;
    let full = Told { blame: Blame::Mail, ..told(&mail, EventKind::Bounced, &to[3..], 1) };
    assert_eq!(hear(&store, &full, &NEVER).await.newly_failed.len(), 1);
    assert_eq!(
        count(&store, "SELECT CAST(sum(bounced) AS BIGINT) FROM reputation").await,
        1,
        "and not for a full mailbox"
    );
    assert!(store.suppress(&ann, &mailbox("z@y.example"), Some("asked to"), at(3)).await.unwrap());
    assert!(!store.suppress(&ann, &mailbox("Z@y.example"), None, at(4)).await.unwrap());
    let list = store.suppressions(&ann, None, 10).await.unwrap();
    let list: Vec<_> = list.iter().map(|one| (one.address.as_str(), one.reason.as_str())).collect();
    let wanted = [
        ("b@y.example", "bounce"),
        ("c@y.example", "complaint"),
        ("d@y.example", "upstream"),
        ("z@y.example", "manual"),
    ];
    assert_eq!(list, wanted);
    let page = store.suppressions(&ann, Some("b@y.example"), 2).await.unwrap();
    assert_eq!(page.len(), 2);
    assert_eq!(page[0].address, "c@y.example");
}

#[tokio::test]
async fn a_customer_of_whose_mail_too_much_comes_back_is_paused_once_and_begins_anew() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let to = ["b@y.example", "c@y.example", "d@y.example", "e@y.example"];
    let old = sent(&store, &ann, &to).await;
    let bounced = |nth: usize, seconds| told(&old, EventKind::Bounced, &to[nth..=nth], seconds);
    assert_eq!(hear(&store, &bounced(0, 1), &LOW).await.paused, None);
    assert_eq!(hear(&store, &bounced(0, 2), &LOW).await.paused, None, "the same recipient again");
    let reason = hear(&store, &bounced(1, 1), &LOW).await.paused.unwrap();
    assert!(reason.contains("2 of 4 recipients (50.00 %) bounced"), "{reason}");
    let refused = store.accept(message(&ann, &["z@y.example"])).await.unwrap();
    assert_eq!(refused, Accepted::Suspended(reason));
    assert_eq!(hear(&store, &bounced(2, 1), &LOW).await.paused, None, "paused already");
    assert_eq!(count(&store, "SELECT count(*) FROM message WHERE kind = 'notice'").await, 1);

    store.resume(&ann, at(100)).await.unwrap();
    let new = ["f@y.example", "g@y.example", "h@y.example", "i@y.example"];
    let later = Acceptance { accepted_at: at(200), ..message(&ann, &new) };
    let later = super::refunds::sent(&store, later).await;
    assert_eq!(hear(&store, &bounced(3, 1), &LOW).await.paused, None, "of mail from before");
    let bounced = |nth: usize| told(&later, EventKind::Bounced, &new[nth..=nth], 1);
    assert_eq!(hear(&store, &bounced(0), &LOW).await.paused, None);
    let complaint = told(&later, EventKind::Complained, &[], 1);
    let reason = hear(&store, &complaint, &LOW).await.paused.unwrap();
    assert!(reason.contains("1 of 4 recipients (25.00 %) called its mail spam"), "{reason}");
}

#[tokio::test]
async fn an_address_that_a_server_calls_nobodys_is_suppressed_and_counted_with_the_report() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let to = ["b@y.example", "c@y.example", "d@y.example", "e@y.example"];
    let no = |nth: usize| (mailbox(to[nth]), Answer::new("5.1.1", "550 5.1.1 no such user"));
    let refused = |gone: usize| {
        News::Answered(Answered {
            sent: vec![mailbox(to[2]), mailbox(to[3])],
            failed: vec![no(0), no(1)],
            no_mailbox: (0..gone).map(|nth| mailbox(to[nth])).collect(),
            ..Answered::default()
        })
    };
    let list = async || -> Vec<(String, Option<String>)> {
        let listed = store.suppressions(&ann, None, 9).await.unwrap().into_iter();
        listed.map(|entry| (entry.address, entry.detail)).collect()
    };
    let letter = |email: &str, reason: &str| {
        assert!(email == "owner@x.example" && reason.starts_with("paused because"));
        Some(Acceptance {
            kind: Kind::Notice,
            reverse_path: ReversePath::Null,
            price: Credits::ZERO,
            lease_until: None,
            ..message(&ann, &["app@x.example"])
        })
    };
    let paused = async || store.pause_if_harmful(&ann, &LOW, &letter, at(9)).await.unwrap();
    let said = Some("550 5.1.1 no such user".to_owned());

    let late = accepted(&store, message(&ann, &to)).await;
    assert_eq!(
        store.report(report(&late, 7, refused(2))).await.unwrap(),
        Recorded::Applied { captured: Credits::new(1).unwrap() }
    );
    assert_eq!(list().await, [], "whose refusals are not the current word");
    let mail = accepted(&store, message(&ann, &to)).await;
    store.report(report(&mail, 1, refused(1))).await.unwrap();
    assert_eq!(list().await, [("b@y.example".to_owned(), said)]);
    assert_eq!(paused().await, None, "one of five");
    let again = accepted(&store, message(&ann, &to[1..])).await;
    let gone = Answered { failed: vec![no(1)], no_mailbox: vec![mailbox(to[1])], ..Answered::default() };
    store.report(report(&again, 1, News::Answered(gone))).await.unwrap();
    assert_eq!(list().await.len(), 2);
    let reason = paused().await.unwrap();
    assert!(reason.contains("2 of 6 recipients (33.33 %) bounced"), "{reason}");
    assert_eq!(paused().await, None, "once");
    let own = Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &["z@y.example"]) };
    let own = accepted(&store, own).await;
    let nobody = (mailbox("z@y.example"), Answer::new("5.1.1", "550 5.1.1 no such user"));
    let gone = Answered { no_mailbox: vec![nobody.0.clone()], failed: vec![nobody], ..Answered::default() };
    store.report(report(&own, 1, News::Answered(gone))).await.unwrap();
    assert_eq!(list().await.len(), 2, "that our own notice is for nobody is not the customer's doing");
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_suspension_by_the_operator_keeps_its_reason() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let mail = sent(&store, &ann, &["b@y.example", "c@y.example", "d@y.example", "e@y.example"]).await;
    store.suspend(&ann, "spam").await.unwrap();
    let heard = hear(&store, &told(&mail, EventKind::Complained, &[TO], 1), &LOW).await;
    assert_eq!(heard.paused, None);
    let kept = store.customer(&ann).await.unwrap().unwrap().suspended_reason;
    assert_eq!(kept.as_deref(), Some("spam"));
}

#[tokio::test]
async fn a_story_tells_every_attempt_and_what_it_cost() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let notes = vec!["the third alternative is left out".to_owned()];
    let mail = accepted(&store, Acceptance { notes, ..message(&ann, &[TO]) }).await;
    let retry = News::Retry {
        due: at(2),
        error: "4.2.2 full".to_owned(),
        unknown: false,
        maybe_taken: Vec::new(),
        counts: true,
        batch_max: None,
    };
    store.report(Report { at: at(1), ..report(&mail, 1, retry) }).await.unwrap();
    store.lease(&first_part(&mail), at(3), at(33)).await.unwrap().unwrap();
    let sent = News::Answered(Answered {
        upstream_id: Some("up-1".to_owned()),
        sent: vec![mailbox(TO)],
        ..Answered::default()
    });
    store.report(Report { at: at(4), ..report(&mail, 2, sent) }).await.unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM attempt").await, 1, "success leaves no row");
    let entry = store.open_entry(&ann, &entry_id(), None, at(5)).await.unwrap().unwrap();
    store.settle_entry(&entry, crate::store::entry::Settled::Sometime, at(6)).await.unwrap();
    hear(&store, &told(&mail, EventKind::Delivered, &[TO], 7), &NEVER).await;

    let story = store.story(&mail.message_id).await.unwrap().unwrap();
    let told: Vec<String> = story
        .timeline
        .iter()
        .map(|moment| {
            let text = moment.text.as_deref().or(moment.upstream_id.as_deref());
            let parts = [Some(moment.what), moment.outcome.as_deref(), text];
            let line = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
            format!("{} {line}", moment.at.duration_since(at(0)).as_secs())
        })
        .collect();
    assert_eq!(
        told,
        [
            "0 accepted",
            "0 note the third alternative is left out",
            "1 attempt deferred 4.2.2 full",
            "4 attempt sent up-1",
            "4 captured",
            "5 entry opened",
            "6 entry settled",
            "7 event delivered said",
        ]
    );
    assert_eq!(story.timeline[3].attempt, Some(2));
    assert_eq!(story.timeline[5].entry_id.as_deref(), Some(entry.entry_id.as_str()));
}

#[tokio::test]
async fn days_leave_when_no_window_reaches_them() {
    const DAY: i64 = 86_400;
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    sent(&store, &ann, &[TO, "c@y.example"]).await;
    sent(&store, &ann, &[TO]).await;
    assert_eq!(count(&store, "SELECT CAST(sum(sent) AS BIGINT) FROM reputation").await, 3);
    assert_eq!(store.close_marks(at(31 * DAY)).await.unwrap(), 0);
    assert_eq!(store.close_marks(at(33 * DAY)).await.unwrap(), 1);
}

#[tokio::test]
async fn attempts_are_kept_by_their_newest_and_leave_with_their_message() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let mail = accepted(&store, message(&ann, &[TO])).await;
    for attempt in 1..60 {
        let (maybe_taken, error) = (Vec::new(), format!("4.0.0 nr {attempt}"));
        let retry =
            News::Retry { due: at(2), error, unknown: false, maybe_taken, counts: true, batch_max: None };
        store.report(report(&mail, attempt, retry)).await.unwrap();
        store.lease(&first_part(&mail), at(3), at(33)).await.unwrap().unwrap();
    }
    assert_eq!(count(&store, "SELECT count(*) FROM attempt").await, 50);
    assert_eq!(count(&store, "SELECT min(attempt) FROM attempt").await, 10);
    let answer = Answer::new("5.0.0", "no");
    let refused = News::Answered(Answered { failed: vec![(mailbox(TO), answer)], ..Answered::default() });
    store.report(report(&mail, 60, refused)).await.unwrap();
    hear(&store, &told(&mail, EventKind::Delivered, &[TO], 7), &NEVER).await;
    let closed = store.close_messages(at(1_000_000), at(2_000_000), None).await.unwrap();
    assert_eq!(closed.count, 1);
    let left = "SELECT (SELECT count(*) FROM attempt) + (SELECT count(*) FROM event)";
    assert_eq!(count(&store, left).await, 0);
    assert_eq!(store.close_marks(at(100_000_000)).await.unwrap(), 0, "nothing was counted of what failed");
}
