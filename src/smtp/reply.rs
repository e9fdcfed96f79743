//! Every word that the SMTP server says (RFC 5321 §4.2, RFC 2034, RFC 3463).
//!
//! One place, so that they can be read and kept in tune: each refusal says why,
//! and what to do about it (P9). What came from a client is shown only as
//! printable ASCII on one line, so nothing it sends can forge a reply.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::config::OutOfCreditReply;
use crate::domain::caps::{Reached, Span};
use crate::domain::credits::Credits;
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;

use super::command::Invalid;
use super::{data, line, sasl};

/// Longest text of one line: with code and CRLF it stays below 512 octets (RFC 5321 §4.5.3.1.5).
const MAX_TEXT_CHARS: usize = 480;

/// One reply: a code, an enhanced status code where there is one, and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: &'static str,
    status: &'static str,
    text: Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    One(Cow<'static, str>),
    Many(Vec<Cow<'static, str>>),
}

/// As the log shows it: the lines as they go over the wire, and no CRLF at the end.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.render(&mut out);
        f.write_str(String::from_utf8_lossy(&out).trim_end())
    }
}

impl Reply {
    fn new(code: &'static str, status: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status, text: Text::One(text.into()) }
    }

    /// Whether something was refused with it.
    pub fn is_refusal(&self) -> bool {
        self.code.starts_with(['4', '5'])
    }

    /// Appends the reply as it goes over the wire, CRLF and all.
    pub fn render(&self, out: &mut Vec<u8>) {
        match &self.text {
            Text::One(text) => self.line(b' ', text, out),
            Text::Many(lines) => {
                for (index, text) in lines.iter().enumerate() {
                    self.line(if index + 1 == lines.len() { b' ' } else { b'-' }, text, out);
                }
            }
        }
    }

