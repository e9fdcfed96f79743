//! Money: balances read from Dodo, captured debits settled there.
//!
//! [`dodo`] makes the calls, [`events`] reads the webhooks, [`budget`] shares out
//! the few calls that Dodo allows, `balance` decides whether a customer has
//! credit, `settle` pays what is owed as `verdict` decides, `refund` gives back what
//! bounced, `expiry` says until when credits last, `doubt` finds out what became of entries that
//! no answer can tell about, `watch` looks whether the sums agree, `notice` writes to customers about
//! their account, `links` mails them the links by which they sign in. The sums
//! themselves are moved by the store, in one transaction with the mail. Waits and
//! what they are measured by go by tokio's clock, which a test can stop; what is
//! written down goes by the clock that is handed in. What this room must not know:
//! SMTP, SQL, how mail leaves.

mod balance;
pub mod budget;
mod crowd;
pub mod dodo;
pub(crate) mod doubt;
pub mod events;
pub mod expiry;
mod in_hand;
pub(crate) mod ledger;
pub(crate) mod links;
pub(crate) mod notice;
pub mod reconcile;
pub(crate) mod refund;
mod settle;
pub(crate) mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::domain::refusal::Refusal;
use crate::mime::address_list::NamedMailbox;
use crate::ration::Ration;
use crate::routing::Routing;
use crate::store::Store;
use crate::telemetry::{DodoCall, DodoResult, Metrics};
use balance::Reads;
use budget::{Budget, Purpose, is_limited};
use crowd::Crowd;
use dodo::{Dodo, DodoError, Reply};
use notice::Notices;
use refund::Refunds;

/// The handle on the money rooms that others hold.
#[derive(Debug, Clone)]
pub struct Billing(Arc<Inner>);

/// What billing works with.
#[derive(Debug)]
pub struct Tools {
    /// The database.
    pub store: Store,
    /// The client.
    pub dodo: Dodo,
    /// The roads, for notices.
    pub routing: Routing,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The owner of what runs in the background.
    pub tasks: TaskTracker,
    /// The end of it.
    pub stop: CancellationToken,
}

/// What billing is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `billing.balance_max_age_s`; zero: read live at every MAIL.
    pub balance_max_age: Duration,
    /// `billing.outage_max_age_h`.
    pub outage_max_age: Duration,
    /// `billing.refund_bounced`.
    pub refund_bounced: bool,
    /// `billing.key_lifetime_s`.
    pub key_lifetime: Duration,
    /// `billing.lookup_wait_s`.
    pub lookup_wait: Duration,
    /// `billing.audit_interval_s`.
    pub audit_interval: Duration,
    /// Where customers buy credits.
    pub top_up_url: String,
    /// `BASE_URL`: where the page is.
    pub base_url: String,
    /// Which notices are mailed.
    pub notices: config::Notices,
    /// The name and address that notices come from.
    pub notices_from: NamedMailbox,
    /// `smtp.hostname`.
    pub hostname: String,
}

impl Settings {
    /// The settings of this configuration; `base_url` is where customers top up unless it says otherwise.
    pub fn new(config: &Config, base_url: &str, notices_from: NamedMailbox) -> Self {
        let billing = &config.billing;
        Self {
            balance_max_age: Duration::from_secs(billing.balance_max_age_s),
            outage_max_age: Duration::from_secs(billing.outage_max_age_h.saturating_mul(3600)),
            refund_bounced: billing.refund_bounced,
            key_lifetime: Duration::from_secs(billing.key_lifetime_s),
            lookup_wait: Duration::from_secs(billing.lookup_wait_s),
            audit_interval: Duration::from_secs(billing.audit_interval_s),
            base_url: base_url.to_owned(),
            notices: config.notices.clone(),
            top_up_url: billing.top_up_url.clone().unwrap_or_else(|| base_url.to_owned()),
            notices_from,
            hostname: config.smtp.hostname.clone(),
        }
    }
}

#[derive(Debug)]
struct Inner {
    tools: Tools,
    settings: Settings,
    budget: Budget,
    reads: Reads,
    crowd: Crowd,
    notices: Notices,
    refunds: Refunds,
    expiries: expiry::Kept,
    /// Something was captured, or may be settled now.
    owing: Notify,
    /// An entry became doubtful.
    doubted: Notify,
    /// Calls for entries ended: a balance read that waited for that may go on.
    closed: Notify,
    /// Customers whose entries Dodo refuses.
    refused: Mutex<BTreeMap<CustomerId, Refused>>,
    /// Entries that some task is posting, and until when they are surely ours.
    posting: Mutex<BTreeMap<EntryId, Instant>>,
}

