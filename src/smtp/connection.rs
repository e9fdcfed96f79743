//! One connection: does what the session says, and feeds it the answers.
//!
//! Everything that waits is here: for octets, for a handshake, for
//! [`Submission`]. Each wait is bounded, and each ends early and politely when the
//! server stops; only a message that has been begun is finished first. What is
//! kept of a body counts against the room of its customer and of all, and a large
//! one goes to [`Spool`] chunk by chunk; what does not fit is read to its true end
//! and refused. What this must not know: what any command or reply means.

mod body;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use rustls::{CipherSuite, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::allowance::{Allowance, Claim};
use crate::census::{Census, Counted};
use crate::config::{OutOfCreditReply, Smtp};
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::door::Stranger;
use crate::floor::Floor;
use crate::submission::{Arrival, Covered, Spool, Submission, Submitted};

use super::line::{Expected, Flaw, Framed, Framer};
use super::reply::Reply;
use super::session::{Checking, Next, Rules, Security, Session, SigningIn, Step, Submit, Upgrading};
use super::stream::{Alarm, Interrupted, OnStop, Stream};

use body::Patience;

/// For so long a DATA that is refused is not answered: whatever comes by then did not wait
/// for the answer, and is a body.
const UNPIPELINED: Duration = Duration::from_millis(50);
/// How long a client that has begun a message may go on naming recipients once the server stops.
const ADDRESSING_GRACE: Duration = Duration::from_secs(3);

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    pub(super) rules: Rules,
    submission: Submission,
    arriving: Allowance,
    /// The sessions that each customer has signed in.
    sessions: Arc<Census<CustomerId>>,
    deadlines: Deadlines,
}

/// How long each thing may take.
#[derive(Debug)]
struct Deadlines {
    handshake: Duration,
    write: Duration,
    idle: Duration,
    unauthenticated: Duration,
    data: Duration,
    floor: Floor,
}

impl Server {
    /// A server by its configuration, handing messages to `submission`, with room for
    /// those that arrive.
    pub fn new(
        config: &Smtp,
        out_of_credit_reply: OutOfCreditReply,
        submission: Submission,
        arriving: Allowance,
    ) -> Arc<Self> {
        Arc::new(Self {
            rules: Rules {
                hostname: config.hostname.clone(),
                max_message_bytes: config.max_message_bytes,
                max_recipients: config.max_recipients,
                max_errors: config.max_errors,
                max_sign_in_failures: config.max_sign_in_failures,
                max_idle_commands: config.max_idle_commands,
                out_of_credit_reply,
            },
            submission,
            arriving,
            sessions: Census::new(config.max_sessions_per_customer),
            deadlines: Deadlines {
                handshake: Duration::from_secs(config.handshake_timeout_s),
                write: Duration::from_secs(config.write_timeout_s),
                idle: Duration::from_secs(config.idle_timeout_s),
                unauthenticated: Duration::from_secs(config.unauthenticated_timeout_s),
                data: Duration::from_secs(config.data_timeout_s),
                floor: config.floor(),
            },
        })
    }
}

/// How a connection begins.
#[derive(Clone)]
pub enum Opening {
    /// In clear text; the acceptor is for STARTTLS.
    StartTls(TlsAcceptor),
    /// With a TLS handshake (RFC 8314 §3.3).
    Implicit(TlsAcceptor),
}

/// What a connection did, for its one line in the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Who signed in, last if several did.
    pub customer_id: Option<CustomerId>,
    /// Messages that were accepted.
    pub accepted: u64,
    /// Commands and messages that were refused.
    pub refused: u64,
    /// What was said to the last of them.
    pub last_refusal: Option<Reply>,
    /// Why it ended.
    pub end: End,
}

/// Why a connection ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session was over.
    #[default]
    Closed,
    /// The peer went away.
    Gone,
    /// A deadline passed.
    TimedOut,
    /// The server stops.
    Stopped,
    /// Its place was needed, and it had not signed in.
    MadeRoom,
    /// The TLS handshake failed.
    Handshake,
}

