//! The parts of a message as one text, one HTML and a list of files.
//!
//! Resend shows a reader either `html` or `text`, so each must hold everything
//! that was to be shown: pieces that stand one after another are joined in both,
//! and text next to HTML is written as HTML too. A version that cannot be
//! complete is left out, and that is noted.

use std::collections::{HashMap, HashSet};

use super::attachments::new_content_id;
use super::flowed;
use super::note::{Change, Note, short};
use super::references::{cids, locations, with_new_targets, writings};
use super::sealed;
use super::{CannotCarry, MAX_EMAIL_BYTES};
use crate::mime::charset::Reading;
use crate::mime::entity::{Content, Decoded, Disposition, Entity};
use crate::mime::header::Field;

/// Resend refuses a mail without a body, such as a scanner's that is all attachment.
const NO_TEXT: &str = "(no text)";

/// What a message shows, and what it offers as files.
pub(super) struct Body<'e, 'a> {
    pub(super) html: Option<String>,
    /// Empty: there is none, and Resend must not make one out of the HTML.
    pub(super) text: String,
    pub(super) attachments: Vec<&'e Entity<'a>>,
    /// URLs that the HTML was to be found at: what it refers to is relative to them.
    pub(super) locations: Vec<&'e str>,
    /// The ids by which the HTML refers to files that have one in common with others, by
    /// the numbers of their parts.
    pub(super) new_ids: HashMap<&'e str, String>,
    pub(super) notes: Vec<Note>,
}

/// The two versions of a piece of a message.
#[derive(Debug, Default)]
struct Shown {
    text: Option<Version>,
    html: Option<Version>,
}

/// A version, and the numbers of the parts that it is made of.
#[derive(Debug)]
struct Version {
    content: String,
    parts: Vec<String>,
}

pub(super) fn read<'e, 'a>(entity: &'e Entity<'a>) -> Result<Body<'e, 'a>, CannotCarry> {
    if let Some(what) = sealed::whole(entity) {
        return Err(cannot_be_recomposed(entity, what));
    }
    let mut walk = Walk::default();
    let shown = walk.piece(entity, Role::Whole)?;
    let text = match (shown.text, &shown.html) {
        (Some(text), _) => text.content,
        (None, Some(_)) => String::new(),
        (None, None) => {
            walk.notes.push(Note::message(Change::NoText));
            NO_TEXT.to_owned()
        }
    };
    let html = shown.html.map(|html| html.content);
    let Walk { attachments, locations, new_ids, notes, .. } = walk;
    Ok(Body { html, text, attachments, locations, new_ids, notes })
}

fn cannot_be_recomposed(entity: &Entity<'_>, what: &str) -> CannotCarry {
    let place = match entity.number.as_str() {
        "" => String::new(),
        number => format!(" (part {number})"),
    };
    let what = format!("{what}{place} cannot be sent through Resend, which writes every message anew");
    CannotCarry::new("5.6.1", &what)
}

/// What an entity is to the one around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The whole message, or the root of a multipart/related.
    Whole,
    /// One of several versions of the same.
    Version,
    /// One of several pieces.
    Piece,
}

#[derive(Default)]
struct Walk<'e, 'a> {
    attachments: Vec<&'e Entity<'a>>,
    locations: Vec<&'e str>,
    /// By what HTML could refer to the files that were met.
    met: HashSet<Named>,
    new_ids: HashMap<&'e str, String>,
    notes: Vec<Note>,
}

impl<'e, 'a> Walk<'e, 'a> {
    fn note(&mut self, entity: &Entity<'_>, change: Change) {
        self.notes.push(Note::part(entity, change));
    }

