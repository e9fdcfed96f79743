//! The inbox: every mail that "left", to be read in a browser.
//!
//! What stands in a mail came from anyone, so nothing of it runs: text is
//! escaped, HTML is shown in a frame without rights and under a policy that loads
//! nothing, attachments are only ever downloaded.

use std::fmt::Write;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::page::{notice, page};
use super::resend::{Addresses, Attachment, Email, Mail, ResendStandIn, Summary};

/// Mails on a page of the list.
const PER_PAGE: usize = 50;

/// The policy of a mail's own HTML. `sandbox` takes every right but links from it, also when it is opened by itself.
const HTML_POLICY: &str = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'";

/// The pages, with absolute paths under `/inbox`.
pub(super) fn router(resend: &ResendStandIn) -> Router {
    Router::new()
        .route("/inbox", get(list))
        .route("/inbox/{id}", get(show))
        .route("/inbox/{id}/html", get(show_html))
        .route("/inbox/{id}/attachments/{n}", get(download))
        .with_state(resend.clone())
}

#[derive(Debug, Deserialize)]
struct Paging {
    #[serde(default)]
    page: usize,
}

async fn list(State(resend): State<ResendStandIn>, Query(paging): Query<Paging>) -> Response {
    let (mails, more) = resend.newest(paging.page.saturating_mul(PER_PAGE), PER_PAGE);
    let content = html! {
        h1 { "Inbox" }
        p { "Every mail that left the sandbox, newest first: " (resend.count()) " in all." }
        @if mails.is_empty() {
            p { "Nothing here yet." }
        } @else {
            div.wide {
                table {
                    thead { tr { th { "Time" } th { "From" } th { "To" } th { "Subject" } } }
                    tbody { @for mail in &mails { (row(mail)) } }
                }
            }
        }
        p {
            @if let Some(newer) = paging.page.checked_sub(1) { a href={ "/inbox?page=" (newer) } { "Newer" } " " }
            @if more { a href={ "/inbox?page=" (paging.page.saturating_add(1)) } { "Older" } }
        }
    };
    page(StatusCode::OK, "Inbox", None, &content)
}

fn row(mail: &Summary) -> Markup {
    let shown = mail.to.first().map_or("", String::as_str);
    let others = mail.to.len().saturating_sub(1);
    let subject = if mail.subject.trim().is_empty() { "(no subject)" } else { &mail.subject };
    html! {
        tr {
            td { time { (clock_time(Timestamp::from_millisecond(mail.at_ms).unwrap_or(Timestamp::UNIX_EPOCH))) } }
            td { (mail.from) }
            td { (shown) @if others > 0 { " and " (others) " more" } }
            td {
                a href={ "/inbox/" (mail.id) } { (subject) }
                @if mail.stuck { " (queued for ever)" }
            }
        }
    }
}

fn clock_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Why there is nothing to show.
struct Missing(StatusCode, &'static str);

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        notice(self.0, self.1)
    }
}

fn find(resend: &ResendStandIn, id: &str) -> Result<Mail, Missing> {
    match resend.mail(id) {
        Ok(Some(mail)) => Ok(mail),
        Ok(None) => Err(Missing(StatusCode::NOT_FOUND, "There is no such mail")),
        Err(error) => {
            tracing::error!(%error, "the sandbox cannot read its journal");
            Err(Missing(StatusCode::INTERNAL_SERVER_ERROR, "The sandbox cannot read its journal"))
        }
    }
}

async fn show(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    Ok(page(StatusCode::OK, subject(&mail.email), None, &letter(&mail)))
}

fn subject(email: &Email) -> &str {
    email.subject.as_deref().filter(|subject| !subject.trim().is_empty()).unwrap_or("(no subject)")
}

