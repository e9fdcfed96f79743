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
        if self.bytes.as_ref().is_some_and(|bytes| !bytes.is_empty() && !bytes.ends_with(b"\r\n")) {
            self.add(b"\r\n");
        }
    }

    /// Why the message is refused, if that is certain already; never [`Body::Whole`].
    pub(super) fn refused(&self) -> Option<Body> {
        match (self.flaw, &self.bytes) {
            (Some(flaw), _) => Some(Body::Malformed(flaw)),
            (None, _) if self.octets > self.limit => Some(Body::TooLarge),
            (None, None) => Some(Body::NoRoom),
            (None, Some(_)) => None,
        }
    }

    /// What the body came to.
    pub(super) fn finish(self) -> Body {
        self.refused().unwrap_or_else(|| {
            let mut bytes = self.bytes.unwrap_or_default();
            bytes.shrink_to_fit();
            Body::Whole(bytes)
        })
    }
}
