//! Dodo Payments' HTTP API, as far as Postmeter needs it
//! (docs.dodopayments.com, "API Reference").
//!
//! Each call is made once: whoever calls keeps the entry or the question and
//! asks again. Every reply comes with what it says about the rate limit, which
//! is counted per account, so that one budget can learn from all of them. Dodo
//! has no idempotency header; only a ledger entry carries a key, and a key that
//! was used is answered 409, which here is a final answer. What this module
//! must not know: SQL, holds, who asks.

pub mod catalog;
pub mod credits;
mod portal;
pub(crate) mod wire;

pub use portal::PortalLink;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::billing::events::Payment;
use crate::clock::Clock;
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::outbound::{CallFailure, HttpAnswer, InvalidService, RateInfo, Service, call};

/// The host for keys of test mode.
pub const TEST_HOST: &str = "https://test.dodopayments.com";
/// The host for keys of live mode.
pub const LIVE_HOST: &str = "https://live.dodopayments.com";
/// Balances on a page: the most that Dodo gives.
pub const MAX_PAGE: usize = 100;
/// The most by which Dodo's clock and ours are taken to differ.
pub(super) const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// No customer of Dodo's has this id: `check` tries its right to write on it.
const NOBODY: &str = "postmeter-check-no-such-customer";

/// What the client needs to be told.
#[derive(Debug, Clone)]
pub struct DodoSettings {
    /// [`TEST_HOST`], [`LIVE_HOST`] or a stand-in.
    pub base_url: String,
    /// The API key.
    pub api_key: SecretString,
    /// The credit entitlement that counts email credits.
    pub entitlement_id: String,
    /// Longest wait for one call; Dodo documents none of its own.
    pub timeout: Duration,
    /// For a `retry-after` that names a date.
    pub clock: Clock,
}

/// The client. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Dodo {
    service: Service,
    settings: DodoSettings,
}

/// An answer, and what came with it about the rate limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<T> {
    /// What was asked for.
    pub answer: T,
    /// Empty when no answer came at all.
    pub rate: RateInfo,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DodoError {
    /// 401: a bad key, a key of the other mode, or a read-only key used to write.
    #[error("Dodo refused the API key (401)")]
    Unauthorized,
    /// 404.
    #[error("Dodo does not know it (404): {message}")]
    NotFound {
        /// Dodo's words.
        message: String,
    },
    /// 429.
    #[error("Dodo's rate limit is reached (429)")]
    RateLimited {
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// Any other refusal: asking again will not help.
    #[error("Dodo refused ({status} {}): {message}", code.as_deref().unwrap_or("without a code"))]
    Refused {
        /// The status.
        status: u16,
        /// Dodo's code, if it gave one.
        code: Option<String>,
        /// Dodo's words.
        message: String,
    },
    /// No answer, or 408 or 5xx: worth asking again.
    #[error("Dodo does not answer: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// A 2xx answer that lacks what is needed.
    #[error("Dodo's answer could not be understood: {what}")]
    Malformed {
        /// What was asked for.
        what: &'static str,
    },
}

/// A customer's credits, in whole ones; fractions are rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// What is left.
    pub credits: i64,
    /// What was used beyond it, where the entitlement allows that.
    pub overage: i64,
}

/// What Dodo says about one customer's credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceAnswer {
    /// The entitlement exists, the customer never got a grant of it: 0 credits.
    NoGrantYet,
    /// There is a balance.
    Known(Balance),
}

impl BalanceAnswer {
    /// The credits left; none without a grant.
    pub const fn credits(self) -> i64 {
        match self {
            Self::NoGrantYet => 0,
            Self::Known(balance) => balance.credits,
        }
    }
}

/// One page of balances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancePage {
    /// The balances on it.
    pub balances: Vec<(CustomerId, Balance)>,
    /// Whether it was short, so that no page follows.
    pub is_last: bool,
}

