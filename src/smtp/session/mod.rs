//! The session as a value: an input goes in, a [`Step`] comes out.
//!
//! ```text
//! Connected ──EHLO──▶ Greeted ──AUTH──▶ Ready ──MAIL──▶ Mail ──RCPT…DATA──▶ body ──▶ Ready
//!     ▲                  │                ▲               │
//!     └──────STARTTLS────┘                ├────RSET───────┤ BDAT
//!                                         │               ▼
//!                                         ├──LAST, RSET─ Chunks ◀─┐
//!                                         │               │  └BDAT┘
//!                                         │               ▼ refused
//!                                         └──LAST, RSET─ Spoiled
//! ```
//!
//! Each stage is a type that holds exactly what is known in it, so a message
//! without a customer, or a customer without TLS, cannot be written down. Waiting
//! for the world (a handshake, a sign-in, a verdict) is a stage too: [`Next`] says
//! what is waited for, and its value takes the answer. There is no I/O here, no
//! clock, no store.

mod chunks;
mod stages;
mod tally;
mod waiting;

use std::borrow::Cow;

use crate::config::OutOfCreditReply;

use super::command::{self, Bdat, Command, Invalid};
use super::line::Flaw;
use super::reply::Reply;

pub use chunks::Chunk;
use chunks::{Chunks, Spoiled};
use stages::{Connected, Greeted, Mail, Ready};
use tally::Tally;
pub use waiting::{Authenticating, Beginning, Checking, Receiving, SigningIn, Submit, Submitting, Upgrading};

/// A body is read to its end for at most so many times the size limit …
const MAX_DRAIN_FACTOR: usize = 4;
/// … but at least for so many octets.
const MIN_DRAIN_OCTETS: usize = 64 << 20;

/// What the configuration lays down for every session.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Our name in the banner and EHLO.
    pub hostname: String,
    /// Largest message, in octets.
    pub max_message_bytes: usize,
    /// Most distinct recipients of one message.
    pub max_recipients: usize,
    /// Refused commands before the connection is closed.
    pub max_errors: u32,
    /// Failed sign-ins before the connection is closed.
    pub max_sign_in_failures: u32,
    /// Commands that bring no message nearer, before the connection is closed.
    pub max_idle_commands: u32,
    /// 452 or 550 when the credits are gone.
    pub out_of_credit_reply: OutOfCreditReply,
}

impl Rules {
    /// What is refused is read to its end and dropped for at most so many octets.
    pub fn max_drained_octets(&self) -> usize {
        self.max_message_bytes.saturating_mul(MAX_DRAIN_FACTOR).max(MIN_DRAIN_OCTETS)
    }
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not yet; STARTTLS is offered and AUTH is not.
    Plain,
    /// Under TLS.
    Tls,
}

/// What to say, and what to do after that.
#[derive(Debug)]
pub struct Step {
    /// The answer to the client, if one is due now.
    pub reply: Option<Reply>,
    /// What comes next.
    pub next: Next,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Read a command line.
    Command(Session),
    /// The same, unless octets come before it is answered: a DATA was refused, and behind
    /// it stands a body that did not wait (RFC 2920 §3.1). Nor may the line be none.
    Unpipelined(Session),
    /// Read a response to a SASL challenge.
    Response(Authenticating),
    /// Make a TLS handshake.
    Handshake(Upgrading),
    /// Check a username and secret.
    SignIn(SigningIn),
    /// Ask whether this customer may send from that address now.
    Begin(Beginning),
    /// Ask whether a recipient can be reached.
    Check(Checking),
    /// Read a body to its end.
    Body(Receiving),
    /// Read a chunk to its end, and nothing beyond it.
    Chunk(Chunk),
    /// Hand the message in.
    Submit(Submit),
    /// Close the connection.
    Close,
}

/// A session that waits for a command.
#[derive(Debug)]
pub struct Session(Stage);

#[derive(Debug)]
enum Stage {
    Connected(Connected),
    Greeted(Greeted),
    Ready(Ready),
    Mail(Mail),
    Chunks(Chunks),
    Spoiled(Spoiled),
}

impl Step {
    fn reply(reply: Reply, next: Next) -> Self {
        Self { reply: Some(reply), next }
    }

    fn silent(next: Next) -> Self {
        Self { reply: None, next }
    }

    fn close(reply: Reply) -> Self {
        Self { reply: Some(reply), next: Next::Close }
    }

    /// This step, but nothing that has come already is a command.
    fn unpipelined(self) -> Self {
        match self.next {
            Next::Command(session) => Self { next: Next::Unpipelined(session), ..self },
            _ => self,
        }
    }
}

impl Session {
    /// A new connection: the banner, and the first command is awaited.
    pub fn open(security: Security, rules: &Rules) -> Step {
        Self::from(Connected { security, tally: Tally::default() }).goes_on(Reply::banner(&rules.hostname))
    }

