//! The customer's pages of messages, credentials, senders and suppressions.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::answer::Answer as Reply;
use crate::domain::credits::{Credits, Unit};
use crate::domain::ids::MessageId;
use crate::domain::message::Road;
use crate::store::accept::{Acceptance, Accepted, Kind, NewPart};
use crate::store::report::{Answered, News, Report};

/// What would be run if it were not escaped.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=y>";
const HOSTILE_ADDRESS: &str = "\"<script>alert(1)</script>\"@y.example";

impl Town {
    async fn page(&self, path: &str, cookie: &str) -> Answer {
        self.call(with(get(path), "cookie", cookie)).await
    }

    async fn form(&self, path: &str, fields: &str, cookie: &str) -> Answer {
        self.call(with(form_of(path, fields), "cookie", cookie)).await
    }

    /// A message of that customer's, on its way.
    async fn mail(&self, of: &str, subject: &str, to: &[&str]) -> MessageId {
        let now = self.clock.now();
        let recipients = to.iter().map(|to| Mailbox::parse(to).unwrap()).collect();
        let part = NewPart { road: Road::Smtp, recipients, request_hash: None, batch_max: 1 };
        let mail = Acceptance {
            message_id: MessageId::generate(now, random::octets()),
            customer_id: customer(of),
            username: None,
            kind: Kind::Submission,
            reverse_path: ReversePath::parse("app@x.example").unwrap(),
            header_from: HOSTILE.to_owned(),
            subject: Some(subject.to_owned()),
            bytes: Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
            spooled: None,
            unit: Unit::Message,
            price: Credits::ONE,
            accepted_at: now,
            lifetime: Duration::from_secs(1000),
            parts: vec![part],
            lease_until: Some(now + Duration::from_secs(30)),
            keyed: None,
            notes: vec![HOSTILE.to_owned()],
            dsn: Arc::default(),
        };
        let id = mail.message_id.clone();
        assert!(matches!(self.store.accept(mail).await.unwrap(), Accepted::Yes { .. }));
        id
    }

    /// It was refused with these words.
    async fn refused(&self, id: &MessageId, to: &str, words: &str) {
        let answered = Answered {
            failed: vec![(Mailbox::parse(to).unwrap(), Reply::new("5.1.1", words))],
            ..Answered::default()
        };
        let report = Report {
            message_id: id.clone(),
            part_no: 0,
            attempt: 1,
            at: self.clock.now(),
            news: News::Answered(answered),
            bounce: None,
            relayed: None,
        };
        self.store.report(report).await.unwrap();
    }
}

fn assert_harmless(answer: &Answer) {
    let body = &answer.body;
    assert!(!body.contains("<script>") && !body.contains("<img") && !body.contains("\"'>"), "{body}");
    assert!(body.len() < 50_000, "{} octets", body.len());
}

#[tokio::test]
async fn messages_are_looked_for_and_what_was_typed_stays() {
    let town = Town::new().await;
    let bill = town.mail("ann", "Your bill", &["zoe@y.example"]).await;
    let other = town.mail("ann", "Hello", &["max@x.example"]).await;
    town.refused(&other, "max@x.example", "550 5.1.1 nobody").await;
    let cookie = town.sign_in("ann").await;
    let table = [
        ("", vec![&bill, &other]),
        ("?recipient=ZOE%40", vec![&bill]),
        ("?subject=bill&state=queued", vec![&bill]),
        ("?state=failed&recipient=&subject=&id=", vec![&other]),
        ("?subject=no+such", vec![]),
    ];
    for (query, want) in &table {
        let page = town.page(&format!("/account/messages{query}"), &cookie).await;
        assert_eq!(page.status, 200, "{page:?}");
        for id in [&bill, &other] {
            let is_there = page.body.contains(&format!("href=\"/account/messages/{id}\""));
            assert_eq!(is_there, want.contains(&id), "{query}: {}", page.body);
        }
        let listed = town.call(basic(get(&format!("/messages{query}")), "ann")).await.json();
        assert_eq!(listed.as_array().unwrap().len(), want.len(), "{query}: {listed}");
    }
    let by_id = town.page(&format!("/account/messages?id={other}"), &cookie).await;
    assert!(by_id.body.contains("1 message found") && by_id.body.contains(&format!("value=\"{other}\"")));
    let typed = town.page("/account/messages?subject=%22bill%22&state=sent", &cookie).await.body;
    assert!(typed.contains("value=\"&quot;bill&quot;\""), "{typed}");
    assert!(typed.contains("value=\"sent\" selected"), "{typed}");
    assert!(typed.contains("No message is like that."), "{typed}");
}

