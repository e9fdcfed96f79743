//! What Dodo's webhooks say, read tolerantly.
//!
//! The list of events grows by itself, fields appear and turn null, and a
//! delivery that a strict reader refuses is lost in the end. So only `type` is
//! required of every event, and of `payment.succeeded`, which makes customers,
//! the customer's id. Amounts are not even read: an event is the news that a
//! balance changed, never the figure (docs.dodopayments.com, "Webhooks").
//!
//! Pure. The signature was verified before anything here runs.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::domain::ids::CustomerId;

/// Why a body is not an event that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// Not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// Something without which it means nothing is not there.
    #[error("the event has no usable {0}")]
    Missing(&'static str),
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DodoEvent {
    /// The event's `type`, for the log.
    pub event_type: String,
    /// Whom it is about, if it says so.
    pub customer_id: Option<CustomerId>,
    /// What it means to us.
    pub kind: DodoEventKind,
}

/// The kinds of event that Postmeter tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DodoEventKind {
    /// `payment.succeeded`: someone paid, perhaps for the first time.
    PaymentSucceeded(Box<Payment>),
    /// Any other `payment.*`.
    Payment,
    /// `credit.*` except `credit.balance_low`: a balance changed.
    Credit,
    /// `credit.balance_low`.
    BalanceLow,
    /// `subscription.*`.
    Subscription,
    /// `refund.succeeded`: a payment went back.
    Refunded(Box<Reversal>),
    /// `dispute.opened`: a payment is disputed.
    Disputed(Box<Reversal>),
    /// Anything else, known to us or not: to be answered 2xx and left alone.
    Other,
}

/// A payment, as an event or `GET /payments/{id}` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// `payment_id`.
    pub payment_id: Option<String>,
    /// `succeeded`, `failed`, `processing`, …; unset while nothing is known.
    pub status: Option<String>,
    /// Who paid.
    pub customer_id: CustomerId,
    /// The customer's address, typed at the checkout: proof of nothing.
    pub email: Option<String>,
    /// The customer's name.
    pub name: Option<String>,
    /// What we gave to the checkout, as text.
    pub metadata: BTreeMap<String, String>,
    /// What was bought.
    pub product_cart: Vec<CartItem>,
    /// The checkout it came from, if any.
    pub checkout_session_id: Option<String>,
    /// The subscription it is for, if any.
    pub subscription_id: Option<String>,
    /// The small payment of a card change; buys nothing.
    pub is_update_payment_method: bool,
}

/// A payment that went back, or may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reversal {
    /// `refund_id` or `dispute_id`.
    pub subject_id: Option<String>,
    /// `payment_id`: whose payment it was can be asked by it. A dispute does not say that itself.
    pub payment_id: Option<String>,
    /// What is said of it, on one line: for people, and not to calculate with.
    pub words: String,
}

/// Characters of each thing that is said of a reversal.
const MAX_WORDS: usize = 200;

impl Reversal {
    fn read(data: &Value, subject: &str) -> Self {
        let number = |pointer: &str| match data.pointer(pointer) {
            Some(Value::Number(amount)) => Some(amount.to_string()),
            Some(Value::String(amount)) => Some(line(amount)),
            _ => None,
        };
        let told = |pointer: &str| text(data, pointer).map(|said| line(&said));
        let amount =
            [number("/amount"), told("/currency")].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let is_partial = data.pointer("/is_partial").and_then(Value::as_bool).unwrap_or(false);
        let payment_id = text(data, "/payment_id");
        let pieces = [
            Some(amount).filter(|amount| !amount.is_empty()),
            is_partial.then(|| "in part".to_owned()),
            told("/dispute_stage"),
            told("/reason").or_else(|| told("/remarks")),
        ];
        let pieces: Vec<String> = pieces.into_iter().flatten().filter(|piece| !piece.is_empty()).collect();
        let words = if pieces.is_empty() { "nothing more is said".to_owned() } else { pieces.join(", ") };
        Self { subject_id: text(data, subject).filter(|id| !id.is_empty()), payment_id, words }
    }
}

/// What somebody else has written, as one line.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
    text.trim().chars().map(plain).take(MAX_WORDS).collect()
}

/// One line of what was bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartItem {
    /// The product.
    pub product_id: String,
    /// How many of it.
    pub quantity: i64,
}

impl Payment {
    /// Whether something was bought and paid for.
    pub fn is_paid(&self) -> bool {
        self.status.as_deref() == Some("succeeded") && !self.is_update_payment_method
    }

    /// Reads a payment object; only the customer's id is required.
    pub fn read(payment: &Value) -> Result<Self, MalformedEvent> {
        let customer_id = customer_of(payment).ok_or(MalformedEvent::Missing("customer id"))?;
        Ok(Self {
            payment_id: text(payment, "/payment_id"),
            status: text(payment, "/status"),
            customer_id,
            email: text(payment, "/customer/email"),
            name: text(payment, "/customer/name"),
            metadata: metadata(payment),
            product_cart: product_cart(payment),
            checkout_session_id: text(payment, "/checkout_session_id"),
            subscription_id: text(payment, "/subscription_id"),
            is_update_payment_method: payment
                .get("is_update_payment_method")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        })
    }
}

