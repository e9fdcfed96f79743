//! The non-delivery report to the sender of a message (RFC 3464).

use std::fmt::Write as _;

use jiff::Timestamp;
use lettre::message::header::ContentType;

use super::header::{Header, one_line, text as header_text};
use super::trace::date;
use super::write::{Fields, Origin, Part, Seed, ascii, kind, message, multipart, text, text_file};
use crate::domain::address::Mailbox;
use crate::domain::ids::MessageId;

/// As much of the original header as is sent back, in octets.
const MAX_RETURNED_HEADER_BYTES: usize = 32 * 1024;

/// A recipient that does not get the message.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The recipient.
    pub recipient: &'a Mailbox,
    /// Enhanced status code: `5.1.1`.
    pub status: &'a str,
    /// What the upstream said.
    pub text: &'a str,
}

/// The message that failed.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// Its sender, who is told.
    pub sender: &'a Mailbox,
    /// Its id.
    pub message_id: &'a MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The message as it was accepted, or at least its header.
    pub bytes: &'a [u8],
}

/// How the report is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// multipart/report, which programs can read.
    Report,
    /// The same content as text with two text files, for a road that writes every
    /// message anew.
    Plain,
}

/// Writes the report about recipients that newly failed.
pub fn bounce(origin: &Origin<'_>, failed: &Failed<'_>, failures: &[Failure<'_>], shape: Shape) -> Vec<u8> {
    let original = Original::read(failed.bytes);
    let mut fields = Fields::of_our_own(origin, failed.sender.clone().into(), "auto-replied");
    fields.text("Subject", &format!("Undelivered: {}", original.subject));
    if let Some(id) = &original.message_id {
        fields.raw("In-Reply-To", id);
        fields.raw("References", id);
    }
    let explanation = explanation(origin, failed, failures, &original.subject);
    let status = delivery_status(origin, failed, failures);
    let seed = Seed::of([explanation.as_bytes(), status.as_bytes(), original.header.as_bytes()]);
    let explanation = text(ContentType::TEXT_PLAIN, &explanation);
    let (subtype, parts) = match shape {
        Shape::Report => (
            "report; report-type=delivery-status",
            [
                explanation,
                ascii(kind("message/delivery-status"), &status),
                text(kind("text/rfc822-headers; charset=utf-8"), &original.header),
            ],
        ),
        Shape::Plain => (
            "mixed",
            [
                explanation,
                text_file("delivery-status.txt", &status),
                text_file("original-headers.txt", &original.header),
            ],
        ),
    };
    let parts = parts.into_iter().map(Part::Single).collect();
    message(fields, Part::Multi(multipart(subtype, &seed, parts)))
}

/// What is said about the original.
struct Original {
    subject: String,
    message_id: Option<String>,
    header: String,
}

impl Original {
    fn read(bytes: &[u8]) -> Self {
        let Ok(header) = Header::parse(bytes) else {
            return Self { subject: String::new(), message_id: None, header: String::new() };
        };
        let subject = header.first("Subject").map(|field| field.decoded()).unwrap_or_default();
        let is_id =
            |id: &String| id.len() <= 900 && id.is_ascii() && id.starts_with('<') && !id.contains(' ');
        let ends = header.fields.iter().map(|field| field.range().end);
        let end = ends.take_while(|end| *end <= MAX_RETURNED_HEADER_BYTES).last().unwrap_or(0);
        Self {
            subject: subject.chars().take(100).collect(),
            message_id: header.first("Message-ID").map(|field| field.unfolded()).filter(is_id),
            header: header_text(bytes.get(..end).unwrap_or_default()).into_owned(),
        }
    }
}

fn explanation(origin: &Origin<'_>, failed: &Failed<'_>, failures: &[Failure<'_>], subject: &str) -> String {
    let mut out = format!("This is the mail relay at {}.\n\n", origin.hostname);
    out.push_str(
        "Your message could not be delivered to the recipients below, and will not be tried again.\n\n",
    );
    for failure in failures {
        let text = one_line(failure.text);
        // Servers like to say the code themselves.
        let status = if text.contains(failure.status) { "" } else { failure.status };
        let _ = write!(out, "<{}>\n    {}\n\n", failure.recipient, format!("{status} {text}").trim_start());
    }
    let _ =
        write!(out, "Subject: {subject}\nAccepted: {} as {}\n", date(failed.accepted_at), failed.message_id);
    out
}

/// RFC 3464 §2: one group about the message, one about each recipient.
fn delivery_status(origin: &Origin<'_>, failed: &Failed<'_>, failures: &[Failure<'_>]) -> String {
    let mut out =
        format!("Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n", origin.hostname, date(failed.accepted_at));
    for Failure { recipient, status, text } in failures {
        let _ = write!(
            out,
            "\r\nFinal-Recipient: {}\r\nAction: failed\r\nStatus: {}\r\nDiagnostic-Code: x-postmeter; {}\r\n",
            final_recipient(recipient),
            one_line(status),
            one_line(text)
        );
    }
    out
}

/// RFC 3464 §2.3.2; an address that is not ASCII in the ASCII writing of RFC 6533 §3.
fn final_recipient(mailbox: &Mailbox) -> String {
    if mailbox.fits_ascii() {
        return format!("rfc822; {}", mailbox.to_ascii());
    }
    let mut out = "utf-8; ".to_owned();
    for c in mailbox.to_string().chars() {
        if matches!(c, '!'..='~') && !"\\+=".contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::address_list::NamedMailbox;
    use crate::mime::entity::{Content, Entity};
    use crate::mime::inspect::inspect;

    fn written(original: &[u8], shape: Shape) -> Vec<u8> {
        let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
        let mailbox = |text| Mailbox::parse(text).unwrap();
        let (id, original_id) = (MessageId::parse("0200").unwrap(), MessageId::parse("0199").unwrap());
        let now = Timestamp::from_second(1_781_000_000).unwrap();
        let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &id };
        let (sender, bob) = (mailbox("ann@x.example"), mailbox("bob@b\u{fc}cher.example"));
        let failed = Failed { sender: &sender, message_id: &original_id, accepted_at: now, bytes: original };
        let unknown = mailbox("gr\u{fc}n@y.example");
        let failures = [
            Failure { recipient: &bob, status: "5.1.1", text: "no such\r\nX-Evil: user \u{fc}" },
            Failure { recipient: &unknown, status: "5.6.7", text: "not carried" },
        ];
        bounce(&origin, &failed, &failures, shape)
    }

    const ORIGINAL: &[u8] = "Received: from app.example\r\n\tby smtp.example.com; now\r\nFrom: ann@x.example\r\n\
        Message-ID: <1@x.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Raw: \u{fc}\r\n\r\nsecret body\r\n"
        .as_bytes();

    fn leaves(bytes: &[u8]) -> Vec<(String, String)> {
        let header = Header::parse(bytes).unwrap();
        let entity = Entity::parse(&header).unwrap();
        let Content::Parts(parts) = &entity.content else { panic!("no multipart") };
        let text = |part: &Entity<'_>| part.text(&part.decoded().unwrap()).unwrap().text;
        parts.iter().map(|part| (part.media.essence(), text(part))).collect()
    }

    #[test]
    fn a_sender_is_told_who_did_not_get_it_and_why() {
        let bytes = written(ORIGINAL, Shape::Report);
        let report = leaves(&bytes);
        let kinds: Vec<&str> = report.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
        assert!(report[0].1.contains("<bob@b\u{fc}cher.example>\n    5.1.1 no such X-Evil: user \u{fc}\n"));
        assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n"));
        assert_eq!(
            report[1].1,
            "Reporting-MTA: dns; smtp.example.com\nArrival-Date: Tue, 9 Jun 2026 10:13:20 +0000\n\n\
             Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: failed\nStatus: 5.1.1\n\
             Diagnostic-Code: x-postmeter; no such X-Evil: user ?\n\n\
             Final-Recipient: utf-8; gr\\x{FC}n@y.example\nAction: failed\nStatus: 5.6.7\n\
             Diagnostic-Code: x-postmeter; not carried\n"
        );
        assert!(
            report[2].1.starts_with("Received: from app.example\n\tby")
                && report[2].1.ends_with("X-Raw: \u{fc}\n")
        );

        let inspection = inspect(&bytes).unwrap();
        assert!(inspection.has_date && inspection.has_message_id);
        assert_eq!(inspection.subject.as_deref(), Some("Undelivered: Gr\u{fc}\u{df}e"));
        let header = Header::parse(&bytes).unwrap();
        let value = |name| header.first(name).unwrap().unfolded();
        assert_eq!(value("To"), "ann@x.example");
        assert_eq!(value("Auto-Submitted"), "auto-replied");
        assert_eq!(
            (value("In-Reply-To"), value("References")),
            ("<1@x.example>".into(), "<1@x.example>".into())
        );
        assert!(
            value("Content-Type").starts_with("multipart/report; report-type=delivery-status; boundary=")
        );
    }

    #[test]
    fn the_same_report_travels_over_a_road_that_writes_messages_anew() {
        let bytes = written(ORIGINAL, Shape::Plain);
        let (report, plain) = (leaves(&written(ORIGINAL, Shape::Report)), leaves(&bytes));
        assert!(plain.iter().all(|(kind, _)| kind == "text/plain"));
        let texts =
            |parts: Vec<(String, String)>| parts.into_iter().map(|(_, text)| text.replace('\u{fc}', "?"));
        assert!(texts(report).eq(texts(plain)));
        assert!(!String::from_utf8_lossy(&bytes).contains("secret body"));
    }

    #[test]
    fn an_unreadable_or_huge_original_is_no_obstacle() {
        let huge =
            format!("X: {}\r\n{}\r\n", "y".repeat(60), format!("X: {}\r\n", "z".repeat(900)).repeat(100));
        for original in [&b""[..], b"no header", huge.as_bytes()] {
            let bytes = written(original, Shape::Report);
            assert!(bytes.len() < MAX_RETURNED_HEADER_BYTES + 4096);
            assert_eq!(leaves(&bytes).len(), 3);
        }
    }

    #[test]
    fn every_line_fits_the_wire() {
        let long = format!("Subject: {}\r\nX-Long: {}\r\n\r\n", "s ".repeat(600), "x".repeat(5000));
        for shape in [Shape::Report, Shape::Plain] {
            let bytes = written(long.as_bytes(), shape);
            let written = String::from_utf8(bytes).unwrap();
            assert!(written.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
        }
    }
}
