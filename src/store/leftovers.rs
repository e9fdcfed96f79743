//! What leaves the spool: what arrived of messages that were never accepted, and what
//! final messages had. One after the other and a few chunks a commit, beside whatever
//! is accepted meanwhile: a hundred large messages that end together hold up nobody.
//!
//! A spool is in this line from the moment that nobody wants it. Whoever cannot be
//! deleted goes to its end. The line is in memory; what it holds at a crash is found at the
//! next start, and what a command leaves behind by the sweep.

use std::time::Duration;

use tokio::sync::mpsc::{Sender, UnboundedReceiver, WeakUnboundedSender};

use super::StoreError;
use super::gathered::{Member, gather};
use crate::allowance::Claim;
use crate::domain::ids::SpoolId;

/// After a failure, which the writer has told.
const AGAIN: Duration = Duration::from_secs(1);

/// A spool that leaves.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) spool_id: SpoolId,
    /// A chunk of it may still be in line for the writer.
    pub(super) is_writing: bool,
    /// What it counts for until it has left.
    pub(super) claim: Option<Claim>,
}

/// The ways to the writer.
#[derive(Debug, Clone)]
pub(super) struct Exits {
    /// That of chunks: what comes by it comes behind them.
    pub(super) chunks: Sender<Member>,
    /// One of their own, for chunks are many.
    pub(super) removals: Sender<Member>,
}

impl Exits {
    /// Deletes a spool that belongs to no message; one that does is left alone. Returns
    /// when that is committed.
    pub(super) async fn remove(&self, spool_id: &SpoolId, is_writing: bool) -> Result<(), StoreError> {
        let mut lane = if is_writing { &self.chunks } else { &self.removals };
        while !gather(lane, |answer| Member::Remove(spool_id.clone(), answer)).await? {
            lane = &self.removals;
        }
        Ok(())
    }
}

/// Runs until the last [`super::Store`] is gone.
pub(super) async fn run(
    exits: Exits,
    mut line: UnboundedReceiver<Leftover>,
    end_of_line: WeakUnboundedSender<Leftover>,
) {
    while let Some(leftover) = line.recv().await {
        if exits.remove(&leftover.spool_id, leftover.is_writing).await.is_ok() {
            drop(leftover.claim);
            continue;
        }
        tokio::time::sleep(AGAIN).await;
        let Some(end_of_line) = end_of_line.upgrade() else { return };
        let _ = end_of_line.send(leftover);
    }
}
