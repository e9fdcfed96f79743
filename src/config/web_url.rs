//! Web addresses in settings: checked once, kept as text.

/// Checks that `text` is an `http` or `https` URL with a host and without a
/// password, which would end up in logs and pages.
pub(super) fn check(text: &str) -> Result<reqwest::Url, &'static str> {
    let url = reqwest::Url::parse(text).map_err(|_| "is not a URL such as https://mail.example.com")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// (or http://)");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password");
    }
    Ok(url)
}

/// Checks a URL that paths are appended to; gives it without a slash at the end.
pub(super) fn base(text: &str) -> Result<String, &'static str> {
    let url = check(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end before any ? or #: paths are appended to it");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Whether a host name or address, as it stands in a URL, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
