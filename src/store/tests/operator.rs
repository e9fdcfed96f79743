use super::*;
use crate::domain::decision::{Choice, NotNow};
use crate::store::operator::{DecisionError, Order, QueueFilter, Via, Waiting};

const A: &str = "a@y.example";
const B: &str = "b@y.example";
const LIFETIME: Duration = Duration::from_secs(500);

fn order(choice: Choice, is_confirmed: bool, second: i64) -> Order {
    Order { choice, is_confirmed, via: Via::Command, now: at(second), lifetime: LIFETIME }
}

async fn decide(store: &Store, of: &Acceptance, order: Order) -> Result<String, NotNow> {
    match store.decide(&of.message_id, &order).await {
        Ok(decided) => {
            let parts: Vec<_> = decided.log.parts.iter().map(|part| part.state.as_str()).collect();
            Ok(format!("{:?} {}", decided.log.state, parts.join(" ")))
        }
        Err(DecisionError::NotNow(_, why)) => Err(why),
        Err(error) => panic!("{error}"),
    }
}

async fn cancel(store: &Store, of: &Acceptance, is_confirmed: bool) -> Result<String, NotNow> {
    decide(store, of, order(Choice::Cancel, is_confirmed, 10)).await
}

async fn retry_now(store: &Store, of: &Acceptance, is_confirmed: bool) -> Result<String, NotNow> {
    decide(store, of, order(Choice::Retry, is_confirmed, 10)).await
}

/// A message that waits for its second attempt.
async fn deferred(store: &Store, asked: Acceptance, is_unknown: bool) -> Acceptance {
    let message = accepted(store, asked).await;
    store.report(report(&message, 1, retry(is_unknown))).await.unwrap();
    message
}

async fn held(store: &Store, asked: Acceptance) -> Acceptance {
    let message = accepted(store, asked).await;
    let hold = News::Hold { reason: "unknown, and a day old".to_owned() };
    store.report(report(&message, 1, hold)).await.unwrap();
    message
}

