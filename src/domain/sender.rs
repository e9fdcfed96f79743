//! Senders: the addresses and domains that a customer may send from.

use std::fmt;

use super::address::{Domain, InvalidAddress, Mailbox};

/// What is asked of a sender (`senders.policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderPolicy {
    /// It must match a pattern of the customer's list.
    #[default]
    Listed,
    /// Anything goes: a relay with a single tenant.
    Any,
}

/// One line of a customer's list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SenderPattern {
    /// `user@example.com`: this address.
    Address(Mailbox),
    /// `example.com`: every address at exactly this domain.
    Domain(Domain),
    /// `*.example.com`: every address at every domain below it.
    Below(Domain),
    /// `*`: any address; only the sandbox writes it.
    Any,
}

impl SenderPattern {
    /// Accepts `user@example.com`, `example.com`, `*.example.com` or `*`.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return Domain::parse(domain).map(Self::Below);
        }
        if text.contains('@') {
            Mailbox::parse(text).map(Self::Address)
        } else {
            Domain::parse(text).map(Self::Domain)
        }
    }

    /// Whether `mailbox` is a sender of this line. Domains compare without regard
    /// to case and to the spelling of an internationalised name; so do local
    /// parts, ASCII case only, since nobody means `Info@` and `info@` to differ.
    pub fn matches(&self, mailbox: &Mailbox) -> bool {
        match self {
            Self::Any => true,
            Self::Address(own) => {
                own.local().eq_ignore_ascii_case(mailbox.local()) && own.domain().is_same(mailbox.domain())
            }
            Self::Domain(domain) => domain.is_same(mailbox.domain()),
            Self::Below(domain) => mailbox
                .domain()
                .to_ascii()
                .strip_suffix(&domain.to_ascii())
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(mailbox) => mailbox.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        let table = [
            ("user@example.com", "user@example.com", true),
            ("user@example.com", "User@Example.com", true),
            ("user@example.com", "other@example.com", false),
            ("example.com", "any@EXAMPLE.com", true),
            ("example.com", "any@sub.example.com", false),
            ("*.example.com", "any@sub.example.com", true),
            ("*.example.com", "any@a.b.example.com", true),
            ("*.example.com", "any@example.com", false),
            ("*.example.com", "any@badexample.com", false),
            ("bücher.example", "a@xn--bcher-kva.example", true),
            ("*", "a@b.example", true),
        ];
        for (pattern, address, want) in table {
            let pattern = SenderPattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(&Mailbox::parse(address).unwrap()), want, "{pattern} {address}");
            assert_eq!(SenderPattern::parse(&pattern.to_string()), Ok(pattern));
        }
        for bad in ["", "*.", "a b", "*@example.com x", "exa mple.com"] {
            assert!(SenderPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
