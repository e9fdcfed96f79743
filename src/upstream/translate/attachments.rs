//! Files, as Resend takes them.
//!
//! Two of its faults decide the rules (both seen through 2026, see
//! <https://github.com/anymail/django-anymail/issues/440> and
//! <https://github.com/laravel/framework/issues/55803>): a file without a name, or
//! with an extension that contradicts its type, is accepted and then stays queued
//! for ever; and a calendar in Base64 arrives undecoded.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::CannotCarry;
use super::body::lost_fields;
use super::note::{Change, Note};
use super::references::{cids, locations, with_new_targets, writings};
use crate::mime::charset::{self, Reading};
use crate::mime::entity::{Decoded, Entity};
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

/// What the files of a message are written with.
pub(super) struct Writer<'w> {
    /// The HTML, whose references follow the files.
    pub(super) html: &'w mut Option<String>,
    /// URLs at which the HTML was to be found.
    pub(super) bases: &'w [&'w str],
    /// Ids by which the HTML refers to files already, by the numbers of their parts.
    pub(super) new_ids: &'w HashMap<&'w str, String>,
    pub(super) notes: &'w mut Vec<Note>,
}

/// How the HTML refers to a file.
#[derive(Debug, Default)]
struct Referred {
    /// By which Content-ID, after the HTML was changed.
    new_id: Option<String>,
    /// The references themselves are rewritten to it.
    is_rewritten: bool,
    /// By none: what refers to its id means another file.
    is_of_another: bool,
}

