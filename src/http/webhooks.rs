//! Webhooks: news, believed because they are signed, acted on once. Dodo's are
//! acted on here, Resend's in [`resend`].
//!
//! The raw body is verified before anything parses it. Handling comes before the
//! id is remembered, and is safe to repeat: a crash between the two costs one
//! more delivery, never an event. What an event says about amounts is not used.

mod alarm;
pub(super) mod resend;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use serde_json::{Value, json};

use super::error::HttpError;
use super::listener::Unknown;
use super::provision::{self, Recorded};
use super::signature::{HeaderNames, SignatureError, SignedHeaders, SigningKey};
use super::{Shared, Site, body};
use crate::billing::events::{DodoEvent, DodoEventKind};
use crate::crash::CrashPoint;
use crate::domain::alert::AlertKind;
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::store::StoreError;
use crate::store::webhook::Webhook;
use crate::telemetry::{WebhookResult, WebhookSource};

/// Octets of an event; Dodo's are a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// Longest id of a delivery, in octets.
const MAX_ID_OCTETS: usize = 256;
/// The event of a debit, our own entries included.
const DEDUCTED: &str = "credit.deducted";

/// Who signs, and how.
struct Source<'a> {
    name: &'static str,
    label: WebhookSource,
    headers: HeaderNames,
    keys: &'a [SigningKey],
}

/// What an event came to.
struct Outcome {
    result: WebhookResult,
    event_type: String,
    /// Whom of ours it was about.
    customer_id: Option<CustomerId>,
}

impl Source<'_> {
    /// Believes a delivery if it is signed, and has it acted on unless its id was.
    async fn handle(
        &self,
        site: &Site,
        (parts, bytes): (&Parts, &[u8]),
        act: impl AsyncFnOnce() -> Result<Outcome, HttpError>,
    ) -> Result<WebhookResult, HttpError> {
        let signed = SignedHeaders::read(&parts.headers, self.headers).map_err(HttpError::BadSignature)?;
        let now = site.clock.now();
        signed.verify(bytes, self.keys, now).map_err(HttpError::BadSignature)?;
        Unknown::is_known(&parts.extensions, None, &site.seats);
        if signed.id.len() > MAX_ID_OCTETS {
            let [id, ..] = self.headers.all();
            return Err(HttpError::BadSignature(SignatureError::MissingHeader(id)));
        }
        if site.store.is_webhook_handled(self.name, signed.id).await? {
            return Ok(WebhookResult::Duplicate);
        }
        let Outcome { result, event_type, customer_id } = act().await?;
        tracing::info!(
            webhook_id = ?signed.id,
            event = ?event_type,
            customer_id = customer_id.as_ref().map(CustomerId::as_str),
            result = result.as_str(),
            "webhook"
        );
        let webhook_id = signed.id.to_owned();
        let webhook = Webhook { source: self.name, webhook_id, event_type, customer_id };
        site.store.pass(CrashPoint::WebhookActed);
        site.store.webhook_handled(&webhook, now).await?;
        site.store.pass(CrashPoint::WebhookRecorded);
        Ok(result)
    }

    /// Counts what became of it, and says it.
    fn answer(
        &self,
        site: &Site,
        handled: Result<WebhookResult, HttpError>,
    ) -> Result<Json<Value>, HttpError> {
        let result = match &handled {
            Ok(result) => *result,
            Err(HttpError::BadSignature(_)) => WebhookResult::BadSignature,
            Err(HttpError::MalformedWebhook(_)) => WebhookResult::Malformed,
            Err(_) => WebhookResult::Failed,
        };
        site.metrics.webhook(self.label, result);
        // Who could not be asked has said so already, and the service tells it again.
        let is_told = matches!(handled, Err(HttpError::Refused(Refusal::StoreUnavailable)));
        if let Err(error) = handled.as_ref()
            && !is_told
        {
            tracing::warn!(source = self.name, result = result.as_str(), error = %error.text(), "a webhook was not handled");
        }
        handled.map(|result| Json(json!({ "result": result.as_str() })))
    }
}

/// `POST /webhooks/dodo`
pub(super) async fn dodo(
    State(site): State<Shared>,
    parts: Parts,
    raw: Body,
) -> Result<Json<Value>, HttpError> {
    let bytes = body::read_signed(raw, MAX_BYTES, &site.webhook_room).await?;
    let source = Source {
        name: "dodo",
        label: WebhookSource::Dodo,
        headers: HeaderNames::Webhook,
        keys: &site.settings.webhook_keys,
    };
    let handled = source.handle(&site, (&parts, &bytes), async || {
        let event = DodoEvent::parse(&bytes).map_err(HttpError::MalformedWebhook)?;
        let webhook_id = parts.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
        let (result, customer_id) = act(&site, &event, webhook_id).await?;
        Ok(Outcome { result, event_type: event.event_type, customer_id })
    });
    source.answer(&site, handled.await)
}

/// Does what the event asks for. Returns whom of ours it was about.
async fn act(
    site: &Shared,
    event: &DodoEvent,
    webhook_id: &str,
) -> Result<(WebhookResult, Option<CustomerId>), HttpError> {
    if let DodoEventKind::PaymentSucceeded(payment) = &event.kind
        && payment.is_paid()
    {
        return Ok(match provision::record_told(site, payment).await? {
            Recorded::Ours => (WebhookResult::Accepted, Some(payment.customer_id.clone())),
            Recorded::NotOurs => (WebhookResult::Ignored, None),
        });
    }
    let named = (event.customer_id.as_ref(), webhook_id);
    match &event.kind {
        DodoEventKind::Refunded(what) => return alarm::raise(site, AlertKind::Refund, what, named).await,
        DodoEventKind::Disputed(what) => return alarm::raise(site, AlertKind::Dispute, what, named).await,
        _ => {}
    }
    let Some(customer_id) = known(site, event.customer_id.as_ref()).await? else {
        return Ok((WebhookResult::Ignored, None));
    };
    if event.event_type == DEDUCTED {
        site.billing.balance_lowered(&customer_id).await;
        return Ok((WebhookResult::Accepted, Some(customer_id)));
    }
    let result = match event.kind {
        DodoEventKind::Other | DodoEventKind::Refunded(_) | DodoEventKind::Disputed(_) => {
            WebhookResult::Ignored
        }
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
