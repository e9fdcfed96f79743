use proptest::prelude::*;

use super::*;
use crate::domain::decision::Choice;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::store::doubt::Decider;
use crate::store::entry::{Entry, Settled};
use crate::store::operator::{DecisionError, Order, Via};
use crate::store::queue::LeasedPart;
use crate::store::refund::Lapse;
use crate::store::tests::refunds::{PLENTY, bounce, bounce_at, open_credit, sent};
use crate::store::webhook::Webhook;
use crate::telemetry::RefundResult;

const A: &str = "a@y.example";
const B: &str = "b@y.example";
/// When everything of these tests is old.
const OLD: i64 = 1_000_000;
/// Histories in a run.
const HISTORIES: u32 = 48;
/// The same on PostgreSQL, where each step takes longer.
const HISTORIES_ON_POSTGRES: u32 = 8;
/// Where the seeds of what failed are kept, from the root of the project.
const REGRESSIONS: &str = "tests/regressions/retention.txt";

async fn open(store: &Store, customer_id: &CustomerId, at_most: Option<u64>, second: i64) -> Entry {
    let at_most = at_most.map(credits);
    store.open_entry(customer_id, &entry_id(), at_most, at(second)).await.unwrap().unwrap()
}

pub(super) async fn settle(store: &Store, customer_id: &CustomerId, second: i64) {
    let entry = open(store, customer_id, None, second).await;
    store.settle_entry(&entry, Settled::Sometime, at(second)).await.unwrap();
}

/// Lets all leave that may; the audit holds after every step. Captures and messages that left.
pub(super) async fn sweep(store: &Store, second: i64) -> (u64, u64) {
    let (mut captures, mut messages) = (0, 0);
    loop {
        let count = store.close_captures(at(second)).await.unwrap();
        assert_audit(store).await;
        captures += count;
        if count == 0 {
            break;
        }
    }
    while store.close_entries(at(second)).await.unwrap() > 0 {
        assert_audit(store).await;
    }
    let mut after = None;
    loop {
        let closed = store.close_messages(at(second), at(second), after.as_ref()).await.unwrap();
        assert_audit(store).await;
        messages += closed.count;
        after = closed.next;
        if after.is_none() {
            return (captures, messages);
        }
    }
}

/// Price, captured, released, settled of what has left.
async fn closed(store: &Store, customer_id: &CustomerId) -> (i64, i64, i64, i64) {
    const READ: &str = "
        SELECT closed_price, closed_captured, closed_released, closed_settled FROM account WHERE customer_id = $1";
    query_as(READ).bind(customer_id.as_str()).fetch_one(&store.readers).await.unwrap()
}

#[tokio::test]
async fn p3_what_is_final_and_settled_leaves_and_its_sums_stay() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for _ in 0..3 {
        owe(&store, &ann).await;
    }
    settle(&store, &ann, 2).await;
    let refused = accepted(&store, message(&ann, &[A])).await;
    store.report(report(&refused, 1, answered(&[], &[A]))).await.unwrap();
    let before = sums(&store, &ann).await;
    assert_eq!(sweep(&store, 0).await, (0, 0), "nothing is old");
    assert_eq!(sweep(&store, 2).await, (3, 4));
    assert_eq!(closed(&store, &ann).await, (4, 3, 1, 3));
    assert_eq!(sums(&store, &ann).await, before);
    for table in [
        "SELECT count(*) FROM message",
        "SELECT count(*) FROM part",
        "SELECT count(*) FROM recipient",
        "SELECT count(*) FROM capture",
        "SELECT count(*) FROM entry",
    ] {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
    assert_eq!(sweep(&store, OLD).await, (0, 0));
    // Numbers go on where they were.
    owe(&store, &ann).await;
    settle(&store, &ann, 3).await;
    assert_eq!(count(&store, "SELECT first_capture FROM entry").await, 4);
    assert_eq!(sweep(&store, OLD).await, (1, 1));
    assert_eq!(closed(&store, &ann).await, (5, 4, 1, 4));
}

