//! The way to Dodo's customer portal: invoices, cards, the subscription. A link lets whoever
//! has it in, so it is asked for when the customer presses the button, shown to nobody else and
//! not written down. Only whoever signed in by a mailed link is led there: it shows an address and
//! invoices, and the checkout of a new customer may have landed on a person whom Dodo knew before.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::auth::Visitor;
use super::body::FormBody;
use super::checkout::asked;
use super::error::{HttpError, PageError};
use super::{Shared, Site, pages};
use crate::billing::dodo::DodoError;
use crate::telemetry::DodoCall;

/// `POST /account/portal`
pub(super) async fn open(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(()): FormBody<()>,
) -> Result<Response, PageError> {
    visitor.is_reader_of_mail()?;
    let customer_id = &visitor.who.customer_id;
    let back = format!("{}/account", site.settings.base_url);
    let opened = asked(&site, DodoCall::Other, site.dodo.portal(customer_id, &back)).await;
    let link = opened.map_err(|error| match error {
        DodoError::Unavailable { .. } | DodoError::RateLimited { .. } => HttpError::PaymentsUnavailable,
        _ => HttpError::NotFound("customer portal"),
    })?;
    if !may_lead_to(&site, &link.0) {
        tracing::warn!(%customer_id, "Dodo named a portal that is not on https: nobody is sent there");
        return Err(HttpError::NotFound("customer portal").into());
    }
    tracing::info!(%customer_id, "the way to the customer portal was shown");
    Ok(pages::response(StatusCode::OK, &pages::to_portal(&link.0)))
}

/// A customer is led to https, or to a place that the operator named: ours, or where Dodo is asked.
fn may_lead_to(site: &Site, link: &str) -> bool {
    let is_ours = link.strip_prefix(&site.settings.base_url).is_some_and(|rest| rest.starts_with('/'));
    link.starts_with("https://") || is_ours || site.dodo.is_own(link)
}
