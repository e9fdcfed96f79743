//! The upstream SMTP server: reached, trusted, signed in.

use super::{Finding, TIMEOUT};
use crate::config::{Config, Secrets};
use crate::upstream::smtp::{SmtpSettings, SmtpUpstream};

const SUBJECT: &str = "smtp upstream";
const HINT: &str = "check host, port, user and password in UPSTREAM_SMTP_URL";

pub(super) async fn findings(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    if !config.uses_smtp() {
        return Vec::new();
    }
    let Some(url) = secrets.upstream_smtp_url.clone() else {
        return vec![Finding::warn(SUBJECT, "it was not asked anything", "set UPSTREAM_SMTP_URL first")];
    };
    let settings = SmtpSettings {
        url,
        allow_plaintext: config.upstream.allow_plaintext,
        hostname: config.smtp.hostname.clone(),
        timeout: TIMEOUT,
    };
    let checked = match SmtpUpstream::new(&settings) {
        Ok(upstream) => upstream.check().await,
        Err(error) => Err(format!("UPSTREAM_SMTP_URL: {error}")),
    };
    vec![match checked {
        Ok(()) => Finding::ok(SUBJECT, "it is reached and lets us in"),
        Err(reason) => Finding::fail(SUBJECT, reason, HINT),
    }]
}