    fn piece(&mut self, entity: &'e Entity<'a>, role: Role) -> Result<Shown, CannotCarry> {
        match &entity.content {
            Content::Leaf(_) if is_shown(entity, role) => self.leaf(entity),
            Content::Leaf(_) => {
                if role == Role::Version {
                    self.note(entity, Change::VersionAsFile);
                }
                self.file(entity)?;
                Ok(Shown::default())
            }
            Content::Parts(parts) => {
                self.notes.extend(dissolved(entity));
                let is_lost = |name: &str| !READ_OF_MULTIPARTS.contains(&name);
                self.notes.extend(Note::parameters_lost(entity, is_lost));
                self.notes.extend(lost_fields(entity));
                match entity.media.subtype() {
                    "signed" | "encrypted" | "report" => {
                        Err(cannot_be_recomposed(entity, &format!("a {} message", entity.media.essence())))
                    }
                    "alternative" => self.alternative(parts),
                    "related" => self.related(entity, parts, role),
                    _ => self.one_after_another(parts),
                }
            }
        }
    }

    fn file(&mut self, entity: &'e Entity<'a>) -> Result<(), CannotCarry> {
        if entity.media.is("message", "partial") {
            return Err(cannot_be_recomposed(entity, "a fragment of a message"));
        }
        self.met.extend(names(entity, &[]));
        self.attachments.push(entity);
        Ok(())
    }

    fn leaf(&mut self, entity: &'e Entity<'a>) -> Result<Shown, CannotCarry> {
        let decoded = entity.decoded().map_err(|broken| CannotCarry::at(entity, &broken))?;
        let text = self.text(entity, &decoded)?;
        if text.trim().is_empty() {
            return Ok(Shown::default());
        }
        if entity.filename.is_some() {
            self.note(entity, Change::NameNotShown);
        }
        self.notes.extend(lost_fields(entity));
        let is_lost = |name: &str| !READ_OF_TEXTS.contains(&name);
        self.notes.extend(Note::parameters_lost(entity, is_lost));
        let version = |content| Some(Version { content, parts: vec![entity.number.clone()] });
        if entity.media.subtype() == "html" {
            self.locations.extend(entity.location.as_deref());
            return Ok(Shown { text: None, html: version(text) });
        }
        let parameter = |name| entity.media.parameter(name).unwrap_or_default().to_ascii_lowercase();
        let (format, delsp) = (parameter("format"), parameter("delsp"));
        let is_unflowed = format == "flowed" && delsp == "yes";
        if let Some(what) = sealed::clearsigned(&text, is_unflowed) {
            return Err(cannot_be_recomposed(entity, what));
        }
        let text = match format.as_str() {
            "flowed" if is_unflowed => {
                self.note(entity, Change::Unflowed);
                flowed::paragraphs(&text)
            }
            "flowed" => {
                self.note(entity, Change::Flowed);
                text
            }
            _ => text,
        };
        Ok(Shown { text: version(text), html: None })
    }

    fn text(&mut self, entity: &Entity<'_>, decoded: &Decoded<'_>) -> Result<String, CannotCarry> {
        let read = entity.text(decoded).map_err(|broken| CannotCarry::at(entity, &broken))?;
        let reading = match read.reading {
            Reading::Exact => None,
            Reading::Assumed(charset) => Some(Change::ReadAs(charset.to_owned())),
            Reading::Replaced => Some(Change::Replaced),
        };
        let damage = decoded.is_damaged.then_some(Change::Damaged);
        self.notes.extend(reading.into_iter().chain(damage).map(|change| Note::part(entity, change)));
        Ok(read.text)
    }

