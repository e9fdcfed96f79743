use super::super::sql::On;
use super::*;
use crate::domain::credential::Secret;
use crate::domain::decision::Choice;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, Keyed};
use crate::domain::ids::Username;
use crate::domain::sender::SenderPattern;
use crate::store::audit::Drift;
use crate::store::checkout::NewCheckout;
use crate::store::customer::Credential;
use crate::store::entry::Settled;
use crate::store::gate::Gate;
use crate::store::operator::{Order, Via};
use crate::store::webhook::Webhook;

/// A database with something in every table.
pub(super) async fn lived_in() -> (Store, Directory) {
    lived_in_by(reopened).await
}

/// The same in one that is opened like this.
pub(super) async fn lived_in_by(open: impl AsyncFnOnce(&Directory) -> Store) -> (Store, Directory) {
    let directory = Directory::new();
    let store = open(&directory).await;
    let ann = customer(&store, "ann", Some(50)).await;
    let credential = Credential {
        username: Username::parse("pm-1").unwrap(),
        customer_id: ann.clone(),
        label: None,
        created_at: at(0),
        revoked_at: None,
        caps: Default::default(),
        last_used_at: None,
    };
    store.add_credential(&credential, &Secret::presented("s").hash()).await.unwrap();
    store.allow_sender(&ann, &SenderPattern::parse("x.example").unwrap(), at(0)).await.unwrap();
    for _ in 0..2 {
        owe(&store, &ann).await;
        let entry = store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap().unwrap();
        store.settle_entry(&entry, Settled::Sometime, at(1)).await.unwrap();
    }
    owe(&store, &ann).await;
    let refused = store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap().unwrap();
    store.void_entry(&refused, "no", at(1)).await.unwrap();
    store.open_entry(&ann, &entry_id(), None, at(1)).await.unwrap();
    owe(&store, &ann).await;
    let key = IdempotencyKey::parse("k").unwrap();
    let keyed = Keyed { key, fingerprint: Fingerprinting::of("test").end(), served: Vec::new() };
    let waiting = Acceptance { keyed: Some(keyed), lease_until: None, ..message(&ann, &["a@y.example"]) };
    let spooled = Some(super::spool::spooled(&store, &["some", "more"]).await);
    let waiting = accepted(&store, Acceptance { spooled, ..waiting }).await;
    super::spool::spooled(&store, &["an orphan's"]).await;
    let lifetime = Duration::from_secs(1);
    let (choice, via) = (Choice::Retry, Via::Command);
    let order = Order { choice, is_confirmed: false, via, now: at(1), lifetime };
    store.decide(&waiting.message_id, &order).await.unwrap();
    store.lease(&first_part(&waiting), at(1), at(31)).await.unwrap().unwrap();
    let gate = Gate { road: Road::Smtp, reason: "x".to_owned(), since: at(0), try_again_at: at(9) };
    store.close_gate(&gate).await.unwrap();
    let webhook = Webhook {
        source: "dodo",
        webhook_id: "msg_1".to_owned(),
        event_type: "credit.added".to_owned(),
        customer_id: Some(ann),
    };
    store.webhook_handled(&webhook, at(0)).await.unwrap();
    let (token_hash, browser_hash) = ("a".repeat(64), "b".repeat(64));
    let new = NewCheckout { token_hash: &token_hash, browser_hash: &browser_hash, product_id: "pdt_1" };
    store.begin_checkout(&new, at(0)).await.unwrap();
    super::way_in::of_every_kind(&store, &id("ann")).await;
    store.suppress(&id("ann"), &mailbox("z@y.example"), None, at(0)).await.unwrap();
    super::batch::of_every_kind(&store, &customer(&store, "dan", Some(9)).await).await;
    refunds::of_every_kind(&store).await;
    super::proof::of_every_kind(&store).await;
    assert_audit(&store).await;
    (store, directory)
}

