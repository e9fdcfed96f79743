//! P6: what Resend's API cannot carry goes by the other road as it is, or is refused.

use std::collections::BTreeMap;

use crate::corpus::{
    as_submitted, id_of, messages, recipient_of_refused, recipients_of_sent, snapshot, submit,
};
use crate::harness::wait::until_is;
use crate::harness::{Meter, until};
use crate::header::SOUND;

const SIGNED: &[u8] =
    b"From: ann@example.com\r\nTo: bob@example.net\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
    Message-ID: <1@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n\
    --b\r\n\r\n=20text\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n";
const PLAIN: &[u8] = b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: s\r\n\r\nhi\r\n";

const INVITATION: &[u8] = b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: Meeting\r\n\
    Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@example.com>\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nCome.\r\n--b\r\nContent-Type: text/html\r\n\r\n\
    <p>Come.\r\n--b\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n";

/// Messages of the corpus that are refused whatever road there is: nobody knows whom they are from.
const UNSOUND: [&str; 7] = [
    "from-empty",
    "from-group",
    "from-missing",
    "from-nonsense",
    "from-quoted-local",
    "from-twice",
    "header-no-field",
];

fn hand_in(meter: &Meter, from: &str, message: &[u8]) -> String {
    let mut smtp = meter.signed_in();
    smtp.say(&format!("MAIL FROM:<{from}>"));
    smtp.say("RCPT TO:<bob@example.net>");
    smtp.say("DATA");
    smtp.message(message)
}

#[test]
fn p6_what_no_road_can_carry_is_refused_before_the_250() {
    let mut meter = Meter::resend().start();
    let reply = hand_in(&meter, "ann@example.com", SIGNED);
    assert!(reply.starts_with("554 5.6.1 a multipart/signed message"), "{reply}");
    let reply = hand_in(&meter, "", PLAIN);
    assert!(reply.starts_with("554 5.6.1 a message from <>"), "{reply}");
    let blocked = [PLAIN, b"\r\n"].concat();
    let blocked = String::from_utf8(blocked).unwrap().replacen(
        "\r\n\r\n",
        "\r\nContent-Type: application/octet-stream; name=a.exe\r\n\r\n",
        1,
    );
    let reply = hand_in(&meter, "ann@example.com", blocked.as_bytes());
    assert!(reply.starts_with("554 5.7.1 part 1: Resend refuses files of the kind .exe"), "{reply}");
    assert!(meter.mails().is_empty() && meter.sink().mails().is_empty());
    meter.finish();
}

#[test]
fn p6_what_resend_cannot_carry_goes_over_smtp_unchanged() {
    for fallback in ["smtp", "resend-smtp"] {
        let line = format!("fallback = \"{fallback}\"");
        let plan = Meter::resend().set("upstream", &line).set("upstream", "allow_plaintext = true");
        let mut meter = plan.prepare();
        let url = meter.sink().url().to_owned();
        if fallback == "resend-smtp" {
            meter.remove_environment("UPSTREAM_SMTP_URL");
            meter.set_environment("RESEND_SMTP_URL", &url);
        }
        meter.serve();
        for (from, message) in [("ann@example.com", SIGNED), ("", PLAIN), ("ann@example.com", PLAIN)] {
            let reply = hand_in(&meter, from, message);
            assert!(reply.starts_with("250 "), "{reply}");
        }
        let mails = until("both mails", || Some(meter.sink().mails()).filter(|mails| mails.len() == 2));
        let signed = mails.iter().find(|mail| mail.bytes.ends_with(SIGNED));
        let signed = signed.unwrap_or_else(|| panic!("{fallback}: the signed mail is not there as it was"));
        assert_eq!(signed.bytes.starts_with(b"Resend-Idempotency-Key: "), fallback == "resend-smtp");
        until("the plain mail", || (meter.mails().len() == 1).then_some(()));
        meter.finish();
    }
}

#[test]
fn p6_a_version_that_resend_does_not_know_goes_whole_where_a_road_is() {
    let mut meter = Meter::resend().start();
    assert!(hand_in(&meter, "ann@example.com", INVITATION).starts_with("250 "));
    let mails = until("the mail", || Some(meter.mails()).filter(|mails| mails.len() == 1));
    assert_eq!(mails[0].email.attachments.as_ref().map(Vec::len), Some(1));
    meter.finish();

    let plan =
        Meter::resend().set("upstream", "fallback = \"smtp\"").set("upstream", "allow_plaintext = true");
    let mut meter = plan.start();
    assert!(hand_in(&meter, "ann@example.com", INVITATION).starts_with("250 "));
    let mails = until("the mail", || Some(meter.sink().mails()).filter(|mails| mails.len() == 1));
    assert!(mails[0].bytes.ends_with(INVITATION));
    assert!(meter.mails().is_empty());
    meter.finish();
}

