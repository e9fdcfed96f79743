//! Identifiers: made here or by Dodo, never checked for a prefix, never confused
//! with one another.

use std::fmt;

use jiff::Timestamp;
use uuid::Builder;

use super::digest::hex;

/// Why a text is not an identifier of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid {1}: use 1 to {MAX_ID_OCTETS} letters, digits, '_', '-', '.', '@' or '+'")]
pub struct InvalidId(String, &'static str);

/// Longest identifier accepted from outside, in octets.
pub const MAX_ID_OCTETS: usize = 128;

fn valid(text: &str) -> bool {
    // Ids become path segments, and dots alone would name another path.
    (1..=MAX_ID_OCTETS).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b'+'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Accepts what came from outside, or says what is wrong with it.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId(text.chars().take(MAX_ID_OCTETS).collect(), $what))
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }
    };
}

id!(
    /// A customer, under the id that Dodo gave it (`customer_id`).
    CustomerId, "customer id"
);
id!(
    /// The name half of a credential.
    Username, "username"
);
id!(
    /// One message that was taken in; sorts by time of acceptance.
    MessageId, "message id"
);
id!(
    /// One part of a message: `MESSAGE-N`. Only letters, digits and `-`, so that
    /// it can travel as a Resend tag.
    PartId, "part id"
);
id!(
    /// One settlement entry; at Dodo it is the idempotency key.
    EntryId, "entry id"
);

id!(
    /// One call that carries parts of several messages, or of one; at Resend it is the idempotency key.
    BatchId, "batch id"
);
id!(
    /// What a large message has beyond its header, while it arrives and until it is final.
    SpoolId, "spool id"
);

/// Sixteen octets of randomness, handed in so that ids can be made in pure code.
pub type Entropy = [u8; 16];

/// A time-ordered unique text (UUID version 7, RFC 9562 §5.7, without hyphens).
fn unique(now: Timestamp, entropy: Entropy) -> String {
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let mut ten = [0u8; 10];
    ten.copy_from_slice(entropy.first_chunk::<10>().unwrap_or(&[0; 10]));
    Builder::from_unix_timestamp_millis(millis, &ten).into_uuid().simple().to_string()
}

impl MessageId {
    /// A new id for a message accepted at `now`.
    pub fn generate(now: Timestamp, entropy: Entropy) -> Self {
        Self(unique(now, entropy))
    }

    /// The id of this message's part number `index`.
    pub fn part(&self, index: u32) -> PartId {
        PartId(format!("{self}-{index}"))
    }
}

impl SpoolId {
    /// A new id for a message whose bytes begin to be written at `now`.
    pub fn generate(now: Timestamp, entropy: Entropy) -> Self {
        Self(format!("spool-{}", unique(now, entropy)))
    }
}

impl BatchId {
    /// A new id for a call that is composed at `now`.
    pub fn generate(now: Timestamp, entropy: Entropy) -> Self {
        Self(format!("b_{}", unique(now, entropy)))
    }
}

impl PartId {
    /// The message and the number of the part in it.
    pub fn split(&self) -> Option<(MessageId, u32)> {
        let (message_id, number) = self.0.rsplit_once('-')?;
        Some((MessageId::parse(message_id).ok()?, number.parse().ok()?))
    }
}

impl EntryId {
    /// A new id for an entry opened at `now`.
    pub fn generate(now: Timestamp, entropy: Entropy) -> Self {
        Self(format!("entry-{}", unique(now, entropy)))
    }
}

impl Username {
    /// A new username; the customer's id is not in it, since usernames are shown around.
    pub fn generate(entropy: Entropy) -> Self {
        Self(format!("pm-{}", hex(entropy.first_chunk::<8>().unwrap_or(&[0; 8]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_from_outside_are_bounded_and_plain() {
        for ok in ["cus_sandbox", "cus_a.b-C", "a@b.example", "x"] {
            assert_eq!(CustomerId::parse(ok).unwrap().as_str(), ok);
        }
        for bad in ["", ".", "..", "a b", "a\r\n", "ü", "a/b", &"x".repeat(129)] {
            assert!(CustomerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn message_ids_sort_by_time_and_name_their_parts() {
        let early = MessageId::generate(Timestamp::from_second(1_000).unwrap(), [255; 16]);
        let late = MessageId::generate(Timestamp::from_second(1_001).unwrap(), [0; 16]);
        assert!(early < late);
        assert_eq!(early.as_str().len(), 32);
        let part = early.part(2);
        assert!(part.as_str().ends_with("-2"));
        assert_eq!(part.split(), Some((early, 2)));
        for bad in ["x", "-1", "x-", "x-y", "x-4294967296"] {
            assert_eq!(PartId::parse(bad).unwrap().split(), None, "{bad}");
        }
        assert!(part.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }
}
