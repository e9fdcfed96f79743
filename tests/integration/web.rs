//! The routes for programs: what they answer, and how they refuse.

use postmeter::http::signature::SigningKey;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::harness::contract;
use crate::harness::meter::ADMIN_TOKEN;
use crate::harness::web::{ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

fn message() -> Value {
    json!({ "from": "Ann <ann@example.com>", "to": "bob@example.net", "subject": "Grüße", "html": "<p>hi</p>", "text": "hi" })
}

#[test]
fn a_message_sent_over_http_takes_the_same_road() {
    let meter = Meter::resend().start();
    let answer = meter.post_send(&message());
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let mail = until("the mail", || meter.mails().first().cloned()).email;
    assert_eq!(
        (mail.subject.as_deref(), mail.text.as_deref().map(str::trim_end)),
        (Some("Grüße"), Some("hi"))
    );
    assert_eq!(mail.html.as_deref().map(str::trim_end), Some("<p>hi</p>"));
    meter.drain();
    let credits = meter.credits();
    let sums = ["available", "held", "owed"].map(|name| credits[name].as_i64().unwrap());
    assert_eq!(sums, [9, 0, 0], "{credits}");
    assert!(credits["as_of"].is_string() && credits["balance"] == 9, "{credits}");
    for log in [meter.get(&format!("/messages/{id}")).json(), meter.get("/messages").json()[0].clone()] {
        assert_eq!(
            (&log["message_id"], &log["state"], &log["debit"]),
            (&id.as_str().into(), &"sent".into(), &1.into())
        );
        assert_eq!((&log["attempts"], &log["last_error"]), (&1.into(), &Value::Null), "{log}");
    }
    assert_eq!(meter.get_as_operator(&format!("/messages/{id}")).status, 200);
    assert_eq!(meter.get_as_operator(&format!("/credits/{CUSTOMER_ID}")).json()["available"], 9);
}

#[test]
fn p9_every_refusal_is_json_that_says_why() {
    let meter = Meter::resend().start();
    meter.says(&["customer", "add", "cus_other"]);
    let get = |path: &str| meter.get(path);
    let nobody = |path: &str| ask(meter.request(Method::GET, path));
    let own = format!("/credits/{CUSTOMER_ID}");
    nobody(&own).is_error(401, "unauthorized");
    ask(meter.request(Method::GET, &own).bearer_auth("wrong")).is_error(401, "unauthorized");
    ask(meter.request(Method::GET, &own).basic_auth("nobody", Some("x"))).is_error(401, "unauthorized");
    ask(meter.request(Method::POST, "/send").json(&message())).is_error(401, "unauthorized");
    assert_eq!(ask(meter.request(Method::GET, &own).bearer_auth(&meter.credential.secret)).status, 200);
    get("/credits/cus_other").is_error(403, "forbidden");
    get("/messages?customer_id=cus_other").is_error(403, "forbidden");
    get("/messages/0123").is_error(404, "not_found");
    get("/nothing").is_error(404, "not_found");
    meter.get_as_operator("/credits/cus_nobody").is_error(404, "not_found");
    get("/send").is_error(405, "method_not_allowed");

    let send = |body: &str| {
        let request = meter.as_customer(Method::POST, "/send").header("content-type", "application/json");
        ask(request.body(body.to_owned()))
    };
    send("{").is_error(400, "not_json");
    send("").is_error(400, "not_json");
    for wrong in [
        json!([]),
        json!({}),
        json!({ "to": 7, "subject": "s", "text": "t", "from": "ann@example.com" }),
        json!({ "to": "bob", "subject": "s", "text": "t", "from": "ann@example.com" }),
        json!({ "to": "bob@example.net", "subject": "s\r\nBcc: x@example.net", "text": "t", "from": "ann@example.com", "extra": 1 }),
    ] {
        send(&wrong.to_string()).is_error(422, "invalid");
    }
    let forged = json!({ "from": "boss@example.org", "to": "bob@example.net", "subject": "s", "text": "t" });
    send(&forged.to_string()).is_error(403, "sender_not_allowed");
    let form = meter.as_customer(Method::POST, "/send").header("content-type", "text/plain").body("x");
    ask(form).is_error(415, "unsupported_media_type");
    let huge =
        ask(meter.request(Method::POST, "/checkout/subscribe").json(&json!({ "email": "x".repeat(70_000) })));
    huge.is_error(413, "too_large");
    assert_eq!(meter.resend_stand_in().count(), 0);
}

#[test]
fn a_request_that_is_too_large_is_refused_and_nothing_is_sent() {
    let meter = Meter::resend().set("smtp", "max_message_bytes = 65536").start();
    let with_text = |octets: usize| {
        let mut message = message();
        message["text"] = "x".repeat(octets).into();
        meter.post_send(&message)
    };
    with_text(70_000).is_error(413, "too_large");
    // Less than twice what is taken, so all of it is read before it is refused.
    with_text(300_000).is_error(413, "too_large");
    assert_eq!(with_text(20_000).status, 200);
}

#[test]
fn p10_a_message_of_somebody_else_is_not_shown() {
    let meter = Meter::resend().start();
    meter.says(&["customer", "add", "cus_other"]);
    let made = meter.says(&["credential", "create", "--customer", "cus_other", "--json"]);
    let other: Value = serde_json::from_str(&made).unwrap();
    let reply = meter.signed_in().deliver(&letter("mine"));
    let id = reply.split([' ', ',']).nth(4).unwrap().to_owned();
    let as_other =
        |path: &str| ask(meter.request(Method::GET, path).bearer_auth(other["secret"].as_str().unwrap()));
    as_other(&format!("/messages/{id}")).is_error(403, "forbidden");
    assert_eq!(as_other("/messages").json(), json!([]));
}

#[test]
fn pages_let_nothing_foreign_in() {
    let meter = Meter::resend().start();
    for path in ["/", "/account", "/style.css", "/healthz", "/nothing"] {
        let answer = ask(meter.request(Method::GET, path).header("accept", "text/html"));
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}: {answer:?}");
        assert!(!policy.contains("unsafe-inline") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let page = ask(meter.request(Method::GET, "/"));
    assert!(page.body.contains("/checkout/subscribe") && !page.body.contains("<script>"), "{}", page.body);
    assert!(!page.body.contains("src=\"http") && !page.body.contains("href=\"http"), "{}", page.body);
}

#[test]
fn metrics_and_health_answer_anyone() {
    let meter = Meter::resend().start();
    meter.signed_in().deliver(&letter("counted"));
    meter.drain();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = ask(meter.request(Method::GET, path));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert!(ask(meter.request(Method::GET, "/metrics")).body.contains("# EOF"));
}

#[test]
fn a_webhook_is_news_that_the_balance_changed_and_is_taken_once() {
    let meter = Meter::resend().start();
    meter.signed_in().deliver(&letter("known"));
    meter.drain();
    meter.dodo().grant(CUSTOMER_ID, 5, None).unwrap();
    assert_eq!(meter.credits()["available"], 9, "nobody has told us yet");
    let first = meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID));
    assert_eq!((first.status, &first.json()["result"]), (200, &"accepted".into()), "{first:?}");
    until("the new balance, as Dodo says it", || (meter.credits()["available"] == 14).then_some(()));
    let again = meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID));
    assert_eq!((again.status, &again.json()["result"]), (200, &"duplicate".into()), "{again:?}");
    let unknown = json!({ "type": "dispute.opened", "data": {} }).to_string();
    assert_eq!(meter.webhook("msg_2", 0, &unknown).status, 200, "new kinds of event do no harm");
}

