//! Signatures of what leaves by SMTP, as an independent receiver sees them: dkimpy,
//! with the records that `postmeter check` says to publish.

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::client::{missing, run};
use crate::harness::{Meter, letter};

/// A Python with dkimpy and PyNaCl: the one in the path, or Debian's.
fn python() -> Option<&'static str> {
    let can = |python: &&str| {
        let probed = Command::new(python).args(["-c", "import dkim, nacl"]).output();
        probed.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(can);
    if found.is_none() {
        missing("python3 with dkimpy and PyNaCl");
    }
    found
}

fn key(file: &str) -> String {
    format!("{}/src/dkim/tests/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn signing() -> Meter {
    let keys = format!(
        "domain = \"example.com\"\nselector = \"s1\"\nkey_file = {:?}\n\
         [[dkim]]\ndomain = \"example.com\"\nselector = \"s2\"\nkey_file = {:?}\n\
         [[dkim]]\ndomain = \"relay.example\"\nselector = \"s1\"\nkey_file = {:?}\ndefault = true",
        key("rsa.pem"),
        key("ed25519.pem"),
        key("rsa-pkcs1.pem")
    );
    Meter::smtp().set("[dkim]", &keys).set("senders", "policy = \"any\"").credits(100).start()
}

/// The records that `check` says to publish.
fn records(meter: &Meter) -> BTreeMap<String, String> {
    let said = meter.run(&["check", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&said.out).unwrap();
    let published = findings.iter().filter(|finding| finding["subject"] == "dkim").map(|finding| {
        let record = finding["message"].as_str().unwrap().strip_prefix("publish TXT ").unwrap();
        let (name, value) = record.split_once(' ').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    published.collect()
}

/// What dkimpy says of each mail.
fn verdicts(python: &str, records: &BTreeMap<String, String>, mails: &[Vec<u8>]) -> Vec<Vec<String>> {
    let mails: Vec<String> = mails.iter().map(|mail| BASE64.encode(mail)).collect();
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/dkim_verify.py"));
    let said = run(command, json!({ "records": records, "mails": mails }).to_string().as_bytes());
    serde_json::from_str(&said).unwrap()
}

fn from(address: &str, rest: &str) -> Vec<u8> {
    format!("From: {address}\r\nTo: bob@example.net\r\n{rest}").into_bytes()
}

#[test]
fn an_independent_verifier_finds_every_signature_sound() {
    let Some(python) = python() else { return };
    let mut meter = signing();
    let large = format!("Subject: large\r\n\r\n{}", "All work and  no play\t\r\n\r\n.\r\n".repeat(40_000));
    let folded =
        "Subject: a\r\n  long\r\n\t one\t \r\nReferences:\r\n <a@x>\r\n <b@x>\r\nX-None: \r\n\r\nbody";
    let messages = [
        letter("plain"),
        from("ann@example.com", &format!("{folded}\r\n")),
        from(
            "Gr\u{fc}n <ann@example.com>",
            "Subject: gr\u{fc}n\r\nMIME-Version: 1.0\r\n\r\ngr\u{fc}n \u{1f4ee}\r\n",
        ),
        from("ann@example.com", "Subject: empty\r\n\r\n"),
        from("ann@example.com", "Subject: blank\r\n\r\n\r\n \r\n\t\r\n\r\n"),
        from("ann@example.com", "Subject: dots\r\n\r\n.\r\n..\r\n. x\r\n"),
        from(
            "ann@example.com",
            "Reply-To: a@x.example\r\nList-Id: <l>\r\nMIME-Version: 1.0\r\n\
              Content-Type: text/plain;\r\n\tcharset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nx  y \r\n\r\n",
        ),
        from("ann@example.com", &large),
    ];
    let mut smtp = meter.signed_in();
    for message in &messages {
        assert!(smtp.deliver(message).starts_with("250 "), "{}", String::from_utf8_lossy(message));
    }
    meter.drain();
    let mails: Vec<Vec<u8>> = meter.sink().mails().into_iter().map(|mail| mail.bytes).collect();
    assert_eq!(mails.len(), messages.len());
    let want = ["example.com s1 rsa-sha256 ok", "example.com s2 ed25519-sha256 ok"];
    for (mail, verdict) in mails.iter().zip(verdicts(python, &records(&meter), &mails)) {
        assert_eq!(verdict, want, "{}", String::from_utf8_lossy(mail.get(..2_000).unwrap_or(mail)));
    }
    // What somebody changed or added on the way is found out.
    let mut texts = mails.into_iter().filter_map(|mail| String::from_utf8(mail).ok());
    let mail = texts.find(|mail| mail.contains("Subject: plain\r\n")).unwrap();
    let changed = [
        mail.replace("Hello Bob", "Hello Eve"),
        mail.replace("Subject: plain", "Subject: plain!"),
        format!("Subject: another\r\n{mail}"),
        format!("Cc: eve@example.net\r\n{mail}"),
    ];
    let changed: Vec<Vec<u8>> = changed.into_iter().map(String::into_bytes).collect();
    for verdict in verdicts(python, &records(&meter), &changed).concat() {
        assert!(verdict.contains("broken"), "{verdict}");
    }
    meter.finish();
}

#[test]
fn the_default_key_signs_what_no_other_key_does_and_bounces_are_signed_too() {
    let Some(python) = python() else { return };
    let mut meter = signing();
    meter.sink().reply("RCPT TO:<gone@", "550 5.1.1 no such user");
    let mut smtp = meter.signed_in();
    smtp.begin("ann@elsewhere.example", &["bob@example.net"]);
    assert!(smtp.message(&from("ann@elsewhere.example", "Subject: x\r\n\r\nx\r\n")).starts_with("250 "));
    meter.drain();
    smtp.begin("ann@example.com", &["gone@example.net"]);
    assert!(smtp.message(&letter("gone")).starts_with("250 "));
    meter.drain();
    let mails: Vec<Vec<u8>> = meter.sink().mails().into_iter().map(|mail| mail.bytes).collect();
    let want = [
        vec!["relay.example s1 rsa-sha256 ok"],
        vec!["example.com s1 rsa-sha256 ok", "example.com s2 ed25519-sha256 ok"],
    ];
    assert_eq!(verdicts(python, &records(&meter), &mails), want);
    meter.finish();
}
