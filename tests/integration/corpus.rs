//! The corpus through the running program: what leaves is what `postmeter explain` says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use axum::http::Request;
use postmeter::sandbox::faults::Fault;
use postmeter::sandbox::resend::Refusal;
use serde_json::{Value, json};

use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::{Meter, contract};

const QUEUED: &str = "250 2.0.0 Queued as ";
/// Recipients of mail that leaves nowhere, where the message does not say.
const NOBODY: &str = "bob@y.example";

fn messages() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "eml")).collect()
}

/// As a client sends it.
fn as_submitted(path: &Path) -> Vec<u8> {
    let mut octets = Vec::new();
    for line in std::fs::read(path).unwrap().split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        octets.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// The reply to the first line that is refused, or to the message.
fn submit(smtp: &mut Smtp, to: &[&str], message: &[u8]) -> String {
    let recipients = to.iter().map(|to| format!("RCPT TO:<{to}>"));
    for line in ["MAIL FROM:<ann@x.example> SMTPUTF8".to_owned()].into_iter().chain(recipients) {
        let reply = smtp.say(&line);
        if !reply.starts_with("250 ") {
            return reply;
        }
    }
    assert!(smtp.say("DATA").starts_with("354 "));
    smtp.message(message)
}

/// The emails of a snapshot by the tag that they have in a message of that id.
fn emails(snapshot: &Value, id: &str) -> BTreeMap<String, Value> {
    let parts = snapshot["parts"].as_array().unwrap().iter().enumerate();
    let of_id = |(nth, part): (usize, &Value)| {
        let tag = format!("{id}-{nth}");
        let mut email = part["email"].clone();
        email["tags"] = json!([{ "name": "postmeter", "value": tag }]);
        (tag, email)
    };
    parts.map(of_id).collect()
}

fn as_json(email: &postmeter::sandbox::resend::Email) -> (String, Value) {
    let tag = email.tags.as_ref().unwrap().first().unwrap().value.clone();
    (tag, serde_json::to_value(email).unwrap())
}

#[test]
fn p6_the_running_program_sends_what_is_said_of_the_corpus_as_resend_describes_it() {
    let mut meter = Meter::resend()
        .credits(1_000)
        .set("senders", "policy = \"any\"")
        .set("smtp", "max_recipients = 100")
        .start();
    // They wait, so that those without files leave together.
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Refusal::bad_key(401)).on("POST", "/emails").always());
    let (mut smtp, mut wanted) = (meter.signed_in(), BTreeMap::new());
    for path in messages() {
        let (name, message) = (path.display().to_string(), as_submitted(&path));
        let snapshot: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        if let Some(refused) = snapshot["refused"].as_object() {
            let to = match path.file_name().and_then(OsStr::to_str) {
                Some("to-non-ascii-local.eml") => "grün@y.example",
                Some("to-quoted-local.eml") => "\"a b\"@y.example",
                _ => NOBODY,
            };
            let reply = submit(&mut smtp, &[to], &message);
            let said = format!("{} {} ", refused["code"], refused["status"].as_str().unwrap());
            assert!(reply.starts_with(&said), "{name}: {reply}");
            // Nobody may be refused so often.
            smtp = meter.signed_in();
            continue;
        }
        let parts = snapshot["parts"].as_array().unwrap().iter();
        let to: Vec<&str> = parts
            .flat_map(|part| part["recipients"].as_array().unwrap())
            .map(|to| to.as_str().unwrap())
            .collect();
        let reply = submit(&mut smtp, &to, &message);
        let id = reply.strip_prefix(QUEUED).unwrap_or_else(|| panic!("{name}: {reply}"));
        wanted.extend(emails(&snapshot, id.split(',').next().unwrap()));
    }
    drop(smtp);
    meter.stop();
    faults.clear();
    meter.resend_stand_in().behave(|manners| manners.per_second = 40);
    meter.serve();
    until_is("mails", wanted.len(), || meter.resend_stand_in().count());
    let mails = meter.mails();
    let sent: BTreeMap<String, Value> = mails.iter().map(|mail| as_json(&mail.email)).collect();
    for (tag, email) in &wanted {
        assert_eq!(sent.get(tag), Some(email), "{tag}");
    }
    assert_eq!(sent.len(), wanted.len());
    let keys: Vec<&String> = mails.iter().filter_map(|mail| mail.idempotency_key.as_ref()).collect();
    let together = keys.iter().filter(|key| keys.iter().filter(|other| other == key).count() > 1).count();
    assert!(0 < together && together < keys.len(), "{together} of {} left with others", keys.len());
    // Every call was held against it on its way.
    if !contract::is_there() {
        eprintln!("note: the calls were not held against Resend's description");
    }
    meter.finish();
}

#[test]
fn a_call_that_resend_does_not_describe_is_found() {
    if !contract::is_there() {
        return;
    }
    let email = json!({ "from": "a@x.example", "to": ["b@y.example"], "subject": "s", "text": "" });
    let with = |name: &str, value: Value| {
        let mut changed = email.clone();
        changed[name] = value;
        changed
    };
    let key = [("idempotency-key", "k")];
    let table = [
        ("POST", "/emails", &key[..], email.clone(), None),
        ("POST", "/emails/batch", &key, json!([email]), None),
        ("POST", "/emails", &[], email.clone(), Some("P4: no Idempotency-Key")),
        ("PUT", "/emails", &key, email.clone(), Some("no such method")),
        ("POST", "/mails", &key, email.clone(), Some("no such path")),
        ("POST", "/emails?a=b", &key, email.clone(), Some("the query has `a`")),
        ("POST", "/emails", &key, with("at", "now".into()), Some("`at` is not in the description")),
        ("POST", "/emails", &key, with("to", json!([])), Some("/to: no option fits")),
        ("POST", "/emails", &key, with("to", json!(vec!["b@y.example"; 51])), Some("/to: no option fits")),
        ("POST", "/emails", &key, with("tags", json!([{ "key": "a" }])), Some("/tags[]: `key` is not")),
        ("POST", "/emails", &[("idempotency-key", &"k".repeat(257))], email.clone(), Some("257 is not")),
        ("POST", "/emails/batch", &key, email.clone(), Some("is not [\"array\"]")),
        ("DELETE", "/domains/d_1", &[], email.clone(), Some("a body that nobody reads")),
    ];
    for (method, path, fields, body, wanted) in table {
        let mut call = Request::builder().method(method).uri(path);
        for (name, value) in fields.iter().chain(&[
            ("authorization", "Bearer re_1"),
            ("user-agent", "postmeter"),
            ("content-type", "application/json"),
        ]) {
            call = call.header(*name, *value);
        }
        let (head, ()) = call.body(()).unwrap().into_parts();
        let found = contract::mistake(&head, body.to_string().as_bytes());
        let is_so = match (&found, wanted) {
            (Some(found), Some(wanted)) => found.contains(wanted),
            (found, wanted) => found.is_none() && wanted.is_none(),
        };
        assert!(is_so, "{method} {path} {body}: {found:?}, not {wanted:?}");
    }
}
