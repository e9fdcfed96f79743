//! Every refusal that is told over HTTP: status, code and words.
//!
//! One place, so that they can be read and kept in tune: each says why and what
//! to do about it (P9), and none says how we are made. Programs get
//! `{"error": …, "code": …}`, browsers a page with the same words.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde::Serialize;
use utoipa::ToSchema;

use super::pages;
use super::signature::SignatureError;
use crate::billing::events::MalformedEvent;
use crate::domain::caps::Reached;
use crate::domain::credits::Credits;
use crate::domain::decision::{Choice, NotNow};
use crate::domain::idempotency::InvalidKey;
use crate::domain::refusal::Refusal;
use crate::mime::compose::InvalidField;
use crate::proof::NotDone;
use crate::store::StoreError;
use crate::store::customer::ChangeError;
use crate::store::operator::DecisionError;

/// What a browser is asked for on the routes for programs (RFC 7617 §2.1).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Postmeter\", charset=\"UTF-8\"");
/// The same on pages, which have a form of their own: browsers show nothing for it.
const PAGE_CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"Postmeter\"");

/// Seconds after which it is worth asking again when something of ours or of the
/// payment service is down.
const OUTAGE_RETRY_S: u64 = 30;
/// The same when only many messages are arriving.
const NO_ROOM_RETRY_S: u64 = 5;

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// The message or the sign-in is refused, as over SMTP.
    Refused(Refusal),
    /// No usable credential came.
    NoCredential,
    /// It belongs to somebody else.
    NotYours,
    /// Only the operator may.
    OperatorOnly,
    /// A form of another site was sent here.
    CrossSite,
    /// No such route.
    NoRoute,
    /// The route exists, for other methods.
    WrongMethod,
    /// Something named is not there.
    NotFound(&'static str),
    /// It cannot be done as things stand.
    Conflict(&'static str),
    /// What the operator wants cannot be done to this message now.
    NotNow(Choice, NotNow),
    /// The body is larger than this route takes.
    BodyTooLarge {
        /// Octets.
        limit_bytes: usize,
    },
    /// The body did not arrive in time, or stopped.
    BodyIncomplete,
    /// There is no room in memory for another message now.
    NoRoom,
    /// The body is of another media type.
    WrongMediaType {
        /// What this route takes.
        wanted: &'static str,
    },
    /// The body is not JSON.
    NotJson(String),
    /// The request says something that cannot be.
    Invalid(String),
    /// A field of a message says something that cannot be.
    InvalidField(InvalidField),
    /// The idempotency key is none.
    InvalidKey(InvalidKey),
    /// Asked too often.
    TooFast {
        /// Seconds until it is worth another try.
        retry_after_s: u64,
    },
    /// The webhook is not signed by a key of ours.
    BadSignature(SignatureError),
    /// The webhook is signed and unreadable.
    MalformedWebhook(MalformedEvent),
    /// The payment service does not answer.
    PaymentsUnavailable,
    /// The payment service refused to start a checkout.
    CheckoutRefused,
    /// A domain is not added, verified or removed.
    Domain(NotDone),
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<InvalidField> for HttpError {
    fn from(field: InvalidField) -> Self {
        Self::InvalidField(field)
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        error.tell("a request could not be answered");
        Self::Refused(Refusal::StoreUnavailable)
    }
}

impl From<ChangeError> for HttpError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => error.into(),
            ChangeError::NoCustomer(_) => Self::NotFound("customer"),
            ChangeError::NoCredential(_) => Self::NotFound("credential that could be revoked"),
            ChangeError::NoSender(_) => Self::NotFound("sender"),
            ChangeError::NotSuppressed(_) => Self::NotFound("suppressed address"),
            ChangeError::CustomerExists(_) | ChangeError::UsernameTaken(_) => {
                Self::Conflict("It is there already.")
            }
        }
    }
}

impl From<DecisionError> for HttpError {
    fn from(error: DecisionError) -> Self {
        match error {
            DecisionError::Store(error) => error.into(),
            DecisionError::NoMessage(_) => Self::NotFound("message"),
            DecisionError::NotNow(choice, why) => Self::NotNow(choice, why),
        }
    }
}

