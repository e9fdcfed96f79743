//! Programs that were written for Resend, with its own SDK: another base URL and another
//! key, and they send through here and pay with credits.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::client::node;
use crate::harness::contract;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, until};

/// What the SDK is told to do, and what it gave, one by one. `None`: this machine lacks it.
fn sdk(meter: &Meter, api_key: &str, calls: &[(&str, Value)]) -> Option<Vec<Value>> {
    let base_url = format!("http://{}", meter.process().http);
    let calls: Vec<Value> =
        calls.iter().map(|(call, arguments)| json!({ "call": call, "arguments": arguments })).collect();
    let given = node("resend", "resend_sdk.js", &[&base_url, api_key], json!(calls).to_string().as_bytes())?;
    let given: Vec<Value> = serde_json::from_str(&given).unwrap_or_else(|error| panic!("{error}: {given}"));
    assert_eq!(given.len(), calls.len());
    Some(given)
}

/// An email as users of the SDK write it.
fn email(subject: &str) -> Value {
    json!({ "from": "Ann <ann@example.com>", "to": ["bob@example.net"], "subject": subject, "text": "t" })
}

/// What a call gave, of which Resend says that it is of this kind.
#[track_caller]
fn data<'a>(given: &'a Value, schema: &str) -> &'a Value {
    assert!(given["error"].is_null(), "{given}");
    assert_is(schema, &given["data"]);
    &given["data"]
}

/// What is null is absent in the description; the SDK's own types say that it may be null.
#[track_caller]
fn assert_is(schema: &str, value: &Value) {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    assert_eq!(contract::unlike(schema, &value), None);
}

/// The error that a call gave.
#[track_caller]
fn is_refused(given: &Value, status: u16, name: &str, words: &str) {
    assert!(given["data"].is_null(), "{given}");
    let error = &given["error"];
    assert_eq!((&error["statusCode"], &error["name"]), (&status.into(), &name.into()), "{given}");
    assert!(error["message"].as_str().unwrap().contains(words), "{given}");
}

#[test]
fn p3_resends_sdk_sends_and_retries_and_sees_what_became_of_it() {
    let meter = Meter::resend().start();
    let mut full = email("full");
    full["html"] = "<img src=\"cid:logo\">".into();
    full["cc"] = "c@example.net".into();
    full["bcc"] = "h@example.net".into();
    full["replyTo"] = "r@example.com".into();
    full["headers"] = json!({ "X-Entity-Ref-ID": "7" });
    full["tags"] = json!([{ "name": "category", "value": "welcome" }]);
    full["attachments"] = json!([
        { "filename": "a.pdf", "content": { "octets": "JVBERgD/" } },
        { "filename": "l.png", "content": "UE5H", "contentType": "image/png", "contentId": "logo" },
    ]);
    let key = json!({ "idempotencyKey": "order 17" });
    let calls = [
        ("emails.send", json!([full, key])),
        ("emails.send", json!([full, key])),
        ("emails.send", json!([email("u"), key])),
    ];
    let Some(given) = sdk(&meter, &meter.credential.secret, &calls) else { return };
    let id = data(&given[0], "SendEmailResponse")["id"].clone();
    assert_eq!(data(&given[1], "SendEmailResponse")["id"], id);
    is_refused(&given[2], 409, "invalid_idempotent_request", "another message");

    let mail = until("the mail at Resend", || meter.mails().first().cloned());
    let left = serde_json::to_value(&mail.email).unwrap();
    assert_eq!((&left["subject"], &left["html"]), (&full["subject"], &full["html"]));
    assert_eq!((&left["bcc"], &left["text"]), (&json!(["h@example.net"]), &"t".into()), "P5");
    assert_eq!(left["headers"]["X-Entity-Ref-ID"], "7");
    let files = left["attachments"].as_array().unwrap();
    let file = |name: &str| files.iter().find(|file| file["filename"] == name).unwrap();
    assert_eq!(file("a.pdf")["content"], "JVBERgD/");
    assert_eq!((&file("l.png")["content"], &file("l.png")["content_id"]), (&"UE5H".into(), &"logo".into()));

    meter.drain();
    assert_eq!(meter.mails().len(), 1, "P3");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "P3");
    let given = sdk(&meter, &meter.credential.secret, &[("emails.get", json!([id]))]).unwrap();
    let shown = data(&given[0], "Email");
    assert_eq!((&shown["id"], &shown["object"], &shown["subject"]), (&id, &"email".into(), &"full".into()));
    assert_eq!((&shown["to"], &shown["cc"]), (&json!(["bob@example.net"]), &json!(["c@example.net"])));
    assert_eq!((&shown["bcc"], &shown["reply_to"]), (&json!(["h@example.net"]), &json!(["r@example.com"])));
    assert_eq!((&shown["from"], &shown["html"]), (&"\"Ann\" <ann@example.com>".into(), &Value::Null));
    assert!(["sent", "delivered"].contains(&shown["last_event"].as_str().unwrap()), "{shown}");
}

