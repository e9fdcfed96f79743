use super::*;

const A: &str = "a@y.example";
const B: &str = "b@y.example";

/// State of the message, and of its first part with its key.
async fn state(store: &Store, of: &Acceptance) -> String {
    let log = store.message(&of.message_id).await.unwrap().unwrap();
    format!("{:?} {}", log.state, log.parts[0].state)
}

#[tokio::test]
async fn p3_what_was_sent_is_owed_in_the_same_commit_and_its_bytes_go() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A])).await;
    assert_eq!(store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_eq!(state(&store, &message).await, "Sent sent");
    assert_eq!(count(&store, "SELECT count(*) FROM body").await, 0);
    for news in [answered(&[A], &[]), answered(&[], &[A]), retry(true)] {
        assert_eq!(store.report(report(&message, 1, news)).await.unwrap(), Recorded::Late);
    }
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_what_was_never_sent_costs_nothing() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A, B])).await;
    assert_eq!(store.report(report(&message, 1, answered(&[], &[A]))).await.unwrap(), applied(0));
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0), "b is still tried");
    store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    assert_eq!(store.report(report(&message, 2, answered(&[], &[B]))).await.unwrap(), applied(0));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 0));
    assert_eq!(state(&store, &message).await, "Failed failed");
    assert_eq!(count(&store, "SELECT count(*) FROM body").await, 0);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_one_message_is_one_credit_at_the_first_recipient_that_is_sent() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A, B])).await;
    assert_eq!(store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_eq!(state(&store, &message).await, "Queued queued");
    let part = store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    assert_eq!((part.recipients, part.key_no), (vec![mailbox(B)], 1), "only who is left, under a new key");
    assert_eq!(store.report(report(&message, 2, answered(&[], &[B]))).await.unwrap(), applied(0));
    assert_eq!(state(&store, &message).await, "Sent sent");
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_by_recipient_each_is_paid_for_or_given_back() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let to = [A, B, "c@y.example", "d@y.example", "e@y.example"];
    let message = accepted(&store, per_recipient(&ann, &to)).await;
    assert_eq!(sums(&store, &ann).await, (Some(9), 5, 0));
    assert_eq!(store.report(report(&message, 1, answered(&to[..2], &to[2..3]))).await.unwrap(), applied(2));
    assert_eq!(sums(&store, &ann).await, (Some(9), 2, 2));
    store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    assert_eq!(store.report(report(&message, 2, answered(&to[3..4], &to[4..]))).await.unwrap(), applied(1));
    assert_eq!(sums(&store, &ann).await, (Some(9), 0, 3));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_an_unknown_outcome_keeps_its_key_and_a_definite_one_does_not() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A])).await;
    // Attempt, what it ends with, and the key, doubt and age that the next one sees.
    let table = [(1, retry(true), 0, true, at(0)), (2, retry(false), 1, false, at(120))];
    for (attempt, news, key_no, unknown, first_try_at) in table {
        assert_eq!(store.report(report(&message, attempt, news)).await.unwrap(), applied(0));
        let now = at(60 * i64::from(attempt));
        let part = store.lease(&first_part(&message), now, now).await.unwrap().unwrap();
        assert_eq!((part.key_no, part.unknown, part.first_try_at), (key_no, unknown, first_try_at));
        assert_eq!(part.attempt, attempt + 1);
    }
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0));
    let given_back = News::Retry {
        due: at(1),
        error: "stop".to_owned(),
        unknown: false,
        maybe_taken: Vec::new(),
        counts: false,
        batch_max: None,
    };
    store.report(report(&message, 3, given_back)).await.unwrap();
    let part = store.lease(&first_part(&message), at(9), at(39)).await.unwrap().unwrap();
    assert_eq!(part.attempt, 3, "an attempt that was none does not count");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_late_news_that_it_was_sent_resolves_what_is_held() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A])).await;
    let hold = News::Hold { reason: "unknown".to_owned() };
    assert_eq!(store.report(report(&message, 1, hold.clone())).await.unwrap(), applied(0));
    assert_eq!(state(&store, &message).await, "Held held");
    assert_eq!(store.due(at(9_999), &[Road::Smtp], 9).await.unwrap(), [], "it is not sent again");
    assert_eq!(store.report(report(&message, 1, hold)).await.unwrap(), Recorded::Late);
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0));
    assert_audit(&store).await;
    assert_eq!(store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(state(&store, &message).await, "Sent sent");
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn an_attempt_that_was_overtaken_can_only_say_what_was_sent() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A, B])).await;
    assert_eq!(store.lapse_expired(&[], at(30)).await.unwrap(), 1);
    store.lease(&first_part(&message), at(30), at(60)).await.unwrap().unwrap();
    assert_eq!(store.report(report(&message, 1, answered(&[], &[A, B]))).await.unwrap(), Recorded::Late);
    assert_eq!(store.report(report(&message, 1, retry(false))).await.unwrap(), Recorded::Late);
    let bounce = || {
        Some(Box::new(Acceptance {
            kind: Kind::Bounce,
            price: Credits::ZERO,
            ..super::message(&ann, &["app@x.example"])
        }))
    };
    let late = Report { bounce: bounce(), ..report(&message, 1, answered(&[A], &[B])) };
    assert_eq!(store.report(late).await.unwrap(), applied(1));
    assert_eq!(state(&store, &message).await, "Queued sending", "the second attempt goes on");
    assert_eq!(count(&store, "SELECT count(*) FROM message").await, 1, "b did not fail, and is not bounced");
    let last = Report { bounce: bounce(), ..report(&message, 2, answered(&[], &[B])) };
    assert_eq!(store.report(last.clone()).await.unwrap(), applied(0));
    assert_eq!(store.report(last).await.unwrap(), Recorded::Late);
    assert_eq!(count(&store, "SELECT count(*) FROM message WHERE kind = 'bounce'").await, 1);
    assert_eq!(state(&store, &message).await, "Sent sent");
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_captures_are_numbered_without_a_gap_whoever_reports_when() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(50)).await, customer(&store, "bob", Some(50)).await);
    let mut reports = Vec::new();
    for round in 0..30 {
        let payer = if round % 3 == 0 { &bob } else { &ann };
        let message = accepted(&store, message(payer, &[A])).await;
        let news = if round % 5 == 0 { answered(&[], &[A]) } else { answered(&[A], &[]) };
        reports.push(report(&message, 1, news));
    }
    let busy = store.writer.gathering().await;
    let reporting: Vec<_> = reports
        .into_iter()
        .map(|report| {
            let store = store.clone();
            tokio::spawn(async move { store.report(report).await.unwrap() })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(busy);
    for recorded in reporting {
        recorded.await.unwrap();
    }
    assert_eq!((sums(&store, &ann).await, sums(&store, &bob).await), ((Some(50), 0, 16), (Some(50), 0, 8)));
    assert_eq!(count(&store, "SELECT max(number) FROM capture WHERE customer_id = 'ann'").await, 16);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_parts_of_one_message_cost_it_once() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let part = |to: &str| NewPart {
        road: Road::Smtp,
        recipients: vec![mailbox(to)],
        request_hash: None,
        batch_max: 1,
    };
    let message = Acceptance { parts: vec![part(A), part(B)], ..message(&ann, &[]) };
    let message = accepted(&store, message).await;
    let of = |part_no, news| Report { part_no, ..report(&message, 1, news) };
    assert_eq!(store.report(of(0, answered(&[B], &[]))).await.unwrap(), applied(0), "b is not of this part");
    assert_eq!(store.report(of(1, answered(&[], &[B]))).await.unwrap(), applied(0));
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0), "a may still get it");
    store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    let sent = Report { attempt: 2, ..of(0, answered(&[A], &[])) };
    assert_eq!(store.report(sent).await.unwrap(), applied(1));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_that_a_recipient_may_have_it_is_forgotten_by_no_definite_answer_but_sent() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A, B])).await;
    assert_eq!(store.report(report(&message, 1, lost(&[A]))).await.unwrap(), applied(0));
    for attempt in 2..4 {
        let part = store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
        assert_eq!((part.attempt, part.maybe_taken), (attempt, vec![mailbox(A)]));
        store.report(report(&message, attempt, retry(false))).await.unwrap();
        let log = store.message(&message.message_id).await.unwrap().unwrap();
        let doubtful: Vec<_> = log.recipients.iter().map(|to| to.maybe_taken).collect();
        assert!(log.parts[0].unknown && doubtful == [true, false], "{log:?}");
    }
    store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    let held = News::Answered(Answered {
        failed: vec![(mailbox(B), Answer::new("4.4.7", "too late"))],
        rest: Rest::Held { reason: "its lifetime is over".to_owned() },
        ..Answered::default()
    });
    assert_eq!(store.report(report(&message, 4, held)).await.unwrap(), applied(0));
    assert_eq!(state(&store, &message).await, "Held held");
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0), "its credit stays on hold");
    assert_audit(&store).await;
    assert_eq!(store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(state(&store, &message).await, "Sent sent");
    let log = store.message(&message.message_id).await.unwrap().unwrap();
    assert!(!log.parts[0].unknown && log.recipients.iter().all(|to| !to.maybe_taken), "{log:?}");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_lease_that_lapsed_leaves_a_doubt_that_only_resend_can_end() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    for (road, want) in [(Road::Smtp, vec![mailbox(A)]), (Road::Resend, vec![])] {
        let part = NewPart { road, recipients: vec![mailbox(A)], request_hash: None, batch_max: 1 };
        let message = accepted(&store, Acceptance { parts: vec![part], ..message(&ann, &[]) }).await;
        assert_eq!(store.lapse_all(at(1)).await.unwrap(), 1);
        let part = store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
        assert_eq!((part.unknown, part.maybe_taken), (true, want), "{road:?}");
        store.report(report(&message, 2, answered(&[A], &[]))).await.unwrap();
    }
    assert_audit(&store).await;
}

