//! Messages of many parts: whatever the tree, each leaf is carried or a note names it, unless
//! something in it cannot be sent: then the message is refused, for that and for nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postmeter::domain::address::Mailbox;
use postmeter::domain::ids::PartId;
use postmeter::upstream::translate::{CannotCarry, Change, Place, Translatable};

use super::split_choice;

const MAX_DEPTH: usize = 5;
const MAX_LEAVES: usize = 12;
/// The kinds of multiparts, those that can be sent before the sealed ones.
pub(super) const SUBTYPES: [&str; 11] = [
    "mixed",
    "alternative",
    "related",
    "mixed",
    "parallel",
    "alternative",
    "form-data",
    "digest",
    "signed",
    "encrypted",
    "report",
];
const OPEN_SUBTYPES: usize = 8;

/// The headers of leaves, those that can be sent first.
pub(super) const LEAVES: [&str; 24] = [
    "Content-Type: text/plain",
    "Content-Type: text/html",
    "Content-Type: text/plain; charset=utf-8; format=flowed",
    "Content-Type: text/plain; format=flowed; delsp=yes",
    "Content-Type: text/plain; name=a.txt",
    "Content-Type: text/html\r\nContent-Disposition: attachment; filename=a.html",
    "Content-Type: text/html; charset=iso-8859-1",
    "Content-Type: image/png\r\nContent-ID: <shown@x>",
    "Content-Type: image/png\r\nContent-ID: <hidden@x>\r\nContent-Disposition: inline",
    "Content-Type: image/gif\r\nContent-Location: shown.gif",
    "Content-Type: application/pdf; name=a.pdf",
    "Content-Type: application/octet-stream",
    "Content-Type: text/calendar; method=REQUEST",
    "Content-Type: message/rfc822",
    "Content-Type: text/x-amp-html",
    "Content-Type: text/watch-html",
    "Content-Type: text/enriched",
    "X-None: of them",
    "Content-Type: application/pkcs7-mime; name=smime.p7m",
    "Content-Type: application/pgp-encrypted",
    "Content-Type: message/partial",
    "Content-Type: message/external-body; access-type=url",
    "Content-Type: application/x-msdownload; name=a.exe",
    "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.PS1",
];
const OPEN_LEAVES: usize = 18;
/// Those that are sealed where they are the whole message, and files beside others.
const SEALED_ALONE: std::ops::Range<usize> = 18..20;
/// Those whose file names Resend refuses.
const BLOCKED: std::ops::Range<usize> = 22..24;

enum Node {
    Leaf { kind: usize, encoding: u8 },
    Parts { subtype: usize, parts: Vec<Node> },
}

/// A leaf: where it stands, and what is in no other.
struct Leaf {
    number: String,
    token: String,
}

