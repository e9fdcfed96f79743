//! Dodo away (P8): who is known goes on sending, to the last credit; who is not
//! waits; and when it is back, everything is paid.

use std::time::Instant;

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::meter::Credential;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

fn signed_in(meter: &Meter, credential: &Credential) -> Smtp {
    let mut smtp = Smtp::starttls(meter);
    let reply = smtp.auth_plain(&credential.username, &credential.secret);
    assert!(reply.starts_with("235 2.7.0 "), "{reply}");
    smtp
}

/// Sends until it is refused; how many were taken, and the refusal.
fn send_to_the_last(smtp: &mut Smtp, name: &str) -> (u64, String) {
    for nth in 0.. {
        let reply = smtp.say("MAIL FROM:<ann@example.com>");
        if !reply.starts_with("250 ") {
            return (nth, reply);
        }
        smtp.say("RSET");
        assert!(smtp.deliver(&letter(&format!("{name}-{nth}"))).starts_with("250 "));
    }
    unreachable!("credits end");
}

#[test]
fn p8_while_dodo_is_away_known_credit_is_spent_to_the_last_and_paid_when_it_is_back() {
    let away: [(&str, Misbehaviour); 3] = [
        ("connections are lost", Misbehaviour::DropBefore),
        ("no answer comes", Misbehaviour::HangBefore),
        ("it is down", Reply::status(503).into()),
    ];
    std::thread::scope(|scope| {
        for (name, fault) in away {
            scope.spawn(move || outage(name, fault));
        }
    });
}

fn outage(name: &str, fault: Misbehaviour) {
    let meter = Meter::resend()
        .credits(8)
        .set("senders", "policy = \"any\"")
        .set("billing", "dodo_timeout_s = 1")
        .start();
    let known: Vec<_> = (0..6).map(|nth| (format!("cus_{nth}"), 2 + nth)).collect();
    let known: Vec<_> =
        known.iter().map(|(id, credits)| (id, *credits, meter.new_customer(id, *credits))).collect();
    let stranger = meter.new_customer("stranger", 5);
    for (_, _, credential) in &known {
        assert!(signed_in(&meter, credential).say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    }
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("before")).starts_with("250 "));
    meter.drain();
    meter.dodo().faults().push(Fault::new(fault).always());

    let (taken, refusal) = send_to_the_last(&mut smtp, "ann");
    assert_eq!(taken, 7, "{name}: to the last credit");
    assert!(refusal.starts_with("452 4.7.1 No email credits remaining"), "{name}: {refusal}");
    for (id, credits, credential) in &known {
        let (taken, refusal) = send_to_the_last(&mut signed_in(&meter, credential), id);
        assert_eq!(taken, *credits, "{name}: {id}");
        assert!(refusal.starts_with("452 4.7.1 "), "{name}: {refusal}");
    }
    let reply = signed_in(&meter, &stranger).say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("451 4.3.0 "), "{name}: {reply}");
    let sent = 8 + known.iter().map(|(_, credits, _)| credits).sum::<u64>();
    until_is("mails that left", sent, || meter.resend_stand_in().count() as u64);

    let ready = ask(meter.request(reqwest::Method::GET, "/readyz"));
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)), "{name}");
    assert_eq!(ready.json()["problems"][0]["what"], "dodo", "{name}");
    assert_eq!(meter.metric("postmeter_dodo_up"), 0, "{name}");
    let owed = i64::try_from(sent - 1).unwrap();
    until_is("credits owed", owed, || meter.metric("postmeter_credits_owed"));
    until("the age of the debts", || {
        (meter.metric("postmeter_oldest_capture_age_seconds") > 0).then_some(())
    });
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "{name}");

    meter.dodo().faults().clear();
    let back = Instant::now();
    meter.drain();
    assert!(back.elapsed().as_secs() < 25, "{name}: {:?}", back.elapsed());
    for (id, credits, _) in &known {
        assert_eq!((meter.dodo().debited(id), meter.dodo().balance(id)), (*credits, Some(0)), "{name}: {id}");
    }
    for call in ["post_entry", "read_balance", "list_balances"] {
        let series = format!("postmeter_dodo_calls_total{{call=\"{call}\",result=\"rate_limited\"}}");
        assert_eq!(meter.metric(&series), 0, "{name}: no storm");
    }
    assert_eq!(meter.metric("postmeter_dodo_up"), 1, "{name}");
    assert_eq!(ask(meter.request(reqwest::Method::GET, "/readyz")).json()["problems"], serde_json::json!([]));
    let mut smtp = signed_in(&meter, &stranger);
    assert!(smtp.deliver(&letter("stranger")).starts_with("250 "), "{name}");
}

#[test]
fn p8_debts_of_an_outage_survive_a_restart_in_it() {
    let mut meter = Meter::resend().credits(5).start();
    assert!(meter.signed_in().deliver(&letter("before")).starts_with("250 "));
    meter.drain();
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropAfter).on("POST", "/ledger-entries").times(2));
    meter.dodo().faults().push(Fault::new(Reply::status(500)).always());
    assert!(meter.signed_in().deliver(&letter("during")).starts_with("250 "));
    until_is("what is owed", 1, || meter.number("SELECT sum(owed) FROM account"));
    meter.kill();
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("after")).starts_with("250 "));
    meter.dodo().faults().clear();
    meter.drain();
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID)), (3, Some(2)));
}
