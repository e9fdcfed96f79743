//! A customer's suppression list: whom mail is not taken for, seen and changed by
//! the customer alone, and by the operator, who names the customer.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Caller, Whose};
use super::body::{JsonBody, QueryString};
use super::error::HttpError;
use crate::domain::address::Mailbox;
use crate::domain::ids::CustomerId;
use crate::domain::suppression::SuppressedAddress;
use crate::store::suppression::Suppression;

/// Addresses on a page unless another number is asked for.
pub(super) const DEFAULT_LIMIT: u32 = 100;
/// The most addresses on a page.
pub(super) const MAX_LIMIT: u32 = 1000;
/// The most characters of a reason.
const MAX_REASON_CHARS: usize = 160;

/// What is listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    customer_id: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

/// An address that is put on the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSuppression {
    /// The address.
    address: String,
    /// Why, in one line of at most 160 characters.
    reason: Option<String>,
    /// Whose list; the operator must say so.
    customer_id: Option<String>,
}

/// `GET /suppressions?limit=&after=`, and `customer_id=` for the operator: by address;
/// the next page is what comes `after` the last address of this one.
pub(super) async fn list(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(listing): QueryString<Listing>,
) -> Result<Json<Vec<Suppression>>, HttpError> {
    let limit = listing.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(HttpError::Invalid(format!("limit: a number from 1 to {MAX_LIMIT}.")));
    }
    let customer_id = whose(&caller, listing.customer_id.as_deref())?;
    Ok(Json(site.store.suppressions(&customer_id, listing.after.as_deref(), limit).await?))
}

/// `POST /suppressions` `{address, reason?, customer_id?}`: 201, or 200 with what is
/// there already.
pub(super) async fn add(
    State(site): State<Shared>,
    caller: Caller,
    JsonBody(new): JsonBody<NewSuppression>,
) -> Result<(StatusCode, Json<Suppression>), HttpError> {
    let customer_id = whose(&caller, new.customer_id.as_deref())?;
    let recipient = mailbox(&new.address)?;
    let reason = reason(new.reason.as_deref().unwrap_or_default())?;
    let is_new = site.store.suppress(&customer_id, &recipient, reason, site.clock.now()).await?;
    let address = SuppressedAddress::of(&recipient);
    let found = site.store.suppression(&customer_id, &address).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(found.ok_or(HttpError::NotFound("suppressed address"))?)))
}

/// `DELETE /suppressions/{address}`, and `customer_id=` for the operator: what was taken off.
pub(super) async fn remove(
    State(site): State<Shared>,
    caller: Caller,
    Path(address): Path<String>,
    QueryString(asked): QueryString<Whose>,
) -> Result<Json<Suppression>, HttpError> {
    let customer_id = whose(&caller, asked.customer_id.as_deref())?;
    Ok(Json(site.store.unsuppress(&customer_id, &mailbox(&address)?).await?))
}

fn whose(caller: &Caller, named: Option<&str>) -> Result<CustomerId, HttpError> {
    caller.whose(named)?.ok_or_else(|| HttpError::Invalid("customer_id: say whose list.".to_owned()))
}

/// Why somebody puts an address on the list; nothing, if they do not say.
pub(super) fn reason(text: &str) -> Result<Option<&str>, HttpError> {
    let reason = Some(text.trim()).filter(|reason| !reason.is_empty());
    if reason
        .is_some_and(|text| text.chars().count() > MAX_REASON_CHARS || text.chars().any(char::is_control))
    {
        return Err(HttpError::Invalid(format!(
            "reason: at most {MAX_REASON_CHARS} characters in one line."
        )));
    }
    Ok(reason)
}

pub(super) fn mailbox(address: &str) -> Result<Mailbox, HttpError> {
    Mailbox::parse(address.trim()).map_err(|error| HttpError::Invalid(format!("address: {error}.")))
}
