//! Configuration: one TOML file into one typed struct, secrets from the environment.
//!
//! Everything that can be wrong is said at once, one line a problem, so that an
//! operator repairs a file in one round. Secrets never stand in the file: it is
//! copied, pasted and shown. This room must not know who uses a setting, nor ask
//! the network whether a value is true; `postmeter check` does that.

mod database_url;
mod defaults;
mod load;
mod notices_from;
mod secrets;
#[cfg(test)]
mod tests;
mod validate;
mod web_url;

pub use database_url::DatabaseUrl;
pub use load::{ConfigError, Problem};
pub use notices_from::NoticesFrom;
pub use secrets::{MissingEnv, Secrets};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::dkim::KeySetting;
use crate::domain::address::InvalidAddress;
use crate::domain::credits::Unit;
use crate::domain::reputation::Thresholds;
use crate::domain::sender::SenderPolicy;
use crate::door::Network;
use crate::floor::Floor;
use crate::upstream::resend::domains::Region;
use crate::upstream::smtp::Reuse;

/// A request to `/send` is in memory so many times over: as what arrives, what is read
/// out of it, and the message that is made of that.
pub const REQUEST_IN_MEMORY: usize = 3;
/// Octets of such a request beside its attachments and texts.
const REQUEST_SLACK_BYTES: usize = 64 << 10;

/// Everything in the file. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where SQLite lives, unless there is a `database_url`.
    pub data_dir: PathBuf,
    /// `postgres://…`: where PostgreSQL is. `DATABASE_URL` of the environment goes before it.
    pub database_url: Option<DatabaseUrl>,
    /// The SMTP side.
    pub smtp: Smtp,
    /// The HTTP side.
    pub http: Http,
    /// What SMTP and HTTP count together.
    pub limits: Limits,
    /// Money.
    pub billing: Billing,
    /// Who may send as whom.
    pub senders: Senders,
    /// Where mail leaves.
    pub upstream: UpstreamConfig,
    /// When a customer is paused.
    pub reputation: Thresholds,
    /// Bounces and notices.
    pub notices: Notices,
    /// The durable queue.
    pub queue: Queue,
    /// Keys that sign what leaves by SMTP, one `[[dkim]]` each.
    pub dkim: Vec<KeySetting>,
    /// How long clients are still served after SIGTERM, in seconds, while `/readyz` says that
    /// they belong elsewhere.
    pub drain_s: u64,
}

/// `[smtp]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// Our name in the banner, EHLO and Received.
    pub hostname: String,
    /// STARTTLS listeners.
    pub submission: Vec<SocketAddr>,
    /// Implicit TLS listeners.
    pub submissions: Vec<SocketAddr>,
    /// PEM chain.
    pub tls_cert: PathBuf,
    /// PEM key.
    pub tls_key: PathBuf,
    /// Largest message, in octets.
    pub max_message_bytes: usize,
    /// Most recipients of one message.
    pub max_recipients: usize,
    /// Most connections in all.
    pub max_connections: usize,
    /// Most connections from one address (IPv6: one /64; one /48 may have an eighth of all).
    pub max_connections_per_ip: usize,
    /// Most sessions that one customer may have signed in at the same time.
    pub max_sessions_per_customer: usize,
    /// Networks whose connections begin with a PROXY header, on every listener.
    pub trusted_proxies: Vec<Network>,
    /// Longest TLS handshake, and longest wait for a PROXY header, in seconds.
    pub handshake_timeout_s: u64,
    /// Longest wait for a command, in seconds (RFC 5321 §4.5.3.2 asks for 300).
    pub idle_timeout_s: u64,
    /// Longest time a message may take to arrive, in seconds. Clients are asked for progress,
    /// by `min_bytes_per_s` (RFC 5321 §4.5.3.2.5 has no limit in all); this one bounds how
    /// long they keep a place and what is written ahead for them.
    pub data_timeout_s: u64,
    /// Longest life of a session that has not signed in, in seconds.
    pub unauthenticated_timeout_s: u64,
    /// Longest wait for a client to take what it is told, in seconds.
    pub write_timeout_s: u64,
    /// The least that must arrive of a message on average, in octets a second; 0: anything.
    pub min_bytes_per_s: u64,
    /// How long a message may arrive slower than that, in seconds.
    pub min_bytes_grace_s: u64,
    /// Refused commands before the connection is closed.
    pub max_errors: u32,
    /// Failed sign-ins before the connection is closed.
    pub max_sign_in_failures: u32,
    /// Commands between two messages that bring no message nearer, before the connection is closed.
    pub max_idle_commands: u32,
    /// Octets of messages that may be in memory while they arrive, over SMTP and HTTP, all together.
    pub max_bytes_arriving: usize,
    /// The same of one customer.
    pub max_bytes_arriving_per_customer: usize,
    /// Octets of large messages that may lie on disk before they are accepted, over SMTP and HTTP, all together.
    pub max_bytes_spooled: usize,
    /// The same of one customer.
    pub max_bytes_spooled_per_customer: usize,
}

