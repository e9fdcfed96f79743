//! Framing of command lines: only CRLF ends one (RFC 5321 §2.3.8).
//!
//! A line with a bare CR, a bare LF or a NUL is refused as a whole, up to its
//! CRLF: what one reader takes for two lines must never be two commands here.
//! The refusal is told as soon as the flaw is certain, so that a person who types
//! LF alone learns why nothing works. Lines are bounded; the rest of one that is
//! too long is skipped, never parsed.

use memchr::{memchr, memchr2, memmem};

use super::command::{announces_octets, may_announce_octets};

/// Longest command line with its CRLF, in octets (RFC 5321 §4.5.3.1.4).
pub const MAX_COMMAND_OCTETS: usize = 512;
/// Longest MAIL: SIZE adds 26 octets (RFC 1870 §3), BODY 17 (RFC 6152 §2),
/// SMTPUTF8 10 (RFC 6531 §3.1), AUTH 500 (RFC 4954 §3), RET 9 and an ENVID of which every
/// character is encoded 307 (RFC 3461 §4.3, §4.4).
pub const MAX_MAIL_OCTETS: usize = 1_381;
/// Longest RCPT: NOTIFY adds 29 octets and ORCPT 507 (RFC 3461 §4.1, §4.2).
pub const MAX_RCPT_OCTETS: usize = 1_048;
/// Longest AUTH command and SASL response (RFC 4954 §4).
pub const MAX_AUTH_OCTETS: usize = 12_288;
/// The first octet of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What the next line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A command.
    Command,
    /// A client's answer to a SASL challenge.
    SaslResponse,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// LF without CR before it.
    BareLf,
    /// CR without LF after it.
    BareCr,
    /// An octet 0.
    Nul,
    /// Longer than its kind may be.
    TooLong,
    /// Any of these in a BDAT: how many octets follow that are no lines cannot be
    /// known.
    Bdat,
    /// Not SMTP at all: a TLS ClientHello.
    TlsHello,
}

/// What stands at the head of the buffer. `consumed` octets are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A line, without its CRLF.
    Line {
        /// Its octets; may be 8-bit.
        text: &'a [u8],
        /// Octets to drop from the buffer.
        consumed: usize,
    },
    /// A line that is refused.
    Flawed {
        /// Why.
        flaw: Flaw,
        /// Octets to drop from the buffer.
        consumed: usize,
    },
    /// No line yet. `consumed` is above 0 while a flawed line is skipped.
    Partial {
        /// Octets to drop from the buffer.
        consumed: usize,
    },
}

/// Cuts lines off the head of a buffer; remembers only what cannot be seen there.
#[derive(Debug, Default)]
pub struct Framer {
    /// Octets at the head of the buffer known to hold no LF.
    scanned: usize,
    /// The rest of a flawed line is still arriving.
    skipping: bool,
}

impl Framer {
    /// Looks at the buffer, from which the caller has dropped what was consumed before.
    pub fn next<'a>(&mut self, buffer: &'a [u8], expected: Expected) -> Framed<'a> {
        if self.skipping {
            return self.skip(buffer);
        }
        match self.cut(buffer, expected) {
            Framed::Flawed { flaw, consumed } if expected == Expected::Command && is_bdat(flaw, buffer) => {
                Framed::Flawed { flaw: Flaw::Bdat, consumed }
            }
            framed => framed,
        }
    }

    fn cut<'a>(&mut self, buffer: &'a [u8], expected: Expected) -> Framed<'a> {
        if expected == Expected::Command && buffer.first() == Some(&TLS_HANDSHAKE) {
            return Framed::Flawed { flaw: Flaw::TlsHello, consumed: buffer.len() };
        }
        let limit = limit(buffer, expected);
        let window = buffer.get(..limit).unwrap_or(buffer);
        let unseen = window.get(self.scanned..).unwrap_or_default();
        let Some(lf) = memchr(b'\n', unseen).map(|index| index + self.scanned) else {
            self.scanned = window.len();
            return if window.len() == limit {
                self.flawed(Flaw::TooLong, window)
            } else {
                Framed::Partial { consumed: 0 }
            };
        };
        self.scanned = 0;
        let consumed = lf + 1;
        let Some(text) = window.get(..lf).and_then(|line| line.strip_suffix(b"\r")) else {
            self.skipping = true;
            return Framed::Flawed { flaw: Flaw::BareLf, consumed };
        };
        match memchr2(b'\r', 0, text).and_then(|index| text.get(index)) {
            None => Framed::Line { text, consumed },
            Some(0) => Framed::Flawed { flaw: Flaw::Nul, consumed },
            Some(_) => Framed::Flawed { flaw: Flaw::BareCr, consumed },
        }
    }

    fn flawed<'a>(&mut self, flaw: Flaw, seen: &[u8]) -> Framed<'a> {
        self.scanned = 0;
        self.skipping = true;
        Framed::Flawed { flaw, consumed: without_last_cr(seen) }
    }

    fn skip<'a>(&mut self, buffer: &[u8]) -> Framed<'a> {
        match memmem::find(buffer, b"\r\n") {
            Some(crlf) => {
                self.skipping = false;
                Framed::Partial { consumed: crlf + 2 }
            }
            None => Framed::Partial { consumed: without_last_cr(buffer) },
        }
    }
}

/// Whether a flawed command may have been meant to announce octets. One that is too
/// long is judged by as much of it as is ever waited for, whatever has come already.
fn is_bdat(flaw: Flaw, buffer: &[u8]) -> bool {
    match flaw {
        Flaw::TooLong => may_announce_octets(buffer.get(..MAX_COMMAND_OCTETS).unwrap_or(buffer)),
        _ => announces_octets(buffer),
    }
}

