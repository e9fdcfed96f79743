//! Credits that were gone when they should have been debited.

use super::*;

#[tokio::test]
async fn a_debt_is_paid_as_far_as_whole_captures_fit_and_the_next_top_up_pays_the_rest_first() {
    let bench = Bench::new(5).await;
    bench.ask().await.unwrap();
    for recipients in [2, 2, 1] {
        assert!(bench.try_send(&bench.ann, recipients).await);
    }
    bench.services.dodo.expire_credits("ann").unwrap();
    bench.services.dodo.grant("ann", 3, None).unwrap();
    bench.billing.start();
    bench.until("what fits is paid", |a| a.balance == Some(1) && a.owed.get() == 3).await;
    let refused = bench.ask().await;
    let shortfall = Credits::new(2).unwrap();
    assert_eq!(refused, Err(bench.billing.out_of_credit(shortfall)));
    assert!(!bench.try_send(&bench.ann, 1).await);
    assert_eq!(bench.store.debts().await.unwrap().uncovered, 2);
    bench.services.dodo.grant("ann", 10, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until_settled(8).await;
    assert_eq!(bench.debits(), [5, 2, 3], "what expired, what fitted, and the rest of the debt");
    assert_eq!(bench.ask().await, Ok(()));
    assert_eq!(bench.store.debts().await.unwrap(), crate::store::entry::Debts::default());
}

#[tokio::test]
async fn credits_that_expire_by_themselves_between_hold_and_settlement_leave_a_debt() {
    let bench = Bench::new(0).await;
    let soon = bench.clock.now().checked_add(jiff::SignedDuration::from_secs(60)).unwrap();
    bench.services.dodo.grant("ann", 4, Some(soon)).unwrap();
    bench.ask().await.unwrap();
    bench.send().await;
    bench.send().await;
    bench.clock.advance(Duration::from_secs(61));
    bench.billing.start();
    bench.until("it is noticed", |a| a.balance == Some(0) && a.owed.get() == 2).await;
    assert_eq!(bench.ask().await, Err(bench.billing.out_of_credit(Credits::new(2).unwrap())));
    // A top-up that does not pay it all.
    bench.services.dodo.grant("ann", 1, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until("one is paid", |a| a.owed == Credits::ONE && a.balance == Some(0)).await;
    assert_eq!(bench.ask().await, Err(bench.billing.out_of_credit(Credits::ONE)));
    bench.services.dodo.grant("ann", 1, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until_settled(0).await;
    assert_eq!(
        bench.ask().await,
        Err(bench.billing.out_of_credit(Credits::ZERO)),
        "nothing is owed any more"
    );
}

#[tokio::test]
async fn an_entry_that_is_refused_for_no_reason_that_news_would_mend_is_tried_seldom() {
    let bench = Bench::new(5).await;
    bench.ask().await.unwrap();
    bench.fault(Fault::new(Reply::status(400)).on("POST", ENTRIES).always());
    bench.billing.start();
    bench.send().await;
    let faults = bench.services.dodo.faults().clone();
    bench.until("it was refused", |_| faults.struck() == 1).await;
    bench.until("and given up", |account| account.version >= 3).await;
    bench.send().await;
    assert_eq!(bench.store.owing(&[], 9).await.unwrap(), std::slice::from_ref(&bench.ann));
    bench.services.dodo.faults().clear();
    bench.services.dodo.grant("ann", 1, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until_settled(4).await;
    assert_eq!((faults.struck(), bench.debits()), (1, vec![2]));
}
