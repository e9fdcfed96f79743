//! An upstream SMTP server: one transaction a part (RFC 5321).
//!
//! lettre's connection is driven command by command, because its own `send`
//! gives up at the first refused recipient and every recipient has an answer of
//! its own here. `url` reads the address, `wire` makes the connection and
//! its TLS, `transaction` sends one part. What this module must not know:
//! SQL, money, when to try again.

mod transaction;
mod url;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;

pub use url::InvalidSmtpUrl;

use super::{Answer, Outcome, Outgoing};
use crate::domain::digest::sha256_hex;
use transaction::Ended;
use url::SmtpUrl;
use wire::{Connection, Unconnected};

/// How long to leave a door alone that only the operator can open.
const OPERATOR_RETRY: Duration = Duration::from_secs(300);

/// Connections kept open between parts, and for how long.
const MAX_IDLE: usize = 16;
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// What the client needs to be told.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// `UPSTREAM_SMTP_URL`: `smtps://user:pass@host:465`, or
    /// `smtp://user:pass@host:587?tls=required` for STARTTLS. User and password
    /// are percent-encoded. `ca=PATH` names a PEM file whose certificates are
    /// trusted besides the public ones. `tls=none` sends in the clear, as does
    /// `smtp://` without `tls` where `allow_plaintext` is set; both only to this
    /// machine's loopback.
    pub url: SecretString,
    /// `upstream.allow_plaintext`.
    pub allow_plaintext: bool,
    /// Our name in EHLO.
    pub hostname: String,
    /// Longest wait for a connection, and for the reply to a command. A message
    /// with its final dot has ten minutes at least (RFC 5321 §4.5.3.2.6): who
    /// gives up sooner sends twice.
    pub timeout: Duration,
    /// It is Resend's own service, which knows a message that it got before by the
    /// field `Resend-Idempotency-Key`.
    pub is_resend: bool,
}

/// The client. Clones share their idle connections.
#[derive(Clone)]
pub struct SmtpUpstream {
    url: Arc<SmtpUrl>,
    hostname: String,
    timeout: Duration,
    is_resend: bool,
    idle: Arc<Mutex<Vec<Idle>>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl fmt::Debug for SmtpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpUpstream").field("url", &self.url).finish_non_exhaustive()
    }
}

impl SmtpUpstream {
    /// A client; no connection is made. Reads the `ca` file, if there is one.
    pub fn new(settings: &SmtpSettings) -> Result<Self, InvalidSmtpUrl> {
        let url = SmtpUrl::parse(&settings.url, settings.allow_plaintext)?;
        Ok(Self {
            url: Arc::new(url),
            hostname: settings.hostname.clone(),
            timeout: settings.timeout,
            is_resend: settings.is_resend,
            idle: Arc::default(),
        })
    }

    /// Sends a part to those of its recipients that the server takes.
    ///
    /// A connection that was kept may have been closed by the server meanwhile;
    /// when it turns out so before any octet of the message left, a new one is
    /// made and the part is sent over that.
    pub async fn send(&self, outgoing: &Outgoing) -> Outcome {
        let keyed = self.is_resend.then(|| with_key(outgoing));
        let outgoing = keyed.as_ref().unwrap_or(outgoing);
        if let Some(connection) = self.kept()
            && let Ended::With(outcome) = self.send_over(connection, outgoing).await
        {
            return outcome;
        }
        match self.connect().await {
            Err(unconnected) => outcome_of(unconnected),
            Ok(connection) => match self.send_over(connection, outgoing).await {
                Ended::With(outcome) => outcome,
                Ended::Early(answer) => Outcome::Transient { answer, retry_after: None, counts: true },
            },
        }
    }

    /// Whether the server can be reached, shows a certificate that is trusted
    /// and takes the credentials; if not, why, for the operator.
    pub async fn check(&self) -> Result<(), String> {
        let mut connection = self.connect().await.map_err(|unconnected| match unconnected {
            Unconnected::NotNow(answer) => answer.text,
            Unconnected::Misconfigured(reason) => reason,
        })?;
        connection.quit().await;
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Unconnected> {
        Connection::open(&self.url, &self.hostname, self.timeout).await
    }

    async fn send_over(&self, mut connection: Connection, outgoing: &Outgoing) -> Ended {
        let ended = transaction::send(&mut connection, outgoing).await;
        if connection.settle().await {
            self.keep(connection);
        }
        ended
    }

    /// The connection used last: the others grow old and are closed.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < MAX_IDLE_TIME);
        idle.pop().map(|idle| idle.connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < MAX_IDLE_TIME);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

/// The message under its key: that of the part, with who is asked for. A later try for
/// those who are left is another mail to Resend, or it would take it for the first one.
fn with_key(outgoing: &Outgoing) -> Outgoing {
    let mut recipients: Vec<String> = outgoing.recipients.iter().map(ToString::to_string).collect();
    recipients.sort_unstable();
    let asked: String = sha256_hex(recipients.join("\n").as_bytes()).chars().take(16).collect();
    let field = format!("Resend-Idempotency-Key: {}-{asked}\r\n", outgoing.idempotency_key);
    Outgoing { bytes: [field.as_bytes(), &outgoing.bytes].concat().into(), ..outgoing.clone() }
}

fn outcome_of(unconnected: Unconnected) -> Outcome {
    match unconnected {
        Unconnected::NotNow(answer) => Outcome::Transient { answer, retry_after: None, counts: true },
        Unconnected::Misconfigured(reason) => closed(&reason),
    }
}

fn closed(reason: &str) -> Outcome {
    Outcome::Closed { reason: Answer::new("", reason).text, retry_after: OPERATOR_RETRY }
}
