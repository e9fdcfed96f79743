//! Settlement under Dodo's limits: the settler itself, in simulated time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::simulated::Simulation;
use super::*;

/// How long Dodo takes for a call.
const LATENCY: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_secs(60);
/// Within this everything is settled.
const PROMISE: Duration = Duration::from_secs(180);
/// What a new account may call: in a second, in a minute.
const LIMITS: (u32, u32) = (40, 240);

/// How much is sent in the first minute.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Messages of one customer.
    bulk: u64,
    /// So many others send so many each.
    others: u64,
    each: u64,
}

impl Load {
    const fn messages(self) -> u64 {
        self.bulk + self.others * self.each
    }
}

/// What each customer sent that Dodo has not debited yet, and how long the others waited.
#[derive(Default)]
struct Waits {
    waiting: BTreeMap<CustomerId, VecDeque<Duration>>,
    debited: BTreeMap<CustomerId, u64>,
    waited: BTreeMap<CustomerId, Vec<Duration>>,
}

impl Waits {
    fn look(&mut self, simulation: &Simulation) {
        for (customer_id, waiting) in &mut self.waiting {
            let debited = simulation.bench.services.dodo.debited(customer_id.as_str());
            let before = self.debited.insert(customer_id.clone(), debited).unwrap_or(0);
            let waited = self.waited.entry(customer_id.clone()).or_default();
            for _ in before..debited {
                waited.push(simulation.now() - waiting.pop_front().expect("debited and not sent"));
            }
        }
    }

    fn count(&self) -> usize {
        self.waited.values().map(Vec::len).sum()
    }

    /// The longest wait of each customer, the shortest of them first.
    fn longest(&self) -> Vec<Duration> {
        let mut longest: Vec<_> =
            self.waited.values().filter_map(|waits| waits.iter().max().copied()).collect();
        longest.sort();
        longest
    }
}

/// Sends so many messages in a minute, some of them each second. Nothing is known of
/// the customer at first: whoever is told "later" comes back.
async fn send_all(bench: Arc<Bench>, customer_id: CustomerId, messages: u64, sent: Sent) {
    let mut under_way = JoinSet::new();
    for second in 1..=60 {
        for _ in messages * (second - 1) / 60..messages * second / 60 {
            let (bench, customer_id, sent) = (Arc::clone(&bench), customer_id.clone(), Arc::clone(&sent));
            under_way.spawn(async move {
                while let Err(refusal) = bench.ask_for(&customer_id).await {
                    assert_eq!(refusal, Refusal::BillingUnknown);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let now = tokio::time::Instant::now();
                assert!(bench.try_send(&customer_id, 1).await);
                sent.lock().unwrap().push((customer_id, now));
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    under_way.join_all().await;
}

/// Who sent, and when.
type Sent = Arc<Mutex<Vec<(CustomerId, tokio::time::Instant)>>>;

/// Everybody sends, and everything is settled: how long each message waited for that.
async fn settled(load: Load) -> Waits {
    let mut simulation = Simulation::new(TICK).await;
    let bench = Arc::clone(&simulation.bench);
    bench.services.dodo.behave(|behaviour| (behaviour.per_second, behaviour.per_minute) = LIMITS);
    let latency = u64::try_from(LATENCY.as_millis()).unwrap();
    bench.fault(Fault::new(Misbehaviour::Late { delay_ms: latency }).always());
    let mut customers = vec![(bench.add("bulk", load.bulk + 7).await, load.bulk)];
    for number in 0..load.others {
        customers.push((bench.add(&format!("cus_{number}"), load.each + 7).await, load.each));
    }
    bench.billing.start();
    let sent = Sent::default();
    for (customer_id, messages) in customers.clone() {
        simulation.customers.spawn(send_all(Arc::clone(&bench), customer_id, messages, Arc::clone(&sent)));
    }
    let (mut waits, mut last) = (Waits::default(), Duration::ZERO);
    let began = tokio::time::Instant::now();
    let all = usize::try_from(load.messages()).unwrap();
    let took = simulation
        .until("everything is settled", MINUTE + PROMISE, |simulation| {
            for (customer_id, at) in sent.lock().unwrap().drain(..) {
                last = at - began;
                waits.waiting.entry(customer_id).or_default().push_back(last);
            }
            waits.look(simulation);
            waits.count() == all
        })
        .await;
    simulation.tick().await;
    for (customer_id, messages) in &customers {
        let account = bench.account_of(customer_id).await;
        let has = (account.balance, account.held, account.owed);
        assert_eq!(has, (Some(7), Credits::ZERO, Credits::ZERO), "{customer_id}");
        let dodo = &bench.services.dodo;
        let name = customer_id.as_str();
        assert_eq!((dodo.debited(name), dodo.balance(name)), (*messages, Some(7)), "{customer_id}");
    }
    assert_eq!(bench.store.audit().await.unwrap(), []);
    for call in ["post_entry", "read_balance", "list_balances"] {
        let series = format!("postmeter_dodo_calls_total{{call=\"{call}\",result=\"rate_limited\"}}");
        assert_eq!(simulation.metric(&series), 0, "Dodo's limits are kept");
    }
    let entries = simulation.metric("postmeter_entries_total{kind=\"debit\",result=\"settled\"}");
    let longest = waits.longest();
    println!(
        "{} messages of {} customers under {} calls a minute: sent in {last:.1?}, settled after {took:.1?}, in \
         {entries} entries and {} calls; the customers' longest waits are from {:.1?} to {:.1?}",
        load.messages(),
        load.others + 1,
        LIMITS.1,
        bench.services.dodo.calls(),
        longest[0],
        longest[longest.len() - 1],
    );
    waits
}

#[tokio::test]
async fn p3_ten_thousand_messages_of_one_and_a_thousand_of_two_hundred_are_settled_in_three_minutes() {
    let load = Load { bulk: 10_000, others: 200, each: 5 };
    let longest = settled(load).await.longest();
    let (last, most) = (longest.len() - 1, longest[longest.len() - 1]);
    assert_eq!(u64::try_from(last).unwrap(), load.others);
    assert!(most < PROMISE, "{most:?}");
    // Twice round all customers at the pace of the limit, since balances are read too.
    let round = MINUTE * u32::try_from(longest.len()).unwrap() / LIMITS.1;
    assert!(most < 2 * round, "fair: {longest:?}");
}

#[tokio::test]
async fn p3_ten_thousand_messages_of_one_customer_do_not_keep_the_others_waiting() {
    let load = Load { bulk: 10_000, others: 20, each: 60 };
    let longest = settled(load).await.longest();
    let (least, most) = (longest[0], longest[longest.len() - 1]);
    assert!(most < Duration::from_secs(15), "{most:?}");
    assert!(most - least < Duration::from_secs(5), "from {least:?} to {most:?}");
}
