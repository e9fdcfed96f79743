//! What submission must know of a message before it takes it in, from the header
//! alone: bodies are not read here, so the cost does not grow with them.

use std::ops::Range;

use super::address_list::{UnreadableList, mailboxes};
use super::header::{Field, Header, Malformed};
use crate::domain::address::Mailbox;
use crate::domain::idempotency::{IdempotencyKey, InvalidKey};

/// The field by which an SMTP client makes a submission idempotent.
pub const IDEMPOTENCY_KEY_FIELD: &str = "X-Postmeter-Idempotency-Key";

/// Why a message is refused; each reads as one line of ASCII for the customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// The header itself is malformed.
    #[error(transparent)]
    Header(#[from] Malformed),
    /// There is no From field (RFC 5322 §3.6).
    #[error("the message has no From header")]
    FromMissing,
    /// There are several From fields.
    #[error("the message has more than one From header")]
    FromDoubled,
    /// The From field is empty.
    #[error("the From header holds no address")]
    FromEmpty,
    /// The From field cannot be read.
    #[error("the From header {0}")]
    FromUnreadable(UnreadableList),
    /// There are several Sender fields, or one that is not exactly one address.
    #[error("the Sender header must hold exactly one address")]
    Sender,
    /// The idempotency key is doubled, empty, too long or not printable ASCII.
    #[error("the {IDEMPOTENCY_KEY_FIELD} header {0}")]
    IdempotencyKey(InvalidKey),
}

/// What the header of a sound message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The addresses of the one From field; at least one.
    pub from: Vec<Mailbox>,
    /// The address of the Sender field.
    pub sender: Option<Mailbox>,
    /// Whether there is a Date field.
    pub has_date: bool,
    /// Whether there is a Message-ID field.
    pub has_message_id: bool,
    /// The number of Received fields: the hands it has passed through.
    pub received: usize,
    /// The subject, decoded, on one line; for the log.
    pub subject: Option<String>,
    /// The customer's idempotency key.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The names of those fields that do not leave although other mail keeps what stands in
    /// them: neither Bcc, nor what every message loses.
    pub withheld: Vec<String>,
    /// The fields that must not leave, in their order.
    pub(super) stripped: Vec<Range<usize>>,
    /// With a key: the fields that say nothing about what is meant by the message, in their order.
    incidental: Vec<Range<usize>>,
}

impl Inspection {
    /// What a retry must say again: the message, of whose `bytes` this is the
    /// inspection, without its key and without what each try is stamped with
    /// before it comes here (Received, Date and Message-ID).
    pub fn meant<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        without(bytes, &self.incidental)
    }
}

/// Reads the header of a message. `bytes` may be its beginning only, as long as the
/// whole header is in it; the same holds for [`prepare`](super::trace::prepare).
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Unsound> {
    let header = Header::parse(bytes)?;
    let idempotency_key = idempotency_key(&header)?;
    let ranges = |is_meant: fn(&Field<'_>) -> bool| {
        header.fields.iter().filter(move |field| is_meant(field)).map(Field::range).collect()
    };
    Ok(Inspection {
        from: from(&header)?,
        sender: sender(&header)?,
        has_date: header.first("Date").is_some(),
        has_message_id: header.first("Message-ID").is_some(),
        received: header.all("Received").count(),
        subject: header.first("Subject").map(Field::decoded),
        withheld: header
            .fields
            .iter()
            .filter(|field| is_withheld(field))
            .map(|field| field.name().to_owned())
            .collect(),
        stripped: ranges(must_not_leave),
        incidental: if idempotency_key.is_some() { ranges(is_incidental) } else { Vec::new() },
        idempotency_key,
    })
}

/// The octets around these ranges, which follow each other.
pub(super) fn without<'a>(bytes: &'a [u8], ranges: &[Range<usize>]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain(std::iter::once(bytes.len()));
    starts.zip(ends).map(|(start, end)| bytes.get(start..end).unwrap_or_default())
}

