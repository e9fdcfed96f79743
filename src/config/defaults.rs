//! What holds where the file is silent. `example.toml` shows the same values to
//! the operator; a test keeps the two alike.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{
    Billing, Config, Fallback, Http, Limits, Notices, OutOfCreditReply, ProofBy, Queue, Senders, Smtp,
    UpstreamConfig, UpstreamKind,
};
use crate::domain::credits::Unit;
use crate::domain::reputation::Thresholds;
use crate::domain::sender::SenderPolicy;
use crate::door::Network;

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            database_url: None,
            smtp: Smtp::default(),
            http: Http::default(),
            limits: Limits::default(),
            billing: Billing::default(),
            senders: Senders::default(),
            upstream: UpstreamConfig::default(),
            notices: Notices::default(),
            reputation: Thresholds::default(),
            queue: Queue::default(),
            dkim: Vec::new(),
            drain_s: 0,
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
            max_sessions_per_customer: 1_000,
            trusted_proxies: Vec::new(),
            handshake_timeout_s: 15,
            idle_timeout_s: 300,
            data_timeout_s: 3_600,
            unauthenticated_timeout_s: 60,
            write_timeout_s: 20,
            min_bytes_per_s: 1_024,
            min_bytes_grace_s: 60,
            max_errors: 20,
            max_sign_in_failures: 5,
            max_idle_commands: 1_000,
            max_bytes_arriving: 512 << 20,
            max_bytes_arriving_per_customer: 128 << 20,
            max_bytes_spooled: 3 << 30,
            max_bytes_spooled_per_customer: 1 << 30,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 3000)),
            metrics_listen: None,
            max_connections: 4_096,
            max_connections_per_ip: 256,
            trusted_proxies: None,
            header_timeout_s: 75,
            forwarding_proxies: vec![Network::LOOPBACK_V4, Network::LOOPBACK_V6],
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // What a customer has paid for may come as fast as the machine takes it.
            messages_per_s: 0,
            messages_burst: 1_000,
            sign_in_failures: 10,
            sign_in_failures_per_address: 50,
            sign_in_failures_per_username: 100,
            sign_in_forgive_s: 60,
            sign_in_max_delay_s: 5,
        }
    }
}

impl Default for Billing {
    fn default() -> Self {
        Self {
            unit: Unit::Message,
            balance_max_age_s: 30,
            outage_max_age_h: 24,
            key_lifetime_s: 82_800,
            lookup_wait_s: 600,
            audit_interval_s: 3_600,
            low_balance_credits: 1_000,
            dodo_timeout_s: 20,
            out_of_credit_reply: OutOfCreditReply::Temporary,
            refund_bounced: false,
            suspend_on_refund: false,
            suspend_on_dispute: false,
            top_up_url: None,
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            from: None,
            success_reports: None,
            welcome: true,
            low_balance: true,
            out_of_credit: true,
            top_up: true,
            bounced: true,
        }
    }
}

impl Default for Senders {
    fn default() -> Self {
        Self {
            policy: SenderPolicy::Listed,
            starter_domain: None,
            proof: ProofBy::None,
            resend_region: None,
            resolver: None,
            max_domains: 10,
            max_domains_per_day: 20,
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
            max_bytes_translating: 128 << 20,
            timeout_s: 60,
            max_messages_per_connection: 100,
            max_connection_age_s: 300,
            max_connection_idle_s: 60,
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            retry_min_s: 30,
            retry_max_s: 14_400,
            lifetime_h: 48,
            lease_s: 30,
            keep_log_days: 30,
            min_free_bytes: 64 << 20,
        }
    }
}
