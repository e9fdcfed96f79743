//! Billing as it runs, in simulated time. Its loops wait by tokio's clock: here that
//! one stands still while anything is being done, and is moved on tick by tick, the
//! time of day with it. The database, the client and the way to the stand-in are the
//! real ones, and take no simulated time.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::task::JoinSet;

use super::*;

/// So often nothing has happened between two looks, and nothing will until time passes.
const CALM: u32 = 3;

pub(super) struct Simulation {
    pub(super) bench: Arc<Bench>,
    /// What the customers do.
    pub(super) customers: JoinSet<()>,
    tick: Duration,
    began: tokio::time::Instant,
    _still: mpsc::Sender<()>,
}

impl Simulation {
    pub(super) async fn new(tick: Duration) -> Self {
        // While a blocking task runs, a stopped clock stands: without one it jumps
        // to the next timer whenever only the database or a socket is waited for.
        let (still, ended) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        tokio::time::pause();
        let bench = Arc::new(Bench::new(0).await);
        let (customers, began) = (JoinSet::new(), tokio::time::Instant::now());
        Self { bench, customers, tick, began, _still: still }
    }

    /// How much time has passed.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One tick: time passes, and then everything happens that can.
    pub(super) async fn tick(&mut self) {
        self.bench.clock.advance(self.tick);
        tokio::time::advance(self.tick).await;
        let (mut before, mut calm) = (None, 0);
        while calm < CALM {
            let now = Some(self.seen().await);
            calm = if now == before { calm + 1 } else { 0 };
            before = now;
        }
        while let Some(ended) = self.customers.try_join_next() {
            ended.unwrap();
        }
    }

    /// Ticks until it is so; how long that was.
    pub(super) async fn until(
        &mut self,
        what: &str,
        at_most: Duration,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let began = self.now();
        while !is_so(self) {
            assert!(self.now() - began < at_most, "{what} within {at_most:?}");
            self.tick().await;
        }
        self.now() - began
    }

    /// What there is to see of what is being done. Waiting for it is what gives
    /// everybody else their turn, at the database as well.
    async fn seen(&self) -> (u64, Vec<(EntryId, u32)>) {
        let Bench { store, services, .. } = &*self.bench;
        store.ping().await.unwrap();
        let open = store.open_entries().await.unwrap();
        (services.dodo.calls(), open.into_iter().map(|entry| (entry.entry_id, entry.tries)).collect())
    }

    /// A metric's value; 0 if there is none.
    pub(super) fn metric(&self, series: &str) -> u64 {
        let page = self.bench.billing.0.tools.metrics.encode();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

#[tokio::test]
async fn strangers_who_fill_several_pages_are_asked_for_together() {
    let mut simulation = Simulation::new(Duration::from_millis(50)).await;
    let bench = Arc::clone(&simulation.bench);
    bench.services.dodo.behave(|behaviour| (behaviour.per_second, behaviour.per_minute) = (40, 240));
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: 250 }).always());
    for number in 0..250 {
        let stranger = bench.add(&format!("cus_{number}"), 3).await;
        let bench = Arc::clone(&bench);
        simulation.customers.spawn(async move {
            while let Err(refusal) = bench.ask_for(&stranger).await {
                assert_eq!(refusal, Refusal::BillingUnknown);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let at_most = Duration::from_secs(10);
    simulation.until("everybody is known", at_most, |simulation| simulation.customers.is_empty()).await;
    assert!(bench.services.dodo.calls() < 40, "{}", bench.services.dodo.calls());
}
