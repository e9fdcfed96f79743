//! A body in chunks: what it comes to does not depend on where one chunk ends and the
//! next begins, and what is refused is known as soon as it is certain.

use postmeter::smtp::data::Body;
use postmeter::smtp::data::chunk::Assembly;

use super::data::flaw;
use super::{large, split_choice, steps};

const LIMIT: usize = 200;

/// The first octet: how the rest is cut into chunks, or that it is a recipe for a large body.
pub fn check(input: &[u8]) {
    let (choice, message) = split_choice(input);
    if choice == large::LARGE {
        return large::in_chunks(message);
    }
    let wanted = body(message, LIMIT);
    for step in steps(choice) {
        assert_eq!(assembled(message, step), wanted, "by {step}: {}", message.escape_ascii());
    }
}

fn assembled(message: &[u8], step: usize) -> Body {
    let mut assembly = Assembly::new(LIMIT);
    let mut refused = None;
    let mut seen = 0;
    for piece in message.chunks(step) {
        assembly.feed(piece);
        seen += piece.len();
        assert_eq!((assembly.octets(), assembly.room()), (seen, LIMIT.saturating_sub(seen)));
        let now = assembly.refused();
        assert_eq!(assembly.kept().memory().is_none(), now.is_some(), "what is refused is not kept");
        assert!(now.is_some() || refused.is_none(), "it was refused before");
        // A CR may still get its LF; everything else is certain.
        let certain = message[..seen].strip_suffix(b"\r").unwrap_or(&message[..seen]);
        assert!(now.is_some() || flaw(certain).is_none() && seen <= LIMIT);
        refused = now;
    }
    assembly.finish()
}

/// What all chunks together come to.
pub(super) fn body(message: &[u8], limit: usize) -> Body {
    if let Some(flaw) = flaw(message) {
        return Body::Malformed(flaw);
    }
    let end: &[u8] = if message.is_empty() || message.ends_with(b"\r\n") { b"" } else { b"\r\n" };
    let message = [message, end].concat();
    if message.len() > limit { Body::TooLarge } else { Body::Whole(message.into()) }
}