impl Writer<'_> {
    /// Writes the files down. One that the HTML refers to is inline; an id that Resend
    /// would not take is replaced, in the HTML too, and so is a URL that only stands
    /// for a part.
    pub(super) fn write(mut self, entities: &[&Entity<'_>]) -> Result<Vec<Attachment>, CannotCarry> {
        let referred = self.references(entities);
        let mut written = Vec::with_capacity(entities.len());
        for ((index, entity), referred) in entities.iter().enumerate().zip(referred) {
            let mut attachment = self.attachment(entity, index + 1)?;
            let has_place = entity.content_id.is_some() || entity.location.is_some() || is_inline(entity);
            match referred.new_id {
                Some(id) => {
                    if referred.is_rewritten {
                        self.note(entity, Change::NewContentId(id.clone()));
                    }
                    attachment.content_id = Some(id);
                }
                None if has_place && !referred.is_of_another => self.note(entity, Change::NotInPlace),
                None => {}
            }
            self.notes.extend(lost_fields(entity));
            written.push(attachment);
        }
        Ok(written)
    }

    fn note(&mut self, entity: &Entity<'_>, change: Change) {
        self.notes.push(Note::part(entity, change));
    }

    /// Finds out which files the HTML refers to, and makes it refer to what Resend takes.
    fn references(&mut self, entities: &[&Entity<'_>]) -> Vec<Referred> {
        let mut referred: Vec<Referred> = entities.iter().map(|_| Referred::default()).collect();
        let Some(html) = self.html.as_mut() else { return referred };
        let ids: HashSet<&str> = entities.iter().filter_map(|entity| entity.content_id.as_deref()).collect();
        let by_id: HashSet<String> = match ids.is_empty() {
            true => HashSet::new(),
            false => {
                let targets = cids(html).map(|reference| reference.target);
                targets.filter(|target| ids.contains(target.as_str())).collect()
            }
        };
        let by_location: HashSet<String> = match entities.iter().any(|entity| entity.location.is_some()) {
            true => {
                let known = entities.iter().filter_map(|entity| entity.location.as_deref());
                let known: HashSet<String> = known.flat_map(|at| writings(at, self.bases)).collect();
                let targets = locations(html).map(|reference| reference.target);
                targets.filter(|target| known.contains(target)).collect()
            }
            false => HashSet::new(),
        };
        let mut taken: HashSet<&str> = HashSet::new();
        let (mut new_ids, mut new_locations) = (HashMap::new(), HashMap::new());
        // A group's HTML refers to its own files already: what is left of their names is others' first.
        let given = |entity: &Entity<'_>| self.new_ids.get(entity.number.as_str()).cloned();
        let mut claims: Vec<_> = entities.iter().zip(&mut referred).enumerate().collect();
        claims.sort_by_key(|(_, (entity, _))| given(entity).is_some());
        for (index, (entity, referred)) in claims {
            let given = given(entity);
            let is_given = given.is_some();
            let id = entity.content_id.as_deref().filter(|_| !is_given);
            let writings = entity.location.iter().flat_map(|location| writings(location, self.bases));
            // One that stands for several files means the first.
            let is_its = |url: &String| by_location.contains(url) && !new_locations.contains_key(url);
            let urls: Vec<String> = writings.filter(is_its).collect();
            let is_referred = id.is_some_and(|id| by_id.contains(id));
            if !is_given && !is_referred && urls.is_empty() {
                continue;
            }
            if let Some(id) = id.filter(|id| !taken.insert(id)) {
                self.notes.push(Note::part(entity, Change::SameContentId));
                referred.is_of_another = true;
                taken.insert(id);
                continue;
            }
            let usable = given.or_else(|| id.filter(|id| is_usable(id)).map(str::to_owned));
            let is_new = usable.is_none();
            let new_id = usable.unwrap_or_else(|| new_content_id(index));
            if let Some(id) = id.filter(|_| is_new && is_referred) {
                new_ids.insert(id.to_owned(), new_id.clone());
            }
            referred.is_rewritten = is_new || is_given || !urls.is_empty();
            new_locations.extend(urls.into_iter().map(|url| (url, format!("cid:{new_id}"))));
            referred.new_id = Some(new_id);
        }
        if !new_locations.is_empty() {
            *html = with_new_targets(html, locations(html), &new_locations);
        }
        if !new_ids.is_empty() {
            *html = with_new_targets(html, cids(html), &new_ids);
        }
        referred
    }

    fn attachment(&mut self, entity: &Entity<'_>, number: usize) -> Result<Attachment, CannotCarry> {
        if entity.media.is("message", "external-body") {
            // Where it is stands in the parameters of its type (RFC 2046 §5.2.3).
            let what = format!(
                "part {}: a reference to content elsewhere cannot be sent through Resend, which writes every \
                 message anew",
                entity.number
            );
            return Err(CannotCarry::new("5.6.1", &what));
        }
        let decoded = entity.decoded().map_err(|broken| CannotCarry::at(entity, &broken))?;
        if decoded.is_damaged {
            self.note(entity, Change::Damaged);
        }
        let is_text = entity.media.kind() == "text" || std::str::from_utf8(&decoded.bytes).is_ok();
        let filename = self.filename(entity, number, is_text);
        let extension = extension(&filename).unwrap_or_default();
        if BLOCKED.split(' ').any(|blocked| blocked == extension) {
            let what = format!(
                "part {}: Resend refuses files of the kind .{extension}; put {filename} into a .zip",
                entity.number
            );
            return Err(CannotCarry::new("5.7.1", &what));
        }
        let is_calendar = extension == "ics";
        let content = match is_calendar {
            true => self.calendar(entity, &decoded)?,
            false => STANDARD.encode(&decoded.bytes),
        };
        let needs_charset = !is_calendar && needs_charset(&entity.media, &decoded.bytes);
        let content_type = content_type(&entity.media, &extension, needs_charset);
        self.lost_parameters(entity, content_type.as_deref(), needs_charset);
        let says_something = entity.media.essence() != "application/octet-stream" && !is_calendar;
        if content_type.is_none() && says_something {
            self.note(entity, Change::TypeLeftOut);
        } else if content_type.is_none() && type_of_extension(&extension) != KnownType::Unknown {
            self.note(entity, Change::TypeOfName);
        }
        Ok(Attachment { filename, content, content_type, content_id: None })
    }

    /// Notes those parameters that a reader of the file may miss.
    fn lost_parameters(&mut self, entity: &Entity<'_>, content_type: Option<&str>, needs_charset: bool) {
        let carried = content_type.map(|written| MediaType::parse(written.as_bytes()));
        let is_lost = |name: &str| match name {
            "name" | "boundary" => false,
            "charset" if !needs_charset => false,
            name => carried.as_ref().is_none_or(|carried| carried.parameter(name).is_none()),
        };
        self.notes.extend(Note::parameters_lost(entity, is_lost));
    }

    /// The text of a calendar. Its lines end in CRLF (RFC 5545 §3.1).
    fn calendar(&mut self, entity: &Entity<'_>, decoded: &Decoded<'_>) -> Result<String, CannotCarry> {
        let read = entity.text(decoded).map_err(|broken| CannotCarry::at(entity, &broken))?;
        let reading = match read.reading {
            Reading::Exact => None,
            // Calendars are UTF-8 unless they say otherwise (RFC 5545 §3.1.4).
            Reading::Assumed("UTF-8") if entity.media.parameter("charset").is_none() => None,
            Reading::Assumed(charset) => Some(Change::ReadAs(charset.to_owned())),
            Reading::Replaced => Some(Change::Replaced),
        };
        let text = read.text.replace('\n', "\r\n");
        let rewritten = (text.as_bytes() != decoded.bytes.as_ref()).then_some(Change::CalendarRewritten);
        self.notes.extend(reading.into_iter().chain(rewritten).map(|change| Note::part(entity, change)));
        Ok(text)
    }

    /// Every file has a name; one of a calendar ends in `.ics` and one of a message in
    /// `.eml`, so that their types stay. What is called a calendar and is no text at all
    /// ends in `.bin`: its octets stay, and as a calendar they would not.
    fn filename(&mut self, entity: &Entity<'_>, number: usize, is_text: bool) -> String {
        let essence = entity.media.essence();
        let wanted = match essence.as_str() {
            "text/calendar" => Some("ics"),
            "message/rfc822" => Some("eml"),
            _ if !is_text && entity.filename.as_deref().and_then(extension).as_deref() == Some("ics") => {
                Some("bin")
            }
            _ => None,
        };
        let Some(name) = &entity.filename else {
            let name = format!("attachment-{number}.{}", extension_of_type(&essence));
            self.note(entity, Change::Named(name.clone()));
            return name;
        };
        let name = match wanted {
            Some(wanted) if extension(name).as_deref() != Some(wanted) => format!("{name}.{wanted}"),
            _ => name.clone(),
        };
        if entity.is_filename_guessed || entity.written_filename.as_ref() != Some(&name) {
            self.note(entity, Change::Renamed(name.clone()));
        }
        name
    }
}

/// Whether a file asks to be shown in place.
fn is_inline(entity: &Entity<'_>) -> bool {
    let asks = entity.fields.iter().any(|field| field.is("Content-Disposition"));
    asks && entity.disposition == crate::mime::entity::Disposition::Inline
}

/// The type, unless the extension might contradict it: then Resend shall take it
/// from the extension. Of the parameters only those go along that the content
/// cannot be read without.
fn content_type(media: &MediaType, extension: &str, needs_charset: bool) -> Option<String> {
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
    let charset =
        media.parameter("charset").filter(is_word).filter(|_| media.kind() == "text" && needs_charset);
    Some(charset.map_or(essence.clone(), |charset| format!("{essence}; charset={charset}")))
}

/// Whether the octets may say something else in ASCII than in the character set that is
/// named: those of UTF-7 or ISO-2022-JP may all be ASCII.
fn needs_charset(media: &MediaType, octets: &[u8]) -> bool {
    let Some(name) = media.parameter("charset") else { return false };
    !octets.is_ascii() || !charset::extends_ascii(name)
}

/// The id of the file at that place among all.
pub(super) fn new_content_id(place: usize) -> String {
    format!("inline-{}.postmeter", place + 1)
}

fn is_usable(id: &str) -> bool {
    id.len() <= MAX_CONTENT_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"'\\".contains(&b))
}
