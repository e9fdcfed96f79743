//! What is told to Resend: that a domain is there, and that it is gone.

use std::time::Duration;

use jiff::Timestamp;

use super::{Asked, NotDone, Proofs};
use crate::crash::CrashPoint;
use crate::domain::address::Domain;
use crate::domain::proof::{Claim, ProofState};
use crate::store::proof::{Changed, Proof, Told};
use crate::upstream::resend::Resend;
use crate::upstream::resend::domains::{DomainFault, Readiness, RegisteredDomain};

/// Clocks may differ by so much.
const SKEW: Duration = Duration::from_secs(300);
/// Between two tries to remove a domain at Resend, in seconds: from this, doubling …
const REMOVE_MIN_S: u64 = 30;
/// … to this.
const REMOVE_MAX_S: u64 = 6 * 3_600;

impl Proofs {
    /// Refuses a domain that the account at Resend has already: the operator's own,
    /// which is verified without any doing of the customer's.
    pub(super) async fn refuse_foreign(&self, domain: &Domain) -> Result<(), NotDone> {
        let Asked::Resend(resend) = &self.0.asked else { return Ok(()) };
        match resend.find_domain(domain.as_str()).await.map_err(not_done)? {
            None => Ok(()),
            Some(_) => Err(NotDone::Registered),
        }
    }

    /// Registers a domain that was claimed just now.
    pub(super) async fn registered(&self, proof: Proof) -> Result<Proof, NotDone> {
        let Asked::Resend(resend) = &self.0.asked else { return Ok(proof) };
        self.0.store.pass(CrashPoint::DomainClaimed);
        match resend.add_domain(proof.domain.as_str()).await {
            Ok(made) => {
                self.0.store.pass(CrashPoint::DomainRegistered);
                self.adopt(proof, made).await
            }
            // By a request beside this one, or by somebody else.
            Err(DomainFault::Registered(said)) => match self.find_own(resend, &proof).await? {
                Some(own) => self.adopt(proof, own).await,
                None => {
                    tracing::warn!(domain = %proof.domain, %said, "Resend has this domain from somewhere else");
                    self.0.store.forget_proof(&proof).await?;
                    Err(NotDone::Registered)
                }
            },
            Err(fault @ (DomainFault::Key(_) | DomainFault::Refused(_))) => {
                self.0.store.forget_proof(&proof).await?;
                Err(not_done(fault))
            }
            Err(fault) => Err(not_done(fault)),
        }
    }

    /// Ends a registration whose answer was lost: the domain may be there.
    pub(super) async fn found_or_registered(&self, proof: Proof) -> Result<Proof, NotDone> {
        let Asked::Resend(resend) = &self.0.asked else { return Err(NotDone::OtherWay) };
        match self.find_own(resend, &proof).await? {
            Some(own) => self.adopt(proof, own).await,
            None => self.registered(proof).await,
        }
    }

    /// The domain at Resend that a claim has made, if it is there. One that is older
    /// than the claim, or verified before anybody has seen its records, is not.
    async fn find_own(&self, resend: &Resend, proof: &Proof) -> Result<Option<RegisteredDomain>, NotDone> {
        let found = resend.find_domain(proof.domain.as_str()).await.map_err(not_done)?;
        let since = proof.created_at.checked_sub(SKEW).unwrap_or(Timestamp::MIN);
        Ok(found.filter(|domain| {
            let is_older = domain.created_at.is_some_and(|at| at < since);
            !is_older && domain.readiness() == Readiness::Waits
        }))
    }

    async fn adopt(&self, proof: Proof, made: RegisteredDomain) -> Result<Proof, NotDone> {
        let Asked::Resend(resend) = &self.0.asked else { return Err(NotDone::OtherWay) };
        // A list names no records.
        let made = match made.records.is_empty() {
            true => resend.domain(&made.id).await.map_err(not_done)?,
            false => made,
        };
        let claim = Claim { state: ProofState::Pending, ..proof.claim };
        match self.0.store.change_proof(&proof, claim, told(&made), self.0.clock.now()).await? {
            Changed::Done(proof) => Ok(proof),
            // By a request beside this one.
            Changed::Overtaken | Changed::OwnedBy(_) => {
                let now = self.0.store.proof(&proof.customer_id, &proof.domain).await?;
                now.filter(|proof| proof.claim.state == ProofState::Pending).ok_or(NotDone::Busy)
            }
        }
    }

    /// Asks Resend to look for the records.
    pub(super) async fn ask_to_verify(&self, proof: &Proof) -> Result<(), NotDone> {
        let (Asked::Resend(resend), Some(id)) = (&self.0.asked, &proof.told.resend_id) else { return Ok(()) };
        if proof.claim.state == ProofState::Verified {
            return Ok(());
        }
        match resend.verify_domain(id).await {
            // The look that follows finds the same.
            Ok(()) | Err(DomainFault::NotThere) => Ok(()),
            Err(fault) => Err(not_done(fault)),
        }
    }

    /// Removes a withdrawn domain at Resend and forgets it; while Resend does not
    /// answer, the claim stays withdrawn and is tried again.
    pub(super) async fn finish_removal(&self, proof: &Proof) -> Result<(), NotDone> {
        let Asked::Resend(resend) = &self.0.asked else {
            tracing::warn!(domain = %proof.domain, "senders.proof is not \"resend\": the domain stays there");
            self.0.store.forget_proof(proof).await?;
            return Ok(());
        };
        let id = match &proof.told.resend_id {
            Some(id) => Ok(Some(id.clone())),
            None => self.find_own(resend, proof).await.map(|own| own.map(|own| own.id)),
        };
        let removed = match id {
            Ok(Some(id)) => resend.remove_domain(&id).await.map_err(|fault| fault.to_string()),
            Ok(None) => Ok(()),
            Err(why) => Err(why.to_string()),
        };
        let Err(why) = removed else {
            self.0.store.forget_proof(proof).await?;
            return Ok(());
        };
        tracing::warn!(domain = %proof.domain, %why, "a removed domain is still at Resend; tried again later");
        let now = self.0.clock.now();
        let wait = Duration::from_secs((REMOVE_MIN_S << proof.claim.tries.min(16)).min(REMOVE_MAX_S));
        let next_check_at = Some(now.checked_add(wait).unwrap_or(Timestamp::MAX));
        let claim = Claim { tries: proof.claim.tries.saturating_add(1), next_check_at, ..proof.claim };
        self.0.store.change_proof(proof, claim, proof.told.clone(), now).await?;
        Ok(())
    }
}

/// What Resend says of a domain, as it is kept.
pub(super) fn told(domain: &RegisteredDomain) -> Told {
    Told {
        resend_id: Some(domain.id.clone()),
        status: Some(domain.status.clone()).filter(|status| !status.is_empty()),
        records: serde_json::to_string(&domain.records).ok(),
        detail: None,
    }
}

/// What a customer hears; what the operator must know is logged.
pub(super) fn not_done(fault: DomainFault) -> NotDone {
    match fault {
        DomainFault::Key(_) => {
            tracing::error!(%fault, "customers cannot add domains: give RESEND_API_KEY full access");
            NotDone::Unavailable
        }
        DomainFault::Refused(_) => {
            tracing::warn!(%fault, "Resend refused a domain; the plan may have no room for more");
            NotDone::Refused
        }
        DomainFault::Registered(_) => NotDone::Registered,
        DomainFault::NotThere | DomainFault::Unavailable(_) => {
            tracing::warn!(%fault, "Resend could not be asked about a domain");
            NotDone::Unavailable
        }
    }
}