/// How much may be dropped: a CR at the end stays, its LF may be on the way.
fn without_last_cr(octets: &[u8]) -> usize {
    octets.strip_suffix(b"\r").unwrap_or(octets).len()
}

fn limit(buffer: &[u8], expected: Expected) -> usize {
    let is = |verb: &[u8]| buffer.get(..5).is_some_and(|head| head.eq_ignore_ascii_case(verb));
    match expected {
        Expected::SaslResponse => MAX_AUTH_OCTETS,
        Expected::Command if is(b"AUTH ") => MAX_AUTH_OCTETS,
        Expected::Command if is(b"MAIL ") => MAX_MAIL_OCTETS,
        Expected::Command if is(b"RCPT ") => MAX_RCPT_OCTETS,
        Expected::Command => MAX_COMMAND_OCTETS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Result<Vec<u8>, Flaw>;

    /// Frames `stream` as it would arrive in pieces of `step` octets.
    fn frames(stream: &[u8], step: usize) -> Vec<Found> {
        let mut framer = Framer::default();
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                let consumed = match framer.next(&buffer, Expected::Command) {
                    Framed::Line { text, consumed } => {
                        found.push(Ok(text.to_vec()));
                        consumed
                    }
                    Framed::Flawed { flaw, consumed } => {
                        found.push(Err(flaw));
                        consumed
                    }
                    Framed::Partial { consumed } => consumed,
                };
                if consumed == 0 {
                    break;
                }
                buffer.drain(..consumed);
            }
        }
        found
    }

    #[test]
    fn p7_only_crlf_ends_a_command() {
        let ok = |text: &[u8]| Ok(text.to_vec());
        let long = [b"NOOP ".as_slice(), &[b'x'; 600], b"\r\nQUIT\r\n"].concat();
        let longest = [b"NOOP ".as_slice(), &[b'x'; 505], b"\r\n"].concat();
        let auth = [b"auth ".as_slice(), &[b'x'; 12_000], b"\r\n"].concat();
        let table: [(&[u8], Vec<Found>); 11] = [
            (b"NOOP\r\nQUIT\r\n", vec![ok(b"NOOP"), ok(b"QUIT")]),
            (b"\r\n", vec![ok(b"")]),
            (b"NOOP", vec![]),
            (b"NOOP\r", vec![]),
            (b"MAIL\nRCPT\r\nQUIT\r\n", vec![Err(Flaw::BareLf), ok(b"QUIT")]),
            (b"\n\r\nQUIT\r\n", vec![Err(Flaw::BareLf), ok(b"QUIT")]),
            (b"NO\rOP\r\nQUIT\r\n", vec![Err(Flaw::BareCr), ok(b"QUIT")]),
            (b"NO\0OP\r\nQUIT\r\n", vec![Err(Flaw::Nul), ok(b"QUIT")]),
            (&long, vec![Err(Flaw::TooLong), ok(b"QUIT")]),
            (&longest, vec![ok(&longest[..510])]),
            (&auth, vec![ok(&auth[..12_005])]),
        ];
        for (stream, want) in table {
            for step in [1, 2, 3, 512, 100_000] {
                assert_eq!(frames(stream, step), want, "{:?} by {step}", String::from_utf8_lossy(stream));
            }
        }
    }

    #[test]
    fn p7_a_flawed_bdat_is_known_for_one() {
        let long = [b"BDAT 1".as_slice(), &[b' '; 600], b"\r\nQUIT\r\n"].concat();
        let table: [&[u8]; 7] = [
            b"BDAT 10\n\r\n",
            b"BDAT 10\nQUIT\r\n",
            b"bdat\n\r\n",
            b"BDAT 1\r0\r\n",
            b"BDAT 1\0 0\r\n",
            b" \tBDAT 1\0 0\r\n",
            &long,
        ];
        for stream in table {
            for step in [1, 2, 3, 512, 100_000] {
                let found = frames(stream, step);
                assert_eq!(found[0], Err(Flaw::Bdat), "{:?} by {step}", String::from_utf8_lossy(stream));
            }
        }
        for step in [1, 2, 100_000] {
            let another = frames(b"\nBDAT 10\r\nQUIT\r\n", step);
            assert_eq!(another, [Err(Flaw::BareLf), Ok(b"QUIT".to_vec())], "it is the end of a flawed line");
        }
        assert_eq!(frames(b"BDAT 10 LAST\r\n", 3), [Ok(b"BDAT 10 LAST".to_vec())]);
        let framed = Framer::default().next(b"BDAT\0\r\n", Expected::SaslResponse);
        assert_eq!(framed, Framed::Flawed { flaw: Flaw::Nul, consumed: 7 });
    }

    #[test]
    fn p7_what_may_still_become_a_bdat_is_known_for_one_however_it_arrives() {
        for blanks in 505..520 {
            let stream = [vec![b' '; blanks].as_slice(), b"BDAT 10\r\nQUIT\r\n"].concat();
            for step in [1, 2, 3, 512, 100_000] {
                assert_eq!(frames(&stream, step)[0], Err(Flaw::Bdat), "{blanks} blanks by {step}");
            }
            let other = [vec![b' '; blanks].as_slice(), b"NOOP\r\nQUIT\r\n"].concat();
            let found: Vec<_> = [1, 3, 100_000].map(|step| frames(&other, step)).to_vec();
            assert!(found.iter().all(|own| *own == found[0]), "{blanks} blanks: {found:?}");
        }
    }

    #[test]
    fn a_tls_hello_is_recognised_by_its_first_octet() {
        let framed = Framer::default().next(b"\x16\x03\x01", Expected::Command);
        assert_eq!(framed, Framed::Flawed { flaw: Flaw::TlsHello, consumed: 3 });
    }
}
