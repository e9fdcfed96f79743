//! Delivery at work, with a database of its own and a Resend that takes everything, in the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::Uri;
use secrecy::SecretString;

use super::*;
use crate::domain::ids::MessageId;
use crate::domain::message::{CHUNK_BYTES, Road};
use crate::outbound::stand_in::{Given, StandIn};
use crate::store::log::PartLog;
use crate::submission::stand_in::{self, Directory};
use crate::submission::{SignedIn, Submission};
use crate::upstream::resend::{Resend, ResendSettings};
use crate::upstream::translating::Translating;

mod nodes;

const LARGE: usize = 2 * CHUNK_BYTES;
const TAKEN: Given = (200, &[], r#"{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#);

/// Delivery, and room for the translation of a few large messages.
struct Bench {
    store: Store,
    submission: Submission,
    who: SignedIn,
    handover: Handover,
    translating: Translating,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    _directory: Directory,
}

/// What delivery works with on that database.
fn tools(
    config: &Config,
    base_url: &str,
    (store, handover): (&Store, &Handover),
    (clock, translating): (&Clock, &Translating),
) -> Tools {
    let settings = ResendSettings {
        base_url: base_url.to_owned(),
        api_key: SecretString::from("key"),
        timeout: Duration::from_secs(10),
        clock: clock.clone(),
    };
    let resend = Some(Resend::new(&settings).unwrap());
    Tools {
        store: store.clone(),
        upstreams: Upstreams { resend, smtp: None, translating: translating.clone() },
        billing: stand_in::billing(config, store),
        handover: handover.clone(),
        clock: clock.clone(),
        metrics: Metrics::new(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    }
}

async fn start(tools: Tools, config: &Config, handed: mpsc::UnboundedReceiver<Handed>) {
    let notices_from = NamedMailbox::parse("postmaster@example.com").unwrap();
    let settings = Settings::new(config, notices_from);
    Delivery::new(tools, settings).start(handed).await.unwrap();
}

impl Bench {
    /// With so many places, room for so many large messages, and as many turns.
    async fn start(base_url: &str, places: usize, large: usize) -> Self {
        let bench = Self::asleep(base_url, places, large).await;
        // What is accepted by the machine's clock is due.
        bench.clock.advance(Duration::from_secs(3_600));
        bench
    }

    /// The same; nothing is due until the clock is advanced.
    async fn asleep(base_url: &str, places: usize, large: usize) -> Self {
        let config: Config = toml::from_str(&format!("[upstream]\nmax_concurrency = {places}")).unwrap();
        let (handover, handed) = Handover::new(4 * large * LARGE, places);
        let (submission, store, directory) = stand_in::over(&config, handover.clone()).await;
        let who = stand_in::signed_in(&store).await;
        let leave = store.begin_balance_read(&who.customer_id).await.unwrap().unwrap();
        store.apply_balance(&leave, 200, Clock::system().now()).await.unwrap();
        let translating = Translating::new(4 * large * LARGE);
        let clock = Clock::manual(Clock::system().now());
        let tools = tools(&config, base_url, (&store, &handover), (&clock, &translating));
        let (tasks, stop) = (tools.tasks.clone(), tools.stop.clone());
        start(tools, &config, handed).await;
        Self { store, submission, who, handover, translating, clock, tasks, stop, _directory: directory }
    }

    /// A message of so many octets at least, which waits in the database.
    async fn submit(&self, octets: usize) -> MessageId {
        self.handover.set_open(Road::Resend, false);
        let message_id = self.submit_in_memory(octets).await;
        self.handover.set_open(Road::Resend, true);
        message_id
    }

    /// The same, which is handed over if it is small.
    async fn submit_in_memory(&self, octets: usize) -> MessageId {
        let mut submitted = stand_in::submitted();
        while submitted.bytes.len() < octets {
            submitted.bytes.extend_from_slice(b"one line of many that are all alike\r\n");
        }
        self.submission.submit(&self.who, submitted).await.unwrap().message_id
    }

    async fn part(&self, message_id: &MessageId) -> PartLog {
        part(&self.store, message_id).await
    }

    async fn until(&self, message_id: &MessageId, is: impl Fn(&PartLog) -> bool) -> PartLog {
        until(&self.store, message_id, is).await
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        let stopped = tokio::time::timeout(Duration::from_secs(30), self.tasks.wait()).await;
        assert!(stopped.is_ok(), "somebody does not hear the stop");
    }
}

async fn part(store: &Store, message_id: &MessageId) -> PartLog {
    store.message(message_id).await.unwrap().unwrap().parts.remove(0)
}

async fn until(store: &Store, message_id: &MessageId, is: impl Fn(&PartLog) -> bool) -> PartLog {
    let reached = async {
        loop {
            let part = part(store, message_id).await;
            if is(&part) {
                return part;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(30), reached).await {
        Ok(part) => part,
        Err(_) => panic!("it did not come to that: {:?}", part(store, message_id).await),
    }
}

/// What a Resend says that takes whatever it is asked for.
fn taken(path: &str, body: &[u8]) -> String {
    match path {
        "/emails/batch" => {
            let mails: Vec<serde_json::Value> = serde_json::from_slice(body).unwrap();
            serde_json::json!({ "data": vec![serde_json::json!({ "id": "one of several" }); mails.len()] })
                .to_string()
        }
        _ => TAKEN.2.to_owned(),
    }
}

/// A Resend that takes small requests, and larger ones once it may; how many of those came.
async fn hanging(may: CancellationToken, larger: usize) -> (String, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    let answer = move |uri: Uri, body: Bytes| async move {
        if body.len() > larger {
            counted.fetch_add(1, Ordering::SeqCst);
            may.cancelled().await;
        }
        taken(uri.path(), &body)
    };
    (served(Router::new().fallback(answer)).await, came)
}

/// A Resend that takes everything; the octets of each request that came.
async fn taking() -> (String, Arc<Mutex<Vec<usize>>>) {
    let came = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&came);
    let answer = move |uri: Uri, body: Bytes| async move {
        noted.lock().unwrap().push(body.len());
        taken(uri.path(), &body)
    };
    (served(Router::new().fallback(answer)).await, came)
}

async fn served(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    base_url
}

fn is_sending(part: &PartLog) -> bool {
    part.state == "sending"
}

#[tokio::test]
async fn p7_a_large_part_that_waits_for_its_turn_keeps_its_lease_and_nobody_waits_for_it() {
    let resend = StandIn::start(&[TAKEN, TAKEN]).await;
    let bench = Bench::start(&resend.base_url, 1, 1).await;
    let turn = bench.translating.turn(LARGE).await.unwrap();
    let large = bench.submit(LARGE).await;
    bench.until(&large, is_sending).await;
    bench.clock.advance(Duration::from_secs(3_600));
    // There is one place. Whoever finds what is due looks for leases that ran out first.
    let small = bench.submit(1).await;
    bench.until(&small, |part| part.state == "sent").await;
    let waits = bench.part(&large).await;
    assert!(is_sending(&waits) && !waits.unknown, "{waits:?}");
    assert_eq!(resend.asked().len(), 1);
    drop(turn);
    let sent = bench.until(&large, |part| part.state == "sent").await;
    assert_eq!(sent.attempts, 1);
    assert!(resend.asked()[1].body.len() > LARGE);
    bench.stop().await;
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn p1_a_stop_does_not_wait_for_a_turn_and_the_part_is_as_it_was() {
    let resend = StandIn::start(&[TAKEN, TAKEN]).await;
    let bench = Bench::start(&resend.base_url, 1, 1).await;
    let _turn = bench.translating.turn(LARGE).await.unwrap();
    let large = bench.submit(LARGE).await;
    bench.until(&large, is_sending).await;
    bench.stop().await;
    let part = bench.part(&large).await;
    assert_eq!((part.state.as_str(), part.attempts, part.unknown), ("queued", 0, false));
    assert!(resend.asked().is_empty());
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn p7_however_many_large_parts_hang_at_the_upstream_small_mail_leaves() {
    let may = CancellationToken::new();
    let (base_url, came) = hanging(may.clone(), LARGE).await;
    let bench = Bench::start(&base_url, 8, 12).await;
    let mut large = Vec::new();
    for _ in 0..12 {
        large.push(bench.submit(LARGE).await);
    }
    let half = async {
        while came.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), half).await.expect("large ones take half of the places");
    let due = bench.submit(1).await;
    let handed = bench.submit_in_memory(1).await;
    for small in [&due, &handed] {
        bench.until(small, |part| part.state == "sent").await;
    }
    assert_eq!(came.load(Ordering::SeqCst), 4, "and no more");
    may.cancel();
    for large in &large {
        bench.until(large, |part| part.state == "sent").await;
    }
    bench.stop().await;
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn who_may_leave_together_is_taken_however_many_wait_to_leave_alone() {
    const ALONE: usize = 70 << 10;
    let may = CancellationToken::new();
    let (base_url, came) = hanging(may.clone(), ALONE).await;
    let bench = Bench::start(&base_url, 1, 1).await;
    let mut alone = Vec::new();
    for _ in 0..3 {
        alone.push(bench.submit(ALONE).await);
    }
    // One has the place, and the next waits for that.
    let hangs = async {
        while came.load(Ordering::SeqCst) < 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), hangs).await.expect("one is under way");
    let small = bench.submit(1).await;
    bench.until(&small, |part| part.state != "queued").await;
    may.cancel();
    for sent in alone.iter().chain([&small]) {
        bench.until(sent, |part| part.state == "sent").await;
    }
    bench.stop().await;
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn however_much_of_one_customer_lies_in_the_database_another_waits_for_none_of_it() {
    const ONE: usize = 70 << 10;
    const OTHER: usize = 100 << 10;
    let (base_url, came) = taking().await;
    let mut bench = Bench::asleep(&base_url, 1, 1).await;
    // More than a page, and all of it is older.
    for _ in 0..PAGE + 20 {
        bench.submit(ONE).await;
    }
    bench.who = stand_in::signed_in_as(&bench.store, "bob").await;
    let other = bench.submit(OTHER).await;
    bench.clock.advance(Duration::from_secs(3_600));
    bench.until(&other, |part| part.state == "sent").await;
    let calls = came.lock().unwrap().clone();
    let before = calls.iter().position(|octets| *octets > OTHER).unwrap();
    assert!(before <= 1, "{before} calls of {} were made first", calls.len());
    bench.stop().await;
    assert_eq!(bench.store.audit().await.unwrap(), []);
}
