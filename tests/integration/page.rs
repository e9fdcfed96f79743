//! What a customer does on the web page.

use postmeter::sandbox::dodo::Payer;
use reqwest::{Method, RequestBuilder};

use crate::harness::meter::BASE_URL;
use crate::harness::web::{Answer, ask};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

/// A browser that is signed in.
pub(crate) struct Browser<'a> {
    pub(crate) meter: &'a Meter,
    pub(crate) cookie: String,
}

impl<'a> Browser<'a> {
    pub(crate) fn signed_in(meter: &'a Meter) -> Self {
        Self::signed_in_as(meter, &meter.credential.username, &meter.credential.secret)
    }

    pub(crate) fn signed_in_as(meter: &'a Meter, username: &str, secret: &str) -> Self {
        let form = form(&[("username", username), ("secret", secret)]);
        let answer = ask(posted(meter.request(Method::POST, "/sign-in"), &form));
        assert_eq!((answer.status, answer.header("location")), (303, "/account"), "{answer:?}");
        let cookie = answer.header("set-cookie");
        assert!(cookie.starts_with("__Host-") && cookie.contains("HttpOnly"), "{cookie}");
        assert!(cookie.contains("Secure") && cookie.contains("SameSite=Strict"), "{cookie}");
        Self { meter, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.meter.request(Method::GET, path).header("cookie", &self.cookie))
    }

    pub(crate) fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.meter.request(Method::POST, path).header("cookie", &self.cookie);
        ask(posted(request, &form(fields)))
    }
}

pub(crate) fn posted(request: RequestBuilder, form: &str) -> RequestBuilder {
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.header("origin", BASE_URL).body(form.to_owned())
}

/// Percent-encodes everything, which is always right.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| text.bytes().map(|octet| format!("%{octet:02X}")).collect::<String>();
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[test]
fn a_customer_sees_credits_sends_a_letter_and_buys_more() {
    let meter = Meter::resend().start();
    assert_eq!(ask(meter.request(Method::GET, "/account")).header("location"), "/");
    let browser = Browser::signed_in(&meter);
    let fields = [
        ("from", "ann@example.com"),
        ("to", "bob@example.net"),
        ("subject", "<b>hi</b>"),
        ("text", "Hello."),
    ];
    let sent = browser.post("/account/send", &fields);
    assert_eq!(sent.status, 303, "{sent:?}");
    meter.drain();
    assert_eq!(meter.mails()[0].email.subject.as_deref(), Some("<b>hi</b>"));
    let page = browser.get("/account");
    assert!(page.body.contains("&lt;b&gt;hi&lt;/b&gt;") && !page.body.contains("<b>hi"), "{}", page.body);
    assert!(page.body.contains(">9<") || page.body.contains("9 "), "{}", page.body);

    let refused = browser.post(
        "/account/send",
        &[("from", "boss@example.org"), ("to", "b@example.net"), ("subject", "kept"), ("text", "kept too")],
    );
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("is not a sender of this account") && refused.body.contains("kept too"));

    let checkout = browser.post("/account/top-up", &[]);
    let mut links = checkout.body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let url = links.find(|link| link.contains("/checkout/")).unwrap_or_else(|| panic!("{checkout:?}"));
    let session = url.rsplit('/').next().unwrap();
    {
        let _in_runtime = RUNTIME.enter();
        meter.dodo().pay(session, &Payer::default()).unwrap();
    }
    until("the credits", || meter.credits()["available"].as_i64().filter(|left| *left > 10));
}

#[test]
fn p10_a_credential_made_on_the_page_is_shown_once_and_can_be_revoked() {
    let meter = Meter::resend().start();
    let browser = Browser::signed_in(&meter);
    let made = browser.post("/account/credentials", &[("label", "laptop")]);
    let value = |name: &str| {
        let (_, rest) = made.body.split_once(&format!("<dt>{name}</dt><dd><code>")).unwrap();
        rest.split_once("</code>").unwrap().0.to_owned()
    };
    let (username, secret) = (value("Username"), value("Secret"));
    let mut smtp = crate::harness::smtp::Smtp::implicit(&meter);
    assert!(smtp.auth_plain(&username, &secret).starts_with("235 "));
    assert!(smtp.deliver(&letter("laptop")).starts_with("250 "));
    let page = browser.get("/account/credentials");
    assert!(page.body.contains("laptop") && !page.body.contains(&secret), "{}", page.body);
    assert_eq!(browser.post("/account/credentials/revoke", &[("username", &username)]).status, 303);
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("535 "));
    assert!(!meter.log().contains(&secret), "P10");
    meter.says(&["credential", "revoke", &meter.credential.username]);
    assert_eq!(browser.get("/account").header("location"), "/", "signed out with its credential");
}

#[test]
fn another_site_cannot_use_the_customers_browser() {
    let meter = Meter::resend().start();
    let browser = Browser::signed_in(&meter);
    let request = meter.request(Method::POST, "/account/credentials").header("cookie", &browser.cookie);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = ask(request.header("origin", "https://evil.example").body("label=x"));
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(meter.number("SELECT count(*) FROM credential"), 1);
    let forged =
        ask(meter.request(Method::GET, "/account").header("cookie", browser.cookie.replace('.', ".0")));
    assert_eq!(forged.header("location"), "/", "{forged:?}");
    assert_eq!(meter.credits()["held"], 0, "{CUSTOMER_ID}");
}
