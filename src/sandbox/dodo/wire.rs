//! The shapes in which Dodo's API answers and its webhooks speak.
//!
//! Pure: books in, JSON out. Every field that the API description requires is
//! there; ledger and webhook amounts are strings, balances and grants are what
//! the account is set to (numbers were seen, strings are documented).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::behaviour::Amounts;
use super::ledger::{Account, Grant, Line};
use super::shop::{
    Customer, GRANT_DAYS, Item, LOW_BALANCE_PERCENT, PRODUCTS, Payment, Product, Session, Subscription, Ware,
};
use crate::sandbox::ENTITLEMENT_ID;

/// The merchant.
const BUSINESS: &str = "bus_sandbox";
/// Its only brand.
const BRAND: &str = "brnd_sandbox";
/// When the merchant set up shop.
const OPENED: &str = "2026-01-01T00:00:00.000000Z";
/// What a credit buys.
const UNIT: &str = "email";
const ENTITLEMENT_NAME: &str = "Email credits";
/// Milliseconds of a billing period.
const PERIOD_MS: i64 = 30 * 24 * 3_600_000;

/// RFC 3339 in UTC with microseconds.
pub(super) fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}

fn amount(credits: u64, amounts: Amounts) -> Value {
    match amounts {
        Amounts::Number => json!(credits),
        Amounts::String => json!(credits.to_string()),
    }
}

/// A customer's balance.
pub(super) fn balance(account: &Account, amounts: Amounts) -> Value {
    json!({
        "id": account.id,
        "customer_id": account.customer_id,
        "credit_entitlement_id": ENTITLEMENT_ID,
        "balance": amount(account.balance, amounts),
        "overage": amount(0, amounts),
        "created_at": time(account.created_ms),
        "updated_at": time(account.updated_ms),
        "last_transaction_at": time(account.updated_ms),
    })
}

/// A grant, at that time.
pub(super) fn grant(customer_id: &str, grant: &Grant, amounts: Amounts, now_ms: i64) -> Value {
    json!({
        "id": grant.id,
        "credit_entitlement_id": ENTITLEMENT_ID,
        "customer_id": customer_id,
        "source_type": grant.source,
        "source_id": grant.source_id,
        "initial_amount": amount(grant.initial, amounts),
        "remaining_amount": amount(grant.remaining, amounts),
        "rollover_count": 0,
        "is_expired": grant.expires_ms.is_some_and(|expires| expires <= now_ms),
        "is_rolled_over": false,
        "parent_grant_id": null,
        "metadata": grant.metadata,
        "expires_at": grant.expires_ms.map(time),
        "created_at": time(grant.created_ms),
        "updated_at": time(grant.updated_ms),
    })
}

/// A line of the ledger, as the list and the `credit.*` events show it; what the poster of an entry
/// gave as its reason is shown only `with_reason`.
pub(super) fn ledger_entry(customer_id: &str, line: &Line, with_reason: bool) -> Value {
    let (reference_type, reference_id) = line.reference.clone().unzip();
    json!({
        "id": line.id,
        "business_id": BUSINESS,
        "brand_id": BRAND,
        "customer_id": customer_id,
        "credit_entitlement_id": ENTITLEMENT_ID,
        "transaction_type": line.transaction,
        "amount": line.amount.to_string(),
        "is_credit": line.is_credit,
        "balance_before": line.before.to_string(),
        "balance_after": line.after.to_string(),
        "overage_before": "0",
        "overage_after": "0",
        "metadata": line.metadata,
        "created_at": time(line.at_ms),
        "description": line.description.as_ref().filter(|_| with_reason || line.reference.is_some()),
        "grant_id": line.grant_id,
        "reference_type": reference_type,
        "reference_id": reference_id,
    })
}

/// The answer to a posted entry.
pub(super) fn created_entry(customer_id: &str, line: &Line) -> Value {
    json!({
        "id": line.id,
        "customer_id": customer_id,
        "credit_entitlement_id": ENTITLEMENT_ID,
        "entry_type": if line.is_credit { "credit" } else { "debit" },
        "amount": line.amount.to_string(),
        "is_credit": line.is_credit,
        "balance_before": line.before.to_string(),
        "balance_after": line.after.to_string(),
        "overage_before": "0",
        "overage_after": "0",
        "created_at": time(line.at_ms),
        "grant_id": line.grant_id,
        "reason": line.description,
    })
}

/// The entitlement.
pub(super) fn entitlement() -> Value {
    json!({
        "id": ENTITLEMENT_ID,
        "business_id": BUSINESS,
        "name": ENTITLEMENT_NAME,
        "description": "One credit sends one message",
        "unit": UNIT,
        "precision": 0,
        "currency": null,
        "price_per_unit": null,
        "expires_after_days": GRANT_DAYS,
        "overage_behavior": "forgive_at_reset",
        "overage_enabled": false,
        "overage_limit": null,
        "rollover_enabled": false,
        "created_at": OPENED,
        "updated_at": OPENED,
    })
}

