//! One part over one connection: MAIL, every RCPT, DATA, the message.
//!
//! What the server offers decides how the part is said to it ([`Plan`]); what it
//! cannot carry is refused here, never changed. What the sender asks to be told is said
//! where the server offers to tell it (RFC 3461 §5.2.1). Replies mean what RFC 5321 §4.2.1
//! says; only a connection that is lost after the final dot leaves a doubt.

use super::connection::{Connection, Trouble};
use super::reply::{Offered, Reply};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::closure::Closure;
use crate::domain::dsn::{MAX_ORCPT_OCTETS, RecipientDsn};
use crate::mime::internationalized::address_beyond_ascii;
use crate::upstream::{Answer, Outcome, Outgoing, RecipientAnswer};

/// How an attempt over one connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Definitely, or in doubt.
    With(Outcome),
    /// The connection went away before the final dot could leave: nothing was accepted.
    Early(Answer),
    /// The server wants credentials or TLS that the operator did not give it: nothing was accepted.
    Unwanted(String),
    /// The server cannot carry the mail to everybody: nothing was said to it.
    Unfit,
}

/// What becomes of recipients to whom the server cannot carry the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncarried {
    /// Another server may be able to: then it gets the whole part.
    Elsewhere,
    /// One that may be able to is away: they wait for it.
    Deferred,
    /// No server can.
    Refused,
}

/// A part, and the fields that are put in front of its message on this way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mail<'a> {
    pub(super) outgoing: &'a Outgoing,
    pub(super) head: &'a [u8],
    pub(super) uncarried: Uncarried,
}

/// What will be said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    mail: String,
    /// A recipient's RCPT, or why the server cannot carry it.
    recipients: Vec<Result<String, Answer>>,
}

/// Sends the part to those recipients that the server takes. DATA is said when the
/// answer for each of them is known.
pub(super) async fn send(connection: &mut Connection, mail: Mail<'_>) -> Ended {
    let plan = Plan::new(connection.offered(), mail);
    if mail.uncarried == Uncarried::Elsewhere && plan.recipients.iter().any(Result::is_err) {
        return Ended::Unfit;
    }
    if plan.recipients.iter().all(Result::is_err) {
        let answers = plan.recipients.into_iter().filter_map(Result::err);
        return answered(None, answers.map(|answer| mail.uncarried.fate(answer)).collect());
    }
    let replies = connection.envelope(&plan.commands()).await;
    let answers = match plan.answers(replies, mail) {
        Ok(answers) => answers,
        Err(ended) => return ended,
    };
    if !answers.contains(&RecipientAnswer::Accepted) {
        return answered(None, answers);
    }
    match connection.ask("DATA\r\n").await {
        Ok(Reply { code: 354, .. }) => {}
        Ok(reply) => return Ended::Early(Answer::new("4.5.0", &format!("to DATA: {}", reply.text()))),
        Err(Trouble::Reply { code: 421, answer } | Trouble::Lost(answer)) => return Ended::Early(answer),
        Err(Trouble::Reply { code, answer }) => return refused(answers, code, &answer),
    }
    message(connection, mail, answers).await
}

async fn message(connection: &mut Connection, mail: Mail<'_>, answers: Vec<RecipientAnswer>) -> Ended {
    let outgoing = mail.outgoing;
    match connection.message(&[mail.head, &outgoing.bytes], &outgoing.tenure).await {
        (Ok(reply), _) if reply.code < 300 => {
            let answers = vouched(answers, connection.offered(), outgoing);
            answered(Some(reply.text()), answers)
        }
        (Ok(reply), _) => unknown(outgoing, &answers, &format!("to the final dot: {}", reply.text())),
        (Err(Trouble::Reply { code, answer }), _) => refused(answers, code, &answer),
        (Err(Trouble::Lost(answer)), true) => {
            unknown(outgoing, &answers, &format!("after the final dot, {}", answer.text))
        }
        (Err(Trouble::Lost(answer)), false) => Ended::Early(answer),
    }
}

/// Whoever took a NOTIFY tells the sender what becomes of the mail.
fn vouched(answers: Vec<RecipientAnswer>, offered: Offered, outgoing: &Outgoing) -> Vec<RecipientAnswer> {
    let answer = |(answer, recipient)| match answer {
        RecipientAnswer::Accepted if offered.dsn && outgoing.dsn.of(recipient).notify.is_some() => {
            RecipientAnswer::Vouched
        }
        other => other,
    };
    answers.into_iter().zip(&outgoing.recipients).map(answer).collect()
}

