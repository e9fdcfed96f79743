//! Resend's webhooks: what became of mail after Resend had taken it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use serde_json::Value;

use super::{Outcome, Source};
use crate::billing::events::MalformedEvent;
use crate::delivery::told::Hearing;
use crate::http::body;
use crate::http::error::HttpError;
use crate::http::signature::HeaderNames;
use crate::http::{Shared, Site};
use crate::telemetry::{WebhookResult, WebhookSource};
use crate::upstream::resend::domains::domain_of_event;
use crate::upstream::resend::events::{self, ResendEvent};

/// Octets of an event; Resend's are a few kilobytes, and carry a subject.
const MAX_BYTES: usize = 1 << 20;

/// `POST /webhooks/resend`
pub(in crate::http) async fn resend(
    State(site): State<Shared>,
    parts: Parts,
    raw: Body,
) -> Result<Json<Value>, HttpError> {
    let bytes = body::read_signed(raw, MAX_BYTES, &site.webhook_room).await?;
    let source = Source {
        name: "resend",
        label: WebhookSource::Resend,
        headers: HeaderNames::Svix,
        keys: &site.settings.resend_webhook_keys,
    };
    let handled = source.handle(&site, (&parts, &bytes), async || act(&site, &bytes).await).await;
    source.answer(&site, handled)
}

async fn act(site: &Site, bytes: &[u8]) -> Result<Outcome, HttpError> {
    if let Some(domain) = domain_of_event(bytes) {
        let is_ours = site.proofs.hint(&domain).await?;
        let result = if is_ours { WebhookResult::Accepted } else { WebhookResult::Ignored };
        return Ok(Outcome { result, event_type: "domain".to_owned(), customer_id: None });
    }
    let event = ResendEvent::parse(bytes).map_err(|error| {
        HttpError::MalformedWebhook(match error {
            events::MalformedEvent::NotJson => MalformedEvent::NotJson,
            events::MalformedEvent::NoType => MalformedEvent::Missing("type"),
        })
    })?;
    let (result, customer_id) = match site.ears.hear(&event).await? {
        Hearing::Of(customer_id) => (WebhookResult::Accepted, Some(customer_id)),
        Hearing::OfNobody => (WebhookResult::Ignored, None),
        Hearing::Early => {
            return Err(HttpError::Conflict("The answer to this mail is under way: tell it again."));
        }
    };
    Ok(Outcome { result, event_type: event.event_type, customer_id })
}
