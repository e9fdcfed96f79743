//! PostgreSQL fails: whoever was told that a message is accepted finds it sent, whoever
//! was refused does not, and nobody has to start anything again. A cluster for each test.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use super::*;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::store::stand_in::is_postgres;
use crate::store::stand_in::postgres::Cluster;
use crate::submission::stand_in::in_a_file;
use relay::{Fate, Relay};

mod relay;

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    lock: Duration::from_secs(5),
    transaction: Duration::from_secs(10),
    gathered: Duration::from_secs(10),
    answer: Duration::from_secs(20),
};
/// Nobody waits until a database that is away is back.
const HASTY: Patience =
    Patience { connect: Duration::from_millis(200), answer: Duration::from_millis(200), ..PATIENCE };

/// A cluster with an empty database. `None`: tests run on SQLite.
pub(super) fn cluster(settings: &str) -> Option<Cluster> {
    let cluster = is_postgres().then(|| Cluster::start_with(settings).unwrap())?;
    cluster.create("postmeter");
    Some(cluster)
}

fn start_again(cluster: &mut Cluster) {
    cluster.have("start");
    cluster.until_it_answers();
}

/// The store by the socket there.
async fn open(socket: &Path, patience: Patience) -> Store {
    open_counted(socket, patience, Metrics::new()).await
}

async fn open_counted(socket: &Path, patience: Patience, metrics: Metrics) -> Store {
    let url = format!("postgres://postmeter@localhost/postmeter?host={}", socket.display());
    let settings =
        StoreSettings { database_url: Some(SecretString::from(url)), ..in_a_file(socket, Maker::Serve) };
    let reserve = Reserve::new(0, || u64::MAX);
    Store::open_on(&settings, (reserve, patience), metrics, CrashAt::default()).await.unwrap()
}

/// Asks until the answer is this.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("{what}"))
}

async fn until_it_is_well(store: &Store) {
    until("the database to be back", async || store.ping().await.ok()).await;
}

/// How many messages there are that somebody still has to get, and that nobody has.
async fn waiting_and_failed(store: &Store) -> (i64, i64) {
    const READ: &str = "
        SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'failed') FROM recipient";
    until("a look", async || query_as(READ).fetch_one(&store.readers).await.ok()).await
}

async fn accept(store: &Store, customer_id: &CustomerId) -> Result<Accepted, StoreError> {
    store.accept(message(customer_id, &["a@y.example"])).await
}

fn assert_away(answer: Result<Accepted, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Away(_))), "{answer:?}");
}

#[tokio::test]
async fn p1_a_commit_whose_answer_is_lost_is_found_out() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home);
    let store = open(&relay.directory.0, PATIENCE).await;
    let ann = customer(&store, "ann", Some(9)).await;
    relay.next(Fate::Unanswered);
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 0));
    relay.next(Fate::Lost);
    assert_away(accept(&store, &ann).await);
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 0));
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    assert_eq!(waiting_and_failed(&store).await, (2, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_a_commit_that_is_still_under_way_is_waited_for() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home);
    let store = open(&relay.directory.0, PATIENCE).await;
    let ann = customer(&store, "ann", Some(9)).await;
    relay.next(Fate::Late);
    let asking = tokio::spawn({
        let (store, ann) = (store.clone(), ann.clone());
        async move { accept(&store, &ann).await }
    });
    until("somebody to wait for it", async || {
        let waiting =
            cluster.read("postmeter", "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
        (!waiting.is_empty()).then_some(())
    })
    .await;
    relay.let_arrive();
    assert!(matches!(asking.await.unwrap(), Ok(Accepted::Yes { .. })));
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_what_is_refused_before_it_is_found_out_is_withdrawn() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home);
    let store = open(&relay.directory.0, HASTY).await;
    let ann = customer(&store, "ann", Some(9)).await;
    for (fate, failed) in [(Fate::UnansweredAndClosed, 1), (Fate::LostAndClosed, 1)] {
        relay.next(fate);
        assert_away(accept(&store, &ann).await);
        assert!(store.ping().await.is_err());
        assert!(store.lapse_expired(&[], at(99)).await.is_err(), "nobody gets hold of it meanwhile");
        assert_away(accept(&store, &ann).await);
        relay.open();
        until_it_is_well(&store).await;
        assert_eq!(waiting_and_failed(&store).await, (0, failed), "{fate:?}");
        assert_eq!(sums(&store, &ann).await, (Some(9), 0, 0), "{fate:?}");
        assert!(!refused_ids(&relay).exists(), "it is over");
        assert_audit(&store).await;
    }
    const SAID: &str = "SELECT reply FROM recipient WHERE state = 'failed'";
    let said: String = query_scalar(SAID).fetch_one(&store.readers).await.unwrap();
    assert!(said.starts_with("not acknowledged"), "{said}");
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
}

