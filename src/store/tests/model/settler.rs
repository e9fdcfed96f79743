//! The process's dealings with Dodo: entries and balance reads, each call in three
//! steps. What an answer means is decided by [`crate::billing::verdict`], as it is
//! for the settler itself.

use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::dodo::Seen;
use super::mutation::Mutation;
use super::steps::{Fate, Manner, NAMES, Who};
use super::world::{Gone, World, pick};
use crate::billing::dodo::{EntryAnswer, wire};
use crate::billing::verdict::{self, Verdict};
use crate::domain::ids::{CustomerId, EntryId};
use crate::store::account::{BalanceRead, ReadOutcome};
use crate::store::entry::{Entry, Settled};
use crate::store::sql::query;
use crate::store::tests::{account, id};
use crate::telemetry::EntryKind;

/// How long Dodo surely knows a key (`billing.key_lifetime_s`).
const KEY_LIFETIME: Duration = Duration::from_secs(82_800);
/// Reads of balances at the same time at most.
const MAX_READS: usize = 4;

/// An entry in the hands of the process, and the call for it, if one is under way.
pub(super) struct Posting {
    pub(super) entry: Entry,
    began: Timestamp,
    pub(super) call: Option<Option<Seen>>,
}

/// A balance read under way.
pub(super) struct Reading {
    leaves: Vec<Leave>,
    is_list: bool,
    seen: Option<Seen>,
}

/// Leave to read a balance.
enum Leave {
    Given(BalanceRead),
    /// Not given, and taken: the account's version then.
    Taken(CustomerId, i64),
}

impl World {
    pub(super) async fn entry_leaves(&mut self, who: Who) -> Result<(), Broken> {
        if self.process.posting[who].is_none() {
            let entry = match self.found_open(who).await? {
                Some(entry) => Some(entry),
                None => self.opened(who).await?,
            };
            let began = self.clock.now();
            self.process.posting[who] = entry.map(|entry| Posting { entry, began, call: None });
        }
        let now = self.clock.now();
        let Some(posting) = self.process.posting[who].take_if(|posting| posting.call.is_none()) else {
            return Ok(());
        };
        let may_be_forgotten = verdict::may_be_forgotten(&posting.entry, now, KEY_LIFETIME);
        if may_be_forgotten && !self.is(Mutation::PostsForgottenKeys) {
            let why = "its key may be forgotten";
            assert!(self.process.store.doubt_entry(&posting.entry, why, now).await?);
            return Ok(());
        }
        self.process.posting[who] = Some(Posting { began: now, call: Some(None), ..posting });
        Ok(())
    }

    /// An entry that is open while nobody posts it.
    async fn found_open(&self, who: Who) -> Result<Option<Entry>, Broken> {
        let store = &self.process.store;
        let in_hand = self.process.posting.iter().flatten().map(|posting| posting.entry.entry_id.clone());
        let open = match self.is(Mutation::TrustsOpenEntries) {
            true => store.open_entries().await?,
            false => store.take_over_entries(&in_hand.collect::<Vec<_>>(), self.clock.now()).await?,
        };
        let mut own = open.into_iter().filter(|entry| entry.customer_id.as_str() == NAMES[who]);
        Ok(own.find(|entry| entry.doubtful_since.is_none()))
    }

    /// A new entry: a credit before a debit.
    async fn opened(&mut self, who: Who) -> Result<Option<Entry>, Broken> {
        if let Some(entry) = self.credit_opened(who).await? {
            self.truth.opened.insert(entry.entry_id.clone(), -entry.amount.to_i64());
            return Ok(Some(entry));
        }
        if self.is_credit_next(who) {
            return Ok(None);
        }
        let (now, customer_id) = (self.clock.now(), id(NAMES[who]));
        let entry_id = EntryId::generate(now, self.entropy());
        let store = &self.process.store;
        if !store.owing(&[], 100).await?.contains(&customer_id) {
            return Ok(None);
        }
        let at_most = verdict::at_most(&account(store, &customer_id).await);
        let entry = store.open_entry(&customer_id, &entry_id, at_most, now).await?;
        if let Some(entry) = &entry {
            self.truth.opened.insert(entry.entry_id.clone(), entry.amount.to_i64());
        }
        Ok(entry)
    }

