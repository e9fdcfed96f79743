//! Who is signed in on the page: a cookie that says so, signed with a key that all
//! servers of a database have, so that any of them knows whom another one signed in.
//!
//! The cookie names a credential, never its secret, and the database is asked
//! each time: a revoked credential is signed out at once. `SameSite=Strict` and
//! a look at the `Origin` keep other sites from using it. Pure: time and key are
//! arguments.

use std::fmt;

use axum::http::{HeaderMap, header};
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::digest::hex;
use crate::domain::ids::Username;

/// How long a sign-in lasts.
const LIFETIME: SignedDuration = SignedDuration::from_hours(12);

/// What cookies are signed with.
#[derive(Clone)]
pub struct SessionKey([u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl SessionKey {
    /// Of what stands in the database and of a secret that does not: neither alone signs anybody in.
    pub fn new(shared: &[u8; 32], secret: &SecretString) -> Self {
        let key = Sha256::new_with_prefix(b"page sessions\0").chain_update(shared);
        Self(key.chain_update(secret.expose_secret()).finalize().into())
    }
}

/// Makes and checks the cookie.
pub(super) struct Sessions {
    key: SessionKey,
    is_secure: bool,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("is_secure", &self.is_secure).finish_non_exhaustive()
    }
}

impl Sessions {
    /// A browser keeps a secure cookie to https, so it is one only where the page is served so.
    pub(super) fn new(key: SessionKey, base_url: &str) -> Self {
        Self { key, is_secure: base_url.starts_with("https://") }
    }

    /// The `__Host-` prefix keeps a neighbouring domain from planting one (RFC 6265bis §4.1.3.2).
    fn name(&self) -> &'static str {
        if self.is_secure { "__Host-postmeter" } else { "postmeter" }
    }

    /// The `Set-Cookie` that signs a credential in.
    pub(super) fn begin(&self, username: &Username, now: Timestamp) -> String {
        let expires_s = now.checked_add(LIFETIME).unwrap_or(now).as_second();
        let value = format!("{expires_s}.{}.{username}", self.mac(expires_s, username.as_str()));
        self.cookie(&value, LIFETIME.as_secs())
    }

    /// The `Set-Cookie` that signs out.
    pub(super) fn end(&self) -> String {
        self.cookie("", 0)
    }

    fn cookie(&self, value: &str, max_age_s: i64) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let name = self.name();
        format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
    }

    /// The credential that is signed in, if the cookie is one of ours and not too old.
    pub(super) fn username(&self, headers: &HeaderMap, now: Timestamp) -> Option<Username> {
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find_map(|(name, value)| (name == self.name()).then(|| self.check(value, now)).flatten())
    }

    fn check(&self, value: &str, now: Timestamp) -> Option<Username> {
        let mut pieces = value.splitn(3, '.');
        let (expires_s, mac, username) = (pieces.next()?, pieces.next()?, pieces.next()?);
        let expires_s: i64 = expires_s.parse().ok()?;
        let is_ours: bool = self.mac(expires_s, username).as_bytes().ct_eq(mac.as_bytes()).into();
        if is_ours && now.as_second() < expires_s { Username::parse(username).ok() } else { None }
    }

    fn mac(&self, expires_s: i64, username: &str) -> String {
        let message = format!("{expires_s}.{username}");
        // HMAC takes a key of any length, so this cannot fail; no cookie is empty.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key.0) else {
            return String::new();
        };
        mac.update(message.as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

/// Whether a form was sent by a page of ours: its origin is the host that was
/// asked, or that of `base_url` where a proxy changes the host. Programs send no
/// origin, and have no browser's cookie to be abused.
pub(super) fn is_same_site(headers: &HeaderMap, base_url: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return false;
    }
    let Some(origin) = text("origin") else { return true };
    let host = origin.split_once("://").map(|(_, host)| host);
    let is_base =
        base_url == origin || base_url.strip_prefix(origin).is_some_and(|rest| rest.starts_with('/'));
    is_base || (host.is_some() && host == text("host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(shared: u8, secret: &str, base_url: &str) -> Sessions {
        Sessions::new(SessionKey::new(&[shared; 32], &SecretString::from(secret)), base_url)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sent(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[test]
    fn a_sign_in_lasts_twelve_hours_and_cannot_be_forged() {
        let sessions = |shared, secret| sessions(shared, secret, "https://meter.example");
        let (others, sessions) = ([sessions(8, "key"), sessions(7, "yek")], sessions(7, "key"));
        let username = Username::parse("a.b@c").unwrap();
        let cookie = sessions.begin(&username, at(1_000));
        assert!(cookie.starts_with("__Host-postmeter="));
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        assert_eq!(sessions.username(&sent(&cookie), at(1_000 + 43_199)), Some(username.clone()));
        assert_eq!(sessions.username(&sent(&cookie), at(1_000 + 43_200)), None);
        for forged in [
            cookie.replace("a.b@c", "x.b@c"),
            cookie.replace("=44200.", "=99999."),
            "__Host-postmeter=".to_owned(),
            "__Host-postmeter=44200.".to_owned(),
            sessions.end(),
            others[0].begin(&username, at(1_000)),
            others[1].begin(&username, at(1_000)),
        ] {
            assert_eq!(sessions.username(&sent(&forged), at(1_001)), None, "{forged}");
        }
        assert_eq!(sessions.username(&HeaderMap::new(), at(1_001)), None);
    }

    #[test]
    fn without_https_the_cookie_is_still_kept_by_the_browser() {
        let cookie = sessions(7, "key", "http://127.0.0.1:3000").begin(&"a".parse().unwrap(), at(0));
        assert!(cookie.starts_with("postmeter=") && !cookie.contains("Secure"), "{cookie}");
    }

    #[test]
    fn only_our_own_pages_may_send_forms() {
        let table = [
            (None, None, true),
            (Some("https://meter.example"), None, true),
            (Some("http://localhost:3000"), Some("same-origin"), true),
            (Some("https://meter.example.evil.example"), None, false),
            (Some("https://evil.example"), None, false),
            (Some("https://meter"), None, false),
            (Some("null"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("none"), true),
            (Some("https://meter.example"), Some("same-site"), false),
        ];
        for (origin, site, want) in table {
            let mut headers = HeaderMap::new();
            headers.insert("host", "localhost:3000".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert("origin", origin.parse().unwrap());
            }
            if let Some(site) = site {
                headers.insert("sec-fetch-site", site.parse().unwrap());
            }
            assert_eq!(is_same_site(&headers, "https://meter.example"), want, "{origin:?} {site:?}");
        }
    }

    #[test]
    fn p10_the_key_is_never_shown() {
        let key = SessionKey::new(&[77; 32], &SecretString::from("key"));
        assert_eq!(format!("{key:?}"), "SessionKey(…)");
        assert!(!format!("{:?}", Sessions::new(key, "")).contains("77"));
    }
}
