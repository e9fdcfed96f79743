//! Content transfer encodings (RFC 2045 §6), read as forgivingly as readers of mail
//! do; what had to be forgiven is told.

/// Octets without their encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unwrapped {
    pub(super) bytes: Vec<u8>,
    /// Something in it was no sound encoding: passed over, or kept as it is.
    pub(super) is_damaged: bool,
}

/// Base64. What is not of its alphabet is passed over (RFC 2045 §6.8), also after a
/// padding, with which some join what was encoded in pieces.
pub(super) fn base64(encoded: &[u8]) -> Unwrapped {
    let mut bytes = Vec::with_capacity(encoded.len() / 4 * 3 + 3);
    let (mut bits, mut sextets) = (0_u32, 0_u8);
    let (mut is_padded, mut is_damaged) = (false, false);
    for octet in encoded {
        let Some(value) = sextet(*octet) else {
            match octet {
                b'=' => {
                    is_damaged |= sextets == 1;
                    is_padded = true;
                    flush(&mut bytes, &mut bits, &mut sextets);
                }
                _ => is_damaged |= !octet.is_ascii_whitespace(),
            }
            continue;
        };
        is_damaged |= is_padded;
        is_padded = false;
        bits = bits << 6 | u32::from(value);
        sextets += 1;
        if sextets == 4 {
            flush(&mut bytes, &mut bits, &mut sextets);
        }
    }
    is_damaged |= sextets != 0;
    flush(&mut bytes, &mut bits, &mut sextets);
    Unwrapped { bytes, is_damaged }
}

/// Writes down the whole octets among up to four sextets.
fn flush(bytes: &mut Vec<u8>, bits: &mut u32, sextets: &mut u8) {
    let missing = u32::from(4_u8.saturating_sub(*sextets));
    let [_, octets @ ..] = (*bits << (6 * missing)).to_be_bytes();
    let whole = usize::from(sextets.saturating_sub(1));
    bytes.extend(octets.iter().take(whole));
    (*bits, *sextets) = (0, 0);
}

/// The six bits that a digit of Base64 stands for (RFC 4648 §4).
pub(super) fn sextet(octet: u8) -> Option<u8> {
    match octet {
        b'A'..=b'Z' => Some(octet - b'A'),
        b'a'..=b'z' => Some(octet - b'a' + 26),
        b'0'..=b'9' => Some(octet - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Quoted-printable. White space at the end of a line stays: no transport pads lines
/// today, and encoders that leave it there mean it.
pub(super) fn quoted_printable(encoded: &[u8]) -> Unwrapped {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut is_damaged = false;
    let mut rest = encoded;
    while let Some(at) = memchr::memchr(b'=', rest) {
        let (plain, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        bytes.extend_from_slice(plain);
        let after = after.get(1..).unwrap_or_default();
        rest = if let Some(octet) = escaped(after) {
            bytes.push(octet);
            after.get(2..).unwrap_or_default()
        } else if let Some(line) = after_soft_break(after) {
            line
        } else {
            bytes.push(b'=');
            is_damaged = true;
            after
        };
    }
    bytes.extend_from_slice(rest);
    Unwrapped { bytes, is_damaged }
}

/// The octet of the two hexadecimal digits at the beginning.
pub(super) fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|octet| char::from(*octet).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn after_soft_break(after: &[u8]) -> Option<&[u8]> {
    let blank = after.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let rest = after.get(blank..).unwrap_or_default();
    match rest {
        [] => Some(rest),
        [b'\n', line @ ..] | [b'\r', b'\n', line @ ..] => Some(line),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_whatever_stands_between() {
        let table: [(&[u8], &[u8], bool); 12] = [
            (b"", b"", false),
            (b"Z3LD\r\nvA==\r\n", b"gr\xc3\xbc", false),
            (b"YQ==", b"a", false),
            (b"YWI=", b"ab", false),
            (b"YWJj", b"abc", false),
            (b"YQ", b"a", true),
            (b"YWI", b"ab", true),
            (b"YWJjZ", b"abc", true),
            (b"Y!W*Jj", b"abc", true),
            (b"YQ==YWI=", b"aab", true),
            (b"Y=", b"", true),
            (b"<<>>", b"", true),
        ];
        for (encoded, bytes, is_damaged) in table {
            assert_eq!(base64(encoded), Unwrapped { bytes: bytes.to_vec(), is_damaged }, "{encoded:?}");
        }
    }

    #[test]
    fn quoted_printable_keeps_what_it_cannot_read() {
        let table: [(&[u8], &[u8], bool); 9] = [
            (b"gr=C3=bc=\r\n!", b"gr\xc3\xbc!", false),
            (b"a =20\r\nb", b"a  \r\nb", false),
            (b"a= \t\r\nb=\nc", b"abc", false),
            (b"a=", b"a", false),
            (b"-- \r\n", b"-- \r\n", false),
            (b"a=zz b", b"a=zz b", true),
            (b"a==41", b"a=A", true),
            (b"a=4", b"a=4", true),
            (b"\xff=\r", b"\xff=\r", true),
        ];
        for (encoded, bytes, is_damaged) in table {
            assert_eq!(
                quoted_printable(encoded),
                Unwrapped { bytes: bytes.to_vec(), is_damaged },
                "{encoded:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_encoded_is_read_back(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
            proptest::prop_assert_eq!(base64(encoded.as_bytes()), Unwrapped { bytes, is_damaged: false });
        }
    }
}