/// Dodo refused a customer's entry, and would refuse the same again.
#[derive(Debug, Clone, Copy)]
struct Refused {
    /// They are left alone until then …
    until: Instant,
    /// … which was so long; the next time it is longer.
    wait: Duration,
}

impl Billing {
    /// The money rooms. Nothing runs until [`Billing::start`].
    pub fn new(tools: Tools, settings: Settings) -> Self {
        let budget = Budget::new(Ration::of(&tools.store, &tools.clock));
        Self(Arc::new(Inner {
            tools,
            settings,
            budget,
            reads: Reads::default(),
            crowd: Crowd::default(),
            notices: Notices::default(),
            refunds: Refunds::default(),
            expiries: expiry::Kept::default(),
            owing: Notify::new(),
            doubted: Notify::new(),
            closed: Notify::new(),
            refused: Mutex::default(),
            posting: Mutex::default(),
        }))
    }

    /// Starts the settler, what keeps its entries in hand, the search for doubtful entries, the refresher of
    /// balances and the watch over the books.
    pub fn start(&self) {
        let tasks = &self.0.tools.tasks;
        tasks.spawn(self.clone().settle());
        tasks.spawn(self.clone().keep_in_hand());
        tasks.spawn(self.clone().show_debts());
        tasks.spawn(self.clone().resolve_doubts());
        tasks.spawn(self.clone().watch_books());
        tasks.spawn(self.clone().refresh());
        tasks.spawn(self.clone().hear_of_balances());
    }

    /// Whether a customer may have `price` credits held now, by what is known; asks
    /// Dodo only where that is not enough to say yes. Returns what is available then.
    pub async fn check_credit(
        &self,
        customer_id: &CustomerId,
        account: &Account,
        price: Credits,
    ) -> Result<Credits, Refusal> {
        let settings = &self.0.settings;
        let age = self.age(account);
        let is_usable = age.is_some_and(|age| age <= settings.outage_max_age);
        if !is_usable || settings.balance_max_age.is_zero() {
            let account = self.read_unknown(customer_id).await;
            let account = account.ok_or(Refusal::BillingUnknown)?;
            return self.refused_or(customer_id, self.decide(&account, price));
        }
        self.refresh_if_stale(customer_id, account);
        match self.decide(account, price) {
            Ok(available) => Ok(available),
            Err(_) => self.check_credit_live(customer_id, price).await,
        }
    }

    /// How long ago Dodo said what the balance is.
    fn age(&self, account: &Account) -> Option<Duration> {
        let age = self.0.tools.clock.now().duration_since(account.balance_read_at?);
        Some(Duration::try_from(age).unwrap_or_default())
    }

    /// Before credit is refused: one live look, at most once per customer per 5 s.
    pub async fn check_credit_live(
        &self,
        customer_id: &CustomerId,
        price: Credits,
    ) -> Result<Credits, Refusal> {
        // Dodo away is no reason to accept: the refusal stands on what is known.
        let _ = self.read_before_refusal(customer_id).await;
        let decided = match self.0.tools.store.account(customer_id).await {
            Ok(Some(account)) => self.decide(&account, price),
            _ => Err(Refusal::StoreUnavailable),
        };
        self.refused_or(customer_id, decided)
    }

    fn decide(&self, account: &Account, price: Credits) -> Result<Credits, Refusal> {
        match account.covers(price) {
            Some(true) => Ok(account.available_credits().unwrap_or_default().max(price)),
            Some(false) => Err(self.out_of_credit(account.shortfall())),
            None => Err(Refusal::BillingUnknown),
        }
    }

    /// The refusal for lack of credit.
    pub fn out_of_credit(&self, shortfall: Credits) -> Refusal {
        Refusal::OutOfCredit { top_up_url: self.0.settings.top_up_url.clone(), shortfall }
    }

    /// Makes a call that a client waits for, and has waited for long enough if its
    /// turn does not come: every call to Dodo is drawn from the one budget.
    pub async fn call_for_client<T>(
        &self,
        call: DodoCall,
        request: impl Future<Output = Reply<Result<T, DodoError>>>,
    ) -> Result<T, DodoError> {
        let turn = self.0.budget.take(Purpose::Answer);
        if tokio::time::timeout(balance::ANSWER_WAIT, turn).await.is_err() {
            return Err(DodoError::RateLimited { retry_after: None });
        }
        self.made(call, request.await)
    }

