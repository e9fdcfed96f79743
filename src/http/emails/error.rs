//! Errors under `/emails`, in the form and by the names of Resend's: what SDKs read.
//!
//! One table says which of Resend's names goes with each of our refusals; the words are
//! ours. The names decide what a client does next, so each is the one that asks for what
//! helps here. Out of credit is `monthly_quota_exceeded`: buy more, and do not try again
//! before. Its status is 429, as at Resend, since some SDKs (Python's) look names up below
//! the status; 402 would be an error that they do not know.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::caps::Span;
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;
use crate::http::error::HttpError;

/// Why a request under `/emails` is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EmailError {
    /// As any other request.
    Request(HttpError),
    /// For one email of a batch; nothing of the batch was accepted.
    OfBatch {
        /// Which one, from 0.
        index: usize,
        /// Why.
        error: HttpError,
    },
    /// The credits do not cover a batch; nothing of it was accepted.
    NotCovered {
        /// How many emails, without those that were accepted by an earlier try.
        emails: usize,
        /// Why.
        error: HttpError,
    },
    /// Some of a batch were accepted before one could not be.
    InPart {
        /// Which ones, and as which messages.
        accepted: Vec<(usize, MessageId)>,
        /// Of how many.
        of: usize,
        /// Why the first of the others was not.
        error: HttpError,
    },
}

impl<E: Into<HttpError>> From<E> for EmailError {
    fn from(error: E) -> Self {
        Self::Request(error.into())
    }
}

impl EmailError {
    /// As it would be for one email.
    pub(super) fn into_own(self) -> HttpError {
        match self {
            Self::Request(error)
            | Self::OfBatch { error, .. }
            | Self::NotCovered { error, .. }
            | Self::InPart { error, .. } => error,
        }
    }

    fn own(&self) -> &HttpError {
        match self {
            Self::Request(error)
            | Self::OfBatch { error, .. }
            | Self::NotCovered { error, .. }
            | Self::InPart { error, .. } => error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Request(error) => text(error),
            Self::OfBatch { error, .. } if is_about_everything(error) => text(error),
            Self::OfBatch { index, error } => format!("emails[{index}]: {}", text(error)),
            Self::NotCovered { emails, .. } => format!(
                "The email credits do not cover all {emails} emails of this batch, so none of them was sent. Buy a \
                 top-up pack or upgrade your plan, or send fewer."
            ),
            Self::InPart { accepted, of, error } => format!(
                "{} of the {of} emails of this batch were accepted, those in `accepted`; the others were not. {} The \
                 same batch sent again under the same Idempotency-Key sends only the others; without a key, send \
                 only those.",
                accepted.len(),
                text(error)
            ),
        }
    }

    /// Whether it is for want of credits, or of what a cap leaves.
    pub(super) fn is_used_up(&self) -> bool {
        face(self.own()) == NO_CREDIT || matches!(self.own(), HttpError::Refused(Refusal::Capped(_)))
    }
}

/// An error in Resend's form.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ResendError {
    /// Of a batch that was accepted in part: which emails were.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Vec<AcceptedEmail>>,
    /// What is wrong and what to do, in words.
    message: String,
    /// Resend's name for it.
    name: &'static str,
    /// The status once more.
    #[serde(rename = "statusCode")]
    status_code: u16,
}

/// An email of a batch that was accepted although others were not.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AcceptedEmail {
    /// Which one, from 0.
    index: usize,
    /// As which message.
    id: MessageId,
}

impl IntoResponse for EmailError {
    fn into_response(self) -> Response {
        let (status, name) = face(self.own());
        let one = |(index, id): &(usize, MessageId)| AcceptedEmail { index: *index, id: id.clone() };
        let accepted = match &self {
            Self::InPart { accepted, .. } => Some(accepted.iter().map(one).collect()),
            _ => None,
        };
        let answer = ResendError { status_code: status.as_u16(), message: self.text(), name, accepted };
        self.own().headed((status, Json(answer)).into_response())
    }
}

const NO_CREDIT: (StatusCode, &str) = (StatusCode::TOO_MANY_REQUESTS, "monthly_quota_exceeded");

