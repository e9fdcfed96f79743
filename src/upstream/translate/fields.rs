//! The header of a message as fields of an email.

use super::{CannotCarry, written};
use crate::mime::address_list::{addresses, mailboxes};
use crate::mime::encoded_word;
use crate::mime::header::{Field, Header};

/// Resend refuses a mail without a subject.
const NO_SUBJECT: &str = "(no subject)";

/// Fields that Resend writes itself or that say nothing beyond this hop. The same
/// field twice makes Resend answer 500 for ever.
const NOT_CARRIED: [&str; 18] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Subject",
    "Reply-To",
    "Sender",
    "Return-Path",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Delivered-To",
    "X-Original-To",
    "DKIM-Signature",
    "DKIM2-Signature",
    "DomainKey-Signature",
    "Authentication-Results",
    "Message-Instance",
];

/// Families of fields that are not carried.
const NOT_CARRIED_PREFIXES: [&str; 7] =
    ["Content-", "Received", "ARC-", "Resent-", "Resend-", "X-SES-", "X-Postmeter-"];

pub(super) fn from(header: &Header<'_>) -> Result<String, CannotCarry> {
    let mut list = Vec::new();
    for field in header.all("From") {
        let unreadable = |error| CannotCarry::new("5.6.0", &format!("the From header {error}"));
        list.extend(mailboxes(field.value()).map_err(unreadable)?);
    }
    match list.as_slice() {
        [one] => written(one),
        [] => Err(CannotCarry::new("5.6.0", "the message has no From address")),
        _ => Err(CannotCarry::new("5.6.0", "Resend carries only one From address")),
    }
}

pub(super) fn reply_to(header: &Header<'_>) -> Result<Vec<String>, CannotCarry> {
    let mut list = Vec::new();
    for field in header.all("Reply-To") {
        let unreadable = |error| CannotCarry::new("5.6.0", &format!("the Reply-To header {error}"));
        list.extend(addresses(field.value()).map_err(unreadable)?);
    }
    list.iter().map(written).collect()
}

pub(super) fn subject(header: &Header<'_>) -> String {
    let subject = header.first("Subject").map(Field::decoded).unwrap_or_default();
    if subject.is_empty() { NO_SUBJECT.to_owned() } else { subject }
}

/// The other fields, each name once: `headers` is a map. Message ids of a repeated
/// field are joined with a space, other values with a comma, as lists are written
/// (RFC 9110 §5.3 does the same for HTTP). Values are ASCII: what is not becomes
/// encoded words, what is encoded stays so.
pub(super) fn custom(header: &Header<'_>) -> Vec<(String, String)> {
    let mut carried: Vec<(String, String)> = Vec::new();
    for field in header.fields.iter().filter(|field| is_carried(field)) {
        let value = encoded_word::encode(&field.unfolded());
        let known = carried.iter_mut().find(|(name, _)| field.is(name));
        match known {
            _ if value.is_empty() => {}
            None => carried.push((field.name().to_owned(), value)),
            Some((_, joined)) if *joined == value => {}
            Some((_, joined)) => {
                let ids = field.is("References") || field.is("In-Reply-To");
                joined.push_str(if ids { " " } else { ", " });
                joined.push_str(&value);
            }
        }
    }
    carried
}

fn is_carried(field: &Field<'_>) -> bool {
    !NOT_CARRIED.into_iter().any(|name| field.is(name))
        && !NOT_CARRIED_PREFIXES.into_iter().any(|prefix| field.starts_with(prefix))
}
