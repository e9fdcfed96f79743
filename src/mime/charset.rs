//! Character sets: octets of a text as UTF-8, and how surely they are that text.
//!
//! encoding_rs knows what the web and mail agree on; mail-parser a few names more.
//! Neither says "unknown" where it would have to guess, so that is decided here:
//! whoever asks can tell the sender what was assumed or lost.

use std::borrow::Cow;

use encoding_rs::{EUC_KR, Encoding, ISO_2022_JP, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use mail_parser::decoders::charsets::map::charset_decoder;

use super::transfer::sextet;

/// Octets at the beginning of HTML in which it may name its character set.
const META_OCTETS: usize = 1024;

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
    match name.as_str() {
        "" => return Some(of_meta(bytes).unwrap_or_else(|| assumed(bytes))),
        "us-ascii" | "ascii" | "ansi_x3.4-1968" => return Some(assumed(bytes)),
        "utf-32" | "utf-32le" | "utf-32be" => return Some(utf_32(&name, bytes)),
        _ => {}
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

/// HTML that names its character set itself, where nothing else does: as the browsers
/// read it (HTML §13.2.3.2), unless it is UTF-8 all the same.
fn of_meta(bytes: &[u8]) -> Option<Text> {
    let name = meta(bytes)?;
    // Octets of UTF-16 would not have shown the name.
    let encoding = known(&name).filter(|encoding| ![UTF_16LE, UTF_16BE].contains(encoding))?;
    let is_utf_8 = !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok();
    (encoding == UTF_8 || !is_utf_8).then(|| decode_with(encoding, &name, bytes))
}

/// The character set that a `<meta>` at the beginning of HTML names, in lower case.
fn meta(bytes: &[u8]) -> Option<String> {
    if !bytes.trim_ascii_start().starts_with(b"<") {
        return None;
    }
    let start = bytes.get(..META_OCTETS).unwrap_or(bytes);
    let start: String = start.iter().map(|octet| char::from(octet.to_ascii_lowercase())).collect();
    let mut rest = start.as_str();
    while let Some((_, tag)) = rest.split_once('<') {
        rest = tag;
        if let Some(comment) = tag.strip_prefix("!--") {
            rest = comment.split_once("-->")?.1;
            continue;
        }
        let Some(inner) = tag.strip_prefix("meta").filter(|inner| !inner.starts_with(char::is_alphanumeric))
        else {
            continue;
        };
        let inner = inner.split_once('>')?.0;
        let is_type = inner.contains("http-equiv") && inner.contains("content-type");
        if !is_type && inner.contains("content") {
            continue;
        }
        let value = inner.split_once("charset").and_then(|(_, after)| after.trim_start().strip_prefix('='));
        let value = value.unwrap_or_default().trim_start_matches([' ', '\t', '\r', '\n', '"', '\'']);
        let name = value.split(['"', '\'', ';', '/', ' ', '\t', '\r', '\n']).next().unwrap_or_default();
        if !name.is_empty() {
            return Some(name.to_owned());
        }
    }
    None
}

/// Octets that are ASCII to the eye and Japanese by their escapes (RFC 1468), as mail
/// was written before anything named its character set; `None`: they are not.
pub fn iso_2022_jp(bytes: &[u8]) -> Option<String> {
    let is_shifted = memchr::memmem::find(bytes, &[ESCAPE, b'$']).is_some();
    if !is_shifted || !bytes.is_ascii() {
        return None;
    }
    let text = ISO_2022_JP.decode_without_bom_handling_and_without_replacement(bytes)?;
    Some(text.into_owned()).filter(|text| !text.contains(char::from(ESCAPE)))
}

/// Octets of no named character set: Japanese by its escapes, UTF-8, or else
/// Windows-1252, which gives every octet a meaning.
fn assumed(bytes: &[u8]) -> Text {
    if let Some(text) = iso_2022_jp(bytes) {
        return Text { text, reading: Reading::Assumed("ISO-2022-JP") };
    }
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

/// Whether octets of ASCII are the same text in the character set of that name (any case);
/// of one that is not known they need not be.
pub fn extends_ascii(name: &str) -> bool {
    known(&name.trim().to_ascii_lowercase()).is_some_and(Encoding::is_ascii_compatible)
}

/// Names are written with hyphens or underscores, some with the year of the standard.
fn known(name: &str) -> Option<&'static Encoding> {
    let without_year = name.split(':').next().unwrap_or_default();
    if matches!(without_year, "cp949" | "ms949" | "uhc" | "x-windows-949") {
        // The web's EUC-KR is this superset of it.
        return Some(EUC_KR);
    }
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

/// Without an order by name or mark: in the one in which it means something.
fn utf_32(name: &str, bytes: &[u8]) -> Text {
    let in_order = |read: fn([u8; 4]) -> u32| {
        let (units, rest) = bytes.as_chunks::<4>();
        let chars = units.iter().map(|unit| char::from_u32(read(*unit)));
        let cut = (!rest.is_empty()).then_some(None);
        let chars: Vec<Option<char>> = chars.chain(cut).collect();
        let text = chars.iter().map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        (text, chars.contains(&None))
    };
    let ((big, is_big_broken), (little, is_little_broken)) =
        (in_order(u32::from_be_bytes), in_order(u32::from_le_bytes));
    let is_little = name.ends_with("le") || name == "utf-32" && is_big_broken && !is_little_broken;
    let (text, is_broken): (String, bool) =
        if is_little { (little, is_little_broken) } else { (big, is_big_broken) };
    let is_ordered = name != "utf-32" || text.starts_with('\u{feff}') || text.is_empty();
    let reading = match () {
        () if is_broken => Reading::Replaced,
        () if is_ordered => Reading::Exact,
        () => Reading::Assumed(if is_little { "UTF-32LE" } else { "UTF-32BE" }),
    };
    Text { text, reading }
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
        let table: [(&str, &[u8], &str, Reading); 45] = [
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
            ("cp949", b"\x8cc", "\u{b620}", Exact),
            ("UHC", b"\x8cc", "\u{b620}", Exact),
            ("windows-949", b"\x8cc", "\u{b620}", Exact),
            ("ks_c_5601-1987", b"\x8cc", "\u{b620}", Exact),
            ("gb2312", b"\xd6\xd0", "\u{4e2d}", Exact),
            ("gb18030", b"\x81\x30\x81\x30", "\u{80}", Exact),
            ("big5", b"\xa4\xa4", "\u{4e2d}", Exact),
            ("utf-16", b"\xfe\xff\0a", "\u{feff}a", Exact),
            ("utf-16", b"\xff\xfea\0", "\u{feff}a", Exact),
            ("utf-16", b"a\0", "a", Assumed("UTF-16LE")),
            ("utf-16be", b"\0a", "a", Exact),
            ("utf-32", b"\0\0\xfe\xff\0\0\0a", "\u{feff}a", Exact),
            ("utf-32", b"\xff\xfe\0\0a\0\0\0", "\u{feff}a", Exact),
            ("utf-32", b"a\0\0\0", "a", Assumed("UTF-32LE")),
            ("utf-32be", b"\0\x01\xf3\x6a", "\u{1f36a}", Exact),
            ("utf-32le", b"a\0\0\0b", "a\u{fffd}", Replaced),
            ("", b"\x1b$B%O\x1b(B", "\u{30cf}", Assumed("ISO-2022-JP")),
            ("us-ascii", b"a \x1b$B%O\x1b(B", "a \u{30cf}", Assumed("ISO-2022-JP")),
            ("", b"\x1b$B%", "\x1b$B%", Exact),
            ("", b"<meta charset=koi8-r>\xc1", "<meta charset=koi8-r>\u{430}", Exact),
            ("", b"x <meta charset=koi8-r>\xfc", "x <meta charset=koi8-r>\u{fc}", Assumed("Windows-1252")),
            ("", b"<meta charset=koi8-r>\xc3\xbc", "<meta charset=koi8-r>\u{fc}", Assumed("UTF-8")),
            ("", b"<meta charset=utf-8>\xc3\xbc", "<meta charset=utf-8>\u{fc}", Exact),
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
    fn html_may_name_its_charset_itself() {
        let table = [
            ("<html><head><META CHARSET='Windows-1251' /></head>", Some("windows-1251")),
            ("\n<!DOCTYPE html><metadata><meta\ncharset = \"koi8-r\">", Some("koi8-r")),
            (
                "<meta http-equiv=Content-Type content=\"text/html; charset=windows-1251\">",
                Some("windows-1251"),
            ),
            ("<meta content='text/html;charset=koi8-r' http-equiv='content-type'>", Some("koi8-r")),
            ("<meta charset=koi8-r/>", Some("koi8-r")),
            ("<meta name=x content='y'><meta charset=a>", Some("a")),
            ("<!-- <meta charset=a> --><meta charset=b>", Some("b")),
            ("<meta name=x content='charset=a'>", None),
            ("<meta charset=\"\">", None),
            ("<meta charset=a", None),
            ("text <meta charset=a>", None),
            ("<p>", None),
        ];
        for (html, want) in table {
            assert_eq!(meta(html.as_bytes()).as_deref(), want, "{html}");
        }
        let late = format!("<p>{}<meta charset=a>", " ".repeat(META_OCTETS));
        assert_eq!(meta(late.as_bytes()), None);
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