    /// Makes a call that nobody waits for, when its turn comes.
    pub async fn call_in_turn<T>(
        &self,
        call: DodoCall,
        request: impl Future<Output = Reply<Result<T, DodoError>>>,
    ) -> Result<T, DodoError> {
        self.0.budget.take(Purpose::Refresh).await;
        self.made(call, request.await)
    }

    /// Learns from a call that was made, and counts it.
    fn made<T>(&self, call: DodoCall, reply: Reply<Result<T, DodoError>>) -> Result<T, DodoError> {
        self.0.budget.learn(&reply.rate, is_limited(&reply.answer));
        self.count(call, &reply.answer);
        reply.answer
    }

    /// Counts a call; the last of them says whether Dodo is up.
    fn count<T>(&self, call: DodoCall, answer: &Result<T, DodoError>) {
        let is_balance = matches!(call, DodoCall::ReadBalance | DodoCall::ListBalances);
        let (result, is_refusing) = match answer {
            Ok(_) => (DodoResult::Ok, Some(false)),
            Err(DodoError::RateLimited { .. }) => (DodoResult::RateLimited, None),
            Err(DodoError::Unavailable { .. }) => (DodoResult::Unanswered, None),
            Err(DodoError::Malformed { .. }) => (DodoResult::Failed, None),
            Err(DodoError::Unauthorized) => (DodoResult::Refused, Some(true)),
            // There is no such entitlement; what else is not there need not be.
            Err(DodoError::NotFound { .. }) => (DodoResult::Refused, is_balance.then_some(true)),
            Err(DodoError::Refused { .. }) => (DodoResult::Refused, None),
        };
        self.count_as(call, result, is_refusing);
    }

    /// `is_refusing`: whether Dodo refuses these calls for something that the
    /// operator must mend, as far as this one shows.
    fn count_as(&self, call: DodoCall, result: DodoResult, is_refusing: Option<bool>) {
        let metrics = &self.0.tools.metrics;
        metrics.dodo_call(call, result);
        if let Some(is_refusing) = is_refusing {
            metrics.set_dodo_refusing(call, is_refusing);
        }
        self.0.budget.went(!matches!(result, DodoResult::Failed | DodoResult::Unanswered));
    }

    /// News that a customer's balance may have changed (a webhook): it is read
    /// soon, in the background, and a refusal may read it live again at once.
    pub fn balance_changed(&self, customer_id: &CustomerId) {
        self.0.reads.has_changed(customer_id);
        self.0.expiries.has_changed(customer_id);
    }

    fn is_stale(&self, account: &Account) -> bool {
        self.age(account).is_none_or(|age| age > self.0.settings.balance_max_age)
    }

    /// Has a balance read in the background if it is unknown or older than it may be.
    pub fn refresh_if_stale(&self, customer_id: &CustomerId, account: &Account) {
        if self.is_stale(account) {
            self.0.reads.ask_if_stale(customer_id);
        }
    }

    /// News of a debit at Dodo. Nearly all are our own entries, whose answers have
    /// said what is left already; only a balance that is stale anyway is read.
    pub async fn balance_lowered(&self, customer_id: &CustomerId) {
        if let Ok(Some(account)) = self.0.tools.store.account(customer_id).await {
            self.refresh_if_stale(customer_id, &account);
        }
    }

    /// News that credits were captured: the settler looks for what is owed.
    pub fn captured(&self) {
        self.0.owing.notify_one();
    }

    /// Available fell below the low-balance mark: the customer is told, once a crossing.
    pub fn low_balance(&self, customer_id: &CustomerId, available: Option<Credits>) {
        if self.0.notices.begin(customer_id) {
            let billing = self.clone();
            let customer_id = customer_id.clone();
            self.0.tools.tasks.spawn(async move { billing.tell_low(&customer_id, available).await });
        }
    }

    /// A decision about mail; whoever is refused for lack of credit is told by mail too, once until
    /// there is more.
    fn refused_or(
        &self,
        customer_id: &CustomerId,
        decided: Result<Credits, Refusal>,
    ) -> Result<Credits, Refusal> {
        let Tools { clock, tasks, .. } = &self.0.tools;
        if matches!(decided, Err(Refusal::OutOfCredit { .. }))
            && self.0.notices.may_tell_of_none(customer_id, clock.now())
        {
            let billing = self.clone();
            let customer_id = customer_id.clone();
            tasks.spawn(async move { billing.tell_none(&customer_id).await });
        }
        decided
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<CustomerId, Refused>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn posting(&self) -> MutexGuard<'_, BTreeMap<EntryId, Instant>> {
        self.0.posting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