impl DodoEvent {
    /// Reads the raw body of a delivery whose signature was verified.
    pub fn parse(body: &[u8]) -> Result<Self, MalformedEvent> {
        let event: Value = serde_json::from_slice(body).map_err(|_| MalformedEvent::NotJson)?;
        let event_type = text(&event, "/type").ok_or(MalformedEvent::Missing("type"))?;
        let data = event.get("data").unwrap_or(&Value::Null);
        let kind = kind(&event_type, data)?;
        Ok(Self { event_type, customer_id: customer_of(data), kind })
    }
}

fn kind(event_type: &str, data: &Value) -> Result<DodoEventKind, MalformedEvent> {
    let family = event_type.split('.').next().unwrap_or_default();
    Ok(match (family, event_type) {
        (_, "payment.succeeded") => {
            let mut payment = Payment::read(data)?;
            // The type says so where the object does not; where it does, it is newer.
            payment.status.get_or_insert_with(|| "succeeded".to_owned());
            DodoEventKind::PaymentSucceeded(Box::new(payment))
        }
        (_, "credit.balance_low") => DodoEventKind::BalanceLow,
        (_, "refund.succeeded") => DodoEventKind::Refunded(Box::new(Reversal::read(data, "/refund_id"))),
        (_, "dispute.opened") => DodoEventKind::Disputed(Box::new(Reversal::read(data, "/dispute_id"))),
        ("payment", _) => DodoEventKind::Payment,
        ("credit", _) => DodoEventKind::Credit,
        ("subscription", _) => DodoEventKind::Subscription,
        _ => DodoEventKind::Other,
    })
}

