//! The grammar of commands (RFC 5321 §4.1) and of the parameters that the offered
//! extensions add. A line goes in, a [`Command`] or the reason why not comes out;
//! whether it may come now is for [`super::session`] to say.

use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::dsn::{
    EnvelopeId, InvalidDsn, MAX_ORCPT_OCTETS, Notify, OriginalRecipient, RecipientDsn, Ret,
};

use super::sasl::Mechanism;

/// Longest name taken from EHLO, in octets: that of a domain.
const MAX_HELO_OCTETS: usize = 255;
/// Methods of HTTP/1.1 (RFC 9110 §9), WebDAV's left out, and HTTP/2's preface: a
/// browser that was tricked into speaking to a mail server begins with these.
const HTTP_METHODS: [&str; 10] =
    ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "PRI"];

/// A well-formed command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name`
    Ehlo(&'a str),
    /// `HELO name`
    Helo(&'a str),
    /// `STARTTLS` (RFC 3207)
    StartTls,
    /// `AUTH mechanism [initial-response]` (RFC 4954)
    Auth {
        /// One that is offered.
        mechanism: Mechanism,
        /// Still in base64.
        initial: Option<&'a str>,
    },
    /// `MAIL FROM:<…>`
    Mail(Mail),
    /// `RCPT TO:<…>`
    Rcpt(Rcpt),
    /// `DATA`
    Data,
    /// `BDAT size [LAST]` (RFC 3030 §2)
    Bdat(Bdat),
    /// `RSET`
    Rset,
    /// `NOOP`
    Noop,
    /// `VRFY`
    Vrfy,
    /// `HELP`
    Help,
    /// `QUIT`
    Quit,
}

/// What BDAT says of the chunk that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bdat {
    /// How long it is.
    pub octets: usize,
    /// Whether the message ends with it.
    pub is_last: bool,
}

/// What MAIL says.
#[derive(Debug, PartialEq, Eq)]
pub struct Mail {
    /// Who sends.
    pub reverse_path: ReversePath,
    /// The declared size in octets (RFC 1870); saturates.
    pub size: Option<u64>,
    /// Whether addresses may be non-ASCII (RFC 6531).
    pub smtputf8: bool,
    /// How much of it a report shall return (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// What the sender calls it (RFC 3461 §4.4).
    pub envelope_id: Option<EnvelopeId>,
}

/// What RCPT says.
#[derive(Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// Who receives.
    pub recipient: Mailbox,
    /// What the sender asks to be told about it (RFC 3461 §4.1, §4.2).
    pub dsn: RecipientDsn,
}

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// No such verb, or not text at all.
    Unknown,
    /// It speaks HTTP.
    Http,
    /// EHLO or HELO without a sound name.
    Helo,
    /// An argument where none is allowed.
    UnexpectedArgument,
    /// AUTH without a mechanism, or with more than two arguments.
    AuthArguments,
    /// AUTH with a mechanism that is not offered.
    Mechanism,
    /// Not `MAIL FROM:<…>`.
    MailSyntax,
    /// Not `RCPT TO:<…>`.
    RcptSyntax,
    /// The address in MAIL is malformed.
    ReversePath,
    /// The address in RCPT is malformed.
    ForwardPath,
    /// BDAT without a size that can be read, or with more than that and LAST. How many
    /// octets follow it that are no commands cannot be known.
    Bdat,
    /// A parameter that no offered extension knows (RFC 5321 §4.1.1.11).
    UnknownParameter,
    /// A known parameter with an unsound value, or given twice.
    ParameterValue,
}

/// Parses one line, without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Invalid> {
    sound(line).map_err(|invalid| if announces_octets(line) { Invalid::Bdat } else { invalid })
}

/// Whether a line that is no command may still have been meant to say that octets
/// follow it which are none either: it begins with BDAT, whatever comes then.
pub fn announces_octets(line: &[u8]) -> bool {
    let mut text = line.iter().skip_while(|b| matches!(b, b' ' | b'\t'));
    b"BDAT".iter().all(|own| text.next().is_some_and(|b| b.eq_ignore_ascii_case(own)))
}