/// The status and the name that Resend would give.
pub(in crate::http) fn face(error: &HttpError) -> (StatusCode, &'static str) {
    use HttpError as E;
    use StatusCode as S;
    let own = error.face().0;
    match error {
        E::Refused(refusal) => refusal_face(refusal),
        E::NoCredential => (S::UNAUTHORIZED, "missing_api_key"),
        E::NotYours | E::OperatorOnly => (S::FORBIDDEN, "restricted_api_key"),
        E::NoRoute | E::NotFound(_) => (S::NOT_FOUND, "not_found"),
        E::WrongMethod => (S::METHOD_NOT_ALLOWED, "method_not_allowed"),
        E::InvalidKey(_) => (S::BAD_REQUEST, "invalid_idempotency_key"),
        E::InvalidField(field) if of_a_file(&field.field) => (S::UNPROCESSABLE_ENTITY, "invalid_attachment"),
        E::InvalidField(field) if field.is_missing() => (S::UNPROCESSABLE_ENTITY, "missing_required_field"),
        E::TooFast { .. } => (S::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
        E::NoRoom => (S::SERVICE_UNAVAILABLE, "service_unavailable"),
        // The client may send the same again.
        E::BodyIncomplete => (own, "application_error"),
        _ if own.is_server_error() => (own, "application_error"),
        _ => (own, "validation_error"),
    }
}

fn refusal_face(refusal: &Refusal) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match refusal {
        // As Resend answers a key that it does not know (observed, not documented).
        Refusal::BadCredential => (S::UNAUTHORIZED, "validation_error"),
        Refusal::Suspended { .. } => (S::FORBIDDEN, "suspended_api_key"),
        Refusal::SenderNotAllowed { .. } => (S::FORBIDDEN, "validation_error"),
        Refusal::OutOfCredit { .. } => NO_CREDIT,
        Refusal::TooManyFailures { .. } | Refusal::TooManySessions { .. } | Refusal::TooFast { .. } => {
            (S::TOO_MANY_REQUESTS, "rate_limit_exceeded")
        }
        Refusal::Capped(reached) => match reached.span {
            Span::Minute => (S::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            Span::Day => (S::TOO_MANY_REQUESTS, "daily_quota_exceeded"),
        },
        Refusal::KeyReused => (S::CONFLICT, "invalid_idempotent_request"),
        Refusal::BillingUnknown | Refusal::StoreUnavailable => {
            (S::SERVICE_UNAVAILABLE, "service_unavailable")
        }
        Refusal::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "validation_error"),
        Refusal::Suppressed { .. }
        | Refusal::AddressNotCarried { .. }
        | Refusal::TooManyRecipients { .. }
        | Refusal::Unacceptable { .. }
        | Refusal::Looping => (S::UNPROCESSABLE_ENTITY, "validation_error"),
    }
}

fn of_a_file(field: &str) -> bool {
    field.starts_with("attachments[")
}

/// What a person reads; fields are named as Resend names them.
pub(super) fn text(error: &HttpError) -> String {
    match error {
        HttpError::NoCredential => "Missing API key: send the secret of a credential in the header \
                                    `Authorization: Bearer SECRET`."
            .to_owned(),
        HttpError::Refused(Refusal::BadCredential) => {
            "API key is invalid: send the secret of a credential that was not revoked.".to_owned()
        }
        HttpError::InvalidField(field) if field.is_missing() && !of_a_file(&field.field) => {
            let or = if field.field == "text" {
                "`html` or `text`".to_owned()
            } else {
                format!("`{}`", field.field)
            };
            format!("Missing {or} field.")
        }
        HttpError::InvalidField(field) => format!("Invalid `{}` field: {}.", field.field, field.problem),
        error => error.text().into_owned(),
    }
}

/// Whether it is refused for who sends it or for how things stand, and not for what it says:
/// whatever else they send would be refused as well.
pub(super) fn is_about_everything(error: &HttpError) -> bool {
    let (status, _) = face(error);
    status == StatusCode::UNAUTHORIZED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error()
        || matches!(error, HttpError::Refused(Refusal::Suspended { .. }))
}

#[cfg(test)]
mod tests {
    use axum::http::header;
    use serde_json::json;

    use super::*;
    use crate::domain::address::Mailbox;
    use crate::domain::caps::Reached;
    use crate::domain::credits::Credits;
    use crate::domain::idempotency::IdempotencyKey;
    use crate::domain::suppression::{Cause, Why};
    use crate::mime::compose::InvalidField;

    /// The names that Resend's documentation or its SDKs know.
    const KNOWN: [&str; 15] = [
        "application_error",
        "daily_quota_exceeded",
        "invalid_attachment",
        "invalid_idempotency_key",
        "invalid_idempotent_request",
        "method_not_allowed",
        "missing_api_key",
        "missing_required_field",
        "monthly_quota_exceeded",
        "not_found",
        "rate_limit_exceeded",
        "restricted_api_key",
        "service_unavailable",
        "suspended_api_key",
        "validation_error",
    ];

    fn capped(span: Span) -> Refusal {
        Refusal::Capped(Reached { limit: 3, span, retry_after_s: 7 })
    }

    fn field(field: &str, problem: &str) -> HttpError {
        InvalidField { field: field.to_owned(), problem: problem.to_owned() }.into()
    }

