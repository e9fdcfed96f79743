use reqwest::Method;
use serde_json::{Value, json};

use super::EVENT_TYPES;
use crate::billing::dodo::catalog::{
    EVENTS, NewEntitlement, NewProduct, Price, Term, endpoint_body, entitlement_body, product_body,
};
use crate::billing::events::{DodoEvent, DodoEventKind};
use crate::sandbox::contract::assert_dodo;
use crate::sandbox::dodo::Payer;
use crate::sandbox::tests::{answer, dodo, scratch, started};
use crate::sandbox::{Settings, StandIns};

const UNIT: NewEntitlement<'_> = NewEntitlement { name: "Emails", unit: "email", expires_after_days: 30 };

async fn post(all: &StandIns, path: &str, body: &Value) -> (u16, Value) {
    answer(dodo(all, Method::POST, path).json(body)).await
}

async fn get(all: &StandIns, path: &str) -> (u16, Value) {
    answer(dodo(all, Method::GET, path)).await
}

fn plan(entitlement_id: &str) -> Value {
    let price = Price { currency: "USD".to_owned(), minor_units: 1_900 };
    product_body(&NewProduct {
        name: "Plan",
        mark: "plan",
        price: &price,
        term: Term::Monthly,
        entitlement_id,
        credits: 5_000,
        expires_after_days: 31,
    })
}

#[test]
fn events_are_those_of_the_description() {
    for name in EVENTS.iter().chain(EVENT_TYPES.iter()) {
        assert_dodo("EventType", &json!(name));
    }
    assert!(EVENTS.iter().all(|name| EVENT_TYPES.contains(name)));
}

