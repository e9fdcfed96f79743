//! The process's search for entries that no answer can tell about: Dodo's ledger is
//! read in three steps, and judged by [`crate::billing::doubt`].

use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::mutation::Mutation;
use super::steps::{Fate, Manner, NAMES, Who};
use super::world::{World, pick};
use crate::billing::dodo::wire;
use crate::billing::doubt::{Judgement, Window, judge, may_be_under_way, window};
use crate::billing::ledger::Reading;
use crate::store::doubt::{Decider, DoubtfulEntry};

/// How long a call may take effect after it began (`billing.lookup_wait_s`).
const LOOKUP_WAIT: Duration = Duration::from_secs(600);
/// Entries before it that are thought of at most.
const MAX_BEFORE: u32 = 10_000;

/// A look at a customer's ledger, and what was read of it.
pub(super) struct Looking {
    sought: DoubtfulEntry,
    window: Window,
    began: Timestamp,
    seen: Option<Option<Reading>>,
}

impl World {
    pub(super) async fn look_leaves(&mut self, who: Who) -> Result<(), Broken> {
        let Some(sought) = self.doubtful(who).await? else { return Ok(()) };
        let before = self.process.store.done_before(&sought.entry, MAX_BEFORE).await?;
        let window = window(sought.entry.opened_at, &before);
        self.process.looks.push(Looking { sought, window, began: self.clock.now(), seen: None });
        Ok(())
    }

    async fn doubtful(&self, who: Who) -> Result<Option<DoubtfulEntry>, Broken> {
        let doubtful = self.process.store.doubtful_entries().await?;
        Ok(doubtful.into_iter().find(|sought| sought.entry.customer_id.as_str() == NAMES[who]))
    }

    pub(super) async fn look_takes_effect(&mut self, nth: u8, how: Manner) -> Result<(), Broken> {
        let waiting: Vec<_> =
            self.process.looks.iter_mut().filter(|looking| looking.seen.is_none()).collect();
        let Some(looking) = pick(nth, waiting.len()).and_then(|nth| waiting.into_iter().nth(nth)) else {
            return Ok(());
        };
        let who = NAMES.iter().position(|name| *name == looking.sought.entry.customer_id.as_str()).unwrap();
        let from = looking.window.from;
        let mut reading = Reading::new(Some(from));
        while let Some(page) = reading.next_page() {
            let seen = self.dodo.ledger(who, from, page, how).await;
            let Ok(page) = wire::answer_of(&seen.answer, "a page of a ledger", wire::ledger_page) else {
                looking.seen = Some(None);
                return Ok(());
            };
            reading.add(page);
        }
        looking.seen = Some(Some(reading));
        Ok(())
    }

    pub(super) async fn look_answered(&mut self, nth: u8, fate: Fate) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.process.looks.len()) else { return Ok(()) };
        let Looking { sought, window, began, seen } = self.process.looks.remove(nth);
        let Some(Some(reading)) = seen.filter(|_| fate == Fate::Arrives) else { return Ok(()) };
        let (store, now) = (&self.process.store, self.clock.now());
        let entry = &sought.entry;
        match judge(&sought, &window.others, reading.lines(), reading.is_whole()) {
            Judgement::Found { .. } => drop(store.settle_doubtful(entry, Decider::Ledger, now).await?),
            Judgement::Undecidable(why) => drop(store.note_lookup(&entry.entry_id, why).await?),
            Judgement::Absent => {
                let is_early = may_be_under_way(entry, began, LOOKUP_WAIT).is_some();
                if !is_early || self.is(Mutation::TrustsEarlyLooks) {
                    drop(store.void_doubtful(entry, Decider::Ledger, "not there", now).await?);
                }
            }
        }
        Ok(())
    }

    /// The operator looks where the process cannot tell, and decides by hand.
    pub(super) async fn operator_looks(&mut self, who: Who) -> Result<(), Broken> {
        let Some(DoubtfulEntry { entry, .. }) = self.doubtful(who).await? else { return Ok(()) };
        let (store, now) = (&self.process.store, self.clock.now());
        let is_ours = |text: &str| text.ends_with(entry.entry_id.as_str());
        if self.dodo.lines(who).iter().any(|line| line.description.as_deref().is_some_and(is_ours)) {
            drop(store.settle_doubtful(&entry, Decider::Operator, now).await?);
        } else {
            drop(store.void_doubtful(&entry, Decider::Operator, "not there", now).await?);
        }
        Ok(())
    }
}
