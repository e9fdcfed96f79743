//! Signed webhooks on their way out (Standard Webhooks, which Dodo follows, and
//! Resend under other header names).
//!
//! A parcel keeps its `webhook-id` over all tries; timestamp and signature are
//! of each try. When to try again is the sender's business, not this file's.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::signature::{HeaderNames, SigningKey};

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
    names: HeaderNames,
    key: SigningKey,
    endpoint: Mutex<Option<String>>,
}

impl Courier {
    /// A courier that signs with this key, under these names.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(super) fn new(names: HeaderNames, key: SigningKey) -> std::io::Result<Self> {
        let http = super::loopback_client()?.user_agent("Svix-Webhooks/sandbox").build();
        let http = http.map_err(std::io::Error::other)?;
        Ok(Self { http, names, key, endpoint: Mutex::default() })
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

    /// Tries once, signed as of `at`.
    ///
    /// # Errors
    /// What went wrong: no 2xx within 15 seconds.
    pub(super) async fn post(&self, parcel: &Parcel, at: Timestamp) -> Result<(), String> {
        let endpoint = self.endpoint().ok_or("no endpoint is registered")?;
        let [id, timestamp, signature] = self.names.all();
        let answer = self
            .http
            .post(endpoint)
            .header("content-type", "application/json")
            .header(id, &parcel.webhook_id)
            .header(timestamp, at.as_second().to_string())
            .header(signature, self.key.sign(&parcel.webhook_id, at, parcel.body.as_bytes()))
            .timeout(Duration::from_secs(15))
            .body(parcel.body.clone())
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("answered {}", answer.status())) }
    }
}
