//! The shapes of Dodo's answers, read tolerantly: an amount may be a text or a
//! number, an error may have no body, and fields that are not needed are not looked at.

use serde_json::Value;

use super::{
    Balance, BalanceAnswer, BalancePage, Checkout, CheckoutStatus, Customer, DodoError, EntitlementInfo,
    EntryAnswer, LedgerLine, LedgerPage, MAX_PAGE, ProductCredits, ProductInfo,
};
use crate::domain::ids::CustomerId;
use crate::outbound::{CallFailure, HttpAnswer};

/// Most characters of a message of Dodo's that are handed on.
const MAX_MESSAGE_CHARS: usize = 300;

/// Reads a 2xx answer with `decode`; everything else is an error.
pub(crate) fn answer_of<T>(
    called: &Result<HttpAnswer, CallFailure>,
    what: &'static str,
    decode: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, DodoError> {
    let answer = match called {
        Ok(answer) => answer,
        Err(failure) => return Err(DodoError::Unavailable { reason: failure.to_string() }),
    };
    if !(200..300).contains(&answer.status) {
        return Err(error_of(answer));
    }
    let body = serde_json::from_slice::<Value>(&answer.body).ok();
    body.and_then(|body| decode(&body)).ok_or(DodoError::Malformed { what })
}

fn error_of(answer: &HttpAnswer) -> DodoError {
    let (code, message) = code_and_message(&answer.body);
    match answer.status {
        401 => DodoError::Unauthorized,
        404 => DodoError::NotFound { message },
        408 | 500.. => DodoError::Unavailable { reason: format!("HTTP {} {message}", answer.status) },
        429 => DodoError::RateLimited { retry_after: answer.rate.retry_after },
        status => DodoError::Refused { status, code, message },
    }
}

/// What a call for a ledger entry means for the entry.
pub(crate) fn entry_answer(called: &Result<HttpAnswer, CallFailure>) -> EntryAnswer {
    let answer = match called {
        Ok(answer) => answer,
        Err(CallFailure::NotSent(reason)) => return EntryAnswer::NotSent { reason: reason.clone() },
        Err(CallFailure::Lost(reason)) => return EntryAnswer::Unknown { reason: reason.clone() },
    };
    let (code, message) = code_and_message(&answer.body);
    match answer.status {
        200..300 => applied(answer),
        400 => EntryAnswer::Rejected { code, message },
        401 => EntryAnswer::Unauthorized,
        408 | 500.. => EntryAnswer::Unknown { reason: format!("HTTP {} {message}", answer.status) },
        409 => EntryAnswer::KeyUsed,
        429 => EntryAnswer::RateLimited { retry_after: answer.rate.retry_after },
        status => EntryAnswer::Misconfigured { status, code, message },
    }
}

/// An answer that was cut short, or was never Dodo's, proves nothing: the same
/// entry is posted again and then has a whole answer, or a used key.
fn applied(answer: &HttpAnswer) -> EntryAnswer {
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(Value::Object(entry)) => {
            EntryAnswer::Applied { balance_after: entry.get("balance_after").and_then(whole_credits) }
        }
        _ => {
            EntryAnswer::Unknown { reason: format!("HTTP {}, but the answer cannot be read", answer.status) }
        }
    }
}

/// `{"code", "message"}`, of which either or the whole body may be missing.
fn code_and_message(body: &[u8]) -> (Option<String>, String) {
    let parsed = serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
    let code = text(&parsed, "code");
    let message = text(&parsed, "message").unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let one_line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    (code, one_line.chars().take(MAX_MESSAGE_CHARS).collect())
}

/// A text or a number, brought down to whole credits. `None` if it is neither
/// or does not fit.
pub(super) fn whole_credits(amount: &Value) -> Option<i64> {
    match amount {
        Value::String(text) => floor(text.trim()),
        Value::Number(number) => floor(&number.to_string()),
        _ => None,
    }
}

/// The largest whole number that is not above the decimal.
fn floor(decimal: &str) -> Option<i64> {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let has_digits = decimal.bytes().any(|b| b.is_ascii_digit());
    if !has_digits || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole: i64 = if whole == "-" || whole.is_empty() { 0 } else { whole.parse().ok()? };
    let between = negative && fraction.bytes().any(|b| b != b'0');
    if between { whole.checked_sub(1) } else { Some(whole) }
}

pub(super) fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

