//! What the types of the file cannot say: values that are possible and senseless.
//!
//! Pure, over the whole struct, so that every problem is found in one pass.

use std::collections::HashSet;

use super::{
    Billing, Config, DatabaseUrl, Http, Limits, ProofBy, Queue, REQUEST_IN_MEMORY, Smtp, UpstreamConfig,
    UpstreamKind, web_url,
};
use crate::dkim::KeySetting;
use crate::domain::address::Domain;
use crate::domain::credits::MAX_CREDITS;
use crate::domain::reputation::Thresholds;

/// Every client may send messages of this size (RFC 5321 §4.5.3.1.7).
const LEAST_MESSAGE_BYTES: usize = 65_536;
/// What one large message needs while it arrives, and some room for others.
const LEAST_BYTES_ARRIVING: usize = 1 << 20;
/// A lease is renewed before it lapses; in one second there is no room for that.
const LEAST_LEASE_S: u64 = 2;
/// Longer than that no lease of a living server is, by which those are known that a clock made which was set back.
const MOST_LEASE_S: u64 = 120;
/// With one place a large part that leaves slowly would have it to itself.
const LEAST_CONCURRENCY: usize = 2;
/// Clients greet twice, and some ask NOOP and RSET around each message.
const LEAST_IDLE_COMMANDS: u32 = 10;
/// Beyond this the clock is too coarse to tell one message from the next.
const MOST_MESSAGES_PER_S: u64 = 100_000;
/// More than a fast line carries, and no message would arrive.
const MOST_BYTES_PER_S: u64 = 1 << 30;
/// Whoever stops a server for longer than a load balancer takes to notice has mistaken the unit.
const MOST_DRAIN_S: u64 = 3_600;
/// Clients give up waiting for the answer to AUTH.
const MOST_DELAY_S: u64 = 30;
/// Ten years: more is a slip of the keyboard, and dates would leave their range.
const MOST_HOURS: u64 = 87_600;
const MOST_SECONDS: u64 = MOST_HOURS * 3_600;
/// Days are counted for so long.
const MOST_WINDOW_DAYS: u64 = 31;
/// Dodo knows a key for 24 hours. The last hour is for a call that arrives late, and
/// for a clock that was put right meanwhile.
const MOST_KEY_SECONDS: u64 = 23 * 3_600;

/// Everything that is wrong, each with its key.
pub(super) fn problems(config: &Config) -> Vec<(&'static str, String)> {
    let mut findings = Findings(Vec::new());
    findings.roots(config);
    findings.smtp(&config.smtp);
    findings.listeners(&config.smtp, &config.http);
    findings.http(&config.http);
    findings.limits(&config.limits);
    findings.billing(&config.billing, config.uses_resend());
    findings.senders_and_notices(config);
    findings.upstream(&config.upstream, config.smtp.max_message_bytes);
    findings.reputation(&config.reputation);
    findings.queue(&config.queue);
    findings.dkim(&config.dkim);
    findings.0
}

