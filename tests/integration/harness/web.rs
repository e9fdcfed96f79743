//! Requests to the HTTP side.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use postmeter::http::signature::SigningKey;
use postmeter::sandbox::{RESEND_WEBHOOK_SECRET, WEBHOOK_SECRET};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::contract::{self, Given};
use super::meter::ADMIN_TOKEN;
use super::{Meter, RUNTIME};

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    LazyLock::force(&RUNTIME);
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
});

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The header.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header field, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Asserts an error in its agreed shape.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, code: &str) {
        let json = self.json();
        assert_eq!((self.status, json["code"].as_str()), (status, Some(code)), "{self:?}");
        assert!(json["error"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        assert_eq!(self.header("x-content-type-options"), "nosniff", "{self:?}");
    }
}

/// A request to a base URL.
pub(crate) fn request(method: Method, url: &str) -> RequestBuilder {
    CLIENT.request(method, url)
}

/// Sends a request.
pub(crate) fn ask(request: RequestBuilder) -> Answer {
    RUNTIME.block_on(answered(request)).unwrap()
}

/// Sends a request to a server that may go away; `None`: it did.
pub(crate) fn try_ask(request: RequestBuilder) -> Option<Answer> {
    RUNTIME.block_on(answered(request)).ok()
}

async fn answered(request: RequestBuilder) -> reqwest::Result<Answer> {
    let (client, request) = request.build_split();
    let request = request?;
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let answer = client.execute(request).await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let answer = Answer { status, headers, body: answer.text().await? };
    // The stand-ins have routes of these names too, and other headers.
    if answer.header("x-frame-options") == "DENY" {
        let (media_type, body) = (answer.header("content-type"), answer.body.as_str());
        let given = Given { method: method.as_str(), path: &path, status, media_type, body };
        assert_eq!(contract::unlike_our_document(&given), None);
    }
    Ok(answer)
}

/// The event that a customer's balance rose; the amount in it is not to be believed.
pub(crate) fn credit_added(customer_id: &str) -> String {
    json!({ "type": "credit.added", "data": { "customer_id": customer_id, "amount": "1000000" } }).to_string()
}

/// A webhook as Resend signs it, for the server at this base URL.
pub(crate) fn signed_by_resend(base_url: &str, id: &str, body: &str) -> RequestBuilder {
    let key = SigningKey::parse(&SecretString::from(RESEND_WEBHOOK_SECRET)).unwrap();
    let at = Timestamp::now();
    let request = request(Method::POST, &format!("{base_url}/webhooks/resend")).header("svix-id", id);
    let request = request.header("svix-timestamp", at.as_second().to_string());
    request.header("svix-signature", key.sign(id, at, body.as_bytes())).body(body.to_owned())
}

impl Meter {
    /// A request by nobody.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        request(method, &format!("http://{}{path}", self.process().http))
    }

    /// A request by the customer.
    pub(crate) fn as_customer(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).basic_auth(&self.credential.username, Some(&self.credential.secret))
    }

    /// What the customer is answered.
    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.as_customer(Method::GET, path))
    }

    /// What the operator is answered.
    pub(crate) fn get_as_operator(&self, path: &str) -> Answer {
        ask(self.request(Method::GET, path).bearer_auth(ADMIN_TOKEN))
    }

    /// What the operator is answered to a request with this JSON body.
    pub(crate) fn post_as_operator(&self, path: &str, body: &Value) -> Answer {
        ask(self.request(Method::POST, path).bearer_auth(ADMIN_TOKEN).json(body))
    }

    /// `POST /send` by the customer.
    pub(crate) fn post_send(&self, message: &Value) -> Answer {
        ask(self.as_customer(Method::POST, "/send").json(message))
    }

    /// A webhook as Dodo signed it so many seconds ago.
    pub(crate) fn webhook(&self, id: &str, seconds_ago: i64, body: &str) -> Answer {
        ask(self.webhook_request(id, seconds_ago, body))
    }

    /// The request of such a webhook.
    pub(crate) fn webhook_request(&self, id: &str, seconds_ago: i64, body: &str) -> RequestBuilder {
        let key = SigningKey::parse(&SecretString::from(WEBHOOK_SECRET)).unwrap();
        let at = Timestamp::now().checked_sub(SignedDuration::from_secs(seconds_ago)).unwrap();
        let request = self.request(Method::POST, "/webhooks/dodo").header("webhook-id", id);
        let request = request.header("webhook-timestamp", at.as_second().to_string());
        request.header("webhook-signature", key.sign(id, at, body.as_bytes())).body(body.to_owned())
    }

    /// A webhook as Resend signs it.
    pub(crate) fn resend_webhook(&self, id: &str, body: &str) -> Answer {
        ask(signed_by_resend(&format!("http://{}", self.process().http), id, body))
    }

    /// The customer's credits.
    #[track_caller]
    pub(crate) fn credits(&self) -> Value {
        let answer = self.get(&format!("/credits/{}", super::CUSTOMER_ID));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}
