//! Several processes on one database, any of which may be gone. A database that is a file has
//! one, so what is here of two is about PostgreSQL.

use super::*;
use crate::store::entry::{LEASE, Settled};
use crate::store::node::{Duty, NameError};

/// Two processes on one database; `None`: it is a file.
pub(super) async fn two() -> Option<(Store, Store, Directory)> {
    let directory = Directory::new();
    let one = settings(&directory.0, Maker::Serve);
    one.database_url.as_ref()?;
    let other = StoreSettings { data_dir: directory.0.join("other"), ..one.clone() };
    let open = async |settings| Store::open(&settings, Metrics::new()).await.unwrap();
    Some((open(one).await, open(other).await, directory))
}

async fn state(store: &Store, of: &Acceptance) -> String {
    store.message(&of.message_id).await.unwrap().unwrap().parts.remove(0).state
}

#[tokio::test]
async fn a_process_keeps_its_name_and_takes_up_only_its_own_at_the_start() {
    let Some((here, there, directory)) = two().await else { return };
    assert_ne!(here.node, there.node);
    let ann = customer(&here, "ann", Some(5)).await;
    let message = accepted(&here, message(&ann, &["a@y.example"])).await;
    assert_eq!(there.lapse_all(at(1)).await.unwrap(), 0, "it is in another's hands");
    let again = reopened(&directory).await;
    assert_eq!(again.node, here.node);
    assert_eq!(again.lapse_all(at(1)).await.unwrap(), 1);
    assert_eq!(state(&there, &message).await, "queued");
    assert_audit(&there).await;
}

#[tokio::test]
async fn p4_a_part_goes_to_another_process_when_its_lease_is_over_and_the_first_may_not_speak_for_it() {
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(5)).await;
    let message = accepted(&here, message(&ann, &["a@y.example"])).await;
    let own = (message.message_id.clone(), 0, 1);
    assert_eq!(there.lapse_expired(&[], at(29)).await.unwrap(), 0);
    assert_eq!(there.renew(std::slice::from_ref(&own), at(60)).await.unwrap(), [], "it is not its own");
    assert_eq!(there.lapse_expired(&[], at(30)).await.unwrap(), 1);
    let part = there.lease(&first_part(&message), at(30), at(60)).await.unwrap().unwrap();
    assert_eq!((part.attempt, part.unknown), (2, true));
    assert_eq!(here.renew(&[own], at(60)).await.unwrap(), []);
    assert_eq!(here.report(report(&message, 1, retry(false))).await.unwrap(), Recorded::Late);
    assert_eq!(here.lapse_expired(&[], at(31)).await.unwrap(), 0);
    let sent = || answered(&["a@y.example"], &[]);
    assert_eq!(here.report(report(&message, 1, sent())).await.unwrap(), applied(1), "what was sent was sent");
    assert_eq!(there.report(report(&message, 2, sent())).await.unwrap(), Recorded::Late);
    assert_eq!(sums(&here, &ann).await, (Some(5), 0, 1));
    assert_audit(&here).await;
}

#[tokio::test]
async fn p4_an_attempt_of_the_same_number_is_another_one_in_another_process() {
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(5)).await;
    let message = accepted(&here, message(&ann, &["a@y.example"])).await;
    let not_begun = || News::Retry {
        due: at(0),
        error: "not begun".to_owned(),
        unknown: false,
        maybe_taken: Vec::new(),
        counts: false,
        batch_max: None,
    };
    assert_eq!(here.report(report(&message, 1, not_begun())).await.unwrap(), applied(0));
    let part = there.lease(&first_part(&message), at(1), at(30)).await.unwrap().unwrap();
    assert_eq!(part.attempt, 1);
    for news in [not_begun(), answered(&[], &["a@y.example"]), News::Hold { reason: "lost".to_owned() }] {
        assert_eq!(here.report(report(&message, 1, news)).await.unwrap(), Recorded::Late);
    }
    assert_eq!(state(&here, &message).await, "sending");
    let own = [(message.message_id.clone(), 0, 1)];
    assert_eq!(there.renew(&own, at(60)).await.unwrap().len(), 1);
    assert_audit(&here).await;
}

