//! Domains that customers prove alone: mail is taken from a domain after its proof,
//! and not before, and not after the proof has ended.

use std::sync::Barrier;

use postmeter::sandbox;
use postmeter::sandbox::faults::{Fault, Misbehaviour};
use postmeter::sandbox::resend::DomainRecords;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::dns::{Answer, DnsServer};
use crate::harness::meter::{ADMIN_TOKEN, Credential};
use crate::harness::web::{self, ask};
use crate::harness::{Meter, RUNTIME, until};

const DOMAINS: &str = "/senders/domains";
const SHOP: &str = "/senders/domains/shop.example";
const VERIFY: &str = "/senders/domains/shop.example/verify";

/// Looks are due at once.
const DUE: &str = "UPDATE proof SET next_check_at = 0";
/// The proof has been absent for more than a week, and was looked for often.
const LONG_GONE: &str =
    "UPDATE proof SET missing_since = missing_since - 8 * 86400000, tries = 9, next_check_at = 0";

fn with_dns() -> (Meter, DnsServer) {
    let dns = DnsServer::start();
    let plan = Meter::smtp().set("senders", "proof = \"dns\"");
    (plan.set("senders", &format!("resolver = \"{}\"", dns.address)).start(), dns)
}

fn with_resend() -> Meter {
    Meter::resend().set("senders", "proof = \"resend\"").start()
}

fn add(meter: &Meter, domain: &str) -> web::Answer {
    ask(meter.as_customer(Method::POST, DOMAINS).json(&json!({ "domain": domain })))
}

fn post(meter: &Meter, path: &str) -> web::Answer {
    ask(meter.as_customer(Method::POST, path))
}

