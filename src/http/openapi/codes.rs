//! The errors that a route may answer with: status, code and what it means. A test holds
//! that each is one that [`super::super::error`] or Resend's form of it really gives.

/// An error, as a program sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    /// The status.
    pub(crate) status: u16,
    /// `code`, or below `/emails` `name`.
    pub(crate) code: &'static str,
    /// What it means.
    pub(crate) means: &'static str,
}

macro_rules! codes {
    ($($name:ident = $status:literal $code:literal $means:literal;)+) => {
        $(pub(crate) const $name: Code = Code { status: $status, code: $code, means: $means };)+

        /// All of them, for the test.
        #[cfg(test)]
        pub(crate) const ALL: &[Code] = &[$($name,)+];
    };
}

codes! {
    NOT_JSON = 400 "not_json" "the body is no JSON";
    MALFORMED_WEBHOOK = 400 "malformed_webhook" "it is signed and cannot be read";
    UNAUTHORIZED = 401 "unauthorized" "no credential, a wrong one or a revoked one";
    BAD_SIGNATURE = 401 "bad_signature" "not signed by a key that is known here, or too old";
    OUT_OF_CREDIT = 402 "out_of_credit" "no email credits remaining: buy a top-up";
    FORBIDDEN = 403 "forbidden" "it belongs to another customer";
    OPERATOR_ONLY = 403 "operator_only" "the operator's token is needed";
    SUSPENDED = 403 "suspended" "the account is suspended, with the reason";
    SENDER_NOT_ALLOWED = 403 "sender_not_allowed" "the sender is not one of this account";
    DOMAINS_OFF = 403 "domains_off" "customers do not add domains here";
    DOMAIN_DENIED = 403 "domain_denied" "the operator denied this domain to this account";
    NOT_FOUND = 404 "not_found" "what is named is not there";
    BODY_INCOMPLETE = 408 "body_incomplete" "the body did not arrive in time";
    CONFLICT = 409 "conflict" "it cannot be done as things stand: ask again";
    KEY_REUSED = 409 "idempotency_key_reused" "the key was used for another message";
    DOMAIN_TAKEN = 409 "domain_taken" "another account holds or claims the domain";
    DOMAIN_REGISTERED = 409 "domain_registered" "the mail service has the domain, and not from this account";
    TOO_MANY_DOMAINS = 409 "too_many_domains" "the account has as many domains as it may";
    DOMAIN_OUTDATED = 409 "domain_outdated" "claimed in a way that is no longer used: remove and add it";
    DOMAIN_BUSY = 409 "domain_busy" "the domain is being changed";
    ALREADY_FINAL = 409 "already_final" "nothing of the message waits";
    ATTEMPT_RUNNING = 409 "attempt_running" "an attempt is under way";
    OUTCOME_UNKNOWN = 409 "outcome_unknown" "the upstream may have it: retry, or wait";
    CONFIRMATION_NEEDED = 409 "confirmation_needed" "send `confirm` to take the risk that is told";
    TOO_LARGE = 413 "too_large" "the body or the message is too large";
    MEDIA_TYPE = 415 "unsupported_media_type" "the body is of another media type";
    INVALID = 422 "invalid" "the request says something that cannot be, and which";
    SUPPRESSED = 422 "suppressed" "a recipient is on the suppression list";
    ADDRESS_NOT_CARRIED = 422 "address_not_carried" "an address is not ASCII, and cannot be carried";
    TOO_MANY_RECIPIENTS = 422 "too_many_recipients" "too many recipients for one message";
    UNACCEPTABLE = 422 "unacceptable" "the message cannot be sent, and why";
    DOMAIN_NOT_PROVABLE = 422 "domain_not_provable" "no such domain can be proven, and why";
    DOMAIN_REFUSED = 422 "domain_refused" "the mail service refuses the domain";
    TOO_FAST = 429 "too_fast" "too many requests";
    CREDENTIAL_CAPPED = 429 "credential_capped" "the credential has sent as much as its cap lets it";
    TOO_MANY_FAILURES = 429 "too_many_failures" "too many failed sign-ins";
    CHECKOUT_REFUSED = 502 "checkout_refused" "the payment service refuses the checkout";
    BILLING_UNKNOWN = 503 "billing_unknown" "the credits cannot be checked now";
    NO_ROOM = 503 "no_room" "too much is arriving at the moment";
    PAYMENTS_UNAVAILABLE = 503 "payments_unavailable" "the payment service does not answer";
    DOMAINS_UNAVAILABLE = 503 "domains_unavailable" "domains cannot be managed now";
    UNAVAILABLE = 503 "unavailable" "Postmeter cannot do this at the moment";

    R_NOT_JSON = 400 "validation_error" "the body is no JSON";
    R_INVALID_KEY = 400 "invalid_idempotency_key" "1 to 256 characters of printable ASCII are a key";
    R_MISSING_KEY = 401 "missing_api_key" "no credential came";
    R_WRONG_KEY = 401 "validation_error" "a wrong or revoked one";
    R_SUSPENDED = 403 "suspended_api_key" "the account is suspended, with the reason";
    R_SENDER = 403 "validation_error" "the sender is not one of this account";
    R_NOT_FOUND = 404 "not_found" "there is no such email of this account";
    R_INCOMPLETE = 408 "application_error" "the body did not arrive in time";
    R_KEY_REUSED = 409 "invalid_idempotent_request" "the key was used for another request";
    R_TOO_LARGE = 413 "validation_error" "the request or the email is too large";
    R_MEDIA_TYPE = 415 "validation_error" "the body is of another media type";
    R_INVALID = 422 "validation_error" "a field is wrong, and which";
    R_MISSING_FIELD = 422 "missing_required_field" "a field is missing, and which";
    R_ATTACHMENT = 422 "invalid_attachment" "a file is wrong, and which";
    R_RATE = 429 "rate_limit_exceeded" "too fast, or too many failed sign-ins";
    R_CAPPED = 429 "daily_quota_exceeded" "the credential has sent as much as its cap lets it in a day";
    R_NO_CREDIT = 429 "monthly_quota_exceeded" "no email credits remaining: buy a top-up";
    R_UNAVAILABLE = 503 "service_unavailable" "Postmeter cannot do this at the moment";
}

