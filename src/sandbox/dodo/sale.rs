//! Paying a checkout session: who the customer is, what they get, and which
//! webhooks tell of it.

use serde_json::Value;

use super::books::{Books, Event};
use super::ledger::{Grant, Line, Posting, Source, Transaction};
use super::shop::{Buyer, Customer, GRANT_DAYS, Payment, Session, Subscription};
use super::{DodoStandIn, fresh, wire};
use crate::sandbox::webhook::Parcel;

const DAY_MS: i64 = 24 * 3_600_000;

/// What a visitor typed at the checkout page.
#[derive(Debug, Clone, Default)]
pub struct Payer {
    /// Used unless the session was opened with one.
    pub email: String,
    /// Likewise.
    pub name: String,
}

/// What a payment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The payment.
    pub payment_id: String,
    /// The subscription that it began.
    pub subscription_id: Option<String>,
    /// Who got the credits.
    pub customer_id: String,
    /// The customer's e-mail address.
    pub email: String,
    /// Where the browser goes now.
    pub return_url: Option<String>,
}

/// Why a session cannot be paid.
#[derive(Debug, thiserror::Error)]
pub enum PayError {
    /// There is no such session.
    #[error("there is no such checkout session")]
    Unknown,
    /// It was paid before.
    #[error("this checkout session has been used already")]
    Consumed,
    /// It is more than a day old.
    #[error("this checkout session has expired")]
    Expired,
    /// No usable e-mail address was given.
    #[error("an email address is needed")]
    NoEmail,
    /// The journal cannot be written.
    #[error("the sandbox cannot write its journal: {0}")]
    Journal(#[from] std::io::Error),
}

impl DodoStandIn {
    /// Pays a session: finds or makes the customer, grants the credits and sends the webhooks.
    ///
    /// # Errors
    /// [`PayError`]; then nothing happened.
    pub fn pay(&self, session_id: &str, payer: &Payer) -> Result<Receipt, PayError> {
        let now_ms = self.now_ms();
        let mut kept = self.kept();
        let session = kept.books.session(session_id).cloned().ok_or(PayError::Unknown)?;
        if session.payment_id.is_some() {
            return Err(PayError::Consumed);
        }
        if session.is_expired(now_ms) {
            return Err(PayError::Expired);
        }
        let (customer, is_new) = customer_of(&kept.books, &session, payer, now_ms)?;
        kept.lapse(&customer.customer_id, now_ms)?;
        let mut sale = Sale::of(&kept.books, &session, customer, now_ms);
        let parcels = self.shuffle(std::mem::take(&mut sale.parcels));
        let receipt = sale.receipt(&session);
        let mut events = sale.events(is_new);
        let wanted = self.0.courier.has_endpoint();
        if wanted {
            events.extend(parcels.iter().cloned().map(Event::Owed));
        }
        kept.commit(events)?;
        drop(kept);
        if wanted {
            self.send(parcels, true);
        }
        Ok(receipt)
    }
}

/// The customer that a session is for, and whether it has to be made.
fn customer_of(
    books: &Books,
    session: &Session,
    payer: &Payer,
    now_ms: i64,
) -> Result<(Customer, bool), PayError> {
    let (email, name, phone_number) = match &session.buyer {
        Some(Buyer::Known { customer_id }) => {
            let known = books.customer(customer_id).ok_or(PayError::Unknown)?;
            return Ok((known.clone(), false));
        }
        Some(Buyer::Named { email, name, phone_number }) => {
            (email.as_str(), name.as_deref().unwrap_or(&payer.name), phone_number.clone())
        }
        None => (payer.email.as_str(), payer.name.as_str(), None),
    };
    let email = email.trim();
    if !email.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) {
        return Err(PayError::NoEmail);
    }
    // An address typed by anyone attaches the payment to whoever has it already.
    if let (false, Some(known)) = (session.always_new_customer, books.customer_by_email(email)) {
        return Ok((known.clone(), false));
    }
    let customer = Customer {
        customer_id: fresh("cus"),
        email: email.to_owned(),
        name: name.trim().to_owned(),
        phone_number,
        metadata: serde_json::Map::new(),
        created_ms: now_ms,
    };
    Ok((customer, true))
}

/// What one payment makes, before it is written down.
struct Sale {
    customer: Customer,
    payment: Payment,
    subscription: Option<Subscription>,
    postings: Vec<Posting>,
    parcels: Vec<Parcel>,
}

