//! What a key of a customer's stands for.

use super::*;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::store::idempotency::Earlier;

const A: &str = "a@y.example";
const DAY_S: i64 = 24 * 60 * 60;

fn keyed(key: &str, meant: &str) -> Keyed {
    let key = IdempotencyKey::parse(key).unwrap();
    Keyed {
        key,
        fingerprint: Fingerprinting::of("test").field("meant", meant.as_bytes()).end(),
        served: Vec::new(),
    }
}

fn under(customer_id: &CustomerId, key: &str, meant: &str) -> Acceptance {
    Acceptance { keyed: Some(keyed(key, meant)), ..message(customer_id, &[A]) }
}

fn mailboxes(to: &[&str]) -> Vec<Mailbox> {
    to.iter().map(|to| mailbox(to)).collect()
}

/// For these, a credit each, since those have it already.
fn rest(customer_id: &CustomerId, to: &[&str], served: &[&str]) -> Acceptance {
    let keyed = Keyed { served: mailboxes(served), ..keyed("k", "hello") };
    Acceptance { keyed: Some(keyed), ..per_recipient(customer_id, to) }
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
    store.suspend(&ann, "spam").await.unwrap();
    assert_eq!(
        store.accept(under(&ann, "k", "hello")).await.unwrap(),
        Accepted::Suspended("spam".to_owned())
    );
    store.resume(&ann, at(1)).await.unwrap();
    read_balance(&store, &ann, 5).await;
    let first = accepted(&store, under(&ann, "k", "another one now")).await;
    // Neither an empty account nor a suspension makes what was accepted undone.
    read_balance(&store, &ann, 0).await;
    store.suspend(&ann, "spam").await.unwrap();
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
        async move { store.earlier(&ann, &keyed("k", meant), &mailboxes(&[A]), at(seconds)).await.unwrap() }
    };
    let new = Earlier::Rest { served: Vec::new() };
    assert_eq!(look("hello", 0).await, new);
    let first = accepted(&store, under(&ann, "k", "hello")).await;
    let same = Earlier::Same { message_id: first.message_id.clone(), available: Some(credits(8)) };
    assert_eq!(look("hello", DAY_S - 1).await, same);
    assert_eq!(look("bye", 0).await, Earlier::Other);
    assert_eq!(look("hello", DAY_S).await, new);
    let nobody = store.earlier(&id("bob"), &keyed("k", "hello"), &mailboxes(&[A]), at(0)).await;
    assert_eq!(nobody.unwrap(), new);
    let partly = store.earlier(&ann, &keyed("k", "hello"), &mailboxes(&["b@y.example", A]), at(0)).await;
    assert_eq!(partly.unwrap(), Earlier::Rest { served: mailboxes(&[A]) });
}

const B: &str = "b@y.example";
const C: &str = "c@y.example";