impl HttpError {
    /// The status, and the word for programs.
    pub fn face(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Refused(refusal) => refusal_face(refusal),
            Self::NoCredential => (S::UNAUTHORIZED, "unauthorized"),
            Self::NotYours => (S::FORBIDDEN, "forbidden"),
            Self::OperatorOnly => (S::FORBIDDEN, "operator_only"),
            Self::CrossSite => (S::FORBIDDEN, "cross_site"),
            Self::NoRoute | Self::NotFound(_) => (S::NOT_FOUND, "not_found"),
            Self::WrongMethod => (S::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Conflict(_) => (S::CONFLICT, "conflict"),
            Self::NotNow(_, NotNow::Final) => (S::CONFLICT, "already_final"),
            Self::NotNow(_, NotNow::AttemptRunning) => (S::CONFLICT, "attempt_running"),
            Self::NotNow(_, NotNow::OutcomeUnknown) => (S::CONFLICT, "outcome_unknown"),
            Self::NotNow(_, NotNow::Unconfirmed) => (S::CONFLICT, "confirmation_needed"),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "too_large"),
            Self::BodyIncomplete => (S::REQUEST_TIMEOUT, "body_incomplete"),
            Self::NoRoom => (S::SERVICE_UNAVAILABLE, "no_room"),
            Self::WrongMediaType { .. } => (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::NotJson(_) => (S::BAD_REQUEST, "not_json"),
            Self::Invalid(_) | Self::InvalidField(_) | Self::InvalidKey(_) => {
                (S::UNPROCESSABLE_ENTITY, "invalid")
            }
            Self::TooFast { .. } => (S::TOO_MANY_REQUESTS, "too_fast"),
            Self::BadSignature(_) => (S::UNAUTHORIZED, "bad_signature"),
            Self::MalformedWebhook(_) => (S::BAD_REQUEST, "malformed_webhook"),
            Self::PaymentsUnavailable => (S::SERVICE_UNAVAILABLE, "payments_unavailable"),
            Self::CheckoutRefused => (S::BAD_GATEWAY, "checkout_refused"),
            Self::Domain(why) => domain_face(why),
        }
    }

