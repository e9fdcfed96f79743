//! Checkouts: where a visitor becomes a customer and a customer buys more.
//!
//! A visitor's checkout carries a random token: in the return URL, and as a signed hash in the
//! metadata, for the payment to name it. A URL is seen by many (histories, logs, whoever it is
//! passed on to), so the browser that began the checkout gets a secret of its own besides, in a
//! cookie, and nothing is shown to whoever has the URL alone. The database keeps hashes.

use std::collections::BTreeMap;
use std::fmt;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::auth::{Customer, Visitor};
use super::body::{FORM, FormBody, JsonBody, is_type};
use super::error::{HttpError, PageError};
use super::listener::Peer;
use super::pages::{self, Typed};
use super::session::{cookies, mac_of};
use super::sign_in::set_cookie;
use super::{Shared, Site};
use crate::billing::dodo::{Buyer, Checkout, CheckoutRequest, DodoError, Reply};
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::credential::Secret;
use crate::domain::digest::hex;
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::random;
use crate::store::checkout::NewCheckout;
use crate::telemetry::DodoCall;
use crate::throttle::network_of;

/// Under this name a checkout's token hash travels in Dodo's metadata.
pub(super) const METADATA_KEY: &str = "postmeter_checkout";
/// And under this one our signature of it.
pub(super) const SIGNATURE_KEY: &str = "postmeter_signature";

const MAX_NAME_CHARS: usize = 100;
/// How long a browser may come back: as long as Dodo's session lasts, in seconds.
const COOKIE_S: i64 = 24 * 3600;
/// Digits of the token's hash in the name of its cookie: a browser may have several checkouts.
const NAMED_BY: usize = 16;

/// What the metadata of checkouts is signed with. It is made of a secret that lasts, so that a
/// payment is known after a restart.
#[derive(Clone)]
pub struct CheckoutKey([u8; 32]);

impl fmt::Debug for CheckoutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckoutKey(…)")
    }
}

impl CheckoutKey {
    /// Of a secret that all servers of a database have.
    pub fn new(secret: &SecretString) -> Self {
        let key = Sha256::new_with_prefix(b"checkouts\0").chain_update(secret.expose_secret());
        Self(key.finalize().into())
    }

    /// The signature of a checkout's hash.
    pub(super) fn sign(&self, token_hash: &str) -> String {
        mac_of(&self.0, token_hash)
    }

    /// Whether that is our signature of it.
    pub(super) fn has_signed(&self, token_hash: &str, signature: &str) -> bool {
        self.sign(token_hash).as_bytes().ct_eq(signature.as_bytes()).into()
    }
}

/// The cookie of the browser that began a checkout. It is sent when that browser is led back from
/// another site, so `SameSite` is `Lax`; it shows a page and does nothing else.
#[derive(Debug)]
pub(super) struct BrowserCookie {
    name: String,
    is_secure: bool,
}

impl BrowserCookie {
    pub(super) fn of(site: &Site, token_hash: &str) -> Self {
        let is_secure = site.settings.base_url.starts_with("https://");
        let prefix = if is_secure { "__Host-" } else { "" };
        let named_by = token_hash.get(..NAMED_BY).unwrap_or_default();
        Self { name: format!("{prefix}postmeter-checkout-{named_by}"), is_secure }
    }

    /// The `Set-Cookie` that gives it to the browser.
    fn given(&self, secret: &Secret) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let (name, value) = (&self.name, secret.reveal());
        format!("{name}={value}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax{secure}")
    }

    /// Whether the browser has the secret with this hash.
    pub(super) fn is_there(&self, headers: &HeaderMap, hash: &str) -> bool {
        cookies(headers, &self.name).any(|value| {
            let presented = token_hash(&Secret::presented(value));
            presented.as_bytes().ct_eq(hash.as_bytes()).into()
        })
    }
}

/// A checkout that was begun, and what its browser is known by.
struct Begun {
    checkout: Checkout,
    cookie: String,
}

/// Who wants to subscribe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscriber {
    email: String,
    #[serde(default)]
    name: String,
}

impl Subscriber {
    fn buyer(self) -> Result<Buyer, HttpError> {
        let email = Mailbox::parse(self.email.trim())
            .map_err(|error| HttpError::Invalid(format!("email: {error}.")))?;
        let name = self.name.trim();
        if name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            return Err(HttpError::Invalid(format!(
                "name: at most {MAX_NAME_CHARS} characters in one line."
            )));
        }
        let name = if name.is_empty() { email.local() } else { name };
        Ok(Buyer::New { name: name.to_owned(), email: email.to_string() })
    }
}

/// `POST /checkout/subscribe`: from a program as JSON, from the page as a form.
pub(super) async fn subscribe(State(site): State<Shared>, Peer(peer): Peer, request: Request) -> Response {
    if is_type(request.headers(), FORM) {
        return subscribe_form(&site, peer, request).await.into_response();
    }
    let answered = async {
        let JsonBody(subscriber) = JsonBody::from_request(request, &site).await?;
        let begun = begin(&site, peer, subscriber).await?;
        Ok::<_, HttpError>((set_cookie(&begun.cookie), told(begun.checkout)))
    };
    answered.await.into_response()
}

