//! Mail that bounces after it was sent, and the credits that are given back for it:
//! before the debit by taking the capture back, after it by an entry of kind credit.

use super::Broken;
use super::steps::{NAMES, Who};
use super::world::{World, pick};
use crate::domain::ids::EntryId;
use crate::store::bounced::Bounced;
use crate::store::entry::Entry;
use crate::store::refund::{CreditOpening, Lapse};
use crate::store::tests::refunds::PLENTY;
use crate::store::tests::{id, mailbox};

impl World {
    /// A mail that was taken bounces: for all who got it, or for the first of them.
    pub(super) async fn bounce(&mut self, nth: u8, for_all: bool) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.truth.acknowledged.len()) else { return Ok(()) };
        let (message_id, who) = self.truth.acknowledged[nth].clone();
        let Some(log) = self.process.store.message(&message_id).await? else { return Ok(()) };
        let addresses = log.recipients.iter().map(|recipient| recipient.address.as_str());
        let got = addresses.filter(|address| self.upstreams.copies(&message_id, address) > 0);
        let recipients: Vec<_> = got.map(mailbox).take(if for_all { 3 } else { 1 }).collect();
        if recipients.is_empty() {
            return Ok(());
        }
        let (customer_id, reply) = (id(NAMES[who]), "550 5.1.1 user unknown".to_owned());
        let bounced = Bounced { message_id, customer_id, recipients, reply };
        self.process.store.record_bounce(&bounced, Some(&PLENTY), self.clock.now()).await?;
        Ok(())
    }

    /// An entry for what a customer is given back, if anything is due and the lane is free.
    pub(super) async fn credit_opened(&mut self, who: Who) -> Result<Option<Entry>, Broken> {
        let (now, customer_id) = (self.clock.now(), id(NAMES[who]));
        let entry_id = EntryId::generate(now, self.entropy());
        let store = &self.process.store;
        for (message_id, _) in store.refunds_to_decide().await? {
            store.decide_refunds(&message_id, &PLENTY, now).await?;
        }
        if !self.is_refundable(who).await? {
            return Ok(None);
        }
        let due = store.due_refunds(&customer_id, now).await?.unwrap_or_default();
        let refunds = due.debited.into_iter().map(|refund| (refund, Lapse::Never)).collect();
        let opening = CreditOpening { customer_id, entry_id, refunds };
        Ok(store.open_credit(&opening, now).await?.0)
    }

    pub(super) async fn is_refundable(&self, who: Who) -> Result<bool, Broken> {
        Ok(self.process.store.refundable(&[], 9).await?.contains(&id(NAMES[who])))
    }
}