    /// What a person reads.
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Refused(refusal) => refusal_text(refusal),
            Self::NoCredential => "Sign in with a credential: HTTP Basic with username and secret, or the \
                                   header `Authorization: Bearer SECRET`."
                .into(),
            Self::NotYours => "This belongs to another customer.".into(),
            Self::OperatorOnly => "Only the operator may ask this.".into(),
            Self::CrossSite => {
                "This form was sent from another site. Open the page here and try again.".into()
            }
            Self::NoRoute => "There is nothing here.".into(),
            Self::WrongMethod => "This route exists, for another method; the header Allow says which.".into(),
            Self::NotFound(what) => format!("There is no such {what}.").into(),
            Self::Conflict(text) => (*text).into(),
            Self::NotNow(choice, why) => not_now_text(*choice, *why),
            Self::BodyTooLarge { limit_bytes } => {
                format!("The request is too large: at most {limit_bytes} octets are taken here.").into()
            }
            Self::BodyIncomplete => "The request did not arrive completely in time. Send it again.".into(),
            Self::NoRoom => {
                "Too many messages are arriving at the moment. Nothing was sent; send it again in \
                             a few seconds."
                    .into()
            }
            Self::WrongMediaType { wanted } => format!("Send the header `Content-Type: {wanted}`.").into(),
            Self::NotJson(what) => format!("The body is not JSON: {what}.").into(),
            Self::Invalid(what) => what.clone().into(),
            Self::InvalidField(error) => format!("{error}.").into(),
            Self::InvalidKey(error) => format!("The header Idempotency-Key {error}.").into(),
            Self::TooFast { retry_after_s } => {
                format!("Too many requests. Try again in {retry_after_s} seconds.").into()
            }
            Self::BadSignature(error) => format!("The webhook is not believed: {error}.").into(),
            Self::MalformedWebhook(error) => format!("The webhook cannot be read: {error}.").into(),
            Self::PaymentsUnavailable => {
                "The payment service does not answer. Nothing was charged; try again in a minute.".into()
            }
            Self::CheckoutRefused => "The payment service refused to start this checkout. Check the email \
                                      address and the name; if they are right, tell the operator."
                .into(),
            Self::Domain(why) => domain_text(why),
        }
    }

    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::TooFast { retry_after_s }
            | Self::Refused(
                Refusal::TooFast { retry_after_s }
                | Refusal::TooManyFailures { retry_after_s }
                | Refusal::Capped(Reached { retry_after_s, .. }),
            ) => Some(*retry_after_s),
            Self::NoRoom => Some(NO_ROOM_RETRY_S),
            Self::PaymentsUnavailable
            | Self::Domain(NotDone::Unavailable | NotDone::Store)
            | Self::Refused(
                Refusal::BillingUnknown | Refusal::StoreUnavailable | Refusal::TooManySessions { .. },
            ) => Some(OUTAGE_RETRY_S),
            _ => None,
        }
    }

    /// A page with this error's status and headers.
    pub(super) fn as_page(&self, page: &Markup) -> Response {
        self.with_headers(PAGE_CHALLENGE, pages::response(self.face().0, page))
    }

    /// An answer of another shape with this error's headers.
    pub(super) fn headed(&self, response: Response) -> Response {
        self.with_headers(CHALLENGE, response)
    }

    fn with_headers(&self, challenge: HeaderValue, mut response: Response) -> Response {
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // A webhook's signature is no credential that could be asked for.
        if response.status() == StatusCode::UNAUTHORIZED && !matches!(self, Self::BadSignature(_)) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// An error, as programs are told it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorAnswer {
    /// What is wrong, for programs; it stays as it is.
    code: &'static str,
    /// The same in words, and what to do.
    error: String,
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (status, code) = self.face();
        let answer = ErrorAnswer { error: self.text().into_owned(), code };
        self.with_headers(CHALLENGE, (status, Json(answer)).into_response())
    }
}

/// The same, told to a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageError(pub HttpError);

impl<E: Into<HttpError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        self.0.as_page(&pages::error(&self.0.text()))
    }
}

fn not_now_text(choice: Choice, why: NotNow) -> Cow<'static, str> {
    match why {
        NotNow::Final => "Nothing of this message waits: it is final already.".into(),
        NotNow::AttemptRunning => {
            "An attempt of this message is under way and may end either way. Ask again when it has ended."
                .into()
        }
        NotNow::OutcomeUnknown => {
            "The last attempt of this message ended without an answer, so the upstream may \
                                   have it. It is asked again by itself, or at once by a retry; cancel when \
                                   there is an answer, or when it is held."
                .into()
        }
        NotNow::Unconfirmed => format!(
            "This needs a confirmation: {}. To take that risk send {{\"confirm\": true}}.",
            choice.risk()
        )
        .into(),
    }
}

fn domain_face(why: &NotDone) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match why {
        NotDone::Off => (S::FORBIDDEN, "domains_off"),
        NotDone::NotProvable(..) => (S::UNPROCESSABLE_ENTITY, "domain_not_provable"),
        NotDone::Taken => (S::CONFLICT, "domain_taken"),
        NotDone::Registered => (S::CONFLICT, "domain_registered"),
        NotDone::TooMany(_) => (S::CONFLICT, "too_many_domains"),
        NotDone::TooSoon { .. } => (S::TOO_MANY_REQUESTS, "too_fast"),
        NotDone::NotThere => (S::NOT_FOUND, "not_found"),
        NotDone::Denied => (S::FORBIDDEN, "domain_denied"),
        NotDone::OtherWay => (S::CONFLICT, "domain_outdated"),
        NotDone::Busy => (S::CONFLICT, "domain_busy"),
        NotDone::Refused => (S::UNPROCESSABLE_ENTITY, "domain_refused"),
        NotDone::Unavailable | NotDone::Store => (S::SERVICE_UNAVAILABLE, "domains_unavailable"),
    }
}