/// A customer's balance of the one entitlement, as the customer's own list shows it.
pub(super) fn customer_entitlement(account: &Account) -> Value {
    json!({
        "credit_entitlement_id": ENTITLEMENT_ID,
        "name": ENTITLEMENT_NAME,
        "unit": UNIT,
        "balance": account.balance.to_string(),
        "overage": "0",
    })
}

/// What every new object of the merchant has, with a fresh id under that name.
pub(super) fn made(id: &str, prefix: &str, now_ms: i64) -> Value {
    json!({
        id: super::fresh(prefix),
        "business_id": BUSINESS,
        "created_at": time(now_ms),
        "updated_at": time(now_ms),
    })
}

/// The products that the sandbox begins with.
pub(super) fn products() -> Vec<Value> {
    PRODUCTS.iter().map(product).collect()
}

fn product(product: &Product) -> Value {
    let mut price = json!({
        "type": if product.recurring { "recurring_price" } else { "one_time_price" },
        "currency": "USD",
        "price": product.price,
        "discount": 0,
        "purchasing_power_parity": false,
    });
    if let (true, Some(price)) = (product.recurring, price.as_object_mut()) {
        price.extend(monthly());
    }
    let attached = json!([{
        "id": format!("cem_{}", product.id),
        "credit_entitlement_id": ENTITLEMENT_ID,
        "credit_entitlement_name": ENTITLEMENT_NAME,
        "credit_entitlement_unit": UNIT,
        "credits_amount": product.credits.to_string(),
        "expires_after_days": GRANT_DAYS,
        "low_balance_threshold_percent": product.recurring.then_some(LOW_BALANCE_PERCENT),
        "overage_behavior": "forgive_at_reset",
        "overage_enabled": false,
        "rollover_enabled": false,
        "proration_behavior": "prorate",
        "trial_credits_expire_after_trial": false,
    }]);
    let mut fields = product_of(product.recurring, &attached);
    let own = json!({
        "product_id": product.id,
        "business_id": BUSINESS,
        "name": product.name,
        "description": product.description,
        "tax_category": "saas",
        "price": price,
        "metadata": {},
        "created_at": OPENED,
        "updated_at": OPENED,
    });
    if let (Value::Object(fields), Value::Object(own)) = (&mut fields, own) {
        fields.extend(own);
    }
    fields
}

/// What a product has beside what its maker said of it.
pub(super) fn product_of(is_recurring: bool, attached: &Value) -> Value {
    json!({
        "brand_id": BRAND,
        "is_recurring": is_recurring,
        "license_key_enabled": false,
        "credit_entitlements": attached,
        "entitlements": [],
        "addons": null,
        "image": null,
    })
}

/// A product as a list shows it: without its credits, and with its price as a number.
pub(super) fn listed_product(mut product: Value) -> Value {
    if let Some(fields) = product.as_object_mut() {
        for absent in ["credit_entitlements", "brand_id", "license_key_enabled", "addons"] {
            fields.remove(absent);
        }
        let detail = fields.insert("price".to_owned(), Value::Null).unwrap_or_default();
        for (name, part) in [("price", "price"), ("currency", "currency")] {
            fields.insert(name.to_owned(), detail.get(part).cloned().unwrap_or_default());
        }
        fields.insert("price_detail".to_owned(), detail);
    }
    product
}

fn monthly() -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, value) in [
        ("payment_frequency_count", json!(1)),
        ("payment_frequency_interval", json!("Month")),
        ("subscription_period_count", json!(10)),
        ("subscription_period_interval", json!("Year")),
    ] {
        fields.insert(name.to_owned(), value);
    }
    fields
}

/// A customer.
pub(super) fn customer(customer: &Customer) -> Value {
    json!({
        "customer_id": customer.customer_id,
        "business_id": BUSINESS,
        "name": customer.name,
        "email": customer.email,
        "phone_number": customer.phone_number,
        "metadata": customer.metadata,
        "created_at": time(customer.created_ms),
    })
}

fn limited(customer: &Customer) -> Value {
    json!({
        "customer_id": customer.customer_id,
        "name": customer.name,
        "email": customer.email,
        "phone_number": customer.phone_number,
        "metadata": customer.metadata,
    })
}

/// The answer to `GET /checkouts/{id}`.
pub(super) fn session_status(session: &Session, payer: Option<&Customer>) -> Value {
    json!({
        "id": session.session_id,
        "created_at": time(session.created_ms),
        "customer_email": payer.map(|customer| &customer.email),
        "customer_name": payer.map(|customer| &customer.name),
        "payment_id": session.payment_id,
        "payment_status": session.payment_id.as_ref().map(|_| "succeeded"),
    })
}

fn cart(items: &[Item]) -> Vec<Value> {
    items.iter().map(|item| json!({ "product_id": item.product_id, "quantity": item.quantity })).collect()
}

