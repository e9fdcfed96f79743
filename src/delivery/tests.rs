//! Delivery at work, with a database of its own and a Resend that takes everything.

use secrecy::SecretString;

use super::*;
use crate::domain::ids::MessageId;
use crate::domain::message::CHUNK_BYTES;
use crate::outbound::stand_in::{Given, StandIn};
use crate::store::log::PartLog;
use crate::submission::stand_in::{self, Directory};
use crate::submission::{SignedIn, Submission};
use crate::upstream::resend::{Resend, ResendSettings};
use crate::upstream::translating::Translating;

const LARGE: usize = 2 * CHUNK_BYTES;
const TAKEN: Given = (200, &[], r#"{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#);

/// Delivery with one place and room for the translation of one large message.
struct Bench {
    store: Store,
    submission: Submission,
    who: SignedIn,
    resend: StandIn,
    translating: Translating,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    _directory: Directory,
}

impl Bench {
    async fn start() -> Self {
        let config: Config = toml::from_str("[upstream]\nmax_concurrency = 1").unwrap();
        let (submission, store, directory) = stand_in::submission(&config).await;
        let who = stand_in::signed_in(&store).await;
        let resend = StandIn::start(&[TAKEN, TAKEN]).await;
        let translating = Translating::new(4 * LARGE);
        // What is accepted by the machine's clock is due.
        let clock = Clock::manual(Clock::system().now());
        clock.advance(Duration::from_secs(3_600));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let settings = ResendSettings {
            base_url: resend.base_url.clone(),
            api_key: SecretString::from("key"),
            timeout: Duration::from_secs(10),
            clock: clock.clone(),
        };
        let upstreams = Upstreams {
            resend: Some(Resend::new(&settings).unwrap()),
            smtp: None,
            translating: translating.clone(),
        };
        let (handover, handed) = Handover::new(4 * LARGE);
        let tools = Tools {
            store: store.clone(),
            upstreams,
            billing: stand_in::billing(&config, &store),
            handover,
            clock: clock.clone(),
            metrics: Metrics::new(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let notices_from = NamedMailbox::parse("postmaster@example.com").unwrap();
        let settings = Settings::new(&config, notices_from);
        Delivery::new(tools, settings).start(handed).await.unwrap();
        Self { store, submission, who, resend, translating, clock, tasks, stop, _directory: directory }
    }

    /// A message of so many octets at least, which waits in the database.
    async fn submit(&self, octets: usize) -> MessageId {
        let mut submitted = stand_in::submitted();
        while submitted.bytes.len() < octets {
            submitted.bytes.extend_from_slice(b"one line of many that are all alike\r\n");
        }
        self.submission.submit(&self.who, submitted).await.unwrap().message_id
    }

    async fn part(&self, message_id: &MessageId) -> PartLog {
        self.store.message(message_id).await.unwrap().unwrap().parts.remove(0)
    }

    async fn until(&self, message_id: &MessageId, is: impl Fn(&PartLog) -> bool) -> PartLog {
        let reached = async {
            loop {
                let part = self.part(message_id).await;
                if is(&part) {
                    return part;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), reached).await {
            Ok(part) => part,
            Err(_) => panic!("it did not come to that: {:?}", self.part(message_id).await),
        }
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        let stopped = tokio::time::timeout(Duration::from_secs(30), self.tasks.wait()).await;
        assert!(stopped.is_ok(), "somebody does not hear the stop");
    }
}

fn is_sending(part: &PartLog) -> bool {
    part.state == "sending"
}

#[tokio::test]
async fn p7_a_large_part_that_waits_for_its_turn_keeps_its_lease_and_nobody_waits_for_it() {
    let bench = Bench::start().await;
    let turn = bench.translating.turn(LARGE).await.unwrap();
    let large = bench.submit(LARGE).await;
    bench.until(&large, is_sending).await;
    bench.clock.advance(Duration::from_secs(3_600));
    // There is one place. Whoever finds what is due looks for leases that ran out first.
    let small = bench.submit(1).await;
    bench.until(&small, |part| part.state == "sent").await;
    let waits = bench.part(&large).await;
    assert!(is_sending(&waits) && !waits.unknown, "{waits:?}");
    assert_eq!(bench.resend.asked().len(), 1);
    drop(turn);
    let sent = bench.until(&large, |part| part.state == "sent").await;
    assert_eq!(sent.attempts, 1);
    assert!(bench.resend.asked()[1].body.len() > LARGE);
    bench.stop().await;
    assert_eq!(bench.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn p1_a_stop_does_not_wait_for_a_turn_and_the_part_is_as_it_was() {
    let bench = Bench::start().await;
    let _turn = bench.translating.turn(LARGE).await.unwrap();
    let large = bench.submit(LARGE).await;
    bench.until(&large, is_sending).await;
    bench.stop().await;
    let part = bench.part(&large).await;
    assert_eq!((part.state.as_str(), part.attempts, part.unknown), ("queued", 0, false));
    assert!(bench.resend.asked().is_empty());
    assert_eq!(bench.store.audit().await.unwrap(), []);
}
