use std::sync::Arc;

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

fn recipients() -> Vec<Mailbox> {
    vec![mailbox("a@y.example"), mailbox("b@y.example")]
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
        recipients: recipients(),
        maybe_taken: if road == Road::Smtp && unknown { recipients() } else { Vec::new() },
        accepted_at: at(0),
        expires_at: at(1_000),
        batch_max: 1,
        batch: None,
        bytes,
        dsn: Arc::default(),
    };
    part.request_hash = (road == Road::Resend).then(|| "hash".to_owned());
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
        Some(News::Gated { until, unknown, .. }) => {
            format!("gated until {}{}", until.as_second(), if *unknown { ", unknown" } else { "" })
        }
        Some(News::Answered(answered)) => {
            let rest = match &answered.rest {
                Rest::Nobody => String::new(),
                Rest::Again { due, .. } => format!(", again at {}", due.as_second()),
                Rest::Held { .. } => ", the rest held".to_owned(),
            };
            format!("{} sent, {} failed{rest}", answered.sent.len(), answered.failed.len())
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
    let forgotten = LeasedPart { request_hash: None, ..part(Road::Resend, true) };
    assert_eq!(word(before(&forgotten, at(1), Door::Open).as_ref()), "hold");
    for (road, unknown, want) in
        [(Road::Resend, true, Some("hash")), (Road::Resend, false, None), (Road::Smtp, true, None)]
    {
        assert_eq!(repeats(&part(road, unknown)).as_deref(), want, "{road:?} unknown={unknown}");
    }
    let news = of(&part(Road::Resend, true), Outcome::Unrepeatable, moment(1));
    assert_eq!(word(Some(&news)), "hold");
}

