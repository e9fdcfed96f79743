//! Text that is not ASCII, written for a header and read from one (RFC 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::charset::{self, Reading};
use super::transfer;

/// Octets of text in one encoded word: 45 make 60 of Base64, 72 with its frame,
/// and RFC 2047 §2 allows 75.
const MAX_OCTETS: usize = 45;

/// Longest word that is left as it is, in octets, so that every line of a header
/// can be kept under the 998 of RFC 5322 §2.1.1.
const MAX_PLAIN_WORD: usize = 900;

/// The text as it is when it is printable ASCII, or else as encoded words with
/// a space between them. Encoded words that are already there stay, or are read and
/// encoded with the rest.
pub fn encode(text: &str) -> String {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) { text.to_owned() } else { words(&decode(text)) }
}

/// The same for text that a person wrote, in which nothing is encoded yet:
/// readers show exactly this, whatever it looks like.
pub fn encode_literally(text: &str) -> String {
    let is_long = text.split(' ').any(|word| word.len() > MAX_PLAIN_WORD);
    if is_long || text.contains("=?") { words(text) } else { encode(text) }
}

fn words(text: &str) -> String {
    let mut words = Vec::new();
    let mut chunk = String::new();
    for c in text.chars() {
        if chunk.len() + c.len_utf8() > MAX_OCTETS {
            words.push(word(&chunk));
            chunk.clear();
        }
        chunk.push(c);
    }
    words.push(word(&chunk));
    words.join(" ")
}

fn word(text: &str) -> String {
    format!("=?utf-8?B?{}?=", STANDARD.encode(text))
}

/// Longest name of a character set with its language, in octets.
const MAX_CHARSET: usize = 64;

/// Encoded words next to each other, with nothing but white space between them.
struct Run<'t> {
    /// As they are written.
    raw: &'t str,
    /// What they say; `None`: they cannot be read, and stay as they are.
    text: Option<String>,
}

/// The text with its encoded words decoded. What cannot be read stays as it is. An
/// encoded word may begin and end within a word, as some write it.
pub fn decode(text: &str) -> String {
    replaced(text, |run, out| out.push_str(&run))
}

/// The text with a mark in the place of each run of encoded words, for readers that
/// would decode them by other rules. [`Hidden::shown`] puts back what they say, or the
/// words if that cannot be read.
pub(super) fn hide(text: &str) -> (String, Hidden) {
    if text.contains([MARK, MARK_END]) {
        return (text.to_owned(), Hidden(Vec::new()));
    }
    let mut hidden = Vec::new();
    let marked = replaced(text, |run, out| {
        out.push(MARK);
        out.push_str(&hidden.len().to_string());
        out.push(MARK_END);
        hidden.push(run);
    });
    (marked, Hidden(hidden))
}

/// Around the number of a hidden run: characters that no text has.
const MARK: char = '\u{fdd0}';
const MARK_END: char = '\u{fdd1}';

/// What hidden encoded words say.
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    /// The text with what its marks stand for.
    pub(super) fn shown(&self, text: &str) -> String {
        let mut pieces = text.split(MARK);
        let mut out = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (number, rest) = piece.split_once(MARK_END).unwrap_or((piece, ""));
            let run = number.parse::<usize>().ok().and_then(|number| self.0.get(number));
            out.push_str(run.map_or("", String::as_str));
            out.push_str(rest);
        }
        out
    }

    /// Whether there is a mark in the text.
    pub(super) fn is_marked(text: &str) -> bool {
        text.contains([MARK, MARK_END])
    }
}

