//! What comes from the environment, under the names that the tutorials of Dodo
//! and Resend use, or from the file that `NAME_FILE` names.
//!
//! No value is ever repeated in an error: a variable that is malformed may still
//! be most of a secret.

use std::fmt;
use std::net::SocketAddr;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretString};

use super::{Config, DatabaseUrl, web_url};
use crate::upstream::smtp::check_urls;

const DODO_TEST_URL: &str = "https://test.dodopayments.com";
const DODO_LIVE_URL: &str = "https://live.dodopayments.com";
const RESEND_URL: &str = "https://api.resend.com";
const RESEND_SMTP_URL: &str = "smtps://smtp.resend.com:465";
/// A shorter token for the operator's routes could be guessed.
const GOOD_TOKEN_OCTETS: usize = 16;

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
    /// `RESEND_WEBHOOK_SECRET`, one or several; unset: Resend's webhooks are not believed
    pub resend_webhook_secrets: Vec<SecretString>,
    /// `BASE_URL`: the public URL of the HTTP side, without a slash at the end
    pub base_url: String,
    /// `POSTMETER_ADMIN_TOKEN`; unset: the operator's routes refuse everyone
    pub admin_token: Option<SecretString>,
    /// `UPSTREAM_SMTP_URL`, one or several; needed where an SMTP upstream is configured. Where that
    /// is Resend's own: `RESEND_SMTP_URL` with the API key, default `smtps://smtp.resend.com:465`
    pub upstream_smtp_url: Option<SecretString>,
}

/// All that is missing or malformed in the environment, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MissingEnv {
    /// `NAME: what is wrong and what to do`, never a value.
    pub problems: Vec<String>,
}

impl fmt::Display for MissingEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment is not complete (each may also come from a file, named by NAME_FILE):")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Secrets {
    /// Reads what `config` needs; `env` looks one variable up. A malformed `PORT`
    /// is reported here too, so that it stands in the same list as the rest.
    pub fn from_env(config: &Config, env: impl Fn(&str) -> Option<String>) -> Result<Self, MissingEnv> {
        match Self::readable_from_env(config, env) {
            (secrets, None) => Ok(secrets),
            (_, Some(missing)) => Err(missing),
        }
    }

    /// The same, for `check`, which goes on after a problem: what is missing or
    /// malformed is left empty.
    pub fn readable_from_env(
        config: &Config,
        env: impl Fn(&str) -> Option<String>,
    ) -> (Self, Option<MissingEnv>) {
        let mut reader = Reader { env, problems: Vec::new() };
        let resend_api_key = reader.key("RESEND_API_KEY", config.uses_resend());
        let secrets = Self {
            dodo_api_key: reader.key("DODO_PAYMENTS_API_KEY", true).unwrap_or_default().into(),
            dodo_webhook_keys: reader.signing_keys("DODO_WEBHOOK_KEY", true),
            dodo_base_url: reader.dodo_base_url(),
            credit_entitlement_id: reader.id("CREDIT_ENTITLEMENT_ID"),
            plan_product_id: reader.id("PLAN_PRODUCT_ID"),
            topup_product_id: reader.id("TOPUP_PRODUCT_ID"),
            resend_base_url: reader.url("RESEND_BASE_URL", false).unwrap_or_else(|| RESEND_URL.to_owned()),
            resend_webhook_secrets: reader
                .signing_keys("RESEND_WEBHOOK_SECRET", config.billing.refund_bounced),
            base_url: reader.url("BASE_URL", true).unwrap_or_default(),
            admin_token: reader.key("POSTMETER_ADMIN_TOKEN", false).map(SecretString::from),
            upstream_smtp_url: reader.upstream_smtp_url(config, resend_api_key.as_deref()),
            resend_api_key: resend_api_key.map(SecretString::from),
        };
        reader.port();
        reader.database_url();
        (secrets, reader.or_problems(()).err())
    }

    /// What is allowed and yet worth a second look, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let token_octets = self.admin_token.as_ref().map(|token| token.expose_secret().len());
        match token_octets {
            None => warnings.push(
                "POSTMETER_ADMIN_TOKEN is not set: the operator's HTTP routes refuse everyone".to_owned(),
            ),
            Some(octets) if octets < GOOD_TOKEN_OCTETS => warnings.push(
                "POSTMETER_ADMIN_TOKEN is short enough to guess: make one with `openssl rand -hex 32`"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        let url = web_url::check(&self.base_url).ok();
        let in_the_clear =
            |url: &reqwest::Url| url.scheme() == "http" && !url.host_str().is_some_and(web_url::is_loopback);
        if url.as_ref().is_some_and(in_the_clear) {
            warnings
                .push("BASE_URL begins with http://: customers' secrets would travel unencrypted".to_owned());
        }
        warnings
    }
}

