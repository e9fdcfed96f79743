//! What becomes of a message on its way through Resend, in words: every loss and
//! every change, in one place.
//!
//! [`EVERY_MAIL`] holds for all mail and is told by `postmeter explain` alone; a
//! [`Note`] is about one message.

use std::fmt;

use serde::Serialize;

use crate::domain::address::Mailbox;
use crate::mime::entity::Entity;

/// What Resend does to every mail.
pub const EVERY_MAIL: [&str; 8] = [
    "Message-ID, Date, Return-Path, Received and MIME-Version are Resend's own",
    "signatures in the header (DKIM, DKIM2, DomainKeys, ARC) are Resend's own, since it writes the message anew",
    "Content-Length and X-Postmeter-Idempotency-Key are for Postmeter and go no further",
    "character sets and transfer encodings of texts are Resend's choice; line ends are, too",
    "of a file's disposition only the name is carried",
    "To and Cc show recipients of the envelope only; Bcc is never shown",
    "the order of header fields, and text before the first and after the last boundary, are not carried",
    "requests for delivery reports (DSN) are not passed on: Postmeter writes bounces itself",
];

/// Addresses or parts that a note names, at most; the others are counted.
const MAX_NAMED: usize = 5;
/// The field of the message that says its type.
const TYPE: &str = "Content-Type";
/// Characters of a type or of a field's name.
const MAX_NAME_CHARS: usize = 80;

/// One loss or change. Shown as one line: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub place: Place,
    /// What.
    pub change: Change,
}

/// Where a message is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// All of it.
    Message,
    /// A header field of that name.
    Field(String),
    /// A part of that number and type.
    Part {
        /// As in [`Entity::number`].
        number: String,
        /// `image/png`
        essence: String,
    },
}

/// What is lost or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The message has no subject.
    NoSubject,
    /// It shows no text.
    NoText,
    /// Its recipients need so many calls.
    Split(usize),
    /// It has several texts one after another; their parts.
    TextsJoined(Vec<String>),
    /// Several versions of a text are of the same kind; their parts.
    VersionsJoined(Vec<String>),
    /// It goes by another road, unchanged.
    OtherRoad(String),
    /// The tags that came with it are kept nowhere.
    TagsNotKept(Vec<String>),

    /// A field is not carried.
    NotCarried,
    /// A field that stands several times became one value.
    FieldsJoined(usize),
    /// Of a field that stands several times the first is carried.
    FirstOnly(usize),
    /// A field is empty.
    Empty,
    /// Characters beyond ASCII became encoded words.
    FieldEncoded,
    /// Addresses in To or Cc that are no recipients.
    NotShown(Vec<String>),
    /// Something in an address list is no address.
    NoAddress,
    /// The name of a group of addresses.
    GroupName(String),
    /// A comment in an address list is shown as part of a name.
    CommentShown,
    /// Control characters of a field became spaces.
    ControlsReplaced,
    /// Further names of those who are shown under another.
    OtherNames(Vec<String>),
    /// `to` may not be empty: Cc moved up.
    CcAsTo,
    /// `to` may not be empty: recipients that no field shows.
    HiddenInTo(usize),

    /// The text was read as another character set than named.
    ReadAs(String),
    /// Octets mean nothing in the character set.
    Replaced,
    /// The transfer encoding is damaged.
    Damaged,
    /// format=flowed, kept line by line.
    Flowed,
    /// format=flowed with DelSp, put together to paragraphs.
    Unflowed,
    /// A text is in the HTML only.
    InHtml,
    /// A plain version is left out; the HTML says it.
    TextLeftOut,
    /// A version for particular readers is left out.
    VersionLeftOut,
    /// A version of the text became a file.
    VersionAsFile,
    /// Something between two texts became a file.
    BetweenTexts,
    /// A text that is shown had a file name.
    NameNotShown,
    /// Was to be shown, and nothing says where.
    NotInPlace,
    /// A file without a name got one.
    Named(String),
    /// A file got another name.
    Renamed(String),
    /// The type is left to the extension.
    TypeLeftOut,
    /// The type says nothing, and the extension does.
    TypeOfName,
    /// A calendar's text is not octet for octet.
    CalendarRewritten,
    /// The HTML refers to it by a new id.
    NewContentId(String),
    /// Two parts have one id.
    SameContentId,
    /// Those parameters of the part's type are not carried.
    ParametersLost(Vec<String>),
    /// A field of the part is not carried.
    PartFieldLost(String),
    /// Nor are so many others.
    PartFieldsLost(usize),
    /// A field of the part stands so many times, and the first is carried.
    PartFieldFirstOnly(String, usize),
    /// A multipart that was to be one file, with its name: only its parts are carried.
    Dissolved(Option<String>),
}