fn replaced(text: &str, mut with: impl FnMut(String, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("=?") {
        let (before, words) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(before);
        let Some(Run { raw, text }) = run(words) else {
            out.push_str("=?");
            rest = words.get(2..).unwrap_or_default();
            continue;
        };
        with(text.unwrap_or_else(|| raw.to_owned()), &mut out);
        rest = words.get(raw.len()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The words at the beginning, at least one. Their octets are put together before
/// they are read, since some writers cut a character in two.
fn run(text: &str) -> Option<Run<'_>> {
    let mut end = 0;
    let mut pieces: Vec<(String, Vec<u8>)> = Vec::new();
    let mut is_sound = true;
    let mut next = text;
    while let Some(word) = Word::read(next) {
        match word.octets() {
            Some(octets) if is_sound => match pieces.last_mut() {
                Some((charset, known)) if charset.eq_ignore_ascii_case(word.charset) => known.extend(octets),
                _ => pieces.push((word.charset.to_owned(), octets)),
            },
            // What was sound before it is a run of its own.
            _ if end > 0 => break,
            _ => is_sound = false,
        }
        end = text.len() - next.len() + word.length;
        let after = text.get(end..).unwrap_or_default();
        next = after.trim_start_matches([' ', '\t', '\r', '\n']);
        if !is_sound {
            break;
        }
    }
    let raw = text.get(..end).filter(|raw| !raw.is_empty())?;
    let texts = pieces.iter().map(|(charset, octets)| {
        charset::decode(charset, octets).filter(|text| text.reading != Reading::Replaced)
    });
    let texts: Option<String> = texts.map(|text| text.map(|text| text.text)).collect();
    Some(Run { raw, text: texts.filter(|_| is_sound) })
}

/// `=?charset?encoding?data?=`
struct Word<'t> {
    charset: &'t str,
    is_base64: bool,
    data: &'t str,
    length: usize,
}

impl<'t> Word<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let inner = text.strip_prefix("=?")?;
        let charset_end = inner.bytes().take(MAX_CHARSET).position(|octet| octet == b'?')?;
        let (charset, rest) = inner.split_at_checked(charset_end)?;
        if charset.is_empty() || !charset.bytes().all(|octet| octet.is_ascii_graphic()) {
            return None;
        }
        let is_base64 = match rest.as_bytes() {
            [b'?', b'B' | b'b', b'?', ..] => true,
            [b'?', b'Q' | b'q', b'?', ..] => false,
            _ => return None,
        };
        let data = rest.get(3..)?;
        let length = end_of_data(data.as_bytes())?;
        let data = data.get(..length)?;
        // Characters that stand there as they are were read before; they are of no set.
        let charset = if data.is_ascii() { charset } else { "utf-8" };
        let charset = charset.split('*').next().unwrap_or_default();
        Some(Self { charset, is_base64, data, length: 2 + charset_end + 3 + length + 2 })
    }

    /// What it encodes; `None`: it is broken.
    fn octets(&self) -> Option<Vec<u8>> {
        if self.is_base64 {
            let unwrapped = transfer::base64(self.data.as_bytes());
            let is_unpadded = !self.data.contains('=') && self.data.len() % 4 != 1;
            let is_sound = !unwrapped.is_damaged || is_unpadded && self.data.bytes().all(is_of_base64);
            return Some(unwrapped.bytes).filter(|_| is_sound);
        }
        let mut octets = Vec::with_capacity(self.data.len());
        let mut rest = self.data.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            octets.push(match first {
                b'_' => b' ',
                b'=' => {
                    rest = after.get(2..)?;
                    transfer::escaped(after)?
                }
                other => *other,
            });
        }
        Some(octets)
    }
}

/// Where `?=` stands, unless another word begins before: so each octet is looked at
/// for one word only.
fn end_of_data(data: &[u8]) -> Option<usize> {
    for at in memchr::memchr_iter(b'?', data) {
        if data.get(at + 1) == Some(&b'=') {
            return Some(at);
        }
        if at.checked_sub(1).and_then(|before| data.get(before)) == Some(&b'=') {
            return None;
        }
    }
    None
}

