use super::*;
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::domain::sender::SenderPattern;
use crate::store::checkout::{Checkout, Payment};
use crate::store::customer::Credential;

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart() {
    let (store, directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &["a@y.example"])).await;
    drop(store);
    let store = reopened(&directory).await;
    assert_eq!(store.lapse_all(at(9)).await.unwrap(), 1);
    let part = store.lease(&first_part(&message), at(9), at(39)).await.unwrap().unwrap();
    assert_eq!(part.bytes, message.bytes, "P1");
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_what_a_killed_process_left_in_the_log_is_written_once_more() {
    let (store, directory) = store_in_a_file().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, message(&ann, &["a@y.example"])).await;
    // What lies on the disk at a kill.
    let killed = Directory::new();
    make_private_dir(&killed.0).unwrap();
    let log = format!("{DATABASE_FILE}-wal");
    for name in [DATABASE_FILE, &log] {
        std::fs::copy(directory.0.join(name), killed.0.join(name)).unwrap();
    }
    let octets_of_log = || std::fs::metadata(killed.0.join(&log)).map_or(0, |file| file.len());
    assert!(octets_of_log() > 0);
    let store = reopened_file(&killed).await;
    assert_eq!(octets_of_log(), 0, "nothing depends on a log whose last sync may have failed");
    assert_eq!(store.lapse_all(at(9)).await.unwrap(), 1);
    assert!(store.lease(&first_part(&message), at(9), at(39)).await.unwrap().is_some());
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_database_of_the_sandbox_is_no_real_one() {
    let (store, directory) = store().await;
    drop(store);
    let refused = Store::open(&settings(&directory.0, Maker::Sandbox), Metrics::new()).await;
    assert!(matches!(&refused, Err(OpenError::MadeBy { .. })), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("was made by `postmeter serve`"));
}

#[tokio::test]
async fn the_first_credential_is_shown_once_and_only_to_the_browser_that_made_the_customer() {
    let (store, _directory) = store().await;
    let (paid, other) = ("a".repeat(64), "b".repeat(64));
    for token in [&paid, &other] {
        super::way_in::begun(&store, token, 0).await;
    }
    let payment = |token: &String| Payment {
        payment_id: None,
        customer_id: id("new"),
        email: Some("new@y.example".to_owned()),
        name: None,
        token_hash: Some(token.clone()),
        starter: Some(SenderPattern::parse("new@mail.example").unwrap()),
        welcome: None,
        received: None,
    };
    let state = async |token: &str| store.checkout(token).await.unwrap().map(|begun| begun.state);
    assert!(store.record_payment(&payment(&paid), at(1)).await.unwrap());
    assert!(!store.record_payment(&payment(&paid), at(1)).await.unwrap(), "webhooks come twice");
    assert!(!store.record_payment(&payment(&other), at(1)).await.unwrap(), "the same email, another browser");
    assert_eq!(state(&paid).await, Some(Checkout::Paid(id("new"))));
    assert_eq!(state(&other).await, Some(Checkout::Known(id("new"))));
    let claim = |name: &str| Credential {
        username: Username::parse(name).unwrap(),
        customer_id: id("new"),
        label: None,
        created_at: at(2),
        revoked_at: None,
        caps: Default::default(),
        last_used_at: None,
    };
    let hash = |text| Secret::presented(text).hash();
    assert!(!store.claim_checkout(&other, &claim("pm-0"), &hash("0")).await.unwrap());
    let (one, two) = (claim("pm-1"), claim("pm-2"));
    let (first, second) = (hash("1"), hash("2"));
    let (one, two) =
        tokio::join!(store.claim_checkout(&paid, &one, &first), store.claim_checkout(&paid, &two, &second));
    assert_ne!(one.unwrap(), two.unwrap(), "exactly one of two browser tabs");
    assert_eq!(state(&paid).await, Some(Checkout::Claimed(id("new"))));
    assert_eq!(store.credentials(Some(&id("new"))).await.unwrap().len(), 1);
    assert_audit(&store).await;
}
