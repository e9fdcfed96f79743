//! What bounced is given back: once, in the customer's one lane, and not for longer
//! than what was spent would have lasted.

use super::*;
use crate::billing::refund::ROUND;
use crate::domain::ids::EntryId;
use crate::sandbox::dodo::RepeatedKey;
use crate::store::entry::Settled;
use crate::submission::stand_in::bounced;

impl Bench {
    /// With refunds, and a balance that is known.
    async fn refunding(credits: u64) -> Self {
        let mut config = Config::default();
        config.billing.refund_bounced = true;
        let bench = Self::with(credits, sandbox::ENTITLEMENT_ID, config).await;
        if credits > 0 {
            bench.ask().await.unwrap();
        }
        bench
    }

    async fn bounce(&self, message_id: &MessageId) {
        self.bounce_of(&self.ann, message_id).await;
    }

    async fn bounce_of(&self, customer_id: &CustomerId, message_id: &MessageId) {
        let now = self.clock.now();
        let recipients = [Mailbox::parse("a0@y.example").unwrap()];
        let allowance = self.billing.refund_allowance(customer_id, now).await.unwrap();
        let whose = (message_id, customer_id);
        let refunds = bounced(&self.store, whose, &recipients, allowance.as_ref(), now).await.unwrap();
        self.billing.refunds_decided(&refunds);
    }

    /// A message that was sent and settled, of `balance + 1` credits.
    async fn settled(&self, balance: i64) -> MessageId {
        let message_id = self.send().await;
        self.until_settled(balance).await;
        message_id
    }