#[tokio::test]
async fn p3_what_is_not_final_or_not_settled_stays() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let held = accepted(&store, message(&ann, &[A])).await;
    store.report(report(&held, 1, News::Hold { reason: "unknown".to_owned() })).await.unwrap();
    accepted(&store, message(&ann, &[A])).await;
    owe(&store, &ann).await;
    assert_eq!(sweep(&store, OLD).await, (0, 0), "one is in no entry");
    let entry = open(&store, &ann, None, 1).await;
    owe(&store, &ann).await;
    assert_eq!(sweep(&store, OLD).await, (0, 0), "one is in an open entry");
    store.void_entry(&entry, "insufficient", at(2)).await.unwrap();
    assert_eq!(sweep(&store, OLD).await, (0, 0), "and void is not settled");
    let entry = open(&store, &ann, Some(1), 3).await;
    store.settle_entry(&entry, Settled::Sometime, at(3)).await.unwrap();
    assert_eq!(sweep(&store, OLD).await, (1, 1));
    assert_eq!(sums(&store, &ann).await, (Some(49), 2, 1));
    assert_eq!(count(&store, "SELECT count(*) FROM message").await, 3);
    settle(&store, &ann, 4).await;
    assert_eq!(sweep(&store, OLD).await, (1, 1));
    assert_eq!(closed(&store, &ann).await, (2, 2, 0, 2));
}

#[tokio::test]
async fn p3_a_message_that_was_captured_in_two_entries_leaves_with_the_second() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let message = accepted(&store, per_recipient(&ann, &[A, B])).await;
    store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap();
    settle(&store, &ann, 2).await;
    assert_eq!(sweep(&store, OLD).await, (1, 0), "its other recipient waits");
    assert_eq!(closed(&store, &ann).await, (0, 0, 0, 1));
    store.lease(&first_part(&message), at(60), at(90)).await.unwrap().unwrap();
    store.report(report(&message, 2, answered(&[B], &[]))).await.unwrap();
    assert_eq!(sweep(&store, OLD).await, (0, 0), "the second credit is owed");
    settle(&store, &ann, 70).await;
    assert_eq!(sweep(&store, OLD).await, (1, 1));
    assert_eq!(closed(&store, &ann).await, (2, 2, 0, 2));
}

#[tokio::test]
async fn a_long_entry_leaves_in_steps_and_the_oldest_first() {
    let (store, _directory) = store().await;
    let (ann, bob) = (customer(&store, "ann", Some(5_000)).await, customer(&store, "bob", Some(9)).await);
    for _ in 0..1_203 {
        owe(&store, &ann).await;
    }
    let whole = open(&store, &ann, None, 1).await;
    store.void_entry(&whole, "insufficient", at(1)).await.unwrap();
    settle(&store, &ann, 2).await;
    owe(&store, &bob).await;
    settle(&store, &bob, 3).await;
    assert_eq!(store.close_captures(at(2)).await.unwrap(), 250);
    assert_eq!(store.close_entries(at(2)).await.unwrap(), 0, "most of it is still there");
    assert_eq!(
        count(&store, "SELECT closed FROM entry WHERE state = 'done' AND customer_id = 'ann'").await,
        250
    );
    assert_audit(&store).await;
    let some = store.close_messages(at(2), at(2), None).await.unwrap();
    assert!(some.count > 0 && some.count < 250 && some.next.is_some(), "{some:?}");
    assert_audit(&store).await;
    let (captures, messages) = sweep(&store, 2).await;
    assert_eq!((captures, messages + some.count), (953, 1_203));
    assert_eq!(
        count(&store, "SELECT count(*) FROM entry").await,
        1,
        "bob's is younger, the void one has gone"
    );
    assert_eq!(sweep(&store, 3).await, (1, 1));
    assert_eq!(count(&store, "SELECT count(*) FROM entry").await, 0);
    assert_eq!(closed(&store, &ann).await, (1_203, 1_203, 0, 1_203));
}

