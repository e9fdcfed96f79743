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
use crate::harness::{Meter, contract, letter};

const QUEUED: &str = "250 2.0.0 Queued as ";
/// Recipients of mail that leaves nowhere, where the message does not say.
const NOBODY: &str = "bob@y.example";

/// Notes of a message that its log keeps, and characters of each.
const KEPT_NOTES: usize = 50;
const KEPT_CHARS: usize = 300;

/// The messages of the corpus.
pub(crate) fn messages() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "eml")).collect()
}

/// What `postmeter explain --json` says of one of them.
pub(crate) fn snapshot(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap()
}

/// As a client sends it.
pub(crate) fn as_submitted(path: &Path) -> Vec<u8> {
    let mut octets = Vec::new();
    for line in std::fs::read(path).unwrap().split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        octets.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// The recipient of one that is refused.
pub(crate) fn recipient_of_refused(path: &Path) -> &'static str {
    match path.file_name().and_then(OsStr::to_str) {
        Some("to-non-ascii-local.eml") => "grün@y.example",
        Some("to-quoted-local.eml") => "\"a b\"@y.example",
        _ => NOBODY,
    }
}

/// The recipients of one that Resend carries.
pub(crate) fn recipients_of_sent(snapshot: &Value) -> Vec<&str> {
    let parts = snapshot["parts"].as_array().unwrap().iter();
    parts.flat_map(|part| part["recipients"].as_array().unwrap()).map(|to| to.as_str().unwrap()).collect()
}

/// The id of a message that was taken.
#[track_caller]
pub(crate) fn id_of<'r>(name: &str, reply: &'r str) -> &'r str {
    let id = reply.strip_prefix(QUEUED).and_then(|rest| rest.split(',').next());
    id.unwrap_or_else(|| panic!("{name}: {reply}"))
}

/// The reply to the first line that is refused, or to the message.
pub(crate) fn submit(smtp: &mut Smtp, to: &[&str], message: &[u8]) -> String {
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

/// The notes of a message on its log entry, where they stand for themselves and in its story.
fn notes_of(meter: &Meter, id: &str) -> [Vec<String>; 2] {
    let story = meter.get(&format!("/messages/{id}")).json();
    let text = |note: &Value| note.as_str().unwrap().to_owned();
    let moments = story["timeline"].as_array().unwrap().iter().filter(|moment| moment["what"] == "note");
    let notes = story["notes"].as_array().into_iter().flatten();
    [notes.map(text).collect(), moments.map(|moment| text(&moment["text"])).collect()]
}

/// The log entry of a message of that id has the notes of the snapshot, which are so many.
fn tells_notes(meter: &Meter, id: &str, snapshot: &Value) -> usize {
    let kept = |note: &Value| note["text"].as_str().unwrap().chars().take(KEPT_CHARS).collect::<String>();
    let mut wanted: Vec<String> = snapshot["notes"].as_array().unwrap().iter().map(kept).collect();
    assert!(wanted.len() <= KEPT_NOTES);
    // What is taken out before the message is kept comes first in its log.
    wanted.sort();
    for mut told in notes_of(meter, id) {
        told.sort();
        assert_eq!(told, wanted, "{snapshot}");
    }
    wanted.len()
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
    let (mut smtp, mut wanted, mut noted) = (meter.signed_in(), BTreeMap::new(), 0);
    for path in messages() {
        let (name, message, snapshot) = (path.display().to_string(), as_submitted(&path), snapshot(&path));
        if let Some(refused) = snapshot["refused"].as_object() {
            let reply = submit(&mut smtp, &[recipient_of_refused(&path)], &message);
            let said = format!("{} {} ", refused["code"], refused["status"].as_str().unwrap());
            assert!(reply.starts_with(&said), "{name}: {reply}");
            // Nobody may be refused so often.
            smtp = meter.signed_in();
            continue;
        }
        let reply = submit(&mut smtp, &recipients_of_sent(&snapshot), &message);
        let id = id_of(&name, &reply);
        noted += tells_notes(&meter, id, &snapshot);
        wanted.extend(emails(&snapshot, id));
    }
    drop(smtp);
    assert!(noted > 100, "{noted} notes were compared");
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
fn p6_of_many_notes_the_log_keeps_the_first_and_counts_the_others() {
    let meter = Meter::resend().start();
    let fields: String = (0..KEPT_NOTES + 7).map(|nth| format!("Content-Nothing-{nth}: x\r\n")).collect();
    let message = [fields.as_bytes(), &letter("noted")].concat();
    let path = meter.directory().join("noted.eml");
    std::fs::write(&path, &message).unwrap();
    let explained = meter.says(&["explain", path.to_str().unwrap(), "--json"]);
    let explained: Value = serde_json::from_str(&explained).unwrap();
    let said = explained["notes"].as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap());
    let mut wanted: Vec<String> = said.map(str::to_owned).collect();
    assert_eq!(wanted.len(), KEPT_NOTES + 7, "{explained}");
    wanted.truncate(KEPT_NOTES);
    wanted.push("and 7 more of the kind".to_owned());
    let reply = meter.signed_in().deliver(&message);
    assert_eq!(notes_of(&meter, id_of("noted", &reply)), [wanted.clone(), wanted]);
    meter.drain();
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
