//! The store against a real database file: what each step does to mail and money,
//! and that the audit finds nothing after any of them.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};

use super::accept::{Acceptance, Accepted, Kind, NewPart};
use super::account::ReadOutcome;
use super::audit::{Finding, findings};
use super::queue::DuePart;
use super::report::{Answered, News, Recorded, Report, Rest};
use super::sql::{Sql, Whole, query, query_as, query_scalar};
use super::*;
use crate::domain::account::Account;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::answer::Answer;
use crate::domain::credits::{Credits, Unit};
use crate::domain::ids::{CustomerId, EntryId, MessageId};
use crate::domain::message::Road;
use crate::random;
use crate::submission::stand_in::{Directory, reopened, reopened_file, settings, store, store_in_a_file};

mod acceptance;
mod audit;
mod batch;
mod bucket;
mod caps;
mod doubt;
mod dsn;
mod due;
mod entries;
mod event;
mod fitness;
mod header;
mod idempotency;
mod levels;
mod model;
mod moving;
mod nodes;
mod nul;
mod opening;
mod operator;
mod operator_view;
mod outage;
mod plans;
mod proof;
mod queue;
mod races;
mod ration;
mod refunds;
mod reports;
mod retention;
mod search;
mod spool;
mod story;
mod usage;
mod wake;
mod way_in;

impl Store {
    /// Small parts that are due, whether they leave alone or not, the longest waiting first.
    async fn due(&self, now: Timestamp, roads: &[Road], limit: u32) -> Result<Vec<DuePart>, StoreError> {
        const ORDER: &str = "SELECT message_id, part_no FROM part WHERE state = 'queued' ORDER BY due_at, message_id, part_no";
        let mut due = self.due_together(now, roads, limit).await?;
        due.extend(self.due_alone(now, roads, limit).await?);
        let order: Vec<(String, Whole)> = query_as(ORDER).fetch_all(&self.readers).await?;
        due.sort_by_key(|part| {
            order.iter().position(|(id, no)| id == part.message_id.as_str() && no.0 == part.part_no)
        });
        due.truncate(usize::try_from(limit).unwrap());
        Ok(due)
    }
}

/// So many seconds after the beginning of these tests.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn id(name: &str) -> CustomerId {
    CustomerId::parse(name).unwrap()
}

fn credits(count: u64) -> Credits {
    Credits::new(count).unwrap()
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox::parse(address).unwrap()
}

/// A customer whose balance is that, or was never read.
async fn customer(store: &Store, name: &str, balance: Option<i64>) -> CustomerId {
    let customer_id = id(name);
    store.add_customer(&customer_id, Some("owner@x.example"), None, at(0)).await.unwrap();
    if let Some(balance) = balance {
        read_balance(store, &customer_id, balance).await;
    }
    customer_id
}

async fn read_balance(store: &Store, customer_id: &CustomerId, balance: i64) {
    let leave = store.begin_balance_read(customer_id).await.unwrap().unwrap();
    let applied = store.apply_balance(&leave, balance, at(0)).await.unwrap();
    assert_eq!(applied.outcome, ReadOutcome::Applied);
}

async fn account(store: &Store, customer_id: &CustomerId) -> Account {
    store.account(customer_id).await.unwrap().unwrap()
}

/// Balance, held, owed.
async fn sums(store: &Store, customer_id: &CustomerId) -> (Option<i64>, u64, u64) {
    let account = account(store, customer_id).await;
    (account.balance, account.held.get(), account.owed.get())
}

/// A part that leaves alone by Resend's API.
fn by_resend(to: &str) -> NewPart {
    NewPart { road: Road::Resend, recipients: vec![mailbox(to)], request_hash: None, batch_max: 1 }
}

/// A message over SMTP to these, one credit, leased by whoever accepts it.
fn message(customer_id: &CustomerId, to: &[&str]) -> Acceptance {
    let recipients = to.iter().map(|to| mailbox(to)).collect();
    Acceptance {
        message_id: MessageId::generate(at(0), random::octets()),
        customer_id: customer_id.clone(),
        username: None,
        kind: Kind::Submission,
        reverse_path: ReversePath::parse("app@x.example").unwrap(),
        header_from: "app@x.example".to_owned(),
        subject: Some("Hello".to_owned()),
        bytes: Bytes::from_static(b"Subject: Hello\r\n\r\nWorld\r\n"),
        spooled: None,
        unit: Unit::Message,
        price: Credits::ONE,
        accepted_at: at(0),
        lifetime: Duration::from_secs(1000),
        parts: vec![NewPart { road: Road::Smtp, recipients, request_hash: None, batch_max: 1 }],
        lease_until: Some(at(30)),
        keyed: None,
        notes: Vec::new(),
        dsn: Arc::default(),
    }
}

/// The same, a credit for each recipient.
fn per_recipient(customer_id: &CustomerId, to: &[&str]) -> Acceptance {
    let price = credits(u64::try_from(to.len()).unwrap());
    Acceptance { unit: Unit::Recipient, price, ..message(customer_id, to) }
}

