//! A connection's octets: what has arrived and is not used yet, what is to be sent.
//!
//! Replies gather and leave in one write, right before the next read (RFC 2920
//! §3.2), so a pipelined batch costs one write. Every wait has a deadline and ends
//! early when a stop is under way. Who is only a guest for so long waits for nothing
//! beyond that, nor once told to go: not for a reply to be taken, nor for the last
//! words to arrive. Buffers are small while nothing happens: an idle connection costs a
//! page, not a megabyte. What this must not know: SMTP.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Octets of input buffer while a session waits for commands.
const SMALL: usize = 4 << 10;
/// Octets of input buffer that a large body may grow it to.
const LARGE: usize = 64 << 10;
/// Octets of replies that may gather before they are sent.
const MAX_GATHERED: usize = 8 << 10;
/// Octets of room that a read should find.
const ROOM: usize = SMALL / 2;
/// Longest wait for the peer to close its side, so that our last words arrive: a
/// socket closed with input unread is reset, and takes them with it.
const LINGER: Duration = Duration::from_secs(1);
/// Octets read and dropped while waiting for that.
const MAX_LINGER_OCTETS: usize = 256 << 10;

/// Why a read brought nothing.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The peer is gone, or does not take our replies.
    Gone,
    /// The deadline passed.
    TimedOut,
    /// Something arrives, and too little of it.
    TooSlow,
    /// A stop is under way.
    Stopping,
}

/// Whether a stop ends a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnStop {
    /// It does.
    Interrupt,
    /// It has been heeded already: something is in hand that is to be finished.
    Finish,
}

/// Wakes a connection for other reasons than its socket; made once and used for
/// every wait, and carried over a STARTTLS handshake.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    stop: CancellationToken,
    /// How long a guest may stay, who finishes nothing after a stop.
    guest_until: Option<Instant>,
}

impl Alarm {
    pub(super) fn new(stop: &CancellationToken, guest_until: Option<Instant>) -> Self {
        // A token of its own: connections do not wait for one another's lock.
        let stop = stop.child_token();
        let stopping = Box::pin(stop.clone().cancelled_owned());
        Self { sleep: Box::pin(sleep_until(Instant::now())), stopping, stop, guest_until }
    }

    /// Who was a guest may stay.
    pub(super) fn is_at_home(&mut self) {
        self.guest_until = None;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn is_heeded(&self, on_stop: OnStop) -> bool {
        on_stop == OnStop::Interrupt || self.guest_until.is_some()
    }

    /// Sends or takes leave for at most so long. What does not wait is done in any case.
    async fn hurry<T>(
        &mut self,
        longest: Duration,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Interrupted> {
        let deadline = Instant::now() + longest;
        let deadline = self.guest_until.map_or(deadline, |until| until.min(deadline));
        let is_heeded = self.is_heeded(OnStop::Finish);
        let heedful = async {
            tokio::select! {
                biased;
                done = work => done.map_err(|_| Interrupted::Gone),
                () = &mut self.stopping, if is_heeded => Err(Interrupted::Stopping),
            }
        };
        timeout_at(deadline, heedful).await.unwrap_or(Err(Interrupted::Gone))
    }

    /// Does `work` until the deadline, or until a stop if that is to be heeded.
    pub(super) async fn guard<T>(
        &mut self,
        deadline: Instant,
        on_stop: OnStop,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        self.sleep.as_mut().reset(deadline);
        let is_heeded = self.is_heeded(on_stop);
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = &mut self.stopping, if is_heeded => Err(Interrupted::Stopping),
            () = &mut self.sleep => Err(Interrupted::TimedOut),
        }
    }
}

/// A socket, plain or under TLS, with its buffers.
pub(super) struct Stream<S> {
    socket: S,
    pub(super) input: BytesMut,
    pub(super) output: Vec<u8>,
    pub(super) alarm: Alarm,
    /// Longest wait for the peer to take a batch of replies, at most a few KiB.
    write_timeout: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    pub(super) fn new(socket: S, alarm: Alarm, write_timeout: Duration) -> Self {
        Self { socket, input: BytesMut::new(), output: Vec::new(), alarm, write_timeout }
    }

