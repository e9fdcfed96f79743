//! The way in: checkouts, sessions, mailed links, alerts and what customers are told of.

use jiff::SignedDuration;

use super::*;
use crate::domain::alert::AlertKind;
use crate::domain::ids::Username;
use crate::store::alert::Alert;
use crate::store::checkout::{Checkout, NewCheckout, Payment};
use crate::store::session::{NewSession, PageSession};
use crate::store::sign_in_link::{LINK_LIFETIME, NewLink};

/// Begins a checkout by this token's hash, in the browser whose secret has the same.
pub(super) async fn begun(store: &Store, token_hash: &str, second: i64) {
    let new = NewCheckout { token_hash, browser_hash: token_hash, product_id: "pdt_plan" };
    store.begin_checkout(&new, at(second)).await.unwrap();
}

/// Something in every table of the way in, for a customer with the credential `pm-1`.
pub(super) async fn of_every_kind(store: &Store, ann: &CustomerId) {
    let username = Some(Username::parse("pm-1").unwrap());
    let by_credential = PageSession { customer_id: ann.clone(), username };
    store.begin_session(&session('1', 0), &by_credential).await.unwrap();
    let link = NewLink { link_hash: "2".repeat(64), customer_id: ann.clone() };
    assert!(store.mail_links(&[link], &notice(ann), at(0)).await.unwrap());
    assert!(store.raise_alert(&alert(ann, "ref_1"), false).await.unwrap().is_some());
    assert!(store.out_of_credit_notice(ann, None, at(0)).await.unwrap());
}

fn session(digit: char, second: i64) -> NewSession {
    let session_hash = digit.to_string().repeat(64);
    NewSession { session_hash, begun_at: at(second), expires_at: at(second + 100) }
}

fn alert(customer_id: &CustomerId, subject_id: &str) -> Alert {
    Alert {
        kind: AlertKind::Refund,
        subject_id: subject_id.to_owned(),
        customer_id: customer_id.clone(),
        payment_id: Some("pay_1".to_owned()),
        words: "1900 USD".to_owned(),
        suspended: false,
        raised_at: at(7),
    }
}

fn notice(customer_id: &CustomerId) -> Acceptance {
    Acceptance {
        kind: Kind::Notice,
        price: Credits::ZERO,
        reverse_path: ReversePath::Null,
        lease_until: None,
        ..message(customer_id, &["ann@y.example"])
    }
}

async fn notices(store: &Store) -> i64 {
    count(store, "SELECT count(*) FROM message WHERE kind = 'notice'").await
}

