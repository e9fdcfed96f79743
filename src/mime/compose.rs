//! A message out of the fields of `POST /send`.
//!
//! A [`Composition`] that exists is sound: every address was parsed, nothing in it
//! can become a header field of its own, and what is wrong with a request is said
//! with the name of the field.

mod request;
#[cfg(test)]
mod tests;

use lettre::message::header::ContentType;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::address_list::NamedMailbox;
use super::write::{Fields, Part, Seed, file, message, multipart, text};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::envelope::{Added, Draft, Envelope};
use crate::domain::idempotency::{Fingerprint, Fingerprinting};

/// What is wrong with a request, by the name of its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// `to`, `attachments[0].content`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// How a problem ends that is the want of the field.
const REQUIRED: &str = "is required";

impl InvalidField {
    /// Whether the field, or what may stand for it, is not there at all.
    pub fn is_missing(&self) -> bool {
        self.problem.ends_with(REQUIRED)
    }

    /// The name may be anything that the request held.
    fn new(field: impl AsRef<str>, problem: impl Into<String>) -> Self {
        let field = field.as_ref().replace(char::is_control, "?");
        Self { field, problem: problem.into() }
    }
}

/// The body of `POST /send`: `to`, `subject` and `html` or `text`, or both; and
/// `from`, `cc`, `bcc`, `reply_to`, `headers`, `attachments`. Lists of addresses
/// may be a single string.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Composition {
    from: Option<NamedMailbox>,
    to: Vec<NamedMailbox>,
    cc: Vec<NamedMailbox>,
    bcc: Vec<NamedMailbox>,
    reply_to: Vec<NamedMailbox>,
    subject: String,
    html: Option<String>,
    text: Option<String>,
    headers: Vec<(String, String)>,
    attachments: Vec<File>,
}

/// A file of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    filename: String,
    content_type: String,
    content_id: Option<String>,
    content: Vec<u8>,
}

impl TryFrom<Map<String, Value>> for Composition {
    type Error = InvalidField;

    fn try_from(request: Map<String, Value>) -> Result<Self, InvalidField> {
        request::read(request)
    }
}

impl Composition {
    /// What was asked for, however the JSON was written: spacing, escapes, the order
    /// of fields, a list of one address or a string make no difference; the order
    /// of recipients and files does.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut fingerprint = Fingerprinting::of("POST /send");
        let from = self.from.as_slice();
        for (name, list) in [
            ("from", from),
            ("to", &self.to),
            ("cc", &self.cc),
            ("bcc", &self.bcc),
            ("reply_to", &self.reply_to),
        ] {
            fingerprint = list.iter().fold(fingerprint, |f, one| f.field(name, one.to_string().as_bytes()));
        }
        fingerprint = fingerprint.field("subject", self.subject.as_bytes());
        for (name, text) in [("html", &self.html), ("text", &self.text)] {
            fingerprint = text.iter().fold(fingerprint, |f, text| f.field(name, text.as_bytes()));
        }
        let mut headers: Vec<&(String, String)> = self.headers.iter().collect();
        headers.sort();
        for (name, value) in headers {
            fingerprint = fingerprint.field("header", name.as_bytes()).field("value", value.as_bytes());
        }
        for file in &self.attachments {
            let content_id = file.content_id.iter();
            fingerprint = fingerprint
                .field("filename", file.filename.as_bytes())
                .field("content_type", file.content_type.as_bytes());
            fingerprint = content_id.fold(fingerprint, |f, id| f.field("content_id", id.as_bytes()));
            fingerprint = fingerprint.field("content", &file.content);
        }
        fingerprint.end()
    }

    /// Whether it says whom it is from.
    pub fn has_sender(&self) -> bool {
        self.from.is_some()
    }

    /// Whom it is for; who is named twice comes twice.
    pub fn recipients(&self) -> impl Iterator<Item = &Mailbox> {
        self.to.iter().chain(&self.cc).chain(&self.bcc).map(|named| &named.mailbox)
    }

    /// The message and its envelope: recipients of `bcc` are in the envelope alone.
    /// Date, Message-ID and Received are left to the stamp that every message gets,
    /// so the same request always gives the same bytes.
    ///
    /// # Errors
    /// When there is neither a `from` nor a default, or too many recipients.
    pub fn compose(
        self,
        default_from: Option<&NamedMailbox>,
        max_recipients: usize,
    ) -> Result<(Vec<u8>, Envelope), InvalidField> {
        let from = self.from.as_ref().or(default_from).cloned();
        let from =
            from.ok_or_else(|| InvalidField::new("from", "is required: no sender is set for this account"))?;
        let envelope = self.envelope(&from, max_recipients)?;
        let mut fields = Fields::default();
        fields.addresses("From", &[from]);
        fields.addresses("To", &self.to);
        fields.addresses("Cc", &self.cc);
        fields.addresses("Reply-To", &self.reply_to);
        fields.text("Subject", &self.subject);
        for (name, value) in &self.headers {
            fields.raw(name, &super::encoded_word::encode(value));
        }
        Ok((message(fields, self.body()), envelope))
    }

    fn envelope(&self, from: &NamedMailbox, max_recipients: usize) -> Result<Envelope, InvalidField> {
        let mut draft = Draft::new(ReversePath::Mailbox(from.mailbox.clone()), max_recipients);
        for recipient in self.recipients() {
            if draft.add(recipient.clone()) == Added::Full {
                let problem = format!("at most {max_recipients} recipients in to, cc and bcc together");
                return Err(InvalidField::new("to", problem));
            }
        }
        draft.seal().ok_or_else(|| InvalidField::new("to", REQUIRED))
    }

    /// mixed{ alternative{ text, related{ html, pictures } }, files }, without the
    /// layers that hold only one part.
    fn body(self) -> Part {
        let seed = self.seed();
        let is_inline = |file: &File| file.content_id.is_some();
        let (pictures, files): (Vec<File>, Vec<File>) = match &self.html {
            Some(_) => self.attachments.into_iter().partition(is_inline),
            None => (Vec::new(), self.attachments),
        };
        let html = self.html.map(|html| Part::Single(text(ContentType::TEXT_HTML, &html)));
        let html = html
            .map(|html| layer("related", &seed, [html].into_iter().chain(pictures.into_iter().map(part))));
        let plain = self.text.map(|plain| Part::Single(text(ContentType::TEXT_PLAIN, &plain)));
        let shown = layer("alternative", &seed, plain.into_iter().chain(html));
        layer("mixed", &seed, [shown].into_iter().chain(files.into_iter().map(part)))
    }

    fn seed(&self) -> Seed {
        let texts = [self.html.as_deref(), self.text.as_deref()];
        let texts = texts.into_iter().map(|text| text.unwrap_or_default().as_bytes());
        let files =
            self.attachments.iter().flat_map(|file| [file.filename.as_bytes(), file.content.as_slice()]);
        Seed::of(texts.chain(files))
    }
}

fn part(attached: File) -> Part {
    let File { filename, content_type, content_id, content } = attached;
    Part::Single(file(&filename, &content_type, content_id.as_deref(), content))
}

fn layer(subtype: &str, seed: &Seed, parts: impl Iterator<Item = Part>) -> Part {
    let mut parts: Vec<Part> = parts.collect();
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            Part::Multi(multipart(subtype, seed, parts))
        }
    }
}
