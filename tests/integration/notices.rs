//! What customers are told of their account by mail: each once, free of charge.

use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::resend::Email;
use reqwest::Method;

use crate::harness::web::{ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::subscribe::{subscribe, welcome};

/// The mails of ours with this subject.
fn notices(meter: &Meter, subject: &str) -> Vec<Email> {
    let mails = meter.mails().into_iter().map(|mail| mail.email);
    mails.filter(|email| email.subject.as_deref().is_some_and(|is| is.contains(subject))).collect()
}

fn tops_up(meter: &Meter) {
    let checkout = ask(meter.as_customer(Method::POST, "/checkout/topup"));
    let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    let _in_runtime = RUNTIME.enter();
    meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap();
}

#[test]
fn a_new_customer_is_greeted_once_and_each_further_payment_told_once() {
    let meter = Meter::resend()
        .set("notices", "welcome = true")
        .set("notices", "top_up = true")
        .set("senders", "starter_domain = \"mail.example\"")
        .start();
    meter.dodo().behave(|behaviour| behaviour.duplicate_events = true);
    let buyer = subscribe(&meter, "zoe@example.org");
    welcome(&meter, &buyer.way_back());
    let greeted = until("the welcome", || notices(&meter, "Welcome").pop());
    assert!(greeted.recipients().eq(["zoe@example.org"]), "{greeted:?}");
    let (text, html) = (greeted.text.unwrap(), greeted.html.unwrap());
    for want in ["Welcome, Zoe.", &format!("{}@mail.example", buyer.receipt.customer_id), "https://"] {
        assert!(text.contains(want) && html.contains(want), "{want}: {text}");
    }
    assert!(!html.contains("<img") && !html.contains("src="), "{html}");
    tops_up(&meter);
    until("the second letter", || notices(&meter, "Payment received").pop());
    meter.drain();
    assert_eq!((notices(&meter, "Welcome").len(), notices(&meter, "Payment received").len()), (1, 1));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID) + meter.dodo().debited(&buyer.receipt.customer_id), 0);
}

#[test]
fn who_runs_out_of_credit_is_told_once_until_there_is_more() {
    let meter = Meter::resend().credits(1).set("notices", "out_of_credit = true").start();
    let told = || notices(&meter, "No email credits remaining").len();
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("the last")).starts_with("250 "));
    meter.drain();
    for _ in 0..3 {
        assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("452 4.7.1 "));
    }
    until("the notice", || (told() == 1).then_some(()));
    meter.drain();
    assert_eq!((told(), meter.dodo().debited(CUSTOMER_ID)), (1, 1));
    meter.dodo().grant(CUSTOMER_ID, 1, None).unwrap();
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    until("the credit", || (meter.number("SELECT count(*) FROM told") == 0).then_some(()));
    assert_eq!(meter.credits()["available"], 1);
}

#[test]
fn who_runs_out_is_told_where_the_balance_is_read_for_each_mail_too() {
    let plan = Meter::resend().credits(0).set("billing", "balance_max_age_s = 0");
    let meter = plan.set("notices", "out_of_credit = true").start();
    let mut smtp = meter.signed_in();
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("452 4.7.1 "));
    let notice = until("the notice", || notices(&meter, "No email credits remaining").pop());
    let (text, html) = (notice.text.unwrap(), notice.html.unwrap());
    assert!(text.contains("Buy more:") && html.contains("Buy more"), "{text}");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn notices_that_are_switched_off_are_not_mailed() {
    let meter = Meter::resend()
        .credits(2)
        .set("billing", "low_balance_credits = 2")
        .set("notices", "low_balance = false")
        .start();
    let mut smtp = meter.signed_in();
    for subject in ["one", "two"] {
        assert!(smtp.deliver(&letter(subject)).starts_with("250 "));
    }
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("452 4.7.1 "));
    tops_up(&meter);
    let buyer = subscribe(&meter, "zoe@example.org");
    welcome(&meter, &buyer.way_back());
    until("the top-up", || (meter.credits()["available"].as_i64()? > 0).then_some(()));
    meter.drain();
    let subjects: Vec<_> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
}
