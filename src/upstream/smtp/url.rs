//! `UPSTREAM_SMTP_URL`: where the server is, how the way to it is protected, and
//! who we are there. No error here repeats the URL, which holds a password.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use lettre::transport::smtp::authentication::Credentials;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};

/// Why the URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSmtpUrl {
    /// Not a URL of the two kinds.
    #[error("it must read smtps://user:password@host:465 or smtp://user:password@host:587?tls=required")]
    Form,
    /// A user without a password, or one of them badly encoded.
    #[error("user and password must both be there, percent-encoded, or neither")]
    Credentials,
    /// A word after the `?` that means nothing.
    #[error("{0:?} is not an option of it; there are tls=required, tls=none and ca=FILE")]
    Option(String),
    /// In the clear, but not allowed.
    #[error(
        "sending in the clear needs upstream.allow_plaintext = true and a host on this machine's loopback"
    )]
    Plaintext,
    /// The `ca` file cannot be used.
    #[error("the certificates in {path} cannot be used: {reason}")]
    Ca {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How the way to the server is protected.
#[derive(Clone)]
pub(super) enum Security {
    /// TLS from the first octet (RFC 8314).
    Implicit(Arc<ClientConfig>),
    /// STARTTLS, which the server must offer (RFC 3207).
    StartTls(Arc<ClientConfig>),
    /// Not at all; loopback only.
    Plaintext,
}

/// The URL, read.
#[derive(Clone)]
pub(super) struct SmtpUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) credentials: Option<Credentials>,
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let security = match self.security {
            Security::Implicit(_) => "implicit TLS",
            Security::StartTls(_) => "STARTTLS",
            Security::Plaintext => "plaintext",
        };
        write!(f, "{}:{} ({security})", self.host, self.port)
    }
}

impl SmtpUrl {
    pub(super) fn parse(text: &SecretString, allow_plaintext: bool) -> Result<Self, InvalidSmtpUrl> {
        let url = Url::parse(text.expose_secret().trim()).map_err(|_| InvalidSmtpUrl::Form)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidSmtpUrl::Form)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(InvalidSmtpUrl::Form);
        }
        let options = Options::read(&url)?;
        let plaintext_is_allowed = allow_plaintext && is_loopback(&host);
        let (default_port, security) = match (url.scheme(), options.tls) {
            ("smtps", None | Some(true)) => (465, Security::Implicit(tls_config(options.ca.as_deref())?)),
            ("smtp", Some(true)) => (587, Security::StartTls(tls_config(options.ca.as_deref())?)),
            ("smtp", Some(false)) if !plaintext_is_allowed => return Err(InvalidSmtpUrl::Plaintext),
            ("smtp", None) if !plaintext_is_allowed => {
                (587, Security::StartTls(tls_config(options.ca.as_deref())?))
            }
            ("smtp", _) => (587, Security::Plaintext),
            _ => return Err(InvalidSmtpUrl::Form),
        };
        let port = url.port().unwrap_or(default_port);
        Ok(Self { host, port, security, credentials: credentials(&url)? })
    }
}

struct Options {
    tls: Option<bool>,
    ca: Option<String>,
}

impl Options {
    fn read(url: &Url) -> Result<Self, InvalidSmtpUrl> {
        let mut options = Self { tls: None, ca: None };
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("tls", "required") => options.tls = Some(true),
                ("tls", "none") => options.tls = Some(false),
                ("ca", path) if !path.is_empty() => options.ca = Some(path.to_owned()),
                (name, _) => return Err(InvalidSmtpUrl::Option(name.to_owned())),
            }
        }
        Ok(options)
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, InvalidSmtpUrl> {
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        (user, Some(password)) if !user.is_empty() => {
            let user = percent_decoded(user).ok_or(InvalidSmtpUrl::Credentials)?;
            let password = percent_decoded(password).ok_or(InvalidSmtpUrl::Credentials)?;
            Ok(Some(Credentials::new(user, password)))
        }
        _ => Err(InvalidSmtpUrl::Credentials),
    }
}

