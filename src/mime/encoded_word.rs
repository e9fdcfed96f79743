//! Text that is not ASCII, written for a header (RFC 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets of text in one encoded word: 45 make 60 of Base64, 72 with its frame,
/// and RFC 2047 §2 allows 75.
const MAX_OCTETS: usize = 45;

/// The text as it is when it is printable ASCII, or else as encoded words with
/// a space between them.
pub fn encode(text: &str) -> String {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return text.to_owned();
    }
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
        for text in ["plain", "Gr\u{fc}\u{df}e", &"\u{1f36a} cookie ".repeat(20)] {
            let encoded = encode(text);
            assert!(encoded.is_ascii() && encoded.split(' ').all(|word| word.len() <= 75));
            let bytes = format!("Subject: {encoded}\r\n");
            assert_eq!(Header::parse(bytes.as_bytes()).unwrap().fields[0].decoded(), text.trim());
        }
    }
}
