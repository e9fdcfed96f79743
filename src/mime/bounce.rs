//! Reports to the sender of a message (RFC 3464): whom it did not reach, and whom it was
//! handed on to. RFC 3461 says what the sender is told besides: its own name for the
//! message, whom it meant, and how much of the message it gets back.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use lettre::message::header::ContentType;

use super::advice::advice;
use super::header::{Header, one_line, text as header_text};
use super::returned::Returned;
use super::trace::date;
use super::write::{Fields, Origin, Part, Seed, ascii, kind, message, multipart, text, text_file};
use crate::domain::address::Mailbox;
use crate::domain::answer::{HandedOn, Taker};
use crate::domain::dsn::Dsn;
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
    /// The host that said it, if it is a mail server's.
    pub host: Option<&'a str>,
}

/// The message that is reported on.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its sender, who is told.
    pub sender: &'a Mailbox,
    /// Its id.
    pub message_id: &'a MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What is left of it.
    pub left: Left<'a>,
    /// What its sender asks to be told.
    pub dsn: &'a Dsn,
}

/// What is left of a message.
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
    /// The same content as text with two text files, for a road that writes every message
    /// anew; that it was handed on as one text.
    Plain,
}

/// Writes the report about recipients that newly failed.
pub fn bounce(origin: &Origin<'_>, about: &About<'_>, failures: &[Failure<'_>], shape: Shape) -> Vec<u8> {
    let original = Original::of(about.left);
    let returned = Returned::of(about, original.header.as_deref(), shape);
    let news = News {
        title: "Undelivered",
        explanation: explanation(origin, about, failures, &original) + returned.note(),
        recipients: failures.iter().map(|failure| failed(about, failure)).collect(),
    };
    report(origin, about, (news, &original, returned), shape)
}

/// Writes the report about recipients to whom the message was handed on, by a way on which
/// nobody else reports (RFC 3461 §5.2.2).
pub fn relayed(origin: &Origin<'_>, about: &About<'_>, recipients: &[&HandedOn], shape: Shape) -> Vec<u8> {
    let original = Original::of(about.left);
    let explanation = handed_on(origin, about, recipients, &original);
    let groups: String = recipients.iter().map(|to| taken(about, to)).collect();
    if shape == Shape::Plain {
        // One text and no file, so that many of them leave in one call.
        let status = (of_the_message(origin, about) + &groups).replace("\r\n", "\n");
        let text = text(ContentType::TEXT_PLAIN, &format!("{explanation}The same for programs:\n\n{status}"));
        return message(fields(origin, about, "Sent", &original), Part::Single(text));
    }
    // RET is about failures only (RFC 3461 §4.3).
    let returned = Returned::header(original.header.as_deref());
    let explanation = explanation + returned.note();
    let news = News { title: "Sent", explanation, recipients: groups };
    report(origin, about, (news, &original, returned), shape)
}

/// What a report says.
struct News {
    /// What the subject begins with.
    title: &'static str,
    explanation: String,
    /// A group of fields for each recipient.
    recipients: String,
}

fn report(
    origin: &Origin<'_>,
    about: &About<'_>,
    (news, original, returned): (News, &Original, Returned<'_>),
    shape: Shape,
) -> Vec<u8> {
    let fields = fields(origin, about, news.title, original);
    let status = of_the_message(origin, about) + &news.recipients;
    let seed = Seed::of([news.explanation.as_bytes(), status.as_bytes(), returned.octets()]);
    let explanation = text(ContentType::TEXT_PLAIN, &news.explanation);
    let (subtype, status) = match shape {
        Shape::Report => {
            ("report; report-type=delivery-status", ascii(kind("message/delivery-status"), &status))
        }
        Shape::Plain => ("mixed", text_file("delivery-status.txt", &status)),
    };
    let mut parts = vec![returned.first(explanation, &seed, shape), Part::Single(status)];
    parts.extend(returned.third(shape).map(Part::Single));
    message(fields, Part::Multi(multipart(subtype, &seed, parts)))
}

/// The header of a report.
fn fields(origin: &Origin<'_>, about: &About<'_>, title: &str, original: &Original) -> Fields {
    let mut fields = Fields::of_our_own(origin, about.sender.clone().into(), "auto-replied");
    fields.text("Subject", &format!("{title}: {}", original.subject));
    if let Some(id) = &original.message_id {
        fields.raw("In-Reply-To", id);
        fields.raw("References", id);
    }
    fields
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
    about: &About<'_>,
    failures: &[Failure<'_>],
    original: &Original,
) -> String {
    let mut out = format!("This is the mail relay at {}.\n\n", origin.hostname);
    out.push_str(match about.left {
        Left::Message(_) => {
            "Your message could not be delivered to the recipients below, and will not be tried again.\n\n"
        }
        Left::Log { .. } => {
            "Your message was sent, and came back later: it did not reach the recipients below, and will \
             not be tried again.\n\n"
        }
    });
    out.push_str(&identity(about, original));
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
    out
}

fn handed_on(
    origin: &Origin<'_>,
    about: &About<'_>,
    recipients: &[&HandedOn],
    original: &Original,
) -> String {
    let mut out = format!("This is the mail relay at {}.\n\n", origin.hostname);
    out.push_str(
        "You asked to be told of success: your message was handed on to the recipients below. From there on \
         nobody reports a success, but a failure may still come back.\n\n",
    );
    out.push_str(&identity(about, original));
    for HandedOn { recipient, .. } in recipients {
        let _ = writeln!(out, "<{recipient}>");
    }
    out.push('\n');
    out
}

/// Which message it is.
fn identity(about: &About<'_>, original: &Original) -> String {
    let mut out = format!("    Subject: {}\n", original.subject);
    if let Some(from) = &original.from {
        let _ = writeln!(out, "    From: {from}");
    }
    let _ = writeln!(out, "    Accepted: {} as {}\n", date(about.accepted_at), about.message_id);
    out
}

/// The fields about the message (RFC 3464 §2.2).
fn of_the_message(origin: &Origin<'_>, about: &About<'_>) -> String {
    let id = about.dsn.envelope_id().map(|id| format!("Original-Envelope-Id: {}\r\n", id.decoded()));
    let mut out = id.unwrap_or_default();
    let _ = write!(out, "Reporting-MTA: dns; {}\r\n", origin.hostname);
    let _ = write!(out, "Arrival-Date: {}\r\n", date(about.accepted_at));
    let _ = write!(out, "X-Postmeter-Message-Id: {}\r\n", about.message_id);
    out
}

/// The fields about a recipient (RFC 3464 §2.3).
fn group(about: &About<'_>, recipient: &Mailbox, action: &str, status: &str) -> String {
    let original = about.dsn.of(recipient).original.as_ref();
    let original =
        original.map(|of| format!("Original-Recipient: {}; {}\r\n", of.address_type(), of.decoded()));
    format!(
        "\r\n{}Final-Recipient: {}\r\nAction: {action}\r\nStatus: {}\r\n",
        original.unwrap_or_default(),
        final_recipient(recipient),
        one_line(status),
    )
}

fn failed(about: &About<'_>, Failure { recipient, status, text, host }: &Failure<'_>) -> String {
    let text = one_line(text);
    let by = host.filter(|_| is_refusal(&text)).map(remote_mta).unwrap_or_default();
    let group = group(about, recipient, "failed", status);
    format!("{group}{by}Diagnostic-Code: {}\r\n", diagnostic_code(&text))
}

fn taken(about: &About<'_>, HandedOn { recipient, by }: &HandedOn) -> String {
    let group = group(about, recipient, "relayed", "2.0.0");
    let said = |Taker { host, reply }: &Taker| {
        format!("{}Diagnostic-Code: smtp; {}\r\n", remote_mta(host), one_line(reply))
    };
    group + &by.as_ref().map(said).unwrap_or_default()
}

/// RFC 3464 §2.3.5, an address without a name as RFC 5321 §4.1.3 writes it.
fn remote_mta(host: &str) -> String {
    let host = match host.parse() {
        Ok(IpAddr::V4(address)) => format!("[{address}]"),
        Ok(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
        Err(_) => host.to_owned(),
    };
    format!("Remote-MTA: dns; {host}\r\n")
}

/// RFC 3464 §2.3.6: what a mail server said, if it did; our own words otherwise.
fn diagnostic_code(text: &str) -> String {
    if let Some((_, said)) = text.split_once("smtp; ") {
        return format!("smtp; {said}");
    }
    format!("{}; {text}", if is_refusal(text) { "smtp" } else { "x-postmeter" })
}

/// Whether it is a mail server's reply, and not our own words. A number from 400 on may be HTTP's.
fn is_refusal(text: &str) -> bool {
    let mut start = text.bytes();
    start.next() == Some(b'5')
        && start.by_ref().take(2).filter(u8::is_ascii_digit).count() == 2
        && matches!(start.next(), Some(b' ' | b'-'))
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
    use crate::domain::dsn::{EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};
    use crate::mime::address_list::NamedMailbox;
    use crate::mime::entity::{Content, Entity};
    use crate::mime::header::header_length;
    use crate::mime::inspect::inspect;
    use crate::mime::returned::MAX_RETURNED_BYTES;

    fn written(original: &[u8], shape: Shape) -> Vec<u8> {
        of(Left::Message(original), shape)
    }

    fn of(left: Left<'_>, shape: Shape) -> Vec<u8> {
        asking(&Dsn::default(), left, shape)
    }

    fn asking(dsn: &Dsn, left: Left<'_>, shape: Shape) -> Vec<u8> {
        let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
        let mailbox = |text| Mailbox::parse(text).unwrap();
        let (id, original_id) = (MessageId::parse("0200").unwrap(), MessageId::parse("0199").unwrap());
        let now = Timestamp::from_second(1_781_000_000).unwrap();
        let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &id };
        let (sender, bob) = (mailbox("ann@x.example"), mailbox("bob@b\u{fc}cher.example"));
        let about = About { sender: &sender, message_id: &original_id, accepted_at: now, left, dsn };
        let unknown = mailbox("gr\u{fc}n@y.example");
        let host = Some("mx.y.example");
        let failures = [
            Failure { recipient: &bob, status: "5.1.1", text: "550 no such\r\nX-Evil: user \u{fc}", host },
            Failure { recipient: &unknown, status: "5.6.7", text: "not carried", host },
        ];
        match dsn.of(&bob).wants_success() {
            true => {
                let taker =
                    Taker { host: "::1".to_owned(), reply: "250 2.0.0 queued\u{1b} as 42".to_owned() };
                let bob = HandedOn { recipient: bob.clone(), by: Some(taker) };
                let unknown = HandedOn { recipient: unknown.clone(), by: None };
                relayed(&origin, &about, &[&bob, &unknown], shape)
            }
            false => bounce(&origin, &about, &failures, shape),
        }
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
             What was said: 5.1.1 550 no such X-Evil: user \u{fc}\n"
        ));
        assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n    Accepted: "));
        assert_eq!(
            report[1].1,
            "Reporting-MTA: dns; smtp.example.com\nArrival-Date: Tue, 9 Jun 2026 10:13:20 +0000\n\
             X-Postmeter-Message-Id: 0199\n\n\
             Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: failed\nStatus: 5.1.1\n\
             Remote-MTA: dns; mx.y.example\nDiagnostic-Code: smtp; 550 no such X-Evil: user ?\n\n\
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

    /// With a name for the message, and Bob meant by another address.
    fn asked(ret: &str, notify: &str) -> Dsn {
        let mut dsn = Dsn::new(Ret::parse(ret).ok(), EnvelopeId::parse("QQ+2B1+20x").ok());
        let asked = RecipientDsn {
            notify: Notify::parse(notify).ok(),
            original: OriginalRecipient::parse("utf-8;bob@b\u{fc}cher.example").ok(),
        };
        dsn.ask(&Mailbox::parse("bob@b\u{fc}cher.example").unwrap(), asked);
        dsn
    }

    #[test]
    fn a_report_has_the_senders_own_names() {
        let bytes = asking(&asked("", ""), Left::Message(ORIGINAL), Shape::Report);
        let status = leaves(&bytes).remove(1).1;
        assert!(status.starts_with("Original-Envelope-Id: QQ+1 x\nReporting-MTA: "), "{status}");
        let group = "\n\nOriginal-Recipient: utf-8; bob@b\\x{FC}cher.example\n\
            Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: failed\n";
        assert!(status.contains(group), "{status}");
        assert!(status.contains("\n\nFinal-Recipient: utf-8; gr"), "{status}");
    }

    #[test]
    fn whoever_asked_is_told_that_it_was_handed_on() {
        for (left, shape, parts) in [
            (Left::Message(ORIGINAL), Shape::Report, 3),
            (Left::Log { from: "", subject: Some("Gr\u{fc}\u{df}e") }, Shape::Report, 2),
        ] {
            let bytes = asking(&asked("FULL", "SUCCESS"), left, shape);
            let report = leaves(&bytes);
            assert_eq!(report.len(), parts);
            assert!(report[0].1.contains("handed on"), "{}", report[0].1);
            assert!(report[0].1.contains("\n<bob@b\u{fc}cher.example>\n"), "{}", report[0].1);
            let group = "Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: relayed\nStatus: 2.0.0\n\
                Remote-MTA: dns; [IPv6:::1]\nDiagnostic-Code: smtp; 250 2.0.0 queued  as 42\n\n";
            assert!(report[1].1.contains(group), "{}", report[1].1);
            assert!(report[1].1.ends_with("Action: relayed\nStatus: 2.0.0\n"), "{}", report[1].1);
            assert_eq!(inspect(&bytes).unwrap().subject.as_deref(), Some("Sent: Gr\u{fc}\u{df}e"));
            assert!(!String::from_utf8_lossy(&bytes).contains("secret body"), "only failures return it");
        }
    }

    #[test]
    fn that_it_was_handed_on_is_one_text_over_a_road_that_writes_messages_anew() {
        let bytes = asking(&asked("FULL", "SUCCESS"), Left::Message(ORIGINAL), Shape::Plain);
        let header = Header::parse(&bytes).unwrap();
        let entity = Entity::parse(&header).unwrap();
        assert_eq!(
            (entity.media.essence().as_str(), header.first("Content-Disposition").is_none()),
            ("text/plain", true)
        );
        let said = entity.text(&entity.decoded().unwrap()).unwrap().text;
        assert!(said.contains("\n<bob@b\u{fc}cher.example>\n"), "{said}");
        let programs =
            "The same for programs:\n\nOriginal-Envelope-Id: QQ+1 x\nReporting-MTA: dns; smtp.example.com\n";
        assert!(said.contains(programs), "{said}");
        assert!(said.contains("Action: relayed\nStatus: 2.0.0\n"), "{said}");
        let route = crate::routing::Routing::new(&crate::config::Config::default());
        let to = [Mailbox::parse("ann@x.example").unwrap()];
        let parts = route.parts(&MessageId::parse("0200").unwrap(), &bytes, &to).unwrap();
        assert_eq!(parts[0].batch_max, crate::domain::batch::MOST, "many of them share a call");
    }

    #[test]
    fn all_of_the_message_comes_back_where_that_was_asked_for() {
        let seven = b"Subject: s\r\nFrom: a@x.example\r\n\r\n.\r\nsecret body\r\n".as_slice();
        let long = [seven, "x".repeat(999).as_bytes(), b"\r\n"].concat();
        let large = [seven, "line\r\n".repeat(MAX_RETURNED_BYTES / 6).as_bytes()].concat();
        let header = seven.get(..header_length(seven).unwrap()).unwrap();
        let (whole, headers) = ("message/rfc822", "text/rfc822-headers");
        let file = "application/octet-stream";
        // The message, what was asked for, and what comes back last in a report and in a plain one.
        let table = [
            (seven, "FULL", whole, file),
            (seven, "HDRS", headers, "text/plain"),
            (seven, "", headers, "text/plain"),
            (ORIGINAL, "FULL", headers, file),
            (long.as_slice(), "FULL", headers, file),
            (large.as_slice(), "FULL", headers, "text/plain"),
            (header, "FULL", headers, "text/plain"),
        ];
        for (original, ret, report, plain) in table {
            for (shape, want) in [(Shape::Report, report), (Shape::Plain, plain)] {
                let bytes = asking(&asked(ret, ""), Left::Message(original), shape);
                assert!(bytes.is_ascii() && bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999));
                let parsed = mail_parser::MessageParser::default().parse(&bytes).unwrap();
                let part = parsed.parts.last().unwrap();
                let kind = part.headers.iter().find_map(|field| field.value.as_content_type()).unwrap();
                let found = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
                assert_eq!(found, want, "{ret} {shape:?}");
                let is_whole = |part: &mail_parser::MessagePart<'_>| part.contents() == original;
                let is_attached = parsed.parts.iter().any(is_whole);
                assert_eq!(is_attached, plain == file, "{ret} {shape:?}");
                if want == whole {
                    assert!(bytes.windows(original.len()).any(|window| window == original));
                }
            }
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
