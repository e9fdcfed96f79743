//! A message as Resend's `POST /emails` wants it (<https://resend.com/docs/api-reference/emails/send-email>).
//!
//! There is no endpoint for a message as it is: it has to be taken apart and
//! written down as fields. The rules: only the envelope decides who gets it (P5);
//! what the API cannot express is refused with a reason, never dropped (P6); the
//! same message gives the same bytes, whenever and wherever it is translated,
//! since Resend compares them under an idempotency key. What is lost or changed is
//! written down as a [`Note`]; what Resend does to every mail stands in [`EVERY_MAIL`].
//! What this room must not know: HTTP, keys, the queue.

mod attachments;
mod body;
mod fields;
mod flowed;
mod note;
mod recipients;
mod references;
mod sealed;
#[cfg(test)]
mod tests;

use std::io;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

pub use self::attachments::Attachment;
use self::attachments::Writer;
pub use self::note::{Change, EVERY_MAIL, Note, Place};
use self::recipients::{Placed, Shown};
use crate::domain::address::Mailbox;
use crate::domain::ids::PartId;
use crate::mime::address_list::NamedMailbox;
use crate::mime::entity::{Broken, Entity};
use crate::mime::header::{Header, Malformed};
use crate::mime::internationalized::address_beyond_ascii;

/// Recipients of one call, over To, Cc and Bcc together: the limit of Amazon SES,
/// by which Resend sends.
pub const MAX_RECIPIENTS: usize = 50;
/// The tag that every mail of ours carries: the id of its part. It comes back in webhooks.
pub const TAG: &str = "postmeter";
/// Size of an email at Resend, attachments counted in Base64.
pub const MAX_EMAIL_BYTES: usize = 40_000_000;
/// Octets that JSON takes for one at most: `\u0001`.
const MOST_BY_ESCAPES: usize = 6;

/// Why Resend cannot carry a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct CannotCarry {
    /// Enhanced status code (RFC 3463).
    pub status: &'static str,
    /// The reason, for the customer: one line of printable ASCII.
    pub what: String,
    /// The address that cannot be carried, if it is one.
    pub address: Option<Mailbox>,
}

impl CannotCarry {
    fn new(status: &'static str, what: &str) -> Self {
        let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        Self { status, what: what.chars().take(400).map(printable).collect(), address: None }
    }

    /// The message is not sound.
    pub fn malformed(what: &str) -> Self {
        Self::new("5.6.0", what)
    }

    /// The envelope sender is empty.
    pub fn null_sender() -> Self {
        Self::new("5.6.1", "a message from <> cannot be sent through Resend, which has no null sender")
    }

    /// It is beyond [`MAX_EMAIL_BYTES`].
    pub fn too_large() -> Self {
        Self::new("5.3.4", "the message is larger than the 40 MB that Resend takes")
    }

    /// Whether its reason is the API, which writes every message anew. It is not for SMTPUTF8
    /// and for the kinds of files that Resend refuses, by whatever way they come
    /// (resend.com/docs, "What attachment types are not supported").
    pub fn is_of_the_api(&self) -> bool {
        !matches!(self.status, "5.6.7" | "5.7.1")
    }

    fn non_ascii(mailbox: &Mailbox) -> Self {
        let address = mailbox.to_readable_ascii();
        let what = format!("the address {address} needs SMTPUTF8, which Resend does not speak");
        Self { address: Some(mailbox.clone()), ..Self::new("5.6.7", &what) }
    }
}

impl CannotCarry {
    /// Resend asks for `email@example.com`, and refuses a call whole for one address that
    /// it does not read as that: its other recipients would get nothing either.
    fn quoted(mailbox: &Mailbox) -> Self {
        let address = mailbox.to_readable_ascii();
        Self::new("5.6.1", &format!("the address {address} is quoted, which Resend is not known to take"))
    }

    /// A part is broken.
    fn at(entity: &Entity<'_>, broken: &Broken) -> Self {
        Self::new("5.6.0", &format!("part {}: {broken}", entity.number))
    }
}

impl From<Malformed> for CannotCarry {
    fn from(malformed: Malformed) -> Self {
        Self::new("5.6.0", &malformed.to_string())
    }
}

impl From<Broken> for CannotCarry {
    fn from(broken: Broken) -> Self {
        Self::new("5.6.0", &broken.to_string())
    }
}

/// A message taken apart, from which the emails of all its parts can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translatable {
    from: String,
    shown: Shown,
    reply_to: Vec<String>,
    subject: String,
    html: Option<String>,
    text: String,
    headers: Vec<(String, String)>,
    attachments: Vec<Attachment>,
    notes: Vec<Note>,
}

/// The body of one `POST /emails`, or one element of a batch. Serialises to the
/// same bytes every time.
#[derive(Debug, Clone, Serialize)]
pub struct Email<'a> {
    from: &'a str,
    to: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cc: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<String>,
    subject: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    reply_to: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    text: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_map")]
    headers: &'a [(String, String)],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    attachments: &'a [Attachment],
    tags: [Tag<'a>; 1],
}

/// A tag comes back in every webhook about the email.
#[derive(Debug, Clone, Serialize)]
struct Tag<'a> {
    name: &'static str,
    value: &'a str,
}

