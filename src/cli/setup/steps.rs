//! What no key of Dodo's can do, and a person has to: at Resend, in the DNS, for TLS. In
//! order, with the values that are known here; only what is made elsewhere is left open.

use std::net::Ipv4Addr;
use std::path::Path;

use super::inputs::Inputs;
use crate::cli::print;
use crate::config::Config;
use crate::upstream::resend::domains::Region;

/// `smtp.hostname` where nobody set it.
const UNSET: &str = "localhost";
/// Where Resend sends from unless another region is asked for.
const RESEND_REGION: &str = "us-east-1";
/// What Postmeter acts on of what Resend tells.
const RESEND_EVENTS: &str = "email.sent, email.delivered, email.delivery_delayed, email.bounced, \
                             email.complained, email.failed, email.suppressed, domain.updated";

/// What is left to do.
pub(super) fn left(inputs: &Inputs) -> Vec<String> {
    let secrets = &inputs.secrets;
    let place = Place::of(&inputs.config, &secrets.base_url, inputs.env_file.path());
    let mut steps = vec![
        "Dodo: ask compliance@dodopayments.com whether a mail relay is a business that they accept, before anybody \
         pays: their Merchant Acceptance Policy excludes some that are near to it"
            .to_owned(),
    ];
    steps.extend(place.web_and_tls(&inputs.config));
    if inputs.config.uses_resend() {
        steps.extend(place.resend(
            secrets.resend_api_key.is_some(),
            !secrets.resend_webhook_secrets.is_empty(),
            &inputs.config.senders.resend_region.map_or(RESEND_REGION.to_owned(), region),
        ));
    }
    if inputs.config.uses_smtp() && secrets.upstream_smtp_url.is_none() {
        steps.push(format!("add UPSTREAM_SMTP_URL=smtps://user:password@host:465 to {}", place.file));
    }
    steps.push(format!("set -a; . {}; set +a; postmeter check && postmeter serve", place.file));
    steps.push(format!("systemd: EnvironmentFile={}", place.file));
    if !inputs.is_live {
        steps.push(format!(
            "Dodo: when the plan and a top-up were bought in test mode, the same in live mode: \
             DODO_PAYMENTS_ENVIRONMENT=live_mode DODO_PAYMENTS_API_KEY=dodo_live_… postmeter setup --base-url {} \
             --env-file live.env",
            secrets.base_url
        ));
    }
    steps
}

/// As Resend calls it.
fn region(region: Region) -> String {
    serde_json::to_value(region).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The names that the steps are about.
struct Place {
    base_url: String,
    /// The host of the base URL.
    web: String,
    /// The host that SMTP clients connect to.
    hostname: String,
    /// The domain that mail of our own comes from.
    domain: String,
    /// The file with the environment, as a shell reads it.
    file: String,
}

impl Place {
    fn of(config: &Config, base_url: &str, file: &Path) -> Self {
        let file = print::shell_word(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        let url = reqwest::Url::parse(base_url).ok();
        let web = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default().to_owned();
        let is_set = config.smtp.hostname != UNSET;
        let hostname = if is_set { config.smtp.hostname.clone() } else { web.clone() };
        let said = config.notices_from().ok().filter(|_| is_set || config.notices.from.is_some());
        let domain = said.map_or_else(|| web.clone(), |from| from.mailbox.domain().to_string());
        Self { base_url: base_url.to_owned(), web, hostname, domain, file }
    }

    /// Names, addresses and certificates.
    fn web_and_tls(&self, config: &Config) -> Vec<String> {
        let Self { base_url, web, hostname, domain, .. } = self;
        let mut steps = Vec::new();
        if config.smtp.hostname == UNSET {
            steps.push(format!(
                "postmeter.toml: under [smtp] hostname = \"{hostname}\", the name that customers connect to"
            ));
        }
        if config.notices.from.is_none() {
            steps.push(format!(
                "postmeter.toml: under [notices] from = \"Postmeter <postmaster@{domain}>\", an address at the \
                 domain that mail is sent from"
            ));
        }
        let names = if hostname == web { web.clone() } else { format!("{web} and {hostname}") };
        steps.push(format!("DNS: A and AAAA records of {names} with the addresses of this machine"));
        steps.push(format!(
            "TLS: a certificate for {hostname}: certbot certonly --standalone -d {hostname}, then tls_cert = \
             \"/etc/letsencrypt/live/{hostname}/fullchain.pem\" and tls_key = \
             \"/etc/letsencrypt/live/{hostname}/privkey.pem\" under [smtp] (now {} and {})",
            config.smtp.tls_cert.display(),
            config.smtp.tls_key.display()
        ));
        let mut listen = config.http.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        steps.push(format!("TLS: a proxy that takes {base_url} to http://{listen}"));
        steps
    }

    /// The account at Resend, as far as it is not known to be there.
    fn resend(&self, has_key: bool, has_secret: bool, region: &str) -> Vec<String> {
        let Self { base_url, domain, file, .. } = self;
        let mut steps = Vec::new();
        if !has_key {
            steps.push(format!(
                "Resend: add the domain {domain} in the region {region} at https://resend.com/domains"
            ));
            steps.push(format!(
                "DNS: MX send.{domain} 10 feedback-smtp.{region}.amazonses.com; TXT send.{domain} \"v=spf1 \
                 include:amazonses.com ~all\"; TXT resend._domainkey.{domain} \"p=…\", the key that Resend shows \
                 with the domain (where it shows other records, those); TXT _dmarc.{domain} \"v=DMARC1; p=none\""
            ));
            steps.push(format!("Resend: make an API key, and add RESEND_API_KEY=re_… to {file}"));
        }
        if !has_secret {
            steps.push(format!(
                "Resend: make a webhook to {base_url}/webhooks/resend for {RESEND_EVENTS}, and add \
                 RESEND_WEBHOOK_SECRET=whsec_… to {file}"
            ));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(config: &str, has_key: bool) -> String {
        let config = Config::parse(config).unwrap();
        let place = Place::of(&config, "https://web.example.com", Path::new("/etc/post meter.env"));
        [place.web_and_tls(&config), place.resend(has_key, false, "eu-west-1")].concat().join("\n")
    }

    #[test]
    fn what_is_left_has_the_names_of_the_configuration() {
        let text = steps(
            "[smtp]\nhostname = \"smtp.example.com\"\n[notices]\nfrom = \"M <pm@mail.example.com>\"\n",
            false,
        );
        for part in [
            "A and AAAA records of web.example.com and smtp.example.com",
            "certbot certonly --standalone -d smtp.example.com",
            "https://web.example.com to http://127.0.0.1:3000",
            "MX send.mail.example.com 10 feedback-smtp.eu-west-1.amazonses.com",
            "TXT send.mail.example.com \"v=spf1 include:amazonses.com ~all\"",
            "TXT resend._domainkey.mail.example.com",
            "RESEND_API_KEY=re_… to '/etc/post meter.env'",
            "https://web.example.com/webhooks/resend for email.sent",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("postmeter.toml"), "all of it is set: {text}");
    }

    #[test]
    fn what_nobody_set_is_said_and_guessed_from_the_url() {
        let text = steps("", true);
        for part in [
            "hostname = \"web.example.com\"",
            "from = \"Postmeter <postmaster@web.example.com>\"",
            "DNS: A and AAAA records of web.example.com with",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("RESEND_API_KEY") && !text.contains("_domainkey"), "the key is there: {text}");
    }
}
