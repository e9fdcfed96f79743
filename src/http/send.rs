//! `POST /send`: a message out of JSON, and from there on the road of SMTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use super::auth::Customer;
use super::body::{self, JSON, is_type, parse_json};
use super::error::HttpError;
use super::listener::Peer;
use super::{Shared, Site};
use crate::domain::arrival::Arrival;
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;
use crate::domain::sender::SenderPattern;
use crate::mime::address_list::NamedMailbox;
use crate::mime::compose::Composition;
use crate::submission::{SignedIn, Submitted};

/// How long a message may take to arrive.
const WITHIN: Duration = Duration::from_secs(300);
/// Octets of a request beside its attachments and texts.
const SLACK_BYTES: usize = 64 << 10;

/// `POST /send`
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
    // Whoever sends the key trusts that a second try sends nothing twice.
    if headers.contains_key("idempotency-key") {
        return Err(HttpError::Invalid(
            "Idempotency-Key: not supported yet. Send without it, and look into GET /messages before you \
             repeat a request whose answer was lost."
                .to_owned(),
        ));
    }
    // Attachments come in base64: four octets for three.
    let limit_bytes = site.settings.max_message_bytes.saturating_div(3).saturating_mul(4);
    let bytes = body::read(raw, limit_bytes.saturating_add(SLACK_BYTES), WITHIN).await?;
    let id = submit(&site, &who, peer, parse_json(&bytes)?).await?;
    Ok(Json(json!({ "id": id })))
}

/// Composes the message of a request and hands it to submission.
pub(super) async fn submit(
    site: &Site,
    who: &SignedIn,
    peer: SocketAddr,
    request: Map<String, Value>,
) -> Result<MessageId, HttpError> {
    let invalid = |error| HttpError::Invalid(format!("{error}."));
    let composition = Composition::try_from(request).map_err(invalid)?;
    let standing = site.store.standing(&who.username).await?.ok_or(Refusal::BadCredential)?;
    let default_from = default_sender(&standing.senders);
    let (bytes, envelope) =
        composition.compose(default_from.as_ref(), site.settings.max_recipients).map_err(invalid)?;
    let begun = site.submission.begin(who, envelope.reverse_path()).await?;
    for recipient in envelope.recipients() {
        site.submission.check_recipient(recipient)?;
    }
    let arrival = Arrival { protocol: "HTTP", peer, helo: None, tls: None };
    let submitted = Submitted { begun, envelope, bytes, arrival };
    Ok(site.submission.submit(who, submitted).await?.message_id)
}

/// Who a message comes from that does not say: the first address on the list.
pub(super) fn default_sender(senders: &[SenderPattern]) -> Option<NamedMailbox> {
    senders.iter().find_map(|sender| match sender {
        SenderPattern::Address(mailbox) => Some(NamedMailbox { name: None, mailbox: mailbox.clone() }),
        SenderPattern::Domain(_) | SenderPattern::Below(_) | SenderPattern::Any => None,
    })
}