#[tokio::test]
async fn decisions_leave_with_their_message_and_marks_by_themselves() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let message = accepted(&store, Acceptance { lease_until: None, ..message(&ann, &[A]) }).await;
    for choice in [Choice::Retry, Choice::Cancel] {
        let lifetime = Duration::from_secs(1);
        let order = Order { choice, is_confirmed: false, via: Via::Http, now: at(3), lifetime };
        store.decide(&message.message_id, &order).await.unwrap();
    }
    assert_eq!(count(&store, "SELECT count(*) FROM decision").await, 2);
    assert_eq!(sweep(&store, 3).await, (0, 1));
    assert_eq!(count(&store, "SELECT count(*) FROM decision").await, 0);
    assert_eq!(closed(&store, &ann).await, (1, 0, 1, 0));

    for (id, second) in [("msg_1", 5), ("msg_2", 9)] {
        let (webhook_id, event_type) = (id.to_owned(), "credit.added".to_owned());
        let webhook = Webhook { source: "dodo", webhook_id, event_type, customer_id: None };
        store.webhook_handled(&webhook, at(second)).await.unwrap();
    }
    super::way_in::begun(&store, &"a".repeat(64), 5).await;
    assert_eq!(store.close_marks(at(4)).await.unwrap(), 0);
    assert_eq!(store.close_marks(at(5)).await.unwrap(), 2);
    assert!(store.is_webhook_handled("dodo", "msg_2").await.unwrap());
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_what_the_operator_decided_is_known_for_ever() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for is_there in [false, true, true] {
        owe(&store, &ann).await;
        let entry = store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap().unwrap();
        store.doubt_entry(&entry, "its answer was lost", at(1)).await.unwrap();
        if is_there {
            store.settle_doubtful(&entry, Decider::Operator, at(2)).await.unwrap().unwrap();
        } else {
            store.void_doubtful(&entry, Decider::Operator, "no", at(2)).await.unwrap().unwrap();
        }
    }
    owe(&store, &ann).await;
    settle(&store, &ann, 3).await;
    sweep(&store, OLD).await;
    let books = store.books(&ann).await.unwrap();
    assert!(books.entries.iter().all(|entry| entry.is_by_operator), "{books:?}");
    assert_eq!((books.entries.len(), books.gone), (3, 1));
    assert_audit(&store).await;
}

/// A hand in what is left after old rows have gone.
const LIES: &[(&str, &str)] = &[
    ("account", "UPDATE account SET closed_price = closed_price + 1"),
    ("account", "UPDATE account SET closed_captured = closed_captured + 1"),
    (
        "account",
        "UPDATE account SET closed_captured = closed_captured - 1, closed_released = closed_released + 1",
    ),
    ("account", "UPDATE account SET closed_price = closed_price + 1, closed_captured = closed_captured + 1"),
    ("account", "UPDATE account SET closed_released = closed_released - 1"),
    ("account", "UPDATE account SET closed_settled = closed_settled + 1"),
    ("account", "UPDATE account SET closed_refunded = closed_refunded + 1"),
    ("account", "UPDATE account SET closed_credited = closed_credited + 1"),
    ("capture", "UPDATE account SET closed_capture = closed_capture - 1"),
    ("capture", "UPDATE account SET closed_capture = closed_capture + 1"),
    ("message", "UPDATE message SET closed = closed + 1 WHERE captured > 0"),
    ("entry", "UPDATE entry SET closed = closed + 1 WHERE state = 'done'"),
    ("entry", "DELETE FROM entry WHERE first_capture = (SELECT min(first_capture) FROM entry)"),
    ("account", "DELETE FROM entry WHERE state = 'done'"),
    ("capture", "DELETE FROM capture WHERE number = (SELECT min(number) FROM capture)"),
    ("message", "DELETE FROM capture WHERE number = (SELECT max(number) FROM capture)"),
    ("capture", "DELETE FROM message WHERE captured > 0 AND closed = 0"),
    ("account", "DELETE FROM message WHERE closed > 0"),
    ("account", "UPDATE account SET owed = owed + 1"),
    ("account", "UPDATE account SET last_entered = last_entered - 1"),
];

