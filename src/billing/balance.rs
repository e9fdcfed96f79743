//! Balance reads: single-flight, counted, and applied only by the store's leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Billing;
use super::budget::{Purpose, is_limited};
use super::dodo::{BalanceAnswer, DodoError};
use crate::crash::CrashPoint;
use crate::domain::account::Account;
use crate::domain::ids::CustomerId;
use crate::store::account::{BalanceApplied, BalanceRead, ReadOutcome};
use crate::telemetry::{DodoCall, DodoResult};

/// How long a client waits for a balance at most.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A refusal reads live at most this often for one customer.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(5);
/// So many customers at once are refreshed with the list call.
const LIST_FROM: usize = 5;
/// Tries of a read that an entry overtook.
const MAX_OVERTAKEN: u32 = 3;
/// First and longest wait before what could not be refreshed is tried again.
const REFRESH_RETRY_MIN: Duration = Duration::from_secs(2);
const REFRESH_RETRY_MAX: Duration = Duration::from_secs(60);
/// After so many failures in a row the others are not tried.
const MAX_FAILURES: u32 = 3;

/// Who is being read, and who asked.
#[derive(Debug, Default)]
pub(super) struct Reads {
    flights: Mutex<BTreeMap<CustomerId, Arc<Flight>>>,
    asked: Mutex<BTreeSet<CustomerId>>,
    /// Whose entry was on its way when they were to be refreshed.
    deferred: Mutex<BTreeSet<CustomerId>>,
    wake: Notify,
}

/// The reads of one customer, one at a time.
#[derive(Debug, Default)]
struct Flight {
    last: tokio::sync::Mutex<Option<Last>>,
    /// When news came that the balance may have changed.
    news_at: Mutex<Option<Instant>>,
}

/// A read that was made.
#[derive(Debug, Clone, Copy)]
struct Last {
    began: Instant,
    account: Option<Account>,
}

impl Flight {
    /// Reads that began before this say nothing to somebody who asks `now` and
    /// is content with an answer as old as `patience`.
    fn not_before(&self, now: Instant, patience: Duration) -> Instant {
        let oldest = now.checked_sub(patience).unwrap_or(now);
        lock(&self.news_at).map_or(oldest, |news_at| news_at.max(oldest))
    }

    fn is_of_use(&self) -> bool {
        self.last
            .try_lock()
            .map_or(true, |last| last.is_some_and(|last| last.began.elapsed() < REFUSAL_INTERVAL))
    }
}

impl Reads {
    /// Asks for a read in the background.
    pub(super) fn ask(&self, customer_id: &CustomerId) {
        let is_new = lock(&self.asked).insert(customer_id.clone());
        if is_new {
            self.wake.notify_one();
        }
    }

    /// A top-up may have landed: what was read before is old.
    pub(super) fn has_changed(&self, customer_id: &CustomerId) {
        if let Some(flight) = lock(&self.flights).get(customer_id) {
            *lock(&flight.news_at) = Some(Instant::now());
        }
        self.ask(customer_id);
    }

    /// The call for an entry has ended, well or not: who waited for that is read now.
    pub(super) fn call_ended(&self, customer_id: &CustomerId) {
        if lock(&self.deferred).remove(customer_id) {
            self.ask(customer_id);
        }
    }