#[tokio::test]
async fn several_who_drain_one_backlog_take_each_part_once_and_all_of_it() {
    const WAIT: usize = 300;
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(1_000)).await;
    let waiting = || Acceptance { lease_until: None, ..message(&ann, &["a@y.example"]) };
    for answer in together(&here, std::iter::repeat_with(waiting).take(WAIT).collect()).await {
        assert!(matches!(answer.unwrap(), Accepted::Yes { .. }));
    }
    let drain = async |store: &Store| {
        let mut taken = Vec::new();
        loop {
            let due = store.due_alone(at(1), &[Road::Smtp], 20).await.unwrap();
            if due.is_empty() {
                return taken;
            }
            let leased = store.lease_page(&due, at(1), at(30)).await.unwrap();
            taken.extend(leased.parts.into_iter().map(|part| part.message_id));
        }
    };
    for store in [&here, &there, &here] {
        assert!(store.appear(at(1)).await.unwrap());
    }
    let (one, other) = tokio::join!(drain(&here), drain(&there));
    let all: std::collections::BTreeSet<_> = one.iter().chain(&other).collect();
    assert_eq!((one.len() + other.len(), all.len()), (WAIT, WAIT));
    assert_audit(&here).await;
}

#[tokio::test]
async fn p3_an_entry_is_posted_by_whoever_has_it_and_by_another_when_that_one_is_gone() {
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(50)).await;
    owe(&here, &ann).await;
    let entry = here.open_entry(&ann, &entry_id(), None, at(0)).await.unwrap().unwrap();
    let lease = i64::try_from(LEASE.as_secs()).unwrap();
    let in_hand = [entry.entry_id.clone()];
    assert_eq!(there.take_over_entries(&[], at(lease - 1)).await.unwrap(), []);
    assert_eq!(here.take_over_entries(&in_hand, at(lease - 1)).await.unwrap(), []);
    assert_eq!(here.renew_entries(&in_hand, at(10)).await.unwrap(), in_hand);
    assert_eq!(there.take_over_entries(&[], at(lease + 9)).await.unwrap(), []);
    let taken = there.take_over_entries(&[], at(lease + 10)).await.unwrap();
    assert_eq!((taken.len(), taken[0].unknown_tries), (1, 1), "the other may have posted it");
    // The first was only standing still.
    assert_eq!(here.renew_entries(&in_hand, at(50)).await.unwrap(), []);
    assert!(!here.void_entry(&entry, "no credit", at(50)).await.unwrap());
    assert!(!here.doubt_entry(&entry, "no credit", at(50)).await.unwrap());
    assert!(!here.note_entry_try(&entry, true, "lost", at(50)).await.unwrap());
    assert_eq!(there.open_entries().await.unwrap(), taken);
    here.settle_entry(&entry, Settled::Sometime, at(51)).await.unwrap();
    there.settle_entry(&taken[0], Settled::Sometime, at(52)).await.unwrap();
    assert_eq!(sums(&here, &ann).await, (Some(49), 0, 0), "it was debited once");
    assert_audit(&here).await;
}

#[tokio::test]
async fn who_leaves_keeps_nobody_waiting_for_entries_and_duties() {
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(50)).await;
    owe(&here, &ann).await;
    here.open_entry(&ann, &entry_id(), None, at(0)).await.unwrap().unwrap();
    let hour = Duration::from_secs(3600);
    assert!(here.takes(Duty::Sweep, at(0), hour).await.unwrap());
    assert!(!there.takes(Duty::Sweep, at(1), hour).await.unwrap());
    assert!(there.takes(Duty::Books, at(1), hour).await.unwrap(), "one duty is not another");
    assert!(here.takes(Duty::Sweep, at(2), hour).await.unwrap(), "it stays with whoever has it");
    assert!(!there.takes(Duty::Sweep, at(3631), hour).await.unwrap());
    here.disappear().await.unwrap();
    assert!(there.takes(Duty::Sweep, at(3), hour).await.unwrap());
    assert_eq!(there.take_over_entries(&[], at(3)).await.unwrap().len(), 1);
    assert!(!here.takes(Duty::Sweep, at(3632), hour).await.unwrap());
    assert!(here.takes(Duty::Sweep, at(3633), hour).await.unwrap(), "it is over");
    assert_audit(&here).await;
}