/// The same of the beginning of a line: the verb, or what is missing of it, may follow.
pub fn may_announce_octets(beginning: &[u8]) -> bool {
    let text = beginning.iter().skip_while(|b| matches!(b, b' ' | b'\t'));
    text.zip(b"BDAT").all(|(b, own)| b.eq_ignore_ascii_case(own))
}

fn sound(line: &[u8]) -> Result<Command<'_>, Invalid> {
    let text = std::str::from_utf8(line).map_err(|_| Invalid::Unknown)?;
    if text.chars().any(char::is_control) {
        return Err(Invalid::Unknown);
    }
    let text = text.trim_end_matches(' ');
    let (verb, argument) = match text.split_once(' ') {
        Some((verb, argument)) => (verb, Some(argument)),
        None => (text, None),
    };
    let is = |own: &str| verb.eq_ignore_ascii_case(own);
    let bare = |command| if argument.is_none() { Ok(command) } else { Err(Invalid::UnexpectedArgument) };
    match () {
        () if is("MAIL") => mail(argument.ok_or(Invalid::MailSyntax)?),
        () if is("RCPT") => rcpt(argument.ok_or(Invalid::RcptSyntax)?),
        () if is("DATA") => bare(Command::Data),
        () if is("BDAT") => bdat(argument.unwrap_or_default()).map(Command::Bdat),
        () if is("EHLO") => helo(argument).map(Command::Ehlo),
        () if is("HELO") => helo(argument).map(Command::Helo),
        () if is("STARTTLS") => bare(Command::StartTls),
        () if is("AUTH") => auth(argument.ok_or(Invalid::AuthArguments)?),
        () if is("RSET") => bare(Command::Rset),
        () if is("QUIT") => bare(Command::Quit),
        () if is("NOOP") => Ok(Command::Noop),
        () if is("VRFY") => Ok(Command::Vrfy),
        () if is("HELP") => Ok(Command::Help),
        () if HTTP_METHODS.contains(&verb) => Err(Invalid::Http),
        () => Err(Invalid::Unknown),
    }
}

/// Real clients name themselves in many ways, so any one word of plain ASCII goes,
/// as long as it cannot break the Received header it ends up in.
fn helo(argument: Option<&str>) -> Result<&str, Invalid> {
    let name = argument.ok_or(Invalid::Helo)?;
    let sound = (1..=MAX_HELO_OCTETS).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;\"\\".contains(&b));
    if sound { Ok(name) } else { Err(Invalid::Helo) }
}

fn auth(argument: &str) -> Result<Command<'_>, Invalid> {
    let mut words = argument.split(' ');
    let (Some(name), initial, None) = (words.next(), words.next(), words.next()) else {
        return Err(Invalid::AuthArguments);
    };
    if name.is_empty() || initial == Some("") {
        return Err(Invalid::AuthArguments);
    }
    let mechanism = Mechanism::parse(name).ok_or(Invalid::Mechanism)?;
    Ok(Command::Auth { mechanism, initial })
}

