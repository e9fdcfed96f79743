//! The message log.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::Caller;
use super::body::QueryString;
use super::error::HttpError;
use crate::domain::ids::MessageId;
use crate::store::dsn::Asked;
use crate::store::event::EventLog;
use crate::store::log::MessageLog;
use crate::store::timeline::{Moment, Story};

/// Messages on a page unless another number is asked for.
pub(super) const DEFAULT_LIMIT: u32 = 50;
/// The most messages on a page.
pub(super) const MAX_LIMIT: u32 = 100;

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
}

/// `GET /messages?limit=&before=`, and `customer_id=` for the operator: newest
/// first; the next page begins `before` the last id of this one.
pub(super) async fn list(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(listing): QueryString<Listing>,
) -> Result<Json<Vec<MessageView>>, HttpError> {
    let limit = listing.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(HttpError::Invalid(format!("limit: a number from 1 to {MAX_LIMIT}.")));
    }
    let before = listing.before.as_deref().map(MessageId::parse).transpose();
    let before = before.map_err(|error| HttpError::Invalid(format!("before: {error}.")))?;
    let whose = caller.whose(listing.customer_id.as_deref())?;
    let messages = site.store.messages(whose.as_ref(), before.as_ref(), limit).await?;
    Ok(Json(messages.into_iter().map(MessageView::from).collect()))
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
