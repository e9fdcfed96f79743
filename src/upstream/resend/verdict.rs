//! What each of Resend's answers means for a part (resend.com/docs, "Errors").
//!
//! The error's `name` decides, the status where there is none or it is new. In
//! doubt the mail is kept: what may be the operator's trouble or our own never
//! bounces a customer's mail at once, and what may have been accepted is asked
//! again under the same key. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::batch::Together;
use super::{KeyRights, ResendUnusable, SendingDomain, name_and_message};
use crate::domain::closure::Closure;
use crate::outbound::HttpAnswer;
use crate::upstream::{Answer, Outcome, RecipientAnswer};

/// The name of the 409 for a key that came with other bytes within 24 hours.
/// The first mail was probably accepted, and asking again never helps: the part
/// must be held. [`Outcome::Unknown`]'s reason begins with it.
pub const KEY_USED_FOR_OTHER_BYTES: &str = "invalid_idempotent_request";

/// How long to leave a door alone that only the operator can open.
const OPERATOR_RETRY: Duration = Duration::from_secs(300);

/// The names of the 429s for quotas; any other is for the rate.
const DAILY: &str = "daily_quota_exceeded";
const MONTHLY: &str = "monthly_quota_exceeded";

/// How often to see whether a monthly quota was raised.
const MONTHLY_RETRY: Duration = Duration::from_secs(3_600);

/// How long an earlier call with the same key may still be running.
const CONCURRENT_RETRY: Duration = Duration::from_secs(5);

/// How often to see whether a daily quota was raised, or ends otherwise than documented.
const DAILY_RETRY: Duration = Duration::from_secs(3_600);

const DAY_S: i64 = 86_400;

/// The meaning of an answer to `POST /emails` for a part with so many recipients.
pub(crate) fn of(answer: &HttpAnswer, recipients: usize, now: Timestamp) -> Outcome {
    let error = name_and_message(&answer.body);
    let verdict = Verdict { answer, error, recipients };
    match answer.status {
        200..300 => verdict.accepted(),
        400 | 401 | 403 => verdict.key_or_content(),
        404 | 405 | 300..400 => verdict.closed(Closure::ApiAddress, OPERATOR_RETRY),
        409 => verdict.conflict(),
        413 => verdict.refused("5.3.4"),
        422 => verdict.invalid(),
        429 => verdict.limited(now),
        500 if verdict.says("duplicate header") => verdict.refused("5.6.0"),
        408 | 500.. => verdict.unknown(answer.rate.retry_after),
        _ => verdict.transient(),
    }
}

/// The meaning of an answer to `POST /emails/batch` for so many mails. Whoever reads the
/// ids must be sure whose each is, so an answer with more or fewer of them is none.
pub(crate) fn of_together(answer: &HttpAnswer, mails: usize, now: Timestamp) -> Together {
    let verdict = Verdict { answer, error: name_and_message(&answer.body), recipients: 1 };
    let unknown = || Together::Each(verdict.unknown(None));
    if (200..300).contains(&answer.status) {
        let ids = ids(&answer.body).filter(|ids| ids.len() == mails);
        return ids.map_or_else(unknown, Together::Taken);
    }
    match of(answer, 1, now) {
        Outcome::Answered { answers, .. } => match answers.into_iter().next() {
            // Whoever says this may never have looked the key up.
            Some(RecipientAnswer::Refused(answer)) if verdict.is_of_the_way() => Together::Barred(answer),
            Some(RecipientAnswer::Refused(answer)) => Together::Refused(answer),
            _ => unknown(),
        },
        Outcome::Barred(answer) => Together::Barred(answer),
        Outcome::Closed { reason, retry_after } if verdict.is_over_quota() => {
            Together::OverQuota { reason, retry_after }
        }
        outcome @ Outcome::Unknown { .. } if answer.status >= 500 => Together::Failed(outcome),
        outcome => Together::Each(outcome),
    }
}

/// `{"data": [{"id": …}, …]}`
fn ids(body: &[u8]) -> Option<Vec<String>> {
    let body = serde_json::from_slice::<Value>(body).ok()?;
    let id =
        |mail: &Value| mail.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
    body.get("data")?.as_array()?.iter().map(id).collect()
}

