//! Address lists as headers write them (RFC 5322 §3.4): names, comments, groups.
//!
//! mail-parser takes the list apart; each address must then be a [`Mailbox`], so
//! that whatever it glued together from nonsense is refused, never guessed.

use std::fmt;

use mail_parser::parsers::MessageStream;
use mail_parser::{Addr, Address, HeaderValue};

use super::header::{MAX_DECODING_STEPS, is_cheap, one_line, terminated};
use crate::domain::address::Mailbox;

/// A mailbox with its display name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMailbox {
    /// The display name, decoded, on one line.
    pub name: Option<String>,
    /// The address.
    pub mailbox: Mailbox,
}

/// Why a text is not a list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableList {
    /// A group such as `undisclosed-recipients:;`, where only mailboxes may stand.
    #[error("holds a group instead of an address")]
    Group,
    /// More encoded words than are worth decoding.
    #[error("is too long")]
    TooLong,
    /// Something in it is not an address.
    #[error("holds something that is not an address")]
    Address,
}

impl NamedMailbox {
    /// Accepts exactly one `user@example.com` or `Name <user@example.com>`.
    pub fn parse(text: &str) -> Result<Self, UnreadableList> {
        if text.contains(['\r', '\n', '\0']) {
            return Err(UnreadableList::Address);
        }
        let mut list = mailboxes(text.as_bytes())?.into_iter();
        match (list.next(), list.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(UnreadableList::Address),
        }
    }

    /// The address with its domain in punycode, and its name as a quoted string.
    pub fn to_ascii_domain(&self) -> String {
        quoted(self.name.as_deref(), &self.mailbox.to_ascii())
    }
}

impl From<Mailbox> for NamedMailbox {
    fn from(mailbox: Mailbox) -> Self {
        Self { name: None, mailbox }
    }
}

impl fmt::Display for NamedMailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(self.name.as_deref(), &self.mailbox.to_string()))
    }
}

/// `"Doe, John" <john@example.com>`: quoted, so that no punctuation does harm.
fn quoted(name: Option<&str>, address: &str) -> String {
    match name {
        None => address.to_owned(),
        Some(name) => format!("{} <{address}>", quoted_string(name)),
    }
}

/// A quoted string (RFC 5322 §3.2.4).
pub(crate) fn quoted_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Reads the value of a field in which only mailboxes may stand (From, Sender).
/// An empty field is an empty list.
pub fn mailboxes(value: &[u8]) -> Result<Vec<NamedMailbox>, UnreadableList> {
    match parsed(value)? {
        Some(Address::Group(_)) => Err(UnreadableList::Group),
        Some(Address::List(list)) => list.iter().map(named).collect(),
        None => Ok(Vec::new()),
    }
}

/// Reads the value of a field that may hold groups (Reply-To); the members of
/// groups count like the others.
pub fn addresses(value: &[u8]) -> Result<Vec<NamedMailbox>, UnreadableList> {
    members(parsed(value)?).iter().map(named).collect()
}

/// Like [`addresses`], passing over what cannot be read: for To and Cc, which
/// decide nothing, since only the envelope does.
pub fn readable_addresses(value: &[u8]) -> Vec<NamedMailbox> {
    members(parsed(value).unwrap_or_default()).iter().filter_map(|addr| named(addr).ok()).collect()
}

fn parsed(value: &[u8]) -> Result<Option<Address<'static>>, UnreadableList> {
    let value = terminated(value);
    if !is_cheap(&value, MAX_DECODING_STEPS) {
        return Err(UnreadableList::TooLong);
    }
    Ok(match MessageStream::new(value.as_bytes()).parse_address().into_owned() {
        HeaderValue::Address(address) => Some(address),
        _ => None,
    })
}

fn members(address: Option<Address<'_>>) -> Vec<Addr<'_>> {
    match address {
        Some(Address::List(list)) => list,
        Some(Address::Group(groups)) => groups.into_iter().flat_map(|group| group.addresses).collect(),
        None => Vec::new(),
    }
}

fn named(addr: &Addr<'_>) -> Result<NamedMailbox, UnreadableList> {
    let address = addr.address.as_deref().ok_or(UnreadableList::Address)?;
    let mailbox = Mailbox::parse(address.trim()).map_err(|_| UnreadableList::Address)?;
    let name = addr.name.as_deref().map(one_line).filter(|name| !name.is_empty());
    Ok(NamedMailbox { name, mailbox })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: Vec<NamedMailbox>) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_of_addresses() {
        let table: [(&str, &[&str]); 11] = [
            ("a@x.example", &["a@x.example"]),
            (" <A@X.example>\r\n", &["A@x.example"]),
            ("Ann <a@x.example>, b@x.example", &["\"Ann\" <a@x.example>", "b@x.example"]),
            ("\"Doe, \\\"J\\\"\" <a@x.example>", &["\"Doe, \\\"J\\\"\" <a@x.example>"]),
            ("=?utf-8?q?J=C3=BCrgen?= <a@x.example>", &["\"J\u{fc}rgen\" <a@x.example>"]),
            ("a@x.example (Ann)", &["\"Ann\" <a@x.example>"]),
            ("a@x.example <b@y.example>", &["\"a@x.example\" <b@y.example>"]),
            ("Ann\r\n <a@x.example>\r\n", &["\"Ann\" <a@x.example>"]),
            ("<\"a b\"@x.example>", &["\"a b\"@x.example"]),
            ("=?utf-8?q?a=0D=0ABcc:_x?= <a@x.example>", &["\"a Bcc: x\" <a@x.example>"]),
            ("", &[]),
        ];
        for (value, want) in table {
            assert_eq!(shown(mailboxes(value.as_bytes()).unwrap()), want, "{value}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for value in [
            "nobody",
            "Name <>",
            "<a@x.example> b@y.example",
            "<a@x.example><b@y.example>",
            "a@x.example b@y.example",
            "a@x.example; b@y.example",
            "undisclosed-recipients:;",
            "friends: a@x.example;",
            "a@x.example, nobody",
            "<a@x\0.example>",
        ] {
            assert!(mailboxes(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn groups_are_read_where_they_decide_nothing() {
        let value = b"friends: a@x.example, Bea <b@x.example>;, nobody";
        assert_eq!(shown(readable_addresses(value)), ["a@x.example", "\"Bea\" <b@x.example>"]);
        assert!(readable_addresses(b"undisclosed-recipients:;").is_empty());
        assert_eq!(addresses(b"friends: a@x.example;").unwrap().len(), 1);
        assert!(addresses(b"nobody").is_err());
    }

    #[test]
    fn one_address_from_a_person_or_a_file() {
        assert!(NamedMailbox::parse("Postmeter <postmaster@example.com>").is_ok());
        for text in ["", "a@x.example, b@x.example", "a@x.example\r\nBcc: b@x.example"] {
            assert!(NamedMailbox::parse(text).is_err(), "{text:?}");
        }
    }
}