pub(super) fn items(list: &Value) -> Option<&Vec<Value>> {
    list.get("items").and_then(Value::as_array)
}

fn balance_item(item: &Value) -> Option<(CustomerId, Balance)> {
    let customer_id = CustomerId::parse(item.get("customer_id")?.as_str()?).ok()?;
    let credits = whole_credits(item.get("balance")?)?;
    let overage = item.get("overage").and_then(whole_credits).unwrap_or(0);
    Some((customer_id, Balance { credits, overage }))
}

/// An empty list is a customer without a grant. A list of others would mean
/// that the filter was not understood, and says nothing about this customer.
pub(crate) fn balance(list: &Value, customer_id: &CustomerId) -> Option<BalanceAnswer> {
    let items = items(list)?;
    if items.is_empty() {
        return Some(BalanceAnswer::NoGrantYet);
    }
    let mut balances = items.iter().filter_map(balance_item);
    balances.find(|(id, _)| id == customer_id).map(|(_, balance)| BalanceAnswer::Known(balance))
}

/// One unreadable line does not hide the others.
pub(crate) fn balance_page(list: &Value) -> Option<BalancePage> {
    let items = items(list)?;
    let balances = items.iter().filter_map(balance_item).collect();
    Some(BalancePage { balances, is_last: items.len() < MAX_PAGE })
}

/// A page with an unreadable line is unreadable: what is not there must be seen
/// not to be there.
pub(crate) fn ledger_page(list: &Value) -> Option<LedgerPage> {
    let items = items(list)?;
    let lines = items.iter().map(ledger_line).collect::<Option<_>>()?;
    Some(LedgerPage { lines, is_last: items.len() < MAX_PAGE })
}

fn ledger_line(line: &Value) -> Option<LedgerLine> {
    Some(LedgerLine {
        id: text(line, "id")?,
        is_credit: line.get("is_credit")?.as_bool()?,
        amount: credits_at_most(line.get("amount")?)?,
        created_at: line.get("created_at")?.as_str()?.parse().ok()?,
        transaction: text(line, "transaction_type").unwrap_or_default(),
        reference: text(line, "reference_type"),
        description: text(line, "description"),
    })
}

/// How many credits moved, whatever the sign they are written with, rounded up.
fn credits_at_most(amount: &Value) -> Option<i64> {
    let written = match amount {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    // Downward below nothing is upward above it.
    let negative = format!("-{}", written.trim_start_matches('-'));
    floor(&negative)?.checked_neg()
}

pub(super) fn checkout(session: &Value) -> Option<Checkout> {
    Some(Checkout {
        session_id: text(session, "session_id")?,
        checkout_url: text(session, "checkout_url").filter(|url| !url.is_empty())?,
    })
}

pub(super) fn checkout_status(session: &Value) -> Option<CheckoutStatus> {
    session.is_object().then(|| CheckoutStatus {
        payment_id: text(session, "payment_id"),
        payment_status: text(session, "payment_status"),
    })
}

pub(super) fn customer(customer: &Value) -> Option<Customer> {
    let customer_id = CustomerId::parse(customer.get("customer_id")?.as_str()?).ok()?;
    Some(Customer { customer_id, email: text(customer, "email")?, name: text(customer, "name") })
}

pub(super) fn entitlement(entitlement: &Value) -> Option<EntitlementInfo> {
    Some(EntitlementInfo {
        id: text(entitlement, "id")?,
        name: text(entitlement, "name").unwrap_or_default(),
        precision: entitlement.get("precision").and_then(Value::as_i64),
        overage_enabled: flag(entitlement, "overage_enabled"),
    })
}

pub(super) fn product(product: &Value) -> Option<ProductInfo> {
    let attached = product.get("credit_entitlements").and_then(Value::as_array);
    let credits = |item: &Value| {
        Some(ProductCredits {
            entitlement_id: text(item, "credit_entitlement_id")?,
            credits: item.get("credits_amount").and_then(whole_credits),
            overage_enabled: flag(item, "overage_enabled"),
            expires_after_days: item.get("expires_after_days").and_then(Value::as_i64),
        })
    };
    Some(ProductInfo {
        product_id: text(product, "product_id")?,
        name: text(product, "name").unwrap_or_default(),
        is_recurring: product.get("is_recurring").and_then(Value::as_bool),
        credits: attached.map(|items| items.iter().filter_map(credits).collect()).unwrap_or_default(),
    })
}

pub(super) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}
