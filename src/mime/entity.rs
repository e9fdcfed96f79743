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
//! opening. The bounds of [`header`] hold for every message and for each part.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

use super::header::{self, Field, Header, Malformed};
use super::media::{self, MediaType, disposition};

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
    /// Its type.
    pub media: MediaType,
    /// How it wants to be shown.
    pub disposition: Disposition,
    /// Its file name, without directories.
    pub filename: Option<String>,
    /// Its Content-ID, without brackets.
    pub content_id: Option<String>,
    /// What it holds.
    pub content: Content<'a>,
    encoding: Encoding,
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
        Self::read(header, MediaType::plain("text", "plain"), MAX_DEPTH, &mut parts_left)
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
        let media = header.first("Content-Type").map_or(default, |field| MediaType::parse(field.value()));
        let (kind, filename) = match header.first("Content-Disposition") {
            Some(field) => disposition(field.value()),
            None => (String::new(), None),
        };
        let filename = filename.as_deref().or(media.parameter("name")).and_then(file_name);
        let disposition = if kind == "attachment" { Disposition::Attachment } else { Disposition::Inline };
        let content = if media.kind() == "multipart" {
            Content::Parts(Self::read_parts(&media, header.body, depth_left, parts_left)?)
        } else {
            Content::Leaf(header.body)
        };
        let content_id = header.first("Content-ID").and_then(content_id);
        Ok(Self { disposition, filename, content_id, content, encoding: encoding(header), media })
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
    pub fn decoded(&self) -> Result<Cow<'a, [u8]>, Broken> {
        let Content::Leaf(bytes) = self.content else { return Ok(Cow::Borrowed(&[])) };
        match &self.encoding {
            Encoding::Identity => Ok(Cow::Borrowed(bytes)),
            Encoding::Base64 => base64_decode(bytes).map(Cow::Owned).ok_or(Broken::Encoded("Base64")),
            Encoding::QuotedPrintable => {
                quoted_printable_decode(bytes).map(Cow::Owned).ok_or(Broken::Encoded("quoted-printable"))
            }
            Encoding::Unknown(name) => Err(Broken::Encoding(name.clone())),
        }
    }

    /// The text of a leaf, in UTF-8 whatever its character set, with `\n` line ends.
    pub fn text(&self) -> Result<String, Broken> {
        let bytes = self.decoded()?;
        let charset = self.media.parameter("charset").unwrap_or_default().to_ascii_lowercase();
        let text: Cow<'_, str> = match charset.as_str() {
            "" | "us-ascii" | "ascii" => header::text(&bytes),
            "utf-8" | "utf8" => String::from_utf8_lossy(&bytes),
            known => match charset_decoder(known.as_bytes()) {
                Some(decode) => Cow::Owned(decode(&bytes)),
                None => Cow::Borrowed(std::str::from_utf8(&bytes).map_err(|_| Broken::Charset(charset))?),
            },
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Ok(text.replace("\r\n", "\n"))
    }
}

fn encoding(header: &Header<'_>) -> Encoding {
    let name = header.first("Content-Transfer-Encoding").map(Field::unfolded).unwrap_or_default();
    match name.to_ascii_lowercase().as_str() {
        "" | "7bit" | "8bit" | "binary" => Encoding::Identity,
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
        let table: [(&str, &[u8], &str); 9] = [
            ("", b"a\r\nb\r\n", "a\nb\n"),
            ("Content-Type: text/plain\r\n", b"gr\xc3\xbc", "gr\u{fc}"),
            ("Content-Type: text/plain\r\n", b"gr\xfc", "gr\u{fc}"),
            ("Content-Type: text/plain; charset=iso-8859-15\r\n", b"\xa4", "\u{20ac}"),
            ("Content-Type: text/plain; charset=shift_jis\r\n", b"\x83n", "\u{30cf}"),
            ("Content-Type: text/plain; charset=utf-8\r\n", b"\xef\xbb\xbfa\xff", "a\u{fffd}"),
            ("Content-Type: text/plain; charset=x-odd\r\n", b"\xc3\xbc", "\u{fc}"),
            ("Content-Transfer-Encoding: BASE64\r\n", b"Z3LD\r\nvA==\r\n", "gr\u{fc}"),
            ("Content-Transfer-Encoding: quoted-printable\r\n", b"gr=C3=BC=\r\n!", "gr\u{fc}!"),
        ];
        for (fields, body, want) in table {
            let bytes = [fields.as_bytes(), b"\r\n", body].concat();
            assert_eq!(parse(&bytes).unwrap().text().as_deref(), Ok(want), "{fields}");
        }
    }

    #[test]
    fn text_that_cannot_be_read_is_said_so() {
        let table: [(&str, &[u8], Broken); 4] = [
            ("Content-Type: text/plain; charset=x-odd\r\n", b"\xff", Broken::Charset("x-odd".into())),
            ("Content-Transfer-Encoding: x-uuencode\r\n", b"", Broken::Encoding("x-uuencode".into())),
            ("Content-Transfer-Encoding: base64\r\n", b"<<>>", Broken::Encoded("Base64")),
            ("Content-Transfer-Encoding: quoted-printable\r\n", b"=zz", Broken::Encoded("quoted-printable")),
        ];
        for (fields, body, want) in table {
            let bytes = [fields.as_bytes(), b"\r\n", body].concat();
            assert_eq!(parse(&bytes).unwrap().text(), Err(want), "{fields}");
        }
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