    fn line(&self, separator: u8, text: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.code.as_bytes());
        out.push(separator);
        if !self.status.is_empty() {
            out.extend_from_slice(self.status.as_bytes());
            out.push(b' ');
        }
        let printable = |c: char| u8::try_from(c).ok().filter(|b| matches!(b, b' '..=b'~')).unwrap_or(b'?');
        out.extend(text.chars().take(MAX_TEXT_CHARS).map(printable));
        out.extend_from_slice(b"\r\n");
    }

    // The course of a session.

    /// The banner.
    pub fn banner(hostname: &str) -> Self {
        Self::new("220", "", format!("{hostname} ESMTP Postmeter"))
    }

    /// HELO.
    pub fn helo(hostname: &str) -> Self {
        Self::new("250", "", hostname.to_owned())
    }

    /// EHLO: the name and what is offered.
    pub fn ehlo(hostname: &str, extensions: Vec<Cow<'static, str>>) -> Self {
        let mut lines = vec![Cow::Owned(hostname.to_owned())];
        lines.extend(extensions);
        Self { code: "250", status: "", text: Text::Many(lines) }
    }

    /// STARTTLS: the handshake may begin.
    pub fn ready_for_tls() -> Self {
        Self::new("220", "2.0.0", "Ready to start TLS")
    }

    /// A SASL challenge, in base64.
    pub fn challenge(base64: &'static str) -> Self {
        Self::new("334", "", base64)
    }

    /// Signed in, with what is left to spend.
    pub fn signed_in(available: Option<Credits>) -> Self {
        Self::new("235", "2.7.0", with_credits("Authenticated".to_owned(), available))
    }

    /// MAIL was taken.
    pub fn sender_ok() -> Self {
        Self::new("250", "2.1.0", "Sender OK")
    }

    /// RCPT was taken.
    pub fn recipient_ok() -> Self {
        Self::new("250", "2.1.5", "Recipient OK")
    }

    /// DATA: go ahead.
    pub fn go_ahead() -> Self {
        Self::new("354", "", "End data with <CR><LF>.<CR><LF>")
    }

    /// BDAT: the chunk has arrived, and the message goes on.
    pub fn chunk_received(octets: usize) -> Self {
        Self::new("250", "2.0.0", format!("{octets} octets received"))
    }

    /// The message is safe.
    pub fn queued(message_id: &MessageId, available: Option<Credits>) -> Self {
        Self::new("250", "2.0.0", with_credits(format!("Queued as {message_id}"), available))
    }

    /// RSET, NOOP.
    pub fn ok() -> Self {
        Self::new("250", "2.0.0", "OK")
    }

    /// VRFY tells nobody who exists (RFC 5321 §7.3).
    pub fn vrfy() -> Self {
        Self::new("252", "2.5.0", "Send the mail and see")
    }

    /// HELP.
    pub fn help() -> Self {
        Self::new(
            "214",
            "2.0.0",
            "Submit mail with EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA or BDAT (RFC 6409)",
        )
    }

    /// QUIT.
    pub fn bye() -> Self {
        Self::new("221", "2.0.0", "Bye")
    }

    // Out of turn.

    /// MAIL or AUTH before EHLO.
    pub fn hello_first() -> Self {
        Self::new("503", "5.5.1", "Send EHLO first")
    }

    /// MAIL before AUTH; in clear text, TLS comes before that (RFC 3207 §4).
    pub fn sign_in_first(under_tls: bool) -> Self {
        let text = if under_tls { "Authentication required" } else { "Send STARTTLS, then authenticate" };
        Self::new("530", "5.7.0", text)
    }

    /// AUTH before TLS.
    pub fn encryption_required() -> Self {
        Self::new("538", "5.7.11", "Encryption required for authentication, send STARTTLS first")
    }

    /// AUTH a second time, or within a transaction.
    pub fn already_signed_in() -> Self {
        Self::new("503", "5.5.1", "Already authenticated")
    }

    /// STARTTLS under TLS.
    pub fn already_encrypted() -> Self {
        Self::new("503", "5.5.1", "TLS is active already")
    }

    /// More came in clear text behind STARTTLS: perhaps injected, so never obeyed.
    pub fn pipelined_starttls() -> Self {
        Self::new("503", "5.5.1", "Nothing may follow STARTTLS before the TLS handshake")
    }

    /// MAIL within a transaction.
    pub fn nested_mail() -> Self {
        Self::new("503", "5.5.1", "A message is begun already, send RSET to drop it")
    }

    /// RCPT or DATA when a message has begun to arrive in chunks.
    pub fn chunks_begun() -> Self {
        Self::new("503", "5.5.1", "BDAT has begun the message: go on with BDAT to LAST, or send RSET")
    }

    /// RCPT, DATA or BDAT without MAIL.
    pub fn mail_first() -> Self {
        Self::new("503", "5.5.1", "Send MAIL first")
    }

    /// DATA or BDAT without a recipient.
    pub fn recipient_first() -> Self {
        Self::new("503", "5.5.1", "No valid recipients, send RCPT first")
    }

    // Ends.

    /// A stop is under way.
    pub fn shutting_down() -> Self {
        Self::new("421", "4.3.2", "Shutting down, try again in a moment")
    }

    /// Nothing came for too long.
    pub fn idle() -> Self {
        Self::new("421", "4.4.2", "Timeout, closing the connection")
    }

    /// Too many refused commands.
    pub fn too_many_errors() -> Self {
        Self::new("421", "4.7.0", "Too many errors, closing the connection")
    }

    /// Too many sign-ins failed on this connection.
    pub fn too_many_sign_in_failures() -> Self {
        Self::new(
            "421",
            "4.7.0",
            "Too many failed sign-ins, check username and secret; closing the connection",
        )
    }

    /// Too many commands that bring no message nearer.
    pub fn too_many_idle_commands() -> Self {
        Self::new("421", "4.7.0", "Too many commands without a message, closing the connection")
    }

    /// A message that drips.
    pub fn too_slow() -> Self {
        Self::new(
            "421",
            "4.4.2",
            "Message arrives too slowly, closing the connection; try again on a better line",
        )
    }

    /// A body far beyond the size limit.
    pub fn endless_message() -> Self {
        Self::new("421", "4.7.0", "Message goes on far beyond the size limit, closing the connection")
    }

    /// Too many connections in all or from one address.
    pub fn too_many_connections() -> Self {
        Self::new("421", "4.7.0", "Too many connections, try again later")
    }

    /// Somebody speaks HTTP.
    pub fn not_http() -> Self {
        Self::new("521", "5.5.1", "This is an SMTP server")
    }

    // Refusals.

    /// A declared or real size above the limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new("552", "5.3.4", format!("Message is larger than {limit_bytes} octets"))
    }

    /// One recipient more than a message may have.
    pub fn too_many_recipients(limit: usize) -> Self {
        Self::new(
            "452",
            "4.5.3",
            format!("Too many recipients, at most {limit} a message; send the rest in another"),
        )
    }

    /// A non-ASCII address without the parameter that announces it (RFC 6531 §3.5).
    pub fn smtputf8_needed() -> Self {
        Self::new("553", "5.6.7", "Non-ASCII address: the SMTPUTF8 parameter of MAIL is needed")
    }

    /// There is no room for the message now.
    pub fn no_room() -> Self {
        Self::new("452", "4.3.1", "No room to take the message now, try again later")
    }

    /// What no message may hold.
    pub fn malformed_body(flaw: data::Flaw) -> Self {
        let what = match flaw {
            data::Flaw::BareCr => "Message holds a CR without LF; lines end in CRLF",
            data::Flaw::BareLf => "Message holds an LF without CR; lines end in CRLF",
            data::Flaw::Nul => "Message holds a NUL octet",
        };
        Self::new("554", "5.6.0", what)
    }

    /// A command line that is no line.
    pub fn flawed_line(flaw: line::Flaw) -> Self {
        let what = match flaw {
            line::Flaw::Bdat => return Self::invalid(Invalid::Bdat),
            line::Flaw::BareLf => "Lines must end in CRLF, not in LF alone",
            line::Flaw::BareCr => "CR without LF in a command",
            line::Flaw::TooLong => "Line too long",
            line::Flaw::Nul | line::Flaw::TlsHello => "Not a command",
        };
        Self::new("500", "5.5.2", what)
    }

    /// A SASL response that is no line.
    pub fn flawed_response(flaw: line::Flaw) -> Self {
        match flaw {
            line::Flaw::TooLong => Self::new("500", "5.5.6", "Authentication exchange line is too long"),
            _ => Self::authentication_failed(sasl::Failure::NotBase64),
        }
    }

    /// An exchange that ended without a login.
    pub fn authentication_failed(failure: sasl::Failure) -> Self {
        match failure {
            sasl::Failure::Cancelled => Self::new("501", "5.7.0", "Authentication cancelled"),
            sasl::Failure::NotBase64 => Self::new("501", "5.5.2", "Cannot decode that base64"),
            sasl::Failure::Malformed => Self::new("501", "5.5.2", "Malformed authentication response"),
            sasl::Failure::OtherIdentity => Self::bad_credential(),
        }
    }

    /// A line that is not a command.
    pub fn invalid(invalid: Invalid) -> Self {
        let (code, status, text) = match invalid {
            Invalid::Unknown => ("500", "5.5.2", "Command not recognized"),
            Invalid::Http => return Self::not_http(),
            Invalid::Helo => ("501", "5.5.4", "Name yourself: EHLO host.example"),
            Invalid::UnexpectedArgument => ("501", "5.5.4", "No argument is allowed here"),
            Invalid::AuthArguments => ("501", "5.5.4", "Syntax: AUTH mechanism [initial-response]"),
            Invalid::Mechanism => ("504", "5.5.4", "Mechanism not offered, use PLAIN or LOGIN"),
            Invalid::MailSyntax => ("501", "5.5.4", "Syntax: MAIL FROM:<address>"),
            Invalid::RcptSyntax => ("501", "5.5.4", "Syntax: RCPT TO:<address>"),
            Invalid::ReversePath => ("501", "5.1.7", "Malformed sender address"),
            Invalid::ForwardPath => ("501", "5.1.3", "Malformed recipient address"),
            Invalid::Bdat => ("501", "5.5.4", "Syntax: BDAT octets [LAST], closing the connection"),
            Invalid::UnknownParameter => ("555", "5.5.4", "Parameter not recognized"),
            Invalid::ParameterValue => ("501", "5.5.4", "Malformed or repeated parameter"),
        };
        Self::new(code, status, text)
    }

    fn bad_credential() -> Self {
        Self::new("535", "5.7.8", "Authentication failed, check username and secret")
    }

    /// What [`crate::submission`] refuses.
    pub fn refusal(refusal: &Refusal, out_of_credit: OutOfCreditReply) -> Self {
        match refusal {
            Refusal::BadCredential => Self::bad_credential(),
            Refusal::TooManyFailures { retry_after_s } => {
                let text = format!("Too many failed sign-ins, try again in {retry_after_s} seconds");
                Self::new("454", "4.7.0", text)
            }
            Refusal::TooManySessions { limit } => {
                let text =
                    format!("Too many sessions of this account, at most {limit}; close some or try later");
                Self::new("421", "4.7.0", text)
            }
            Refusal::Suspended { reason } => {
                Self::new("550", "5.7.1", format!("Account suspended: {reason}"))
            }
            Refusal::SenderNotAllowed { address, .. } if address.is_empty() => {
                Self::new("550", "5.7.1", "The From header is not a sender of this account")
            }
            Refusal::SenderNotAllowed { address, may_prove } => {
                let how = if *may_prove { "; to add its domain, POST /senders/domains" } else { "" };
                Self::new("550", "5.7.1", format!("{address} is not a sender of this account{how}"))
            }
            Refusal::OutOfCredit { top_up_url, shortfall } => {
                let text = out_of_credit_text(top_up_url, *shortfall);
                match out_of_credit {
                    OutOfCreditReply::Temporary => Self::new("452", "4.7.1", text),
                    OutOfCreditReply::Permanent => Self::new("550", "5.7.1", text),
                }
            }
            Refusal::BillingUnknown => {
                Self::new("451", "4.3.0", "Email credits cannot be checked now, try again later")
            }
            Refusal::Suppressed { recipient, why } => {
                let text = format!(
                    "{recipient} is on the suppression list of this account {why}; to send to it all the same, \
                     DELETE /suppressions/{recipient}"
                );
                Self::new("550", "5.1.1", text)
            }
            Refusal::AddressNotCarried { address } => {
                let address = address.to_readable_ascii();
                Self::new("550", "5.6.7", format!("Mail to or from {address} cannot be carried: not ASCII"))
            }
            Refusal::TooManyRecipients { limit } => Self::too_many_recipients(*limit),
            Refusal::TooLarge { limit_bytes } => Self::too_large(*limit_bytes),
            Refusal::TooFast { retry_after_s } => {
                let text = format!("This account sends too fast, try again in {retry_after_s} seconds");
                Self::new("450", "4.7.0", text)
            }
            Refusal::Capped(reached) => Self::capped(*reached),
            Refusal::Unacceptable { status, what } => Self::new("554", status, what.clone()),
            Refusal::Looping => Self::new("554", "5.4.6", "Message is looping: too many Received headers"),
            Refusal::KeyReused => {
                Self::new("554", "5.5.4", "This idempotency key was used for another message")
            }
            Refusal::StoreUnavailable => Self::no_room(),
        }
    }
}

impl Reply {
    /// A client that queues keeps the mail, and sends it when the time is over.
    fn capped(reached: Reached) -> Self {
        let code = match reached.span {
            Span::Minute => "450",
            Span::Day => "452",
        };
        let retry_after_s = reached.retry_after_s;
        let text =
            format!("The cap of this credential is reached: {reached}; try again in {retry_after_s} seconds");
        Self::new(code, "4.7.0", text)
    }
}

fn out_of_credit_text(top_up_url: &str, shortfall: Credits) -> String {
    let mut text = format!("No email credits remaining, top up at {top_up_url}");
    if shortfall > Credits::ZERO {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " (credits owed: {shortfall}, for mail already sent, because credits expired or were spent \
             elsewhere; the next top-up pays that first)"
        );
    }
    text
}

fn with_credits(mut text: String, available: Option<Credits>) -> String {
    if let Some(credits) = available {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {credits} email credits available");
    }
    text
}

#[cfg(test)]
mod tests;
