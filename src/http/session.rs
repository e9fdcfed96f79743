//! Who is signed in on the page: a cookie with the id of a session, signed with a key that all
//! servers of a database have, so that any of them knows whom another one signed in.
//!
//! The id is random and says nothing; the database says whose session it is, each time it is
//! asked, so that a session is over when its row is gone and a revoked credential is signed out
//! at once. The signature keeps the database from being asked about what we never gave out.
//! `SameSite=Strict` and a look at the `Origin` keep other sites from using the cookie. Pure:
//! time, randomness and key are arguments.

use std::fmt;

use axum::http::{HeaderMap, header};
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::credential::Secret;
use crate::domain::digest::hex;
use crate::store::session::NewSession;

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

    /// A key for the operator's sign-ins, which ends with the token as this one does with the secret.
    pub(super) fn of_operator(&self, token: &SecretString) -> Self {
        let key = Sha256::new_with_prefix(b"operator sessions\0").chain_update(self.0);
        Self(key.chain_update(token.expose_secret()).finalize().into())
    }

    /// What nobody can write who does not have the key.
    pub(super) fn mac(&self, message: &str) -> String {
        mac_of(&self.0, message)
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

    /// A session by this id, which nobody has had before, and the `Set-Cookie` that it goes by.
    pub(super) fn begin(&self, id: &Secret, now: Timestamp) -> (NewSession, String) {
        let expires_at = now.checked_add(LIFETIME).unwrap_or(now);
        let (expires_s, id) = (expires_at.as_second(), id.reveal());
        let value = format!("{expires_s}.{}.{id}", self.mac(expires_s, id));
        let new = NewSession { session_hash: hash_of(id), begun_at: now, expires_at };
        (new, self.cookie(&value, LIFETIME.as_secs()))
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

    /// The hash of the session that the cookie names, if it is one of ours and not too old.
    pub(super) fn find(&self, headers: &HeaderMap, now: Timestamp) -> Option<String> {
        cookies(headers, self.name()).find_map(|value| self.check(value, now))
    }

    fn check(&self, value: &str, now: Timestamp) -> Option<String> {
        let mut pieces = value.splitn(3, '.');
        let (expires_s, mac, id) = (pieces.next()?, pieces.next()?, pieces.next()?);
        let expires_s: i64 = expires_s.parse().ok()?;
        let is_ours: bool = self.mac(expires_s, id).as_bytes().ct_eq(mac.as_bytes()).into();
        (is_ours && now.as_second() < expires_s).then(|| hash_of(id))
    }

    fn mac(&self, expires_s: i64, id: &str) -> String {
        self.key.mac(&format!("{expires_s}.{id}"))
    }
}

/// What is signed with that key, in hexadecimal.
pub(super) fn mac_of(key: &[u8; 32], message: &str) -> String {
    // HMAC takes a key of any length, so this cannot fail; nothing that is signed reads so.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(message.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hash_of(id: &str) -> String {
    hex(Secret::presented(id).hash().as_bytes())
}

/// The values of the cookies of that name.
pub(super) fn cookies<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(named, _)| *named == name).map(|(_, value)| value)
}

/// Whether a form was sent by a page of ours: its origin is the host that was
/// asked, or that of `base_url` where a proxy changes the host. Programs send no
/// origin, and have no browser's cookie to be abused.
pub(crate) fn is_same_site(headers: &HeaderMap, base_url: &str) -> bool {
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
        let id = Secret::generate([9; 32]);
        let (new, cookie) = sessions.begin(&id, at(1_000));
        assert!(cookie.starts_with("__Host-postmeter="));
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        assert_eq!((new.begun_at, new.expires_at), (at(1_000), at(1_000 + 43_200)));
        assert!(!cookie.contains(&new.session_hash), "the database does not sign anybody in");
        assert_eq!(sessions.find(&sent(&cookie), at(1_000 + 43_199)), Some(new.session_hash.clone()));
        assert_eq!(sessions.find(&sent(&cookie), at(1_000 + 43_200)), None);
        for forged in [
            cookie.replace("0909", "0908"),
            cookie.replace("=44200.", "=99999."),
            format!("__Host-postmeter=44200.{}.{}", new.session_hash, new.session_hash),
            "__Host-postmeter=".to_owned(),
            "__Host-postmeter=44200.".to_owned(),
            sessions.end(),
            others[0].begin(&id, at(1_000)).1,
            others[1].begin(&id, at(1_000)).1,
        ] {
            assert_eq!(sessions.find(&sent(&forged), at(1_001)), None, "{forged}");
        }
        assert_eq!(sessions.find(&HeaderMap::new(), at(1_001)), None);
    }

    #[test]
    fn without_https_the_cookie_is_still_kept_by_the_browser() {
        let (_, cookie) =
            sessions(7, "key", "http://127.0.0.1:3000").begin(&Secret::generate([9; 32]), at(0));
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
