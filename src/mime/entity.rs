//! Bodies taken apart into their parts (RFC 2045, RFC 2046).
//!
//! Depth and number of parts are bounded, and a nested message is a leaf: its
//! bytes are somebody else's mail, which is carried and not opened. So no input
//! can exhaust the stack, and parts cost no memory beyond their own size.
//!
//! The bounds protect whoever opens a body, and that is the translation for Resend
//! alone. A message for an SMTP upstream is not held to them: its body is octets that
//! are sent and never parsed (a large one is not even in memory when it is accepted),
//! so its structure costs nothing here, and to look for it would open what needs no
//! opening. The bounds of [`super::header`] hold for every message and for each part.

use std::borrow::Cow;

use super::charset::{self, Reading, Text};
use super::header::{Field, Header, Malformed};
use super::media::{self, MediaType, disposition};
use super::transfer;

/// Multiparts inside multiparts, at most.
pub const MAX_DEPTH: usize = 20;
/// Parts of a message, at most.
pub const MAX_PARTS: usize = 1000;

/// Why a body cannot be taken apart; each reads as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The header of a part is malformed.
    #[error("a part of the message is malformed: {0}")]
    Header(#[from] Malformed),
    /// A Content-Type or Content-Disposition with too much in it.
    #[error("the parameters of a part of the message are too long")]
    Parameters,
    /// Parts nested deeper than [`MAX_DEPTH`].
    #[error("the parts of the message are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// More parts than [`MAX_PARTS`].
    #[error("the message has more than {MAX_PARTS} parts")]
    TooManyParts,
    /// A multipart that names no boundary, or whose boundary never comes.
    #[error("a {0} part has no parts between its boundaries")]
    NoParts(String),
    /// A Content-Transfer-Encoding that is not in RFC 2045.
    #[error("the content transfer encoding {0} is not known")]
    Encoding(String),
    /// A field that stands once, several times with values that differ: readers
    /// do not agree on which of them holds.
    #[error("a part of the message has several {0} fields, which differ")]
    Repeated(&'static str),
    /// What is said to be encoded is not.
    #[error("a part of the message is not valid {0}")]
    Encoded(&'static str),
    /// A character set that is not known, and the text is not UTF-8.
    #[error("the character set {0} is not known")]
    Charset(String),
}

/// What a Content-Disposition asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// To be shown, or nothing in particular.
    Inline,
    /// To be offered as a file.
    Attachment,
}

/// A message or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity<'a> {
    /// It is the message, and no part of one.
    pub is_message: bool,
    /// Where it stands: `2.1` is the first part of the second; the message itself is
    /// `1` if it has no parts, and has no number otherwise.
    pub number: String,
    /// Its type.
    pub media: MediaType,
    /// How it wants to be shown.
    pub disposition: Disposition,
    /// Its file name, without directories.
    pub filename: Option<String>,
    /// Its file name as it was written.
    pub written_filename: Option<String>,
    /// Its file name is in no character set that it could be read by.
    pub is_filename_guessed: bool,
    /// Its Content-ID, without brackets.
    pub content_id: Option<String>,
    /// Its Content-Location: a URL by which other parts refer to it (RFC 2557).
    pub location: Option<String>,
    /// Its header.
    pub fields: Vec<Field<'a>>,
    /// What it holds.
    pub content: Content<'a>,
    encoding: Encoding,
}

/// The octets of a leaf without their transfer encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The octets.
    pub bytes: Cow<'a, [u8]>,
    /// Something was not encoded soundly: passed over, or kept as it is.
    pub is_damaged: bool,
}

