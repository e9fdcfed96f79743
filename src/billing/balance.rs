//! Balance reads: single-flight, counted, and applied only by the store's leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::budget::Purpose;
use super::crowd::LIST_FROM;
use super::{Billing, Tools};
use crate::crash::CrashPoint;
use crate::domain::account::Account;
use crate::domain::ids::CustomerId;
use crate::store::account::{BalanceApplied, BalanceRead, ReadOutcome};
use crate::store::wake::Wake;

/// How long a client waits for Dodo at most.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A refusal reads live at most this often for one customer.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(5);
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
    /// To be read only if nobody has read them when their turn comes.
    stale: Mutex<BTreeSet<CustomerId>>,
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

/// How old an answer may be that somebody is content with.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// With a balance.
    read: Duration,
    /// That Dodo did not give one.
    failure: Duration,
}

impl Patience {
    /// Nothing but a read that begins after the question will do.
    const NONE: Self = Self { read: Duration::ZERO, failure: Duration::ZERO };
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

    /// Asks for a read in the background, unless another one comes before it.
    pub(super) fn ask_if_stale(&self, customer_id: &CustomerId) {
        let is_new = lock(&self.stale).insert(customer_id.clone());
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

    /// Asks for those again whose entries may be another process's, which tells nobody here
    /// when a call has ended.
    pub(super) fn ask_deferred(&self) {
        let deferred = std::mem::take(&mut *lock(&self.deferred));
        deferred.iter().for_each(|customer_id| self.ask(customer_id));
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

/// Mail was sent for credits that are not there any more: the operator's loss until the next top-up.
fn warn_of_shortfall(customer_id: &CustomerId, account: &Account) {
    let shortfall = account.shortfall().get();
    if shortfall > 0 {
        tracing::warn!(
            %customer_id,
            balance = account.balance,
            owed = account.owed.get(),
            shortfall,
            "credits expired or were spent elsewhere before they could be debited; the next top-up pays them first"
        );
    }
}

impl Billing {
    /// Reads a balance for somebody who waits; `None`: it cannot be had in time.
    pub(super) async fn read_balance(&self, customer_id: &CustomerId) -> Option<Account> {
        self.wait_for_read(customer_id, Patience::NONE).await
    }

    /// Reads a balance for somebody of whom none is known that can be used. A read
    /// that is under way, or was made a moment ago, will do.
    pub(super) async fn read_unknown(&self, customer_id: &CustomerId) -> Option<Account> {
        let settings = &self.0.settings;
        let patience = Patience { read: settings.balance_max_age, failure: Duration::ZERO };
        let account = self.wait_for_read(customer_id, patience).await?;
        if self.age(&account).is_some_and(|age| age <= settings.outage_max_age) {
            return Some(account);
        }
        self.read_balance(customer_id).await
    }

    /// Reads a balance for somebody who would be refused. Whoever is refused
    /// within five seconds of such a read has waited for it, and makes no other.
    pub(super) async fn read_before_refusal(&self, customer_id: &CustomerId) -> Option<Account> {
        self.wait_for_read(customer_id, Patience { read: REFUSAL_INTERVAL, failure: REFUSAL_INTERVAL }).await
    }

    /// The read is a task of its own: an answer that comes too late for whoever
    /// asked is kept all the same.
    async fn wait_for_read(&self, customer_id: &CustomerId, patience: Patience) -> Option<Account> {
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
    async fn fly(&self, customer_id: &CustomerId, purpose: Purpose, patience: Patience) -> Option<Account> {
        let flight = self.0.reads.flight(customer_id);
        let asked = Instant::now();
        let read_after = flight.not_before(asked, patience.read);
        let failed_after = flight.not_before(asked, patience.failure);
        let mut last = flight.last.lock().await;
        if let Some(Last { began, account }) = *last
            && began >= if account.is_some() { read_after } else { failed_after }
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
        if purpose == Purpose::Answer {
            return self.ask_for_client(customer_id).await;
        }
        self.0.budget.take(purpose).await;
        self.ask_alone(customer_id).await
    }

    async fn apply(&self, leave: &BalanceRead, balance: i64) -> Option<BalanceApplied> {
        let store = &self.0.tools.store;
        store.pass(CrashPoint::BalanceRead);
        let applied = store.apply_balance(leave, balance, self.0.tools.clock.now()).await;
        let applied = applied.map_err(|error| error.tell("a balance could not be kept")).ok()?;
        store.pass(CrashPoint::BalanceApplied);
        if applied.low {
            self.low_balance(&leave.customer_id, applied.account.available_credits());
        }
        if applied.is_news {
            // What Dodo refused under the old balance may be settled under this one, here and elsewhere.
            self.refused().remove(&leave.customer_id);
            warn_of_shortfall(&leave.customer_id, &applied.account);
        }
        if applied.account.owed.get() > 0 {
            self.0.owing.notify_one();
            if applied.is_news {
                store.tell(Wake::Balance(leave.customer_id.clone())).await;
            }
        }
        Some(applied)
    }

    /// Takes in whose balance another process has read: whatever was refused here under the old
    /// one may be settled.
    pub(super) async fn hear_of_balances(self) {
        let Tools { store, stop, .. } = &self.0.tools;
        let mut balances = store.balances();
        while store.is_shared() {
            match stop.run_until_cancelled(balances.recv()).await {
                Some(Ok(customer_id)) => {
                    if self.refused().remove(&customer_id).is_some() {
                        self.0.owing.notify_one();
                    }
                }
                // Whose was missed is left alone for as long as before.
                Some(Err(RecvError::Lagged(_))) => {}
                Some(Err(RecvError::Closed)) | None => return,
            }
        }
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
            let back = self.0.budget.back();
            let refreshing = async {
                let wanted = self.wanted().await;
                self.refresh_all(wanted).await
            };
            let failed = tokio::select! {
                () = stop.cancelled() => return,
                failed = refreshing => failed,
            };
            if failed.is_empty() {
                wait = REFRESH_RETRY_MIN;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = back => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(REFRESH_RETRY_MAX);
            failed.iter().for_each(|customer_id| self.0.reads.ask(customer_id));
        }
    }

    /// Whom to read now: who was asked for, and who is stale still.
    async fn wanted(&self) -> BTreeSet<CustomerId> {
        let mut wanted = std::mem::take(&mut *lock(&self.0.reads.asked));
        let stale = std::mem::take(&mut *lock(&self.0.reads.stale));
        for customer_id in stale {
            let account = self.0.tools.store.account(&customer_id).await;
            if account.is_ok_and(|account| account.is_some_and(|account| self.is_stale(&account))) {
                wanted.insert(customer_id);
            }
        }
        wanted
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
            let is_hopeless = in_a_row >= MAX_FAILURES && self.0.budget.is_away();
            if is_hopeless || self.fly(&customer_id, Purpose::Refresh, Patience::NONE).await.is_none() {
                in_a_row += 1;
                failed.insert(customer_id);
            } else {
                in_a_row = 0;
            }
        }
        failed
    }

    /// Many at once. Who is found is taken out of `leaves`. Who is on no page is left
    /// to be asked for alone: without a grant, or moved to another page meanwhile.
    /// `false`: Dodo did not answer.
    async fn refresh_by_list(&self, leaves: &mut BTreeMap<CustomerId, BalanceRead>) -> bool {
        self.0.budget.take(Purpose::Refresh).await;
        let wanted = leaves.keys().cloned().collect();
        let Ok(listed) = self.list_balances(&wanted, Purpose::Refresh).await else { return false };
        for (customer_id, balance) in listed {
            if let Some(leave) = leaves.remove(&customer_id) {
                self.apply(&leave, balance).await;
            }
        }
        true
    }
}
