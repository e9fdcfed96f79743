use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

use super::*;
use crate::http::signature::HeaderNames;
use crate::sandbox::contract::assert_dodo;
use crate::sandbox::faults::{Fault, Misbehaviour};
use crate::sandbox::tests::{Deliveries, answer, client, delivered, dodo, endpoint, scratch, started};
use crate::sandbox::{
    CREDITS, CUSTOMER_EMAIL, CUSTOMER_ID, DODO_READ_ONLY_API_KEY, ENTITLEMENT_ID, PLAN_PRODUCT_ID, Settings,
    StandIns, TOPUP_PRODUCT_ID,
};

const BALANCES: &str = "/credit-entitlements/cde_sandbox/balances";

fn entries(customer: &str) -> String {
    format!("{BALANCES}/{customer}/ledger-entries")
}

fn debit(amount: &str, key: &str) -> Value {
    json!({ "entry_type": "debit", "amount": amount, "idempotency_key": key, "reason": format!("email send {key}") })
}

async fn post(all: &StandIns, body: &Value) -> (u16, Value) {
    answer(dodo(all, Method::POST, &entries(CUSTOMER_ID)).json(body)).await
}

#[tokio::test]
async fn p3_a_debit_is_applied_once_whatever_a_repeated_key_is_answered() {
    let all = started().await;
    let (status, first) = post(&all, &debit("2", "k1")).await;
    assert_eq!(status, 201);
    assert_dodo("CreateLedgerEntryResponse", &first);
    assert_eq!((&first["balance_before"], &first["balance_after"]), (&json!("5000"), &json!("4998")));
    assert_eq!(post(&all, &debit("2", "k1")).await.0, 409);
    assert_eq!(post(&all, &debit("1", "k2")).await.1["balance_after"], json!("4997"));
    all.dodo.behave(|manners| manners.repeated_key = RepeatedKey::FirstAnswer);
    assert_eq!(post(&all, &debit("2", "k1")).await, (201, first), "with the old balance_after");
    assert_eq!((all.dodo.balance(CUSTOMER_ID), all.dodo.debited(CUSTOMER_ID)), (Some(4_997), 3));
    all.stop().await;
}

#[tokio::test]
async fn p3_a_credit_is_a_grant_of_its_own_once_for_each_key() {
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    let credit = |key: &str, expires_at: Value| {
        json!({ "entry_type": "credit", "amount": "3", "idempotency_key": key, "expires_at": expires_at,
                "reason": format!("email refund {key}") })
    };
    all.dodo.behave(|manners| manners.amounts = Amounts::String);
    all.dodo.faults().push(Fault::new(Misbehaviour::DropAfter));
    let soon = credit("k1", json!("2026-09-01T13:00:00Z"));
    let lost = dodo(&all, Method::POST, &entries(CUSTOMER_ID)).json(&soon).send().await;
    assert!(lost.is_err());
    assert_eq!(post(&all, &soon).await.0, 409);
    all.dodo.behave(|manners| manners.repeated_key = RepeatedKey::FirstAnswer);
    let (status, first) = post(&all, &soon).await;
    assert_dodo("CreateLedgerEntryResponse", &first);
    assert_eq!((status, &first["balance_after"], &first["is_credit"]), (201, &json!("5003"), &json!(true)));
    assert_eq!(post(&all, &credit("k2", Value::Null)).await.0, 201);
    assert_eq!((all.dodo.balance(CUSTOMER_ID), all.dodo.debited(CUSTOMER_ID)), (Some(5_006), 0));
    let path = format!("{BALANCES}/{CUSTOMER_ID}/grants");
    let (_, grants) = answer(dodo(&all, Method::GET, &path)).await;
    assert_dodo("ListGrantsResponse", &grants);
    let expiries: Vec<&Value> =
        grants["items"].as_array().unwrap().iter().map(|g| &g["expires_at"]).collect();
    assert_eq!(expiries, [&Value::Null, &json!("2026-09-01T13:00:00.000000Z"), &Value::Null]);
    clock.advance(Duration::from_secs(3600));
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(5_003), "only that grant has lapsed");
    all.stop().await;
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_and_on_demand() {
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    assert_eq!(post(&all, &debit("1", "k")).await.0, 201);
    clock.advance(Duration::from_secs(86_399));
    assert_eq!(post(&all, &debit("1", "k")).await.0, 409);
    clock.advance(Duration::from_secs(1));
    assert_eq!(post(&all, &debit("1", "k")).await.0, 201);
    assert_eq!(post(&all, &debit("1", "k")).await.0, 409);
    all.dodo.faults().push(Fault::new(Misbehaviour::ForgetKeys));
    assert_eq!(post(&all, &debit("1", "k")).await.0, 201);
    assert_eq!(all.dodo.debited(CUSTOMER_ID), 3);
    all.stop().await;
}