/// What an entity holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// Bytes, still under their transfer encoding.
    Leaf(&'a [u8]),
    /// The parts of a multipart.
    Parts(Vec<Entity<'a>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
    Unknown(String),
}

impl<'a> Entity<'a> {
    /// Takes the body of a message apart.
    pub fn parse(header: &Header<'a>) -> Result<Self, Broken> {
        let mut parts_left = MAX_PARTS;
        let mut entity = Self::read(header, MediaType::plain("text", "plain"), MAX_DEPTH, &mut parts_left)?;
        entity.is_message = true;
        entity.count(String::new());
        Ok(entity)
    }

    /// Gives the parts their numbers.
    fn count(&mut self, number: String) {
        match &mut self.content {
            Content::Leaf(_) if number.is_empty() => self.number = "1".to_owned(),
            Content::Leaf(_) => self.number = number,
            Content::Parts(parts) => {
                for (n, part) in (1..).zip(parts) {
                    part.count(if number.is_empty() { format!("{n}") } else { format!("{number}.{n}") });
                }
                self.number = number;
            }
        }
    }

    fn read(
        header: &Header<'a>,
        default: MediaType,
        depth_left: usize,
        parts_left: &mut usize,
    ) -> Result<Self, Broken> {
        let mut parameters = header.all("Content-Type").chain(header.all("Content-Disposition"));
        if !parameters.all(|field| media::is_readable(field.value())) {
            return Err(Broken::Parameters);
        }
        let media = only(header, "Content-Type", |field| MediaType::parse(field.value()))?.unwrap_or(default);
        let encoding = only(header, "Content-Transfer-Encoding", encoding)?.unwrap_or(Encoding::Identity);
        let (kind, filename, is_guessed) = match header.first("Content-Disposition") {
            Some(field) => disposition(field.value()),
            None => (String::new(), None, false),
        };
        let is_filename_guessed = if filename.is_some() { is_guessed } else { media.is_guessed() };
        let written_filename = filename.or_else(|| media.parameter("name").map(str::to_owned));
        // One that nobody knows is to be an attachment (RFC 2183 §2.8).
        let is_inline = matches!(kind.as_str(), "" | "inline");
        let content = if media.kind() == "multipart" {
            Content::Parts(Self::read_parts(&media, header.body, depth_left, parts_left)?)
        } else {
            Content::Leaf(header.body)
        };
        let location = header.first("Content-Location").map(Field::unfolded);
        Ok(Self {
            is_message: false,
            number: String::new(),
            disposition: if is_inline { Disposition::Inline } else { Disposition::Attachment },
            filename: written_filename.as_deref().and_then(file_name),
            written_filename,
            is_filename_guessed,
            content_id: header.first("Content-ID").and_then(content_id),
            location: location.filter(|location| !location.is_empty()),
            fields: header.fields.clone(),
            content,
            encoding,
            media,
        })
    }

    fn read_parts(
        media: &MediaType,
        body: &'a [u8],
        depth_left: usize,
        parts_left: &mut usize,
    ) -> Result<Vec<Self>, Broken> {
        let depth_left = depth_left.checked_sub(1).ok_or(Broken::TooDeep)?;
        let no_parts = || Broken::NoParts(media.essence());
        let boundary = media.parameter("boundary").filter(|b| !b.is_empty()).ok_or_else(no_parts)?;
        let slices = split(body, boundary.as_bytes(), *parts_left).ok_or(Broken::TooManyParts)?;
        if slices.is_empty() {
            return Err(no_parts());
        }
        *parts_left = parts_left.saturating_sub(slices.len());
        let default = if media.is("multipart", "digest") {
            MediaType::plain("message", "rfc822")
        } else {
            MediaType::plain("text", "plain")
        };
        let read = |slice| Self::read(&Header::parse(slice)?, default.clone(), depth_left, parts_left);
        slices.into_iter().map(read).collect()
    }

    /// The bytes of a leaf, free of their transfer encoding and otherwise exact;
    /// nothing for a multipart.
    pub fn decoded(&self) -> Result<Decoded<'a>, Broken> {
        let Content::Leaf(bytes) = self.content else {
            return Ok(Decoded { bytes: Cow::Borrowed(&[]), is_damaged: false });
        };
        let unwrapped = match &self.encoding {
            Encoding::Identity => return Ok(Decoded { bytes: Cow::Borrowed(bytes), is_damaged: false }),
            Encoding::Base64 => transfer::base64(bytes),
            Encoding::QuotedPrintable => transfer::quoted_printable(bytes),
            Encoding::Unknown(name) => return Err(Broken::Encoding(name.clone())),
        };
        if unwrapped.is_damaged && unwrapped.bytes.is_empty() {
            return Err(Broken::Encoded("Base64"));
        }
        Ok(Decoded { bytes: Cow::Owned(unwrapped.bytes), is_damaged: unwrapped.is_damaged })
    }

    /// The decoded octets of a leaf as text, in UTF-8 whatever its character set,
    /// with `\n` line ends. U+0000 means nothing in a text, whatever it is encoded as.
    pub fn text(&self, decoded: &Decoded<'_>) -> Result<Text, Broken> {
        let charset = self.media.parameter("charset").unwrap_or_default();
        let read = charset::decode(charset, &decoded.bytes);
        let read = read.ok_or_else(|| Broken::Charset(charset.chars().take(40).collect()))?;
        let text = read.text.strip_prefix('\u{feff}').unwrap_or(&read.text);
        let reading = if text.contains('\0') { Reading::Replaced } else { read.reading };
        let text = text.replace("\r\n", "\n").replace('\0', "\u{fffd}");
        Ok(Text { text, reading })
    }
}

