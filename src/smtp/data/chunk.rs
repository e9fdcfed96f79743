//! The body in chunks (RFC 3030 §2): whoever sends says how many octets come, and
//! all of them are content, leading dots too.
//!
//! Without BINARYMIME, which is not offered, the content is still lines that end in
//! CRLF, and what no message may hold is the same as after DATA. A CR and its LF
//! may stand in two chunks. A last line without CRLF, which DATA cannot say, gets
//! one: every road that mail leaves by needs it, and it would be added there
//! unseen by what is counted and checked here.

use memchr::memchr3;

use super::{Body, Flaw, Kept};

/// Puts one body together, piece by piece.
#[derive(Debug)]
pub struct Assembly {
    /// A CR was the last octet; what is next says whether it is sound.
    after_cr: bool,
    kept: Kept,
}

impl Assembly {
    /// For a message of at most `limit` octets.
    pub fn new(limit: usize) -> Self {
        Self { after_cr: false, kept: Kept::new(limit) }
    }

    /// Takes the next piece in; where one chunk ends and another begins makes no
    /// difference.
    pub fn feed(&mut self, piece: &[u8]) {
        self.kept.add(piece);
        let mut rest = piece;
        while let (false, Some(&first)) = (self.kept.is_flawed(), rest.first()) {
            if std::mem::take(&mut self.after_cr) {
                match first {
                    b'\n' => rest = rest.get(1..).unwrap_or_default(),
                    _ => self.kept.spoil(Flaw::BareCr),
                }
                continue;
            }
            let Some(found) = memchr3(b'\r', b'\n', 0, rest) else { return };
            match rest.get(found) {
                Some(b'\r') => self.after_cr = true,
                Some(b'\n') => self.kept.spoil(Flaw::BareLf),
                _ => self.kept.spoil(Flaw::Nul),
            }
            rest = rest.get(found + 1..).unwrap_or_default();
        }
    }

    /// What is kept of it so far.
    pub fn kept(&mut self) -> &mut Kept {
        &mut self.kept
    }

    /// How many octets more there may be.
    pub fn room(&self) -> usize {
        self.kept.room()
    }

    /// Octets so far, kept or not.
    pub fn octets(&self) -> usize {
        self.kept.octets()
    }

    /// Why it is refused, if that is certain already; never [`Body::Whole`].
    pub fn refused(&self) -> Option<Body> {
        self.kept.refused()
    }

    /// What the body came to.
    pub fn finish(mut self) -> Body {
        if self.after_cr {
            self.kept.spoil(Flaw::BareCr);
        }
        self.kept.end_last_line();
        self.kept.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Fed};
    use super::*;

    const LIMIT: usize = 1_000;

    fn assemble<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Body {
        let mut assembly = Assembly::new(LIMIT);
        pieces.into_iter().for_each(|piece| assembly.feed(piece));
        assembly.finish()
    }

