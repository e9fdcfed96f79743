//! Entries that no answer can tell about: looked up, never posted twice.

use super::*;
use crate::billing::doubt::Outcome;
use crate::sandbox::dodo::RepeatedKey;
use crate::store::doubt::{Decider, Standing};
use crate::store::entry::Entry;

/// A `key_lifetime_s`, and until Dodo forgets the key.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A `key_lifetime_s`.
const KEY_LIFETIME: Duration = Duration::from_secs(23 * 3600);
/// A `lookup_wait_s`, and more than one call may take.
const WAIT: Duration = Duration::from_secs(600);

impl Bench {
    /// Waits until so many entries are in doubt.
    async fn until_doubtful(&self, count: usize) {
        let began = Instant::now();
        while self.store.doubtful_entries().await.unwrap().len() != count {
            assert!(began.elapsed() < PATIENCE, "{count} in doubt");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the only doubtful entry cannot be decided, for this reason.
    async fn until_undecided(&self, why: &str) {
        let began = Instant::now();
        loop {
            let doubtful = self.store.doubtful_entries().await.unwrap();
            let found = doubtful.first().and_then(|found| found.why.clone()).unwrap_or_default();
            if found.contains(why) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{why}: {found}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_doubtful_shown(&self) -> bool {
        self.billing.0.tools.metrics.encode().contains("postmeter_entries_doubtful 1\n")
    }

    /// How the metrics count the reads of a balance.
    fn reads(&self) -> String {
        let page = self.billing.0.tools.metrics.encode();
        page.lines().filter(|line| line.contains("read_balance")).collect()
    }

    /// How the metrics count what became of entries.
    fn counted(&self) -> Vec<String> {
        let page = self.billing.0.tools.metrics.encode();
        page.lines().filter(|line| line.starts_with("postmeter_entries_total")).map(str::to_owned).collect()
    }

    /// An entry that an earlier process left behind; Dodo has it, or has it not.
    async fn left_open(&self, is_applied: bool) -> Entry {
        self.ask().await.unwrap();
        self.send().await;
        let now = self.clock.now();
        let entry_id = EntryId::generate(now, random::octets());
        let entry = self.store.open_entry(&self.ann, &entry_id, None, now).await.unwrap().unwrap();
        if is_applied {
            let dodo = &self.billing.0.tools.dodo;
            dodo.post_debit(&entry.customer_id, &entry.entry_id, entry.amount, &entry.reason).await;
        }
        entry
    }

    /// Three credits, all of them debited by a call whose answer will be lost, after
    /// which Dodo refuses the same entry for lack of credit.
    async fn emptied_by_a_lost_answer() -> Self {
        let bench = Self::new(3).await;
        bench.services.dodo.behave(|behaviour| behaviour.balance_before_key = true);
        bench.ask().await.unwrap();
        for _ in 0..3 {
            bench.send().await;
        }
        bench.fault(Fault::new(Misbehaviour::DropAfter).on("POST", ENTRIES));
        bench
    }

    /// Dodo takes entries and never answers them.
    fn answers_are_lost(&self) {
        self.fault(Fault::new(Misbehaviour::DropAfter).on("POST", ENTRIES).always());
    }
}

#[tokio::test]
async fn p3_a_lost_answer_that_emptied_the_account_is_found_in_the_ledger_and_debited_once() {
    let bench = Bench::emptied_by_a_lost_answer().await;
    bench.billing.start();
    bench.until_settled(0).await;
    assert_eq!(bench.debits(), [3]);
    assert_eq!(bench.store.doubtful_entries().await.unwrap(), []);
}

#[tokio::test]
async fn p3_a_key_that_may_be_forgotten_is_looked_up_and_not_used_again() {
    for is_applied in [true, false] {
        let bench = Bench::new(5).await;
        bench.ask().await.unwrap();
        bench.send().await;
        let lost = if is_applied { Misbehaviour::DropAfter } else { Misbehaviour::DropBefore };
        bench.fault(Fault::new(lost).on("POST", ENTRIES).times(1));
        bench.fault(Fault::new(Reply::status(503)).on("POST", ENTRIES).always());
        bench.billing.start();
        let faults = bench.services.dodo.faults().clone();
        bench.until("a call without an answer", |_| faults.struck() > 1).await;
        bench.clock.advance(KEY_LIFETIME - WAIT / 2);
        let struck = faults.struck();
        bench.until("a call that began since then", |_| faults.struck() > struck + 1).await;
        bench.services.dodo.forget_keys().unwrap();
        bench.clock.advance(WAIT / 2);
        if is_applied {
            bench.until_settled(4).await;
        } else {
            bench.until_undecided("may still be under way").await;
            assert!(bench.is_doubtful_shown());
            assert_eq!((bench.debits(), bench.account().await.owed), (vec![], Credits::ONE));
            faults.clear();
            bench.clock.advance(WAIT);
            bench.until_settled(4).await;
        }
        assert_eq!(bench.debits(), [1], "applied: {is_applied}");
        let voids = bench.store.books(&bench.ann).await.unwrap().entries.len() - 1;
        assert_eq!(voids, usize::from(!is_applied), "posted anew only where it was not applied");
        bench.until_doubtful(0).await;
    }
}

#[tokio::test]
async fn p3_a_restart_a_day_later_posts_nothing_again() {
    let bench = Bench::new(5).await;
    bench.left_open(true).await;
    bench.services.dodo.forget_keys().unwrap();
    bench.clock.advance(DAY);
    bench.billing.start();
    bench.until_settled(4).await;
    assert_eq!(bench.debits(), [1]);
}

#[tokio::test]
async fn p3_what_cannot_be_decided_stays_owed_and_is_shown_and_the_rest_can_be_spent() {
    let bench = Bench::new(10).await;
    bench.services.dodo.behave(|behaviour| {
        behaviour.reason_in_ledger = false;
        behaviour.repeated_key = RepeatedKey::FirstAnswer;
    });
    bench.ask().await.unwrap();
    bench.send().await;
    bench.answers_are_lost();
    bench.billing.start();
    let faults = bench.services.dodo.faults().clone();
    bench.until("a call without an answer", |_| faults.struck() > 0).await;
    bench.clock.advance(DAY);
    bench.until_undecided("name no entry").await;
    faults.clear();
    bench.clock.advance(WAIT);
    assert!(bench.is_doubtful_shown());
    let debits = bench.debits();
    assert_eq!(debits, [1]);
    // The lane is closed, the customer is not, and one read is enough to know that.
    assert_eq!(bench.ask().await, Ok(()));
    let reads = bench.reads();
    for left in (0..9).rev() {
        assert_eq!(bench.ask().await, Ok(()), "{left}");
        assert_eq!(bench.reads(), reads, "{left}");
        bench.send().await;
        assert_eq!(bench.account().await.available(), Some(left));
    }
    assert!(matches!(bench.ask().await, Err(Refusal::OutOfCredit { .. })));
    bench.services.dodo.grant("ann", 5, None).unwrap();
    bench.billing.balance_changed(&bench.ann);
    bench.until("a top-up is seen", |account| account.balance == Some(14)).await;
    assert_eq!(bench.account().await.available(), Some(4), "what is owed counts in full");
    assert_eq!(bench.ask().await, Ok(()));
    assert_eq!(bench.debits(), debits, "nothing is posted while it is in doubt");
}

#[tokio::test]
async fn p8_a_doubt_outlives_an_outage_of_the_ledger() {
    let bench = Bench::emptied_by_a_lost_answer().await;
    for answer in [Reply::status(503), Reply::status(429).header("retry-after-ms", "100")] {
        bench.fault(Fault::new(answer).on("GET", "/ledger"));
    }
    bench.fault(Fault::new(Misbehaviour::Garble).on("GET", "/ledger"));
    bench.billing.start();
    bench.until_undecided("Dodo").await;
    bench.until_settled(0).await;
    assert_eq!(bench.debits(), [3]);
}

#[tokio::test]
async fn p3_a_lookup_that_the_operator_outran_changes_and_counts_nothing() {
    for is_applied in [true, false] {
        for said in [Standing::Done, Standing::Void] {
            let bench = Bench::new(5).await;
            let entry = bench.left_open(is_applied).await;
            bench.store.doubt_entry(&entry, "its answer was lost", bench.clock.now()).await.unwrap();
            bench.clock.advance(DAY);
            let sought = bench.store.doubtful_entries().await.unwrap().remove(0);
            let now = bench.clock.now();
            match said {
                Standing::Done => {
                    bench.store.settle_doubtful(&entry, Decider::Operator, now).await.unwrap().unwrap();
                }
                _ => bench.store.void_doubtful(&entry, Decider::Operator, "no", now).await.unwrap().unwrap(),
            }
            let before = (bench.counted(), bench.account().await);
            assert_eq!(bench.billing.look_up(&sought).await.unwrap(), Outcome::Decided);
            assert_eq!((bench.counted(), bench.account().await), before, "applied: {is_applied}, {said:?}");
            let booked = bench.store.books(&bench.ann).await.unwrap().entries.remove(0);
            assert_eq!((booked.state, booked.is_by_operator), (said, true));
        }
    }
}