#[tokio::test]
async fn p9_a_search_that_cannot_be_is_told_what_is_wrong_with_it() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let long = format!("recipient={}", "x".repeat(400));
    let table = [
        ("state=lost", "state: one of queued, held, sent, failed."),
        ("id=a%20b", "is not a valid message id"),
        ("subject=a%0D%0ASet-Cookie:%20x", "subject: at most 320 characters in one line."),
        (&long, "recipient: at most 320 characters in one line."),
    ];
    for (query, words) in table {
        let page = town.page(&format!("/account/messages?{query}&subject2=x"), &cookie).await;
        assert!(page.status == 422 && page.body.contains(words), "{page:?}");
        assert!(page.body.contains("role=\"alert\"") && page.body.contains("name=\"recipient\""), "{query}");
        assert!(page.headers.get("set-cookie").is_none());
        let told = town.call(basic(get(&format!("/messages?{query}")), "ann")).await;
        assert_eq!((told.status, &told.json()["code"]), (422, &"invalid".into()), "{query}");
        assert!(told.json()["error"].as_str().unwrap().contains(words), "{told:?}");
    }
    assert_eq!(town.page("/account/messages?before=a%20b", &cookie).await.status, 404);
    // Twice the same field: told to a browser as a page.
    let twice = town.page("/account/messages?id=a&id=b", &cookie).await;
    assert!(twice.status == 422 && twice.header("content-type").starts_with("text/html"), "{twice:?}");
}

#[tokio::test]
async fn pages_of_messages_keep_what_is_looked_for() {
    let town = Town::new().await;
    for _ in 0..27 {
        town.mail("ann", "a&b", &["zoe@y.example"]).await;
    }
    let cookie = town.sign_in("ann").await;
    let page = town.page("/account/messages?subject=a%26b", &cookie).await;
    assert_eq!(page.body.matches("<tr><td").count(), 25);
    assert_harmless(&page);
    let next = page.body.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(next.starts_with("/account/messages?subject=a%26b&amp;before="), "{next}");
    let page = town.page(&next.replace("&amp;", "&"), &cookie).await;
    assert_eq!(page.body.matches("<tr><td").count(), 2);
    assert!(page.body.contains("Newest") && !page.body.contains("rel=\"next\""));
    let listed = town.call(basic(get("/messages?subject=a%26b&limit=20"), "ann")).await;
    let link = listed.header("link");
    let next = link.strip_prefix(&format!("<{BASE_URL}")).unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert!(next.starts_with("/messages?subject=a%26b&limit=20&before="), "{link}");
    let listed = town.call(basic(get(next), "ann")).await;
    assert_eq!((listed.json().as_array().unwrap().len(), listed.header("link")), (7, ""));
}

#[tokio::test]
async fn the_story_of_a_message_is_told_whatever_stands_in_it() {
    let town = Town::new().await;
    let id = town.mail("ann", HOSTILE, &[HOSTILE_ADDRESS, "b@y.example"]).await;
    let words = format!("550 5.1.1 {HOSTILE}");
    town.refused(&id, HOSTILE_ADDRESS, &words).await;
    let cookie = town.sign_in("ann").await;
    let page = town.page(&format!("/account/messages/{id}"), &cookie).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_harmless(&page);
    for told in
        ["Accepted", "credits held: 1", "Changed on the way", "550 5.1.1 &lt;script&gt;", "b@y.example"]
    {
        assert!(page.body.contains(told), "{told}: {}", page.body);
    }
    assert_harmless(&town.page("/account/messages", &cookie).await);
}

