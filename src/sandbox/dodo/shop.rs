//! What is for sale, and the papers of a sale: checkout session, payment,
//! subscription, customer. Plain data; [`super::wire`] gives it Dodo's shapes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::sandbox::{PLAN_PRODUCT_ID, TOPUP_PRODUCT_ID};

/// A session can be paid for this long, in milliseconds.
const SESSION_LIFETIME_MS: i64 = 24 * 3_600_000;

/// A product that grants credits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// Cents of a US dollar.
    pub(super) price: u64,
    /// Credits a payment grants.
    pub(super) credits: u64,
    /// Paid every month, or once.
    pub(super) recurring: bool,
}

/// `low_balance_threshold_percent` of the plan.
pub(super) const LOW_BALANCE_PERCENT: u64 = 20;
/// Days after which granted credits expire.
pub(super) const GRANT_DAYS: i64 = 30;

/// The plan and the top-up.
pub(super) const PRODUCTS: [Product; 2] = [
    Product {
        id: PLAN_PRODUCT_ID,
        name: "Postmeter plan",
        description: "10,000 email credits every month",
        price: 1_000,
        credits: 10_000,
        recurring: true,
    },
    Product {
        id: TOPUP_PRODUCT_ID,
        name: "Postmeter top-up",
        description: "5,000 email credits, once",
        price: 600,
        credits: 5_000,
        recurring: false,
    },
];

/// The product with that id, of those that the sandbox begins with.
pub(super) fn product(id: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.id == id)
}

/// What a line of a cart sells, as it was when the session was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ware {
    pub(super) name: String,
    /// Cents of a US dollar.
    pub(super) price: u64,
    /// Credits a payment grants.
    pub(super) credits: u64,
    /// Days after which they expire.
    pub(super) days: i64,
    /// Paid every month, or once.
    pub(super) recurring: bool,
}

impl From<&Product> for Ware {
    fn from(product: &Product) -> Self {
        let &Product { name, price, credits, recurring, .. } = product;
        Self { name: name.to_owned(), price, credits, days: GRANT_DAYS, recurring }
    }
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Customer {
    pub(super) customer_id: String,
    pub(super) email: String,
    pub(super) name: String,
    pub(super) phone_number: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) created_ms: i64,
}

/// Who a session is for, as far as `POST /checkouts` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Buyer {
    /// An existing customer.
    Known {
        /// The customer.
        customer_id: String,
    },
    /// Someone with this e-mail address.
    Named {
        /// Cannot be changed on the page any more.
        email: String,
        /// Likewise, if given.
        name: Option<String>,
        /// Kept with the customer.
        phone_number: Option<String>,
    },
}

/// A line of the cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) product_id: String,
    pub(super) quantity: u64,
    /// Credits of the whole line.
    pub(super) credits: u64,
    /// What it sells; journals of earlier versions do not say.
    #[serde(default)]
    ware: Option<Ware>,
}

impl Item {
    pub(super) fn new(product_id: String, quantity: u64, credits: u64, ware: Ware) -> Self {
        Self { product_id, quantity, credits, ware: Some(ware) }
    }

    /// What is for sale in this line.
    pub(super) fn ware(&self) -> Option<Ware> {
        self.ware.clone().or_else(|| product(&self.product_id).map(Ware::from))
    }

    /// Its price in cents.
    pub(super) fn price(&self) -> u64 {
        self.ware().map_or(0, |ware| ware.price.saturating_mul(self.quantity))
    }
}

/// A checkout session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) session_id: String,
    pub(super) cart: Vec<Item>,
    pub(super) buyer: Option<Buyer>,
    pub(super) always_new_customer: bool,
    pub(super) return_url: Option<String>,
    pub(super) cancel_url: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) created_ms: i64,
    /// Set by the sale that used the session up.
    #[serde(default)]
    pub(super) payment_id: Option<String>,
}

impl Session {
    /// Whether it is too old to be paid.
    pub(super) const fn is_expired(&self, now_ms: i64) -> bool {
        now_ms - self.created_ms >= SESSION_LIFETIME_MS
    }

    /// The price of the whole cart in cents.
    pub(super) fn total(&self) -> u64 {
        self.cart.iter().map(Item::price).sum()
    }
}

/// A payment that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payment {
    pub(super) payment_id: String,
    pub(super) session_id: String,
    pub(super) customer_id: String,
    pub(super) subscription_id: Option<String>,
    pub(super) cart: Vec<Item>,
    pub(super) total: u64,
    pub(super) metadata: Map<String, Value>,
    pub(super) created_ms: i64,
}

/// A subscription that is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subscription {
    pub(super) subscription_id: String,
    pub(super) customer_id: String,
    pub(super) product_id: String,
    pub(super) quantity: u64,
    /// Credits of each period.
    pub(super) credits: u64,
    /// What it is of; journals of earlier versions do not say.
    #[serde(default)]
    pub(super) ware: Option<Ware>,
    pub(super) metadata: Map<String, Value>,
    pub(super) created_ms: i64,
}

impl Subscription {
    /// `credit.balance_low` is due when the balance comes down to this.
    pub(super) const fn low_balance(&self) -> u64 {
        self.credits.saturating_mul(LOW_BALANCE_PERCENT) / 100
    }
}
