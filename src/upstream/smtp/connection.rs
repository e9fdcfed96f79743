//! A connection that is ready for MAIL: greeting, EHLO, TLS, AUTH, and then one
//! command after another, or several at once where the server takes that.
//!
//! STARTTLS is required where it is configured, and what a server offered before
//! the handshake is forgotten (RFC 3207 §4.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::reply::{Offered, Reply};
use super::stuffing::Stuffing;
use super::url::{Credentials, Security, SmtpUrl};
use super::wire::{Wire, not_now};
use crate::domain::closure::Closure;
use crate::upstream::Answer;
use crate::upstream::tenure::Tenure;

/// Longest wait for the end of a message and the reply to it (RFC 5321 §4.5.3.2.6).
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for what changes nothing for the part.
const COURTESY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most of a message that is written at a time, in octets.
const CHUNK_OCTETS: usize = 65_536;
/// The most commands that are written before their replies are read. Their replies
/// fit into a TCP window, so that neither side waits for the other (RFC 2920 §3.1).
const MAX_PIPELINED: usize = 64;

/// Why there is no connection, or none that our mail can go over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unconnected {
    /// The server is away or asks to come back.
    NotNow(Answer),
    /// Only the operator can mend it, for a reason of a [`Closure`].
    Misconfigured(String),
    /// The server cannot carry the mail to everybody.
    Unfit,
}

impl Unconnected {
    /// In words.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::NotNow(answer) => &answer.text,
            Self::Misconfigured(reason) => reason,
            Self::Unfit => "the upstream cannot carry the mail to everybody",
        }
    }
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server said no.
    Reply {
        /// The reply code, 400 to 559.
        code: u16,
        /// The reply.
        answer: Answer,
    },
    /// It said nothing that can be understood; the connection is of no more use.
    Lost(Answer),
}

/// Where a connection goes, and who we are there.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) url: SmtpUrl,
    pub(super) tls: Arc<ClientConfig>,
    /// Our name in EHLO.
    pub(super) hostname: String,
    /// Longest wait for a connection, and for a reply.
    pub(super) timeout: Duration,
}

/// A connection that is ready for MAIL.
pub(super) struct Connection {
    wire: Wire,
    offered: Offered,
    timeout: Duration,
    state: State,
    opened: Instant,
    transactions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transaction is open.
    Clean,
    /// MAIL was said.
    Open,
    /// Of no more use.
    Broken,
}

impl Connection {
    /// Connects, protects the way and signs in.
    pub(super) async fn open(to: &Destination) -> Result<Self, Unconnected> {
        let opened = timeout(to.timeout, Self::open_unhurried(to)).await;
        opened.unwrap_or_else(|_| Err(not_now("cannot connect: timed out")))
    }

    async fn open_unhurried(to: &Destination) -> Result<Self, Unconnected> {
        let mut wire = Wire::connect(&to.url.host, to.url.port).await?;
        if to.url.security == Security::Implicit {
            wire = wire.secured(&to.url.host, &to.tls).await?;
        }
        let mut connection = Self {
            wire,
            offered: Offered::default(),
            timeout: to.timeout,
            state: State::Clean,
            opened: Instant::now(),
            transactions: 0,
        };
        let greeting = connection.next_reply().await;
        greeting.map_err(|trouble| not_greeted(&trouble))?;
        connection.greet(&to.hostname).await?;
        if to.url.security == Security::StartTls {
            connection = connection.upgraded(to).await?;
            connection.greet(&to.hostname).await?;
        }
        if let Some(credentials) = &to.url.credentials {
            connection.sign_in(credentials).await?;
        }
        Ok(connection)
    }

    async fn greet(&mut self, hostname: &str) -> Result<(), Unconnected> {
        let reply = self.ask(&format!("EHLO {hostname}\r\n")).await;
        self.offered = Offered::read(&reply.map_err(|trouble| not_greeted(&trouble))?);
        Ok(())
    }

    async fn upgraded(mut self, to: &Destination) -> Result<Self, Unconnected> {
        if !self.offered.starttls {
            let reason = Closure::SmtpTls.because("it does not offer STARTTLS, and TLS is required");
            return Err(Unconnected::Misconfigured(reason));
        }
        self.ask("STARTTLS\r\n").await.map_err(|trouble| not_greeted(&trouble))?;
        let wire = self.wire.secured(&to.url.host, &to.tls).await?;
        Ok(Self { wire, offered: Offered::default(), ..self })
    }

    /// AUTH PLAIN (RFC 4616), or LOGIN where there is nothing else.
    async fn sign_in(&mut self, credentials: &Credentials) -> Result<(), Unconnected> {
        let (user, password) = (credentials.user.expose_secret(), credentials.password.expose_secret());
        let steps = if self.offered.auth_plain {
            let token = BASE64.encode(format!("\0{user}\0{password}"));
            vec![format!("AUTH PLAIN {token}\r\n")]
        } else if self.offered.auth_login {
            let line = |text: &str| format!("{}\r\n", BASE64.encode(text));
            vec!["AUTH LOGIN\r\n".to_owned(), line(user), line(password)]
        } else {
            let reason = Closure::SmtpSignIn.because("it offers neither AUTH PLAIN nor LOGIN");
            return Err(Unconnected::Misconfigured(reason));
        };
        for step in steps {
            self.ask(&step).await.map_err(not_signed_in)?;
        }
        Ok(())
    }

    /// What the server offers.
    pub(super) fn offered(&self) -> Offered {
        self.offered
    }

