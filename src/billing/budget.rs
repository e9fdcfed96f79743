//! The few calls that Dodo allows: shared by reads and writes, learned from its answers.
//!
//! A new account may make 240 calls a minute, all processes together, and every
//! call of ours is drawn from here, and from what all nodes of a database share. Who waits for a call of one purpose is served
//! in the order of asking. How much there is to share out, and to whom it goes, is
//! decided by `buckets`, which is pure; this module waits.

mod buckets;

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::dodo::DodoError;
use crate::outbound::RateInfo;
use crate::ration::Ration;
pub(super) use buckets::Buckets;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An entry.
    Entry,
    /// A call that a client is waiting for.
    Answer,
    /// A read that nobody is waiting for.
    Refresh,
}

/// The budget.
#[derive(Debug)]
pub struct Budget {
    buckets: Mutex<Buckets>,
    /// Who waits, first come, first served.
    entries: tokio::sync::Mutex<()>,
    answers: tokio::sync::Mutex<()>,
    refreshes: tokio::sync::Mutex<()>,
    /// Dodo answers again.
    back: Notify,
    ration: Ration,
}

impl Budget {
    /// A full budget of a new account, whose calls are drawn from `ration` too.
    pub fn new(ration: Ration) -> Self {
        Self {
            buckets: Mutex::new(Buckets::new(Instant::now())),
            entries: tokio::sync::Mutex::default(),
            answers: tokio::sync::Mutex::default(),
            refreshes: tokio::sync::Mutex::default(),
            back: Notify::new(),
            ration,
        }
    }

    /// Waits until a call for `purpose` may be made, and counts it.
    pub async fn take(&self, purpose: Purpose) {
        let _turn = self.queue(purpose).lock().await;
        self.take_next(purpose).await;
    }

    /// The same for whoever goes on with what had its turn: a list's next page. Those
    /// who have queued up meanwhile wait for just what it says.
    pub async fn take_next(&self, purpose: Purpose) {
        loop {
            let back = self.back.notified();
            let wait = self.buckets().try_take(purpose, Instant::now());
            let Some(wait) = wait else { break };
            tokio::select! {
                () = back => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        let shares = self.buckets().shares(purpose);
        self.ration.draw(&shares).await;
    }

    /// Counts a call for `purpose` if it may be made now and nobody waits for one.
    pub async fn try_take(&self, purpose: Purpose) -> bool {
        let turn = self.queue(purpose).try_lock();
        if turn.is_err() || self.buckets().try_take(purpose, Instant::now()).is_some() {
            return false;
        }
        let shares = self.buckets().shares(purpose);
        self.ration.try_draw(&shares).await.is_none()
    }

    /// Learns from what an answer says about the rate limit.
    pub fn learn(&self, rate: &RateInfo, is_limited: bool) {
        self.buckets().learn(rate, is_limited, Instant::now());
    }

    /// Whether Dodo was there for a call. After a few calls in a row for which it
    /// was not, only single calls try whether it is back.
    pub fn went(&self, is_answered: bool) {
        let is_back = self.buckets().went(is_answered, Instant::now());
        if is_back {
            self.back.notify_waiters();
        }
    }

    /// Whether Dodo does not answer, so that only single calls are made.
    pub fn is_away(&self) -> bool {
        self.buckets().is_away()
    }

    /// Ends when Dodo, having been away, answers again after this was called.
    pub fn back(&self) -> Notified<'_> {
        self.back.notified()
    }

    const fn queue(&self, purpose: Purpose) -> &tokio::sync::Mutex<()> {
        match purpose {
            Purpose::Entry => &self.entries,
            Purpose::Answer => &self.answers,
            Purpose::Refresh => &self.refreshes,
        }
    }

    fn buckets(&self) -> std::sync::MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer says "too many calls".
pub fn is_limited<T>(answer: &Result<T, DodoError>) -> bool {
    matches!(answer, Err(DodoError::RateLimited { .. }))
}
