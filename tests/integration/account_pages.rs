//! The customer's pages of messages, credentials, senders and suppressions, with mail that really goes.

use serde_json::Value;

use crate::harness::dns::{Answer, DnsServer};
use crate::harness::smtp::Smtp;
use crate::harness::web::{self, ask};
use crate::harness::{Meter, letter, until};
use crate::page::Browser;

const HOSTILE: &str = "<script>alert(1)</script>";

/// What stands behind a name on a page.
fn value(page: &web::Answer, name: &str) -> String {
    let (_, rest) = page.body.split_once(&format!("<dt>{name}</dt><dd><code>")).unwrap();
    rest.split_once("</code>").unwrap().0.to_owned()
}

/// Where each link of a page leads that begins so.
fn links(page: &web::Answer, begin: &str) -> Vec<String> {
    let links = page.body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    links.filter(|link| link.starts_with(begin)).map(str::to_owned).collect()
}

#[test]
fn p9_a_credential_with_a_cap_sends_so_much_and_is_told_when_it_may_go_on() {
    let meter = Meter::resend().start();
    let browser = Browser::signed_in(&meter);
    let fields = [("label", "shop"), ("per_day", "2"), ("per_minute", "")];
    let made = browser.post("/account/credentials", &fields);
    let (username, secret) = (value(&made, "Username"), value(&made, "Secret"));
    let row = |page: &web::Answer| {
        let rows = page.body.split("<tr>").filter(|row| row.contains(&username)).map(str::to_owned);
        rows.last().unwrap()
    };
    assert!(row(&browser.get("/account/credentials")).contains("never"), "{made:?}");
    let mut smtp = Smtp::implicit(&meter);
    assert!(smtp.auth_plain(&username, &secret).starts_with("235 "));
    for nth in 0..2 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    let refused = smtp.say("MAIL FROM:<ann@example.com>");
    let words = "452 4.7.0 The cap of this credential is reached: 2 messages a day; try again in ";
    assert!(refused.starts_with(words), "{refused}");
    let message =
        serde_json::json!({ "to": "b@example.net", "subject": "s", "text": "t", "from": "ann@example.com" });
    let request = meter.request(reqwest::Method::POST, "/send").bearer_auth(&secret).json(&message);
    let over_http = ask(request);
    over_http.is_error(429, "credential_capped");
    assert!(meter.signed_in().deliver(&letter("other")).starts_with("250 "), "another credential");
    until("the use to be noted", || {
        (!row(&browser.get("/account/credentials")).contains("never")).then_some(())
    });
    let listed: Value = serde_json::from_str(&meter.says(&["credential", "list", "--json"])).unwrap();
    let own = listed.as_array().unwrap().iter().find(|one| one["username"] == username.as_str()).unwrap();
    assert!(own["per_day"] == 2 && own["last_used_at"].is_string(), "{listed}");
    meter.drain();
    assert_eq!(meter.mails().len(), 3);
}

#[test]
fn p10_a_message_is_found_and_its_story_told_to_its_customer_alone() {
    let meter = Meter::smtp().start();
    meter.sink().reply("RCPT TO:<gone@", &format!("550 5.1.1 no such user {HOSTILE}"));
    let hostile = format!("From: ann@example.com\r\nSubject: bill {HOSTILE}\r\n\r\nHello.\r\n");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["gone@example.net", "bob@example.net"]);
    assert!(smtp.message(hostile.as_bytes()).starts_with("250 "));
    assert!(smtp.deliver(&letter("other")).starts_with("250 "));
    meter.drain();
    let browser = Browser::signed_in(&meter);
    let found = browser.get("/account/messages?recipient=GONE%40&subject=BILL&state=sent");
    let messages = links(&found, "/account/messages/");
    assert_eq!(messages.len(), 1, "{found:?}");
    let page = browser.get(&messages[0]);
    for told in [
        "sent to some",
        "no such user &lt;script&gt;",
        "Debited",
        "A report was mailed to",
        "suppression list",
    ] {
        assert!(page.body.contains(told), "{told}: {}", page.body);
    }
    for page in [&found, &page, &browser.get("/account/suppressions")] {
        assert!(!page.body.contains(HOSTILE) && page.body.contains("&lt;script&gt;"), "{}", page.body);
    }
    let report = links(&page, "/account/messages/").into_iter().find(|link| *link != messages[0]).unwrap();
    assert!(browser.get(&report).body.contains("<h1>Delivery report to you"), "{report}");

    meter.says(&["customer", "add", "cus_other"]);
    let other = meter.says(&["credential", "create", "--customer", "cus_other", "--json"]);
    let other: Value = serde_json::from_str(&other).unwrap();
    let text = |name: &str| other[name].as_str().unwrap();
    let stranger = Browser::signed_in_as(&meter, text("username"), text("secret"));
    let (theirs, none) = (stranger.get(&messages[0]), stranger.get("/account/messages/0123"));
    assert_eq!((theirs.status, theirs.body), (404, none.body));
    assert!(links(&stranger.get("/account/messages"), "/account/messages/").is_empty());
}

