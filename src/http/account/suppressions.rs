//! The suppression list on the page: seen, searched and changed as by the routes for programs.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Page;
use crate::domain::address::Mailbox;
use crate::domain::suppression::SuppressedAddress;
use crate::http::auth::Visitor;
use crate::http::body::{FormBody, QueryString};
use crate::http::error::HttpError;
use crate::http::pages::{self, NewSuppression, Suppressions};
use crate::http::query::with_query;
use crate::http::suppressions::{mailbox, reason};
use crate::http::{Shared, Site};
use crate::store::suppression::Listed;

/// Addresses on a page.
const ROWS: u32 = 50;
/// The most characters of what is looked for.
const MAX_SOUGHT_CHARS: usize = 320;

/// What is listed, and what happened just now.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    q: String,
    after: Option<String>,
    added: Option<String>,
    removed: Option<String>,
}

/// Which address.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    address: String,
}

/// `GET /account/suppressions`
pub(super) async fn list(
    visitor: Visitor,
    State(site): State<Shared>,
    asked: Result<QueryString<Asked>, HttpError>,
) -> Page {
    let QueryString(asked) = asked?;
    let news = news(&site, &visitor, &asked).await?;
    let (nothing, sought) = (NewSuppression::default(), asked.q.trim());
    let after = asked.after.as_deref();
    let page = |listed: &Listed, problem: Option<&str>| {
        let is_first = after.is_none();
        let page = Suppressions { listed, sought, is_first, typed: &nothing, problem, news: news.as_deref() };
        page.render(&site.settings)
    };
    if sought.chars().count() > MAX_SOUGHT_CHARS || sought.chars().any(char::is_control) {
        let error =
            HttpError::Invalid(format!("Address: at most {MAX_SOUGHT_CHARS} characters in one line."));
        return Ok(error.as_page(&page(&Listed::default(), Some(&error.text()))));
    }
    let listed = site.store.search_suppressions(&visitor.who.customer_id, sought, (after, ROWS)).await?;
    Ok(pages::response(StatusCode::OK, &page(&listed, None)))
}

/// `POST /account/suppressions`
pub(super) async fn add(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(typed): FormBody<NewSuppression>,
) -> Page {
    let customer_id = &visitor.who.customer_id;
    let done = async {
        let recipient = mailbox(&typed.address)?;
        let reason = reason(&typed.reason)?;
        site.store.suppress(customer_id, &recipient, reason, site.clock.now()).await?;
        Ok::<_, HttpError>(recipient)
    };
    let error = match done.await {
        Ok(recipient) => return Ok(told("added", &recipient)),
        Err(error) => error,
    };
    let listed = site.store.search_suppressions(customer_id, "", (None, ROWS)).await?;
    let text = error.text();
    let page = Suppressions {
        listed: &listed,
        sought: "",
        is_first: true,
        typed: &typed,
        problem: Some(&text),
        news: None,
    };
    Ok(error.as_page(&page.render(&site.settings)))
}

/// `POST /account/suppressions/remove`
pub(super) async fn remove(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Which>,
) -> Page {
    let recipient = mailbox(&form.address)?;
    site.store.unsuppress(&visitor.who.customer_id, &recipient).await?;
    Ok(told("removed", &recipient))
}

fn told(what: &str, recipient: &Mailbox) -> Response {
    let address = SuppressedAddress::of(recipient).to_string();
    Redirect::to(&with_query("/account/suppressions", &[(what, address)])).into_response()
}

/// Anyone can write a link; only what is so is said.
async fn news(site: &Site, visitor: &Visitor, asked: &Asked) -> Result<Option<String>, HttpError> {
    let (named, is_added) = match (&asked.added, &asked.removed) {
        (Some(added), _) => (added, true),
        (None, Some(removed)) => (removed, false),
        (None, None) => return Ok(None),
    };
    let Ok(recipient) = mailbox(named) else { return Ok(None) };
    let address = SuppressedAddress::of(&recipient);
    let found = site.store.suppression(&visitor.who.customer_id, &address).await?;
    Ok(match (is_added, found) {
        (true, Some(entry)) => {
            Some(format!("{address} is on the list since {}.", entry.added_at.strftime("%Y-%m-%d")))
        }
        (false, None) => Some(format!("{address} is off the list: mail to it is taken.")),
        _ => None,
    })
}
