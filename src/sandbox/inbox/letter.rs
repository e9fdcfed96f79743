//! The page of one mail, and what can be taken out of it.

use std::fmt::Write;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use serde::Deserialize;

use super::{cannot, shown_subject, source};
use crate::sandbox::page::{Here, Page, notice};
use crate::sandbox::resend::{Addresses, Attachment, Content, Email, Mail, ResendStandIn};

/// The policy of a mail's own HTML, up to where its images may come from. `sandbox` takes every right but
/// links from it, also when it is opened by itself.
const HTML_POLICY: &str = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; \
                           style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'self'; \
                           img-src data:";
/// Longest piece of Base64 that is shown, in octets.
const SHOWN_CONTENT: usize = 80;
/// Octets of a mail's source that are shown on its page; all of it can be downloaded.
const SHOWN_SOURCE: usize = 256 << 10;

pub(super) fn router(resend: &ResendStandIn) -> Router {
    Router::new()
        .route("/inbox/{id}", get(show))
        .route("/inbox/{id}/html", get(show_html))
        .route("/inbox/{id}/message.eml", get(download_source))
        .route("/inbox/{id}/attachments/{n}", get(download))
        .route("/inbox/{id}/delete", post(delete))
        .with_state(resend.clone())
}

/// Why there is nothing to show.
pub(super) struct Missing(StatusCode, &'static str);

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        notice(self.0, self.1)
    }
}

fn find(resend: &ResendStandIn, id: &str) -> Result<Mail, Missing> {
    match resend.mail(id) {
        Ok(Some(mail)) => Ok(mail),
        Ok(None) => Err(Missing(StatusCode::NOT_FOUND, "there is no such mail, or it was deleted")),
        Err(error) => {
            tracing::error!(%error, "the sandbox cannot read its journal");
            Err(Missing(StatusCode::INTERNAL_SERVER_ERROR, "the sandbox cannot read its journal"))
        }
    }
}

/// What of a mail is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum View {
    Html,
    Text,
    Files,
    Headers,
    Source,
    Resend,
}

impl View {
    const ALL: [(Self, &str, &str); 6] = [
        (Self::Html, "html", "HTML"),
        (Self::Text, "text", "Text"),
        (Self::Files, "files", "Attachments"),
        (Self::Headers, "headers", "Headers"),
        (Self::Source, "source", "Source"),
        (Self::Resend, "resend", "Sent to Resend"),
    ];

