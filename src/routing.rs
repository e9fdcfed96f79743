//! Which road a message takes: its parts, fixed when it is accepted.
//!
//! What Resend cannot carry goes by the SMTP server where the operator has
//! configured one as fallback, and is refused otherwise: never carried in part (P6). Where
//! that is Resend's own SMTP service, what Resend takes in no way is refused too.
//! A version of the text that Resend does not know takes that road too; without one it
//! is carried as a file, which is whole and noted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::{Config, Fallback, UpstreamKind};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::batch;
use crate::domain::credits::{Credits, Unit};
use crate::domain::digest::sha256_hex;
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::Road;
use crate::random;
use crate::store::accept::{Acceptance, Kind, NewPart};
use crate::upstream::translate::{self, CannotCarry, MAX_EMAIL_BYTES, Note, Translatable};

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

/// The way of a message, and what becomes of it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its parts; at least one.
    pub parts: Vec<NewPart>,
    /// Every loss and change that is particular to this message, in the order of the
    /// message: for its sender, one line each.
    pub notes: Vec<Note>,
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

    /// Whether some road is an SMTP server of the operator's, which takes what Resend cannot
    /// carry as it is: reports, addresses whose local part is not ASCII.
    pub fn has_smtp_server(&self) -> bool {
        self.kind == UpstreamKind::Smtp || self.fallback == Fallback::Smtp
    }

    /// Whether a road takes an address, whatever is written to it or from it. Resend's own
    /// SMTP service speaks no SMTPUTF8.
    ///
    /// # Errors
    /// None does: the reason is that of Resend.
    pub fn check_address(&self, mailbox: &Mailbox) -> Result<(), CannotCarry> {
        let has_other_road =
            self.has_smtp_server() || self.fallback != Fallback::None && mailbox.fits_ascii();
        if has_other_road { Ok(()) } else { translate::takes(mailbox) }
    }

    /// The parts of a message to these recipients: [`Self::route`] without its notes.
    pub fn parts(
        &self,
        message_id: &MessageId,
        bytes: &[u8],
        recipients: &[Mailbox],
    ) -> Result<Vec<NewPart>, CannotCarry> {
        Ok(self.route(message_id, bytes, recipients)?.parts)
    }

    /// The way of a message to these recipients.
    ///
    /// # Errors
    /// No road that is configured can carry it: the reason is that of Resend.
    pub fn route(
        &self,
        message_id: &MessageId,
        bytes: &[u8],
        recipients: &[Mailbox],
    ) -> Result<Route, CannotCarry> {
        if self.kind == UpstreamKind::Smtp {
            return Ok(Route { parts: vec![by_smtp(recipients)], notes: Vec::new() });
        }
        let by_resend = by_resend(message_id, bytes, recipients);
        let why_not = match &by_resend {
            Ok(route) => route.notes.iter().find_map(Note::why_unchanged),
            Err(reason) => Some(reason.what.clone()),
        };
        let Some((why, taken)) = why_not.zip(self.takes_unchanged((bytes, bytes.len()))) else {
            return by_resend;
        };
        match (taken, by_resend) {
            (Ok(()), Err(reason)) if self.fallback == Fallback::ResendSmtp && !reason.is_of_the_api() => {
                Err(reason)
            }
            (Ok(()), _) => Ok(unchanged(&why, recipients)),
            (Err(_), Ok(with_losses)) => Ok(with_losses),
            (Err(reason), Err(_)) => Err(reason),
        }
    }

    /// The way of a message for which its envelope sender decides it, whatever
    /// is in it: Resend has no null sender, and whoever answers automatically would be
    /// answered in turn. Of the message its header is needed, and how many octets it has.
    pub fn by_sender(
        &self,
        reverse_path: &ReversePath,
        message: (&[u8], usize),
        recipients: &[Mailbox],
    ) -> Option<Result<Route, CannotCarry>> {
        if *reverse_path != ReversePath::Null || self.kind == UpstreamKind::Smtp {
            return None;
        }
        let reason = CannotCarry::null_sender();
        Some(match self.takes_unchanged(message) {
            None => Err(reason),
            Some(taken) => taken.map(|()| unchanged(&reason.what, recipients)),
        })
    }

    /// Whether what Resend's API cannot carry goes by SMTP, and this message can; of it the
    /// beginning with its header is needed, and how many octets it has. `None`: nothing does.
    fn takes_unchanged(&self, (message, octets): (&[u8], usize)) -> Option<Result<(), CannotCarry>> {
        match self.fallback {
            Fallback::None => None,
            Fallback::Smtp => Some(Ok(())),
            Fallback::ResendSmtp => Some(translate::takes_by_smtp(message, octets)),
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
            dsn: Arc::default(),
        })
    }
}