    /// The socket and the alarm, without the buffers: nothing that arrived in clear
    /// text survives into TLS.
    pub(super) fn into_parts(self) -> (S, Alarm) {
        (self.socket, self.alarm)
    }

    /// Sends what has gathered, then waits for at least one more octet.
    pub(super) async fn read(&mut self, deadline: Instant, on_stop: OnStop) -> Result<(), Interrupted> {
        self.flush().await?;
        if self.alarm.is_heeded(on_stop) && self.alarm.is_stopping() {
            return Err(Interrupted::Stopping);
        }
        // Also where there is always more to read.
        if deadline <= Instant::now() {
            return Err(Interrupted::TimedOut);
        }
        self.make_room();
        let Self { socket, input, alarm, .. } = self;
        match alarm.guard(deadline, on_stop, socket.read_buf(input)).await? {
            Ok(0) | Err(_) => Err(Interrupted::Gone),
            Ok(_) => Ok(()),
        }
    }

    /// Whether anything comes within that time, which cannot answer what has gathered:
    /// nothing of that is sent before.
    pub(super) async fn hears_more(&mut self, within: Duration) -> Result<bool, Interrupted> {
        if self.input.is_empty() {
            self.make_room();
            let Self { socket, input, alarm, .. } = self;
            match alarm.guard(Instant::now() + within, OnStop::Interrupt, socket.read_buf(input)).await {
                // That it says no more is heard again.
                Ok(Ok(_)) | Err(Interrupted::TimedOut) => {}
                Ok(Err(_)) => return Err(Interrupted::Gone),
                Err(interrupted) => return Err(interrupted),
            }
        }
        Ok(!self.input.is_empty())
    }

    fn make_room(&mut self) {
        if self.input.capacity() - self.input.len() < ROOM {
            self.input.reserve(if self.input.capacity() == 0 { SMALL } else { ROOM });
        }
    }

    /// Drops so much of the input, which was used.
    pub(super) fn consume(&mut self, octets: usize) {
        if octets == self.input.len() { self.drop_input() } else { self.input.advance(octets) }
    }

    /// Drops the input, all of it used. If it had filled its buffer, a large body is
    /// arriving, and there is room for more at a time from now on.
    pub(super) fn drop_input(&mut self) {
        let room = self.input.capacity();
        if self.input.len() == room && room < LARGE {
            self.input = BytesMut::with_capacity(room.saturating_mul(4).clamp(SMALL, LARGE));
        }
        self.input.clear();
    }

    /// Back to small buffers, as far as what is in them allows.
    pub(super) fn narrow(&mut self) {
        if self.input.capacity() > SMALL && self.input.len() < SMALL {
            let mut small = BytesMut::with_capacity(SMALL);
            small.extend_from_slice(&self.input);
            self.input = small;
        }
    }

    /// Sends what has gathered if that is much.
    pub(super) async fn flush_if_much(&mut self) -> Result<(), Interrupted> {
        if self.output.len() < MAX_GATHERED { Ok(()) } else { self.flush().await }
    }

    /// Sends what has gathered.
    pub(super) async fn flush(&mut self) -> Result<(), Interrupted> {
        if self.output.is_empty() {
            return Ok(());
        }
        let Self { socket, output, alarm, write_timeout, .. } = self;
        let sending = async {
            while !output.is_empty() {
                match socket.write(output).await? {
                    0 => return Err(ErrorKind::WriteZero.into()),
                    sent => drop(output.drain(..sent)),
                }
            }
            socket.flush().await
        };
        alarm.hurry(*write_timeout, sending).await
    }

    /// Sends the last words and closes. Errors do not matter any more.
    pub(super) async fn close(mut self) {
        if self.flush().await.is_err() {
            return;
        }
        let Self { mut socket, mut input, mut alarm, .. } = self;
        let leaving = async {
            socket.shutdown().await?;
            let mut dropped = 0;
            while dropped < MAX_LINGER_OCTETS {
                input.clear();
                input.reserve(SMALL);
                match socket.read_buf(&mut input).await? {
                    0 => break,
                    octets => dropped += octets,
                }
            }
            Ok(())
        };
        let _ = alarm.hurry(LINGER, leaving).await;
    }
}