/// What the reply to one RCPT means. `Err` if that was the end of the attempt.
fn meant(reply: Result<Reply, Trouble>) -> Result<RecipientAnswer, Ended> {
    match reply {
        Ok(_) => Ok(RecipientAnswer::Accepted),
        Err(Trouble::Reply { code: 421, answer } | Trouble::Lost(answer)) => Err(Ended::Early(answer)),
        Err(Trouble::Reply { code, answer }) if is_about_us(code) => Err(unwanted(&answer)),
        Err(Trouble::Reply { code: 552, answer }) if is_of_many(&answer) => {
            Ok(RecipientAnswer::Deferred(Answer::new("4.5.3", &answer.text)))
        }
        Err(Trouble::Reply { code: 500.., answer }) if is_of_nobody(&answer) => {
            Ok(RecipientAnswer::NoMailbox(answer))
        }
        Err(Trouble::Reply { code, answer }) => Ok(negative(code, answer)),
    }
}

/// Whether a 552 is about too many recipients for one message, said the old way, which is to
/// be taken for 452 (RFC 5321 §4.5.3.1.10): its code says so (RFC 3463 §3.6, 5.5.3), or it has
/// none. Any other code says what it is about, as 5.2.2 does of a full mailbox; RFC 3463 §3.3
/// would have a server say 4.2.2 there, but one that says 5 asks not to be tried again (§2).
fn is_of_many(answer: &Answer) -> bool {
    matches!(answer.status.as_str(), "5.5.3" | "5.0.0")
}

/// Whether a refusal says that nobody has the address, or not any more, or that its domain
/// takes no mail at all (RFC 3463 §3.2, RFC 7505 §4.2). A refusal without such a code may be
/// about us, about policy, or about today; so may one that quotes another code, as of a server
/// that was asked on our behalf.
fn is_of_nobody(answer: &Answer) -> bool {
    let is_one = |code: &str| matches!(code, "5.1.1" | "5.1.6" | "5.1.10");
    let numbers = answer.text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut codes = numbers.map(|word| word.trim_matches('.')).filter(|word| word.split('.').count() == 3);
    is_one(&answer.status) && codes.all(is_one)
}

fn mail_refused(trouble: Trouble, outgoing: &Outgoing) -> Ended {
    match trouble {
        Trouble::Lost(answer) | Trouble::Reply { code: 421, answer } => Ended::Early(answer),
        Trouble::Reply { code: 400..500, answer } => {
            Ended::With(Outcome::Transient { answer, retry_after: None, counts: true })
        }
        Trouble::Reply { code, answer } if is_about_us(code) => unwanted(&answer),
        Trouble::Reply { answer, .. } => refused_for_all(outgoing, &answer),
    }
}

/// Whether it wants credentials or TLS that the operator did not give it
/// (RFC 4954 §6). Some servers say so to a later command than MAIL.
fn is_about_us(code: u16) -> bool {
    matches!(code, 530 | 534 | 535 | 538)
}

fn unwanted(answer: &Answer) -> Ended {
    Ended::Unwanted(Closure::SmtpSignIn.because(&format!("it wants one: {}", answer.text)))
}

/// The whole message was refused, after some of the recipients were.
fn refused(answers: Vec<RecipientAnswer>, code: u16, answer: &Answer) -> Ended {
    if is_about_us(code) { unwanted(answer) } else { answered(None, instead(answers, code, answer)) }
}

fn negative(code: u16, answer: Answer) -> RecipientAnswer {
    if code < 500 { RecipientAnswer::Deferred(answer) } else { RecipientAnswer::Refused(answer) }
}

/// A refusal of the message stands for every recipient that was taken before.
fn instead(answers: Vec<RecipientAnswer>, code: u16, answer: &Answer) -> Vec<RecipientAnswer> {
    let replace = |given| match given {
        RecipientAnswer::Accepted => negative(code, answer.clone()),
        other => other,
    };
    answers.into_iter().map(replace).collect()
}

fn answered(upstream_id: Option<String>, answers: Vec<RecipientAnswer>) -> Ended {
    Ended::With(Outcome::Answered { upstream_id, answers, host: None })
}

fn refused_for_all(outgoing: &Outgoing, answer: &Answer) -> Ended {
    answered(None, vec![RecipientAnswer::Refused(answer.clone()); outgoing.recipients.len()])
}

