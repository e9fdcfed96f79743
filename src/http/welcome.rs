//! Back from the checkout: the first credential, shown once.
//!
//! The token in the URL names the checkout, and the cookie says that this is the browser which
//! began it: whoever has the URL alone is told where to sign in, and nothing of the checkout. The
//! page waits here until the webhook has made the customer; when that does not come, Dodo is
//! asked, seldom. A payment that landed on a known customer shows nothing: whoever types an email
//! address does not own it.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::SignedDuration;
use serde::Deserialize;

use super::body::QueryString;
use super::checkout::{BrowserCookie, asked, token_hash};
use super::error::{HttpError, PageError};
use super::{Shared, Site, pages, provision, sign_in};
use crate::billing::dodo::DodoError;
use crate::domain::caps::Caps;
use crate::domain::credential::Secret;
use crate::domain::ids::{CustomerId, Username};
use crate::random;
use crate::store::checkout::{Begun, Checkout};
use crate::store::customer::Credential;
use crate::store::session::PageSession;
use crate::telemetry::DodoCall;

/// Reloads, two seconds apart, after which Dodo is asked: about ten seconds.
const TRIES_BEFORE_ASKING: u32 = 5;
/// How often Dodo is asked of one checkout while its page waits, whoever asks: a page that waits
/// for a minute has had it asked.
const ASKED_EACH: SignedDuration = SignedDuration::from_secs(15);
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
    let hash = token_hash(&Secret::presented(&query.c));
    let mut begun = site.store.checkout(&hash).await?.ok_or(HttpError::NotFound("checkout"))?;
    if !is_its_browser(&site, &headers, &hash, &begun) {
        return Ok(private(pages::response(StatusCode::FORBIDDEN, &pages::other_browser())));
    }
    if matches!(begun.state, Checkout::Pending { session_id: Some(_) })
        && query.n >= TRIES_BEFORE_ASKING
        && ask(&site, &hash).await?
        && let Some(now) = site.store.checkout(&hash).await?
    {
        begun = now;
    }
    let page = match begun.state {
        Checkout::Pending { .. } if is_lost(&query.status) => pages::not_paid("/"),
        Checkout::Pending { .. } => waiting(&query),
        Checkout::Paid(_) if !is_looked_at(&method, &headers) => waiting(&query),
        Checkout::Paid(customer_id) => return claim(&site, &headers, &hash, customer_id).await,
        Checkout::Known(_) => pages::known(),
        Checkout::Claimed(_) => pages::already_shown(),
    };
    Ok(private(pages::response(StatusCode::OK, &page)))
}

/// Whether this is the browser that began the checkout. One that an older version began has no
/// such browser.
fn is_its_browser(site: &Site, headers: &HeaderMap, hash: &str, begun: &Begun) -> bool {
    let cookie = BrowserCookie::of(site, hash);
    begun.browser_hash.as_ref().is_some_and(|browser_hash| cookie.is_there(headers, browser_hash))
}

fn waiting(query: &Return) -> maud::Markup {
    let is_token = query.c.bytes().all(|octet| octet.is_ascii_hexdigit());
    let again = (is_token && query.n < MAX_TRIES)
        .then(|| format!("/welcome?c={}&n={}", query.c, query.n.saturating_add(1)));
    pages::waiting(again.as_deref())
}

/// The credential is shown once, so not to a browser that only looks ahead, nor to a page that
/// fetches it for something else than to show it.
fn is_looked_at(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_ahead = ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .iter()
        .any(|name| text(name).is_some_and(|value| value.contains("prefetch") || value.contains("preview")));
    let is_shown = text("sec-fetch-dest").is_none_or(|dest| dest == "document");
    *method == Method::GET && !is_ahead && is_shown
}

/// Asks Dodo for the payment of our own session, unless that was done a moment ago. Returns
/// whether one was recorded.
async fn ask(site: &Site, hash: &str) -> Result<bool, HttpError> {
    let now = site.clock.now();
    let Some(session_id) = site.store.ask_of_checkout(hash, ASKED_EACH, now).await? else { return Ok(false) };
    if site.poll_throttle.take((), now).is_err() {
        return Ok(false);
    }
    let found = async {
        let status = asked(site, DodoCall::Other, site.dodo.checkout(&session_id)).await?;
        let Some(payment_id) = status.payment_id else { return Ok(None) };
        asked(site, DodoCall::Other, site.dodo.payment(&payment_id)).await.map(Some)
    };
    let found: Result<_, DodoError> = found.await;
    // Whatever went wrong was logged; the page goes on waiting.
    let Some(payment) = found.ok().flatten().filter(|payment| payment.is_paid()) else { return Ok(false) };
    provision::record_found(site, &payment, hash).await?;
    Ok(true)
}

async fn claim(
    site: &Site,
    headers: &HeaderMap,
    hash: &str,
    customer_id: CustomerId,
) -> Result<Response, PageError> {
    let secret = Secret::generate(random::octets());
    let credential = Credential {
        username: Username::generate(random::octets()),
        customer_id: customer_id.clone(),
        label: Some("first credential".to_owned()),
        created_at: site.clock.now(),
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
    let who = PageSession { customer_id, username: Some(credential.username.clone()) };
    // The secret is on this page and nowhere else: it is shown whether they are signed in or not.
    let session = sign_in::begin(site, headers, &who).await;
    let session = session.inspect_err(|error| error.tell("a new customer could not be signed in"));
    if let Some(cookie) = session.ok().and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
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