    /// What DATA makes of the same message, which must end in CRLF.
    fn by_data(message: &[u8]) -> Body {
        let mut stream = Vec::new();
        for line in message.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                stream.push(b'.');
            }
            stream.extend_from_slice(line);
        }
        stream.extend_from_slice(b".\r\n");
        let mut decoder = Decoder::new(LIMIT);
        let is_end = decoder.feed(&stream) == Fed::End { consumed: stream.len() };
        assert!(is_end || decoder.at_doubtful_end());
        decoder.finish()
    }

    #[test]
    fn what_arrives_is_the_message_dots_and_all() {
        let messages: [&[u8]; 7] = [
            b"",
            b"\r\n",
            b"a\r\n",
            b".\r\n",
            b"a\r\n.\r\n..\r\n.b\r\n\r\n.\r\n",
            b"\r\n.\r\nMAIL FROM:<x@y.example>\r\n",
            "ü\r\n\u{85}\r\n".as_bytes(),
        ];
        for message in messages {
            for step in [1, 2, 3, 100] {
                assert_eq!(assemble(message.chunks(step)), Body::Whole(message.to_vec().into()));
            }
            assert_eq!(assemble([message]), by_data(message));
        }
    }

    #[test]
    fn a_last_line_without_its_end_gets_one() {
        for (message, want) in [("a", "a\r\n"), ("a\r\nb", "a\r\nb\r\n"), (".", ".\r\n")] {
            assert_eq!(assemble([message.as_bytes()]), Body::Whole(want.as_bytes().to_vec().into()));
        }
        let full = vec![b'x'; LIMIT - 2];
        assert!(matches!(assemble([full.as_slice()]), Body::Whole(whole) if whole.head.len() == LIMIT));
        assert_eq!(assemble([full.as_slice(), b"x"]), Body::TooLarge);
    }

    #[test]
    fn flaws_are_found_across_the_borders_of_chunks() {
        let table: [(&[&[u8]], Option<Flaw>); 12] = [
            (&[b"a\r", b"\nb\r\n"], None),
            (&[b"a\r", b"", b"\n"], None),
            (&[b"a\r", b"b\r\n"], Some(Flaw::BareCr)),
            (&[b"a\r", b"\r\n"], Some(Flaw::BareCr)),
            (&[b"a\r"], Some(Flaw::BareCr)),
            (&[b"a\r", b""], Some(Flaw::BareCr)),
            (&[b"\n"], Some(Flaw::BareLf)),
            (&[b"a\r\n", b"\nb\r\n"], Some(Flaw::BareLf)),
            (&[b"a", b"\n"], Some(Flaw::BareLf)),
            (&[b"a\0b\r\n"], Some(Flaw::Nul)),
            (&[b"a\r", b"\0\n"], Some(Flaw::BareCr)),
            (&[b"a\n", b"b\0", b"c\r"], Some(Flaw::BareLf)),
        ];
        for (pieces, want) in table {
            let body = assemble(pieces.iter().copied());
            match want {
                Some(flaw) => assert_eq!(body, Body::Malformed(flaw), "{pieces:?}"),
                None => assert_eq!(body, Body::Whole(pieces.concat().into()), "{pieces:?}"),
            }
        }
    }

    #[test]
    fn what_is_refused_is_known_as_soon_as_it_is_certain_and_not_kept() {
        let mut assembly = Assembly::new(LIMIT);
        assembly.feed(b"a\r");
        assert_eq!(assembly.refused(), None, "an LF may follow");
        assert_eq!((assembly.octets(), assembly.room()), (2, LIMIT - 2));
        assembly.feed(b"b");
        assert_eq!(assembly.refused(), Some(Body::Malformed(Flaw::BareCr)));
        assert_eq!(assembly.kept().memory(), None);

        let mut assembly = Assembly::new(LIMIT);
        assembly.feed(&[b'x'; LIMIT]);
        assert_eq!(assembly.refused(), None);
        assembly.feed(b"x");
        assert_eq!((assembly.refused(), assembly.room()), (Some(Body::TooLarge), 0));
        assert_eq!(assembly.kept().memory(), None);

        let mut assembly = Assembly::new(LIMIT);
        assembly.feed(b"x");
        assembly.kept().give_up();
        assert_eq!(assembly.refused(), Some(Body::NoRoom));
        assembly.feed(b"x\0");
        assert_eq!(assembly.finish(), Body::Malformed(Flaw::Nul));
    }

    /// Messages made of the octets that matter.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            6 => Just(b"\r\n".to_vec()),
            4 => Just(b"text".to_vec()),
            3 => Just(b".".to_vec()),
            1 => Just(vec![b'\r']),
            1 => Just(vec![b'\n']),
            1 => any::<u8>().prop_map(|octet| vec![octet]),
            1 => Just(vec![b'x'; 300]),
        ];
        prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn p7_any_chunking_gives_what_data_gives(
            mut message in messages(),
            lengths in prop::collection::vec(0usize..20, 1..40),
        ) {
            if !message.is_empty() {
                message.extend_from_slice(b"\r\n");
            }
            let mut rest = message.as_slice();
            let mut pieces = Vec::new();
            for length in lengths {
                let (piece, later) = rest.split_at(length.min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            pieces.push(rest);
            let body = assemble(pieces);
            prop_assert_eq!(&body, &assemble([message.as_slice()]));
            prop_assert_eq!(body, by_data(&message));
        }
    }
}
