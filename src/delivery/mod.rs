//! Delivery: parts leave, and what became of them is written down.
//!
//! Two sources feed the workers: the handover (what was just accepted, in memory)
//! and the pollers (what the database says is due). All take a place among a
//! bounded number of attempts. Large parts have a poller of their own, and half of
//! the room and of the places at most: however slowly they leave, small mail does not
//! wait for them. Every part in our hands is leased; one task renews
//! all leases together. This room must not know SMTP submission, HTTP, Dodo.

pub mod bounce;
pub mod gates;
mod leases;
pub(crate) mod news;
#[cfg(test)]
mod tests;
pub mod told;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::billing::Billing;
use crate::clock::Clock;
use crate::config::Config;
use crate::crash::CrashPoint;
use crate::domain::message::Road;
use crate::domain::retry::RetrySchedule;
use crate::handover::{Handed, Handover, Lane};
use crate::mime::address_list::NamedMailbox;
use crate::routing::Routing;
use crate::store::queue::{DuePart, LeasedPart};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::Upstreams;
use bounce::Postmaster;
use gates::Gates;
use leases::{Lease, Leases};
use worker::Pass;

/// How often the database is asked for what is due.
const POLL: Duration = Duration::from_millis(500);
/// How often the queue is counted for the metrics.
const TOTALS: Duration = Duration::from_secs(10);
/// Small parts asked for at once.
const PAGE: u32 = 64;
/// Large parts asked for at once: each goes to the customer who has the fewest by then.
const LARGE_PAGE: u32 = 1;
/// How long a failed look at the database waits.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// What delivery works with.
#[derive(Debug)]
pub struct Tools {
    /// The database.
    pub store: Store,
    /// The upstreams.
    pub upstreams: Upstreams,
    /// Who is told that credits were captured.
    pub billing: Billing,
    /// Room in memory.
    pub handover: Handover,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The owner of what runs in the background.
    pub tasks: TaskTracker,
    /// The soft stop.
    pub stop: CancellationToken,
}

/// What delivery is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Attempts at the same time.
    pub max_concurrency: usize,
    /// `queue.retry_min_s` and `queue.retry_max_s`.
    pub schedule: RetrySchedule,
    /// `queue.lease_s`.
    pub lease: Duration,
    /// Who writes bounces.
    pub postmaster: Postmaster,
}

impl Settings {
    /// The settings of this configuration.
    pub fn new(config: &Config, notices_from: NamedMailbox) -> Self {
        Self {
            max_concurrency: config.upstream.max_concurrency,
            schedule: RetrySchedule {
                min: Duration::from_secs(config.queue.retry_min_s),
                max: Duration::from_secs(config.queue.retry_max_s),
            },
            lease: Duration::from_secs(config.queue.lease_s),
            postmaster: Postmaster {
                routing: Routing::new(config),
                from: notices_from,
                hostname: config.smtp.hostname.clone(),
            },
        }
    }
}

/// The delivery room.
#[derive(Debug, Clone)]
pub struct Delivery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tools: Tools,
    settings: Settings,
    gates: Gates,
    leases: Leases,
    places: Arc<Semaphore>,
}

