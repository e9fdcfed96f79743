//! Doubtful entries: posted, never answered for certain, and not to be posted again.
//!
//! A 400 after a lost answer may only mean that the lost call emptied the account,
//! and a key may be forgotten after a day, so that another post could debit twice.
//! From then on Dodo's ledger list is asked instead, now and then, as long as it
//! takes. Found: settled. Surely absent (`judge` says what makes it sure), and the
//! last call so long ago that it cannot be under way any more: void, and what it
//! covered is settled by a new entry. Otherwise it stays owed, and the metrics,
//! `readyz` and the log say so: the operator can decide it by hand.

mod judge;

#[cfg(test)]
pub(crate) use judge::Window;
pub(crate) use judge::{Judgement, judge, window};

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Purpose;
use super::dodo::DodoError;
use super::ledger::Reading;
use super::{Billing, Tools};
use crate::crash::CrashPoint;
use crate::domain::ids::{CustomerId, EntryId};
use crate::store::StoreError;
use crate::store::doubt::{Decider, DoubtfulEntry, NotDecided};
use crate::store::entry::Entry;
use crate::store::node::Duty;
use crate::telemetry::DodoCall;

/// How often doubtful entries are looked for even when nobody called.
const INTERVAL: Duration = Duration::from_secs(5);
/// First and longest wait before the same entry is looked up again.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(3600);
/// The longest while Dodo does not answer.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// Pages of a ledger that are read for one entry at most.
const MAX_PAGES: u32 = 100;
/// Entries before it that are thought of at most: as many as so many pages can show.
const MAX_BEFORE: u32 = 10_000;

/// When an entry is looked up again.
#[derive(Debug, Clone, Copy)]
struct Look {
    due: Instant,
    wait: Duration,
}

impl Look {
    fn again(self, at_most: Option<Duration>) -> Self {
        let wait = (self.wait * 2).min(LOOK_MAX);
        let until = at_most.map_or(self.wait, |most| self.wait.min(most.max(LOOK_MIN)));
        Self { due: Instant::now() + until, wait }
    }
}

/// What a lookup came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The entry has ended.
    Decided,
    /// It is looked up again, after so long at most.
    Undecided(Option<Duration>),
}

/// How long the last call may still take effect; `None`: not any more.
pub(crate) fn may_be_under_way(entry: &Entry, now: Timestamp, lookup_wait: Duration) -> Option<Duration> {
    let last = entry.last_tried_at.or(entry.doubtful_since).unwrap_or(entry.opened_at);
    let since = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    let wait = lookup_wait.checked_sub(since)?;
    (!wait.is_zero()).then_some(wait)
}

