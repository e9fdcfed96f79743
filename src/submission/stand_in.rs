//! A working submission for the tests of the rooms above: a database of its own,
//! a Dodo that does not answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Arrival, Begun, SignedIn, Submission, Submitted, Tools};
use crate::billing::dodo::{Dodo, DodoSettings};
use crate::billing::{self, Billing};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::envelope::Draft;
use crate::domain::event::{Blame, EventKind};
use crate::domain::ids::{CustomerId, MessageId, Username};
use crate::domain::sender::SenderPattern;
use crate::handover::{Handed, Handover};
use crate::mime::address_list::NamedMailbox;
use crate::random;
use crate::routing::Routing;
use crate::store::event::{Letters, Rules, Told};
use crate::store::refund::{Allowance, Decision};
use crate::store::stand_in;
use crate::store::{Maker, Store, StoreError, StoreSettings};
use crate::telemetry::Metrics;
use crate::throttle::sign_in::NamesKey;
use crate::upstream::translating::Translating;

/// A directory that goes away with its owner.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let name = format!("postmeter-{}", u64::from_le_bytes(random::octets()));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        stand_in::forget(&self.0);
    }
}

/// An empty database in a directory of its own.
pub(crate) async fn store() -> (Store, Directory) {
    let directory = Directory::new();
    (reopened(&directory).await, directory)
}

/// An empty SQLite database in a directory of its own, whatever tests run on.
pub(crate) async fn store_in_a_file() -> (Store, Directory) {
    let directory = Directory::new();
    (reopened_file(&directory).await, directory)
}

/// The file in that directory, as the server opens it.
pub(crate) async fn reopened_file(directory: &Directory) -> Store {
    Store::open(&in_a_file(&directory.0, Maker::Serve), Metrics::new()).await.unwrap()
}

/// The store in that directory, as the server opens it.
pub(crate) async fn reopened(directory: &Directory) -> Store {
    Store::open(&settings(&directory.0, Maker::Serve), Metrics::new()).await.unwrap()
}

/// The settings of a store there: notices fall due below ten credits, and any disk is large
/// enough. Where tests run on PostgreSQL, the directory stands for a database of its own.
pub(crate) fn settings(data_dir: &Path, maker: Maker) -> StoreSettings {
    let database_url = stand_in::url_of(data_dir);
    StoreSettings { database_url, ..in_a_file(data_dir, maker) }
}

/// The same with SQLite, whatever tests run on.
pub(crate) fn in_a_file(data_dir: &Path, maker: Maker) -> StoreSettings {
    let data_dir = data_dir.to_owned();
    StoreSettings { data_dir, database_url: None, maker, low_balance_credits: 10, min_free_bytes: 0 }
}

/// A submission on an empty database, and nobody who would deliver.
pub(crate) async fn submission(config: &Config) -> (Submission, Store, Directory) {
    let (submission, store, directory, _) = with_handover(config).await;
    (submission, store, directory)
}

/// A submission on an empty database, and what it hands over.
pub(crate) async fn with_handover(
    config: &Config,
) -> (Submission, Store, Directory, UnboundedReceiver<Handed>) {
    let (handover, handed) = Handover::new(1 << 20, 2);
    let (submission, store, directory) = over(config, handover).await;
    (submission, store, directory, handed)
}

/// A submission on an empty database that hands over there.
pub(crate) async fn over(config: &Config, handover: Handover) -> (Submission, Store, Directory) {
    let (store, directory) = store().await;
    (beside(config, handover, &store).await, store, directory)
}

/// A submission on a database that may have others.
pub(crate) async fn beside(config: &Config, handover: Handover, store: &Store) -> Submission {
    let tools = Tools {
        store: store.clone(),
        billing: billing(config, store),
        handover,
        routing: Routing::new(config),
        translating: Translating::new(config.upstream.max_bytes_translating),
        clock: Clock::system(),
        metrics: Metrics::new(),
        tasks: TaskTracker::new(),
        names_key: NamesKey(store.shared_key().await.unwrap()),
    };
    Submission::new(config, tools)
}

/// The money rooms, with nobody to ask.
pub(crate) fn billing(config: &Config, store: &Store) -> Billing {
    let clock = Clock::system();
    let dodo = Dodo::new(DodoSettings {
        base_url: "http://127.0.0.1:9".to_owned(),
        api_key: SecretString::from("key"),
        entitlement_id: "cde".to_owned(),
        timeout: Duration::from_secs(1),
        clock: clock.clone(),
    });
    Billing::new(
        billing::Tools {
            store: store.clone(),
            dodo: dodo.unwrap(),
            routing: Routing::new(config),
            clock,
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        },
        billing::Settings::new(
            config,
            "https://postmeter.example",
            NamedMailbox::parse("postmaster@example.com").unwrap(),
        ),
    )
}

/// A message of no key, to one.
pub(crate) fn submitted() -> Submitted {
    submitted_to(&["a@y.example"])
}

/// The same to these.
pub(crate) fn submitted_to(to: &[&str]) -> Submitted {
    let mut draft = Draft::new(ReversePath::parse("app@x.example").unwrap(), 9);
    for to in to {
        draft.add(Mailbox::parse(to).unwrap());
    }
    Submitted {
        begun: Begun { senders: vec![SenderPattern::Any], available: None, suppresses: false },
        envelope: draft.seal().unwrap(),
        bytes: b"From: app@x.example\r\nTo: a@y.example\r\nSubject: Hello\r\n\r\nWorld\r\n".to_vec(),
        spool: None,
        arrival: Arrival {
            protocol: "ESMTPSA",
            peer: "192.0.2.1:25".parse().unwrap(),
            helo: None,
            tls: None,
        },
        keyed: None,
        notes: Vec::new(),
    }
}

/// A hard bounce is told of a message, whose addresses are not to blame for it.
pub(crate) async fn bounced(
    store: &Store,
    (message_id, customer_id): (&MessageId, &CustomerId),
    recipients: &[Mailbox],
    allowance: Option<&Allowance>,
    now: Timestamp,
) -> Result<Vec<Decision>, StoreError> {
    let told = Told {
        message_id: message_id.clone(),
        part_no: 0,
        customer_id: customer_id.clone(),
        kind: EventKind::Bounced,
        told_at: now,
        recipients: recipients.to_vec(),
        words: Some("Permanent General: smtp; 550 5.1.1 user unknown".to_owned()),
        blame: Blame::Unclear,
    };
    let thresholds = Config::default().reputation;
    let letters = Letters { bounce: &|_, _| None, somebody_failed: &|_, _| None, pause: &|_, _| None };
    let rules = Rules { allowance, thresholds: &thresholds, letters };
    Ok(store.hear(&told, &rules, now).await?.refunds)
}

/// A customer with two credits who may send as anybody.
pub(crate) async fn signed_in(store: &Store) -> SignedIn {
    signed_in_as(store, "ann").await
}

/// The same by that name.
pub(crate) async fn signed_in_as(store: &Store, name: &str) -> SignedIn {
    let customer_id = CustomerId::parse(name).unwrap();
    let now = Clock::system().now();
    store.add_customer(&customer_id, None, None, now).await.unwrap();
    store.allow_sender(&customer_id, &SenderPattern::Any, now).await.unwrap();
    let leave = store.begin_balance_read(&customer_id).await.unwrap().unwrap();
    store.apply_balance(&leave, 2, now).await.unwrap();
    SignedIn { customer_id, username: Some(Username::parse("pm-1").unwrap()) }
}
