use super::*;
use crate::store::entry::{Entry, Settled};

async fn open(store: &Store, customer_id: &CustomerId) -> Entry {
    store.open_entry(customer_id, &entry_id(), None, at(1)).await.unwrap().unwrap()
}

#[tokio::test]
async fn p3_one_entry_at_a_time_and_what_comes_meanwhile_gathers() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    assert_eq!(store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap(), None, "nothing is owed");
    owe(&store, &ann).await;
    let first = open(&store, &ann).await;
    assert_eq!(first.amount, Credits::ONE);
    assert!(first.reason.starts_with("email send ") && first.reason.ends_with(first.entry_id.as_str()));
    for _ in 0..3 {
        owe(&store, &ann).await;
    }
    assert_eq!(store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap(), None);
    assert_eq!(store.owing(&[], 9).await.unwrap(), [], "its entry is under way");
    assert_eq!(store.open_entries().await.unwrap(), std::slice::from_ref(&first));
    let before = account(&store, &ann).await.available();
    store.settle_entry(&first, Settled::Sometime, at(2)).await.unwrap();
    assert_eq!(account(&store, &ann).await.available(), before, "settling changes nothing by itself");
    assert_eq!(store.owing(&[], 9).await.unwrap(), std::slice::from_ref(&ann));
    assert_eq!(store.owing(std::slice::from_ref(&ann), 9).await.unwrap(), []);
    let second = open(&store, &ann).await;
    assert_eq!(second.amount, credits(3));
    store.settle_entry(&second, Settled::Now { balance_after: 40 }, at(2)).await.unwrap();
    assert_eq!(sums(&store, &ann).await, (Some(40), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_an_entry_ends_once_however_often_that_is_written_down() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    owe(&store, &ann).await;
    let entry = open(&store, &ann).await;
    for _ in 0..2 {
        store.void_entry(&entry, "no", at(2)).await.unwrap();
        assert_eq!(sums(&store, &ann).await, (Some(50), 0, 1));
    }
    let settled = store.settle_entry(&entry, Settled::Sometime, at(2)).await;
    assert!(matches!(settled, Err(StoreError::Corrupt(_))), "{settled:?}");
    let again = open(&store, &ann).await;
    for _ in 0..2 {
        store.settle_entry(&again, Settled::Now { balance_after: 49 }, at(2)).await.unwrap();
        assert_eq!(sums(&store, &ann).await, (Some(49), 0, 0));
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_after_a_refusal_what_the_balance_covers_is_settled_and_the_rest_stays_owed() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for _ in 0..5 {
        owe(&store, &ann).await;
    }
    let whole = open(&store, &ann).await;
    store.void_entry(&whole, "insufficient", at(2)).await.unwrap();
    read_balance(&store, &ann, 3).await;
    assert_eq!(account(&store, &ann).await.available(), Some(-2));
    let part = store.open_entry(&ann, &entry_id(), Some(credits(3)), at(3)).await.unwrap().unwrap();
    assert_eq!(part.amount, credits(3));
    store.settle_entry(&part, Settled::Now { balance_after: 0 }, at(3)).await.unwrap();
    assert_eq!(sums(&store, &ann).await, (Some(0), 0, 2));
    let nothing = store.open_entry(&ann, &entry_id(), Some(Credits::ZERO), at(3)).await.unwrap();
    assert_eq!(nothing, None);
    read_balance(&store, &ann, 10).await;
    assert_eq!(account(&store, &ann).await.available(), Some(8), "the debt comes first");
    let rest = open(&store, &ann).await;
    assert_eq!(rest.amount, credits(2));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_a_balance_read_that_an_entry_overtook_says_nothing() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    owe(&store, &ann).await;
    let early = store.begin_balance_read(&ann).await.unwrap().unwrap();
    let entry = open(&store, &ann).await;
    assert_eq!(store.begin_balance_read(&ann).await.unwrap(), None, "its first call is under way");
    assert_eq!(store.begin_balance_read(&id("nobody")).await.unwrap(), None);
    store.settle_entry(&entry, Settled::Now { balance_after: 49 }, at(2)).await.unwrap();
    let applied = store.apply_balance(&early, 50, at(3)).await.unwrap();
    assert_eq!(applied.outcome, ReadOutcome::Overtaken);
    assert_eq!(sums(&store, &ann).await, (Some(49), 0, 0));
    let (slow, quick) = (
        store.begin_balance_read(&ann).await.unwrap().unwrap(),
        store.begin_balance_read(&ann).await.unwrap().unwrap(),
    );
    assert_eq!(store.apply_balance(&quick, 5_049, at(4)).await.unwrap().outcome, ReadOutcome::Applied);
    assert_eq!(store.apply_balance(&slow, 49, at(5)).await.unwrap().outcome, ReadOutcome::Overtaken);
    assert_eq!(sums(&store, &ann).await, (Some(5_049), 0, 0), "a top-up is not undone by an older answer");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_while_an_entry_is_in_doubt_a_read_can_only_raise() {
    let (store, _directory) = store().await;
    for is_unknown in [true, false] {
        let ann = customer(&store, if is_unknown { "ann" } else { "bob" }, Some(50)).await;
        owe(&store, &ann).await;
        let entry = open(&store, &ann).await;
        store.note_entry_try(&entry, is_unknown, "lost", at(2)).await.unwrap();
        let read = |balance| {
            let (store, ann) = (&store, &ann);
            async move {
                let leave = store.begin_balance_read(ann).await.unwrap().unwrap();
                store.apply_balance(&leave, balance, at(3)).await.unwrap().outcome
            }
        };
        assert_eq!(read(49).await, ReadOutcome::NotRaised);
        assert_eq!(sums(&store, &ann).await, (Some(50), 0, 1), "owed counts in full");
        assert_eq!(read(60).await, ReadOutcome::Applied);
        assert_eq!(sums(&store, &ann).await, (Some(60), 0, 1));
        store.settle_entry(&entry, Settled::Sometime, at(4)).await.unwrap();
        assert_eq!(read(49).await, ReadOutcome::Applied);
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_after_a_restart_every_open_entry_is_in_doubt() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    owe(&store, &ann).await;
    open(&store, &ann).await;
    assert_eq!(store.take_over_entries(&[], at(5)).await.unwrap().len(), 1);
    let entries = store.open_entries().await.unwrap();
    assert_eq!(entries[0].unknown_tries, 1);
    assert!(store.begin_balance_read(&ann).await.unwrap().is_some());
    assert_audit(&store).await;
}

#[tokio::test]
async fn whoever_has_waited_longest_is_settled_first() {
    let (store, _directory) = store().await;
    for (name, second) in [("late", 9), ("early", 3), ("middle", 5)] {
        let payer = customer(&store, name, Some(50)).await;
        let message = accepted(&store, message(&payer, &["a@y.example"])).await;
        let sent = Report { at: at(second), ..report(&message, 1, answered(&["a@y.example"], &[])) };
        store.report(sent).await.unwrap();
    }
    assert_eq!(store.owing(&[], 2).await.unwrap(), [id("early"), id("middle")]);
    assert_eq!(store.owing(&[id("early")], 2).await.unwrap(), [id("middle"), id("late")]);
}