    /// Whether a mail has something to show there.
    fn is_of(self, email: &Email) -> bool {
        let is_there = |body: &Option<String>| body.as_deref().is_some_and(|body| !body.is_empty());
        match self {
            Self::Html => is_there(&email.html),
            Self::Text => is_there(&email.text),
            Self::Files => email.attachments.as_deref().is_some_and(|files| !files.is_empty()),
            Self::Headers | Self::Source | Self::Resend => true,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Shown {
    view: Option<View>,
    /// Whether pictures are fetched from wherever they lie.
    #[serde(default)]
    images: u8,
}

async fn show(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    resend.see(&id);
    let content = html! {
        (head(&mail, &resend.neighbours(&id)))
        (body(&mail, &shown))
    };
    let title = shown_subject(mail.email.subject.as_deref().unwrap_or_default());
    Ok(Page::new(title, Here::Inbox).render(&content))
}

fn head(mail: &Mail, (newer, older): &(Option<String>, Option<String>)) -> Markup {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().join(", "));
    let rows = [
        ("From", email.from.clone()),
        ("To", list(&email.to)),
        ("Cc", list(&email.cc)),
        ("Bcc (hidden)", list(&email.bcc)),
        ("Left", Some(mail.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())),
    ];
    html! {
        div.bar {
            a href="/inbox" { "← Inbox" }
            span.steps {
                @if let Some(id) = newer { a href={ "/inbox/" (id) } { "Newer" } }
                @if let Some(id) = older { a href={ "/inbox/" (id) } { "Older" } }
            }
            form method="post" action={ "/inbox/" (mail.id) "/delete" } { button.danger type="submit" { "Delete" } }
        }
        h1 { (shown_subject(email.subject.as_deref().unwrap_or_default())) }
        @if email.is_stuck() {
            p.alert role="alert" {
                "Resend accepts this mail and never sends it: an attachment has no file name, or one that contradicts its type."
            }
        }
        dl.settings.meta {
            @for (name, value) in rows { @if let Some(value) = value { dt { (name) } dd { (value) } } }
        }
    }
}

fn body(mail: &Mail, shown: &Shown) -> Markup {
    let email = &mail.email;
    let first = View::ALL.into_iter().map(|(view, ..)| view).find(|view| view.is_of(email));
    let view = shown.view.filter(|view| view.is_of(email)).or(first).unwrap_or(View::Headers);
    let files = email.attachments.as_deref().unwrap_or_default();
    html! {
        nav.tabs aria-label="Views of this mail" {
            @for (each, name, label) in View::ALL {
                @if each.is_of(email) {
                    a href={ "/inbox/" (mail.id) "?view=" (name) } aria-current=[(each == view).then_some("page")] {
                        (label) @if each == View::Files { " " span.badge { (files.len()) } }
                    }
                }
            }
        }
        div.sheet {
            @match view {
                View::Html => (html_view(mail, shown.images == 1)),
                View::Text => pre.letter tabindex="0" { (email.text.as_deref().unwrap_or_default()) },
                View::Files => ul.files { @for (n, file) in files.iter().enumerate() { li { (attachment(&mail.id, n, file)) } } },
                View::Headers => (headers(mail)),
                View::Source => (source_view(mail)),
                View::Resend => (sent(mail)),
            }
        }
    }
}

fn html_view(mail: &Mail, with_images: bool) -> Markup {
    let has_remote = is_fetching(mail.email.html.as_deref().unwrap_or_default());
    let query = if with_images { "?images=1" } else { "" };
    html! {
        @if has_remote {
            p.warn {
                @if with_images {
                    "Images are fetched from where they lie: whoever sent this mail may see that it was opened. "
                    a href={ "/inbox/" (mail.id) "?view=html" } { "Do not fetch them" }
                } @else {
                    "This mail has images elsewhere, which are not fetched. "
                    a href={ "/inbox/" (mail.id) "?view=html&images=1" } { "Fetch them" }
                }
            }
        }
        div.viewer {
            fieldset.widths {
                legend.unseen { "Width" }
                @for (n, label) in ["Full", "Tablet", "Phone"].into_iter().enumerate() {
                    label { input type="radio" name="width" value=(n) checked[n == 0]; (label) }
                }
                a href={ "/inbox/" (mail.id) "/html" (query) } target="_blank" rel="noopener" { "Open by itself" }
            }
            iframe sandbox="allow-popups allow-popups-to-escape-sandbox" title="The mail as HTML"
                src={ "/inbox/" (mail.id) "/html" (query) } {}
        }
    }
}

/// Whether HTML asks for something that lies elsewhere; roughly, and rather once too often.
fn is_fetching(html: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["src=", "srcset=", "background=", "url("];
    let html = html.to_ascii_lowercase();
    BEGINNINGS.iter().any(|beginning| {
        html.split(beginning).skip(1).any(|rest| {
            let rest = rest.trim_start_matches([' ', '"', '\'', '\n', '\r', '\t']);
            rest.starts_with("http:") || rest.starts_with("https:") || rest.starts_with("//")
        })
    })
}

fn headers(mail: &Mail) -> Markup {
    let email = &mail.email;
    let list = |of: &Option<Addresses>| of.as_ref().map(|list| list.as_slice().join(", "));
    let mut rows = vec![
        ("From".to_owned(), email.from.clone()),
        ("To".to_owned(), list(&email.to)),
        ("Cc".to_owned(), list(&email.cc)),
        ("Bcc (hidden)".to_owned(), list(&email.bcc)),
        ("Reply-To".to_owned(), list(&email.reply_to)),
        ("Subject".to_owned(), email.subject.clone()),
    ];
    rows.extend(email.headers.iter().flatten().map(|(name, value)| (name.clone(), Some(value.clone()))));
    let mut beside = vec![
        ("Resend's id".to_owned(), Some(mail.id.clone())),
        ("Idempotency-Key of the call".to_owned(), mail.idempotency_key.clone()),
    ];
    let tags = email.tags.iter().flatten();
    beside.extend(tags.map(|tag| (format!("Tag {}", tag.name), Some(tag.value.clone()))));
    html! {
        (table("Header fields of the mail", &rows))
        h2 { "Beside the mail" }
        (table("What the call said beside the mail", &beside))
    }
}

fn table(what: &str, rows: &[(String, Option<String>)]) -> Markup {
    html! {
        table aria-label=(what) {
            tbody {
                @for (name, value) in rows {
                    @if let Some(value) = value { tr { th scope="row" { (name) } td { (value) } } }
                }
            }
        }
    }
}

fn source_view(mail: &Mail) -> Markup {
    let Some(source) = source::source(mail) else {
        return html! { p.empty { "This mail cannot be put together as one that travels: a field of it is unsound." } };
    };
    let shown = source.get(..SHOWN_SOURCE).unwrap_or(&source);
    html! {
        p.soft {
            "The message as Resend would make it of the call, put together by the sandbox. What the client sent is not "
            "kept once it has left. "
            a href={ "/inbox/" (mail.id) "/message.eml" } { "Download it" }
        }
        pre tabindex="0" { (String::from_utf8_lossy(shown)) }
        @if shown.len() < source.len() { p.soft { "The rest is in the download." } }
    }
}

/// What Resend was told, with the contents of files cut short.
fn sent(mail: &Mail) -> Markup {
    let mut email = mail.email.clone();
    for file in email.attachments.iter_mut().flatten() {
        let octets = file.encoded_octets();
        if octets > SHOWN_CONTENT {
            file.content = Some(Content::Text(format!("… {octets} characters of Base64 …")));
        }
    }
    let json = serde_json::to_string_pretty(&email).unwrap_or_default();
    html! {
        p.soft {
            "The body of the call to Resend's API"
            @if let Some(key) = &mail.idempotency_key { ", under the " code { "Idempotency-Key" } " " code { (key) } }
            ". All of it: " code { "GET /sandbox/messages/" (mail.id) }
        }
        pre tabindex="0" { (json) }
    }
}

fn attachment(id: &str, n: usize, file: &Attachment) -> Markup {
    let name = file.filename.as_deref().unwrap_or("(no name)");
    html! {
        @match (&file.path, file.octets()) {
            (_, Some(octets)) => {
                a href={ "/inbox/" (id) "/attachments/" (n) } download=(safe_name(file, n)) { (name) }
                span.soft { (file.media_type()) ", " (size(octets.len())) }
            }
            (Some(path), None) => { (name) span.soft { "to be fetched from " (path) } }
            (None, None) => { (name) }
        }
        @if let Some(content_id) = &file.content_id { span.soft { "inline as cid:" (content_id) } }
    }
}

fn size(octets: usize) -> String {
    match octets {
        0..1_024 => format!("{octets} octets"),
        1_024..1_048_576 => format!("{} KiB", octets.div_ceil(1_024)),
        _ => format!("{} MiB", octets.div_ceil(1_048_576)),
    }
}

async fn show_html(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    let images = if shown.images == 1 { " http: https:" } else { "" };
    let policy = HeaderValue::from_str(&format!("{HTML_POLICY}{images}"));
    let policy = policy.unwrap_or_else(|_| HeaderValue::from_static("sandbox; default-src 'none'"));
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_DNS_PREFETCH_CONTROL, HeaderValue::from_static("off")),
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
        return Err(Missing(StatusCode::NOT_FOUND, "there is no such attachment"));
    };
    Ok(saved(&safe_name(file, n), octets))
}