#[tokio::test]
async fn p10_somebody_elses_message_is_none() {
    let town = Town::new().await;
    let id = town.mail("ann", "Ann's secret", &["zoe@y.example"]).await;
    let cookie = town.sign_in("bob").await;
    let theirs = town.page(&format!("/account/messages/{id}"), &cookie).await;
    let nothing = town.page(&format!("/account/messages/{}", "0".repeat(32)), &cookie).await;
    assert_eq!((theirs.status, &theirs.body), (404, &nothing.body));
    assert_eq!(town.page("/account/messages/a%20b", &cookie).await.body, nothing.body);
    let found = town.page(&format!("/account/messages?id={id}"), &cookie).await;
    assert!(found.body.contains("No message is like that.") && !found.body.contains("secret"));
    let listed = town.call(basic(get("/messages?subject=secret"), "bob")).await;
    assert_eq!(listed.json(), serde_json::json!([]));
    assert_eq!(town.call(basic(get("/messages?customer_id=cus_ann&id=0"), "bob")).await.status, 403);
}

#[tokio::test]
async fn a_credential_is_made_with_caps_and_what_is_wrong_is_told() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let path = "/account/credentials";
    for (fields, words) in [
        ("label=app&per_day=many&per_minute=", "messages a day: a whole number from 1 on, or nothing."),
        ("label=app&per_day=&per_minute=0", "messages a minute: a whole number from 1 on, or nothing."),
        ("label=app&per_day=99999999999&per_minute=", "messages a day: a whole number"),
        ("label=app%0D%0Ax&per_day=many", "label: at most 64 characters in one line."),
    ] {
        let page = town.form(path, fields, &cookie).await;
        assert!(page.status == 422 && page.body.contains(words), "{page:?}");
        assert!(page.body.contains("value=\"app"), "what was typed stays: {}", page.body);
        assert!(!page.body.contains("<dt>Secret</dt>"));
    }
    assert_eq!(town.store.credentials(Some(&customer("ann"))).await.unwrap().len(), 1);
    let page = town.form(path, "label=shop&per_day=500&per_minute=+20+", &cookie).await;
    assert!(page.status == 200 && page.body.contains("500 a day, 20 a minute"), "{page:?}");
    assert!(page.body.contains("<dt>Secret</dt>"));
    assert_eq!(page.header("cache-control"), "no-store");
}

#[tokio::test]
async fn p9_a_capped_credential_is_refused_over_http_with_when_to_try_again() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let page = town.form("/account/credentials", "label=x&per_day=1", &cookie).await.body;
    let secret = page.split("<dt>Secret</dt><dd><code>").nth(1).unwrap().split('<').next().unwrap();
    let send = || {
        let body = r#"{"to":"x@example.net","subject":"s","text":"hi"}"#;
        bearer(json_of("/send", body), secret)
    };
    assert_eq!(town.call(send()).await.status, 200);
    let refused = town.call(send()).await;
    assert_eq!((refused.status, &refused.json()["code"]), (429, &"credential_capped".into()), "{refused:?}");
    assert!((1..=86_400).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    let batch = r#"[{"from":"ann@example.com","to":"x@example.net","subject":"s","text":"hi"}]"#;
    let refused = town.call(bearer(json_of("/emails/batch", batch), secret)).await;
    assert_eq!(
        (refused.status, &refused.json()["name"]),
        (429, &"daily_quota_exceeded".into()),
        "{refused:?}"
    );
    let fields = "from=&to=x%40example.net&subject=s&text=t";
    assert_eq!(town.form("/account/send", fields, &cookie).await.status, 303, "ann's own has no cap");

    // Nor does it get round its caps by making another one, or take the place of those that have none.
    let username = page.split("<dt>Username</dt><dd><code>").nth(1).unwrap().split('<').next().unwrap();
    let form = format!("username={username}&secret={secret}");
    let capped = town.call(form_of("/sign-in", &form)).await.cookie();
    for (path, fields) in
        [("/account/credentials", "label=free"), ("/account/credentials/revoke", "username=ann")]
    {
        let refused = town.form(path, fields, &capped).await;
        assert!(refused.status == 409 && refused.body.contains("has caps"), "{path}: {refused:?}");
    }
    assert_eq!(town.page("/account", &cookie).await.status, 200, "ann's own is there");
}