    /// Takes a line, without its CRLF.
    pub fn command(self, line: &[u8], rules: &Rules) -> Step {
        match command::parse(line) {
            Ok(command) => self.obey(command, rules),
            // What would be obeyed next may be octets that a chunk was to bring.
            Err(invalid @ (Invalid::Http | Invalid::Bdat)) => Step::close(Reply::invalid(invalid)),
            Err(invalid @ Invalid::ForwardPath) => self.brings_nothing(Reply::invalid(invalid), rules),
            Err(invalid) => self.refuse(Reply::invalid(invalid), rules),
        }
    }

    /// Takes note of a line that is none. A TLS hello gets no answer: who sends it
    /// does not read SMTP.
    pub fn flawed(self, flaw: Flaw, rules: &Rules) -> Step {
        match flaw {
            Flaw::TlsHello => Step::silent(Next::Close),
            Flaw::Bdat => Step::close(Reply::flawed_line(flaw)),
            flaw => self.refuse(Reply::flawed_line(flaw), rules),
        }
    }

    /// Takes the line behind a refused DATA. A client that waited for the answer says a
    /// command; the first line of a body is none, and those behind it may look like some.
    pub fn unpipelined_command(self, line: &[u8], rules: &Rules) -> Step {
        match command::parse(line) {
            Ok(_) | Err(Invalid::ReversePath | Invalid::ForwardPath | Invalid::UnknownParameter) => {
                self.command(line, rules)
            }
            Err(invalid) => Step::close(Reply::invalid(invalid)),
        }
    }

    /// The same for a line that is none.
    pub fn unpipelined_flaw(self, flaw: Flaw, rules: &Rules) -> Step {
        Step { next: Next::Close, ..self.flawed(flaw, rules) }
    }

    /// Whether the client has signed in.
    pub fn is_signed_in(&self) -> bool {
        matches!(self.0, Stage::Ready(_) | Stage::Mail(_)) || self.is_mid_message()
    }

    /// Whether a message is being addressed: after MAIL, before its body.
    pub fn is_addressing(&self) -> bool {
        matches!(self.0, Stage::Mail(_))
    }

    /// Whether a message has begun to arrive in chunks.
    pub fn is_mid_message(&self) -> bool {
        matches!(self.0, Stage::Chunks(_) | Stage::Spoiled(_))
    }

    fn obey(mut self, command: Command<'_>, rules: &Rules) -> Step {
        if is_idle(&command) && self.0.tally().idled() > rules.max_idle_commands {
            return Step::close(Reply::too_many_idle_commands());
        }
        match (self.0, command) {
            (Stage::Mail(mail), Command::Rcpt(rcpt)) => mail.rcpt(rcpt, rules),
            (Stage::Mail(mail), Command::Data) => mail.data(rules),
            (Stage::Mail(mail), Command::Bdat(bdat)) => mail.bdat(bdat, rules),
            (Stage::Chunks(chunks), Command::Bdat(bdat)) => chunks.bdat(bdat, rules),
            (Stage::Spoiled(spoiled), Command::Bdat(bdat)) => spoiled.bdat(bdat, rules),
            (Stage::Ready(ready), Command::Mail(mail)) => ready.mail(mail, rules),
            (Stage::Greeted(greeted), Command::Auth { mechanism, initial }) => {
                greeted.auth(mechanism, initial, rules)
            }
            (Stage::Connected(Connected { security: Security::Plain, tally }), Command::StartTls)
            | (Stage::Greeted(Greeted { security: Security::Plain, tally, .. }), Command::StartTls) => {
                Step::silent(Next::Handshake(Upgrading { tally }))
            }
            (stage, Command::Ehlo(name)) => Self(stage).greet(name, rules, true),
            (stage, Command::Helo(name)) => Self(stage).greet(name, rules, false),
            (stage, Command::Rset) => Self(stage.without_transaction()).goes_on(Reply::ok()),
            (stage, Command::Noop) => Self(stage).goes_on(Reply::ok()),
            (stage, Command::Vrfy) => Self(stage).goes_on(Reply::vrfy()),
            (stage, Command::Help) => Self(stage).goes_on(Reply::help()),
            (_, Command::Quit) => Step::close(Reply::bye()),
            (stage, misplaced) => {
                let reply = out_of_turn(&stage, &misplaced);
                let step = Self(stage).refuse(reply, rules);
                match misplaced {
                    Command::Bdat(bdat) => step.after_dropping(bdat, rules),
                    Command::Data => step.unpipelined(),
                    _ => step,
                }
            }
        }
    }

    /// EHLO or HELO: drops a transaction, keeps a sign-in (RFC 5321 §4.1.4).
    fn greet(self, name: &str, rules: &Rules, extended: bool) -> Step {
        let helo = name.to_owned();
        let mut stage = self.0.without_transaction();
        let (security, tally) = (stage.security(), *stage.tally());
        let stage = match stage {
            Stage::Ready(ready) => Stage::Ready(Ready { helo, ..ready }),
            _ => Stage::Greeted(Greeted { security, tally, helo }),
        };
        let reply = match extended {
            true => Reply::ehlo(&rules.hostname, extensions(security, rules)),
            false => Reply::helo(&rules.hostname),
        };
        Self(stage).goes_on(reply)
    }

