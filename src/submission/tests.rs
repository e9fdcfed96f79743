use std::future::poll_fn;
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use super::stand_in::with_handover;
use super::*;
use crate::domain::envelope::Draft;

fn submitted() -> Submitted {
    let mut draft = Draft::new(ReversePath::parse("app@x.example").unwrap(), 9);
    draft.add(Mailbox::parse("a@y.example").unwrap());
    Submitted {
        begun: Begun { senders: vec![SenderPattern::Any], available: None },
        envelope: draft.seal().unwrap(),
        bytes: b"From: app@x.example\r\nTo: a@y.example\r\nSubject: Hello\r\n\r\nWorld\r\n".to_vec(),
        arrival: Arrival {
            protocol: "ESMTPSA",
            peer: "192.0.2.1:25".parse().unwrap(),
            helo: None,
            tls: None,
        },
        keyed: None,
    }
}

/// A customer with two credits who may send as anybody.
async fn signed_in(store: &Store) -> SignedIn {
    let customer_id = CustomerId::parse("ann").unwrap();
    let now = Clock::system().now();
    store.add_customer(&customer_id, None, None, now).await.unwrap();
    store.allow_sender(&customer_id, &SenderPattern::Any, now).await.unwrap();
    let leave = store.begin_balance_read(&customer_id).await.unwrap().unwrap();
    store.apply_balance(&leave, 2, now).await.unwrap();
    SignedIn { customer_id, username: Username::parse("pm-1").unwrap() }
}

#[tokio::test]
async fn p1_a_client_that_hangs_up_during_the_commit_has_its_mail_sent_at_once_all_the_same() {
    let mut config = Config::default();
    config.senders.policy = SenderPolicy::Any;
    let (submission, store, _directory, mut handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    let mut submitting = Box::pin(submission.submit(&who, submitted()));
    let waits = poll_fn(|context| Poll::Ready(submitting.as_mut().poll(context).is_pending())).await;
    assert!(waits, "for the commit");
    drop(submitting);
    let part = tokio::time::timeout(Duration::from_secs(10), handed.recv()).await.unwrap();
    assert_eq!(part.unwrap().part.recipients.len(), 1);
}

#[tokio::test]
async fn what_is_accepted_is_handed_over_leased_and_the_last_credit_is_the_last() {
    let (submission, store, _directory, mut handed) = with_handover(&Config::default()).await;
    let who = signed_in(&store).await;
    for left in [1, 0] {
        let accepted = submission.submit(&who, submitted()).await.unwrap();
        assert_eq!(accepted.available.map(Credits::get), Some(left));
        let handed = handed.try_recv().unwrap();
        assert_eq!((handed.part.message_id, handed.part.attempt), (accepted.message_id, 1));
    }
    let refused = submission.submit(&who, submitted()).await;
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "P8: {refused:?}");
    assert!(handed.try_recv().is_err());
    assert_eq!(store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn credit_at_rcpt_is_asked_for_only_beyond_what_was_found() {
    let config: Config = toml::from_str("[billing]\nunit = \"recipient\"").unwrap();
    let (submission, store, _directory, _handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    // Nobody is there to be asked: what is covered must be known.
    let mut begun = Begun { senders: Vec::new(), available: Some(Credits::new(5).unwrap()) };
    assert_eq!(submission.check_credit(&who, &begun, 5).await, Ok(None));
    let refused = submission.check_credit(&who, &begun, 6).await;
    assert!(matches!(refused, Err(Refusal::OutOfCredit { .. })), "{refused:?}");
    begun.available = Some(Credits::ONE);
    let found = submission.check_credit(&who, &begun, 2).await.unwrap().unwrap();
    begun.covers(found);
    assert_eq!(submission.check_credit(&who, &begun, 2).await, Ok(None));
    let by_message = Begun { senders: Vec::new(), available: None };
    assert_eq!(submission.check_credit(&who, &by_message, 50).await, Ok(None));
}

#[tokio::test]
async fn a_sweep_leaves_the_keys_that_have_not_expired_and_hears_the_stop() {
    let (submission, store, _directory, _handed) = with_handover(&Config::default()).await;
    let who = signed_in(&store).await;
    let bytes = [b"X-Postmeter-Idempotency-Key: k\r\n".as_slice(), &submitted().bytes].concat();
    let keyed = || Submitted { bytes: bytes.clone(), ..submitted() };
    let first = submission.submit(&who, keyed()).await.unwrap();
    assert_eq!(submission.submit(&who, keyed()).await.unwrap(), first);
    let stop = CancellationToken::new();
    stop.cancel();
    submission.clone().sweep_keys(stop).await;
    assert_eq!(submission.submit(&who, keyed()).await.unwrap(), first, "it has not expired");
    assert_eq!(store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_customer_who_sends_too_fast_is_told_when_to_come_again_and_others_are_not() {
    let config: Config = toml::from_str("[limits]\nmessages_per_s = 1\nmessages_burst = 2").unwrap();
    let (submission, store, _directory, _handed) = with_handover(&config).await;
    let who = signed_in(&store).await;
    let credential = |name: &str, customer_id: &CustomerId| crate::store::customer::Credential {
        username: Username::parse(name).unwrap(),
        customer_id: customer_id.clone(),
        label: None,
        created_at: Clock::system().now(),
        revoked_at: None,
    };
    let hash = |secret: &str| crate::domain::credential::Secret::presented(secret).hash();
    store.add_credential(&credential("pm-1", &who.customer_id), &hash("a")).await.unwrap();
    let bob = CustomerId::parse("bob").unwrap();
    store.add_customer(&bob, None, None, Clock::system().now()).await.unwrap();
    store.add_credential(&credential("pm-2", &bob), &hash("b")).await.unwrap();
    let from = ReversePath::parse("app@x.example").unwrap();
    let mut refused = 0;
    for _ in 0..9 {
        match submission.begin(&who, &from).await {
            Err(Refusal::TooFast { retry_after_s: 1 }) => refused += 1,
            answer => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
    // One more for each second that these nine may take.
    assert!((5..=7).contains(&refused), "{refused}");
    let bob = SignedIn { customer_id: bob, username: Username::parse("pm-2").unwrap() };
    let answer = submission.begin(&bob, &from).await;
    assert!(matches!(answer, Err(Refusal::SenderNotAllowed { .. })), "{answer:?}");
}