fn is_of_base64(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'+' || octet == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::header::Header;

    #[test]
    fn encoded_words_are_read_and_broken_ones_stay() {
        let table = [
            ("plain =? text ?=", "plain =? text ?="),
            ("=?utf-8?q?gr=C3=BC=C3=9Fe?=", "gr\u{fc}\u{df}e"),
            ("=?ISO-8859-1?Q?a_b=5F?=", "a b_"),
            ("=?utf-8*de?Q?a?=", "a"),
            ("=?utf-8?b?Z3LDvA==?=", "gr\u{fc}"),
            ("=?utf-8?b?Z3LDvA?=", "gr\u{fc}"),
            ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
            ("=?utf-8?q?a?=  \t =?iso-8859-1?b?/A==?= c", "a\u{fc} c"),
            ("=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
            ("=?utf-8?q?=C3?= =?UTF-8?q?=BC?=", "\u{fc}"),
            ("=?utf-8?b?w7w=?= =?utf-8?q?=C3=BC?=", "\u{fc}\u{fc}"),
            ("Re:=?utf-8?q?a?=b", "Re:ab"),
            ("=?utf-8?q?a b?=", "a b"),
            ("=?iso-2022-jp?B?GyRCJU8bKEI=?=", "\u{30cf}"),
            ("=?utf-8?q?=E9?=", "=?utf-8?q?=E9?="),
            ("=?utf-8?q?=zz?=", "=?utf-8?q?=zz?="),
            ("=?utf-8?b?!!?=", "=?utf-8?b?!!?="),
            ("=?iso-8859-1?q?gr\u{fc}n?=", "gr\u{fc}n"),
            ("=?iso-8859-1?q?gr\u{fc}=FC?=", "=?iso-8859-1?q?gr\u{fc}=FC?="),
            ("=?utf-8?b?Z?=", "=?utf-8?b?Z?="),
            ("=?x-odd?q?=FF?=", "=?x-odd?q?=FF?="),
            ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
            ("=?utf-8?q?a", "=?utf-8?q?a"),
            ("=??q?a?=", "=??q?a?="),
            ("=?utf-8?q??=", ""),
            ("=?a?= =?utf-8?q?b?=", "=?a?= b"),
            ("=?utf-8?q?=zz?= =?utf-8?q?b?=", "=?utf-8?q?=zz?= b"),
            ("=?utf-8?q?b?= =?utf-8?q?=zz?=", "b =?utf-8?q?=zz?="),
            ("=?utf-8?q?a=?utf-8?q?b?=", "=?utf-8?q?ab"),
        ];
        for (text, want) in table {
            assert_eq!(decode(text), want, "{text}");
        }
    }

    #[test]
    fn what_was_hidden_is_shown_again() {
        for text in
            ["a", "=?utf-8?q?a?= x =?utf-8?q?,_b?=", "=?utf-8?q?=zz?=", "\u{fdd0}0\u{fdd1}=?utf-8?q?a?="]
        {
            let (marked, hidden) = hide(text);
            let want = if text.contains(MARK) { String::from("=?utf-8?q?a?=") } else { decode(text) };
            assert_eq!(hidden.shown(&marked), want, "{text}");
        }
    }

    #[test]
    fn p7_half_encoded_words_cost_no_time() {
        for piece in ["=?ab?q?x", "=?", "=?ab?q?", "=?ab?q?x?= ", "=?utf-8?q?=zz?= ", "=?ab?b?Z"] {
            let text = piece.repeat(20_000);
            assert!(decode(&text).len() <= text.len());
            assert!(decode(&(text + "?=")).len() >= 2);
        }
    }

    #[test]
    fn what_is_encoded_in_part_is_not_encoded_twice() {
        for text in ["=?utf-8?q?=C3=BC?=", "=?utf-8?q?=C3=BC?= \u{fc}", "\u{fc} =?utf-8?q?=C3=BC?= x"] {
            let encoded = encode(text);
            assert!(encoded.is_ascii());
            assert_eq!(decode(&encoded), decode(text), "{text}");
        }
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let (cookies, long) = ("\u{1f36a} cookie ".repeat(20), "x".repeat(2000));
        for text in ["plain", "Gr\u{fc}\u{df}e", "=?utf-8?q?a?=", &cookies, &long] {
            let encoded = encode_literally(text);
            assert!(encoded.is_ascii() && encoded.split(' ').all(|word| word.len() <= 75));
            let bytes = format!("Subject: {encoded}\r\n");
            assert_eq!(Header::parse(bytes.as_bytes()).unwrap().fields[0].decoded(), text.trim());
        }
    }
}
