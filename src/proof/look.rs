//! Looking at a domain, and what that comes to.

use super::dns::{self, Published};
use super::register::told;
use super::{Asked, NotDone, Proofs};
use crate::domain::proof::{Finding, ProofState, Way};
use crate::store::proof::{Changed, Proof, Told};
use crate::upstream::resend::Resend;
use crate::upstream::resend::domains::{DomainFault, Readiness};

/// What a look found.
struct Look {
    finding: Finding,
    told: Told,
    /// The tokens that are published, where DNS was asked.
    tokens: Vec<String>,
}

impl Proofs {
    /// Looks at a domain and writes down what it comes to; `None`: it is forgotten.
    pub(super) async fn look_at(&self, proof: Proof) -> Result<Option<Proof>, NotDone> {
        let look = match (&self.0.asked, proof.way) {
            (Asked::Dns(dns), Way::Dns) => look_in_dns(&proof, dns.look(&proof.domain).await),
            (Asked::Resend(resend), Way::Resend) => look_at_resend(&proof, resend).await,
            // It was claimed under another configuration: nothing is known of it.
            _ => Look { finding: Finding::Unknown, told: proof.told.clone(), tokens: Vec::new() },
        };
        self.conclude(proof, look).await
    }

    async fn conclude(&self, proof: Proof, mut look: Look) -> Result<Option<Proof>, NotDone> {
        let now = self.0.clock.now();
        // Twice: when it was another customer's, and is no more.
        for _ in 0..2 {
            let Some(claim) = proof.claim.after(look.finding, now) else {
                tracing::info!(customer_id = %proof.customer_id, domain = %proof.domain, "a domain is forgotten: it was not proven");
                return self.withdraw(&proof).await.map(|()| None);
            };
            match self.0.store.change_proof(&proof, claim, look.told.clone(), now).await? {
                Changed::Done(after) => {
                    tell(&proof, &after);
                    return Ok(Some(after));
                }
                Changed::Overtaken => return self.as_it_stands(&proof).await,
                Changed::OwnedBy(owner) => {
                    if !self.gives_way(&owner, &look).await? {
                        let held = "The record is there, and so is that of another account, which holds the domain. \
                                    Remove its record, and verify again.";
                        look.told.detail = Some(held.to_owned());
                        look.finding = Finding::Absent;
                    }
                }
            }
        }
        Err(NotDone::Busy)
    }

    /// What another look has written down meanwhile, which is as good.
    async fn as_it_stands(&self, proof: &Proof) -> Result<Option<Proof>, NotDone> {
        match self.0.store.proof(&proof.customer_id, &proof.domain).await? {
            Some(now) if now.claim.state == ProofState::Removing => Err(NotDone::Busy),
            now => Ok(now),
        }
    }

    /// Whether the owner of a domain loses it to whoever proves it now: who controls its
    /// DNS decides, so the owner's record must be gone in the answer that has the new one.
    async fn gives_way(&self, owner: &Proof, look: &Look) -> Result<bool, NotDone> {
        let is_there = owner.token.as_ref().is_none_or(|token| look.tokens.contains(token));
        // No token at all: DNS was not asked.
        if is_there || look.tokens.is_empty() {
            return Ok(false);
        }
        let now = self.0.clock.now();
        let Some(claim) = owner.claim.after(Finding::Gone, now) else { return Ok(false) };
        let detail = Some("Another account has proven this domain.".to_owned());
        let told = Told { detail, ..owner.told.clone() };
        let lost = self.0.store.change_proof(owner, claim, told, now).await?;
        tracing::warn!(
            customer_id = %owner.customer_id, domain = %owner.domain,
            "a domain changes hands: another customer proves it, and this one's record is gone"
        );
        Ok(matches!(lost, Changed::Done(_)))
    }
}

fn look_in_dns(proof: &Proof, published: Published) -> Look {
    let name = dns::record_name(&proof.domain);
    let with = |finding, detail, tokens| Look { finding, told: Told { detail, ..Told::default() }, tokens };
    match published {
        Published::Unknown(why) => {
            tracing::debug!(domain = %proof.domain, %why, "DNS did not answer");
            with(Finding::Unknown, Some(format!("DNS did not answer for {name}.")), Vec::new())
        }
        Published::Tokens(tokens) if proof.token.as_ref().is_some_and(|own| tokens.contains(own)) => {
            with(Finding::Proven, None, tokens)
        }
        Published::Tokens(tokens) => {
            let detail = match tokens.is_empty() {
                true => {
                    format!("There is no such TXT record at {name} yet; an alias (CNAME) does not count.")
                }
                false => format!("The TXT record at {name} has another value."),
            };
            with(Finding::Absent, Some(detail), tokens)
        }
    }
}

async fn look_at_resend(proof: &Proof, resend: &Resend) -> Look {
    let is_proven = proof.claim.state == ProofState::Verified;
    let with = |finding, told| Look { finding, told, tokens: Vec::new() };
    let Some(id) = &proof.told.resend_id else { return with(Finding::Unknown, proof.told.clone()) };
    match resend.domain(id).await {
        Ok(domain) if !domain.name.eq_ignore_ascii_case(proof.domain.as_str()) => {
            tracing::error!(domain = %proof.domain, name = %domain.name, "Resend knows this id by another name");
            with(Finding::Unknown, proof.told.clone())
        }
        Ok(domain) => {
            let finding = match domain.readiness() {
                Readiness::Sends => Finding::Proven,
                // Resend would refuse the mail: it says so first.
                Readiness::Failed if is_proven => Finding::Gone,
                Readiness::Waits if is_proven => Finding::Unknown,
                Readiness::Failed | Readiness::Waits => Finding::Absent,
            };
            let told = told(&domain);
            let word = told.status.as_deref().unwrap_or("nothing");
            let detail = (finding != Finding::Proven)
                .then(|| format!("The mail service says {word:?}; each record shows what it found."));
            with(finding, Told { detail, ..told })
        }
        Err(DomainFault::NotThere) => {
            let detail = Some("The mail service no longer has this domain.".to_owned());
            with(Finding::Gone, Told { detail, ..proof.told.clone() })
        }
        Err(fault) => {
            let _ = super::register::not_done(fault);
            with(Finding::Unknown, proof.told.clone())
        }
    }
}

/// What the operator reads of a change.
fn tell(before: &Proof, after: &Proof) {
    let (customer_id, domain) = (&after.customer_id, &after.domain);
    let was = before.claim.state == ProofState::Verified;
    let is = after.claim.state == ProofState::Verified;
    let is_doubted = before.claim.missing_since.is_none() && after.claim.missing_since.is_some();
    match (was, is) {
        (false, true) => {
            tracing::info!(%customer_id, %domain, "a domain is proven: its customer may send from it")
        }
        (true, false) => {
            let why = after.told.detail.as_deref().unwrap_or_default();
            tracing::warn!(%customer_id, %domain, why, "a domain's proof is lost: mail from it is refused now");
        }
        (true, true) if is_doubted => {
            tracing::warn!(%customer_id, %domain, "a proven domain's record is gone; mail from it is refused if that lasts a week");
        }
        _ => {}
    }
}
