use bytes::Bytes;

use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::ids::{CustomerId, MessageId};
use crate::store::accept::Kind;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox::parse(address).unwrap()
}

/// A part to two recipients that was first tried at 0 and is given up at 1000.
fn part(road: Road, unknown: bool) -> LeasedPart {
    let bytes = Bytes::from_static(
        b"From: app@x.example\r\nTo: a@y.example, b@y.example\r\nSubject: Hello\r\n\r\nWorld\r\n",
    );
    let mut part = LeasedPart {
        message_id: MessageId::parse("m1").unwrap(),
        part_no: 0,
        customer_id: CustomerId::parse("ann").unwrap(),
        kind: Kind::Submission,
        road,
        attempt: 1,
        key_no: 0,
        first_try_at: at(0),
        unknown,
        request_hash: None,
        reverse_path: ReversePath::parse("app@x.example").unwrap(),
        recipients: vec![mailbox("a@y.example"), mailbox("b@y.example")],
        accepted_at: at(0),
        expires_at: at(1_000),
        bytes,
    };
    let request = Translatable::parse(&part.bytes).unwrap();
    let request = request.email(&part.recipients, &part.part_id()).unwrap().to_json();
    part.request_hash = Some(sha256_hex(&request));
    part
}

fn moment(now: i64) -> Moment {
    let schedule = RetrySchedule { min: Duration::from_secs(100), max: Duration::from_secs(10_000) };
    Moment { now: at(now), schedule, jitter: 0 }
}

/// What is to happen, in one word and with the time where there is one.
fn word(news: Option<&News>) -> String {
    match news {
        None => "call".to_owned(),
        Some(News::Hold { .. }) => "hold".to_owned(),
        Some(News::Retry { due, unknown, counts, .. }) => {
            format!(
                "retry at {}{}{}",
                due.as_second(),
                if *unknown { ", unknown" } else { "" },
                if *counts { "" } else { ", uncounted" }
            )
        }
        Some(News::Answered(answered)) => {
            let again = answered
                .again
                .as_ref()
                .map_or(String::new(), |(due, _)| format!(", again at {}", due.as_second()));
            format!("{} sent, {} failed{again}", answered.sent.len(), answered.failed.len())
        }
    }
}

#[test]
fn p4_a_call_is_repeated_only_where_that_is_harmless() {
    let (day, over) = (86_400, 1_001);
    let table = [
        (Road::Smtp, false, 1, "call"),
        (Road::Smtp, true, 1, "call"),
        (Road::Resend, false, 1, "call"),
        (Road::Resend, true, 1, "call"),
        (Road::Smtp, false, over, "0 sent, 2 failed"),
        (Road::Resend, false, over, "0 sent, 2 failed"),
        // The same key gives the same mail; over SMTP another try would be another mail.
        (Road::Resend, true, over, "call"),
        (Road::Smtp, true, over, "hold"),
        (Road::Resend, true, day, "hold"),
        (Road::Resend, false, day, "0 sent, 2 failed"),
    ];
    for (road, unknown, now, want) in table {
        let news = before(&part(road, unknown), at(now), Door::Open);
        assert_eq!(word(news.as_ref()), want, "{road:?} unknown={unknown} at {now}");
    }
    let changed = LeasedPart { request_hash: Some("another request".to_owned()), ..part(Road::Resend, true) };
    assert_eq!(word(before(&changed, at(1), Door::Open).as_ref()), "hold");
}

#[test]
fn nothing_bounces_and_nothing_is_sent_behind_a_closed_gate() {
    let gate = Gate { road: Road::Smtp, reason: "bad key".to_owned(), since: at(5), try_again_at: at(300) };
    for (unknown, now, want) in [
        (false, 10, "retry at 300, uncounted"),
        (true, 10, "retry at 300, unknown, uncounted"),
        (false, 5_000, "retry at 300, uncounted"),
    ] {
        let news = before(&part(Road::Smtp, unknown), at(now), Door::Closed(&gate));
        assert_eq!(word(news.as_ref()), want);
    }
    // The one that tries the gate has not aged behind it either.
    let late = before(&part(Road::Smtp, false), at(1_000_000), Door::Tried(&gate));
    assert_eq!(word(late.as_ref()), "call");
}

