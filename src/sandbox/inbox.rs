//! The inbox: the mails that "left", to be read in a browser and by tests.
//!
//! What stands in a mail came from anyone, so nothing of it runs: text is
//! escaped, HTML is shown in a frame without rights and under a policy that takes
//! scripts away wherever it is opened, attachments are only ever downloaded. The list is
//! live where scripts run, by one small file of our own, and is loaded again where
//! they do not.

mod api;
mod letter;
mod search;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::dodo::DodoStandIn;
use super::misbehave;
use super::page::{Here, Page, notice, own_pages_only};
use super::resend::{Found, ResendStandIn, Summary};
use search::Search;

/// Mails on a page of the list.
const PER_PAGE: usize = 50;
/// How long the list waits for news before it is told that there is none.
const LIVE_WAIT: Duration = Duration::from_secs(25);
/// Longest search, in characters.
const MAX_SEARCH: usize = 300;

const SCRIPT: &str = include_str!("inbox/live.js");
/// What the inbox was when its list was made.
const REVISION: HeaderName = HeaderName::from_static("x-inbox-revision");

/// What the handlers of the pages ask.
#[derive(Debug, Clone)]
struct Rooms {
    resend: ResendStandIn,
    dodo: DodoStandIn,
}

/// The pages, with absolute paths under `/inbox`, and the API under `/sandbox/messages`.
pub(super) fn router(resend: &ResendStandIn, dodo: &DodoStandIn) -> Router {
    let rooms = Rooms { resend: resend.clone(), dodo: dodo.clone() };
    let pages = Router::new()
        .route("/inbox", get(list))
        .route("/inbox/live", get(live))
        .route("/inbox/live.js", get(script))
        .route("/inbox/delete", post(delete_found))
        .with_state(rooms);
    pages.merge(letter::router(resend)).merge(api::router(resend)).layer(from_fn(own_pages_only))
}

async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT).into_response()
}

/// Which part of the list, and of which mails.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Listing {
    q: String,
    page: usize,
    /// What the page has, to be told when there is something else.
    after: Option<u64>,
}

impl Listing {
    fn search(&self) -> Search {
        Search::parse(&self.asked())
    }

    fn asked(&self) -> String {
        self.q.trim().chars().take(MAX_SEARCH).collect()
    }

    fn find(&self, resend: &ResendStandIn) -> Found {
        let search = self.search();
        resend.look_for(|mail| search.fits(mail), (self.page.saturating_mul(PER_PAGE), PER_PAGE))
    }

    /// The same search on another page.
    fn path(&self, page: usize) -> String {
        let mut path = format!("/inbox?page={page}");
        if !self.asked().is_empty() {
            let pairs = [("q", self.asked())];
            let q = reqwest::Url::parse_with_params("http://localhost/", pairs);
            path.extend(q.iter().filter_map(|url| url.query()).flat_map(|query| ["&", query]));
        }
        path
    }
}

async fn list(State(rooms): State<Rooms>, Query(listing): Query<Listing>) -> Response {
    let found = listing.find(&rooms.resend);
    let state = misbehave::State::of(&rooms.dodo, &rooms.resend);
    let content = html! {
        div.bar {
            h1 { "Inbox" }
            form.search method="get" action="/inbox" role="search" {
                label.unseen for="q" { "Search" }
                input #q type="search" name="q" value=(listing.asked()) maxlength=(MAX_SEARCH)
                    placeholder="Search: words, to: from: subject:" autocomplete="off" spellcheck="false";
                button type="submit" { "Search" }
            }
            form method="post" action="/inbox/delete" {
                input type="hidden" name="q" value=(listing.asked());
                button.danger type="submit" {
                    @if listing.asked().is_empty() { "Delete all" } @else { "Delete what was found" }
                }
            }
        }
        (state.banner())
        div #live data-revision=(found.revision) { (listed(&listing, &found)) }
    };
    let title = if found.unread > 0 { format!("({}) Inbox", found.unread) } else { "Inbox".to_owned() };
    Page { is_live: true, ..Page::new(&title, Here::Inbox) }.render(&content)
}

