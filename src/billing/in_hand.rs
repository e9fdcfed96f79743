//! The entries that this process posts: nobody else does while their leases are renewed.
//!
//! Where the database is shared, an entry is posted only while it is sure that it is still
//! ours: a process that stood still for longer than a lease asks first. Whoever took an entry
//! over meanwhile knows of one more call without an answer, posts it under the same key, and
//! only it may say that nothing was applied.

use std::time::Duration;

use tokio::time::Instant;

use super::settle::Next;
use super::{Billing, Tools};
use crate::crash::CrashPoint;
use crate::domain::ids::EntryId;
use crate::store::StoreError;
use crate::store::entry::{Entry, LEASE};

/// How often all leases are renewed.
const RENEW: Duration = Duration::from_secs(10);
/// So long before its end a lease is not sure any more: the statement that made it may
/// have taken as long.
const MARGIN: Duration = Duration::from_secs(10);

impl Billing {
    /// An entry was opened or taken over just now.
    pub(super) fn take_in_hand(&self, entry_id: &EntryId) {
        self.posting().insert(entry_id.clone(), Instant::now() + LEASE - MARGIN);
    }

    /// Renews the leases of all entries in hand, until it is told to stop.
    pub(super) async fn keep_in_hand(self) {
        let Tools { store, stop, .. } = &self.0.tools;
        while store.is_shared() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RENEW) => {}
            }
            let in_hand: Vec<EntryId> = self.posting().keys().cloned().collect();
            if let Err(error) = self.renew(&in_hand).await {
                error.tell("entries could not be kept in hand");
            }
        }
    }

    /// Whether an entry is surely ours still, so that it may be posted.
    pub(super) async fn is_in_hand(&self, entry_id: &EntryId) -> bool {
        let is_sure = || self.posting().get(entry_id).is_some_and(|until| *until > Instant::now());
        if !self.0.tools.store.is_shared() || is_sure() {
            return true;
        }
        if let Err(error) = self.renew(std::slice::from_ref(entry_id)).await {
            tracing::error!(%entry_id, %error, "an entry could not be kept in hand; it is not posted");
            return false;
        }
        is_sure()
    }

    async fn renew(&self, in_hand: &[EntryId]) -> Result<(), StoreError> {
        if in_hand.is_empty() {
            return Ok(());
        }
        let Tools { store, clock, .. } = &self.0.tools;
        let until = Instant::now() + LEASE - MARGIN;
        let kept = store.renew_entries(in_hand, clock.now()).await?;
        let mut posting = self.posting();
        for entry_id in kept {
            posting.entry(entry_id).and_modify(|sure| *sure = until);
        }
        Ok(())
    }

    /// Takes up the open entries that nobody posts: those of an earlier process, those where
    /// the database failed so late that nobody knew that they were opened, and those of a
    /// process that is gone. A call for each may have been applied.
    pub(super) async fn resume_open(&self) -> Result<(), StoreError> {
        let Tools { store, clock, stop, .. } = &self.0.tools;
        let in_hand: Vec<EntryId> = self.posting().keys().cloned().collect();
        let open = store.open_entries().await?;
        let is_idle = |entry: &Entry| entry.doubtful_since.is_none() && !in_hand.contains(&entry.entry_id);
        if stop.is_cancelled() || !open.iter().any(is_idle) {
            return Ok(());
        }
        let taken = store.take_over_entries(&in_hand, clock.now()).await?;
        store.pass(CrashPoint::EntriesDistrusted);
        for entry in taken {
            self.post_in_background(entry);
        }
        Ok(())
    }

    /// Another process has the entry by now, and ends it.
    pub(super) fn not_ours(&self, entry: &Entry) -> Next {
        tracing::warn!(
            entry_id = %entry.entry_id,
            customer_id = %entry.customer_id,
            "another process has taken over an entry; its answer here is left to that one"
        );
        Next::NotKept
    }
}
