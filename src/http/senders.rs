//! Whom a customer may send as, and the domains that customers add by themselves.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::{Caller, Whose};
use super::body::{JsonBody, QueryString};
use super::error::HttpError;
use super::{Shared, Site};
use crate::domain::ids::CustomerId;
use crate::domain::proof::{Origin, ProofState, Way};
use crate::domain::refusal::Refusal;
use crate::proof::{NotDone, dns};
use crate::store::proof::Proof;

/// A domain that is to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDomain {
    /// Such as `example.com`.
    domain: String,
}

/// A line of a customer's list, or a domain that may become one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SenderView {
    /// `user@example.com`, `example.com` or `*.example.com`.
    pattern: String,
    /// Where it came from.
    origin: Origin,
    /// `allowed`, or where the proof stands; only `allowed` and `verified` may send.
    state: &'static str,
}

/// A domain as its customer sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DomainView {
    /// Whose.
    customer_id: CustomerId,
    /// The domain.
    pub(super) domain: String,
    /// Who is asked for the proof.
    way: Way,
    /// Where it stands.
    pub(super) state: ProofState,
    /// What to publish: ours (`type`, `name`, `value`), or Resend's as Resend wrote them.
    #[schema(value_type = Vec<Object>)]
    pub(super) records: Value,
    /// Resend's word for where the domain stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    /// What the last look found wrong.
    pub(super) problem: Option<String>,
    /// When it was added.
    created_at: Timestamp,
    /// When it was last looked at.
    pub(super) checked_at: Option<Timestamp>,
    /// Since when it is proven.
    pub(super) verified_at: Option<Timestamp>,
    /// Since when the proof of a verified domain is not there any more.
    pub(super) missing_since: Option<Timestamp>,
    /// When it is forgotten unless it is verified.
    pub(super) expires_at: Option<Timestamp>,
}

impl From<Proof> for DomainView {
    fn from(proof: Proof) -> Self {
        let records = match &proof.token {
            Some(token) => json!([{
                "type": "TXT",
                "name": dns::record_name(&proof.domain),
                "value": dns::record_value(token),
            }]),
            None => proof
                .told
                .records
                .as_deref()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or(json!([])),
        };
        Self {
            customer_id: proof.customer_id,
            domain: proof.domain.to_string(),
            way: proof.way,
            state: proof.claim.state,
            records,
            status: proof.told.status,
            problem: proof.told.detail,
            created_at: proof.created_at,
            checked_at: proof.checked_at,
            verified_at: proof.verified_at,
            missing_since: proof.claim.missing_since,
            expires_at: proof.claim.expires_at,
        }
    }
}

/// `GET /senders`, and `?customer_id=` for the operator, as on all routes here.
pub(super) async fn list(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(whose): QueryString<Whose>,
) -> Result<Json<Vec<SenderView>>, HttpError> {
    let customer_id = whose.resolve(&site, &caller).await?;
    let proofs = site.store.proofs(&customer_id).await?;
    let lines = site.store.sender_lines(&customer_id).await?;
    let mut views: Vec<SenderView> = Vec::new();
    for line in lines {
        let state = if line.origin == Origin::Proof { "verified" } else { "allowed" };
        views.push(SenderView { pattern: line.pattern.to_string(), origin: line.origin, state });
    }
    for proof in proofs {
        let state = proof.claim.state;
        if state != ProofState::Verified {
            let pattern = proof.domain.to_string();
            views.push(SenderView { pattern, origin: Origin::Proof, state: state.as_str() });
        }
    }
    Ok(Json(views))
}

/// `GET /senders/domains`
pub(super) async fn domains(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(whose): QueryString<Whose>,
) -> Result<Json<Vec<DomainView>>, HttpError> {
    let customer_id = whose.resolve(&site, &caller).await?;
    Ok(Json(site.store.proofs(&customer_id).await?.into_iter().map(DomainView::from).collect()))
}

/// `POST /senders/domains` `{domain}`: 201 where it is new, 200 where it was there.
pub(super) async fn add(
    State(site): State<Shared>,
    caller: Caller,
    QueryString(whose): QueryString<Whose>,
    JsonBody(new): JsonBody<NewDomain>,
) -> Result<(StatusCode, Json<DomainView>), HttpError> {
    let customer_id = whose.who_may_change(&site, &caller).await?;
    let (proof, is_new) = site.proofs.add(&customer_id, &new.domain).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(proof.into())))
}

/// `GET /senders/domains/{domain}`
pub(super) async fn show(
    State(site): State<Shared>,
    caller: Caller,
    Path(domain): Path<String>,
    QueryString(whose): QueryString<Whose>,
) -> Result<Json<DomainView>, HttpError> {
    let customer_id = whose.resolve(&site, &caller).await?;
    Ok(Json(site.proofs.find(&customer_id, &domain).await?.into()))
}

/// `POST /senders/domains/{domain}/verify`
pub(super) async fn verify(
    State(site): State<Shared>,
    caller: Caller,
    Path(domain): Path<String>,
    QueryString(whose): QueryString<Whose>,
) -> Result<Json<DomainView>, HttpError> {
    let customer_id = whose.who_may_change(&site, &caller).await?;
    Ok(Json(site.proofs.verify(&customer_id, &domain).await?.into()))
}

/// `DELETE /senders/domains/{domain}`
pub(super) async fn remove(
    State(site): State<Shared>,
    caller: Caller,
    Path(domain): Path<String>,
    QueryString(whose): QueryString<Whose>,
) -> Result<StatusCode, HttpError> {
    let customer_id = whose.resolve(&site, &caller).await?;
    take_turn(&site, &customer_id)?;
    site.proofs.remove(&customer_id, &domain).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Whose {
    /// The customer that is asked about, if the caller may.
    async fn resolve(&self, site: &Site, caller: &Caller) -> Result<CustomerId, HttpError> {
        let named = self.customer_id.as_deref();
        let unnamed = || HttpError::Invalid("customer_id: name the customer in the query.".to_owned());
        let customer_id = caller.whose(named)?.ok_or_else(unnamed)?;
        if named.is_some() && site.store.customer(&customer_id).await?.is_none() {
            return Err(HttpError::NotFound("customer"));
        }
        Ok(customer_id)
    }

    /// The same, for what makes calls outside: not too often, and not while suspended.
    async fn who_may_change(&self, site: &Site, caller: &Caller) -> Result<CustomerId, HttpError> {
        let customer_id = self.resolve(site, caller).await?;
        let customer = site.store.customer(&customer_id).await?.ok_or(HttpError::NotFound("customer"))?;
        if let Some(reason) = customer.suspended_reason {
            return Err(Refusal::Suspended { reason }.into());
        }
        take_turn(site, &customer_id)?;
        Ok(customer_id)
    }
}

/// Not too often.
pub(super) fn take_turn(site: &Site, customer_id: &CustomerId) -> Result<(), HttpError> {
    let taken = site.domain_throttle.take(customer_id.clone(), site.clock.now());
    taken.map_err(|too_soon| HttpError::TooFast { retry_after_s: too_soon.retry_after_s })
}

impl From<NotDone> for HttpError {
    fn from(why: NotDone) -> Self {
        match why {
            NotDone::TooSoon { retry_after_s } => Self::TooFast { retry_after_s },
            NotDone::NotThere => Self::NotFound("domain"),
            NotDone::Store => Self::Refused(Refusal::StoreUnavailable),
            why => Self::Domain(why),
        }
    }
}
