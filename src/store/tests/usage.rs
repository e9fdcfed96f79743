use super::*;
use crate::store::tests::refunds::sent;
use crate::store::usage::Used;

/// The day on which these tests begin, at eight in the morning.
const DAY: i64 = 20_833;
const HOUR: i64 = 3_600;

fn accepted_at(customer_id: &CustomerId, hours: i64) -> Acceptance {
    let at = at(hours * HOUR);
    let message_id = MessageId::generate(at, random::octets());
    Acceptance { message_id, accepted_at: at, ..message(customer_id, &["a@y.example"]) }
}

#[tokio::test]
async fn what_was_used_is_told_by_the_day_and_of_one_customer() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(100)).await, customer(&store, "bob", Some(100)).await);
    // At eleven in the evening, at midnight, and an hour later. What is held counts, as it cannot be spent.
    sent(&store, accepted_at(&ann, 15)).await;
    sent(&store, accepted_at(&ann, 16)).await;
    let three = ["a@y.example", "b@y.example", "c@y.example"];
    let held = accepted_at(&ann, 17);
    let recipients = per_recipient(&ann, &three);
    let held = Acceptance { unit: recipients.unit, price: recipients.price, parts: recipients.parts, ..held };
    accepted(&store, held).await;
    sent(&store, accepted_at(&bob, 16)).await;
    // Whom nobody could be sent to cost nothing.
    let failed = accepted(&store, accepted_at(&ann, 18)).await;
    store.report(report(&failed, 1, answered(&[], &["a@y.example"]))).await.unwrap();
    let used = |messages, credits| Used { messages, credits };
    let days = store.used(&ann, DAY..DAY + 3).await.unwrap();
    assert_eq!(days, [(DAY, used(1, 1)), (DAY + 1, used(3, 4))].into());
    assert_eq!(store.used(&ann, DAY..DAY + 1).await.unwrap(), [(DAY, used(1, 1))].into());
    assert_eq!(store.used(&bob, DAY..DAY + 3).await.unwrap(), [(DAY + 1, used(1, 1))].into());
    assert_eq!(store.used(&ann, DAY + 2..DAY + 3).await.unwrap(), [].into());
    assert_eq!(store.used(&ann, DAY..DAY).await.unwrap(), [].into());
    assert_audit(&store).await;
}

#[tokio::test]
async fn where_the_newest_messages_stand_changes_with_every_step() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(100)).await;
    let old = accepted(&store, accepted_at(&ann, 0)).await;
    let new = accepted(&store, accepted_at(&ann, 1)).await;
    accepted(&store, accepted_at(&customer(&store, "bob", Some(1)).await, 2)).await;
    let seen = async || {
        let points = store.standpoints(&ann, 2).await.unwrap();
        points.into_iter().map(|point| (point.message_id, point.state, point.steps)).collect::<Vec<_>>()
    };
    let before = seen().await;
    let ids: Vec<_> = before.iter().map(|point| &point.0).collect();
    assert_eq!(ids, [&new.message_id, &old.message_id]);
    store.report(report(&new, 1, retry(false))).await.unwrap();
    let tried = seen().await;
    assert_ne!(before[0], tried[0], "a try that failed is a step");
    assert_eq!(before[1], tried[1]);
    store.report(report(&old, 1, answered(&["a@y.example"], &[]))).await.unwrap();
    let sent = seen().await;
    assert_eq!(sent[1].1, crate::domain::message::MessageState::Sent);
    crate::submission::stand_in::bounced(
        &store,
        (&old.message_id, &ann),
        &[mailbox("a@y.example")],
        None,
        at(9),
    )
    .await
    .unwrap();
    assert!(seen().await[1].2 > sent[1].2, "news is a step");
    assert_eq!(store.standpoints(&ann, 1).await.unwrap().len(), 1);
}
