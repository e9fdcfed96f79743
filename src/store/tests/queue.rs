use super::*;
use crate::store::gate::Gate;

#[tokio::test]
async fn a_part_is_leased_once_and_comes_back_when_its_lease_lapses() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(5)).await;
    let waiting = Acceptance { lease_until: None, ..message(&ann, &["a@y.example"]) };
    let waiting = accepted(&store, waiting).await;
    let due = first_part(&waiting);
    assert!(store.lease(&due, at(0), at(30)).await.unwrap().is_some());
    assert!(store.lease(&due, at(0), at(30)).await.unwrap().is_none(), "somebody has it");
    let own = (waiting.message_id.clone(), 0, 1);
    let other = (waiting.message_id.clone(), 0, 2);
    assert_eq!(store.renew(&[own.clone(), other], at(60)).await.unwrap(), [(own.0.to_string(), 0, 1)]);
    assert_eq!(store.lapse_expired(&[], at(59)).await.unwrap(), 0);
    assert_eq!(
        store.lapse_expired(std::slice::from_ref(&own), at(60)).await.unwrap(),
        0,
        "P4: it is still in somebody's hands, however late"
    );
    assert_eq!(store.lapse_expired(&[], at(60)).await.unwrap(), 1);
    assert_eq!(store.renew(&[own], at(90)).await.unwrap(), []);
    let part = store.lease(&due, at(60), at(90)).await.unwrap().unwrap();
    assert_eq!((part.attempt, part.unknown, part.key_no), (2, true, 0));
    assert_eq!(store.lapse_all(at(61)).await.unwrap(), 1, "a restart trusts no lease");
    assert_audit(&store).await;
}

#[tokio::test]
async fn lifetimes_stand_still_behind_a_closed_gate() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let waiting = |road, second| Acceptance {
        parts: vec![NewPart {
            road,
            recipients: vec![mailbox("a@y.example")],
            request_hash: None,
            batch_max: 1,
        }],
        lease_until: None,
        accepted_at: at(second),
        ..message(&ann, &[])
    };
    let before = accepted(&store, waiting(Road::Resend, 0)).await;
    let during = accepted(&store, waiting(Road::Resend, 150)).await;
    let elsewhere = accepted(&store, waiting(Road::Smtp, 0)).await;
    let over = accepted(&store, message(&ann, &["a@y.example"])).await;
    store.report(report(&over, 1, answered(&["a@y.example"], &[]))).await.unwrap();
    let gate =
        Gate { road: Road::Resend, reason: "bad key".to_owned(), since: at(100), try_again_at: at(160) };
    store.close_gate(&gate).await.unwrap();
    store.close_gate(&Gate { try_again_at: at(190), ..gate.clone() }).await.unwrap();
    assert_eq!(store.gates().await.unwrap(), [Gate { try_again_at: at(190), ..gate }]);
    for _ in 0..2 {
        store.open_gate(Road::Resend, at(200)).await.unwrap();
    }
    assert_eq!(store.gates().await.unwrap(), []);
    for (message, expires_at) in [(before, 1_100), (during, 1_200), (elsewhere, 1_000), (over, 1_000)] {
        let log = store.message(&message.message_id).await.unwrap().unwrap();
        assert_eq!(log.expires_at, at(expires_at));
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_gate_with_much_behind_it_opens_page_by_page_and_goes_on_where_it_stood() {
    const WAITING: i64 = 1_100;
    const EXTENDED: &str = "SELECT count(*) FROM message WHERE expires_at = 1800001100000";
    const DUE: &str = "SELECT count(*) FROM part WHERE state = 'queued' AND due_at = 1800000200000";
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(WAITING)).await;
    let parts = || vec![by_resend("a@y.example")];
    let waiting = || Acceptance { lease_until: None, parts: parts(), ..message(&ann, &[]) };
    for answer in together(&store, (0..WAITING).map(|_| waiting()).collect()).await {
        assert!(matches!(answer, Ok(Accepted::Yes { .. })), "{answer:?}");
    }
    execute(&store, "UPDATE part SET due_at = 1800000900000").await.unwrap();
    let gate =
        Gate { road: Road::Resend, reason: "bad key".to_owned(), since: at(100), try_again_at: at(900) };
    store.close_gate(&gate).await.unwrap();
    // What a process had done of it when it was killed.
    execute(&store, "UPDATE gate SET opened_at = 1800000200000").await.unwrap();
    assert!(store.open_page(Road::Resend).await.unwrap().is_some());
    assert_eq!((count(&store, EXTENDED).await, count(&store, DUE).await), (500, 500));
    assert_eq!(store.gates().await.unwrap(), [gate], "nothing is sent before the last page");
    store.open_gate(Road::Resend, at(300)).await.unwrap();
    assert_eq!((count(&store, EXTENDED).await, count(&store, DUE).await), (WAITING, WAITING), "each once");
    assert_eq!(store.gates().await.unwrap(), []);
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_gate_that_closes_while_it_opens_is_opened_first_and_closed_from_then_on() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let message = accepted(&store, message(&ann, &["a@y.example"])).await;
    let gate = Gate { road: Road::Smtp, reason: "bad key".to_owned(), since: at(100), try_again_at: at(150) };
    store.close_gate(&gate).await.unwrap();
    execute(&store, "UPDATE gate SET opened_at = 1800000200000").await.unwrap();
    store.close_gate(&gate).await.unwrap();
    let expires_at = || async { store.message(&message.message_id).await.unwrap().unwrap().expires_at };
    assert_eq!(expires_at().await, at(1_100));
    assert_eq!(store.gates().await.unwrap(), [Gate { since: at(200), try_again_at: at(200), ..gate }]);
    store.put_gate_off(Road::Smtp, at(250)).await.unwrap();
    store.open_gate(Road::Smtp, at(300)).await.unwrap();
    assert_eq!(expires_at().await, at(1_200), "the time between is its own");
    store.put_gate_off(Road::Smtp, at(400)).await.unwrap();
    assert_eq!(store.gates().await.unwrap(), [], "it is open, and stays so");
}