#[tokio::test]
async fn a_credential_is_revoked_after_a_question_and_ones_own_signs_out() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let made = town.form("/account/credentials", "label=old", &cookie).await.body;
    let old = made.split("<dt>Username</dt><dd><code>").nth(1).unwrap().split('<').next().unwrap();
    let ask = |name: &str| format!("/account/credentials/revoke?username={name}");
    let question = town.page(&ask(old), &cookie).await;
    assert!(question.body.contains("Revoke this credential?") && !question.body.contains("be signed out"));
    let own = town.page(&ask("ann"), &cookie).await;
    assert!(own.body.contains("you will be signed out"), "{}", own.body);
    assert_eq!(town.page(&ask("bob"), &cookie).await.status, 404, "not theirs");
    assert_eq!(town.page("/account/credentials/revoke", &cookie).await.status, 422);

    let done = town.form("/account/credentials/revoke", &format!("username={old}"), &cookie).await;
    let location = format!("/account/credentials?revoked={old}");
    assert_eq!((done.status, done.header("location")), (303, location.as_str()));
    assert!(town.page(&location, &cookie).await.body.contains("it signs in no more"));
    let lie = town.page("/account/credentials?revoked=ann", &cookie).await;
    assert!(!lie.body.contains("it signs in no more"));
    let out = town.form("/account/credentials/revoke", "username=ann", &cookie).await;
    assert_eq!((out.status, out.header("location")), (303, "/"));
    let after = town.page("/account/credentials", &cookie).await;
    assert_eq!((after.status, after.header("location")), (303, "/"), "the session ended with it");
}

#[tokio::test]
async fn an_address_is_suppressed_found_and_taken_off() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let path = "/account/suppressions";
    let hostile = "address=Zoe%40y.example&reason=%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    let added = town.form(path, hostile, &cookie).await;
    assert_eq!(
        (added.status, added.header("location")),
        (303, "/account/suppressions?added=zoe%40y.example")
    );
    let page = town.page(added.header("location"), &cookie).await;
    assert!(page.body.contains("zoe@y.example is on the list since"), "{}", page.body);
    assert!(page.body.contains("put here by hand") && page.body.contains("&lt;script&gt;"));
    assert_harmless(&page);
    for (fields, words) in [
        ("address=nobody&reason=why+not", "address: "),
        ("address=%3Cscript%3E&reason=why+not", "address: "),
        ("address=x%40y.example&reason=why+not%0D%0Ax", "reason: at most 160 characters in one line."),
    ] {
        let refused = town.form(path, fields, &cookie).await;
        assert!(refused.status == 422 && refused.body.contains(words), "{refused:?}");
        assert!(refused.body.contains("value=\"why not"), "what was typed stays: {}", refused.body);
        assert!(!refused.body.contains("<script>"));
    }
    assert!(town.page("/account/suppressions?q=ZOE", &cookie).await.body.contains(">zoe@y.example<"));
    assert!(
        town.page("/account/suppressions?q=max", &cookie).await.body.contains("No address is like that.")
    );
    assert_eq!(town.page("/account/suppressions?q=%0A", &cookie).await.status, 200, "trimmed");
    assert_eq!(town.page("/account/suppressions?q=a%0Ab", &cookie).await.status, 422);

    let bob = town.sign_in("bob").await;
    assert!(!town.page(path, &bob).await.body.contains("zoe@y.example"));
    let off = "/account/suppressions/remove";
    assert_eq!(town.form(off, "address=zoe%40y.example", &bob).await.status, 404, "not theirs");
    let done = town.form(off, "address=zoe%40y.example", &cookie).await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/account/suppressions?removed=zoe%40y.example")
    );
    assert!(town.page(done.header("location"), &cookie).await.body.contains("is off the list"));
    let lie = town.page("/account/suppressions?added=zoe%40y.example", &cookie).await;
    assert!(!lie.body.contains("is on the list"));
}

