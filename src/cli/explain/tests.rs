//! The corpus: each message beside what is said about it.
//!
//! `POSTMETER_UPDATE_CORPUS=1` writes what is said now, to be read before it is
//! committed; `tests/corpus/judge.py` reads it with another reader of mail.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::*;
use crate::config::{Fallback, Smtp, UpstreamKind};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");

fn routing(kind: UpstreamKind, fallback: Fallback) -> Routing {
    let mut config = Config::default();
    (config.upstream.kind, config.upstream.fallback) = (kind, fallback);
    Routing::new(&config)
}

/// Of anybody to these, under bounds that are no matter.
fn asked<'a>(to: &'a [Mailbox], routing: &Routing) -> Asked<'a> {
    let smtp = Smtp { max_recipients: 100, ..Smtp::default() };
    Asked { from: None, to, routing: *routing, bounds: Bounds::new(&smtp) }
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
    let mut said = serde_json::to_value(explained(path, &asked(&to, routing)).unwrap()).unwrap();
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
        shown(&explained(&path, &asked(&[], &routing)).unwrap(), false)
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
    let refused = |bytes: &[u8], asked: &Asked<'_>| {
        way(bytes, asked).err().map(|reply| reply.to_string()).unwrap_or_default()
    };
    let everybody: Vec<Mailbox> =
        (0..51).map(|n| Mailbox::parse(&format!("b{n}@y.example")).unwrap()).collect();
    let bounds = Bounds::new(&Smtp::default());
    let by_default = |to| Asked { bounds, ..asked(to, &routing) };
    let large = format!("From: a@x.example\r\n\r\n{}", "x".repeat(28_800_000));
    let looping = "Received: x\r\n".repeat(101) + "From: a@x.example\r\n\r\n";
    let hello = "From: a@x.example\r\n\r\nhi\r\n";
    let table: [(&str, &[Mailbox], &str); 7] = [
        ("From: a@x.example\r\n\r\na\rb", &to, "554 5.6.0 Message holds a CR without LF; lines end in CRLF"),
        ("From: a@x.example\r\n\r\na\0b", &to, "554 5.6.0 Message holds a NUL octet"),
        ("To: a@x.example\r\n\r\n", &to, "554 5.6.0 the message has no From header"),
        ("", &to, "554 5.6.0 the message has no From header"),
        (&large, &to, "552 5.3.4 Message is larger than 26214400 octets"),
        (&looping, &to, "554 5.4.6 Message is looping: too many Received headers"),
        (hello, &everybody, "452 4.5.3 Too many recipients, at most 50 a message; send the rest in another"),
    ];
    for (bytes, to, want) in table {
        assert_eq!(refused(bytes.as_bytes(), &by_default(to)), want);
    }
    assert!(way(looping.split_once("\r\n").unwrap().1.as_bytes(), &by_default(&to)).is_ok());
    assert!(way(hello.as_bytes(), &by_default(&everybody[1..])).is_ok());
    assert!(way(&as_submitted(b"From: a@x.example\n\nhi\n"), &by_default(&to)).is_ok());
    assert!(way(hello.as_bytes(), &by_default(&[])).is_err());
}

#[test]
fn the_sender_of_the_envelope_decides_as_it_does_at_mail() {
    let to = [Mailbox::parse("bob@y.example").unwrap()];
    let hello = b"From: a@x.example\r\n\r\nhi\r\n";
    let not_ascii = "550 5.6.7 Mail to or from gr\\x{FC}n@x.example cannot be carried: not ASCII";
    let null = "554 5.6.1 a message from <> cannot be sent through Resend, which has no null sender";
    let table = [
        (Fallback::None, "a@x.example", Ok("resend")),
        (Fallback::None, "", Err(null)),
        (Fallback::None, "gr\u{fc}n@x.example", Err(not_ascii)),
        (Fallback::ResendSmtp, "", Ok("smtp")),
        (Fallback::ResendSmtp, "gr\u{fc}n@x.example", Err(not_ascii)),
        (Fallback::Smtp, "gr\u{fc}n@x.example", Ok("resend")),
    ];
    for (fallback, from, want) in table {
        let from = ReversePath::parse(from).unwrap();
        let asked = Asked { from: Some(&from), ..asked(&to, &routing(UpstreamKind::Resend, fallback)) };
        let way = way(hello, &asked).map(|(parts, _)| parts[0].road).map_err(|reply| reply.to_string());
        assert_eq!(way, want.map_err(str::to_owned), "{fallback:?} {from:?}");
    }
}