#[tokio::test]
async fn p3_those_who_are_left_are_accepted_and_nobody_twice() {
    let (store, directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let first = accepted(&store, rest(&ann, &[A], &[])).await;
    for stale in [rest(&ann, &[A, B], &[]), rest(&ann, &[B], &[A, C]), rest(&ann, &[B], &[C])] {
        assert_eq!(store.accept(stale).await.unwrap(), Accepted::Overtaken);
    }
    let second = accepted(&store, rest(&ann, &[B, C], &[A])).await;
    drop(store);
    let store = reopened(&directory).await;
    for (again, answered) in [
        (rest(&ann, &[A], &[]), &first),
        (rest(&ann, &[C], &[]), &second),
        (rest(&ann, &[C, A], &[B]), &second),
    ] {
        assert_eq!(store.accept(again).await.unwrap(), before(answered, 6));
    }
    let other = Acceptance { keyed: Some(keyed("k", "bye")), ..message(&ann, &["d@y.example"]) };
    assert_eq!(store.accept(other).await.unwrap(), Accepted::KeyReused);
    assert_eq!((messages(&store).await, sums(&store, &ann).await), (2, (Some(9), 3, 0)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_p3_of_one_commit_each_recipient_is_one_members() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(3)).await;
    accepted(&store, rest(&ann, &[A], &[])).await;
    let asked = vec![
        rest(&ann, &[B], &[A]),
        rest(&ann, &[B, C], &[A]),
        rest(&ann, &[B], &[A]),
        rest(&ann, &[C, "d@y.example"], &[B]),
        rest(&ann, &[C], &[A, B]),
    ];
    let (first, last) = (asked[0].clone(), asked[4].clone());
    let answers: Vec<_> = together(&store, asked).await.into_iter().map(Result::unwrap).collect();
    let yes = |left| Accepted::Yes { available: Some(credits(left)), low: false };
    let poor = Accepted::OutOfCredit;
    assert_eq!(answers, [yes(1), Accepted::Overtaken, before(&first, 1), poor, yes(0)]);
    assert_eq!(store.accept(rest(&ann, &[A, B, C], &[])).await.unwrap(), before(&last, 0));
    assert_eq!((messages(&store).await, sums(&store, &ann).await), (3, (Some(3), 3, 0)));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_key_lives_for_a_day_after_the_last_acceptance_under_it() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let first = accepted(&store, rest(&ann, &[A], &[])).await;
    let second = accepted(&store, later(rest(&ann, &[B], &[A]), DAY_S - 1)).await;
    let again = |to: &[&str], seconds| store.accept(later(rest(&ann, to, &[]), seconds));
    assert_eq!(again(&[A], 2 * DAY_S - 2).await.unwrap(), before(&first, 7));
    assert_eq!(again(&[A, B], 2 * DAY_S - 2).await.unwrap(), before(&second, 7));
    // Decided on what was so a moment ago.
    let stale = store.accept(later(rest(&ann, &[C], &[A]), 2 * DAY_S - 1)).await;
    assert_eq!(stale.unwrap(), Accepted::Overtaken);
    let third = accepted(&store, later(rest(&ann, &[A], &[]), 2 * DAY_S - 1)).await;
    assert_eq!(again(&[A], 2 * DAY_S).await.unwrap(), before(&third, 6));
    assert_eq!(count(&store, "SELECT count(*) FROM idempotency_recipient").await, 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_stood_under_a_key_before_the_upgrade_stands_under_it_still() {
    let (store, directory) = store_in_a_file().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let first = accepted(&store, rest(&ann, &[A, B], &[])).await;
    for undone in [
        "CREATE TABLE before AS SELECT k.*, r.message_id FROM idempotency_key k
            JOIN idempotency_recipient r USING (customer_id, key) GROUP BY customer_id, key",
        "DROP TABLE idempotency_recipient",
        "DROP TABLE idempotency_key",
        include_str!("../migrations/sqlite/0003_idempotency.sql"),
        "INSERT INTO idempotency_key SELECT customer_id, key, fingerprint, message_id, expires_at FROM before",
        "DROP TABLE before",
        "DELETE FROM _sqlx_migrations WHERE version = 6",
    ] {
        execute(&store, undone).await.unwrap();
    }
    drop(store);
    let store = reopened_file(&directory).await;
    assert_audit(&store).await;
    assert_eq!(store.accept(rest(&ann, &[B], &[])).await.unwrap(), before(&first, 7));
    accepted(&store, rest(&ann, &[C], &[A, B])).await;
    assert_audit(&store).await;
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
        assert_audit(&store).await;
    }
    assert_eq!(swept, [4, 4, 2, 0], "each a key and a recipient");
    assert_eq!(count(&store, "SELECT count(*) FROM idempotency_key").await, 2);
    let kept = store.earlier(&ann, &keyed("k6", "hello"), &mailboxes(&[A]), at(DAY_S)).await.unwrap();
    assert!(matches!(kept, Earlier::Same { .. }), "{kept:?}");
}

#[tokio::test]
async fn a_key_that_served_many_is_swept_in_small_steps_too() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    accepted(&store, rest(&ann, &[A, B, C], &[])).await;
    let mut swept = Vec::new();
    for _ in 0..3 {
        swept.push(store.sweep_keys(at(DAY_S), 2).await.unwrap());
        assert_audit(&store).await;
    }
    assert_eq!(swept, [2, 2, 0], "two recipients; the third and the key");
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
