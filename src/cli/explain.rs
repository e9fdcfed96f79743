//! `postmeter explain`: what becomes of a message, without sending it.
//!
//! It needs neither a database nor secrets, and no configuration either. What submission
//! would refuse is refused by the same code and in the words of the SMTP server, as far as
//! it does not depend on the customer: senders, credit, suppressed addresses.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::print::plain;
use super::{Format, Place, Printout};
use crate::config::{Config, OutOfCreditReply};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::ids::MessageId;
use crate::domain::message::Road;
use crate::domain::refusal::Refusal;
use crate::mime::address_list::readable_addresses;
use crate::mime::header::Header;
use crate::routing::{Route, Routing};
use crate::smtp::data::Flaw;
use crate::smtp::reply::Reply;
use crate::submission::{Bounds, not_carried};
use crate::upstream::translate::{CannotCarry, Change, EVERY_MAIL, Note, Place as NotePlace, Translatable};

/// Stands for the id that a message gets when it is accepted.
const MESSAGE_ID: &str = "example";

/// `postmeter explain …`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// The sender of the envelope; '' is the null sender [default: one that any road takes]
    #[arg(long, value_name = "ADDRESS", value_parser = ReversePath::parse)]
    pub from: Option<ReversePath>,
    /// A recipient of the envelope; several with several --to [default: those of To, Cc and Bcc]
    #[arg(long, value_name = "ADDRESS", value_parser = Mailbox::parse)]
    pub to: Vec<Mailbox>,
    /// The message as it would be submitted; with --json there may be several, one line each
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// What is said about one file.
#[derive(Serialize)]
#[serde(untagged)]
enum Explained {
    Sent { file: String, parts: Vec<PartObject>, notes: Vec<NoteObject>, every_mail: &'static [&'static str] },
    Refused { file: String, refused: RefusalObject },
}

#[derive(Serialize)]
struct PartObject {
    road: &'static str,
    recipients: Vec<String>,
    /// The body of the call; there is none over SMTP, which carries the message as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<Value>,
}

#[derive(Serialize)]
struct NoteObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    change: Change,
    text: String,
}

#[derive(Serialize)]
struct RefusalObject {
    code: u16,
    status: String,
    text: String,
}

/// As which envelope, and under which configuration.
struct Asked<'a> {
    from: Option<&'a ReversePath>,
    /// Empty: to those whom the header names.
    to: &'a [Mailbox],
    routing: Routing,
    bounds: Bounds,
}

pub(super) fn run(args: &ExplainArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let config = Config::load(place.config_path)?;
    let (routing, bounds) = (Routing::new(&config), Bounds::new(&config.smtp));
    let asked = Asked { from: args.from.as_ref(), to: &args.to, routing, bounds };
    let mut printout = Printout { text: String::new(), is_success: true };
    for file in &args.files {
        let explained = explained(file, &asked)?;
        printout.is_success &= matches!(explained, Explained::Sent { .. });
        printout.text += &if args.format.json {
            serde_json::to_string(&explained)? + "\n"
        } else {
            shown(&explained, args.files.len() > 1)
        };
    }
    Ok(printout)
}

fn explained(path: &Path, asked: &Asked<'_>) -> anyhow::Result<Explained> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {file}"))?;
    let sent = way(&as_submitted(&bytes), asked);
    Ok(match sent {
        Ok((parts, notes)) => Explained::Sent { file, parts, notes, every_mail: &EVERY_MAIL },
        Err(reply) => Explained::Refused { file, refused: (&reply).into() },
    })
}

