//! The process's dealings with the upstreams: leased parts, each call in three
//! steps. What an outcome means is decided by [`crate::delivery::news`], as it is
//! for a worker.

use std::time::Duration;

use super::Broken;
use super::mutation::Mutation;
use super::steps::{Fate, Upstream};
use super::upstream::{addresses, lost};
use super::world::{Gone, World, pick};
use crate::delivery::news::{self, Door, Moment};
use crate::domain::address::Mailbox;
use crate::domain::answer::Answer;
use crate::domain::ids::{BatchId, MessageId};
use crate::domain::message::Road;
use crate::domain::retry::RetrySchedule;
use crate::store::batch::Candidate;
use crate::store::queue::LeasedPart;
use crate::store::report::{Answered, News, Report};
use crate::store::tests::mailbox;
use crate::upstream::Outcome;
use crate::upstream::resend::batch::Together;

const ROADS: [Road; 2] = [Road::Resend, Road::Smtp];
const LEASE: Duration = Duration::from_secs(30);
const SCHEDULE: RetrySchedule =
    RetrySchedule { min: Duration::from_secs(30), max: Duration::from_secs(14_400) };

/// Leased parts that leave in one call, and the call for them: not begun, under way, or
/// with its outcome and who got each.
pub(super) struct Sending {
    parts: Vec<LeasedPart>,
    call: Option<Option<(Said, Vec<Vec<String>>)>>,
}

/// What was answered to a call.
#[derive(Clone)]
pub(super) enum Said {
    /// With one part.
    Alone(Outcome),
    /// With several.
    Together(Together),
}

/// A mail that was sent, as somebody else may tell later.
pub(super) struct Late {
    message_id: MessageId,
    part_no: u32,
    attempt: u32,
    sent: Vec<Mailbox>,
}

impl Sending {
    pub(super) fn new(part: LeasedPart) -> Self {
        Self { parts: vec![part], call: None }
    }

    /// Whether a call for this message is under way.
    pub(super) fn is_running(&self, message_id: &MessageId) -> bool {
        self.call.is_some() && self.parts.iter().any(|part| part.message_id == *message_id)
    }

    /// How much company it may have, if it waits to be composed.
    fn may_have(&self) -> Option<u32> {
        let [part] = &self.parts[..] else { return None };
        Some(part.batch_max).filter(|max| *max > 1 && part.batch.is_none() && self.call.is_none())
    }
}

impl Said {
    /// The answer to a call with so many parts was lost.
    fn lost(parts: usize) -> Self {
        if parts == 1 { Self::Alone(lost()) } else { Self::Together(Together::Each(lost())) }
    }

    fn is_unknown(&self) -> bool {
        let (Self::Alone(outcome) | Self::Together(Together::Each(outcome))) = self else { return false };
        matches!(outcome, Outcome::Unknown { .. })
    }
}

impl Late {
    /// News of a part that these got; none if nobody did.
    pub(super) fn of(part: &LeasedPart, taken: Vec<String>) -> Option<Self> {
        let sent: Vec<_> = taken.iter().map(|to| mailbox(to)).collect();
        let LeasedPart { message_id, part_no, attempt, .. } = part;
        (!sent.is_empty()).then(|| Self {
            message_id: message_id.clone(),
            part_no: *part_no,
            attempt: *attempt,
            sent,
        })
    }
}

impl World {
    pub(super) async fn poll(&mut self) -> Result<(), Broken> {
        let (store, now) = (&self.process.store, self.clock.now());
        let parts = self.process.sending.iter().flat_map(|sending| &sending.parts);
        let held: Vec<_> = parts.map(|part| (part.message_id.clone(), part.part_no, part.attempt)).collect();
        store.lapse_expired(&held, now).await?;
        let due = store.due(now, &ROADS, 4).await?;
        for batch_id in due.iter().filter_map(|due| due.batch_id.as_ref()) {
            let parts = store.lease_batch(batch_id, now, now + LEASE).await?;
            self.process.sending.extend((!parts.is_empty()).then_some(Sending { parts, call: None }));
        }
        let free: Vec<_> = due.into_iter().filter(|due| due.batch_id.is_none()).collect();
        let leased = store.lease_page(&free, now, now + LEASE).await?;
        self.process.sending.extend(leased.parts.into_iter().map(Sending::new));
        Ok(())
    }

