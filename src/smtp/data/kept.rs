//! What is kept of a body while it arrives: all of it, or nothing once it is
//! certain to be refused. It goes on being counted to its end.

use super::{Body, Flaw};

/// The octets of one body so far.
#[derive(Debug)]
pub struct Kept {
    bytes: Option<Vec<u8>>,
    octets: usize,
    limit: usize,
    flaw: Option<Flaw>,
}

impl Kept {
    /// Nothing yet, of a message of at most `limit` octets.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Some(Vec::new()), octets: 0, limit, flaw: None }
    }

    /// Takes in what comes next.
    pub(super) fn add(&mut self, run: &[u8]) {
        self.octets = self.octets.saturating_add(run.len());
        if self.octets > self.limit {
            self.bytes = None;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(run);
        }
    }

    /// Takes note of what no message may hold; the first such thing is told.
    pub(super) fn spoil(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
        self.bytes = None;
    }

    /// Stops keeping the message: there is no room for it.
    pub fn give_up(&mut self) {
        self.bytes = None;
    }

    /// Octets of memory in use, or `None` once nothing is kept any more.
    pub fn memory(&self) -> Option<usize> {
        self.bytes.as_ref().map(Vec::capacity)
    }

    /// Octets of content seen, kept or not.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// What the body came to.
    pub(super) fn finish(self) -> Body {
        match (self.flaw, self.bytes) {
            (Some(flaw), _) => Body::Malformed(flaw),
            (None, _) if self.octets > self.limit => Body::TooLarge,
            (None, None) => Body::NoRoom,
            (None, Some(mut bytes)) => {
                bytes.shrink_to_fit();
                Body::Whole(bytes)
            }
        }
    }
}
