//! Claims to domains: who has one, what it gives, and that its end takes just that.

use super::*;
use crate::domain::address::Domain;
use crate::domain::proof::{Claim, Finding, Origin, ProofState, Way};
use crate::domain::sender::SenderPattern;
use crate::store::customer::ChangeError;
use crate::store::proof::{Changed, Claimed, NewProof, Proof, Told};

fn new(customer_id: &CustomerId, domain: &str, way: Way) -> NewProof {
    NewProof {
        customer_id: customer_id.clone(),
        domain: Domain::parse(domain).unwrap(),
        way,
        token: (way == Way::Dns).then(|| format!("token of {customer_id}")),
        limit: 3,
    }
}

async fn claimed(store: &Store, customer_id: &CustomerId, domain: &str, way: Way) -> Proof {
    match store.claim_domain(&new(customer_id, domain, way), at(0)).await.unwrap() {
        Claimed::New(proof) => proof,
        other => panic!("{other:?}"),
    }
}

async fn found(store: &Store, was: &Proof, finding: Finding) -> Changed {
    let claim = was.claim.after(finding, at(5)).unwrap();
    store.change_proof(was, claim, was.told.clone(), at(5)).await.unwrap()
}

async fn verified(store: &Store, customer_id: &CustomerId, domain: &str) -> Proof {
    let was = claimed(store, customer_id, domain, Way::Dns).await;
    match found(store, &was, Finding::Proven).await {
        Changed::Done(proof) => proof,
        other => panic!("{other:?}"),
    }
}

/// The list of a customer, as `pattern origin`.
async fn lines(store: &Store, customer_id: &CustomerId) -> Vec<String> {
    let lines = store.sender_lines(customer_id).await.unwrap();
    lines.iter().map(|line| format!("{} {}", line.pattern, line.origin.as_str())).collect()
}

/// A claim of theirs that is read in every way.
pub(super) async fn of_one(store: &Store, customer_id: &CustomerId, domain: &str) {
    let proof = claimed(store, customer_id, domain, Way::Dns).await;
    let domain = Domain::parse(domain).unwrap();
    assert_eq!(store.proof(customer_id, &domain).await.unwrap().map(|found| found.token), Some(proof.token));
    assert_eq!(store.proofs(customer_id).await.unwrap().len(), 1);
    store.due_proofs(at(9), 9).await.unwrap();
}

/// For the audit: a claim that is pending, and one that is verified.
pub(super) async fn of_every_kind(store: &Store) {
    let customer_id = customer(store, "prover", None).await;
    claimed(store, &customer_id, "pending.example", Way::Resend).await;
    verified(store, &customer_id, "verified.example").await;
}

#[tokio::test]
async fn a_proof_gives_one_line_and_takes_exactly_that_one_back() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    let own = SenderPattern::parse("own.example").unwrap();
    store.allow_sender(&ann, &own, at(0)).await.unwrap();
    let mut proofs = Vec::new();
    for domain in ["own.example", "proven.example"] {
        proofs.push(verified(&store, &ann, domain).await);
    }
    assert_eq!(lines(&store, &ann).await, ["own.example operator", "proven.example proof"]);
    assert_audit(&store).await;
    for proof in &proofs {
        let Changed::Done(lost) = found(&store, proof, Finding::Gone).await else { panic!("lost") };
        assert_eq!(lost.claim.state, ProofState::Lost);
        assert_eq!(store.proof(&ann, &proof.domain).await.unwrap(), Some(lost));
    }
    assert_eq!(lines(&store, &ann).await, ["own.example operator"]);
    assert_audit(&store).await;
    for proof in store.proofs(&ann).await.unwrap() {
        assert!(matches!(found(&store, &proof, Finding::Proven).await, Changed::Done(_)));
    }
    let proven = SenderPattern::parse("proven.example").unwrap();
    store.allow_sender(&ann, &proven, at(6)).await.unwrap();
    for proof in store.proofs(&ann).await.unwrap() {
        assert!(store.forget_proof(&proof).await.unwrap());
        assert!(!store.forget_proof(&proof).await.unwrap(), "once");
    }
    assert_eq!(lines(&store, &ann).await, ["own.example operator", "proven.example operator"]);
    assert_audit(&store).await;
}

