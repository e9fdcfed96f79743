//! The frame of every page.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use crate::domain::credential::Secret;
use crate::domain::ids::Username;
use crate::http::Settings;

const STYLE: &str = include_str!("style.css");
const ICON: &str = include_str!("icon.svg");
/// The two files change only with the program.
const CACHED: &str = "public, max-age=3600";

/// `GET /style.css`
pub(in crate::http) async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, CACHED)], STYLE)
        .into_response()
}

/// `GET /favicon.svg`
pub(in crate::http) async fn icon() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, CACHED)], ICON).into_response()
}

/// A page as an answer.
pub(in crate::http) fn response(status: StatusCode, page: &Markup) -> Response {
    (status, Html(page.0.clone())).into_response()
}

/// Where a page leads by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refresh<'a> {
    pub(super) seconds: u32,
    pub(super) url: &'a str,
}

/// What stands at the top of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Navigation<'a> {
    /// The name alone.
    Plain,
    /// For visitors.
    Visitor(&'a Settings),
    /// For customers who signed in.
    Customer(&'a Settings),
}

/// A whole page.
pub(super) fn layout(
    title: &str,
    navigation: Navigation<'_>,
    refresh: Option<Refresh<'_>>,
    content: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(refresh) = refresh {
                    meta http-equiv="refresh" content={ (refresh.seconds) "; url=" (refresh.url) };
                }
                title { (title) " · Postmeter" }
                link rel="icon" type="image/svg+xml" href="/favicon.svg";
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    a.name href="/" { "Postmeter" }
                    (links(navigation))
                }
                main { (content) }
            }
        }
    }
}

fn links(navigation: Navigation<'_>) -> Markup {
    let inbox = |settings: &Settings| html! { @if settings.is_sandbox { a href="/inbox" { "Inbox" } } };
    match navigation {
        Navigation::Plain => html! {},
        Navigation::Visitor(settings) => html! { nav { (inbox(settings)) } },
        Navigation::Customer(settings) => html! {
            nav {
                a href="/account" { "Account" }
                a href="/account/send" { "Send" }
                a href="/account/credentials" { "Credentials" }
                (inbox(settings))
                form method="post" action="/sign-out" { button.quiet type="submit" { "Sign out" } }
            }
        },
    }
}

/// Something that went wrong, where the eye falls first.
pub(super) fn alert(text: &str) -> Markup {
    html! { p.alert role="alert" { (text) } }
}

/// What an app needs to be told.
pub(super) fn smtp_settings(settings: &Settings, credential: Option<(&Username, &Secret)>) -> Markup {
    let smtp = &settings.smtp;
    html! {
        dl.settings {
            dt { "Server" } dd { code { (smtp.host) } }
            @if let Some(port) = smtp.starttls_port { dt { "Port" } dd { code { (port) } " with STARTTLS" } }
            @if let Some(port) = smtp.tls_port { dt { "Port" } dd { code { (port) } " with implicit TLS" } }
            @if let Some((username, secret)) = credential {
                dt { "Username" } dd { code { (username) } }
                dt { "Secret" } dd { code { (secret.reveal()) } }
            }
        }
    }
}

/// A time, in UTC.
pub(super) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()) } }
}

/// A number as people read it: 1,234,567.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let table = [(0, "0"), (999, "999"), (4_999, "4,999"), (1_234_567, "1,234,567"), (-1_000, "−1,000")];
        for (number, want) in table {
            assert_eq!(grouped(number), want);
        }
    }
}
