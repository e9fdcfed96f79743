//! What a merchant sets up over the API: credit entitlements, products and webhook
//! endpoints, listed, read and made. None of it can be changed or deleted here.
//!
//! What was made stands beside what the sandbox began with and can be read like it. A
//! product can be bought if it is sold in dollars and grants credits of the sandbox's own
//! entitlement: the stand-in keeps one ledger. Webhooks go where the sandbox sends them,
//! signed with its one secret, which every endpoint has.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::books::{Books, Event};
use super::entries::check_metadata;
use super::refusal::Refusal;
use super::routes::{Answer, Page, items};
use super::shop::{GRANT_DAYS, Ware};
use super::{DodoStandIn, fresh, wire};
use crate::sandbox::{ENTITLEMENT_ID, WEBHOOK_SECRET};

/// Every event that an endpoint can be told of.
pub(super) const EVENT_TYPES: [&str; 48] = [
    "payment.succeeded",
    "payment.failed",
    "payment.processing",
    "payment.cancelled",
    "refund.succeeded",
    "refund.failed",
    "dispute.opened",
    "dispute.expired",
    "dispute.accepted",
    "dispute.cancelled",
    "dispute.challenged",
    "dispute.won",
    "dispute.lost",
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
    "license_key.created",
    "payout.created",
    "payout.on_hold",
    "payout.in_progress",
    "payout.failed",
    "payout.success",
    "credit.added",
    "credit.deducted",
    "credit.expired",
    "credit.rolled_over",
    "credit.rollover_forfeited",
    "credit.overage_charged",
    "credit.overage_reset",
    "credit.manual_adjustment",
    "credit.balance_low",
    "abandoned_checkout.detected",
    "abandoned_checkout.recovered",
    "dunning.started",
    "dunning.recovered",
    "entitlement_grant.created",
    "entitlement_grant.delivered",
    "entitlement_grant.failed",
    "entitlement_grant.revoked",
];

/// What was made, as it is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Made {
    /// A credit entitlement.
    Entitlement(Value),
    /// A product.
    Product(Value),
    /// A webhook endpoint.
    Endpoint {
        /// What is answered.
        shown: Value,
        /// Its idempotency key.
        key: Option<String>,
    },
}

/// The shelves, oldest first.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    entitlements: Vec<Value>,
    products: Vec<Value>,
    endpoints: Vec<(Value, Option<String>)>,
}

impl Catalog {
    pub(super) fn add(&mut self, made: Made) {
        match made {
            Made::Entitlement(entitlement) => self.entitlements.push(entitlement),
            Made::Product(product) => self.products.push(product),
            Made::Endpoint { shown, key } => self.endpoints.push((shown, key)),
        }
    }

    /// All entitlements, newest first.
    fn entitlements(&self) -> impl Iterator<Item = Value> {
        self.entitlements.iter().rev().cloned().chain([wire::entitlement()])
    }

    pub(super) fn entitlement(&self, id: &str) -> Option<Value> {
        self.entitlements().find(|entitlement| at(entitlement, "/id") == id)
    }

    /// All products, newest first.
    fn products(&self) -> impl Iterator<Item = Value> {
        self.products.iter().rev().cloned().chain(wire::products())
    }

    /// What a product sells.
    pub(super) fn ware(&self, product_id: &str) -> Result<Ware, Refusal> {
        let found = self.products().find(|product| at(product, "/product_id") == product_id);
        let found = found.ok_or_else(|| invalid(format!("Product {product_id} not found")))?;
        let mut attached = at(&found, "/credit_entitlements").as_array().into_iter().flatten();
        let own = attached.find(|attached| at(attached, "/credit_entitlement_id") == ENTITLEMENT_ID);
        let ware = || {
            let attached = own?;
            let is_in_dollars = at(&found, "/price/currency") == "USD";
            Some(Ware {
                name: at(&found, "/name").as_str()?.to_owned(),
                price: at(&found, "/price/price").as_u64().filter(|_| is_in_dollars)?,
                credits: at(attached, "/credits_amount").as_str()?.parse().ok()?,
                days: at(attached, "/expires_after_days").as_i64().unwrap_or(GRANT_DAYS),
                recurring: at(&found, "/is_recurring") == true,
            })
        };
        ware().ok_or_else(|| {
            invalid("the sandbox sells for US dollars, and credits of its own entitlement alone")
        })
    }

    fn endpoint(&self, id: &str) -> Option<&Value> {
        self.endpoints.iter().map(|(shown, _)| shown).find(|shown| at(shown, "/id") == id)
    }
}

/// What stands there; null where nothing does.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::unprocessable("INVALID_REQUEST_BODY", message)
}

