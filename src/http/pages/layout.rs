//! The frame of every page, and the pieces that pages share.
//!
//! What style.css offers beside plain elements: `section` is a card; `.columns` and
//! `.figures` are grids; `table.stack` becomes a list of cards on a phone, where each
//! `td` is named by its `data-label`; `.wide` is a table that scrolls sideways (use
//! [`scrolling`]); `.toolbar` is a row of fields and buttons; `button.quiet` is a link,
//! `button.second` and `.button.second` are not the main action, `button.danger` destroys.
//! An element with an `id` and `data-live` is replaced by the script when something changes.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use crate::domain::credential::Secret;
pub(super) use crate::domain::credits::grouped;
use crate::domain::ids::Username;
use crate::http::Settings;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
const ICON: &str = include_str!("icon.svg");
/// The files change only with the program.
const CACHED: &str = "public, max-age=3600";

/// `GET /style.css`
pub(in crate::http) async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, CACHED)], STYLE)
        .into_response()
}

/// `GET /script.js`
pub(in crate::http) async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, CACHED)], SCRIPT)
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

/// The pages of a customer, as the navigation names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Place {
    Overview,
    Messages,
    Send,
    Credentials,
    Senders,
    Suppressions,
    Connect,
}

impl Place {
    const ALL: [Self; 7] = [
        Self::Overview,
        Self::Messages,
        Self::Send,
        Self::Credentials,
        Self::Senders,
        Self::Suppressions,
        Self::Connect,
    ];

    /// Its name, its path, and the lines of its sign.
    const fn face(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Overview => ("Overview", "/account", "M4 18a9 9 0 1 1 16 0M12 15l4-6M12 15h0"),
            Self::Messages => ("Messages", "/account/messages", "M3 6h18v12H3zM3 7l9 6 9-6"),
            Self::Send => ("Send", "/account/send", "M21 3 3 10l7 3 3 7zM10 13 21 3"),
            Self::Credentials => (
                "Credentials",
                "/account/credentials",
                "M11 13l-8 8M5 19l2 2M11 13a5 5 0 1 1 6.5-6.5A5 5 0 0 1 11 13",
            ),
            Self::Senders => {
                ("Senders", "/account/senders", "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8M4 21a8 8 0 0 1 16 0")
            }
            Self::Suppressions => (
                "Suppressions",
                "/account/suppressions",
                "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M5.6 5.6l12.8 12.8",
            ),
            Self::Connect => {
                ("Connect", "/account/connect", "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4")
            }
        }
    }
}

/// What stands at the top of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Navigation<'a> {
    /// The name alone.
    Plain,
    /// For visitors.
    Visitor(&'a Settings),
    /// For customers who signed in, and where they are.
    Customer(&'a Settings, Place),
    /// For the operator: links of its own.
    Operator(&'a Markup),
}

/// A whole page. A customer's page that looks again by itself does so only where there
/// is no script, which replaces its live parts instead.
pub(super) fn layout(
    title: &str,
    navigation: Navigation<'_>,
    refresh: Option<Refresh<'_>>,
    content: &Markup,
) -> Markup {
    let is_app = matches!(navigation, Navigation::Customer(..) | Navigation::Operator(_));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(refresh) = refresh {
                    @if is_app { noscript { (look_again(refresh)) } } @else { (look_again(refresh)) }
                }
                title { (title) " · Postmeter" }
                link rel="icon" type="image/svg+xml" href="/favicon.svg";
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body.app[is_app] {
                a.skip href="#content" { "Skip to the content" }
                header {
                    a.name href="/" { (mark()) "Postmeter" }
                    (links(navigation))
                }
                main #content tabindex="-1" { (content) }
                p #said.unseen role="status" {}
            }
        }
    }
}

fn look_again(refresh: Refresh<'_>) -> Markup {
    html! { meta http-equiv="refresh" content={ (refresh.seconds) "; url=" (refresh.url) }; }
}

/// The sign beside the name: an envelope with a meter's needle.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 32 32" aria-hidden="true" {
            rect x="2" y="6" width="28" height="20" rx="5" {}
            path d="M6 11l10 7 10-7" {}
        }
    }
}

/// The sign beside a link.
pub(super) fn sign(lines: &str) -> Markup {
    html! { svg.sign viewBox="0 0 24 24" aria-hidden="true" { path d=(lines) {} } }
}

fn links(navigation: Navigation<'_>) -> Markup {
    match navigation {
        Navigation::Plain => html! {},
        Navigation::Operator(links) => links.clone(),
        Navigation::Visitor(settings) => html! {
            @if settings.is_sandbox { nav aria-label="Main" { a href="/inbox" { "Inbox" } } }
        },
        Navigation::Customer(settings, place) => html! {
            nav aria-label="Account" {
                @for each in Place::ALL {
                    @let (name, path, lines) = each.face();
                    a href=(path) aria-current=[(each == place).then_some("page")] { (sign(lines)) (name) }
                }
                @if settings.is_sandbox {
                    a href="/inbox" { (sign("M3 13l3-8h12l3 8v6H3zM3 13h5l1 3h6l1-3h5")) "Inbox" }
                }
                form method="post" action="/sign-out" {
                    button.leave type="submit" { (sign("M14 4H5v16h9M10 12h11M17 8l4 4-4 4")) "Sign out" }
                }
            }
        },
    }
}

/// Something that went wrong, where the eye falls first.
pub(super) fn alert(text: &str) -> Markup {
    html! { p.alert role="alert" { (text) } }
}

/// Something that needs attention and is not wrong yet.
pub(super) fn warning(text: &str) -> Markup {
    html! { p.warn { (text) } }
}

/// How a state looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    /// It may need somebody.
    Warn,
    /// Neither.
    Plain,
}

/// A state in a word or three.
pub(super) fn badge(tone: Tone, text: &str) -> Markup {
    let class = match tone {
        Tone::Good => "badge sent",
        Tone::Bad => "badge failed",
        Tone::Warn => "badge warned",
        Tone::Plain => "badge queued",
    };
    html! { span class=(class) { (text) } }
}

/// Nothing is there yet, and what to do about it.
pub(super) fn empty(text: &str) -> Markup {
    html! { p.empty { (text) } }
}

/// A table that may be wider than the screen; `what` names it for those who do not see it.
pub(super) fn scrolling(what: &str, table: &Markup) -> Markup {
    html! { div.wide role="region" aria-label=(what) tabindex="0" { (table) } }
}

/// A text to be copied as it is. The button is shown by the script, without which it could do nothing.
pub(super) fn copyable(id: &str, what: &str, text: &str) -> Markup {
    html! {
        div.copy {
            pre id=(id) tabindex="0" role="region" aria-label=(what) { code { (text) } }
            button.second type="button" hidden data-copy=(id) aria-label={ "Copy " (what) } { "Copy" }
        }
    }
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

/// A day, in UTC.
pub(super) fn day(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%-d %b %Y").to_string()) } }
}

#[cfg(test)]
mod tests;
