//! Bodies of more than a chunk, of which all but the header is given away while they
//! arrive. No fuzzer writes them out, so the input is a recipe: an octet for how the body
//! arrives, then pairs, a token and how often it stands there. What was given away and
//! what is left is the message, however it came and whenever it was given away.

use postmeter::smtp::data::chunk::Assembly;
use postmeter::smtp::data::{Body, Decoder, Fed, Kept, Whole};
use postmeter::submission::CHUNK_BYTES;

use super::{bdat, data};

/// This first octet makes the rest of a body's input a recipe.
pub(super) const LARGE: u8 = 0xff;

const LIMIT: usize = 3 * CHUNK_BYTES;
/// More than that is not made, whatever the recipe says.
const MOST: usize = LIMIT + CHUNK_BYTES / 2;

const TOKENS: [&[u8]; 14] = [
    b"\r\n",
    b"text\r\n",
    b".text\r\n",
    b"Subject: s\r\n",
    b"x",
    &[b'x'; 1_000],
    &[b'y'; 1 << 12],
    b".\r\n",
    b"..\r\n",
    b".",
    b"\r",
    b"\n",
    b"\0",
    b"\r\r\n.\r\n",
];

/// How a body arrives, and the body.
struct Recipe {
    /// Octets of a piece.
    step: usize,
    /// What is full is given away after so many pieces each.
    rest: usize,
    body: Vec<u8>,
}

impl Recipe {
    fn read(input: &[u8]) -> Self {
        let (how, pairs) = super::split_choice(input);
        let mut body = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let token = TOKENS[usize::from(pair[0]) % TOKENS.len()];
            let room = MOST.saturating_sub(body.len()) / token.len();
            body.extend(token.repeat(usize::from(pair[1]).min(room)));
        }
        // From single octets to more than a chunk, mostly not a power of two.
        let step = (1 << (how % 20)) + usize::from(how / 20);
        Self { step, rest: 1 + usize::from(how % 3), body }
    }
}

/// What was given away of one body.
#[derive(Default)]
struct Given {
    octets: Vec<u8>,
    /// Pieces that have come.
    pieces: usize,
}

impl Given {
    /// A piece of so many octets has come.
    fn take(&mut self, kept: &mut Kept, rest: usize, octets: usize) {
        self.pieces += 1;
        if !self.pieces.is_multiple_of(rest) {
            return;
        }
        for chunk in kept.take_full() {
            assert_eq!(chunk.len(), CHUNK_BYTES);
            self.octets.extend(chunk);
        }
        // The end of a header may be looked for a little beyond a chunk.
        let most = 2 * CHUNK_BYTES + 4 + octets * rest;
        assert!(kept.memory().is_none_or(|kept| kept <= most), "{:?} are kept, {most} may be", kept.memory());
    }

    /// The message as it was before it was cut.
    fn and(self, body: Body) -> Body {
        let Body::Whole(Whole { head, rest }) = body else { return body };
        assert!(rest.iter().all(|chunk| (1..=CHUNK_BYTES).contains(&chunk.len())));
        let whole = [&head, &self.octets, &rest.concat()].map(Vec::as_slice).concat();
        assert!(whole.len() > CHUNK_BYTES || head.len() == whole.len());
        if let Some(header) = header(&whole).filter(|header| *header <= CHUNK_BYTES) {
            assert_eq!(head.len(), if whole.len() > CHUNK_BYTES { header } else { whole.len() });
        }
        Body::Whole(whole.into())
    }
}

/// Where the header ends, behind its empty line.
fn header(message: &[u8]) -> Option<usize> {
    if message.starts_with(b"\r\n") {
        return Some(2);
    }
    message.windows(4).position(|octets| octets == b"\r\n\r\n").map(|at| at + 4)
}

/// After DATA.
pub(super) fn after_data(input: &[u8]) {
    let Recipe { step, rest, mut body } = Recipe::read(input);
    body.extend_from_slice(b"\r\n.\r\n");
    let end = data::end(&body);
    let wanted = end.map(|end| data::body(&body[..end], LIMIT));
    for step in [step, usize::MAX] {
        let (mut decoder, mut given) = (Decoder::new(LIMIT), Given::default());
        let (mut used, mut is_end) = (0, false);
        for piece in body.chunks(step) {
            let fed = decoder.feed(piece);
            given.take(decoder.kept(), rest, piece.len());
            is_end = fed != Fed::More;
            match fed {
                Fed::More => used += piece.len(),
                Fed::End { consumed } => {
                    used += consumed;
                    break;
                }
            }
        }
        assert_eq!((is_end, used), (end.is_some(), end.unwrap_or(body.len())), "by {step}");
        let found = is_end.then(|| given.and(decoder.finish()));
        assert!(found == wanted, "by {step}: {}", input.escape_ascii());
    }
}

/// In chunks.
pub(super) fn in_chunks(input: &[u8]) {
    let Recipe { step, rest, body } = Recipe::read(input);
    let wanted = bdat::body(&body, LIMIT);
    for step in [step, usize::MAX] {
        let (mut assembly, mut given) = (Assembly::new(LIMIT), Given::default());
        for piece in body.chunks(step) {
            assembly.feed(piece);
            given.take(assembly.kept(), rest, piece.len());
        }
        assert!(given.and(assembly.finish()) == wanted, "by {step}: {}", input.escape_ascii());
    }
}