/// Those may have it who were taken at RCPT, and nobody else.
fn unknown(outgoing: &Outgoing, answers: &[RecipientAnswer], reason: &str) -> Ended {
    let asked = outgoing.recipients.iter().zip(answers);
    let left_out = asked.filter(|(_, answer)| **answer != RecipientAnswer::Accepted);
    let left_out = left_out.map(|(recipient, _)| recipient.clone()).collect();
    Ended::With(Outcome::Unknown { reason: Answer::new("", reason).text, retry_after: None, left_out })
}

impl Uncarried {
    fn fate(self, answer: Answer) -> RecipientAnswer {
        match self {
            Self::Deferred => {
                let status = answer.status.replacen('5', "4", 1);
                RecipientAnswer::Deferred(Answer { status, ..answer })
            }
            Self::Elsewhere | Self::Refused => RecipientAnswer::Refused(answer),
        }
    }
}

impl Plan {
    fn new(offered: Offered, mail: Mail<'_>) -> Self {
        let (recipients, mail_dsn) = (&mail.outgoing.recipients, &mail.outgoing.dsn);
        match mail_command(offered, mail) {
            Err(answer) => Self { mail: String::new(), recipients: vec![Err(answer); recipients.len()] },
            Ok(mail) => {
                let rcpt = |mailbox| {
                    let asked =
                        if offered.dsn { asked(mail_dsn.of(mailbox), offered) } else { String::new() };
                    Ok(format!("RCPT TO:<{}>{asked}\r\n", carried(mailbox, offered)?))
                };
                Self { mail, recipients: recipients.iter().map(rcpt).collect() }
            }
        }
    }

    /// MAIL, and a RCPT for each recipient that the server can carry.
    fn commands(&self) -> Vec<String> {
        let recipients = self.recipients.iter().filter_map(|recipient| recipient.as_ref().ok());
        std::iter::once(&self.mail).chain(recipients).cloned().collect()
    }

    /// What the replies to these commands mean, recipient by recipient.
    fn answers(
        self,
        replies: Vec<Result<Reply, Trouble>>,
        mail: Mail<'_>,
    ) -> Result<Vec<RecipientAnswer>, Ended> {
        let mut replies = replies.into_iter();
        let mut next =
            || replies.next().unwrap_or_else(|| Err(Trouble::Lost(Answer::new("4.4.2", "no reply"))));
        next().map_err(|trouble| mail_refused(trouble, mail.outgoing))?;
        let answer = |recipient| match recipient {
            Ok(_) => meant(next()),
            Err(answer) => Ok(mail.uncarried.fate(answer)),
        };
        self.recipients.into_iter().map(answer).collect()
    }
}

/// How to say MAIL to a server that offers this, or why it cannot carry the message.
///
/// - SMTPUTF8 is asked for when an address needs it, in the envelope or in the header. Not for
///   other raw UTF-8 in a header (RFC 6531 §3.4 would have it): a server that was asked returns
///   such mail where the next one does not offer it, and passes it on if it was not.
/// - Without SMTPUTF8 a domain travels as punycode; a local part cannot, be it in the
///   envelope or in the header (§3.2). Other raw UTF-8 in a header is what many clients write
///   that know nothing of RFC 6531, and servers take it as 8-bit text: it is not
///   refused for them, since it would be lost where it is read today.
/// - Octets above 127 need 8BITMIME: to re-encode them would change a message
///   that may be signed.
fn mail_command(offered: Offered, Mail { outgoing, head, .. }: Mail<'_>) -> Result<String, Answer> {
    let is_eight_bit = !outgoing.bytes.is_ascii();
    if is_eight_bit && !offered.eight_bit_mime {
        return Err(Answer::new("5.6.3", "the upstream does not take 8-bit messages"));
    }
    let has_address_beyond_ascii = address_beyond_ascii(&outgoing.bytes).is_some();
    if !offered.smtputf8 && has_address_beyond_ascii {
        return Err(not_ascii());
    }
    let reverse_path = match &outgoing.reverse_path {
        ReversePath::Null => String::new(),
        ReversePath::Mailbox(mailbox) => carried(mailbox, offered)?,
    };
    let is_internationalized = !outgoing.reverse_path.mailbox().is_none_or(Mailbox::is_ascii)
        || !outgoing.recipients.iter().all(Mailbox::is_ascii)
        || has_address_beyond_ascii;
    let mut mail = format!("MAIL FROM:<{reverse_path}>");
    if offered.size {
        mail.push_str(&format!(" SIZE={}", head.len() + outgoing.bytes.len()));
    }
    if is_eight_bit {
        mail.push_str(" BODY=8BITMIME");
    }
    if offered.smtputf8 && is_internationalized {
        mail.push_str(" SMTPUTF8");
    }
    if let Some(ret) = outgoing.dsn.ret().filter(|_| offered.dsn) {
        mail.push_str(&format!(" RET={}", ret.as_str()));
    }
    if let Some(id) = outgoing.dsn.envelope_id().filter(|id| offered.dsn && id.fits_the_wire()) {
        mail.push_str(&format!(" ENVID={}", id.as_str()));
    }
    mail.push_str("\r\n");
    Ok(mail)
}

