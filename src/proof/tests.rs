//! What is ours at Resend and what is not, as it stands after a lost answer.

use jiff::Timestamp;
use secrecy::SecretString;

use super::*;
use crate::outbound::stand_in::{Given, StandIn};
use crate::submission::stand_in::{Directory, store};
use crate::upstream::resend::ResendSettings;

const NONE: Given = (200, &[], r#"{"data":[],"has_more":false}"#);
const LOST: Given = (500, &[], "");
const NOT_SAID: Given = (404, &[], "{}");

struct Town {
    proofs: Proofs,
    resend: StandIn,
    ann: CustomerId,
    _directory: Directory,
}

async fn town(answers: &[Given]) -> Town {
    let (store, directory) = store().await;
    let resend = StandIn::start(answers).await;
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse::<Timestamp>().unwrap());
    let client = Resend::new(&ResendSettings {
        base_url: resend.base_url.clone(),
        api_key: SecretString::from("re_key"),
        timeout: Duration::from_secs(5),
        clock: clock.clone(),
    });
    let ann = CustomerId::parse("cus_ann").unwrap();
    store.add_customer(&ann, None, None, clock.now()).await.unwrap();
    let quota = Quota { domains: 5, per_day: 2 };
    let proofs = Proofs::new(store, Asked::Resend(client.unwrap()), clock, quota, Metrics::new());
    Town { proofs, resend, ann, _directory: directory }
}

/// The list of domains, with one that is at Resend.
macro_rules! list {
    ($created:literal, $status:literal) => {
        (
            200,
            &[],
            concat!(
                r#"{"data":[{"id":"d-1","name":"shop.example","created_at":""#,
                $created,
                r#"","status":""#,
                $status,
                r#""}]}"#
            ),
        )
    };
}

const WHOLE: Given = (
    200,
    &[],
    r#"{"id":"d-1","name":"shop.example","status":"pending","records":[{"record":"X","name":"send","value":7}]}"#,
);

/// The registration whose answer is lost, and what the next try finds.
async fn tried_again(found: Given, then: &[Given]) -> (Result<(Proof, bool), NotDone>, Town) {
    let town = town(&[&[NONE, LOST, found], then].concat()).await;
    assert_eq!(town.proofs.add(&town.ann, "shop.example").await, Err(NotDone::Unavailable));
    (town.proofs.add(&town.ann, "shop.example").await, town)
}

#[tokio::test]
async fn what_a_lost_call_has_made_is_adopted_with_its_records_as_they_came() {
    let (made, town) = tried_again(list!("2026-09-01 12:00:01.5+00", "not_started"), &[WHOLE]).await;
    let (proof, is_new) = made.unwrap();
    assert_eq!((proof.claim.state, is_new), (ProofState::Pending, false));
    assert_eq!(proof.told.records.as_deref(), Some(r#"[{"name":"send","record":"X","value":7}]"#));
    let asked: Vec<_> = town.resend.asked().iter().map(|one| format!("{} {}", one.method, one.uri)).collect();
    let list = "GET /domains?limit=100";
    assert_eq!(asked, [list, "POST /domains", list, "GET /domains/d-1"]);
    town.proofs.show_counts().await;
    let metrics = town.proofs.0.metrics.encode();
    assert!(metrics.contains("postmeter_domains{state=\"pending\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn what_is_older_than_the_claim_or_verified_unseen_is_somebody_elses() {
    let registered: Given =
        (403, &[], r#"{"name":"validation_error","message":"has been registered already"}"#);
    let foreign: [Given; 2] =
        [list!("2026-08-01 00:00:00+00", "not_started"), list!("2026-09-01 12:00:01+00", "verified")];
    for found in foreign {
        let (made, town) = tried_again(found, &[registered, found]).await;
        assert_eq!(made, Err(NotDone::Registered));
        assert_eq!(town.proofs.find(&town.ann, "shop.example").await, Err(NotDone::NotThere));
    }
}

#[tokio::test]
async fn a_domain_that_was_there_before_is_refused_and_no_call_is_made_for_it() {
    let town = town(&[list!("2026-09-01 12:00:01+00", "pending"), NOT_SAID]).await;
    assert_eq!(town.proofs.add(&town.ann, "shop.example").await, Err(NotDone::Registered));
    assert_eq!(town.resend.asked().len(), 1);
    assert_eq!(town.proofs.add(&town.ann, "co.uk").await.unwrap_err().to_string().get(..5), Some("co.uk"));
    assert_eq!(town.proofs.add(&town.ann, "two.example").await, Err(NotDone::Unavailable));
    let third = town.proofs.add(&town.ann, "three.example").await;
    assert!(matches!(third, Err(NotDone::TooSoon { retry_after_s: 43_200 })), "{third:?}");
}