    /// Waits until the refund of a message stands so; why, if it says why.
    async fn until_refund(&self, message_id: &MessageId, state: &str) -> Option<String> {
        let began = Instant::now();
        loop {
            let refunds = self.store.message(message_id).await.unwrap().unwrap().refunds;
            if let Some(refund) = refunds.iter().find(|refund| refund.state == state) {
                assert_eq!(self.store.audit().await.unwrap(), []);
                return refund.reason.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{state}: {refunds:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn credits_given(&self) -> Vec<(u64, Option<String>)> {
        let lines = self.services.dodo.ledger("ann").into_iter();
        let refunds =
            lines.filter(|line| line.is_credit && line.description.as_deref() != Some("Credits granted"));
        refunds.map(|line| (line.amount, line.description)).collect()
    }

    fn metrics(&self) -> String {
        self.billing.0.tools.metrics.encode()
    }
}

#[tokio::test]
async fn p3_a_bounce_after_the_debit_is_credited_at_dodo_once() {
    let bench = Bench::refunding(10).await;
    bench.billing.start();
    let message_id = bench.settled(9).await;
    for _ in 0..3 {
        bench.bounce(&message_id).await;
    }
    bench.until_refund(&message_id, "credited").await;
    bench.until_settled(10).await;
    let given = bench.credits_given();
    assert_eq!(given.len(), 1, "{given:?}");
    assert!(given[0].1.as_deref().is_some_and(|text| text.contains(message_id.as_str())), "{given:?}");
    let page = bench.metrics();
    assert!(page.contains("refunds_total{result=\"credited\"} 1"), "{page}");
    assert!(page.contains("entries_total{kind=\"credit\",result=\"settled\"} 1"), "{page}");
}

#[tokio::test]
async fn p3_a_lost_answer_gives_back_once() {
    for repeated in [RepeatedKey::Conflict, RepeatedKey::FirstAnswer] {
        for fault in [Misbehaviour::DropAfter, Misbehaviour::DropBefore, Reply::status(500).into()] {
            let bench = Bench::refunding(10).await;
            bench.services.dodo.behave(|behaviour| behaviour.repeated_key = repeated);
            bench.billing.start();
            let message_id = bench.settled(9).await;
            bench.fault(Fault::new(fault).on("POST", ENTRIES).times(2));
            bench.bounce(&message_id).await;
            bench.until_refund(&message_id, "credited").await;
            bench.until_settled(10).await;
            assert_eq!(bench.credits_given().len(), 1);
        }
    }
}

#[tokio::test]
async fn p3_a_refund_gets_its_turn_however_much_is_sent() {
    let bench = Bench::refunding(1_000).await;
    bench.billing.start();
    let message_id = bench.settled(999).await;
    bench.bounce(&message_id).await;
    let mut sent = 0;
    while bench.credits_given().is_empty() {
        bench.send().await;
        sent += 1;
        assert!(sent < 900, "debits kept the lane");
    }
    bench.until_settled(1_000 - sent).await;
}

#[tokio::test]
async fn a_refund_lapses_no_later_than_what_was_spent() {
    let bench = Bench::refunding(0).await;
    let (soon, later) = (Duration::from_secs(3600), Duration::from_secs(7200));
    let at = |after: Duration| bench.clock.now().checked_add(after).unwrap();
    bench.services.dodo.grant("ann", 5, Some(at(soon))).unwrap();
    bench.services.dodo.grant("ann", 5, Some(at(later))).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.billing.start();
    bench.until("the balance is known", |account| account.balance == Some(10)).await;
    let message_id = bench.settled(9).await;
    bench.bounce(&message_id).await;
    bench.until_refund(&message_id, "credited").await;
    let grants: Vec<Option<i64>> = bench.grants_of_the_api().await;
    assert_eq!(grants.last(), Some(&Some(at(soon).as_second())));
}

impl Bench {
    /// When each grant lapses, oldest first.
    async fn grants_of_the_api(&self) -> Vec<Option<i64>> {
        let page = self.billing.0.tools.dodo.grants(&self.ann, 0).await.answer.unwrap();
        page.grants.iter().map(|grant| grant.expires_at.map(Timestamp::as_second)).collect()
    }
}

#[tokio::test]
async fn a_refund_of_credits_that_have_expired_since_is_not_posted() {
    let bench = Bench::refunding(0).await;
    let soon = bench.clock.now().checked_add(Duration::from_secs(3600)).unwrap();
    bench.services.dodo.grant("ann", 5, Some(soon)).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.billing.start();
    bench.until("the balance is known", |account| account.balance == Some(5)).await;
    let message_id = bench.settled(4).await;
    bench.clock.advance(Duration::from_secs(3601));
    bench.bounce(&message_id).await;
    let reason = bench.until_refund(&message_id, "expired").await;
    assert!(reason.is_some_and(|reason| reason.contains("expired")));
    assert_eq!(bench.credits_given(), []);
}

#[tokio::test]
async fn p8_refunds_wait_for_a_dodo_that_tells_the_grants() {
    let bench = Bench::refunding(10).await;
    bench.billing.start();
    let message_id = bench.settled(9).await;
    bench.fault(Fault::new(Reply::status(503)).on("GET", "/grants"));
    bench.bounce(&message_id).await;
    bench.settled(8).await;
    bench.until_refund(&message_id, "credited").await;
    bench.until_settled(9).await;
}

#[tokio::test]
async fn customers_whom_dodo_refuses_starve_nobody_of_a_refund() {
    let bench = Bench::refunding(10).await;
    let now = bench.clock.now();
    for nth in 0..=ROUND {
        let payer = bench.add(&format!("payer{nth}"), 0).await;
        // Known, and in no need of a call.
        let leave = bench.store.begin_balance_read(&payer).await.unwrap().unwrap();
        bench.store.apply_balance(&leave, 1, now).await.unwrap();
        let message_id = bench.sent(&payer, 1).await.unwrap();
        let entry_id = EntryId::generate(now, random::octets());
        let entry = bench.store.open_entry(&payer, &entry_id, None, now).await.unwrap().unwrap();
        bench.store.settle_entry(&entry, Settled::Sometime, now).await.unwrap();
        bench.bounce_of(&payer, &message_id).await;
        bench.billing.leave_alone(&payer);
    }
    bench.clock.advance(Duration::from_secs(1));
    bench.billing.start();
    let message_id = bench.settled(9).await;
    bench.bounce(&message_id).await;
    bench.until_refund(&message_id, "credited").await;
}
