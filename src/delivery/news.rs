//! What an attempt means for its part. Pure: the time and the jitter are arguments.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::answer::Answer;
use crate::domain::digest::sha256_hex;
use crate::domain::message::Road;
use crate::domain::retry::RetrySchedule;
use crate::store::gate::Gate;
use crate::store::queue::LeasedPart;
use crate::store::report::{Answered, News};
use crate::upstream::resend::KEY_USED_FOR_OTHER_BYTES;
use crate::upstream::translate::Translatable;
use crate::upstream::{Outcome, RecipientAnswer};

/// Resend forgets a key 24 hours after its first use; an unknown outcome is not
/// tried again this close to that.
const KEY_LIFE: Duration = Duration::from_secs(23 * 3600);

/// When an attempt ended, and what decides when the next one is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    pub(crate) schedule: RetrySchedule,
    pub(crate) jitter: u8,
}

/// How a part finds the gate of its road.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door<'a> {
    /// Open.
    Open,
    /// Closed to it.
    Closed(&'a Gate),
    /// Closed, and this attempt is the one that tries it.
    Tried(&'a Gate),
}

/// What needs no call: a closed gate, a lifetime that is over, a call that cannot
/// be repeated.
pub(crate) fn before(part: &LeasedPart, now: Timestamp, door: Door<'_>) -> Option<News> {
    if let Door::Closed(gate) = door {
        let error = format!("the upstream's gate is closed: {}", gate.reason);
        return Some(News::Retry { due: gate.try_again_at, error, unknown: part.unknown, counts: false });
    }
    if part.unknown
        && part.road == Road::Resend
        && let Some(reason) = unrepeatable(part, now)
    {
        return Some(News::Hold { reason });
    }
    if expires_at(part, now, door) > now {
        return None;
    }
    match (part.unknown, part.road) {
        // The same call again is harmless, and the only way to an answer.
        (true, Road::Resend) => None,
        (true, Road::Smtp) => Some(News::Hold {
            reason: "its lifetime is over, and the outcome of the last attempt is unknown".to_owned(),
        }),
        (false, _) => {
            let answer = Answer::new("4.4.7", "the message could not be sent within its lifetime");
            let failed = part.recipients.iter().map(|r| (r.clone(), answer.clone())).collect();
            Some(News::Answered(Answered { failed, ..Answered::default() }))
        }
    }
}

/// When the part is given up: its lifetime stands still while the gate is closed.
fn expires_at(part: &LeasedPart, now: Timestamp, door: Door<'_>) -> Timestamp {
    let Door::Tried(gate) = door else { return part.expires_at };
    let stood_still = now.duration_since(gate.since.max(part.accepted_at));
    part.expires_at.checked_add(stood_still).unwrap_or(Timestamp::MAX)
}

/// Why a call whose outcome is unknown must not be made again, if it must not.
fn unrepeatable(part: &LeasedPart, now: Timestamp) -> Option<String> {
    let age = Duration::try_from(now.duration_since(part.first_try_at)).unwrap_or_default();
    if age > KEY_LIFE {
        return Some("its outcome is unknown, and Resend may have forgotten the idempotency key".to_owned());
    }
    let request = Translatable::parse(&part.bytes)
        .and_then(|message| message.email(&part.recipients, &part.part_id()).map(|email| email.to_json()));
    let is_same = match (&part.request_hash, request) {
        (Some(hash), Ok(request)) => *hash == sha256_hex(&request),
        _ => false,
    };
    (!is_same).then(|| "its outcome is unknown, and this version would send another request".to_owned())
}

/// Turns what the upstream said into what is written down.
pub(crate) fn of(part: &LeasedPart, outcome: Outcome, moment: Moment) -> News {
    // A call under the same key may have been accepted before: "not now" is no answer to that.
    let stays_unknown = part.unknown && part.road == Road::Resend;
    match outcome {
        Outcome::Answered { upstream_id, answers } => answered(part, upstream_id, answers, moment),
        Outcome::Barred(answer) if stays_unknown => {
            let error = format!("{} {}", answer.status, answer.text);
            News::Retry { due: moment.next_attempt(part, None), error, unknown: true, counts: true }
        }
        Outcome::Barred(answer) => {
            answered(part, None, vec![RecipientAnswer::Refused(answer); part.recipients.len()], moment)
        }
        Outcome::Transient { answer, retry_after, counts } => {
            let due = match retry_after {
                // It is not the part's fault: it comes back as soon as it is told to.
                Some(wait) if !counts => moment.after(wait),
                _ => moment.next_attempt(part, retry_after),
            };
            let due = if stays_unknown { due } else { within_lifetime(part, due, moment.now) };
            let error = format!("{} {}", answer.status, answer.text);
            News::Retry { due, error, unknown: stays_unknown, counts }
        }
        Outcome::Closed { reason, retry_after } => {
            let due = moment.after(retry_after);
            News::Retry { due, error: reason, unknown: stays_unknown, counts: false }
        }
        Outcome::Unknown { reason, .. } if reason.starts_with(KEY_USED_FOR_OTHER_BYTES) => {
            News::Hold { reason }
        }
        Outcome::Unknown { reason, retry_after } => {
            // Told when to ask again for the answer, it asks then, however often it has tried.
            let due = retry_after.map_or_else(|| moment.next_attempt(part, None), |wait| moment.after(wait));
            News::Retry { due, error: reason, unknown: true, counts: true }
        }
    }
}

fn answered(
    part: &LeasedPart,
    upstream_id: Option<String>,
    answers: Vec<RecipientAnswer>,
    moment: Moment,
) -> News {
    let mut answered = Answered { upstream_id, ..Answered::default() };
    let mut deferred = None;
    for (recipient, answer) in part.recipients.iter().zip(answers) {
        match answer {
            RecipientAnswer::Accepted => answered.sent.push(recipient.clone()),
            RecipientAnswer::Refused(answer) => answered.failed.push((recipient.clone(), answer)),
            RecipientAnswer::Deferred(answer) => deferred = Some(answer),
        }
    }
    answered.again = deferred.map(|answer| {
        let due = moment.next_attempt(part, None);
        (within_lifetime(part, due, moment.now), answer)
    });
    News::Answered(answered)
}

/// A part whose lifetime ends before its next attempt is given up when it ends,
/// not hours later: the sender wants to know.
fn within_lifetime(part: &LeasedPart, due: Timestamp, now: Timestamp) -> Timestamp {
    if part.expires_at > now { due.min(part.expires_at) } else { due }
}

impl Moment {
    fn next_attempt(&self, part: &LeasedPart, retry_after: Option<Duration>) -> Timestamp {
        self.after(self.schedule.wait(part.attempt, self.jitter, retry_after))
    }

    fn after(&self, wait: Duration) -> Timestamp {
        self.now.checked_add(wait).unwrap_or(self.now)
    }
}

/// Whether the upstream took the part for somebody: then its gate is open.
pub(super) fn is_accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered { answers, .. } if answers.contains(&RecipientAnswer::Accepted))
}

#[cfg(test)]
mod tests;