/// Serves one connection to its end. It goes early at a stop, or as a stranger who is to
/// make room. Each step of the way is boxed: a future has room for whatever it may come to, and
/// twice for what is handed on, so that an idle connection would have many times what it needs.
pub async fn serve<S>(
    server: &Server,
    socket: S,
    peer: SocketAddr,
    opening: Opening,
    stranger: Stranger,
) -> Summary
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let born = stranger.came();
    let alarm = Alarm::new(stranger.leave(), Some(born + server.deadlines.unauthenticated));
    let mut visit =
        Visit { server, peer, stranger: Some(stranger), tls: None, born, summary: Summary::default() };
    let end = match opening {
        Opening::Implicit(acceptor) => {
            let step = Session::open(Security::Tls, &server.rules);
            Box::pin(visit.secure(socket, alarm, &acceptor, step)).await
        }
        Opening::StartTls(acceptor) => {
            let step = Session::open(Security::Plain, &server.rules);
            let conversation = Conversation::new(&mut visit, socket, alarm);
            match Box::pin(conversation.run(step)).await {
                Outcome::Ended(end) => end,
                Outcome::Upgrade { socket, alarm, upgrading } => {
                    let next = Next::Command(upgrading.secured());
                    let step = Step { reply: None, next };
                    Box::pin(visit.secure(socket, alarm, &acceptor, step)).await
                }
            }
        }
    };
    Summary { end, ..visit.summary }
}

/// A connection's facts, which outlive its sockets.
struct Visit<'a> {
    server: &'a Server,
    peer: SocketAddr,
    /// Until the sign-in.
    stranger: Option<Stranger>,
    /// TLS version and cipher suite.
    tls: Option<String>,
    /// When it was accepted.
    born: Instant,
    summary: Summary,
}

impl Visit<'_> {
    /// Keeps in mind what is refused.
    fn is_told(&mut self, reply: &Reply) {
        if reply.is_refusal() {
            self.summary.refused += 1;
            self.summary.last_refusal = Some(reply.clone());
        }
    }

    /// Makes the handshake and goes on under TLS.
    async fn secure<S>(&mut self, socket: S, mut alarm: Alarm, acceptor: &TlsAcceptor, step: Step) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadlines = &self.server.deadlines;
        let deadline = (Instant::now() + deadlines.handshake).min(self.born + deadlines.unauthenticated);
        let accepting = alarm.guard(deadline, OnStop::Interrupt, acceptor.accept(socket));
        let socket = match Box::pin(accepting).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(_)) => return End::Handshake,
            Err(interrupted) => return self.end(&interrupted),
        };
        let (_, tls) = socket.get_ref();
        let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        self.tls = Some(described(tls.protocol_version(), suite));
        let conversation = Conversation::new(self, socket, alarm);
        match Box::pin(conversation.run(step)).await {
            Outcome::Ended(end) => end,
            // No state under TLS leads to another handshake.
            Outcome::Upgrade { .. } => End::Closed,
        }
    }

    fn end(&self, interrupted: &Interrupted) -> End {
        match interrupted {
            Interrupted::Gone => End::Gone,
            Interrupted::TimedOut | Interrupted::TooSlow => End::TimedOut,
            Interrupted::Stopping if self.stranger.as_ref().is_some_and(Stranger::makes_room) => {
                End::MadeRoom
            }
            Interrupted::Stopping => End::Stopped,
        }
    }
}

/// `TLSv1.3 TLS_AES_256_GCM_SHA384`, for the Received header.
fn described(version: Option<ProtocolVersion>, suite: Option<CipherSuite>) -> String {
    let version = match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    match suite.as_ref().and_then(CipherSuite::as_str) {
        // rustls marks the suites of TLS 1.3 with a prefix that IANA's names lack.
        Some(suite) => format!("{version} {}", suite.replacen("TLS13_", "TLS_", 1)),
        None => version.to_owned(),
    }
}

/// A session on one socket.
struct Conversation<'v, 'a, S> {
    visit: &'v mut Visit<'a>,
    stream: Stream<S>,
    framer: Framer,
    /// What the message in hand takes of the room in memory.
    claim: Option<Claim>,
    /// What of it is on disk.
    spool: Option<Spool>,
    /// One of the sessions that the customer may have, while signed in.
    seat: Option<Counted<CustomerId>>,
    /// Set while a message arrives in chunks.
    patience: Option<Patience>,
    /// A stop was heard while a message was being addressed, which may go on until then.
    leaves_at: Option<Instant>,
}

/// Whether a recipient may be sent to, and there is credit for it.
async fn check(submission: &Submission, checking: &Checking) -> Result<Option<Covered>, Refusal> {
    let (who, begun, recipient) = (checking.who(), checking.begun(), checking.recipient());
    submission.check_recipient(recipient)?;
    submission.check_suppressed(who, begun, recipient).await?;
    submission.check_credit(who, begun, checking.recipients()).await
}

/// How a conversation on one socket ends.
enum Outcome<S> {
    Ended(End),
    Upgrade { socket: S, alarm: Alarm, upgrading: Upgrading },
}

