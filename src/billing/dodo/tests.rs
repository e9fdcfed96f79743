use serde_json::{Value, json};

use super::*;
use crate::outbound::stand_in::{Given, StandIn};

const KEY: &str = "dodo_test_very_secret";

async fn client(answers: &[Given]) -> (Dodo, StandIn) {
    let stand_in = StandIn::start(answers).await;
    let settings = DodoSettings {
        base_url: stand_in.base_url.clone(),
        api_key: SecretString::from(KEY),
        entitlement_id: "cde_1".to_owned(),
        timeout: Duration::from_secs(5),
        clock: Clock::system(),
    };
    (Dodo::new(settings).unwrap(), stand_in)
}

fn customer() -> CustomerId {
    CustomerId::parse("cus_1").unwrap()
}

fn answered(status: u16, body: &str) -> Result<HttpAnswer, CallFailure> {
    let rate = RateInfo { retry_after: Some(Duration::from_secs(3)), ..RateInfo::default() };
    Ok(HttpAnswer { status, rate, body: body.as_bytes().to_vec() })
}

#[test]
fn amounts_are_texts_or_numbers_and_are_rounded_down() {
    let table = [
        (json!("100000"), Some(100_000)),
        (json!(100_000), Some(100_000)),
        (json!(0), Some(0)),
        (json!("0"), Some(0)),
        (json!("12.999"), Some(12)),
        (json!(12.5), Some(12)),
        (json!("12.000"), Some(12)),
        (json!("-3"), Some(-3)),
        (json!("-3.0"), Some(-3)),
        (json!("-0.1"), Some(-1)),
        (json!(-2.5), Some(-3)),
        (json!(" 7 "), Some(7)),
        (json!("7."), Some(7)),
        (json!(".5"), Some(0)),
        (json!("-.5"), Some(-1)),
        (json!(""), None),
        (json!("-"), None),
        (json!("."), None),
        (json!("1e5"), None),
        (json!("seven"), None),
        (json!("1,000"), None),
        (json!("99999999999999999999"), None),
        (json!(1e300), None),
        (json!(null), None),
        (json!([1]), None),
    ];
    for (amount, want) in table {
        assert_eq!(wire::whole_credits(&amount), want, "{amount}");
    }
}

