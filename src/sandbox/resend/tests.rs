use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

use super::*;
use crate::sandbox::faults::{Fault, Misbehaviour};
use crate::sandbox::tests::{Deliveries, answer, client, delivered, endpoint, resend, scratch, started};
use crate::sandbox::{
    RESEND_API_KEY, RESEND_SENDING_API_KEY, RESEND_WEBHOOK_SECRET, Settings, StandIns, loopback_client,
};

fn mail() -> Value {
    json!({ "from": "Ann <ann@example.com>", "to": ["bob@example.net"], "subject": "Hi", "text": "Hello" })
}

fn with(field: &str, value: Value) -> Value {
    let mut mail = mail();
    mail[field] = value;
    mail
}

async fn send(all: &StandIns, body: &Value, key: &str) -> (u16, Value) {
    answer(resend(all, Method::POST, "/emails").header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn p4_the_same_key_and_bytes_send_once_and_other_bytes_are_refused() {
    let all = started().await;
    let (status, first) = send(&all, &mail(), "k").await;
    assert_eq!(status, 200);
    assert_eq!(send(&all, &mail(), "k").await, (200, first.clone()));
    let (status, refused) = send(&all, &with("subject", json!("Other")), "k").await;
    assert_eq!((status, &refused["name"]), (409, &json!("invalid_idempotent_request")));
    assert_eq!((all.resend.count(), all.resend.sent_with_key("k")), (1, 1));
    all.resend.faults().push(Fault::new(Misbehaviour::ForgetKeys));
    assert_ne!(send(&all, &mail(), "k").await.1, first);
    assert_eq!(all.resend.sent_with_key("k"), 2);
    let long = "k".repeat(257);
    assert_eq!(send(&all, &mail(), &long).await.1["name"], "invalid_idempotency_key");
    all.stop().await;
}

#[tokio::test]
async fn a_second_request_while_the_first_is_worked_on_is_told_so() {
    let all = started().await;
    all.resend.faults().push(Fault::new(Misbehaviour::Late { delay_ms: 200 }));
    let slow = resend(&all, Method::POST, "/emails").header("idempotency-key", "k").json(&mail());
    let slow = tokio::spawn(slow.timeout(Duration::from_millis(100)).send());
    while all.resend.faults().struck() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, refused) = send(&all, &mail(), "k").await;
    assert_eq!((status, &refused["name"]), (409, &json!("concurrent_idempotent_requests")));
    assert!(slow.await.unwrap().unwrap_err().is_timeout());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while all.resend.count() == 0 && std::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(send(&all, &mail(), "k").await.0, 200);
    assert_eq!(all.resend.sent_with_key("k"), 1, "it took effect although its client had left");
    all.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_mail_is_answered_as_documented() {
    let all = started().await;
    let many = vec!["a@example.com"; 51];
    let file = |fields: Value| with("attachments", json!([fields]));
    let table = [
        (with("to", json!([])), 422, "validation_error"),
        (with("to", json!(many)), 422, "validation_error"),
        (with("to", json!("undisclosed-recipients:;")), 422, "validation_error"),
        (with("to", json!("jos\u{e9}@example.com")), 422, "validation_error"),
        (with("to", Value::Null), 422, "missing_required_field"),
        (with("cc", json!(["bob"])), 422, "validation_error"),
        (with("reply_to", json!("a b@example.com")), 422, "validation_error"),
        (with("from", json!("a@b@example.com")), 422, "validation_error"),
        (with("subject", Value::Null), 422, "missing_required_field"),
        (with("subject", json!("a\nb")), 422, "validation_error"),
        (with("text", Value::Null), 422, "missing_required_field"),
        (with("headers", json!({ "X-N": 1 })), 422, "validation_error"),
        (with("headers", json!({ "Content-Type": "text/plain" })), 500, "application_error"),
        (with("headers", json!({ "X-A": "a\r\nBcc: b" })), 422, "validation_error"),
        (with("tags", json!([{ "name": "a b", "value": "c" }])), 422, "validation_error"),
        (with("tags", json!(vec![json!({ "name": "a", "value": "b" }); 76])), 422, "validation_error"),
        (file(json!({ "filename": "a.txt" })), 422, "invalid_attachment"),
        (file(json!({ "filename": "a.exe", "content": "QQ==" })), 422, "invalid_attachment"),
        (file(json!({ "filename": "a.txt", "content": "?" })), 422, "invalid_attachment"),
        (
            file(json!({ "filename": "a.png", "content": "QQ==", "content_id": "x".repeat(128) })),
            422,
            "validation_error",
        ),
    ];
    for (body, status, name) in table {
        let (got, answer) = send(&all, &body, "k").await;
        assert_eq!(
            (got, &answer["name"], &answer["statusCode"]),
            (status, &json!(name), &json!(status)),
            "{body}"
        );
    }
    assert_eq!(all.resend.count(), 0);
    let fine = json!({
        "from": "\"Doe, Ann\" <ann@example.com>", "to": "bob@example.net", "cc": ["J\u{f6}rg <j@xn--bcher-kva.example>"],
        "subject": "Gr\u{fc}\u{df}e", "html": "<p>x</p>", "text": "",
        "headers": { "X-A": "1", "In-Reply-To": "<a@b>" }, "tags": [{ "name": "postmeter", "value": "p-1" }],
        "attachments": [{ "filename": "a.csv", "content": "QQ==", "content_type": "text/csv; charset=utf-8" }],
    });
    assert_eq!(send(&all, &fine, "k").await.0, 200, "a refusal is not remembered under its key");
    let mails = all.resend.mails().unwrap();
    assert_eq!(
        mails[0].email.recipients().collect::<Vec<_>>(),
        ["bob@example.net", "j@xn--bcher-kva.example"]
    );
    assert_eq!(mails[0].email.attachments.as_ref().unwrap()[0].octets().unwrap(), b"A");
    assert_eq!(all.resend.sent_by_tag("postmeter").get("p-1"), Some(&1));
    all.stop().await;
}

#[tokio::test]
async fn awkward_attachments_are_accepted_and_arrive_wrong() {
    let all = started().await;
    let stuck = [
        json!({ "content": "QQ==" }),
        json!({ "filename": "data.txt", "content": "QQ==", "content_type": "text/csv" }),
    ];
    for file in stuck {
        let (status, answer) = send(&all, &with("attachments", json!([file])), &file.to_string()).await;
        assert_eq!(status, 200);
        assert!(all.resend.mail(answer["id"].as_str().unwrap()).unwrap().unwrap().email.is_stuck(), "{file}");
    }
    let calendar =
        json!({ "filename": "a.ics", "content": "QQ==", "content_type": "text/calendar; method=REQUEST" });
    let (_, answer) = send(&all, &with("attachments", json!([calendar])), "c").await;
    let mail = all.resend.mail(answer["id"].as_str().unwrap()).unwrap().unwrap();
    assert!(!mail.email.is_stuck());
    assert_eq!(mail.email.attachments.unwrap()[0].octets().unwrap(), b"QQ==", "Base64 that nobody decoded");
    all.stop().await;
}

#[tokio::test]
async fn keys_and_user_agent_decide_who_is_heard() {
    let all = started().await;
    let url = |path: &str| format!("{}{path}", all.resend_url);
    let silent = loopback_client().unwrap().build().unwrap();
    let nameless = silent.post(url("/emails")).bearer_auth(RESEND_API_KEY).json(&mail());
    assert_eq!(answer(nameless).await, (403, json!("error code: 1010")));
    let (status, refused) = answer(client().post(url("/emails")).json(&mail())).await;
    assert_eq!((status, &refused["name"]), (401, &json!("missing_api_key")));
    for bad in [400, 401] {
        all.resend.behave(|manners| manners.bad_key_status = bad);
        let (status, refused) = answer(client().post(url("/emails")).bearer_auth("re_x").json(&mail())).await;
        assert_eq!((status, &refused["message"]), (bad, &json!("API key is invalid")));
    }
    let sending = |request: reqwest::RequestBuilder| answer(request.bearer_auth(RESEND_SENDING_API_KEY));
    assert_eq!(sending(client().post(url("/emails")).json(&mail())).await.0, 200);
    assert_eq!(sending(client().get(url("/domains"))).await.1["name"], "restricted_api_key");
    assert_eq!(answer(resend(&all, Method::GET, "/domains")).await.1["data"][0]["status"], "verified");
    all.resend.behave(|manners| manners.verified_domains = Some(vec!["example.org".to_owned()]));
    let (status, refused) = answer(resend(&all, Method::POST, "/emails").json(&mail())).await;
    assert_eq!(status, 403);
    assert!(refused["message"].as_str().unwrap().contains("domain is not verified"));
    all.stop().await;
}

#[tokio::test]
async fn rate_and_quotas_are_told_and_kept() {
    let clock = Clock::manual("2026-09-01T23:59:58Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    for left in (0..10).rev() {
        let answer = resend(&all, Method::GET, "/domains").send().await.unwrap();
        assert_eq!(answer.headers()["ratelimit-remaining"], left.to_string().as_str());
        assert_eq!(answer.headers()["ratelimit-policy"], "10;w=1");
    }
    let refused = resend(&all, Method::GET, "/domains").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(refused.json::<Value>().await.unwrap()["name"], "rate_limit_exceeded");
    clock.advance(Duration::from_secs(1));
    all.resend.behave(|manners| manners.daily_quota = Some(2));
    assert_eq!(send(&all, &with("cc", json!(["c@example.com"])), "a").await.0, 200, "two recipients");
    assert_eq!(send(&all, &mail(), "b").await.1["name"], "daily_quota_exceeded");
    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&all, &mail(), "b").await.0, 200, "the next day has begun");
    all.resend.behave(|manners| manners.monthly_quota = Some(3));
    assert_eq!(send(&all, &mail(), "c").await.1["name"], "monthly_quota_exceeded");
    all.stop().await;
}

