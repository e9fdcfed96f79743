//! What one process tells is heard by the other, which looks at nothing by itself.

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::nodes::two;
use super::*;
use crate::domain::decision::Choice;
use crate::store::operator::{Order, Via};
use crate::store::wake::{Bell, Ear, Wake};

const OFTEN: Duration = Duration::from_secs(1);

/// Waits for it as long as anything may take.
async fn in_time<T>(what: &str, wanted: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), wanted).await.unwrap_or_else(|_| panic!("{what}"))
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let asking = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, asking).await;
}

/// Whether it hears the others.
fn is_listening(store: &Store) -> bool {
    store.look_again(OFTEN, OFTEN) > OFTEN
}

/// It listens until this is dropped.
async fn listening(store: &Store, stop: &CancellationToken) -> AbortOnDropHandle<()> {
    store.look_at_nothing_untold();
    assert!(!is_listening(store));
    let task = AbortOnDropHandle::new(tokio::spawn(store.clone().listen(stop.clone())));
    until("it to listen", || is_listening(store)).await;
    task
}

/// Ends the connection of whoever listens, and returns when it is gone.
async fn cut(store: &Store) {
    const CUT: &str = "
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pg_terminate_backend(pid, 10000)";
    let cut: i64 = query_scalar(CUT).fetch_one(&store.readers).await.unwrap();
    assert_eq!(cut, 1);
}

#[tokio::test]
async fn what_one_process_tells_the_other_hears_and_so_it_does_after_its_connection_was_cut() {
    let Some((here, there, _directory)) = two().await else { return };
    let stop = CancellationToken::new();
    let listener = listening(&there, &stop).await;
    assert!(!is_listening(&here), "one who does not listen looks by itself");
    for _ in 0..2 {
        for (bell, wake) in
            [(Bell::Parts, Wake::Parts), (Bell::Gates, Wake::Gates), (Bell::Entries, Wake::Entries)]
        {
            let mut ear = there.ear(bell);
            here.tell(wake.clone()).await;
            in_time(&format!("{wake:?} to be heard"), ear.rung()).await;
        }
        let mut balances = there.balances();
        let ann = CustomerId::parse("ann").unwrap();
        here.tell(Wake::Balance(ann.clone())).await;
        assert_eq!(in_time("a balance", balances.recv()).await, Ok(ann));
        let mut ears = [Bell::Parts, Bell::Gates, Bell::Entries].map(|bell| there.ear(bell));
        cut(&here).await;
        for ear in &mut ears {
            in_time("what may have been missed to be looked at", ear.rung()).await;
        }
        until("it to listen again", || is_listening(&there)).await;
    }
    stop.cancel();
    in_time("the end", listener).await.unwrap();
}

#[tokio::test]
async fn whoever_tells_nothing_of_ours_wakes_nobody() {
    let Some((here, there, _directory)) = two().await else { return };
    let _listener = listening(&there, &CancellationToken::new()).await;
    let mut ears = [Bell::Parts, Bell::Gates, Bell::Entries].map(|bell| (bell, there.ear(bell)));
    let rung = async |ear: &mut Ear| tokio::time::timeout(Duration::ZERO, ear.rung()).await.is_ok();
    for text in ["", "part", "parts, please", "balance", "balance \u{1}"] {
        query("SELECT pg_notify('postmeter', $1)").bind(text).execute(&here.readers).await.unwrap();
    }
    // Whatever comes in order has come when this has.
    let mut balances = there.balances();
    here.tell(Wake::Balance(CustomerId::parse("ann").unwrap())).await;
    in_time("a balance", balances.recv()).await.unwrap();
    for (bell, ear) in &mut ears {
        assert!(!rung(ear).await, "{bell:?}");
    }
}

#[tokio::test]
async fn the_operators_word_and_the_end_of_a_process_are_told() {
    let Some((here, there, _directory)) = two().await else { return };
    let _listener = listening(&there, &CancellationToken::new()).await;
    let ann = customer(&here, "ann", Some(5)).await;
    let message = accepted(&here, message(&ann, &["a@y.example"])).await;
    here.report(report(&message, 1, retry(false))).await.unwrap();
    let mut parts = there.ear(Bell::Parts);
    let order = Order {
        choice: Choice::Retry,
        is_confirmed: false,
        via: Via::Command,
        now: at(10),
        lifetime: Duration::from_secs(500),
    };
    here.decide(&message.message_id, &order).await.unwrap();
    in_time("the operator's word", parts.rung()).await;
    assert_eq!(there.due(at(10), &[Road::Smtp], 9).await.unwrap().len(), 1);
    let mut entries = there.ear(Bell::Entries);
    here.disappear().await.unwrap();
    in_time("the end, for entries", entries.rung()).await;
    in_time("the end, for parts", parts.rung()).await;
    assert_audit(&here).await;
}

#[tokio::test]
async fn a_process_hears_of_what_falls_due_by_its_own_commits() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let mut parts = store.ear(Bell::Parts);
    let waiting = Acceptance { lease_until: None, ..message(&ann, &["a@y.example"]) };
    accepted(&store, waiting).await;
    in_time("what waits", parts.rung()).await;
    let leased = accepted(&store, message(&ann, &["a@y.example"])).await;
    store.report(report(&leased, 1, retry(false))).await.unwrap();
    in_time("what is tried again", parts.rung()).await;
    assert_audit(&store).await;
}

#[tokio::test]
async fn when_the_next_part_falls_due_is_known() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let both = [Road::Smtp, Road::Resend];
    assert_eq!(store.next_due(at(0), &both).await.unwrap(), None);
    let message = accepted(&store, message(&ann, &["a@y.example"])).await;
    assert_eq!(store.next_due(at(0), &both).await.unwrap(), None, "it is in somebody's hands");
    store.report(report(&message, 1, retry(false))).await.unwrap();
    let due = store.next_due(at(0), &both).await.unwrap().unwrap();
    assert_eq!(store.due(due, &both, 9).await.unwrap().len(), 1);
    assert_eq!(store.due(due - Duration::from_millis(1), &both, 9).await.unwrap(), []);
    assert_eq!(store.next_due(at(0), &[Road::Resend]).await.unwrap(), None);
    assert_eq!(store.next_due(due, &both).await.unwrap(), None);
}
