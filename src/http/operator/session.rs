//! Whether the operator is signed in on the page: a cookie of its own, which is sent to
//! `/operator` alone and signed with a key that the admin token is part of. So another token
//! ends every sign-in. Pure: time and key are arguments.

use std::fmt;

use axum::http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use subtle::ConstantTimeEq;

use crate::http::Settings;
use crate::http::session::{SessionKey, cookies};

/// How long a sign-in lasts.
const LIFETIME: SignedDuration = SignedDuration::from_hours(12);

/// Makes and checks the cookie.
#[derive(Clone)]
pub(in crate::http) struct Sessions {
    key: SessionKey,
    is_secure: bool,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("operator::Sessions").field("is_secure", &self.is_secure).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Those of the token; `None`: there is none.
    pub(in crate::http) fn new(settings: &Settings) -> Option<Self> {
        let token = settings.admin_token.as_ref()?;
        let key = settings.session_key.of_operator(token);
        Some(Self { key, is_secure: settings.base_url.starts_with("https://") })
    }

    /// `__Host-` would ask for another path (RFC 6265bis §4.1.3.2).
    const fn name(&self) -> &'static str {
        if self.is_secure { "__Secure-postmeter-operator" } else { "postmeter-operator" }
    }

    /// The `Set-Cookie` that signs in.
    pub(super) fn begin(&self, now: Timestamp) -> String {
        let expires_s = now.checked_add(LIFETIME).unwrap_or(now).as_second();
        self.cookie(&format!("{expires_s}.{}", self.mac(expires_s)), LIFETIME.as_secs())
    }

    /// The `Set-Cookie` that signs out.
    pub(super) fn end(&self) -> String {
        self.cookie("", 0)
    }

    fn cookie(&self, value: &str, max_age_s: i64) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let name = self.name();
        format!("{name}={value}; Path=/operator; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Whether a cookie is one of ours and not too old.
    pub(super) fn is_signed_in(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        cookies(headers, self.name()).any(|value| self.is_good(value, now))
    }

    fn is_good(&self, value: &str, now: Timestamp) -> bool {
        let Some((expires_s, mac)) = value.split_once('.') else { return false };
        let Ok(expires_s) = expires_s.parse::<i64>() else { return false };
        let is_ours: bool = self.mac(expires_s).as_bytes().ct_eq(mac.as_bytes()).into();
        is_ours && now.as_second() < expires_s
    }

    fn mac(&self, expires_s: i64) -> String {
        self.key.mac(&expires_s.to_string())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header;
    use secrecy::SecretString;

    use super::*;

    fn sessions(token: &str, is_secure: bool) -> Sessions {
        let key = SessionKey::new(&[7; 32], &SecretString::from("key"));
        Sessions { key: key.of_operator(&SecretString::from(token)), is_secure }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sent(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[test]
    fn an_operators_sign_in_ends_after_twelve_hours_or_with_the_token() {
        let own = sessions("token", true);
        let cookie = own.begin(at(1_000));
        assert!(cookie.starts_with("__Secure-postmeter-operator="), "{cookie}");
        let end = "; Path=/operator; Max-Age=43200; HttpOnly; SameSite=Strict; Secure";
        assert!(cookie.ends_with(end), "{cookie}");
        assert!(own.is_signed_in(&sent(&cookie), at(1_000 + 43_199)));
        assert!(!own.is_signed_in(&sent(&cookie), at(1_000 + 43_200)));
        for forged in [
            sessions("another", true).begin(at(1_000)),
            sessions("token", false).begin(at(1_000)),
            cookie.replace("=44200.", "=99999."),
            own.end(),
            "__Secure-postmeter-operator=44200.".to_owned(),
            "__Secure-postmeter-operator=x".to_owned(),
        ] {
            assert!(!own.is_signed_in(&sent(&forged), at(1_001)), "{forged}");
        }
        assert!(!own.is_signed_in(&HeaderMap::new(), at(1_001)));
        assert!(!format!("{own:?}").contains("token"), "P10");
    }
}
