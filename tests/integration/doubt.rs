//! Entries that no answer of Dodo's can tell about: looked up in its ledger, never
//! debited twice, and shown to the operator as long as they cannot be decided.

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::audit::post_at_dodo;
use crate::harness::plan::Plan;
use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

const DOUBTFUL: &str = "SELECT count(*) FROM entry WHERE state = 'open' AND doubtful_since IS NOT NULL";
const VOID: &str = "SELECT count(*) FROM entry WHERE state = 'void'";

/// Keys are forgotten after two seconds, and no call lasts longer than one.
fn quick() -> Plan {
    Meter::resend().set("billing", "key_lifetime_s = 2").set("billing", "lookup_wait_s = 1")
}

fn send(meter: &Meter, count: usize) {
    let mut smtp = meter.signed_in();
    for nth in 0..count {
        let reply = smtp.deliver(&letter(&format!("n{nth}")));
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

/// The line of the metrics page with this name.
fn metric(meter: &Meter, name: &str) -> String {
    let page = meter.get("/metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_default().to_owned()
}

fn problems(meter: &Meter) -> Vec<String> {
    let ready = meter.get("/readyz");
    assert_eq!(ready.status, 200, "mail goes on: {ready:?}");
    let problems = ready.json()["problems"].as_array().unwrap().clone();
    problems.iter().map(|problem| problem["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn p3_a_lost_answer_that_emptied_the_account_is_debited_once() {
    let meter = Meter::resend().credits(1).start();
    meter.dodo().behave(|behaviour| behaviour.balance_before_key = true);
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropAfter).on("POST", "/ledger-entries"));
    send(&meter, 1);
    meter.drain();
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID)), (1, Some(0)));
    assert!(meter.log().contains("stands in Dodo's ledger; it is settled"), "{}", meter.log());
    assert_eq!(meter.number(VOID), 0);
}

#[test]
fn p3_a_forgotten_key_is_looked_up_and_never_used_again() {
    for fault in [Misbehaviour::DropAfter, Misbehaviour::DropBefore] {
        let is_applied = fault == Misbehaviour::DropAfter;
        let meter = quick().start();
        let faults = meter.dodo().faults();
        faults.push(Fault::new(fault).on("POST", "/ledger-entries"));
        faults.push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").times(3));
        send(&meter, 1);
        until("its end", || {
            (meter.number("SELECT count(*) FROM entry WHERE doubtful_since > 0") == 1).then_some(())
        });
        meter.dodo().forget_keys().unwrap();
        meter.drain();
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "applied: {is_applied}");
        assert_eq!(meter.number(VOID) > 0, !is_applied, "a new entry only where nothing was applied");
    }
}

#[test]
fn p3_a_kill_while_an_entry_is_in_doubt_changes_nothing() {
    let mut meter = quick().start();
    let faults = meter.dodo().faults().clone();
    faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/ledger-entries"));
    faults.push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").always());
    faults.push(Fault::new(Reply::status(503)).on("GET", "/ledger").always());
    send(&meter, 1);
    until_is("entries in doubt", 1, || meter.number(DOUBTFUL));
    meter.kill();
    meter.dodo().forget_keys().unwrap();
    faults.clear();
    meter.serve();
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn p3_what_cannot_be_decided_stays_owed_and_everybody_can_see_it() {
    let meter = quick().start();
    meter.dodo().behave(|behaviour| behaviour.reason_in_ledger = false);
    let faults = meter.dodo().faults();
    faults.push(Fault::new(Misbehaviour::DropAfter).on("POST", "/ledger-entries"));
    faults.push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").always());
    send(&meter, 1);
    until_is("shown in the metrics", "1".to_owned(), || metric(&meter, "postmeter_entries_doubtful"));
    faults.clear();
    until("the reason", || {
        let said = meter.says(&["audit"]);
        let told = said.contains("in doubt: entry-") && said.contains("name no entry");
        told.then_some(())
    });
    assert!(problems(&meter).contains(&"doubtful".to_owned()));
    send(&meter, 2);
    until_is("owed", 3, || meter.credits()["owed"].as_i64().unwrap());
    assert_eq!(meter.credits()["available"], 7, "the customer goes on spending what is known");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "nothing more is posted meanwhile");
    // The operator looks it up in Dodo's dashboard.
    let listed: serde_json::Value = serde_json::from_str(&meter.says(&["entry", "list", "--json"])).unwrap();
    assert_eq!(
        (&listed[0]["customer_id"], &listed[0]["amount"]),
        (&CUSTOMER_ID.into(), &1.into()),
        "{listed}"
    );
    let entry_id = listed[0]["entry_id"].as_str().unwrap();
    meter.command_fails(
        &["entry", "settle", entry_id],
        "if Dodo has not applied it, its credits are given away",
    );
    assert_eq!(meter.number(DOUBTFUL), 1, "nobody has said that the risk is known");
    meter.says(&["entry", "settle", entry_id, "--yes"]);
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
    let said = meter.run(&["entry", "void", entry_id, "--yes"]);
    assert!(said.code != Some(0) && said.err.contains("is in doubt"), "{said:?}");
    assert_eq!(meter.says(&["entry", "list"]), "no entry is in doubt\n");
    until_is("shown in the metrics", "0".to_owned(), || metric(&meter, "postmeter_entries_doubtful"));
    until_is("problems", Vec::new(), || problems(&meter));
}

