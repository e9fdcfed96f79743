//! The low-balance notice.

use crate::harness::meter::CUSTOMER_EMAIL;
use crate::harness::smtp::Smtp;
use crate::harness::web::credit_added;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

fn notices(meter: &Meter) -> Vec<String> {
    let mails = meter.mails().into_iter().map(|mail| mail.email);
    let notices = mails.filter(|email| email.recipients().eq([CUSTOMER_EMAIL]));
    notices.filter_map(|email| email.subject).collect()
}

fn sends(smtp: &mut Smtp, subjects: &[&str]) {
    for subject in subjects {
        assert!(smtp.deliver(&letter(subject)).starts_with("250 "));
    }
}

#[test]
fn a_customer_is_told_once_each_time_the_credits_run_low() {
    let meter = Meter::resend().credits(10).set("billing", "low_balance_credits = 9").start();
    let mut smtp = meter.signed_in();
    sends(&mut smtp, &["a"]);
    meter.drain();
    assert_eq!(notices(&meter), Vec::<String>::new());
    sends(&mut smtp, &["b", "c", "d"]);
    until("the first notice", || (notices(&meter).len() == 1).then_some(()));
    meter.drain();
    assert_eq!(notices(&meter).len(), 1, "once a crossing");

    meter.dodo().grant(CUSTOMER_ID, 5, None).unwrap();
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    until("the top-up", || (meter.credits()["available"] == 11).then_some(()));
    sends(&mut smtp, &["e", "f", "g", "h"]);
    until("the second notice", || (notices(&meter).len() == 2).then_some(()));
    meter.drain();
    assert_eq!(notices(&meter).len(), 2);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 8, "notices are free");
}
