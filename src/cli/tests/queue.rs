//! The queue as an operator works through it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credits::{Credits, Unit};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::Road;
use crate::store::accept::{Acceptance, Kind, NewPart};
use crate::store::gate::Gate;
use crate::store::report::{News, Report};

/// What the clock of the commands says.
pub(super) fn now() -> jiff::Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

impl Office {
    pub(super) async fn store(&self) -> Store {
        store_in(self.directory.join("data")).await
    }

    /// A customer with nine credits.
    pub(super) async fn customer(&self) -> Store {
        self.says("customer add cus_1").await;
        let store = self.store().await;
        let read = store.begin_balance_read(&CustomerId::parse("cus_1").unwrap()).await.unwrap().unwrap();
        store.apply_balance(&read, 9, now()).await.unwrap();
        store
    }

    /// Somebody sits at the terminal, who says that; what was asked before is forgotten.
    pub(super) fn person(&self, says: Option<bool>) {
        *self.says.lock().unwrap() = says;
        self.asked.lock().unwrap().clear();
    }
}

/// Opens the database as the server beside the commands does.
pub(super) async fn store_in(data_dir: PathBuf) -> Store {
    let settings = StoreSettings {
        data_dir,
        database_url: None,
        maker: Maker::Command,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    Store::open(&settings, Metrics::new()).await.unwrap()
}

/// A message with that name, and what became of its first attempt.
pub(super) async fn message(store: &Store, name: &str, news: Option<News>) {
    message_by(Road::Smtp, store, name, news).await;
}

async fn message_by(road: Road, store: &Store, name: &str, news: Option<News>) {
    let to = ["bob@example.net", "eve@example.net"].map(|to| Mailbox::parse(to).unwrap());
    let message_id = MessageId::parse(name).unwrap();
    let acceptance = Acceptance {
        message_id: message_id.clone(),
        customer_id: CustomerId::parse("cus_1").unwrap(),
        username: None,
        kind: Kind::Submission,
        reverse_path: ReversePath::parse("ann@example.com").unwrap(),
        header_from: "ann@example.com".to_owned(),
        subject: Some("Hello".to_owned()),
        bytes: Bytes::from_static(b"Subject: Hello\r\n\r\nWorld\r\n"),
        spooled: None,
        unit: Unit::Message,
        price: Credits::ONE,
        accepted_at: now(),
        lifetime: Duration::from_secs(3600),
        parts: vec![NewPart { road, recipients: to.to_vec(), request_hash: None, batch_max: 1 }],
        lease_until: Some(now() + Duration::from_secs(30)),
        keyed: None,
        notes: Vec::new(),
        dsn: Arc::default(),
    };
    store.accept(acceptance).await.unwrap();
    if let Some(news) = news {
        let report =
            Report { message_id, part_no: 0, attempt: 1, at: now(), news, bounce: None, relayed: None };
        store.report(report).await.unwrap();
    }
}

fn retry(unknown: bool) -> Option<News> {
    let due = now() + Duration::from_secs(600);
    Some(News::Retry {
        due,
        error: format!("451 {}", "later ".repeat(20)),
        unknown,
        maybe_taken: Vec::new(),
        counts: true,
        batch_max: None,
    })
}

fn hold() -> Option<News> {
    Some(News::Hold { reason: "its outcome is unknown".to_owned() })
}

#[tokio::test]
async fn the_queue_reads_well_and_says_what_comes_next() {
    let office = Office::new("");
    let store = office.customer().await;
    assert_eq!(office.says("queue list").await, "the queue is empty\n");
    message(&store, "m1", retry(false)).await;
    message(&store, "m2", retry(true)).await;
    message(&store, "m3", hold()).await;
    message(&store, "m4", None).await;
    let listed = office.says("queue list").await;
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with("MESSAGE  CUSTOMER  STATE  "), "{listed}");
    assert!(lines[1].starts_with("m1       cus_1     queued  "), "{listed}");
    assert!(
        lines[1].contains("  2026-11-22T10:10:00Z  bob@example.net and 1 more  451 later later"),
        "{listed}"
    );
    assert!(lines[1].ends_with('…') && lines[2].contains("queued (outcome unknown)"), "{listed}");
    assert!(lines[3].contains("  held  ") && lines[4].contains("  sending  "), "{listed}");
    assert_eq!(office.says("queue list --state held").await.lines().count(), 2);
    assert_eq!(office.says("queue list --customer cus_2").await, "nothing in the queue is like that\n");
    assert!(
        office.says("queue list --limit 2").await.ends_with("the oldest 2 are shown; --limit shows more\n")
    );

    let shown = office.says("queue show m3").await;
    for told in ["credits   1 (captured 0, released 0)", "  held  ", "RECIPIENT", " queue cancel m3\n"] {
        assert!(shown.contains(told), "{told} in {shown}");
    }
    assert!(shown.contains("its outcome is unknown") && shown.contains("eve@example.net"), "{shown}");

    let listed = office.json("queue list --state queued").await;
    assert_eq!((&listed[1]["message_id"], &listed[1]["attempts"]), (&"m2".into(), &1.into()), "{listed}");
    assert_eq!(listed[1]["parts"][0]["unknown"], true);
    let shown = office.json("queue show m3").await;
    assert_eq!((&shown["state"], &shown["last_error"]), (&"held".into(), &"its outcome is unknown".into()));
    assert_eq!(shown["recipients"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn p3_a_message_is_cancelled_or_the_operator_is_told_why_not() {
    let office = Office::new("");
    let store = office.customer().await;
    message(&store, "m1", retry(false)).await;
    message_by(Road::Resend, &store, "m2", retry(true)).await;
    message(&store, "m3", None).await;
    assert_eq!(office.says("queue cancel m1").await, "cancelled m1: 1 credits given back\n");
    for (typed, told) in [
        ("queue cancel m1", "nothing of m1 waits: it is final; `postmeter --config "),
        ("queue retry m1", "nothing of m1 waits"),
        ("queue cancel m2 --yes", "so the upstream may have it"),
        ("queue cancel m3 --yes", "an attempt of m3 is under way"),
        ("queue retry m3", "an attempt of m3 is under way"),
        ("queue cancel m9", "there is no message m9"),
        ("queue retry m9", "there is no message m9"),
        ("queue show m9", "there is no message m9"),
    ] {
        let complaint = office.complains(typed).await;
        assert!(complaint.contains(told) && !complaint.contains('\n'), "{typed}: {complaint}");
    }
    let shown = office.says("queue show m1").await;
    assert!(shown.contains("decided   cancel at 2026-11-22T10:00:00Z by command\n"), "{shown}");
    assert!(shown.contains("state     failed\n") && !shown.contains("next:"), "{shown}");
    assert!(shown.contains("5.0.0   cancelled by the operator"), "{shown}");
    assert!(office.says("audit").await.starts_with("ok: 2 credits held"));
}

#[tokio::test]
async fn p4_what_is_held_is_decided_only_by_who_knows_the_risk() {
    let office = Office::new("");
    let store = office.customer().await;
    for (name, typed, risk) in [
        ("m1", "queue retry m1", "they may get it twice; send it again?"),
        ("m2", "queue cancel m2", "it is not billed, even if they have it; give it up?"),
        ("m3", "queue retry --all --held", "they may get it twice; send all of them again?"),
    ] {
        message(&store, name, hold()).await;
        office.person(None);
        let complaint = office.complains(typed).await;
        assert!(complaint.contains(risk) && complaint.contains("--yes"), "{complaint}");
        office.person(Some(false));
        assert_eq!(office.complains(typed).await, "nothing was changed");
        assert!(office.asked.lock().unwrap()[0].contains(risk));
        assert_eq!(office.json(&format!("queue show {name}")).await["state"], "held");
        office.person(Some(true));
        office.says(typed).await;
        let shown = office.says(&format!("queue show {name}")).await;
        assert!(shown.contains("by command, the risk was taken\n"), "{shown}");
        message(&store, &format!("{name}-y"), hold()).await;
        office.person(None);
        let typed = typed.replace(name, &format!("{name}-y"));
        office.says(&format!("{typed} --yes")).await;
    }
    assert!(office.says("audit").await.contains(" 0 parts held"));
}

#[tokio::test]
async fn a_retry_says_what_is_due_and_what_stays() {
    let office = Office::new("");
    let store = office.customer().await;
    message(&store, "m1", retry(false)).await;
    message(&store, "m2", retry(true)).await;
    message(&store, "m3", hold()).await;
    assert!(office.says("queue retry m1").await.starts_with("m1 is due now: "));
    let all = office.says("queue retry --all").await;
    assert!(
        all.starts_with("1 messages are due now: ") && all.contains("\n1 parts are held and stay so: "),
        "{all}"
    );
    let all = office.json("queue retry --all --held --yes").await;
    assert_eq!(all, serde_json::json!({ "retried": 1, "parts_held": 0 }));
    let due = office.json("queue show m2").await["parts"][0]["due_at"].clone();
    assert_eq!(due, "2026-11-22T10:00:00Z");

    let (since, try_again_at) = (now(), now() + Duration::from_secs(60));
    let gate = Gate { road: Road::Smtp, reason: "bad\nkey".to_owned(), since, try_again_at };
    store.close_gate(&gate).await.unwrap();
    let told = office.says("queue retry m1").await;
    assert!(
        told.contains("the gate of smtp is closed since 2026-11-22T10:00:00Z (bad\u{fffd}key): "),
        "{told}"
    );
}
