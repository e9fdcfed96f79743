//! Address lists as headers write them (RFC 5322 §3.4): names, comments, groups.
//!
//! mail-parser takes the list apart; each address must then be a [`Mailbox`], so
//! that whatever it glued together from nonsense is refused, never guessed. Encoded
//! words are hidden from it and decoded here, as in every other field.

use std::fmt;

use mail_parser::parsers::MessageStream;
use mail_parser::{Addr, Address, HeaderValue};

use super::encoded_word::{Hidden, hide};
use super::header::{one_line, terminated, text};
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

/// Octets that mail-parser may look at to read one field. What looks like the
/// beginning of an encoded word and is none may cost it a look at all that follows.
const MAX_STEPS: usize = 64 << 20;

/// Reads the value of a field in which only mailboxes may stand (From, Sender).
/// An empty field is an empty list.
pub fn mailboxes(value: &[u8]) -> Result<Vec<NamedMailbox>, UnreadableList> {
    let (address, hidden) = parsed(value)?;
    match address {
        Some(Address::Group(_)) => Err(UnreadableList::Group),
        Some(Address::List(list)) => list.iter().map(|addr| named(addr, &hidden)).collect(),
        None => Ok(Vec::new()),
    }
}

/// Reads the value of a field that may hold groups (Reply-To); the members of
/// groups count like the others.
pub fn addresses(value: &[u8]) -> Result<Vec<NamedMailbox>, UnreadableList> {
    let (address, hidden) = parsed(value)?;
    members(address).iter().map(|addr| named(addr, &hidden)).collect()
}

/// What could be read of a field, for To and Cc, which decide nothing, since only
/// the envelope does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readable {
    /// The addresses, those in groups too.
    pub list: Vec<NamedMailbox>,
    /// Something in it is no address.
    pub has_others: bool,
    /// Names of groups.
    pub groups: Vec<String>,
    /// A comment stands beside a name and has become part of it.
    pub has_comments: bool,
}

/// Like [`addresses`], passing over what cannot be read.
pub fn readable_addresses(value: &[u8]) -> Readable {
    let Ok((address, hidden)) = parsed(value) else {
        return Readable { has_others: true, ..Readable::default() };
    };
    let groups = match &address {
        Some(Address::Group(groups)) => {
            let names = groups.iter().filter_map(|group| group.name.as_deref());
            names.map(|name| one_line(&hidden.shown(name))).collect()
        }
        _ => Vec::new(),
    };
    let members = members(address);
    let has_comments = members.iter().any(|addr| addr.name.as_deref().is_some_and(|name| name.contains('(')))
        && unquoted(&text(value)).contains('(');
    let list: Vec<_> = members.iter().filter_map(|addr| named(addr, &hidden).ok()).collect();
    Readable { has_others: list.len() < members.len(), list, groups, has_comments }
}

/// The text without its quoted strings.
fn unquoted(text: &str) -> String {
    text.replace("\\\"", "").split('"').step_by(2).collect()
}

fn parsed(value: &[u8]) -> Result<(Option<Address<'static>>, Hidden), UnreadableList> {
    let (value, hidden) = hide(&terminated(value));
    if value.matches("=?").count().saturating_mul(value.len()) > MAX_STEPS {
        return Err(UnreadableList::TooLong);
    }
    let value = with_spaces_kept(&value);
    let address = match MessageStream::new(value.as_bytes()).parse_address().into_owned() {
        HeaderValue::Address(address) => Some(address),
        _ => None,
    };
    Ok((address, hidden))
}

