//! The upstream SMTP servers: reached, trusted, signed in.

use std::sync::Arc;

use super::{Finding, TIMEOUT};
use crate::clock::Clock;
use crate::config::{Config, Secrets};
use crate::upstream::smtp::{HostChecked, SmtpSettings, SmtpUpstream};

const SUBJECT: &str = "smtp upstream";
const HINT: &str = "check host, port, user and password in UPSTREAM_SMTP_URL";
const RESEND_HINT: &str = "check RESEND_API_KEY, and RESEND_SMTP_URL if it is set";

pub(super) async fn findings(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    if !config.uses_smtp() {
        return Vec::new();
    }
    let Some(url) = secrets.upstream_smtp_url.clone() else {
        let name = if config.uses_resend_smtp() { "RESEND_API_KEY" } else { "UPSTREAM_SMTP_URL" };
        return vec![Finding::warn(SUBJECT, "it was not asked anything", format!("set {name} first"))];
    };
    let settings = SmtpSettings {
        url,
        allow_plaintext: config.upstream.allow_plaintext,
        hostname: config.smtp.hostname.clone(),
        timeout: TIMEOUT,
        reuse: config.upstream.reuse(),
        signer: Arc::default(),
        clock: Clock::system(),
        is_resend: config.uses_resend_smtp(),
    };
    let hint = if config.uses_resend_smtp() { RESEND_HINT } else { HINT };
    match SmtpUpstream::new(&settings) {
        Ok(upstream) => judged(&upstream.check().await, hint),
        Err(error) => {
            vec![Finding::fail(SUBJECT, format!("its address cannot be used: {error}"), hint)]
        }
    }
}

/// A host that is away is no failure as long as another carries the mail.
pub(super) fn judged(hosts: &[HostChecked], hint: &'static str) -> Vec<Finding> {
    let is_carried = hosts.iter().any(|host| host.found.is_ok());
    let finding = |HostChecked { host, found }: &HostChecked| match found {
        Ok(()) => Finding::ok(SUBJECT, format!("{host} is reached and lets us in")),
        Err(reason) if is_carried => Finding::warn(SUBJECT, format!("{host}: {reason}"), hint),
        Err(reason) => Finding::fail(SUBJECT, format!("{host}: {reason}"), hint),
    };
    hosts.iter().map(finding).collect()
}