impl Billing {
    /// Only Dodo's ledger can tell what became of this entry from now on.
    pub(super) async fn doubt(&self, entry: &Entry, why: &str) {
        let Tools { store, clock, .. } = &self.0.tools;
        if self.kept(entry, || store.doubt_entry(entry, why, clock.now())).await != Some(true) {
            return;
        }
        store.pass(CrashPoint::EntryDoubted);
        tracing::error!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            amount = entry.amount.get(),
            reason = ?why,
            "an entry is in doubt; it is not posted again, its credits stay owed, and Dodo's ledger is searched for it"
        );
        self.0.doubted.notify_one();
    }

    /// Looks doubtful entries up until it is told to stop.
    pub(super) async fn resolve_doubts(self) {
        let stop = self.0.tools.stop.clone();
        let mut looks = BTreeMap::new();
        loop {
            let next = match self.look_up_due(&mut looks).await {
                Ok(next) => next,
                Err(error) => {
                    error.tell("doubtful entries could not be read");
                    INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.doubted.notified() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// Looks up what is due; how long until the next round.
    async fn look_up_due(&self, looks: &mut BTreeMap<EntryId, Look>) -> Result<Duration, StoreError> {
        let Tools { store, clock, metrics, stop, .. } = &self.0.tools;
        let doubtful = store.doubtful_entries().await?;
        metrics.set_entries_doubtful(u64::try_from(doubtful.len()).unwrap_or(u64::MAX));
        looks.retain(|entry_id, _| doubtful.iter().any(|found| found.entry.entry_id == *entry_id));
        let mut next = INTERVAL;
        if doubtful.is_empty() || !store.takes(Duty::Doubts, clock.now(), INTERVAL).await? {
            return Ok(next);
        }
        for sought in doubtful {
            let entry_id = sought.entry.entry_id.clone();
            let look = looks.get(&entry_id).copied();
            let look = look.unwrap_or(Look { due: Instant::now(), wait: LOOK_MIN });
            if let Some(early) =
                look.due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
            {
                next = next.min(early);
                continue;
            }
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(INTERVAL),
                outcome = self.look_up(&sought) => outcome?,
            };
            match outcome {
                Outcome::Decided => next = Duration::ZERO,
                Outcome::Undecided(at_most) => {
                    let look = look.again(at_most);
                    next = next.min(look.due.saturating_duration_since(Instant::now()));
                    looks.insert(entry_id, look);
                }
            }
        }
        Ok(next)
    }

    pub(super) async fn look_up(&self, sought: &DoubtfulEntry) -> Result<Outcome, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let entry = &sought.entry;
        let began = clock.now();
        let before = store.done_before(entry, MAX_BEFORE).await?;
        let window = window(entry.opened_at, &before);
        let reading = match self.read_ledger(&entry.customer_id, window.from).await {
            Ok(reading) => reading,
            Err(error) => return self.undecided(sought, &error.to_string(), Some(UNREAD_MAX)).await,
        };
        match judge(sought, &window.others, reading.lines(), reading.is_whole()) {
            Judgement::Found { surplus } => self.found(sought, surplus).await,
            Judgement::Undecidable(why) => self.undecided(sought, why, None).await,
            Judgement::Absent => match may_be_under_way(entry, began, self.0.settings.lookup_wait) {
                None => self.absent(sought).await,
                Some(wait) => {
                    let why = "Dodo's ledger does not show it; its last call may still be under way";
                    self.undecided(sought, why, Some(wait)).await
                }
            },
        }
    }

    async fn read_ledger(&self, customer_id: &CustomerId, from: Timestamp) -> Result<Reading, DodoError> {
        let mut reading = Reading::new(Some(from));
        while let Some(page) = reading.next_page().filter(|page| *page < MAX_PAGES) {
            self.0.budget.take(Purpose::Refresh).await;
            let reply = self.0.tools.dodo.ledger(customer_id, Some(from), page).await;
            reading.add(self.made(DodoCall::ReadLedger, reply)?);
        }
        Ok(reading)
    }

    async fn found(&self, sought: &DoubtfulEntry, surplus: i64) -> Result<Outcome, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let entry = &sought.entry;
        let low = match store.settle_doubtful(entry, Decider::Ledger, clock.now()).await? {
            Ok(low) => low,
            Err(why_not) => return Ok(too_late(&why_not, "shows it")),
        };
        store.pass(CrashPoint::DoubtSettled);
        self.tell_settled(entry, "a doubtful entry stands in Dodo's ledger; it is settled");
        if surplus > 0 {
            tracing::error!(
                entry_id = %entry.entry_id,
                customer_id = %entry.customer_id,
                kind = entry.kind.as_str(),
                amount = surplus,
                "Dodo's ledger shows an entry more than once; undo there what is too much, with a reason that names the entry"
            );
        }
        if low {
            self.low_balance(&entry.customer_id, None);
        }
        Ok(self.lane_is_free(entry))
    }

    async fn absent(&self, sought: &DoubtfulEntry) -> Result<Outcome, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let entry = &sought.entry;
        let why = "Dodo's ledger does not show it";
        if let Err(why_not) = store.void_doubtful(entry, Decider::Ledger, why, clock.now()).await? {
            return Ok(too_late(&why_not, "does not show it"));
        }
        store.pass(CrashPoint::DoubtVoided);
        self.tell_void(entry, why, "a doubtful entry is void; its credits go into a new one");
        Ok(self.lane_is_free(entry))
    }

    /// The next entry is cut to what the balance is now.
    fn lane_is_free(&self, entry: &Entry) -> Outcome {
        self.0.reads.ask(&entry.customer_id);
        self.0.owing.notify_one();
        Outcome::Decided
    }

    async fn undecided(
        &self,
        sought: &DoubtfulEntry,
        why: &str,
        at_most: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        let entry = &sought.entry;
        if sought.why.as_deref() != Some(why) {
            if !self.0.tools.store.note_lookup(&entry.entry_id, why).await? {
                return Ok(Outcome::Decided);
            }
            tracing::warn!(
                entry_id = %entry.entry_id,
                customer_id = %entry.customer_id,
                amount = entry.amount.get(),
                reason = ?why,
                "an entry is still in doubt; it is looked up again"
            );
        }
        Ok(Outcome::Undecided(at_most))
    }
}

/// The operator was faster. Whether that fits what the ledger says is for people to see.
fn too_late(why_not: &NotDecided, ledger: &'static str) -> Outcome {
    tracing::warn!(reason = %why_not, ledger, "a lookup in Dodo's ledger came too late to decide");
    Outcome::Decided
}
