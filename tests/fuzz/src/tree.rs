//! Messages of many parts: whatever the tree, each leaf is carried, or a note names it,
//! or the message is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postmeter::domain::address::Mailbox;
use postmeter::domain::ids::PartId;
use postmeter::upstream::translate::{Change, Place, Translatable};

const MAX_DEPTH: usize = 5;
const MAX_LEAVES: usize = 12;
const SUBTYPES: [&str; 8] =
    ["mixed", "alternative", "related", "mixed", "parallel", "alternative", "form-data", "digest"];

/// The headers of leaves; the last two make the message one that Resend cannot carry.
const LEAVES: [&str; 20] = [
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
    "Content-Type: message/partial",
    "Content-Type: application/x-msdownload; name=a.exe",
];

enum Node {
    Leaf { kind: usize, encoding: u8 },
    Parts { subtype: usize, parts: Vec<Node> },
}

/// A leaf: where it stands, and what is in no other.
struct Leaf {
    number: String,
    token: String,
}

/// The octets say how the tree grows.
pub fn check(input: &[u8]) {
    let mut octets = input.iter().copied();
    let mut leaves_left = MAX_LEAVES;
    let tree = grown(&mut octets, MAX_DEPTH, &mut leaves_left);
    let mut leaves = Vec::new();
    let entity = written(&tree, "", &mut leaves);
    let message = format!("From: a@x.example\r\nTo: bob@y.example\r\nSubject: s\r\n{entity}\r\n");
    super::mime::check(message.as_bytes());
    carried(message.as_bytes(), &leaves);
}

fn grown(octets: &mut impl Iterator<Item = u8>, depth: usize, leaves_left: &mut usize) -> Node {
    let choice = octets.next().unwrap_or_default();
    let detail = octets.next().unwrap_or_default();
    if depth == 0 || choice.is_multiple_of(3) {
        *leaves_left = leaves_left.saturating_sub(1);
        return Node::Leaf { kind: usize::from(detail) % LEAVES.len(), encoding: choice / 3 % 3 };
    }
    let mut parts = vec![grown(octets, depth - 1, leaves_left)];
    while parts.len() < usize::from(choice / 3 % 5) + 1 && *leaves_left > 0 {
        parts.push(grown(octets, depth - 1, leaves_left));
    }
    Node::Parts { subtype: usize::from(detail) % SUBTYPES.len(), parts }
}

/// An entity from its Content-Type on.
fn written(node: &Node, number: &str, leaves: &mut Vec<Leaf>) -> String {
    match node {
        Node::Leaf { kind, encoding } => {
            let number = if number.is_empty() { "1" } else { number }.to_owned();
            let token = format!("leaf-{}-faeL", leaves.len());
            let content = format!("<img src=\"cid:shown@x\"><img src='shown.gif'>\r\n\r\n{token}\r\n");
            leaves.push(Leaf { number, token });
            let (name, content) = match encoding {
                0 => ("7bit", content),
                1 => ("base64", STANDARD.encode(content)),
                _ => ("quoted-printable", content.replace('=', "=3D").replace("faeL", "fa=\r\neL")),
            };
            format!("{}\r\nContent-Transfer-Encoding: {name}\r\n\r\n{content}", LEAVES[*kind])
        }
        Node::Parts { subtype, parts } => {
            let boundary = format!("b{}", number.replace('.', "-"));
            let mut out =
                format!("Content-Type: multipart/{}; boundary=\"{boundary}.\"\r\n\r\n", SUBTYPES[*subtype]);
            for (n, part) in (1..).zip(parts) {
                let number = if number.is_empty() { format!("{n}") } else { format!("{number}.{n}") };
                out += &format!("--{boundary}.\r\n{}\r\n", written(part, &number, leaves));
            }
            out + &format!("--{boundary}.--")
        }
    }
}

fn carried(message: &[u8], leaves: &[Leaf]) {
    let Ok(translatable) = Translatable::parse(message) else { return };
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
