//! Signing in on the page, with a credential or by a mailed link, and signing out.
//!
//! Whoever asks for a link is told the same whoever has the address, and at once: what is found
//! out is found out after the answer. A link shows a page with a button, since programs that look
//! at mail follow links and press no buttons; the button's POST uses it up, and must come from our
//! own page. A sign-in ends the session that the browser had before.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::auth::Visitor;
use super::body::{FormBody, QueryString};
use super::error::{HttpError, PageError};
use super::listener::Peer;
use super::pages::{self, Typed};
use super::{Shared, Site};
use crate::domain::address::Mailbox;
use crate::domain::credential::Secret;
use crate::domain::digest::hex;
use crate::domain::refusal::Refusal;
use crate::random;
use crate::store::StoreError;
use crate::store::session::{NewSession, PageSession};
use crate::throttle::{Throttle, TooSoon, network_of};

type Page = Result<Response, PageError>;

/// How often links are asked for; for each customer the database keeps a limit besides.
#[derive(Debug)]
pub(super) struct LinkThrottles {
    by_network: Throttle<IpAddr>,
    by_address: Throttle<String>,
    of_all: Throttle<()>,
}

impl LinkThrottles {
    /// Nobody has asked yet.
    pub(super) fn new() -> Self {
        Self {
            by_network: Throttle::new(5, Duration::from_secs(60)),
            by_address: Throttle::new(3, Duration::from_secs(300)),
            of_all: Throttle::new(60, Duration::from_secs(1)),
        }
    }
}

/// `GET /sign-in`: the forms.
pub(super) async fn page(State(site): State<Shared>, headers: HeaderMap) -> Page {
    if Visitor::find(&headers, &site).await?.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    Ok(pages::response(StatusCode::OK, &pages::sign_in(&site.settings, &Typed::default())))
}

/// What the sign-in form sends.
#[derive(Deserialize)]
pub(super) struct SignIn {
    username: String,
    secret: String,
}

/// `POST /sign-in`
pub(super) async fn sign_in(
    State(site): State<Shared>,
    Peer(peer): Peer,
    headers: HeaderMap,
    FormBody(form): FormBody<SignIn>,
) -> Page {
    let secret = Secret::presented(form.secret.trim());
    match site.submission.sign_in(peer.ip(), form.username.trim(), &secret).await {
        Ok((who, _)) => {
            let who = PageSession { customer_id: who.customer_id, username: who.username };
            let cookie = begin(&site, &headers, &who).await?;
            Ok((set_cookie(&cookie), Redirect::to("/account")).into_response())
        }
        Err(refusal @ (Refusal::BadCredential | Refusal::TooManyFailures { .. })) => {
            let error = HttpError::Refused(refusal);
            let text = error.text();
            let typed = Typed { problem: Some(&text), username: &form.username, ..Typed::default() };
            Ok(error.as_page(&pages::sign_in(&site.settings, &typed)))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Begins a session in place of the one that the browser has. Returns its cookie.
pub(super) async fn begin(site: &Site, headers: &HeaderMap, who: &PageSession) -> Result<String, StoreError> {
    let (new, cookie) = fresh(site);
    site.store.begin_session(&new, who).await?;
    end(site, headers).await?;
    Ok(cookie)
}

/// A session that nobody has yet, and its cookie.
fn fresh(site: &Site) -> (NewSession, String) {
    site.sessions.begin(&Secret::generate(random::octets()), site.clock.now())
}

/// Ends the session that the browser came with.
async fn end(site: &Site, headers: &HeaderMap) -> Result<(), StoreError> {
    match site.sessions.find(headers, site.clock.now()) {
        Some(session_hash) => site.store.end_session(&session_hash).await,
        None => Ok(()),
    }
}

/// `POST /sign-out`
pub(super) async fn sign_out(
    State(site): State<Shared>,
    headers: HeaderMap,
    FormBody(()): FormBody<()>,
) -> Page {
    end(&site, &headers).await?;
    Ok((set_cookie(&site.sessions.end()), Redirect::to("/")).into_response())
}

/// `POST /sign-out/everywhere`
pub(super) async fn sign_out_everywhere(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(()): FormBody<()>,
) -> Page {
    let customer_id = &visitor.who.customer_id;
    let sessions = site.store.end_sessions(customer_id).await?;
    tracing::info!(%customer_id, sessions, "a customer signed out everywhere");
    Ok((set_cookie(&site.sessions.end()), Redirect::to("/")).into_response())
}

/// What the form that asks for a link sends.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    email: String,
}

/// `POST /sign-in/link`
pub(super) async fn ask_for_link(
    State(site): State<Shared>,
    Peer(peer): Peer,
    FormBody(asked): FormBody<Asked>,
) -> Response {
    match link_asked(&site, peer.ip(), &asked.email) {
        Ok(()) => pages::response(StatusCode::OK, &pages::link_mailed(&site.settings)),
        Err(error) => {
            let text = error.text();
            let typed = Typed { problem: Some(&text), address: &asked.email, ..Typed::default() };
            error.as_page(&pages::sign_in(&site.settings, &typed))
        }
    }
}

/// Nothing here depends on whether anybody has the address: not the answer, and not its time.
fn link_asked(site: &Site, peer: IpAddr, email: &str) -> Result<(), HttpError> {
    let now = site.clock.now();
    let address =
        Mailbox::parse(email.trim()).map_err(|error| HttpError::Invalid(format!("email: {error}.")))?;
    let too_fast = |soon: TooSoon| HttpError::TooFast { retry_after_s: soon.retry_after_s };
    site.link_throttles.by_network.take(network_of(peer), now).map_err(too_fast)?;
    site.link_throttles.of_all.take((), now).map_err(too_fast)?;
    // Who asks for one address too often has mails of it already: that is not told to whoever asks.
    if site.link_throttles.by_address.take(address.to_string().to_ascii_lowercase(), now).is_ok() {
        site.billing.mail_sign_in_links(address);
    }
    Ok(())
}

/// What stands in a mailed link.
#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    t: String,
}

impl Link {
    fn hash(&self) -> String {
        hex(Secret::presented(&self.t).hash().as_bytes())
    }
}

/// `GET /sign-in/link?t=…`: a button, and nothing is used up.
pub(super) async fn show_link(State(site): State<Shared>, QueryString(link): QueryString<Link>) -> Page {
    let found = site.store.sign_in_link(&link.hash(), site.clock.now()).await?;
    Ok(match found {
        Some(customer_id) => {
            pages::response(StatusCode::OK, &pages::use_link(&site.settings, &link.t, &customer_id))
        }
        None => pages::response(StatusCode::NOT_FOUND, &pages::link_is_over(&site.settings)),
    })
}

/// `POST /sign-in/link/use`
pub(super) async fn use_link(
    State(site): State<Shared>,
    Peer(peer): Peer,
    headers: HeaderMap,
    FormBody(link): FormBody<Link>,
) -> Page {
    let (new, cookie) = fresh(&site);
    let used = site.store.use_sign_in_link(&link.hash(), &new).await?;
    let Some(customer_id) = used else {
        return Ok(pages::response(StatusCode::NOT_FOUND, &pages::link_is_over(&site.settings)));
    };
    end(&site, &headers).await?;
    tracing::info!(%customer_id, %peer, "a customer signed in by a mailed link");
    Ok((set_cookie(&cookie), Redirect::to("/account")).into_response())
}

pub(super) fn set_cookie(cookie: &str) -> HeaderMap {
    let value = HeaderValue::from_str(cookie).ok();
    value.map(|value| HeaderMap::from_iter([(header::SET_COOKIE, value)])).unwrap_or_default()
}