impl<'v, 'a, S: AsyncRead + AsyncWrite + Unpin> Conversation<'v, 'a, S> {
    fn new(visit: &'v mut Visit<'a>, socket: S, alarm: Alarm) -> Self {
        let stream = Stream::new(socket, alarm, visit.server.deadlines.write);
        let framer = Framer::default();
        Self { visit, stream, framer, claim: None, spool: None, seat: None, patience: None, leaves_at: None }
    }

    async fn run(mut self, mut step: Step) -> Outcome<S> {
        loop {
            if let Some(reply) = &step.reply {
                self.visit.is_told(reply);
                reply.render(&mut self.stream.output);
            }
            let advanced = match step.next {
                Next::Close => {
                    self.stream.close().await;
                    return Outcome::Ended(End::Closed);
                }
                Next::Handshake(upgrading) if self.stream.input.is_empty() => {
                    return Box::pin(self.upgrade(upgrading)).await;
                }
                next => self.advance(next).await,
            };
            step = match advanced {
                Ok(step) => step,
                Err(interrupted) => return Box::pin(self.interrupted(interrupted)).await,
            };
        }
    }

    /// Does what the session waits for, and brings it the answer. What goes through the rest of the
    /// program is boxed: who is idle keeps no room for it.
    async fn advance(&mut self, next: Next) -> Result<Step, Interrupted> {
        let server = self.visit.server;
        let rules = &server.rules;
        match next {
            Next::Command(session) => self.command(session, Session::command, Session::flawed).await,
            Next::Unpipelined(session) => {
                if self.stream.hears_more(UNPIPELINED).await? {
                    return Ok(Step { reply: None, next: Next::Close });
                }
                self.command(session, Session::unpipelined_command, Session::unpipelined_flaw).await
            }
            Next::Response(authenticating) => {
                let deadline = self.deadline(false);
                let take = |line: Result<&[u8], Flaw>| match line {
                    Ok(line) => authenticating.response(line, rules),
                    Err(flaw) => authenticating.flawed(flaw, rules),
                };
                self.line(Expected::SaslResponse, (deadline, false), take).await
            }
            Next::Handshake(upgrading) => Ok(upgrading.pipelined()),
            Next::SignIn(signing_in) => Box::pin(self.sign_in(signing_in)).await,
            Next::Begin(beginning) => {
                let answer = server.submission.begin(beginning.who(), beginning.reverse_path());
                let answer = Box::pin(answer).await;
                Ok(beginning.answered(answer, rules))
            }
            Next::Check(checking) => {
                let answer = Box::pin(check(&server.submission, &checking)).await;
                Ok(checking.answered(answer, rules))
            }
            Next::Body(receiving) => Box::pin(self.body(receiving)).await,
            Next::Chunk(chunk) => Box::pin(self.chunk(chunk)).await,
            Next::Submit(submit) => Ok(Box::pin(self.submit(submit)).await),
            Next::Close => Ok(Step { reply: None, next: Next::Close }),
        }
    }

    async fn command(
        &mut self,
        session: Session,
        sound: fn(Session, &[u8], &Rules) -> Step,
        flawed: fn(Session, Flaw, &Rules) -> Step,
    ) -> Result<Step, Interrupted> {
        let rules = &self.visit.server.rules;
        if !session.is_mid_message() {
            self.message_over();
        }
        if !session.is_signed_in() {
            self.seat = None;
        }
        let (deadline, is_addressing) = (self.deadline(session.is_signed_in()), session.is_addressing());
        let take = |line: Result<&[u8], Flaw>| match line {
            Ok(line) => sound(session, line, rules),
            Err(flaw) => flawed(session, flaw, rules),
        };
        self.line(Expected::Command, (deadline, is_addressing), take).await
    }

    /// When the next line must be complete.
    fn deadline(&self, signed_in: bool) -> Instant {
        let deadlines = &self.visit.server.deadlines;
        let idle = Instant::now() + deadlines.idle;
        if signed_in { idle } else { idle.min(self.visit.born + deadlines.unauthenticated) }
    }

    /// Waits for a line, or for the certainty that it is flawed.
    async fn line(
        &mut self,
        expected: Expected,
        (deadline, is_addressing): (Instant, bool),
        take: impl FnOnce(Result<&[u8], Flaw>) -> Step,
    ) -> Result<Step, Interrupted> {
        self.stream.flush_if_much().await?;
        loop {
            let (step, consumed) = match self.framer.next(&self.stream.input, expected) {
                Framed::Line { text, consumed } => (take(Ok(text)), consumed),
                Framed::Flawed { flaw, consumed } => (take(Err(flaw)), consumed),
                Framed::Partial { consumed: 0 } => {
                    self.more(deadline, is_addressing).await?;
                    continue;
                }
                Framed::Partial { consumed } => {
                    self.stream.input.advance(consumed);
                    continue;
                }
            };
            self.stream.input.advance(consumed);
            return Ok(step);
        }
    }