    fn goes_on(self, reply: Reply) -> Step {
        Step::reply(reply, Next::Command(self))
    }

    /// Answers a command that named nobody new as a recipient, and closes when it was one
    /// too many. Lists have their flaws, so a recipient who is refused is no error of
    /// the client's: it may name far more than a message takes, and go on with the rest
    /// (RFC 5321 §4.5.3.1.10).
    fn brings_nothing(mut self, reply: Reply, rules: &Rules) -> Step {
        if self.0.tally().idled() > rules.max_idle_commands {
            return Step::close(Reply::too_many_idle_commands());
        }
        self.goes_on(reply)
    }

    /// Refuses a command, and closes when it was one too many.
    fn refuse(mut self, reply: Reply, rules: &Rules) -> Step {
        if self.0.tally().erred() > rules.max_errors {
            return Step::close(Reply::too_many_errors());
        }
        self.goes_on(reply)
    }

    /// The same for a sign-in, of which fewer may fail.
    fn refuse_sign_in(mut self, reply: Reply, rules: &Rules) -> Step {
        if self.0.tally().failed_to_sign_in() > rules.max_sign_in_failures {
            return Step::close(Reply::too_many_sign_in_failures());
        }
        self.refuse(reply, rules)
    }
}

impl Stage {
    fn without_transaction(self) -> Self {
        match self {
            Self::Mail(mail) => Self::Ready(mail.ready),
            Self::Chunks(chunks) => Self::Ready(chunks.into_ready()),
            Self::Spoiled(spoiled) => Self::Ready(spoiled.ready),
            other => other,
        }
    }

    fn tally(&mut self) -> &mut Tally {
        match self {
            Self::Connected(stage) => &mut stage.tally,
            Self::Greeted(stage) => &mut stage.tally,
            Self::Ready(stage) => &mut stage.tally,
            Self::Mail(stage) => &mut stage.ready.tally,
            Self::Chunks(stage) => &mut stage.ready_mut().tally,
            Self::Spoiled(stage) => &mut stage.ready.tally,
        }
    }

    fn security(&self) -> Security {
        match self {
            Self::Connected(Connected { security, .. }) | Self::Greeted(Greeted { security, .. }) => {
                *security
            }
            Self::Ready(_) | Self::Mail(_) | Self::Chunks(_) | Self::Spoiled(_) => Security::Tls,
        }
    }
}

/// Whether a command by itself brings no message nearer. One that begins a message and
/// drops it again does not either; the one before an accepted message is forgiven with it.
/// A RCPT is judged by its answer.
fn is_idle(command: &Command<'_>) -> bool {
    matches!(
        command,
        Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Mail(_)
            | Command::Rset
            | Command::Noop
            | Command::Vrfy
            | Command::Help
            | Command::Bdat(Bdat { octets: 0, is_last: false })
    )
}

/// The answer to a well-formed command that may not come now.
fn out_of_turn(stage: &Stage, command: &Command<'_>) -> Reply {
    match (command, stage) {
        (Command::StartTls, _) => Reply::already_encrypted(),
        (Command::Auth { .. }, Stage::Ready(_) | Stage::Mail(_) | Stage::Chunks(_) | Stage::Spoiled(_)) => {
            Reply::already_signed_in()
        }
        (Command::Auth { .. }, _) if stage.security() == Security::Plain => Reply::encryption_required(),
        (Command::Mail(_), Stage::Mail(_) | Stage::Chunks(_) | Stage::Spoiled(_)) => Reply::nested_mail(),
        (Command::Rcpt(_) | Command::Data, Stage::Chunks(_) | Stage::Spoiled(_)) => Reply::chunks_begun(),
        (Command::Mail(_), Stage::Greeted(greeted)) => {
            Reply::sign_in_first(greeted.security == Security::Tls)
        }
        (Command::Mail(_) | Command::Auth { .. }, _) => Reply::hello_first(),
        _ => Reply::mail_first(),
    }
}

fn extensions(security: Security, rules: &Rules) -> Vec<Cow<'static, str>> {
    vec![
        "PIPELINING".into(),
        format!("SIZE {}", rules.max_message_bytes).into(),
        "8BITMIME".into(),
        "CHUNKING".into(),
        "SMTPUTF8".into(),
        "DSN".into(),
        "ENHANCEDSTATUSCODES".into(),
        format!("LIMITS RCPTMAX={}", rules.max_recipients).into(),
        match security {
            Security::Plain => "STARTTLS".into(),
            Security::Tls => "AUTH PLAIN LOGIN".into(),
        },
    ]
}

#[cfg(test)]
mod tests;
