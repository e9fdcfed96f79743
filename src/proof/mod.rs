//! Domains that customers prove by themselves, without the operator.
//!
//! A claim is written down before anybody outside hears of it, so that a crash leaves
//! nothing at Resend that nobody knows of. Whose a domain is, is decided by our
//! table alone: a domain that the account at Resend had before it was claimed here is
//! the operator's, or somebody else's, and is given to nobody, verified or not.
//! What this room must not know: HTTP, SMTP, SQL.

pub mod dns;
mod look;
pub mod name;
mod register;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::address::Domain;
use crate::domain::digest::hex;
use crate::domain::ids::CustomerId;
use crate::domain::proof::{Claim, ProofState, Way};
use crate::random;
use crate::store::node::Duty;
use crate::store::proof::{Changed, Claimed, NewProof, Proof};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::throttle::Throttle;
use crate::upstream::resend::Resend;
use dns::Dns;
use name::NotProvable;

/// Between two looks for claims that are due.
const TICK: Duration = Duration::from_secs(5);
/// Claims that are looked at in one go.
const BATCH: u32 = 20;
const DAY: Duration = Duration::from_secs(86_400);

/// Who is asked whether a domain is proven.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Nobody: the operator alone allows senders.
    Nobody,
    /// The domain's DNS.
    Dns(Dns),
    /// Resend.
    Resend(Resend),
}

/// What a customer may have, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Domains of one customer.
    pub domains: u32,
    /// Domains that one customer may add in a day.
    pub per_day: u32,
}

/// Why something about a domain is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// Customers prove nothing here.
    #[error("domains are added by the operator here")]
    Off,
    /// It is no name that anybody could prove.
    #[error("{0} {1}")]
    NotProvable(String, NotProvable),
    /// Another customer has it.
    #[error("another account holds this domain")]
    Taken,
    /// The mail service has it already, and not from here.
    #[error("this domain is registered with the mail service already")]
    Registered,
    /// The customer has as many as may be.
    #[error("an account may have at most {0} domains")]
    TooMany(u32),
    /// The customer adds too fast.
    #[error("too many domains: try again in {retry_after_s} seconds")]
    TooSoon {
        /// Seconds until one more may be added.
        retry_after_s: u64,
    },
    /// The customer has no such domain.
    #[error("there is no such domain")]
    NotThere,
    /// The operator has denied it.
    #[error("the operator has denied this domain")]
    Denied,
    /// It was claimed when another way was configured.
    #[error("this domain was claimed in a way that is no longer used")]
    OtherWay,
    /// It is being changed.
    #[error("this domain is being changed")]
    Busy,
    /// The mail service refuses it.
    #[error("the mail service refuses this domain")]
    Refused,
    /// Nobody answers who would have to.
    #[error("domains cannot be managed at the moment")]
    Unavailable,
    /// The database cannot do it.
    #[error("the database is not available")]
    Store,
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a domain could not be managed");
        Self::Store
    }
}

/// The claims of all customers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Proofs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    asked: Asked,
    clock: Clock,
    quota: Quota,
    metrics: Metrics,
    added: Throttle<CustomerId>,
    hint: Notify,
}

impl Proofs {
    /// Puts it together; nothing runs before [`Proofs::run`].
    pub fn new(store: Store, asked: Asked, clock: Clock, quota: Quota, metrics: Metrics) -> Self {
        let interval = DAY / quota.per_day.max(1);
        let added = Throttle::new(quota.per_day, interval);
        Self(Arc::new(Inner { store, asked, clock, quota, metrics, added, hint: Notify::new() }))
    }

    /// Whether customers add domains by themselves here.
    pub fn is_on(&self) -> bool {
        self.way().is_some()
    }

    /// Claims a domain for a customer, and whether that is new. Doing it again
    /// changes nothing, but ends what a lost answer has left open.
    pub async fn add(&self, customer_id: &CustomerId, name: &str) -> Result<(Proof, bool), NotDone> {
        let way = self.way().ok_or(NotDone::Off)?;
        let domain = provable(name)?;
        if let Some(known) = self.0.store.proof(customer_id, &domain).await? {
            return self.known(known).await.map(|proof| (proof, false));
        }
        let now = self.0.clock.now();
        let soon = |too_soon: crate::throttle::TooSoon| too_soon.retry_after_s;
        let taken = self.0.added.take(customer_id.clone(), now);
        taken.map_err(|error| NotDone::TooSoon { retry_after_s: soon(error) })?;
        self.refuse_foreign(&domain).await?;
        let token = (way == Way::Dns).then(|| hex(&random::octets::<16>()));
        let limit = self.0.quota.domains;
        let new = NewProof { customer_id: customer_id.clone(), domain, way, token, limit };
        match self.0.store.claim_domain(&new, now).await? {
            Claimed::New(proof) => {
                tracing::info!(%customer_id, domain = %proof.domain, way = way.as_str(), "a domain was claimed");
                self.registered(proof).await.map(|proof| (proof, true))
            }
            Claimed::Known(proof) => self.known(proof).await.map(|proof| (proof, false)),
            Claimed::Taken => Err(NotDone::Taken),
            Claimed::TooMany => Err(NotDone::TooMany(limit)),
        }
    }

