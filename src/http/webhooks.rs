//! Dodo's webhooks: news, believed because they are signed, acted on once.
//!
//! The raw body is verified before anything parses it. Handling comes before the
//! id is remembered, and is safe to repeat: a crash between the two costs one
//! more delivery, never an event. What an event says about amounts is not used.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::error::HttpError;
use super::provision::{self, Recorded};
use super::signature::{HeaderNames, SignatureError, SignedHeaders};
use super::{Shared, Site, body};
use crate::billing::events::{DodoEvent, DodoEventKind};
use crate::crash::CrashPoint;
use crate::domain::ids::CustomerId;
use crate::store::StoreError;
use crate::store::webhook::Webhook;
use crate::telemetry::{WebhookResult, WebhookSource};

/// Octets of an event; Dodo's are a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// Longest id of a delivery, in octets.
const MAX_ID_OCTETS: usize = 256;
const WITHIN: Duration = Duration::from_secs(30);
const SOURCE: &str = "dodo";
/// The event of a debit, our own entries included.
const DEDUCTED: &str = "credit.deducted";

/// `POST /webhooks/dodo`
pub(super) async fn dodo(
    State(site): State<Shared>,
    headers: HeaderMap,
    raw: Body,
) -> Result<Json<Value>, HttpError> {
    let bytes = body::read(raw, MAX_BYTES, WITHIN).await?;
    let handled = handle(&site, &headers, &bytes).await;
    let result = match &handled {
        Ok(result) => *result,
        Err(HttpError::BadSignature(_)) => WebhookResult::BadSignature,
        Err(HttpError::MalformedWebhook(_)) => WebhookResult::Malformed,
        Err(_) => WebhookResult::Failed,
    };
    site.metrics.webhook(WebhookSource::Dodo, result);
    if let Err(error) = &handled {
        tracing::warn!(result = result.as_str(), error = %error.text(), "a webhook was not handled");
    }
    handled.map(|result| Json(json!({ "result": result.as_str() })))
}

async fn handle(site: &Site, headers: &HeaderMap, bytes: &[u8]) -> Result<WebhookResult, HttpError> {
    let signed = SignedHeaders::read(headers, HeaderNames::Webhook).map_err(HttpError::BadSignature)?;
    let now = site.clock.now();
    signed.verify(bytes, &site.settings.webhook_keys, now).map_err(HttpError::BadSignature)?;
    if signed.id.len() > MAX_ID_OCTETS {
        return Err(HttpError::BadSignature(SignatureError::MissingHeader("webhook-id")));
    }
    if site.store.is_webhook_handled(SOURCE, signed.id).await? {
        return Ok(WebhookResult::Duplicate);
    }
    let event = DodoEvent::parse(bytes).map_err(HttpError::MalformedWebhook)?;
    let (result, customer_id) = act(site, &event).await?;
    tracing::info!(
        webhook_id = ?signed.id,
        event = ?event.event_type,
        customer_id = customer_id.as_ref().map(CustomerId::as_str),
        result = result.as_str(),
        "webhook"
    );
    let webhook = Webhook {
        source: SOURCE,
        webhook_id: signed.id.to_owned(),
        event_type: event.event_type,
        customer_id,
    };
    site.store.pass(CrashPoint::WebhookActed);
    site.store.webhook_handled(&webhook, now).await?;
    site.store.pass(CrashPoint::WebhookRecorded);
    Ok(result)
}

/// Does what the event asks for. Returns whom of ours it was about.
async fn act(site: &Site, event: &DodoEvent) -> Result<(WebhookResult, Option<CustomerId>), StoreError> {
    if let DodoEventKind::PaymentSucceeded(payment) = &event.kind
        && payment.is_paid()
    {
        return Ok(match provision::record_told(site, payment).await? {
            Recorded::Ours => (WebhookResult::Accepted, Some(payment.customer_id.clone())),
            Recorded::NotOurs => (WebhookResult::Ignored, None),
        });
    }
    let Some(customer_id) = known(site, event.customer_id.as_ref()).await? else {
        return Ok((WebhookResult::Ignored, None));
    };
    if event.event_type == DEDUCTED {
        site.billing.balance_lowered(&customer_id).await;
        return Ok((WebhookResult::Accepted, Some(customer_id)));
    }
    let result = match event.kind {
        DodoEventKind::Other => WebhookResult::Ignored,
        DodoEventKind::PaymentSucceeded(_)
        | DodoEventKind::Payment
        | DodoEventKind::Credit
        | DodoEventKind::BalanceLow
        | DodoEventKind::Subscription => {
            site.billing.balance_changed(&customer_id);
            WebhookResult::Accepted
        }
    };
    Ok((result, Some(customer_id)))
}

async fn known(site: &Site, named: Option<&CustomerId>) -> Result<Option<CustomerId>, StoreError> {
    let Some(customer_id) = named else { return Ok(None) };
    Ok(site.store.customer(customer_id).await?.map(|customer| customer.customer_id))
}
