//! What a customer finds on the page: settings that work as they stand, when credits end,
//! the way to the portal, and news while the page is open.

use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::Value;

use crate::harness::client::{has, run, tool};
use crate::harness::meter::BASE_URL;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, until};
use crate::page::Browser;
use crate::sign_in_link::signed_in_by_mail;

/// What is copied of a text on the page that begins to connect, with what belongs there put in.
fn copied(meter: &Meter, page: &str, id: &str) -> String {
    let (_, rest) = page.split_once(&format!("<pre id=\"{id}-text\"")).unwrap_or_else(|| panic!("no {id}"));
    let (_, rest) = rest.split_once("<code>").unwrap();
    let text = rest.split_once("</code>").unwrap().0;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    assert_eq!(text.matches("YOUR_SECRET").count(), 1, "{text}");
    let text = text.replace("YOUR_SECRET", &meter.credential.secret);
    // Neither name leads anywhere in these tests.
    let text = text.replace("smtp.example.com", "127.0.0.1");
    text.replace(BASE_URL, &format!("http://{}", meter.process().http))
}

/// The program with what makes it trust the server's certificate.
fn trusting(meter: &Meter, program: &str, arguments: &[&str]) -> Command {
    let mut command = tool(program);
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
        command.env(name, meter.certificate());
    }
    command.args(arguments);
    command
}

#[test]
fn what_is_copied_from_the_page_sends_mail() {
    let meter = Meter::resend().start();
    let page = Browser::signed_in(&meter).get("/account/connect").body;
    let node = |package: &str| has("node", &["-e", &format!("require('{package}')")]);
    let recipes: [(&str, &str, &str, bool); 6] = [
        ("swaks", "sh", "-c", has("swaks", &["--version"])),
        ("curl-smtp", "sh", "-c", has("curl", &["--version"])),
        ("curl-http", "sh", "-c", has("curl", &["--version"])),
        ("python", "python3", "-c", has("python3", &["--version"])),
        ("nodemailer", "node", "-e", node("nodemailer")),
        ("resend", "node", "-e", node("resend")),
    ];
    let mut sent = 0;
    for (id, program, argument, _) in recipes.into_iter().filter(|recipe| recipe.3) {
        let text = copied(&meter, &page, id);
        let said = run(trusting(&meter, program, &[argument, &text]), b"");
        sent += 1;
        until(&format!("the mail by {id}"), || (meter.mails().len() == sent).then_some(()));
        let email = &meter.mails()[sent - 1].email;
        assert_eq!(email.subject.as_deref(), Some("Hello"), "{id}: {said}");
        assert_eq!(email.from.as_deref().map(|from| from.contains("you@example.com")), Some(true), "{id}");
    }
}

#[test]
fn the_overview_shows_when_credits_end_and_leads_to_the_portal() {
    let meter = Meter::resend().credits(0).start();
    let at = Timestamp::now().checked_add(SignedDuration::from_hours(24 * 40)).unwrap();
    {
        let _in_runtime = RUNTIME.enter();
        meter.dodo().grant(CUSTOMER_ID, 1_234, Some(at)).unwrap();
    }
    let browser = Browser::signed_in(&meter);
    let day = at.strftime("%-d %b %Y").to_string();
    let body = until("the answer of Dodo", || {
        let body = browser.get("/account").body;
        body.contains(&day).then_some(body)
    });
    assert!(body.contains("<td class=\"number\">1,234</td>"), "{body}");

    assert_eq!(browser.post("/account/portal", &[]).status, 409, "whoever sends is not whoever pays");
    let opened = signed_in_by_mail(&meter).post("/account/portal", &[]);
    let mut links = opened.body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let link = links.find(|link| link.contains("/portal/")).unwrap().replace("&amp;", "&");
    let portal = ask(crate::harness::web::request(Method::GET, &link));
    assert!(portal.status == 200 && portal.body.contains("ann@example.com"), "{portal:?}");
    assert!(portal.body.contains(&format!("href=\"{BASE_URL}/account\"")), "{portal:?}");
    assert!(!meter.log().contains("/portal/"), "P10");
}

/// Events of an open page, until so many came or it ended; whether it ended well.
fn heard(meter: &Meter, cookie: &str, mut goes_on: impl FnMut(&[Value]) -> bool) -> (Vec<Value>, bool) {
    RUNTIME.block_on(async {
        let request = meter.request(Method::GET, "/account/live").header("cookie", cookie);
        let mut answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let (mut text, mut events) = (String::new(), Vec::new());
        while let Ok(chunk) = answer.chunk().await {
            let Some(chunk) = chunk else { return (events, true) };
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
            let data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
            events = data.map(|data| serde_json::from_str(data).unwrap()).collect();
            if !goes_on(&events) {
                return (events, true);
            }
        }
        (events, false)
    })
}

#[test]
fn an_open_page_hears_that_a_message_was_sent_and_what_it_cost() {
    let meter = Meter::resend().start();
    let browser = Browser::signed_in(&meter);
    let mut is_asked = false;
    let (events, _) = heard(&meter, &browser.cookie, |events| {
        if !is_asked {
            is_asked = true;
            let (http, credential) = (meter.process().http, meter.credential.clone());
            std::thread::spawn(move || {
                let letter = serde_json::json!({
                    "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": "t"
                });
                let url = format!("http://{http}/send");
                let request = crate::harness::web::request(Method::POST, &url).json(&letter);
                ask(request.basic_auth(credential.username, Some(credential.secret)));
            });
        }
        let last = events.last().unwrap();
        last["messages"][0]["state"] != "sent" || last["balance"] != 9
    });
    let last = events.last().unwrap();
    assert_eq!(
        (&last["available"], &last["held"], &last["owed"]),
        (&9.into(), &0.into(), &0.into()),
        "{last}"
    );
}

#[test]
fn an_open_page_does_not_delay_a_stop() {
    let mut meter = Meter::resend().start();
    let cookie = Browser::signed_in(&meter).cookie.clone();
    let process = meter.take_process();
    let url = format!("http://{}/account/live", process.http);
    let (is_open, opened) = std::sync::mpsc::channel();
    let listening = std::thread::spawn(move || {
        RUNTIME.block_on(async move {
            let request = crate::harness::web::request(Method::GET, &url).header("cookie", cookie);
            let mut answer = request.send().await?;
            let mut is_open = Some(is_open);
            while answer.chunk().await?.is_some() {
                if let Some(is_open) = is_open.take() {
                    is_open.send(()).unwrap();
                }
            }
            Ok::<_, reqwest::Error>(())
        })
    });
    opened.recv().expect("the first news");
    process.stop();
    let ended = listening.join().unwrap();
    assert!(
        ended.is_ok(),
        "the answer had an end; it is cut off where a stop waits for it in vain: {ended:?}"
    );
}