/// A hand in the file, and the table that the audit must name.
const TAMPERINGS: &[(&str, &str)] = &[
    ("account", "UPDATE account SET held = held + 1"),
    ("account", "UPDATE account SET owed = owed - 1"),
    ("account", "UPDATE account SET version = 0"),
    ("account", "UPDATE account SET last_capture = last_capture + 1"),
    ("account", "UPDATE account SET last_entered = last_entered - 1"),
    ("account", "DELETE FROM customer"),
    ("customer", "DELETE FROM account"),
    ("credential", "UPDATE credential SET customer_id = 'nobody'"),
    ("sender", "UPDATE sender SET pattern = '' WHERE origin = 'operator'"),
    ("sender", "UPDATE sender SET origin = 'proof'"),
    ("sender", "DELETE FROM proof WHERE state = 'verified'"),
    ("proof", "UPDATE proof SET customer_id = 'nobody' WHERE state = 'adding'"),
    ("proof", "DELETE FROM sender WHERE origin = 'proof'"),
    ("proof", "UPDATE proof SET verified_at = NULL"),
    ("message", "UPDATE message SET price = 2 WHERE final_at IS NULL"),
    ("message", "UPDATE message SET captured = 0, released = 1 WHERE final_at IS NOT NULL"),
    ("message", "UPDATE message SET final_at = NULL"),
    ("message", "UPDATE message SET customer_id = 'nobody'"),
    ("part", "UPDATE part SET state = 'failed' WHERE state = 'sent'"),
    ("part", "UPDATE part SET message_id = 'x' || message_id WHERE state = 'sending'"),
    ("part", "UPDATE part SET due_at = 1 WHERE state = 'sent'"),
    ("part", "UPDATE part SET customer_id = 'dan' WHERE customer_id = 'ann'"),
    ("part", "UPDATE part SET batch_id = NULL, batch_no = NULL WHERE state = 'queued' AND unknown = 1"),
    ("part", "UPDATE part SET unknown = 0 WHERE state = 'queued' AND batch_id IS NOT NULL"),
    ("part", "UPDATE part SET batch_no = NULL WHERE batch_no = 1"),
    ("part", "UPDATE part SET batch_max = 2 WHERE batch_max > 1"),
    ("part", "UPDATE part SET road = 'smtp' WHERE batch_id IS NOT NULL"),
    ("part", "UPDATE part SET state = 'held', due_at = NULL WHERE state = 'queued' AND batch_id IS NOT NULL"),
    ("part", "DELETE FROM batch"),
    ("batch", "UPDATE batch SET size = size + 1 WHERE size = 3"),
    ("batch", "UPDATE batch SET size = size - 1 WHERE size = 3"),
    ("batch", "UPDATE part SET batch_no = 3 WHERE batch_no = 2"),
    ("batch", "UPDATE part SET batch_id = NULL, batch_no = NULL WHERE batch_no = 2"),
    (
        "batch",
        "UPDATE part SET state = 'sending', due_at = NULL, lease_until = 1 WHERE batch_no = 1 AND state = 'sent'",
    ),
    ("batch", "INSERT INTO batch VALUES ('b_other', 1, 1)"),
    ("recipient", "UPDATE recipient SET part_no = 7"),
    ("part", "UPDATE recipient SET state = 'queued'"),
    ("body", "DELETE FROM body"),
    ("body", "UPDATE body SET bytes = substr(bytes, 2)"),
    ("body", "UPDATE body SET message_id = 'x' WHERE message_id = (SELECT min(message_id) FROM body)"),
    ("body", "UPDATE spool SET octets = octets + 1 WHERE message_id IS NOT NULL"),
    ("header", "UPDATE header SET message_id = 'x' WHERE message_id = (SELECT min(message_id) FROM header)"),
    ("header", "UPDATE message SET reverse_path = '' WHERE message_id IN (SELECT message_id FROM header)"),
    ("header", "UPDATE part SET road = 'smtp' WHERE message_id IN (SELECT message_id FROM header)"),
    ("spool", "UPDATE spool SET message_id = 'x' WHERE message_id IS NOT NULL"),
    ("spool", "UPDATE spool SET begun_at = 1 WHERE message_id IS NULL"),
    ("spool", "UPDATE spool SET left_at = 1 WHERE message_id IS NULL"),
    ("spool", "UPDATE spool SET node = 'somebody'"),
    ("chunk", "UPDATE chunk SET bytes = substr(bytes, 2) WHERE chunk_no = 1"),
    ("chunk", "DELETE FROM chunk WHERE chunk_no = 0"),
    ("chunk", "DELETE FROM spool WHERE message_id IS NULL"),
    ("capture", "DELETE FROM capture WHERE number = 1"),
    ("capture", "UPDATE capture SET message_id = 'x' WHERE number = 1"),
    ("message", "UPDATE capture SET amount = 2 WHERE number = 1"),
    ("entry", "UPDATE entry SET amount = amount + 1 WHERE state = 'open'"),
    ("entry", "UPDATE entry SET first_capture = first_capture - 1 WHERE first_capture = 2"),
    ("entry", "DELETE FROM entry WHERE first_capture = 1"),
    ("entry", "UPDATE entry SET last_capture = last_capture + 9 WHERE state = 'void'"),
    ("entry", "UPDATE entry SET kind = 'gift' WHERE state = 'void'"),
    ("entry", "UPDATE entry SET first_unknown_at = 1"),
    ("entry", "UPDATE entry SET first_unknown_at = NULL, unknown_tries = 2 WHERE state = 'open'"),
    ("entry", "UPDATE entry SET doubtful_since = 5 WHERE state = 'open'"),
    ("entry", "UPDATE entry SET decided_by = 'ledger' WHERE state = 'done'"),
    (
        "entry",
        "DROP INDEX entry_open; UPDATE entry SET state = 'open', closed_at = NULL WHERE state = 'void'",
    ),
    ("message", "DELETE FROM part WHERE state = 'sent'"),
    ("message", "UPDATE message SET released = 1 WHERE kind = 'submission' AND final_at IS NOT NULL"),
    ("message", "UPDATE message SET captured = 1 WHERE final_at IS NULL"),
    ("account", "UPDATE account SET closed_price = 1"),
    ("account", "DELETE FROM entry WHERE state = 'open'"),
    ("account", "UPDATE entry SET state = 'void' WHERE first_capture = 1"),
    ("idempotency_key", "UPDATE idempotency_key SET customer_id = 'nobody'"),
    ("idempotency_key", "UPDATE idempotency_key SET expires_at = 1"),
    ("idempotency_key", "UPDATE idempotency_key SET messages = 0"),
    ("idempotency_key", "DELETE FROM idempotency_recipient"),
    ("idempotency_recipient", "UPDATE idempotency_recipient SET message_id = 'x'"),
    ("idempotency_recipient", "UPDATE idempotency_recipient SET address = 'x'"),
    ("idempotency_recipient", "DELETE FROM idempotency_key"),
    (
        "idempotency_recipient",
        "INSERT INTO idempotency_key
            SELECT customer_id, 'other', fingerprint, messages, expires_at FROM idempotency_key;
         INSERT INTO idempotency_recipient
            SELECT customer_id, 'other', address, message_id, number FROM idempotency_recipient",
    ),
    (
        "idempotency_recipient",
        "INSERT INTO idempotency_recipient SELECT customer_id, key, 'other', 'x', number FROM idempotency_recipient",
    ),
    ("entry", "UPDATE entry SET amount = 2 WHERE kind = 'credit' AND state = 'done'"),
    ("entry", "DELETE FROM refund WHERE state = 'credited'"),
    ("refund", "DELETE FROM entry WHERE kind = 'credit' AND state = 'open'"),
    ("refund", "UPDATE refund SET state = 'due' WHERE state = 'credited'"),
    ("refund", "UPDATE refund SET amount = 2 WHERE state = 'credited'"),
    ("refund", "UPDATE refund SET customer_id = 'nobody'"),
    ("refund", "UPDATE refund SET address = 'x' WHERE state = 'credited'"),
    ("refund", "UPDATE refund SET message_id = 'x' WHERE state = 'waiting'"),
    ("refund", "UPDATE recipient SET bounced_at = NULL"),
    ("message", "UPDATE refund SET state = 'capped' WHERE state = 'released'"),
    ("message", "UPDATE capture SET amount = 2 WHERE customer_id = 'bob'"),
    ("decision", "UPDATE decision SET via = 'somebody'"),
    ("decision", "UPDATE decision SET choice = 'cancel'"),
    ("decision", "UPDATE decision SET message_id = 'x'"),
    ("event", "UPDATE event SET part_no = 7"),
    ("attempt", "INSERT INTO attempt VALUES ('x', 0, 1, 1, 1, 'sent', NULL, NULL)"),
    ("suppression", "UPDATE suppression SET customer_id = 'nobody'"),
    ("reputation", "UPDATE reputation SET customer_id = 'nobody' WHERE customer_id = 'ann'"),
    ("gate", "UPDATE gate SET reason = ''"),
    ("part", "UPDATE part SET node = 'local' WHERE state = 'sent'"),
    ("node", "INSERT INTO node (node_id, seen_at) VALUES ('somebody', 1)"),
    ("duty", "INSERT INTO duty VALUES ('rest', 'local', 1)"),
    ("webhook", "UPDATE webhook SET customer_id = 'nobody'"),
    ("checkout", "UPDATE checkout SET state = 'paid', customer_id = 'nobody'"),
    ("session", "UPDATE session SET expires_at = begun_at"),
    ("session", "UPDATE session SET username = 'nobody'"),
    ("session", "UPDATE session SET customer_id = 'dan' WHERE username IS NOT NULL"),
    ("sign_in_link", "UPDATE sign_in_link SET customer_id = 'nobody'"),
    ("alert", "UPDATE alert SET kind = 'praise'"),
    ("told", "UPDATE told SET customer_id = 'nobody'"),
    ("told", "UPDATE told SET occasion = 'x' WHERE kind = 'out-of-credit'"),
    ("bucket", "INSERT INTO bucket VALUES ('nobody', 1)"),
    ("meta", "UPDATE meta SET value = 'somebody'"),
];

