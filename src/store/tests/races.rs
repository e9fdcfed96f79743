//! Two nodes on one database do the same thing at the same moment, and each promise holds.
//!
//! On PostgreSQL their transactions overlap, and what keeps them apart is `store::lock`. On
//! SQLite the second is a command in another process, and they take turns: there these tests
//! say no more than that both find what the other left.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::domain::decision::Choice;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::domain::proof::Way;
use crate::store::doubt::Decider;
use crate::store::entry::{Entry, Settled};
use crate::store::gate::Gate;
use crate::store::operator::{DecisionError, Order, Via};
use crate::store::proof::{Claimed, NewProof};
use crate::store::refund::{CreditOpening, Lapse};
use crate::store::webhook::Webhook;

mod mix;

const A: &str = "a@y.example";
/// How often two do the same at once.
const ROUNDS: u64 = 25;
/// When everything of these tests is old.
const OLD: i64 = 1_000_000;

/// Two nodes, and their database.
struct Nodes {
    one: Store,
    two: Store,
    directory: Directory,
}

impl Nodes {
    async fn new() -> Self {
        let (one, directory) = store().await;
        let two = Store::open(&settings(&directory.0, Maker::Command), Metrics::new()).await.unwrap();
        Self { one, two, directory }
    }

    /// One of them, in turn.
    fn nth(&self, nth: u64) -> Store {
        if nth.is_multiple_of(2) { self.one.clone() } else { self.two.clone() }
    }

    /// The books add up, and nobody had to be torn from anybody.
    async fn end(self) {
        assert_audit(&self.one).await;
        let Self { one, two, directory } = self;
        drop((one, two));
        assert_eq!(stand_in::deadlocks(&directory.0), 0);
    }
}