#[test]
fn a_webhook_that_is_not_signed_by_dodo_is_not_believed() {
    let meter = Meter::resend().start();
    let body = credit_added(CUSTOMER_ID);
    let answer = ask(meter.request(Method::POST, "/webhooks/dodo").body(body.clone()));
    answer.is_error(401, "bad_signature");
    meter.webhook("msg_1", 3_600, &body).is_error(401, "bad_signature");
    let key = SigningKey::parse(&SecretString::from("whsec_bm90IHRoZSBrZXk=")).unwrap();
    let at = jiff::Timestamp::now();
    let request = meter.request(Method::POST, "/webhooks/dodo").header("webhook-id", "msg_2");
    let request = request.header("webhook-timestamp", at.as_second().to_string());
    let forged = request.header("webhook-signature", key.sign("msg_2", at, body.as_bytes())).body(body);
    ask(forged).is_error(401, "bad_signature");
    meter.webhook("msg_3", 0, "{").is_error(400, "malformed_webhook");
    assert_eq!(meter.number("SELECT count(*) FROM webhook"), 0);
}

#[test]
fn the_operators_token_looks_and_does_not_send() {
    let meter = Meter::resend().start();
    let refused = ask(meter.request(Method::POST, "/send").bearer_auth(ADMIN_TOKEN).json(&message()));
    assert!((400..500).contains(&refused.status), "{refused:?}");
    assert_eq!(meter.get_as_operator("/messages").json(), json!([]));
}

#[test]
fn the_document_of_the_api_is_that_of_this_server() {
    let meter = Meter::resend().start();
    let answer = ask(meter.request(Method::GET, "/openapi.json"));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("access-control-allow-origin"), "*", "viewers on other sites read it");
    assert_eq!(&answer.json(), contract::our_document(), "all answers in these tests are held against it");
    assert!(answer.body.len() < 100_000, "{}", answer.body.len());
}