/// What was written of a tree.
#[derive(Default)]
struct Written {
    leaves: Vec<Leaf>,
    /// What cannot be sent: where it stands, and the status of its refusal.
    refused: Vec<(String, &'static str)>,
}

/// The first octet says whether anything may be in it that cannot be sent, the others how
/// the tree grows.
pub fn check(input: &[u8]) {
    let (choice, rest) = split_choice(input);
    let mut octets = rest.iter().copied();
    let mut leaves_left = MAX_LEAVES;
    let is_open = !choice.is_multiple_of(3);
    let tree = grown(&mut octets, is_open, MAX_DEPTH, &mut leaves_left);
    let mut written = Written::default();
    let entity = written.entity(&tree, "");
    let message = format!("From: a@x.example\r\nTo: bob@y.example\r\nSubject: s\r\n{entity}\r\n");
    super::mime::check(message.as_bytes());
    match Translatable::parse(message.as_bytes()) {
        Ok(_) if !written.refused.is_empty() => {
            panic!("taken with {:?}: {}", written.refused, message.escape_debug());
        }
        Ok(translatable) => carried(&translatable, message.as_bytes(), &written.leaves),
        Err(reason) => {
            let is_so = written.refused.iter().any(|refused| is_reason(&reason, refused));
            assert!(is_so, "{reason}, not {:?}: {}", written.refused, message.escape_debug());
        }
    }
}

/// Whether a refusal is for that, and says where it stands.
fn is_reason(reason: &CannotCarry, (number, status): &(String, &'static str)) -> bool {
    let names_it = match number.as_str() {
        "" => !reason.what.contains("part "),
        number => [':', ')'].iter().any(|end| reason.what.contains(&format!("part {number}{end}"))),
    };
    reason.status == *status && names_it
}

fn grown(
    octets: &mut impl Iterator<Item = u8>,
    is_open: bool,
    depth: usize,
    leaves_left: &mut usize,
) -> Node {
    let choice = octets.next().unwrap_or_default();
    let detail = usize::from(octets.next().unwrap_or_default());
    let (leaves, subtypes) =
        if is_open { (OPEN_LEAVES, OPEN_SUBTYPES) } else { (LEAVES.len(), SUBTYPES.len()) };
    if depth == 0 || choice.is_multiple_of(3) {
        *leaves_left = leaves_left.saturating_sub(1);
        return Node::Leaf { kind: detail % leaves, encoding: choice / 3 % 3 };
    }
    let mut parts = vec![grown(octets, is_open, depth - 1, leaves_left)];
    while parts.len() < usize::from(choice / 3 % 5) + 1 && *leaves_left > 0 {
        parts.push(grown(octets, is_open, depth - 1, leaves_left));
    }
    Node::Parts { subtype: detail % subtypes, parts }
}

impl Written {
    /// An entity from its Content-Type on.
    fn entity(&mut self, node: &Node, number: &str) -> String {
        match node {
            Node::Leaf { kind, encoding } => self.leaf(*kind, *encoding, number),
            Node::Parts { subtype, parts } => {
                if *subtype >= OPEN_SUBTYPES {
                    self.refused.push((number.to_owned(), "5.6.1"));
                }
                let boundary = format!("b{}", number.replace('.', "-"));
                let subtype = SUBTYPES[*subtype];
                let mut out = format!("Content-Type: multipart/{subtype}; boundary=\"{boundary}.\"\r\n\r\n");
                for (n, part) in (1..).zip(parts) {
                    let number = if number.is_empty() { format!("{n}") } else { format!("{number}.{n}") };
                    out += &format!("--{boundary}.\r\n{}\r\n", self.entity(part, &number));
                }
                out + &format!("--{boundary}.--")
            }
        }
    }

    fn leaf(&mut self, kind: usize, encoding: u8, number: &str) -> String {
        let is_message = number.is_empty();
        let number = if is_message { "1" } else { number }.to_owned();
        if kind >= OPEN_LEAVES && (is_message || !SEALED_ALONE.contains(&kind)) {
            let status = if BLOCKED.contains(&kind) { "5.7.1" } else { "5.6.1" };
            self.refused.push((number.clone(), status));
        }
        let token = format!("leaf-{}-faeL", self.leaves.len());
        let content = format!("<img src=\"cid:shown@x\"><img src='shown.gif'>\r\n\r\n{token}\r\n");
        self.leaves.push(Leaf { number, token });
        let (name, content) = match encoding {
            0 => ("7bit", content),
            1 => ("base64", STANDARD.encode(content)),
            _ => ("quoted-printable", content.replace('=', "=3D").replace("faeL", "fa=\r\neL")),
        };
        format!("{}\r\nContent-Transfer-Encoding: {name}\r\n\r\n{content}", LEAVES[kind])
    }
}

fn carried(translatable: &Translatable, message: &[u8], leaves: &[Leaf]) {
    let recipients = [Mailbox::parse("bob@y.example").expect("an address")];
    let part_id = PartId::parse("0199-0").expect("an id");
    let parts = translatable.parts(&recipients);
    let notes = translatable.notes(&recipients, &parts);
    let json = translatable.email(&recipients, &part_id).expect("one part").to_json();
    assert!(json.len() <= 16 * message.len() + 4096, "{} of {}", json.len(), message.len());
    let email: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    let mut sent: Vec<String> =
        ["text", "html"].iter().filter_map(|version| email[version].as_str()).map(str::to_owned).collect();
    let files: Vec<&serde_json::Value> = email["attachments"].as_array().into_iter().flatten().collect();
    assert!(files.len() <= leaves.len());
    for file in files {
        let content = file["content"].as_str().expect("content");
        assert!(file["filename"].as_str().is_some_and(|name| !name.is_empty()));
        assert!(file["content_id"].as_str().is_none_or(|id| id.len() < 128));
        let is_calendar = file["filename"].as_str().is_some_and(|name| name.ends_with(".ics"));
        let octets =
            if is_calendar { content.into() } else { STANDARD.decode(content).expect("it is Base64") };
        sent.push(String::from_utf8_lossy(&octets).into_owned());
    }
    for Leaf { number, token } in leaves {
        let is_there = sent.iter().any(|content| content.contains(token.as_str()));
        let is_told = notes.iter().any(|note| {
            matches!(&note.place, Place::Part { number: told, .. } if told == number)
                && matches!(note.change, Change::TextLeftOut | Change::VersionLeftOut)
        });
        assert!(is_there || is_told, "part {number} is gone: {}\n{notes:?}", message.escape_ascii());
    }
}