#[test]
fn p3_every_answer_to_an_entry_has_one_meaning() {
    let insufficient = r#"{"code":"INSUFFICIENT","message":"Invalid request or\n insufficient balance"}"#;
    let retry_after = Some(Duration::from_secs(3));
    let applied = |balance_after| EntryAnswer::Applied { balance_after };
    let misconfigured = |status, code: Option<&str>, message: &str| EntryAnswer::Misconfigured {
        status,
        code: code.map(str::to_owned),
        message: message.to_owned(),
    };
    let unknown = |reason: &str| EntryAnswer::Unknown { reason: reason.to_owned() };
    let table = [
        (answered(201, r#"{"id":"cdl_1","balance_after":"4999"}"#), applied(Some(4_999))),
        (answered(200, r#"{"balance_after":4999,"new":1}"#), applied(Some(4_999))),
        (answered(201, r#"{"id":"cdl_1"}"#), applied(None)),
        (answered(201, r#"{"id":"cdl_"#), unknown("HTTP 201, but the answer cannot be read")),
        (answered(200, "<html>maintenance"), unknown("HTTP 200, but the answer cannot be read")),
        (answered(204, ""), unknown("HTTP 204, but the answer cannot be read")),
        (answered(409, r#"{"code":"X","message":"Idempotency key already exists"}"#), EntryAnswer::KeyUsed),
        (answered(409, ""), EntryAnswer::KeyUsed),
        (
            answered(400, insufficient),
            EntryAnswer::Rejected {
                code: Some("INSUFFICIENT".to_owned()),
                message: "Invalid request or insufficient balance".to_owned(),
            },
        ),
        (answered(400, ""), EntryAnswer::Rejected { code: None, message: String::new() }),
        (answered(401, ""), EntryAnswer::Unauthorized),
        (answered(429, r#"{"code":"TOO_MANY_REQUESTS"}"#), EntryAnswer::RateLimited { retry_after }),
        (answered(429, ""), EntryAnswer::RateLimited { retry_after }),
        (answered(403, ""), misconfigured(403, None, "")),
        (
            answered(404, r#"{"code":"NOT_FOUND","message":"no"}"#),
            misconfigured(404, Some("NOT_FOUND"), "no"),
        ),
        (answered(422, "Failed to deserialize"), misconfigured(422, None, "Failed to deserialize")),
        (answered(301, ""), misconfigured(301, None, "")),
        (answered(413, ""), misconfigured(413, None, "")),
        (answered(408, ""), unknown("HTTP 408 ")),
        (answered(500, r#"{"code":"INTERNAL_SERVER_ERROR","message":"oops"}"#), unknown("HTTP 500 oops")),
        (answered(503, "<html>busy</html>"), unknown("HTTP 503 <html>busy</html>")),
        (Err(CallFailure::Lost("timed out".to_owned())), unknown("timed out")),
        (
            Err(CallFailure::NotSent("cannot connect".to_owned())),
            EntryAnswer::NotSent { reason: "cannot connect".to_owned() },
        ),
    ];
    for (called, want) in table {
        assert_eq!(wire::entry_answer(&called), want, "{called:?}");
    }
}

#[test]
fn no_grant_is_told_from_no_entitlement_and_from_a_list_of_others() {
    let read = |called: &Result<HttpAnswer, CallFailure>| {
        wire::answer_of(called, "a balance", |list| wire::balance(list, &customer()))
    };
    let known = |credits, overage| Ok(BalanceAnswer::Known(Balance { credits, overage }));
    let malformed = Err(DodoError::Malformed { what: "a balance" });
    let unavailable = |reason: &str| Err(DodoError::Unavailable { reason: reason.to_owned() });
    let table = [
        (answered(200, r#"{"items":[]}"#), Ok(BalanceAnswer::NoGrantYet)),
        (answered(200, r#"{"items":[{"customer_id":"cus_1","balance":5000,"overage":0}]}"#), known(5_000, 0)),
        (answered(200, r#"{"items":[{"customer_id":"cus_1","balance":"0","overage":"7"}]}"#), known(0, 7)),
        (answered(200, r#"{"items":[{"customer_id":"cus_1","balance":"1"}]}"#), known(1, 0)),
        (answered(200, r#"{"items":[{"customer_id":"cus_2","balance":9}]}"#), malformed.clone()),
        (answered(200, r#"{"items":[{"customer_id":"cus_1","balance":null}]}"#), malformed.clone()),
        (answered(200, "<html>"), malformed.clone()),
        (answered(404, r#"{"message":"gone"}"#), Err(DodoError::NotFound { message: "gone".to_owned() })),
        (answered(401, ""), Err(DodoError::Unauthorized)),
        (answered(429, ""), Err(DodoError::RateLimited { retry_after: Some(Duration::from_secs(3)) })),
        (answered(502, ""), unavailable("HTTP 502 ")),
        (Err(CallFailure::Lost("timed out".to_owned())), unavailable("timed out")),
        (
            answered(403, r#"{"code":"MERCHANT_NOT_LIVE","message":"m"}"#),
            Err(DodoError::Refused {
                status: 403,
                code: Some("MERCHANT_NOT_LIVE".to_owned()),
                message: "m".to_owned(),
            }),
        ),
    ];
    for (called, want) in table {
        assert_eq!(read(&called), want, "{called:?}");
    }
}

#[tokio::test]
async fn p3_a_debit_says_the_same_each_time() {
    let (dodo, stand_in) = client(&[
        (500, &[], ""),
        (
            201,
            &[("x-ratelimit-limit", "240"), ("x-ratelimit-remaining", "17")],
            r#"{"balance_after":"4999"}"#,
        ),
    ])
    .await;
    let entry_id = EntryId::parse("entry-1").unwrap();
    let first = dodo.post_debit(&customer(), &entry_id, Credits::ONE, "email send m e").await;
    assert!(matches!(first.answer, EntryAnswer::Unknown { .. }), "{first:?}");
    let second = dodo.post_debit(&customer(), &entry_id, Credits::ONE, "email send m e").await;
    assert_eq!(second.answer, EntryAnswer::Applied { balance_after: Some(4_999) });
    assert_eq!((second.rate.limit, second.rate.remaining), (Some(240), Some(17)));

    let asked = stand_in.asked();
    assert_eq!(asked[0].body, asked[1].body);
    assert_eq!(asked[0].uri, "/credit-entitlements/cde_1/balances/cus_1/ledger-entries");
    assert_eq!(asked[0].header("authorization"), Some("Bearer dodo_test_very_secret"));
    assert_eq!(asked[0].header("user-agent"), Some(concat!("postmeter/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(
        serde_json::from_slice::<Value>(&asked[0].body).unwrap(),
        json!({"entry_type":"debit","amount":"1","idempotency_key":"entry-1","reason":"email send m e"})
    );
}

#[tokio::test]
async fn balances_are_asked_for_by_customer_and_by_page() {
    let (dodo, stand_in) = client(&[
        (200, &[], r#"{"items":[]}"#),
        (
            200,
            &[],
            r#"{"items":[{"customer_id":"cus_1","balance":"5"},{"customer_id":"bad id","balance":1},
                {"customer_id":"cus_2","balance":7.9}]}"#,
        ),
    ])
    .await;
    assert_eq!(dodo.balance(&customer()).await.answer.unwrap().credits(), 0);
    let page = dodo.balances(0).await.answer.unwrap();
    let credits: Vec<_> = page.balances.iter().map(|(id, balance)| (id.as_str(), balance.credits)).collect();
    assert_eq!(credits, [("cus_1", 5), ("cus_2", 7)]);
    assert!(page.is_last);
    let uris: Vec<_> = stand_in.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(
        uris,
        [
            "/credit-entitlements/cde_1/balances?customer_id=cus_1",
            "/credit-entitlements/cde_1/balances?page_size=100&page_number=0",
        ]
    );
}

#[tokio::test]
async fn a_ledger_is_read_by_page_and_a_line_that_cannot_be_read_spoils_its_page() {
    let (dodo, stand_in) = client(&[
        (
            200,
            &[],
            r#"{"items":[
                {"id":"cdl_2","is_credit":false,"amount":"3","created_at":"2026-09-01T12:00:00.123456Z",
                 "transaction_type":"credit_deducted","description":"email send m entry-1","metadata":{"a":"b"}},
                {"id":"cdl_1","is_credit":true,"amount":-2.5,"created_at":"2026-09-01T11:00:00Z",
                 "reference_type":"payment","description":null}]}"#,
        ),
        (200, &[], r#"{"items":[{"id":"cdl_3","is_credit":false,"amount":"3","created_at":"yesterday"}]}"#),
        (404, &[], r#"{"code":"NOT_FOUND","message":"no balance"}"#),
    ])
    .await;
    let from: Timestamp = "2026-09-01T10:00:00Z".parse().unwrap();
    let page = dodo.ledger(&customer(), Some(from), 0).await.answer.unwrap();
    assert!(page.is_last);
    let [debit, credit] = &page.lines[..] else { panic!("{page:?}") };
    assert_eq!((debit.is_credit, debit.amount, debit.transaction.as_str()), (false, 3, "credit_deducted"));
    assert_eq!(debit.description.as_deref(), Some("email send m entry-1"));
    assert_eq!((credit.amount, credit.reference.as_deref()), (3, Some("payment")), "never taken for less");
    let spoilt = dodo.ledger(&customer(), None, 7).await.answer;
    assert_eq!(spoilt, Err(DodoError::Malformed { what: "a page of a ledger" }));
    let missing = dodo.ledger(&customer(), None, 0).await.answer;
    assert!(matches!(missing, Err(DodoError::NotFound { .. })), "{missing:?}");
    let uris: Vec<_> = stand_in.asked().into_iter().map(|asked| asked.uri).collect();
    let path = "/credit-entitlements/cde_1/balances/cus_1/ledger?page_size=100&page_number=";
    let wanted =
        [format!("{path}0&start_date=2026-09-01T10%3A00%3A00Z"), format!("{path}7"), format!("{path}0")];
    assert_eq!(uris, wanted);
}

#[tokio::test]
async fn a_checkout_names_the_buyer_and_hides_its_address() {
    let answer = r#"{"session_id":"cks_1","checkout_url":"https://checkout.example/secret"}"#;
    let (dodo, stand_in) =
        client(&[(200, &[], answer), (200, &[], answer), (200, &[], r#"{"session_id":"cks_1"}"#)]).await;
    let mut request = CheckoutRequest {
        product_id: "pdt_1".to_owned(),
        customer: Buyer::New { email: "a@x.example".to_owned(), name: "A".to_owned() },
        return_url: "https://us.example/welcome?c=t".to_owned(),
        metadata: BTreeMap::from([("token".to_owned(), "h".to_owned())]),
    };
    let checkout = dodo.create_checkout(&request).await.answer.unwrap();
    assert_eq!(checkout.checkout_url, "https://checkout.example/secret");
    assert!(!format!("{checkout:?}").contains("secret"));
    request.customer = Buyer::Known(customer());
    dodo.create_checkout(&request).await.answer.unwrap();
    assert_eq!(
        dodo.create_checkout(&request).await.answer,
        Err(DodoError::Malformed { what: "a checkout session" })
    );

    let bodies: Vec<Value> =
        stand_in.asked().iter().map(|asked| serde_json::from_slice(&asked.body).unwrap()).collect();
    assert_eq!(
        bodies[0],
        json!({
            "product_cart": [{"product_id": "pdt_1", "quantity": 1}],
            "customer": {"email": "a@x.example", "name": "A"},
            "return_url": "https://us.example/welcome?c=t",
            "metadata": {"token": "h"},
        })
    );
    assert_eq!(bodies[1]["customer"], json!({"customer_id": "cus_1"}));
}

#[tokio::test]
async fn check_reads_what_it_must_warn_of() {
    let (dodo, stand_in) = client(&[
        (200, &[], r#"{"id":"cde_1","name":"Emails","precision":0,"overage_enabled":true}"#),
        (
            200,
            &[],
            r#"{"product_id":"pdt/1","name":null,"is_recurring":true,"credit_entitlements":
                [{"credit_entitlement_id":"cde_1","credits_amount":"5000","overage_enabled":false}]}"#,
        ),
        (200, &[], r#"{"customer_id":"cus_1","email":"a@x.example","name":"A"}"#),
        (200, &[], r#"{"id":"cks_1","payment_id":"pay_1","payment_status":"succeeded"}"#),
        (200, &[], r#"{"payment_id":"pay_1","status":"succeeded","customer":{"customer_id":"cus_1"}}"#),
    ])
    .await;
    assert!(dodo.entitlement().await.answer.unwrap().overage_enabled);
    let product = dodo.product("pdt/1").await.answer.unwrap();
    assert_eq!((product.is_recurring, product.credits[0].credits), (Some(true), Some(5_000)));
    assert_eq!(dodo.customer(&customer()).await.answer.unwrap().email, "a@x.example");
    let status = dodo.checkout("cks_1").await.answer.unwrap();
    assert_eq!(status.payment_id.as_deref(), Some("pay_1"));
    assert!(dodo.payment("pay_1").await.answer.unwrap().is_paid());
    let uris: Vec<_> = stand_in.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(
        uris,
        [
            "/credit-entitlements/cde_1",
            "/products/pdt%2F1",
            "/customers/cus_1",
            "/checkouts/cks_1",
            "/payments/pay_1"
        ]
    );
}

#[tokio::test]
async fn a_bad_key_a_read_only_key_and_a_good_one_are_told_apart() {
    let found: Given = (200, &[], r#"{"id":"cde_1"}"#);
    let table: [(&[Given], KeyRights); 6] = [
        (&[(401, &[], "")], KeyRights::Bad),
        (&[found, (401, &[], "")], KeyRights::ReadsOnly),
        (&[found, (422, &[], "Failed to deserialize: missing field")], KeyRights::Writes),
        (&[found, (404, &[], "")], KeyRights::Writes),
        (&[(404, &[], ""), (400, &[], "")], KeyRights::Writes),
        (&[(404, &[], ""), (401, &[], "")], KeyRights::ReadsOnly),
    ];
    for (answers, want) in table {
        let (dodo, stand_in) = client(answers).await;
        assert_eq!(dodo.key_rights().await, Ok(want), "{answers:?}");
        assert_eq!(stand_in.asked().len(), answers.len());
    }
    let (dodo, _stand_in) = client(&[found, (503, &[], "")]).await;
    assert!(matches!(dodo.key_rights().await, Err(DodoError::Unavailable { .. })));
}

#[test]
fn a_key_is_tried_at_the_other_host_unless_its_name_says_that_it_is_at_home() {
    let table = [
        (TEST_HOST, "dodo_live_x", Some(LIVE_HOST)),
        (TEST_HOST, "old-form", Some(LIVE_HOST)),
        (TEST_HOST, "dodo_test_x", None),
        (LIVE_HOST, "dodo_test_x", Some(TEST_HOST)),
        (LIVE_HOST, "dodo_live_x", None),
        ("http://127.0.0.1:9", "dodo_live_x", None),
    ];
    for (base_url, key, want) in table {
        assert_eq!(other_host(base_url, key), want, "{base_url} {key}");
    }
}

#[tokio::test]
async fn p10_the_key_is_in_no_debug_and_no_error() {
    let (dodo, _stand_in) = client(&[(401, &[], "bad key")]).await;
    let refused = dodo.balance(&customer()).await;
    for text in [format!("{dodo:?}"), format!("{refused:?}"), refused.answer.unwrap_err().to_string()] {
        assert!(!text.contains("very_secret"), "{text}");
    }
}
