//! Character sets: octets of a text as UTF-8, and how surely they are that text.
//!
//! encoding_rs knows what the web and mail agree on; mail-parser a few names more.
//! Neither says "unknown" where it would have to guess, so that is decided here:
//! whoever asks can tell the sender what was assumed or lost.

use std::borrow::Cow;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16LE, WINDOWS_1252};
use mail_parser::decoders::charsets::map::charset_decoder;

use super::transfer::sextet;

/// Begins another set of characters within a text (ISO 2022).
const ESCAPE: u8 = 0x1b;

/// How octets were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As the character set that was named.
    Exact,
    /// They are none of the one that was named, or none was: as this one.
    Assumed(&'static str),
    /// Some mean nothing in it: U+FFFD stands for them.
    Replaced,
}

/// Text and how it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// How it was read.
    pub reading: Reading,
}

/// Reads octets of the character set of that name (any case; empty: none is named).
/// `None`: it is not known, and the octets are not UTF-8 either.
pub fn decode(name: &str, bytes: &[u8]) -> Option<Text> {
    let name = name.trim().to_ascii_lowercase();
    if matches!(name.as_str(), "" | "us-ascii" | "ascii" | "ansi_x3.4-1968") {
        return Some(assumed(bytes));
    }
    if name == "utf-7" || name == "unicode-1-1-utf-7" {
        let (text, is_exact) = utf_7(bytes);
        return Some(Text { text, reading: if is_exact { Reading::Exact } else { Reading::Replaced } });
    }
    if let Some(encoding) = known(&name) {
        return Some(decode_with(encoding, &name, bytes));
    }
    // Their octets look like ASCII and mean something else.
    let is_shifted = Encoding::for_label(name.as_bytes()) == Some(REPLACEMENT) || bytes.contains(&ESCAPE);
    if is_shifted {
        return None;
    }
    match charset_decoder(name.as_bytes()) {
        Some(decode) => {
            let text = decode(bytes);
            let reading =
                if text.contains(char::REPLACEMENT_CHARACTER) { Reading::Replaced } else { Reading::Exact };
            Some(Text { text, reading })
        }
        None => {
            let text = std::str::from_utf8(bytes).ok()?.to_owned();
            let reading = if text.is_ascii() { Reading::Exact } else { Reading::Assumed("UTF-8") };
            Some(Text { text, reading })
        }
    }
}

/// Octets of no named character set: UTF-8, or else Windows-1252, which gives every
/// octet a meaning.
fn assumed(bytes: &[u8]) -> Text {
    if bytes.is_ascii() {
        return Text { text: String::from_utf8_lossy(bytes).into_owned(), reading: Reading::Exact };
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Text { text: text.to_owned(), reading: Reading::Assumed("UTF-8") },
        Err(_) => Text {
            text: WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
            reading: Reading::Assumed("Windows-1252"),
        },
    }
}

/// Names are written with hyphens or underscores, some with the year of the standard.
fn known(name: &str) -> Option<&'static Encoding> {
    let without_year = name.split(':').next().unwrap_or_default();
    let writings = [Cow::Borrowed(without_year), without_year.replace('_', "-").into()];
    let found = writings.iter().find_map(|writing| Encoding::for_label(writing.as_bytes()));
    found.filter(|encoding| *encoding != REPLACEMENT)
}

fn decode_with(encoding: &'static Encoding, name: &str, bytes: &[u8]) -> Text {
    // "UTF-16" leaves the order of octets to the mark at its beginning.
    let order = Encoding::for_bom(bytes).map(|(found, _)| found);
    let is_unordered = encoding == UTF_16LE && !name.ends_with("le");
    let encoding = if is_unordered { order.unwrap_or(encoding) } else { encoding };
    let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
    // The web reads ISO 8859-1 as Windows-1252, and so do readers of mail.
    let is_windows = encoding == WINDOWS_1252
        && !name.contains("1252")
        && bytes.iter().any(|octet| (0x80..0xa0).contains(octet));
    let reading = match () {
        () if had_errors => Reading::Replaced,
        () if is_windows => Reading::Assumed("Windows-1252"),
        () if is_unordered && order.is_none() && !bytes.is_empty() => Reading::Assumed("UTF-16LE"),
        () => Reading::Exact,
    };
    let text = if encoding == UTF_8 && !had_errors { text } else { Cow::Owned(text.into_owned()) };
    Text { text: text.into_owned(), reading }
}

