//! `POST /send`: a message out of JSON, and from there on the road of SMTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use serde_json::{Map, Value, json};

use super::auth::Customer;
use super::body::{self, Bounds, JSON, is_type, parse_json};
use super::error::HttpError;
use super::listener::Peer;
use super::{Settings, Shared, Site};
use crate::domain::address::Mailbox;
use crate::domain::arrival::Arrival;
use crate::domain::idempotency::{IdempotencyKey, Keyed};
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;
use crate::domain::sender::SenderPattern;
use crate::mime::address_list::NamedMailbox;
use crate::mime::compose::Composition;
use crate::submission::{SignedIn, Submitted};

/// How long a message may take to arrive.
const WITHIN: Duration = Duration::from_secs(300);
/// So many octets are read before it is asked whether the customer may send at all; that
/// costs as much as they do.
const FIRST_READ_OCTETS: u64 = 64 << 10;
/// Values of a request: recipients, header fields, files and what is said of each.
const MAX_VALUES: usize = 20_000;

/// `POST /send`. Of who is suspended or has no credit nothing large is taken. Under a key
/// it is, since the answer to a retry does not depend on either.
pub(super) async fn send(
    State(site): State<Shared>,
    Customer(who): Customer,
    Peer(peer): Peer,
    headers: HeaderMap,
    raw: Body,
) -> Result<Json<Value>, HttpError> {
    if !is_type(&headers, JSON) {
        return Err(HttpError::WrongMediaType { wanted: JSON });
    }
    let key = idempotency_key(&headers)?;
    let Settings { max_request_bytes: limit_bytes, floor, .. } = site.settings;
    let bounds = Bounds { limit_bytes, within: WITHIN, floor: Some(floor) };
    if key.is_none() && raw.size_hint().upper().is_none_or(|octets| octets > FIRST_READ_OCTETS) {
        let checked = site.submission.check_customer(&who).await;
        if let Err(refusal) = checked {
            if !is_asked_for(&headers) {
                body::discard(raw, bounds).await;
            }
            return Err(refusal.into());
        }
    }
    let mut claim = site.arriving.claim(&who.customer_id);
    let bytes = body::read_message(raw, bounds, &mut claim).await?;
    if body::values(&bytes) > MAX_VALUES {
        return Err(HttpError::Invalid(format!("The body has more than {MAX_VALUES} values.")));
    }
    let id = submit(&site, &who, peer, parse_json(&bytes)?, key).await?;
    drop(claim);
    Ok(Json(json!({ "id": id })))
}

/// Whether the client waits to be asked for the body (RFC 9110 §10.1.1), which happens
/// when it is first read.
fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whoever sends a key trusts that a second try sends nothing twice.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, HttpError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let only = if values.next().is_none() { value.to_str().unwrap_or_default() } else { "" };
    IdempotencyKey::parse(only)
        .map(Some)
        .map_err(|error| HttpError::Invalid(format!("The header Idempotency-Key {error}.")))
}

/// Composes the message of a request and hands it to submission. Under a key that
/// was used for the same request before, the answer is that of the first time.
pub(super) async fn submit(
    site: &Site,
    who: &SignedIn,
    peer: SocketAddr,
    request: Map<String, Value>,
    key: Option<IdempotencyKey>,
) -> Result<MessageId, HttpError> {
    let invalid = |error| HttpError::Invalid(format!("{error}."));
    let composition = Composition::try_from(request).map_err(invalid)?;
    let fingerprint = |key| Keyed { key, fingerprint: composition.fingerprint(), served: Vec::new() };
    let keyed = key.map(fingerprint);
    let recipients: Vec<Mailbox> = composition.recipients().cloned().collect();
    if let Some(id) = earlier(site, who, keyed.as_ref(), &recipients).await? {
        return Ok(id);
    }
    let standing = site.store.standing(&who.username).await?.ok_or(Refusal::BadCredential)?;
    let default_from = default_sender(&standing.senders);
    let (bytes, envelope) =
        composition.compose(default_from.as_ref(), site.settings.max_recipients).map_err(invalid)?;
    let begun = match site.submission.begin(who, envelope.reverse_path()).await {
        // The last credit may have gone to this very request, tried twice at once.
        Err(refusal @ Refusal::OutOfCredit { .. }) => {
            return earlier(site, who, keyed.as_ref(), &recipients).await?.ok_or(refusal.into());
        }
        begun => begun?,
    };
    for recipient in envelope.recipients() {
        site.submission.check_recipient(recipient)?;
        site.submission.check_suppressed(who, &begun, recipient).await?;
    }
    let arrival = Arrival { protocol: "HTTP", peer, helo: None, tls: None };
    let submitted = Submitted { begun, envelope, bytes, spool: None, arrival, keyed };
    Ok(site.submission.submit(who, submitted).await?.message_id)
}

async fn earlier(
    site: &Site,
    who: &SignedIn,
    keyed: Option<&Keyed>,
    recipients: &[Mailbox],
) -> Result<Option<MessageId>, HttpError> {
    let Some(keyed) = keyed else { return Ok(None) };
    Ok(site.submission.earlier(who, keyed, recipients).await?.map(|accepted| accepted.message_id))
}

/// Who a message comes from that does not say: the first address on the list.
pub(super) fn default_sender(senders: &[SenderPattern]) -> Option<NamedMailbox> {
    senders.iter().find_map(|sender| match sender {
        SenderPattern::Address(mailbox) => Some(NamedMailbox { name: None, mailbox: mailbox.clone() }),
        SenderPattern::Domain(_) | SenderPattern::Below(_) | SenderPattern::Any => None,
    })
}