    /// Versions of the same: plain ones make the text, others the HTML. Several of a
    /// kind are not told apart by Resend, so they are joined rather than dropped.
    fn alternative(&mut self, parts: &'e [Entity<'a>]) -> Result<Shown, CannotCarry> {
        let (mut plain, mut rich) = (Vec::new(), Vec::new());
        let (particular, general): (Vec<_>, Vec<_>) =
            parts.iter().partition(|part| is_for_particular_readers(part));
        for part in general {
            let shown = self.piece(part, Role::Version)?;
            if shown.html.is_some() { rich.push(shown) } else { plain.push(shown) }
        }
        for part in particular {
            if rich.is_empty() {
                self.piece(part, Role::Version)?;
            } else {
                self.note(part, Change::VersionLeftOut);
            }
        }
        let plain = self.joined(plain, Change::VersionsJoined);
        let rich = self.joined(rich, Change::VersionsJoined);
        let (text, left_out) = match (plain.text, rich.text) {
            (None, rich) => (rich, None),
            (plain, rich) => (plain, rich),
        };
        let in_html = |number: &&String| rich.html.as_ref().is_some_and(|html| html.parts.contains(number));
        let left_out = left_out.iter().flat_map(|text| &text.parts).filter(|number| !in_html(number));
        self.notes.extend(left_out.map(|number| Note::numbered(number, PLAIN, Change::TextLeftOut)));
        Ok(Shown { text, html: rich.html })
    }

    /// A root and the files that it refers to (RFC 2387). What it refers to is looked up among
    /// them first: where that stands for something else before, theirs is another from here on.
    fn related(
        &mut self,
        entity: &Entity<'a>,
        parts: &'e [Entity<'a>],
        role: Role,
    ) -> Result<Shown, CannotCarry> {
        let role_of_root = if role == Role::Version { role } else { Role::Whole };
        let start =
            entity.media.parameter("start").map(|id| id.trim_start_matches('<').trim_end_matches('>'));
        let is_root = |part: &Entity<'_>| start.is_some() && part.content_id.as_deref() == start;
        let root = parts.iter().position(is_root).unwrap_or(0);
        let own = self.met_before(parts);
        let mut shown = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match &part.content {
                Content::Leaf(_) if index != root => self.file(part)?,
                _ if index == root => shown.push(self.piece(part, role_of_root)?),
                _ => shown.push(self.piece(part, Role::Whole)?),
            }
        }
        self.renew_ids(&own, &mut shown);
        Ok(self.joined(shown, Change::TextsJoined))
    }

    /// The files of a group that have a name in common with what was met before, by all of
    /// their names.
    fn met_before(&mut self, parts: &'e [Entity<'a>]) -> HashMap<Named, &'e str> {
        let mut leaves = Vec::new();
        leaves_of_group(parts, &mut leaves);
        let html = leaves.iter().filter(|leaf| is_shown(leaf, Role::Whole));
        let bases: Vec<&str> = html.filter_map(|leaf| leaf.location.as_deref()).collect();
        let named = |leaf: &&'e Entity<'a>| (leaf.number.as_str(), names(leaf, &bases));
        let own: Vec<(&str, Vec<Named>)> = leaves.iter().map(named).collect();
        let is_met = |names: &[Named]| names.iter().any(|name| self.met.contains(name));
        let mut met = HashMap::new();
        for (number, names) in own.iter().filter(|(_, names)| is_met(names)) {
            for name in names {
                met.entry(name.clone()).or_insert(*number);
            }
        }
        self.met.extend(own.into_iter().flat_map(|(_, names)| names));
        met
    }

    /// Makes the HTML of a group refer to its own files by ids that nothing else has.
    fn renew_ids(&mut self, own: &HashMap<Named, &'e str>, shown: &mut [Shown]) {
        if own.is_empty() {
            return;
        }
        let files = self.attachments.iter().enumerate();
        let places: HashMap<&str, usize> = files.map(|(place, file)| (file.number.as_str(), place)).collect();
        for html in shown.iter_mut().filter_map(|piece| piece.html.as_mut()) {
            let urls = locations(&html.content).map(|reference| Named::Url(reference.target));
            let (mut new_ids, mut new_urls) = (HashMap::new(), HashMap::new());
            for named in cids(&html.content).map(|reference| Named::Id(reference.target)).chain(urls) {
                let Some(number) = own.get(&named) else { continue };
                let Some(new_id) = places.get(number).copied().map(new_content_id) else { continue };
                match named {
                    Named::Id(id) => new_ids.insert(id, new_id.clone()),
                    Named::Url(url) => new_urls.insert(url, format!("cid:{new_id}")),
                };
                self.new_ids.insert(number, new_id);
            }
            if !new_urls.is_empty() {
                html.content = with_new_targets(&html.content, locations(&html.content), &new_urls);
            }
            if !new_ids.is_empty() {
                html.content = with_new_targets(&html.content, cids(&html.content), &new_ids);
            }
        }
    }

    /// multipart/mixed, and every multipart that is not known (RFC 2046 §5.1.3).
    fn one_after_another(&mut self, parts: &'e [Entity<'a>]) -> Result<Shown, CannotCarry> {
        let mut pieces: Vec<Shown> = Vec::with_capacity(parts.len());
        // What will have stood between two texts, if another comes.
        let mut between = Vec::new();
        let mut notes = Vec::new();
        for part in parts {
            let shown = self.piece(part, Role::Piece)?;
            let is_text = shown.text.is_some() || shown.html.is_some();
            if is_text && !pieces.is_empty() {
                notes.append(&mut between);
            }
            let is_file = matches!(part.content, Content::Leaf(_)) && part.disposition == Disposition::Inline;
            match is_text {
                true => pieces.push(shown),
                false if is_file && !pieces.is_empty() && !is_readable(part) => {
                    between.push(Note::part(part, Change::BetweenTexts));
                }
                false => {}
            }
        }
        self.notes.append(&mut notes);
        Ok(self.joined(pieces, Change::TextsJoined))
    }

    fn joined(&mut self, mut pieces: Vec<Shown>, told: fn(Vec<String>) -> Change) -> Shown {
        pieces.retain(|piece| piece.text.is_some() || piece.html.is_some());
        if pieces.len() < 2 {
            return pieces.pop().unwrap_or_default();
        }
        let any_html = pieces.iter().any(|piece| piece.html.is_some());
        let all_text = pieces.iter().all(|piece| piece.text.is_some());
        let version = |piece: &Shown| {
            let version = piece.html.as_ref().or(piece.text.as_ref());
            version.map(|version| version.parts.clone()).unwrap_or_default()
        };
        self.notes.push(Note::message(told(pieces.iter().flat_map(version).collect())));
        for piece in pieces.iter().filter(|_| !all_text) {
            let change = if piece.html.is_some() { Change::TextLeftOut } else { Change::InHtml };
            let parts = piece.text.iter().flat_map(|text| &text.parts);
            let in_html =
                |number: &&String| piece.html.as_ref().is_some_and(|html| html.parts.contains(number));
            let notes = parts.filter(|number| !in_html(number));
            self.notes.extend(notes.map(|number| Note::numbered(number, PLAIN, change.clone())));
        }
        let html = any_html.then(|| lines(pieces.iter().filter_map(as_html)));
        let text = all_text.then(|| lines(pieces.into_iter().filter_map(|piece| piece.text)));
        Shown { text, html }
    }
}

