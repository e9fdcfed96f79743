//! The message log, and what is looked for in it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::Caller;
use super::body::QueryString;
use super::error::HttpError;
use super::query::query;
use crate::domain::ids::MessageId;
use crate::domain::message::MessageState;
use crate::store::dsn::Asked;
use crate::store::event::EventLog;
use crate::store::log::MessageLog;
use crate::store::search::{Page, Search};
use crate::store::timeline::{Moment, Story};

/// Messages on a page unless another number is asked for.
pub(super) const DEFAULT_LIMIT: u32 = 50;
/// The most messages on a page.
pub(super) const MAX_LIMIT: u32 = 100;
/// The most characters of what is looked for: an address, a part of a subject.
const MAX_SOUGHT_CHARS: usize = 320;

/// A message as its customer and the operator see it: the whole log, with what is
/// asked for most at the top.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageView {
    #[serde(flatten)]
    log: MessageLog,
    /// Attempts of all parts.
    attempts: u32,
    /// The last thing that went wrong.
    last_error: Option<String>,
    /// Credits debited.
    debit: i64,
    /// Credits given back for them after all, at Dodo.
    refunded: i64,
}

/// One message with its whole story.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StoryView {
    #[serde(flatten)]
    message: MessageView,
    /// What the upstream told after it had taken it.
    events: Vec<EventLog>,
    /// Everything that happened, in order.
    timeline: Vec<Moment>,
    /// What its sender asked to be told (RFC 3461); left out where that was nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Asked>,
}

impl From<MessageLog> for MessageView {
    fn from(log: MessageLog) -> Self {
        let last_error = log.last_error().map(str::to_owned);
        let credited = log.refunds.iter().filter(|refund| refund.state == "credited");
        let refunded = credited.map(|refund| refund.credits).sum();
        Self { attempts: log.attempts(), last_error, debit: log.captured, refunded, log }
    }
}

/// What is listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    customer_id: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
    recipient: Option<String>,
    subject: Option<String>,
    state: Option<String>,
    id: Option<String>,
}

/// What is looked for, as it was typed; what is empty is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Sought {
    /// An address, or a part of one.
    pub(super) recipient: String,
    /// A part of the subject.
    pub(super) subject: String,
    /// A name of [`MessageState`].
    pub(super) state: String,
    /// An id, or its beginning.
    pub(super) id: String,
}

impl Sought {
    /// What that means.
    pub(super) fn read(&self) -> Result<Search, HttpError> {
        let id = given(&self.id).map(MessageId::parse).transpose();
        let state = given(&self.state);
        let known = state.map(|name| MessageState::parse(name).ok_or(())).transpose();
        let states = MessageState::ALL.map(MessageState::as_str).join(", ");
        Ok(Search {
            recipient: text("recipient", &self.recipient)?,
            subject: text("subject", &self.subject)?,
            state: known.map_err(|()| HttpError::Invalid(format!("state: one of {states}.")))?,
            id: id.map_err(|error| HttpError::Invalid(format!("id: {error}.")))?,
        })
    }
}

fn given(field: &str) -> Option<&str> {
    Some(field.trim()).filter(|field| !field.is_empty())
}

fn text(name: &str, field: &str) -> Result<Option<String>, HttpError> {
    let Some(text) = given(field) else { return Ok(None) };
    if text.chars().count() > MAX_SOUGHT_CHARS || text.chars().any(char::is_control) {
        let limit = MAX_SOUGHT_CHARS;
        return Err(HttpError::Invalid(format!("{name}: at most {limit} characters in one line.")));
    }
    Ok(Some(text.to_owned()))
}

/// `GET /messages?limit=&before=`, and `customer_id=` for the operator: newest
/// first; the next page begins `before` the last id of this one. With `recipient=`,
/// `subject=`, `state=` and `id=` those alone of which all of it is so; the header `Link` says
/// where to go on, if there are more to look at.
pub(super) async fn list(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(listing): QueryString<Listing>,
) -> Result<(HeaderMap, Json<Vec<MessageView>>), HttpError> {
    let limit = listing.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(HttpError::Invalid(format!("limit: a number from 1 to {MAX_LIMIT}.")));
    }
    let before = listing.before.as_deref().map(MessageId::parse).transpose();
    let before = before.map_err(|error| HttpError::Invalid(format!("before: {error}.")))?;
    let whose = caller.whose(listing.customer_id.as_deref())?;
    let sought = Sought {
        recipient: listing.recipient.unwrap_or_default(),
        subject: listing.subject.unwrap_or_default(),
        state: listing.state.unwrap_or_default(),
        id: listing.id.unwrap_or_default(),
    };
    let page = Page { before: before.as_ref(), limit };
    let found = site.store.search(whose.as_ref(), &sought.read()?, page).await?;
    let mut fields = query_of(&sought);
    fields.extend(listing.customer_id.map(|customer_id| ("customer_id", customer_id)));
    fields.push(("limit", limit.to_string()));
    let link = found.next.map(|next| {
        fields.push(("before", next.to_string()));
        format!("<{}/messages?{}>; rel=\"next\"", site.settings.base_url, query(&fields))
    });
    let link = link.and_then(|link| HeaderValue::try_from(link).ok());
    let headers = link.map(|link| HeaderMap::from_iter([(header::LINK, link)])).unwrap_or_default();
    Ok((headers, Json(found.messages.into_iter().map(MessageView::from).collect())))
}

/// The fields of a query that looks for the same; what is empty is left out.
pub(super) fn query_of(sought: &Sought) -> Vec<(&'static str, String)> {
    let Sought { recipient, subject, state, id } = sought;
    let fields = [("recipient", recipient), ("subject", subject), ("state", state), ("id", id)];
    fields.into_iter().filter_map(|(name, text)| given(text).map(|text| (name, text.to_owned()))).collect()
}

/// `GET /messages/{id}`
pub(super) async fn show(
    State(site): State<Shared>,
    caller: Caller,
    Path(message_id): Path<String>,
) -> Result<Json<StoryView>, HttpError> {
    let message_id = MessageId::parse(&message_id).map_err(|_| HttpError::NotFound("message"))?;
    let story = site.store.story(&message_id).await?.ok_or(HttpError::NotFound("message"))?;
    let Story { log, events, timeline, asked } = story;
    caller.may_see(&log.customer_id)?;
    Ok(Json(StoryView { message: log.into(), events, timeline, asked }))
}
