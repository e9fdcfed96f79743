use serde_json::{Map, Value, json};

use super::codes::{ALL, Code};
use super::*;
use crate::domain::address::Mailbox;
use crate::domain::caps::{Reached, Span};
use crate::domain::credits::Credits;
use crate::domain::decision::{Choice, NotNow};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::refusal::Refusal;
use crate::domain::suppression::{Cause, Why};
use crate::http::emails::face_of;
use crate::http::error::HttpError;
use crate::mime::compose::{Composition, InvalidField};
use crate::proof::NotDone;

fn value() -> Value {
    serde_json::to_value(document("https://meter.example")).unwrap()
}

/// Everything below a value.
fn walk<'a>(value: &'a Value, see: &mut dyn FnMut(&'a str, &'a Value)) {
    let children: Vec<(&str, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("", item)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        see(name, child);
        walk(child, see);
    }
}

fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(m, o)| (path, m, o)))
        .collect()
}

#[test]
fn the_document_is_whole() {
    let document = value();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"][0]["url"], "https://meter.example");
    walk(&document, &mut |name, value| {
        if name == "$ref" {
            let pointer = value.as_str().unwrap().trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
        }
    });
    let mut ids: Vec<&str> = Vec::new();
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(!ids.contains(&id), "{id} stands for one operation");
        ids.push(id);
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}");
        let named: Vec<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let wanted: Vec<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(named, wanted, "{method} {path}");
    }
    let shown =
        |schema: &str, field: &str| document["components"]["schemas"][schema]["properties"][field].clone();
    let moment = shown("MessageLog", "accepted_at");
    assert_eq!((&moment["type"], &moment["format"]), (&json!("string"), &json!("date-time")));
    assert_eq!(document["components"]["schemas"]["NewMessage"]["additionalProperties"], false);
    for name in ["credential", "bearer"] {
        assert_eq!(document["components"]["securitySchemes"][name]["type"], "http");
    }
}

#[test]
fn types_with_the_same_name_are_the_same_type() {
    let mut known: Map<String, Value> = Map::new();
    for operation in routes::all() {
        let (path, _, _, schemas) = operation.into_parts();
        for (name, schema) in schemas {
            let schema = serde_json::to_value(schema).unwrap();
            assert_eq!(known.entry(name.clone()).or_insert(schema.clone()), &schema, "{name} of {path}");
        }
    }
}

/// An error of each kind that the document may name.
fn errors() -> Vec<HttpError> {
    use HttpError as E;
    let mailbox = Mailbox::parse("a@b.example").unwrap();
    let why = Why { cause: Cause::Manual, detail: None, added_at: jiff::Timestamp::UNIX_EPOCH };
    let field = |field: &str, problem: &str| {
        E::InvalidField(InvalidField { field: field.to_owned(), problem: problem.to_owned() })
    };
    let refusals = [
        Refusal::BadCredential,
        Refusal::TooManyFailures { retry_after_s: 1 },
        Refusal::Suspended { reason: String::new() },
        Refusal::SenderNotAllowed { address: String::new(), may_prove: false },
        Refusal::OutOfCredit { top_up_url: String::new(), shortfall: Credits::ZERO },
        Refusal::BillingUnknown,
        Refusal::Suppressed { recipient: mailbox.clone(), why },
        Refusal::AddressNotCarried { address: mailbox },
        Refusal::TooManyRecipients { limit: 1 },
        Refusal::TooLarge { limit_bytes: 1 },
        Refusal::TooFast { retry_after_s: 1 },
        Refusal::Capped(Reached { limit: 1, span: Span::Minute, retry_after_s: 1 }),
        Refusal::Capped(Reached { limit: 1, span: Span::Day, retry_after_s: 1 }),
        Refusal::Unacceptable { status: "5.6.0", what: String::new() },
        Refusal::KeyReused,
        Refusal::StoreUnavailable,
    ];
    let not_done = [
        NotDone::Off,
        NotDone::NotProvable("co.uk".to_owned(), crate::proof::name::provable("co.uk").unwrap_err()),
        NotDone::Taken,
        NotDone::Registered,
        NotDone::TooMany(1),
        NotDone::Denied,
        NotDone::OtherWay,
        NotDone::Busy,
        NotDone::Refused,
        NotDone::Unavailable,
    ];
    let not_now = [NotNow::Final, NotNow::AttemptRunning, NotNow::OutcomeUnknown, NotNow::Unconfirmed];
    let others = [
        E::NoCredential,
        E::NotYours,
        E::OperatorOnly,
        E::NotFound("message"),
        E::Conflict("x"),
        E::BodyTooLarge { limit_bytes: 1 },
        E::BodyIncomplete,
        E::NoRoom,
        E::WrongMediaType { wanted: "x/y" },
        E::NotJson(String::new()),
        E::Invalid(String::new()),
        E::InvalidKey(IdempotencyKey::parse("").unwrap_err()),
        E::TooFast { retry_after_s: 1 },
        E::BadSignature(crate::http::signature::SignatureError::NoMatch),
        E::MalformedWebhook(crate::billing::events::MalformedEvent::NotJson),
        E::PaymentsUnavailable,
        E::CheckoutRefused,
        field("subject", "is required"),
        field("attachments[0].content", "is no Base64"),
    ];
    let refused = refusals.into_iter().map(E::Refused);
    let not_now = not_now.into_iter().map(|why| E::NotNow(Choice::Retry, why));
    refused.chain(not_done.into_iter().map(E::Domain)).chain(not_now).chain(others).collect()
}

#[test]
fn p9_every_code_in_the_document_is_one_that_is_given() {
    let given: Vec<(u16, &str)> = errors()
        .iter()
        .flat_map(|error| [error.face(), face_of(error)])
        .map(|(status, code)| (status.as_u16(), code))
        .collect();
    for Code { status, code, means } in ALL {
        assert!(given.contains(&(*status, code)), "{status} {code}: {means}");
    }
    // And the other way round: what is given somewhere is told somewhere.
    let told: Vec<(u16, &str)> = ALL.iter().map(|code| (code.status, code.code)).collect();
    for error in errors() {
        let (status, code) = error.face();
        assert!(told.contains(&(status.as_u16(), code)), "{error:?}");
    }
}

#[test]
fn what_may_be_sent_is_what_is_read() {
    let document = value();
    let good = json!({ "from": "a@x.example", "to": "b@y.example", "subject": "s", "text": "t" });
    let read = |name: &str, given: Value| {
        let mut request = good.as_object().unwrap().clone();
        request.insert(name.to_owned(), given);
        Composition::try_from(request).map(drop).map_err(|error| error.problem)
    };
    let unknown = Err("is not a field of this request".to_owned());
    let names = |schema: &str| -> Vec<String> {
        document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
    };
    for name in names("NewMessage") {
        assert_ne!(read(&name, json!(7)), unknown, "{name} is read");
        assert!(read(&name, json!(7)).is_err(), "{name} is no number");
    }
    for name in names("NewEmail").iter().filter(|name| !names("NewMessage").contains(name)) {
        assert_eq!(read(name, json!(7)), unknown, "{name} is for Resend's form alone");
    }
    for name in names("NewFile") {
        let file = json!({ "filename": "a.pdf", "content": "QQ==", name.clone(): 7 });
        let error = read("attachments", json!([file])).unwrap_err();
        assert!(error.contains("must be a string"), "{name}: {error}");
    }
    let required = &document["components"]["schemas"]["NewMessage"]["required"];
    assert_eq!(required, &json!(["to", "subject"]));
}
