//! Messages: what is let in is read in one way, leaves with its stamp and without what must
//! not leave, and goes to the recipients of its envelope and to nobody else.

use jiff::Timestamp;
use postmeter::domain::address::Mailbox;
use postmeter::domain::arrival::Arrival;
use postmeter::domain::idempotency::MAX_KEY_BYTES;
use postmeter::domain::ids::{MessageId, PartId};
use postmeter::mime::header::Header;
use postmeter::mime::inspect::{Inspection, inspect};
use postmeter::mime::trace::{Stamp, prepare};
use postmeter::upstream::translate::{MAX_RECIPIENTS, Translatable};

/// The octets are a message.
pub fn check(message: &[u8]) {
    match inspect(message) {
        Ok(inspection) => taken(message, &inspection),
        Err(unsound) => assert!(is_plain(&unsound.to_string()), "{unsound}"),
    }
}

fn taken(message: &[u8], inspection: &Inspection) {
    assert!(!inspection.from.is_empty());
    inspection.from.iter().chain(&inspection.sender).for_each(super::command::mailbox);
    assert!(inspection.subject.as_ref().is_none_or(|subject| !subject.contains(char::is_control)));
    if let Some(key) = &inspection.idempotency_key {
        assert!((1..=MAX_KEY_BYTES).contains(&key.as_str().len()) && is_plain(key.as_str()));
    }
    let meant: usize = inspection.meant(message).map(<[u8]>::len).sum();
    assert!(meant <= message.len());
    let prepared = stamped(message, inspection);
    let again = inspect(&prepared).expect("what was sound is sound with a stamp");
    assert!(again.has_date && again.has_message_id && again.idempotency_key.is_none());
    assert_eq!(again.received, inspection.received + 1);
    assert_eq!((&again.from, &again.sender), (&inspection.from, &inspection.sender));
    assert_eq!(again.subject, inspection.subject);
    assert_eq!(stamped_fields_of(&prepared), Vec::<String>::new(), "{}", prepared.escape_ascii());
    let body = |bytes| Header::parse(bytes).expect("it was read before").body.to_vec();
    assert_eq!(body(&prepared), body(message));
    translated(&prepared);
}

fn stamped(message: &[u8], inspection: &Inspection) -> Vec<u8> {
    let arrival = Arrival {
        protocol: "ESMTPSA",
        peer: ([192, 0, 2, 1], 5_000).into(),
        helo: Some("client.example".to_owned()),
        tls: None,
    };
    let message_id = MessageId::parse("0199").expect("an id");
    let stamp = Stamp {
        hostname: "smtp.example.com",
        now: Timestamp::UNIX_EPOCH,
        message_id: &message_id,
        arrival: &arrival,
    };
    prepare(message, inspection, &stamp)
}

/// The names of those fields that must not leave and are there, by a plain reading of lines.
fn stamped_fields_of(message: &[u8]) -> Vec<String> {
    let lines = message.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let header = lines.take_while(|line| !line.is_empty());
    let names = header.filter_map(|line| {
        let colon = line.iter().position(|octet| *octet == b':')?;
        Some(String::from_utf8_lossy(&line[..colon]).trim_end_matches([' ', '\t']).to_ascii_lowercase())
    });
    let secret = ["bcc", "resent-bcc", "return-path"];
    let orders = ["resend-", "x-ses-", "x-postmeter-"];
    names
        .filter(|name| secret.contains(&name.as_str()) || orders.iter().any(|order| name.starts_with(order)))
        .collect()
}

/// Whatever the message says, these two get it and nobody else, and the same call says it again.
fn translated(message: &[u8]) {
    let translatable = match Translatable::parse(message) {
        Ok(translatable) => translatable,
        Err(refused) => return assert!(is_plain(&refused.what), "{refused}"),
    };
    let recipients =
        ["bob@y.example", "carol@z.example"].map(|text| Mailbox::parse(text).expect("an address"));
    let part_id = PartId::parse("0199-0").expect("an id");
    let mut served = Vec::new();
    for part in translatable.parts(&recipients) {
        assert!((1..=MAX_RECIPIENTS).contains(&part.len()));
        let email = translatable.email(&part, &part_id).expect("a part as it was cut").to_json();
        let again = Translatable::parse(message).expect("it was read before");
        assert_eq!(again.email(&part, &part_id).expect("the same part").to_json(), email);
        named(&email, &part);
        served.extend(part);
    }
    served.sort();
    assert_eq!(served, recipients);
}

/// The call names each of them once, and nobody else.
fn named(email: &[u8], part: &[Mailbox]) {
    let email: serde_json::Value = serde_json::from_slice(email).expect("it is JSON");
    let lists = ["to", "cc", "bcc"].iter().filter_map(|list| email[list].as_array()).flatten();
    let mut named: Vec<&str> = lists.map(|address| address.as_str().expect("an address")).collect();
    assert!(email["to"].as_array().is_some_and(|to| !to.is_empty()));
    assert!(named.iter().all(|address| !address.contains(char::is_control)), "{named:?}");
    for mailbox in part {
        let (bare, ending) = (mailbox.to_string(), format!(" <{mailbox}>"));
        let found = named.iter().position(|address| *address == bare || address.ends_with(&ending));
        named.swap_remove(found.unwrap_or_else(|| panic!("{bare} is not among {named:?}")));
    }
    assert!(named.is_empty(), "{named:?}");
    assert!(email["html"].is_string() || email["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(email["subject"].as_str().is_some_and(|subject| !subject.contains(char::is_control)));
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|octet| matches!(octet, b' '..=b'~'))
}
