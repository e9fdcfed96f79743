//! The frame of the sandbox's pages: escaped by construction, no script, no
//! style of their own, nothing from elsewhere.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

/// What a page may load, and where its forms may lead.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// A page. `form_target` is an origin, beside our own, to which its form may redirect.
pub(super) fn page(status: StatusCode, title: &str, form_target: Option<&str>, content: &Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Postmeter sandbox" }
                link rel="icon" type="image/svg+xml" href="/favicon.svg";
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    a.name href="/" { "Postmeter sandbox" }
                    nav { a href="/inbox" { "Inbox" } }
                }
                main { (content) }
            }
        }
    };
    let policy = format!("{POLICY}; form-action 'self' {}", form_target.unwrap_or_default());
    let mut response = (status, markup.into_string()).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = HeaderValue::from_str(policy.trim_end());
    fields.insert(
        header::CONTENT_SECURITY_POLICY,
        policy.unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'")),
    );
    response
}

/// A page that says what is not there or cannot be done.
pub(super) fn notice(status: StatusCode, text: &str) -> Response {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    let text: String = first.into_iter().chain(rest).collect();
    page(status, &text, None, &html! { h1 { (text) } })
}
