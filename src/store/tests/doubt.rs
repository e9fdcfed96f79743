use super::*;
use crate::store::doubt::{Decider, NotDecided, Standing};
use crate::store::entry::{Entry, Settled};
use crate::store::refund::Lapse;
use crate::telemetry::EntryKind;

async fn open(store: &Store, customer_id: &CustomerId, second: i64) -> Entry {
    store.open_entry(customer_id, &entry_id(), None, at(second)).await.unwrap().unwrap()
}

async fn decide(
    store: &Store,
    entry: &Entry,
    (state, by): (Standing, Decider),
    second: i64,
) -> Result<(), NotDecided> {
    match state {
        Standing::Done => store.settle_doubtful(entry, by, at(second)).await.unwrap().map(|_| ()),
        Standing::Void => store.void_doubtful(entry, by, "no", at(second)).await.unwrap(),
        Standing::Open => panic!("nobody decides that"),
    }
}

/// A debit, or a credit, in doubt.
async fn doubted(store: &Store, kind: EntryKind) -> (CustomerId, Entry) {
    let name = format!("ann{}", count(store, "SELECT count(*) FROM customer").await);
    let ann = customer(store, &name, Some(50)).await;
    let entry = match kind {
        EntryKind::Debit => {
            owe(store, &ann).await;
            open(store, &ann, 1).await
        }
        EntryKind::Credit => {
            refunds::bounced_after_the_debit(store, &ann).await;
            refunds::open_credit(store, &ann, Lapse::Never).await.unwrap()
        }
    };
    store.doubt_entry(&entry, "its answer was lost", at(20)).await.unwrap();
    (ann, entry)
}

#[tokio::test]
async fn p3_whoever_decides_second_changes_nothing_and_is_told_who_was_first() {
    use {Decider::*, Standing::*};
    let (store, _directory) = store().await;
    for kind in [EntryKind::Debit, EntryKind::Credit] {
        for ((first, by), (second, too_late)) in [
            ((Done, Operator), (Done, Ledger)),
            ((Done, Operator), (Void, Ledger)),
            ((Void, Operator), (Done, Ledger)),
            ((Void, Operator), (Void, Ledger)),
            ((Done, Ledger), (Done, Operator)),
            ((Done, Ledger), (Void, Operator)),
            ((Void, Ledger), (Done, Operator)),
            ((Void, Ledger), (Void, Operator)),
        ] {
            let (ann, entry) = doubted(&store, kind).await;
            decide(&store, &entry, (first, by), 21).await.unwrap();
            let after_the_first = sums(&store, &ann).await;
            let entry_id = entry.entry_id.clone();
            let why_not = decide(&store, &entry, (second, too_late), 22).await.unwrap_err();
            assert_eq!(why_not, NotDecided::Already { entry_id, by, state: first });
            let told = why_not.to_string();
            let who = if by == Operator { "the operator" } else { "Dodo's ledger" };
            assert!(told.contains(&format!("has just been decided by {who}: it is ")), "{told}");
            assert_eq!(sums(&store, &ann).await, after_the_first, "{told}");
            let booked = store.books(&ann).await.unwrap().entries.pop().unwrap();
            assert_eq!((booked.state, booked.is_by_operator), (first, by == Operator));
            assert!(!store.note_lookup(&entry.entry_id, "too late").await.unwrap());
            assert_audit(&store).await;
        }
    }
}

#[tokio::test]
async fn p3_of_two_who_decide_at_once_one_does() {
    let (store, _directory) = store().await;
    for _ in 0..20 {
        let (ann, entry) = doubted(&store, EntryKind::Debit).await;
        let (settled, voided) = tokio::join!(
            decide(&store, &entry, (Standing::Done, Decider::Ledger), 21),
            decide(&store, &entry, (Standing::Void, Decider::Operator), 21),
        );
        assert_ne!(settled.is_ok(), voided.is_ok());
        let booked = store.books(&ann).await.unwrap().entries.pop().unwrap();
        assert_eq!(
            (booked.state == Standing::Done, booked.is_by_operator),
            (settled.is_ok(), voided.is_ok())
        );
        assert_audit(&store).await;
    }
}

