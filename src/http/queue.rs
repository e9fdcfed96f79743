//! The operator's side of the queue: what waits, and what is decided about it.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::ToSchema;

use super::auth::Operator;
use super::body::{OptionalJson, QueryString};
use super::error::HttpError;
use super::{Shared, Site};
use crate::domain::decision::Choice;
use crate::domain::ids::{CustomerId, MessageId};
use crate::store::operator::{Order, QueueFilter, QueueMessage, Via, Waiting};

/// Messages in a list unless another number is asked for.
pub(super) const DEFAULT_LIMIT: u32 = 50;
/// The most messages in a list.
pub(super) const MAX_LIMIT: u32 = 1000;

/// What is listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    state: Option<Waiting>,
    customer_id: Option<String>,
    limit: Option<u32>,
}

/// What comes with a decision.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Confirmation {
    /// The risk of deciding a part that may have been taken is known and taken.
    confirm: bool,
}

/// `GET /queue?state=&customer_id=&limit=`: oldest first.
pub(super) async fn list(
    State(site): State<Shared>,
    _operator: Operator,
    QueryString(listing): QueryString<Listing>,
) -> Result<Json<Vec<QueueMessage>>, HttpError> {
    let limit = listing.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(HttpError::Invalid(format!("limit: a number from 1 to {MAX_LIMIT}.")));
    }
    let customer_id = listing.customer_id.as_deref().map(CustomerId::parse).transpose();
    let customer_id = customer_id.map_err(|error| HttpError::Invalid(format!("customer_id: {error}.")))?;
    let filter = QueueFilter { state: listing.state, customer_id, limit };
    Ok(Json(site.store.queue(&filter).await?))
}

/// `GET /queue/{message_id}`
pub(super) async fn show(
    State(site): State<Shared>,
    _operator: Operator,
    Path(message_id): Path<String>,
) -> Result<Json<QueueMessage>, HttpError> {
    let message = site.store.queue_message(&parse(&message_id)?).await?;
    message.map(Json).ok_or(HttpError::NotFound("message"))
}

/// `POST /queue/{message_id}/retry` `{confirm?}`
pub(super) async fn retry(
    State(site): State<Shared>,
    _operator: Operator,
    Path(message_id): Path<String>,
    OptionalJson(confirmation): OptionalJson<Confirmation>,
) -> Result<Json<QueueMessage>, HttpError> {
    decide(&site, &message_id, Choice::Retry, &confirmation).await
}

/// `POST /queue/{message_id}/cancel` `{confirm?}`
pub(super) async fn cancel(
    State(site): State<Shared>,
    _operator: Operator,
    Path(message_id): Path<String>,
    OptionalJson(confirmation): OptionalJson<Confirmation>,
) -> Result<Json<QueueMessage>, HttpError> {
    decide(&site, &message_id, Choice::Cancel, &confirmation).await
}

async fn decide(
    site: &Site,
    message_id: &str,
    choice: Choice,
    confirmation: &Confirmation,
) -> Result<Json<QueueMessage>, HttpError> {
    let (is_confirmed, via) = (confirmation.confirm, Via::Http);
    let (now, lifetime) = (site.clock.now(), site.settings.lifetime);
    let order = Order { choice, is_confirmed, via, now, lifetime };
    Ok(Json(site.store.decide(&parse(message_id)?, &order).await?))
}

fn parse(message_id: &str) -> Result<MessageId, HttpError> {
    MessageId::parse(message_id).map_err(|_| HttpError::NotFound("message"))
}