impl Smtp {
    /// Octets of the largest request to `/send`. Attachments come in base64: four octets
    /// for three.
    pub fn max_request_bytes(&self) -> usize {
        let message = self.max_message_bytes.saturating_div(3).saturating_mul(4);
        message.saturating_add(REQUEST_SLACK_BYTES)
    }

    /// How slowly a message may arrive.
    pub fn floor(&self) -> Floor {
        Floor { bytes_per_s: self.min_bytes_per_s, grace: Duration::from_secs(self.min_bytes_grace_s) }
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where the HTTP side listens. `PORT` in the environment replaces its port.
    pub listen: SocketAddr,
    /// Another address for `/metrics`; unset: on `listen`. The PROXY protocol is not spoken there.
    pub metrics_listen: Option<SocketAddr>,
    /// Most connections in all; more wait.
    pub max_connections: usize,
    /// The same as that of SMTP; `forwarding_proxies` have no such limit.
    pub max_connections_per_ip: usize,
    /// The same as `smtp.trusted_proxies`, which holds where this is unset.
    pub trusted_proxies: Option<Vec<Network>>,
    /// Longest wait for a request's header, the time between two requests included, in seconds.
    pub header_timeout_s: u64,
    /// Networks whose `X-Forwarded-For` says who asks.
    pub forwarding_proxies: Vec<Network>,
}

/// `[limits]`: of SMTP and HTTP together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Messages a second of one customer; 0: as fast as they come.
    pub messages_per_s: u32,
    /// Messages at once before that holds.
    pub messages_burst: u32,
    /// Failed sign-ins of one username from one address.
    pub sign_in_failures: u32,
    /// Failed sign-ins of all usernames from one address.
    pub sign_in_failures_per_address: u32,
    /// Failed sign-ins of one username from all addresses.
    pub sign_in_failures_per_username: u32,
    /// One failure is forgiven each so many seconds.
    pub sign_in_forgive_s: u64,
    /// Longest wait for the answer to a failure, in seconds.
    pub sign_in_max_delay_s: u64,
}

/// `[billing]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Billing {
    /// What is charged.
    pub unit: Unit,
    /// Older than this: refreshed in the background; 0: read live at every MAIL.
    pub balance_max_age_s: u64,
    /// A balance older than this is not used when Dodo does not answer.
    pub outage_max_age_h: u64,
    /// So long after a lost answer an entry is posted again under its key; later it
    /// is looked up in Dodo's ledger instead, since the key may be forgotten.
    pub key_lifetime_s: u64,
    /// So long after its last call an entry that Dodo's ledger does not show is
    /// taken for not applied.
    pub lookup_wait_s: u64,
    /// How often the server compares the sums in its books with their rows.
    pub audit_interval_s: u64,
    /// A notice is mailed once when available falls below; armed again above.
    pub low_balance_credits: u64,
    /// The longest wait for one call to Dodo.
    pub dodo_timeout_s: u64,
    /// 452 or 550.
    pub out_of_credit_reply: OutOfCreditReply,
    /// Give a credit back for a hard bounce.
    pub refund_bounced: bool,
    /// Suspend a customer of whom Dodo tells that a payment was refunded.
    pub suspend_on_refund: bool,
    /// Suspend a customer of whom Dodo tells that a payment is disputed.
    pub suspend_on_dispute: bool,
    /// Where customers buy credits, as told in refusals; default: `BASE_URL`.
    pub top_up_url: Option<String>,
}

/// `billing.out_of_credit_reply`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "u16")]
pub enum OutOfCreditReply {
    /// `452 4.7.1`: a queueing client keeps the mail and a top-up rescues it.
    #[default]
    Temporary,
    /// `550 5.7.1`.
    Permanent,
}