#[test]
fn every_outcome_has_one_meaning() {
    let answer = || Answer::new("4.2.0", "later");
    let seconds = |s| Some(Duration::from_secs(s));
    let transient = |retry_after, counts| Outcome::Transient { answer: answer(), retry_after, counts };
    let closed = Outcome::Closed { reason: "key".to_owned(), retry_after: Duration::from_secs(300) };
    let unknown = |reason: &str, retry_after| Outcome::Unknown { reason: reason.to_owned(), retry_after };
    // The outcome; what it means after nothing, and after an unknown try by Resend; by SMTP.
    let table = [
        (Outcome::Barred(answer()), "0 sent, 2 failed", "retry at 110, unknown", "0 sent, 2 failed"),
        (transient(None, true), "retry at 110", "retry at 110, unknown", "retry at 110"),
        (transient(seconds(500), true), "retry at 510", "retry at 510, unknown", "retry at 510"),
        (
            transient(seconds(3), false),
            "retry at 13, uncounted",
            "retry at 13, unknown, uncounted",
            "retry at 13, uncounted",
        ),
        (closed, "retry at 310, uncounted", "retry at 310, unknown, uncounted", "retry at 310, uncounted"),
        (unknown("lost", None), "retry at 110, unknown", "retry at 110, unknown", "retry at 110, unknown"),
        (unknown("busy", seconds(5)), "retry at 15, unknown", "retry at 15, unknown", "retry at 15, unknown"),
        (unknown(KEY_USED_FOR_OTHER_BYTES, None), "hold", "hold", "hold"),
    ];
    for (outcome, fresh, doubtful, by_smtp) in table {
        for (part, want) in [
            (part(Road::Resend, false), fresh),
            (part(Road::Resend, true), doubtful),
            (part(Road::Smtp, true), by_smtp),
        ] {
            let news = of(&part, outcome.clone(), moment(10));
            assert_eq!(word(Some(&news)), want, "{outcome:?} {:?}", part.road);
        }
    }
}

#[test]
fn every_recipient_keeps_its_own_answer() {
    use RecipientAnswer::{Accepted, Deferred, Refused};
    let no = || Answer::new("5.1.1", "no");
    let later = || Answer::new("4.2.2", "full");
    let table = [
        (vec![Accepted, Accepted], "2 sent, 0 failed", true),
        (vec![Accepted, Refused(no())], "1 sent, 1 failed", true),
        (vec![Refused(no()), Refused(no())], "0 sent, 2 failed", false),
        (vec![Deferred(later()), Accepted], "1 sent, 0 failed, again at 110", true),
        (vec![Deferred(later()), Refused(no())], "0 sent, 1 failed, again at 110", false),
    ];
    for (answers, want, opens_the_gate) in table {
        let outcome = Outcome::Answered { upstream_id: None, answers };
        assert_eq!(is_accepted(&outcome), opens_the_gate, "{outcome:?}");
        assert_eq!(word(Some(&of(&part(Road::Smtp, false), outcome, moment(10)))), want);
    }
}

#[test]
fn whoever_will_not_be_tried_again_in_time_is_told_when_the_time_is_up() {
    let part = LeasedPart { attempt: 5, ..part(Road::Smtp, false) };
    let outcome =
        || Outcome::Transient { answer: Answer::new("4.2.0", "later"), retry_after: None, counts: true };
    assert_eq!(word(Some(&of(&part, outcome(), moment(10)))), "retry at 1000");
    assert_eq!(
        word(Some(&of(&part, outcome(), moment(1_500)))),
        "retry at 3100",
        "its gate was closed meanwhile"
    );
    let lost = Outcome::Unknown { reason: "lost".to_owned(), retry_after: None };
    assert_eq!(word(Some(&of(&part, lost, moment(10)))), "retry at 1610, unknown");
}
