//! What a credential may send at most, and when it was used last.

use super::*;
use crate::domain::caps::{Caps, Reached, Span};
use crate::domain::credential::Secret;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::domain::ids::Username;
use crate::store::customer::Credential;

/// A credential of that name with these caps.
async fn credential(store: &Store, customer_id: &CustomerId, name: &str, caps: Caps) -> Username {
    let credential = Credential {
        username: Username::parse(name).unwrap(),
        customer_id: customer_id.clone(),
        label: None,
        created_at: at(0),
        revoked_at: None,
        caps,
        last_used_at: None,
    };
    store.add_credential(&credential, &Secret::presented(name).hash()).await.unwrap();
    credential.username
}

/// A message that it brings at that second.
fn by(username: &Username, customer_id: &CustomerId, second: i64) -> Acceptance {
    let message = message(customer_id, &["a@y.example"]);
    Acceptance { username: Some(username.clone()), accepted_at: at(second), ..message }
}

fn yes(answer: &Accepted) -> bool {
    matches!(answer, Accepted::Yes { .. })
}

const fn per_day(cap: u32) -> Caps {
    Caps { per_day: Some(cap), per_minute: None }
}

#[tokio::test]
async fn p9_a_cap_refuses_what_is_more_says_until_when_and_is_over_then() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(100)).await;
    let both = Caps { per_day: Some(3), per_minute: Some(2) };
    let capped = credential(&store, &ann, "pm-capped", both).await;
    let free = credential(&store, &ann, "pm-free", Caps::default()).await;
    // at(0) is 08:00 of a day.
    assert_eq!(at(0).to_string(), "2027-01-15T08:00:00Z");
    let minute = Accepted::Capped(Reached { limit: 2, span: Span::Minute, retry_after_s: 58 });
    let day = Accepted::Capped(Reached { limit: 3, span: Span::Day, retry_after_s: 57_539 });
    for (second, want) in [(0, None), (1, None), (2, Some(&minute)), (60, None), (61, Some(&day))] {
        let answer = store.accept(by(&capped, &ann, second)).await.unwrap();
        assert_eq!(
            (yes(&answer), want.is_none_or(|want| *want == answer)),
            (want.is_none(), true),
            "{answer:?}"
        );
    }
    for _ in 0..5 {
        accepted(&store, by(&free, &ann, 61)).await;
    }
    accepted(&store, by(&capped, &ann, 57_600)).await;
    assert_eq!(sums(&store, &ann).await, (Some(100), 9, 0), "what was refused costs nothing");
    assert_audit(&store).await;
}

#[tokio::test]
async fn members_of_one_commit_are_counted_one_by_one() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(2)).await;
    let first = credential(&store, &ann, "pm-1", per_day(1)).await;
    let second = credential(&store, &ann, "pm-2", per_day(9)).await;
    let asked = [&first, &first, &second, &second, &second].map(|by_whom| by(by_whom, &ann, 0));
    let answers = together(&store, asked.into()).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(yes(&answers[0]) && matches!(answers[1], Accepted::Capped(_)), "{answers:?}");
    assert!(
        yes(&answers[2]) && answers[3..] == [Accepted::OutOfCredit, Accepted::OutOfCredit],
        "{answers:?}"
    );
    // Who was refused for want of credit has sent nothing.
    let standing = store.standing(&second).await.unwrap().unwrap();
    assert_eq!((standing.tally.in_day, standing.tally.in_minute), (1, 1));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_retry_under_its_key_is_answered_as_the_first_time_though_the_cap_is_reached() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let capped = credential(&store, &ann, "pm-1", per_day(1)).await;
    let key = || Keyed {
        key: IdempotencyKey::parse("k").unwrap(),
        fingerprint: Fingerprinting::of("test").end(),
        served: Vec::new(),
    };
    let first = accepted(&store, Acceptance { keyed: Some(key()), ..by(&capped, &ann, 0) }).await;
    let again = store.accept(Acceptance { keyed: Some(key()), ..by(&capped, &ann, 1) }).await.unwrap();
    assert!(
        matches!(&again, Accepted::Before { message_id, .. } if *message_id == first.message_id),
        "{again:?}"
    );
    assert!(matches!(store.accept(by(&capped, &ann, 1)).await.unwrap(), Accepted::Capped(_)));
}

#[tokio::test]
async fn of_two_servers_that_take_mail_at_once_no_more_is_taken_than_the_cap_and_no_less() {
    const CAP: u32 = 20;
    let (one, directory) = store().await;
    let two = Store::open(&settings(&directory.0, Maker::Command), Metrics::new()).await.unwrap();
    let ann = customer(&one, "ann", Some(1_000)).await;
    let capped = credential(&one, &ann, "pm-1", per_day(CAP)).await;
    let asking: Vec<_> = (0..60)
        .map(|nth| {
            let store = if nth % 2 == 0 { one.clone() } else { two.clone() };
            let asked = by(&capped, &ann, nth);
            tokio::spawn(async move {
                loop {
                    match store.accept(asked.clone()).await {
                        Err(StoreError::Contended(_)) => {}
                        answer => break answer.unwrap(),
                    }
                }
            })
        })
        .collect();
    let mut taken = 0;
    for answer in asking {
        taken += u32::from(yes(&answer.await.unwrap()));
    }
    assert_eq!(taken, CAP);
    assert_eq!(sums(&two, &ann).await, (Some(1_000), u64::from(CAP), 0));
    assert_audit(&one).await;
}

#[tokio::test]
async fn that_a_credential_was_used_is_noted_once_an_hour() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let own = credential(&store, &ann, "pm-1", Caps::default()).await;
    let last = async || store.credentials(Some(&ann)).await.unwrap().remove(0).last_used_at;
    assert_eq!(last().await, None);
    // What is noted is seen as soon as it is.
    let noted = async |now, want| {
        let standing = store.standing(&own).await.unwrap().unwrap();
        store.note_use(&standing, now);
        let seen = async { while last().await != Some(want) {} };
        tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the use to be noted");
    };
    noted(at(0), at(0)).await;
    noted(at(3_599), at(0)).await;
    noted(at(3_600), at(3_600)).await;
    assert_audit(&store).await;
}
