//! Sign-in: exactly what a plain reading of RFC 4616 and of LOGIN allows becomes a
//! username and a secret, and neither can be empty or hold a NUL.

use postmeter::smtp::sasl::{Exchange, Failure, Login, Mechanism, Progress, begin};

use super::split_choice;

/// A client hangs on no longer than LOGIN takes, and a line or two.
const MAX_RESPONSES: usize = 4;

/// The first octet: PLAIN (even) or LOGIN, and whether the first line comes with the
/// command. The rest: one response a line.
pub fn check(input: &[u8]) {
    let (choice, rest) = split_choice(input);
    let mechanism = if choice.is_multiple_of(2) { Mechanism::Plain } else { Mechanism::Login };
    let mut lines = rest.split(|octet| *octet == b'\n');
    let initial =
        lines.clone().next().filter(|_| choice & 2 == 0).and_then(|line| std::str::from_utf8(line).ok());
    let mut progress = begin(mechanism, initial);
    let mut said = Vec::new();
    if let Some(initial) = initial {
        said.push(if initial == "=" { b"".as_slice() } else { initial.as_bytes() });
        lines.next();
    }
    for line in lines.take(MAX_RESPONSES) {
        let Progress::Ask(exchange) = progress else { break };
        assert_eq!(exchange, expected(mechanism, &said));
        progress = exchange.respond(line);
        said.push(line);
    }
    match (progress, wanted(mechanism, &said)) {
        (Progress::Ask(exchange), None) => assert_eq!(exchange, expected(mechanism, &said)),
        (Progress::Complete(Login { username, secret }), Some(Ok((own_username, own_secret)))) => {
            assert_eq!((username.as_str(), secret.reveal()), (own_username.as_str(), own_secret.as_str()));
            assert!(!username.is_empty() && !secret.reveal().is_empty());
            assert!(!username.contains('\0') && !secret.reveal().contains('\0'));
            assert!(username.len() + secret.reveal().len() <= said.concat().len());
        }
        (Progress::Failed(failure), Some(Err(own))) => assert_eq!(failure, own),
        (progress, wanted) => panic!("{progress:?} instead of {wanted:?}"),
    }
}

fn expected(mechanism: Mechanism, said: &[&[u8]]) -> Exchange {
    match (mechanism, said) {
        (Mechanism::Plain, _) => Exchange::PlainMessage,
        (Mechanism::Login, []) => Exchange::LoginUsername,
        (Mechanism::Login, [username, ..]) => {
            Exchange::LoginSecret { username: text(username).expect("it was taken") }
        }
    }
}

/// What comes of these responses; `None` while more are due.
fn wanted(mechanism: Mechanism, said: &[&[u8]]) -> Option<Result<(String, String), Failure>> {
    match (mechanism, said) {
        (_, []) => None,
        (Mechanism::Plain, [message, ..]) => Some(text(message).and_then(|message| plain(&message))),
        (Mechanism::Login, [username, rest @ ..]) => match (field(username), rest) {
            (Err(failure), _) => Some(Err(failure)),
            (Ok(_), []) => None,
            (Ok(username), [secret, ..]) => Some(field(secret).map(|secret| (username, secret))),
        },
    }
}

fn plain(message: &str) -> Result<(String, String), Failure> {
    let fields: Vec<&str> = message.split('\0').collect();
    match fields[..] {
        [_, username, secret] if username.is_empty() || secret.is_empty() => Err(Failure::Malformed),
        [identity, username, _] if !identity.is_empty() && identity != username => {
            Err(Failure::OtherIdentity)
        }
        [_, username, secret] => Ok((username.to_owned(), secret.to_owned())),
        _ => Err(Failure::Malformed),
    }
}

fn field(line: &[u8]) -> Result<String, Failure> {
    text(line).and_then(|text| {
        if text.is_empty() || text.contains('\0') { Err(Failure::Malformed) } else { Ok(text) }
    })
}

fn text(line: &[u8]) -> Result<String, Failure> {
    if line == b"*" {
        return Err(Failure::Cancelled);
    }
    String::from_utf8(base64(line).ok_or(Failure::NotBase64)?).map_err(|_| Failure::Malformed)
}

/// RFC 4648 §4, padded, without a bit too many.
fn base64(line: &[u8]) -> Option<Vec<u8>> {
    let digits = line.strip_suffix(b"==").or(line.strip_suffix(b"=")).unwrap_or(line);
    let mut bits: Vec<bool> = Vec::new();
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits.extend((0..6).rev().map(|bit| value >> bit & 1 == 1));
    }
    let (octets, surplus) = bits.split_at(bits.len() / 8 * 8);
    if !line.len().is_multiple_of(4)
        || surplus.len() != 2 * (line.len() - digits.len())
        || surplus.contains(&true)
    {
        return None;
    }
    Some(
        octets
            .chunks(8)
            .map(|octet| octet.iter().fold(0, |value, bit| value << 1 | u8::from(*bit)))
            .collect(),
    )
}