/// The list alone, once it is another than the one that the page has; 204 if there is none for a while.
async fn live(State(rooms): State<Rooms>, Query(listing): Query<Listing>) -> Response {
    let news = |resend: &ResendStandIn| {
        let found = listing.find(resend);
        (listing.after != Some(found.revision)).then_some(found)
    };
    match rooms.resend.wait_for(LIVE_WAIT, news).await {
        Some(found) => {
            let fields = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (REVISION, HeaderValue::from(found.revision)),
            ];
            (fields, listed(&listing, &found).into_string()).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn listed(listing: &Listing, found: &Found) -> Markup {
    let is_searched = !listing.asked().is_empty();
    let is_last = listing.page.saturating_add(1).saturating_mul(PER_PAGE) >= found.found;
    html! {
        p.state role="status" data-unread=(found.unread) {
            @if is_searched { (found.found) " of " }
            (found.all) @if found.all == 1 { " mail" } @else { " mails" }
            @if found.unread > 0 { ", " strong { (found.unread) " unread" } }
            @if is_searched { " · " a href="/inbox" { "Show all" } }
        }
        @if !found.mails.is_empty() {
            ul.mails { @for mail in &found.mails { li { (row(mail)) } } }
        } @else if is_searched {
            div.empty { p { strong { "No mail like that." } } p { "Words are looked for in addresses, subjects and texts." } }
        } @else {
            div.empty {
                p { strong { "Nothing here yet." } }
                p { "Every mail that leaves the sandbox comes here, by SMTP or HTTP alike." }
            }
        }
        @if listing.page > 0 || !is_last {
            p.pages {
                @if let Some(newer) = listing.page.checked_sub(1) { a href=(listing.path(newer)) { "← Newer" } " " }
                @if !is_last { a href=(listing.path(listing.page.saturating_add(1))) { "Older →" } }
            }
        }
    }
}

fn row(mail: &Summary) -> Markup {
    let at = Timestamp::from_millisecond(mail.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let first = mail.to.first().map_or("", String::as_str);
    let others = mail.to.len().saturating_sub(1);
    html! {
        a.mail.unread[!mail.is_seen] title=(mail.from) href={ "/inbox/" (mail.id) } {
            span.from { @if !mail.is_seen { span.unseen { "Unread: " } } (sender(&mail.from)) }
            span.to { "to " (first) @if others > 0 { " and " (others) " more" } }
            span.what {
                span.subject { (shown_subject(&mail.subject)) }
                @if !mail.excerpt.is_empty() { span.excerpt { " " (mail.excerpt) } }
            }
            span.marks {
                @if mail.stuck { span.tag.bad { "never sent" } }
                @if mail.files > 0 { span.tag { (mail.files) @if mail.files == 1 { " file" } @else { " files" } } }
                time datetime=(at.to_string()) { (at.strftime("%b %-d, %H:%M:%S").to_string()) }
            }
        }
    }
}

/// The name of who sent it, or the address where there is none.
fn sender(from: &str) -> &str {
    let name = from.rsplit_once('<').map_or("", |(name, _)| name.trim().trim_matches('"').trim());
    if name.is_empty() { from } else { name }
}

fn shown_subject(subject: &str) -> &str {
    if subject.trim().is_empty() { "(no subject)" } else { subject }
}

/// What the button at the top sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unwanted {
    q: String,
}

async fn delete_found(State(rooms): State<Rooms>, Form(unwanted): Form<Unwanted>) -> Response {
    let search = Search::parse(&unwanted.q);
    match rooms.resend.remove(|mail| search.fits(mail)) {
        Ok(_) => Redirect::to("/inbox").into_response(),
        Err(error) => cannot(&error),
    }
}

/// What the disk did not do.
fn cannot(error: &std::io::Error) -> Response {
    tracing::error!(%error, "the sandbox's journal cannot be used");
    notice(StatusCode::INTERNAL_SERVER_ERROR, "The sandbox's journal cannot be used; its log says why")
}
