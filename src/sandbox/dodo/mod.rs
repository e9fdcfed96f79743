//! A stand-in for Dodo Payments: an HTTP server on loopback with one credit
//! entitlement, a plan and a top-up, that behaves as the API is documented or was
//! seen to behave, awkward parts included, and misbehaves on demand.
//!
//! Lock, decide, write down, apply, unlock: nothing waits while the books are
//! locked. What it must not know: Postmeter's own accounts; it learns of them
//! only what its API is told, as Dodo does.

mod behaviour;
mod books;
mod catalog;
mod checkout;
mod entries;
mod events;
mod ledger;
mod portal;
mod refusal;
mod routes;
mod sale;
mod shop;
#[cfg(test)]
mod tests;
mod wire;

pub use behaviour::{Amounts, ApiEntries, Behaviour, EventOrder, RepeatedKey};
pub use ledger::{Grant, Line, Source, Transaction};
pub use sale::{PayError, Payer, Receipt};

use std::io::{Error, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Map;

use super::faults::Faults;
use super::journal::Journal;
use super::rate::Window;
use super::webhook::Courier;
use super::{Tasks, WEBHOOK_SECRET};
use crate::clock::Clock;
use crate::http::signature::{HeaderNames, SigningKey};
use books::{Books, Event};
use ledger::Posting;
use shop::Customer;

/// The stand-in. Clones are the same one.
#[derive(Debug, Clone)]
pub struct DodoStandIn(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Mutex<Kept>,
    behaviour: Mutex<Behaviour>,
    windows: Mutex<[Window; 2]>,
    checkout_base: Mutex<String>,
    faults: Faults,
    courier: Courier,
    clock: Clock,
    tasks: Tasks,
    calls: AtomicU64,
}

/// The books and the journal that they can be made from.
#[derive(Debug)]
struct Kept {
    books: Books,
    journal: Journal,
}

impl Kept {
    /// Writes down what happens together, then lets it happen.
    fn commit(&mut self, events: Vec<Event>) -> Result<()> {
        self.journal.append(&events)?;
        events.into_iter().for_each(|event| self.books.apply(event));
        Ok(())
    }

    /// Lets this customer's grants expire whose hour has come.
    fn lapse(&mut self, customer_id: &str, now_ms: i64) -> Result<()> {
        let Some(account) = self.books.account_mut(customer_id) else { return Ok(()) };
        let lapses = account.lapses(now_ms);
        self.expire(customer_id, lapses, now_ms)
    }

    fn expire(&mut self, customer_id: &str, grants: Vec<(String, u64)>, now_ms: i64) -> Result<()> {
        for (grant_id, amount) in grants {
            let before = self.books.account(customer_id).map_or(0, |account| account.balance);
            let line = Line {
                id: fresh("cdl"),
                at_ms: now_ms,
                transaction: Transaction::CreditExpired,
                is_credit: false,
                amount,
                before,
                after: before.saturating_sub(amount),
                description: Some("Credits expired".to_owned()),
                grant_id: Some(grant_id),
                reference: None,
                metadata: Map::new(),
            };
            let customer_id = customer_id.to_owned();
            self.commit(vec![Event::Posted(Posting { customer_id, line, grant: None, key: None })])?;
        }
        Ok(())
    }
}

impl DodoStandIn {
    /// Opens the stand-in on its journal in `data_dir`, or with nothing but memory.
    ///
    /// # Errors
    /// The journal cannot be opened or is damaged.
    pub(super) fn open(data_dir: Option<&Path>, clock: Clock, tasks: Tasks) -> Result<Self> {
        let signing_key = SigningKey::parse(&SecretString::from(WEBHOOK_SECRET)).map_err(Error::other)?;
        let mut books = Books::default();
        let journal = match data_dir {
            Some(dir) => Journal::open(&dir.join("sandbox-dodo.jsonl"), |events: Vec<Event>, _| {
                events.into_iter().for_each(|event| books.apply(event));
            })?,
            None => Journal::default(),
        };
        Ok(Self(Arc::new(Inner {
            ledger: Mutex::new(Kept { books, journal }),
            behaviour: Mutex::default(),
            windows: Mutex::new([Window::new(1_000), Window::new(60_000)]),
            checkout_base: Mutex::default(),
            faults: Faults::default(),
            courier: Courier::new(HeaderNames::Webhook, signing_key)?,
            clock,
            tasks,
            calls: AtomicU64::new(0),
        })))
    }

    /// The whole HTTP side: Dodo's API, the checkout page, `/_faults` and `/_behaviour`.
    pub(super) fn router(&self) -> Router {
        routes::router(self)
    }

    /// The pages that people see, to be served elsewhere too: the local checkout, the portal.
    pub fn checkout_page(&self) -> Router {
        checkout::router(self).merge(portal::router(self))
    }

    /// What it is to do wrong.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Its manners now.
    pub fn behaviour(&self) -> Behaviour {
        lock(&self.0.behaviour).clone()
    }

    /// Changes its manners.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.0.behaviour));
    }

    /// Registers the webhook endpoint; what could not be delivered before the last stop goes there now.
    pub fn deliver_webhooks_to(&self, endpoint: &str) {
        self.0.courier.deliver_to(endpoint);
        let owed = self.kept().books.owed();
        self.send(owed, true);
    }

    /// Where the checkout page is served: a base URL without a slash at the end.
    pub fn serve_checkout_at(&self, base: &str) {
        base.clone_into(&mut lock(&self.0.checkout_base));
    }

    /// Makes a customer, unless one has that id.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn add_customer(&self, customer_id: &str, email: &str, name: &str) -> Result<()> {
        let mut kept = self.kept();
        if kept.books.customer(customer_id).is_some() {
            return Ok(());
        }
        kept.commit(vec![Event::Joined(Customer {
            customer_id: customer_id.to_owned(),
            email: email.to_owned(),
            name: name.to_owned(),
            phone_number: None,
            metadata: Map::new(),
            created_ms: self.now_ms(),
        })])
    }

    /// Gives credits to a customer, without a webhook, as an entry posted from the dashboard would.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn grant(&self, customer_id: &str, credits: u64, expires_at: Option<Timestamp>) -> Result<()> {
        let now_ms = self.now_ms();
        let mut kept = self.kept();
        kept.lapse(customer_id, now_ms)?;
        let grant = Grant {
            id: fresh("cdg"),
            source: Source::Api,
            source_id: None,
            initial: credits,
            remaining: credits,
            expires_ms: expires_at.map(Timestamp::as_millisecond),
            created_ms: now_ms,
            updated_ms: now_ms,
            metadata: Map::new(),
        };
        let posting = sale::granted(&kept.books, customer_id, grant, "Credits granted", None);
        kept.commit(vec![Event::Posted(posting)])
    }

    /// Lets all credits of a customer expire now.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn expire_credits(&self, customer_id: &str) -> Result<()> {
        let now_ms = self.now_ms();
        let mut kept = self.kept();
        let grants = kept.books.account(customer_id).map(|account| account.grants.as_slice());
        let live = grants.unwrap_or_default().iter().filter(|grant| grant.remaining > 0);
        let live = live.map(|grant| (grant.id.clone(), grant.remaining)).collect();
        kept.expire(customer_id, live, now_ms)
    }

    /// Lets all credits of a customer expire now, and tells of it in webhooks.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn take_credit(&self, customer_id: &str) -> Result<()> {
        self.told(customer_id, || self.expire_credits(customer_id))
    }

    /// Gives credits to a customer, and tells of it in webhooks.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn give_credit(&self, customer_id: &str, credits: u64) -> Result<()> {
        self.told(customer_id, || self.grant(customer_id, credits, None))
    }

    /// Customers with their balances, newest first, at most so many.
    pub(super) fn newest_customers(&self, most: usize) -> Vec<(String, String, u64)> {
        let kept = self.kept();
        let newest = kept.books.customers().iter().rev().take(most);
        newest
            .map(|customer| {
                let balance = kept.books.account(&customer.customer_id).map_or(0, |account| account.balance);
                (customer.customer_id.clone(), customer.email.clone(), balance)
            })
            .collect()
    }

    /// Does something, and tells of what it left in a customer's ledger.
    fn told(&self, customer_id: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let known = self.ledger(customer_id).len();
        act()?;
        for line in self.ledger(customer_id).into_iter().skip(known) {
            let customer_id = customer_id.to_owned();
            self.tell_of_entry(&Posting { customer_id, line, grant: None, key: None });
        }
        Ok(())
    }

    /// Forgets every idempotency key, as a day does.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn forget_keys(&self) -> Result<()> {
        self.kept().commit(vec![Event::Forgot])
    }

    /// A customer's balance; `None` if it never had credits.
    pub fn balance(&self, customer_id: &str) -> Option<u64> {
        let now_ms = self.now_ms();
        let mut kept = self.kept();
        if let Err(error) = kept.lapse(customer_id, now_ms) {
            tracing::error!(%error, "the sandbox cannot write its journal");
        }
        kept.books.account(customer_id).map(|account| account.balance)
    }

    /// The sum of all debits of a customer; what expired is not among them.
    pub fn debited(&self, customer_id: &str) -> u64 {
        self.kept().books.account(customer_id).map_or(0, |account| account.debited)
    }

    /// A customer's ledger, oldest line first.
    pub fn ledger(&self, customer_id: &str) -> Vec<Line> {
        self.kept().books.account(customer_id).map_or_else(Vec::new, |account| account.lines.clone())
    }

    /// How many API requests arrived so far, refused ones included.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0.ledger)
    }

    fn now_ms(&self) -> i64 {
        self.0.clock.now().as_millisecond()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new identifier with that prefix.
fn fresh(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}