    fn flight(&self, customer_id: &CustomerId) -> Arc<Flight> {
        let mut flights = lock(&self.flights);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1 || flight.is_of_use());
        Arc::clone(flights.entry(customer_id.clone()).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Billing {
    /// Reads a balance for somebody who waits; `None`: it cannot be had in time.
    pub(super) async fn read_balance(&self, customer_id: &CustomerId) -> Option<Account> {
        self.wait_for_read(customer_id, Duration::ZERO).await
    }

    /// Reads a balance for somebody who would be refused. Whoever is refused
    /// within five seconds of such a read has waited for it, and makes no other.
    pub(super) async fn read_before_refusal(&self, customer_id: &CustomerId) -> Option<Account> {
        self.wait_for_read(customer_id, REFUSAL_INTERVAL).await
    }

    /// The read is a task of its own: an answer that comes too late for whoever
    /// asked is kept all the same.
    async fn wait_for_read(&self, customer_id: &CustomerId, patience: Duration) -> Option<Account> {
        let (billing, customer_id) = (self.clone(), customer_id.clone());
        let flight = self.0.tools.tasks.spawn(async move {
            let stop = billing.0.tools.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                account = billing.fly(&customer_id, Purpose::Answer, patience) => account,
            }
        });
        tokio::time::timeout(ANSWER_WAIT, flight).await.ok()?.ok().flatten()
    }

    /// One read at a time for a customer. Who asks while one is under way waits for
    /// a read that begins after the question, less `patience`, and shares it with the others.
    async fn fly(&self, customer_id: &CustomerId, purpose: Purpose, patience: Duration) -> Option<Account> {
        let flight = self.0.reads.flight(customer_id);
        let not_before = flight.not_before(Instant::now(), patience);
        let mut last = flight.last.lock().await;
        if let Some(Last { began, account }) = *last
            && began >= not_before
        {
            return account;
        }
        let began = Instant::now();
        let account = self.read(customer_id, purpose).await;
        *last = Some(Last { began, account });
        account
    }

    async fn read(&self, customer_id: &CustomerId, purpose: Purpose) -> Option<Account> {
        for _ in 0..MAX_OVERTAKEN {
            let leave = self.leave(customer_id).await?;
            let balance = self.ask_dodo(customer_id, purpose).await?;
            let applied = self.apply(&leave, balance).await?;
            if applied.outcome != ReadOutcome::Overtaken {
                return Some(applied.account);
            }
        }
        // Entries keep coming between; each of them says what is left by itself.
        self.0.tools.store.account(customer_id).await.ok().flatten()
    }

    /// Waits until no entry of the customer is on its way for the first time.
    async fn leave(&self, customer_id: &CustomerId) -> Option<BalanceRead> {
        let store = &self.0.tools.store;
        loop {
            let closed = self.0.closed.notified();
            if let Some(leave) = store.begin_balance_read(customer_id).await.ok()? {
                return Some(leave);
            }
            // Nobody waits for an account that is not there.
            store.account(customer_id).await.ok()??;
            let _ = tokio::time::timeout(Duration::from_millis(250), closed).await;
        }
    }

    /// Leave to read at once, or else when the call under way has ended.
    async fn leave_or_defer(&self, customer_id: &CustomerId) -> Option<BalanceRead> {
        let store = &self.0.tools.store;
        if let Some(leave) = store.begin_balance_read(customer_id).await.ok()? {
            return Some(leave);
        }
        lock(&self.0.reads.deferred).insert(customer_id.clone());
        // It may have been closed just before.
        let leave = store.begin_balance_read(customer_id).await.ok()??;
        lock(&self.0.reads.deferred).remove(customer_id);
        Some(leave)
    }

    async fn ask_dodo(&self, customer_id: &CustomerId, purpose: Purpose) -> Option<i64> {
        self.0.budget.take(purpose).await;
        let reply = self.0.tools.dodo.balance(customer_id).await;
        self.0.budget.learn(&reply.rate, is_limited(&reply.answer));
        self.count(DodoCall::ReadBalance, &reply.answer);
        match reply.answer {
            Ok(answer) => Some(answer.credits()),
            Err(error) => {
                tracing::warn!(%customer_id, %error, "the balance could not be read");
                None
            }
        }
    }

    async fn apply(&self, leave: &BalanceRead, balance: i64) -> Option<BalanceApplied> {
        let store = &self.0.tools.store;
        store.pass(CrashPoint::BalanceRead);
        let applied = store.apply_balance(leave, balance, self.0.tools.clock.now()).await;
        let applied = applied.map_err(|error| tracing::error!(%error, "a balance could not be kept")).ok()?;
        store.pass(CrashPoint::BalanceApplied);
        if applied.low {
            self.low_balance(&leave.customer_id, applied.account.available_credits());
        }
        if applied.is_news {
            // What Dodo refused under the old balance may be settled under this one.
            self.refused().remove(&leave.customer_id);
        }
        if applied.account.owed.get() > 0 {
            self.0.owing.notify_one();
        }
        Some(applied)
    }

    /// Counts a call; the last of them says whether Dodo is up.
    pub(super) fn count<T>(&self, call: DodoCall, answer: &Result<T, DodoError>) {
        let result = match answer {
            Ok(_) | Err(DodoError::Malformed { .. }) => DodoResult::Ok,
            Err(DodoError::RateLimited { .. }) => DodoResult::RateLimited,
            Err(DodoError::Unavailable { .. }) => DodoResult::Unanswered,
            Err(_) => DodoResult::Refused,
        };
        self.0.tools.metrics.dodo_call(call, result);
    }

    /// Reads in the background what was asked for, until it is told to stop. What
    /// could not be read is tried again, less and less often while Dodo is away.
    pub(super) async fn refresh(self) {
        let stop = self.0.tools.stop.clone();
        let mut wait = REFRESH_RETRY_MIN;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.reads.wake.notified() => {}
            }
            let asked = std::mem::take(&mut *lock(&self.0.reads.asked));
            let failed = tokio::select! {
                () = stop.cancelled() => return,
                failed = self.refresh_all(asked) => failed,
            };
            if failed.is_empty() {
                wait = REFRESH_RETRY_MIN;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(REFRESH_RETRY_MAX);
            failed.iter().for_each(|customer_id| self.0.reads.ask(customer_id));
        }
    }