#[tokio::test]
async fn whoever_was_put_off_by_a_gate_falls_due_when_it_opens_or_the_process_starts() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let (put_off, waits_for_itself) = (at(301), at(3_000));
    for due in [put_off, waits_for_itself] {
        let message = accepted(&store, message(&ann, &["a@y.example"])).await;
        let news = News::Retry {
            due,
            error: "not now".to_owned(),
            unknown: false,
            maybe_taken: Vec::new(),
            counts: true,
            batch_max: None,
        };
        store.report(report(&message, 1, news)).await.unwrap();
    }
    let due = || async { store.due(at(10), &[Road::Smtp], 9).await.unwrap().len() };
    let gate = Gate { road: Road::Smtp, reason: "bad key".to_owned(), since: at(0), try_again_at: at(300) };
    store.try_gates_again(at(10)).await.unwrap();
    assert_eq!(due().await, 0, "no gate is closed");
    store.close_gate(&gate).await.unwrap();
    store.try_gates_again(at(10)).await.unwrap();
    assert_eq!(due().await, 1);
    execute(&store, "UPDATE part SET due_at = 1800000301000 WHERE due_at < 1800000301000").await.unwrap();
    store.close_gate(&gate).await.unwrap();
    store.open_gate(Road::Smtp, at(10)).await.unwrap();
    assert_eq!(due().await, 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn whoever_meets_a_closed_gate_does_not_wait_for_it_once_it_is_open() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let put_off = |message: &Acceptance| {
        let (until, error) = (at(300), "bad key".to_owned());
        store.report(report(message, 1, News::Gated { until, error, unknown: false }))
    };
    let due = |second| {
        let store = store.clone();
        async move { store.due(at(second), &[Road::Smtp], 9).await.unwrap().len() }
    };
    let met = accepted(&store, message(&ann, &["a@y.example"])).await;
    let slow = accepted(&store, message(&ann, &["b@y.example"])).await;
    let gate = Gate { road: Road::Smtp, reason: "bad key".to_owned(), since: at(0), try_again_at: at(300) };
    store.close_gate(&gate).await.unwrap();
    store.close_gate(&Gate { road: Road::Resend, ..gate }).await.unwrap();
    put_off(&met).await.unwrap();
    assert_eq!(due(299).await, 0, "the gate is closed");
    store.open_gate(Road::Smtp, at(1)).await.unwrap();
    assert_eq!(due(1).await, 1, "it opened, and nothing else waits");
    // Another part was taken by the upstream before it was written down that this one was not.
    put_off(&slow).await.unwrap();
    assert_eq!(due(1).await, 2, "P1: it waits for a gate that is open");
    let waiting = store.message(&slow.message_id).await.unwrap().unwrap();
    assert_eq!(waiting.parts[0].attempts, 0, "it was not tried");
    assert_audit(&store).await;
}

#[tokio::test]
async fn a_part_that_cannot_be_read_is_held_and_the_others_go_on() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    let spoilt = accepted(&store, Acceptance { lease_until: None, ..message(&ann, &["a@y.example"]) }).await;
    execute(&store, "UPDATE recipient SET address = 'not an address'").await.unwrap();
    let read = store.lease(&first_part(&spoilt), at(0), at(30)).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert_eq!(store.due(at(0), &[Road::Smtp], 9).await.unwrap().len(), 1, "nothing of the lease was kept");
    store.set_aside(&first_part(&spoilt), "unreadable").await.unwrap();
    assert_eq!(store.due(at(0), &[Road::Smtp], 9).await.unwrap(), []);
    assert_eq!(store.totals().await.unwrap().parts_held, 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn the_writer_gets_over_a_transaction_that_was_dropped() {
    let (store, _directory) = store().await;
    let ann = customer(&store, "ann", Some(9)).await;
    {
        let mut writer = store.writer.lock().await;
        let mut tx = writer.begin().await.unwrap();
        query("UPDATE account SET held = 7").execute(&mut *tx).await.unwrap();
    }
    {
        // What SQLite does by itself when the disk fails in the middle of a transaction.
        let mut writer = store.writer.lock().await;
        let mut tx = writer.begin().await.unwrap();
        query("UPDATE account SET held = 7").execute(&mut *tx).await.unwrap();
        query("ROLLBACK").execute(&mut *tx).await.unwrap();
    }
    store.ping().await.unwrap();
    accepted(&store, message(&ann, &["a@y.example"])).await;
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 0));
    assert_audit(&store).await;
}
