//! Settlement: what was captured becomes entries in Dodo's ledger, each exactly once.
//!
//! One entry of a customer is open at a time. While the budget allows, one message
//! makes one entry at once; while an entry is on its way, or the budget is spent,
//! the next captures gather and go as one, those who have waited longest first. An
//! entry whose outcome is unknown is posted again under the same key until Dodo
//! says something definite, and as long as Dodo surely knows the key; after that its
//! ledger decides (`doubt`), and nothing else ever does that it was, or was not,
//! applied (P3). While Dodo is away hardly any entry is opened: what is owed waits
//! where it is, and what is open tries now and then, all the sooner when Dodo is back.
//! Which entries are this process's to post, `in_hand` knows.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Purpose;
use super::dodo::EntryAnswer;
use super::verdict::{self, Verdict};
use super::{Billing, Refused, Tools};
use crate::crash::CrashPoint;
use crate::domain::ids::{CustomerId, EntryId};
use crate::random;
use crate::store::StoreError;
use crate::store::entry::{Entry, Settled};
use crate::store::node::Duty;
use crate::store::wake::Bell;
use crate::telemetry::{DodoCall, DodoResult, EntryResult, RefundResult};

/// Customers looked at in one round.
const ROUND: u32 = 100;
/// After so long it is looked again who has waited longest.
const ROUND_TIME: Duration = Duration::from_secs(1);
/// While Dodo is away and entries are open, one more is opened so often: if Dodo
/// answers for others than those that are open, they do not wait for them.
const AWAY_INTERVAL: Duration = Duration::from_secs(30);
/// How often the settler looks even when nobody called.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often the balance of customers in debt is read without news.
const DEBT_INTERVAL: Duration = Duration::from_secs(60);
/// So many of them at once: who does not pay costs the others no calls.
const DEBTORS: u32 = 20;
/// First and longest wait before the same entry is posted again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// First and longest time for which a customer whose entries Dodo refuses is left
/// alone, unless news comes.
const REFUSED_MIN: Duration = Duration::from_secs(30);
const REFUSED_MAX: Duration = Duration::from_secs(3_600);

/// First and longest wait before an answer that could not be kept is written down again.
const KEEP_RETRY_MIN: Duration = Duration::from_millis(200);
const KEEP_RETRY_MAX: Duration = Duration::from_secs(10);

/// What is done with an entry after a try.
pub(super) enum Next {
    /// It is closed.
    Closed,
    /// It is tried again: after so long, or else less and less often.
    Again(Option<Duration>),
    /// It is tried again as soon as the budget allows it.
    WhenAllowed,
    /// What Dodo answered could not be kept: the entry stays open, its outcome unknown.
    NotKept,
    /// No further post can tell what became of it.
    Doubtful,
}

