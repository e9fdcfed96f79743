//! What a client sends, in the pieces in which it arrives.

use postmeter::smtp::line::{Expected, Flaw, Framed, Framer};

/// What has arrived and was not looked at, and what is still to come.
pub(super) struct Wire<'a> {
    buffer: Vec<u8>,
    pieces: std::vec::IntoIter<&'a [u8]>,
    framer: Framer,
}

/// A line, or why it is none.
pub(super) enum Line {
    Sound(Vec<u8>),
    Flawed(Flaw),
}

impl<'a> Wire<'a> {
    pub(super) fn new(pieces: Vec<&'a [u8]>) -> Self {
        Self { buffer: Vec::new(), pieces: pieces.into_iter(), framer: Framer::default() }
    }

    /// Whether the client waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Waits for the next piece; `false` if the client has said everything.
    pub(super) fn arrives(&mut self) -> bool {
        let piece = self.pieces.next();
        self.buffer.extend_from_slice(piece.unwrap_or_default());
        piece.is_some()
    }

    /// Waits for a line; `None` if it never becomes one.
    pub(super) fn line(&mut self, expected: Expected) -> Option<Line> {
        loop {
            let (found, consumed) = match self.framer.next(&self.buffer, expected) {
                Framed::Line { text, consumed } => (Some(Line::Sound(text.to_vec())), consumed),
                Framed::Flawed { flaw, consumed } => (Some(Line::Flawed(flaw)), consumed),
                Framed::Partial { consumed } => (None, consumed),
            };
            self.buffer.drain(..consumed);
            if found.is_some() {
                return found;
            }
            if consumed == 0 && !self.arrives() {
                return None;
            }
        }
    }

    /// All that has arrived.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// What was taken too much.
    pub(super) fn give_back(&mut self, behind: &[u8]) {
        self.buffer = behind.to_vec();
    }
}
