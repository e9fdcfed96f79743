//! Debts, top-ups and a Dodo that says no: the sums hold, and the customer is told the truth.

use postmeter::sandbox;
use postmeter::sandbox::dodo::{Amounts, ApiEntries, RepeatedKey};
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::credit_added;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::page::Browser;

fn sends(smtp: &mut Smtp, subjects: &[&str]) {
    for subject in subjects {
        let reply = smtp.deliver(&letter(subject));
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

#[test]
fn credits_that_vanished_at_dodo_leave_a_debt_that_the_next_top_up_pays_first() {
    let meter = Meter::resend().credits(3).start();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, &["known"]);
    meter.drain();
    meter.dodo().expire_credits(CUSTOMER_ID).unwrap();
    sends(&mut smtp, &["on-tick"]);
    until_is("available", -1, || meter.credits()["available"].as_i64().unwrap());
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    let reply = smtp.say("MAIL FROM:<ann@example.com>");
    assert_eq!(
        reply,
        "452 4.7.1 No email credits remaining, top up at https://meter.example (credits owed: 1, for mail already \
         sent, because credits expired or were spent elsewhere; the next top-up pays that first)\r\n"
    );
    is_told_of_its_debt(&meter);
    let reply = Smtp::implicit(&meter).auth_plain(&meter.credential.username, &meter.credential.secret);
    assert_eq!(reply, "235 2.7.0 Authenticated, 0 email credits available\r\n", "0 when in debt");

    meter.dodo().grant(CUSTOMER_ID, 5, None).unwrap();
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    until_is("debited", 2, || meter.dodo().debited(CUSTOMER_ID));
    meter.drain();
    assert_eq!(meter.credits()["available"], 4);
    assert_eq!(meter.credits()["shortfall"], serde_json::Value::Null);
    sends(&mut smtp, &["again"]);
}

/// Over HTTP, in the log and in the metrics.
fn is_told_of_its_debt(meter: &Meter) {
    const OWED: &str = "Credits owed: 1, for mail already sent, because credits expired or were spent elsewhere. \
                        The next top-up pays that first.";
    let refused = meter.post_send(&serde_json::json!({
        "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "t"
    }));
    refused.is_error(402, "out_of_credit");
    let contract = "No email credits remaining. Buy a top-up pack or upgrade your plan.";
    assert_eq!(refused.json()["error"], format!("{contract} {OWED}"));
    let credits = meter.credits();
    assert_eq!((&credits["shortfall"], credits["problem"].as_str()), (&serde_json::json!(1), Some(OWED)));
    let page = Browser::signed_in(meter).get("/account");
    assert!(page.status == 200 && page.body.contains(OWED), "{page:?}");
    assert!(meter.log().contains("credits expired or were spent elsewhere before they could be debited"));
    until_is("the metric", 1, || meter.metric("postmeter_credits_uncovered"));
}

#[test]
fn p2_credit_that_was_spent_elsewhere_is_noticed_by_the_webhook() {
    let meter = Meter::resend().credits(5).start();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, &["one"]);
    meter.drain();
    meter.dodo().expire_credits(CUSTOMER_ID).unwrap();
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    until_is("available", 0, || meter.credits()["available"].as_i64().unwrap());
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("452 4.7.1 "));
}

#[test]
fn p8_debits_wait_for_a_key_that_may_write() {
    let mut meter = Meter::resend().prepare();
    meter.set_environment("DODO_PAYMENTS_API_KEY", sandbox::DODO_READ_ONLY_API_KEY);
    meter.serve();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, &["a", "b", "c"]);
    until("all mails", || (meter.resend_stand_in().count() == 3).then_some(()));
    until_is("what is owed", 3, || meter.credits()["owed"].as_i64().unwrap());
    assert_eq!(meter.credits()["available"], 7);
    assert!(meter.log().contains("Dodo refused the API key"), "{}", meter.log());
    meter.stop();
    meter.set_environment("DODO_PAYMENTS_API_KEY", sandbox::DODO_API_KEY);
    meter.serve();
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn an_operator_who_wants_every_balance_live_gets_it() {
    let meter = Meter::resend().set("billing", "balance_max_age_s = 0").start();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, &["one"]);
    meter.drain();
    meter.dodo().expire_credits(CUSTOMER_ID).unwrap();
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("452 4.7.1 "));
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropBefore).always());
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("451 4.3.0 "));
    meter.dodo().faults().clear();
    meter.dodo().grant(CUSTOMER_ID, 2, None).unwrap();
    sends(&mut smtp, &["two"]);
}

#[test]
fn p3_whatever_manners_dodo_has_each_message_is_debited_once() {
    for first_answer in [false, true] {
        let meter = Meter::resend().credits(50).start();
        meter.dodo().behave(|behaviour| {
            behaviour.repeated_key =
                if first_answer { RepeatedKey::FirstAnswer } else { RepeatedKey::Conflict };
            behaviour.amounts = if first_answer { Amounts::String } else { Amounts::Number };
            behaviour.api_entries =
                if first_answer { ApiEntries::ManualAdjustment } else { ApiEntries::ByDirection };
            behaviour.duplicate_events = true;
        });
        let faults = meter.dodo().faults();
        let limited = Reply::status(429).header("retry-after", "1").body(r#"{"code":"TOO_MANY_REQUESTS"}"#);
        for fault in [Misbehaviour::DropAfter, limited.into(), Misbehaviour::Garble, Misbehaviour::DropBefore]
        {
            faults.push(Fault::new(fault).on("POST", "/ledger-entries").after(1));
        }
        let mut smtp = meter.signed_in();
        for nth in 0..12 {
            sends(&mut smtp, &[&format!("n{nth}")]);
        }
        until("the faults", || (faults.struck() >= 1).then_some(()));
        faults.clear();
        meter.drain();
        assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID)), (12, Some(38)));
        assert_eq!(meter.credits()["available"], 38);
    }
}
