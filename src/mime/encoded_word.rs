//! Text that is not ASCII, written for a header (RFC 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets of text in one encoded word: 45 make 60 of Base64, 72 with its frame,
/// and RFC 2047 §2 allows 75.
const MAX_OCTETS: usize = 45;

/// Longest word that is left as it is, in octets, so that every line of a header
/// can be kept under the 998 of RFC 5322 §2.1.1.
const MAX_PLAIN_WORD: usize = 900;

/// The text as it is when it is printable ASCII, or else as encoded words with
/// a space between them. Encoded words that are already there stay.
pub fn encode(text: &str) -> String {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) { text.to_owned() } else { words(text) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::header::Header;

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
