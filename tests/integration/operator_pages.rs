//! What the operator sees and decides in a browser, beside the running server.

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use reqwest::Method;

use crate::harness::meter::ADMIN_TOKEN;
use crate::harness::web::{Answer, ask};
use crate::harness::{CUSTOMER_ID, Meter, until};
use crate::page::{form, posted};
use crate::queue::OTHER_BYTES;

/// A browser in which the operator is signed in.
struct Operator<'a> {
    meter: &'a Meter,
    cookie: String,
}

impl<'a> Operator<'a> {
    fn signed_in(meter: &'a Meter) -> Self {
        let answer =
            ask(posted(meter.request(Method::POST, "/operator/sign-in"), &form(&[("token", ADMIN_TOKEN)])));
        assert_eq!((answer.status, answer.header("location")), (303, "/operator"), "{answer:?}");
        let cookie = answer.header("set-cookie");
        assert!(cookie.starts_with("__Secure-") && cookie.contains("HttpOnly"), "{cookie}");
        assert!(cookie.contains("SameSite=Strict") && cookie.contains("Path=/operator;"), "{cookie}");
        Self { meter, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        ask(self.meter.request(Method::GET, path).header("cookie", &self.cookie))
    }

    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.meter.request(Method::POST, path).header("cookie", &self.cookie);
        ask(posted(request, &form(fields)))
    }
}

#[test]
fn p4_the_operator_releases_a_held_message_after_the_risk_was_told() {
    let meter = Meter::resend().start();
    let faults = meter.resend_stand_in().faults();
    // The answer is lost, and then the key is taken by something else.
    faults.push(Fault::new(Misbehaviour::DropBefore).on("POST", "/emails"));
    faults.push(Fault::new(Reply::status(409).body(OTHER_BYTES)).on("POST", "/emails"));
    let id = meter.accepted("doubtful");
    meter.until_part_is(&id, "held", true);
    let operator = Operator::signed_in(&meter);
    let overview = until("the held part to be counted", || {
        let page = operator.get("/operator");
        page.body.contains("1 part is held").then_some(page)
    });
    assert!(overview.body.contains("Why mail waits"), "{overview:?}");
    let list = operator.get("/operator/queue");
    assert!(list.body.contains(&id) && list.body.contains("Release"), "{list:?}");
    let path = format!("/operator/queue/{id}/retry");
    let asked = operator.post(&path, &[]);
    assert!(asked.status == 409 && asked.body.contains("they may get it twice"), "{asked:?}");
    let done = operator.post(&path, &[("confirm", "true")]);
    assert_eq!(done.status, 303, "{done:?}");
    meter.drain();
    let page = operator.get(done.header("location"));
    assert!(page.body.contains("by http") && page.body.contains(">sent<"), "{page:?}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    assert_eq!(meter.resend_stand_in().count(), 1, "here it was not");
}

#[test]
fn p10_a_suspended_customer_is_refused_at_once_and_no_token_is_logged() {
    let meter = Meter::resend().start();
    let operator = Operator::signed_in(&meter);
    let path = format!("/operator/customers/{CUSTOMER_ID}");
    let done = operator.post(&format!("{path}/suspend"), &[("reason", "looks like <spam>")]);
    assert_eq!((done.status, done.header("location")), (303, path.as_str()), "{done:?}");
    assert!(operator.get(&path).body.contains("looks like &lt;spam&gt;"));
    let mut smtp = meter.signed_in();
    let refused = smtp.say("MAIL FROM:<ann@example.com>");
    assert!(refused.contains("looks like <spam>"), "{refused}");
    let overview = operator.get("/operator").body;
    assert!(overview.contains(CUSTOMER_ID) && overview.contains("looks like &lt;spam&gt;"), "{overview}");
    assert_eq!(operator.post(&format!("{path}/resume"), &[]).status, 303);
    meter.accepted("again");
    meter.drain();
    assert!(!meter.log().contains(ADMIN_TOKEN), "P10");
}
