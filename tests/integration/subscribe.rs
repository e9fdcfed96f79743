//! From a visitor to a customer who sends.

use postmeter::sandbox::dodo::{Amounts, EventOrder, Payer, Receipt};
use reqwest::Method;
use serde_json::json;

use crate::harness::meter::{BASE_URL, CUSTOMER_EMAIL};
use crate::harness::smtp::Smtp;
use crate::harness::web::{Answer, ask};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, until};

/// A browser that paid for a checkout.
#[derive(Debug)]
pub(crate) struct Buyer {
    pub(crate) receipt: Receipt,
    cookie: String,
}

impl Buyer {
    /// Where it goes back to, and with which cookie.
    pub(crate) fn way_back(&self) -> String {
        format!("{} {}", self.receipt.return_url.as_deref().unwrap(), self.cookie)
    }
}

/// Begins a checkout on the page and pays it.
pub(crate) fn subscribe(meter: &Meter, email: &str) -> Buyer {
    let visitor = json!({ "email": email, "name": "Zoe" });
    let checkout = ask(meter.request(Method::POST, "/checkout/subscribe").json(&visitor));
    assert_eq!(checkout.status, 200, "{checkout:?}");
    let cookie = checkout.header("set-cookie").split(';').next().unwrap().to_owned();
    let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    let _in_runtime = RUNTIME.enter();
    let receipt = meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap();
    Buyer { receipt, cookie }
}

/// The page to which the browser comes back, with this in its query besides.
pub(crate) fn came_back(meter: &Meter, way_back: &str, more: &str) -> Answer {
    let (return_url, cookie) = way_back.split_once(' ').unwrap();
    let path = format!("{}{more}", return_url.strip_prefix(BASE_URL).unwrap());
    ask(meter.request(Method::GET, &path).header("cookie", cookie))
}

/// The same, once it does not wait any more.
pub(crate) fn welcome(meter: &Meter, way_back: &str) -> Answer {
    until("the payment to be known", || {
        let page = came_back(meter, way_back, "");
        (!page.body.contains("Waiting for the payment")).then_some(page)
    })
}

/// What stands behind this name on the page.
pub(crate) fn shown<'a>(page: &'a Answer, name: &str) -> Option<&'a str> {
    let (_, rest) = page.body.split_once(&format!("<dt>{name}</dt><dd><code>"))?;
    rest.split_once("</code>").map(|(value, _)| value)
}

#[test]
fn a_visitor_pays_and_is_shown_a_working_credential_once() {
    let meter = Meter::resend().set("senders", "starter_domain = \"mail.example\"").start();
    let buyer = subscribe(&meter, "zoe@example.org");
    let receipt = &buyer.receipt;
    let page = welcome(&meter, &buyer.way_back());
    assert_eq!(page.status, 200, "{page:?}");
    let (username, secret) = (shown(&page, "Username").unwrap(), shown(&page, "Secret").unwrap());
    assert_eq!(shown(&page, "Server"), Some("smtp.example.com"));
    assert_eq!(shown(&page, "Port"), Some(meter.process().smtp.port().to_string().as_str()));
    let again = welcome(&meter, &buyer.way_back());
    assert_eq!((shown(&again, "Username"), shown(&again, "Secret")), (None, None), "shown once: {again:?}");
    assert!(!again.body.contains(secret));

    let mut smtp = Smtp::starttls(&meter);
    assert!(smtp.auth_plain(username, secret).starts_with("235 2.7.0 "));
    let sender = format!("{}@mail.example", receipt.customer_id);
    smtp.begin(&sender, &["bob@example.net"]);
    let letter = format!("From: {sender}\r\nSubject: first\r\n\r\nHello.\r\n");
    let reply = smtp.message(letter.as_bytes());
    assert!(reply.starts_with("250 2.0.0 Queued as "), "{reply}");
    meter.drain();
    assert_eq!(meter.dodo().debited(&receipt.customer_id), 1);
    assert!(!meter.log().contains(secret), "P10");
}

#[test]
fn p10_an_email_address_that_is_known_opens_no_account() {
    let meter = Meter::resend().start();
    let buyer = subscribe(&meter, CUSTOMER_EMAIL);
    assert_eq!(
        buyer.receipt.customer_id, CUSTOMER_ID,
        "Dodo attaches the payment to whoever has the address"
    );
    let page = welcome(&meter, &buyer.way_back());
    assert_eq!((shown(&page, "Username"), shown(&page, "Secret")), (None, None), "{page:?}");
    assert!(page.header("set-cookie").is_empty(), "{page:?}");
    assert!(page.body.contains("href=\"/sign-in\""), "{page:?}");
    assert_eq!(meter.number("SELECT count(*) FROM credential"), 1);
}

