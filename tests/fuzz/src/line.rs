//! Command lines: what is a line and what is refused does not depend on how the octets
//! arrive, and no line holds what could be two.

use postmeter::smtp::line::{
    Expected, Flaw, Framed, Framer, MAX_AUTH_OCTETS, MAX_COMMAND_OCTETS, MAX_MAIL_OCTETS, MAX_RCPT_OCTETS,
};

use super::{split_choice, steps};

type Found = Result<Vec<u8>, Flaw>;

/// The first octet: how the rest arrives, and whether it is commands (even) or responses.
pub fn check(input: &[u8]) {
    let (choice, stream) = split_choice(input);
    let expected = if choice.is_multiple_of(2) { Expected::Command } else { Expected::SaslResponse };
    let wanted = by_reference(stream, expected);
    for step in steps(choice / 2) {
        assert_eq!(framed(stream, expected, step), wanted, "by {step}: {}", stream.escape_ascii());
    }
    for line in wanted.iter().flatten() {
        assert!(!line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)));
        assert!(line.len() + 2 <= limit(line, expected));
    }
}

/// What the framer finds, up to a TLS hello, behind which nothing is read.
fn framed(stream: &[u8], expected: Expected, step: usize) -> Vec<Found> {
    let (mut framer, mut buffer, mut found) = (Framer::default(), Vec::new(), Vec::new());
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            let consumed = match framer.next(&buffer, expected) {
                Framed::Line { text, consumed } => {
                    found.push(Ok(text.to_vec()));
                    consumed
                }
                Framed::Flawed { flaw, consumed } => {
                    found.push(Err(flaw));
                    if flaw == Flaw::TlsHello {
                        return found;
                    }
                    consumed
                }
                Framed::Partial { consumed: 0 } => break,
                Framed::Partial { consumed } => consumed,
            };
            assert!(consumed > 0, "nothing would ever come after it");
            buffer.drain(..consumed);
        }
    }
    found
}

/// The same with all of the stream in sight.
fn by_reference(stream: &[u8], expected: Expected) -> Vec<Found> {
    let (mut rest, mut found) = (stream, Vec::new());
    while let Some(first) = rest.first() {
        if expected == Expected::Command && *first == 0x16 {
            found.push(Err(Flaw::TlsHello));
            break;
        }
        let window = &rest[..rest.len().min(limit(rest, expected))];
        let (flaw, seen) = match window.iter().position(|octet| *octet == b'\n') {
            None if window.len() < limit(rest, expected) => break,
            None => (Some(Flaw::TooLong), 0),
            Some(lf) if !window[..lf].ends_with(b"\r") => (Some(Flaw::BareLf), lf + 1),
            Some(lf) => (inside(&window[..lf - 1]), lf - 1),
        };
        found.push(match flaw {
            None => Ok(window[..seen].to_vec()),
            Some(_) if expected == Expected::Command && may_announce(window) => Err(Flaw::Bdat),
            Some(flaw) => Err(flaw),
        });
        let Some(end) = rest[seen..].windows(2).position(|pair| pair == b"\r\n") else { break };
        rest = &rest[seen + end + 2..];
    }
    found
}

fn inside(text: &[u8]) -> Option<Flaw> {
    text.iter().find_map(|octet| match octet {
        b'\r' => Some(Flaw::BareCr),
        0 => Some(Flaw::Nul),
        _ => None,
    })
}

/// Whether it begins with BDAT behind blanks, as far as it can be seen.
fn may_announce(window: &[u8]) -> bool {
    let text = window.trim_ascii_start();
    let blanks = &window[..window.len() - text.len()];
    blanks.iter().all(|blank| matches!(blank, b' ' | b'\t'))
        && text.iter().zip(b"BDAT").all(|(octet, own)| octet.eq_ignore_ascii_case(own))
}

fn limit(line: &[u8], expected: Expected) -> usize {
    let head = line.get(..5).unwrap_or_default().to_ascii_uppercase();
    match (expected, head.as_slice()) {
        (Expected::SaslResponse, _) | (_, b"AUTH ") => MAX_AUTH_OCTETS,
        (_, b"MAIL ") => MAX_MAIL_OCTETS,
        (_, b"RCPT ") => MAX_RCPT_OCTETS,
        _ => MAX_COMMAND_OCTETS,
    }
}
