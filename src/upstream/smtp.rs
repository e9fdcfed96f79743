//! An upstream SMTP server: one transaction a part (RFC 5321).
//!
//! Every recipient has an answer of its own, so the server is spoken to command by
//! command. `url` reads the addresses, `hosts` says which is tried first, `wire` and
//! `connection` make the way to one, `kept` holds it for the next part, and
//! `transaction` sends one part over it. What this module must not know: SQL, money,
//! when to try again.

mod connection;
mod hosts;
mod kept;
mod reply;
mod stuffing;
mod transaction;
mod url;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};

pub use kept::Reuse;
pub use url::{InvalidSmtpUrl, check_urls};

use super::{Answer, Outcome, Outgoing};
use crate::clock::Clock;
use crate::dkim::{Signer, Unsigned};
use crate::domain::digest::sha256_hex;
use connection::{Connection, Destination, Unconnected};
use hosts::Hosts;
use kept::Kept;
use transaction::{Ended, Mail, Uncarried};
use url::SmtpUrl;

/// How long to leave a door alone that only the operator can open.
const OPERATOR_RETRY: Duration = Duration::from_secs(300);
/// The field by which webhooks name a mail that left by Resend's own service: its value is the
/// key of the part's call. A part may leave as several mails, for some of its recipients each or
/// since an answer was lost, and what ends a doubt, or a try of fewer than are asked for, ends a
/// key: so it says which mail it is. No client can set it: their fields of such a name do not leave.
pub const PART_FIELD: &str = "X-Postmeter-Part";
/// A message of more octets is not signed where others wait for their turn.
const LARGE_BYTES: usize = 256 << 10;

/// What the client needs to be told.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// `UPSTREAM_SMTP_URL`: `smtps://user:pass@host:465`, or
    /// `smtp://user:pass@host:587?tls=required` for STARTTLS; several with white space
    /// between them, the preferred one first. User and password are percent-encoded.
    /// `ca=PATH` names a PEM file whose certificates are trusted besides the public
    /// ones. `tls=none` sends in the clear, as does `smtp://` without `tls` where
    /// `allow_plaintext` is set; both only to this machine's loopback.
    pub url: SecretString,
    /// `upstream.allow_plaintext`.
    pub allow_plaintext: bool,
    /// Our name in EHLO.
    pub hostname: String,
    /// Longest wait for a connection, and for the reply to a command. A message
    /// with its final dot has ten minutes at least (RFC 5321 §4.5.3.2.6): who
    /// gives up sooner sends twice.
    pub timeout: Duration,
    /// How long a connection is used.
    pub reuse: Reuse,
    /// Signs what it has a key for; nothing of what Resend's own service gets, which signs itself.
    pub signer: Arc<Signer>,
    /// The time of the signature.
    pub clock: Clock,
    /// It is Resend's own service, which knows a message that it got before by the
    /// field `Resend-Idempotency-Key`, and tells of it with [`PART_FIELD`].
    pub is_resend: bool,
}

/// The client. Clones share their connections and what they know of the hosts.
#[derive(Clone)]
pub struct SmtpUpstream(Arc<Inner>);

struct Inner {
    hosts: Vec<Host>,
    /// Which of them to try first.
    known: Mutex<Hosts>,
    is_resend: bool,
    signer: Arc<Signer>,
    clock: Clock,
}

struct Host {
    destination: Destination,
    kept: Kept,
}

/// What `check` found out about one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChecked {
    /// `host:port`.
    pub host: String,
    /// Whether it can be reached, shows a certificate that is trusted and takes the
    /// credentials; if not, why, for the operator.
    pub found: Result<(), String>,
}

impl fmt::Debug for SmtpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&SmtpUrl> = self.0.hosts.iter().map(|host| &host.destination.url).collect();
        f.debug_struct("SmtpUpstream").field("urls", &urls).finish_non_exhaustive()
    }
}

