//! How Postmeter calls the two services: one HTTP client with one set of habits.
//!
//! A User-Agent (Resend refuses calls without one), rustls with ring and the
//! Mozilla roots, no redirects (a key must not follow one), a time limit of our
//! own and no retries (the durable queue is the one retry loop). Every answer
//! comes back with what it says about rate limits; every failure says whether
//! the request can have arrived. What this module must not know: either
//! service's paths, bodies or error names.

#[cfg(test)]
pub(crate) mod stand_in;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

/// What both services read in their logs.
const USER_AGENT: &str = concat!("postmeter/", env!("CARGO_PKG_VERSION"));

/// Longest wait for a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Octets of an answer that are kept; a page of 100 balances is far smaller.
const MAX_ANSWER_OCTETS: usize = 1 << 20;

/// The longest that a service may ask us to wait; more is taken as this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Why no client could be made. Never contains the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// The base URL is not an `http` or `https` URL with a host.
    #[error("{0:?} is not an http:// or https:// URL")]
    BaseUrl(String),
    /// The key cannot stand in a header.
    #[error("the API key has characters that no key has")]
    ApiKey,
    /// TLS or the client could not be set up.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
}

/// One service: where it is, and the key that opens it.
#[derive(Debug, Clone)]
pub struct Service {
    client: reqwest::Client,
    base_url: reqwest::Url,
}

/// What came back, whatever the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// What it says about rate limits.
    pub rate: RateInfo,
    /// The body: empty, cut at a megabyte, or cut short if the connection was lost.
    pub body: Vec<u8>,
}

/// No status came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// No connection was made: the service has seen nothing of the request.
    #[error("{0}")]
    NotSent(String),
    /// The request left, or may have left: the service may have acted on it.
    #[error("{0}")]
    Lost(String),
}

/// What an answer says about the rate limit, as far as it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateInfo {
    /// Calls allowed in a window.
    pub limit: Option<u32>,
    /// Calls left in this window.
    pub remaining: Option<u32>,
    /// When the window ends: seconds for Resend; Dodo does not document its unit.
    pub reset: Option<u64>,
    /// How long we are asked to wait, at most [`MAX_RETRY_AFTER`].
    pub retry_after: Option<Duration>,
}