impl Config {
    /// Puts `PORT` of the environment, if it is set, in the place of the port of
    /// `http.listen`: what hosting platforms expect.
    pub fn apply_port(&mut self, env: impl Fn(&str) -> Option<String>) -> Result<(), MissingEnv> {
        let mut reader = Reader { env, problems: Vec::new() };
        let port = reader.port().unwrap_or(self.http.listen.port());
        self.http.listen = SocketAddr::new(self.http.listen.ip(), port);
        reader.or_problems(())
    }

    /// Puts `DATABASE_URL` of the environment, if it is set, in the place of `database_url`:
    /// so that no password has to stand in the file.
    pub fn apply_database_url(&mut self, env: impl Fn(&str) -> Option<String>) -> Result<(), MissingEnv> {
        let mut reader = Reader { env, problems: Vec::new() };
        self.database_url = reader.database_url().or(self.database_url.take());
        reader.or_problems(())
    }
}

/// For a key of the file that is the name of a variable.
pub(super) fn hint(key: &str) -> Option<&'static str> {
    const NAMES: [&str; 15] = [
        "DODO_PAYMENTS_API_KEY",
        "DODO_WEBHOOK_KEY",
        "DODO_PAYMENTS_ENVIRONMENT",
        "DODO_PAYMENTS_BASE_URL",
        "CREDIT_ENTITLEMENT_ID",
        "PLAN_PRODUCT_ID",
        "TOPUP_PRODUCT_ID",
        "RESEND_API_KEY",
        "RESEND_BASE_URL",
        "RESEND_SMTP_URL",
        "RESEND_WEBHOOK_SECRET",
        "BASE_URL",
        "PORT",
        "POSTMETER_ADMIN_TOKEN",
        "UPSTREAM_SMTP_URL",
    ];
    let last = key.rsplit('.').next().unwrap_or(key);
    let known = NAMES.iter().any(|name| name.eq_ignore_ascii_case(last));
    known.then_some("; it comes from the environment, never from this file")
}

struct Reader<E> {
    env: E,
    problems: Vec<String>,
}

impl<E: Fn(&str) -> Option<String>> Reader<E> {
    fn or_problems<T>(self, value: T) -> Result<T, MissingEnv> {
        if self.problems.is_empty() { Ok(value) } else { Err(MissingEnv { problems: self.problems }) }
    }

