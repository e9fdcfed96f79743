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
use crate::store::queue::LeasedPart;
use crate::store::report::{Answered, News, Report};
use crate::store::tests::mailbox;
use crate::upstream::Outcome;

const ROADS: [Road; 2] = [Road::Resend, Road::Smtp];
const LEASE: Duration = Duration::from_secs(30);
const SCHEDULE: RetrySchedule =
    RetrySchedule { min: Duration::from_secs(30), max: Duration::from_secs(14_400) };

/// A leased part, and the call for it: not begun, under way, or with its outcome
/// and who got it.
pub(super) struct Sending {
    part: LeasedPart,
    call: Option<Option<(Outcome, Vec<String>)>>,
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
        Self { part, call: None }
    }

    /// Whether a call for this message is under way.
    pub(super) fn is_running(&self, message_id: &MessageId) -> bool {
        self.call.is_some() && self.part.message_id == *message_id
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
        let parts = self.process.sending.iter().map(|sending| &sending.part);
        let held: Vec<_> = parts.map(|part| (part.message_id.clone(), part.part_no, part.attempt)).collect();
        store.lapse_expired(&held, now).await?;
        for due in store.due(now, &ROADS, 4).await? {
            let parts = match &due.batch_id {
                Some(batch_id) => store.lease_batch(batch_id, now, now + LEASE).await?,
                None => store.lease(&due, now, now + LEASE).await?.into_iter().collect(),
            };
            self.process.sending.extend(parts.into_iter().map(Sending::new));
        }
        Ok(())
    }

    pub(super) async fn send_leaves(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(index) = self.nth_sending(nth, |sending| sending.call.is_none()) else { return Ok(()) };
        match news::before(&self.process.sending[index].part, self.clock.now(), Door::Open) {
            None => self.compose(index).await?,
            Some(news) => {
                let Sending { part, .. } = self.process.sending.remove(index);
                self.tell(&part, news).await?;
            }
        }
        Ok(())
    }

    /// A call begins; who is in it stands on disk before, where that is kept.
    async fn compose(&mut self, index: usize) -> Result<(), Broken> {
        let (now, batch_id) = (self.clock.now(), BatchId::generate(self.clock.now(), self.entropy()));
        let Sending { part, call } = &mut self.process.sending[index];
        if part.batch_max > 1 && part.batch.is_none() && self.mutation != Some(Mutation::DoesNotCompose) {
            let member = (part.message_id.clone(), part.part_no, part.attempt);
            part.batch = self.process.store.compose(&batch_id, &[member], now).await?.remove(0);
            part.first_try_at = now;
            if part.batch.is_none() {
                self.process.sending.remove(index);
                return Ok(());
            }
        }
        *call = Some(None);
        Ok(())
    }

    pub(super) async fn send_takes_effect(&mut self, nth: u8, how: Upstream) -> Result<(), Broken> {
        let left = |sending: &Sending| matches!(sending.call, Some(None));
        let Some(index) = self.nth_sending(nth, left) else { return Ok(()) };
        let sending = &mut self.process.sending[index];
        sending.call = Some(Some(self.upstreams.take(&sending.part, how, self.clock.now()).await));
        Ok(())
    }

    pub(super) async fn send_answered(&mut self, nth: u8, fate: Fate) -> Result<(), Broken> {
        let Some(index) = self.nth_sending(nth, |sending| sending.call.is_some()) else { return Ok(()) };
        // A worker writes down what it heard until it is written.
        if fate == Fate::Unwritten {
            return Ok(());
        }
        let Sending { part, call } = self.process.sending.remove(index);
        let outcome = match &call {
            Some(Some((outcome, _))) if fate == Fate::Arrives => outcome.clone(),
            _ => lost(),
        };
        let is_unknown = matches!(outcome, Outcome::Unknown { .. });
        if is_unknown {
            self.give_up(Sending { part: part.clone(), call });
        }
        let moment = Moment { now: self.clock.now(), schedule: SCHEDULE, jitter: 0 };
        let news = self.mistaken(&part, news::of(&part, outcome, moment), is_unknown);
        self.tell(&part, news).await
    }

    /// Every call that is under way has taken too long.
    pub(super) async fn give_up_sending(&mut self) -> Result<(), Broken> {
        while self.process.sending.iter().any(|sending| sending.call.is_some()) {
            self.send_answered(0, Fate::Lost).await?;
        }
        Ok(())
    }

    /// Nobody waits for this part any more: its call may take effect, or has.
    pub(super) fn give_up(&mut self, sending: Sending) {
        let Sending { part, call } = sending;
        let Some(call) = call else { return };
        *self.truth.unanswered.entry((part.message_id.clone(), part.part_no)).or_default() += 1;
        match call {
            None => self.wind.push(Gone::Mail(part)),
            Some((_, taken)) => self.late.extend(Late::of(&part, taken)),
        }
    }

    pub(super) async fn late_news(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.late.len()) else { return Ok(()) };
        let Late { message_id, part_no, attempt, sent } = self.late.remove(nth);
        let news = News::Answered(Answered { sent, ..Answered::default() });
        let at = self.clock.now();
        self.process
            .store
            .report(Report { message_id, part_no, attempt, at, news, bounce: None, relayed: None })
            .await?;
        Ok(())
    }

    fn nth_sending(&self, nth: u8, fits: impl Fn(&Sending) -> bool) -> Option<usize> {
        let indices = self.process.sending.iter().enumerate().filter(|(_, sending)| fits(sending));
        let indices: Vec<_> = indices.map(|(index, _)| index).collect();
        pick(nth, indices.len()).map(|nth| indices[nth])
    }

    async fn tell(&self, part: &LeasedPart, news: News) -> Result<(), Broken> {
        let LeasedPart { message_id, part_no, attempt, .. } = part;
        let (message_id, at) = (message_id.clone(), self.clock.now());
        let report = Report {
            message_id,
            part_no: *part_no,
            attempt: *attempt,
            at,
            news,
            bounce: None,
            relayed: None,
        };
        self.process.store.report(report).await?;
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
            (Some(Mutation::ForgetsWhoMayHaveIt), News::Retry { due, error, unknown, counts, .. }) => {
                News::Retry { due, error, unknown, counts, maybe_taken: Vec::new(), batch_max: None }
            }
            (_, news) => news,
        }
    }
}