/// What a field says; it may be repeated if it says the same.
fn only<T: PartialEq>(
    header: &Header<'_>,
    name: &'static str,
    read: impl Fn(&Field<'_>) -> T,
) -> Result<Option<T>, Broken> {
    let mut said = header.all(name).map(read);
    let first = said.next();
    if said.any(|other| Some(&other) != first.as_ref()) {
        return Err(Broken::Repeated(name));
    }
    Ok(first)
}

fn encoding(field: &Field<'_>) -> Encoding {
    let value = field.unfolded();
    let name = value.split([';', '(', ' ']).next().unwrap_or_default();
    match name.to_ascii_lowercase().as_str() {
        "" | "7bit" | "8bit" | "binary" | "7-bit" | "8-bit" => Encoding::Identity,
        "base64" => Encoding::Base64,
        "quoted-printable" => Encoding::QuotedPrintable,
        _ => Encoding::Unknown(name.chars().take(40).collect()),
    }
}

fn content_id(field: &Field<'_>) -> Option<String> {
    let value = field.unfolded();
    let id = value.trim_start_matches('<').trim_end_matches('>').trim();
    if id.is_empty() { None } else { Some(id.to_owned()) }
}

/// A name that names no directory and hides no extension behind dots or spaces.
pub(super) fn file_name(text: &str) -> Option<String> {
    let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !c.is_control()).collect();
    let name = shown.trim().trim_end_matches(['.', ' ']);
    let surplus = name.chars().count().saturating_sub(200);
    let name: String = name.chars().skip(surplus).collect();
    if name.is_empty() { None } else { Some(name) }
}

/// The parts between the delimiter lines of `boundary` (RFC 2046 §5.1.1), at most
/// `limit` of them. A missing closing delimiter is forgiven: the last part ends
/// where the body does.
fn split<'a>(body: &'a [u8], boundary: &[u8], limit: usize) -> Option<Vec<&'a [u8]>> {
    let mut parts = Vec::new();
    let mut part_start = None;
    let mut line_start = 0;
    while line_start < body.len() {
        let rest = body.get(line_start..).unwrap_or_default();
        let line_end = line_start + rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
        if let Some(closing) = delimiter(body.get(line_start..line_end).unwrap_or_default(), boundary) {
            if let Some(start) = part_start {
                parts.push(without_line_end(body.get(start..line_start).unwrap_or_default()));
            }
            part_start = if closing { None } else { Some(line_end) };
            if closing {
                break;
            }
            if parts.len() >= limit {
                return None;
            }
        }
        line_start = line_end;
    }
    parts.extend(part_start.and_then(|start| body.get(start..)));
    if parts.len() > limit { None } else { Some(parts) }
}

/// Whether a line is a delimiter, and if so whether it closes the multipart.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    match rest.strip_prefix(b"--") {
        Some(rest) if rest.trim_ascii().is_empty() => Some(true),
        None if rest.trim_ascii().is_empty() => Some(false),
        _ => None,
    }
}

