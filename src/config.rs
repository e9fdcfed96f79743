//! Configuration: one TOML file into one typed struct, secrets from the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;

use crate::domain::credits::Unit;
use crate::domain::sender::SenderPolicy;

/// Everything in the file. Every field has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where SQLite lives.
    pub data_dir: PathBuf,
    /// `postgres://…`; refused for now with a clear error.
    pub database_url: Option<String>,
    /// The SMTP side.
    pub smtp: Smtp,
    /// The HTTP side.
    pub http: Http,
    /// Money.
    pub billing: Billing,
    /// Who may send as whom.
    pub senders: Senders,
    /// Where mail leaves.
    pub upstream: UpstreamConfig,
    /// Bounces and notices.
    pub notices: Notices,
    /// The durable queue.
    pub queue: Queue,
}

/// `[smtp]`
#[derive(Debug, Clone, Deserialize)]
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
    /// Most connections from one address.
    pub max_connections_per_ip: usize,
    /// CIDRs that may speak the PROXY protocol.
    pub trusted_proxies: Vec<IpNet>,
    /// Longest wait for a command, in seconds (RFC 5321 §4.5.3.2 asks for 300).
    pub idle_timeout_s: u64,
    /// Longest time a message may take to arrive, in seconds.
    pub data_timeout_s: u64,
    /// Longest life of a session that has not signed in, in seconds.
    pub unauthenticated_timeout_s: u64,
    /// Refused commands before the connection is closed.
    pub max_errors: u32,
    /// Octets of messages that may be in memory while they arrive, all connections together.
    pub max_bytes_arriving: usize,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where the HTTP side listens. `PORT` in the environment replaces its port.
    pub listen: SocketAddr,
    /// Another address for `/metrics`; unset: on `listen`.
    pub metrics_listen: Option<SocketAddr>,
}

/// `[billing]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Billing {
    /// What is charged.
    pub unit: Unit,
    /// Older than this: refreshed in the background; 0: read live at every MAIL.
    pub balance_max_age_s: u64,
    /// A balance older than this is not used when Dodo does not answer.
    pub outage_max_age_h: u64,
    /// A notice is mailed once when available falls below; armed again above.
    pub low_balance_credits: u64,
    /// 452 or 550.
    pub out_of_credit_reply: OutOfCreditReply,
    /// Give a credit back for a hard bounce.
    pub refund_bounced: bool,
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
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Senders {
    /// Listed or any.
    pub policy: SenderPolicy,
    /// Each new customer gets one address at this domain.
    pub starter_domain: Option<String>,
}

/// `[upstream]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Resend or an SMTP server.
    pub kind: UpstreamKind,
    /// What carries what Resend cannot.
    pub fallback: Fallback,
    /// An SMTP upstream without TLS; loopback only.
    pub allow_plaintext: bool,
    /// Parts being sent at the same time.
    pub max_concurrency: usize,
    /// Octets of messages in memory for delivery.
    pub max_bytes_in_flight: usize,
    /// Longest wait for one call, in seconds.
    pub timeout_s: u64,
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
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// What Resend cannot carry is refused.
    #[default]
    None,
    /// It goes through the SMTP server.
    Smtp,
}

/// `[notices]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// `Name <address>` of bounces and notices; must be a verified sender of the upstream.
    pub from: Option<String>,
}

/// `[queue]`
#[derive(Debug, Clone, Deserialize)]
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
}

/// What comes from the environment (or from the file that `NAME_FILE` names).
#[derive(Debug, Clone)]
pub struct Secrets {
    /// `DODO_PAYMENTS_API_KEY`
    pub dodo_api_key: SecretString,
    /// `DODO_WEBHOOK_KEY`, one or several
    pub dodo_webhook_keys: Vec<SecretString>,
    /// From `DODO_PAYMENTS_BASE_URL`, or by `DODO_PAYMENTS_ENVIRONMENT`
    pub dodo_base_url: String,
    /// `CREDIT_ENTITLEMENT_ID`
    pub credit_entitlement_id: String,
    /// `PLAN_PRODUCT_ID`
    pub plan_product_id: String,
    /// `TOPUP_PRODUCT_ID`
    pub topup_product_id: String,
    /// `RESEND_API_KEY`; needed where `upstream.kind` is `resend`
    pub resend_api_key: Option<SecretString>,
    /// `RESEND_BASE_URL`, default `https://api.resend.com`
    pub resend_base_url: String,
    /// `RESEND_WEBHOOK_SECRET`
    pub resend_webhook_secrets: Vec<SecretString>,
    /// `BASE_URL`: the public URL of the HTTP side, without a slash at the end
    pub base_url: String,
    /// `POSTMETER_ADMIN_TOKEN`; unset: the operator's routes refuse everyone
    pub admin_token: Option<SecretString>,
    /// `UPSTREAM_SMTP_URL`; needed where an SMTP upstream is configured
    pub upstream_smtp_url: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            database_url: None,
            smtp: Smtp::default(),
            http: Http::default(),
            billing: Billing::default(),
            senders: Senders::default(),
            upstream: UpstreamConfig::default(),
            notices: Notices::default(),
            queue: Queue::default(),
        }
    }
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            submission: vec![SocketAddr::from(([0, 0, 0, 0], 587))],
            submissions: vec![SocketAddr::from(([0, 0, 0, 0], 465))],
            tls_cert: PathBuf::from("certs/fullchain.pem"),
            tls_key: PathBuf::from("certs/privkey.pem"),
            max_message_bytes: 26_214_400,
            max_recipients: 50,
            max_connections: 10_000,
            max_connections_per_ip: 100,
            trusted_proxies: Vec::new(),
            idle_timeout_s: 300,
            data_timeout_s: 600,
            unauthenticated_timeout_s: 60,
            max_errors: 20,
            max_bytes_arriving: 512 << 20,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 3000)), metrics_listen: None }
    }
}

impl Default for Billing {
    fn default() -> Self {
        Self {
            unit: Unit::Message,
            balance_max_age_s: 30,
            outage_max_age_h: 24,
            low_balance_credits: 1_000,
            out_of_credit_reply: OutOfCreditReply::Temporary,
            refund_bounced: false,
            top_up_url: None,
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            kind: UpstreamKind::Resend,
            fallback: Fallback::None,
            allow_plaintext: false,
            max_concurrency: 64,
            max_bytes_in_flight: 256 << 20,
            timeout_s: 60,
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { retry_min_s: 30, retry_max_s: 14_400, lifetime_h: 48, lease_s: 30 }
    }
}