fn from(header: &Header<'_>) -> Result<Vec<Mailbox>, Unsound> {
    let mut fields = header.all("From");
    let field = fields.next().ok_or(Unsound::FromMissing)?;
    if fields.next().is_some() {
        return Err(Unsound::FromDoubled);
    }
    let list = mailboxes(field.value()).map_err(Unsound::FromUnreadable)?;
    if list.is_empty() {
        return Err(Unsound::FromEmpty);
    }
    Ok(list.into_iter().map(|named| named.mailbox).collect())
}

fn sender(header: &Header<'_>) -> Result<Option<Mailbox>, Unsound> {
    let mut fields = header.all("Sender");
    let Some(field) = fields.next() else { return Ok(None) };
    let mut list = mailboxes(field.value()).map_err(|_| Unsound::Sender)?.into_iter();
    match (list.next(), list.next(), fields.next()) {
        (Some(one), None, None) => Ok(Some(one.mailbox)),
        _ => Err(Unsound::Sender),
    }
}

fn idempotency_key(header: &Header<'_>) -> Result<Option<IdempotencyKey>, Unsound> {
    let mut fields = header.all(IDEMPOTENCY_KEY_FIELD);
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Unsound::IdempotencyKey(InvalidKey));
    }
    IdempotencyKey::parse(&field.unfolded()).map(Some).map_err(Unsound::IdempotencyKey)
}

/// Clients write a new Date and Message-ID for each try, and relays before us a new Received.
fn is_incidental(field: &Field<'_>) -> bool {
    [IDEMPOTENCY_KEY_FIELD, "Received", "Date", "Message-ID"].into_iter().any(|name| field.is(name))
}

/// Bcc recipients are never shown; the other fields are orders to this relay or
/// to the next, a customer's `Resend-Idempotency-Key` could swallow another customer's
/// mail, and their `X-Postmeter-Part` would have news of it be about another's.
fn must_not_leave(field: &Field<'_>) -> bool {
    ["Bcc", "Resent-Bcc", "Return-Path"].into_iter().any(|name| field.is(name))
        || ["Resend-", "X-SES-", "X-Postmeter-"].into_iter().any(|prefix| field.starts_with(prefix))
}