/// The line end before a delimiter belongs to the delimiter.
fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Entity<'_>, Broken> {
        Entity::parse(&Header::parse(bytes).unwrap())
    }

    fn text(bytes: &[u8]) -> Result<String, Broken> {
        let entity = parse(bytes)?;
        Ok(entity.text(&entity.decoded()?)?.text)
    }

    fn slices(body: &[u8]) -> Vec<&[u8]> {
        split(body, b"b", 9).unwrap()
    }

    #[test]
    fn multiparts_are_split_at_their_own_boundary() {
        let table: [(&[u8], &[&[u8]]); 8] = [
            (b"pre\r\n--b\r\n1\r\n--b\r\n2\r\n--b--\r\nepi", &[b"1", b"2"]),
            (b"--b\r\n1\r\n\r\n--b--", &[b"1\r\n"]),
            (b"--b\r\n--b--", &[b""]),
            (b"--b\r\n1", &[b"1"]),
            (b"--b\r\n1\r\n--bb\r\n--b-\r\n--b--", &[b"1\r\n--bb\r\n--b-"]),
            (b"--b \t\r\n1\r\n--b-- \r\n", &[b"1"]),
            (b"x --b\r\n1", &[]),
            (b"--b--\r\n--b\r\n1", &[]),
        ];
        for (body, want) in table {
            assert_eq!(slices(body), want, "{body:?}");
        }
    }

    #[test]
    fn text_is_read_whatever_its_charset() {
        let table: [(&str, &[u8], &str); 10] = [
            ("", b"a\r\nb\r\n", "a\nb\n"),
            ("Content-Type: text/plain\r\n", b"gr\xc3\xbc", "gr\u{fc}"),
            ("Content-Type: text/plain\r\n", b"gr\xfc", "gr\u{fc}"),
            ("Content-Type: text/plain; charset=iso-8859-15\r\n", b"\xa4", "\u{20ac}"),
            ("Content-Type: text/plain; charset=shift_jis\r\n", b"\x83n", "\u{30cf}"),
            ("Content-Type: text/plain; charset=utf-8\r\n", b"\xef\xbb\xbfa\xff", "a\u{fffd}"),
            ("Content-Type: text/plain; charset=utf-16be\r\n", b"\0a\0\0", "a\u{fffd}"),
            ("Content-Type: text/plain; charset=x-odd\r\n", b"\xc3\xbc", "\u{fc}"),
            ("Content-Transfer-Encoding: BASE64\r\n", b"Z3LD\r\nvA==\r\n", "gr\u{fc}"),
            ("Content-Transfer-Encoding: quoted-printable\r\n", b"gr=C3=BC=\r\n!", "gr\u{fc}!"),
        ];
        for (fields, body, want) in table {
            let bytes = [fields.as_bytes(), b"\r\n", body].concat();
            assert_eq!(text(&bytes).as_deref(), Ok(want), "{fields}");
        }
    }

    #[test]
    fn text_that_cannot_be_read_is_said_so() {
        let table: [(&str, &[u8], Broken); 3] = [
            ("Content-Type: text/plain; charset=x-odd\r\n", b"\xff", Broken::Charset("x-odd".into())),
            ("Content-Transfer-Encoding: x-uuencode\r\n", b"", Broken::Encoding("x-uuencode".into())),
            ("Content-Transfer-Encoding: base64\r\n", b"<<>>", Broken::Encoded("Base64")),
        ];
        for (fields, body, want) in table {
            let bytes = [fields.as_bytes(), b"\r\n", body].concat();
            assert_eq!(text(&bytes), Err(want), "{fields}");
        }
    }

    #[test]
    fn a_field_that_says_two_things_says_nothing() {
        let table = [
            ("Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: 8BIT\r\n", None),
            ("Content-Type: text/plain\r\ncontent-type: Text/Plain \r\n", None),
            (
                "Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n",
                Some("Content-Transfer-Encoding"),
            ),
            (
                "Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n",
                Some("Content-Type"),
            ),
            ("Content-Type: text/plain\r\nContent-Type: text/plain; charset=utf-8\r\n", Some("Content-Type")),
        ];
        for (fields, repeated) in table {
            let bytes = format!("{fields}\r\nx");
            assert_eq!(text(bytes.as_bytes()).err(), repeated.map(Broken::Repeated), "{fields}");
        }
    }

    #[test]
    fn parts_are_counted_as_readers_of_mail_count_them() {
        assert_eq!(parse(b"A: 1\r\n\r\nx").unwrap().number, "1");
        let inner = "Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c\r\n\r\ny\r\n--c--";
        let outer = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\n{inner}\r\n--b--"
        );
        let Content::Parts(parts) = parse(outer.as_bytes()).unwrap().content else { panic!() };
        let Content::Parts(nested) = &parts[1].content else { panic!() };
        let numbers: Vec<&str> = parts.iter().chain(nested).map(|part| part.number.as_str()).collect();
        assert_eq!(numbers, ["1", "2", "2.1", "2.2"]);
    }

    #[test]
    fn p7_no_nesting_exhausts_the_stack_or_the_memory() {
        let messages = "Content-Type: message/rfc822\r\n\r\n".repeat(200_000);
        assert!(matches!(parse(messages.as_bytes()).unwrap().content, Content::Leaf(_)));

        let deep: String = (0..100_000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
        assert_eq!(parse(deep.as_bytes()), Err(Broken::TooDeep));

        let wide =
            format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n".repeat(1_000_000));
        assert_eq!(parse(wide.as_bytes()), Err(Broken::TooManyParts));
    }

    #[test]
    fn file_names_name_no_directory() {
        let table = [
            ("a.pdf", Some("a.pdf")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\x\\a.exe. ", Some("a.exe")),
            ("a\u{7}.pdf", Some("a.pdf")),
            ("..", None),
            (" ", None),
        ];
        for (text, want) in table {
            assert_eq!(file_name(text).as_deref(), want, "{text:?}");
        }
    }
}
