//! Reports to the sender of a message (RFC 3464): whom it did not reach, that it did not reach
//! somebody, and whom it was handed on to. RFC 3461 says what the sender is told besides: its own name for the
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
use crate::domain::answer::{HandedOn, PerhapsFailed, Taker};
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
        /// The fields of its header, as far as they are kept; `None`: they are not.
        header: Option<&'a [u8]>,
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

/// Writes that one of these or more did not get the message, and that it is not told who;
/// `said`: the status and the words that came back.
///
/// It is for people alone, and no multipart/report. That must have a delivery status (RFC 6522
/// §3), which must have a group for a recipient at least (RFC 3464 §2.1), and there is no true
/// one: `failed` is known of nobody, as is `delivered`; `delayed` promises more tries; `relayed`
/// is true of all, and says that nothing went wrong. A program that takes failed addresses off
/// its lists would take good ones off, and nobody here may be lost by a guess. So it is plain
/// whatever road it takes, and any road takes it.
pub fn somebody_failed(
    origin: &Origin<'_>,
    about: &About<'_>,
    perhaps: &[PerhapsFailed],
    (status, said): (&str, &str),
) -> Vec<u8> {
    let original = Original::of(about.left);
    let returned = Returned::header(original.header.as_deref());
    let mut words = format!(
        "This is the mail relay at {}.\n\nYour message was sent, and came back later: it did not reach at \
         least one of the recipients below. The service that sent it does not say which, so the others may \
         have got it. It will not be tried again.\n\n",
        origin.hostname
    );
    words.push_str(&identity(about, &original));
    for PerhapsFailed { recipient, has_failed } in perhaps {
        let known = if *has_failed { "    You were told of this one already.\n" } else { "" };
        let _ = write!(words, "<{recipient}>\n{known}");
    }
    let (what, _) = advice(status);
    let _ = write!(
        words,
        "\n    Of whoever did not get it: {what}\n    What to do: ask them whether they got it. A message to one \
         recipient alone comes back with that one's name.\n    What was said: {}\n",
        one_line(said)
    );
    let title = "Undelivered to somebody";
    let fields = fields(origin, about, title, &original);
    let seed = Seed::of([words.as_bytes(), returned.octets()]);
    let words = Part::Single(text(ContentType::TEXT_PLAIN, &words));
    match returned.third(Shape::Plain) {
        None => message(fields, words),
        Some(header) => {
            message(fields, Part::Multi(multipart("mixed", &seed, vec![words, Part::Single(header)])))
        }
    }
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
#[derive(Default)]
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
            Left::Log { from, subject, header } => {
                // The fields that the log has may be among those that were not kept.
                let mut original = header.map(Self::read).unwrap_or_default();
                if original.subject.is_empty() {
                    original.subject = shortened(subject.unwrap_or_default());
                }
                original.from =
                    original.from.or_else(|| Some(from.to_owned()).filter(|from| !from.is_empty()));
                original
            }
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let Ok(header) = Header::parse(bytes) else {
            return Self { header: Some(String::new()), ..Self::default() };
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
mod tests;