/// Clients send lines that end in CRLF, whatever their files have.
fn as_submitted(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|octet| *octet == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

type Way = (Vec<PartObject>, Vec<NoteObject>);

fn way(bytes: &[u8], asked: &Asked<'_>) -> Result<Way, Reply> {
    // What end of data refuses before anything is looked at.
    let is_bare = |pair: &[u8]| matches!(pair, [b'\r', other] if *other != b'\n');
    if bytes.contains(&0) {
        return Err(Reply::malformed_body(Flaw::Nul));
    }
    if bytes.windows(2).any(is_bare) || bytes.ends_with(b"\r") {
        return Err(Reply::malformed_body(Flaw::BareCr));
    }
    // Nothing here is refused for lack of credit.
    taken_in(bytes, asked).map_err(|refusal| Reply::refusal(&refusal, OutOfCreditReply::Temporary))
}

fn taken_in(bytes: &[u8], asked: &Asked<'_>) -> Result<Way, Refusal> {
    let Asked { from, routing, bounds, .. } = asked;
    let named: Vec<Mailbox>;
    let recipients = if asked.to.is_empty() {
        named = in_header(bytes).map_err(not_carried)?;
        named.as_slice()
    } else {
        asked.to
    };
    let mut addresses = from.and_then(ReversePath::mailbox).into_iter().chain(recipients);
    addresses.try_for_each(|address| routing.check_address(address)).map_err(not_carried)?;
    let inspection = bounds.inspect(bytes, bytes.len(), recipients.len())?;
    if recipients.is_empty() {
        let nobody = CannotCarry::malformed("the header names no recipient; say --to ADDRESS");
        return Err(not_carried(nobody));
    }
    let by_sender = from.and_then(|from| routing.by_sender(from, (bytes, bytes.len()), recipients));
    let (parts, notes) = sent(bytes, recipients, routing, by_sender).map_err(not_carried)?;
    // The translation has met them, since nothing was taken out before it.
    let is_translated = parts.iter().any(|part| part.email.is_some());
    let withheld = inspection.withheld.iter().filter(|_| !is_translated).map(|name| Note::withheld(name));
    Ok((parts, withheld.chain(notes).map(NoteObject::from).collect()))
}

fn sent(
    bytes: &[u8],
    recipients: &[Mailbox],
    routing: &Routing,
    by_sender: Option<Result<Route, CannotCarry>>,
) -> Result<(Vec<PartObject>, Vec<Note>), CannotCarry> {
    let message_id = MessageId::parse(MESSAGE_ID).map_err(|_| CannotCarry::malformed("no message id"))?;
    let route = by_sender.unwrap_or_else(|| routing.route(&message_id, bytes, recipients))?;
    let mut parts = Vec::with_capacity(route.parts.len());
    for (part_no, part) in (0..).zip(route.parts) {
        let email = match part.road {
            Road::Smtp => None,
            Road::Resend => {
                let message = Translatable::parse(bytes)?;
                let json = message.email(&part.recipients, &message_id.part(part_no))?.to_json();
                Some(serde_json::from_slice(&json).unwrap_or_default())
            }
        };
        let recipients = part.recipients.iter().map(ToString::to_string).collect();
        parts.push(PartObject { road: part.road.as_str(), recipients, email });
    }
    Ok((parts, route.notes))
}

/// Each address once, in the order of the header.
fn in_header(bytes: &[u8]) -> Result<Vec<Mailbox>, CannotCarry> {
    let header = Header::parse(bytes)?;
    let mut recipients: Vec<Mailbox> = Vec::new();
    for name in ["To", "Cc", "Bcc"] {
        for named in header.all(name).flat_map(|field| readable_addresses(field.value()).list) {
            if !recipients.contains(&named.mailbox) {
                recipients.push(named.mailbox);
            }
        }
    }
    Ok(recipients)
}

impl From<Note> for NoteObject {
    fn from(note: Note) -> Self {
        let text = note.to_string();
        let (field, part) = match note.place {
            NotePlace::Message => (None, None),
            NotePlace::Field(name) => (Some(name), None),
            NotePlace::Part { number, .. } => (None, Some(number)),
        };
        Self { field, part, change: note.change, text }
    }
}

impl From<&Reply> for RefusalObject {
    fn from(reply: &Reply) -> Self {
        let line = reply.to_string();
        let (code, rest) = line.split_once(' ').unwrap_or_default();
        let (status, text) = rest.split_once(' ').unwrap_or_default();
        Self { code: code.parse().unwrap_or_default(), status: status.to_owned(), text: text.to_owned() }
    }
}

/// For people.
fn shown(explained: &Explained, is_one_of_many: bool) -> String {
    let head = |file: &str| if is_one_of_many { format!("{}\n", plain(file)) } else { String::new() };
    match explained {
        Explained::Refused { file, refused: RefusalObject { code, status, text } } => {
            format!("{}refused: {code} {status} {}\n", head(file), plain(text))
        }
        Explained::Sent { file, parts, notes, every_mail } => {
            let mut out = head(file);
            for (number, part) in parts.iter().enumerate() {
                out += &format!("part {number} by {} to {}\n", part.road, plain(&part.recipients.join(", ")));
                if let Some(email) = &part.email {
                    out += &format!("{email:#}\n");
                }
            }
            out += &listed("lost or changed in this message", notes.iter().map(|note| note.text.as_str()));
            let by_resend = parts.iter().any(|part| part.email.is_some());
            out + &listed("in every mail", every_mail.iter().filter(|_| by_resend).copied())
        }
    }
}

fn listed<'l>(title: &str, lines: impl Iterator<Item = &'l str>) -> String {
    let lines: String = lines.map(|line| format!("  - {}\n", plain(line))).collect();
    let lines = if lines.is_empty() { "  nothing\n".to_owned() } else { lines };
    format!("{title}:\n{lines}")
}

#[cfg(test)]
mod tests;
