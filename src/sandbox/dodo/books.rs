//! Everything the stand-in for Dodo remembers, and how each event changes it.
//!
//! Pure: events in, state out. The stand-in writes events down before it applies
//! them, so reading them again gives the same books.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Made};
use super::ledger::{Account, Line, Posting};
use super::shop::{Customer, Payment, Session, Subscription};
use crate::sandbox::webhook::Parcel;

/// How long an idempotency key is remembered, in milliseconds.
const KEY_LIFETIME_MS: i64 = 24 * 3_600_000;

/// One thing that happened. A line of the journal holds those that happened together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// A customer was made.
    Joined(Customer),
    /// Credits moved.
    Posted(Posting),
    /// A checkout session was opened.
    Opened(Session),
    /// A session was paid.
    Paid {
        /// The payment.
        payment: Payment,
        /// The subscription that it began.
        subscription: Option<Subscription>,
    },
    /// A webhook has to be delivered.
    Owed(Parcel),
    /// It was, or nobody wants it.
    Settled {
        /// Its `webhook-id`.
        webhook_id: String,
    },
    /// Every idempotency key was forgotten.
    Forgot,
    /// The merchant made something to sell, or an endpoint.
    Made(Made),
}

/// A key that was used.
#[derive(Debug, Clone, Copy)]
struct Used {
    at_ms: i64,
    /// Index of the line it made.
    line: usize,
}

/// A customer's key.
type Key = (String, String);

/// The state.
#[derive(Debug, Default)]
pub(super) struct Books {
    customers: Vec<Customer>,
    customer_at: HashMap<String, usize>,
    first_with_email: HashMap<String, usize>,
    accounts: Vec<Account>,
    account_at: HashMap<String, usize>,
    keys: HashMap<Key, Used>,
    keys_by_age: VecDeque<(i64, Key)>,
    sessions: HashMap<String, Session>,
    payments: Vec<Payment>,
    payment_at: HashMap<String, usize>,
    subscriptions: Vec<Subscription>,
    subscription_at: HashMap<String, usize>,
    subscriptions_of: HashMap<String, Vec<usize>>,
    owed: BTreeMap<String, Parcel>,
    catalog: Catalog,
}

impl Books {
    /// Carries out one event.
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Joined(customer) => {
                let index = self.customers.len();
                self.customer_at.insert(customer.customer_id.clone(), index);
                self.first_with_email.entry(customer.email.to_lowercase()).or_insert(index);
                self.customers.push(customer);
            }
            Event::Posted(posting) => self.post(posting),
            Event::Opened(session) => {
                self.sessions.insert(session.session_id.clone(), session);
            }
            Event::Paid { payment, subscription } => {
                if let Some(session) = self.sessions.get_mut(&payment.session_id) {
                    session.payment_id = Some(payment.payment_id.clone());
                }
                self.payment_at.insert(payment.payment_id.clone(), self.payments.len());
                self.payments.push(payment);
                if let Some(subscription) = subscription {
                    let index = self.subscriptions.len();
                    self.subscription_at.insert(subscription.subscription_id.clone(), index);
                    self.subscriptions_of.entry(subscription.customer_id.clone()).or_default().push(index);
                    self.subscriptions.push(subscription);
                }
            }
            Event::Owed(parcel) => {
                self.owed.insert(parcel.webhook_id.clone(), parcel);
            }
            Event::Settled { webhook_id } => {
                self.owed.remove(&webhook_id);
            }
            Event::Forgot => {
                self.keys.clear();
                self.keys_by_age.clear();
            }
            Event::Made(made) => self.catalog.add(made),
        }
    }

    /// What the merchant has set up.
    pub(super) const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn post(&mut self, posting: Posting) {
        let index = *self.account_at.entry(posting.customer_id.clone()).or_insert_with(|| {
            self.accounts.push(Account::new(&posting.customer_id, posting.line.at_ms));
            self.accounts.len() - 1
        });
        let Some(account) = self.accounts.get_mut(index) else { return };
        if let Some(key) = &posting.key {
            let at_ms = posting.line.at_ms;
            let key = (posting.customer_id.clone(), key.clone());
            self.keys.insert(key.clone(), Used { at_ms, line: account.lines.len() });
            self.keys_by_age.push_back((at_ms, key));
        }
        account.apply(posting);
    }

    /// The line that this key made within the last day.
    pub(super) fn used(&mut self, customer_id: &str, key: &str, now_ms: i64) -> Option<&Line> {
        while let Some((at_ms, old)) = self.keys_by_age.front() {
            if now_ms - at_ms < KEY_LIFETIME_MS {
                break;
            }
            if self.keys.get(old).is_some_and(|used| used.at_ms == *at_ms) {
                self.keys.remove(old);
            }
            self.keys_by_age.pop_front();
        }
        let used = *self.keys.get(&(customer_id.to_owned(), key.to_owned()))?;
        self.account(customer_id)?.lines.get(used.line)
    }

    /// The customer with that id.
    pub(super) fn customer(&self, customer_id: &str) -> Option<&Customer> {
        self.customers.get(*self.customer_at.get(customer_id)?)
    }

    /// The first customer with that e-mail address, in any case of letters.
    pub(super) fn customer_by_email(&self, email: &str) -> Option<&Customer> {
        self.customers.get(*self.first_with_email.get(&email.to_lowercase())?)
    }

    /// All customers, oldest first.
    pub(super) fn customers(&self) -> &[Customer] {
        &self.customers
    }

    /// The credits of that customer, if it ever had any.
    pub(super) fn account(&self, customer_id: &str) -> Option<&Account> {
        self.accounts.get(*self.account_at.get(customer_id)?)
    }

    /// The same, to look for what expired.
    pub(super) fn account_mut(&mut self, customer_id: &str) -> Option<&mut Account> {
        self.accounts.get_mut(*self.account_at.get(customer_id)?)
    }

    /// All accounts, oldest first.
    pub(super) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The session with that id.
    pub(super) fn session(&self, session_id: &str) -> Option<&Session> {
        self.sessions.get(session_id)
    }

    /// The payment with that id.
    pub(super) fn payment(&self, payment_id: &str) -> Option<&Payment> {
        self.payments.get(*self.payment_at.get(payment_id)?)
    }

    /// All payments, oldest first.
    pub(super) fn payments(&self) -> &[Payment] {
        &self.payments
    }

    /// The subscription with that id.
    pub(super) fn subscription(&self, subscription_id: &str) -> Option<&Subscription> {
        self.subscriptions.get(*self.subscription_at.get(subscription_id)?)
    }

    /// The subscriptions of that customer, oldest first.
    pub(super) fn subscriptions_of(&self, customer_id: &str) -> Vec<&Subscription> {
        let indices = self.subscriptions_of.get(customer_id).map(Vec::as_slice).unwrap_or_default();
        indices.iter().filter_map(|index| self.subscriptions.get(*index)).collect()
    }

    /// All subscriptions, oldest first.
    pub(super) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Webhooks that nobody has taken yet, oldest first.
    pub(super) fn owed(&self) -> Vec<Parcel> {
        self.owed.values().cloned().collect()
    }
}
