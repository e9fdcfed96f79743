//! The addresses in a header that ask for SMTPUTF8 (RFC 6531, RFC 6532).

use super::address_list::readable_addresses;
use super::header::{Header, header_length};
use crate::domain::address::Mailbox;

/// The fields that hold addresses (RFC 5322 §3.6.2, §3.6.3, §3.6.6), of those that leave.
const OF_ADDRESSES: [&str; 9] =
    ["From", "Sender", "Reply-To", "To", "Cc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc"];

/// Whether the header of a message is internationalized: it holds UTF-8 beyond ASCII. Octets
/// in another character set are no address in any.
fn is_header_in_utf8(message: &[u8]) -> bool {
    let header = message.get(..header_length(message).unwrap_or(message.len())).unwrap_or_default();
    !header.is_ascii() && std::str::from_utf8(header).is_ok()
}

/// The first address in the header of a message that ASCII has no way to write: encoded
/// words have no place in it, and only its domain could be written as punycode.
/// `message` may be its beginning only, as long as the whole header is in it.
pub fn address_beyond_ascii(message: &[u8]) -> Option<Mailbox> {
    if !is_header_in_utf8(message) {
        return None;
    }
    let header = Header::parse(message).ok()?;
    let fields = header.fields.iter().filter(|field| !field.value().is_ascii());
    let of_addresses = fields.filter(|field| OF_ADDRESSES.iter().any(|name| field.is(name)));
    let named = of_addresses.flat_map(|field| readable_addresses(field.value()).list);
    named.map(|named| named.mailbox).find(|mailbox| !mailbox.fits_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_smtputf8_and_what_has_no_other_way() {
        let address = Some("gr\u{fc}n@x.example");
        let table: [(&[u8], bool, Option<&str>); 13] = [
            (b"Subject: s\r\n\r\ngr\xc3\xbcn", false, None),
            (b"Subject: =?utf-8?q?gr=C3=BCn?=\r\n\r\n", false, None),
            ("Subject: gr\u{fc}n\r\n\r\n".as_bytes(), true, None),
            ("Subject: gr\u{fc}n".as_bytes(), true, None),
            (b"Subject: gr\xfcn\r\n\r\n", false, None),
            (b"Reply-To: gr\xfcn@x.example\r\n\r\n", false, None),
            ("From: Gr\u{fc}n <a@x.example>\r\n\r\n".as_bytes(), true, None),
            ("To: a@gr\u{fc}n.example\r\n\r\n".as_bytes(), true, None),
            ("Reply-To: gr\u{fc}n@x.example\r\n\r\n".as_bytes(), true, address),
            ("To: a@x.example,\r\n B <gr\u{fc}n@x.example>\r\n\r\n".as_bytes(), true, address),
            ("resent-cc: us: gr\u{fc}n@x.example;\r\n\r\n".as_bytes(), true, address),
            ("X-Was: gr\u{fc}n@x.example\r\n\r\n".as_bytes(), true, None),
            ("\r\nTo: gr\u{fc}n@x.example\r\n\r\n".as_bytes(), false, None),
        ];
        for (message, in_utf8, beyond) in table {
            let shown = String::from_utf8_lossy(message);
            assert_eq!(is_header_in_utf8(message), in_utf8, "{shown}");
            assert_eq!(address_beyond_ascii(message).map(|a| a.to_string()).as_deref(), beyond, "{shown}");
        }
    }
}