/// What comes of all of these, which begin at the same moment.
async fn all<T, F>(asked: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = asked.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// So many messages that were accepted.
async fn many(nodes: &Nodes, count: u64, asked: impl Fn() -> Acceptance) -> Vec<Acceptance> {
    let asked = (0..count).map(|nth| {
        let (store, asked) = (nodes.nth(nth), asked());
        async move { accepted(&store, asked).await }
    });
    all(asked).await
}

fn waiting(customer_id: &CustomerId) -> Acceptance {
    Acceptance { lease_until: None, ..message(customer_id, &[A]) }
}

fn order(choice: Choice) -> Order {
    let lifetime = Duration::from_secs(500);
    Order { choice, is_confirmed: true, via: Via::Command, now: at(40), lifetime }
}

/// However much comes back of a customer's mail, they are not paused.
async fn unpaused(nodes: &Nodes, customer_id: &CustomerId) {
    nodes.one.resume(customer_id, at(OLD)).await.unwrap();
}

/// Until somebody waits for a lock that is held. With SQLite nobody can tell.
async fn until_somebody_waits(store: &Store) {
    const WAITS: &str = "
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let since = Instant::now();
    while stand_in::is_postgres() && count(store, WAITS).await == 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "nobody waits");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_claimed_by_one_node() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    for _ in 0..4 {
        let due: Vec<_> = many(&nodes, 60, || waiting(&ann)).await.iter().map(first_part).collect();
        let claims = (0..6).map(|nth| {
            let (store, due) = (nodes.nth(nth), due.clone());
            async move { store.lease_page(&due, at(10), at(40)).await.unwrap().parts }
        });
        let claimed: Vec<_> = all(claims).await.into_iter().flatten().map(|part| part.message_id).collect();
        assert_eq!((claimed.len(), claimed.iter().collect::<BTreeSet<_>>().len()), (60, 60));
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_two_nodes_overdraw_nothing() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(60)).await;
    let asked = (0..120).map(|nth| {
        let (store, asked) = (nodes.nth(nth), message(&ann, &[A]));
        async move { store.accept(asked).await.unwrap() }
    });
    let answers = all(asked).await;
    let accepted = answers.iter().filter(|answer| matches!(answer, Accepted::Yes { .. })).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Accepted::OutOfCredit)).count();
    assert_eq!((accepted, refused), (60, 60));
    assert_eq!(sums(&nodes.one, &ann).await, (Some(60), 60, 0));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_of_two_entries_of_a_customer_one_is_opened_and_settled_once() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    let id = || entry_id();
    for nth in 0..ROUNDS {
        owe(&nodes.one, &ann).await;
        let (first, second) = (id(), id());
        let (first, second) = tokio::join!(
            nodes.one.open_entry(&ann, &first, None, at(2)),
            nodes.two.open_entry(&ann, &second, None, at(2)),
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        // Whoever has opened it posts it, and nobody else says what became of that.
        let poster = if first.is_some() { &nodes.one } else { &nodes.two };
        let opened: Vec<Entry> = first.into_iter().chain(second).collect();
        let [entry] = &opened[..] else { panic!("{opened:?}") };
        if nth % 2 == 0 {
            let (first, second) = tokio::join!(
                nodes.one.settle_entry(entry, Settled::Sometime, at(3)),
                nodes.two.settle_entry(entry, Settled::Sometime, at(3)),
            );
            first.and(second).unwrap();
            continue;
        }
        assert!(poster.doubt_entry(entry, "no answer", at(3)).await.unwrap());
        let (first, second) = tokio::join!(
            nodes.one.settle_doubtful(entry, Decider::Ledger, at(4)),
            nodes.two.void_doubtful(entry, Decider::Operator, "no", at(4)),
        );
        assert_ne!(first.unwrap().is_ok(), second.unwrap().is_ok(), "whoever is first");
        if let Some(rest) = nodes.one.open_entry(&ann, &id(), None, at(5)).await.unwrap() {
            nodes.one.settle_entry(&rest, Settled::Sometime, at(6)).await.unwrap();
        }
    }
    let spent = i64::try_from(ROUNDS).unwrap();
    assert_eq!(sums(&nodes.one, &ann).await, (Some(500 - spent), 0, 0));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_captures_of_two_reporters_are_numbered_without_a_gap() {
    const GAPS: &str = "SELECT max(number) - count(*) FROM capture";
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    let bob = customer(&nodes.one, "bob", Some(500)).await;
    let mut sent = many(&nodes, 60, || message(&ann, &[A])).await;
    // Calls of several customers' mail, told of in any order.
    sent.extend(many(&nodes, 60, || message(&bob, &[A])).await);
    let reports = (0..60_usize).map(|nth| {
        let store = nodes.nth(u64::try_from(nth).unwrap());
        let mut call = [&sent[nth], &sent[119 - nth]].map(|of| report(of, 1, answered(&[A], &[])));
        if nth % 3 == 0 {
            call.reverse();
        }
        async move { store.report_all(call.to_vec()).await.unwrap() }
    });
    assert!(all(reports).await.iter().all(|recorded| *recorded == [applied(1), applied(1)]));
    assert_eq!(count(&nodes.one, GAPS).await, -60, "60 each");
    assert_eq!(sums(&nodes.one, &bob).await, (Some(500), 0, 60));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_what_the_operator_has_sent_again_is_sent_by_one_node() {
    const SENDING: &str = "SELECT count(*) FROM part WHERE state = 'sending'";
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    let (mut taken, mut cancelled) = (0, 0);
    for nth in 0..2 * ROUNDS {
        // Its worker is silent, and its lease has run out.
        let message = accepted(&nodes.one, message(&ann, &[A])).await;
        let (due, choice) = (first_part(&message), if nth % 2 == 0 { Choice::Retry } else { Choice::Cancel });
        let taking = async {
            nodes.two.lapse_expired(&[], at(40)).await.unwrap();
            nodes.two.lease(&due, at(40), at(OLD)).await.unwrap()
        };
        let order = order(choice);
        let (leased, decided) = tokio::join!(taking, nodes.one.decide(&message.message_id, &order));
        match (&leased, decided, choice) {
            (_, Ok(_), Choice::Retry) | (Some(_), Err(DecisionError::NotNow(..)), _) => {}
            (None, Ok(_), Choice::Cancel) => cancelled += 1,
            // It was under way when that was decided, and the other passed it over.
            (None, Err(DecisionError::NotNow(..)), _) => {}
            other => panic!("{other:?}"),
        }
        taken += i64::from(leased.is_some());
        // Both may have passed it over: then a look finds that its lease has run out, once
        // what they had begun is over.
        let since = Instant::now();
        while count(&nodes.one, SENDING).await != taken && since.elapsed() < Duration::from_secs(10) {
            nodes.one.lapse_expired(&[], at(41)).await.unwrap();
        }
        assert_eq!(count(&nodes.one, SENDING).await, taken, "round {nth}: who was taken is in one hand");
        if leased.is_none() {
            taken += i64::from(nodes.two.lease(&due, at(41), at(OLD)).await.unwrap().is_some());
        }
    }
    assert_eq!(sums(&nodes.one, &ann).await, (Some(500), 2 * ROUNDS - cancelled, 0));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_balance_is_told_of_once() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(9)).await;
    let notice =
        || Acceptance { kind: Kind::Notice, price: Credits::ZERO, ..message(&ann, &["ann@y.example"]) };
    for _ in 0..ROUNDS {
        // Of two reads that began at the same time one is applied.
        for balance in [100, 9] {
            let (first, second) =
                tokio::join!(nodes.one.begin_balance_read(&ann), nodes.two.begin_balance_read(&ann));
            let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
            let (first, second) = tokio::join!(
                nodes.one.apply_balance(&first, balance, at(1)),
                nodes.two.apply_balance(&second, balance, at(1)),
            );
            let outcomes = [first.unwrap().outcome, second.unwrap().outcome];
            assert!(outcomes.contains(&ReadOutcome::Applied), "{outcomes:?}");
            assert!(outcomes.contains(&ReadOutcome::Overtaken), "{outcomes:?}");
        }
        let (first, second) = (notice(), notice());
        let (first, second) =
            tokio::join!(nodes.one.low_balance_notice(&first), nodes.two.low_balance_notice(&second));
        assert_ne!(first.unwrap(), second.unwrap());
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_key_that_is_used_on_both_nodes_is_accepted_once() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    let fingerprint = Fingerprinting::of("test").end();
    let under = |key: String| {
        let key = IdempotencyKey::parse(&key).unwrap();
        let keyed = Some(Keyed { key, fingerprint: fingerprint.clone(), served: Vec::new() });
        Acceptance { keyed, ..message(&ann, &[A]) }
    };
    for nth in 0..ROUNDS {
        // A key that is taken for the first time; then one that has expired, beside its sweep.
        for (second, left) in [(0, 499 - 2 * nth), (OLD, 498 - 2 * nth)] {
            let asked = || Acceptance { accepted_at: at(second), ..under(format!("k{nth}")) };
            let (first, second, swept) = tokio::join!(
                nodes.one.accept(asked()),
                nodes.two.accept(asked()),
                nodes.two.sweep_keys(at(second), 9),
            );
            swept.unwrap();
            let answers = [first.unwrap(), second.unwrap()];
            let accepted = answers.iter().filter(|answer| matches!(answer, Accepted::Yes { .. })).count();
            let before = |answer: &&Accepted| matches!(answer, Accepted::Before { available: Some(now), .. } if now.get() == left);
            assert_eq!((accepted, answers.iter().filter(before).count()), (1, 1), "{answers:?}");
        }
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_that_waited_knows_what_was_decided_meanwhile() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    let meanwhile = [
        "INSERT INTO suppression (customer_id, address, reason, added_at) VALUES ('ann', 'a@y.example', 'manual', 0)",
        "UPDATE customer SET suspended_reason = 'late'",
    ];
    for statement in meanwhile {
        let mut writer = nodes.two.writer.lock().await;
        let mut tx = writer.begin().await.unwrap();
        lock::customer(&mut tx, &ann).await.unwrap();
        let (store, asked) = (nodes.one.clone(), message(&ann, &[A]));
        let asking = tokio::spawn(async move { store.accept(asked).await.unwrap() });
        until_somebody_waits(&nodes.one).await;
        query(statement).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let answer = asking.await.unwrap();
        assert!(matches!(answer, Accepted::Suppressed { .. } | Accepted::Suspended(_)), "{answer:?}");
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_written_on_one_node_is_kept_by_the_other() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    for _ in 0..ROUNDS {
        let to = mailbox(A);
        let (listed, first) =
            tokio::join!(nodes.two.suppress(&ann, &to, None, at(1)), nodes.one.accept(message(&ann, &[A])));
        assert!(listed.unwrap());
        assert!(matches!(first.unwrap(), Accepted::Yes { .. } | Accepted::Suppressed { .. }));
        let after = nodes.one.accept(message(&ann, &[A])).await.unwrap();
        assert!(matches!(after, Accepted::Suppressed { .. }), "{after:?}");
        nodes.one.unsuppress(&ann, &to).await.unwrap();
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_messages_that_leave_is_taken_in_or_comes_too_late() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    unpaused(&nodes, &ann).await;
    for _ in 0..6 {
        let mut messages = Vec::new();
        for _ in 0..8 {
            messages.push(refunds::sent(&nodes.one, message(&ann, &[A])).await);
        }
        retention::settle(&nodes.one, &ann, 2).await;
        let news = messages.into_iter().flat_map(|message| {
            [0, 1].map(|nth| {
                let (store, message) = (nodes.nth(nth), message.clone());
                async move {
                    // What has consequences, beside what has none.
                    let refused = refunds::bounce_at(&store, &message, &[A], (refunds::PLENTY, at(9)));
                    let delivered = event::delivered(&message);
                    let (_, kept) = tokio::join!(refused, store.keep_event(&delivered));
                    kept.unwrap();
                }
            })
        });
        let leaving = [0, 1].map(|nth| {
            let store = nodes.nth(nth);
            async move {
                while store.close_captures(at(OLD)).await.unwrap() > 0 {}
                store.close_messages(at(OLD), at(OLD), None).await.unwrap();
                store.close_entries(at(OLD)).await.unwrap();
            }
        });
        tokio::join!(all(news), all(leaving));
        assert_audit(&nodes.one).await;
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_two_open_extends_each_lifetime_once() {
    const OTHERS: &str = "SELECT count(*) FROM message WHERE expires_at <> 1800001100000";
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(2_000)).await;
    let sent = many(&nodes, 1_200, || message(&ann, &[A])).await;
    let gate = Gate { road: Road::Smtp, reason: "x".to_owned(), since: at(100), try_again_at: at(5_000) };
    nodes.one.close_gate(&gate).await.unwrap();
    let (first, second) =
        tokio::join!(nodes.one.open_gate(Road::Smtp, at(200)), nodes.two.open_gate(Road::Smtp, at(200)));
    first.and(second).unwrap();
    assert_eq!((sent.len(), count(&nodes.one, OTHERS).await), (1_200, 0));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_behind_a_gate_that_opens() {
    const LEFT: &str = "SELECT count(*) FROM part WHERE state = 'queued' AND due_at > 1800000100000";
    let nodes = Nodes::new().await;
    let names = ["ann", "bob"];
    for name in names {
        customer(&nodes.one, name, Some(500)).await;
    }
    let gate = Gate { road: Road::Smtp, reason: "x".to_owned(), since: at(0), try_again_at: at(5_000) };
    for nth in 0..ROUNDS {
        // Whoever sends them reports.
        let mut under_way = Vec::new();
        for name in names.iter().cycle().take(8) {
            under_way.push(accepted(&nodes.nth(nth), message(&id(name), &[A])).await);
        }
        nodes.one.close_gate(&gate).await.unwrap();
        let reports = under_way.into_iter().map(|of| {
            let store = nodes.nth(nth);
            let news = News::Gated { until: at(5_000), error: "closed".to_owned(), unknown: false };
            async move { store.report(report(&of, 1, news)).await.unwrap() }
        });
        let opening = async {
            if nth % 3 == 0 {
                tokio::task::yield_now().await;
            }
            nodes.two.open_gate(Road::Smtp, at(100)).await
        };
        let (recorded, opened) = tokio::join!(all(reports), opening);
        opened.unwrap();
        assert!(recorded.iter().all(|recorded| *recorded == applied(0)));
        assert_eq!(count(&nodes.one, LEFT).await, 0, "round {nth}");
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_refund_is_posted_by_one_node() {
    let nodes = Nodes::new().await;
    let ann = customer(&nodes.one, "ann", Some(500)).await;
    unpaused(&nodes, &ann).await;
    for _ in 0..ROUNDS {
        refunds::bounced_after_the_debit(&nodes.one, &ann).await;
        let openings = [0, 1].map(|nth| {
            let (store, customer_id) = (nodes.nth(nth), ann.clone());
            async move {
                let due = store.due_refunds(&customer_id, at(10)).await.unwrap()?;
                let refunds = due.debited.into_iter().map(|refund| (refund, Lapse::Never)).collect();
                let opening = CreditOpening { customer_id, entry_id: entry_id(), refunds };
                let (credit, _) = store.open_credit(&opening, at(10)).await.unwrap();
                if let Some(credit) = &credit {
                    store.settle_entry(credit, Settled::Sometime, at(11)).await.unwrap();
                }
                credit
            }
        });
        let opened: Vec<_> = all(openings).await.into_iter().flatten().collect();
        assert_eq!(opened.len(), 1, "{opened:?}");
    }
    assert_eq!(sums(&nodes.one, &ann).await, (Some(500), 0, 0));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_came_to_both_nodes_are_remembered_once() {
    let nodes = Nodes::new().await;
    let webhooks = (0..100_u32).map(|nth| {
        let (store, number) = (nodes.nth(nth.into()), if nth % 2 == 0 { nth / 2 } else { 49 - nth / 2 });
        let webhook = Webhook {
            source: "dodo",
            webhook_id: format!("msg_{number}"),
            event_type: "credit.added".to_owned(),
            customer_id: None,
        };
        async move { store.webhook_handled(&webhook, at(0)).await.unwrap() }
    });
    all(webhooks).await;
    assert_eq!(count(&nodes.one, "SELECT count(*) FROM webhook").await, 50);
    let sweeps = (0..8).map(|nth| {
        let store = nodes.nth(nth);
        async move { store.close_marks(at(OLD)).await.unwrap() }
    });
    assert_eq!(all(sweeps).await.iter().sum::<u64>(), 50);
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_customers_one_claims_a_domain() {
    let nodes = Nodes::new().await;
    for name in ["ann", "bob"] {
        customer(&nodes.one, name, None).await;
    }
    for nth in 0..ROUNDS {
        let new = |name| NewProof {
            customer_id: id(name),
            domain: crate::domain::address::Domain::parse(&format!("x{nth}.example")).unwrap(),
            way: Way::Resend,
            token: None,
            limit: 100,
        };
        let (first, second) = (new("ann"), new("bob"));
        let (first, second) =
            tokio::join!(nodes.one.claim_domain(&first, at(0)), nodes.two.claim_domain(&second, at(0)));
        match (first.unwrap(), second.unwrap()) {
            (Claimed::New(_), Claimed::Taken) | (Claimed::Taken, Claimed::New(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    nodes.end().await;
}
