//! What an upstream said about a recipient, in SMTP's terms whatever the road.

use super::address::Mailbox;

/// A refusal in SMTP's terms, whatever the road (RFC 3463).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Enhanced status code: `5.1.1`.
    pub status: String,
    /// What the upstream said, in one line, without secrets.
    pub text: String,
}

impl Answer {
    /// An answer with that status and text; the text is brought to one line of at most 500 characters.
    pub fn new(status: &str, text: &str) -> Self {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { status: status.to_owned(), text: text.chars().take(500).collect() }
    }
}

/// The first enhanced status code of that class in what a server said (RFC 3463 §2), whatever
/// stands around it: `550-5.1.1`, `#5.1.0`. `None`: there is none.
pub fn enhanced_status(words: &str, class: u16) -> Option<&str> {
    let is_number = |n: &str| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    let is_code = |word: &&str| {
        let mut numbers = word.split('.');
        numbers.next() == Some(class.to_string().as_str())
            && numbers.clone().count() == 2
            && numbers.all(is_number)
    };
    let words = words.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_end_matches('.'));
    words.into_iter().find(is_code)
}

/// A recipient to whom the mail was handed on, by a way on which nobody else reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOn {
    /// The recipient.
    pub recipient: Mailbox,
    /// The mail server that took it; unset: it was none.
    pub by: Option<Taker>,
}

/// A mail server that took a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taker {
    /// Its host, as we call it.
    pub host: String,
    /// Its reply, in one line.
    pub reply: String,
}

/// A recipient of a mail of which it was told that somebody did not get it, and not who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerhapsFailed {
    /// The recipient.
    pub recipient: Mailbox,
    /// Whether it was told of this one by name before.
    pub has_failed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enhanced_status_code_is_found_among_words() {
        let table = [
            ("5.1.1 no such user", Some("5.1.1")),
            ("smtp; 550-5.7.26 no", Some("5.7.26")),
            ("#5.1.0 Address rejected.", Some("5.1.0")),
            ("550 5.2.2. It is full", Some("5.2.2")),
            ("4.2.2 and then 5.2.2", Some("5.2.2")),
            ("5.1 5.1.1.1 5..1 5.1.1000 15.1.1 5.1.x", None),
            ("10.0.5.1.2", None),
            ("", None),
        ];
        for (words, want) in table {
            assert_eq!(enhanced_status(words, 5), want, "{words}");
        }
        assert_eq!(enhanced_status("4.2.2 full", 4), Some("4.2.2"));
    }
}