    pub(super) async fn entry_takes_effect(&mut self, who: Who, how: Manner) -> Result<(), Broken> {
        let left = |posting: &mut Posting| matches!(posting.call, Some(None));
        let Some(posting) = self.process.posting[who].take_if(left) else { return Ok(()) };
        let seen = self.post(&posting.entry, how).await?;
        self.process.posting[who] = Some(Posting { call: Some(Some(seen)), ..posting });
        Ok(())
    }

    pub(super) async fn entry_answered(&mut self, who: Who, fate: Fate) -> Result<(), Broken> {
        let Some(Posting { entry, began, call: Some(seen) }) =
            self.process.posting[who].take_if(|posting| posting.call.is_some())
        else {
            return Ok(());
        };
        if seen.is_none() {
            self.wind.push(Gone::Entry(entry.clone()));
        }
        let seen = seen.filter(|_| fate != Fate::Lost);
        let answer = match &seen {
            Some(seen) => wire::entry_answer(&seen.answer),
            None => EntryAnswer::Unknown { reason: "no answer".to_owned() },
        };
        let verdict = self.verdict(&entry, answer);
        let posting = Posting { entry, began, call: Some(seen) };
        self.close_or_keep(who, posting, verdict, fate == Fate::Unwritten).await
    }

    /// What an answer means for an entry, mistakes included.
    fn verdict(&self, entry: &Entry, answer: EntryAnswer) -> Verdict {
        let balance_after = match answer {
            EntryAnswer::Applied { balance_after } => balance_after,
            _ => None,
        };
        match (self.mutation, verdict::of(entry, answer), balance_after) {
            (Some(Mutation::TrustsRepeatedAnswers), Verdict::Settled(_), Some(balance_after)) => {
                Verdict::Settled(Settled::Now { balance_after })
            }
            (Some(Mutation::NewKeyAfterUnknown), Verdict::Unknown { reason: message }, _)
            | (Some(Mutation::VoidsWhatIsDoubtful), Verdict::Doubtful { message }, _) => {
                Verdict::Void { message }
            }
            (Some(Mutation::GivesRefundsTwice), Verdict::Unknown { reason: message }, _)
                if entry.kind == EntryKind::Credit =>
            {
                Verdict::Void { message }
            }
            (Some(Mutation::TakesUnknownForDone), Verdict::Unknown { .. }, _) => {
                Verdict::Settled(Settled::Sometime)
            }
            (_, verdict, _) => verdict,
        }
    }

    async fn close_or_keep(
        &mut self,
        who: Who,
        posting: Posting,
        verdict: Verdict,
        is_unwritten: bool,
    ) -> Result<(), Broken> {
        let Posting { mut entry, began, call } = posting;
        let (store, now) = (&self.process.store, self.clock.now());
        let (is_unknown, error) = match &verdict {
            // The settler lets go of it; sooner or later it is found open.
            Verdict::Settled(_) | Verdict::Void { .. } if is_unwritten => return Ok(()),
            Verdict::Settled(settled) => {
                store.settle_entry(&entry, *settled, now).await?;
                if let (Settled::Now { .. }, Some(Some(seen))) = (settled, call) {
                    self.knows(who, seen.lines[who], true);
                }
                return Ok(());
            }
            Verdict::Void { message } => {
                assert!(store.void_entry(&entry, message, now).await?);
                return Ok(());
            }
            Verdict::NotNow { error, .. } => (false, error),
            Verdict::Doubtful { message } => (false, message),
            Verdict::Unknown { reason } => (true, reason),
        };
        if !is_unwritten {
            store.note_entry_try(&entry, is_unknown, error, began).await?;
        }
        entry.tried(is_unknown, began);
        if matches!(verdict, Verdict::Doubtful { .. }) {
            assert!(store.doubt_entry(&entry, error, now).await?);
            return Ok(());
        }
        self.process.posting[who] = Some(Posting { entry, began, call: None });
        Ok(())
    }

    pub(super) async fn read_leaves(&mut self, who: Who) -> Result<(), Broken> {
        let leaves: Vec<_> = self.leave(who).await?.into_iter().collect();
        self.begin(leaves, false);
        Ok(())
    }

    pub(super) async fn list_leaves(&mut self) -> Result<(), Broken> {
        let mut leaves = Vec::new();
        for who in 0..NAMES.len() {
            leaves.extend(self.leave(who).await?);
        }
        self.begin(leaves, true);
        Ok(())
    }

    fn begin(&mut self, leaves: Vec<Leave>, is_list: bool) {
        if !leaves.is_empty() && self.process.reads.len() < MAX_READS {
            self.process.reads.push(Reading { leaves, is_list, seen: None });
        }
    }

