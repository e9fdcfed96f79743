//! `POST /send`: a message out of JSON, and from there on the road of SMTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::auth::Customer;
use super::body::{self, Bounds, JSON, is_type, parse_json};
use super::error::HttpError;
use super::listener::Peer;
use super::{Settings, Shared, Site};
use crate::allowance::Claim;
use crate::domain::address::Mailbox;
use crate::domain::arrival::Arrival;
use crate::domain::idempotency::{IdempotencyKey, Keyed};
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;
use crate::domain::sender::SenderPattern;
use crate::mime::address_list::NamedMailbox;
use crate::mime::compose::Composition;
use crate::submission::{SignedIn, Submitted};
use crate::upstream::translate::Note;

/// How long a message may take to arrive.
const WITHIN: Duration = Duration::from_secs(300);
/// So many octets are read before it is asked whether the customer may send at all; that
/// costs as much as they do.
const FIRST_READ_OCTETS: u64 = 64 << 10;
/// Values of a request: recipients, header fields, files and what is said of each.
pub(super) const MAX_VALUES: usize = 20_000;
/// The header field that names a submission.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sent {
    /// The message: its log is at `/messages/{id}`.
    pub(super) id: MessageId,
}

/// `POST /send`
pub(super) async fn send(
    State(site): State<Shared>,
    Customer(who): Customer,
    Peer(peer): Peer,
    headers: HeaderMap,
    raw: Body,
) -> Result<Json<Sent>, HttpError> {
    let key = idempotency_key(&headers)?;
    let (bytes, claim) = receive(&site, &who, &headers, raw).await?;
    if body::values(&bytes) > MAX_VALUES {
        return Err(HttpError::Invalid(format!("The body has more than {MAX_VALUES} values.")));
    }
    let id = submit(&site, &who, peer, parse_json(&bytes)?, key).await?;
    drop(claim);
    Ok(Json(Sent { id }))
}

/// Reads the body of a request that holds messages, and the room that it takes in memory. Of
/// who is suspended or has no credit nothing large is taken. Under a key it is, since the
/// answer to a retry does not depend on either.
pub(super) async fn receive(
    site: &Site,
    who: &SignedIn,
    headers: &HeaderMap,
    raw: Body,
) -> Result<(Bytes, Claim), HttpError> {
    if !is_type(headers, JSON) {
        return Err(HttpError::WrongMediaType { wanted: JSON });
    }
    let Settings { max_request_bytes: limit_bytes, floor, .. } = site.settings;
    let bounds = Bounds { limit_bytes, within: WITHIN, floor: Some(floor) };
    let is_keyed = headers.contains_key(IDEMPOTENCY_KEY);
    if !is_keyed && raw.size_hint().upper().is_none_or(|octets| octets > FIRST_READ_OCTETS) {
        let checked = site.submission.check_customer(who).await;
        if let Err(refusal) = checked {
            if !is_asked_for(headers) {
                body::discard(raw, bounds).await;
            }
            return Err(refusal.into());
        }
    }
    let mut claim = site.arriving.claim(&who.customer_id);
    let bytes = body::read_message(raw, bounds, &mut claim).await?;
    Ok((bytes, claim))
}

/// Whether the client waits to be asked for the body (RFC 9110 §10.1.1), which happens
/// when it is first read.
fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whoever sends a key trusts that a second try sends nothing twice.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, HttpError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let only = if values.next().is_none() { value.to_str().unwrap_or_default() } else { "" };
    IdempotencyKey::parse(only).map(Some).map_err(HttpError::InvalidKey)
}

/// A message that somebody asks to have sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// What it says, and to whom.
    pub(super) composition: Composition,
    /// Set where it may be retried.
    pub(super) keyed: Option<Keyed>,
    /// What was asked for with it and is not done, for its log.
    pub(super) notes: Vec<Note>,
}

/// Composes the message of a request and hands it to submission.
pub(super) async fn submit(
    site: &Site,
    who: &SignedIn,
    peer: SocketAddr,
    request: Map<String, Value>,
    key: Option<IdempotencyKey>,
) -> Result<MessageId, HttpError> {
    let composition = Composition::try_from(request)?;
    submit_composed(site, who, peer, Outgoing::under(key, composition)).await
}

impl Outgoing {
    /// A message that is retried under this key.
    pub(super) fn under(key: Option<IdempotencyKey>, composition: Composition) -> Self {
        let fingerprint = |key| Keyed { key, fingerprint: composition.fingerprint(), served: Vec::new() };
        let keyed = key.map(fingerprint);
        Self { composition, keyed, notes: Vec::new() }
    }

    /// Whom it is for.
    pub(super) fn recipients(&self) -> Vec<Mailbox> {
        self.composition.recipients().cloned().collect()
    }
}

/// Hands a message to submission. Under a key that was used for the same request before,
/// the answer is that of the first time.
pub(super) async fn submit_composed(
    site: &Site,
    who: &SignedIn,
    peer: SocketAddr,
    outgoing: Outgoing,
) -> Result<MessageId, HttpError> {
    let (keyed, recipients) = (outgoing.keyed.clone(), outgoing.recipients());
    if let Some(id) = earlier(site, who, keyed.as_ref(), &recipients).await? {
        return Ok(id);
    }
    let submitted = match ready(site, who, peer, outgoing).await {
        // The last credit, or the last of a cap, may have gone to this very request, tried twice at once.
        Err(HttpError::Refused(refusal @ (Refusal::OutOfCredit { .. } | Refusal::Capped(_)))) => {
            return earlier(site, who, keyed.as_ref(), &recipients).await?.ok_or(refusal.into());
        }
        ready => ready?,
    };
    Ok(site.submission.submit(who, submitted).await?.message_id)
}

/// Writes the message, and asks what SMTP asks at MAIL and RCPT.
pub(super) async fn ready(
    site: &Site,
    who: &SignedIn,
    peer: SocketAddr,
    Outgoing { composition, keyed, notes }: Outgoing,
) -> Result<Submitted, HttpError> {
    let default_from = if composition.has_sender() {
        None
    } else {
        let standing = match &who.username {
            Some(username) => site.store.standing(username).await?,
            None => site.store.standing_of(&who.customer_id).await?,
        };
        let standing = standing.ok_or(Refusal::BadCredential)?;
        default_sender(&standing.senders)
    };
    let (bytes, envelope) = composition.compose(default_from.as_ref(), site.settings.max_recipients)?;
    let begun = site.submission.begin(who, envelope.reverse_path()).await?;
    for recipient in envelope.recipients() {
        site.submission.check_recipient(recipient)?;
        site.submission.check_suppressed(who, &begun, recipient).await?;
    }
    let arrival = Arrival { protocol: "HTTP", peer, helo: None, tls: None };
    Ok(Submitted { begun, envelope, bytes, spool: None, arrival, keyed, notes })
}

/// The answer to a retry, if it is one of something that was accepted.
pub(super) async fn earlier(
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
