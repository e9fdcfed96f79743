//! Signatures of webhooks: the Standard Webhooks scheme, which Dodo uses under
//! the header names `webhook-*` and Resend, through Svix, under `svix-*`
//! (standard-webhooks specification, "Signature scheme").
//!
//! The raw body is signed, so it is verified before anything parses it. The
//! stand-ins of the sandbox sign with the same code. Pure: the time is an
//! argument. What this module must not know: what an event means, or whether
//! its id was seen before.

use std::fmt;

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// How far a delivery's time may be from ours, either way, in seconds.
pub const TOLERANCE_S: i64 = 300;

/// Signatures of one delivery that are looked at. While a key is rotated there
/// are two; the rest is somebody making us compute.
const MAX_SIGNATURES: usize = 16;

/// Why a webhook is not believed. None of these tells a stranger anything that
/// helps to forge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is not there, or is not text.
    #[error("the header {0} is missing")]
    MissingHeader(&'static str),
    /// The timestamp is not a number of seconds.
    #[error("the timestamp is not a number of seconds")]
    MalformedTimestamp,
    /// More than [`TOLERANCE_S`] old: a replay, or a clock that is wrong.
    #[error("the timestamp is more than {TOLERANCE_S} seconds old")]
    TooOld,
    /// More than [`TOLERANCE_S`] in the future.
    #[error("the timestamp is more than {TOLERANCE_S} seconds ahead")]
    TooNew,
    /// No signature matches any key.
    #[error("no signature matches")]
    NoMatch,
}

/// Why a text is not a signing key. Never contains the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigningKey {
    /// What follows `whsec_` is not standard Base64.
    #[error("a webhook signing key must be `whsec_` and standard Base64")]
    NotBase64,
    /// An empty key would let anyone sign.
    #[error("a webhook signing key is empty")]
    Empty,
}

/// A key that both ends know (`whsec_…`).
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

/// The names under which the three headers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderNames {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`: Dodo.
    Webhook,
    /// `svix-id`, `svix-timestamp`, `svix-signature`: Resend.
    Svix,
}

impl HeaderNames {
    /// The names of the id, the timestamp and the signature.
    pub const fn all(self) -> [&'static str; 3] {
        match self {
            Self::Webhook => ["webhook-id", "webhook-timestamp", "webhook-signature"],
            Self::Svix => ["svix-id", "svix-timestamp", "svix-signature"],
        }
    }
}

/// The three headers of a delivery, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedHeaders<'a> {
    /// The delivery's id; the same on every retry of the same event.
    pub id: &'a str,
    /// Unix seconds of this attempt.
    pub timestamp: &'a str,
    /// `v1,BASE64`, several with spaces between them.
    pub signature: &'a str,
}

impl<'a> SignedHeaders<'a> {
    /// Reads them, or says which one is missing.
    pub fn read(headers: &'a HeaderMap, names: HeaderNames) -> Result<Self, SignatureError> {
        let text = |name: &'static str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.filter(|value| !value.is_empty()).ok_or(SignatureError::MissingHeader(name))
        };
        let [id, timestamp, signature] = names.all();
        Ok(Self { id: text(id)?, timestamp: text(timestamp)?, signature: text(signature)? })
    }

    /// Whether one of `keys` signed `body` under these headers, at most five minutes from `now`.
    ///
    /// Signatures are compared in constant time; entries of other versions than
    /// `v1` are skipped, as the specification asks.
    pub fn verify(&self, body: &[u8], keys: &[SigningKey], now: Timestamp) -> Result<(), SignatureError> {
        let timestamp: i64 = self.timestamp.parse().map_err(|_| SignatureError::MalformedTimestamp)?;
        let age_s = now.as_second().saturating_sub(timestamp);
        if age_s > TOLERANCE_S {
            return Err(SignatureError::TooOld);
        }
        if age_s < -TOLERANCE_S {
            return Err(SignatureError::TooNew);
        }
        let matches = keys.iter().any(|key| {
            let wanted = key.mac(self.id, self.timestamp, body);
            self.given().any(|given| wanted.as_bytes().ct_eq(given.as_bytes()).into())
        });
        if matches { Ok(()) } else { Err(SignatureError::NoMatch) }
    }

    fn given(&self) -> impl Iterator<Item = &'a str> {
        self.signature.split(' ').take(MAX_SIGNATURES).filter_map(|entry| entry.strip_prefix("v1,"))
    }
}

