//! The grammar of commands: what is taken keeps its limits, can be written down and read
//! again as the same, and cannot break the line that it is shown in.

use postmeter::domain::address::{
    MAX_DOMAIN_OCTETS, MAX_LOCAL_OCTETS, MAX_MAILBOX_OCTETS, Mailbox, ReversePath,
};
use postmeter::domain::dsn::{MAX_ENVELOPE_ID_CHARS, MAX_ORCPT_OCTETS, RecipientDsn};
use postmeter::smtp::command::{Bdat, Command, Invalid, Mail, Rcpt, announces_octets, parse};
use postmeter::smtp::reply::Reply;

use super::session::sound_reply;

/// The octets are one line, whatever it holds.
pub fn check(line: &[u8]) {
    let parsed = parse(line);
    if announces_octets(line) {
        assert!(matches!(parsed, Ok(Command::Bdat(_)) | Err(Invalid::Bdat)), "{parsed:?}");
    }
    let command = match parsed {
        Err(invalid) => return assert_eq!(sound_reply(&Reply::invalid(invalid)) / 100, 5),
        Ok(command) => command,
    };
    let text = std::str::from_utf8(line).expect("a command is text");
    assert!(!text.contains(char::is_control), "{text:?}");
    assert_eq!(parse(format!("{text} ").as_bytes()).as_ref(), Ok(&command), "a blank behind it says nothing");
    match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!((1..=255).contains(&name.len()) && text.contains(name));
            assert!(name.bytes().all(|octet| octet.is_ascii_graphic() && !b"()<>@,;\"\\".contains(&octet)));
        }
        Command::Auth { initial, .. } => {
            assert!(initial.is_none_or(|initial| !initial.is_empty() && !initial.contains(' ')));
        }
        Command::Mail(mail) => again(&mail),
        Command::Rcpt(rcpt) => rcpt_again(rcpt),
        Command::Bdat(bdat) => assert_eq!(announced(text), Some(bdat)),
        _ => {}
    }
}

fn again(mail: &Mail) {
    if let ReversePath::Mailbox(own) = &mail.reverse_path {
        mailbox(own);
    }
    let size = mail.size.map(|size| format!(" SIZE={size}")).unwrap_or_default();
    let smtputf8 = if mail.smtputf8 { " SMTPUTF8" } else { "" };
    let ret = mail.ret.map(|ret| format!(" RET={}", ret.as_str())).unwrap_or_default();
    let envid = mail.envelope_id.as_ref().map(|id| format!(" ENVID={}", id.as_str())).unwrap_or_default();
    if let Some(id) = &mail.envelope_id {
        printable(&id.decoded());
        assert!(id.decoded().len() <= MAX_ENVELOPE_ID_CHARS);
    }
    let written = format!("MAIL FROM:<{}>{size}{smtputf8}{ret}{envid}", mail.reverse_path);
    assert_eq!(parse(written.as_bytes()), Ok(Command::Mail(Mail { ..clone(mail) })), "{written}");
}

fn clone(mail: &Mail) -> Mail {
    Mail {
        reverse_path: mail.reverse_path.clone(),
        size: mail.size,
        smtputf8: mail.smtputf8,
        ret: mail.ret,
        envelope_id: mail.envelope_id.clone(),
    }
}

fn rcpt_again(rcpt: Rcpt) {
    mailbox(&rcpt.recipient);
    let Rcpt { recipient, dsn: RecipientDsn { notify, original } } = &rcpt;
    let notify = notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
    // What is written in ASCII only here may have become too long to be said.
    let said = original.as_ref().filter(|original| original.to_string().len() <= MAX_ORCPT_OCTETS);
    let orcpt = said.map(|original| format!(" ORCPT={original}")).unwrap_or_default();
    assert!(orcpt.len() <= MAX_ORCPT_OCTETS + " ORCPT=".len());
    if let Some(original) = original {
        // An address of nothing is one, but for the type `utf-8`.
        if !original.decoded().is_empty() {
            printable(&original.decoded());
        }
        printable(original.address_type());
    }
    let written = format!("RCPT TO:<{recipient}>{notify}{orcpt}");
    if said.is_some() || original.is_none() {
        assert_eq!(parse(written.as_bytes()), Ok(Command::Rcpt(rcpt)), "{written}");
    }
}

/// It can stand in a header, and begins no other line there.
fn printable(text: &str) {
    assert!(!text.is_empty() && text.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{text:?}");
}

/// Within its limits (RFC 5321 §4.5.3.1), on one line, and the same however it is spelt.
pub(super) fn mailbox(mailbox: &Mailbox) {
    let written = mailbox.to_string();
    assert!(written.len() <= MAX_MAILBOX_OCTETS && mailbox.local().len() <= MAX_LOCAL_OCTETS, "{written}");
    assert!(mailbox.domain().as_str().len() <= MAX_DOMAIN_OCTETS, "{written}");
    assert!(!written.contains(char::is_control), "{written:?}");
    assert_eq!(Mailbox::parse(&written).as_ref(), Ok(mailbox), "{written}");
    let ascii = mailbox.to_ascii();
    assert_eq!(ascii.is_ascii(), mailbox.fits_ascii(), "{written}");
    if ascii.len() <= MAX_MAILBOX_OCTETS {
        let other = Mailbox::parse(&ascii);
        assert!(other.as_ref().is_ok_and(|other| other.is_same(mailbox)), "{written}: {ascii}: {other:?}");
    }
}

/// What a line that begins with BDAT announces.
pub(super) fn announced(line: &str) -> Option<Bdat> {
    let line = line.trim_end_matches(' ').to_ascii_uppercase();
    let argument = line.strip_prefix("BDAT ")?;
    let digits = argument.strip_suffix(" LAST").unwrap_or(argument);
    let is_number = !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit());
    let octets = digits.parse().ok().filter(|_| is_number)?;
    Some(Bdat { octets, is_last: digits.len() < argument.len() })
}
