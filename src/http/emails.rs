//! `/emails`: the way in for programs that were written for Resend. Requests, answers and
//! errors are in the form of Resend's API, so that its SDKs need another base URL and
//! another key, and no other change; from the message on it is the road of `POST /send`.
//!
//! What this room owns is the form. Whatever of a request is not done is refused, or noted
//! in the message's log; nothing is dropped in silence.

mod batch;
mod error;
mod reading;
mod request;
mod view;

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::routing::{any, get, post};
use axum::{Json, Router};

use super::Shared;
use super::auth::Customer;
use super::error::HttpError;
use super::listener::Peer;
use super::send::{self, Outgoing, Sent};
pub(super) use batch::BatchAnswer;
pub(super) use error::ResendError;
pub(super) use view::EmailView;

use error::EmailError;
#[cfg(test)]
pub(super) use error::face as face_of;
use request::{Letter, Place};

/// The routes, with the fallbacks of their own: no answer below `/emails` has another form.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/emails", post(send_one).fallback(wrong_method))
        .route("/emails/", any(no_route))
        .route("/emails/batch", post(batch::send).fallback(wrong_method))
        .route("/emails/{id}", get(view::show).fallback(wrong_method))
        .route("/emails/{id}/{*rest}", any(no_route))
}

/// What an extractor of the other routes finds, or an error in Resend's form.
#[derive(Debug)]
struct Found<T>(T);

impl<T: FromRequestParts<Shared, Rejection = HttpError>> FromRequestParts<Shared> for Found<T> {
    type Rejection = EmailError;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, EmailError> {
        Ok(Self(T::from_request_parts(parts, site).await?))
    }
}

/// `POST /emails`
async fn send_one(
    State(site): State<Shared>,
    Found(Customer(who)): Found<Customer>,
    Peer(peer): Peer,
    headers: HeaderMap,
    raw: Body,
) -> Result<Json<Sent>, EmailError> {
    let key = send::idempotency_key(&headers)?;
    let (bytes, claim) = send::receive(&site, &who, &headers, raw).await?;
    let request = reading::read(&bytes)?;
    drop(bytes);
    let Letter { composition, notes } = request::letter(request, Place::Alone)?;
    let outgoing = Outgoing { notes, ..Outgoing::under(key, composition) };
    let id = send::submit_composed(&site, &who, peer, outgoing).await?;
    drop(claim);
    Ok(Json(Sent { id }))
}

async fn no_route() -> EmailError {
    HttpError::NoRoute.into()
}

async fn wrong_method() -> EmailError {
    HttpError::WrongMethod.into()
}
