//! Credit: who has it sends, who has none is told where to get it.

use std::sync::{Arc, Barrier};

use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use reqwest::Method;

use crate::harness::meter::BASE_URL;
use crate::harness::smtp::Smtp;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

const OUT_OF_CREDIT: &str = "452 4.7.1 No email credits remaining, top up at https://meter.example\r\n";

#[test]
fn signing_in_says_how_many_credits_are_left() {
    let meter = Meter::resend().credits(2).start();
    let (username, secret) = (meter.credential.username.clone(), meter.credential.secret.clone());
    let mut smtp = Smtp::starttls(&meter);
    assert_eq!(smtp.auth_plain(&username, &secret), "235 2.7.0 Authenticated\r\n", "nothing is known yet");
    let reply = smtp.deliver(&letter("one"));
    assert!(reply.ends_with(", 1 email credits available\r\n"), "{reply}");
    for mut smtp in [Smtp::starttls(&meter), Smtp::implicit(&meter)] {
        let reply = smtp.auth_plain(&username, &secret);
        assert_eq!(reply, "235 2.7.0 Authenticated, 1 email credits available\r\n");
    }
}

#[test]
fn without_credits_mail_is_refused_until_a_top_up_lands() {
    let meter = Meter::resend().credits(1).start();
    let mut smtp = meter.signed_in();
    let reply = smtp.deliver(&letter("last"));
    assert!(reply.ends_with(", 0 email credits available\r\n"), "{reply}");
    assert_eq!(smtp.say("MAIL FROM:<ann@example.com>"), OUT_OF_CREDIT);
    let refused = meter.post_send(&serde_json::json!({
        "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "t"
    }));
    refused.is_error(402, "out_of_credit");
    assert_eq!(
        refused.json()["error"],
        "No email credits remaining. Buy a top-up pack or upgrade your plan."
    );

    let checkout = ask(meter.as_customer(Method::POST, "/checkout/topup"));
    assert_eq!(checkout.status, 200, "{checkout:?}");
    let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    let receipt = {
        let _in_runtime = RUNTIME.enter();
        meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap()
    };
    assert_eq!(receipt.customer_id, CUSTOMER_ID);
    assert_eq!(receipt.return_url, Some(format!("{BASE_URL}/thanks")));
    let reply = until("the top-up to rescue the sender", || {
        let reply = smtp.say("MAIL FROM:<ann@example.com>");
        reply.starts_with("250 ").then_some(reply)
    });
    assert_eq!(reply, "250 2.1.0 Sender OK\r\n");
    smtp.say("RSET");
    assert!(smtp.deliver(&letter("rescued")).starts_with("250 2.0.0 Queued as "));
    meter.drain();
    let bought = meter.dodo().balance(CUSTOMER_ID).unwrap();
    assert!(bought > 1, "the pack was credited");
    assert_eq!(meter.credits()["available"], bought);
}

#[test]
fn the_operator_may_refuse_for_good_instead() {
    let meter = Meter::resend().credits(0).set("billing", "out_of_credit_reply = 550").start();
    let mut smtp = meter.signed_in();
    assert_eq!(
        smtp.say("MAIL FROM:<ann@example.com>"),
        "550 5.7.1 No email credits remaining, top up at https://meter.example\r\n"
    );
}

#[test]
fn a_customer_who_never_had_credits_is_out_of_credit() {
    let meter = Meter::resend().credits(None).start();
    assert_eq!(meter.signed_in().say("MAIL FROM:<ann@example.com>"), OUT_OF_CREDIT);
}

#[test]
fn p2_sixty_four_connections_with_fifty_credits_send_exactly_fifty() {
    let meter = Meter::resend().credits(50).start();
    let ready = Arc::new(Barrier::new(64));
    let replies: Vec<String> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..64)
            .map(|nth| {
                let (meter, ready) = (&meter, Arc::clone(&ready));
                scope.spawn(move || {
                    let mut smtp = meter.signed_in();
                    ready.wait();
                    let reply = smtp.say("MAIL FROM:<ann@example.com>");
                    if !reply.starts_with("250") {
                        return reply;
                    }
                    smtp.say("RCPT TO:<bob@example.net>");
                    smtp.say("DATA");
                    smtp.message(&letter(&format!("n{nth}")))
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let (accepted, refused): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.starts_with("250 "));
    assert_eq!(accepted.len(), 50, "{refused:?}");
    assert!(refused.iter().all(|reply| reply == OUT_OF_CREDIT), "{refused:?}");
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 50);
    assert_eq!((meter.dodo().debited(CUSTOMER_ID), meter.dodo().balance(CUSTOMER_ID)), (50, Some(0)));
}

#[test]
fn p2_each_recipient_costs_a_credit_where_the_operator_sells_recipients() {
    let meter = Meter::resend().credits(3).set("billing", "unit = \"recipient\"").start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "cid@example.net"]);
    let reply = smtp.message(&letter("two"));
    assert!(reply.ends_with(", 1 email credits available\r\n"), "{reply}");
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    assert!(smtp.say("RCPT TO:<bob@example.net>").starts_with("250 "));
    assert_eq!(smtp.say("RCPT TO:<cid@example.net>"), OUT_OF_CREDIT);
    assert!(smtp.say("DATA").starts_with("354 "));
    let reply = smtp.message(&letter("one"));
    assert!(reply.ends_with(", 0 email credits available\r\n"), "{reply}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn p8_known_credit_goes_on_working_while_dodo_is_away() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("before")).starts_with("250 "));
    meter.drain();
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropBefore).always());
    for left in [8, 7] {
        let reply = smtp.deliver(&letter(&format!("left{left}")));
        assert!(reply.ends_with(&format!(", {left} email credits available\r\n")), "{reply}");
    }
    until("all three mails", || (meter.resend_stand_in().count() == 3).then_some(()));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    meter.dodo().faults().clear();
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn credit_that_was_never_known_is_no_refusal_but_a_delay() {
    let meter = Meter::resend().prepare();
    meter.dodo().faults().push(Fault::new(Misbehaviour::DropBefore).always());
    let mut meter = meter;
    meter.serve();
    let mut smtp = meter.signed_in();
    let reply = smtp.say("MAIL FROM:<ann@example.com>");
    assert_eq!(reply, "451 4.3.0 Email credits cannot be checked now, try again later\r\n");
    let letter_json = serde_json::json!({
        "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "t"
    });
    let refused = meter.post_send(&letter_json);
    refused.is_error(503, "billing_unknown");
    assert_ne!(refused.header("retry-after"), "");
    meter.dodo().faults().clear();
    assert!(smtp.deliver(&letter("later")).starts_with("250 "));
}

#[test]
fn p3_a_debit_whose_answer_is_lost_is_not_posted_twice() {
    for fault in [
        Misbehaviour::DropAfter,
        Misbehaviour::DropBefore,
        Misbehaviour::AnswerAfter(Reply::status(500)),
        Misbehaviour::Answer(Reply::status(503)),
        Misbehaviour::Garble,
    ] {
        let meter = Meter::resend().start();
        meter.dodo().faults().push(Fault::new(fault).on("POST", "/ledger-entries").times(2));
        let mut smtp = meter.signed_in();
        for nth in 0..3 {
            assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        }
        meter.drain();
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
    }
}
