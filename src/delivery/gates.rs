//! Gates: an upstream that refuses everything is left alone until it is worth a try.
//!
//! A bad key, a spent quota or a suspended account is the operator's matter, not
//! the sender's: messages stay queued, nothing bounces, lifetimes stand still.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Delivery, Tools};
use crate::domain::message::Road;
use crate::store::StoreError;
use crate::store::gate::Gate;

/// The closed gates, in memory; the database has the same.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<Road, Gate>>);

impl Gates {
    /// Roads that are open, and roads whose gate is worth one try now.
    pub(super) fn passable(&self, now: Timestamp) -> (Vec<Road>, Vec<Road>) {
        let closed = self.closed();
        let open = [Road::Resend, Road::Smtp].into_iter().filter(|road| !closed.contains_key(road)).collect();
        let probing = closed.values().filter(|gate| gate.try_again_at <= now).map(|gate| gate.road).collect();
        (open, probing)
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, BTreeMap<Road, Gate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    pub(super) async fn load_gates(&self) -> Result<(), StoreError> {
        for gate in self.0.tools.store.gates().await? {
            self.show_gate(gate.road, true);
            self.0.gates.closed().insert(gate.road, gate);
        }
        Ok(())
    }

    /// Closes a gate, or puts its next try off. Returns when that is.
    pub(super) async fn close_gate(&self, road: Road, reason: &str, wait: Duration) -> Timestamp {
        let now = self.0.tools.clock.now();
        let try_again_at = now.checked_add(wait).unwrap_or(now);
        let known = self.0.gates.closed().get(&road).cloned();
        let since = known.as_ref().map_or(now, |gate| gate.since);
        let gate = Gate { road, reason: reason.to_owned(), since, try_again_at };
        if known.is_none() {
            tracing::error!(
                road = road.as_str(),
                ?reason,
                "the upstream's gate is closed: mail waits, nothing bounces"
            );
        }
        self.show_gate(road, true);
        self.0.gates.closed().insert(road, gate.clone());
        if let Err(error) = self.0.tools.store.close_gate(&gate).await {
            tracing::error!(%error, "a closed gate could not be kept");
        }
        try_again_at
    }

    /// The upstream has answered like one that works.
    pub(super) async fn open_gate(&self, road: Road) {
        if self.0.gates.closed().remove(&road).is_none() {
            return;
        }
        tracing::info!(road = road.as_str(), "the upstream's gate is open again");
        let Tools { store, clock, .. } = &self.0.tools;
        if let Err(error) = store.open_gate(road, clock.now()).await {
            tracing::error!(%error, "an opened gate could not be kept");
        }
        self.show_gate(road, false);
    }

    /// Whether the gate of a road is closed.
    pub(super) fn is_closed(&self, road: Road) -> bool {
        self.0.gates.closed().contains_key(&road)
    }

    fn show_gate(&self, road: Road, is_closed: bool) {
        self.0.tools.metrics.set_gate_closed(road, is_closed);
        self.0.tools.handover.set_open(road, !is_closed);
    }
}