#[test]
fn an_endpoint_is_told_of_what_something_follows_from_and_of_nothing_else() {
    let follows = |name: &&&str| {
        let body = json!({ "type": name, "data": { "customer": { "customer_id": "cus_1" } } });
        let event = DodoEvent::parse(body.to_string().as_bytes()).unwrap();
        event.kind != DodoEventKind::Other
    };
    let wanted: Vec<&&str> = EVENT_TYPES.iter().filter(follows).collect();
    assert_eq!(EVENTS.iter().collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn an_entitlement_is_made_once_under_its_name_and_listed_newest_first() {
    let all = started().await;
    let body = entitlement_body(&UNIT);
    assert_dodo("CreateCreditEntitlementRequest", &body);
    let (status, made) = post(&all, "/credit-entitlements", &body).await;
    assert_eq!(status, 201, "{made}");
    assert_dodo("CreditEntitlementResponse", &made);
    let (status, again) = post(&all, "/credit-entitlements", &body).await;
    assert_eq!((status, &again["code"]), (422, &json!("CREDIT_ENTITLEMENT_NAME_ALREADY_EXISTS")));
    let (_, list) = get(&all, "/credit-entitlements").await;
    assert_dodo("ListCreditEntitlementsResponse", &list);
    assert_eq!((&list["items"][0], list["items"].as_array().unwrap().len()), (&made, 2));
    let id = made["id"].as_str().unwrap();
    assert_eq!(get(&all, &format!("/credit-entitlements/{id}")).await, (200, made.clone()));
    let balances = format!("/credit-entitlements/{id}/balances");
    assert_eq!(get(&all, &balances).await, (200, json!({ "items": [] })), "it is there, and nobody has any");
    assert_eq!(get(&all, &format!("{balances}/cus_sandbox")).await.0, 404);
    for (field, value) in [("precision", json!(11)), ("overage_enabled", json!(true)), ("name", json!(""))] {
        let mut bad = body.clone();
        bad[field] = value;
        assert_eq!(post(&all, "/credit-entitlements", &bad).await.0, 422, "{field}");
    }
    assert_eq!(post(&all, "/credit-entitlements", &json!({ "name": "x" })).await.0, 422);
    all.stop().await;
}

#[tokio::test]
async fn a_product_is_read_whole_and_listed_without_its_credits() {
    let all = started().await;
    let (status, made) = post(&all, "/products", &plan("cde_sandbox")).await;
    assert_eq!(status, 200, "{made}");
    let id = made["product_id"].as_str().unwrap();
    let (_, shown) = get(&all, &format!("/products/{id}")).await;
    assert_eq!(shown, made);
    assert_eq!(shown["credit_entitlements"][0]["credits_amount"], "5000");
    assert_eq!((&shown["price"]["price"], &shown["is_recurring"]), (&json!(1_900), &json!(true)));
    let (_, list) = get(&all, "/products?page_size=1&page_number=0").await;
    let listed = &list["items"][0];
    assert_eq!((&listed["product_id"], &listed["price"]), (&json!(id), &json!(1_900)));
    assert_eq!(
        (&listed["metadata"], listed.get("credit_entitlements")),
        (&json!({ "postmeter": "plan" }), None)
    );
    assert_eq!(get(&all, "/products?recurring=false").await.1["items"].as_array().unwrap().len(), 1);
    assert_eq!(get(&all, "/products?archived=true").await.1["items"], json!([]));
    assert_eq!(post(&all, "/products", &plan("cde_other")).await.0, 404);
    for (field, value) in [("tax_category", json!("mail")), ("price", json!({ "type": "one_time_price" }))] {
        let mut bad = plan("cde_sandbox");
        bad[field] = value;
        assert_eq!(post(&all, "/products", &bad).await.0, 422, "{field}");
    }
    all.stop().await;
}

#[tokio::test]
async fn what_was_made_is_sold_for_dollars_and_credits_of_the_one_ledger() {
    let all = started().await;
    let (_, made) = post(&all, "/products", &plan("cde_sandbox")).await;
    let cart =
        |product: &Value| json!({ "product_cart": [{ "product_id": product["product_id"], "quantity": 1 }] });
    let (status, session) = post(&all, "/checkouts", &cart(&made)).await;
    assert_eq!(status, 200, "{session}");
    let payer = Payer { email: "a@b.example".to_owned(), name: String::new() };
    let receipt = all.dodo.pay(session["session_id"].as_str().unwrap(), &payer).unwrap();
    assert_eq!(all.dodo.balance(&receipt.customer_id), Some(5_000));
    let id = receipt.subscription_id.unwrap();
    let (_, subscription) = get(&all, &format!("/subscriptions/{id}")).await;
    assert_eq!(
        (&subscription["product_id"], &subscription["recurring_pre_tax_amount"]),
        (&made["product_id"], &json!(1_900))
    );
    assert_eq!(subscription["credit_entitlement_cart"][0]["expires_after_days"], 31);
    let (_, unit) = post(&all, "/credit-entitlements", &entitlement_body(&UNIT)).await;
    let (_, other) = post(&all, "/products", &plan(unit["id"].as_str().unwrap())).await;
    for product in [other, json!({ "product_id": "pdt_x" })] {
        assert_eq!(post(&all, "/checkouts", &cart(&product)).await.0, 422, "{product}");
    }
    all.stop().await;
}

#[tokio::test]
async fn endpoints_are_paged_by_iterator_and_give_their_secret() {
    let all = started().await;
    for n in 0..3 {
        let body = endpoint_body(&format!("https://{n}.example/webhooks/dodo"), "setup");
        assert_dodo("CreateWebhookRequest", &body);
        let (status, made) = post(&all, "/webhooks", &body).await;
        assert_eq!(status, 200, "{made}");
        assert_dodo("WebhookDetails", &made);
    }
    let (_, first) = get(&all, "/webhooks?limit=2").await;
    assert_dodo("ListWebhooksResponse", &first);
    assert_eq!((first["data"].as_array().unwrap().len(), &first["done"]), (2, &json!(false)));
    let next = first["iterator"].as_str().unwrap();
    let (_, second) = get(&all, &format!("/webhooks?limit=2&iterator={next}")).await;
    assert_eq!((second["data"].as_array().unwrap().len(), &second["done"]), (1, &json!(true)));
    let id = second["data"][0]["id"].as_str().unwrap();
    assert_eq!(get(&all, &format!("/webhooks/{id}")).await, (200, second["data"][0].clone()));
    let (_, secret) = get(&all, &format!("/webhooks/{id}/secret")).await;
    assert_dodo("GetWebhookSecretResponse", &secret);
    assert_eq!(get(&all, "/webhooks/ep_x/secret").await.0, 404);
    let keyed = json!({ "url": "https://k.example", "idempotency_key": "k" });
    assert_eq!(post(&all, "/webhooks", &keyed).await, post(&all, "/webhooks", &keyed).await);
    for bad in [
        json!({ "url": "http://x.example" }),
        json!({ "url": "https://x.example", "filter_types": ["payment.*"] }),
        json!({ "url": "https://x.example", "metadata": { "n": 1 } }),
        json!({}),
    ] {
        assert_eq!(post(&all, "/webhooks", &bad).await.0, 422, "{bad}");
    }
    all.stop().await;
}

#[tokio::test]
async fn what_was_made_is_there_after_a_restart() {
    let settings = Settings { data_dir: Some(scratch("catalog")), ..Settings::default() };
    let all = StandIns::start(settings.clone()).await.unwrap();
    let (_, made) = post(&all, "/credit-entitlements", &entitlement_body(&UNIT)).await;
    let (_, sold) = post(&all, "/products", &plan(made["id"].as_str().unwrap())).await;
    all.stop().await;
    let all = StandIns::start(settings).await.unwrap();
    let path = format!("/products/{}", sold["product_id"].as_str().unwrap());
    assert_eq!(get(&all, &path).await, (200, sold));
    all.stop().await;
}
