//! What an attempt means for its part. Pure: the time and the jitter are arguments.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::address::Mailbox;
use crate::domain::answer::Answer;
use crate::domain::batch::{Half, half};
use crate::domain::message::Road;
use crate::domain::retry::RetrySchedule;
use crate::store::gate::Gate;
use crate::store::queue::LeasedPart;
use crate::store::report::{Answered, News, Rest};
use crate::upstream::resend::KEY_USED_FOR_OTHER_BYTES;
use crate::upstream::resend::batch::Together;
use crate::upstream::{Outcome, RecipientAnswer};

/// Resend forgets a key 24 hours after its first use; an unknown outcome is not
/// tried again this close to that.
const KEY_LIFE: Duration = Duration::from_secs(23 * 3600);

/// Why somebody is held.
const EARLIER: &str = "the upstream may have taken it at an earlier attempt";
const ANOTHER_REQUEST: &str = "its outcome is unknown, and this version would send another request";

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
        return Some(closed(part, gate));
    }
    if is_asked_again(part)
        && let Some(reason) = unrepeatable(part, now)
    {
        return Some(News::Hold { reason });
    }
    if expires_at(part, now, door) > now {
        return None;
    }
    (!is_asked_again(part)).then(|| expired(part))
}

/// The gate is closed to the part.
pub(super) fn closed(part: &LeasedPart, gate: &Gate) -> News {
    let error = format!("the upstream's gate is closed: {}", gate.reason);
    News::Gated { until: gate.try_again_at, error, unknown: part.unknown }
}

/// The part was leased and never tried.
pub(super) fn not_begun(part: &LeasedPart, now: Timestamp) -> News {
    put_off(part.unknown, now, "the process stopped before the attempt began".to_owned(), false)
}

/// The call that it was to leave with is not on disk, and was not made.
pub(super) fn not_composed(part: &LeasedPart, due: Timestamp) -> News {
    put_off(part.unknown, due, "the database was not available".to_owned(), false)
}

/// Others are read in its place.
pub(super) fn put_by(part: &LeasedPart, due: Timestamp) -> News {
    put_off(part.unknown, due, "Resend refuses mail of this customer's; it leaves apart".to_owned(), false)
}

/// The part is not ours any more: this changes it only if it is all the same.
pub(super) fn lost(part: &LeasedPart, now: Timestamp) -> News {
    put_off(part.unknown, now, "a lease was lost before the attempt".to_owned(), false)
}

/// Who may have it is not told that it was undeliverable, nor given back what it cost.
fn expired(part: &LeasedPart) -> News {
    let answer = Answer::new("4.4.7", "the message could not be sent within its lifetime");
    let (doubtful, given_up): (Vec<_>, Vec<_>) =
        part.recipients.iter().cloned().partition(|recipient| part.maybe_taken.contains(recipient));
    let failed: Vec<_> = given_up.into_iter().map(|recipient| (recipient, answer.clone())).collect();
    let reason = format!("its lifetime is over, and {EARLIER}");
    match (doubtful.is_empty(), failed.is_empty()) {
        (false, true) => News::Hold { reason },
        (false, false) => {
            News::Answered(Answered { failed, rest: Rest::Held { reason }, ..Answered::default() })
        }
        (true, _) => News::Answered(Answered { failed, ..Answered::default() }),
    }
}

/// Nothing was taken by this attempt; what is known of earlier ones stays as it is.
fn put_off(unknown: bool, due: Timestamp, error: String, counts: bool) -> News {
    News::Retry { due, error, unknown, maybe_taken: Vec::new(), counts, batch_max: None }
}

/// When the part is given up: its lifetime stands still while the gate is closed.
fn expires_at(part: &LeasedPart, now: Timestamp, door: Door<'_>) -> Timestamp {
    let Door::Tried(gate) = door else { return part.expires_at };
    let stood_still = now.duration_since(gate.since.max(part.accepted_at));
    part.expires_at.checked_add(stood_still).unwrap_or(Timestamp::MAX)
}