#[tokio::test]
async fn the_audit_names_the_table_that_a_hand_was_in() {
    let (store, _directory) = lived_in().await;
    lawless(&store).await;
    for (table, tampering) in TAMPERINGS {
        let findings = found_after(&store, tampering).await;
        assert!(findings.iter().any(|finding| finding.table == *table), "{tampering}: {findings:?}");
    }
    assert_audit(&store).await;
}

/// A hand in the sums, and the credits by which they disagree then.
const DRIFTS: &[(i64, &str)] = &[
    (3, "UPDATE account SET held = held + 3 WHERE customer_id = 'ann'"),
    (2, "UPDATE account SET owed = owed - 2 WHERE customer_id = 'ann'"),
    (7, "UPDATE entry SET amount = amount + 7 WHERE state = 'open' AND customer_id = 'ann'"),
    (0, "UPDATE part SET attempt = 7"),
    // The account lacks it, and so does the message.
    (2, "DELETE FROM capture WHERE number = 4"),
    // Ann's second entry covers the first one's capture too: its captures are more than its amount, and two have it.
    (2, "UPDATE entry SET first_capture = 1 WHERE customer_id = 'ann' AND first_capture = 2 AND state = 'done'"),
    // The capture that is left out stays owed, and no entry will ever settle it.
    (
        1,
        "UPDATE entry SET first_capture = 4, last_capture = 4
         WHERE customer_id = 'ann' AND state = 'open'; UPDATE account SET last_entered = 4 WHERE customer_id = 'ann'",
    ),
    (4, "UPDATE entry SET amount = amount + 4 WHERE kind = 'credit' AND state = 'done'"),
    // The entry's sum, and what was captured of its message.
    (2, "UPDATE refund SET amount = amount + 1 WHERE state = 'credited'"),
    (1, "UPDATE refund SET state = 'due' WHERE state = 'credited'"),
    (1, "DELETE FROM refund WHERE state = 'credited'"),
    // Neither captured nor released fit what became of the message's recipients.
    (2, "UPDATE refund SET state = 'capped' WHERE state = 'released'"),
    (5, "UPDATE account SET closed_settled = closed_settled + 5 WHERE customer_id = 'ann'"),
    (
        5,
        "UPDATE account SET closed_captured = closed_captured + 5, closed_price = closed_price + 5
         WHERE customer_id = 'ann'",
    ),
    // Of its refunds that are left, and of those that have left.
    (2, "UPDATE entry SET closed = closed + 1 WHERE kind = 'credit' AND state = 'done'"),
    (3, "UPDATE account SET closed_credited = closed_credited + 3 WHERE customer_id = 'ann'"),
];

