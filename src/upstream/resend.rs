//! Resend's HTTP API: one call a part (resend.com/docs, "Send Email"), or one for up to a
//! hundred ("Send Batch Emails").
//!
//! The `Idempotency-Key` and the very same bytes make a repeated call harmless
//! for 24 hours, so every answer that leaves a doubt is [`Outcome::Unknown`] and
//! the call is made again. `request` and `batch` make what is posted, `verdict` holds the
//! meaning of every answer, `turns` and `pace` keep calls under the rate that Resend tells.
//! What this module must not know: SQL, money, when to try again.

pub mod batch;
pub mod domains;
pub mod events;
mod pace;
pub(crate) mod request;
pub mod turns;
pub(crate) mod verdict;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use secrecy::SecretString;
use serde_json::Value;

pub use request::Request;
pub use verdict::KEY_USED_FOR_OTHER_BYTES;

use super::{Answer, Outcome};
use crate::clock::Clock;
use crate::outbound::{CallFailure, HttpAnswer, InvalidService, Service, call};
use crate::ration::Ration;
use domains::Region;
use turns::{Turn, Turns};

/// What the client needs to be told.
#[derive(Debug, Clone)]
pub struct ResendSettings {
    /// `https://api.resend.com` or a stand-in.
    pub base_url: String,
    /// The API key.
    pub api_key: SecretString,
    /// Longest wait for one call.
    pub timeout: Duration,
    /// For quotas that end at midnight UTC.
    pub clock: Clock,
}

/// The client. Clones share their connections and their pace.
#[derive(Debug, Clone)]
pub struct Resend {
    service: Service,
    clock: Clock,
    turns: Turns,
    /// Of domains that are added; `None`: Resend decides.
    region: Option<Region>,
}

/// What an API key is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRights {
    /// Everything; these are the account's domains (the first hundred).
    Full(Vec<SendingDomain>),
    /// Sending only, which is all that Postmeter needs.
    SendingOnly,
}

/// A domain of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendingDomain {
    /// Its name.
    pub name: String,
    /// `verified`, `partially_verified`, `pending`, …: the first two can send.
    pub status: String,
}

/// Why Resend cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResendUnusable {
    /// The key is wrong, revoked, expired or suspended.
    #[error("Resend refused the API key: {0}")]
    BadKey(String),
    /// No answer, or one that says nothing about the key.
    #[error("Resend does not answer as it should: {0}")]
    Unavailable(String),
}

impl Resend {
    /// A client; no call is made.
    pub fn new(settings: &ResendSettings) -> Result<Self, InvalidService> {
        let service = Service::new(&settings.base_url, &settings.api_key, settings.timeout)?;
        Ok(Self { service, clock: settings.clock.clone(), turns: Turns::default(), region: None })
    }

    /// The same client, whose calls are drawn from there too.
    pub fn drawing_from(self, ration: Ration) -> Self {
        Self { turns: Turns::drawing_from(ration), ..self }
    }

    /// Makes one call, when its turn has come.
    pub async fn send(&self, request: Request) -> Outcome {
        self.post(request.json.clone(), &request.idempotency_key, request.recipients).await
    }

    /// Makes one `POST /emails` with these bytes, when its turn has come. The
    /// answer is for all of the `recipients`, since Resend takes or refuses a
    /// mail as a whole.
    pub async fn post(&self, json: Bytes, idempotency_key: &str, recipients: usize) -> Outcome {
        match self.turn_of_one().await {
            Ok(turn) => self.post_in(turn, json, idempotency_key, recipients).await,
            Err(outcome) => outcome,
        }
    }

    /// Makes the call in a turn that was waited for.
    pub async fn send_in(&self, turn: Turn, request: Request) -> Outcome {
        self.post_in(turn, request.json.clone(), &request.idempotency_key, request.recipients).await
    }

    /// Waits for the turn of a call with one mail.
    ///
    /// # Errors
    /// What becomes of the call without one.
    pub async fn turn_of_one(&self) -> Result<Turn, Outcome> {
        self.turns.single().await.map_err(no_turn)
    }

    /// Waits for the turn of a call that is not made ready yet: whatever comes meanwhile
    /// may leave with it.
    ///
    /// # Errors
    /// What becomes of the call without one.
    pub async fn turn(&self) -> Result<Turn, Outcome> {
        self.turns.next().await.map_err(no_turn)
    }

    /// Waits until something may be sent that is no call and counts as one, as what Resend's
    /// SMTP service is given does.
    ///
    /// # Errors
    /// What becomes of it, where that is too far off.
    pub async fn next_of_all(&self) -> Result<(), Outcome> {
        self.turn_of_one().await?.leave().await;
        Ok(())
    }

    /// The same call in a turn that was waited for.
    async fn post_in(&self, turn: Turn, json: Bytes, idempotency_key: &str, recipients: usize) -> Outcome {
        match self.call_with_key(turn, &["emails"], json, idempotency_key).await {
            Ok(answer) => verdict::of(&answer, recipients, self.clock.now()),
            Err(failure) => no_answer(failure),
        }
    }

    async fn call_with_key(
        &self,
        turn: Turn,
        path: &[&str],
        json: Bytes,
        idempotency_key: &str,
    ) -> Result<HttpAnswer, CallFailure> {
        let request = self
            .service
            .post(path)
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", idempotency_key)
            .body(json);
        turn.leave().await;
        self.call(request).await
    }

    /// Whether the key is good, by reading the account's domains. A key that
    /// may only send is refused there by a name of its own.
    pub async fn check(&self) -> Result<KeyRights, ResendUnusable> {
        let request = self.service.get(&["domains"]).query(&[("limit", "100")]);
        let answer =
            self.call(request).await.map_err(|error| ResendUnusable::Unavailable(error.to_string()))?;
        verdict::of_check(&answer)
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> Result<HttpAnswer, CallFailure> {
        let called = call(request, self.clock.now()).await;
        if let Ok(answer) = &called {
            self.turns.learn(answer.status, &answer.rate);
        }
        called
    }
}

/// No call was made, since its turn was too far off.
fn no_turn(wait: Duration) -> Outcome {
    Outcome::Transient {
        answer: Answer::new("4.4.5", "waiting for a turn under Resend's rate limit"),
        retry_after: Some(wait),
        counts: false,
    }
}

fn no_answer(failure: CallFailure) -> Outcome {
    match failure {
        CallFailure::NotSent(reason) => Outcome::Transient {
            answer: Answer::new("4.4.1", &format!("Resend cannot be reached: {reason}")),
            retry_after: None,
            counts: true,
        },
        CallFailure::Lost(reason) => Outcome::Unknown {
            reason: format!("no answer from Resend: {reason}"),
            retry_after: None,
            left_out: Vec::new(),
        },
    }
}

/// `{"message", "name"}` of an error; both empty when the body is no such JSON.
fn name_and_message(body: &[u8]) -> Option<(String, String)> {
    let parsed = serde_json::from_slice::<Value>(body).ok()?;
    let text = |field| parsed.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    parsed.is_object().then(|| (text("name"), text("message")))
}
