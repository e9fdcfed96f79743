//! Dodo away for an hour (P8).

use super::*;

fn answers(services: &StandIns) -> u64 {
    services.dodo.calls()
}

#[tokio::test]
async fn p8_an_hour_without_dodo_costs_nobody_a_mail_and_nobody_a_credit_too_many() {
    let bench = Bench::new(20).await;
    let ben = bench.add("ben", 3).await;
    let stranger = bench.add("stranger", 50).await;
    bench.ask().await.unwrap();
    bench.ask_for(&ben).await.unwrap();
    bench.fault(Fault::new(Misbehaviour::DropBefore).always());
    bench.billing.start();
    let (mut sent, mut refused) = ([0_u64; 2], [0_u64; 2]);
    for _minute in 0..60 {
        bench.clock.advance(Duration::from_secs(60));
        for (index, customer_id) in [&bench.ann, &ben].into_iter().enumerate() {
            match bench.ask_for(customer_id).await {
                Ok(()) if bench.try_send(customer_id, 1).await => sent[index] += 1,
                Ok(()) | Err(Refusal::OutOfCredit { .. }) => refused[index] += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((sent, refused), ([20, 3], [40, 57]), "to the last credit, exactly");
    assert_eq!(bench.ask_for(&stranger).await, Err(Refusal::BillingUnknown));
    assert!(!bench.billing.0.tools.metrics.is_dodo_up());
    assert_eq!(bench.debits(), [0; 0]);
    let debts = bench.store.debts().await.unwrap();
    let waited = bench.clock.now().as_millisecond() - debts.oldest_capture_at.unwrap();
    assert_eq!((waited / 60_000, debts.uncovered), (59, 0));

    bench.services.dodo.faults().clear();
    let began = answers(&bench.services);
    bench.until_settled(0).await;
    while bench.account_of(&ben).await.owed > Credits::ZERO {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bench.billing.0.tools.metrics.is_dodo_up());
    assert_eq!(bench.debits().iter().sum::<u64>(), 20);
    assert_eq!((bench.services.dodo.debited("ben"), bench.services.dodo.balance("ben")), (3, Some(0)));
    assert!(answers(&bench.services) - began < 20, "what gathered goes in few calls");
    assert_eq!(bench.ask_for(&stranger).await, Ok(()));
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
