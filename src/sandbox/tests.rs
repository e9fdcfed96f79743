//! What the tests of both stand-ins share, and those of the sandbox as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderMap;
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::faults::{Fault, Misbehaviour, Reply};
use super::*;
use crate::http::signature::{HeaderNames, SignedHeaders, SigningKey};

/// A client like the real one: it says who it is.
pub(super) fn client() -> Client {
    loopback_client().unwrap().user_agent("postmeter-tests").build().unwrap()
}

/// A directory that is empty now.
pub(super) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("postmeter-sandbox-{}-{name}", std::process::id()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

pub(super) async fn started() -> StandIns {
    let all = StandIns::start(Settings::default()).await.unwrap();
    all.dodo.behave(|manners| (manners.per_second, manners.per_minute) = (0, 0));
    all.resend.behave(|manners| manners.per_second = 0);
    all
}

pub(super) fn dodo(all: &StandIns, method: Method, path: &str) -> RequestBuilder {
    client().request(method, format!("{}{path}", all.dodo_url)).bearer_auth(DODO_API_KEY)
}

pub(super) fn resend(all: &StandIns, method: Method, path: &str) -> RequestBuilder {
    client().request(method, format!("{}{path}", all.resend_url)).bearer_auth(RESEND_API_KEY)
}

/// Status and JSON, or text as a JSON string.
pub(super) async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Webhooks as they came.
pub(super) type Deliveries = mpsc::UnboundedReceiver<(HeaderMap, String)>;

/// An endpoint that takes webhooks after refusing the first `refuse` of them.
pub(super) async fn endpoint(refuse: usize) -> (String, Deliveries) {
    let (seen, inbox) = mpsc::unbounded_channel();
    let refused = Arc::new(AtomicU64::new(u64::try_from(refuse).unwrap()));
    let router = Router::new().route(
        "/webhooks",
        axum::routing::post(move |fields: HeaderMap, body: String| async move {
            seen.send((fields, body)).unwrap();
            let left = refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                axum::http::StatusCode::SERVICE_UNAVAILABLE
            } else {
                axum::http::StatusCode::OK
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, inbox)
}

/// Id, type and body of the next webhook, which must be signed.
pub(super) async fn delivered(
    inbox: &mut Deliveries,
    names: HeaderNames,
    secret: &str,
) -> (String, String, Value) {
    let wait = tokio::time::timeout(Duration::from_secs(10), inbox.recv());
    let (fields, body) = wait.await.expect("a webhook comes").unwrap();
    let signed = SignedHeaders::read(&fields, names).unwrap();
    let key = SigningKey::parse(&SecretString::from(secret)).unwrap();
    signed.verify(body.as_bytes(), &[key], Timestamp::now()).unwrap();
    let id = signed.id.to_owned();
    let event: Value = serde_json::from_str(&body).unwrap();
    (id, event["type"].as_str().unwrap().to_owned(), event)
}

#[tokio::test]
async fn the_seeded_customer_has_its_credits_and_the_secrets_fit() {
    let all = started().await;
    assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(CREDITS));
    let secrets = all.secrets("http://127.0.0.1:3000");
    assert_eq!(secrets.dodo_base_url, all.dodo_url);
    let (status, customer) = answer(dodo(&all, Method::GET, "/customers/cus_sandbox")).await;
    assert_eq!((status, &customer["email"]), (200, &json!(CUSTOMER_EMAIL)));
    all.stop().await;
}

#[tokio::test]
async fn faults_and_manners_are_steered_over_http() {
    let all = started().await;
    let fault =
        json!({ "method": "GET", "path": "/products", "kind": "answer", "status": 503, "body": "{}" });
    let (status, _) = answer(client().post(format!("{}/_faults", all.dodo_url)).json(&fault)).await;
    assert_eq!(status, 204);
    assert_eq!(all.dodo.faults().pending().len(), 1);
    assert_eq!(answer(dodo(&all, Method::GET, "/customers")).await.0, 200);
    assert_eq!(answer(dodo(&all, Method::GET, "/products")).await.0, 503);
    assert_eq!(answer(dodo(&all, Method::GET, "/products")).await.0, 200);
    let manners = json!({ "per_minute": 3 });
    answer(client().put(format!("{}/_behaviour", all.dodo_url)).json(&manners)).await;
    assert_eq!(all.dodo.behaviour().per_minute, 3);
    all.stop().await;
}

#[tokio::test]
async fn lost_and_garbled_answers_look_like_a_broken_service() {
    let all = started().await;
    let get = || dodo(&all, Method::GET, "/customers");
    all.dodo.faults().push(Fault::new(Misbehaviour::DropBefore));
    assert!(get().send().await.is_err());
    all.dodo.faults().push(Fault::new(Misbehaviour::DropAfter));
    assert!(get().send().await.is_err());
    all.dodo.faults().push(Fault::new(Misbehaviour::HangBefore));
    let patience = Duration::from_millis(50);
    assert!(get().timeout(patience).send().await.unwrap_err().is_timeout());
    all.dodo.faults().push(Fault::new(Misbehaviour::Garble));
    let (status, body) = answer(get()).await;
    assert_eq!(status, 200);
    assert!(body.is_string(), "{body} does not parse");
    all.dodo.faults().push(Fault::new(Reply::status(429)));
    assert_eq!(answer(get()).await, (429, json!("")));
    assert_eq!(answer(get()).await.0, 200);
    assert_eq!(all.dodo.faults().struck(), 5);
    all.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_hangs() {
    let all = started().await;
    all.dodo.faults().push(Fault::new(Misbehaviour::HangAfter));
    let hanging = tokio::spawn(dodo(&all, Method::GET, "/customers").send());
    while all.dodo.faults().struck() == 0 {
        tokio::task::yield_now().await;
    }
    all.stop().await;
    assert!(hanging.await.unwrap().is_err());
}
