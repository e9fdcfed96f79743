//! The body after DATA (RFC 5321 §4.1.1.4, §4.5.2; after BDAT: [`chunk`]): finds its true end, takes the
//! stuffed dots out, notices what must not be in it.
//!
//! Only CRLF.CRLF ends a message, or .CRLF as its first line. Everything that
//! another server might take for an end (LF.LF, CR.CR, …) is content, and makes
//! the message one that is refused after its true end: two readers who disagree
//! about where a message ends are how mail is smuggled (P7). What comes out is
//! the same however the stream is cut into pieces.
//!
//! This is the hottest loop of the server: it looks for the three octets that
//! matter and copies what lies between stuffed dots in one go.

pub mod chunk;
mod kept;

use memchr::memchr3;

pub use kept::Kept;

/// Octets that no message may hold (RFC 5321 §2.3.8, RFC 5322 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// CR without LF after it.
    BareCr,
    /// LF without CR before it.
    BareLf,
    /// An octet 0.
    Nul,
}

/// What is left of a sound body where it was kept, dots unstuffed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// All of it, or, where it is large, the header.
    pub head: Vec<u8>,
    /// What follows behind the header and behind the chunks that were given away, in chunks.
    pub rest: Vec<Vec<u8>>,
}

impl From<Vec<u8>> for Whole {
    fn from(head: Vec<u8>) -> Self {
        Self { head, rest: Vec::new() }
    }
}

/// What became of a body at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// It can be handed in.
    Whole(Whole),
    /// It holds what no message may hold.
    Malformed(Flaw),
    /// It is larger than the limit.
    TooLarge,
    /// There was no room to keep it while it arrived.
    NoRoom,
}

/// How far a piece of the stream went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All of it was content.
    More,
    /// The end was found; so many octets of the piece belong to the message.
    End {
        /// Octets up to and with the last CRLF of the end.
        consumed: usize,
    },
}

/// Where in a line the decoder stands.
///
/// `doubtful`: the line began after CR CR LF. Some servers drop the first CR and
/// see a line end, others do not; `.CRLF` after it is not taken for the end while
/// more follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart { doubtful: bool },
    Text,
    Cr { after_cr: bool },
    Dot { doubtful: bool },
    DotCr { doubtful: bool },
    DoubtfulEnd,
}

/// Decodes one body, piece by piece.
#[derive(Debug)]
pub struct Decoder {
    at: At,
    kept: Kept,
}

impl Decoder {
    /// A decoder for a message of at most `limit` octets.
    pub fn new(limit: usize) -> Self {
        Self { at: At::LineStart { doubtful: false }, kept: Kept::new(limit) }
    }

    /// Takes the next piece of the stream in. After [`Fed::End`] only
    /// [`finish`](Self::finish) is left to call.
    pub fn feed(&mut self, piece: &[u8]) -> Fed {
        let mut run = 0;
        let mut index = 0;
        while let Some(&octet) = piece.get(index) {
            match self.at {
                At::Text => index = self.text(piece, index),
                At::Cr { after_cr } => match octet {
                    b'\n' => {
                        self.at = At::LineStart { doubtful: after_cr };
                        index += 1;
                    }
                    _ => index = self.bare_cr(octet, index),
                },
                At::LineStart { .. } | At::DoubtfulEnd if octet == b'.' => {
                    let doubtful = self.at == At::LineStart { doubtful: true };
                    self.kept.add(piece.get(run..index).unwrap_or_default());
                    index += 1;
                    run = index;
                    self.at = At::Dot { doubtful };
                }
                At::Dot { doubtful } if octet == b'\r' => {
                    index += 1;
                    run = index;
                    self.at = At::DotCr { doubtful };
                }
                At::LineStart { .. } | At::DoubtfulEnd | At::Dot { .. } => self.at = At::Text,
                At::DotCr { doubtful: false } if octet == b'\n' => return Fed::End { consumed: index + 1 },
                At::DotCr { .. } if octet == b'\n' => {
                    index += 1;
                    self.at = At::DoubtfulEnd;
                }
                At::DotCr { .. } => index = self.bare_cr(octet, index),
            }
        }
        self.kept.add(piece.get(run..).unwrap_or_default());
        Fed::More
    }

    /// Skips ordinary text; returns the index behind the octet that matters.
    fn text(&mut self, piece: &[u8], from: usize) -> usize {
        let rest = piece.get(from..).unwrap_or_default();
        let Some(found) = memchr3(b'\r', b'\n', 0, rest) else {
            return piece.len();
        };
        match rest.get(found) {
            Some(b'\r') => self.at = At::Cr { after_cr: false },
            Some(b'\n') => self.kept.spoil(Flaw::BareLf),
            _ => self.kept.spoil(Flaw::Nul),
        }
        from + found + 1
    }

    /// A CR was not followed by LF but by `octet`.
    fn bare_cr(&mut self, octet: u8, index: usize) -> usize {
        self.kept.spoil(Flaw::BareCr);
        if octet == b'\r' {
            self.at = At::Cr { after_cr: true };
            return index + 1;
        }
        self.at = At::Text;
        index
    }

    /// What is kept of it so far.
    pub fn kept(&mut self) -> &mut Kept {
        &mut self.kept
    }

    /// Whether the stream stands right behind CR CRLF.CRLF. If more follows, that
    /// was content; if nothing does, the client means it as the end. The message
    /// is refused either way.
    pub fn at_doubtful_end(&self) -> bool {
        self.at == At::DoubtfulEnd
    }

    /// What the body came to.
    pub fn finish(self) -> Body {
        self.kept.finish()
    }
}

#[cfg(test)]
mod tests;