fn mail(argument: &str) -> Result<Command<'_>, Invalid> {
    let (path, parameters) = path(argument, "FROM:").ok_or(Invalid::MailSyntax)?;
    let reverse_path = ReversePath::parse(path).map_err(|_| Invalid::ReversePath)?;
    let mut mail = Mail { reverse_path, size: None, smtputf8: false, ret: None, envelope_id: None };
    let (mut body_seen, mut auth_seen) = (false, false);
    for (keyword, value) in each(parameters) {
        let is = |own: &str| keyword.eq_ignore_ascii_case(own);
        let repeated = match () {
            () if is("SIZE") => mail.size.replace(size(value)?).is_some(),
            () if is("SMTPUTF8") => {
                let unsound = value.is_some();
                std::mem::replace(&mut mail.smtputf8, true) || unsound
            }
            () if is("BODY") => {
                let offered = ["7BIT", "8BITMIME"].into_iter();
                let sound =
                    value.is_some_and(|value| offered.clone().any(|own| value.eq_ignore_ascii_case(own)));
                std::mem::replace(&mut body_seen, true) || !sound
            }
            // Who wrote the message first (RFC 4954 §5): understood, and of no use here.
            () if is("AUTH") => std::mem::replace(&mut auth_seen, true) || value.is_none_or(str::is_empty),
            () if is("RET") => mail.ret.replace(asked(value, Ret::parse)?).is_some(),
            () if is("ENVID") => mail.envelope_id.replace(asked(value, EnvelopeId::parse)?).is_some(),
            () => return Err(Invalid::UnknownParameter),
        };
        if repeated {
            return Err(Invalid::ParameterValue);
        }
    }
    Ok(Command::Mail(mail))
}

/// Up to 20 digits (RFC 1870 §3); what no integer can hold is larger than any limit.
fn size(value: Option<&str>) -> Result<u64, Invalid> {
    let digits = value.ok_or(Invalid::ParameterValue)?;
    if !(1..=20).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::ParameterValue);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn rcpt(argument: &str) -> Result<Command<'_>, Invalid> {
    let (path, parameters) = path(argument, "TO:").ok_or(Invalid::RcptSyntax)?;
    let recipient = Mailbox::parse(path).map_err(|_| Invalid::ForwardPath)?;
    let mut dsn = RecipientDsn::default();
    for (keyword, value) in each(parameters) {
        let is = |own: &str| keyword.eq_ignore_ascii_case(own);
        let repeated = match () {
            () if is("NOTIFY") => dsn.notify.replace(asked(value, Notify::parse)?).is_some(),
            () if is("ORCPT") => {
                let value = value.filter(|value| value.len() <= MAX_ORCPT_OCTETS);
                dsn.original.replace(asked(value, OriginalRecipient::parse)?).is_some()
            }
            () => return Err(Invalid::UnknownParameter),
        };
        if repeated {
            return Err(Invalid::ParameterValue);
        }
    }
    Ok(Command::Rcpt(Rcpt { recipient, dsn }))
}

/// Parameters, each with its value.
fn each(parameters: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    parameters.split(' ').filter(|parameter| !parameter.is_empty()).map(|parameter| {
        match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        }
    })
}

/// The value of a parameter of RFC 3461.
fn asked<T>(value: Option<&str>, parse: fn(&str) -> Result<T, InvalidDsn>) -> Result<T, Invalid> {
    value.and_then(|value| parse(value).ok()).ok_or(Invalid::ParameterValue)
}

/// Digits alone, as many as there are: a sign is none. What no integer can hold is
/// longer than any message, and nobody will ever read to its end.
fn bdat(argument: &str) -> Result<Bdat, Invalid> {
    let (digits, is_last) = match argument.split_once(' ') {
        Some((digits, marker)) if marker.eq_ignore_ascii_case("LAST") => (digits, true),
        Some(_) => return Err(Invalid::Bdat),
        None => (argument, false),
    };
    let octets = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let octets = octets.and_then(|digits| digits.parse().ok()).ok_or(Invalid::Bdat)?;
    Ok(Bdat { octets, is_last })
}