    /// Returns who could not be read.
    async fn refresh_all(&self, asked: BTreeSet<CustomerId>) -> BTreeSet<CustomerId> {
        let mut leaves = BTreeMap::new();
        for customer_id in asked {
            if let Some(leave) = self.leave_or_defer(&customer_id).await {
                leaves.insert(customer_id, leave);
            }
        }
        if leaves.len() >= LIST_FROM && !self.refresh_by_list(&mut leaves).await {
            return leaves.into_keys().collect();
        }
        let (mut failed, mut in_a_row) = (BTreeSet::new(), 0);
        for customer_id in leaves.into_keys() {
            let is_hopeless = in_a_row >= MAX_FAILURES;
            if is_hopeless || self.fly(&customer_id, Purpose::Refresh, Duration::ZERO).await.is_none() {
                in_a_row += 1;
                failed.insert(customer_id);
            } else {
                in_a_row = 0;
            }
        }
        failed
    }

    /// Many at once: a hundred balances a call, while that is cheaper than one by
    /// one. Who is found is taken out of `leaves`. Who is on no page is left to be
    /// asked for alone: without a grant, or moved to another page meanwhile.
    /// `false`: Dodo did not answer.
    async fn refresh_by_list(&self, leaves: &mut BTreeMap<CustomerId, BalanceRead>) -> bool {
        let mut page = 0;
        while usize::try_from(page).is_ok_and(|pages_read| pages_read < leaves.len()) {
            self.0.budget.take(Purpose::Refresh).await;
            let reply = self.0.tools.dodo.balances(page).await;
            self.0.budget.learn(&reply.rate, is_limited(&reply.answer));
            self.count(DodoCall::ListBalances, &reply.answer);
            let list = match reply.answer {
                Ok(list) => list,
                Err(error) => {
                    tracing::warn!(%error, "the balances could not be read");
                    return false;
                }
            };
            for (customer_id, balance) in list.balances {
                if let Some(leave) = leaves.remove(&customer_id) {
                    self.apply(&leave, BalanceAnswer::Known(balance).credits()).await;
                }
            }
            if list.is_last {
                break;
            }
            page += 1;
        }
        true
    }
}