/// A line of a customer's ledger, as far as it tells whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// Dodo's id of it.
    pub id: String,
    /// Whether it added credits.
    pub is_credit: bool,
    /// Credits moved, in whole ones; fractions are rounded up, so that a line is
    /// never taken for less than it is.
    pub amount: i64,
    /// When, by Dodo's clock.
    pub created_at: Timestamp,
    /// `transaction_type`: what kind of movement it was.
    pub transaction: String,
    /// `reference_type`: what it came from, if it says so.
    pub reference: Option<String>,
    /// For people. Whether the `reason` of a posted entry comes back here is not known.
    pub description: Option<String>,
}

/// One page of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerPage {
    /// The lines on it, each of which could be read.
    pub lines: Vec<LedgerLine>,
    /// Whether it was short, so that no page follows.
    pub is_last: bool,
}

/// What became of a ledger entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryAnswer {
    /// 2xx: applied, now or by an earlier try under the same key.
    Applied {
        /// The balance that Dodo gave; an answer without one is no less of a success.
        balance_after: Option<i64>,
    },
    /// 409: an entry with this key was applied before.
    KeyUsed,
    /// 400: too little balance, or a malformed amount; nothing was applied by this try.
    Rejected {
        /// Dodo's code; which one means too little balance is not documented.
        code: Option<String>,
        /// Dodo's words.
        message: String,
    },
    /// 429: nothing was applied by this try.
    RateLimited {
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// 401: the key is bad, of the other mode, or read-only; nothing was applied by this try.
    Unauthorized,
    /// 403, 404, 422 and whatever else the operator must look at; nothing was applied by this try.
    Misconfigured {
        /// The status.
        status: u16,
        /// Dodo's code, if it gave one.
        code: Option<String>,
        /// Dodo's words.
        message: String,
    },
    /// No connection was made: nothing was applied by this try.
    NotSent {
        /// What happened.
        reason: String,
    },
    /// Timeout, connection lost, 408, 5xx, or a 2xx that cannot be read: it may have been applied.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// What to sell, to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutRequest {
    /// The plan or the top-up.
    pub product_id: String,
    /// Who buys.
    pub customer: Buyer,
    /// Where the browser comes back to, paid or not.
    pub return_url: String,
    /// Comes back on the payment: at most 50 pairs, keys of 40, values of 500 characters.
    pub metadata: BTreeMap<String, String>,
}

/// Who buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Buyer {
    /// Someone who typed an address. Dodo attaches the sale to a customer that
    /// has that address, if there is one.
    New {
        /// The address.
        email: String,
        /// The name.
        name: String,
    },
    /// A customer who signed in.
    Known(CustomerId),
}

/// A checkout that waits for its buyer.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkout {
    /// `cks_…`.
    pub session_id: String,
    /// Where to send the browser. Whoever has it can use it: not for the log.
    pub checkout_url: String,
}

impl fmt::Debug for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

/// How far a checkout has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutStatus {
    /// The payment, once there is one.
    pub payment_id: Option<String>,
    /// `succeeded`, `failed`, …, once there is a payment.
    pub payment_status: Option<String>,
}

/// A customer, as Dodo keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// The id.
    pub customer_id: CustomerId,
    /// The address.
    pub email: String,
    /// The name.
    pub name: Option<String>,
}

/// The credit entitlement, as far as `check` looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntitlementInfo {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// Decimal places; 0 suits email credits.
    pub precision: Option<i64>,
    /// Whether Dodo lets a balance go beyond nothing.
    pub overage_enabled: bool,
}

/// A product, as far as `check` looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductInfo {
    /// The id.
    pub product_id: String,
    /// The name.
    pub name: String,
    /// Whether it is a subscription.
    pub is_recurring: Option<bool>,
    /// What it grants.
    pub credits: Vec<ProductCredits>,
}

/// Credits that a product grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductCredits {
    /// Of which entitlement.
    pub entitlement_id: String,
    /// How many.
    pub credits: Option<i64>,
    /// Whether this product allows overage whatever the entitlement says.
    pub overage_enabled: bool,
    /// Days after which they lapse; `None`: as the entitlement says.
    pub expires_after_days: Option<i64>,
}

