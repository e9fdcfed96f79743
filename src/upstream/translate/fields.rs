//! The header of a message as fields of an email.

use super::note::{Change, Note};
use super::{CannotCarry, written};
use crate::mime::address_list::{addresses, mailboxes, readable_addresses};
use crate::mime::charset;
use crate::mime::encoded_word;
use crate::mime::header::{Field, Header};
use crate::mime::inspect::IDEMPOTENCY_KEY_FIELD;

/// Resend refuses a mail without a subject.
const NO_SUBJECT: &str = "(no subject)";

/// Fields that are written as something else: fields of the email, its parts.
const TRANSLATED: [&str; 11] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Subject",
    "Reply-To",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Content-ID",
    "Content-Location",
];

/// Those fields of a part that are carried in some way.
pub(super) const CARRIED_OF_PARTS: [&str; 7] = [
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Content-ID",
    "Content-Location",
    "Content-Length",
    "Content-MD5",
];

/// Fields that Resend writes itself in every mail, or that say nothing beyond this hop:
/// [`super::EVERY_MAIL`] tells them.
const OF_EVERY_MAIL: [&str; 13] = [
    "Received",
    "Return-Path",
    "Date",
    "Message-ID",
    "MIME-Version",
    "DKIM-Signature",
    "DKIM2-Signature",
    "DomainKey-Signature",
    "ARC-Seal",
    "ARC-Message-Signature",
    "ARC-Authentication-Results",
    "Content-Length",
    IDEMPOTENCY_KEY_FIELD,
];

/// Fields that Resend or Amazon SES would refuse, write themselves or take for orders, and
/// those that are for Postmeter alone. The same field twice makes Resend answer 500 for ever.
const NOT_CARRIED: [&str; 6] =
    ["Sender", "Delivered-To", "X-Original-To", "Authentication-Results", "Received-SPF", "Message-Instance"];
const NOT_CARRIED_PREFIXES: [&str; 6] = ["Content-", "Resent-", "ARC-", "Resend-", "X-SES-", "X-Postmeter-"];

/// Fields that have one value (RFC 5322 §3.6 and those that define them), so that two
/// cannot be written as one.
const ONCE: [&str; 16] = [
    "Archived-At",
    "Auto-Submitted",
    "Importance",
    "List-Id",
    "List-Unsubscribe-Post",
    "Message-Context",
    "Organization",
    "Precedence",
    "Priority",
    "Sensitivity",
    "Thread-Index",
    "Thread-Topic",
    "User-Agent",
    "X-Entity-Ref-ID",
    "X-Mailer",
    "X-Priority",
];

pub(super) fn from(header: &Header<'_>, notes: &mut Vec<Note>) -> Result<String, CannotCarry> {
    let mut list = Vec::new();
    for field in header.all("From") {
        let unreadable = |error| CannotCarry::new("5.6.0", &format!("the From header {error}"));
        list.extend(mailboxes(field.value()).map_err(unreadable)?);
        let has_comments = readable_addresses(field.value()).has_comments;
        notes.extend(has_comments.then(|| Note::field("From", Change::CommentShown)));
    }
    match list.as_slice() {
        [one] => written(one),
        [] => Err(CannotCarry::new("5.6.0", "the message has no From address")),
        _ => Err(CannotCarry::new("5.6.0", "Resend carries only one From address")),
    }
}

pub(super) fn reply_to(header: &Header<'_>, notes: &mut Vec<Note>) -> Result<Vec<String>, CannotCarry> {
    let mut list = Vec::new();
    for field in header.all("Reply-To") {
        let unreadable = |error| CannotCarry::new("5.6.0", &format!("the Reply-To header {error}"));
        list.extend(addresses(field.value()).map_err(unreadable)?);
        let readable = readable_addresses(field.value());
        let comments = readable.has_comments.then_some(Change::CommentShown);
        let is_empty = readable.list.is_empty() && readable.groups.is_empty();
        let empty = is_empty.then_some(Change::Empty);
        let changes = readable.groups.into_iter().map(Change::GroupName).chain(comments).chain(empty);
        notes.extend(changes.map(|change| Note::field("Reply-To", change)));
    }
    list.iter().map(written).collect()
}

/// What octets beyond ASCII are read as where they are no UTF-8.
const GUESS: &str = "Windows-1252";

fn is_guess(field: &Field<'_>) -> bool {
    std::str::from_utf8(field.value()).is_err()
}