/// The last error and the upstream's id of a message's first part.
async fn traces(store: &Store, of: &Acceptance) -> (String, Option<String>) {
    let part = store.message(&of.message_id).await.unwrap().unwrap().parts.remove(0);
    (part.last_error.unwrap_or_default(), part.upstream_id)
}

/// A store whose counters are looked at.
async fn counted() -> (Store, Directory, Metrics) {
    let (directory, metrics) = (Directory::new(), Metrics::new());
    let settings = settings(&directory.0, Maker::Serve);
    (Store::open(&settings, metrics.clone()).await.unwrap(), directory, metrics)
}

/// Parts of which it was told that they left after they were given up.
fn too_late(metrics: &Metrics) -> u32 {
    let page = metrics.encode();
    let count = page.lines().find_map(|line| line.strip_prefix("postmeter_late_sent_total "));
    count.unwrap_or("0").parse().unwrap()
}

#[tokio::test]
async fn p3_mail_that_left_after_it_was_given_up_is_told_once_and_kept_with_it() {
    let (store, _directory, metrics) = counted().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A])).await;
    store.lapse_expired(&[], at(30)).await.unwrap();
    store.lease(&first_part(&message), at(30), at(60)).await.unwrap().unwrap();
    store.report(report(&message, 2, answered(&[], &[A]))).await.unwrap();
    assert_eq!(state(&store, &message).await, "Failed failed");
    assert_eq!(too_late(&metrics), 0);
    for _ in 0..2 {
        let late = report(&message, 1, answered(&[A], &[]));
        assert_eq!(store.report(late).await.unwrap(), Recorded::Late);
        assert_eq!(too_late(&metrics), 1);
        let (error, upstream_id) = traces(&store, &message).await;
        assert!(error.ends_with("; the upstream took it all the same"), "{error}");
        assert_eq!(upstream_id.as_deref(), Some("up-1"));
    }
    let other_copy =
        Answered { upstream_id: Some("up-2".to_owned()), sent: vec![mailbox(A)], ..Answered::default() };
    store.report(report(&message, 1, News::Answered(other_copy))).await.unwrap();
    assert_eq!(traces(&store, &message).await.0.matches("took it all the same").count(), 1);
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 0), "nobody is billed for it");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_of_a_part_that_waits_it_is_told_too_who_had_been_given_up() {
    let (store, _directory, metrics) = counted().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &[A, B])).await;
    store.lapse_expired(&[], at(30)).await.unwrap();
    store.lease(&first_part(&message), at(30), at(60)).await.unwrap().unwrap();
    store.report(report(&message, 2, answered(&[], &[A]))).await.unwrap();
    assert_eq!(store.report(report(&message, 1, answered(&[A, B], &[]))).await.unwrap(), applied(1));
    assert_eq!(too_late(&metrics), 1);
    assert_eq!(state(&store, &message).await, "Sent sent", "b was not given up");
    // What was sent and is told again is no news.
    assert_eq!(store.report(report(&message, 1, answered(&[B], &[]))).await.unwrap(), Recorded::Late);
    assert_eq!(too_late(&metrics), 1);
    assert_audit(&store).await;
}
