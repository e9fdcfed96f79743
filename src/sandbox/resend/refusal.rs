//! How Resend says no: `{"statusCode", "message", "name"}`. The name decides,
//! the status is second; each documented or seen pair stands here once, for the
//! stand-in's own answers and for faults on demand.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::sandbox::faults::{Misbehaviour, Reply};

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    name: &'static str,
    message: String,
    retry_after_s: Option<i64>,
}

impl Refusal {
    fn new(status: u16, name: &'static str, message: impl Into<String>) -> Self {
        Self { status, name, message: message.into(), retry_after_s: None }
    }

    /// 422: a field is there and wrong.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(422, "validation_error", message)
    }

    /// 422: a field is not there.
    pub fn missing(field: &str) -> Self {
        Self::new(422, "missing_required_field", format!("Missing `{field}` field."))
    }

    /// 422: an attachment that cannot be sent.
    pub fn attachment(message: impl Into<String>) -> Self {
        Self::new(422, "invalid_attachment", message)
    }

    /// 403: a sender of resend.dev, which may only write to the account's owner.
    pub fn testing_only() -> Self {
        let message = "You can only send testing emails to your own email address (owner@example.com).";
        Self::new(403, "validation_error", message)
    }

    /// 400 or 401, by `status`: a wrong, revoked or expired key.
    pub fn bad_key(status: u16) -> Self {
        Self::new(status, "validation_error", "API key is invalid")
    }

    /// 401: no key at all.
    pub fn missing_key() -> Self {
        Self::new(401, "missing_api_key", "Missing API key in the authorization header")
    }

    /// 401: a sending key used for anything else.
    pub fn restricted_key() -> Self {
        Self::new(401, "restricted_api_key", "This API key is restricted to only send emails")
    }

    /// 403: a key that was switched off.
    pub fn inactive_key() -> Self {
        Self::new(403, "restricted_api_key", "This API key is not active")
    }

    /// 403: the account behind the key was suspended.
    pub fn suspended_key() -> Self {
        Self::new(403, "suspended_api_key", "Your account has been suspended")
    }

    /// 403: the key may not do this.
    pub fn no_permission() -> Self {
        Self::new(403, "invalid_permission", "You do not have permission to do this")
    }

    /// 403: the domain of `from` is not one of the account's.
    pub fn unverified_domain(domain: &str) -> Self {
        let message = format!(
            "The {domain} domain is not verified. Please, add and verify your domain on https://resend.com/domains"
        );
        Self::new(403, "validation_error", message)
    }

    /// 403: the name is in this account already, or in another one.
    pub fn registered(domain: &str) -> Self {
        Self::new(403, "validation_error", format!("The {domain} domain has been registered already."))
    }

    /// 403: the plan has no room for one more. How Resend says so is not documented.
    pub fn domain_limit() -> Self {
        let message = "You have reached the limit of domains of your plan.";
        Self::new(403, "validation_error", message)
    }

    /// 404
    pub fn not_found(what: &str) -> Self {
        Self::new(404, "not_found", format!("{what} not found"))
    }

    /// 400: a key that is not 1 to 256 characters long.
    pub fn invalid_idempotency_key() -> Self {
        Self::new(400, "invalid_idempotency_key", "The idempotency key must be between 1 and 256 characters")
    }

    /// 409: the first request with this key is still being worked on.
    pub fn concurrent() -> Self {
        Self::new(
            409,
            "concurrent_idempotent_requests",
            "Same idempotency key used while original request is still in progress",
        )
    }

    /// 409: this key was used for another body.
    pub fn other_body() -> Self {
        Self::new(
            409,
            "invalid_idempotent_request",
            "This idempotency key has been used on a request with a different payload",
        )
    }

    /// 409: another request changes the same thing.
    pub fn locked() -> Self {
        Self::new(409, "resource_locked", "The resource is being changed by another request")
    }

    /// 429: too many requests a second.
    pub fn rate_limited(retry_after_s: i64) -> Self {
        let message = "Too many requests. Please slow down and try again later";
        Self { retry_after_s: Some(retry_after_s), ..Self::new(429, "rate_limit_exceeded", message) }
    }

    /// 429: the day's quota is spent; whether it says when to come back is not documented, so it does not.
    pub fn daily_quota() -> Self {
        Self::new(429, "daily_quota_exceeded", "You have reached your daily email sending quota.")
    }

    /// 429: the month's quota is spent.
    pub fn monthly_quota() -> Self {
        Self::new(429, "monthly_quota_exceeded", "You have reached your monthly email sending quota.")
    }

    /// 500
    pub fn application_error(message: impl Into<String>) -> Self {
        Self::new(500, "application_error", message)
    }

    /// The same as a fault on demand.
    pub fn reply(&self) -> Reply {
        let body = json!({ "statusCode": self.status, "message": self.message, "name": self.name });
        let reply = Reply::status(self.status).body(body.to_string());
        match self.retry_after_s {
            Some(seconds) => reply.header("retry-after", &seconds.to_string()),
            None => reply,
        }
    }
}

impl From<Refusal> for Misbehaviour {
    fn from(refusal: Refusal) -> Self {
        Self::Answer(refusal.reply())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.reply().into_response()
    }
}

/// `{"id": …}`
pub(super) fn accepted(id: &str) -> Response {
    Json(json!({ "id": id })).into_response()
}
