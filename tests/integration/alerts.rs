//! Refunds and disputes at Dodo.

use serde_json::{Value, json};

use crate::harness::{Meter, RUNTIME, until};
use crate::subscribe::{subscribe, welcome};

fn shown(meter: &Meter, customer_id: &str) -> Value {
    serde_json::from_str(&meter.says(&["customer", "show", customer_id, "--json"])).unwrap()
}

#[test]
fn a_refund_is_told_to_the_operator_and_a_dispute_suspends_where_that_is_wanted() {
    let meter = Meter::resend().set("billing", "suspend_on_dispute = true").start();
    let buyer = subscribe(&meter, "zoe@example.org");
    welcome(&meter, &buyer.way_back());
    let (customer_id, payment_id) = (buyer.receipt.customer_id.as_str(), buyer.receipt.payment_id.as_str());
    let in_runtime = RUNTIME.enter();
    assert!(!meter.dodo().refund("pay_nobodys"));
    // Dodo delivers twice, under one id.
    meter.dodo().behave(|behaviour| behaviour.duplicate_events = true);
    assert!(meter.dodo().refund(payment_id));
    drop(in_runtime);
    let alerts = until("the refund", || {
        Some(shown(&meter, customer_id)).filter(|whole| whole["alerts"][0].is_object())
    });
    let alert = &alerts["alerts"][0];
    assert_eq!((&alert["kind"], &alert["suspended"]), (&json!("refund"), &json!(false)), "{alerts}");
    assert_eq!(alert["payment_id"], payment_id);
    assert_eq!(alerts["suspended_reason"], Value::Null, "{alerts}");

    let in_runtime = RUNTIME.enter();
    assert!(meter.dodo().dispute(payment_id));
    drop(in_runtime);
    let alerts = until("the dispute", || {
        Some(shown(&meter, customer_id)).filter(|whole| whole["alerts"][1].is_object())
    });
    assert_eq!(alerts["alerts"].as_array().unwrap().len(), 2, "each once: {alerts}");
    assert_eq!(
        (&alerts["alerts"][0]["kind"], &alerts["alerts"][0]["suspended"]),
        (&json!("dispute"), &json!(true))
    );
    assert_eq!(alerts["suspended_reason"], "a payment is disputed", "{alerts}");
    assert!(meter.says(&["customer", "show", customer_id]).contains("dispute dp_"));
    assert!(meter.log().contains("a payment was refunded or is disputed"));
    assert!(meter.get("/metrics").body.contains("postmeter_alerts_total{kind=\"dispute\"} 1"));
    meter.says(&["customer", "resume", customer_id]);
}
