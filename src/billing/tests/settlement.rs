//! Settlement under Dodo's limits: the real store and the real budget in simulated time.

use std::collections::BTreeMap;

use super::super::budget::Buckets;
use super::*;
use crate::outbound::RateInfo;
use crate::store::entry::{Entry, Settled};

/// How long Dodo takes for a call.
const LATENCY: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_secs(60);

/// Dodo's side of the limits: 40 a second and 240 a minute, in fixed windows.
#[derive(Debug)]
struct Limits {
    second: (Duration, u32),
    minute: (Duration, u32),
    refused: u32,
}

impl Limits {
    fn take(&mut self, now: Duration) -> RateInfo {
        for ((began, used), length) in
            [(&mut self.second, Duration::from_secs(1)), (&mut self.minute, MINUTE)]
        {
            if now >= *began + length {
                (*began, *used) = (now, 0);
            }
            *used += 1;
        }
        self.refused += u32::from(self.second.1 > 40 || self.minute.1 > 240);
        let left = (self.minute.0 + MINUTE).saturating_sub(now).as_secs() + 1;
        RateInfo {
            limit: Some(240),
            remaining: Some(240_u32.saturating_sub(self.minute.1)),
            reset: Some(left),
            retry_after: None,
        }
    }
}

/// The settler's round, with the time as an argument.
struct World {
    bench: Bench,
    buckets: Buckets,
    start: Instant,
    now: Duration,
    limits: Limits,
    under_way: BTreeMap<Duration, Vec<Entry>>,
    /// Credits at Dodo, and each customer's longest wait.
    balances: BTreeMap<CustomerId, i64>,
    oldest: BTreeMap<CustomerId, Duration>,
    longest: BTreeMap<CustomerId, Duration>,
    calls: u32,
}

impl World {
    async fn new(customers: &[(&str, u64)]) -> Self {
        let bench = Bench::new(0).await;
        let mut balances = BTreeMap::new();
        for (name, credits) in customers {
            let customer_id = bench.add(name, *credits).await;
            let read = bench.store.begin_balance_read(&customer_id).await.unwrap().unwrap();
            let credits = i64::try_from(*credits).unwrap();
            bench.store.apply_balance(&read, credits, bench.clock.now()).await.unwrap();
            balances.insert(customer_id, credits);
        }
        let start = Instant::now();
        let limits = Limits { second: Default::default(), minute: Default::default(), refused: 0 };
        Self {
            bench,
            buckets: Buckets::new(start),
            start,
            now: Duration::ZERO,
            limits,
            under_way: BTreeMap::new(),
            balances,
            oldest: BTreeMap::new(),
            longest: BTreeMap::new(),
            calls: 0,
        }
    }

    async fn send(&mut self, customer_id: &CustomerId, messages: u64) {
        // One capture of many credits stands for as many messages.
        assert!(self.bench.try_send(customer_id, messages).await);
        self.oldest.entry(customer_id.clone()).or_insert(self.now);
    }

    /// One tick: answers arrive, then entries are opened while the budget has calls.
    async fn tick(&mut self) {
        self.now += TICK;
        self.bench.clock.advance(TICK);
        let later = self.under_way.split_off(&(self.now + Duration::from_millis(1)));
        for entry in std::mem::replace(&mut self.under_way, later).into_values().flatten() {
            let balance_after = self.balances[&entry.customer_id];
            let now = self.bench.clock.now();
            self.bench.store.settle_entry(&entry, Settled::Now { balance_after }, now).await.unwrap();
        }
        loop {
            let owing = self.bench.store.owing(&[], 1).await.unwrap();
            let Some(customer_id) = owing.first() else { return };
            let now = self.start + self.now;
            if self.buckets.try_take(Purpose::Entry, now).is_some() {
                return;
            }
            let entry = self.bench.billing.open(customer_id).await.unwrap().unwrap();
            self.calls += 1;
            let rate = self.limits.take(self.now);
            self.buckets.learn(&rate, false, now);
            *self.balances.get_mut(customer_id).unwrap() -= entry.amount.to_i64();
            // What it covers is settled when it is answered.
            let waited = self.now + LATENCY - self.oldest.remove(customer_id).unwrap();
            let longest = self.longest.entry(customer_id.clone()).or_default();
            *longest = waited.max(*longest);
            self.under_way.entry(self.now + LATENCY).or_default().push(entry);
        }
    }

    async fn until_settled(&mut self) -> Duration {
        while self.bench.store.totals().await.unwrap().owed > 0 {
            self.tick().await;
            assert!(self.now < 10 * MINUTE);
        }
        assert_eq!(self.limits.refused, 0, "Dodo's limits are kept");
        assert_eq!(self.bench.store.audit().await.unwrap(), []);
        self.now
    }
}

#[tokio::test]
async fn p3_two_hundred_customers_are_settled_in_three_minutes_and_no_one_much_later_than_another() {
    let names: Vec<String> = (0..200).map(|number| format!("cus_{number}")).collect();
    let customers: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let mut world = World::new(&customers).await;
    // Five messages each within ten seconds.
    for _ in 0..5 {
        for name in &names {
            world.send(&CustomerId::parse(name).unwrap(), 1).await;
        }
        for _ in 0..40 {
            world.tick().await;
        }
    }
    let took = world.until_settled().await;
    assert!(took < 3 * MINUTE, "{took:?}");
    assert_eq!(world.longest.len(), 200);
    let longest = world.longest.values().max().unwrap();
    assert!(*longest < 2 * MINUTE, "{longest:?}");
    assert!(world.balances.values().all(|balance| *balance == 5), "{:?}", world.balances);
}

#[tokio::test]
async fn p3_ten_thousand_messages_of_one_customer_do_not_keep_the_others_waiting() {
    let names: Vec<String> = (0..20).map(|number| format!("cus_{number}")).collect();
    let mut customers: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 60)).collect();
    customers.push(("bulk", 10_000));
    let mut world = World::new(&customers).await;
    let bulk = CustomerId::parse("bulk").unwrap();
    // Ten thousand in a minute; each of the others sends one every second.
    for second in 0..60 {
        world.send(&bulk, if second < 50 { 167 } else { 165 }).await;
        for name in &names {
            world.send(&CustomerId::parse(name).unwrap(), 1).await;
        }
        for _ in 0..20 {
            world.tick().await;
        }
    }
    world.until_settled().await;
    assert_eq!(world.balances.values().sum::<i64>(), 0, "exactly what was sent");
    let waits: Vec<_> = world.longest.values().copied().collect();
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*most < Duration::from_secs(15), "{most:?}");
    assert!(*most - *least < Duration::from_secs(5), "from {least:?} to {most:?}");
    assert!(world.calls < 400, "{}", world.calls);
}
