//! The audit finds a hand in the database, whichever table it touched.

use std::collections::BTreeSet;

use postmeter::sandbox::faults::{Fault, Reply};
use serde_json::{Value, json};

use crate::harness::wait::until_is;
use crate::harness::web::{ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

/// One changed row for each table; where a settled system has none, one added.
const HANDS: [(&str, &str); 42] = [
    ("meta", "UPDATE meta SET value = 'somebody' WHERE key = 'made_by'"),
    ("bucket", "INSERT INTO bucket VALUES ('nobody', 1)"),
    ("customer", "UPDATE customer SET customer_id = 'cus_eve' WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET held = held + 1 WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET owed = owed + 1 WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET last_capture = last_capture + 1 WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET closed_settled = closed_settled + 1 WHERE customer_id = 'cus_ann'"),
    ("credential", "UPDATE credential SET customer_id = 'cus_eve'"),
    ("sender", "UPDATE sender SET customer_id = 'cus_eve'"),
    (
        "proof",
        "INSERT INTO proof (customer_id, domain, way, state, token, created_at, verified_at)
         VALUES ('cus_ann', 'example.org', 'dns', 'verified', 'x', 1, 1)",
    ),
    ("message", "UPDATE message SET captured = 0 WHERE captured = 1"),
    ("message", "UPDATE message SET price = 5 WHERE kind = 'submission'"),
    ("message", "UPDATE message SET customer_id = 'cus_eve' WHERE kind = 'bounce'"),
    ("part", "UPDATE part SET state = 'failed' WHERE state = 'sent'"),
    ("batch", "INSERT INTO batch VALUES ('b_1', 1, 1)"),
    ("recipient", "UPDATE recipient SET state = 'failed' WHERE state = 'sent'"),
    ("recipient", "UPDATE recipient SET part_no = 7"),
    ("body", "INSERT INTO body SELECT message_id, 0, bytes FROM header LIMIT 1"),
    ("header", "INSERT INTO header SELECT 'other', bytes FROM header LIMIT 1"),
    (
        "spool",
        "INSERT INTO spool VALUES ('spool-1', 1, 'other', 1, '0000000000000000000000000000000000000000000000000000000000000000', NULL, NULL)",
    ),
    ("chunk", "INSERT INTO chunk SELECT 'spool-1', 0, bytes FROM header LIMIT 1"),
    ("capture", "DELETE FROM capture WHERE number = 1"),
    ("capture", "UPDATE capture SET message_id = 'other' WHERE number = 1"),
    ("entry", "UPDATE entry SET amount = amount + 1"),
    ("entry", "UPDATE entry SET decided_by = 'operator'"),
    ("idempotency_key", "UPDATE idempotency_key SET expires_at = 1"),
    ("idempotency_recipient", "UPDATE idempotency_recipient SET address = 'zoe@example.org'"),
    ("decision", "INSERT INTO decision VALUES ('other', 1, 1, 'retry', 'http', 0)"),
    ("refund", "INSERT INTO refund VALUES ('other', '', 'cus_ann', 1, 'capped', NULL, 0, 'because', 1)"),
    ("event", "INSERT INTO event VALUES ('other', 0, '', 'sent', 1, '')"),
    ("attempt", "INSERT INTO attempt VALUES ('other', 0, 1, 1, 1, 'sent', NULL, NULL)"),
    ("suppression", "INSERT INTO suppression VALUES ('cus_eve', 'a@x.example', 'manual', NULL, NULL, 1)"),
    ("reputation", "UPDATE reputation SET customer_id = 'cus_eve'"),
    ("gate", "INSERT INTO gate (road, reason, since, try_again_at) VALUES ('resend', 'because', 2, 1)"),
    ("node", "INSERT INTO node (node_id, seen_at) VALUES ('somebody', 1)"),
    ("duty", "INSERT INTO duty VALUES ('rest', 'local', 1)"),
    ("webhook", "UPDATE webhook SET customer_id = 'cus_eve' WHERE customer_id IS NOT NULL"),
    ("checkout", "UPDATE checkout SET state = 'paid' WHERE state = 'pending'"),
    (
        "session",
        "INSERT INTO session VALUES ('0000000000000000000000000000000000000000000000000000000000000000', 'cus_ann', NULL, 2, 1)",
    ),
    (
        "sign_in_link",
        "INSERT INTO sign_in_link VALUES ('0000000000000000000000000000000000000000000000000000000000000000', 'cus_ann', 2, 1)",
    ),
    ("alert", "INSERT INTO alert VALUES ('praise', 'other', 'cus_ann', NULL, 'well done', 0, 1)"),
    ("told", "INSERT INTO told VALUES ('because', 'other', 'cus_ann', 1)"),
];

/// A system that has done some of everything, at rest.
fn settled() -> Meter {
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    let mut meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    for nth in 0..3 {
        let keyed = format!("X-Postmeter-Idempotency-Key: k{nth}\r\n").into_bytes();
        assert!(smtp.deliver(&[keyed, letter(&format!("n{nth}"))].concat()).starts_with("250 "));
    }
    meter.drain();
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    assert!(smtp.deliver(&letter("refused")).starts_with("250 "));
    until("the bounce", || (meter.resend_stand_in().count() == 4).then_some(()));
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    let visitor = json!({ "email": "zoe@example.org", "name": "Zoe" });
    let begun = ask(meter.request(reqwest::Method::POST, "/checkout/subscribe").json(&visitor));
    assert_eq!(begun.status, 200, "{begun:?}");
    meter.finish();
    meter
}

fn tables(meter: &Meter) -> BTreeSet<String> {
    const SQLITE: &str =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'
        AND name NOT LIKE 'sqlite%'";
    const POSTGRES: &str = "SELECT CAST(tablename AS TEXT) FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT LIKE '\\_%' ESCAPE '\\'";
    let tables = if meter.database().is_some() { POSTGRES } else { SQLITE };
    meter.read::<String>(tables).into_iter().collect()
}

#[test]
fn audit_names_the_table_of_every_row_that_was_tampered_with() {
    let meter = settled();
    let known: BTreeSet<String> = HANDS.iter().map(|(table, _)| (*table).to_owned()).collect();
    assert_eq!(tables(&meter), known, "every table of the schema has a hand in it");
    meter.keep_rows();
    for (table, hand) in HANDS {
        meter.restore_rows();
        assert_eq!(meter.run(&["audit"]).code, Some(0), "before {hand}");
        meter.tamper(hand);
        let said = meter.run(&["audit"]);
        assert_eq!(said.code, Some(1), "{hand}: {said:?}");
        let named = said.out.lines().any(|line| line.split(' ').next() == Some(table));
        assert!(named, "{hand}: {said:?}");
        let json: Value = serde_json::from_str(&meter.run(&["audit", "--json"]).out).unwrap();
        assert!(json.as_array().unwrap().iter().any(|finding| finding["table"] == table), "{json}");
    }
}

#[test]
fn audit_is_true_on_a_running_system() {
    let meter = Meter::resend().credits(1_000).start();
    let mut smtp = meter.signed_in();
    for nth in 0..20 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        if nth % 5 == 0 {
            let said = meter.run(&["audit"]);
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    }
}

/// A system whose two messages are settled, and runs.
fn running() -> Meter {
    let meter = Meter::resend().set("billing", "audit_interval_s = 1").start();
    let mut smtp = meter.signed_in();
    for subject in ["one", "two"] {
        assert!(smtp.deliver(&letter(subject)).starts_with("250 "));
        meter.drain();
    }
    meter
}

fn drift(meter: &Meter) -> String {
    let page = meter.get("/metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix("postmeter_ledger_drift "));
    line.unwrap_or_default().to_owned()
}

#[test]
fn drift_is_on_the_metrics_page_and_in_readyz_while_it_lasts() {
    let meter = running();
    until_is("drift", "0".to_owned(), || drift(&meter));
    meter.tamper("UPDATE account SET held = held + 3");
    until_is("drift", "3".to_owned(), || drift(&meter));
    let ready = meter.get("/readyz");
    assert_eq!((ready.status, &ready.json()["problems"][0]["credits"]), (200, &3.into()), "{ready:?}");
    assert!(meter.log().contains("the books disagree with themselves"), "{}", meter.log());
    let said = meter.run(&["audit"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("cus_ann") && said.out.contains(" 3 "), "{said:?}");
    meter.tamper("UPDATE account SET held = held - 3");
    until_is("drift", "0".to_owned(), || drift(&meter));
    // An entry that covers the capture of another, and sums of what has left.
    for (credits, hand, undone) in [
        (
            "2",
            "UPDATE entry SET first_capture = 1 WHERE last_capture = 2",
            "UPDATE entry SET first_capture = 2 WHERE last_capture = 2",
        ),
        (
            "4",
            "UPDATE account SET closed_settled = closed_settled + 4",
            "UPDATE account SET closed_settled = closed_settled - 4",
        ),
    ] {
        meter.tamper(hand);
        until_is(hand, credits.to_owned(), || drift(&meter));
        meter.tamper(undone);
        until_is(undone, "0".to_owned(), || drift(&meter));
    }
    assert_eq!(meter.get("/readyz").json()["problems"], json!([]));
}

/// Posts an entry at Dodo behind the program's back.
pub(crate) fn post_at_dodo(meter: &Meter, kind: &str, amount: &str, reason: &str) {
    let url = meter.environment().remove("DODO_PAYMENTS_BASE_URL").unwrap();
    let entitlement_id = postmeter::sandbox::ENTITLEMENT_ID;
    let path = format!("/credit-entitlements/{entitlement_id}/balances/{CUSTOMER_ID}/ledger-entries");
    let body = json!({ "entry_type": kind, "amount": amount, "reason": reason });
    let request = crate::harness::web::request(reqwest::Method::POST, &format!("{url}{path}"));
    let _in_runtime = RUNTIME.enter();
    assert_eq!(ask(request.bearer_auth(postmeter::sandbox::DODO_API_KEY).json(&body)).status, 201);
}

/// What `audit --dodo` finds: problem and credits.
fn found_at_dodo(meter: &Meter) -> Vec<(String, i64)> {
    let said = meter.run(&["audit", "--dodo", "--json"]);
    let findings: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let findings = findings.as_array().unwrap().clone();
    assert_eq!(said.code, Some(i32::from(!findings.is_empty())), "{said:?}");
    let told = |finding: &Value| {
        assert_eq!(finding["table"], "dodo");
        assert!(finding["row"].as_str().unwrap().starts_with(CUSTOMER_ID), "{finding}");
        (finding["problem"].as_str().unwrap().to_owned(), finding["credits"].as_i64().unwrap())
    };
    findings.iter().map(told).collect()
}

#[test]
fn audit_compares_the_books_with_dodos_own_and_names_who_disagrees() {
    let mut meter = running();
    let limited = Reply::status(429).header("retry-after-ms", "300");
    meter.dodo().faults().push(Fault::new(limited).on("GET", "/ledger"));
    assert_eq!(found_at_dodo(&meter), [], "a 429 is waited out");
    meter.finish();
    post_at_dodo(&meter, "debit", "2", "by hand");
    assert_eq!(found_at_dodo(&meter), [], "what somebody else debits is no business of ours");
    meter.dodo().behave(|behaviour| behaviour.reason_in_ledger = false);
    let more = "more was debited in Dodo's ledger than was settled, and it does not say by whom".to_owned();
    assert_eq!(found_at_dodo(&meter), [(more, 2)]);
    meter.dodo().behave(|behaviour| behaviour.reason_in_ledger = true);
    meter.tamper("UPDATE entry SET state = 'void' WHERE first_capture = 2");
    let given_up = ("it was given up, and stands in Dodo's ledger".to_owned(), 1);
    let said = meter.run(&["audit", "--dodo"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let named = said.out.lines().any(|line| line.starts_with("dodo ") && line.ends_with(&given_up.0));
    assert!(named, "{said:?}");
    meter.tamper("UPDATE entry SET state = 'done' WHERE first_capture = 2");
    post_at_dodo(&meter, "debit", "2", "email send somewhere entry-0123456789");
    let unknown = "it stands in Dodo's ledger, and the books do not know it".to_owned();
    assert_eq!(found_at_dodo(&meter), [(unknown, 2)]);
    meter.set_environment("DODO_PAYMENTS_API_KEY", "dodo_test_bad");
    let said = meter.run(&["audit", "--dodo"]);
    assert_ne!(said.code, Some(0));
    assert!(said.err.contains("refused the API key"), "{said:?}");
}
