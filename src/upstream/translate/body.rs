//! The parts of a message as one text, one HTML and a list of files.
//!
//! Resend shows a reader either `html` or `text`, so each must hold everything
//! that was to be shown: pieces that stand one after another are joined in both,
//! and text next to HTML is written as HTML too. A version that cannot be
//! complete is left out.

use super::CannotCarry;
use crate::mime::entity::{Content, Disposition, Entity};

/// Resend refuses a mail without a body, such as a scanner's that is all attachment.
const NO_TEXT: &str = "(no text)";

/// What a message shows, and what it offers as files.
pub(super) struct Body<'e, 'a> {
    pub(super) html: Option<String>,
    /// Empty: there is none, and Resend must not make one out of the HTML.
    pub(super) text: String,
    pub(super) attachments: Vec<&'e Entity<'a>>,
}

/// The two versions of a piece of a message.
#[derive(Debug, Default)]
struct Shown {
    text: Option<String>,
    html: Option<String>,
}

pub(super) fn read<'e, 'a>(entity: &'e Entity<'a>) -> Result<Body<'e, 'a>, CannotCarry> {
    if matches!(entity.media.essence().as_str(), "application/pkcs7-mime" | "application/x-pkcs7-mime") {
        return Err(cannot_be_recomposed("an S/MIME message"));
    }
    let mut attachments = Vec::new();
    let shown = piece(entity, Role::Whole, &mut attachments)?;
    let text = match (shown.text, &shown.html) {
        (Some(text), _) => text,
        (None, Some(_)) => String::new(),
        (None, None) => NO_TEXT.to_owned(),
    };
    Ok(Body { html: shown.html, text, attachments })
}

fn cannot_be_recomposed(what: &str) -> CannotCarry {
    let what = format!("{what} cannot be sent through Resend, which writes every message anew");
    CannotCarry::new("5.6.1", &what)
}

/// What an entity is to the one around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The whole message, a version of it, or the root of a multipart/related.
    Whole,
    /// One of several pieces.
    Piece,
}

fn piece<'e, 'a>(
    entity: &'e Entity<'a>,
    role: Role,
    attachments: &mut Vec<&'e Entity<'a>>,
) -> Result<Shown, CannotCarry> {
    match &entity.content {
        Content::Leaf(_) if is_shown(entity, role) => leaf(entity),
        Content::Leaf(_) => {
            attachments.push(entity);
            Ok(Shown::default())
        }
        Content::Parts(parts) => match entity.media.subtype() {
            "signed" | "encrypted" | "report" => {
                Err(cannot_be_recomposed(&format!("a {} message", entity.media.essence())))
            }
            "alternative" => alternative(parts, attachments),
            "related" => related(entity, parts, attachments),
            _ => one_after_another(parts, attachments),
        },
    }
}

fn is_shown(entity: &Entity<'_>, role: Role) -> bool {
    let readable = entity.media.is("text", "plain") || entity.media.is("text", "html");
    let is_file = entity.filename.is_some() && role == Role::Piece;
    readable && !is_file && entity.disposition == Disposition::Inline
}

fn leaf(entity: &Entity<'_>) -> Result<Shown, CannotCarry> {
    let text = entity.text()?;
    if text.trim().is_empty() {
        return Ok(Shown::default());
    }
    Ok(if entity.media.subtype() == "html" {
        Shown { text: None, html: Some(text) }
    } else {
        Shown { text: Some(text), html: None }
    })
}

/// Versions of the same: plain ones make the text, others the HTML. Several of a
/// kind are not told apart by Resend, so they are joined rather than dropped.
fn alternative<'e, 'a>(
    parts: &'e [Entity<'a>],
    attachments: &mut Vec<&'e Entity<'a>>,
) -> Result<Shown, CannotCarry> {
    let (mut plain, mut rich) = (Vec::new(), Vec::new());
    for part in parts {
        let shown = piece(part, Role::Whole, attachments)?;
        if shown.html.is_some() { rich.push(shown) } else { plain.push(shown) }
    }
    let (plain, rich) = (joined(plain), joined(rich));
    Ok(Shown { text: plain.text.or(rich.text), html: rich.html })
}

/// A root and the files that it refers to (RFC 2387).
fn related<'e, 'a>(
    entity: &Entity<'a>,
    parts: &'e [Entity<'a>],
    attachments: &mut Vec<&'e Entity<'a>>,
) -> Result<Shown, CannotCarry> {
    let start = entity.media.parameter("start").map(|id| id.trim_start_matches('<').trim_end_matches('>'));
    let is_root = |part: &Entity<'_>| start.is_some() && part.content_id.as_deref() == start;
    let root = parts.iter().position(is_root).unwrap_or(0);
    let mut shown = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match &part.content {
            Content::Leaf(_) if index != root => attachments.push(part),
            _ => shown.push(piece(part, Role::Whole, attachments)?),
        }
    }
    Ok(joined(shown))
}

/// multipart/mixed, and every multipart that is not known (RFC 2046 §5.1.3).
fn one_after_another<'e, 'a>(
    parts: &'e [Entity<'a>],
    attachments: &mut Vec<&'e Entity<'a>>,
) -> Result<Shown, CannotCarry> {
    let shown: Result<Vec<_>, _> = parts.iter().map(|part| piece(part, Role::Piece, attachments)).collect();
    Ok(joined(shown?))
}

fn joined(mut pieces: Vec<Shown>) -> Shown {
    pieces.retain(|piece| piece.text.is_some() || piece.html.is_some());
    if pieces.len() < 2 {
        return pieces.pop().unwrap_or_default();
    }
    let any_html = pieces.iter().any(|piece| piece.html.is_some());
    let all_text = pieces.iter().all(|piece| piece.text.is_some());
    let html: Vec<String> = match any_html {
        true => pieces.iter().map(html_of).collect(),
        false => Vec::new(),
    };
    let text: Vec<String> = match all_text {
        true => pieces.into_iter().filter_map(|piece| piece.text).collect(),
        false => Vec::new(),
    };
    Shown { text: all_text.then(|| lines(&text)), html: any_html.then(|| lines(&html)) }
}

/// Texts one after another, each beginning on a line of its own.
fn lines(texts: &[String]) -> String {
    let mut out = String::new();
    for text in texts {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(text);
    }
    out
}

fn html_of(piece: &Shown) -> String {
    match (&piece.html, &piece.text) {
        (Some(html), _) => html.clone(),
        (None, Some(text)) => {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            format!("<div style=\"white-space: pre-wrap\">{escaped}</div>")
        }
        (None, None) => String::new(),
    }
}
