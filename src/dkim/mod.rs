//! Signatures for mail that leaves by SMTP (RFC 6376, RFC 8463).
//!
//! The keys come from the configuration. Those of the domain in the From field sign,
//! or else those of the nearest domain above it (relaxed alignment, RFC 7489
//! §3.1.1); the operator's default key, if there is one, signs the rest. A customer's
//! domain is nobody else's, so its key signs that customer's mail alone. Canonical
//! form and choice are pure; the keys are ring's, as in TLS: mail-auth would bring a
//! second cryptography and a resolver, for two canonical forms.
//!
//! A signature is made anew at each attempt. What this room must not know: SMTP, who
//! sends.

mod canonical;
mod key;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::address::Domain;
use crate::mime::address_list::readable_addresses;
use crate::mime::header::{Field, Header};
use key::Key;
pub use key::UnusableKey;

/// Signed with one name more than there are fields, so that nobody can add another
/// without breaking the signature (RFC 6376 §8.15).
const OVERSIGNED: [&str; 10] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Reply-To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// Signed where they are (RFC 6376 §5.4.1, RFC 8058 §4).
const SIGNED: [&str; 14] = [
    "In-Reply-To",
    "References",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];

/// Longest line of the signature's field, in octets.
const LINE_OCTETS: usize = 76;

/// `[[dkim]]`: a key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySetting {
    /// It signs mail from this domain, and from those below it that have no key of their own.
    pub domain: String,
    /// The public key is published at `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// PEM of an RSA key of 2048 to 4096 bits, or of an Ed25519 key.
    pub key_file: PathBuf,
    /// It also signs what no other key signs.
    #[serde(default)]
    pub default: bool,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDkim {
    /// The file cannot be read.
    #[error("the DKIM key {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no key of use.
    #[error("the DKIM key {} cannot be used: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: UnusableKey,
    },
}

/// A TXT record that the DNS must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `SELECTOR._domainkey.DOMAIN`
    pub name: String,
    /// `v=DKIM1; …`; in a zone file cut into strings of at most 255 octets.
    pub value: String,
}

/// The signature failed: the system has no random octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message could not be signed")]
pub struct Unsigned;

/// The keys.
#[derive(Debug, Default)]
pub struct Signer {
    keys: Vec<Signature>,
}

/// One `[[dkim]]`.
#[derive(Debug)]
struct Signature {
    /// In small letters and punycode.
    domain: String,
    selector: String,
    is_default: bool,
    key: Key,
}

impl Signer {
    /// Reads the key files.
    pub fn load(settings: &[KeySetting]) -> Result<Self, InvalidDkim> {
        Ok(Self { keys: settings.iter().map(Signature::load).collect::<Result<_, _>>()? })
    }

    /// What must stand in the DNS, in the order of the configuration.
    pub fn records(&self) -> Vec<Record> {
        self.keys.iter().map(Signature::record).collect()
    }

    /// Whether it has keys at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The `DKIM-Signature` fields to put in front of the message, each with its line
    /// end: one for each key that is responsible for it, none if no key is.
    pub fn sign(&self, message: &[u8], now: Timestamp) -> Result<Vec<u8>, Unsigned> {
        // Submission lets no malformed header in.
        let Ok(header) = Header::parse(message) else { return Ok(Vec::new()) };
        let keys = self.responsible(author_domain(&header).as_deref());
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let body_hash = BASE64.encode(canonical::body_hash(header.body));
        let signed = Signed::of(&header);
        let fields = keys.iter().map(|key| key.field(&signed, &body_hash, now).ok_or(Unsigned));
        Ok(fields.collect::<Result<Vec<String>, _>>()?.concat().into_bytes())
    }

    /// The keys of the author's domain, or of the nearest one above it, or the default.
    fn responsible(&self, author: Option<&str>) -> Vec<&Signature> {
        let mut domain = author;
        while let Some(name) = domain {
            let own: Vec<_> = self.keys.iter().filter(|key| key.domain == name).collect();
            if !own.is_empty() {
                return own;
            }
            domain = name.split_once('.').map(|(_, above)| above);
        }
        self.keys.iter().filter(|key| key.is_default).collect()
    }
}

impl Signature {
    fn load(settings: &KeySetting) -> Result<Self, InvalidDkim> {
        let path: &Path = &settings.key_file;
        let unreadable = |source| InvalidDkim::Unreadable { path: path.to_owned(), source };
        let unusable = |source| InvalidDkim::Unusable { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(unreadable)?;
        Ok(Self {
            domain: Domain::parse(&settings.domain)
                .map_or_else(|_| settings.domain.clone(), |d| d.to_ascii()),
            selector: settings.selector.clone(),
            is_default: settings.default,
            key: Key::from_pem(&pem).map_err(unusable)?,
        })
    }

    fn record(&self) -> Record {
        Record { name: format!("{}._domainkey.{}", self.selector, self.domain), value: self.key.record() }
    }

    /// The whole field. What is signed last is this field itself, with nothing behind
    /// `b=` and without its line end (RFC 6376 §3.7).
    fn field(&self, signed: &Signed, body_hash: &str, now: Timestamp) -> Option<String> {
        let mut value = format!(
            " v=1; a={}; c=relaxed/relaxed; d={};\r\n\ts={}; t={};\r\n\th=",
            self.key.algorithm(),
            self.domain,
            self.selector,
            now.as_second()
        );
        fold_names(&mut value, &signed.names);
        value.push_str(&format!(";\r\n\tbh={body_hash};\r\n\tb="));
        let mut octets = signed.canonical.clone();
        octets.extend_from_slice(canonical::field("DKIM-Signature", value.as_bytes()).trim_ascii_end());
        let signature = BASE64.encode(self.key.sign(&octets)?);
        for (at, octet) in signature.chars().enumerate() {
            if at > 0 && at % (LINE_OCTETS - 4) == 0 {
                value.push_str("\r\n\t");
            }
            value.push(octet);
        }
        Some(format!("DKIM-Signature:{value}\r\n"))
    }
}

/// What of the header is signed.
struct Signed {
    /// For `h=`.
    names: Vec<&'static str>,
    /// The fields of these names in canonical form.
    canonical: Vec<u8>,
}

impl Signed {
    /// Fields of one name are signed from the last one upwards (RFC 6376 §5.4.2).
    fn of(header: &Header<'_>) -> Self {
        let mut signed = Self { names: Vec::new(), canonical: Vec::new() };
        for name in OVERSIGNED.into_iter().chain(SIGNED) {
            let fields: Vec<&Field<'_>> = header.all(name).collect();
            for field in fields.into_iter().rev() {
                signed.names.push(name);
                signed.canonical.extend(canonical::field(name, field.value()));
            }
            if OVERSIGNED.contains(&name) {
                signed.names.push(name);
            }
        }
        signed
    }
}

/// The names with colons between them, on lines that are not too long.
fn fold_names(value: &mut String, names: &[&str]) {
    let mut column = "h=".len() + 1;
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            value.push(':');
            column += 1;
        }
        if column + name.len() >= LINE_OCTETS {
            value.push_str("\r\n\t");
            column = 1;
        }
        value.push_str(name);
        column += name.len();
    }
}

/// The domain of the first author, in small letters and punycode.
fn author_domain(header: &Header<'_>) -> Option<String> {
    let from = header.first("From")?;
    let author = readable_addresses(from.value()).list.into_iter().next()?;
    Some(author.mailbox.domain().to_ascii())
}
