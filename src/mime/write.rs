//! Messages written down. lettre encodes the bodies; fields are folded and
//! boundaries chosen here, so that the same content always gives the same bytes.

use std::fmt::Write as _;

use jiff::Timestamp;
use lettre::message::header::{ContentDisposition, ContentId, ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, SinglePart};
use sha2::{Digest, Sha256};

use super::address_list::{NamedMailbox, quoted_string};
use super::encoded_word;
use super::trace::date;
use crate::domain::digest::hex;
use crate::domain::ids::MessageId;

/// Where lines are folded if they can be (RFC 5322 §2.1.1).
const MAX_LINE: usize = 76;

/// What every message of Postmeter's own begins with.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `notices.from`.
    pub from: &'a NamedMailbox,
    /// `smtp.hostname`.
    pub hostname: &'a str,
    /// When it is written.
    pub now: Timestamp,
    /// The id of the new message.
    pub message_id: &'a MessageId,
}

/// The header of a message being written.
#[derive(Debug, Default)]
pub(super) struct Fields(String);

impl Fields {
    /// The header of a message of our own, which nobody shall answer by machine
    /// (RFC 3834 §5).
    pub(super) fn of_our_own(origin: &Origin<'_>, to: NamedMailbox, auto_submitted: &str) -> Self {
        let mut fields = Self::default();
        fields.raw("Message-ID", &format!("<{}@{}>", origin.message_id, origin.hostname));
        fields.raw("Date", &date(origin.now));
        fields.addresses("From", std::slice::from_ref(origin.from));
        fields.addresses("To", &[to]);
        fields.raw("Auto-Submitted", auto_submitted);
        fields
    }

    /// A field that holds text of a person.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &encoded_word::encode_literally(text));
    }

    /// A field whose value is written already, on one line.
    pub(super) fn raw(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push(':');
        let mut line = name.len() + 1;
        for (index, word) in value.trim().split(' ').enumerate() {
            if index > 0 && !word.is_empty() && line + 1 + word.len() > MAX_LINE {
                self.0.push_str("\r\n");
                line = 0;
            }
            let _ = write!(self.0, " {word}");
            line += 1 + word.len();
        }
        self.0.push_str("\r\n");
    }

    /// A list of addresses; no field if it is empty.
    pub(super) fn addresses(&mut self, name: &str, list: &[NamedMailbox]) {
        if !list.is_empty() {
            self.raw(name, &list.iter().map(address).collect::<Vec<_>>().join(", "));
        }
    }
}

fn address(named: &NamedMailbox) -> String {
    let mailbox = &named.mailbox;
    let address = if mailbox.fits_ascii() { mailbox.to_ascii() } else { mailbox.to_string() };
    match &named.name {
        None => address,
        Some(name) if name.is_ascii() && name.len() <= MAX_LINE => {
            format!("{} <{address}>", quoted_string(name))
        }
        Some(name) => format!("{} <{address}>", encoded_word::encode_literally(name)),
    }
}

/// A part being written.
#[derive(Debug)]
pub(super) enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

/// Text, with any line ends.
pub(super) fn text(content_type: ContentType, text: &str) -> SinglePart {
    SinglePart::builder().header(content_type).body(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Lines of ASCII that must stay as they are.
pub(super) fn ascii(content_type: ContentType, lines: &str) -> SinglePart {
    let ascii: String = lines.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    let body = Body::dangerous_pre_encoded(ascii.into_bytes(), ContentTransferEncoding::SevenBit);
    SinglePart::builder().header(content_type).body(body)
}

/// Text as a file.
pub(super) fn text_file(filename: &str, content: &str) -> SinglePart {
    let lines = content.replace("\r\n", "\n");
    SinglePart::builder()
        .header(ContentType::TEXT_PLAIN)
        .header(ContentDisposition::attachment(filename))
        .body(lines)
}

/// Bytes as a file; with an id they are shown where the HTML refers to them.
pub(super) fn file(filename: &str, content_type: &str, id: Option<&str>, content: Vec<u8>) -> SinglePart {
    let part = SinglePart::builder().header(kind(content_type));
    match id {
        Some(id) => part
            .header(ContentDisposition::inline_with_name(filename))
            .header(ContentId::from(format!("<{id}>"))),
        None => part.header(ContentDisposition::attachment(filename)),
    }
    .body(content)
}

/// A multipart of that subtype; `seed` stands for all content of the message.
pub(super) fn multipart(subtype: &str, seed: &Seed, parts: Vec<Part>) -> MultiPart {
    let boundary = seed.boundary(subtype);
    let header = kind(&format!("multipart/{subtype}; boundary=\"{boundary}\""));
    parts.into_iter().fold(MultiPart::builder().header(header).build(), |multi, part| match part {
        Part::Single(part) => multi.singlepart(part),
        Part::Multi(part) => multi.multipart(part),
    })
}

/// A media type that is known to be well formed.
pub(super) fn kind(content_type: &str) -> ContentType {
    ContentType::parse(content_type).unwrap_or(ContentType::TEXT_PLAIN)
}

/// A digest of all content, from which boundaries are made: the same content has
/// the same boundaries, and no content can contain its own.
#[derive(Debug)]
pub(super) struct Seed(String);

impl Seed {
    pub(super) fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut digest = Sha256::new();
        for piece in pieces {
            digest.update(piece.len().to_be_bytes());
            digest.update(piece);
        }
        Self(hex(digest.finalize().first_chunk::<16>().unwrap_or(&[0; 16])))
    }

    fn boundary(&self, subtype: &str) -> String {
        let kind: String = subtype.chars().take_while(char::is_ascii_alphabetic).collect();
        format!("{kind}-{}", self.0)
    }
}

/// The message.
pub(super) fn message(fields: Fields, body: Part) -> Vec<u8> {
    let mut out = fields.0.into_bytes();
    out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    match body {
        Part::Multi(part) => out.extend(part.formatted()),
        Part::Single(part) => {
            out.extend_from_slice(part.headers().to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(part.raw_body());
            if !out.ends_with(b"\r\n") {
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    out
}
