//! Mail that bounces after it was sent, and the credits that are given back for it:
//! before the debit by taking the capture back, after it by an entry of kind credit.
//! When that lapses follows from the customer's grants at Dodo, which are read before
//! it, in three steps; what they say is decided by [`crate::billing::refund`].

use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::dodo::{Holding, Seen};
use super::law::law;
use super::mutation::Mutation;
use super::steps::{Fate, Manner, NAMES, Who};
use super::world::{World, pick};
use crate::billing::dodo::credits::{self, Grant};
use crate::billing::dodo::wire;
use crate::billing::refund::lapse;
use crate::domain::ids::{CustomerId, EntryId, MessageId};
use crate::store::entry::Entry;
use crate::store::refund::{Allowance, CreditOpening, Decision, DueRefund, Lapse};
use crate::store::sql::{query_as, query_scalar};
use crate::store::tests::refunds::PLENTY;
use crate::store::tests::{id, mailbox};
use crate::submission::stand_in::bounced;
use crate::telemetry::{EntryKind, RefundResult};

const DAY: Duration = Duration::from_secs(86_400);

/// How far a customer's refunds have come.
pub(super) enum Refunding {
    /// The grants are being read; what was read of them.
    Reading { due: Vec<DueRefund>, seen: Option<Option<Vec<Grant>>> },
    /// The lane is next theirs.
    Ready(Vec<(DueRefund, Lapse)>),
}

