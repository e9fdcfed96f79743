//! One attempt: send, understand the answer, write it down.

use std::time::Duration;

use jiff::Timestamp;

use super::leases::Lease;
use super::{Delivery, Tools};
use crate::domain::address::Mailbox;
use crate::domain::answer::Answer;
use crate::domain::digest::sha256_hex;
use crate::domain::message::Road;
use crate::random;
use crate::store::queue::LeasedPart;
use crate::store::report::{Answered, News, Recorded, Report};
use crate::telemetry::AttemptOutcome;
use crate::upstream::resend::KEY_USED_FOR_OTHER_BYTES;
use crate::upstream::translate::Translatable;
use crate::upstream::{Outcome, Outgoing, RecipientAnswer};

/// Resend forgets a key 24 hours after its first use; an unknown outcome is not
/// tried again this close to that.
const KEY_LIFE: Duration = Duration::from_secs(23 * 3600);
/// First and longest wait before news is written down again.
const REPORT_RETRY_MIN: Duration = Duration::from_millis(200);
const REPORT_RETRY_MAX: Duration = Duration::from_secs(10);

impl Delivery {
    /// Makes one attempt with a leased part and reports it.
    pub(super) async fn deliver(&self, part: &LeasedPart, lease: &Lease) {
        let now = self.0.tools.clock.now();
        let news = match self.decide_before(part, now) {
            Some(news) => news,
            None => {
                let outcome = self.send(part, lease).await;
                self.news_of(part, outcome).await
            }
        };
        self.report(part, news).await;
    }

    /// What needs no call: a lifetime that is over, a call that cannot be repeated.
    fn decide_before(&self, part: &LeasedPart, now: Timestamp) -> Option<News> {
        if part.unknown
            && part.road == Road::Resend
            && let Some(reason) = unrepeatable(part, now)
        {
            return Some(News::Hold { reason });
        }
        if part.expires_at <= now && !self.is_closed(part.road) && !part.unknown {
            let answer = Answer::new("4.4.7", "the message could not be sent within its lifetime");
            let failed = part.recipients.iter().map(|r| (r.clone(), answer.clone())).collect();
            return Some(News::Answered(Answered { failed, ..Answered::default() }));
        }
        None
    }

    async fn send(&self, part: &LeasedPart, lease: &Lease) -> Outcome {
        let outgoing = Outgoing {
            part_id: part.part_id(),
            idempotency_key: part.idempotency_key(),
            reverse_path: part.reverse_path.clone(),
            recipients: part.recipients.clone(),
            bytes: part.bytes.clone(),
        };
        tokio::select! {
            outcome = self.0.tools.upstreams.send(part.road, &outgoing) => outcome,
            () = lease.lost.cancelled() => Outcome::Unknown {
                reason: "the lease was lost during the attempt".to_owned(),
                retry_after: None,
            },
        }
    }

    /// Turns what the upstream said into what is written down.
    async fn news_of(&self, part: &LeasedPart, outcome: Outcome) -> News {
        self.0.tools.metrics.attempt(part.road, label(&outcome));
        if !matches!(outcome, Outcome::Closed { .. } | Outcome::Unknown { .. }) {
            self.open_gate(part.road).await;
        }
        // A call under the same key may have been accepted before: "not now" is no answer to that.
        let stays_unknown = part.unknown && part.road == Road::Resend;
        match outcome {
            Outcome::Answered { upstream_id, answers } => self.answered(part, upstream_id, answers),
            Outcome::Transient { answer, retry_after, counts } => News::Retry {
                due: self.due(part.attempt, retry_after),
                error: format!("{} {}", answer.status, answer.text),
                unknown: stays_unknown,
                counts,
            },
            Outcome::Closed { reason, retry_after } => {
                let due = self.close_gate(part.road, &reason, retry_after).await;
                News::Retry { due, error: reason, unknown: stays_unknown, counts: false }
            }
            Outcome::Unknown { reason, .. } if reason.starts_with(KEY_USED_FOR_OTHER_BYTES) => {
                News::Hold { reason }
            }
            Outcome::Unknown { reason, retry_after } => News::Retry {
                due: self.due(part.attempt, retry_after),
                error: reason,
                unknown: true,
                counts: true,
            },
        }
    }

