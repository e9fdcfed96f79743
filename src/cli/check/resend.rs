//! Resend: the key, and the domains that our own mail comes from.

use super::{Finding, TIMEOUT};
use crate::clock::Clock;
use crate::config::{Config, ProofBy, Secrets};
use crate::upstream::resend::{KeyRights, Resend, ResendSettings, ResendUnusable, SendingDomain};

const SUBJECT: &str = "resend";

/// Domains that one answer of Resend can hold; more are not looked at.
const MOST_DOMAINS: usize = 100;

pub(super) async fn findings(config: &Config, secrets: &Secrets, clock: &Clock) -> Vec<Finding> {
    if !config.uses_resend() {
        return Vec::new();
    }
    let Some(api_key) = secrets.resend_api_key.clone() else {
        return vec![Finding::warn(SUBJECT, "it was not asked anything", "set RESEND_API_KEY first")];
    };
    let settings = ResendSettings {
        base_url: secrets.resend_base_url.clone(),
        api_key,
        timeout: TIMEOUT,
        clock: clock.clone(),
    };
    match Resend::new(&settings) {
        Ok(resend) => {
            let answer = resend.check().await;
            let manages = cannot_manage(config, &answer);
            judge(answer, &own_domains(config)).into_iter().chain(manages).collect()
        }
        Err(error) => {
            let hint = "check RESEND_BASE_URL and RESEND_API_KEY";
            vec![Finding::fail(SUBJECT, error.to_string(), hint)]
        }
    }
}

/// Each setting that names a domain we send from, with that domain in ASCII.
fn own_domains(config: &Config) -> Vec<(&'static str, String)> {
    let notices = config.notices_from().ok().map(|from| ("notices.from", from.mailbox.domain().to_ascii()));
    let starter = config.senders.starter_domain.clone().map(|domain| ("senders.starter_domain", domain));
    notices.into_iter().chain(starter).collect()
}

/// Customers add domains with this key, which a key that may only send cannot.
pub(super) fn cannot_manage(config: &Config, answer: &Result<KeyRights, ResendUnusable>) -> Option<Finding> {
    let is_needed = config.senders.proof == ProofBy::Resend;
    (is_needed && *answer == Ok(KeyRights::SendingOnly)).then(|| {
        let message = "senders.proof is \"resend\", and the key may only send";
        Finding::fail(SUBJECT, message, "make a key with full access at resend.com/api-keys")
    })
}

pub(super) fn judge(
    answer: Result<KeyRights, ResendUnusable>,
    own: &[(&'static str, String)],
) -> Vec<Finding> {
    match answer {
        Ok(KeyRights::Full(domains)) => {
            let key = Finding::ok(SUBJECT, "the key has full access");
            std::iter::once(key).chain(own.iter().map(|own| verified(own, &domains))).collect()
        }
        Ok(KeyRights::SendingOnly) => {
            let names: Vec<&str> = own.iter().map(|(_, domain)| domain.as_str()).collect();
            vec![Finding::ok(
                SUBJECT,
                format!(
                    "the key may only send, which is enough; whether {} is verified could not be seen",
                    names.join(" and ")
                ),
            )]
        }
        Err(error @ ResendUnusable::BadKey(_)) => vec![Finding::fail(
            SUBJECT,
            error.to_string(),
            "make a key at resend.com/api-keys and put it in RESEND_API_KEY",
        )],
        Err(error @ ResendUnusable::Unavailable(_)) => vec![Finding::fail(
            SUBJECT,
            error.to_string(),
            "check this machine's way to the network and RESEND_BASE_URL, if it is set",
        )],
    }
}

/// `partially_verified` can send as well (resend.com/docs, "Managing Domains").
fn verified((setting, domain): &(&'static str, String), domains: &[SendingDomain]) -> Finding {
    let Some(found) = domains.iter().find(|found| found.name.eq_ignore_ascii_case(domain)) else {
        let message = format!("{domain} ({setting}) is not a domain of this account");
        if domains.len() >= MOST_DOMAINS {
            let hint = "only its first 100 domains were looked at; make sure that it is among the others";
            return Finding::warn(SUBJECT, message, hint);
        }
        return Finding::fail(
            SUBJECT,
            message,
            format!("add it at resend.com/domains, or set {setting} to one that is there"),
        );
    };
    if matches!(found.status.as_str(), "verified" | "partially_verified") {
        return Finding::ok(SUBJECT, format!("{domain} ({setting}) is {}", found.status));
    }
    let message = format!("{domain} ({setting}) is not verified, its state is {}", found.status);
    Finding::fail(SUBJECT, message, "finish its DNS records as resend.com/domains shows them")
}
