//! Dodo misbehaves while the real program runs: when it ends, everything adds up.

use postmeter::sandbox::dodo::{Amounts, Behaviour, EventOrder, Payer, RepeatedKey};
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use serde_json::json;

use crate::harness::meter::BASE_URL;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::{ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

const ENTRIES: &str = "/ledger-entries";

fn sends(smtp: &mut Smtp, subject: &str) {
    let reply = smtp.deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{subject}: {reply}");
}

/// Dodo's manners, and what goes wrong with the calls for entries.
type Trouble = (&'static str, fn(&mut Behaviour), Vec<Misbehaviour>);

fn troubles() -> Vec<Trouble> {
    use Misbehaviour::{DropAfter, DropBefore, ForgetKeys, Garble, HangAfter, HangBefore};
    vec![
        ("500 and timeouts", |_| {}, vec![Reply::status(500).into(), HangBefore, HangAfter]),
        (
            "429 with and without a word",
            |_| {},
            vec![Reply::status(429).into(), Reply::status(429).header("retry-after", "1").into()],
        ),
        (
            "lost answers and 409",
            |b| b.repeated_key = RepeatedKey::Conflict,
            vec![DropAfter, DropBefore, DropAfter],
        ),
        (
            "lost answers and the first answer again, as strings",
            |b| (b.repeated_key, b.amounts) = (RepeatedKey::FirstAnswer, Amounts::String),
            vec![DropAfter, HangAfter],
        ),
        (
            "a key that was forgotten before anything was applied",
            |_| {},
            vec![Reply::status(429).header("retry-after", "1").into(), ForgetKeys],
        ),
        (
            "answers that cannot be read",
            |_| {},
            vec![
                Garble,
                Misbehaviour::AnswerAfter(Reply::status(201).body("<html>")),
                Reply::status(200).body("<html>maintenance</html>").into(),
            ],
        ),
    ]
}

#[test]
fn p3_when_a_fault_of_dodo_ends_everything_adds_up() {
    std::thread::scope(|scope| {
        for (name, manners, faults) in troubles() {
            scope.spawn(move || {
                let meter = Meter::resend().credits(30).set("billing", "dodo_timeout_s = 1").start();
                let mut smtp = meter.signed_in();
                sends(&mut smtp, "before");
                meter.drain();
                meter.dodo().behave(manners);
                let many = faults.len() as u64;
                faults.into_iter().for_each(|fault| {
                    meter.dodo().faults().push(Fault::new(fault).on("POST", ENTRIES));
                });
                for nth in 0..5 {
                    sends(&mut smtp, &format!("n{nth}"));
                }
                meter.drain();
                assert_eq!(meter.dodo().faults().struck(), many, "{name}");
                let (debited, left) = (meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID));
                assert_eq!((debited, left), (6, Some(24)), "{name}");
                until_is("available", 24, || meter.credits()["available"].as_i64().unwrap());
            });
        }
    });
}

#[test]
fn p9_a_wrong_entitlement_delays_mail_and_is_named_by_readyz() {
    let mut meter = Meter::resend().prepare();
    let right = meter.environment()["CREDIT_ENTITLEMENT_ID"].clone();
    meter.set_environment("CREDIT_ENTITLEMENT_ID", "cde_of_nobody");
    meter.serve();
    assert!(meter.signed_in().say("MAIL FROM:<ann@example.com>").starts_with("451 4.3.0 "));
    let ready = ask(meter.request(reqwest::Method::GET, "/readyz"));
    let problem = ready.json()["problems"][0].clone();
    assert_eq!((ready.status, &problem["what"]), (200, &json!("dodo_refuses")), "{problem}");
    assert_eq!(problem["calls"], json!(["read_balance"]));
    assert_eq!(meter.metric("postmeter_dodo_refusing{call=\"read_balance\"}"), 1);
    assert!(meter.log().contains("Dodo does not know it (404)"), "{}", meter.log());
    meter.stop();
    meter.set_environment("CREDIT_ENTITLEMENT_ID", &right);
    meter.serve();
    sends(&mut meter.signed_in(), "at last");
}

#[test]
fn a_storm_of_webhooks_doubled_and_out_of_order_costs_few_calls_and_changes_nothing() {
    let meter = Meter::resend().credits(5).start();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, "one");
    meter.drain();
    let calls = meter.dodo().calls();
    let body = credit_added(CUSTOMER_ID);
    for nth in 0..60 {
        // Every id twice, the later event first, and amounts that are not to be believed.
        let seconds_ago = 200 - nth;
        for result in ["accepted", "duplicate"] {
            let answer = meter.webhook(&format!("msg_{nth}"), seconds_ago, &body);
            assert_eq!((answer.status, answer.json()["result"].as_str()), (200, Some(result)));
        }
    }
    let deducted =
        json!({ "type": "credit.deducted", "data": { "customer_id": CUSTOMER_ID, "balance_after": "0" } });
    assert_eq!(meter.webhook("msg_old", 290, &deducted.to_string()).status, 200);
    until_is("available", 4, || meter.credits()["available"].as_i64().unwrap());
    sends(&mut smtp, "two");
    meter.drain();
    let calls = meter.dodo().calls() - calls;
    assert!(calls <= 64, "{calls} calls for 120 deliveries");
    assert_eq!(meter.credits()["available"], 3);
}

#[test]
fn a_top_up_whose_webhooks_come_doubled_and_backwards_is_seen_once() {
    for order in [EventOrder::Reversed, EventOrder::Shuffled] {
        let meter = Meter::resend().credits(1).start();
        meter.dodo().behave(|behaviour| {
            (behaviour.event_order, behaviour.duplicate_events) = (order, true);
        });
        let mut smtp = meter.signed_in();
        sends(&mut smtp, "last");
        meter.drain();
        let checkout = ask(meter.as_customer(reqwest::Method::POST, "/checkout/topup"));
        let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
        let receipt = {
            let _in_runtime = RUNTIME.enter();
            meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap()
        };
        assert_eq!(receipt.return_url, Some(format!("{BASE_URL}/thanks")));
        until("the top-up", || smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 ").then_some(()));
        smtp.say("RSET");
        sends(&mut smtp, "rescued");
        meter.drain();
        assert_eq!(meter.credits()["available"], meter.dodo().balance(CUSTOMER_ID).unwrap());
    }
}

#[test]
fn a_checkout_waits_its_turn_under_dodos_limit() {
    let meter = Meter::resend().credits(5).start();
    let limited = Reply::status(429).header("retry-after", "30");
    meter.dodo().faults().push(Fault::new(limited).on("GET", "/balances"));
    assert!(meter.signed_in().say("MAIL FROM:<ann@example.com>").starts_with("451 4.3.0 "));
    let calls = meter.dodo().calls();
    let refused = ask(meter.as_customer(reqwest::Method::POST, "/checkout/topup"));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(meter.dodo().calls(), calls, "nothing is asked of Dodo before its time");
}
