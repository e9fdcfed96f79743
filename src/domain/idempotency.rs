//! Retried submissions: a customer's key, and what the customer meant by it.
//!
//! A key names one submission for [`KEY_LIFETIME`]. The [`Fingerprint`] tells a
//! retry from another message under a key that was used. It covers what the
//! customer said, never what a relay stamps. Whoever was accepted under the key is
//! not mailed again: a retry for them alone is answered as the first time, and one
//! for others too is for the others only ([`Used`]).

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::address::Mailbox;
use super::digest::hex;
use super::ids::MessageId;

/// How long a key is remembered after the last acceptance under it: nobody who was
/// told 250 and did not hear it is mailed again within that time.
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
    /// Those of its recipients who have it under the key already, as far as is
    /// known: they are not mailed again.
    pub served: Vec<Mailbox>,
}

/// What was accepted under a key: one content, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    fingerprint: String,
    messages: u32,
    /// By which message, and which one of the key's that is.
    served: BTreeMap<Mailbox, (u32, MessageId)>,
}

/// What a submission is to what was accepted under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Another message.
    Other,
    /// The same, and these of its recipients have it; the others do not.
    Rest(Vec<Mailbox>),
    /// The same, and all of its recipients have it. The answer that each of its
    /// tries got, or should have got, names the last message that served one of them:
    /// whatever was accepted later under the key is for nobody of them.
    All(MessageId),
}

impl Used {
    /// A key that so many messages of this content were accepted under.
    pub fn new(fingerprint: &str, messages: u32) -> Self {
        Self { fingerprint: fingerprint.to_owned(), messages, served: BTreeMap::new() }
    }

    /// What is meant by it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many messages were accepted under it.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// A recipient was served by a message, which one of the key's `number` says.
    pub fn serve(&mut self, recipient: Mailbox, number: u32, message_id: MessageId) {
        self.served.insert(recipient, (number, message_id));
    }

    /// One more message is accepted, for these; returns which one of the key's it is.
    pub fn add<'a>(&mut self, message_id: &MessageId, to: impl IntoIterator<Item = &'a Mailbox>) -> u32 {
        self.messages = self.messages.saturating_add(1);
        for recipient in to {
            self.serve(recipient.clone(), self.messages, message_id.clone());
        }
        self.messages
    }

    /// What a submission of this fingerprint to these is to it.
    pub fn meaning<'a>(
        &self,
        fingerprint: &Fingerprint,
        to: impl IntoIterator<Item = &'a Mailbox>,
    ) -> Meaning {
        if self.fingerprint != fingerprint.as_str() {
            return Meaning::Other;
        }
        let (mut served, mut is_all, mut last) = (Vec::new(), true, None);
        for recipient in to {
            match self.served.get(recipient) {
                Some(by) => {
                    served.push(recipient.clone());
                    last = last.max(Some(by));
                }
                None => is_all = false,
            }
        }
        match last {
            Some((_, message_id)) if is_all => Meaning::All(message_id.clone()),
            _ => Meaning::Rest(served),
        }
    }
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

    /// What comes last and in pieces: where it is cut makes no difference.
    pub fn last(&mut self, octets: &[u8]) {
        self.0.update(octets);
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
        let ended = |mut begun: Fingerprinting, last: &[&str]| {
            last.iter().for_each(|piece| begun.last(piece.as_bytes()));
            begun.end().as_str().to_owned()
        };
        let of = |fields: &[(&str, &str)], last: &[&str]| {
            let begun = fields.iter().fold(Fingerprinting::of("w"), |f, (n, v)| f.field(n, v.as_bytes()));
            ended(begun, last)
        };
        let same = [of(&[("to", "ab")], &["xyz"]), of(&[("to", "ab")], &["x", "", "yz"])];
        assert_eq!(same[0], same[1]);
        let others = [
            of(&[("to", "a"), ("to", "b")], &["xyz"]),
            of(&[("to", "a")], &["bxyz"]),
            of(&[("cc", "ab")], &["xyz"]),
            of(&[("to", "ab")], &["xy"]),
            of(&[("toa", "b")], &["xyz"]),
            ended(Fingerprinting::of("v").field("to", b"ab"), &["xyz"]),
        ];
        for (nth, other) in others.iter().enumerate() {
            assert_ne!(*other, same[0], "{nth}");
            assert_eq!(other.len(), 64);
        }
    }

    #[test]
    fn whoever_has_it_is_not_served_again_and_a_retry_gets_its_own_answer() {
        let fingerprint = |of| Fingerprinting::of(of).end();
        let mailboxes = |names: &str| -> Vec<Mailbox> {
            names.chars().map(|name| Mailbox::parse(&format!("{name}@Y.example")).unwrap()).collect()
        };
        let id = |nth: u32| MessageId::parse(&format!("m{}", 9 - nth)).unwrap();
        let mut used = Used::new(fingerprint("w").as_str(), 0);
        let all = |nth| Meaning::All(id(nth));
        let rest = |names| Meaning::Rest(mailboxes(names));
        let meaning = |used: &Used, names| used.meaning(&fingerprint("w"), &mailboxes(names));
        assert_eq!(meaning(&used, "ab"), rest(""));
        assert_eq!(used.add(&id(1), &mailboxes("abc")), 1);
        // Asked for a to e, it was accepted for the two that were left.
        assert_eq!(meaning(&used, "abcde"), rest("abc"));
        assert_eq!(used.add(&id(2), &mailboxes("de")), 2);
        let table = [
            ("abc", all(1)),
            ("cab", all(1)),
            ("b", all(1)),
            ("de", all(2)),
            ("abcde", all(2)),
            ("eabcd", all(2)),
            ("f", rest("")),
            ("bf", rest("b")),
            ("feb", rest("eb")),
            ("", rest("")),
        ];
        for (names, want) in table {
            assert_eq!(meaning(&used, names), want, "{names}");
        }
        assert_eq!(used.meaning(&fingerprint("v"), &mailboxes("a")), Meaning::Other);
    }
}
