//! The customer portal: what Dodo keeps for a customer to look at, as far as it is needed to
//! see that the way there leads to the right customer.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use maud::html;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::{DodoStandIn, lock};
use crate::sandbox::page::{notice, page};

/// The page that links lead to.
pub(super) fn router(dodo: &DodoStandIn) -> Router {
    Router::new().route("/sandbox/portal/{customer_id}", get(show)).with_state(dodo.clone())
}

#[derive(Debug, Deserialize)]
pub(super) struct Way {
    return_url: Option<String>,
}

/// `POST /customers/{id}/customer-portal/session`: all that it takes stands in the query.
pub(super) async fn open(
    State(dodo): State<DodoStandIn>,
    Path(id): Path<String>,
    Query(way): Query<Way>,
) -> Result<Json<Value>, Refusal> {
    if dodo.kept().books.customer(&id).is_none() {
        return Err(Refusal::not_found("Customer"));
    }
    let base = lock(&dodo.0.checkout_base).clone();
    let mut link = Url::parse(&format!("{base}/sandbox/portal/"))
        .and_then(|url| url.join(&id))
        .map_err(|_| Refusal::not_found("Customer"))?;
    if let Some(back) = &way.return_url {
        link.query_pairs_mut().append_pair("return_url", back);
    }
    Ok(Json(json!({ "link": link.as_str() })))
}

async fn show(
    State(dodo): State<DodoStandIn>,
    Path(customer_id): Path<String>,
    Query(way): Query<Way>,
) -> Response {
    let kept = dodo.kept();
    let Some(customer) = kept.books.customer(&customer_id) else {
        return notice(StatusCode::NOT_FOUND, "there is no such portal");
    };
    let balance = kept.books.account(&customer_id).map_or(0, |account| account.balance);
    // A link must not run anything.
    let back = way.return_url.as_deref().and_then(|url| Url::parse(url).ok());
    let back = back.filter(|url| matches!(url.scheme(), "http" | "https"));
    let content = html! {
        h1 { "Customer portal" }
        p { "This is the sandbox. At Dodo a customer finds payments, invoices and subscriptions here." }
        dl.settings {
            dt { "Name" } dd { (customer.name) }
            dt { "Email" } dd { (customer.email) }
            dt { "Credits" } dd { (balance) }
        }
        @if let Some(url) = back { p { a.button href=(url.as_str()) { "Back" } } }
    };
    page(StatusCode::OK, "Customer portal", None, &content)
}