#[tokio::test]
async fn at_resend_a_domain_is_claimed_by_one_and_in_dns_by_many_but_verified_for_one() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", None).await, customer(&store, "bob", None).await);
    let at_resend = claimed(&store, &ann, "r.example", Way::Resend).await;
    assert_eq!(at_resend.claim.state, ProofState::Adding);
    let claim = |who, domain, way| {
        let (store, new) = (&store, new(who, domain, way));
        async move { store.claim_domain(&new, at(1)).await.unwrap() }
    };
    assert_eq!(claim(&bob, "r.example", Way::Resend).await, Claimed::Taken);
    assert_eq!(claim(&ann, "r.example", Way::Resend).await, Claimed::Known(at_resend));
    let anns = claimed(&store, &ann, "d.example", Way::Dns).await;
    let bobs = claimed(&store, &bob, "d.example", Way::Dns).await;
    let Changed::Done(anns) = found(&store, &anns, Finding::Proven).await else { panic!("hers") };
    assert_eq!(found(&store, &bobs, Finding::Proven).await, Changed::OwnedBy(anns.clone()));
    assert_eq!(lines(&store, &bob).await, Vec::<String>::new());
    assert_eq!(
        claim(&bob, "d2.example", Way::Resend).await,
        Claimed::New({
            Proof {
                created_at: at(1),
                claim: Claim::new(ProofState::Adding, at(1)),
                ..store.proofs(&bob).await.unwrap()[1].clone()
            }
        })
    );
    assert!(matches!(found(&store, &anns, Finding::Gone).await, Changed::Done(_)));
    assert!(matches!(found(&store, &bobs, Finding::Proven).await, Changed::Done(_)));
    assert_eq!(found(&store, &anns, Finding::Gone).await, Changed::Overtaken);
    assert_eq!(
        claim(&ann, "third.example", Way::Dns).await,
        Claimed::New(store.proofs(&ann).await.unwrap()[2].clone())
    );
    assert_eq!(claim(&ann, "fourth.example", Way::Dns).await, Claimed::TooMany);
    assert_audit(&store).await;
}

#[tokio::test]
async fn what_the_operator_denies_is_not_claimed_again_until_it_is_allowed() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    let proof = verified(&store, &ann, "x.example").await;
    let pattern = SenderPattern::parse("x.example").unwrap();
    store.deny_sender(&ann, &pattern).await.unwrap();
    assert_eq!(lines(&store, &ann).await, Vec::<String>::new());
    let Claimed::Known(denied) = store.claim_domain(&new(&ann, "x.example", Way::Dns), at(9)).await.unwrap()
    else {
        panic!("it is there")
    };
    assert_eq!(denied.claim.state, ProofState::Denied);
    assert_eq!(found(&store, &proof, Finding::Proven).await, Changed::Overtaken);
    assert_audit(&store).await;
    let again = store.deny_sender(&ann, &pattern).await;
    assert!(matches!(again, Err(ChangeError::NoSender(_))), "{again:?}");
    store.allow_sender(&ann, &pattern, at(9)).await.unwrap();
    assert_eq!(lines(&store, &ann).await, ["x.example operator"]);
    assert_eq!(store.proof(&ann, &proof.domain).await.unwrap(), None);
    claimed(&store, &ann, "x.example", Way::Dns).await;
    assert_eq!(store.sender_lines(&ann).await.unwrap()[0].origin, Origin::Operator);
}

#[tokio::test]
async fn claims_are_due_when_they_say_so_and_sooner_after_a_hint() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", None).await;
    let was = claimed(&store, &ann, "x.example", Way::Resend).await;
    assert_eq!(store.due_proofs(at(0), 9).await.unwrap(), []);
    let end = was.claim.expires_at.unwrap();
    assert_eq!(store.due_proofs(end, 9).await.unwrap(), std::slice::from_ref(&was));
    let told = Told { resend_id: Some("r-1".to_owned()), ..Told::default() };
    let claim = Claim { state: ProofState::Pending, ..was.claim };
    let Changed::Done(pending) = store.change_proof(&was, claim, told, at(1)).await.unwrap() else {
        panic!("pending")
    };
    assert!(!store.hasten_proof("r-2", at(3)).await.unwrap());
    assert!(store.hasten_proof("r-1", at(3)).await.unwrap());
    let claim = Claim { next_check_at: Some(at(3)), ..pending.claim };
    assert_eq!(store.due_proofs(at(3), 9).await.unwrap(), [Proof { claim, ..pending }]);
}
