//! The page of a customer who signed in: credits, log, credentials, a letter to send.
//!
//! Forms and redirects only. What can be changed is changed by a POST from our own
//! page; what is secret is shown in the answer to that POST and never again.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::auth::Visitor;
use super::body::{self, FormBody, QueryString};
use super::error::{HttpError, PageError};
use super::listener::Peer;
use super::pages::{self, Letter};
use super::{Shared, send};
use crate::domain::credential::Secret;
use crate::domain::ids::{MessageId, Username};
use crate::random;
use crate::store::customer::Credential;

/// Messages on a page of the log.
const LOG_ROWS: u32 = 25;
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

/// Which page of the log, and what happened just now.
#[derive(Debug, Deserialize)]
pub(super) struct Overview {
    before: Option<String>,
    sent: Option<String>,
}

/// `GET /account`
pub(super) async fn overview(
    visitor: Visitor,
    State(site): State<Shared>,
    QueryString(query): QueryString<Overview>,
) -> Page {
    let before = query.before.as_deref().map(MessageId::parse).transpose();
    let before = before.map_err(|_| HttpError::NotFound("page"))?;
    let customer_id = &visitor.who.customer_id;
    let account = &visitor.standing.account;
    if account.balance.is_none() {
        site.billing.balance_changed(customer_id);
    }
    let messages = site.store.messages(Some(customer_id), before.as_ref(), LOG_ROWS).await?;
    // Anyone can write a link; only what is in the log is said to be accepted.
    let sent = query.sent.as_deref().and_then(|id| MessageId::parse(id).ok());
    let sent = sent.filter(|id| messages.iter().any(|message| message.message_id == *id));
    let is_full = u32::try_from(messages.len()).is_ok_and(|rows| rows == LOG_ROWS);
    let page = pages::Overview {
        standing: &visitor.standing,
        messages: &messages,
        older: messages.last().filter(|_| is_full).map(|last| &last.message_id),
        is_first: before.is_none(),
        sent: sent.as_ref(),
    };
    Ok(pages::response(StatusCode::OK, &page.render(&site.settings)))
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
