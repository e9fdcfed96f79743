//! Parameters of Content-Type and Content-Disposition (RFC 2045 §5.1), in pieces and
//! in any character set (RFC 2231), or as encoded words, which many write there.
//!
//! Read forgivingly where all readers agree on what was meant: unquoted spaces in
//! file names, backslashes that escape nothing, quotes that never close.

use std::collections::BTreeMap;

use super::charset::{self, Reading};
use super::encoded_word;
use super::header::{one_line, text};
use super::transfer::escaped;

/// A value with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Parameters {
    /// What stands before the first semicolon, in lower case.
    pub(super) main: String,
    /// Names in lower case, each once, and their values on one line.
    pub(super) list: Vec<(String, String)>,
    /// What is beyond ASCII among them could not be read as it says; something was guessed.
    pub(super) is_guessed: bool,
}

/// The pieces of one parameter.
#[derive(Default)]
struct Written {
    /// `name=value`
    plain: Option<String>,
    /// `name*=value` or `name*N=value`, `name*N*=value`; is it percent-encoded?
    pieces: BTreeMap<u32, (String, bool)>,
}

/// Reads the value of a field, folded as it came.
pub(super) fn parse(value: &[u8]) -> Parameters {
    let is_guessed = std::str::from_utf8(value).is_err();
    let value = one_line(&text(value));
    let mut scanner = Scanner(&value);
    let main = scanner.until(|c| c == ';');
    let mut names: Vec<String> = Vec::new();
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    while let Some((name, value)) = scanner.parameter() {
        let (base, piece) = piece_of(&name);
        if !written.contains_key(base) {
            names.push(base.to_owned());
        }
        let known = written.entry(base.to_owned()).or_default();
        match piece {
            None => drop(known.plain.get_or_insert(value)),
            Some((number, is_encoded)) => {
                known.pieces.entry(number).or_insert((value, is_encoded));
            }
        }
    }
    let main = without_comments(main).trim().to_ascii_lowercase();
    let mut parameters = Parameters { main, list: Vec::new(), is_guessed };
    for name in names {
        let value = written.remove(&name).and_then(|w| joined(&name, w, &mut parameters.is_guessed));
        parameters.list.extend(value.map(|value| (name, one_line(&value))));
    }
    parameters
}

impl Parameters {
    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// `filename*1*` is the encoded piece 1 of `filename`, `filename*` its only one.
fn piece_of(name: &str) -> (&str, Option<(u32, bool)>) {
    let Some((base, piece)) = name.split_once('*').filter(|(base, _)| !base.is_empty()) else {
        return (name, None);
    };
    let (number, is_encoded) = match piece.strip_suffix('*') {
        _ if piece.is_empty() => ("0", true),
        Some(number) => (number, true),
        None => (piece, false),
    };
    match number.parse() {
        Ok(number) => (base, Some((number, is_encoded))),
        Err(_) => (name, None),
    }
}

/// The whole value; what is in pieces goes before what is plain (RFC 2231 §3).
fn joined(name: &str, written: Written, is_guessed: &mut bool) -> Option<String> {
    if !written.pieces.contains_key(&0) {
        let is_name = matches!(name, "name" | "filename");
        return written.plain.map(|v| if is_name { encoded_word::decode(&v) } else { v });
    }
    let mut octets = Vec::new();
    let mut charset = String::new();
    for (expected, (number, (value, is_encoded))) in (0..).zip(written.pieces) {
        if number != expected {
            break;
        }
        let mut value = value.as_str();
        if is_encoded && number == 0 {
            let mut sections = value.splitn(3, '\'');
            if let (Some(named), Some(_), Some(rest)) = (sections.next(), sections.next(), sections.next()) {
                (charset, value) = (named.to_owned(), rest);
            }
        }
        if is_encoded { percent_decode(value, &mut octets) } else { octets.extend(value.bytes()) }
    }
    let text = charset::decode(&charset, &octets);
    let is_named = !charset.is_empty();
    *is_guessed |= text.as_ref().is_none_or(|text| text.reading != Reading::Exact && is_named);
    text.or_else(|| charset::decode("", &octets)).map(|text| text.text)
}

fn percent_decode(value: &str, octets: &mut Vec<u8>) {
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octet = if *first == b'%' { escaped(after) } else { None };
        octets.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
}

struct Scanner<'v>(&'v str);

impl<'v> Scanner<'v> {
    /// What stands before the first such character outside of comments, or all of it;
    /// that character is passed over.
    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'v str {
        let mut comments = Comments::default();
        let end = self.0.char_indices().find(|(_, c)| comments.is_outside(*c) && is_end(*c));
        // A comment that never closes is none.
        let is_open = comments.depth > 0;
        let end = end.or_else(|| self.0.char_indices().find(|(_, c)| is_end(*c)).filter(|_| is_open));
        self.cut(end.map(|(at, _)| at))
    }

    fn cut(&mut self, at: Option<usize>) -> &'v str {
        let (before, after) = at.and_then(|at| self.0.split_at_checked(at)).unwrap_or((self.0, ""));
        let mut after = after.chars();
        after.next();
        self.0 = after.as_str();
        before
    }

    /// The next `name=value`.
    fn parameter(&mut self) -> Option<(String, String)> {
        loop {
            self.0 = self.0.trim_start_matches([' ', ';']);
            if self.0.is_empty() {
                return None;
            }
            let rest = self.0;
            let head = self.until(|c| matches!(c, '=' | ';'));
            let is_named = rest.get(head.len()..).is_some_and(|rest| rest.starts_with('='));
            let name = without_comments(head).trim().to_ascii_lowercase();
            if is_named {
                let value = self.value(&name);
                if !name.is_empty() {
                    return Some((name, value));
                }
            }
        }
    }

    fn value(&mut self, name: &str) -> String {
        self.0 = self.0.trim_start();
        if let Some(quoted) = self.0.strip_prefix('"') {
            self.0 = quoted;
            let value = self.quoted();
            self.cut(self.0.find(';'));
            return value;
        }
        // `name=a (1).pdf` holds no comment, `charset=us-ascii (plain)` does.
        if matches!(name.split('*').next(), Some("name" | "filename")) {
            return self.cut(self.0.find(';')).trim().to_owned();
        }
        without_comments(self.until(|c| c == ';')).trim().to_owned()
    }

    /// The rest of a quoted string. A backslash that escapes neither itself nor a
    /// quote stands in a path.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' if chars.as_str().starts_with(['"', '\\']) => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.0 = chars.as_str();
        value
    }
}