struct Findings(Vec<(&'static str, String)>);

impl Findings {
    fn require(&mut self, sound: bool, key: &'static str, text: impl FnOnce() -> String) {
        if !sound {
            self.0.push((key, text()));
        }
    }

    fn at_least<N: PartialOrd + std::fmt::Display>(&mut self, key: &'static str, value: N, least: N) {
        self.require(value >= least, key, || format!("is {value}; must be at least {least}"));
    }

    fn at_most(&mut self, key: &'static str, value: u64, most: u64) {
        self.require(value <= most, key, || format!("is {value}; must be at most {most}"));
    }

    fn one_to(&mut self, most: u64, key: &'static str, value: u64) {
        self.at_least(key, value, 1);
        self.at_most(key, value, most);
    }

    fn roots(&mut self, config: &Config) {
        self.require(!config.data_dir.as_os_str().is_empty(), "data_dir", || {
            "is empty; name a directory".to_owned()
        });
        if let Some(Err(what)) = config.database_url.as_ref().map(DatabaseUrl::name) {
            self.0.push(("database_url", what.to_string()));
        }
        self.at_most("drain_s", config.drain_s, MOST_DRAIN_S);
    }

    fn smtp(&mut self, smtp: &Smtp) {
        let named = Domain::parse(&smtp.hostname);
        let sound = named.is_ok() && smtp.hostname.is_ascii() && !smtp.hostname.starts_with('[');
        self.require(sound, "smtp.hostname", || {
            format!("{:?} is not a domain name in ASCII, such as smtp.example.com", smtp.hostname)
        });
        for (key, path) in [("smtp.tls_cert", &smtp.tls_cert), ("smtp.tls_key", &smtp.tls_key)] {
            self.require(!path.as_os_str().is_empty(), key, || "is empty; name a PEM file".to_owned());
        }
        self.at_least("smtp.max_message_bytes", smtp.max_message_bytes, LEAST_MESSAGE_BYTES);
        self.at_least("smtp.max_recipients", smtp.max_recipients, 1);
        self.at_least("smtp.max_connections", smtp.max_connections, 1);
        self.at_least("smtp.max_connections_per_ip", smtp.max_connections_per_ip, 1);
        self.at_least("smtp.max_sessions_per_customer", smtp.max_sessions_per_customer, 1);
        self.one_to(MOST_SECONDS, "smtp.handshake_timeout_s", smtp.handshake_timeout_s);
        self.one_to(MOST_SECONDS, "smtp.idle_timeout_s", smtp.idle_timeout_s);
        self.one_to(MOST_SECONDS, "smtp.data_timeout_s", smtp.data_timeout_s);
        self.one_to(MOST_SECONDS, "smtp.unauthenticated_timeout_s", smtp.unauthenticated_timeout_s);
        self.one_to(MOST_SECONDS, "smtp.write_timeout_s", smtp.write_timeout_s);
        self.at_most("smtp.min_bytes_per_s", smtp.min_bytes_per_s, MOST_BYTES_PER_S);
        self.one_to(MOST_SECONDS, "smtp.min_bytes_grace_s", smtp.min_bytes_grace_s);
        self.at_least("smtp.max_errors", smtp.max_errors, 1);
        self.at_least("smtp.max_sign_in_failures", smtp.max_sign_in_failures, 1);
        self.at_least("smtp.max_idle_commands", smtp.max_idle_commands, LEAST_IDLE_COMMANDS);
        self.at_least("smtp.max_bytes_arriving", smtp.max_bytes_arriving, LEAST_BYTES_ARRIVING);
        let request = smtp.max_request_bytes().saturating_mul(REQUEST_IN_MEMORY);
        let each = smtp.max_bytes_arriving_per_customer;
        self.require(each >= request, "smtp.max_bytes_arriving_per_customer", || {
            format!(
                "is {each}; must be at least {request}, for one request to /send of the largest message \
                 (smtp.max_message_bytes = {})",
                smtp.max_message_bytes
            )
        });
        let (all, each) = (smtp.max_bytes_spooled, smtp.max_bytes_spooled_per_customer);
        self.holds_a_message("smtp.max_bytes_spooled", all, smtp.max_message_bytes);
        self.holds_a_message("smtp.max_bytes_spooled_per_customer", each, smtp.max_message_bytes);
    }

    fn holds_a_message(&mut self, key: &'static str, bytes: usize, message: usize) {
        self.require(bytes >= message, key, || {
            format!("is {bytes}; the largest message (smtp.max_message_bytes = {message}) must fit in it")
        });
    }

    fn listeners(&mut self, smtp: &Smtp, http: &Http) {
        let any = !(smtp.submission.is_empty() && smtp.submissions.is_empty());
        self.require(any, "smtp.submission", || {
            "is empty, and smtp.submissions too: nobody could send; name an address such as 0.0.0.0:587"
                .to_owned()
        });
        let mut taken = HashSet::new();
        let all = (smtp.submission.iter().map(|address| ("smtp.submission", address)))
            .chain(smtp.submissions.iter().map(|address| ("smtp.submissions", address)))
            .chain([("http.listen", &http.listen)])
            .chain(http.metrics_listen.iter().map(|address| ("http.metrics_listen", address)));
        for (key, address) in all {
            // Port 0 asks the system for a free one, each time another.
            let free = address.port() == 0 || taken.insert(*address);
            self.require(free, key, || format!("{address} is listened on twice; give each its own port"));
        }
    }

    fn http(&mut self, http: &Http) {
        self.at_least("http.max_connections", http.max_connections, 1);
        self.at_least("http.max_connections_per_ip", http.max_connections_per_ip, 1);
        self.one_to(MOST_SECONDS, "http.header_timeout_s", http.header_timeout_s);
    }

    fn limits(&mut self, limits: &Limits) {
        self.at_most("limits.messages_per_s", limits.messages_per_s.into(), MOST_MESSAGES_PER_S);
        self.at_least("limits.messages_burst", limits.messages_burst, 1);
        self.at_least("limits.sign_in_failures", limits.sign_in_failures, 1);
        let (address, username) = (limits.sign_in_failures_per_address, limits.sign_in_failures_per_username);
        self.at_least("limits.sign_in_failures_per_address", address, limits.sign_in_failures);
        self.at_least("limits.sign_in_failures_per_username", username, limits.sign_in_failures);
        self.one_to(MOST_SECONDS, "limits.sign_in_forgive_s", limits.sign_in_forgive_s);
        self.at_most("limits.sign_in_max_delay_s", limits.sign_in_max_delay_s, MOST_DELAY_S);
    }

    fn billing(&mut self, billing: &Billing, uses_resend: bool) {
        self.at_most("billing.balance_max_age_s", billing.balance_max_age_s, MOST_SECONDS);
        self.one_to(MOST_HOURS, "billing.outage_max_age_h", billing.outage_max_age_h);
        let outage_s = billing.outage_max_age_h.saturating_mul(3_600);
        self.require(billing.balance_max_age_s <= outage_s, "billing.balance_max_age_s", || {
            format!(
                "is {}; must not be more than outage_max_age_h ({} hours)",
                billing.balance_max_age_s, billing.outage_max_age_h
            )
        });
        self.one_to(MOST_SECONDS, "billing.dodo_timeout_s", billing.dodo_timeout_s);
        self.require(!billing.refund_bounced || uses_resend, "billing.refund_bounced", || {
            "needs Resend: after an SMTP upstream took a message, its bounces are mails to the sender"
                .to_owned()
        });
        self.one_to(MOST_KEY_SECONDS, "billing.key_lifetime_s", billing.key_lifetime_s);
        self.one_to(MOST_SECONDS, "billing.lookup_wait_s", billing.lookup_wait_s);
        self.one_to(MOST_SECONDS, "billing.audit_interval_s", billing.audit_interval_s);
        self.at_most("billing.low_balance_credits", billing.low_balance_credits, MAX_CREDITS);
        if let Some(Err(what)) = billing.top_up_url.as_deref().map(web_url::check) {
            self.0.push(("billing.top_up_url", what.to_owned()));
        }
    }

    fn senders_and_notices(&mut self, config: &Config) {
        if let Some(domain) = &config.senders.starter_domain {
            let sound = Domain::parse(domain).is_ok() && !domain.starts_with('[');
            self.require(sound, "senders.starter_domain", || {
                format!("{domain:?} is not a domain name such as mail.example.com")
            });
        }
        let senders = &config.senders;
        let by_resend = config.upstream.kind == UpstreamKind::Resend;
        self.require(senders.proof != ProofBy::Resend || by_resend, "senders.proof", || {
            "is \"resend\", which needs upstream.kind = \"resend\"; \"dns\" needs nobody's account".to_owned()
        });
        self.at_least("senders.max_domains", senders.max_domains, 1);
        self.one_to(86_400, "senders.max_domains_per_day", senders.max_domains_per_day.into());
        if let (Some(from), Err(error)) = (&config.notices.from, config.notices_from()) {
            let example = "Postmeter <postmaster@example.com>";
            self.0.push(("notices.from", format!("{from:?} does not read {example:?}: {error}")));
        }
    }

    fn upstream(&mut self, upstream: &UpstreamConfig, message: usize) {
        self.at_least("upstream.max_concurrency", upstream.max_concurrency, LEAST_CONCURRENCY);
        let in_flight = upstream.max_bytes_in_flight;
        self.require(in_flight / 2 >= message, "upstream.max_bytes_in_flight", || {
            format!(
                "is {in_flight}; the largest message (smtp.max_message_bytes = {message}) must fit in the half \
                 of it that large ones have"
            )
        });
        self.holds_a_message("upstream.max_bytes_translating", upstream.max_bytes_translating, message);
        self.one_to(MOST_SECONDS, "upstream.timeout_s", upstream.timeout_s);
        self.at_least("upstream.max_messages_per_connection", upstream.max_messages_per_connection, 1);
        self.one_to(MOST_SECONDS, "upstream.max_connection_age_s", upstream.max_connection_age_s);
        self.at_most("upstream.max_connection_idle_s", upstream.max_connection_idle_s, MOST_SECONDS);
    }

    fn reputation(&mut self, reputation: &Thresholds) {
        self.one_to(MOST_WINDOW_DAYS, "reputation.window_days", reputation.window_days.into());
        self.at_least("reputation.min_recipients", reputation.min_recipients, 1);
        self.at_least("reputation.min_bounced", reputation.min_bounced, 1);
        self.at_most("reputation.max_bounced_per_10000", reputation.max_bounced_per_10000, 10_000);
        self.at_least("reputation.min_complained", reputation.min_complained, 1);
        self.at_most("reputation.max_complained_per_10000", reputation.max_complained_per_10000, 10_000);
    }

    fn queue(&mut self, queue: &Queue) {
        self.one_to(MOST_SECONDS, "queue.retry_min_s", queue.retry_min_s);
        self.one_to(MOST_SECONDS, "queue.retry_max_s", queue.retry_max_s);
        self.require(queue.retry_min_s <= queue.retry_max_s, "queue.retry_min_s", || {
            format!("is {}; must not be more than retry_max_s ({})", queue.retry_min_s, queue.retry_max_s)
        });
        self.one_to(MOST_HOURS, "queue.lifetime_h", queue.lifetime_h);
        self.at_least("queue.lease_s", queue.lease_s, LEAST_LEASE_S);
        self.at_most("queue.lease_s", queue.lease_s, MOST_LEASE_S);
        self.at_most("queue.keep_log_days", queue.keep_log_days, MOST_HOURS / 24);
    }

    fn dkim(&mut self, keys: &[KeySetting]) {
        let mut names = HashSet::new();
        for KeySetting { domain, selector, .. } in keys {
            let is_name = |text: &str| Domain::parse(text).is_ok() && !text.starts_with('[');
            self.require(is_name(domain), "dkim", || format!("{domain:?} is not a domain name"));
            self.require(is_name(selector) && selector.is_ascii(), "dkim", || {
                format!("{selector:?} is not a selector such as s1")
            });
            let is_new = names.insert((domain.to_lowercase(), selector.to_lowercase()));
            self.require(is_new, "dkim", || format!("{selector} of {domain} stands there twice"));
        }
        let defaults = keys.iter().filter(|key| key.default);
        let domains: HashSet<String> = defaults.map(|key| key.domain.to_lowercase()).collect();
        self.require(domains.len() <= 1, "dkim", || "the default keys are of different domains".to_owned());
    }
}