/// Whether the same call is made again for its answer: that is harmless, and the only way to
/// one. Over SMTP nobody can be asked, and another try is another mail.
fn is_asked_again(part: &LeasedPart) -> bool {
    part.unknown && part.road == Road::Resend
}

/// Why a call whose outcome is unknown must not be made again, if it must not.
fn unrepeatable(part: &LeasedPart, now: Timestamp) -> Option<String> {
    if !is_key_known(part.first_try_at, now) {
        return Some("its outcome is unknown, and Resend may have forgotten the idempotency key".to_owned());
    }
    part.request_hash.is_none().then(|| ANOTHER_REQUEST.to_owned())
}

/// Whether Resend surely still knows the key of a call that was first made then.
pub(super) fn is_key_known(first_try_at: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(first_try_at)).unwrap_or_default() <= KEY_LIFE
}

/// The hash of the request that must be made again, if it must.
pub(crate) fn repeats(part: &LeasedPart) -> Option<String> {
    part.request_hash.clone().filter(|_| is_asked_again(part))
}

/// Turns what the upstream said into what is written down.
pub(crate) fn of(part: &LeasedPart, outcome: Outcome, moment: Moment) -> News {
    // A call under the same key may have been accepted before: "not now" is no answer to that.
    // By SMTP too the key stays meanwhile: Resend's own service knows a copy by it.
    match outcome {
        Outcome::Answered { upstream_id, answers, host } => {
            answered(part, (upstream_id, host), answers, moment)
        }
        Outcome::Barred(answer) if is_asked_again(part) => {
            let error = format!("{} {}", answer.status, answer.text);
            put_off(true, moment.next_attempt(part, None), error, true)
        }
        Outcome::Barred(answer) => answered(
            part,
            (None, None),
            vec![RecipientAnswer::Refused(answer); part.recipients.len()],
            moment,
        ),
        Outcome::Transient { answer, retry_after, counts } => {
            let due = match retry_after {
                // It is not the part's fault: it comes back as soon as it is told to.
                Some(wait) if !counts => moment.after(wait),
                _ => moment.next_attempt(part, retry_after),
            };
            let due = if is_asked_again(part) { due } else { within_lifetime(part, due, moment.now) };
            let error = format!("{} {}", answer.status, answer.text);
            put_off(part.unknown, due, error, counts)
        }
        Outcome::Closed { reason, retry_after } => {
            News::Gated { until: moment.after(retry_after), error: reason, unknown: part.unknown }
        }
        Outcome::Unrepeatable => News::Hold { reason: ANOTHER_REQUEST.to_owned() },
        Outcome::Unknown { reason, .. } if reason.starts_with(KEY_USED_FOR_OTHER_BYTES) => {
            News::Hold { reason }
        }
        Outcome::Unknown { reason, retry_after, left_out } => {
            // Told when to ask again for the answer, it asks then, however often it has tried.
            let due = retry_after.map_or_else(|| moment.next_attempt(part, None), |wait| moment.after(wait));
            let maybe_taken = beyond_asking(part, &left_out);
            // The next try is of more than this one was: under the same key whoever was left out
            // would be taken for served.
            let unknown = left_out.is_empty();
            News::Retry { due, error: reason, unknown, maybe_taken, counts: true, batch_max: None }
        }
    }
}

/// What the answer to a call with several parts means for each. Where it is to be made
/// again it is made for all of them at the same time.
pub(crate) fn of_together(parts: &[&LeasedPart], together: Together, moment: Moment) -> Vec<News> {
    let is_unknown = parts.iter().any(|part| part.unknown);
    let outcome = match together {
        Together::Taken(ids) => return taken(parts, ids),
        Together::Barred(answer) if is_unknown => Outcome::Barred(answer),
        Together::Refused(_) | Together::Barred(_) => return divided(parts, moment.now),
        Together::OverQuota { reason, retry_after } if is_unknown => Outcome::Closed { reason, retry_after },
        Together::OverQuota { reason, .. } => {
            return parts.iter().map(|_| put_off(false, moment.now, reason.clone(), false)).collect();
        }
        Together::Failed(outcome) | Together::Each(outcome) => outcome,
    };
    let latest = parts.iter().max_by_key(|part| part.attempt);
    match latest.map(|part| of(part, outcome.clone(), moment)) {
        Some(
            same
            @ (News::Retry { unknown: true, .. } | News::Gated { unknown: true, .. } | News::Hold { .. }),
        ) => vec![same; parts.len()],
        _ => parts.iter().map(|part| of(part, outcome.clone(), moment)).collect(),
    }
}

