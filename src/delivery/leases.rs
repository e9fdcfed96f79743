//! The leases of this process: held, renewed together, and given up when one was not ours any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::ids::MessageId;
use crate::store::Store;
use crate::store::queue::LeasedPart;

type Key = (MessageId, u32);

/// The leases that are held.
#[derive(Debug, Default)]
pub(super) struct Leases(Arc<Mutex<BTreeMap<Key, Held>>>);

#[derive(Debug)]
struct Held {
    attempt: u32,
    lost: CancellationToken,
}

/// One lease; dropped when what became of the attempt is written down.
#[derive(Debug)]
pub(super) struct Lease {
    key: Key,
    /// Set when the lease could not be renewed: the attempt must not go on.
    pub(super) lost: CancellationToken,
    held: Arc<Mutex<BTreeMap<Key, Held>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Leases {
    /// Holds the lease of a part that was just leased.
    pub(super) fn hold(&self, part: &LeasedPart) -> Lease {
        let key = (part.message_id.clone(), part.part_no);
        let lost = CancellationToken::new();
        let held = Held { attempt: part.attempt, lost: lost.clone() };
        self.held().insert(key.clone(), held);
        Lease { key, lost, held: Arc::clone(&self.0) }
    }

    /// Whether none is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held().is_empty()
    }

    /// Renews all; whoever lost theirs is told to stop.
    pub(super) async fn renew(&self, store: &Store, clock: &Clock, lease: Duration) {
        let leases: Vec<(MessageId, u32, u32)> =
            self.held().iter().map(|((id, part_no), held)| (id.clone(), *part_no, held.attempt)).collect();
        if leases.is_empty() {
            return;
        }
        let now = clock.now();
        let kept = match store.renew(&leases, now.checked_add(lease).unwrap_or(now)).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%error, "leases could not be renewed");
                return;
            }
        };
        let kept: std::collections::BTreeSet<(String, u32)> = kept.into_iter().collect();
        let held = self.held();
        for (message_id, part_no, _) in leases {
            let is_kept = kept.contains(&(message_id.as_str().to_owned(), part_no));
            // Whoever has finished meanwhile holds no lease any more, and misses none.
            if let (false, Some(held)) = (is_kept, held.get(&(message_id, part_no))) {
                held.lost.cancel();
            }
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