#[tokio::test]
async fn p3_the_audit_catches_a_lie_about_what_has_left() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for second in [1, 2] {
        owe(&store, &ann).await;
        settle(&store, &ann, second).await;
    }
    let refused = accepted(&store, message(&ann, &[A])).await;
    store.report(report(&refused, 1, answered(&[], &[A]))).await.unwrap();
    // Captured once in what leaves, and once in what stays.
    let half = accepted(&store, per_recipient(&ann, &[A, B])).await;
    store.report(report(&half, 1, answered(&[A], &[]))).await.unwrap();
    settle(&store, &ann, 3).await;
    assert_eq!(sweep(&store, 3).await, (3, 3));
    for second in [4, 5] {
        owe(&store, &ann).await;
        settle(&store, &ann, second).await;
    }
    owe(&store, &ann).await;
    assert_audit(&store).await;
    lawless(&store).await;
    for (table, lie) in LIES {
        let found = found_after(&store, lie).await;
        assert!(found.iter().any(|finding| finding.table == *table), "{lie}: {found:?}");
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_when_nothing_is_left_the_sums_alone_are_held_against_each_other() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for second in [1, 2] {
        owe(&store, &ann).await;
        settle(&store, &ann, second).await;
    }
    assert_eq!(sweep(&store, OLD).await, (2, 2));
    for lie in [
        "UPDATE account SET closed_capture = closed_capture + 1",
        "UPDATE account SET closed_capture = closed_capture - 1",
        "UPDATE account SET closed_settled = closed_settled - 1",
        "UPDATE account SET closed_captured = closed_captured - 1, closed_price = closed_price - 1",
        "UPDATE account SET last_capture = last_capture + 1",
        "UPDATE account SET owed = 1",
        "UPDATE account SET held = 1",
    ] {
        let found = found_after(&store, lie).await;
        assert!(found.iter().any(|finding| finding.table == "account"), "{lie}: {found:?}");
    }
    assert_audit(&store).await;
}

/// Something that befalls the oldest message that is not final, or one customer's debts.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// With so many recipients; paid by each of them, or as a whole.
    Accepted(usize, bool),
    /// So many of its recipients are sent, so many refused; the others wait.
    Answered(usize, usize),
    Waits(bool),
    Held,
    Decided(Choice),
    /// An entry for so many credits at most.
    Opened(u64),
    Settled,
    Voided,
    CapturesLeave,
    EntriesLeave,
    MessagesLeave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..4usize, any::<bool>()).prop_map(|(to, by_recipient)| Step::Accepted(to, by_recipient)),
        6 => (0..3usize, 0..3usize).prop_map(|(sent, failed)| Step::Answered(sent, failed)),
        1 => any::<bool>().prop_map(Step::Waits),
        1 => Just(Step::Held),
        2 => prop_oneof![Just(Choice::Retry), Just(Choice::Cancel)].prop_map(Step::Decided),
        3 => (1..9u64).prop_map(Step::Opened),
        3 => Just(Step::Settled),
        1 => Just(Step::Voided),
        2 => Just(Step::CapturesLeave),
        1 => Just(Step::EntriesLeave),
        2 => Just(Step::MessagesLeave),
    ]
}

/// One customer, and what was captured by what the store answered.
struct Life {
    store: Store,
    ann: CustomerId,
    going: Vec<(Acceptance, usize)>,
    open: Option<Entry>,
    captured: i64,
    settled: i64,
    _directory: Directory,
}

