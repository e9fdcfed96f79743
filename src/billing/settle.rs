//! Settlement: what was captured becomes entries in Dodo's ledger, each exactly once.
//!
//! One entry of a customer is open at a time. While the budget allows, one message
//! makes one entry at once; while an entry is on its way, or the budget is spent,
//! the next captures gather and go as one. An entry whose outcome is unknown is
//! posted again under the same key until Dodo says something definite; nothing
//! else ever decides that it was, or was not, applied (P3).

use std::time::{Duration, Instant};

use super::budget::Purpose;
use super::dodo::EntryAnswer;
use super::{Billing, Tools};
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::random;
use crate::store::StoreError;
use crate::store::entry::{Entry, Settled};
use crate::telemetry::{DodoCall, DodoResult, EntryKind, EntryResult};

/// Customers looked at in one round.
const ROUND: u32 = 100;
/// How often the settler looks even when nobody called.
const INTERVAL: Duration = Duration::from_secs(5);
/// First and longest wait before the same entry is posted again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a customer whose entry Dodo refused is left alone, unless news comes.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// What a try of an entry means for it.
enum Verdict {
    /// It is closed.
    Closed,
    /// It is tried again after a wait.
    Again(Option<Duration>),
}

impl Billing {
    /// Settles until it is told to stop; what is on its way is finished first.
    pub(super) async fn settle(self) {
        let stop = self.0.tools.stop.clone();
        if let Err(error) = self.resume_open().await {
            tracing::error!(%error, "open entries could not be read");
        }
        loop {
            if let Err(error) = self.settle_round().await {
                tracing::error!(%error, "what is owed could not be read");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.owing.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// After a restart: an entry that is open may have been applied.
    async fn resume_open(&self) -> Result<(), StoreError> {
        let store = &self.0.tools.store;
        store.distrust_open_entries(self.0.tools.clock.now()).await?;
        for entry in store.open_entries().await? {
            self.post_in_background(entry);
        }
        Ok(())
    }

    async fn settle_round(&self) -> Result<(), StoreError> {
        loop {
            let owing = self.0.tools.store.owing(ROUND).await?;
            let mut opened = 0;
            for customer_id in &owing {
                if self.0.tools.stop.is_cancelled() {
                    return Ok(());
                }
                if self.is_left_alone(customer_id) {
                    continue;
                }
                // The wait for a call is where captures gather.
                self.0.budget.take(Purpose::Entry).await;
                if let Some(entry) = self.open(customer_id).await? {
                    opened += 1;
                    self.post_in_background(entry);
                }
            }
            if opened == 0 {
                return Ok(());
            }
        }
    }

    fn is_left_alone(&self, customer_id: &CustomerId) -> bool {
        let mut refused = self.refused();
        refused.retain(|_, until| *until > Instant::now());
        refused.contains_key(customer_id)
    }

    /// Opens an entry for what is owed, or for what the balance covers of it; a
    /// debt beyond the balance waits for the next top-up.
    async fn open(&self, customer_id: &CustomerId) -> Result<Option<Entry>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let Some(account) = store.account(customer_id).await? else { return Ok(None) };
        let balance = account.balance.unwrap_or(i64::MAX).max(0);
        let at_most = (balance < account.owed.to_i64()).then(|| Credits::from_i64(balance)).flatten();
        let entry_id = EntryId::generate(now, random::octets());
        let entry = store.open_entry(customer_id, &entry_id, at_most, now).await?;
        if entry.is_none() {
            self.refused().insert(customer_id.clone(), Instant::now() + REFUSED_WAIT);
        }
        Ok(entry)
    }

    fn post_in_background(&self, entry: Entry) {
        let billing = self.clone();
        self.0.tools.tasks.spawn(async move { billing.post_until_closed(entry).await });
    }

    /// Posts an entry until it is closed, or the process stops between two tries.
    async fn post_until_closed(self, mut entry: Entry) {
        let stop = self.0.tools.stop.clone();
        let mut wait = RETRY_MIN;
        let mut is_paid_for = entry.unknown_tries == 0;
        loop {
            if !is_paid_for {
                self.0.budget.take(Purpose::Entry).await;
            }
            is_paid_for = false;
            let verdict = self.post(&mut entry).await;
            let again = match verdict {
                Ok(Verdict::Closed) => break,
                Ok(Verdict::Again(asked)) => asked.unwrap_or(wait).max(wait),
                Err(error) => {
                    tracing::error!(entry_id = %entry.entry_id, %error, "an answer could not be kept");
                    wait
                }
            };
            wait = (wait * 2).min(RETRY_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(again) => {}
            }
        }
        self.0.closed.notify_waiters();
        self.0.owing.notify_one();
    }

    async fn post(&self, entry: &mut Entry) -> Result<Verdict, StoreError> {
        let Entry { customer_id, entry_id, amount, reason, .. } = &*entry;
        let reply = self.0.tools.dodo.post_debit(customer_id, entry_id, *amount, reason).await;
        let is_limited = matches!(reply.answer, EntryAnswer::RateLimited { .. });
        self.0.budget.learn(&reply.rate, is_limited);
        self.0.tools.metrics.dodo_call(DodoCall::PostEntry, call_result(&reply.answer));
        match reply.answer {
            EntryAnswer::Applied { balance_after: Some(balance_after) } if entry.unknown_tries == 0 => {
                self.settled(entry, Settled::Now { balance_after }).await
            }
            EntryAnswer::Applied { .. } | EntryAnswer::KeyUsed => {
                let verdict = self.settled(entry, Settled::Sometime).await;
                self.0.reads.ask(&entry.customer_id);
                verdict
            }
            EntryAnswer::Rejected { message, .. } if entry.unknown_tries == 0 => {
                self.void(entry, &message).await
            }
            // Dodo may check the balance before the key: after an unknown try this proves nothing.
            EntryAnswer::Rejected { message, .. } => {
                self.0.tools.metrics.entry(EntryKind::Debit, EntryResult::Doubtful);
                self.again(entry, false, &message, None).await
            }
            EntryAnswer::RateLimited { retry_after } => {
                self.again(entry, false, "too many calls (429)", retry_after).await
            }
            EntryAnswer::Unauthorized => {
                let text = "Dodo refused the API key (401): it is wrong, read-only, or of the other mode";
                self.again(entry, false, text, Some(RETRY_MAX)).await
            }
            EntryAnswer::Misconfigured { status, message, .. } => {
                self.again(entry, false, &format!("{status}: {message}"), Some(RETRY_MAX)).await
            }
            EntryAnswer::NotSent { reason } => self.again(entry, false, &reason, None).await,
            EntryAnswer::Unknown { reason } => {
                entry.unknown_tries += 1;
                self.0.tools.metrics.entry(EntryKind::Debit, EntryResult::Unknown);
                self.again(entry, true, &reason, None).await
            }
        }
    }

    async fn settled(&self, entry: &Entry, settled: Settled) -> Result<Verdict, StoreError> {
        let Tools { store, clock, metrics, .. } = &self.0.tools;
        let low = store.settle_entry(entry, settled, clock.now()).await?;
        metrics.entry(EntryKind::Debit, EntryResult::Settled);
        tracing::info!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            kind = EntryKind::Debit.as_str(),
            amount = entry.amount.get(),
            "entry settled"
        );
        if low {
            self.low_balance(&entry.customer_id, None);
        }
        Ok(Verdict::Closed)
    }

    /// Nothing was applied: what the entry covered is owed in no entry again, and
    /// the balance is read before the next one is cut to it.
    async fn void(&self, entry: &Entry, message: &str) -> Result<Verdict, StoreError> {
        let Tools { store, clock, metrics, .. } = &self.0.tools;
        store.void_entry(entry, message, clock.now()).await?;
        metrics.entry(EntryKind::Debit, EntryResult::Void);
        tracing::warn!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            amount = entry.amount.get(),
            reason = ?message,
            "Dodo refused an entry; its credits stay owed"
        );
        let read = self.read_balance(&entry.customer_id).await;
        let still_covers = read.is_none_or(|a| a.balance.is_none_or(|b| b >= entry.amount.to_i64()));
        if still_covers {
            // The same entry would be refused again.
            self.refused().insert(entry.customer_id.clone(), Instant::now() + REFUSED_WAIT);
        }
        Ok(Verdict::Closed)
    }

    async fn again(
        &self,
        entry: &Entry,
        is_unknown: bool,
        error: &str,
        after: Option<Duration>,
    ) -> Result<Verdict, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        store.note_entry_try(entry, is_unknown, error, clock.now()).await?;
        tracing::warn!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            outcome = if is_unknown { "unknown" } else { "not applied" },
            reason = ?error,
            "an entry was not settled; it is tried again"
        );
        Ok(Verdict::Again(after))
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
