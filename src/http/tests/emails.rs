//! `/emails`, in the form of Resend's API.

use axum::http::Method;
use serde_json::json;

use super::*;

const EMAIL: &str = r#"{"from":"Ann <ann@example.com>","to":"x@example.net","subject":"s","text":"t"}"#;

fn send(body: &str) -> Request<Body> {
    bearer(json_of("/emails", body), "ann-secret")
}

fn send_batch(emails: &[&str]) -> Request<Body> {
    let body = format!("[{}]", emails.join(","));
    bearer(json_of("/emails/batch", &body), "ann-secret")
}

fn under(request: Request<Body>, key: &str) -> Request<Body> {
    with(request, "idempotency-key", key)
}

fn permissive(request: Request<Body>) -> Request<Body> {
    with(request, "x-batch-validation", "permissive")
}

fn show(id: &str) -> Request<Body> {
    bearer(get(&format!("/emails/{id}")), "ann-secret")
}

/// An email with these fields in place of its own, or beside them.
fn email(fields: Value) -> String {
    let mut email: Value = serde_json::from_str(EMAIL).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        email[name] = value.clone();
    }
    email.to_string()
}

impl Answer {
    /// Asserts an error in Resend's form.
    #[track_caller]
    fn is_error(&self, status: u16, name: &str, words: &str) {
        let json = self.json();
        let got = (self.status, json["statusCode"].as_u64(), json["name"].as_str());
        assert_eq!(got, (status, Some(status.into()), Some(name)), "{self:?}");
        assert!(json["message"].as_str().unwrap().contains(words), "{self:?}");
        assert!(json.get("error").is_none() && json.get("code").is_none(), "{self:?}");
    }

