//! The `relaxed` canonical forms (RFC 6376 §3.4.2, §3.4.4). Pure.

use sha2::{Digest, Sha256};

/// Octets that are gathered before they are hashed.
const BLOCK_OCTETS: usize = 16_384;

/// A field with its line end, as it is signed: the name in small letters, the value
/// unfolded, each run of white space one space, none at the ends.
pub(super) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = name.to_ascii_lowercase().into_bytes();
    out.push(b':');
    let mut words = value.split(|octet| b" \t\r\n".contains(octet)).filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        out.extend_from_slice(first);
    }
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The hash of a body: white space at the end of a line does not count, a run of it
/// within is one space, and empty lines at the end are none.
pub(super) fn body_hash(body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    each_block(body, |block| hash.update(block));
    hash.finalize().into()
}

/// Hands the canonical body over piece by piece.
fn each_block(body: &[u8], mut take: impl FnMut(&[u8])) {
    let (mut block, mut empty_lines) = (Vec::with_capacity(BLOCK_OCTETS), 0_usize);
    for line in lines(body) {
        let line = trimmed_end(line);
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            block.extend_from_slice(b"\r\n");
            hand_over_full(&mut block, &mut take);
        }
        let mut words = line.split(|octet| is_blank(*octet));
        block.extend_from_slice(words.next().unwrap_or_default());
        let mut is_in_blanks = false;
        for word in words {
            // Between two blanks stands an empty word.
            if !is_in_blanks {
                block.push(b' ');
            }
            is_in_blanks = word.is_empty();
            block.extend_from_slice(word);
            hand_over_full(&mut block, &mut take);
        }
        block.extend_from_slice(b"\r\n");
        hand_over_full(&mut block, &mut take);
    }
    take(&block);
}

fn hand_over_full(block: &mut Vec<u8>, take: &mut impl FnMut(&[u8])) {
    if block.len() >= BLOCK_OCTETS {
        take(block);
        block.clear();
    }
}

/// The lines, without their CRLF; what follows the last CRLF is a line too.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(body);
    std::iter::from_fn(move || {
        let here = rest?;
        match memchr::memmem::find(here, b"\r\n")
            .and_then(|end| Some((here.get(..end)?, here.get(end + 2..)?)))
        {
            Some((line, after)) => {
                rest = Some(after);
                Some(line)
            }
            None => rest.take(),
        }
    })
}

fn trimmed_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|octet| !is_blank(*octet)).map_or(0, |last| last + 1);
    line.get(..end).unwrap_or(line)
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, line by line and all at once.
    fn plainly(text: &str) -> String {
        let words = |line: &str| line.replace('\t', " ").split(' ').map(str::to_owned).collect::<Vec<_>>();
        let relaxed = |line: &str| {
            let mut words = words(line.trim_end_matches([' ', '\t']));
            let begins_blank = words.len() > 1 && words[0].is_empty();
            words.retain(|word| !word.is_empty());
            format!("{}{}\r\n", if begins_blank { " " } else { "" }, words.join(" "))
        };
        let mut out: String = text.split("\r\n").map(relaxed).collect();
        while out == "\r\n" || out.ends_with("\r\n\r\n") {
            out.truncate(out.len() - 2);
        }
        out
    }

    proptest! {
        #[test]
        fn bodies_are_relaxed_wherever_the_blocks_end(
            text in "([ \t\r\na]|\r\n){0,40}", times in 1_usize..600,
        ) {
            let text = text.repeat(times);
            prop_assert_eq!(body(text.as_bytes()), plainly(&text));
        }
    }

    fn body(text: &[u8]) -> String {
        let mut out = Vec::new();
        each_block(text, |block| out.extend_from_slice(block));
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn fields_are_relaxed() {
        let table: [(&str, &[u8], &str); 7] = [
            // RFC 6376 §3.4.5.
            ("A", b" X\r\n", "a:X\r\n"),
            ("B", b" Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"),
            ("SUBJect", b"  a   b\r\n  c\t\r\n", "subject:a b c\r\n"),
            ("From", b"a@x.example\r\n", "from:a@x.example\r\n"),
            ("Empty", b"\r\n", "empty:\r\n"),
            ("Blank", b" \t \r\n", "blank:\r\n"),
            ("Last", b" no end", "last:no end\r\n"),
        ];
        for (name, value, want) in table {
            assert_eq!(String::from_utf8(field(name, value)).unwrap(), want);
        }
    }

    #[test]
    fn bodies_are_relaxed() {
        let long = "x ".repeat(BLOCK_OCTETS);
        let table: [(&[u8], &str); 14] = [
            // RFC 6376 §3.4.5.
            (b" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
            (b"", ""),
            (b"\r\n", ""),
            (b"\r\n\r\n", ""),
            (b" \t\r\n \r\n", ""),
            (b" ", ""),
            (b"a", "a\r\n"),
            (b"a\r\n", "a\r\n"),
            (b"a\r\n ", "a\r\n"),
            (b"\r\n\r\na\r\n\r\n", "\r\n\r\na\r\n"),
            (b"\ta\t\tb \t c  \r\n", " a b c\r\n"),
            (b"a\nb \nc\rd \r\n", "a\nb \nc\rd\r\n"),
            (b"\xff \xfe\r\n", "\u{fffd} \u{fffd}\r\n"),
            (long.as_bytes(), &format!("{}\r\n", long.trim_end())),
        ];
        for (text, want) in table {
            assert_eq!(body(text), want, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn an_empty_body_has_the_hash_that_the_rfc_names() {
        // RFC 6376 §3.4.4.
        let empty = [
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
            0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
        ];
        assert_eq!(body_hash(b"\r\n\r\n"), empty);
    }
}