/// What an API key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRights {
    /// Reads and writes: what Postmeter needs.
    Writes,
    /// Reads only: "Enable write access" was not ticked when it was made.
    ReadsOnly,
    /// It belongs to the other mode: this host takes it.
    OtherHost(&'static str),
    /// No host takes it.
    Bad,
}

impl Dodo {
    /// A client; no call is made.
    pub fn new(settings: DodoSettings) -> Result<Self, InvalidService> {
        let service = Service::new(&settings.base_url, &settings.api_key, settings.timeout)?;
        Ok(Self { service, settings })
    }

    /// A customer's balance. [`DodoError::NotFound`] means that the entitlement
    /// does not exist: the list call, unlike the one for a single customer, tells
    /// that from a customer without a grant.
    pub async fn balance(&self, customer_id: &CustomerId) -> Reply<Result<BalanceAnswer, DodoError>> {
        let request = self.service.get(&["credit-entitlements", &self.settings.entitlement_id, "balances"]);
        let called = self.call(request.query(&[("customer_id", customer_id.as_str())])).await;
        reply(&called, wire::answer_of(&called, "a balance", |list| wire::balance(list, customer_id)))
    }

    /// The balances on page number `page`, counted from 0.
    pub async fn balances(&self, page: u32) -> Reply<Result<BalancePage, DodoError>> {
        let request = self.service.get(&["credit-entitlements", &self.settings.entitlement_id, "balances"]);
        let query = [("page_size", MAX_PAGE.to_string()), ("page_number", page.to_string())];
        let called = self.call(request.query(&query)).await;
        reply(&called, wire::answer_of(&called, "a list of balances", wire::balance_page))
    }

    /// A page of a customer's ledger, counted from 0, of what happened since `from`
    /// (all of it: `None`). Not documented: the order of the lines.
    pub async fn ledger(
        &self,
        customer_id: &CustomerId,
        from: Option<Timestamp>,
        page: u32,
    ) -> Reply<Result<LedgerPage, DodoError>> {
        let entitlement_id = self.settings.entitlement_id.as_str();
        let path = ["credit-entitlements", entitlement_id, "balances", customer_id.as_str(), "ledger"];
        let mut query = vec![("page_size", MAX_PAGE.to_string()), ("page_number", page.to_string())];
        query.extend(from.map(|from| ("start_date", from.to_string())));
        let called = self.call(self.service.get(&path).query(&query)).await;
        reply(&called, wire::answer_of(&called, "a page of a ledger", wire::ledger_page))
    }

    /// Takes `amount` from a customer's balance, once for each `entry_id`
    /// whatever the number of calls. The same id must come with the same amount.
    pub async fn post_debit(
        &self,
        customer_id: &CustomerId,
        entry_id: &EntryId,
        amount: Credits,
        reason: &str,
    ) -> Reply<EntryAnswer> {
        let body = json!({
            "entry_type": "debit",
            "amount": amount.to_string(),
            "idempotency_key": entry_id.as_str(),
            "reason": reason,
        });
        let called = self.post_entry(customer_id.as_str(), &body).await;
        reply(&called, wire::entry_answer(&called))
    }

    /// Starts a checkout. Not idempotent: a second call makes a second session,
    /// which does no harm, since a session that nobody pays expires.
    pub async fn create_checkout(&self, request: &CheckoutRequest) -> Reply<Result<Checkout, DodoError>> {
        let customer = match &request.customer {
            Buyer::New { email, name } => json!({ "email": email, "name": name }),
            Buyer::Known(customer_id) => json!({ "customer_id": customer_id }),
        };
        let body = json!({
            "product_cart": [{ "product_id": request.product_id, "quantity": 1 }],
            "customer": customer,
            "return_url": request.return_url,
            "metadata": request.metadata,
        });
        let called = self.call(self.service.post(&["checkouts"]).json(&body)).await;
        reply(&called, wire::answer_of(&called, "a checkout session", wire::checkout))
    }

