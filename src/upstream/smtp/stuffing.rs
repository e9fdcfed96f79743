//! The message as it stands between DATA and its reply (RFC 5321 §4.5.2). Pure.

/// Where the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    AfterCr,
    Within,
}

/// Doubles the dot that begins a line, and ends the message.
#[derive(Debug)]
pub(super) struct Stuffing(At);

impl Stuffing {
    /// At the beginning of a message.
    pub(super) fn new() -> Self {
        Self(At::LineStart)
    }

    /// Appends the next octets of the message to `out`.
    pub(super) fn write(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            if self.0 == At::LineStart && line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
            self.0 = match line {
                [.., b'\r', b'\n'] => At::LineStart,
                b"\n" if self.0 == At::AfterCr => At::LineStart,
                [.., b'\r'] => At::AfterCr,
                _ => At::Within,
            };
        }
    }

    /// Appends the final dot, on a line of its own.
    pub(super) fn end(self, out: &mut Vec<u8>) {
        if self.0 != At::LineStart {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a server keeps of what comes after DATA, line by line, and what is left behind the dot.
    fn heard(octets: &[u8]) -> (Vec<u8>, &[u8]) {
        let (mut message, mut rest) = (Vec::new(), octets);
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            let (line, behind) = rest.split_at(end + 2);
            rest = behind;
            if line == b".\r\n" {
                break;
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        (message, rest)
    }

    proptest! {
        #[test]
        fn p7_no_message_ends_early_and_none_is_changed(pieces in proptest::collection::vec("[.\r\na]{0,4}", 0..12)) {
            let (mut stuffing, mut out) = (Stuffing::new(), Vec::new());
            pieces.iter().for_each(|piece| stuffing.write(piece.as_bytes(), &mut out));
            stuffing.end(&mut out);
            let mut want = pieces.concat();
            if !want.is_empty() && !want.ends_with("\r\n") {
                want.push_str("\r\n");
            }
            prop_assert_eq!(heard(&out), (want.into_bytes(), &b""[..]));
        }
    }

    #[test]
    fn dots_at_the_beginning_of_lines_are_doubled_however_the_octets_come() {
        let table: [(&[u8], &[u8]); 9] = [
            (b"", b".\r\n"),
            (b"\r\n", b"\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
            (b"a.b", b"a.b\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"a\n.b\r\n", b"a\n.b\r\n.\r\n"),
            (b"a\r.b\r\r\n.c", b"a\r.b\r\r\n..c\r\n.\r\n"),
        ];
        for (message, want) in table {
            for cut in 0..=message.len() {
                let (mut stuffing, mut out) = (Stuffing::new(), Vec::new());
                stuffing.write(&message[..cut], &mut out);
                stuffing.write(&message[cut..], &mut out);
                stuffing.end(&mut out);
                assert_eq!(out, want, "{:?} cut at {cut}", String::from_utf8_lossy(message));
            }
        }
    }
}