#[tokio::test]
async fn p3_a_doubtful_entry_keeps_the_lane_and_its_credits_owed_until_it_is_decided() {
    let (store, _directory) = store().await;
    for is_there in [true, false] {
        let ann = customer(&store, if is_there { "ann" } else { "bob" }, Some(50)).await;
        owe(&store, &ann).await;
        let entry = open(&store, &ann, 1).await;
        let nobody_doubts_it = NotDecided::NotInDoubt(entry.entry_id.clone());
        assert_eq!(
            decide(&store, &entry, (Standing::Done, Decider::Operator), 2).await,
            Err(nobody_doubts_it.clone())
        );
        assert_eq!(
            decide(&store, &entry, (Standing::Void, Decider::Operator), 2).await,
            Err(nobody_doubts_it)
        );
        store.note_entry_try(&entry, true, "lost", at(3)).await.unwrap();
        for second in [4, 5] {
            store.doubt_entry(&entry, "insufficient", at(second)).await.unwrap();
        }
        let [doubtful] = &store.doubtful_entries().await.unwrap()[..] else { panic!("one is in doubt") };
        assert_eq!(doubtful.entry.doubtful_since, Some(at(4)));
        assert_eq!(
            (doubtful.entry.first_unknown_at, doubtful.entry.last_tried_at),
            (Some(at(3)), Some(at(3)))
        );
        assert_eq!(doubtful.why.as_deref(), Some("insufficient"));
        owe(&store, &ann).await;
        assert_eq!(store.open_entry(&ann, &entry_id(), None, at(6)).await.unwrap(), None);
        assert_eq!(store.owing(&[], 9).await.unwrap(), []);
        assert_eq!(sums(&store, &ann).await, (Some(50), 0, 2));
        assert_audit(&store).await;
        let state = if is_there { Standing::Done } else { Standing::Void };
        decide(&store, &entry, (state, Decider::Ledger), 7).await.unwrap();
        assert_eq!(sums(&store, &ann).await, if is_there { (Some(49), 0, 1) } else { (Some(50), 0, 2) });
        let next = open(&store, &ann, 9).await;
        assert_eq!(next.amount, if is_there { Credits::ONE } else { credits(2) });
        store.settle_entry(&next, Settled::Sometime, at(9)).await.unwrap();
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_a_doubtful_entry_was_last_tried_when_its_last_call_began_whether_that_was_noted_or_not() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    owe(&store, &ann).await;
    let mut entry = open(&store, &ann, 1).await;
    store.note_entry_try(&entry, true, "lost", at(2)).await.unwrap();
    entry.tried(true, at(2));
    // The disk was full for two calls more.
    entry.tried(true, at(700));
    entry.tried(false, at(701));
    store.doubt_entry(&entry, "insufficient", at(702)).await.unwrap();
    let [doubtful] = &store.doubtful_entries().await.unwrap()[..] else { panic!("one is in doubt") };
    assert_eq!(doubtful.entry.last_tried_at, Some(at(701)), "it may be under way for a while from then on");
    assert_eq!(doubtful.entry.first_unknown_at, Some(at(2)));
}

#[tokio::test]
async fn p3_a_restart_dates_a_lost_answer_back_to_when_the_call_may_have_begun() {
    let (store, _directory) = store().await;
    for (name, is_tried) in [("ann", false), ("bob", true)] {
        let ann = customer(&store, name, Some(50)).await;
        owe(&store, &ann).await;
        let entry = open(&store, &ann, 1).await;
        if is_tried {
            store.note_entry_try(&entry, false, "401", at(50)).await.unwrap();
        }
    }
    store.take_over_entries(&[], at(90_000)).await.unwrap();
    for entry in store.open_entries().await.unwrap() {
        let began = if entry.customer_id == id("ann") { at(1) } else { at(50) };
        assert_eq!(entry.first_unknown_at, Some(began), "it may be known to Dodo since then");
        assert_eq!(entry.last_tried_at, Some(at(90_000)), "it may have been under way until now");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn the_books_tell_who_decided_and_what_came_before() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for second in [1, 10] {
        owe(&store, &ann).await;
        let entry = open(&store, &ann, second).await;
        if second == 10 {
            store.doubt_entry(&entry, "?", at(second)).await.unwrap();
            decide(&store, &entry, (Standing::Done, Decider::Operator), second + 1).await.unwrap();
        } else {
            store.settle_entry(&entry, Settled::Sometime, at(second + 1)).await.unwrap();
        }
    }
    owe(&store, &ann).await;
    let refused = open(&store, &ann, 20).await;
    store.void_entry(&refused, "no", at(21)).await.unwrap();
    let last = open(&store, &ann, 30).await;
    let before = store.done_before(&last, 9).await.unwrap();
    let told: Vec<_> = before.iter().map(|booked| (booked.closed_at, booked.is_by_operator)).collect();
    assert_eq!(told, [(Some(at(11)), true), (Some(at(2)), false)]);
    assert_eq!(store.done_before(&last, 1).await.unwrap().len(), 1);
    let all: Vec<_> = store.books(&ann).await.unwrap().entries.iter().map(|booked| booked.state).collect();
    assert_eq!(all, [Standing::Done, Standing::Done, Standing::Void, Standing::Open]);
    assert_audit(&store).await;
}