#[tokio::test]
async fn too_little_balance_is_a_400_before_or_after_the_key_as_set() {
    let all = started().await;
    assert_eq!(post(&all, &debit("5001", "k0")).await.0, 400);
    assert_eq!(post(&all, &debit("5000", "k1")).await.0, 201);
    assert_eq!(post(&all, &debit("5000", "k1")).await.0, 409);
    all.dodo.behave(|manners| manners.balance_before_key = true);
    let (status, body) = post(&all, &debit("5000", "k1")).await;
    assert_eq!(status, 400);
    assert_dodo("ErrorBody", &body);
    assert_eq!(post(&all, &debit("1", "k2")).await.0, 400);
    assert_eq!(all.dodo.debited(CUSTOMER_ID), 5_000);
    all.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_entry_is_answered_as_documented() {
    let all = started().await;
    let url = entries(CUSTOMER_ID);
    let table = [
        (json!({ "entry_type": "debit", "amount": 1 }), 422),
        (json!({ "entry_type": "debit" }), 422),
        (json!({ "entry_type": "refund", "amount": "1" }), 422),
        (json!({ "entry_type": "debit", "amount": "0" }), 400),
        (json!({ "entry_type": "debit", "amount": "10000000000" }), 400),
        (json!({ "entry_type": "debit", "amount": "1", "metadata": { "a": null } }), 422),
        (json!({ "entry_type": "credit", "amount": "1", "expires_at": "soon" }), 422),
    ];
    for (body, wanted) in table {
        assert_eq!(answer(dodo(&all, Method::POST, &url).json(&body)).await.0, wanted, "{body}");
    }
    let (_, text) = answer(dodo(&all, Method::POST, &url).json(&json!({ "entry_type": "debit" }))).await;
    assert!(text.as_str().unwrap().contains("missing field `amount`"), "{text}");
    let one = debit("1", "k");
    let elsewhere = "/credit-entitlements/cde_other/balances/cus_sandbox/ledger-entries";
    assert_eq!(answer(dodo(&all, Method::POST, elsewhere).json(&one)).await.0, 404);
    assert_eq!(answer(dodo(&all, Method::POST, &entries("cus_nobody")).json(&one)).await.0, 404);
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(CREDITS));
    all.stop().await;
}

#[tokio::test]
async fn keys_decide_who_may_read_and_who_may_write() {
    let all = started().await;
    let url = |path: &str| format!("{}{path}", all.dodo_url);
    let read = |key: &str| client().get(url(BALANCES)).bearer_auth(key);
    assert_eq!(answer(client().get(url(BALANCES))).await.0, 401);
    assert_eq!(answer(read("dodo_live_other")).await.0, 401);
    assert_eq!(answer(read(DODO_READ_ONLY_API_KEY)).await.0, 200);
    let write = client().post(url(&entries(CUSTOMER_ID))).bearer_auth(DODO_READ_ONLY_API_KEY);
    assert_eq!(answer(write.json(&debit("1", "k"))).await, (401, json!("")), "without a body");
    all.stop().await;
}

#[tokio::test]
async fn the_rate_limit_is_told_and_kept() {
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    all.dodo.behave(|manners| (manners.per_second, manners.per_minute) = (2, 3));
    let get = || dodo(&all, Method::GET, "/products").send();
    let first = get().await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["x-ratelimit-limit"], "3");
    assert_eq!(first.headers()["x-ratelimit-remaining"], "2");
    assert_eq!(get().await.unwrap().status(), 200);
    let refused = get().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["x-ratelimit-reset"].to_str().unwrap()),
        (429, "1")
    );
    assert_eq!(refused.json::<Value>().await.unwrap(), json!({ "code": "TOO_MANY_REQUESTS" }));
    clock.advance(Duration::from_secs(1));
    assert_eq!(get().await.unwrap().status(), 200);
    let refused = get().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["x-ratelimit-reset"].to_str().unwrap()),
        (429, "59")
    );
    assert_eq!(all.dodo.calls(), 5);
    all.stop().await;
}