    /// How far a checkout has come.
    pub async fn checkout(&self, session_id: &str) -> Reply<Result<CheckoutStatus, DodoError>> {
        let called = self.call(self.service.get(&["checkouts", session_id])).await;
        reply(&called, wire::answer_of(&called, "a checkout session's status", wire::checkout_status))
    }

    /// A payment.
    pub async fn payment(&self, payment_id: &str) -> Reply<Result<Payment, DodoError>> {
        let called = self.call(self.service.get(&["payments", payment_id])).await;
        reply(&called, wire::answer_of(&called, "a payment", |payment| Payment::read(payment).ok()))
    }

    /// A customer.
    pub async fn customer(&self, customer_id: &CustomerId) -> Reply<Result<Customer, DodoError>> {
        let called = self.call(self.service.get(&["customers", customer_id.as_str()])).await;
        reply(&called, wire::answer_of(&called, "a customer", wire::customer))
    }

    /// The configured credit entitlement.
    pub async fn entitlement(&self) -> Reply<Result<EntitlementInfo, DodoError>> {
        let called =
            self.call(self.service.get(&["credit-entitlements", &self.settings.entitlement_id])).await;
        reply(&called, wire::answer_of(&called, "a credit entitlement", wire::entitlement))
    }

    /// A product.
    pub async fn product(&self, product_id: &str) -> Reply<Result<ProductInfo, DodoError>> {
        let called = self.call(self.service.get(&["products", product_id])).await;
        reply(&called, wire::answer_of(&called, "a product", wire::product))
    }

    /// What the key is good for, in at most two harmless calls.
    ///
    /// Dodo answers 401 to a bad key, to a key of the other mode and to a write
    /// with a read-only key alike. So: a read that gets 401 is repeated at the
    /// other mode's host (where the base URL is one of the two), which takes a
    /// key of its own; then an empty ledger entry for a customer who does not
    /// exist shows the right to write by any refusal but 401.
    pub async fn key_rights(&self) -> Result<KeyRights, DodoError> {
        if self.entitlement().await.answer == Err(DodoError::Unauthorized) {
            return Ok(self.other_host_takes_the_key().await.map_or(KeyRights::Bad, KeyRights::OtherHost));
        }
        let called = self.post_entry(NOBODY, &json!({})).await;
        match wire::answer_of(&called, "a ledger entry", |_| Some(())) {
            Err(DodoError::Unauthorized) => Ok(KeyRights::ReadsOnly),
            Ok(()) | Err(DodoError::Refused { .. } | DodoError::NotFound { .. }) => Ok(KeyRights::Writes),
            Err(error) => Err(error),
        }
    }

    async fn other_host_takes_the_key(&self) -> Option<&'static str> {
        let other = other_host(self.service.base_url(), self.settings.api_key.expose_secret())?;
        let settings = DodoSettings { base_url: other.to_owned(), ..self.settings.clone() };
        let there = Self::new(settings).ok()?.entitlement().await.answer;
        (there != Err(DodoError::Unauthorized)).then_some(other)
    }

    async fn post_entry(
        &self,
        customer_id: &str,
        body: &serde_json::Value,
    ) -> Result<HttpAnswer, CallFailure> {
        let entitlement_id = self.settings.entitlement_id.as_str();
        let path = ["credit-entitlements", entitlement_id, "balances", customer_id, "ledger-entries"];
        self.call(self.service.post(&path).json(body)).await
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> Result<HttpAnswer, CallFailure> {
        call(request, self.settings.clock.now()).await
    }
}

fn reply<T>(called: &Result<HttpAnswer, CallFailure>, answer: T) -> Reply<T> {
    let rate = called.as_ref().map(|answer| answer.rate).unwrap_or_default();
    Reply { answer, rate }
}

/// The other of Dodo's two hosts. A key that says by its name that it is at
/// home here is not shown around.
fn other_host(base_url: &str, api_key: &str) -> Option<&'static str> {
    match base_url {
        TEST_HOST if !api_key.starts_with("dodo_test_") => Some(LIVE_HOST),
        LIVE_HOST if !api_key.starts_with("dodo_live_") => Some(TEST_HOST),
        _ => None,
    }
}
