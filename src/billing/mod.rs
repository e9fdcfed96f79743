//! Money: balances read from Dodo, captured debits settled there.
//!
//! [`dodo`] makes the calls, [`events`] reads the webhooks, [`budget`] shares out
//! the few calls that Dodo allows, `balance` decides whether a customer has
//! credit, `settle` pays what is owed as `verdict` decides, `doubt` finds out what
//! became of entries that no answer can tell about, `watch` looks whether the sums
//! agree, `notice` tells who runs low. The sums themselves are moved by the store,
//! in one transaction with the mail. What this room must not know: SMTP, SQL, how mail leaves.

mod balance;
pub mod budget;
pub mod dodo;
mod doubt;
pub mod events;
mod ledger;
mod notice;
pub mod reconcile;
mod settle;
pub(crate) mod verdict;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::domain::refusal::Refusal;
use crate::mime::address_list::NamedMailbox;
use crate::routing::Routing;
use crate::store::Store;
use crate::telemetry::Metrics;
use balance::Reads;
use budget::Budget;
use dodo::Dodo;
use notice::Notices;

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
    /// `billing.key_lifetime_s`.
    pub key_lifetime: Duration,
    /// `billing.lookup_wait_s`.
    pub lookup_wait: Duration,
    /// `billing.audit_interval_s`.
    pub audit_interval: Duration,
    /// Where customers buy credits.
    pub top_up_url: String,
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
            key_lifetime: Duration::from_secs(billing.key_lifetime_s),
            lookup_wait: Duration::from_secs(billing.lookup_wait_s),
            audit_interval: Duration::from_secs(billing.audit_interval_s),
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
    notices: Notices,
    /// Something was captured, or may be settled now.
    owing: Notify,
    /// An entry became doubtful.
    doubted: Notify,
    /// Calls for entries ended: a balance read that waited for that may go on.
    closed: Notify,
    /// Customers whose entries Dodo refuses, until when they are left alone.
    refused: Mutex<BTreeMap<CustomerId, Instant>>,
    /// Entries that some task is posting.
    posting: Mutex<BTreeSet<EntryId>>,
}

impl Billing {
    /// The money rooms. Nothing runs until [`Billing::start`].
    pub fn new(tools: Tools, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            tools,
            settings,
            budget: Budget::new(),
            reads: Reads::default(),
            notices: Notices::default(),
            owing: Notify::new(),
            doubted: Notify::new(),
            closed: Notify::new(),
            refused: Mutex::default(),
            posting: Mutex::default(),
        }))
    }

    /// Starts the settler, the search for doubtful entries, the refresher of
    /// balances and the watch over the books.
    pub fn start(&self) {
        let tasks = &self.0.tools.tasks;
        tasks.spawn(self.clone().settle());
        tasks.spawn(self.clone().resolve_doubts());
        tasks.spawn(self.clone().watch_books());
        tasks.spawn(self.clone().refresh());
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
            let account = self.read_balance(customer_id).await.ok_or(Refusal::BillingUnknown)?;
            return self.decide(&account, price);
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
        match self.0.tools.store.account(customer_id).await {
            Ok(Some(account)) => self.decide(&account, price),
            _ => Err(Refusal::StoreUnavailable),
        }
    }

    fn decide(&self, account: &Account, price: Credits) -> Result<Credits, Refusal> {
        match account.covers(price) {
            Some(true) => Ok(account.available_credits().unwrap_or_default().max(price)),
            Some(false) => Err(self.out_of_credit()),
            None => Err(Refusal::BillingUnknown),
        }
    }

    /// The refusal for lack of credit.
    pub fn out_of_credit(&self) -> Refusal {
        Refusal::OutOfCredit { top_up_url: self.0.settings.top_up_url.clone() }
    }

    /// News that a customer's balance may have changed (a webhook): it is read
    /// soon, in the background, and a refusal may read it live again at once.
    pub fn balance_changed(&self, customer_id: &CustomerId) {
        self.0.reads.has_changed(customer_id);
    }

    /// Has a balance read in the background if it is unknown or older than it may be.
    pub fn refresh_if_stale(&self, customer_id: &CustomerId, account: &Account) {
        if self.age(account).is_none_or(|age| age > self.0.settings.balance_max_age) {
            self.0.reads.ask(customer_id);
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

    fn refused(&self) -> MutexGuard<'_, BTreeMap<CustomerId, Instant>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn posting(&self) -> MutexGuard<'_, BTreeSet<EntryId>> {
        self.0.posting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