#[tokio::test]
async fn balances_tell_no_grant_yet_from_a_wrong_entitlement_and_write_amounts_as_set() {
    let all = started().await;
    all.dodo.add_customer("cus_new", "new@example.com", "New").unwrap();
    let get = |path: String| answer(dodo(&all, Method::GET, &path));
    assert_eq!(get(format!("{BALANCES}/cus_new")).await.0, 404);
    assert_eq!(get(format!("{BALANCES}?customer_id=cus_new")).await, (200, json!({ "items": [] })));
    assert_eq!(get("/credit-entitlements/cde_other/balances?customer_id=cus_new".to_owned()).await.0, 404);
    let (_, balance) = get(format!("{BALANCES}/{CUSTOMER_ID}")).await;
    assert_eq!((&balance["balance"], &balance["overage"]), (&json!(5000), &json!(0)));
    all.dodo.behave(|manners| manners.amounts = Amounts::String);
    let (_, balance) = get(format!("{BALANCES}/{CUSTOMER_ID}")).await;
    assert_eq!(balance["balance"], json!("5000"));
    assert_dodo("CustomerCreditBalanceResponse", &balance);
    let (_, list) = get(format!("{BALANCES}?customer_id={CUSTOMER_ID}")).await;
    assert_dodo("ListBalancesResponse", &list);
    assert_eq!(list["items"], json!([balance]));
    all.stop().await;
}

#[tokio::test]
async fn the_ledger_is_paged_from_zero_newest_first_and_shows_the_reason() {
    let all = started().await;
    for n in 0..12 {
        post(&all, &debit("1", &format!("k{n}"))).await;
    }
    let ledger = format!("{BALANCES}/{CUSTOMER_ID}/ledger");
    let page = |query: &'static str| answer(dodo(&all, Method::GET, &format!("{ledger}{query}")));
    let (_, first) = page("").await;
    assert_dodo("ListLedgerResponse", &first);
    assert_eq!(first["items"].as_array().unwrap().len(), 10);
    assert_eq!(first["items"][0]["description"], "email send k11");
    assert_eq!(first["items"][0]["metadata"], json!({}));
    let (_, second) = page("?page_number=1&page_size=10").await;
    assert_eq!(second["items"].as_array().unwrap().len(), 3, "the grant is the oldest line");
    assert_eq!(second["items"][2]["transaction_type"], "credit_added");
    let (_, debits) = page("?transaction_type=credit_deducted&page_size=100").await;
    assert_eq!(debits["items"].as_array().unwrap().len(), 12);
    assert_eq!(page("?page_size=101").await.0, 422);
    assert_eq!(page("?start_date=2100-01-01T00:00:00Z").await.1["items"], json!([]));
    all.dodo.behave(|manners| manners.reason_in_ledger = false);
    assert_eq!(page("").await.1["items"][0]["description"], Value::Null);
    all.stop().await;
}

#[tokio::test]
async fn credits_expire_at_their_hour_and_debits_draw_the_oldest_grant() {
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    let credit = json!({ "entry_type": "credit", "amount": "7", "expires_at": "2026-09-01T13:00:00Z" });
    let (status, made) = post(&all, &credit).await;
    assert_eq!((status, &made["is_credit"]), (201, &json!(true)));
    post(&all, &debit("5000", "k1")).await;
    post(&all, &debit("3", "k2")).await;
    let grants = format!("{BALANCES}/{CUSTOMER_ID}/grants");
    all.dodo.behave(|manners| manners.amounts = Amounts::String);
    let (_, list) = answer(dodo(&all, Method::GET, &grants)).await;
    assert_dodo("ListGrantsResponse", &list);
    assert_eq!(list["items"][1]["remaining_amount"], "4");
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(post(&all, &debit("1", "k3")).await.0, 400);
    assert_eq!((all.dodo.balance(CUSTOMER_ID), all.dodo.debited(CUSTOMER_ID)), (Some(0), 5_003));
    let (_, expired) = answer(dodo(&all, Method::GET, &format!("{grants}?status=expired"))).await;
    assert_eq!(expired["items"].as_array().unwrap().len(), 1);
    all.dodo.grant(CUSTOMER_ID, 10, None).unwrap();
    all.dodo.expire_credits(CUSTOMER_ID).unwrap();
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(0));
    all.stop().await;
}