impl Sale {
    fn of(books: &Books, session: &Session, customer: Customer, now_ms: i64) -> Self {
        let recurring = session.cart.iter().find(|item| item.ware().is_some_and(|ware| ware.recurring));
        let subscription = recurring.map(|item| Subscription {
            subscription_id: fresh("sub"),
            customer_id: customer.customer_id.clone(),
            product_id: item.product_id.clone(),
            quantity: item.quantity,
            credits: item.credits,
            ware: item.ware(),
            metadata: session.metadata.clone(),
            created_ms: now_ms,
        });
        let payment = Payment {
            payment_id: fresh("pay"),
            session_id: session.session_id.clone(),
            customer_id: customer.customer_id.clone(),
            subscription_id: subscription.as_ref().map(|subscription| subscription.subscription_id.clone()),
            cart: session.cart.clone(),
            total: session.total(),
            metadata: session.metadata.clone(),
            created_ms: now_ms,
        };
        let mut sale = Self { customer, payment, subscription, postings: Vec::new(), parcels: Vec::new() };
        sale.grant(books);
        sale.tell();
        sale
    }

    fn grant(&mut self, books: &Books) {
        let at_ms = self.payment.created_ms;
        let mut balance = books.account(&self.customer.customer_id).map_or(0, |account| account.balance);
        for item in self.payment.cart.iter().filter(|item| item.credits > 0) {
            let subscribed =
                self.subscription.as_ref().filter(|subscription| subscription.product_id == item.product_id);
            let (source, reference) = match subscribed {
                Some(subscription) => {
                    (Source::Subscription, ("subscription", subscription.subscription_id.clone()))
                }
                None => (Source::OneTime, ("payment", self.payment.payment_id.clone())),
            };
            let days = item.ware().map_or(GRANT_DAYS, |ware| ware.days);
            let grant = Grant {
                id: fresh("cdg"),
                source,
                source_id: Some(reference.1.clone()),
                initial: item.credits,
                remaining: item.credits,
                expires_ms: Some(at_ms.saturating_add(days.saturating_mul(DAY_MS))),
                created_ms: at_ms,
                updated_ms: at_ms,
                metadata: self.payment.metadata.clone(),
            };
            let what = match source {
                Source::Subscription => "Credits granted for Subscription payment",
                Source::OneTime | Source::Api => "Credits granted for OneTime payment",
            };
            let mut posting = granted(books, &self.customer.customer_id, grant, what, Some(reference));
            posting.line.before = balance;
            balance = balance.saturating_add(item.credits);
            posting.line.after = balance;
            self.postings.push(posting);
        }
    }

    /// The webhooks, in the order in which things happened.
    fn tell(&mut self) {
        let at_ms = self.payment.created_ms;
        let id = &self.customer.customer_id;
        let mut parcels = Vec::new();
        let mut tell = |event: &str, payload: &str, data| parcels.push(parcel(event, payload, at_ms, data));
        let balance = self.postings.last().map_or(0, |posting| posting.line.after);
        let subscribed = self
            .subscription
            .as_ref()
            .map(|subscription| wire::subscription(subscription, &self.customer, balance));
        if let Some(subscription) = &subscribed {
            tell("subscription.active", "Subscription", subscription.clone());
        }
        tell("payment.succeeded", "Payment", wire::payment(&self.payment, &self.customer));
        for posting in &self.postings {
            tell("credit.added", "CreditLedgerEntry", wire::ledger_entry(id, &posting.line, true));
        }
        if let Some(subscription) = subscribed {
            tell("subscription.renewed", "Subscription", subscription);
        }
        self.parcels = parcels;
    }

    fn receipt(&self, session: &Session) -> Receipt {
        Receipt {
            payment_id: self.payment.payment_id.clone(),
            subscription_id: self.payment.subscription_id.clone(),
            customer_id: self.customer.customer_id.clone(),
            email: self.customer.email.clone(),
            return_url: session.return_url.clone(),
        }
    }

    fn events(self, is_new: bool) -> Vec<Event> {
        let mut events = Vec::new();
        if is_new {
            events.push(Event::Joined(self.customer));
        }
        events.push(Event::Paid { payment: self.payment, subscription: self.subscription });
        events.extend(self.postings.into_iter().map(Event::Posted));
        events
    }
}

/// The posting that a grant makes.
pub(super) fn granted(
    books: &Books,
    customer_id: &str,
    grant: Grant,
    description: &str,
    reference: Option<(&str, String)>,
) -> Posting {
    let before = books.account(customer_id).map_or(0, |account| account.balance);
    let line = Line {
        id: fresh("cdl"),
        at_ms: grant.created_ms,
        transaction: Transaction::CreditAdded,
        is_credit: true,
        amount: grant.initial,
        before,
        after: before.saturating_add(grant.initial),
        description: Some(description.to_owned()),
        grant_id: Some(grant.id.clone()),
        reference: reference.map(|(kind, id)| (kind.to_owned(), id)),
        metadata: grant.metadata.clone(),
    };
    Posting { customer_id: customer_id.to_owned(), line, grant: Some(grant), key: None }
}

/// A webhook that tells of `data`.
pub(super) fn parcel(event: &str, payload_type: &str, at_ms: i64, data: Value) -> Parcel {
    let body = wire::webhook(event, payload_type, at_ms, data).to_string();
    Parcel { webhook_id: fresh("msg"), event: event.to_owned(), body }
}