    #[test]
    fn p9_every_error_has_a_name_of_resends() {
        let mailbox = Mailbox::parse("a@b.example").unwrap();
        let why = Why { cause: Cause::Manual, detail: None, added_at: jiff::Timestamp::UNIX_EPOCH };
        let no_credit = Refusal::OutOfCredit { top_up_url: "https://x".into(), shortfall: Credits::ZERO };
        let not_allowed = Refusal::SenderNotAllowed { address: "x@y.example".into(), may_prove: true };
        let bad_key = IdempotencyKey::parse("").unwrap_err();
        let table: [(HttpError, u16, &str, &str); 27] = [
            (HttpError::NoCredential, 401, "missing_api_key", "Missing API key"),
            (Refusal::BadCredential.into(), 401, "validation_error", "API key is invalid"),
            (Refusal::Suspended { reason: "spam".into() }.into(), 403, "suspended_api_key", "spam"),
            (not_allowed.into(), 403, "validation_error", "x@y.example is not a sender"),
            (no_credit.into(), 429, "monthly_quota_exceeded", "No email credits remaining."),
            (Refusal::BillingUnknown.into(), 503, "service_unavailable", "cannot be checked"),
            (Refusal::StoreUnavailable.into(), 503, "service_unavailable", "at the moment"),
            (HttpError::NoRoom, 503, "service_unavailable", "Too many messages"),
            (Refusal::TooManyFailures { retry_after_s: 7 }.into(), 429, "rate_limit_exceeded", "7 seconds"),
            (Refusal::TooFast { retry_after_s: 7 }.into(), 429, "rate_limit_exceeded", "7 seconds"),
            (capped(Span::Minute).into(), 429, "rate_limit_exceeded", "3 messages a minute"),
            (capped(Span::Day).into(), 429, "daily_quota_exceeded", "3 messages a day"),
            (Refusal::KeyReused.into(), 409, "invalid_idempotent_request", "key was used"),
            (Refusal::Suppressed { recipient: mailbox, why }.into(), 422, "validation_error", "a@b.example"),
            (Refusal::TooLarge { limit_bytes: 9 }.into(), 413, "validation_error", "9 octets"),
            (HttpError::BodyTooLarge { limit_bytes: 9 }, 413, "validation_error", "9 octets"),
            (HttpError::BodyIncomplete, 408, "application_error", "Send it again"),
            (HttpError::NotJson("x".into()), 400, "validation_error", "not JSON"),
            (HttpError::WrongMediaType { wanted: "x/y" }, 415, "validation_error", "x/y"),
            (HttpError::NoRoute, 404, "not_found", "nothing here"),
            (HttpError::NotFound("email"), 404, "not_found", "no such email"),
            (HttpError::WrongMethod, 405, "method_not_allowed", "another method"),
            (HttpError::InvalidKey(bad_key), 400, "invalid_idempotency_key", "1 to 256"),
            (field("subject", "is required"), 422, "missing_required_field", "Missing `subject` field."),
            (
                field("text", "text or html is required"),
                422,
                "missing_required_field",
                "Missing `html` or `text` field.",
            ),
            (field("to", "must be x"), 422, "validation_error", "Invalid `to` field: must be x."),
            (
                field("attachments[0].content", "is required"),
                422,
                "invalid_attachment",
                "Invalid `attachments[0].content` field: is required.",
            ),
        ];
        for (error, status, name, words) in table {
            let shown = format!("{error:?}");
            let own = error.clone().into_response();
            let error = EmailError::Request(error);
            let (got, got_name) = face(error.own());
            assert_eq!((got.as_u16(), got_name), (status, name), "{shown}");
            assert!(error.text().contains(words) && error.text().ends_with('.'), "{shown} {}", error.text());
            assert!(KNOWN.contains(&name), "{name}");
            let response = error.into_response();
            for field in [header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
                assert_eq!(response.headers().get(&field), own.headers().get(&field), "{shown}");
            }
        }
    }

    #[tokio::test]
    async fn p1_a_batch_that_was_taken_in_part_says_which_part() {
        let id = MessageId::parse("0190163d-8694-739b-aea5-966c26f8ad91").unwrap();
        let error = Refusal::StoreUnavailable.into();
        let response = EmailError::InPart { accepted: vec![(1, id)], of: 3, error }.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "30");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let accepted = json!([{ "index": 1, "id": "0190163d-8694-739b-aea5-966c26f8ad91" }]);
        assert_eq!((&body["accepted"], &body["statusCode"]), (&accepted, &503.into()));
        let message = body["message"].as_str().unwrap();
        assert!(message.starts_with("1 of the 3 emails of this batch were accepted"), "{message}");
    }
}
