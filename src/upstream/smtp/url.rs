//! `UPSTREAM_SMTP_URL`: where the servers are, how the way to each is protected, and
//! who we are there. Pure but for [`SmtpUrl::tls_config`], which reads the `ca` file.
//! No error here repeats a URL, which holds a password.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;

/// Why the URLs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSmtpUrl {
    /// One of several.
    #[error("URL {number} of {count}: {reason}")]
    OneOf {
        /// Which, from 1.
        number: usize,
        /// How many there are.
        count: usize,
        /// What is wrong with it.
        reason: Box<InvalidSmtpUrl>,
    },
    /// Not a URL of the two kinds.
    #[error(
        "it must read smtps://user:password@host:465 or smtp://user:password@host:587?tls=required \
         (special characters of the password as %XX; several URLs with spaces between them)"
    )]
    Form,
    /// A user without a password, or one of them badly encoded.
    #[error("user and password must both be there, percent-encoded, or neither")]
    Credentials,
    /// A word after the `?` that means nothing.
    #[error("it may carry tls=required, tls=none and ca=FILE, and no other parameter")]
    Option,
    /// In the clear, but not allowed.
    #[error(
        "sending in the clear needs upstream.allow_plaintext = true and a host on this machine's \
         loopback; elsewhere add ?tls=required"
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    /// TLS from the first octet (RFC 8314).
    Implicit,
    /// STARTTLS, which the server must offer (RFC 3207).
    StartTls,
    /// Not at all; loopback only.
    Plaintext,
}

/// What we sign in with (RFC 4954).
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) user: SecretString,
    pub(super) password: SecretString,
}

/// One URL, read.
#[derive(Clone)]
pub(super) struct SmtpUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) credentials: Option<Credentials>,
    ca: Option<String>,
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let security = match self.security {
            Security::Implicit => "implicit TLS",
            Security::StartTls => "STARTTLS",
            Security::Plaintext => "plaintext",
        };
        write!(f, "{self} ({security})")
    }
}

/// `host:port`, for the log.
impl fmt::Display for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Checks `UPSTREAM_SMTP_URL` as far as that is possible without a look at the disk.
pub fn check_urls(text: &str, allow_plaintext: bool) -> Result<(), InvalidSmtpUrl> {
    SmtpUrl::parse_all(text, allow_plaintext).map(|_| ())
}

impl SmtpUrl {
    /// The URLs in their order, one at least. White space stands between them: unlike
    /// a comma, no URL holds any.
    pub(super) fn parse_all(text: &str, allow_plaintext: bool) -> Result<Vec<Self>, InvalidSmtpUrl> {
        let count = text.split_whitespace().count();
        if count == 0 {
            return Err(InvalidSmtpUrl::Form);
        }
        let numbered = |(number, reason)| match count {
            1 => reason,
            _ => InvalidSmtpUrl::OneOf { number, count, reason: Box::new(reason) },
        };
        let one =
            |(number, text)| Self::parse(text, allow_plaintext).map_err(|reason| numbered((number, reason)));
        (1..).zip(text.split_whitespace()).map(one).collect()
    }