impl Life {
    async fn new() -> Self {
        let (store, directory) = store().await;
        let ann = customer(&store, "ann", Some(10_000)).await;
        let (going, open) = (Vec::new(), None);
        Self { store, ann, going, open, captured: 0, settled: 0, _directory: directory }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Accepted(to, by_recipient) => {
                let to = &["a@y.example", "b@y.example", "c@y.example"][..to];
                let asked = if by_recipient { per_recipient(&self.ann, to) } else { message(&self.ann, to) };
                let asked = Acceptance { lease_until: None, ..asked };
                self.going.push((accepted(&self.store, asked).await, to.len()));
            }
            Step::Answered(sent, failed) => self.answered(sent, failed).await,
            Step::Waits(unknown) => self.report(|_| retry(unknown)).await,
            Step::Held => self.report(|_| News::Hold { reason: "unknown".to_owned() }).await,
            Step::Decided(choice) => {
                let Some((message, _)) = self.going.first() else { return };
                let lifetime = Duration::from_secs(1);
                let order = Order { choice, is_confirmed: true, via: Via::Command, now: at(61), lifetime };
                // Refused where it has to be; the audit says whether that was right.
                let decided = self.store.decide(&message.message_id, &order).await;
                assert!(!matches!(decided, Err(DecisionError::Store(_))), "{decided:?}");
            }
            Step::Opened(credits_at_most) if self.open.is_none() => {
                let at_most = Some(credits(credits_at_most));
                self.open = self.store.open_entry(&self.ann, &entry_id(), at_most, at(70)).await.unwrap();
            }
            Step::Opened(_) => {}
            Step::Settled => {
                let Some(entry) = self.open.take() else { return };
                self.store.settle_entry(&entry, Settled::Sometime, at(71)).await.unwrap();
                self.settled += entry.amount.to_i64();
            }
            Step::Voided => {
                let Some(entry) = self.open.take() else { return };
                self.store.void_entry(&entry, "no", at(71)).await.unwrap();
            }
            Step::CapturesLeave => drop(self.store.close_captures(at(OLD)).await.unwrap()),
            Step::EntriesLeave => drop(self.store.close_entries(at(OLD)).await.unwrap()),
            Step::MessagesLeave => drop(self.store.close_messages(at(OLD), at(OLD), None).await.unwrap()),
        }
    }

    /// The oldest is attempted, and this is what comes of it.
    async fn report(&mut self, news: impl FnOnce(&LeasedPart) -> News) {
        if self.going.is_empty() {
            return;
        }
        let (message, to) = self.going.remove(0);
        let Some(part) = self.store.lease(&first_part(&message), at(61), at(91)).await.unwrap() else {
            return self.going.push((message, to));
        };
        let news = news(&part);
        let recorded = self.store.report(report(&message, part.attempt, news)).await.unwrap();
        let Recorded::Applied { captured } = recorded else { panic!("{recorded:?}") };
        self.captured += captured.to_i64();
        self.going.push((message, to));
    }

    async fn answered(&mut self, sent: usize, failed: usize) {
        self.report(|part| {
            let names: Vec<String> = part.recipients.iter().map(ToString::to_string).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (sent, rest) = names.split_at(sent.min(names.len()));
            answered(sent, &rest[..failed.min(rest.len())])
        })
        .await;
    }

    async fn check(&self) {
        const CAPTURED: &str = "
            SELECT (SELECT coalesce(CAST(sum(captured) AS BIGINT), 0) FROM message) + (SELECT closed_captured FROM account)";
        const SETTLED: &str = "
            SELECT (SELECT coalesce(CAST(sum(amount) AS BIGINT), 0) FROM entry WHERE state = 'done')
                 + (SELECT closed_settled FROM account)";
        assert_audit(&self.store).await;
        assert_eq!(count(&self.store, CAPTURED).await, self.captured, "P3");
        assert_eq!(count(&self.store, SETTLED).await, self.settled, "P3");
        assert_eq!(
            sums(&self.store, &self.ann).await.2,
            u64::try_from(self.captured - self.settled).unwrap()
        );
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if stand_in::is_postgres() { HISTORIES_ON_POSTGRES } else { HISTORIES },
        max_shrink_iters: 400,
        failure_persistence: regressions(REGRESSIONS),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn p3_any_history_with_decisions_and_rows_that_leave_adds_up(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut life = Life::new().await;
            for step in steps {
                life.take(step).await;
                life.check().await;
            }
        });
    }
}

/// A message that was settled, bounced and credited; the entry that gave it back.
async fn given_back(store: &Store, customer_id: &CustomerId) -> Entry {
    let bounced = sent(store, message(customer_id, &[A])).await;
    settle(store, customer_id, 2).await;
    assert_eq!(bounce(store, &bounced, &[A], PLENTY).await, [RefundResult::Due]);
    open_credit(store, customer_id, Lapse::Never).await.unwrap()
}

#[tokio::test]
async fn p3_credits_given_back_leave_and_their_sums_stay() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let void = given_back(&store, &ann).await;
    store.void_entry(&void, "no such entitlement", at(11)).await.unwrap();
    let credit = open_credit(&store, &ann, Lapse::Never).await.unwrap();
    assert_eq!(sweep(&store, OLD).await, (1, 0), "a refund that is being posted stays");
    assert_eq!(count(&store, "SELECT count(*) FROM entry").await, 1, "and its entry; the void one has gone");
    store.settle_entry(&credit, Settled::Sometime, at(12)).await.unwrap();
    let before = sums(&store, &ann).await;
    // Of its message nothing has left: neither may the entry.
    assert_eq!(store.close_entries(at(OLD)).await.unwrap(), 0);
    assert_eq!(store.close_messages(at(OLD), at(OLD), None).await.unwrap().count, 1);
    assert_audit(&store).await;
    assert_eq!(count(&store, "SELECT closed_refunded - closed_credited FROM account").await, 1);
    for lie in ["UPDATE entry SET closed = 0", "DELETE FROM entry", "UPDATE account SET closed_refunded = 0"]
    {
        let found = found_after(&store, lie).await;
        assert!(found.iter().any(|finding| finding.table == "account"), "{lie}: {found:?}");
    }
    assert_eq!(store.close_entries(at(OLD)).await.unwrap(), 1);
    assert_audit(&store).await;
    assert_eq!(count(&store, "SELECT count(*) FROM entry").await, 0);
    assert_eq!(count(&store, "SELECT closed_refunded + closed_credited FROM account").await, 2);
    assert_eq!((sums(&store, &ann).await, closed(&store, &ann).await), (before, (1, 1, 0, 1)));
    let books = store.books(&ann).await.unwrap();
    assert_eq!((books.entries.len(), books.gone, books.gone_back), (0, 1, 1));
}