impl Delivery {
    /// The delivery room; nothing runs until [`Delivery::start`].
    pub fn new(tools: Tools, settings: Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_concurrency));
        let (gates, leases) = (Gates::default(), Leases::default());
        Self(Arc::new(Inner { tools, settings, gates, leases, places }))
    }

    /// Takes back what an earlier process left behind, and starts to deliver.
    pub async fn start(&self, handed: mpsc::UnboundedReceiver<Handed>) -> Result<(), StoreError> {
        let Tools { store, clock, tasks, .. } = &self.0.tools;
        let lapsed = store.lapse_all(clock.now()).await?;
        if lapsed > 0 {
            tracing::info!(parts = lapsed, "an earlier process left parts under way; they are sent again");
        }
        store.pass(CrashPoint::LeasesLapsed);
        store.try_gates_again(clock.now()).await?;
        self.load_gates().await?;
        tasks.spawn(self.clone().take_handed(handed));
        tasks.spawn(self.clone().poll(Lane::Small));
        tasks.spawn(self.clone().poll(Lane::Large));
        tasks.spawn(self.clone().renew_leases());
        tasks.spawn(self.clone().show_totals());
        Ok(())
    }

    /// Works through what submission hands over. Every lease is held, and so
    /// renewed, from the moment its part arrives, however long it waits for a place.
    async fn take_handed(self, mut handed: mpsc::UnboundedReceiver<Handed>) {
        let Tools { stop, tasks, .. } = &self.0.tools;
        let next_place = || Arc::clone(&self.0.places).acquire_owned();
        let mut waiting = VecDeque::new();
        let mut place = Box::pin(next_place());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = handed.recv() => {
                    let Some(handed) = next else { break };
                    let lease = self.0.leases.hold(&handed.part);
                    waiting.push_back((handed, lease));
                }
                place_or_closed = &mut place, if !waiting.is_empty() => {
                    place.set(next_place());
                    if let Some((handed, lease)) = waiting.pop_front() {
                        self.spawn(handed, lease, place_or_closed.ok());
                    }
                }
            }
        }
        // What nobody has begun to send goes back into the queue.
        handed.close();
        while let Ok(handed) = handed.try_recv() {
            let lease = self.0.leases.hold(&handed.part);
            waiting.push_back((handed, lease));
        }
        for (handed, lease) in waiting {
            let delivery = self.clone();
            tasks.spawn(async move {
                delivery.give_back(&handed.part).await;
                drop((handed.room, lease));
            });
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.places).acquire_owned().await.ok()
    }

    fn spawn(&self, handed: Handed, lease: Lease, place: Option<OwnedSemaphorePermit>) {
        let delivery = self.clone();
        self.0.tools.tasks.spawn(async move {
            delivery.deliver(handed.part, &lease, Pass::Ordinary(place)).await;
            drop(handed.room);
        });
    }

    /// Works through what the database says is due in a lane.
    async fn poll(self, lane: Lane) {
        let stop = self.0.tools.stop.clone();
        loop {
            let (is_more, wait) = match self.poll_once(lane).await {
                Ok(found) => (found, POLL),
                Err(error) => {
                    tracing::error!(%error, "the queue could not be read");
                    (false, STORE_WAIT)
                }
            };
            if is_more && !stop.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes one page of what is due; whether there may be more. The lane that never
    /// waits long looks for leases that ran out, and for gates that are worth a try.
    async fn poll_once(&self, lane: Lane) -> Result<bool, StoreError> {
        if lane == Lane::Small {
            self.lapse_expired().await?;
        }
        let (open, probing) = self.0.gates.passable(self.0.tools.clock.now());
        let page = match lane {
            Lane::Small => PAGE,
            Lane::Large => LARGE_PAGE,
        };
        let due = if open.is_empty() { Vec::new() } else { self.due(lane, &open, page).await? };
        let is_more = u32::try_from(due.len()).is_ok_and(|len| len == page);
        for part in due {
            if self.0.tools.stop.is_cancelled() {
                return Ok(false);
            }
            self.take_due(lane, &part).await?;
        }
        for road in probing.into_iter().filter(|_| lane == Lane::Small) {
            if self.0.gates.begin_probe(road) {
                let delivery = self.clone();
                self.0.tools.tasks.spawn(async move { delivery.probe(road).await });
            }
        }
        Ok(is_more)
    }

    async fn lapse_expired(&self) -> Result<(), StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let lapsed = store.lapse_expired(&self.0.leases.keys(), clock.now()).await?;
        if lapsed > 0 {
            tracing::warn!(parts = lapsed, "leases lapsed; their parts are sent again");
        }
        Ok(())
    }

    async fn due(&self, lane: Lane, roads: &[Road], limit: u32) -> Result<Vec<DuePart>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        match lane {
            Lane::Small => store.due(clock.now(), roads, limit).await,
            Lane::Large => store.due_large(clock.now(), roads, limit).await,
        }
    }

    async fn take_due(&self, lane: Lane, due: &DuePart) -> Result<(), StoreError> {
        let Tools { handover, stop, .. } = &self.0.tools;
        // Whoever has a place never waits for room, so that neither can wait for the other for ever.
        let waited = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            waited = async { (handover.room(lane, due.size).await, self.place().await) } => waited,
        };
        let (Some(room), place) = waited else { return Ok(()) };
        if let Some((part, lease)) = self.lease(due).await? {
            self.spawn(Handed { part, room }, lease, place);
        }
        Ok(())
    }

    /// Leases one part. What cannot be read is set aside: the parts behind it go on.
    async fn lease(&self, due: &DuePart) -> Result<Option<(LeasedPart, Lease)>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let until = now.checked_add(self.0.settings.lease).unwrap_or(now);
        match store.lease(due, now, until).await {
            Ok(part) => Ok(part.map(|part| {
                store.pass(CrashPoint::PartLeased);
                let lease = self.0.leases.hold(&part);
                (part, lease)
            })),
            Err(StoreError::Corrupt(reason)) => {
                tracing::error!(message_id = %due.message_id, part_no = due.part_no, reason, "a part cannot be read; it is held");
                store.set_aside(due, &reason).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends one part through a closed gate, to see.
    async fn probe(self, road: Road) {
        let was_tried = self.try_probe(road).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the queue could not be read");
            false
        });
        self.end_probe(road, was_tried).await;
    }

    async fn try_probe(&self, road: Road) -> Result<bool, StoreError> {
        let small = self.due(Lane::Small, &[road], 1).await?.pop();
        let due = match small {
            Some(due) => Some(due),
            None => self.due(Lane::Large, &[road], 1).await?.pop(),
        };
        let Some(due) = due else { return Ok(false) };
        let Some((part, lease)) = self.lease(&due).await? else { return Ok(false) };
        self.deliver(part, &lease, Pass::Probe).await;
        Ok(true)
    }

    /// Keeps the gauges of the queue and of its credits true.
    async fn show_totals(self) {
        let Tools { store, metrics, stop, .. } = &self.0.tools;
        let gauge = |count: i64| u64::try_from(count).unwrap_or(0);
        loop {
            match store.totals().await {
                Ok(totals) => {
                    metrics.set_parts(gauge(totals.parts_queued), gauge(totals.parts_held));
                    metrics.set_credits(gauge(totals.held), gauge(totals.owed));
                }
                Err(error) => tracing::error!(%error, "the queue could not be counted"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TOTALS) => {}
            }
        }
    }

    async fn renew_leases(self) {
        let Tools { store, clock, stop, .. } = &self.0.tools;
        let lease = self.0.settings.lease;
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.renew_until_idle().await,
                () = tokio::time::sleep(lease / 3) => {}
            }
            self.0.leases.renew(store, clock, lease).await;
        }
    }

    /// After the soft stop: while attempts finish, their leases are still ours.
    async fn renew_until_idle(&self) {
        let Tools { store, clock, .. } = &self.0.tools;
        while !self.0.leases.is_empty() {
            self.0.leases.renew(store, clock, self.0.settings.lease).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
