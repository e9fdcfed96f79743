use super::*;
use crate::store::bucket::Change;

const SECOND: Duration = Duration::from_secs(1);

/// Takes one of three, of which one is refilled each second: how long to wait, if it is empty.
async fn take(store: &Store, seconds: i64) -> Option<Duration> {
    store.take_from_bucket("resend", (SECOND, 3 * SECOND), at(seconds)).await.unwrap()
}

#[tokio::test]
async fn a_bucket_is_one_for_all_who_take_from_it() {
    let (store, directory) = store().await;
    let other = reopened(&directory).await;
    let table = [
        (&store, 0, None),
        (&other, 0, None),
        (&other, 0, None),
        (&store, 0, Some(SECOND)),
        (&other, 0, Some(SECOND)),
        (&store, 1, None),
        (&other, 1, Some(SECOND)),
        (&other, 100, None),
        // A clock that is behind takes nothing that is not there.
        (&store, 99, None),
        (&other, 100, None),
        (&store, 100, Some(SECOND)),
    ];
    for (nth, (who, seconds, want)) in table.into_iter().enumerate() {
        assert_eq!(take(who, seconds).await, want, "{nth}");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_a_clock_said_that_was_set_back_since_is_not_believed() {
    let (store, _directory) = store().await;
    assert_eq!(take(&store, 3_600).await, None);
    let table = [(0, None), (0, None), (0, None), (0, Some(SECOND)), (1, None)];
    for (nth, (seconds, want)) in table.into_iter().enumerate() {
        assert_eq!(take(&store, seconds).await, want, "{nth}");
    }
}

#[tokio::test]
async fn of_many_who_take_at_once_as_many_succeed_as_there_are() {
    let (store, directory) = store().await;
    let other = reopened(&directory).await;
    let taking: Vec<_> = (0..40)
        .map(|nth| {
            let who = if nth % 2 == 0 { store.clone() } else { other.clone() };
            tokio::spawn(async move { take(&who, 5).await })
        })
        .collect();
    let mut taken = 0;
    for one in taking {
        taken += usize::from(one.await.unwrap().is_none());
    }
    assert_eq!(taken, 3);
}

#[tokio::test]
async fn what_is_taken_is_known_to_all_and_leaves_when_it_says_nothing_any_more() {
    let (store, directory) = store().await;
    let other = reopened(&directory).await;
    let names = ["sign-in a", "sign-in b", "sign-in c"].map(str::to_owned);
    let change = |name: &str, taken: i64| Change {
        name: format!("sign-in {name}"),
        taken_us: taken * 1_000_000,
        whole_us: 3_000_000,
    };
    store.change_buckets(vec![change("b", 1), change("a", 1)], at(0)).await.unwrap();
    other.change_buckets(vec![change("a", 1), change("c", -1)], at(0)).await.unwrap();
    let known = other.buckets(&names, at(0)).await.unwrap();
    assert_eq!(known, [(names[0].clone(), at(2)), (names[1].clone(), at(1))]);
    store.change_buckets(vec![change("a", 9), change("b", -1)], at(1)).await.unwrap();
    assert_eq!(other.buckets(&names, at(1)).await.unwrap(), [(names[0].clone(), at(4))], "at most all of it");
    assert_eq!(other.sweep_buckets(at(3)).await.unwrap(), 2);
    assert_eq!(store.buckets(&names, at(3)).await.unwrap(), [(names[0].clone(), at(4))]);
    assert_eq!(store.sweep_buckets(at(5)).await.unwrap(), 1);
}

#[tokio::test]
async fn names_are_hashed_alike_by_all_who_share_a_database_and_by_nobody_else() {
    let (store, directory) = store().await;
    let other = reopened(&directory).await;
    let is_same = store.shared_key().await.unwrap() == other.shared_key().await.unwrap();
    assert_eq!(is_same, store.is_shared());
    assert_audit(&store).await;
}
