//! A body after DATA: there is one end, everybody finds it in the same place, and what is
//! kept holds nothing that another server could take for one.

use postmeter::smtp::data::{Body, Decoder, Fed, Flaw};

use super::{large, split_choice, steps};

const LIMIT: usize = 200;

/// The first octet: how the rest arrives, or that it is a recipe for a large body.
pub fn check(input: &[u8]) {
    let (choice, stream) = split_choice(input);
    if choice == large::LARGE {
        return large::after_data(stream);
    }
    let end = end(stream);
    let wanted = end.map(|end| body(&stream[..end], LIMIT));
    for step in steps(choice) {
        let (found, used) = decoded(stream, step);
        assert_eq!(
            (&found, used),
            (&wanted, end.unwrap_or(stream.len())),
            "by {step}: {}",
            stream.escape_ascii()
        );
    }
    if let Some(Body::Whole(message)) = wanted {
        let message = message.head;
        assert!(message.len() <= LIMIT && flaw(&message).is_none());
        assert!(message.is_empty() || message.ends_with(b"\r\n"));
    }
}

/// What the decoder makes of it, and how many octets of the stream it took.
fn decoded(stream: &[u8], step: usize) -> (Option<Body>, usize) {
    let mut decoder = Decoder::new(LIMIT);
    let mut used = 0;
    for piece in stream.chunks(step) {
        match decoder.feed(piece) {
            Fed::End { consumed } => return (Some(decoder.finish()), used + consumed),
            Fed::More => used += piece.len(),
        }
        let seen = &stream[..used];
        assert_eq!(decoder.at_doubtful_end(), seen.ends_with(b"\r\r\n.\r\n"), "{}", seen.escape_ascii());
        assert!(decoder.kept().memory().is_none_or(|octets| octets <= 2 * LIMIT));
    }
    (None, used)
}

/// Where the message ends, behind the first line that is a lone dot: lines end in CRLF, and
/// one that begins after CR CRLF is not sure to be a line.
pub(super) fn end(stream: &[u8]) -> Option<usize> {
    (0..stream.len()).find_map(|at| {
        let before = &stream[..at];
        let is_line = before.is_empty() || before.ends_with(b"\r\n") && !before.ends_with(b"\r\r\n");
        (is_line && stream[at..].starts_with(b".\r\n")).then_some(at + 3)
    })
}

/// What a stream comes to that goes up to the message's end.
pub(super) fn body(stream: &[u8], limit: usize) -> Body {
    let content = &stream[..stream.len() - 3];
    if let Some(flaw) = flaw(content) {
        return Body::Malformed(flaw);
    }
    // Without a flaw, each LF ends a line.
    let lines = content.split_inclusive(|octet| *octet == b'\n');
    let message = lines.map(|line| line.strip_prefix(b".").unwrap_or(line)).collect::<Vec<_>>().concat();
    if message.len() > limit { Body::TooLarge } else { Body::Whole(message.into()) }
}

/// The first thing in it that no message may hold.
pub(super) fn flaw(content: &[u8]) -> Option<Flaw> {
    content.iter().enumerate().find_map(|(at, octet)| match octet {
        0 => Some(Flaw::Nul),
        b'\r' if content.get(at + 1) != Some(&b'\n') => Some(Flaw::BareCr),
        b'\n' if !content[..at].ends_with(b"\r") => Some(Flaw::BareLf),
        _ => None,
    })
}
