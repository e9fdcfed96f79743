//! A body while it arrives, after DATA or in chunks: read to its true end within a
//! time, kept within a memory budget that all connections share, and written to disk
//! as it comes if it is large. Nothing more is read while a chunk is being written, so
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
use super::Conversation;
use crate::domain::refusal::Refusal;
use crate::submission::Spool;

/// How long a body may go on arriving once the server stops.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(15);
/// How long a client that stands behind CR CRLF.CRLF is given to go on, before that
/// is taken for the end it means.
const DOUBT: Duration = Duration::from_secs(5);

/// How long a message may still take to arrive.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    on_stop: OnStop,
}

impl Patience {
    fn new(until: Instant) -> Self {
        Self { until, on_stop: OnStop::Interrupt }
    }

    /// Waits for more of it, at most until `deadline`. A stop cuts the time short
    /// that is left, and is told when that is over.
    pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut Stream<S>,
        deadline: Instant,
    ) -> Result<(), Interrupted> {
        match stream.read(deadline.min(self.until), self.on_stop).await {
            Err(Interrupted::Stopping) => {
                self.on_stop = OnStop::Finish;
                self.until = self.until.min(Instant::now() + STOP_GRACE);
                Ok(())
            }
            Err(Interrupted::TimedOut) if self.on_stop == OnStop::Finish => Err(Interrupted::Stopping),
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
        let mut patience = Patience::new(Instant::now() + server.data);
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
                Err(Interrupted::TimedOut | Interrupted::Stopping) if doubtful => {
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
        let mut patience =
            self.patience.take().unwrap_or_else(|| Patience::new(Instant::now() + server.data));
        if !chunk.is_signed_in() {
            patience.until = patience.until.min(self.visit.born + server.unauthenticated);
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
                    self.share.give_back();
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
        self.share.give_back();
        self.spool = None;
        if self.patience.take().is_some() {
            self.stream.narrow();
        }
    }

    /// Takes a share of the memory budget for what is about to be kept; without
    /// one, the message is not kept any more.
    fn hold(&mut self, body: Option<&mut Kept>) {
        let Some((kept, body)) = body.and_then(|body| Some((body.memory()?, body))) else {
            self.share.give_back();
            return;
        };
        if !self.share.resize(kept + self.stream.input.len()) {
            self.share.give_back();
            body.give_up();
        }
    }

    /// Writes the chunks that are full; a message of which one cannot be written is
    /// not kept any more. The time that takes is ours, not the client's.
    async fn spill(&mut self, body: &mut Kept, patience: &mut Patience) {
        let began = Instant::now();
        for chunk in body.take_full() {
            let spool = self.spool.get_or_insert_with(|| self.visit.server.submission.spool());
            if spool.write(chunk).await.is_err() {
                body.give_up();
                break;
            }
            patience.until += began.elapsed();
        }
        if body.memory().is_none() {
            self.spool = None;
        }
    }

    /// What is on disk of a message that has arrived, once the last of it is there too.
    pub(super) async fn spooled(&mut self, rest: Vec<Vec<u8>>) -> Result<Option<Spool>, Refusal> {
        let mut spool = self.spool.take();
        for chunk in rest {
            let spool = spool.get_or_insert_with(|| self.visit.server.submission.spool());
            spool.write(chunk).await?;
        }
        Ok(spool)
    }
}
