//! Old rows leave while mail flows, and everything still adds up.

use postmeter::sandbox::faults::{Fault, Reply};
use postmeter::sandbox::resend::News;

use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter};

/// Entries stay for a week, and name nobody's mail.
const ROWS: &str = "
    SELECT (SELECT count(*) FROM message) + (SELECT count(*) FROM part) + (SELECT count(*) FROM recipient)
         + (SELECT count(*) FROM capture) + (SELECT count(*) FROM body)";

#[test]
fn p3_rows_leave_while_mail_flows_and_the_audit_holds() {
    let mut meter = Meter::resend().set("queue", "keep_log_days = 0").credits(1_000).start();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let meter = &meter;
            scope.spawn(move || {
                let mut smtp = meter.signed_in();
                for nth in 0..60 {
                    assert!(smtp.deliver(&letter(&format!("t{thread}n{nth}"))).starts_with("250 "));
                }
            });
        }
        for _ in 0..4 {
            let said = meter.run(&["audit"]);
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    });
    until_is("rows that are left", 0, || meter.number(ROWS));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 180);
    assert_eq!(meter.resend_stand_in().count(), 180);
    assert_eq!(meter.read::<i64>("SELECT closed_captured FROM account"), [180]);
    assert_eq!(meter.get("/messages").json(), serde_json::json!([]));
    // The next ones go on from there, across a restart too.
    meter.kill();
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("later")).starts_with("250 "));
    until_is("what was captured and has left", 181, || meter.number("SELECT closed_captured FROM account"));
    meter.finish();
    meter.tamper("UPDATE account SET closed_captured = closed_captured - 1, closed_price = closed_price - 1");
    let said = meter.run(&["audit"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("what has left it does not add up"), "{said:?}");
}

#[test]
fn p3_what_is_owed_stays_until_it_is_settled() {
    let meter = Meter::resend().set("queue", "keep_log_days = 0").start();
    meter.dodo().faults().push(Fault::new(Reply::status(500)).on("POST", "/ledger-entries").always());
    assert!(meter.signed_in().deliver(&letter("owed")).starts_with("250 "));
    until_is("what is owed", 1, || meter.number("SELECT owed FROM account"));
    // A message that was refused is final and settled: when it has left, the sweep has passed the other.
    const REFUSED: &str = r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#;
    meter.resend_stand_in().faults().push(Fault::new(Reply::status(422).body(REFUSED)).on("POST", "/emails"));
    assert!(meter.signed_in().deliver(&letter("refused")).starts_with("250 "));
    until_is("what was released and has left", 1, || meter.number("SELECT closed_released FROM account"));
    assert_eq!(meter.read::<i64>("SELECT captured FROM message WHERE kind = 'submission'"), [1]);
    meter.dodo().faults().clear();
    until_is("rows that are left", 0, || meter.number(ROWS));
}

#[test]
fn the_cap_on_refunds_counts_what_has_left() {
    let refunding = Meter::resend().set("billing", "refund_bounced = true");
    let meter = refunding.set("queue", "keep_log_days = 0").credits(100).start();
    let mut smtp = meter.signed_in();
    for nth in 0..39 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    until_is("rows that are left", 0, || meter.number(ROWS));
    // What is owed stays, and with it two of forty-two bounce before it is debited.
    let refuses = Reply::status(500);
    meter.dodo().faults().push(Fault::new(refuses).on("POST", "/ledger-entries").always());
    for subject in ["a", "b", "c"] {
        assert!(smtp.deliver(&letter(subject)).starts_with("250 "));
    }
    let sent = "SELECT count(*) FROM recipient WHERE state = 'sent'";
    until_is("what was sent", 3, || meter.number(sent));
    for mail in &meter.mails()[39..] {
        let _in_runtime = RUNTIME.enter();
        meter.resend_stand_in().tell(mail, &["bob@example.net"], &News::hard_bounce());
    }
    until_is("refunds", 3, || meter.number("SELECT count(*) FROM refund WHERE state <> 'waiting'"));
    assert_eq!(meter.number("SELECT count(*) FROM refund WHERE state = 'capped'"), 1);
    meter.dodo().faults().clear();
    // Those with a refund stay, and go on being counted.
    until_is("captures that are left", 0, || meter.number("SELECT count(*) FROM capture"));
    until_is("messages that are left", 3, || meter.number("SELECT count(*) FROM message"));
}

#[test]
fn the_log_is_kept_unless_it_is_told_otherwise() {
    let meter = Meter::resend().start();
    assert!(meter.signed_in().deliver(&letter("kept")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM body"), 0, "the bytes go at the end");
    let log = meter.get("/messages").json();
    assert_eq!(
        (&log[0]["subject"], &log[0]["recipients"][0]["address"]),
        (&"kept".into(), &"bob@example.net".into())
    );
}
