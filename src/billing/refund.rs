//! Refunds: a credit given back for a message that hard-bounced after it was sent.
//!
//! Off unless the operator turned them on. The store decides and takes back what
//! was never debited; what was debited is given back here, by a credit entry in the
//! customer's one lane that lapses no later than the grant that was spent. Dodo does
//! not say which one that was, so it is the earliest to lapse of those that the
//! debit can have drawn.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Purpose;
use super::dodo::credits::Grant;
use super::dodo::{DodoError, EntryAnswer, Reply, SKEW};
use super::{Billing, Tools};
use crate::crash::CrashPoint;
use crate::domain::ids::{CustomerId, EntryId};
use crate::random;
use crate::store::StoreError;
use crate::store::entry::Entry;
use crate::store::refund::{Allowance, CreditOpening, Decision, DueRefund, Lapse};
use crate::telemetry::{DodoCall, EntryKind, RefundResult};

/// Customers looked at in one round.
pub(super) const ROUND: u32 = 100;
/// First and longest wait before grants that could not be read are read again.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Pages of grants that are read of one customer at most.
const MAX_PAGES: u32 = 100;

/// How far each customer's refunds have come.
#[derive(Debug, Default)]
pub(super) struct Refunds(Mutex<BTreeMap<CustomerId, Progress>>);

#[derive(Debug)]
enum Progress {
    /// Grants are being read.
    Reading {
        /// The wait after a failure.
        wait: Duration,
    },
    /// They could not be read.
    Failed {
        /// When they are read again.
        until: Instant,
        /// The wait after another failure.
        wait: Duration,
    },
    /// The lane is next theirs.
    Ready(Vec<(DueRefund, Lapse)>),
}

impl Refunds {
    /// Whose next entry is a credit: no debit must take the lane before it.
    pub(super) fn ready(&self) -> Vec<CustomerId> {
        let progress = self.progress();
        let ready = progress.iter().filter(|(_, progress)| matches!(progress, Progress::Ready(_)));
        ready.map(|(customer_id, _)| customer_id.clone()).collect()
    }

    /// For whom nothing can be done now: their grants are being read, or it is too
    /// early to read them again.
    fn busy(&self) -> Vec<CustomerId> {
        let now = Instant::now();
        let is_busy = |progress: &Progress| match progress {
            Progress::Reading { .. } => true,
            Progress::Failed { until, .. } => *until > now,
            Progress::Ready(_) => false,
        };
        let progress = self.progress();
        let busy = progress.iter().filter(|(_, progress)| is_busy(progress));
        busy.map(|(customer_id, _)| customer_id.clone()).collect()
    }

    /// Begins to read grants, unless somebody does, or it is too early after a failure.
    fn begin(&self, customer_id: &CustomerId) -> bool {
        let mut progress = self.progress();
        let wait = match progress.get(customer_id) {
            None => RETRY_MIN,
            Some(Progress::Failed { until, wait }) if *until <= Instant::now() => *wait,
            Some(_) => return false,
        };
        progress.insert(customer_id.clone(), Progress::Reading { wait });
        true
    }

    fn failed(&self, customer_id: &CustomerId) {
        let mut progress = self.progress();
        if let Some(Progress::Reading { wait }) = progress.get(customer_id) {
            let failed = Progress::Failed { until: Instant::now() + *wait, wait: (*wait * 2).min(RETRY_MAX) };
            progress.insert(customer_id.clone(), failed);
        }
    }

    fn is_ready(&self, customer_id: &CustomerId, refunds: Vec<(DueRefund, Lapse)>) {
        self.progress().insert(customer_id.clone(), Progress::Ready(refunds));
    }

    fn take(&self, customer_id: &CustomerId) -> Option<Vec<(DueRefund, Lapse)>> {
        let mut progress = self.progress();
        match progress.remove(customer_id)? {
            Progress::Ready(refunds) => Some(refunds),
            other => {
                progress.insert(customer_id.clone(), other);
                None
            }
        }
    }

    fn end(&self, customer_id: &CustomerId) {
        self.progress().remove(customer_id);
    }