/// RFC 2152; `false`: something in it means nothing.
fn utf_7(bytes: &[u8]) -> (String, bool) {
    let mut out = String::with_capacity(bytes.len());
    let mut is_exact = bytes.is_ascii();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'+' {
            out.push(if first.is_ascii() { char::from(*first) } else { char::REPLACEMENT_CHARACTER });
            continue;
        }
        let length = rest.iter().position(|octet| sextet(*octet).is_none()).unwrap_or(rest.len());
        let (shifted, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        rest = after.strip_prefix(b"-").unwrap_or(after);
        if shifted.is_empty() {
            is_exact &= after.first() == Some(&b'-');
            out.push('+');
            continue;
        }
        for unit in char::decode_utf16(units(shifted)) {
            is_exact &= unit.is_ok();
            out.push(unit.unwrap_or(char::REPLACEMENT_CHARACTER));
        }
    }
    (out, is_exact)
}

/// The UTF-16 units in Base64 without padding.
fn units(shifted: &[u8]) -> Vec<u16> {
    let (mut bits, mut count, mut units) = (0_u32, 0_u32, Vec::new());
    for value in shifted.iter().filter_map(|octet| sextet(*octet)) {
        bits = (bits << 6 | u32::from(value)) & 0x003f_ffff;
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push(u16::try_from((bits >> count) & 0xffff).unwrap_or_default());
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_as_named_and_what_was_assumed_is_told() {
        use Reading::{Assumed, Exact, Replaced};
        let table: [(&str, &[u8], &str, Reading); 29] = [
            ("", b"a", "a", Exact),
            ("US-ASCII", b"\xc3\xbc", "\u{fc}", Assumed("UTF-8")),
            ("us-ascii", b"\xfc", "\u{fc}", Assumed("Windows-1252")),
            ("utf-8", b"\xc3\xbc", "\u{fc}", Exact),
            ("UTF8", b"a\xff", "a\u{fffd}", Replaced),
            ("iso-8859-1", b"\xfc", "\u{fc}", Exact),
            ("latin1", b"\x80", "\u{20ac}", Assumed("Windows-1252")),
            ("windows-1252", b"\x80", "\u{20ac}", Exact),
            ("ISO_8859-15:1998", b"\xa4", "\u{20ac}", Exact),
            ("iso_8859_2", b"\xb1", "\u{105}", Exact),
            ("koi8-r", b"\xc1", "\u{430}", Exact),
            ("cp850", b"\x81", "\u{fc}", Exact),
            ("ibm866", b"\xa0", "\u{430}", Exact),
            ("shift_jis", b"\x83n", "\u{30cf}", Exact),
            ("shift_jis", b"\x83", "\u{fffd}", Replaced),
            ("iso-2022-jp", b"\x1b$B%O\x1b(B", "\u{30cf}", Exact),
            ("euc-kr", b"\xc7\xd1", "\u{d55c}", Exact),
            ("gb2312", b"\xd6\xd0", "\u{4e2d}", Exact),
            ("gb18030", b"\x81\x30\x81\x30", "\u{80}", Exact),
            ("big5", b"\xa4\xa4", "\u{4e2d}", Exact),
            ("utf-16", b"\xfe\xff\0a", "\u{feff}a", Exact),
            ("utf-16", b"\xff\xfea\0", "\u{feff}a", Exact),
            ("utf-16", b"a\0", "a", Assumed("UTF-16LE")),
            ("utf-16be", b"\0a", "a", Exact),
            ("utf-7", b"1 +- 1, +APw-ber +ZeVnLIqe.", "1 + 1, \u{fc}ber \u{65e5}\u{672c}\u{8a9e}.", Exact),
            ("utf-7", b"+2D8 \xff", "\u{fffd} \u{fffd}", Replaced),
            ("utf-7", b"+ZeVnLIqe", "\u{65e5}\u{672c}\u{8a9e}", Exact),
            ("x-odd", b"a", "a", Exact),
            ("x-odd", b"\xc3\xbc", "\u{fc}", Assumed("UTF-8")),
        ];
        for (name, bytes, text, reading) in table {
            assert_eq!(
                decode(name, bytes),
                Some(Text { text: text.to_owned(), reading }),
                "{name} {bytes:?}"
            );
        }
    }

    #[test]
    fn what_nobody_can_read_is_not_guessed() {
        for name in ["x-odd", "iso-2022-kr", "hz-gb-2312", "iso-2022-cn", "x-unknown", "replacement"] {
            assert_eq!(decode(name, b"\x1b$)C\x0e\xff"), None, "{name}");
        }
        for name in ["iso-2022-kr", "iso-2022-jp-3", "x-odd"] {
            assert_eq!(decode(name, b"\x1b$)C\x0e0!\x0f"), None, "{name}: ASCII to the eye only");
        }
    }
}
