//! What a customer has left.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::Caller;
use super::error::{HttpError, in_debt};
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;

/// The answer of `GET /credits/{customer_id}`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreditsAnswer {
    /// What Dodo last said; null until it was asked.
    balance: Option<i64>,
    /// `balance − held − owed`: below 0 in debt.
    available: Option<i64>,
    /// Set aside for accepted messages.
    held: Credits,
    /// Sent, and not yet debited at Dodo.
    owed: Credits,
    /// When Dodo last said the balance.
    as_of: Option<Timestamp>,
    /// What is owed beyond the balance; left out where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    shortfall: Option<Credits>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `GET /credits/{customer_id}`
pub(super) async fn show(
    State(site): State<Shared>,
    caller: Caller,
    Path(customer_id): Path<String>,
) -> Result<Json<CreditsAnswer>, HttpError> {
    let Ok(customer_id) = CustomerId::parse(&customer_id) else {
        return Err(match caller {
            Caller::Operator => HttpError::NotFound("customer"),
            Caller::Customer(_) => HttpError::NotYours,
        });
    };
    caller.may_see(&customer_id)?;
    let account = site.store.account(&customer_id).await?.ok_or(HttpError::NotFound("customer"))?;
    site.billing.refresh_if_stale(&customer_id, &account);
    let shortfall = Some(account.shortfall()).filter(|shortfall| *shortfall > Credits::ZERO);
    Ok(Json(CreditsAnswer {
        balance: account.balance,
        available: account.available(),
        held: account.held,
        owed: account.owed,
        as_of: account.balance_read_at,
        shortfall,
        problem: shortfall.map(in_debt),
    }))
}