/// NOTIFY and ORCPT as the client gave them. Where it gave none, none is added: ORCPT may
/// be, but need not (RFC 3461 §5.2.1), and the server has the same address in RCPT.
///
/// An address of type `utf-8` travels in ASCII, since it may go further than a server that
/// offers SMTPUTF8; where it is too long for that, in UTF-8 to such a server (RFC 6533 §3).
fn asked(RecipientDsn { notify, original }: &RecipientDsn, offered: Offered) -> String {
    let notify = notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
    let Some(original) = original else { return notify };
    let written = Some(original.to_string()).filter(|orcpt| orcpt.len() <= MAX_ORCPT_OCTETS);
    let written = written.or_else(|| Some(original.in_utf8()).filter(|_| offered.smtputf8));
    match written.filter(|orcpt| orcpt.len() <= MAX_ORCPT_OCTETS) {
        Some(orcpt) => format!("{notify} ORCPT={orcpt}"),
        None => {
            tracing::info!(orcpt = %original, "an ORCPT is too long to be passed on");
            notify
        }
    }
}

fn carried(mailbox: &Mailbox, offered: Offered) -> Result<String, Answer> {
    if offered.smtputf8 {
        return Ok(mailbox.to_string());
    }
    if mailbox.fits_ascii() {
        return Ok(mailbox.to_ascii());
    }
    Err(not_ascii())
}