#[test]
fn a_domain_is_added_verified_and_removed_on_the_page() {
    let dns = DnsServer::start();
    let plan = Meter::smtp().set("senders", "proof = \"dns\"");
    let meter = plan.set("senders", &format!("resolver = \"{}\"", dns.address)).start();
    let browser = Browser::signed_in(&meter);
    let path = "/account/senders";
    let wrong = browser.post(path, &[("domain", "co.uk")]);
    assert!(wrong.status == 422 && wrong.body.contains("value=\"co.uk\""), "{wrong:?}");
    let added = browser.post(path, &[("domain", "Shop.Example")]);
    assert_eq!((added.status, added.header("location")), (303, "/account/senders?added=shop.example"));
    let page = browser.get(added.header("location"));
    assert!(page.body.contains("_postmeter-challenge.shop.example"), "{}", page.body);
    assert!(page.body.contains("waits for its records"));
    let record = page.body.split("postmeter-verification=").nth(1).unwrap().split('<').next().unwrap();

    let verify = || browser.post("/account/senders/verify", &[("domain", "shop.example")]);
    let page = browser.get(verify().header("location"));
    assert!(page.body.contains("its records are not found yet"), "{}", page.body);
    dns.publish("shop.example", Answer::Txt(vec![format!("postmeter-verification={record}")]));
    let page = browser.get(verify().header("location"));
    assert!(page.body.contains("shop.example is verified: you may send from it."), "{}", page.body);
    assert!(meter.signed_in().say("MAIL FROM:<ann@shop.example>").starts_with("250 "));

    let question = links(&page, "/account/senders/remove").remove(0);
    assert!(browser.get(&question).body.contains("Remove shop.example?"));
    let removed = browser.post("/account/senders/remove", &[("domain", "shop.example")]);
    assert_eq!((removed.status, removed.header("location")), (303, path));
    assert!(!browser.get(path).body.contains("shop.example"));
    assert!(meter.signed_in().say("MAIL FROM:<ann@shop.example>").starts_with("550 "));
}

#[test]
fn an_address_that_is_suppressed_on_the_page_gets_no_mail_until_it_is_taken_off() {
    let meter = Meter::resend().start();
    let browser = Browser::signed_in(&meter);
    let added =
        browser.post("/account/suppressions", &[("address", "Gone@example.net"), ("reason", "asked to")]);
    assert_eq!(added.status, 303, "{added:?}");
    assert!(browser.get("/account/suppressions?q=gone").body.contains("asked to"));
    let mut smtp = meter.signed_in();
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    assert!(smtp.say("RCPT TO:<gone@example.net>").starts_with("550 5.1.1 "));
    assert_eq!(browser.post("/account/suppressions/remove", &[("address", "gone@example.net")]).status, 303);
    assert!(smtp.say("RCPT TO:<gone@example.net>").starts_with("250 "));
    assert!(browser.get("/account/suppressions").body.contains("No address is suppressed."));
}
