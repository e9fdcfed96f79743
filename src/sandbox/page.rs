//! The frame of the sandbox's pages: escaped by construction, nothing from elsewhere.
//! The style is the product's with one sheet more; the only script is the inbox's own.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::http::is_same_site;

const STYLE: &str = include_str!("style.css");
/// What a page may load, and where its forms may lead.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      frame-src 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The base URL of no page: what counts is the host that was asked.
const NO_BASE: &str = "-";
/// Seconds after which a live page looks again where there is no script.
const LOOK_AGAIN_S: u32 = 10;

/// The pages that the navigation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Inbox,
    Misbehave,
    Elsewhere,
}

/// A page, but for its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    pub(super) status: StatusCode,
    pub(super) title: &'a str,
    pub(super) here: Here,
    /// Whether it shows what changes by itself.
    pub(super) is_live: bool,
    /// An origin, beside our own, to which its form may redirect.
    pub(super) form_target: Option<&'a str>,
}

impl<'a> Page<'a> {
    pub(super) const fn new(title: &'a str, here: Here) -> Self {
        Self { status: StatusCode::OK, title, here, is_live: false, form_target: None }
    }

    pub(super) fn render(&self, content: &Markup) -> Response {
        let policy = format!("{POLICY}; form-action 'self' {}", self.form_target.unwrap_or_default());
        let mut response = (self.status, self.markup(content).into_string()).into_response();
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // With `no-referrer` browsers would hide the origin of our own forms from us.
        fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let policy = HeaderValue::from_str(policy.trim_end());
        fields.insert(
            header::CONTENT_SECURITY_POLICY,
            policy.unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'")),
        );
        response
    }

    fn markup(&self, content: &Markup) -> Markup {
        let current = |here: Here| (self.here == here).then_some("page");
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Postmeter sandbox" }
                    link rel="icon" type="image/svg+xml" href="/favicon.svg";
                    link rel="stylesheet" href="/style.css";
                    link rel="stylesheet" href="/sandbox/style.css";
                    @if self.is_live {
                        noscript { meta http-equiv="refresh" content=(LOOK_AGAIN_S); }
                        script src="/inbox/live.js" defer {}
                    }
                }
                body.app.sandbox {
                    a.skip href="#content" { "Skip to the content" }
                    header {
                        a.name href="/" { (mark()) span { "Postmeter" small { "sandbox" } } }
                        nav aria-label="Sandbox" {
                            a href="/inbox" aria-current=[current(Here::Inbox)] {
                                (sign("M3 13l3-8h12l3 8v6H3zM3 13h5l1 3h6l1-3h5")) "Inbox"
                            }
                            a href="/sandbox/misbehave" aria-current=[current(Here::Misbehave)] {
                                (sign("M13 2 4 14h7l-1 8 9-12h-7z")) "Misbehave"
                            }
                            a href="/" { (sign("M4 18a9 9 0 1 1 16 0M12 15l4-6M12 15h0")) "Customer's page" }
                            a href="/operator" { (sign("M4 6h16M4 12h16M4 18h16M8 4v4M16 10v4M10 16v4")) "Operator's view" }
                        }
                    }
                    main #content tabindex="-1" { (content) }
                }
            }
        }
    }
}

/// The sign beside the name, as on the product's own pages.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 32 32" aria-hidden="true" {
            rect x="2" y="6" width="28" height="20" rx="5" {}
            path d="M6 11l10 7 10-7" {}
        }
    }
}

fn sign(lines: &str) -> Markup {
    html! { svg.sign viewBox="0 0 24 24" aria-hidden="true" { path d=(lines) {} } }
}

/// `GET /sandbox/style.css`
pub(super) async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

/// A page. `form_target` is an origin, beside our own, to which its form may redirect.
pub(super) fn page(status: StatusCode, title: &str, form_target: Option<&str>, content: &Markup) -> Response {
    Page { status, form_target, ..Page::new(title, Here::Elsewhere) }.render(content)
}

/// A page that says what is not there or cannot be done.
pub(super) fn notice(status: StatusCode, text: &str) -> Response {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    let text: String = first.into_iter().chain(rest).collect();
    page(status, &text, None, &html! { h1 { (text) } })
}

/// What changes something must come from a page of ours, or from a program.
pub(super) async fn own_pages_only(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || is_same_site(request.headers(), NO_BASE) {
        return next.run(request).await;
    }
    notice(StatusCode::FORBIDDEN, "this was sent by a page of another site, and nothing was done")
}
