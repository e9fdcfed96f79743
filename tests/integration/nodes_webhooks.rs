//! Webhooks reach any of several servers on one PostgreSQL, and mostly not the one that they
//! are about.

use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::resend::{Mail, News};
use reqwest::Method;
use serde_json::Value;

use crate::harness::postgres::Cluster;
use crate::harness::process::Process;
use crate::harness::wait::within;
use crate::harness::web::{ask, request};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::nodes::{LEFT, PATIENCE, beside, on_postgres, running};

/// Whoever tells us something tells this server from now on.
fn is_told(meter: &Meter, process: &Process) {
    let _in_runtime = RUNTIME.enter();
    meter.dodo().deliver_webhooks_to(&format!("http://{}/webhooks/dodo", process.http));
    meter.resend_stand_in().deliver_webhooks_to(&format!("http://{}/webhooks/resend", process.http));
}

/// Webhooks that this server took.
fn accepted(process: &Process, source: &str) -> u64 {
    let url = format!("http://{}/metrics", process.http);
    let token = crate::harness::meter::ADMIN_TOKEN;
    let metrics = ask(request(Method::GET, &url).bearer_auth(token)).body;
    let name = format!("postmeter_webhooks_total{{source=\"{source}\",result=\"accepted\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
    value.map_or(0, |value| value.parse().unwrap())
}

fn settled(cluster: &Cluster) {
    let left = || cluster.read("nodes", LEFT).concat();
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
}

#[test]
fn p2_a_top_up_that_one_server_is_told_of_lets_the_customer_send_at_the_other() {
    let Some((mut meter, cluster)) = running(Meter::resend().credits(1), true) else { return };
    let other = beside(&meter, &[]);
    is_told(&meter, &other);
    let mut smtp = meter.signed_in();
    let reply = smtp.deliver(&letter("last"));
    assert!(reply.ends_with(", 0 email credits available\r\n"), "{reply}");
    let reply = smtp.say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("452 4.7.1 No email credits remaining"), "{reply}");
    let checkout = ask(meter.as_customer(Method::POST, "/checkout/topup"));
    let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    {
        let _in_runtime = RUNTIME.enter();
        meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap();
    }
    // Nobody asks the first server meanwhile, so that it is not it that reads the balance.
    let available = "SELECT count(*) FROM account WHERE balance - held - owed > 0";
    until("the top-up", || (cluster.read("nodes", available) == ["1"]).then_some(()));
    assert!(accepted(&other, "dodo") > 0 && accepted(meter.process(), "dodo") == 0);
    let reply = smtp.deliver(&letter("rescued"));
    assert!(reply.starts_with("250 2.0.0 Queued as "), "at once: {reply}");
    settled(&cluster);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2, "P3");
    other.stop();
    meter.end();
}

fn bounces(meter: &Meter) -> Vec<Mail> {
    let is_bounce = |mail: &Mail| mail.email.subject.as_deref().is_some_and(|s| s.starts_with("Undelivered"));
    meter.mails().into_iter().filter(is_bounce).collect()
}

#[test]
fn a_bounce_that_one_server_is_told_of_about_mail_that_the_other_sent_is_reported_once() {
    let Some((mut meter, cluster)) = on_postgres(Meter::resend(), true) else { return };
    let other = beside(&meter, &[]);
    is_told(&meter, &other);
    assert!(meter.signed_in().deliver(&letter("gone")).starts_with("250 "));
    let mail = until("the mail at Resend", || meter.mails().pop());
    settled(&cluster);
    let tell = || {
        let _in_runtime = RUNTIME.enter();
        meter.resend_stand_in().tell(&mail, &["bob@example.net"], &News::hard_bounce());
    };
    tell();
    until("the bounce", || (bounces(&meter).len() == 1).then_some(()));
    // The same again, to the server that sent the mail.
    is_told(&meter, meter.process());
    tell();
    until("it to be heard", || (accepted(meter.process(), "resend") == 1).then_some(()));
    settled(&cluster);
    assert_eq!(accepted(&other, "resend"), 1);
    assert_eq!(bounces(&meter).len(), 1, "once, whoever is told");
    let listed: Value = meter.get("/messages").json();
    let gone = listed.as_array().unwrap().iter().find(|message| message["subject"] == "gone").unwrap();
    let story = meter.get(&format!("/messages/{}", gone["message_id"].as_str().unwrap())).json();
    assert_eq!(story["events"][0]["kind"], "bounced", "{story}");
    assert_eq!(meter.get("/suppressions").json()[0]["address"], "bob@example.net");
    other.stop();
    meter.end();
}