/// `fields` with more of them; both are objects.
fn extended(fields: &impl Serialize, more: Value) -> Value {
    let mut all = serde_json::to_value(fields).unwrap_or_default();
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

impl DodoStandIn {
    fn make(&self, made: Made) -> Result<(), Refusal> {
        self.kept().commit(vec![Event::Made(made)]).map_err(|error| Refusal::internal(&error))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Deleted {
    #[serde(default)]
    deleted: bool,
}

pub(super) async fn entitlements(
    State(dodo): State<DodoStandIn>,
    Query(page): Query<Page>,
    Query(Deleted { deleted }): Query<Deleted>,
) -> Answer {
    let kept = dodo.kept();
    Ok(items(page.of(kept.books.catalog().entitlements().filter(|_| !deleted))?))
}

pub(super) async fn entitlement(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let found = dodo.kept().books.catalog().entitlement(&id);
    found.map(Json).ok_or_else(|| Refusal::not_found("Credit entitlement"))
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct NewEntitlement {
    name: String,
    unit: String,
    precision: u32,
    rollover_enabled: bool,
    overage_enabled: bool,
    description: Option<String>,
    currency: Option<String>,
    price_per_unit: Option<String>,
    expires_after_days: Option<i32>,
    overage_behavior: Option<String>,
    overage_limit: Option<i64>,
    max_rollover_count: Option<i32>,
    rollover_percentage: Option<i32>,
    rollover_timeframe_count: Option<i32>,
    rollover_timeframe_interval: Option<Interval>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
enum Interval {
    Day,
    Week,
    Month,
    Year,
}

pub(super) async fn make_entitlement(
    State(dodo): State<DodoStandIn>,
    Json(new): Json<NewEntitlement>,
) -> Result<Response, Refusal> {
    if !(1..=255).contains(&new.name.chars().count()) || !(1..=50).contains(&new.unit.chars().count()) {
        return Err(invalid("name has 1 to 255 characters, unit 1 to 50"));
    }
    if new.precision > 10 || new.overage_enabled && new.price_per_unit.is_none() {
        return Err(invalid("precision is 0 to 10, and overage needs price_per_unit"));
    }
    if dodo.kept().books.catalog().entitlements().any(|known| at(&known, "/name") == &*new.name) {
        return Err(Refusal::unprocessable(
            "CREDIT_ENTITLEMENT_NAME_ALREADY_EXISTS",
            "a credit entitlement has that name",
        ));
    }
    let behaviour = new.overage_behavior.clone().unwrap_or_else(|| "forgive_at_reset".to_owned());
    let made = extended(&new, wire::made("id", "cde", dodo.now_ms()));
    let made = extended(&made, json!({ "overage_behavior": behaviour }));
    dodo.make(Made::Entitlement(made.clone()))?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct ProductFilter {
    recurring: Option<bool>,
    #[serde(default)]
    archived: bool,
}

pub(super) async fn products(
    State(dodo): State<DodoStandIn>,
    Query(page): Query<Page>,
    Query(filter): Query<ProductFilter>,
) -> Answer {
    let kept = dodo.kept();
    let found = kept.books.catalog().products().filter(|product| {
        !filter.archived && filter.recurring.is_none_or(|wanted| at(product, "/is_recurring") == wanted)
    });
    Ok(items(page.of(found.map(wire::listed_product))?))
}

pub(super) async fn product(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let found = dodo.kept().books.catalog().products().find(|product| at(product, "/product_id") == &*id);
    found.map(Json).ok_or_else(|| Refusal::not_found("Product"))
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct NewProduct {
    name: String,
    tax_category: TaxCategory,
    price: NewPrice,
    description: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    credit_entitlements: Option<Vec<Attached>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum TaxCategory {
    DigitalProducts,
    Saas,
    EBook,
    Edtech,
    LiveTutoring,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum NewPrice {
    OneTimePrice {
        currency: String,
        price: i64,
        discount: i64,
        purchasing_power_parity: bool,
    },
    RecurringPrice {
        currency: String,
        price: i64,
        discount: i64,
        purchasing_power_parity: bool,
        payment_frequency_count: u32,
        payment_frequency_interval: Interval,
        subscription_period_count: u32,
        subscription_period_interval: Interval,
    },
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Attached {
    credit_entitlement_id: String,
    credits_amount: String,
    expires_after_days: Option<i32>,
    low_balance_threshold_percent: Option<i32>,
    rollover_enabled: Option<bool>,
    overage_enabled: Option<bool>,
}

pub(super) async fn make_product(State(dodo): State<DodoStandIn>, Json(new): Json<NewProduct>) -> Answer {
    check_metadata(Some(&new.metadata))?;
    let (NewPrice::OneTimePrice { currency, price, .. } | NewPrice::RecurringPrice { currency, price, .. }) =
        &new.price;
    if *price < 0 || currency.len() != 3 || !currency.bytes().all(|octet| octet.is_ascii_uppercase()) {
        return Err(invalid("price is not negative, currency is three capital letters"));
    }
    let wanted = new.credit_entitlements.clone().unwrap_or_default();
    if wanted.len() > 5 {
        return Err(invalid("at most five credit entitlements can be attached"));
    }
    let attached = {
        let kept = dodo.kept();
        wanted.iter().map(|one| one.mapping(&kept.books)).collect::<Result<Vec<_>, _>>()?
    };
    let is_recurring = matches!(new.price, NewPrice::RecurringPrice { .. });
    let made = extended(&new, wire::made("product_id", "pdt", dodo.now_ms()));
    let made = extended(&made, wire::product_of(is_recurring, &json!(attached)));
    dodo.make(Made::Product(made.clone()))?;
    Ok(Json(made))
}

impl Attached {
    /// As the product shows it.
    fn mapping(&self, books: &Books) -> Result<Value, Refusal> {
        let entitlement = books.catalog().entitlement(&self.credit_entitlement_id);
        let entitlement = entitlement.ok_or_else(|| Refusal::not_found("Credit entitlement"))?;
        if self.credits_amount.parse::<u64>().is_ok_and(|credits| credits > 0) {
            return Ok(extended(
                self,
                json!({
                    "id": fresh("cem"),
                    "credit_entitlement_name": at(&entitlement, "/name"),
                    "credit_entitlement_unit": at(&entitlement, "/unit"),
                    "overage_behavior": "forgive_at_reset",
                    "overage_enabled": self.overage_enabled.unwrap_or(at(&entitlement, "/overage_enabled") == true),
                    "rollover_enabled": self.rollover_enabled.unwrap_or(at(&entitlement, "/rollover_enabled") == true),
                    "proration_behavior": "prorate",
                    "trial_credits_expire_after_trial": false,
                }),
            ));
        }
        Err(invalid("credits_amount must be a positive decimal string"))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Cursor {
    limit: Option<usize>,
    iterator: Option<String>,
}

/// The delivery service's own way of paging: an iterator that is given even when all is told.
pub(super) async fn endpoints(State(dodo): State<DodoStandIn>, Query(cursor): Query<Cursor>) -> Answer {
    let limit = cursor.limit.unwrap_or(50);
    if !(1..=250).contains(&limit) {
        return Err(Refusal::unprocessable("INVALID_QUERY_PARAMS", "limit must be between 1 and 250"));
    }
    let kept = dodo.kept();
    let all: Vec<&Value> = kept.books.catalog().endpoints.iter().map(|(shown, _)| shown).collect();
    let after = cursor.iterator.as_deref().unwrap_or_default();
    let skipped = all.iter().position(|shown| at(shown, "/id") == after).map_or(0, |last| last + 1);
    let page: Vec<&Value> = all.iter().copied().skip(skipped).take(limit).collect();
    let done = skipped + page.len() >= all.len();
    let iterator = page.last().map(|shown| at(shown, "/id").clone());
    Ok(Json(json!({ "data": page, "done": done, "iterator": iterator, "prev_iterator": null })))
}

#[derive(Debug, Deserialize)]
pub(super) struct NewEndpoint {
    url: String,
    filter_types: Option<Vec<String>>,
    description: Option<String>,
    disabled: Option<bool>,
    metadata: Option<Map<String, Value>>,
    idempotency_key: Option<String>,
    rate_limit: Option<u32>,
}

pub(super) async fn make_endpoint(State(dodo): State<DodoStandIn>, Json(new): Json<NewEndpoint>) -> Answer {
    if let Some(key) = &new.idempotency_key {
        let kept = dodo.kept();
        let known = kept.books.catalog().endpoints.iter().find(|(_, used)| used.as_ref() == Some(key));
        if let Some((shown, _)) = known {
            return Ok(Json(shown.clone()));
        }
    }
    if !new.url.starts_with("https://") {
        return Err(invalid("url must begin with https://"));
    }
    if let Some(unknown) =
        new.filter_types.iter().flatten().find(|name| !EVENT_TYPES.contains(&name.as_str()))
    {
        return Err(invalid(format!("filter_types: unknown variant `{unknown}`")));
    }
    if new.metadata.iter().flatten().any(|(_, value)| !value.is_string()) {
        return Err(invalid("metadata: invalid type, expected a string"));
    }
    let now = wire::time(dodo.now_ms());
    let shown = json!({
        "id": fresh("ep"),
        "url": new.url,
        "description": new.description.unwrap_or_default(),
        "metadata": new.metadata.unwrap_or_default(),
        "filter_types": new.filter_types,
        "disabled": new.disabled.unwrap_or(false),
        "rate_limit": new.rate_limit,
        "created_at": now,
        "updated_at": now,
    });
    dodo.make(Made::Endpoint { shown: shown.clone(), key: new.idempotency_key })?;
    Ok(Json(shown))
}

pub(super) async fn endpoint(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    kept.books.catalog().endpoint(&id).cloned().map(Json).ok_or_else(|| Refusal::not_found("Endpoint"))
}

pub(super) async fn endpoint_secret(State(dodo): State<DodoStandIn>, Path(id): Path<String>) -> Answer {
    let kept = dodo.kept();
    kept.books.catalog().endpoint(&id).ok_or_else(|| Refusal::not_found("Endpoint"))?;
    Ok(Json(json!({ "secret": WEBHOOK_SECRET })))
}

impl Books {
    /// Whether the merchant has that entitlement.
    pub(super) fn knows_entitlement(&self, id: &str) -> bool {
        id == ENTITLEMENT_ID || self.catalog().entitlement(id).is_some()
    }
}

#[cfg(test)]
mod tests;
