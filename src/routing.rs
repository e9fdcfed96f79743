//! Which road a message takes: its parts, fixed when it is accepted.
//!
//! What Resend cannot carry goes by the SMTP server where the operator has
//! configured one as fallback, and is refused otherwise: never carried in part (P6).

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::{Config, Fallback, UpstreamKind};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credits::{Credits, Unit};
use crate::domain::digest::sha256_hex;
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::Road;
use crate::random;
use crate::store::accept::{Acceptance, Kind, NewPart};
use crate::upstream::translate::{CannotCarry, Translatable};

/// The roads that are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    kind: UpstreamKind,
    fallback: Fallback,
    lifetime: Duration,
}

/// A message of our own: a bounce or a notice.
#[derive(Debug, Clone)]
pub struct OwnMail {
    /// What it is.
    pub kind: Kind,
    /// Its id; the header carries it.
    pub message_id: MessageId,
    /// The customer that it is about.
    pub customer_id: CustomerId,
    /// The one recipient.
    pub to: Mailbox,
    /// `notices.from`.
    pub from: Mailbox,
    /// The message.
    pub bytes: Bytes,
    /// Now.
    pub now: Timestamp,
}

impl Routing {
    /// The roads of this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            kind: config.upstream.kind,
            fallback: config.upstream.fallback,
            lifetime: Duration::from_secs(config.queue.lifetime_h.saturating_mul(3600)),
        }
    }

    /// How long a message is tried.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Whether mail goes to Resend first.
    pub fn prefers_resend(&self) -> bool {
        self.kind == UpstreamKind::Resend
    }

    /// Whether some road can carry an address whose local part is not ASCII.
    pub fn carries_smtputf8(&self) -> bool {
        self.kind == UpstreamKind::Smtp || self.fallback == Fallback::Smtp
    }

    /// The parts of a message to these recipients.
    pub fn parts(
        &self,
        message_id: &MessageId,
        bytes: &[u8],
        recipients: &[Mailbox],
    ) -> Result<Vec<NewPart>, CannotCarry> {
        if self.kind == UpstreamKind::Smtp {
            return Ok(vec![by_smtp(recipients)]);
        }
        match by_resend(message_id, bytes, recipients) {
            Err(_) if self.fallback == Fallback::Smtp => Ok(vec![by_smtp(recipients)]),
            parts_or_reason => parts_or_reason,
        }
    }

    /// A message of our own, ready for the store: free, from nobody over SMTP, and
    /// from `notices.from` over Resend, which has no null sender.
    pub fn own(&self, mail: OwnMail) -> Result<Acceptance, CannotCarry> {
        let recipients = [mail.to];
        Ok(Acceptance {
            parts: self.parts(&mail.message_id, &mail.bytes, &recipients)?,
            message_id: mail.message_id,
            customer_id: mail.customer_id,
            username: None,
            kind: mail.kind,
            reverse_path: ReversePath::Null,
            header_from: mail.from.to_string(),
            subject: None,
            bytes: mail.bytes,
            spooled: None,
            unit: Unit::Message,
            price: Credits::ZERO,
            accepted_at: mail.now,
            lifetime: self.lifetime,
            lease_until: None,
            keyed: None,
            notes: Vec::new(),
        })
    }
}

/// A new message id.
pub fn new_message_id(now: Timestamp) -> MessageId {
    MessageId::generate(now, random::octets())
}

fn by_smtp(recipients: &[Mailbox]) -> NewPart {
    NewPart { road: Road::Smtp, recipients: recipients.to_vec(), request_hash: None }
}

fn by_resend(
    message_id: &MessageId,
    bytes: &[u8],
    recipients: &[Mailbox],
) -> Result<Vec<NewPart>, CannotCarry> {
    let message = Translatable::parse(bytes)?;
    let mut parts = Vec::new();
    for (part_no, recipients) in (0..).zip(message.parts(recipients)) {
        let request = message.email(&recipients, &message_id.part(part_no))?.to_json();
        let request_hash = Some(sha256_hex(&request));
        parts.push(NewPart { road: Road::Resend, recipients, request_hash });
    }
    Ok(parts)
}
