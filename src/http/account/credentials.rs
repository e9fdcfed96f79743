//! Credentials on the page: a new one is shown with its secret in the answer to the form, this
//! once; one is revoked after the question whether it is meant.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use serde::Deserialize;

use super::Page;
use crate::domain::caps::Caps;
use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::http::auth::Visitor;
use crate::http::body::{FormBody, QueryString};
use crate::http::error::HttpError;
use crate::http::pages::{self, Credentials, NewCredential};
use crate::http::query::with_query;
use crate::http::{Shared, Site};
use crate::random;
use crate::store::customer::Credential;

/// Credentials of one customer, revoked ones included.
const MAX_CREDENTIALS: usize = 200;
const MAX_LABEL_CHARS: usize = 64;

/// Which credential.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    username: String,
}

/// What happened just now.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct News {
    revoked: Option<String>,
}

/// `GET /account/credentials`
pub(super) async fn list(
    visitor: Visitor,
    State(site): State<Shared>,
    news: Result<QueryString<News>, HttpError>,
) -> Page {
    let all = site.store.credentials(Some(&visitor.who.customer_id)).await?;
    // Anyone can write a link; only what is so is said.
    let named = news?.0.revoked;
    let revoked =
        all.iter().find(|one| one.revoked_at.is_some() && named.as_deref() == Some(one.username.as_str()));
    let page = Credentials {
        own: visitor.who.username.as_ref(),
        all: &all,
        new: None,
        revoked: revoked.map(|one| &one.username),
        typed: &NewCredential::default(),
        problem: None,
    };
    Ok(pages::response(StatusCode::OK, &page.render(&site.settings)))
}

/// `POST /account/credentials`: the answer shows the secret, this once.
pub(super) async fn create(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(typed): FormBody<NewCredential>,
) -> Page {
    let customer_id = &visitor.who.customer_id;
    let made = make(&site, &visitor, &typed).await;
    let all = site.store.credentials(Some(customer_id)).await?;
    let nothing = NewCredential::default();
    let problem = made.as_ref().err().map(HttpError::text);
    let page = Credentials {
        own: visitor.who.username.as_ref(),
        all: &all,
        new: made.as_ref().ok().map(|(username, secret)| (username, secret)),
        revoked: None,
        typed: if made.is_ok() { &nothing } else { &typed },
        problem: problem.as_deref(),
    };
    let page = page.render(&site.settings);
    Ok(match made {
        Ok(_) => pages::response(StatusCode::OK, &page),
        Err(error) => error.as_page(&page),
    })
}

async fn make(
    site: &Site,
    visitor: &Visitor,
    typed: &NewCredential,
) -> Result<(Username, Secret), HttpError> {
    visitor.has_free_hand()?;
    let label = typed.label.trim();
    if label.chars().count() > MAX_LABEL_CHARS || label.chars().any(char::is_control) {
        let text = format!("label: at most {MAX_LABEL_CHARS} characters in one line.");
        return Err(HttpError::Invalid(text));
    }
    let caps = Caps {
        per_day: cap("messages a day", &typed.per_day)?,
        per_minute: cap("messages a minute", &typed.per_minute)?,
    };
    let customer_id = &visitor.who.customer_id;
    if site.store.credentials(Some(customer_id)).await?.len() >= MAX_CREDENTIALS {
        let text = "This account has had too many credentials. Ask the operator for another one.";
        return Err(HttpError::Conflict(text));
    }
    let secret = Secret::generate(random::octets());
    let credential = Credential {
        username: Username::generate(random::octets()),
        customer_id: customer_id.clone(),
        label: Some(label.to_owned()).filter(|label| !label.is_empty()),
        created_at: site.clock.now(),
        revoked_at: None,
        caps,
        last_used_at: None,
    };
    site.store.add_credential(&credential, &secret.hash()).await?;
    tracing::info!(%customer_id, username = %credential.username, "a credential was made on the page");
    Ok((credential.username, secret))
}

/// A cap as it was typed; nothing is none.
fn cap(what: &str, typed: &str) -> Result<Option<u32>, HttpError> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(None);
    }
    let number = typed.parse().ok().filter(|number| *number > 0);
    let wrong = || HttpError::Invalid(format!("At most, {what}: a whole number from 1 on, or nothing."));
    number.map(Some).ok_or_else(wrong)
}

/// `GET /account/credentials/revoke?username=`
pub(super) async fn ask(
    visitor: Visitor,
    State(site): State<Shared>,
    which: Result<QueryString<Which>, HttpError>,
) -> Page {
    let QueryString(Which { username }) = which?;
    let all = site.store.credentials(Some(&visitor.who.customer_id)).await?;
    let one = all.iter().find(|one| one.username.as_str() == username && one.revoked_at.is_none());
    let page = pages::revoke(&site.settings, one.ok_or_else(none)?, visitor.who.username.as_ref());
    Ok(pages::response(StatusCode::OK, &page))
}

/// `POST /account/credentials/revoke`: whoever revokes the one that is signed in is signed out, since
/// a session ends with its credential.
pub(super) async fn revoke(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Which>,
) -> Page {
    visitor.has_free_hand()?;
    let username = Username::parse(&form.username).map_err(|_| none())?;
    let customer_id = &visitor.who.customer_id;
    site.store.revoke_credential(&username, Some(customer_id), site.clock.now()).await?;
    tracing::info!(%customer_id, %username, "a credential was revoked on the page");
    if visitor.who.username.as_ref() == Some(&username) {
        return Ok(Redirect::to("/").into_response());
    }
    let path = with_query("/account/credentials", &[("revoked", username.to_string())]);
    Ok(Redirect::to(&path).into_response())
}

fn none() -> HttpError {
    HttpError::NotFound("credential that could be revoked")
}
