//! Files, as Resend takes them.
//!
//! Two of its faults decide the rules (both seen through 2026, see
//! <https://github.com/anymail/django-anymail/issues/440> and
//! <https://github.com/laravel/framework/issues/55803>): a file without a name, or
//! with an extension that contradicts its type, is accepted and then stays queued
//! for ever; and a calendar in Base64 arrives undecoded.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::CannotCarry;
use crate::mime::entity::Entity;
use crate::mime::media::{KnownType, MediaType, extension, extension_of_type, type_of_extension};

/// Longest content id that Resend takes, in octets.
const MAX_CONTENT_ID_BYTES: usize = 127;

/// Extensions with which Resend refuses to send
/// (<https://resend.com/docs/knowledge-base/what-attachment-types-are-not-supported>).
const BLOCKED: &str = "adp app asp bas bat cer chm cmd com cpl crt csh der exe fxp gadget hlp hta inf ins isp \
    its js jse ksh lib lnk mad maf mag mam maq mar mas mat mau mav maw mda mdb mde mdt mdw mdz msc msh msh1 msh2 \
    mshxml msh1xml msh2xml msi msp mst ops pcd pif plg prf prg reg scf scr sct shb shs sys ps1 ps1xml ps2 ps2xml \
    psc1 psc2 tmp url vb vbe vbs vps vsmacros vss vst vsw vxd ws wsc wsf wsh xnk";

/// One file of an email.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    filename: String,
    /// Base64; for a calendar the text itself.
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_id: Option<String>,
}

impl Attachment {
    /// What it counts towards the limit, in octets.
    pub(super) fn size(&self) -> usize {
        self.content.len()
    }
}

/// The files of a message.
pub(super) struct Attachments(pub(super) Vec<Attachment>);

/// Writes the files down. One that the HTML refers to is inline; an id that Resend
/// would not take is replaced, in the HTML too.
pub(super) fn write(entities: &[&Entity<'_>], html: &mut Option<String>) -> Result<Attachments, CannotCarry> {
    let ids: HashSet<&str> = entities.iter().filter_map(|entity| entity.content_id.as_deref()).collect();
    let mut referred: HashSet<&str> = HashSet::new();
    for reference in References(html.as_deref().filter(|_| !ids.is_empty()).unwrap_or_default(), 0) {
        referred.extend(ids.get(reference.id.as_str()));
    }
    let mut renamed = HashMap::new();
    let mut written = Vec::with_capacity(entities.len());
    for (index, entity) in entities.iter().enumerate() {
        let mut attachment = attachment(entity, index + 1)?;
        if let Some(id) = entity.content_id.as_deref().filter(|id| referred.contains(id)) {
            let usable =
                || if is_usable(id) { id.to_owned() } else { format!("inline-{}.postmeter", index + 1) };
            attachment.content_id = Some(renamed.entry(id).or_insert_with(usable).clone());
        }
        written.push(attachment);
    }
    renamed.retain(|old, new| old != new);
    if let Some(html) = html.as_mut().filter(|_| !renamed.is_empty()) {
        *html = with_new_ids(html, &renamed);
    }
    Ok(Attachments(written))
}

fn attachment(entity: &Entity<'_>, number: usize) -> Result<Attachment, CannotCarry> {
    let bytes = entity.decoded()?;
    let is_calendar = entity.media.is("text", "calendar");
    let filename = filename(entity, number);
    let extension = extension(&filename).unwrap_or_default();
    if BLOCKED.split(' ').any(|blocked| blocked == extension) {
        let what = format!("Resend refuses files of the kind .{extension}; put {filename} into a .zip");
        return Err(CannotCarry::new("5.7.1", &what));
    }
    // Lines of a calendar end in CRLF (RFC 5545 §3.1).
    let content = if is_calendar { entity.text()?.replace('\n', "\r\n") } else { STANDARD.encode(&bytes) };
    let content_type = content_type(&entity.media, &extension, bytes.is_ascii());
    Ok(Attachment { filename, content, content_type, content_id: None })
}

/// Every file has a name; a calendar's ends in `.ics`, so that its type stays.
fn filename(entity: &Entity<'_>, number: usize) -> String {
    let essence = entity.media.essence();
    match &entity.filename {
        Some(name) if entity.media.is("text", "calendar") && extension(name).as_deref() != Some("ics") => {
            format!("{name}.ics")
        }
        Some(name) => name.clone(),
        None => format!("attachment-{number}.{}", extension_of_type(&essence)),
    }
}

/// The type, unless the extension might contradict it: then Resend shall take it
/// from the extension. Of the parameters only those go along that the content
/// cannot be read without.
fn content_type(media: &MediaType, extension: &str, is_ascii: bool) -> Option<String> {
    let essence = media.essence();
    let certain = match type_of_extension(extension) {
        KnownType::One(known) => known == essence,
        KnownType::Disputed => false,
        KnownType::Unknown => essence != "application/octet-stream",
    };
    if !certain {
        return None;
    }
    let is_word = |value: &&str| value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    if media.is("text", "calendar") {
        let method = media.parameter("method").filter(is_word);
        return Some(method.map_or(essence.clone(), |method| format!("{essence}; method={method}")));
    }
    let charset = media.parameter("charset").filter(is_word).filter(|_| media.kind() == "text" && !is_ascii);
    Some(charset.map_or(essence.clone(), |charset| format!("{essence}; charset={charset}")))
}

fn is_usable(id: &str) -> bool {
    id.len() <= MAX_CONTENT_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"'\\".contains(&b))
}

/// A `cid:` URL in HTML (RFC 2392).
struct Reference {
    /// Where its id stands.
    range: Range<usize>,
    /// The id, percent-decoded.
    id: String,
}

/// The `cid:` URLs of a text, from an offset on; they never overlap, so that
/// finding them takes time in proportion to the text.
struct References<'h>(&'h str, usize);

impl Iterator for References<'_> {
    type Item = Reference;

    fn next(&mut self) -> Option<Reference> {
        loop {
            let rest = self.0.get(self.1..)?;
            let (before, after) = rest.split_once(':')?;
            let start = self.1 + before.len() + 1;
            self.1 = start;
            let scheme = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            if scheme.eq_ignore_ascii_case("cid") {
                let ends = |c: char| c.is_whitespace() || "\"'<>()\\".contains(c);
                let token = after.split(ends).next().unwrap_or_default();
                let token = token.split("&quot;").next().unwrap_or_default();
                let token = token.split("&#").next().unwrap_or_default();
                self.1 = start + token.len();
                return Some(Reference { range: start..self.1, id: percent_decoded(token) });
            }
        }
    }
}

fn percent_decoded(token: &str) -> String {
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn with_new_ids(html: &str, renamed: &HashMap<&str, String>) -> String {
    let mut out = String::with_capacity(html.len());
    let mut kept_from = 0;
    for Reference { range, id } in References(html, 0) {
        if let Some(new) = renamed.get(id.as_str()) {
            out.push_str(html.get(kept_from..range.start).unwrap_or_default());
            out.push_str(new);
            kept_from = range.end;
        }
    }
    out.push_str(html.get(kept_from..).unwrap_or_default());
    out
}
