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
    /// What is left of it.
    pub left: Left<'a>,
}

/// What is left of a message that failed.
#[derive(Debug, Clone, Copy)]
pub enum Left<'a> {
    /// The message as it was accepted, or at least its header.
    Message(&'a [u8]),
    /// What the log knows: it was taken by the upstream before it failed, and is not kept so long.
    Log {
        /// The From header's address.
        from: &'a str,
        /// The subject.
        subject: Option<&'a str>,
    },
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
    let original = Original::of(failed.left);
    let mut fields = Fields::of_our_own(origin, failed.sender.clone().into(), "auto-replied");
    fields.text("Subject", &format!("Undelivered: {}", original.subject));
    if let Some(id) = &original.message_id {
        fields.raw("In-Reply-To", id);
        fields.raw("References", id);
    }
    let explanation = explanation(origin, failed, failures, &original);
    let status = delivery_status(origin, failed, failures);
    let header = original.header.unwrap_or_default();
    let seed = Seed::of([explanation.as_bytes(), status.as_bytes(), header.as_bytes()]);
    let explanation = text(ContentType::TEXT_PLAIN, &explanation);
    let is_there = !header.is_empty();
    let (subtype, status, header) = match shape {
        Shape::Report => (
            "report; report-type=delivery-status",
            ascii(kind("message/delivery-status"), &status),
            is_there.then(|| text(kind("text/rfc822-headers; charset=utf-8"), &header)),
        ),
        Shape::Plain => (
            "mixed",
            text_file("delivery-status.txt", &status),
            is_there.then(|| text_file("original-headers.txt", &header)),
        ),
    };
    let parts = [explanation, status].into_iter().chain(header).map(Part::Single).collect();
    message(fields, Part::Multi(multipart(subtype, &seed, parts)))
}

/// What is said about the original.
struct Original {
    subject: String,
    from: Option<String>,
    message_id: Option<String>,
    /// `None`: it is gone.
    header: Option<String>,
}

