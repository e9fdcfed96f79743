//! A body while it arrives: read to its true end within a time, kept within a
//! memory budget that all connections share. Whatever is wrong with it, nothing of
//! it is ever taken for a command (P7).

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::data::{Decoder, Fed, Kept};
use super::super::session::{Receiving, Step};
use super::super::stream::{Interrupted, OnStop};
use super::{Conversation, KIB};

/// How long a body may go on arriving once the server stops.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(15);
/// How long a client that stands behind CR CRLF.CRLF is given to go on, before that
/// is taken for the end it means.
const DOUBT: Duration = Duration::from_secs(5);
/// A body is read to its end for at most so many times the size limit …
const MAX_DRAIN_FACTOR: usize = 4;
/// … but at least for so many octets.
const MIN_DRAIN_OCTETS: usize = 64 << 20;

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, '_, S> {
    /// Reads a body to its true end.
    pub(super) async fn body(&mut self, receiving: Receiving) -> Result<Step, Interrupted> {
        let server = self.visit.server;
        let rules = &server.rules;
        let mut decoder = Decoder::new(rules.max_message_bytes);
        let mut deadline = Instant::now() + server.data;
        let mut on_stop = OnStop::Interrupt;
        loop {
            self.hold(decoder.kept());
            if let Fed::End { consumed } = decoder.feed(&self.stream.input) {
                self.stream.input.advance(consumed);
                self.stream.narrow();
                return Ok(receiving.ended(decoder.finish(), rules));
            }
            self.stream.drop_input();
            if decoder.kept().octets()
                > rules.max_message_bytes.saturating_mul(MAX_DRAIN_FACTOR).max(MIN_DRAIN_OCTETS)
            {
                return Ok(receiving.endless());
            }
            let doubtful = decoder.at_doubtful_end();
            let patience = if doubtful { deadline.min(Instant::now() + DOUBT) } else { deadline };
            match self.stream.read(patience, on_stop).await {
                Ok(()) => {}
                Err(Interrupted::Stopping) => {
                    on_stop = OnStop::Finish;
                    deadline = deadline.min(Instant::now() + STOP_GRACE);
                }
                Err(Interrupted::TimedOut) if doubtful => {
                    return Ok(receiving.ended_in_doubt(decoder.finish(), rules));
                }
                Err(Interrupted::TimedOut) if on_stop == OnStop::Finish => return Err(Interrupted::Stopping),
                Err(interrupted) => return Err(interrupted),
            }
        }
    }

    /// Takes a share of the memory budget for what is about to be kept; without
    /// one, the message is not kept any more.
    fn hold(&mut self, body: &mut Kept) {
        let Some(kept) = body.memory() else {
            self.held = None;
            return;
        };
        let needed_kib = (kept + self.stream.input.len()).div_ceil(KIB);
        let held_kib = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more_kib) = needed_kib.checked_sub(held_kib).filter(|more| *more > 0) else {
            return;
        };
        let arriving = Arc::clone(&self.visit.server.arriving);
        let share = u32::try_from(more_kib).ok().and_then(|more| arriving.try_acquire_many_owned(more).ok());
        match (&mut self.held, share) {
            (Some(held), Some(share)) => held.merge(share),
            (held @ None, Some(share)) => *held = Some(share),
            (held, None) => {
                *held = None;
                body.give_up();
            }
        }
    }
}
