//! Replies (RFC 5321 §4.2), and what a server offers in the one to EHLO. Pure.

use crate::domain::answer::enhanced_status;
use crate::upstream::Answer;

/// One reply, all of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// 200 to 559.
    pub(super) code: u16,
    /// What stands behind the code, a text for each line.
    pub(super) lines: Vec<String>,
}

/// A line of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) code: u16,
    pub(super) is_last: bool,
    pub(super) text: String,
}

/// What the server offers in EHLO, as far as it is made use of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offered {
    /// RFC 3207.
    pub(super) starttls: bool,
    /// RFC 4954, the mechanism of RFC 4616.
    pub(super) auth_plain: bool,
    /// The mechanism without an RFC.
    pub(super) auth_login: bool,
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 6531.
    pub(super) smtputf8: bool,
    /// RFC 1870; a limit, if it names one, is told in the reply to MAIL.
    pub(super) size: bool,
    /// RFC 2920.
    pub(super) pipelining: bool,
    /// RFC 3461.
    pub(super) dsn: bool,
}

impl Line {
    /// `250-text`, `250 text` or `250`, with its CRLF. The text may be in any charset:
    /// a reply that counts must not be taken for none because of an umlaut.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let line = octets.strip_suffix(b"\n")?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, rest) = line.split_at_checked(3)?;
        let [severity @ b'2'..=b'5', category @ b'0'..=b'5', detail @ b'0'..=b'9'] = *code else {
            return None;
        };
        let [severity, category, detail] = [severity, category, detail].map(|digit| u16::from(digit - b'0'));
        let (is_last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return None,
        };
        let text = String::from_utf8_lossy(text).trim_end().to_owned();
        Some(Self { code: severity * 100 + category * 10 + detail, is_last, text })
    }
}

impl Reply {
    /// The whole reply in one line.
    pub(super) fn text(&self) -> String {
        Answer::new("", &format!("{} {}", self.code, self.lines.join(" "))).text
    }

    /// A refusal. Its status is the enhanced status code in front of the text, if that
    /// agrees with the reply code (RFC 2034 §4); otherwise the reply code's class with
    /// nothing known. Servers repeat it on every line; it is said once here.
    pub(super) fn answer(&self) -> Answer {
        let class = self.code / 100;
        let first = self.lines.first().and_then(|line| line.split_ascii_whitespace().next());
        let Some(status) = first.and_then(|word| status_of(word, class)) else {
            return Answer::new(&format!("{class}.0.0"), &self.text());
        };
        let texts = self.lines.iter().map(|line| line.strip_prefix(status).unwrap_or(line));
        let text = texts.collect::<Vec<_>>().join(" ");
        Answer::new(status, &format!("{} {status} {text}", self.code))
    }
}

/// The code that a word is. What only holds the digits of one, such as an address, is none.
fn status_of(word: &str, class: u16) -> Option<&str> {
    let code = word.strip_prefix('#').unwrap_or(word).trim_end_matches([':', ';', ',', '.']);
    enhanced_status(code, class).filter(|status| *status == code)
}

impl Offered {
    /// What stands in the reply to EHLO, behind its first line.
    pub(super) fn read(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace().map(str::to_ascii_uppercase);
            match words.next().as_deref() {
                Some("STARTTLS") => offered.starttls = true,
                Some("8BITMIME") => offered.eight_bit_mime = true,
                Some("SMTPUTF8") => offered.smtputf8 = true,
                Some("SIZE") => offered.size = true,
                Some("PIPELINING") => offered.pipelining = true,
                Some("DSN") => offered.dsn = true,
                Some("AUTH") => words.for_each(|mechanism| {
                    offered.auth_plain |= mechanism == "PLAIN";
                    offered.auth_login |= mechanism == "LOGIN";
                }),
                _ => {}
            }
        }
        offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_replies() {
        let line = |code, is_last, text: &str| Some(Line { code, is_last, text: text.to_owned() });
        let table: [(&[u8], Option<Line>); 15] = [
            (b"250 ok\r\n", line(250, true, "ok")),
            (b"250-ok\r\n", line(250, false, "ok")),
            (b"250\r\n", line(250, true, "")),
            (b"250 \r\n", line(250, true, "")),
            (b"250-    \r\n", line(250, false, "")),
            (b"354 go on\n", line(354, true, "go on")),
            (b"250 \xfc\r\n", line(250, true, "\u{fffd}")),
            (b"599 what\r\n", None),
            (b"150 what\r\n", None),
            (b"25 what\r\n", None),
            (b"2500 what\r\n", None),
            (b"HTTP/1.1 400 Bad Request\r\n", None),
            (b"\r\n", None),
            (b"250 no end", None),
            (b"", None),
        ];
        for (octets, want) in table {
            assert_eq!(Line::parse(octets), want, "{}", String::from_utf8_lossy(octets));
        }
    }

    #[test]
    fn a_refusal_has_a_status_and_a_text() {
        let table: [(u16, &[&str], &str, &str); 13] = [
            (550, &["5.1.1 no such user"], "5.1.1", "550 5.1.1 no such user"),
            (550, &["5.1.1 no", "5.1.1 such user"], "5.1.1", "550 5.1.1 no such user"),
            (452, &["4.2.2 mailbox", "full"], "4.2.2", "452 4.2.2 mailbox full"),
            (550, &["4.1.1 codes disagree"], "5.0.0", "550 4.1.1 codes disagree"),
            (550, &["5.1.1: no", "5.1.1: such user"], "5.1.1", "550 5.1.1 : no : such user"),
            (550, &["#5.1.0 Address rejected."], "5.1.0", "550 5.1.0 #5.1.0 Address rejected."),
            (550, &["5.2.2. It is full"], "5.2.2", "550 5.2.2 . It is full"),
            (550, &["<v5.1.1@y.example>: denied"], "5.0.0", "550 <v5.1.1@y.example>: denied"),
            (550, &["10.5.1.1: denied"], "5.0.0", "550 10.5.1.1: denied"),
            (550, &["##5.1.1 denied"], "5.0.0", "550 ##5.1.1 denied"),
            (451, &["later"], "4.0.0", "451 later"),
            (451, &["4.1 later"], "4.0.0", "451 4.1 later"),
            (451, &[], "4.0.0", "451"),
        ];
        for (code, lines, status, text) in table {
            let reply = Reply { code, lines: lines.iter().map(ToString::to_string).collect() };
            assert_eq!(reply.answer(), Answer::new(status, text));
        }
    }

    #[test]
    fn offers_are_read_whatever_stands_between_them() {
        let none = Offered::default();
        let table: [(&[&str], Offered); 7] = [
            (&["x", "dsn"], Offered { dsn: true, ..none }),
            (&["8BITMIME"], none),
            (&["x", "", "   ", "8bitmime"], Offered { eight_bit_mime: true, ..none }),
            (&["x", "SIZE 1000", "SMTPUTF8"], Offered { size: true, smtputf8: true, ..none }),
            (&["x", "AUTH CRAM-MD5 login"], Offered { auth_login: true, ..none }),
            (&["x", "AUTH PLAIN LOGIN"], Offered { auth_plain: true, auth_login: true, ..none }),
            (&["x", "STARTTLS", "PIPELINING"], Offered { starttls: true, pipelining: true, ..none }),
        ];
        for (lines, want) in table {
            let reply = Reply { code: 250, lines: lines.iter().map(ToString::to_string).collect() };
            assert_eq!(Offered::read(&reply), want, "{lines:?}");
        }
    }
}