fn domain_text(why: &NotDone) -> Cow<'static, str> {
    match why {
        NotDone::Off => "Domains are added by the operator here. Ask the operator to allow yours.".into(),
        NotDone::Taken => {
            "Another account holds or claims this domain. If it is yours, remove it there or ask the operator."
                .into()
        }
        NotDone::Registered => "This domain is registered with the mail service already, and not from this \
                                account. If it is in an account of yours at the mail service, remove it there; \
                                else ask the operator to allow it for you."
            .into(),
        NotDone::TooMany(limit) => {
            format!("An account may have at most {limit} domains. Remove one first, or ask the operator.").into()
        }
        NotDone::Denied => "The operator has denied this domain to this account. Ask the operator.".into(),
        NotDone::OtherWay => {
            "This domain was claimed in a way that is no longer used. Remove it and add it again.".into()
        }
        NotDone::Busy => "This domain is being changed. Try again in a minute.".into(),
        NotDone::Refused => {
            "The mail service refuses this domain. Check how it is spelt; if it is right, tell the operator.".into()
        }
        NotDone::Unavailable | NotDone::Store => {
            "Domains cannot be managed at the moment. Try again in a minute; nothing was lost.".into()
        }
        NotDone::NotProvable(..) | NotDone::TooSoon { .. } | NotDone::NotThere => format!("{why}.").into(),
    }
}

fn refusal_face(refusal: &Refusal) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match refusal {
        Refusal::BadCredential => (S::UNAUTHORIZED, "unauthorized"),
        Refusal::TooManyFailures { .. } => (S::TOO_MANY_REQUESTS, "too_many_failures"),
        Refusal::TooManySessions { .. } => (S::TOO_MANY_REQUESTS, "too_many_sessions"),
        Refusal::Suspended { .. } => (S::FORBIDDEN, "suspended"),
        Refusal::SenderNotAllowed { .. } => (S::FORBIDDEN, "sender_not_allowed"),
        Refusal::OutOfCredit { .. } => (S::PAYMENT_REQUIRED, "out_of_credit"),
        Refusal::BillingUnknown => (S::SERVICE_UNAVAILABLE, "billing_unknown"),
        Refusal::Suppressed { .. } => (S::UNPROCESSABLE_ENTITY, "suppressed"),
        Refusal::AddressNotCarried { .. } => (S::UNPROCESSABLE_ENTITY, "address_not_carried"),
        Refusal::TooManyRecipients { .. } => (S::UNPROCESSABLE_ENTITY, "too_many_recipients"),
        Refusal::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "too_large"),
        Refusal::TooFast { .. } => (S::TOO_MANY_REQUESTS, "too_fast"),
        Refusal::Capped(_) => (S::TOO_MANY_REQUESTS, "credential_capped"),
        Refusal::Unacceptable { .. } => (S::UNPROCESSABLE_ENTITY, "unacceptable"),
        Refusal::Looping => (S::UNPROCESSABLE_ENTITY, "looping"),
        Refusal::KeyReused => (S::CONFLICT, "idempotency_key_reused"),
        Refusal::StoreUnavailable => (S::SERVICE_UNAVAILABLE, "unavailable"),
    }
}

/// What a customer reads whose credits vanished before they were debited.
pub(super) fn in_debt(shortfall: Credits) -> String {
    format!(
        "Credits owed: {shortfall}, for mail already sent, because credits expired or were spent elsewhere. \
         The next top-up pays that first."
    )
}

