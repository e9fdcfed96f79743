use super::*;
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::store::customer::Credential;

#[tokio::test]
async fn p2_sixty_four_at_once_with_fifty_credits_are_exactly_fifty() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let asked = (0..64).map(|_| message(&ann, &["a@y.example"])).collect();
    let answers = together(&store, asked).await;
    let yes = answers.iter().filter(|answer| matches!(answer, Ok(Accepted::Yes { .. }))).count();
    let no = answers.iter().filter(|answer| matches!(answer, Ok(Accepted::OutOfCredit))).count();
    assert_eq!((yes, no), (50, 14));
    assert_eq!(sums(&store, &ann).await, (Some(50), 50, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p2_customers_of_one_batch_spend_only_their_own() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(2)).await, customer(&store, "bob", Some(1)).await);
    let new = customer(&store, "new", None).await;
    let to = ["a@y.example", "b@y.example"];
    let asked = vec![
        message(&ann, &to),
        message(&bob, &to),
        message(&new, &to),
        per_recipient(&ann, &to),
        message(&ann, &to),
        message(&bob, &to),
    ];
    let answers: Vec<_> = together(&store, asked).await.into_iter().map(Result::unwrap).collect();
    let yes = |left| Accepted::Yes { available: Some(credits(left)), low: false };
    let no = Accepted::OutOfCredit;
    assert_eq!(answers, [yes(1), yes(0), Accepted::BalanceUnknown, no.clone(), yes(0), no]);
    assert_audit(&store).await;
}

#[tokio::test]
async fn whoever_may_not_send_is_told_why() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(100)).await;
    let credential = Credential {
        username: Username::parse("pm-1").unwrap(),
        customer_id: ann.clone(),
        label: None,
        created_at: at(0),
        revoked_at: None,
        caps: Default::default(),
        last_used_at: None,
    };
    store.add_credential(&credential, &Secret::presented("s").hash()).await.unwrap();
    let ask =
        || Acceptance { username: Some(credential.username.clone()), ..message(&ann, &["a@y.example"]) };
    accepted(&store, ask()).await;
    store.suspend(&ann, "spam").await.unwrap();
    assert_eq!(store.accept(ask()).await.unwrap(), Accepted::Suspended("spam".to_owned()));
    store.resume(&ann, at(1)).await.unwrap();
    store.revoke_credential(&credential.username, None, at(1)).await.unwrap();
    assert_eq!(store.accept(ask()).await.unwrap(), Accepted::Revoked);
    assert_eq!(sums(&store, &ann).await, (Some(100), 1, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_debt_is_no_credit() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(1)).await;
    owe(&store, &ann).await;
    read_balance(&store, &ann, 0).await;
    assert_eq!(account(&store, &ann).await.available(), Some(-1));
    assert_eq!(store.accept(message(&ann, &["a@y.example"])).await.unwrap(), Accepted::OutOfCredit);
    let own = Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &["ann@y.example"]) };
    assert!(matches!(store.accept(own).await.unwrap(), Accepted::Yes { .. }), "our own mail is free");
    assert_audit(&store).await;
}

#[tokio::test]
async fn every_part_has_its_recipients_and_the_bytes() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let asked = Acceptance {
        parts: vec![by_resend("a@y.example"), by_resend("b@y.example")],
        lease_until: None,
        ..message(&ann, &[])
    };
    let asked = accepted(&store, asked).await;
    let due = store.due(at(0), &[Road::Resend], 10).await.unwrap();
    assert_eq!(due.len(), 2);
    assert_eq!(store.due(at(0), &[Road::Smtp], 10).await.unwrap(), []);
    for (due, to) in due.iter().zip(["a@y.example", "b@y.example"]) {
        let part = store.lease(due, at(0), at(30)).await.unwrap().unwrap();
        assert_eq!((part.recipients.as_slice(), &part.bytes), ([mailbox(to)].as_slice(), &asked.bytes));
        assert_eq!(part.attempt, 1);
    }
    assert_eq!(sums(&store, &ann).await, (Some(5), 1, 0), "one message, one credit");
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_member_that_cannot_be_written_fails_alone() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let known = accepted(&store, message(&ann, &["a@y.example"])).await;
    let mut asked: Vec<_> = (0..5).map(|_| message(&ann, &["a@y.example"])).collect();
    asked.insert(2, known);
    let answers = together(&store, asked).await;
    let failed: Vec<_> = answers.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, true, false, false, false]);
    assert_eq!(sums(&store, &ann).await, (Some(50), 6, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_whoever_hangs_up_during_the_commit_is_accepted_or_not_but_never_by_half() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for _ in 0..20 {
        let asking = store.accept(message(&ann, &["a@y.example"]));
        let _ = tokio::time::timeout(Duration::from_micros(200), asking).await;
    }
    accepted(&store, message(&ann, &["a@y.example"])).await;
    let messages = count(&store, "SELECT count(*) FROM message").await;
    assert_eq!(i64::try_from(sums(&store, &ann).await.1).unwrap(), messages);
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_low_balance_is_told_once_a_crossing() {
    let (store, _directory) = store().await;
    // The mark of these tests is 10.
    let ann = customer(&store, "ann", Some(5)).await;
    let low = |answer| matches!(answer, Accepted::Yes { low: true, .. });
    let send = || async { low(store.accept(message(&ann, &["a@y.example"])).await.unwrap()) };
    assert!(!send().await, "it never was above");
    read_balance(&store, &ann, 12).await;
    assert!(!send().await, "10 are left");
    assert!(send().await);
    assert!(send().await, "nobody has been told yet");
    let notice =
        || Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &["ann@y.example"]) };
    assert!(store.low_balance_notice(&notice()).await.unwrap());
    assert!(!store.low_balance_notice(&notice()).await.unwrap());
    assert!(!send().await);
    read_balance(&store, &ann, 100).await;
    assert!(!store.low_balance_notice(&notice()).await.unwrap(), "it is not low");
    let leave = store.begin_balance_read(&ann).await.unwrap().unwrap();
    assert!(store.apply_balance(&leave, 9, at(1)).await.unwrap().low, "armed again, crossed again");
    store.disarm_low_balance(&ann).await.unwrap();
    assert!(!store.low_balance_notice(&notice()).await.unwrap());
    assert_eq!(count(&store, "SELECT count(*) FROM message WHERE kind = 'notice'").await, 1);
    assert_audit(&store).await;
}