fn letter(mail: &Mail) -> Markup {
    let email = &mail.email;
    html! {
        h1 { (subject(email)) }
        @if email.is_stuck() {
            p.alert role="alert" {
                "Resend accepts this mail and never sends it: an attachment has no file name, or one that contradicts its type."
            }
        }
        table {
            tbody { @for (name, value) in header_rows(mail) { tr { th scope="row" { (name) } td { (value) } } } }
        }
        @if let Some(text) = email.text.as_deref().filter(|text| !text.is_empty()) {
            h2 { "Text" }
            pre { (text) }
        }
        @if email.html.as_deref().is_some_and(|html| !html.is_empty()) {
            h2 { "HTML" }
            iframe sandbox="allow-popups allow-popups-to-escape-sandbox" title="HTML body" src={ "/inbox/" (mail.id) "/html" } {}
        }
        @if let Some(files) = email.attachments.as_deref().filter(|files| !files.is_empty()) {
            h2 { "Attachments" }
            ul { @for (n, file) in files.iter().enumerate() { li { (attachment(&mail.id, n, file)) } } }
        }
    }
}

fn header_rows(mail: &Mail) -> Vec<(String, String)> {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().join(", "));
    let mut rows = vec![
        ("From".to_owned(), email.from.clone()),
        ("To".to_owned(), list(&email.to)),
        ("Cc".to_owned(), list(&email.cc)),
        ("Bcc (hidden)".to_owned(), list(&email.bcc)),
        ("Reply-To".to_owned(), list(&email.reply_to)),
        ("Accepted".to_owned(), Some(clock_time(mail.at))),
        ("Id".to_owned(), Some(mail.id.clone())),
        ("Idempotency-Key".to_owned(), mail.idempotency_key.clone()),
    ];
    rows.extend(email.headers.iter().flatten().map(|(name, value)| (name.clone(), Some(value.clone()))));
    let tags = email.tags.iter().flatten();
    rows.extend(tags.map(|tag| (format!("Tag {}", tag.name), Some(tag.value.clone()))));
    rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn attachment(id: &str, n: usize, file: &Attachment) -> Markup {
    let name = file.filename.as_deref().unwrap_or("(no name)");
    html! {
        @match (&file.path, file.octets()) {
            (_, Some(octets)) => {
                a href={ "/inbox/" (id) "/attachments/" (n) } { (name) }
                ", " (file.media_type()) ", " (octets.len()) " octets"
            }
            (Some(path), None) => { (name) ", to be fetched from " (path) }
            (None, None) => { (name) }
        }
        @if let Some(content_id) = &file.content_id { ", inline as cid:" (content_id) }
    }
}

async fn show_html(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    let fields = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, HTML_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((fields, with_inline_images(&mail.email)).into_response())
}

/// The HTML with `cid:` references to inline images replaced by the images themselves.
fn with_inline_images(email: &Email) -> String {
    // Links are for following, in a page of their own; scripts stay off.
    let mut html =
        format!("<!DOCTYPE html><base target=\"_blank\">{}", email.html.as_deref().unwrap_or_default());
    for file in email.attachments.iter().flatten() {
        let Some(content_id) = file.content_id.as_deref().filter(|id| !id.is_empty()) else { continue };
        let image = ["image/png", "image/jpeg", "image/gif", "image/webp"]
            .into_iter()
            .find(|image| file.media_type().eq_ignore_ascii_case(image));
        if let (Some(image), Some(octets)) = (image, file.octets()) {
            let data = format!("data:{image};base64,{}", STANDARD.encode(octets));
            html = html.replace(&format!("cid:{content_id}"), &data);
        }
    }
    html
}

async fn download(
    State(resend): State<ResendStandIn>,
    Path((id, n)): Path<(String, usize)>,
) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    let file = mail.email.attachments.as_deref().unwrap_or_default().get(n);
    let Some((file, octets)) = file.and_then(|file| Some((file, file.octets()?))) else {
        return Err(Missing(StatusCode::NOT_FOUND, "There is no such attachment"));
    };
    let name = file.filename.clone().unwrap_or_else(|| format!("attachment-{}", n.saturating_add(1)));
    let fields: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
        (header::CONTENT_DISPOSITION, disposition(&name)),
    ];
    Ok((fields, octets).into_response())
}

/// `Content-Disposition` with the name in both forms (RFC 6266, RFC 8187).
fn disposition(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ') { c } else { '_' })
        .collect();
    let mut encoded = String::new();
    for octet in name.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_') {
            encoded.push(char::from(octet));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{octet:02X}");
        }
    }
    let value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}