#[tokio::test]
async fn an_answer_lost_after_the_entry_was_applied_leaves_it_applied() {
    let all = started().await;
    for (fault, key) in [
        (Misbehaviour::DropAfter, "a"),
        (Misbehaviour::AnswerAfter(crate::sandbox::faults::Reply::status(500)), "b"),
    ] {
        all.dodo.faults().push(Fault::new(fault).on("POST", "/ledger-entries"));
        let lost = dodo(&all, Method::POST, &entries(CUSTOMER_ID)).json(&debit("1", key)).send().await;
        assert!(lost.is_err() || lost.is_ok_and(|answer| answer.status() == 500));
        assert_eq!(post(&all, &debit("1", key)).await.0, 409);
    }
    all.dodo.faults().push(Fault::new(Misbehaviour::DropBefore));
    assert!(dodo(&all, Method::POST, &entries(CUSTOMER_ID)).json(&debit("1", "c")).send().await.is_err());
    assert_eq!(post(&all, &debit("1", "c")).await.0, 201);
    assert_eq!(all.dodo.debited(CUSTOMER_ID), 3);
    all.stop().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let settings = Settings { data_dir: Some(scratch("dodo")), ..Settings::default() };
    let all = StandIns::start(settings.clone()).await.unwrap();
    post(&all, &debit("2", "k")).await;
    let (_, session) =
        open(&all, json!({ "product_cart": [{ "product_id": TOPUP_PRODUCT_ID, "quantity": 1 }] })).await;
    let payer = Payer { email: "late@example.com".to_owned(), name: "Late".to_owned() };
    let receipt = all.dodo.pay(session["session_id"].as_str().unwrap(), &payer).unwrap();
    all.stop().await;
    let all = StandIns::start(settings).await.unwrap();
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(4_998), "and not seeded again");
    assert_eq!(post(&all, &debit("2", "k")).await.0, 409);
    assert_eq!(all.dodo.balance(&receipt.customer_id), Some(5_000));
    let (status, _) = answer(dodo(&all, Method::GET, &format!("/payments/{}", receipt.payment_id))).await;
    assert_eq!(status, 200);
    all.stop().await;
}

async fn open(all: &StandIns, body: Value) -> (u16, Value) {
    answer(dodo(all, Method::POST, "/checkouts").json(&body)).await
}

async fn next(inbox: &mut Deliveries) -> (String, String, Value) {
    delivered(inbox, HeaderNames::Webhook, WEBHOOK_SECRET).await
}

#[tokio::test]
async fn paying_for_the_plan_tells_of_it_in_signed_webhooks() {
    let all = started().await;
    let (url, mut inbox) = endpoint(0).await;
    all.dodo.deliver_webhooks_to(&url);
    let (status, session) = open(
        &all,
        json!({
            "product_cart": [{ "product_id": PLAN_PRODUCT_ID, "quantity": 1 }],
            "customer": { "email": "ann@example.com", "name": "Ann" },
            "return_url": "http://127.0.0.1:3000/welcome?c=token",
            "metadata": { "relay_checkout": "t1" },
        }),
    )
    .await;
    assert_eq!(status, 200);
    assert_dodo("CreateSessionResponse", &session);
    let id = session["session_id"].as_str().unwrap();
    let receipt = all.dodo.pay(id, &Payer::default()).unwrap();
    let mut types = Vec::new();
    for _ in 0..4 {
        let (_, kind, event) = next(&mut inbox).await;
        assert_dodo("OutgoingWebhook", &event);
        let data = &event["data"];
        assert_eq!(data["metadata"], json!({ "relay_checkout": "t1" }));
        match kind.as_str() {
            "payment.succeeded" => {
                assert_dodo("PaymentResponse", data);
                assert_eq!(data["checkout_session_id"], json!(id));
                assert_eq!(data["subscription_id"], json!(receipt.subscription_id));
                assert_eq!(data["customer"]["email"], "ann@example.com");
            }
            "credit.added" => {
                assert_dodo("CreditLedgerEntryResponse", data);
                assert_eq!(
                    (&data["amount"], &data["customer_id"]),
                    (&json!("10000"), &json!(receipt.customer_id))
                );
            }
            _ => assert_dodo("SubscriptionWebhookPayload", data),
        }
        types.push(kind);
    }
    assert_eq!(types, ["subscription.active", "payment.succeeded", "credit.added", "subscription.renewed"]);
    let (_, status) = answer(dodo(&all, Method::GET, &format!("/checkouts/{id}"))).await;
    assert_dodo("GetCheckoutSessionsStatus", &status);
    assert_eq!(status["payment_id"], json!(receipt.payment_id));
    let (_, list) = answer(dodo(&all, Method::GET, "/subscriptions")).await;
    assert_dodo("GetSubscriptionsListResponse", &list);
    let (_, list) = answer(dodo(&all, Method::GET, "/payments")).await;
    assert_dodo("GetPaymentsListResponse", &list);
    all.stop().await;
}