#[test]
fn p10_the_return_url_alone_shows_nothing_of_a_paid_checkout() {
    let meter = Meter::resend().start();
    let (buyer, other) = (subscribe(&meter, "zoe@example.org"), subscribe(&meter, "eve@example.org"));
    until("both to be known", || {
        (meter.number("SELECT count(*) FROM checkout WHERE state = 'paid'") == 2).then_some(())
    });
    let stolen = buyer.receipt.return_url.clone().unwrap();
    for cookie in ["a=b", &other.cookie] {
        let page = came_back(&meter, &format!("{stolen} {cookie}"), "&n=9");
        assert_eq!((page.status, shown(&page, "Secret")), (403, None), "{page:?}");
        assert!(page.header("set-cookie").is_empty() && !page.body.contains(&buyer.receipt.customer_id));
    }
    assert!(
        shown(&welcome(&meter, &buyer.way_back()), "Secret").is_some(),
        "and it is there for its browser"
    );
}

#[test]
fn nobody_else_can_claim_a_checkout() {
    let meter = Meter::resend().start();
    let page = ask(meter.request(Method::GET, "/welcome?c=00112233"));
    assert_eq!(page.status, 404, "{page:?}");
    for (email, status) in [("", 422), ("zoe", 422), ("zoe@example.org\r\nx", 422)] {
        let answer = ask(meter.request(Method::POST, "/checkout/subscribe").json(&json!({ "email": email })));
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[test]
fn webhooks_may_come_twice_and_in_any_order() {
    for order in [EventOrder::Reversed, EventOrder::Shuffled] {
        let meter = Meter::resend().set("senders", "starter_domain = \"mail.example\"").start();
        meter.dodo().behave(|behaviour| {
            behaviour.duplicate_events = true;
            behaviour.event_order = order;
            behaviour.amounts = Amounts::String;
        });
        let buyer = subscribe(&meter, "zoe@example.org");
        let receipt = &buyer.receipt;
        let page = welcome(&meter, &buyer.way_back());
        let (username, secret) = (shown(&page, "Username").unwrap(), shown(&page, "Secret").unwrap());
        let mut smtp = Smtp::implicit(&meter);
        assert!(smtp.auth_plain(username, secret).starts_with("235 "));
        let sender = format!("{}@mail.example", receipt.customer_id);
        smtp.begin(&sender, &["bob@example.net"]);
        let letter = format!("From: {sender}\r\nSubject: first\r\n\r\nHello.\r\n");
        assert!(smtp.message(letter.as_bytes()).starts_with("250 "));
        meter.drain();
        assert_eq!(meter.number("SELECT count(*) FROM customer"), 2);
    }
}

#[test]
fn a_payment_whose_webhook_never_comes_is_found_by_asking() {
    let meter = Meter::resend().start();
    let _in_runtime = RUNTIME.enter();
    meter.dodo().deliver_webhooks_to("http://127.0.0.1:9/nowhere");
    drop(_in_runtime);
    let buyer = subscribe(&meter, "zoe@example.org");
    let page = came_back(&meter, &buyer.way_back(), "");
    assert!(page.body.contains("Waiting for the payment"), "{page:?}");
    // The page counts its own reloads.
    let page = came_back(&meter, &buyer.way_back(), "&n=5");
    assert!(shown(&page, "Secret").is_some(), "{page:?}");
}

#[test]
fn a_payment_that_neither_webhook_nor_browser_tell_of_is_found_by_the_sweep() {
    let mut meter = Meter::resend().set("senders", "starter_domain = \"mail.example\"").start();
    let in_runtime = RUNTIME.enter();
    meter.dodo().deliver_webhooks_to("http://127.0.0.1:9/nowhere");
    drop(in_runtime);
    let buyer = subscribe(&meter, "zoe@example.org");
    meter.stop();
    assert_eq!(meter.number("SELECT count(*) FROM customer"), 1);
    // A quarter of an hour goes by.
    meter.tamper("UPDATE checkout SET created_at = created_at - 900000");
    meter.serve();
    until("the customer to be found", || (meter.number("SELECT count(*) FROM customer") == 2).then_some(()));
    assert_eq!(meter.number("SELECT count(*) FROM sender WHERE origin = 'starter'"), 1);
    assert!(meter.log().contains("a payment was found of which no webhook had told"));
    let page = welcome(&meter, &buyer.way_back());
    assert!(shown(&page, "Secret").is_some(), "{page:?}");
}