    fn answered(
        &self,
        part: &LeasedPart,
        upstream_id: Option<String>,
        answers: Vec<RecipientAnswer>,
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
        answered.again = deferred.map(|answer| (self.due(part.attempt, None), answer));
        News::Answered(answered)
    }

    fn due(&self, attempt: u32, retry_after: Option<Duration>) -> Timestamp {
        let [jitter] = random::octets::<1>();
        let now = self.0.tools.clock.now();
        now.checked_add(self.0.settings.schedule.wait(attempt, jitter, retry_after)).unwrap_or(now)
    }

    /// A part that was leased and never tried goes back into the queue.
    pub(super) async fn give_back(&self, part: &LeasedPart) {
        let due = self.0.tools.clock.now();
        let error = "the process stopped before the attempt began".to_owned();
        self.report(part, News::Retry { due, error, unknown: part.unknown, counts: false }).await;
    }

    /// Writes news down, however long the store takes: sending again would be the alternative.
    async fn report(&self, part: &LeasedPart, news: News) {
        let Tools { store, clock, .. } = &self.0.tools;
        let bounce = self.bounce_for(part, &news).map(Box::new);
        let report = Report {
            message_id: part.message_id.clone(),
            part_no: part.part_no,
            attempt: part.attempt,
            at: clock.now(),
            news,
            bounce,
        };
        let mut wait = REPORT_RETRY_MIN;
        loop {
            match store.report(report.clone()).await {
                Ok(recorded) => return self.recorded(part, &report, recorded),
                Err(error) => {
                    tracing::error!(part_id = %part.part_id(), %error, "an attempt could not be written down")
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REPORT_RETRY_MAX);
        }
    }

    fn recorded(&self, part: &LeasedPart, report: &Report, recorded: Recorded) {
        log_attempt(part, report);
        match recorded {
            Recorded::Applied { captured } => {
                if captured {
                    self.0.tools.billing.captured();
                }
            }
            Recorded::Late => {
                if matches!(&report.news, News::Answered(answered) if !answered.sent.is_empty()) {
                    self.0.tools.metrics.late_sent();
                }
                tracing::warn!(part_id = %part.part_id(), attempt = part.attempt, "this news came too late and changed nothing");
            }
        }
    }
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

const fn label(outcome: &Outcome) -> AttemptOutcome {
    match outcome {
        Outcome::Answered { upstream_id: Some(_), .. } => AttemptOutcome::Accepted,
        Outcome::Answered { .. } => AttemptOutcome::Refused,
        Outcome::Transient { .. } => AttemptOutcome::Deferred,
        Outcome::Closed { .. } => AttemptOutcome::Closed,
        Outcome::Unknown { .. } => AttemptOutcome::Unknown,
    }
}

fn log_attempt(part: &LeasedPart, report: &Report) {
    let (outcome, reason, retry_at, upstream_id) = match &report.news {
        News::Answered(answered) => {
            let outcome = match (answered.sent.is_empty(), &answered.again) {
                (false, _) => "sent",
                (true, Some(_)) => "deferred",
                (true, None) => "failed",
            };
            let first: Option<&(Mailbox, Answer)> = answered.failed.first();
            let said = first.map(|(_, answer)| answer).or(answered.again.as_ref().map(|(_, answer)| answer));
            let reason = said.map(|answer| format!("{} {}", answer.status, answer.text));
            (outcome, reason, answered.again.as_ref().map(|(due, _)| *due), answered.upstream_id.as_deref())
        }
        News::Retry { due, error, unknown, .. } => {
            (if *unknown { "unknown" } else { "deferred" }, Some(error.clone()), Some(*due), None)
        }
        News::Hold { reason } => ("held", Some(reason.clone()), None, None),
    };
    tracing::info!(
        message_id = %part.message_id,
        part_id = %part.part_id(),
        customer_id = %part.customer_id,
        road = part.road.as_str(),
        attempt = part.attempt,
        outcome,
        upstream_id,
        reason,
        retry_at = retry_at.map(|at| at.to_string()),
        "attempt"
    );
}
