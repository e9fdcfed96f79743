//! The log on the page: what is looked for in it, and one message.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::Page;
use crate::domain::ids::MessageId;
use crate::http::Shared;
use crate::http::auth::Visitor;
use crate::http::body::QueryString;
use crate::http::error::HttpError;
use crate::http::messages::Sought;
use crate::http::pages;
use crate::store::search::{self, Found};

/// Messages on a page.
const ROWS: u32 = 25;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    recipient: String,
    subject: String,
    state: String,
    id: String,
    before: Option<String>,
}

/// `GET /account/messages`: what was typed stays in the form, and what is wrong with it is told.
pub(super) async fn list(
    visitor: Visitor,
    State(site): State<Shared>,
    asked: Result<QueryString<Asked>, HttpError>,
) -> Page {
    let QueryString(Asked { recipient, subject, state, id, before }) = asked?;
    let sought = Sought { recipient, subject, state, id };
    let before = before.as_deref().map(MessageId::parse).transpose();
    let before = before.map_err(|_| HttpError::NotFound("page"))?;
    let page = |found: &Found, problem: Option<&str>| {
        let log = pages::Log { sought: &sought, found, is_first: before.is_none(), problem };
        log.render(&site.settings)
    };
    let search = match sought.read() {
        Ok(search) => search,
        Err(error) => return Ok(error.as_page(&page(&Found::default(), Some(&error.text())))),
    };
    let whose = Some(&visitor.who.customer_id);
    let part = search::Page { before: before.as_ref(), limit: ROWS };
    let found = site.store.search(whose, &search, part).await?;
    Ok(pages::response(StatusCode::OK, &page(&found, None)))
}

/// `GET /account/messages/{id}`: somebody else's message is none.
pub(super) async fn show(visitor: Visitor, State(site): State<Shared>, Path(id): Path<String>) -> Page {
    let none = || HttpError::NotFound("message");
    let id = MessageId::parse(&id).map_err(|_| none())?;
    if !site.store.is_of(&id, &visitor.who.customer_id).await? {
        return Err(none().into());
    }
    let story = site.store.story(&id).await?.ok_or_else(none)?;
    Ok(pages::response(StatusCode::OK, &pages::message(&site.settings, &story)))
}
