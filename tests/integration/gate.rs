//! A key or a password that the upstream does not know is the operator's trouble: nothing bounces.

use postmeter::sandbox;
use reqwest::Method;

use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

fn waits_for_the_right_key(bad_key_status: u16) {
    let mut meter = Meter::resend().prepare();
    meter.resend_stand_in().behave(|behaviour| behaviour.bad_key_status = bad_key_status);
    meter.set_environment("RESEND_API_KEY", "re_wrong");
    meter.serve();
    let ready = || ask(meter.request(Method::GET, "/readyz"));
    assert_eq!(ready().status, 200);
    let mut smtp = meter.signed_in();
    for nth in 0..3 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "), "mail is still taken in");
    }
    let answer = until("readyz to say it", || Some(ready()).filter(|answer| answer.status == 503));
    let problem = &answer.json()["problems"][0];
    assert_eq!((&problem["what"], &problem["upstream"]), (&"upstream".into(), &"resend".into()), "{problem}");
    assert_eq!(problem["reason"], "api_key", "{problem}");
    until("all parts to wait", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued'") == 3).then_some(())
    });
    assert_eq!(meter.number("SELECT count(*) FROM message"), 3, "nothing bounced");
    assert!(meter.log().contains("Resend refused the API key"), "{}", meter.log());
    assert_eq!(meter.resend_stand_in().count(), 0);

    meter.stop();
    meter.set_environment("RESEND_API_KEY", sandbox::RESEND_API_KEY);
    meter.serve();
    until("readyz to be well", || (ask(meter.request(Method::GET, "/readyz")).status == 200).then_some(()));
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 3);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
    assert_eq!(meter.number("SELECT count(*) FROM message"), 3, "nothing bounced");
}

#[test]
fn mail_waits_for_the_right_key_where_resend_answers_400() {
    waits_for_the_right_key(400);
}

#[test]
fn mail_waits_for_the_right_key_where_resend_answers_401() {
    waits_for_the_right_key(401);
}

#[test]
fn mail_waits_for_the_right_password_of_the_smtp_upstream() {
    let mut meter = Meter::smtp().start();
    meter.sink().reply("AUTH", "535 5.7.8 who are you?");
    assert!(meter.signed_in().deliver(&letter("waits")).starts_with("250 "));
    let ready = || ask(meter.request(Method::GET, "/readyz"));
    let answer = until("readyz to say it", || Some(ready()).filter(|answer| answer.status == 503));
    assert_eq!(answer.json()["problems"][0]["reason"], "smtp_sign_in", "{answer:?}");
    until("the part to wait", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued'") == 1).then_some(())
    });
    meter.stop();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1, "nothing bounced");
}
