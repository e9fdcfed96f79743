//! The upstream SMTP server: reached, trusted, signed in.

use super::{Finding, TIMEOUT};
use crate::config::{Config, Secrets};
use crate::upstream::smtp::{SmtpSettings, SmtpUpstream};

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
        is_resend: config.uses_resend_smtp(),
    };
    let checked = match SmtpUpstream::new(&settings) {
        Ok(upstream) => upstream.check().await,
        Err(error) => Err(format!("its address cannot be used: {error}")),
    };
    let hint = if config.uses_resend_smtp() { RESEND_HINT } else { HINT };
    vec![match checked {
        Ok(()) => Finding::ok(SUBJECT, "it is reached and lets us in"),
        Err(reason) => Finding::fail(SUBJECT, reason, hint),
    }]
}