impl Note {
    pub(super) fn message(change: Change) -> Self {
        Self { place: Place::Message, change }
    }

    pub(super) fn field(name: &str, change: Change) -> Self {
        Self { place: Place::Field(name.to_owned()), change }
    }

    pub(super) fn part(entity: &Entity<'_>, change: Change) -> Self {
        Self::numbered(&entity.number, &entity.media.essence(), change)
    }

    pub(super) fn numbered(number: &str, essence: &str, change: Change) -> Self {
        Self { place: Place::Part { number: number.to_owned(), essence: short(essence) }, change }
    }

    /// Those of the parameters of a part's type that are lost; `None`: there are none.
    pub(super) fn parameters_lost(entity: &Entity<'_>, is_lost: impl Fn(&str) -> bool) -> Option<Self> {
        let lost = entity.media.parameter_names().filter(|name| is_lost(name));
        let lost: Vec<String> = lost.map(short).collect();
        let change = (!lost.is_empty()).then_some(Change::ParametersLost(lost))?;
        // The message has no number where it has parts.
        Some(if entity.number.is_empty() { Self::field(TYPE, change) } else { Self::part(entity, change) })
    }

    /// The message goes by SMTP, and why.
    pub fn other_road(why: &str) -> Self {
        Self::message(Change::OtherRoad(why.to_owned()))
    }

    /// A field is taken out before the message is kept.
    pub fn withheld(name: &str) -> Self {
        Self::field(name, Change::NotCarried)
    }

    /// Tags of these names came with the message, over HTTP, and are kept nowhere.
    pub fn tags_not_kept(names: Vec<String>) -> Self {
        Self::message(Change::TagsNotKept(names))
    }

    /// Why the message had better go by another road, where one is there: a version that
    /// its readers would see as such becomes a file.
    pub fn why_unchanged(&self) -> Option<String> {
        let Place::Part { number, essence } = &self.place else { return None };
        let is_lost = self.change == Change::VersionAsFile;
        is_lost.then(|| {
            format!("part {number} ({essence}), another version of the text, would be a file at Resend")
        })
    }

    pub(super) fn not_shown(field: &str, addresses: &[&Mailbox]) -> Self {
        Self::field(field, Change::NotShown(addresses.iter().map(ToString::to_string).collect()))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text: String = one_line(match &self.place {
            Place::Message => self.change.to_string(),
            Place::Field(name) => format!("header {name}: {}", self.change),
            Place::Part { number, essence } => format!("part {number} ({essence}): {}", self.change),
        });
        f.write_str(&text)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::NoSubject => {
                "the message has no subject: Resend needs one, so it says \"(no subject)\"".into()
            }
            Self::NoText => "the message shows no text: Resend needs one, so it says \"(no text)\"".into(),
            Self::Split(calls) => {
                format!("goes as {calls} mails, each of which shows its own recipients only")
            }
            Self::TextsJoined(parts) => format!("the texts of parts {} are sent as one", some(parts)),
            Self::VersionsJoined(parts) => {
                format!("parts {} are versions of one kind: they are sent one after another", some(parts))
            }
            Self::OtherRoad(why) => format!("goes over SMTP, unchanged, since {why}"),
            Self::TagsNotKept(names) => format!("the tags {} are not kept", some(names)),
            other => return other.fmt_of_field(f),
        })
    }
}

