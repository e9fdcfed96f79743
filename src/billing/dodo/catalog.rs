//! What the merchant sells and where news of it goes, as `postmeter setup` finds and
//! makes it (docs.dodopayments.com, "Credit Entitlements", "Products", "Webhooks").
//!
//! Nothing here changes or deletes anything. Dodo has no idempotency key for
//! entitlements and products, so whoever makes one looks for it first: products and
//! endpoints carry a mark in their metadata, entitlements have none and go by name.
//! A list is read to its end, since what is not there must be seen not to be there.

use secrecy::SecretString;
use serde_json::{Value, json};

use super::wire::{self, flag, items, text};
use super::{Dodo, DodoError, EntitlementInfo, ProductInfo};

/// The metadata key of the mark.
pub const MARK: &str = "postmeter";
/// Objects on a page: products have long descriptions, and an answer is cut at a megabyte.
pub(crate) const PAGE: usize = 50;
/// A list that does not end before this many pages is not believed.
const MOST_PAGES: usize = 200;

/// The events that an endpoint made here is told of: those that something follows from
/// ([`super::super::events`]), and no others.
pub const EVENTS: &[&str] = &[
    "payment.succeeded",
    "payment.failed",
    "payment.processing",
    "payment.cancelled",
    "refund.succeeded",
    "dispute.opened",
    "subscription.active",
    "subscription.renewed",
    "subscription.on_hold",
    "subscription.past_due",
    "subscription.paused",
    "subscription.unpaused",
    "subscription.cancelled",
    "subscription.failed",
    "subscription.expired",
    "subscription.plan_changed",
    "subscription.updated",
    "subscription.update_payment_method",
    "credit.added",
    "credit.deducted",
    "credit.expired",
    "credit.rolled_over",
    "credit.rollover_forfeited",
    "credit.overage_charged",
    "credit.overage_reset",
    "credit.manual_adjustment",
    "credit.balance_low",
];

/// A price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// ISO 4217, such as `USD`.
    pub currency: String,
    /// In the currency's smallest unit, such as cents.
    pub minor_units: i64,
}

/// How often it is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// A subscription, every month.
    Monthly,
    /// Once.
    Once,
}

/// The unit of account to make. Overage and rollover are off: customers pay in advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntitlement<'a> {
    /// Found again by it.
    pub name: &'a str,
    /// What one credit is.
    pub unit: &'a str,
    /// Days after which a grant lapses, unless the product says otherwise.
    pub expires_after_days: u32,
}

/// A product to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProduct<'a> {
    /// What buyers read.
    pub name: &'a str,
    /// The value of [`MARK`] that it is found again by.
    pub mark: &'a str,
    /// What it costs.
    pub price: &'a Price,
    /// How often.
    pub term: Term,
    /// The entitlement of which it grants credits.
    pub entitlement_id: &'a str,
    /// How many, each time it is paid.
    pub credits: u32,
    /// Days after which they lapse.
    pub expires_after_days: u32,
}

/// A product, as far as a list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedProduct {
    /// The id.
    pub product_id: String,
    /// The name.
    pub name: String,
    /// Its metadata's [`MARK`]; outer `None`: the list shows no metadata at all.
    pub mark: Option<Option<String>>,
}

/// A product with its price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it is, and what it grants.
    pub info: ProductInfo,
    /// What it costs, if that can be read.
    pub price: Option<Price>,
    /// How often; `None`: neither once nor every month.
    pub term: Option<Term>,
}

/// A webhook endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The id.
    pub id: String,
    /// Where events go.
    pub url: String,
    /// Its metadata's [`MARK`].
    pub mark: Option<String>,
    /// The events that it is told of; empty: of all.
    pub events: Vec<String>,
    /// Whether nothing is sent.
    pub is_disabled: bool,
}

impl Dodo {
    /// All credit entitlements that are not deleted.
    pub async fn entitlements(&self) -> Result<Vec<EntitlementInfo>, DodoError> {
        const WHAT: &str = "a list of credit entitlements";
        self.listed("credit-entitlements", WHAT, wire::entitlement).await
    }

    /// A credit entitlement.
    pub async fn entitlement_of(&self, entitlement_id: &str) -> Result<EntitlementInfo, DodoError> {
        let called = self.call(self.service.get(&["credit-entitlements", entitlement_id])).await;
        wire::answer_of(&called, "a credit entitlement", wire::entitlement)
    }

    /// Makes a credit entitlement. Not idempotent.
    pub async fn make_entitlement(&self, new: &NewEntitlement<'_>) -> Result<EntitlementInfo, DodoError> {
        let request = self.service.post(&["credit-entitlements"]).json(&entitlement_body(new));
        wire::answer_of(&self.call(request).await, "a credit entitlement", wire::entitlement)
    }

    /// All products that are not archived.
    pub async fn products(&self) -> Result<Vec<ListedProduct>, DodoError> {
        self.listed("products", "a list of products", listed_product).await
    }

    /// A product with its price.
    pub async fn offer(&self, product_id: &str) -> Result<Offer, DodoError> {
        wire::answer_of(&self.call(self.service.get(&["products", product_id])).await, "a product", offer)
    }

    /// Makes a product. Not idempotent.
    pub async fn make_product(&self, new: &NewProduct<'_>) -> Result<String, DodoError> {
        let request = self.service.post(&["products"]).json(&product_body(new));
        wire::answer_of(&self.call(request).await, "a product", |product| text(product, "product_id"))
    }

