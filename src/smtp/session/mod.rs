//! The session as a value: an input goes in, a [`Step`] comes out.
//!
//! ```text
//! Connected ──EHLO──▶ Greeted ──AUTH──▶ Ready ──MAIL──▶ Mail ──RCPT…DATA──▶ body ──▶ Ready
//!     ▲                  │                ▲               │
//!     └──────STARTTLS────┘                └────RSET───────┘
//! ```
//!
//! Each stage is a type that holds exactly what is known in it, so a message
//! without a customer, or a customer without TLS, cannot be written down. Waiting
//! for the world (a handshake, a sign-in, a verdict) is a stage too: [`Next`] says
//! what is waited for, and its value takes the answer. There is no I/O here, no
//! clock, no store.

mod stages;
mod waiting;

use std::borrow::Cow;

use crate::config::OutOfCreditReply;

use super::command::{self, Command, Invalid};
use super::line::Flaw;
use super::reply::Reply;

use stages::{Connected, Greeted, Mail, Ready};
pub use waiting::{Authenticating, Beginning, Checking, Receiving, SigningIn, Submit, Submitting, Upgrading};

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
    /// 452 or 550 when the credits are gone.
    pub out_of_credit_reply: OutOfCreditReply,
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
}

impl Session {
    /// A new connection: the banner, and the first command is awaited.
    pub fn open(security: Security, rules: &Rules) -> Step {
        Self::from(Connected { security, errors: 0 }).goes_on(Reply::banner(&rules.hostname))
    }

    /// Takes a line, without its CRLF.
    pub fn command(self, line: &[u8], rules: &Rules) -> Step {
        match command::parse(line) {
            Ok(command) => self.obey(command, rules),
            Err(Invalid::Http) => Step::close(Reply::not_http()),
            Err(invalid) => self.refuse(Reply::invalid(invalid), rules),
        }
    }

    /// Takes note of a line that is none. A TLS hello gets no answer: who sends it
    /// does not read SMTP.
    pub fn flawed(self, flaw: Flaw, rules: &Rules) -> Step {
        match flaw {
            Flaw::TlsHello => Step::silent(Next::Close),
            flaw => self.refuse(Reply::flawed_line(flaw), rules),
        }
    }

    /// Whether the client has signed in.
    pub fn is_signed_in(&self) -> bool {
        matches!(self.0, Stage::Ready(_) | Stage::Mail(_))
    }

    fn obey(self, command: Command<'_>, rules: &Rules) -> Step {
        match (self.0, command) {
            (Stage::Mail(mail), Command::Rcpt(recipient)) => mail.rcpt(recipient, rules),
            (Stage::Mail(mail), Command::Data) => mail.data(rules),
            (Stage::Ready(ready), Command::Mail(mail)) => ready.mail(mail, rules),
            (Stage::Greeted(greeted), Command::Auth { mechanism, initial }) => {
                greeted.auth(mechanism, initial, rules)
            }
            (Stage::Connected(Connected { security: Security::Plain, errors }), Command::StartTls)
            | (Stage::Greeted(Greeted { security: Security::Plain, errors, .. }), Command::StartTls) => {
                Step::silent(Next::Handshake(Upgrading { errors }))
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
                Self(stage).refuse(reply, rules)
            }
        }
    }

    /// EHLO or HELO: drops a transaction, keeps a sign-in (RFC 5321 §4.1.4).
    fn greet(self, name: &str, rules: &Rules, extended: bool) -> Step {
        let helo = name.to_owned();
        let (stage, security) = match self.0.without_transaction() {
            Stage::Connected(Connected { security, errors })
            | Stage::Greeted(Greeted { security, errors, .. }) => {
                (Stage::Greeted(Greeted { security, errors, helo }), security)
            }
            Stage::Ready(ready) => (Stage::Ready(Ready { helo, ..ready }), Security::Tls),
            Stage::Mail(mail) => (Stage::Ready(Ready { helo, ..mail.ready }), Security::Tls),
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

    /// Refuses a command, and closes when it was one too many.
    fn refuse(mut self, reply: Reply, rules: &Rules) -> Step {
        let errors = match &mut self.0 {
            Stage::Connected(stage) => &mut stage.errors,
            Stage::Greeted(stage) => &mut stage.errors,
            Stage::Ready(stage) => &mut stage.errors,
            Stage::Mail(stage) => &mut stage.ready.errors,
        };
        *errors = errors.saturating_add(1);
        if *errors > rules.max_errors {
            return Step::close(Reply::too_many_errors());
        }
        self.goes_on(reply)
    }
}

impl Stage {
    fn without_transaction(self) -> Self {
        match self {
            Self::Mail(mail) => Self::Ready(mail.ready),
            other => other,
        }
    }

    fn security(&self) -> Security {
        match self {
            Self::Connected(Connected { security, .. }) | Self::Greeted(Greeted { security, .. }) => {
                *security
            }
            Self::Ready(_) | Self::Mail(_) => Security::Tls,
        }
    }
}

/// The answer to a well-formed command that may not come now.
fn out_of_turn(stage: &Stage, command: &Command<'_>) -> Reply {
    match (command, stage) {
        (Command::StartTls, _) => Reply::already_encrypted(),
        (Command::Auth { .. }, Stage::Ready(_) | Stage::Mail(_)) => Reply::already_signed_in(),
        (Command::Auth { .. }, _) if stage.security() == Security::Plain => Reply::encryption_required(),
        (Command::Mail(_), Stage::Mail(_)) => Reply::nested_mail(),
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
        "SMTPUTF8".into(),
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