#[test]
fn p3_resends_sdk_sends_batches() {
    let meter = Meter::resend().start();
    let batch = json!([email("one"), email("two")]);
    let mut wrong = email("three");
    wrong["to"] = "nobody".into();
    let key = json!({ "idempotencyKey": "k" });
    let calls = [
        ("batch.send", json!([batch, key])),
        ("batch.send", json!([batch, key])),
        ("batch.send", json!([[email("three"), wrong]])),
        ("batch.send", json!([[wrong, email("four")], { "batchValidation": "permissive" }])),
        ("batch.send", json!([vec![email("five"); 8]])),
    ];
    let Some(given) = sdk(&meter, &meter.credential.secret, &calls) else { return };
    let first = data(&given[0], "CreateBatchEmailsResponse");
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    assert_eq!(data(&given[1], "CreateBatchEmailsResponse"), first);
    is_refused(&given[2], 422, "validation_error", "emails[1]: Invalid `to` field");
    assert_eq!(given[3]["data"]["data"].as_array().unwrap().len(), 1, "{}", given[3]);
    let errors = given[3]["data"]["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["index"]), (1, &0.into()));
    assert!(errors[0]["message"].as_str().unwrap().starts_with("Invalid `to` field"), "{errors:?}");
    is_refused(&given[4], 429, "monthly_quota_exceeded", "all 8 emails");
    meter.drain();
    let mut subjects: Vec<String> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    subjects.sort();
    assert_eq!(subjects, ["four", "one", "two"], "P1, P3");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn p2_p9_resends_sdk_understands_why_it_is_refused() {
    let meter = Meter::resend().credits(1).start();
    let with = |name: &str, value: Value| {
        let mut email = email("refused");
        email[name] = value;
        ("emails.send", json!([email]))
    };
    let unknown = "0190163d-8694-739b-aea5-966c26f8ad91";
    let calls = [
        with("from", "eve@example.org".into()),
        with("from", Value::Null),
        with("scheduledAt", "in 1 min".into()),
        with("attachments", json!([{ "filename": "a", "path": "https://example.com/a" }])),
        ("emails.get", json!([unknown])),
        ("emails.get", json!(["x"])),
        ("emails.cancel", json!([unknown])),
        ("emails.list", json!([])),
        with("subject", "the last one".into()),
        with("subject", "one too many".into()),
    ];
    let Some(given) = sdk(&meter, &meter.credential.secret, &calls) else { return };
    let table = [
        (403, "validation_error", "eve@example.org is not a sender"),
        (422, "missing_required_field", "Missing `from` field."),
        (422, "validation_error", "`scheduled_at` field: is not supported"),
        (422, "invalid_attachment", "`attachments[0].path` field: is not supported"),
        (404, "not_found", "There is no such email."),
        (422, "validation_error", "The `id` must be a valid UUID."),
        (404, "not_found", "nothing here"),
        (405, "method_not_allowed", "another method"),
    ];
    for ((status, name, words), given) in table.into_iter().zip(&given) {
        is_refused(given, status, name, words);
    }
    data(&given[8], "SendEmailResponse");
    let words = "No email credits remaining. Buy a top-up pack or upgrade your plan.";
    is_refused(&given[9], 429, "monthly_quota_exceeded", words);
    let given = sdk(&meter, "re_wrong", &[("emails.send", json!([email("x")]))]).unwrap();
    is_refused(&given[0], 401, "validation_error", "API key is invalid");
    meter.drain();
    assert_eq!(meter.mails().len(), 1, "P2");
}

/// Of mail that left over SMTP no header is kept, so the log says who it was for.
#[test]
fn an_email_that_left_over_smtp_is_shown_by_the_log() {
    let meter = Meter::smtp().start();
    let as_customer = |method, path: &str| {
        meter.request(method, path).bearer_auth(&meter.credential.secret).header("user-agent", "x")
    };
    let request = json!({
        "from": "ann@example.com", "to": "bob@example.net", "bcc": "h@example.net", "subject": "s", "text": "t"
    });
    let sent = ask(as_customer(Method::POST, "/emails").json(&request));
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_is("SendEmailResponse", &sent.json());
    let path = format!("/emails/{}", sent.json()["id"].as_str().unwrap());
    meter.drain();
    let shown = ask(as_customer(Method::GET, &path)).json();
    assert_is("Email", &shown);
    assert_eq!((&shown["last_event"], &shown["from"]), (&"sent".into(), &"ann@example.com".into()));
    assert_eq!((&shown["to"], &shown["bcc"]), (&json!(["bob@example.net", "h@example.net"]), &Value::Null));
    assert_eq!(meter.sink().mails().len(), 1);
}