/// What stands before the message as it was sent must be our stamp; the message follows to the octet.
#[track_caller]
fn arrived_unchanged(name: &str, bytes: &[u8], message: &[u8]) {
    let (stamp, rest) = bytes.split_at(bytes.len().saturating_sub(message.len()));
    assert!(rest == message, "{name}: {}", bytes.escape_ascii());
    let stamp = String::from_utf8(stamp.to_vec()).unwrap();
    assert!(stamp.starts_with("Received: from client.example "), "{name}: {stamp}");
    let ours = ["\t", "Message-ID: <", "Date: "];
    let is_ours = |line: &str| ours.iter().any(|start| line.starts_with(start));
    assert!(stamp.lines().skip(1).all(is_ours), "{name}: {stamp}");
}

#[test]
fn p6_whatever_resend_cannot_carry_arrives_over_smtp_to_the_octet() {
    let mut meter = Meter::resend()
        .credits(1_000)
        .set("senders", "policy = \"any\"")
        .set("upstream", "fallback = \"smtp\"")
        .set("upstream", "allow_plaintext = true")
        .start();
    let (mut smtp, mut wanted, mut unsound) = (meter.signed_in(), BTreeMap::new(), Vec::new());
    for path in messages() {
        let (message, snapshot) = (as_submitted(&path), snapshot(&path));
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_refused = snapshot["refused"].is_object();
        let mut notes = snapshot["notes"].as_array().into_iter().flatten();
        if !is_refused && !notes.any(|note| note["change"] == "version_as_file") {
            continue;
        }
        let to = if is_refused { vec![recipient_of_refused(&path)] } else { recipients_of_sent(&snapshot) };
        let reply = submit(&mut smtp, &to, &message);
        if reply.starts_with("554 5.6.0 ") {
            unsound.push(name);
            smtp = meter.signed_in();
            continue;
        }
        wanted.insert(id_of(&name, &reply).to_owned(), (name, message));
    }
    unsound.sort();
    assert_eq!(unsound, UNSOUND);
    let count = |start: &str| wanted.values().filter(|(name, _)| name.starts_with(start)).count();
    assert!(count("refused-") >= 11 && count("file-blocked-") >= 4, "{:?}", wanted.keys());
    until_is("mails", wanted.len(), || meter.sink().mails().len());
    for mail in meter.sink().mails() {
        let head = String::from_utf8_lossy(&mail.bytes[..mail.bytes.len().min(1_000)]).into_owned();
        let (_, rest) = head.split_once("\r\n\tid ").unwrap();
        let (name, message) = wanted.remove(rest.split(';').next().unwrap()).unwrap();
        arrived_unchanged(&name, &mail.bytes, &message);
    }
    assert!(wanted.is_empty() && meter.mails().is_empty());
    meter.finish();
}

#[test]
fn p6_more_than_the_40_mb_that_resend_takes_goes_over_smtp_or_is_refused() {
    let head = [SOUND, "Content-Type: text/plain\r\n\r\n"].concat();
    let message = [head.as_bytes(), &[&[b'x'; 990], b"\r\n".as_slice()].concat().repeat(40_400)].concat();
    for fallback in ["none", "smtp"] {
        let mut meter = Meter::resend()
            .set("smtp", "max_message_bytes = 45000000")
            .set("smtp", "max_bytes_arriving_per_customer = 200000000")
            .set("upstream", &format!("fallback = \"{fallback}\""))
            .set("upstream", "allow_plaintext = true")
            .start();
        let reply = hand_in(&meter, "ann@example.com", &message);
        if fallback == "none" {
            assert_eq!(reply, "552 5.3.4 Message is larger than 40000000 octets\r\n");
            assert_eq!(meter.number("SELECT count(*) FROM message"), 0);
        } else {
            assert!(reply.starts_with("250 "), "{reply}");
            let mail = until("the mail", || meter.sink().mails().pop());
            assert!(mail.bytes.ends_with(&message), "{} octets", mail.bytes.len());
        }
        assert!(meter.mails().is_empty());
        meter.finish();
    }
}