#[tokio::test]
async fn a_list_of_many_addresses_comes_in_pages() {
    let town = Town::new().await;
    for nth in 10..65 {
        let address = Mailbox::parse(&format!("a{nth}@y.example")).unwrap();
        town.store.suppress(&customer("ann"), &address, None, town.clock.now()).await.unwrap();
    }
    let cookie = town.sign_in("ann").await;
    let page = town.page("/account/suppressions?q=y.example", &cookie).await;
    assert_harmless(&page);
    let next = page.body.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(next, "/account/suppressions?q=y.example&amp;after=a59%40y.example");
    let page = town.page(&next.replace("&amp;", "&"), &cookie).await;
    assert_eq!(page.body.matches("<tr><td").count(), 5);
    assert!(page.body.contains(">First<") && !page.body.contains("rel=\"next\""));
}

#[tokio::test]
async fn senders_are_shown_and_where_nobody_proves_domains_that_is_said() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let page = town.page("/account/senders", &cookie).await;
    assert!(page.body.contains("ann@example.com") && page.body.contains("allowed by the operator"));
    assert!(page.body.contains("ask the operator") && !page.body.contains("Add the domain"));
    let refused = town.form("/account/senders", "domain=%3Cscript%3E", &cookie).await;
    assert!(refused.status == 403 && refused.body.contains("Domains are added by the operator here."));
    assert!(!refused.body.contains("<script>"));
    assert_eq!(town.page("/account/senders/remove?domain=x.example", &cookie).await.status, 404);
    let remove = town.form("/account/senders/remove", "domain=x.example", &cookie).await;
    assert_eq!(remove.status, 404);
    for _ in 0..12 {
        town.form("/account/senders/verify", "domain=x.example", &cookie).await;
    }
    let soon = town.form("/account/senders/verify", "domain=x.example", &cookie).await;
    assert!(soon.status == 429 && !soon.header("retry-after").is_empty(), "{soon:?}");
    town.store.suspend(&customer("ann"), "spam").await.unwrap();
    let refused = town.form("/account/senders", "domain=x.example", &cookie).await;
    assert!(refused.status == 403 && refused.body.contains("suspended: spam"), "{refused:?}");
}

#[tokio::test]
async fn whoever_is_signed_out_or_on_another_site_sees_and_changes_nothing() {
    let town = Town::new().await;
    let id = town.mail("ann", "x", &["zoe@y.example"]).await;
    let cookie = town.sign_in("ann").await;
    let own = format!("/account/messages/{id}");
    for path in ["/account/messages", &own, "/account/senders", "/account/suppressions"] {
        let answer = town.call(get(path)).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{path}");
    }
    let forms = [
        ("/account/credentials", "label=x"),
        ("/account/credentials/revoke", "username=ann"),
        ("/account/senders", "domain=x.example"),
        ("/account/senders/verify", "domain=x.example"),
        ("/account/senders/remove", "domain=x.example"),
        ("/account/suppressions", "address=zoe%40y.example"),
        ("/account/suppressions/remove", "address=zoe%40y.example"),
    ];
    for (path, fields) in forms {
        let answer = town.call(form_of(path, fields)).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{path}");
        let forged = with(with(form_of(path, fields), "cookie", &cookie), "origin", "https://evil.example");
        assert_eq!(town.call(forged).await.status, 403, "{path}");
        let huge = town.form(path, &format!("x={}", "x".repeat(70_000)), &cookie).await;
        assert_eq!(huge.status, 413, "{path}");
    }
    assert_eq!(town.store.credentials(Some(&customer("ann"))).await.unwrap().len(), 1);
    assert_eq!(town.store.suppressions(&customer("ann"), None, 9).await.unwrap(), []);
}