async fn subscribe_form(
    site: &Shared,
    peer: std::net::SocketAddr,
    request: Request,
) -> Result<Response, PageError> {
    let FormBody(subscriber) = FormBody::<Subscriber>::from_request(request, site).await?;
    let (email, name) = (subscriber.email.clone(), subscriber.name.clone());
    Ok(match begin(site, peer, subscriber).await {
        Ok(begun) => (set_cookie(&begun.cookie), leave(&begun.checkout)).into_response(),
        Err(error) => {
            let text = error.text();
            let typed = Typed { problem: Some(&text), email: &email, name: &name, ..Typed::default() };
            error.as_page(&pages::landing_again(&site.settings, &typed))
        }
    })
}

/// `POST /checkout/topup`.
pub(super) async fn top_up(
    State(site): State<Shared>,
    Customer(who): Customer,
) -> Result<Response, HttpError> {
    begin_top_up(&site, who.customer_id).await.map(told)
}

/// The top-up button of the page.
pub(super) async fn top_up_form(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(()): FormBody<()>,
) -> Result<Response, PageError> {
    let checkout = begin_top_up(&site, visitor.who.customer_id).await?;
    Ok(leave(&checkout))
}

fn told(checkout: Checkout) -> Response {
    (StatusCode::OK, Json(json!({ "checkout_url": checkout.checkout_url }))).into_response()
}

/// The way to the payment page leads over a page of ours: browsers hold a
/// redirect that follows a form to the form-action of our policy, and which
/// hosts take payments is Dodo's to choose.
fn leave(checkout: &Checkout) -> Response {
    pages::response(StatusCode::OK, &pages::to_payment(&checkout.checkout_url))
}

async fn begin(site: &Site, peer: std::net::SocketAddr, subscriber: Subscriber) -> Result<Begun, HttpError> {
    let now = site.clock.now();
    let buyer = subscriber.buyer()?;
    site.subscribe_throttle
        .take(network_of(peer.ip()), now)
        .map_err(|soon| HttpError::TooFast { retry_after_s: soon.retry_after_s })?;
    let (token, browser) = (Secret::generate(random::octets()), Secret::generate(random::octets()));
    let (hash, product_id) = (token_hash(&token), &site.settings.plan_product_id);
    let new = NewCheckout { token_hash: &hash, browser_hash: &token_hash(&browser), product_id };
    site.store.begin_checkout(&new, now).await?;
    let signature = site.settings.checkout_key.sign(&hash);
    let request = CheckoutRequest {
        product_id: product_id.clone(),
        customer: buyer,
        return_url: format!("{}/welcome?c={}", site.settings.base_url, token.reveal()),
        metadata: BTreeMap::from([
            (METADATA_KEY.to_owned(), hash.clone()),
            (SIGNATURE_KEY.to_owned(), signature),
        ]),
    };
    let checkout = create(site, &request).await?;
    site.store.pass(CrashPoint::CheckoutCreated);
    site.store.set_checkout_session(&hash, &checkout.session_id).await?;
    tracing::info!(session_id = checkout.session_id, peer = %peer, "a checkout was begun");
    let cookie = BrowserCookie::of(site, &hash).given(&browser);
    Ok(Begun { checkout, cookie })
}

async fn begin_top_up(site: &Site, customer_id: CustomerId) -> Result<Checkout, HttpError> {
    // Credits that could not be spent are not sold.
    let customer = site.store.customer(&customer_id).await?;
    if let Some(reason) = customer.and_then(|customer| customer.suspended_reason) {
        return Err(Refusal::Suspended { reason }.into());
    }
    let request = CheckoutRequest {
        product_id: site.settings.topup_product_id.clone(),
        customer: Buyer::Known(customer_id.clone()),
        return_url: format!("{}/thanks", site.settings.base_url),
        metadata: BTreeMap::new(),
    };
    let checkout = create(site, &request).await?;
    tracing::info!(session_id = checkout.session_id, customer_id = %customer_id, "a top-up was begun");
    Ok(checkout)
}

async fn create(site: &Site, request: &CheckoutRequest) -> Result<Checkout, HttpError> {
    let created = asked(site, DodoCall::CreateCheckout, site.dodo.create_checkout(request)).await;
    let checkout = created.map_err(|error| match error {
        DodoError::Unavailable { .. } | DodoError::RateLimited { .. } => HttpError::PaymentsUnavailable,
        _ => HttpError::CheckoutRefused,
    })?;
    // A page is going to link to it.
    let is_web = ["https://", "http://"].iter().any(|scheme| checkout.checkout_url.starts_with(scheme));
    if is_web { Ok(checkout) } else { Err(HttpError::CheckoutRefused) }
}

/// Asks Dodo, on the one budget, for somebody who waits; logs what went wrong.
pub(super) async fn asked<T>(
    site: &Site,
    call: DodoCall,
    request: impl Future<Output = Reply<Result<T, DodoError>>>,
) -> Result<T, DodoError> {
    let answer = site.billing.call_for_client(call, request).await;
    answer.inspect_err(|error| {
        tracing::warn!(call = call.as_str(), %error, "Dodo did not do what the web page asked for");
    })
}

/// The hash of a checkout's token, in hexadecimal.
pub(super) fn token_hash(token: &Secret) -> String {
    hex(token.hash().as_bytes())
}
