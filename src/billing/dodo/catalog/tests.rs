use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::billing::dodo::DodoSettings;
use crate::clock::Clock;
use crate::outbound::stand_in::{Given, StandIn};

async fn client(answers: &[Given]) -> (Dodo, StandIn) {
    let stand_in = StandIn::start(answers).await;
    let settings = DodoSettings {
        base_url: stand_in.base_url.clone(),
        api_key: SecretString::from("dodo_test_k"),
        entitlement_id: "cde_1".to_owned(),
        timeout: Duration::from_secs(5),
        clock: Clock::system(),
    };
    (Dodo::new(settings).unwrap(), stand_in)
}

/// A page with so many products that it may not be the last.
fn full_page() -> &'static str {
    let items: Vec<Value> =
        (0..PAGE).map(|n| json!({ "product_id": format!("pdt_{n}"), "metadata": {} })).collect();
    json!({ "items": items }).to_string().leak()
}

#[tokio::test]
async fn a_list_is_read_from_page_zero_until_a_page_is_short() {
    let last = r#"{"items":[{"product_id":"pdt_x","name":null,"metadata":{"postmeter":"plan","n":7}},
        {"product_id":"pdt_y","name":"Y"}]}"#;
    let (dodo, stand_in) = client(&[(200, &[], full_page()), (200, &[], last)]).await;
    let products = dodo.products().await.unwrap();
    assert_eq!(products.len(), PAGE + 2);
    assert_eq!(products[PAGE].mark, Some(Some("plan".to_owned())));
    assert_eq!((products[0].mark.clone(), products[PAGE + 1].mark.clone()), (Some(None), None));
    let asked: Vec<String> = stand_in.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(
        asked,
        ["/products?page_size=50&page_number=0", "/products?page_size=50&page_number=1"],
        "not from 1"
    );
}

#[tokio::test]
async fn an_item_that_cannot_be_read_spoils_the_list() {
    for body in [r#"{"items":[{"name":"no id"}]}"#, r#"{"data":[]}"#, "{", "[]"] {
        let (dodo, _) = client(&[(200, &[], body)]).await;
        assert_eq!(dodo.products().await, Err(DodoError::Malformed { what: "a list of products" }), "{body}");
    }
    let (dodo, _) = client(&[(401, &[], "")]).await;
    assert_eq!(dodo.entitlements().await, Err(DodoError::Unauthorized));
}

#[tokio::test]
async fn endpoints_are_read_by_their_iterator_until_it_is_done() {
    let first = r#"{"data":[{"id":"ep_1","url":"https://a.example/","metadata":{},"description":"",
        "filter_types":null,"disabled":null}],"done":false,"iterator":"it/1"}"#;
    let second = r#"{"data":[{"id":"ep_2","url":"https://b.example/x","metadata":{"postmeter":"setup"},
        "filter_types":["payment.succeeded","new.kind"],"disabled":true}],"done":true,"iterator":"it/2"}"#;
    let (dodo, stand_in) = client(&[(200, &[], first), (200, &[], second)]).await;
    let endpoints = dodo.endpoints().await.unwrap();
    assert_eq!((endpoints[0].events.len(), endpoints[0].is_disabled), (0, false));
    assert_eq!(endpoints[1].mark.as_deref(), Some("setup"));
    assert_eq!((endpoints[1].events.len(), endpoints[1].is_disabled), (2, true));
    assert_eq!(stand_in.asked()[1].uri, "/webhooks?limit=50&iterator=it%2F1");
    let unfinished = r#"{"data":[],"done":false,"iterator":null}"#;
    let (dodo, _) = client(&[(200, &[], unfinished)]).await;
    assert!(dodo.endpoints().await.is_err(), "what is left out is not taken for all");
}

#[test]
fn a_price_is_read_with_its_term() {
    let priced = |price: Value| {
        let offer = offer(&json!({ "product_id": "pdt_1", "price": price })).unwrap();
        (offer.price.map(|price| (price.currency, price.minor_units)), offer.term)
    };
    let usd = |minor| Some(("USD".to_owned(), minor));
    let once = json!({ "type": "one_time_price", "currency": "USD", "price": 900 });
    assert_eq!(priced(once), (usd(900), Some(Term::Once)));
    let every = |count: i64, interval: &str| {
        json!({ "type": "recurring_price", "currency": "USD", "price": 1900,
                "payment_frequency_count": count, "payment_frequency_interval": interval })
    };
    assert_eq!(priced(every(1, "Month")), (usd(1900), Some(Term::Monthly)));
    assert_eq!(priced(every(3, "Month")), (usd(1900), None));
    assert_eq!(priced(every(1, "Year")), (usd(1900), None));
    assert_eq!(priced(json!({ "type": "usage_based_price", "fixed_price": 1 })), (None, None));
    assert_eq!(priced(Value::Null), (None, None));
}

#[tokio::test]
async fn p10_a_secret_is_read_and_not_shown() {
    let (dodo, stand_in) = client(&[(200, &[], r#"{"secret":"whsec_c2VjcmV0"}"#)]).await;
    let secret = dodo.endpoint_secret("ep/1").await.unwrap();
    assert_eq!(secret.expose_secret(), "whsec_c2VjcmV0");
    assert!(!format!("{secret:?}").contains("c2VjcmV0"));
    assert_eq!(stand_in.asked()[0].uri, "/webhooks/ep%2F1/secret");
    for body in [r#"{"secret":""}"#, r#"{"secret":null}"#, "{}"] {
        let (dodo, _) = client(&[(200, &[], body)]).await;
        assert!(dodo.endpoint_secret("ep_1").await.is_err(), "{body}");
    }
}