    fn ids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{self:?}");
        let json = self.json();
        let data = json["data"].as_array().unwrap();
        data.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Town {
    async fn has_credits(&self, credits: u64) {
        let read = self.store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
        let held = self.call(bearer(get("/credits/cus_ann"), "ann-secret")).await.json()["held"].as_i64();
        self.store
            .apply_balance(&read, i64::try_from(credits).unwrap() + held.unwrap(), self.clock.now())
            .await
            .unwrap();
    }

    /// What was accepted, notices aside.
    async fn accepted(&self) -> usize {
        let messages = self.store.messages(None, None, 99).await.unwrap();
        messages.iter().filter(|message| message.kind == "submission").count()
    }
}

#[tokio::test]
async fn an_email_is_taken_in_and_shown_as_resend_shows_one() {
    let town = Town::new().await;
    let body = email(json!({
        "to": ["Bob <bob@example.net>"], "cc": "c@example.net", "bcc": ["h@example.net"], "reply_to": "r@example.com",
        "html": "<p>", "text": "", "headers": { "X-Entity-Ref-ID": "7" },
        "tags": [{ "name": "category", "value": "welcome" }],
        "attachments": [{ "filename": "a.bin", "content": [0, 255, 16], "contentType": "application/x-a" }],
        "scheduled_at": null,
    }));
    let answer = town.call(send(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.json(), json!({ "id": id }));
    let shown = town.call(show(&id)).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let mut shown = shown.json();
    let created_at = shown["created_at"].take();
    assert!(created_at.as_str().unwrap().ends_with("+00"), "{created_at}");
    let want = json!({
        "object": "email", "id": id, "from": "\"Ann\" <ann@example.com>", "to": ["\"Bob\" <bob@example.net>"],
        "cc": ["c@example.net"], "bcc": ["h@example.net"], "reply_to": ["r@example.com"], "subject": "s",
        "html": null, "text": null, "created_at": null, "last_event": "queued", "scheduled_at": null
    });
    assert_eq!(shown, want);
    let story = town.call(basic(get(&format!("/messages/{id}")), "ann")).await.json();
    assert!(story["notes"].to_string().contains("the tags category are not kept"), "{story}");
    let credits = town.call(basic(get("/credits/cus_ann"), "ann")).await.json();
    assert_eq!((&credits["available"], &credits["held"]), (&29.into(), &1.into()));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_in_resends_form() {
    let town = Town::new().await;
    let large = email(json!({ "text": "x".repeat(200_000) }));
    let octets = email(json!({ "attachments": [{ "filename": "a", "content": vec![7; 50_000] }] }));
    let table: [(&str, u16, &str, &str); 13] = [
        ("{", 400, "validation_error", "JSON"),
        ("[]", 422, "validation_error", "`email` field: must be an object"),
        (&email(json!({ "from": null })), 422, "missing_required_field", "Missing `from` field."),
        (&email(json!({ "to": [] })), 422, "missing_required_field", "Missing `to` field."),
        (&email(json!({ "subject": null })), 422, "missing_required_field", "Missing `subject` field."),
        (&email(json!({ "text": null })), 422, "missing_required_field", "Missing `html` or `text` field."),
        (&email(json!({ "to": "nobody" })), 422, "validation_error", "Invalid `to` field"),
        (
            &email(json!({ "scheduled_at": "in 1 h" })),
            422,
            "validation_error",
            "`scheduled_at` field: is not",
        ),
        (&email(json!({ "attachments": [{ "path": "https://x" }] })), 422, "invalid_attachment", "path"),
        (
            &email(json!({ "from": "eve@example.com" })),
            403,
            "validation_error",
            "eve@example.com is not a sender",
        ),
        (&email(json!({ "to": ["a@x.y", "b@x.y", "c@x.y", "d@x.y"] })), 422, "validation_error", "at most 3"),
        (&email(json!({ "to": "grüße@example.net" })), 422, "validation_error", "grüße"),
        (&large, 413, "validation_error", "octets"),
    ];
    for (body, status, name, words) in table {
        town.call(send(body)).await.is_error(status, name, words);
    }
    assert_eq!(town.accepted().await, 0);
    assert_eq!(town.call(send(&octets)).await.status, 200, "a file may be a list of numbers");
    let plain = with(send(EMAIL), "content-type", "text/plain");
    town.call(plain).await.is_error(415, "validation_error", "Content-Type");
}

#[tokio::test]
async fn who_may_not_and_what_is_not_there_is_told_in_resends_form_too() {
    let town = Town::new().await;
    town.call(json_of("/emails", EMAIL)).await.is_error(401, "missing_api_key", "Authorization");
    let wrong = town.call(bearer(json_of("/emails", EMAIL), "wrong")).await;
    wrong.is_error(401, "validation_error", "API key is invalid");
    assert!(!wrong.header("www-authenticate").is_empty());
    let operator = bearer(json_of("/emails", EMAIL), ADMIN_TOKEN);
    town.call(operator).await.is_error(422, "validation_error", "by a customer");
    let other = |method: Method, path: &str| {
        bearer(Request::builder().method(method).uri(path).body(Body::empty()).unwrap(), "ann-secret")
    };
    let table = [
        (Method::GET, "/emails", 405, "method_not_allowed"),
        (Method::GET, "/emails/batch", 405, "method_not_allowed"),
        (Method::PATCH, "/emails/0190163d-8694-739b-aea5-966c26f8ad91", 405, "method_not_allowed"),
        (Method::POST, "/emails/", 404, "not_found"),
        (Method::POST, "/emails/0190163d-8694-739b-aea5-966c26f8ad91/cancel", 404, "not_found"),
        (Method::GET, "/emails/0190163d-8694-739b-aea5-966c26f8ad91/attachments/1", 404, "not_found"),
        (Method::GET, "/emails/0190163d-8694-739b-aea5-966c26f8ad91", 404, "not_found"),
        (Method::GET, "/emails/metrics", 422, "validation_error"),
        (Method::GET, "/emails/%FF", 422, "validation_error"),
    ];
    for (method, path, status, name) in table {
        let answer = town.call(other(method, path)).await;
        answer.is_error(status, name, "");
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{path}");
    }
    assert_eq!(town.call(get("/email")).await.json()["code"], "not_found", "elsewhere nothing has changed");
    town.store.suspend(&customer("ann"), "spam").await.unwrap();
    town.call(send(EMAIL)).await.is_error(403, "suspended_api_key", "spam");
}

#[tokio::test]
async fn p10_an_email_is_shown_to_its_customer_and_the_operator() {
    let town = Town::new().await;
    let id = town.call(send(EMAIL)).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/emails/{id}");
    assert_eq!(town.call(bearer(get(&path), ADMIN_TOKEN)).await.status, 200);
    town.call(get(&path)).await.is_error(401, "missing_api_key", "");
    town.call(bearer(get(&path), "bob-secret")).await.is_error(404, "not_found", "no such email");
}

#[tokio::test]
async fn p3_a_retry_is_the_same_email_at_either_route() {
    let town = Town::new().await;
    let first = town.call(under(send(EMAIL), "k")).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(town.call(under(send(EMAIL), "k")).await.body, first.body);
    let at_send = under(bearer(json_of("/send", EMAIL), "ann-secret"), "k");
    assert_eq!(town.call(at_send).await.body, first.body);
    let other = under(send(&email(json!({ "text": "u" }))), "k");
    town.call(other).await.is_error(409, "invalid_idempotent_request", "another message");
    for key in ["", &"k".repeat(257)] {
        town.call(under(send(EMAIL), key)).await.is_error(400, "invalid_idempotency_key", "1 to 256");
    }
    assert_eq!(town.accepted().await, 1);
}

#[tokio::test]
async fn p2_without_credit_it_is_a_quota_that_is_used_up() {
    let town = Town::new().await;
    town.has_credits(1).await;
    let first = town.call(under(send(EMAIL), "k")).await;
    assert_eq!(first.status, 200, "{first:?}");
    for refused in [send(EMAIL), send_batch(&[EMAIL]), permissive(send_batch(&[EMAIL, EMAIL]))] {
        let answer = town.call(refused).await;
        let words = "No email credits remaining. Buy a top-up pack or upgrade your plan.";
        answer.is_error(429, "monthly_quota_exceeded", words);
        assert_eq!(answer.header("retry-after"), "", "to wait helps nothing");
    }
    assert_eq!(town.call(under(send(EMAIL), "k")).await.body, first.body);
}

#[tokio::test]
async fn a_batch_is_as_many_emails_in_their_order() {
    let town = Town::new().await;
    let emails: Vec<String> = (0..20).map(|n| email(json!({ "subject": n.to_string() }))).collect();
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    let ids = town.call(with(send_batch(&emails), "x-batch-validation", "strict")).await.ids();
    assert_eq!(ids.len(), 20);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(town.call(show(id)).await.json()["subject"], n.to_string());
    }
    let credits = town.call(basic(get("/credits/cus_ann"), "ann")).await.json();
    assert_eq!((&credits["available"], &credits["held"]), (&10.into(), &20.into()));
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused() {
    let town = Town::new().await;
    let table = [
        ("[]".to_owned(), "1 to 100 emails"),
        (format!("[{}]", vec![EMAIL; 101].join(",")), "1 to 100 emails"),
        (EMAIL.to_owned(), "must be a list"),
    ];
    for (body, words) in table {
        let request = bearer(json_of("/emails/batch", &body), "ann-secret");
        town.call(request).await.is_error(422, "validation_error", words);
    }
    let lenient = with(send_batch(&[EMAIL]), "x-batch-validation", "lenient");
    town.call(lenient).await.is_error(422, "validation_error", "`strict` or `permissive`");
    town.call(under(send_batch(&[EMAIL]), "")).await.is_error(400, "invalid_idempotency_key", "");
    assert_eq!(town.accepted().await, 0);
}

/// What each email of a batch may be refused for, before anything is accepted.
#[tokio::test]
async fn p1_of_a_strict_batch_nothing_is_sent_where_one_email_is_wrong() {
    let town = Town::new().await;
    let now = town.clock.now();
    let sender = SenderPattern::parse("ann@example.com").unwrap();
    town.store.allow_sender(&customer("ann"), &sender, now).await.unwrap();
    let suppressed = json_of("/suppressions", r#"{"address":"no@example.net"}"#);
    assert!(town.call(basic(suppressed, "ann")).await.status < 300);
    let file = json!([{ "filename": "a.bin", "content": "QQ==" }]);
    let table = [
        (email(json!({ "to": null })), 422, "missing_required_field", "emails[1]: Missing `to` field."),
        (email(json!({ "attachments": file })), 422, "validation_error", "in a batch"),
        (email(json!({ "from": "eve@example.com" })), 403, "validation_error", "emails[1]: eve@example.com"),
        (
            email(json!({ "to": "no@example.net" })),
            422,
            "validation_error",
            "emails[1]: no@example.net is on",
        ),
        (email(json!({ "to": "grüße@example.net" })), 422, "validation_error", "emails[1]: Mail to"),
        ("7".to_owned(), 422, "validation_error", "emails[1]: Invalid `email` field"),
    ];
    for (wrong, status, name, words) in table {
        town.call(send_batch(&[EMAIL, &wrong, EMAIL])).await.is_error(status, name, words);
        let answer = town.call(under(send_batch(&[EMAIL, &wrong]), "k")).await;
        answer.is_error(status, name, "");
    }
    assert_eq!(town.accepted().await, 0);
    assert_eq!(town.call(under(send_batch(&[EMAIL]), "k")).await.status, 200, "a refusal leaves no trace");
}

#[tokio::test]
async fn p2_a_strict_batch_is_covered_as_a_whole_or_not_sent() {
    let town = Town::new().await;
    town.has_credits(2).await;
    let answer = town.call(send_batch(&[EMAIL, EMAIL, EMAIL])).await;
    answer.is_error(429, "monthly_quota_exceeded", "do not cover all 3 emails of this batch, so none");
    assert_eq!(town.accepted().await, 0);
    let two = town.call(under(send_batch(&[EMAIL, EMAIL]), "k")).await.ids();
    assert_eq!(
        town.call(under(send_batch(&[EMAIL, EMAIL]), "k")).await.ids(),
        two,
        "P3: with no credit left"
    );
    let credits = town.call(basic(get("/credits/cus_ann"), "ann")).await.json();
    assert_eq!((&credits["available"], &credits["held"]), (&0.into(), &2.into()));
}

#[tokio::test]
async fn a_permissive_batch_lists_what_is_not_sent() {
    let town = Town::new().await;
    town.has_credits(2).await;
    let wrong = email(json!({ "to": null }));
    let answer = town.call(permissive(send_batch(&[&wrong, EMAIL, EMAIL, EMAIL]))).await;
    assert_eq!(answer.ids().len(), 2);
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0], json!({ "index": 0, "message": "Missing `to` field." }));
    assert!(errors[1]["message"].as_str().unwrap().starts_with("No email credits remaining."), "{errors:?}");
    let none = town.call(permissive(send_batch(&[&wrong]))).await;
    assert_eq!(none.json(), json!({ "data": [], "errors": [errors[0]] }));
    town.has_credits(1).await;
    let all = town.call(permissive(send_batch(&[EMAIL]))).await;
    assert_eq!((all.ids().len(), &all.json()["errors"]), (1, &json!([])));
}

#[tokio::test]
async fn p3_a_batch_that_is_retried_gets_the_same_ids_and_sends_nothing_twice() {
    let town = Town::new().await;
    let other = email(json!({ "subject": "u" }));
    let ids = town.call(under(send_batch(&[EMAIL, EMAIL, &other]), "k")).await.ids();
    assert_eq!(town.call(under(send_batch(&[EMAIL, EMAIL, &other]), "k")).await.ids(), ids);
    assert_eq!(town.accepted().await, 3);
    for changed in [vec![EMAIL, EMAIL], vec![EMAIL, EMAIL, EMAIL], vec![EMAIL, EMAIL, &other, &other]] {
        let answer = town.call(under(send_batch(&changed), "k")).await;
        answer.is_error(409, "invalid_idempotent_request", "another");
    }
    let alone = town.call(under(send(EMAIL), "k")).await;
    assert_eq!(alone.status, 200, "a key at the other route is another one");
    // Of a batch that was taken in part, a retry sends the rest.
    town.has_credits(1).await;
    let part = town.call(permissive(under(send_batch(&[EMAIL, &other]), "p"))).await;
    town.has_credits(1).await;
    let rest = town.call(under(send_batch(&[EMAIL, &other]), "p")).await.ids();
    assert_eq!((part.ids().len(), rest.len()), (1, 2));
    assert!(rest.contains(&part.ids()[0]), "{rest:?} {part:?}");
    assert_eq!(town.accepted().await, 6);
}

#[tokio::test]
async fn p3_one_batch_twice_at_once_with_the_last_credits_is_one() {
    let town = Town::new().await;
    town.has_credits(3).await;
    let batch = || under(send_batch(&[EMAIL, EMAIL, EMAIL]), "k");
    let (one, two, three) = tokio::join!(town.call(batch()), town.call(batch()), town.call(batch()));
    assert_eq!((one.ids(), two.ids()), (two.ids(), three.ids()));
    assert_eq!(town.accepted().await, 3);
}

/// Whoever loses the race for the last credits is told what was accepted of theirs.
#[tokio::test]
async fn p1_what_is_accepted_of_batches_that_race_is_what_their_clients_are_told() {
    let town = Town::new().await;
    town.has_credits(7).await;
    let batch = || send_batch(&[EMAIL, EMAIL, EMAIL]);
    let (one, two, three) = tokio::join!(town.call(batch()), town.call(batch()), town.call(batch()));
    let told = [one, two, three].map(|answer| match answer.status {
        200 => answer.ids().len(),
        _ => {
            answer.is_error(429, "monthly_quota_exceeded", "of this batch");
            answer.json()["accepted"].as_array().map_or(0, Vec::len)
        }
    });
    let sum: usize = told.iter().sum();
    assert_eq!(sum, town.accepted().await, "{told:?}");
    assert!((6..=7).contains(&sum), "{told:?}");
}
