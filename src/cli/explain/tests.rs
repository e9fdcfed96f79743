//! The corpus: each message beside what is said about it.
//!
//! `POSTMETER_UPDATE_CORPUS=1` writes what is said now, to be read before it is
//! committed; `tests/corpus/judge.py` reads it with another reader of mail.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::*;
use crate::config::{Fallback, UpstreamKind};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");

fn routing(kind: UpstreamKind, fallback: Fallback) -> Routing {
    let mut config = Config::default();
    (config.upstream.kind, config.upstream.fallback) = (kind, fallback);
    Routing::new(&config)
}

fn messages() -> Vec<PathBuf> {
    let paths = std::fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "eml")).collect();
    paths.sort();
    paths
}

/// The envelope that the message asks for, if it does.
fn envelope(bytes: &[u8]) -> Vec<Mailbox> {
    let Ok(header) = Header::parse(bytes) else { return Vec::new() };
    let named = header.all("X-Corpus-To").flat_map(|field| readable_addresses(field.value()).list);
    named.map(|named| named.mailbox).collect()
}

fn said(path: &Path, routing: &Routing) -> Value {
    let to = envelope(&as_submitted(&std::fs::read(path).unwrap()));
    let mut said = serde_json::to_value(explained(path, &to, routing).unwrap()).unwrap();
    for same_for_all in ["file", "every_mail"] {
        said.as_object_mut().unwrap().remove(same_for_all);
    }
    said
}

#[test]
fn the_corpus_becomes_what_is_written_beside_it() {
    let is_update = std::env::var_os("POSTMETER_UPDATE_CORPUS").is_some();
    assert!(!(is_update && std::env::var_os("CI").is_some()), "what is expected is written by people");
    let routing = routing(UpstreamKind::Resend, Fallback::None);
    let messages = messages();
    assert!(messages.len() >= 150, "{} messages", messages.len());
    for path in messages {
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"X-Corpus: "), "{} says what it is about", path.display());
        let said = said(&path, &routing);
        let beside = path.with_extension("json");
        if is_update {
            std::fs::write(&beside, format!("{said:#}\n")).unwrap();
        }
        let wanted = std::fs::read(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
        let wanted: Value = serde_json::from_slice(&wanted).unwrap();
        assert_eq!(said, wanted, "{}", path.display());
    }
}

#[test]
fn p6_another_reader_of_mail_finds_everything_in_the_corpus() {
    let Some(told) = told_by("judge.py", &[CORPUS, "--snapshots"]) else { return };
    let counted = told.lines().find(|line| line.contains(" messages: ")).unwrap();
    let counts: Vec<&str> = counted.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect();
    let [all, judged @ ..] = counts.as_slice() else { panic!("{counted}") };
    let row = format!("| `tests/corpus` ({all}) | {} |", judged.join(" | "));
    for said in [row, format!("`tests/corpus` holds {all} mails")] {
        assert!(include_str!("../../../README.md").contains(&said), "the README says {said}");
    }
}

#[test]
fn p6_that_reader_notices_whatever_is_taken_out_or_changed() {
    told_by("judge_test.py", &[]);
}

/// What a script beside the corpus says, unless Python or what it reads is not there.
fn told_by(script: &str, args: &[&str]) -> Option<String> {
    if std::env::var_os("POSTMETER_UPDATE_CORPUS").is_some() {
        return None;
    }
    let output = Command::new("python3").arg(format!("{CORPUS}/{script}")).args(args).output();
    if output.is_err() && std::env::var_os("POSTMETER_REQUIRE_TOOLS").is_none() {
        eprintln!("note: python3 is not there, so the corpus is not judged");
        return None;
    }
    let output = output.unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success(), "{told}");
    Some(told.into_owned())
}

#[test]
fn what_resend_refuses_goes_over_smtp_as_it_is() {
    let path = Path::new(CORPUS).join("refused-signed.eml");
    for fallback in [Fallback::Smtp, Fallback::ResendSmtp] {
        let said = said(&path, &routing(UpstreamKind::Resend, fallback));
        assert_eq!(said["parts"], json!([{"road": "smtp", "recipients": ["bob@y.example"]}]));
        assert!(said["notes"][0]["text"].as_str().unwrap().contains("multipart/signed"), "{said}");
    }
    let by_smtp = said(&path, &routing(UpstreamKind::Smtp, Fallback::None));
    assert_eq!(by_smtp["notes"], json!([]));
    let by_smtp =
        said(&Path::new(CORPUS).join("header-orders.eml"), &routing(UpstreamKind::Smtp, Fallback::None));
    assert!(by_smtp["notes"].as_array().is_some_and(|notes| !notes.is_empty()), "{by_smtp}");
}

#[test]
fn people_read_what_is_lost_and_what_is_refused() {
    let routing = routing(UpstreamKind::Resend, Fallback::None);
    let shown = |name: &str| {
        let path = Path::new(CORPUS).join(name);
        shown(&explained(&path, &[], &routing).unwrap(), false)
    };
    let text = shown("file-no-name.eml");
    assert!(text.starts_with("part 0 by resend to bob@y.example\n{\n"), "{text}");
    assert!(
        text.contains("\n  - part 2 (application/pdf): has no file name: named attachment-1.pdf\n"),
        "{text}"
    );
    assert!(text.contains("in every mail:\n  - Message-ID"), "{text}");
    let text = shown("refused-signed-nested.eml");
    assert!(text.starts_with("refused: 554 5.6.1 a multipart/signed message (part 1) cannot"), "{text}");
}

#[test]
fn a_message_that_smtp_would_not_take_is_refused_here_too() {
    let routing = routing(UpstreamKind::Resend, Fallback::None);
    let to = [Mailbox::parse("bob@y.example").unwrap()];
    for bytes in
        ["From: a@x.example\r\n\r\na\rb", "From: a@x.example\r\n\r\na\0b", "To: a@x.example\r\n\r\n", ""]
    {
        assert_eq!(way(bytes.as_bytes(), &to, &routing).err().map(|reason| reason.status), Some("5.6.0"));
    }
    assert!(way(&as_submitted(b"From: a@x.example\n\nhi\n"), &to, &routing).is_ok());
    assert!(way(b"From: a@x.example\r\n\r\nhi", &[], &routing).is_err());
}