    /// How many transactions were begun on it.
    pub(super) fn transactions(&self) -> u32 {
        self.transactions
    }

    /// How long ago it was made.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Says MAIL and the RCPTs that follow it. There is a reply to each as long as the
    /// connection lasts; where they are said one by one, none after a refused MAIL.
    pub(super) async fn envelope(&mut self, commands: &[String]) -> Vec<Result<Reply, Trouble>> {
        self.state = State::Open;
        self.transactions = self.transactions.saturating_add(1);
        let at_once = if self.offered.pipelining { MAX_PIPELINED } else { 1 };
        let mut replies: Vec<Result<Reply, Trouble>> = Vec::with_capacity(commands.len());
        for group in commands.chunks(at_once) {
            if let Err(trouble) = self.say(&group.concat()).await {
                replies.push(Err(trouble));
                return replies;
            }
            for _ in group {
                replies.push(self.next_reply().await);
                if self.state == State::Broken {
                    return replies;
                }
            }
            if replies.first().is_some_and(Result::is_err) {
                return replies;
            }
        }
        replies
    }

    /// Says one command, with its CRLF, and waits for the reply.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Reply, Trouble> {
        self.say(command).await?;
        self.next_reply().await
    }

    /// Sends the message, which is the pieces one after another, and its final dot, if it is
    /// ours still. The second is whether the dot may have left.
    pub(super) async fn message(
        &mut self,
        pieces: &[&[u8]],
        tenure: &Tenure,
    ) -> (Result<Reply, Trouble>, bool) {
        let mut dot_left = false;
        let wait = self.timeout.max(FINAL_DOT_TIMEOUT);
        let said = timeout(wait, say_message(&mut self.wire, (pieces, tenure), &mut dot_left)).await;
        let heard = self.heard(said.unwrap_or_else(|_| Err("timed out".to_owned())));
        // Any reply to the final dot ends the transaction.
        if dot_left && self.state == State::Open {
            self.state = State::Clean;
        }
        (heard, dot_left)
    }

    /// Makes it ready for the next part; `false` if it is of no more use.
    pub(super) async fn settle(&mut self) -> bool {
        if self.state == State::Open {
            let reset = timeout(COURTESY_TIMEOUT, self.ask("RSET\r\n")).await;
            self.state = if matches!(reset, Ok(Ok(_))) { State::Clean } else { State::Broken };
        }
        self.state == State::Clean
    }

    /// Says QUIT. Nobody waits for the good-bye: it would change nothing.
    pub(super) async fn leave(mut self) {
        let _ = timeout(COURTESY_TIMEOUT, self.wire.say(b"QUIT\r\n")).await;
    }

    async fn say(&mut self, commands: &str) -> Result<(), Trouble> {
        let said = timeout(self.timeout, self.wire.say(commands.as_bytes())).await;
        let problem = match said {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        self.heard(Err(problem)).map(|_| ())
    }

    async fn next_reply(&mut self) -> Result<Reply, Trouble> {
        let reply = timeout(self.timeout, self.wire.reply()).await;
        self.heard(reply.unwrap_or_else(|_| Err("timed out".to_owned())))
    }

    fn heard(&mut self, reply: Result<Reply, String>) -> Result<Reply, Trouble> {
        let heard = match reply {
            Ok(Reply { code: 200..400, .. }) => reply.map_err(|problem| lost(&problem)),
            Ok(reply) => Err(Trouble::Reply { code: reply.code, answer: reply.answer() }),
            Err(problem) => Err(lost(&problem)),
        };
        // After 421 the server closes (RFC 5321 §3.8).
        if matches!(heard, Err(Trouble::Lost(_) | Trouble::Reply { code: 421, .. })) {
            self.state = State::Broken;
        }
        heard
    }
}

async fn say_message(
    wire: &mut Wire,
    (pieces, tenure): (&[&[u8]], &Tenure),
    dot_left: &mut bool,
) -> Result<Reply, String> {
    let (mut stuffing, mut out) = (Stuffing::new(), Vec::new());
    for chunk in pieces.iter().flat_map(|piece| piece.chunks(CHUNK_OCTETS)) {
        if out.len() >= CHUNK_OCTETS {
            wire.say(&out).await.map_err(|error| error.to_string())?;
            out.clear();
        }
        stuffing.write(chunk, &mut out);
    }
    stuffing.end(&mut out);
    if !tenure.is_ours().await {
        return Err("the lease was lost before the final dot".to_owned());
    }
    *dot_left = true;
    wire.say(&out).await.map_err(|error| error.to_string())?;
    wire.reply().await
}

fn lost(reason: &str) -> Trouble {
    Trouble::Lost(Answer::new("4.4.2", &format!("the connection to the upstream was lost: {reason}")))
}

fn not_greeted(trouble: &Trouble) -> Unconnected {
    match trouble {
        Trouble::Reply { code: 500.., answer } => {
            Unconnected::Misconfigured(Closure::SmtpRefused.because(&answer.text))
        }
        Trouble::Reply { answer, .. } | Trouble::Lost(answer) => Unconnected::NotNow(answer.clone()),
    }
}

fn not_signed_in(trouble: Trouble) -> Unconnected {
    match trouble {
        Trouble::Reply { code: 500.., answer } => Unconnected::Misconfigured(
            Closure::SmtpSignIn.because(&format!("it refused the credentials: {}", answer.text)),
        ),
        Trouble::Reply { answer, .. } | Trouble::Lost(answer) => Unconnected::NotNow(answer),
    }
}