#[tokio::test]
async fn p1_what_was_refused_under_a_key_is_there_for_whoever_retries_it() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home);
    let store = open(&relay.directory.0, HASTY).await;
    let ann = customer(&store, "ann", Some(9)).await;
    let key = IdempotencyKey::parse("key").unwrap();
    let fingerprint = Fingerprinting::of("test").end();
    let keyed = Keyed { key, fingerprint, served: Vec::new() };
    let keyed = Acceptance { keyed: Some(keyed), ..message(&ann, &["a@y.example"]) };
    relay.next(Fate::UnansweredAndClosed);
    assert_away(store.accept(keyed.clone()).await);
    relay.open();
    until_it_is_well(&store).await;
    assert_eq!(waiting_and_failed(&store).await, (1, 0));
    let again = Acceptance { message_id: MessageId::generate(at(0), random::octets()), ..keyed.clone() };
    let answer = store.accept(again).await.unwrap();
    assert!(
        matches!(&answer, Accepted::Before { message_id, .. } if *message_id == keyed.message_id),
        "{answer:?}"
    );
    assert_audit(&store).await;
}

/// A life of the store there that ends as by a kill: nothing of it is finished or told.
async fn live_and_be_killed(relay: &Relay, act: impl AsyncFnOnce(&Store) + Send + 'static) {
    let home = relay.directory.0.clone();
    let life = move || {
        let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = own.block_on(async {
            let store = open(&home, HASTY).await;
            act(&store).await;
            store
        });
        // Its tasks end where they stand, before they could see that nobody needs them any more.
        own.shutdown_background();
        drop(store);
    };
    tokio::task::spawn_blocking(life).await.unwrap();
}

/// The same, in which two are refused: one who was leased with the acceptance, and one who waits.
/// They are written down if the disk is not full.
async fn be_killed_while_two_are_refused(relay: &Relay, customer_id: &CustomerId, is_kept: bool) {
    let (asked, file) = (customer_id.clone(), refused_ids(relay));
    live_and_be_killed(relay, async move |store| {
        if !is_kept {
            std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        }
        let leased = message(&asked, &["a@y.example"]);
        let waiting = Acceptance { lease_until: None, ..leased.clone() };
        let waiting = Acceptance { message_id: MessageId::generate(at(0), random::octets()), ..waiting };
        for answer in together(store, vec![leased, waiting]).await {
            assert_away(answer);
            assert_eq!(file.is_file(), is_kept, "on disk before anybody is refused");
        }
    })
    .await;
}

fn refused_ids(relay: &Relay) -> PathBuf {
    relay.directory.0.join("refused-ids")
}

#[tokio::test]
async fn p1_who_was_refused_before_a_kill_is_withdrawn_before_anything_else_is_done() {
    let Some(cluster) = cluster("-c max_connections=40") else { return };
    let relay = Relay::before(&cluster.home);
    let ann = customer(&open(&relay.directory.0, HASTY).await, "ann", Some(9)).await;
    for fate in [Fate::UnansweredAndClosed, Fate::LostAndClosed] {
        relay.next(fate);
        be_killed_while_two_are_refused(&relay, &ann, true).await;
        relay.open();
        let store = open(&relay.directory.0, HASTY).await;
        assert_eq!(waiting_and_failed(&store).await, (0, 2), "{fate:?}");
        assert_eq!(sums(&store, &ann).await, (Some(9), 0, 0), "{fate:?}");
        assert_eq!(store.lapse_all(at(9)).await.unwrap(), 0, "{fate:?}");
        assert!(!refused_ids(&relay).exists(), "{fate:?}");
        assert_audit(&store).await;
    }
    let store = open(&relay.directory.0, HASTY).await;
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
}