#[test]
fn nothing_bounces_and_nothing_is_sent_behind_a_closed_gate() {
    let gate = Gate { road: Road::Smtp, reason: "bad key".to_owned(), since: at(5), try_again_at: at(300) };
    for (unknown, now, want) in [
        (false, 10, "gated until 300"),
        (true, 10, "gated until 300, unknown"),
        (false, 5_000, "gated until 300"),
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
    let unknown = |reason: &str, retry_after| Outcome::Unknown {
        reason: reason.to_owned(),
        retry_after,
        left_out: Vec::new(),
    };
    // The outcome; what it means after nothing, and after an unknown try by Resend; by SMTP.
    let table = [
        (
            Outcome::Barred(answer()),
            "0 sent, 2 failed",
            "retry at 110, unknown",
            "0 sent, 0 failed, the rest held",
        ),
        (transient(None, true), "retry at 110", "retry at 110, unknown", "retry at 110, unknown"),
        (transient(seconds(500), true), "retry at 510", "retry at 510, unknown", "retry at 510, unknown"),
        (
            transient(seconds(3), false),
            "retry at 13, uncounted",
            "retry at 13, unknown, uncounted",
            "retry at 13, unknown, uncounted",
        ),
        (closed, "gated until 310", "gated until 310, unknown", "gated until 310, unknown"),
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
        let outcome = Outcome::Answered { upstream_id: None, answers, host: None };
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
    let lost = Outcome::Unknown { reason: "lost".to_owned(), retry_after: None, left_out: Vec::new() };
    assert_eq!(word(Some(&of(&part, lost, moment(10)))), "retry at 1610, unknown");
}

/// A part by SMTP whose first recipient may have it by an earlier attempt.
fn half_taken() -> LeasedPart {
    LeasedPart { maybe_taken: vec![mailbox("a@y.example")], ..part(Road::Smtp, false) }
}

#[test]
fn p3_who_may_have_it_is_not_given_up_by_a_later_answer() {
    use RecipientAnswer::{Accepted, Deferred, Refused};
    let no = || Refused(Answer::new("5.1.1", "no"));
    let later = || Deferred(Answer::new("4.2.2", "full"));
    // The first may have it, the second surely has not.
    let table = [
        (vec![Accepted, no()], "1 sent, 1 failed"),
        (vec![no(), Accepted], "1 sent, 0 failed, the rest held"),
        (vec![no(), no()], "0 sent, 1 failed, the rest held"),
        (vec![later(), no()], "0 sent, 1 failed, again at 110"),
        (vec![no(), later()], "0 sent, 0 failed, again at 110"),
    ];
    for (answers, want) in table {
        let outcome = Outcome::Answered { upstream_id: None, answers, host: None };
        let news = of(&half_taken(), outcome.clone(), moment(10));
        assert_eq!(word(Some(&news)), want, "{outcome:?}");
    }
    let News::Answered(Answered { rest: Rest::Held { reason }, failed, .. }) =
        before(&half_taken(), at(1_001), Door::Open).unwrap()
    else {
        panic!("its lifetime is over")
    };
    assert_eq!(failed[0].0, mailbox("b@y.example"), "who has nothing of it expires");
    assert_eq!(reason, "its lifetime is over, and the upstream may have taken it at an earlier attempt");
    // A held part that Resend was asked for again, under another key.
    for news in [
        before(&LeasedPart { maybe_taken: recipients(), ..part(Road::Resend, false) }, at(1_001), Door::Open),
        before(&LeasedPart { maybe_taken: recipients(), ..part(Road::Smtp, false) }, at(1_001), Door::Open),
    ] {
        assert_eq!(word(news.as_ref()), "hold");
    }
}

#[test]
fn p3_a_call_without_an_answer_concerns_those_whom_it_was_for() {
    let lost = |left_out| Outcome::Unknown { reason: "lost".to_owned(), retry_after: None, left_out };
    let table = [
        (Road::Smtp, vec![], recipients()),
        (Road::Smtp, vec![mailbox("a@y.example")], vec![mailbox("b@y.example")]),
        // The same call again will tell.
        (Road::Resend, vec![], vec![]),
    ];
    for (road, left_out, want) in table {
        let has_served_all = left_out.is_empty();
        let News::Retry { maybe_taken, unknown, .. } = of(&part(road, false), lost(left_out), moment(10))
        else {
            panic!("{road:?}")
        };
        assert_eq!(
            (maybe_taken, unknown),
            (want, has_served_all),
            "{road:?}: the key stays where all were asked for"
        );
    }
}

/// Two parts that leave together, of which the second has been tried more often.
fn told_together(unknown: bool, together: &Together) -> Vec<String> {
    let (first, mut second) = (part(Road::Resend, unknown), part(Road::Resend, unknown));
    second.attempt = 2;
    let news = of_together(&[&first, &second], together.clone(), moment(10));
    news.iter().map(|news| word(Some(news))).collect()
}

#[test]
fn p4_what_a_call_with_several_parts_comes_to() {
    let answer = || Answer::new("5.6.0", "422 validation_error");
    let unknown =
        |retry_after| Outcome::Unknown { reason: "lost".to_owned(), retry_after, left_out: Vec::new() };
    let closed = Outcome::Closed { reason: "key".to_owned(), retry_after: Duration::from_secs(300) };
    let over_quota =
        Together::OverQuota { reason: "quota".to_owned(), retry_after: Duration::from_secs(300) };
    let transient = |retry_after: Option<u64>, counts| Outcome::Transient {
        answer: Answer::new("4.4.5", "later"),
        retry_after: retry_after.map(Duration::from_secs),
        counts,
    };
    let other_bytes = Outcome::Unknown {
        reason: format!("{KEY_USED_FOR_OTHER_BYTES}: seen"),
        retry_after: None,
        left_out: Vec::new(),
    };
    let both = |word: &str| [word.to_owned(), word.to_owned()];
    let table = [
        (
            Together::Taken(vec!["a".to_owned(), "b".to_owned()]),
            both("2 sent, 0 failed"),
            both("2 sent, 0 failed"),
        ),
        // Whoever refuses the very call, under its key, has not taken it before.
        (Together::Refused(answer()), both("retry at 10, uncounted"), both("retry at 10, uncounted")),
        // What bars it now may not have stood in its way then.
        (Together::Barred(answer()), both("retry at 10, uncounted"), both("retry at 210, unknown")),
        (over_quota, both("retry at 10, uncounted"), both("gated until 310, unknown")),
        (Together::Each(closed), both("gated until 310"), both("gated until 310, unknown")),
        (
            Together::Each(transient(Some(3), false)),
            both("retry at 13, uncounted"),
            both("retry at 13, unknown, uncounted"),
        ),
        // Whoever is made again is made again together; the others are on their own.
        (
            Together::Each(transient(None, true)),
            ["retry at 110".to_owned(), "retry at 210".to_owned()],
            both("retry at 210, unknown"),
        ),
        (Together::Each(unknown(None)), both("retry at 210, unknown"), both("retry at 210, unknown")),
        (
            Together::Each(unknown(Some(Duration::from_secs(5)))),
            both("retry at 15, unknown"),
            both("retry at 15, unknown"),
        ),
        (Together::Each(other_bytes), both("hold"), both("hold")),
    ];
    for (together, first, again) in table {
        assert_eq!(told_together(false, &together), first, "{together:?}");
        assert_eq!(told_together(true, &together), again, "{together:?}");
    }
}

#[test]
fn p4_ids_go_to_whom_they_belong_and_who_is_refused_with_others_has_half_the_company() {
    let parts: Vec<LeasedPart> = (0..5).map(|_| part(Road::Resend, false)).collect();
    let parts: Vec<&LeasedPart> = parts.iter().collect();
    let ids: Vec<String> = (0..5).map(|nth| format!("id{nth}")).collect();
    let news = of_together(&parts, Together::Taken(ids.clone()), moment(10));
    let given = news.iter().filter_map(|news| match news {
        News::Answered(answered) => {
            // Over Resend it is for us to say that it was handed on.
            assert_eq!((answered.sent.is_empty(), &answered.relayed), (false, &answered.sent));
            answered.upstream_id.clone()
        }
        _ => None,
    });
    assert_eq!(given.collect::<Vec<_>>(), ids);
    let refused = Together::Refused(Answer::new("5.6.0", "422 validation_error"));
    let company = |news: News| match news {
        News::Retry { batch_max, due, error, .. } => {
            assert_eq!(error, "refused with others: it leaves again in a smaller call");
            (batch_max.unwrap(), due.as_millisecond())
        }
        _ => panic!("{news:?}"),
    };
    let halves: Vec<_> = of_together(&parts, refused, moment(10)).into_iter().map(company).collect();
    assert_eq!(halves, [(2, 10_000), (2, 10_000), (2, 10_001), (2, 10_001), (2, 10_002)]);
}