    /// All webhook endpoints.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, DodoError> {
        const WHAT: &str = "a list of webhooks";
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(after.take().map(|iterator| ("iterator", iterator)));
            let called = self.call(self.service.get(&["webhooks"]).query(&query)).await;
            let (endpoints, next) = wire::answer_of(&called, WHAT, endpoint_page)?;
            all.extend(endpoints);
            if next.is_none() {
                return Ok(all);
            }
            after = next;
        }
        Err(DodoError::Malformed { what: WHAT })
    }

    /// Makes a webhook endpoint for [`EVENTS`]. It is looked for by its URL first; a key
    /// against repetition is not sent, since Dodo may remember one longer than the endpoint.
    pub async fn make_endpoint(&self, url: &str, mark: &str) -> Result<Endpoint, DodoError> {
        let request = self.service.post(&["webhooks"]).json(&endpoint_body(url, mark));
        wire::answer_of(&self.call(request).await, "a webhook", endpoint)
    }

    /// What an endpoint's deliveries are signed with.
    pub async fn endpoint_secret(&self, endpoint_id: &str) -> Result<SecretString, DodoError> {
        let called = self.call(self.service.get(&["webhooks", endpoint_id, "secret"])).await;
        wire::answer_of(&called, "a webhook's secret", |answer| {
            text(answer, "secret").filter(|secret| !secret.is_empty()).map(SecretString::from)
        })
    }

    /// All pages of a list, counted from 0; one item that cannot be read spoils it.
    async fn listed<T>(
        &self,
        path: &str,
        what: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, DodoError> {
        let mut all = Vec::new();
        for page in 0..MOST_PAGES {
            let query = [("page_size", PAGE.to_string()), ("page_number", page.to_string())];
            let called = self.call(self.service.get(&[path]).query(&query)).await;
            let found: Vec<T> =
                wire::answer_of(&called, what, |list| items(list)?.iter().map(&read).collect())?;
            let is_last = found.len() < PAGE;
            all.extend(found);
            if is_last {
                return Ok(all);
            }
        }
        Err(DodoError::Malformed { what })
    }
}

pub(crate) fn entitlement_body(new: &NewEntitlement<'_>) -> Value {
    json!({
        "name": new.name,
        "unit": new.unit,
        "precision": 0,
        "expires_after_days": new.expires_after_days,
        "rollover_enabled": false,
        "overage_enabled": false,
    })
}

pub(crate) fn product_body(new: &NewProduct<'_>) -> Value {
    let mut price = json!({
        "currency": new.price.currency,
        "price": new.price.minor_units,
        "discount": 0,
        "purchasing_power_parity": false,
    });
    let kind = match new.term {
        Term::Once => json!({ "type": "one_time_price" }),
        Term::Monthly => json!({
            "type": "recurring_price",
            "payment_frequency_count": 1,
            "payment_frequency_interval": "Month",
            "subscription_period_count": 10,
            "subscription_period_interval": "Year",
        }),
    };
    if let (Value::Object(price), Value::Object(kind)) = (&mut price, kind) {
        price.extend(kind);
    }
    json!({
        "name": new.name,
        "tax_category": "saas",
        "price": price,
        "credit_entitlements": [{
            "credit_entitlement_id": new.entitlement_id,
            "credits_amount": new.credits.to_string(),
            "expires_after_days": new.expires_after_days,
            "rollover_enabled": false,
            "overage_enabled": false,
        }],
        "metadata": { MARK: new.mark },
    })
}

pub(crate) fn endpoint_body(url: &str, mark: &str) -> Value {
    json!({
        "url": url,
        "description": "Postmeter",
        "filter_types": EVENTS,
        "metadata": { MARK: mark },
    })
}

fn mark(object: &Value) -> Option<String> {
    text(object.get("metadata")?, MARK)
}

fn listed_product(item: &Value) -> Option<ListedProduct> {
    Some(ListedProduct {
        product_id: text(item, "product_id")?,
        name: text(item, "name").unwrap_or_default(),
        mark: item.get("metadata").filter(|metadata| metadata.is_object()).map(|_| mark(item)),
    })
}

fn offer(product: &Value) -> Option<Offer> {
    let info = wire::product(product)?;
    let price = product.get("price").unwrap_or(&Value::Null);
    let amount = price.get("price").and_then(Value::as_i64);
    let priced =
        text(price, "currency").zip(amount).map(|(currency, minor_units)| Price { currency, minor_units });
    let is_monthly = price.get("payment_frequency_count").and_then(Value::as_i64) == Some(1)
        && price.get("payment_frequency_interval").and_then(Value::as_str) == Some("Month");
    let term = match price.get("type").and_then(Value::as_str) {
        Some("one_time_price") => Some(Term::Once),
        Some("recurring_price") if is_monthly => Some(Term::Monthly),
        _ => None,
    };
    Some(Offer { info, price: priced, term })
}

/// The endpoints, and where the next page begins, if one follows.
fn endpoint_page(list: &Value) -> Option<(Vec<Endpoint>, Option<String>)> {
    let endpoints = list.get("data")?.as_array()?.iter().map(endpoint).collect::<Option<Vec<_>>>()?;
    if list.get("done")?.as_bool()? {
        return Some((endpoints, None));
    }
    Some((endpoints, Some(text(list, "iterator")?)))
}

fn endpoint(endpoint: &Value) -> Option<Endpoint> {
    let events = endpoint.get("filter_types").and_then(Value::as_array);
    let events = events.map(|events| events.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    Some(Endpoint {
        id: text(endpoint, "id")?,
        url: text(endpoint, "url")?,
        mark: mark(endpoint),
        events: events.unwrap_or_default(),
        is_disabled: flag(endpoint, "disabled"),
    })
}

#[cfg(test)]
mod tests;
