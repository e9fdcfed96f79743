//! The addresses that a customer's mail is not taken for, and why.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::address::Mailbox;

/// How an address came on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Cause {
    /// Mail to it bounced for good.
    Bounce,
    /// Its owner called a mail spam.
    Complaint,
    /// The upstream has it on a list of its own, and skips it.
    Upstream,
    /// The customer or the operator put it there.
    Manual,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Bounce, Self::Complaint, Self::Upstream, Self::Manual];

    /// The name in the database and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
            Self::Upstream => "upstream",
            Self::Manual => "manual",
        }
    }

    /// The cause of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// In words, as what happened to the address.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Bounce => "mail to it bounced",
            Self::Complaint => "its owner called a mail spam",
            Self::Upstream => "the upstream has it on its own list",
            Self::Manual => "it was put there by hand",
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An address as the list knows it: whoever gets the mail, however the address is
/// spelt. Lower case throughout, though a local part may tell cases apart: no
/// mailbox is known that does, and a second bounce costs more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SuppressedAddress(String);

impl SuppressedAddress {
    /// As the list knows this mailbox.
    pub fn of(mailbox: &Mailbox) -> Self {
        Self(format!("{}@{}", mailbox.local().to_lowercase(), mailbox.domain().to_ascii()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SuppressedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an address is on the list, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// How it came there.
    pub cause: Cause,
    /// What was said then, in one line.
    pub detail: Option<String>,
    /// When.
    pub added_at: Timestamp,
}

impl fmt::Display for Why {
    /// `since 2026-11-23: mail to it bounced (550 5.1.1 no such user)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {}: {}", self.added_at.strftime("%Y-%m-%d"), self.cause.words())?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mailbox_is_one_address_however_it_is_spelt() {
        let key = |text| SuppressedAddress::of(&Mailbox::parse(text).unwrap());
        assert_eq!(key("Gone@Example.NET"), key("gone@example.net"));
        assert_eq!(key("bob@b\u{fc}cher.example"), key("bob@xn--bcher-kva.example"));
        assert_eq!(key("GR\u{dc}N@x.example").as_str(), "gr\u{fc}n@x.example");
        assert_ne!(key("a@x.example"), key("a@y.example"));
    }

    #[test]
    fn a_reason_says_when_and_what() {
        let added_at = Timestamp::from_second(1_781_000_000).unwrap();
        let why = Why { cause: Cause::Bounce, detail: Some("550 no".to_owned()), added_at };
        assert_eq!(why.to_string(), "since 2026-06-09: mail to it bounced (550 no)");
        let why = Why { cause: Cause::Manual, detail: None, added_at };
        assert_eq!(why.to_string(), "since 2026-06-09: it was put there by hand");
    }
}