#[tokio::test]
async fn the_only_process_has_every_duty() {
    let (store, _directory) = store().await;
    for second in 0..3 {
        assert!(store.takes(Duty::Doubts, at(second), Duration::from_secs(3600)).await.unwrap());
    }
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_p3_a_clock_that_was_set_back_keeps_nothing_of_a_dead_process_from_the_others() {
    const HOUR: i64 = 3_600;
    let Some((here, there, _directory)) = two().await else { return };
    let ann = customer(&here, "ann", Some(50)).await;
    owe(&here, &ann).await;
    let lease = Duration::from_secs(30);
    let leased = || Acceptance { lease_until: Some(at(HOUR + 30)), ..message(&ann, &["a@y.example"]) };
    let (message, kept) = (accepted(&here, leased()).await, accepted(&here, leased()).await);
    here.open_entry(&ann, &entry_id(), None, at(HOUR)).await.unwrap().unwrap();
    assert!(here.takes(Duty::Sweep, at(HOUR), lease).await.unwrap());
    // What was leased a moment ago is none of that.
    assert_eq!(there.shorten_leases(at(HOUR), lease).await.unwrap(), 0);

    assert_eq!(there.shorten_leases(at(0), lease).await.unwrap(), 2);
    assert_eq!(there.shorten_leases(at(1), lease).await.unwrap(), 0, "that is enough");
    // Of the two one is still in somebody's hands.
    let own = [(kept.message_id.clone(), 0, 1)];
    assert_eq!(here.renew(&own, at(90)).await.unwrap().len(), 1);
    assert_eq!(there.lapse_expired(&[], at(59)).await.unwrap(), 0);
    assert_eq!(there.lapse_expired(&[], at(60)).await.unwrap(), 1);
    assert_eq!(
        (state(&there, &message).await, state(&there, &kept).await),
        ("queued".into(), "sending".into())
    );
    let after = i64::try_from(LEASE.as_secs()).unwrap();
    assert_eq!(there.take_over_entries(&[], at(0)).await.unwrap(), [], "its owner may renew it");
    assert_eq!(there.take_over_entries(&[], at(after - 1)).await.unwrap(), []);
    assert_eq!(there.take_over_entries(&[], at(after)).await.unwrap().len(), 1);
    assert!(there.takes(Duty::Sweep, at(0), lease).await.unwrap());
    assert!(!here.takes(Duty::Sweep, at(1), Duration::from_secs(5)).await.unwrap(), "it is held");
    assert_audit(&there).await;
}

/// The same process again, by a copy of its directory; `None`: the database is a file.
async fn copied(directory: &Directory) -> Option<Store> {
    let settings = settings(&directory.0, Maker::Serve);
    settings.database_url.as_ref()?;
    let copy = StoreSettings { data_dir: directory.0.join("copy"), ..settings };
    make_private_dir(&copy.data_dir).unwrap();
    std::fs::copy(directory.0.join("node-id"), copy.data_dir.join("node-id")).unwrap();
    Some(Store::open(&copy, Metrics::new()).await.unwrap())
}

/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn p4_a_process_by_a_copied_directory_does_not_take_the_others_name_while_that_one_is_there() {
    let (here, directory) = store().await;
    let Some(copy) = copied(&directory).await else { return };
    assert_eq!(copy.node, here.node);
    here.take_name(EVER).await.unwrap();
    let there = async {
        loop {
            assert!(here.appear(here.time().await.unwrap().unwrap()).await.unwrap(), "it has kept its name");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let taken = tokio::select! {
        taken = copy.take_name(EVER) => taken,
        () = there => unreachable!("it goes on"),
    };
    assert!(matches!(taken, Err(NameError::Taken)), "{taken:?}");
}

#[tokio::test]
async fn who_starts_again_where_it_was_has_its_name_at_once_and_elsewhere_when_the_other_is_gone() {
    let (here, directory) = store().await;
    let Some(copy) = copied(&directory).await else { return };
    here.take_name(EVER).await.unwrap();
    let again = reopened(&directory).await;
    tokio::time::timeout(Duration::from_secs(60), again.take_name(EVER)).await.expect("at once").unwrap();
    copy.take_name(Duration::from_millis(50)).await.unwrap();
    assert!(copy.appear(at(9)).await.unwrap());
    let lease = Duration::from_secs(30);
    assert!(copy.takes(Duty::Sweep, at(9), lease).await.unwrap());
    // Those who stood still find out, and take nothing with them.
    for replaced in [&here, &again] {
        assert!(!replaced.appear(at(10)).await.unwrap());
        replaced.disappear().await.unwrap();
    }
    assert!(copy.appear(at(11)).await.unwrap());
    assert_eq!(count(&copy, "SELECT count(*) FROM duty").await, 1);
    copy.disappear().await.unwrap();
    assert_eq!(count(&copy, "SELECT (SELECT count(*) FROM duty) + (SELECT count(*) FROM node)").await, 0);
    assert_audit(&copy).await;
}