#[tokio::test]
async fn webhooks_come_in_any_order_twice_and_again_when_they_are_refused() {
    let all = started().await;
    let (url, mut inbox) = endpoint(1).await;
    all.dodo.deliver_webhooks_to(&url);
    all.dodo.behave(|manners| {
        manners.event_order = EventOrder::Reversed;
        manners.event_retries_ms = vec![0];
    });
    let top_up = json!({
        "product_cart": [{ "product_id": TOPUP_PRODUCT_ID, "quantity": 1,
            "credit_entitlements": [{ "credit_entitlement_id": ENTITLEMENT_ID, "credits_amount": "60000" }] }],
        "customer": { "customer_id": CUSTOMER_ID },
    });
    let (_, session) = open(&all, top_up.clone()).await;
    all.dodo.pay(session["session_id"].as_str().unwrap(), &Payer::default()).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (id, kind, _) = next(&mut inbox).await;
        seen.push((id, kind));
    }
    assert_eq!(seen[0].1, "credit.added", "the last first");
    assert_eq!(seen.iter().filter(|one| one.0 == seen[0].0).count(), 2, "the refused one came again");
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(65_000));
    all.dodo.behave(|manners| manners.duplicate_events = true);
    let (_, session) = open(&all, top_up).await;
    all.dodo.pay(session["session_id"].as_str().unwrap(), &Payer::default()).unwrap();
    let (first, again) = (next(&mut inbox).await, next(&mut inbox).await);
    assert_eq!(first.0, again.0);
    all.stop().await;
}

#[tokio::test]
async fn a_webhook_that_nobody_took_before_the_stop_comes_after_the_next_start() {
    let settings = Settings { data_dir: Some(scratch("owed")), ..Settings::default() };
    let all = StandIns::start(settings.clone()).await.unwrap();
    let (url, mut inbox) = endpoint(usize::MAX).await;
    all.dodo.deliver_webhooks_to(&url);
    all.dodo.behave(|manners| manners.event_retries_ms = vec![3_600_000]);
    let (_, session) =
        open(&all, json!({ "product_cart": [{ "product_id": TOPUP_PRODUCT_ID, "quantity": 1 }] })).await;
    let payer = Payer { email: "late@example.com".to_owned(), name: String::new() };
    all.dodo.pay(session["session_id"].as_str().unwrap(), &payer).unwrap();
    let refused = [next(&mut inbox).await.0, next(&mut inbox).await.0];
    all.stop().await;
    let all = StandIns::start(settings.clone()).await.unwrap();
    let (url, mut inbox) = endpoint(0).await;
    all.dodo.deliver_webhooks_to(&url);
    assert_eq!([next(&mut inbox).await.0, next(&mut inbox).await.0], refused);
    all.stop().await;
}

#[tokio::test]
async fn a_low_balance_is_told_once_per_crossing() {
    let all = started().await;
    let (url, mut inbox) = endpoint(0).await;
    let plan = json!({ "product_cart": [{ "product_id": PLAN_PRODUCT_ID, "quantity": 1 }],
        "customer": { "customer_id": CUSTOMER_ID } });
    let (_, session) = open(&all, plan).await;
    all.dodo.pay(session["session_id"].as_str().unwrap(), &Payer::default()).unwrap();
    all.dodo.deliver_webhooks_to(&url);
    for (amount, wanted) in
        [("12999", &["credit.deducted"][..]), ("1", &["credit.deducted", "credit.balance_low"])]
    {
        post(&all, &debit(amount, amount)).await;
        for kind in wanted {
            let (_, seen, event) = next(&mut inbox).await;
            assert_eq!(seen, *kind);
            assert_dodo("OutgoingWebhook", &event);
        }
    }
    all.stop().await;
}