#[tokio::test]
async fn what_the_cap_counts_is_counted_whatever_has_left() {
    const DAY: i64 = 24 * 3600;
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(100)).await;
    let mut messages = Vec::new();
    for _ in 0..40 {
        messages.push(sent(&store, message(&ann, &[A])).await);
    }
    settle(&store, &ann, 2).await;
    // Entries stay for a week.
    let leave = async |second: i64| {
        let captures = store.close_captures(at(second)).await.unwrap();
        let closed = store.close_messages(at(second), at(second), None).await.unwrap();
        assert_audit(&store).await;
        (captures, closed.count)
    };
    let given = async |message: &Acceptance, second: i64| {
        let allowance = store.allowance(&ann, at(second)).await.unwrap();
        bounce_at(&store, message, &[A], (allowance, at(second))).await
    };
    assert_eq!(given(&messages[0], 3).await, [RefundResult::Due]);
    let credit = open_credit(&store, &ann, Lapse::Never).await.unwrap();
    store.settle_entry(&credit, Settled::Sometime, at(11)).await.unwrap();
    // Rows leave as soon as they may, but for three messages that came to be later.
    for _ in 0..3 {
        messages.push(sent(&store, message(&ann, &[A])).await);
    }
    assert_eq!(leave(12).await, (40, 39), "the refund of today stays");
    assert_eq!(store.allowance(&ann, at(12)).await.unwrap().sent, 43);
    assert_eq!(given(&messages[40], 13).await, [RefundResult::Released], "two of forty");
    assert_eq!(leave(14).await, (0, 0), "that one stays too");
    assert_eq!(given(&messages[41], 15).await, [RefundResult::Capped]);
    // A day later nothing of it counts, and one is given in any case.
    assert_eq!(leave(14 + DAY).await, (0, 2));
    assert_eq!(store.allowance(&ann, at(14 + DAY)).await.unwrap().sent, 0);
    assert_eq!(given(&messages[42], 14 + DAY).await, [RefundResult::Released]);
    assert_audit(&store).await;
}

#[tokio::test]
async fn entries_may_stay_longer_than_what_they_settled() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    for second in [1, 2] {
        owe(&store, &ann).await;
        settle(&store, &ann, second).await;
    }
    assert_eq!(store.close_captures(at(OLD)).await.unwrap(), 2);
    assert_eq!(store.close_messages(at(OLD), at(OLD), None).await.unwrap().count, 2);
    assert_audit(&store).await;
    assert_eq!(closed(&store, &ann).await, (2, 2, 0, 0));
    owe(&store, &ann).await;
    settle(&store, &ann, 3).await;
    assert_eq!(store.close_entries(at(1)).await.unwrap(), 1);
    assert_audit(&store).await;
    assert_eq!(store.close_entries(at(OLD)).await.unwrap(), 1, "the third has a capture");
    assert_audit(&store).await;
    assert_eq!(closed(&store, &ann).await, (2, 2, 0, 2));
}

#[tokio::test]
async fn p3_a_message_whose_submission_may_be_retried_stays_until_its_key_is_gone() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(50)).await;
    let key = IdempotencyKey::parse("k").unwrap();
    let keyed = Some(Keyed { key, fingerprint: Fingerprinting::of("test").end(), served: Vec::new() });
    let message = accepted(&store, Acceptance { keyed, ..message(&ann, &[A]) }).await;
    store.report(report(&message, 1, answered(&[A], &[]))).await.unwrap();
    settle(&store, &ann, 2).await;
    assert_eq!(sweep(&store, OLD).await, (1, 0));
    assert_eq!(store.sweep_keys(at(OLD), 9).await.unwrap(), 2, "the key, and who has it");
    assert_eq!(sweep(&store, OLD).await, (0, 1));
}