impl Service {
    /// A client of the service at `base_url` (without the last slash), with
    /// `api_key` as bearer token on every call and `timeout` for each whole call.
    pub fn new(base_url: &str, api_key: &SecretString, timeout: Duration) -> Result<Self, InvalidService> {
        let url = reqwest::Url::parse(base_url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(base_url) = url else {
            return Err(InvalidService::BaseUrl(base_url.to_owned()));
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config()?)
            .user_agent(USER_AGENT)
            .default_headers(authorization(api_key)?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout);
        // A proxy from the environment has no way to this machine's loopback.
        if is_loopback(&base_url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| InvalidService::Client(told(&error)))?;
        Ok(Self { client, base_url })
    }

    /// The base URL, without a slash at the end.
    pub fn base_url(&self) -> &str {
        self.base_url.as_str().trim_end_matches('/')
    }

    /// A GET of the path with these segments; each is escaped.
    pub fn get(&self, path: &[&str]) -> reqwest::RequestBuilder {
        self.client.get(self.at(path))
    }

    /// A POST to the path with these segments; each is escaped.
    pub fn post(&self, path: &[&str]) -> reqwest::RequestBuilder {
        self.client.post(self.at(path))
    }

    /// A DELETE of the path with these segments; each is escaped.
    pub fn delete(&self, path: &[&str]) -> reqwest::RequestBuilder {
        self.client.delete(self.at(path))
    }

    fn at(&self, path: &[&str]) -> reqwest::Url {
        let mut url = self.base_url.clone();
        // Only a URL that cannot be a base has no path, and `new` accepts none.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// Makes one call. `now` is for a `retry-after` that names a date.
pub async fn call(request: reqwest::RequestBuilder, now: Timestamp) -> Result<HttpAnswer, CallFailure> {
    let mut response = request.send().await.map_err(|error| {
        let text = told(&error);
        if error.is_connect() || error.is_builder() {
            CallFailure::NotSent(text)
        } else {
            CallFailure::Lost(text)
        }
    })?;
    let status = response.status().as_u16();
    let rate = RateInfo::read(response.headers(), now);
    let mut body = Vec::new();
    // The status is the answer: when the connection breaks in the body, what
    // was read of it is handed on and its reader decides whether it needs more.
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ANSWER_OCTETS.saturating_sub(body.len());
        body.extend(chunk.iter().take(room));
        if body.len() >= MAX_ANSWER_OCTETS {
            break;
        }
    }
    Ok(HttpAnswer { status, rate, body })
}

impl RateInfo {
    /// Reads `ratelimit-*` (Resend), `x-ratelimit-*` (Dodo), `retry-after-ms` and `retry-after`.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        Self {
            limit: number(headers, &["ratelimit-limit", "x-ratelimit-limit"]),
            remaining: number(headers, &["ratelimit-remaining", "x-ratelimit-remaining"]),
            reset: number(headers, &["ratelimit-reset", "x-ratelimit-reset"]),
            retry_after: retry_after(headers, now).map(|wait| wait.min(MAX_RETRY_AFTER)),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

fn number<N: std::str::FromStr>(headers: &HeaderMap, names: &[&str]) -> Option<N> {
    names.iter().find_map(|name| text(headers, name)?.parse().ok())
}

/// RFC 9110 §10.2.3: seconds or a date. `retry-after-ms` is what the two
/// services' own clients look for first.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    if let Some(millis) = number(headers, &["retry-after-ms"]) {
        return Some(Duration::from_millis(millis));
    }
    let value = text(headers, "retry-after")?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

fn authorization(api_key: &SecretString) -> Result<HeaderMap, InvalidService> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", api_key.expose_secret()))
        .map_err(|_| InvalidService::ApiKey)?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn tls_config() -> Result<rustls::ClientConfig, InvalidService> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidService::Client(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The error and its causes in one line, without the URL: a path may name a customer.
fn told(error: &reqwest::Error) -> String {
    let mut line = if error.is_timeout() {
        "timed out".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else {
        "the call failed".to_owned()
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn rate_headers_of_either_service_are_understood() {
        let now: Timestamp = "2026-09-01T12:00:00Z".parse().unwrap();
        let seconds = |s| Some(Duration::from_secs(s));
        let info = |limit, remaining, reset, retry_after| RateInfo { limit, remaining, reset, retry_after };
        let table = [
            (headers(&[]), RateInfo::default()),
            (
                headers(&[
                    ("ratelimit-limit", "10"),
                    ("ratelimit-remaining", "0"),
                    ("ratelimit-reset", "1"),
                    ("retry-after", "1"),
                ]),
                info(Some(10), Some(0), Some(1), seconds(1)),
            ),
            (
                headers(&[
                    ("x-ratelimit-limit", "240"),
                    ("x-ratelimit-remaining", "7"),
                    ("x-ratelimit-reset", "1788264000000"),
                ]),
                info(Some(240), Some(7), Some(1_788_264_000_000), None),
            ),
            (
                headers(&[("retry-after-ms", "250"), ("retry-after", "9")]),
                info(None, None, None, Some(Duration::from_millis(250))),
            ),
            (
                headers(&[("retry-after", "Tue, 01 Sep 2026 12:00:30 GMT")]),
                info(None, None, None, seconds(30)),
            ),
            (
                headers(&[("retry-after", "Tue, 01 Sep 2026 11:00:00 GMT")]),
                info(None, None, None, seconds(0)),
            ),
            (headers(&[("retry-after", "86400")]), info(None, None, None, Some(MAX_RETRY_AFTER))),
            (headers(&[("retry-after", "soon"), ("ratelimit-limit", "-1")]), RateInfo::default()),
        ];
        for (headers, want) in table {
            assert_eq!(RateInfo::read(&headers, now), want, "{headers:?}");
        }
    }

    #[test]
    fn a_service_needs_a_sound_url_and_key() {
        let new = |url: &str, key: &str| {
            Service::new(url, &SecretString::from(key), Duration::from_secs(1)).map(|_| ()).unwrap_err()
        };
        for url in ["", "api.example.com", "ftp://example.com", "/relative"] {
            assert_eq!(new(url, "k"), InvalidService::BaseUrl(url.to_owned()));
        }
        assert_eq!(new("https://api.example.com", "key\nwith a line break"), InvalidService::ApiKey);
    }

    #[test]
    fn p10_the_key_is_not_in_debug() {
        let key = SecretString::from("dodo_test_very_secret");
        let service = Service::new("https://api.example.com/", &key, Duration::from_secs(1)).unwrap();
        assert_eq!(service.base_url(), "https://api.example.com");
        assert!(!format!("{service:?}").contains("very_secret"), "{service:?}");
    }

    #[tokio::test]
    async fn nothing_was_sent_when_nobody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let service = Service::new(&url, &SecretString::from("k"), Duration::from_secs(5)).unwrap();
        let failure = call(service.get(&["x"]), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(
            matches!(&failure, CallFailure::NotSent(text) if text.contains("cannot connect")),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_request_without_an_answer_may_have_arrived() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut first = [0; 16];
            tokio::io::AsyncReadExt::read_exact(&mut socket, &mut first).await.unwrap();
        });
        let service = Service::new(&url, &SecretString::from("k"), Duration::from_secs(5)).unwrap();
        let failure = call(service.get(&["x"]), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(matches!(failure, CallFailure::Lost(_)), "{failure}");
        server.await.unwrap();
    }
}