#[tokio::test]
async fn of_several_who_want_to_ask_of_a_checkout_one_does() {
    let (store, _directory) = store().await;
    let token = "a".repeat(64);
    begun(&store, &token, 0).await;
    let (day, each) = (SignedDuration::from_hours(24), SignedDuration::from_secs(60));
    let asks = async |second| store.ask_of_checkout(&token, each, at(second)).await.unwrap();
    let due = async |second| store.checkouts_to_ask((day, each), at(second), 9).await.unwrap().len();
    assert_eq!((asks(61).await, due(61).await), (None, 0), "Dodo has no session of it yet");
    store.set_checkout_session(&token, "cks_1").await.unwrap();
    assert_eq!((due(59).await, due(61).await), (0, 1));
    let (one, other) = tokio::join!(asks(61), asks(61));
    assert_eq!([one, other].into_iter().flatten().collect::<Vec<_>>(), ["cks_1"]);
    assert_eq!((asks(120).await, due(120).await), (None, 0));
    // Again when it is twice as old, and so on; whoever waits for it may ask sooner.
    assert_eq!((due(121).await, due(122).await), (0, 1));
    assert_eq!((asks(122).await.as_deref(), due(243).await, due(244).await), (Some("cks_1"), 0, 1));
    assert_eq!(due(24 * 3600 + 61).await, 0, "it is too old");
    let payment = Payment {
        payment_id: None,
        customer_id: id("new"),
        email: None,
        name: None,
        token_hash: Some(token.clone()),
        starter: None,
        welcome: None,
        received: None,
    };
    store.record_payment(&payment, at(200)).await.unwrap();
    assert_eq!((due(999).await, asks(999).await), (0, None), "it is not pending any more");
    let begun = store.checkout(&token).await.unwrap().unwrap();
    assert_eq!(begun.state, Checkout::Paid(id("new")));
    assert_eq!((begun.browser_hash.as_ref(), begun.product_id.as_deref()), (Some(&token), Some("pdt_plan")));
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_payment_has_one_letter_however_often_it_is_told() {
    let (store, _directory) = store().await;
    let payment = |payment_id: Option<&str>| Payment {
        payment_id: payment_id.map(str::to_owned),
        customer_id: id("new"),
        email: Some("new@y.example".to_owned()),
        name: None,
        token_hash: None,
        starter: None,
        welcome: Some(notice(&id("new"))),
        received: Some(notice(&id("new"))),
    };
    let told = async |payment_id| {
        let (one, other) = (payment(payment_id), payment(payment_id));
        let (one, other) =
            tokio::join!(store.record_payment(&one, at(1)), store.record_payment(&other, at(1)));
        (usize::from(one.unwrap()) + usize::from(other.unwrap()), notices(&store).await)
    };
    assert_eq!(told(Some("pay_1")).await, (1, 1), "the welcome");
    assert_eq!(told(Some("pay_1")).await, (0, 1), "the same payment is no top-up");
    assert_eq!(told(Some("pay_2")).await, (0, 2), "one more payment");
    assert_eq!(told(None).await, (0, 2), "nobody knows which that is");
    assert_eq!(store.forget_told(at(0)).await.unwrap(), 0);
    assert_eq!(store.forget_told(at(1)).await.unwrap(), 2);
    assert_audit(&store).await;
}

#[tokio::test]
async fn no_credit_is_told_once_until_there_is_more() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(0)).await;
    let told = async || {
        let (one, other) = (notice(&ann), notice(&ann));
        let (one, other) = tokio::join!(
            store.out_of_credit_notice(&ann, Some(&one), at(1)),
            store.out_of_credit_notice(&ann, Some(&other), at(1))
        );
        (usize::from(one.unwrap()) + usize::from(other.unwrap()), notices(&store).await)
    };
    assert_eq!(told().await, (1, 1));
    assert_eq!(told().await, (0, 1));
    read_balance(&store, &ann, 0).await;
    assert_eq!(told().await, (0, 1), "it is not more");
    read_balance(&store, &ann, 5).await;
    assert!(!store.is_told_out_of_credit(&ann).await.unwrap());
    assert_eq!(told().await, (1, 2));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p10_a_session_lasts_until_it_is_ended_here_or_everywhere() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", None).await, customer(&store, "bob", None).await);
    let of = |customer_id: &CustomerId| PageSession { customer_id: customer_id.clone(), username: None };
    for (digit, whose) in [('1', &ann), ('2', &ann), ('3', &bob)] {
        store.begin_session(&session(digit, 0), &of(whose)).await.unwrap();
    }
    let who = async |digit: char, second| {
        let found = store.session(&digit.to_string().repeat(64), at(second)).await.unwrap();
        found.map(|session| session.customer_id)
    };
    assert_eq!((who('1', 99).await, who('1', 100).await), (Some(ann.clone()), None), "it is over");
    let standing = store.standing_of(&ann).await.unwrap().unwrap();
    assert_eq!((standing.username, standing.customer_id), (None, ann.clone()), "without any credential");
    assert!(store.standing_of(&id("nobody")).await.unwrap().is_none());
    store.end_session(&"1".repeat(64)).await.unwrap();
    assert_eq!((who('1', 1).await, who('2', 1).await), (None, Some(ann.clone())));
    assert_eq!(store.end_sessions(&ann).await.unwrap(), 1);
    assert_eq!((who('2', 1).await, who('3', 1).await), (None, Some(bob.clone())));
    assert_eq!(store.sweep_sessions(at(99)).await.unwrap(), 0);
    assert_eq!(store.sweep_sessions(at(100)).await.unwrap(), 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn who_begins_many_sessions_ends_the_oldest() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    let who = PageSession { customer_id: ann, username: None };
    for nth in 0..53 {
        let session_hash = format!("{nth:064}");
        let new = NewSession { session_hash, begun_at: at(nth), expires_at: at(nth + 100) };
        store.begin_session(&new, &who).await.unwrap();
    }
    assert_eq!(count(&store, "SELECT count(*) FROM session").await, 50);
    let oldest = async |nth: i64| store.session(&format!("{nth:064}"), at(60)).await.unwrap().is_some();
    assert_eq!((oldest(2).await, oldest(3).await), (false, true));
}

