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