#[tokio::test]
async fn a_batch_is_one_request_and_one_bad_item_refuses_it() {
    let all = started().await;
    let batch = |body: Value| {
        answer(resend(&all, Method::POST, "/emails/batch").header("idempotency-key", "k").json(&body))
    };
    let (status, refused) = batch(json!([mail(), with("to", json!([]))])).await;
    assert_eq!((status, &refused["name"]), (422, &json!("validation_error")));
    let files = with("attachments", json!([{ "filename": "a.txt", "content": "QQ==" }]));
    assert_eq!(batch(json!([files])).await.0, 422);
    assert_eq!(batch(json!([])).await.0, 422);
    assert_eq!(all.resend.count(), 0);
    let (status, sent) = batch(json!([mail(), with("subject", json!("Two"))])).await;
    assert_eq!(status, 200);
    assert_eq!(batch(json!([mail(), with("subject", json!("Two"))])).await.1, sent);
    let subjects: Vec<_> =
        all.resend.mails().unwrap().into_iter().map(|mail| (mail.id, mail.email.subject)).collect();
    assert_eq!(subjects.len(), 2);
    assert_eq!(sent["data"][1]["id"], json!(subjects[1].0));
    assert_eq!(subjects[1].1.as_deref(), Some("Two"));
    assert_eq!(send(&all, &mail(), "k").await.0, 200, "keys belong to their endpoint");
    all.stop().await;
}