fn not_ascii() -> Answer {
    Answer::new("5.6.7", "the upstream does not take non-ASCII addresses")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::domain::dsn::{Dsn, EnvelopeId, Notify, OriginalRecipient, Ret};
    use crate::domain::ids::PartId;

    fn part(from: &str, to: &[&str], bytes: &'static [u8]) -> Outgoing {
        Outgoing {
            part_id: PartId::parse("m-1").unwrap(),
            idempotency_key: "m-1".to_owned(),
            reverse_path: ReversePath::parse(from).unwrap(),
            recipients: to.iter().map(|to| Mailbox::parse(to).unwrap()).collect(),
            repeats: None,
            bytes: Bytes::from_static(bytes),
            dsn: Arc::default(),
            tenure: crate::upstream::tenure::Tenure::for_good(),
        }
    }

    fn mail(outgoing: &Outgoing) -> Mail<'_> {
        Mail { outgoing, head: b"", uncarried: Uncarried::Refused }
    }

    #[test]
    fn mail_says_what_the_server_offers_and_the_part_needs() {
        let all = Offered { eight_bit_mime: true, smtputf8: true, size: true, ..Offered::default() };
        let none = Offered::default();
        let (ascii, umlaut) = ("a@x.example", "ü@x.example");
        let (plain, eight): (&[u8], &[u8]) = (b"\r\n", "Subject: x\r\n\r\ngrün\r\n".as_bytes());
        let eight_only = Offered { eight_bit_mime: true, ..none };
        let (subject, latin) = ("Subject: grün\r\n\r\n".as_bytes(), b"Subject: gr\xfcn\r\n\r\n");
        let reply_to = "Reply-To: grün@x.example\r\n\r\n".as_bytes();
        let domain = "Reply-To: a@grün.example\r\n\r\n".as_bytes();
        let table = [
            (all, ascii, ascii, plain, Ok("MAIL FROM:<a@x.example> SIZE=2")),
            (none, ascii, ascii, plain, Ok("MAIL FROM:<a@x.example>")),
            (none, "", ascii, plain, Ok("MAIL FROM:<>")),
            (all, "", ascii, eight, Ok("MAIL FROM:<> SIZE=21 BODY=8BITMIME")),
            (none, "", ascii, eight, Err("5.6.3")),
            (all, umlaut, ascii, plain, Ok("MAIL FROM:<ü@x.example> SIZE=2 SMTPUTF8")),
            (none, umlaut, ascii, plain, Err("5.6.7")),
            (all, ascii, umlaut, plain, Ok("MAIL FROM:<a@x.example> SIZE=2 SMTPUTF8")),
            (none, "a@bücher.example", ascii, plain, Ok("MAIL FROM:<a@xn--bcher-kva.example>")),
            (all, ascii, ascii, subject, Ok("MAIL FROM:<a@x.example> SIZE=18 BODY=8BITMIME")),
            (eight_only, ascii, ascii, subject, Ok("MAIL FROM:<a@x.example> BODY=8BITMIME")),
            (all, ascii, ascii, latin, Ok("MAIL FROM:<a@x.example> SIZE=17 BODY=8BITMIME")),
            (all, ascii, ascii, reply_to, Ok("MAIL FROM:<a@x.example> SIZE=29 BODY=8BITMIME SMTPUTF8")),
            (eight_only, ascii, ascii, reply_to, Err("5.6.7")),
            (eight_only, ascii, ascii, domain, Ok("MAIL FROM:<a@x.example> BODY=8BITMIME")),
        ];
        for (offered, from, to, bytes, want) in table {
            let said = mail_command(offered, mail(&part(from, &[to], bytes)));
            let said = said.as_ref().map(|mail| mail.trim_end()).map_err(|answer| answer.status.as_str());
            assert_eq!(said, want, "{from} {to} {offered:?}");
        }
    }

    #[test]
    fn what_is_asked_is_said_to_a_server_that_offers_to_tell() {
        let mut dsn = Dsn::new(Some(Ret::Full), EnvelopeId::parse("a+2Bb").ok());
        let long = format!("utf-8;{}", "\u{fc}".repeat(100));
        let asked = |notify: &str, original: &str| RecipientDsn {
            notify: Notify::parse(notify).ok(),
            original: OriginalRecipient::parse(original).ok(),
        };
        let to = ["b@y.example", "c@y.example", "d@y.example", "e@y.example"];
        let mut part = part("a@x.example", &to, b"\r\n");
        let recipients = part.recipients.clone();
        dsn.ask(&recipients[0], asked("never", ""));
        dsn.ask(&recipients[1], asked("DELAY,SUCCESS", "rfc822;c+2B@y.example"));
        dsn.ask(&recipients[2], asked("FAILURE", &long));
        part.dsn = Arc::new(dsn);
        let plan = Plan::new(Offered { dsn: true, ..Offered::default() }, mail(&part));
        assert_eq!(plan.mail, "MAIL FROM:<a@x.example> RET=FULL ENVID=a+2Bb\r\n");
        let said: Vec<&str> = plan.recipients.iter().map(|rcpt| rcpt.as_ref().unwrap().trim_end()).collect();
        assert_eq!(
            said,
            [
                "RCPT TO:<b@y.example> NOTIFY=NEVER",
                "RCPT TO:<c@y.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2B@y.example",
                "RCPT TO:<d@y.example> NOTIFY=FAILURE",
                "RCPT TO:<e@y.example>",
            ]
        );
        let plan = Plan::new(Offered { dsn: true, smtputf8: true, ..Offered::default() }, mail(&part));
        let want = format!("RCPT TO:<d@y.example> NOTIFY=FAILURE ORCPT={long}\r\n");
        assert_eq!(plan.recipients[2], Ok(want), "as it was said, where that is understood");
        let plan = Plan::new(Offered::default(), mail(&part));
        assert_eq!(plan.mail, "MAIL FROM:<a@x.example>\r\n");
        assert!(plan.recipients.iter().all(|rcpt| !rcpt.as_ref().unwrap().contains("> ")));
    }

    #[test]
    fn p6_only_the_address_that_cannot_be_carried_is_refused() {
        let to = ["ü@y.example", "b@bücher.example", "\"a b\"@y.example"];
        let part = part("a@x.example", &to, b"\r\n");
        let plan = Plan::new(Offered::default(), mail(&part));
        assert_eq!(plan.recipients[0].as_ref().unwrap_err().status, "5.6.7");
        assert_eq!(plan.recipients[1].as_deref(), Ok("RCPT TO:<b@xn--bcher-kva.example>\r\n"));
        assert_eq!(plan.recipients[2].as_deref(), Ok("RCPT TO:<\"a b\"@y.example>\r\n"));
    }
}