impl Billing {
    /// Settles until it is told to stop; what is on its way is finished first.
    pub(super) async fn settle(self) {
        let Tools { store, stop, .. } = &self.0.tools;
        let mut told = store.ear(Bell::Entries);
        let mut looked = None;
        // At the start too: whatever told the earlier process of a top-up died with it.
        let mut asked = None;
        loop {
            if asked.is_none_or(|at: Instant| at.elapsed() >= DEBT_INTERVAL) {
                asked = Some(Instant::now());
                self.ask_for_debtors().await;
            }
            let interval = store.look_again(INTERVAL, INTERVAL);
            if looked.is_none_or(|at: Instant| at.elapsed() >= interval) {
                looked = Some(Instant::now());
                self.0.reads.ask_deferred();
                if let Err(error) = self.resume_open().await {
                    error.tell("open entries could not be taken up");
                }
            }
            match self.settle_round().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => error.tell("what is owed could not be read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.owing.notified() => {}
                () = told.rung() => looked = None,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Keeps the gauges of what is owed true.
    pub(super) async fn show_debts(self) {
        let Tools { store, clock, metrics, stop, .. } = &self.0.tools;
        loop {
            match store.debts().await {
                Ok(debts) => {
                    let now = clock.now().as_millisecond();
                    let age = debts.oldest_capture_at.map_or(0, |at| now.saturating_sub(at).max(0));
                    let gauge = |count: i64| u64::try_from(count).unwrap_or(0);
                    metrics.set_debts(gauge(debts.uncovered), Duration::from_millis(gauge(age)));
                }
                Err(error) => error.tell("debts could not be read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// A debt that the balance does not cover waits for a top-up, whose webhook may
    /// have been lost: the balance is read now and then all the same.
    async fn ask_for_debtors(&self) {
        let Tools { store, clock, .. } = &self.0.tools;
        match store.takes(Duty::Debtors, clock.now(), DEBT_INTERVAL).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return error.tell("debts could not be read"),
        }
        match store.uncovered(DEBTORS).await {
            Ok(debtors) => debtors.iter().for_each(|customer_id| self.0.reads.ask(customer_id)),
            Err(error) => error.tell("debts could not be read"),
        }
    }

    /// Opens entries for those who have waited longest. Returns whether to look again at once.
    async fn settle_round(&self) -> Result<bool, StoreError> {
        let began = Instant::now();
        let mut opened = self.refund_round().await;
        let owing = self.0.tools.store.owing(&self.left_alone(), ROUND).await?;
        for customer_id in &owing {
            // The wait for a call is where captures gather.
            if !self.may_open().await {
                return Ok(false);
            }
            if let Some(entry) = self.open(customer_id).await? {
                self.0.tools.store.pass(CrashPoint::EntryOpened);
                opened += 1;
                self.post_in_background(entry);
            }
            if began.elapsed() >= ROUND_TIME {
                return Ok(true);
            }
        }
        Ok(opened > 0)
    }

    /// Waits until an entry may be opened; `false`: the process stops.
    pub(super) async fn may_open(&self) -> bool {
        let back = self.0.budget.back();
        if self.0.budget.is_away() && !self.posting().is_empty() {
            tokio::select! {
                () = self.0.tools.stop.cancelled() => return false,
                () = back => {}
                () = tokio::time::sleep(AWAY_INTERVAL) => {}
            }
        }
        self.may_call().await
    }

    /// Waits until an entry may be posted; `false`: the process stops.
    pub(super) async fn may_call(&self) -> bool {
        tokio::select! {
            biased;
            () = self.0.tools.stop.cancelled() => false,
            () = self.0.budget.take(Purpose::Entry) => true,
        }
    }

    fn left_alone(&self) -> Vec<CustomerId> {
        let mut left_alone = self.refused_of_late();
        left_alone.extend(self.0.refunds.ready());
        left_alone
    }

    /// Those whose last entry Dodo refused a short while ago.
    pub(super) fn refused_of_late(&self) -> Vec<CustomerId> {
        let now = Instant::now();
        let mut refused = self.refused();
        refused.retain(|_, refused| now < refused.until + REFUSED_MAX);
        let still = refused.iter().filter(|(_, refused)| refused.until > now);
        still.map(|(customer_id, _)| customer_id.clone()).collect()
    }

    pub(super) fn leave_alone(&self, customer_id: &CustomerId) {
        let mut refused = self.refused();
        let wait = refused.get(customer_id).map_or(REFUSED_MIN, |before| (before.wait * 2).min(REFUSED_MAX));
        refused.insert(customer_id.clone(), Refused { until: Instant::now() + wait, wait });
    }

    /// Opens an entry for what is owed, or for what the balance covers of it; a
    /// debt beyond the balance waits for the next top-up.
    pub(super) async fn open(&self, customer_id: &CustomerId) -> Result<Option<Entry>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let Some(account) = store.account(customer_id).await? else { return Ok(None) };
        let entry_id = EntryId::generate(now, random::octets());
        store.open_entry(customer_id, &entry_id, verdict::at_most(&account), now).await
    }

    pub(super) fn post_in_background(&self, entry: Entry) {
        self.take_in_hand(&entry.entry_id);
        let billing = self.clone();
        self.0.tools.tasks.spawn(async move {
            let (entry_id, customer_id) = (entry.entry_id.clone(), entry.customer_id.clone());
            billing.post_until_closed(entry).await;
            billing.posting().remove(&entry_id);
            billing.call_ended(&customer_id);
            billing.0.owing.notify_one();
        });
    }

    /// No call for an entry of this customer is under way: a balance can be read,
    /// whether the entry is closed or waits for another try.
    fn call_ended(&self, customer_id: &CustomerId) {
        self.0.closed.notify_waiters();
        self.0.reads.call_ended(customer_id);
    }

    /// Posts an entry until it is closed, or the process stops between two tries.
    async fn post_until_closed(&self, mut entry: Entry) {
        let stop = self.0.tools.stop.clone();
        let mut wait = RETRY_MIN;
        let mut is_paid_for = entry.unknown_tries == 0;
        loop {
            if !is_paid_for && !self.may_call().await {
                return;
            }
            is_paid_for = false;
            let back = self.0.budget.back();
            if !self.is_in_hand(&entry.entry_id).await {
                return;
            }
            if verdict::may_be_forgotten(&entry, self.0.tools.clock.now(), self.0.settings.key_lifetime) {
                self.0.tools.metrics.entry(entry.kind, EntryResult::Doubtful);
                self.doubt(&entry, "Dodo may have forgotten its key").await;
                return;
            }
            let again = match self.post(&mut entry).await {
                Next::Closed | Next::NotKept | Next::Doubtful => return,
                Next::WhenAllowed => continue,
                Next::Again(asked) => asked.unwrap_or(wait).max(wait),
            };
            wait = (wait * 2).min(RETRY_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = back => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    async fn post(&self, entry: &mut Entry) -> Next {
        let began = self.0.tools.clock.now();
        let reply = self.call_for(entry).await;
        self.0.tools.store.pass(CrashPoint::EntryAnswered);
        let is_limited = matches!(reply.answer, EntryAnswer::RateLimited { .. });
        self.0.budget.learn(&reply.rate, is_limited);
        self.count_as(DodoCall::PostEntry, call_result(&reply.answer), refusing(&reply.answer));
        match verdict::of(entry, reply.answer) {
            Verdict::Settled(settled) => {
                let next = self.settled(entry, settled).await;
                if settled == Settled::Sometime {
                    self.0.reads.ask(&entry.customer_id);
                }
                next
            }
            Verdict::Void { message } => self.void(entry, &message).await,
            Verdict::Doubtful { message } => {
                self.0.tools.metrics.entry(entry.kind, EntryResult::Doubtful);
                self.note(entry, false, &message, began).await;
                self.doubt(entry, &message).await;
                Next::Doubtful
            }
            Verdict::NotNow { error, after } => {
                self.note(entry, false, &error, began).await;
                // How long Dodo wants us to wait is known to the budget.
                if is_limited { Next::WhenAllowed } else { Next::Again(after) }
            }
            Verdict::Unknown { reason } => {
                self.0.tools.metrics.entry(entry.kind, EntryResult::Unknown);
                self.note(entry, true, &reason, began).await;
                Next::Again(None)
            }
        }
    }

    async fn settled(&self, entry: &Entry, settled: Settled) -> Next {
        let Tools { store, clock, .. } = &self.0.tools;
        let Some(low) = self.kept(entry, || store.settle_entry(entry, settled, clock.now())).await else {
            return Next::NotKept;
        };
        store.pass(CrashPoint::EntrySettled);
        self.tell_settled(entry, "entry settled");
        if low {
            self.low_balance(&entry.customer_id, None);
        }
        Next::Closed
    }

    /// Counts and logs that Dodo has an entry.
    pub(super) fn tell_settled(&self, entry: &Entry, what: &'static str) {
        self.0.tools.metrics.entry(entry.kind, EntryResult::Settled);
        self.count_refunds(entry, RefundResult::Credited);
        tracing::info!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            kind = entry.kind.as_str(),
            amount = entry.amount.get(),
            "{what}"
        );
    }

    /// Counts and logs that Dodo has no such entry, and why that is known.
    pub(super) fn tell_void(&self, entry: &Entry, why: &str, what: &'static str) {
        self.0.tools.metrics.entry(entry.kind, EntryResult::Void);
        self.count_refunds(entry, RefundResult::Refused);
        tracing::warn!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            kind = entry.kind.as_str(),
            amount = entry.amount.get(),
            reason = ?why,
            "{what}"
        );
    }

    /// Nothing was applied: what the entry covered is owed in no entry again, and
    /// the balance is read before the next one is cut to it.
    async fn void(&self, entry: &Entry, message: &str) -> Next {
        let Tools { store, clock, .. } = &self.0.tools;
        // The same entry would be refused again.
        self.leave_alone(&entry.customer_id);
        match self.kept(entry, || store.void_entry(entry, message, clock.now())).await {
            Some(true) => {}
            Some(false) => return self.not_ours(entry),
            None => return Next::NotKept,
        }
        store.pass(CrashPoint::EntryVoided);
        self.tell_void(
            entry,
            message,
            "Dodo refused an entry; its credits stay owed, to Dodo or to the customer",
        );
        // If the balance is another than was thought, this lets the next entry be opened at once.
        let _ = self.read_balance(&entry.customer_id).await;
        Next::Closed
    }

    /// Writes down what an answer means, however long the store takes: the same
    /// call again could be answered otherwise. `None`: it cannot be written.
    pub(super) async fn kept<T, F>(&self, entry: &Entry, write: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut wait = KEEP_RETRY_MIN;
        loop {
            let error = match write().await {
                Ok(kept) => return Some(kept),
                Err(error) => error,
            };
            // An outage is told once, by the store.
            if error.is_away() {
                tracing::debug!(entry_id = %entry.entry_id, %error, "Dodo's answer waits to be kept");
            } else {
                tracing::error!(entry_id = %entry.entry_id, %error, "Dodo's answer could not be kept");
            }
            if matches!(error, StoreError::Corrupt(_)) {
                return None;
            }
            tokio::select! {
                () = self.0.tools.stop.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(KEEP_RETRY_MAX);
        }
    }

    /// Notes a call that did not settle the entry.
    async fn note(&self, entry: &mut Entry, is_unknown: bool, error: &str, began: Timestamp) {
        // If this cannot be written, the entry still knows it, and whoever takes it over distrusts it anyway.
        if let Err(error) = self.0.tools.store.note_entry_try(entry, is_unknown, error, began).await {
            tracing::error!(entry_id = %entry.entry_id, %error, "a try could not be noted");
        }
        self.0.tools.store.pass(CrashPoint::EntryTryNoted);
        entry.tried(is_unknown, began);
        self.call_ended(&entry.customer_id);
        tracing::warn!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            outcome = if is_unknown { "unknown" } else { "not applied" },
            reason = ?error,
            "an entry was not settled by this call"
        );
    }
}

/// Whether Dodo refuses entries for something that the operator must mend, as far as an answer shows.
const fn refusing(answer: &EntryAnswer) -> Option<bool> {
    match answer {
        EntryAnswer::Unauthorized | EntryAnswer::Misconfigured { .. } => Some(true),
        EntryAnswer::Applied { .. } | EntryAnswer::KeyUsed | EntryAnswer::Rejected { .. } => Some(false),
        EntryAnswer::RateLimited { .. } | EntryAnswer::NotSent { .. } | EntryAnswer::Unknown { .. } => None,
    }
}

fn call_result(answer: &EntryAnswer) -> DodoResult {
    match answer {
        EntryAnswer::Applied { .. } => DodoResult::Ok,
        EntryAnswer::RateLimited { .. } => DodoResult::RateLimited,
        EntryAnswer::NotSent { .. } | EntryAnswer::Unknown { .. } => DodoResult::Unanswered,
        _ => DodoResult::Refused,
    }
}
