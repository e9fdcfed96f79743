//! Signing in by a mailed link, and out again.

use mail_parser::MessageParser;

use super::*;
use crate::store::log::MessageLog;
use crate::store::queue::DuePart;

impl Town {
    async fn ask_for_link(&self, peer: &str, email: &str) -> Answer {
        let email: String = email.bytes().map(|octet| format!("%{octet:02X}")).collect();
        self.call_from(peer, form_of("/sign-in/link", &format!("email={email}"))).await
    }

    /// The notices, once there are so many.
    async fn noticed(&self, count: usize) -> Vec<MessageLog> {
        let is_notice = |message: &MessageLog| message.kind == "notice";
        let arrived = async {
            loop {
                let messages = self.store.messages(None, None, 99).await.unwrap();
                let notices: Vec<_> = messages.into_iter().filter(is_notice).collect();
                if notices.len() >= count {
                    return notices;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let notices =
            tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("mail to be written");
        assert_eq!(notices.len(), count);
        notices
    }

    /// The text of the only mail to `x@example.com`.
    async fn mailed(&self) -> String {
        let notice = self.noticed(1).await.remove(0);
        assert_eq!(notice.recipients[0].address, "x@example.com");
        let due =
            DuePart { message_id: notice.message_id, part_no: 0, size: 0, batch_max: 1, batch_id: None };
        let (now, later) = (self.clock.now(), self.clock.now() + jiff::SignedDuration::from_secs(30));
        let part = self.store.lease(&due, now, later).await.unwrap().unwrap();
        MessageParser::default().parse(&part.bytes[..]).unwrap().body_text(0).unwrap().into_owned()
    }

    async fn use_link(&self, link: &str) -> Answer {
        let (_, secret) = link.split_once("?t=").unwrap();
        self.call(form_of("/sign-in/link/use", &format!("t={secret}"))).await
    }

    async fn is_signed_in(&self, cookie: &str) -> bool {
        self.call(with(get("/account"), "cookie", cookie)).await.status == 200
    }
}

const HERE: &str = "192.0.2.7:1234";

/// The links in a mail.
fn links(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("https://meter.example/sign-in/link?t="));
    lines.map(|line| line.trim().strip_prefix(BASE_URL).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_mailed_link_signs_each_customer_of_an_address_in_once() {
    let town = Town::new().await;
    let answer = town.ask_for_link(HERE, " X@Example.com ").await;
    assert!(answer.status == 200 && answer.body.contains("Look into your mail"), "{answer:?}");
    let mail = town.mailed().await;
    let links = links(&mail);
    assert!(links.len() == 2 && links[0] != links[1], "{mail}");
    assert!(mail.contains("Sign in as cus_ann") && mail.contains("Sign in as cus_bob"), "{mail}");

    // Whatever looks at mail follows links; nobody is signed in by that.
    for _ in 0..3 {
        let page = town.call(get(&links[0])).await;
        assert!(page.status == 200 && page.body.contains("cus_ann"), "{page:?}");
        assert!(page.body.contains("action=\"/sign-in/link/use\""), "{page:?}");
        assert!(!page.headers.contains_key("set-cookie"));
        assert_eq!(page.header("referrer-policy"), "same-origin", "no other site is told of it");
    }
    let answer = town.use_link(&links[0]).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/account"), "{answer:?}");
    let set = answer.header("set-cookie");
    assert!(
        set.starts_with("__Host-postmeter=") && set.contains("; HttpOnly; SameSite=Strict; Secure"),
        "{set}"
    );
    let cookie = answer.cookie();
    let page = town.call(with(get("/account"), "cookie", &cookie)).await;
    assert!(page.body.contains("Account cus_ann"), "{page:?}");

    let again = town.use_link(&links[0]).await;
    assert!(again.status == 404 && again.body.contains("does not work any more"), "{again:?}");
    assert!(!again.headers.contains_key("set-cookie"));
    assert_eq!(town.call(get(&links[0])).await.status, 404);
    assert_eq!(town.use_link(&links[1]).await.status, 303, "bob's is another one");
}

#[tokio::test]
async fn a_customer_without_a_credential_sends_and_makes_one() {
    let town = Town::new().await;
    town.ask_for_link(HERE, "x@example.com").await;
    let cookie = town.use_link(&links(&town.mailed().await)[0]).await.cookie();
    let letter = "from=ann%40example.com&to=z%40y.example&subject=s&text=t";
    let sent = town.call(with(form_of("/account/send", letter), "cookie", &cookie)).await;
    assert!(sent.status == 303 && sent.header("location").starts_with("/account?sent="), "{sent:?}");
    let made = town.call(with(form_of("/account/credentials", "label=x"), "cookie", &cookie)).await;
    assert!(made.status == 200 && made.body.contains("Write the secret down now"), "{made:?}");
    town.store.suspend(&customer("ann"), "because").await.unwrap();
    let refused = town.call(with(form_of("/account/send", letter), "cookie", &cookie)).await;
    assert!(refused.status == 403 && refused.body.contains("suspended: because"), "{refused:?}");
}

#[tokio::test]
async fn p10_whoever_asks_is_told_the_same_whoever_has_the_address() {
    let town = Town::new().await;
    let one = town.ask_for_link("192.0.2.1:1", "x@example.com").await;
    let other = town.ask_for_link("192.0.2.2:1", "nobody@example.com").await;
    assert_eq!((one.status, &one.body, &one.headers), (other.status, &other.body, &other.headers));
    town.noticed(1).await;
    // Too often for one address: nobody is told, and nothing more is mailed.
    for nth in 3..9 {
        let more = town.ask_for_link(&format!("192.0.2.{nth}:1"), "x@example.com").await;
        assert_eq!((more.status, &more.body), (200, &one.body), "{nth}");
    }
    town.noticed(3).await;
    // Too often from one place.
    let mut told = 200;
    for nth in 0..9 {
        told = town.ask_for_link(HERE, &format!("n{nth}@example.com")).await.status;
    }
    assert_eq!(told, 429);
    assert_eq!(town.ask_for_link("198.51.100.1:1", "n@example.com").await.status, 200, "others may");
    let wrong = town.ask_for_link("198.51.100.1:1", "\"><b>").await;
    assert!(wrong.status == 422 && wrong.body.contains("value=\"&quot;&gt;&lt;b&gt;\""), "{wrong:?}");
}

#[tokio::test]
async fn p10_a_link_ends_and_none_can_be_guessed() {
    let town = Town::new().await;
    town.ask_for_link(HERE, "x@example.com").await;
    let links = links(&town.mailed().await);
    for t in ["", "0", &"0".repeat(64), "%00", "%22%3E%3Cscript%3E", &"x".repeat(4_000)] {
        let page = town.call(get(&format!("/sign-in/link?t={t}"))).await;
        assert!(page.status == 404 && !page.body.contains("<script>"), "{t}: {page:?}");
        assert_eq!(town.use_link(&format!("?t={t}")).await.status, 404, "{t}");
    }
    town.clock.advance(Duration::from_secs(15 * 60 - 1));
    assert_eq!(town.call(get(&links[0])).await.status, 200);
    town.clock.advance(Duration::from_secs(1));
    assert_eq!(town.call(get(&links[0])).await.status, 404);
    assert_eq!(town.use_link(&links[0]).await.status, 404);
}

#[tokio::test]
async fn no_form_of_the_way_in_is_taken_from_another_site() {
    let town = Town::new().await;
    town.ask_for_link(HERE, "x@example.com").await;
    let link = links(&town.mailed().await).remove(0);
    let secret = link.split_once("?t=").unwrap().1.to_owned();
    let cookie = town.sign_in("ann").await;
    let forms = [
        ("/sign-in", "username=ann&secret=ann-secret".to_owned()),
        ("/sign-in/link", "email=x%40example.com".to_owned()),
        ("/sign-in/link/use", format!("t={secret}")),
        ("/sign-out", String::new()),
        ("/sign-out/everywhere", String::new()),
        ("/checkout/subscribe", "email=x%40example.com&name=x".to_owned()),
        ("/account/top-up", String::new()),
    ];
    for (path, form) in &forms {
        for (name, value) in
            [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
        {
            let request = with(with(form_of(path, form), "cookie", &cookie), name, value);
            let answer = town.call(request).await;
            assert_eq!(answer.status, 403, "{path} {name}: {value}");
            assert!(!answer.headers.contains_key("set-cookie"), "{path}");
        }
    }
    assert!(town.is_signed_in(&cookie).await, "nobody was signed out");
    assert_eq!(town.use_link(&link).await.status, 303, "and the link is as good as before");
}

#[tokio::test]
async fn no_sign_in_leads_to_another_site() {
    let town = Town::new().await;
    let evil = "https%3A%2F%2Fevil.example";
    for name in ["next", "return_to", "redirect", "url", "continue"] {
        let path = format!("/sign-in?{name}={evil}");
        assert_eq!(town.call(get(&path)).await.status, 200);
        let form = format!("username=ann&secret=ann-secret&{name}={evil}");
        let answer = town.call(with(form_of(&path, &form), "host", "evil.example")).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/account"), "{name}");
    }
    for path in ["//evil.example", "/sign-in//evil.example", "/welcome?c=//evil.example"] {
        let answer = town.call(get(path)).await;
        assert!(answer.status == 404 && !answer.body.contains("evil.example"), "{path}: {answer:?}");
    }
    // Where links lead is configured, whatever host was asked.
    let asked = with(form_of("/sign-in/link", "email=x%40example.com"), "host", "evil.example");
    town.call(asked).await;
    let mail = town.mailed().await;
    assert!(!mail.contains("evil.example") && links(&mail).len() == 2, "{mail}");
}

#[tokio::test]
async fn p10_signing_out_ends_the_session_wherever_its_cookie_is() {
    let town = Town::new().await;
    let (one, two, bobs) = (town.sign_in("ann").await, town.sign_in("ann").await, town.sign_in("bob").await);
    assert_ne!(one, two);
    town.call(with(form_of("/sign-out", ""), "cookie", &one)).await;
    assert!(!town.is_signed_in(&one).await, "a copy of the cookie is of no use");
    assert!(town.is_signed_in(&two).await && town.is_signed_in(&bobs).await);

    let three = town.sign_in("ann").await;
    town.ask_for_link(HERE, "x@example.com").await;
    let link = links(&town.mailed().await).remove(0);
    let out = town.call(with(form_of("/sign-out/everywhere", ""), "cookie", &two)).await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
    assert!(!town.is_signed_in(&two).await && !town.is_signed_in(&three).await);
    assert_eq!(town.use_link(&link).await.status, 404, "what was mailed to ann ended too");
    assert!(town.is_signed_in(&bobs).await);
}

#[tokio::test]
async fn p10_a_sign_in_ends_the_session_that_the_browser_had() {
    let town = Town::new().await;
    let before = town.sign_in("ann").await;
    let form = form_of("/sign-in", "username=bob&secret=bob-secret");
    let after = town.call(with(form, "cookie", &before)).await.cookie();
    assert!(!town.is_signed_in(&before).await && town.is_signed_in(&after).await);
}