impl SmtpUpstream {
    /// A client; no connection is made. Reads the `ca` files, if there are any.
    pub fn new(settings: &SmtpSettings) -> Result<Self, InvalidSmtpUrl> {
        let urls = SmtpUrl::parse_all(settings.url.expose_secret(), settings.allow_plaintext)?;
        let hosts = urls.into_iter().map(|url| Host::new(url, settings)).collect::<Result<Vec<_>, _>>()?;
        let known = Mutex::new(Hosts::new(hosts.len()));
        let (signer, clock) = (Arc::clone(&settings.signer), settings.clock.clone());
        Ok(Self(Arc::new(Inner { hosts, known, is_resend: settings.is_resend, signer, clock })))
    }

    /// Whether it is Resend's own service.
    pub fn is_resend(&self) -> bool {
        self.0.is_resend
    }

    /// Sends a part to those of its recipients that a server takes: the first host
    /// that lets us in. What a host has answered to a message counts, and no other is
    /// asked; nor is one after a final dot to which no answer came.
    pub async fn send(&self, outgoing: &Outgoing) -> Outcome {
        let head = match self.head(outgoing).await {
            Ok(head) => head,
            Err(unsigned) => {
                let answer = Answer::new("4.3.0", &unsigned.to_string());
                return Outcome::Transient { answer, retry_after: None, counts: true };
            }
        };
        // What one host cannot carry, another may.
        let uncarried = if self.0.hosts.len() == 1 { Uncarried::Refused } else { Uncarried::Elsewhere };
        let mail = Mail { outgoing, head: &head, uncarried };
        let (mut passed_over, mut unfit) = (Vec::new(), None);
        let order = self.known().order(Instant::now());
        for number in order {
            match self.send_through(number, mail).await {
                Ok(outcome) => return outcome,
                Err(Unconnected::Unfit) => unfit = unfit.or(Some(number)),
                Err(unconnected) => passed_over.push(unconnected),
            }
        }
        if let Some(number) = unfit {
            let uncarried = if passed_over.is_empty() { Uncarried::Refused } else { Uncarried::Deferred };
            match self.send_through(number, Mail { uncarried, ..mail }).await {
                Ok(outcome) => return outcome,
                Err(unconnected) => passed_over.push(unconnected),
            }
        }
        outcome_of(&passed_over)
    }

    /// Sends it through one host, and learns from what comes of that.
    async fn send_through(&self, number: usize, mail: Mail<'_>) -> Result<Outcome, Unconnected> {
        let Some(host) = self.0.hosts.get(number) else { return Err(Unconnected::Unfit) };
        let sent = host.send(mail).await;
        match &sent {
            Ok(outcome) => {
                self.answered(number, host);
                self.tell(host, mail.outgoing, outcome);
            }
            Err(Unconnected::Unfit) => self.answered(number, host),
            Err(unconnected) => self.failed(number, host, unconnected),
        }
        sent
    }

    /// Asks every host, in the order of preference.
    pub async fn check(&self) -> Vec<HostChecked> {
        let mut checked = Vec::with_capacity(self.0.hosts.len());
        for Host { destination, .. } in &self.0.hosts {
            let found = match Connection::open(destination).await {
                Ok(connection) => {
                    connection.leave().await;
                    Ok(())
                }
                Err(unconnected) => Err(unconnected.reason().to_owned()),
            };
            checked.push(HostChecked { host: destination.url.to_string(), found });
        }
        checked
    }

    /// The fields to put in front of the message: for Resend its key and ours, or our signatures.
    async fn head(&self, outgoing: &Outgoing) -> Result<Vec<u8>, Unsigned> {
        if self.0.is_resend {
            let part_field = format!("{PART_FIELD}: {}\r\n", outgoing.idempotency_key);
            Ok((key_field(outgoing) + &part_field).into_bytes())
        } else {
            self.signatures(&outgoing.bytes).await
        }
    }

    /// Every octet of the message is hashed, which takes a while for a large one.
    async fn signatures(&self, message: &Bytes) -> Result<Vec<u8>, Unsigned> {
        let (signer, now) = (Arc::clone(&self.0.signer), self.0.clock.now());
        if message.len() <= LARGE_BYTES || signer.is_empty() {
            return signer.sign(message, now);
        }
        let message = message.clone();
        tokio::task::spawn_blocking(move || signer.sign(&message, now)).await.unwrap_or(Err(Unsigned))
    }