/// Whether nobody would expect that it stays behind.
fn is_withheld(field: &Field<'_>) -> bool {
    must_not_leave(field)
        && !["Bcc", "Return-Path", IDEMPOTENCY_KEY_FIELD].into_iter().any(|name| field.is(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_header_is_read() {
        let bytes = b"Received: x\r\nFROM : Ann <a@x.example>,\r\n b@x.example\r\nSender: s@x.example\r\n\
            Received: y\r\nsubject: =?utf-8?b?R3LDvMOfZQ==?=\r\nDate: now\r\n\
            X-Postmeter-Idempotency-Key: order 17\r\n\r\nFrom: body@x.example\r\n";
        let inspection = inspect(bytes).unwrap();
        assert_eq!(
            inspection.from.iter().map(Mailbox::to_string).collect::<Vec<_>>(),
            ["a@x.example", "b@x.example"]
        );
        assert_eq!(inspection.sender.unwrap().to_string(), "s@x.example");
        assert!(inspection.has_date && !inspection.has_message_id);
        assert_eq!(inspection.received, 2);
        assert_eq!(inspection.subject.as_deref(), Some("Gr\u{fc}\u{df}e"));
        assert_eq!(inspection.idempotency_key.as_ref().map(IdempotencyKey::as_str), Some("order 17"));
    }

    #[test]
    fn unsound_headers_are_refused_with_their_reason() {
        let long_key = format!("From: a@x.example\r\nX-Postmeter-Idempotency-Key: {}\r\n", "k".repeat(257));
        let no_key = || Unsound::IdempotencyKey(InvalidKey);
        let table: [(&[u8], Unsound); 16] = [
            (b"", Unsound::FromMissing),
            (b"\r\nFrom: a@x.example\r\n", Unsound::FromMissing),
            (b"Subject: s\r\n\r\nFrom: a@x.example\r\n", Unsound::FromMissing),
            (b"From: a@x.example\r\nFrom: a@x.example\r\n\r\n", Unsound::FromDoubled),
            (b"From: a@x.example\r\nfrom : b@x.example\r\n\r\n", Unsound::FromDoubled),
            (b"From:\r\n\r\n", Unsound::FromEmpty),
            (b"From: <>\r\n\r\n", Unsound::FromEmpty),
            (b"From: us: a@x.example;\r\n\r\n", Unsound::FromUnreadable(UnreadableList::Group)),
            (b"From: Ann\r\n\r\n", Unsound::FromUnreadable(UnreadableList::Address)),
            (b"From: a@x.example, Ann\r\n\r\n", Unsound::FromUnreadable(UnreadableList::Address)),
            (b"From: a@x.example\r\nhello\r\n\r\n", Unsound::Header(Malformed::NotAField { line: 2 })),
            (b"From: a@x.example\r\nSender: a@x.example, b@x.example\r\n\r\n", Unsound::Sender),
            (b"From: a@x.example\r\nX-Postmeter-Idempotency-Key:\r\n\r\n", no_key()),
            (
                b"X-Postmeter-Idempotency-Key: k\r\nFrom: a@x.example\r\nx-postmeter-idempotency-key: k\r\n",
                no_key(),
            ),
            (b"From: a@x.example\r\nX-Postmeter-Idempotency-Key: \xc3\xbc\r\n", no_key()),
            (long_key.as_bytes(), no_key()),
        ];
        for (bytes, want) in table {
            let unsound = inspect(bytes).unwrap_err();
            assert_eq!(unsound, want, "{bytes:?}");
            assert!(unsound.to_string().bytes().all(|b| matches!(b, b' '..=b'~')));
        }
    }

    #[test]
    fn orders_that_do_not_leave_are_told_and_what_every_mail_loses_is_not() {
        let bytes = b"Return-Path: <a@x.example>\r\nBcc: h@x.example\r\nresend-tags: a\r\nX-SES-List: l\r\n\
            X-Postmeter-Idempotency-Key: k\r\nX-Postmeter-Odd: o\r\nResent-Bcc: h@x.example\r\n\
            From: a@x.example\r\nX-Resend: stays\r\n\r\nX-SES-Body: x\r\n";
        let withheld = inspect(bytes).unwrap().withheld;
        assert_eq!(withheld, ["resend-tags", "X-SES-List", "X-Postmeter-Odd", "Resent-Bcc"]);
    }

    #[test]
    fn what_is_meant_is_the_message_without_what_each_try_is_stamped_with() {
        let meant = |bytes: &str| {
            let inspection = inspect(bytes.as_bytes()).unwrap();
            String::from_utf8(inspection.meant(bytes.as_bytes()).collect::<Vec<_>>().concat()).unwrap()
        };
        let table = [
            (
                "Received: from a\r\n\tby b\r\nX-Postmeter-Idempotency-Key: k\r\nFrom: a@x.example\r\n\
                 Date: d\r\nMessage-ID: <1@x>\r\nBcc: h@x.example\r\n\r\nDate: in the body\r\n",
                "From: a@x.example\r\nBcc: h@x.example\r\n\r\nDate: in the body\r\n",
            ),
            ("From: a@x.example\r\nx-postmeter-idempotency-key: k", "From: a@x.example\r\n"),
            ("Date: d\r\nFrom: a@x.example\r\n\r\nx", "Date: d\r\nFrom: a@x.example\r\n\r\nx"),
        ];
        for (bytes, want) in table {
            assert_eq!(meant(bytes), want);
        }
    }
}