/// Splits `FROM:<path> parameters` into path and parameters. A `>` within a quoted
/// local part does not end the path.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    let rest = rest.strip_prefix('<').filter(|_| head.eq_ignore_ascii_case(keyword))?;
    let (mut quoted, mut escaped) = (false, false);
    let end = rest.find(|c| match c {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' if quoted => {
            escaped = true;
            false
        }
        '"' => {
            quoted = !quoted;
            false
        }
        c => c == '>' && !quoted,
    })?;
    let (path, after) = rest.split_at_checked(end)?;
    let after = after.strip_prefix('>')?;
    if after.is_empty() { Some((path, "")) } else { after.strip_prefix(' ').map(|rest| (path, rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(path: &str, size: Option<u64>, smtputf8: bool) -> Result<Command<'static>, Invalid> {
        let reverse_path = ReversePath::parse(path).unwrap();
        Ok(Command::Mail(Mail { reverse_path, size, smtputf8, ret: None, envelope_id: None }))
    }

    fn rcpt(path: &str) -> Result<Command<'static>, Invalid> {
        rcpt_asking(path, "", "")
    }

    fn rcpt_asking(path: &str, notify: &str, original: &str) -> Result<Command<'static>, Invalid> {
        let dsn = RecipientDsn {
            notify: Notify::parse(notify).ok(),
            original: OriginalRecipient::parse(original).ok(),
        };
        Ok(Command::Rcpt(Rcpt { recipient: Mailbox::parse(path).unwrap(), dsn }))
    }

    #[test]
    fn commands_without_addresses() {
        let auth = |mechanism, initial| Ok(Command::Auth { mechanism, initial });
        let table = [
            ("EHLO client.example", Ok(Command::Ehlo("client.example"))),
            ("ehlo [127.0.0.1] ", Ok(Command::Ehlo("[127.0.0.1]"))),
            ("HELO my_laptop", Ok(Command::Helo("my_laptop"))),
            ("EHLO", Err(Invalid::Helo)),
            ("EHLO a b", Err(Invalid::Helo)),
            ("EHLO a(b)", Err(Invalid::Helo)),
            ("EHLO ü", Err(Invalid::Helo)),
            ("STARTTLS", Ok(Command::StartTls)),
            ("STARTTLS now", Err(Invalid::UnexpectedArgument)),
            ("AUTH PLAIN", auth(Mechanism::Plain, None)),
            ("auth login dXNlcg==", auth(Mechanism::Login, Some("dXNlcg=="))),
            ("AUTH PLAIN =", auth(Mechanism::Plain, Some("="))),
            ("AUTH", Err(Invalid::AuthArguments)),
            ("AUTH PLAIN a b", Err(Invalid::AuthArguments)),
            ("AUTH CRAM-MD5", Err(Invalid::Mechanism)),
            ("DATA", Ok(Command::Data)),
            ("DATA x", Err(Invalid::UnexpectedArgument)),
            ("RSET", Ok(Command::Rset)),
            ("NOOP whatever", Ok(Command::Noop)),
            ("VRFY user", Ok(Command::Vrfy)),
            ("HELP", Ok(Command::Help)),
            ("quit", Ok(Command::Quit)),
            ("", Err(Invalid::Unknown)),
            (" QUIT", Err(Invalid::Unknown)),
            ("QUITX", Err(Invalid::Unknown)),
            ("DATA\tx", Err(Invalid::Unknown)),
            ("GET / HTTP/1.1", Err(Invalid::Http)),
            ("POST /send HTTP/1.1", Err(Invalid::Http)),
            ("PRI * HTTP/2.0", Err(Invalid::Http)),
        ];
        for (line, want) in table {
            assert_eq!(parse(line.as_bytes()), want, "{line}");
        }
        assert_eq!(parse(b"EHLO \xff"), Err(Invalid::Unknown));
    }

    #[test]
    fn bdat_with_a_size_that_can_be_read() {
        let table = [
            ("BDAT 10", 10, false),
            ("BDAT 0", 0, false),
            ("BDAT 0 LAST", 0, true),
            ("bdat 1 last", 1, true),
            ("BDAT 10 LAST  ", 10, true),
            ("BDAT 10 ", 10, false),
            ("BDAT 0007", 7, false),
            ("BDAT 00000000000000000000000000000000000001", 1, false),
            ("BDAT 18446744073709551615", usize::MAX, false),
        ];
        for (line, octets, is_last) in table {
            assert_eq!(parse(line.as_bytes()), Ok(Command::Bdat(Bdat { octets, is_last })), "{line}");
        }
    }

    #[test]
    fn p7_every_malformed_bdat_is_known_for_one() {
        let table = [
            "BDAT",
            "BDAT ",
            "BDAT LAST",
            "BDAT x",
            "BDAT -1",
            "BDAT -0",
            "BDAT +1",
            "BDAT 1x",
            "BDAT 0x10",
            "BDAT 1.5",
            "BDAT 1e3",
            "BDAT 1_000",
            "BDAT 1,000",
            "BDAT 18446744073709551616",
            "BDAT 99999999999999999999999999999999999999",
            "BDAT  10",
            "BDAT 10  LAST",
            "BDAT 10 LAST LAST",
            "BDAT 10 LASTLY",
            "BDAT 10 FIRST",
            "BDAT 10 20",
            "BDAT 10LAST",
            "BDAT LAST 10",
            "BDAT ١٠",
            "BDAT １",
            "BDAT\t10",
            "BDAT 10\tLAST",
            "BDAT 10\0",
            "BDAT 10\u{7f}",
            " BDAT 10",
            "\tBDAT 10",
            "BDAT10",
            "BDATX 10",
            "BDAT:10",
            "bDaT=10",
        ];
        for line in table {
            assert_eq!(parse(line.as_bytes()), Err(Invalid::Bdat), "{line:?}");
        }
        assert_eq!(parse(b"BDAT 10 \xff"), Err(Invalid::Bdat));
        assert_eq!(parse(b"BDA 10"), Err(Invalid::Unknown));
        assert_eq!(parse(b"XBDAT 10"), Err(Invalid::Unknown));
    }

    #[test]
    fn mail_and_its_parameters() {
        let table = [
            ("MAIL FROM:<a@b.example>", mail("a@b.example", None, false)),
            ("mail from:<>", mail("", None, false)),
            ("MAIL FROM:<a@b.example> SIZE=10 BODY=8BITMIME", mail("a@b.example", Some(10), false)),
            ("MAIL FROM:<a@b.example>  body=7bit size=0", mail("a@b.example", Some(0), false)),
            ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", mail("a@b.example", Some(u64::MAX), false)),
            ("MAIL FROM:<grüße@b.example> SMTPUTF8", mail("grüße@b.example", None, true)),
            ("MAIL FROM:<a@b.example> AUTH=<>", mail("a@b.example", None, false)),
            ("MAIL FROM:<\"a>b\"@b.example> SIZE=1", mail("\"a>b\"@b.example", Some(1), false)),
            ("MAIL", Err(Invalid::MailSyntax)),
            ("MAIL FROM: <a@b.example>", Err(Invalid::MailSyntax)),
            ("MAIL FROM:a@b.example", Err(Invalid::MailSyntax)),
            ("MAIL FROM:<a@b.example", Err(Invalid::MailSyntax)),
            ("MAIL FROM:<a@b.example>SIZE=1", Err(Invalid::MailSyntax)),
            ("MAIL TO:<a@b.example>", Err(Invalid::MailSyntax)),
            ("MAIL FROM:<a b@b.example>", Err(Invalid::ReversePath)),
            ("MAIL FROM:<a>", Err(Invalid::ReversePath)),
            ("MAIL FROM:<a@b.example> SIZE=", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> SIZE=-1", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> SIZE=1x", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> SIZE=111111111111111111111", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> SIZE=1 SIZE=2", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> SMTPUTF8=1", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> AUTH", Err(Invalid::ParameterValue)),
            ("MAIL FROM:<a@b.example> NOTIFY=NEVER", Err(Invalid::UnknownParameter)),
        ];
        for (line, want) in table {
            assert_eq!(parse(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn mail_says_what_a_report_shall_return_and_be_known_by() {
        let asking = |ret: &str, envelope_id: &str| {
            Ok(Command::Mail(Mail {
                reverse_path: ReversePath::parse("a@b.example").unwrap(),
                size: None,
                smtputf8: false,
                ret: Ret::parse(ret).ok(),
                envelope_id: EnvelopeId::parse(envelope_id).ok(),
            }))
        };
        let unsound = || Err(Invalid::ParameterValue);
        let long = format!("ENVID={}", "x".repeat(101));
        let table = [
            ("RET=FULL", asking("FULL", "")),
            ("ret=hdrs envid=QQ314159", asking("HDRS", "QQ314159")),
            ("ENVID=a+2Bb", asking("", "a+2Bb")),
            ("RET", unsound()),
            ("RET=", unsound()),
            ("RET=BODY", unsound()),
            ("RET=FULL RET=FULL", unsound()),
            ("ENVID", unsound()),
            ("ENVID=", unsound()),
            ("ENVID=a+0D+0AX", unsound()),
            ("ENVID=a+2b", unsound()),
            ("ENVID=a=b", unsound()),
            ("ENVID=1 ENVID=2", unsound()),
            (long.as_str(), unsound()),
        ];
        for (parameters, want) in table {
            assert_eq!(
                parse(format!("MAIL FROM:<a@b.example> {parameters}").as_bytes()),
                want,
                "{parameters}"
            );
        }
    }

    #[test]
    fn rcpt_says_of_what_the_sender_is_told_and_whom_it_meant() {
        let path = "a@b.example";
        let unsound = || Err(Invalid::ParameterValue);
        let (longest, longer) =
            (format!("ORCPT=rfc822;{}", "x".repeat(493)), format!("ORCPT=rfc822;{}", "x".repeat(494)));
        let table = [
            ("NOTIFY=NEVER", rcpt_asking(path, "NEVER", "")),
            ("notify=success,delay", rcpt_asking(path, "SUCCESS,DELAY", "")),
            (
                "ORCPT=rfc822;a+40b.example NOTIFY=FAILURE",
                rcpt_asking(path, "FAILURE", "rfc822;a+40b.example"),
            ),
            ("ORCPT=utf-8;gr\u{fc}n@b.example", rcpt_asking(path, "", "utf-8;gr\\x{FC}n@b.example")),
            (longest.as_str(), rcpt_asking(path, "", &longest[6..])),
            (longer.as_str(), unsound()),
            ("NOTIFY", unsound()),
            ("NOTIFY=", unsound()),
            ("NOTIFY=NEVER,SUCCESS", unsound()),
            ("NOTIFY=NEVER NOTIFY=NEVER", unsound()),
            ("ORCPT=a@b.example", unsound()),
            ("ORCPT=rfc822;a+0D+0ATo:b", unsound()),
            ("ORCPT=rfc822;a ORCPT=rfc822;a", unsound()),
            ("RET=FULL", Err(Invalid::UnknownParameter)),
            ("SIZE=1", Err(Invalid::UnknownParameter)),
        ];
        for (parameters, want) in table {
            assert_eq!(parse(format!("RCPT TO:<{path}> {parameters}").as_bytes()), want, "{parameters}");
        }
    }

    #[test]
    fn rcpt_takes_a_mailbox() {
        let table = [
            ("RCPT TO:<a@b.example>", rcpt("a@b.example")),
            ("rcpt to:<@r.example:a@b.example>", rcpt("a@b.example")),
            ("RCPT TO:<\"a\\\">b\"@b.example>", rcpt("\"a\\\">b\"@b.example")),
            ("RCPT TO:<>", Err(Invalid::ForwardPath)),
            ("RCPT TO:<a@b..example>", Err(Invalid::ForwardPath)),
            ("RCPT TO:a@b.example", Err(Invalid::RcptSyntax)),
            ("RCPT", Err(Invalid::RcptSyntax)),
            ("RCPT TO:ü", Err(Invalid::RcptSyntax)),
        ];
        for (line, want) in table {
            assert_eq!(parse(line.as_bytes()), want, "{line}");
        }
    }
}