    /// With one host there is nothing to choose: the attempt's own line tells all.
    fn tell(&self, host: &Host, outgoing: &Outgoing, outcome: &Outcome) {
        let is_taken = matches!(outcome, Outcome::Answered { upstream_id: Some(_), .. });
        if is_taken && self.0.hosts.len() > 1 {
            let (part_id, host) = (&outgoing.part_id, &host.destination.url);
            tracing::info!(%part_id, %host, "this upstream host took the mail");
        }
    }

    fn answered(&self, number: usize, host: &Host) {
        let is_back = self.known().answered(number);
        if is_back && self.0.hosts.len() > 1 {
            tracing::info!(host = %host.destination.url, "an upstream host is back");
        }
    }

    fn failed(&self, number: usize, host: &Host, why: &Unconnected) {
        let is_news = self.known().failed(number, Instant::now());
        if is_news && self.0.hosts.len() > 1 {
            let host = &host.destination.url;
            tracing::warn!(%host, reason = ?why.reason(), "an upstream host is passed over for a while");
        }
    }

    fn known(&self) -> MutexGuard<'_, Hosts> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn new(url: SmtpUrl, settings: &SmtpSettings) -> Result<Self, InvalidSmtpUrl> {
        let tls = url.tls_config()?;
        let SmtpSettings { hostname, timeout, reuse, .. } = settings;
        let destination = Destination { url, tls, hostname: hostname.clone(), timeout: *timeout };
        Ok(Self { destination, kept: Kept::new(*reuse) })
    }

    /// Sends the part over a connection to this host. `Err`: nothing was accepted, and
    /// another host may be asked.
    ///
    /// A connection that was kept may have been closed by the server meanwhile, or be
    /// one that it has had enough of; a new one is made then.
    async fn send(&self, mail: Mail<'_>) -> Result<Outcome, Unconnected> {
        if let Some(connection) = self.kept.take().await {
            match self.send_over(connection, mail).await {
                Ended::With(outcome) => return Ok(self.answering(outcome)),
                Ended::Unfit => return Err(Unconnected::Unfit),
                Ended::Early(_) | Ended::Unwanted(_) => {}
            }
        }
        let connection = Connection::open(&self.destination).await?;
        match self.send_over(connection, mail).await {
            Ended::With(outcome) => Ok(self.answering(outcome)),
            Ended::Unfit => Err(Unconnected::Unfit),
            Ended::Early(answer) => Err(Unconnected::NotNow(answer)),
            Ended::Unwanted(reason) => Err(Unconnected::Misconfigured(reason)),
        }
    }

    /// The same with whose answers these are.
    fn answering(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Answered { upstream_id, answers, .. } => {
                Outcome::Answered { upstream_id, answers, host: Some(self.destination.url.host.clone()) }
            }
            other => other,
        }
    }

    async fn send_over(&self, mut connection: Connection, mail: Mail<'_>) -> Ended {
        let ended = transaction::send(&mut connection, mail).await;
        if connection.settle().await {
            self.kept.keep(connection).await;
        }
        ended
    }
}

/// The key under which Resend knows the message: that of the part, with who is asked for.
/// A later try for those who are left is another mail to Resend, or it would take it for
/// the first one.
fn key_field(outgoing: &Outgoing) -> String {
    let mut recipients: Vec<String> = outgoing.recipients.iter().map(ToString::to_string).collect();
    recipients.sort_unstable();
    let asked: String = sha256_hex(recipients.join("\n").as_bytes()).chars().take(16).collect();
    format!("Resend-Idempotency-Key: {}-{asked}\r\n", outgoing.idempotency_key)
}

/// Nobody took us. The queue waits if somebody may do so later; the gate closes if
/// only the operator can mend all of them.
fn outcome_of(passed_over: &[Unconnected]) -> Outcome {
    let later = passed_over.iter().find_map(|unconnected| match unconnected {
        Unconnected::NotNow(answer) => Some(answer.clone()),
        Unconnected::Misconfigured(_) | Unconnected::Unfit => None,
    });
    if let Some(answer) = later {
        return Outcome::Transient { answer, retry_after: None, counts: true };
    }
    let reasons: Vec<&str> = passed_over.iter().map(Unconnected::reason).collect();
    Outcome::Closed { reason: Answer::new("", &reasons.join("; ")).text, retry_after: OPERATOR_RETRY }
}