    fn progress(&self) -> MutexGuard<'_, BTreeMap<CustomerId, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Billing {
    /// What may be given back now to a customer whose mail failed late; `None`: refunds are off.
    pub async fn refund_allowance(
        &self,
        customer_id: &CustomerId,
        now: Timestamp,
    ) -> Result<Option<Allowance>, StoreError> {
        Ok(match self.0.settings.refund_bounced {
            true => Some(self.0.tools.store.allowance(customer_id, now).await?),
            false => None,
        })
    }

    /// Refunds were decided with news of a late failure: they are told, and gone on with.
    pub fn refunds_decided(&self, decisions: &[Decision]) {
        self.tell(decisions);
    }

    /// Goes on with every refund that can go on, and is no reason not to settle
    /// debits if it cannot. Returns how many entries were opened.
    pub(super) async fn refund_round(&self) -> usize {
        self.go_on_with_refunds().await.unwrap_or_else(|error| {
            error.tell("refunds could not be gone on with");
            0
        })
    }

    async fn go_on_with_refunds(&self) -> Result<usize, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        for (message_id, customer_id) in store.refunds_to_decide().await? {
            let now = clock.now();
            let allowance = store.allowance(&customer_id, now).await?;
            let decisions = store.decide_refunds(&message_id, &allowance, now).await?;
            store.pass(CrashPoint::RefundsDecided);
            self.tell(&decisions);
        }
        let mut opened = 0;
        let mut except = self.refused_of_late();
        except.extend(self.0.refunds.busy());
        for customer_id in store.refundable(&except, ROUND).await? {
            let Some(refunds) = self.0.refunds.take(&customer_id) else {
                self.read_grants_in_background(customer_id);
                continue;
            };
            if !self.may_open().await {
                return Ok(opened);
            }
            let now = clock.now();
            let entry_id = EntryId::generate(now, random::octets());
            let opening = CreditOpening { customer_id, entry_id, refunds };
            let (entry, lapsed) = store.open_credit(&opening, now).await?;
            self.tell(&lapsed);
            if let Some(entry) = entry {
                opened += 1;
                store.pass(CrashPoint::CreditOpened);
                self.post_in_background(entry);
            }
        }
        Ok(opened)
    }

    fn read_grants_in_background(&self, customer_id: CustomerId) {
        if self.0.tools.stop.is_cancelled() || !self.0.refunds.begin(&customer_id) {
            return;
        }
        let billing = self.clone();
        self.0.tools.tasks.spawn(async move {
            let stop = billing.0.tools.stop.clone();
            let prepared = stop.run_until_cancelled(billing.prepare(&customer_id)).await;
            match prepared {
                Some(Ok(true)) => billing.0.owing.notify_one(),
                Some(Ok(false)) | None => billing.0.refunds.end(&customer_id),
                Some(Err(reason)) => {
                    billing.0.refunds.failed(&customer_id);
                    tracing::warn!(%customer_id, reason, "refunds wait: the customer's grants could not be read");
                }
            }
        });
    }

    /// Finds out when each of a customer's refunds lapses. `false`: none is to be posted.
    async fn prepare(&self, customer_id: &CustomerId) -> Result<bool, String> {
        let Tools { store, clock, .. } = &self.0.tools;
        // First the refunds, then the grants: what those debits drew has been drawn by then.
        let due = store.due_refunds(customer_id, clock.now()).await.map_err(|error| error.to_string())?;
        let Some(due) = due else { return Ok(false) };
        store.pass(CrashPoint::RefundsDue);
        self.tell(&due.released);
        if due.debited.is_empty() {
            return Ok(false);
        }
        let grants = self.grants(customer_id).await.map_err(|error| error.to_string())?;
        let now = clock.now();
        let refunds = due.debited.into_iter().map(|refund| {
            let lapse = lapse(&grants, refund.accepted_at, now);
            (refund, lapse)
        });
        self.0.refunds.is_ready(customer_id, refunds.collect());
        Ok(true)
    }

    async fn grants(&self, customer_id: &CustomerId) -> Result<Vec<Grant>, DodoError> {
        let mut grants = Vec::new();
        for page in 0..MAX_PAGES {
            self.0.budget.take(Purpose::Refresh).await;
            let reply = self.0.tools.dodo.grants(customer_id, page).await;
            let page = self.made(DodoCall::ListGrants, reply)?;
            grants.extend(page.grants);
            if page.is_last {
                return Ok(grants);
            }
        }
        Err(DodoError::Malformed { what: "a list of grants with an end" })
    }

    /// Makes the call that an entry is for.
    pub(super) async fn call_for(&self, entry: &Entry) -> Reply<EntryAnswer> {
        let Entry { customer_id, entry_id, amount, reason, .. } = entry;
        match entry.kind {
            EntryKind::Debit => self.0.tools.dodo.post_debit(customer_id, entry_id, *amount, reason).await,
            EntryKind::Credit => self.0.tools.dodo.post_credit(entry).await,
        }
    }

    /// An entry has ended: where it was a credit, so have its refunds.
    pub(super) fn count_refunds(&self, entry: &Entry, result: RefundResult) {
        if entry.kind == EntryKind::Credit {
            (0..entry.amount.get()).for_each(|_| self.0.tools.metrics.refund(result));
        }
    }

    fn tell(&self, decisions: &[Decision]) {
        for Decision { claim, result } in decisions {
            self.0.tools.metrics.refund(*result);
            tracing::info!(
                message_id = %claim.message_id,
                customer_id = %claim.customer_id,
                amount = 1,
                outcome = result.as_str(),
                "refund"
            );
        }
        if decisions.iter().any(|decision| decision.result == RefundResult::Due) {
            self.0.owing.notify_one();
        }
    }
}

