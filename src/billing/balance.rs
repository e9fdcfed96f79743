//! Balance reads: single-flight, counted, and applied only by the store's leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Billing;
use super::budget::{Purpose, is_limited};
use super::dodo::{BalanceAnswer, DodoError};
use crate::domain::account::Account;
use crate::domain::ids::CustomerId;
use crate::store::account::BalanceRead;
use crate::telemetry::{DodoCall, DodoResult};

/// How long a client waits for a balance at most.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A refusal reads live at most this often for one customer.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(5);
/// More customers than this are refreshed with the list call.
const LIST_FROM: usize = 5;
/// Pages of the list call in one refresh at most.
const MAX_PAGES: u32 = 1000;
/// Tries of a read that an entry overtook.
const MAX_OVERTAKEN: u32 = 3;

/// Who is being read, who asked, and who was refused lately.
#[derive(Debug, Default)]
pub(super) struct Reads {
    flights: Mutex<BTreeMap<CustomerId, Arc<Flight>>>,
    refusals: Mutex<BTreeMap<CustomerId, Instant>>,
    asked: Mutex<BTreeSet<CustomerId>>,
    wake: Notify,
}

/// The reads of one customer, one at a time.
#[derive(Debug, Default)]
struct Flight(tokio::sync::Mutex<Option<(Instant, Option<Account>)>>);

impl Reads {
    /// Asks for a read in the background.
    pub(super) fn ask(&self, customer_id: &CustomerId) {
        let is_new = lock(&self.asked).insert(customer_id.clone());
        if is_new {
            self.wake.notify_one();
        }
    }

    /// Whether a refusal may read live now; remembers that it did.
    pub(super) fn may_ask_before_refusal(&self, customer_id: &CustomerId) -> bool {
        let now = Instant::now();
        let mut refusals = lock(&self.refusals);
        refusals.retain(|_, at| now.duration_since(*at) < REFUSAL_INTERVAL);
        if refusals.contains_key(customer_id) {
            return false;
        }
        refusals.insert(customer_id.clone(), now);
        true
    }

    /// A top-up may have landed: the next refusal may read live at once.
    pub(super) fn forget_refusal(&self, customer_id: &CustomerId) {
        lock(&self.refusals).remove(customer_id);
    }

    fn flight(&self, customer_id: &CustomerId) -> Arc<Flight> {
        let mut flights = lock(&self.flights);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(customer_id.clone()).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Billing {
    /// Reads a balance for somebody who waits; `None`: it cannot be had in time.
    pub(super) async fn read_balance(&self, customer_id: &CustomerId) -> Option<Account> {
        tokio::time::timeout(ANSWER_WAIT, self.fly(customer_id, Purpose::Answer)).await.ok().flatten()
    }

    /// One read at a time for a customer. Who asks while one is under way waits for
    /// a read that begins after the question, and shares it with the others.
    async fn fly(&self, customer_id: &CustomerId, purpose: Purpose) -> Option<Account> {
        let asked = Instant::now();
        let flight = self.0.reads.flight(customer_id);
        let mut last = flight.0.lock().await;
        if let Some((began, account)) = *last
            && began >= asked
        {
            return account;
        }
        let began = Instant::now();
        let account = self.read(customer_id, purpose).await;
        *last = Some((began, account));
        account
    }

    async fn read(&self, customer_id: &CustomerId, purpose: Purpose) -> Option<Account> {
        for _ in 0..MAX_OVERTAKEN {
            let leave = self.leave(customer_id).await?;
            let balance = self.ask_dodo(customer_id, purpose).await?;
            let (account, is_applied) = self.apply(&leave, balance).await?;
            if is_applied {
                return Some(account);
            }
        }
        // Entries keep coming between; each of them says what is left by itself.
        self.0.tools.store.account(customer_id).await.ok().flatten()
    }

    /// Waits until no entry of the customer is on its way.
    async fn leave(&self, customer_id: &CustomerId) -> Option<BalanceRead> {
        loop {
            let closed = self.0.closed.notified();
            if let Some(leave) = self.0.tools.store.begin_balance_read(customer_id).await.ok()? {
                return Some(leave);
            }
            let _ = tokio::time::timeout(Duration::from_millis(250), closed).await;
        }
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

    async fn apply(&self, leave: &BalanceRead, balance: i64) -> Option<(Account, bool)> {
        let store = &self.0.tools.store;
        let applied = store.apply_balance(leave, balance, self.0.tools.clock.now()).await;
        let applied = applied.map_err(|error| tracing::error!(%error, "a balance could not be kept")).ok()?;
        if applied.low {
            self.low_balance(&leave.customer_id, applied.account.available_credits());
        }
        if applied.account.owed.get() > 0 {
            self.0.owing.notify_one();
        }
        Some((applied.account, applied.is_applied))
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

    /// Reads in the background what was asked for, until it is told to stop.
    pub(super) async fn refresh(self) {
        let stop = self.0.tools.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.reads.wake.notified() => {}
            }
            let asked = std::mem::take(&mut *lock(&self.0.reads.asked));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.refresh_all(asked) => {}
            }
        }
    }

    async fn refresh_all(&self, asked: BTreeSet<CustomerId>) {
        if asked.len() >= LIST_FROM {
            return self.refresh_by_list(asked).await;
        }
        for customer_id in &asked {
            self.fly(customer_id, Purpose::Refresh).await;
        }
    }

    /// Many at once: a hundred balances a call.
    async fn refresh_by_list(&self, asked: BTreeSet<CustomerId>) {
        let mut leaves = BTreeMap::new();
        for customer_id in asked {
            // Whose entry is on its way is told the balance by its answer.
            if let Ok(Some(leave)) = self.0.tools.store.begin_balance_read(&customer_id).await {
                leaves.insert(customer_id, leave);
            }
        }
        for page in 0..MAX_PAGES {
            self.0.budget.take(Purpose::Refresh).await;
            let reply = self.0.tools.dodo.balances(page).await;
            self.0.budget.learn(&reply.rate, is_limited(&reply.answer));
            self.count(DodoCall::ListBalances, &reply.answer);
            let list = match reply.answer {
                Ok(list) => list,
                Err(error) => {
                    tracing::warn!(%error, "the balances could not be read");
                    return;
                }
            };
            for (customer_id, balance) in list.balances {
                if let Some(leave) = leaves.remove(&customer_id) {
                    self.apply(&leave, BalanceAnswer::Known(balance).credits()).await;
                }
            }
            if list.is_last || leaves.is_empty() {
                break;
            }
        }
        // Who is on no page never got a grant.
        for leave in leaves.values() {
            self.apply(leave, BalanceAnswer::NoGrantYet.credits()).await;
        }
    }
}
