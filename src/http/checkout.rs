//! Checkouts: where a visitor becomes a customer and a customer buys more.
//!
//! A visitor's checkout carries a random token: in the return URL, for the
//! browser that began it, and as a hash in the metadata, for the payment to name
//! it. The database keeps the hash alone.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::auth::{Customer, Visitor};
use super::body::{FORM, FormBody, JsonBody, is_type};
use super::error::{HttpError, PageError};
use super::listener::Peer;
use super::{Shared, Site, pages};
use crate::billing::dodo::{Buyer, Checkout, CheckoutRequest, DodoError, Reply};
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::credential::Secret;
use crate::domain::digest::hex;
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::random;
use crate::telemetry::DodoCall;
use crate::throttle::network_of;

/// Under this name a checkout's token hash travels in Dodo's metadata.
pub(super) const METADATA_KEY: &str = "postmeter_checkout";

const MAX_NAME_CHARS: usize = 100;

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
        begin(&site, peer, subscriber).await.map(told)
    };
    answered.await.into_response()
}

async fn subscribe_form(
    site: &Shared,
    peer: std::net::SocketAddr,
    request: Request,
) -> Result<Response, PageError> {
    let FormBody(subscriber) = FormBody::from_request(request, site).await?;
    Ok(match begin(site, peer, subscriber).await {
        Ok(checkout) => leave(&checkout),
        Err(error) => error.as_page(&pages::landing(&site.settings, Some(&error.text()))),
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

async fn begin(
    site: &Site,
    peer: std::net::SocketAddr,
    subscriber: Subscriber,
) -> Result<Checkout, HttpError> {
    let now = site.clock.now();
    let buyer = subscriber.buyer()?;
    site.subscribe_throttle
        .take(network_of(peer.ip()), now)
        .map_err(|soon| HttpError::TooFast { retry_after_s: soon.retry_after_s })?;
    let token = Secret::generate(random::octets());
    let hash = token_hash(&token);
    site.store.begin_checkout(&hash, now).await?;
    let request = CheckoutRequest {
        product_id: site.settings.plan_product_id.clone(),
        customer: buyer,
        return_url: format!("{}/welcome?c={}", site.settings.base_url, token.reveal()),
        metadata: BTreeMap::from([(METADATA_KEY.to_owned(), hash.clone())]),
    };
    let checkout = create(site, &request).await?;
    site.store.pass(CrashPoint::CheckoutCreated);
    site.store.set_checkout_session(&hash, &checkout.session_id).await?;
    tracing::info!(session_id = checkout.session_id, peer = %peer, "a checkout was begun");
    Ok(checkout)
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