#[tokio::test]
async fn p1_a_start_waits_for_a_commit_that_was_under_way_at_a_kill() {
    let Some(cluster) = cluster("-c max_connections=40") else { return };
    let relay = Relay::before(&cluster.home);
    let ann = customer(&open(&relay.directory.0, HASTY).await, "ann", Some(9)).await;
    relay.next(Fate::Late);
    be_killed_while_two_are_refused(&relay, &ann, true).await;
    const WAITING: &str = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let let_arrive = async {
        let is_waiting = async || (!cluster.read("postmeter", WAITING).is_empty()).then_some(());
        until("the start to wait for it", is_waiting).await;
        relay.let_arrive();
    };
    let (store, ()) = tokio::join!(open(&relay.directory.0, PATIENCE), let_arrive);
    assert_eq!(waiting_and_failed(&store).await, (0, 2));
    assert_eq!(sums(&store, &ann).await, (Some(9), 0, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn p1_what_another_process_has_taken_over_since_the_kill_stays_its_own() {
    let Some(cluster) = cluster("-c max_connections=40") else { return };
    let relay = Relay::before(&cluster.home);
    let there = open(&cluster.home, PATIENCE).await;
    let ann = customer(&there, "ann", Some(9)).await;
    relay.next(Fate::UnansweredAndClosed);
    be_killed_while_two_are_refused(&relay, &ann, true).await;
    assert_eq!(there.lapse_expired(&[], at(99)).await.unwrap(), 1);
    relay.open();
    let store = open(&relay.directory.0, HASTY).await;
    assert_eq!(waiting_and_failed(&store).await, (1, 1));
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn who_cannot_be_written_down_is_refused_all_the_same_and_nothing_stands_still() {
    let Some(cluster) = cluster("-c max_connections=40") else { return };
    let relay = Relay::before(&cluster.home);
    let ann = customer(&open(&relay.directory.0, HASTY).await, "ann", Some(9)).await;
    relay.next(Fate::UnansweredAndClosed);
    be_killed_while_two_are_refused(&relay, &ann, false).await;
    relay.open();
    let store = open(&relay.directory.0, HASTY).await;
    assert_eq!(waiting_and_failed(&store).await, (2, 0), "this is what the log has told");
    assert_eq!(store.lapse_all(at(9)).await.unwrap(), 1);
    assert_audit(&store).await;
}

#[tokio::test]
async fn p3_whoever_reports_while_the_answer_is_lost_is_answered_when_it_is_known() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home);
    let store = open(&relay.directory.0, HASTY).await;
    let ann = customer(&store, "ann", Some(9)).await;
    for (fate, want) in [(Fate::UnansweredAndClosed, true), (Fate::LostAndClosed, false)] {
        let sent = accepted(&store, message(&ann, &["a@y.example"])).await;
        relay.next(fate);
        let reporting = tokio::spawn({
            let store = store.clone();
            async move { store.report(report(&sent, 1, answered(&["a@y.example"], &[]))).await }
        });
        until("it to be away", async || store.ping().await.err()).await;
        relay.open();
        let recorded = reporting.await.unwrap();
        assert_eq!(recorded.is_ok_and(|recorded| recorded == applied(1)), want, "{fate:?}");
        until_it_is_well(&store).await;
    }
    assert_eq!(sums(&store, &ann).await, (Some(9), 1, 1));
    assert_audit(&store).await;
}

/// Sends until it is told to stop, and counts who was accepted.
async fn load(store: Store, customer_id: CustomerId, mut is_over: tokio::sync::watch::Receiver<bool>) -> i64 {
    let mut accepted = 0;
    while !*is_over.borrow_and_update() {
        accepted += i64::from(matches!(accept(&store, &customer_id).await, Ok(Accepted::Yes { .. })));
    }
    accepted
}

#[tokio::test]
async fn p1_p2_a_restart_under_load_loses_nothing_that_was_accepted_and_keeps_nothing_that_was_not() {
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    let store = open(&cluster.home, PATIENCE).await;
    let ann = customer(&store, "ann", Some(1_000_000)).await;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let senders: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(store.clone(), ann.clone(), is_over.clone()))).collect();
    for _ in 0..2 {
        let before = waiting_and_failed(&store).await.0;
        until("mail to be taken", async || (waiting_and_failed(&store).await.0 > before + 20).then_some(()))
            .await;
        cluster.have("stop");
        start_again(&mut cluster);
    }
    let before = waiting_and_failed(&store).await.0;
    until("mail to be taken", async || (waiting_and_failed(&store).await.0 > before + 20).then_some(()))
        .await;
    over.send_replace(true);
    let mut accepted = 0;
    for sender in senders {
        accepted += sender.await.unwrap();
    }
    assert_eq!(waiting_and_failed(&store).await.0, accepted);
    assert_eq!(sums(&store, &ann).await.1, u64::try_from(accepted).unwrap());
    assert_audit(&store).await;
}