#[tokio::test]
async fn a_batch_has_the_limits_of_one_request_and_its_mails_those_of_each() {
    let clock = Clock::manual("2026-09-01T12:00:00Z".parse().unwrap());
    let all = StandIns::start(Settings { clock: clock.clone(), ..Settings::default() }).await.unwrap();
    let batch = |key: &str, body: Vec<Value>| {
        answer(resend(&all, Method::POST, "/emails/batch").header("idempotency-key", key).json(&body))
    };
    assert_eq!(batch("k", vec![mail(); 101]).await.1["name"], "validation_error");
    all.resend.behave(|manners| manners.verified_domains = Some(vec!["example.com".to_owned()]));
    let (status, refused) = batch("k", vec![mail(), with("from", json!("a@example.org"))]).await;
    assert_eq!((status, &refused["name"]), (403, &json!("validation_error")));
    assert!(refused["message"].as_str().unwrap().contains("domain is not verified"));
    all.resend.behave(|manners| manners.daily_quota = Some(100));
    let two = with("cc", json!(["cid@example.net"]));
    let mut many = vec![mail(); 99];
    many.push(two);
    assert_eq!(batch("k", many).await.1["name"], "daily_quota_exceeded", "each recipient counts");
    assert_eq!(all.resend.count(), 0);
    let (status, sent) = batch("k", vec![mail(); 100]).await;
    assert_eq!((status, sent["data"].as_array().map(Vec::len)), (200, Some(100)));
    all.resend.behave(|manners| manners.daily_quota = None);
    // Four requests so far, whatever was in them.
    for _ in 0..6 {
        assert_eq!(batch("k", vec![mail(); 100]).await.0, 200);
    }
    assert_eq!(batch("k", vec![mail(); 100]).await.1["name"], "rate_limit_exceeded");
    clock.advance(Duration::from_secs(1));
    assert_eq!(batch("k", vec![mail()]).await.1["name"], "invalid_idempotent_request");
    assert_eq!((all.resend.count(), all.resend.sent_with_key("k")), (100, 1));
    all.stop().await;
}