/// When the refund of a debit lapses that was made between `accepted_at` and now.
/// Pure. It can have drawn whatever is not whole any more and had not expired
/// before; Dodo draws "oldest first", or what expires first, and does not say.
///
/// A grant expires by Dodo's clock and a message is accepted by ours: only what
/// expired longer before than they may differ had surely expired.
pub(crate) fn lapse(grants: &[Grant], accepted_at: Timestamp, now: Timestamp) -> Lapse {
    let since = accepted_at.saturating_sub(SKEW).unwrap_or(Timestamp::UNIX_EPOCH);
    let drawn = grants.iter().filter(|grant| grant.is_drawn);
    let earliest = drawn.filter_map(|grant| grant.expires_at).filter(|at| *at >= since).min();
    match earliest {
        None => Lapse::Never,
        Some(at) if at <= now => Lapse::Past(at),
        Some(at) => Lapse::At(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refund_lapses_with_the_first_grant_that_the_debit_can_have_drawn() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let drawn =
            |expires: Option<i64>| Grant { expires_at: expires.map(at), is_drawn: true, remaining: None };
        let whole = |expires| Grant { expires_at: Some(at(expires)), is_drawn: false, remaining: None };
        // Accepted at 1000, now it is 2000; the clocks may differ by 300.
        let table: [(&[Grant], Lapse); 11] = [
            (&[], Lapse::Never),
            (&[drawn(None)], Lapse::Never),
            (&[drawn(Some(3000))], Lapse::At(at(3000))),
            (&[drawn(Some(4000)), drawn(None), drawn(Some(3000))], Lapse::At(at(3000))),
            (&[whole(2500), drawn(Some(3000))], Lapse::At(at(3000))),
            (&[drawn(Some(699)), drawn(Some(3000))], Lapse::At(at(3000))),
            (&[drawn(Some(699)), drawn(None)], Lapse::Never),
            (&[drawn(Some(700)), drawn(Some(3000))], Lapse::Past(at(700))),
            (&[drawn(Some(1000)), drawn(None)], Lapse::Past(at(1000))),
            (&[drawn(Some(1500)), drawn(Some(3000))], Lapse::Past(at(1500))),
            (&[drawn(Some(2000))], Lapse::Past(at(2000))),
        ];
        for (grants, wanted) in table {
            assert_eq!(lapse(grants, at(1000), at(2000)), wanted, "{grants:?}");
        }
    }
}
