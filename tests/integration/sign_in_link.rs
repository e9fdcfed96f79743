//! Signing in by a mailed link.

use reqwest::Method;

use crate::harness::meter::{BASE_URL, CUSTOMER_EMAIL};
use crate::harness::web::{Answer, ask};
use crate::harness::{CUSTOMER_ID, Meter, until};
use crate::page::{Browser, form, posted};

fn asks(meter: &Meter, email: &str) -> Answer {
    ask(posted(meter.request(Method::POST, "/sign-in/link"), &form(&[("email", email)])))
}

/// The mails to the customer, once there are so many.
fn mailed(meter: &Meter, count: usize) -> Vec<(String, String)> {
    until("the mail with the link", || {
        let mails = meter.mails().into_iter().map(|mail| mail.email);
        let mails = mails.filter(|email| email.recipients().eq([CUSTOMER_EMAIL]));
        let mails: Vec<_> = mails.map(|email| (email.text.unwrap(), email.html.unwrap())).collect();
        (mails.len() >= count).then_some(mails)
    })
}

/// The path and the secret of the link in a text.
fn link(text: &str) -> (String, String) {
    let line = text.lines().find(|line| line.starts_with(BASE_URL)).unwrap().trim();
    let path = line.strip_prefix(BASE_URL).unwrap();
    (path.to_owned(), path.split_once("?t=").unwrap().1.to_owned())
}

fn uses(meter: &Meter, secret: &str) -> Answer {
    ask(posted(meter.request(Method::POST, "/sign-in/link/use"), &form(&[("t", secret)])))
}

/// The customer's browser, signed in by a link.
pub(crate) fn signed_in_by_mail(meter: &Meter) -> Browser<'_> {
    assert_eq!(asks(meter, CUSTOMER_EMAIL).status, 200);
    let secret = until("the mail with the link", || {
        let texts = meter.mails().into_iter().filter_map(|mail| mail.email.text);
        texts.into_iter().find(|text| text.contains("/sign-in/link?t=")).map(|text| link(&text).1)
    });
    let cookie = uses(meter, &secret).header("set-cookie").split(';').next().unwrap().to_owned();
    Browser { meter, cookie }
}

#[test]
fn p10_a_mailed_link_signs_in_once_and_costs_nothing() {
    let meter = Meter::resend().start();
    let stranger = asks(&meter, "nobody@example.org");
    let answer = asks(&meter, &CUSTOMER_EMAIL.to_uppercase());
    assert_eq!((answer.status, &answer.body), (200, &stranger.body), "whoever has the address");
    let (text, html) = mailed(&meter, 1).remove(0);
    let (path, secret) = link(&text);
    assert!(html.contains(&format!("href=\"{BASE_URL}{path}\"")), "{html}");
    assert_eq!(secret.len(), 64);

    // A program that looks at mail follows the link, and asks for its header.
    for method in [Method::GET, Method::HEAD, Method::GET] {
        let page = ask(meter.request(method, &path));
        assert_eq!((page.status, page.header("set-cookie")), (200, ""), "{page:?}");
    }
    let answer = uses(&meter, &secret);
    assert_eq!((answer.status, answer.header("location")), (303, "/account"), "{answer:?}");
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let browser = Browser { meter: &meter, cookie };
    assert!(browser.get("/account").body.contains(CUSTOMER_ID));
    assert_eq!(uses(&meter, &secret).status, 404, "once");
    assert_eq!(ask(meter.request(Method::GET, &path)).status, 404);

    let fields = [("from", "ann@example.com"), ("to", "bob@example.net"), ("subject", "s"), ("text", "t")];
    assert_eq!(browser.post("/account/send", &fields).status, 303, "without any credential");
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "the letter, and not the mail with the link");
    assert!(!meter.log().contains(&secret), "P10");
    assert_eq!(meter.read::<String>("SELECT link_hash FROM sign_in_link"), Vec::<String>::new());
}

#[test]
fn p10_sign_out_everywhere_ends_sessions_and_links_and_no_credential() {
    let meter = Meter::resend().start();
    let (one, two) = (Browser::signed_in(&meter), Browser::signed_in(&meter));
    assert_eq!(asks(&meter, CUSTOMER_EMAIL).status, 200);
    let (_, secret) = link(&mailed(&meter, 1).remove(0).0);
    let hashes = meter.read::<String>("SELECT link_hash FROM sign_in_link");
    assert!(hashes.len() == 1 && hashes[0] != secret, "the database has no link");
    assert!(one.get("/account/credentials").body.contains("action=\"/sign-out/everywhere\""));
    assert_eq!(one.post("/sign-out/everywhere", &[]).status, 303);
    for browser in [&one, &two] {
        assert_eq!(browser.get("/account").header("location"), "/");
    }
    assert_eq!(uses(&meter, &secret).status, 404);
    assert!(meter.credits()["available"].as_i64().is_some(), "the credential goes on working");
    let three = Browser::signed_in(&meter);
    assert_eq!(three.post("/sign-out", &[]).status, 303);
    assert_eq!(three.get("/account").header("location"), "/", "its cookie is of no use any more");
}

#[test]
fn p10_links_are_mailed_to_one_address_only_so_often() {
    let meter = Meter::resend().start();
    let answers: Vec<u16> = (0..8).map(|_| asks(&meter, CUSTOMER_EMAIL).status).collect();
    assert_eq!(answers, [200, 200, 200, 200, 200, 429, 429, 429], "from one place");
    assert_eq!(mailed(&meter, 3).len(), 3);
    meter.drain();
    assert_eq!(meter.mails().len(), 3, "to one address");
}