#[tokio::test]
async fn while_it_is_stopped_everybody_is_refused_and_afterwards_nobody() {
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    let metrics = Metrics::new();
    let is_up = |up: bool| metrics.encode().contains(&format!("\npostmeter_database_up {}\n", u8::from(up)));
    let store = open_counted(&cluster.home, HASTY, metrics.clone()).await;
    let ann = customer(&store, "ann", Some(9)).await;
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    cluster.have("stop");
    for _ in 0..3 {
        assert_away(accept(&store, &ann).await);
        assert!(store.ping().await.is_err());
        assert!(matches!(store.account(&ann).await, Err(StoreError::Away(_))));
        assert!(is_up(false));
    }
    start_again(&mut cluster);
    until_it_is_well(&store).await;
    assert!(is_up(true));
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    assert_eq!(sums(&store, &ann).await, (Some(9), 2, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn while_others_have_all_connections_everybody_is_refused_and_afterwards_nobody() {
    const END: &str =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'postmeter'";
    let Some(cluster) = cluster("-c max_connections=20 -c superuser_reserved_connections=0") else { return };
    let store = open(&cluster.home, HASTY).await;
    let ann = customer(&store, "ann", Some(9)).await;
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    let options: PgConnectOptions =
        format!("postgres://postmeter@localhost/postmeter?host={}", cluster.home.display()).parse().unwrap();
    let mut others: Vec<PgConnection> = vec![options.connect().await.unwrap()];
    sqlx::query(END).execute(others.first_mut().unwrap()).await.unwrap();
    // Those that are ended have gone when the last one is had.
    until("all connections", async || {
        others.extend(options.connect().await.ok());
        (others.len() == 20).then_some(())
    })
    .await;
    assert_away(accept(&store, &ann).await);
    assert!(store.ping().await.is_err());
    for other in others {
        other.close().await.unwrap();
    }
    until_it_is_well(&store).await;
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    assert_eq!(sums(&store, &ann).await, (Some(9), 2, 0));
    assert_audit(&store).await;
}

#[tokio::test]
async fn an_account_that_somebody_else_has_locked_keeps_nobody_elses_mail_waiting() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let store = open(&cluster.home, Patience { lock: Duration::from_millis(100), ..PATIENCE }).await;
    let (ann, bob) = (customer(&store, "ann", Some(9)).await, customer(&store, "bob", Some(9)).await);
    let mut turn = store.writer.lock().await;
    let mut tx = turn.begin().await.unwrap();
    query("UPDATE account SET low_armed = 0 WHERE customer_id = 'ann'").execute(&mut *tx).await.unwrap();
    let asked = vec![message(&ann, &["a@y.example"]), message(&bob, &["a@y.example"])];
    let answers = together(&store, asked).await;
    assert!(matches!(answers.first(), Some(Err(StoreError::Contended(_)))), "{answers:?}");
    assert!(matches!(answers.last(), Some(Ok(Accepted::Yes { .. }))), "{answers:?}");
    drop(tx);
    assert!(matches!(accept(&store, &ann).await, Ok(Accepted::Yes { .. })));
    assert_audit(&store).await;
}

/// A small file system that PostgreSQL may put a database on; gone with its owner.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: only root may mount.
    fn mount(cluster: &Cluster) -> Option<Self> {
        let path = cluster.home.join("small");
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32m,mode=700,uid=postgres", "tmpfs"]).arg(&path);
        if !mount.output().is_ok_and(|said| said.status.success()) {
            eprintln!("skipped: this machine does not let us mount a file system");
            return None;
        }
        cluster.read("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", path.display()));
        cluster.read("postgres", "ALTER DATABASE postmeter SET TABLESPACE small");
        Some(Self(path))
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [1 << 16, 4096, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn while_its_disk_is_full_mail_is_refused_and_afterwards_it_is_taken() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let Some(disk) = SmallDisk::mount(&cluster) else { return };
    let store = open(&cluster.home, HASTY).await;
    let ann = customer(&store, "ann", Some(99)).await;
    let full = || Acceptance {
        bytes: Bytes::from(random::octets::<100_000>().to_vec()),
        ..message(&ann, &["a@y.example"])
    };
    assert!(matches!(store.accept(full()).await, Ok(Accepted::Yes { .. })));
    disk.fill();
    // There may be room in what the database has of the disk already.
    let mut taken = 1;
    let refused = until("the room to end", async || match store.accept(full()).await {
        Ok(_) => {
            taken += 1;
            None
        }
        Err(error) => Some(error),
    })
    .await;
    assert!(matches!(refused, StoreError::Away(_)), "{refused:?}");
    assert!(store.ping().await.is_err());
    assert_away(store.accept(full()).await);
    disk.free();
    until_it_is_well(&store).await;
    assert!(matches!(store.accept(full()).await, Ok(Accepted::Yes { .. })));
    assert_eq!(sums(&store, &ann).await, (Some(99), taken + 1, 0));
    assert_audit(&store).await;
}
