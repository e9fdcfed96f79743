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

/// Octets of one message in all its requests together. Hidden recipients get one each:
/// of the largest message there are forty, and of one with less than 20 MiB as many as there may be.
const MAX_COPIES_BYTES: usize = 1 << 30;

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
    let envelopes = message.parts(recipients);
    if bytes.len().saturating_mul(envelopes.len()) > MAX_COPIES_BYTES {
        return Err(too_many_copies(envelopes.len()));
    }
    let mut parts = Vec::new();
    for (part_no, recipients) in (0..).zip(envelopes) {
        let request = message.email(&recipients, &message_id.part(part_no))?.to_json();
        let request_hash = Some(sha256_hex(&request));
        parts.push(NewPart { road: Road::Resend, recipients, request_hash });
    }
    Ok(parts)
}

fn too_many_copies(copies: usize) -> CannotCarry {
    let what = format!(
        "Resend needs {copies} copies of this message, one for each recipient outside To and Cc, which are more \
         than 1 GiB; send it to fewer of them at a time"
    );
    CannotCarry { status: "5.5.3", what, address: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::entity::{MAX_DEPTH, MAX_PARTS};

    #[test]
    fn p7_structure_is_bounded_where_it_is_opened_and_octets_to_an_smtp_upstream() {
        let deep: String = (0..=MAX_DEPTH)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
        let parts = "--b\r\n\r\nx\r\n".repeat(MAX_PARTS + 1);
        let wide = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n");
        let table = [
            ("", Err("5.6.0")),
            ("fallback = \"smtp\"", Ok(Road::Smtp)),
            ("kind = \"smtp\"", Ok(Road::Smtp)),
        ];
        for (upstream, want) in table {
            let config: Config = toml::from_str(&format!("[upstream]\n{upstream}")).unwrap();
            for structure in [&deep, &wide] {
                let bytes = format!("From: a@x.example\r\n{structure}");
                let message_id = MessageId::parse("m1").unwrap();
                let to = [Mailbox::parse("b@y.example").unwrap()];
                let parts = Routing::new(&config).parts(&message_id, bytes.as_bytes(), &to);
                let road = parts.map(|parts| parts[0].road).map_err(|cannot| cannot.status);
                assert_eq!(road, want, "{upstream}");
            }
        }
    }

    #[test]
    fn p7_a_large_message_is_not_copied_for_any_number_of_hidden_recipients() {
        let to: Vec<Mailbox> = (0..50).map(|n| Mailbox::parse(&format!("h{n}@y.example")).unwrap()).collect();
        let letter = |header: &str, octets: usize| {
            let mut bytes = format!("From: a@x.example\r\n{header}\r\n");
            bytes.push_str(&"x".repeat(octets));
            bytes.into_bytes()
        };
        let by = |upstream: &str| Routing::new(&toml::from_str(&format!("[upstream]\n{upstream}")).unwrap());
        let message_id = MessageId::parse("m1").unwrap();
        let much = letter("", MAX_COPIES_BYTES / 50);
        let refused = by("").parts(&message_id, &much, &to).unwrap_err();
        assert_eq!(refused.status, "5.5.3");
        assert!(refused.what.starts_with("Resend needs 50 copies"), "{refused}");
        let parts = by("fallback = \"smtp\"").parts(&message_id, &much, &to).unwrap();
        assert_eq!((parts.len(), parts[0].road), (1, Road::Smtp));
        let shown = letter("To: h0@y.example\r\n", 1_000);
        assert_eq!(by("").parts(&message_id, &shown, &to).unwrap().len(), 1);
        assert_eq!(by("").parts(&message_id, &letter("", 1_000), &to).unwrap().len(), 50);
    }
}