/// The value with the space that stands between a word and a quoted string moved into the
/// latter: mail-parser loses it there, and `Ann "Lee" Smith` would be called `AnnLee Smith`.
fn with_spaces_kept(value: &str) -> String {
    let mut kept = String::with_capacity(value.len());
    let (mut is_quoted, mut is_escaped, mut comments) = (false, false, 0_usize);
    let mut is_after_word = false;
    for c in value.chars() {
        let is_mark = !is_escaped && c == '"' && comments == 0;
        if is_mark && !is_quoted && is_after_word && kept.ends_with(char::is_whitespace) {
            kept.truncate(kept.trim_end().len());
            kept.push_str("\" ");
        } else {
            kept.push(c);
        }
        is_quoted ^= is_mark;
        match c {
            '(' if !is_escaped && !is_quoted => comments = comments.saturating_add(1),
            ')' if !is_escaped && !is_quoted => comments = comments.saturating_sub(1),
            _ => {}
        }
        if !c.is_whitespace() {
            is_after_word = is_quoted || comments == 0 && !matches!(c, ',' | ';' | ':' | '<' | '>' | ')');
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    kept
}

fn members(address: Option<Address<'_>>) -> Vec<Addr<'_>> {
    match address {
        Some(Address::List(list)) => list,
        Some(Address::Group(groups)) => groups.into_iter().flat_map(|group| group.addresses).collect(),
        None => Vec::new(),
    }
}

fn named(addr: &Addr<'_>, hidden: &Hidden) -> Result<NamedMailbox, UnreadableList> {
    let address = addr.address.as_deref().filter(|address| !Hidden::is_marked(address));
    let address = address.ok_or(UnreadableList::Address)?;
    let mailbox = Mailbox::parse(address.trim()).map_err(|_| UnreadableList::Address)?;
    let name = addr.name.as_deref().map(|name| one_line(&hidden.shown(name)));
    Ok(NamedMailbox { name: name.filter(|name| !name.is_empty()), mailbox })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: Vec<NamedMailbox>) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_of_addresses() {
        let table: [(&str, &[&str]); 20] = [
            ("a@x.example", &["a@x.example"]),
            ("=?utf-8?q?Doe,_John?= <a@x.example>", &["\"Doe, John\" <a@x.example>"]),
            ("=?utf-8?q?<b@y.example>?= <a@x.example>", &["\"<b@y.example>\" <a@x.example>"]),
            ("\"=?utf-8?b?SsO8cmdlbg==?=\" <a@x.example>", &["\"J\u{fc}rgen\" <a@x.example>"]),
            ("=?utf-8?q?J=C3?= =?utf-8?q?=BC?= X <a@x.example>", &["\"J\u{fc} X\" <a@x.example>"]),
            ("a@x.example (=?utf-8?q?J=C3=BC?=)", &["\"J\u{fc}\" <a@x.example>"]),
            ("=?x-odd?q?=FF?= <a@x.example>", &["\"=?x-odd?q?=FF?=\" <a@x.example>"]),
            ("J\u{fc}rgen <a@x.example>", &["\"J\u{fc}rgen\" <a@x.example>"]),
            (" <A@X.example>\r\n", &["A@x.example"]),
            ("Ann <a@x.example>, b@x.example", &["\"Ann\" <a@x.example>", "b@x.example"]),
            ("\"Doe, \\\"J\\\"\" <a@x.example>", &["\"Doe, \\\"J\\\"\" <a@x.example>"]),
            ("=?utf-8?q?J=C3=BCrgen?= <a@x.example>", &["\"J\u{fc}rgen\" <a@x.example>"]),
            ("a@x.example (Ann)", &["\"Ann\" <a@x.example>"]),
            ("a@x.example <b@y.example>", &["\"a@x.example\" <b@y.example>"]),
            ("Ann\r\n <a@x.example>\r\n", &["\"Ann\" <a@x.example>"]),
            ("<\"a b\"@x.example>", &["\"a b\"@x.example"]),
            ("Ann \"Lee\" Smith <a@x.example>", &["\"Ann Lee Smith\" <a@x.example>"]),
            ("Ann\r\n\t\"L. \\\"(\" \"S.\" <a@x.example>", &["\"Ann L. \\\"( S.\" <a@x.example>"]),
            ("=?utf-8?q?a=0D=0ABcc:_x?= <a@x.example>", &["\"a Bcc: x\" <a@x.example>"]),
            ("", &[]),
        ];
        for (value, want) in table {
            assert_eq!(shown(mailboxes(value.as_bytes()).unwrap()), want, "{value}");
        }
    }

    #[test]
    fn a_value_is_read_in_time_whatever_it_is_full_of() {
        for filling in [" ", "\t", "\" ", "a \"", "(", "\\"] {
            let value = format!("Ann{} <a@x.example>", filling.repeat((256 << 10) / filling.len()));
            // Whether it can be read or not is another matter: with a step for each pair of octets this takes hours.
            assert!(mailboxes(value.as_bytes()).is_ok_and(|list| list.len() == 1) || filling != " ");
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
            "a@x.example \"b\"@y.example",
            "Ann\"Lee\", \"B\" <a@x.example>",
            "a@x.example; b@y.example",
            "undisclosed-recipients:;",
            "friends: a@x.example;",
            "a@x.example, nobody",
            "<a@x\0.example>",
            "<=?utf-8?q?a?=@x.example>",
            "=?utf-8?q?a=40x.example?=",
        ] {
            assert!(mailboxes(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn groups_are_read_where_they_decide_nothing() {
        let value = b"friends: a@x.example, Bea <b@x.example>;, nobody";
        let readable = readable_addresses(value);
        assert_eq!((readable.has_others, readable.groups.as_slice()), (true, &["friends".to_owned()][..]));
        assert_eq!(shown(readable.list), ["a@x.example", "\"Bea\" <b@x.example>"]);
        let nobody = readable_addresses(b"undisclosed-recipients:;");
        assert!(nobody.list.is_empty() && !nobody.has_others && nobody.groups.len() == 1);
        assert_eq!(addresses(b"friends: a@x.example;").unwrap().len(), 1);
        let table = [
            ("a@x.example (Ann)", false),
            ("\"Ann (\\\"x\\\")\" <a@x.example>", false),
            ("=?utf-8?q?Ann_(x)?= <a@x.example>", false),
            ("Ann (x) <a@x.example>", true),
            ("b@x.example, \"Ann\" <a@x.example> (x)", true),
        ];
        for (value, has_comments) in table {
            assert_eq!(readable_addresses(value.as_bytes()).has_comments, has_comments, "{value}");
        }
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
