//! A body while it arrives, after DATA or in chunks: read to its true end within a
//! time, kept within the room in memory that its customer and all together have, and
//! written to disk as it comes if it is large. Nothing more is read while a chunk is being written, so
//! a client is no faster than the disk. Whatever is wrong with it, nothing of it is
//! ever taken for a command (P7). Memory is taken for what has arrived, never for what
//! is announced.

use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::super::data::{Decoder, Fed, Kept};
use super::super::session::{Chunk, Receiving, Step};
use super::super::stream::{Interrupted, OnStop, Stream};
use super::{Conversation, Deadlines};
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::floor::Floor;
use crate::submission::Spool;

/// How long a body may go on arriving once the server stops.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(15);
/// How long a client that stands behind CR CRLF.CRLF is given to go on, before that
/// is taken for the end it means.
const DOUBT: Duration = Duration::from_secs(5);

/// How long a message may still take to arrive.
#[derive(Debug)]
pub(super) struct Patience {
    begun: Instant,
    until: Instant,
    floor: Floor,
    /// What has arrived.
    octets: usize,
    on_stop: OnStop,
}

impl Patience {
    /// A message of which so many octets are there already.
    fn new(deadlines: &Deadlines, octets: usize) -> Self {
        let begun = Instant::now();
        let (until, floor) = (begun + deadlines.data, deadlines.floor);
        Self { begun, until, floor, octets, on_stop: OnStop::Interrupt }
    }

    /// Nothing was read for so long, which is not the client's fault.
    fn rest(&mut self, time: Duration) {
        self.begun += time;
        self.until += time;
    }

    /// Waits for more of it, at most until `deadline`. A stop cuts the time short
    /// that is left, and is told when that is over.
    pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut Stream<S>,
        deadline: Instant,
    ) -> Result<(), Interrupted> {
        let deadline = deadline.min(self.until);
        // More than for ever is for ever.
        let floor = self.floor.lasts(self.octets).and_then(|lasts| self.begun.checked_add(lasts));
        let too_slow = floor.filter(|floor| *floor < deadline);
        let before = stream.input.len();
        let read = stream.read(too_slow.unwrap_or(deadline), self.on_stop).await;
        self.octets = self.octets.saturating_add(stream.input.len().saturating_sub(before));
        match read {
            // A stranger hears of it again, and goes.
            Err(Interrupted::Stopping) if self.on_stop == OnStop::Interrupt => {
                self.on_stop = OnStop::Finish;
                self.until = self.until.min(Instant::now() + STOP_GRACE);
                Ok(())
            }
            Err(Interrupted::TimedOut) if self.on_stop == OnStop::Finish => Err(Interrupted::Stopping),
            Err(Interrupted::TimedOut) if too_slow.is_some() => Err(Interrupted::TooSlow),
            read => read,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, '_, S> {
    /// Reads a body to its true end.
    pub(super) async fn body(&mut self, receiving: Receiving) -> Result<Step, Interrupted> {
        let server = self.visit.server;
        let rules = &server.rules;
        let mut decoder = Decoder::new(rules.max_message_bytes);
        let mut patience = Patience::new(&server.deadlines, self.stream.input.len());
        loop {
            self.hold(Some(decoder.kept()));
            let fed = decoder.feed(&self.stream.input);
            self.spill(decoder.kept(), &mut patience).await;
            if let Fed::End { consumed } = fed {
                self.stream.input.advance(consumed);
                self.stream.narrow();
                return Ok(receiving.ended(decoder.finish(), rules));
            }
            self.stream.drop_input();
            if decoder.kept().octets() > rules.max_drained_octets() {
                return Ok(receiving.endless());
            }
            let doubtful = decoder.at_doubtful_end();
            let deadline = if doubtful { Instant::now() + DOUBT } else { patience.until };
            match patience.read(&mut self.stream, deadline).await {
                Err(Interrupted::TimedOut | Interrupted::TooSlow | Interrupted::Stopping) if doubtful => {
                    return Ok(receiving.ended_in_doubt(decoder.finish(), rules));
                }
                read => read?,
            }
        }
    }

    /// Reads a chunk to its end. The time is that of the whole message, which the
    /// first chunk begins and [`message_over`](Self::message_over) ends.
    pub(super) async fn chunk(&mut self, mut chunk: Chunk) -> Result<Step, Interrupted> {
        let server = self.visit.server;
        let here = self.stream.input.len();
        let patience = self.patience.take();
        let mut patience = patience.unwrap_or_else(|| Patience::new(&server.deadlines, here));
        if !chunk.is_signed_in() {
            patience.until = patience.until.min(self.visit.born + server.deadlines.unauthenticated);
        }
        loop {
            self.hold(chunk.kept());
            let used = chunk.feed(&self.stream.input);
            self.stream.consume(used);
            if let Some(kept) = chunk.kept() {
                self.spill(kept, &mut patience).await;
            }
            if chunk.is_complete() {
                if chunk.kept().is_none_or(|body| body.memory().is_none()) {
                    self.claim = None;
                }
                self.patience = Some(patience);
                return Ok(chunk.arrived(&server.rules));
            }
            let deadline = patience.until;
            patience.read(&mut self.stream, deadline).await?;
        }
    }

    /// No message is arriving any more: what it took is given back.
    pub(super) fn message_over(&mut self) {
        self.claim = None;
        self.spool = None;
        if self.patience.take().is_some() {
            self.stream.narrow();
        }
    }

    /// Claims room in memory for what is about to be kept; where there is none, the
    /// message is not kept any more.
    fn hold(&mut self, body: Option<&mut Kept>) {
        let Some((kept, body)) = body.and_then(|body| Some((body.memory()?, body))) else {
            self.claim = None;
            return;
        };
        // Nothing is kept of a stranger's message.
        let Some(seat) = &self.seat else { return body.give_up() };
        let arriving = &self.visit.server.arriving;
        let claim = self.claim.get_or_insert_with(|| arriving.claim(seat.whose()));
        if let Err(reason) = claim.resize(kept + self.stream.input.len()) {
            let (customer_id, peer) = (claim.customer_id(), self.visit.peer);
            tracing::warn!(%customer_id, %peer, %reason, "a message is refused for now");
            self.claim = None;
            body.give_up();
        }
    }

    /// Writes the chunks that are full; a message of which one cannot be written is
    /// not kept any more. The time that takes is ours, not the client's.
    async fn spill(&mut self, body: &mut Kept, patience: &mut Patience) {
        let began = Instant::now();
        let submission = &self.visit.server.submission;
        for chunk in body.take_full() {
            // Nothing is kept of a stranger's message.
            let Some(seat) = &self.seat else {
                body.give_up();
                break;
            };
            let spool = self.spool.get_or_insert_with(|| submission.spool(seat.whose()));
            if spool.write(chunk).await.is_err() {
                body.give_up();
                break;
            }
        }
        patience.rest(began.elapsed());
        if body.memory().is_none() {
            self.spool = None;
        }
    }

    /// What is on disk of a message that has arrived, once the last of it is there too.
    pub(super) async fn spooled(
        &mut self,
        customer_id: &CustomerId,
        rest: Vec<Vec<u8>>,
    ) -> Result<Option<Spool>, Refusal> {
        let mut spool = self.spool.take();
        for chunk in rest {
            let spool = spool.get_or_insert_with(|| self.visit.server.submission.spool(customer_id));
            spool.write(chunk).await?;
        }
        Ok(spool)
    }
}