async fn download_source(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
) -> Result<Response, Missing> {
    let mail = find(&resend, &id)?;
    let source = source::source(&mail);
    let source = source.ok_or(Missing(StatusCode::NOT_FOUND, "this mail cannot be put together"))?;
    Ok(saved(&format!("{id}.eml"), source))
}

/// A file, whatever is in it: never shown, always saved.
fn saved(name: &str, octets: Vec<u8>) -> Response {
    let fields: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
        (header::CONTENT_DISPOSITION, disposition(name)),
    ];
    (fields, octets).into_response()
}

/// The name without what leads to another directory, hides the file, or turns its letters round.
fn safe_name(file: &Attachment, n: usize) -> String {
    let told = file.filename.as_deref().unwrap_or_default();
    let last = told.rsplit(['/', '\\']).next().unwrap_or_default();
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let name: String = last.chars().filter(|c| !c.is_control() && !turns(*c)).take(150).collect();
    let name = name.trim().trim_start_matches('.').trim();
    if name.is_empty() { format!("attachment-{}", n.saturating_add(1)) } else { name.to_owned() }
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

async fn delete(State(resend): State<ResendStandIn>, Path(id): Path<String>) -> Response {
    match resend.remove(|mail| mail.id == id) {
        Ok(_) => Redirect::to("/inbox").into_response(),
        Err(error) => cannot(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_is_noticed() {
        let table = [
            ("<img src=\"https://x.example/p.png\">", true),
            ("<IMG SRC = 'x'><td background='http://x.example'>", true),
            ("<img src=//x.example/p>", true),
            ("<div style=\"background:url( 'https://x.example')\">", true),
            ("<img srcset=\"\nhttps://x.example/a 2x\">", true),
            (
                "<a href=\"https://x.example\">x</a><img src=\"cid:a\"><img src='data:image/png;base64,AA'>",
                false,
            ),
        ];
        for (html, want) in table {
            assert_eq!(is_fetching(html), want, "{html}");
        }
    }

    #[test]
    fn an_attachments_name_cannot_lead_elsewhere() {
        let table = [
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\run.txt", "run.txt"),
            (".bashrc", "bashrc"),
            ("a\"\r\n.txt", "a\".txt"),
            ("x\u{202e}gpj.exe", "xgpj.exe"),
            ("größe.txt", "größe.txt"),
            ("", "attachment-3"),
            ("..", "attachment-3"),
            ("a/", "attachment-3"),
        ];
        for (name, want) in table {
            let file = Attachment { filename: Some(name.to_owned()), ..Attachment::default() };
            assert_eq!(safe_name(&file, 2), want, "{name:?}");
        }
        let fields = disposition("a\".txt; x=\u{e9}");
        assert_eq!(fields, "attachment; filename=\"a_.txt_ x__\"; filename*=UTF-8''a%22.txt%3B%20x%3D%C3%A9");
    }
}
