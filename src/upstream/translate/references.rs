//! What HTML refers to: parts beside it, by Content-ID (RFC 2392) or by the URL that
//! stands for them (RFC 2557).

use std::collections::HashMap;
use std::ops::Range;

/// A reference in HTML to something beside it.
pub(super) struct Reference {
    /// Where its target stands.
    range: Range<usize>,
    /// The target, decoded.
    pub(super) target: String,
}

/// The ids of the `cid:` URLs in HTML (RFC 2392).
pub(super) fn cids(html: &str) -> impl Iterator<Item = Reference> {
    References(html, 0)
}

/// What stands in HTML where a URL may stand: after `=` and in `url()`.
pub(super) fn locations(html: &str) -> impl Iterator<Item = Reference> {
    Values(html, 0)
}

/// The `cid:` URLs of a text, from an offset on; they never overlap, so that
/// finding them takes time in proportion to the text.
struct References<'h>(&'h str, usize);

impl Iterator for References<'_> {
    type Item = Reference;

    fn next(&mut self) -> Option<Reference> {
        loop {
            let rest = self.0.get(self.1..)?;
            let (before, after) = rest.split_once(':')?;
            let start = self.1 + before.len() + 1;
            self.1 = start;
            let scheme = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            if scheme.eq_ignore_ascii_case("cid") {
                let token = bounded(after);
                let token = token.get(..end_of_cid(token)).unwrap_or_default();
                self.1 = start + token.len();
                let target = percent_decoded(&without_references(token));
                return Some(Reference { range: start..self.1, target });
            }
        }
    }
}

/// Where a `cid:` URL ends that begins here: at what no URL holds, also where that is
/// written as a character reference.
fn end_of_cid(text: &str) -> usize {
    let ends = |c: char| c.is_whitespace() || "\"'<>()\\".contains(c);
    let is_end = |(at, c): &(usize, char)| {
        let referred = text.get(*at..).and_then(character_reference);
        ends(*c) || referred.is_some_and(|(c, _)| ends(c))
    };
    text.char_indices().find(is_end).map_or(text.len(), |(at, _)| at)
}

/// The names of characters in HTML that URLs are written with or end at.
const NAMED: [(&str, char); 27] = [
    ("amp", '&'),
    ("AMP", '&'),
    ("quot", '"'),
    ("QUOT", '"'),
    ("apos", '\''),
    ("lt", '<'),
    ("gt", '>'),
    ("nbsp", '\u{a0}'),
    ("commat", '@'),
    ("period", '.'),
    ("comma", ','),
    ("colon", ':'),
    ("semi", ';'),
    ("lowbar", '_'),
    ("plus", '+'),
    ("equals", '='),
    ("dollar", '$'),
    ("percnt", '%'),
    ("sol", '/'),
    ("num", '#'),
    ("quest", '?'),
    ("excl", '!'),
    ("ast", '*'),
    ("lbrace", '{'),
    ("rbrace", '}'),
    ("lpar", '('),
    ("rpar", ')'),
];

/// The character that a character reference of HTML at the beginning of a text stands
/// for, and how long it is written.
fn character_reference(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix('&')?;
    let (c, after) = match rest.strip_prefix('#') {
        Some(number) => {
            let hexadecimal = number.strip_prefix(['x', 'X']).map(|digits| (digits, 16));
            let (digits, radix) = hexadecimal.unwrap_or((number, 10));
            let after = digits.trim_start_matches(|c: char| c.is_digit(radix));
            let digits = digits.strip_suffix(after)?;
            let c = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32)?;
            (c, after.strip_prefix(';').unwrap_or(after))
        }
        None => NAMED.iter().find_map(|(name, c)| Some((*c, rest.strip_prefix(name)?.strip_prefix(';')?)))?,
    };
    Some((c, text.len() - after.len()))
}

/// A text of HTML with the characters that its character references stand for.
fn without_references(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, _)) = rest.split_once('&') {
        out.push_str(before);
        rest = rest.get(before.len()..).unwrap_or_default();
        let (c, length) = character_reference(rest).unwrap_or(('&', 1));
        out.push(c);
        rest = rest.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn percent_decoded(token: &str) -> String {
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The values of attributes; they never overlap.
struct Values<'h>(&'h str, usize);

impl Iterator for Values<'_> {
    type Item = Reference;

    fn next(&mut self) -> Option<Reference> {
        let rest = self.0.get(self.1..)?;
        let before = rest.find(['=', '('])? + 1;
        let rest = rest.get(before..)?;
        let value = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
        let mut start = self.1 + before + (rest.len() - value.len());
        let quoted = value.strip_prefix('"').map(|value| (value, '"'));
        let quoted = quoted.or_else(|| value.strip_prefix('\'').map(|value| (value, '\'')));
        let token = match quoted {
            Some((value, quote)) => {
                start += 1;
                bounded(value).split_once(quote).map(|(token, _)| token).unwrap_or_default()
            }
            None => {
                let ends = |c: char| c.is_ascii_whitespace() || "<>\"'()".contains(c);
                bounded(value).split(ends).next().unwrap_or_default()
            }
        };
        // A value may hold others: style="background:url(…)".
        let is_nested = token.contains('(');
        let end = if is_nested { start } else { start + token.len() };
        self.1 = end;
        let target = without_references(token.trim());
        Some(Reference { range: start..start + token.len(), target })
    }
}

