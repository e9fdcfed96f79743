//! Signed webhooks on their way out (Standard Webhooks, which Dodo follows).
//!
//! A parcel keeps its `webhook-id` over all tries; timestamp and signature are
//! of each try. When to try again is the sender's business, not this file's.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// One event, ready to be posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parcel {
    /// `webhook-id`, the same for every try.
    pub(super) webhook_id: String,
    /// The event's `type`, for the log.
    pub(super) event: String,
    /// The JSON, as it is signed and sent.
    pub(super) body: String,
}

/// Posts parcels to the one endpoint that is registered.
#[derive(Debug)]
pub(super) struct Courier {
    http: reqwest::Client,
    secret: String,
    endpoint: Mutex<Option<String>>,
}

impl Courier {
    /// A courier that signs with `secret` (`whsec_…`).
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(super) fn new(secret: &str) -> std::io::Result<Self> {
        let http = super::loopback_client()?.user_agent("Svix-Webhooks/sandbox").build();
        let http = http.map_err(std::io::Error::other)?;
        Ok(Self { http, secret: secret.to_owned(), endpoint: Mutex::default() })
    }

    /// Where parcels go from now on.
    pub(super) fn deliver_to(&self, endpoint: &str) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.to_owned());
    }

    /// Whether there is anyone to post to.
    pub(super) fn has_endpoint(&self) -> bool {
        self.endpoint().is_some()
    }

    fn endpoint(&self) -> Option<String> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tries once, at that Unix time in seconds.
    ///
    /// # Errors
    /// What went wrong: no 2xx within 15 seconds.
    pub(super) async fn post(&self, parcel: &Parcel, at_s: i64) -> Result<(), String> {
        let endpoint = self.endpoint().ok_or("no endpoint is registered")?;
        let timestamp = at_s.to_string();
        let signature = sign(&self.secret, &parcel.webhook_id, &timestamp, parcel.body.as_bytes())?;
        let answer = self
            .http
            .post(endpoint)
            .header("content-type", "application/json")
            .header("webhook-id", &parcel.webhook_id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .timeout(Duration::from_secs(15))
            .body(parcel.body.clone())
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("answered {}", answer.status())) }
    }
}

/// The `webhook-signature` of a body: `v1,` and the Base64 of HMAC-SHA256 over `id.timestamp.body`.
pub(super) fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<String, String> {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap_or(secret))
        .map_err(|error| format!("the webhook secret is not Base64: {error}"))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
    for piece in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(piece);
    }
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_published_vector() {
        let signature = sign(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            br#"{"email":"test@example.com","username":"test_user"}"#,
        );
        assert_eq!(signature.unwrap(), "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }
}
