//! Back from the checkout: the first credential, shown once.
//!
//! The token in the URL was given to the browser that began the checkout. It
//! waits here until the webhook has made the customer; when that does not come,
//! Dodo is asked, seldom. A payment that landed on a known customer shows nothing:
//! whoever types an email address does not own it.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::QueryString;
use super::checkout::{asked, token_hash};
use super::error::{HttpError, PageError};
use super::{Shared, Site, pages, provision};
use crate::billing::dodo::DodoError;
use crate::domain::caps::Caps;
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::random;
use crate::store::checkout::Checkout;
use crate::store::customer::Credential;
use crate::telemetry::DodoCall;

/// Reloads, two seconds apart, after which Dodo is asked: about ten seconds.
const TRIES_BEFORE_ASKING: u32 = 5;
/// Reloads after which the page stops by itself.
const MAX_TRIES: u32 = 100;

/// What stands in the URL; Dodo adds more to it, of which only `status` is looked
/// at, and only to say something kind.
#[derive(Debug, Deserialize)]
pub(super) struct Return {
    #[serde(default)]
    c: String,
    #[serde(default)]
    n: u32,
    #[serde(default)]
    status: String,
}

/// `GET /welcome?c=TOKEN`
pub(super) async fn welcome(
    State(site): State<Shared>,
    method: Method,
    headers: HeaderMap,
    QueryString(query): QueryString<Return>,
) -> Result<Response, PageError> {
    let token = Secret::presented(&query.c);
    let hash = token_hash(&token);
    let mut checkout = site.store.checkout(&hash).await?;
    if let Some(Checkout::Pending { session_id: Some(session_id) }) = &checkout
        && query.n >= TRIES_BEFORE_ASKING
        && site.poll_throttle.take((), site.clock.now()).is_ok()
        && ask(&site, session_id, &hash).await?
    {
        checkout = site.store.checkout(&hash).await?;
    }
    let page = match checkout {
        None => return Err(HttpError::NotFound("checkout").into()),
        Some(Checkout::Pending { .. }) if is_lost(&query.status) => pages::not_paid("/"),
        Some(Checkout::Pending { .. }) => waiting(&query),
        Some(Checkout::Paid(_)) if !is_looked_at(&method, &headers) => waiting(&query),
        Some(Checkout::Paid(customer_id)) => return claim(&site, &hash, customer_id).await,
        Some(Checkout::Known(_)) => pages::known(),
        Some(Checkout::Claimed(_)) => pages::already_shown(),
    };
    Ok(private(pages::response(StatusCode::OK, &page)))
}

fn waiting(query: &Return) -> maud::Markup {
    let is_token = query.c.bytes().all(|octet| octet.is_ascii_hexdigit());
    let again = (is_token && query.n < MAX_TRIES)
        .then(|| format!("/welcome?c={}&n={}", query.c, query.n.saturating_add(1)));
    pages::waiting(again.as_deref())
}

/// The credential is shown once, so not to a browser that only looks ahead.
fn is_looked_at(method: &Method, headers: &HeaderMap) -> bool {
    let is_ahead = ["sec-purpose", "purpose", "x-moz"].iter().any(|name| {
        headers
            .get(*name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("prefetch"))
    });
    *method == Method::GET && !is_ahead
}

/// Asks Dodo for the payment of our own session. Returns whether one was recorded.
async fn ask(site: &Site, session_id: &str, hash: &str) -> Result<bool, HttpError> {
    let found = async {
        let status = asked(site, DodoCall::Other, site.dodo.checkout(session_id)).await?;
        let Some(payment_id) = status.payment_id else { return Ok(None) };
        asked(site, DodoCall::Other, site.dodo.payment(&payment_id)).await.map(Some)
    };
    let found: Result<_, DodoError> = found.await;
    // Whatever went wrong was logged; the page goes on waiting.
    let Some(payment) = found.ok().flatten().filter(|payment| payment.is_paid()) else { return Ok(false) };
    provision::record_found(site, &payment, hash).await?;
    Ok(true)
}

async fn claim(site: &Site, hash: &str, customer_id: CustomerId) -> Result<Response, PageError> {
    let now = site.clock.now();
    let secret = Secret::generate(random::octets());
    let credential = Credential {
        username: Username::generate(random::octets()),
        customer_id,
        label: Some("first credential".to_owned()),
        created_at: now,
        revoked_at: None,
        caps: Caps::default(),
        last_used_at: None,
    };
    if !site.store.claim_checkout(hash, &credential, &secret.hash()).await? {
        return Ok(private(pages::response(StatusCode::OK, &pages::already_shown())));
    }
    tracing::info!(
        customer_id = %credential.customer_id,
        username = %credential.username,
        "the first credential of a customer was shown"
    );
    let senders = site.store.senders(&credential.customer_id).await?;
    let page = pages::first_credential(&site.settings, &credential.username, &secret, &senders);
    let mut response = private(pages::response(StatusCode::OK, &page));
    if let Ok(cookie) = HeaderValue::from_str(&site.sessions.begin(&credential.username, now)) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The URL holds the token: no page may learn it from a Referer, not even ours.
fn private(response: Response) -> Response {
    ([(header::REFERRER_POLICY, "no-referrer")], response).into_response()
}

/// Whether the payment service says that nothing was bought.
fn is_lost(status: &str) -> bool {
    matches!(status, "failed" | "cancelled")
}

/// What Dodo adds to the URL; believed only to say something kind.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    status: String,
}

/// `GET /thanks`: back from a top-up. The way to the account is a step of its own,
/// since a strict cookie does not come along with a browser that was sent here by
/// another site.
pub(super) async fn thanks(QueryString(outcome): QueryString<Outcome>) -> Response {
    let page = if is_lost(&outcome.status) { pages::not_paid("/account") } else { pages::thanks() };
    pages::response(StatusCode::OK, &page)
}