/// Those fields written as something else whose character set is a guess, since their octets are no UTF-8 or have escapes,
/// and those that have characters which no line has.
pub(super) fn guessed(header: &Header<'_>, notes: &mut Vec<Note>) {
    for field in header.fields.iter().filter(|field| TRANSLATED.iter().any(|name| field.is(name))) {
        if is_guess(field) && !field.starts_with("Content-") {
            notes.push(Note::field(field.name(), Change::ReadAs(GUESS.to_owned())));
        }
        if field.is("Subject") && charset::iso_2022_jp(field.value()).is_some() {
            notes.push(Note::field(field.name(), Change::ReadAs("ISO-2022-JP".to_owned())));
        }
        if !field.starts_with("Content-") && !field.is("Bcc") && field.has_decoded_controls() {
            notes.push(Note::field(field.name(), Change::ControlsReplaced));
        }
    }
}

pub(super) fn subject(header: &Header<'_>, notes: &mut Vec<Note>) -> String {
    let count = header.all("Subject").count();
    if count > 1 {
        notes.push(Note::field("Subject", Change::FirstOnly(count)));
    }
    let subject = header.first("Subject").map(Field::decoded).unwrap_or_default();
    if subject.is_empty() {
        notes.push(Note::message(Change::NoSubject));
        return NO_SUBJECT.to_owned();
    }
    subject
}

/// The other fields, each name once: `headers` is a map. Message ids of a repeated
/// field are joined with a space, other values with a comma, as lists are written
/// (RFC 9110 §5.3 does the same for HTTP); of a field that has one value by its nature
/// the first is carried. Values are ASCII: what is not becomes encoded words, what is
/// encoded stays so.
pub(super) fn custom(header: &Header<'_>, notes: &mut Vec<Note>) -> Vec<(String, String)> {
    let mut carried: Vec<Custom> = Vec::new();
    for field in header.fields.iter().filter(|field| !is_written_elsewhere(field)) {
        if !is_carried(field) {
            notes.push(Note::field(field.name(), Change::NotCarried));
            continue;
        }
        let unfolded = field.unfolded();
        let value = encoded_word::encode(&unfolded);
        let note = |change| Note::field(field.name(), change);
        match () {
            () if value.is_empty() => notes.push(note(Change::Empty)),
            () if value != unfolded => notes.push(note(Change::FieldEncoded)),
            () => {}
        }
        notes.extend(is_guess(field).then(|| note(Change::ReadAs(GUESS.to_owned()))));
        notes.extend(field.has_controls().then(|| note(Change::ControlsReplaced)));
        match carried.iter_mut().find(|known| field.is(&known.name)) {
            _ if value.is_empty() => {}
            None => carried.push(Custom { name: field.name().to_owned(), value, count: 1, is_same: true }),
            Some(known) => known.meet(field, &value),
        }
    }
    let notes_of = |known: &Custom| {
        let is_once = ONCE.iter().any(|name| known.name.eq_ignore_ascii_case(name));
        let change = if is_once { Change::FirstOnly } else { Change::FieldsJoined };
        (known.count > 1).then(|| Note::field(&known.name, change(known.count)))
    };
    notes.extend(carried.iter().filter(|known| !known.is_same).filter_map(notes_of));
    carried.into_iter().map(|known| (known.name, known.value)).collect()
}

/// A field that is carried, as far as it is known.
struct Custom {
    name: String,
    value: String,
    /// How often it stands there.
    count: usize,
    /// With the same value each time.
    is_same: bool,
}

impl Custom {
    /// It stands there once more.
    fn meet(&mut self, field: &Field<'_>, value: &str) {
        self.count += 1;
        if self.value == value {
            return;
        }
        self.is_same = false;
        if ONCE.iter().any(|name| field.is(name)) {
            return;
        }
        let ids = field.is("References") || field.is("In-Reply-To");
        self.value.push_str(if ids { " " } else { ", " });
        self.value.push_str(value);
    }
}

fn is_written_elsewhere(field: &Field<'_>) -> bool {
    TRANSLATED.into_iter().chain(OF_EVERY_MAIL).any(|name| field.is(name))
}

fn is_carried(field: &Field<'_>) -> bool {
    !NOT_CARRIED.into_iter().any(|name| field.is(name))
        && !NOT_CARRIED_PREFIXES.into_iter().any(|prefix| field.starts_with(prefix))
}