/// No URL is longer, and so no quote that never closes costs more.
pub(super) const MAX_URL: usize = 2_048;

fn bounded(value: &str) -> &str {
    let end = (0..=MAX_URL.min(value.len())).rev().find(|at| value.is_char_boundary(*at));
    end.and_then(|end| value.get(..end)).unwrap_or_default()
}

/// URLs of the HTML against which those of files are read.
const MAX_BASES: usize = 8;

/// How the HTML may write the URL of a part (RFC 2557 §5): as it is, or relative to
/// where the HTML itself was to be found.
pub(super) fn writings(location: &str, bases: &[&str]) -> Vec<String> {
    let mut writings = vec![location.to_owned()];
    for base in bases.iter().take(MAX_BASES) {
        let folder = base.rfind('/').and_then(|at| base.get(..=at)).unwrap_or_default();
        match location.strip_prefix(folder) {
            Some(relative) if !folder.is_empty() => writings.push(relative.to_owned()),
            _ => writings.push(format!("{folder}{location}")),
        }
    }
    writings.retain(|url| url.len() <= MAX_URL);
    writings
}

/// The HTML with other targets in the place of those that are known.
pub(super) fn with_new_targets(
    html: &str,
    references: impl Iterator<Item = Reference>,
    new: &HashMap<String, String>,
) -> String {
    let mut out = String::with_capacity(html.len());
    let mut kept_from = 0;
    for Reference { range, target } in references {
        if let Some(new) = new.get(&target).filter(|_| range.start >= kept_from) {
            out.push_str(html.get(kept_from..range.start).unwrap_or_default());
            out.push_str(new);
            kept_from = range.end;
        }
    }
    out.push_str(html.get(kept_from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_stand_in_attributes_and_styles() {
        let html = "<img src=\"a.png\"> b.png <a href='c?d=e&amp;f'>=g</a> <p style=\"x:url(h.png)\"> <q r=i>\
            <style>b{background:url( 'j k')}</style> u=\"never closed";
        let found: Vec<String> = locations(html).map(|reference| reference.target).collect();
        for wanted in ["a.png", "c?d=e&f", "h.png", "i", "j k"] {
            assert!(found.iter().any(|target| target == wanted), "{wanted} in {found:?}");
        }
        assert!(!found.iter().any(|target| target == "b.png" || target.contains("never")));
        let new = HashMap::from([("a.png", "cid:1"), ("h.png", "cid:2"), ("b.png", "no")]);
        let new = new.into_iter().map(|(old, new)| (old.to_owned(), new.to_owned())).collect();
        let rewritten = with_new_targets(html, locations(html), &new);
        assert_eq!(rewritten, html.replace("a.png", "cid:1").replace("h.png", "cid:2"));
    }

    #[test]
    fn p7_values_without_end_cost_no_time() {
        for piece in ["=", "=\"", "=(", "='=\"", "url(\"", "=a("] {
            assert!(locations(&piece.repeat(50_000)).count() > 0);
        }
        for piece in ["cid:", "cid:&#", "cid:&quot;", "cid:&", "cid:a&#", "cid:&#6", "cid:&&&&", ":cid:\""] {
            assert!(cids(&piece.repeat(200_000)).count() > 0);
        }
    }

    #[test]
    fn a_cid_ends_where_no_url_goes_on() {
        let html = "<a src=cid:a@b>cid:c&quot; 'CID:d' (cid:e) cid:f&#34;x xcid:g cid:h&amp;i cid:%6a \
            'cid:k&#64;l&#x2E;m' url(&quot;cid:n&commat;o&quot;) cid:p&#60q cid:r&s&#;t&#x110000; cid:u%26amp;v";
        let found: Vec<String> = cids(html).map(|reference| reference.target).collect();
        assert_eq!(
            found,
            ["a@b", "c", "d", "e", "f", "h&i", "j", "k@l.m", "n@o", "p", "r&s&#;t&#x110000;", "u&amp;v",]
        );
    }
}
