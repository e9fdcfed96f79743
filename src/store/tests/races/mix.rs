//! Everything at once.

use super::*;
use crate::store::tests::refunds::PLENTY;

/// Steps that are taken at the same time.
const TOGETHER: u64 = 24;
/// How often.
const TIMES: u64 = 12;
const NAMES: [&str; 4] = ["ann", "bob", "cyd", "dan"];

/// What is there, for all to work on.
struct Mail {
    messages: Vec<Acceptance>,
}

impl Mail {
    /// One of them, another for each number.
    fn nth(&self, nth: u64) -> &Acceptance {
        let spread = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        &self.messages[usize::try_from(spread).unwrap() % self.messages.len()]
    }
}

fn whose(nth: u64) -> CustomerId {
    id(NAMES[usize::try_from(nth % 4).unwrap()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p2_p3_p4_everything_at_once_adds_up() {
    let nodes = Nodes::new().await;
    let mut messages = Vec::new();
    for name in NAMES {
        let customer_id = customer(&nodes.one, name, Some(10_000)).await;
        unpaused(&nodes, &customer_id).await;
        for to in [&[A][..], &[A, "b@y.example"]] {
            messages.extend(many(&nodes, 12, || message(&customer_id, to)).await);
            messages.extend(many(&nodes, 12, || per_recipient(&customer_id, to)).await);
        }
    }
    let mail = Arc::new(Mail { messages });
    for time in 0..TIMES {
        let steps = (0..TOGETHER).map(|step| {
            let nth = time * TOGETHER + step;
            let (store, mail) = (nodes.nth(nth / 3), Arc::clone(&mail));
            async move {
                match nth % 4 {
                    0 => send(&store, &mail, nth / 4).await,
                    1 => pay(&store, &mail, nth / 4).await,
                    2 => decide(&store, &mail, nth / 4).await,
                    _ => clear_up(&store, &mail, nth / 4).await,
                }
            }
        });
        all(steps).await;
        assert_audit(&nodes.one).await;
    }
    nodes.end().await;
}

/// Mail comes and goes.
async fn send(store: &Store, mail: &Mail, nth: u64) {
    let now = at(i64::try_from(nth).unwrap() + 40);
    match nth % 5 {
        0 => {
            let key = IdempotencyKey::parse(&format!("k{}", nth % 3)).unwrap();
            let keyed = Keyed { key, fingerprint: Fingerprinting::of("test").end(), served: Vec::new() };
            let asked = Acceptance { keyed: Some(keyed), ..message(&whose(nth), &[A]) };
            store.accept(asked).await.unwrap();
        }
        1 => {
            // A call of several customers' mail, in any order.
            let call = (0..6).map(|other| report(mail.nth(nth * 6 + other), 1, answered(&[A], &[])));
            store.report_all(call.collect()).await.unwrap();
        }
        2 => {
            let due: Vec<_> = (0..9).map(|other| first_part(mail.nth(nth * 9 + other))).collect();
            let leased = store.lease_page(&due, now, now + Duration::from_secs(5)).await.unwrap();
            let held: Vec<_> =
                leased.parts.iter().map(|part| (part.message_id.clone(), 0, part.attempt)).collect();
            store.renew(&held, now + Duration::from_secs(9)).await.unwrap();
            for part in leased.parts {
                let of = Acceptance { message_id: part.message_id, ..message(&part.customer_id, &[A]) };
                store.report(report(&of, part.attempt, retry(false))).await.unwrap();
            }
        }
        3 => drop(store.lapse_expired(&[], now).await.unwrap()),
        _ => {
            let news = News::Gated { until: at(5_000), error: "closed".to_owned(), unknown: false };
            store.report(report(mail.nth(nth), 1, news)).await.unwrap();
        }
    }
}

/// Money moves.
async fn pay(store: &Store, mail: &Mail, nth: u64) {
    let customer_id = whose(nth);
    match nth % 4 {
        0 | 1 => {
            let Some(entry) = store.open_entry(&customer_id, &entry_id(), None, at(2)).await.unwrap() else {
                return;
            };
            if nth % 8 < 2 {
                store.void_entry(&entry, "no", at(3)).await.unwrap();
            } else {
                store.settle_entry(&entry, Settled::Sometime, at(3)).await.unwrap();
            }
        }
        2 => {
            let _ = refunds::bounce_at(store, mail.nth(nth), &[A], (PLENTY, at(9))).await;
            for (message_id, _) in store.refunds_to_decide().await.unwrap() {
                store.decide_refunds(&message_id, &PLENTY, at(10)).await.unwrap();
            }
            let Some(due) = store.due_refunds(&customer_id, at(10)).await.unwrap() else { return };
            let refunds = due.debited.into_iter().map(|refund| (refund, Lapse::Never)).collect();
            let opening = CreditOpening { customer_id, entry_id: entry_id(), refunds };
            if let (Some(credit), _) = store.open_credit(&opening, at(10)).await.unwrap() {
                store.settle_entry(&credit, Settled::Sometime, at(11)).await.unwrap();
            }
        }
        _ => {
            if let Some(leave) = store.begin_balance_read(&customer_id).await.unwrap() {
                store.apply_balance(&leave, 10_000, at(1)).await.unwrap();
            }
            store.take_over_entries(&[], at(4)).await.unwrap();
        }
    }
}

/// The operator and the customers decide.
async fn decide(store: &Store, mail: &Mail, nth: u64) {
    let (customer_id, to) = (whose(nth), mailbox(A));
    match nth % 5 {
        0 | 1 => {
            let choice = if nth % 10 < 5 { Choice::Retry } else { Choice::Cancel };
            match store.decide(&mail.nth(nth).message_id, &order(choice)).await {
                Ok(_) | Err(DecisionError::NotNow(..) | DecisionError::NoMessage(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        2 => drop(store.retry_all(true, &order(Choice::Retry)).await.unwrap()),
        3 => {
            store.suppress(&customer_id, &to, None, at(1)).await.unwrap();
            let _ = store.unsuppress(&customer_id, &to).await;
        }
        _ => {
            store.suspend(&customer_id, "late").await.unwrap();
            store.resume(&customer_id, at(2)).await.unwrap();
        }
    }
}

/// Rows leave, and gates close and open.
async fn clear_up(store: &Store, mail: &Mail, nth: u64) {
    let gate = Gate { road: Road::Smtp, reason: "x".to_owned(), since: at(0), try_again_at: at(5_000) };
    match nth % 5 {
        0 => store.close_gate(&gate).await.unwrap(),
        1 => store.open_gate(Road::Smtp, at(100)).await.unwrap(),
        2 => {
            store.try_gates_again(at(50)).await.unwrap();
            store.keep_event(&event::delivered(mail.nth(nth))).await.unwrap();
        }
        3 => {
            store.sweep_keys(at(OLD), 5).await.unwrap();
            store.close_marks(at(OLD)).await.unwrap();
        }
        _ => {
            store.close_captures(at(OLD)).await.unwrap();
            store.close_messages(at(OLD), at(OLD), None).await.unwrap();
            store.close_entries(at(OLD)).await.unwrap();
        }
    }
}
