//! Mail addresses as the envelope knows them (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! Addresses are parsed once, at the edge. A [`Mailbox`] keeps the local part as
//! it was written (only the receiving domain may interpret it) and the domain in
//! lower case; two mailboxes are [the same](Mailbox::is_same) when the same person would
//! get the mail, however an internationalised domain is spelt.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest local part, in octets (RFC 5321 §4.5.3.1.1).
pub const MAX_LOCAL_OCTETS: usize = 64;
/// Longest domain, in octets (RFC 5321 §4.5.3.1.2).
pub const MAX_DOMAIN_OCTETS: usize = 255;
/// Longest mailbox: a path is at most 256 octets with its brackets (RFC 5321 §4.5.3.1.3).
pub const MAX_MAILBOX_OCTETS: usize = 254;

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Nothing between the brackets.
    #[error("the address is empty")]
    Empty,
    /// No `@`, or nothing before it.
    #[error("the address must read local-part@domain")]
    NoDomain,
    /// The part before the `@` is malformed.
    #[error("the part before the @ is malformed")]
    LocalPart,
    /// The part after the `@` is malformed.
    #[error("the domain is malformed")]
    Domain,
    /// A length limit of RFC 5321 §4.5.3.1 is passed.
    #[error("the address is too long")]
    TooLong,
}

/// A domain name, or an address literal such as `[192.0.2.1]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Accepts a domain name (ASCII or U-label) or an address literal.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > MAX_DOMAIN_OCTETS {
            return Err(InvalidAddress::TooLong);
        }
        if let Some(literal) = text.strip_prefix('[') {
            return Self::literal(literal);
        }
        let labels_are_sound = !text.is_empty() && text.split('.').all(sound_label);
        if !labels_are_sound {
            return Err(InvalidAddress::Domain);
        }
        if !text.is_ascii() && idna::domain_to_ascii_strict(text).is_err() {
            return Err(InvalidAddress::Domain);
        }
        Ok(Self(text.to_lowercase()))
    }

    fn literal(rest: &str) -> Result<Self, InvalidAddress> {
        let inner = rest.strip_suffix(']').ok_or(InvalidAddress::Domain)?;
        let sound = match inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")) {
            Some(_) => inner.get(5..).is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok()),
            None => inner.parse::<Ipv4Addr>().is_ok(),
        };
        if sound { Ok(Self(format!("[{}]", inner.to_lowercase()))) } else { Err(InvalidAddress::Domain) }
    }

    /// The domain in lower case, as it was written otherwise.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the same domain, in whatever spelling of an internationalised name.
    pub fn is_same(&self, other: &Self) -> bool {
        self == other || (!(self.0.is_ascii() && other.0.is_ascii()) && self.to_ascii() == other.to_ascii())
    }

    /// The domain in A-labels (punycode), for roads that carry ASCII only.
    pub fn to_ascii(&self) -> String {
        if self.0.is_ascii() {
            return self.0.clone();
        }
        idna::domain_to_ascii_strict(&self.0).unwrap_or_else(|_| self.0.clone())
    }
}

fn sound_label(label: &str) -> bool {
    let ends_well = !label.starts_with('-') && !label.ends_with('-');
    (1..=63).contains(&label.len())
        && ends_well
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `local-part@domain`, without angle brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

impl Mailbox {
    /// Accepts what stands between the angle brackets of a path. A source route
    /// (`@a,@b:user@c`) is understood and dropped (RFC 5321 §4.1.1.3).
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let text = without_source_route(text)?;
        if text.is_empty() {
            return Err(InvalidAddress::Empty);
        }
        if text.len() > MAX_MAILBOX_OCTETS {
            return Err(InvalidAddress::TooLong);
        }
        let at = end_of_local_part(text).ok_or(InvalidAddress::NoDomain)?;
        let (local, domain) = text.split_at_checked(at).ok_or(InvalidAddress::NoDomain)?;
        let domain = domain.strip_prefix('@').ok_or(InvalidAddress::NoDomain)?;
        if local.is_empty() {
            return Err(InvalidAddress::NoDomain);
        }
        if local.len() > MAX_LOCAL_OCTETS {
            return Err(InvalidAddress::TooLong);
        }
        if !(sound_dot_string(local) || sound_quoted_string(local)) {
            return Err(InvalidAddress::LocalPart);
        }
        Ok(Self { local: normal_local(local), domain: Domain::parse(domain)? })
    }

    /// The local part, quoted where it must be.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether the same person would get the mail: the domains may be spelt differently.
    pub fn is_same(&self, other: &Self) -> bool {
        self.local == other.local && self.domain.is_same(&other.domain)
    }

    /// Whether every octet is ASCII; if not, the road must speak SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.0.is_ascii()
    }

    /// Whether an ASCII-only road can carry it: a non-ASCII domain can be written
    /// as punycode, a non-ASCII local part cannot.
    pub fn fits_ascii(&self) -> bool {
        self.local.is_ascii()
    }

    /// The address with its domain in punycode.
    pub fn to_ascii(&self) -> String {
        format!("{}@{}", self.local, self.domain.to_ascii())
    }

    /// The address where only ASCII may stand: its domain in punycode, and other
    /// characters of its local part by their numbers, as RFC 6533 §3 writes them.
    pub fn to_readable_ascii(&self) -> String {
        format!("{}@{}", in_ascii(&self.local), self.domain.to_ascii())
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// Characters beyond ASCII by their numbers (RFC 6533 §3); those that control stay.
pub(super) fn in_ascii(text: &str) -> String {
    let written = |c: char| match c {
        c if c.is_ascii() || c.is_control() => c.to_string(),
        c => format!("\\x{{{:X}}}", u32::from(c)),
    };
    text.chars().map(written).collect()
}

fn without_source_route(text: &str) -> Result<&str, InvalidAddress> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, rest) = text.split_once(':').ok_or(InvalidAddress::NoDomain)?;
    let sound =
        route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|domain| Domain::parse(domain).is_ok()));
    if sound { Ok(rest) } else { Err(InvalidAddress::Domain) }
}