/// By what HTML refers to a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    /// Its Content-ID.
    Id(String),
    /// Its URL, as it may be written.
    Url(String),
}

/// By what HTML that was to be found at these URLs may refer to a file.
fn names(entity: &Entity<'_>, bases: &[&str]) -> Vec<Named> {
    let id = entity.content_id.clone().map(Named::Id);
    let urls = entity.location.iter().flat_map(|location| writings(location, bases));
    id.into_iter().chain(urls.map(Named::Url)).collect()
}

/// The leaves of a multipart/related. Those of another one within it are that one's.
fn leaves_of_group<'e, 'a>(parts: &'e [Entity<'a>], leaves: &mut Vec<&'e Entity<'a>>) {
    for part in parts {
        match &part.content {
            Content::Leaf(_) => leaves.push(part),
            Content::Parts(parts) if part.media.subtype() != "related" => leaves_of_group(parts, leaves),
            Content::Parts(_) => {}
        }
    }
}

/// Fields of one part that are named; the others are counted.
const MAX_LOST_FIELDS: usize = 20;

/// Parameters of a text's type that say how it is to be read, and its name, which is noted
/// for itself.
const READ_OF_TEXTS: [&str; 5] = ["charset", "format", "delsp", "boundary", "name"];

/// Those of a multipart's type that say where its parts are and which of them is its root,
/// and its name. A character set says nothing there (RFC 2046 §5.1).
const READ_OF_MULTIPARTS: [&str; 5] = ["boundary", "charset", "start", "type", "name"];

