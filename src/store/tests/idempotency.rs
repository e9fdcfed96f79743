//! What a key of a customer's stands for.

use super::*;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::store::idempotency::Earlier;

const A: &str = "a@y.example";
const DAY_S: i64 = 24 * 60 * 60;

fn keyed(key: &str, meant: &str) -> Keyed {
    let key = IdempotencyKey::parse(key).unwrap();
    Keyed { key, fingerprint: Fingerprinting::of("test").rest([meant.as_bytes()]) }
}

fn under(customer_id: &CustomerId, key: &str, meant: &str) -> Acceptance {
    Acceptance { keyed: Some(keyed(key, meant)), ..message(customer_id, &[A]) }
}

fn later(acceptance: Acceptance, seconds: i64) -> Acceptance {
    Acceptance { accepted_at: at(seconds), ..acceptance }
}

fn before(first: &Acceptance, left: u64) -> Accepted {
    Accepted::Before { message_id: first.message_id.clone(), available: Some(credits(left)) }
}

async fn messages(store: &Store) -> i64 {
    count(store, "SELECT count(*) FROM message").await
}

#[tokio::test]
async fn p3_a_retry_is_answered_as_the_first_time_and_holds_nothing() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(5)).await, customer(&store, "bob", Some(5)).await);
    let first = accepted(&store, under(&ann, "k", "hello")).await;
    assert_eq!(store.accept(under(&ann, "k", "hello")).await.unwrap(), before(&first, 4));
    assert_eq!(store.accept(under(&ann, "k", "bye")).await.unwrap(), Accepted::KeyReused);
    assert_eq!((messages(&store).await, sums(&store, &ann).await), (1, (Some(5), 1, 0)));
    accepted(&store, under(&bob, "k", "hello")).await;
    accepted(&store, under(&ann, "K", "hello")).await;
    assert_eq!((messages(&store).await, sums(&store, &ann).await), (3, (Some(5), 2, 0)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_two_at_once_under_one_key_are_one_message_even_with_the_last_credit() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(1)).await;
    let asked = vec![
        under(&ann, "k", "hello"),
        under(&ann, "k", "hello"),
        under(&ann, "k", "bye"),
        message(&ann, &[A]),
    ];
    let first = asked[0].clone();
    let answers: Vec<_> = together(&store, asked).await.into_iter().map(Result::unwrap).collect();
    let yes = Accepted::Yes { available: Some(credits(0)), low: false };
    assert_eq!(answers, [yes, before(&first, 0), Accepted::KeyReused, Accepted::OutOfCredit]);
    assert_eq!((messages(&store).await, sums(&store, &ann).await), (1, (Some(1), 1, 0)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_was_refused_is_not_remembered() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(0)).await;
    assert_eq!(store.accept(under(&ann, "k", "hello")).await.unwrap(), Accepted::OutOfCredit);
    store.set_suspended(&ann, Some("spam")).await.unwrap();
    assert_eq!(
        store.accept(under(&ann, "k", "hello")).await.unwrap(),
        Accepted::Suspended("spam".to_owned())
    );
    store.set_suspended(&ann, None).await.unwrap();
    read_balance(&store, &ann, 5).await;
    let first = accepted(&store, under(&ann, "k", "another one now")).await;
    // Neither an empty account nor a suspension makes what was accepted undone.
    read_balance(&store, &ann, 0).await;
    store.set_suspended(&ann, Some("spam")).await.unwrap();
    assert_eq!(store.accept(under(&ann, "k", "another one now")).await.unwrap(), before(&first, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_key_is_free_again_after_a_day() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let first = accepted(&store, under(&ann, "k", "hello")).await;
    let again = later(under(&ann, "k", "hello"), DAY_S - 1);
    assert_eq!(store.accept(again).await.unwrap(), before(&first, 8));
    let second = accepted(&store, later(under(&ann, "k", "bye"), DAY_S)).await;
    assert_eq!(store.accept(later(under(&ann, "k", "bye"), DAY_S)).await.unwrap(), before(&second, 7));
    assert_eq!(count(&store, "SELECT count(*) FROM idempotency_key").await, 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_is_looked_up_is_what_would_be_decided() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let look = |meant: &'static str, seconds| {
        let (store, ann) = (store.clone(), ann.clone());
        async move { store.earlier(&ann, &keyed("k", meant), at(seconds)).await.unwrap() }
    };
    assert_eq!(look("hello", 0).await, None);
    let first = accepted(&store, under(&ann, "k", "hello")).await;
    let same = Earlier::Same { message_id: first.message_id.clone(), available: Some(credits(8)) };
    assert_eq!(look("hello", DAY_S - 1).await, Some(same));
    assert_eq!(look("bye", 0).await, Some(Earlier::Other));
    assert_eq!(look("hello", DAY_S).await, None);
    let nobody = store.earlier(&id("bob"), &keyed("k", "hello"), at(0)).await;
    assert_eq!(nobody.unwrap(), None);
}

#[tokio::test]
async fn expired_keys_are_swept_in_small_steps() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for nth in 0..7 {
        accepted(&store, later(under(&ann, &format!("k{nth}"), "hello"), nth)).await;
    }
    let now = at(DAY_S + 4);
    let mut swept = Vec::new();
    for _ in 0..4 {
        swept.push(store.sweep_keys(now, 2).await.unwrap());
    }
    assert_eq!(swept, [2, 2, 1, 0]);
    assert_eq!(count(&store, "SELECT count(*) FROM idempotency_key").await, 2);
    assert!(store.earlier(&ann, &keyed("k6", "hello"), at(DAY_S)).await.unwrap().is_some());
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_member_that_cannot_be_written_takes_no_key() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let known = accepted(&store, message(&ann, &[A])).await;
    let spoilt = Acceptance { message_id: known.message_id.clone(), ..under(&ann, "k", "hello") };
    let answers = together(&store, vec![spoilt, under(&ann, "k", "hello"), under(&ann, "k", "hello")]).await;
    assert!(answers[0].is_err() && matches!(answers[1], Ok(Accepted::Yes { .. })), "{answers:?}");
    assert!(matches!(answers[2], Ok(Accepted::Before { .. })), "{answers:?}");
    assert_eq!(messages(&store).await, 2);
    assert_audit(&store).await;
}
