//! What is kept of a body while it arrives: all of it, or nothing once it is
//! certain to be refused. It goes on being counted to its end.
//!
//! A body of more than [`CHUNK_BYTES`] is *cut* behind its header, which stays here,
//! since everything that is asked of a message before it is accepted stands there.
//! What follows is given away in chunks of that size as they become full, so that no
//! more than two of them are ever kept here, however large the body is.

use super::{Body, Flaw, Whole};
use crate::mime::header::header_length;
use crate::submission::CHUNK_BYTES;

/// So far the end of the header is looked for: one that is longer is refused
/// whatever follows, and its end may lie across the limit.
const MAX_UNCUT: usize = CHUNK_BYTES + 4;

/// The octets of one body so far.
#[derive(Debug)]
pub struct Kept {
    keeping: Option<Keeping>,
    octets: usize,
    limit: usize,
    flaw: Option<Flaw>,
    /// The last two octets.
    last: [u8; 2],
}

#[derive(Debug, Default)]
struct Keeping {
    /// All of it; once it is cut, the header.
    head: Vec<u8>,
    is_cut: bool,
    /// Chunks that are full, until they are given away.
    full: Vec<Vec<u8>>,
    /// The next chunk.
    rest: Vec<u8>,
}

impl Keeping {
    fn add(&mut self, run: &[u8]) {
        if self.is_cut {
            return self.add_behind(run);
        }
        append(&mut self.head, run);
        if self.head.len() <= CHUNK_BYTES {
            return;
        }
        let header = match header_length(&self.head) {
            Some(header) => header,
            None if self.head.len() < MAX_UNCUT => return,
            None => self.head.len(),
        };
        self.is_cut = true;
        let rest = self.head.split_off(header);
        self.head.shrink_to_fit();
        self.add_behind(&rest);
    }

    fn add_behind(&mut self, mut run: &[u8]) {
        while !run.is_empty() {
            let room = CHUNK_BYTES.saturating_sub(self.rest.len());
            let (piece, later) = run.split_at_checked(room).unwrap_or((run, &[]));
            append(&mut self.rest, piece);
            run = later;
            if self.rest.len() >= CHUNK_BYTES {
                self.full.push(std::mem::take(&mut self.rest));
            }
        }
    }

    fn memory(&self) -> usize {
        let full: usize = self.full.iter().map(Vec::capacity).sum();
        self.head.capacity() + full + self.rest.capacity()
    }
}

/// Appends, growing by doubling and yet not far beyond what a chunk can need.
fn append(to: &mut Vec<u8>, piece: &[u8]) {
    let needed = to.len() + piece.len();
    if needed > to.capacity() {
        let doubled = to.capacity().saturating_mul(2).min(CHUNK_BYTES);
        to.reserve_exact(needed.max(doubled) - to.len());
    }
    to.extend_from_slice(piece);
}

impl Kept {
    /// Nothing yet, of a message of at most `limit` octets.
    pub(super) fn new(limit: usize) -> Self {
        Self { keeping: Some(Keeping::default()), octets: 0, limit, flaw: None, last: [0; 2] }
    }

    /// Takes in what comes next.
    pub(super) fn add(&mut self, run: &[u8]) {
        self.octets = self.octets.saturating_add(run.len());
        if self.octets > self.limit {
            self.keeping = None;
        }
        self.last = match (run, self.last) {
            ([.., before, last], _) => [*before, *last],
            ([last], [_, before]) => [before, *last],
            ([], last) => last,
        };
        if let Some(keeping) = &mut self.keeping {
            keeping.add(run);
        }
    }

    /// Takes note of what no message may hold; the first such thing is told.
    pub(super) fn spoil(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
        self.keeping = None;
    }

    /// Stops keeping the message: there is no room for it.
    pub fn give_up(&mut self) {
        self.keeping = None;
    }

    /// Gives away the chunks that are full; the first of them follows behind those
    /// that were given away before.
    pub fn take_full(&mut self) -> Vec<Vec<u8>> {
        self.keeping.as_mut().map(|keeping| std::mem::take(&mut keeping.full)).unwrap_or_default()
    }

    /// Octets of memory in use, or `None` once nothing is kept any more.
    pub fn memory(&self) -> Option<usize> {
        self.keeping.as_ref().map(Keeping::memory)
    }

