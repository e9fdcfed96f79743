//! Retried submissions: a customer's key, and what the customer meant by it.
//!
//! A key names one submission for [`KEY_LIFETIME`]. The [`Fingerprint`] tells a
//! retry, which is answered as the first time, from another message under a key
//! that was used. It covers what the customer said, never what a relay stamps.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::digest::hex;

/// How long a key is remembered after the acceptance.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest key, in octets.
pub const MAX_KEY_BYTES: usize = 256;

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one value of 1 to {MAX_KEY_BYTES} printable ASCII characters")]
pub struct InvalidKey;

/// What a customer calls one submission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Accepts 1 to [`MAX_KEY_BYTES`] printable ASCII characters; blanks around them do not count.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim_matches([' ', '\t']);
        let is_sound =
            (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if is_sound { Ok(Self(text.to_owned())) } else { Err(InvalidKey) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SHA-256 of what was meant, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A submission that may be retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The customer's key.
    pub key: IdempotencyKey,
    /// What was meant by it.
    pub fingerprint: Fingerprint,
}

/// Takes a fingerprint, field by field. Each goes in with its length, so that no
/// two lists of fields read the same.
#[derive(Debug, Clone)]
pub struct Fingerprinting(Sha256);

impl Fingerprinting {
    /// Of a submission that came by `way`: the same key over another way names something else.
    pub fn of(way: &str) -> Self {
        Self(Sha256::new()).field("way", way.as_bytes())
    }

    /// One more field.
    #[must_use]
    pub fn field(self, name: &str, value: &[u8]) -> Self {
        self.piece(name.as_bytes()).piece(value)
    }

    /// The rest, which comes in pieces, and the end: where it is cut makes no difference.
    pub fn rest<'a>(mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        pieces.into_iter().for_each(|piece| self.0.update(piece));
        self.end()
    }

    /// The end.
    pub fn end(self) -> Fingerprint {
        Fingerprint(hex(&self.0.finalize()))
    }

    fn piece(mut self, octets: &[u8]) -> Self {
        self.0.update(u64::try_from(octets.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(octets);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printable_and_bounded() {
        let longest = "k".repeat(MAX_KEY_BYTES);
        let table = [
            ("order 17", Some("order 17")),
            (" \tk ", Some("k")),
            (longest.as_str(), Some(longest.as_str())),
            ("", None),
            ("  ", None),
            ("gr\u{fc}n", None),
            ("a\tb", None),
            ("a\r\nb", None),
            (&"k".repeat(MAX_KEY_BYTES + 1), None),
        ];
        for (text, want) in table {
            assert_eq!(IdempotencyKey::parse(text).ok().as_ref().map(IdempotencyKey::as_str), want, "{text}");
        }
    }

    #[test]
    fn fingerprints_differ_wherever_the_meaning_does() {
        let of = |fields: &[(&str, &str)], rest: &[&str]| {
            let begun = fields.iter().fold(Fingerprinting::of("w"), |f, (n, v)| f.field(n, v.as_bytes()));
            begun.rest(rest.iter().map(|piece| piece.as_bytes())).as_str().to_owned()
        };
        let same = [of(&[("to", "ab")], &["xyz"]), of(&[("to", "ab")], &["x", "", "yz"])];
        assert_eq!(same[0], same[1]);
        let others = [
            of(&[("to", "a"), ("to", "b")], &["xyz"]),
            of(&[("to", "a")], &["bxyz"]),
            of(&[("cc", "ab")], &["xyz"]),
            of(&[("to", "ab")], &["xy"]),
            of(&[("toa", "b")], &["xyz"]),
            Fingerprinting::of("v").field("to", b"ab").rest([b"xyz".as_slice()]).as_str().to_owned(),
        ];
        for (nth, other) in others.iter().enumerate() {
            assert_ne!(*other, same[0], "{nth}");
            assert_eq!(other.len(), 64);
        }
    }
}
