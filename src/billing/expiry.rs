//! Until when a customer's credits last, for the customer's page.
//!
//! Only Dodo knows that. Its answer is kept for a few minutes, one read of a customer is made
//! at a time, in the background and drawn from the share of the budget for what nobody waits
//! for; whoever looks waits a moment for the first answer and is told otherwise that there is
//! none. What a page shows is never what mail is accepted by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Billing;
use super::budget::Purpose;
use super::dodo::DodoError;
use super::dodo::credits::{Grant, GrantPage};
use crate::domain::ids::CustomerId;
use crate::telemetry::DodoCall;

/// How old an answer may be before another is asked for.
const FRESH: Duration = Duration::from_secs(300);
/// How old an answer may be that is shown while there is no other.
const OLDEST: Duration = Duration::from_secs(3600);
/// The wait after a read that failed.
const RETRY: Duration = Duration::from_secs(30);
/// The longest that a read may take, its turn included.
const LONGEST: Duration = Duration::from_secs(30);
/// Customers whose answers are kept.
const MOST: usize = 2_000;

/// Credits that end at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// How many are left of them.
    pub credits: i64,
    /// When they end; `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// Until when a customer's credits last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiries {
    /// What ends first comes first, and what never does last.
    pub portions: Vec<Portion>,
    /// Whether there are more that Dodo did not give at once.
    pub is_cut: bool,
    /// When Dodo said so.
    pub as_of: Timestamp,
}

/// The answers that are kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<CustomerId, Arc<Slot>>>);

#[derive(Debug, Default)]
struct Slot {
    known: Mutex<Known>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Known {
    answer: Option<(Instant, Arc<Expiries>)>,
    /// When the last read began; how it ended the answer says.
    tried: Option<Instant>,
    is_reading: bool,
    /// News came that there may be other grants.
    is_old: bool,
}

impl Known {
    /// Whether a read is to be made now.
    fn is_wanted(&self, now: Instant) -> bool {
        let age = |since: Instant| now.duration_since(since);
        let is_fresh = self.answer.as_ref().is_some_and(|(read, _)| age(*read) < FRESH) && !self.is_old;
        let failed_lately = self.tried.is_some_and(|tried| {
            age(tried) < RETRY && self.answer.as_ref().is_none_or(|(read, _)| *read < tried)
        });
        !self.is_reading && !is_fresh && !failed_lately
    }

    fn shown(&self, now: Instant) -> Option<Arc<Expiries>> {
        let (read, answer) = self.answer.as_ref()?;
        (now.duration_since(*read) < OLDEST).then(|| Arc::clone(answer))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn slot(&self, customer_id: &CustomerId) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        if slots.len() >= MOST && !slots.contains_key(customer_id) {
            let now = Instant::now();
            slots.retain(|_, slot| {
                let known = lock(&slot.known);
                known.is_reading || known.tried.is_some_and(|tried| now.duration_since(tried) < FRESH)
            });
            if slots.len() >= MOST {
                slots.pop_first();
            }
        }
        Arc::clone(slots.entry(customer_id.clone()).or_default())
    }

    /// A grant may have come: what is known is shown until it is read again.
    pub(super) fn has_changed(&self, customer_id: &CustomerId) {
        if let Some(slot) = lock(&self.0).get(customer_id) {
            lock(&slot.known).is_old = true;
        }
    }
}

impl Billing {
    /// Until when a customer's credits last, by what Dodo said lately, or says within
    /// `patience`; `None`: it has not said so.
    pub async fn expiries(&self, customer_id: &CustomerId, patience: Duration) -> Option<Arc<Expiries>> {
        let slot = self.0.expiries.slot(customer_id);
        let ended = slot.ended.notified();
        let rest = {
            let mut known = lock(&slot.known);
            if known.is_wanted(Instant::now()) {
                known.is_reading = true;
                known.tried = Some(Instant::now());
                known.is_old = false;
                self.read_expiries(customer_id.clone(), Arc::clone(&slot));
            }
            // Of a read that takes longer than that, only those wait who came at its beginning.
            let so_far = known.tried.map(|tried| tried.elapsed()).unwrap_or_default();
            known.is_reading.then(|| patience.saturating_sub(so_far))
        };
        if let Some(rest) = rest {
            let _ = tokio::time::timeout(rest, ended).await;
        }
        lock(&slot.known).shown(Instant::now())
    }