impl SigningKey {
    /// Reads `whsec_BASE64`; without the prefix the whole text is taken as Base64.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSigningKey> {
        let text = text.expose_secret().trim();
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let key = STANDARD.decode(encoded).map_err(|_| InvalidSigningKey::NotBase64)?;
        if key.is_empty() { Err(InvalidSigningKey::Empty) } else { Ok(Self(key)) }
    }

    /// The signature header of a delivery at `at`: `v1,BASE64`.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        format!("v1,{}", self.mac(id, &at.as_second().to_string(), body))
    }

    /// The timestamp is signed as it was written, not as it was understood.
    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        // HMAC takes a key of any length, so the error cannot happen; an empty
        // text matches no signature.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        for piece in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(piece);
        }
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn key(text: &str) -> SigningKey {
        SigningKey::parse(&SecretString::from(text)).unwrap()
    }

    fn standard_key() -> SigningKey {
        key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    }

    fn standard_headers() -> SignedHeaders<'static> {
        SignedHeaders {
            id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            timestamp: "1649367553",
            signature: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_published_vector_of_standard_webhooks_verifies() {
        assert_eq!(standard_headers().verify(BODY, &[standard_key()], at(1_649_367_553)), Ok(()));
        let signed = standard_key().sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", at(1_649_367_553), BODY);
        assert_eq!(signed, standard_headers().signature);
    }

    #[test]
    fn the_published_vector_of_svix_verifies() {
        let headers = SignedHeaders {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        };
        let keys = [key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
        assert_eq!(headers.verify(br#"{"test": 2432232314}"#, &keys, at(1_614_265_330)), Ok(()));
        assert_eq!(headers.verify(br#"{"test":2432232314}"#, &keys, at(1_614_265_330)), {
            Err(SignatureError::NoMatch)
        });
    }

    #[test]
    fn a_delivery_counts_for_five_minutes_either_way() {
        let table = [
            (-301, Err(SignatureError::TooNew)),
            (-300, Ok(())),
            (300, Ok(())),
            (301, Err(SignatureError::TooOld)),
        ];
        for (offset, want) in table {
            let now = at(1_649_367_553 + offset);
            assert_eq!(standard_headers().verify(BODY, &[standard_key()], now), want, "{offset}");
        }
    }

    #[test]
    fn while_keys_rotate_any_of_several_signatures_and_keys_will_do() {
        let good = standard_headers().signature;
        let now = at(1_649_367_553);
        let other = key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let both = [other.clone(), standard_key()];
        let many = format!("{}{good}", "v1,AAAA ".repeat(MAX_SIGNATURES));
        let unversioned = good.strip_prefix("v1,").unwrap();
        let table: [(String, &[SigningKey], bool); 8] = [
            (good.to_owned(), &both, true),
            (format!("v1,AAAA {good}"), &both, true),
            (format!("v1a,xyz {good}"), &both, true),
            (good.to_owned(), std::slice::from_ref(&other), false),
            (good.to_owned(), &[], false),
            (format!("v2,{unversioned}"), &both, false),
            (unversioned.to_owned(), &both, false),
            (many, &both, false),
        ];
        for (signature, keys, want) in table {
            let headers = SignedHeaders { signature: &signature, ..standard_headers() };
            assert_eq!(headers.verify(BODY, keys, now).is_ok(), want, "{signature}");
        }
    }

    #[test]
    fn whatever_was_signed_cannot_be_changed() {
        let now = at(1_649_367_553);
        let keys = [standard_key()];
        let id = SignedHeaders { id: "msg_other", ..standard_headers() };
        let timestamp = SignedHeaders { timestamp: "1649367554", ..standard_headers() };
        let padded = SignedHeaders { timestamp: "+1649367553", ..standard_headers() };
        for headers in [id, timestamp, padded] {
            assert_eq!(headers.verify(BODY, &keys, now), Err(SignatureError::NoMatch), "{headers:?}");
        }
        assert_eq!(standard_headers().verify(b"", &keys, now), Err(SignatureError::NoMatch));
        for timestamp in ["", "now", "1649367553.0", "99999999999999999999"] {
            let headers = SignedHeaders { timestamp, ..standard_headers() };
            assert_eq!(headers.verify(BODY, &keys, now), Err(SignatureError::MalformedTimestamp));
        }
        let far = SignedHeaders { timestamp: "-9223372036854775808", ..standard_headers() };
        assert_eq!(far.verify(BODY, &keys, now), Err(SignatureError::TooOld));
    }

    #[test]
    fn headers_are_read_under_the_names_of_either_service() {
        for names in [HeaderNames::Webhook, HeaderNames::Svix] {
            let mut headers = HeaderMap::new();
            for name in names.all() {
                assert_eq!(
                    SignedHeaders::read(&headers, names),
                    Err(SignatureError::MissingHeader(name)),
                    "{name}"
                );
                headers.insert(name, "1".parse().unwrap());
            }
            let read = SignedHeaders::read(&headers, names).unwrap();
            assert_eq!(read, SignedHeaders { id: "1", timestamp: "1", signature: "1" });
        }
    }

    #[test]
    fn p10_a_key_is_never_shown() {
        assert_eq!(format!("{:?}", standard_key()), "SigningKey(hidden)");
        for (text, want) in [
            ("whsec_not base64!", InvalidSigningKey::NotBase64),
            ("whsec_", InvalidSigningKey::Empty),
            ("", InvalidSigningKey::Empty),
        ] {
            assert_eq!(SigningKey::parse(&SecretString::from(text)).unwrap_err(), want);
        }
    }
}
