//! One attempt: send, understand the answer, write it down.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::bounce::kept_for_bounce;
use super::leases::Lease;
use super::news::{self, Door, Moment};
use super::{Delivery, Tools};
use crate::crash::CrashPoint;
use crate::domain::answer::Answer;
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;
use crate::domain::message::Road;
use crate::random;
use crate::store::accept::Kind;
use crate::store::gate::Gate;
use crate::store::queue::LeasedPart;
use crate::store::report::{News, Recorded, Report, Rest};
use crate::telemetry::{AttemptOutcome, Metrics};
use crate::upstream::translating::SMALL;
use crate::upstream::{Outcome, Outgoing, Ready};

/// How a part comes to an upstream.
#[derive(Debug)]
pub(super) enum Pass {
    /// If the gate is open, with its place.
    Ordinary(Option<OwnedSemaphorePermit>),
    /// Through a closed gate, to see.
    Probe,
}

impl Pass {
    /// How it finds the gate, if that is closed.
    pub(super) fn door<'g>(&self, gate: Option<&'g Gate>) -> Door<'g> {
        match (gate, self) {
            (None, _) => Door::Open,
            (Some(gate), Self::Ordinary(_)) => Door::Closed(gate),
            (Some(gate), Self::Probe) => Door::Tried(gate),
        }
    }
}

/// First and longest wait before news is written down again.
const REPORT_RETRY_MIN: Duration = Duration::from_millis(200);
const REPORT_RETRY_MAX: Duration = Duration::from_secs(10);

impl Delivery {
    /// Makes one attempt with a leased part and reports it.
    pub(super) async fn deliver(&self, mut part: LeasedPart, lease: &Lease, mut pass: Pass) {
        let gate = self.0.gates.get(part.road);
        let news = match news::before(&part, self.0.tools.clock.now(), pass.door(gate.as_ref())) {
            _ if lease.lost.is_cancelled() => None,
            Some(news) => Some(news),
            None => self.attempt(&mut part, lease, &mut pass).await,
        };
        match news {
            Some(news) => self.report(&part, news).await,
            None => {
                tracing::warn!(part_id = %part.part_id(), attempt = part.attempt, "the lease was lost before the attempt");
            }
        }
    }

    /// One attempt. `None`: its lease was lost before, and nothing was sent.
    async fn attempt(&self, part: &mut LeasedPart, lease: &Lease, pass: &mut Pass) -> Option<News> {
        let Tools { store, stop, .. } = &self.0.tools;
        let outgoing = outgoing(part, lease);
        let ready = tokio::select! {
            biased;
            () = lease.lost.cancelled() => return None,
            ready = self.ready(part.road, outgoing, pass) => ready,
            () = stop.cancelled() => return Some(news::not_begun(part, self.0.tools.clock.now())),
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(outcome) => return Some(self.understand(part, outcome).await),
        };
        if !lease.tenure.is_ours().await {
            return None;
        }
        store.pass(CrashPoint::AttemptBegun);
        let outcome = tokio::select! {
            outcome = ready.send() => outcome,
            () = lease.lost.cancelled() => Outcome::Unknown {
                reason: "the lease was lost during the attempt".to_owned(),
                retry_after: None,
                left_out: Vec::new(),
            },
        };
        store.pass(CrashPoint::UpstreamAnswered);
        Some(self.understand(part, outcome).await)
    }