fn taken(parts: &[&LeasedPart], ids: Vec<String>) -> Vec<News> {
    let sent = |(part, id): (&&LeasedPart, String)| {
        let (sent, relayed) = (part.recipients.clone(), part.recipients.clone());
        News::Answered(Answered { upstream_id: Some(id), sent, relayed, ..Answered::default() })
    };
    parts.iter().zip(ids).map(sent).collect()
}

/// Nobody was taken because of one of them, and nobody knows which.
/// What was said may quote one of them, and is nobody else's business.
fn divided(parts: &[&LeasedPart], now: Timestamp) -> Vec<News> {
    let size = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let news = |no| {
        let Half { batch_max, nth } = half(size, no);
        let due = now.checked_add(Duration::from_millis(nth.into())).unwrap_or(now);
        let error = "refused with others: it leaves again in a smaller call".to_owned();
        let batch_max = Some(batch_max);
        News::Retry { due, error, unknown: false, maybe_taken: Vec::new(), counts: false, batch_max }
    };
    (0..size).map(news).collect()
}

/// Who may have it by a call without an answer that cannot be made again to get one:
/// over SMTP another try is another mail.
fn beyond_asking(part: &LeasedPart, left_out: &[Mailbox]) -> Vec<Mailbox> {
    match part.road {
        Road::Resend => Vec::new(),
        Road::Smtp => part.recipients.iter().filter(|to| !left_out.contains(to)).cloned().collect(),
    }
}

/// A refusal of somebody who may have it by an earlier attempt proves nothing about
/// that one: the copy may be the very reason for it. It is no proof of a debit either,
/// so it is left to the operator, unless others are tried again and it with them.
fn answered(
    part: &LeasedPart,
    (upstream_id, host): (Option<String>, Option<String>),
    answers: Vec<RecipientAnswer>,
    moment: Moment,
) -> News {
    let mut answered = Answered { upstream_id, host, ..Answered::default() };
    let (mut deferred, mut in_vain) = (None, None);
    for (recipient, answer) in part.recipients.iter().zip(answers) {
        match answer {
            RecipientAnswer::Vouched => answered.sent.push(recipient.clone()),
            RecipientAnswer::Accepted => {
                answered.sent.push(recipient.clone());
                answered.relayed.push(recipient.clone());
            }
            RecipientAnswer::Refused(answer) | RecipientAnswer::NoMailbox(answer)
                if part.maybe_taken.contains(recipient) =>
            {
                in_vain = Some(answer)
            }
            RecipientAnswer::Refused(answer) => answered.failed.push((recipient.clone(), answer)),
            RecipientAnswer::NoMailbox(answer) => {
                answered.failed.push((recipient.clone(), answer));
                answered.no_mailbox.push(recipient.clone());
            }
            RecipientAnswer::Deferred(answer) => deferred = Some(answer),
        }
    }
    answered.rest = match (deferred, in_vain) {
        (Some(answer), _) => {
            let due = moment.next_attempt(part, None);
            Rest::Again { due: within_lifetime(part, due, moment.now), answer }
        }
        (None, Some(Answer { status, text })) => {
            Rest::Held { reason: format!("refused: {status} {text}; and {EARLIER}") }
        }
        (None, None) => Rest::Nobody,
    };
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
    matches!(outcome, Outcome::Answered { answers, .. } if answers.iter().any(RecipientAnswer::is_accepted))
}

#[cfg(test)]
mod tests;