impl TryFrom<u16> for OutOfCreditReply {
    type Error = String;

    fn try_from(code: u16) -> Result<Self, String> {
        match code {
            452 => Ok(Self::Temporary),
            550 => Ok(Self::Permanent),
            other => Err(format!("out_of_credit_reply is {other}; it can be 452 or 550")),
        }
    }
}

/// `[senders]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Senders {
    /// Listed or any.
    pub policy: SenderPolicy,
    /// Each new customer gets one address at this domain.
    pub starter_domain: Option<String>,
    /// Whether customers add domains by themselves, and who is asked for the proof.
    pub proof: ProofBy,
    /// Where Resend sends from for domains that customers add from now on; unset: Resend decides.
    pub resend_region: Option<Region>,
    /// The DNS server that is asked; unset: the system's.
    pub resolver: Option<SocketAddr>,
    /// Domains of one customer.
    pub max_domains: u32,
    /// Domains that one customer may add in a day.
    pub max_domains_per_day: u32,
}

/// `senders.proof`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofBy {
    /// The operator alone allows senders.
    #[default]
    None,
    /// Resend, to whose account a domain is added.
    Resend,
    /// The domain's DNS, for a record of ours.
    Dns,
}

/// `[upstream]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Resend or an SMTP server.
    pub kind: UpstreamKind,
    /// What carries what Resend cannot.
    pub fallback: Fallback,
    /// An SMTP upstream without TLS; loopback only.
    pub allow_plaintext: bool,
    /// Parts being sent alone at the same time, two at least; large ones are half of them at
    /// most. Calls to Resend with several have half as many places besides.
    pub max_concurrency: usize,
    /// Octets in memory for delivery: of messages, and where they leave by Resend of the
    /// requests that are made of them and take their room. Half of them are for large ones,
    /// of which the largest must fit in it.
    pub max_bytes_in_flight: usize,
    /// Octets in memory for the translation of large messages, before they are accepted and
    /// before each call; with what their requests are larger than they.
    pub max_bytes_translating: usize,
    /// Longest wait for one call, in seconds.
    pub timeout_s: u64,
    /// Messages over one connection to an SMTP upstream.
    pub max_messages_per_connection: u32,
    /// How old a connection to an SMTP upstream may be when a message begins, in seconds.
    pub max_connection_age_s: u64,
    /// How long a connection to an SMTP upstream waits for the next message, in seconds; 0: it does not.
    pub max_connection_idle_s: u64,
}

/// `upstream.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    /// Resend's API.
    #[default]
    Resend,
    /// An SMTP server.
    Smtp,
}

/// `upstream.fallback`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// What Resend cannot carry is refused.
    #[default]
    None,
    /// It goes through the SMTP server.
    Smtp,
    /// It goes through Resend's own SMTP service, with the same key.
    ResendSmtp,
}

/// `[notices]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// `Name <address>` of bounces and notices; must be a verified sender of the
    /// upstream. [`Config::notices_from`] gives it parsed.
    pub from: Option<String>,
    /// Whether we report by mail to whoever asks (NOTIFY=SUCCESS) that mail was handed on to an
    /// upstream that does not. [`Config::success_reports`] says what holds where it is unset.
    pub success_reports: Option<bool>,
    /// Whether a new customer is greeted.
    pub welcome: bool,
    /// Whether a customer is told that credits run low.
    pub low_balance: bool,
    /// Whether a customer is told that mail was refused for lack of credit.
    pub out_of_credit: bool,
    /// Whether a customer is told that a payment was received.
    pub top_up: bool,
    /// Whether a customer is told that they are paused for what came back of their mail.
    pub bounced: bool,
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// First wait between attempts.
    pub retry_min_s: u64,
    /// Longest wait between attempts.
    pub retry_max_s: u64,
    /// How long a message is tried, in hours.
    pub lifetime_h: u64,
    /// How long a worker may be silent about a part.
    pub lease_s: u64,
    /// How long the row of a message stays in the log after its end, in days; 0: until it is settled.
    pub keep_log_days: u64,
    /// Large messages are refused while the disk of `data_dir` has less free, in octets.
    pub min_free_bytes: u64,
}