    /// The part as its upstream takes it. Whoever may wait for memory meanwhile leaves its
    /// place to others: nobody who has a place waits for those who wait.
    async fn ready(&self, road: Road, outgoing: Outgoing, pass: &mut Pass) -> Result<Ready<'_>, Outcome> {
        let takes_turn = outgoing.bytes.len() > SMALL;
        let mut ready = pin!(self.0.tools.upstreams.prepare(road, outgoing));
        if !takes_turn {
            return ready.await;
        }
        tokio::select! {
            biased;
            ready = &mut ready => return ready,
            () = std::future::ready(()) => {}
        }
        let Pass::Ordinary(place) = pass else { return ready.await };
        *place = None;
        let ready = ready.await?;
        *place = self.place().await;
        Ok(ready)
    }

    /// Opens or closes the gate by what the upstream said, and says what is written down.
    pub(super) async fn understand(&self, part: &LeasedPart, outcome: Outcome) -> News {
        self.0.tools.metrics.attempt(part.road, label_of(&outcome));
        self.learn_alone(part, &outcome);
        match &outcome {
            Outcome::Closed { reason, retry_after } => {
                self.close_gate(part.road, reason, *retry_after).await;
            }
            outcome if news::is_accepted(outcome) => self.open_gate(part.road).await,
            _ => {}
        }
        news::of(part, outcome, self.moment())
    }

    /// Now, and what decides when the next attempt is due.
    pub(super) fn moment(&self) -> Moment {
        let [jitter] = random::octets::<1>();
        Moment { now: self.0.tools.clock.now(), schedule: self.0.settings.schedule, jitter }
    }

    /// A part that was leased and never tried goes back into the queue.
    pub(super) async fn give_back(&self, part: &LeasedPart) {
        self.report(part, news::not_begun(part, self.0.tools.clock.now())).await;
    }

    async fn report(&self, part: &LeasedPart, news: News) {
        self.report_all(vec![(part, news)]).await;
    }

    /// Writes news down, that of all parts or none, however long the store takes: sending
    /// again would be the alternative.
    pub(super) async fn report_all(&self, told: Vec<(&LeasedPart, News)>) {
        if told.is_empty() {
            return;
        }
        let Tools { store, clock, .. } = &self.0.tools;
        let report = |(part, news): (&LeasedPart, News)| Report {
            message_id: part.message_id.clone(),
            part_no: part.part_no,
            attempt: part.attempt,
            at: clock.now(),
            bounce: self.bounce_for(part, &news).map(Box::new),
            relayed: self.relayed_for(part, &news),
            news,
        };
        let parts: Vec<&LeasedPart> = told.iter().map(|(part, _)| *part).collect();
        let reports: Vec<Report> = told.into_iter().map(report).collect();
        let mut wait = REPORT_RETRY_MIN;
        let recorded = loop {
            match store.report_all(reports.clone()).await {
                Ok(recorded) => break recorded,
                Err(error) => {
                    let part_id = parts.first().map(|part| part.part_id().to_string());
                    // An outage is told once, by the store.
                    if error.is_away() {
                        tracing::debug!(part_id, parts = parts.len(), %error, "an attempt waits to be written down");
                    } else {
                        tracing::error!(part_id, parts = parts.len(), %error, "an attempt could not be written down");
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REPORT_RETRY_MAX);
        };
        for ((part, report), recorded) in parts.into_iter().zip(&reports).zip(recorded) {
            self.recorded(part, report, recorded);
            let News::Answered(answered) = &report.news else { continue };
            if !answered.no_mailbox.is_empty() && recorded != Recorded::Late {
                store.pass(CrashPoint::NobodyCounted);
                self.judge(&part.customer_id).await;
            }
        }
    }

    /// Pauses a customer if too many of the addresses that it writes to are nobody's. A crash
    /// before that leaves it to whatever is counted next.
    async fn judge(&self, customer_id: &CustomerId) {
        let Tools { store, clock, metrics, .. } = &self.0.tools;
        let (now, postmaster) = (clock.now(), &self.0.settings.postmaster);
        let letter = |email: &str, reason: &str| postmaster.paused(customer_id, email, reason, now);
        match store.pause_if_harmful(customer_id, &self.0.settings.thresholds, &letter, now).await {
            Ok(None) => {}
            Ok(Some(reason)) => tell_pause(metrics, customer_id, &reason),
            Err(error) => {
                tracing::error!(%customer_id, %error, "whether a customer has to be paused could not be found out")
            }
        }
    }

    fn recorded(&self, part: &LeasedPart, report: &Report, recorded: Recorded) {
        log_attempt(part, report);
        match recorded {
            Recorded::Applied { captured } => {
                self.pass(report, captured);
                if captured > Credits::ZERO {
                    self.0.tools.metrics.captured(captured);
                    self.0.tools.billing.captured();
                }
            }
            Recorded::Late => {
                tracing::warn!(part_id = %part.part_id(), attempt = part.attempt, "this news came too late and changed nothing");
            }
        }
    }

    /// The crash points behind the commit of a report.
    fn pass(&self, report: &Report, captured: Credits) {
        let store = &self.0.tools.store;
        if captured > Credits::ZERO {
            store.pass(CrashPoint::CaptureCommitted);
        }
        let is_tried_again = match &report.news {
            News::Answered(answered) => matches!(answered.rest, Rest::Again { .. }),
            News::Retry { .. } | News::Gated { .. } => true,
            News::Hold { .. } => false,
        };
        if is_tried_again {
            store.pass(CrashPoint::RetryCommitted);
        }
        if report.bounce.is_some() || report.relayed.is_some() {
            store.pass(CrashPoint::BounceCommitted);
        }
    }
}

/// The part as an upstream takes it. Of the message no more stays than a bounce needs: it
/// leaves memory when the road does not need it.
pub(super) fn outgoing(part: &mut LeasedPart, lease: &Lease) -> Outgoing {
    let kept = kept_for_bounce(part);
    Outgoing {
        part_id: part.part_id(),
        idempotency_key: part.idempotency_key(),
        reverse_path: part.reverse_path.clone(),
        recipients: part.recipients.clone(),
        repeats: news::repeats(part),
        bytes: std::mem::replace(&mut part.bytes, kept),
        dsn: Arc::clone(&part.dsn),
        tenure: lease.tenure.clone(),
    }
}

pub(super) fn label_of(outcome: &Outcome) -> AttemptOutcome {
    match outcome {
        Outcome::Answered { .. } if news::is_accepted(outcome) => AttemptOutcome::Accepted,
        Outcome::Answered { .. } | Outcome::Barred(_) => AttemptOutcome::Refused,
        Outcome::Transient { .. } => AttemptOutcome::Deferred,
        Outcome::Closed { .. } => AttemptOutcome::Closed,
        Outcome::Unknown { .. } | Outcome::Unrepeatable => AttemptOutcome::Unknown,
    }
}

/// Whether somebody of the part waits for the operator now.
fn is_held(news: &News) -> bool {
    match news {
        News::Hold { .. } => true,
        News::Answered(answered) => matches!(answered.rest, Rest::Held { .. }),
        News::Retry { .. } | News::Gated { .. } => false,
    }
}

/// What an operator has to know of a customer who is paused.
pub(super) fn tell_pause(metrics: &Metrics, customer_id: &CustomerId, reason: &str) {
    metrics.customer_paused();
    tracing::warn!(%customer_id, reason, "a customer is paused; `postmeter customer resume` ends it");
}

fn log_attempt(part: &LeasedPart, report: &Report) {
    let (outcome, reason, retry_at, upstream_id) = match &report.news {
        News::Answered(answered) => {
            let said = |answer: &Answer| format!("{} {}", answer.status, answer.text);
            let failed = answered.failed.first().map(|(_, answer)| said(answer));
            let (left, reason, due) = match &answered.rest {
                Rest::Again { due, answer } => ("deferred", failed.or(Some(said(answer))), Some(*due)),
                Rest::Held { reason } => ("held", Some(reason.clone()), None),
                Rest::Nobody => ("failed", failed, None),
            };
            let outcome = if answered.sent.is_empty() { left } else { "sent" };
            (outcome, reason, due, answered.upstream_id.as_deref())
        }
        News::Retry { due, error, unknown, .. } | News::Gated { until: due, error, unknown } => {
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
        batch_id = part.batch.as_ref().map(|batch| batch.id.as_str()),
        outcome,
        upstream_id,
        reason,
        retry_at = retry_at.map(|at| at.to_string()),
        "attempt"
    );
    // What an operator must see at a glance, among the lines of every day.
    if is_held(&report.news) {
        tracing::error!(part_id = %part.part_id(), "a part is held: it is not sent again, and its credits stay on hold");
    }
    if outcome == "failed" && part.kind != Kind::Submission {
        tracing::warn!(part_id = %part.part_id(), kind = part.kind.as_str(), "mail of our own was refused; is notices.from a verified sender?");
    }
}