    async fn leave(&self, who: Who) -> Result<Option<Leave>, Broken> {
        let (store, customer_id) = (&self.process.store, id(NAMES[who]));
        let leave = store.begin_balance_read(&customer_id).await?;
        if leave.is_none() && self.is(Mutation::ReadsDuringFirstCall) {
            let version = account(store, &customer_id).await.version;
            return Ok(Some(Leave::Taken(customer_id, version)));
        }
        Ok(leave.map(Leave::Given))
    }

    pub(super) async fn read_takes_effect(&mut self, nth: u8, how: Manner) -> Result<(), Broken> {
        let waiting: Vec<_> =
            self.process.reads.iter_mut().filter(|reading| reading.seen.is_none()).collect();
        let Some(reading) = pick(nth, waiting.len()).and_then(|nth| waiting.into_iter().nth(nth)) else {
            return Ok(());
        };
        let only = reading.leaves.first().filter(|_| !reading.is_list).map(Leave::customer_id);
        reading.seen = Some(self.dodo.read(only, how).await);
        Ok(())
    }

    pub(super) async fn read_answered(&mut self, nth: u8, fate: Fate) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.process.reads.len()) else { return Ok(()) };
        let Reading { leaves, is_list, seen } = self.process.reads.remove(nth);
        let Some(seen) = seen.filter(|_| fate == Fate::Arrives) else { return Ok(()) };
        for leave in leaves {
            let customer_id = leave.customer_id();
            let balance = if is_list {
                let page = wire::answer_of(&seen.answer, "a list of balances", wire::balance_page).ok();
                let found = page.and_then(|page| page.balances.into_iter().find(|(id, _)| id == customer_id));
                found.map(|(_, balance)| balance.credits)
            } else {
                let answer =
                    wire::answer_of(&seen.answer, "a balance", |list| wire::balance(list, customer_id));
                answer.ok().map(|answer| answer.credits())
            };
            if let Some(balance) = balance {
                self.apply(leave, balance, &seen).await?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, leave: Leave, balance: i64, seen: &Seen) -> Result<(), Broken> {
        let store = &self.process.store;
        let who = NAMES.iter().position(|name| *name == leave.customer_id().as_str()).unwrap();
        let open = store.open_entries().await?;
        let is_open = open.iter().any(|entry| entry.customer_id.as_str() == NAMES[who]);
        let outcome = match &leave {
            Leave::Given(read) => store.apply_balance(read, balance, self.clock.now()).await?.outcome,
            Leave::Taken(customer_id, version) => {
                let is_overtaken = account(store, customer_id).await.version != *version;
                if is_overtaken { ReadOutcome::Overtaken } else { ReadOutcome::NotRaised }
            }
        };
        let is_forced = match outcome {
            ReadOutcome::Applied => false,
            ReadOutcome::Overtaken => self.is(Mutation::AppliesOvertakenReads),
            ReadOutcome::NotRaised => {
                self.is(Mutation::LowersWhileUnknown) || self.is(Mutation::ReadsDuringFirstCall)
            }
        };
        if is_forced {
            let known = account(&self.process.store, leave.customer_id()).await.balance.unwrap_or(0);
            self.add_to_balance(who, balance - known).await?;
        }
        if is_forced || outcome == ReadOutcome::Applied {
            self.knows(who, seen.lines[who], !is_open);
        }
        Ok(())
    }

    /// The process knows of what is in these first lines of a ledger: `in_full`, or
    /// of less, because an entry that is open may be among them.
    fn knows(&mut self, who: Who, lines: usize, in_full: bool) {
        self.truth.known[who] = lines;
        if in_full {
            self.truth.known_in_full[who] = lines;
        }
    }

    /// What only a mistake does.
    pub(super) async fn add_to_balance(&self, who: Who, credits: i64) -> Result<(), Broken> {
        const ADD: &str =
            "UPDATE account SET balance = balance + $2, version = version + 1 WHERE customer_id = $1";
        let mut writer = self.process.store.writer.lock().await;
        query(ADD).bind(NAMES[who]).bind(credits).execute(writer.connection()).await.unwrap();
        Ok(())
    }
}

impl Leave {
    fn customer_id(&self) -> &CustomerId {
        match self {
            Self::Given(read) => &read.customer_id,
            Self::Taken(customer_id, _) => customer_id,
        }
    }
}