    /// Waits for more. Whoever has begun a message when the server stops may go on with it.
    async fn more(&mut self, deadline: Instant, is_addressing: bool) -> Result<(), Interrupted> {
        if let Some(patience) = &mut self.patience {
            return patience.read(&mut self.stream, deadline).await;
        }
        match self.leaves_at {
            _ if !is_addressing => self.stream.read(deadline, OnStop::Interrupt).await,
            Some(leaves_at) => match self.stream.read(leaves_at.min(deadline), OnStop::Finish).await {
                Err(Interrupted::TimedOut) => Err(Interrupted::Stopping),
                read => read,
            },
            None => match self.stream.read(deadline, OnStop::Interrupt).await {
                Err(Interrupted::Stopping) => {
                    self.leaves_at = Some(Instant::now() + ADDRESSING_GRACE);
                    Ok(())
                }
                read => read,
            },
        }
    }

    /// The answer to a failure is long in coming, and yet no longer than the client may stay.
    async fn sign_in(&mut self, signing_in: SigningIn) -> Result<Step, Interrupted> {
        let server = self.visit.server;
        self.stream.narrow();
        let deadline = self.deadline(false);
        let (peer, username) = (self.visit.peer.ip(), signing_in.username());
        let asking = server.submission.sign_in(peer, username, signing_in.secret());
        let mut answer = self.stream.alarm.guard(deadline, OnStop::Interrupt, asking).await?;
        if let Ok((who, _)) = &answer {
            self.seat = server.sessions.count(who.customer_id.clone());
            if self.seat.is_none() {
                tracing::info!(customer_id = %who.customer_id, %peer, "too many sessions of a customer");
                answer = Err(Refusal::TooManySessions { limit: server.sessions.limit() });
            }
        }
        if let Ok((who, _)) = &answer {
            self.visit.stranger = None;
            self.stream.alarm.is_at_home();
            self.visit.summary.customer_id = Some(who.customer_id.clone());
        }
        Ok(signing_in.answered(answer, &server.rules))
    }

    async fn submit(&mut self, submit: Submit) -> Step {
        let server = self.visit.server;
        let Submit { envelope, whole, submitting } = submit;
        let spool = match self.spooled(&submitting.who().customer_id, whole.rest).await {
            Ok(spool) => spool,
            Err(refusal) => return submitting.answered(&Err(refusal), &server.rules),
        };
        let arrival = Arrival {
            protocol: "ESMTPSA",
            peer: self.visit.peer,
            helo: Some(submitting.helo().to_owned()),
            tls: self.visit.tls.clone(),
        };
        let begun = submitting.begun().clone();
        let (bytes, keyed, notes) = (whole.head, None, Vec::new());
        let submitted = Submitted { begun, envelope, bytes, spool, arrival, keyed, notes };
        let answer = server.submission.submit(submitting.who(), submitted).await;
        if answer.is_ok() {
            self.visit.summary.accepted += 1;
        }
        submitting.answered(&answer, &server.rules)
    }

    async fn upgrade(mut self, upgrading: Upgrading) -> Outcome<S> {
        upgrading.offer().render(&mut self.stream.output);
        match self.stream.flush().await {
            Ok(()) => {
                let (socket, alarm) = self.stream.into_parts();
                Outcome::Upgrade { socket, alarm, upgrading }
            }
            Err(interrupted) => self.interrupted(interrupted).await,
        }
    }

    /// Says why it is over, if there is anybody to hear it.
    async fn interrupted(mut self, interrupted: Interrupted) -> Outcome<S> {
        let end = self.visit.end(&interrupted);
        let reply = match interrupted {
            Interrupted::Gone => return Outcome::Ended(end),
            Interrupted::TimedOut => Reply::idle(),
            Interrupted::TooSlow => {
                self.visit.is_told(&Reply::too_slow());
                Reply::too_slow()
            }
            Interrupted::Stopping if end == End::MadeRoom => Reply::too_many_connections(),
            Interrupted::Stopping => Reply::shutting_down(),
        };
        reply.render(&mut self.stream.output);
        self.stream.close().await;
        Outcome::Ended(end)
    }
}

#[cfg(test)]
mod tests;
