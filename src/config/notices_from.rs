//! `Name <address>` as `notices.from` has it.

use std::fmt;

use crate::domain::address::{InvalidAddress, Mailbox};

/// Who bounces and notices come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticesFrom {
    /// The display name, without quotes; may be empty.
    pub name: String,
    /// The address.
    pub mailbox: Mailbox,
}

impl NoticesFrom {
    /// Accepts `Name <address>`, `"Name" <address>` or a bare `address`.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err(InvalidAddress::LocalPart);
        }
        let Some((name, address)) = text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) else {
            return Ok(Self { name: String::new(), mailbox: Mailbox::parse(text)? });
        };
        let name = name.trim();
        let bare = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
        if bare.contains(['"', '<', '>', '\\']) {
            return Err(InvalidAddress::LocalPart);
        }
        Ok(Self { name: bare.to_owned(), mailbox: Mailbox::parse(address)? })
    }

    /// `Postmeter <postmaster@hostname>`.
    pub(super) fn postmaster(hostname: &str) -> Result<Self, InvalidAddress> {
        let mailbox = Mailbox::parse(&format!("postmaster@{hostname}"))?;
        Ok(Self { name: "Postmeter".to_owned(), mailbox })
    }
}

/// As a From header and Resend's `from` take it; the name is quoted where
/// RFC 5322 §3.2.4 asks for it.
impl fmt::Display for NoticesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(c);
        match self.name.as_str() {
            "" => self.mailbox.fmt(f),
            name if name.chars().all(plain) => write!(f, "{name} <{}>", self.mailbox),
            name => write!(f, "\"{name}\" <{}>", self.mailbox),
        }
    }
}