    /// The upper half of the numbers leaves with whatever company there is.
    pub(super) async fn send_leaves(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(index) = self.nth_sending(nth, |sending| sending.call.is_none()) else { return Ok(()) };
        let now = self.clock.now();
        let told = |sending: &Sending| {
            let mut news = sending.parts.iter().filter_map(|part| news::before(part, now, Door::Open));
            news.next()
        };
        if let Some(news) = told(&self.process.sending[index]) {
            let Sending { parts, .. } = self.process.sending.remove(index);
            let news = vec![news; parts.len()];
            return self.tell(&parts, news).await;
        }
        let first = self.process.sending.remove(index);
        let mut most = first.may_have().filter(|_| !self.is(Mutation::DoesNotCompose));
        let Some(_) = most else {
            self.process.sending.push(Sending { call: Some(None), ..first });
            return Ok(());
        };
        let (mut parts, mut others) = (first.parts, Vec::new());
        for sending in std::mem::take(&mut self.process.sending) {
            let together = most.zip(sending.may_have()).map(|(most, own)| most.min(own));
            match together
                .filter(|most| nth >= 128 && u32::try_from(parts.len()).is_ok_and(|len| len < *most))
            {
                Some(all) if told(&sending).is_none() => {
                    most = Some(all);
                    parts.extend(sending.parts);
                }
                _ => others.push(sending),
            }
        }
        self.process.sending = others;
        self.compose(parts).await
    }

    /// A call begins; who is in it stands on disk before. Whose lease was lost is left out.
    async fn compose(&mut self, parts: Vec<LeasedPart>) -> Result<(), Broken> {
        let now = self.clock.now();
        let batch_id = BatchId::generate(now, self.entropy());
        let candidate = |part: &LeasedPart| {
            let LeasedPart { message_id, part_no, attempt, .. } = part.clone();
            let request_hash = part.request_hash.clone().unwrap_or_default();
            Candidate { message_id, part_no, attempt, request_hash }
        };
        let members: Vec<_> = parts.iter().map(candidate).collect();
        let places = self.process.store.compose(&batch_id, &members, now).await?;
        let seated = parts.into_iter().zip(places).filter_map(|(part, place)| {
            let batch = Some(place?);
            Some(LeasedPart { batch, first_try_at: now, ..part })
        });
        let parts: Vec<_> = seated.collect();
        self.process.sending.extend((!parts.is_empty()).then_some(Sending { parts, call: Some(None) }));
        Ok(())
    }

    pub(super) async fn send_takes_effect(&mut self, nth: u8, how: Upstream) -> Result<(), Broken> {
        let left = |sending: &Sending| matches!(sending.call, Some(None));
        let Some(index) = self.nth_sending(nth, left) else { return Ok(()) };
        let sending = &mut self.process.sending[index];
        sending.call = Some(Some(self.upstreams.take(&sending.parts, how, self.clock.now()).await));
        Ok(())
    }

    pub(super) async fn send_answered(&mut self, nth: u8, fate: Fate) -> Result<(), Broken> {
        let Some(index) = self.nth_sending(nth, |sending| sending.call.is_some()) else { return Ok(()) };
        // A worker writes down what it heard until it is written.
        if fate == Fate::Unwritten {
            return Ok(());
        }
        let Sending { parts, call } = self.process.sending.remove(index);
        let said = match &call {
            Some(Some((said, _))) if fate == Fate::Arrives => said.clone(),
            _ => Said::lost(parts.len()),
        };
        let is_unknown = said.is_unknown();
        if is_unknown {
            self.give_up(Sending { parts: parts.clone(), call });
        }
        let moment = Moment { now: self.clock.now(), schedule: SCHEDULE, jitter: 0 };
        let all: Vec<_> = parts.iter().collect();
        let news = match said {
            Said::Alone(outcome) => vec![news::of(all[0], outcome, moment)],
            Said::Together(together) => news::of_together(&all, together, moment),
        };
        let news = parts.iter().zip(news).map(|(part, news)| self.mistaken(part, news, is_unknown));
        self.tell(&parts, news.collect()).await
    }

