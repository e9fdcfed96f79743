//! The audit finds a hand in the database, whichever table it touched.

use std::collections::BTreeSet;

use postmeter::sandbox::faults::{Fault, Reply};
use serde_json::{Value, json};

use crate::harness::web::{ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// One changed row for each table; where a settled system has none, one added.
const HANDS: [(&str, &str); 21] = [
    ("meta", "UPDATE meta SET value = 'somebody' WHERE key = 'made_by'"),
    ("customer", "UPDATE customer SET customer_id = 'cus_eve' WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET held = held + 1 WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET owed = owed + 1 WHERE customer_id = 'cus_ann'"),
    ("account", "UPDATE account SET last_capture = last_capture + 1 WHERE customer_id = 'cus_ann'"),
    ("credential", "UPDATE credential SET customer_id = 'cus_eve'"),
    ("sender", "UPDATE sender SET customer_id = 'cus_eve'"),
    ("message", "UPDATE message SET captured = 0 WHERE captured = 1"),
    ("message", "UPDATE message SET price = 5 WHERE kind = 'submission'"),
    ("message", "UPDATE message SET customer_id = 'cus_eve' WHERE kind = 'bounce'"),
    ("part", "UPDATE part SET state = 'failed' WHERE state = 'sent'"),
    ("recipient", "UPDATE recipient SET state = 'failed' WHERE state = 'sent'"),
    ("recipient", "UPDATE recipient SET part_no = 7"),
    ("body", "INSERT INTO body SELECT message_id, 0, x'00' FROM message LIMIT 1"),
    ("capture", "DELETE FROM capture WHERE number = 1"),
    ("capture", "UPDATE capture SET message_id = 'other' WHERE number = 1"),
    ("entry", "UPDATE entry SET amount = amount + 1"),
    ("idempotency_key", "UPDATE idempotency_key SET expires_at = 1"),
    ("gate", "INSERT INTO gate VALUES ('resend', 'because', 2, 1)"),
    ("webhook", "UPDATE webhook SET customer_id = 'cus_eve' WHERE customer_id IS NOT NULL"),
    ("checkout", "UPDATE checkout SET state = 'paid' WHERE state = 'pending'"),
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
    const TABLES: &str =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'
        AND name NOT LIKE 'sqlite%'";
    meter.read::<String>(TABLES).into_iter().collect()
}

#[test]
fn audit_names_the_table_of_every_row_that_was_tampered_with() {
    let meter = settled();
    let known: BTreeSet<String> = HANDS.iter().map(|(table, _)| (*table).to_owned()).collect();
    assert_eq!(tables(&meter), known, "every table of the schema has a hand in it");
    let (data, good) = (meter.directory().join("data"), meter.directory().join("good"));
    std::fs::rename(&data, &good).unwrap();
    for (table, hand) in HANDS {
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir(&data).unwrap();
        for file in std::fs::read_dir(&good).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), data.join(file.file_name())).unwrap();
        }
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