struct Verdict<'a> {
    answer: &'a HttpAnswer,
    error: Option<(String, String)>,
    recipients: usize,
}

impl Verdict<'_> {
    fn name(&self) -> &str {
        self.error.as_ref().map_or("", |(name, _)| name.as_str())
    }

    fn says(&self, words: &str) -> bool {
        self.error.as_ref().is_some_and(|(_, message)| message.to_lowercase().contains(words))
    }

    /// Looks at the beginning only: further on a message may repeat words of the
    /// mail's, and no customer may close the gate for the others.
    fn speaks_of_the_key(&self) -> bool {
        let message = self.error.as_ref().map(|(_, message)| message.to_lowercase()).unwrap_or_default();
        let first = ["", "the ", "this ", "your ", "invalid ", "missing "];
        first.iter().any(|first| message.strip_prefix(first).is_some_and(|rest| rest.starts_with("api key")))
    }

    /// `422 missing_required_field: Missing …`, or the start of what came instead of JSON.
    fn text(&self) -> String {
        match &self.error {
            Some((name, message)) => format!("{} {name}: {message}", self.answer.status),
            None => {
                let body = String::from_utf8_lossy(&self.answer.body);
                let start: String = body.chars().take(120).collect();
                format!("{} {start}", self.answer.status)
            }
        }
    }

    /// A success that carries no JSON did not come from Resend: the same call
    /// again finds out, and cannot send twice.
    fn accepted(&self) -> Outcome {
        let Ok(Value::Object(body)) = serde_json::from_slice(&self.answer.body) else {
            return self.unknown(None);
        };
        let upstream_id = body.get("id").and_then(Value::as_str).map(str::to_owned);
        Outcome::Answered {
            upstream_id,
            answers: vec![RecipientAnswer::Accepted; self.recipients],
            host: None,
        }
    }

    /// 400, 401 and 403 are for bad fields and for bad keys, with the same
    /// `validation_error` for both.
    fn key_or_content(&self) -> Outcome {
        let key_is_bad = self.answer.status == 401
            || self.speaks_of_the_key()
            || matches!(
                self.name(),
                "missing_api_key"
                    | "invalid_api_key"
                    | "restricted_api_key"
                    | "suspended_api_key"
                    | "invalid_permission"
            );
        let without_user_agent = self.error.is_none() && self.text().contains("1010");
        if key_is_bad || without_user_agent {
            return self.closed(Closure::ApiKey, OPERATOR_RETRY);
        }
        match self.name() {
            "validation_error" if self.says("is not verified") || self.says("testing emails") => {
                Outcome::Barred(Answer::new("5.7.1", &self.text()))
            }
            "invalid_from_address" => self.refused("5.1.7"),
            "invalid_to_address" => self.refused("5.1.3"),
            // The key is ours, not the customer's.
            "invalid_idempotency_key" => self.transient(),
            "validation_error" => self.refused("5.6.0"),
            name if self.answer.status == 400 && !name.is_empty() => self.refused("5.6.0"),
            // A proxy or a filter in front, or a name that is new.
            _ => self.transient(),
        }
    }

    fn conflict(&self) -> Outcome {
        match self.name() {
            KEY_USED_FOR_OTHER_BYTES => {
                let reason = format!("{KEY_USED_FOR_OTHER_BYTES}: Resend saw this key with other bytes");
                Outcome::Unknown { reason, retry_after: None, left_out: Vec::new() }
            }
            "resource_locked" => self.transient(),
            _ => self.unknown(Some(self.answer.rate.retry_after.unwrap_or(CONCURRENT_RETRY))),
        }
    }

    fn invalid(&self) -> Outcome {
        let too_large = ["too large", "40mb", "40 mb", "size", "exceed"];
        match self.name() {
            "invalid_attachment" if too_large.iter().any(|words| self.says(words)) => self.refused("5.3.4"),
            "invalid_from_address" => self.refused("5.1.7"),
            "invalid_to_address" => self.refused("5.1.3"),
            _ => self.refused("5.6.0"),
        }
    }

    /// Whether a refusal may be that of a proxy, or of what lies behind Resend's look at the key.
    fn is_of_the_way(&self) -> bool {
        self.error.is_none() || matches!(self.answer.status, 413 | 500..)
    }

    fn is_over_quota(&self) -> bool {
        self.answer.status == 429 && matches!(self.name(), DAILY | MONTHLY)
    }

    fn limited(&self, now: Timestamp) -> Outcome {
        match self.name() {
            DAILY => self.closed(Closure::DailyQuota, until_midnight(now).min(DAILY_RETRY)),
            MONTHLY => self.closed(Closure::MonthlyQuota, MONTHLY_RETRY),
            _ => {
                let reset = self.answer.rate.reset.map(Duration::from_secs);
                let wait = self.answer.rate.retry_after.or(reset).unwrap_or(Duration::from_secs(1));
                let answer = Answer::new("4.4.5", &self.text());
                Outcome::Transient { answer, retry_after: Some(wait), counts: false }
            }
        }
    }

    fn refused(&self, status: &str) -> Outcome {
        let answer = RecipientAnswer::Refused(Answer::new(status, &self.text()));
        Outcome::Answered { upstream_id: None, answers: vec![answer; self.recipients], host: None }
    }

    fn transient(&self) -> Outcome {
        Outcome::Transient {
            answer: Answer::new("4.3.0", &self.text()),
            retry_after: self.answer.rate.retry_after,
            counts: true,
        }
    }

    fn closed(&self, why: Closure, retry_after: Duration) -> Outcome {
        Outcome::Closed { reason: one_line(&why.because(&self.text())), retry_after }
    }

    fn unknown(&self, retry_after: Option<Duration>) -> Outcome {
        Outcome::Unknown { reason: one_line(&self.text()), retry_after, left_out: Vec::new() }
    }
}

