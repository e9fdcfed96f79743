//! Envelopes of any size before headers that name some of their recipients, others and nobody:
//! whoever is in the envelope gets one mail, nobody else does, and who is hidden stays hidden.

use std::collections::BTreeSet;

use postmeter::domain::address::{Mailbox, ReversePath};
use postmeter::domain::envelope::{Added, Draft};
use postmeter::domain::ids::PartId;
use postmeter::upstream::translate::{MAX_RECIPIENTS, Translatable};

/// Recipients of one envelope.
pub const MOST: usize = 120;
const DOMAINS: [[&str; 2]; 4] = [
    ["x.example", "x.example"],
    ["x.example", "X.Example"],
    ["b\u{fc}cher.example", "xn--bcher-kva.example"],
    ["xn--bcher-kva.example", "B\u{dc}CHER.example"],
];

/// Each pair of octets is somebody: who, and where they stand.
pub fn check(input: &[u8]) {
    let (mut to, mut cc) = (Vec::new(), Vec::new());
    let mut envelope = Draft::new(ReversePath::Null, MOST);
    for pair in input.chunks_exact(2) {
        let (who, how) = (pair[0] % 160, pair[1]);
        let [in_header, in_envelope] = DOMAINS[usize::from(how >> 2 & 3)];
        let named = if how & 0x10 == 0 { "" } else { "Some, One " };
        let shown = match named {
            "" => format!("u{who}@{in_header}"),
            name => format!("\"{name}{who}\" <u{who}@{in_header}>"),
        };
        let times = if how & 0x20 == 0 { 1 } else { 2 };
        let lists: &mut [&mut Vec<String>] = match how & 3 {
            0 => &mut [],
            1 => &mut [&mut to],
            2 => &mut [&mut cc],
            _ => &mut [&mut to, &mut cc],
        };
        lists.iter_mut().for_each(|list| list.extend(vec![shown.clone(); times]));
        let letter = if how & 0x40 == 0 { 'u' } else { 'U' };
        let recipient = Mailbox::parse(&format!("{letter}{who}@{in_envelope}")).expect("an address");
        if how & 0x80 == 0 || lists.is_empty() {
            let added = [envelope.add(recipient.clone()), envelope.add(recipient)];
            assert_ne!(added[1], Added::New, "doubled, it counts once");
        }
    }
    let list = |name: &str, list: &[String]| match list {
        [] => String::new(),
        list => format!("{name}: {}\r\n", list.join(",\r\n ")),
    };
    let message =
        format!("From: a@x.example\r\n{}{}Subject: s\r\n\r\nhi\r\n", list("To", &to), list("Cc", &cc));
    let shown = to.iter().chain(&cc).map(|address| as_read(address)).collect();
    served(&message, envelope.recipients(), &shown);
}

/// The address of a list without its name, as a reader compares it.
fn as_read(address: &str) -> String {
    written(address).to_lowercase()
}

/// The address of a list without its name, its domain in ASCII.
fn written(address: &str) -> String {
    let bare = address.rsplit_once('<').map_or(address, |(_, bare)| bare.trim_end_matches('>'));
    Mailbox::parse(bare).expect("an address").to_ascii()
}

fn served(message: &str, recipients: &[Mailbox], shown: &BTreeSet<String>) {
    let translatable = Translatable::parse(message.as_bytes()).expect("it can be carried");
    let part_id = PartId::parse("0199-0").expect("an id");
    let mut served = Vec::new();
    for part in translatable.parts(recipients) {
        assert!((1..=MAX_RECIPIENTS).contains(&part.len()), "{}", part.len());
        let json = translatable.email(&part, &part_id).expect("a part as it was cut").to_json();
        let email: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
        let list = |name: &str| -> Vec<String> {
            let list = email[name].as_array().into_iter().flatten();
            list.map(|address| written(address.as_str().expect("an address"))).collect()
        };
        let (to, cc, bcc) = (list("to"), list("cc"), list("bcc"));
        assert!(!to.is_empty(), "{email}");
        let count = to.len() + cc.len() + bcc.len();
        assert!(count <= MAX_RECIPIENTS && count == part.len(), "{email}");
        let is_shown = |address: &String| shown.contains(&address.to_lowercase());
        assert!(count == 1 || to.iter().chain(&cc).all(is_shown), "one who is hidden is shown: {email}");
        served.extend([to, cc, bcc].concat());
    }
    served.sort();
    let mut wanted: Vec<String> = recipients.iter().map(Mailbox::to_ascii).collect();
    wanted.sort();
    assert_eq!(served, wanted, "{message}");
}