/// Another customer's credential.
fn bob(meter: &Meter) -> Credential {
    meter.says(&["customer", "add", "cus_bob"]);
    let made = meter.says(&["credential", "create", "--customer", "cus_bob", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Credential { username: text("username"), secret: text("secret") }
}

fn as_bob(meter: &Meter, bob: &Credential, method: Method, path: &str) -> reqwest::RequestBuilder {
    meter.request(method, path).basic_auth(&bob.username, Some(&bob.secret))
}

/// The reply to MAIL from the domain, on a session of its own.
fn mail_from(meter: &Meter, address: &str) -> String {
    meter.signed_in().say(&format!("MAIL FROM:<{address}>"))
}

#[track_caller]
fn may_send(meter: &Meter, is_allowed: bool) {
    let reply = mail_from(meter, "ann@shop.example");
    let refused = "550 5.7.1 ann@shop.example is not a sender of this account; to add its domain, POST /senders/domains";
    assert!(reply.starts_with(if is_allowed { "250 " } else { refused }), "{reply}");
}

fn value(answer: &web::Answer) -> String {
    answer.json()["records"][0]["value"].as_str().unwrap().to_owned()
}

fn state(meter: &Meter) -> String {
    meter.get(SHOP).json()["state"].as_str().unwrap_or("none").to_owned()
}

#[track_caller]
fn becomes(meter: &Meter, wanted: &str) {
    until(&format!("the domain to be {wanted}"), || (state(meter) == wanted).then_some(()));
}

/// Adds the domain, publishes its record and has it verified.
fn proven(meter: &Meter, dns: &DnsServer) {
    let made = add(meter, "shop.example");
    dns.publish("shop.example", Answer::Txt(vec![value(&made)]));
    assert_eq!(post(meter, VERIFY).json()["state"], "verified");
}

#[test]
fn a_record_in_dns_lets_a_customer_send_until_the_domain_is_removed() {
    let (meter, dns) = with_dns();
    may_send(&meter, false);
    let made = add(&meter, "Shop.Example.");
    assert_eq!((made.status, &made.json()["state"]), (201, &json!("pending")), "{made:?}");
    let record = &made.json()["records"][0];
    assert_eq!(
        (&record["type"], &record["name"]),
        (&json!("TXT"), &json!("_postmeter-challenge.shop.example"))
    );
    assert_eq!(
        (add(&meter, "shop.example").status, value(&add(&meter, "shop.example"))),
        (200, value(&made))
    );
    let unproven = post(&meter, VERIFY);
    assert_eq!((unproven.status, &unproven.json()["state"]), (200, &json!("pending")));
    assert!(unproven.json()["problem"].as_str().unwrap().contains("no such TXT record"), "{unproven:?}");
    for wrong in [
        Answer::Txt(vec!["postmeter-verification=another".to_owned()]),
        Answer::Alias("else.example", vec![value(&made)]),
        Answer::Failure,
    ] {
        dns.publish("shop.example", wrong.clone());
        assert_eq!(post(&meter, VERIFY).json()["state"], "pending", "{wrong:?}");
    }
    may_send(&meter, false);
    dns.publish("shop.example", Answer::Txt(vec!["v=x".to_owned(), value(&made)]));
    let verified = post(&meter, VERIFY);
    assert_eq!(verified.json()["state"], "verified", "{verified:?}");
    may_send(&meter, true);
    let mut smtp = meter.signed_in();
    smtp.begin("ann@shop.example", &["bob@example.net"]);
    let reply = smtp.message(b"From: ann@shop.example\r\nSubject: x\r\n\r\nx\r\n");
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(mail_from(&meter, "ann@sub.shop.example").starts_with("550 5.7.1 "), "exactly the domain");
    let listed = meter.get("/senders").json();
    let shop =
        listed.as_array().unwrap().iter().find(|one| one["pattern"] == "shop.example").unwrap().clone();
    assert_eq!((&shop["origin"], &shop["state"]), (&json!("proof"), &json!("verified")));
    assert_eq!(ask(meter.as_customer(Method::DELETE, SHOP)).status, 204);
    may_send(&meter, false);
    meter.get(SHOP).is_error(404, "not_found");
}

#[test]
fn a_pending_domain_is_found_proven_without_being_asked_for_again() {
    let (meter, dns) = with_dns();
    let made = add(&meter, "shop.example");
    post(&meter, VERIFY);
    dns.publish("shop.example", Answer::Txt(vec![value(&made)]));
    meter.tamper(DUE);
    becomes(&meter, "verified");
    may_send(&meter, true);
}

#[test]
fn silence_never_ends_a_proof_and_a_week_of_sure_absence_does() {
    let (meter, dns) = with_dns();
    proven(&meter, &dns);
    let checked = || meter.get(SHOP).json()["checked_at"].to_string();
    for trouble in [Answer::Failure, Answer::Silence] {
        dns.publish("shop.example", trouble);
        let before = checked();
        meter.tamper(DUE);
        until("a look", || (checked() != before).then_some(()));
        assert_eq!(meter.get(SHOP).json()["missing_since"], Value::Null);
    }
    dns.withdraw("shop.example");
    meter.tamper(DUE);
    until("the absence to be seen", || meter.get(SHOP).json()["missing_since"].as_str().map(drop));
    may_send(&meter, true);
    dns.publish("shop.example", Answer::Failure);
    let before = checked();
    meter.tamper(LONG_GONE);
    until("a look", || (checked() != before).then_some(()));
    may_send(&meter, true);
    dns.withdraw("shop.example");
    meter.tamper(DUE);
    becomes(&meter, "lost");
    may_send(&meter, false);
    assert!(meter.log().contains("a domain's proof is lost"));
}

#[test]
fn whoever_controls_the_dns_now_has_the_domain() {
    let (meter, dns) = with_dns();
    proven(&meter, &dns);
    let anns = value(&meter.get(SHOP));
    let bob = bob(&meter);
    let bobs =
        value(&ask(as_bob(&meter, &bob, Method::POST, DOMAINS).json(&json!({ "domain": "shop.example" }))));
    let verify = || ask(as_bob(&meter, &bob, Method::POST, VERIFY)).json();
    dns.publish("shop.example", Answer::Txt(vec![anns, bobs.clone()]));
    let both = verify();
    assert_eq!(both["state"], "pending");
    assert!(both["problem"].as_str().unwrap().contains("another account"), "{both}");
    may_send(&meter, true);
    dns.publish("shop.example", Answer::Txt(vec![bobs]));
    assert_eq!(verify()["state"], "verified");
    assert_eq!(state(&meter), "lost");
    may_send(&meter, false);
    assert!(meter.log().contains("a domain changes hands"));
}

#[test]
fn names_that_are_nobodys_or_too_many_are_refused() {
    let dns = DnsServer::start();
    let plan = Meter::smtp().set("senders", "proof = \"dns\"").set("senders", "max_domains = 1");
    let meter = plan.set("senders", &format!("resolver = \"{}\"", dns.address)).start();
    for name in ["com", "co.uk", "github.io", "a b", "[192.0.2.1]"] {
        add(&meter, name).is_error(422, "domain_not_provable");
    }
    assert_eq!(add(&meter, "bücher.example").json()["domain"], "xn--bcher-kva.example");
    add(&meter, "second.example").is_error(409, "too_many_domains");
    meter.get("/senders?customer_id=cus_eve").is_error(403, "forbidden");
    until("the limit to be met", || {
        (post(&meter, "/senders/domains/x.example/verify").status == 429).then_some(())
    });
}

#[test]
fn where_nobody_is_asked_the_operator_alone_allows() {
    let meter = Meter::smtp().start();
    add(&meter, "shop.example").is_error(403, "domains_off");
    assert_eq!(meter.get(DOMAINS).json(), json!([]));
    assert_eq!(meter.get("/senders").json()[0]["origin"], "operator");
}

#[test]
fn resend_verifies_a_domain_and_mail_from_it_is_taken_until_it_is_removed() {
    let meter = with_resend();
    let resend = meter.resend_stand_in();
    for (records, first) in [(DomainRecords::Classic, "MX"), (DomainRecords::Cname, "CNAME")] {
        resend.behave(|manners| (manners.domain_records, manners.domains_verify) = (records, false));
        may_send(&meter, false);
        let made = add(&meter, "shop.example");
        assert_eq!((made.status, &made.json()["state"]), (201, &json!("pending")), "{made:?}");
        let shown = &made.json()["records"];
        assert_eq!(
            (&shown[0]["type"], &shown[0]["name"], &shown[0]["ttl"]),
            (&json!(first), &json!("send"), &json!("Auto"))
        );
        assert_eq!(post(&meter, VERIFY).json()["status"], "pending");
        resend.settle_domain("shop.example", "verified");
        meter.tamper(DUE);
        becomes(&meter, "verified");
        may_send(&meter, true);
        assert_eq!(ask(meter.as_customer(Method::DELETE, SHOP)).status, 204);
        may_send(&meter, false);
        assert_eq!(resend.domain("shop.example"), None, "it was ours to remove");
    }
}

#[test]
fn a_new_domain_sends_from_the_region_that_is_set() {
    let plan = || Meter::resend().set("senders", "proof = \"resend\"");
    for (meter, region) in
        [(plan().set("senders", "resend_region = \"sa-east-1\""), "sa-east-1"), (plan(), "us-east-1")]
    {
        let meter = meter.start();
        meter.resend_stand_in().behave(|manners| manners.domain_records = DomainRecords::Classic);
        let made = add(&meter, "shop.example").json();
        let server = made["records"][0]["value"].as_str().unwrap();
        assert!(server.contains(region), "{made}");
        assert_eq!(meter.resend_stand_in().domain("shop.example").unwrap().region, region);
    }
}

#[test]
fn a_webhook_is_a_hint_to_read_and_proves_nothing() {
    let meter = with_resend();
    let resend = meter.resend_stand_in();
    resend.behave(|manners| (manners.domains_verify, manners.events) = (false, true));
    resend.deliver_webhooks_to(&format!("http://{}/webhooks/resend", meter.process().http));
    let _webhooks_leave_from_here = RUNTIME.enter();
    add(&meter, "shop.example");
    let calls = resend.calls();
    let mut lie = resend.domain("shop.example").unwrap();
    lie.status = "pending".to_owned();
    resend.update_domain(lie);
    until("the hint to be followed", || (resend.calls() > calls).then_some(()));
    assert_eq!(state(&meter), "pending");
    resend.settle_domain("shop.example", "verified");
    becomes(&meter, "verified");
    resend.settle_domain("shop.example", "temporary_failure");
    until("the word to be kept", || (meter.get(SHOP).json()["status"] == "temporary_failure").then_some(()));
    may_send(&meter, true);
    resend.settle_domain("shop.example", "failed");
    becomes(&meter, "lost");
    may_send(&meter, false);
}

#[test]
fn what_the_account_at_resend_has_already_is_given_to_nobody() {
    let meter = with_resend();
    let resend = meter.resend_stand_in();
    resend.behave(|manners| {
        manners.verified_domains = Some(vec!["example.com".to_owned(), "shop.example".to_owned()]);
        manners.registered_elsewhere = vec!["far.example".to_owned()];
    });
    for name in ["shop.example", "far.example"] {
        add(&meter, name).is_error(409, "domain_registered");
    }
    may_send(&meter, false);
    assert_eq!(meter.number("SELECT count(*) FROM proof"), 0);
    meter.says(&["sender", "allow", "cus_ann", "shop.example"]);
    may_send(&meter, true);
    resend.behave(|manners| manners.max_domains = Some(2));
    add(&meter, "third.example").is_error(422, "domain_refused");
    assert_eq!(meter.number("SELECT count(*) FROM proof"), 0);
}

#[test]
fn a_key_that_may_only_send_is_the_operators_trouble() {
    let mut meter = Meter::resend().set("senders", "proof = \"resend\"").prepare();
    meter.set_environment("RESEND_API_KEY", sandbox::RESEND_SENDING_API_KEY);
    meter.serve();
    let refused = add(&meter, "shop.example");
    refused.is_error(503, "domains_unavailable");
    assert!(!refused.body.contains("key"), "{refused:?}");
    assert!(meter.log().contains("give RESEND_API_KEY full access"));
}

#[test]
fn two_customers_race_for_a_domain_and_one_has_it() {
    let meter = with_resend();
    let bob = bob(&meter);
    for round in 0..4 {
        let name = json!({ "domain": format!("race{round}.example") });
        let barrier = Barrier::new(2);
        let statuses = std::thread::scope(|scope| {
            let anns = scope.spawn(|| {
                barrier.wait();
                ask(meter.as_customer(Method::POST, DOMAINS).json(&name)).status
            });
            let bobs = scope.spawn(|| {
                barrier.wait();
                ask(as_bob(&meter, &bob, Method::POST, DOMAINS).json(&name)).status
            });
            let mut both = [anns.join().unwrap(), bobs.join().unwrap()];
            both.sort_unstable();
            both
        });
        assert_eq!(statuses, [201, 409]);
    }
    assert_eq!(meter.number("SELECT count(*) FROM proof"), 4);
}

#[test]
fn a_lost_answer_is_made_good_by_the_next_try() {
    let meter = with_resend();
    let resend = meter.resend_stand_in();
    resend.faults().push(Fault::new(Misbehaviour::DropAfter).on("POST", "/domains"));
    add(&meter, "shop.example").is_error(503, "domains_unavailable");
    assert_eq!(state(&meter), "adding");
    let made = add(&meter, "shop.example");
    assert_eq!((made.status, &made.json()["state"]), (200, &json!("pending")), "{made:?}");
    assert_eq!(made.json()["records"].as_array().unwrap().len(), 3);
    resend.faults().push(Fault::new(Misbehaviour::DropBefore).on("DELETE", "/domains"));
    assert_eq!(ask(meter.as_customer(Method::DELETE, SHOP)).status, 204);
    assert_eq!(state(&meter), "removing");
    meter.tamper(DUE);
    until("Resend to be told again", || resend.domain("shop.example").is_none().then_some(()));
    until("the claim to be forgotten", || (state(&meter) == "none").then_some(()));
}

#[test]
fn the_operator_sees_a_customers_domains_and_may_deny_them() {
    let (meter, dns) = with_dns();
    proven(&meter, &dns);
    let listed = meter.says(&["sender", "list", "cus_ann"]);
    assert!(listed.contains("shop.example  (verified, by its customer's proof)"), "{listed}");
    let path = "/senders/domains?customer_id=cus_ann";
    assert_eq!(meter.get_as_operator(path).json()[0]["domain"], "shop.example");
    meter.get_as_operator(DOMAINS).is_error(422, "invalid");
    meter.says(&["sender", "deny", "cus_ann", "shop.example"]);
    may_send(&meter, false);
    add(&meter, "shop.example").is_error(403, "domain_denied");
    post(&meter, VERIFY).is_error(403, "domain_denied");
    ask(meter.as_customer(Method::DELETE, SHOP)).is_error(403, "domain_denied");
    meter.says(&["sender", "allow", "cus_ann", "shop.example"]);
    may_send(&meter, true);
    meter.says(&["customer", "suspend", "cus_ann", "--reason", "spam"]);
    let request = meter.request(Method::POST, path).bearer_auth(ADMIN_TOKEN);
    ask(request.json(&json!({ "domain": "other.example" }))).is_error(403, "suspended");
    meter.says(&["customer", "resume", "cus_ann"]);
}