fn without_comments(text: &str) -> String {
    let opens = text.matches('(').count();
    if opens == 0 || opens != text.matches(')').count() {
        return text.to_owned();
    }
    let mut comments = Comments::default();
    text.chars().filter(|c| comments.is_outside(*c)).collect()
}

/// The comments that a reader is in, one inside the other (RFC 5322 §3.2.2).
#[derive(Debug, Default)]
struct Comments {
    depth: usize,
}

impl Comments {
    /// Whether the next character is part of none.
    fn is_outside(&mut self, c: char) -> bool {
        match c {
            '(' => self.depth += 1,
            ')' => self.depth = self.depth.saturating_sub(1),
            _ => return self.depth == 0,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_in_every_writing() {
        let table: [(&str, &str, &str); 26] = [
            ("x; filename=a.pdf", "filename", "a.pdf"),
            ("x; FileName = \"a b.pdf\" ; size=3", "filename", "a b.pdf"),
            ("x;filename=a (1).pdf;y=z", "filename", "a (1).pdf"),
            ("x; filename=a b.pdf", "filename", "a b.pdf"),
            ("x; filename=\"a\\\"b\\\\c.pdf\"", "filename", "a\"b\\c.pdf"),
            ("x; filename=\"C:\\tmp\\a.pdf\"", "filename", "C:\\tmp\\a.pdf"),
            ("x; filename=\"never closed; y=z", "filename", "never closed; y=z"),
            ("x; filename=\"a;b.pdf\"; y=z", "y", "z"),
            ("x; charset=us-ascii (Plain; text)", "charset", "us-ascii"),
            ("x (a comment; y=no); y=z", "y", "z"),
            ("x; y=a; y=b", "y", "a"),
            ("x; noise; ; y=z;", "y", "z"),
            ("x; filename==?utf-8?q?gr=C3=BC?=.pdf", "filename", "gr\u{fc}.pdf"),
            ("x; filename=\"=?utf-8?q?gr=C3=BC=C3=9F.pdf?=\"", "filename", "gr\u{fc}\u{df}.pdf"),
            ("x; filename=\"=?utf-8?b?Z3LD?=\r\n =?utf-8?b?vC5wZGY=?=\"", "filename", "gr\u{fc}.pdf"),
            ("x; filename*=utf-8''gr%C3%BC%C3%9F.pdf", "filename", "gr\u{fc}\u{df}.pdf"),
            ("x; filename*=iso-8859-1'de'gr%FC.pdf", "filename", "gr\u{fc}.pdf"),
            ("x; filename=\"gr_.pdf\"; filename*=utf-8''gr%C3%BC.pdf", "filename", "gr\u{fc}.pdf"),
            ("x;\r\n filename*0=a;\r\n filename*1=b.pdf", "filename", "ab.pdf"),
            ("x; filename*1=b.pdf; filename*0=\"a \"", "filename", "a b.pdf"),
            (
                "x; filename*0*=iso-8859-1''gr%FC; filename*1*=n%DF; filename*2=\".pdf\"",
                "filename",
                "gr\u{fc}n\u{df}.pdf",
            ),
            ("x; filename*0*=utf-8''gr%C3; filename*1*=%BC.pdf", "filename", "gr\u{fc}.pdf"),
            ("x; filename*0=a; filename*2=c", "filename", "a"),
            ("x; filename*=a%2Fb", "filename", "a/b"),
            ("x; boundary=\"=?utf-8?q?a?=\"", "boundary", "=?utf-8?q?a?="),
            ("x; filename*0*=utf-8''100%25; filename*1=%41", "filename", "100%%41"),
        ];
        for (value, name, want) in table {
            assert_eq!(parse(value.as_bytes()).get(name), Some(want), "{value}");
        }
    }

    #[test]
    fn the_main_value_stands_alone() {
        let table = [
            ("Text/HTML; charset=utf-8", "text/html"),
            (" attachment\r\n", "attachment"),
            ("text/plain (really) ; a=b", "text/plain"),
            ("", ""),
        ];
        for (value, want) in table {
            assert_eq!(parse(value.as_bytes()).main, want);
        }
        assert_eq!(parse(b"x; filename=gr\xfc.pdf").get("filename"), Some("gr\u{fc}.pdf"));
        for guess in [&b"x; filename*=x-odd''%FF"[..], b"x; filename*=utf-8''%FF", b"x; filename=gr\xfc.pdf"]
        {
            assert!(parse(guess).is_guessed);
        }
        assert!(!parse(b"x; filename*=utf-8''%C3%BC").is_guessed);
    }

    #[test]
    fn p7_many_pieces_cost_no_time() {
        let pieces: String = (0..2_000_u32).rev().map(|n| format!(";a*{n}=x")).collect();
        assert_eq!(parse(format!("x{pieces}").as_bytes()).get("a").map(str::len), Some(2_000));
        let nested = format!("x; a=b{}", "(".repeat(100_000));
        assert!(parse(nested.as_bytes()).get("a").is_some());
    }
}