/// Voids an entry as soon as its last call was long enough ago.
fn void(meter: &Meter, entry_id: &str) {
    until("the last call to be long ago", || {
        (meter.run(&["entry", "void", entry_id, "--yes"]).code == Some(0)).then_some(())
    });
}

#[test]
fn p3_an_operator_who_knows_that_nothing_was_applied_has_it_debited_anew() {
    let meter = quick().start();
    meter.dodo().behave(|behaviour| behaviour.reason_in_ledger = false);
    let faults = meter.dodo().faults();
    faults.push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").always());
    faults.push(Fault::new(Reply::status(503)).on("GET", "/ledger").always());
    send(&meter, 1);
    until_is("entries in doubt", 1, || meter.number(DOUBTFUL));
    let entries: Vec<String> = meter.read("SELECT entry_id FROM entry WHERE state = 'open'");
    faults.clear();
    faults.push(Fault::new(Reply::status(503)).on("GET", "/ledger").always());
    void(&meter, &entries[0]);
    meter.drain();
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.number(VOID)), (1, 1));
}

/// A customer whose second debit the operator decides against what Dodo knows. Returns its entry.
fn decided_wrongly(meter: &Meter, is_applied: bool) -> String {
    send(meter, 1);
    meter.drain();
    let faults = meter.dodo().faults();
    let lost = if is_applied { Misbehaviour::DropAfter } else { Misbehaviour::DropBefore };
    faults.push(Fault::new(lost).on("POST", "/ledger-entries"));
    faults.push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").always());
    faults.push(Fault::new(Reply::status(503)).on("GET", "/ledger").always());
    send(meter, 1);
    until_is("entries in doubt", 1, || meter.number(DOUBTFUL));
    let entry_id = meter.read::<String>("SELECT entry_id FROM entry WHERE state = 'open'").remove(0);
    if is_applied {
        void(meter, &entry_id);
    } else {
        meter.says(&["entry", "settle", &entry_id, "--yes"]);
    }
    faults.clear();
    meter.drain();
    entry_id
}

#[test]
fn p3_what_the_operator_gave_away_is_a_remark_of_the_audit() {
    let mut meter = quick().start();
    let entry_id = decided_wrongly(&meter, false);
    meter.end();
    let said = meter.says(&["audit", "--dodo"]);
    let remark = format!(
        "remark: {CUSTOMER_ID} {entry_id}, 1 credits: settled by the operator's decision; Dodo's ledger shows no \
         such debit\n"
    );
    assert!(said.starts_with("ok: ") && said.ends_with(&remark), "{said}");
    assert_eq!(meter.says(&["audit", "--dodo", "--json"]).trim(), "[]");
    post_at_dodo(&meter, "debit", "1", &format!("after all: {entry_id}"));
    assert!(!meter.says(&["audit", "--dodo"]).contains("remark"));
}

#[test]
fn p3_what_a_customer_paid_twice_by_the_operators_decision_is_wrong_until_it_is_given_back() {
    let mut meter = quick().start();
    let entry_id = decided_wrongly(&meter, true);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3, "for two messages");
    meter.end();
    let said = meter.run(&["audit", "--dodo"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains(&entry_id) && said.out.contains("the customer pays it twice"), "{said:?}");
    post_at_dodo(&meter, "credit", "1", &format!("given back, debited twice: {entry_id}"));
    assert!(meter.says(&["audit", "--dodo"]).starts_with("ok: "));
}