#[tokio::test]
async fn a_typed_address_lands_on_the_customer_who_has_it_unless_told_otherwise() {
    let all = started().await;
    let cart = json!([{ "product_id": TOPUP_PRODUCT_ID, "quantity": 1 }]);
    let payer = Payer { email: CUSTOMER_EMAIL.to_uppercase(), name: String::new() };
    let (_, session) = open(&all, json!({ "product_cart": cart })).await;
    let id = session["session_id"].as_str().unwrap();
    assert_eq!(all.dodo.pay(id, &payer).unwrap().customer_id, CUSTOMER_ID);
    assert!(matches!(all.dodo.pay(id, &payer), Err(PayError::Consumed)));
    let flags = json!({ "always_create_new_customer": true });
    let (_, session) = open(&all, json!({ "product_cart": cart, "feature_flags": flags })).await;
    assert_ne!(
        all.dodo.pay(session["session_id"].as_str().unwrap(), &payer).unwrap().customer_id,
        CUSTOMER_ID
    );
    for body in [
        json!({ "product_cart": [] }),
        json!({ "product_cart": [{ "product_id": "pdt_other", "quantity": 1 }] }),
        json!({ "product_cart": cart, "customer": { "customer_id": "cus_nobody" } }),
        json!({}),
    ] {
        assert_eq!(open(&all, body.clone()).await.0, 422, "{body}");
    }
    all.stop().await;
}

#[tokio::test]
async fn the_checkout_page_takes_a_click_and_leads_back() {
    let all = started().await;
    let (_, session) = open(
        &all,
        json!({
            "product_cart": [{ "product_id": TOPUP_PRODUCT_ID, "quantity": 1 }],
            "customer": { "email": "<b>@example.com" },
            "return_url": "http://127.0.0.1:3000/welcome?c=token",
        }),
    )
    .await;
    let url = session["checkout_url"].as_str().unwrap();
    let shown = client().get(url).send().await.unwrap();
    let policy = shown.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:3000"), "{policy}");
    assert!(!policy.contains("unsafe-inline"), "{policy}");
    let text = shown.text().await.unwrap();
    assert!(
        text.contains("&lt;b&gt;@example.com") && text.contains("readonly") && text.contains("Pay $6.00")
    );
    let pay =
        || client().post(url).header("content-type", "application/x-www-form-urlencoded").body("name=Bob");
    let paid = pay().send().await.unwrap();
    assert_eq!(paid.status(), 303);
    let back = paid.headers()["location"].to_str().unwrap();
    assert!(back.starts_with("http://127.0.0.1:3000/welcome?c=token&payment_id=pay_"), "{back}");
    assert!(back.contains("&status=succeeded") && !back.contains("cks_"), "{back}");
    assert_eq!(pay().send().await.unwrap().status(), 409);
    assert_eq!(client().get(format!("{url}x")).send().await.unwrap().status(), 404);
    all.stop().await;
}

#[tokio::test]
async fn products_entitlements_and_customers_can_be_read() {
    let all = started().await;
    let get = |path: &'static str| answer(dodo(&all, Method::GET, path));
    for path in ["/products/pdt_sandbox_plan", "/credit-entitlements/cde_sandbox", "/customers/cus_sandbox"] {
        assert_eq!(get(path).await.0, 200, "{path}");
    }
    for path in
        ["/products/x", "/credit-entitlements/x", "/customers/x", "/payments/x", "/subscriptions/x", "/x"]
    {
        let (status, body) = get(path).await;
        assert_eq!((status, &body["code"]), (404, &json!("NOT_FOUND")), "{path}");
    }
    assert_dodo("ListCreditEntitlementsResponse", &get("/credit-entitlements").await.1);
    assert_dodo("GetCustomersListResponse", &get("/customers?email=sandbox%40example.com").await.1);
    assert_dodo(
        "CustomerCreditEntitlementsResponse",
        &get("/customers/cus_sandbox/credit-entitlements").await.1,
    );
    let new = json!({ "email": "eve@example.com", "name": "Eve" });
    let (status, made) = answer(dodo(&all, Method::POST, "/customers").json(&new)).await;
    assert_eq!(status, 200);
    assert_dodo("CustomerResponse", &made);
    all.stop().await;
}