    /// Has a domain looked at now, and more often for a while.
    pub async fn verify(&self, customer_id: &CustomerId, name: &str) -> Result<Proof, NotDone> {
        let way = self.way().ok_or(NotDone::Off)?;
        let proof = self.known(self.find(customer_id, name).await?).await?;
        if proof.way != way {
            return Err(NotDone::OtherWay);
        }
        self.ask_to_verify(&proof).await?;
        let claim = match proof.claim.state {
            ProofState::Verified => proof.claim,
            _ => Claim { tries: 0, ..proof.claim },
        };
        self.look_at(Proof { claim, ..proof }).await?.ok_or(NotDone::NotThere)
    }

    /// A customer's domain.
    pub async fn find(&self, customer_id: &CustomerId, name: &str) -> Result<Proof, NotDone> {
        let domain = provable(name).map_err(|_| NotDone::NotThere)?;
        self.0.store.proof(customer_id, &domain).await?.ok_or(NotDone::NotThere)
    }

    /// Removes a domain: mail from it is refused from now on, and Resend is told,
    /// which may take longer.
    pub async fn remove(&self, customer_id: &CustomerId, name: &str) -> Result<(), NotDone> {
        let proof = self.find(customer_id, name).await?;
        match proof.claim.state {
            ProofState::Denied => return Err(NotDone::Denied),
            ProofState::Removing => return Ok(()),
            _ => {}
        }
        tracing::info!(%customer_id, domain = %proof.domain, "a domain is removed by its customer");
        self.withdraw(&proof).await
    }

    /// Resend has news of a domain: a hint to read it, no more. Whether it is one of ours.
    pub async fn hint(&self, resend_id: &str) -> Result<bool, StoreError> {
        let is_ours = self.0.store.hasten_proof(resend_id, self.0.clock.now()).await?;
        self.0.hint.notify_one();
        Ok(is_ours)
    }

    /// Looks at what is due, until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let looked = async {
                self.look_at_due().await;
                self.show_counts().await;
            };
            if stop.run_until_cancelled(looked).await.is_none() {
                return;
            }
            let waited = async {
                let _ = tokio::time::timeout(TICK, self.0.hint.notified()).await;
            };
            if stop.run_until_cancelled(waited).await.is_none() {
                return;
            }
        }
    }

    /// Looks at every claim that is due.
    async fn look_at_due(&self) {
        let due = match self.0.store.due_proofs(self.0.clock.now(), BATCH).await {
            Ok(due) => due,
            Err(error) => return error.tell("domains that are due could not be read"),
        };
        if due.is_empty() {
            return;
        }
        match self.0.store.takes(Duty::Domains, self.0.clock.now(), TICK).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return error.tell("domains that are due could not be looked at"),
        }
        for proof in due {
            let (customer_id, domain) = (proof.customer_id.clone(), proof.domain.clone());
            if let Err(why) = self.see_to(proof).await {
                tracing::warn!(%customer_id, %domain, %why, "a domain could not be looked at");
            }
        }
    }

    /// Keeps the gauge of the domains true.
    async fn show_counts(&self) {
        match self.0.store.count_proofs().await {
            Ok(counts) => self.0.metrics.set_domains(&counts),
            Err(error) => error.tell("domains could not be counted"),
        }
    }

    async fn see_to(&self, proof: Proof) -> Result<(), NotDone> {
        match proof.claim.state {
            ProofState::Denied => Ok(()),
            ProofState::Removing => self.finish_removal(&proof).await,
            ProofState::Adding => self.withdraw(&proof).await,
            ProofState::Pending | ProofState::Verified | ProofState::Lost => {
                self.look_at(proof).await.map(drop)
            }
        }
    }

    /// What to do with a claim that is there already.
    async fn known(&self, proof: Proof) -> Result<Proof, NotDone> {
        match proof.claim.state {
            ProofState::Denied => Err(NotDone::Denied),
            ProofState::Removing => Err(NotDone::Busy),
            ProofState::Adding => self.found_or_registered(proof).await,
            ProofState::Pending | ProofState::Verified | ProofState::Lost => Ok(proof),
        }
    }

    /// Ends a claim. What stands at Resend because of it is removed there too.
    async fn withdraw(&self, proof: &Proof) -> Result<(), NotDone> {
        if proof.way == Way::Dns {
            return match self.0.store.forget_proof(proof).await? {
                true => Ok(()),
                false => Err(NotDone::Busy),
            };
        }
        let now = self.0.clock.now();
        let claim = Claim {
            state: ProofState::Removing,
            tries: 0,
            missing_since: None,
            expires_at: None,
            next_check_at: Some(now),
        };
        match self.0.store.change_proof(proof, claim, proof.told.clone(), now).await? {
            Changed::Done(removing) => {
                self.0.store.pass(crate::crash::CrashPoint::DomainWithdrawn);
                self.finish_removal(&removing).await
            }
            Changed::Overtaken | Changed::OwnedBy(_) => Err(NotDone::Busy),
        }
    }

    fn way(&self) -> Option<Way> {
        match &self.0.asked {
            Asked::Nobody => None,
            Asked::Dns(_) => Some(Way::Dns),
            Asked::Resend(_) => Some(Way::Resend),
        }
    }
}

fn provable(name: &str) -> Result<Domain, NotDone> {
    name::provable(name).map_err(|why| {
        let shown: String = name.trim().chars().take(80).collect();
        NotDone::NotProvable(shown, why)
    })
}
