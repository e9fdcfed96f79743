//! P6: what Resend's API cannot carry goes by the other road as it is, or is refused.

use crate::harness::{Meter, until};

const SIGNED: &[u8] =
    b"From: ann@example.com\r\nTo: bob@example.net\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
    Message-ID: <1@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n\
    --b\r\n\r\n=20text\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n";
const PLAIN: &[u8] = b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: s\r\n\r\nhi\r\n";

const INVITATION: &[u8] = b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: Meeting\r\n\
    Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@example.com>\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nCome.\r\n--b\r\nContent-Type: text/html\r\n\r\n\
    <p>Come.\r\n--b\r\nContent-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n";

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