    /// Every call that is under way has taken too long.
    pub(super) async fn give_up_sending(&mut self) -> Result<(), Broken> {
        while self.process.sending.iter().any(|sending| sending.call.is_some()) {
            self.send_answered(0, Fate::Lost).await?;
        }
        Ok(())
    }

    /// Nobody waits for this call any more: it may take effect, or has.
    pub(super) fn give_up(&mut self, sending: Sending) {
        let Sending { parts, call } = sending;
        let Some(call) = call else { return };
        for part in &parts {
            *self.truth.unanswered.entry((part.message_id.clone(), part.part_no)).or_default() += 1;
        }
        match call {
            None => self.wind.push(Gone::Mail(parts)),
            Some((_, taken)) => self.be_late(&parts, taken),
        }
    }

    /// What these got is told later.
    pub(super) fn be_late(&mut self, parts: &[LeasedPart], taken: Vec<Vec<String>>) {
        self.late.extend(parts.iter().zip(taken).filter_map(|(part, taken)| Late::of(part, taken)));
    }

    /// News of one of them proves all that left in its call, which cannot be made again.
    pub(super) async fn late_news(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.late.len()) else { return Ok(()) };
        let Late { message_id, part_no, attempt, sent } = self.late.remove(nth);
        let at = self.clock.now();
        let proof = |message_id, part_no, attempt, sent| {
            let news = News::Answered(Answered { sent, ..Answered::default() });
            Report { message_id, part_no, attempt, at, news, bounce: None, relayed: None }
        };
        let store = &self.process.store;
        let part = store.known_part(&message_id, part_no).await?;
        let call = part
            .filter(|part| part.is_unknown && !part.state.is_final() && !self.is(Mutation::ProvesOneAlone));
        let mut reports = vec![proof(message_id.clone(), part_no, attempt, sent)];
        if let Some(call) = call.and_then(|part| part.call) {
            for (id, no, part) in store.known_batch(&call.id).await? {
                let sent = part.recipients.into_iter().map(|to| to.mailbox).collect();
                if (&id, no) != (&message_id, part_no) {
                    reports.push(proof(id, no, part.attempt, sent));
                }
            }
        }
        store.report_all(reports).await?;
        Ok(())
    }

    fn nth_sending(&self, nth: u8, fits: impl Fn(&Sending) -> bool) -> Option<usize> {
        let indices = self.process.sending.iter().enumerate().filter(|(_, sending)| fits(sending));
        let indices: Vec<_> = indices.map(|(index, _)| index).collect();
        pick(nth, indices.len()).map(|nth| indices[nth])
    }

    /// Writes the end of a call down.
    async fn tell(&self, parts: &[LeasedPart], news: Vec<News>) -> Result<(), Broken> {
        let at = self.clock.now();
        let report = |(part, news): (&LeasedPart, News)| {
            let LeasedPart { message_id, part_no, attempt, .. } = part.clone();
            Report { message_id, part_no, attempt, at, news, bounce: None, relayed: None }
        };
        self.process.store.report_all(parts.iter().zip(news).map(report).collect()).await?;
        Ok(())
    }

    /// What is written down, mistakes included.
    fn mistaken(&self, part: &LeasedPart, news: News, is_unknown: bool) -> News {
        match (self.mutation, news) {
            (Some(Mutation::TakesUnansweredForRefused), _) if is_unknown => {
                let answer = Answer::new("4.4.7", "no answer");
                let failed = addresses(part).iter().map(|to| (mailbox(to), answer.clone())).collect();
                News::Answered(Answered { failed, ..Answered::default() })
            }
            (Some(Mutation::NewMailKeyAfterUnknown), News::Retry { due, error, maybe_taken, counts, .. }) => {
                News::Retry { due, error, maybe_taken, counts, unknown: false, batch_max: None }
            }
            (Some(Mutation::TakesCallsApart), News::Retry { due, error, maybe_taken, counts, .. })
                if part.batch.as_ref().is_some_and(|batch| batch.size > 1) =>
            {
                News::Retry { due, error, maybe_taken, counts, unknown: false, batch_max: Some(1) }
            }
            (Some(Mutation::ForgetsWhoMayHaveIt), News::Retry { due, error, unknown, counts, .. }) => {
                News::Retry { due, error, unknown, counts, maybe_taken: Vec::new(), batch_max: None }
            }
            (_, news) => news,
        }
    }
}
