//! The leases of this process: held, renewed together, and given up when one was not ours any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::crash::CrashPoint;
use crate::domain::ids::MessageId;
use crate::store::Store;
use crate::store::queue::LeasedPart;
use crate::upstream::tenure::Tenure;

/// A message, its part and the attempt that holds the lease. A late attempt and
/// the one that followed it are two holders, and neither speaks for the other.
type Key = (MessageId, u32, u32);

/// The leases that are held.
#[derive(Debug)]
pub(super) struct Leases {
    held: Arc<Mutex<Held>>,
    /// Whether another process takes what runs out.
    is_shared: bool,
    /// Somebody has to know whether a lease is still ours.
    asked: Arc<Notify>,
}

/// Each with its number: an attempt that does not count is followed by one of the same name.
#[derive(Debug, Default)]
struct Held {
    by_key: BTreeMap<Key, One>,
    last: u64,
}

#[derive(Debug)]
struct One {
    number: u64,
    lost: CancellationToken,
    /// Until when it is surely ours; `None`: nobody else takes it.
    sure: watch::Sender<Option<Instant>>,
}

/// One lease; dropped when what became of the attempt is written down.
#[derive(Debug)]
pub(super) struct Lease {
    key: Key,
    number: u64,
    /// Set when the lease could not be renewed: the attempt must not go on.
    pub(super) lost: CancellationToken,
    /// Whether it is ours still.
    pub(super) tenure: Tenure,
    held: Arc<Mutex<Held>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if held.by_key.get(&self.key).is_some_and(|one| one.number == self.number) {
            held.by_key.remove(&self.key);
        }
    }
}

impl Leases {
    /// None yet.
    pub(super) fn new(is_shared: bool) -> Self {
        Self { held: Arc::default(), is_shared, asked: Arc::default() }
    }

    /// Holds the lease of a part, which ends at `until` unless it is renewed.
    pub(super) fn hold(&self, part: &LeasedPart, until: Timestamp, now: Timestamp) -> Lease {
        let key = (part.message_id.clone(), part.part_no, part.attempt);
        let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        let (sure, is_sure) = watch::channel(self.is_shared.then(|| Instant::now() + left));
        let lost = CancellationToken::new();
        let tenure = Tenure { sure: is_sure, lost: lost.clone(), ask: Arc::clone(&self.asked) };
        let mut held = lock(&self.held);
        held.last += 1;
        let number = held.last;
        held.by_key.insert(key.clone(), One { number, lost: lost.clone(), sure });
        Lease { key, number, lost, tenure, held: Arc::clone(&self.held) }
    }

    /// Until somebody has to know whether a lease is still ours.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether none is held.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.held).by_key.is_empty()
    }

    /// Message, part and attempt of each.
    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.held).by_key.keys().cloned().collect()
    }

    /// Renews all; whoever lost theirs is told to stop.
    pub(super) async fn renew(&self, store: &Store, clock: &Clock, lease: Duration) {
        let keys = self.keys();
        if keys.is_empty() {
            return;
        }
        let (began, now) = (Instant::now(), clock.now());
        let kept = match store.renew(&keys, now.checked_add(lease).unwrap_or(now)).await {
            Ok(kept) => kept,
            Err(error) => {
                error.tell("leases could not be renewed");
                return;
            }
        };
        store.pass(CrashPoint::LeasesRenewed);
        let kept: BTreeSet<(String, u32, u32)> = kept.into_iter().collect();
        let held = lock(&self.held);
        for key in keys {
            let is_kept = kept.contains(&(key.0.as_str().to_owned(), key.1, key.2));
            // Whoever has finished meanwhile holds no lease any more, and misses none.
            let Some(one) = held.by_key.get(&key) else { continue };
            match is_kept {
                false => one.lost.cancel(),
                true if self.is_shared => drop(one.sure.send_replace(Some(began + lease))),
                true => {}
            }
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
