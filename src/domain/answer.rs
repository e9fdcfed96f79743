//! What an upstream said about a recipient, in SMTP's terms whatever the road.

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