#[tokio::test]
async fn p10_a_mailed_link_signs_in_once_and_soon() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", None).await, customer(&store, "bob", None).await);
    let link = |digit: char, whose: &CustomerId| NewLink {
        link_hash: digit.to_string().repeat(64),
        customer_id: whose.clone(),
    };
    let mailed =
        async |links: &[NewLink], second| store.mail_links(links, &notice(&ann), at(second)).await.unwrap();
    assert!(mailed(&[link('1', &ann), link('2', &bob)], 0).await, "both have one address");
    assert!(mailed(&[link('3', &ann)], 0).await && mailed(&[link('4', &ann)], 0).await);
    assert!(!mailed(&[link('5', &bob), link('6', &ann)], 1).await, "ann has three under way");
    assert_eq!((notices(&store).await, store.sign_in_link(&"5".repeat(64), at(1)).await.unwrap()), (3, None));

    let is_there = async |digit: char, second| {
        store.sign_in_link(&digit.to_string().repeat(64), at(second)).await.unwrap().is_some()
    };
    let minutes = LINK_LIFETIME.as_secs();
    assert!(is_there('1', minutes - 1).await && !is_there('1', minutes).await);
    assert!(is_there('1', 1).await, "looking uses nothing up");
    let first = "1".repeat(64);
    let (one, other) = (session('1', 1), session('2', 1));
    let (one, other) =
        tokio::join!(store.use_sign_in_link(&first, &one), store.use_sign_in_link(&first, &other));
    let used: Vec<_> = [one.unwrap(), other.unwrap()].into_iter().flatten().collect();
    assert_eq!(used, std::slice::from_ref(&ann), "one of two servers");
    assert_eq!(count(&store, "SELECT count(*) FROM session").await, 1);
    assert!(!is_there('3', 1).await && !is_there('4', 1).await, "the others of ann went with it");
    let late = session('3', minutes);
    assert_eq!(store.use_sign_in_link(&"2".repeat(64), &late).await.unwrap(), None, "bob's is over");
    assert_eq!(store.end_sessions(&ann).await.unwrap(), 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p10_an_address_is_found_whatever_its_case_and_written_to_as_it_is_known() {
    let (store, _directory) = store().await;
    for (nth, email) in ["Ann@Y.example", "ann@y.example", "bob@y.example"].into_iter().enumerate() {
        let customer_id = id(&format!("c{nth}"));
        store.add_customer(&customer_id, Some(email), None, at(0)).await.unwrap();
    }
    let found = async |email: &str| -> Vec<String> {
        store.customers_at(email).await.unwrap().into_iter().map(|of| of.email).collect()
    };
    assert_eq!(found("ANN@y.example").await, ["Ann@Y.example", "ann@y.example"]);
    assert_eq!(found("%@y.example").await, Vec::<String>::new());
    // No letter of ASCII, whatever Unicode makes of it in lower case.
    assert_eq!(found("bob@y.example\u{212a}").await, Vec::<String>::new());
}

#[tokio::test]
async fn an_alert_is_raised_once_and_suspends_where_it_should() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    let raise = async |subject: &str, suspends| {
        store.raise_alert(&alert(&ann, subject), suspends).await.unwrap().map(|alert| alert.suspended)
    };
    let reason = async || store.customer(&ann).await.unwrap().unwrap().suspended_reason;
    assert_eq!((raise("ref_1", false).await, reason().await), (Some(false), None));
    assert_eq!((raise("ref_1", true).await, reason().await), (None, None), "it was raised before");
    assert_eq!(raise("ref_2", true).await, Some(true));
    assert_eq!(reason().await.as_deref(), Some("a payment was refunded"));
    store.resume(&ann, at(9)).await.unwrap();
    assert_eq!((raise("ref_2", true).await, reason().await), (None, None), "the operator has resumed them");
    let subjects: Vec<_> =
        store.alerts(Some(&ann), 9).await.unwrap().into_iter().map(|alert| alert.subject_id).collect();
    assert_eq!(subjects, ["ref_1", "ref_2"]);
    assert_eq!(store.alerts(Some(&id("bob")), 9).await.unwrap(), []);
    assert_eq!(store.alerts(None, 1).await.unwrap().len(), 1);
    assert_audit(&store).await;
}