impl UpstreamConfig {
    /// How long a connection to an SMTP upstream is used.
    pub fn reuse(&self) -> Reuse {
        Reuse {
            max_messages: self.max_messages_per_connection,
            max_age: Duration::from_secs(self.max_connection_age_s),
            max_idle: Duration::from_secs(self.max_connection_idle_s),
        }
    }
}

impl Config {
    /// Every key with its default, its unit and what it means: a file that can be
    /// copied and changed. Loading it as it is gives [`Config::default`].
    pub const EXAMPLE: &str = include_str!("example.toml");

    /// Whether mail leaves through Resend.
    pub fn uses_resend(&self) -> bool {
        self.upstream.kind == UpstreamKind::Resend
    }

    /// Whether successes are reported: `notices.success_reports`, or else only where no mail
    /// leaves through Resend, of which each report costs the operator one.
    pub fn success_reports(&self) -> bool {
        self.notices.success_reports.unwrap_or(!self.uses_resend())
    }

    /// Whether mail leaves, all of it or what Resend cannot carry, through an SMTP server.
    pub fn uses_smtp(&self) -> bool {
        self.upstream.kind == UpstreamKind::Smtp || self.upstream.fallback != Fallback::None
    }

    /// Whether that server is Resend's own.
    pub fn uses_resend_smtp(&self) -> bool {
        self.uses_resend() && self.upstream.fallback == Fallback::ResendSmtp
    }

    /// Whose connections to the HTTP side begin with a PROXY header.
    pub fn http_trusted_proxies(&self) -> &[Network] {
        self.http.trusted_proxies.as_deref().unwrap_or(&self.smtp.trusted_proxies)
    }

    /// Who bounces and notices come from: `notices.from`, or else
    /// `Postmeter <postmaster@HOSTNAME>`. A loaded configuration never errs here.
    pub fn notices_from(&self) -> Result<NoticesFrom, InvalidAddress> {
        match &self.notices.from {
            Some(from) => NoticesFrom::parse(from),
            None => NoticesFrom::postmaster(&self.smtp.hostname),
        }
    }

    /// What is allowed and yet worth a second look, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut proxies = self.smtp.trusted_proxies.iter().chain(self.http_trusted_proxies());
        let doubts = [
            (
                proxies.any(Network::is_everybody),
                "trusted_proxies names every address there is: whoever connects may claim to be anybody; \
                 name your proxies alone",
            ),
            (
                self.billing.unit == Unit::Message && self.smtp.max_recipients > 1 && self.uses_resend(),
                "billing.unit is \"message\" and smtp.max_recipients is more than 1: Resend counts each \
                 recipient, your customers pay for each message; set unit = \"recipient\" or \
                 max_recipients = 1 if that loses money",
            ),
            (
                self.smtp.hostname == "localhost",
                "smtp.hostname is \"localhost\": set it to the name that customers connect to",
            ),
            (
                self.notices.from.is_none(),
                "notices.from is not set: bounces and notices come from postmaster at smtp.hostname, which \
                 the upstream must accept as a sender",
            ),
            (
                self.upstream.allow_plaintext && !self.uses_smtp(),
                "upstream.allow_plaintext does nothing without an SMTP upstream: remove it",
            ),
            (
                self.senders.proof == ProofBy::Dns && self.uses_resend(),
                "senders.proof is \"dns\" and mail leaves through Resend, which refuses domains that are not \
                 verified in your account: set proof = \"resend\", or add each domain there yourself",
            ),
            (
                self.senders.proof != ProofBy::Resend && self.senders.resend_region.is_some(),
                "senders.resend_region does nothing unless senders.proof is \"resend\": remove it",
            ),
            (
                self.senders.proof != ProofBy::Dns && self.senders.resolver.is_some(),
                "senders.resolver does nothing unless senders.proof is \"dns\": remove it",
            ),
            (
                self.upstream.kind == UpstreamKind::Smtp && self.upstream.fallback != Fallback::None,
                "upstream.fallback does nothing where upstream.kind is \"smtp\": remove it",
            ),
            (
                !self.dkim.is_empty() && (!self.uses_smtp() || self.uses_resend_smtp()),
                "dkim does nothing without an SMTP upstream of your own: Resend signs what it sends itself",
            ),
        ];
        doubts.into_iter().filter(|(doubtful, _)| *doubtful).map(|(_, text)| text.to_owned()).collect()
    }
}