#[tokio::test]
async fn each_mail_of_a_batch_is_told_of_with_its_own_tags() {
    let all = started().await;
    let (url, mut inbox) = endpoint(0).await;
    all.resend.deliver_webhooks_to(&url);
    let tagged = |part: &str| with("tags", json!([{ "name": "postmeter", "value": part }]));
    let body = json!([tagged("m1-0"), tagged("m2-0")]);
    let (_, sent) = answer(resend(&all, Method::POST, "/emails/batch").json(&body)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (_, event, body) = told(&mut inbox).await;
        let data = &body["data"];
        seen.push((data["tags"]["postmeter"].clone(), data["email_id"].clone(), event));
    }
    seen.sort_by_key(|(part, _, event)| (part.to_string(), event.contains("delivered")));
    let told = |part: &str, nth: usize, event: &str| {
        (json!(part), sent["data"][nth]["id"].clone(), event.to_owned())
    };
    let wanted = [
        told("m1-0", 0, "email.sent"),
        told("m1-0", 0, "email.delivered"),
        told("m2-0", 1, "email.sent"),
        told("m2-0", 1, "email.delivered"),
    ];
    assert_eq!(seen, wanted);
    all.stop().await;
}

#[tokio::test]
async fn mails_and_keys_are_there_after_a_restart() {
    let settings = Settings { data_dir: Some(scratch("resend")), ..Settings::default() };
    let all = StandIns::start(settings.clone()).await.unwrap();
    let (_, first) = send(&all, &mail(), "k").await;
    let before = all.resend.mails().unwrap();
    all.stop().await;
    let all = StandIns::start(settings).await.unwrap();
    assert_eq!(all.resend.mails().unwrap(), before);
    assert_eq!(send(&all, &mail(), "k").await.1, first);
    assert_eq!(all.resend.sent_with_key("k"), 1);
    let (status, read) =
        answer(resend(&all, Method::GET, &format!("/emails/{}", first["id"].as_str().unwrap()))).await;
    assert_eq!((status, &read["subject"], &read["last_event"]), (200, &json!("Hi"), &json!("delivered")));
    assert_eq!(answer(resend(&all, Method::GET, "/emails/none")).await.0, 404);
    all.stop().await;
}

async fn told(inbox: &mut Deliveries) -> (String, String, Value) {
    delivered(inbox, HeaderNames::Svix, RESEND_WEBHOOK_SECRET).await
}