    fn parse(text: &str, allow_plaintext: bool) -> Result<Self, InvalidSmtpUrl> {
        let url = Url::parse(text).map_err(|_| InvalidSmtpUrl::Form)?;
        let host = url.host_str().filter(|host| !host.is_empty() && !host.contains(','));
        let host = host.ok_or(InvalidSmtpUrl::Form)?.trim_matches(['[', ']']).to_owned();
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(InvalidSmtpUrl::Form);
        }
        let options = Options::read(&url)?;
        let (default_port, security) = match (url.scheme(), options.tls) {
            ("smtps", None | Some(true)) => (465, Security::Implicit),
            ("smtp", Some(true)) => (587, Security::StartTls),
            // Without a word about TLS it is required, unless the operator's other word contradicts that.
            ("smtp", None) if !allow_plaintext => (587, Security::StartTls),
            ("smtp", _) if allow_plaintext && is_loopback(&host) => (587, Security::Plaintext),
            ("smtp", _) => return Err(InvalidSmtpUrl::Plaintext),
            _ => return Err(InvalidSmtpUrl::Form),
        };
        let port = url.port().unwrap_or(default_port);
        Ok(Self { host, port, security, credentials: credentials(&url)?, ca: options.ca })
    }

    /// Whom to trust: the public roots, and those of the `ca` file.
    pub(super) fn tls_config(&self) -> Result<Arc<ClientConfig>, InvalidSmtpUrl> {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = &self.ca {
            add_roots(&mut roots, path)
                .map_err(|reason| InvalidSmtpUrl::Ca { path: path.clone(), reason })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| InvalidSmtpUrl::Form)?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
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
                _ => return Err(InvalidSmtpUrl::Option),
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
            Ok(Some(Credentials { user: user.into(), password: password.into() }))
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
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn urls_that_name_a_server() {
        let table = [
            ("smtps://u:p@mail.example", false, "mail.example:465 (implicit TLS)"),
            ("smtps://u:p@mail.example:2465/", false, "mail.example:2465 (implicit TLS)"),
            ("smtps://mail.example?tls=required", false, "mail.example:465 (implicit TLS)"),
            ("smtp://u:p@mail.example?tls=required", false, "mail.example:587 (STARTTLS)"),
            ("smtp://mail.example:25", false, "mail.example:25 (STARTTLS)"),
            ("smtp://mail.example?tls=required", true, "mail.example:587 (STARTTLS)"),
            ("smtp://127.0.0.1:1025", false, "127.0.0.1:1025 (STARTTLS)"),
            ("smtp://127.0.0.1:1025?tls=required", true, "127.0.0.1:1025 (STARTTLS)"),
            ("smtp://127.0.0.1:1025", true, "127.0.0.1:1025 (plaintext)"),
            ("smtp://localhost:1025?tls=none", true, "localhost:1025 (plaintext)"),
            ("smtp://[::1]:1025", true, "::1:1025 (plaintext)"),
            ("smtps://127.0.0.1:1025", true, "127.0.0.1:1025 (implicit TLS)"),
        ];
        for (text, allow_plaintext, want) in table {
            let url = SmtpUrl::parse(text, allow_plaintext).unwrap();
            assert_eq!(format!("{url:?}"), want, "{text}");
        }
    }

    #[test]
    fn several_urls_keep_their_order() {
        let table = [
            ("smtps://a.example", &["a.example:465"][..]),
            (" smtps://a.example\n\tsmtp://b.example \n", &["a.example:465", "b.example:587"]),
            ("smtps://u:x,y@b.example smtps://a.example", &["b.example:465", "a.example:465"]),
        ];
        for (text, want) in table {
            let urls = SmtpUrl::parse_all(text, false).unwrap();
            assert_eq!(urls.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{text}");
        }
    }

    #[test]
    fn the_one_that_is_wrong_is_named_by_its_number() {
        let wrong =
            |number, count, reason| Err(InvalidSmtpUrl::OneOf { number, count, reason: Box::new(reason) });
        let table = [
            ("", Err(InvalidSmtpUrl::Form)),
            ("smtps://a.example smtps://b.example", Ok(())),
            ("smtps://a.example nonsense", wrong(2, 2, InvalidSmtpUrl::Form)),
            ("smtps://a.example, smtps://b.example", wrong(1, 2, InvalidSmtpUrl::Form)),
            ("smtps://a.example,smtps://b.example", Err(InvalidSmtpUrl::Form)),
            ("smtps://a smtps://b?x=1 smtps://c", wrong(2, 3, InvalidSmtpUrl::Option)),
        ];
        for (text, want) in table {
            assert_eq!(check_urls(text, false), want, "{text}");
        }
    }

    #[test]
    fn urls_that_do_not() {
        let table = [
            ("", InvalidSmtpUrl::Form),
            ("mail.example:25", InvalidSmtpUrl::Form),
            ("http://mail.example", InvalidSmtpUrl::Form),
            ("smtp://", InvalidSmtpUrl::Form),
            ("smtp://mail.example/path", InvalidSmtpUrl::Form),
            ("smtp://mail.example#x", InvalidSmtpUrl::Form),
            ("smtps://mail.example?tls=none", InvalidSmtpUrl::Form),
            ("smtp://mail.example", InvalidSmtpUrl::Plaintext),
            ("smtp://mail.example?tls=none", InvalidSmtpUrl::Plaintext),
            ("smtp://192.0.2.1?tls=none", InvalidSmtpUrl::Plaintext),
            ("smtp://mail.example?tls=perhaps", InvalidSmtpUrl::Option),
            ("smtp://mail.example?verify=no", InvalidSmtpUrl::Option),
            ("smtp://mail.example?ca=", InvalidSmtpUrl::Option),
            ("smtps://user@mail.example", InvalidSmtpUrl::Credentials),
            ("smtps://:secret@mail.example", InvalidSmtpUrl::Credentials),
            ("smtps://user:%zz@mail.example", InvalidSmtpUrl::Credentials),
            ("smtps://user:%ff@mail.example", InvalidSmtpUrl::Credentials),
            ("smtps://us%00er:secret@mail.example", InvalidSmtpUrl::Credentials),
        ];
        for (text, want) in table {
            assert_eq!(SmtpUrl::parse(text, true).unwrap_err(), want, "{text}");
        }
        let in_the_clear = SmtpUrl::parse("smtp://127.0.0.1?tls=none", false);
        assert_eq!(in_the_clear.unwrap_err(), InvalidSmtpUrl::Plaintext);
        let missing = SmtpUrl::parse("smtps://mail.example?ca=/no/such/file", false).unwrap().tls_config();
        assert!(matches!(missing, Err(InvalidSmtpUrl::Ca { .. })), "{missing:?}");
    }

    #[test]
    fn p10_user_and_password_are_decoded_and_never_shown() {
        let url = SmtpUrl::parse("smtps://us%40er:p%C3%BC%3A+x@mail.example", false).unwrap();
        assert!(!format!("{url:?} {url} {:?}", url.credentials).contains('@'));
        let credentials = url.credentials.unwrap();
        assert_eq!(credentials.user.expose_secret(), "us@er");
        assert_eq!(credentials.password.expose_secret(), "pü:+x");
        for text in ["smtps://user:hunter2@mail.example?x=1", "smtps://user?hunter2@mail.example"] {
            let error = SmtpUrl::parse(text, false).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