/// A JSON object in the order of the message.
fn as_map<S: Serializer>(headers: &&[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(headers.len()))?;
    for (name, value) in *headers {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

impl Translatable {
    /// Takes a message apart, once for all its parts.
    ///
    /// # Errors
    /// When something in it cannot be carried, whoever the recipients are.
    pub fn parse(bytes: &[u8]) -> Result<Self, CannotCarry> {
        let header = Header::parse(bytes)?;
        let entity = Entity::parse(&header)?;
        let mut notes = Vec::new();
        fields::guessed(&header, &mut notes);
        let subject = fields::subject(&header, &mut notes);
        let reply_to = fields::reply_to(&header, &mut notes)?;
        let headers = fields::custom(&header, &mut notes);
        let mut body = body::read(&entity)?;
        notes.append(&mut body.notes);
        let writer = Writer {
            html: &mut body.html,
            bases: &body.locations,
            new_ids: &body.new_ids,
            notes: &mut notes,
        };
        let attachments = writer.write(&body.attachments)?;
        let translatable = Self {
            from: fields::from(&header, &mut notes)?,
            shown: Shown::read(&header),
            reply_to,
            subject,
            html: body.html,
            text: body.text,
            headers,
            attachments,
            notes,
        };
        translatable.fits()?;
        Ok(translatable)
    }

    /// Counted as JSON, where a control character takes six octets: what the request
    /// takes in memory and on its way, whatever Resend itself may count.
    fn fits(&self) -> Result<(), CannotCarry> {
        let strings = self.octets_of_strings();
        let is_small = strings.saturating_mul(MOST_BY_ESCAPES) < MAX_EMAIL_BYTES;
        if is_small || (strings < MAX_EMAIL_BYTES && self.to_nobody().json_octets() < MAX_EMAIL_BYTES) {
            return Ok(());
        }
        Err(CannotCarry::too_large())
    }

    fn octets_of_strings(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let attachments: usize = self.attachments.iter().map(Attachment::size).sum();
        let html = self.html.as_ref().map_or(0, String::len);
        headers + attachments + html + self.text.len() + self.subject.len()
    }

    /// What all its emails have in common.
    fn to_nobody(&self) -> Email<'_> {
        self.placed(Placed::default(), "")
    }

    fn placed<'a>(&'a self, placed: Placed, tag: &'a str) -> Email<'a> {
        Email {
            from: &self.from,
            to: placed.to,
            cc: placed.cc,
            bcc: placed.bcc,
            subject: &self.subject,
            reply_to: &self.reply_to,
            html: self.html.as_deref(),
            text: &self.text,
            headers: &self.headers,
            attachments: &self.attachments,
            tags: [Tag { name: TAG, value: tag }],
        }
    }

    /// Whether its emails carry attachments: such a one leaves in no batch.
    pub fn has_attachments(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// Divides the recipients of an envelope into parts, one call each. Usually
    /// one; but a call has at most [`MAX_RECIPIENTS`], and recipients of whom none
    /// stands in To or Cc get a part each, lest they see one another.
    pub fn parts(&self, recipients: &[Mailbox]) -> Vec<Vec<Mailbox>> {
        recipients::parts(&self.shown, recipients)
    }

    /// What is lost or changed when the message goes to these recipients in these
    /// parts; what happens to every mail ([`EVERY_MAIL`]) is not repeated.
    pub fn notes(&self, recipients: &[Mailbox], parts: &[Vec<Mailbox>]) -> Vec<Note> {
        let mut notes = recipients::notes(&self.shown, recipients, parts);
        notes.extend_from_slice(&self.notes);
        notes
    }

    /// The email for the recipients of one part.
    ///
    /// # Errors
    /// When an address cannot be written, or the recipients are no part as
    /// [`Self::parts`] makes them.
    pub fn email<'a>(
        &'a self,
        recipients: &[Mailbox],
        part_id: &'a PartId,
    ) -> Result<Email<'a>, CannotCarry> {
        Ok(self.placed(recipients::place(&self.shown, recipients)?, part_id.as_str()))
    }
}

impl Email<'_> {
    /// The bytes of the request.
    pub fn to_json(&self) -> Vec<u8> {
        // Counted before, so that a large one never grows by doubling.
        let mut json = Vec::with_capacity(self.json_octets());
        // Only strings, lists and a map with string keys: there is nothing that
        // could fail, and an empty request would be refused with 422.
        let _ = serde_json::to_writer(&mut json, self);
        json
    }

    fn json_octets(&self) -> usize {
        let mut count = Count(0);
        let _ = serde_json::to_writer(&mut count, self);
        count.0
    }
}

/// Counts what is written.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An address as Resend takes it: domain in punycode, name as a quoted string.
fn written(named: &NamedMailbox) -> Result<String, CannotCarry> {
    takes(&named.mailbox)?;
    Ok(named.to_ascii_domain())
}

/// Whether Resend's own SMTP service takes a message whole: one that needs SMTPUTF8 it does not,
/// nor one that is larger than mail may be at Amazon SES, by which it sends. Its beginning
/// is enough, if the whole header is in it.
///
/// # Errors
/// Why it does not.
pub fn takes_by_smtp(message: &[u8], octets: usize) -> Result<(), CannotCarry> {
    match address_beyond_ascii(message) {
        Some(mailbox) => Err(CannotCarry::non_ascii(&mailbox)),
        None if octets >= MAX_EMAIL_BYTES => Err(CannotCarry::too_large()),
        None => Ok(()),
    }
}

/// Whether Resend takes an address.
///
/// # Errors
/// Why it does not.
pub fn takes(mailbox: &Mailbox) -> Result<(), CannotCarry> {
    match () {
        () if !mailbox.fits_ascii() => Err(CannotCarry::non_ascii(mailbox)),
        () if mailbox.local().starts_with('"') => Err(CannotCarry::quoted(mailbox)),
        () => Ok(()),
    }
}