#[tokio::test]
async fn what_becomes_of_a_mail_is_told_in_signed_webhooks() {
    let all = started().await;
    let (url, mut inbox) = endpoint(0).await;
    all.resend.deliver_webhooks_to(&url);
    let to = json!(["Bob <bob@example.net>", "bounced+x@resend.dev", "complained@resend.dev"]);
    let mut mail = with("to", to);
    mail["tags"] = json!([{ "name": "postmeter", "value": "0190-0" }]);
    mail["headers"] = json!({ "X-A": "1" });
    let (_, sent) = send(&all, &mail, "k").await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (_, event, body) = told(&mut inbox).await;
        assert_eq!(
            (&body["data"]["email_id"], &body["data"]["tags"]["postmeter"]),
            (&sent["id"], &json!("0190-0"))
        );
        assert_eq!(body["data"]["headers"], json!([{ "name": "X-A", "value": "1" }]));
        seen.push((event, body["data"]["to"].clone(), body["data"]["bounce"]["type"].clone()));
    }
    let event = |name: &str, to: Value, kind: Value| (name.to_owned(), to, kind);
    let all_of_them = json!(["bob@example.net", "bounced+x@resend.dev", "complained@resend.dev"]);
    assert_eq!(
        seen,
        [
            event("email.sent", all_of_them, Value::Null),
            event("email.delivered", json!(["bob@example.net"]), Value::Null),
            event("email.bounced", json!(["bounced+x@resend.dev"]), json!("Permanent")),
            event("email.delivered", json!(["complained@resend.dev"]), Value::Null),
            event("email.complained", json!(["complained@resend.dev"]), Value::Null),
        ]
    );
    assert_eq!(send(&all, &mail, "k").await.0, 200, "the same key tells nothing again");
    let mail = all.resend.mails().unwrap().pop().unwrap();
    all.resend.tell(&mail, &["bob@example.net"], &News::hard_bounce());
    assert_eq!(told(&mut inbox).await.1, "email.bounced");
    all.stop().await;
}

#[tokio::test]
async fn mail_bounces_on_demand() {
    let all = started().await;
    let (url, mut inbox) = endpoint(0).await;
    all.resend.deliver_webhooks_to(&url);
    all.resend.behave(|manners| {
        manners.bouncing = vec!["Bob@example.net".to_owned()];
        manners.bounce_next = 1;
    });
    for (to, want) in [
        ("carl@example.net", "email.bounced"),
        ("carl@example.net", "email.delivered"),
        ("Bob <bob@example.net>", "email.bounced"),
        ("dan@example.net", "email.delivered"),
    ] {
        send(&all, &with("to", json!([to])), &format!("{to} {want}")).await;
        assert_eq!(told(&mut inbox).await.1, "email.sent");
        assert_eq!(told(&mut inbox).await.1, want, "{to}");
    }
    all.stop().await;
}

#[tokio::test]
async fn a_webhook_that_is_not_taken_comes_again_under_its_id_and_may_come_twice() {
    let all = started().await;
    let (url, mut inbox) = endpoint(1).await;
    all.resend.behave(|manners| manners.event_retries_ms = vec![1]);
    all.resend.deliver_webhooks_to(&url);
    send(&all, &with("to", json!("suppressed@resend.dev")), "k").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (id, event, _) = told(&mut inbox).await;
        seen.push((event, id));
    }
    seen.sort();
    assert_eq!(
        seen.iter().map(|(event, _)| event.as_str()).collect::<Vec<_>>(),
        ["email.sent", "email.sent", "email.suppressed"]
    );
    assert_eq!(seen[0].1, seen[1].1);
    all.resend.behave(|manners| manners.duplicate_events = true);
    send(&all, &mail(), "k2").await;
    let (first, again) = (told(&mut inbox).await, told(&mut inbox).await);
    assert_eq!((first.1.as_str(), first.0), ("email.sent", again.0));
    all.stop().await;
}