impl Original {
    fn of(left: Left<'_>) -> Self {
        match left {
            Left::Message(bytes) => Self::read(bytes),
            Left::Log { from, subject } => Self {
                subject: shortened(subject.unwrap_or_default()),
                from: Some(from.to_owned()).filter(|from| !from.is_empty()),
                message_id: None,
                header: None,
            },
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let Ok(header) = Header::parse(bytes) else {
            return Self {
                subject: String::new(),
                from: None,
                message_id: None,
                header: Some(String::new()),
            };
        };
        let subject = header.first("Subject").map(|field| field.decoded()).unwrap_or_default();
        let is_id =
            |id: &String| id.len() <= 900 && id.is_ascii() && id.starts_with('<') && !id.contains(' ');
        let ends = header.fields.iter().map(|field| field.range().end);
        let end = ends.take_while(|end| *end <= MAX_RETURNED_HEADER_BYTES).last().unwrap_or(0);
        Self {
            subject: shortened(&subject),
            from: header.first("From").map(|field| shortened(&field.decoded())),
            message_id: header.first("Message-ID").map(|field| field.unfolded()).filter(is_id),
            header: Some(header_text(bytes.get(..end).unwrap_or_default()).into_owned()),
        }
    }
}

fn shortened(text: &str) -> String {
    one_line(text).chars().take(100).collect()
}

fn explanation(
    origin: &Origin<'_>,
    failed: &Failed<'_>,
    failures: &[Failure<'_>],
    original: &Original,
) -> String {
    let mut out = format!("This is the mail relay at {}.\n\n", origin.hostname);
    out.push_str(match failed.left {
        Left::Message(_) => {
            "Your message could not be delivered to the recipients below, and will not be tried again.\n\n"
        }
        Left::Log { .. } => {
            "Your message was sent, and came back later: it did not reach the recipients below, and will \
             not be tried again.\n\n"
        }
    });
    let _ = writeln!(out, "    Subject: {}", original.subject);
    if let Some(from) = &original.from {
        let _ = writeln!(out, "    From: {from}");
    }
    let _ = writeln!(out, "    Accepted: {} as {}\n", date(failed.accepted_at), failed.message_id);
    for failure in failures {
        let text = one_line(failure.text);
        // Servers like to say the code themselves.
        let status = if text.contains(failure.status) { "" } else { failure.status };
        let (what, to_do) = advice(failure.status);
        let _ = write!(
            out,
            "<{}>\n    {what}\n    What to do: {to_do}\n    What was said: {}\n\n",
            failure.recipient,
            format!("{status} {text}").trim()
        );
    }
    out.push_str(match &original.header {
        Some(header) if header.is_empty() => "Attached: the same for programs.\n",
        Some(_) => "Attached: the same for programs, and the header of your message.\n",
        None => {
            "Attached: the same for programs. The message itself is not kept after it was sent, so its \
             header cannot be attached.\n"
        }
    });
    out
}

/// What a status code means, and what a sender can do (RFC 3463 §3 and its registry).
fn advice(status: &str) -> (&'static str, &'static str) {
    let mut numbers = status.splitn(3, '.');
    let (class, subject) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    match (status, subject) {
        ("5.1.1" | "5.1.0" | "5.1.6", _) => (
            "This address does not exist, or takes no mail any more.",
            "check it for typing errors, or ask the recipient for another one.",
        ),
        ("5.1.2" | "5.1.10" | "5.4.4", _) => (
            "The domain of this address takes no mail, or does not exist.",
            "check the part behind the @ for typing errors.",
        ),
        ("5.1.7" | "5.1.8", _) => (
            "The address that it was sent from was not accepted.",
            "check the sender's address, and whether its domain may be sent from.",
        ),
        (_, "1") => ("There is something wrong with the address.", "check how it is written."),
        ("5.2.2" | "4.2.2", _) => (
            "The recipient's mailbox is full.",
            "send it again later, or reach the recipient in another way.",
        ),
        ("5.2.3" | "5.3.4", _) => (
            "The message is too large for the recipient's server.",
            "send large files in smaller pieces, or as a link.",
        ),
        ("5.2.1", _) => ("The recipient's mailbox is closed.", "ask the recipient for another address."),
        ("4.4.7" | "5.4.7", _) => (
            "It could not be delivered in the time that was allowed for it.",
            "send it again later; if that fails too, check the part behind the @.",
        ),
        ("5.4.6", _) => (
            "The message was going in circles between servers.",
            "tell the recipient: their mail is forwarded in a loop.",
        ),
        ("5.3.0", _) => (
            "A server on the way gave it up; nothing is wrong with the address.",
            "send it again, or ask the operator of this relay.",
        ),
        (_, "6") => (
            "The content of the message was refused, or cannot be carried.",
            "send it in a simpler form, without unusual attachments.",
        ),
        (_, "7") => (
            "The recipient's server refused it by its rules, perhaps as spam.",
            "check the SPF, DKIM and DMARC records of your domain, or ask the recipient to allow your mail.",
        ),
        _ if class == "4" => ("There was trouble on the way that lasted too long.", "send it again later."),
        _ => (
            "The recipient's server refused it for good.",
            "read what was said, or ask the recipient in another way.",
        ),
    }
}

/// RFC 3464 §2: one group about the message, one about each recipient.
fn delivery_status(origin: &Origin<'_>, failed: &Failed<'_>, failures: &[Failure<'_>]) -> String {
    let mut out =
        format!("Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n", origin.hostname, date(failed.accepted_at));
    let _ = write!(out, "X-Postmeter-Message-Id: {}\r\n", failed.message_id);
    for Failure { recipient, status, text } in failures {
        let _ = write!(
            out,
            "\r\nFinal-Recipient: {}\r\nAction: failed\r\nStatus: {}\r\nDiagnostic-Code: {}\r\n",
            final_recipient(recipient),
            one_line(status),
            diagnostic_code(&one_line(text))
        );
    }
    out
}

/// RFC 3464 §2.3.6: what a mail server said, if it did; our own words otherwise.
fn diagnostic_code(text: &str) -> String {
    if let Some((_, said)) = text.split_once("smtp; ") {
        return format!("smtp; {said}");
    }
    let mut start = text.bytes();
    // A number from 400 on may be HTTP's.
    let is_reply = start.next() == Some(b'5')
        && start.by_ref().take(2).filter(u8::is_ascii_digit).count() == 2
        && matches!(start.next(), Some(b' ' | b'-'));
    format!("{}; {text}", if is_reply { "smtp" } else { "x-postmeter" })
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
        of(Left::Message(original), shape)
    }

    fn of(left: Left<'_>, shape: Shape) -> Vec<u8> {
        let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
        let mailbox = |text| Mailbox::parse(text).unwrap();
        let (id, original_id) = (MessageId::parse("0200").unwrap(), MessageId::parse("0199").unwrap());
        let now = Timestamp::from_second(1_781_000_000).unwrap();
        let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &id };
        let (sender, bob) = (mailbox("ann@x.example"), mailbox("bob@b\u{fc}cher.example"));
        let failed = Failed { sender: &sender, message_id: &original_id, accepted_at: now, left };
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
        assert!(report[0].1.contains(
            "<bob@b\u{fc}cher.example>\n    This address does not exist, or takes no mail any more.\n    \
             What to do: check it for typing errors, or ask the recipient for another one.\n    \
             What was said: 5.1.1 no such X-Evil: user \u{fc}\n"
        ));
        assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n    Accepted: "));
        assert_eq!(
            report[1].1,
            "Reporting-MTA: dns; smtp.example.com\nArrival-Date: Tue, 9 Jun 2026 10:13:20 +0000\n\
             X-Postmeter-Message-Id: 0199\n\n\
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
    fn what_came_back_late_is_told_with_what_is_left() {
        let left = Left::Log { from: "ann@x.example", subject: Some("Gr\u{fc}\u{df}e") };
        for (shape, kinds) in [
            (Shape::Report, ["text/plain", "message/delivery-status"]),
            (Shape::Plain, ["text/plain", "text/plain"]),
        ] {
            let bytes = of(left, shape);
            let report = leaves(&bytes);
            let found: Vec<&str> = report.iter().map(|(kind, _)| kind.as_str()).collect();
            assert_eq!(found, kinds);
            assert!(report[0].1.contains("came back later"), "{}", report[0].1);
            assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n"));
            assert!(report[0].1.contains("is not kept after it was sent"), "{}", report[0].1);
            assert!(inspect(&bytes).unwrap().subject.unwrap().starts_with("Undelivered: Gr"));
        }
    }

    #[test]
    fn each_code_has_its_words() {
        let table = [
            ("5.1.1", "does not exist, or takes no mail"),
            ("5.1.3", "wrong with the address"),
            ("5.2.2", "mailbox is full"),
            ("5.3.4", "too large"),
            ("5.7.1", "by its rules"),
            ("5.7.26", "by its rules"),
            ("5.4.4", "domain"),
            ("5.4.7", "in the time"),
            ("4.4.7", "in the time"),
            ("5.6.0", "content"),
            ("4.3.0", "lasted too long"),
            ("5.0.0", "for good"),
            ("", "for good"),
        ];
        for (status, words) in table {
            assert!(advice(status).0.contains(words), "{status}: {:?}", advice(status));
        }
    }

    #[test]
    fn a_diagnostic_code_says_whose_words_they_are() {
        let table = [
            ("550 5.1.1 no such user", "smtp; 550 5.1.1 no such user"),
            ("550-5.1.1 no", "smtp; 550-5.1.1 no"),
            ("Permanent General: smtp; 550 5.1.1 no", "smtp; 550 5.1.1 no"),
            (
                "422 validation_error: Invalid `to` field.",
                "x-postmeter; 422 validation_error: Invalid `to` field.",
            ),
            ("not carried", "x-postmeter; not carried"),
            ("55", "x-postmeter; 55"),
            ("", "x-postmeter; "),
        ];
        for (text, wanted) in table {
            assert_eq!(diagnostic_code(text), wanted);
        }
    }

    #[test]
    fn an_unreadable_or_huge_original_is_no_obstacle() {
        let huge =
            format!("X: {}\r\n{}\r\n", "y".repeat(60), format!("X: {}\r\n", "z".repeat(900)).repeat(100));
        for original in [&b""[..], b"no header", huge.as_bytes()] {
            let bytes = written(original, Shape::Report);
            assert!(bytes.len() < MAX_RETURNED_HEADER_BYTES + 4096);
            let parts = leaves(&bytes).len();
            assert_eq!(parts, if original.starts_with(b"X") { 3 } else { 2 });
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