    /// Octets of content seen, kept or not.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// How many octets more the message may have.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.octets)
    }

    /// Whether something was found that no message may hold.
    pub(super) fn is_flawed(&self) -> bool {
        self.flaw.is_some()
    }

    /// Gives the last line its CRLF where it has none.
    pub(super) fn end_last_line(&mut self) {
        if self.octets > 0 && self.last != *b"\r\n" {
            self.add(b"\r\n");
        }
    }

    /// Why the message is refused, if that is certain already; never [`Body::Whole`].
    pub(super) fn refused(&self) -> Option<Body> {
        match (self.flaw, &self.keeping) {
            (Some(flaw), _) => Some(Body::Malformed(flaw)),
            (None, _) if self.octets > self.limit => Some(Body::TooLarge),
            (None, None) => Some(Body::NoRoom),
            (None, Some(_)) => None,
        }
    }

    /// What the body came to.
    pub(super) fn finish(self) -> Body {
        self.refused().unwrap_or_else(|| {
            let Keeping { mut head, mut full, rest, .. } = self.keeping.unwrap_or_default();
            head.shrink_to_fit();
            full.push(rest);
            full.retain(|chunk| !chunk.is_empty());
            Body::Whole(Whole { head, rest: full })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"Subject: x\r\n\r\n";

    /// A message of so many octets in one line of text.
    fn message(octets: usize) -> Vec<u8> {
        let text = (0..octets).skip(HEADER.len()).map(|at| b'a' + u8::try_from(at % 26).unwrap());
        HEADER.iter().copied().chain(text).take(octets).collect()
    }

    /// Keeps `bytes`, which come in pieces of that size. Returns what it came to, what
    /// was given away, and the most that was kept.
    fn keep(bytes: &[u8], piece: usize) -> (Body, Vec<Vec<u8>>, usize) {
        let mut kept = Kept::new(bytes.len());
        let (mut given, mut most) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            kept.add(piece);
            most = most.max(kept.memory().unwrap());
            given.extend(kept.take_full());
        }
        (kept.finish(), given, most)
    }

    #[test]
    fn what_is_beyond_a_chunk_is_cut_behind_the_header_and_given_away() {
        const C: usize = CHUNK_BYTES;
        let behind = |octets: usize| octets - HEADER.len();
        // Octets; those of the head, of chunks that were full, and of the rest.
        let table = [
            (0, (0, 0, 0)),
            (C - 1, (C - 1, 0, 0)),
            (C, (C, 0, 0)),
            (C + 1, (HEADER.len(), 0, behind(C + 1))),
            (C + HEADER.len(), (HEADER.len(), 1, 0)),
            (C + HEADER.len() + 1, (HEADER.len(), 1, 1)),
            (2 * C, (HEADER.len(), 1, behind(C))),
            (26_214_400, (HEADER.len(), 99, behind(C))),
        ];
        for (octets, want) in table {
            let bytes = message(octets);
            for piece in [4_096, 65_536] {
                let (body, given, most) = keep(&bytes, piece);
                let Body::Whole(Whole { head, rest }) = body else { panic!("{octets}") };
                let left: usize = rest.iter().map(Vec::len).sum();
                assert_eq!((head.len(), given.len(), left), want, "{octets} by {piece}");
                assert!(given.iter().all(|chunk| chunk.len() == C));
                assert_eq!([head, given.concat(), rest.concat()].concat(), bytes, "{octets} by {piece}");
                assert!(most <= 2 * C + 65_536, "{most} octets were kept of {octets}");
            }
        }
    }

    #[test]
    fn a_header_that_ends_nowhere_stays_whole_so_that_it_is_refused() {
        let limit = crate::mime::header::MAX_HEADER_BYTES;
        let field = |octets: usize| [b"X: ".as_slice(), &vec![b'x'; octets - 5], b"\r\n"].concat();
        for (header, is_sound) in [(limit, true), (limit + 1, false)] {
            let bytes = [field(header).as_slice(), b"\r\ntext\r\n", &[b'y'; 4 * CHUNK_BYTES]].concat();
            let inspected = |bytes: &[u8]| crate::mime::header::Header::parse(bytes).is_ok();
            for piece in [1_001, 65_536, usize::MAX] {
                let (body, given, _) = keep(&bytes, piece);
                let Body::Whole(Whole { head, rest }) = body else { panic!("{header}") };
                assert_eq!(
                    (inspected(&bytes), inspected(&head)),
                    (is_sound, is_sound),
                    "{header} by {piece}"
                );
                assert!([head, given.concat(), rest.concat()].concat() == bytes, "{header} by {piece}");
            }
        }
    }

    #[test]
    fn the_last_line_is_ended_wherever_its_end_would_stand() {
        for octets in [CHUNK_BYTES, CHUNK_BYTES + HEADER.len(), CHUNK_BYTES + HEADER.len() + 1] {
            for (end, want) in [("x", "x\r\n"), ("\r", "\r\r\n"), ("\r\n", "\r\n")] {
                let mut kept = Kept::new(usize::MAX);
                let bytes = [message(octets - end.len()).as_slice(), end.as_bytes()].concat();
                bytes.chunks(1_000).for_each(|piece| kept.add(piece));
                let given = kept.take_full().concat();
                kept.end_last_line();
                let Body::Whole(Whole { head, rest }) = kept.finish() else { panic!("{octets}") };
                let whole = [head, given, rest.concat()].concat();
                assert!(whole.ends_with(want.as_bytes()), "{octets} {end:?}");
                assert_eq!(whole.len(), octets - end.len() + want.len(), "{octets} {end:?}");
            }
        }
    }
}