fn one_line(text: &str) -> String {
    Answer::new("", text).text
}

/// Daily quotas begin anew at 00:00 UTC.
fn until_midnight(now: Timestamp) -> Duration {
    let left_s = DAY_S - now.as_second().rem_euclid(DAY_S);
    Duration::from_secs(u64::try_from(left_s).unwrap_or(0))
}

/// Whether a 400, 401 or 403 is about the API key, and not about what was asked.
pub(super) fn is_about_the_key(answer: &HttpAnswer) -> bool {
    let verdict = Verdict { answer, error: name_and_message(&answer.body), recipients: 0 };
    matches!(verdict.key_or_content(), Outcome::Closed { .. })
}

/// What an answer says, in one line.
pub(super) fn said(answer: &HttpAnswer) -> String {
    one_line(&Verdict { answer, error: name_and_message(&answer.body), recipients: 0 }.text())
}

/// The meaning of an answer to `GET /domains`.
pub(super) fn of_check(answer: &HttpAnswer) -> Result<KeyRights, ResendUnusable> {
    let verdict = Verdict { answer, error: name_and_message(&answer.body), recipients: 0 };
    match (answer.status, verdict.name()) {
        (200..300, _) => domains(&answer.body)
            .map(KeyRights::Full)
            .ok_or_else(|| ResendUnusable::Unavailable(one_line(&verdict.text()))),
        (401, "restricted_api_key") => Ok(KeyRights::SendingOnly),
        (400 | 401 | 403, _) => match verdict.key_or_content() {
            Outcome::Closed { .. } => Err(ResendUnusable::BadKey(one_line(&verdict.text()))),
            _ => Err(ResendUnusable::Unavailable(one_line(&verdict.text()))),
        },
        _ => Err(ResendUnusable::Unavailable(one_line(&verdict.text()))),
    }
}

fn domains(body: &[u8]) -> Option<Vec<SendingDomain>> {
    let body = serde_json::from_slice::<Value>(body).ok()?;
    let text = |domain: &Value, field| domain.get(field).and_then(Value::as_str).map(str::to_owned);
    let domain = |domain: &Value| {
        Some(SendingDomain {
            name: text(domain, "name")?,
            status: text(domain, "status").unwrap_or_default(),
        })
    };
    Some(body.get("data")?.as_array()?.iter().filter_map(domain).collect())
}