/// A payment.
pub(super) fn payment(payment: &Payment, payer: &Customer) -> Value {
    json!({
        "payment_id": payment.payment_id,
        "business_id": BUSINESS,
        "brand_id": BRAND,
        "checkout_session_id": payment.session_id,
        "subscription_id": payment.subscription_id,
        "status": "succeeded",
        "customer": limited(payer),
        "metadata": payment.metadata,
        "total_amount": payment.total,
        "tax": 0,
        "currency": "USD",
        "settlement_amount": payment.total,
        "settlement_tax": 0,
        "settlement_currency": "USD",
        // A subscription's payment carries no one-time cart.
        "product_cart": if payment.subscription_id.is_some() { Value::Null } else { json!(cart(&payment.cart)) },
        "payment_method": "card",
        "payment_method_type": "credit",
        "payment_provider": "dodo",
        "card_last_four": "4242",
        "card_network": "visa",
        "created_at": time(payment.created_ms),
        "updated_at": time(payment.created_ms),
        "billing": { "country": "US" },
        "disputes": [],
        "refunds": [],
        "digital_products_delivered": false,
        "has_license_key": false,
        "is_update_payment_method": false,
        "retry_attempt": 0,
        "error_code": null,
        "error_message": null,
    })
}

/// `data` of `refund.succeeded`: all of a payment.
pub(super) fn refund(payment: &Payment, payer: &Customer, at_ms: i64) -> Value {
    json!({
        "refund_id": super::fresh("ref"),
        "payment_id": payment.payment_id,
        "business_id": BUSINESS,
        "brand_id": BRAND,
        "customer": limited(payer),
        "status": "succeeded",
        "amount": payment.total,
        "currency": "USD",
        "is_partial": false,
        "reason": "requested by the customer",
        "metadata": {},
        "created_at": time(at_ms),
    })
}

/// `data` of `dispute.opened`, which does not say whose payment it was.
pub(super) fn dispute(payment: &Payment, at_ms: i64) -> Value {
    json!({
        "dispute_id": super::fresh("dp"),
        "payment_id": payment.payment_id,
        "business_id": BUSINESS,
        "brand_id": BRAND,
        "amount": payment.total.to_string(),
        "currency": "USD",
        "dispute_stage": "dispute",
        "dispute_status": "dispute_opened",
        "remarks": null,
        "created_at": time(at_ms),
    })
}

/// A subscription; `balance` is what the customer has left.
pub(super) fn subscription(subscription: &Subscription, payer: &Customer, balance: u64) -> Value {
    let product = || super::shop::product(&subscription.product_id).map(Ware::from);
    let ware = subscription.ware.clone().or_else(product);
    let mut fields = json!({
        "subscription_id": subscription.subscription_id,
        "brand_id": BRAND,
        "status": "active",
        "product_id": subscription.product_id,
        "quantity": subscription.quantity,
        "customer": limited(payer),
        "metadata": subscription.metadata,
        "currency": "USD",
        "recurring_pre_tax_amount": ware.as_ref().map_or(0, |ware| ware.price.saturating_mul(subscription.quantity)),
        "tax_inclusive": false,
        "created_at": time(subscription.created_ms),
        "previous_billing_date": time(subscription.created_ms),
        "next_billing_date": time(subscription.created_ms.saturating_add(PERIOD_MS)),
        "trial_period_days": 0,
        "cancel_at_next_billing_date": false,
        "cancelled_at": null,
        "on_demand": false,
        "billing": { "country": "US" },
        "addons": [],
        "meters": [],
        "meter_credit_entitlement_cart": [],
        "discounts": [],
        "credit_entitlement_cart": [{
            "credit_entitlement_id": ENTITLEMENT_ID,
            "credit_entitlement_name": ENTITLEMENT_NAME,
            "product_id": subscription.product_id,
            "unit": UNIT,
            "credits_amount": subscription.credits.to_string(),
            "remaining_balance": balance.to_string(),
            "overage_balance": "0",
            "overage_behavior": "forgive_at_reset",
            "overage_enabled": false,
            "rollover_enabled": false,
            "expires_after_days": ware.map_or(GRANT_DAYS, |ware| ware.days),
            "low_balance_threshold_percent": LOW_BALANCE_PERCENT,
        }],
    });
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(monthly());
    }
    fields
}

/// `data` of `credit.balance_low`.
pub(super) fn balance_low(subscription: &Subscription, balance: u64) -> Value {
    json!({
        "customer_id": subscription.customer_id,
        "subscription_id": subscription.subscription_id,
        "credit_entitlement_id": ENTITLEMENT_ID,
        "credit_entitlement_name": ENTITLEMENT_NAME,
        "available_balance": balance.to_string(),
        "subscription_credits_amount": subscription.credits.to_string(),
        "threshold_percent": LOW_BALANCE_PERCENT,
        "threshold_amount": subscription.low_balance().to_string(),
        "brand_id": BRAND,
    })
}

/// The envelope of a webhook.
pub(super) fn webhook(event: &str, payload_type: &str, at_ms: i64, mut data: Value) -> Value {
    if let Some(data) = data.as_object_mut() {
        data.insert("payload_type".to_owned(), json!(payload_type));
    }
    json!({ "business_id": BUSINESS, "type": event, "timestamp": time(at_ms), "data": data })
}
