//! The one scanner for header fields (RFC 5322 §2.2), for messages and for the
//! parts inside them.
//!
//! It is strict where readers of mail differ: a line that is neither a field nor
//! the continuation of one makes the whole header unsound, because some readers
//! would end the header there and others would go on. White space before the
//! colon (RFC 5322 §4.5) is understood, so that `Bcc :` is a Bcc field.

use std::borrow::Cow;
use std::ops::Range;

use encoding_rs::WINDOWS_1252;

use super::{charset, encoded_word};

/// The longest header that is read, in octets with its line ends.
pub const MAX_HEADER_BYTES: usize = 256 * 1024;

/// Fields of a header, at most.
pub const MAX_FIELDS: usize = 1000;

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_HEADER_BYTES`].
    #[error("the header is longer than {} KiB", MAX_HEADER_BYTES / 1024)]
    TooLong,
    /// More fields than [`MAX_FIELDS`].
    #[error("the header has more than {MAX_FIELDS} fields")]
    TooManyFields,
    /// A line that is no field and continues none.
    #[error("line {line} of the header is not a header field")]
    NotAField {
        /// The line, counted from 1.
        line: usize,
    },
}

/// One field, with its continuation lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    name: &'a str,
    value: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Field<'a> {
    /// The name as it was written, without white space around it.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Whether this is the field of that name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether the name begins like this.
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    }

    /// What stands after the colon, folded as it came, with its last line end.
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// Where the field stands, name and line ends included.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The value on one line: unfolded, trimmed, without control characters,
    /// encoded words left as they are.
    pub fn unfolded(&self) -> String {
        one_line(&text(self.value))
    }

    /// The value on one line, with its encoded words decoded (RFC 2047).
    pub fn decoded(&self) -> String {
        let japanese = charset::iso_2022_jp(self.value);
        let unfolded = japanese.map_or_else(|| self.unfolded(), |text| one_line(&text));
        one_line(&encoded_word::decode(&unfolded))
    }

    /// Whether spaces stand in [`Field::unfolded`] for control characters, other than
    /// tabs and those that fold the line.
    pub fn has_controls(&self) -> bool {
        let line = text(self.value).replace("\r\n", "").replace('\n', "");
        has_controls(&line)
    }

    /// The same of [`Field::decoded`].
    pub fn has_decoded_controls(&self) -> bool {
        let is_japanese = charset::iso_2022_jp(self.value).is_some();
        !is_japanese && self.has_controls() || has_controls(&encoded_word::decode(&self.unfolded()))
    }
}

/// A header and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// The fields, in their order.
    pub fields: Vec<Field<'a>>,
    /// Where the header ends: after its last field, before the blank line.
    pub end: usize,
    /// Everything after the blank line.
    pub body: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads the header at the start of `bytes`. A header without a body is sound.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        let mut start = 0;
        let mut line = 0;
        loop {
            let rest = bytes.get(start..).unwrap_or_default();
            let length = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            let end = start + length;
            let content = rest.get(..length).unwrap_or_default();
            if matches!(content, [] | b"\n" | b"\r\n") {
                let body = bytes.get(end..).unwrap_or_default();
                return Ok(Self { fields, end: start, body });
            }
            line += 1;
            if end > MAX_HEADER_BYTES {
                return Err(Malformed::TooLong);
            }
            let full = fields.len() == MAX_FIELDS;
            match (content, fields.last_mut()) {
                ([b' ' | b'\t', ..], Some(last)) => {
                    let value_start = last.end - last.value.len();
                    last.end = end;
                    last.value = bytes.get(value_start..end).unwrap_or_default();
                }
                _ if full => return Err(Malformed::TooManyFields),
                _ => fields.push(field(content, start).ok_or(Malformed::NotAField { line })?),
            }
            start = end;
        }
    }

    /// The fields of that name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().filter(move |field| field.is(name))
    }

    /// The first field of that name.
    pub fn first(&self, name: &str) -> Option<&Field<'a>> {
        self.all(name).next()
    }
}

/// Octets of the header at the start of `bytes` with the blank line behind it;
/// `None`: its end is not there. For lines that end in CRLF.
pub fn header_length(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

fn has_controls(line: &str) -> bool {
    line.contains(|c: char| c.is_control() && c != '\t')
}

fn field(line: &[u8], start: usize) -> Option<Field<'_>> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches([' ', '\t']);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    Some(Field { name, value: value.get(1..)?, start, end: start + line.len() })
}

/// Bytes of a header as text: UTF-8, or else Windows-1252, which gives every
/// octet a meaning.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
    }
}

/// The value as mail-parser wants it: text that ends in a line end.
pub(super) fn terminated(value: &[u8]) -> Cow<'_, str> {
    let text = text(value);
    if text.ends_with('\n') { text } else { Cow::Owned(text.into_owned() + "\n") }
}

/// Text brought to one line: control characters become spaces, ends are trimmed.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            // Unfolding removes the line end; the white space after it stays.
            '\n' if matches!(chars.peek(), Some(' ' | '\t')) => {}
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
        Header::parse(bytes).map(|h| h.fields.iter().map(|f| f.name().to_owned()).collect())
    }

    #[test]
    fn headers_are_split_from_bodies() {
        let table: [(&[u8], &[&str], &[u8]); 8] = [
            (b"A: 1\r\nB: 2\r\n\r\nC: 3\r\n", &["A", "B"], b"C: 3\r\n"),
            (b"A: 1\r\n b: 2\r\n\tc\r\n\r\n", &["A"], b""),
            (b"A: 1\r\nB: 2", &["A", "B"], b""),
            (b"A: 1\r\n", &["A"], b""),
            (b"\r\nA: 1\r\n", &[], b"A: 1\r\n"),
            (b"", &[], b""),
            (b"A \t: 1\nB:\n\nx", &["A", "B"], b"x"),
            (b"A: 1\r\n \r\nB: 2\r\n\r\n", &["A", "B"], b""),
        ];
        for (bytes, want, body) in table {
            assert_eq!(names(bytes).unwrap(), want, "{bytes:?}");
            assert_eq!(Header::parse(bytes).unwrap().body, body, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_that_readers_would_take_differently_is_refused() {
        let long = format!("A: {}\r\n\r\n", "x".repeat(MAX_HEADER_BYTES));
        let many = "A:\r\n".repeat(MAX_FIELDS + 1);
        let table: [(&[u8], Malformed); 8] = [
            (b" folded: first\r\n\r\n", Malformed::NotAField { line: 1 }),
            (b"From a@b Mon\r\nA: 1\r\n\r\n", Malformed::NotAField { line: 1 }),
            (b"A: 1\r\nno colon\r\n\r\n", Malformed::NotAField { line: 2 }),
            (b"A: 1\r\nmal formed: 2\r\n\r\n", Malformed::NotAField { line: 2 }),
            (b": nameless\r\n\r\n", Malformed::NotAField { line: 1 }),
            (b"A\0: 1\r\n\r\n", Malformed::NotAField { line: 1 }),
            (long.as_bytes(), Malformed::TooLong),
            (many.as_bytes(), Malformed::TooManyFields),
        ];
        for (bytes, want) in table {
            assert_eq!(names(bytes), Err(want));
        }
    }

    #[test]
    fn p7_a_header_full_of_half_encoded_words_costs_no_time() {
        let bytes = format!("Subject: {}\r\n", "=?ab?q?x".repeat(30_000));
        assert_eq!(Header::parse(bytes.as_bytes()).unwrap().fields[0].decoded().len(), 240_000);
    }

    #[test]
    fn values_are_unfolded_and_decoded() {
        let table: [(&[u8], &str, &str); 8] = [
            (b"S: a\r\n b\r\n\r\n", "a b", "a b"),
            (b"S:  a  b \r\n", "a  b", "a  b"),
            (b"S: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n", "=?utf-8?q?gr=C3=BC=C3=9Fe?=", "gr\u{fc}\u{df}e"),
            (b"S: =?utf-8?q?a?=\r\n =?utf-8?q?b?=\r\n", "=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
            (b"S: =?iso-8859-1?q?a=0D=0Ab?=\r\n", "=?iso-8859-1?q?a=0D=0Ab?=", "a b"),
            (b"S: gr\xc3\xbc\r\n", "gr\u{fc}", "gr\u{fc}"),
            (b"S: gr\xfc\r\n", "gr\u{fc}", "gr\u{fc}"),
            (b"S: last", "last", "last"),
        ];
        for (bytes, unfolded, decoded) in table {
            let header = Header::parse(bytes).unwrap();
            assert_eq!(header.fields[0].unfolded(), unfolded, "{bytes:?}");
            assert_eq!(header.fields[0].decoded(), decoded, "{bytes:?}");
        }
    }
}