/// The type of what only the text holds.
const PLAIN: &str = "text/plain";

/// AMP and watches: the HTML once more, for readers who look for it there and nowhere
/// else. As a file it would be clutter, and none of them would open it.
fn is_for_particular_readers(entity: &Entity<'_>) -> bool {
    matches!(entity.content, Content::Leaf(_))
        && matches!(entity.media.essence().as_str(), "text/x-amp-html" | "text/watch-html")
}

fn is_readable(entity: &Entity<'_>) -> bool {
    entity.media.is("text", "plain") || entity.media.is("text", "html")
}

fn is_shown(entity: &Entity<'_>, role: Role) -> bool {
    let is_file = entity.filename.is_some() && role == Role::Piece;
    is_readable(entity) && !is_file && entity.disposition == Disposition::Inline
}

/// What a multipart loses that was to be one file.
fn dissolved(entity: &Entity<'_>) -> Option<Note> {
    let is_file = entity.filename.is_some() || entity.disposition == Disposition::Attachment;
    let change = is_file.then(|| Change::Dissolved(entity.filename.as_deref().map(short)))?;
    Some(if entity.is_message { Note::message(change) } else { Note::part(entity, change) })
}

/// Fields that a part has once, and what they say is carried.
const ONCE_IN_PARTS: [&str; 3] = ["Content-Disposition", "Content-ID", "Content-Location"];

/// Those that it has several times, and not with the same value.
fn repeated_fields<'n>(entity: &'n Entity<'_>) -> impl Iterator<Item = Note> + 'n {
    ONCE_IN_PARTS.into_iter().filter_map(|name| {
        let mut values = entity.fields.iter().filter(|field| field.is(name)).map(Field::unfolded);
        let first = values.next()?;
        let count = values.clone().count() + 1;
        values.any(|other| other != first).then(|| match entity.is_message {
            true => Note::field(name, Change::FirstOnly(count)),
            false => Note::part(entity, Change::PartFieldFirstOnly(name.to_owned(), count)),
        })
    })
}

/// Those fields of a part that say something to readers and are not carried, or not each time.
pub(super) fn lost_fields(entity: &Entity<'_>) -> Vec<Note> {
    let mut notes: Vec<Note> = repeated_fields(entity).collect();
    if entity.is_message {
        // The others are told with the header.
        return notes;
    }
    let lost = entity.fields.iter().filter(|field| {
        field.starts_with("Content-") && !super::fields::CARRIED_OF_PARTS.iter().any(|name| field.is(name))
    });
    let mut lost = lost.map(|field| Note::part(entity, Change::PartFieldLost(short(field.name()))));
    notes.extend(lost.by_ref().take(MAX_LOST_FIELDS));
    match lost.count() {
        0 => {}
        more => notes.push(Note::part(entity, Change::PartFieldsLost(more))),
    }
    notes
}

/// Versions one after another, each beginning on a line of its own.
fn lines(versions: impl Iterator<Item = Version>) -> Version {
    let mut joined = Version { content: String::new(), parts: Vec::new() };
    for version in versions {
        if !joined.content.is_empty() && !joined.content.ends_with('\n') {
            joined.content.push('\n');
        }
        joined.content.push_str(&version.content);
        joined.parts.extend(version.parts);
    }
    joined
}

fn as_html(piece: &Shown) -> Option<Version> {
    match (&piece.html, &piece.text) {
        (Some(html), _) => Some(Version { content: html.content.clone(), parts: html.parts.clone() }),
        (None, Some(text)) => {
            Some(Version { content: preformatted(&text.content), parts: text.parts.clone() })
        }
        (None, None) => None,
    }
}

/// A text as HTML. It ends early where it is more than a message may have, which is then
/// refused for that.
fn preformatted(text: &str) -> String {
    let mut html = String::with_capacity(text.len().saturating_add(64));
    html.push_str("<div style=\"white-space: pre-wrap\">");
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            c => html.push(c),
        }
        if html.len() > MAX_EMAIL_BYTES {
            break;
        }
    }
    html.push_str("</div>");
    html
}