/// A new message id.
pub fn new_message_id(now: Timestamp) -> MessageId {
    MessageId::generate(now, random::octets())
}

fn by_smtp(recipients: &[Mailbox]) -> NewPart {
    NewPart { road: Road::Smtp, recipients: recipients.to_vec(), request_hash: None, batch_max: 1 }
}

/// The other road, for that reason.
fn unchanged(why: &str, recipients: &[Mailbox]) -> Route {
    Route { parts: vec![by_smtp(recipients)], notes: vec![Note::other_road(why)] }
}

fn by_resend(message_id: &MessageId, bytes: &[u8], recipients: &[Mailbox]) -> Result<Route, CannotCarry> {
    let message = Translatable::parse(bytes)?;
    let divided = message.parts(recipients);
    if bytes.len().saturating_mul(divided.len()) > MAX_COPIES_BYTES {
        return Err(too_many_copies(divided.len()));
    }
    let notes = message.notes(recipients, &divided);
    let batch_max = batch::at_acceptance(bytes.len(), message.has_attachments());
    let mut parts = Vec::new();
    for (part_no, recipients) in (0..).zip(divided) {
        let request = message.email(&recipients, &message_id.part(part_no))?.to_json();
        if request.len() >= MAX_EMAIL_BYTES {
            return Err(CannotCarry::too_large());
        }
        let request_hash = Some(sha256_hex(&request));
        parts.push(NewPart { road: Road::Resend, recipients, request_hash, batch_max });
    }
    Ok(Route { parts, notes })
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

    const SIGNED: &[u8] = b"From: a@x.example\r\nTo: b@y.example\r\nSubject: s\r\n\
        Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n";

    fn routing(fallback: Fallback) -> Routing {
        let mut config = Config::default();
        config.upstream.fallback = fallback;
        Routing::new(&config)
    }

    fn recipients() -> [Mailbox; 1] {
        [Mailbox::parse("b@y.example").unwrap()]
    }

    #[test]
    fn p6_what_resend_cannot_carry_takes_the_other_road_or_none() {
        let id = MessageId::parse("m").unwrap();
        let refused = routing(Fallback::None).route(&id, SIGNED, &recipients()).unwrap_err();
        assert_eq!(refused.status, "5.6.1");
        for fallback in [Fallback::Smtp, Fallback::ResendSmtp] {
            let route = routing(fallback).route(&id, SIGNED, &recipients()).unwrap();
            assert_eq!(route.parts, [by_smtp(&recipients())]);
            assert!(route.notes[0].to_string().contains("multipart/signed"), "{:?}", route.notes);
        }
    }

    #[test]
    fn p6_what_resends_own_smtp_service_does_not_take_either_is_refused_at_once() {
        let id = MessageId::parse("m").unwrap();
        let signed = String::from_utf8(SIGNED.to_vec()).unwrap();
        let replying = |to: &str| format!("Reply-To: {to}\r\n");
        let umlaut = replying("gr\u{fc}n@x.example");
        let plain = "From: a@x.example\r\nTo: b@y.example\r\n\r\nhi\r\n";
        let program = "From: a@x.example\r\nContent-Type: application/octet-stream; name=a.exe\r\n\r\nx\r\n";
        let third = "From: a@x.example\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
            --b\r\n\r\nx\r\n--b\r\nContent-Type: text/enriched\r\n\r\nx\r\n--b--\r\n";
        let large = format!("{signed}{}", "x".repeat(MAX_EMAIL_BYTES));
        let table = [
            (umlaut.clone() + plain, Err("5.6.7")),
            (umlaut.clone() + &signed, Err("5.6.7")),
            (replying("\"a b\"@x.example") + plain, Ok(Road::Smtp)),
            (replying("Gr\u{fc}n <a@x.example>") + &signed, Ok(Road::Smtp)),
            (replying("a@x.example") + third, Ok(Road::Smtp)),
            // Where the API carries it with a note, that is better than nothing.
            ("To: gr\u{fc}n@y.example\r\n".to_owned() + third, Ok(Road::Resend)),
            (program.to_owned(), Err("5.7.1")),
            (large, Err("5.3.4")),
        ];
        for (bytes, want) in table {
            let route = |fallback| routing(fallback).route(&id, bytes.as_bytes(), &recipients());
            let road = route(Fallback::ResendSmtp).map(|route| route.parts[0].road);
            let shown: String = bytes.chars().take(120).collect();
            assert_eq!(road.map_err(|reason| reason.status), want, "{shown}");
            assert_eq!(route(Fallback::Smtp).unwrap().parts[0].road, Road::Smtp, "{shown}");
        }
        let null = |bytes: &str| {
            let routed = routing(Fallback::ResendSmtp).by_sender(
                &ReversePath::Null,
                (bytes.as_bytes(), bytes.len()),
                &recipients(),
            );
            routed.unwrap().map(|route| route.parts[0].road).map_err(|reason| reason.status)
        };
        assert_eq!(null(&(umlaut + plain)), Err("5.6.7"));
        assert_eq!(null(plain), Ok(Road::Smtp));
    }

    #[test]
    fn p6_a_version_that_resend_does_not_know_takes_the_other_road_or_becomes_a_file() {
        let with_third = |kind: &str| {
            let versions: String = ["text/plain", "text/html", kind]
                .iter()
                .map(|kind| format!("--b\r\nContent-Type: {kind}\r\n\r\nx\r\n"))
                .collect();
            let head =
                "From: a@x.example\r\nTo: b@y.example\r\nContent-Type: multipart/alternative; boundary=b";
            format!("{head}\r\n\r\n{versions}--b--\r\n").into_bytes()
        };
        let related =
            "multipart/related; boundary=r\r\n\r\n--r\r\nContent-Type: text/calendar\r\n\r\nx\r\n--r--\r\n";
        let id = MessageId::parse("m").unwrap();
        let table = [
            ("text/calendar; method=REQUEST", true),
            ("text/enriched", true),
            ("application/pdf; name=a.pdf", true),
            (related, true),
            ("text/html", false),
            ("text/x-amp-html", false),
            ("text/watch-html", false),
        ];
        for (kind, is_other) in table {
            let bytes = with_third(kind);
            let route = |fallback| routing(fallback).route(&id, &bytes, &recipients()).unwrap();
            let without = route(Fallback::None);
            assert_eq!(without.parts[0].road, Road::Resend, "{kind}");
            let notes: Vec<String> = without.notes.iter().map(ToString::to_string).collect();
            assert_eq!(notes.iter().any(|note| note.contains("sent as a file")), is_other, "{notes:?}");
            for fallback in [Fallback::Smtp, Fallback::ResendSmtp] {
                let route = route(fallback);
                assert_eq!(route.parts == [by_smtp(&recipients())], is_other, "{kind}");
                let unchanged =
                    route.notes[0].to_string().starts_with("goes over SMTP, unchanged, since part 3");
                assert_eq!(unchanged, is_other, "{:?}", route.notes);
                assert!(!is_other || route.notes.len() == 1, "{:?}", route.notes);
            }
        }
    }

    #[test]
    fn p6_an_address_that_no_road_takes_is_known_before_there_is_a_message() {
        let table = [
            (Fallback::None, "b@y.example", Ok(())),
            (Fallback::None, "\"a b\"@y.example", Err("5.6.1")),
            (Fallback::None, "gr\u{fc}n@y.example", Err("5.6.7")),
            (Fallback::ResendSmtp, "\"a b\"@y.example", Ok(())),
            (Fallback::ResendSmtp, "gr\u{fc}n@y.example", Err("5.6.7")),
            (Fallback::Smtp, "\"a b\"@y.example", Ok(())),
            (Fallback::Smtp, "gr\u{fc}n@y.example", Ok(())),
        ];
        for (fallback, address, want) in table {
            let checked = routing(fallback).check_address(&Mailbox::parse(address).unwrap());
            assert_eq!(checked.map_err(|reason| reason.status), want, "{fallback:?} {address}");
        }
    }

    #[test]
    fn p6_a_null_sender_is_not_given_another() {
        let null = ReversePath::Null;
        let plain = b"From: a@x.example\r\n\r\nhi\r\n";
        let by_sender = |fallback| routing(fallback).by_sender(&null, (plain, plain.len()), &recipients());
        assert_eq!(by_sender(Fallback::None).unwrap().unwrap_err().status, "5.6.1");
        assert_eq!(by_sender(Fallback::Smtp).unwrap().unwrap().parts, [by_smtp(&recipients())]);
        let somebody = ReversePath::parse("a@x.example").unwrap();
        assert!(routing(Fallback::None).by_sender(&somebody, (plain, plain.len()), &recipients()).is_none());
    }

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
                let route = Routing::new(&config).route(&message_id, bytes.as_bytes(), &to);
                let road = route.map(|route| route.parts[0].road).map_err(|cannot| cannot.status);
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