    fn problem(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name}: {what}"));
    }

    /// The trimmed value; an empty one counts as unset, since that is how many
    /// tools write "not set".
    fn set(&self, name: &str) -> Option<String> {
        (self.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The value of `NAME` or of the file of `NAME_FILE`, if it is set and passes
    /// `check`; whatever is wrong with it is noted.
    fn read<T>(
        &mut self,
        name: &str,
        required: bool,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let found = match (self.set(name), self.set(&format!("{name}_FILE"))) {
            (Some(_), Some(_)) => Err(format!("{name}_FILE is set too; keep one of the two")),
            (Some(value), None) => Ok(Some(value)),
            (None, Some(path)) => from_file(&path).map(Some),
            (None, None) if required => Err("is not set".to_owned()),
            (None, None) => Ok(None),
        };
        match found.and_then(|value| value.map(|value| check(&value)).transpose()) {
            Ok(value) => value,
            Err(what) => {
                self.problem(name, &what);
                None
            }
        }
    }

    fn key(&mut self, name: &str, required: bool) -> Option<String> {
        self.read(name, required, |value| {
            let sound = value.bytes().all(|octet| octet.is_ascii_graphic());
            if sound {
                Ok(value.to_owned())
            } else {
                Err("contains a space or a character that no key has".to_owned())
            }
        })
    }

    fn id(&mut self, name: &str) -> String {
        self.read(name, true, |value| {
            let plain = value.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_-.".contains(&octet));
            if plain {
                Ok(value.to_owned())
            } else {
                Err("is not an id as the dashboard shows it".to_owned())
            }
        })
        .unwrap_or_default()
    }

    fn url(&mut self, name: &str, required: bool) -> Option<String> {
        self.read(name, required, |value| web_url::base(value).map_err(str::to_owned))
    }

    /// Signing keys in the form of Standard Webhooks: `whsec_BASE64`, or BASE64
    /// alone; several, comma-separated, while they rotate.
    fn signing_keys(&mut self, name: &str, required: bool) -> Vec<SecretString> {
        self.read(name, required, |value| {
            let keys = value.split(',').map(str::trim).filter(|key| !key.is_empty());
            if keys.clone().count() == 0 || !keys.clone().all(is_signing_key) {
                return Err("is not a signing key as the dashboard shows it (whsec_…, several with commas)"
                    .to_owned());
            }
            Ok(keys.map(SecretString::from).collect())
        })
        .unwrap_or_default()
    }

    fn dodo_base_url(&mut self) -> String {
        let by_environment = self.read("DODO_PAYMENTS_ENVIRONMENT", false, |value| match value {
            "test_mode" => Ok(DODO_TEST_URL),
            "live_mode" => Ok(DODO_LIVE_URL),
            _ => Err("is neither test_mode nor live_mode".to_owned()),
        });
        self.url("DODO_PAYMENTS_BASE_URL", false)
            .unwrap_or_else(|| by_environment.unwrap_or(DODO_TEST_URL).to_owned())
    }

    fn upstream_smtp_url(&mut self, config: &Config, api_key: Option<&str>) -> Option<SecretString> {
        let plaintext = config.upstream.allow_plaintext;
        let check = |value: &str| match check_urls(value, plaintext) {
            Ok(()) => Ok(value.to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if config.uses_resend_smtp() {
            let url = self.read("RESEND_SMTP_URL", false, check);
            let url = url.unwrap_or_else(|| RESEND_SMTP_URL.to_owned());
            return with_api_key(&url, api_key?).map(SecretString::from);
        }
        self.read("UPSTREAM_SMTP_URL", config.uses_smtp(), check).map(SecretString::from)
    }

    fn port(&mut self) -> Option<u16> {
        self.read("PORT", false, |value| {
            value.parse().map_err(|_| "is not a port from 0 to 65535".to_owned())
        })
    }

    fn database_url(&mut self) -> Option<DatabaseUrl> {
        self.read("DATABASE_URL", false, |value| DatabaseUrl::parse(value).map_err(|error| error.to_string()))
    }
}

fn from_file(path: &str) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read the file {path}: {error}"))?;
    let value = text.trim();
    if value.is_empty() { Err(format!("the file {path} is empty")) } else { Ok(value.to_owned()) }
}

fn is_signing_key(text: &str) -> bool {
    let engine = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    engine.decode(text.strip_prefix("whsec_").unwrap_or(text)).is_ok_and(|key| !key.is_empty())
}

/// Resend's SMTP service knows one user, whose password is the API key.
fn with_api_key(urls: &str, api_key: &str) -> Option<String> {
    let with_key = |url: &str| {
        let mut url = reqwest::Url::parse(url).ok()?;
        url.set_username("resend").ok()?;
        url.set_password(Some(api_key)).ok()?;
        Some(String::from(url))
    };
    Some(urls.split_whitespace().map(with_key).collect::<Option<Vec<_>>>()?.join(" "))
}