fn refusal_text(refusal: &Refusal) -> Cow<'static, str> {
    match refusal {
        Refusal::BadCredential => {
            "Wrong username or secret, or the credential was revoked. Check both, or make a new one.".into()
        }
        Refusal::TooManyFailures { retry_after_s } => format!(
            "Too many failed sign-ins. Check username and secret, and try again in {retry_after_s} seconds."
        )
        .into(),
        Refusal::TooManySessions { limit } => {
            format!("This account has {limit} sessions, which is the most. Close some, or try again later.")
                .into()
        }
        Refusal::Suspended { reason } => {
            format!("This account is suspended: {reason}. Ask the operator to resume it.").into()
        }
        Refusal::SenderNotAllowed { address, .. } if address.is_empty() => {
            "The From header is not a sender of this account. Ask the operator to allow it.".into()
        }
        Refusal::SenderNotAllowed { address, may_prove } => {
            let how = if *may_prove { "Add its domain with POST /senders/domains, or ask" } else { "Ask" };
            format!("{address} is not a sender of this account. {how} the operator to allow it.").into()
        }
        Refusal::OutOfCredit { shortfall, .. } => {
            let text = "No email credits remaining. Buy a top-up pack or upgrade your plan.";
            if *shortfall == Credits::ZERO {
                text.into()
            } else {
                format!("{text} {}", in_debt(*shortfall)).into()
            }
        }
        Refusal::BillingUnknown => {
            "The email credits cannot be checked now. Nothing was sent; try again in a minute.".into()
        }
        Refusal::Suppressed { recipient, why } => format!(
            "{recipient} is on the suppression list of this account {why}. Take it off the recipients, or off \
             the list: DELETE /suppressions/{recipient}."
        )
        .into(),
        Refusal::AddressNotCarried { address } => {
            format!("Mail to or from {address} cannot be carried, since it is not ASCII.").into()
        }
        Refusal::TooManyRecipients { limit } => {
            format!("A message may have at most {limit} recipients. Send several messages.").into()
        }
        Refusal::TooLarge { limit_bytes } => {
            format!("The message is larger than {limit_bytes} octets with its attachments encoded.").into()
        }
        Refusal::TooFast { retry_after_s } => {
            format!("Sending too fast. Try again in {retry_after_s} seconds.").into()
        }
        Refusal::Capped(reached) => format!(
            "The cap of this credential is reached: {reached}. Try again in {} seconds, or use another credential.",
            reached.retry_after_s
        )
        .into(),
        Refusal::Unacceptable { what, .. } => format!("The message cannot be sent: {what}.").into(),
        Refusal::Looping => "The message has passed through too many servers: it is looping.".into(),
        Refusal::KeyReused => {
            "This idempotency key was used for another message. Use a new key for each message.".into()
        }
        Refusal::StoreUnavailable => {
            "Postmeter cannot do this at the moment. Nothing was changed; try again in a minute.".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::address::Mailbox;
    use crate::domain::caps::Span;
    use crate::domain::suppression::{Cause, Why};

    #[test]
    fn p9_every_refusal_has_a_status_a_code_and_words() {
        let mailbox = Mailbox::parse("a@b.example").unwrap();
        let why = Why { cause: Cause::Manual, detail: None, added_at: jiff::Timestamp::UNIX_EPOCH };
        let not_allowed =
            |address: &str, may_prove| Refusal::SenderNotAllowed { address: address.to_owned(), may_prove };
        let table = [
            (Refusal::BadCredential, 401, "unauthorized"),
            (Refusal::TooManyFailures { retry_after_s: 7 }, 429, "too_many_failures"),
            (Refusal::TooManySessions { limit: 7 }, 429, "too_many_sessions"),
            (Refusal::Suspended { reason: "spam".into() }, 403, "suspended"),
            (not_allowed("x@y.example", false), 403, "sender_not_allowed"),
            (not_allowed("x@y.example", true), 403, "sender_not_allowed"),
            (not_allowed("", true), 403, "sender_not_allowed"),
            (
                Refusal::OutOfCredit { top_up_url: "https://x".into(), shortfall: Credits::ZERO },
                402,
                "out_of_credit",
            ),
            (Refusal::BillingUnknown, 503, "billing_unknown"),
            (Refusal::Suppressed { recipient: mailbox.clone(), why }, 422, "suppressed"),
            (Refusal::AddressNotCarried { address: mailbox }, 422, "address_not_carried"),
            (Refusal::TooManyRecipients { limit: 50 }, 422, "too_many_recipients"),
            (Refusal::TooLarge { limit_bytes: 9 }, 413, "too_large"),
            (Refusal::TooFast { retry_after_s: 7 }, 429, "too_fast"),
            (
                Refusal::Capped(Reached { limit: 2, span: Span::Day, retry_after_s: 7 }),
                429,
                "credential_capped",
            ),
            (Refusal::Unacceptable { status: "5.6.0", what: "no From".into() }, 422, "unacceptable"),
            (Refusal::Looping, 422, "looping"),
            (Refusal::KeyReused, 409, "idempotency_key_reused"),
            (Refusal::StoreUnavailable, 503, "unavailable"),
        ];
        for (refusal, status, code) in table {
            let error = HttpError::Refused(refusal);
            let (got, word) = error.face();
            assert_eq!((got.as_u16(), word), (status, code), "{error:?}");
            assert!(error.text().ends_with('.'), "{error:?}");
            let response = error.into_response();
            let has = |name| response.headers().contains_key(name);
            assert_eq!(has(header::RETRY_AFTER), matches!(status, 429 | 503), "{code}");
            assert_eq!(has(header::WWW_AUTHENTICATE), status == 401, "{code}");
        }
    }

    #[test]
    fn p9_whatever_is_not_done_about_a_domain_has_a_status_a_code_and_words() {
        let shared = crate::proof::name::provable("co.uk").unwrap_err();
        let all = [
            (NotDone::Off, 403, "domains_off"),
            (NotDone::NotProvable("co.uk".to_owned(), shared), 422, "domain_not_provable"),
            (NotDone::Taken, 409, "domain_taken"),
            (NotDone::Registered, 409, "domain_registered"),
            (NotDone::TooMany(3), 409, "too_many_domains"),
            (NotDone::TooSoon { retry_after_s: 9 }, 429, "too_fast"),
            (NotDone::NotThere, 404, "not_found"),
            (NotDone::Denied, 403, "domain_denied"),
            (NotDone::OtherWay, 409, "domain_outdated"),
            (NotDone::Busy, 409, "domain_busy"),
            (NotDone::Refused, 422, "domain_refused"),
            (NotDone::Unavailable, 503, "domains_unavailable"),
            (NotDone::Store, 503, "unavailable"),
        ];
        for (why, status, code) in all {
            let error = HttpError::from(why);
            let (got, word) = error.face();
            assert_eq!((got.as_u16(), word), (status, code), "{error:?}");
            assert!(error.text().ends_with('.'), "{error:?}");
            let has_wait = error.into_response().headers().contains_key(header::RETRY_AFTER);
            assert_eq!(has_wait, matches!(status, 429 | 503), "{code}");
        }
    }

    #[test]
    fn out_of_credit_is_told_in_the_agreed_words() {
        let error = HttpError::Refused(Refusal::OutOfCredit {
            top_up_url: "https://x".into(),
            shortfall: Credits::ZERO,
        });
        assert_eq!(error.text(), "No email credits remaining. Buy a top-up pack or upgrade your plan.");
        let in_debt = Refusal::OutOfCredit { top_up_url: "https://x".into(), shortfall: Credits::ONE };
        assert_eq!(
            HttpError::Refused(in_debt).text(),
            "No email credits remaining. Buy a top-up pack or upgrade your plan. Credits owed: 1, for mail already \
             sent, because credits expired or were spent elsewhere. The next top-up pays that first."
        );
    }

    #[test]
    fn a_page_says_the_same_and_opens_no_dialog_of_the_browser() {
        let response = PageError(HttpError::NoCredential).into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], PAGE_CHALLENGE);
        let webhook = HttpError::BadSignature(SignatureError::NoMatch).into_response();
        assert_eq!(webhook.status(), StatusCode::UNAUTHORIZED);
        assert!(!webhook.headers().contains_key(header::WWW_AUTHENTICATE));
    }
}
