//! A message in chunks (RFC 3030 §2): the stages between them, and the wait for one.
//!
//! What BDAT announces is never a command, so it is read to its end wherever it
//! comes and whatever is said to it; what cannot be read to its end (a size that is
//! malformed, or as far beyond any message as DATA is never read) ends the connection
//! at once. A refusal in the middle of a message holds for the rest of it: to the chunk
//! that is LAST, or to RSET.

use super::super::command::Bdat;
use super::super::data::Kept;
use super::super::data::chunk::Assembly;
use super::super::reply::Reply;
use super::stages::Ready;
use super::waiting::{Receiving, whole};
use super::{Next, Rules, Session, Step};

/// BDAT has begun a message; more of it is to come.
#[derive(Debug)]
pub(super) struct Chunks {
    receiving: Receiving,
    body: Assembly,
}

/// A chunk was refused; more of the message may come.
#[derive(Debug)]
pub(super) struct Spoiled {
    pub(super) ready: Ready,
    why: Reply,
    /// Octets of the message that were announced so far.
    octets: usize,
}

/// A chunk is arriving.
#[derive(Debug)]
pub struct Chunk {
    announced: usize,
    left: usize,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// It belongs to a message.
    Part { chunks: Box<Chunks>, is_last: bool },
    /// Nobody wants it; this is what follows it.
    Nothing(Box<Step>),
}

impl Chunks {
    pub(super) fn new(receiving: Receiving, rules: &Rules) -> Self {
        Self { receiving, body: Assembly::new(rules.max_message_bytes) }
    }

    /// More than the limit is refused before it arrives, and none of it is kept.
    pub(super) fn bdat(self, bdat: Bdat, rules: &Rules) -> Step {
        let Bdat { octets, is_last } = bdat;
        if octets > self.body.room() {
            let octets = self.body.octets();
            let why = Reply::too_large(rules.max_message_bytes);
            return Spoiled { ready: self.into_ready(), why, octets }.bdat(bdat, rules);
        }
        let purpose = Purpose::Part { chunks: Box::new(self), is_last };
        Step::silent(Next::Chunk(Chunk { announced: octets, left: octets, purpose }))
    }

    pub(super) fn into_ready(self) -> Ready {
        self.receiving.ready
    }

    pub(super) fn ready_mut(&mut self) -> &mut Ready {
        &mut self.receiving.ready
    }

    /// What a chunk leads to that has arrived whole.
    fn arrived(self, octets: usize, is_last: bool, rules: &Rules) -> Step {
        let Self { receiving, body } = self;
        if is_last {
            return receiving.ended(body.finish(), rules);
        }
        let Some(why) = body.refused().and_then(|body| whole(body, rules).err()) else {
            return Session::from(Self { receiving, body }).goes_on(Reply::chunk_received(octets));
        };
        let spoiled = Spoiled { ready: receiving.ready, why: why.clone(), octets: body.octets() };
        Session::from(spoiled).goes_on(why)
    }
}

impl Spoiled {
    /// The same refusal again: a client that sends all chunks at once may look at the
    /// answer to the last one alone.
    pub(super) fn bdat(self, bdat: Bdat, rules: &Rules) -> Step {
        let Self { ready, why, octets } = self;
        let octets = octets.saturating_add(bdat.octets);
        if octets > rules.max_drained_octets() {
            return Step::close(Reply::endless_message());
        }
        let session = match bdat.is_last {
            true => Session::from(ready),
            false => Session::from(Self { ready, why: why.clone(), octets }),
        };
        session.goes_on(why).after_dropping(bdat, rules)
    }
}

impl Step {
    /// This step, but first what was announced is read and dropped.
    pub(super) fn after_dropping(self, Bdat { octets, .. }: Bdat, rules: &Rules) -> Self {
        match self.next {
            Next::Close => self,
            _ if octets > rules.max_drained_octets() => Self::close(Reply::endless_message()),
            _ => {
                let purpose = Purpose::Nothing(Box::new(self));
                Self::silent(Next::Chunk(Chunk { announced: octets, left: octets, purpose }))
            }
        }
    }
}

impl Chunk {
    /// Takes in as much of `input` as belongs to the chunk; returns how much that is.
    pub fn feed(&mut self, input: &[u8]) -> usize {
        let piece = input.get(..self.left).unwrap_or(input);
        if let Purpose::Part { chunks, .. } = &mut self.purpose {
            chunks.body.feed(piece);
        }
        self.left = self.left.saturating_sub(piece.len());
        piece.len()
    }

    /// Whether all of it has arrived.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// What is kept of the message that it belongs to, if it belongs to one.
    pub fn kept(&mut self) -> Option<&mut Kept> {
        match &mut self.purpose {
            Purpose::Part { chunks, .. } => Some(chunks.body.kept()),
            Purpose::Nothing(_) => None,
        }
    }

    /// Whether the client has signed in.
    pub fn is_signed_in(&self) -> bool {
        match &self.purpose {
            Purpose::Part { .. } => true,
            Purpose::Nothing(step) => {
                matches!(&step.next, Next::Command(session) if session.is_signed_in())
            }
        }
    }

    /// All of it has arrived.
    pub fn arrived(self, rules: &Rules) -> Step {
        match self.purpose {
            Purpose::Part { chunks, is_last } => chunks.arrived(self.announced, is_last, rules),
            Purpose::Nothing(step) => *step,
        }
    }
}
