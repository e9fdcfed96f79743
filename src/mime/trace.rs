//! The stamp: a Received field in front, Date and Message-ID where they are
//! missing (RFC 6409 §8), and the fields that must not leave taken out.
//! Everything else stays byte for byte as it came.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

use super::inspect::{Inspection, without};
use crate::domain::arrival::Arrival;
use crate::domain::ids::MessageId;

/// What a message is stamped with.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// `smtp.hostname`.
    pub hostname: &'a str,
    /// When it was taken in.
    pub now: Timestamp,
    /// The id it was given.
    pub message_id: &'a MessageId,
    /// How it came.
    pub arrival: &'a Arrival,
}

/// The message as it is kept and sent: `bytes` with the stamp, without the
/// fields that `inspection` (of the same bytes) found must not leave.
pub fn prepare(bytes: &[u8], inspection: &Inspection, stamp: &Stamp<'_>) -> Vec<u8> {
    let stamped = stamped_fields(inspection, stamp);
    let mut out = Vec::with_capacity(stamped.len() + bytes.len());
    out.extend_from_slice(stamped.as_bytes());
    without(bytes, &inspection.stripped).for_each(|kept| out.extend_from_slice(kept));
    out
}

/// The date of a header, in UTC (RFC 5322 §3.3).
pub fn date(now: Timestamp) -> String {
    // Only years that RFC 5322 cannot write fail, and no clock shows those.
    DateTimePrinter::new()
        .zoned_to_string(&now.to_zoned(TimeZone::UTC))
        .unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

fn stamped_fields(inspection: &Inspection, stamp: &Stamp<'_>) -> String {
    let date = date(stamp.now);
    let (hostname, id) = (stamp.hostname, stamp.message_id);
    let mut out = received(stamp, &date);
    if !inspection.has_message_id {
        let _ = write!(out, "Message-ID: <{id}@{hostname}>\r\n");
    }
    if !inspection.has_date {
        let _ = write!(out, "Date: {date}\r\n");
    }
    out
}

/// RFC 5321 §4.4. There is no `for` clause: it could show a Bcc recipient.
fn received(stamp: &Stamp<'_>, date: &str) -> String {
    let Arrival { protocol, peer, helo, tls } = stamp.arrival;
    let literal = literal(peer.ip());
    let from = helo.as_deref().filter(|helo| is_plain(helo)).unwrap_or(&literal);
    let tls = match tls.as_deref().filter(|tls| is_plain(&tls.replace([' ', '/'], "-"))) {
        Some(tls) => format!(" ({tls})"),
        None => String::new(),
    };
    format!(
        "Received: from {from} ({literal})\r\n\tby {} with {protocol}{tls}\r\n\tid {}; {date}\r\n",
        stamp.hostname, stamp.message_id
    )
}

/// An address literal (RFC 5321 §4.1.3).
fn literal(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

/// What a client calls itself is written down only if nobody can be misled by it.
fn is_plain(word: &str) -> bool {
    (1..=255).contains(&word.len())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::inspect::inspect;

    fn arrival() -> Arrival {
        Arrival {
            protocol: "ESMTPSA",
            peer: "192.0.2.1:5000".parse().unwrap(),
            helo: Some("client.example".to_owned()),
            tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384".to_owned()),
        }
    }

    fn stamped(bytes: &[u8], arrival: &Arrival) -> String {
        let id = MessageId::parse("0199").unwrap();
        let now = Timestamp::from_second(1_781_000_000).unwrap();
        let stamp = Stamp { hostname: "smtp.example.com", now, message_id: &id, arrival };
        String::from_utf8(prepare(bytes, &inspect(bytes).unwrap(), &stamp)).unwrap()
    }

    const RECEIVED: &str = "Received: from client.example ([192.0.2.1])\r\n\
        \tby smtp.example.com with ESMTPSA (TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\
        \tid 0199; Tue, 9 Jun 2026 10:13:20 +0000\r\n";
    const ID: &str = "Message-ID: <0199@smtp.example.com>\r\n";
    const DATE: &str = "Date: Tue, 9 Jun 2026 10:13:20 +0000\r\n";

    #[test]
    fn only_what_is_missing_is_added_and_only_what_must_not_leave_is_taken_out() {
        let table = [
            ("From: a@x.example\r\n\r\nhi\r\n", [ID, DATE].concat(), "From: a@x.example\r\n\r\nhi\r\n"),
            (
                "message-id:<1@x>\r\nFrom: a@x.example\r\nDate : d\r\n\r\n",
                String::new(),
                "message-id:<1@x>\r\nFrom: a@x.example\r\nDate : d\r\n\r\n",
            ),
            (
                "Bcc: h@x.example,\r\n\ti@x.example\r\nFrom: a@x.example\r\nBCC : j@x.example\r\nTo: t@x.example\r\n\r\n",
                [ID, DATE].concat(),
                "From: a@x.example\r\nTo: t@x.example\r\n\r\n",
            ),
            (
                "Return-Path: <a@x.example>\r\nResend-Idempotency-Key: k\r\nX-SES-Configuration-Set: c\r\n\
                 x-postmeter-idempotency-key: k\r\nResent-Bcc: h@x.example\r\nResent-To: r@x.example\r\n\
                 X-SESAME: kept\r\nFrom: a@x.example\r\n\r\n",
                [ID, DATE].concat(),
                "Resent-To: r@x.example\r\nX-SESAME: kept\r\nFrom: a@x.example\r\n\r\n",
            ),
            (
                "From: a@x.example\r\n\r\nBcc: body text\r\n\r\nReturn-Path: too\r\n",
                [ID, DATE].concat(),
                "From: a@x.example\r\n\r\nBcc: body text\r\n\r\nReturn-Path: too\r\n",
            ),
            ("From: a@x.example\r\nBcc: h@x.example", [ID, DATE].concat(), "From: a@x.example\r\n"),
            ("From: a@x.example", [ID, DATE].concat(), "From: a@x.example"),
        ];
        for (bytes, added, rest) in table {
            assert_eq!(stamped(bytes.as_bytes(), &arrival()), format!("{RECEIVED}{added}{rest}"));
        }
    }

    #[test]
    fn bytes_outside_the_header_are_untouched() {
        let id = MessageId::parse("0199").unwrap();
        let arrival = arrival();
        let stamp = Stamp { hostname: "h", now: Timestamp::UNIX_EPOCH, message_id: &id, arrival: &arrival };
        let bytes = b"From: a@x.example\r\nX: \xff\xfe \r\n\r\n\x80..\xff\r\n \r\n\t";
        assert!(prepare(bytes, &inspect(bytes).unwrap(), &stamp).ends_with(bytes));
    }

    #[test]
    fn a_client_cannot_forge_the_trace() {
        let table = [
            (Some("evil\r\nBcc: x"), "from [192.0.2.1] ([192.0.2.1])"),
            (Some("a) by mx.bank.example ("), "from [192.0.2.1] ([192.0.2.1])"),
            (Some("[127.0.0.1]"), "from [127.0.0.1] ([192.0.2.1])"),
            (Some(""), "from [192.0.2.1] ([192.0.2.1])"),
            (None, "from [192.0.2.1] ([192.0.2.1])"),
        ];
        for (helo, want) in table {
            let arrival = Arrival { helo: helo.map(str::to_owned), tls: None, ..arrival() };
            let out = stamped(b"From: a@x.example\r\n\r\n", &arrival);
            assert!(out.contains(want) && out.contains("with ESMTPSA\r\n"), "{out}");
        }
        let arrival = Arrival { peer: "[2001:db8::1]:1".parse().unwrap(), protocol: "HTTP", ..arrival() };
        let out = stamped(b"From: a@x.example\r\n\r\n", &arrival);
        assert!(out.contains("([IPv6:2001:db8::1])") && out.contains("with HTTP "), "{out}");
    }

    proptest::proptest! {
        #[test]
        fn p5_no_bcc_survives_and_the_rest_does(fields in proptest::collection::vec(proptest::sample::select(vec![
            "Bcc: h@x.example\r\n", "bCC :\r\n\th@x.example\r\n", "Bcc:\r\n", "X-A: Bcc: 1\r\n", "X-B:\r\n Bcc: 2\r\n", "To:\r\n",
            "Resend-X: h@x.example\r\n", "Return-Path: <h@x.example>\r\n", "Date: d\r\n", "Message-ID: <1@x>\r\n",
        ]), 0..20), end in proptest::sample::select(vec!["", "\r\n", "\r\nBcc: body\r\n"])) {
            let kept: String = fields.iter().filter(|field| !field.contains('h') && !field.starts_with("Bcc")).copied().collect();
            let bytes = format!("From: a@x.example\r\n{}{end}", fields.concat());
            let out = stamped(bytes.as_bytes(), &arrival());
            let rest = format!("From: a@x.example\r\n{kept}{end}");
            proptest::prop_assert!(out.ends_with(&rest), "{}", out);
            let again = inspect(out.as_bytes()).unwrap();
            proptest::prop_assert!(again.stripped.is_empty() && again.has_date && again.has_message_id);
            proptest::prop_assert_eq!(again.received, 1);
        }
    }
}
