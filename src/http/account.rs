//! The pages of a customer who signed in: a letter to send; and below, each in a file of its
//! own, what else there is.
//!
//! Forms and redirects only. What can be changed is changed by a POST from our own
//! page; what is secret is shown in the answer to that POST and never again.

mod credentials;
mod messages;
mod senders;
mod suppressions;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value};

use super::auth::Visitor;
use super::body;
use super::error::PageError;
use super::listener::Peer;
use super::pages::{self, Letter};
use super::{Shared, send};

type Page = Result<Response, PageError>;

/// The routes of what else there is.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/account/messages", get(messages::list))
        .route("/account/messages/{message_id}", get(messages::show))
        .route("/account/credentials", get(credentials::list).post(credentials::create))
        .route("/account/credentials/revoke", get(credentials::ask).post(credentials::revoke))
        .route("/account/senders", get(senders::list).post(senders::add))
        .route("/account/senders/verify", post(senders::verify))
        .route("/account/senders/remove", get(senders::ask).post(senders::remove))
        .route("/account/suppressions", get(suppressions::list).post(suppressions::add))
        .route("/account/suppressions/remove", post(suppressions::remove))
}

/// `GET /`
pub(super) async fn start(State(site): State<Shared>, headers: HeaderMap) -> Page {
    if Visitor::find(&headers, &site).await?.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    Ok(pages::response(StatusCode::OK, &pages::landing(&site.settings, None)))
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