/// Payments and subscriptions carry a customer object, ledger entries an id.
fn customer_of(data: &Value) -> Option<CustomerId> {
    let id = text(data, "/customer/customer_id").or_else(|| text(data, "/customer_id"))?;
    CustomerId::parse(&id).ok()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

/// Values may be text, numbers or truth values; anything else was not ours.
fn metadata(payment: &Value) -> BTreeMap<String, String> {
    let Some(pairs) = payment.get("metadata").and_then(Value::as_object) else {
        return BTreeMap::new();
    };
    let as_text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    pairs.iter().filter_map(|(key, value)| Some((key.clone(), as_text(value)?))).collect()
}

fn product_cart(payment: &Value) -> Vec<CartItem> {
    let items = payment.get("product_cart").and_then(Value::as_array);
    let item = |item: &Value| {
        let quantity = item.get("quantity").and_then(Value::as_i64).unwrap_or(1);
        Some(CartItem { product_id: text(item, "/product_id")?, quantity })
    };
    items.map(|items| items.iter().filter_map(item).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> CustomerId {
        CustomerId::parse(text).unwrap()
    }

    #[test]
    fn a_first_payment_says_who_paid_and_from_which_checkout() {
        let body = br#"{"business_id":"bus_1","type":"payment.succeeded","timestamp":"2026-09-01T10:00:00Z",
            "data":{"payload_type":"Payment","payment_id":"pay_1","status":"succeeded","tax":null,
            "customer":{"customer_id":"cus_1","email":"ann@example.com","name":"Ann","extra":[1]},
            "metadata":{"relay":"t","count":3,"yes":true,"half":0.5,"none":null,"deep":{"a":1}},
            "product_cart":[{"product_id":"pdt_1","quantity":1},{"quantity":2}],
            "checkout_session_id":"cks_1","subscription_id":"sub_1","is_update_payment_method":false,
            "total_amount":500,"from_the_future":{"x":[]}}}"#;
        let event = DodoEvent::parse(body).unwrap();
        assert_eq!(event.customer_id, Some(id("cus_1")));
        let DodoEventKind::PaymentSucceeded(payment) = event.kind else { panic!("{event:?}") };
        assert!(payment.is_paid());
        assert_eq!(payment.email.as_deref(), Some("ann@example.com"));
        assert_eq!(payment.checkout_session_id.as_deref(), Some("cks_1"));
        assert_eq!(payment.subscription_id.as_deref(), Some("sub_1"));
        assert_eq!(payment.product_cart, [CartItem { product_id: "pdt_1".to_owned(), quantity: 1 }]);
        let pairs: Vec<_> = payment.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("count", "3"), ("half", "0.5"), ("relay", "t"), ("yes", "true")]);
    }

    #[test]
    fn only_a_payment_that_succeeded_and_bought_something_is_paid() {
        let table = [
            (r#"{"customer":{"customer_id":"c"}}"#, true),
            (r#"{"customer":{"customer_id":"c"},"status":null,"metadata":null,"product_cart":null}"#, true),
            (r#"{"customer":{"customer_id":"c"},"status":"failed"}"#, false),
            (r#"{"customer":{"customer_id":"c"},"status":"new_word"}"#, false),
            (r#"{"customer":{"customer_id":"c"},"is_update_payment_method":true}"#, false),
        ];
        for (data, paid) in table {
            let body = format!(r#"{{"type":"payment.succeeded","data":{data}}}"#);
            let event = DodoEvent::parse(body.as_bytes()).unwrap();
            let DodoEventKind::PaymentSucceeded(payment) = event.kind else { panic!("{data}") };
            assert_eq!(payment.is_paid(), paid, "{data}");
        }
        let read = Payment::read(&serde_json::json!({"customer": {"customer_id": "c"}})).unwrap();
        assert!(!read.is_paid(), "a payment that was read says itself whether it succeeded");
    }

    #[test]
    fn every_event_of_the_service_has_a_kind_and_new_ones_do_no_harm() {
        let table = [
            ("payment.failed", DodoEventKind::Payment),
            ("payment.processing", DodoEventKind::Payment),
            ("credit.added", DodoEventKind::Credit),
            ("credit.deducted", DodoEventKind::Credit),
            ("credit.manual_adjustment", DodoEventKind::Credit),
            ("credit.balance_low", DodoEventKind::BalanceLow),
            ("subscription.active", DodoEventKind::Subscription),
            ("subscription.past_due", DodoEventKind::Subscription),
            ("refund.failed", DodoEventKind::Other),
            ("dispute.won", DodoEventKind::Other),
            ("credit_note.created", DodoEventKind::Other),
            ("something.new", DodoEventKind::Other),
            ("nodots", DodoEventKind::Other),
        ];
        for (event_type, kind) in table {
            for (data, customer_id) in [
                (r#"{"customer_id":"cus_1","amount":"100000"}"#, Some(id("cus_1"))),
                (r#"{"customer":{"customer_id":"cus_2","email":"x"}}"#, Some(id("cus_2"))),
                (r#"{"customer":null}"#, None),
                (r#"{"customer_id":"not an id"}"#, None),
                ("null", None),
                ("[]", None),
            ] {
                let body = format!(r#"{{"type":"{event_type}","data":{data}}}"#);
                let event = DodoEvent::parse(body.as_bytes()).unwrap();
                assert_eq!((event.kind, event.customer_id), (kind.clone(), customer_id), "{body}");
            }
        }
    }

    #[test]
    fn a_payment_that_goes_back_is_told_in_words_of_one_line() {
        let read = |event_type: &str, data: &str| {
            let body = format!(r#"{{"type":"{event_type}","data":{data}}}"#);
            let event = DodoEvent::parse(body.as_bytes()).unwrap();
            let (DodoEventKind::Refunded(reversal) | DodoEventKind::Disputed(reversal)) = event.kind else {
                panic!("{body}")
            };
            (*reversal, event.customer_id)
        };
        let refund = r#"{"refund_id":"ref_1","payment_id":"pay_1","amount":1900,"currency":"USD","is_partial":true,
            "reason":"asked\r\nfor it","customer":{"customer_id":"cus_1"}}"#;
        let (reversal, customer_id) = read("refund.succeeded", refund);
        assert_eq!(
            (reversal.subject_id.as_deref(), reversal.payment_id.as_deref()),
            (Some("ref_1"), Some("pay_1"))
        );
        assert_eq!(
            (reversal.words.as_str(), customer_id),
            ("1900 USD, in part, asked  for it", Some(id("cus_1")))
        );
        let dispute = r#"{"dispute_id":"dp_1","payment_id":"pay_1","amount":"1900","currency":"USD",
            "dispute_stage":"dispute","dispute_status":"dispute_opened","remarks":null}"#;
        let (reversal, customer_id) = read("dispute.opened", dispute);
        assert_eq!(
            (reversal.subject_id.as_deref(), reversal.words.as_str()),
            (Some("dp_1"), "1900 USD, dispute")
        );
        assert_eq!(customer_id, None, "a dispute does not say whose payment it was");
        for data in ["null", "[]", r#"{"refund_id":7,"amount":{},"reason":""}"#] {
            let (reversal, _) = read("refund.succeeded", data);
            assert_eq!(
                (reversal.subject_id, reversal.words.as_str()),
                (None, "nothing more is said"),
                "{data}"
            );
        }
        let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(9_999));
        assert_eq!(read("refund.succeeded", &long).0.words.len(), MAX_WORDS);
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        let table: [(&[u8], MalformedEvent); 6] = [
            (b"", MalformedEvent::NotJson),
            (b"{", MalformedEvent::NotJson),
            (b"\xff\xfe", MalformedEvent::NotJson),
            (b"[]", MalformedEvent::Missing("type")),
            (br#"{"type":7}"#, MalformedEvent::Missing("type")),
            (br#"{"type":"payment.succeeded","data":{}}"#, MalformedEvent::Missing("customer id")),
        ];
        for (body, want) in table {
            assert_eq!(DodoEvent::parse(body), Err(want), "{body:?}");
        }
    }
}
