//! Gates: an upstream that refuses everything is left alone until it is worth a try.
//!
//! A bad key, a spent quota or a suspended account is the operator's matter, not
//! the sender's: messages stay queued, nothing bounces, lifetimes stand still.
//! One part at a time is let through to see, and a gate opens when the upstream
//! has taken one: a refusal of that part alone, or no answer, proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Delivery, Tools};
use crate::crash::CrashPoint;
use crate::domain::message::Road;
use crate::store::StoreError;
use crate::store::gate::Gate;
use crate::store::wake::Wake;

/// How long the next try waits when one came back without opening the gate.
const PROBE_WAIT: Duration = Duration::from_secs(30);

/// The closed gates, in memory; the database has the same.
#[derive(Debug, Default)]
pub(super) struct Gates {
    closed: Mutex<BTreeMap<Road, Gate>>,
    probing: Mutex<BTreeSet<Road>>,
    /// Held while a gate is opened or closed, so that memory and database stay alike.
    changing: tokio::sync::Mutex<()>,
}

impl Gates {
    /// Roads that are open, and roads whose gate is worth one try now.
    pub(super) fn passable(&self, now: Timestamp) -> (Vec<Road>, Vec<Road>) {
        let closed = self.closed();
        let probing = self.probing();
        let open = [Road::Resend, Road::Smtp].into_iter().filter(|road| !closed.contains_key(road)).collect();
        let due = closed.values().filter(|gate| gate.try_again_at <= now).map(|gate| gate.road);
        (open, due.filter(|road| !probing.contains(road)).collect())
    }

    /// The gate of a road, if it is closed.
    pub(super) fn get(&self, road: Road) -> Option<Gate> {
        self.closed().get(&road).cloned()
    }

    /// Whether all are open.
    pub(super) fn are_open(&self) -> bool {
        self.closed().is_empty()
    }

    /// Whether nobody else is trying this road.
    pub(super) fn begin_probe(&self, road: Road) -> bool {
        self.probing().insert(road)
    }

    fn closed(&self) -> MutexGuard<'_, BTreeMap<Road, Gate>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probing(&self) -> MutexGuard<'_, BTreeSet<Road>> {
        self.probing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// Makes memory like the database: another process may have opened or closed a gate.
    pub(super) async fn load_gates(&self) -> Result<(), StoreError> {
        let _changing = self.0.gates.changing.lock().await;
        let kept = self.0.tools.store.gates().await?;
        for road in [Road::Resend, Road::Smtp] {
            let gate = kept.iter().find(|gate| gate.road == road).cloned();
            let is_closed = gate.is_some();
            let known = match gate {
                Some(gate) => self.0.gates.closed().insert(road, gate),
                None => self.0.gates.closed().remove(&road),
            };
            if known.is_some() != is_closed {
                self.show_gate(road, is_closed);
                self.0.tools.store.ring(&Wake::Parts);
            }
        }
        Ok(())
    }

    /// Closes a gate, or puts its next try off.
    pub(super) async fn close_gate(&self, road: Road, reason: &str, wait: Duration) {
        let _changing = self.0.gates.changing.lock().await;
        let now = self.0.tools.clock.now();
        let try_again_at = now.checked_add(wait).unwrap_or(now);
        let known = self.0.gates.get(road);
        let since = known.as_ref().map_or(now, |gate| gate.since);
        if known.is_none() {
            tracing::error!(
                road = road.as_str(),
                ?reason,
                "the upstream's gate is closed: mail waits, nothing bounces"
            );
        }
        self.show_gate(road, true);
        let gate = Gate { road, reason: reason.to_owned(), since, try_again_at };
        self.0.gates.closed().insert(gate.road, gate.clone());
        if let Err(error) = self.0.tools.store.close_gate(&gate).await {
            error.tell("a closed gate could not be kept");
        }
        self.0.tools.store.pass(CrashPoint::GateClosed);
        if known.is_none() {
            self.0.tools.store.tell(Wake::Gates).await;
        }
    }

    /// The upstream has accepted something. The lifetimes that stood still are
    /// extended before anybody can take a part and find it expired.
    pub(super) async fn open_gate(&self, road: Road) {
        if !self.is_closed(road) {
            return;
        }
        let _changing = self.0.gates.changing.lock().await;
        if !self.is_closed(road) {
            return;
        }
        let Tools { store, clock, .. } = &self.0.tools;
        if let Err(error) = store.open_gate(road, clock.now()).await {
            error.tell("a gate could not be opened; the next success opens it");
            return;
        }
        store.pass(CrashPoint::GateOpened);
        self.0.gates.closed().remove(&road);
        self.show_gate(road, false);
        tracing::info!(road = road.as_str(), "the upstream's gate is open again");
        store.ring(&Wake::Parts);
        store.tell(Wake::Gates).await;
    }

    /// A part came back from a closed gate, if one `was_tried`. Unless that opened
    /// it, or the upstream said when to try again, the next one waits.
    pub(super) async fn end_probe(&self, road: Road, was_tried: bool) {
        if was_tried {
            let _changing = self.0.gates.changing.lock().await;
            let now = self.0.tools.clock.now();
            if let Some(gate) = self.0.gates.get(road).filter(|gate| gate.try_again_at <= now) {
                let try_again_at = now.checked_add(PROBE_WAIT).unwrap_or(now);
                self.0.gates.closed().insert(road, Gate { try_again_at, ..gate });
                // Another process may have opened it since: then it is not closed again.
                if let Err(error) = self.0.tools.store.put_gate_off(road, try_again_at).await {
                    error.tell("the next try of a closed gate could not be put off");
                }
            }
        }
        self.0.gates.probing().remove(&road);
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