#[tokio::test]
async fn p3_what_is_cancelled_costs_nothing_and_its_bytes_go() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = deferred(&store, message(&ann, &[A, B]), false).await;
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0));
    assert_eq!(cancel(&store, &message, false).await, Ok("Failed failed".to_owned()));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 0));
    assert_eq!(count(&store, "SELECT count(*) FROM body").await, 0);
    assert_eq!(count(&store, "SELECT count(*) FROM message").await, 1, "nothing bounces");
    assert_eq!(store.due(at(9_999), &[Road::Smtp], 9).await.unwrap(), []);
    assert!(store.lease(&first_part(&message), at(60), at(90)).await.unwrap().is_none(), "it is not sent");

    let shown = store.queue_message(&message.message_id).await.unwrap().unwrap();
    assert_eq!(shown.last_error.as_deref(), Some("cancelled by the operator, after: 451 later"));
    assert!(shown.log.recipients.iter().all(|r| r.reply.as_deref() == Some("cancelled by the operator")));
    let [decision] = &shown.decisions[..] else { panic!("{:?}", shown.decisions) };
    assert_eq!((decision.choice, decision.via, decision.held_parts), (Choice::Cancel, Via::Command, 0));
    assert_eq!(decision.decided_at, at(10));
    assert_eq!(cancel(&store, &message, true).await, Err(NotNow::Final), "once");
    assert_eq!(store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap(), Recorded::Late);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_of_a_cancelled_message_only_what_left_is_paid() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    // Sent to one of two, by message and by recipient: what is owed, and what was given back.
    for (asked, owed) in [(message(&ann, &[A, B]), 1), (per_recipient(&ann, &[A, B]), 2)] {
        let message = accepted(&store, asked).await;
        store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap();
        assert_eq!(cancel(&store, &message, false).await, Ok("Sent sent".to_owned()));
        assert_eq!(sums(&store, &ann).await, (Some(9), 0, owed));
    }
    let part = |to: &str| NewPart {
        road: Road::Smtp,
        recipients: vec![mailbox(to)],
        request_hash: None,
        batch_max: 1,
    };
    let two_parts = Acceptance { parts: vec![part(A), part(B)], ..message(&ann, &[]) };
    let message = deferred(&store, two_parts, false).await;
    assert_eq!(cancel(&store, &message, true).await, Err(NotNow::AttemptRunning), "of its second part");
    let sent = Report { part_no: 1, ..report(&message, 1, answered(&[B], &[])) };
    store.report(sent).await.unwrap();
    assert_eq!(cancel(&store, &message, false).await, Ok("Sent failed sent".to_owned()));
    assert_eq!(sums(&store, &ann).await, (Some(9), 0, 3));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_what_may_be_with_the_upstream_is_not_cancelled() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let sending = accepted(&store, message(&ann, &[A])).await;
    let by_resend = Acceptance { parts: vec![by_resend(A)], ..message(&ann, &[]) };
    let unknown = deferred(&store, by_resend, true).await;
    let held = held(&store, message(&ann, &[A])).await;
    let sent = accepted(&store, message(&ann, &[A])).await;
    store.report(report(&sent, 1, answered(&[A], &[]))).await.unwrap();
    for (message, unconfirmed, confirmed) in [
        (&sending, NotNow::AttemptRunning, Some(NotNow::AttemptRunning)),
        (&unknown, NotNow::OutcomeUnknown, Some(NotNow::OutcomeUnknown)),
        (&sent, NotNow::Final, Some(NotNow::Final)),
        (&held, NotNow::Unconfirmed, None),
    ] {
        let before = sums(&store, &ann).await;
        assert_eq!(cancel(&store, message, false).await, Err(unconfirmed));
        assert_eq!(sums(&store, &ann).await, before);
        assert_eq!(cancel(&store, message, true).await.err(), confirmed);
    }
    assert_eq!(sums(&store, &ann).await, (Some(5), 2, 1));
    let shown = store.queue_message(&held.message_id).await.unwrap().unwrap();
    assert_eq!(shown.decisions[0].held_parts, 1, "the risk was taken");
    let nobody = MessageId::parse("nobody").unwrap();
    let missing = store.decide(&nobody, &order(Choice::Cancel, true, 10)).await;
    assert!(matches!(missing, Err(DecisionError::NoMessage(_))), "{missing:?}");
    assert_eq!(count(&store, "SELECT count(*) FROM decision").await, 1, "what was refused is no decision");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_a_retry_makes_it_due_now_and_keeps_the_key_of_an_unknown_outcome() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    for is_unknown in [false, true] {
        let message = deferred(&store, message(&ann, &[A]), is_unknown).await;
        assert_eq!(store.due(at(10), &[Road::Smtp], 9).await.unwrap(), []);
        assert_eq!(retry_now(&store, &message, false).await, Ok("Queued queued".to_owned()));
        let due = store.due(at(10), &[Road::Smtp], 9).await.unwrap();
        assert_eq!(due, [first_part(&message)]);
        let part = store.lease(&first_part(&message), at(10), at(40)).await.unwrap().unwrap();
        assert_eq!((part.attempt, part.key_no), (2, i64::from(!is_unknown)));
        assert_eq!(part.unknown, is_unknown);
        assert_eq!(part.expires_at, at(1_000), "its lifetime is what it was");
        assert_eq!(retry_now(&store, &message, true).await, Err(NotNow::AttemptRunning));
    }
    assert_eq!(sums(&store, &ann).await, (Some(5), 2, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p4_a_held_part_is_sent_again_only_by_decision_under_a_new_key_and_with_time_for_it() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = held(&store, message(&ann, &[A])).await;
    let now = 5_000;
    assert_eq!(decide(&store, &message, order(Choice::Retry, false, now)).await, Err(NotNow::Unconfirmed));
    assert_eq!(store.due(at(now), &[Road::Smtp], 9).await.unwrap(), []);
    let decided = decide(&store, &message, order(Choice::Retry, true, now)).await;
    assert_eq!(decided, Ok("Queued queued".to_owned()));
    let part = store.lease(&first_part(&message), at(now), at(now + 30)).await.unwrap().unwrap();
    assert_eq!((part.key_no, part.unknown, part.first_try_at), (1, false, at(now)));
    assert_eq!(part.attempt, 2, "P3: what the first attempt has to say cannot be taken for news of this one");
    assert_eq!(part.expires_at, at(now + 500));
    assert_eq!(store.report(report(&message, 1, retry(false))).await.unwrap(), Recorded::Late);
    assert_eq!(store.report(report(&message, 2, answered(&[A], &[]))).await.unwrap(), applied(1));
    assert_eq!(sums(&store, &ann).await, (Some(5), 0, 1));
    let shown = store.queue_message(&message.message_id).await.unwrap().unwrap();
    assert_eq!((shown.decisions[0].choice, shown.decisions[0].held_parts), (Choice::Retry, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn all_that_waits_is_retried_and_the_held_only_when_asked_for() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(999)).await;
    for nth in 0..450 {
        deferred(&store, message(&ann, &[A]), nth % 2 == 0).await;
    }
    let kept = held(&store, message(&ann, &[A])).await;
    let sending = accepted(&store, message(&ann, &[A])).await;
    assert_eq!(store.retry_all(false, &order(Choice::Retry, true, 10)).await.unwrap(), 450);
    assert_eq!(
        count(&store, "SELECT count(*) FROM part WHERE state = 'queued' AND due_at > 1800000010000").await,
        0
    );
    assert_eq!(count(&store, "SELECT count(*) FROM part WHERE state = 'held'").await, 1);
    assert_eq!(store.retry_all(false, &order(Choice::Retry, true, 10)).await.unwrap(), 0, "they are due");
    assert_eq!(store.retry_all(true, &order(Choice::Retry, true, 10)).await.unwrap(), 1);
    assert_eq!(retry_now(&store, &kept, false).await, Ok("Queued queued".to_owned()));
    assert_eq!(retry_now(&store, &sending, false).await, Err(NotNow::AttemptRunning));
    assert_audit(&store).await;
}

#[tokio::test]
async fn the_queue_shows_what_is_not_final_and_can_be_asked_for_less() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(9)).await, customer(&store, "bob", Some(9)).await);
    let queued = deferred(&store, message(&ann, &[A, B]), true).await;
    let held = held(&store, message(&bob, &[A])).await;
    let sending = accepted(&store, message(&ann, &[A])).await;
    owe(&store, &ann).await;
    let all = QueueFilter { limit: 9, ..QueueFilter::default() };
    let of = |state| QueueFilter { state: Some(state), ..all.clone() };
    let names = |messages: &[&Acceptance]| {
        let mut names: Vec<_> = messages.iter().map(|m| m.message_id.clone()).collect();
        names.sort();
        names
    };
    for (filter, want) in [
        (all.clone(), names(&[&queued, &held, &sending])),
        (of(Waiting::Queued), names(&[&queued])),
        (of(Waiting::Held), names(&[&held])),
        (of(Waiting::Sending), names(&[&sending])),
        (QueueFilter { customer_id: Some(bob), ..all.clone() }, names(&[&held])),
        (QueueFilter { customer_id: Some(ann), ..of(Waiting::Held) }, Vec::new()),
        (QueueFilter { limit: 2, ..all }, names(&[&queued, &held, &sending])[..2].to_vec()),
    ] {
        let listed = store.queue(&filter).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|m| m.log.message_id).collect();
        assert_eq!(listed, want, "{filter:?}");
    }
    let shown = store.queue_message(&queued.message_id).await.unwrap().unwrap();
    assert_eq!((shown.attempts, shown.log.recipients.len()), (1, 2));
    assert!(shown.log.parts[0].unknown && shown.log.parts[0].due_at == Some(at(60)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_of_a_cancel_and_an_attempt_from_two_processes_one_wins() {
    let (server, directory) = store().await;
    let command = Store::open(&settings(&directory.0, Maker::Command), Metrics::new()).await.unwrap();
    let ann = customer(&server, "ann", Some(500)).await;
    let (mut leased, mut cancelled) = (0, 0);
    for nth in 0..200 {
        let waiting = Acceptance { lease_until: None, ..message(&ann, &[A]) };
        let waiting = accepted(&server, waiting).await;
        let due = first_part(&waiting);
        let order = order(Choice::Cancel, false, 10);
        let attempt = async {
            if nth % 2 == 0 {
                tokio::task::yield_now().await;
            }
            server.lease(&due, at(10), at(40)).await.unwrap()
        };
        let (part, decided) = tokio::join!(attempt, command.decide(&waiting.message_id, &order));
        match (part, decided) {
            (Some(_), Err(DecisionError::NotNow(_, NotNow::AttemptRunning))) => leased += 1,
            (None, Ok(_)) => cancelled += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(leased + cancelled, 200);
    assert_eq!(sums(&server, &ann).await, (Some(500), leased, 0));
    assert_audit(&server).await;
}

#[tokio::test]
async fn p3_what_may_have_been_taken_is_given_up_only_by_who_was_told_the_risk() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    for is_put_off_later in [false, true] {
        let message = accepted(&store, message(&ann, &[A])).await;
        store.report(report(&message, 1, lost(&[A]))).await.unwrap();
        if is_put_off_later {
            store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
            store.report(report(&message, 2, retry(false))).await.unwrap();
        }
        assert_eq!(cancel(&store, &message, false).await, Err(NotNow::Unconfirmed));
        assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0));
        assert_eq!(retry_now(&store, &message, false).await, Ok("Queued queued".to_owned()));
        assert_eq!(cancel(&store, &message, true).await, Ok("Failed failed".to_owned()));
        assert_eq!(sums(&store, &ann).await, (Some(5), 0, 0));
        let shown = store.queue_message(&message.message_id).await.unwrap().unwrap();
        let taken: Vec<_> = shown.decisions.iter().map(|decision| decision.held_parts).collect();
        assert_eq!(taken, [0, 1], "the risk was taken by the second");
        assert!(shown.log.recipients[0].maybe_taken, "that it may be there stays with it");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_the_doubt_about_a_held_part_outlives_its_key() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = held(&store, Acceptance { parts: vec![by_resend(A)], ..message(&ann, &[]) }).await;
    assert_eq!(retry_now(&store, &message, true).await, Ok("Queued queued".to_owned()));
    let part = store.lease(&first_part(&message), at(10), at(40)).await.unwrap().unwrap();
    assert_eq!((part.unknown, part.key_no, part.maybe_taken), (false, 1, vec![mailbox(A)]));
    store.report(report(&message, 2, retry(false))).await.unwrap();
    assert_eq!(cancel(&store, &message, false).await, Err(NotNow::Unconfirmed));
    assert_audit(&store).await;
}
