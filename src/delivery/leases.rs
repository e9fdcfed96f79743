//! The leases of this process: held, renewed together, and given up when one was not ours any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::crash::CrashPoint;
use crate::domain::ids::MessageId;
use crate::store::Store;
use crate::store::queue::LeasedPart;

/// A message, its part and the attempt that holds the lease. A late attempt and
/// the one that followed it are two holders, and neither speaks for the other.
type Key = (MessageId, u32, u32);

/// The leases that are held.
#[derive(Debug, Default)]
pub(super) struct Leases(Arc<Mutex<Held>>);

/// Each with its number: an attempt that does not count is followed by one of the same name.
#[derive(Debug, Default)]
struct Held {
    by_key: BTreeMap<Key, (u64, CancellationToken)>,
    last: u64,
}

/// One lease; dropped when what became of the attempt is written down.
#[derive(Debug)]
pub(super) struct Lease {
    key: Key,
    number: u64,
    /// Set when the lease could not be renewed: the attempt must not go on.
    pub(super) lost: CancellationToken,
    held: Arc<Mutex<Held>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if held.by_key.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            held.by_key.remove(&self.key);
        }
    }
}

impl Leases {
    /// Holds the lease of a part that was just leased.
    pub(super) fn hold(&self, part: &LeasedPart) -> Lease {
        let key = (part.message_id.clone(), part.part_no, part.attempt);
        let lost = CancellationToken::new();
        let mut held = lock(&self.0);
        held.last += 1;
        let number = held.last;
        held.by_key.insert(key.clone(), (number, lost.clone()));
        Lease { key, number, lost, held: Arc::clone(&self.0) }
    }

    /// Whether none is held.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).by_key.is_empty()
    }

    /// Message, part and attempt of each.
    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.0).by_key.keys().cloned().collect()
    }

    /// Renews all; whoever lost theirs is told to stop.
    pub(super) async fn renew(&self, store: &Store, clock: &Clock, lease: Duration) {
        let keys = self.keys();
        if keys.is_empty() {
            return;
        }
        let now = clock.now();
        let kept = match store.renew(&keys, now.checked_add(lease).unwrap_or(now)).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%error, "leases could not be renewed");
                return;
            }
        };
        store.pass(CrashPoint::LeasesRenewed);
        let kept: BTreeSet<(String, u32, u32)> = kept.into_iter().collect();
        let held = lock(&self.0);
        for key in keys {
            let is_kept = kept.contains(&(key.0.as_str().to_owned(), key.1, key.2));
            // Whoever has finished meanwhile holds no lease any more, and misses none.
            if let (false, Some((_, lost))) = (is_kept, held.by_key.get(&key)) {
                lost.cancel();
            }
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