    fn read_expiries(&self, customer_id: CustomerId, slot: Arc<Slot>) {
        let billing = self.clone();
        self.0.tools.tasks.spawn(async move {
            let stop = billing.0.tools.stop.clone();
            let asking = tokio::time::timeout(LONGEST, billing.ask_expiries(&customer_id));
            let answer = stop.run_until_cancelled(asking).await;
            {
                let mut known = lock(&slot.known);
                known.is_reading = false;
                if let Some(Ok(Ok(answer))) = answer {
                    known.answer = Some((Instant::now(), Arc::new(answer)));
                } else {
                    tracing::debug!(%customer_id, "it could not be read when credits expire");
                }
            }
            slot.ended.notify_waiters();
        });
    }

    async fn ask_expiries(&self, customer_id: &CustomerId) -> Result<Expiries, DodoError> {
        self.0.budget.take(Purpose::Refresh).await;
        let reply = self.0.tools.dodo.active_grants(customer_id).await;
        let page = match self.made(DodoCall::ListGrants, reply) {
            Ok(page) => page,
            // Nobody ever bought anything for this customer.
            Err(DodoError::NotFound { .. }) => GrantPage { grants: Vec::new(), is_last: true },
            Err(error) => return Err(error),
        };
        let as_of = self.0.tools.clock.now();
        Ok(Expiries { portions: portions(&page.grants, as_of), is_cut: !page.is_last, as_of })
    }
}

/// What is left of grants, by when it ends.
fn portions(grants: &[Grant], now: Timestamp) -> Vec<Portion> {
    // None sorts before all times, and never comes last.
    let mut sums: BTreeMap<(bool, Option<Timestamp>), i64> = BTreeMap::new();
    let left = grants.iter().filter(|grant| grant.expires_at.is_none_or(|at| at > now));
    for (grant, credits) in left.filter_map(|grant| Some((grant, grant.remaining.filter(|n| *n > 0)?))) {
        let sum = sums.entry((grant.expires_at.is_none(), grant.expires_at)).or_default();
        *sum = sum.saturating_add(credits);
    }
    sums.into_iter().map(|((_, expires_at), credits)| Portion { credits, expires_at }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_end_in_the_order_of_time_and_what_is_spent_or_over_is_none() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let grant = |remaining, expires: Option<i64>| Grant {
            expires_at: expires.map(at),
            is_drawn: true,
            remaining,
        };
        let grants = [
            grant(Some(7), None),
            grant(Some(5), Some(3_000)),
            grant(Some(2), Some(2_500)),
            grant(Some(3), Some(3_000)),
            grant(Some(9), Some(2_000)),
            grant(Some(0), Some(2_600)),
            grant(None, Some(2_700)),
        ];
        let portion = |credits, expires: Option<i64>| Portion { credits, expires_at: expires.map(at) };
        let want = [portion(2, Some(2_500)), portion(8, Some(3_000)), portion(7, None)];
        assert_eq!(portions(&grants, at(2_000)), want);
        assert_eq!(portions(&[], at(0)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_asked_for_again_when_it_is_old_or_did_not_come() {
        let answer =
            || Arc::new(Expiries { portions: Vec::new(), is_cut: false, as_of: Timestamp::UNIX_EPOCH });
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut known = Known::default();
        assert!(known.is_wanted(begin));
        known.tried = Some(begin);
        assert!(!known.is_wanted(after(29)) && known.is_wanted(after(30)), "a failure");
        known.answer = Some((after(1), answer()));
        assert!(!known.is_wanted(after(300)) && known.is_wanted(after(301)), "an answer");
        known.is_old = true;
        assert!(known.is_wanted(after(2)), "a top-up");
        known.tried = Some(after(2));
        assert!(!known.is_wanted(after(3)), "which was asked about in vain");
        assert!(known.shown(after(3_600)).is_some() && known.shown(after(3_601)).is_none());
        known.is_reading = true;
        assert!(!known.is_wanted(after(9_999)));
    }
}