/// Of every route that somebody signs in for.
pub(crate) const SIGNING_IN: &[Code] = &[UNAUTHORIZED, TOO_MANY_FAILURES, UNAVAILABLE];
/// Of every route that takes a body.
pub(crate) const BODY: &[Code] = &[NOT_JSON, BODY_INCOMPLETE, TOO_LARGE, MEDIA_TYPE, INVALID];
/// Of what sends a message.
pub(crate) const MESSAGE: &[Code] = &[
    OUT_OF_CREDIT,
    SUSPENDED,
    SENDER_NOT_ALLOWED,
    KEY_REUSED,
    SUPPRESSED,
    ADDRESS_NOT_CARRIED,
    TOO_MANY_RECIPIENTS,
    UNACCEPTABLE,
    TOO_FAST,
    CREDENTIAL_CAPPED,
    BILLING_UNKNOWN,
    NO_ROOM,
];
/// Of what looks at a customer's domains.
pub(crate) const DOMAIN: &[Code] = &[FORBIDDEN, NOT_FOUND, INVALID];
/// Of what changes them.
pub(crate) const DOMAIN_CHANGE: &[Code] = &[
    SUSPENDED,
    DOMAINS_OFF,
    DOMAIN_DENIED,
    DOMAIN_TAKEN,
    DOMAIN_REGISTERED,
    TOO_MANY_DOMAINS,
    DOMAIN_OUTDATED,
    DOMAIN_BUSY,
    DOMAIN_NOT_PROVABLE,
    DOMAIN_REFUSED,
    TOO_FAST,
    DOMAINS_UNAVAILABLE,
];
/// Of the operator's decisions.
pub(crate) const DECISION: &[Code] =
    &[NOT_FOUND, ALREADY_FINAL, ATTEMPT_RUNNING, OUTCOME_UNKNOWN, CONFIRMATION_NEEDED];
/// Of what begins a checkout.
pub(crate) const CHECKOUT: &[Code] = &[CHECKOUT_REFUSED, PAYMENTS_UNAVAILABLE, UNAVAILABLE];
/// Of a webhook.
pub(crate) const WEBHOOK: &[Code] =
    &[MALFORMED_WEBHOOK, BAD_SIGNATURE, BODY_INCOMPLETE, TOO_LARGE, NO_ROOM, UNAVAILABLE];
/// Of every route in Resend's form.
pub(crate) const AS_RESEND: &[Code] = &[R_MISSING_KEY, R_WRONG_KEY, R_INVALID, R_RATE, R_UNAVAILABLE];
/// Of what sends in Resend's form.
pub(crate) const EMAIL: &[Code] = &[
    R_NOT_JSON,
    R_INVALID_KEY,
    R_SUSPENDED,
    R_SENDER,
    R_INCOMPLETE,
    R_KEY_REUSED,
    R_TOO_LARGE,
    R_MEDIA_TYPE,
    R_MISSING_FIELD,
    R_ATTACHMENT,
    R_CAPPED,
    R_NO_CREDIT,
];