impl World {
    /// A mail that was taken bounces, the last or so many before it: for all who got
    /// it, or for the first of them.
    pub(super) async fn bounce(&mut self, nth: u8, for_all: bool) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.truth.acknowledged.len()) else { return Ok(()) };
        let nth = self.truth.acknowledged.len() - 1 - nth;
        let (message_id, who) = self.truth.acknowledged[nth].clone();
        let Some(log) = self.process.store.message(&message_id).await? else { return Ok(()) };
        let addresses = log.recipients.iter().map(|recipient| recipient.address.as_str());
        let got = addresses.filter(|address| self.upstreams.copies(&message_id, address) > 0);
        let recipients: Vec<_> = got.map(mailbox).take(if for_all { 3 } else { 1 }).collect();
        if recipients.is_empty() {
            return Ok(());
        }
        let customer_id = id(NAMES[who]);
        let allowance = self.allowance(&customer_id).await?;
        let (store, whose) = (&self.process.store, (&message_id, &customer_id));
        let decisions = bounced(store, whose, &recipients, Some(&allowance), self.clock.now()).await?;
        self.check_cap(&decisions).await
    }

    async fn allowance(&self, customer_id: &CustomerId) -> Result<Allowance, Broken> {
        if self.is(Mutation::IgnoresTheCap) {
            return Ok(PLENTY);
        }
        Ok(self.process.store.allowance(customer_id, self.clock.now()).await?)
    }

    /// Of what was sent in a day one in twenty is given back, and one in any case.
    async fn check_cap(&self, decisions: &[Decision]) -> Result<(), Broken> {
        const GIVEN: &str = "
            SELECT coalesce(CAST(sum(amount) AS BIGINT), 0), coalesce(CAST(sum(CASE state WHEN 'released' THEN amount ELSE 0 END) AS BIGINT), 0)
            FROM refund
            WHERE customer_id = $1 AND decided_at > $2 AND state IN ('due', 'released', 'credited')";
        let is_given =
            |decision: &&Decision| matches!(decision.result, RefundResult::Due | RefundResult::Released);
        let Some(Decision { claim, .. }) = decisions.iter().find(is_given) else { return Ok(()) };
        let who = who_is(&claim.customer_id);
        let since = self.clock.now() - DAY;
        let before = self.truth.captured.iter().rev().find(|(at, _)| *at <= since);
        let sent = self.captured().await[who] - before.map_or(0, |(_, captured)| captured[who]);
        let mut writer = self.process.store.writer.lock().await;
        let given = query_as(GIVEN).bind(NAMES[who]).bind(since.as_millisecond());
        let (given, released): (i64, i64) = given.fetch_one(writer.connection()).await.unwrap();
        // What was taken back is not among what was captured any more.
        let cap = ((sent + 2 * released) / 20).max(1);
        law!(given <= cap, "P3: {given} credits were given back in a day to {}, of {sent} sent", NAMES[who]);
        Ok(())
    }

    /// What each customer's messages have captured so far.
    pub(super) async fn captured(&self) -> [i64; NAMES.len()] {
        const READ: &str = "
            SELECT a.closed_captured + coalesce((SELECT CAST(sum(m.captured) AS BIGINT) FROM message m
                                                 WHERE m.customer_id = a.customer_id), 0)
            FROM account a ORDER BY a.customer_id";
        let mut writer = self.process.store.writer.lock().await;
        let captured: Vec<i64> = query_scalar(READ).fetch_all(writer.connection()).await.unwrap();
        captured.try_into().unwrap()
    }

    /// What waits is decided if it can be; and if a customer's refunds are due and the
    /// lane is free, his grants are asked for.
    pub(super) async fn grants_leave(&mut self, who: Who) -> Result<(), Broken> {
        let now = self.clock.now();
        for (message_id, customer_id) in self.process.store.refunds_to_decide().await? {
            let allowance = self.allowance(&customer_id).await?;
            let decisions = self.process.store.decide_refunds(&message_id, &allowance, now).await?;
            self.check_cap(&decisions).await?;
        }
        if self.process.refunding[who].is_none() && self.is_refundable(who).await? {
            let due = self.process.store.due_refunds(&id(NAMES[who]), now).await?.unwrap_or_default().debited;
            let reading = Refunding::Reading { due, seen: None };
            self.process.refunding[who] = Some(reading).filter(|reading| !reading.is_empty());
        }
        Ok(())
    }

    pub(super) async fn grants_take_effect(&mut self, who: Who, how: Manner) -> Result<(), Broken> {
        if let Some(Refunding::Reading { seen: seen @ None, .. }) = &mut self.process.refunding[who] {
            let mut grants = Some(Vec::new());
            for page in 0.. {
                let answer = self.dodo.grants(who, page, how).await.answer;
                let page = wire::answer_of(&answer, "a list of grants", credits::grant_page).ok();
                let is_last = page.as_ref().is_none_or(|page| page.is_last);
                grants = grants.zip(page).map(|(before, page)| [before, page.grants].concat());
                if is_last {
                    break;
                }
            }
            *seen = Some(grants);
        }
        Ok(())
    }

    pub(super) fn grants_answered(&mut self, who: Who, fate: Fate) {
        let is_reading = |refunding: &mut Refunding| matches!(refunding, Refunding::Reading { .. });
        let Some(Refunding::Reading { due, seen }) = self.process.refunding[who].take_if(is_reading) else {
            return;
        };
        let Some(Some(grants)) = seen.filter(|_| fate == Fate::Arrives) else { return };
        let now = self.clock.now();
        let refunds = due.into_iter().map(|refund| {
            let lapse = lapse(&grants, refund.accepted_at, now);
            (refund, if self.is(Mutation::OutlivesTheGrant) { Lapse::Never } else { lapse })
        });
        self.process.refunding[who] = Some(Refunding::Ready(refunds.collect()));
    }

    /// Whether no debit may take the lane before a credit.
    pub(super) fn is_credit_next(&self, who: Who) -> bool {
        matches!(self.process.refunding[who], Some(Refunding::Ready(_)))
    }

    /// An entry for what a customer is given back, if that is ready and the lane is free.
    pub(super) async fn credit_opened(&mut self, who: Who) -> Result<Option<Entry>, Broken> {
        let (now, customer_id) = (self.clock.now(), id(NAMES[who]));
        let entry_id = EntryId::generate(now, self.entropy());
        if !self.is_credit_next(who) || !self.is_refundable(who).await? {
            return Ok(None);
        }
        let Some(Refunding::Ready(refunds)) = self.process.refunding[who].take() else { return Ok(None) };
        let opening = CreditOpening { customer_id, entry_id, refunds };
        Ok(self.process.store.open_credit(&opening, now).await?.0)
    }

    pub(super) async fn is_refundable(&self, who: Who) -> Result<bool, Broken> {
        Ok(self.process.store.refundable(&[], 9).await?.contains(&id(NAMES[who])))
    }

    /// An entry reaches Dodo. Somebody who sees everything writes down until when the
    /// grants last that a debit drew, and what is given back for it lasts no longer.
    pub(super) async fn post(&mut self, entry: &Entry, how: Manner) -> Result<Seen, Broken> {
        const DEBITED: &str = "
            SELECT DISTINCT c.message_id FROM entry e JOIN capture c ON c.customer_id = e.customer_id
                   AND c.number BETWEEN e.first_capture AND e.last_capture WHERE e.entry_id = $1";
        const REFUNDED: &str = "SELECT message_id FROM refund WHERE entry_id = $1";
        let who = who_is(&entry.customer_id);
        let before = self.dodo.holdings(who).await;
        let seen = self.dodo.post(entry, how).await;
        let after = self.dodo.holdings(who).await;
        let read = match entry.kind {
            EntryKind::Debit => DEBITED,
            EntryKind::Credit => REFUNDED,
        };
        let mut writer = self.process.store.writer.lock().await;
        let about = query_scalar(read).bind(entry.entry_id.as_str());
        let about: Vec<String> = about.fetch_all(writer.connection()).await.unwrap();
        let about = about.iter().map(|message_id| MessageId::parse(message_id).unwrap());
        let is_drawn = |holding: &&Holding| {
            before.iter().any(|old| old.id == holding.id && old.remaining > holding.remaining)
        };
        let drawn = after.iter().filter(is_drawn).map(|holding| holding.until).max();
        let given = after.iter().find(|holding| before.iter().all(|old| old.id != holding.id));
        for message_id in about {
            match (entry.kind, drawn, given) {
                (EntryKind::Debit, Some(until), _) => {
                    let spent = self.truth.spent.entry(message_id).or_insert(Timestamp::MIN);
                    *spent = until.max(*spent);
                }
                (EntryKind::Credit, _, Some(given)) => {
                    let spent = self.truth.spent.get(&message_id).copied().unwrap_or(Timestamp::MAX);
                    law!(given.until <= spent, "P3: {entry:?} outlives what was spent until {spent}");
                }
                _ => {}
            }
        }
        Ok(seen)
    }
}

impl Refunding {
    /// Whether nothing is to be given back.
    const fn is_empty(&self) -> bool {
        match self {
            Self::Reading { due, .. } => due.is_empty(),
            Self::Ready(refunds) => refunds.is_empty(),
        }
    }
}

fn who_is(customer_id: &CustomerId) -> Who {
    NAMES.iter().position(|name| *name == customer_id.as_str()).unwrap()
}
