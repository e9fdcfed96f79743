//! Delivery: parts leave, and what became of them is written down.
//!
//! Two sources feed the workers: the handover (what was just accepted, in memory)
//! and the pollers (`due`: what the database says is due). All take a place among a
//! bounded number of attempts. Large parts have a poller of their own, and half of
//! the room and of the places at most: however slowly they leave, small mail does not
//! wait for them. So have parts that leave alone, and those that may leave together. Parts that may leave together gather (`gather`, `waiting`) and make one
//! attempt (`together`); the others make theirs alone (`worker`). Every part in our hands
//! is leased; one task renews all leases together. This room must not know SMTP
//! submission, HTTP, Dodo.

mod apart;
pub mod bounce;
mod composing;
mod due;
pub mod gates;
mod gather;
mod headroom;
mod leases;
pub(crate) mod news;
#[cfg(test)]
mod tests;
mod together;
pub mod told;
mod waiting;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::billing::Billing;
use crate::clock::Clock;
use crate::config::Config;
use crate::crash::CrashPoint;
use crate::domain::reputation::Thresholds;
use crate::domain::retry::RetrySchedule;
use crate::handover::{Handed, Handover};
use crate::mime::address_list::NamedMailbox;
use crate::routing::Routing;
use crate::store::queue::LeasedPart;
use crate::store::wake::Wake;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::Upstreams;
use bounce::Postmaster;
use gates::Gates;
use gather::Gathering;
use headroom::Headroom;
use leases::{Lease, Leases};
use worker::Pass;

/// How often the database is asked for what is due, at most unless there is more …
const POLL: Duration = Duration::from_millis(500);
/// … and at least where nothing is due and everybody who could change that would tell.
const IDLE: Duration = Duration::from_secs(5);
/// How often it is asked then whose leases ran out, at least.
const LAPSE: Duration = Duration::from_secs(2);
/// How often it is asked which gates other processes have opened or closed.
const GATES: Duration = Duration::from_secs(5);
/// How often the queue is counted for the metrics.
const TOTALS: Duration = Duration::from_secs(10);
/// And so many times as long as that took goes by before it is counted again: a queue of millions
/// is not counted all the time.
const BETWEEN: u32 = 100;
/// Small parts asked for at once: as many as leave together.
const PAGE: u32 = 100;
/// Parts that are read from the database before there is a call for them: those of the
/// next ten.
const READ_AHEAD: usize = 1_000;
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
    /// Where a customer is paused.
    pub thresholds: Thresholds,
}

impl Settings {
    /// When a lease ends that begins now.
    fn leased_until(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.lease).unwrap_or(now)
    }

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
                success_reports: config.success_reports(),
                tells_pauses: config.notices.bounced,
                account_url: String::new(),
            },
            thresholds: config.reputation,
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
    gathering: Gathering,
    headroom: Headroom,
    places: Arc<Semaphore>,
    /// Places of those who were read ahead.
    ahead: Arc<Semaphore>,
}

impl Delivery {
    /// The delivery room; nothing runs until [`Delivery::start`].
    pub fn new(tools: Tools, settings: Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_concurrency));
        let (gates, headroom) = (Gates::default(), Headroom::default());
        let leases = Leases::new(tools.store.is_shared());
        let gathering = Gathering::new((settings.max_concurrency / 2).max(1));
        let ahead = Arc::new(Semaphore::new(READ_AHEAD));
        Self(Arc::new(Inner { tools, settings, gates, leases, gathering, headroom, places, ahead }))
    }

    /// Takes back what an earlier process left behind, and starts to deliver.
    pub async fn start(&self, handed: mpsc::UnboundedReceiver<Handed>) -> Result<(), StoreError> {
        let Tools { store, clock, tasks, .. } = &self.0.tools;
        let lapsed = store.lapse_all(clock.now()).await?;
        if lapsed > 0 {
            tracing::info!(parts = lapsed, "an earlier process left parts under way; they are sent again");
        }
        store.pass(CrashPoint::LeasesLapsed);
        // Another process may be opening one; if not, it is tried in its time.
        if let Err(error) = store.try_gates_again(clock.now()).await {
            tracing::warn!(%error, "closed gates are not tried at once");
        }
        self.load_gates().await?;
        tasks.spawn(self.clone().take_handed(handed));
        tasks.spawn(self.clone().gather_calls());
        self.start_polling();
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
                    let lease = self.hold_handed(&handed.part);
                    if self.gathers(&handed.part) {
                        self.gather_handed(handed, lease);
                    } else {
                        waiting.push_back((handed, lease));
                    }
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
            let lease = self.hold_handed(&handed.part);
            waiting.push_back((handed, lease));
        }
        let mut giving = JoinSet::new();
        for (handed, lease) in waiting {
            let delivery = self.clone();
            giving.spawn(tasks.track_future(async move {
                delivery.give_back(&handed.part).await;
                drop((handed.room, lease));
            }));
        }
        while giving.join_next().await.is_some() {}
        // Nor does anybody here take up what waits in the database.
        self.0.tools.store.tell(Wake::Parts).await;
    }

    /// Holds the lease of a part that was handed over. It was leased as it was accepted, or
    /// later; how much later is asked for when it has to be known.
    fn hold_handed(&self, part: &LeasedPart) -> Lease {
        self.0.leases.hold(part, self.0.settings.leased_until(part.accepted_at), self.0.tools.clock.now())
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

    /// Keeps the gauges of the queue and of its credits true.
    async fn show_totals(self) {
        let Tools { store, metrics, stop, .. } = &self.0.tools;
        let gauge = |count: i64| u64::try_from(count).unwrap_or(0);
        loop {
            let began = Instant::now();
            match store.totals().await {
                Ok(totals) => {
                    metrics.set_parts(gauge(totals.parts_queued), gauge(totals.parts_held));
                    metrics.set_credits(gauge(totals.held), gauge(totals.owed));
                }
                Err(error) => error.tell("the queue could not be counted"),
            }
            let wait = TOTALS.max(began.elapsed() * BETWEEN);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
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
                () = self.0.leases.asked() => {}
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
