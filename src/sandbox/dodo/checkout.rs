//! The local checkout page: what Dodo's hosted page is to the real thing. Its
//! Pay button takes no card and no money.

use axum::Router;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::{Markup, html};
use reqwest::Url;
use serde::Deserialize;

use super::sale::{PayError, Payer, Receipt};
use super::shop::{Buyer, Customer, Session};
use super::{DodoStandIn, Kept};
use crate::sandbox::page::{notice, page};

/// `GET` shows the page, `POST` pays.
pub(super) fn router(dodo: &DodoStandIn) -> Router {
    Router::new().route("/sandbox/checkout/{session_id}", get(show).post(pay)).with_state(dodo.clone())
}

async fn show(State(dodo): State<DodoStandIn>, Path(session_id): Path<String>) -> Response {
    dodo.checkout_response(&session_id, StatusCode::OK, None)
}

#[derive(Debug, Deserialize)]
struct Filled {
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
}

async fn pay(
    State(dodo): State<DodoStandIn>,
    Path(session_id): Path<String>,
    Form(filled): Form<Filled>,
) -> Response {
    let payer = Payer { email: filled.email, name: filled.name };
    match dodo.pay(&session_id, &payer) {
        Ok(receipt) => match way_back(&receipt) {
            Some(url) => Redirect::to(url.as_str()).into_response(),
            None => notice(StatusCode::OK, "Paid. This session named no page to return to."),
        },
        Err(error @ PayError::NoEmail) => {
            dodo.checkout_response(&session_id, StatusCode::UNPROCESSABLE_ENTITY, Some(&error))
        }
        Err(error) => notice(status_of(&error), &error.to_string()),
    }
}

const fn status_of(error: &PayError) -> StatusCode {
    match error {
        PayError::Unknown => StatusCode::NOT_FOUND,
        PayError::Consumed => StatusCode::CONFLICT,
        PayError::Expired => StatusCode::GONE,
        PayError::NoEmail => StatusCode::UNPROCESSABLE_ENTITY,
        PayError::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The return URL with what Dodo adds to it; the session's id is not among that.
fn way_back(receipt: &Receipt) -> Option<Url> {
    let mut url = Url::parse(receipt.return_url.as_deref()?).ok()?;
    let (name, id, status) = match &receipt.subscription_id {
        Some(id) => ("subscription_id", id, "active"),
        None => ("payment_id", &receipt.payment_id, "succeeded"),
    };
    url.query_pairs_mut()
        .append_pair(name, id)
        .append_pair("status", status)
        .append_pair("email", &receipt.email);
    Some(url)
}

impl DodoStandIn {
    fn checkout_response(&self, session_id: &str, status: StatusCode, error: Option<&PayError>) -> Response {
        let now_ms = self.now_ms();
        let kept = self.kept();
        let Some(session) = kept.books.session(session_id) else {
            return notice(StatusCode::NOT_FOUND, &PayError::Unknown.to_string());
        };
        if session.payment_id.is_some() {
            return notice(StatusCode::CONFLICT, &PayError::Consumed.to_string());
        }
        if session.is_expired(now_ms) {
            return notice(StatusCode::GONE, &PayError::Expired.to_string());
        }
        let target = session.return_url.as_deref().and_then(|url| Url::parse(url).ok());
        let target = target.map(|url| url.origin().ascii_serialization());
        page(status, "Checkout", target.as_deref(), &content(session, known_buyer(&kept, session), error))
    }
}

fn known_buyer<'a>(kept: &'a Kept, session: &Session) -> Option<&'a Customer> {
    match &session.buyer {
        Some(Buyer::Known { customer_id }) => kept.books.customer(customer_id),
        _ => None,
    }
}

fn content(session: &Session, known: Option<&Customer>, error: Option<&PayError>) -> Markup {
    let (email, name) = match (&session.buyer, known) {
        (_, Some(customer)) => (Some(customer.email.as_str()), Some(customer.name.as_str())),
        (Some(Buyer::Named { email, name, .. }), None) => (Some(email.as_str()), name.as_deref()),
        _ => (None, None),
    };
    let leave = cancelled(session);
    html! {
        h1 { "Checkout" }
        p { "This is the sandbox: nothing is charged, and any address will do." }
        @if let Some(error) = error { p.alert role="alert" { (error.to_string()) } }
        table {
            thead { tr { th { "Product" } th.number { "Quantity" } th.number { "Credits" } th.number { "Price" } } }
            tbody {
                @for item in &session.cart {
                    tr {
                        td { (item.ware().map(|ware| ware.name).unwrap_or_default()) }
                        td.number { (item.quantity) }
                        td.number { (item.credits) }
                        td.number { (dollars(item.price())) }
                    }
                }
            }
            tfoot { tr { th colspan="3" { "Total" } td.number { (dollars(session.total())) } } }
        }
        form method="post" {
            p { label { "Email " input type="email" name="email" value=[email] required readonly[email.is_some()]; } }
            p { label { "Name " input type="text" name="name" value=[name] readonly[name.is_some()]; } }
            p {
                button type="submit" { "Pay " (dollars(session.total())) }
                @if let Some(url) = leave { " " a href=(url.as_str()) { "Cancel" } }
            }
        }
    }
}

/// Where Cancel leads: a page of its own, or the one for every outcome, which is told
/// this one. A link must not run anything.
fn cancelled(session: &Session) -> Option<Url> {
    let own = session.cancel_url.as_deref();
    let mut url = Url::parse(own.or(session.return_url.as_deref())?).ok()?;
    if own.is_none() {
        url.query_pairs_mut().append_pair("status", "cancelled");
    }
    matches!(url.scheme(), "http" | "https").then_some(url)
}

fn dollars(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}
