//! The pages of a customer who signed in: credentials, a letter to send.
//!
//! Forms and redirects only. What can be changed is changed by a POST from our own
//! page; what is secret is shown in the answer to that POST and never again.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::auth::Visitor;
use super::body::{self, FormBody};
use super::error::{HttpError, PageError};
use super::listener::Peer;
use super::pages::{self, Letter};
use super::{Shared, send};
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::domain::refusal::Refusal;
use crate::random;
use crate::store::customer::Credential;

/// Credentials of one customer, revoked ones included.
const MAX_CREDENTIALS: usize = 200;
const MAX_LABEL_CHARS: usize = 64;

type Page = Result<Response, PageError>;

/// `GET /`
pub(super) async fn start(State(site): State<Shared>, headers: HeaderMap) -> Page {
    if Visitor::find(&headers, &site).await?.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    Ok(pages::response(StatusCode::OK, &pages::landing(&site.settings, None)))
}

/// `GET /sign-in`: the page of a failed sign-in, loaded again.
pub(super) async fn sign_in_again() -> Redirect {
    Redirect::to("/")
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
    FormBody(form): FormBody<SignIn>,
) -> Page {
    let secret = Secret::presented(form.secret.trim());
    match site.submission.sign_in(peer.ip(), form.username.trim(), &secret).await {
        Ok((who, _)) => {
            let cookie = site.sessions.begin(&who.username, site.clock.now());
            Ok((set_cookie(&cookie), Redirect::to("/account")).into_response())
        }
        Err(refusal @ (Refusal::BadCredential | Refusal::TooManyFailures { .. })) => {
            let error = HttpError::Refused(refusal);
            let page = pages::landing(&site.settings, Some(&error.text()));
            Ok(error.as_page(&page))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// `POST /sign-out`
pub(super) async fn sign_out(State(site): State<Shared>, FormBody(()): FormBody<()>) -> Response {
    (set_cookie(&site.sessions.end()), Redirect::to("/")).into_response()
}

fn set_cookie(cookie: &str) -> HeaderMap {
    let value = HeaderValue::from_str(cookie).ok();
    value.map(|value| HeaderMap::from_iter([(header::SET_COOKIE, value)])).unwrap_or_default()
}

/// `GET /account/send`
pub(super) async fn send_form(visitor: Visitor, State(site): State<Shared>) -> Page {
    let from = send::default_sender(&visitor.standing.senders);
    let from = from.map(|named| named.mailbox.to_string()).unwrap_or_default();
    let letter = Letter { from, ..Letter::default() };
    Ok(pages::response(StatusCode::OK, &pages::send(&site.settings, &letter, None)))
}

/// `POST /account/send`: what is refused comes back with everything that was typed.
pub(super) async fn send(
    visitor: Visitor,
    State(site): State<Shared>,
    Peer(peer): Peer,
    request: Request,
) -> Response {
    let mut claim = site.arriving.claim(&visitor.who.customer_id);
    let letter: Letter = match body::read_letter(request, &site, &mut claim).await {
        Ok(letter) => letter,
        Err(error) => return PageError(error).into_response(),
    };
    match send::submit(&site, &visitor.who, peer, request_of(&letter), None).await {
        Ok(id) => Redirect::to(&format!("/account?sent={id}")).into_response(),
        Err(error) => error.as_page(&pages::send(&site.settings, &letter, Some(&error.text()))),
    }
}

/// The form as a request of `POST /send`.
fn request_of(letter: &Letter) -> Map<String, Value> {
    let Letter { from, to, subject, text } = letter;
    let list = |text: &str| {
        let addresses = text.split([',', ';', '\n']).map(str::trim).filter(|address| !address.is_empty());
        Value::Array(addresses.map(Value::from).collect())
    };
    let mut request = Map::from_iter([
        ("to".to_owned(), list(to)),
        ("subject".to_owned(), Value::from(subject.as_str())),
        ("text".to_owned(), Value::from(text.as_str())),
    ]);
    if !from.trim().is_empty() {
        request.insert("from".to_owned(), Value::from(from.trim()));
    }
    request
}

/// `GET /account/credentials`
pub(super) async fn credentials(visitor: Visitor, State(site): State<Shared>) -> Page {
    let credentials = site.store.credentials(Some(&visitor.who.customer_id)).await?;
    let page = pages::credentials(&site.settings, &visitor.standing, &credentials, None);
    Ok(pages::response(StatusCode::OK, &page))
}

/// What the form for a new credential sends.
#[derive(Debug, Deserialize)]
pub(super) struct NewCredential {
    #[serde(default)]
    label: String,
}

/// `POST /account/credentials`: the answer shows the secret, this once.
pub(super) async fn create_credential(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<NewCredential>,
) -> Page {
    let label = form.label.trim();
    if label.chars().count() > MAX_LABEL_CHARS || label.chars().any(char::is_control) {
        let text = format!("label: at most {MAX_LABEL_CHARS} characters in one line.");
        return Err(HttpError::Invalid(text).into());
    }
    let customer_id = &visitor.who.customer_id;
    if site.store.credentials(Some(customer_id)).await?.len() >= MAX_CREDENTIALS {
        let text = "This account has had too many credentials. Ask the operator for another one.";
        return Err(HttpError::Conflict(text).into());
    }
    let secret = Secret::generate(random::octets());
    let credential = Credential {
        username: Username::generate(random::octets()),
        customer_id: customer_id.clone(),
        label: Some(label.to_owned()).filter(|label| !label.is_empty()),
        created_at: site.clock.now(),
        revoked_at: None,
    };
    site.store.add_credential(&credential, &secret.hash()).await?;
    tracing::info!(%customer_id, username = %credential.username, "a credential was made on the page");
    let credentials = site.store.credentials(Some(customer_id)).await?;
    let new = Some((&credential.username, &secret));
    let page = pages::credentials(&site.settings, &visitor.standing, &credentials, new);
    Ok(pages::response(StatusCode::OK, &page))
}

/// What a revoke button sends.
#[derive(Debug, Deserialize)]
pub(super) struct Revoke {
    username: String,
}

/// `POST /account/credentials/revoke`
pub(super) async fn revoke_credential(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Revoke>,
) -> Page {
    let gone = || HttpError::NotFound("credential that could be revoked");
    let username = Username::parse(&form.username).map_err(|_| gone())?;
    let customer_id = &visitor.who.customer_id;
    site.store.revoke_credential(&username, Some(customer_id), site.clock.now()).await?;
    tracing::info!(%customer_id, %username, "a credential was revoked on the page");
    Ok(Redirect::to("/account/credentials").into_response())
}
