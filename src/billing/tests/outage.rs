//! Dodo away for an hour (P8).

use std::sync::Arc;

use super::simulated::Simulation;
use super::*;

fn answers(services: &StandIns) -> u64 {
    services.dodo.calls()
}

/// What became of a customer's messages, one a minute.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Hour {
    sent: u64,
    out_of_credit: u64,
    unknown: u64,
}

async fn live_through(bench: Arc<Bench>, customer_id: CustomerId, delay: Duration, hour: Arc<Mutex<Hour>>) {
    tokio::time::sleep(delay).await;
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    for _ in 0..60 {
        minute.tick().await;
        let asked = bench.ask_for(&customer_id).await;
        let is_sent = asked.is_ok() && bench.try_send(&customer_id, 1).await;
        {
            let mut hour = hour.lock().unwrap();
            match asked {
                Ok(()) if is_sent => hour.sent += 1,
                Ok(()) | Err(Refusal::OutOfCredit { .. }) => hour.out_of_credit += 1,
                Err(Refusal::BillingUnknown) => hour.unknown += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn p8_an_hour_without_dodo_costs_nobody_a_mail_and_nobody_a_credit_too_many() {
    let mut simulation = Simulation::new(Duration::from_secs(1)).await;
    let bench = Arc::clone(&simulation.bench);
    let credits = [("ben", 3), ("cleo", 20), ("dan", 45), ("eve", 100), ("stranger", 50)];
    let mut hours = Vec::new();
    for (index, (name, credits)) in (1..).zip(credits) {
        let customer_id = bench.add(name, credits).await;
        if name != "stranger" {
            bench.ask_for(&customer_id).await.unwrap();
        }
        hours.push((customer_id, Duration::from_secs(7 * index), Arc::new(Mutex::new(Hour::default()))));
    }
    bench.billing.start();
    bench.fault(Fault::new(Misbehaviour::DropBefore).always());
    for (customer_id, delay, hour) in hours.clone() {
        simulation.customers.spawn(live_through(Arc::clone(&bench), customer_id, delay, hour));
    }
    // What an operator sees in the middle of it.
    while simulation.now() < Duration::from_secs(1_800) {
        simulation.tick().await;
    }
    assert!(!bench.billing.0.tools.metrics.is_dodo_up(), "as readyz says");
    assert_eq!(simulation.metric("postmeter_dodo_up"), 0);
    let age = simulation.metric("postmeter_oldest_capture_age_seconds");
    assert!((1_780..=1_800).contains(&age), "{age}");
    let sent: u64 = hours.iter().map(|(_, _, hour)| hour.lock().unwrap().sent).sum();
    assert_eq!(u64::try_from(bench.store.totals().await.unwrap().owed).unwrap(), sent);
    simulation.until("the hour ends", Duration::from_secs(1_900), |s| s.customers.is_empty()).await;

    let hours: Vec<_> = hours.iter().map(|(_, _, hour)| *hour.lock().unwrap()).collect();
    let known = |sent| Hour { sent, out_of_credit: 60 - sent, unknown: 0 };
    let stranger = Hour { sent: 0, out_of_credit: 0, unknown: 60 };
    assert_eq!(hours, [known(3), known(20), known(45), known(60), stranger], "to the last credit, exactly");
    for (name, _) in credits {
        assert_eq!(bench.services.dodo.debited(name), 0);
    }
    // Both loops went on trying, ever more seldom.
    for (call, tries) in [("post_entry", 120..400), ("read_balance", 30..400)] {
        let series = format!("postmeter_dodo_calls_total{{call=\"{call}\",result=\"unanswered\"}}");
        let tried = simulation.metric(&series);
        assert!(tries.contains(&tried), "{call}: {tried}");
    }
    assert_eq!(bench.store.audit().await.unwrap(), []);

    bench.services.dodo.faults().clear();
    let began = bench.services.dodo.calls();
    let debts = [("ben", 3), ("cleo", 20), ("dan", 45), ("eve", 60), ("stranger", 0)];
    let is_paid =
        |_: &Simulation| debts.iter().all(|(name, sent)| bench.services.dodo.debited(name) == *sent);
    simulation.until("everything is paid", Duration::from_secs(60), is_paid).await;
    simulation.tick().await;
    assert!(bench.services.dodo.calls() - began < 30, "what gathered goes in few calls");
    assert!(bench.billing.0.tools.metrics.is_dodo_up());
    assert_eq!(simulation.metric("postmeter_dodo_up"), 1);
    assert_eq!(bench.store.totals().await.unwrap().owed, 0);
    assert_eq!(bench.ask_for(&CustomerId::parse("stranger").unwrap()).await, Ok(()));
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn p8_many_debts_wait_quietly_and_are_all_paid_soon_after() {
    let bench = Bench::new(5).await;
    let mut everybody = vec![bench.ann.clone()];
    for number in 0..40 {
        everybody.push(bench.add(&format!("cus_{number}"), 5).await);
    }
    for customer_id in &everybody {
        bench.ask_for(customer_id).await.unwrap();
    }
    bench.fault(Fault::new(Reply::status(503)).always());
    bench.billing.start();
    for customer_id in &everybody {
        assert!(bench.try_send(customer_id, 1).await && bench.try_send(customer_id, 1).await);
    }
    let budget = &bench.billing.0.budget;
    bench.until("Dodo is known to be away", |_| budget.is_away()).await;
    let open = bench.store.totals().await.unwrap().entries_open;
    assert!(open < 41, "{open} entries are in doubt; the others wait where they are");
    let began = Instant::now();
    while bench.store.open_entries().await.unwrap().iter().any(|entry| entry.unknown_tries == 0) {
        assert!(began.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    let (quiet, before) = (Instant::now(), answers(&bench.services));
    bench.until("three more calls", |_| answers(&bench.services) >= before + 3).await;
    assert!(quiet.elapsed() >= Duration::from_secs(1), "{:?}", quiet.elapsed());

    bench.services.dodo.faults().clear();
    let began = Instant::now();
    while bench.store.totals().await.unwrap().owed > 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for customer_id in &everybody {
        assert_eq!(bench.services.dodo.debited(customer_id.as_str()), 2, "{customer_id}");
    }
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_customer_for_whom_dodo_always_fails_keeps_nobody_else_waiting() {
    let bench = Bench::new(5).await;
    let ben = bench.add("ben", 5).await;
    bench.ask().await.unwrap();
    bench.ask_for(&ben).await.unwrap();
    bench.fault(Fault::new(Reply::status(500)).on("POST", "/ben/ledger-entries").always());
    bench.billing.start();
    assert!(bench.try_send(&ben, 1).await);
    let budget = &bench.billing.0.budget;
    bench.until("it failed often", |_| budget.is_away()).await;
    bench.services.dodo.grant("ann", 1, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.send().await;
    bench.until_settled(5).await;
    assert_eq!(bench.account_of(&ben).await.owed, Credits::ONE);
}