/// RFC 3986 §2.1. NUL would end the user's name in AUTH PLAIN (RFC 4616).
fn percent_decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        octets.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(octets).ok().filter(|text| !text.contains('\0'))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls_config(ca: Option<&str>) -> Result<Arc<ClientConfig>, InvalidSmtpUrl> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca {
        add_roots(&mut roots, path).map_err(|reason| InvalidSmtpUrl::Ca { path: path.to_owned(), reason })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| InvalidSmtpUrl::Form)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn add_roots(roots: &mut RootCertStore, path: &str) -> Result<(), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        found += 1;
    }
    if found == 0 { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, allow_plaintext: bool) -> Result<SmtpUrl, InvalidSmtpUrl> {
        SmtpUrl::parse(&SecretString::from(text), allow_plaintext)
    }

    #[test]
    fn urls_that_name_a_server() {
        let table = [
            ("smtps://u:p@mail.example", false, "mail.example:465 (implicit TLS)"),
            ("smtps://u:p@mail.example:2465/", false, "mail.example:2465 (implicit TLS)"),
            ("smtps://mail.example?tls=required", false, "mail.example:465 (implicit TLS)"),
            ("smtp://u:p@mail.example?tls=required", false, "mail.example:587 (STARTTLS)"),
            ("smtp://mail.example:25", false, "mail.example:25 (STARTTLS)"),
            ("smtp://mail.example", true, "mail.example:587 (STARTTLS)"),
            ("smtp://127.0.0.1:1025", false, "127.0.0.1:1025 (STARTTLS)"),
            ("smtp://127.0.0.1:1025?tls=required", true, "127.0.0.1:1025 (STARTTLS)"),
            ("smtp://127.0.0.1:1025", true, "127.0.0.1:1025 (plaintext)"),
            ("smtp://localhost:1025?tls=none", true, "localhost:1025 (plaintext)"),
            ("smtp://[::1]:1025", true, "::1:1025 (plaintext)"),
            ("smtps://127.0.0.1:1025", true, "127.0.0.1:1025 (implicit TLS)"),
        ];
        for (text, allow_plaintext, want) in table {
            let url = parse(text, allow_plaintext).unwrap();
            assert_eq!(format!("{url:?}"), want, "{text}");
        }
    }

    #[test]
    fn urls_that_do_not() {
        let option = |name: &str| InvalidSmtpUrl::Option(name.to_owned());
        let table = [
            ("", InvalidSmtpUrl::Form),
            ("mail.example:25", InvalidSmtpUrl::Form),
            ("http://mail.example", InvalidSmtpUrl::Form),
            ("smtp://", InvalidSmtpUrl::Form),
            ("smtp://mail.example/path", InvalidSmtpUrl::Form),
            ("smtp://mail.example#x", InvalidSmtpUrl::Form),
            ("smtps://mail.example?tls=none", InvalidSmtpUrl::Form),
            ("smtp://mail.example?tls=none", InvalidSmtpUrl::Plaintext),
            ("smtp://192.0.2.1?tls=none", InvalidSmtpUrl::Plaintext),
            ("smtp://mail.example?tls=perhaps", option("tls")),
            ("smtp://mail.example?verify=no", option("verify")),
            ("smtp://mail.example?ca=", option("ca")),
            ("smtp://user@mail.example", InvalidSmtpUrl::Credentials),
            ("smtp://:secret@mail.example", InvalidSmtpUrl::Credentials),
            ("smtp://user:%zz@mail.example", InvalidSmtpUrl::Credentials),
            ("smtp://user:%ff@mail.example", InvalidSmtpUrl::Credentials),
            ("smtp://us%00er:secret@mail.example", InvalidSmtpUrl::Credentials),
        ];
        for (text, want) in table {
            assert_eq!(parse(text, true).unwrap_err(), want, "{text}");
        }
        assert_eq!(parse("smtp://127.0.0.1?tls=none", false).unwrap_err(), InvalidSmtpUrl::Plaintext);
        let missing = parse("smtps://mail.example?ca=/no/such/file", false).unwrap_err();
        assert!(matches!(missing, InvalidSmtpUrl::Ca { .. }), "{missing}");
    }

    #[test]
    fn p10_user_and_password_are_decoded_and_never_shown() {
        let url = parse("smtps://us%40er:p%C3%BC%3A+x@mail.example", false).unwrap();
        assert_eq!(url.credentials, Some(Credentials::new("us@er".to_owned(), "pü:+x".to_owned())));
        assert!(!format!("{url:?} {:?}", url.credentials).contains('@'));
        let error = parse("smtps://user:hunter2@mail.example?x=1", false).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