async fn accepted(store: &Store, acceptance: Acceptance) -> Acceptance {
    let answer = store.accept(acceptance.clone()).await.unwrap();
    assert!(matches!(answer, Accepted::Yes { .. }), "{answer:?}");
    acceptance
}

fn report(of: &Acceptance, attempt: u32, news: News) -> Report {
    Report {
        message_id: of.message_id.clone(),
        part_no: 0,
        attempt,
        at: at(1),
        news,
        bounce: None,
        relayed: None,
    }
}

/// Answers for these recipients; the others are tried again.
fn answered(sent: &[&str], failed: &[&str]) -> News {
    let refusal = Answer::new("5.1.1", "no such user");
    News::Answered(Answered {
        upstream_id: (!sent.is_empty()).then(|| "up-1".to_owned()),
        sent: sent.iter().map(|to| mailbox(to)).collect(),
        failed: failed.iter().map(|to| (mailbox(to), refusal.clone())).collect(),
        rest: Rest::Again { due: at(60), answer: Answer::new("4.2.2", "full") },
        ..Answered::default()
    })
}

fn retry(unknown: bool) -> News {
    News::Retry {
        due: at(60),
        error: "451 later".to_owned(),
        unknown,
        maybe_taken: Vec::new(),
        counts: true,
        batch_max: None,
    }
}

/// An attempt by SMTP without an answer, which was for these.
fn lost(to: &[&str]) -> News {
    let maybe_taken = to.iter().map(|to| mailbox(to)).collect();
    News::Retry {
        due: at(60),
        error: "lost".to_owned(),
        unknown: true,
        maybe_taken,
        counts: true,
        batch_max: None,
    }
}

fn applied(captured: u64) -> Recorded {
    Recorded::Applied { captured: credits(captured) }
}

fn first_part(of: &Acceptance) -> DuePart {
    DuePart {
        message_id: of.message_id.clone(),
        part_no: 0,
        size: of.bytes.len(),
        batch_max: 1,
        batch_id: None,
    }
}

/// Sends a message of one credit, so that it is owed.
async fn owe(store: &Store, customer_id: &CustomerId) {
    let message = accepted(store, message(customer_id, &["a@y.example"])).await;
    let recorded = store.report(report(&message, 1, answered(&["a@y.example"], &[]))).await.unwrap();
    assert_eq!(recorded, applied(1));
}

fn entry_id() -> EntryId {
    EntryId::generate(at(0), random::octets())
}

async fn assert_audit(store: &Store) {
    assert_eq!(store.audit().await.unwrap(), Vec::new());
}

async fn execute(store: &Store, sql: &'static str) -> Result<u64, sqlx::Error> {
    let mut writer = store.writer.gathering().await;
    Ok(query(sql).execute(writer.raw().await).await?.rows_affected())
}

/// The same with words of its own for each database.
async fn execute_either(store: &Store, sql: Sql) {
    let mut writer = store.writer.gathering().await;
    query(sql).execute(writer.raw().await).await.unwrap();
}

/// From now on the database lets everything pass that the audit is there to find.
async fn lawless(store: &Store) {
    const LAWS: Sql = Sql {
        sqlite: "SELECT 'PRAGMA foreign_keys = OFF' UNION ALL SELECT 'PRAGMA ignore_check_constraints = ON'",
        postgres:
            "SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || conname FROM pg_constraint
                   WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace",
    };
    let repeals: Vec<String> = query_scalar(LAWS).fetch_all(&store.readers).await.unwrap();
    for repeal in repeals {
        execute(store, repeal.leak()).await.unwrap();
    }
}

/// What the audit finds after a hand in the database, which is undone again.
async fn found_after(store: &Store, tampering: &'static str) -> Vec<Finding> {
    execute(store, "BEGIN").await.unwrap();
    assert!(execute(store, tampering).await.unwrap() > 0, "{tampering}");
    let findings = findings(&mut store.writer.gathering().await.raw().await).await.unwrap();
    execute(store, "ROLLBACK").await.unwrap();
    findings
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    query_scalar(sql).fetch_one(&store.readers).await.unwrap()
}

/// Where the seeds of histories that failed are kept. None of PostgreSQL's: what fails there
/// may be a race, which no seed repeats.
fn regressions(path: &'static str) -> Option<Box<dyn FailurePersistence>> {
    (!stand_in::is_postgres())
        .then(|| -> Box<dyn FailurePersistence> { Box::new(FileFailurePersistence::Direct(path)) })
}

/// Lets everything that these ask gather in one commit.
async fn together(store: &Store, asked: Vec<Acceptance>) -> Vec<Result<Accepted, StoreError>> {
    let busy = store.writer.gathering().await;
    let asking: Vec<_> = asked
        .into_iter()
        .map(|acceptance| {
            let store = store.clone();
            tokio::spawn(async move { store.accept(acceptance).await })
        })
        .collect();
    // On the one thread of a test the others run until they wait.
    tokio::task::yield_now().await;
    drop(busy);
    let mut answers = Vec::new();
    for answer in asking {
        answers.push(answer.await.unwrap());
    }
    answers
}