/// The index of the `@` that ends the local part; a quoted local part may hold others.
fn end_of_local_part(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        return text.find('@');
    }
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn sound_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn sound_quoted_string(local: &str) -> bool {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let sound = match c {
            '\\' => chars.next().is_some_and(|next| matches!(next, ' '..='~')),
            '"' => false,
            _ => matches!(c, ' '..='~') || (!c.is_ascii() && !c.is_control()),
        };
        if !sound {
            return false;
        }
    }
    !inner.is_empty()
}

/// A quoted local part that needs no quotes is the same mailbox without them
/// (RFC 5321 §4.1.2), and must count as the same recipient.
fn normal_local(local: &str) -> String {
    match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if sound_dot_string(inner) => inner.to_owned(),
        _ => local.to_owned(),
    }
}

/// Where news about a message goes: a mailbox, or nowhere (`<>`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `MAIL FROM:<>`: a report; nothing about it is ever reported.
    Null,
    /// The envelope sender.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Accepts what stands between the angle brackets of `MAIL FROM`.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse(text).map(Self::Mailbox) }
    }

    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_mailboxes() {
        let table = [
            ("user@example.com", "user@example.com"),
            ("User@EXAMPLE.com", "User@example.com"),
            ("a.b+c%d!e@example.com", "a.b+c%d!e@example.com"),
            ("\"a b\"@example.com", "\"a b\"@example.com"),
            ("\"a@b\"@example.com", "\"a@b\"@example.com"),
            ("\"plain\"@example.com", "plain@example.com"),
            ("user@[192.0.2.1]", "user@[192.0.2.1]"),
            ("user@[IPv6:2001:db8::1]", "user@[ipv6:2001:db8::1]"),
            ("@relay.example,@b.example:user@example.com", "user@example.com"),
            ("grüße@example.com", "grüße@example.com"),
            ("user@bücher.example", "user@bücher.example"),
        ];
        for (text, want) in table {
            assert_eq!(Mailbox::parse(text).map(|m| m.to_string()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn unsound_mailboxes() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.example", "b".repeat(64));
        let long = format!("a@{}", ["b".repeat(60).as_str(); 5].join("."));
        for text in [
            "",
            "user",
            "@example.com",
            "user@",
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a b@example.com",
            "a@b@example.com",
            "\"a\"b@example.com",
            "\"@example.com",
            "\"\"@example.com",
            "a@exa mple.com",
            "a@-x.example",
            "a@x-.example",
            "a@x..example",
            "a@[300.1.1.1]",
            "a@[::1]",
            "a@[1.2.3.4",
            "a\r\n@example.com",
            "a\0@example.com",
            "a@ex\rample.com",
            "@r:a",
            &long_local,
            &long_label,
            &long,
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ascii_roads() {
        let idn = Mailbox::parse("user@bücher.example").unwrap();
        assert!(!idn.is_ascii() && idn.fits_ascii());
        assert_eq!(idn.to_ascii(), "user@xn--bcher-kva.example");
        assert_eq!(idn.to_readable_ascii(), idn.to_ascii());
        let umlaut = Mailbox::parse("gr\u{fc}\u{df}e@b\u{fc}cher.example").unwrap();
        assert_eq!(umlaut.to_readable_ascii(), "gr\\x{FC}\\x{DF}e@xn--bcher-kva.example");
        assert!(!Mailbox::parse("grüße@example.com").unwrap().fits_ascii());
    }

    #[test]
    fn null_sender_is_a_reverse_path_of_its_own() {
        assert_eq!(ReversePath::parse("").unwrap(), ReversePath::Null);
        assert_eq!(ReversePath::Null.to_string(), "");
        assert!(ReversePath::parse("x").is_err());
    }
}