#[tokio::test]
async fn drift_is_the_credits_by_which_sums_disagree() {
    let (store, _directory) = lived_in().await;
    assert_eq!(store.drift().await.unwrap(), Drift::default());
    for (credits, tampering) in DRIFTS {
        let (store, _directory) = lived_in().await;
        assert!(execute(&store, tampering).await.unwrap() > 0, "{tampering}");
        let drift = store.drift().await.unwrap();
        assert_eq!(drift.credits, *credits, "{tampering}: {drift:?}");
        assert_eq!(drift.findings.is_empty(), *credits == 0, "{tampering}");
    }
}

#[tokio::test]
async fn an_audit_waits_for_no_writer_and_no_writer_for_it() {
    let (store, _directory) = lived_in().await;
    // A write that is under way, and a snapshot that is being read.
    let mut writer = store.writer.lock().await;
    let tx = writer.begin().await.unwrap();
    assert_audit(&store).await;
    drop(tx);
    drop(writer);
    let mut snapshot = store.readers.begin().await.unwrap();
    const HELD: &str = "SELECT CAST(sum(held) AS BIGINT) FROM account";
    let held: i64 = query_scalar(HELD).fetch_one(&mut *snapshot).await.unwrap();
    accepted(&store, message(&id("ann"), &["a@y.example"])).await;
    assert_eq!(count(&store, HELD).await, held + 1, "the message was taken in meanwhile");
    let findings = findings(&mut On::from(&mut snapshot)).await.unwrap();
    assert_eq!(findings, [], "the snapshot adds up by itself");
    assert_audit(&store).await;
}
