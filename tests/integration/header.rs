//! What leaves is what came, but for what must not leave and what was missing.

use crate::harness::{Meter, letter, until};

/// Sends the bytes as they are and returns what the upstream got.
fn relayed(meter: &Meter, message: &[u8]) -> Vec<u8> {
    let before = meter.sink().mails().len();
    let mut smtp = meter.signed_in();
    assert!(smtp.say("MAIL FROM:<ann@example.com> BODY=8BITMIME").starts_with("250 "));
    smtp.say("RCPT TO:<bob@example.net>");
    smtp.say("DATA");
    let reply = smtp.message(message);
    assert!(reply.starts_with("250 "), "{reply}");
    until("the mail", || meter.sink().mails().get(before).cloned()).bytes
}

/// Cuts our Received field off, which must stand in front.
pub(crate) fn without_received(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    assert!(
        text.starts_with("Received: from client.example ([127.0.0.1])\r\n\tby smtp.example.com with ESMTPSA")
    );
    let lines: Vec<&[u8]> = bytes.split_inclusive(|octet| *octet == b'\n').collect();
    let end =
        1 + lines[1..].iter().take_while(|line| line.starts_with(b"\t") || line.starts_with(b" ")).count();
    lines[end..].concat()
}

pub(crate) const SOUND: &str = "From: ann@example.com\r\nTo: bob@example.net\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
    Message-ID: <1@example.com>\r\n";

#[test]
fn a_sound_message_leaves_byte_for_byte() {
    let meter = Meter::smtp().credits(100).start();
    let long = format!("X-Long: {}\r\n", "word ".repeat(180));
    let tails: [Vec<u8>; 12] = [
        b"\r\nplain\r\n".to_vec(),
        b"\r\n".to_vec(),
        b"".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"\r\n.\r\n..\r\n...three\r\n.leading\r\n".to_vec(),
        b"\r\nno blank at the end \t\r\n \r\n".to_vec(),
        [b"\r\n".as_slice(), &[0xe9, 0x80, 0xff, b'\r', b'\n']].concat(),
        [b"Subject: gr\xfc\xdfe\r\n\r\n".as_slice(), b"\xc3\xa9\r\n"].concat(),
        [b"\r\n".to_vec(), vec![b'x'; 990], b"\r\n".to_vec()].concat(),
        [long.into_bytes(), b"\r\nlong header\r\n".to_vec()].concat(),
        b"sUbJeCt  :\tfolded\r\n\tand odd\r\n  spaces  \r\nReceived: from elsewhere\r\n\r\nx\r\n".to_vec(),
        b"MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n=20x\r\n--b--\r\n".to_vec(),
    ];
    for tail in tails {
        let message = [SOUND.as_bytes(), &tail].concat();
        let got = without_received(&relayed(&meter, &message));
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&message));
        assert_eq!(got, message);
    }
}

#[test]
fn p5_what_must_not_leave_is_taken_out() {
    let meter = Meter::smtp().start();
    let message = "Bcc: hidden@example.net,\r\n\tother@example.net\r\nReturn-Path: <ann@example.com>\r\n\
        Resend-Idempotency-Key: victim\r\nX-SES-Configuration-Set: c\r\nX-Postmeter-Idempotency-Key: k\r\n\
        From: ann@example.com\r\nbCC : third@example.net\r\nTo: bob@example.net\r\nX-Other: kept\r\n\
        Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nBcc: only text\r\n";
    let got = String::from_utf8(without_received(&relayed(&meter, message.as_bytes()))).unwrap();
    assert_eq!(
        got,
        "From: ann@example.com\r\nTo: bob@example.net\r\nX-Other: kept\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nBcc: only text\r\n"
    );
}

#[test]
fn a_missing_date_and_message_id_are_added() {
    let meter = Meter::smtp().start();
    let message = "From: ann@example.com\r\nSubject: bare\r\n\r\nx\r\n";
    let got = String::from_utf8(without_received(&relayed(&meter, message.as_bytes()))).unwrap();
    let (added, rest) = got.split_at(got.len() - message.len());
    assert_eq!(rest, message);
    let lines: Vec<_> = added.lines().collect();
    assert_eq!(lines.len(), 2, "{added}");
    assert!(lines[0].starts_with("Message-ID: <") && lines[0].ends_with("@smtp.example.com>"), "{added}");
    assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" +0000"), "{added}");
}

#[test]
fn p4_a_customers_resend_header_cannot_swallow_another_mail() {
    let meter = Meter::resend().start();
    let mut smtp = meter.signed_in();
    for nth in 0..2 {
        let stolen = [b"Resend-Idempotency-Key: same\r\n".to_vec(), letter(&format!("n{nth}"))].concat();
        assert!(smtp.deliver(&stolen).starts_with("250 "));
    }
    meter.drain();
    let keys: Vec<_> = meter.mails().into_iter().filter_map(|mail| mail.idempotency_key).collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
    assert!(!meter.mails().iter().any(|mail| format!("{:?}", mail.email.headers).contains("same")));
}