impl Change {
    fn fmt_of_field(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::NotCarried => "is not carried".into(),
            Self::FieldsJoined(count) => format!("stands {count} times: joined to one value"),
            Self::FirstOnly(count) => format!("stands {count} times: the first is carried"),
            Self::Empty => "is empty: not carried".into(),
            Self::FieldEncoded => "is not ASCII: written as encoded words".into(),
            Self::NotShown(list) => format!("{} not shown, being no recipients of this envelope", some(list)),
            Self::NoAddress => "holds something that is no address: not shown".into(),
            Self::GroupName(name) => format!("the name of the group {name:?} is not shown"),
            Self::CommentShown => "has a comment beside a name: it becomes part of the name".into(),
            Self::ControlsReplaced => "its control characters become spaces".into(),
            Self::OtherNames(names) => format!("{} not shown: each recipient has one name", some(names)),
            Self::CcAsTo => "nobody in To is a recipient: those in Cc are shown in To".into(),
            Self::HiddenInTo(1) => "nobody in To and Cc is a recipient: the one who is stands in To".into(),
            Self::HiddenInTo(count) => {
                format!("{count} recipients stand in no field: each gets a mail that shows nobody else")
            }
            other => return other.fmt_of_part(f),
        })
    }

    fn fmt_of_part(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::ReadAs(charset) => format!("has no charset, or another than its octets: read as {charset}"),
            Self::Replaced => "octets that mean nothing in its charset are replaced by U+FFFD".into(),
            Self::Damaged => "its transfer encoding is damaged: read as far as it can be".into(),
            Self::Flowed => "its lines stay as they are: format=flowed is not carried".into(),
            Self::Unflowed => "its lines are put together to paragraphs: format=flowed is not carried".into(),
            Self::InHtml => "is shown in the HTML; there is no plain text version".into(),
            Self::TextLeftOut => "is left out: without text for every piece only the HTML is whole".into(),
            Self::VersionLeftOut => {
                "is left out: the same as the HTML, for particular readers, who look in no other place".into()
            }
            Self::VersionAsFile => "is another version of the text: sent as a file".into(),
            Self::BetweenTexts => "stands between two texts: sent as a file beside them".into(),
            Self::NameNotShown => "its file name is not carried, since it is shown as text".into(),
            Self::NotInPlace => "is not shown in its place, since nothing in the HTML refers to it".into(),
            Self::Named(name) => format!("has no file name: named {name}"),
            Self::Renamed(name) => format!("its file is named {name}"),
            Self::TypeLeftOut => "its type may contradict its file name: readers go by the name".into(),
            Self::TypeOfName => "its type becomes the one that goes with its file name".into(),
            Self::CalendarRewritten => "is sent as text in UTF-8 whose lines end in CRLF".into(),
            Self::NewContentId(id) => format!("the HTML refers to it by a new Content-ID, {id}"),
            Self::SameContentId => "another part has the same Content-ID: sent as a file".into(),
            Self::ParametersLost(names) => format!("of its type {} is not carried", some(names)),
            Self::PartFieldLost(name) => format!("its {name} is not carried"),
            Self::PartFieldFirstOnly(name, count) => {
                format!("its {name} stands {count} times: the first is carried")
            }
            Self::Dissolved(Some(name)) => {
                format!("its parts go each for themselves: it is no file named {name}")
            }
            Self::Dissolved(None) => "its parts go each for themselves: it is no file".into(),
            Self::PartFieldsLost(count) => format!("{count} more of its fields are not carried"),
            // Those of the message and of fields are written above.
            _ => String::new(),
        })
    }
}

/// As much of a name as says what it is: a message may give a thousand parts one of 16 KiB.
pub(super) fn short(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

/// The first of a list, and how many there are beside them.
fn some(list: &[String]) -> String {
    let named = list.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match list.len().saturating_sub(MAX_NAMED) {
        0 => named,
        others => format!("{named} and {others} others"),
    }
}
